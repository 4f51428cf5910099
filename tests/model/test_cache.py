"""Which groups a track keeps."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from relay.model.cache import GroupCache, fair_share
from relay.model.group import FRAME_OVERHEAD, Group
from relay.model.limits import Limits
from relay.model.track import SubscribeParams
from relay.wire.frame import FrameHeader


def filled(
    cache: GroupCache[Group],
    sequence: int,
    *,
    size: int = 10,
    now: float = 0.0,
    time: int = 0,
    done: bool = True,
) -> Group:
    group = Group(sequence, now)
    assert cache.add(group)
    if size:
        cache.extend(group, [FrameHeader(time, size), b"x" * size])
    group.finished = done
    return group


def held(cache: GroupCache[Group]) -> list[int]:
    return [group.sequence for group in cache]


def test_groups_come_in_order_of_sequence_and_duplicates_are_refused() -> None:
    cache: GroupCache[Group] = GroupCache(Limits())
    for sequence in (5, 3, 4):
        filled(cache, sequence)
    assert held(cache) == [3, 4, 5]
    assert cache.latest is cache.groups.get(5)
    assert not cache.add(Group(4, 0.0))
    assert cache.groups.get(9) is None


def test_the_newest_group_stays_whatever_its_age_and_size() -> None:
    cache: GroupCache[Group] = GroupCache(Limits(cache_age=1.0, cache_track=100))
    filled(cache, 0, size=10_000)
    assert cache.evict(1_000.0) == []
    filled(cache, 1, now=1_000.0)
    assert [group.sequence for group in cache.evict(1_000.0)] == [0]
    assert held(cache) == [1]


def test_older_groups_go_by_age_but_not_while_they_are_open() -> None:
    cache: GroupCache[Group] = GroupCache(Limits(cache_age=5.0))
    filled(cache, 0, now=0.0)
    filled(cache, 1, now=0.0, done=False)
    filled(cache, 2, now=3.0)
    filled(cache, 3, now=6.0)
    assert [group.sequence for group in cache.evict(6.0)] == [0]
    assert held(cache) == [1, 2, 3]
    assert not cache.add(Group(0, 6.0))


def test_the_oldest_go_when_there_are_too_many_or_too_large() -> None:
    cache: GroupCache[Group] = GroupCache(Limits(cache_groups=3))
    for sequence in range(5):
        filled(cache, sequence, done=False)
    assert [group.sequence for group in cache.evict(0.0)] == [0, 1]
    cache = GroupCache(Limits(cache_track=3 * (FRAME_OVERHEAD + 1_000)))
    for sequence in range(5):
        filled(cache, sequence, size=1_000)
    assert [group.sequence for group in cache.evict(0.0)] == [0, 1]
    assert cache.size == 3 * (FRAME_OVERHEAD + 1_000)


def test_what_was_evicted_is_not_taken_again() -> None:
    cache: GroupCache[Group] = GroupCache(Limits(cache_groups=1))
    for sequence in (10, 12):
        filled(cache, sequence)
    cache.evict(0.0)
    assert cache.floor == 11
    assert not cache.add(Group(9, 0.0))
    assert not cache.add(Group(10, 0.0))
    assert cache.add(Group(11, 0.0))


def test_history_is_measured_by_timestamps_alone() -> None:
    cache: GroupCache[Group] = GroupCache(Limits())
    assert cache.start(100) is None
    for sequence in range(5):
        filled(cache, sequence, time=sequence * 100)
    assert cache.start(0) == 4
    assert cache.start(1) == 3
    assert cache.start(101) == 2
    assert cache.start(250) == 1
    assert cache.start(10_000) == 0


def test_a_subscription_starts_where_it_asks_to_or_as_far_back_as_its_history_goes() -> None:
    cache: GroupCache[Group] = GroupCache(Limits())
    assert cache.start_of(SubscribeParams(), 0) == 0
    assert cache.start_of(SubscribeParams(start_group=7, start_is_floor=True), 0) == 7
    for sequence in range(5):
        filled(cache, sequence, time=sequence * 100)
    assert cache.start_of(SubscribeParams(), 0) == 4
    assert cache.start_of(SubscribeParams(), 250) == 1
    assert cache.start_of(SubscribeParams(start_group=2), 10_000) == 2
    assert cache.start_of(SubscribeParams(start_group=2, start_is_floor=True), 10_000) == 2
    assert cache.start_of(SubscribeParams(start_group=2, start_is_floor=True), 0) == 4
    assert cache.start_of(SubscribeParams(start_group=9), 0) == 9


def test_a_group_whose_successor_is_empty_is_never_expired() -> None:
    cache: GroupCache[Group] = GroupCache(Limits())
    filled(cache, 0, time=0)
    filled(cache, 1, size=0)
    filled(cache, 2, time=1_000_000)
    assert cache.start(5) == 0


@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(0, 500), st.booleans(), st.floats(0, 3)), max_size=40),
    st.integers(1, 5),
    st.integers(500, 3_000),
)
def test_the_policy_holds_in_any_order(
    arrivals: list[tuple[int, int, bool, float]], most: int, size: int
) -> None:
    limits = Limits(cache_groups=most, cache_track=size, cache_age=2.0)
    cache: GroupCache[Group] = GroupCache(limits)
    now = 0.0
    for sequence, length, done, pause in arrivals:
        now += pause
        group = Group(sequence, now)
        if not cache.add(group):
            assert sequence < cache.floor or cache.groups.get(sequence) is not None
            continue
        if length:
            cache.extend(group, [FrameHeader(0, length), b"x" * length])
        group.finished = done
        newest = max(held(cache))
        dropped = cache.evict(now)
        assert newest in held(cache)
        assert all(gone.sequence < cache.floor for gone in dropped)
        assert not any(cache.groups.get(gone.sequence) for gone in dropped)
        assert len(cache) <= max(most, 1)
        assert cache.size == sum(kept.size for kept in cache)
        assert cache.size <= size or len(cache) == 1
        assert cache.latest is not None
        assert cache.latest.sequence == newest


def test_groups_stay_as_long_as_the_publisher_says() -> None:
    cache: GroupCache[Group] = GroupCache(Limits(cache_age=5.0))
    cache.age = 60.0
    for sequence in (0, 1):
        filled(cache, sequence)
    assert not cache.evict(59.9)
    assert [group.sequence for group in cache.evict(60.0)] == [0]


def test_a_cache_that_shrinks_gives_up_complete_groups_first_and_the_newest_never() -> None:
    cache: GroupCache[Group] = GroupCache(Limits())
    each = 100 + FRAME_OVERHEAD
    for sequence in range(5):
        filled(cache, sequence, size=100, done=sequence != 1)
    assert [group.sequence for group in cache.shrink(3 * each)] == [0, 2]
    assert [group.sequence for group in cache.shrink(0)] == [3, 1]
    assert held(cache) == [4]
    assert cache.size == each
    assert not cache.add(Group(3, 0.0))


@given(st.lists(st.integers(0, 10_000), max_size=20), st.integers(0, 50_000))
def test_fair_shares_use_the_budget_and_keep_within_it(sizes: list[int], budget: int) -> None:
    share = fair_share(sizes, budget)
    kept = sum(min(size, share) for size in sizes)
    assert kept <= max(budget, 0)
    if sum(sizes) <= budget:
        assert kept == sum(sizes)
    else:
        assert kept > budget - len(sizes)  # only an indivisible rest is left


def test_the_newest_whole_group_stays_when_the_newest_is_broken() -> None:
    cache: GroupCache[Group] = GroupCache(Limits(cache_age=1.0, cache_groups=2, cache_track=100))
    filled(cache, 0)
    filled(cache, 1, size=10_000)
    filled(cache, 2, done=False).code = 70
    assert cache.newest is cache.groups.get(1)
    assert [group.sequence for group in cache.evict(1_000.0)] == [0]
    assert held(cache) == [1, 2]
    assert cache.start(0) == 1
    filled(cache, 3, now=1_000.0)
    assert cache.newest is cache.groups.get(3)
    assert [group.sequence for group in cache.evict(1_000.0)] == [1, 2]


def test_without_a_whole_group_there_is_no_newest() -> None:
    cache: GroupCache[Group] = GroupCache(Limits())
    assert cache.newest is None
    filled(cache, 2, done=False).code = 70
    assert cache.newest is None
    assert cache.start(5) is None
