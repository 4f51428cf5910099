"""Routes to a broadcast, and the choice among several publishers of a path (costs: moq-lite-06, "Announce").

Preferred is, in this order,

* a session that answers; surely no echo of ours; not lingering; not leaving;
* a publisher connected to this relay, the newest; else the nearest (by age, two relays might route to each other);
* of routes to the same original publisher, the cheapest.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

MAX_HOPS = 32  # longer ones are discarded (moq-lite, hop list)
MAX_HOP_ID = (1 << 53) - 1  # older browser clients hold ids in a double
MAX_COST = (1 << 62) - 1
UNKNOWN_HOP = 0  # a relay that hides its id


class Route(NamedTuple):
    """`hops`: from the original publisher to the announcing peer."""

    hops: tuple[int, ...] = ()
    warm: int = 0
    cold: int = MAX_COST

    @property
    def publisher(self) -> int:
        """The original publisher's id, or `UNKNOWN_HOP`: equal ids have the same content."""
        return self.hops[0] if self.hops else UNKNOWN_HOP

    def cost(self) -> tuple[bool, int, int, int]:
        """Sort key, best first: no unknown hop, then warm, cold, number of hops."""
        return (UNKNOWN_HOP in self.hops, self.warm, self.cold, len(self.hops))

    def plus_cost(self, cost: int) -> Route:
        """06: a connection's cost is added to both on receipt."""
        return self._replace(warm=min(self.warm + cost, MAX_COST), cold=min(self.cold + cost, MAX_COST))


def same_publisher(one: Route, other: Route) -> bool:
    """True if both lead to the same original publisher: one may replace the other."""
    return one.publisher != UNKNOWN_HOP and one.publisher == other.publisher


@dataclass(slots=True, eq=False)
class Publication:
    """One session's announcement of one path, and its route."""

    id: int  # larger for later ones
    session: int
    path: str
    generation: int
    route: Route
    prefix: bool = False
    tentative: bool = False
    relayed: bool = False
    onward: bool = True
    dead: bool = False
    lingering: bool = False  # a successor may come
    leaving: bool = False
    usable: bool = True  # no peer on its route has withdrawn the path
    source: int = 0  # for watchers; a successor inherits it
    life: int = 0  # equal for routes announced side by side, with the same groups

    def __post_init__(self) -> None:
        self.source = self.life = self.id

    @property
    def standing(self) -> tuple[bool, bool, bool, bool]:
        """Sort key of trust; more is better."""
        return (not self.dead, not self.tentative, not self.lingering, not self.leaving)


def preferred(publications: Iterable[Publication]) -> Publication | None:
    """The publication that serves, of those for a path."""
    present = [p for p in publications if p.usable]
    if len(present) <= 1:
        return present[0] if present else None
    standing = max(p.standing for p in present)
    trusted = [p for p in present if p.standing == standing]
    own = [p for p in trusted if not p.relayed]
    chosen = max(own, key=lambda p: p.source) if own else min(trusted, key=_distance)
    alike = [p for p in trusted if same_publisher(p.route, chosen.route)]
    return min(alike, key=_distance, default=chosen)


def _distance(publication: Publication) -> tuple[object, ...]:
    """Sort key, nearest first. Hops decide between equal costs, so that all relays decide alike."""
    route = publication.route
    return (route.cost(), route.hops, -publication.source)


def same_groups(one: Publication, other: Publication) -> bool:
    """True for routes to one publisher at the same time.

    An equal id is not enough: a publisher may return and count anew while its old session hangs. But when a
    relay on one route is lost, the publisher's own relay, on both routes, still has it.
    """
    if not same_publisher(one.route, other.route) or one.route.hops == other.route.hops:
        return False
    return not one.lingering or (one.relayed and one.route.hops[:2] == other.route.hops[:2])
