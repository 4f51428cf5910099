"""Numbers of groups: each is one group, and a later publisher's follow on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.model.numbering import RESERVE, Numbering, Span


def number(span: Span | None, sequence: int) -> int:
    assert span is not None
    assert span.first <= sequence
    assert sequence + span.shift < span.limit
    return sequence + span.shift


def test_the_first_publisher_keeps_its_numbers() -> None:
    numbering = Numbering()
    assert numbering.free
    assert numbering.ask("a", 1, None) is None
    assert number(numbering.ask("a", 1, 40), 40) == 40
    assert not numbering.free


@pytest.mark.parametrize(("start", "seen"), [(0, 7), (6, 7), (7, 7), (40, 40)])
def test_the_next_publisher_follows_on(start: int, seen: int) -> None:
    numbering = Numbering()
    numbering.ask("a", 1, 5)
    numbering.leave("a", 7)
    assert not numbering.used
    assert numbering.ask("b", 2, None) is None
    assert number(numbering.ask("b", 2, start), start) == seen


def test_another_route_to_a_publisher_has_its_numbers() -> None:
    numbering = Numbering()
    numbering.ask("a", 1, 20)
    numbering.leave("a", 21)
    first = numbering.ask("b", 2, 0)
    numbering.leave("b", 23)
    second = numbering.ask("c", 2, None)
    assert number(first, 0) == 21
    assert number(second, 1) == 22
    assert number(numbering.ask("c", 2, 2), 2) == 23


def test_beside_one_that_runs_another_publisher_has_numbers_of_its_own() -> None:
    numbering = Numbering()
    one = numbering.ask("a", 1, 5)
    two = numbering.ask("b", 2, 0)
    assert one is not None
    assert number(two, 0) == one.limit == 5 + RESERVE
    # beyond its reserve, the older one continues behind the newer one
    again = numbering.ask("a", 1, one.limit)
    assert again is not None
    assert two is not None
    assert number(again, one.limit) == two.limit
    assert again.first == one.limit


def test_a_track_that_runs_alone_gets_as_many_numbers_as_it_needs() -> None:
    numbering = Numbering()
    numbering.ask("a", 1, 0)
    for sequence in (RESERVE, 10 * RESERVE, 1 << 61):
        span = numbering.ask("a", 1, sequence)
        assert span == Span(0, 0, sequence + RESERVE)


def test_a_route_without_a_group_takes_nothing_from_what_viewers_have() -> None:
    numbering = Numbering()
    numbering.ask("a", 1, 3)
    numbering.leave("a", 4)
    numbering.ask("b", 1, None)
    numbering.leave("b", 0)
    assert number(numbering.ask("c", 2, 0), 0) == 4


def test_a_floor_makes_a_track_count_anew() -> None:
    numbering = Numbering()
    numbering.ask("a", 1, 30)
    span = numbering.ask("a", 1, 31, floor=769)
    assert span is not None
    assert span.first == 31
    assert number(span, 31) >= 769


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 3 * RESERVE), st.booleans()),
        max_size=40,
    )
)
def test_no_number_is_two_groups(steps: list[tuple[int, int, int, bool]]) -> None:
    """Tracks of three lives begin, produce groups in order, and leave."""
    numbering = Numbering()
    newest: dict[tuple[int, int], tuple[int, list[Span], int]] = {}
    groups: dict[int, tuple[int, int]] = {}
    for track, life, ahead, leave in steps:
        key = track, life
        sequence, spans, following = newest.get(key, (-1, [], 0))
        if leave:
            if newest.pop(key, None) is not None:
                numbering.leave(str(key), following)
            continue
        sequence += 1 + ahead
        if not spans or sequence + spans[-1].shift >= spans[-1].limit:
            span = numbering.ask(str(key), life, sequence)
            assert span is not None
            spans = [*spans, span]
        span = spans[-1]
        if sequence >= span.first:
            shown = number(span, sequence)
            assert groups.setdefault(shown, (life, sequence)) == (life, sequence)
            following = max(following, shown + 1)
        newest[key] = sequence, spans, following
