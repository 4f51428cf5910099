"""The published JavaScript client, @moq/lite, in headless Chromium: publishes and watches over WebSocket."""

from __future__ import annotations

import fcntl
import functools
import hashlib
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from relay.transport.websocket import choice as websocket
from relay.transport.websocket.choice import Choice
from relay.wire.version import Version
from tests.e2e.browser import Page, chromium_path
from tests.e2e.harness import INSTALL_S, VENVS
from tests.e2e.peers.frames import payload
from tests.e2e.support import publisher, running, viewer, webtransport

PACKAGE = "@moq/lite@0.2.2"

pytestmark = pytest.mark.skipif(
    chromium_path() is None or shutil.which("npm") is None,
    reason="Chromium (tests/e2e/install-chromium.sh installs it) or npm is not installed",
)


@functools.cache
def npm_modules() -> Path:
    """Made if missing."""
    home = VENVS / "npm-moq-lite"
    modules = home / "node_modules"
    home.mkdir(parents=True, exist_ok=True)
    (VENVS / ".gitignore").write_text("*\n")
    with (VENVS / "npm-moq-lite.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (modules / "@moq" / "lite" / "index.js").exists():
            done = subprocess.run(
                [
                    *("npm", "install", "--prefix", str(home), PACKAGE),
                    *("--no-audit", "--no-fund", "--ignore-scripts", "--no-save"),
                ],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=INSTALL_S,
                check=False,
            )
            if done.returncode:
                pytest.skip(f"npm cannot install {PACKAGE}: {done.stdout[-500:]}")
    return modules


class NpmPage(Page):
    @property
    def modules(self) -> Path:  # type: ignore[override]
        return npm_modules()


@pytest.mark.parametrize(("framing", "version"), [("qmux-00", 2), ("webtransport", 2), ("webtransport", 1)])
async def test_publishes_and_watches(framing: str, version: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames larger than a message, and than the page's window, in both directions."""
    npm_modules()
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
        NpmPage(
            "websocket.html", relay=relay.url, broadcast="demo/cam", track="video", own="page/cam", size=size
        ) as page,
    ):
        await page.wait_for("first_frame", 30)
        await source.send_line("go")
        await source.send_line("more 1")  # ends the second group
        for group in range(2):
            found = await page.wait_for("group", 20, sequence=group)
            sent = [payload(group, frame, size) for frame in range(2)]
            assert found["frames"] == [hashlib.sha256(data).hexdigest() for data in sent]
        async with viewer("0.5.1", webtransport(relay), "page/cam", "--frames", 6) as sink:
            await page.wait_for("requested", 20, track="video")
            result = await sink.wait_for("result", 30)
        # the page's frames carry no numbers: complete ones are all the same
        assert [len(frames) for _, frames in result["groups"]] == [2, 2, 2]
        assert result["errors"] == []
        assert page.count("error") == 0, page.find("error")
