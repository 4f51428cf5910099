"""The origin actor: the directory of what is published where, and who wants to know.

It knows, for each path, the publications of it (one per announcing session) in order of arrival, and picks the one
that serves. Requests for a path are forwarded to the chosen publication's broadcast actor. Which publication wins:

* Of the publishers that are connected to this relay the one that announced last takes the path over; the others wait as
  fallback, newest first. Only then come those of other relays, the nearest first: were it the newest there too, relays
  that hear of two publishers in different orders would hand them to each other for ever.
* Publications with the same original publisher are routes to the same content; the cheapest of them serves.
* A tentative publication (perhaps an echo of our own announcement) serves only when no other one does. One of a session
  that is about to end (GOAWAY) comes after those that stay.
* Who announces a path makes the sessions that published it before be asked for a sign of life: a publisher that restarts
  leaves its old session behind. One that gives none serves, and is offered, only where nobody else publishes the path at
  all, and its viewers ask again.
* A publication whose session broke off lingers if it was the only one: watchers hear nothing, and requests wait. Whoever
  announces the path in time takes its place as if nothing had happened.
* What is announced under `members` concerns relays alone, and is offered to no other watcher.
* After a withdrawal by another relay, `model/withdrawals.py` says which of the other routes are used and announced.
* A relay that is itself connected to the one we have a path from hears of it there: a second route, by way of us, is
  announced to it when that connection ends. Each relay tells who it is connected to by how it passes on their names
  under `members`. Otherwise every relay of a full mesh would announce every path to every other one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple

from relay.actors import messages as m
from relay.actors.runtime import LoopActor, Timer, send
from relay.model.numbering import Numbering
from relay.model.path import Ordered, ancestors, covers
from relay.model.route import UNKNOWN_HOP, Route, same_publisher
from relay.model.withdrawals import SETTLE, Withdrawals
from relay.wire.errors import StreamCode


class Publication:
    """One session's announcement of one path."""

    __slots__ = (
        "broadcast",
        "connection",
        "dead",
        "generation",
        "leaving",
        "life",
        "onward",
        "order",
        "path",
        "prefix",
        "relayed",
        "route",
        "session",
        "tentative",
        "usable",
        "waiting",
    )

    def __init__(self, message: m.Announce, order: int) -> None:
        self.session = message.session
        self.connection = message.connection
        self.path = message.path
        self.generation = message.generation
        self.route = message.route
        self.broadcast = message.broadcast
        self.prefix = message.prefix
        self.tentative = message.tentative
        self.relayed = message.relayed
        self.onward = message.onward
        self.waiting: dict[m.Key, m.Subscribe | m.Describe] | None = None
        """Requests, while it lingers."""
        self.dead = False
        """Whether its session did not answer when it was asked for a sign of life."""
        self.leaving = False
        """Whether its session has said that it is about to end."""
        self.usable = True
        """Whether its route leads through no peer of ours that has withdrawn the path."""
        self.order = order
        self.life = order
        """Equal for routes that were announced beside each other: the groups of one are those of the other."""

    @property
    def standing(self) -> tuple[bool, bool, bool, bool]:
        """How far it can be trusted to be real, and to stay; more is better."""
        return (not self.dead, not self.tentative, self.waiting is None, not self.leaving)


class Watcher:
    """One announce interest of one session."""

    __slots__ = (
        "exclude",
        "known",
        "one_hop",
        "prefixes",
        "ref",
        "relay",
        "routes_above",
        "session",
        "watch",
    )

    def __init__(self, message: m.Watch) -> None:
        self.ref = message.watcher
        self.session = message.session
        self.watch = message.watch
        self.prefixes = message.prefixes
        self.exclude = message.exclude
        self.routes_above = message.routes_above
        self.relay = message.relay
        self.one_hop = message.one_hop
        self.known: dict[str, m.Offered] = {}
        """What the watcher was last told of each path."""

    def sees(self, publication: Publication) -> bool:
        """A route is of no use to those it leads through."""
        if publication.session == self.session:
            return False
        if self.relay and not (publication.onward and not (self.one_hop and publication.relayed)):
            return False
        return not self.exclude or self.exclude not in publication.route.hops


