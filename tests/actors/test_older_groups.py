"""Viewers get the older groups they request if the publisher has them, whoever came first."""

from __future__ import annotations

import pytest

from relay.actors import messages as m
from relay.actors.older_groups import past_of
from relay.model.cache import GroupCache
from relay.model.limits import Limits
from relay.model.track import SubscribeParams
from relay.moq.encoding import EncodedGroup
from relay.wire.errors import StreamCode
from relay.wire.subscribe import Subscribe, SubscribeEnd, SubscribeOk
from relay.wire.version import Version
from tests.actors.fakes import part
from tests.actors.raw_peer import RawPeer, RequestStream, follow_up, upstream
from tests.actors.stage import Stage, staged
from tests.actors.world import World
from tests.clock import advance, settle
from tests.sampling import pairs

LIVE = SubscribeParams()
PATIENCE = 3.0


def asked(stage: Stage) -> list[tuple[int | None, int | None, int]]:
    """Requests for older groups: first group, last group, age in milliseconds."""
    found = [message.params for message in stage.source.got(m.OpenPast)]
    return [(params.start_group, params.end_group, params.history_ms) for params in found]


async def live(*sequences: int) -> Stage:
    """A track with a viewer of the newest group alone."""
    stage = Stage(Limits(track_idle=1.0))
    await stage.viewer()
    await stage.feed(*(part(sequence, b"x", timestamps=[sequence * 1_000_000]) for sequence in sequences))
    return stage


# --- what is asked ---------------------------------------------------------------------------------------------------


@staged
async def test_a_late_viewer_gets_groups_from_before_the_subscription() -> None:
    stage = await live(10, 11)
    late = await stage.viewer(SubscribeParams(start_group=7))
    assert sorted(late.groups()) == [10, 11]
    assert asked(stage) == [(7, 9, 0)]
    parts = tuple(part(sequence, b"old") for sequence in (9, 7, 8))
    await stage.say(m.PastGroups(1, parts))
    assert sorted(late.groups()) == [7, 8, 9, 10, 11]
    assert sorted(stage.viewers[0].groups()) == [10, 11]
    await stage.say(m.PastOver(1, PATIENCE))
    assert len(stage.source.got(m.ClosePast)) == 1  # all of it is here
    await stage.feed(part(12, b"x"))
    assert sorted(late.groups()) == [7, 8, 9, 10, 11, 12]
    again = await stage.viewer(SubscribeParams(start_group=7))
    assert sorted(again.groups()) == [7, 8, 9, 10, 11, 12]
    assert len(asked(stage)) == 1


@staged
async def test_an_age_that_reaches_behind_the_subscription_is_asked_of_the_publisher() -> None:
    stage = await live(10, 11, 12)
    await stage.viewer(SubscribeParams(history_ms=1_500))  # all of that age is here
    assert not asked(stage)
    late = await stage.viewer(SubscribeParams(history_ms=60_000, start_group=3, start_is_floor=True))
    assert asked(stage) == [(3, 9, 60_000)]
    await stage.say(m.PastStarted(1, 8))
    await stage.say(m.PastGroups(1, (part(8, b"x"), part(9, b"x", fin=False))))
    assert not stage.source.got(m.ClosePast)
    await stage.say(m.PastGroups(1, (part(9, b"y"),)))
    assert len(stage.source.got(m.ClosePast)) == 1
    assert sorted(late.groups()) == [8, 9, 10, 11, 12]
    # older groups for another viewer are not for this one
    await stage.viewer(SubscribeParams(start_group=1))
    assert asked(stage)[1:] == [(1, 7, 0)]
    await stage.say(m.PastGroups(2, (part(7, b"x"),)))
    assert sorted(late.groups()) == [8, 9, 10, 11, 12]


@staged
async def test_what_the_running_subscription_asked_for_is_not_asked_again() -> None:
    for params in (SubscribeParams(start_group=4), SubscribeParams(history_ms=9_000, start_is_floor=True)):
        stage = Stage()
        await stage.viewer(params)
        await stage.feed(part(9, b"x"))  # the newest first
        await stage.viewer(params)
        assert not asked(stage)


@staged
async def test_the_first_group_tells_where_the_past_ends() -> None:
    stage = Stage()
    await stage.viewer()
    late = await stage.viewer(SubscribeParams(start_group=7))
    assert not asked(stage)
    await stage.feed(part(9, b"x"))
    assert asked(stage) == [(7, 8, 0)]
    await stage.say(m.PastGroups(1, (part(7, b"x"), part(8, b"x"))))
    assert sorted(late.groups()) == [7, 8, 9]


@staged
async def test_one_after_the_other() -> None:
    stage = await live(10)
    first, second = (
        await stage.viewer(SubscribeParams(start_group=8)),
        await stage.viewer(SubscribeParams(start_group=6)),
    )
    assert asked(stage) == [(8, 9, 0)]
    await stage.say(m.PastGroups(1, (part(8, b"x"), part(9, b"x"))))
    await stage.say(m.PastOver(1, PATIENCE))
    assert asked(stage) == [(8, 9, 0), (6, 7, 0)]
    await stage.say(m.PastGroups(2, (part(6, b"x"), part(7, b"x"))))
    assert sorted(first.groups()) == [8, 9, 10]
    assert sorted(second.groups()) == [6, 7, 8, 9, 10]


