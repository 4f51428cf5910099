"""Chromium's WebTransport, with the certificate pinned by the relay's fingerprint."""

from __future__ import annotations

from dataclasses import replace

import pytest

from relay.wire.version import Version
from tests.e2e.browser import Page, chromium_path
from tests.e2e.peers.frames import payload
from tests.e2e.support import PATIENT, publisher, running, webtransport

pytestmark = pytest.mark.skipif(
    chromium_path() is None, reason="Chromium is not installed: tests/e2e/install-chromium.sh installs it"
)


@pytest.mark.parametrize("opening", ["0x20", "0x40", "0x00"])
async def test_chromium_reads_a_group(opening: str) -> None:
    """Without a subprotocol the three SETUP openings decide the version."""
    # One group: of several, a newer one may arrive first.
    options = ("--groups", 1, "--frames-per-group", 3, "--frame-size", 40, "--pause", "first-frame")
    async with (
        running() as relay,
        publisher("0.5.1", webtransport(relay), "demo/cam", *options) as source,
        Page(
            "webtransport.html", relay=relay.url, broadcast="demo/cam", track="video", opening=opening
        ) as page,
    ):
        certificate = await page.wait_for("certificate")
        assert certificate["hash"] == relay.fingerprint
        await page.wait_for("first_frame")
        await source.send_line("go")
        group = await page.wait_for("group")
        assert group["frames"] == [payload(0, frame, 40).hex() for frame in range(3)]
        assert page.count("error") == 0


async def test_chromium_is_refused_with_401_before_accept() -> None:
    async with (
        running(public="anon") as relay,
        Page("webtransport.html", relay=f"{relay.url}secret", broadcast="cam", track="video") as page,
    ):
        error = await page.wait_for("error")
        assert error["step"] == "connect"


async def test_chromium_on_the_oldest_version_alone() -> None:
    options = ("--groups", 1, "--frames-per-group", 2, "--frame-size", 40, "--wait-for-viewers", 1)
    async with (
        running(versions=[Version.LITE_01]) as relay,
        publisher("0.3.3", webtransport(relay), "demo/cam", *options),
        Page("webtransport.html", relay=relay.url, broadcast="demo/cam", track="video") as page,
    ):
        group = await page.wait_for("group")
        assert group["frames"] == [payload(0, frame, 40).hex() for frame in range(2)]


async def test_chromium_proves_its_address() -> None:
    options = ("--groups", 1, "--frames-per-group", 2, "--frame-size", 40, "--wait-for-viewers", 1)
    async with (
        running(limits=replace(PATIENT, handshakes_unverified=0)) as relay,
        publisher("0.5.1", webtransport(relay), "demo/cam", *options),
        Page("webtransport.html", relay=relay.url, broadcast="demo/cam", track="video") as page,
    ):
        group = await page.wait_for("group")
        assert group["frames"] == [payload(0, frame, 40).hex() for frame in range(2)]
        assert relay._quic is not None
        assert relay._quic.refused["handshakes_unverified"] >= 2
        assert relay._quic.refused["invalid_token"] == 0
