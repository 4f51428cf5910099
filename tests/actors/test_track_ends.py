"""How a track, and a bounded subscription, end: never before groups that may still come."""

from __future__ import annotations

import pytest

from relay.actors import messages as m
from relay.model.limits import Limits
from relay.model.track import SubscribeParams
from relay.moq import session as moq
from relay.moq.encoding import Encoding
from relay.wire.errors import StreamCode
from tests.actors.fakes import FakeSubscriber, part
from tests.actors.stage import Stage, staged
from tests.clock import advance, settle

PATIENCE = 3.0


def ends(viewer: FakeSubscriber) -> list[tuple[int, tuple[tuple[int, int], ...]]]:
    """Reported ends: the first number that never comes, and missing groups."""
    return [(ended.final, ended.missing) for ended in viewer.got(m.Ended)]


# --- groups that are late --------------------------------------------------------------------------------------------


@staged
async def test_a_group_that_the_end_overtakes_is_waited_for_and_the_end_follows_at_once() -> None:
    for late in (1, 2):
        stage = Stage()
        viewer = await stage.viewer()
        await stage.feed(*(part(sequence, b"x") for sequence in {0, 1, 2} - {late}))
        await stage.say(m.UpstreamEnded(3, PATIENCE))
        await advance(PATIENCE - 0.1)
        assert not viewer.got(m.Ended)
        await stage.feed(part(late, b"x"))
        assert sorted(viewer.groups()) == [0, 1, 2]
        assert ends(viewer) == [(3, ())]


@staged
async def test_a_group_that_never_comes_is_named_with_the_end() -> None:
    stage = Stage()
    viewer = await stage.viewer()
    await stage.feed(*(part(sequence, b"x") for sequence in (3, 4, 6)))
    await stage.say(m.UpstreamEnded(9, PATIENCE))
    await advance(PATIENCE + 0.1)
    assert ends(viewer) == [(9, ((5, 5), (7, 8)))]


@staged
async def test_groups_before_the_first_are_not_waited_for() -> None:
    """The publisher names the first group; else the lowest number is it."""
    for started in (True, False):
        stage = Stage()
        viewer = await stage.viewer()
        if started:
            await stage.say(m.UpstreamStarted(7))
        await stage.feed(part(7, b"x"), part(8, b"x"))
        await stage.say(m.UpstreamEnded(9, PATIENCE))
        assert ends(viewer) == [(9, ())]


@staged
async def test_the_first_group_of_all_may_be_the_late_one() -> None:
    stage = Stage()
    viewer = await stage.viewer()
    await stage.say(m.UpstreamStarted(7))
    await stage.feed(part(8, b"x"))
    await stage.say(m.UpstreamEnded(9, PATIENCE))
    assert not viewer.got(m.Ended)
    await stage.feed(part(7, b"x"))
    assert ends(viewer) == [(9, ())]


@staged
async def test_what_the_publisher_drops_is_not_waited_for() -> None:
    stage = Stage()
    viewer = await stage.viewer()
    await stage.feed(part(0, b"x"), part(4, b"x"))
    await stage.say(moq.SubscriptionDropped(1, 1, 3, 0))
    await stage.say(moq.SubscriptionDropped(1, 9, 2, 0))  # no news
    await stage.say(m.UpstreamEnded(5, PATIENCE))
    assert ends(viewer) == [(5, ((1, 3),))]


@staged
async def test_a_group_that_came_as_a_datagram_is_here() -> None:
    stage = Stage()
    viewer = await stage.viewer(encoding=Encoding.TIMED)
    await stage.feed(part(0, b"x"))
    await stage.say(moq.DatagramReceived(1, 1, 5, b"x"))
    await stage.say(m.UpstreamEnded(2, PATIENCE))
    assert ends(viewer) == [(2, ())]


@staged
async def test_an_end_without_a_number_always_waits() -> None:
    stage = Stage()
    viewer = await stage.viewer()
    await stage.feed(part(0, b"x"))
    await stage.say(m.UpstreamEnded(None, PATIENCE))
    await advance(PATIENCE - 0.1)
    await stage.feed(part(1, b"x"))
    assert not viewer.got(m.Ended)
    await advance(0.2)
    assert ends(viewer) == [(2, ())]
    assert sorted(viewer.groups()) == [0, 1]


