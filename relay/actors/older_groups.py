"""Part of the track actor: requests older groups upstream, for one subscriber at a time.

The first subscriber's start bounds the upstream subscription: later ones need a second for older groups.
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
    """Timer: expect no more of a request."""

    number: int


def past_of(
    params: SubscribeParams,
    opened: SubscribeParams,
    lowest: int,
    cache: GroupCache[EncodedGroup],
    max_age: int,
) -> SubscribeParams | None:
    """The wanted range before `lowest`. `opened`: our first parameters upstream; `max_age`: in track units."""
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
        return None  # the publisher's whole history is here
    return params._replace(end_group=lowest - 1, start_frame=0, end_frame=None)


class PastRequest:
    """A range of older groups."""

    __slots__ = ("end", "explicit", "first", "key", "lowest", "number", "start")

    def __init__(self, number: int, key: m.Key, wanted: SubscribeParams) -> None:
        assert wanted.end_group is not None
        self.number = number
        self.key = key
        self.start, self.end = wanted.start_group or 0, wanted.end_group
        self.explicit = wanted.start_group is not None and not wanted.start_is_floor
        """It names its first group, not an age."""
        self.first: int | None = None  # its first group, if the publisher said so
        self.lowest = self.end + 1  # the oldest arrived

    def came(self, sequence: int) -> bool:
        """False if the group was not requested."""
        if not self.start <= sequence <= self.end:
            return False
        self.lowest = min(self.lowest, sequence)
        return True

    def answered(self) -> None:
        """The publisher has no more of the range."""
        if self.first is None and self.explicit:
            self.first = self.start

    def complete(self, seen: Ranges) -> bool:
        """True if its first group is known, and all have begun to arrive."""
        return self.first is not None and not seen.gaps(self.first, self.end)


class Past:
    """The requests for older groups of one track."""

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
        """`timeout`: seconds without a sign of life."""
        self._owner, self._upstream, self._numbers = owner, upstream, numbers
        self._groups, self._subscribers = groups, subscribers
        self._timeout = timeout
        self.queue: dict[m.Key, None] = {}  # subscribers that may want older groups
        self.request: PastRequest | None = None
        self._number = 0
        self._timer: Timer | None = None

    def concerns(self, key: m.Key) -> bool:
        return key in self.queue or (self.request is not None and key == self.request.key)

    def want(self, key: m.Key) -> None:
        self.queue[key] = None

    def drop(self, key: m.Key) -> None:
        self.queue.pop(key, None)
        if self.request is not None and self.request.key == key:
            self._close()

    def seek(self, *, wait: bool) -> None:
        """Ask for the next range, one at a time. `wait` until the track begins: older groups end there."""
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
            subscriber.feed.past = request.lowest  # older groups for others are not for it
