"""The dashboard in a tab of Chromium, and a made-up relay behind it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import aiohttp
from aiohttp import web

from relay.app import Relay
from relay.web import dashboard
from tests.e2e.browser import DevTools, Json

WITHIN: Final = 60.0
"""Seconds that anything awaited may take."""


class Tab(DevTools):
    """One page in a browser."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        super().__init__(socket)
        self._loaded = asyncio.Event()
        self.requests: list[str] = []
        """Addresses that the page requested."""
        self.complaints: list[str] = []
        """Uncaught errors, errors on the console, breaches of the policy."""

    def on_event(self, method: str, params: Json) -> None:
        match method, params:
            case "Page.loadEventFired", _:
                self._loaded.set()
            case "Network.requestWillBeSent", _:
                self.requests.append(params["request"]["url"])
            case "Runtime.exceptionThrown", _:
                self.complaints.append(json.dumps(params["exceptionDetails"])[:1000])
            case "Page.javascriptDialogOpening", _:
                self.complaints.append(f"dialog: {params['message']}")
            case "Log.entryAdded", {"entry": {"level": "error", "source": source, "text": text}}:
                if source != "network":  # a refusal of the relay is no fault of the page
                    self.complaints.append(text)

    async def attach(self) -> None:
        target = await self.create("about:blank")
        attached = await self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            await self.call(f"{domain}.enable")

    async def open(self, url: str) -> None:
        self._loaded.clear()
        await self.call("Page.navigate", url=url)
        async with asyncio.timeout(WITHIN):
            await self._loaded.wait()

    async def evaluate(self, expression: str) -> Any:
        said = await self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in said, said
        return said["result"].get("value")

    async def until(self, expression: str) -> Any:
        """Value of an expression as soon as it is true, tested with each drawing of the page."""
        look = f"""new Promise((done) => {{
            const now = () => {{ try {{ return {expression}; }} catch {{ return null; }} }};  // not there yet
            const look = () => {{ const value = now(); value ? done(value) : requestAnimationFrame(look); }};
            look();
        }})"""
        try:
            async with asyncio.timeout(WITHIN):
                return await self.evaluate(look)
        except TimeoutError:
            text = await self.evaluate("document.body.innerText")
            raise AssertionError(f"not within {WITHIN} s: {expression}\n{self.complaints}\n{text}") from None

    async def text(self, selector: str) -> str:
        found: str = await self.evaluate(f"document.querySelector({json.dumps(selector)}).textContent")
        return found

    async def click(self, selector: str) -> None:
        await self.evaluate(f"document.querySelector({json.dumps(selector)}).click()")


@contextlib.asynccontextmanager
async def tab(url: str) -> AsyncIterator[Tab]:
    async with Tab.connect() as page:
        await page.attach()
        await page.open(url)
        yield page


async def state(relay: Relay) -> Json:
    async with aiohttp.ClientSession() as client, client.get(f"{relay.internal_url}state") as response:
        assert response.status == 200
        found: Json = await response.json()
        return found


