"""A viewer that cannot take everything: order, skipping, and resets."""

from __future__ import annotations

from typing import Any

import pytest

from relay.model.backlog import Backlog
from relay.model.limits import Limits
from relay.moq.delivery import END_POLL, END_POLL_MAX
from relay.wire.subscribe import SubscribeUpdate
from relay.wire.version import Version
from tests.actors.raw_peer import GroupStream, RawPeer, upstream
from tests.actors.watching import actor_of
from tests.actors.world import CLUSTER, World
from tests.clock import advance, settle
from tests.sampling import ALL

UPDATING = [version for version in ALL if version >= Version.LITE_03]
ORDERING = [version for version in UPDATING if version < Version.LITE_06]


async def begun(
    world: World, version: Version, **fields: Any
) -> tuple[RawPeer, RawPeer, int, int, GroupStream]:
    """A publisher, a viewer that stops reading in group 0, and their subscriptions."""
    publisher, slow = await world.publisher(Version.LITE_05, "p"), await world.viewer(version)
    number, _ = slow.subscribe("p", **fields)
    _, request = await upstream(publisher)
    first = publisher.group(request.id, 0, b"begun", fin=False)
    await settle()
    slow.session.pause()
    first.write(publisher.frames(b"more" * 100), fin=True)
    await settle()
    (group,) = slow.groups(number)
    assert group.payloads[0] == b"begun"
    return publisher, slow, request.id, number, group


def sequences(peer: RawPeer, number: int) -> list[int]:
    """In order of arrival."""
    return [g.header.sequence for g in peer.incoming if g.header and g.header.subscribe_id == number]


async def test_newer_groups_are_sent_first(world: World) -> None:
    publisher, slow, upstream_id, number, _ = await begun(world, Version.LITE_05)
    for sequence in (1, 2, 3):
        publisher.group(upstream_id, sequence, b"x")
        await settle()
    slow.session.resume()
    await settle()
    assert sequences(slow, number) == [0, 3, 2, 1]


@pytest.mark.parametrize("version", ORDERING)
async def test_older_groups_are_sent_first_where_that_is_wanted(world: World, version: Version) -> None:
    publisher, slow, upstream_id, number, _ = await begun(world, version, ordered=True)
    for sequence in (1, 2, 3):
        publisher.group(upstream_id, sequence, b"x")
        await settle()
    slow.session.resume()
    await settle()
    assert sequences(slow, number) == [0, 1, 2, 3]


@pytest.mark.parametrize("version", UPDATING)
async def test_an_update_of_the_priority_concerns_what_waits(world: World, version: Version) -> None:
    publisher, slow = await world.publisher(Version.LITE_05, "p"), await world.viewer(version)
    numbers = []
    streams = []
    for track, priority in (("a", 5), ("b", 3)):
        number, stream = slow.subscribe("p", track, priority=priority)
        numbers.append(number)
        streams.append(stream)
    await settle()
    asked = [request.request for request in publisher.requests if getattr(request.request, "track", None)]
    ids = {request.track: request.id for request in asked if hasattr(request, "id")}
    slow.session.pause()
    for track in ("a", "b"):
        publisher.group(ids[track], 7, track.encode())
    await settle()
    streams[1].write(SubscribeUpdate(priority=9).encode(version))
    await settle()
    slow.session.resume()
    await settle()
    assert [group.payloads for group in slow.incoming if group.header] == [[b"b"], [b"a"]]


@pytest.mark.parametrize("version", UPDATING)
@pytest.mark.virtual
async def test_a_group_later_than_the_subscriber_takes_is_reset(version: Version) -> None:
    world = World(Limits(backlog_time=60.0))
    publisher, slow, upstream_id, number, first = await begun(world, version, max_latency=500)
    publisher.group(upstream_id, 1, b"x")
    await settle()
    await advance(0.6)
    publisher.group(upstream_id, 2, b"x")
    await settle()
    slow.session.resume()
    await settle()
    assert first.resets == [2]
    assert not first.fins
    assert sequences(slow, number) == [0, 2, 1]
    await advance(2.0)
    await world.close()


@pytest.mark.parametrize("version", ALL)
@pytest.mark.virtual
async def test_a_group_that_is_given_up_is_reset_and_the_subscription_goes_on(version: Version) -> None:
    world = World(Limits(backlog_time=1.0))
    publisher, slow, upstream_id, number, first = await begun(world, version)
    for sequence in range(1, 6):
        await advance(1.0)
        publisher.group(upstream_id, sequence, b"x")
        await settle()
    slow.session.resume()
    await settle()
    assert first.resets == [0 if version <= Version.LITE_02 else 5]
    assert not first.fins
    assert sequences(slow, number) == [0, 5, 4]
    assert not slow.closed
    publisher.group(upstream_id, 6, b"next")
    await settle()
    assert slow.groups(number)[-1].payloads == [b"next"]
    await advance(2.0)
    await world.close()


