"""Ports chosen by the system."""

from __future__ import annotations

import socket

import pytest

from relay.transport import sockets
from relay.transport.sockets import bind_tcp, bind_udp


def test_port_0_is_a_port_that_is_free_for_tcp_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """HTTP listens on the number of QUIC."""
    bind = sockets._bind
    taken: list[socket.socket] = []

    def another_program_is_first(host: str, port: int, kind: socket.SocketKind) -> list[socket.socket]:
        if kind == socket.SOCK_STREAM and not taken:
            taken.extend(bind(host, port, kind))
        return bind(host, port, kind)

    monkeypatch.setattr(sockets, "_bind", another_program_is_first)
    [udp] = bind_udp("127.0.0.1", 0)
    [other] = taken
    port, first = udp.getsockname()[1], other.getsockname()[1]
    assert port != first
    [tcp] = bind_tcp("127.0.0.1", port)
    [again] = bind_udp("127.0.0.1", first)  # nothing holds the first one
    for sock in (udp, other, tcp, again):
        sock.close()


def test_without_a_free_port_the_last_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    bind = sockets._bind

    def nothing_is_free(host: str, port: int, kind: socket.SocketKind) -> list[socket.socket]:
        if kind == socket.SOCK_STREAM:
            taken = bind(host, port, kind)
            try:
                return bind(host, port, kind)
            finally:
                for sock in taken:
                    sock.close()
        return bind(host, port, kind)

    monkeypatch.setattr(sockets, "_bind", nothing_is_free)
    with pytest.raises(OSError, match=r"cannot listen on TCP localhost:\d+: Address already in use"):
        bind_udp("localhost", 0)
