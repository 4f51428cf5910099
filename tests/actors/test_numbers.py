"""Numbers and timestamps of a track with several publishers, one after the other or side by side.

Viewers, late viewers, FETCH and HTTP get the same group for a number; the timestamps of a subscription have one unit.
"""

from __future__ import annotations

import pytest

from relay.actors import messages as m
from relay.actors.reader import Over, ReaderActor, Reading
from relay.model.limits import Limits
from relay.wire.control import TrackInfo
from relay.wire.errors import StreamCode
from relay.wire.frame import Datagram
from relay.wire.frame_decoder import FrameDecoder
from relay.wire.subscribe import Subscribe, SubscribeDrop
from relay.wire.version import Version
from tests.actors.fakes import payload_of
from tests.actors.raw_peer import PeerStream, RawPeer, RequestStream, follow_up
from tests.actors.watching import actor_of
from tests.actors.world import World
from tests.clock import RUNTIME, advance, settle
from tests.sampling import ALL, pairs

TIMED = [Version.LITE_05, Version.LITE_06]
WITH_IDS = [v for v in Version if v >= Version.LITE_04]
TRACK = "video/hd"


async def publisher(world: World, version: Version, identity: int | None = None) -> RawPeer:
    """Publishes `p`, with an id if given."""
    peer = await world.viewer(version)
    if identity is None:
        peer.publish("p")
    elif version == Version.LITE_04:
        peer.publish("p", (identity,))
    else:
        peer.publish("p", origin=identity)
    await settle()
    return peer


async def newest(peer: RawPeer) -> tuple[RequestStream, Subscribe]:
    await follow_up(peer)
    return peer.subscriptions()[-1]


async def groups(peer: RawPeer, name: str, *sequences: int) -> None:
    """Whole groups of one frame, with the publisher's name."""
    _, request = await newest(peer)
    for sequence in sequences:
        peer.group(request.id, sequence, b"%s%d" % (name.encode(), sequence))
        await settle()


def seen(viewer: RawPeer, number: int) -> dict[int, bytes]:
    """Whole groups, by the viewer's number."""
    found = {}
    for group in viewer.incoming:
        if group.header is not None and group.header.subscribe_id == number and group.fins:
            assert group.header.sequence not in found
            found[group.header.sequence] = b"".join(group.payloads)
    assert list(found) == sorted(found)
    return found


async def fetched(viewer: RawPeer, sequence: int, peer: RawPeer, name: str) -> bytes | int:
    """The payload, or the code of the refusal. `peer` has every group."""
    before = len(peer.fetches())
    stream = viewer.fetch("p", sequence, TRACK)
    await settle()
    for reply, request in peer.fetches()[before:]:
        reply.write(peer.frames(b"%s%d" % (name.encode(), request.group)), fin=True)
    await settle()
    return payload(viewer, stream)


def payload(viewer: RawPeer, stream: PeerStream) -> bytes | int:
    if stream.resets:
        return stream.resets[0]
    assert stream.fins == 1
    parts = FrameDecoder(viewer.version, 1 << 20).feed(stream.data)
    return b"".join(part for part in parts if isinstance(part, bytes))


async def read(world: World, sequence: int | None) -> bytes | int | None:
    """The same over HTTP."""
    got: list[m.GroupFragment | Over] = []
    reading = Reading("p", TRACK, sequence)
    ReaderActor.start(RUNTIME, origin=world.origin, number=10_000, reading=reading, sink=got.append)
    await settle()
    if isinstance(got[-1], Over):
        return got[-1].code
    return payload_of(got)


def stamps(viewer: RawPeer, number: int) -> list[int]:
    """Timestamps of all frames, in order of arrival."""
    return [
        timestamp
        for group in viewer.incoming
        if group.header is not None and group.header.subscribe_id == number
        for timestamp, _ in group.frames
        if timestamp is not None
    ]


