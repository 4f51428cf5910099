"""What `/history` shows: figures of the last hour and the last day, in memory, of a bounded size.

The sampler adds a sample every `STEP` seconds. A value is null where it was not known.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

STEP: Final = 5.0  # seconds between samples

MINUTE: Final = 60.0  # seconds of each value of the last day

RECENT: Final = 720  # samples: an hour

DAY: Final = 1_440  # minutes

WHOLE: Final = 1_000  # from here on values are stored without a fraction

DIGITS: Final = 4  # after the point, of smaller values


@dataclass(frozen=True, slots=True)
class Sample:
    """The figures of one moment, or since the last sample. `None` is unknown."""

    sessions: float | None = None
    broadcasts: float | None = None
    viewers: float | None = None
    received: float | None = None  # bytes per second
    sent: float | None = None  # bytes per second
    groups: float | None = None  # received per second
    skipped: float | None = None  # groups per second, for slow subscribers
    refused: float | None = None  # per second
    cached: float | None = None  # bytes
    lag: float | None = None  # seconds: the worst lag of the event loop
    cpu: float | None = None  # share of a core, of the event loop's thread
    memory: float | None = None  # bytes of the process, resident


NAMES: Final = tuple(field.name for field in fields(Sample))

WORST: Final = frozenset(("lag",))
"""A minute has the greatest of these values, and the mean of the others."""


class Series:
    """The newest rows of numbers, oldest first, in a ring of four bytes a value."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._columns = [array("f") for _ in NAMES]
        self._at = 0  # the oldest row, once the ring is full

    def __len__(self) -> int:
        return len(self._columns[0])

    @property
    def bytes(self) -> int:
        """Memory of all values."""
        return sum(len(column) * column.itemsize for column in self._columns)

    def add(self, row: Sequence[float]) -> None:
        """NaN is unknown."""
        if len(self) < self._size:
            for column, value in zip(self._columns, row, strict=True):
                column.append(value)
            return
        for column, value in zip(self._columns, row, strict=True):
            column[self._at] = value
        self._at = (self._at + 1) % self._size

    def values(self, newest: int) -> dict[str, list[float | None]]:
        """By name, oldest first; of the newest rows, so many."""
        first = min(len(self), max(0, len(self) - newest))
        return {
            name: [_shown(value) for value in (*column[self._at :], *column[: self._at])[first:]]
            for name, column in zip(NAMES, self._columns, strict=True)
        }


class History:
    """The last hour by samples, and the last day by minutes."""

    def __init__(self) -> None:
        self._recent = Series(RECENT)
        self._day = Series(DAY)
        self._minute: list[Sequence[float]] = []
        self._recent_end = self._day_end = 0.0

    @property
    def bytes(self) -> int:
        """Memory of all values."""
        return self._recent.bytes + self._day.bytes

    def add(self, sample: Sample, now: float, missed: int = 0) -> None:
        """`now` is in seconds since the epoch. `missed` samples before this one were not taken."""
        nothing = [math.nan] * len(NAMES)
        for row in (*(nothing for _ in range(min(missed, DAY * int(MINUTE / STEP)))), _row(sample)):
            self._recent.add(row)
            self._minute.append(row)
            if len(self._minute) * STEP >= MINUTE:
                columns = zip(NAMES, zip(*self._minute, strict=True), strict=True)
                self._day.add([_of_minute(name, values) for name, values in columns])
                self._minute.clear()
                self._day_end = now
        self._recent_end = now

    def shown(self, now: float, after: float = 0.0) -> dict[str, Any]:
        """The body of `/history`, with the values after a time. Times are in seconds since the epoch."""

        def part(series: Series, step: float, end: float) -> dict[str, Any]:
            newest = math.ceil((end - after) / step)  # one too many, at times: steps are not exact
            return {"step": step, "end": end, "values": series.values(newest)}

        return {
            "now": now,
            "recent": part(self._recent, STEP, self._recent_end),
            "day": part(self._day, MINUTE, self._day_end),
        }


def _row(sample: Sample) -> list[float]:
    values = [getattr(sample, name) for name in NAMES]
    return [math.nan if value is None else value for value in values]


def _of_minute(name: str, values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return math.nan
    return max(known) if name in WORST else sum(known) / len(known)


def _shown(value: float) -> float | None:
    if value != value:  # noqa: PLR0124 - NaN, and faster than a call for each of some ten thousand
        return None
    return int(value) if value >= WHOLE or value == int(value) else round(value, DIGITS)
