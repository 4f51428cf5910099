"""Publishing from the dashboard in Chromium: the package @moq/watch plays it, and the relay's debug routes show it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Self

import aiohttp
import pytest

from relay.app import Relay
from relay.client import Client
from tests.e2e.browser import Json, chromium_path
from tests.e2e.dashboard_support import Tab, state, tab
from tests.e2e.http_support import guarded, token
from tests.e2e.support import PATIENT, config, running
from tests.e2e.test_drain import draining
from tests.e2e.watch_support import watching

pytestmark = pytest.mark.skipif(
    chromium_path() is None, reason="Chromium is not installed: tests/e2e/install-chromium.sh installs it"
)

VECTORS: Final = json.loads((Path(__file__).parents[1] / "wire" / "vectors.json").read_text())["vectors"]

BARS: Final = [
    *((192, 192, 192), (192, 192, 0), (0, 192, 192), (0, 192, 0)),
    *((192, 0, 192), (192, 0, 0), (0, 0, 192)),
]
"""The test picture's colours, from left to right."""

STATE: Final = "document.querySelector('[data-publish=state]').dataset.state"


async def choose(page: Tab, source: str, path: str = "") -> None:
    await page.evaluate("location.hash = '#publish'")
    await page.until(f"document.querySelector('#publish [data-source={source}]').checkVisibility()")
    await page.click(f"#publish [data-source={source}]")
    await page.until("!document.querySelector('[data-publish=go]').disabled")
    if path:
        await page.evaluate(f"""((input) => {{
            input.value = {json.dumps(path)};
            input.dispatchEvent(new Event('input'));
        }})(document.querySelector('#go-live [name=path]'))""")


async def publish(page: Tab, source: str, path: str = "", state: str = "live") -> None:
    await choose(page, source, path)
    await page.click("[data-publish=go]")
    await page.until(f"{STATE} === '{state}'")


async def get(url: str) -> bytes:
    async with aiohttp.ClientSession() as client, client.get(url) as response:
        assert response.status == 200, await response.text()
        return await response.read()


async def catalog_of(relay: Relay, path: str) -> Json:
    """As soon as the relay knows the broadcast."""
    found: Json = json.loads(await get(f"{relay.url}fetch/{path}/catalog.json?wait=20"))
    return found


async def frames(relay: Relay, path: str, track: str, group: str = "latest") -> list[Json]:
    text = await get(f"{relay.url}fetch/{path}?track={track}&group={group}&frames=1&wait=20")
    return [json.loads(line) for line in text.splitlines()]


