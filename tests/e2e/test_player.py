"""Broadcasts in the dashboard: picture and sound in Chromium, of real publishers."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final, TypeAlias
from urllib.parse import quote

import pytest

from tests.e2e.browser import Page, chromium_path
from tests.e2e.dashboard_support import Tab, tab
from tests.e2e.harness import Peer, npm_modules, peer_python
from tests.e2e.http_support import published
from tests.e2e.player_support import (
    AV1,
    HEIGHT,
    HERTZ,
    RATE,
    WIDTH,
    Encoded,
    Media,
    as_json,
    bare,
    base64_of,
    demuxed,
    encoded,
    fragmented,
    legacy,
    live,
    loc,
    mux,
    write_catalog,
)
from tests.e2e.support import NEW, running, webtransport
from tests.e2e.test_command import command

pytestmark = pytest.mark.skipif(
    chromium_path() is None, reason="Chromium is not installed: tests/e2e/install-chromium.sh installs it"
)

PUBLISH: Final = "@moq/publish@0.2.17"

COLOURS: Final = """(() => {
    const { width, height } = document.querySelector('[data-play=canvas]');
    const context = document.querySelector('[data-play=canvas]').getContext('2d');
    return [0.25, 0.75].map((x) => [...context.getImageData(width * x, height / 2, 1, 1).data.slice(0, 3)]);
})()"""
"""Of the left and the right half of the picture."""

IS_RED: Final = "((colour) => colour[0] > 180 && colour[2] < 90)"
IS_BLUE: Final = "((colour) => colour[2] > 180 && colour[0] < 90)"


LEVEL: Final = "Number(document.querySelector('[data-play=level]').dataset.value)"


def selector(name: str) -> str:
    return f"document.querySelector('[data-play={name}]')"


@contextlib.asynccontextmanager
async def rust_media(url: str, broadcast: str) -> AsyncIterator[Peer]:
    python = await asyncio.to_thread(peer_python, NEW)
    async with Peer([python, "-m", "tests.e2e.peers.rust_media", url, broadcast]) as peer:
        await peer.wait_for("published")
        yield peer


async def press(page: Tab, name: str) -> None:
    """With the activation of a user's click, without which browsers play no sound."""
    await page.call("Runtime.evaluate", expression=f"{selector(name)}.click()", userGesture=True)


async def test_picture_and_sound_of_a_rust_publisher() -> None:
    """H.264 and Opus in the legacy container."""
    async with (
        running() as relay,
        rust_media(webtransport(relay), "demo/cam"),
        tab(relay.internal_url) as page,
    ):
        await page.until("document.querySelector('[data-broadcast=\"demo/cam\"] a.path')")
        await page.click('[data-broadcast="demo/cam"] a.path')
        for left, right in ((IS_RED, IS_BLUE), (IS_BLUE, IS_RED)):
            await page.until(f"(([a, b]) => {left}(a) && {right}(b))({COLOURS})")
        await page.until(f"{selector('state')}.dataset.state === 'following'")
        codecs = await page.evaluate(
            "[...document.querySelectorAll('[data-rendition] [data-label=Codec]')].map((cell) => cell.textContent)"
        )
        assert len(codecs) == 2
        assert codecs[0].startswith("H.264 (avc")
        assert codecs[1] == "Opus, legacy"
        await page.until(
            "/Shown .* after its arrival/.test(document.querySelector('[data-play=latency]').textContent)"
        )
        assert not [address for address in page.requests if "audio" in address]  # silent until asked
        await press(page, "sound")
        await page.until(
            "document.querySelector('[data-kind=audio] [aria-pressed]').getAttribute('aria-pressed') === 'true'"
        )
        await page.until(f"{LEVEL} > 0.05")
        await press(page, "pause")
        await page.until(f"{selector('state')}.dataset.state === 'paused'")
        assert await page.evaluate(LEVEL) == 0
        await press(page, "pause")
        await page.until(f"{selector('state')}.dataset.state === 'following'")
        await page.until(f"{LEVEL} > 0.05")
        assert page.complaints == []


