"""Faults of a peer: each ends in an error for waiting tasks, never in silence."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from relay.client import Announced, Client, GroupAborted, RequestError, SessionEnded, SubscribeError
from relay.moq.session import StrayGroup, SubscriptionDropped
from relay.transport.memory import MemorySession
from relay.transport.session import SessionClosed, StreamData, StreamReset, StreamStopped
from relay.wire.announce import AnnounceActive, AnnounceEnded, AnnounceOk, AnnounceUpdate
from relay.wire.errors import DecodeError, SessionCode, StreamCode, Truncated, UnknownStreamType
from relay.wire.frame import GroupHeader, group_header
from relay.wire.subscribe import SubscribeDrop, SubscribeEnd, SubscribeOk
from relay.wire.version import Version
from tests.client.recording import requested
from tests.client.support import ALL, FETCHING, RawPeer, facing, pair

pytestmark = pytest.mark.timeout(20)

versions = pytest.mark.parametrize("version", ALL, ids=lambda version: version.name_on_wire)
MUTE = [version for version in ALL if version >= Version.LITE_03]
mute = pytest.mark.parametrize("version", MUTE, ids=lambda version: version.name_on_wire)

A = AnnounceActive("a")
END_A = AnnounceEnded("a", 0)


# -- announcements that do not add up


@pytest.mark.parametrize(
    "version, said",
    [
        *((version, [A, A]) for version in ALL if version != Version.LITE_05),
        (Version.LITE_06, [END_A]),
        (Version.LITE_06, [A, END_A, END_A]),
        (Version.LITE_06, [AnnounceUpdate(0)]),
        (Version.LITE_06, [A, END_A, A, AnnounceUpdate(0)]),
        (Version.LITE_06, [A, AnnounceUpdate(1)]),
    ],
)
async def test_announcements_alternate(version: Version, said: list[Any]) -> None:
    async with pair(version) as (near, far):
        announced = near.announced()
        await announced.initial()
        await requested(far, 1)
        (writer,) = far.moq.serving._writers.values()
        stream = writer.stream
        stream.write([message.encode(version) for message in said])
        with pytest.raises(SessionEnded) as caught:
            async for _ in announced:
                pass
        code = 12 if version <= Version.LITE_02 else SessionCode.PROTOCOL_VIOLATION
        assert (caught.value.code, caught.value.by_peer) == (code, False)
        assert caught.value.fault is near.faults[0]
        assert (await far.closed()).code == code


@pytest.mark.parametrize("restart", [False, True])
async def test_05_may_announce_a_live_path_anew(restart: bool) -> None:
    async with facing(Version.LITE_05) as (client, peer):
        announced = client.announced()
        stream = await peer.bidi(b"\x01")
        active = AnnounceActive("a", hops=(3,), restart=restart)
        stream.write([message.encode(Version.LITE_05) for message in (AnnounceOk(1, 1), A, active)])
        changes = [await anext(announced) for _ in range(2)]
        assert [(change.update, change.hops) for change in changes] == [(False, ()), (True, (3,))]


async def test_06_announces_nothing_before_its_ok() -> None:
    async with facing(Version.LITE_06) as (client, peer):
        announced = client.announced()
        stream = await peer.bidi(b"\x01")
        stream.write([A.encode(Version.LITE_06)])
        with pytest.raises(SessionEnded) as caught:
            await announced.initial()
        assert caught.value.code == SessionCode.PROTOCOL_VIOLATION


async def test_06_ids_are_never_used_again() -> None:
    async with facing(Version.LITE_06) as (client, peer):
        announced = client.announced()
        stream = await peer.bidi(b"\x01")
        said = (AnnounceOk(1, 0), A, END_A, A, AnnounceUpdate(1, (9,)), AnnounceEnded(announce_id=1))
        stream.write([message.encode(Version.LITE_06) for message in said])
        changes = [await anext(announced) for _ in range(5)]
        assert [change.active for change in changes] == [True, False, True, True, False]
        assert changes[3].hops == (9,)


# -- subscriptions, groups, frames


async def subscribed(client: Client, peer: RawPeer) -> tuple[Any, Any]:
    """A subscription, and the peer's view of its stream."""
    subscription = await client.subscribe("demo", "video", describe=False, wait=False)
    return subscription, await peer.bidi(b"\x02")


