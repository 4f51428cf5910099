"""Groups: the unit of caching and delivery. `relay.moq.encoding` derives byte streams from them.

A group holds frames as they came: the start, then chunks of payload, the same `bytes` objects from decoder to packet.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeAlias

FRAME_OVERHEAD = 128  # bytes of a frame besides its payload: empty frames count against the cache, too


class FrameStart(Protocol):
    """The start of a frame."""

    @property
    def timestamp(self) -> int:
        """In units of the track."""

    @property
    def size(self) -> int:
        """Bytes of payload, which follow."""


Part: TypeAlias = FrameStart | bytes  # the start of a frame, or a chunk of the payload that follows it


class Group:
    """One group: open until `finish` or `abort`."""

    __slots__ = (
        *("arrived", "code", "finished", "first_frame", "first_timestamp", "frames"),
        *("last_timestamp", "parts", "past", "sequence", "size"),
    )

    def __init__(self, sequence: int, now: float, first_frame: int = 0) -> None:
        self.sequence = sequence
        self.first_frame = first_frame  # the first frame we hold; above 0 in a partial group
        self.arrived = now
        self.past = False  # it came by a request for the past, not by the running subscription
        self.parts: list[Part] = []
        self.frames = 0
        self.size = 0
        self.finished = False
        self.code: int | None = None  # stream code the group was aborted with
        self.first_timestamp: int | None = None
        self.last_timestamp: int | None = None

    @property
    def payload(self) -> int:
        """Bytes of payload held."""
        return self.size - self.frames * FRAME_OVERHEAD

    @property
    def open(self) -> bool:
        """More may come."""
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
            own.append(part)

    def clear(self) -> None:
        """Drop the content."""
        self.parts.clear()
        self.frames = self.size = 0
