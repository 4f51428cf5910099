"""Groups: the unit of caching and delivery.

Chunks of payload are the same `bytes` from decoder to packet.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple, Protocol, TypeAlias

FRAME_OVERHEAD = 128  # bytes besides the payload: empty frames fill the cache, too


class FrameStart(Protocol):
    """The start of a frame."""

    @property
    def timestamp(self) -> int:
        """The timestamp in units of the track."""

    @property
    def size(self) -> int:
        """Bytes of payload."""


Part: TypeAlias = FrameStart | bytes  # a start, or a chunk of the payload after it

Properties: TypeAlias = tuple[tuple[int, int | bytes], ...]
"""Type and value, in the publisher's order."""


class Subgroup:
    """A subgroup of a moq-transport publisher, one stream: compared by identity."""

    __slots__ = ("ends_group", "number", "priority", "starts", "tail")

    def __init__(self, number: int, priority: int | None, *, starts: bool, ends_group: bool) -> None:
        self.number = number
        self.priority = priority  # None: that of the track
        self.starts = starts  # from its first object on
        self.ends_group = ends_group  # its last object is the group's
        self.tail: int | None = None
        """Ids between its last object, the highest of the group, and the end that the publisher has marked."""

    def __len__(self) -> int:
        """No bytes: among chunks it marks a place."""
        return 0

    def __bool__(self) -> bool:
        return True


class Object(NamedTuple):
    """The start of a frame of a moq-transport publisher. Ids ascend within a group, with gaps."""

    timestamp: int
    size: int
    id: int
    subgroup: Subgroup
    properties: Properties = ()

    @property
    def weight(self) -> int:
        return sum(16 if isinstance(value, int) else 16 + len(value) for _, value in self.properties)


class Group:
    """Open until `finish` or `abort`."""

    __slots__ = (
        *("arrived", "code", "finished", "first_frame", "first_timestamp", "frames"),
        *("last_timestamp", "parts", "past", "sequence", "size"),
    )

    def __init__(self, sequence: int, now: float, first_frame: int = 0) -> None:
        self.sequence = sequence
        self.first_frame = first_frame  # above 0 in a partial group
        self.arrived = now
        self.past = False  # requested as an older group
        self.parts: list[Part] = []
        self.frames = 0
        self.size = 0
        self.finished = False
        self.code: int | None = None  # of the abort
        self.first_timestamp: int | None = None
        self.last_timestamp: int | None = None

    @property
    def payload(self) -> int:
        return self.size - self.frames * FRAME_OVERHEAD

    @property
    def open(self) -> bool:
        return not self.finished and self.code is None

    def extend(self, parts: Iterable[Part]) -> None:
        own = self.parts
        for part in parts:
            if isinstance(part, bytes):
                self.size += len(part)
                own.append(part)
                continue
            timestamp = part.timestamp
            if self.first_timestamp is None:
                self.first_timestamp = timestamp
            if self.last_timestamp is None or timestamp > self.last_timestamp:
                self.last_timestamp = timestamp
            self.frames += 1
            self.size += FRAME_OVERHEAD
            if type(part) is Object:
                self.size += part.weight
            own.append(part)

    def complete(self) -> int:
        """The number of complete frames: all but perhaps the last."""
        missing, count = 0, self.frames
        for part in reversed(self.parts):
            if not isinstance(part, bytes):
                return count if missing >= part.size else count - 1
            missing += len(part)
        return count

    def largest(self) -> int | None:
        """Id of the last complete frame: its number, or that of a moq-transport publisher."""
        count = self.complete()
        if not count:
            return None
        if not isinstance(self.parts[0], Object):
            return self.first_frame + count - 1
        ids = [part.id for part in self.parts if isinstance(part, Object)]
        return max(ids[:count])

    def following(self) -> int:
        """The number of the frame behind the last complete one, or the id of the object."""
        last = self.largest()
        return self.first_frame if last is None else last + 1

    def clear(self) -> None:
        self.parts.clear()
        self.frames = self.size = 0


class FrameQueue:
    """Unread parts of one group. True if there is a whole frame."""

    __slots__ = ("_missing", "_starts", "parts")

    def __init__(self) -> None:
        self.parts: deque[Part] = deque()
        self._starts = 0  # of frames
        self._missing = 0  # bytes that the newest frame lacks

    def __bool__(self) -> bool:
        return self._starts > (self._missing > 0)

    def extend(self, parts: Iterable[Part]) -> None:
        for part in parts:
            self.parts.append(part)
            if isinstance(part, bytes):
                self._missing -= len(part)
            else:
                self._starts += 1
                self._missing = part.size

    def pop_part(self) -> Part:
        part = self.parts.popleft()
        self._starts -= not isinstance(part, bytes)
        return part

    def popleft(self) -> tuple[FrameStart, bytes]:
        """A whole frame. Skips the rest of a frame begun by `pop_part`."""
        start = self.pop_part()
        while isinstance(start, bytes):
            start = self.pop_part()
        chunks: list[bytes] = []
        missing = start.size
        while missing:
            chunk = self.parts.popleft()
            assert isinstance(chunk, bytes)
            chunks.append(chunk)
            missing -= len(chunk)
        return start, chunks[0] if len(chunks) == 1 else b"".join(chunks)
