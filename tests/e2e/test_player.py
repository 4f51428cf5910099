"""Broadcasts in the dashboard: picture and sound in Chromium, of real publishers."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest

from relay.app import Relay
from tests.clock import RUNTIME
from tests.e2e.browser import chromium_path
from tests.e2e.dashboard_support import Tab, tab
from tests.e2e.harness import Peer, peer_python
from tests.e2e.http_support import guarded, published, token
from tests.e2e.support import NEW, running, webtransport

pytestmark = pytest.mark.skipif(
    chromium_path() is None, reason="Chromium is not installed: tests/e2e/install-chromium.sh installs it"
)

HOSTILE: Final = "<img src=x onerror=alert(1)>"

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


# -- tokens


async def test_a_token_is_asked_for_and_kept_in_memory(tmp_path: Path) -> None:
    good = token(get=[""])
    async with (
        Relay(guarded(tmp_path), RUNTIME) as relay,
        tab(relay.url) as page,
    ):
        form = "document.querySelector('#sign-in')"
        await page.until(f"!{form}.hidden && {form}.textContent.includes('This needs a token.')")

        async def enter(text: str) -> None:
            await page.evaluate(f"{form}.querySelector('input').value = {json.dumps(text)}")
            await page.evaluate(f"{form}.requestSubmit()")

        await enter(f"{good}x")
        await page.until(f"!{form}.hidden && {form}.textContent.includes('refuses the token: bad token.')")
        await enter(good)
        await page.until("document.querySelector('#status').dataset.status === 'live'")
        assert await page.evaluate(f"{form}.hidden")
        assert await page.evaluate("document.querySelector('#sessions').checkVisibility()")
        seen: dict[str, Any] = await page.evaluate(
            "({ address: location.href, stored: JSON.stringify([{ ...localStorage }, { ...sessionStorage }]),"
            " text: document.documentElement.outerHTML, value: document.querySelector('#sign-in input').value })"
        )
        assert good not in json.dumps(seen)
        await page.open(relay.url)
        await page.until(f"!{form}.hidden")
        assert page.complaints == []
