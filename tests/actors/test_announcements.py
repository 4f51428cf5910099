"""Announcements across the relay, in both directions and between all versions, on raw wire messages."""

from __future__ import annotations

import pytest

from relay.auth.permissions import Permissions
from relay.model.limits import Limits
from relay.wire.announce import (
    AnnounceActive,
    AnnounceEnded,
    AnnounceInit,
    AnnounceOk,
    AnnounceRequest,
    AnnounceUpdate,
)
from relay.wire.frame import open_request
from relay.wire.version import Version
from tests.actors.watching import Trouble
from tests.actors.world import HOP, World
from tests.clock import settle, until
from tests.sampling import ALL, pairs

FROM_04 = [v for v in Version if v >= Version.LITE_04]


@pytest.mark.parametrize("version", ALL)
async def test_an_empty_watch_is_answered_at_once(world: World, version: Version) -> None:
    peer = await world.viewer(version)
    watching = peer.watch()
    await settle()
    if version <= Version.LITE_02:
        expected = b"\x01\x00"
    else:
        expected = AnnounceOk(HOP, 0).encode(version) if version >= Version.LITE_05 else b""
    assert watching.stream.data == expected
    assert not watching.stream.over


@pytest.mark.parametrize("version", ALL)
@pytest.mark.parametrize("permissions", [Permissions("", (), ("mine",)), Permissions("", ("",), ())])
async def test_a_watch_out_of_scope_looks_like_an_empty_one(
    world: World, version: Version, permissions: Permissions
) -> None:
    await world.publisher(Version.LITE_05, "theirs/cam")
    peer = await world.viewer(version, permissions=permissions)
    inside = await world.viewer(version)
    out_of_scope, empty = peer.watch("theirs"), inside.watch("nothing")
    await settle()
    assert out_of_scope.stream.data == empty.stream.data
    assert not out_of_scope.stream.over


@pytest.mark.parametrize(("one", "two"), pairs())
async def test_announcements_cross_every_pair_of_versions(world: World, one: Version, two: Version) -> None:
    publisher = await world.publisher(one, "room/cam")
    viewer = await world.viewer(two)
    watching = viewer.watch("room")
    await settle()
    assert watching.paths == ["cam"]
    if two <= Version.LITE_02:
        assert watching.items == [AnnounceInit(("cam",))]
    elif two >= Version.LITE_05:
        assert watching.items[0] == AnnounceOk(HOP, 1)
    publisher.publish("room/mic")
    publisher.publish("hall/cam")
    await settle()
    assert watching.paths == ["cam", "mic"]
    publisher.unpublish("room/cam")
    await settle()
    assert watching.paths == ["mic"]
    publisher.publish("room/cam")
    publisher.unpublish("room/mic")
    await settle()
    assert watching.paths == ["cam"]
    publisher.close()
    await settle()
    assert watching.paths == []


@pytest.mark.parametrize("version", ALL)
async def test_the_path_itself_is_the_empty_suffix(world: World, version: Version) -> None:
    await world.publisher(Version.LITE_03, "room/cam")
    viewer = await world.viewer(version)
    watching = viewer.watch("room/cam")
    await settle()
    assert watching.paths == [""]


async def test_who_stamps_which_hop() -> None:
    """03 sends the count plus one, 04 appends the own id, 05 and 06 send the list alone."""
    world = World()
    publisher = await world.viewer(Version.LITE_05)
    publisher.publish("p", (501, 502), origin=503)
    await settle()
    seen = {}
    for version in Version:
        viewer = await world.viewer(version)
        watching = viewer.watch()
        await settle()
        seen[version] = watching.read().live["p"]
    assert seen[Version.LITE_03].hop_count == 4
    assert seen[Version.LITE_04].hops == (501, 502, 503, HOP)
    assert seen[Version.LITE_05].hops == (501, 502, 503)
    assert seen[Version.LITE_06].hops == (501, 502, 503)
    await world.close()


