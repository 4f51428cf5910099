"""The protocol: one state machine per session, without I/O, for both ends of a connection."""
