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

    def feed(self) -> None:
        """Some groups may have grown."""
        for key, waiter in list(self._waiters.items()):
            if waiter.feed():
                del self._waiters[key]
        wanted = {id(waiter.group) for waiter in self._waiters.values()}
        self._coming = {s: group for s, group in self._coming.items() if group.open and id(group) in wanted}

    def leave(self, key: tuple[str, int]) -> None:
        """A fetcher goes."""
        if self._waiters.pop(key, None) is not None:
            self.feed()

    def refuse(self, code: int) -> None:
        """The track is over."""
        for waiter in self._waiters.values():
            send(waiter.request.subscriber, m.Refused(waiter.request.key, code))
        self._waiters.clear()
        self._coming.clear()
