"""Sessions over a WebSocket: two framings, the pump between session and socket, and subprotocol negotiation."""
