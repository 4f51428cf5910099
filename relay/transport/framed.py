"""Sessions made of messages: streams, and what goes into the next message, for every framing over a WebSocket.

Owns the streams (their halves, what is queued, the order they are sent in), the keep-alive, and the translation into
the events of `relay.transport.session`. Must never touch a socket or read a clock but the one it is given: a pump
hands it what was received and asks it what to send. The two framings build on it and say how a frame looks.

What to send is decided message by message, when the socket has room. So everything else waits here, where the owner
of a stream sees it (`unsent`) and may still give it up.
"""

from __future__ import annotations

import asyncio
import bisect
import itertools
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

from relay.transport.framed_stream import FramedStream, Opened, Place, urgency
from relay.transport.session import (
    CONTROL_PRIORITY,
    Event,
    Pong,
    SessionClosed,
    SessionStats,
    Sink,
    StreamData,
    StreamReset,
    StreamStopped,
)
from relay.wire.errors import ProtocolViolation, WireError
from relay.wire.qmux import Close, ResetStream, StopSending, StreamFrame
from relay.wire.version import Version

MAX_PAYLOAD = 16_360
"""Bytes of a stream in one message. Deployed peers refuse messages above 16384 with room for 24 of header."""

MAX_HEADER = 24
"""Bytes that a frame may add to the payload it carries."""

KEEP_ALIVE = 5.0
"""Seconds between our pings, as deployed peers do."""

DEAD_AFTER = 30.0
"""Seconds without any sign of the peer, not even an answer to a ping, after which it is gone."""

PROBE_TIMEOUT = 3.0
"""Seconds after which a healthy peer has answered a ping: it queues behind what TCP has under way."""

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