@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed: no @moq/publish to test with")
async def test_picture_of_a_browser_with_moq_publish() -> None:
    modules = await asyncio.to_thread(npm_modules, PUBLISH)
    async with (
        running() as relay,
        Page("publish.html", modules=modules, relay=relay.url, broadcast="demo/tab") as publisher,
        tab(f"{relay.internal_url}#broadcast=demo%2Ftab") as page,
    ):
        await publisher.wait_for("published")
        for left, right in ((IS_RED, IS_BLUE), (IS_BLUE, IS_RED)):
            await page.until(f"(([a, b]) => {left}(a) && {right}(b))({COLOURS})")
        assert publisher.count("error") == 0, publisher.events
        assert page.complaints == []


async def test_picture_of_an_mp4_with_moq_publish(tmp_path: Path) -> None:
    film = tmp_path / "film.mp4"
    film.write_bytes(await asyncio.to_thread(mux, "libx264", "mp4"))
    async with (
        running() as relay,
        command("relay.commands.publish", str(film), relay.url, "--loop", "--broadcast", "demo/film"),
        tab(f"{relay.internal_url}#broadcast=demo%2Ffilm") as page,
    ):
        for left, right in ((IS_RED, IS_BLUE), (IS_BLUE, IS_RED)):
            await page.until(f"(([a, b]) => {left}(a) && {right}(b))({COLOURS})")
        assert page.complaints == []


async def test_sound_of_a_loudspeaker_that_is_late() -> None:
    """Pictures wait for it: over a good network nothing else leaves it the time."""
    source = await asyncio.to_thread(encoded, "libopus")
    catalog = {"catalog.json": as_json({"audio": {"renditions": {"audio/data": hang_audio()}}})}
    late = "Object.defineProperty(AudioContext.prototype, 'outputLatency', { get: () => 0.3 })"
    async with (
        running() as relay,
        live(relay.url, "demo/cam", catalog, [Media("audio/data", source, legacy, 1)]),
        tab("about:blank") as page,
    ):
        await page.call("Page.addScriptToEvaluateOnNewDocument", source=late)
        await page.open(f"{relay.internal_url}#broadcast=demo%2Fcam")
        await page.until(f"{selector('sound')} && !{selector('sound')}.disabled")
        await press(page, "sound")
        await page.until(f"{LEVEL} > 0.05")
        assert page.complaints == []


# -- codecs, containers and catalogs


def hang_video(source: Encoded, **config: object) -> dict[str, object]:
    found = {"codedWidth": WIDTH, "codedHeight": HEIGHT, "framerate": RATE, **config}
    if source.extra and "container" not in config:
        found["description"] = source.extra.hex()
    return found


def hang_audio(**config: object) -> dict[str, object]:
    return {"codec": "opus", "sampleRate": HERTZ, "numberOfChannels": 1, **config}


def hang(video: dict[str, object], audio: dict[str, object]) -> bytes:
    return as_json(
        {"video": {"renditions": {"video/hd": video}}, "audio": {"renditions": {"audio/data": audio}}}
    )


Case: TypeAlias = tuple[dict[str, bytes], list[Media]]
"""What a broadcast has: payloads of its catalog tracks, and media."""


def opus_legacy() -> Media:
    return Media("audio/data", encoded("libopus"), legacy, 1)


def vp8_legacy() -> Case:
    source = encoded("libvpx")
    return {"catalog.json": hang(hang_video(source, codec="vp8"), hang_audio())}, [
        Media("video/hd", source, legacy),
        opus_legacy(),
    ]


def vp9_loc() -> Case:
    source, kind = encoded("libvpx-vp9"), {"kind": "loc"}
    video = hang_video(source, codec="vp09.00.10.08", container=kind)
    return {"catalog.json": hang(video, hang_audio(container=kind))}, [
        Media("video/hd", source, loc),
        Media("audio/data", encoded("libopus"), loc, 1),
    ]


def av1_legacy() -> Case:
    source = Encoded(demuxed(AV1.read_bytes()).packets)
    video = hang_video(source, codec="av01.0.00M.08", container={"kind": "legacy"})
    return {"catalog.json": hang(video, hang_audio())}, [
        Media("video/hd", source, legacy),
        opus_legacy(),
    ]


