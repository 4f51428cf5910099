"""Part of the track actor: reports figures to the counters, and its size to the cache budget.

Viewers, and sizes changed by an eighth, go at once, all else once a second: each frame would cost too much.
"""

from __future__ import annotations

from collections import Counter
from typing import Final, NamedTuple

from relay.actors import messages as m
from relay.actors.counters import Counts, Report, TrackFigures
from relay.actors.fetches import Fetches
from relay.actors.groups import TrackGroups
from relay.actors.rows import GroupRow, TrackRow
from relay.actors.runtime import Ref, send
from relay.actors.subscribers import Subscribers
from relay.actors.upstream import Owner
from relay.model.cache import SLACK

REPORT_INTERVAL: Final = 1.0  # seconds
LEAST_CHANGE: Final = 4_096  # bytes: least reported change of the size


class ReportDue(NamedTuple):
    """Timer: the next report."""


class Reports:
    """The reports of one track."""

    __slots__ = (
        *("_budget", "_counters", "_fetches", "_groups", "_owner", "_subscribers", "_track"),
        *("_counts", "_figures", "_size", "_viewers", "_waiting"),
    )

    def __init__(
        self,
        owner: Owner,
        track: TrackFigures,
        groups: TrackGroups,
        subscribers: Subscribers,
        fetches: Fetches,
        *,
        counters: Ref | None,
        budget: Ref | None,
    ) -> None:
        """`track`: figures without groups. Without `counters` and `budget` there are no reports."""
        self._owner, self._track = owner, track
        self._groups, self._subscribers, self._fetches = groups, subscribers, fetches
        self._counters, self._budget = counters, budget
        self._figures: TrackFigures | None = None
        self._counts: Counter[tuple[str, str]] = Counter()
        self._size = 0
        self._viewers = 0  # at the last report
        self._waiting = False  # for the next report

    @property
    def held(self) -> int:
        """The bytes of held groups."""
        return self._groups.cache.size + self._fetches.size

    def turn(self) -> None:
        viewers = len(self._subscribers.all)
        if self._counters is not None and not (self._waiting and viewers == self._viewers):
            self._viewers = viewers
            if self._report(self._now()) and not self._waiting:
                self._waiting = True
                self._owner.call_later(REPORT_INTERVAL, ReportDue())
        if self._budget is not None:
            held = self._groups.cache.size + self._fetches.size
            change = abs(held - self._size)
            if change and (not held or change >= max(LEAST_CHANGE, self._size // SLACK)):
                self.size(held)

    def due(self) -> None:
        self._waiting = False

    def end(self) -> None:
        self._report(None)
        if self._size:
            self.size(0)

    def size(self, held: int, *, answer: bool = False) -> None:
        """`answer`: the budget asked for less."""
        self._size = held
        if self._budget is not None:
            send(self._budget, m.CacheSize(self._owner.actor_ref, held, answer))

    def _report(self, figures: TrackFigures | None) -> bool:
        groups = self._groups
        counts: Counts = {
            ("groups_received", ""): groups.received_groups,
            ("frames_received", ""): groups.received_frames,
            ("payload_received", ""): groups.received_bytes,
        }
        fresh = Counter(counts) - self._counts
        if self._counters is None or (figures == self._figures and not fresh):
            return False
        self._figures = figures
        self._counts.update(fresh)
        return send(self._counters, Report(self._owner.actor_ref.actor_urn, figures, dict(fresh)))

    def _now(self) -> TrackFigures:
        cache, viewers = self._groups.cache, len(self._subscribers.all) - self._subscribers.relays
        return self._track._replace(viewers=viewers, cached_bytes=cache.size, cached_groups=len(cache))

    def row(self, upstream: str, now: float) -> TrackRow:
        """`upstream` is the state of the upstream subscription."""
        groups, relays = self._groups, self._subscribers.relays
        latest = groups.cache.latest
        return TrackRow(
            path=self._track.path,
            name=self._track.name,
            viewers=len(self._subscribers.all) - relays,
            relays=relays,
            upstream=upstream,
            groups=tuple(
                GroupRow(
                    group.sequence, group.frames, group.payload, group.open, round(now - group.arrived, 3)
                )
                for group in groups.cache
            ),
            cached_bytes=groups.cache.size,
            received_bytes=groups.received_bytes,
            received_groups=groups.received_groups,
            received_frames=groups.received_frames,
            latest=None if latest is None else latest.sequence,
        )
