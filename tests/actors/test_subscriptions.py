"""Subscriptions, tracks, fetches and datagrams across the relay, on raw wire messages."""

from __future__ import annotations

import asyncio

import pytest

from relay.actors import ingest
from relay.actors import messages as m
from relay.actors.runtime import halt, send
from relay.auth.permissions import Permissions
from relay.model.limits import Limits
from relay.model.track import SubscribeParams
from relay.moq.encoding import Encoding
from relay.moq.lite_requests import Subscription
from relay.transport.session import SessionClosed, StreamData
from relay.wire.control import TrackInfo
from relay.wire.frame import Datagram, GroupHeader, group_header
from relay.wire.subscribe import Subscribe, SubscribeDrop, SubscribeEnd, SubscribeOk, SubscribeUpdate
from relay.wire.version import Version
from tests.actors.fakes import FakeSubscriber, timed
from tests.actors.raw_peer import RawPeer, upstream
from tests.actors.watching import actors, named
from tests.actors.world import World
from tests.clock import settle, until
from tests.sampling import ALL, pairs

TIMED = [Version.LITE_05, Version.LITE_06]
UNTIMED = [v for v in Version if v <= Version.LITE_04]
BIG = (1 << 62) - 1


async def couple(world: World, one: Version, two: Version, path: str = "p") -> tuple[RawPeer, RawPeer]:
    return await world.publisher(one, path), await world.viewer(two)


# --- accepting and refusing ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ALL)
async def test_an_unknown_broadcast_is_refused_promptly(world: World, version: Version) -> None:
    viewer = await world.viewer(version)
    _, stream = viewer.subscribe("nobody/here")
    await settle()
    assert stream.resets == [13 if version <= Version.LITE_02 else 54]
    assert not stream.data
    assert not viewer.closed


@pytest.mark.parametrize("version", ALL)
async def test_what_is_not_permitted_looks_like_what_does_not_exist(world: World, version: Version) -> None:
    await world.publisher(Version.LITE_05, "theirs/cam")
    viewer = await world.viewer(version, permissions=Permissions("", (), ("mine",)))
    _, forbidden = viewer.subscribe("theirs/cam")
    _, missing = viewer.subscribe("mine/cam")
    others = []
    if version >= Version.LITE_05:
        others = [(viewer.info("theirs/cam"), viewer.info("mine/cam"))]
        others += [(viewer.fetch("theirs/cam", 0), viewer.fetch("mine/cam", 0))]
    await settle()
    for one, two in [(forbidden, missing), *others]:
        assert one.resets == two.resets
        assert one.stops == two.stops
        assert one.data == two.data == b""
        assert len(one.resets) == 1


async def test_the_answer_to_a_subscription_by_version(world: World) -> None:
    publisher = await world.publisher(Version.LITE_04, "p")
    streams = {}
    for version in Version:
        viewer = await world.viewer(version)
        _, streams[version] = viewer.subscribe("p", priority=9)
    await settle()
    assert {v: s.data.hex(" ") for v, s in streams.items()} == {
        Version.LITE_01: "01 09",
        Version.LITE_02: "00",
        Version.LITE_03: "00 05 09 00 00 00 00",
        Version.LITE_04: "00 05 09 00 00 00 00",
        Version.LITE_05: "",
        Version.LITE_06: "",
    }
    publisher.group(0, 7, b"x")
    await settle()
    assert streams[Version.LITE_05].data.hex(" ") == "00 01 07"
    assert streams[Version.LITE_06].data.hex(" ") == "00 01 07"
    assert streams[Version.LITE_03].data.hex(" ") == "00 05 09 00 00 00 00"


@pytest.mark.parametrize(("one", "two"), pairs())
async def test_an_unknown_track_is_refused_for_every_pair(world: World, one: Version, two: Version) -> None:
    publisher, viewer = await couple(world, one, two)
    _, stream = viewer.subscribe("p", "nothing")
    await settle()
    code = 13 if one <= Version.LITE_02 else 51
    if one >= Version.LITE_05:
        for asked, _ in publisher.track_requests():
            asked.reset(code)
    else:
        for asked, _ in publisher.subscriptions():
            asked.reset(code)
    await settle()
    expected = 13 if two <= Version.LITE_02 else 51
    assert stream.resets == [expected]
    assert not viewer.closed
    assert not publisher.closed


@pytest.mark.parametrize("version", ALL)
async def test_a_refused_subscription_leaves_no_half_open_stream_behind(
    world: World, version: Version
) -> None:
    """The peer only resets its half: if ours stayed, it would run out of streams."""
    publisher, viewer = await couple(world, version, Version.LITE_05)
    viewer.subscribe("p")
    await settle()
    before = len(publisher.relay.raw.streams)
    for stream in publisher.requests[1:]:
        stream.reset(51 if version >= Version.LITE_03 else 13)
    await settle()
    assert publisher.requests[1:]
    assert all(stream.over for stream in publisher.requests[1:])
    assert len(publisher.relay.raw.streams) < before


