"""Streams: both halves, and the bytes between a session and packets (RFC 9000, 2 to 4).

A payload for many viewers is kept by reference and copied only into packets.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Final

from mypy_extensions import mypyc_attr

from relay.quic import errors
from relay.quic.errors import QuicError
from relay.quic.ranges import Ranges
from relay.transport.sending import Sender

LARGEST: Final = (1 << 62) - 1  # offset
MOST_FRAGMENTS: Final = 256  # fragments above a gap, beside one for each `FRAGMENT` bytes
FRAGMENT: Final = 256  # bytes: a fragment costs us about as much beside its data


@mypyc_attr(allow_interpreted_subclasses=True)  # tests have some
class StreamOwner:
    """The connection, as its streams see it."""

    __slots__ = ("ended",)

    def __init__(self) -> None:
        self.ended = False  # calls on its streams do nothing

    def stream_ready(self, stream: Stream) -> None:
        """STREAM frames are due."""
        raise NotImplementedError

    def stream_control(self, stream: Stream) -> None:
        """RESET_STREAM, STOP_SENDING or MAX_STREAM_DATA is due."""
        raise NotImplementedError

    def stream_ended(self, stream: Stream) -> None:
        """A half has ended."""
        raise NotImplementedError

    def stream_reordered(self, stream: Stream, order: tuple[int, int]) -> None:
        """The urgency has changed to `order`."""
        raise NotImplementedError

    def wire_code(self, code: int) -> int:
        """The code on the wire of a session's code."""
        raise NotImplementedError


@mypyc_attr(allow_interpreted_subclasses=True)  # tests have some
class SendHalf:
    """Ours. Offsets are bytes of the stream.

    Size: each packet reads or changes most of it; a hop to another object costs as much as the work.
    """

    __slots__ = (
        *("acked", "acked_above", "blocked_at", "chunks", "cursor", "done", "ends", "fin_acked", "fin_at"),
        *("fin_pending", "limit", "lost", "reset_code", "reset_pending", "sent", "stream", "written"),
    )

    def __init__(self, stream: Stream | None, limit: int) -> None:
        self.stream = stream
        self.limit = limit  # the peer's MAX_STREAM_DATA
        self.blocked_at = -1  # the limit of our last STREAM_DATA_BLOCKED
        self.chunks: list[bytes] = []  # not all acknowledged
        self.ends: list[int] = []  # the offset where each ends
        self.cursor = 0  # index of the chunk with the next new byte
        self.acked = 0  # everything below is acknowledged and freed
        self.acked_above: Ranges | None = None  # acknowledged above a gap
        self.sent = 0  # everything below was sent at least once
        self.written = 0
        self.lost: list[tuple[int, int]] = []  # to be sent again, by offset
        self.fin_at = -1  # offset, -1 before it is known
        self.fin_pending = False
        self.fin_acked = False
        self.reset_code = -1
        self.reset_pending = False
        self.done = stream is None  # everything or the reset is acknowledged

    def has_data(self) -> bool:
        """STREAM frames are due."""
        return bool(self.lost) or self.sent < self.written or self.fin_pending

    def write(self, chunks: Sequence[bytes], fin: bool) -> None:  # noqa: FBT001 - positional calls are cheaper
        written = self.written
        for chunk in chunks:
            if chunk:
                written += len(chunk)
                self.chunks.append(chunk)
                self.ends.append(written)
        self.written = written
        if fin:
            self.fin_at = written
            self.fin_pending = True

    def reset(self, code: int) -> None:
        """RESET_STREAM is due."""
        self.reset_code = code
        self.reset_pending = True
        self.fin_pending = False
        self.lost.clear()
        self.chunks.clear()
        self.ends.clear()
        self.cursor = 0
        self.written = self.acked = self.sent
        self.acked_above = None

    # -- to packets

    def take_lost(self, room: int) -> tuple[int, int, bytes]:
        """The first lost bytes, at most `room`: start, stop, data."""
        start, end = self.lost[0]
        stop = min(end, start + room)
        if stop == end:
            del self.lost[0]
        else:
            self.lost[0] = (stop, end)
        index = bisect_right(self.ends, start)
        chunk, chunk_end = self.chunks[index], self.ends[index]
        begin = start - chunk_end + len(chunk)
        if stop <= chunk_end:
            return start, stop, chunk[begin : begin + stop - start]
        parts = [chunk[begin:]]
        while chunk_end < stop:
            index += 1
            chunk, chunk_end = self.chunks[index], self.ends[index]
            parts.append(chunk if stop >= chunk_end else chunk[: stop - chunk_end])
        return start, stop, b"".join(parts)

    def take(self, stop: int) -> bytes:
        """New bytes up to offset `stop`; mostly part of one chunk."""
        start = self.sent
        self.sent = stop
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
        parts = [chunk[begin:]]
        while True:
            cursor += 1
            end = ends[cursor]
            chunk = self.chunks[cursor]
            if stop < end:
                parts.append(chunk[: stop - end])
                break
            parts.append(chunk)
            if stop == end:
                cursor += 1
                break
        self.cursor = cursor
        return b"".join(parts)

    # -- the fate of packets

    def on_acked(self, start: int, stop: int, fin: bool) -> None:  # noqa: FBT001 - the hot path
        if self.reset_code >= 0:
            return
        if self.acked_above is None and start <= self.acked:
            self.acked = max(self.acked, stop)
        elif stop > start:
            self._acked_above_gap(start, stop)
        acked = self.acked
        ends = self.ends
        if ends and ends[0] <= acked:
            count = 1 if len(ends) == 1 or ends[1] > acked else bisect_right(ends, acked)
            del ends[:count]
            del self.chunks[:count]
            self.cursor -= count
        if fin:
            self.fin_acked = True
        if self.fin_acked and acked == self.fin_at and not self.done:
            self.done = True
            stream = self.stream
            if stream is not None:
                stream.owner.stream_ended(stream)

    def _acked_above_gap(self, start: int, stop: int) -> None:
        above = self.acked_above
        if above is None:
            above = self.acked_above = Ranges()
        above.add(start, stop)
        if above.starts[0] <= self.acked:
            self.acked = max(self.acked, above.shift())
            if not len(above):
                self.acked_above = None

    def on_lost(self, start: int, stop: int, fin: bool) -> None:  # noqa: FBT001 - the hot path
        stream = self.stream
        if self.reset_code >= 0 or stream is None:
            return
        start = max(start, self.acked)
        if stop > start:
            if self.acked_above is None:
                self.lost.append((start, stop))
            else:
                self.lost += self.acked_above.missing(start, stop)
            if len(self.lost) > 1:
                self.lost.sort()
        if fin and not self.fin_acked:
            self.fin_pending = True
        if self.has_data():
            stream.owner.stream_ready(stream)


