"""The track actor between a fake source, fake subscribers and a fake broadcast."""

from __future__ import annotations

import pytest

from relay.actors import messages as m
from relay.actors.broadcast import BroadcastActor
from relay.actors.runtime import Ref, ask, halt, send
from relay.model.limits import Limits
from relay.model.track import SubscribeParams, TrackProperties
from relay.moq import session as moq
from relay.moq.encoding import Encoding
from relay.wire.errors import StreamCode
from relay.wire.frame import FrameHeader
from tests.actors.fakes import FakePublisher, FakeSubscriber, part, plain, timed
from tests.actors.stage import Stage
from tests.actors.watching import actor_of
from tests.actors.world import LATE, QUICK
from tests.clock import RUNTIME, TIMEOUT, settle, until

# --- delivery --------------------------------------------------------------------------------------------------------


async def test_the_first_subscriber_opens_the_upstream_and_is_accepted() -> None:
    stage = Stage()
    viewer = await stage.viewer(SubscribeParams(priority=9, latency_ms=250))
    assert viewer.got(m.Accepted) == [m.Accepted(1, stage.track)]
    assert len(stage.opened) == 1
    opened = stage.opened[0]
    assert (opened.path, opened.name, opened.describe) == ("room/cam", "video", True)
    assert (opened.params.priority, opened.params.latency_ms) == (9, 250)


async def test_a_late_joiner_gets_the_newest_group_from_its_first_frame_at_once() -> None:
    stage = Stage()
    await stage.viewer()
    await stage.feed(part(4, b"old"))
    await stage.feed(part(5, b"a", b"b", fin=False))
    late = await stage.viewer()
    assert {s: g.data for s, g in late.groups().items()} == {5: plain(b"a", b"b")}
    await stage.feed(part(5, b"c"))
    assert late.groups()[5].data == plain(b"a", b"b", b"c")
    assert late.groups()[5].fin


async def test_twenty_subscribers_make_one_upstream_subscription() -> None:
    stage = Stage()
    viewers = [await stage.viewer() for _ in range(20)]
    await stage.feed(part(0, b"x"))
    assert len(stage.opened) == 1
    assert all(viewer.groups()[0].data == plain(b"x") for viewer in viewers)


async def test_a_frame_is_forwarded_before_it_is_complete() -> None:
    stage = Stage()
    viewer = await stage.viewer()
    await stage.feed(m.GroupPart(0, 0, (FrameHeader(0, 10), b"abcd"), fin=False, code=None))
    assert viewer.groups()[0].data == plain(b"0123456789")[:1] + b"abcd"
    await stage.feed(m.GroupPart(0, 0, (b"efghij",), fin=True, code=None))
    assert viewer.groups()[0].data == plain(b"abcdefghij")
    assert len(viewer.got(m.Deliver)) == 2


async def test_several_groups_are_in_flight_at_once() -> None:
    stage = Stage()
    viewer = await stage.viewer()
    await stage.feed(part(0, b"a0", fin=False), part(1, b"b0", fin=False), part(2, b"c0", fin=False))
    await stage.feed(part(1, b"b1"), part(0, b"a1", fin=False))
    await stage.feed(part(2, b"c1"), part(0, b"a2"))
    groups = viewer.groups()
    assert groups[0].data == plain(b"a0", b"a1", b"a2")
    assert groups[1].data == plain(b"b0", b"b1")
    assert groups[2].data == plain(b"c0", b"c1")
    assert all(group.fin for group in groups.values())


async def test_groups_that_arrive_out_of_order_are_all_delivered() -> None:
    stage = Stage()
    viewer = await stage.viewer()
    for sequence in (3, 1, 2, 5, 4):
        await stage.feed(part(sequence, b"%d" % sequence))
    assert {s: g.data for s, g in viewer.groups().items()} == {n: plain(b"%d" % n) for n in range(1, 6)}


async def test_one_turn_of_many_parts_is_one_delivery() -> None:
    stage = Stage()
    viewer = await stage.viewer()
    for sequence in range(5):
        stage.source.groups(stage.track, part(sequence, b"x"))
    await settle()
    assert len(viewer.got(m.Deliver)) == 1
    assert sorted(viewer.groups()) == [0, 1, 2, 3, 4]


async def test_subscribers_of_one_dialect_share_the_delivered_tuples() -> None:
    stage = Stage()
    plains = [await stage.viewer() for _ in range(3)]
    timeds = [await stage.viewer(encoding=Encoding.TIMED) for _ in range(2)]
    await stage.feed(part(0, b"x" * 20_000, timestamps=[77]))
    first, *others = (viewer.got(m.Deliver)[0].fragments for viewer in plains)
    assert all(other is first for other in others)
    one, two = (viewer.got(m.Deliver)[0].fragments for viewer in timeds)
    assert one is two
    assert first[0].chunks[-1] is one[0].chunks[-1]  # the payload itself, in both encodings
    assert b"".join(one[0].chunks) == timed((77, b"x" * 20_000))