class FramedSession:
    """A session over messages; see `relay.transport.session.Session`. Subclasses own the frames."""

    transport = "websocket"
    packs = False
    """Whether a message holds several frames."""
    max_message: int
    """Bytes of the largest message that we accept."""

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
        clock: Callable[[], float],
    ) -> None:
        self.remote = remote
        self.is_client = is_client
        self.alpn = alpn
        self.version = version
        self.path = path
        self.query = query
        self.ended = False
        """Whether `SessionClosed` was queued: nothing follows it."""
        self.finished = False
        """Whether everything is said, the end included."""
        self.wake: Callable[[], None] = lambda: None
        """Called whenever there may be something to send, to read or to end."""
        self._clock = clock
        self._max_streams = max_streams
        self._sink: Sink | None = None
        self._started = False
        self._events: list[Event] = []
        self._scheduled = False
        self._streams: dict[int, FramedStream] = {}
        self._opened = {False: Opened(), True: Opened()}
        self._next_id = {False: 0 if is_client else 1, True: 2 if is_client else 3}
        self._local_bit = 0 if is_client else 1
        self._openings = itertools.count()
        self._ready: list[FramedStream] = []
        self._blocked: dict[FramedStream, None] = {}
        self._waiting: dict[bool, list[FramedStream]] = {True: [], False: []}
        self._controls: deque[bytes] = deque()
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

    def open_bidi(self, priority: int = CONTROL_PRIORITY) -> FramedStream:
        return self._new_stream(priority, unidirectional=False)

    def open_uni(self, priority: int = CONTROL_PRIORITY) -> FramedStream:
        return self._new_stream(priority, unidirectional=True)

    def send_datagram(self, data: bytes) -> None:
        """Drop it; a framing that has datagrams sends it."""

    def ping(self) -> None:
        if not self.ended:
            self._asked = True
            self._send_ping()
            self.wake()

    def probe_timeout(self) -> float:
        return PROBE_TIMEOUT + 3 * (self._rtt or 0.0)

    def close(self, code: int = 0, reason: str = "") -> None:
        self.end(code, reason, by_peer=False, farewell=self._close_frame(code, reason, application=True))

    def stats(self) -> SessionStats:
        return SessionStats(
            rtt=self._rtt,
            bytes_received=self._bytes_received,
            bytes_sent=self._bytes_sent,
            streams=len(self._streams),
        )

    # -- for the pump

    @property
    def readable(self) -> bool:
        """Whether more may be read: somebody listens, and the answers to what was read do not pile up."""
        return self._started and len(self._controls) + len(self._signals) < CONTROL_BACKLOG

    def receive(self, message: bytes) -> None:
        """Take one binary message."""
        if self.ended:
            return
        self._heard_at = self._clock()
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
        self._heard_at = self._clock()
        if not self.ended:
            self._signals.append(Outgoing(Opcode.PONG, data))
            self.wake()

    def received_pong(self) -> None:
        """The peer answered a WebSocket ping."""
        self._heard_at = self._clock()
        self._alive()

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
        for stream in (*self._ready, *self._blocked, *self._waiting[False], *self._waiting[True]):
            stream.place = Place.NOWHERE
        for places in (self._ready, self._blocked, *self._waiting.values(), self._streams):
            places.clear()
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
            # One that still waits says all that a second one would.
            if not any(signal.opcode is Opcode.PING for signal in self._signals):
                self._signals.append(Outgoing(Opcode.PING, b""))
            self._keep_alive()
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

    # -- for the streams

    def ready(self, stream: FramedStream) -> None:
        """A stream has something to send."""
        if stream.place is Place.NOWHERE:
            bisect.insort(self._ready, stream, key=urgency)
            stream.place = Place.READY
            self.wake()

    def abort(self, stream: FramedStream, code: int) -> None:
        """Our half of a stream was given up."""
        self._withdraw(stream)
        if stream.id >= 0:
            self._control(self._reset_frame(stream, code))
        self._forget(stream)

    def ask_to_stop(self, stream: FramedStream, code: int) -> None:
        """The owner wants no more of a stream."""
        self._control(self._stop_frame(stream, code))

    # -- for subclasses

    def _handle(self, message: bytes) -> None:
        """Read a message. Raises WireError."""
        raise NotImplementedError

    def _stream_header(self, stream: FramedStream, size: int, *, fin: bool) -> bytes:
        raise NotImplementedError

    def _reset_frame(self, stream: FramedStream, code: int) -> bytes:
        raise NotImplementedError

    def _stop_frame(self, stream: FramedStream, code: int) -> bytes:
        raise NotImplementedError

    def _close_frame(self, code: int, reason: str, *, application: bool) -> bytes:
        raise NotImplementedError

    def _may_open(self, *, unidirectional: bool) -> bool:  # noqa: ARG002 - for subclasses
        """Whether the peer allows one more stream of ours."""
        return True

    def _allowance(self, stream: FramedStream) -> int:  # noqa: ARG002 - for subclasses
        """How many bytes of a stream the peer allows now."""
        return MAX_PAYLOAD

    def _sent(self, stream: FramedStream, size: int) -> None:
        """Some bytes of a stream go out."""

    def _count(self, stream: FramedStream, size: int) -> None:
        """Some bytes of a stream came in. Raises WireError if they are too many."""

    def _released(self, *, unidirectional: bool) -> None:
        """A stream of the peer's is over."""

    def _index_limit(self, *, unidirectional: bool) -> int:
        """How many streams the peer may have opened by now. One that opens the fifth has opened the fourth."""
        return self._max_streams + self._opened[unidirectional].over

    def _next_control(self, room: int) -> bytes | None:
        """A frame that goes before all stream data, of at most `room` bytes."""
        if self._controls and len(self._controls[0]) <= room:
            return self._controls.popleft()
        return None

    def _send_ping(self) -> None:
        """Ask for a sign of life that `_alive` is told of."""
        self._pinged_at = self._clock()
        self._signals.append(Outgoing(Opcode.PING, b""))

    def _keep_alive(self) -> None:
        """Another kind of ping that is due as often as that of the WebSocket."""
        if self._pinged_at is None:
            self._pinged_at = self._clock()

    def _ping_interval(self) -> float:
        return KEEP_ALIVE

    @property
    def _room(self) -> int:
        """Bytes of the largest message to send."""
        return MAX_PAYLOAD + MAX_HEADER

    def _alive(self) -> None:
        """The peer answered a ping."""
        if self._pinged_at is not None:
            sample = self._clock() - self._pinged_at
            self._pinged_at = None
            self._rtt = sample if self._rtt is None else self._rtt + (sample - self._rtt) / RTT_SHARE
        if self._asked:
            self._asked = False
            self._emit(Pong())

    def _control(self, frame: bytes) -> None:
        self._controls.append(frame)
        self.wake()

    def _emit(self, event: Event) -> None:
        if not self.ended:
            self._events.append(event)
            self._schedule()

    # -- receiving

    def _on_stream(self, frame: StreamFrame) -> None:
        stream = self._stream_of(frame.stream_id)
        if stream is None or stream.received:
            return
        self._count(stream, len(frame.data))
        if (frame.data or frame.fin) and not stream.stopped:
            self._emit(StreamData(stream, frame.data, frame.fin))
            if stream.peer_stop is not None:
                code, stream.peer_stop = stream.peer_stop, None
                self._emit(StreamStopped(stream, code))
            stream.shown = True
        if frame.fin:
            stream.received = True
            self._forget(stream)

    def _on_reset(self, frame: ResetStream) -> FramedStream | None:
        stream = self._stream_of(frame.stream_id)
        if stream is None or stream.received:
            return None
        stream.received = True
        if stream.shown or not stream.opened_by_peer:
            self._emit(StreamReset(stream, frame.code))
        elif not stream.closed:
            # The owner never hears of this stream, so nobody else ends our half.
            stream.close()
            self.abort(stream, 0)
        self._forget(stream)
        return stream

    def _on_stop(self, frame: StopSending) -> None:
        stream = self._stream_of(frame.stream_id, sending=True)
        if stream is None or stream.closed:
            return
        stream.close()
        if stream.shown or not stream.opened_by_peer:
            self._emit(StreamStopped(stream, frame.code))
        else:
            stream.peer_stop = frame.code
        self.abort(stream, frame.code)

    def _on_close(self, frame: Close) -> None:
        code = frame.code if frame.application else None
        reason = frame.reason or ("" if frame.application else f"transport error {frame.code}")
        self.end(code, reason, by_peer=True)

    def _stream_of(self, stream_id: int, *, sending: bool = False) -> FramedStream | None:
        """The stream that a frame is about; `None` if it is over. Raises WireError if there cannot be one."""
        stream = self._streams.get(stream_id)
        ours = stream_id & 1 == self._local_bit
        unidirectional = bool(stream_id & 2)
        if unidirectional and ours is not sending:
            raise ProtocolViolation(f"stream {stream_id} goes the other way")
        if stream is not None or ours:
            return stream
        opened, index = self._opened[unidirectional], stream_id >> 2
        if opened.has(index):
            return None
        if index >= self._index_limit(unidirectional=unidirectional):
            raise ProtocolViolation(f"stream {stream_id} is beyond the streams that may be open at once")
        opened.add(index)
        stream = FramedStream(
            self,
            stream_id,
            unidirectional=unidirectional,
            opened_by_peer=True,
            order=(CONTROL_PRIORITY, -next(self._openings)),
        )
        self._streams[stream_id] = stream
        self._begin(stream)
        return stream

    def _begin(self, stream: FramedStream) -> None:
        """A stream got its number."""

    # -- sending

    def _new_stream(self, priority: int, *, unidirectional: bool) -> FramedStream:
        order = (priority, -next(self._openings))
        return FramedStream(self, -1, unidirectional=unidirectional, opened_by_peer=False, order=order)

    def _compose(self) -> bytes | None:
        room = self._room
        frame = self._next_frame(room)
        if frame is None or not self.packs:
            return frame
        frames: list[bytes] = []
        while frame is not None:
            frames.append(frame)
            room -= len(frame)
            frame = self._next_frame(room)
        return frames[0] if len(frames) == 1 else b"".join(frames)

    def _next_frame(self, room: int) -> bytes | None:
        frame = self._next_control(room)
        if frame is not None or self._controls or room <= MAX_HEADER:
            return frame
        while self._ready:
            stream = self._ready[-1]
            if stream.id < 0 and not self._claim(stream):
                continue
            size = min(self._allowance(stream), stream.queued, room - MAX_HEADER, MAX_PAYLOAD)
            if stream.queued and not size:
                self._ready.pop()
                self._blocked[stream] = None
                stream.place = Place.BLOCKED
                continue
            return self._write(stream, size)
        return None

    def _write(self, stream: FramedStream, size: int) -> bytes:
        """The frame with the next bytes of the most urgent stream."""
        fin = stream.fin and size == stream.queued
        frame = b"".join((self._stream_header(stream, size, fin=fin), *stream.take(size)))
        self._sent(stream, size)
        if not stream.queued:
            self._ready.pop()
            stream.place = Place.NOWHERE
        if fin:
            stream.close()
            self._forget(stream)
        return frame

    def _claim(self, stream: FramedStream) -> bool:
        """Give the most urgent stream its number, or put it where it waits for one."""
        unidirectional = stream.unidirectional
        if not self._may_open(unidirectional=unidirectional):
            self._ready.pop()
            # Streams come here the most urgent first, but a later one may be more urgent still.
            bisect.insort(self._waiting[unidirectional], stream, key=urgency)
            stream.place = Place.WAITING
            return False
        stream.id = self._next_id[unidirectional]
        self._next_id[unidirectional] += 4
        self._streams[stream.id] = stream
        self._begin(stream)
        if stream.stop_code is not None:
            self.ask_to_stop(stream, stream.stop_code)
        return True

    def _unblock(self) -> None:
        """The peer allows more data."""
        streams = list(self._blocked)
        self._blocked.clear()
        for stream in streams:
            stream.place = Place.NOWHERE
            self.ready(stream)

    def _admit(self, *, unidirectional: bool) -> None:
        """The peer allows more streams."""
        streams, self._waiting[unidirectional] = self._waiting[unidirectional], []
        for stream in streams:
            stream.place = Place.NOWHERE
            self.ready(stream)

    def _withdraw(self, stream: FramedStream) -> None:
        """Take a stream out of every queue."""
        if stream.place is Place.BLOCKED:
            del self._blocked[stream]
        elif stream.place is not Place.NOWHERE:
            place = self._ready if stream.place is Place.READY else self._waiting[stream.unidirectional]
            del place[bisect.bisect_left(place, stream.order, key=urgency)]
        stream.place = Place.NOWHERE

    def _forget(self, stream: FramedStream) -> None:
        """Drop a stream once both halves have ended."""
        if stream.received and stream.closed and self._streams.pop(stream.id, None) is not None:
            if stream.opened_by_peer:
                self._opened[stream.unidirectional].over += 1
                self._released(unidirectional=stream.unidirectional)

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
