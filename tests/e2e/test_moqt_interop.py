"""The interop client of aiomoqt, whose cases are those of the working group's runner, against the relay."""

from __future__ import annotations

import asyncio
import contextlib
import re
from asyncio.subprocess import Process
from collections.abc import AsyncIterator

import pytest

from relay.app import Relay
from relay.client import Client
from relay.wire.version import Draft, Version
from tests.e2e.harness import WITHIN, aiomoqt
from tests.e2e.support import running
from tests.sampling import covering

CASE = re.compile(r"(ok|not ok) \d+ - (\S+)")

CASES = {
    *("setup-only", "announce-only", "publish-namespace-done", "subscribe-error", "rendezvous-timeout"),
    *("announce-subscribe", "subscribe-before-announce", "data-subgroup-basic", "namespace-discovery"),
    *("subscribe-namespace-lifecycle", "publish-track-only", "publish-track-subscribe"),
}


async def results_of(relay: Relay, scheme: str, draft: Draft) -> dict[str, str]:
    """An empty text for each case that passed, else what the client says."""
    folder = await asyncio.to_thread(aiomoqt)
    if folder is None:
        pytest.skip("aiomoqt needs Python 3.12 or newer, and there is none here")
    url = f"{scheme}://127.0.0.1:{relay.port}/"
    process = await asyncio.create_subprocess_exec(
        *(folder / "moq-interop-client", "-r", url, "--tls-disable-verify", "--draft", str(draft.value)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    output, _ = await process.communicate()
    results: dict[str, str] = {}
    failed = ""
    for line in output.decode().splitlines():
        if (found := CASE.match(line)) is not None:
            failed = found[2] if found[1] == "not ok" else ""
            results[found[2]] = failed and "failed"
        elif failed and line.strip().startswith("message:"):
            results[failed] = line.strip()
    return results


def name_of(value: object) -> str:
    return value.name_on_wire if isinstance(value, Draft) else str(value)


@pytest.mark.parametrize(("draft", "scheme"), covering(list(Draft), ["https", "moqt"]), ids=name_of)
async def test_cases_of_the_working_group(draft: Draft, scheme: str) -> None:
    """On draft 14 its WebTransport client offers no subprotocol, and SETUP chooses the version."""
    async with running() as relay:
        results = await results_of(relay, scheme, draft)
    assert set(results) == CASES
    assert {name: why for name, why in results.items() if why} == {}


NUMBERS = re.compile(r"(Objects|Lost|Out-of-order):\s+([\d,]+)")

OBJECTS = ("-s", "1000", "-g", "20", "-P", "2", "-r", "100")
"""Bytes of an object; objects of a group and its subgroups; objects a second."""


@contextlib.asynccontextmanager
async def aio(tool: str, relay: Relay, scheme: str, draft: Draft, *options: str) -> AsyncIterator[Process]:
    folder = await asyncio.to_thread(aiomoqt)
    if folder is None:
        pytest.skip("aiomoqt needs Python 3.12 or newer, and there is none here")
    url = f"{scheme}://127.0.0.1:{relay.port}/"
    common = ("-k", "-N", "demo/cam", "-T", "video", "--draft", str(draft.value))
    process = await asyncio.create_subprocess_exec(
        *(str(folder / tool), url, *common, *options),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


@pytest.mark.parametrize(("draft", "offer"), covering(list(Draft), ["namespace", "track"]), ids=name_of)
async def test_two_subgroups_reach_viewers_of_both_families(draft: Draft, offer: str) -> None:
    """Its publisher announces the namespace, or offers the track. Nothing is lost or out of order."""
    flow = () if offer == "track" else ("--pub-ns",)
    async with (
        running() as relay,
        await Client.connect(relay.url, versions=(Version.LITE_06,)) as viewer,
        aio("moq-pub-bench", relay, "https", draft, *OBJECTS, *flow, "-t", "20"),
    ):
        async with asyncio.timeout(WITHIN):
            await viewer.announced("").wait_for("demo/cam")
            async with aio("moq-sub-bench", relay, "moqt", draft, "-t", "2") as watching:
                subscription = await viewer.subscribe("demo/cam", "video")
                await anext(subscription)
                groups = [await anext(subscription) for _ in range(4)]
                counts = [len(await group.read_all()) for group in groups]
                output, _ = await watching.communicate()
    assert counts == [20] * 4
    assert [group.sequence for group in groups] == list(range(groups[0].sequence, groups[0].sequence + 4))
    numbers = {name: int(value.replace(",", "")) for name, value in NUMBERS.findall(output.decode())}
    assert numbers["Objects"] > 20  # more than a group, on a busy machine too
    assert (numbers["Lost"], numbers["Out-of-order"]) == (0, 0)