def h264_with_start_codes_in_the_oldest_catalog() -> Case:
    source = Encoded(encoded("libx264", "mpegts").packets)
    video = {"track": {"name": "video/hd"}, "config": hang_video(source, codec="avc3.42c00b")}
    audio = {"track": {"name": "audio/data"}, "config": hang_audio()}
    return {"catalog.json": as_json({"video": [video], "audio": [audio]})}, [
        Media("video/hd", source, legacy),
        opus_legacy(),
    ]


def h264_with_lengths_and_aac() -> Case:
    source, sound = encoded("libx264"), encoded("aac")
    video = hang_video(source, codec=f"avc1.{source.extra[1:4].hex()}")
    audio = hang_audio(codec="mp4a.40.2", description=sound.extra.hex())
    return {"catalog.json": hang(video, audio)}, [
        Media("video/hd", source, legacy),
        Media("audio/data", sound, legacy, 1),
    ]


def h264_with_a_description_in_base64() -> Case:
    source = encoded("libx264")
    video = hang_video(
        source,
        codec="avc1.42c00b",
        container={"kind": "loc"},
        description=base64_of(source.extra),
    )
    return {"catalog.json": hang(video, hang_audio())}, [
        Media("video/hd", source, loc),
        opus_legacy(),
    ]


def h264_and_aac_in_cmaf() -> Case:
    source, sound = fragmented("libx264"), fragmented("aac")
    video, audio = (
        {"container": {"kind": "cmaf", "init": base64_of(track.extra)}} for track in (source, sound)
    )
    catalog = hang(hang_video(source, codec="avc1.42c00b", **video), hang_audio(codec="mp4a.40.2", **audio))
    return {"catalog.json": catalog}, [
        Media("video/hd", source, bare),
        Media("audio/data", sound, bare, 1),
    ]


def vp9_and_opus_in_cmaf_with_an_msf_catalog() -> Case:
    source, sound = fragmented("libvpx-vp9"), fragmented("libopus")
    tracks = [
        {"name": "video/hd", "codec": "vp09.00.10.08", "initRef": "v", "width": WIDTH, "height": HEIGHT},
        {
            "name": "audio/data",
            "codec": "opus",
            "initRef": "a",
            "samplerate": HERTZ,
            "channelConfig": "1",
        },
    ]
    inits = [
        {"id": name, "type": "inline", "data": base64_of(track.extra)}
        for name, track in (("v", source), ("a", sound))
    ]
    catalog = {
        "version": "draft-01",
        "tracks": [{"packaging": "cmaf", "isLive": True, **track} for track in tracks],
        "initDataList": inits,
    }
    return {"catalog": as_json(catalog)}, [
        Media("video/hd", source, bare),
        Media("audio/data", sound, bare, 1),
    ]


def vp8_in_loc_with_an_msf_catalog() -> Case:
    """The timestamps are outside of the payload."""
    source = Encoded(encoded("libvpx").packets)
    track = {"packaging": "loc", "isLive": True}
    tracks = [
        {"name": "video/hd", "role": "video", "codec": "vp8", **track},
        {"name": "audio/data", "role": "audio", "codec": "opus", "samplerate": HERTZ, **track},
    ]
    return {"catalog": as_json({"version": 1, "tracks": tracks})}, [
        Media("video/hd", source, bare),
        Media("audio/data", encoded("libopus"), bare, 1),
    ]


CASES: Final[list[Callable[[], Case]]] = [
    vp8_legacy,
    vp9_loc,
    av1_legacy,
    h264_with_start_codes_in_the_oldest_catalog,
    h264_with_lengths_and_aac,
    h264_with_a_description_in_base64,
    h264_and_aac_in_cmaf,
    vp9_and_opus_in_cmaf_with_an_msf_catalog,
    vp8_in_loc_with_an_msf_catalog,
]


@pytest.mark.parametrize("case", CASES)
async def test_codecs_containers_and_catalogs(case: Callable[[], Case]) -> None:
    catalog, tracks = await asyncio.to_thread(case)
    async with (
        running() as relay,
        live(relay.url, "demo/cam", catalog, tracks),
        tab(f"{relay.internal_url}#broadcast=demo%2Fcam") as page,
    ):
        for left, right in ((IS_RED, IS_BLUE), (IS_BLUE, IS_RED)):
            await page.until(f"(([a, b]) => {left}(a) && {right}(b))({COLOURS})")
        await press(page, "sound")
        await page.until(f"{LEVEL} > 0.05")
        assert page.complaints == []


