"""The HTTP routes, asked with curl while a real publisher is live."""

from __future__ import annotations

import asyncio
import logging
import shutil
from dataclasses import dataclass

import pytest
from yarl import URL

from relay.app import Relay
from relay.client import Client
from relay.model.pace import LOG_BURST
from relay.web import fetching
from tests.e2e.harness import RustPeer
from tests.e2e.support import publisher, running, webtransport

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


CURL_PARTIAL = 18
"""curl's exit status for a body that ended too early."""


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


async def curl(url: str, *options: str) -> Answer:
    process = await asyncio.create_subprocess_exec(
        *("curl", "--silent", "--include", "--max-time", "20", *options, url),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    head, _, body = output.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return Answer(int(status.split()[1]), headers, body)


def held(relay: Relay, path: str = "demo/cam", groups: int = 2) -> RustPeer:
    """A publisher that leaves its last group open."""
    options = (
        "--groups",
        groups,
        "--frames-per-group",
        3,
        "--hold",
        "--wait-for-viewers",
        0,
        "--frame-size",
        20,
    )
    return publisher("0.5.1", webtransport(relay), path, *options)


async def test_certificate_is_64_hex_digits_and_nothing_else() -> None:
    async with running() as relay:
        answer = await curl(f"{relay.url}certificate.sha256")
    assert answer.status == 200
    assert answer.body.decode() == relay.fingerprint
    assert len(answer.body) == 64
    assert answer.headers["access-control-allow-origin"] == "*"


async def test_preflight() -> None:
    async with running() as relay:
        answer = await curl(f"{relay.url}certificate.sha256", "--request", "OPTIONS")
    assert answer.status == 200
    assert answer.headers["access-control-allow-methods"] == "GET"


async def test_announced_is_relative_to_the_prefix() -> None:
    async with running() as relay, held(relay, "demo/cam") as cam, held(relay, "demo/deep/mic") as mic:
        for peer in (cam, mic):
            await peer.wait_for("published")
        assert (await curl(f"{relay.url}announced")).body == b"demo/cam\ndemo/deep/mic\n"
        assert (await curl(f"{relay.url}announced/")).body == b"demo/cam\ndemo/deep/mic\n"
        assert (await curl(f"{relay.url}announced/demo")).body == b"cam\ndeep/mic\n"
        assert (await curl(f"{relay.url}announced/demo/cam")).body == b"\n"
        answer = await curl(f"{relay.url}announced/dem")
        assert (answer.status, answer.body) == (200, b"")
        assert answer.headers["content-type"].startswith("text/plain")


async def test_fetch_of_a_live_group_streams_and_ends_with_it() -> None:
    async with running() as relay, held(relay) as source:
        await source.wait_for("published")
        process = await asyncio.create_subprocess_exec(
            *("curl", "--silent", "--no-buffer", f"{relay.url}fetch/demo/cam/video"),
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        start = await asyncio.wait_for(process.stdout.readexactly(60), 10)
        assert [start[i : i + 8] for i in (0, 20, 40)] == [bytes([0, 0, 0, 1, 0, 0, 0, i]) for i in range(3)]
        await source.send_line("finish")
        assert await asyncio.wait_for(process.stdout.read(), 10) == b""
        assert await process.wait() == 0


async def test_fetch_of_a_finished_group() -> None:
    """The newest group is complete, the track continues: the body is whole and ends."""
    async with running() as relay, await Client.connect(relay.url) as client:
        track = client.publish("demo/cam").track("video")
        for text in (b"old", b"new"):
            group = track.group()
            for frame in (b"<", text, b"", b">"):
                group.write(frame)
            group.finish()
        answer = await curl(f"{relay.url}fetch/demo/cam/video")
    assert (answer.status, answer.body) == (200, b"<new>")


async def test_fetch_of_a_group_that_breaks_off_does_not_look_complete() -> None:
    async with running() as relay, await Client.connect(relay.url) as client:
        track = client.publish("demo/cam").track("video")
        group = track.group()
        group.write(b"half")
        process = await asyncio.create_subprocess_exec(
            *("curl", "--silent", "--no-buffer", f"{relay.url}fetch/demo/cam/video"),
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        assert await asyncio.wait_for(process.stdout.readexactly(4), 10) == b"half"
        group.abort(70)
        assert await asyncio.wait_for(process.stdout.read(), 10) == b""
        assert await process.wait() == CURL_PARTIAL


async def test_failures_are_distinguished(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "FETCH_TIMEOUT", 0.5)
    silent = ("--groups", 0, "--hold", "--wait-for-viewers", 0)
    async with (
        running() as relay,
        held(relay) as source,
        publisher("0.5.1", webtransport(relay), "demo/silent", *silent) as mute,
    ):
        await source.wait_for("published")
        await mute.wait_for("connected")
        assert (await curl(f"{relay.url}fetch/demo")).status == 400
        assert (await curl(f"{relay.url}fetch/")).status == 400
        assert (await curl(f"{relay.url}fetch/demo/none/video")).status == 404
        unknown = await curl(f"{relay.url}fetch/demo/cam/none")
        assert (unknown.status, unknown.body) == (404, b"no such track or group\n")
        assert (await curl(f"{relay.url}fetch/demo/silent/video")).status == 504
        missing = await curl(f"{relay.url}nothing/here")
        assert missing.status == 404
        assert b"/announced/" in missing.body
        assert (await curl(f"{relay.url}announced", "--request", "POST")).status == 405
        assert (await curl(f"{relay.url}announced?jwt=abc.def.ghi")).status == 401


async def test_anonymous_outside_the_public_prefix() -> None:
    async with running(public="anon") as relay:
        assert (await curl(f"{relay.url}announced/anon")).status == 200
        assert (await curl(f"{relay.url}announced/anon/room")).status == 200
        assert (await curl(f"{relay.url}announced/secret")).status == 401
        assert (await curl(f"{relay.url}fetch/secret/room/video")).status == 401
        assert (await curl(f"{relay.url}certificate.sha256")).status == 200


async def test_paths_are_percent_decoded() -> None:
    async with running() as relay, held(relay, "demo/caf\u00e9 one") as source:
        await source.wait_for("published")
        assert (await curl(f"{relay.url}announced/")).body.decode() == "demo/caf\u00e9 one\n"
        answer = await curl(f"{relay.url}fetch/demo/caf%C3%A9%20one/video", "--max-time", "1")
        assert answer.status == 200


async def test_what_is_no_http_writes_a_few_lines(caplog: pytest.LogCaptureFixture) -> None:
    """Scanners of the network send it."""
    caplog.set_level(logging.INFO, "relay")
    async with running() as relay:
        port = URL(relay.url).port
        for _ in range(20):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"\x16\x03\x01 no HTTP\r\n\r\n")
            assert b"400" in await asyncio.wait_for(reader.readline(), 10)
            writer.close()
    assert len([line for line in caplog.messages if "no readable HTTP" in line]) == LOG_BURST


async def test_a_compressed_body_is_not_unpacked(caplog: pytest.LogCaptureFixture) -> None:
    """It might be a thousand times as large."""
    async with running() as relay:
        answer = await curl(
            f"{relay.url}health", "--data", "no gzip", "-X", "GET", "-H", "content-encoding: gzip"
        )
        assert (answer.status, answer.body) == (200, b"ok\n")
    assert not caplog.records