class Snapshot(NamedTuple):
    """Counts for logs and tests."""

    paths: int
    publications: int
    watchers: int


def best(publications: Iterable[Publication]) -> Publication | None:
    """The publication that serves, among those a requester can use."""
    present = [p for p in publications if p.usable]
    if len(present) <= 1:
        return present[0] if present else None
    standing = max(p.standing for p in present)
    trusted = [p for p in present if p.standing == standing]
    own = [p for p in trusted if not p.relayed]
    chosen = max(own, key=lambda p: p.order) if own else min(trusted, key=_distance)
    alike = [p for p in trusted if same_publisher(p.route, chosen.route)]
    return min(alike, key=_distance, default=chosen)


def _beside(one: Publication, other: Publication) -> bool:
    """Whether both are routes to one publisher at the same time, so that they have the same groups.

    An id alone proves nothing: a publisher that comes back may have begun anew. Two sessions of its own may be the
    former one, which hangs, and the next. If we have lost a relay on the route, and the other route leads to the same
    relay of the publisher, then that has not lost the publisher.
    """
    if not same_publisher(one.route, other.route) or one.route.hops == other.route.hops:
        return False
    return one.waiting is None or (one.relayed and one.route.hops[:2] == other.route.hops[:2])


def _distance(publication: Publication) -> tuple[object, ...]:
    """Sort key, nearest first. The hops decide between equal costs, so that all relays decide alike."""
    route = publication.route
    return (route.cost(), route.hops, -publication.order)


class NumbersForgotten(NamedTuple):
    """Timer: viewers of a lost track have had time to ask again."""

    key: tuple[str, str]


NUMBERS_KEPT = 5.0
"""Seconds after the loss of a track, and of its broadcast, in which viewers go on where they were."""


class LingerOver(NamedTuple):
    """Timer: nobody came back."""

    publication: Publication


class Settled(NamedTuple):
    """Timer: what is left of a path after a withdrawal may be announced, unless there was another one since."""

    path: str
    turn: int


_MEMBER_AND_PEER = 2
"""Hops of a member's name as a relay passes it on that is connected to the member."""

MOST_WAITING = 10_000
"""Requests that wait for one publisher to come back."""


