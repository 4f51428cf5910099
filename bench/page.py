"""The dashboard stays open while sessions come and go: what the page costs the relay, and whether its heap grows.

    python -m bench.page --minutes 10

First 50 sessions rest, without the page and with it: the difference of the relay's CPU is the page. Then they come and
go, and every minute the tool opens each page, returns to the overview, collects garbage and prints the heap. It fails
if the heap has grown in the second half, or if the page costs more than a hundredth of a core.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from statistics import mean
from typing import Final

from relay.client import Client, ConnectError, SessionEnded
from tests.e2e.browser import Browser
from tests.e2e.dashboard_support import Tab, tab
from tests.e2e.harness import free_udp_port
from tests.e2e.test_command import OPEN, relay

SESSIONS: Final = 50
REST: Final = 60.0  # seconds of each measurement of the CPU
STAY: Final = (5.0, 20.0)  # seconds of a session
MOST_CPU: Final = 0.01  # of a core, for one page
MOST_GROWTH: Final = (
    0.05  # of the heap, in the second half: the page keeps the last five minutes of each session
)
PAGES: Final = ("#events", "#cluster", "#words", "#session=1", "#")
NEWEST: Final = """Math.max(0, ...[...document.querySelectorAll('#sessions [data-session]')]
    .map((row) => Number(row.dataset.session)))"""
TICK: Final = os.sysconf("SC_CLK_TCK")


def cpu_time(pid: int) -> float:
    """Seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


async def share_of_core(pid: int) -> float:
    begin, since = cpu_time(pid), time.monotonic()
    await asyncio.sleep(REST)
    return (cpu_time(pid) - begin) / (time.monotonic() - since)


async def publish(url: str, path: str) -> None:
    async with await Client.connect(url) as client:
        track = client.publish(path).track("video/hd")
        while True:
            group = track.group()
            for _ in range(10):
                group.write(random.randbytes(2_000))
                await asyncio.sleep(0.1)
            group.finish()


async def visit(url: str, *, forever: bool) -> None:
    """Sessions one after another, or one that stays."""
    while True:
        with contextlib.suppress(ConnectError, SessionEnded, OSError, TimeoutError):
            async with await Client.connect(url) as client:
                subscription = await client.subscribe(f"demo/{random.randrange(4)}", "video/hd")
                async with asyncio.timeout(None if forever else random.uniform(*STAY)):
                    async for group in subscription:
                        async for _ in group:
                            pass


@contextlib.asynccontextmanager
async def crowd(url: str, *, forever: bool) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(publish(url, f"demo/{number}")) for number in range(4)]
    await asyncio.sleep(2)
    tasks += [asyncio.create_task(visit(url, forever=forever)) for _ in range(SESSIONS - 4)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def heap(page: Tab) -> tuple[int, int]:
    """Bytes in use after a collection, and the nodes of the document."""
    for _ in range(2):
        await page.call("HeapProfiler.collectGarbage")
    usage = await page.call("Runtime.getHeapUsage")
    counters = await page.call("Memory.getDOMCounters")
    return int(usage["usedSize"]), int(counters["nodes"])


async def main(minutes: int) -> int:
    port, internal = free_udp_port(), free_udp_port()
    url, dashboard = f"http://localhost:{port}/", f"http://localhost:{internal}/"
    listen = ("--listen", f"localhost:{port}", "--internal-listen", f"localhost:{internal}")
    async with relay(*listen, *OPEN) as command:
        await command.line("try it")
        pid = command.process.pid
        async with crowd(url, forever=True):
            await asyncio.sleep(5)
            alone = await share_of_core(pid)
            async with tab(dashboard) as page:
                await asyncio.sleep(10)
                watched = await share_of_core(pid)
                shown = await page.text("[data-total=sessions]")
        print(f"{shown} sessions rest: {alone:.2%} of a core, {watched:.2%} with the page")
        cost = watched - alone
        found, newest = list[int](), 0
        async with crowd(url, forever=False), tab(dashboard) as page:
            for minute in range(minutes):
                for address in PAGES:
                    await page.evaluate(f"location.hash = '{address}'")
                    await asyncio.sleep(2)
                await asyncio.sleep(60 - 2 * len(PAGES))
                used, nodes = await heap(page)
                found.append(used)
                total = await page.text("[data-total=sessions]")
                newest = max(newest, await page.evaluate(NEWEST))
                print(
                    f"minute {minute + 1}: heap {used / 1e6:.2f} MB, {nodes} nodes, {total} sessions; "
                    f"{newest} came so far",
                    flush=True,
                )
            assert page.complaints == []
    half = len(found) // 2
    quarter = max(1, half // 2)
    growth = mean(found[-quarter:]) / mean(found[half : half + quarter]) - 1
    print(f"the page costs {cost:.2%} of a core; its heap grew by {growth:.1%} in the second half")
    return int(cost > MOST_CPU or growth > MOST_GROWTH)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=int, default=10)
    try:
        code = asyncio.run(main(parser.parse_args().minutes))
    finally:
        Browser.end()
    sys.exit(code)
