"""What carries sessions: raw QUIC, WebTransport, in-memory. `session.py` says what a session is."""
