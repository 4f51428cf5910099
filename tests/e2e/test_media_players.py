"""What moq-publish sends, in players of others: the npm package @moq/watch in Chromium."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import pytest

from tests.e2e.browser import chromium_path
from tests.e2e.media_support import HEIGHT, WIDTH, write_media
from tests.e2e.support import running
from tests.e2e.test_command import command
from tests.e2e.watch_support import watching

PICTURES = 12
SECONDS, RATE = 6, 10

pytestmark = [
    pytest.mark.skipif(chromium_path() is None, reason="Chromium is not installed"),
    pytest.mark.skipif(
        shutil.which("npm") is None, reason="npm is not installed: no @moq/watch to test with"
    ),
]


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
