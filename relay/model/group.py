"""Groups: the unit of caching and of delivery.

A group holds its frames as they came: `FrameHeader`, then the pieces of its payload, which are the same `bytes` objects
from the decoder to the packet. `relay.moq.encoding` derives byte streams from it. Never reads a clock.
"""

from __future__ import annotations

from collections.abc import Iterable

from relay.wire.frame import FrameHeader

FRAME_OVERHEAD = 128
"""Bytes that one frame costs besides its payload, so that empty frames count against the cache too."""


class Group:
    """One group: open until `finish` or `abort`."""

    __slots__ = (
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
        self.frames = self.size = 0
