"""Failover of a lost publisher: when to retry, and which groups are new then."""

from __future__ import annotations

from typing import Protocol, TypeVar

MOST_RETRIES = 6  # in a row, without a group
RETRY_MEMORY = 10.0  # seconds until retries count anew: a track without groups may outlive many routes
RETRY_DELAY = 0.1
"""Seconds before the second retry, then doubled. A relay may reject before it withdraws."""


class Numbered(Protocol):
    """A fragment of a group."""

    @property
    def sequence(self) -> int: ...


P = TypeVar("P", bound=Numbered)


class Failover:
    """One subscription across its publishers."""

    __slots__ = ("_failures", "_last", "_moved", "code", "floor", "next")

    def __init__(self) -> None:
        self._failures = 0
        self._last = 0.0
        self._moved = False
        self.code: int | None = None  # stream code of the last loss, until the next group
        self.next = 0  # sequence after the newest delivered
        self.floor = 0  # former publishers delivered the groups below

    def lost(self, code: int, now: float) -> float | None:
        """`now`: seconds. Returns the delay of the next retry; `None`: give up."""
        self.code = code
        self._failures = 1 if now - self._last > RETRY_MEMORY else self._failures + 1
        self._last = now
        if self._failures > MOST_RETRIES:
            return None
        return 0.0 if self._failures == 1 else RETRY_DELAY * (1 << self._failures - 2)

    def accepted(self) -> bool:
        moved, self._moved = self._moved, True
        if moved:
            self.floor = self.next
        return moved

    def take(self, fragments: tuple[P, ...]) -> tuple[P, ...]:
        if self.floor:
            fragments = tuple(fragment for fragment in fragments if fragment.sequence >= self.floor)
        return fragments

    def passed(self, sequence: int) -> None:
        """A group was delivered, or its first part."""
        self._failures = 0
        self.code = None
        if sequence >= self.next:
            self.next = sequence + 1