async def test_a_group_outside_of_the_new_bounds_is_cancelled_though_it_is_complete_here(
    world: World,
) -> None:
    publisher, slow, upstream_id, number, _ = await begun(world, Version.LITE_05)
    stream = slow.own[-1]
    for sequence in (1, 2):
        publisher.group(upstream_id, sequence, b"x")
    await settle()
    stream.write(SubscribeUpdate(end_group=1).encode(Version.LITE_05))
    await settle()
    slow.session.resume()
    await settle()
    assert sorted(sequences(slow, number)) == [0, 1]
    assert all(group.fins for group in slow.groups(number))


@pytest.mark.parametrize("low", [0, 1])
async def test_a_session_that_holds_too_much_loses_what_matters_least(low: int) -> None:
    world = World(Limits(track_idle=0.01, backlog_time=60.0, backlog_session=100_000))
    publisher, slow = await world.publisher(Version.LITE_05, "p"), await world.viewer(Version.LITE_05)
    other = await world.viewer(Version.LITE_05)
    tracks = ["a", "b"]
    numbers = {
        track: slow.subscribe("p", track, priority=1 if tracks[low] == track else 2)[0] for track in tracks
    }
    others = {track: other.subscribe("p", track)[0] for track in tracks}
    await settle()
    asked = [request.request for request in publisher.requests if getattr(request.request, "track", None)]
    ids = {request.track: request.id for request in asked if hasattr(request, "id")}
    slow.session.pause()
    for sequence in range(15):
        for track in tracks:
            publisher.group(ids[track], sequence, b"x" * 5_000)
        await settle()
        assert sum(stream.unsent for stream in slow.relay.streams) <= 110_000
    slow.session.resume()
    await settle()
    assert sequences(slow, numbers[tracks[1 - low]]) == list(range(14, -1, -1))
    left = sequences(slow, numbers[tracks[low]])
    assert left == list(range(14, 14 - len(left), -1))
    assert 1 <= len(left) <= 6
    for track in tracks:
        assert len(other.groups(others[track])) == 15
    await world.close()


async def test_what_matters_least_is_not_looked_for_anew_for_each_group(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A viewer that takes nothing chooses the number of subscriptions and groups."""
    world = World(Limits(track_idle=0.01, backlog_time=60.0, backlog_session=1_000_000))
    publisher, slow = await world.publisher(Version.LITE_05, "p"), await world.viewer(Version.LITE_05)
    for _ in range(100):
        slow.subscribe("p")
    _, request = await upstream(publisher)
    slow.session.pause()
    looks: list[Backlog[Any]] = []

    def look(backlog: Backlog[Any]) -> int:
        looks.append(backlog)
        return 0

    monkeypatch.setattr(Backlog, "priority", property(look), raising=False)
    for sequence in range(20):
        publisher.group(request.id, sequence, b"x" * 1_000)
        await settle()
    dropped = actor_of(slow.ref)._context.counts["groups_dropped", "too_far_behind"]
    assert dropped >= 1_000
    assert len(looks) <= 2_000 + 100 * 10  # each new group, and each subscription over the limit
    await world.close()


async def test_another_relay_is_not_measured_before_it_holds_too_much(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It may queue more than others: measuring each group would cost in proportion."""
    world = World(Limits(track_idle=0.01, backlog_time=60.0, backlog_session=100_000))
    publisher = await world.publisher(Version.LITE_05, "p")
    slow = await world.viewer(Version.LITE_05, permissions=CLUSTER)
    slow.subscribe("p")
    _, request = await upstream(publisher)
    slow.session.pause()
    measured: list[Backlog[Any]] = []

    def measure(backlog: Backlog[Any]) -> int:
        measured.append(backlog)
        return backlog.unsent

    monkeypatch.setattr(Backlog, "measure", measure)
    for sequence in range(20):
        publisher.group(request.id, sequence, b"x" * 20_000)
        await settle()
    assert sum(stream.unsent for stream in slow.relay.streams) >= 400_000
    assert not measured
    await world.close()


@pytest.mark.interpreted
@pytest.mark.virtual
async def test_the_end_of_a_track_waits_for_a_viewer_that_takes_nothing_at_little_cost() -> None:
    """Else each of its requests would cost the relay hundreds of checks."""
    world = World()
    publisher, slow = await world.publisher(Version.LITE_06, "p"), await world.viewer(Version.LITE_06)
    number, stream = slow.subscribe("p")
    source, request = await upstream(publisher)
    slow.session.pause()
    publisher.group(request.id, 0, b"x")
    publisher.end_track(source, 1)
    await settle()
    (service,) = actor_of(slow.ref)._moq.serving._deliveries.values()
    looks: list[int] = []
    waiting = service.backlog.waiting

    def look() -> Any:
        looks.append(1)
        return waiting()

    service.backlog.waiting = look
    for _ in range(int(30 / END_POLL)):
        await advance(END_POLL)
    assert 5 <= len(looks) <= 40
    assert stream.fins == 0
    slow.session.resume()
    await advance(END_POLL_MAX)
    assert [group.payloads for group in slow.groups(number)] == [[b"x"]]
    assert stream.fins == 1
    await world.close()