async def test_an_aborted_group_is_aborted_downstream_with_the_same_code() -> None:
    stage = Stage()
    viewer = await stage.viewer()
    await stage.feed(part(0, b"a", fin=False))
    await stage.feed(part(0, code=StreamCode.OLD))
    assert viewer.groups()[0].code == StreamCode.OLD
    await stage.feed(part(1, b"b", fin=False), part(2, b"c"))
    await stage.feed(part(1, code=71))
    assert viewer.groups()[1].code == 71
    assert viewer.groups()[2].fin


async def test_an_aborted_group_is_not_given_to_late_joiners() -> None:
    stage = Stage()
    await stage.viewer()
    await stage.feed(part(0, b"a"), part(1, b"b", fin=False))
    await stage.feed(part(1, code=StreamCode.OLD))
    late = await stage.viewer()
    assert 1 not in late.groups()


async def test_a_group_older_than_what_was_evicted_is_refused() -> None:
    stage = Stage(Limits(track_idle=0.01, cache_groups=2))
    viewer = await stage.viewer()
    for sequence in range(10, 15):
        await stage.feed(part(sequence, b"x"))
    await stage.feed(part(3, b"late", fin=False))
    assert stage.stopped == [(3, StreamCode.OLD)]
    assert 3 not in viewer.groups()


async def test_a_second_copy_of_a_finished_group_is_refused_and_changes_nothing() -> None:
    stage = Stage()
    viewer = await stage.viewer()
    await stage.feed(part(5, b"real"))
    await stage.feed(part(5, b"copy", fin=False))
    assert viewer.groups()[5].data == plain(b"real")
    assert stage.stopped == [(5, StreamCode.OLD)]


async def test_the_end_of_a_group_evicted_in_the_same_turn_is_delivered() -> None:
    stage = Stage(Limits(track_idle=0.01, cache_groups=2))
    viewer = await stage.viewer()
    await stage.feed(part(0, b"a", fin=False))
    await stage.feed(part(0, b"b"), part(1, b"x"), part(2, b"y"), part(3, b"z"))
    assert viewer.groups()[0].data == plain(b"a", b"b")
    assert viewer.groups()[0].fin


async def test_a_burst_of_small_groups_larger_than_the_cache_is_delivered_whole() -> None:
    stage = Stage(Limits(track_idle=0.01, cache_groups=4))
    viewer = await stage.viewer()
    await stage.feed(*(part(sequence, b"x") for sequence in range(20)))
    assert sorted(viewer.groups()) == list(range(20))
    assert all(group.fin for group in viewer.groups().values())


async def test_a_partial_group_from_upstream_is_not_passed_off_as_a_whole_one() -> None:
    stage = Stage()
    viewer = await stage.viewer()
    await stage.feed(part(0, b"c", b"d", first_frame=2))
    assert 0 not in viewer.groups()
    late = await stage.viewer()
    assert 0 not in late.groups()
    await stage.feed(part(1, b"a"))
    assert viewer.groups()[1].data == plain(b"a")


async def test_datagrams_reach_every_subscription() -> None:
    stage = Stage()
    one, two = await stage.viewer(), await stage.viewer(SubscribeParams(end_group=3), Encoding.TIMED)
    await stage.say(moq.DatagramReceived(1, 9, 500, b"dg"))
    for viewer in (one, two):
        assert viewer.got(m.DeliverDatagram) == [m.DeliverDatagram(1, 9, 500, b"dg")]


async def test_frames_without_a_time_get_the_time_of_their_arrival() -> None:
    stage = Stage()
    viewer = await stage.viewer(encoding=Encoding.TIMED)
    await stage.feed(part(0, b"a"))
    data = viewer.groups()[0].data
    assert data.endswith(b"\x01a")
    assert data[0] >= 0x40  # a time since some epoch needs more than one byte


# --- the end ---------------------------------------------------------------------------------------------------------


async def test_the_end_after_the_last_group_is_reported_at_once() -> None:
    stage = Stage()
    viewer = await stage.viewer()
    await stage.feed(part(0, b"a"), part(1, b"b"))
    await stage.say(m.UpstreamEnded(2, LATE))
    assert viewer.got(m.Ended) == [m.Ended(1, 2)]


async def test_the_end_waits_for_groups_still_open() -> None:
    stage = Stage()
    viewer = await stage.viewer()
    await stage.feed(part(0, b"a", fin=False))
    await stage.say(m.UpstreamEnded(1, LATE))
    assert not viewer.got(m.Ended)
    await stage.feed(part(0, b"b"))
    assert viewer.got(m.Ended) == [m.Ended(1, 1)]
    assert viewer.groups()[0].data == plain(b"a", b"b")


