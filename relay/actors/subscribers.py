"""Part of the track actor: its subscriptions, delivery, and the end of bounded ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from relay.actors import messages as m
from relay.actors.groups import TrackGroups
from relay.actors.runtime import Timer, send
from relay.model.group import Object
from relay.model.numbering import MAX_SEQUENCE
from relay.model.track import SubscribeParams
from relay.moq.encoding import EncodedGroup, Encoding
from relay.moq.feed import Feed, shared_fragments


class RangeOverdue(NamedTuple):
    """Timer: wait no longer for groups of a bounded subscription."""

    subscriber: m.Key


class Subscriber:
    """One subscription."""

    __slots__ = ("feed", "key", "overdue", "ref", "relay", "renumbered")

    def __init__(self, request: m.Subscribe, start: int) -> None:
        self.ref = request.subscriber
        self.key = request.key
        self.relay = request.relay
        self.feed = Feed(request.encoding, request.params, start)
        self.overdue: Timer | None = None  # runs while an earlier group than its last is missing
        self.renumbered: tuple[int, int] | None = None  # its first group, and that group's number for it

    @property
    def id(self) -> m.Key:
        return self.ref.actor_urn, self.key

    def deliver(self, fragments: tuple[m.GroupFragment, ...]) -> bool:
        """False if the subscriber has ended."""
        if self.renumbered is not None:
            number, other = self.renumbered
            fragments = tuple(p._replace(sequence=other) if p.sequence == number else p for p in fragments)
        return send(self.ref, m.Deliver(self.key, fragments))

    def end(self, groups: TrackGroups, final: int | None = None) -> None:
        """`final`: the track's end; None: the end of its range."""
        last = self.feed.params.end_group
        own = MAX_SEQUENCE if last is None else min(last + 1, MAX_SEQUENCE)
        missing = groups.lost(self.feed.start, (own if final is None else min(own, final)) - 1)
        send(self.ref, m.Ended(self.key, own if final is None else final, missing))


class Subscribers:
    """The subscriptions of one track."""

    __slots__ = ("_call_later", "all", "bounded", "changed")

    def __init__(self, call_later: Callable[[float, object], Timer]) -> None:
        self.all: dict[m.Key, Subscriber] = {}
        self._call_later = call_later
        self.bounded: dict[m.Key, Subscriber] = {}  # with a last group
        self.changed = False  # since the last turn

    @property
    def relays(self) -> int:
        return sum(subscriber.relay for subscriber in self.all.values())

    @property
    def wanted(self) -> list[SubscribeParams]:
        return [subscriber.feed.params for subscriber in self.all.values()]

    def add(self, subscriber: Subscriber) -> None:
        self.all[subscriber.id] = subscriber
        self.changed = True
        self.bind(subscriber)

    def bind(self, subscriber: Subscriber) -> None:
        self.changed = True
        self._unbind(subscriber)
        if subscriber.feed.params.end_group is not None:
            self.bounded[subscriber.id] = subscriber

    def _unbind(self, subscriber: Subscriber) -> None:
        self.bounded.pop(subscriber.id, None)
        if subscriber.overdue is not None:
            subscriber.overdue.cancel()
            subscriber.overdue = None

    def remove(self, key: m.Key) -> None:
        subscriber = self.all.pop(key, None)
        if subscriber is not None:
            self.changed = True
            self._unbind(subscriber)

    def deliver(self, touched: Sequence[tuple[EncodedGroup, bool]]) -> list[m.Key]:
        """One message per subscriber. Returns subscribers that have ended."""
        shared: dict[Encoding, tuple[m.GroupFragment, ...]] = {}
        lowest, past = MAX_SEQUENCE, False
        for group, _ in touched:
            lowest, past = min(lowest, group.sequence), past or group.past
        gone: list[m.Key] = []
        for key, subscriber in self.all.items():
            feed = subscriber.feed
            fragments = shared.get(feed.encoding)
            if fragments is None:
                fragments = shared[feed.encoding] = shared_fragments(touched, feed.encoding)
            if past or feed.is_narrow(lowest):
                fragments = feed.narrow(touched, fragments)
            if not fragments:
                continue
            if subscriber.renumbered is not None:
                alive = subscriber.deliver(fragments)
            else:
                alive = send(subscriber.ref, m.Deliver(subscriber.key, fragments))
            if not alive:
                gone.append(key)
        return gone

    def deliver_datagram(self, number: int, timestamp: int, payload: bytes, start: Object | None) -> None:
        for subscriber in self.all.values():
            send(subscriber.ref, m.DeliverDatagram(subscriber.key, number, timestamp, payload, start))

    # --- the end

    def complete(
        self, groups: TrackGroups, first: int | None, patience: float, concerns: Callable[[m.Key], bool]
    ) -> list[Subscriber]:
        """Bounded subscriptions with all groups; late groups get `patience` seconds.

        `concerns(key)`: older ones may come.
        """
        latest = groups.seen.last
        complete: list[Subscriber] = []
        for key, subscriber in self.bounded.items():
            feed, last = subscriber.feed, subscriber.feed.params.end_group or 0
            if feed.start <= last and (latest is None or latest < last):
                continue
            if concerns(key) or self._is_awaiting(subscriber, groups):
                continue
            if not groups.missing(feed.start, last, first):
                complete.append(subscriber)
            elif subscriber.overdue is None:
                subscriber.overdue = self._call_later(patience, RangeOverdue(key))
        return complete

    @staticmethod
    def _is_awaiting(subscriber: Subscriber, groups: TrackGroups) -> bool:
        """A group it wants may grow."""
        return not all(map(subscriber.feed.is_over, groups.unfinished.values()))

    def overdue(self, key: m.Key, groups: TrackGroups) -> Subscriber | None:
        subscriber = self.bounded.get(key)
        if subscriber is None or subscriber.overdue is None:
            return None
        subscriber.overdue = None
        return None if self._is_awaiting(subscriber, groups) else subscriber

    def finish(self, groups: TrackGroups, final: int) -> None:
        for subscriber in self.all.values():
            subscriber.end(groups, final)
        self._clear()

    def refuse(self, answer: type[m.Refused | m.PublisherLost], code: int) -> None:
        for subscriber in self.all.values():
            send(subscriber.ref, answer(subscriber.key, code))
        self._clear()

    def _clear(self) -> None:
        for subscriber in list(self.bounded.values()):
            self._unbind(subscriber)
        self.all.clear()
