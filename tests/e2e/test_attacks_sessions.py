"""Sessions beyond their limits, over real QUIC, while a publisher and its viewer miss no frame.

Limits are scaled down. The attacker is a `RawPeer` on a real connection: it sends what our own client would not.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any, cast

import aiohttp
import pytest

from relay.actors.connection import ConnectionActor
from relay.app import Relay
from relay.client import Client, TrackWriter
from relay.model.limits import Limits
from relay.quic.settings import QuicSettings
from relay.transport.client import ClientTls, connect
from relay.transport.quic_session import QuicSession
from relay.transport.session import Event
from relay.wire.announce import AnnounceRequest
from relay.wire.errors import SessionCode, StreamCode
from relay.wire.frame import GroupHeader, frame_header_plain, group_header
from relay.wire.subscribe import SubscribeUpdate
from relay.wire.varint import encode_varint
from relay.wire.version import Version
from tests.actors.raw_peer import PeerStream, RawPeer, RequestStream
from tests.actors.watching import actor_of
from tests.clock import RUNTIME
from tests.e2e.http_support import live
from tests.e2e.support import raw, running
from tests.e2e.test_metrics import scrape, until, value

pytestmark = [pytest.mark.e2e, pytest.mark.virtual]

WITHIN = 60.0
"""Seconds that anything awaited may take on a busy machine."""

LIMITS = Limits(
    track_idle=0.01,
    backlog_time=30.0,
    announces=20,
    announce_streams=5,
    subscriptions=20,
    control_rate=20,
    control_burst=200,
    path=200,
    frame=64 * 1024,
    cache_track=256 * 1024,
    cache=1024 * 1024,
    groups_in_flight=8,
)


# --- the healthy pair ------------------------------------------------------------------------------------------------


class Service:
    """Awaits each group before the next, so that none may be skipped; 50 groups a second."""

    def __init__(self, writer: TrackWriter, groups: AsyncIterator[Any]) -> None:
        self._writer = writer
        self._groups = groups
        self._count = 0
        self._changed = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        try:
            while True:
                frames = [b"group %d frame %d" % (self._count, number) * 50 for number in range(4)]
                writer = self._writer.group()
                for frame in frames:
                    writer.write(frame)
                writer.finish()
                group = await anext(self._groups)
                assert group.sequence == writer.sequence
                assert [frame.payload for frame in await group.read_all()] == frames
                self._count += 1
                self._changed.set()
                await asyncio.sleep(0.02)
        finally:
            self._changed.set()

    async def goes_on(self, more: int = 5) -> None:
        """Wait for more groups; raises the failure if none comes."""
        goal = self._count + more
        async with asyncio.timeout(WITHIN):
            while self._count < goal:
                if self._task.done():
                    self._task.result()
                self._changed.clear()
                await self._changed.wait()

    async def stop(self) -> None:
        if not self._task.done():
            self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task


@contextlib.asynccontextmanager
async def serving(limits: Limits = LIMITS, **options: Any) -> AsyncIterator[tuple[Relay, Service]]:
    """Serves a pair; in the end no other session is left."""
    async with (
        running(limits=limits, **options) as relay,
        await Client.connect(relay.url, runtime=RUNTIME) as publisher,
        await Client.connect(relay.url, runtime=RUNTIME) as viewer,
    ):
        publication = publisher.publish("good/cam")
        writer = publication.track("video")
        await live(relay, publication)
        service = Service(writer, aiter(await viewer.subscribe("good/cam", "video")))
        await service.goes_on(1)
        before = actors()
        try:
            yield relay, service
            await service.goes_on()
            async with asyncio.timeout(WITHIN):
                while actors() > before:
                    await service.goes_on(1)
        finally:
            await service.stop()


def actors() -> int:
    return len(list(RUNTIME.actors))


# --- the attacker ----------------------------------------------------------------------------------------------------


class Attacker(RawPeer):
    def __init__(self, session: QuicSession, version: Version) -> None:
        self._changed = asyncio.Event()
        super().__init__(cast("Any", session), version, cast("Any", None), cast("Any", None))
        self.introduce(path="/")

    def _on_events(self, events: tuple[Event, ...]) -> None:
        super()._on_events(events)
        self._changed.set()

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(WITHIN):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def closed_with(self, code: SessionCode, reason: str) -> None:
        await self.until(lambda: self.closed)
        (closed,) = self.closed
        assert (closed.code, closed.by_peer) == (code, True)
        assert reason in closed.reason


@contextlib.asynccontextmanager
async def attacker(
    relay: Relay, version: Version = Version.LITE_04, **options: Any
) -> AsyncIterator[Attacker]:
    session = await connect(
        raw(relay), versions=(version,), tls=ClientTls(disable_verify=True), **options, runtime=RUNTIME
    )
    peer = Attacker(session, version)
    try:
        await peer.until(peer.announce_streams)
        yield peer
    finally:
        session.close(0, "done")
        await session.wait_closed()


async def asked(peer: Attacker, number: int = 1) -> list[tuple[RequestStream, Any]]:
    await peer.until(lambda: len(peer.subscriptions()) >= number)
    return peer.subscriptions()


async def announced(peer: Attacker, relay: Relay, path: str) -> None:
    peer.publish(path)
    async with await Client.connect(relay.url, runtime=RUNTIME) as client, asyncio.timeout(WITHIN):
        async for change in client.announced(path):
            if change.active:
                return


def connection(relay: Relay, peer: Attacker) -> ConnectionActor:
    """The newest session's actor."""
    assert not peer.closed
    found: ConnectionActor = actor_of(relay.connections[max(relay.connections)])
    return found


