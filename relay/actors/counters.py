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


class Totals(NamedTuple):
    """Asked by the metrics. The reply is `Counts`."""


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