async def test_a_refused_fetch_leaves_no_half_open_stream_behind(world: World) -> None:
    publisher, viewer = await couple(world, Version.LITE_06, Version.LITE_06)
    viewer.fetch("p", 3)
    await settle()
    ((stream, _),) = publisher.fetches()
    stream.reset(51)
    await settle()
    assert stream.over


@pytest.mark.parametrize(("one", "two"), pairs())
async def test_frames_cross_every_pair_of_versions(world: World, one: Version, two: Version) -> None:
    publisher, viewer = await couple(world, one, two)
    number, stream = viewer.subscribe("p", priority=3)
    _, request = await upstream(publisher)
    assert (request.broadcast, request.track, request.priority) == ("p", "video", 3)
    publisher.group(request.id, 4, (1000, b"a"), (2000, b""), (1500, b"c" * 40_000))
    publisher.group(request.id, 5, (9, b"z"))
    await settle()
    first, second = viewer.groups(number)
    assert first.payloads == [b"a", b"", b"c" * 40_000]
    assert (first.header, second.header) == (GroupHeader(number, 4), GroupHeader(number, 5))
    assert first.fins == second.fins == 1
    if two >= Version.LITE_05 and one >= Version.LITE_05:
        assert [time for time, _ in first.frames] == [1000, 2000, 1500]
    elif two >= Version.LITE_05:
        assert len({time for time, _ in first.frames}) == 1
        assert first.frames[0][0]
    assert not stream.over


async def test_an_unfinished_frame_reaches_the_viewer_in_parts(world: World) -> None:
    publisher, viewer = await couple(world, Version.LITE_05, Version.LITE_01)
    number, _ = viewer.subscribe("p")
    _, request = await upstream(publisher)
    group = publisher.uni(
        group_header(Version.LITE_05, GroupHeader(request.id, 0)) + timed((5, b"x" * 100))[:-50]
    )
    await settle()
    (received,) = viewer.groups(number)
    assert received.payloads == [b"x" * 50]
    group.write(b"x" * 50, fin=True)
    await settle()
    assert received.payloads == [b"x" * 100]
    assert received.fins == 1


@pytest.mark.parametrize("version", ALL)
async def test_many_viewers_make_one_subscription(world: World, version: Version) -> None:
    publisher = await world.publisher(version, "p")
    viewers = [await world.viewer(two) for two in Version for _ in range(2)]
    numbers = [viewer.subscribe("p")[0] for viewer in viewers]
    _, request = await upstream(publisher)
    publisher.group(request.id, 0, b"hello")
    await settle()
    assert len(publisher.subscriptions()) == 1
    for viewer, number in zip(viewers, numbers, strict=True):
        assert [group.payloads for group in viewer.groups(number)] == [[b"hello"]]


@pytest.mark.parametrize("version", ALL)
async def test_groups_may_come_before_the_subscription_is_accepted(world: World, version: Version) -> None:
    publisher, viewer = await couple(world, version, Version.LITE_03)
    number, _ = viewer.subscribe("p")
    stream, request = await upstream(publisher)
    publisher.group(request.id, 0, b"early")
    await settle()
    publisher.accept(stream)
    await settle()
    assert [group.payloads for group in viewer.groups(number)] == [[b"early"]]


# --- leaving ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ALL)
@pytest.mark.parametrize("how", ["fin", "reset", "stop"])
async def test_unsubscribing_ends_the_stream_and_what_is_in_flight(
    world: World, version: Version, how: str
) -> None:
    publisher, viewer = await couple(world, Version.LITE_04, version)
    number, stream = viewer.subscribe("p")
    upstream_, request = await upstream(publisher)
    publisher.group(request.id, 0, b"a", fin=False)
    await settle()
    if how == "fin":
        stream.write(fin=True)
    elif how == "reset":
        stream.reset(1)
    else:
        stream.stop(1)
    await settle()
    assert stream.over
    (group,) = viewer.groups(number)
    assert group.resets == [0 if version <= Version.LITE_02 else 1]
    await until(lambda: upstream_.over)
    assert not viewer.closed


@pytest.mark.parametrize("version", ALL)
async def test_the_upstream_subscription_ends_once_after_the_last_viewer(
    world: World, version: Version
) -> None:
    publisher, viewer = await couple(world, version, Version.LITE_05)
    viewer.subscribe("p")
    stream, request = await upstream(publisher)
    publisher.group(request.id, 0, b"a", fin=False)
    await settle()
    viewer.close()
    await until(lambda: stream.over)
    await settle()
    if version <= Version.LITE_02:
        assert (stream.resets, stream.fins) == ([0], 0)
    else:
        assert (stream.resets, stream.fins) == ([], 1)
    assert [a for a in actors() if a.startswith("track")] == []


