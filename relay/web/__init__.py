"""HTTP beside QUIC: what a person with curl, or a browser about to open a session, needs to know."""
