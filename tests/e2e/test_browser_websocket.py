"""The published JavaScript client, @moq/lite, in headless Chromium: publishes and watches over WebSocket."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from collections.abc import Sequence

import pytest

from relay.transport.websocket import choice as websocket
from relay.transport.websocket.choice import Choice
from relay.wire.version import Version
from tests.e2e.browser import Page, chromium_path
from tests.e2e.harness import npm_modules
from tests.e2e.peers.frames import payload
from tests.e2e.support import publisher, running, viewer, webtransport

PACKAGE = "@moq/lite@0.2.2"

pytestmark = pytest.mark.skipif(
    chromium_path() is None or shutil.which("npm") is None,
    reason="Chromium (tests/e2e/install-chromium.sh installs it) or npm is not installed",
)


@pytest.mark.parametrize(("framing", "version"), [("qmux-00", 2), ("webtransport", 2), ("webtransport", 1)])
async def test_publishes_and_watches(framing: str, version: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames larger than a message, and than the page's window, in both directions."""
    folder = await asyncio.to_thread(npm_modules, PACKAGE)
    known = websocket.choices

    def only(versions: Sequence[Version]) -> list[Choice]:
        return [choice for choice in known(versions) if choice.subprotocol == framing]

    monkeypatch.setattr(websocket, "choices", only)
    size = 700_000
    # held: the library drops last groups that arrive after the track's end
    options = (
        "--groups",
        2,
        "--frames-per-group",
        2,
        "--frame-size",
        size,
        "--pause",
        "first-frame",
        "--hold",
    )
    async with (
        running(versions=[Version(version), Version.LITE_06]) as relay,
        publisher("0.5.1", webtransport(relay), "demo/cam", *options) as source,
        Page(
            "websocket.html",
            modules=folder,
            relay=relay.url,
            broadcast="demo/cam",
            track="video",
            own="page/cam",
            size=size,
        ) as page,
    ):
        await page.wait_for("first_frame")
        await source.send_line("go")
        await source.send_line("more 1")  # ends the second group
        for group in range(2):
            found = await page.wait_for("group", sequence=group)
            sent = [payload(group, frame, size) for frame in range(2)]
            assert found["frames"] == [hashlib.sha256(data).hexdigest() for data in sent]
        async with viewer("0.5.1", webtransport(relay), "page/cam", "--frames", 6) as sink:
            await page.wait_for("requested", track="video")
            result = await sink.wait_for("result")
        # the page's frames carry no numbers: complete ones are all the same
        assert [len(frames) for _, frames in result["groups"]] == [2, 2, 2]
        assert result["errors"] == []
        assert page.count("error") == 0, page.find("error")
