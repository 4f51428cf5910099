"""Subscriptions outlive their publisher: they continue with the path's next publisher, and their numbers rise."""

from __future__ import annotations

import asyncio

import pytest

from relay.actors import messages as m
from relay.actors.environment import RELAY_FACTOR
from relay.actors.reader import Over, ReaderActor, Reading
from relay.actors.runtime import Ref, halt, send
from relay.model.failover import MOST_RETRIES, RETRY_DELAY
from relay.model.limits import Limits
from relay.moq import session as moq
from relay.transport.session import SessionClosed
from relay.wire.control import TrackInfo
from relay.wire.errors import StreamCode
from relay.wire.frame import Datagram
from relay.wire.subscribe import Subscribe, SubscribeEnd, SubscribeOk, SubscribeUpdate
from relay.wire.version import Version
from tests.actors.fakes import payload_of
from tests.actors.raw_peer import PeerStream, RawPeer, RequestStream, follow_up
from tests.actors.watching import Trouble, actors, named
from tests.actors.world import CLUSTER, World
from tests.clock import RUNTIME, advance, settle, until
from tests.sampling import ALL, pairs

TIMED = [Version.LITE_05, Version.LITE_06]
WITH_IDS = [v for v in Version if v >= Version.LITE_04]
WITH_UPDATES = [v for v in Version if v >= Version.LITE_03]
BIG = (1 << 62) - 1
LOST = m.SessionEvents((SessionClosed(None, "idle timeout", by_peer=False),))


def following(version: Version) -> Version:
    return Version(version % len(Version) + 1)


def identify(peer: RawPeer, identity: int, *more: int, path: str = "p") -> None:
    """Announce `path` as a route to the publisher with that id."""
    if peer.version == Version.LITE_04:
        peer.publish(path, (identity, *more))
    else:
        *hops, origin = (identity, *more)
        peer.publish(path, tuple(hops), origin=origin)


async def newest(peer: RawPeer) -> tuple[RequestStream, Subscribe]:
    """The relay's latest subscription at this peer."""
    await follow_up(peer)
    return peer.subscriptions()[-1]


async def send_groups(publisher: RawPeer, name: str, *sequences: int) -> None:
    """Whole groups of one frame, one turn each, with the publisher's name."""
    _, request = await newest(publisher)
    for sequence in sequences:
        publisher.group(request.id, sequence, f"{name}{sequence}".encode())
        await settle()


def seen(viewer: RawPeer, number: int) -> list[tuple[int, bytes]]:
    """Complete groups, in order of arrival."""
    return [
        (group.header.sequence, b"".join(group.payloads))
        for group in viewer.incoming
        if group.header is not None and group.header.subscribe_id == number and not group.resets
    ]


def begun(viewer: RawPeer, number: int) -> list[int]:
    """Numbers of groups, complete or not, in order of arrival."""
    return [
        group.header.sequence
        for group in viewer.incoming
        if group.header is not None and group.header.subscribe_id == number
    ]


def assert_rising(numbers: list[int]) -> None:
    assert numbers == sorted(set(numbers)), numbers


def accepted(viewer: RawPeer, stream: PeerStream) -> int:
    """How often the subscription was accepted."""
    return sum(isinstance(reply, SubscribeOk) for reply in viewer.replies(stream))


async def stand_in(world: World, one: Version, two: Version) -> tuple[RawPeer, RawPeer]:
    """A publisher that serves `p`, and one behind it."""
    spare = await world.publisher(two, "p")
    first = await world.publisher(one, "p")
    return first, spare


async def refuse(peer: RawPeer, code: int) -> None:
    """Refuse every live subscription and every unanswered TRACK at this peer."""
    asked = [*peer.live_subscriptions(), *peer.track_requests()]
    for stream, _ in asked:
        if not stream.over and not getattr(stream, "refused", False):
            stream.refused = True  # type: ignore[attr-defined]
            stream.reset(code)
            stream.stop(code)
    await settle()


# --- another publisher -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("one", "two"), pairs())
@pytest.mark.parametrize(
    ("start", "expected"),
    [(0, [7, 8]), (6, [7, 8]), (7, [7, 8]), (40, [40, 41])],
    ids=["lower", "the same", "the next", "higher"],
)
async def test_a_viewer_goes_on_with_another_publisher(
    world: World, one: Version, two: Version, start: int, expected: list[int]
) -> None:
    first, spare = await stand_in(world, one, following(one))
    viewer = await world.viewer(two)
    number, stream = viewer.subscribe("p")
    await send_groups(first, "a", 5, 6)
    assert not spare.subscriptions()
    first.session.fail()
    await settle()
    await send_groups(spare, "b", start, start + 1)
    payloads = [b"a5", b"a6", b"b%d" % start, b"b%d" % (start + 1)]
    assert seen(viewer, number) == list(zip([5, 6, *expected], payloads, strict=True))
    assert not stream.over
    assert accepted(viewer, stream) == 1
    assert all(group.fins == 1 for group in viewer.groups(number))
    assert len(spare.live_subscriptions()) == 1


@pytest.mark.parametrize("version", ALL)
@pytest.mark.parametrize("how", ["lost", "closed", "closed with a code", "actor"])
async def test_however_the_publisher_ends_its_viewers_move(
    world: World, trouble: Trouble, version: Version, how: str
) -> None:
    first, spare = await stand_in(world, version, Version.LITE_04)
    viewer = await world.viewer(version)
    number, stream = viewer.subscribe("p")
    await send_groups(first, "a", 0)
    if how == "lost":
        first.session.fail()
    elif how == "closed":
        first.close()
    elif how == "closed with a code":
        first.close(7)
    else:
        first.ref.tell(m.OpenUpstream(None, "", "", None, False))  # type: ignore[arg-type]
    await settle()
    assert len(trouble.records) <= (how == "actor") * 2
    assert bool(trouble.records) == (how == "actor")
    trouble.records.clear()
    await send_groups(spare, "b", 0)
    assert seen(viewer, number) == [(0, b"a0"), (1, b"b0")]
    assert not stream.over


@pytest.mark.parametrize("version", ALL)
async def test_the_failure_of_a_track_is_no_loss_of_its_publisher(
    world: World, trouble: Trouble, version: Version
) -> None:
    first, spare = await stand_in(world, Version.LITE_04, Version.LITE_04)
    viewer = await world.viewer(version)
    _, stream = viewer.subscribe("p")
    await send_groups(first, "a", 0)
    send(named("track p video"), moq.GroupData(1, (None,)))  # type: ignore[arg-type]
    await settle()
    assert trouble.records
    trouble.records.clear()
    assert stream.resets == [0]
    assert not spare.subscriptions()


