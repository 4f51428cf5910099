"""Tables, and their places on the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench import report
from bench.__main__ import PAGE, contenders_for, parser
from bench.report import Results
from bench.runner import spread, stream_result
from bench.scenarios import EVERYTHING, SERIES, SETS, UnknownScenarioError, chosen
from bench.stats import Summary


def run(scenario: str, relay: str, cost: float, number: int = 0, **fields: Any) -> dict[str, Any]:
    result = {"missing": 0, "us_per_frame": cost, "cores": cost / 1000, "peak_memory": 50 << 20}
    return {"scenario": scenario, "relay": relay, "round": number, **result, **fields}


RUNS = [
    run("video-10", "rust", 100.0),
    run("video-10", "relay", 150.0),
    run("video-10", "rust", 200.0, 1),
    run("video-10", "relay", 260.0, 1),
    run("video-10", "sources", 500.0, missing=7),
    run("viewers=1", "rust", 400.0),
    run("viewers=1", "relay", 800.0),
    run("viewers=100", "relay", 500.0, late_share=0.3),
]
DATA = {
    "date": "2026-01-02",
    "version": "abc",
    "machine": {"cores": 2, "processor": "Abacus", "system": "Linux 6", "python": "3.11"},
    "machine_cores": 1.0,
    "runs": RUNS,
}


def test_numbers_have_three_digits() -> None:
    assert [report.number(value) for value in (9.996, 99.97)] == ["10.0", "100"]
    assert [report.number(value) for value in (0, 0.123, 1.666, 12.34, 123.4)] == [
        "0",
        "0.12",
        "1.67",
        "12.3",
        "123",
    ]


def test_one_run_has_no_spread() -> None:
    assert report.with_spread(Summary(2.0, 2.0, 2.0, 1, doubtful=False)) == "2.00"
    assert report.with_spread(Summary(2.0, 1.0, 3.0, 2, doubtful=True), 10) == "20.0 (10.0 to 30.0) ?"
    assert report.with_spread(None) == ""


def test_ratios_name_the_runs_that_lost_frames() -> None:
    lines = report.ratios(Results(RUNS)).splitlines()
    assert len(lines) == 3
    assert "| 150 (100 to 200) us | 1.40 (1.30 to 1.50) | 5.00 ? | 2 |" in lines[2]
    assert "moq-relay, sources: 1 of 1 lost 7" in lines[2]


def test_a_row_shows_those_who_took_part() -> None:
    lines = report.growth(Results(RUNS), SERIES[0]).splitlines()
    assert "sources" not in lines[0]
    assert lines[2].startswith("| 1 | 400 | 0.40 |  | 800 | 2.00 | 0.80 |")
    assert lines[3].startswith("| 100 |  |  |  | 500 ? |  | 0.50 |")
    assert lines[3].endswith("| moq-relay: 1 of 1 behind |")


def test_capacity_is_of_the_largest_audience_that_was_carried_well() -> None:
    assert "| 2 (measured with 1) | 1 (measured with 1) |" in report.capacity(Results(RUNS))


def test_alignment_keeps_the_cells() -> None:
    text = report.table(["a", "b"], [["long cell", "1"], ["", "22"]])
    assert report.aligned(text).splitlines() == [
        "| a         | b   |",
        "| --------- | --- |",
        "| long cell | 1   |",
        "|           | 22  |",
    ]
    assert report.aligned("words") == "words"


def test_parts_go_between_their_marks_and_nowhere_else() -> None:
    page = "head\n<!-- bench:ratios -->\nold\n\nlines\n<!-- /bench -->\nmid\n<!-- bench:other -->\nkept\n<!-- /bench -->\n"
    filled = report.fill(page, {"ratios": "new \\1"})
    assert filled == page.replace("old\n\nlines", "new \\1")
    assert report.fill(filled, {"ratios": "new \\1"}) == filled


def test_the_page_has_a_place_for_every_part() -> None:
    idle = {"bytes_per_viewer": 1, "us_per_viewer_s": 1}
    rows = [run(f"{series.name}={series.scenarios[0].x:g}", "relay", 1.0) for series in SERIES]
    runs = [*RUNS, *rows, {"scenario": "idle-200", "relay": "relay", "round": 0, **idle}]
    page = PAGE.read_text()
    for name in report.blocks({**DATA, "runs": runs}):
        assert f"<!-- bench:{name} -->\n" in page
    assert page.count("<!-- bench:") == page.count("<!-- /bench -->")


def test_pictures_of_the_page_exist() -> None:
    for line in PAGE.read_text().splitlines():
        if line.startswith("!["):
            assert (PAGE.parent / line.partition("](")[2].rstrip(")")).is_file()


def test_sets_and_names_give_each_scenario_once() -> None:
    found = [scenario.name for scenario in chosen(["bulk", "standard", "video-1"])]
    assert found[0] == "bulk"
    assert sorted(found) == sorted(scenario.name for scenario in SETS["standard"])
    with pytest.raises(UnknownScenarioError, match="video-3"):
        chosen(["video-3"])
    assert all(name == scenario.name for name, scenario in EVERYTHING.items())


def test_the_slow_one_stays_out_unless_asked_for() -> None:
    assert contenders_for(None) == ["rust", "relay"]
    assert contenders_for(["sources"]) == ["sources"]


def test_viewers_are_spread_over_processes() -> None:
    assert spread(5, 2) == [3, 2]
    assert spread(1, 2) == [1]
    assert sum(spread(200, 3)) == 200


def test_what_is_missing_does_not_count_as_delivered() -> None:
    """1200 frames are due in the window; a quarter of the sampled ones did not come."""
    result = stream_result(
        EVERYTHING["video-10"],
        {"cpu_s": 0.9, "seconds": 4.0},
        {"cpu_s": 0.55, "late_ms": 1.0},
        [{"bytes": 1000, "cpu_s": 0.2, "lag_ms": None}, {"bytes": 1000, "cpu_s": 0.2, "lag_ms": 3.0}],
        [
            {"missing": 100, "checked": 200, "late_bytes": 100, "delays_ns": [1_000_000, 3_000_000]},
            {"missing": 0, "checked": 200, "late_bytes": 0, "delays_ns": [2_000_000]},
        ],
    )
    assert result["frames"] == 900
    assert result["us_per_frame"] == 1000
    assert result["late_share"] == 0.05
    assert result["latency_ms"] == {"p50": 2.0, "p99": 3.0, "max": 3.0, "count": 3}
    assert result["load_cores"] == 0.2
    assert result["load_lag_ms"] == 3.0


def test_the_command_takes_names_between_options() -> None:
    arguments = parser().parse_args(["run", "video-1", "--rounds", "5", "--out", "x.json"])
    assert (arguments.names, arguments.rounds, arguments.out) == (["video-1"], 5, Path("x.json"))
