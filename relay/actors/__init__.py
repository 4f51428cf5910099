"""The actors: each connection, broadcast, track and the directory, exchanging immutable messages on the event loop."""
