"""What a track tells the ledger of itself: how it stands, and what it has counted.

Owns what the ledger knows already, and how often it is told: at once when viewers come and go, else once a second, since
a message more for each frame would cost. Must never know the track. The track actor calls it.
"""

from __future__ import annotations

from collections import Counter
from typing import Final, NamedTuple

from relay.actors.ledger import Counts, Report, TrackFigures
from relay.actors.runtime import LoopActor, Ref, send

REPORT_INTERVAL: Final = 1.0
"""Seconds between reports while groups come."""


class ReportDue(NamedTuple):
    """Timer: the last report is old enough for another one."""


class Reports:
    """Reports of one actor."""

    __slots__ = ("_counts", "_figures", "_ledger", "_subscribers", "_waiting")

    def __init__(self, ledger: Ref | None) -> None:
        """Without a ledger, nothing is told."""
        self._ledger = ledger
        self._figures: TrackFigures | None = None
        self._counts: Counter[tuple[str, str]] = Counter()
        self._subscribers = 0
        self._waiting = False

    def wanted(self, subscribers: int) -> bool:
        """Whether a report may be made now: the last one is old enough, or `subscribers` are more or fewer since."""
        return self._ledger is not None and not (self._waiting and subscribers == self._subscribers)

    def due(self) -> None:
        """`ReportDue` has come."""
        self._waiting = False

    def tell(self, actor: LoopActor, subscribers: int, figures: TrackFigures, counts: Counts) -> None:
        """Tell what differs from the last report; `counts` are those of the whole life."""
        self._subscribers = subscribers
        if self._send(actor, figures, counts) and not self._waiting:
            self._waiting = True
            actor.call_later(REPORT_INTERVAL, ReportDue())

    def end(self, actor: LoopActor, counts: Counts) -> None:
        """Tell that the track has ended."""
        self._send(actor, None, counts)

    def _send(self, actor: LoopActor, figures: TrackFigures | None, counts: Counts) -> bool:
        fresh = Counter(counts) - self._counts
        if self._ledger is None or (figures == self._figures and not fresh):
            return False
        self._figures = figures
        self._counts.update(fresh)
        return send(self._ledger, Report(actor.actor_ref.actor_urn, figures, dict(fresh)))