async def test_an_end_that_overtakes_the_last_groups_waits_for_them() -> None:
    stage = Stage()
    viewer = await stage.viewer()
    await stage.feed(part(0, b"a"))
    await stage.say(m.UpstreamEnded(3, LATE))
    await stage.feed(part(1, b"b"))
    assert not viewer.got(m.Ended)
    await stage.feed(part(2, b"c"))
    await until(lambda: viewer.got(m.Ended))
    assert viewer.got(m.Ended) == [m.Ended(1, 3)]
    assert sorted(viewer.groups()) == [0, 1, 2]


async def test_an_end_without_a_number_counts_from_the_latest_group() -> None:
    stage = Stage()
    viewer = await stage.viewer()
    await stage.feed(part(6, b"a"))
    await stage.say(m.UpstreamEnded(None, LATE))
    await until(lambda: viewer.got(m.Ended))
    assert viewer.got(m.Ended) == [m.Ended(1, 7)]


async def test_a_track_that_ends_without_a_group_ends_at_zero() -> None:
    stage = Stage()
    viewer = await stage.viewer()
    await stage.say(m.UpstreamEnded(0, LATE))
    assert viewer.got(m.Ended) == [m.Ended(1, 0)]


async def test_who_joins_after_the_end_gets_what_is_kept_and_the_end() -> None:
    stage = Stage(Limits(track_idle=60))
    await stage.viewer()
    await stage.feed(part(0, b"a"))
    await stage.say(m.UpstreamEnded(1, LATE))
    late = await stage.viewer()
    assert late.groups()[0].data == plain(b"a")
    assert late.got(m.Ended) == [m.Ended(1, 1)]


async def test_a_subscriber_that_joined_after_the_end_does_not_keep_the_track_alive() -> None:
    stage = Stage(Limits(track_idle=0.05))
    await stage.viewer()
    await stage.feed(part(0, b"a"))
    await stage.say(m.UpstreamEnded(1, LATE))
    late = await stage.viewer()
    assert late.got(m.Ended)
    before = len(stage.broadcast.got(m.TrackIdle))
    await until(lambda: len(stage.broadcast.got(m.TrackIdle)) > before, 1.0)


async def test_a_failing_upstream_aborts_groups_and_subscriptions_with_its_code_and_ends_the_track() -> None:
    stage = Stage()
    viewer = await stage.viewer()
    await stage.feed(part(0, b"a", fin=False))
    await stage.say(m.UpstreamFailed(StreamCode.NOT_FOUND))
    assert viewer.groups()[0].code == StreamCode.NOT_FOUND
    assert viewer.got(m.Refused) == [m.Refused(1, StreamCode.NOT_FOUND)]
    assert not stage.track.is_alive()
    assert stage.source.got(m.CloseUpstream) == [m.CloseUpstream(stage.track)]  # it may have more requests
    assert [ended.ref for ended in stage.broadcast.got(m.TrackEnded)] == [stage.track]


async def test_a_source_that_is_gone_is_reported_as_lost() -> None:
    """Subscriptions and descriptions may be repeated; a fetch is refused."""
    stage = Stage()
    viewer = await stage.viewer()
    stage.viewers[0].describe(stage.track, 2)
    viewer.fetch(stage.track, 3, key=3)
    await stage.feed(part(0, b"a", fin=False))
    await stage.say(m.UpstreamFailed(StreamCode.INTERNAL, gone=True))
    assert viewer.groups()[0].code == StreamCode.INTERNAL
    assert viewer.got(m.PublisherLost) == [
        m.PublisherLost(1, StreamCode.INTERNAL),
        m.PublisherLost(2, StreamCode.INTERNAL),
    ]
    assert viewer.got(m.Refused) == [m.Refused(3, StreamCode.INTERNAL)]
    assert not stage.track.is_alive()


async def test_the_answer_names_the_publisher() -> None:
    stage = Stage()
    viewer = FakeSubscriber()
    send(stage.track, m.Subscribe("p", "video", viewer.ref, 7, 1, Encoding.PLAIN, SubscribeParams(), 0))
    await settle()
    assert viewer.got(m.Accepted) == [m.Accepted(1, stage.track)]


async def test_a_dead_source_is_reported_as_lost_to_the_subscriber() -> None:
    stage = Stage()
    halt(stage.source.ref)
    await settle()
    viewer = await stage.viewer()
    assert viewer.got(m.PublisherLost) == [m.PublisherLost(1, StreamCode.UNROUTABLE)]
    assert not viewer.got(m.Refused)
    assert not stage.track.is_alive()