class ReceiveHalf:
    """The peer's. Offsets are bytes of the stream."""

    __slots__ = (
        *("buffered", "done", "final_size", "highest", "limit", "limit_sent", "offset", "parts", "starts"),
        *("stop_code", "stop_pending"),
    )

    def __init__(self, limit: int) -> None:
        self.limit = limit  # our MAX_STREAM_DATA; 0 for a stream that only we write
        self.limit_sent = limit
        self.offset = 0  # everything below was delivered
        self.highest = 0  # the end of everything received
        self.final_size = -1
        self.starts: list[int] = []  # of fragments above a gap, ascending and disjoint
        self.parts: list[bytes] = []
        self.buffered = 0  # bytes in them
        self.stop_code = -1
        self.stop_pending = False
        self.done = limit == 0

    def check_size(self, stop: int, fin: bool, frame_type: int) -> None:  # noqa: FBT001 - the hot path
        """Raises QuicError if data up to `stop` contradicts the final size (RFC 9000, 4.5)."""
        final = self.final_size
        if final >= 0 and (stop > final or (fin and stop != final)):
            raise QuicError(errors.FINAL_SIZE_ERROR, frame_type, "data beyond the final size")
        if fin:
            if stop < self.highest:
                raise QuicError(errors.FINAL_SIZE_ERROR, frame_type, "the final size is below data received")
            self.final_size = stop

    def insert(self, start: int, data: bytes) -> None:
        """Above a gap. Raises QuicError if there are too many fragments."""
        starts, parts = self.starts, self.parts
        if start < self.offset:
            data = data[self.offset - start :]
            start = self.offset
        stop = start + len(data)
        index = bisect_right(starts, start)
        if index:
            end = starts[index - 1] + len(parts[index - 1])
            if end >= stop:
                return
            if end > start:
                data = data[end - start :]
                start = end
        after = index
        while after < len(starts) and starts[after] + len(parts[after]) <= stop:
            self.buffered -= len(parts[after])
            after += 1
        if after < len(starts) and starts[after] < stop:
            data = data[: starts[after] - start]
        if not data:
            return
        starts[index:after] = [start]
        parts[index:after] = [data]
        self.buffered += len(data)
        if len(starts) > MOST_FRAGMENTS + self.buffered // FRAGMENT:
            raise QuicError(errors.INTERNAL_ERROR, errors.STREAM, "stream data comes in too many fragments")

    def take(self) -> bytes:
        """The bytes that are now in order; they count as delivered."""
        starts, parts = self.starts, self.parts
        count = 0
        offset = self.offset
        while count < len(starts) and starts[count] == offset:
            offset += len(parts[count])
            count += 1
        if not count:
            return b""
        data = parts[0] if count == 1 else b"".join(parts[:count])
        del starts[:count]
        del parts[:count]
        self.buffered -= len(data)
        self.offset = offset
        return data

    def drop(self) -> int:
        """Returns how many received bytes were never delivered."""
        left = self.highest - self.offset
        self.starts.clear()
        self.parts.clear()
        self.buffered = 0
        self.offset = self.highest
        return left