def made_up(sessions: int = 0, broadcasts: int = 0, **parts: Any) -> Json:
    """In the form of /state."""
    return {
        "relay": {
            "version": "0.1.0",
            "hop": "123456789",
            "since": 1000.0,
            "now": 2000.0,
            "certificate": "ab" * 32,
            "certificates": [],
            "listen": {"quic": ["[::]:4443"], "http": ["[::]:4443"], "https": [], "internal": []},
            "versions": ["moq-lite-06"],
            "public": {"publish": [""], "subscribe": [""]},
            "node": None,
            "draining": False,
        },
        "totals": {
            "sessions": sessions,
            "broadcasts": broadcasts,
            "tracks": broadcasts,
            "viewers": broadcasts,
            "bytes_received": 1,
            "bytes_sent": 1,
            "cached_bytes": 1,
        },
        "sessions": [
            {
                "session": number,
                "remote": f"127.0.0.1:{5000 + number}",
                "transport": "webtransport",
                "version": "moq-lite-06",
                "path": "",
                "since": 1000.0,
                "rtt": 0.0012,
                "bytes_received": 1,
                "bytes_sent": 1,
                "streams": 3,
                "publish": [""],
                "subscribe": [""],
                "publishing": [],
                "subscriptions": 1,
                "upstreams": 0,
            }
            for number in range(1, sessions + 1)
        ],
        "broadcasts": [
            {
                "path": f"room/{number}",
                "session": number,
                "hops": ["42"],
                "serving": True,
                "tracks": [
                    {
                        "path": f"room/{number}",
                        "name": "video/hd",
                        "viewers": 1,
                        "upstream": "open",
                        "groups": [{"sequence": 5, "frames": 10, "bytes": 83000, "open": True, "age": 0.4}],
                        "cached_bytes": 83000,
                        "received_bytes": 1,
                        "received_groups": 6,
                        "received_frames": 60,
                        "latest": 5,
                    }
                ],
            }
            for number in range(1, broadcasts + 1)
        ],
        "withdrawn": [],
        "peers": [],
        **parts,
    }


FIGURES: Final = {
    "sessions": 4.0,
    "broadcasts": 2.0,
    "viewers": 3.0,
    "received": 375_000.0,
    "sent": 2_500_000.0,
    "groups": 2.0,
    "skipped": 0.0,
    "refused": 0.0,
    "cached": 1e6,
    "lag": 0.002,
    "cpu": 0.06,
    "memory": 85e6,
}
"""Steady values of /history, by name."""


def past(now: float, after: float = 0.0) -> Json:
    """In the form of /history: an hour and a day, the first fifth unknown; or what is new after a time."""

    def columns(step: int, length: int) -> Json:
        unknown = 0 if after else length // 5
        length = int((now - after) / step) if after else length
        values = {name: [None] * unknown + [value] * (length - unknown) for name, value in FIGURES.items()}
        return {"step": step, "end": now, "values": values}

    return {"now": now, "recent": columns(5, 720), "day": columns(60, 1440)}


def happened(number: int, kind: str, **fields: Any) -> Json:
    """A row of /events."""
    empty: Json = {"session": None, "remote": None, "path": None, "reason": None}
    return {"number": number, "time": 1900.0 + number, "kind": kind, **empty, **fields}


@contextlib.asynccontextmanager
async def serving(
    known: Json,
    port: int = 0,
    events: list[Json] | None = None,
    history: Callable[[float, float], Json] = past,
    each: Callable[[], None] = lambda: None,
) -> AsyncIterator[str]:
    """A relay with the state `known`, which is one second later with each answer.

    It has the operator's routes if there are `events`, and then adds the numbers of closed sessions to
    `known["closed"]`. `each` is called before each answer.
    """

    async def answer(_: web.Request) -> web.Response:
        known["relay"]["now"] += 1
        each()
        return web.json_response({name: part for name, part in known.items() if name != "closed"})

    async def before(request: web.Request) -> web.Response:
        return web.json_response(history(known["relay"]["now"], float(request.query.get("after", 0))))

    async def latest(request: web.Request) -> web.Response:
        after = int(request.query.get("after", 0))
        assert events is not None
        return web.json_response({"events": [row for row in events if row["number"] > after][-200:]})

    async def close(request: web.Request) -> web.Response:
        number = int(request.match_info["number"])
        known.setdefault("closed", []).append(number)
        known["sessions"] = [row for row in known["sessions"] if row["session"] != number]
        return web.Response(text=f"session {number} is closed\n")

    app = web.Application()
    app.router.add_get("/", dashboard.landing)
    app.router.add_get("/state{path:.*}", answer)
    if events is not None:
        app.router.add_get("/history", before)
        app.router.add_get("/events", latest)
        app.router.add_post("/sessions/{number}/close", close)
    dashboard.add_dashboard(app)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
    finally:
        await runner.cleanup()