async def test_a_dead_source_refuses_a_fetch_and_loses_a_description() -> None:
    for ask_for in ("fetch", "describe"):
        stage = Stage()
        halt(stage.source.ref)
        await settle()
        viewer = FakeSubscriber()
        if ask_for == "fetch":
            viewer.fetch(stage.track, 3)
        else:
            viewer.describe(stage.track)
        await settle()
        expected = (m.PublisherLost if ask_for == "describe" else m.Refused)(1, StreamCode.UNROUTABLE)
        assert [told for told in viewer.log if isinstance(told, m.PublisherLost | m.Refused)] == [expected], (
            ask_for
        )


async def test_a_request_that_meets_a_failing_track_is_answered() -> None:
    """One more request reaches the inbox of the failed track."""
    source = FakePublisher()
    broadcast = BroadcastActor.start(RUNTIME, path="room/cam", source=source.ref, limits=QUICK)
    first, second = FakeSubscriber(), FakeSubscriber()
    first.subscribe(broadcast)
    await settle()
    track = source.got(m.OpenUpstream)[0].track
    send(track, m.UpstreamFailed(StreamCode.NOT_FOUND))
    second.subscribe(broadcast)  # forwarded between the failure and the stop
    await settle()
    assert len(first.got(m.Refused)) == 1
    assert second.got(m.Refused) or len(source.got(m.OpenUpstream)) == 2, (
        "neither refused nor subscribed anew"
    )


async def test_a_stopped_track_closes_its_upstream_and_refuses_everybody() -> None:
    stage = Stage()
    viewer = await stage.viewer()
    other = FakeSubscriber()
    other.describe(stage.track, 8)
    await settle()
    halt(stage.track)
    await settle()
    assert viewer.got(m.Refused) == [m.Refused(1, StreamCode.CANCELLED)]
    assert other.got(m.Refused) == [m.Refused(8, StreamCode.CANCELLED)]
    assert stage.source.got(m.CloseUpstream) == [m.CloseUpstream(stage.track)]


# --- idle ------------------------------------------------------------------------------------------------------------


class House:
    """With a real broadcast, idle tracks really end."""

    def __init__(self, limits: Limits = QUICK) -> None:
        self.source = FakePublisher()
        self.broadcast: Ref = BroadcastActor.start(
            RUNTIME, path="room/cam", source=self.source.ref, limits=limits
        )

    async def names(self) -> tuple[str, ...]:
        """Running tracks."""
        tracks = await ask(self.broadcast, m.ListTracks(), timeout=TIMEOUT)
        return tuple(str(actor_of(ref)).split()[-1] for ref in tracks)

    @property
    def tracks(self) -> list[Ref]:
        return [opened.track for opened in self.source.got(m.OpenUpstream)]


async def test_the_last_viewer_leaves_and_the_upstream_is_closed_once() -> None:
    house = House()
    one, two = FakeSubscriber(), FakeSubscriber()
    one.subscribe(house.broadcast)
    two.subscribe(house.broadcast)
    await settle()
    (track,) = house.tracks
    one.leave(track)
    two.leave(track)
    await until(lambda: not track.is_alive())
    await settle()
    assert house.source.got(m.CloseUpstream) == [m.CloseUpstream(track)]
    assert await house.names() == ()


async def test_a_viewer_that_returns_within_the_grace_keeps_the_upstream() -> None:
    house = House(Limits(track_idle=60))
    viewer = FakeSubscriber()
    viewer.subscribe(house.broadcast)
    await settle()
    (track,) = house.tracks
    house.source.groups(track, part(0, b"a"))
    viewer.leave(track)
    await settle()
    viewer.subscribe(house.broadcast, 2)
    await settle()
    assert len(house.source.got(m.OpenUpstream)) == 1
    assert not house.source.got(m.CloseUpstream)
    assert viewer.groups(2)[0].data == plain(b"a")


async def test_a_subscribe_that_crosses_the_idle_message_keeps_the_track() -> None:
    house = House(Limits(track_idle=60))
    viewer = FakeSubscriber()
    viewer.subscribe(house.broadcast)
    await settle()
    (track,) = house.tracks
    viewer.leave(track)
    await settle()
    viewer.subscribe(house.broadcast, 2)
    send(house.broadcast, m.TrackIdle("room/cam", "video", 1))  # counted before that subscribe
    await settle()
    assert track.is_alive()
    assert len(viewer.got(m.Accepted)) == 2
    house.source.groups(track, part(0, b"a"))
    await settle()
    assert viewer.groups(2)[0].data == plain(b"a")


