"""Parts of the dashboard that show media: thumbnails, the token field, hostile catalogs, and the parsers of containers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import msgpack
import pytest

from relay.app import Relay
from tests.clock import RUNTIME
from tests.e2e.browser import chromium_path
from tests.e2e.dashboard_support import Tab, tab
from tests.e2e.http_support import guarded, token
from tests.e2e.player_support import (
    GROUP,
    RATE,
    Encoded,
    Media,
    Packet,
    as_json,
    base64_of,
    encoded,
    fragmented,
    legacy,
    live,
    loc,
    varint,
)
from tests.e2e.support import running

pytestmark = pytest.mark.skipif(
    chromium_path() is None, reason="Chromium is not installed: tests/e2e/install-chromium.sh installs it"
)

HOSTILE: Final = "<img src=x onerror=alert(1)>"

SWIFT: Final = """
    const now = performance.now.bind(performance);
    performance.now = () => 23 * now();
"""
"""Before the page's scripts: what is renewed every 15 seconds is renewed every 0.65 seconds."""

VP8: Final = as_json({"video": {"renditions": {"video/hd": {"codec": "vp8"}}}})

STATE: Final = "document.querySelector('[data-play=state]')"


def vp8() -> list[Media]:
    return [Media("video/hd", Encoded(encoded("libvpx").packets), legacy)]


@contextlib.asynccontextmanager
async def tall(url: str, script: str = "") -> AsyncIterator[Tab]:
    """All of the page is in view."""
    async with tab("about:blank") as page:
        await page.call(
            "Emulation.setDeviceMetricsOverride", width=1280, height=2400, deviceScaleFactor=1, mobile=False
        )
        if script:
            await page.call("Page.addScriptToEvaluateOnNewDocument", source=script)
        await page.open(url)
        yield page


def fetches(page: Tab) -> list[str]:
    return [address for address in page.requests if "/fetch/" in address]


async def some_queries(page: Tab, count: int = 4) -> None:
    """Time in which thumbnails would be renewed: until the page has queried the state as often again."""

    def queries() -> int:
        return sum(urlsplit(address).path == "/state" for address in page.requests)

    before = queries()
    while queries() < before + count:
        await page.until("new Promise(requestAnimationFrame)")


# -- thumbnails


async def test_thumbnails_are_renewed_until_they_are_switched_off() -> None:
    media = await asyncio.to_thread(vp8)
    shown = "document.querySelector('[data-broadcast=\"demo/cam\"] .thumbnail canvas:not([hidden])')"
    async with (
        running() as relay,
        live(relay.url, "demo/cam", {"catalog.json": VP8}, media) as (client, _),
        tall(relay.internal_url, SWIFT) as page,
    ):
        client.publish("demo/words").track("seconds").group().write(b"12:00")
        colours = f"""(() => {{
            const canvas = {shown};
            const context = canvas.getContext('2d');
            const at = (x) => [...context.getImageData(canvas.width * x, canvas.height / 2, 1, 1).data];
            return [at(0.25), at(0.75)];
        }})()"""
        red_and_blue = f"(([a, b]) => a[0] > 180 && a[2] < 90 && b[2] > 180 && b[0] < 90)({colours})"
        blue_and_red = f"(([b, a]) => a[0] > 180 && a[2] < 90 && b[2] > 180 && b[0] < 90)({colours})"
        await page.until(f"{red_and_blue} || {blue_and_red}")
        assert await page.evaluate(f"Math.max({shown}.width, {shown}.height)") <= 192
        await page.until("document.querySelector('[data-broadcast=\"demo/words\"] .thumbnail[data-none]')")
        while sum("video" in address for address in fetches(page)) < 3:
            await page.until("new Promise(requestAnimationFrame)")
        await page.click("[data-wall]")
        assert not await page.evaluate(f"{shown}.checkVisibility()")
        count = len(fetches(page))
        await some_queries(page)
        assert len(fetches(page)) == count
        await page.open(relay.internal_url)
        await some_queries(page, 2)
        assert not await page.evaluate("document.querySelector('[data-wall]').checked")
        assert len(fetches(page)) == count
        await page.click("[data-wall]")
        await page.until(shown)
        # a hidden page asks for nothing
        await page.evaluate(
            "Object.defineProperty(document, 'hidden', { configurable: true, get: () => true });"
            "document.dispatchEvent(new Event('visibilitychange'))"
        )
        count = len(fetches(page))
        await page.until("(window.frames_ = (window.frames_ ?? 0) + 1) > 90")  # drawings: more than a second
        assert len(fetches(page)) == count
        assert page.complaints == []