@staged
async def test_an_update_asks_for_the_past() -> None:
    stage = await live(10)
    viewer = stage.viewers[0]
    await stage.say(m.UpdateSubscription(viewer.ref, 1, SubscribeParams(priority=3)))
    assert not asked(stage)
    await stage.say(m.UpdateSubscription(viewer.ref, 1, SubscribeParams(start_group=8)))
    assert asked(stage) == [(8, 9, 0)]
    await stage.say(m.UpdateSubscription(viewer.ref, 1, SubscribeParams(start_group=8, priority=9)))
    assert len(asked(stage)) == 1
    await stage.say(m.PastGroups(1, (part(8, b"x"), part(9, b"x"))))
    assert sorted(viewer.groups()) == [8, 9, 10]


def test_evicted_groups_are_asked_for_though_the_subscription_began_before() -> None:
    cache: GroupCache[EncodedGroup] = GroupCache(Limits())
    assert cache.add(EncodedGroup(9, 0.0))
    opened = SubscribeParams(start_group=0)
    wanted = SubscribeParams(start_group=2, start_frame=4)
    assert past_of(wanted, opened, 9, cache, 0) is None
    cache.floor = 9
    assert past_of(wanted, opened, 9, cache, 0) == SubscribeParams(start_group=2, end_group=8)
    assert past_of(SubscribeParams(start_group=9), opened, 9, cache, 0) is None
    assert past_of(SubscribeParams(start_group=2, start_is_floor=True), LIVE, 9, cache, 0) is None


# --- how it ends -----------------------------------------------------------------------------------------------------


@staged
async def test_a_range_in_the_past_ends_when_the_past_is_here() -> None:
    stage = await live(10)
    late = await stage.viewer(SubscribeParams(start_group=7, end_group=8))
    await stage.say(m.PastGroups(1, (part(8, b"x"),)))
    await stage.say(m.PastOver(1, PATIENCE))
    await advance(PATIENCE - 0.1)
    assert not late.got(m.Ended)
    await stage.say(m.PastGroups(1, (part(7, b"x"),)))  # late
    await advance(0.2)
    assert sorted(late.groups()) == [7, 8]
    assert late.got(m.Ended) == [m.Ended(1, 9)]


@staged
async def test_a_publisher_that_says_nothing_of_the_past_is_not_waited_for_longer_than_for_any_answer() -> (
    None
):
    stage = await live(10)
    late = await stage.viewer(SubscribeParams(start_group=7, end_group=10))
    await advance(Limits().answer_timeout - 1)
    assert not late.got(m.Ended)
    await advance(2)
    assert len(stage.source.got(m.ClosePast)) == 1
    assert late.got(m.Ended) == [m.Ended(1, 11)]


@staged
async def test_a_large_group_of_the_past_may_take_its_time() -> None:
    stage = await live(10)
    late = await stage.viewer(SubscribeParams(start_group=9))
    for _ in range(3):
        await stage.say(m.PastGroups(1, (part(9, b"x", fin=False),)))
        await advance(Limits().answer_timeout + 1)
    await stage.say(m.PastGroups(1, (part(9, b"x"),)))
    assert late.groups()[9].fin


@staged
async def test_the_end_of_the_track_waits_for_the_past() -> None:
    stage = await live(10)
    late = await stage.viewer(SubscribeParams(start_group=9))
    await stage.say(m.UpstreamEnded(11, PATIENCE))
    assert not late.got(m.Ended)
    await stage.say(m.PastGroups(1, (part(9, b"x"),)))
    await stage.say(m.PastOver(1, PATIENCE))
    assert sorted(late.groups()) == [9, 10]
    assert late.got(m.Ended) == [m.Ended(1, 11)]


@staged
async def test_a_viewer_that_leaves_takes_its_past_with_it() -> None:
    stage = await live(10)
    late = await stage.viewer(SubscribeParams(start_group=8))
    await stage.say(m.PastGroups(1, (part(8, b"x", fin=False),)))
    late.leave(stage.track)
    await settle()
    assert len(stage.source.got(m.ClosePast)) == 1
    await stage.say(m.PastGroups(1, (part(9, b"stale"),)))
    assert not asked(stage)[1:]
    other = await stage.viewer(SubscribeParams(start_group=8))
    assert 9 not in other.groups()


@staged
async def test_a_lost_publisher_ends_the_past_too() -> None:
    stage = await live(10)
    late = await stage.viewer(SubscribeParams(start_group=8))
    await stage.say(m.PastGroups(1, (part(8, b"x", fin=False),)))
    await stage.say(m.UpstreamFailed(StreamCode.INTERNAL, gone=True))
    assert late.groups()[8].code == StreamCode.INTERNAL
    assert late.got(m.PublisherLost)
    assert not stage.track.is_alive()