async def test_a_new_viewer_after_the_end_of_the_old_gets_a_new_subscription(world: World) -> None:
    publisher = await world.publisher(Version.LITE_04, "p")
    for expected in range(3):
        viewer = await world.viewer(Version.LITE_04)
        number, stream = viewer.subscribe("p")
        upstream_, request = await upstream(publisher, expected)
        assert request.id == expected
        publisher.group(request.id, 0, b"%d" % expected)
        await settle()
        assert [group.payloads for group in viewer.groups(number)] == [[b"%d" % expected]]
        stream.write(fin=True)
        await until(lambda: upstream_.over)  # noqa: B023


@pytest.mark.parametrize(("one", "two"), pairs())
async def test_a_lost_publisher_resets_groups_and_subscriptions_with_0(
    world: World, one: Version, two: Version
) -> None:
    publisher, viewer = await couple(world, one, two)
    watching = viewer.watch()
    number, stream = viewer.subscribe("p")
    _, request = await upstream(publisher)
    publisher.group(request.id, 0, b"a", fin=False)
    await settle()
    publisher.session.fail()
    await settle()
    (group,) = viewer.groups(number)
    assert group.resets == [0]
    assert stream.resets == [0]
    assert watching.paths == []
    assert not viewer.closed
    assert [a for a in actors() if a.startswith(("track", "broadcast"))] == []


@pytest.mark.parametrize("version", ALL)
async def test_a_withdrawn_broadcast_goes_on_for_those_who_watch_it(world: World, version: Version) -> None:
    publisher, viewer = await couple(world, version, Version.LITE_04)
    number, stream = viewer.subscribe("p")
    upstream_, request = await upstream(publisher)
    publisher.unpublish("p")
    await settle()
    publisher.group(request.id, 0, b"a")
    await settle()
    assert [group.payloads for group in viewer.groups(number)] == [[b"a"]]
    assert not stream.over
    _, fresh = viewer.subscribe("p")
    await settle()
    assert fresh.resets == [54]
    stream.write(fin=True)
    await until(lambda: upstream_.over)
    await settle()
    assert [a for a in actors() if a.startswith("broadcast")] == []


@pytest.mark.parametrize("asked", ["subscribe", "track", "fetch"])
async def test_a_request_the_publisher_never_answers_is_refused_when_it_goes(
    world: World, asked: str
) -> None:
    publisher, viewer = await couple(world, Version.LITE_05, Version.LITE_05)
    if asked == "subscribe":
        _, stream = viewer.subscribe("p")
    elif asked == "track":
        stream = viewer.info("p")
    else:
        stream = viewer.fetch("p", 3)
    await settle()
    assert len(publisher.requests) > 1
    publisher.session.fail()
    await settle()
    assert stream.resets == [0]
    assert [a for a in actors() if a.startswith(("track", "broadcast"))] == []


@pytest.mark.parametrize("asked", ["subscribe", "track", "fetch"])
@pytest.mark.parametrize("how", ["fin", "reset", "close"])
async def test_a_viewer_that_leaves_while_the_publisher_is_silent_leaves_no_track(
    world: World, asked: str, how: str
) -> None:
    publisher, viewer = await couple(world, Version.LITE_05, Version.LITE_05)
    if asked == "subscribe":
        _, stream = viewer.subscribe("p")
    elif asked == "track":
        stream = viewer.info("p")
    else:
        stream = viewer.fetch("p", 3)
    await settle()
    if how == "fin":
        if asked != "subscribe":
            return  # the end of such a request is no withdrawal
        stream.write(fin=True)
    elif how == "reset":
        stream.reset(1)
        stream.stop(1)
    else:
        viewer.close()
    await until(lambda: not [a for a in actors() if a.startswith("track")], 1.0)
    await settle()
    assert all(request.over for request in publisher.requests[1:]), "the publisher goes on for nobody"


LOST = m.SessionEvents((SessionClosed(None, "idle timeout", by_peer=False),))
"""Sent to a connection directly: this pass of the dispatcher has nothing else."""


@pytest.mark.parametrize("asked", ["subscribe", "describe", "fetch"])
async def test_a_request_that_reaches_a_publisher_behind_its_stop_is_answered(
    world: World, asked: str
) -> None:
    """The publisher's connection is about to stop: ask again, but not for a fetch."""
    publisher = await world.publisher(Version.LITE_05, "p")
    viewer = FakeSubscriber()
    broadcast = named("broadcast p")
    if asked == "subscribe":
        viewer.subscribe(broadcast, path="p")
    elif asked == "describe":
        viewer.describe(broadcast, path="p")
    else:
        viewer.fetch(broadcast, 3)
    send(publisher.ref, LOST)
    await settle()
    answers = [told for told in viewer.log if isinstance(told, m.PublisherLost | m.Refused)]
    assert [type(told) for told in answers] == [m.Refused if asked == "fetch" else m.PublisherLost]
    halt(viewer.ref)
    await settle()
    assert actors() == ["origin"]


