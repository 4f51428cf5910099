"""Limits of one session, exceeded by a real one while others are served.

Limits of groups and caches are in `test_track.py` and `test_cache_budget.py`, those of slow viewers in
`test_slow_viewers.py`.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from typing import Any

import pytest

from relay.actors.connection import ConnectionActor
from relay.actors.environment import RELAY_FACTOR
from relay.actors.fetches import Fetch
from relay.model.limits import Limits
from relay.model.pace import EPISODE
from relay.wire.announce import AnnounceRequest
from relay.wire.control import TrackInfo
from relay.wire.errors import OldCode, SessionCode, StreamCode
from relay.wire.frame import GroupHeader, group_header
from relay.wire.subscribe import SubscribeDrop, SubscribeUpdate
from relay.wire.varint import encode_varint
from relay.wire.version import Version
from tests.actors.raw_peer import PeerStream, RawPeer, follow_up, upstream
from tests.actors.watching import actor_of, actors, named
from tests.actors.world import CLUSTER, World
from tests.clock import RUNTIME, advance, ready_count, run_virtual, settle, timer_count, until
from tests.sampling import ALL

UPDATING = [version for version in ALL if version >= Version.LITE_03]
TIMED = [Version.LITE_05, Version.LITE_06]


class Pair:
    """A publisher and a viewer within every limit: each group must arrive."""

    def __init__(self, publisher: RawPeer, viewer: RawPeer, number: int, upstream_id: int) -> None:
        self._publisher, self._viewer = publisher, viewer
        self._number, self._upstream_id = number, upstream_id
        self._sequences = itertools.count()

    @classmethod
    async def of(cls, world: World) -> Pair:
        publisher = await world.publisher(Version.LITE_05, "good")
        viewer = await world.viewer(Version.LITE_05)
        number, _ = viewer.subscribe("good")
        _, request = await upstream(publisher)
        return cls(publisher, viewer, number, request.id)

    async def works(self) -> None:
        """One more group arrives, and none before it is missing."""
        sequence = next(self._sequences)
        self._publisher.group(self._upstream_id, sequence, b"good", b"frames")
        await settle()
        groups = self._viewer.groups(self._number)
        assert [g.header.sequence for g in groups if g.header] == list(range(sequence + 1))
        assert all(g.payloads == [b"good", b"frames"] and g.fins == 1 for g in groups)
        assert not self._publisher.closed
        assert not self._viewer.closed


def connection(peer: RawPeer) -> ConnectionActor:
    """Its counts outlive the actor."""
    found: ConnectionActor = actor_of(peer.ref)
    return found


def over_limit(caplog: pytest.LogCaptureFixture, limit: str) -> list[str]:
    """The log lines of that limit."""
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    return [line for line in lines if f"over limit limit={limit} " in line]


# --- control messages ------------------------------------------------------------------------------------------------

Storm = Callable[[RawPeer], Any]


def subscribe_and_leave(peer: RawPeer) -> None:
    peer.subscribe("good", "other")[1].write(fin=True)


def reset_last(peer: RawPeer) -> None:
    """Not the stream of this turn, which the relay would never see."""
    for stream in peer.own[1:]:
        stream.reset()
    del peer.own[1:]


def subscribe_and_reset(peer: RawPeer) -> None:
    reset_last(peer)
    peer.subscribe("good")


def update(peer: RawPeer) -> None:
    stream = next((s for s in peer.own if getattr(s, "flood", False)), None)
    if stream is None:
        stream = peer.subscribe("good")[1]
        stream.flood = True  # type: ignore[attr-defined]
    stream.write(SubscribeUpdate(priority=1).encode(peer.version))


def flap(peer: RawPeer) -> None:
    peer.publish("flap")
    peer.unpublish("flap")


def open_and_close(peer: RawPeer) -> None:
    peer.bidi(b"", fin=True)


def look_around(peer: RawPeer) -> None:
    peer.request(AnnounceRequest("x"), fin=True)


def open_unknown(peer: RawPeer) -> None:
    peer.bidi(b"\x3f")


def ask_and_reset(peer: RawPeer) -> None:
    reset_last(peer)
    peer.info("good")


STORMS = [subscribe_and_leave, subscribe_and_reset, flap, open_and_close, look_around, open_unknown]


@pytest.mark.parametrize(
    ("version", "storm"),
    [
        *((version, storm) for version in (Version.LITE_01, Version.LITE_06) for storm in STORMS),
        *((version, update) for version in UPDATING),
        *((version, ask_and_reset) for version in TIMED),
    ],
)
async def test_a_storm_of_control_messages_ends_its_session_alone(
    version: Version, storm: Storm, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(Limits(track_idle=0.01, control_rate=1, control_burst=60))
    pair = await Pair.of(world)
    await pair.works()
    peer = await world.viewer(version)
    counts = connection(peer)._context.counts
    for _ in range(20):
        storm(peer)
        await settle()
    assert not peer.closed
    assert ("refused", "control_rate") not in counts
    for _ in range(60):
        storm(peer)
        await settle()
    wanted = OldCode.BOUNDS_EXCEEDED if version <= Version.LITE_02 else SessionCode.TOO_MANY_REQUEST_UPDATES
    assert [closed.code for closed in peer.closed] == [wanted]
    assert "control messages a second" in peer.closed[0].reason
    assert counts["refused", "control_rate"] == 1
    (line,) = over_limit(caplog, "control_rate")
    assert line.startswith(f"[session {world._numbers}] over limit limit=control_rate value=1 ")
    await pair.works()
    await world.close()


@pytest.mark.virtual
async def test_a_rate_that_is_allowed_is_allowed_for_ever() -> None:
    world = World(Limits(track_idle=0.01, control_rate=10, control_burst=20))
    peer = await world.viewer(Version.LITE_06)
    for _ in range(50):
        for _ in range(10):
            peer.info("nobody")
        await advance(1.0)
    assert not peer.closed
    await world.close()


async def test_replies_of_a_publisher_are_control_messages_too() -> None:
    world = World(Limits(track_idle=0.01, control_rate=1, control_burst=60))
    pair = await Pair.of(world)
    publisher = await world.publisher(Version.LITE_06, "p")
    counts = connection(publisher)._context.counts
    viewer = await world.viewer(Version.LITE_06)
    _, asked = viewer.subscribe("p")
    stream, _ = await upstream(publisher)
    for _ in range(60):
        stream.write(SubscribeDrop(1, 2, 0).encode(Version.LITE_06))
    await settle()
    assert [closed.code for closed in publisher.closed] == [SessionCode.TOO_MANY_REQUEST_UPDATES]
    assert counts["refused", "control_rate"] == 1
    assert asked.over
    assert not viewer.closed
    await pair.works()
    await world.close()


async def test_another_relay_may_send_more() -> None:
    world = World(Limits(track_idle=0.01, control_rate=1, control_burst=10))
    peer = await world.viewer(Version.LITE_06, permissions=CLUSTER)
    for _ in range(10 * (RELAY_FACTOR - 1)):
        peer.info("nobody")
    await settle()
    assert not peer.closed
    for _ in range(2 * 10):
        peer.info("nobody")
    await settle()
    assert [closed.code for closed in peer.closed] == [SessionCode.TOO_MANY_REQUEST_UPDATES]
    await world.close()


async def test_another_relay_is_trusted_with_the_cost_of_its_packets() -> None:
    world = World()
    for permissions in (CLUSTER, None):
        options = {} if permissions is None else {"permissions": permissions}
        peer = await world.viewer(Version.LITE_06, **options)
        assert peer.relay.trusted is (permissions is CLUSTER)
    await world.close()


async def test_ten_storms_one_after_the_other_leave_nothing() -> None:
    world = World(Limits(track_idle=0.01, control_rate=1, control_burst=20))
    pair = await Pair.of(world)
    await settle()
    before = sorted(actors()), timer_count()
    for _ in range(10):
        peer = await world.viewer(Version.LITE_06)
        for _ in range(40):
            peer.subscribe("good")
        await settle()
        assert peer.closed
    await pair.works()
    assert (sorted(actors()), timer_count()) == before
    assert not ready_count()
    await world.close()


# --- paths -----------------------------------------------------------------------------------------------------------

LONG = "x" * 101
DEEP = "/".join("x" * 33)


def deep(peer: RawPeer, stream_type: int) -> PeerStream:
    """With a path that our own codec refuses to write."""
    body = b"\x00" + encode_varint(len(DEEP)) + DEEP.encode() + bytes(8)
    return peer.bidi(encode_varint(stream_type) + encode_varint(len(body)) + body)


@pytest.mark.parametrize("version", TIMED)
async def test_requests_with_long_paths_are_refused(
    version: Version, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(Limits(track_idle=0.01, path=100))
    pair = await Pair.of(world)
    peer = await world.viewer(version)
    refused = [
        peer.subscribe(LONG)[1],
        peer.subscribe("good", LONG)[1],
        peer.info(LONG),
        peer.fetch(LONG, 0),
        peer.watch(LONG).stream,
        deep(peer, 2),
    ]
    fits = peer.watch("x" * 100).stream
    await settle()
    assert [stream.resets for stream in refused[:-1]] == [[StreamCode.UNROUTABLE]] * 5
    assert refused[-1].resets == [StreamCode.CANCELLED]
    assert not fits.over
    assert not peer.closed
    assert connection(peer)._context.counts["refused", "path"] == 6
    assert len(over_limit(caplog, "path")) == 1
    await pair.works()
    await world.close()


@pytest.mark.parametrize("version", ALL)
async def test_an_announcement_with_a_long_path_ends_its_session(version: Version) -> None:
    world = World(Limits(track_idle=0.01, path=100))
    pair = await Pair.of(world)
    peer = await world.publisher(version, "x" * 100)
    counts = connection(peer)._context.counts
    assert not peer.closed
    peer.publish(LONG)
    await settle()
    old = version <= Version.LITE_02
    wanted = OldCode.PROTOCOL_VIOLATION if old else SessionCode.PROTOCOL_VIOLATION
    assert [closed.code for closed in peer.closed] == [wanted]
    assert peer.closed[0].reason == "a path of 101 bytes, at most 100 are allowed"
    assert counts["refused", "path"] == 1
    await pair.works()
    await world.close()


async def test_a_link_of_the_cluster_outlives_a_long_path() -> None:
    world = World(Limits(track_idle=0.01, path=100))
    peer = await world.publisher(Version.LITE_06, "p", LONG, permissions=CLUSTER, origin=5)
    viewer = await world.viewer(Version.LITE_06)
    seen = viewer.watch()
    await settle()
    assert seen.paths == ["p"]
    peer.unpublish(LONG)
    await settle()
    assert not peer.closed
    assert connection(peer)._context.counts["refused", "path"] == 1
    await world.close()


# --- announced sizes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ALL)
async def test_a_giant_message_ends_its_session_before_it_is_waited_for(version: Version) -> None:
    world = World(Limits(track_idle=0.01))
    pair = await Pair.of(world)
    peer = await world.viewer(version)
    counts = connection(peer)._context.counts
    peer.bidi(b"\x02" + encode_varint(1 << 40))
    await settle()
    wanted = OldCode.BOUNDS_EXCEEDED if version <= Version.LITE_02 else SessionCode.PROTOCOL_VIOLATION
    assert [closed.code for closed in peer.closed] == [wanted]
    assert counts["refused", "message"] == 1
    await pair.works()
    await world.close()


async def test_giant_frames_end_their_groups_and_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    world = World(Limits(track_idle=0.01))
    pair = await Pair.of(world)
    publisher = await world.publisher(Version.LITE_04, "p")
    viewer = await world.viewer(Version.LITE_04)
    number, _ = viewer.subscribe("p")
    _, request = await upstream(publisher)
    header = group_header(Version.LITE_04, GroupHeader(request.id, 0))
    giants = [publisher.uni(header + encode_varint(1 << 50))]
    await settle()
    giants.append(
        publisher.uni(group_header(Version.LITE_04, GroupHeader(request.id, 1)) + encode_varint(1 << 50))
    )
    await settle()
    publisher.group(request.id, 2, b"fine")
    await settle()
    assert [giant.stops for giant in giants] == [[StreamCode.FRAME_TOO_LARGE]] * 2
    assert connection(publisher)._context.counts["refused", "frame"] == 2
    assert len(over_limit(caplog, "frame")) == 1
    assert viewer.groups(number)[-1].payloads == [b"fine"]
    await pair.works()
    await world.close()


# --- the log ---------------------------------------------------------------------------------------------------------


@pytest.mark.virtual
async def test_a_limit_is_logged_once_in_an_episode(caplog: pytest.LogCaptureFixture) -> None:
    world = World(Limits(track_idle=0.01, subscriptions=1, answer_timeout=60))
    await world.publisher(Version.LITE_04, "p")
    peer = await world.viewer(Version.LITE_05)
    peer.subscribe("p", "kept")
    for name in "abc":
        peer.subscribe("p", name)
    await settle()
    (line,) = over_limit(caplog, "subscriptions")
    assert line == "[session 2] over limit limit=subscriptions value=1 path=p"
    await advance(EPISODE)
    peer.subscribe("p", "d")
    await settle()
    assert len(over_limit(caplog, "subscriptions")) == 2
    assert connection(peer)._context.counts["refused", "subscriptions"] == 4
    await world.close()


async def test_tracks_beyond_the_limit_are_logged_with_who_asked(caplog: pytest.LogCaptureFixture) -> None:
    world = World(Limits(track_idle=0.01, tracks=1))
    await world.publisher(Version.LITE_04, "p")
    peer = await world.viewer(Version.LITE_05)
    streams = [peer.subscribe("p", name)[1] for name in "abc"]
    await settle()
    assert [stream.resets for stream in streams] == [[], [StreamCode.NO_CAPACITY], [StreamCode.NO_CAPACITY]]
    assert over_limit(caplog, "tracks") == ["[session 2] [broadcast p] over limit limit=tracks value=1"]
    await world.close()


# --- the inbox -------------------------------------------------------------------------------------------------------


async def test_a_session_for_which_too_much_waits_is_closed(caplog: pytest.LogCaptureFixture) -> None:
    world = World(Limits(track_idle=0.01, inbox=100))
    pair = await Pair.of(world)
    publisher = await world.publisher(Version.LITE_06)
    greedy, modest = await world.viewer(Version.LITE_06), await world.viewer(Version.LITE_06)
    actor = connection(greedy)
    counts, inbox = actor._context.counts, actor.inbox  # an ended actor has neither
    for _ in range(10):
        greedy.watch()
    seen = modest.watch()
    await settle()
    for number in range(50):
        publisher.publish(f"flood/{number}")
    await settle()
    assert [closed.code for closed in greedy.closed] == [SessionCode.INTERNAL]
    assert greedy.closed[0].reason == "too many messages are queued for this session"
    assert counts["refused", "inbox"] == 1
    assert len(over_limit(caplog, "inbox")) == 1
    assert len(inbox) == 0
    assert len(seen.paths) == 51
    assert not publisher.closed
    await pair.works()
    await world.close()


# --- deadlines -------------------------------------------------------------------------------------------------------

PATIENT = Limits(track_idle=0.01, answer_timeout=10.0)


@pytest.mark.parametrize("version", ALL)
def test_a_subscription_that_is_not_answered_is_refused(version: Version) -> None:
    async def scenario() -> None:
        world = World(PATIENT)
        publisher = await world.publisher(version, "p")
        counts = connection(publisher)._context.counts
        viewers = [await world.viewer(v) for v in (Version.LITE_03, Version.LITE_05)]
        asked = [viewer.subscribe("p")[1] for viewer in viewers]
        await advance(9.9)
        assert not any(stream.over for stream in asked)
        await advance(0.2)
        assert [stream.resets for stream in asked] == [[StreamCode.CONTROL_TIMEOUT]] * 2
        assert not any(viewer.closed for viewer in viewers)
        assert counts["refused", "answer_timeout"] >= 1
        assert not publisher.live_subscriptions()  # no state for an unanswered request stays
        assert actors() == sorted(["origin", "broadcast p", "session 1", "session 2", "session 3"])
        await world.close()

    run_virtual(scenario)


@pytest.mark.parametrize("version", ALL)
def test_a_publisher_that_has_answered_may_be_silent_for_long(version: Version) -> None:
    async def scenario() -> None:
        world = World(PATIENT)
        publisher = await world.publisher(version, "p")
        viewer = await world.viewer(Version.LITE_05)
        number, asked = viewer.subscribe("p")
        stream, request = await upstream(publisher)
        if version <= Version.LITE_04:
            publisher.accept(stream)
        await advance(1_000.0)
        assert not asked.over
        publisher.group(request.id, 0, b"at last")
        await settle()
        assert [group.payloads for group in viewer.groups(number)] == [[b"at last"]]
        await world.close()

    run_virtual(scenario)


@pytest.mark.virtual
async def test_a_group_is_an_answer() -> None:
    world = World(PATIENT)
    publisher = await world.publisher(Version.LITE_06, "p")
    viewer = await world.viewer(Version.LITE_05)
    _, asked = viewer.subscribe("p")
    await settle()
    _, request = publisher.subscriptions()[0]  # its TRACK request stays unanswered
    publisher.group(request.id, 0, b"x")
    await advance(100.0)
    assert not asked.over
    described = viewer.info("p")
    await advance(9.9)
    assert not described.over
    await advance(0.2)
    assert described.resets == [StreamCode.CONTROL_TIMEOUT]
    assert not asked.over
    await world.close()


@pytest.mark.virtual
async def test_a_question_about_a_track_that_is_not_answered_is_refused() -> None:
    world = World(PATIENT)
    publisher = await world.publisher(Version.LITE_06, "p")
    viewer = await world.viewer(Version.LITE_06)
    asked = viewer.info("p")
    await advance(9.9)
    assert not asked.over
    await advance(0.2)
    assert asked.resets == [StreamCode.CONTROL_TIMEOUT]
    assert connection(publisher)._context.counts["refused", "answer_timeout"] == 1
    await advance(1.0)
    (stream, _) = publisher.track_requests()[0]
    assert stream.over
    await world.close()


@pytest.mark.virtual
async def test_a_fetch_that_is_not_answered_is_refused_for_all_who_wait() -> None:
    world = World(PATIENT)
    publisher = await world.publisher(Version.LITE_06, "p")
    viewers = [await world.viewer(Version.LITE_05), await world.viewer(Version.LITE_06)]
    asked = [viewer.fetch("p", 7) for viewer in viewers]
    await settle()
    ((flight, _),) = publisher.fetches()  # one for both
    await advance(9.9)
    assert not any(stream.over for stream in asked)
    await advance(0.2)
    assert [stream.resets for stream in asked] == [[StreamCode.CONTROL_TIMEOUT]] * 2
    assert flight.resets == [StreamCode.CANCELLED]
    assert connection(publisher)._context.counts["refused", "answer_timeout"] == 1
    again = viewers[0].fetch("p", 7)
    await settle()
    stream, _ = publisher.fetches()[1]
    stream.write(publisher.frames(b"found"), fin=True)
    await settle()
    assert again.data == publisher.frames(b"found")
    await world.close()


async def test_fetches_that_nobody_waits_for_are_called_off(world: World) -> None:
    publisher = await world.publisher(Version.LITE_06, "p")
    viewer = await world.viewer(Version.LITE_06)
    viewer.subscribe("p")  # keeps the track
    await follow_up(publisher)
    timers = timer_count()
    for sequence in range(100, 120):
        asked = viewer.fetch("p", sequence)
        await settle()
        asked.reset()
        await settle()
    assert len(publisher.fetches()) == 20
    assert all(stream.resets == [StreamCode.CANCELLED] for stream, _ in publisher.fetches())
    assert connection(publisher).ingest._questions == {}
    assert timer_count() == timers


async def test_a_piece_of_a_fetched_group_concerns_nobody_but_who_waits_for_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Viewers choose the number of fetches, and publishers the number of chunks."""
    publisher, viewer = await world.publisher(Version.LITE_06, "p"), await world.viewer(Version.LITE_06)
    viewer.subscribe("p")
    _, request = await upstream(publisher)
    asked = [viewer.fetch("p", 100 + number) for number in range(50)]
    await settle()
    fed: list[Fetch] = []
    feed = Fetch.feed

    def count(waiter: Fetch) -> bool:
        fed.append(waiter)
        return feed(waiter)

    monkeypatch.setattr(Fetch, "feed", count)
    for number, (stream, _) in enumerate(publisher.fetches()):
        publisher.group(request.id, number, b"live")
        stream.write(publisher.frames(b"old"), fin=True)
        await settle()
    assert all(stream.data == publisher.frames(b"old") and stream.fins for stream in asked)
    assert len(fed) <= 100


