"""What the operator sees and does by HTTP: history, events, health, and closing sessions. Requests are curl's."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from relay.app import Relay
from relay.client import Client, SessionEnded
from relay.model.limits import Limits
from relay.quic.trust import ClientTls
from relay.web.history import NAMES
from tests.clock import RUNTIME
from tests.e2e.http_support import WITHIN, guarded, published, stage, token
from tests.e2e.support import raw, webtransport

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")

ANYONE = ClientTls(disable_verify=True)


async def curl(url: str, *options: str) -> tuple[int, str]:
    """Status and body."""
    process = await asyncio.create_subprocess_exec(
        *("curl", "--silent", "--max-time", str(WITHIN), "--write-out", "\n%{http_code}", *options, url),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    body, _, status = output.decode().rpartition("\n")
    return int(status), body


async def get(relay: Relay, route: str) -> Any:
    status, body = await curl(relay.internal_url + route)
    assert status == 200, body
    return json.loads(body)


async def events(relay: Relay, kind: str, number: int = 1) -> list[dict[str, Any]]:
    """The first `number` events of a kind, or more."""
    async with asyncio.timeout(WITHIN):
        while True:
            found = [event for event in (await get(relay, "events"))["events"] if event["kind"] == kind]
            if len(found) >= number:
                return found


# --- closing a session ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", ["quic", "webtransport", "websocket"])
async def test_the_operator_closes_a_session(transport: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "relay")
    async with stage() as (relay, _):
        urls = {
            "quic": raw(relay),
            "webtransport": webtransport(relay),
            "websocket": relay.url.replace("http:", "ws:"),
        }
        async with (
            await Client.connect(urls[transport], tls=ANYONE) as client,
            await Client.connect(urls[transport], tls=ANYONE) as other,
        ):
            assert [row["transport"] for row in (await get(relay, "state"))["sessions"]] == [transport] * 2
            status, body = await curl(f"{relay.internal_url}sessions/1/close", "-X", "POST")
            assert (status, body) == (200, "session 1 is closed\n")
            async with asyncio.timeout(WITHIN):
                closed = await client.closed()
            assert (closed.code, closed.reason, closed.by_peer) == (0, "closed by the operator", True)
            (left,) = await events(relay, "left")
            assert (left["session"], left["reason"]) == (1, "closed by the operator")
            assert left["remote"].startswith("127.0.0.1:")
            assert [row["session"] for row in (await get(relay, "state"))["sessions"]] == [2]
            assert other.ended is None
    lines = [line for line in caplog.messages if line.startswith("[session 1]")]
    assert "[session 1] the operator closes a session remote=127.0.0.1" in lines
    assert any("closed by=relay code=0 reason='closed by the operator'" in line for line in lines)


async def test_what_cannot_be_closed_is_said() -> None:
    async with stage() as (relay, _):
        url = f"{relay.internal_url}sessions/"
        for number in ("7", "0", "x", "-1", "1e3", "9" * 30, "%F0%9F%92%A9"):
            status, body = await curl(f"{url}{number}/close", "-X", "POST")
            assert status == 404, number
            assert body.startswith("no session '")
            assert body.endswith(": /state lists their numbers\n")
        for method in ("GET", "PUT", "DELETE"):
            status, body = await curl(f"{url}1/close", "-X", method)
            assert (status, body) == (405, f"{method} is not possible here, only POST\n")


async def test_no_page_of_another_origin_closes_a_session() -> None:
    async with stage() as (relay, _), await Client.connect(relay.url) as client:
        url = f"{relay.internal_url}sessions/1/close"
        for header in (
            "origin: null",
            "origin: https://evil.example",
            "host: evil.example",
            "sec-fetch-site: cross-site",
        ):
            status, body = await curl(url, "-X", "POST", "-H", header)
            assert status == 403, header
            assert body.startswith("forbidden: ")
        form = ("-X", "POST", "-H", "sec-fetch-site: cross-site", "-H", "sec-fetch-mode: navigate")
        assert (await curl(url, *form))[0] == 403
        status, _ = await curl(f"{relay.url}sessions/1/close", "-X", "POST")
        assert status == 404  # the public address has no such route
        assert client.ended is None
        assert (await curl(url, "-X", "POST", "-H", f"origin: {relay.internal_url.rstrip('/')}"))[0] == 200
        with pytest.raises(SessionEnded, match="closed by the operator"):
            async with asyncio.timeout(WITHIN):
                await client.until(lambda: False)


# --- events --------------------------------------------------------------------------------------------------------


async def test_events_of_a_session_and_its_broadcast() -> None:
    async with stage() as (relay, _):
        async with published(relay, "demo/cam") as (_, publication):
            found = (await get(relay, "events"))["events"]
            assert [(event["kind"], event["session"], event["path"]) for event in found] == [
                ("joined", 1, "/"),
                ("announced", 1, "demo/cam"),
            ]
            publication.close()
            (ended,) = await events(relay, "ended")
            assert (ended["session"], ended["path"]) == (1, "demo/cam")
        (left,) = await events(relay, "left")
        assert left["reason"].startswith("closed by the peer, code 0")
        later = (await get(relay, f"events?after={ended['number']}"))["events"]
        assert [event["kind"] for event in later] == ["left"]
        status, body = await curl(f"{relay.internal_url}events?after=now")
        assert (status, body) == (400, "after='now': expected the number of an event\n")


async def test_a_client_refused_again_and_again_is_one_event_without_its_token(tmp_path: Path) -> None:
    async with Relay(guarded(tmp_path), RUNTIME) as relay:
        secret = token(root="demo", get=[""], exp=1_000)
        for _ in range(5):
            status, _ = await curl(f"{relay.url}announced/demo?jwt={secret}")
            assert status == 401
        async with await Client.connect(f"{relay.url}demo?jwt={token(root='demo', get=[''])}") as client:
            assert client.ended is None
            (refused,) = [e for e in await events(relay, "refused") if e["reason"].startswith("unauth")]
        assert refused["reason"] == "unauthorized: token expired"
        assert refused["remote"] == "127.0.0.1"
        status, body = await curl(f"{relay.internal_url}events")
        assert secret not in body


async def test_a_drain_is_an_event() -> None:
    async with stage(limits=Limits(drain=0.01)) as (relay, _), await Client.connect(relay.url):
        await relay.drain()
        (drain,) = await events(relay, "drain")
        assert drain["reason"] == "1 sessions, 0 readers, at most 0.01 s"
        reasons = (await get(relay, "state"))["health"]["reasons"]
        assert [reason["kind"] for reason in reasons] == ["draining"]
        assert reasons[0]["doc"] == "docs/operations.md#the-relay-drains"


# --- history, health, rights ---------------------------------------------------------------------------------------


async def test_history_has_samples_from_the_start_on() -> None:
    async with stage() as (relay, _), asyncio.timeout(WITHIN):
        while True:
            history = await get(relay, "history")
            assert set(history) == {"now", "recent", "day"}
            assert set(history["recent"]["values"]) == set(NAMES) == set(history["day"]["values"])
            if history["recent"]["values"]["sessions"]:
                break
        assert history["recent"]["end"] <= history["now"]


async def test_health_is_part_of_the_state() -> None:
    async with stage() as (relay, _):
        state = await get(relay, "state")
        assert list(state)[:3] == ["relay", "health", "totals"]
        figures = state["health"]["figures"]
        assert figures["certificate_days"] > 10
        assert figures["draining"] is False
        assert state["health"]["well"] is (not state["health"]["reasons"])
        assert (await get(relay, "state/demo"))["health"] is None


async def test_the_public_address_shows_them_to_a_token_that_sees_everything(tmp_path: Path) -> None:
    async with Relay(guarded(tmp_path, public="demo"), RUNTIME) as relay:
        everything, part = token(root="", get=[""]), token(root="", get=["demo"])
        for route, what in (("history", "the history is"), ("events", "the events are")):
            status, body = await curl(f"{relay.url}{route}")
            expected = f"unauthorized: {what} shown on the internal address, or with a token (?jwt=)\n"
            assert (status, body) == (401, expected)
            assert (await curl(f"{relay.url}{route}?jwt={part}"))[0] == 401
            status, body = await curl(f"{relay.url}{route}?jwt={everything}")
            assert status == 200
            assert json.loads(body)
        status, body = await curl(f"{relay.url}state?jwt={everything}")
        assert json.loads(body)["health"]["figures"]
        status, body = await curl(f"{relay.url}state?jwt={part}")
        assert json.loads(body)["health"] is None


async def test_a_row_of_a_session_says_when_its_token_ends(tmp_path: Path) -> None:
    async with Relay(guarded(tmp_path), RUNTIME) as relay:
        expires = round(RUNTIME.wall_time()) + 1_000
        url = f"{relay.url}demo?jwt={token(root='demo', get=[''], exp=expires)}"
        async with await Client.connect(url):
            (row,) = (await get(relay, "state"))["sessions"]
            assert row["expires"] == expires
            assert row["window"] > 0
            assert row["lost"] == 0
            assert row["skipped"] == 0


def test_the_kernel_counts_what_it_drops() -> None:
    """Only Linux says so; there a full buffer drops, and the count is of that socket alone."""
    import socket

    from relay.quic.offload import receive_drops

    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as full,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other,
    ):
        full.bind(("127.0.0.1", 0))
        full.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        if receive_drops(full) is None:
            pytest.skip("this platform does not count")
        assert receive_drops(full) == 0
        for _ in range(100):
            other.sendto(b"x" * 1_000, full.getsockname())
        found = receive_drops(full)
        assert found is not None
        assert 50 < found <= 100
        assert receive_drops(other) == 0