async def test_an_accept_that_reaches_a_viewer_behind_its_stop_leaves_no_subscription(world: World) -> None:
    publisher = await world.publisher(Version.LITE_04, "p")
    for turns in range(8):
        viewer = await world.viewer(Version.LITE_04)
        subscribe = m.Subscribe("p", "video", viewer.ref, 2, 1, Encoding.PLAIN, SubscribeParams(), 0)
        send(named("broadcast p"), subscribe)
        for _ in range(turns):
            await asyncio.sleep(0)
        send(viewer.ref, LOST)
        await until(lambda: not [a for a in actors() if a.startswith("track")], 1.0)
        await settle()
    assert publisher.subscriptions()
    assert not publisher.live_subscriptions()


async def test_data_that_crosses_the_end_of_a_track_does_not_keep_the_subscription(world: World) -> None:
    """A group for a track that has just stopped, and in the same turn the end of another track."""
    publisher, viewer = await couple(world, Version.LITE_04, Version.LITE_04)
    viewer.subscribe("p", "a")
    viewer.subscribe("p", "b")
    first, one = await upstream(publisher, 0)
    _, two = await upstream(publisher, 1)
    publisher.group(one.id, 0, b"x", fin=False)
    await settle()
    streams = publisher.relay.streams
    group = next(s for s in streams if s.unidirectional and s.opened_by_peer)
    replies = [s for s in streams if isinstance(s.context, Subscription)][two.id]
    halt(named("track p a"))
    events = (StreamData(group, publisher.frames(b"y"), fin=False), StreamData(replies, b"", fin=True))
    send(publisher.ref, m.SessionEvents(events))
    await settle()
    assert first.over


@pytest.mark.parametrize("version", ALL)
async def test_a_viewer_whose_source_dies_behind_another_route_keeps_its_stream(
    world: World, version: Version
) -> None:
    """Two routes to one publisher: the path stays, and the subscription moves to the other."""
    lost = await world.viewer(Version.LITE_05)
    lost.publish("p", (7,), origin=1)
    other = await world.viewer(Version.LITE_05)
    other.publish("p", (7, 8), origin=2)
    await settle()
    viewer = await world.viewer(version)
    watching = viewer.watch()
    number, stream = viewer.subscribe("p")
    _, request = await upstream(lost)
    lost.group(request.id, 3, b"a")
    await settle()
    seen = len(watching.read().items)
    lost.session.fail()
    _, request = await upstream(other)
    other.group(request.id, 4, b"b")
    await settle()
    assert not stream.over
    assert [group.payloads for group in viewer.groups(number)] == [[b"a"], [b"b"]]
    assert watching.paths == ["p"]
    kinds = [type(item).__name__ for item in watching.items[seen:]]
    if version <= Version.LITE_04:
        assert kinds == []
    elif version == Version.LITE_05:
        assert kinds == ["AnnounceActive"]
    else:
        assert kinds == ["AnnounceUpdate"]


# --- the end of a track ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("one", "two"), pairs())
async def test_the_end_of_a_track_reaches_the_viewer_after_its_groups(
    world: World, one: Version, two: Version
) -> None:
    publisher, viewer = await couple(world, one, two)
    number, stream = viewer.subscribe("p")
    upstream_, request = await upstream(publisher)
    publisher.accept(upstream_, 3)
    group = publisher.group(request.id, 3, b"a", fin=False)
    await settle()
    for subscription, _ in publisher.live_subscriptions():  # on 06 two, while this group lasts
        publisher.end_track(subscription, 4)
    await settle()
    assert not stream.over
    group.write(publisher.frames((0, b"b")), fin=True)
    await until(lambda: stream.over)
    await settle()
    assert (stream.fins, stream.resets) == (1, [])
    (received,) = viewer.groups(number)
    assert received.payloads == [b"a", b"b"]
    if two >= Version.LITE_05:
        assert viewer.replies(stream) == [SubscribeOk(group=3), SubscribeEnd(4)]
    viewer.own[-1].write(fin=True)


@pytest.mark.parametrize(("one", "two"), pairs())
async def test_a_publisher_that_finishes_and_leaves_ends_the_track_cleanly(
    world: World, one: Version, two: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "LATE_AT_LEAST", 60.0)
    publisher, viewer = await couple(world, one, two)
    number, stream = viewer.subscribe("p")
    upstream_, request = await upstream(publisher)
    publisher.group(request.id, 3, b"a")
    await settle()
    publisher.end_track(upstream_, 4)
    await settle()
    publisher.close()
    await until(lambda: stream.over)
    await settle()
    assert (stream.fins, stream.resets) == (1, [])
    assert [group.payloads for group in viewer.groups(number)] == [[b"a"]]