@pytest.mark.parametrize("version", [one for one in ALL if one != Version.LITE_06])
async def test_the_end_of_an_unknown_path_is_ignored(version: Version) -> None:
    """Relays of today send one where they had two routes."""
    async with pair(version) as (client, other):
        announced = client.announced()
        await requested(other, 1)
        (writer,) = other.moq.serving._writers.values()
        writer.stream.write([message.encode(version) for message in (END_A, A)])
        assert (await anext(announced)).active


@mute
async def test_drops_are_noted(version: Version) -> None:
    async with facing(version) as (client, peer):
        subscription, stream = await subscribed(client, peer)
        drop = SubscribeDrop(1, 2, 52)
        replies = [SubscribeOk(group=0).encode(version), drop.encode(version)]
        if version >= Version.LITE_05:
            replies.append(SubscribeEnd(3).encode(version))
        stream.write(replies, fin=True)
        await subscription.ended()
        peer.session.open_uni().write([group_header(version, GroupHeader(0, 0))], fin=True)
        assert [group.sequence async for group in subscription] == [0]
        assert [one[1:] for one in client.seen(SubscriptionDropped)] == [(1, 2, 52)]


@mute
async def test_a_group_for_nobody_is_stopped(version: Version) -> None:
    async with facing(version) as (client, peer):
        stream = peer.session.open_uni()
        stream.write([group_header(version, GroupHeader(5, 1)), b"\x00"])
        event = await peer.until(lambda: [one for one in peer.events if isinstance(one, StreamStopped)])
        assert event[0].code == StreamCode.CANCELLED
        assert client.seen(StrayGroup) == [(5, 1)]


@mute
@pytest.mark.parametrize("cut", ["header", "payload"])
async def test_a_group_cut_short_is_aborted_and_no_more(version: Version, cut: str) -> None:
    async with facing(version) as (client, peer):
        subscription, stream = await subscribed(client, peer)
        group = peer.session.open_uni()
        time = b"\x00" if version >= Version.LITE_05 else b""
        group.write(
            [
                group_header(version, GroupHeader(0, 1)),
                time + b"\x02ok",
                time + b"\x02x"[: 1 + (cut == "payload")],
            ]
        )
        reader = await anext(subscription)
        assert (await anext(reader)).payload == b"ok"
        group.write((), fin=True)
        with pytest.raises(GroupAborted) as caught:
            await anext(reader)
        assert caught.value.code == StreamCode.WRONG_SIZE
        assert [type(fault) for fault in client.faults] == [Truncated]
        client.check()
        stream.reset(70)
        with pytest.raises(SubscribeError):
            await anext(subscription)


@mute
async def test_a_group_under_way_comes_whole_after_its_subscription_is_aborted(version: Version) -> None:
    """Its publisher may leave right after it."""
    async with facing(version) as (client, peer):
        subscription, stream = await subscribed(client, peer)
        group = peer.session.open_uni()
        frame = (b"\x00" if version >= Version.LITE_05 else b"") + b"\x01x"
        group.write([group_header(version, GroupHeader(0, 1)), frame])
        reader = await anext(subscription)
        stream.reset(70)
        with pytest.raises(SubscribeError):
            await anext(subscription)
        group.write([frame], fin=True)
        assert [one.payload for one in await reader.read_all()] == [b"x", b"x"]
        late = peer.session.open_uni()
        late.write([group_header(version, GroupHeader(0, 2)), frame])
        assert await peer.until(peer.codes) == [StreamCode.CANCELLED]