async def test_a_subscribe_after_the_idle_message_starts_a_new_track() -> None:
    house = House(Limits(track_idle=60))
    viewer = FakeSubscriber()
    viewer.subscribe(house.broadcast)
    await settle()
    (track,) = house.tracks
    viewer.leave(track)
    await settle()
    send(house.broadcast, m.TrackIdle("room/cam", "video", 1))
    viewer.subscribe(house.broadcast, 2)
    await settle()
    assert not track.is_alive()
    assert len(house.tracks) == 2
    assert house.tracks[1].is_alive()
    assert house.source.got(m.CloseUpstream) == [m.CloseUpstream(track)]
    assert await house.names() == ("video",)


async def test_a_retired_broadcast_ends_when_its_last_track_has() -> None:
    house = House()
    viewer = FakeSubscriber()
    viewer.subscribe(house.broadcast)
    await settle()
    origin = FakePublisher()
    send(house.broadcast, m.Withdraw(origin.ref, 5))
    await settle()
    assert house.broadcast.is_alive()
    viewer.leave(house.tracks[0])
    await until(lambda: not house.broadcast.is_alive())
    await settle()
    assert origin.got(m.BroadcastOver) == [m.BroadcastOver(5, "room/cam")]


async def test_a_retired_broadcast_without_tracks_ends_at_once() -> None:
    house = House()
    origin = FakePublisher()
    send(house.broadcast, m.Withdraw(origin.ref, 5))
    await settle()
    assert not house.broadcast.is_alive()
    assert origin.got(m.BroadcastOver) == [m.BroadcastOver(5, "room/cam")]


async def test_a_broadcast_refuses_more_tracks_than_its_limit() -> None:
    house = House(Limits(tracks=2, track_idle=60))
    viewer = FakeSubscriber()
    for key, name in enumerate(("a", "b", "c"), 1):
        viewer.subscribe(house.broadcast, key, track=name)
    await settle()
    assert viewer.got(m.Refused) == [m.Refused(3, StreamCode.NO_CAPACITY)]
    assert await house.names() == ("a", "b")


async def test_one_failing_track_does_not_take_its_siblings_down() -> None:
    house = House(Limits(track_idle=60))
    viewer = FakeSubscriber()
    viewer.subscribe(house.broadcast, 1, track="a")
    viewer.subscribe(house.broadcast, 2, track="b")
    await settle()
    send(house.tracks[0], m.UpstreamFailed(StreamCode.NOT_FOUND))
    await settle()
    house.source.groups(house.tracks[1], part(0, b"x"))
    await settle()
    assert viewer.groups(2)[0].data == plain(b"x")


async def test_a_dead_subscriber_is_dropped() -> None:
    stage = Stage(Limits(track_idle=0.01))
    dead, alive = await stage.viewer(), await stage.viewer()
    halt(dead.ref)
    await settle()
    await stage.feed(part(0, b"a"))
    assert alive.groups()[0].fin
    alive.leave(stage.track)
    await settle()
    await until(lambda: stage.broadcast.got(m.TrackIdle))


# --- bounds ----------------------------------------------------------------------------------------------------------


async def test_start_and_end_group_bound_a_subscription() -> None:
    stage = Stage()
    viewer = await stage.viewer(SubscribeParams(start_group=2, end_group=4))
    for sequence in range(7):
        await stage.feed(part(sequence, b"%d" % sequence))
    assert sorted(viewer.groups()) == [2, 3, 4]


async def test_a_start_in_the_past_is_served_from_the_cache() -> None:
    stage = Stage()
    await stage.viewer()
    for sequence in range(5):
        await stage.feed(part(sequence, b"%d" % sequence))
    late = await stage.viewer(SubscribeParams(start_group=2))
    assert sorted(late.groups()) == [2, 3, 4]


async def test_frames_bound_the_first_and_the_last_group() -> None:
    stage = Stage()
    viewer = await stage.viewer(SubscribeParams(start_group=1, end_group=2, start_frame=1, end_frame=0))
    for sequence in range(4):
        await stage.feed(part(sequence, b"a", b"b", b"c"))
    groups = viewer.groups()
    assert sorted(groups) == [1, 2]
    assert (groups[1].start_frame, groups[1].data, groups[1].fin) == (1, plain(b"b", b"c"), True)
    assert (groups[2].start_frame, groups[2].data, groups[2].fin) == (0, plain(b"a"), True)


async def test_frame_bounds_hold_for_a_group_that_comes_in_parts() -> None:
    stage = Stage()
    viewer = await stage.viewer(SubscribeParams(start_group=1, end_group=1, start_frame=1, end_frame=2))
    for payload in (b"a", b"b", b"c", b"d"):
        await stage.feed(part(1, payload, fin=False))
    await stage.feed(part(1))
    assert viewer.groups()[1].data == plain(b"b", b"c")
    assert viewer.groups()[1].fin


