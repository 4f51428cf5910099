"""Streams of a fast connection: both halves, and their pending frames (RFC 9000, 2 to 4).

Owns the bytes between session and packets, as references to written chunks: a payload for many viewers is
copied only into packets. Must never build a packet. aioquic finds its streams' attributes here.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Any, Protocol

from aioquic.quic import events
from aioquic.quic.packet import QuicErrorCode, QuicResetStreamFrame, QuicStreamFrame
from aioquic.quic.packet_builder import QuicDeliveryState
from aioquic.quic.rangeset import RangeSet
from aioquic.quic.stream import QuicStreamReceiver

FIRST_ORDER = (1 << 63, 0)  # urgency of streams unknown to the session: those of HTTP/3
Taken = tuple[int, int, bytes, bool]  # start offset, end offset, the bytes, and whether the stream ends there


class Owner(Protocol):
    """The connection, as a stream sees it."""

    def stream_has_data(self, stream: FastStream) -> None:
        """Data for STREAM frames is pending, or lost."""

    def stream_has_control(self, stream: FastStream) -> None:
        """RESET_STREAM, STOP_SENDING or MAX_STREAM_DATA is due."""

    def stream_ended(self, stream: FastStream) -> None: ...


class FastSender:
    """Our half of a stream. Has the attributes and methods of aioquic's `QuicStreamSender`."""

    __slots__ = (
        "_acked",
        "_beyond",
        "_buffer_stop",
        "_fin_acked",
        "_reset_error_code",
        "_stream",
        "chunks",
        "cursor",
        "ends",
        "fin_at",
        "fin_pending",
        "highest_offset",
        "is_finished",
        "lost",
        "reset_pending",
    )

    def __init__(self, stream: FastStream | None) -> None:
        self._stream = stream
        self.chunks: list[bytes] = []
        self.ends: list[int] = []
        self.cursor = 0  # index of the chunk with the next new byte
        self._acked = 0  # everything below is acknowledged and freed
        self._beyond: RangeSet | None = None  # ranges acknowledged above a gap
        self._buffer_stop = 0
        self._fin_acked = False
        self._reset_error_code: int | None = None
        self.fin_at: int | None = None
        self.fin_pending = False
        self.highest_offset = 0  # everything below was sent at least once
        self.is_finished = stream is None
        self.lost: list[tuple[int, int]] = []  # by offset
        self.reset_pending = False

    @property
    def buffer_is_empty(self) -> bool:
        """No data for STREAM frames; aioquic's name."""
        return not (self.lost or self.fin_pending or self.highest_offset < self._buffer_stop)

    @property
    def next_offset(self) -> int:
        return self.lost[0][0] if self.lost else self.highest_offset

    @property
    def _buffer_start(self) -> int:
        """Offset of the first byte kept; aioquic's name."""
        return self._acked

    @property
    def _buffer_fin(self) -> int | None:
        """Final offset; aioquic's name."""
        return self.fin_at

    # -- from the session

    def append(self, chunks: Sequence[bytes], *, fin: bool) -> None:
        """Send `chunks` after everything else, kept by reference. Raises RuntimeError after an end."""
        if self.fin_at is not None:
            raise RuntimeError("Cannot send data after FIN")
        if self._reset_error_code is not None:
            raise RuntimeError("Cannot send data after the stream was reset")
        stop = self._buffer_stop
        for chunk in chunks:
            if chunk:
                stop += len(chunk)
                self.chunks.append(chunk)
                self.ends.append(stop)
        if fin:
            self.fin_at = stop
            self.fin_pending = True
        if fin or stop > self._buffer_stop:
            self._buffer_stop = stop
            stream = self._stream
            if stream is not None and not stream.sending:
                stream._owner.stream_has_data(stream)

    def write(self, data: bytes, end_stream: bool = False) -> None:  # noqa: FBT001, FBT002 - as the original
        self.append((data,), fin=end_stream)

    def reset(self, error_code: int) -> None:
        if self._reset_error_code is None and not self.is_finished:
            self._reset_error_code = error_code
            self.reset_pending = True
            self.fin_pending = False
            self.lost.clear()
            self.chunks.clear()
            self.ends.clear()
            self._buffer_stop = self._acked = self.highest_offset
            if self._stream is not None:
                self._stream.has_control()

    # -- to packets

    def take(self, room: int, limit: int) -> Taken | None:
        """The next frame of at most `room` bytes, new ones up to offset `limit`; `None` if there is none."""
        if self.lost:
            if room <= 0:
                return None
            start, end = self.lost[0]
            stop = min(end, start + room)
            if stop == end:
                del self.lost[0]
            else:
                self.lost[0] = (stop, end)
            fin = stop == self.fin_at
            if fin:
                self.fin_pending = False
            return start, stop, self._slice(start, stop), fin
        start = self.highest_offset
        stop = min(start + room, limit, self._buffer_stop)
        if stop > start:
            self.highest_offset = stop
            fin = stop == self.fin_at
            if fin:
                self.fin_pending = False
            return start, stop, self.advance(start, stop), fin
        if self.fin_pending and start == self.fin_at and room >= 0:
            self.fin_pending = False
            return start, start, b"", True
        return None

    def advance(self, start: int, stop: int) -> bytes:
        """Take new bytes; mostly part of one chunk."""
        ends = self.ends
        cursor = self.cursor
        end = ends[cursor]
        chunk = self.chunks[cursor]
        begin = start - end + len(chunk)
        if stop < end:
            return chunk[begin : begin + stop - start]
        if stop == end:
            self.cursor = cursor + 1
            return chunk[begin:] if begin else chunk
        chunks = [chunk[begin:]]
        while True:
            cursor += 1
            end = ends[cursor]
            chunk = self.chunks[cursor]
            if stop < end:
                chunks.append(chunk[: stop - end])
                break
            chunks.append(chunk)
            if stop == end:
                cursor += 1
                break
        self.cursor = cursor
        return b"".join(chunks)

    def _slice(self, start: int, stop: int) -> bytes:
        index = bisect_right(self.ends, start)
        chunks = []
        while start < stop:
            chunk, end = self.chunks[index], self.ends[index]
            begin = start - end + len(chunk)
            chunks.append(chunk[begin : len(chunk) if stop >= end else stop - end])
            start = end
            index += 1
        return b"".join(chunks)

    def get_frame(self, max_size: int, max_offset: int | None = None) -> QuicStreamFrame | None:
        """As aioquic's, for packets that it builds."""
        taken = self.take(max_size, self._buffer_stop if max_offset is None else max_offset)
        if taken is None:
            return None
        start, _, data, fin = taken
        return QuicStreamFrame(data=data, offset=start, fin=fin)

    def get_reset_frame(self) -> QuicResetStreamFrame:
        self.reset_pending = False
        assert self._reset_error_code is not None
        assert self._stream is not None
        return QuicResetStreamFrame(
            error_code=self._reset_error_code,
            final_size=self.highest_offset,
            stream_id=self._stream.stream_id,
        )

    # -- what became of packets

    def on_data_delivery(self, delivery: QuicDeliveryState, start: int, stop: int, fin: bool) -> None:  # noqa: FBT001
        """A frame was acknowledged or lost."""
        if delivery is QuicDeliveryState.ACKED:
            self.on_acked(start, stop, fin)
        elif self._reset_error_code is None and self._stream is not None:
            if stop > start:
                self.lost.append((start, stop))
                if len(self.lost) > 1:
                    self.lost.sort()
            if fin:
                self.fin_pending = True
            self._stream.has_data()

    def on_acked(self, start: int, stop: int, fin: bool) -> None:  # noqa: FBT001
        if self._reset_error_code is not None:
            return
        if start == self._acked and self._beyond is None:
            self._acked = stop
        elif stop > start:
            self._acked_beyond(start, stop)
        ends = self.ends
        acked = self._acked
        if ends and ends[0] <= acked:
            count = 1 if len(ends) == 1 or ends[1] > acked else bisect_right(ends, acked)
            del ends[:count]
            del self.chunks[:count]
            self.cursor -= count
        if fin:
            self._fin_acked = True
        if self._fin_acked and acked == self.fin_at:
            self.is_finished = True
            if self._stream is not None:
                self._stream.ended()

    def _acked_beyond(self, start: int, stop: int) -> None:
        beyond = self._beyond
        if beyond is None:
            beyond = self._beyond = RangeSet()
        beyond.add(start, stop)
        if beyond[0].start == self._acked:
            self._acked = beyond.shift().stop
            if not len(beyond):
                self._beyond = None

    def on_reset_delivery(self, delivery: QuicDeliveryState) -> None:
        if self._stream is None:
            return
        if delivery is QuicDeliveryState.ACKED:
            self.is_finished = True
            self._stream.ended()
        else:
            self.reset_pending = True
            self._stream.has_control()

    def detach(self) -> None:
        """Forget the stream; late delivery reports have no effect."""
        self._stream = None


