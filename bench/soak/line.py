"""Bad networks for single guests: cut silently, or slow. Proxies that never read the content.

A guest opens one for each session that is to end uncleanly, or to be slow.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final, Protocol, Self

from tests.e2e.udp_proxy import UdpProxy

LOSS: Final = 0.3
"""Loss on a slow network: above it handshakes fail too often."""

DELAY: Final = 0.05
PIECE: Final = 1024
PIECES_A_SECOND: Final = 4
"""Chunks per second on a slow TCP connection: far less than two tracks of small groups."""


class Line(Protocol):
    """The network path of one session."""

    port: int
    host: str
    """Source address for the guest."""

    def cut(self) -> None:
        """Drop everything from now on, silently."""

    def close(self) -> None:
        pass


class UdpLine:
    """A share of a proxy: the datagrams of one host."""

    def __init__(self, proxy: UdpProxy, host: str, *, slow: bool) -> None:
        self.port = proxy.port
        self.host = host
        self._weather = proxy.weather(host)
        self._weather.cut = False
        self._weather.both(loss=LOSS if slow else 0.0, delay=DELAY if slow else 0.0)

    def cut(self) -> None:
        self._weather.cut = True

    def close(self) -> None:
        """The proxy closes silent flows itself."""


class TcpLine:
    """A listener for one guest."""

    def __init__(self, target: int, host: str, *, slow: bool) -> None:
        self.port = 0
        self.host = host
        self._target = target
        self._slow = slow
        self._writers: set[asyncio.StreamWriter] = set()
        self._copies: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def open(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=PIECE)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    def close(self) -> None:
        self.cut()
        if self._server is not None:
            self._server.close()
        for copy in self._copies:
            copy.cancel()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            other, onward = await asyncio.open_connection("127.0.0.1", self._target, limit=PIECE)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, onward}
        for source, sink, slow in ((reader, onward, False), (other, writer, self._slow)):
            copy = asyncio.create_task(self._copy(source, sink, slow=slow))
            self._copies.add(copy)
            copy.add_done_callback(self._copies.discard)

    async def _copy(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, slow: bool) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(PIECE if slow else 65_536):
                sink.write(data)
                await sink.drain()
                if slow:
                    await asyncio.sleep(1 / PIECES_A_SECOND)
        self.cut()
