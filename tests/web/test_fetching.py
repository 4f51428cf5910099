"""Paths of `/fetch`, and the answer to a fetch without a result."""

from __future__ import annotations

import pytest

from relay.actors.reader import Over
from relay.web.fetching import candidates, reading_of, refusal
from relay.wire.errors import StreamCode


@pytest.mark.parametrize(
    "path, expected",
    [
        ("", []),
        ("demo", []),
        ("/demo", []),
        ("demo/", []),
        ("demo/cam/", []),
        ("demo/cam", [("demo", "cam")]),
        ("demo/cam/video/hd", [("demo/cam/video", "hd"), ("demo/cam", "video/hd"), ("demo", "cam/video/hd")]),
        ("//demo//cam//hd", [("demo/cam", "hd"), ("demo", "cam//hd")]),
    ],
)
def test_every_slash_may_part_broadcast_and_track(path: str, expected: list[tuple[str, str]]) -> None:
    assert candidates(path, None) == expected


@pytest.mark.parametrize(
    "path, track, expected",
    [
        ("demo/cam", "video/hd", [("demo/cam", "video/hd")]),
        ("/demo//cam/", "/x/", [("demo/cam", "/x/")]),
        ("", "video/hd", [("", "video/hd")]),
        ("demo/cam", "", []),
    ],
)
def test_the_query_names_the_track_outright(path: str, track: str, expected: list[tuple[str, str]]) -> None:
    assert candidates(path, track) == expected


def test_the_longest_place_is_read_and_the_others_are_kept() -> None:
    reading, frames = reading_of(candidates("a/b/c", None), {"wait": "2.5"})
    assert (reading.path, reading.track, reading.otherwise) == ("a/b", "c", (("a", "b/c"),))
    assert (reading.wait, frames) == (2.5, False)


@pytest.mark.parametrize(
    "outcome, status",
    [
        (None, 504),
        (Over(None), 404),
        (Over(StreamCode.UNROUTABLE), 404),
        (Over(StreamCode.NOT_FOUND), 404),
        (Over(StreamCode.OLD), 404),
        (Over(StreamCode.EVICTED), 404),
        (Over(StreamCode.NO_CAPACITY), 503),
        (Over(StreamCode.GOING_AWAY, ours=True), 503),
        (Over(StreamCode.CONTROL_TIMEOUT), 504),
        (Over(StreamCode.UNAUTHORIZED, ours=True), 401),
        (Over(StreamCode.UNAUTHORIZED), 502),
        (Over(StreamCode.INTERNAL, ours=True), 500),
        (Over(StreamCode.INTERNAL), 502),
        (Over(70), 502),
        (Over(4_000_000_000), 502),
    ],
)
def test_the_status_tells_whose_fault_it_is(outcome: Over | None, status: int) -> None:
    found, text = refusal(outcome)
    assert found == status
    assert text.endswith("\n")
    assert text.count("\n") == 1
