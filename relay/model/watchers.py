"""Announce interests of all sessions, and the last offers to each.

* No session is offered its own publications, nor a route through the relay that it excludes.
* Only relays are offered the names of relays (`members`).
* A relay gets no second route to a path whose relay it is connected to: else every relay of a full mesh would
  announce every path to every other. Names of members show connections: a relay passes a neighbour's name on with
  two hops.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Mapping
from typing import NamedTuple

from relay.model.path import Ordered, ancestors
from relay.model.publications import Publications
from relay.model.route import UNKNOWN_HOP, Publication, Route, preferred
from relay.model.withdrawals import Withdrawals


class AnnounceInterest(NamedTuple):
    """An announce interest of one session."""

    session: int
    watch: int
    prefixes: tuple[str, ...]
    exclude: int = 0  # hop id; 0: none
    routes_above: bool = False  # prefix routes above its prefixes, too (moq-lite-06)
    relay: bool = False
    one_hop: bool = False  # our own publishers alone: its version has no hop ids


class Announcement(NamedTuple):
    """`source` changes when another publication takes over."""

    path: str
    route: Route
    source: int


class WatchChanged(NamedTuple):
    """Effect, and message to the watcher; None: the path is gone."""

    watch: int
    path: str
    offer: Announcement | None
    session: int = 0


class Watcher:
    """An announce interest, with the last offer of each path."""

    __slots__ = ("interest", "known")

    def __init__(self, interest: AnnounceInterest) -> None:
        self.interest = interest
        self.known: dict[str, Announcement] = {}

    def sees(self, publication: Publication) -> bool:
        interest = self.interest
        if publication.session == interest.session:
            return False
        if interest.relay and not (publication.onward and not (interest.one_hop and publication.relayed)):
            return False
        return not interest.exclude or interest.exclude not in publication.route.hops


class Watchers:
    """The watchers of a relay."""

    def __init__(
        self,
        publications: Publications,
        emit: Callable[[WatchChanged], object],
        withdrawals: Mapping[str, Withdrawals],
    ) -> None:
        """`withdrawals`, by path, hold back doubtful routes."""
        self._publications = publications
        self._emit = emit
        self._withdrawals = withdrawals
        self._by_session: dict[int, dict[int, Watcher]] = {}
        self._by_prefix: dict[str, dict[tuple[int, int], Watcher]] = {}
        self._prefixes = Ordered()
        self._neighbours: dict[int, dict[int, str]] = {}
        """By session with a relay: hop ids of its neighbours, with their names' paths."""

    def add(self, interest: AnnounceInterest) -> tuple[Announcement, ...]:
        """Returns the existing offers. Changes follow as effects."""
        watcher = Watcher(interest)
        self._by_session.setdefault(interest.session, {})[interest.watch] = watcher
        for prefix in interest.prefixes:
            same = self._by_prefix.get(prefix)
            if same is None:
                same = self._by_prefix[prefix] = {}
                self._prefixes.add(prefix)
            same[interest.session, interest.watch] = watcher
        for path in (*self._publications.under(interest.prefixes), *interest.prefixes):
            offer = self._offer(watcher, path, self._first(path))
            if offer is not None:
                watcher.known[path] = offer
        return tuple(watcher.known.values())

    def remove(self, session: int, watch: int) -> None:
        mine = self._by_session.get(session, {})
        watcher = mine.pop(watch, None)
        if watcher is None:
            return
        if not mine:
            del self._by_session[session]
        for prefix in watcher.interest.prefixes:
            same = self._by_prefix[prefix]
            del same[session, watch]
            if not same:
                del self._by_prefix[prefix]
                self._prefixes.remove(prefix)

    def remove_session(self, session: int) -> None:
        for watch in list(self._by_session.get(session, ())):
            self.remove(session, watch)

    def refresh(self, path: str) -> None:
        first = self._first(path)
        covering = [same for prefix in ancestors(path) if (same := self._by_prefix.get(prefix))]
        concerned = covering[0] if len(covering) == 1 else dict(ChainMap(*covering))
        for watcher in concerned.values():
            self._refresh(watcher, path, first)
        for prefix in self._prefixes.below(path):
            for watcher in self._by_prefix[prefix].values():
                if watcher.interest.routes_above:
                    self._refresh(watcher, prefix, self._first(prefix))

    def _first(self, path: str) -> Publication | None:
        return preferred(self._publications.living(path))

    def _refresh(self, watcher: Watcher, path: str, first: Publication | None) -> None:
        offer = self._offer(watcher, path, first)
        if offer == watcher.known.get(path):
            return
        if offer is not None and path in self._withdrawals and self._withdrawals[path].doubtful(offer.route):
            return
        if offer is None:
            del watcher.known[path]
        else:
            watcher.known[path] = offer
        self._emit(WatchChanged(watcher.interest.watch, path, offer, watcher.interest.session))

    def _offer(self, watcher: Watcher, path: str, first: Publication | None) -> Announcement | None:
        """`first` serves the path here. A prefix route above may serve it, too."""
        interest, publications = watcher.interest, self._publications
        if (not interest.relay or interest.one_hop) and publications.is_member(path):
            return None  # old relays would dial these names in vain
        if first is None or (first.relayed and watcher.sees(first)):
            chosen = first  # only our own publishers have another order
        else:
            chosen = preferred(p for p in publications.living(path) if watcher.sees(p))
        if chosen is None and interest.routes_above and path in interest.prefixes:
            chosen = publications.above(path, watcher.sees)
        if chosen is None or (path not in watcher.known and self._has_its_own(watcher, chosen)):
            return None  # the watcher's connection may be too new to rely on
        return Announcement(path, chosen.route, chosen.source)

    # --- connections between other relays

    def learn_neighbour(self, publication: Publication) -> None:
        """A relay's name came, changed or went."""
        path, session, publications = publication.path, publication.session, self._publications
        if not (publication.relayed and publications.is_member(path)):
            return
        hops = publication.route.hops if publications.find(session, path) is publication else ()
        neighbours = self._neighbours.setdefault(session, {})
        former = next((hop for hop, name in neighbours.items() if name == path), None)
        now = hops[0] if len(hops) == 2 else None  # noqa: PLR2004 - the member and its neighbour
        if former != now:
            neighbours.pop(former or UNKNOWN_HOP, None)
            if now:
                neighbours[now] = path
            if former:
                self._offer_second_routes(session, former)

    def forget_neighbours(self, session: int) -> None:
        self._neighbours.pop(session, None)

    def _offer_second_routes(self, session: int, hop: int) -> None:
        """Offer paths through `hop` again: the relay of the session lost its connection to it."""
        for watcher in self._by_session.get(session, {}).values():
            for path in self._publications.under(watcher.interest.prefixes):
                if any(p.route.hops[-1:] == (hop,) for p in self._publications.at(path)):
                    self._refresh(watcher, path, self._first(path))

    def _has_its_own(self, watcher: Watcher, publication: Publication) -> bool:
        """The watcher is connected to the relay that we have it from."""
        neighbours = self._neighbours.get(watcher.interest.session)
        if not neighbours or not watcher.interest.relay or not publication.relayed:
            return False
        return not self._publications.is_member(publication.path) and not neighbours.keys().isdisjoint(
            publication.route.hops[-1:]
        )
