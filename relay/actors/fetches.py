"""Part of the track actor: fetches of whole groups, cached or from upstream."""

from __future__ import annotations

from typing import NamedTuple

from relay.actors import messages as m
from relay.actors.numbers import Numbers
from relay.actors.runtime import Ref, send
from relay.actors.upstream import Upstream
from relay.model.cache import GroupCache
from relay.moq.encoding import EncodedGroup
from relay.moq.feed import GroupFetch
from relay.moq.session import Location
from relay.wire.errors import StreamCode


class Fetch(NamedTuple):
    """A running fetch."""

    request: m.Fetch
    part: GroupFetch
    largest: Location | None  # of the track, when the fetch came

    def feed(self) -> bool:
        """Send new chunks. True at the end of the group."""
        subscriber, key, new = self.request.subscriber, self.request.key, self.part.take()
        if new.code is not None:
            send(subscriber, m.Refused(key, new.code))
            return True
        if (new.chunks or new.fin) and not send(subscriber, m.FetchData(key, new, self.largest)):
            return True
        return new.fin


class Fetches:
    """The fetches of one track."""

    __slots__ = ("_by_group", "_coming", "_most", "_numbers", "_track", "_upstream", "all", "size")

    def __init__(self, track: Ref, upstream: Upstream, numbers: Numbers, most: int) -> None:
        """`most`: bytes of groups held for fetches alone."""
        self._track, self._upstream, self._numbers, self._most = track, upstream, numbers, most
        self.all: dict[m.Key, Fetch] = {}
        self._by_group: dict[int, dict[m.Key, Fetch]] = {}  # by `id` of the group
        self._coming: dict[int, EncodedGroup] = {}  # requested upstream
        self.size = 0  # bytes held for fetches alone

    def begin(self, request: m.Fetch, cache: GroupCache[EncodedGroup], now: float) -> bool:
        """False if the publisher's connection has ended."""
        wanted = request.params.start_group
        group = cache.newest if wanted is None else cache.groups.get(wanted)
        if wanted is not None and (group is None or group.code is not None):
            group = self._coming.get(wanted)  # it may be whole upstream
        published = None if wanted is None else self._numbers.published(wanted)
        if group is not None:
            self._serve(request, group, cache.largest)
        elif wanted is None or published is None:  # another publisher's, or none yet
            send(request.subscriber, m.Refused(request.key, StreamCode.NOT_FOUND))
        else:
            self._coming[wanted] = group = EncodedGroup(wanted, now)
            self._serve(request, group, cache.largest)
            return self._upstream.fetch(wanted, published, request.params.priority)
        return True

    def _serve(self, request: m.Fetch, group: EncodedGroup, largest: Location | None) -> None:
        """Serve a fetch from a group, which may still grow."""
        params = request.params
        part = GroupFetch(group, request.encoding, params.start_frame, params.end_frame)
        fetch = Fetch(request, part, largest)
        if not fetch.feed() and send(request.subscriber, m.Accepted(request.key, self._track)):
            key = (request.subscriber.actor_urn, request.key)
            self.all[key] = fetch
            self._by_group.setdefault(id(group), {})[key] = fetch

    def take(self, part: m.GroupPart) -> None:
        group = next(filter(None, map(self._coming.get, self._numbers.all_of(part.sequence))), None)
        if group is None:
            return
        self._upstream.answer(group.sequence)
        before = group.size
        group.extend(self._numbers.part(part, group.sequence).parts)
        self.size += group.size - before
        group.finished, group.code = part.fin, part.code
        if self.size > self._most:
            self._upstream.over_limit("cache_track", fetch=group.sequence)
            if group.open:
                self._upstream.stop_fetch(group.sequence)
            group.code = StreamCode.GROUP_TOO_LARGE
        self.feed(group)

    def feed(self, group: EncodedGroup) -> None:
        for key, fetch in list(self._by_group.get(id(group), {}).items()):
            if fetch.feed():
                self._drop(key)
        self._let_go(group)

    def _drop(self, key: m.Key) -> Fetch | None:
        fetch = self.all.pop(key, None)
        if fetch is not None:
            same = self._by_group[id(fetch.part.group)]
            del same[key]
            if not same:
                del self._by_group[id(fetch.part.group)]
        return fetch

    def _let_go(self, group: EncodedGroup) -> None:
        """Drop an upstream group that is complete or unread."""
        sequence = group.sequence
        if self._coming.get(sequence) is not group or (group.open and id(group) in self._by_group):
            return
        del self._coming[sequence]
        self.size -= group.size
        if group.open:
            self._upstream.stop_fetch(sequence)

    def leave(self, key: m.Key) -> None:
        fetch = self._drop(key)
        if fetch is not None:
            self._let_go(fetch.part.group)

    def fail(self, sequence: int, code: int) -> None:
        group = self._coming.get(sequence)
        if group is not None:
            group.code = code
            self._upstream.stop_fetch(sequence)
            self.feed(group)

    def give_up(self, code: int) -> None:
        for sequence in list(self._coming):
            self.fail(sequence, code)

    def refuse(self, code: int) -> None:
        for fetch in self.all.values():
            send(fetch.request.subscriber, m.Refused(fetch.request.key, code))
        self.all.clear()
        self._by_group.clear()
        self._coming.clear()
        self.size = 0
