"""Two clients over memory, in every version: one publishes, the other watches."""

from __future__ import annotations

import asyncio

import pytest

from relay.client import (
    AnnounceError,
    Change,
    ClientError,
    FetchError,
    Frame,
    GroupAborted,
    SubscribeError,
    TrackInfoError,
)
from relay.model.route import MAX_COST
from relay.model.track import TrackProperties
from relay.moq.session import (
    FetchRequested,
    GroupStopped,
    InfoRequested,
    RequestCancelled,
    StrayGroup,
    SubscribeRequested,
    SubscribeUpdated,
)
from relay.wire.control import Probe
from relay.wire.errors import StreamCode
from relay.wire.version import Version
from tests.client.recording import requested, requests_of, subscriptions_of
from tests.client.support import ALL, FETCHING, OLD, pair

pytestmark = pytest.mark.timeout(20)

versions = pytest.mark.parametrize("version", ALL, ids=lambda version: version.name_on_wire)
fetching = pytest.mark.parametrize("version", FETCHING, ids=lambda version: version.name_on_wire)
UPDATING = [version for version in ALL if version not in OLD]
updating = pytest.mark.parametrize("version", UPDATING, ids=lambda version: version.name_on_wire)


def missing(version: Version, code: StreamCode) -> int:
    """The code of 'not here'."""
    return 13 if version in OLD else code


def stamped(version: Version, *frames: tuple[bytes, int]) -> list[Frame]:
    """The frames of a version."""
    return [Frame(payload, time if version >= Version.LITE_05 else None) for payload, time in frames]


# -- announcements


@versions
async def test_what_is_live_and_what_comes_and_goes_is_announced(version: Version) -> None:
    async with pair(version) as (near, far):
        first = far.publish("demo/cam")
        far.publish("other/cam")
        announced = near.announced("demo")
        await announced.initial()
        await announced.wait_for("demo/cam")
        far.publish("demo/mic")
        await announced.wait_for("demo/mic")
        first.unannounce()
        first.announce()
        far.publish("demo")
        changes = [await anext(announced) for _ in range(5)]
        assert [(change.path, change.active) for change in changes] == [
            ("demo/cam", True),
            ("demo/mic", True),
            ("demo/cam", False),
            ("demo/cam", True),
            ("demo", True),
        ]
        assert set(announced.live) == {"demo/cam", "demo/mic", "demo"}


@versions
async def test_hops_are_stamped_as_the_version_says(version: Version) -> None:
    async with pair(version, hop=77) as (near, far):
        far.publish("demo", hops=(5, 6), warm=3, cold=4)
        announced = near.announced()
        hops = {1: (), 2: (), 3: (0, 0, 0), 4: (5, 6, 77), 5: (5, 6), 6: (5, 6)}[version]
        costs = (3, 4) if version == Version.LITE_06 else (0, MAX_COST)
        assert await anext(announced) == Change("demo", active=True, hops=hops, warm=costs[0], cold=costs[1])
        assert announced.origin == (77 if version >= Version.LITE_05 else None)


@versions
async def test_another_route_is_an_update_where_the_version_can_express_it(version: Version) -> None:
    async with pair(version) as (near, far):
        publication = far.publish("demo")
        announced = near.announced()
        await announced.wait_for("demo")
        publication.update(hops=(9,), cold=8)
        far.publish("next")
        await announced.wait_for("next")
        changes = [await anext(announced) for _ in range(2 + (version >= Version.LITE_05))]
        assert all(change.active for change in changes)
        if version >= Version.LITE_05:
            cold = 8 if version == Version.LITE_06 else MAX_COST
            assert changes[1] == Change("demo", active=True, hops=(9,), cold=cold, update=True)


