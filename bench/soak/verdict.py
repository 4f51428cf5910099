"""Evaluation of a soak: the relay must return to its baseline."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final

from bench.soak.samples import ACTORS, DELAY, LEFTOVERS, Row

WARM_UP: Final = 1 / 3
"""Share of the run for warm-up: caches fill, and the allocator grows."""

POINTS: Final = 120
"""Means for the slope of all pairs: short peaks have no effect."""

FLAT_BYTES: Final = 3 * 1024 * 1024
FLAT_SHARE: Final = 0.04
"""Allowed growth of memory after the warm-up, whichever is more: noise."""

LAG: Final = 0.02
CROWDED: Final = 0.3
"""Cores used by other programs above which the lag is not judged."""

FAILED: Final = 0.01
"""Share of sessions over good networks that may fail."""


@dataclass(frozen=True)
class Finding:
    """One line of the verdict."""

    what: str
    good: bool | None
    """None: reported, not judged."""
    text: str


def slope(points: Sequence[tuple[float, float]]) -> float:
    """The median slope over all pairs of points (Theil and Sen); 0 for fewer than two."""
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in combinations(points, 2) if b[0] > a[0]]
    return statistics.median(slopes) if slopes else 0.0


def thinned(points: Sequence[tuple[float, float]], count: int = POINTS) -> list[tuple[float, float]]:
    """Means of neighbours, at most `count`."""
    each = max(1, math.ceil(len(points) / count))
    parts = [points[i : i + each] for i in range(0, len(points), each)]
    return [(statistics.mean(x for x, _ in part), statistics.mean(y for _, y in part)) for part in parts]


def quantile(before: Row, after: Row, share: float) -> float:
    """The delay in seconds that this share of the measurements between two rows did not exceed.

    Linear within the histogram's buckets, as in Prometheus; infinite beyond the last bound.
    """
    bounds = sorted((float(name.removeprefix(DELAY)), name) for name in after if name.startswith(DELAY))
    counts = [(bound, after[name] - before.get(name, 0.0)) for bound, name in bounds]
    total = counts[-1][1] if counts else 0.0
    if not total:
        return 0.0
    low = below = 0.0
    for bound, count in counts:
        if count >= share * total:
            return (
                bound
                if math.isinf(bound)
                else low + (bound - low) * (share * total - below) / (count - below)
            )
        low, below = bound, count
    return math.inf


def judge(
    rows: Sequence[Row], baseline: Row, rest: Row, counts: Mapping[str, int], faults: Sequence[str]
) -> list[Finding]:
    """`rows` are under load, `baseline` is the one before, `rest` the last one after all sessions ended."""
    return [
        _memory(rows),
        *(_left(name, rows, baseline, rest) for name in _tables(baseline, rest)),
        Finding(
            "messages waiting for one actor",
            rest["inbox"] <= max(1.0, baseline["inbox"]),
            f"at most {max(row['inbox'] for row in rows):.0f}, in the end {rest['inbox']:.0f}",
        ),
        _lag(rows, baseline),
        _sessions(counts),
        Finding("faults", not faults, "; ".join(faults[:5]) or "none"),
    ]


def _tables(baseline: Row, rest: Row) -> list[str]:
    return [*LEFTOVERS, *sorted(name for name in baseline.keys() | rest.keys() if name.startswith(ACTORS))]


def _memory(rows: Sequence[Row]) -> Finding:
    points = thinned([(row["seconds"], row["rss"]) for row in rows[int(len(rows) * WARM_UP) :]])
    typical = statistics.median(rss for _, rss in points)
    span = points[-1][0] - points[0][0]
    growth = slope(points) * span
    groups = rows[-1]["groups received"] - rows[int(len(rows) * WARM_UP)]["groups received"]
    allowed = max(FLAT_BYTES, FLAT_SHARE * typical)
    mib = 1024 * 1024
    return Finding(
        "memory",
        growth <= allowed,
        f"{typical / mib:.1f} MiB, slope after the warm-up {growth / mib:+.2f} MiB in {span:.0f} s and"
        f" {groups:,.0f} groups; allowed {allowed / mib:.1f}",
    )


def _left(name: str, rows: Sequence[Row], baseline: Row, rest: Row) -> Finding:
    before, after = baseline.get(name, 0.0), rest.get(name, 0.0)
    most = max(row.get(name, 0.0) for row in rows)
    return Finding(name, after <= before, f"{before:.0f} before, at most {most:.0f}, {after:.0f} after")


def _lag(rows: Sequence[Row], baseline: Row) -> Finding:
    late = quantile(baseline, rows[-1], 0.99)
    others = statistics.mean(
        max(0.0, row["cores of the machine"] - row["cores"] - row["cores of the load"]) for row in rows
    )
    good = None if late > LAG and others > CROWDED else late <= LAG
    return Finding(
        "lag of the event loop",
        good,
        f"p99 {late * 1000:.1f} ms, p50 {quantile(baseline, rows[-1], 0.5) * 1000:.1f} ms, worst"
        f" {max(row['lag worst'] for row in rows) * 1000:.0f} ms; aim {LAG * 1000:.0f} ms; relay"
        f" {statistics.mean(row['cores'] for row in rows):.2f} cores, load"
        f" {statistics.mean(row['cores of the load'] for row in rows):.2f}, other programs {others:.2f}",
    )


def _sessions(counts: Mapping[str, int]) -> Finding:
    began = sum(number for name, number in counts.items() if name in ("sessions", "native sessions"))
    failed = sum(
        number for name, number in counts.items() if name.startswith("sessions that did not begin over")
    )
    return Finding(
        "sessions",
        began > 0 and failed <= FAILED * began,
        f"{began:,} began, {failed} over good lines did not",
    )
