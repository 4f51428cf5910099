"""How a subscription goes on after its publisher is lost: when the track is asked for again, and what is new then.

Pure rules, `now` is a parameter in seconds. One implementation for the subscriptions of sessions and for HTTP readers.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeVar

MOST_RETRIES = 6
"""Times that a track is asked for after its publishers were lost one after the other, without a group from any."""

RETRY_MEMORY = 10.0
"""Seconds after which a retry counts as the first again: a track without a group may outlive many routes."""

RETRY_DELAY = 0.025
"""Seconds, doubled each time: a relay may refuse before it withdraws what it announced."""


class Numbered(Protocol):
    """What this needs of a piece of a group."""

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
        self.code: int | None = None
        """Why the last publisher was lost, until something came of another one."""
        self.next = 0
        """The sequence after the newest that was passed on."""
        self.floor = 0
        """Groups below it were passed on before the subscription moved to another publisher."""

    def lost(self, code: int, now: float) -> float | None:
        """The publisher is gone. Seconds until the track is to be asked for again; `None`: no more."""
        self.code = code
        self._failures = 1 if now - self._last > RETRY_MEMORY else self._failures + 1
        self._last = now
        if self._failures > MOST_RETRIES:
            return None
        return 0.0 if self._failures == 1 else RETRY_DELAY * (1 << self._failures)

    def accepted(self) -> bool:
        """A track has been found; whether it is another one than before."""
        moved, self._moved = self._moved, True
        if moved:
            self.floor = self.next
        return moved

    def take(self, pieces: tuple[P, ...]) -> tuple[P, ...]:
        """What is new of `pieces`, which are to be passed on."""
        if self.floor:
            pieces = tuple(piece for piece in pieces if piece.sequence >= self.floor)
        return pieces

    def passed(self, sequences: Iterable[int]) -> None:
        """Groups with these sequences were begun."""
        for sequence in sequences:
            self._failures = 0
            self.code = None
            if sequence >= self.next:
                self.next = sequence + 1