async def test_many_broadcasts_cost_two_requests_at_once_and_only_in_view() -> None:
    media = await asyncio.to_thread(vp8)
    watch_fetch = """
        window.most = 0;
        let open = 0;
        const real = window.fetch;
        window.fetch = async (url, options) => {
            if (!String(url).includes('/fetch/')) return real(url, options);
            open += 1;
            most = Math.max(most, open);
            options.signal.addEventListener('abort', () => { open -= 1; }, { once: true });
            return real(url, options);
        };
    """
    async with (
        running() as relay,
        live(relay.url, "cam/0", {"catalog.json": VP8}, media) as (client, _),
        tall(relay.internal_url, watch_fetch) as page,
    ):
        for number in range(1, 40):
            client.publish(f"cam/{number}")
        await page.until("document.querySelectorAll('.thumbnail').length === 40")
        await page.until("document.querySelector('.thumbnail canvas:not([hidden])')")
        assert 1 <= await page.evaluate("most") <= 2
        # the relay lists tracks that are read for a thumbnail alone, and the page knows that
        await some_queries(page, 2)
        assert await page.evaluate("document.querySelectorAll('[data-track]').length") == 0
        seen = {urlsplit(address).path for address in fetches(page)}
        height = await page.evaluate(
            "[...document.querySelectorAll('.thumbnail')].findIndex((each) => each.getBoundingClientRect().top > innerHeight)"
        )
        assert height > 0
        assert all(address != "/fetch/cam/39" for address in seen)
        assert page.complaints == []


# -- tokens


FORM: Final = "document.querySelector('#sign-in')"


async def enter(page: Tab, text: str) -> None:
    await page.evaluate(f"{FORM}.querySelector('input').value = {json.dumps(text)}")
    await page.evaluate(f"{FORM}.requestSubmit()")


async def test_a_token_is_asked_for_and_kept_in_memory(tmp_path: Path) -> None:
    good = token(get=[""])
    async with (
        Relay(guarded(tmp_path), RUNTIME) as relay,
        tab(relay.url) as page,
    ):
        await page.until(f"!{FORM}.hidden && {FORM}.textContent.includes('This needs a token.')")
        for text, reason in (
            (f"{good}x", "The relay refuses the token: bad token."),
            (token(get=[""], exp=1_000_000_000), "The relay refuses the token: token expired."),
            ("nonsense", "The relay refuses the token: bad token."),
        ):
            await enter(page, text)
            await page.until(f"!{FORM}.hidden && {FORM}.textContent.includes({json.dumps(reason)})")
        await enter(page, good)
        await page.until("document.querySelector('#status').dataset.status === 'live'")
        assert await page.evaluate(f"{FORM}.hidden")
        assert await page.evaluate("document.querySelector('#sessions').checkVisibility()")
        seen: dict[str, Any] = await page.evaluate(
            "({ address: location.href, stored: JSON.stringify([{ ...localStorage }, { ...sessionStorage }]),"
            " text: document.documentElement.outerHTML, value: document.querySelector('#sign-in input').value })"
        )
        assert good not in json.dumps(seen)
        await page.open(relay.url)
        await page.until(f"!{FORM}.hidden")
        assert page.complaints == []