@mute
async def test_a_frame_beyond_the_limit_is_refused_by_its_header(version: Version) -> None:
    async with facing(version, max_frame=10) as (client, peer):
        subscription, _ = await subscribed(client, peer)
        group = peer.session.open_uni()
        group.write([group_header(version, GroupHeader(0, 1))])
        reader = await anext(subscription)
        group.write([b"\x00" if version >= Version.LITE_05 else b"", b"\x0b"])
        with pytest.raises(GroupAborted) as caught:
            await anext(reader)
        assert caught.value.code == StreamCode.FRAME_TOO_LARGE
        assert await peer.until(peer.codes) == [StreamCode.FRAME_TOO_LARGE]


@pytest.mark.parametrize("version", FETCHING)
async def test_a_time_before_zero_aborts_the_group(version: Version) -> None:
    async with facing(version) as (client, peer):
        subscription, _ = await subscribed(client, peer)
        group = peer.session.open_uni()
        group.write([group_header(version, GroupHeader(0, 1))])
        reader = await anext(subscription)
        group.write([b"\x01\x00"])
        with pytest.raises(GroupAborted) as caught:
            await anext(reader)
        assert caught.value.code == StreamCode.MALFORMED_TRACK


# -- requests


@mute
async def test_an_unknown_stream_costs_only_itself(version: Version) -> None:
    async with facing(version) as (client, peer):
        client.publish("demo")
        peer.session.open_bidi().write([b"\x3f"])
        codes = await peer.until(lambda: [one.code for one in peer.events if isinstance(one, StreamReset)])
        assert codes[0] == StreamCode.CANCELLED
        assert [type(fault) for fault in client.faults] == [UnknownStreamType]
        client.check()


@versions
async def test_bytes_that_are_no_request_cost_only_their_stream(version: Version) -> None:
    async with pair(version) as (near, far):
        far.publish("demo")
        near.session.open_bidi().write([b"\x02\x02\x00\x05"])
        await near.announced().wait_for("demo")
        assert [type(fault) for fault in far.faults] == [DecodeError]
        far.check()


@pytest.mark.parametrize("version", [one for one in ALL if one >= Version.LITE_04])
async def test_goaway_is_noted_once(version: Version) -> None:
    async with facing(version) as (client, peer):
        for _ in range(2):
            peer.session.open_bidi().write([b"\x05\x02\x01x"], fin=True)
        closed = await client.closed()
        assert client.goaway == "x"
        assert closed.code == SessionCode.PROTOCOL_VIOLATION


# -- nothing hangs


def waits(client: Client) -> dict[str, Callable[[], Awaitable[object]]]:
    """Every wait, while the peer is silent."""
    announced = client.announced()
    publication = client.publish("mine")
    track = publication.track("video")
    version = client.version
    found: dict[str, Callable[[], Awaitable[object]]] = {
        "change": lambda: anext(announced),
        "path": lambda: announced.wait_for("demo"),
        "subscribe": lambda: client.subscribe("demo", "video"),
        "used": track.used,
    }
    if version not in (Version.LITE_03, Version.LITE_04):
        found["initial"] = announced.initial
    if version >= Version.LITE_03:
        probes = client.probe()
        found["probe"] = lambda: anext(probes)
    if version in FETCHING:
        found["info"] = lambda: client.track_info("demo", "video")
        found["fetch"] = lambda: client.fetch("demo", "video", 0)
    return found


def ends(client: Client, other: MemorySession) -> dict[str, Callable[[], object]]:
    return {
        "the peer closes": lambda: other.close(70, "enough"),
        "the network dies": lambda: other.fail("idle timeout"),
        "we close": lambda: client._end(0, "bye"),
    }


ENDS = {
    "the peer closes": (70, "enough", True),
    "the network dies": (None, "idle timeout", False),
    "we close": (0, "bye", False),
}