async def test_a_publisher_without_identity_counts_as_one_hop_fixed_per_announcement() -> None:
    world = World()
    first = await world.publisher(Version.LITE_01, "a", "b")
    second = await world.publisher(Version.LITE_02, "c")
    third = await world.viewer(Version.LITE_03)
    third.publish("d", hop_count=3)
    viewer = await world.viewer(Version.LITE_06)
    watching = viewer.watch()
    await settle()
    live = watching.read().live
    assert len({live[path].hops[0] for path in "abcd"}) == 4
    assert [len(live[path].hops) for path in "abcd"] == [1, 1, 1, 3]
    assert live["d"].hops[1:] == (0, 0)
    assert all(live[path].hops[0] for path in "abcd")
    assert live["a"].warm == 0
    assert live["a"].cold == (1 << 62) - 1
    former = live["a"].hops
    first.unpublish("a")
    await settle()
    first.publish("a")
    await settle()
    assert watching.read().live["a"].hops != former
    del second
    await world.close()


async def test_06_adds_the_links_cost_to_both_costs(world: World) -> None:
    watching = (await world.viewer(Version.LITE_06)).watch()
    most = (1 << 62) - 1
    for number, (cost, expected) in enumerate([(None, (4, 10)), (0, (3, 9)), (10, (13, 19))]):
        publisher = world.connect(Version.LITE_06, cost=cost)
        await settle()
        publisher.publish(f"p{number}", warm=3, cold=9, origin=7)
        publisher.publish(f"max{number}", warm=most, cold=most, origin=7)
        await settle()
        item = watching.read().live[f"p{number}"]
        assert (item.warm, item.cold) == expected
        item = watching.live[f"max{number}"]
        assert (item.warm, item.cold) == (most, most)


@pytest.mark.parametrize("version", FROM_04)
async def test_a_route_that_came_through_this_relay_is_discarded(world: World, version: Version) -> None:
    publisher = await world.viewer(version)
    publisher.publish("loop", (4, HOP, 5), origin=6)
    publisher.publish("fine", (4, 5), origin=6)
    viewer = await world.viewer(Version.LITE_06)
    watching = viewer.watch()
    await settle()
    assert watching.paths == ["fine"]
    assert not publisher.closed
    publisher.unpublish("loop")
    publisher.unpublish("fine")
    await settle()
    assert watching.paths == []
    assert not publisher.closed


@pytest.mark.parametrize("version", ALL)
@pytest.mark.parametrize("length", [30, 31, 32])
async def test_the_longest_hop_list_kills_nobody(
    world: World, trouble: Trouble, version: Version, length: int
) -> None:
    publisher = await world.viewer(Version.LITE_05)
    publisher.publish("far", tuple(range(100, 99 + length)), origin=50)
    publisher.publish("near", (), origin=50)
    viewer = await world.viewer(version)
    watching = viewer.watch()
    await settle()
    assert not viewer.closed
    assert not trouble.records
    fits = {Version.LITE_03: 31, Version.LITE_04: 31}.get(version, 32)
    assert watching.paths == (["far", "near"] if length <= fits else ["near"])
    publisher.unpublish("far")
    await settle()
    assert watching.paths == ["near"]


@pytest.mark.parametrize("version", [Version.LITE_05, Version.LITE_06])
async def test_a_publisher_that_repeats_its_own_id_kills_no_viewer(
    world: World, trouble: Trouble, version: Version
) -> None:
    """The list has no repetition until the receiver appends the sender."""
    publisher = await world.viewer(version)
    publisher.publish("odd", (50,), origin=50)
    viewers = [await world.viewer(v) for v in Version]
    for viewer in viewers:
        viewer.watch()
    await settle()
    assert not trouble.records
    assert not any(viewer.closed for viewer in viewers)


async def test_a_path_too_deep_for_the_wire_kills_no_viewer(world: World, trouble: Trouble) -> None:
    """32 segments are legal below the publisher's root; the viewer sees them from further up."""
    publisher = await world.viewer(Version.LITE_05, permissions=Permissions("deep/down", ("",), ()))
    publisher.publish("/".join("x" * 32))
    publisher.publish("fine")
    viewers = [await world.viewer(version) for version in Version]
    watches = [viewer.watch() for viewer in viewers]
    await settle()
    assert not trouble.records
    assert not any(viewer.closed for viewer in viewers)
    assert [watching.paths for watching in watches] == [["deep/down/fine"]] * 6