class ReorderBuffer:
    """Ranges received above a gap: aioquic's `RangeSet` as far as receivers need it, faster to extend."""

    __slots__ = ("_starts", "_stops")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> range:
        return range(self._starts[index], self._stops[index])

    def add(self, start: int, stop: int) -> None:
        first, last = bisect_left(self._stops, start), bisect_right(self._starts, stop)
        if first < last:
            start, stop = min(start, self._starts[first]), max(stop, self._stops[last - 1])
        self._starts[first:last] = (start,)
        self._stops[first:last] = (stop,)

    def shift(self) -> range:
        return range(self._starts.pop(0), self._stops.pop(0))


class FastReceiver(QuicStreamReceiver):
    """The peer's half. aioquic handles reordered data; its buffers are created on demand."""

    _ranges: Any = None
    _buffer: Any = b""
    _final_size: int | None = None
    _stop_error_code: int | None = None
    stop_pending = False
    is_finished = False
    highest_offset = 0
    _buffer_start = 0

    def __init__(self, stream: FastStream) -> None:  # aioquic creates its buffers at once
        self._stream: FastStream | None = stream
        self._stream_id = stream.stream_id

    def handle_frame(self, frame: QuicStreamFrame) -> events.StreamDataReceived | None:
        if self._ranges is None:
            self._ranges = ReorderBuffer()
            self._buffer = bytearray()
        event = super().handle_frame(frame)
        if self._stream is not None:
            if self.is_finished:
                self._stream.ended()
            elif event is not None:
                self._stream.has_control()  # MAX_STREAM_DATA may be due
        return event

    def handle_reset(
        self, *, final_size: int, error_code: int = QuicErrorCode.NO_ERROR
    ) -> events.StreamReset | None:
        event = super().handle_reset(final_size=final_size, error_code=error_code)
        if self._stream is not None:
            self._stream.ended()
        return event

    def on_stop_sending_delivery(self, delivery: QuicDeliveryState) -> None:
        if delivery is not QuicDeliveryState.ACKED and self._stream is not None:
            self.stop_pending = True
            self._stream.has_control()

    def stop(self, error_code: int = QuicErrorCode.NO_ERROR) -> None:
        super().stop(error_code)
        if self._stream is not None:
            self._stream.has_control()

    def detach(self) -> None:
        self._stream = None