# --- one number is one group -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", TIMED)
@pytest.mark.parametrize("returns", [False, True], ids=["another publisher", "the same id"])
async def test_every_request_gets_the_same_group_after_a_takeover(
    world: World, version: Version, returns: bool
) -> None:
    first = await publisher(world, version, 7)
    viewer, late = await world.viewer(version), await world.viewer(version)
    number, stream = viewer.subscribe("p", TRACK)
    await groups(first, "a", 0, 1, 2, 3, 4, 5, 6)
    second = await publisher(world, version, 7 if returns else 9)
    first.close()
    await settle()
    await groups(second, "b", 2, 3)
    assert seen(viewer, number) == {**{n: b"a%d" % n for n in range(7)}, 7: b"b2", 8: b"b3"}
    beside, _ = late.subscribe("p", TRACK)
    await settle()
    assert seen(late, beside) == {8: b"b3"}
    for sequence, expected in ((7, b"b2"), (8, b"b3"), (9, b"b4"), (6, StreamCode.NOT_FOUND)):
        assert await fetched(late, sequence, second, "b") == expected
    assert await read(world, 8) == b"b3"
    assert await read(world, 6) == StreamCode.NOT_FOUND
    assert await read(world, None) == b"b3"
    assert not stream.over


@pytest.mark.parametrize("version", TIMED)
async def test_the_numbers_of_two_publishers_that_are_watched_are_never_the_same(
    world: World, version: Version
) -> None:
    first = await publisher(world, version, 7)
    viewer, late = await world.viewer(version), await world.viewer(version)
    number, _ = viewer.subscribe("p", TRACK)
    await groups(first, "a", 0, 1)
    second = await publisher(world, version, 9)
    beside, _ = late.subscribe("p", TRACK)
    await groups(second, "b", 0, 1, 2)
    await groups(first, "a", 2, 3)
    mine, others = seen(viewer, number), seen(late, beside)
    assert list(mine.values()) == [b"a0", b"a1", b"a2", b"a3"]
    assert list(others.values()) == [b"b0", b"b1", b"b2"]
    for sequence, expected in others.items():
        assert await fetched(viewer, sequence, second, "b") == expected
    for sequence in mine:
        assert await fetched(viewer, sequence, second, "b") == StreamCode.NOT_FOUND
    first.close()
    await settle()
    await groups(second, "b", 3)
    assert list(seen(viewer, number).values())[-1] == b"b3"
    assert set(seen(viewer, number).items()) & set(seen(late, beside).items()) == {
        *list(seen(viewer, number).items())[len(mine) :]
    }


async def test_a_track_that_nobody_watches_any_more_leaves_no_numbers(world: World) -> None:
    for round_ in range(3):
        first = await publisher(world, Version.LITE_05)
        viewer = await world.viewer(Version.LITE_05)
        number, stream = viewer.subscribe("p", TRACK)
        await groups(first, "a", 0)
        assert seen(viewer, number) == {0: b"a0"}, round_
        assert len(actor_of(world.origin)._numbers) == 1
        stream.write(fin=True)
        await settle()
        first.close()
        await settle()
        assert not actor_of(world.origin)._numbers


@pytest.mark.virtual
async def test_numbers_of_a_lost_track_are_kept_until_viewers_have_asked_again() -> None:
    world = World(linger=2.0)
    first = await publisher(world, Version.LITE_05)
    viewer = await world.viewer(Version.LITE_05)
    viewer.subscribe("p", TRACK)
    await groups(first, "a", 0)
    first.session.fail()
    await settle()
    assert actor_of(world.origin)._numbers
    await advance(10)
    assert not actor_of(world.origin)._numbers
    await world.close()


# --- a new beginning is shown ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["lost", "closed", "withdrawn", "hangs"])
@pytest.mark.parametrize(("publishers", "version"), pairs(WITH_IDS))
@pytest.mark.virtual
async def test_a_publisher_that_comes_back_and_counts_anew_is_shown_from_its_first_group(
    version: Version, publishers: Version, how: str
) -> None:
    """It has the same id and slightly lower numbers: a catalogue may have one group in all."""
    world = World(Limits(track_idle=0.01), linger=5.0 if how == "lost" else 0.0)
    spare = await publisher(world, Version.LITE_05) if how == "closed" else None
    old = await publisher(world, publishers, 7)
    viewer = await world.viewer(version)
    number, stream = viewer.subscribe("p", TRACK)
    await groups(old, "a", 0)
    if how == "lost":
        old.session.fail()
        await settle()
    elif how == "withdrawn":
        old.unpublish("p")
        await settle()
    elif how == "hangs":
        old.session.silent = True
    new = await publisher(world, publishers, 7)
    if how in ("closed", "withdrawn"):
        old.close()
    await advance(2)
    await groups(new, "b", 0)
    assert list(seen(viewer, number).values()) == [b"a0", b"b0"]
    assert not stream.over
    assert spare is None or not spare.subscriptions()
    await world.close()


