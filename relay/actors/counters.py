"""Totals that outlive the counted actors, and figures of every track.

Connections add their counts when they end. Tracks report changes: asking thousands would cost too much.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple, TypeAlias

from relay.actors.runtime import LoopActor
from relay.model.path import covers
from relay.runtime import Runtime

Counts: TypeAlias = dict[tuple[str, str], int]  # by name and a label: a reason, a kind, or `""`


class AddCounts(NamedTuple):
    """The counts of an actor's whole life, at its end."""

    counts: Counts


class TrackFigures(NamedTuple):
    """The figures of a track."""

    broadcast: str  # URN of its broadcast actor
    path: str
    name: str
    viewers: int
    cached_bytes: int
    cached_groups: int


class Report(NamedTuple):
    """A track's figures (None at the end), and its counts since the last report."""

    track: str
    figures: TrackFigures | None
    counts: Counts


class ListFigures(NamedTuple):
    """Asked by HTTP: last reported `TrackFigures` of tracks below the prefixes."""

    prefixes: tuple[str, ...]


class AddSkipped(NamedTuple):
    """Groups skipped for a slow session since its last report."""

    groups: int


class Measure(NamedTuple):
    """Asked by HTTP. The reply is `Measured`."""


class Measured(NamedTuple):
    """The sums of all tracks now, and of groups since the start."""

    tracks: int = 0
    viewers: int = 0
    cached_bytes: int = 0
    groups: int = 0  # received
    skipped: int = 0  # for slow subscribers, toward them


class Totals(NamedTuple):
    """Asked by the metrics. The reply is `Counts`."""


class CountersActor(LoopActor):
    """One per relay."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self._sums: Counter[tuple[str, str]] = Counter()
        self._tracks: dict[str, TrackFigures] = {}
        self._viewers = self._cached = self._skipped = 0  # sums

    def __str__(self) -> str:
        return "counters"

    def on_receive(self, message: object) -> object:
        match message:
            case AddCounts():
                self._sums.update(message.counts)
            case Report():
                self._sums.update(message.counts)
                self._report(message.track, message.figures)
            case AddSkipped():
                self._skipped += message.groups
            case Measure():
                received = self._sums["groups_received", ""]
                return Measured(len(self._tracks), self._viewers, self._cached, received, self._skipped)
            case ListFigures():
                return tuple(
                    figures
                    for figures in self._tracks.values()
                    if any(covers(prefix, figures.path) for prefix in message.prefixes)
                )
            case Totals():
                return dict(self._sums)
            case _:
                return super().on_receive(message)
        return None

    def _report(self, track: str, figures: TrackFigures | None) -> None:
        former = self._tracks.pop(track, None)
        if former is not None:
            self._viewers -= former.viewers
            self._cached -= former.cached_bytes
        if figures is not None:
            self._tracks[track] = figures
            self._viewers += figures.viewers
            self._cached += figures.cached_bytes
