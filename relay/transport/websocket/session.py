"""Message-based sessions: life, keep-alive and delivery, for every framing over a WebSocket.

A pump passes messages in, and takes them one by one when the socket has room. Until then data waits in its
stream, where the owner sees it (`unsent`) and may drop it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

from relay.model.limits import Limits
from relay.transport.session import CONTROL_PRIORITY, Event, Pong, SessionClosed, SessionStats, Sink
from relay.transport.websocket.choice import Choice
from relay.transport.websocket.stream import FramedStream
from relay.transport.websocket.streams import FlowControl, FramedStreams, StreamFraming
from relay.wire.errors import ProtocolViolation, WireError
from relay.wire.qmux import Close

KEEP_ALIVE = 5.0  # seconds between our pings, as deployed peers do
DEAD_AFTER = 30.0  # seconds without any message or pong
PROBE_TIMEOUT = 6.0  # seconds to answer a ping: some peers delay the pong to their next message or ping
MAX_REASON = 1_024  # characters of a close reason
CONTROL_BACKLOG = 1_000  # control frames; beyond it reading pauses: the peer must read answers first
VIOLATION = 1002  # for transport faults, as deployed peers use it
RTT_SHARE = 8  # weight of a new measurement, as in RFC 9002


class Opcode(Enum):
    """The opcode of a WebSocket frame."""

    BINARY = "binary"
    PING = "ping"
    PONG = "pong"
    CLOSE = "close"


class Outgoing(NamedTuple):
    """The next message to send."""

    opcode: Opcode
    data: bytes


class Opening(NamedTuple):
    """The HTTP request."""

    remote: str
    is_client: bool
    path: str | None
    query: str


class Framing(StreamFraming):
    """The messages of one subprotocol. Here without pings, datagrams and flow control."""

    def __init__(self, choice: Choice, limits: Limits, clock: Callable[[], float]) -> None:
        self.choice = choice
        self.clock = clock
        self.max_message = limits.websocket_message  # bytes accepted
        self.flow = FlowControl(limits.websocket_streams)

    def begin(self, session: FramedSession) -> None:
        self._session = session
        self._streams = session.streams

    def unlink(self) -> None:
        """The socket is closed: break reference cycles."""
        del self._session, self._streams

    @property
    def measures_pongs(self) -> bool:
        """The answers to WebSocket pings measure the round trip."""
        return True

    @property
    def ping_interval(self) -> float:
        """Seconds between our pings."""
        return KEEP_ALIVE

    def handle(self, message: bytes) -> None:
        """Raises WireError."""
        raise NotImplementedError

    def close_frame(self, code: int, reason: str, *, application: bool) -> bytes:
        raise NotImplementedError

    def ping(self) -> None:
        """Send a ping of the framing's own."""

    def deadline(self) -> tuple[float, str]:
        """When the session ends if no frame comes, and the reason."""
        return float("inf"), ""

    def resume(self, seconds: float) -> None:
        """The process stood still for so long."""

    @property
    def datagram_limit(self) -> int:
        return 0

    def send_datagram(self, data: bytes) -> None: ...

    def on_close(self, frame: Close) -> None:
        code = frame.code if frame.application else None
        reason = frame.reason[:MAX_REASON] or ("" if frame.application else f"transport error {frame.code}")
        self._session.end(code, reason, by_peer=True)


class Liveness:
    """Signs of life of the peer, and the round trip to it."""

    __slots__ = ("_clock", "_pinged_at", "asked", "at", "ping_at", "received", "rtt")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._pinged_at: float | None = None  # of the oldest unanswered ping
        self.asked = False  # by the owner
        self.at = self.ping_at = clock()  # of the last sign of life, and of our last ping
        self.received = 0  # bytes
        self.rtt: float | None = None

    def heard(self, size: int = 0) -> bool:
        """Any message proves that the peer is alive. True if the owner has asked."""
        self.at = self._clock()
        self.received += size
        asked, self.asked = self.asked, False
        return asked

    def pinged(self) -> None:
        if self._pinged_at is None:
            self._pinged_at = self._clock()

    def answered(self) -> None:
        """Measures by the oldest unanswered ping."""
        sent_at, self._pinged_at = self._pinged_at, None
        if sent_at is not None:
            self.measure(sent_at)

    def measure(self, sent_at: float) -> None:
        sample = self._clock() - sent_at
        self.rtt = sample if self.rtt is None else self.rtt + (sample - self.rtt) / RTT_SHARE


class EventQueue:
    """One batch per loop turn."""

    __slots__ = ("_events", "_scheduled", "_sink", "ended", "started")

    def __init__(self) -> None:
        self.started = False
        self.ended = False  # nothing more is taken
        self._sink: Sink | None = None
        self._events: list[Event] = []
        self._scheduled = False

    def start(self, sink: Sink) -> None:
        if self.started:
            raise RuntimeError("a session is started once")
        self.started = True
        self._sink = sink
        self._schedule()

    def add(self, event: Event) -> None:
        if not self.ended:
            self._events.append(event)
            self._schedule()

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


