"""Sessions made of messages: life, keep-alive and the way to the owner, for every framing over a WebSocket.

Owns the translation into the events of `relay.transport.session`, the pings and the end. Must never touch a socket or
read a clock but the one it is given: a pump hands it what was received and asks it what to send. The framings build
on it and say how a frame looks.

What to send is decided message by message, when the socket has room. So everything else waits here, where the owner
of a stream sees it (`unsent`) and may still give it up.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

from relay.transport.session import (
    Event,
    Pong,
    SessionClosed,
    SessionStats,
    Sink,
)
from relay.transport.websocket.streams import FramedStreams
from relay.wire.errors import ProtocolViolation, WireError
from relay.wire.qmux import Close
from relay.wire.version import Version

KEEP_ALIVE = 5.0
"""Seconds between our pings, as deployed peers do."""

DEAD_AFTER = 30.0
"""Seconds without any sign of the peer, not even an answer to a ping, after which it is gone."""

PROBE_TIMEOUT = 6.0
"""Seconds after which a healthy peer has answered a ping: some let the answer wait for what they send next, which is
their own ping at the latest."""

MAX_REASON = 1_024
"""Characters of a close reason that are kept, and that are sent."""

CONTROL_BACKLOG = 1_000
"""Frames other than stream data that may wait. Beyond it nothing is read: what a peer makes us answer waits with it."""

VIOLATION = 1002
"""Close code for faults that the transport finds, as deployed peers use it."""

RTT_SHARE = 8
"""A new measurement counts for one eighth of the smoothed round trip, as in RFC 9002."""


class Opcode(Enum):
    """What kind of WebSocket frame to send."""

    BINARY = "binary"
    PING = "ping"
    PONG = "pong"
    CLOSE = "close"


class Outgoing(NamedTuple):
    """The next thing to send."""

    opcode: Opcode
    data: bytes


class FramedSession(FramedStreams):
    """A session over messages; see `relay.transport.session.Session`. Subclasses own the frames."""

    transport = "websocket"

    def __init__(
        self,
        *,
        remote: str,
        is_client: bool,
        alpn: str = "",
        version: Version | None = None,
        path: str | None = None,
        query: str = "",
        max_streams: int,
        max_message: int,
        clock: Callable[[], float],
    ) -> None:
        """`max_message` is how many bytes the largest message has that we accept."""
        super().__init__(is_client=is_client, max_streams=max_streams)
        self.max_message = max_message
        self.remote = remote
        self.alpn = alpn
        self.version = version
        self.path = path
        self.query = query
        self.finished = False
        """Whether everything is said, the end included."""
        self.released = asyncio.Event()
        """Set by whoever opened the socket, once it is gone."""
        self._clock = clock
        self._sink: Sink | None = None
        self._started = False
        self._events: list[Event] = []
        self._scheduled = False
        self._signals: deque[Outgoing] = deque()
        self._farewell: bytes | None = None
        self._asked = False
        self._pinged_at: float | None = None
        self._rtt: float | None = None
        self._heard_at = self._ping_at = clock()
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
        """Drop it; a framing that has datagrams sends it."""

    def ping(self) -> None:
        if not self.ended:
            self._asked = True
            self._send_ping()
            self.wake()

    def trust(self) -> None:
        pass

    def probe_timeout(self) -> float:
        return PROBE_TIMEOUT + 3 * (self._rtt or 0.0)

    def close(self, code: int = 0, reason: str = "") -> None:
        farewell = self._close_frame(code, reason[:MAX_REASON], application=True)
        self.end(code, reason, by_peer=False, farewell=farewell)

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
        """Whether more may be read: somebody listens, and the answers to what was read do not pile up."""
        return self._started and len(self._controls) + len(self._signals) < CONTROL_BACKLOG

    def receive(self, message: bytes) -> None:
        """Take one binary message."""
        if self.ended:
            return
        self._heard()
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
        """The peer sent a WebSocket ping. Only then may it be sent a pong: deployed peers take others for a fault."""
        self._heard()
        if not self.ended:
            self._signals.append(Outgoing(Opcode.PONG, data))
            self.wake()

    def received_pong(self) -> None:
        """The peer answered a WebSocket ping."""
        self._heard()
        self._measure()

    def violation(self, reason: str) -> None:
        """The peer broke a rule of the framing: end the session and tell it why."""
        farewell = self._close_frame(VIOLATION, reason, application=False)
        self.end(None, reason, by_peer=False, farewell=farewell)

    def end(self, code: int | None, reason: str, *, by_peer: bool, farewell: bytes | None = None) -> None:
        """Queue `SessionClosed`, then `farewell` for the peer. Later calls on the session or a stream do nothing."""
        if self.ended:
            return
        self._emit(SessionClosed(code, reason, by_peer))
        self.ended = True
        self._farewell = farewell
        self._queue.clear()
        self._streams.clear()
        self._controls.clear()
        self._signals.clear()
        self.wake()

    def tick(self) -> float:
        """Do what is due by the clock; the seconds until the next call."""
        now = self._clock()
        if self.ended:
            return KEEP_ALIVE
        if now - self._heard_at >= DEAD_AFTER:
            self.end(None, "idle timeout", by_peer=False)
            return KEEP_ALIVE
        if now - self._ping_at >= self._ping_interval():
            self._ping_at = now
            self._send_ping()
            self.wake()
        return min(self._ping_at + self._ping_interval(), self._heard_at + DEAD_AFTER) - now

    def next_message(self) -> Outgoing | None:
        """What to send now, the most urgent first; `None` if there is nothing."""
        if self.ended:
            if self._farewell is not None:
                farewell, self._farewell = self._farewell, None
                return Outgoing(Opcode.BINARY, farewell)
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
        """Read a message. Raises WireError."""
        raise NotImplementedError

    def _close_frame(self, code: int, reason: str, *, application: bool) -> bytes:
        raise NotImplementedError

    def _send_ping(self) -> None:
        """Ping in every way that the framing has."""
        # One that still waits says all that a second one would.
        if not any(signal.opcode is Opcode.PING for signal in self._signals):
            self._signals.append(Outgoing(Opcode.PING, b""))
            if self._pinged_at is None:
                self._pinged_at = self._clock()

    def _ping_interval(self) -> float:
        return KEEP_ALIVE

    def _heard(self) -> None:
        """The peer said something, whatever it was: that is the sign of life that a ping asks for."""
        self._heard_at = self._clock()
        if self._asked:
            self._asked = False
            self._emit(Pong())

    def _measure(self) -> None:
        """The peer answered the oldest ping without an answer."""
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

    # -- delivering

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
