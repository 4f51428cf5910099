"""Which runs count, and their figures."""

from __future__ import annotations

from typing import Any

import pytest

from bench import stats
from bench.stats import Summary


def run(number: int, cost: float, **fields: Any) -> dict[str, Any]:
    return {"round": number, "cost": cost, "missing": 0, "late_share": 0.0, **fields}


def test_percentiles() -> None:
    assert stats.percentiles([]) is None
    assert stats.percentiles([5.0]) == {"p50": 5.0, "p99": 5.0, "max": 5.0, "count": 1}
    found = stats.percentiles(range(1000, 0, -1))
    assert found == {"p50": 501, "p99": 991, "max": 1000, "count": 1000}


@pytest.mark.parametrize(
    "fields, good",
    [
        ({}, True),
        ({"missing": 1}, False),
        ({"late_share": stats.LATE_SHARE}, True),
        ({"late_share": 0.06}, False),
        ({"failed": "the relay ended"}, False),
    ],
)
def test_good_runs(fields: dict[str, Any], good: bool) -> None:
    assert stats.is_good(run(0, 1.0, **fields)) is good


def test_values_of_other_kinds_of_runs_do_not_exist() -> None:
    assert stats.lookup({"latency_ms": None}, "latency_ms.p50") is None
    assert stats.lookup({"latency_ms": {"p50": 2}}, "latency_ms.p50") == 2
    assert stats.lookup({}, "latency_ms.p50") is None
    assert stats.lookup({"failed": "words"}, "failed") is None


def test_a_median_leaves_out_runs_that_were_not_good() -> None:
    runs = [run(0, 10.0), run(1, 1.0, missing=3), run(2, 20.0), run(3, 2.0, late_share=0.5), run(4, 30.0)]
    assert stats.median(runs, "cost") == Summary(20.0, 10.0, 30.0, 3, doubtful=False)


def test_a_median_of_bad_runs_alone_is_doubtful() -> None:
    runs = [run(0, 10.0, missing=1), run(1, 12.0, missing=1), {"round": 2, "failed": "no start"}]
    assert stats.median(runs, "cost") == Summary(11.0, 10.0, 12.0, 2, doubtful=True)
    assert stats.median([], "cost") is None


def test_a_ratio_is_of_runs_of_the_same_round() -> None:
    """The machine was twice as slow in round 1; round 2 has no counterpart."""
    ours = [run(0, 15.0), run(1, 30.0), run(2, 100.0)]
    reference = [run(1, 20.0), run(0, 10.0)]
    assert stats.ratio(ours, reference, "cost") == Summary(1.5, 1.5, 1.5, 2, doubtful=False)


def test_a_pair_with_a_bad_run_counts_only_if_there_is_no_other() -> None:
    ours = [run(0, 15.0), run(1, 90.0)]
    assert stats.ratio(ours, [run(0, 10.0), run(1, 10.0, missing=1)], "cost") == Summary(
        1.5, 1.5, 1.5, 1, False
    )
    assert stats.ratio(ours[1:], [run(1, 10.0, missing=1)], "cost") == Summary(9.0, 9.0, 9.0, 1, True)
    assert stats.ratio(ours, [run(0, 0.0)], "cost") is None


def test_marks_say_what_was_wrong() -> None:
    assert stats.marks([run(0, 1.0)]) == ""
    bad = [run(0, 1.0, missing=4), run(1, 1.0, missing=20), run(2, 1.0, late_share=0.2), {"failed": "x"}]
    assert stats.marks(bad) == "1 of 4 failed, 2 of 4 lost 4 to 20, 1 of 4 behind"
