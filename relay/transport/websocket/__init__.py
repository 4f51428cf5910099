"""Sessions over a WebSocket, in two framings."""
