"""The directory: publishers of each path, the serving one, and its watchers.

Parts: `route.py` (preference), `publications.py` (table), `watchers.py` (offers), `withdrawals.py` (of relays). The
origin actor takes the effects with `poll`, timers included, and carries them out in order.

* A new announcement pings the path's other sessions, since a restarted publisher leaves its old session behind.
  One that does not answer serves only paths without another publisher; its viewers ask again.
* The only publication of a path lingers if its session breaks off: watchers get no news, requests wait, and the
  next publisher of the path replaces it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum, auto
from typing import NamedTuple, TypeAlias

from relay.model.path import covers
from relay.model.publications import Publications
from relay.model.route import Publication, Route, preferred, same_groups
from relay.model.watchers import Announcement, WatchChanged, Watchers
from relay.model.withdrawals import SETTLE, Withdrawals


class Notice(Enum):
    """News for a publication's session or broadcast."""

    CHECK_ALIVE = auto()  # another session announced the path: ping
    ROUTE_CHANGED = auto()  # its relay has another route, or none
    PUBLISHER_LOST = auto()  # and another publishes the path: viewers ask again
    WITHDRAWN = auto()  # `broadcast_over` follows its last track


class Notify(NamedTuple):
    """Effect: for a session or broadcast."""

    publication: Publication
    notice: Notice


class Resume(NamedTuple):
    """Effect: route again the requests that wait for a lingering publication."""

    publication: Publication


class LingerOver(NamedTuple):
    """Timer: no successor came."""

    publication: Publication


class Settled(NamedTuple):
    """Timer: announce the routes left, unless another withdrawal came since."""

    path: str
    turn: int


class Later(NamedTuple):
    """Effect: call `on_timer` in `seconds`."""

    seconds: float
    timer: LingerOver | Settled


Effect: TypeAlias = Notify | Resume | Later | WatchChanged