async def test_a_bounded_group_ends_with_its_last_wanted_frame_not_with_the_next_one() -> None:
    stage = Stage()
    viewer = await stage.viewer(SubscribeParams(end_group=0, end_frame=0))
    await stage.feed(part(0, b"a", fin=False))
    assert viewer.groups()[0].data == plain(b"a")
    assert viewer.groups()[0].fin


async def test_frame_bounds_of_a_late_joiner_are_served_from_the_cache() -> None:
    stage = Stage()
    await stage.viewer()
    await stage.feed(part(3, b"a", b"b", b"c", fin=False, timestamps=[5, 6, 7]))
    late = await stage.viewer(SubscribeParams(start_group=3, start_frame=1), Encoding.TIMED)
    assert late.groups()[3].start_frame == 1
    assert late.groups()[3].data == timed((6, b"b"), (7, b"c"))
    await stage.feed(part(3, b"d", timestamps=[9]))
    assert late.groups()[3].data == timed((6, b"b"), (7, b"c"), (9, b"d"))


async def test_history_starts_at_the_oldest_group_young_enough() -> None:
    stage = Stage()
    await stage.viewer()
    await stage.say(m.UpstreamProperties(TrackProperties(timescale=1000)))
    for sequence in range(6):
        await stage.feed(part(sequence, b"x", timestamps=[sequence * 1000]))
    # group n is expired when group n + 1 is at least that much older than the newest frame
    late = await stage.viewer(SubscribeParams(history_ms=2500))
    assert sorted(late.groups()) == [2, 3, 4, 5]
    none = await stage.viewer(SubscribeParams(history_ms=0))
    assert sorted(none.groups()) == [5]
    floor = await stage.viewer(SubscribeParams(history_ms=2500, start_group=4))
    assert sorted(floor.groups()) == [4, 5]


async def test_an_update_does_not_cut_off_a_group_in_flight_silently() -> None:
    """It is finished or aborted."""
    for params in (SubscribeParams(start_group=7), SubscribeParams(end_group=2)):
        stage = Stage()
        viewer = await stage.viewer()
        await stage.feed(part(5, b"a", fin=False))
        await stage.say(m.UpdateSubscription(viewer.ref, 1, params))
        await stage.feed(part(5, b"b"))
        group = viewer.groups()[5]
        assert group.fin or group.code is not None, params


async def test_an_update_that_cuts_a_group_leaves_nothing_of_it_behind() -> None:
    stage = Stage()
    viewer = await stage.viewer(SubscribeParams(start_group=1, start_frame=1))
    await stage.feed(part(1, b"a", b"b", fin=False))
    await stage.say(m.UpdateSubscription(viewer.ref, 1, SubscribeParams(start_group=2)))
    await stage.feed(part(1, b"c"))
    await stage.feed(part(2, b"d"))
    (subscriber,) = actor_of(stage.track)._subscribers.all.values()
    assert not subscriber.feed._encoders
    assert viewer.groups()[1].code is not None
    assert viewer.groups()[2].fin


# --- params --------------------------------------------------------------------------------------------------------


async def test_the_parameters_of_all_subscribers_go_upstream_together() -> None:
    stage = Stage()
    one = await stage.viewer(SubscribeParams(priority=3, latency_ms=100, ordered=True))
    assert stage.opened[0].params == SubscribeParams(priority=3, latency_ms=100, ordered=True)
    two = await stage.viewer(SubscribeParams(priority=1, latency_ms=900, history_ms=50))
    assert stage.updates[-1].params == SubscribeParams(priority=3, latency_ms=900, history_ms=50)
    await stage.say(m.UpdateSubscription(two.ref, 1, SubscribeParams(priority=200)))
    assert stage.updates[-1].params == SubscribeParams(priority=200, latency_ms=100)
    count = len(stage.updates)
    await stage.viewer(SubscribeParams(priority=5))
    assert len(stage.updates) == count  # no change
    two.leave(stage.track)
    await settle()
    assert stage.updates[-1].params.priority == 5
    one.leave(stage.track)
    await settle()
    assert stage.updates[-1].params.latency_ms == 0
    assert len(stage.opened) == 1


async def test_the_first_subscribers_future_start_does_not_starve_the_others() -> None:
    """Another subscriber's present group must come."""
    stage = Stage()
    await stage.viewer(SubscribeParams(start_group=1000))
    assert stage.opened[0].params.start_group is None or await _asks_again(stage)


async def _asks_again(stage: Stage) -> bool:
    await stage.viewer(SubscribeParams())
    return bool(stage.updates) or len(stage.opened) > 1


# --- properties and fetches ------------------------------------------------------------------------------------------


