"""Binds listening sockets, UDP and TCP."""

from __future__ import annotations

import errno
import socket
from typing import Any

from relay.logger import get_logger

logger = get_logger(__name__)

PORT_ATTEMPTS = 16  # to find a port that is free for 127.0.0.1 and ::1, and for UDP and TCP
NO_FAMILY = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)  # where a whole address family is missing


def bind_udp(host: str, port: int) -> list[socket.socket]:
    """Raises OSError with a human-readable message.

    `::` and an empty host include IPv4; `localhost` is 127.0.0.1 and ::1. Port 0 picks one free for TCP too.
    """
    attempts = PORT_ATTEMPTS
    while True:
        attempts -= 1
        found = _bind(host, port, socket.SOCK_DGRAM)
        try:
            twins = [] if port else _bind(host, found[0].getsockname()[1], socket.SOCK_STREAM)
        except OSError as error:
            for sock in found:
                sock.close()
            if error.errno != errno.EADDRINUSE or not attempts:
                raise
        else:
            for sock in twins:
                sock.close()
            return found


def bind_tcp(host: str, port: int) -> list[socket.socket]:
    """Bind TCP sockets by the rules of `bind_udp`."""
    return _bind(host, port, socket.SOCK_STREAM)


def _bind(host: str, port: int, kind: socket.SocketKind) -> list[socket.socket]:
    try:
        if host == "localhost":
            return _bind_localhost(port, kind)
        if host in ("", "::"):
            return [_bind_any(port, kind)]
        family, _, _, _, address = socket.getaddrinfo(host, port, type=kind, flags=socket.AI_PASSIVE)[0]
        return [_bind_one(family, kind, address)]
    except OSError as error:
        name = "UDP" if kind == socket.SOCK_DGRAM else "TCP"
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        reason = error.strerror or str(error)
        raise OSError(error.errno, f"cannot listen on {name} {where}: {reason}") from error


def _bind_any(port: int, kind: socket.SocketKind) -> socket.socket:
    if socket.has_ipv6:
        try:
            return _bind_one(socket.AF_INET6, kind, ("::", port), dual=True)
        except OSError as error:
            if error.errno not in NO_FAMILY:
                raise
    logger.warning("no IPv6 on this machine: listening on IPv4 only")
    return _bind_one(socket.AF_INET, kind, ("", port))


def _bind_localhost(port: int, kind: socket.SocketKind) -> list[socket.socket]:
    for _ in range(PORT_ATTEMPTS):
        first = _bind_one(socket.AF_INET, kind, ("127.0.0.1", port))
        try:
            return [first, _bind_one(socket.AF_INET6, kind, ("::1", first.getsockname()[1]))]
        except OSError as error:
            if error.errno in NO_FAMILY:
                return [first]
            first.close()
            # a port that the kernel picked for one family may be taken in the other
            if port or error.errno != errno.EADDRINUSE:
                raise
    raise OSError(errno.EADDRINUSE, "found no port that is free for both 127.0.0.1 and ::1")


def _bind_one(family: int, kind: socket.SocketKind, address: Any, *, dual: bool = False) -> socket.socket:
    sock = socket.socket(family, kind)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if dual else 1)
        if kind == socket.SOCK_STREAM:
            # a restart must not wait for old connections in TIME_WAIT
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        if kind == socket.SOCK_STREAM:
            sock.listen()
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock
