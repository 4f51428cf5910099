"""How large the packets of one path may be (RFC 9000, 14.3; RFC 8899).

Owns the search: which size to probe, what the fate of a probe says, and when large packets stopped getting through. Must
never send. The writing side asks it, the connection tells it.
"""

from __future__ import annotations

SIZES = (1452, 1432, 1372, 1332, 1232)
"""UDP payloads to try, the largest first: Ethernet, a tunnel in IPv6, WireGuard, a tunnel of 1380, IPv6 at its least;
each with the larger header of IPv6."""

TRIES = 3
"""Lost probes until a size is taken for too large."""

SPACING = 0.1
"""Seconds between probes at least: one lost burst is one piece of evidence."""

RAISE_INTERVAL = 600.0
"""Seconds until larger sizes are tried again (RFC 8899, 5.1.1)."""

HOLE_INTERVAL = 60.0
"""The same after large packets stopped getting through."""

HOLE_LOSSES = 12
"""Large packets lost with none acknowledged in between that tell of such a black hole (RFC 8899, 4.3)."""


class PathMtu:
    """The search on one connection, between the size that it began with and what the peer takes."""

    __slots__ = ("_candidates", "_limit", "_next", "_probing", "_tries", "base", "enabled", "losses", "size")

    def __init__(self, base: int) -> None:
        self.base = base
        """What every path carries, as configured."""
        self.size = base
        """What this path is known to carry."""
        self.enabled = False
        """Whether the socket sends packets that nobody on the way may cut apart."""
        self._limit = SIZES[0]
        self._candidates: list[int] = []
        self._probing = False
        self._tries = 0
        self._next = 0.0
        self.losses = 0
        """Packets of full size lost since one was acknowledged."""

    def limit(self, size: int) -> None:
        """The peer takes no more (its transport parameter max_udp_payload_size)."""
        self._limit = min(self._limit, size)

    def wanted(self, now: float) -> int:
        """The size of a probe that is to be sent now, or 0. After it `probed` is to be called."""
        if not self.enabled or self._probing or now < self._next:
            return 0
        if not self._candidates:
            self._candidates = [size for size in SIZES if self.size < size <= self._limit]
            if self._limit not in SIZES and self.size < self._limit < SIZES[0]:
                self._candidates = sorted((*self._candidates, self._limit), reverse=True)
            self._tries = 0
            if not self._candidates:
                self._next = now + RAISE_INTERVAL
                return 0
        return self._candidates[0]

    def probed(self, now: float) -> None:
        """The probe has left."""
        self._probing = True
        self._next = now + SPACING

    def arrived(self, size: int, now: float) -> None:
        """A probe of that size was acknowledged."""
        self._probing = False
        self._candidates.clear()
        self._next = now + RAISE_INTERVAL
        self.losses = 0
        self.size = max(self.size, size)

    def failed(self, now: float) -> None:
        """The probe is taken for lost."""
        self._probing = False
        self._tries += 1
        if self._tries >= TRIES and self._candidates:
            del self._candidates[0]
            self._tries = 0
            if not self._candidates:
                self._next = now + RAISE_INTERVAL

    def lost(self, count: int, now: float) -> bool:
        """So many packets of full size were lost. Returns whether `size` has changed."""
        self.losses += count
        return self.losses >= HOLE_LOSSES and self.hole(now)

    def hole(self, now: float) -> bool:
        """Large packets seem to get through no longer: return to what every path carries. Whether that is a change."""
        self.losses = 0
        if self.size == self.base:
            return False
        self._candidates.clear()
        self._next = now + HOLE_INTERVAL
        self.size = self.base
        return True
