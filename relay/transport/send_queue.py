"""The order in which streams are sent, and where those wait that may not be.

Owns the places of streams, each in at most one. Must never know what a stream holds. The streams of a session made of
messages use it.
"""

from __future__ import annotations

import bisect
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from relay.transport.framed_stream import FramedStream


class Place(Enum):
    """Where a stream waits to be sent."""

    NOWHERE = "nowhere"
    READY = "ready"
    BLOCKED = "blocked"
    """For the peer to allow more data."""
    WAITING = "waiting"
    """For the peer to allow more streams."""


class SendQueue:
    """Streams with something to send."""

    __slots__ = ("_blocked", "_ready", "_waiting")

    def __init__(self) -> None:
        self._ready: list[FramedStream] = []  # sorted, the most urgent last
        self._blocked: dict[FramedStream, None] = {}
        self._waiting: dict[bool, dict[FramedStream, None]] = {True: {}, False: {}}

    @property
    def top(self) -> FramedStream | None:
        """The most urgent stream that is ready."""
        return self._ready[-1] if self._ready else None

    def add(self, stream: FramedStream) -> bool:
        """Make a stream ready, unless it waits somewhere already; whether it did not."""
        if stream.place is not Place.NOWHERE:
            return False
        bisect.insort(self._ready, stream, key=urgency)
        stream.place = Place.READY
        return True

    def done(self) -> None:
        """The most urgent stream has nothing more to send."""
        self._ready.pop().place = Place.NOWHERE

    def block(self) -> None:
        """The most urgent stream may send no more data now."""
        stream = self._ready.pop()
        self._blocked[stream] = None
        stream.place = Place.BLOCKED

    def wait(self) -> None:
        """The most urgent stream may not be opened now."""
        stream = self._ready.pop()
        self._waiting[stream.unidirectional][stream] = None
        stream.place = Place.WAITING

    def unblock(self) -> None:
        """More data is allowed, perhaps not for all."""
        streams, self._blocked = self._blocked, {}
        self._return(streams)

    def admit(self, *, unidirectional: bool) -> None:
        """More streams of one kind are allowed, perhaps not all."""
        streams, self._waiting[unidirectional] = self._waiting[unidirectional], {}
        self._return(streams)

    def remove(self, stream: FramedStream) -> None:
        """Take a stream out, wherever it is."""
        match stream.place:
            case Place.READY:
                del self._ready[bisect.bisect_left(self._ready, stream.order, key=urgency)]
            case Place.BLOCKED:
                del self._blocked[stream]
            case Place.WAITING:
                del self._waiting[stream.unidirectional][stream]
        stream.place = Place.NOWHERE

    def reorder(self, stream: FramedStream, order: tuple[int, int]) -> None:
        """Give a stream another urgency, wherever it is."""
        if stream.place is Place.READY:
            self.remove(stream)
            stream.order = order
            self.add(stream)
        else:
            stream.order = order

    def clear(self) -> None:
        """Take all out."""
        for stream in (*self._ready, *self._blocked, *self._waiting[True], *self._waiting[False]):
            stream.place = Place.NOWHERE
        self._ready.clear()
        self._blocked.clear()
        self._waiting = {True: {}, False: {}}

    def _return(self, streams: dict[FramedStream, None]) -> None:
        for stream in streams:
            stream.place = Place.NOWHERE
            self.add(stream)


def urgency(stream: FramedStream) -> tuple[int, int]:
    """Sort key: the most urgent stream comes last."""
    return stream.order