@versions
async def test_the_end_of_the_announce_stream_is_the_end_of_what_was_live(version: Version) -> None:
    async with pair(version) as (near, far):
        far.publish("demo")
        announced = near.announced()
        await announced.wait_for("demo")
        (writer,) = far.moq.serving._writers.values()
        writer.stream.write((), fin=True)
        assert [change.active async for change in announced] == [True, False]
        with pytest.raises(ClientError, match="demo"):
            await announced.wait_for("demo")

        refused = near.announced("more")
        await requested(far, 2)
        [*far.moq.serving._writers.values()][-1].stream.reset(5)
        with pytest.raises(AnnounceError) as caught:
            await anext(refused)
        assert caught.value.code == 5
        refused.close()
        with pytest.raises(AnnounceError):
            await anext(refused)


@versions
async def test_two_publications_that_share_a_path_are_withdrawn_one_by_one(version: Version) -> None:
    async with pair(version) as (near, far):
        announced = near.announced()
        first = far.publish("demo")
        first.unannounce()
        second = far.publish("demo")
        first.announce()
        await announced.wait_for("demo")
        first.close()
        await announced.wait_for("demo", active=False)
        second.close()
        second.close()
        with pytest.raises(ValueError, match="closed"):
            second.announce()


@versions
async def test_a_closed_interest_gets_no_more_announcements(version: Version) -> None:
    async with pair(version) as (near, far):
        announced = near.announced()
        await requested(far, 1)
        announced.close()
        assert [change async for change in announced] == []
        near.announced("again")
        await requested(far, 2)
        assert len(far.moq.serving._writers) == 1


# -- subscriptions


@versions
async def test_a_viewer_gets_every_frame(version: Version) -> None:
    async with pair(version) as (near, far):
        publication = far.publish("demo/cam")
        video = publication.track("video/hd", priority=9, latency_ms=700, timescale=1000)
        subscription = await near.subscribe("demo/cam", "video/hd", priority=3)
        if version >= Version.LITE_05:
            assert subscription.info == TrackProperties(9, ordered=False, max_latency_ms=700, timescale=1000)
        else:
            assert subscription.info is None
            assert subscription.ok is not None
            assert subscription.ok.priority == (0 if version == Version.LITE_02 else 3)
        await video.used()
        for number in range(3):
            group = video.group()
            group.write(b"a%d" % number, 1000 * number)
            group.write(b"", 1000 * number + 5)
            group.write(b"b%d" % number, 1000 * number + 1)
            group.finish()
        video.finish()
        received = {group.sequence: await group.read_all() async for group in subscription}
        assert received == {
            number: stamped(
                version,
                (b"a%d" % number, 1000 * number),
                (b"", 1000 * number + 5),
                (b"b%d" % number, 1000 * number + 1),
            )
            for number in range(3)
        }
        await video.unused()
        if version >= Version.LITE_05:
            assert subscription.ok is not None
            assert (subscription.ok.group, subscription.end) == (0, 3)
        kinds = [SubscribeRequested] if version <= Version.LITE_04 else [InfoRequested, SubscribeRequested]
        assert [type(request) for request in requests_of(publication)] == kinds
        assert len(subscriptions_of(publication)) == 1
        assert [type(request) for request in publication.requests] == kinds
        assert list(video.requests) == subscriptions_of(publication)
        assert not far.seen(RequestCancelled)
        assert near.faults == far.faults == []


@versions
async def test_who_comes_late_gets_the_latest_group_from_its_first_frame(version: Version) -> None:
    async with pair(version) as (near, far):
        video = far.publish("demo").track("video/hd")
        old = video.group()
        old.write(b"old")
        old.finish()
        group = video.group()
        group.write(b"one", 1)
        group.start_frame(6, 2)
        group.write_chunk(b"two")
        subscription = await near.subscribe("demo", "video/hd")
        reader = await anext(subscription)
        assert reader.sequence == 1
        assert [await anext(reader)] == stamped(version, (b"one", 1))
        group.write_chunk(b"two")
        group.finish()
        assert await reader.read_all() == stamped(version, (b"twotwo", 2))


