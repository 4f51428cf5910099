"""Inbox of the directory (`relay.model.directory`), whose effects it carries out.

It owns broadcast actors, watchers, waiting requests and group numbers, and forwards requests to broadcasts.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from relay.actors import messages as m
from relay.actors.events import Happened
from relay.actors.runtime import LoopActor, Ref, Timer, send
from relay.actors.track_offers import TrackOffers
from relay.model.directory import Directory, Later, LingerOver, Notice, Notify, Resume, Settled
from relay.model.events import Kind
from relay.model.numbering import Numbering
from relay.model.path import covers
from relay.model.route import Publication
from relay.runtime import Runtime
from relay.wire.errors import StreamCode

Request: TypeAlias = m.Subscribe | m.Describe | m.Fetch

NUMBERS_KEPT = 5.0  # seconds in which viewers of a lost track resume where they were
MOST_WAITING = 10_000  # requests waiting for a publisher to return


class NumbersForgotten(NamedTuple):
    """Timer: viewers of a lost track had time to ask again."""

    key: tuple[str, str]


class Publisher(NamedTuple):
    """The actors of one publication."""

    connection: Ref
    broadcast: Ref


class OriginActor(LoopActor):
    """One per relay."""

    def __init__(
        self,
        runtime: Runtime,
        on_failure: Callable[[BaseException], None] | None = None,
        *,
        linger: float = 0.0,
        members: str = "",
        events: Ref | None = None,
    ) -> None:
        """`on_failure`: its failure is fatal. `linger`: seconds. `members`: path of the relays' names."""
        super().__init__(runtime)
        self._on_failure = on_failure
        self._events = events
        self._directory = Directory(linger=linger, members=members)
        self._offers = TrackOffers()
        self._ids = itertools.count(1)
        self._publishers: dict[int, Publisher] = {}  # by publication; withdrawn ones while they run
        self._watchers: dict[int, dict[int, Ref]] = {}  # by session and number
        self._waiting: dict[int, dict[m.Key, Request]] = {}  # by the lingering publication
        self._awaited: dict[m.Key, int] = {}  # the inverse
        self._finding: dict[m.Key, m.Find] = {}  # waiting for an announcement
        self._numbers: dict[tuple[str, str], Numbering] = {}
        """By path and track name: running, or soon asked for again."""
        self._numbers_kept: dict[tuple[str, str], Timer] = {}

    def __str__(self) -> str:
        return "origin"

    def on_receive(self, message: object) -> object:  # noqa: C901, PLR0912 - one line per message
        directory = self._directory
        match message:
            case m.Subscribe() | m.Describe() | m.Fetch():
                self._route(message)
            case m.Find():
                self._on_find(message)
            case m.Unsubscribe():
                self._on_leave((message.subscriber.actor_urn, message.key))
            case m.Announce():
                self._on_announce(message)
            case m.Reroute():
                directory.reroute(message.session, message.path, message.generation, message.route)
            case m.Unannounce():
                directory.unannounce(message.session, message.path, message.generation, said=message.said)
            case m.SessionGone():
                self._watchers.pop(message.session, None)
                self._offers.gone(message.session)
                directory.session_gone(message.session, lost=message.lost)
            case m.Leaving():
                directory.session_leaving(message.session)
            case m.Alive():
                directory.session_alive(message.session, alive=message.alive)
            case m.BroadcastOver():
                self._on_broadcast_over(message.publication, message.path)
            case m.Watch():
                self._on_watch(message)
            case m.Unwatch():
                self._watchers.get(message.session, {}).pop(message.watch, None)
                directory.watchers.remove(message.session, message.watch)
            case m.NewLimits():
                directory.linger = message.limits.linger
            case LingerOver() | Settled():
                directory.on_timer(message)
            case m.AskNumbers():
                self._on_ask_numbers(message)
            case m.NumbersOver():
                self._on_numbers_over(message)
            case NumbersForgotten():
                self._forget_numbers(message.key)
            case m.ListPublications():
                return self._publications(message.prefixes)
            case m.ListWithdrawn():
                return tuple(self._published(p, serving=False) for p in directory.withdrawn(message.prefixes))
            case m.CountBroadcasts():
                return directory.publications.count
            case m.ListAnnounced():
                return directory.announcements(message.prefixes)
            case _:
                if not self._offers.on_message(message):
                    return super().on_receive(message)
        self._carry_out()
        return None

    def on_end(self, error: BaseException | None) -> None:
        if error is not None and self._on_failure is not None:
            self._on_failure(error)

    # --- publications and watchers

    def _on_announce(self, message: m.Announce) -> None:
        number = next(self._ids)
        self._publishers[number] = Publisher(message.connection, message.broadcast)
        publication = Publication(
            number, message.session, message.path, message.generation, message.route,
            message.prefix, message.tentative, message.relayed, message.onward,
        )  # fmt: skip
        self._report(Kind.ANNOUNCED, publication)
        self._directory.announce(publication)
        self._carry_out()
        for key, find in list(self._finding.items()):
            if covers(message.path, find.paths[0]) and (path := self._announced(find)) is not None:
                del self._finding[key]
                send(find.subscriber, m.Found(find.key, path))

    def _report(self, kind: Kind, publication: Publication, reason: str | None = None) -> None:
        """Broadcasts of this relay's own publishers are events; other relays report theirs."""
        own = not (publication.relayed or self._directory.publications.is_member(publication.path))
        if self._events is not None and own:
            path = publication.path
            send(self._events, Happened(kind, publication.session, None, path, reason))

    def _on_watch(self, message: m.Watch) -> None:
        interest = message.interest
        self._watchers.setdefault(interest.session, {})[interest.watch] = message.watcher
        offers = self._directory.watchers.add(interest)
        send(message.watcher, m.WatchStarted(interest.watch, offers))

    def _on_broadcast_over(self, publication: int, path: str) -> None:
        if self._directory.broadcast_over(publication, path):
            del self._publishers[publication]

    def _carry_out(self) -> None:
        for effect in self._directory.poll():
            match effect:
                case m.WatchChanged():
                    send(self._watchers[effect.session][effect.watch], effect)
                case Notify():
                    self._notify(effect)
                case Later():
                    self.call_later(effect.seconds, effect.timer)
                case Resume():
                    for key, request in self._waiting.pop(effect.publication.id, {}).items():
                        del self._awaited[key]
                        self._route(request)

    def _notify(self, effect: Notify) -> None:
        publication, notice = effect
        publisher = self._publishers[publication.id]
        match notice:
            case Notice.CHECK_ALIVE:
                send(publisher.connection, m.CheckAlive())
            case Notice.ROUTE_CHANGED | Notice.PUBLISHER_LOST:
                send(publisher.broadcast, m.RouteChanged(lost=notice is Notice.PUBLISHER_LOST))
            case Notice.WITHDRAWN:
                if not publication.lingering:
                    goes_on = self._directory.publications.at(publication.path)
                    self._report(Kind.ENDED, publication, "another publisher goes on" if goes_on else None)
                if not send(publisher.broadcast, m.Withdraw(self.actor_ref, publication.id)):
                    self._on_broadcast_over(publication.id, publication.path)

    # --- requests

    def _route(self, request: Request) -> None:
        chosen = self._directory.serving(request.path, request.session, request.exclude)
        if chosen is not None and chosen.lingering:
            waiting = self._waiting.setdefault(chosen.id, {})
            if not isinstance(request, m.Fetch) and len(waiting) < MOST_WAITING:
                key = request.subscriber.actor_urn, request.key
                waiting[key] = request
                self._awaited[key] = chosen.id
                return
        elif chosen is not None:
            broadcast = self._publishers[chosen.id].broadcast
            if send(broadcast, request._replace(life=chosen.life)):
                return
        send(request.subscriber, m.Refused(request.key, StreamCode.UNROUTABLE))

    def _announced(self, find: m.Find) -> str | None:
        return self._directory.publications.announced(find.paths)

    def _on_find(self, find: m.Find) -> None:
        path = self._announced(find)
        if path is None and find.wait:
            self._finding[find.subscriber.actor_urn, find.key] = find
        else:
            send(find.subscriber, m.Found(find.key, path))

    def _on_leave(self, key: m.Key) -> None:
        self._finding.pop(key, None)
        awaited = self._awaited.pop(key, None)
        if awaited is not None:
            del self._waiting[awaited][key]

    # --- lists

    def _published(self, publication: Publication, *, serving: bool) -> m.Published:
        broadcast = self._publishers[publication.id].broadcast
        return m.Published(publication.path, publication.session, publication.route, serving, broadcast)

    def _publications(self, prefixes: tuple[str, ...]) -> tuple[m.Published, ...]:
        table = self._directory.publications
        return tuple(
            self._published(publication, serving=table.serves(publication))
            for path in sorted(table.under(prefixes))
            for publication in table.at(path)
        )

    # --- numbers of groups

    def _on_ask_numbers(self, message: m.AskNumbers) -> None:
        numbering = self._numbers.setdefault((message.path, message.name), Numbering())
        span = numbering.ask(message.track.actor_urn, message.life, message.sequence, message.floor)
        numbering.timescale = numbering.timescale or message.timescale
        send(message.track, m.Numbered(span, numbering.free, numbering.timescale))

    def _on_numbers_over(self, message: m.NumbersOver) -> None:
        key = message.path, message.name
        numbering = self._numbers.get(key)
        if numbering is None:
            return
        numbering.leave(message.track.actor_urn, message.following)
        numbering.timescale = numbering.timescale or message.timescale
        if message.watched:
            self._stop_keeping(key)
            kept = self.call_later(self._directory.linger + NUMBERS_KEPT, NumbersForgotten(key))
            self._numbers_kept[key] = kept
        elif not numbering.used and key not in self._numbers_kept:
            del self._numbers[key]

    def _stop_keeping(self, key: tuple[str, str]) -> None:
        kept = self._numbers_kept.pop(key, None)
        if kept is not None:
            kept.cancel()

    def _forget_numbers(self, key: tuple[str, str]) -> None:
        self._stop_keeping(key)
        numbering = self._numbers.get(key)
        if numbering is not None and not numbering.used:
            del self._numbers[key]
