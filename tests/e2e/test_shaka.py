"""The npm package shaka-player in Chromium plays live CMAF: an MSF catalog, VP9 and Opus.

It speaks drafts 16 and 14. The publisher sends an object for each picture, when its time comes.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import json
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from relay.app import Relay
from relay.client import Client
from relay.wire.version import ALL_VERSIONS, AnyVersion, Draft, Version
from tests.e2e.auth_support import everything, guarded, http, token
from tests.e2e.browser import Page, chromium_path
from tests.e2e.harness import INSTALL_S, ROOT, npm_modules
from tests.e2e.player_support import chunks_of
from tests.e2e.support import running

PACKAGE = "shaka-player@5.2.12"
NAMESPACE, CATALOG, VIDEO, AUDIO = "demo/cam", "catalog", "video/hd", "audio/en"

RATE, PACKETS = 10, 5
"""Pictures a second, and packets of sound with each."""
SECONDS = 90
"""Of media: more than a test takes."""
WATCHED = 25
"""Pictures: more than two groups."""

pytestmark = [
    pytest.mark.skipif(chromium_path() is None, reason="Chromium is not installed"),
    pytest.mark.skipif(
        shutil.which("npm") is None, reason="npm is not installed: no shaka-player to test with"
    ),
]


@dataclass(frozen=True)
class Track:
    """In CMAF."""

    header: bytes
    chunks: list[bytes]


@functools.cache
def encoded(kind: str) -> Track:
    command = [sys.executable, "-m", "tests.e2e.peers.cmaf", kind, str(RATE), str(SECONDS)]
    data = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=INSTALL_S, cwd=ROOT).stdout
    return Track(*chunks_of(data))


def catalog(video: Track, audio: Track) -> bytes:
    common = {"packaging": "cmaf", "isLive": True, "renderGroup": 1}
    tracks = [
        {"name": VIDEO, "codec": "vp09.00.10.08", "framerate": RATE, "bitrate": 20_000, **header(video)},
        {"name": AUDIO, "codec": "opus", "samplerate": 48_000, "bitrate": 24_000, **header(audio)},
    ]
    return json.dumps({"version": 1, "tracks": [common | track for track in tracks]}).encode()


def header(track: Track) -> dict[str, str]:
    return {"initData": base64.b64encode(track.header).decode()}


async def publish(client: Client, *, once: bool) -> None:
    """Media as time goes on. `once`: the catalog has a single group, else one for each second."""
    video, audio = [await asyncio.to_thread(encoded, kind) for kind in ("video", "audio")]
    publication = client.publish(NAMESPACE)
    catalogs, pictures, sounds = (publication.track(name) for name in (CATALOG, VIDEO, AUDIO))
    loop = asyncio.get_running_loop()
    start = loop.time()
    for second in range(SECONDS):
        if not (once and second):
            group = catalogs.group()
            group.write(catalog(video, audio))
            group.finish()
        seen, heard = pictures.group(), sounds.group()
        for number in range(second * RATE, (second + 1) * RATE):
            seen.write(video.chunks[number])
            for chunk in audio.chunks[number * PACKETS : (number + 1) * PACKETS]:
                heard.write(chunk)
            await asyncio.sleep(start + (number + 1) / RATE - loop.time())
        seen.finish()
        heard.finish()


@contextlib.asynccontextmanager
async def live(url: str, version: AnyVersion, *, once: bool = False) -> AsyncIterator[None]:
    async with (
        await Client.connect(url, versions=[version]) as client,
        await Client.connect(url) as other,
        asyncio.TaskGroup() as group,
    ):
        publishing = group.create_task(publish(client, once=once))
        await other.announced().wait_for(NAMESPACE)
        yield
        publishing.cancel()


async def player(relay: Relay, draft: str, *, fetch: bool = False, token: str = "") -> Page:
    folder = await asyncio.to_thread(npm_modules, PACKAGE)
    return Page(
        "shaka.html",
        modules=folder,
        relay=relay.url,
        namespace=NAMESPACE,
        version=draft,
        fetch=int(fetch),
        token=token,
    )


async def check_playing(tab: Page) -> None:
    await tab.wait_for("picture", nth=WATCHED)
    assert tab.count("error") == 0, tab.events
    assert tab.find("loaded")[0]["codecs"] == ["vp09.00.10.08, opus"]
    pictures = tab.find("picture")
    times = [picture["media_time"] for picture in pictures]
    assert times == sorted(set(times))
    for picture in pictures:
        # while it is read, the next one may be there
        assert 0 <= picture["number"] - round(picture["media_time"] * RATE) <= 1, picture
    assert pictures[-1]["number"] - pictures[0]["number"] >= WATCHED - 1
    assert pictures[-1]["current_time"] > pictures[0]["current_time"]
    assert pictures[-1]["audio_bytes"] > pictures[0]["audio_bytes"]


@pytest.mark.parametrize(
    ("version", "draft"),
    [(Version.LITE_06, "draft-14"), (Draft.DRAFT_20, "draft-14"), (Draft.DRAFT_14, "draft-16")],
)
async def test_shaka_plays_live(version: AnyVersion, draft: str) -> None:
    """Its draft 16 stumbles over properties of a track: a publisher on 14 has none."""
    async with (
        running() as relay,
        live(relay.url, version),
        await player(relay, draft) as tab,
    ):
        await tab.wait_for("picture", nth=RATE)
        async with await player(relay, draft) as late:
            await asyncio.gather(check_playing(tab), check_playing(late))


async def test_shaka_fetches_the_catalog_and_signs_in_by_setup(tmp_path: Path) -> None:
    async with (
        guarded(tmp_path, public="lobby", versions=ALL_VERSIONS) as relay,
        live(http(relay, credential=everything()), Draft.DRAFT_18, once=True),
        await player(relay, "draft-14", fetch=True, token=token(get="demo")) as tab,
    ):
        await check_playing(tab)