async def test_a_token_for_one_broadcast_opens_it(tmp_path: Path) -> None:
    """A refusal anywhere asks for one, and the page goes on with what was open."""
    media = await asyncio.to_thread(vp8)
    async with (
        Relay(guarded(tmp_path, public="lobby"), RUNTIME) as relay,
        live(f"{relay.url}?jwt={token(put=[''], get=[''])}", "room/cam", {"catalog.json": VP8}, media),
        tab(f"{relay.url}?path=lobby#broadcast=room%2Fcam") as page,
    ):
        await page.until(f"!{FORM}.hidden && {STATE}.textContent === 'This needs a token.'")
        await enter(page, token(root="elsewhere", get=[""]))
        await page.until(f"!{FORM}.hidden && {FORM}.textContent.includes('The relay refuses the token')")
        await enter(page, token(root="room", get=["cam"]))
        await page.until(f"{STATE}.dataset.state === 'following'")
        assert await page.evaluate(f"{FORM}.hidden")
        assert page.complaints == []


# -- what cannot be shown


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"codec": "hvc1.1.6.L93.B0"}, "This browser cannot decode H.265 (hvc1.1.6.L93.B0). Browsers decode"),
        ({"codec": "nonsense"}, "This browser cannot decode nonsense."),
        ({"codec": "vp8", "container": {"kind": "tar"}}, "This page does not know the container (tar)."),
        ({"codec": "vp8", "container": {"kind": "cmaf"}}, "The catalog has no initialization segment."),
        (
            {"codec": "vp8", "container": {"kind": "cmaf", "init": "AAAA"}},
            "CMAF: the data ends within a box.",
        ),
        (
            {"codec": "avc1.42c00b", "description": "!"},
            "The catalog has a description that is neither hex nor",
        ),
        ({}, "The catalog names no codec."),
    ],
)
async def test_a_rendition_that_cannot_be_shown_says_why(config: dict[str, object], told: str) -> None:
    catalog = as_json({"video": {"renditions": {"video/hd": config}}})
    async with (
        running() as relay,
        live(relay.url, "demo/cam", {"catalog.json": catalog}, []),
        tab(f"{relay.internal_url}#broadcast=demo%2Fcam") as page,
    ):
        await page.until(f"{STATE}.textContent.startsWith({json.dumps(f'No picture: {told}')})")
        assert told in await page.text("[data-rendition] .why")
        assert await page.evaluate("document.querySelector('[data-rendition] button').disabled")
        assert page.complaints == []


async def test_an_address_that_is_too_long_for_a_qr_code() -> None:
    async with running() as relay, tab(f"http://relay.test:{relay.port}/#broadcast={'%C3%A9' * 500}") as page:
        await page.evaluate("document.querySelector('#share').open = true")
        await page.until("document.querySelector('#share code').textContent.endsWith('%C3%A9')")
        assert await page.evaluate("document.querySelectorAll('#share svg').length") == 0
        assert page.complaints == []


async def test_an_address_that_is_no_secure_context() -> None:
    async with (
        running() as relay,
        live(relay.url, "demo/cam", {"catalog.json": VP8}, []),
        tab(f"http://relay.test:{relay.port}/#broadcast=demo%2Fcam") as page,
    ):
        await page.until(f"{STATE}.textContent.includes('secure context')")
        text = await page.text("[data-play=state]")
        assert "https://" in text
        assert f"ssh -L {relay.port}:localhost:{relay.port} relay.test" in text
        await page.evaluate("location.hash = ''")
        await page.until("document.querySelector('[data-broadcast]')")
        assert not await page.evaluate("document.querySelector('[data-wall]').checkVisibility()")
        assert page.complaints == []


async def test_frames_that_are_no_pictures() -> None:
    rubbish = Encoded([Packet(at * 100_000, at % GROUP == 0, b"rubbish") for at in range(100)])
    async with (
        running() as relay,
        live(relay.url, "demo/cam", {"catalog.json": VP8}, [Media("video/hd", rubbish, legacy)]),
        tab(f"{relay.internal_url}#broadcast=demo%2Fcam") as page,
    ):
        await page.until(f"{STATE}.textContent.includes('cannot decode the pictures (vp8)')")
        assert page.complaints == []


# -- hostile catalogs


def deep(levels: int) -> bytes:
    return b'{"video":' * levels + b"1" + b"}" * levels


def many(count: int) -> bytes:
    renditions = {f"{HOSTILE}{number}": {"codec": "vp8"} for number in range(count)}
    return as_json({"video": {"renditions": renditions}, "audio": {"renditions": renditions}})