@pytest.mark.parametrize("version", UPDATING)
async def test_updates_that_a_publisher_does_not_take_are_bounded(version: Version) -> None:
    world = World(Limits(track_idle=0.01, message=2_000))
    pair = await Pair.of(world)
    publisher, viewer = await world.publisher(version, "p"), await world.viewer(Version.LITE_06)
    _, stream = viewer.subscribe("p")
    _, request = await upstream(publisher)
    publisher.group(request.id, 0, b"an answer")
    await settle()
    publisher.session.pause()
    for number in range(1_000):
        stream.write(SubscribeUpdate(priority=number % 100).encode(viewer.version))
        await settle()
        assert sum(stream.unsent for stream in publisher.relay.streams) <= 3_000
        if stream.resets:
            break
    assert stream.resets == [StreamCode.CONTROL_TIMEOUT]
    assert connection(publisher)._context.counts["refused", "message"] == 1
    assert connection(publisher).ingest.count() == 0
    publisher.session.resume()
    await settle()
    assert not publisher.closed
    await pair.works()
    await world.close()


@pytest.mark.parametrize("version", TIMED)
async def test_a_publisher_that_refuses_a_track_owes_no_answers_about_it(
    world: World, version: Version
) -> None:
    """Its other requests are cancelled: it need not answer them."""
    publisher, viewer = await world.publisher(version, "p"), await world.viewer(version)
    for attempt in range(3):
        viewer.subscribe("p")
        viewer.fetch("p", 7)
        await settle()
        publisher.subscriptions()[attempt][0].reset()
        await settle()
    asked = [stream for stream, _ in (*publisher.track_requests(), *publisher.fetches())]
    assert len(asked) == 6
    assert all(stream.over for stream in asked)
    assert connection(publisher).ingest._questions == {}