@pytest.mark.parametrize("version", ALL)
async def test_groups_that_never_came_are_named_before_the_end(world: World, version: Version) -> None:
    publisher, viewer = await couple(world, Version.LITE_05, version)
    _, stream = viewer.subscribe("p")
    upstream_, request = await upstream(publisher)
    publisher.accept(upstream_, 3)
    publisher.group(request.id, 3, b"a")
    publisher.group(request.id, 5, b"c")
    publisher.end_track(upstream_, 8)
    await until(lambda: stream.over)
    await settle()
    drops = [reply for reply in viewer.replies(stream) if isinstance(reply, SubscribeDrop)]
    expected = [] if version <= Version.LITE_02 else [(4, 4), (6, 7)]
    assert [(drop.start, drop.end) for drop in drops] == expected
    assert stream.fins == 1


@pytest.mark.parametrize("version", [v for v in Version if v >= Version.LITE_03])
async def test_a_subscription_with_an_end_ends_there(world: World, version: Version) -> None:
    publisher, viewer = await couple(world, version, version)
    number, stream = viewer.subscribe("p", end_group=4)
    _, request = await upstream(publisher)
    publisher.group(request.id, 3, b"a")
    publisher.group(request.id, 4, b"b")
    await until(lambda: stream.over)
    publisher.group(request.id, 5, b"c")
    await settle()
    assert [group.payloads for group in viewer.groups(number)] == [[b"a"], [b"b"]]
    assert (stream.fins, stream.resets) == (1, [])
    if version >= Version.LITE_05:
        assert viewer.replies(stream) == [SubscribeOk(group=3), SubscribeEnd(5)]


@pytest.mark.parametrize("version", TIMED)
async def test_a_track_without_groups_ends_with_zero(world: World, version: Version) -> None:
    publisher, viewer = await couple(world, version, version)
    _, stream = viewer.subscribe("p")
    upstream_, _ = await upstream(publisher)
    publisher.end_track(upstream_, 0)
    await settle()
    assert viewer.replies(stream) == [SubscribeEnd(0)]
    assert stream.fins == 1


async def test_a_track_that_is_over_is_delivered_at_once() -> None:
    world = World(Limits(track_idle=0.3))  # the second subscription needs the same track
    publisher, viewer = await couple(world, Version.LITE_06, Version.LITE_06)
    viewer.subscribe("p")
    upstream_, request = await upstream(publisher)
    publisher.group(request.id, 0, b"a")
    publisher.end_track(upstream_, 1)
    await settle()
    number, stream = viewer.subscribe("p")
    await until(lambda: stream.over)
    assert viewer.replies(stream) == [SubscribeOk(group=0), SubscribeEnd(1)]
    assert [group.payloads for group in viewer.groups(number)] == [[b"a"]]
    assert stream.fins == 1
    await world.close()


@pytest.mark.parametrize("version", ALL)
async def test_the_last_sequence_number_of_all_kills_nobody(world: World, version: Version) -> None:
    publisher, viewer = await couple(world, Version.LITE_04, version)
    _, stream = viewer.subscribe("p")
    upstream_, request = await upstream(publisher)
    publisher.group(request.id, BIG, b"a")
    publisher.end_track(upstream_, 0)
    await until(lambda: stream.over or viewer.closed)
    await settle()
    assert not viewer.closed
    assert not publisher.closed


# --- group errors ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("one", "two"), pairs())
async def test_a_group_reset_upstream_is_reset_downstream(world: World, one: Version, two: Version) -> None:
    publisher, viewer = await couple(world, one, two)
    number, stream = viewer.subscribe("p")
    _, request = await upstream(publisher)
    group = publisher.group(request.id, 0, b"a", fin=False)
    await settle()
    group.reset(52)
    publisher.group(request.id, 1, b"b")
    await settle()
    first, second = viewer.groups(number)
    assert first.resets == [0 if min(one, two) <= Version.LITE_02 else 52]
    assert second.payloads == [b"b"]
    assert not stream.over


async def test_application_codes_pass_through(world: World) -> None:
    publisher, viewer = await couple(world, Version.LITE_06, Version.LITE_03)
    number, stream = viewer.subscribe("p")
    upstream_, request = await upstream(publisher)
    group = publisher.group(request.id, 0, b"a", fin=False)
    await settle()
    group.reset(71)
    await settle()
    upstream_.reset(69)
    await settle()
    assert viewer.groups(number)[0].resets == [71]
    assert stream.resets == [69]


@pytest.mark.parametrize("version", ALL)
async def test_a_group_for_an_unknown_subscription_is_refused(world: World, version: Version) -> None:
    publisher = await world.publisher(version, "p")
    group = publisher.group(77, 0, b"a", fin=False)
    await settle()
    assert group.stops == [0 if version <= Version.LITE_02 else 1]
    assert not publisher.closed