@mute
@pytest.mark.parametrize("end", ENDS)
async def test_the_end_of_the_session_ends_every_wait(version: Version, end: str) -> None:
    async with facing(version) as (client, peer):
        tasks = {name: asyncio.ensure_future(waiting()) for name, waiting in waits(client).items()}
        subscription, _ = await subscribed(client, peer)
        group = peer.session.open_uni()
        group.write([group_header(version, GroupHeader(0, 1))])
        reader = await anext(subscription)
        for name, waiting in {
            "group": anext(subscription),
            "frame": anext(reader),
            "piece": anext(reader.pieces()),
            "datagram": anext(subscription.datagrams),
            "ended": subscription.ended(),
        }.items():
            tasks[name] = asyncio.ensure_future(waiting)
        await peer.bidi(b"\x01")
        ends(client, peer.session)[end]()
        results = await asyncio.gather(*tasks.values(), return_exceptions=True)
        for name, result in zip(tasks, results, strict=True):
            assert isinstance(result, SessionEnded), name
            assert (result.code, result.reason, result.by_peer) == ENDS[end], name
        # nothing begins afterwards
        for begin in (client.announced, client.probe, lambda: client.fetch_group("demo", "video", 0)):
            with pytest.raises(SessionEnded):
                begin()
        with pytest.raises(SessionEnded):
            await client.subscribe("demo", "video")
        assert (await client.closed()).code == ENDS[end][0]


async def test_what_had_arrived_is_read_after_the_end() -> None:
    async with pair(Version.LITE_06) as (near, far):
        video = far.publish("demo").track("video")
        announced = near.announced()
        subscription = await near.subscribe("demo", "video")
        await video.used()
        group = video.group()
        group.write(b"one")
        group.write(b"two")
        group.finish()
        reader = await anext(subscription)
        await announced.wait_for("demo")
        await far.close(0, "done")
        with pytest.raises(SessionEnded):
            near.check()
        assert (await anext(announced)).path == "demo"
        assert [frame.payload for frame in await reader.read_all()] == [b"one", b"two"]
        with pytest.raises(SessionEnded, match="the peer closed the session with code 0: done"):
            await anext(subscription)