# --- a publisher that finishes and leaves ----------------------------------------------------------------------------


@staged
async def test_a_publisher_that_has_finished_may_leave() -> None:
    for final in (1, None):
        stage = Stage()
        viewer = await stage.viewer()
        await stage.feed(part(0, b"x"))
        await stage.say(m.UpstreamEnded(final, PATIENCE))
        await stage.say(m.UpstreamFailed(StreamCode.INTERNAL, gone=True))
        assert ends(viewer) == [(1, ())], final
        assert not viewer.got(m.PublisherLost)
        assert not stage.track.is_alive()


@staged
async def test_a_publisher_that_leaves_in_the_middle_of_its_last_group_breaks_that_group_alone() -> None:
    stage = Stage()
    viewer = await stage.viewer()
    await stage.feed(part(0, b"x"), part(1, b"x", fin=False))
    await stage.say(m.UpstreamEnded(4, PATIENCE))
    await stage.say(m.UpstreamFailed(StreamCode.INTERNAL, gone=True))
    assert viewer.groups()[0].fin
    assert viewer.groups()[1].code == StreamCode.INTERNAL
    assert ends(viewer) == [(4, ((2, 3),))]


# --- subscriptions with a range --------------------------------------------------------------------------------------


@staged
async def test_a_bounded_subscription_ends_with_its_last_group() -> None:
    stage = Stage()
    live = await stage.viewer()
    viewer = await stage.viewer(SubscribeParams(end_group=1))
    await stage.feed(part(0, b"a"), part(1, b"b", fin=False))
    await stage.feed(part(2, b"c"))
    assert not viewer.got(m.Ended)
    await stage.feed(part(1, b"d"))
    assert ends(viewer) == [(2, ())]
    await stage.feed(part(3, b"e"))
    assert sorted(viewer.groups()) == [0, 1]
    assert sorted(live.groups()) == [0, 1, 2, 3]
    assert not live.got(m.Ended)


@staged
async def test_a_range_in_the_past_ends_at_once() -> None:
    stage = Stage()
    await stage.viewer()
    await stage.feed(*(part(sequence, b"x") for sequence in range(5)))
    past = await stage.viewer(SubscribeParams(start_group=1, end_group=2))
    assert sorted(past.groups()) == [1, 2]
    assert ends(past) == [(3, ())]
    over = await stage.viewer(SubscribeParams(end_group=2))  # begins with the newest group, which is beyond
    assert ends(over) == [(3, ())]
    assert not over.groups()


@staged
async def test_a_range_waits_for_a_group_inside_it_that_is_late() -> None:
    stage = Stage()
    viewer = await stage.viewer(SubscribeParams(end_group=3))
    await stage.say(m.UpstreamStarted(0, PATIENCE))
    await stage.feed(part(0, b"x"), part(2, b"x"), part(4, b"x"))
    await advance(PATIENCE - 0.1)
    await stage.feed(part(1, b"x"))
    assert not viewer.got(m.Ended)
    await advance(0.2)
    assert ends(viewer) == [(4, ((3, 3),))]
    assert sorted(viewer.groups()) == [0, 1, 2]


@staged
async def test_a_range_ends_with_its_last_frame() -> None:
    stage = Stage()
    viewer = await stage.viewer(SubscribeParams(end_group=0, end_frame=0))
    await stage.feed(part(0, b"a", fin=False))
    assert viewer.groups()[0].fin
    assert ends(viewer) == [(1, ())]


@staged
async def test_the_end_of_the_track_ends_a_range_that_is_not_done() -> None:
    stage = Stage()
    viewer = await stage.viewer(SubscribeParams(end_group=9))
    await stage.feed(part(0, b"x"))
    await stage.say(m.UpstreamEnded(1, PATIENCE))
    assert ends(viewer) == [(1, ())]


@staged
async def test_a_subscription_that_ended_with_its_range_wants_nothing_of_the_track() -> None:
    stage = Stage(Limits(track_idle=1.0))
    viewer = await stage.viewer(SubscribeParams(end_group=0, priority=9))
    live = await stage.viewer(SubscribeParams(priority=1))
    await stage.feed(part(0, b"x"))
    assert ends(viewer) == [(1, ())]
    assert stage.updates[-1].params.priority == 1
    live.leave(stage.track)
    await advance(1.1)
    assert len(stage.broadcast.got(m.TrackIdle)) == 1