@pytest.mark.parametrize("fin", [True, False], ids=["finished", "open"])
@pytest.mark.parametrize("version", ALL)
async def test_who_moves_to_a_publisher_that_runs_gets_its_newest_group_at_once(
    world: World, version: Version, fin: bool
) -> None:
    """It may be the only one. Other viewers keep its lower number."""
    spare = await publisher(world, Version.LITE_05)
    other = await world.viewer(Version.LITE_06)
    beside, _ = other.subscribe("p", TRACK)
    _, request = await newest(spare)
    growing = spare.group(request.id, 0, b"one", fin=fin)
    await settle()
    first = await publisher(world, Version.LITE_05)
    viewer = await world.viewer(version)
    number, stream = viewer.subscribe("p", TRACK)
    await groups(first, "a", 40)
    first.close()
    await settle()
    assert b"".join(viewer.groups(number)[-1].payloads) == b"one"
    if not fin:
        growing.write(spare.frames((1, b"two")), fin=True)
        await settle()
    assert list(seen(viewer, number).values()) == [b"a40", b"one" if fin else b"onetwo"]
    assert seen(other, beside) == {0: b"one" if fin else b"onetwo"}
    await groups(spare, "b", 1)
    assert list(seen(viewer, number).items())[-1] == list(seen(other, beside).items())[-1]
    assert list(seen(other, beside).values())[-1] == b"b1"
    assert not stream.over


@pytest.mark.parametrize("version", TIMED)
async def test_numbers_that_a_track_jumps_over_are_no_missing_groups(world: World, version: Version) -> None:
    spare = await publisher(world, Version.LITE_05)
    (await world.viewer(Version.LITE_06)).subscribe("p", TRACK)
    await groups(spare, "b", 0)
    first = await publisher(world, Version.LITE_05)
    viewer = await world.viewer(version)
    _, stream = viewer.subscribe("p", TRACK)
    await groups(first, "a", 40)
    first.close()
    await settle()
    await groups(spare, "b", 1, 2)
    ending, _ = await newest(spare)
    spare.end_track(ending, 3)
    await settle()
    assert stream.fins == 1
    assert not [reply for reply in viewer.replies(stream) if isinstance(reply, SubscribeDrop)]


async def test_a_number_under_which_one_viewer_got_a_group_is_no_other_one_for_the_next_publisher(
    world: World,
) -> None:
    third, spare = await publisher(world, Version.LITE_05), await publisher(world, Version.LITE_05)
    other = await world.viewer(Version.LITE_05)
    beside, _ = other.subscribe("p", TRACK)
    await groups(spare, "b", 0)
    first = await publisher(world, Version.LITE_05)
    viewer = await world.viewer(Version.LITE_05)
    number, _ = viewer.subscribe("p", TRACK)
    await groups(first, "a", 40)
    for lost in (first, spare):
        lost.close()
        await settle()
    await groups(third, "c", 0)
    mine, others = seen(viewer, number), seen(other, beside)
    assert list(mine.values()) == [b"a40", b"b0", b"c0"]
    assert list(others.values()) == [b"b0", b"c0"]
    assert all(others.get(sequence, payload) == payload for sequence, payload in mine.items())


async def test_datagrams_have_the_numbers_of_groups(world: World) -> None:
    first = await publisher(world, Version.LITE_05)
    viewer = await world.viewer(Version.LITE_06)
    viewer.subscribe("p", TRACK)
    await groups(first, "a", 5)
    second = await publisher(world, Version.LITE_05)
    first.close()
    _, request = await newest(second)
    for sequence in (0, 1):
        second.session.send_datagram(Datagram(request.id, sequence, 9, b"x").encode(second.version))
        await settle()
    await groups(second, "b", 2)
    assert [Datagram.decode(data, viewer.version).sequence for data in viewer.datagrams] == [6, 7]
    assert await fetched(viewer, 8, second, "b") == b"b2"


# --- one unit for a subscription's life ------------------------------------------------------------------------------


