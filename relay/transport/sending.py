"""The order in which the streams of one session are sent.

Owns the place of each stream that has something to send: ready, by priority, or waiting for the peer to allow more data
or more streams. Must never know what a stream holds or how it is written. Sessions over WebSocket and in memory use it.
"""

from __future__ import annotations

import bisect
from enum import Enum
from typing import Generic, TypeVar


class Place(Enum):
    """Where a stream stands."""

    IDLE = "idle"
    """It has nothing to send."""

    READY = "ready"
    BLOCKED = "blocked"
    """The peer has to allow more data (flow control)."""

    UNOPENED = "unopened"
    """The peer has to allow more streams."""


class Sender:
    """What the queue knows of a stream. Kinds of streams inherit it."""

    __slots__ = ("order", "place", "unidirectional")

    def __init__(self, order: tuple[int, int], *, unidirectional: bool) -> None:
        self.order = order
        """Sorts by urgency, the most urgent last: (priority, minus the number of its opening)."""
        self.place = Place.IDLE
        self.unidirectional = unidirectional


S = TypeVar("S", bound=Sender)


class SendQueue(Generic[S]):
    """Streams with something to send."""

    __slots__ = ("_blocked", "_ready", "_unopened")

    def __init__(self) -> None:
        self._ready: list[S] = []  # sorted, the most urgent last
        self._blocked: dict[S, None] = {}
        self._unopened: dict[bool, dict[S, None]] = {True: {}, False: {}}

    def __bool__(self) -> bool:
        return bool(self._ready or self._blocked or self._unopened[True] or self._unopened[False])

    @property
    def top(self) -> S | None:
        """The most urgent stream that is ready."""
        return self._ready[-1] if self._ready else None

    def add(self, stream: S) -> bool:
        """Make a stream ready, unless it has a place already; whether it had none."""
        if stream.place is not Place.IDLE:
            return False
        bisect.insort(self._ready, stream, key=urgency)
        stream.place = Place.READY
        return True

    def done(self) -> None:
        """The most urgent stream has nothing more to send."""
        self._ready.pop().place = Place.IDLE

    def block(self) -> None:
        """The most urgent stream may send no more data now."""
        stream = self._ready.pop()
        self._blocked[stream] = None
        stream.place = Place.BLOCKED

    def hold(self) -> None:
        """The most urgent stream may not be opened now."""
        stream = self._ready.pop()
        self._unopened[stream.unidirectional][stream] = None
        stream.place = Place.UNOPENED

    def unblock(self) -> None:
        """More data is allowed, perhaps not for all."""
        streams, self._blocked = self._blocked, {}
        self._return(streams)

    def admit(self, *, unidirectional: bool) -> None:
        """More streams of one kind are allowed, perhaps not all."""
        streams, self._unopened[unidirectional] = self._unopened[unidirectional], {}
        self._return(streams)

    def remove(self, stream: S) -> None:
        """Take a stream out, wherever it is."""
        match stream.place:
            case Place.READY:
                del self._ready[bisect.bisect_left(self._ready, stream.order, key=urgency)]
            case Place.BLOCKED:
                del self._blocked[stream]
            case Place.UNOPENED:
                del self._unopened[stream.unidirectional][stream]
        stream.place = Place.IDLE

    def reorder(self, stream: S, order: tuple[int, int]) -> None:
        """Give a stream another urgency, wherever it is."""
        if stream.place is Place.READY:
            self.remove(stream)
            stream.order = order
            self.add(stream)
        else:
            stream.order = order

    def clear(self) -> None:
        """Take all out."""
        for stream in (*self._ready, *self._blocked, *self._unopened[True], *self._unopened[False]):
            stream.place = Place.IDLE
        self._ready.clear()
        self._blocked.clear()
        self._unopened = {True: {}, False: {}}

    def _return(self, streams: dict[S, None]) -> None:
        for stream in streams:
            stream.place = Place.IDLE
            self.add(stream)


def urgency(stream: Sender) -> tuple[int, int]:
    """Sort key: the most urgent stream comes last."""
    return stream.order