async def test_describe_asks_upstream_once_and_answers_everybody() -> None:
    stage = Stage()
    one, two = FakeSubscriber(), FakeSubscriber()
    one.describe(stage.track)
    two.describe(stage.track, 4)
    await settle()
    assert len(stage.source.got(m.DescribeUpstream)) == 1
    properties = TrackProperties(1, ordered=True, max_latency_ms=7, timescale=90_000)
    await stage.say(m.UpstreamProperties(properties))
    assert one.got(m.Described) == [m.Described(1, properties)]
    assert two.got(m.Described) == [m.Described(4, properties)]
    one.describe(stage.track, 2)
    await settle()
    assert one.got(m.Described)[-1] == m.Described(2, properties)
    assert len(stage.source.got(m.DescribeUpstream)) == 1


async def test_a_subscribed_track_is_described_without_asking_again() -> None:
    stage = Stage()
    viewer = await stage.viewer()
    viewer.describe(stage.track, 2)
    await settle()
    assert stage.opened[0].describe
    assert not stage.source.got(m.DescribeUpstream)
    await stage.say(m.UpstreamProperties(TrackProperties()))
    assert viewer.got(m.Described) == [m.Described(2, TrackProperties())]


async def test_fetch_is_served_from_the_cache() -> None:
    stage = Stage()
    viewer = await stage.viewer()
    await stage.feed(part(0, b"a", b"b", b"c"), part(1, b"x"))
    viewer.fetch(stage.track, 0, 5)
    viewer.fetch(stage.track, 0, 6, first=1, last=1)
    await settle()
    assert viewer.fetched(5) == plain(b"a", b"b", b"c")
    assert viewer.fetched(6) == plain(b"b")
    assert [data.part.fin for data in viewer.got(m.FetchData)] == [True, True]
    assert not stage.source.got(m.FetchUpstream)


@pytest.mark.parametrize("first", [3, 9])
async def test_a_fetch_from_a_frame_behind_the_end_of_a_group_is_refused(first: int) -> None:
    stage = Stage()
    viewer = await stage.viewer()
    await stage.feed(part(0, b"a", b"b", b"c"), part(1, fin=False))
    for key, group in enumerate((0, 1, 7), start=5):
        viewer.fetch(stage.track, group, key, first=first)
    await settle()
    assert [refused.key for refused in viewer.got(m.Refused)] == [5]
    await stage.feed(part(1, b"a"))
    await stage.say(moq.FetchedData(1, part(7, b"a")))
    assert [(refused.key, refused.code) for refused in viewer.got(m.Refused)] == [
        (key, StreamCode.NOT_FOUND) for key in (5, 6, 7)
    ]
    assert not viewer.got(m.FetchData)


async def test_a_fetch_of_an_empty_group_gets_its_end() -> None:
    stage = Stage()
    viewer = await stage.viewer()
    await stage.feed(part(0), part(1, b"x"))
    viewer.fetch(stage.track, 0)
    await settle()
    assert [data.part.fin for data in viewer.got(m.FetchData)] == [True]


async def test_fetch_of_an_open_group_follows_it_to_its_end() -> None:
    stage = Stage()
    viewer = await stage.viewer()
    await stage.feed(part(0, b"a", fin=False))
    viewer.fetch(stage.track, 0, 5)
    await settle()
    assert viewer.fetched(5) == plain(b"a")
    await stage.feed(part(0, b"b"))
    assert viewer.fetched(5) == plain(b"a", b"b")
    assert [data.part.fin for data in viewer.got(m.FetchData)] == [False, True]


async def test_fetch_of_an_open_group_that_is_aborted_is_refused_with_its_code() -> None:
    stage = Stage()
    viewer = await stage.viewer()
    await stage.feed(part(0, b"a", fin=False))
    viewer.fetch(stage.track, 0, 5)
    await settle()
    await stage.feed(part(0, code=StreamCode.OLD))
    assert m.Refused(5, StreamCode.OLD) in viewer.got(m.Refused)


async def test_fetch_of_a_group_that_outgrows_the_cache_is_refused() -> None:
    stage = Stage(Limits(track_idle=0.01, cache_track=10_000))
    viewer = await stage.viewer()
    await stage.feed(part(0, b"a", fin=False))
    viewer.fetch(stage.track, 0, 5)
    await settle()
    await stage.feed(part(0, b"x" * 20_000, fin=False))
    assert m.Refused(5, StreamCode.GROUP_TOO_LARGE) in viewer.got(m.Refused)