class Stream(Sender):
    """See `relay.transport.session.Stream`."""

    __slots__ = ("accepted", "context", "id", "into", "opened_by_peer", "out", "owner", "prefix", "stopped")

    def __init__(
        self,
        owner: StreamOwner,
        stream_id: int,
        order: tuple[int, int],
        *,
        unidirectional: bool,
        opened_by_peer: bool,
        send_limit: int,
        receive_limit: int,
    ) -> None:
        super().__init__(order, unidirectional=unidirectional)
        self.owner = owner
        self.id = stream_id
        self.opened_by_peer = opened_by_peer
        self.context: object = None
        self.accepted = False  # the session has made it known to its user
        self.prefix = b""  # sent before the first byte written
        self.stopped = False  # its user wants no more data
        self.out = SendHalf(None if unidirectional and opened_by_peer else self, send_limit)
        self.into = ReceiveHalf(0 if unidirectional and not opened_by_peer else receive_limit)

    def __repr__(self) -> str:
        return f"<Stream {self.id} {'uni' if self.unidirectional else 'bidi'}>"

    @property
    def may_write(self) -> bool:
        """Our half has neither ended nor been reset."""
        out = self.out
        return out.fin_at < 0 and out.reset_code < 0 and out.stream is not None

    @property
    def unsent(self) -> int:
        return self.out.written - self.out.sent

    @property
    def undelivered(self) -> bool:
        out = self.out
        if out.reset_code >= 0 or out.done or self.owner.ended:
            return False
        return out.acked < out.written or out.fin_at >= 0

    def write(self, chunks: Sequence[bytes], *, fin: bool = False) -> None:
        """Queue `chunks` in order; with `fin`, end the stream after them. Nothing happens after an end."""
        out = self.out
        if out.fin_at >= 0 or out.reset_code >= 0 or out.stream is None or self.owner.ended:
            return
        if self.prefix:
            out.write((self.prefix,), False)
            self.prefix = b""
        out.write(chunks, fin)
        if out.sent < out.written or fin:
            self.owner.stream_ready(self)

    def reset(self, code: int) -> None:
        """Drops queued data of our half. `code` is the session's."""
        if not self.owner.ended:
            self.abort(self.owner.wire_code(code))

    def abort(self, wire_code: int) -> None:
        out = self.out
        if out.reset_code >= 0 or out.done:
            return
        out.reset(wire_code)
        self.owner.stream_control(self)

    def stop(self, code: int) -> None:
        """No more data is delivered. `code` is the session's."""
        if not self.owner.ended:
            self.cancel(self.owner.wire_code(code))

    def cancel(self, wire_code: int) -> None:
        into = self.into
        if self.stopped or into.done:
            return
        self.stopped = True
        into.stop_code = wire_code
        into.stop_pending = True
        self.owner.stream_control(self)

    def prioritize(self, priority: int) -> None:
        """Change the urgency of unsent data."""
        self.owner.stream_reordered(self, (priority, self.order[1]))
