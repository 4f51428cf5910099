"""Viewers behind a bottleneck with half of a track's rate: frames are new, whole groups are skipped, and higher priority
loses nothing.

    path     queue of the bottleneck, and propagation delay: outside the relay's control
    rate     of the track, payload in bytes/s; half of it gets through
    patience [limits] backlog_time: groups are skipped once more bytes are queued than were written in it
"""

from __future__ import annotations

import asyncio

import pytest

from relay.model.limits import Limits
from relay.wire.errors import StreamCode
from relay.wire.version import Version
from tests.e2e.harness import free_udp_port
from tests.e2e.pressure_support import AUDIO, VIDEO, Shape, Stage, Watch, percentile, stage
from tests.e2e.support import publisher, running, viewer, webtransport
from tests.e2e.udp_proxy import UdpProxy

SECONDS = 3.0
DELAY = 0.02
QUEUE = 0.1
"""Seconds of the bottleneck's queue."""
PATH = 2 * DELAY + QUEUE
RECOVERY = 0.3
"""Most seconds of a lost packet: detected a round trip later, and its retransmission may be lost, too."""
PATIENCE = 0.2
QUICK = Limits(backlog_time=PATIENCE)
"""A test of a few seconds sees many skipped groups. Everything scales with it."""

OLD = (Version.LITE_05,)
"""The newest version with ordered delivery, whose max latency is not history."""


def squeeze(on: Stage, rate: float) -> None:
    """A bottleneck for that payload and its packets."""
    rate *= 1.06
    on.weather.both(delay=DELAY)
    on.weather.down.rate = rate
    on.weather.down.queue = int(rate * QUEUE)


def oldest(shape: Shape, share: float = 0.5) -> float:
    """Greatest age of a frame on arrival, with newer groups first.

    Once a newer group has begun, the rest of a group is queued at rate * (1 - share). The group is skipped as the
    next one begins, if more is queued than was written within the patience, i.e. after patience / (1 - share). So the
    age is a group's span, that time, and another span.
    """
    return 2 * shape.span + PATIENCE / (1 - share) + PATH + RECOVERY


def test_the_bound_says_something() -> None:
    """Without skipping, half of all data would be queued at the end, and be that old."""
    assert oldest(VIDEO) < SECONDS / 2 - 0.2


@pytest.mark.virtual
async def test_video_skips_and_audio_loses_nothing() -> None:
    async with stage(limits=QUICK) as on:
        video, audio = on.source("video", VIDEO), on.source("audio", AUDIO)
        viewers = await on.viewers(3)
        pictures = [await viewer.watch("video", priority=1) for viewer in viewers]
        # the player's patience for sound
        sounds = [await viewer.watch("audio", priority=2, max_latency_ms=1000) for viewer in viewers]
        for source in (video, audio):
            await source.track.used()
        squeeze(on, VIDEO.rate / 2 + 2 * AUDIO.rate)
        most = 0
        writing = asyncio.gather(video.run(SECONDS), audio.run(SECONDS))
        while not writing.done():
            await asyncio.sleep(0.01)
            most = max(most, *on.backlogs().values())
        end = asyncio.get_running_loop().time()
        # data of the patience may be queued, and a skip waits for the next group
        waits = VIDEO.rate * PATIENCE + VIDEO.group * VIDEO.size + AUDIO.rate
        assert most < waits + VIDEO.rate * (2 / VIDEO.fps)
        for watch in sounds:
            await watch.until(lambda watch=watch: len(watch.whole) == audio.groups)  # type: ignore[misc]
            assert watch.broken == {}
            assert max(watch.ages()) < PATH + RECOVERY
        for source in (video, audio):
            source.track.finish()
        for watch in pictures:
            await watch.until(lambda watch=watch: watch.ended)  # type: ignore[misc]
            check_newest(on, watch, video.groups, end)


def check_newest(on: Stage, watch: Watch, groups: int, end: float) -> None:
    """Frames until `end` are new; only whole ends of groups are missing."""
    watch.check_boundaries(VIDEO.group)
    assert max(watch.ages(end=end)) < oldest(VIDEO)
    # a group's beginning precedes all older groups
    assert watch.begun[-1] == groups - 1
    assert len(watch.begun) > 0.8 * groups
    first = [arrival.age for arrival in watch.arrivals if arrival.number == 0]
    assert percentile(first, 0.5) < PATH + VIDEO.span / 2
    assert max(first) < PATH + RECOVERY
    assert len(watch.broken) > groups // 4
    assert set(watch.broken.values()) == {StreamCode.TOO_FAR_BEHIND}
    assert len(watch.arrivals) > 0.25 * groups * VIDEO.group


