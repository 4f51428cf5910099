"""Access of web pages to answers: all pages on the public address, none on the operator's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest
from yarl import URL

from relay.app import Relay
from relay.config import Config
from tests.e2e.http_support import IMPATIENT
from tests.e2e.support import config

ROUTES = ("state", "announced/", "metrics", "fetch/demo/cam/video/hd", "health", "", "nothing/here")


def known_as(base: Config, *names: str) -> Config:
    """The configuration with further host names for the operator's address."""
    return base.model_copy(update={"internal": base.internal.model_copy(update={"hosts": names})})


@pytest.fixture
async def relay() -> AsyncIterator[Relay]:
    async with Relay(known_as(config(limits=IMPATIENT), "ops.example")) as relay:
        yield relay


async def ask(url: str, method: str = "GET", **headers: str) -> tuple[int, str, dict[str, str]]:
    async with (
        aiohttp.ClientSession() as session,
        session.request(
            method, url, headers={name.replace("_", "-"): value for name, value in headers.items()}
        ) as response,
    ):
        found = {name.lower(): value for name, value in response.headers.items()}
        return response.status, await response.text(), found


def authority(url: str) -> str:
    return str(URL(url).authority)


@pytest.mark.parametrize("route", ROUTES)
async def test_the_operators_address_gives_nothing_to_pages_of_others(relay: Relay, route: str) -> None:
    url = f"{relay.internal_url}{route}"
    _, _, headers = await ask(url)
    assert not [name for name in headers if name.startswith("access-control-")]
    assert headers["cross-origin-resource-policy"] == "same-origin"
    port = URL(url).port
    for foreign in (
        {"origin": "https://evil.example"},
        {"origin": f"http://localhost:{port + 1 if port else 0}"},
        {"origin": "null"},
        {"host": f"rebound.evil.example:{port}"},
        {"host": f"localhost.evil.example:{port}"},
        {"host": f"evil.example@localhost.evil:{port}"},
        {"host": "notlocalhost"},
        {"host": ""},
        {"sec_fetch_site": "cross-site", "sec_fetch_mode": "no-cors"},
        {"sec_fetch_site": "same-site", "sec_fetch_mode": "cors"},
    ):
        for method in ("GET", "OPTIONS", "POST"):
            status, text, headers = await ask(url, method, **foreign)
            assert status == 403, (foreign, method)
            assert text.startswith("forbidden: "), foreign
            assert text.count("\n") == 1
            assert not [name for name in headers if name.startswith("access-control-")]


async def test_the_operator_is_served_as_before(relay: Relay) -> None:
    url = f"{relay.internal_url}state"
    port = URL(url).port
    for own in (
        {},
        {"origin": f"http://{authority(url)}"},
        {"host": f"127.0.0.1:{port}"},
        {"host": f"[::1]:{port}"},
        {"host": "192.0.2.7", "origin": "http://192.0.2.7"},
        {"host": f"LOCALHOST:{port}"},
        {"host": f"relay.localhost:{port}"},
        {"host": "ops.example"},
        {"host": "Ops.Example.:8080"},
        {"origin": "https://ops.example"},  # a reverse proxy that sets Host to our address
        {"sec_fetch_site": "same-origin", "sec_fetch_mode": "cors"},
        {"sec_fetch_site": "none", "sec_fetch_mode": "navigate"},
        {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"},
    ):
        status, _, headers = await ask(url, **own)
        assert status == 200, own
        assert "access-control-allow-origin" not in headers


async def test_a_refusal_names_what_was_wrong_and_what_would_be_right(relay: Relay) -> None:
    _, text, _ = await ask(f"{relay.internal_url}state", host="relay.example:5443")
    assert "Host 'relay.example:5443'" in text
    assert "[internal] hosts" in text


async def test_names_may_change_at_a_reload() -> None:
    base = config()
    async with Relay(known_as(base, "ops.example")) as relay:
        url = f"{relay.internal_url}health"
        assert (await ask(url, host="later.example"))[0] == 403
        relay.reload(known_as(base, "later.example"))
        assert (await ask(url, host="later.example"))[0] == 200
        assert (await ask(url, host="ops.example"))[0] == 403


@pytest.mark.parametrize(
    "route", ["announced/", "certificate.sha256", "fetch/demo/x/y", "nothing/here", "state"]
)
async def test_the_public_routes_stay_open_to_pages_of_any_origin(relay: Relay, route: str) -> None:
    for foreign in (
        {"origin": "https://page.example"},
        {"host": "relay.example", "sec_fetch_site": "cross-site"},
    ):
        status, _, headers = await ask(f"{relay.url}{route}", **foreign)
        assert status != 403
        assert headers["access-control-allow-origin"] == "*"
        assert "origin" in headers["vary"]
    status, _, headers = await ask(f"{relay.url}{route}", "OPTIONS", origin="https://page.example")
    assert (status, headers["access-control-allow-methods"]) == (200, "GET")


async def test_a_request_without_a_host_is_no_web_page(relay: Relay) -> None:
    """Health checks of load balancers use HTTP/1.0; browsers always send Host."""
    reader, writer = await asyncio.open_connection("127.0.0.1", URL(relay.internal_url).port)
    try:
        writer.write(b"GET /health HTTP/1.0\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.0 200 OK\r\n")
    finally:
        writer.close()
