"""Withdrawals of one path: which other routes may be used or announced. Called by the directory; knows no clock.

Peers withdraw a path one after the other. Routes of the later ones look alive meanwhile; announced again, they come
back longer and longer (path hunting, as in BGP). Two rules prevent that, with any relay that sends hop lists:
* A route through a peer of ours that has withdrawn the path is not used.
* A route that replaces a better one to the same publisher is used at once, but announced only `SETTLE` seconds later.
  Until then watchers keep what they know. An end is never held back.
"""

from __future__ import annotations

from typing import Final

from relay.model.route import UNKNOWN_HOP, Route

SETTLE: Final = 1.0  # seconds: longer than a withdrawal takes through a cluster across continents


def _same_source(one: Route, other: Route) -> bool:
    """True if both lead to one publisher by the same relay that it is connected to."""
    common = min(2, len(other.hops))
    return one.publisher != UNKNOWN_HOP and one.hops[:common] == other.hops[:common]


class Withdrawals:
    """The withdrawals of one path."""

    __slots__ = ("_denied", "_lost", "turn")

    def __init__(self) -> None:
        self._denied: dict[int, tuple[int, Route]] = {}  # peers that withdrew the path, by hop id
        self._lost: Route | None = None  # the best route that was lost while the path settles
        self.turn = 0  # number of losses: a timer of an earlier one is out of date

    def __bool__(self) -> bool:
        """True while it matters."""
        return self._lost is not None or bool(self._denied)

    @property
    def settling(self) -> bool:
        """True if a route was lost less than `SETTLE` ago."""
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
        """True if no peer on the route has withdrawn the path; the last hop announced the route."""
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
        """True if the route may lead to the publisher just withdrawn."""
        lost = self._lost
        return lost is not None and route.cost() >= lost.cost() and _same_source(route, lost)