# --- 06 ids ----------------------------------------------------------------------------------------------------------


async def test_06_ids_count_up_and_are_never_reused(world: World) -> None:
    publisher = await world.viewer(Version.LITE_06)
    viewer = await world.viewer(Version.LITE_06)
    watching = viewer.watch()
    await settle()
    publisher.publish("a", (1,), origin=7)
    publisher.publish("b", (1,), origin=7)
    await settle()
    publisher.update("b", (1, 2), warm=4, cold=5)
    publisher.unpublish("a")
    await settle()
    publisher.publish("a", (1,), origin=7)
    await settle()
    publisher.update("a", (1, 3), warm=1, cold=1)
    publisher.unpublish("a")
    await settle()
    kinds = [(type(item).__name__, getattr(item, "announce_id", None)) for item in watching.read().items]
    assert kinds == [
        ("AnnounceOk", None),
        ("AnnounceActive", None),
        ("AnnounceActive", None),
        ("AnnounceUpdate", 1),
        ("AnnounceEnded", 0),
        ("AnnounceActive", None),
        ("AnnounceUpdate", 2),
        ("AnnounceEnded", 2),
    ]
    update = watching.items[3]
    assert update == AnnounceUpdate(1, (1, 2, 7), 5, 6)


@pytest.mark.parametrize(
    "message",
    [AnnounceEnded(announce_id=5), AnnounceUpdate(5, (1,), 0, 0), AnnounceActive("live", (1,))],
    ids=["end", "update", "start"],
)
async def test_06_announcement_errors_close_the_session(
    world: World, message: AnnounceActive | AnnounceEnded | AnnounceUpdate
) -> None:
    publisher = await world.viewer(Version.LITE_06)
    publisher.publish("live", origin=7)
    publisher.announcing().write(message.encode(Version.LITE_06))
    await settle()
    assert [closed.code for closed in publisher.closed] == [3]


async def test_a_retired_06_id_is_unknown(world: World) -> None:
    publisher = await world.viewer(Version.LITE_06)
    publisher.publish("live", origin=7)
    publisher.unpublish("live")
    publisher.announcing().write(AnnounceEnded(announce_id=0).encode(Version.LITE_06))
    await settle()
    assert [closed.code for closed in publisher.closed] == [3]


@pytest.mark.parametrize("version", [v for v in Version if v not in (Version.LITE_05, Version.LITE_06)])
async def test_a_second_active_closes_the_session_before_05(world: World, version: Version) -> None:
    publisher = await world.publisher(version, "live")
    publisher.publish("live")
    await settle()
    assert len(publisher.closed) == 1


@pytest.mark.parametrize("version", [v for v in Version if v <= Version.LITE_05])
async def test_the_end_of_an_unknown_path_is_ignored(world: World, version: Version) -> None:
    publisher = await world.publisher(version, "live")
    publisher.announcing().write(AnnounceEnded("other").encode(version))
    await settle()
    assert not publisher.closed


async def test_05_a_second_active_is_a_new_route_and_restart_a_new_broadcast(world: World) -> None:
    publisher = await world.viewer(Version.LITE_05)
    publisher.publish("p", (1,), origin=7)
    viewers = {
        v: (await world.viewer(v)).watch() for v in (Version.LITE_03, Version.LITE_05, Version.LITE_06)
    }
    await settle()
    publisher.publish("p", (1, 2), origin=7)
    await settle()
    assert viewers[Version.LITE_03].read().items[1:] == []
    assert viewers[Version.LITE_05].read().items[-1] == AnnounceActive("p", (1, 2, 7))
    assert viewers[Version.LITE_06].read().items[-1].hops == (1, 2, 7)
    publisher.publish("p", (1, 2), origin=7, restart=True)
    await settle()
    for watching in viewers.values():
        assert [type(item) for item in watching.read().items[-2:]] == [AnnounceEnded, AnnounceActive]


@pytest.mark.parametrize("version", ALL)
@pytest.mark.parametrize("how", ["fin", "reset"])
async def test_the_end_of_the_announce_stream_withdraws_everything(
    world: World, version: Version, how: str
) -> None:
    publisher = await world.publisher(version, "a", "b")
    watching = (await world.viewer(Version.LITE_05)).watch()
    await settle()
    assert watching.paths == ["a", "b"]
    stream = publisher.announcing()
    if how == "fin":
        stream.write(fin=True)
    else:
        stream.reset(1)
    await settle()
    assert watching.paths == []
    assert not publisher.closed
    assert stream.over, "our half of the stream stays open for ever"