WRONG_TYPES: Final[dict[str, Any]] = {
    "video": {
        "renditions": {
            "a": None,
            "b": 7,
            "c": [],
            "d": {"codec": {}, "container": [1], "codedWidth": "x", "bitrate": -1, "broadcast": 4},
            "e": {"codec": "vp8", "container": {"kind": {}}, "codedWidth": 1e300, "codedHeight": 2**70},
            HOSTILE * 100: {"codec": "vp8"},
            "__proto__": {"codec": HOSTILE, "label": HOSTILE},
        },
        "rotation": "up",
        "flip": {},
    },
    "audio": [None, {"track": None, "config": None}, {"track": {"name": {}}, "config": {}}, 3],
    "chat": {"track": {"name": HOSTILE}, "constructor": {"name": 4}},
}


NO_TEXT: Final = {"name": "a", "mimeType": {"toString": 1}, "channelConfig": {"toString": 1}}
"""JavaScript cannot make a text of such an object."""


@pytest.mark.parametrize(
    ("name", "payload", "told"),
    [
        ("catalog.json", b"\xff\xfe", "No picture: the catalog is not JSON."),
        ("catalog.json", b"[1, 2]", "No picture: the catalog is not a JSON object."),
        ("catalog.json", deep(50_000), "The catalog lists no video"),
        ("catalog.json", b" " * 1_100_000, "No picture: the catalog is larger than 1 MB."),
        ("catalog.json", as_json(WRONG_TYPES), "No picture: "),
        ("catalog.json", many(2000), "Waiting for the first frame"),
        (
            "catalog",
            as_json({"tracks": [None, 1, {}, {"name": HOSTILE, "codec": 5}] * 2000}),
            "The catalog lists no video",
        ),
        ("catalog", as_json({"tracks": {"a": 1}, "initDataList": 5}), "The catalog lists no video"),
        ("catalog", as_json({"tracks": [NO_TEXT | {"codec": "x"}]}), "The catalog lists no video"),
        ("catalog", as_json({"tracks": [NO_TEXT | {"codec": "opus"}]}), "There is no picture."),
    ],
    ids=["bytes", "list", "deep", "large", "types", "many", "msf", "msf types", "mime type", "channels"],
)
async def test_hostile_catalogs(name: str, payload: bytes, told: str) -> None:
    async with (
        running() as relay,
        live(relay.url, "demo/cam", {name: payload}, []),
        tab(f"{relay.internal_url}#broadcast=demo%2Fcam") as page,
    ):
        await page.until(f"{STATE}.textContent.includes({json.dumps(told)})")
        assert await page.evaluate("document.querySelectorAll('[data-rendition]').length") <= 64
        assert await page.evaluate("document.querySelectorAll('[data-play=others] li').length") <= 50
        assert await page.evaluate("document.querySelectorAll('img[src=x]').length") == 0
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        await page.evaluate("location.hash = ''")
        await page.until("document.querySelector('#overview').checkVisibility()")
        assert page.complaints == []


# -- parsers, with bytes


class Parsers:
    """Functions of containers.js in a page of the relay."""

    def __init__(self, page: Tab, module: str) -> None:
        self._page, self._module = page, module

    async def call(self, expression: str, *data: bytes) -> Any:
        """`expression` may use the module as `c` and the bytes as `a[0]` to `a[n]`; samples become plain objects."""
        arrays = ",".join(f"Uint8Array.fromBase64('{base64_of(item)}')" for item in data)
        return await self._page.evaluate(
            f"""import('{self._module}').then((c) => {{
                const a = [{arrays}];
                const plain = (value) => value instanceof Uint8Array ? value.toHex()
                    : Array.isArray(value) ? value.map(plain)
                    : value !== null && typeof value === 'object' ? Object.fromEntries(
                        Object.entries(value).map(([key, each]) => [key, plain(each)])) : value;
                try {{ return plain({expression}); }} catch (error) {{ return `error: ${{error.message}}`; }}
            }})"""
        )


