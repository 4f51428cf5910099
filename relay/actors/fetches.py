"""Fetches of single groups, as a track serves them. Part of the track actor.

A fetch reads one group, from the cache or on its way from upstream, and follows it to its end.
"""

from __future__ import annotations

from typing import NamedTuple

from relay.actors import messages as m
from relay.actors.runtime import Ref, send
from relay.model.group import Encoder, Group
from relay.wire.errors import StreamCode


class Waiter(NamedTuple):
    """One fetch under way."""

    request: m.Fetch
    group: Group
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
        self._waiters: dict[tuple[str, int], Waiter] = {}
        self._coming: dict[int, Group] = {}
        """Groups that were asked of upstream."""

    def __bool__(self) -> bool:
        return bool(self._waiters)

    @property
    def size(self) -> int:
        """Bytes held of groups that come from upstream for fetches alone."""
        return sum(group.size for group in self._coming.values())

    def serve(self, request: m.Fetch, group: Group, track: Ref) -> None:
        """Begin to answer from a group, which may still grow."""
        interest = request.interest
        if group.finished and interest.start_frame > group.first_frame + group.frames:
            send(request.subscriber, m.Refused(request.key, StreamCode.NOT_FOUND))
            return
        encoder = Encoder(request.dialect, interest.start_frame, interest.end_frame, group.first_frame)
        waiter = Waiter(request, group, encoder)
        if not waiter.feed() and send(request.subscriber, m.Accepted(request.key, track)):
            self._waiters[(request.subscriber.actor_urn, request.key)] = waiter

    def coming(self, sequence: int) -> Group | None:
        """The group with that sequence, if it is on its way."""
        return self._coming.get(sequence)

    def expect(self, group: Group) -> None:
        """Upstream was asked for a group."""
        self._coming[group.sequence] = group

    def feed(self) -> list[int]:
        """Some groups may have grown; those that upstream has not ended and nobody waits for any more."""
        for key, waiter in list(self._waiters.items()):
            if waiter.feed():
                del self._waiters[key]
        wanted = {id(waiter.group) for waiter in self._waiters.values()}
        left = [s for s, group in self._coming.items() if group.open and id(group) not in wanted]
        self._coming = {s: group for s, group in self._coming.items() if group.open and id(group) in wanted}
        return left

    def leave(self, key: tuple[str, int]) -> list[int]:
        """A fetcher goes; the groups that nobody waits for any more."""
        return [] if self._waiters.pop(key, None) is None else self.feed()

    def give_up(self, code: int) -> list[int]:
        """Refuse those who wait for groups from upstream; these groups."""
        given_up = list(self._coming)
        for group in self._coming.values():
            group.code = code
        self.feed()
        return given_up

    def refuse(self, code: int) -> None:
        """The track is over."""
        for waiter in self._waiters.values():
            send(waiter.request.subscriber, m.Refused(waiter.request.key, code))
        self._waiters.clear()
        self._coming.clear()