@pytest.mark.parametrize("version", ALL)
async def test_without_another_publisher_the_viewer_gets_the_code_of_the_loss(
    world: World, version: Version
) -> None:
    publisher = await world.publisher(Version.LITE_04, "p")
    viewer = await world.viewer(version)
    number, stream = viewer.subscribe("p")
    _, request = await newest(publisher)
    publisher.group(request.id, 0, b"a", fin=False)
    await settle()
    publisher.session.fail()
    await settle()
    assert stream.resets == [0]
    assert [group.resets for group in viewer.groups(number)] == [[0]]
    _, late = viewer.subscribe("p")
    await settle()
    assert late.resets == [13 if version <= Version.LITE_02 else 54]


@pytest.mark.parametrize("version", ALL)
async def test_a_viewer_without_a_group_moves_too(world: World, version: Version) -> None:
    first, spare = await stand_in(world, Version.LITE_05, Version.LITE_05)
    viewer = await world.viewer(version)
    number, stream = viewer.subscribe("p")
    await follow_up(first)
    first.session.fail()
    await settle()
    await send_groups(spare, "b", 3, 4)
    assert seen(viewer, number) == [(3, b"b3"), (4, b"b4")]
    assert accepted(viewer, stream) == 1


@pytest.mark.parametrize("version", ALL)
async def test_a_withdrawn_publisher_that_is_lost_later_is_replaced(world: World, version: Version) -> None:
    first, spare = await stand_in(world, Version.LITE_06, Version.LITE_03)
    viewer = await world.viewer(version)
    number, stream = viewer.subscribe("p")
    await send_groups(first, "a", 3)
    first.unpublish("p")
    await settle()
    await send_groups(first, "a", 4)
    assert not spare.subscriptions()
    first.session.fail()
    await settle()
    await send_groups(spare, "b", 0)
    assert seen(viewer, number) == [(3, b"a3"), (4, b"a4"), (5, b"b0")]
    assert not stream.over


@pytest.mark.parametrize("version", ALL)
async def test_an_open_group_is_reset_and_the_next_publishers_begins(world: World, version: Version) -> None:
    first, spare = await stand_in(world, Version.LITE_06, Version.LITE_04)
    viewer = await world.viewer(version)
    number, _ = viewer.subscribe("p")
    await send_groups(first, "a", 3)
    _, request = await newest(first)
    first.group(request.id, 4, b"half", fin=False)
    await settle()
    first.session.fail()
    await settle()
    assert viewer.groups(number)[-1].resets == [0]
    _, request = await newest(spare)
    growing = spare.group(request.id, 9, b"x", fin=False)
    await settle()
    growing.write(spare.frames(b"y"), fin=True)
    await settle()
    assert seen(viewer, number) == [(3, b"a3"), (9, b"xy")]
    assert begun(viewer, number) == [3, 4, 9]


async def test_viewers_who_moved_and_who_come_later_see_the_same_numbers(world: World) -> None:
    """They joined at different times and moved together."""
    first, spare = await stand_in(world, Version.LITE_04, Version.LITE_03)
    viewers = []
    for version in Version:
        viewer = await world.viewer(version)
        viewers.append((viewer, viewer.subscribe("p")[0]))
        await send_groups(first, "a", 10 * version)
    first.session.fail()
    await settle()
    await send_groups(spare, "b", 50, 51)
    for viewer, number in viewers:
        assert [sequence for sequence, _ in seen(viewer, number)][-3:] == [60, 61, 62]
    late = await world.viewer(Version.LITE_05)
    number, _ = late.subscribe("p")
    await settle()
    assert seen(late, number) == [(62, b"b51")]


@pytest.mark.parametrize("version", ALL)
async def test_older_groups_of_the_new_publisher_are_not_delivered(world: World, version: Version) -> None:
    """Its numbers are shifted for its first group; earlier ones would go backward."""
    first, spare = await stand_in(world, Version.LITE_04, Version.LITE_04)
    viewer = await world.viewer(version)
    number, _ = viewer.subscribe("p")
    await send_groups(first, "a", 5)
    first.session.fail()
    await settle()
    await send_groups(spare, "b", 3, 2, 4)
    assert seen(viewer, number) == [(5, b"a5"), (6, b"b3"), (7, b"b4")]


# --- the same publisher ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("publishers", "version"), pairs(WITH_IDS))
async def test_the_same_publisher_by_another_route_has_the_same_numbers(
    world: World, publishers: Version, version: Version
) -> None:
    """Unfinished groups are aborted, sent ones are not repeated, and the next whole group follows."""
    other = await world.viewer(publishers)
    identify(other, 7, 8)
    first = await world.viewer(publishers)
    identify(first, 7)
    await settle()
    viewer = await world.viewer(version)
    number, stream = viewer.subscribe("p")
    await send_groups(first, "a", 3)
    _, request = await newest(first)
    first.group(request.id, 4, b"half", fin=False)
    first.group(request.id, 5, b"half", fin=False)
    await settle()
    first.session.fail()
    await settle()
    assert [group.resets for group in viewer.groups(number)] == [[], [0], [0]]
    await send_groups(other, "b", 3, 4, 5)
    assert begun(viewer, number)[:1] == [3]
    assert sorted(begun(viewer, number)) == [3, 4, 5]
    await send_groups(other, "b", 6, 7)
    assert seen(viewer, number) == [(3, b"a3"), (6, b"b6"), (7, b"b7")]
    assert accepted(viewer, stream) == 1
    assert not stream.over


@pytest.mark.parametrize("version", ALL)
async def test_the_cache_of_the_other_route_brings_no_duplicate(world: World, version: Version) -> None:
    """Another viewer uses the other route already: it has the newest group cached."""
    spare = await world.viewer(Version.LITE_06)
    identify(spare, 7, 8)
    other = await world.viewer(Version.LITE_06)
    other.subscribe("p")
    await send_groups(spare, "b", 3, 4)
    first = await world.viewer(Version.LITE_06)
    identify(first, 7)
    await settle()
    viewer = await world.viewer(version)
    number, _ = viewer.subscribe("p")
    await send_groups(first, "a", 3, 4)
    first.session.fail()
    await settle()
    await send_groups(spare, "b", 5)
    assert seen(viewer, number) == [(3, b"a3"), (4, b"a4"), (5, b"b5")]


@pytest.mark.parametrize("version", ALL)
async def test_a_publisher_without_an_id_is_never_the_same(world: World, version: Version) -> None:
    other = await world.viewer(Version.LITE_05)
    other.publish("p", (), origin=0)
    first = await world.viewer(Version.LITE_05)
    first.publish("p", (), origin=0)
    await settle()
    viewer = await world.viewer(version)
    number, _ = viewer.subscribe("p")
    await send_groups(first, "a", 3, 4)
    first.session.fail()
    await settle()
    await send_groups(other, "b", 3, 4)
    assert seen(viewer, number) == [(3, b"a3"), (4, b"a4"), (5, b"b3"), (6, b"b4")]


