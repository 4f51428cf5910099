"""Every page of the dashboard by the rules of axe-core, light and dark; and on a phone, for one hand."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from typing import Final

import pytest

from tests.e2e.browser import Json, chromium_path
from tests.e2e.dashboard_support import Tab, serving, tab
from tests.e2e.harness import npm_modules
from tests.e2e.screenshots import EVENTS, PAGES, SIZES, resize, rich

pytestmark = pytest.mark.skipif(chromium_path() is None, reason="Chromium is not installed")

AXE: Final = "axe-core@4.14.1"

LEAST: Final = 44
"""Pixels of what a finger must meet."""

NARROW: Final = 360
"""Pixels of the narrowest phones."""

SMALL: Final = """
    [...document.querySelectorAll("a[href], button, input, select, summary")]
        .filter((element) => element.checkVisibility() && !element.closest("p, footer, dd, .u-wrap"))  // not in a text
        .map((element) => [element.outerHTML.slice(0, 100), (element.closest("label") ?? element).getBoundingClientRect()])
        .filter(([, { width, height }]) => width > 0 && Math.round(height) < LEAST)
        .map(([html, { width, height }]) => `${Math.round(width)}x${Math.round(height)} ${html}`)
"""


async def show(page: Tab, name: str) -> None:
    """A page of the dashboard in its first complete form."""
    await page.evaluate(f"location.hash = {json.dumps(PAGES[name])}")
    await page.until("document.querySelector('#status').dataset.status === 'live'")
    if name == "session":
        await page.until("document.querySelector('[data-session-page=state]').textContent === 'Connected.'")
    if name in ("overview", "sessions"):
        await page.until("document.querySelectorAll('#sessions [data-session]').length > 5")


def findings(report: Json) -> list[str]:
    return [
        f"{found['id']} ({found['impact']}): {found['help']}: {[node['html'][:120] for node in found['nodes'][:5]]}"
        for found in report["violations"]
        if found["impact"] in ("serious", "critical")
    ]


@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")
async def test_no_page_has_serious_findings() -> None:
    folder = await asyncio.to_thread(npm_modules, AXE)
    rules = await asyncio.to_thread((folder / "axe-core" / "axe.min.js").read_text)
    known = rich()
    del known["sessions"][6:]  # more of the same
    async with serving(known, events=EVENTS) as url, tab(url) as page:
        await page.evaluate(f"{rules}; null")  # beside the page's policy
        found: dict[str, list[str]] = {}
        for size in SIZES if os.environ.get("TEST_FULL") else ("wide",):
            await resize(page, size, SIZES[size][1])
            for scheme in ("light", "dark"):
                await page.call(
                    "Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}]
                )
                for name in PAGES:
                    await show(page, name)
                    only = (
                        "" if scheme == "light" else ", runOnly: ['color-contrast']"
                    )  # the rest is the same
                    report = await page.evaluate(
                        f"axe.run(document, {{resultTypes: ['violations'], preload: false{only}}})"
                    )
                    if serious := findings(report):
                        found[f"{name} {scheme} {size}"] = serious
        assert found == {}
        assert page.complaints == []


async def test_a_narrow_phone_in_one_hand() -> None:
    async with serving(rich(), events=EVENTS) as url, tab("about:blank") as page:
        await page.call(
            "Emulation.setDeviceMetricsOverride", width=NARROW, height=640, deviceScaleFactor=1, mobile=True
        )
        await page.open(url)
        small: dict[str, list[str]] = {}
        for name in PAGES:
            await show(page, name)
            assert await page.evaluate("document.documentElement.scrollWidth") == NARROW, name
            if found := await page.evaluate(SMALL.replace("LEAST", str(LEAST))):
                small[name] = found
        assert small == {}, json.dumps(small, indent=1)
        # one line a session, and its details on tap
        await show(page, "overview")
        row = "document.querySelector('[data-session=\"3\"]')"
        assert await page.evaluate(f"{row}.offsetHeight") < 60
        await page.click("[data-session='3'] .more")
        assert await page.evaluate(f"{row}.offsetHeight") > 150
        assert await page.evaluate(f"{row}.querySelector('.more').ariaExpanded") == "true"
        assert page.complaints == []
