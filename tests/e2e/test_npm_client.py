"""The npm package @moq/lite in Chromium: one tab publishes, another one watches."""

from __future__ import annotations

import asyncio
import shutil

import pytest

from tests.e2e.browser import Page, chromium_path
from tests.e2e.harness import npm_modules
from tests.e2e.support import running

PACKAGE = "@moq/lite@0.2.2"

pytestmark = [
    pytest.mark.skipif(chromium_path() is None, reason="Chromium is not installed"),
    pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed: no @moq/lite to test with"),
]


@pytest.mark.parametrize(
    ("source", "sink"),
    [("webtransport", "webtransport"), ("websocket", "websocket"), ("websocket", "webtransport")],
)
async def test_one_tab_publishes_and_another_watches(source: str, sink: str) -> None:
    folder = await asyncio.to_thread(npm_modules, PACKAGE)
    async with (
        running() as relay,
        Page(
            "lite.html",
            modules=folder,
            relay=relay.url,
            broadcast="demo/tab",
            role="publish",
            transport=source,
        ) as publisher,
    ):
        await publisher.wait_for("published")
        async with Page(
            "lite.html",
            modules=folder,
            relay=relay.url,
            broadcast="demo/tab",
            track="text",
            role="watch",
            transport=sink,
        ) as viewer:
            group = await viewer.wait_for("group")
            assert group["frames"] == [f"{group['sequence']}.{frame}" for frame in range(3)]
            await viewer.wait_for("ended")
            assert publisher.find("requested")[0]["track"] == "text"
            assert publisher.count("requested") == 1
            assert viewer.count("error") == publisher.count("error") == 0, viewer.events + publisher.events