async def test_what_was_fetched_and_not_taken_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    world = World(Limits(track_idle=0.01, backlog_session=100_000))
    pair = await Pair.of(world)
    publisher = await world.publisher(Version.LITE_06, "p")
    viewer, other = await world.viewer(Version.LITE_06), await world.viewer(Version.LITE_06)
    viewer.session.pause()
    asked = []
    for sequence in range(30):
        asked.append(viewer.fetch("p", sequence))
        await settle()
        stream, _ = publisher.fetches()[-1]
        stream.write(publisher.frames(b"x" * 20_000), fin=True)
        await settle()
        assert sum(stream.unsent for stream in viewer.relay.streams) <= 120_200
    assert connection(viewer)._context.counts["refused", "backlog_session"] >= 20
    assert len(over_limit(caplog, "backlog_session")) == 1
    viewer.session.resume()
    await settle()
    assert {tuple(stream.resets) for stream in asked} == {(), (StreamCode.TOO_FAR_BEHIND,)}
    assert asked[-1].data == publisher.frames(b"x" * 20_000)
    assert len(other.closed) == len(viewer.closed) == 0
    await pair.works()
    await world.close()


async def test_what_is_left_of_subscriptions_that_are_over_is_bounded_too() -> None:
    """Each track ends, or its publisher goes, before the viewer has the last group."""
    world = World(Limits(track_idle=0.01, backlog_session=100_000))
    pair = await Pair.of(world)
    viewer = await world.viewer(Version.LITE_06)
    publishers = [await world.publisher(Version.LITE_06, f"p{number}") for number in range(30)]
    asked = [viewer.subscribe(f"p{number}") for number in range(30)]
    await settle()
    viewer.session.pause()
    for number, publisher in enumerate(publishers):
        stream, request = await upstream(publisher)
        publisher.group(request.id, 0, b"x" * 15_000)
        if number % 2:
            publisher.end_track(stream, 1)
        await settle()
        if number % 2 == 0:
            publisher.close()
        await settle()
        assert sum(stream.unsent for stream in viewer.relay.streams) <= 100_000
    counts = connection(viewer)._context.counts
    assert counts["refused", "backlog_session"] + counts["groups_dropped", "too_far_behind"] >= 20
    viewer.session.resume()
    await until(lambda: connection(viewer).egress.count() == 0)
    await settle()
    (last,) = viewer.groups(asked[-1][0])
    assert last.payloads == [b"x" * 15_000]
    assert not viewer.closed
    await pair.works()
    await world.close()