@versions
async def test_a_frame_comes_in_the_pieces_in_which_it_was_written(version: Version) -> None:
    async with pair(version) as (near, far):
        video = far.publish("demo").track("video/hd")
        subscription = await near.subscribe("demo", "video/hd")
        await video.used()
        group = video.group()
        group.start_frame(9, 4)
        pieces = (await anext(subscription)).pieces()
        header = await anext(pieces)
        assert not isinstance(header, bytes)
        assert header.size == 9
        assert header.timestamp == 4 or not version.has_timestamps
        for chunk in (b"abc", b"def", b"ghi"):
            group.write_chunk(chunk)
            assert await anext(pieces) == chunk
        group.finish()
        assert [piece async for piece in pieces] == []


async def test_whole_frames_follow_one_that_was_read_in_pieces() -> None:
    async with pair(Version.LITE_06) as (near, far):
        video = far.publish("demo").track("video/hd")
        group = video.group()
        group.start_frame(6, 1)
        group.write_chunk(b"one")
        reader = await anext(await near.subscribe("demo", "video/hd"))
        pieces = reader.pieces()
        start = await anext(pieces)
        assert not isinstance(start, bytes)
        assert (start.timestamp, start.size) == (1, 6)
        next_frame = asyncio.ensure_future(anext(reader))
        await asyncio.sleep(0.01)
        assert not next_frame.done()
        group.write_chunk(b"two")
        group.write(b"whole", 2)
        assert await next_frame == Frame(b"whole", 2)
        group.finish()
        assert await reader.read_all() == []


async def test_a_writer_keeps_to_the_size_it_announced() -> None:
    async with pair(Version.LITE_06) as (_near, far):
        video = far.publish("demo").track("video/hd")
        group = video.group()
        with pytest.raises(ValueError, match="room for 0"):
            group.write_chunk(b"x")
        group.start_frame(3)
        with pytest.raises(ValueError, match="room for 3"):
            group.write_chunk(b"four")
        for unfinished in (group.finish, group.start_frame):
            with pytest.raises(ValueError, match="lacks 3"):
                unfinished(*([1] if unfinished == group.start_frame else []))
        group.write_chunk(b"abc")
        group.finish()
        with pytest.raises(ValueError, match="ended"):
            group.write(b"more")
        with pytest.raises(ValueError, match="exists"):
            video.group(0)
        video.finish()
        with pytest.raises(ValueError, match="ended"):
            video.group()


@versions
async def test_an_aborted_group_keeps_what_was_whole(version: Version) -> None:
    async with pair(version) as (near, far):
        video = far.publish("demo").track("video/hd")
        subscription = await near.subscribe("demo", "video/hd")
        await video.used()
        group = video.group()
        group.write(b"whole", 1)
        group.start_frame(5, 2)
        reader = await anext(subscription)
        assert [await anext(reader)] == stamped(version, (b"whole", 1))
        group.abort(71)
        with pytest.raises(GroupAborted) as caught:
            await anext(reader)
        assert caught.value.code == reader.code == (0 if version in OLD else 71)
        assert video.cache.newest is None
        video.group().write(b"next")
        assert (await anext(subscription)).sequence == 1


@versions
async def test_an_aborted_track_aborts_the_subscription(version: Version) -> None:
    async with pair(version) as (near, far):
        publication = far.publish("demo")
        video = publication.track("video/hd")
        subscription = await near.subscribe("demo", "video/hd")
        await video.used()
        video.group().write(b"x")
        reader = await anext(subscription)
        publication.close(69)
        code = 0 if version in OLD else 69
        with pytest.raises(SubscribeError) as caught:
            await anext(subscription)
        assert caught.value.code == subscription.code == code
        with pytest.raises(GroupAborted):
            await reader.read_all()
        with pytest.raises(SubscribeError) as caught:
            await anext(await near.subscribe("demo", "video/hd"))
        assert caught.value.code == missing(version, StreamCode.UNROUTABLE)


async def test_an_aborted_track_takes_nothing_more_in_any_group() -> None:
    async with pair(Version.LITE_06) as (_near, far):
        video = far.publish("demo").track("video/hd", keep=1)
        groups = [video.group() for _ in range(3)]
        video.abort()
        for group in groups:
            assert not group.open
            with pytest.raises(ValueError, match="ended"):
                group.write(b"late")


