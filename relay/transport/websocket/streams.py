"""Streams of a message-based session: table, send queue and frame handling."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable

from relay.transport.sending import SendQueue
from relay.transport.session import CONTROL_PRIORITY, Event, StreamData, StreamReset, StreamStopped
from relay.transport.websocket.stream import FramedStream, OpenedStreams
from relay.wire.errors import ProtocolViolation
from relay.wire.qmux import ResetStream, StopSending, StreamFrame
from relay.wire.varint import MAX_VARINT

MAX_PAYLOAD = 16_360  # stream bytes per message: deployed peers reject above 16384, with a header of 24
MAX_HEADER = 24  # bytes that a frame adds to its payload


class StreamFraming:
    """The form of a stream's frames, in one framing."""

    packs = False  # several frames in a message
    strict = False  # an invalid stream's frame ends the session; the oldest peers expect us to ignore it
    room = MAX_PAYLOAD + MAX_HEADER  # bytes of the largest message to send

    def stream_header(self, stream: FramedStream, size: int, *, fin: bool) -> bytes:
        raise NotImplementedError

    def reset_frame(self, stream: FramedStream, code: int) -> bytes:
        raise NotImplementedError

    def stop_frame(self, stream: FramedStream, code: int) -> bytes:
        raise NotImplementedError


class FlowControl:
    """The limits of both directions: here only the number of the peer's open streams."""

    def __init__(self, max_streams: int) -> None:
        self.max_streams = max_streams

    def begin(self, stream: FramedStream) -> None:
        """The stream has got its number."""

    def may_open(self, index: int, *, unidirectional: bool) -> bool:  # noqa: ARG002
        """The peer allows it, by index in its kind."""
        return True

    def send_credit(self, stream: FramedStream) -> int:  # noqa: ARG002
        """Bytes that the stream may send now."""
        return MAX_PAYLOAD

    def sent(self, size: int) -> None: ...

    def count(self, stream: FramedStream, size: int) -> bool:  # noqa: ARG002
        """Count received bytes. True if the peer's limit should grow now. Raises WireError above the limit."""
        return False

    def released(self, *, unidirectional: bool) -> bool:  # noqa: ARG002
        """A stream of the peer is over. True if a limit is to be raised."""
        return False

    def index_limit(self, over: int, *, unidirectional: bool) -> int:  # noqa: ARG002
        """How many streams the peer may have opened so far. `over`: the number that have ended."""
        return self.max_streams + over

    def next_frame(self, room: int) -> bytes | None:  # noqa: ARG002
        """A frame of at most `room` bytes, to be sent before stream data."""
        return None


