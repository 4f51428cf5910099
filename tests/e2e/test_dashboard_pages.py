"""The pages of the dashboard in Chromium: health, history, events, sessions, cluster; and the same through trouble."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Final

import aiohttp
import pytest

from relay.app import Relay
from relay.client import Client, SessionEnded
from relay.config import Address, Internal
from relay.quic.settings import QuicSettings
from tests.clock import RUNTIME
from tests.e2e.browser import Json, chromium_path
from tests.e2e.dashboard_support import WITHIN, Tab, happened, made_up, serving, state, tab
from tests.e2e.harness import Peer, free_udp_port
from tests.e2e.http_support import guarded, token
from tests.e2e.screenshots import EVENTS, rich
from tests.e2e.support import PATIENT, config, running
from tests.e2e.test_drain import draining

pytestmark = pytest.mark.skipif(
    chromium_path() is None, reason="Chromium is not installed: tests/e2e/install-chromium.sh installs it"
)

HOSTILE: Final = "<img src=x onerror=alert(1)>"

STEADY: Final = ("sessions", "broadcasts", "tracks", "viewers", "cached_bytes")


HASTY_PAGE: Final = """
    const wait = window.setTimeout;
    window.setTimeout = (then, milliseconds, ...rest) => wait(then, Math.min(milliseconds, 100), ...rest);
"""
"""Before the page's scripts: its queries follow one another at once."""


def all_of(selector: str, value: str) -> str:
    return f"[...document.querySelectorAll({json.dumps(selector)})].map((element) => {value})"


CODES: Final = {"Escape": 27, "Enter": 13}