class Directory:
    """The directory of one relay."""

    def __init__(self, *, linger: float = 0.0, members: str = "") -> None:
        """`linger`: seconds. `members`: path of the relays' names."""
        self.linger = linger
        self.publications = Publications(members)
        self._effects: list[Effect] = []
        self._leaving: set[int] = set()
        self._withdrawn: dict[str, dict[int, Publication]] = {}  # still running; by path and id
        self._withdrawals: dict[str, Withdrawals] = {}  # by path, while they matter
        self.watchers = Watchers(self.publications, self._effects.append, self._withdrawals)
        self._denying: set[int] = set()

    def poll(self) -> list[Effect]:
        """Take the effects, in order."""
        effects = self._effects.copy()
        self._effects.clear()
        return effects

    # --- publications come and go

    def announce(self, publication: Publication) -> None:
        path, session = publication.path, publication.session
        former = self.publications.find(session, path)
        if former is not None:
            self._withdraw(former, said=True)
        publication.leaving = session in self._leaving
        self._judge_new(publication)
        present = tuple(self.publications.at(path))
        publication.life = next((p.life for p in present if same_groups(p, publication)), publication.life)
        self.publications.add(publication)
        lingering = next((p for p in present if p.lingering), None)
        if lingering is not None and not publication.tentative:
            publication.source = lingering.source
            lingering.lingering = False
            self._remove(lingering)
            self.watchers.refresh(path)
            self._effects.append(Resume(lingering))
            return
        for other in (*present, *self._withdrawn.get(path, {}).values()):
            # if both are of relays, or both echoes, neither disproves the other
            alike = (other.relayed and publication.relayed) or (other.tentative and publication.tentative)
            if not alike and other.session != session:
                self._notify(other, Notice.CHECK_ALIVE)
        self._abandon_dead(path)
        self.watchers.learn_neighbour(publication)
        self.watchers.refresh(path)

    def reroute(self, session: int, path: str, generation: int, route: Route) -> None:
        publication = self.publications.find(session, path)
        if publication is None or publication.generation != generation:
            return
        former, served = publication.route, self.publications.serves(publication)
        publication.route = route
        if publication.relayed:
            self._notify(publication, Notice.ROUTE_CHANGED)
        if served and route.hops != former.hops and route.cost() >= former.cost():
            self._settle(publication, former)
        self._judge_new(publication)
        self.watchers.learn_neighbour(publication)
        self.watchers.refresh(path)

    def unannounce(self, session: int, path: str, generation: int, *, said: bool) -> None:
        """`said`: by the peer itself, in a session that goes on."""
        publication = self.publications.find(session, path)
        if publication is not None and publication.generation == generation:
            self._withdraw(publication, said=said)

    def session_gone(self, session: int, *, lost: bool) -> None:
        """`lost`: neither side closed the connection."""
        self._leaving.discard(session)
        self.watchers.remove_session(session)
        table = self.publications
        publications = table.of(session)
        linger = self.linger if lost else 0.0
        if any(p.relayed and table.is_member(p.path) and len(p.route.hops) == 1 for p in publications):
            # a relay's name: others announce their routes to it now
            linger = max(linger, SETTLE)
        for publication in publications:
            alone = table.serves(publication) and sum(p.usable for p in table.at(publication.path)) == 1
            if linger and alone and not table.is_member(publication.path):
                publication.lingering = True
                self._notify(publication, Notice.WITHDRAWN)
                self._effects.append(Later(linger, LingerOver(publication)))
            else:
                self._withdraw(publication)
        self._forget_peer(session)
        self.watchers.forget_neighbours(session)

    def session_leaving(self, session: int) -> None:
        """Route new requests to other publishers."""
        self._leaving.add(session)
        for publication in self.publications.of(session):
            publication.leaving = True
            self.watchers.refresh(publication.path)

    def session_alive(self, session: int, *, alive: bool) -> None:
        for publication in self.publications.of(session):
            if publication.dead == alive:
                publication.dead = not alive
                chosen = preferred(self.publications.at(publication.path))
                if chosen is not None and not chosen.dead:
                    chosen.tentative = False  # it serves, so it is no echo
                self._abandon_dead(publication.path)
                self.watchers.refresh(publication.path)
        for path, still in self._withdrawn.items():
            changed = [p for p in still.values() if p.session == session and p.dead == alive]
            for publication in changed:
                publication.dead = not alive
            if changed:
                self._abandon_dead(path)

    def broadcast_over(self, publication: int, path: str) -> bool:
        """True if it was withdrawn, and is now forgotten."""
        still = self._withdrawn.get(path, {})
        known = still.pop(publication, None)
        if not still:
            self._withdrawn.pop(path, None)
        return known is not None

    def on_timer(self, timer: LingerOver | Settled) -> None:
        if isinstance(timer, LingerOver):
            publication = timer.publication
            if publication.lingering:
                publication.lingering = False
                self._withdraw(publication)
                self._effects.append(Resume(publication))
            return
        withdrawals = self._withdrawals.get(timer.path)
        if withdrawals is not None and withdrawals.turn == timer.turn:
            withdrawals.settled()
            self._drop_withdrawals(timer.path)
            self.watchers.refresh(timer.path)

    # --- questions

    def serving(self, path: str, session: int, exclude: int) -> Publication | None:
        """`exclude`: a hop id, or 0."""

        def usable(publication: Publication) -> bool:
            route = publication.route
            return publication.session != session and not (exclude and exclude in route.hops)

        exact = preferred(p for p in self.publications.living(path) if usable(p))
        return self.publications.above(path, usable) if exact is None else exact

    def announcements(self, prefixes: Sequence[str]) -> tuple[Announcement, ...]:
        """The announced paths under the prefixes, without the relays' names."""
        table = self.publications
        paths = (path for path in table.under(prefixes) if not table.is_member(path))
        serving = (preferred(table.living(path)) for path in paths)
        return tuple(Announcement(p.path, p.route, p.source) for p in serving if p is not None)

    def withdrawn(self, prefixes: Iterable[str]) -> list[Publication]:
        prefixes = tuple(prefixes)
        return [
            publication
            for path, still in self._withdrawn.items()
            if any(covers(prefix, path) for prefix in prefixes)
            for publication in still.values()
        ]

    # --- inside

    def _notify(self, publication: Publication, notice: Notice) -> None:
        self._effects.append(Notify(publication, notice))

    def _withdraw(self, publication: Publication, *, said: bool = False) -> None:
        served = self.publications.serves(publication)
        if publication.relayed:
            self._notify(publication, Notice.ROUTE_CHANGED)
        self._remove(publication)
        if served:
            self._settle(publication, publication.route)
        if said and publication.relayed:
            self._deny(publication)
        self._drop_withdrawals(publication.path)
        self.watchers.learn_neighbour(publication)
        self.watchers.refresh(publication.path)

    def _remove(self, publication: Publication) -> None:
        self.publications.remove(publication)
        self._withdrawn.setdefault(publication.path, {})[publication.id] = publication
        self._notify(publication, Notice.WITHDRAWN)

    def _abandon_dead(self, path: str) -> None:
        """Viewers of dead publishers ask again, if another publishes the path."""
        present = self.publications.at(path)
        if all(p.dead for p in present):
            return
        for publication in (*present, *self._withdrawn.get(path, {}).values()):
            if publication.dead:
                self._notify(publication, Notice.PUBLISHER_LOST)

    # --- withdrawals by other relays

    def _settle(self, publication: Publication, lost: Route) -> None:
        """The serving route is gone: announce a worse one to its publisher after `SETTLE`."""
        if publication.relayed and not self.publications.is_member(publication.path):
            withdrawals = self._withdrawals.setdefault(publication.path, Withdrawals())
            withdrawals.lost(lost)
            self._effects.append(Later(SETTLE, Settled(publication.path, withdrawals.turn)))

    def _drop_withdrawals(self, path: str) -> None:
        withdrawals = self._withdrawals.get(path)
        if withdrawals is not None and not (
            withdrawals.settling or (withdrawals and self.publications.at(path))
        ):
            del self._withdrawals[path]

    def _deny(self, withdrawn: Publication) -> None:
        """Others' routes through the relay lead nowhere."""
        end = withdrawn.route.hops[-1:]
        if any(p.route.hops[-1:] == end for p in self.publications.at(withdrawn.path)):
            return  # another of its sessions has one
        withdrawals = self._withdrawals.setdefault(withdrawn.path, Withdrawals())
        withdrawals.withdrawn(withdrawn.session, withdrawn.route)
        self._denying.add(withdrawn.session)
        self._judge(withdrawn.path, withdrawals)

    def _judge(self, path: str, withdrawals: Withdrawals) -> None:
        for publication in self.publications.at(path):
            usable = withdrawals.usable(publication.route)
            if publication.usable and not usable and publication.relayed:
                self._notify(publication, Notice.ROUTE_CHANGED)
            publication.usable = usable

    def _judge_new(self, publication: Publication) -> None:
        withdrawals = self._withdrawals.get(publication.path)
        if withdrawals is None:
            return
        if publication.relayed and withdrawals.announced(publication.route):
            self._judge(publication.path, withdrawals)
        publication.usable = withdrawals.usable(publication.route)

    def _forget_peer(self, session: int) -> None:
        if session not in self._denying:
            return
        self._denying.discard(session)
        for path, withdrawals in list(self._withdrawals.items()):
            if withdrawals.session_ended(session):
                self._judge(path, withdrawals)
                self._drop_withdrawals(path)
                self.watchers.refresh(path)