@pytest.mark.parametrize(("relays", "version"), pairs(v for v in Version if v < Version.LITE_04))
async def test_behind_a_relay_that_names_no_publisher_a_new_announcement_is_another_one(
    relays: Version, version: Version
) -> None:
    """It counts anew: under the old numbers nothing of it would be shown for a while."""
    world = World(Limits(track_idle=0.01))
    relay = await world.publisher(relays, "p", permissions=CLUSTER)
    viewer = await world.viewer(version)
    number, stream = viewer.subscribe("p")
    await send_groups(relay, "a", 0, 1, 2, 3)
    relay.unpublish("p")
    relay.publish("p")
    await settle()
    await refuse(relay, 0)
    await send_groups(relay, "b", 0, 1)
    assert [payload for _, payload in seen(viewer, number)] == [b"a0", b"a1", b"a2", b"a3", b"b0", b"b1"]
    assert_rising([sequence for sequence, _ in seen(viewer, number)])
    assert not stream.over
    await world.close()


@pytest.mark.parametrize("version", ALL)
async def test_a_shift_is_kept_for_another_route_to_the_publisher_it_was_made_for(
    world: World, version: Version
) -> None:
    routes = []
    for hops in ((8, 2), (8, 1), (8,)):
        route = await world.viewer(Version.LITE_06)
        identify(route, *hops)
        routes.append(route)
    last, third, second = routes
    first = await world.publisher(Version.LITE_04, "p")
    viewer = await world.viewer(version)
    number, _ = viewer.subscribe("p")
    await send_groups(first, "a", 20)
    first.session.fail()
    await settle()
    await send_groups(second, "b", 0, 1)
    second.session.fail()
    await settle()
    await send_groups(third, "c", 1, 2)
    third.session.fail()
    await settle()
    await send_groups(last, "d", 2, 3)
    assert seen(viewer, number) == [(20, b"a20"), (21, b"b0"), (22, b"b1"), (23, b"c2"), (24, b"d3")]


# --- several moves ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("one", "two"), pairs())
async def test_two_moves_in_a_row(world: World, one: Version, two: Version) -> None:
    third = await world.publisher(following(following(one)), "p")
    first, second = await stand_in(world, one, following(one))
    viewer = await world.viewer(two)
    number, stream = viewer.subscribe("p")
    await send_groups(first, "a", 4)
    first.session.fail()
    await settle()
    await send_groups(second, "b", 0, 1)
    second.session.fail()
    await settle()
    await send_groups(third, "c", 1, 2)
    assert seen(viewer, number) == [(4, b"a4"), (5, b"b0"), (6, b"b1"), (7, b"c1"), (8, b"c2")]
    assert accepted(viewer, stream) == 1
    third.session.fail()
    await settle()
    assert stream.resets == [0]


@pytest.mark.parametrize("version", ALL)
async def test_a_publisher_that_is_lost_before_its_first_group_makes_no_gap(
    world: World, version: Version
) -> None:
    third = await world.publisher(Version.LITE_04, "p")
    first, second = await stand_in(world, Version.LITE_04, Version.LITE_04)
    viewer = await world.viewer(version)
    number, stream = viewer.subscribe("p")
    await send_groups(first, "a", 4)
    first.session.fail()
    await settle()
    assert len(second.subscriptions()) == 1
    second.session.fail()
    await until(third.subscriptions)
    await send_groups(third, "c", 0)
    assert seen(viewer, number) == [(4, b"a4"), (5, b"c0")]
    assert not stream.over


@pytest.mark.parametrize("version", ALL)
async def test_another_publisher_by_its_second_route_before_its_first_group(
    world: World, version: Version
) -> None:
    """No group of it came yet, so that its numbers still have to follow the viewer's."""
    other = await world.viewer(Version.LITE_06)
    identify(other, 8, 1)
    second = await world.viewer(Version.LITE_06)
    identify(second, 8)
    first = await world.publisher(Version.LITE_04, "p")
    viewer = await world.viewer(version)
    number, _ = viewer.subscribe("p")
    await send_groups(first, "a", 20)
    first.session.fail()
    await settle()
    assert len(second.subscriptions()) == 1
    second.session.fail()
    await until(other.subscriptions)
    await send_groups(other, "c", 0, 1)
    assert seen(viewer, number) == [(20, b"a20"), (21, b"c0"), (22, b"c1")]


async def test_a_session_that_announces_again_serves_its_old_viewers(world: World) -> None:
    first, second = await stand_in(world, Version.LITE_04, Version.LITE_04)
    viewer = await world.viewer(Version.LITE_05)
    number, stream = viewer.subscribe("p")
    await send_groups(first, "a", 4)
    first.session.fail()
    await settle()
    await send_groups(second, "b", 0)
    returned = await world.publisher(Version.LITE_04, "p")
    second.session.fail()
    await settle()
    await send_groups(returned, "c", 4)
    assert seen(viewer, number) == [(4, b"a4"), (5, b"b0"), (6, b"c4")]
    assert not stream.over


@pytest.mark.parametrize("version", ALL)
async def test_the_last_number_of_all_kills_no_viewer_that_moves(world: World, version: Version) -> None:
    """No number follows it: the subscription may end, the viewer's session may not."""
    first, spare = await stand_in(world, Version.LITE_04, Version.LITE_04)
    viewer = await world.viewer(version)
    viewer.subscribe("p")
    await send_groups(first, "a", BIG)
    first.session.fail()
    await settle()
    await send_groups(spare, "b", 0)
    assert not viewer.closed


@pytest.mark.parametrize("version", ALL)
async def test_a_shifted_number_beyond_all_kills_no_viewer(world: World, version: Version) -> None:
    first, spare = await stand_in(world, Version.LITE_04, Version.LITE_04)
    viewer = await world.viewer(version)
    viewer.subscribe("p")
    await send_groups(first, "a", 5)
    first.session.fail()
    await settle()
    await send_groups(spare, "b", 0, BIG)
    assert not viewer.closed


@pytest.mark.parametrize("version", TIMED)
@pytest.mark.parametrize("what", ["end", "datagram"])
async def test_a_shifted_end_or_datagram_beyond_all_kills_no_viewer(
    world: World, version: Version, what: str
) -> None:
    first, spare = await stand_in(world, Version.LITE_05, Version.LITE_05)
    viewer = await world.viewer(version)
    viewer.subscribe("p")
    await send_groups(first, "a", 5)
    first.session.fail()
    await settle()
    await send_groups(spare, "b", 0)
    stream, request = await newest(spare)
    if what == "end":
        spare.end_track(stream, BIG)
        await until(lambda: viewer.own[-1].over or viewer.closed)
    else:
        spare.session.send_datagram(Datagram(request.id, BIG, 0, b"x").encode(spare.version))
    await settle()
    assert not viewer.closed


# --- an older session that is dead -----------------------------------------------------------------------------------


