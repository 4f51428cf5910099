"""Withdrawals of one path: which other routes may be used or announced.

Peers withdraw a path one after the other, and the later ones' routes look alive meanwhile. Announced again, they
return longer and longer (path hunting, as in BGP). Two rules prevent that, with any relay that sends hop lists:

* A route through a peer of ours that has withdrawn the path is not used.
* A route that replaces a better one to the same publisher serves at once, but is announced `SETTLE` seconds later.
  An end is never delayed.
"""

from __future__ import annotations

from typing import Final

from relay.model.route import UNKNOWN_HOP, Route

SETTLE: Final = 1.0  # seconds: a withdrawal crosses a cluster across continents in less


def _same_source(one: Route, other: Route) -> bool:
    """True if both lead to one publisher, by the same relay that it is connected to."""
    common = min(2, len(other.hops))
    return one.publisher != UNKNOWN_HOP and one.hops[:common] == other.hops[:common]


class Withdrawals:
    """The withdrawals of one path."""

    __slots__ = ("_denied", "_lost", "turn")

    def __init__(self) -> None:
        self._denied: dict[int, tuple[int, Route]] = {}  # peers that withdrew the path, by hop id
        self._lost: Route | None = None  # until the path settles
        self.turn = 0  # number of losses: timers of earlier ones are void

    def __bool__(self) -> bool:
        return self._lost is not None or bool(self._denied)

    @property
    def settling(self) -> bool:
        return self._lost is not None

    def withdrawn(self, session: int, route: Route) -> None:
        """The last relay of `route`, our peer in `session`, withdrew."""
        hop = route.hops[-1] if route.hops else UNKNOWN_HOP
        if hop != UNKNOWN_HOP:
            self._denied[hop] = (session, route)

    def announced(self, route: Route) -> bool:
        """True if the route's last relay had withdrawn the path."""
        former = self._denied.pop(route.hops[-1], None) if route.hops else None
        if former is None:
            return False
        if route.cost() <= former[1].cost():
            self._lost = None  # no longer than before: the publisher is back
        return True

    def session_ended(self, session: int) -> bool:
        """True if the session's peer had withdrawn the path."""
        count = len(self._denied)
        self._denied = {hop: said for hop, said in self._denied.items() if said[0] != session}
        return len(self._denied) < count

    def usable(self, route: Route) -> bool:
        """No peer on the route has withdrawn; the last hop announced it."""
        return not self._denied or self._denied.keys().isdisjoint(route.hops[:-1])

    def lost(self, route: Route) -> None:
        if self._lost is None or not _same_source(route, self._lost) or route.cost() < self._lost.cost():
            self._lost = route
        self.turn += 1

    def settled(self) -> None:
        self._lost = None

    def doubtful(self, route: Route) -> bool:
        """True if the route may lead to the publisher just withdrawn."""
        lost = self._lost
        return lost is not None and route.cost() >= lost.cost() and _same_source(route, lost)
