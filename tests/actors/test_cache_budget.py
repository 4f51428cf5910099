"""One budget for the caches of all tracks: who evicts, and that nothing else is lost."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio

from relay.actors import messages as m
from relay.actors.cache_budget import CacheBudgetActor
from relay.actors.counters import TrackFigures
from relay.actors.reporting import Reports
from relay.actors.runtime import Ref, halt, send
from relay.model.cache import SLACK
from relay.model.limits import Limits
from relay.wire.errors import StreamCode
from relay.wire.version import Version
from tests.actors.fakes import Fake
from tests.actors.raw_peer import RawPeer, upstream
from tests.actors.watching import actor_of, named
from tests.actors.world import World
from tests.clock import RUNTIME, settle

BUDGET = 1_000_000


class Kept(World):
    """A world whose tracks share a budget."""

    def __init__(self, budget: int, limits: Limits) -> None:
        super().__init__(limits)
        self.cache_budget: Ref = CacheBudgetActor.start(RUNTIME, budget)
        self.environment = replace(self.environment, cache_budget=self.cache_budget)

    async def close(self, *, clean: bool = True) -> None:
        halt(self.cache_budget)
        await settle()
        await super().close(clean=clean)

    def held(self, path: str) -> list[int]:
        """Cached groups of the broadcast's track."""
        return [
            group.sequence for group in actor_of(named(f"track {path} video"))._groups.cache if group.size
        ]

    @property
    def total(self) -> int:
        found = [actor_of(named(f"track {path} video"))._groups.cache.size for path in self.paths]
        return sum(found)

    paths: tuple[str, ...] = ()


@pytest_asyncio.fixture
async def kept() -> AsyncIterator[Kept]:
    made = Kept(BUDGET, Limits(track_idle=0.01, cache_age=3_600))
    yield made
    await made.close()


async def stream_of(world: Kept, path: str) -> tuple[RawPeer, int, RawPeer, int]:
    """A publisher with a viewer: the peer and the id for groups, the peer and the number of its subscription."""
    publisher = await world.publisher(Version.LITE_04, path)
    viewer = await world.viewer(Version.LITE_04)
    number, _ = viewer.subscribe(path)
    _, request = await upstream(publisher)
    world.paths = (*world.paths, path)
    return publisher, request.id, viewer, number


def within(total: int) -> bool:
    """The budget, and changes too small to report."""
    return total <= BUDGET + BUDGET // SLACK


async def test_who_holds_more_than_its_share_gives_up_first(
    kept: Kept, caplog: pytest.LogCaptureFixture
) -> None:
    small, small_id, viewer, number = await stream_of(kept, "small")
    large, large_id, glutton, all_of_it = await stream_of(kept, "large")
    for sequence in range(40):
        small.group(small_id, sequence, b"x" * 2_000)
        large.group(large_id, sequence, b"x" * 60_000)
        await settle()
        assert within(kept.total)
    assert kept.held("small") == list(range(40))
    left = kept.held("large")
    assert left == list(range(40 - len(left), 40))
    assert 10 < len(left) < 20
    # evicted groups had been delivered
    assert len(viewer.groups(number)) == len(glutton.groups(all_of_it)) == 40
    assert all(group.fins for group in glutton.groups(all_of_it))
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_the_newest_groups_stay_as_long_as_they_fit(kept: Kept) -> None:
    for number in range(8):
        publisher, upstream_id, *_ = await stream_of(kept, f"p/{number}")
        for sequence in range(3):
            publisher.group(upstream_id, sequence, b"x" * 100_000)
            await settle()
    assert within(kept.total)
    for number in range(8):
        assert kept.held(f"p/{number}")[-1] == 2


async def test_a_newest_group_above_its_share_stays_while_old_ones_make_room(kept: Kept) -> None:
    picture, picture_id, *_ = await stream_of(kept, "picture")
    picture.group(picture_id, 0, b"x" * 500_000)
    many, many_id, *_ = await stream_of(kept, "many")
    for sequence in range(12):
        many.group(many_id, sequence, b"x" * 60_000)
        await settle()
        assert within(kept.total)
    assert kept.held("picture") == [0]
    assert 0 < len(kept.held("many")) < 9
    assert kept.held("many")[-1] == 11
    assert ("refused", "cache") not in actor_of(picture.ref)._context.counts


@pytest.mark.parametrize("fin", [True, False])
async def test_newest_groups_above_their_share_go_when_there_is_nothing_else(
    kept: Kept, fin: bool, caplog: pytest.LogCaptureFixture
) -> None:
    modest, modest_id, viewer, number = await stream_of(kept, "modest")
    modest.group(modest_id, 0, b"picture")
    gluttons = []
    for position in range(10):
        publisher, upstream_id, *_ = await stream_of(kept, f"g/{position}")
        group = publisher.group(upstream_id, 0, fin=False)
        gluttons.append((publisher, upstream_id, group))
    for _ in range(5):
        for publisher, _, group in gluttons:
            group.write(publisher.frames(b"x" * 60_000))
            await settle()
            assert within(kept.total)
    if fin:
        for _, _, group in gluttons:
            group.write(fin=True)
        await settle()
    assert kept.held("modest") == [0]
    refused = [actor_of(publisher.ref)._context.counts["refused", "cache"] for publisher, *_ in gluttons]
    assert sum(refused) >= 5
    stopped = [group for _, _, group in gluttons if group.stops]
    assert all(group.stops == [StreamCode.GROUP_TOO_LARGE] for group in stopped)
    assert len(stopped) == sum(refused)
    lines = [r.getMessage() for r in caplog.records if "over limit limit=cache " in r.getMessage()]
    assert len(lines) == len([count for count in refused if count])
    late = await kept.viewer(Version.LITE_04)
    again, _ = late.subscribe("modest")
    await settle()
    assert [group.payloads for group in late.groups(again)] == [[b"picture"]]
    assert [group.payloads for group in viewer.groups(number)] == [[b"picture"]]
    # viewers that lost a group get the next one
    publisher, upstream_id, group = next(entry for entry in gluttons if entry[2].stops)
    publisher.group(upstream_id, 1, b"next")
    await settle()
    assert not publisher.closed