@pytest.mark.parametrize("version", ALL)
async def test_a_group_cut_inside_a_frame_is_aborted(world: World, version: Version) -> None:
    publisher, viewer = await couple(world, version, Version.LITE_06)
    number, stream = viewer.subscribe("p")
    _, request = await upstream(publisher)
    header = group_header(version, GroupHeader(request.id, 0))
    publisher.uni(header + publisher.frames(b"x" * 20)[:-5], fin=True)
    publisher.group(request.id, 1, b"b")
    await settle()
    groups = viewer.groups(number)
    assert [group.resets for group in groups[:-1]] in ([], [[55]])
    assert groups[-1].payloads == [b"b"]
    assert not publisher.closed
    assert not stream.over


async def test_a_second_stream_for_a_group_does_not_mix_with_the_first(world: World) -> None:
    """Both arrive in one turn, the first one complete."""
    publisher, viewer = await couple(world, Version.LITE_04, Version.LITE_04)
    number, _ = viewer.subscribe("p")
    _, request = await upstream(publisher)
    publisher.group(request.id, 0, b"real")
    publisher.group(request.id, 0, b"copy", fin=False)
    await settle()
    (group,) = viewer.groups(number)
    assert group.payloads == [b"real"]
    assert group.fins == 1


async def test_a_frame_above_the_limit_aborts_its_group_only() -> None:
    world = World(Limits(frame=1_000, track_idle=0.01))
    publisher, viewer = await couple(world, Version.LITE_04, Version.LITE_06)
    number, stream = viewer.subscribe("p")
    _, request = await upstream(publisher)
    big = publisher.group(request.id, 0, b"ok", b"x" * 2_000, fin=False)
    await settle()
    publisher.group(request.id, 1, b"fine")
    await settle()
    assert big.stops == [56]
    assert viewer.groups(number)[-1].payloads == [b"fine"]
    assert not stream.over
    assert not publisher.closed
    await world.close()


@pytest.mark.parametrize("version", ALL)
async def test_a_group_the_viewer_stops_is_not_written_any_more(world: World, version: Version) -> None:
    publisher, viewer = await couple(world, Version.LITE_05, version)
    number, _ = viewer.subscribe("p")
    _, request = await upstream(publisher)
    group = publisher.group(request.id, 0, b"a", fin=False)
    await settle()
    viewer.groups(number)[0].stop(1)
    await settle()
    group.write(publisher.frames(b"b"))
    publisher.group(request.id, 1, b"c")
    await settle()
    assert viewer.groups(number)[0].payloads == [b"a"]
    assert viewer.groups(number)[1].payloads == [b"c"]


async def test_a_drop_message_is_read_and_changes_nothing(world: World) -> None:
    for version in (Version.LITE_03, Version.LITE_06):
        publisher, viewer = await couple(world, version, Version.LITE_04, f"p{version}")
        number, stream = viewer.subscribe(f"p{version}")
        upstream_, request = await upstream(publisher)
        upstream_.write(SubscribeDrop(3, 4, 5).encode(version))
        publisher.group(request.id, 5, b"a")
        await settle()
        assert len(viewer.groups(number)) == 1
        assert not stream.over


# --- params --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [v for v in Version if v >= Version.LITE_03])
async def test_an_update_is_forwarded(world: World, version: Version) -> None:
    publisher, viewer = await couple(world, version, version)
    _, stream = viewer.subscribe("p", priority=3, max_latency=100)
    upstream_, request = await upstream(publisher)
    # before 06 the latency limits lateness: a relay takes what it would cache
    least = 0 if version >= Version.LITE_06 else 5_000
    assert (request.priority, request.max_latency) == (3, max(100, least))
    stream.write(SubscribeUpdate(priority=20, max_latency=9_000).encode(version))
    await settle()
    assert upstream_.messages[1:] == [SubscribeUpdate(priority=20, max_latency=9_000)]


@pytest.mark.parametrize("version", [v for v in Version if v >= Version.LITE_03])
async def test_an_update_right_behind_its_subscription_is_not_lost(world: World, version: Version) -> None:
    publisher, viewer = await couple(world, version, version)
    _, stream = viewer.subscribe("p", priority=3)
    stream.write(SubscribeUpdate(priority=20).encode(version))
    upstream_, request = await upstream(publisher)
    priorities = [request.priority, *(update.priority for update in upstream_.messages[1:])]
    assert priorities[-1] == 20


@pytest.mark.parametrize("version", [v for v in Version if v >= Version.LITE_03])
async def test_an_update_that_a_publisher_cannot_tell_from_the_last_is_not_sent(
    world: World, version: Version
) -> None:
    """05 has latencies that 06 does not, and 03 to 05 get five seconds at least."""
    publisher, viewer = await couple(world, version, Version.LITE_05)
    _, stream = viewer.subscribe("p", priority=3, max_latency=100)
    upstream_, _ = await upstream(publisher)
    for latency in (200, 300):
        stream.write(SubscribeUpdate(priority=3, max_latency=latency).encode(Version.LITE_05))
        await settle()
    assert len(upstream_.messages) == 1
    stream.write(SubscribeUpdate(priority=4, max_latency=300).encode(Version.LITE_05))
    await settle()
    assert [update.priority for update in upstream_.messages[1:]] == [4]


