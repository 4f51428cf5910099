"""moq-lite-06 upstream: its max age brings history and limits later groups, and most viewers want only the first limit."""

from __future__ import annotations

import pytest

from relay.moq.lite_requests import EARLY_GROUPS
from relay.wire.subscribe import SubscribeUpdate
from relay.wire.varint import MAX_VARINT
from relay.wire.version import AnyVersion, Draft, Version
from tests.actors.moqt_peer import MoqtPeer
from tests.actors.raw_peer import PeerStream, RawPeer, RequestStream, follow_up, upstream
from tests.actors.world import World
from tests.clock import advance, settle

VIEWERS: list[AnyVersion] = [*(v for v in Version if v != Version.LITE_06), *Draft]
AGE = 5_000  # milliseconds

on_virtual_time = pytest.mark.virtual
for_each_viewer = pytest.mark.parametrize("version", VIEWERS, ids=lambda version: version.name)


class Watching:
    """A viewer that asks for no past, and the publisher's end."""

    def __init__(self, world: World, publisher: RawPeer, viewer: RawPeer | MoqtPeer) -> None:
        self.world, self.publisher, self.viewer = world, publisher, viewer
        if isinstance(viewer, MoqtPeer):
            asked = viewer.subscribe("p", "video/hd")
            self.number, self.stream = asked.number, asked.stream
        else:
            self.number, self.stream = viewer.subscribe("p", "video/hd")

    async def answered(self, group: int) -> tuple[RequestStream, RequestStream]:
        """The relay's two subscriptions."""
        first, request = await upstream(self.publisher)
        assert request.max_latency == 0
        self.publisher.accept(first, group)
        await settle()
        (_, _), (second, later) = self.publisher.subscriptions()
        assert (later.start_group, later.end_group, later.max_latency) == (group or None, None, AGE)
        self.publisher.accept(second, group)
        return first, second

    async def group(self, subscription: RequestStream, sequence: int, *, fin: bool = True) -> PeerStream:
        stream = self.publisher.group(subscription.request.id, sequence, b"%d" % sequence, fin=fin)
        await settle()
        return stream

    async def refused(self, subscription: RequestStream, sequence: int) -> bool:
        return bool((await self.group(subscription, sequence, fin=False)).stops)

    def received(self) -> list[int]:
        """Groups, by what they hold."""
        viewer = self.viewer
        if isinstance(viewer, MoqtPeer):
            return sorted(int(group.data[-1:]) for group in viewer.groups[-len(self._data()) :] if group.fins)
        groups = viewer.groups(self.number)
        return [int(b"".join(group.payloads)) for group in groups if group.fins and not group.resets]

    def _data(self) -> list[PeerStream]:
        assert isinstance(self.viewer, MoqtPeer)
        control = int(self.viewer.profile.request_streams)
        return self.viewer.groups[control:]


async def watching(version: AnyVersion) -> Watching:
    world = World()
    publisher = await world.publisher(Version.LITE_06, "p")
    viewer = MoqtPeer(world, version) if isinstance(version, Draft) else await world.viewer(version)
    await settle()
    return Watching(world, publisher, viewer)


@for_each_viewer
@on_virtual_time
async def test_the_relay_gets_each_group_from_the_one_that_the_answer_names(version: AnyVersion) -> None:
    """The first subscription brings that group without another round trip, the second all that follow."""
    w = await watching(version)
    first, second = await w.answered(5)
    (update,) = [message for message in first.messages if isinstance(message, SubscribeUpdate)]
    assert (update.start_group, update.end_group, update.max_latency) == (5, 5, AGE)
    current = await w.group(first, 5, fin=False)
    assert await w.refused(second, 5)
    await w.group(second, 6)
    assert await w.refused(first, 6)
    assert not first.over
    current.write(fin=True)
    await settle()
    assert first.over
    await w.group(second, 8)
    await w.group(second, 7)
    assert w.received() == [5, 6, 7, 8]
    assert not second.over
    await w.world.close()


