"""Headless Chromium on a page of `pages/`, which reports to the test over HTTP.

    async with Page("webtransport.html", relay=url, broadcast="demo/cam", track="video") as page:
        group = await page.wait_for("group")
        assert bytes.fromhex(group["frames"][0]) == payload(0, 0, 1000)

http://127.0.0.1 is a secure context, so the page may use WebTransport. Each browser has a new profile.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlencode

from aiohttp import web

from tests.e2e.harness import EventLog

PAGES = Path(__file__).parent / "pages"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CLOSE_S = 10.0
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--enable-logging=stderr",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1, EXCLUDE ::1",
    "--no-default-browser-check",
    "--no-first-run",
    "--no-proxy-server",
)


def chromium_path() -> str | None:
    """None: skip the tests."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Page(EventLog):
    """One page in its own browser; its events are the posts to /event."""

    modules: Path | None = None
    """A folder of npm packages."""

    def __init__(self, name: str, /, *, modules: Path | None = None, **query: object) -> None:
        """The page finds `modules` at `modules/`."""
        super().__init__(f"{name}?{urlencode(query)}")
        self._modules = modules
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with self._stack:
            port = await self._serve()
            await self._open(f"http://127.0.0.1:{port}/{self.name}")
            self._stack = self._stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stack.aclose()

    async def _serve(self) -> int:
        app = web.Application()
        app.router.add_post("/event", self._on_event)
        if self._modules is not None:
            app.router.add_static("/modules", self._modules)
        if self.modules is not None:
            app.router.add_static("/node_modules", self.modules)
        app.router.add_static("/", PAGES)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return int(runner.addresses[0][1])

    async def _on_event(self, request: web.Request) -> web.Response:
        self._add(await request.json())
        return web.Response()

    async def _open(self, url: str) -> None:
        path = chromium_path()
        if path is None:
            raise RuntimeError("no Chromium on PATH")
        profile = tempfile.mkdtemp(prefix="chromium-")
        self._stack.callback(shutil.rmtree, profile, ignore_errors=True)
        process = await asyncio.create_subprocess_exec(
            path,
            *FLAGS,
            f"--user-data-dir={profile}",
            url,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "HOME": profile},  # for caches and crash reports
        )
        reader = asyncio.create_task(self._read_stderr(process))
        self._stack.push_async_callback(self._close, process, reader)

    async def _read_stderr(self, process: asyncio.subprocess.Process) -> None:
        assert process.stderr is not None
        async for line in process.stderr:
            if b"dbus/" not in line:  # it misses a desktop
                self.stderr.append(line.decode(errors="replace").rstrip("\n"))
        self._end()

    async def _close(self, process: asyncio.subprocess.Process, reader: asyncio.Task[None]) -> None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(CLOSE_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
        await reader
