"""TCP listeners, temporarily."""
from __future__ import annotations
import socket

def bind_tcp(host: str, port: int) -> list[socket.socket]:
    if host in ("", "::"):
        return [socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)]
    if host == "localhost":
        first = socket.create_server(("127.0.0.1", port))
        return [first, socket.create_server(("::1", first.getsockname()[1]), family=socket.AF_INET6)]
    return [socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)]
