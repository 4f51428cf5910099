"""The groups of a track as a plain object: accepted, stopped, and missing ones."""

from __future__ import annotations

import pytest

from relay.actors.groups import Stopped, TrackGroups
from relay.model.limits import Limits
from relay.wire.errors import StreamCode
from tests.actors.fakes import part


def fed(limits: Limits, *sequences: int) -> TrackGroups:
    groups = TrackGroups(limits)
    groups.take([part(sequence, b"x", fin=False) for sequence in sequences], 0.0)
    return groups


def test_a_group_changes_until_it_is_finished() -> None:
    groups = fed(Limits(), 1)
    (begun,) = groups.touched.values()
    assert (begun[0].sequence, begun[1], list(groups.unfinished)) == (1, True, [1])
    groups.touched = {}
    groups.take([part(1, b"yz")], 0.0)
    assert groups.touched[1] == (begun[0], False)
    assert not groups.unfinished
    assert (groups.received_groups, groups.received_frames, groups.received_bytes) == (1, 2, 3)
    assert groups.stopped == []


@pytest.mark.parametrize(
    "again", [part(1, b"late", fin=False), part(2, b"no start", first_frame=3, fin=False)]
)
def test_a_group_that_is_not_wanted_is_stopped(again: object) -> None:
    groups = fed(Limits())
    groups.take([part(1, b"x")], 0.0)
    groups.take([again], 0.0)  # type: ignore[list-item]
    assert [(each.code, each.limit) for each in groups.stopped] == [(StreamCode.OLD, "")]
    assert list(groups.cache.groups) == [1]


def test_a_limit_aborts_the_oldest_group_and_names_itself() -> None:
    groups = fed(Limits(groups_in_flight=2), 1, 2, 3)
    assert groups.stopped == [Stopped(1, StreamCode.TOO_FAR_BEHIND, False, "groups_in_flight")]
    assert list(groups.unfinished) == [2, 3]
    assert groups.touched[1][0].code == StreamCode.TOO_FAR_BEHIND
    large = TrackGroups(Limits(cache_track=1000))
    large.take([part(1, bytes(2000), fin=False)], 0.0)
    assert large.stopped == [Stopped(1, StreamCode.GROUP_TOO_LARGE, False, "cache_track")]
    assert large.cache.size == 0


def test_groups_of_the_past_end_alone() -> None:
    groups = fed(Limits(), 5)
    groups.take([part(3, b"x", fin=False)], 0.0, past=True)
    assert groups.past_arrives
    groups.take([part(3, b"again", fin=False)], 0.0)
    assert groups.stopped == [Stopped(3, StreamCode.OLD, False)], "it comes by one subscription only"
    groups.break_off(StreamCode.CANCELLED, past=True)
    assert (list(groups.unfinished), groups.past_arrives) == ([5], False)
    groups.break_off(StreamCode.INTERNAL)
    assert not groups.unfinished


def test_gaps_are_missing_until_they_are_dropped_or_skipped() -> None:
    groups = fed(Limits(), 3, 6)
    assert groups.missing(0, 7, None) == [(4, 5), (7, 7)]
    assert groups.missing(0, 7, 2) == [(2, 2), (4, 5), (7, 7)]
    groups.dropped.add(4, 4)
    assert groups.missing(0, 6, None) == [(5, 5)]
    assert groups.lost(0, 6) == ((4, 5),), "viewers are told of dropped groups, too"
    groups.skip(9)
    assert groups.missing(0, 8, None) == [(5, 5)]
    assert TrackGroups(Limits()).missing(0, 7, None) == []
