"""Figures of frames that came through a bottleneck."""

from __future__ import annotations

from typing import Any

import pytest

from bench import narrow, report
from bench.__main__ import DELIVERY

RUN: dict[str, Any] = {
    "relay": "relay",
    "duration": 10.0,
    "written": {"video": 8, "audio": 4},
    "arrivals": {
        "video": [(1.0, 9.0), (3.01, 0.25), (3.04, 0.5), (9.0, 0.75)],
        "audio": [(3.0, 0.1), (3.02, 0.2), (3.11, 0.1), (10.5, 5.0)],
    },
}


def test_ages_are_those_of_what_came_while_the_line_was_narrow() -> None:
    assert narrow.ages(RUN, "video") == [0.25, 0.5, 0.75]
    assert narrow.ages(RUN, "audio") == [0.1, 0.2, 0.1]


def test_the_worst_of_each_slice() -> None:
    assert narrow.worst(RUN["arrivals"]["audio"]) == {3.0: 0.2, 3.1: 0.1, 10.5: 5.0}


def test_the_table_counts_what_arrived_and_says_what_failed() -> None:
    lines = narrow.table([RUN, {"relay": "rust", "failed": "it did not start"}]).splitlines()
    assert lines[2] == "| moq-relay | 50 % | 0.50 / 0.75 / 0.75 | 100 % | 0.10 / 0.20 / 0.20 |"
    assert lines[3] == "| Rust core | it did not start |  |  |  |"


def test_the_line_carries_the_audio_and_its_share_of_the_video() -> None:
    payload = narrow.SHARE * 30 * 8300 + 50 * 160
    assert narrow.line_rate() == pytest.approx(payload, rel=0.15)
    assert narrow.line_rate() > payload


def test_the_page_has_a_place_for_the_table() -> None:
    page = DELIVERY.read_text()
    assert report.fill(page, {"narrow": "new"}) != page
    assert (DELIVERY.parent / "img" / "narrow.svg").is_file()