@mute
async def test_a_fault_of_ours_does_not_leave_anyone_waiting(
    version: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyError("on purpose")

    async with facing(version) as (client, peer):
        announced = client.announced()
        monkeypatch.setattr(Announced, "on_event", broken)
        stream = await peer.bidi(b"\x01")
        stream.write([A.encode(version)] if version < Version.LITE_05 else [AnnounceOk(1, 0).encode(version)])
        with pytest.raises(SessionEnded) as caught:
            await anext(announced)
        assert (caught.value.code, caught.value.by_peer) == (SessionCode.INTERNAL, False)


@mute
async def test_a_fault_of_ours_does_not_hide_the_end_that_comes_with_it(
    version: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyError("on purpose")

    async with facing(version) as (client, peer):
        announced = client.announced()
        monkeypatch.setattr(Announced, "on_event", broken)
        stream = await peer.bidi(b"\x01")
        waiting = asyncio.ensure_future(anext(announced))
        await asyncio.sleep(0)
        data = A if version < Version.LITE_05 else AnnounceOk(1, 0)
        client._on_transport(
            (
                StreamData(stream.twin, data.encode(version), fin=False),
                SessionClosed(70, "enough", by_peer=True),
            )
        )
        with pytest.raises(SessionEnded) as caught:
            await waiting
        assert (caught.value.code, caught.value.by_peer) == (70, True)


@pytest.mark.parametrize("version", FETCHING)
async def test_a_peer_that_refuses_in_strange_ways(version: Version) -> None:
    """An answer that never comes, or is cut: an error each time."""

    async def reset(stream: Any) -> None:
        stream.reset(70)

    async def finish(stream: Any) -> None:
        stream.write((), fin=True)

    async def cut(stream: Any) -> None:
        stream.write([b"\x05"], fin=True)

    kinds: list[tuple[bytes, Callable[[Client], Coroutine[Any, Any, object]]]] = [
        (b"\x06", lambda client: client.track_info("demo", "video")),
        (b"\x03", lambda client: client.fetch("demo", "video", 0)),
    ]
    for start, ask in kinds:
        for answer in (reset, finish, cut):
            async with facing(version) as (client, peer):
                asking = asyncio.ensure_future(ask(client))
                await answer(await peer.bidi(start))
                if start == b"\x03" and answer == finish:
                    assert await asking == []
                    continue
                with pytest.raises(RequestError) as caught:
                    await asking
                missing = start == b"\x06" and answer == finish
                expected = StreamCode.NOT_FOUND if missing else StreamCode.WRONG_SIZE
                assert caught.value.code == (70 if answer == reset else expected)
                client.check()


@pytest.mark.parametrize("version", FETCHING)
async def test_a_stop_beside_the_reset_does_not_hide_its_code(version: Version) -> None:
    """A peer that refuses TRACK drops both halves of the stream, and the stop (0) may come first."""
    async with facing(version) as (client, peer):
        asking = asyncio.ensure_future(client.track_info("demo", "video"))
        stream = await peer.bidi(b"\x06")
        stream.stop(0)
        stream.reset(StreamCode.NOT_FOUND)
        with pytest.raises(RequestError) as caught:
            await asking
        assert caught.value.code == StreamCode.NOT_FOUND


@versions
async def test_unread_changes_are_reduced_to_the_latest_state(
    version: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`wait_for` reads none, and a broadcast may come and go for months."""
    for module in ("endpoint", "watching"):
        monkeypatch.setattr(f"relay.client.{module}.KEPT", 8)
    async with pair(version) as (near, far):
        far.publish("stays")
        goes = far.publish("goes")
        announced = near.announced()
        await announced.wait_for("goes")
        assert {(await anext(announced)).path for _ in range(2)} == {"stays", "goes"}
        for _ in range(50):
            publication = far.publish("flaps")
            await announced.wait_for("flaps")
            publication.close()
            await announced.wait_for("flaps", active=False)
        assert len(announced._unread) <= 8 + 2 + 2
        while announced._unread:
            await anext(announced)
        goes.close()
        flaps = far.publish("flaps")
        await announced.wait_for("flaps")
        for _ in range(20):
            flaps.close()
            flaps = far.publish("flaps")
        await announced.wait_for("goes", active=False)
        far.publish("last")
        await announced.wait_for("last")
        known = {"stays", "goes"}
        while announced._unread:
            change = await anext(announced)
            assert change.active is (change.path not in known)
            known ^= {change.path}
        assert known == {"stays", "flaps", "last"}


async def test_groups_that_were_dropped_count_as_arrived() -> None:
    version = Version.LITE_05
    async with facing(version) as (client, peer):
        subscription, stream = await subscribed(client, peer)
        drops = [SubscribeDrop(1, 1, 52), SubscribeDrop(2, 3, 52)]
        replies = [SubscribeOk(group=0).encode(version), *(drop.encode(version) for drop in drops)]
        stream.write([*replies, SubscribeEnd(4).encode(version)], fin=True)
        peer.session.open_uni().write([group_header(version, GroupHeader(0, 0))], fin=True)
        assert [group.sequence async for group in subscription] == [0]
        assert [one[1:] for one in subscription.drops] == [(1, 1, 52), (2, 3, 52)]


@mute
async def test_a_reader_that_lags_loses_the_oldest_groups(
    version: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.client.endpoint.KEPT", 2)
    async with facing(version) as (client, peer):
        subscription, _ = await subscribed(client, peer)
        for sequence in range(4):
            peer.session.open_uni().write([group_header(version, GroupHeader(0, sequence))])
        codes = await peer.until(lambda: codes if len(codes := peer.codes()) == 2 else None)
        assert codes == [StreamCode.TOO_FAR_BEHIND] * 2
        assert [(await anext(subscription)).sequence for _ in range(2)] == [2, 3]
        assert subscription.received == 4