@pytest.mark.parametrize("version", ALL)
@pytest.mark.parametrize("how", ["fin", "reset", "stop"])
async def test_a_watcher_that_leaves_gets_no_more_announcements(
    world: World, version: Version, how: str
) -> None:
    publisher = await world.publisher(Version.LITE_05)
    viewer = await world.viewer(version)
    watching = viewer.watch()
    await settle()
    if how == "fin":
        watching.stream.write(fin=True)
    elif how == "reset":
        watching.stream.reset(1)
    else:
        watching.stream.stop(1)
    await settle()
    assert (await world.count())[2] == 0
    publisher.publish("late")
    await settle()
    assert watching.paths == []
    assert not viewer.closed
    assert watching.stream.over


# --- scopes ----------------------------------------------------------------------------------------------------------


async def test_paths_are_relative_to_root_and_prefix(world: World) -> None:
    publisher = await world.viewer(Version.LITE_05, permissions=Permissions("room/1", ("alice",), ()))
    assert publisher.announce_streams()[0].request.prefix == "alice"
    publisher.publish("cam")  # alice/cam below the root
    await settle()
    everything = (await world.viewer(Version.LITE_05)).watch()
    below = (await world.viewer(Version.LITE_05, permissions=Permissions("room", (), ("",)))).watch("1")
    await settle()
    assert everything.paths == ["room/1/alice/cam"]
    assert below.paths == ["alice/cam"]


@pytest.mark.parametrize("version", ALL)
async def test_nothing_outside_the_grants_is_announced(world: World, version: Version) -> None:
    await world.publisher(Version.LITE_05, "room/a/cam", "room/ab/cam", "room/b/cam", "hall/a/cam")
    peer = await world.viewer(version, permissions=Permissions("room", (), ("a", "c")))
    wide, narrow, other = peer.watch(), peer.watch("a"), peer.watch("b")
    await settle()
    assert wide.paths == ["a/cam"]
    assert narrow.paths == ["cam"]
    assert other.paths == []


async def test_a_route_above_the_grant_is_shown_within_the_grant(world: World) -> None:
    """A wide 06 route serves the grant, and reveals nothing beyond it."""
    publisher = await world.viewer(Version.LITE_06)
    publisher.publish("secret", origin=7)
    peer = await world.viewer(Version.LITE_06, permissions=Permissions("", (), ("secret/mine",)))
    watching = peer.watch()
    await settle()
    assert watching.paths in ([], ["secret/mine"])


async def test_a_narrow_06_watch_gets_the_route_above_as_the_empty_suffix(world: World) -> None:
    publisher = await world.viewer(Version.LITE_06)
    publisher.publish("dyn", origin=7)
    viewer = await world.viewer(Version.LITE_06)
    watching = viewer.watch("dyn/a/b")
    await settle()
    assert watching.paths == [""]
    publisher.unpublish("dyn")
    await settle()
    assert watching.paths == []


async def test_two_06_routes_above_a_watch_are_not_announced_twice(world: World) -> None:
    """Both would be the empty suffix, and a second START of a live suffix ends the peer's session."""
    publisher = await world.viewer(Version.LITE_06)
    publisher.publish("dyn", (1,), origin=7)
    publisher.publish("dyn/a", (2,), origin=7)
    viewer = await world.viewer(Version.LITE_06)
    watching = viewer.watch("dyn/a/b")
    await settle()
    assert watching.read().live[""].hops == (2, 7)
    assert watching.items[0] == AnnounceOk(HOP, 1)
    publisher.publish("dyn/a/b", (3,), origin=7)
    await settle()
    assert watching.read().live[""].hops == (3, 7)
    publisher.unpublish("dyn/a/b")
    publisher.unpublish("dyn/a")
    await settle()
    assert watching.read().live[""].hops == (1, 7)


