"""Part of the connection actor: reports groups that were skipped for a slow subscriber, while the session lasts.

Only sessions that ever skipped a group report, so that others cost nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from relay.actors.counters import AddSkipped
from relay.actors.environment import Context
from relay.actors.runtime import send

INTERVAL: Final = 2.5  # seconds between reports: half of a sample of `/history`


class SkipsDue(NamedTuple):
    """Timer: the next report."""


class Skips:
    """The skipped groups of one session."""

    def __init__(self, context: Context, call_later: Callable[[float, object], object]) -> None:
        self._context = context
        self._call_later = call_later
        self._reported = 0
        self._begun = False

    def begin(self) -> None:
        """A group was skipped."""
        if not self._begun:
            self._begun = True
            self.due()

    def due(self) -> None:
        """Report, and again later."""
        self.end()
        self._call_later(INTERVAL, SkipsDue())

    def end(self) -> None:
        """Report what is left."""
        skipped, counters = self._context.skipped, self._context.environment.counters
        if skipped > self._reported and counters is not None:
            send(counters, AddSkipped(skipped - self._reported))
        self._reported = skipped