# --- control ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [Version.LITE_03, Version.LITE_06])
async def test_announce_flood(version: Version) -> None:
    async with serving() as (relay, service):
        async with attacker(relay, version) as peer:
            for number in range(100):
                peer.publish(f"flood/{number}")
            await peer.closed_with(SessionCode.PROTOCOL_VIOLATION, "more than 20 announcements")
        await service.goes_on()
        await until(relay, "refused_total", 1, limit="announces")
        await until(relay, "broadcasts", 1)


async def test_announcements_that_flap() -> None:
    async with serving() as (relay, service):
        async with attacker(relay, Version.LITE_06) as peer:
            for _ in range(150):
                peer.publish("flap")
                peer.unpublish("flap")
            await peer.closed_with(SessionCode.TOO_MANY_REQUEST_UPDATES, "control messages a second")
        await service.goes_on()
        await until(relay, "refused_total", 1, limit="control_rate")
        await until(relay, "broadcasts", 1)


@pytest.mark.parametrize("version", [Version.LITE_03, Version.LITE_06])
async def test_subscribe_flood(version: Version) -> None:
    async with serving() as (relay, service), attacker(relay, version) as peer:
        streams = [peer.subscribe("good/cam", "video")[1] for _ in range(60)]
        watched = [peer.watch(f"x/{number}").stream for number in range(20)]
        await peer.until(lambda: sum(len(stream.resets) for stream in streams) == 40)
        await peer.until(lambda: sum(len(stream.resets) for stream in watched) == 15)
        assert {tuple(stream.resets) for stream in streams} == {(), (StreamCode.NO_CAPACITY,)}
        await service.goes_on()
        assert not peer.closed
        values = await scrape(relay)
        assert value(values, "refused_total", limit="subscriptions") == 40
        assert value(values, "refused_total", limit="announce_streams") == 15
        assert value(values, "viewers") == 21


@pytest.mark.parametrize("end", ["reset", "fin"])
async def test_subscribe_and_cancel_storm(end: str) -> None:
    async with serving() as (relay, service):
        async with attacker(relay, Version.LITE_06) as peer:
            while not peer.closed:
                number, stream = peer.subscribe("good/cam", "video")
                await peer.until(lambda: peer.closed or peer.groups(number))  # noqa: B023 - awaited here
                if end == "reset":
                    stream.reset()
                else:
                    stream.write(fin=True)
                assert number < 400
            await peer.closed_with(
                SessionCode.TOO_MANY_REQUEST_UPDATES, "more than 20 control messages a second"
            )
        await service.goes_on()
        await until(relay, "refused_total", 1, limit="control_rate")
        await until(relay, "viewers", 1)


@pytest.mark.parametrize("version", [Version.LITE_03, Version.LITE_06])
async def test_subscribe_update_flood(version: Version) -> None:
    async with serving() as (relay, service):
        async with attacker(relay, version) as peer:
            _, stream = peer.subscribe("good/cam", "video")
            for number in range(1_000):
                stream.write(SubscribeUpdate(priority=number % 256).encode(version))
            await peer.closed_with(SessionCode.TOO_MANY_REQUEST_UPDATES, "control messages a second")
        await service.goes_on()
        await until(relay, "refused_total", 1, limit="control_rate")


