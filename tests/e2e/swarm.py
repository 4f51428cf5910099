"""Very many QUIC clients of one process on one socket: attackers or unfinished handshakes.

They use aioquic alone, and only what a handshake needs.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from typing import cast

from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import ConnectionTerminated, HandshakeCompleted
from aioquic.tls import Epoch

Address = tuple[str, int]

PLAIN = "moq-lite-04"
"""A version without SETUP: a connection is a session, and may stay."""


def newcomer(alpn: str = PLAIN) -> QuicConnection:
    return QuicConnection(
        configuration=QuicConfiguration(
            alpn_protocols=[alpn], server_name="localhost", verify_mode=ssl.CERT_NONE, idle_timeout=60.0
        )
    )


def first_packet(target: Address) -> bytes:
    quic = newcomer()
    quic.connect(target, 0.0)
    return quic.datagrams_to_send(0.0)[0][0]


def one_rtt_packets(quic: QuicConnection, payload: bytes, count: int) -> list[bytes]:
    """Packets of an established client with a payload that aioquic would not send."""
    keys = quic._cryptos[Epoch.ONE_RTT]
    first = quic._packet_number + 1000
    packets = []
    for number in range(first, first + count):
        header = (
            bytes((0x41 | keys.key_phase << 2,)) + quic._peer_cid.cid + (number & 0xFFFF).to_bytes(2, "big")
        )
        packets.append(keys.encrypt_packet(header, payload, number))
    return packets


class Swarm(asyncio.DatagramProtocol):
    def __init__(self, target: Address) -> None:
        self.target = target
        self.established: dict[bytes, QuicConnection] = {}
        """By connection id."""
        self.ended: dict[bytes, int] = {}
        """Codes of closes, by connection id."""
        self.answers: list[bytes] = []
        """Datagrams for unknown hosts."""
        self._routes: dict[bytes, QuicConnection] = {}
        self._timers: dict[QuicConnection, asyncio.TimerHandle] = {}
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._transport: asyncio.DatagramTransport | None = None

    @property
    def transport(self) -> asyncio.DatagramTransport:
        assert self._transport is not None
        return self._transport

    def join(self, alpn: str = PLAIN) -> bytes:
        """Returns the new client's connection id."""
        quic = newcomer(alpn)
        self._routes[quic.host_cid] = quic
        quic.connect(self.target, self._loop.time())
        self._serve(quic)
        return quic.host_cid

    def leave(self) -> None:
        for quic in tuple(self.established.values()):
            quic.close()
            self._serve(quic)
        self.established.clear()

    async def until(self, condition: Callable[[], bool], within: float = 60.0) -> None:
        async with asyncio.timeout(within):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    def close(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        self.transport.close()

    # -- asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: Address) -> None:
        cid = data[6 : 6 + data[5]] if data[0] & 0x80 else data[1:9]
        quic = self._routes.get(cid)
        if quic is None:
            self.answers.append(data)
            self._changed.set()
        else:
            quic.receive_datagram(data, self.target, self._loop.time())
            self._serve(quic)

    def _serve(self, quic: QuicConnection) -> None:
        while (event := quic.next_event()) is not None:
            if isinstance(event, HandshakeCompleted):
                self.established[quic.host_cid] = quic
            elif isinstance(event, ConnectionTerminated):
                self.established.pop(quic.host_cid, None)
                self.ended[quic.host_cid] = event.error_code
                self._routes.pop(quic.host_cid, None)
            self._changed.set()
        for data, _ in quic.datagrams_to_send(self._loop.time()):
            self.transport.sendto(data, self.target)
        if (timer := self._timers.pop(quic, None)) is not None:
            timer.cancel()
        if (at := quic.get_timer()) is not None:
            self._timers[quic] = self._loop.call_at(at, self._due, quic)

    def _due(self, quic: QuicConnection) -> None:
        quic.handle_timer(self._loop.time())
        self._serve(quic)


@contextlib.asynccontextmanager
async def swarm(port: int, *, host: str = "127.0.0.1", source: str = "127.0.0.2") -> AsyncIterator[Swarm]:
    """All come from `source`."""
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(
        lambda: Swarm((host, port)), local_addr=(source, 0)
    )
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    try:
        yield protocol
    finally:
        protocol.close()
