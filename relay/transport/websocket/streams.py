"""The streams of a message-based session: their table, send queue and frame handling."""

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


class FramedStreams:
    """The streams of one session, of either side."""

    ended = False
    packs = False  # a message holds several frames
    strict = False  # an invalid stream's frame ends the session; the oldest peers expect us to ignore it

    def __init__(self, *, is_client: bool, max_streams: int) -> None:
        self.is_client = is_client
        self.wake: Callable[[], None] = lambda: (
            None
        )  # called when there is something to send or read, and at the end
        self._max_streams = max_streams
        self._streams: dict[int, FramedStream] = {}
        self._opened = {False: OpenedStreams(), True: OpenedStreams()}
        self._next_id = {False: 0 if is_client else 1, True: 2 if is_client else 3}
        self._local_bit = 0 if is_client else 1
        self._openings = itertools.count()
        self._queue: SendQueue[FramedStream] = SendQueue()
        self._controls: deque[bytes] = deque()

    def open_bidi(self, priority: int = CONTROL_PRIORITY) -> FramedStream:
        return self._new_stream(priority, unidirectional=False)

    def open_uni(self, priority: int = CONTROL_PRIORITY) -> FramedStream:
        return self._new_stream(priority, unidirectional=True)

    @property
    def undelivered(self) -> bool:
        return bool(self._queue) and not self.ended

    # -- for the streams

    def ready(self, stream: FramedStream) -> None:
        if self._queue.add(stream):
            self.wake()

    def reorder(self, stream: FramedStream, order: tuple[int, int]) -> None:
        self._queue.reorder(stream, order)

    def abort(self, stream: FramedStream, code: int) -> None:
        self._queue.remove(stream)
        if stream.id >= 0:
            self._control(self._reset_frame(stream, _writable(code)))
        self._forget(stream)

    def ask_to_stop(self, stream: FramedStream, code: int) -> None:
        self._control(self._stop_frame(stream, _writable(code)))

    # -- for subclasses

    def _stream_header(self, stream: FramedStream, size: int, *, fin: bool) -> bytes:
        raise NotImplementedError

    def _reset_frame(self, stream: FramedStream, code: int) -> bytes:
        raise NotImplementedError

    def _stop_frame(self, stream: FramedStream, code: int) -> bytes:
        raise NotImplementedError

    def _may_open(self, *, unidirectional: bool) -> bool:  # noqa: ARG002 - for subclasses
        """The peer allows one more stream of ours."""
        return True

    def _send_credit(self, stream: FramedStream) -> int:  # noqa: ARG002 - for subclasses
        """Bytes of a stream that the peer allows now."""
        return MAX_PAYLOAD

    def _sent(self, stream: FramedStream, size: int) -> None: ...

    def _count(self, stream: FramedStream, size: int) -> None:
        """Count received bytes of a stream. Raises WireError beyond the limit."""

    def _released(self, *, unidirectional: bool) -> None: ...

    def _index_limit(self, *, unidirectional: bool) -> int:
        """Streams that the peer may have opened so far: opening one opens all below it."""
        return self._max_streams + self._opened[unidirectional].over

    def _next_control(self, room: int) -> bytes | None:
        """A frame that precedes all stream data, of at most `room` bytes."""
        if self._controls and len(self._controls[0]) <= room:
            return self._controls.popleft()
        return None

    @property
    def _room(self) -> int:
        """Bytes of the largest message to send."""
        return MAX_PAYLOAD + MAX_HEADER

    def _emit(self, event: Event) -> None:
        raise NotImplementedError

    def _control(self, frame: bytes) -> None:
        self._controls.append(frame)
        self.wake()

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
            stream.close()  # the owner never saw this stream, so end our half here
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

    def _stream_of(self, stream_id: int, *, sending: bool = False) -> FramedStream | None:
        """The stream of a frame; `None` if it is over. Raises WireError for an impossible one."""
        stream = self._streams.get(stream_id)
        ours = stream_id & 1 == self._local_bit
        unidirectional = bool(stream_id & 2)
        if unidirectional and ours is not sending:
            if not self.strict:
                return None
            raise ProtocolViolation(f"stream {stream_id} goes the other way")
        if stream is not None or ours:
            return stream
        opened, index = self._opened[unidirectional], stream_id >> 2
        if opened.has(index):
            return None
        if index >= self._index_limit(unidirectional=unidirectional):
            raise ProtocolViolation(f"stream {stream_id} is beyond the streams that may be open at once")
        opened.add(index)
        order = (CONTROL_PRIORITY, -next(self._openings))
        stream = FramedStream(
            self, stream_id, unidirectional=unidirectional, opened_by_peer=True, order=order
        )
        self._streams[stream_id] = stream
        self._begin(stream)
        return stream

    def _begin(self, stream: FramedStream) -> None: ...

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
        while (stream := self._queue.top) is not None:
            if stream.id < 0 and not self._claim(stream):
                continue
            size = min(self._send_credit(stream), stream.queued, room - MAX_HEADER, MAX_PAYLOAD)
            if stream.queued and not size:
                self._queue.block()
                continue
            return self._write(stream, size)
        return None

    def _write(self, stream: FramedStream, size: int) -> bytes:
        """A frame with the next bytes of the most urgent stream."""
        fin = stream.fin and size == stream.queued
        frame = b"".join((self._stream_header(stream, size, fin=fin), *stream.take(size)))
        self._sent(stream, size)
        if not stream.queued:
            self._queue.done()
        if fin:
            stream.close()
            self._forget(stream)
        return frame

    def _claim(self, stream: FramedStream) -> bool:
        """Number the most urgent stream, or make it wait for stream credit."""
        unidirectional = stream.unidirectional
        if not self._may_open(unidirectional=unidirectional):
            self._queue.hold()
            return False
        stream.id = self._next_id[unidirectional]
        self._next_id[unidirectional] += 4
        self._streams[stream.id] = stream
        self._begin(stream)
        if stream.stop_code is not None:
            self.ask_to_stop(stream, stream.stop_code)
        return True

    def _forget(self, stream: FramedStream) -> None:
        """Forget a stream once both halves have ended."""
        if not (stream.received and stream.closed) or self._streams.pop(stream.id, None) is None:
            return
        if stream.opened_by_peer:
            self._opened[stream.unidirectional].over += 1
            self._released(unidirectional=stream.unidirectional)


def _writable(code: int) -> int:
    """The code, or 0 if no frame can hold it."""
    return code if 0 <= code <= MAX_VARINT else 0
