"""Groups older than those that a track is given anyway: asked of the publisher for one subscriber at a time.

The upstream subscription of a track begins where its first subscriber wanted it to. A later subscriber that wants more
of the past gets it by a second subscription upstream, which ends before the first group of the other. Part of the track
actor, which sends what `Past` decides.
"""

from __future__ import annotations

from relay.actors import messages as m
from relay.actors.runtime import Timer
from relay.model.cache import GroupCache
from relay.model.ranges import Ranges
from relay.model.track import SubscribeParams
from relay.moq.encoding import EncodedGroup


def past_of(
    interest: SubscribeParams,
    opened: SubscribeParams,
    lowest: int,
    cache: GroupCache[EncodedGroup],
    max_age: int,
) -> SubscribeParams | None:
    """What a subscriber wants of the time before group `lowest`; None if nothing.

    `opened` is what our running subscription began with, `max_age` the wanted age in the track's timescale.
    """
    start = interest.start_group
    explicit = start is not None and not interest.start_is_floor
    evicted = cache.floor > 0
    first = start or 0
    if first >= lowest:
        return None
    if explicit:
        came = opened.start_group is not None and opened.start_group <= first
    elif not interest.history_ms or cache.covers(max_age):
        return None
    else:
        came = opened.history_ms >= interest.history_ms
    if came and not evicted:
        return None  # all that the publisher had then is here
    return interest._replace(end_group=lowest - 1, start_frame=0, end_frame=None)


class Past:
    """Who wants the past, and what is under way of it."""

    __slots__ = ("_queue", "end", "explicit", "first", "key", "lowest", "number", "start", "timer")

    def __init__(self) -> None:
        self._queue: dict[m.Key, None] = {}
        self.number = 0
        """Of the latest request upstream."""
        self.key: m.Key | None = None
        """The subscriber for whom it was made; None once it is over."""
        self.start = self.end = 0
        """Its range, both included."""
        self.first: int | None = None
        """What it began with, if the publisher said so."""
        self.explicit = False
        """Whether it names its first group, and not an age."""
        self.lowest = 0
        """The oldest group that came of it."""
        self.timer: Timer | None = None

    def __bool__(self) -> bool:
        return self.key is not None or bool(self._queue)

    def concerns(self, key: m.Key) -> bool:
        """Whether that subscriber has the past still before it."""
        return key == self.key or key in self._queue

    def want(self, key: m.Key) -> None:
        """A subscriber may want more of the past than is here."""
        self._queue[key] = None

    def next(self) -> m.Key | None:
        """Whose turn it is, if nothing is under way."""
        return next(iter(self._queue), None) if self.key is None else None

    def drop(self, key: m.Key) -> None:
        """A subscriber waits no longer."""
        self._queue.pop(key, None)

    def begin(self, key: m.Key, wanted: SubscribeParams) -> None:
        """The publisher is asked."""
        assert wanted.end_group is not None
        self.drop(key)
        self.key = key
        self.number += 1
        self.start, self.end = wanted.start_group or 0, wanted.end_group
        self.explicit = wanted.start_group is not None and not wanted.start_is_floor
        self.first, self.lowest = None, self.end + 1

    def came(self, sequence: int) -> bool:
        """A group of it begins; False if it was not asked for."""
        if not self.start <= sequence <= self.end:
            return False
        self.lowest = min(self.lowest, sequence)
        return True

    def over(self) -> None:
        """The publisher has said all it has."""
        if self.first is None and self.explicit:
            self.first = self.start

    def complete(self, seen: Ranges) -> bool:
        """Whether all groups of it have begun to arrive, where the publisher said how many there are."""
        return self.first is not None and not seen.gaps(self.first, self.end)

    def finish(self) -> None:
        """It is over."""
        self.key = None
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
