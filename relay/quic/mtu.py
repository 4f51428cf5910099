"""Path MTU discovery (RFC 9000, 14.3; RFC 8899): sizes to probe, the fate of a probe, black hole detection."""

from __future__ import annotations

SIZES = (1452, 1432, 1372, 1332, 1232)
"""UDP payloads on IPv6: Ethernet, tunnel in IPv6, WireGuard, tunnel of 1380, IPv6's minimum."""

TRIES = 3  # lost probes until a size is too large
SPACING = 0.1  # seconds between probes, so that one loss burst counts once
RAISE_INTERVAL = 600.0  # seconds until larger sizes are tried again (RFC 8899, 5.1.1)
BLACK_HOLE_INTERVAL = 60.0  # the same after a black hole
BLACK_HOLE_LOSSES = 12  # of large packets, one after the other (RFC 8899, 4.3)


class PathMtu:
    """The search of one connection, between the initial size and the peer's limit."""

    __slots__ = ("_candidates", "_limit", "_next", "_probing", "_tries", "base", "enabled", "losses", "size")

    def __init__(self, base: int) -> None:
        self.base = base  # configured; every path carries it
        self.size = base  # known to work on this path
        self.enabled = False  # the socket forbids fragmentation
        self._limit = SIZES[0]
        self._candidates: list[int] = []
        self._probing = False
        self._tries = 0
        self._next = 0.0
        self.losses = 0  # full-size packets lost since one was acknowledged

    def restart(self) -> None:
        """The path has changed."""
        self.size = self.base
        self.losses = self._tries = 0
        self._candidates.clear()
        self._next = 0.0

    def limit(self, size: int) -> None:
        """The peer's max_udp_payload_size."""
        self._limit = min(self._limit, size)

    def wanted(self, now: float) -> int:
        """The size of a probe to send now, or 0. Call `probed` after it."""
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
        self._probing = True
        self._next = now + SPACING

    def arrived(self, size: int, now: float) -> None:
        self._probing = False
        self._candidates.clear()
        self._next = now + RAISE_INTERVAL
        self.losses = 0
        self.size = max(self.size, size)

    def failed(self, now: float) -> None:
        self._probing = False
        self._tries += 1
        if self._tries >= TRIES and self._candidates:
            del self._candidates[0]
            self._tries = 0
            if not self._candidates:
                self._next = now + RAISE_INTERVAL

    def lost(self, count: int, now: float) -> bool:
        """Full-size packets. Returns whether `size` has changed."""
        self.losses += count
        return self.losses >= BLACK_HOLE_LOSSES and self.black_hole(now)

    def black_hole(self, now: float) -> bool:
        """Return to the size that every path carries. Returns whether `size` has changed."""
        self.losses = 0
        if self.size == self.base:
            return False
        self._candidates.clear()
        self._next = now + BLACK_HOLE_INTERVAL
        self.size = self.base
        return True
