"""What moq-publish sends, in players of others: @moq/watch of npm in Chromium, and moq-rs.

And what moq-rs sends, recorded by moq-watch.
"""

from __future__ import annotations

import asyncio
import itertools
import shutil
from pathlib import Path

import av
import pytest

from tests.e2e.browser import chromium_path
from tests.e2e.harness import Peer, peer_python
from tests.e2e.media_support import HEIGHT, WIDTH, write_media
from tests.e2e.support import NEW, running, webtransport
from tests.e2e.test_command import command
from tests.e2e.watch_support import watching

PICTURES = 12
SECONDS, RATE = 6, 10


@pytest.mark.skipif(chromium_path() is None, reason="Chromium is not installed")
@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed: no @moq/watch to test with")
@pytest.mark.parametrize(
    "name, video, audio",
    [
        ("film.webm", "libvpx-vp9", "libopus"),
        ("film.mp4", "libx264", "aac"),  # with B-frames, and a description in the catalog
        ("film.ts", "libx264", "aac"),  # with the parameter sets in the stream
    ],
)
async def test_moq_watch_of_npm_plays_a_file(tmp_path: Path, name: str, video: str, audio: str) -> None:
    film = write_media(tmp_path / name, video=video, audio=audio, seconds=SECONDS, rate=RATE)
    async with (
        running() as relay,
        command(
            "relay.commands.publish", str(film), relay.url, "--loop", "--broadcast", "demo/film"
        ) as publish,
    ):
        await publish.line("publishing demo/film")
        async with watching(relay, "demo/film") as tab:
            await tab.wait_for("picture", nth=PICTURES)
            assert tab.count("error") == 0, tab.events
            pictures = [event for event in tab.find("picture") if event["number"] is not None]
            assert {(event["width"], event["height"]) for event in pictures} == {(WIDTH, HEIGHT)}
            # before the first one, the canvas is black
            numbers = [event["number"] for event in pictures if event["number"]]
            steps = [(after - before) % (SECONDS * RATE) for before, after in itertools.pairwise(numbers)]
            # the file starts again after its last picture; a busy browser leaves some out
            assert all(0 < step <= RATE for step in steps), numbers


@pytest.mark.parametrize("container", ["legacy", "cmaf"])
async def test_moq_rs_reads_the_catalog_and_the_frames(tmp_path: Path, container: str) -> None:
    film = write_media(tmp_path / "film.mp4", audio="aac", seconds=SECONDS, rate=RATE)
    python = await asyncio.to_thread(peer_python, NEW)
    async with (
        running() as relay,
        command("relay.commands.publish", str(film), relay.url, "--loop", "--container", container),
        Peer([python, "-m", "tests.e2e.peers.rust_viewer", webtransport(relay), "film"]) as viewer,
    ):
        catalog = await viewer.wait_for("catalog")
        assert catalog["codecs"]["video/hd"].startswith("avc1.")
        assert catalog["codecs"]["audio/data"] == "mp4a.40.2"
        assert catalog["descriptions"]["video/hd"].startswith("01")
        assert catalog["coded"] == {"video/hd": [WIDTH, HEIGHT]}
        assert catalog["rates"] == {"audio/data": [48_000, 1]}
        pictures = (await viewer.wait_for("frames", track="video/hd"))["frames"]
        sounds = (await viewer.wait_for("frames", track="audio/data"))["frames"]
    times = sorted(time for time, _, _ in pictures)
    # in the order of decoding some are missing at the end
    assert {after - before for before, after in itertools.pairwise(times[:-2])} == {100_000}
    assert pictures[0][2]
    assert all(20_000 < after - before < 23_000 for (before, *_), (after, *_) in itertools.pairwise(sounds))


async def test_a_broadcast_of_moq_rs_is_recorded(tmp_path: Path) -> None:
    python = await asyncio.to_thread(peer_python, NEW)
    out = tmp_path / "out.mp4"
    async with (
        running() as relay,
        Peer([python, "-m", "tests.e2e.peers.rust_media", webtransport(relay), "demo/cam"]) as peer,
        command(
            "relay.commands.watch", relay.url, "demo/cam", "--seconds", "2", "--out", str(out)
        ) as recording,
    ):
        await peer.wait_for("published")
        assert await recording.exit() == 0, recording.err
    with av.open(str(out)) as container:
        frames = list(container.decode(video=0))
    assert {(frame.width, frame.height) for frame in frames} == {(320, 192)}
    assert len(frames) >= 29
    reds = [red_on_the_left(frame) for frame in frames]
    # the sides change every second
    assert set(reds) == {True, False}
    with av.open(str(out)) as container:
        assert sum(frame.samples for frame in container.decode(audio=0)) > 48_000


def red_on_the_left(frame: av.VideoFrame) -> bool:
    plane = frame.reformat(format="rgb24").planes[0]
    return bytes(plane)[plane.line_size * (frame.height // 2) + 3 * (frame.width // 4)] > 128