@pytest.mark.parametrize("identity", [7, 9], ids=["the same id", "another id"])
@pytest.mark.parametrize("withdrawn", [False, True], ids=["announced", "withdrawn"])
@pytest.mark.parametrize("version", ALL)
@pytest.mark.virtual
async def test_viewers_of_a_publisher_that_hangs_go_on_with_the_one_that_replaces_it(
    version: Version, withdrawn: bool, identity: int
) -> None:
    world = World()
    old = await world.viewer(version)
    identify(old, 7)
    await settle()
    viewer = await world.viewer(version)
    number, stream = viewer.subscribe("p")
    await send_groups(old, "a", 100)
    if withdrawn:
        old.unpublish("p")
        await settle()
    old.session.silent = True
    new = await world.viewer(version)
    identify(new, identity)
    await settle()
    assert not new.subscriptions()
    await advance(1.5)
    assert len(new.live_subscriptions()) == 1
    await send_groups(new, "b", 200)
    assert seen(viewer, number) == [(100, b"a100"), (200, b"b200")]
    assert not stream.over
    await world.close()


@pytest.mark.virtual
async def test_viewers_of_a_publisher_that_is_alive_stay_with_it() -> None:
    world = World()
    old = await world.publisher(Version.LITE_05, "p")
    viewer = await world.viewer(Version.LITE_05)
    number, _ = viewer.subscribe("p")
    await send_groups(old, "a", 1)
    new = await world.publisher(Version.LITE_05, "p")
    await advance(5)
    assert not new.subscriptions()
    await send_groups(old, "a", 2)
    assert seen(viewer, number) == [(1, b"a1"), (2, b"a2")]
    await world.close()


# --- what else a subscription has ------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ALL)
async def test_the_end_after_a_move_is_that_of_the_shifted_numbers(world: World, version: Version) -> None:
    first, spare = await stand_in(world, Version.LITE_06, Version.LITE_05)
    viewer = await world.viewer(version)
    number, stream = viewer.subscribe("p")
    await send_groups(first, "a", 5)
    first.session.fail()
    await settle()
    await send_groups(spare, "b", 0, 1)
    ending, _ = await newest(spare)
    spare.end_track(ending, 2)
    await until(lambda: stream.over)
    assert (stream.fins, stream.resets) == (1, [])
    assert begun(viewer, number) == [5, 6, 7]
    if version >= Version.LITE_05:
        assert viewer.replies(stream) == [SubscribeOk(group=5), SubscribeEnd(8)]


@pytest.mark.parametrize("version", TIMED)
async def test_the_end_after_a_move_to_the_same_publisher_keeps_its_number(
    world: World, version: Version
) -> None:
    other, first = await world.viewer(Version.LITE_06), await world.viewer(Version.LITE_06)
    identify(other, 7, 8)
    identify(first, 7)
    await settle()
    viewer = await world.viewer(version)
    _, stream = viewer.subscribe("p")
    await send_groups(first, "a", 5)
    first.session.fail()
    await settle()
    await send_groups(other, "b", 6)
    ending, _ = await newest(other)
    other.end_track(ending, 7)
    await until(lambda: stream.over)
    assert viewer.replies(stream) == [SubscribeOk(group=5), SubscribeEnd(7)]


@pytest.mark.parametrize("version", TIMED)
@pytest.mark.parametrize("same", [False, True])
async def test_an_end_without_a_group_after_a_move_is_not_before_what_was_sent(
    world: World, version: Version, same: bool
) -> None:
    other = await world.viewer(Version.LITE_06)
    identify(other, 7 if same else 9, 8)
    first = await world.viewer(Version.LITE_06)
    identify(first, 7)
    await settle()
    viewer = await world.viewer(version)
    _, stream = viewer.subscribe("p")
    await send_groups(first, "a", 5)
    first.session.fail()
    await settle()
    ending, _ = await newest(other)
    other.end_track(ending, 0)
    await until(lambda: stream.over)
    assert viewer.replies(stream) == [SubscribeOk(group=5), SubscribeEnd(6)]


@pytest.mark.parametrize(("one", "two"), pairs(TIMED, TIMED))
async def test_datagrams_are_renumbered_like_groups(world: World, one: Version, two: Version) -> None:
    first, spare = await stand_in(world, one, one)
    viewer = await world.viewer(two)
    number, _ = viewer.subscribe("p")
    await send_groups(first, "a", 5)
    first.session.fail()
    await settle()
    await send_groups(spare, "b", 0)
    _, request = await newest(spare)
    spare.session.send_datagram(Datagram(request.id, 1, 500, b"DG").encode(one))
    await settle()
    assert viewer.datagrams == [Datagram(number, 7, 500, b"DG").encode(two)]


@pytest.mark.parametrize("version", TIMED)
async def test_a_datagram_before_the_first_group_after_a_move_does_not_go_backward(
    world: World, version: Version
) -> None:
    first, spare = await stand_in(world, Version.LITE_05, Version.LITE_05)
    viewer = await world.viewer(version)
    viewer.subscribe("p")
    await send_groups(first, "a", 5)
    first.session.fail()
    await settle()
    _, request = await newest(spare)
    spare.session.send_datagram(Datagram(request.id, 0, 500, b"DG").encode(spare.version))
    await settle()
    assert all(Datagram.decode(data, version).sequence > 5 for data in viewer.datagrams)


@pytest.mark.parametrize("version", TIMED)
async def test_a_track_of_datagrams_alone_goes_on_rising(world: World, version: Version) -> None:
    first, spare = await stand_in(world, Version.LITE_05, Version.LITE_05)
    viewer = await world.viewer(version)
    viewer.subscribe("p")
    for publisher in (first, spare):
        _, request = await newest(publisher)
        for sequence in range(3):
            datagram = Datagram(request.id, sequence, 0, b"x")
            publisher.session.send_datagram(datagram.encode(publisher.version))
            await settle()
        publisher.session.fail()
        await settle()
    found = [Datagram.decode(data, version).sequence for data in viewer.datagrams]
    assert found
    assert_rising(found)


@pytest.mark.parametrize(("one", "two"), pairs(WITH_UPDATES, WITH_UPDATES))
async def test_an_update_after_a_move_reaches_the_new_publisher(
    world: World, one: Version, two: Version
) -> None:
    first, spare = await stand_in(world, one, one)
    viewer = await world.viewer(two)
    number, stream = viewer.subscribe("p", priority=3)
    await send_groups(first, "a", 5)
    first.session.fail()
    await settle()
    asked, request = await newest(spare)
    assert request.priority == 3
    stream.write(SubscribeUpdate(priority=9, start_group=2).encode(two))
    await settle()
    updates = [message for message in asked.messages if isinstance(message, SubscribeUpdate)]
    assert [update.priority for update in updates] == [9]
    await send_groups(spare, "b", 0, 1)
    assert seen(viewer, number) == [(5, b"a5"), (6, b"b0"), (7, b"b1")]
    assert not stream.over