@contextlib.asynccontextmanager
async def parsers(name: str = "containers.js") -> AsyncIterator[Parsers]:
    async with running() as relay, tab(relay.internal_url) as page:
        script: str = await page.evaluate("document.querySelector('script[type=module]').src")
        yield Parsers(page, script.replace("dashboard.js", name))
        assert page.complaints == []


async def test_varints_legacy_and_loc() -> None:
    async with parsers() as parse:
        for value in (0, 63, 64, 16_383, 16_384, 2**30 - 1, 2**30, 2**53 - 1):
            data = b"\x07" + varint(value) + b"rest"
            found = await parse.call("c.varint(a[0], 1)", data)
            assert found == {"value": value, "next": len(data) - 4}
        for data in (b"", b"\x40", b"\x80\x00\x00", b"\xc0" * 7):
            assert str(await parse.call("c.legacy(a[0], true)", data)).startswith("error: the frame ends")
        packet = Packet(1_234_000, True, b"\x01\x02")
        sample = {"timestamp": 1_234_000, "duration": None, "key": True, "data": "0102"}
        assert await parse.call("c.legacy(a[0], true)", legacy(packet)) == [sample]
        assert await parse.call("c.legacy(a[0], true)", varint(5)) == []  # a marker without data
        assert await parse.call("c.loc(a[0], true, 5)", loc(packet)) == [sample]
        # a description, properties with bytes, the timestamps of other drafts
        block = varint(2) + varint(9) + varint(0x0D - 2) + varint(3) + b"abc" + varint(2) + varint(1) + b"x"
        found = await parse.call("c.loc(a[0], false, 5)", varint(len(block)) + block + b"\x09")
        assert found == [
            {"timestamp": 9, "duration": None, "key": False, "data": "09", "config": b"abc".hex()}
        ]
        # without properties in the payload: the timestamp of the frame
        for payload in (b"\x00\x00\x00\x01\x65", b"\x10\x02\x00\x9d", b"\xf8", b"\x02\x10"):
            found = await parse.call("c.loc(a[0], true, 77)", payload)
            assert found == [{"timestamp": 77, "duration": None, "key": True, "data": payload.hex()}]
        assert await parse.call("c.loc(a[0], true, null)", b"\x00") == "error: a LOC frame without timestamp"


async def test_cmaf_of_a_muxer() -> None:
    source, plain = await asyncio.to_thread(lambda: (fragmented("libx264"), encoded("libx264")))
    sound, spoken = await asyncio.to_thread(lambda: (fragmented("aac"), encoded("aac")))
    async with parsers() as parse:
        (track,) = await parse.call("c.initialization(a[0])", source.extra)
        assert track["codec"] == "avc1"
        assert track["description"] == plain.extra.hex()
        for packet, chunk in zip(plain.packets[: 2 * GROUP], source.packets, strict=False):
            found = await parse.call("c.cmaf(a[1], false, c.initialization(a[0]))", source.extra, chunk.data)
            assert found == [
                {
                    "timestamp": packet.timestamp,
                    "duration": 1_000_000 // RATE,
                    "key": packet.key,
                    "data": packet.data.hex(),
                }
            ]
        whole = b"".join(chunk.data for chunk in source.packets[:GROUP])
        found = await parse.call("c.cmaf(a[1], true, c.initialization(a[0]))", source.extra, whole)
        assert [sample["data"] for sample in found] == [packet.data.hex() for packet in plain.packets[:GROUP]]
        (track,) = await parse.call("c.initialization(a[0])", sound.extra)
        assert track["codec"] == "mp4a"
        assert track["description"].startswith(spoken.extra[:2].hex())


