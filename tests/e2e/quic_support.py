"""Questions to a relay's QUIC endpoint."""

from __future__ import annotations

from relay.transport.quic_server import QuicServer


def open_connections(server: QuicServer | None) -> int:
    """Before and after their handshake."""
    assert server is not None
    return sum(not connection.over for connection in server.connections)
