"""The end of a track: announced, delayed by late groups, complete, or a failure."""

from __future__ import annotations

import pytest

from relay.model.numbering import MAX_SEQUENCE
from relay.model.track import SubscribeParams, together
from relay.model.track_end import Phase, TrackEnd


@pytest.mark.parametrize(
    "named, latest, final, late",
    [(7, 3, 7, True), (None, 3, 4, True), (None, None, 0, True), (0, None, 0, False)],
)
def test_late_groups_are_waited_for_unless_there_can_be_none(
    named: int | None, latest: int | None, final: int, late: bool
) -> None:
    end = TrackEnd()
    end.announce(named, latest)
    assert (end.phase, end.final, end.late) == (Phase.ENDING, final, late)
    assert end.numbered == (named is not None)


def test_the_first_announcement_of_an_end_counts() -> None:
    end = TrackEnd()
    end.announce(7, 3)
    end.announce(9, 3)
    assert end.final == 7


@pytest.mark.parametrize("latest, final", [(None, 7), (3, 7), (8, 9), (MAX_SEQUENCE, MAX_SEQUENCE)])
def test_a_group_beyond_the_announced_end_moves_it(latest: int | None, final: int) -> None:
    end = TrackEnd()
    end.announce(7, 3)
    end.complete(latest)
    assert (end.phase, end.final) == (Phase.ENDED, final)


@pytest.mark.parametrize("lost", [True, False])
def test_a_failure_is_final(lost: bool) -> None:
    end = TrackEnd()
    assert not end.failed
    end.fail(5, lost=lost)
    end.announce(7, 3)
    assert end.failed
    assert (end.phase, end.code) == (Phase.LOST if lost else Phase.FAILED, 5)


def test_one_subscription_upstream_serves_the_most_demanding_of_all() -> None:
    one = SubscribeParams(priority=3, ordered=True, latency_ms=100, start_group=9)
    two = SubscribeParams(priority=7, latency_ms=50, history_ms=20, start_group=4)
    both = SubscribeParams(priority=7, latency_ms=100, history_ms=20, start_group=4)
    assert together([one]) == one
    assert together([one, two]) == both
    assert together([one, two, SubscribeParams()]) == both._replace(start_group=None)
    assert together([two._replace(start_is_floor=True)]).start_group is None