@pytest.mark.parametrize("version", WITH_UPDATES)
async def test_an_update_before_a_move_is_not_forgotten(world: World, version: Version) -> None:
    first, spare = await stand_in(world, Version.LITE_05, Version.LITE_05)
    viewer = await world.viewer(version)
    number, stream = viewer.subscribe("p", priority=3)
    await send_groups(first, "a", 5)
    stream.write(SubscribeUpdate(priority=9).encode(version))
    await settle()
    first.session.fail()
    await settle()
    asked, request = await newest(spare)
    wanted = [request.priority] + [update.priority for update in asked.messages[1:]]
    assert wanted[-1] == 9
    await send_groups(spare, "b", 0)
    assert seen(viewer, number) == [(5, b"a5"), (6, b"b0")]


@pytest.mark.parametrize("version", WITH_UPDATES)
async def test_a_bounded_subscription_is_refused(world: World, version: Version) -> None:
    """Another publisher does not have the requested numbers."""
    first, spare = await stand_in(world, Version.LITE_04, Version.LITE_04)
    viewer = await world.viewer(version)
    number, stream = viewer.subscribe("p", end_group=9)
    await send_groups(first, "a", 5)
    first.session.fail()
    await settle()
    assert stream.resets == [0]
    assert not spare.subscriptions()
    assert begun(viewer, number) == [5]


@pytest.mark.parametrize("version", WITH_UPDATES)
async def test_a_subscription_that_an_update_has_bounded_goes_no_further(
    world: World, version: Version
) -> None:
    first, spare = await stand_in(world, Version.LITE_04, Version.LITE_04)
    viewer = await world.viewer(version)
    number, stream = viewer.subscribe("p")
    await send_groups(first, "a", 5)
    stream.write(SubscribeUpdate(end_group=6).encode(version))
    await settle()
    first.session.fail()
    await settle()
    if spare.live_subscriptions():
        await send_groups(spare, "b", 6, 7, 8)
    assert max(begun(viewer, number)) <= 6, "the viewer wanted no more"


@pytest.mark.parametrize("version", WITH_UPDATES)
async def test_where_a_subscription_began_is_no_concern_of_the_next_publisher(
    world: World, version: Version
) -> None:
    first, spare = await stand_in(world, Version.LITE_05, Version.LITE_05)
    viewer = await world.viewer(version)
    number, _ = viewer.subscribe("p", start_group=4, max_latency=700)
    await send_groups(first, "a", 4, 5)
    first.session.fail()
    await settle()
    _, request = await newest(spare)
    assert request.start_group is None
    await send_groups(spare, "b", 0)
    assert seen(viewer, number) == [(4, b"a4"), (5, b"a5"), (6, b"b0")]


async def test_the_past_is_not_asked_of_the_next_publisher(world: World) -> None:
    """06: it would be older than the viewer's groups."""
    first, spare = await stand_in(world, Version.LITE_06, Version.LITE_06)
    viewer = await world.viewer(Version.LITE_06)
    viewer.subscribe("p", max_latency=700)
    _, request = await newest(first)
    assert request.max_latency == 700
    first.session.fail()
    await settle()
    _, request = await newest(spare)
    assert request.max_latency == 0


@pytest.mark.parametrize("cached", [False, True])
async def test_06_the_frame_to_begin_with_is_that_of_the_first_group_only(world: World, cached: bool) -> None:
    """After a move whole groups follow, however the subscription began."""
    spare = await world.publisher(Version.LITE_06, "p")
    if cached:
        (await world.viewer(Version.LITE_04)).subscribe("p")
        _, request = await newest(spare)
        spare.group(request.id, 0, b"one", b"two")
        await settle()
    first = await world.publisher(Version.LITE_06, "p")
    viewer = await world.viewer(Version.LITE_06)
    number, _ = viewer.subscribe("p", start_group=5, start_frame=1)
    _, request = await newest(first)
    first.group(request.id, 5, b"one", b"two")
    await settle()
    began = begun(viewer, number)[0]
    assert seen(viewer, number) == [(began, b"onetwo" if cached else b"two")]
    assert cached or began == 5  # else its numbers follow those that viewers of the other publisher may see
    first.session.fail()
    await settle()
    if not cached:
        _, request = await newest(spare)
        spare.group(request.id, 0, b"one", b"two")
        await settle()
    assert seen(viewer, number)[1:] == [(began + 1, b"onetwo")]


@pytest.mark.parametrize("version", WITH_UPDATES)
async def test_a_refusal_by_the_publisher_after_a_move_is_passed_on(world: World, version: Version) -> None:
    """It served the track for a while: the viewer learns why it stopped."""
    first, spare = await stand_in(world, Version.LITE_05, Version.LITE_05)
    viewer = await world.viewer(version)
    _, stream = viewer.subscribe("p")
    await send_groups(first, "a", 5)
    first.session.fail()
    await settle()
    await send_groups(spare, "b", 0)
    await refuse(spare, 70)
    assert stream.resets == [70]


@pytest.mark.parametrize("version", ALL)
async def test_a_publisher_that_does_not_have_the_track_refuses_the_viewer(
    world: World, version: Version
) -> None:
    first, spare = await stand_in(world, Version.LITE_05, Version.LITE_05)
    viewer = await world.viewer(version)
    _, stream = viewer.subscribe("p")
    await send_groups(first, "a", 5)
    first.session.fail()
    await settle()
    await refuse(spare, 51)
    assert len(stream.resets) == 1
    assert not viewer.closed
    assert len(spare.subscriptions()) == 1


# --- descriptions and fetches ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", TIMED)
async def test_a_description_moves_too(world: World, version: Version) -> None:
    first, spare = await stand_in(world, Version.LITE_05, Version.LITE_06)
    viewer = await world.viewer(version)
    stream = viewer.info("p")
    await settle()
    assert len(first.track_requests()) == 1
    first.session.fail()
    await settle()
    assert not stream.over
    info = TrackInfo(9, ordered=False, max_latency=77, timescale=1000)
    spare.answer_tracks(info)
    await settle()
    assert stream.fins == 1
    assert stream.data == info.encode(version)


@pytest.mark.parametrize("version", TIMED)
async def test_a_description_without_another_publisher_is_refused_once(
    world: World, version: Version
) -> None:
    publisher = await world.publisher(Version.LITE_05, "p")
    viewer = await world.viewer(version)
    stream = viewer.info("p")
    await settle()
    publisher.session.fail()
    await settle()
    assert stream.resets == [0]
    assert not stream.data


@pytest.mark.parametrize("version", TIMED)
async def test_a_fetch_does_not_move(world: World, version: Version) -> None:
    first, spare = await stand_in(world, Version.LITE_05, Version.LITE_05)
    viewer = await world.viewer(version)
    stream = viewer.fetch("p", 3)
    await settle()
    first.session.fail()
    await settle()
    assert stream.resets == [0]
    assert not spare.fetches()