async def test_fetch_of_an_unknown_group_goes_upstream_once() -> None:
    stage = Stage()
    one, two = FakeSubscriber(), FakeSubscriber()
    one.fetch(stage.track, 7, 1)
    two.fetch(stage.track, 7, 2, first=1)
    await settle()
    assert [f.sequence for f in stage.source.got(m.FetchUpstream)] == [7]
    await stage.say(moq.FetchedData(1, part(7, b"a", fin=False)))
    await stage.say(moq.FetchedData(1, part(7, b"b")))
    assert one.fetched(1) == plain(b"a", b"b")
    assert two.fetched(2) == plain(b"b")
    assert one.got(m.FetchData)[-1].part.fin
    assert two.got(m.FetchData)[-1].part.fin


async def test_a_fetch_that_upstream_refuses_is_refused() -> None:
    stage = Stage()
    viewer = FakeSubscriber()
    viewer.fetch(stage.track, 7)
    await settle()
    await stage.say(moq.FetchedData(1, part(7, code=StreamCode.NOT_FOUND)))
    assert viewer.got(m.Refused) == [m.Refused(1, StreamCode.NOT_FOUND)]
    await until(lambda: stage.broadcast.got(m.TrackIdle))


@pytest.mark.interpreted
async def test_a_flood_of_updates_is_looked_at_once_in_a_turn() -> None:
    """One message upstream and one scan of the subscribers, however many update."""
    stage = Stage()
    viewers = [FakeSubscriber() for _ in range(20)]
    for viewer in viewers:
        viewer.subscribe(stage.track)
    await settle()
    looks = 0
    actor = actor_of(stage.track)
    want = actor._want

    def counted() -> None:
        nonlocal looks
        looks += 1
        want()

    actor._want = counted
    for priority in range(1, 101):
        for viewer in viewers:
            send(stage.track, m.UpdateSubscription(viewer.ref, 1, SubscribeParams(priority=priority)))
    await settle()
    assert looks == 1
    assert [update.params.priority for update in stage.updates] == [100]


# --- limits ----------------------------------------------------------------------------------------------------------


async def test_a_group_larger_than_the_cache_is_ended() -> None:
    stage = Stage(Limits(track_idle=0.01, cache_track=10_000))
    viewer = await stage.viewer()
    await stage.feed(part(0, b"x" * 4_000, fin=False))
    await stage.feed(part(0, b"x" * 8_000, fin=False))
    assert stage.stopped == [(0, StreamCode.GROUP_TOO_LARGE)]
    assert viewer.groups()[0].code == StreamCode.GROUP_TOO_LARGE
    await stage.feed(part(1, b"y"))
    assert viewer.groups()[1].fin


async def test_open_groups_that_grow_together_stay_within_the_cache_limit() -> None:
    stage = Stage(Limits(track_idle=0.01, cache_track=10_000))
    viewer = await stage.viewer()
    await stage.feed(*(part(sequence, b"x", fin=False) for sequence in range(5)))
    for _ in range(8):
        await stage.feed(*(part(sequence, b"x" * 1_000, fin=False) for sequence in range(5)))
    late = await stage.viewer(SubscribeParams(start_group=0))
    assert sum(len(group.data) for group in late.groups().values()) <= 12_000
    assert stage.stopped
    assert viewer.got(m.Deliver)


async def test_more_open_groups_than_allowed_end_the_oldest() -> None:
    stage = Stage(Limits(track_idle=0.01, groups_in_flight=3))
    viewer = await stage.viewer()
    for sequence in range(5):
        await stage.feed(part(sequence, b"x", fin=False))
    assert stage.stopped == [(0, StreamCode.TOO_FAR_BEHIND), (1, StreamCode.TOO_FAR_BEHIND)]
    groups = viewer.groups()
    assert [groups[s].code for s in range(5)] == [5, 5, None, None, None]


async def test_an_open_group_that_is_evicted_is_aborted() -> None:
    stage = Stage(Limits(track_idle=0.01, cache_groups=2))
    viewer = await stage.viewer()
    await stage.feed(part(0, b"x", fin=False))
    await stage.feed(part(1, b"x", fin=False))
    await stage.feed(part(2, b"x"))
    assert stage.stopped == [(0, StreamCode.TOO_FAR_BEHIND)]
    assert viewer.groups()[0].code == StreamCode.TOO_FAR_BEHIND


async def test_a_group_whose_end_comes_late_outlasts_whole_ones_in_a_full_cache() -> None:
    stage = Stage(Limits(track_idle=0.01, cache_track=10_000))
    viewer = await stage.viewer()
    await stage.feed(part(0, b"x", fin=False))
    for sequence in range(1, 20):
        await stage.feed(part(sequence, b"y" * 3_000))
    await stage.feed(part(0, b"z"))
    assert stage.stopped == []
    assert viewer.groups()[0].fin
    assert viewer.groups()[0].code is None
    late = await stage.viewer(SubscribeParams(history_ms=3_600_000))
    assert min(late.groups()) > 1