@versions
async def test_what_does_not_exist_is_refused(version: Version) -> None:
    async with pair(version) as (near, far):
        publication = far.publish("demo", tracks=["video/hd"])
        for broadcast, code in (("demo", StreamCode.NOT_FOUND), ("other", StreamCode.UNROUTABLE)):
            with pytest.raises(SubscribeError) as caught:
                await near.subscribe(broadcast, "nothing")
            assert caught.value.code == missing(version, code)
            subscription = await near.subscribe(broadcast, "nothing", describe=False, wait=False)
            for waiting in (subscription.accepted(), anext(subscription)):
                with pytest.raises(SubscribeError) as caught:
                    await waiting
                assert caught.value.code == missing(version, code)
        assert len(requests_of(publication)) == 2
        assert near.faults == far.faults == []


@versions
async def test_unsubscribing_is_noticed_and_stops_what_is_under_way(version: Version) -> None:
    async with pair(version) as (near, far):
        video = far.publish("demo").track("video/hd")
        polite = await near.subscribe("demo", "video/hd")
        rude = await near.subscribe("demo", "video/hd")
        group = video.group()
        group.write(b"x")
        readers = [await anext(polite), await anext(rude)]
        assert video.subscribers == 2
        await polite.close()
        rude.reset(70)
        await video.unused()
        # 01 and 02 leave by a reset, as their clients expect
        assert [one.code for one in far.seen(RequestCancelled)] == ([0, 0] if version in OLD else [None, 70])
        for reader in readers:
            assert (await anext(reader)).payload == b"x"
            with pytest.raises(GroupAborted):
                await anext(reader)
        for subscription in (polite, rude):
            assert [group async for group in subscription] == []


@versions
async def test_a_reader_may_stop_one_group(version: Version) -> None:
    async with pair(version) as (near, far):
        video = far.publish("demo").track("video/hd")
        subscription = await near.subscribe("demo", "video/hd")
        await video.used()
        group = video.group()
        group.write(b"x")
        (await anext(subscription)).stop(66)
        video.group().write(b"y")
        reader = await anext(subscription)
        assert (await anext(reader)).payload == b"y"
        assert [one[1:] for one in far.seen(GroupStopped)] == [(0, 0 if version in OLD else 66)]
        assert video.subscribers == 1


@versions
async def test_groups_end_after_the_track_said_so(version: Version) -> None:
    async with pair(version) as (near, far):
        video = far.publish("demo").track("video/hd")
        subscription = await near.subscribe("demo", "video/hd")
        await video.used()
        group = video.group(41)
        video.finish()
        group.write(b"last")
        group.finish()
        assert [(reader.sequence, len(await reader.read_all())) async for reader in subscription] == [(41, 1)]
        again = await near.subscribe("demo", "video/hd")
        assert [(reader.sequence, len(await reader.read_all())) async for reader in again] == [(41, 1)]


@fetching
async def test_a_track_that_never_had_a_group_ends_at_zero(version: Version) -> None:
    async with pair(version) as (near, far):
        far.publish("demo").track("video/hd").finish()
        subscription = await near.subscribe("demo", "video/hd")
        assert [group async for group in subscription] == []
        assert (subscription.ok, subscription.end) == (None, 0)


@versions
async def test_an_unannounced_broadcast_goes_on(version: Version) -> None:
    async with pair(version) as (near, far):
        publication = far.publish("demo")
        video = publication.track("video/hd")
        subscription = await near.subscribe("demo", "video/hd")
        await video.used()
        publication.unannounce()
        video.group().write(b"x")
        assert (await anext(subscription)).sequence == 0
        # a successor may take the path over
        far.publish("demo", tracks=["audio"])
        with pytest.raises(SubscribeError):
            await near.subscribe("demo", "video/hd")
        with pytest.raises(ValueError, match="already"):
            far.publish("demo")


