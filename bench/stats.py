"""Numbers from runs: selection, medians, ratios of pairs."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Run = Mapping[str, Any]

LATE_SHARE = 0.05
"""A run with more than this share of its bytes after the window is bad: its CPU time was read before the work was done."""


def percentiles(values: Iterable[float]) -> dict[str, float] | None:
    """Median, 99th percentile, maximum and number; None without values."""
    ordered = sorted(values)
    if not ordered:
        return None
    count = len(ordered)
    return {
        "p50": round(ordered[count // 2], 3),
        "p99": round(ordered[min(count - 1, count * 99 // 100)], 3),
        "max": round(ordered[-1], 3),
        "count": count,
    }


def lookup(run: Run, path: str) -> float | None:
    """The value at a path like `latency_ms.p50`; None if it is missing."""
    value: Any = run
    for name in path.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(name)
    return value if isinstance(value, (int, float)) else None


def is_good(run: Run) -> bool:
    """Everything arrived, in time."""
    return not run.get("failed") and not run.get("missing") and run.get("late_share", 0.0) <= LATE_SHARE


@dataclass(frozen=True)
class Summary:
    """A median with its range."""

    value: float
    low: float
    high: float
    count: int
    """Number of runs, or pairs."""
    doubtful: bool
    """No run was good: the median of runs with loss or delay, which reads too low."""


def _summary(values: Sequence[float], *, doubtful: bool) -> Summary | None:
    if not values:
        return None
    return Summary(statistics.median(values), min(values), max(values), len(values), doubtful)


def median(runs: Sequence[Run], path: str) -> Summary | None:
    """Of the good runs; of all runs with a value if none is good."""
    good = [value for run in runs if is_good(run) and (value := lookup(run, path)) is not None]
    if good:
        return _summary(good, doubtful=False)
    return _summary([value for run in runs if (value := lookup(run, path)) is not None], doubtful=True)


def ratio(ours: Sequence[Run], reference: Sequence[Run], path: str) -> Summary | None:
    """The median of the ratios of consecutive runs of the same round.

    A pair counts if both runs are good; if there is none, all count, and the result is doubtful.
    """
    by_round = {run["round"]: run for run in reference}
    pairs = [(run, by_round[run["round"]]) for run in ours if run["round"] in by_round]
    found: dict[bool, list[float]] = {True: [], False: []}
    for run, other in pairs:
        value, base = lookup(run, path), lookup(other, path)
        if value is not None and base:
            found[is_good(run) and is_good(other)].append(value / base)
    if found[True]:
        return _summary(found[True], doubtful=False)
    return _summary(found[False], doubtful=True)


def marks(runs: Sequence[Run]) -> str:
    """The number of bad runs, and the reasons; empty without any."""
    failed = sum(bool(run.get("failed")) for run in runs)
    lost = [run.get("missing", 0) for run in runs if run.get("missing")]
    behind = sum(
        not run.get("failed") and not run.get("missing") and run.get("late_share", 0.0) > LATE_SHARE
        for run in runs
    )
    words = []
    if failed:
        words.append(f"{failed} of {len(runs)} failed")
    if lost:
        span = f"{min(lost)} to {max(lost)}" if min(lost) < max(lost) else f"{lost[0]}"
        words.append(f"{len(lost)} of {len(runs)} lost {span}")
    if behind:
        words.append(f"{behind} of {len(runs)} behind")
    return ", ".join(words)