@staged
async def test_groups_that_nobody_asked_for_and_second_copies_are_refused() -> None:
    stage = await live(10)
    late = await stage.viewer(SubscribeParams(start_group=8))
    await stage.say(m.PastGroups(1, (part(5, b"x", fin=False), part(12, b"x", fin=False))))
    await stage.feed(part(9, b"live"))  # the running subscription has it after all
    await stage.say(m.PastGroups(1, (part(9, b"copy", fin=False),)))
    stopped = [(s.sequence, s.past) for s in stage.source.got(m.StopGroup)]
    assert stopped == [(5, True), (12, True), (9, True)]
    assert sorted(late.groups()) == [9, 10]
    assert late.groups()[9].fin


# --- across the relay ------------------------------------------------------------------------------------------------


async def requests(peer: RawPeer) -> list[tuple[RequestStream, Subscribe]]:
    await follow_up(peer)
    return peer.subscriptions()


BOUNDED = [v for v in Version if v >= Version.LITE_03]
PAIRS = [
    (one, two) for one, two in pairs(BOUNDED, BOUNDED) if one == Version.LITE_06 or two != Version.LITE_06
]
"""06 asks for an age; earlier versions have no field for it."""


@pytest.mark.parametrize(("one", "two"), PAIRS)
@pytest.mark.virtual
async def test_the_past_for_every_pair_of_versions_that_can_ask(one: Version, two: Version) -> None:
    world = World()
    publisher = await world.publisher(one, "p")
    watching, viewer = await world.viewer(two), await world.viewer(two)
    _, control = watching.subscribe("p", "video/hd")
    running, request = await upstream(publisher)
    publisher.accept(running, 5)
    publisher.group(request.id, 5, (5_000_000, b"new"))
    await settle()
    # on 06 an age asks for older groups, and the first group bounds them
    number, stream = viewer.subscribe("p", "video/hd", start_group=3, max_latency=9_000)
    past, wanted = (await requests(publisher))[-1]
    by_age = two == Version.LITE_06
    assert (wanted.start_group, wanted.end_group, wanted.track) == (3, 4, "video/hd")
    if one == Version.LITE_06:
        assert wanted.max_latency == (9_000 if by_age else 3_600_000)
    publisher.accept(past, 3)
    for sequence in (4, 3):
        publisher.group(wanted.id, sequence, (sequence * 1_000_000, b"old"))
    if one >= Version.LITE_05:
        past.write(SubscribeEnd(5).encode(one))
    past.write(fin=True)
    await settle()
    found = {group.header.sequence: group.payloads for group in viewer.groups(number) if group.header}
    assert found == {3: [b"old"], 4: [b"old"], 5: [b"new"]}
    assert past.over
    assert not stream.over
    assert not control.over
    assert running.over is (one == Version.LITE_06 and not by_age)  # a second one began with the newest group
    assert len(publisher.live_subscriptions()) == 1
    if two >= Version.LITE_05:
        assert isinstance(viewer.replies(stream)[0], SubscribeOk)
    await world.close()


@pytest.mark.parametrize("version", BOUNDED)
@pytest.mark.virtual
async def test_a_publisher_that_refuses_the_past_goes_on_with_the_rest(version: Version) -> None:
    world = World()
    publisher = await world.publisher(version, "p")
    watching, viewer = await world.viewer(version), await world.viewer(version)
    watching.subscribe("p", "video/hd")
    running, request = await upstream(publisher)
    publisher.accept(running, 5)
    publisher.group(request.id, 5, b"new")
    await settle()
    number, stream = viewer.subscribe("p", "video/hd", start_group=3, max_latency=9_000)
    (_, (past, _)) = await requests(publisher)
    past.reset(51)
    await advance(2)
    publisher.group(request.id, 6, b"newer")
    await settle()
    assert [group.payloads for group in viewer.groups(number)] == [[b"new"], [b"newer"]]
    assert not stream.over
    assert len(publisher.live_subscriptions()) == 1
    await world.close()


@pytest.mark.virtual
async def test_what_a_version_has_no_field_for_is_not_asked_of_it() -> None:
    for one, two in ((Version.LITE_02, Version.LITE_05), (Version.LITE_05, Version.LITE_06)):
        world = World()
        publisher = await world.publisher(one, "p")
        watching, viewer = await world.viewer(two), await world.viewer(two)
        watching.subscribe("p", "video/hd")
        running, request = await upstream(publisher)
        publisher.accept(running, 5)
        publisher.group(request.id, 5, b"new")
        await settle()
        number, stream = viewer.subscribe("p", "video/hd", start_group=3, end_group=5, max_latency=9_000)
        await advance(0.1)
        assert len(publisher.subscriptions()) == 1
        assert [group.payloads for group in viewer.groups(number)] == [[b"new"]]
        assert stream.fins == 1
        await world.close()
