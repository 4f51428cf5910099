"""Moves messages between a WebSocket and its session, until the orderly end.

The writer takes a message from the session only when the socket has room: data for a slow reader stays in the
session's streams, where the owner may drop it. A peer that does not read answers is not read either.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from relay.logger import get_logger
from relay.runtime import Runtime
from relay.transport.websocket.session import FramedSession, Opcode

logger = get_logger("relay.transport")

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10  # RFC 6455; a library's other types mean a closed socket
MESSAGE_TOO_BIG = 1009
NORMAL_CLOSURE = 1000
NO_STATUS = 0

WRITE_BUFFER = 65_536  # bytes before the writer pauses
UNSENT_IN_KERNEL = 131_072  # bytes that urgent data cannot overtake
LAST_WORDS = 0.25  # seconds that the socket outlives the session: else some clients report a broken transport
CLOSE_TIMEOUT = 1.0  # seconds for the peer to read and answer the close
BURST = 64  # messages before other tasks run, where the socket takes everything at once
STALL = 0.2  # seconds: a later timer means a pause of the whole process
READ_TIME = 0.01  # seconds before other tasks run: a library with buffered messages does not wait


class Socket(Protocol):
    """An open WebSocket without automatic pongs or compression."""

    async def receive(self) -> Any:
        """`type`, `data`, `extra`."""

    async def send_bytes(self, data: bytes, /) -> None: ...

    async def ping(self, message: bytes = b"", /) -> None: ...

    async def pong(self, message: bytes = b"", /) -> None: ...

    async def close(self, *, code: int = NORMAL_CLOSURE, message: bytes = b"") -> bool: ...

    def get_extra_info(self, name: str, default: Any = None) -> Any: ...


def lose(session: FramedSession, reason: str) -> None:
    """End a session whose socket is gone. Breaks its reference cycles."""
    session.end(None, reason, by_peer=False)
    session.streams.unlink()
    session.framing.unlink()


class Pump:
    """One session over one socket."""

    def __init__(
        self, ws: Socket, session: FramedSession, abort: Callable[[], None], runtime: Runtime
    ) -> None:
        """`abort` drops the connection at once, with everything buffered."""
        self._ws = ws
        self._session = session
        self._abort = abort
        self._runtime = runtime
        self._wake = asyncio.Event()
        self._drained = asyncio.Event()
        self._ended = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._due = runtime.now()
        self._reader: asyncio.Task[None] | None = None
        session.streams.wake = self._on_wake

    async def run(self) -> None:
        """Run until the session has ended and its close was sent, or the peer is gone."""
        _limit_kernel_buffer(self._ws.get_extra_info("socket"))
        writer = asyncio.create_task(self._guard(self._write()))
        reader = self._reader = asyncio.create_task(self._guard(self._read()))
        self._on_timer()
        self._on_wake()
        try:
            await self._ended.wait()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_TIMEOUT):
                    await asyncio.shield(writer)
        finally:
            lose(self._session, "the server was stopped")
            if self._timer is not None:
                self._timer.cancel()
            for task in (writer, reader):
                task.cancel()
            self._abort()
            self._reader = None
            await asyncio.gather(writer, reader, return_exceptions=True)

    def _on_wake(self) -> None:
        self._wake.set()
        if self._session.readable:
            self._drained.set()
        if self._session.ended:
            self._ended.set()
            self._drained.set()

    def _on_timer(self) -> None:
        late = self._runtime.now() - self._due
        if late > STALL:
            self._session.resume(late)
        wait = self._session.tick()
        self._due = self._runtime.now() + wait
        self._timer = self._runtime.call_later(wait, self._on_timer)

    async def _guard(self, work: Coroutine[Any, Any, None]) -> None:
        """An exception ends this session only."""
        try:
            await work
        except Exception:
            logger.exception("the session failed", remote=self._session.remote)
            self._session.end(None, "internal error", by_peer=False)

    async def _write(self) -> None:
        session, ws = self._session, self._ws
        sent = 0
        last_words = False
        try:
            while not session.finished:
                outgoing = session.next_message()
                if outgoing is None:
                    self._wake.clear()
                    await self._wake.wait()
                    continue
                match outgoing.opcode:
                    case Opcode.BINARY:
                        last_words = session.ended
                        await ws.send_bytes(outgoing.data)
                    case Opcode.PING:
                        await ws.ping(outgoing.data)
                    case Opcode.PONG:
                        await ws.pong(outgoing.data)
                    case Opcode.CLOSE:
                        await self._close(last_words=last_words)
                if not self._drained.is_set() and session.readable:
                    self._drained.set()
                sent += 1
                if sent % BURST == 0:
                    await asyncio.sleep(0)
        except (OSError, RuntimeError):  # either side closed the socket
            session.end(None, "connection lost", by_peer=False)

    async def _close(self, *, last_words: bool) -> None:
        if last_words and self._reader is not None:
            await asyncio.wait({self._reader}, timeout=LAST_WORDS)
        await self._ws.close(code=NORMAL_CLOSURE)

    async def _read(self) -> None:
        session = self._session
        turn_ends = self._runtime.now() + READ_TIME
        while True:
            if self._runtime.now() > turn_ends:
                await asyncio.sleep(0)
                turn_ends = self._runtime.now() + READ_TIME
            while not (session.readable or session.ended):
                self._drained.clear()
                await self._drained.wait()
            message = await self._ws.receive()
            kind = int(message.type)
            if kind == BINARY:
                session.receive(message.data)
            elif kind == PING:
                session.received_ping(message.data)
            elif kind == PONG:
                session.received_pong()
            elif kind == TEXT:
                session.violation("a text message")
            else:
                self._on_end(kind, message)
                return

    def _on_end(self, kind: int, message: Any) -> None:
        session = self._session
        if kind != CLOSE:
            code = getattr(message.data, "code", None)
            if code == MESSAGE_TOO_BIG:
                session.end(None, "a message is too large", by_peer=False)
            else:
                session.end(None, str(message.data or "connection lost"), by_peer=False)
        elif message.data in (NORMAL_CLOSURE, NO_STATUS):
            session.end(0, message.extra or "", by_peer=True)
        else:
            session.end(None, message.extra or f"WebSocket closed with {message.data}", by_peer=True)


def _limit_kernel_buffer(sock: Any) -> None:
    option = getattr(socket, "TCP_NOTSENT_LOWAT", None)
    if option is not None and sock is not None:
        with contextlib.suppress(OSError):  # an optimisation, where available
            sock.setsockopt(socket.IPPROTO_TCP, option, UNSENT_IN_KERNEL)
