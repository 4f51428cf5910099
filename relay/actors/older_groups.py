"""Groups older than those that a track is given anyway: asked of the publisher for one subscriber at a time.

The upstream subscription of a track begins where its first subscriber wanted it to. A later subscriber that wants more
of the past gets it by a second subscription upstream, which ends before the first group of the other. Part of the track
actor.
"""

from __future__ import annotations

from typing import NamedTuple

from relay.actors import messages as m
from relay.actors.groups import TrackGroups
from relay.actors.numbers import Numbers
from relay.actors.runtime import Timer
from relay.actors.subscribers import Subscribers
from relay.actors.upstream import Owner, Upstream
from relay.model.cache import GroupCache
from relay.model.ranges import Ranges
from relay.model.track import SubscribeParams
from relay.moq.encoding import EncodedGroup
from relay.wire.errors import StreamCode


class PastOverdue(NamedTuple):
    """Timer: nothing more is expected of a request for the past."""

    number: int


def past_of(
    params: SubscribeParams,
    opened: SubscribeParams,
    lowest: int,
    cache: GroupCache[EncodedGroup],
    max_age: int,
) -> SubscribeParams | None:
    """The range before group `lowest` that a subscriber wants; None if it wants none.

    `opened` are the first parameters of our running subscription, `max_age` is in the track's timescale.
    """
    start = params.start_group
    explicit = start is not None and not params.start_is_floor
    evicted = cache.floor > 0
    first = start or 0
    if first >= lowest:
        return None
    if explicit:
        came = opened.start_group is not None and opened.start_group <= first
    elif not params.history_ms or cache.covers(max_age):
        return None
    else:
        came = opened.history_ms >= params.history_ms
    if came and not evicted:
        return None  # all that the publisher had then is here
    return params._replace(end_group=lowest - 1, start_frame=0, end_frame=None)


class PastRequest:
    """A range of the past that the publisher is asked for."""

    __slots__ = ("end", "explicit", "first", "key", "lowest", "number", "start")

    def __init__(self, number: int, key: m.Key, wanted: SubscribeParams) -> None:
        assert wanted.end_group is not None
        self.number = number
        self.key = key
        """The subscriber that wants it."""
        self.start, self.end = wanted.start_group or 0, wanted.end_group
        """Both included."""
        self.explicit = wanted.start_group is not None and not wanted.start_is_floor
        """It names its first group, and not an age."""
        self.first: int | None = None
        """Its first group, if the publisher named it."""
        self.lowest = self.end + 1
        """Its oldest group that came."""

    def came(self, sequence: int) -> bool:
        """A group of it begins; False if it was not asked for."""
        if not self.start <= sequence <= self.end:
            return False
        self.lowest = min(self.lowest, sequence)
        return True

    def answered(self) -> None:
        """The publisher has no more of it."""
        if self.first is None and self.explicit:
            self.first = self.start

    def complete(self, seen: Ranges) -> bool:
        """All its groups have begun to arrive, where the publisher said how many there are."""
        return self.first is not None and not seen.gaps(self.first, self.end)


class Past:
    """The requests for the past of one track."""

    __slots__ = (
        *("_groups", "_number", "_numbers", "_owner", "_subscribers", "_timeout"),
        *("_timer", "_upstream", "queue", "request"),
    )

    def __init__(
        self,
        owner: Owner,
        upstream: Upstream,
        numbers: Numbers,
        groups: TrackGroups,
        subscribers: Subscribers,
        timeout: float,
    ) -> None:
        """`timeout` is for each sign of life of a request, in seconds."""
        self._owner, self._upstream, self._numbers = owner, upstream, numbers
        self._groups, self._subscribers = groups, subscribers
        self._timeout = timeout
        self.queue: dict[m.Key, None] = {}
        """Subscribers that may want more of the past than is here."""
        self.request: PastRequest | None = None
        self._number = 0
        self._timer: Timer | None = None

    def concerns(self, key: m.Key) -> bool:
        """True if that subscriber still waits for the past."""
        return key in self.queue or (self.request is not None and key == self.request.key)

    def want(self, key: m.Key) -> None:
        """A subscriber may want more of the past than is here."""
        self.queue[key] = None

    def drop(self, key: m.Key) -> None:
        """A subscriber has gone."""
        self.queue.pop(key, None)
        if self.request is not None and self.request.key == key:
            self._close()

    def seek(self, *, wait: bool) -> None:
        """Ask the publisher for the next range, if none is under way.

        With `wait` the track may still begin: the past ends before its first group.
        """
        while self.request is None and self.queue:
            lowest = self._groups.lowest(self._numbers.first)
            if lowest is None and wait:
                return
            key = next(iter(self.queue))
            del self.queue[key]
            wanted = None if lowest is None else self._wanted(key, lowest)
            last = None if wanted is None else self._numbers.published(wanted.end_group or 0)
            if wanted is not None and last is not None:
                self._begin(key, wanted, last)

    def _wanted(self, key: m.Key, lowest: int) -> SubscribeParams | None:
        subscriber = self._subscribers.all.get(key)
        if subscriber is None:
            return None
        params, opened = subscriber.feed.params, self._upstream.opened or SubscribeParams()
        return past_of(params, opened, lowest, self._groups.cache, self._numbers.age(params))

    def _begin(self, key: m.Key, wanted: SubscribeParams, last: int) -> None:
        self._number += 1
        self.request = PastRequest(self._number, key, wanted)
        subscriber = self._subscribers.all.get(key)
        if subscriber is not None:
            subscriber.feed.past = self.request.start
        first = None if wanted.start_group is None else self._numbers.published(wanted.start_group) or 0
        self._wait(self._timeout)
        self._upstream.open_past(self._number, wanted._replace(start_group=first, end_group=last))

    def on_message(
        self, message: m.PastGroups | m.PastStarted | m.PastOver | PastOverdue, now: float
    ) -> None:
        """The publisher has answered, or has not."""
        request = self.request
        if request is None or message.number != request.number:
            return
        match message:
            case m.PastGroups():
                self._groups.take(self._translated(request, message.parts), now, past=True)
            case m.PastStarted():
                request.first = None if message.group is None else self._numbers.shown(message.group)
            case m.PastOver():
                request.answered()
                self._wait(message.patience)
            case PastOverdue():
                if not self._groups.past_arrives:
                    self._close()
                    return
                self._wait(self._timeout)
        if request.complete(self._groups.seen) and not self._groups.past_arrives:
            self._close()

    def _translated(self, request: PastRequest, parts: tuple[m.GroupPart, ...]) -> list[m.GroupPart]:
        found = []
        for part in parts:
            number = self._numbers.shown(part.sequence)
            if number is not None and request.came(number):
                found.append(part if self._numbers.plain else self._numbers.part(part, number))
            elif not part.fin and part.code is None:
                self._upstream.stop_published(part.sequence, StreamCode.OLD, past=True)
        return found

    def _wait(self, seconds: float) -> None:
        self._cancel()
        self._timer = self._owner.call_later(seconds, PastOverdue(self._number))

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def fail(self) -> None:
        """The publisher is gone."""
        self.request = None
        self.queue.clear()
        self._cancel()

    def _close(self) -> None:
        request, self.request = self.request, None
        assert request is not None
        self._cancel()
        self._upstream.close_past()
        self._groups.break_off(StreamCode.CANCELLED, past=True)
        subscriber = self._subscribers.all.get(request.key)
        if subscriber is not None and not request.explicit:
            self._owner.flush()
            subscriber.feed.past = request.lowest  # groups of the past for others are not for it