async def test_a_complete_newest_group_above_its_share_is_given_up(kept: Kept) -> None:
    for position in range(10):
        publisher, upstream_id, viewer, number = await stream_of(kept, f"g/{position}")
        publisher.group(upstream_id, 0, b"x" * 200_000)
        await settle()
        assert within(kept.total)
        assert [len(group.payloads[0]) for group in viewer.groups(number)] == [200_000]
    assert sum(bool(kept.held(f"g/{position}")) for position in range(10)) <= 5
    late = await kept.viewer(Version.LITE_04)
    gone = next(position for position in range(10) if not kept.held(f"g/{position}"))
    number, asked = late.subscribe(f"g/{gone}")
    await settle()
    assert late.groups(number) == []
    assert not asked.over


async def test_fetched_groups_count_and_are_refused_for_want_of_room(kept: Kept) -> None:
    publisher = await kept.publisher(Version.LITE_06, "p")
    viewer = await kept.viewer(Version.LITE_06)
    viewer.subscribe("p")
    await upstream(publisher)
    asked = [viewer.fetch("p", sequence) for sequence in range(10)]
    await settle()
    for stream, _ in publisher.fetches():
        stream.write(publisher.frames(b"x" * 150_000))
        await settle()
    assert actor_of(named("track p video"))._fetches.size <= BUDGET
    refused = [stream for stream in asked if stream.resets]
    assert refused
    assert {code for stream in refused for code in stream.resets} == {StreamCode.NO_CAPACITY}
    assert not viewer.closed


async def test_what_ended_tracks_held_is_free_again(kept: Kept) -> None:
    for _ in range(3):
        publisher, upstream_id, viewer, _ = await stream_of(kept, "p")
        kept.paths = ()
        publisher.group(upstream_id, 0, b"x" * 500_000)
        await settle()
        assert actor_of(kept.cache_budget)._total >= 500_000
        publisher.close()
        viewer.close()
        await settle()
        assert actor_of(kept.cache_budget)._total == 0
        assert not actor_of(kept.cache_budget)._sizes


async def test_a_track_that_ends_instead_of_answering_does_not_stop_the_cache_budget() -> None:
    cache_budget: Ref = CacheBudgetActor.start(RUNTIME, 1_000)
    first, second = Fake(), Fake()
    send(cache_budget, m.CacheSize(first.ref, 2_000))
    await settle()
    assert first.got(m.EvictTo) == [m.EvictTo(875, newest=False)]
    send(cache_budget, m.CacheSize(first.ref, 1_500))  # sent before the question arrived: no answer
    send(cache_budget, m.CacheSize(second.ref, 2_000))
    await settle()
    assert len(first.log) == 1
    assert not second.log
    send(cache_budget, m.CacheSize(first.ref, 0))
    await settle()
    assert second.got(m.EvictTo) == [m.EvictTo(875, newest=True)]
    send(cache_budget, m.CacheSize(second.ref, 500, answer=True))
    send(cache_budget, m.CacheSize(first.ref, 600))
    await settle()
    assert first.got(m.EvictTo)[1:] == [m.EvictTo(437, newest=True)]
    for ref in (cache_budget, first.ref, second.ref):
        halt(ref)
    await settle()


@pytest.mark.interpreted
async def test_small_changes_of_the_size_are_not_reported() -> None:
    budget = Fake()
    cache, empty = SimpleNamespace(size=0), SimpleNamespace(all={}, size=0)
    owner: Any = SimpleNamespace(actor_ref=budget.ref)
    groups: Any = SimpleNamespace(cache=cache)
    parts: Any = empty
    figures = TrackFigures("", "p", "video/hd", 0, 0, 0)
    reports = Reports(owner, figures, groups, parts, parts, counters=None, budget=budget.ref)
    for cache.size in (0, 4_095, 4_096, 8_000, 80_000, 89_999, 90_000, 100, 0, 0):
        reports.turn()
    await settle()
    assert [held.size for held in budget.got(m.CacheSize)] == [4_096, 80_000, 90_000, 100, 0]
    halt(budget.ref)


async def test_a_lower_budget_holds_at_once(kept: Kept) -> None:
    publisher, number, _, _ = await stream_of(kept, "a")
    for sequence in range(8):
        publisher.group(number, sequence, bytes(100_000))
    await settle()
    assert kept.held("a") == list(range(8))
    send(kept.cache_budget, m.NewLimits(Limits(cache=300_000)))
    await settle()
    assert kept.held("a") == [6, 7]