# --- requests and answers that cross an end --------------------------------------------------------------------------


@pytest.mark.parametrize("version", ALL)
async def test_a_subscription_that_reaches_a_publisher_behind_its_stop_moves(
    world: World, version: Version
) -> None:
    first, spare = await stand_in(world, Version.LITE_04, Version.LITE_04)
    viewer = await world.viewer(version)
    number, stream = viewer.subscribe("p")
    await until(lambda: any(name.startswith("track") for name in actors()))
    send(first.ref, LOST)
    await settle()
    await send_groups(spare, "b", 0)
    assert seen(viewer, number) == [(0, b"b0")]
    assert accepted(viewer, stream) == 1


@pytest.mark.parametrize("turns", range(12))
async def test_a_publisher_lost_at_any_moment_of_a_subscription_is_replaced(world: World, turns: int) -> None:
    first, spare = await stand_in(world, Version.LITE_05, Version.LITE_05)
    viewer = await world.viewer(Version.LITE_06)
    number, stream = viewer.subscribe("p")
    info = viewer.info("p")
    for _ in range(turns):
        await settle_turn()
    first.session.fail()
    await settle()
    await send_groups(spare, "b", 2)
    assert seen(viewer, number) == [(2, b"b2")]
    assert not stream.over
    assert info.fins == 1


@pytest.mark.parametrize("turns", range(12))
@pytest.mark.parametrize("how", ["fin", "reset", "close"])
async def test_a_viewer_that_leaves_at_any_moment_of_a_move_leaves_nothing(
    world: World, turns: int, how: str
) -> None:
    first, spare = await stand_in(world, Version.LITE_04, Version.LITE_04)
    viewer = await world.viewer(Version.LITE_04)
    _, stream = viewer.subscribe("p")
    await send_groups(first, "a", 5)
    first.session.fail()
    for _ in range(turns):
        await settle_turn()
    leave(viewer, stream, how)
    await until(lambda: not [name for name in actors() if name.startswith("track")], 1.0)
    await settle()
    assert all(asked.over for asked, _ in spare.subscriptions())


async def settle_turn() -> None:
    """One pass of the loop."""
    await asyncio.sleep(0)


def leave(viewer: RawPeer, stream: PeerStream, how: str) -> None:
    if how == "fin":
        stream.write(fin=True)
    elif how == "reset":
        stream.reset(1)
        stream.stop(1)
    else:
        viewer.close()


async def test_an_answer_for_a_viewer_that_has_left_ends_the_new_subscription(world: World) -> None:
    """The new track accepts while the viewer's connection is behind its stop."""
    first, spare = await stand_in(world, Version.LITE_04, Version.LITE_04)
    viewer = await world.viewer(Version.LITE_04)
    viewer.subscribe("p")
    await send_groups(first, "a", 5)
    first.unpublish("p")
    await settle()
    send(named("track p video"), m.UpstreamFailed(StreamCode.INTERNAL, gone=True))
    await until(lambda: [name for name in actors() if name.startswith("track")])
    send(viewer.ref, LOST)
    await settle()
    assert not viewer.ref.is_alive()
    await until(lambda: not [name for name in actors() if name.startswith("track")], 1.0)
    assert not spare.live_subscriptions()


# --- searching -------------------------------------------------------------------------------------------------------


WAITS = [0.1, 0.2, 0.4, 0.8, 1.6]


@pytest.mark.parametrize("publisher", WITH_UPDATES)
@pytest.mark.virtual
async def test_a_relay_that_refuses_is_asked_again_more_and_more_slowly(publisher: Version) -> None:
    """It refuses before it withdraws; it may also find another route meanwhile."""
    world = World()
    relay = await world.publisher(publisher, "p", permissions=CLUSTER)
    viewer = await world.viewer(Version.LITE_04)
    _, stream = viewer.subscribe("p")
    await settle()
    assert len(relay.subscriptions()) == 1
    await refuse(relay, 54)
    assert len(relay.subscriptions()) == 2
    for number, wait in enumerate(WAITS):
        await refuse(relay, 54)
        await advance(wait * 0.5)
        assert len(relay.subscriptions()) == number + 2, "too soon"
        assert not stream.over
        await advance(wait * 0.6)
        assert len(relay.subscriptions()) == number + 3, "too late"
    assert len(WAITS) + 1 == MOST_RETRIES
    await refuse(relay, 54)
    assert stream.resets == [54]
    await advance(60)
    assert len(relay.subscriptions()) == 1 + MOST_RETRIES
    await world.close()


@pytest.mark.virtual
async def test_a_description_is_asked_for_again_more_and_more_slowly() -> None:
    world = World()
    relay = await world.publisher(Version.LITE_05, "p", permissions=CLUSTER)
    viewer = await world.viewer(Version.LITE_06)
    stream = viewer.info("p")
    await settle()
    await refuse(relay, 54)
    for number, wait in enumerate(WAITS):
        assert len(relay.track_requests()) == number + 2
        await refuse(relay, 54)
        await advance(wait * 0.5)
        assert len(relay.track_requests()) == number + 2, "too soon"
        await advance(wait * 0.6)
    assert not stream.over
    await refuse(relay, 54)
    assert stream.resets == [54]
    await world.close()


@pytest.mark.virtual
async def test_a_group_begins_the_count_of_searches_anew() -> None:
    world = World()
    relay = await world.publisher(Version.LITE_04, "p", permissions=CLUSTER)
    viewer = await world.viewer(Version.LITE_05)
    number, stream = viewer.subscribe("p")
    for round_ in range(3):
        for _ in range(MOST_RETRIES - 1):
            await refuse(relay, 54)
            await advance(2)
        assert not stream.over
        await send_groups(relay, "a", round_)
    assert [sequence for sequence, _ in seen(viewer, number)] == [0, 1, 2]
    await world.close()


@pytest.mark.parametrize("version", ALL)
@pytest.mark.virtual
async def test_while_a_viewer_waits_another_publisher_comes(version: Version) -> None:
    world = World()
    relay = await world.publisher(Version.LITE_04, "p", permissions=CLUSTER)
    viewer = await world.viewer(version)
    number, stream = viewer.subscribe("p")
    await send_groups(relay, "a", 3)
    await refuse(relay, 54)
    await refuse(relay, 54)
    publisher = await world.publisher(Version.LITE_06, "p")
    assert not publisher.subscriptions()
    await advance(0.2)
    await send_groups(publisher, "b", 0)
    assert seen(viewer, number) == [(3, b"a3"), (4, b"b0")]
    assert not stream.over
    await world.close()


