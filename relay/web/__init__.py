"""HTTP beside QUIC: for curl, and for browsers about to open a session."""