async def test_prefix_routes_of_06_serve_deeper_paths_for_every_version(world: World) -> None:
    publisher = await world.viewer(Version.LITE_06)
    publisher.publish("dyn", origin=7)
    for version in Version:
        viewer = await world.viewer(version)
        viewer.subscribe("dyn/deep/er")
    await settle()
    publisher.answer_tracks()
    await settle()
    assert {request.broadcast for _, request in publisher.subscriptions()} == {"dyn/deep/er"}


@pytest.mark.parametrize("version", [v for v in Version if v <= Version.LITE_05])
async def test_before_06_an_announcement_covers_its_path_only(world: World, version: Version) -> None:
    await world.publisher(version, "dyn")
    viewer = await world.viewer(Version.LITE_05)
    _, stream = viewer.subscribe("dyn/deeper")
    await settle()
    assert stream.resets == [54]


# --- loops -----------------------------------------------------------------------------------------------------------


async def test_exclude_hop_of_04_and_05_hides_routes_through_the_peer(world: World) -> None:
    for number, version in enumerate((Version.LITE_04, Version.LITE_05)):
        publisher = await world.viewer(Version.LITE_05)
        publisher.publish(f"through{number}", (31,), origin=32)
        publisher.publish(f"beside{number}", (33,), origin=34)
        viewer = await world.viewer(version)
        watching = viewer.watch(exclude=31)
        await settle()
        assert [path for path in watching.paths if path.endswith(str(number))] == [f"beside{number}"]


async def test_06_excludes_the_hop_of_the_peers_setup(world: World) -> None:
    publisher = await world.viewer(Version.LITE_06)
    publisher.publish("through", (31,), origin=32)
    publisher.publish("beside", (33,), origin=34)
    viewer = world.connect(Version.LITE_06, origin=31)
    await settle()
    watching = viewer.watch()
    _, refused = viewer.subscribe("through")
    await settle()
    publisher.publish("late", (30, 31), origin=32)
    await settle()
    # 32 of the publisher is appended to both; 31 is in two of them
    assert watching.paths == ["beside"]
    assert watching.items[0] == AnnounceOk(HOP, 1)
    assert refused.resets == [54]


async def test_no_session_gets_its_own_announcements(world: World) -> None:
    for version in Version:
        peer = await world.publisher(version, f"own{version.value}")
        watching = peer.watch()
        await settle()
        assert f"own{version.value}" not in watching.paths


@pytest.mark.parametrize("version", [Version.LITE_01, Version.LITE_02, Version.LITE_03])
async def test_an_echo_does_not_take_the_broadcast_over(world: World, version: Version) -> None:
    publisher = await world.publisher(Version.LITE_05, "live")
    echoing = await world.viewer(version)
    echoing.watch()
    await settle()
    echoing.publish("live", hop_count=2)
    await settle()
    assert publisher.relay.pings == 1
    viewer = await world.viewer(Version.LITE_05)
    viewer.subscribe("live")
    await settle()
    assert len(publisher.track_requests()) == 1
    assert not echoing.subscriptions()


async def test_a_publisher_that_returns_takes_over_from_its_dead_session() -> None:
    world = World(Limits(track_idle=0.01))
    dead = await world.publisher(Version.LITE_03, "live")
    dead.session.silent = True
    returned = await world.viewer(Version.LITE_03)
    returned.watch()
    await settle()
    returned.publish("live")
    viewer = await world.viewer(Version.LITE_04)
    watching = viewer.watch()
    await settle()
    assert watching.paths == ["live"]
    await until(lambda: len(watching.read().items) == 3)  # ended and active again
    viewer.subscribe("live")
    await settle()
    assert len(returned.subscriptions()) == 1
    assert not dead.subscriptions()
    await world.close()


async def test_a_takeover_is_ended_and_active_for_every_version(world: World) -> None:
    await world.publisher(Version.LITE_03, "live")
    watches = [(await world.viewer(version)).watch() for version in Version]
    await settle()
    second = await world.publisher(Version.LITE_03, "live")
    for watching in watches:
        kinds = [type(item) for item in watching.read().items[-2:]]
        assert kinds == [AnnounceEnded, AnnounceActive]
    second.close()
    await settle()
    for watching in watches:
        kinds = [type(item) for item in watching.read().items[-2:]]
        assert kinds == [AnnounceEnded, AnnounceActive]