@pytest.mark.parametrize("version", ALL)
@pytest.mark.virtual
async def test_while_a_viewer_waits_the_last_publisher_goes(version: Version) -> None:
    world = World()
    relay = await world.publisher(Version.LITE_04, "p", permissions=CLUSTER)
    viewer = await world.viewer(version)
    _, stream = viewer.subscribe("p")
    await settle()
    await refuse(relay, 54)
    await refuse(relay, 54)
    relay.unpublish("p")
    await settle()
    assert not stream.over
    await advance(0.2)
    assert stream.resets == [13 if version <= Version.LITE_02 else 54]
    await world.close()


@pytest.mark.parametrize("how", ["fin", "reset", "close"])
@pytest.mark.virtual
async def test_a_viewer_that_leaves_while_it_waits_asks_no_more(how: str) -> None:
    world = World()
    relay = await world.publisher(Version.LITE_05, "p", permissions=CLUSTER)
    viewer = await world.viewer(Version.LITE_05)
    _, stream = viewer.subscribe("p")
    info = viewer.info("p")
    await settle()
    for _ in range(2):
        await refuse(relay, 54)
    asked = len(relay.subscriptions()), len(relay.track_requests())
    leave(viewer, stream, how)
    leave(viewer, info, "reset" if how == "fin" else how)
    await advance(5)
    assert (len(relay.subscriptions()), len(relay.track_requests())) == asked
    await world.close()


@pytest.mark.parametrize("version", WITH_UPDATES)
@pytest.mark.virtual
async def test_an_update_while_a_viewer_waits_is_not_lost(version: Version) -> None:
    world = World()
    relay = await world.publisher(Version.LITE_05, "p", permissions=CLUSTER)
    viewer = await world.viewer(version)
    _, stream = viewer.subscribe("p", priority=3)
    await follow_up(relay)
    await refuse(relay, 54)
    await refuse(relay, 54)
    stream.write(SubscribeUpdate(priority=9).encode(version))
    await settle()
    await advance(0.2)
    asked, request = await newest(relay)
    assert ([request.priority] + [update.priority for update in asked.messages[1:]])[-1] == 9
    await world.close()


# --- other relays ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ALL)
@pytest.mark.parametrize("code", [0, 1, 52, 54, 70])
@pytest.mark.virtual
async def test_a_refusal_by_another_relay_is_no_last_word(version: Version, code: int) -> None:
    world = World()
    relay = await world.publisher(Version.LITE_05, "p", permissions=CLUSTER)
    viewer = await world.viewer(version)
    number, stream = viewer.subscribe("p")
    await follow_up(relay)
    await refuse(relay, code)
    assert not stream.over
    await send_groups(relay, "a", 0)
    assert seen(viewer, number) == [(0, b"a0")]
    await world.close()


@pytest.mark.parametrize("version", ALL)
@pytest.mark.parametrize("cluster", [False, True])
async def test_a_publisher_and_a_relay_that_say_not_found_are_believed(
    world: World, version: Version, cluster: bool
) -> None:
    options = {"permissions": CLUSTER} if cluster else {}
    publisher = await world.publisher(Version.LITE_05, "p", **options)
    viewer = await world.viewer(version)
    _, stream = viewer.subscribe("p")
    await settle()
    await refuse(publisher, 51)
    assert stream.resets == [13 if version <= Version.LITE_02 else 51]
    assert len(publisher.subscriptions()) == 1


async def test_a_refusal_by_a_publisher_is_the_last_word(world: World) -> None:
    publisher = await world.publisher(Version.LITE_05, "p")
    viewer = await world.viewer(Version.LITE_05)
    _, stream = viewer.subscribe("p")
    await settle()
    await refuse(publisher, 54)
    assert stream.resets == [54]
    assert len(publisher.subscriptions()) == 1


async def test_another_relay_may_subscribe_and_announce_more() -> None:
    world = World(Limits(track_idle=0.01, subscriptions=1, announces=1))
    await world.publisher(Version.LITE_04, "p")
    for permissions, most in ((CLUSTER, RELAY_FACTOR), (None, 1)):
        options = {} if permissions is None else {"permissions": permissions}
        peer = await world.viewer(Version.LITE_05, **options)
        streams = [peer.subscribe("p", f"t{number}")[1] for number in range(most + 1)]
        await settle()
        assert [stream.resets for stream in streams] == [[]] * most + [[48]]
        for number in range(most):
            peer.publish(f"own/{most}/{number}")
        await settle()
        assert not peer.closed
        peer.publish(f"own/{most}/more")
        await settle()
        assert peer.closed
    await world.close()


@pytest.mark.parametrize("version", TIMED)
async def test_a_new_first_hop_of_another_relay_is_an_update(world: World, version: Version) -> None:
    """Its own subscriptions moved; ours to it go on."""
    relay = await world.viewer(version, permissions=CLUSTER)
    identify(relay, 7, 50)
    await settle()
    watches = {v: (await world.viewer(v)).watch() for v in Version}
    viewer = await world.viewer(Version.LITE_05)
    number, stream = viewer.subscribe("p")
    await send_groups(relay, "a", 0)
    before = {v: len(watching.read().items) for v, watching in watches.items()}
    if version == Version.LITE_06:
        relay.update("p", (8,))
    else:
        relay.publish("p", (8,), origin=50)
    await settle()
    kinds = {v: [type(item).__name__ for item in w.read().items[before[v] :]] for v, w in watches.items()}
    assert kinds == {
        **{v: [] for v in Version if v <= Version.LITE_04},
        Version.LITE_05: ["AnnounceActive"],
        Version.LITE_06: ["AnnounceUpdate"],
    }
    await send_groups(relay, "a", 1)
    assert seen(viewer, number) == [(0, b"a0"), (1, b"a1")]
    assert not stream.over
    _, late = viewer.subscribe("p")
    await settle()
    assert not late.over
    assert len(relay.subscriptions()) == 1


@pytest.mark.parametrize("version", TIMED)
async def test_a_relay_that_reaches_the_publisher_another_way_is_asked_anew_and_not_twice(
    world: World, version: Version
) -> None:
    """Unanswered requests end there too: later groups would have no subscription."""
    relay = await world.viewer(version, permissions=CLUSTER)
    identify(relay, 7, 50)
    await settle()
    viewer = await world.viewer(Version.LITE_05)
    number, _ = viewer.subscribe("p")
    await settle()
    if version == Version.LITE_06:
        relay.update("p", (7, 8))
    else:
        relay.publish("p", (7, 8), origin=50)
    await settle()
    assert [stream.over for stream, _ in relay.subscriptions()] == [True, False]
    assert [stream.over for stream, _ in relay.track_requests()] == [True, False]
    await send_groups(relay, "a", 0)
    assert seen(viewer, number) == [(0, b"a0")]


@pytest.mark.parametrize("version", TIMED)
async def test_a_new_first_hop_of_a_publisher_is_another_broadcast(world: World, version: Version) -> None:
    peer = await world.viewer(version)
    identify(peer, 7, 50)
    await settle()
    watching = (await world.viewer(Version.LITE_04)).watch()
    await settle()
    before = len(watching.read().items)
    if version == Version.LITE_06:
        peer.update("p", (8,))
    else:
        peer.publish("p", (8,), origin=50)
    await settle()
    assert [type(item).__name__ for item in watching.read().items[before:]] == [
        "AnnounceEnded",
        "AnnounceActive",
    ]


