"""CPU time spent on the packets of one connection, and its limit.

A packet of a thousand tiny frames costs its sender little and us twenty times an ordinary one, while others
wait; RFC 9000, 21.9 allows to discard packets of such a peer. The wall clock, which includes other processes,
finds slow packets; only after one, the thread's CPU clock, ten times as expensive to read, measures the next.
Times are in seconds.
"""

from __future__ import annotations

ORDINARY = 0.0001  # free seconds per packet, delivery included: several times the cost of an ordinary one
WATCHED = 64  # datagrams after a slow one
MOST = 0.00002  # seconds that a byte may cost at most; what exceeds it is a garbage collection or an import


class PacketCost:
    """A leaky bucket of CPU time beyond the ordinary."""

    __slots__ = ("_at", "_level", "bytes", "datagrams", "logged", "measured", "ordinary", "trusted")

    def __init__(self) -> None:
        self.ordinary = ORDINARY  # free seconds for each packet
        self.datagrams = 0  # of this turn
        self.bytes = 0
        self.measured = 0  # datagrams after a slow one
        self.logged = False
        self.trusted = False  # unlimited: the peer is a relay of the cluster
        self._level = 0.0
        self._at = 0.0

    def over(self, now: float, rate: float) -> bool:
        """More than `rate` seconds per second and one second of credit."""
        if now > self._at:
            self._level = max(0.0, self._level - (now - self._at) * rate)
            self._at = now
        return self._level > rate and not self.trusted

    def add(self, seconds: float, size: int) -> None:
        """Add the time of reading a datagram of `size` bytes."""
        self._level += min(seconds, MOST * size)

    def settle(self, seconds: float) -> None:
        """Add the time of delivering the packets of one turn."""
        seconds = min(seconds, MOST * self.bytes)
        self._level = max(0.0, self._level + seconds - self.ordinary * self.datagrams)
        if not self._level:
            self.measured = max(0, self.measured - self.datagrams)
            self.logged = False
        self.datagrams = self.bytes = 0