class FramedStreams:
    """The streams of one session, of either side."""

    def __init__(
        self, framing: StreamFraming, flow: FlowControl, emit: Callable[[Event], None], *, is_client: bool
    ) -> None:
        self.ended = False
        self.wake: Callable[[], None] = _nothing  # called if there is something to send or read, or the end
        self.table: dict[int, FramedStream] = {}
        self.queue: SendQueue[FramedStream] = SendQueue()
        self.controls: deque[bytes] = deque()
        self._framing = framing
        self._flow = flow
        self._emit = emit
        self._opened = {False: OpenedStreams(), True: OpenedStreams()}
        self._next_id = {False: 0 if is_client else 1, True: 2 if is_client else 3}
        self._local_bit = 0 if is_client else 1
        self._openings = itertools.count()

    def open(self, priority: int, *, unidirectional: bool) -> FramedStream:
        order = (priority, -next(self._openings))
        return FramedStream(self, -1, unidirectional=unidirectional, opened_by_peer=False, order=order)

    def end(self) -> None:
        self.ended = True
        self.queue.clear()
        self.table.clear()
        self.controls.clear()

    def unlink(self) -> None:
        """The socket is closed: break reference cycles."""
        self.wake = _nothing

    # -- for the streams

    def ready(self, stream: FramedStream) -> None:
        if self.queue.add(stream):
            self.wake()

    def reorder(self, stream: FramedStream, order: tuple[int, int]) -> None:
        self.queue.reorder(stream, order)

    def abort(self, stream: FramedStream, code: int) -> None:
        self.queue.remove(stream)
        if stream.id >= 0:
            self.control(self._framing.reset_frame(stream, _writable(code)))
        self._forget(stream)

    def ask_to_stop(self, stream: FramedStream, code: int) -> None:
        self.control(self._framing.stop_frame(stream, _writable(code)))

    # -- for the framing

    def unblock(self) -> None:
        """A limit on data to send has grown."""
        self.queue.unblock()
        self.wake()

    def admit(self, *, unidirectional: bool) -> None:
        """A limit on our streams has grown."""
        self.queue.admit(unidirectional=unidirectional)
        self.wake()

    def control(self, frame: bytes) -> None:
        self.controls.append(frame)
        self.wake()

    # -- receiving

    def on_stream(self, frame: StreamFrame) -> None:
        stream = self._stream_of(frame.stream_id)
        if stream is None or stream.received:
            return
        if self._flow.count(stream, len(frame.data)):
            self.wake()
        if (frame.data or frame.fin) and stream.stop_code is None:
            self._emit(StreamData(stream, frame.data, frame.fin))
            if stream.peer_stop is not None:
                code, stream.peer_stop = stream.peer_stop, None
                self._emit(StreamStopped(stream, code))
            stream.shown = True
        if frame.fin:
            stream.received = True
            self._forget(stream)

    def on_reset(self, frame: ResetStream) -> FramedStream | None:
        stream = self._stream_of(frame.stream_id)
        if stream is None or stream.received:
            return None
        stream.received = True
        if stream.shown or not stream.opened_by_peer:
            self._emit(StreamReset(stream, frame.code))
        elif not stream.closed:
            stream.close()  # the owner never saw this stream
            self.abort(stream, 0)
        self._forget(stream)
        return stream

    def on_stop(self, frame: StopSending) -> None:
        stream = self._stream_of(frame.stream_id, sending=True)
        if stream is None or stream.closed:
            return
        stream.close()
        if stream.shown or not stream.opened_by_peer:
            self._emit(StreamStopped(stream, frame.code))
        else:
            stream.peer_stop = frame.code
        self.abort(stream, frame.code)

    def _stream_of(self, stream_id: int, *, sending: bool = False) -> FramedStream | None:
        """`None` if it is over. Raises WireError for an impossible one."""
        stream = self.table.get(stream_id)
        ours = stream_id & 1 == self._local_bit
        unidirectional = bool(stream_id & 2)
        if unidirectional and ours is not sending:
            if not self._framing.strict:
                return None
            raise ProtocolViolation(f"stream {stream_id} goes the other way")
        if stream is not None or ours:
            return stream
        opened, index = self._opened[unidirectional], stream_id >> 2
        if opened.has(index):
            return None
        if index >= self._flow.index_limit(opened.over, unidirectional=unidirectional):
            raise ProtocolViolation(f"stream {stream_id} is beyond the streams that may be open at once")
        opened.add(index)
        order = (CONTROL_PRIORITY, -next(self._openings))
        stream = FramedStream(
            self, stream_id, unidirectional=unidirectional, opened_by_peer=True, order=order
        )
        self.table[stream_id] = stream
        self._flow.begin(stream)
        return stream

    # -- sending

    def compose(self) -> bytes | None:
        room = self._framing.room
        frame = self._next_frame(room)
        if frame is None or not self._framing.packs:
            return frame
        frames: list[bytes] = []
        while frame is not None:
            frames.append(frame)
            room -= len(frame)
            frame = self._next_frame(room)
        return frames[0] if len(frames) == 1 else b"".join(frames)

    def _next_frame(self, room: int) -> bytes | None:
        controls = self.controls
        if controls:
            return controls.popleft() if len(controls[0]) <= room else None
        if room <= MAX_HEADER:
            return None
        frame = self._flow.next_frame(room)
        if frame is not None:
            return frame
        while (stream := self.queue.top) is not None:
            if stream.id < 0 and not self._claim(stream):
                continue
            queued = stream.buffer.queued
            size = min(self._flow.send_credit(stream), queued, room - MAX_HEADER, MAX_PAYLOAD)
            if queued and not size:
                self.queue.block()
                continue
            return self._write(stream, size)
        return None

    def _write(self, stream: FramedStream, size: int) -> bytes:
        """A frame with the next bytes of the most urgent stream."""
        buffer = stream.buffer
        fin = buffer.fin and size == buffer.queued
        frame = b"".join((self._framing.stream_header(stream, size, fin=fin), *buffer.take(size)))
        self._flow.sent(size)
        if not buffer.queued:
            self.queue.done()
        if fin:
            stream.close()
            self._forget(stream)
        return frame

    def _claim(self, stream: FramedStream) -> bool:
        """Number the most urgent stream, or make it wait for stream credit."""
        unidirectional = stream.unidirectional
        if not self._flow.may_open(self._next_id[unidirectional] >> 2, unidirectional=unidirectional):
            self.queue.hold()
            return False
        stream.id = self._next_id[unidirectional]
        self._next_id[unidirectional] += 4
        self.table[stream.id] = stream
        self._flow.begin(stream)
        if stream.stop_code is not None:
            self.ask_to_stop(stream, stream.stop_code)
        return True

    def _forget(self, stream: FramedStream) -> None:
        """Forget a stream once both halves have ended."""
        if not (stream.received and stream.closed) or self.table.pop(stream.id, None) is None:
            return
        if stream.opened_by_peer:
            self._opened[stream.unidirectional].over += 1
            if self._flow.released(unidirectional=stream.unidirectional):
                self.wake()


def _nothing() -> None: ...


def _writable(code: int) -> int:
    """The code, or 0 if no frame can hold it."""
    return code if 0 <= code <= MAX_VARINT else 0
