"""The interop client of aiomoqt, whose cases are those of the working group's runner, against the relay."""

from __future__ import annotations

import asyncio
import re

import pytest

from relay.app import Relay
from relay.wire.version import Draft
from tests.e2e.harness import aiomoqt
from tests.e2e.support import running

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


@pytest.mark.parametrize("scheme", ["https", "moqt"])
@pytest.mark.parametrize("draft", Draft, ids=lambda draft: draft.name_on_wire)
async def test_cases_of_the_working_group(draft: Draft, scheme: str) -> None:
    """On draft 14 its WebTransport client offers no subprotocol, and SETUP chooses the version."""
    async with running() as relay:
        results = await results_of(relay, scheme, draft)
    assert set(results) == CASES
    assert {name: why for name, why in results.items() if why} == {}
