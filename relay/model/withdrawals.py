"""Withdrawals of one path: which of the routes that are left may be used, and which may be announced.

A withdrawal comes from each peer, one after the other. Until the last has come, routes of the others look alive, though
they lead to the withdrawn publisher; announced again, they come back by longer and longer routes (path hunting, as in
BGP). Two rules prevent that, which work with any relay that sends hop lists:

* A route through a peer of ours that has withdrawn the path is not used.
* A route that replaces a better one to the same publisher is used at once, but announced only `SETTLE` seconds later.
  Until then watchers keep what they know. An end is never held back.

Owns these rules for one path. Must never know a clock. Called by the directory.
"""

from __future__ import annotations

from typing import Final

from relay.model.route import UNKNOWN_HOP, Route

SETTLE: Final = 1.0
"""Seconds: longer than it takes for a withdrawal to pass through a cluster, relays on other continents included."""


def _same_source(one: Route, other: Route) -> bool:
    """Whether both lead to one publisher by the same relay that it is connected to."""
    common = min(2, len(other.hops))
    return one.publisher != UNKNOWN_HOP and one.hops[:common] == other.hops[:common]


class Withdrawals:
    """Those of one path."""

    __slots__ = ("_denied", "_lost", "turn")

    def __init__(self) -> None:
        self._denied: dict[int, tuple[int, Route]] = {}
        """Peers that have withdrawn the path, by hop id: session and route."""
        self._lost: Route | None = None
        """The best route that was lost while the path settles."""
        self.turn = 0
        """Number of losses: a timer of an earlier one is out of date."""

    def __bool__(self) -> bool:
        """Whether it still matters."""
        return self._lost is not None or bool(self._denied)

    @property
    def settling(self) -> bool:
        """Whether a route was lost less than `SETTLE` ago."""
        return self._lost is not None

    def withdrawn(self, session: int, route: Route) -> None:
        """The relay at the end of `route`, our peer in `session`, announces the path no more."""
        hop = route.hops[-1] if route.hops else UNKNOWN_HOP
        if hop != UNKNOWN_HOP:
            self._denied[hop] = (session, route)

    def announced(self, route: Route) -> bool:
        """The relay at the end of `route` announces the path. Returns whether it takes back what it had withdrawn."""
        former = self._denied.pop(route.hops[-1], None) if route.hops else None
        if former is None:
            return False
        if route.cost() <= former[1].cost():
            self._lost = None  # the route is no longer than before: its publisher is back
        return True

    def session_ended(self, session: int) -> bool:
        """Forget the withdrawal of the peer of `session`. Returns whether there was one."""
        count = len(self._denied)
        self._denied = {hop: said for hop, said in self._denied.items() if said[0] != session}
        return len(self._denied) < count

    def usable(self, route: Route) -> bool:
        """Whether no peer on the route has withdrawn the path; the last hop is the peer that announced the route."""
        return not self._denied or self._denied.keys().isdisjoint(route.hops[:-1])

    def lost(self, route: Route) -> None:
        """The route that served is gone. The path now settles."""
        if self._lost is None or not _same_source(route, self._lost) or route.cost() < self._lost.cost():
            self._lost = route
        self.turn += 1

    def settled(self) -> None:
        """`SETTLE` has passed: the routes left are alive."""
        self._lost = None

    def doubtful(self, route: Route) -> bool:
        """Whether the route may lead to the publisher just withdrawn."""
        lost = self._lost
        return lost is not None and route.cost() >= lost.cost() and _same_source(route, lost)