@staged
async def test_a_viewer_that_leaves_while_its_range_waits_leaves_nothing() -> None:
    stage = Stage()
    viewer = await stage.viewer(SubscribeParams(end_group=2))
    await stage.feed(part(0, b"x"), part(2, b"x"))
    viewer.leave(stage.track)
    await advance(PATIENCE)
    assert not viewer.got(m.Ended)


# --- updates ---------------------------------------------------------------------------------------------------------


@staged
async def test_an_update_takes_the_floor_away() -> None:
    stage = Stage()
    viewer = await stage.viewer(SubscribeParams(start_group=1000))
    await stage.viewer()
    await stage.feed(part(0, b"x"), part(1, b"x"))
    assert not viewer.groups()
    await stage.say(m.UpdateSubscription(viewer.ref, 1, SubscribeParams()))
    assert sorted(viewer.groups()) == [1]  # as a new subscription would
    await stage.feed(part(2, b"x"))
    assert sorted(viewer.groups()) == [1, 2]


@staged
async def test_updates_move_the_start_backward_and_no_group_comes_twice() -> None:
    stage = Stage()
    viewer = await stage.viewer()

    def begun() -> list[int]:
        return [fragment.sequence for fragment in viewer.fragments() if fragment.first]

    await stage.feed(part(0, b"x"), part(1, b"x"))
    await stage.say(m.UpdateSubscription(viewer.ref, 1, SubscribeParams(start_group=4)))
    await stage.feed(part(2, b"x"), part(3, b"x"), part(4, b"x"))
    assert begun() == [0, 1, 4]
    await stage.say(m.UpdateSubscription(viewer.ref, 1, SubscribeParams(start_group=1)))
    assert begun() == [0, 1, 4, 2, 3]
    await stage.say(m.UpdateSubscription(viewer.ref, 1, SubscribeParams()))
    await stage.feed(part(5, b"x"))
    assert begun() == [0, 1, 4, 2, 3, 5]


@staged
async def test_an_update_of_something_else_cuts_nothing() -> None:
    stage = Stage()
    viewer = await stage.viewer()
    await stage.feed(part(0, b"a", fin=False), part(1, b"b", fin=False))
    await stage.say(m.UpdateSubscription(viewer.ref, 1, SubscribeParams(priority=9)))
    await stage.feed(part(0, b"c"), part(1, b"d"))
    assert all(group.fin for group in viewer.groups().values())
    assert sorted(viewer.groups()) == [0, 1]


@staged
async def test_an_update_moves_the_end_or_takes_it_away() -> None:
    stage = Stage()
    viewer = await stage.viewer(SubscribeParams(end_group=3))
    await stage.feed(part(0, b"x"), part(1, b"x"))
    await stage.say(m.UpdateSubscription(viewer.ref, 1, SubscribeParams()))
    await stage.feed(part(2, b"x"), part(3, b"x"), part(4, b"x"))
    assert sorted(viewer.groups()) == [0, 1, 2, 3, 4]
    assert not viewer.got(m.Ended)
    await stage.say(m.UpdateSubscription(viewer.ref, 1, SubscribeParams(end_group=2)))
    await settle()
    assert ends(viewer) == [(3, ())]


# --- the newest group is broken --------------------------------------------------------------------------------------


@pytest.mark.parametrize("history", [0, 60_000])
@staged
async def test_who_comes_when_the_newest_group_is_broken_gets_the_newest_whole_one(history: int) -> None:
    stage = Stage()
    await stage.viewer()
    await stage.feed(part(3, b"3", timestamps=[1]), part(4, b"4", timestamps=[2]))
    await stage.feed(part(5, b"5", fin=False, timestamps=[3]))
    await stage.feed(part(5, code=70))
    late = await stage.viewer(SubscribeParams(history_ms=history))
    assert sorted(late.groups()) == ([3, 4] if history else [4])
    assert all(group.fin for group in late.groups().values())
    await stage.feed(part(6, b"6"))
    assert sorted(late.groups())[-2:] == [4, 6]
