"""Groups: the unit of caching and of delivery, and the byte streams derived from them.

A group holds its frames as they came: `FrameHeader`, then the pieces of its payload. For each dialect that someone
reads, the encoded stream is derived once and shared by all its readers; payload pieces are the same `bytes` objects
everywhere. Called by track actors only; never reads a clock.
"""

from __future__ import annotations

from collections.abc import Iterable

from relay.model.track import Dialect
from relay.wire.frame import FrameHeader, frame_header_plain, frame_header_timed

COPY_BELOW = 2_048
"""Payload pieces up to this size are joined with their header: one small copy is cheaper than one more chunk."""

JOIN_BELOW = 16_384
"""What one turn adds to a stream is joined up to this size, so that many small frames travel as one chunk."""

FRAME_OVERHEAD = 128
"""Bytes that one frame costs besides its payload, so that empty frames count against the cache too."""


class Encoder:
    """Derives one dialect's byte stream of a group, incrementally, for frames `start`..`end` (inclusive)."""

    __slots__ = (
        "_dialect",
        "_end",
        "_frame",
        "_inside",
        "_left",
        "_position",
        "_previous",
        "_start",
        "ended",
    )

    def __init__(self, dialect: Dialect, start: int = 0, end: int | None = None, first: int = 0) -> None:
        self._dialect = dialect
        self._start = start
        self._end = end
        self._position = 0
        self._frame = first - 1
        self._previous = 0
        self._inside = False
        self._left = 0
        self.ended = False
        """Whether frame `end` is complete: nothing more will come."""

    def take(self, parts: list[FrameHeader | bytes]) -> list[bytes]:
        """The chunks that the parts beyond those of the last call add."""
        chunks: list[bytes] = []
        head = b""
        for part in parts[self._position :]:
            if isinstance(part, bytes):
                if not self._inside:
                    continue
                self._left -= len(part)
                if len(part) <= COPY_BELOW:
                    chunks.append(head + part if head else part)
                else:
                    if head:
                        chunks.append(head)
                    chunks.append(part)
                head = b""
                continue
            if head:
                chunks.append(head)
            head = self._header(part)
        if head:
            chunks.append(head)
        if self._frame == self._end and self._left <= 0:
            self.ended = True
        self._position = len(parts)
        if len(chunks) > 1 and sum(map(len, chunks)) <= JOIN_BELOW:
            return [b"".join(chunks)]
        return chunks

    def _header(self, header: FrameHeader) -> bytes:
        self._frame += 1
        self._left = header.size
        if self._end is not None and self._frame > self._end:
            self._inside = False
            self.ended = True
            return b""
        self._inside = self._frame >= self._start
        if not self._inside or self._dialect is Dialect.RAW:
            return b""
        if self._dialect is Dialect.PLAIN:
            return frame_header_plain(header.size)
        timestamp = header.timestamp or 0
        delta = timestamp - self._previous
        self._previous = timestamp
        return frame_header_timed(delta, header.size)


class Stream:
    """The encoded stream of one group in one dialect, shared by all its readers."""

    __slots__ = ("_encoder", "chunks")

    def __init__(self, dialect: Dialect, first: int) -> None:
        self._encoder = Encoder(dialect, start=first, first=first)
        self.chunks: list[bytes] = []

    def take(self, parts: list[FrameHeader | bytes]) -> tuple[bytes, ...]:
        """Bring the stream up to date; what that added."""
        fresh = self._encoder.take(parts)
        self.chunks += fresh
        return tuple(fresh)


class Group:
    """One group: open until `finish` or `abort`."""

    __slots__ = (
        "_streams",
        "arrived",
        "code",
        "finished",
        "first_frame",
        "first_timestamp",
        "frames",
        "last_timestamp",
        "parts",
        "past",
        "sequence",
        "size",
    )

    def __init__(self, sequence: int, now: float, first_frame: int = 0) -> None:
        self.sequence = sequence
        self.first_frame = first_frame
        """Number of the first frame we hold; above 0 if the publisher sent a partial group."""
        self.arrived = now
        self.past = False
        """Whether it came by a request for the past, and not by the running subscription."""
        self.parts: list[FrameHeader | bytes] = []
        self.frames = 0
        self.size = 0
        self.finished = False
        self.code: int | None = None
        """Stream code the group was aborted with."""
        self.first_timestamp: int | None = None
        self.last_timestamp: int | None = None
        self._streams: dict[Dialect, Stream] = {}

    @property
    def payload(self) -> int:
        """Bytes of payload held."""
        return self.size - self.frames * FRAME_OVERHEAD

    @property
    def open(self) -> bool:
        """Whether more may come."""
        return not self.finished and self.code is None

    def extend(self, parts: Iterable[FrameHeader | bytes], now: float) -> None:
        """Append decoded parts; frames without a timestamp get the arrival time, in microseconds."""
        own = self.parts
        for part in parts:
            if isinstance(part, bytes):
                self.size += len(part)
                own.append(part)
                continue
            timestamp = part.timestamp
            if timestamp is None:
                timestamp = int(now * 1_000_000)
                part = FrameHeader(timestamp, part.size)  # noqa: PLW2901
            if self.first_timestamp is None:
                self.first_timestamp = timestamp
            if self.last_timestamp is None or timestamp > self.last_timestamp:
                self.last_timestamp = timestamp
            self.frames += 1
            self.size += FRAME_OVERHEAD
            own.append(part)

    def clear(self) -> None:
        """Drop the content."""
        self.parts.clear()
        self._streams.clear()
        self.frames = self.size = 0

    def update(self, dialect: Dialect) -> tuple[bytes, ...]:
        """Bring that dialect's stream up to date; the chunks that are new since the last call."""
        return self._stream(dialect).take(self.parts)

    def stream(self, dialect: Dialect) -> tuple[bytes, ...]:
        """The dialect's stream as far as `update` has brought it: what a late joiner gets first."""
        return tuple(self._stream(dialect).chunks)

    def _stream(self, dialect: Dialect) -> Stream:
        stream = self._streams.get(dialect)
        if stream is None:
            stream = self._streams[dialect] = Stream(dialect, self.first_frame)
        return stream