def info(scale: int) -> TrackInfo:
    return TrackInfo(127, ordered=False, max_latency=5000, timescale=scale)


async def answered(peer: RawPeer, scale: int) -> Subscribe:
    """The relay's subscription, with its TRACK request answered."""
    for _ in range(2):
        await settle()
        peer.answer_tracks(info(scale))
    await settle()
    return peer.subscriptions()[-1][1]


@pytest.mark.parametrize("scale", [1_000_000, 1_000, 90_000])
@pytest.mark.parametrize(("one", "two"), pairs(TIMED, TIMED))
async def test_timestamps_stay_in_the_viewers_unit(
    world: World, one: Version, two: Version, scale: int
) -> None:
    first = await publisher(world, one)
    viewer = await world.viewer(two)
    number, _ = viewer.subscribe("p", TRACK)
    request = await answered(first, 1_000_000)
    first.group(request.id, 0, (60_000_000, b"a"))
    await settle()
    second = await publisher(world, one)
    first.close()
    request = await answered(second, scale)
    second.group(request.id, 0, (61 * scale, b"b"), (62 * scale, b"c"))
    await settle()
    second.session.send_datagram(Datagram(request.id, 1, 63 * scale, b"d").encode(second.version))
    await settle()
    assert stamps(viewer, number) == [60_000_000, 61_000_000, 62_000_000]
    assert [Datagram.decode(data, two).timestamp for data in viewer.datagrams] == [63_000_000]
    late = viewer.info("p", TRACK)
    await settle()
    assert late.data == info(1_000_000).encode(two)


@pytest.mark.parametrize("version", TIMED)
async def test_a_publisher_without_timestamps_follows_in_the_unit_of_the_former(
    world: World, version: Version
) -> None:
    first = await publisher(world, version)
    viewer = await world.viewer(version)
    number, _ = viewer.subscribe("p", TRACK)
    request = await answered(first, 1_000)
    first.group(request.id, 0, (60_000, b"a"))
    await settle()
    second = await publisher(world, Version.LITE_04)
    first.close()
    await groups(second, "b", 0)
    third = await publisher(world, Version.LITE_04)
    late = await world.viewer(version)
    beside, _ = late.subscribe("p", TRACK)
    await groups(third, "c", 0)
    stamp = stamps(viewer, number)[-1]
    assert 0 <= stamps(late, beside)[-1] - stamp < 60_000  # milliseconds of one clock


@pytest.mark.parametrize("version", TIMED)
@pytest.mark.virtual
async def test_groups_wait_until_their_publisher_has_said_in_which_unit_it_counts(version: Version) -> None:
    world = World()
    first = await publisher(world, version)
    viewer = await world.viewer(version)
    number, stream = viewer.subscribe("p", TRACK)
    request = await answered(first, 1_000)
    first.group(request.id, 0, (60_000, b"a"))
    await settle()
    second = await publisher(world, version)
    first.close()
    await settle()
    request = second.subscriptions()[-1][1]
    second.group(request.id, 0, (61_000_000, b"b"))
    await advance(1)
    assert stamps(viewer, number) == [60_000]
    second.answer_tracks(info(1_000_000))
    await settle()
    assert stamps(viewer, number) == [60_000, 61_000]
    assert not stream.over
    await world.close()


@pytest.mark.parametrize("how", ["time", "bytes"])
@pytest.mark.virtual
async def test_a_publisher_that_does_not_say_its_unit_is_not_waited_for_for_ever(how: str) -> None:
    world = World(Limits(track_idle=0.01, answer_timeout=5.0, cache_track=1000))
    first = await publisher(world, Version.LITE_05)
    viewer = await world.viewer(Version.LITE_05)
    number, stream = viewer.subscribe("p", TRACK)
    request = await answered(first, 1_000)
    first.group(request.id, 0, (60_000, b"a"))
    await settle()
    second = await publisher(world, Version.LITE_05)
    first.close()
    await settle()
    request = second.subscriptions()[-1][1]
    second.group(request.id, 0, (61_000_000, b"b"))
    await settle()
    if how == "time":
        await advance(6)
    else:
        second.group(request.id, 1, (61_000_000, bytes(1000)))
        await settle()
    assert stream.resets == [0]  # its publisher was lost
    assert stamps(viewer, number) == [60_000]
    await world.close()
