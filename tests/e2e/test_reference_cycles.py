"""Sessions that end are freed at once: the garbage collector, which pauses the relay, finds nothing of them."""

from __future__ import annotations

import asyncio
import signal

import aiohttp
import pytest

from relay.client import Client, ClientTls
from relay.wire.version import ALL_VERSIONS, Draft
from tests.e2e.harness import free_udp_port
from tests.e2e.test_command import OPEN, program

# SIGUSR2 prints how much of the relay's only the garbage collector frees.
COUNTING = """
import gc, signal, sys
from collections import Counter

def count(*_):
    gc.set_debug(gc.DEBUG_SAVEALL)
    gc.collect()
    left = Counter(type(thing).__qualname__ for thing in gc.garbage if type(thing).__module__.startswith("relay"))
    gc.set_debug(0)
    gc.garbage.clear()
    print("left", dict(left), flush=True)

signal.signal(signal.SIGUSR2, count)
gc.disable()
from relay.cli import main
sys.exit(main())
"""
DIALECTS = [None, Draft.DRAFT_18, Draft.DRAFT_14]


async def _use(url: str, draft: Draft | None) -> None:
    """One publisher, a viewer that leaves within a group, and one that stays until the publisher has left."""
    versions = ALL_VERSIONS if draft is None else (draft,)
    trusting = ClientTls(disable_verify=True)
    async with await Client.connect(url, versions=versions, tls=trusting) as publisher:
        track = publisher.publish("demo/cam").track("video")
        for _ in range(3):
            async with await Client.connect(url, versions=versions, tls=trusting) as viewer:
                await viewer.announced().wait_for("demo/cam")
                subscription = await viewer.subscribe("demo/cam", "video")
                await track.used()
                for _ in range(4):
                    track.group().write(b"a frame")
                async for group in subscription:
                    async for frame in group:
                        assert frame.payload == b"a frame"
                        break
                    break


@pytest.mark.parametrize("draft", DIALECTS, ids=lambda draft: draft.name_on_wire if draft else "moq-lite-06")
@pytest.mark.parametrize("scheme", ["moqt", "https", "ws"])
async def test_ended_sessions_leave_no_reference_cycle(scheme: str, draft: Draft | None) -> None:
    port, internal = free_udp_port(), free_udp_port()
    own = ("--listen", f"127.0.0.1:{port}", "--internal-listen", f"127.0.0.1:{internal}", *OPEN)
    async with program(COUNTING, *own) as running, aiohttp.ClientSession() as http:
        await running.line("certificate sha256")
        running.process.send_signal(signal.SIGUSR2)
        await running.line("^left")  # of the start
        await _use(f"{scheme}://127.0.0.1:{port}/", draft)
        while True:
            async with http.get(f"http://127.0.0.1:{internal}/metrics") as answer:
                text = await answer.text()
            if "moq_relay_quic_connections 0.0" in text and "moq_relay_sessions{" not in text:
                break
            await asyncio.sleep(0.1)
        running.out.clear()
        running.process.send_signal(signal.SIGUSR2)
        left = await running.line("^left.*")
        assert left[0] == "left {}"