async def test_updates_do_not_reach_publishers_that_have_none(world: World) -> None:
    publisher, viewer = await couple(world, Version.LITE_02, Version.LITE_04)
    _, stream = viewer.subscribe("p", priority=3)
    upstream_, _ = await upstream(publisher)
    stream.write(SubscribeUpdate(priority=20).encode(Version.LITE_04))
    await settle()
    assert len(upstream_.messages) == 1
    assert not publisher.closed


async def test_upstream_of_06_is_asked_for_no_more_history_than_the_viewer_wants(world: World) -> None:
    for version, expected in [(Version.LITE_01, 0), (Version.LITE_04, 0), (Version.LITE_06, 2_500)]:
        publisher, viewer = await couple(world, Version.LITE_06, version, f"p{version}")
        viewer.subscribe(f"p{version}", max_latency=2_500)
        _, request = await upstream(publisher)
        assert request.max_latency == expected


async def test_06_a_floor_alone_asks_for_nothing_of_the_past(world: World) -> None:
    """`group_start` is a floor and max age alone asks for history: with 0 the latest group is the first."""
    publisher, viewer = await couple(world, Version.LITE_06, Version.LITE_06)
    viewer.subscribe("p")
    _, request = await upstream(publisher)
    for sequence in range(6):
        publisher.group(request.id, sequence, b"%d" % sequence)
        await settle()
    number, _ = viewer.subscribe("p", start_group=2, max_latency=0)
    await settle()
    assert [group.header.sequence for group in viewer.groups(number) if group.header] == [5]


@pytest.mark.parametrize("version", [Version.LITE_03, Version.LITE_04, Version.LITE_05])
async def test_03_to_05_a_start_group_is_served_from_the_cache(world: World, version: Version) -> None:
    publisher, viewer = await couple(world, Version.LITE_04, version)
    viewer.subscribe("p")
    _, request = await upstream(publisher)
    for sequence in range(6):
        publisher.group(request.id, sequence, b"%d" % sequence)
        await settle()
    number, _ = viewer.subscribe("p", start_group=3, end_group=4)
    await settle()
    assert [group.header.sequence for group in viewer.groups(number) if group.header] == [3, 4]


async def test_a_start_beyond_all_numbers_kills_no_publisher(world: World) -> None:
    for version in (Version.LITE_03, Version.LITE_05, Version.LITE_06):
        publisher, viewer = await couple(world, version, Version.LITE_06, f"p{version}")
        viewer.subscribe(f"p{version}", start_group=BIG)
        await settle()
        assert not publisher.closed
        assert not viewer.closed


async def test_a_path_too_deep_for_the_publishers_root_kills_no_publisher(world: World) -> None:
    publisher = await world.viewer(Version.LITE_06)
    publisher.publish("room", origin=5)
    viewer = await world.viewer(Version.LITE_05, permissions=Permissions("room", (), ("",)))
    deep = "/".join("x" * 32)
    streams = [viewer.subscribe(deep)[1], viewer.info(deep), viewer.fetch(deep, 0)]
    await settle()
    assert not publisher.closed
    assert all(len(stream.resets) == 1 for stream in streams)


async def test_06_frame_bounds_travel(world: World) -> None:
    publisher, viewer = await couple(world, Version.LITE_06, Version.LITE_06)
    viewer.subscribe("p")
    _, request = await upstream(publisher)
    publisher.group(request.id, 0, (5, b"a"), (6, b"b"), (7, b"c"))
    await settle()
    number, _ = viewer.subscribe("p", end_group=0, start_frame=1, end_frame=1)
    await settle()
    (group,) = viewer.groups(number)
    assert group.header == GroupHeader(number, 0, 1)
    assert group.frames == [(6, b"b")]
    assert group.fins == 1


async def test_06_an_end_frame_without_an_end_group_refuses_the_request_only(world: World) -> None:
    _, viewer = await couple(world, Version.LITE_06, Version.LITE_06)
    body = Subscribe(0, "p", "video").encode(Version.LITE_06)
    stream = viewer.bidi(b"\x02" + body[:-1] + b"\x03")
    await settle()
    assert stream.resets == [1]
    assert not viewer.closed


# --- properties, fetch, datagrams ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("one", "two"), pairs(twos=TIMED))
async def test_track_info_is_carried_over_or_made_up(world: World, one: Version, two: Version) -> None:
    publisher, viewer = await couple(world, one, two)
    stream = viewer.info("p")
    await settle()
    info = TrackInfo(5, ordered=False, max_latency=77, timescale=90_000)
    publisher.answer_tracks(info)
    await settle()
    expected = info if one >= Version.LITE_05 else TrackInfo(127, False, 5_000, 1_000_000)
    assert stream.data == expected.encode(two)
    assert stream.fins == 1
    viewer.subscribe("p")
    await settle()
    assert len(publisher.track_requests()) == (one >= Version.LITE_05)


