"""Headless Chromium, one for all tests of a process. Each page has a context of its own, as a new profile.

    async with Page("webtransport.html", relay=url, broadcast="demo/cam", track="video") as page:
        group = await page.wait_for("group")
        assert bytes.fromhex(group["frames"][0]) == payload(0, 0, 1000)

A page of `pages/` reports to the test over HTTP. http://127.0.0.1 is a secure context: such pages may use WebTransport.
The browser's network is loopback.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self
from urllib.parse import urlencode

import aiohttp
from aiohttp import web

from tests.e2e.harness import EventLog

PAGES = Path(__file__).parent / "pages"
# Without the windows of a desktop a page takes half the CPU time.
NAMES = (
    "chromium-headless-shell",
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
)
CLOSE_S = 10.0
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-background-timer-throttling",
    "--disable-backgrounding-occluded-windows",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-renderer-backgrounding",
    "--disable-sync",
    "--enable-logging=stderr",
    "--host-resolver-rules=MAP relay.test 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1, EXCLUDE ::1",
    "--no-default-browser-check",
    "--no-first-run",
    "--autoplay-policy=no-user-gesture-required",
    "--use-fake-device-for-media-stream",  # a camera and a microphone, and the person permits them
    "--use-fake-ui-for-media-stream",
    "--no-proxy-server",
    "--remote-debugging-port=0",
)

Json = dict[str, Any]


def chromium_path() -> str | None:
    """None: there is no browser to test with."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """A process that every page of these tests shares."""

    _running: Browser | None = None
    _starting = threading.Lock()

    @classmethod
    def get(cls) -> Browser:
        """Start it, unless it runs. Blocks for about a second then."""
        with cls._starting:
            if cls._running is None or cls._running._process.poll() is not None:
                cls.end()
                cls._running = Browser()
            return cls._running

    @classmethod
    def end(cls) -> None:
        browser, cls._running = cls._running, None
        if browser is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(browser._process.pid, signal.SIGKILL)  # a script starts some browsers
            browser._process.wait(CLOSE_S)
            shutil.rmtree(browser._profile, ignore_errors=True)

    def __init__(self) -> None:
        path = chromium_path()
        if path is None:
            raise RuntimeError("no Chromium on PATH")
        self._profile = tempfile.mkdtemp(prefix="chromium-")
        self._process = subprocess.Popen(
            [path, *FLAGS, f"--user-data-dir={self._profile}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "HOME": self._profile},  # where else it leaves caches and crash reports
        )
        self.stderr: collections.deque[str] = collections.deque(maxlen=100)
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if found := re.search(r"DevTools listening on (ws://\S+)", line):
                self.address = found[1]
                break
            self.stderr.append(line)
        else:
            raise RuntimeError(f"the browser did not start: {''.join(self.stderr)}")
        threading.Thread(target=self._read, args=(self._process.stderr,), daemon=True).start()

    def _read(self, lines: IO[str]) -> None:
        for line in lines:
            if "dbus/" not in line:  # it misses a desktop, at length
                self.stderr.append(line.rstrip("\n"))


class DevTools:
    """A connection to the browser."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self.context = ""
        self._session = ""  # of the page that calls are for; none: for the browser
        self._numbers = itertools.count(1)
        self._replies: dict[int, asyncio.Future[Json]] = {}

    @classmethod
    @contextlib.asynccontextmanager
    async def connect(cls) -> AsyncIterator[Self]:
        browser = await asyncio.to_thread(Browser.get)
        async with (
            aiohttp.ClientSession() as client,
            client.ws_connect(browser.address, max_msg_size=0) as socket,
        ):
            tools = cls(socket)
            listening = asyncio.create_task(tools._listen())
            try:
                yield tools
            finally:
                listening.cancel()

    async def _listen(self) -> None:
        async for message in self._socket:
            said = json.loads(message.data)
            if "id" in said:
                self._replies.pop(said["id"]).set_result(said)
            else:
                self.on_event(said["method"], said["params"])

    def on_event(self, method: str, params: Json) -> None:
        """What the browser says unasked."""

    async def call(self, method: str, **params: object) -> Json:
        number = next(self._numbers)
        reply = self._replies[number] = asyncio.get_running_loop().create_future()
        target = {"sessionId": self._session} if self._session else {}
        await self._socket.send_json({"id": number, "method": method, "params": params, **target})
        said = await reply
        assert "error" not in said, said
        result: Json = said["result"]
        return result

    async def create(self, url: str) -> str:
        """The id of a new page, in a window and a context of its own; both end with this connection."""
        self.context = (await self.call("Target.createBrowserContext", disposeOnDetach=True))[
            "browserContextId"
        ]
        target = await self.call(
            "Target.createTarget", url=url, browserContextId=self.context, newWindow=True
        )
        return str(target["targetId"])


class Page(EventLog):
    """Its events are what it posts to /event."""

    def __init__(self, name: str, /, *, modules: Path | None = None, **query: object) -> None:
        """`modules` is a folder of npm packages, which the page finds at `modules/`."""
        super().__init__(f"{name}?{urlencode(query)}")
        self._modules = modules
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with self._stack:
            port = await self._serve()
            tools = await self._stack.enter_async_context(DevTools.connect())
            self.stderr = (await asyncio.to_thread(Browser.get)).stderr
            await tools.create(f"http://127.0.0.1:{port}/{self.name}")
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
            app.router.add_get("/modules/{path:.+}", self._module)
        app.router.add_static("/", PAGES)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return int(runner.addresses[0][1])

    async def _module(self, request: web.Request) -> web.StreamResponse:
        """A file of an npm package, also by a name without its ending, which bundlers complete."""
        assert self._modules is not None
        path = self._modules / request.match_info["path"]
        for found in (path.with_name(f"{path.name}.js"), path / "index.js"):
            if not path.is_file() and found.is_file():
                raise web.HTTPFound(f"/modules/{found.relative_to(self._modules)}")
        return web.FileResponse(path)

    async def _on_event(self, request: web.Request) -> web.Response:
        self._add(await request.json())
        return web.Response()
