"""The dashboard's page and files: complete, and with the right headers."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from relay.web import dashboard

BROWSER = {"accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}

Client = TestClient[web.Request, web.Application]


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    app = web.Application()
    app.router.add_get("/", dashboard.landing)
    dashboard.add_dashboard(app)
    async with TestClient(TestServer(app)) as client:
        yield client


def policy(header: str) -> dict[str, list[str]]:
    """Sources by directive."""
    parts = (part.split() for part in header.split(";"))
    return {name: sources for name, *sources in parts}


async def test_a_browser_gets_the_page(client: Client) -> None:
    response = await client.get("/", headers=BROWSER)
    assert response.status == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"
    assert "accept" in response.headers["vary"]
    assert "@DIGEST@" not in await response.text()


@pytest.mark.parametrize("accept", ["*/*", "", "application/json", "text/plain"])
async def test_others_get_the_routes(client: Client, accept: str) -> None:
    response = await client.get("/", headers={"accept": accept})
    assert response.status == 200
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    text = await response.text()
    assert all(route in text for route in ("/certificate.sha256", "/announced/", "/fetch/", "/state"))


async def test_the_page_loads_nothing_but_files_of_the_package(client: Client) -> None:
    page = await (await client.get("/", headers=BROWSER)).text()
    links = re.findall(r'(?:src|href)="([^"#][^"]*)"', page)
    files = [link for link in links if link.startswith("static/")]
    assert {link.rpartition("/")[2] for link in files} >= {
        "dashboard.css",
        "dashboard.js",
        "favicon.svg",
        "uPlot.iife.min.js",
        "uPlot.min.css",
    }
    assert set(links) - set(files) == {"announced/", "certificate.sha256", "state"}
    for link in files:
        response = await client.get(f"/{link}")
        assert response.status == 200, link
        assert response.headers["cache-control"] == dashboard.FOREVER


async def test_every_module_that_is_imported_is_there(client: Client) -> None:
    files = dashboard.site().files
    imported = {
        name
        for file, content in files.items()
        if file.endswith(".js")
        for name in re.findall(r'from "\./([^"]+)"', content.decode())
    }
    assert imported
    assert imported <= files.keys()


async def test_nothing_inline_and_nothing_from_elsewhere(client: Client) -> None:
    response = await client.get("/", headers=BROWSER)
    allowed = policy(response.headers["content-security-policy"])
    assert allowed["default-src"] == ["'none'"]
    assert allowed["script-src"] == allowed["style-src"] == allowed["connect-src"] == ["'self'"]
    page = await response.text()
    assert not re.search(r"<script(?![^>]*\ssrc=)|<style|\son\w+=|\sstyle=|javascript:", page)
    assert "//" not in page
    own = [file for name, file in dashboard.site().files.items() if not name.startswith("uPlot")]
    for markup in (b"innerHTML", b"outerHTML", b"insertAdjacentHTML", b"document.write", b"eval("):
        assert not any(markup in file for file in own), markup


@pytest.mark.parametrize(
    "name, expected",
    [
        ("dashboard.js", "text/javascript; charset=utf-8"),
        ("dashboard.css", "text/css; charset=utf-8"),
        ("favicon.svg", "image/svg+xml; charset=utf-8"),
    ],
)
async def test_types(client: Client, name: str, expected: str) -> None:
    response = await client.get(f"/static/{dashboard.site().digest}/{name}")
    assert response.headers["content-type"] == expected
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "no-referrer"


async def test_a_page_of_another_version_gets_the_files_but_does_not_keep_them(client: Client) -> None:
    response = await client.get("/static/0123456789abcdef/dashboard.js")
    assert response.status == 200
    assert response.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize(
    "path", ["none.js", "index.html", "..%2Fdashboard.py", "%2e%2e/%2e%2e/server.py", "__init__.py", ""]
)
async def test_nothing_else_is_served(client: Client, path: str) -> None:
    response = await client.get(f"/static/{dashboard.site().digest}/{path}")
    assert response.status == 404


def test_the_chart_library_is_the_one_that_is_named() -> None:
    files = dashboard.site().files
    named = re.search(rb"uPlot ([\d.]+)</a>", files[dashboard.PAGE])
    assert named is not None
    assert b"(v" + named[1] + b")" in files["uPlot.iife.min.js"][:100]
    assert b"uplot@" + named[1] in files["uPlot.LICENSE.txt"]
    assert b"MIT License" in files["uPlot.LICENSE.txt"]