async def test_05_a_restart_of_another_relay_is_an_end_and_a_start(world: World) -> None:
    relay = await world.viewer(Version.LITE_05, permissions=CLUSTER)
    identify(relay, 7, 50)
    await settle()
    watching = (await world.viewer(Version.LITE_04)).watch()
    await settle()
    relay.publish("p", (7,), origin=50, restart=True)
    await settle()
    assert [type(item).__name__ for item in watching.read().items[-2:]] == ["AnnounceEnded", "AnnounceActive"]


# --- readers ---------------------------------------------------------------------------------------------------------


class Reader:
    """An HTTP request for a track."""

    def __init__(self, world: World, *, follow: bool = True, group: int | None = None) -> None:
        self.got: list[m.GroupFragment | Over] = []
        reading = Reading("p", "video", group, follow)
        self.ref: Ref = ReaderActor.start(
            RUNTIME, origin=world.origin, number=10_000, reading=reading, sink=self.got.append
        )

    @property
    def groups(self) -> list[tuple[int, bytes]]:
        """Whole groups."""
        found: dict[int, bytes] = {}
        order: list[tuple[int, bytes]] = []
        for fragment in self.got:
            if isinstance(fragment, m.GroupFragment):
                found[fragment.sequence] = found.get(fragment.sequence, b"") + payload_of([fragment])
                if fragment.fin:
                    order.append((fragment.sequence, found.pop(fragment.sequence)))
        return order

    @property
    def over(self) -> list[Over]:
        return [item for item in self.got if isinstance(item, Over)]


@pytest.mark.parametrize("version", ALL)
async def test_a_following_reader_goes_on_with_another_publisher(world: World, version: Version) -> None:
    first, spare = await stand_in(world, version, following(version))
    reader = Reader(world)
    await send_groups(first, "a", 5, 6)
    first.session.fail()
    await settle()
    await send_groups(spare, "b", 9)
    assert reader.groups == [(5, b"a5"), (6, b"a6"), (9, b"b9")]
    spare.session.fail()
    await settle()
    assert reader.over == [Over(StreamCode.INTERNAL)]
    assert not reader.ref.is_alive()


async def test_a_following_readers_numbers_go_on_rising(world: World) -> None:
    first, spare = await stand_in(world, Version.LITE_04, Version.LITE_04)
    reader = Reader(world)
    await send_groups(first, "a", 5, 6)
    first.session.fail()
    await settle()
    await send_groups(spare, "b", 0, 1)
    assert [payload for _, payload in reader.groups] == [b"a5", b"a6", b"b0", b"b1"]
    halt(reader.ref)
    assert_rising([sequence for sequence, _ in reader.groups])


async def test_a_following_reader_gets_nothing_twice(world: World) -> None:
    """The same publisher by another route, with its newest group cached."""
    other, first = await world.viewer(Version.LITE_06), await world.viewer(Version.LITE_06)
    identify(other, 7, 8)
    identify(first, 7)
    await settle()
    reader = Reader(world)
    await send_groups(first, "a", 5, 6)
    first.session.fail()
    await settle()
    await send_groups(other, "b", 6, 7)
    halt(reader.ref)
    assert reader.groups == [(5, b"a5"), (6, b"a6"), (7, b"b7")]


async def test_a_following_readers_open_group_is_broken_off(world: World) -> None:
    first, spare = await stand_in(world, Version.LITE_04, Version.LITE_04)
    reader = Reader(world)
    _, request = await newest(first)
    first.group(request.id, 5, b"half", fin=False)
    await settle()
    first.session.fail()
    await settle()
    assert isinstance(reader.got[-1], m.GroupFragment)
    assert reader.got[-1].code == StreamCode.INTERNAL
    await send_groups(spare, "b", 6)
    assert reader.groups == [(6, b"b6")]
    halt(reader.ref)


@pytest.mark.virtual
async def test_a_following_reader_goes_on_from_publisher_to_publisher() -> None:
    world = World()
    third = await world.publisher(Version.LITE_04, "p")
    first, second = await stand_in(world, Version.LITE_04, Version.LITE_04)
    reader = Reader(world)
    await send_groups(first, "a", 5)
    first.session.fail()
    await settle()
    assert len(second.subscriptions()) == 1
    second.session.fail()
    await advance(RETRY_DELAY * 4)
    assert len(third.subscriptions()) == 1
    assert reader.over == []
    halt(reader.ref)
    await world.close()


async def test_a_following_reader_ends_with_its_second_publishers_track(world: World) -> None:
    first, spare = await stand_in(world, Version.LITE_04, Version.LITE_05)
    reader = Reader(world)
    await send_groups(first, "a", 5)
    first.session.fail()
    await settle()
    await send_groups(spare, "b", 6)
    ending, _ = await newest(spare)
    spare.end_track(ending, 7)
    await until(lambda: not reader.ref.is_alive())
    assert reader.over == [Over(None)]


@pytest.mark.parametrize("group", [None, 7])
async def test_a_reader_of_one_group_does_not_move(world: World, group: int | None) -> None:
    first, spare = await stand_in(world, Version.LITE_05, Version.LITE_05)
    reader = Reader(world, follow=False, group=group)
    await follow_up(first)
    first.session.fail()
    await settle()
    assert reader.over == [Over(StreamCode.INTERNAL)]
    assert not spare.subscriptions()
    assert not spare.fetches()


async def test_a_reader_that_is_stopped_while_it_moves_leaves_nothing(world: World) -> None:
    for turns in range(8):
        first, spare = await stand_in(world, Version.LITE_04, Version.LITE_04)
        reader = Reader(world)
        await send_groups(first, "a", 5)
        first.session.fail()
        for _ in range(turns):
            await settle_turn()
        halt(reader.ref)
        await until(lambda: not [name for name in actors() if name.startswith(("track", "reader"))], 1.0)
        await settle()
        assert not spare.live_subscriptions()
        spare.close()
        await settle()


# --- a publisher that ends its track and leaves ----------------------------------------------------------------------


@pytest.mark.parametrize(("one", "version"), pairs())
async def test_a_track_that_has_ended_is_not_gone_on_with(
    world: World, one: Version, version: Version
) -> None:
    first, spare = await stand_in(world, one, Version.LITE_05)
    viewer = await world.viewer(version)
    _, stream = viewer.subscribe("p")
    await send_groups(first, "a", 3)
    ending, _ = await newest(first)
    first.end_track(ending, 4)
    await until(lambda: stream.over)
    first.close()
    await settle()
    assert (stream.fins, stream.resets) == (1, [])
    assert not spare.subscriptions()
