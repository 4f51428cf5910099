"""GOAWAY in both directions."""

from __future__ import annotations

import pytest

from relay.actors import messages as m
from relay.actors.cluster import ClusterActor, Membership
from relay.actors.runtime import halt, send
from relay.model.limits import Limits
from relay.transport.session import Session
from relay.wire.control import Goaway
from relay.wire.errors import SessionCode
from relay.wire.version import Version
from tests.actors.raw_peer import RawPeer, follow_up
from tests.actors.world import CLUSTER, EVERYTHING, World
from tests.clock import RUNTIME, settle
from tests.sampling import ALL

WITH_GOAWAY = [v for v in Version if v >= Version.LITE_04]
WITHOUT = [v for v in Version if v < Version.LITE_04]


def goaways(peer: RawPeer) -> list[Goaway]:
    return [stream.request for stream in peer.requests if isinstance(stream.request, Goaway)]


async def drained(world: World, peer: RawPeer) -> m.Draining:
    send(peer.ref, m.Drain())
    await settle()
    return world.gate.got(m.Draining)[-1]


# --- sent
# ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ALL)
async def test_a_peer_is_asked_to_leave_once_and_served_on(world: World, version: Version) -> None:
    publisher = await world.publisher(version, "p")
    viewer = await world.viewer(version)
    assert await drained(world, viewer) == m.Draining(2, asked=version >= Version.LITE_04, cluster=False)
    await drained(world, viewer)
    assert goaways(viewer) == ([Goaway()] if version >= Version.LITE_04 else [])
    assert all(stream.fins == 1 for stream in viewer.requests if isinstance(stream.request, Goaway))
    number, _ = viewer.subscribe("p")
    await settle()
    await follow_up(publisher)
    [(_, request)] = publisher.live_subscriptions()
    publisher.group(request.id, 0, b"still served")
    await settle()
    assert [group.fins for group in viewer.groups(number)] == [1]
    assert not viewer.closed


@pytest.mark.parametrize("version", WITH_GOAWAY)
async def test_the_peer_may_reset_the_stream(world: World, version: Version) -> None:
    """0.5.1 resets the stream."""
    peer = await world.viewer(version)
    await drained(world, peer)
    [stream] = [stream for stream in peer.requests if isinstance(stream.request, Goaway)]
    stream.reset(1)
    stream.stream.stop(1)
    await settle()
    assert not peer.closed
    assert len(peer.relay.raw.streams) == len(peer.session.streams)


@pytest.mark.parametrize("version", [Version.LITE_05, Version.LITE_06])
async def test_a_session_that_has_not_begun_gets_it_when_it_has(world: World, version: Version) -> None:
    peer = world.connect(version, permissions=None, path=None, introduce=False)
    await settle()
    assert await drained(world, peer) == m.Draining(1, asked=False, cluster=False)
    assert goaways(peer) == []
    peer.introduce()
    await settle()
    assert goaways(peer) == [Goaway()]


async def test_another_relay_is_asked_and_reported_as_such(world: World) -> None:
    peer = await world.viewer(Version.LITE_06, permissions=CLUSTER)
    assert await drained(world, peer) == m.Draining(1, asked=True, cluster=True)
    assert goaways(peer) == [Goaway()]


async def test_a_relay_that_is_about_to_end_is_no_member_any_more(world: World) -> None:
    async def dial(target: str) -> Session:
        raise ConnectionError(target)

    cluster = ClusterActor.start(
        RUNTIME,
        origin=world.origin,
        number=0,
        membership=Membership(1, "a:1", (), world.environment.members, True, dial),
        limits=Limits(),
        gate=world.gate.ref,
    )
    other = await world.viewer(Version.LITE_06, permissions=CLUSTER)
    watching = other.watch(world.environment.members)
    await settle()
    assert watching.paths == ["a:1"]
    send(cluster, m.Drain())
    await settle()
    assert watching.paths == []
    halt(cluster)
    await settle()


# --- received
# --------------------------------------------------------------------------------------------------------


def sends_goaway(peer: RawPeer) -> None:
    peer.request(Goaway(), fin=True)


@pytest.mark.parametrize("version", WITH_GOAWAY)
async def test_a_second_goaway_ends_the_session(world: World, version: Version) -> None:
    peer = await world.viewer(version)
    sends_goaway(peer)
    await settle()
    assert not peer.closed
    sends_goaway(peer)
    await settle()
    assert [reason.reason for reason in peer.closed] == ["second GOAWAY"]
    if version >= Version.LITE_05:
        assert peer.closed[0].code == SessionCode.PROTOCOL_VIOLATION


@pytest.mark.parametrize("version", WITH_GOAWAY)
@pytest.mark.parametrize("relayed", [False, True], ids=["client", "relay"])
async def test_who_is_about_to_end_serves_only_where_nobody_else_does(
    world: World, version: Version, relayed: bool
) -> None:
    staying = await world.publisher(Version.LITE_06, "p", permissions=CLUSTER if relayed else EVERYTHING)
    leaving = await world.publisher(version, "p", "alone")
    viewer = await world.viewer(version)
    early, _ = viewer.subscribe("p")
    await settle()
    await follow_up(leaving)
    [(running, request)] = leaving.live_subscriptions()
    sends_goaway(leaving)
    leaving.publish("late")
    await settle()
    # new requests
    later = await world.viewer(version)
    later.subscribe("p")
    later.subscribe("alone")
    later.subscribe("late")
    await settle()
    await follow_up(staying)
    await follow_up(leaving)
    assert [r.broadcast for _, r in staying.live_subscriptions()] == ["p"]
    assert [r.broadcast for _, r in leaving.live_subscriptions()] == ["p", "alone", "late"]
    # running subscriptions continue
    leaving.group(request.id, 0, b"x")
    await settle()
    assert [group.fins for group in viewer.groups(early)] == [1]
    assert not running.over
    # and move at the end
    leaving.close()
    await settle()
    await follow_up(staying)
    assert [r.broadcast for _, r in staying.live_subscriptions()] == ["p"]
    staying.group(staying.live_subscriptions()[0][1].id, 0, b"y")
    await settle()
    assert [group.fins for group in viewer.groups(early)] == [1, 1]
