"""Fetches of single groups, as a track serves them. Part of the track actor.

A fetch reads one group, from the cache or on its way from upstream, and follows it to its end.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from relay.actors import messages as m
from relay.actors.runtime import Ref, send
from relay.model.group import Part
from relay.moq.encoding import EncodedGroup, Encoder
from relay.wire.errors import StreamCode


class Waiter(NamedTuple):
    """One fetch under way."""

    request: m.Fetch
    group: EncodedGroup
    encoder: Encoder

    def feed(self) -> bool:
        """Send what is new of the group; whether the fetch is over."""
        request, group = self.request, self.group
        chunks = tuple(self.encoder.take(group.parts))
        if group.code is not None:
            send(request.subscriber, m.Refused(request.key, group.code))
            return True
        fin = group.finished or self.encoder.ended
        if (chunks or fin) and not send(request.subscriber, m.FetchData(request.key, chunks, fin)):
            return True
        return fin


class Fetches:
    """The fetches of one track."""

    def __init__(self) -> None:
        self._waiters: dict[m.Key, Waiter] = {}
        self._by_group: dict[int, dict[m.Key, Waiter]] = {}
        """The same, by the identity of the group that each reads."""
        self._coming: dict[int, EncodedGroup] = {}
        """Groups that were asked of upstream."""
        self.size = 0
        """Bytes held of groups that come from upstream for fetches alone."""

    def __bool__(self) -> bool:
        return bool(self._waiters)

    def serve(self, request: m.Fetch, group: EncodedGroup, track: Ref) -> None:
        """Begin to answer from a group, which may still grow."""
        interest = request.interest
        if group.finished and interest.start_frame > group.first_frame + group.frames:
            send(request.subscriber, m.Refused(request.key, StreamCode.NOT_FOUND))
            return
        encoder = Encoder(request.encoding, interest.start_frame, interest.end_frame, group.first_frame)
        waiter = Waiter(request, group, encoder)
        if not waiter.feed() and send(request.subscriber, m.Accepted(request.key, track)):
            key = (request.subscriber.actor_urn, request.key)
            self._waiters[key] = waiter
            self._by_group.setdefault(id(group), {})[key] = waiter

    def coming(self, sequence: int) -> EncodedGroup | None:
        """The group with that sequence, if it is on its way."""
        return self._coming.get(sequence)

    def expect(self, group: EncodedGroup) -> None:
        """Upstream was asked for a group."""
        self._coming[group.sequence] = group

    def extend(self, group: EncodedGroup, parts: Iterable[Part]) -> None:
        """Append to a group that is on its way."""
        before = group.size
        group.extend(parts)
        self.size += group.size - before

    def feed(self, group: EncodedGroup) -> list[int]:
        """It may have grown; its sequence, if upstream has not ended it and nobody waits for it any more."""
        for key, waiter in list(self._by_group.get(id(group), {}).items()):
            if waiter.feed():
                self._drop(key)
        return self._let_go(group)

    def _drop(self, key: m.Key) -> Waiter | None:
        waiter = self._waiters.pop(key, None)
        if waiter is not None:
            same = self._by_group[id(waiter.group)]
            del same[key]
            if not same:
                del self._by_group[id(waiter.group)]
        return waiter

    def _let_go(self, group: EncodedGroup) -> list[int]:
        if self._coming.get(group.sequence) is not group or (group.open and id(group) in self._by_group):
            return []
        del self._coming[group.sequence]
        self.size -= group.size
        return [group.sequence] if group.open else []

    def leave(self, key: m.Key) -> list[int]:
        """A fetcher goes; the group that nobody waits for any more."""
        waiter = self._drop(key)
        return [] if waiter is None else self._let_go(waiter.group)

    def give_up(self, code: int) -> list[int]:
        """Refuse those who wait for groups from upstream; these groups."""
        given_up = list(self._coming.values())
        for group in given_up:
            group.code = code
            self.feed(group)
        return [group.sequence for group in given_up]

    def refuse(self, code: int) -> None:
        """The track is over."""
        for waiter in self._waiters.values():
            send(waiter.request.subscriber, m.Refused(waiter.request.key, code))
        self._waiters.clear()
        self._by_group.clear()
        self._coming.clear()
        self.size = 0
