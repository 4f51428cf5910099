"""Drain and close: GOAWAY, serving the remaining sessions, refusing new ones."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from relay.actors.runtime import Ref, stop
from relay.app import Relay
from relay.client import Client, SessionEnded, SubscribeError
from relay.transport.client import ConnectError
from relay.transport.session import SessionClosed
from relay.wire.version import Version
from tests.client.recording import requested, requests_of
from tests.e2e.cluster_support import ANYONE, LIMITS, Camera, Viewer, cluster
from tests.e2e.harness import RustPeer, free_udp_port
from tests.e2e.http_support import published, readers, stage
from tests.e2e.support import PATIENT, raw, running, webtransport
from tests.e2e.test_command import OPEN, command
from tests.e2e.test_command import relay as relay_command
from tests.e2e.test_metrics import scrape, value
from tests.e2e.test_websocket import ws

pytestmark = pytest.mark.e2e

LONG = replace(PATIENT, drain=60.0)
"""Longer than any test."""

SHORT = replace(PATIENT, drain=0.1)
URLS = pytest.mark.parametrize("url_of", [webtransport, raw, ws], ids=["webtransport", "quic", "websocket"])
WITHIN = 60.0


async def connect(url: str, **options: Any) -> Client:
    """The relay's side of the session has begun, too."""
    client = await Client.connect(url, tls=ANYONE, **options)
    try:
        # the answer to a request
        async with asyncio.timeout(WITHIN):
            with pytest.raises(SubscribeError):
                await client.subscribe("nothing", "video")
    except BaseException:
        await client.close()
        raise
    return client


