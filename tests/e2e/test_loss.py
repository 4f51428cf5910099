"""Viewers on networks with loss, reordering and delay: everything arrives, in time if the rate allows it."""

from __future__ import annotations

import pytest

from relay.model.limits import Limits
from relay.quic.settings import QuicSettings
from tests.e2e.harness import free_udp_port
from tests.e2e.pressure_support import Shape, percentile, stage
from tests.e2e.support import assert_complete, publisher, running, viewer, webtransport
from tests.e2e.udp_proxy import UdpProxy

VIEWERS = 3


async def test_a_live_track_gets_through_heavy_loss() -> None:
    """2 Mbit/s at 30 frames/s, 5 % lost each way, 100 ms round trip: real viewers get all of it, as it happens.

    They wait for eight seconds at most, part of which a busy machine takes. Congestion control that mistakes loss for
    a full path would send a fifth of it, and need sixteen.
    """
    groups, frames = 4, 30
    async with running(limits=Limits(), quic=QuicSettings(congestion="bbr")) as relay:
        with UdpProxy(free_udp_port(), relay.port, seed=3) as proxy:
            shape = ("--groups", groups, "--frames-per-group", frames, "--frame-size", 8300)
            pace = ("--interval", 1 / 30, "--pause", "start")
            many = ("--viewers", VIEWERS, "--max-age-ms", 8000)
            url = f"https://127.0.0.1:{proxy.port}/"
            proxy.weather().both(delay=0.05)
            async with (
                publisher("0.5.1", webtransport(relay), "demo/cam", *shape, *pace) as source,
                viewer("0.5.1", url, "demo/cam", *many) as peer,
            ):
                await peer.wait_for("subscribed", nth=VIEWERS)
                await source.wait_for("paused")
                proxy.weather().both(loss=0.05, delay=0.05)
                await source.send_line("go")
                for number in range(VIEWERS):
                    assert_complete(await peer.wait_for("result", viewer=number), groups, frames)
                proxy.weather().both()
            assert proxy.dropped > 0.03 * proxy.passed


@pytest.mark.parametrize(
    "loss, delay, jitter, rate",
    [(0.01, 0.025, 0.0, 60_000), (0.05, 0.05, 0.0, 30_000), (0.1, 0.1, 0.02, 7_500)],
    ids=["1 %", "5 %", "10 %, reordered"],
)
@pytest.mark.virtual
async def test_what_a_line_can_carry_arrives_in_time(
    loss: float, delay: float, jitter: float, rate: int
) -> None:
    """With default limits nothing is skipped, and no viewer falls behind.

    Delay is in round trips: a loss is noticed after one, its repair takes half of one, and at higher loss rates
    congestion control adds some more.
    """
    shape = Shape(30, rate // 30, 15)
    async with stage() as on:
        source = on.source("video", shape)
        watches = [await viewer.watch("video") for viewer in await on.viewers(5)]
        await source.track.used()
        on.weather.both(loss=loss, delay=delay, jitter=jitter)
        await source.run(1.0)
        for watch in watches:
            await watch.until(lambda watch=watch: len(watch.whole) == source.groups)  # type: ignore[misc]
            watch.check_boundaries(shape.group)
            assert watch.broken == {}
        round_trip = 2 * delay + jitter
        ages = [age for watch in watches for age in watch.ages()]
        assert percentile(ages, 0.5) < 4 * round_trip
        assert percentile(ages, 0.95) < 15 * round_trip