async def test_broken_containers_are_errors_and_nothing_else() -> None:
    """Cut short, changed at random, and random altogether."""
    source = await asyncio.to_thread(fragmented, "libx264")
    chance = random.Random(7)
    chunk = source.packets[0].data
    broken = [chunk[:length] for length in range(0, 120, 7)]
    for data in (source.extra, chunk[:400]):
        for _ in range(60):
            changed = bytearray(data)
            for _ in range(3):
                changed[chance.randrange(len(changed))] = chance.randrange(256)
            broken.append(bytes(changed))
    broken += [chance.randbytes(chance.randrange(80)) for _ in range(60)]
    async with parsers() as parse:
        outcomes = await parse.call(
            """[...a.keys()].slice(1).flatMap((index) => [
                (data) => c.initialization(data), (data) => c.cmaf(data, true, c.initialization(a[0])),
                (data) => c.legacy(data, true), (data) => c.loc(data, true, 1), (data) => c.withStartCodes(data) ?? [],
            ].map((read) => {
                try { return read(a[index]).length < 5000 ? 'fine' : 'long'; }
                catch (error) { return error.constructor.name; }
            }))""",
            source.extra,
            *broken,
        )
        assert set(outcomes) <= {"fine", "Error", "RangeError"}
        assert outcomes.count("fine") > len(broken)


async def test_lengths_become_start_codes() -> None:
    async with parsers() as parse:
        units = b"\0\0\0\2ab\0\0\0\1c"
        assert await parse.call("c.withStartCodes(a[0])", units) == b"\0\0\0\1ab\0\0\0\1c".hex()
        assert await parse.call("c.withStartCodes(a[0])", b"\0\0\0\3ab") is None
        assert await parse.call(
            "[0, 1, 2].map((index) => c.hasStartCode(a[index]))", units, b"\0\0\1a", b"\0\0\0\1"
        ) == [
            False,
            True,
            True,
        ]
        assert await parse.call("c.bytesOf('0142c00b')") == "0142c00b"
        assert await parse.call("c.bytesOf('AULACw==')") == "0142c00b"


async def test_updates_of_a_catalog() -> None:
    """A merge patch of hang, an update of MSF."""
    async with parsers("catalog.js") as parse:
        first = {"video": {"renditions": {"hd": {"codec": "vp8"}, "sd": {"codec": "vp8"}}}}
        patch = {"video": {"renditions": {"sd": None, "hd": {"codedWidth": 640, "codedHeight": 360}}}}
        names = "c.parse({name}, 'demo/cam', a).video.map((each) => [each.track, each.codec, each.width])"
        hang = names.format(name="'catalog.json'")
        assert await parse.call(hang, as_json(first), as_json(patch)) == [["hd", "vp8", 640]]
        assert await parse.call(hang, as_json(first), as_json(first)) == [
            ["hd", "vp8", None],
            ["sd", "vp8", None],
        ]
        assert "too deep" in await parse.call(hang, as_json(first), deep(50_000))
        msf = names.format(name="'catalog'")
        tracks = {"tracks": [{"name": "hd", "codec": "vp8"}, {"name": "sd", "codec": "vp8"}]}
        update = {
            "deltaUpdate": True,
            "removeTracks": [{"name": "sd"}],
            "addTracks": [{"name": "uhd", "codec": "av01.0.04M.08"}],
            "cloneTracks": [{"parentName": "hd", "name": "ld", "width": 320}],
        }
        assert await parse.call(msf, as_json(tracks), as_json(update)) == [
            ["hd", "vp8", None],
            ["uhd", "av01.0.04M.08", None],
            ["ld", "vp8", 320],
        ]
        older = {
            "commonTrackFields": {"packaging": "cmaf"},
            "tracks": [{"name": "hd", "selectionParams": {"codec": "vp8", "width": 640}}],
        }
        assert await parse.call(msf, as_json(older)) == [["hd", "vp8", 640]]
        relative = {"video": {"renditions": {"hd": {"codec": "vp8", "broadcast": "../other/./x"}}}}
        assert (
            await parse.call("c.parse('catalog.json', 'demo/cam', a).video[0].broadcast", as_json(relative))
            == "demo/other/x"
        )