# -- ranges and updates


@updating
async def test_a_range_of_groups(version: Version) -> None:
    async with pair(version) as (near, far):
        video = far.publish("demo").track("video/hd", timescale=1000)
        for number in range(4):
            group = video.group()
            group.write(b"%d" % number, number)
            group.finish()
        subscription = await near.subscribe(
            "demo", "video/hd", start_group=1, end_group=4, max_latency_ms=60_000, describe=False
        )
        # newer groups are sent first
        assert [(await anext(subscription)).sequence for _ in range(3)] == [3, 2, 1]
        subscription.update(end_group=5, priority=8)
        (update,) = await far.wait_for(SubscribeUpdated)
        latency = (update.params.history_ms, update.params.latency_ms)[version < Version.LITE_06]
        assert (update.params.priority, latency) == (8, 60_000)
        assert (update.params.start_group, update.params.end_group) == (1, 5)
        assert [feed.params for feed in video._feeds.values()] == [update.params]
        assert subscription.request.params.end_group == 5
        video.group(6)
        last = video.group(5)
        assert (await anext(subscription)).sequence == 5
        assert not subscription.finished
        last.finish()
        assert [group async for group in subscription] == []
        assert subscription.end == (6 if version >= Version.LITE_05 else None)
        past = await near.subscribe("demo", "video/hd", start_group=1, end_group=2, max_latency_ms=60_000)
        assert {group.sequence async for group in past} == {1, 2}


@updating
async def test_an_update_takes_a_bound_away(version: Version) -> None:
    async with pair(version) as (near, far):
        video = far.publish("demo").track("video/hd")
        subscription = await near.subscribe("demo", "video/hd", end_group=0, priority=3)
        await video.used()
        subscription.update(end_group=None)
        (update,) = await far.wait_for(SubscribeUpdated)
        assert (update.params.end_group, update.params.priority) == (None, 3)
        for number in range(2):
            video.group().finish()
            assert (await anext(subscription)).sequence == number
        with pytest.raises((TypeError, ValueError), match="patience"):
            subscription.update(patience=1)  # type: ignore[call-arg]


async def test_the_oldest_versions_have_no_updates() -> None:
    async with pair(Version.LITE_02) as (near, far):
        far.publish("demo", tracks=["video/hd"])
        with pytest.raises(ValueError, match="UPDATE"):
            (await near.subscribe("demo", "video/hd")).update(priority=1)


@pytest.mark.parametrize("age, first", [(0, 3), (999, 3), (1000, 3), (1001, 2), (2001, 1), (9999, 0)])
async def test_06_starts_at_the_oldest_group_that_has_not_expired(age: int, first: int) -> None:
    async with pair(Version.LITE_06) as (near, far):
        video = far.publish("demo").track("video/hd", timescale=1000)
        groups = [video.group() for _ in range(4)]
        for number, group in enumerate(groups):
            group.write(b"x", 1000 * number)
        groups[3].write(b"newest", 4000)
        for group in groups:
            group.finish()
        video.finish()
        subscription = await near.subscribe("demo", "video/hd", max_latency_ms=age)
        assert min([group.sequence async for group in subscription]) == first


async def test_06_serves_frames_of_the_first_and_last_group_alone() -> None:
    async with pair(Version.LITE_06) as (near, far):
        video = far.publish("demo").track("video/hd")
        for sequence in (4, 5):
            group = video.group(sequence)
            for number in range(4):
                group.write(b"%d" % number, 100 + number)
            group.finish()
        subscription = await near.subscribe(
            "demo",
            "video/hd",
            start_group=4,
            start_frame=2,
            end_group=5,
            end_frame=1,
            max_latency_ms=10_000,
        )
        found = {}
        for _ in range(2):
            reader = await anext(subscription)
            found[reader.sequence] = (reader.frame_start, await reader.read_all())
        assert found == {
            4: (2, [Frame(b"2", 102), Frame(b"3", 103)]),
            5: (0, [Frame(b"0", 100), Frame(b"1", 101)]),
        }


