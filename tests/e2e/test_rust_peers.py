"""Real clients, moq-rs 0.5.1 and 0.3.3, publish and watch through the relay."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from relay.app import Relay
from relay.client import Client
from relay.model.limits import Limits
from relay.quic.certificate_store import CertificateStore
from relay.quic.settings import QuicSettings
from relay.runtime import SYSTEM
from relay.transport.quic_server import QuicServer
from relay.wire.version import Version
from tests.e2e.harness import RustPeer, free_udp_port
from tests.e2e.support import (
    NEW,
    OLD,
    PATIENT,
    SPOKEN,
    assert_complete,
    paced,
    publisher,
    raw,
    running,
    viewer,
    webtransport,
)
from tests.sampling import pairs, repeats

GROUPS, FRAMES = 100, 10


@pytest.mark.parametrize(("peer", "version"), SPOKEN, ids=lambda value: str(getattr(value, "name", value)))
async def test_thousand_frames(peer: str, version: Version) -> None:
    """1000 frames in groups of 10 arrive complete on the newest version, fewer on each other.

    One publisher is on WebTransport and its viewer on raw QUIC, the other pair the other way round.
    """
    groups = GROUPS if version is Version.LITE_06 else repeats(GROUPS)
    async with running(versions=[version]) as relay, contextlib.AsyncExitStack() as stack:
        frames = ("--frames", groups * FRAMES)
        routes = [(webtransport(relay), raw(relay), "demo/a"), (raw(relay), webtransport(relay), "demo/b")]
        sources = [
            await stack.enter_async_context(publisher(peer, url, path, *paced(peer, groups, FRAMES)))
            for url, _, path in routes
        ]
        sinks = [await stack.enter_async_context(viewer(peer, url, path, *frames)) for _, url, path in routes]
        for source in sources:
            assert (await source.wait_for("negotiated"))["version"] == version.name_on_wire
        for sink in sinks:
            assert_complete(await sink.wait_for("result"), groups, FRAMES)


async def test_every_version_pair() -> None:
    """Real clients on one relay."""
    watched = {version: [source for source, sink in pairs() if sink is version] for version in Version}
    shape = ("--groups", 10, "--frames-per-group", 5, "--pause", "first-frame", "--interval", 0.01)
    async with running() as relay, listeners(relay) as urls, contextlib.AsyncExitStack() as stack:
        publishers = {
            version: await stack.enter_async_context(
                publisher(NEW, urls[version], f"cam/{version.name}", *shape)
            )
            for version in Version
        }
        for version, publishing in publishers.items():
            assert (await publishing.wait_for("negotiated"))["version"] == version.name_on_wire
        for version in Version:
            watchers = {
                source: await stack.enter_async_context(
                    viewer(NEW, urls[version], f"cam/{source.name}", "--frames", 5)
                )
                for source in watched[version]
            }
            for source, watcher in watchers.items():
                await watcher.wait_for("first_frame")
                await publishers[source].send_line("go")  # the first one counts
            for source, watcher in watchers.items():
                result = await watcher.wait_for("result")
                assert result["errors"] == [], (source, version, result["errors"])
                assert result["frames"] >= 5
                for _, frames in result["groups"]:
                    assert frames == list(range(len(frames)))


async def test_publishers_that_have_nothing_yet_are_not_taken_for_dead() -> None:
    """Every version answers a subscription before its first group, or a question about the track."""
    impatient = replace(PATIENT, answer_timeout=1.0)
    quiet = ("--groups", 1, "--frames-per-group", 2, "--pause", "start")
    async with contextlib.AsyncExitStack() as stack:
        relay = await stack.enter_async_context(running(limits=impatient))
        urls = await stack.enter_async_context(listeners(relay))
        wanted = [(NEW, urls[version], f"cam/{version.name}") for version in Version]
        wanted.append((OLD, webtransport(relay), "cam/old"))
        sources = [
            await stack.enter_async_context(publisher(peer, url, path, *quiet)) for peer, url, path in wanted
        ]
        client = await stack.enter_async_context(await Client.connect(relay.url))
        live = client.announced("cam")
        async with asyncio.timeout(60):
            for _, _, path in wanted:
                await live.wait_for(path)
        subscriptions = [await client.subscribe(path, "video", describe=False) for _, _, path in wanted]
        firsts = [asyncio.ensure_future(anext(subscription)) for subscription in subscriptions]
        for source in sources:
            await source.wait_for("paused")
        done, _ = await asyncio.wait(firsts, timeout=1.5 * impatient.answer_timeout)
        assert not done, [task.exception() for task in done]
        for source in sources:
            await source.send_line("go")
        async with asyncio.timeout(60):
            assert [len(await (await first).read_all()) for first in firsts] == [2] * len(wanted)


@contextlib.asynccontextmanager
async def listeners(relay: Relay) -> AsyncIterator[dict[Version, str]]:
    """A listener per version, so that clients that offer all use that one."""
    store = CertificateStore([], ["localhost"], dt.datetime.now(dt.UTC))
    servers: dict[Version, QuicServer] = {}
    for version in Version:
        server = QuicServer(
            runtime=SYSTEM,
            address=("127.0.0.1", free_udp_port()),
            certificates=store,
            settings=QuicSettings(),
            limits=Limits(),
            versions=(version,),
            on_request=lambda request, version=version: relay.accept(request, (version,)),  # type: ignore[misc]
        )
        await server.start()
        servers[version] = server
    try:
        yield {version: f"https://127.0.0.1:{server.addresses[0][1]}/" for version, server in servers.items()}
    finally:
        for server in servers.values():
            await server.close()


@pytest.mark.parametrize(("source_peer", "sink_peer"), [(NEW, OLD), (OLD, NEW)])
async def test_generations_mixed(source_peer: str, sink_peer: str) -> None:
    """An old client watches a new one and the other way round, each on the best version it has."""
    groups = repeats(GROUPS // 4)
    # An old viewer gives up a group as soon as the next one is there.
    slowly = ("--groups", groups, "--frames-per-group", FRAMES, "--interval", 0.024, "--frame-size", 400)
    async with running() as relay:
        url = webtransport(relay)
        async with (
            publisher(source_peer, url, "demo/cam", *slowly) as _,
            viewer(sink_peer, raw(relay), "demo/cam", "--frames", groups * FRAMES) as sink,
        ):
            assert_complete(await sink.wait_for("result"), groups, FRAMES)


async def test_late_joiner_gets_the_current_group_from_its_first_frame() -> None:
    async with running() as relay:
        url = webtransport(relay)
        held = ("--groups", 3, "--frames-per-group", 10, "--hold", "--interval", 0.001)
        async with (
            publisher(NEW, url, "demo/cam", *held) as source,
            viewer(NEW, url, "demo/cam") as early,
        ):
            await early.wait_for("first_frame")
            await source.wait_for("published")
            async with viewer(NEW, url, "demo/cam", "--frames", 10, "--max-age-ms", 0) as late:
                first = await late.wait_for("first_frame")
                result = await late.wait_for("result")
    assert (first["group"], first["frame"]) == (2, 0)
    assert result["groups"] == [[2, list(range(10))]]


async def test_twenty_viewers_make_one_upstream_subscription() -> None:
    async with running() as relay:
        url = webtransport(relay)
        paced = ("--groups", 10, "--frames-per-group", 5, "--interval", 0.02, "--pause", "first-frame")
        async with (
            publisher(NEW, url, "demo/cam", *paced) as source,
            viewer(NEW, url, "demo/cam", "--viewers", 20) as sink,
        ):
            for index in range(20):
                await sink.wait_for("first_frame", viewer=index)
            await source.send_line("go")
            for index in range(20):
                assert_complete(await sink.wait_for("result", viewer=index), 10, 5)
            assert source.count("track_request") == 1


@pytest.mark.parametrize("url_of", [webtransport, raw], ids=["webtransport", "quic"])
async def test_a_publisher_is_killed_and_another_one_takes_its_place(url_of: object) -> None:
    """Its viewer goes on with the second, in the same subscription."""
    assert callable(url_of)
    async with running(quic=QuicSettings(idle_timeout=3.0, keep_alive=1.0)) as relay:
        url = url_of(relay)
        alone = ("--groups", 1, "--frames-per-group", 1, "--hold")
        held = ("--groups", 1, "--frames-per-group", 5, "--hold")
        async with viewer(NEW, url, "demo/cam", "--frames", 6) as sink:
            async with publisher(NEW, url, "demo/cam", *alone) as source:
                await sink.wait_for("first_frame")
                await source.kill()
            async with asyncio.timeout(60):
                while len(relay.connections) > 1:  # noqa: ASYNC110 - the relay tells nobody but its log
                    await asyncio.sleep(0.05)
            async with publisher(NEW, url, "demo/cam", *held):
                result = await sink.wait_for("result")
        assert result["groups"][-1] == [1, [0, 1, 2, 3, 4]]
        assert sink.count("subscribe_sent") == 1


@pytest.mark.parametrize("url_of", [webtransport, raw], ids=["webtransport", "quic"])
async def test_a_publisher_is_killed_and_does_not_come_back(url_of: object) -> None:
    """Viewers learn it within the idle time-out and the linger time."""
    assert callable(url_of)
    idle, linger = 3.0, 0.5
    quic = QuicSettings(idle_timeout=idle, keep_alive=1.0)
    async with running(quic=quic, limits=replace(PATIENT, linger=linger)) as relay:
        url = url_of(relay)
        async with (
            viewer(NEW, url, "demo/cam") as sink,
            publisher(NEW, url, "demo/cam", "--groups", 2, "--frames-per-group", 5, "--hold") as source,
        ):
            await sink.wait_for("first_frame")
            await source.kill()
            error = await sink.wait_for("error", idle + linger + 1, stage="track")
            assert error["scope"] == "stream"


async def test_a_reflecting_viewer_does_not_take_the_broadcast_over() -> None:
    """0.3 with one origin for both directions announces what it received; the publisher stays the same."""
    async with running(versions=[Version.LITE_01, Version.LITE_02, Version.LITE_03]) as relay:
        url = webtransport(relay)
        held = ("--groups", 2, "--frames-per-group", 5, "--hold")
        async with publisher(NEW, url, "demo/cam", *held) as source:
            await source.wait_for("connected")
            echo = viewer(OLD, url, "demo/cam", "--frames", 5)
            echo._command.remove("--explicit-origins")
            async with echo:
                assert (await echo.wait_for("result"))["frames"] >= 5
                async with viewer(NEW, url, "demo/cam", "--frames", 5) as sink:
                    assert (await sink.wait_for("result"))["errors"] == []
            assert source.count("closed") == 0


async def test_withdrawn_and_announced_again() -> None:
    async with running() as relay:
        url = webtransport(relay)
        held = ("--groups", 1, "--frames-per-group", 1, "--hold", "--wait-for-viewers", 0)
        async with (
            publisher(NEW, url, "demo/cam", *held) as source,
            publisher(OLD, url, "demo/mic", *held) as _,
            RustPeer(NEW, "announced", url) as watcher,
        ):
            await watcher.wait_for("announce", path="demo/cam")
            await watcher.wait_for("announce", path="demo/mic")
            await source.send_line("unannounce")
            await watcher.wait_for("unannounce", path="demo/cam")
            assert watcher.count("unannounce") == 1


async def test_paths_are_relative_to_the_url() -> None:
    """Under one URL, seen under others, each relative to its own; nothing leaks above."""
    async with running() as relay:
        held = ("--groups", 1, "--frames-per-group", 5, "--hold")
        async with (
            publisher(NEW, webtransport(relay, "room/1"), "cam", *held) as _,
            viewer(NEW, webtransport(relay, "room"), "1/cam", "--frames", 5) as above,
            viewer(NEW, raw(relay, "room/1"), "cam", "--frames", 5) as beside,
            RustPeer(NEW, "announced", raw(relay, "room/2")) as elsewhere,
        ):
            await elsewhere.wait_for("connected")
            for sink in (above, beside):
                assert (await sink.wait_for("result"))["errors"] == []
            assert elsewhere.count("announce") == 0


@pytest.mark.parametrize(
    ("url_of", "events"),
    [(webtransport, ["error"]), (raw, ["closed", "error"])],
    ids=["webtransport", "quic"],
)
async def test_outside_the_public_prefix_is_unauthorized(url_of: object, events: list[str]) -> None:
    """WebTransport is refused before it is accepted; raw QUIC, whose path comes in-band, is closed.

    An early close may look like a failed connect.
    """
    assert callable(url_of)
    async with running(public="anon") as relay:
        async with RustPeer(NEW, "announced", url_of(relay, "secret")) as refused:
            await refused.wait(15)
            told = [event for event in refused.events if event["event"] in events]
            assert len(told) == 1
            assert "unauthorized" in told[0]["message"].lower()
        async with RustPeer(NEW, "announced", url_of(relay, "anon/room")) as welcome:
            await welcome.wait_for("connected")
