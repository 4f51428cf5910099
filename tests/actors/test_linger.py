"""A lost publisher may return: for a while its broadcast stays, and requests wait for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from relay.actors import messages as m
from relay.actors import origin
from relay.actors.reader import Over, ReaderActor, Reading
from relay.actors.runtime import Ref, ask, halt
from relay.wire.announce import AnnounceEnded
from relay.wire.errors import StreamCode
from relay.wire.subscribe import SubscribeEnd, SubscribeOk, SubscribeUpdate
from relay.wire.version import Version
from tests.actors.fakes import payload_of
from tests.actors.raw_peer import PeerStream, RawPeer, Watching, follow_up
from tests.actors.watching import Trouble, actors
from tests.actors.world import CLUSTER, MEMBERS, World
from tests.clock import RUNTIME, TIMEOUT, advance, settle, timer_count
from tests.sampling import ALL, pairs

TIMED = [Version.LITE_05, Version.LITE_06]
LINGER = 5.0


def missing(version: Version) -> int:
    """The code of a missing broadcast."""
    return 13 if version <= Version.LITE_02 else 54


def kinds(items: Sequence[object]) -> list[str]:
    return [type(item).__name__ for item in items]


async def everybody(
    world: World, path: str = "p"
) -> dict[Version, tuple[RawPeer, Watching, int, PeerStream]]:
    """A viewer of each version, which watches and subscribes."""
    found = {}
    for version in Version:
        viewer = await world.viewer(version)
        watching = viewer.watch()
        number, stream = viewer.subscribe(path)
        await settle()
        found[version] = (viewer, watching, number, stream)
    return found


async def groups(publisher: RawPeer, name: str, *sequences: int) -> None:
    """Whole groups of one frame for the latest subscription, one turn each."""
    await follow_up(publisher)
    _, request = publisher.subscriptions()[-1]
    for sequence in sequences:
        publisher.group(request.id, sequence, f"{name}{sequence}".encode())
        await settle()


def seen(viewer: RawPeer, number: int) -> list[tuple[int, bytes]]:
    """Whole groups, in order of arrival."""
    return [
        (group.header.sequence, b"".join(group.payloads))
        for group in viewer.incoming
        if group.header is not None and group.header.subscribe_id == number and group.fins
    ]


async def with_id(world: World, version: Version, identity: int, path: str = "p") -> RawPeer:
    """A publisher with an id, where its version has one."""
    peer = await world.viewer(version)
    if version == Version.LITE_04:
        peer.publish(path, (identity,))
    else:
        peer.publish(path, (), origin=identity)
    await settle()
    return peer


# --- it comes back ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [v for v in Version if v >= Version.LITE_04])
@pytest.mark.virtual
async def test_a_publisher_that_comes_back_in_time_was_never_gone(version: Version) -> None:
    world = World(linger=LINGER)
    lost = await with_id(world, version, 7)
    viewers = await everybody(world)
    await groups(lost, "a", 3)
    told = {v: len(watching.read().items) for v, (_, watching, _, _) in viewers.items()}
    lost.session.fail()
    await advance(LINGER - 1)
    for viewer, watching, number, stream in viewers.values():
        assert not stream.over
        assert watching.paths == ["p"]
        assert seen(viewer, number) == [(3, b"a3")]
    back = await with_id(world, version, 7)
    await groups(back, "b", 3, 4)
    await advance(3 * LINGER)
    assert len(back.live_subscriptions()) == 1
    for v, (viewer, watching, number, stream) in viewers.items():
        assert not stream.over
        assert watching.paths == ["p"]
        assert kinds(watching.items[told[v] :]) == []
        # its id does not prove that it continues: it may have begun anew
        assert seen(viewer, number) == [(3, b"a3"), (4, b"b3"), (5, b"b4")]
        accepted = [reply for reply in viewer.replies(stream) if isinstance(reply, SubscribeOk)]
        assert len(accepted) == 1
    await world.close()


@pytest.mark.parametrize(("one", "two"), pairs())
@pytest.mark.virtual
async def test_another_publisher_takes_the_place_in_time(one: Version, two: Version) -> None:
    """Watchers see another route to the same broadcast."""
    world = World(linger=LINGER)
    lost = await world.publisher(one, "p")
    viewers = await everybody(world)
    await groups(lost, "a", 3)
    told = {v: len(watching.read().items) for v, (_, watching, _, _) in viewers.items()}
    lost.session.fail()
    await advance(1)
    other = await world.publisher(two, "p")
    await groups(other, "b", 0, 1)
    await advance(2 * LINGER)
    for v, (viewer, watching, number, stream) in viewers.items():
        assert not stream.over
        assert watching.paths == ["p"]
        news = kinds(watching.items[told[v] :])
        update = {Version.LITE_05: "AnnounceActive", Version.LITE_06: "AnnounceUpdate"}
        assert news in ([], [update[v]] if v in update else [])
        assert seen(viewer, number) == [(3, b"a3"), (4, b"b0"), (5, b"b1")]
    await world.close()


@pytest.mark.virtual
async def test_lost_and_back_again_and_again() -> None:
    world = World(linger=LINGER)
    publisher = await world.publisher(Version.LITE_05, "p")
    viewers = await everybody(world)
    for round_ in range(5):
        await groups(publisher, "a", 0, 1)
        for viewer, watching, number, stream in viewers.values():
            assert not stream.over
            assert watching.paths == ["p"]
            assert [sequence for sequence, _ in seen(viewer, number)] == list(range(2 * round_ + 2))
        publisher.session.fail()
        await advance(LINGER - 1)
        publisher = await world.publisher(Version.LITE_05, "p")
    await world.close()


@pytest.mark.parametrize("version", ALL)
@pytest.mark.virtual
async def test_an_open_group_is_broken_off_at_once(version: Version) -> None:
    world = World(linger=LINGER)
    lost = await world.publisher(Version.LITE_04, "p")
    viewer = await world.viewer(version)
    number, stream = viewer.subscribe("p")
    await settle()
    lost.group(lost.subscriptions()[0][1].id, 3, b"half", fin=False)
    await settle()
    lost.session.fail()
    await settle()
    assert [group.resets for group in viewer.groups(number)] == [[0]]
    assert not stream.over
    back = await world.publisher(Version.LITE_04, "p")
    await groups(back, "b", 3)
    assert seen(viewer, number) == [(4, b"b3")]
    await world.close()


@pytest.mark.parametrize("version", TIMED)
@pytest.mark.virtual
async def test_the_end_of_a_track_after_a_return(version: Version) -> None:
    world = World(linger=LINGER)
    lost = await world.publisher(Version.LITE_05, "p")
    viewer = await world.viewer(version)
    _, stream = viewer.subscribe("p")
    await groups(lost, "a", 3)
    lost.session.fail()
    await advance(1)
    back = await world.publisher(Version.LITE_05, "p")
    await groups(back, "b", 0)
    back.end_track(back.subscriptions()[-1][0], 1)
    await advance(1)
    assert viewer.replies(stream) == [SubscribeOk(group=3), SubscribeEnd(5)]
    assert stream.fins == 1
    await world.close()


@pytest.mark.parametrize("version", [v for v in Version if v >= Version.LITE_03])
@pytest.mark.virtual
async def test_an_update_while_the_publisher_is_away_is_not_lost(version: Version) -> None:
    world = World(linger=LINGER)
    lost = await world.publisher(Version.LITE_05, "p")
    viewer = await world.viewer(version)
    _, stream = viewer.subscribe("p", priority=3)
    await groups(lost, "a", 3)
    lost.session.fail()
    await settle()
    stream.write(SubscribeUpdate(priority=9).encode(version))
    await advance(1)
    back = await world.publisher(Version.LITE_05, "p")
    await follow_up(back)
    asked, request = back.subscriptions()[-1]
    assert ([request.priority] + [update.priority for update in asked.messages[1:]])[-1] == 9
    await world.close()


@pytest.mark.parametrize("version", ALL)
@pytest.mark.virtual
async def test_who_publishes_the_path_himself_is_not_served_by_himself(version: Version) -> None:
    world = World(linger=LINGER)
    lost = await world.publisher(Version.LITE_05, "p")
    viewer, other = await world.viewer(version), await world.viewer(Version.LITE_05)
    _, stream = viewer.subscribe("p")
    _, beside = other.subscribe("p")
    await follow_up(lost)
    lost.session.fail()
    await settle()
    viewer.publish("p", (1,) if version == Version.LITE_04 else ())
    await settle()
    assert stream.resets == [0]
    assert not beside.over
    assert len(viewer.subscriptions()) == 1
    await world.close()


# --- it does not -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ALL)
@pytest.mark.virtual
async def test_a_publisher_that_stays_away_is_withdrawn(version: Version) -> None:
    world = World(linger=LINGER)
    lost = await world.publisher(version, "p")
    viewers = await everybody(world)
    await groups(lost, "a", 3)
    told = {v: len(watching.read().items) for v, (_, watching, _, _) in viewers.items()}
    lost.session.fail()
    await advance(LINGER - 0.5)
    for v, (_, watching, _, stream) in viewers.items():
        assert not stream.over
        assert len(watching.read().items) == told[v]
    await advance(1)
    for v, (viewer, watching, _, stream) in viewers.items():
        assert stream.resets == [0]  # lost, not missing
        assert [type(item) for item in watching.read().items[told[v] :]] == [AnnounceEnded]
        assert not viewer.closed
    assert await world.count() == (0, 0, 6)
    back = await world.publisher(version, "p")
    for v, (_, watching, _, _) in viewers.items():
        assert kinds(watching.read().items[told[v] :]) == ["AnnounceEnded", "AnnounceActive"]
    assert not back.subscriptions()
    await world.close()


@pytest.mark.parametrize(
    "how", ["closed", "closed with a code", "by the relay", "protocol error", "actor", "0"]
)
@pytest.mark.virtual
async def test_only_a_session_that_broke_off_lingers(how: str) -> None:
    world = World(linger=0 if how == "0" else LINGER)
    publisher = await world.publisher(Version.LITE_05, "p")
    viewers = await everybody(world)
    await groups(publisher, "a", 3)
    with Trouble() as trouble:
        if how == "closed":
            publisher.close()
        elif how == "closed with a code":
            publisher.close(77)
        elif how == "by the relay":
            publisher.ref.tell(m.CloseSession(0, "enough"))
        elif how == "protocol error":
            publisher.uni(b"\x00\xff\xff")
            publisher.announcing().write(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")
        elif how == "actor":
            halt(publisher.ref)
        else:
            publisher.session.fail()
        await settle()
        assert not trouble.records
    assert not publisher.ref.is_alive()
    for _, watching, _, stream in viewers.values():
        assert stream.resets == [0]
        assert watching.paths == []
    assert (await world.count())[:2] == (0, 0)
    await world.close()


@pytest.mark.virtual
async def test_a_broadcast_that_was_withdrawn_before_does_not_linger() -> None:
    world = World(linger=LINGER)
    publisher = await world.publisher(Version.LITE_05, "p", "q")
    viewers = await everybody(world)
    await groups(publisher, "a", 3)
    publisher.unpublish("p")
    await settle()
    publisher.session.fail()
    await settle()
    for _, watching, _, stream in viewers.values():
        assert stream.resets == [0]
        assert watching.paths == ["q"]
    await advance(LINGER + 1)
    for _, watching, _, _ in viewers.values():
        assert watching.paths == []
    await world.close()


@pytest.mark.virtual
async def test_a_fallback_takes_over_at_once() -> None:
    world = World(linger=LINGER)
    spare = await world.publisher(Version.LITE_03, "p")
    lost = await world.publisher(Version.LITE_03, "p")
    viewers = await everybody(world)
    await groups(lost, "a", 3)
    lost.session.fail()
    await settle()
    await groups(spare, "b", 0)
    for viewer, watching, number, stream in viewers.values():
        assert not stream.over
        assert seen(viewer, number) == [(3, b"a3"), (4, b"b0")]
        assert kinds(watching.read().items[-2:]) == ["AnnounceEnded", "AnnounceActive"]  # another publisher
    await world.close()


# --- viewers that come and go meanwhile ------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ALL)
@pytest.mark.parametrize("returns", [True, False])
@pytest.mark.virtual
async def test_viewers_that_come_meanwhile_wait(version: Version, returns: bool) -> None:
    world = World(linger=LINGER)
    lost = await world.publisher(Version.LITE_05, "p")
    lost.session.fail()
    await advance(1)
    viewer = await world.viewer(version)
    watching = viewer.watch()
    number, stream = viewer.subscribe("p")
    others = []
    if version >= Version.LITE_05:
        others = [viewer.info("p")]
        refused = viewer.fetch("p", 3)
        await settle()
        assert refused.resets == [54]
    await settle()
    assert watching.paths == ["p"]
    assert not stream.over
    assert not stream.data
    if returns:
        back = await world.publisher(Version.LITE_06, "p")
        await groups(back, "b", 3)
        assert seen(viewer, number) == [(3, b"b3")]
        assert [other.fins for other in others] == [1] * len(others)
        await advance(2 * LINGER)
        assert not stream.over
    else:
        await advance(LINGER)
        assert stream.resets == [missing(version)]
        assert [other.resets for other in others] == [[54]] * len(others)
        assert watching.paths == []
    await world.close()


@pytest.mark.parametrize("version", [Version.LITE_03, Version.LITE_04, Version.LITE_05])
@pytest.mark.virtual
async def test_who_waits_from_the_start_gets_the_group_he_asked_for(version: Version) -> None:
    """It has seen nothing: its bounds hold."""
    world = World(linger=LINGER)
    (await world.publisher(Version.LITE_05, "p")).session.fail()
    await settle()
    viewer = await world.viewer(version)
    viewer.subscribe("p", start_group=4, end_group=6)
    await settle()
    back = await world.publisher(Version.LITE_05, "p")
    await follow_up(back)
    assert back.subscriptions()[-1][1].start_group == 4
    await world.close()


@pytest.mark.parametrize("version", TIMED)
@pytest.mark.parametrize("returns", [True, False])
@pytest.mark.virtual
async def test_a_description_that_was_under_way_waits_too(version: Version, returns: bool) -> None:
    world = World(linger=LINGER)
    lost = await world.publisher(Version.LITE_05, "p")
    viewer = await world.viewer(version)
    stream = viewer.info("p")
    await settle()
    assert len(lost.track_requests()) == 1
    lost.session.fail()
    await advance(1)
    assert not stream.over
    if returns:
        back = await world.publisher(Version.LITE_05, "p")
        await follow_up(back)
        assert stream.fins == 1
        assert stream.data
    else:
        await advance(LINGER)
        assert stream.resets == [0]
    await world.close()


@pytest.mark.parametrize("how", ["fin", "reset", "close", "crash"])
@pytest.mark.parametrize("returns", [True, False])
@pytest.mark.virtual
async def test_a_viewer_that_leaves_while_it_waits_leaves_nothing(how: str, returns: bool) -> None:
    world = World(linger=LINGER)
    lost = await world.publisher(Version.LITE_05, "p")
    old = await world.viewer(Version.LITE_05)
    _, moved = old.subscribe("p")
    await groups(lost, "a", 0)
    lost.session.fail()
    await settle()
    new = await world.viewer(Version.LITE_06)
    _, fresh = new.subscribe("p")
    info = new.info("p")
    await settle()
    for viewer, stream in ((old, moved), (new, fresh), (new, info)):
        if how == "close":
            viewer.close()
        elif how == "crash":
            viewer.session.fail()
        elif how == "fin" and stream is not info:
            stream.write(fin=True)
        else:
            stream.reset(1)
            stream.stop(1)
    await settle()
    assert [name for name in actors() if name.startswith("track")] == []
    if returns:
        back = await world.publisher(Version.LITE_05, "p")
        await follow_up(back)
        await advance(1)
        assert not back.live_subscriptions()
        assert [name for name in actors() if name.startswith("track")] == []
    await world.close()
    assert timer_count() == 0


@pytest.mark.virtual
async def test_who_comes_and_goes_takes_no_place_from_those_who_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(origin, "MOST_WAITING", 3)
    world = World(linger=LINGER)
    lost = await world.publisher(Version.LITE_05, "p")
    fickle, patient = await world.viewer(Version.LITE_05), await world.viewer(Version.LITE_06)
    lost.session.fail()
    await settle()
    for _ in range(5):
        for stream in (fickle.subscribe("p")[1], fickle.info("p")):
            await settle()
            assert not stream.over
            stream.reset(1)
            await settle()
    number, stream = patient.subscribe("p")
    await settle()
    assert not stream.over
    back = await world.publisher(Version.LITE_05, "p")
    await groups(back, "b", 0)
    assert seen(patient, number) == [(0, b"b0")]
    await world.close()


@pytest.mark.virtual
async def test_a_viewer_that_asks_again_meanwhile_is_served_once() -> None:
    world = World(linger=LINGER)
    lost = await world.publisher(Version.LITE_04, "p")
    viewer = await world.viewer(Version.LITE_04)
    first, stream = viewer.subscribe("p")
    await groups(lost, "a", 0)
    lost.session.fail()
    await settle()
    stream.write(fin=True)
    await settle()
    second, again = viewer.subscribe("p")
    back = await world.publisher(Version.LITE_04, "p")
    await groups(back, "b", 0)
    assert seen(viewer, first) == [(0, b"a0")]
    assert seen(viewer, second) == [(1, b"b0")]
    assert not again.over
    await world.close()


@pytest.mark.virtual
async def test_a_publisher_that_is_lost_again_before_its_first_group() -> None:
    world = World(linger=LINGER)
    publisher = await world.publisher(Version.LITE_05, "p")
    viewers = await everybody(world)
    await groups(publisher, "a", 7)
    for _ in range(4):
        publisher.session.fail()
        await advance(1)
        publisher = await world.publisher(Version.LITE_05, "p")
        await follow_up(publisher)
    await advance(2)
    await groups(publisher, "b", 0)
    for viewer, _, number, stream in viewers.values():
        assert not stream.over
        assert seen(viewer, number) == [(7, b"a7"), (8, b"b0")]
    await world.close()


# --- echoes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [Version.LITE_01, Version.LITE_02, Version.LITE_03])
@pytest.mark.virtual
async def test_an_echo_of_what_lingers_is_not_taken_for_its_return(version: Version) -> None:
    world = World(linger=LINGER)
    lost = await world.publisher(Version.LITE_05, "p")
    viewers = await everybody(world)
    await groups(lost, "a", 3)
    lost.session.fail()
    await settle()
    echoing = await world.viewer(version)
    echoing.watch()
    await settle()
    echoing.publish("p", hop_count=2)
    await advance(1)
    assert not echoing.subscriptions()
    back = await world.publisher(Version.LITE_05, "p")
    await groups(back, "b", 0)
    for viewer, _, number, stream in viewers.values():
        assert not stream.over
        assert seen(viewer, number) == [(3, b"a3"), (4, b"b0")]
    assert not echoing.subscriptions()
    await world.close()


@pytest.mark.parametrize("version", [Version.LITE_01, Version.LITE_02, Version.LITE_03])
@pytest.mark.virtual
async def test_a_publisher_that_watches_and_comes_back_serves_those_who_waited(version: Version) -> None:
    """Its announcement looks like an echo; without another one it was none."""
    world = World(linger=LINGER)
    lost = await world.publisher(version, "p")
    viewer = await world.viewer(Version.LITE_05)
    watching = viewer.watch()
    number, stream = viewer.subscribe("p")
    await groups(lost, "a", 3)
    lost.session.fail()
    await settle()
    back = await world.viewer(version)
    back.watch()
    await settle()
    back.publish("p")
    await advance(LINGER + 1)
    assert watching.paths == ["p"]
    assert not stream.over
    await groups(back, "b", 0)
    assert seen(viewer, number) == [(3, b"a3"), (4, b"b0")]
    await world.close()


# --- members and other relays ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ALL)
@pytest.mark.virtual
async def test_members_are_announced_by_relays_and_shown_to_relays(version: Version) -> None:
    world = World(linger=LINGER)
    member = f"{MEMBERS}/a"
    stranger = await world.publisher(version, member)
    relay = await world.viewer(Version.LITE_04, permissions=CLUSTER)
    watching = relay.watch(MEMBERS)
    everything = (await world.viewer(Version.LITE_06)).watch()
    await settle()
    assert watching.paths == []
    assert not stranger.closed
    assert await world.count() == (0, 0, 2)
    other = await world.publisher(Version.LITE_05, member, permissions=CLUSTER)
    assert watching.paths == ["a"]
    assert everything.paths == []
    assert await ask(world.origin, m.ListAnnounced(("",)), timeout=TIMEOUT) == ()
    other.session.fail()
    await settle()
    assert watching.paths == []
    stranger.unpublish(member)
    await settle()
    assert not stranger.closed
    await world.close()


@pytest.mark.parametrize("version", ALL)
async def test_announcements_to_relays_of_each_version(version: Version) -> None:
    """Versions up to 03 name no relays: their routes have one."""
    world = World()
    await world.publisher(Version.LITE_05, "own")
    await world.publisher(Version.LITE_03, "from-03", permissions=CLUSTER)
    await world.publisher(Version.LITE_05, "from-05", permissions=CLUSTER)
    relay = await world.viewer(version, permissions=CLUSTER)
    viewer = await world.viewer(version)
    watches = relay.watch(), viewer.watch()
    await settle()
    assert watches[0].paths == (["own"] if version < Version.LITE_04 else ["from-05", "own"])
    assert watches[1].paths == ["from-03", "from-05", "own"]
    await world.close()


@pytest.mark.parametrize("version", ALL)
@pytest.mark.virtual
async def test_what_came_by_a_lost_relay_lingers_too(version: Version) -> None:
    world = World(linger=LINGER)
    relay = await world.publisher(version, "p", permissions=CLUSTER)
    viewers = await everybody(world)
    await groups(relay, "a", 3)
    relay.session.fail()
    await advance(1)
    back = await world.publisher(version, "p", permissions=CLUSTER)
    await groups(back, "b", 0)
    for viewer, watching, number, stream in viewers.values():
        assert not stream.over
        assert watching.paths == ["p"]
        assert seen(viewer, number) == [(3, b"a3"), (4, b"b0")]
    await world.close()


# --- readers ---------------------------------------------------------------------------------------------------------


def read(world: World, got: list[Any], *, follow: bool, group: int | None = None) -> Ref:
    return ReaderActor.start(
        RUNTIME,
        origin=world.origin,
        number=10_000,
        reading=Reading("p", "video", group=group, follow=follow),
        sink=got.append,
    )


def payload(got: list[Any]) -> bytes:
    return payload_of(got)


@pytest.mark.parametrize("returns", [True, False])
@pytest.mark.virtual
async def test_a_following_reader_waits_too(returns: bool) -> None:
    world = World(linger=LINGER)
    lost = await world.publisher(Version.LITE_05, "p")
    got: list[Any] = []
    reader = read(world, got, follow=True)
    await groups(lost, "a", 3)
    lost.session.fail()
    await advance(1)
    assert reader.is_alive()
    if returns:
        back = await world.publisher(Version.LITE_05, "p")
        await groups(back, "b", 4)
        assert payload(got) == b"a3b4"
        halt(reader)
    else:
        await advance(LINGER)
        assert got[-1] == Over(StreamCode.INTERNAL)
        assert not reader.is_alive()
    await world.close()


@pytest.mark.virtual
async def test_readers_that_come_meanwhile() -> None:
    """A reader of the newest group waits; one of a certain group is a fetch."""
    world = World(linger=LINGER)
    (await world.publisher(Version.LITE_05, "p")).session.fail()
    await settle()
    latest: list[Any] = []
    fetched: list[Any] = []
    read(world, latest, follow=False)
    read(world, fetched, follow=False, group=7)
    await settle()
    assert fetched == [Over(StreamCode.UNROUTABLE)]
    assert latest == []
    back = await world.publisher(Version.LITE_05, "p")
    await groups(back, "b", 4)
    assert payload(latest) == b"b4"
    await world.close()


@pytest.mark.virtual
async def test_a_reader_that_is_stopped_while_it_waits_leaves_nothing() -> None:
    world = World(linger=LINGER)
    lost = await world.publisher(Version.LITE_04, "p")
    got: list[Any] = []
    reader = read(world, got, follow=True)
    await groups(lost, "a", 3)
    lost.session.fail()
    await settle()
    halt(reader)
    await settle()
    back = await world.publisher(Version.LITE_04, "p")
    await advance(1)
    assert not back.live_subscriptions()
    await world.close()
    assert timer_count() == 0