class FramedSession:
    """See `relay.transport.session.Session`."""

    transport = "websocket"

    def __init__(self, framing: Framing, opening: Opening) -> None:
        self.remote, self.is_client, self.path, self.query = opening
        self.alpn, _, self.version = framing.choice
        self.framing = framing
        self.finished = False  # everything is sent, the close included
        self.ended = False  # `SessionClosed` was queued
        self.released = asyncio.Event()  # when the socket is closed
        self.events = EventQueue()
        self.streams = FramedStreams(framing, framing.flow, self.events.add, is_client=self.is_client)
        self.alive = Liveness(framing.clock)
        self._signals: deque[Outgoing] = deque()
        self._bytes_sent = 0
        framing.begin(self)

    def __repr__(self) -> str:
        return f"<FramedSession {self.remote}>"

    # -- Session

    @property
    def datagram_limit(self) -> int:
        return 0 if self.ended else self.framing.datagram_limit

    @property
    def undelivered(self) -> bool:
        return bool(self.streams.queue)

    def start(self, sink: Sink) -> None:
        self.events.start(sink)
        self.streams.wake()

    def open_bidi(self, priority: int = CONTROL_PRIORITY) -> FramedStream:
        return self.streams.open(priority, unidirectional=False)

    def open_uni(self, priority: int = CONTROL_PRIORITY) -> FramedStream:
        return self.streams.open(priority, unidirectional=True)

    def send_datagram(self, data: bytes) -> None:
        if not self.ended:
            self.framing.send_datagram(data)

    def ping(self) -> None:
        if not self.ended:
            self.alive.asked = True
            self._send_ping()

    def trust(self) -> None: ...

    def probe_timeout(self) -> float:
        return PROBE_TIMEOUT + 3 * (self.alive.rtt or 0.0)

    def close(self, code: int = 0, reason: str = "") -> None:
        close_frame = self.framing.close_frame(code, reason[:MAX_REASON], application=True)
        self.end(code, reason, by_peer=False, close_frame=close_frame)

    def stats(self) -> SessionStats:
        return SessionStats(
            rtt=self.alive.rtt,
            bytes_received=self.alive.received,
            bytes_sent=self._bytes_sent,
            streams=len(self.streams.table),
        )

    async def wait_closed(self) -> None:
        """Wait until the session has ended and its socket is released."""
        await self.released.wait()

    # -- for the pump

    @property
    def readable(self) -> bool:
        """The session is started, and queued answers are few."""
        return self.events.started and len(self.streams.controls) + len(self._signals) < CONTROL_BACKLOG

    def receive(self, message: bytes) -> None:
        if self.ended:
            return
        self._note_alive(len(message))
        try:
            if len(message) > self.framing.max_message:
                most = self.framing.max_message
                raise ProtocolViolation(f"message of {len(message)} bytes, at most {most} are allowed")
            self.framing.handle(message)
        except WireError as error:
            self.violation(str(error))

    def received_ping(self, data: bytes) -> None:
        """Deployed peers treat unsolicited pongs as errors."""
        self._note_alive()
        if not self.ended:
            self._signals.append(Outgoing(Opcode.PONG, data))
            self.streams.wake()

    def received_pong(self) -> None:
        self._note_alive()
        if self.framing.measures_pongs:
            self.alive.answered()

    def violation(self, reason: str) -> None:
        close_frame = self.framing.close_frame(VIOLATION, reason, application=False)
        self.end(None, reason, by_peer=False, close_frame=close_frame)

    def end(self, code: int | None, reason: str, *, by_peer: bool, close_frame: bytes | None = None) -> None:
        """Queue `SessionClosed`, then `close_frame`. Later calls on the session or a stream do nothing."""
        if self.ended:
            return
        self.events.add(SessionClosed(code, reason, by_peer))
        self.ended = self.events.ended = True
        self._signals.clear()
        if close_frame is not None:
            self._signals.append(Outgoing(Opcode.BINARY, close_frame))
        self._signals.append(Outgoing(Opcode.CLOSE, b""))
        self.streams.end()
        self.streams.wake()

    def resume(self, seconds: float) -> None:
        """The process stood still for so long: what the peer sent meanwhile is not read yet."""
        self.alive.at += seconds
        self.framing.resume(seconds)

    def tick(self) -> float:
        """Return the seconds until the next call."""
        if self.ended:
            return KEEP_ALIVE
        now, alive, framing = self.framing.clock(), self.alive, self.framing
        due, reason = min((alive.at + DEAD_AFTER, "idle timeout"), framing.deadline())
        if now >= due:
            self.end(None, reason, by_peer=False)
            return KEEP_ALIVE
        if now - alive.ping_at >= framing.ping_interval:
            alive.ping_at = now
            self._send_ping()
        return max(0.0, min(alive.ping_at + framing.ping_interval, due) - now)

    def next_message(self) -> Outgoing | None:
        """The most urgent one."""
        if self._signals:
            signal = self._signals.popleft()
            self.finished = signal.opcode is Opcode.CLOSE
            return signal
        message = None if self.ended else self.streams.compose()
        if message is None:
            return None
        self._bytes_sent += len(message)
        return Outgoing(Opcode.BINARY, message)

    def _send_ping(self) -> None:
        """Ping in every way that the framing has."""
        if not any(signal.opcode is Opcode.PING for signal in self._signals):  # one queued ping is enough
            self._signals.append(Outgoing(Opcode.PING, b""))
            self.alive.pinged()
        self.framing.ping()
        self.streams.wake()

    def _note_alive(self, size: int = 0) -> None:
        if self.alive.heard(size):
            self.events.add(Pong())
