"""The npm package @moq/lite in Chromium: one tab publishes, another one watches."""

from __future__ import annotations

import fcntl
import functools
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.e2e.browser import Page, chromium_path
from tests.e2e.harness import VENVS
from tests.e2e.support import running

PACKAGE = "@moq/lite@0.2.2"
INSTALL_S = 300

pytestmark = [
    pytest.mark.skipif(chromium_path() is None, reason="Chromium is not installed"),
    pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed: no @moq/lite to test with"),
]


@functools.cache
def modules() -> Path:
    """Made if missing; concurrent processes wait."""
    home = VENVS / "npm"
    home.mkdir(parents=True, exist_ok=True)
    (VENVS / ".gitignore").write_text("*\n")
    with (VENVS / "npm.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (home / "node_modules/@moq/lite/index.js").exists():
            done = subprocess.run(
                ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(home), PACKAGE],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=INSTALL_S,
                check=False,
            )
            assert done.returncode == 0, done.stdout
    return home / "node_modules"


@pytest.mark.parametrize(
    ("source", "sink"),
    [("webtransport", "webtransport"), ("websocket", "websocket"), ("websocket", "webtransport")],
)
async def test_one_tab_publishes_and_another_watches(source: str, sink: str) -> None:
    folder = modules()
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
        await publisher.wait_for("published", 30)
        async with Page(
            "lite.html",
            modules=folder,
            relay=relay.url,
            broadcast="demo/tab",
            track="text",
            role="watch",
            transport=sink,
        ) as viewer:
            group = await viewer.wait_for("group", 30)
            assert group["frames"] == [f"{group['sequence']}.{frame}" for frame in range(3)]
            await viewer.wait_for("ended", 30)
            assert publisher.find("requested")[0]["track"] == "text"
            assert publisher.count("requested") == 1
            assert viewer.count("error") == publisher.count("error") == 0, viewer.events + publisher.events
