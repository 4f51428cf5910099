"""Groups as bytes: each encoding is derived once, incrementally, and all its readers share it.

Large payloads are never copied: chunks are the `bytes` objects of the group.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from relay.model.group import FrameStart, Group, Object, Part, Subgroup
from relay.wire.frame import frame_header_plain, frame_header_timed
from relay.wire.ietf.data import ObjectHeader
from relay.wire.ietf.profile import DRAFT_14, DRAFT_16, DRAFT_18
from relay.wire.ietf.streams import object_header
from relay.wire.ietf.values import PropertyType
from relay.wire.ietf.varint import encode_vi64
from relay.wire.varint import encode_varint

COPY_BELOW = 2_048
"""Bytes: copying a smaller chunk behind its header costs less than another chunk."""

JOIN_BELOW = 16_384
"""Bytes: chunks of one turn are joined up to this size, so that many small frames travel as one."""


class Encoding(IntEnum):
    """The form in which a reader gets a group's frames."""

    PLAIN = 0  # moq-lite-01 to 04: size, payload
    TIMED = 1  # moq-lite-05 and 06: timestamp delta, size, payload
    FRAMES = 2
    """The group's parts: the start of each frame, and its payload chunks (HTTP)."""
    OBJECTS_14 = 3
    OBJECTS_16 = 4
    OBJECTS_18 = 5
    """Objects of a subgroup stream (moq-transport 14, 16, from 18 on). A `Subgroup` among the bytes: those of
    its stream follow.
    """


OBJECT_FORMS = {
    Encoding.OBJECTS_14: DRAFT_14,
    Encoding.OBJECTS_16: DRAFT_16,
    Encoding.OBJECTS_18: DRAFT_18,
}
"""One for each form."""

_SIZES = [bytes((size + 1, PropertyType.TIMESTAMP)) for size in range(10)]
"""Size and type of a timestamp of so many bytes, as the only property of an object."""


class Encoder:
    """Encodes a group's frames `start`..`end` (inclusive)."""

    __slots__ = (
        *("_copy_below", "_encoding", "_end", "_frame", "_inside", "_left", "_position"),
        *("_previous", "_start", "ended"),
    )

    def __init__(self, encoding: Encoding, start: int = 0, end: int | None = None, first: int = 0) -> None:
        self._encoding = encoding
        self._copy_below = 0 if encoding is Encoding.FRAMES else COPY_BELOW
        self._start = start
        self._end = end
        self._position = 0
        self._frame = first - 1
        self._previous = 0
        self._inside = False
        self._left = 0
        self.ended = False  # frame `end` is complete

    def limit(self, end: int | None) -> None:
        self._end = end
        self.ended = end is not None and (self._frame > end or (self._frame == end and self._left <= 0))

    def take(self, parts: list[Part]) -> list[Any]:
        """The new parts, as parts for `FRAMES`, else as bytes."""
        chunks: list[Any] = []
        head: Any = b""
        copy = self._copy_below
        for part in parts[self._position :]:
            if isinstance(part, bytes):
                if not self._inside:
                    continue
                self._left -= len(part)
                if len(part) <= copy:
                    chunks.append(head + part if head else part)
                else:
                    if head:
                        chunks.append(head)
                    chunks.append(part)
                head = b""
                continue
            if head:
                chunks.append(head)
            head = self._head(part)
        if head:
            chunks.append(head)
        if self._frame == self._end and self._left <= 0:
            self.ended = True
        self._position = len(parts)
        if len(chunks) > 1 and copy and sum(map(len, chunks)) <= JOIN_BELOW:
            return [b"".join(chunks)]
        return chunks

    def _head(self, start: FrameStart) -> Any:
        self._frame += 1
        self._left = start.size
        if self._end is not None and self._frame > self._end:
            self._inside = False
            self.ended = True
            return b""
        self._inside = self._frame >= self._start
        if not self._inside:
            return b""
        if self._encoding is Encoding.FRAMES:
            return start
        if self._encoding is Encoding.PLAIN:
            return frame_header_plain(start.size)
        delta = start.timestamp - self._previous
        self._previous = start.timestamp
        return frame_header_timed(delta, start.size)


