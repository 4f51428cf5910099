"""Message-based sessions: life, keep-alive and delivery, for every framing over a WebSocket.

A pump passes messages in, and takes them one by one when the socket has room. Until then data waits in its stream,
where the owner sees it (`unsent`) and may drop it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

from relay.model.limits import Limits
from relay.transport.session import Event, Pong, SessionClosed, SessionStats, Sink
from relay.transport.websocket.choice import Choice
from relay.transport.websocket.streams import FramedStreams
from relay.wire.errors import ProtocolViolation, WireError
from relay.wire.qmux import Close

KEEP_ALIVE = 5.0  # seconds between our pings, as deployed peers do
DEAD_AFTER = 30.0  # seconds without any message or pong
PROBE_TIMEOUT = 6.0  # seconds to answer a ping: some peers delay the pong to their next message or ping
MAX_REASON = 1_024  # characters of a close reason kept and sent
CONTROL_BACKLOG = 1_000  # queued control frames; beyond it reading pauses: the peer must read answers first
VIOLATION = 1002  # close code for transport faults, as deployed peers use it
RTT_SHARE = 8  # weight of a new measurement in the smoothed round trip, as in RFC 9002


class Opcode(Enum):
    """Opcode of a WebSocket frame to send."""

    BINARY = "binary"
    PING = "ping"
    PONG = "pong"
    CLOSE = "close"


class Outgoing(NamedTuple):
    """The next message to send."""

    opcode: Opcode
    data: bytes


class Opening(NamedTuple):
    """The HTTP request of a session."""

    remote: str
    is_client: bool
    path: str | None
    query: str


class FramedSession(FramedStreams):
    """A session over messages; see `relay.transport.session.Session`. Subclasses define the frames."""

    transport = "websocket"

    def __init__(self, choice: Choice, limits: Limits, opening: Opening, clock: Callable[[], float]) -> None:
        super().__init__(is_client=opening.is_client, max_streams=limits.websocket_streams)
        self.max_message = limits.websocket_message  # bytes accepted
        self.remote, _, self.path, self.query = opening
        self.alpn, self.version = choice.subprotocol, choice.version
        self.finished = False  # everything is sent, the close included
        self.released = asyncio.Event()  # set by the socket's owner when the socket is closed
        self._clock = clock
        self._sink: Sink | None = None
        self._started = False
        self._events: list[Event] = []
        self._scheduled = False
        self._signals: deque[Outgoing] = deque()
        self._close_message: bytes | None = None
        self._asked = False
        self._pinged_at: float | None = None
        self._rtt: float | None = None
        self._alive_at = self._ping_at = clock()
        self._bytes_sent = 0
        self._bytes_received = 0

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.remote}>"

    # -- Session

    @property
    def datagram_limit(self) -> int:
        return 0

    def start(self, sink: Sink) -> None:
        if self._started:
            raise RuntimeError("a session is started once")
        self._started = True
        self._sink = sink
        self._schedule()
        self.wake()

    def send_datagram(self, data: bytes) -> None:
        """Framings with datagrams override this."""

    def ping(self) -> None:
        if not self.ended:
            self._asked = True
            self._send_ping()
            self.wake()

    def trust(self) -> None: ...

    def probe_timeout(self) -> float:
        return PROBE_TIMEOUT + 3 * (self._rtt or 0.0)

    def close(self, code: int = 0, reason: str = "") -> None:
        close_frame = self._close_frame(code, reason[:MAX_REASON], application=True)
        self.end(code, reason, by_peer=False, close_frame=close_frame)

    def stats(self) -> SessionStats:
        return SessionStats(
            rtt=self._rtt,
            bytes_received=self._bytes_received,
            bytes_sent=self._bytes_sent,
            streams=len(self._streams),
        )

    async def wait_closed(self) -> None:
        """Wait until the session has ended and its socket is released."""
        await self.released.wait()

    # -- for the pump

    @property
    def readable(self) -> bool:
        """True if the session is started, and queued answers are few."""
        return self._started and len(self._controls) + len(self._signals) < CONTROL_BACKLOG

    def receive(self, message: bytes) -> None:
        if self.ended:
            return
        self._note_alive()
        self._bytes_received += len(message)
        try:
            if len(message) > self.max_message:
                raise ProtocolViolation(
                    f"message of {len(message)} bytes, at most {self.max_message} are allowed"
                )
            self._handle(message)
        except WireError as error:
            self.violation(str(error))

    def received_ping(self, data: bytes) -> None:
        """Deployed peers treat unsolicited pongs as errors."""
        self._note_alive()
        if not self.ended:
            self._signals.append(Outgoing(Opcode.PONG, data))
            self.wake()

    def received_pong(self) -> None:
        self._note_alive()
        self._measure()

    def violation(self, reason: str) -> None:
        """End the session for a violation of the framing, and send the reason."""
        close_frame = self._close_frame(VIOLATION, reason, application=False)
        self.end(None, reason, by_peer=False, close_frame=close_frame)

    def end(self, code: int | None, reason: str, *, by_peer: bool, close_frame: bytes | None = None) -> None:
        """Queue `SessionClosed`, then `close_frame`. Later calls on the session or a stream do nothing."""
        if self.ended:
            return
        self._emit(SessionClosed(code, reason, by_peer))
        self.ended = True
        self._close_message = close_frame
        self._queue.clear()
        self._streams.clear()
        self._controls.clear()
        self._signals.clear()
        self.wake()

    def resume(self, seconds: float) -> None:
        """The process stood still for so long: what the peer sent meanwhile is not read yet."""
        self._alive_at += seconds

    def tick(self) -> float:
        """Handle timers; return the seconds until the next call."""
        now = self._clock()
        if self.ended:
            return KEEP_ALIVE
        if now - self._alive_at >= DEAD_AFTER:
            self.end(None, "idle timeout", by_peer=False)
            return KEEP_ALIVE
        if now - self._ping_at >= self._ping_interval():
            self._ping_at = now
            self._send_ping()
            self.wake()
        return min(self._ping_at + self._ping_interval(), self._alive_at + DEAD_AFTER) - now

    def next_message(self) -> Outgoing | None:
        """The next message, the most urgent first; `None` if there is none."""
        if self.ended:
            if self._close_message is not None:
                close_frame, self._close_message = self._close_message, None
                return Outgoing(Opcode.BINARY, close_frame)
            if not self.finished:
                self.finished = True
                return Outgoing(Opcode.CLOSE, b"")
            return None
        if self._signals:
            return self._signals.popleft()
        message = self._compose()
        if message is None:
            return None
        self._bytes_sent += len(message)
        return Outgoing(Opcode.BINARY, message)

    # -- for subclasses

    def _handle(self, message: bytes) -> None:
        """Parse a message. Raises WireError."""
        raise NotImplementedError

    def _close_frame(self, code: int, reason: str, *, application: bool) -> bytes:
        raise NotImplementedError

    def _send_ping(self) -> None:
        """Ping in every way that the framing has."""
        if not any(signal.opcode is Opcode.PING for signal in self._signals):  # one queued ping is enough
            self._signals.append(Outgoing(Opcode.PING, b""))
            if self._pinged_at is None:
                self._pinged_at = self._clock()

    def _ping_interval(self) -> float:
        return KEEP_ALIVE

    def _note_alive(self) -> None:
        """Any message proves that the peer is alive."""
        self._alive_at = self._clock()
        if self._asked:
            self._asked = False
            self._emit(Pong())

    def _measure(self) -> None:
        """Measure the round trip by the oldest unanswered ping."""
        if self._pinged_at is not None:
            sample = self._clock() - self._pinged_at
            self._pinged_at = None
            self._rtt = sample if self._rtt is None else self._rtt + (sample - self._rtt) / RTT_SHARE

    def _on_close(self, frame: Close) -> None:
        code = frame.code if frame.application else None
        reason = frame.reason[:MAX_REASON] or ("" if frame.application else f"transport error {frame.code}")
        self.end(code, reason, by_peer=True)

    def _emit(self, event: Event) -> None:
        if not self.ended:
            self._events.append(event)
            self._schedule()

    # -- delivery

    def _schedule(self) -> None:
        if self._sink is not None and self._events and not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._deliver)

    def _deliver(self) -> None:
        self._scheduled = False
        sink, batch = self._sink, tuple(self._events)
        self._events.clear()
        if self.ended:
            self._sink = None
        if sink is not None and batch:
            sink(batch)