@pytest.mark.parametrize("version", TIMED)
async def test_fetch_from_the_cache_and_from_upstream(world: World, version: Version) -> None:
    publisher, viewer = await couple(world, version, version)
    viewer.subscribe("p")
    _, request = await upstream(publisher)
    publisher.group(request.id, 4, (5, b"a"), (6, b"b"))
    await settle()
    cached = viewer.fetch("p", 4)
    await settle()
    assert cached.data == timed((5, b"a"), (6, b"b"))
    assert cached.fins == 1
    far = viewer.fetch("p", 1)
    await settle()
    ((stream, asked),) = publisher.fetches()
    assert (asked.group, asked.broadcast, asked.track) == (1, "p", "video")
    stream.write(timed((1, b"old")), fin=True)
    await settle()
    assert far.data == timed((1, b"old"))
    assert far.fins == 1


@pytest.mark.parametrize("one", ALL)
async def test_fetch_of_an_unknown_group_is_refused(world: World, one: Version) -> None:
    publisher, viewer = await couple(world, one, Version.LITE_06)
    stream = viewer.fetch("p", 4)
    await settle()
    for asked, _ in publisher.fetches():
        asked.reset(51)
    await settle()
    assert stream.resets == [51]


@pytest.mark.parametrize(("one", "two"), pairs(TIMED))
async def test_datagrams_reach_05_and_06(world: World, one: Version, two: Version) -> None:
    publisher, viewer = await couple(world, one, two)
    bounds = {"end_group": 2} if two >= Version.LITE_03 else {}
    numbers = [viewer.subscribe("p", "video", **some)[0] for some in ({}, bounds)]
    _, request = await upstream(publisher)
    publisher.session.send_datagram(Datagram(request.id, 9, 500, b"DG").encode(one))
    publisher.session.send_datagram(Datagram(request.id + 50, 9, 500, b"DG").encode(one))
    publisher.session.send_datagram(b"\xff")
    await settle()
    if two >= Version.LITE_05:
        assert sorted(viewer.datagrams) == [Datagram(n, 9, 500, b"DG").encode(two) for n in numbers]
    else:
        assert not viewer.datagrams
    assert not publisher.closed


@pytest.mark.parametrize("version", UNTIMED)
async def test_datagrams_of_older_peers_are_ignored(world: World, version: Version) -> None:
    publisher, _ = await couple(world, version, Version.LITE_05)
    publisher.session.send_datagram(b"\x00\x00\x00x")
    await settle()
    assert not publisher.closed


# --- slow viewers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ALL)
async def test_a_slow_viewer_skips_to_the_newest_groups(version: Version) -> None:
    world = World(Limits(track_idle=0.01, backlog_time=0.0))
    publisher, slow = await couple(world, Version.LITE_04, version)
    quick = await world.viewer(version)
    number, stream = slow.subscribe("p")
    other, _ = quick.subscribe("p")
    _, request = await upstream(publisher)
    slow.session.pause()
    for sequence in range(20):
        publisher.group(request.id, sequence, b"%d" % sequence * 1_000)
        await settle()
    queued = [s for s in slow.relay.streams if s.unsent]
    assert len(queued) <= 3
    slow.session.resume()
    publisher.group(request.id, 20, b"last")
    await settle()
    assert len(quick.groups(other)) == 21
    received = [group for group in slow.groups(number) if group.fins]
    assert received[-1].payloads == [b"last"]
    assert len(received) <= 4
    assert not stream.over
    assert not slow.closed
    await world.close()


async def test_a_slow_viewer_of_one_huge_group_is_cut_off_and_goes_on_with_the_next() -> None:
    world = World(Limits(track_idle=0.01, backlog_bytes=10_000))
    publisher, slow = await couple(world, Version.LITE_04, Version.LITE_05)
    number, _ = slow.subscribe("p")
    _, request = await upstream(publisher)
    group = publisher.group(request.id, 0, b"x", fin=False)
    await settle()
    slow.session.pause()
    for _ in range(5):
        group.write(publisher.frames(b"y" * 5_000))
        await settle()
    publisher.group(request.id, 1, b"next")
    await settle()
    slow.session.resume()
    await settle()
    first, second = slow.groups(number)
    assert first.resets == [5]
    assert second.payloads == [b"next"]
    await world.close()


async def test_a_burst_within_the_backlog_time_is_delivered_whole() -> None:
    world = World(Limits(track_idle=0.01, backlog_time=60))
    publisher, slow = await couple(world, Version.LITE_04, Version.LITE_05)
    number, _ = slow.subscribe("p")
    _, request = await upstream(publisher)
    slow.session.pause()
    for sequence in range(30):
        publisher.group(request.id, sequence, b"x")
        await settle()
    slow.session.resume()
    await settle()
    assert [group.payloads for group in slow.groups(number)] == [[b"x"]] * 30
    await world.close()