async def test_a_smaller_rendition_is_chosen_and_a_hidden_page_leaves_the_picture() -> None:
    source = await asyncio.to_thread(encoded, "libvpx")
    sizes = {"video/sd": WIDTH, "video/hd": 2 * WIDTH}  # as the catalog says
    renditions = {
        name: {"codec": "vp8", "codedWidth": width, "codedHeight": HEIGHT} for name, width in sizes.items()
    }
    catalog = {"catalog.json": as_json({"video": {"renditions": renditions}})}
    pressed = (
        "document.querySelector('[data-rendition=\"{}\"] button').getAttribute('aria-pressed') === 'true'"
    )
    async with (
        running() as relay,
        live(relay.url, "demo/cam", catalog, [Media(name, source, legacy) for name in sizes]),
        tab(f"{relay.internal_url}#broadcast=demo%2Fcam") as page,
    ):
        await page.until(f"{pressed.format('video/hd')} && {selector('state')}.dataset.state === 'following'")
        viewers = "fetch('state').then((answer) => answer.json()).then((state) => state.totals.viewers)"
        assert await page.evaluate(viewers) == 1
        await page.click('[data-rendition="video/sd"] button')
        await page.until(f"{pressed.format('video/sd')} && !({pressed.format('video/hd')})")
        await page.until(f"{selector('state')}.textContent.startsWith('Playing')")
        await page.evaluate(
            "Object.defineProperty(document, 'hidden', { get: () => true });"
            "document.dispatchEvent(new Event('visibilitychange'))"
        )
        while await page.evaluate(viewers):
            pass
        assert page.complaints == []


IMPATIENT: Final = """
    const wait = window.setTimeout;
    window.setTimeout = (then, milliseconds, ...rest) => wait(then, Math.min(milliseconds, 200), ...rest);
"""
"""Before the page's scripts: shortens its pauses."""


async def test_a_catalog_that_changes_interrupts_only_what_it_must() -> None:
    source = await asyncio.to_thread(encoded, "libvpx")

    def catalog(track: str, bitrate: int) -> bytes:
        return as_json({"video": {"renditions": {track: {"codec": "vp8", "bitrate": bitrate}}}})

    def requests(track: str) -> int:
        return sum(f"track={quote(track, safe='')}&" in address for address in page.requests)

    tracks = [Media("video/hd", source, legacy), Media("video/other", source, legacy)]
    async with (
        running() as relay,
        live(relay.url, "demo/cam", {"catalog.json": catalog("video/hd", 1_000_000)}, tracks) as (
            _,
            publication,
        ),
        tab("about:blank") as page,
    ):
        await page.call("Page.addScriptToEvaluateOnNewDocument", source=IMPATIENT)
        await page.open(f"{relay.internal_url}#broadcast=demo%2Fcam")
        await page.until(f"{selector('state')}.textContent.startsWith('Playing')")
        write_catalog(publication, "catalog.json", catalog("video/hd", 7_000_000))
        rendition = "document.querySelector('[data-rendition=\"{}\"]')"
        looks = requests("catalog.json")
        while requests("catalog.json") < looks + 3:
            await page.until("new Promise(requestAnimationFrame)")
        assert requests("video/hd") == 1
        write_catalog(publication, "catalog.json", catalog("video/other", 7_000_000))
        await page.until(rendition.format("video/other"))
        await page.until(f"{selector('state')}.textContent.startsWith('Playing')")
        assert await page.evaluate(f"{rendition.format('video/hd')} === null")
        assert (requests("video/hd"), requests("video/other")) == (1, 1)
        assert page.complaints == []


async def test_a_broadcast_without_catalog_says_so() -> None:
    async with (
        running() as relay,
        published(relay) as (_, publication),
        tab(f"{relay.internal_url}#broadcast=demo%2Fcam") as page,
    ):
        publication.track("seconds").group().write(b"x")
        await page.until(f"{selector('state')}.textContent.includes('has no catalog')")
        await page.evaluate("location.hash = '#broadcast=demo%2Fnothing'")
        await page.until(f"{selector('state')}.textContent.includes('is not live')")
        assert page.complaints == []
