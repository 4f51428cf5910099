"""Pictures of every page of the dashboard, light and dark, wide and on a phone, of a made-up relay.

python -m tests.e2e.screenshots /tmp/pictures            # all of them
python -m tests.e2e.screenshots docs/img overview-light  # those whose names begin so
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import math
from itertools import product
from pathlib import Path
from typing import Any, Final

from tests.e2e.browser import Browser, Json
from tests.e2e.dashboard_support import FIGURES, Tab, happened, made_up, past, serving, tab
from tests.e2e.support import running

NOW: Final = 1_795_960_800.0  # seconds since the epoch

SIZES: Final = {"wide": (1440, 900), "phone": (390, 844)}

PAGES: Final = {
    "overview": "",
    "sessions": "#sessions",
    "session": "#session=3",
    "events": "#events",
    "cluster": "#cluster",
    "words": "#words",
    "player": "#broadcast=demo/stage",
    "publish": "#publish",
    "watch": "#broadcast=demo/stage&track=video/hd",
}


def session(number: int, remote: str, **fields: Any) -> Json:
    row: Json = {
        "session": number,
        "remote": remote,
        "transport": "webtransport",
        "version": "moq-lite-06",
        "path": "demo",
        "since": NOW - 4000 / number,
        "rtt": 0.012 * number,
        "bytes_received": 2_000_000,
        "bytes_sent": 41_000_000 * number,
        "streams": 4,
        "publish": [],
        "subscribe": [""],
        "publishing": [],
        "subscriptions": 2,
        "upstreams": 0,
        "refused": {},
        "skipped": 0,
        "expires": None,
        "estimate": 48_000_000,
        "lost": 7 * number,
    }
    return {**row, **fields}


def track(path: str, name: str, viewers: int, rate: int) -> Json:
    return {
        "path": path,
        "name": name,
        "viewers": viewers,
        "relays": 0,
        "upstream": "open",
        "groups": [{"sequence": 2040, "frames": 30, "bytes": rate, "open": True, "age": 0.4}] * 4,
        "cached_bytes": rate * 4,
        "received_bytes": rate * 2000,
        "received_groups": 2041,
        "received_frames": 60_000,
        "latest": 2040,
        "rate": rate,
    }


def rich() -> Json:
    """A relay of a cluster with an audience, and two things to see to."""
    known = made_up()
    known["relay"] |= {"now": NOW, "since": NOW - 200_000, "node": "edge-paris:4443", "operator": True}
    known["relay"]["certificates"] = [
        {
            "listener": "quic",
            "number": 1,
            "name": "edge-paris.example",
            "generated": False,
            "not_before": 0,
            "not_after": NOW + 5.5 * 86_400,
        }
    ]
    known["health"] = {
        "well": False,
        "reasons": [
            {
                "kind": "certificate",
                "text": "Certificate 1 of quic (edge-paris.example) ends in 5.5 days.",
                "doc": "docs/operations.md#a-certificate-ends-soon",
            },
            {
                "kind": "peers_down",
                "text": "1 of 2 other relays are not connected: root-oslo:4443.",
                "doc": "docs/operations.md#other-relays-are-not-connected",
            },
        ],
        "figures": {
            "lag": 0.0018,
            "cpu": 0.064,
            "memory": 88_400_000,
            "memory_limit": 2_000_000_000,
            "skipped": 0.2,
            "refused": {"unauthorized": 3},
            "descriptors": 41,
            "descriptors_limit": 65_536,
            "udp_drops": 0,
            "certificate_days": 5.5,
            "draining": False,
            "peers_down": 1,
        },
    }
    known["sessions"] = [
        session(
            1, "192.0.2.10:51011", publish=["stage"], publishing=["demo/stage"], subscriptions=0, upstreams=2
        ),
        session(2, "leaf-lyon:4443", transport="quic", path="", publish=[""], publishing=["news/desk"]),
        session(3, "198.51.100.7:40212", skipped=12, rtt=0.184, publishing=["demo/guest"]),
        *(session(number, f"[2001:db8:0:{number:x}::17]:{50_000 + number}") for number in range(4, 24)),
    ]
    known["broadcasts"] = [
        {
            "path": path,
            "session": number,
            "hops": hops,
            "serving": True,
            "tracks": [track(path, name, viewers, rate) for name, viewers, rate in tracks],
        }
        for path, number, hops, tracks in (
            (
                "demo/stage",
                1,
                ["7"],
                [("video/hd", 20, 590_000), ("video/sd", 3, 150_000), ("audio/data", 21, 16_000)],
            ),
            ("demo/guest", 3, ["9"], [("video/hd", 2, 310_000), ("catalog.json", 2, 4)]),
            ("news/desk", 2, ["4", "5"], [("video/hd", 1, 410_000)]),
        )
    ]
    known["totals"] |= {
        "sessions": 23,
        "broadcasts": 3,
        "tracks": 6,
        "viewers": 49,
        "bytes_received": 41e9,
        "bytes_sent": 803e9,
        "cached_bytes": 9_400_000,
    }
    known["peers"] = [
        {
            "node": "leaf-lyon:4443",
            "state": "connected",
            "dialled_by": "us",
            "since": NOW - 90_000,
            "session": 2,
            "error": None,
            "broadcasts": 1,
            "offers": ["news/desk"],
            "totals": {"sessions": 8, "broadcasts": 1, "viewers": 12, "received": 310_000, "sent": 2_900_000},
            "dashboard": "https://leaf-lyon.example/",
        },
        {
            "node": "root-oslo:4443",
            "state": "connecting",
            "dialled_by": "us",
            "since": None,
            "session": None,
            "error": "no answer within 10 s",
            "broadcasts": 0,
            "offers": [],
            "totals": None,
            "dashboard": None,
        },
    ]
    return known


EVENTS: Final = [
    happened(1, "peer_up", session=2, remote="leaf-lyon:4443"),
    happened(2, "joined", session=1, remote="192.0.2.10:51011", path="/demo"),
    happened(3, "announced", session=1, remote="192.0.2.10:51011", path="demo/stage"),
    happened(4, "peer_down", remote="root-oslo:4443", reason="no answer within 10 s", count=14, first=4),
    *(
        happened(
            5 + n, "joined", session=3 + n, remote=f"[2001:db8:0:{3 + n:x}::17]:{50_003 + n}", path="/demo"
        )
        for n in range(12)
    ),
    happened(
        20, "refused", remote="203.0.113.99:33100", path="/private", reason="unauthorized: token expired"
    ),
    happened(21, "announced", session=3, remote="198.51.100.7:40212", path="demo/guest"),
    happened(
        22, "left", session=30, remote="198.51.100.8:40212", path="/demo", reason="closed by the peer, code 0"
    ),
    happened(23, "ended", session=30, remote="198.51.100.8:40212", path="demo/replay"),
]


LEVELS: Final = {
    **FIGURES,
    "sessions": 23,
    "viewers": 49,
    "sent": 12.3e6,
    "received": 2.2e6,
    "groups": 6,
    "skipped": 0.2,
}
"""Of /history, beside the state below."""


def waves(now: float, after: float) -> Json:
    """An evening with its viewers, which ends at the present level."""
    found = past(now, after)
    for part in (found["recent"], found["day"]):
        for name, column in part["values"].items():
            level, steady = LEVELS[name], name in ("memory", "lag")
            for index, value in enumerate(column):
                before = len(column) - index
                wave = 0.35 * math.sin(before / len(column) * 9) + 0.04 * math.sin(before * 1.7)
                column[index] = None if value is None else level * (1 + (wave / 8 if steady else wave))
                if name in ("sessions", "viewers") and value is not None:
                    column[index] = round(column[index])
    return found


DOCS: Final = {"overview-light-wide": "dashboard", "sessions-light-phone": "dashboard-phone"}
"""Files of docs/img: what a screen shows, smaller."""


async def shoot(page: Tab, file: Path) -> None:
    picture = await page.call("Page.captureScreenshot", format="png")
    await asyncio.to_thread(file.write_bytes, base64.b64decode(picture["data"]))
    print(file)  # noqa: T201 - a command


async def resize(page: Tab, size: str, height: int, scale: float = 1.0) -> None:
    await page.call(
        "Emulation.setDeviceMetricsOverride",
        width=SIZES[size][0],
        height=height,
        deviceScaleFactor=scale,
        mobile=size == "phone",
    )


async def main(folder: Path, wanted: tuple[str, ...], *, docs: bool) -> None:
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    known = rich()

    def grow() -> None:
        beat = 1 + 0.3 * math.sin(known["relay"]["now"] / 7)
        for row in known["sessions"]:
            row["bytes_received"] += int(700_000 * beat) if row["publishing"] else 2_000
            row["bytes_sent"] += int(610_000 * beat) if row["subscriptions"] else 4_000
        for broadcast in known["broadcasts"]:
            for row in broadcast["tracks"]:
                row["received_bytes"] += int(row["rate"] * beat)
                row["received_groups"] += 1
                row["latest"] += 1

    for event in EVENTS:
        event["time"] = NOW - 300 + event["number"] * 11
    async with serving(known, events=EVENTS, history=waves, each=grow) as url:
        for name, scheme, size in product(PAGES, ("light", "dark"), SIZES):
            title = f"{name}-{scheme}-{size}"
            if title not in DOCS if docs else wanted and not title.startswith(wanted):
                continue
            async with tab("about:blank") as page:
                await page.call("Emulation.setScrollbarsHidden", hidden=True)
                await resize(page, size, SIZES[size][1])
                media = [{"name": "prefers-color-scheme", "value": scheme}]
                await page.call("Emulation.setEmulatedMedia", features=media)
                await page.open(f"{url}{PAGES[name]}")
                await page.until("document.querySelector('#status').dataset.status === 'live'")
                await page.until("(window.seen ??= performance.now()) < performance.now() - 2500")
                if docs:
                    await resize(page, size, 1000 if size == "wide" else SIZES[size][1], 0.75)
                    await shoot(page, folder / f"{DOCS[title]}.png")
                    continue
                # the whole page: what is fixed to the bottom of the screen is then at the end
                await resize(page, size, await page.evaluate("document.documentElement.scrollHeight"))
                await shoot(page, folder / f"{title}.png")


async def playing(folder: Path) -> None:
    """`player.png`: the test picture of one page, played by another, over a real relay."""
    async with running() as relay, tab(relay.url) as publisher, tab("about:blank") as page:
        await publisher.until("document.querySelector('#start [data-source=test]').checkVisibility()")
        await publisher.click("#start [data-source=test]")
        await publisher.until("!document.querySelector('[data-publish=go]').disabled")
        await publisher.click("[data-publish=go]")
        await publisher.until("document.querySelector('[data-publish=state]').dataset.state === 'live'")
        await page.call("Emulation.setScrollbarsHidden", hidden=True)
        await resize(page, "wide", 1150, 0.75)
        await page.open(f"{relay.url}#broadcast=live/test")
        await page.until("document.querySelector('[data-play=state]').dataset.state === 'following'")
        await page.until("(window.seen ??= performance.now()) < performance.now() - 6000")
        await shoot(page, folder / "player.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--docs", action="store_true")
    given = parser.parse_args()
    try:
        asyncio.run(main(given.folder, tuple(given.names), docs=given.docs))
        if given.docs:
            asyncio.run(playing(given.folder))
    finally:
        Browser.end()
