"""Kinds of sessions: raw QUIC, WebTransport, WebSocket, in-memory. `session.py` defines the interface."""
