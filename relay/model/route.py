"""Routes to a broadcast: relays and costs. Owns the order of routes (moq-lite-06, "Announce")."""

from __future__ import annotations

from typing import NamedTuple

MAX_HOPS = 32  # relays on a route; longer ones are discarded (moq-lite, hop list)
MAX_HOP_ID = (1 << 53) - 1  # largest id of our own: older browser clients hold them in a double
MAX_COST = (1 << 62) - 1
UNKNOWN_HOP = 0  # stands for a relay that did not give its id


class Route(NamedTuple):
    """`hops` runs from the original publisher to the announcing peer, which is the last one."""

    hops: tuple[int, ...] = ()
    warm: int = 0
    cold: int = MAX_COST

    @property
    def publisher(self) -> int:
        """Id of the original publisher, `UNKNOWN_HOP` if it gave none: equal ids are the same content."""
        return self.hops[0] if self.hops else UNKNOWN_HOP

    def cost(self) -> tuple[bool, int, int, int]:
        """Sort key, best first: no unknown hop, then warm, cold, number of hops."""
        return (UNKNOWN_HOP in self.hops, self.warm, self.cold, len(self.hops))

    def plus_cost(self, cost: int) -> Route:
        """This route behind a connection of that cost (06: added to both costs on receipt)."""
        return self._replace(warm=min(self.warm + cost, MAX_COST), cold=min(self.cold + cost, MAX_COST))


def same_publisher(one: Route, other: Route) -> bool:
    """True if two routes lead to the same original publisher: one may replace the other."""
    return one.publisher != UNKNOWN_HOP and one.publisher == other.publisher