async def test_giant_messages_and_long_paths() -> None:
    async with serving() as (relay, service):
        async with attacker(relay) as peer:
            _, stream = peer.subscribe("x" * 201)
            await peer.until(lambda: stream.resets)
            assert stream.resets == [StreamCode.UNROUTABLE]
            peer.bidi(b"\x02" + encode_varint(1 << 40))
            await peer.closed_with(SessionCode.PROTOCOL_VIOLATION, "message of 1099511627776 bytes")
        await service.goes_on()
        values = await scrape(relay)
        assert (
            value(values, "refused_total", limit="path")
            == value(values, "refused_total", limit="message")
            == 1
        )


# --- streams ---------------------------------------------------------------------------------------------------------


async def test_stream_flood() -> None:
    """Half a request on each: what keeps to the credit waits, what does not loses its connection."""
    quic = QuicSettings(max_streams_bidi=16)
    async with serving(quic=quic) as (relay, service):
        async with attacker(relay) as peer:
            for _ in range(100):
                peer.bidi(b"\x02\x05")
            await service.goes_on()
            found = connection(relay, peer)
            assert len(cast("QuicSession", found.session).connection.streams) <= 16 + 1 + 3
        async with attacker(relay) as peer:
            cast("QuicSession", peer.session).connection.streams._bidi_limit = 1_000
            for _ in range(100):
                peer.bidi(b"\x02\x05")
            await peer.until(lambda: peer.closed)
            assert peer.closed[0].code is None
            assert peer.closed[0].reason == "too many streams"
        await service.goes_on()
        await until(relay, "refused_total", 1, limit="max_streams")


async def test_a_flood_of_whole_streams() -> None:
    """Each ends at once and returns its credit, so that only the rate limits them."""
    async with serving() as (relay, service):
        async with attacker(relay) as peer:
            for _ in range(300):
                peer.request(AnnounceRequest("x"), fin=True)
            await peer.closed_with(SessionCode.TOO_MANY_REQUEST_UPDATES, "control messages a second")
        await service.goes_on()
        await until(relay, "refused_total", 1, limit="control_rate")


# --- groups ----------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def publishing(relay: Relay) -> AsyncIterator[tuple[Attacker, int]]:
    """An attacker that publishes for a viewer, and the id of the relay's subscription."""
    async with attacker(relay) as peer, await Client.connect(relay.url, runtime=RUNTIME) as viewer:
        await announced(peer, relay, "bad")
        subscription = await viewer.subscribe("bad", "video", describe=False)
        ((stream, request),) = await asked(peer)
        peer.accept(stream)

        async def reader() -> None:
            async for _ in subscription:
                pass

        task = asyncio.create_task(reader())
        try:
            yield peer, request.id
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


def begin(peer: Attacker, subscription: int, sequence: int, data: bytes = b"") -> PeerStream:
    return peer.uni(group_header(peer.version, GroupHeader(subscription, sequence)) + data)