async def test_groups_that_outlive_their_subscriptions_count_though_they_are_small() -> None:
    world = World(Limits(track_idle=0.01, backlog_session=100_000))
    pair = await Pair.of(world)
    viewer = await world.viewer(Version.LITE_06)
    viewer.session.pause()
    for number in range(100):
        publisher = await world.publisher(Version.LITE_06, f"p{number}")
        viewer.subscribe(f"p{number}")
        _, request = await upstream(publisher)
        publisher.group(request.id, 0, b"x")
        await settle()
        publisher.close()
        await settle()
    assert sum(bool(stream.unsent) for stream in viewer.relay.streams if stream.unidirectional) <= 50
    await pair.works()
    await world.close()


async def test_subscriptions_whose_end_waits_for_their_groups_count() -> None:
    world = World(Limits(track_idle=0.01, subscriptions=50))
    pair = await Pair.of(world)
    publisher, viewer = await world.publisher(Version.LITE_06, "p"), await world.viewer(Version.LITE_06)
    viewer.session.pause()
    streams = []
    for number in range(60):
        streams.append(viewer.subscribe("p", f"t{number}")[1])
        await settle()
        if number < 50:
            stream, request = await upstream(publisher, number)
            publisher.group(request.id, 0, b"x")
            publisher.end_track(stream, 1)
            await settle()
    assert connection(viewer).egress.count() == 50
    viewer.session.resume()
    await until(lambda: connection(viewer).egress.count() == 0)
    await settle()
    assert [stream.fins for stream in streams] == [1] * 50 + [0] * 10
    await pair.works()
    await world.close()


