"""A sample of the combinations leaves none of its values out."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest

from relay.wire.version import Version
from tests.sampling import ALL, FULL, covering, pairs, rotated

SETS = [ALL, ALL[2:], ALL[4:], ALL[:3], ALL[:1]]


@pytest.mark.parametrize("ones", SETS, ids=len)
@pytest.mark.parametrize("twos", SETS, ids=len)
def test_each_version_takes_both_roles(ones: tuple[Version, ...], twos: tuple[Version, ...]) -> None:
    sample = pairs(ones, twos, full=False)
    assert ({one for one, _ in sample}, {two for _, two in sample}) == (set(ones), set(twos))
    assert set(sample) <= set(pairs(ones, twos, full=True)) == set(itertools.product(ones, twos))
    assert len(set(sample)) == len(sample)


def test_each_change_of_family_is_crossed_both_ways() -> None:
    sample = pairs(full=False)
    v1, v2, v3, v4, v5, v6 = ALL
    both = {(v1, v6), (v2, v3), (v4, v5), (v5, v6)}
    assert set(sample) == both | {(two, one) for one, two in both} | {(v1, v1), (v6, v6)}


def test_few_cases_are_enough_for_each_value() -> None:
    values = ["a", "b", "c", "d", "e"]
    for test in ("one", "two", "three"):
        kept = [rotated(values, test, number, full=False) for number in range(4)]
        assert all(len(some) == 2 and "a" in some for some in kept)
        assert set.union(*kept) == set(values)
    assert rotated(values, "one", 0, full=True) == set(values)
    assert len({frozenset(rotated(values, str(test), 0, full=False)) for test in range(40)}) == 4


def test_as_few_combinations_as_have_each_value() -> None:
    assert covering("ab", "123", full=False) == [("a", "1"), ("b", "2"), ("a", "3")]
    assert covering("123", "ab", full=False) == [("1", "a"), ("2", "b"), ("3", "a")]
    assert covering("ab", "123", full=True) == list(itertools.product("ab", "123"))


@pytest.mark.skipif(FULL, reason="nothing is left out")
def test_each_case_of_a_whole_run_has_two_pairings(request: pytest.FixtureRequest) -> None:
    found: Counter[tuple[str, ...]] = Counter()
    for item in request.session.items:
        params = (
            item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
        )
        if "pairing" in params:
            others = (repr(value) for name, value in params.items() if name != "pairing")
            found[item.nodeid.partition("[")[0], *others] += 1
    assert not [case for case, pairings in found.items() if pairings > 2]