async def test_a_large_initial_set_is_readable_for_every_version() -> None:
    world = World()
    publisher = await world.publisher(Version.LITE_05)
    for number in range(3_000):
        publisher.publish(f"a/rather/long/path/to/broadcast/{number:06}")
    await settle()
    for version in Version:
        viewer = await world.viewer(version)
        watching = viewer.watch()
        await settle()
        assert len(watching.paths) == 3_000, version
    await world.close()


async def test_announce_requests_of_the_relay_look_right(world: World) -> None:
    for version in Version:
        peer = await world.viewer(version)
        stream = peer.announce_streams()[0]
        assert stream.data == open_request(version, AnnounceRequest("", HOP))


# --- other routes to the same broadcast ------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ALL)
@pytest.mark.parametrize("how", ["lost", "closed", "withdrawn"])
async def test_another_route_to_the_same_publisher_is_an_update_at_most(
    world: World, version: Version, how: str
) -> None:
    """A viewer's subscriptions move by themselves, so versions up to 04 need no update."""
    longer = await world.viewer(Version.LITE_05)
    longer.publish("p", (7, 8), origin=2)
    await settle()
    watching = (await world.viewer(version)).watch()
    await settle()
    before = len(watching.read().items)
    shorter = await world.viewer(Version.LITE_05)
    shorter.publish("p", (7,), origin=1)
    await settle()
    if how == "lost":
        shorter.session.fail()
    elif how == "closed":
        shorter.close()
    else:
        shorter.unpublish("p")
    await settle()
    assert watching.paths == ["p"]
    update = {Version.LITE_05: AnnounceActive, Version.LITE_06: AnnounceUpdate}.get(version)
    assert [type(item) for item in watching.items[before:]] == ([] if update is None else [update] * 2)
    if version >= Version.LITE_05:
        assert [item.hops for item in watching.items[before:]] == [(7, 1), (7, 8, 2)]


@pytest.mark.parametrize("version", ALL)
async def test_what_a_version_has_no_field_for_is_no_news_to_its_peers(
    world: World, version: Version
) -> None:
    """Only 06 has costs: 05 would see the same announcement again, perhaps as another route."""
    publisher = await world.viewer(Version.LITE_06)
    publisher.publish("p", (7,), warm=1, cold=1)
    await settle()
    watching = (await world.viewer(version)).watch()
    await settle()
    before = len(watching.read().items)
    publisher.update("p", (7,), warm=2, cold=2)
    publisher.update("p", (7,), warm=3, cold=3)
    await settle()
    kinds = [type(item) for item in watching.read().items[before:]]
    assert kinds == ([AnnounceUpdate] * 2 if version == Version.LITE_06 else [])
    publisher.update("p", (7, 8), warm=3, cold=3)
    await settle()
    kinds = [type(item) for item in watching.read().items[before + len(kinds) :]]
    update = {Version.LITE_05: AnnounceActive, Version.LITE_06: AnnounceUpdate}.get(version)
    assert kinds == ([] if update is None else [update])


@pytest.mark.parametrize("version", ALL)
async def test_another_publisher_is_an_end_and_a_start(world: World, version: Version) -> None:
    first, second = await world.viewer(Version.LITE_05), await world.viewer(Version.LITE_05)
    first.publish("p", (7,), origin=1)
    await settle()
    watching = (await world.viewer(version)).watch()
    await settle()
    before = len(watching.read().items)
    second.publish("p", (8,), origin=1)
    await settle()
    second.session.fail()
    await settle()
    kinds = [type(item) for item in watching.read().items[before:]]
    assert kinds == [AnnounceEnded, AnnounceActive] * 2


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
async def test_of_equal_routes_the_one_with_the_smaller_ids_is_announced(
    world: World, order: tuple[int, ...]
) -> None:
    watching = (await world.viewer(Version.LITE_06)).watch()
    hops = [((7,), 11), ((7,), 12), ((7,), 100)]
    for number in order:
        peer = await world.viewer(Version.LITE_05)
        peer.publish("p", hops[number][0], origin=hops[number][1])
        await settle()
    assert watching.read().live["p"].hops == (7, 11)