@pytest.mark.parametrize("version", ALL)
@pytest.mark.parametrize("leaves", [False, True])
async def test_announcements_that_are_not_taken_are_bounded(
    version: Version, leaves: bool, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(Limits(track_idle=0.01, backlog_session=50_000))
    pair = await Pair.of(world)
    publisher = await world.publisher(Version.LITE_06)
    viewer, other = await world.viewer(version), await world.viewer(version)
    viewer.session.pause()
    watched, seen = [viewer.watch() for _ in range(3)], other.watch()
    for number in range(50):
        publisher.publish(f"{number}/{'x' * 900}")
        await settle()
        if leaves:  # or leaves before it has read the answer
            viewer.watch().stream.write(fin=True)
        else:
            publisher.unpublish(f"{number}/{'x' * 900}")
        await settle()
        assert sum(stream.unsent for stream in viewer.relay.streams) <= 55_000
    assert connection(viewer)._context.counts["refused", "backlog_session"] >= 2
    assert len(over_limit(caplog, "backlog_session")) == 1
    viewer.session.resume()
    await settle()
    assert any(watching.stream.resets for watching in watched)
    assert len(seen.paths) == (51 if leaves else 1)
    assert not viewer.closed
    await pair.works()
    await world.close()


# --- how long groups stay ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ALL)
@pytest.mark.parametrize(("latency", "age"), [(60_000, 60.0), (2_000, 2.0), (0, 7.0)])
@pytest.mark.virtual
async def test_groups_stay_as_long_as_the_publisher_says(version: Version, latency: int, age: float) -> None:
    """And for our own time if it says 0, or cannot."""
    age = age if version >= Version.LITE_05 else 7.0
    world = World(Limits(track_idle=0.01, cache_age=7.0))
    publisher = await world.publisher(version, "p")
    viewer = await world.viewer(Version.LITE_06)
    viewer.subscribe("p")
    await settle()
    publisher.answer_tracks(TrackInfo(127, ordered=False, max_latency=latency, timescale=1_000_000))
    _, request = await upstream(publisher)
    start = RUNTIME.now()
    for now in (0.0, age - 0.5, age + 0.01):
        await advance(start + now - RUNTIME.now())
        publisher.group(request.id, round(now * 100), b"x")
        await settle()
        kept = [group.sequence for group in actor_of(named("track p video"))._groups.cache]
        assert (0 in kept) is (now < age), now
    await world.close()
