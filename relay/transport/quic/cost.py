"""What the packets of one connection cost us, in CPU time, and whether that is too much.

Owns one small memory for each connection. Must never read a clock: times are parameters, in seconds. Links keep one each.

A packet of a thousand tiny frames costs its sender little and us twenty times an ordinary one, in a process where everybody
else waits meanwhile. RFC 9000, 21.9: what is spent on a peer is to be measured against its progress, and packets of one that
costs too much may be discarded. Ordinary packets are only compared with a clock that counts other processes, too. The
exact one takes ten times as long and is read after a packet that was slow.
"""

from __future__ import annotations

ORDINARY = 0.0001
"""Seconds that a packet may take until what it brought is passed on, for free: several times what ordinary ones do."""

WATCHED = 64
"""Datagrams that are measured after a slow one."""

SLOWER = 4
"""How much longer packets may take that aioquic reads: `[server.quic] fast = false`."""


class PacketCost:
    """A leaky bucket of the CPU time beyond what is ordinary."""

    __slots__ = ("_at", "_level", "datagrams", "logged", "measured", "ordinary", "trusted")

    def __init__(self, *, fast: bool) -> None:
        self.ordinary = ORDINARY if fast else SLOWER * ORDINARY
        """Seconds for each packet that are not counted."""
        self.datagrams = 0
        """Datagrams since the last `settle`."""
        self.measured = 0
        """Datagrams for which CPU time is to be measured, since something was slow; 0 for none."""
        self.logged = False
        """Whether it was logged that packets are dropped."""
        self.trusted = False
        """Whether nothing is too much: another relay of the cluster sends the packets."""
        self._level = 0.0
        self._at = 0.0

    def over(self, now: float, rate: float) -> bool:
        """Whether more was spent than `rate` seconds a second allow, which may be one second ahead."""
        if now > self._at:
            self._level = max(0.0, self._level - (now - self._at) * rate)
            self._at = now
        return self._level > rate and not self.trusted

    def add(self, seconds: float) -> None:
        """It took so long to read a packet, by the exact clock."""
        self._level += seconds

    def settle(self, seconds: float) -> None:
        """It took so long to pass on what the packets of one turn brought, by the exact clock."""
        self._level = max(0.0, self._level + seconds - self.ordinary * self.datagrams)
        if not self._level:
            self.measured = max(0, self.measured - self.datagrams)
            self.logged = False
        self.datagrams = 0