class OriginActor(LoopActor):
    """The directory of one relay."""

    def __init__(
        self,
        on_failure: Callable[[BaseException], None] | None = None,
        *,
        linger: float = 0.0,
        members: str = "",
    ) -> None:
        """`on_failure` hears of the one failure that a relay does not survive: that of its directory.

        `linger` is in seconds. `members` is the path under which the relays of a cluster announce themselves.
        """
        super().__init__()
        self._linger = linger
        self._members = members
        self._on_failure = on_failure
        self._paths: dict[str, list[Publication]] = {}
        self._ordered = Ordered()
        """The same paths."""
        self._prefix_routes = 0
        self._by_session: dict[int, dict[str, Publication]] = {}
        self._leaving: set[int] = set()
        """Sessions that are about to end."""
        self._watchers: dict[int, dict[int, Watcher]] = {}
        """By session and number."""
        self._by_prefix: dict[str, dict[tuple[int, int], Watcher]] = {}
        self._prefixes = Ordered()
        """The same prefixes."""
        self._waiting: dict[m.Key, Publication] = {}
        """Where requests wait for a publisher to come back."""
        self._withdrawn: dict[str, dict[str, Publication]] = {}
        """Out of the directory, but with viewers still; by path and the URN of the broadcast."""
        self._finding: dict[m.Key, m.Find] = {}
        """Those who wait for a path to be announced."""
        self._numbers: dict[tuple[str, str], Numbering] = {}
        """By path and name of the track, of those that run or whose viewers are about to ask again."""
        self._numbers_kept: dict[tuple[str, str], Timer] = {}
        self._withdrawals: dict[str, Withdrawals] = {}
        """By path, where they still matter."""
        self._denying: set[int] = set()
        """Sessions whose peers those withdrawals come from."""
        self._neighbours: dict[int, dict[int, str]] = {}
        """By session with a relay: other relays that it is connected to, as hop ids, with the paths of their names."""
        self._order = itertools.count(1)

    def __str__(self) -> str:
        return "origin"

    def on_receive(self, message: object) -> object:  # noqa: C901, PLR0912 - one line per message
        match message:
            case m.Subscribe() | m.Describe() | m.Fetch():
                self._route(message)
            case m.Find():
                self._on_find(message)
            case m.BroadcastOver():
                self._on_broadcast_over(message)
            case m.AskNumbers():
                self._on_ask_numbers(message)
            case m.NumbersOver():
                self._on_numbers_over(message)
            case NumbersForgotten():
                self._forget_numbers(message.key)
            case m.Leave():
                self._on_leave((message.subscriber.actor_urn, message.key))
            case m.Announce():
                self._on_announce(message)
            case m.Reroute():
                self._on_reroute(message)
            case m.Unannounce():
                publication = self._by_session.get(message.session, {}).get(message.path)
                if publication is not None and publication.generation == message.generation:
                    self._withdraw(publication, said=message.said)
            case m.SessionGone():
                self._on_session_gone(message.session, lost=message.lost)
            case m.Leaving():
                self._on_leaving(message.session)
            case m.NewLimits():
                self._linger = message.limits.linger
            case LingerOver():
                self._on_linger_over(message.publication)
            case Settled():
                self._on_settled(message)
            case m.Alive():
                self._on_alive(message.session, alive=message.alive)
            case m.Watch():
                self._on_watch(message)
            case m.Unwatch():
                self._drop_watcher(message.session, message.watch)
            case m.ListPublications():
                return self._publications(message.prefixes)
            case m.ListWithdrawn():
                return self._running_on(message.prefixes)
            case m.ListAnnounced():
                return self._list(message.prefixes)
            case m.Count():
                publications, watchers = self._paths.values(), self._watchers.values()
                return Snapshot(len(self._paths), sum(map(len, publications)), sum(map(len, watchers)))
            case _:
                return super().on_receive(message)
        return None

    def on_end(self, error: BaseException | None) -> None:
        if error is not None and self._on_failure is not None:
            self._on_failure(error)

    # --- publications ----------------------------------------------------------------------------------------------

    def _on_announce(self, message: m.Announce) -> None:
        mine = self._by_session.setdefault(message.session, {})
        former = mine.get(message.path)
        if former is not None:
            self._withdraw(former, said=True)
            mine = self._by_session.setdefault(message.session, {})
        publication = Publication(message, next(self._order))
        publication.leaving = message.session in self._leaving
        mine[message.path] = publication
        self._prefix_routes += publication.prefix
        self._judge_new(publication)
        present = self._present(message.path)
        publication.life = next((p.life for p in present if _beside(p, publication)), publication.life)
        lingering = next((p for p in present if p.waiting is not None), None)
        if lingering is not None and not publication.tentative:
            self._succeed(lingering, publication)
            return
        for other in (*present, *self._withdrawn.get(message.path, {}).values()):
            # two routes of other relays, or two echoes, say nothing about each other's sessions
            alike = (other.relayed and publication.relayed) or (other.tentative and publication.tentative)
            if not alike and other.session != publication.session:
                send(other.connection, m.CheckAlive())
        present.append(publication)
        self._abandon_dead(message.path)
        self._learn_neighbour(publication)
        self._tell(message.path)
        if self._finding:
            self._end_finding(message.path)

    def _on_reroute(self, message: m.Reroute) -> None:
        publication = self._by_session.get(message.session, {}).get(message.path)
        if publication is not None and publication.generation == message.generation:
            former, served = publication.route, self._serves(publication)
            publication.route = message.route
            if publication.relayed:
                send(publication.broadcast, m.Unsure())
            if served and message.route.hops != former.hops and message.route.cost() >= former.cost():
                self._settle(publication, former)
            self._judge_new(publication)
            self._learn_neighbour(publication)
            self._tell(message.path)

    def _withdraw(self, publication: Publication, *, said: bool = False) -> None:
        """`said`: by the peer itself, in a session that goes on."""
        served = self._serves(publication)
        self._remove(publication)
        if publication.relayed:
            send(publication.broadcast, m.Unsure())
        send(publication.broadcast, m.Retire(self.actor_ref))
        if served:
            self._settle(publication, publication.route)
        if said and publication.relayed:
            self._deny(publication)
        self._drop_withdrawals(publication.path)
        self._learn_neighbour(publication)
        self._tell(publication.path)

    def _serves(self, publication: Publication) -> bool:
        return best(self._paths[publication.path]) is publication

    # --- after a withdrawal ----------------------------------------------------------------------------------------

    def _settle(self, publication: Publication, lost: Route) -> None:
        """The route that served is gone: what takes its place has to prove itself before it is announced."""
        if publication.relayed and not self._is_member(publication.path):
            withdrawals = self._withdrawals.setdefault(publication.path, Withdrawals())
            withdrawals.lost(lost)
            self.call_later(SETTLE, Settled(publication.path, withdrawals.turn))

    def _on_settled(self, timer: Settled) -> None:
        withdrawals = self._withdrawals.get(timer.path)
        if withdrawals is not None and withdrawals.turn == timer.turn:
            withdrawals.settled()
            self._drop_withdrawals(timer.path)
            self._tell(timer.path)

    def _drop_withdrawals(self, path: str) -> None:
        """Forget what no longer matters: a path that is gone matters until it has settled."""
        withdrawals = self._withdrawals.get(path)
        if withdrawals is not None and not (withdrawals.settling or (withdrawals and path in self._paths)):
            del self._withdrawals[path]

    def _deny(self, withdrawn: Publication) -> None:
        """A relay says that it has no more of a path: neither have others by way of it."""
        present = self._paths.get(withdrawn.path, ())
        end = withdrawn.route.hops[-1:]
        if any(p.route.hops[-1:] == end for p in present):
            return  # there is another session with it, which says otherwise
        withdrawals = self._withdrawals.setdefault(withdrawn.path, Withdrawals())
        withdrawals.withdrawn(withdrawn.session, withdrawn.route)
        self._denying.add(withdrawn.session)
        self._judge(present, withdrawals)

    def _judge(self, present: Iterable[Publication], withdrawals: Withdrawals) -> None:
        for publication in present:
            usable = withdrawals.usable(publication.route)
            if publication.usable and not usable and publication.relayed:
                send(publication.broadcast, m.Unsure())
            publication.usable = usable

    def _judge_new(self, publication: Publication) -> None:
        """A publication is new, or has a new route."""
        withdrawals = self._withdrawals.get(publication.path)
        if withdrawals is None:
            return
        if publication.relayed and withdrawals.announced(publication.route):
            self._judge(self._paths.get(publication.path, ()), withdrawals)
        publication.usable = withdrawals.usable(publication.route)

    def _forget_peer(self, session: int) -> None:
        """A session has ended: what its peer withdrew says nothing any more of the routes through it."""
        if session not in self._denying:
            return
        self._denying.discard(session)
        for path, withdrawals in list(self._withdrawals.items()):
            if withdrawals.session_ended(session):
                self._judge(self._paths.get(path, ()), withdrawals)
                self._drop_withdrawals(path)
                self._tell(path)

    def _remove(self, publication: Publication) -> None:
        """Out of every table."""
        mine = self._by_session[publication.session]
        del mine[publication.path]
        if not mine:
            del self._by_session[publication.session]
        self._prefix_routes -= publication.prefix
        present = self._paths[publication.path]
        present.remove(publication)
        if not present:
            del self._paths[publication.path]
            self._ordered.remove(publication.path)
        if publication.broadcast.is_alive():
            still = self._withdrawn.setdefault(publication.path, {})
            still[publication.broadcast.actor_urn] = publication

    def _on_broadcast_over(self, message: m.BroadcastOver) -> None:
        still = self._withdrawn.get(message.path, {})
        still.pop(message.broadcast.actor_urn, None)
        if not still:
            self._withdrawn.pop(message.path, None)

    def _present(self, path: str) -> list[Publication]:
        """The publications of a path, to add one."""
        present = self._paths.get(path)
        if present is None:
            present = self._paths[path] = []
            self._ordered.add(path)
        return present

    def _on_leaving(self, session: int) -> None:
        """What is asked for from now on comes from others, where there are any; what runs goes on."""
        self._leaving.add(session)
        for path, publication in list(self._by_session.get(session, {}).items()):
            publication.leaving = True
            self._tell(path)

    def _on_session_gone(self, session: int, *, lost: bool) -> None:
        self._leaving.discard(session)
        for watch in list(self._watchers.get(session, ())):
            self._drop_watcher(session, watch)
        publications = list(self._by_session.get(session, {}).values())
        linger = self._linger if lost else 0.0
        if any(self._names_its_relay(p) for p in publications):
            # the relay goes on without this session: others announce now what they had left to it
            linger = max(linger, SETTLE)
        for publication in publications:
            alone = self._serves(publication) and sum(p.usable for p in self._paths[publication.path]) == 1
            if linger and alone and not self._is_member(publication.path):
                publication.waiting = {}
                send(publication.broadcast, m.Retire(self.actor_ref))
                self.call_later(linger, LingerOver(publication))
            else:
                self._withdraw(publication)
        self._forget_peer(session)
        self._neighbours.pop(session, None)

    def _on_linger_over(self, publication: Publication) -> None:
        if publication.waiting is None:
            return
        waiting = self._no_longer_waiting(publication)
        self._withdraw(publication)
        for request in waiting:
            self._route(request)  # to what may have been in its shadow; else they are refused

    def _succeed(self, lingering: Publication, publication: Publication) -> None:
        """Its publisher, or another one, is back in time: the same broadcast to everybody who knows of it."""
        waiting = self._no_longer_waiting(lingering)
        publication.order = lingering.order
        self._remove(lingering)
        self._present(publication.path).append(publication)
        self._tell(publication.path)
        for request in waiting:
            self._route(request)

    def _is_member(self, path: str) -> bool:
        return bool(self._members) and covers(self._members, path)

    def _on_alive(self, session: int, *, alive: bool) -> None:
        """A publisher was asked for a sign of life because somebody else announced its path."""
        for path, publication in list(self._by_session.get(session, {}).items()):
            if publication.dead == alive:
                publication.dead = not alive
                chosen = best(self._paths[path])
                if chosen is not None and not chosen.dead:
                    chosen.tentative = False  # it has taken over, so it is no echo
                self._abandon_dead(path)
                self._tell(path)
        for path, still in self._withdrawn.items():
            changed = [p for p in still.values() if p.session == session and p.dead == alive]
            for publication in changed:
                publication.dead = not alive
            if changed:
                self._abandon_dead(path)

    def _living(self, path: str) -> list[Publication]:
        """The publications that may serve a path: those found dead only if all are.

        Also towards those who cannot use the living ones: another relay with a publisher of its own goes on waiting for
        ours as long as we offer it.
        """
        present = [p for p in self._paths.get(path, ()) if p.usable]
        return [p for p in present if not p.dead] or present

    def _abandon_dead(self, path: str) -> None:
        """Viewers of publishers that were found dead ask again, if somebody else publishes the path."""
        present = self._paths.get(path, [])
        if all(p.dead for p in present):
            return
        for publication in (*present, *self._withdrawn.get(path, {}).values()):
            if publication.dead:
                send(publication.broadcast, m.PublisherLost())

    # --- relays that are connected to each other -------------------------------------------------------------------

    def _learn_neighbour(self, publication: Publication) -> None:
        """The name of a member comes, changes or goes: note whether the relay that told us is connected to it."""
        path, session = publication.path, publication.session
        if not (publication.relayed and self._is_member(path)):
            return
        hops = publication.route.hops if self._by_session.get(session, {}).get(path) is publication else ()
        neighbours = self._neighbours.setdefault(session, {})
        former = next((hop for hop, name in neighbours.items() if name == path), None)
        now = hops[0] if len(hops) == _MEMBER_AND_PEER else None
        if former != now:
            neighbours.pop(former or UNKNOWN_HOP, None)
            if now:
                neighbours[now] = path
            if former:
                self._announce_second_routes(session, former)

    def _names_its_relay(self, publication: Publication) -> bool:
        """Whether it is the name of the relay that announces it."""
        return publication.relayed and self._is_member(publication.path) and len(publication.route.hops) == 1

    def _announce_second_routes(self, session: int, hop: int) -> None:
        """The relay of `session` is no longer connected to the relay `hop`: what comes from that may be news to it."""
        for watcher in self._watchers.get(session, {}).values():
            for path in self._under(watcher.prefixes):
                if any(p.route.hops[-1:] == (hop,) for p in self._paths[path]):
                    self._refresh(watcher, path, best(self._living(path)))

    def _has_its_own(self, watcher: Watcher, publication: Publication) -> bool:
        """Whether it is a relay that hears of this publication from the relay that announces it to us."""
        neighbours = self._neighbours.get(watcher.session)
        if (
            not neighbours
            or not watcher.relay
            or not publication.relayed
            or self._is_member(publication.path)
        ):
            return False
        return not neighbours.keys().isdisjoint(publication.route.hops[-1:])

    # --- requests --------------------------------------------------------------------------------------------------

    def _route(self, request: m.Subscribe | m.Describe | m.Fetch) -> None:
        for path in ancestors(request.path):
            exact = path == request.path
            if not exact and not self._prefix_routes:
                break
            usable = [
                p
                for p in self._living(path)
                if (exact or p.prefix)
                and p.session != request.session
                and not (request.exclude and request.exclude in p.route.hops)
            ]
            chosen = best(usable)
            if chosen is not None:
                if chosen.waiting is not None:
                    if not isinstance(request, m.Fetch) and len(chosen.waiting) < MOST_WAITING:
                        key = (request.subscriber.actor_urn, request.key)
                        chosen.waiting[key] = request
                        self._waiting[key] = chosen
                        return
                    break
                if send(chosen.broadcast, request._replace(life=chosen.life)):
                    return
                break
        send(request.subscriber, m.Refused(request.key, StreamCode.UNROUTABLE))

    def _on_find(self, find: m.Find) -> None:
        path = self._announced(find.paths)
        if path is None and find.wait:
            self._finding[find.subscriber.actor_urn, find.key] = find
        else:
            send(find.subscriber, m.Found(find.key, path))

    def _announced(self, paths: tuple[str, ...]) -> str | None:
        """The longest of the paths that is announced itself, else that a route above it serves (moq-lite-06)."""
        exact = next((path for path in paths if path in self._paths), None)
        if exact is not None or not self._prefix_routes:
            return exact
        return next(
            (
                path
                for path in paths
                if any(p.prefix for up in ancestors(path) for p in self._paths.get(up, ()))
            ),
            None,
        )

    def _end_finding(self, path: str) -> None:
        """`path` has been announced: answer those who wait for it, or for a path that it serves."""
        for key, find in list(self._finding.items()):
            if covers(path, find.paths[0]) and (found := self._announced(find.paths)) is not None:
                del self._finding[key]
                send(find.subscriber, m.Found(find.key, found))

    def _on_leave(self, key: m.Key) -> None:
        self._finding.pop(key, None)
        publication = self._waiting.pop(key, None)
        if publication is not None and publication.waiting is not None:
            del publication.waiting[key]

    def _no_longer_waiting(self, publication: Publication) -> Collection[m.Subscribe | m.Describe]:
        """The end of its lingering, and the requests that waited for that."""
        waiting, publication.waiting = publication.waiting or {}, None
        for key in waiting:
            self._waiting.pop(key, None)
        return waiting.values()

    # --- numbers of groups -----------------------------------------------------------------------------------------

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
            kept = self.call_later(self._linger + NUMBERS_KEPT, NumbersForgotten(key))
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

    # --- lists -----------------------------------------------------------------------------------------------------

    def _list(self, prefixes: tuple[str, ...]) -> tuple[m.Offered, ...]:
        found = []
        for path in self._under(prefixes):
            if not self._is_member(path):
                chosen = best(self._living(path))
                if chosen is not None:
                    found.append(m.Offered(path, chosen.route, chosen.order))
        return tuple(found)

    def _publications(self, prefixes: tuple[str, ...]) -> tuple[m.Published, ...]:
        found = []
        for path in sorted(self._under(prefixes)):
            publications = self._paths[path]
            chosen = best(publications)
            found += [m.Published(path, p.session, p.route, p is chosen, p.broadcast) for p in publications]
        return tuple(found)

    def _running_on(self, prefixes: tuple[str, ...]) -> tuple[m.Published, ...]:
        return tuple(
            m.Published(p.path, p.session, p.route, False, p.broadcast)
            for path, still in self._withdrawn.items()
            if any(covers(prefix, path) for prefix in prefixes)
            for p in still.values()
        )

    def _under(self, prefixes: tuple[str, ...]) -> dict[str, None]:
        """The paths that one of the prefixes covers, each once."""
        own = (prefix for prefix in prefixes if prefix in self._paths)
        return dict.fromkeys((*own, *(path for prefix in prefixes for path in self._ordered.below(prefix))))

    # --- watchers --------------------------------------------------------------------------------------------------

    def _on_watch(self, message: m.Watch) -> None:
        watcher = Watcher(message)
        key = (message.session, message.watch)
        self._watchers.setdefault(message.session, {})[message.watch] = watcher
        for prefix in watcher.prefixes:
            same = self._by_prefix.get(prefix)
            if same is None:
                same = self._by_prefix[prefix] = {}
                self._prefixes.add(prefix)
            same[key] = watcher
        for path in (*self._under(watcher.prefixes), *watcher.prefixes):
            offer = self._offer(watcher, path, best(self._living(path)))
            if offer is not None:
                watcher.known[path] = offer
        send(watcher.ref, m.WatchStarted(watcher.watch, tuple(watcher.known.values())))

    def _drop_watcher(self, session: int, watch: int) -> None:
        mine = self._watchers.get(session, {})
        watcher = mine.pop(watch, None)
        if watcher is None:
            return
        if not mine:
            del self._watchers[session]
        for prefix in watcher.prefixes:
            same = self._by_prefix[prefix]
            del same[session, watch]
            if not same:
                del self._by_prefix[prefix]
                self._prefixes.remove(prefix)

    def _offer(self, watcher: Watcher, path: str, first: Publication | None) -> m.Offered | None:
        """What the watcher may know of `path`, a path that one of its prefixes covers. `first` serves it here.

        A prefix itself is also served by the route above it, the longest one.
        """
        if (not watcher.relay or watcher.one_hop) and self._is_member(path):
            return None  # relays of old dial names that they can make nothing of
        chosen = self._best_for(watcher, path, first)
        if chosen is None and watcher.routes_above and self._prefix_routes and path in watcher.prefixes:
            for above in ancestors(path):
                chosen = best(p for p in self._living(above) if p.prefix and watcher.sees(p))
                if chosen is not None:
                    break
        if chosen is not None and path not in watcher.known and self._has_its_own(watcher, chosen):
            return None  # where it is known already, a connection of theirs may be too new to be relied on
        return None if chosen is None else m.Offered(path, chosen.route, chosen.order)

    def _best_for(self, watcher: Watcher, path: str, first: Publication | None) -> Publication | None:
        if first is None or (first.relayed and watcher.sees(first)):
            return first  # the nearest of all; only publishers of our own are not chosen by distance
        return best(p for p in self._living(path) if watcher.sees(p))

    def _tell(self, path: str) -> None:
        """Something about `path` changed: bring every watcher concerned up to date."""
        told: set[tuple[int, int]] = set()
        first = best(self._living(path))
        for prefix in ancestors(path):
            for key, watcher in self._by_prefix.get(prefix, {}).items():
                if key not in told:
                    told.add(key)
                    self._refresh(watcher, path, first)
        for prefix in self._prefixes.below(path):
            for watcher in self._by_prefix[prefix].values():
                if watcher.routes_above:
                    self._refresh(watcher, prefix, best(self._living(prefix)))

    def _refresh(self, watcher: Watcher, path: str, first: Publication | None) -> None:
        offer, known = self._offer(watcher, path, first), watcher.known.get(path)
        if offer == known:
            return
        if offer is not None and self._withdrawals:
            withdrawals = self._withdrawals.get(path)
            if withdrawals is not None and withdrawals.doubtful(offer.route):
                return  # told when the path has settled
        if offer is None:
            del watcher.known[path]
        else:
            watcher.known[path] = offer
        send(watcher.ref, m.WatchChanged(watcher.watch, path, offer))
