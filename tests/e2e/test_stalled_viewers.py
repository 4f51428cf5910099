"""One viewer that never reads and one that reads next to nothing, beside twenty that are well: what they cost, and whom."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator

import pytest

from relay.actors import messages as m
from relay.actors.runtime import ask
from relay.model.limits import Limits
from tests.e2e.pressure_support import VIDEO, Stage, Viewer, percentile, stage

HEALTHY = 20
WINDOWS = 3
"""Stretches of time of which the best counts: what else the machine does only ever adds."""
SPAN = 0.4
"""Seconds of one of them: 240 frames reach the healthy."""

WINDOW = 16_384
"""Bytes that the slow ones take unread."""

PATIENCE = 0.3
KEPT = 100_000
"""`backlog_bytes`, below what the patience alone would let wait, so that both limits have something to do."""


def freeze(viewer: Viewer) -> None:
    """It takes in what it has promised to, and grants no more. Its session is well: packets are acknowledged."""
    viewer.client.session.link.quic._receive_window.deliver = lambda count: None  # type: ignore[attr-defined]


def thaw(viewer: Viewer, count: int) -> None:
    """Grant so many bytes more."""
    link = viewer.client.session.link  # type: ignore[attr-defined]
    link.quic._receive_window._value += count
    link.touch()


async def trickle(viewer: Viewer, rate: float, every: float = 0.05) -> None:
    """Grant so many bytes per second."""
    while True:
        await asyncio.sleep(every)
        thaw(viewer, math.ceil(rate * every))


@contextlib.asynccontextmanager
async def running(*coroutines: asyncio.Task[None]) -> AsyncIterator[None]:
    """Tasks for the length of a block."""
    try:
        yield
    finally:
        for task in coroutines:
            task.cancel()
        await asyncio.gather(*coroutines, return_exceptions=True)


async def best(on: Stage, viewers: list[Viewer]) -> tuple[float, float]:
    """What these viewers feel of the relay in the best of some windows from now on, and what a frame takes at least.

    The first is the 99th percentile of the ages of frames beyond what the event loop itself was late: on a busy machine
    everything waits for a processor. The second is processor time, in seconds.
    """
    clock = asyncio.get_running_loop().time
    ages, spent = [], []
    for _ in range(WINDOWS):
        on.lag = 0.0
        begin, cpu = clock(), time.process_time()
        await asyncio.sleep(SPAN)
        found = [age for viewer in viewers for age in viewer.watches[0].ages(begin, clock())]
        assert len(found) > HEALTHY * VIDEO.fps * SPAN / 4
        ages.append(max(0.0, percentile(found, 0.99) - on.lag))
        spent.append((time.process_time() - cpu) / len(found))
    return min(ages), min(spent)


async def dropped(on: Stage) -> dict[int, int]:
    """Groups given up for each session that lost some, by its number."""
    found: dict[int, int] = {}
    for number, ref in on.relay.connections.items():
        counts = await ask(ref, m.CountSession(), timeout=5.0)
        if count := counts.get(("groups_dropped", "too_far_behind")):
            found[number] = count
    return found


@pytest.mark.parametrize("fast", [True, False])
async def test_the_slow_cost_the_healthy_nothing(fast: bool, caplog: pytest.LogCaptureFixture) -> None:
    limits = Limits(backlog_time=PATIENCE, backlog_bytes=KEPT)
    async with stage(fast=fast, limits=limits) as on:
        video = on.source("video", VIDEO)
        healthy = await on.viewers(HEALTHY, behind=False)
        for viewer in healthy:
            await viewer.watch("video")
        await video.track.used()
        writing = asyncio.create_task(video.run(60.0))
        async with running(writing):
            without = await best(on, healthy)
            well = set(on.backlogs())
            never, hardly = await on.viewers(2, behind=False, window=WINDOW)
            slow = set(on.relay.connections) - well - {1}
            for viewer in (never, hardly):
                freeze(viewer)
                await viewer.watch("video")
            most = dict.fromkeys(slow, 0)

            async def look() -> None:
                while True:
                    await asyncio.sleep(0.01)
                    for number, waiting in on.backlogs(slow).items():
                        most[number] = max(most[number], waiting)

            reading = asyncio.create_task(trickle(hardly, VIDEO.rate / 100))
            async with running(asyncio.create_task(look()), reading):
                with_them = await best(on, healthy)

            # The healthy: as before. A relay that waits for the slow has frames as old as those have.
            assert with_them[0] < 2 * without[0] + 0.05
            assert with_them[1] < 2 * without[1]
            for viewer in healthy:
                assert viewer.watches[0].broken == {}

            # Memory. What was written within the patience may wait, and a group is given up as the next one begins:
            # 0.3 s * 249 kB/s + 50 kB = 125 kB, were it not for backlog_bytes, which nothing exceeds.
            assert VIDEO.rate * PATIENCE + VIDEO.group * VIDEO.size > KEPT
            for number in slow:
                assert KEPT / 2 < most[number] <= KEPT
            assert sum(most[number] for number in slow) <= len(slow) * limits.backlog_bytes

            # Counted for each group, logged once.
            counts = await dropped(on)
            assert set(counts) == slow
            assert min(counts.values()) > WINDOWS * SPAN / VIDEO.span / 3
            assert sorted(told(caplog)) == sorted(slow)

            # The one that never read begins to: it goes on with the newest group, and the episode is over.
            newest = video.track.latest
            assert newest is not None
            watch = never.watches[0]
            thaw(never, 1 << 24)
            await watch.until(lambda: watch.whole and max(watch.whole) > newest)
            assert sum(sequence < newest - 3 for sequence in watch.whole) <= 1
            assert sorted(told(caplog)) == sorted(slow)


def told(caplog: pytest.LogCaptureFixture) -> list[int]:
    """The sessions of which a line said that they are slow, as often as there is one."""
    lines = [record.getMessage() for record in caplog.records if "slow subscriber" in record.getMessage()]
    return [int(line.partition("]")[0].removeprefix("[session ")) for line in lines]
