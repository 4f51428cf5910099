"""The counters actor: sums of all counts, so that totals never go down, and the figures of every track.

A connection adds its counts at its end (add live ones for totals); a track reports: thousands need not be asked.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple, TypeAlias

from relay.actors.runtime import LoopActor
from relay.model.path import covers
from relay.runtime import Runtime

Counts: TypeAlias = dict[tuple[str, str], int]  # by name and one label: a reason, a kind, or `""`


class AddCounts(NamedTuple):
    """An actor has ended: its counts over its whole life."""

    counts: Counts


class TrackFigures(NamedTuple):
    """The figures of a track."""

    broadcast: str  # URN of its broadcast actor
    path: str
    name: str
    viewers: int  # subscriptions, without those of other relays
    cached_bytes: int
    cached_groups: int


class Report(NamedTuple):
    """Track to counters: its figures, None once it has ended, and its counts since the last report."""

    track: str  # URN of its actor
    figures: TrackFigures | None
    counts: Counts


class ListFigures(NamedTuple):
    """Asked by HTTP: the `TrackFigures` of all tracks below the prefixes, as of their last reports."""

    prefixes: tuple[str, ...]


class Totals(NamedTuple):
    """Asked by the metrics: the sums, as `Counts`."""


class CountersActor(LoopActor):
    """One per relay."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self._sums: Counter[tuple[str, str]] = Counter()
        self._tracks: dict[str, TrackFigures] = {}

    def __str__(self) -> str:
        return "counters"

    def on_receive(self, message: object) -> object:
        match message:
            case AddCounts():
                self._sums.update(message.counts)
            case Report():
                self._sums.update(message.counts)
                if message.figures is None:
                    self._tracks.pop(message.track, None)
                else:
                    self._tracks[message.track] = message.figures
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
