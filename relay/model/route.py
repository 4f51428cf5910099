"""Routes to a broadcast: relays and costs, and their order (moq-lite-06, "Announce")."""

from __future__ import annotations

from typing import NamedTuple

MAX_HOPS = 32  # on a route; longer ones are discarded (moq-lite, hop list)
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
        """06: a connection's cost is added to both costs on receipt."""
        return self._replace(warm=min(self.warm + cost, MAX_COST), cold=min(self.cold + cost, MAX_COST))


def same_publisher(one: Route, other: Route) -> bool:
    """Then one may replace the other."""
    return one.publisher != UNKNOWN_HOP and one.publisher == other.publisher