@pytest.mark.parametrize("size", [1, 16_384], ids=["frames of one byte", "large frames"])
async def test_a_group_that_never_ends(size: int) -> None:
    async with serving() as (relay, service), publishing(relay) as (peer, subscription):
        group = begin(peer, subscription, 0)
        frame = frame_header_plain(size) + b"x" * size
        for _ in range(100):
            group.write(frame * max(1, 200 // size))
            await service.goes_on(1)
            assert value(await scrape(relay), "cached_bytes") <= 2 * LIMITS.cache_track
            if group.stops:
                break
        await peer.until(lambda: group.stops)
        assert group.stops == [StreamCode.GROUP_TOO_LARGE]
        assert not peer.closed
        await until(relay, "refused_total", 1, limit="cache_track")


async def test_frames_of_giant_sizes() -> None:
    async with serving() as (relay, service), publishing(relay) as (peer, subscription):
        groups = [begin(peer, subscription, number, encode_varint(1 << 50)) for number in range(10)]
        await peer.until(lambda: all(group.stops for group in groups))
        assert [group.stops for group in groups] == [[StreamCode.FRAME_TOO_LARGE]] * 10
        assert not peer.closed
        await service.goes_on()
        await until(relay, "refused_total", 10, limit="frame")


async def test_many_groups_at_once() -> None:
    async with serving() as (relay, service), publishing(relay) as (peer, subscription):
        groups = [begin(peer, subscription, number, frame_header_plain(1)) for number in range(50)]
        await peer.until(lambda: sum(len(group.stops) for group in groups) == 50 - LIMITS.groups_in_flight)
        assert {code for group in groups for code in group.stops} == {StreamCode.TOO_FAR_BEHIND}
        await service.goes_on()
        await until(relay, "refused_total", 42, limit="groups_in_flight")


async def test_many_tracks_that_fill_the_cache_of_the_relay() -> None:
    """Each within its own limit, too much together: the pair keeps its newest group, as a late viewer shows."""
    async with serving(replace(LIMITS, cache=512 * 1024)) as (relay, service), attacker(relay) as peer:
        await announced(peer, relay, "bad")
        async with await Client.connect(relay.url, runtime=RUNTIME) as viewer:
            for number in range(8):
                await viewer.subscribe("bad", f"track {number}", describe=False)
            groups = [begin(peer, request.id, 0) for _, request in await asked(peer, 8)]
            frame = frame_header_plain(16_384) + b"x" * 16_384
            for _ in range(12):
                for group in groups:
                    group.write(frame)
                await service.goes_on(1)
                assert value(await scrape(relay), "cached_bytes") <= 2 * 512 * 1024
            await peer.until(lambda: any(group.stops for group in groups))
            assert {code for group in groups for code in group.stops} == {StreamCode.GROUP_TOO_LARGE}
            async with await Client.connect(relay.url, runtime=RUNTIME) as late, asyncio.timeout(WITHIN):
                newest = await anext(await late.subscribe("good/cam", "video"))
                assert len(await newest.read_all()) == 4
        assert value(await scrape(relay), "refused_total", limit="cache") >= 1
        assert not peer.closed


@pytest.mark.parametrize("version", [Version.LITE_03, Version.LITE_06])
async def test_a_publisher_that_never_answers(version: Version) -> None:
    """QUIC and HTTP subscribers are refused after a time-out, and nothing stays."""
    limits = replace(LIMITS, answer_timeout=0.2)
    async with serving(limits) as (relay, service), attacker(relay, version) as peer:
        await announced(peer, relay, "bad")
        async with attacker(relay) as viewer, aiohttp.ClientSession() as http:
            _, stream = viewer.subscribe("bad", "video")
            await viewer.until(lambda: stream.resets)
            assert stream.resets == [StreamCode.CONTROL_TIMEOUT]
            async with asyncio.timeout(WITHIN), http.get(f"{relay.url}fetch/bad/other") as response:
                assert (response.status, await response.text()) == (504, "the publisher does not answer\n")
            assert not viewer.closed
        await peer.until(lambda: all(stream.over for stream, _ in peer.subscriptions()))
        await service.goes_on()
        await until(relay, "refused_total", 2, limit="answer_timeout")
        await until(relay, "tracks", 1)
        assert not peer.closed


# --- viewers ---------------------------------------------------------------------------------------------------------


async def test_a_viewer_that_withholds_credit() -> None:
    """Its groups wait within its limits, then are skipped; other viewers of the track get all of it."""
    limits = replace(LIMITS, backlog_bytes=100_000, backlog_session=150_000)
    tiny = QuicSettings(stream_window=16_384, connection_window=16_384)
    async with serving(limits) as (relay, service), attacker(relay, settings=tiny) as peer:
        cast("QuicSession", peer.session).connection.streams._window = 0
        for _ in range(4):
            peer.subscribe("good/cam", "video")
        await peer.until(lambda: peer.incoming)
        while not value(await scrape(relay), "groups_dropped_total", reason="too_far_behind"):
            await service.goes_on(10)
        await service.goes_on(50)
        serving_peer = connection(relay, peer)._moq.serving
        assert serving_peer._unsent <= 200_000
        waiting = [
            one for delivery in serving_peer._deliveries.values() for one in delivery.backlog.waiting()
        ]
        assert 0 < sum(unsent for _, unsent in waiting) <= 160_000
        assert not peer.closed