class ObjectEncoder:
    """Encodes for subgroup streams of moq-transport; `start` and `end` are ids of objects.

    Frames of a moq-lite publisher are objects with their number as id, and their timestamp as a property.
    """

    __slots__ = (
        *("_before", "_end", "_follows", "_inside", "_last", "_left", "_number", "_position"),
        *("_profile", "_start", "_subgroup", "ended"),
    )

    def __init__(self, encoding: Encoding, start: int = 0, end: int | None = None, first: int = 0) -> None:
        self._profile = OBJECT_FORMS[encoding]
        self._start = start
        self._end = end
        self._position = 0
        self._last = first - 1  # of an object
        self._before: dict[Subgroup, int] = {}  # of the last objects of each stream
        self._subgroup: Subgroup | None = None
        self._number = encode_varint if self._profile.quic_varints else encode_vi64
        self._follows = False  # there was a frame of a moq-lite publisher
        self._inside = False
        self._left = 0
        self.ended = False  # object `end` is complete

    def limit(self, end: int | None) -> None:
        self._end = end
        self.ended = end is not None and (self._last > end or (self._last == end and self._left <= 0))

    def take(self, parts: list[Part]) -> list[Any]:
        """The new parts as bytes, and as `Subgroup` where those of another stream follow."""
        chunks: list[Any] = []
        head = b""
        for part in parts[self._position :]:
            if not isinstance(part, bytes):
                if head:
                    chunks.append(head)
                head = self._head(part, chunks)
            elif self._inside:
                self._left -= len(part)
                if len(part) <= COPY_BELOW:
                    chunks.append(head + part if head else part)
                else:
                    if head:
                        chunks.append(head)
                    chunks.append(part)
                head = b""
        if head:
            chunks.append(head)
        if self._last == self._end and self._left <= 0:
            self.ended = True
        self._position = len(parts)
        return chunks if len(chunks) <= 1 else joined(chunks)

    def _head(self, start: FrameStart, chunks: list[Any]) -> bytes:
        self._left = start.size
        number = start.id if isinstance(start, Object) else self._last + 1
        self._last = number
        self._inside = number >= self._start
        if self._end is not None and number > self._end:
            self._inside = False
            self.ended = True
        if not self._inside:
            return b""
        if not isinstance(start, Object):
            return self._frame_head(start, number)
        subgroup = start.subgroup
        if subgroup is not self._subgroup:
            self._subgroup = subgroup
            chunks.append(subgroup)
        before = self._before.get(subgroup)
        self._before[subgroup] = number
        header = ObjectHeader(number, start.size, start.properties)
        return object_header(header, before, self._profile, has_properties=True)

    def _frame_head(self, start: FrameStart, number: int) -> bytes:
        """Writes like `object_header`: a frame of a moq-lite publisher follows the one before."""
        encode = self._number
        delta = b"\0" if self._follows else encode(number)
        self._follows = True
        timestamp = encode(start.timestamp)
        status = b"" if start.size else b"\0"
        return b"".join((delta, _SIZES[len(timestamp)], timestamp, encode(start.size), status))


def joined(chunks: list[Any]) -> list[Any]:
    """The chunks, with neighbouring bytes joined up to `JOIN_BELOW`."""
    result: list[Any] = []
    run: list[bytes] = []
    size = 0
    for chunk in chunks:
        if not isinstance(chunk, bytes) or size + len(chunk) > JOIN_BELOW:
            if run:
                result.append(run[0] if len(run) == 1 else b"".join(run))
            run, size = [], 0
        if isinstance(chunk, bytes):
            run.append(chunk)
            size += len(chunk)
        else:
            result.append(chunk)
    if run:
        result.append(run[0] if len(run) == 1 else b"".join(run))
    return result


def encoder_of(
    encoding: Encoding, start: int = 0, end: int | None = None, first: int = 0
) -> Encoder | ObjectEncoder:
    """The encoder of a group whose first frame here is `first`."""
    kind = ObjectEncoder if encoding >= Encoding.OBJECTS_14 else Encoder
    return kind(encoding, start, end, first)


class EncodedGroup(Group):
    """A group with the encodings that readers use."""

    __slots__ = ("_encodings",)

    def __init__(self, sequence: int, now: float, first_frame: int = 0) -> None:
        super().__init__(sequence, now, first_frame)
        # each encoder with all its chunks so far
        self._encodings: dict[Encoding, tuple[Encoder | ObjectEncoder, list[Any]]] = {}

    def clear(self) -> None:
        super().clear()
        self._encodings.clear()

    def update(self, encoding: Encoding) -> tuple[Any, ...]:
        """Encode the new chunks, and return them."""
        shared = self._encodings.get(encoding)
        if shared is None:
            first = self.first_frame
            shared = self._encodings[encoding] = encoder_of(encoding, first, first=first), []
        encoder, chunks = shared
        fresh = encoder.take(self.parts)
        chunks += fresh
        return tuple(fresh)

    def encoded(self, encoding: Encoding) -> tuple[Any, ...]:
        """The whole group so far, for a late subscriber."""
        self.update(encoding)
        return tuple(self._encodings[encoding][1])