async def test_06_publishes_a_group_without_its_beginning() -> None:
    async with pair(Version.LITE_06) as (near, far):
        video = far.publish("demo").track("video/hd")
        group = video.group(3, frame_start=2)
        group.write(b"third", 9)
        reader = await anext(await near.subscribe("demo", "video/hd"))
        assert (reader.sequence, reader.frame_start) == (3, 2)
        assert await anext(reader) == Frame(b"third", 9)
        with pytest.raises(FetchError):
            await near.fetch("demo", "video/hd", 3)
    async with pair(Version.LITE_05) as (_near, far):
        with pytest.raises(ValueError, match="partial"):
            far.publish("demo").track("video/hd").group(frame_start=1)


# -- short requests


@fetching
async def test_fetch(version: Version) -> None:
    async with pair(version) as (near, far):
        publication = far.publish("demo")
        video = publication.track("video/hd", keep=2)
        groups = [video.group() for _ in range(3)]
        for number, group in enumerate(groups):
            group.write(b"a%d" % number, 10)
            group.write(b"b%d" % number, 5)
            if number < 2:
                group.finish()
        assert await near.fetch("demo", "video/hd", 1) == [Frame(b"a1", 10), Frame(b"b1", 5)]
        with pytest.raises(FetchError) as caught:
            await near.fetch("demo", "video/hd", 0)
        assert caught.value.code == StreamCode.NOT_FOUND
        assert [r.group for r in requests_of(publication) if isinstance(r, FetchRequested)] == [1, 0]
        # an open one is followed to its end or abort
        following = near.fetch_group("demo", "video/hd", 2)
        assert await anext(following) == Frame(b"a2", 10)
        groups[2].write(b"c2", 6)
        groups[2].finish()
        assert [frame.payload for frame in await following.read_all()] == [b"b2", b"c2"]
        cut = video.group()
        cut.write(b"x")
        aborted = near.fetch_group("demo", "video/hd", 3)
        await anext(aborted)
        cut.abort(80)
        with pytest.raises(FetchError) as caught:
            await aborted.read_all()
        assert caught.value.code == 80


async def test_06_fetches_a_range_of_frames() -> None:
    async with pair(Version.LITE_06) as (near, far):
        group = far.publish("demo").track("video/hd").group()
        for number in range(4):
            group.write(b"%d" % number, number)
        assert await near.fetch("demo", "video/hd", 0, start_frame=1, end_frame=2) == [
            Frame(b"1", 1),
            Frame(b"2", 2),
        ]
        group.finish()
        assert await near.fetch("demo", "video/hd", 0, start_frame=3, end_frame=9) == [Frame(b"3", 3)]
        with pytest.raises(FetchError) as caught:
            await near.fetch("demo", "video/hd", 0, start_frame=4)
        assert caught.value.code == StreamCode.NOT_FOUND


@fetching
async def test_track_info(version: Version) -> None:
    async with pair(version) as (near, far):
        far.publish("demo").track("video/hd", 5, 600, 90_000)
        assert await near.track_info("demo", "video/hd") == TrackProperties(
            5, ordered=False, max_latency_ms=600, timescale=90_000
        )
        for broadcast, code in (("demo", StreamCode.NOT_FOUND), ("other", StreamCode.UNROUTABLE)):
            with pytest.raises(TrackInfoError) as caught:
                await near.track_info(broadcast, "nothing")
            assert caught.value.code == code


@pytest.mark.parametrize("version", [one for one in ALL if one not in FETCHING])
async def test_what_a_version_lacks_is_never_sent(version: Version) -> None:
    async with pair(version) as (near, far):
        video = far.publish("demo").track("video/hd")
        for impossible in (near.fetch("demo", "video/hd", 0), near.track_info("demo", "video/hd")):
            with pytest.raises(ValueError, match="has no"):
                await impossible
        with pytest.raises(ValueError, match="has no datagram"):
            video.datagram(b"x")
        if version in OLD:
            with pytest.raises(ValueError, match="has no"):
                near.probe()
        await near.subscribe("demo", "video/hd")
        assert [type(request) for request in requests_of(far)] == [SubscribeRequested]


