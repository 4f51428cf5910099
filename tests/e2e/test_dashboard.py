"""The dashboard in Chromium against the state of the relay, with real sessions."""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import re
import struct
import zlib
from pathlib import Path
from typing import Final
from urllib.parse import urlencode

import pytest

from relay.app import Relay
from relay.client import Client
from tests.e2e.browser import Json, chromium_path
from tests.e2e.dashboard_support import made_up, serving, state, tab
from tests.e2e.harness import free_udp_port
from tests.e2e.http_support import guarded, token
from tests.e2e.support import running

pytestmark = pytest.mark.skipif(
    chromium_path() is None, reason="Chromium is not installed: tests/e2e/install-chromium.sh installs it"
)

HOSTILE: Final = "<img src=x onerror=alert(1)>"


def picture(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = (b"\0" + b"\x20\x60\xc0" * width) * height
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


async def test_the_numbers_are_those_of_the_relay() -> None:
    async with contextlib.AsyncExitStack() as stack:
        relay = await stack.enter_async_context(running())
        source = await stack.enter_async_context(await Client.connect(relay.url))
        track = source.publish("demo/cam").track("video/hd")
        group = track.group()
        group.write(b"x" * 1000)
        for _ in range(3):
            viewer = await stack.enter_async_context(await Client.connect(relay.url))
            subscription = await viewer.subscribe("demo/cam", "video/hd")
            first = await anext(aiter(subscription))
            assert (await anext(aiter(first))).payload == b"x" * 1000
        page = await stack.enter_async_context(tab(relay.internal_url))
        await page.until("document.querySelector('[data-total=viewers]').dataset.value === '3'")
        known = await state(relay)
        shown = await page.evaluate(
            "Object.fromEntries([...document.querySelectorAll('[data-total]')]"
            ".map((element) => [element.dataset.total, Number(element.dataset.value)]))"
        )
        steady = ("sessions", "broadcasts", "tracks", "viewers", "cached_bytes")
        assert {name: shown[name] for name in steady} == {name: known["totals"][name] for name in steady}
        assert (shown["sessions"], shown["viewers"], shown["tracks"]) == (4, 3, 1)
        assert await page.text("[data-relay=certificate]") == relay.fingerprint
        assert await page.text("[data-relay=hop]") == known["relay"]["hop"]
        row = "[data-broadcast='demo/cam'] [data-track='video/hd']"
        assert await page.text(f"{row} [data-label=Viewers]") == "3"
        assert await page.text(f"{row} [data-label='Latest group']") == "0"
        for session in known["sessions"]:
            assert session["remote"] in await page.text(f"[data-session='{session['session']}']")
        group.finish()
        track.group().write(b"y")
        await page.until(f"document.querySelector(\"{row} [data-label='Latest group']\").textContent === '1'")
        assert page.complaints == []
        assert all(address.startswith((relay.internal_url, "blob:")) for address in page.requests)


async def test_what_strangers_choose_stays_text() -> None:
    async with (
        running() as relay,
        await Client.connect(relay.url) as source,
        await Client.connect(relay.url) as viewer,
        tab(relay.internal_url) as page,
    ):
        source.publish(HOSTILE).track(HOSTILE).group().write(HOSTILE.encode())
        await anext(aiter(await viewer.subscribe(HOSTILE, HOSTILE)))
        await page.until("document.querySelector('[data-track]')")
        assert await page.text("[data-broadcast] .path") == HOSTILE
        assert await page.text("[data-track] a") == HOSTILE
        assert HOSTILE in await page.text("#sessions tbody")
        await page.click("[data-track] a")
        await page.until(f"document.querySelector('[data-watch=text]').textContent === {json.dumps(HOSTILE)}")
        assert HOSTILE in await page.text("[data-watch=title]")
        assert await page.evaluate("document.querySelectorAll('img[src=x]').length") == 0
        assert page.complaints == []


async def test_without_the_right_to_the_state() -> None:
    async with (
        running() as relay,
        await Client.connect(relay.url) as source,
        await Client.connect(relay.url) as viewer,
        tab(relay.url) as page,
    ):
        source.publish("demo/cam").track("video/hd").group().write(b"x")
        await anext(aiter(await viewer.subscribe("demo/cam", "video/hd")))
        await page.until("document.querySelector('[data-total=viewers]').dataset.value === '1'")
        assert "internal address" in await page.text("#note")
        assert await page.evaluate("document.querySelector('#note').checkVisibility()")
        assert not await page.evaluate("document.querySelector('#sessions').checkVisibility()")
        assert await page.text("[data-track] a") == "video/hd"
        assert await page.text("[data-relay=certificate]") == relay.fingerprint
        assert await page.text("#status") == "live"
        assert page.complaints == []


async def test_watching_a_track() -> None:
    """Text, then a picture, then bytes."""
    async with (
        running() as relay,
        await Client.connect(relay.url) as source,
        tab(f"{relay.internal_url}#broadcast=clock&track=seconds") as page,
    ):
        track = source.publish("clock").track("seconds")
        minute = track.group()
        minute.write(b"2026-11-22 07:30:")
        await page.until("document.querySelector('[data-watch=group]').dataset.value === '0'")
        assert await page.text("[data-watch=text]") == "2026-11-22 07:30:"
        minute.write(b"59")
        await page.until("document.querySelector('[data-watch=frame]').dataset.value === '1'")
        assert await page.text("[data-watch=text]") == "59"
        minute.finish()
        track.group().write(picture(160, 90))
        await page.until("document.querySelector('[data-watch=image]').naturalWidth === 160")
        assert await page.text("[data-watch=group]") == "1"
        track.group().write(bytes([0xDE, 0xAD, 0xBE, 0xEF]))
        await page.until("document.querySelector('[data-watch=text]').textContent.includes('de ad be ef')")
        assert await page.text("[data-watch=size]") == "4 B"
        assert await page.evaluate("document.querySelectorAll('#watch tbody tr').length") == 4
        await page.until("document.querySelector('[data-watch=state]').dataset.state === 'following'")
        await page.click("[data-watch=pause]")
        await page.until("document.querySelector('[data-watch=state]').dataset.state === 'paused'")
        assert page.complaints == []


# -- with a made-up relay, for what a real one rarely does


async def test_an_empty_relay_says_what_to_run() -> None:
    async with serving(made_up()) as url, tab(url) as page:
        await page.until("document.querySelector('#start').checkVisibility()")
        assert await page.text("[data-command=publish]") == "moq-clock publish http://127.0.0.1:4443/"
        assert page.complaints == []


async def test_when_certificates_end() -> None:
    day = 86_400
    known = made_up()
    rows = [("a.example", 40 * day, False), ("localhost", 12.5 * day, True)]
    known["relay"]["certificates"] = [
        {
            "listener": "quic",
            "number": 1,
            "name": name,
            "generated": generated,
            "not_before": 0,
            "not_after": 2000 + left,
        }
        for name, left, generated in rows
    ]
    ends = "document.querySelector('[data-relay=ends]')"
    async with serving(known) as url, tab(url) as page:
        await page.until(f"{ends}.textContent.includes('localhost')")
        assert (
            await page.text("[data-relay=ends]")
            == "a.example in 39 days \u00b7 localhost in 12 days, renewed by itself"
        )
        assert await page.evaluate(f"{ends}.dataset.validity ?? null") is None
        known["relay"]["certificates"][0]["not_after"] = 2000 + 5 * day
        await page.until(f"{ends}.dataset.validity === 'soon'")
        known["relay"]["certificates"][0]["not_after"] = 1000
        await page.until(f"{ends}.dataset.validity === 'bad'")
        assert "a.example expired 0 hours ago" in await page.text("[data-relay=ends]")
        assert page.complaints == []


@pytest.mark.parametrize(
    ("root", "path"),
    [
        (r'"demo/a b"', "demo/a%20b"),
        ('"caf\u00e9"', "caf%C3%A9"),  # as it is, not escaped
        (r'"\ud800"', "%EF%BF%BD"),
    ],
)
async def test_a_token_goes_with_every_request(root: str, path: str) -> None:
    """The page shows the path of the token."""
    claims = base64.urlsafe_b64encode(f'{{"root": {root}}}'.encode()).decode().rstrip("=")
    made = f"e30.{claims}.c2ln"
    async with serving(made_up()) as url, tab(f"{url}?jwt={made}") as page:
        await page.until("document.querySelector('#status').dataset.status === 'live'")
        asked = [address for address in page.requests if "/state" in address]
        assert set(asked) == {f"{url}state/{path}?jwt={made}"}
        await page.evaluate("location.hash = '#broadcast=demo%2Fcam&track=v%231'")
        await page.until("document.querySelector('[data-watch=state]').dataset.state === 'lost'")
        assert f"{url}fetch/demo/cam?track=v%231&frames=1&follow=1&jwt={made}" in page.requests
        assert made not in await page.text("body")


# --- names with slashes, and refusals ---------------------------------------------------------------------------


async def test_tracks_with_slashes_in_their_names_are_watched() -> None:
    async with contextlib.AsyncExitStack() as stack:
        relay = await stack.enter_async_context(running())
        source = await stack.enter_async_context(await Client.connect(relay.url))
        for path, name in (("demo/cam", "video/hd"), ("demo/cam/video", "hd"), ("", "audio/data")):
            track = source.publish(path).track(name)
            track.group().write(f"{path or 'top'}: {name}".encode())
        viewer = await stack.enter_async_context(await Client.connect(relay.url))
        await anext(aiter(await viewer.subscribe("demo/cam", "video/hd")))
        page = await stack.enter_async_context(tab(relay.url))
        await page.until("document.querySelector('[data-track=\"video/hd\"] a')")
        await page.click('[data-track="video/hd"] a')
        text = "document.querySelector('[data-watch=text]').textContent"
        await page.until(f"{text} === 'demo/cam: video/hd'")
        for path, name in (("demo/cam/video", "hd"), ("", "audio/data")):
            link = "#" + urlencode({"broadcast": path, "track": name})
            await page.evaluate(f"location.hash = {json.dumps(link)}")
            await page.until(f"{text} === '{path or 'top'}: {name}'")
        assert page.complaints == []


IMPATIENT_PAGE: Final = """
    const wait = window.setTimeout;
    window.pauses = [];
    window.setTimeout = (then, milliseconds, ...rest) => {
        if (milliseconds >= 250) pauses.push(milliseconds);
        return wait(then, Math.min(milliseconds, 20), ...rest);
    };
"""
"""Before the page's scripts: shortens its pauses, and remembers the original ones."""

SECRET_TRACK: Final = "#broadcast=secret%2Fcam&track=video%2Fhd"


@pytest.mark.parametrize(
    "claims, told",
    [
        (None, "This needs a token"),
        ({"exp": 1_000_000_000}, "refuses the token in this page's address: token expired."),
        ({"nbf": 4_000_000_000}, "refuses the token in this page's address: token not valid yet."),
        ({"key": "another"}, "refuses the token in this page's address: bad token."),
    ],
    ids=["none", "expired", "early", "bad"],
)
async def test_a_page_without_rights_says_why_and_asks_ever_more_rarely(
    claims: Json | None, told: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "relay.web")
    query = ""
    if claims is not None:
        made = token(get=[""], **{name: value for name, value in claims.items() if name != "key"})
        query = f"?jwt={made}x" if "key" in claims else f"?jwt={made}"
    async with contextlib.AsyncExitStack() as stack:
        relay = await stack.enter_async_context(Relay(guarded(tmp_path)))
        page = await stack.enter_async_context(tab("about:blank"))
        await page.call("Page.addScriptToEvaluateOnNewDocument", source=IMPATIENT_PAGE)
        await page.open(f"{relay.url}{query}")
        await page.until("document.querySelector('#status').dataset.status === 'refused'")
        await page.until("pauses.filter((pause) => pause > 50_000).length >= 2")
        assert told in await page.text("#note")
        assert "Nothing is published" not in await page.evaluate("document.body.innerText")
        assert await page.text("[data-total=broadcasts]") == "\u2013"
        pauses = [round(pause / 1000) for pause in await page.evaluate("pauses")]
        assert pauses == sorted(pauses)
        assert len(pauses) < 12
        await page.evaluate(f"location.hash = {json.dumps(SECRET_TRACK)}")
        await page.until("document.querySelector('[data-watch=state]').dataset.state === 'refused'")
        assert told in await page.text("[data-watch=state]")
        refusals = [line for line in caplog.messages if line.startswith("refused remote=")]
        assert len(refusals) == 1, refusals
        assert page.complaints == []


async def test_the_fingerprint_is_copied() -> None:
    async with serving(made_up()) as url, tab(url) as page:
        await page.until("document.querySelector('#status').dataset.status === 'live'")
        await page.call(
            "Browser.grantPermissions",
            browserContextId=page.context,
            permissions=["clipboardReadWrite", "clipboardSanitizedWrite"],
        )
        await page.click("[data-copy=certificate]")
        await page.until("document.querySelector('[data-copy=certificate]').textContent === 'Copied'")
        assert await page.evaluate("navigator.clipboard.readText()") == "ab" * 32


async def test_rates_come_from_differences() -> None:
    known = made_up(1, 1)
    track = known["broadcasts"][0]["tracks"][0]
    rate = "document.querySelector('[data-track] [data-label=Rate]').textContent"
    async with serving(known) as url, tab(url) as page:
        await page.until(f"{rate} === '0 Mbit/s'")
        track["received_bytes"] += 1_000_000  # within one second, then no more
        await page.until(f"/^(8.00|4.00|2.67) Mbit\\/s$/.test({rate})")
        track["received_bytes"] = 5  # a new count: no negative rate
        await page.until(f"{rate} === '0 Mbit/s'")
        assert page.complaints == []


async def test_many_rows_are_kept_not_rebuilt() -> None:
    known = made_up(200, 200)
    async with serving(known) as url, tab(url) as page:
        await page.until("document.querySelectorAll('#sessions tbody tr').length === 50")
        for name in ("sessions", "broadcasts"):
            await page.click(f"[data-all={name}]")
        await page.until("document.querySelectorAll('#sessions tbody tr').length === 200")
        await page.until("document.querySelectorAll('[data-broadcast]').length === 200")
        await page.evaluate("document.querySelectorAll('tbody tr').forEach((row) => { row.old = true; })")
        del known["sessions"][0]
        known["sessions"][0]["rtt"] = 0.5
        await page.until("document.querySelector('[data-session=\"2\"]').textContent.includes('500 ms')")
        assert await page.evaluate(
            "[...document.querySelectorAll('#sessions tbody tr')].every((row) => row.old)"
        )
        assert await page.evaluate("document.querySelectorAll('#sessions tbody tr').length") == 199
        typed = "const box = document.querySelector('[data-filter=broadcasts]'); box.value = 'room/117';"
        await page.evaluate(f"{typed} box.dispatchEvent(new Event('input'))")
        assert await page.evaluate("document.querySelectorAll('[data-broadcast]').length") == 1
        assert page.complaints == []


async def test_peers_of_a_cluster() -> None:
    peers = [
        {"node": "leaf:4443", "state": "connected", "since": 1000.0, "error": None, "broadcasts": 2},
        {"node": HOSTILE, "state": "connecting", "since": 1990.0, "error": "no answer", "broadcasts": 0},
    ]
    async with serving(made_up(peers=peers)) as url, tab(f"{url}#cluster") as page:
        await page.until("document.querySelectorAll('[data-peer]').length === 3")  # and the relay itself
        text = await page.text("#peers tbody")
        assert "leaf:4443" in text
        assert HOSTILE in text
        assert "no answer" in text


async def test_a_relay_that_is_gone_for_a_while() -> None:
    port = free_udp_port()
    known = made_up(2)
    async with contextlib.AsyncExitStack() as stack:
        async with serving(known, port) as url:
            page = await stack.enter_async_context(tab(url))
            await page.until("document.querySelector('#status').dataset.status === 'live'")
        await page.until("document.querySelector('#status').dataset.status === 'unreachable'")
        assert re.fullmatch(r"relay not reachable since \d\d:\d\d:\d\d", await page.text("#status"))
        assert await page.evaluate("document.querySelectorAll('[data-session]').length") == 2
        known["sessions"].pop()
        async with serving(known, port):
            await page.until("document.querySelector('#status').dataset.status === 'live'")
            assert await page.evaluate("document.querySelectorAll('[data-session]').length") == 1
