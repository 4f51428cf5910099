"""Publishers and viewers of every version, through the client library and a relay without sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from relay.actors.connection import ConnectionActor
from relay.client import Client, GroupAborted, Publication, TrackWriter
from relay.transport.memory import memory_pair
from relay.wire.errors import StreamCode
from relay.wire.version import Version
from tests.actors.world import EVERYTHING, HOP, World
from tests.clock import TIMEOUT
from tests.sampling import pairs

PUBLISHER = 41
VIEWER = 42


@asynccontextmanager
async def joined(world: World, version: Version, number: int, hop: int) -> AsyncIterator[Client]:
    by_setup = version <= Version.LITE_02
    near, far = memory_pair(None if by_setup else version)
    ConnectionActor.start(session=far, number=number, environment=world.environment, permissions=EVERYTHING)
    client = Client(near, versions=(version,), hop=hop)
    async with asyncio.timeout(TIMEOUT):
        await client.start()
    assert client.version == version
    try:
        yield client
    finally:
        await client.close()


@asynccontextmanager
async def scene(world: World, one: Version, two: Version) -> AsyncIterator[tuple[Client, Client]]:
    async with (
        joined(world, one, 101, PUBLISHER) as publisher,
        joined(world, two, 102, VIEWER) as viewer,
        asyncio.timeout(TIMEOUT),
    ):
        yield publisher, viewer


def offered(publisher: Client) -> tuple[Publication, TrackWriter]:
    publication = publisher.publish("room/cam")
    return publication, publication.track("video", priority=9, latency_ms=700, timescale=90_000)


@pytest.mark.parametrize(("one", "two"), pairs())
async def test_frames_arrive_intact_and_times_are_kept_or_made(
    world: World, one: Version, two: Version
) -> None:
    async with scene(world, one, two) as (publisher, viewer):
        _, track = offered(publisher)
        announced = viewer.announced()
        await announced.wait_for("room/cam")
        async with asyncio.TaskGroup() as tasks:
            asking = tasks.create_task(viewer.subscribe("room/cam", "video", priority=3))
            await track.used()
        subscription = asking.result()
        sent = [(7_000, b"key"), (7_500, b""), (7_200, b"x" * 100_000)]
        for sequence in (5, 6):
            group = track.group(sequence)
            for timestamp, payload in sent:
                group.write(payload, timestamp if one >= Version.LITE_05 else None)
            group.finish()
        for expected in (5, 6):
            received = await anext(subscription)
            frames = await received.read_all()
            assert received.sequence in (5, 6), expected
            assert [frame.payload for frame in frames] == [payload for _, payload in sent]
            times = [frame.timestamp for frame in frames]
            if two <= Version.LITE_04:
                assert times == [None] * 3
            elif one >= Version.LITE_05:
                assert times == [timestamp for timestamp, _ in sent]
            else:
                assert all(times)
                assert times == sorted(time for time in times if time is not None)
        track.finish()
        await subscription.ended()
        assert subscription.code is None


@pytest.mark.parametrize(("one", "two"), pairs())
async def test_hops_are_those_between(world: World, one: Version, two: Version) -> None:
    async with scene(world, one, two) as (publisher, viewer):
        offered(publisher)
        announced = viewer.announced()
        await announced.wait_for("room/cam")
        hops = list(announced.live["room/cam"].hops)
        if two <= Version.LITE_02:
            assert hops == []
        elif two == Version.LITE_03:
            assert len(hops) == 2
        elif two == Version.LITE_04:
            assert len(hops) == 2
            assert hops[-1] == HOP
        else:
            assert len(hops) == 1
            assert announced.origin == HOP
        if one >= Version.LITE_04 and two >= Version.LITE_04:
            assert hops[0] == PUBLISHER
        elif two >= Version.LITE_04:
            assert hops[0] not in (0, PUBLISHER, VIEWER, HOP)


@pytest.mark.parametrize(("one", "two"), pairs(twos=[Version.LITE_05, Version.LITE_06]))
async def test_properties_are_carried_over_or_made_up(world: World, one: Version, two: Version) -> None:
    async with scene(world, one, two) as (publisher, viewer):
        offered(publisher)
        await viewer.announced().wait_for("room/cam")
        info = await viewer.track_info("room/cam", "video")
        found = (info.priority, info.max_latency_ms, info.timescale)
        assert found == ((9, 700, 90_000) if one >= Version.LITE_05 else (127, 5_000, 1_000_000))


@pytest.mark.parametrize(("one", "two"), pairs())
async def test_an_abort_and_a_departure_reach_the_viewer(world: World, one: Version, two: Version) -> None:
    async with scene(world, one, two) as (publisher, viewer):
        publication, track = offered(publisher)
        announced = viewer.announced()
        await announced.wait_for("room/cam")
        async with asyncio.TaskGroup() as tasks:
            asking = tasks.create_task(viewer.subscribe("room/cam", "video"))
            await track.used()
        subscription = asking.result()
        group = track.group(0)
        group.write(b"first", 1 if one >= Version.LITE_05 else None)
        received = await anext(subscription)
        group.abort(StreamCode.OLD)
        with pytest.raises(GroupAborted):
            await received.read_all()
        lossy = min(one, two) <= Version.LITE_02
        assert received.code == (StreamCode.INTERNAL if lossy else StreamCode.OLD)
        publication.unannounce()
        await announced.wait_for("room/cam", active=False)
        await publisher.close()
        await subscription.ended()
        assert subscription.code == StreamCode.INTERNAL
