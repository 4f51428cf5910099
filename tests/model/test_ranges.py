"""Sets of group numbers as ranges."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from relay.model.ranges import MAX_RANGES, Ranges

SMALL = st.integers(0, 60)


@given(st.lists(st.tuples(SMALL, SMALL)), SMALL, SMALL)
def test_ranges_are_a_set_of_numbers(added: list[tuple[int, int]], start: int, end: int) -> None:
    ranges = Ranges()
    numbers: set[int] = set()
    for one, other in added:
        ranges.add(min(one, other), max(one, other))
        numbers |= set(range(min(one, other), max(one, other) + 1))
    kept = list(ranges)
    assert {number for first, last in kept for number in range(first, last + 1)} == numbers
    assert all(before[1] + 1 < after[0] for before, after in pairwise(kept))
    missing = {number for first, last in ranges.gaps(start, end) for number in range(first, last + 1)}
    assert missing == set(range(start, end + 1)) - numbers
    assert ranges.first == min(numbers, default=None)
    assert ranges.last == max(numbers, default=None)


def test_the_oldest_gaps_are_forgotten() -> None:
    ranges = Ranges()
    for number in range(0, 20 * MAX_RANGES, 2):
        ranges.add(number, number)
    kept = list(ranges)
    assert len(kept) == MAX_RANGES
    assert kept[0][0] == 0
    assert kept[-1] == (20 * MAX_RANGES - 2, 20 * MAX_RANGES - 2)