async def test_msgpack_in_pieces_of_any_size() -> None:
    rows: list[dict[str, Any]] = [
        {"group": 2**40, "frame": 0, "timestamp": None, "size": 3, "payload": b"abc"},
        {"group": 1, "frame": 300, "timestamp": -5, "size": 70_000, "payload": bytes(70_000)},
        {"group": 0, "frame": 70_000, "timestamp": 2**33, "size": 300, "payload": b"x" * 300},
    ]
    data = b"".join(msgpack.packb(row) for row in rows)
    expected = [{**row, "payload": row["payload"].hex()} for row in rows]
    async with parsers("msgpack.js") as parse:
        for size in (1_000_000, 4093, 7):
            found = await parse.call(
                f"""(() => {{
                    const unpacker = new c.Unpacker(1000000);
                    const found = [];
                    for (let at = 0; at < a[0].length; at += {size}) found.push(...unpacker.push(a[0].slice(at, at + {size})));
                    return found;
                }})()""",
                data,
            )
            assert found == expected
        assert "too large" in await parse.call(
            "[...new c.Unpacker(1000).push(a[0])]", b"\xc6\x00\x10\x00\x00" + bytes(2000)
        )
        assert "unexpected" in await parse.call("[...new c.Unpacker(1000).push(a[0])]", b"\xc1")


# -- when to present what


async def test_the_clock_waits_for_what_late_frames_need() -> None:
    """Frames of 40 ms, which take 100 ms and sometimes 160 ms."""
    async with parsers("clock.js") as parse:
        clock = """(() => {
            const clock = new c.Clock();
            const note = (track, timestamp, arrival) => clock.note(track, timestamp, arrival);
            STEPS
        })()"""

        async def after(steps: str) -> Any:
            return await parse.call(clock.replace("STEPS", steps))

        steady = "for (let at = 0; at < 2000; at += 40) note('video', at, at + 100);"
        assert await after(f"{steady} return clock.at('video', 3000) - 3000;") == 120
        late = "for (let at = 0; at < 2000; at += 40) note('video', at, at + (at % 200 ? 100 : 160));"
        assert await after(f"{late} return clock.at('video', 3000) - 3000;") == 100 + 60 + 15
        # the jitter is forgotten after two windows at most, and a delay has a bound
        calm = "for (let at = 2000; at < 12000; at += 40) note('video', at, at + 100);"
        assert await after(f"{late} {calm} return clock.at('video', 12000) - 12000;") == 120
        stall = "note('video', 2000, 7000);"
        assert await after(f"{steady} {stall} return clock.at('video', 3000) - 3000;") == 2100
        # what was cached arrives at once when it begins
        burst = "for (let at = -2000; at < 0; at += 40) note('video', at, 100);"
        assert await after(f"{burst} {steady} return clock.at('video', 3000) - 3000;") == 120
        # sound that takes longer delays the picture; one on another timeline does not
        sound = "for (let at = 0; at < 2000; at += 20) note('audio', at, at + 300);"
        assert await after(f"{steady} {sound} return clock.at('video', 3000) - 3000;") == 320
        other = "for (let at = 0; at < 2000; at += 20) note('audio', at + 1e9, at + 300);"
        assert await after(f"{steady} {other} return clock.at('video', 3000) - 3000;") == 120
        # the timestamps begin anew
        again = "for (let at = 0; at < 400; at += 40) note('video', at, at + 90100);"
        assert await after(f"{steady} {again} return clock.at('video', 400) - 400;") == 90_120


async def test_groups_of_sound_are_put_into_order() -> None:
    async with parsers("sound.js") as parse:
        made = """(() => {
            const taken = [];
            const order = new c.InOrder(({ group, frame }) => taken.push(`${group}.${frame}`));
            let now = 1000;
            const put = (group, frame = 0) => order.put({ group, frame }, now);
            STEPS
            clearTimeout(order.timer);
            return taken.join(' ');
        })()"""

        async def after(steps: str) -> Any:
            return await parse.call(made.replace("STEPS", steps))

        assert await after("put(7); put(9); put(10); put(8); put(8, 1); put(11);") == "7.0 8.0 9.0 10.0 11.0"
        assert await after("put(7); put(7, 1); put(8); put(7, 2); put(8, 1);") == "7.0 7.1 8.0 8.1"
        assert await after("put(7); put(9); put(10);") == "7.0"  # 8 may still come
        assert await after("put(7); put(9); now += 150; put(10); put(8); put(11);") == "7.0 9.0 10.0 11.0"