@pytest.mark.virtual
async def test_ordered_delivery_keeps_the_order_and_skips() -> None:
    async with stage(limits=QUICK) as on:
        source = on.source("video", VIDEO)
        (viewer,) = await on.viewers(1, versions=OLD)
        watch = await viewer.watch("video", ordered=True)
        await source.track.used()
        squeeze(on, VIDEO.rate / 2)
        await source.run(SECONDS)
        end = asyncio.get_running_loop().time()
        source.track.finish()
        await watch.until(lambda: watch.ended)
        watch.check_boundaries(VIDEO.group)
        assert watch.begun == sorted(watch.begun)
        assert StreamCode.TOO_FAR_BEHIND in watch.broken.values()
        # a group's end precedes the next beginning, retransmissions aside
        assert len(watch.whole) > 1
        assert 15 * out_of_order(watch) <= len(watch.arrivals)
        # oldest first: the age is the queueing time
        waits = (VIDEO.rate * PATIENCE + VIDEO.group * VIDEO.size) / (VIDEO.rate / 2)
        assert max(watch.ages(end=end)) < VIDEO.span + waits + PATH + RECOVERY


def out_of_order(watch: Watch) -> int:
    """Frames that came after one of a newer group."""
    newest, count = -1, 0
    for arrival in watch.arrivals:
        count += arrival.group < newest
        newest = max(newest, arrival.group)
    return count


@pytest.mark.virtual
async def test_max_latency_bounds_the_age_of_what_arrives() -> None:
    """With limits that alone would let a second's worth wait."""
    latency = 0.2
    async with stage() as on:
        source = on.source("video", VIDEO)
        strict, patient = await on.viewers(2, versions=OLD)
        watch = await strict.watch("video", max_latency_ms=int(latency * 1000))
        other = await patient.watch("video", max_latency_ms=3000)
        await source.track.used()
        squeeze(on, VIDEO.rate / 2)
        await source.run(SECONDS)
        end = asyncio.get_running_loop().time()
        # counted from the beginning of the next group, and checked with each frame
        bound = VIDEO.span + latency + 2 / VIDEO.fps + PATH + RECOVERY
        assert max(watch.ages(end=end)) < bound
        assert set(watch.broken.values()) == {StreamCode.DELIVERY_TIMEOUT}
        assert len(watch.broken) > source.groups // 4
        # more patience gets older frames, and loses less
        assert max(other.ages(end=end)) > max(watch.ages(end=end))
        assert len(other.broken) < len(watch.broken)


@pytest.mark.virtual
async def test_an_update_swaps_who_skips() -> None:
    shape = Shape(30, VIDEO.size // 2, VIDEO.group)
    async with stage(limits=QUICK) as on:
        one, two = on.source("one", shape), on.source("two", shape)
        (viewer,) = await on.viewers(1, versions=OLD)
        first, second = await viewer.watch("one", priority=5), await viewer.watch("two", priority=3)
        for source in (one, two):
            await source.track.used()
        squeeze(on, shape.rate * 1.1)
        writing = asyncio.gather(one.run(SECONDS), two.run(SECONDS))
        await asyncio.sleep(SECONDS / 2)
        middle = one.groups
        second.subscription.update(priority=9)
        await writing
        for source in (one, two):
            source.track.finish()
        for watch in (first, second):
            await watch.until(lambda watch=watch: watch.ended)  # type: ignore[misc]
            watch.check_boundaries(shape.group)
        # without a group of both halves each, and the discovery of the rate
        before, after = range(2, middle - 1), range(middle + 2, one.groups - 1)
        assert len(set(before) - set(first.whole)) <= 1
        assert len(set(after) - set(second.whole)) <= 1
        assert len(set(before) & set(second.whole)) < len(before) / 2
        assert len(set(after) & set(first.whole)) < len(after) / 2


async def test_real_viewers_stay_on_the_newest_groups() -> None:
    """Without a max age the client itself would drop each group as the next one begins."""
    groups, viewers = 15, 3
    async with running(limits=QUICK) as relay:
        with UdpProxy(free_udp_port(), relay.port) as proxy:
            frames = ("--frames-per-group", VIDEO.group, "--frame-size", VIDEO.size)
            pace = ("--groups", groups, "--interval", 1 / VIDEO.fps, "--pause", "start")
            many = ("--viewers", viewers, "--max-age-ms", 400)
            url = f"https://127.0.0.1:{proxy.port}/"
            async with (
                publisher("0.5.1", webtransport(relay), "demo/cam", *frames, *pace) as source,
                viewer("0.5.1", url, "demo/cam", *many) as peer,
            ):
                await peer.wait_for("subscribed", nth=viewers)
                await source.wait_for("paused")
                proxy.weather().both(delay=DELAY)
                proxy.weather().down.rate = VIDEO.rate * 0.53
                proxy.weather().down.queue = int(VIDEO.rate * 0.53 * QUEUE)
                await source.send_line("go")
                for number in range(viewers):
                    result = await peer.wait_for("result", 20.0, viewer=number)
                    assert result["end"] == "ended"
                    assert result["bad"] == []
                    begun = [sequence for sequence, _ in result["groups"]]
                    assert begun[-1] == groups - 1
                    for sequence, numbers in result["groups"]:
                        assert numbers == list(range(len(numbers))), sequence
                    given_up = [error for error in result["errors"] if error["kind"] == "delivery_timeout"]
                    assert len({error["group"] for error in given_up}) == len(given_up) > groups // 4
                    assert any(len(numbers) == VIDEO.group for _, numbers in result["groups"])