@fetching
async def test_datagrams_go_to_every_subscription_once(version: Version) -> None:
    async with pair(version) as (near, far):
        video = far.publish("demo").track("video/hd")
        first = await near.subscribe("demo", "video/hd")
        second = await near.subscribe("demo", "video/hd")
        video.group()
        await anext(first)
        await anext(second)
        assert video.datagram(b"ping", 5) == 1
        assert video.datagram(b"pong", 6, sequence=9) == 9
        for subscription in (first, second):
            found = [await anext(subscription.datagrams), await anext(subscription.datagrams)]
            assert [(one.sequence, one.timestamp, one.payload) for one in found] == [
                (1, 5, b"ping"),
                (9, 6, b"pong"),
            ]
            assert {one.request for one in found} == {subscription.request.request}
        with pytest.raises(ValueError, match="at most"):
            video.datagram(b"x" * 2000)
        assert video.group().sequence == 10


@updating
async def test_a_probe_is_held_or_refused_by_version(version: Version) -> None:
    async with pair(version) as (near, far):
        probes = near.probe()
        await requested(far, 1)
        if version >= Version.LITE_05:
            with pytest.raises(ClientError) as caught:
                await anext(probes)
            assert "1" in str(caught.value)
        else:
            near.probe().close()
            assert not probes.finished
    if version >= Version.LITE_05:
        async with pair(version, probe=1) as (near, far):
            probes = near.probe()
            await requested(far, 1)
            (stream,) = far.session.streams.values()  # type: ignore[attr-defined]
            stream.write([Probe(1000, 20).encode(version)], fin=True)
            assert [(probe.bitrate, probe.rtt) async for probe in probes] == [(1000, 20)]


# -- a cancelled wait leaves nothing behind


@versions
async def test_a_cancelled_request_is_withdrawn(version: Version) -> None:
    async with pair(version) as (near, far):
        publication = far.publish("demo")
        video = publication.track("video/hd")
        video.group()
        subscription = await near.subscribe("demo", "video/hd")
        waiting = asyncio.ensure_future(anext(subscription.datagrams))
        if version in FETCHING:
            fetching = asyncio.ensure_future(near.fetch("demo", "video/hd", 0))
            await requested(publication, 3)
            assert (len(video._feeds), len(video._fetches)) == (1, 1)
            fetching.cancel()
            await asyncio.gather(fetching, return_exceptions=True)
            assert fetching.cancelled()
        await video.used()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await subscription.close()
        await video.unused()
        assert near.handles == {}
        assert (video._feeds, video._fetches) == ({}, {})


@versions
async def test_the_end_of_a_subscription_does_not_overtake_its_groups(version: Version) -> None:
    async with pair(version) as (near, far):
        video = far.publish("demo").track("video/hd")
        subscription = await near.subscribe("demo", "video/hd")
        await video.used()
        near.session.pause()  # type: ignore[attr-defined]
        group = video.group()
        group.write(b"x" * 100_000)
        group.finish()
        video.finish()
        assert video.subscribers == 1
        near.session.resume()  # type: ignore[attr-defined]
        assert [len((await reader.read_all())[0].payload) async for reader in subscription] == [100_000]
        await video.unused()


@versions
async def test_leaving_drops_what_was_complete_but_not_sent(version: Version) -> None:
    async with pair(version) as (near, far):
        video = far.publish("demo").track("video/hd")
        subscription = await near.subscribe("demo", "video/hd")
        await video.used()
        near.session.pause()  # type: ignore[attr-defined]
        group = video.group()
        group.write(b"x" * 100_000)
        group.finish()
        await subscription.close()
        await video.unused()
        near.session.resume()  # type: ignore[attr-defined]
        await near.announced().wait_for("demo")
        assert not near.seen(StrayGroup)