class NoReceiver:
    """Receiving half of a send-only stream."""

    highest_offset = 0
    is_finished = True
    stop_pending = False

    def starting_offset(self) -> int:
        return 0

    def detach(self) -> None: ...


NO_RECEIVER = NoReceiver()
NO_SENDER = FastSender(None)


class FastStream:
    """A stream. Has the attributes of aioquic's `QuicStream`."""

    __slots__ = (
        "_owner",
        "blocked_at",
        "is_blocked",
        "max_stream_data_local",
        "max_stream_data_local_sent",
        "max_stream_data_remote",
        "order",
        "receiver",
        "sender",
        "sending",
        "stream_id",
    )

    def __init__(
        self,
        owner: Owner,
        stream_id: int,
        *,
        max_stream_data_local: int,
        max_stream_data_remote: int,
        readable: bool = True,
        writable: bool = True,
    ) -> None:
        self._owner = owner
        self.stream_id = stream_id
        self.order = FIRST_ORDER  # sort key, the most urgent last
        self.sending = False  # the stream is in the connection's list of streams with data
        self.is_blocked = False
        self.blocked_at = -1  # the limit of our last STREAM_DATA_BLOCKED
        self.max_stream_data_local = max_stream_data_local
        self.max_stream_data_local_sent = max_stream_data_local
        self.max_stream_data_remote = max_stream_data_remote
        self.receiver: FastReceiver | NoReceiver = FastReceiver(self) if readable else NO_RECEIVER
        self.sender = FastSender(self) if writable else NO_SENDER

    @property
    def is_finished(self) -> bool:
        return self.receiver.is_finished and self.sender.is_finished

    def has_data(self) -> None:
        if not self.sending:
            self._owner.stream_has_data(self)

    def has_control(self) -> None:
        self._owner.stream_has_control(self)

    def ended(self) -> None:
        self._owner.stream_ended(self)

    def detach(self) -> None:
        """Break reference cycles when the connection forgets this stream."""
        if self.sender is not NO_SENDER:
            self.sender.detach()
        self.receiver.detach()