class Line:
    """TCP connections to a port of this machine, which a test can break."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._writers: list[asyncio.StreamWriter] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self.url = ""

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[Self]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        try:
            yield self
        finally:
            server.close()
            self.cut()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers += (writer, there[1])
        for source, sink in ((reader, there[1]), (there[0], writer)):
            task = asyncio.create_task(self._copy(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _copy(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65_536):
                sink.write(data)
                await sink.drain()
        sink.close()


# -- with a relay


async def test_the_test_picture_in_the_browser_of_a_viewer() -> None:
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed: no @moq/watch to test with")
    async with contextlib.AsyncExitStack() as stack:
        relay = await stack.enter_async_context(running())
        page = await stack.enter_async_context(tab(relay.internal_url))
        # two clicks from the overview of an empty relay
        await page.until("document.querySelector('#start [data-source=test]').checkVisibility()")
        await page.click("#start [data-source=test]")
        await page.until("!document.querySelector('[data-publish=go]').disabled")
        await page.click("[data-publish=go]")
        await page.until(f"{STATE} === 'live'")

        middles = [((index + 0.5) / len(BARS), 0.3) for index in range(len(BARS))]
        points = ";".join(f"{x:.3f},{y}" for x, y in middles)
        viewer = await stack.enter_async_context(watching(relay, "live/test", points=points))
        await viewer.wait_for("colours", nth=10)
        shown = viewer.find("colours")[-1]
        assert (shown["width"], shown["height"]) == (960, 540)
        for colour, expected in zip(shown["colours"], BARS, strict=True):
            assert all(abs(a - b) < 32 for a, b in zip(colour, expected, strict=True)), shown
        assert shown["sound"] > 0
        await page.until("document.querySelector('[data-publish=viewers]').textContent === '1'")
        await page.until("document.querySelector('[data-publish=rate]').textContent.endsWith(' Mbit/s')")
        assert viewer.count("error") == 0, viewer.events

        catalog = await catalog_of(relay, "live/test")
        [(name, video)] = catalog["video"]["renditions"].items()
        assert name == "video/hd"
        assert (video["codedWidth"], video["codedHeight"]) == (960, 540)
        assert video["container"] == {"kind": "legacy"}
        [first, *others] = await frames(relay, "live/test", "video/hd")
        assert len(others) < 60 + 5  # two seconds of 30 pictures each
        data = base64.b64decode(first["payload"])
        stamp = int.from_bytes(data[: 1 << (data[0] >> 6)]) & ((1 << (8 * (1 << (data[0] >> 6)) - 2)) - 1)
        assert stamp == first["timestamp"]  # of the container and of moq-lite
        heard = await frames(relay, "live/test", "audio/data")
        assert len(heard) <= 5
        assert page.complaints == []


async def test_one_tab_publishes_and_the_dashboard_plays_in_another() -> None:
    async with contextlib.AsyncExitStack() as stack:
        relay = await stack.enter_async_context(running())
        page = await stack.enter_async_context(tab(relay.internal_url))
        await publish(page, "test")
        address = await page.evaluate("document.querySelector('[data-publish=watch]').href")
        viewer = await stack.enter_async_context(tab(address))
        colours = """((canvas) => %s.map(([x, y]) => [...canvas.getContext('2d').getImageData(
            canvas.width * x, canvas.height * y, 1, 1).data.slice(0, 3)]))(document.querySelector('[data-play=canvas]'))"""
        middles = [[(index + 0.5) / len(BARS), 0.3] for index in range(len(BARS))]
        near = f"""{colours % middles}.every((colour, bar) =>
            colour.every((part, index) => Math.abs(part - {json.dumps(BARS)}[bar][index]) < 32))"""
        await viewer.until(near)
        await page.until("Number(document.querySelector('[data-publish=viewers]').textContent) >= 1")
        assert page.complaints == viewer.complaints == []


async def test_camera_and_microphone() -> None:
    async with contextlib.AsyncExitStack() as stack:
        relay = await stack.enter_async_context(running())
        page = await stack.enter_async_context(tab(relay.url))
        await publish(page, "camera", "room/desk")
        catalog = await catalog_of(relay, "room/desk")
        assert catalog["audio"]["renditions"]["audio/data"]["codec"] == "opus"
        video = await frames(relay, "room/desk", "video/hd")
        assert len(video) > 1
        assert await frames(relay, "room/desk", "audio/data")
        # stopped, it is withdrawn, and the camera is off
        await page.evaluate("window.camera = document.querySelector('.preview video').srcObject")
        await page.click("[data-publish=stop]")
        await page.until(f"{STATE} === 'stopped'")
        await page.until("camera.getTracks().every((track) => track.readyState === 'ended')")
        await page.evaluate("location.hash = ''")
        await page.until("document.querySelector('#start').checkVisibility()")
        assert await get(f"{relay.url}announced") == b""
        assert page.complaints == []


async def test_the_broadcast_returns_with_the_relay() -> None:
    settings = config()
    async with contextlib.AsyncExitStack() as stack:
        async with Relay(settings) as relay:
            page = await stack.enter_async_context(tab(relay.url))
            await publish(page, "test")
            before = await frames(relay, "live/test", "video/hd")
        await page.until(f"{STATE} === 'waiting'")
        async with Relay(settings) as relay:
            await page.until(f"{STATE} === 'live'")
            after = await frames(relay, "live/test", "video/hd")
            assert after[0]["group"] > before[0]["group"]
            assert after[0]["timestamp"] > before[0]["timestamp"]
            await page.click("[data-publish=stop]")


async def test_viewers_stay_when_the_connection_of_the_page_breaks() -> None:
    async with contextlib.AsyncExitStack() as stack:
        relay = await stack.enter_async_context(running())
        line = await stack.enter_async_context(Line(relay.port).open())
        page = await stack.enter_async_context(tab(line.url))
        await publish(page, "test")
        client = await stack.enter_async_context(await Client.connect(relay.url))
        await client.announced().wait_for("live/test")
        groups = aiter(await client.subscribe("live/test", "video/hd"))
        first = await anext(groups)
        assert (await anext(aiter(first))).payload
        [session] = [each for each in (await state(relay))["sessions"] if each["publishing"]]
        line.cut()
        async with asyncio.timeout(60):
            while (await anext(groups)).sequence < first.sequence + 2:
                pass
        [returned] = [each for each in (await state(relay))["sessions"] if each["publishing"]]
        assert returned["session"] != session["session"]
        await page.until(f"{STATE} === 'live'")


async def test_a_draining_relay_is_used_until_its_end() -> None:
    limits = replace(PATIENT, drain=60.0)
    async with contextlib.AsyncExitStack() as stack:
        relay = await stack.enter_async_context(running(limits=limits))
        page = await stack.enter_async_context(tab(relay.url))
        await publish(page, "test")
        client = await stack.enter_async_context(await Client.connect(relay.url))
        await client.announced().wait_for("live/test")
        groups = aiter(await client.subscribe("live/test", "video/hd"))
        first = await anext(groups)
        async with draining(relay), asyncio.timeout(60):
            while (await anext(groups)).sequence < first.sequence + 2:
                pass
            assert await page.evaluate(STATE) == "live"


@pytest.mark.parametrize(
    ("claims", "told"),
    [
        (None, "This needs a token"),
        (
            {"get": [""], "put": ["room"]},
            "the token lacks the right to publish there. It permits room/\u2026",
        ),
    ],
    ids=["no token", "elsewhere"],
)
async def test_a_refusal_is_told_in_words(claims: Json | None, told: str, tmp_path: Path) -> None:
    query = "" if claims is None else f"?jwt={token(**claims)}"
    async with contextlib.AsyncExitStack() as stack:
        relay = await stack.enter_async_context(Relay(guarded(tmp_path)))
        page = await stack.enter_async_context(tab(f"{relay.url}{query}"))
        await publish(page, "test", "live/test", state="refused")
        assert told in await page.text("[data-publish=state]")
        assert await page.evaluate("document.querySelector('[data-publish=stop]').hidden")
        # the source stays for another name
        assert await page.evaluate("document.querySelector('.preview canvas').checkVisibility()")


async def test_sessions_on_the_internal_address_have_the_rights_of_their_token(tmp_path: Path) -> None:
    async with Relay(guarded(tmp_path)) as relay, aiohttp.ClientSession() as client:
        url = relay.internal_url
        good = token(put=[""])
        for query, headers, status in (
            ("", {}, 401),
            (f"?jwt={good}x", {}, 401),
            (f"?jwt={good}", {"origin": "http://evil.example"}, 403),
            (f"?jwt={good}", {"host": "evil.example"}, 403),
        ):
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await client.ws_connect(f"{url}{query}", headers=headers, protocols=["webtransport"])
            assert refused.value.status == status
        async with client.ws_connect(
            f"{url}?jwt={good}", headers={"origin": url.rstrip("/")}, protocols=["webtransport"]
        ) as session:
            assert not session.closed


async def test_names_that_no_broadcast_can_have() -> None:
    async with contextlib.AsyncExitStack() as stack:
        relay = await stack.enter_async_context(running())
        page = await stack.enter_async_context(tab(relay.url))
        for name, told in (("  / ", "needs a name"), ("live/../x", "cannot be a dot or two")):
            await publish(page, "test", name, state="refused")
            assert told in await page.text("[data-publish=state]")
        await publish(page, "test", "//live//tidy/")
        await catalog_of(relay, "live/tidy")
        assert (await get(f"{relay.url}announced")).decode() == "live/tidy\n"


# -- the page alone


async def test_pictures_are_left_out_until_a_key_frame_while_the_network_is_slow() -> None:
    script = """Promise.all([import("./static/any/publish-encoder.js"), import("./static/any/publish-source.js")]).then(
        async ([{ Broadcast }, { TestPicture }]) => {
            const until = async (met) => { while (!met()) await new Promise((done) => setTimeout(done, 10)); };
            let backlog = 0;
            const source = new TestPicture({ sound: false });
            const broadcast = new Broadcast("test", source, () => backlog);
            await source.start();
            await broadcast.start();
            const seen = [];
            broadcast.video.subscribe({ begin: (number) => seen.push(number), write: () => seen.push(null), end() {} });
            await until(() => seen.length > 5);
            backlog = 1e6;
            await until(() => broadcast.figures.dropped > 3);
            await broadcast.encoder.flush();
            const before = seen.length;
            backlog = 0;
            await until(() => seen.length > before);
            broadcast.close();
            source.stop();
            return [seen[0], seen[before]];
        })"""
    async with contextlib.AsyncExitStack() as stack:
        relay = await stack.enter_async_context(running())
        page = await stack.enter_async_context(tab(relay.url))
        first, after = await page.evaluate(script)
        assert first == 0
        assert after > 0  # the number of a group: it begins with a key frame


async def test_a_page_that_is_not_secure_says_how_to_get_one() -> None:
    async with contextlib.AsyncExitStack() as stack:
        relay = await stack.enter_async_context(running())
        page = await stack.enter_async_context(tab("about:blank"))
        await page.call(
            "Page.addScriptToEvaluateOnNewDocument",
            source="Object.defineProperty(window, 'isSecureContext', { value: false })",
        )
        await page.open(f"{relay.url}#publish")
        await page.until("document.querySelector('[data-publish=obstacle]').checkVisibility()")
        told = await page.text("[data-publish=obstacle]")
        assert f"http://localhost:{relay.port}/#publish" in told
        assert "[web.https]" in told
        assert await page.evaluate("document.querySelector('#publish [data-source=test]').disabled")


async def test_the_address_for_other_devices() -> None:
    script = """import("./static/any/share.js").then(({ watchAddress }) => [
        watchAddress("a/b c", null),
        watchAddress("a", {
            certificates: [{ name: "relay.example.com", generated: false }, { name: "localhost", generated: true }],
            listen: { https: ["[::]:443"], http: ["192.0.2.7:4443", "127.0.0.1:4443"] },
        }),
    ])"""
    async with contextlib.AsyncExitStack() as stack:
        relay = await stack.enter_async_context(running())
        page = await stack.enter_async_context(tab(f"{relay.url}?jwt=secret"))
        alone, known = await page.evaluate(script)
        assert alone == {"url": f"{relay.url}#broadcast=a%2Fb+c", "reachable": False, "others": []}
        assert known["others"] == [
            "https://relay.example.com/#broadcast=a",
            "http://192.0.2.7:4443/#broadcast=a",
        ]
        await page.evaluate("location.hash = '#broadcast=live%2Ftest'")
        await page.until("document.querySelector('#share summary').checkVisibility()")
        await page.click("#share summary")
        await page.until(
            "document.querySelector('#share').textContent.includes('Only this machine can open')"
        )


async def test_bytes_are_those_of_the_vectors() -> None:
    vectors = {vector["id"]: bytes.fromhex(vector["hex"]).hex() for vector in VECTORS}
    calls = {
        "setup(0x1de6e12ac58d4d)": vectors["setup-l6-ws"],
        "announceOk(0x1a31d7d6d41f68, 2)": vectors["annok-l6"][:20],
        "announceStart('cli/cam')": vectors["annstart-l6"],
        "announceEnd(1)": vectors["annend-l6"],
        "trackInfo({ priority: 127, age: 5000, timescale: 1e6 })": vectors["trackinfo-l6"],
        "subscribeOk(5)": vectors["subok-l6"],
        "subscribeEnd(12)": vectors["subend-l6"],
        "streamHeader(2, 13, 0, true)": vectors["qmux-fin"],
        "reset(9, 51, 0)": vectors["qmux-reset"],
        "stop(12, 0)": vectors["qmux-stop"],
        "pong(7)": vectors["qmux-pong"],
        "close(0, 'no error')": vectors["qmux-close"],
        "join(groupHeader(0, 0), frame(1000000, text('a0')), frame(33000, text('a1')), frame(33000, text('a2')))": (
            vectors["group-l6"]
        ),
    }
    reads: dict[str, Any] = {
        f"readAnnounceRequest(bytes('{vectors['annreq-l6'][4:]}'))": "",
        f"readTrack(bytes('{vectors['track-l5'][4:]}'))": {"broadcast": "demo/cam", "track": "video"},
        f"readSubscribe(bytes('{vectors['sub-l6-range'][4:]}'))": {
            "id": 0,
            "broadcast": "srv/a",
            "track": "v",
        },
        f"readFetch(bytes('{vectors['fetch-l6-range'][4:]}'))": {
            "broadcast": "cli/cam",
            "track": "video",
            "group": 0,
            "first": 1,
            "last": 1,
        },
        f"readMessage(bytes('{vectors['qmux-tp-server']}'))": [
            {"kind": "limits", "data": 65536, "ours": 20000, "uni": 20000, "streams": 2}
        ],
        f"readMessage(bytes('{vectors['qmux-ping']}'))": [{"kind": "ping", "sequence": 0}],
        f"readMessage(bytes('{vectors['qmux-grant']}'))": [
            {"kind": "stream data", "stream": 6, "limit": 70000},
            {"kind": "streams", "limit": 20},
        ],
        f"readMessage(bytes('{vectors['qmux-close-server']}'))": [
            {"kind": "close", "code": 2, "reason": "unauthorized"}
        ],
    }
    module = """import("./static/any/publish-wire.js").then((wire) => {
        const text = (string) => new TextEncoder().encode(string);
        const bytes = (hex) => Uint8Array.from(hex.match(/../g) ?? [], (pair) => parseInt(pair, 16));
        const hex = (data) => Array.from(data, (byte) => byte.toString(16).padStart(2, "0")).join("");
        const { %s } = wire;
        return { made: [%s].map(hex), read: [%s] };
    })"""
    names = (
        "setup, announceOk, announceStart, announceEnd, trackInfo, subscribeOk, subscribeEnd, streamHeader, reset, stop, "
        "pong, close, join, groupHeader, frame, readAnnounceRequest, readTrack, readSubscribe, readFetch, readMessage"
    )
    async with contextlib.AsyncExitStack() as stack:
        relay = await stack.enter_async_context(running())
        page = await stack.enter_async_context(tab(relay.url))
        found = await page.evaluate(module % (names, ", ".join(calls), ", ".join(reads)))
        assert dict(zip(calls, found["made"], strict=True)) == calls
        assert dict(zip(reads, found["read"], strict=True)) == reads