async def press(page: Tab, key: str, text: str = "") -> None:
    code = CODES.get(key, 0)
    await page.call(
        "Input.dispatchKeyEvent", type="keyDown", key=key, text=text, windowsVirtualKeyCode=code, code=key
    )
    await page.call("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code, code=key)


# -- with a made-up relay


async def test_the_strip_says_what_is_wrong_and_where_to_read_on() -> None:
    known = rich()
    async with serving(known, events=EVENTS) as url, tab(url) as page:
        await page.until("document.querySelector('#health').dataset.well === 'false'")
        assert await page.text("#health-title") == "Look here: 2 things to see to"
        texts = [reason["text"] for reason in known["health"]["reasons"]]
        assert await page.evaluate(all_of("#health summary", "element.textContent")) == texts
        places = [
            "docs/operations.md, A certificate ends soon",
            "docs/operations.md, Other relays are not connected",
        ]
        assert await page.evaluate(all_of("#health code", "element.textContent")) == places
        assert "loop lag 1.8 ms \u00b7 CPU 6.4 %" in await page.text("[data-health=figures]")
        assert await page.evaluate("document.title") == "(!) edge-paris:4443 \u00b7 moq-relay"
        await page.until("document.querySelector('#icon').href.startsWith('blob:')")
        former = await page.evaluate("document.querySelector('#icon').href")
        known["health"] |= {"well": True, "reasons": []}
        await page.until("document.querySelector('#health').dataset.well === 'true'")
        assert await page.text("#health-title") == "The relay is well"
        await page.until("document.title === 'edge-paris:4443 \u00b7 moq-relay'")
        await page.until(f"document.querySelector('#icon').href !== {json.dumps(former)}")
        del known["health"]  # as with a token that shows only a part
        await page.until("!document.querySelector('#health').checkVisibility()")
        assert page.complaints == []


async def test_charts_are_full_when_the_page_opens() -> None:
    figures = "document.querySelectorAll('#charts figure')"
    async with serving(made_up(), events=[]) as url, tab(url) as page:
        await page.until(f"[...{figures}].filter((figure) => figure.checkVisibility()).length === 6")
        assert await page.evaluate(all_of("#charts h3", "element.textContent")) == [
            "Traffic", "Groups", "Audience", "Loop lag", "CPU", "Memory",
        ]  # fmt: skip
        point = f"""(() => {{
            const over = {figures}[0].querySelector(".u-over");
            const {{ left, top, width }} = over.getBoundingClientRect();
            over.dispatchEvent(new MouseEvent("mouseenter"));
            over.dispatchEvent(new MouseEvent("mousemove", {{ clientX: left + width / 2, clientY: top + 9 }}));
            return {figures}[0].querySelector("figcaption p").textContent;
        }})()"""
        await page.until(f"/2 m (29|3\\d) s ago/.test({point})")
        assert "sent 20.0 Mbit/s" in await page.evaluate(point)
        assert "received 3.00 Mbit/s" in await page.evaluate(point)
        for label, ago in (("1 h", r"(29 m 5|30 m 0)\d s"), ("1 day", r"(11 h 59|12 h 0[01]) m")):
            await page.evaluate(
                f"{all_of('[data-choice=span] button', 'element')}.find((b) => b.textContent === '{label}').click()"
            )
            await page.until(f"/{ago} ago/.test({point})")
            assert "sent 20.0 Mbit/s" in await page.evaluate(point)
        asked = [address for address in page.requests if address.startswith(f"{url}history")]
        assert "after=" not in asked[0]
        assert all("after=" in address for address in asked[1:])
        assert page.complaints == []


async def test_a_page_without_history_and_events_has_its_own_figures_only() -> None:
    async with serving(made_up(1, 1)) as url, tab(url) as page:
        await page.until("document.querySelector('[data-session]')")
        await page.until("document.querySelector('#charts figure').checkVisibility()")
        assert not await page.evaluate("document.querySelector('[data-choice=span]').checkVisibility()")
        assert not await page.evaluate("document.querySelector('#health').checkVisibility()")
        await page.evaluate("location.hash = '#session=word'")
        await page.until("document.querySelector('[data-session-page=title]').textContent === 'No session'")
        await page.evaluate("location.hash = '#session=1'")
        await page.until("document.querySelector('[data-session-page=state]').textContent === 'Connected.'")
        assert not await page.evaluate(
            "document.querySelector('[data-session-page=close]').checkVisibility()"
        )
        await page.until("!document.querySelector('[data-page=events]').checkVisibility()")
        await page.until("performance.getEntriesByName(`${location.origin}/events`).length > 0")
        assert (
            len([address for address in page.requests if address in (f"{url}history", f"{url}events")]) == 2
        )
        assert page.complaints == []


async def test_headers_sort_by_mouse_and_by_keyboard() -> None:
    known = made_up(12, 12)
    for row in known["sessions"]:
        row["rtt"] = None if row["session"] == 4 else row["session"] % 5 / 100
    for broadcast in known["broadcasts"]:
        broadcast["tracks"][0]["viewers"] = broadcast["session"] % 7
    order = all_of("#sessions [data-session]", "Number(element.dataset.session)")
    header = "document.querySelector('#sessions th:nth-child(7)')"
    async with serving(known) as url, tab(url) as page:
        await page.until(f"{order}.length === 12")
        assert await page.evaluate(order) == list(range(1, 13))
        await page.click("#sessions th:nth-child(7) button")
        assert await page.evaluate(f"{header}.ariaSort") == "descending"
        assert (await page.evaluate(order))[:3] == [9, 3, 8]
        assert (await page.evaluate(order))[-1] == 4  # unknown
        await page.evaluate(f"{header}.querySelector('button').focus()")
        await press(page, "Enter", "\r")
        assert await page.evaluate(f"{header}.ariaSort") == "ascending"
        assert (await page.evaluate(order))[:2] == [5, 10]
        assert (await page.evaluate(order))[-1] == 4
        await page.click("#broadcasts th:nth-child(2) button")
        paths = await page.evaluate(all_of("[data-broadcast]", "element.dataset.broadcast"))
        assert paths[:2] == ["room/6", "room/12"]
        await page.click("#broadcasts th:first-child button")
        paths = await page.evaluate(all_of("[data-broadcast]", "element.dataset.broadcast"))
        assert paths == [f"room/{number}" for number in range(1, 13)]  # not room/1, room/10
        assert page.complaints == []


async def test_an_address_leads_to_the_sessions() -> None:
    """Below broadcasts and charts that are not there yet when the page opens."""
    async with serving(made_up(20, 20), events=[]) as url, tab(f"{url}#sessions") as page:
        await page.until("document.activeElement.id === 'sessions-title'")
        top = await page.evaluate("document.querySelector('#sessions').getBoundingClientRect().top")
        assert 0 <= top < 100
        current = "document.querySelector('.pages [aria-current]').textContent"
        assert await page.evaluate(current) == "Sessions"
        assert page.complaints == []


async def test_keys() -> None:
    async with serving(made_up(3, 3), events=[]) as url, tab(url) as page:
        await page.until("document.querySelectorAll('[data-broadcast]').length === 3")
        await press(page, "/", "/")
        assert await page.evaluate("document.activeElement.dataset.filter") == "broadcasts"
        for letter in "room/2":
            await press(page, letter, letter)
        assert await page.evaluate("document.activeElement.value") == "room/2"
        assert await page.evaluate("document.querySelectorAll('[data-broadcast]').length") == 1
        await press(page, "Escape")
        assert await page.evaluate("document.querySelectorAll('[data-broadcast]').length") == 3
        await press(page, "Escape")
        assert await page.evaluate("document.activeElement === document.body")
        for hidden in ("events", "cluster", "words", "session=2"):
            await page.evaluate(f"location.hash = '#{hidden}'")
            await page.until("!document.querySelector('#overview').checkVisibility()")
            await press(page, "Escape")
            await page.until("document.querySelector('#overview').checkVisibility()")
        assert page.complaints == []


async def test_events_are_listed_live() -> None:
    events = [
        happened(
            number, "joined", session=number, remote=f"127.0.0.1:{number}", path="/", count=1, first=number
        )
        for number in range(1, 4)
    ]
    events.append(
        happened(4, "refused", remote="127.0.0.1:9", path="/private", reason=HOSTILE, count=1, first=4)
    )
    numbers = all_of("#events [data-event]", "Number(element.dataset.event)")
    async with serving(made_up(3), events=events) as url, tab(f"{url}#events") as page:
        await page.until(f"{numbers}.length === 4")
        assert await page.evaluate(numbers) == [4, 3, 2, 1]
        assert HOSTILE in await page.text("[data-event='4']")
        link = "document.querySelector('[data-event=\"2\"] a').getAttribute('href')"
        assert await page.evaluate(link) == "#session=2"
        events.append(happened(5, "announced", session=1, path="demo/cam", count=1, first=5))
        events.append(
            happened(6, "refused", remote="127.0.0.1:9", path="/private", reason=HOSTILE, count=2, first=4)
        )
        await page.until(f"{numbers}.join() === '6,5,3,2,1'")
        assert "2 \u00d7 refused" in await page.text("[data-event='6']")
        assert await page.evaluate(
            "document.querySelector('[data-event=\"5\"] td:nth-child(4) a').getAttribute('href')"
        ) in ("#broadcast=demo%2Fcam", "#broadcast=demo%2Fcam&track=")
        await page.evaluate(
            "const kind = document.querySelector('[data-kind=events]'); kind.value = 'joined'; kind.dispatchEvent(new Event('change'))"
        )
        assert await page.evaluate(numbers) == [3, 2, 1]
        typed = "const box = document.querySelector('[data-filter=events]'); box.value = 'joined 0.1:2';"
        await page.evaluate(f"{typed} box.dispatchEvent(new Event('input'))")
        assert await page.evaluate(numbers) == [2]
        assert page.complaints == []


async def test_the_cluster_has_sums_and_ways_to_the_members() -> None:
    known = rich()
    known["peers"][1]["dashboard"] = "javascript:alert(1)"
    async with serving(known, events=EVENTS) as url, tab(f"{url}#cluster") as page:
        await page.until("document.querySelectorAll('[data-peer]').length === 3")
        total = "document.querySelector('[data-cluster-total={}]').dataset.value"
        assert await page.evaluate(total.format("sessions")) == str(23 + 8)
        assert await page.evaluate(total.format("viewers")) == str(49 + 12)
        assert await page.evaluate(total.format("broadcasts")) == "3"
        assert await page.text("[data-cluster=missing]") == "Without 1 member of which nothing is known."
        links = all_of("[data-peer]", "element.lastElementChild.firstElementChild.getAttribute('href')")
        assert await page.evaluate(links) == [None, "https://leaf-lyon.example/", None]
        assert "no answer within 10 s" in await page.text("[data-peer='root-oslo:4443']")
        assert page.complaints == []


# -- with a real one


async def agreement(page: Tab, relay: Relay, **wanted: int) -> None:
    """Wait until the page shows the state of the relay, which has these totals."""
    shown: Json = {}
    known: Json = {}
    try:
        async with asyncio.timeout(WITHIN):
            while True:
                known = await state(relay)
                totals = {name: known["totals"][name] for name in STEADY}
                shown = await page.evaluate(
                    f"""({{
                        totals: Object.fromEntries({all_of("[data-total]", "[element.dataset.total, Number(element.dataset.value)]")}),
                        sessions: {all_of("#sessions [data-session]", "Number(element.dataset.session)")}.sort(),
                        broadcasts: {all_of("#broadcasts:not([hidden]) [data-broadcast]", "element.dataset.broadcast")},
                        well: document.querySelector("#health").dataset.well,
                        status: document.querySelector("#status").dataset.status,
                    }})"""
                )
                if (
                    wanted.items() <= totals.items() <= shown["totals"].items()
                    and shown["sessions"] == sorted(row["session"] for row in known["sessions"])
                    and sorted(shown["broadcasts"]) == sorted(row["path"] for row in known["broadcasts"])
                    and shown["well"] == json.dumps(known["health"]["well"])
                    and shown["status"] == "live"
                ):
                    return
                await page.evaluate("new Promise(requestAnimationFrame)")
    except TimeoutError:
        raise AssertionError(f"the page shows {shown}, the relay has {known}") from None


async def test_the_numbers_through_a_kill_a_drain_and_a_restart() -> None:
    limits = replace(PATIENT, linger=0.1, drain=60.0)
    chosen = config(limits=limits, quic=QuicSettings(idle_timeout=1.5)).model_copy(
        update={"internal": Internal(listen=Address("localhost", free_udp_port()))}
    )
    clock = [sys.executable, "-m", "relay.commands.clock", "publish"]
    async with contextlib.AsyncExitStack() as stack:
        async with Relay(chosen, RUNTIME) as relay:
            page = await stack.enter_async_context(tab("about:blank"))
            await page.call("Page.addScriptToEvaluateOnNewDocument", source=HASTY_PAGE)
            await page.open(relay.internal_url)
            await agreement(page, relay, sessions=0)
            publisher = await stack.enter_async_context(Peer([*clock, relay.url]))
            viewer = await stack.enter_async_context(await Client.connect(relay.url))
            await page.until("document.querySelector('[data-broadcast]')")
            path = await page.evaluate("document.querySelector('[data-broadcast]').dataset.broadcast")
            subscription = await viewer.subscribe(path, "seconds")
            await anext(aiter(subscription))
            await agreement(page, relay, sessions=2, broadcasts=1, viewers=1, tracks=1)
            await publisher.kill()
            await agreement(page, relay, sessions=1, broadcasts=0)
            async with draining(relay):
                await page.until("document.querySelector('[data-reason=draining]')")
                assert "draining" in await page.text("[data-relay=version]")
                await agreement(page, relay, sessions=1)
        await page.until("document.querySelector('#status').dataset.status === 'unreachable'")
        await page.until("document.title.startsWith('(\u00d7)')")
        async with Relay(chosen, RUNTIME) as relay:
            await agreement(page, relay, sessions=0, broadcasts=0, viewers=0, cached_bytes=0)
            source = await stack.enter_async_context(await Client.connect(relay.url))
            source.publish("demo/cam").track("video/hd").group().write(b"x")
            await agreement(page, relay, sessions=1, broadcasts=1)
            await page.until("document.title.startsWith('localhost')")
            assert page.complaints == []
            await source.close()


async def test_the_numbers_of_a_page_with_a_narrow_token(tmp_path: Path) -> None:
    """Without one there are none; with it those that it may see."""
    async with contextlib.AsyncExitStack() as stack:
        relay = await stack.enter_async_context(Relay(guarded(tmp_path)))
        both = token(put=[""], get=[""])
        for path in ("demo/cam", "private/cam"):
            source = await stack.enter_async_context(await Client.connect(f"{relay.url}?jwt={both}"))
            source.publish(path).track("video/hd").group().write(b"x")
        page = await stack.enter_async_context(tab(relay.url))
        await page.until("document.querySelector('#status').dataset.status === 'refused'")
        assert set(await page.evaluate(all_of("[data-total]", "element.textContent"))) == {"\u2013"}
        narrow = token(root="demo", get=[""])
        await page.open(f"{relay.url}?jwt={narrow}")
        await page.until("document.querySelector('[data-total=broadcasts]').dataset.value === '1'")
        async with (
            aiohttp.ClientSession() as client,
            client.get(f"{relay.url}state/demo?jwt={narrow}") as response,
        ):
            known = await response.json()
        shown = await page.evaluate(
            f"Object.fromEntries({all_of('[data-total]', '[element.dataset.total, Number(element.dataset.value)]')})"
        )
        assert {name: shown[name] for name in STEADY} == {name: known["totals"][name] for name in STEADY}
        assert await page.evaluate(all_of("[data-broadcast]", "element.dataset.broadcast")) == ["demo/cam"]
        for part in ("#health", "[data-page=events]", "[data-choice=span]"):
            assert not await page.evaluate(f"document.querySelector('{part}').checkVisibility()"), part
        assert narrow not in await page.evaluate("document.body.innerText")
        assert page.complaints == []


async def test_the_operator_closes_a_session() -> None:
    dialog = "document.querySelector('#closing')"
    said = "document.querySelector('[data-session-page=state]').textContent"
    async with running() as relay, await Client.connect(relay.url) as viewer, tab(relay.internal_url) as page:
        await page.until("document.querySelector('[data-session]')")
        await page.click("[data-session] a")
        await page.until(f"{said} === 'Connected.'")
        row = (await state(relay))["sessions"][0]
        facts = await page.text("[data-session-page=facts]")
        for value in (row["remote"], row["transport"], row["version"], "everything"):
            assert value in facts, value
        await page.click("[data-session-page=close]")
        assert await page.evaluate(f"{dialog}.open")
        assert await page.text("[data-session-page=question]") == f"Close session {row['session']}?"
        assert await page.evaluate("document.activeElement.value") == "cancel"
        await press(page, "Escape")
        await page.until(f"!{dialog}.open")
        assert await page.evaluate("location.hash") == f"#session={row['session']}"
        await page.click("[data-session-page=close]")
        await page.click("#closing [value=close]")
        await page.until(f"{said}.startsWith('This session ended at')")
        with pytest.raises(SessionEnded):
            await viewer.subscribe("demo/cam", "video")
        await page.until("document.querySelector('#session-events [data-event]')")
        assert not await page.evaluate(
            "document.querySelector('[data-session-page=close]').checkVisibility()"
        )
        assert page.complaints == []
        # the public address has no such route
        async with aiohttp.ClientSession() as client:
            for method in ("get", "post"):
                response = await getattr(client, method)(f"{relay.url}sessions/{row['session']}/close")
                assert response.status == 404, method
