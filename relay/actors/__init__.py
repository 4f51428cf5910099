"""The actors of a relay: they exchange immutable messages on the event loop."""