@contextlib.asynccontextmanager
async def draining(relay: Relay) -> AsyncIterator[asyncio.Task[None]]:
    """From GOAWAY on."""
    said = asyncio.Event()

    class Said(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage().startswith("draining"):
                said.set()

    handler, logger = Said(), logging.getLogger("relay")
    former = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    task = asyncio.create_task(relay.drain())
    try:
        async with asyncio.timeout(WITHIN):
            await said.wait()
        yield task
    finally:
        task.cancel()
        logger.setLevel(former)
        logger.removeHandler(handler)


async def test_a_drain_without_sessions_takes_no_time() -> None:
    async with running(limits=LONG) as relay, asyncio.timeout(WITHIN):
        await relay.drain()


@URLS
@pytest.mark.parametrize("version", [Version.LITE_02, Version.LITE_03, Version.LITE_04, Version.LITE_06])
async def test_who_is_there_is_asked_to_leave_and_served_until_then(url_of: Any, version: Version) -> None:
    async with running(limits=LONG) as relay:
        publisher = await connect(url_of(relay), versions=(version,))
        viewer = await connect(url_of(relay), versions=(version,))
        async with publisher, viewer, draining(relay) as drain:
            track = publisher.publish("demo/cam").track("video")
            await viewer.announced("").wait_for("demo/cam")
            subscription = await viewer.subscribe("demo/cam", "video")
            track.group().write(b"during the drain")
            async with asyncio.timeout(WITHIN):
                async for group in subscription:
                    assert (await anext(aiter(group))).payload == b"during the drain"
                    break
            told = "" if version >= Version.LITE_04 else None
            assert [publisher.goaway, viewer.goaway] == [told, told]
            await viewer.close()
            assert not drain.done()
            await publisher.close()
            async with asyncio.timeout(WITHIN):
                await drain


@pytest.mark.parametrize(
    ("url_of", "refusal"),
    [(webtransport, "transport error 0x2"), (raw, "transport error 0x2"), (ws, "answered 503")],
    ids=["webtransport", "quic", "websocket"],
)
async def test_new_sessions_are_rejected_during_a_drain(url_of: Any, refusal: str) -> None:
    async with running(limits=LONG) as relay, await connect(url_of(relay)), draining(relay):
        async with asyncio.timeout(WITHIN):
            with pytest.raises((ConnectError, SessionEnded), match=refusal):
                await connect(url_of(relay))
        assert value(await scrape(relay), "refused_total", limit="draining") >= 1


@URLS
@pytest.mark.parametrize("version", [Version.LITE_03, Version.LITE_06])
async def test_sessions_left_after_a_drain_are_closed_with_the_reason(url_of: Any, version: Version) -> None:
    async with running(limits=SHORT) as relay, await connect(url_of(relay), versions=(version,)) as client:
        await relay.drain()
        client.check()
        await relay.close()
        code = 16 if version >= Version.LITE_05 else 0
        async with asyncio.timeout(WITHIN):
            assert await client.closed() == SessionClosed(code, "server shutdown", by_peer=True)


async def test_without_a_drain_no_goaway_is_sent() -> None:
    async with running(limits=replace(PATIENT, drain=0)) as relay, await connect(raw(relay)) as client:
        await relay.drain()
        await relay.close()
        async with asyncio.timeout(WITHIN):
            assert await client.closed() == SessionClosed(0, "server shutdown", by_peer=True)
        assert client.goaway is None


async def test_a_drain_is_shown_everywhere() -> None:
    async with stage(limits=LONG) as (relay, http), await connect(raw(relay)):

        async def look() -> tuple[int, str, bool, str]:
            async with http.get(f"{relay.url}health") as health:
                status, text = health.status, await health.text()
            async with http.get(f"{relay.internal_url}state") as state:
                row = (await state.json())["relay"]["draining"]
            async with http.get(f"{relay.internal_url}metrics") as metrics:
                [gauge] = re.findall(r"^moq_relay_draining (\S+)", await metrics.text(), re.MULTILINE)
            return status, text, row, gauge

        assert await look() == (200, "ok\n", False, "0.0")
        async with draining(relay):
            assert await look() == (503, "draining\n", True, "1.0")


async def test_http_requests_that_wait_or_follow_end_with_the_relay() -> None:
    async with stage(limits=LONG) as (relay, http), published(relay) as (client, publication):
        publication.track("video").group().write(b"x")
        publication.track("silent")
        following = await http.get(f"{relay.url}fetch/demo/cam/video?follow=1")
        assert await following.content.readexactly(1) == b"x"
        waiting = asyncio.create_task(http.get(f"{relay.url}fetch/demo/cam/silent"))
        while not any(request.track == "silent" for request in requests_of(publication)):
            await requested(publication, len(requests_of(publication)) + 1)
        async with draining(relay):
            async with http.get(f"{relay.url}fetch/demo/cam/video") as late:
                assert (late.status, await late.text()) == (503, "going away: try another relay, or later\n")
            assert readers() == 2
        async with asyncio.timeout(WITHIN):
            await relay.close()
            with pytest.raises(aiohttp.ClientError):
                await following.read()
            async with await waiting as answer:
                assert (answer.status, await answer.text()) == (
                    503,
                    "going away: try another relay, or later\n",
                )
        assert client.goaway == ""


async def test_a_relay_of_a_cluster_is_not_waited_for_and_comes_back_later(tmp_path: Path) -> None:
    """Broadcasts that do not pass it continue without a gap; others by another route."""
    async with cluster(tmp_path, 2, limits=replace(LIMITS, drain=60.0)) as nodes:
        await nodes.settled()
        root, one, two = nodes
        async with Camera(one, "cam") as camera, Viewer(two, "cam") as watcher:
            await nodes.announce(["cam"])
            camera.go_on()
            await watcher.goes_on()
            async with asyncio.timeout(WITHIN):
                await root.running.drain()  # only other relays are there
            await watcher.goes_on()
            await root.close()
            await watcher.goes_on()
            await root.start()
            await nodes.settled({one: 1, two: 1})
            async with Viewer(root, "cam") as near:
                await near.goes_on()
            await watcher.goes_on()
            watcher.assert_once()
            whole = sorted(watcher.groups)
            assert whole == list(range(whole[0], whole[-1] + 1))


# --- as a process ----------------------------------------------------------------------------------------------------


def config(folder: Path, drain: float) -> str:
    file = folder / "relay.toml"
    file.write_text(f"[limits]\ndrain = {drain}\n")
    return str(file)


async def test_real_clients_leave_when_asked_and_the_relay_ends_then(tmp_path: Path) -> None:
    port = free_udp_port()
    url = f"https://127.0.0.1:{port}/"
    hold = ("demo/cam", "--track", "video", "--hold", "--groups", 1, "--frames-per-group", 1)
    async with relay_command(config(tmp_path, 60), "--listen", f"localhost:{port}", *OPEN) as running:
        await running.line("try it")
        async with (
            RustPeer("0.5.1", "publish", url, *hold) as source,
            RustPeer("0.5.1", "watch", url, "demo/cam", "--track", "video") as sink,
        ):
            await sink.wait_for("first_frame")
            running.process.send_signal(signal.SIGTERM)
            await source.wait_for("closed")
            await sink.wait_for("closed")
            assert await running.exit() == 0
        await running.line(r"draining sessions=2 readers=0 at_most=60.0s")
        await running.line(r"drained sessions=0 readers=0 after=")
        assert not [line for line in running.err if "closed by=relay" in line or "Traceback" in line]


async def test_a_second_signal_ends_a_drain_at_once(tmp_path: Path) -> None:
    port = free_udp_port()
    async with relay_command(config(tmp_path, 60), "--listen", f"localhost:{port}", *OPEN) as running:
        await running.line("try it")
        async with await connect(f"moqt://127.0.0.1:{port}/"):
            running.process.send_signal(signal.SIGINT)
            await running.line("draining sessions=1")
            running.process.send_signal(signal.SIGTERM)
            assert await running.exit(WITHIN) == -signal.SIGTERM


async def test_a_relay_whose_directory_fails_ends_with_1() -> None:
    port = free_udp_port()
    async with command("tests.e2e.peers.failing_relay", "--listen", f"localhost:{port}", *OPEN) as running:
        await running.line("try it")
        async with await connect(f"moqt://127.0.0.1:{port}/") as client:
            client.publish("demo/cam")
            assert await running.exit() == 1
            async with asyncio.timeout(WITHIN):
                assert await client.closed() == SessionClosed(0, "server shutdown", by_peer=True)


async def test_an_actor_that_does_not_end_keeps_nothing_else_alive(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An embedding program goes on after it."""
    stuck: list[Ref] = []

    async def stop_but_one(ref: Ref, *, timeout: float) -> bool:  # noqa: ASYNC109
        if not stuck or ref in stuck:
            stuck[:] = [ref]
            raise TimeoutError
        return await stop(ref, timeout=timeout)

    monkeypatch.setattr("relay.actors.system.stop", stop_but_one)
    async with running() as relay:
        one, two = await connect(raw(relay)), await connect(webtransport(relay))
        await relay.close()
        for client in (one, two):
            async with asyncio.timeout(WITHIN):
                await client.closed()
        (line,) = [record.getMessage() for record in caplog.records if "in time" in record.getMessage()]
        assert line == f"an actor did not end in time actor={str(stuck[0])!r}"
        assert not relay.connections
    stuck[0].stop(block=False)