@on_virtual_time
async def test_groups_may_come_before_the_answer() -> None:
    w = await watching(Draft.DRAFT_18)
    first, request = await upstream(w.publisher)
    early = await w.group(first, 3, fin=False)
    await w.group(first, 1)
    w.publisher.accept(first, 1)
    await settle()
    second, later = w.publisher.subscriptions()[-1]
    assert (later.start_group, later.max_latency) == (1, AGE)
    assert not first.over
    assert await w.refused(second, 1)
    assert await w.refused(second, 3)
    for sequence in (2, 4):
        await w.group(second, sequence)
    early.write(fin=True)
    await settle()
    assert first.over
    assert w.received() == [1, 2, 3, 4]
    assert request.max_latency == 0
    await w.world.close()


@on_virtual_time
async def test_a_publisher_that_does_not_answer_is_asked_for_any_age_from_its_newest_group_on() -> None:
    w = await watching(Draft.DRAFT_18)
    first, _ = await upstream(w.publisher)
    for sequence in range(EARLY_GROUPS):
        await w.group(first, sequence)
    assert len(first.messages) == 1
    await w.group(first, EARLY_GROUPS)
    w.publisher.accept(first, 0)
    await settle()
    (update,) = first.messages[1:]
    assert (update.start_group, update.end_group, update.max_latency) == (EARLY_GROUPS, None, AGE)
    assert len(w.publisher.subscriptions()) == 1
    await w.world.close()


@on_virtual_time
async def test_the_largest_group_number_may_be_the_first() -> None:
    w = await watching(Draft.DRAFT_18)
    first, _ = await upstream(w.publisher)
    w.publisher.accept(first, MAX_VARINT)
    await settle()
    assert w.publisher.subscriptions()[1][1].start_group == MAX_VARINT - 1
    assert not w.publisher.closed
    await w.world.close()


@on_virtual_time
async def test_the_second_subscription_may_be_the_faster_one() -> None:
    w = await watching(Draft.DRAFT_18)
    first, second = await w.answered(5)
    await w.group(second, 5)
    assert first.over
    assert await w.refused(first, 5)
    assert w.received() == [5]
    await w.world.close()


@on_virtual_time
async def test_both_end_with_their_viewer() -> None:
    w = await watching(Version.LITE_04)
    first, second = await w.answered(5)
    group = await w.group(first, 5, fin=False)
    w.stream.write(fin=True)
    await advance(w.world.limits.track_idle + 1)
    assert first.over
    assert second.over
    assert group.stops
    await w.world.close()


@pytest.mark.parametrize("refused", ["first", "second"])
@on_virtual_time
async def test_a_refusal_of_the_second_is_one_of_the_track(refused: str) -> None:
    w = await watching(Version.LITE_05)
    first, second = await w.answered(5)
    await w.group(first, 5, fin=False)
    (first if refused == "first" else second).reset(54)
    await settle()
    assert w.stream.over is (refused == "second")
    assert first.over
    if refused == "first":
        await w.group(second, 6)
        assert w.received() == [6]
    await w.world.close()


@on_virtual_time
async def test_a_viewer_of_06_asks_for_its_own_max_age_until_another_one_joins() -> None:
    world = World()
    publisher = await world.publisher(Version.LITE_06, "p")
    viewer, other = await world.viewer(Version.LITE_06), await world.viewer(Version.LITE_04)
    viewer.subscribe("p", "video/hd")
    stream, request = await upstream(publisher)
    publisher.accept(stream, 5)
    publisher.group(request.id, 5, b"5")
    await settle()
    assert (stream.messages, request.max_latency) == ([request], 0)
    other.subscribe("p", "video/hd", max_latency=9_000)
    await follow_up(publisher)
    assert stream.messages[1:] == [SubscribeUpdate(max_latency=9_000, start_group=5)]
    assert len(publisher.subscriptions()) == 1
    await world.close()


@on_virtual_time
async def test_another_one_joins_before_the_answer() -> None:
    world = World()
    publisher = await world.publisher(Version.LITE_06, "p")
    viewer, other = await world.viewer(Version.LITE_06), await world.viewer(Version.LITE_04)
    viewer.subscribe("p", "video/hd")
    stream, _ = await upstream(publisher)
    other.subscribe("p", "video/hd")
    await follow_up(publisher)
    assert len(stream.messages) == 1
    publisher.accept(stream, 5)
    await settle()
    assert publisher.subscriptions()[1][1].start_group == 5
    await world.close()
