"""The npm package @moq/net in Chromium on drafts of moq-transport, with clients of both families at the other end.

It offers moq-lite 05 and older before the drafts, but not 06: a relay with 06 and one draft speaks that draft with it.
Draft 14 it offers without a subprotocol, in SETUP.
"""

from __future__ import annotations

import asyncio
import shutil

import pytest

from relay.app import Relay
from relay.client import Client, Subscription
from relay.wire.version import AnyVersion, Draft, Version
from tests.e2e.browser import Page, chromium_path
from tests.e2e.harness import WITHIN, npm_modules
from tests.e2e.peers.frames import numbers, payload
from tests.e2e.support import NEW, assert_complete, publisher, running, viewer, webtransport
from tests.sampling import covering, first

PACKAGE = "@moq/net@0.3.4"
GROUPS, FRAMES = 30, 10
MANY = 100
"""Groups: a thousand frames."""

pytestmark = [
    pytest.mark.skipif(chromium_path() is None, reason="Chromium is not installed"),
    pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed: no @moq/net to test with"),
]

DRAFTS = first(Draft.DRAFT_20, Draft.DRAFT_14, Draft.DRAFT_18, Draft.DRAFT_16, count=2)
OLDER = first(Draft.DRAFT_18, Draft.DRAFT_14, Draft.DRAFT_16, count=2)

on_each_draft = pytest.mark.parametrize("draft", DRAFTS, ids=lambda draft: draft.name)
of_each_family = pytest.mark.parametrize(
    ("draft", "family"),
    covering(DRAFTS, ["lite", "ietf"]),
    ids=lambda value: value if isinstance(value, str) else value.name,
)


async def page(
    relay: Relay, role: str, *, groups: int = GROUPS, frames: int = FRAMES, quiet: bool = False
) -> Page:
    folder = await asyncio.to_thread(npm_modules, PACKAGE)
    return Page(
        "net.html",
        modules=folder,
        relay=relay.url,
        broadcast="demo/tab",
        track="video",
        role=role,
        groups=groups,
        frames=frames,
        quiet=int(quiet),
    )


def versions(draft: Draft) -> list[AnyVersion]:
    return [Version.LITE_06, draft]


async def check_session(tab: Page, draft: Draft) -> None:
    assert str((await tab.wait_for("connected"))["version"]).endswith(str(draft.value))


async def frames_of(subscription: Subscription) -> list[tuple[int, list[tuple[int, int] | None]]]:
    """The number of each group, and the numbers that its frames hold."""
    return [
        (group.sequence, [numbers(frame.payload) for frame in await group.read_all()])
        async for group in subscription
    ]


def written(groups: int, frames: int) -> list[tuple[int, list[tuple[int, int] | None]]]:
    return [(group, [(group, frame) for frame in range(frames)]) for group in range(groups)]


@on_each_draft
async def test_moq_rs_watches_a_tab(draft: Draft) -> None:
    async with running(versions=versions(draft)) as relay, await page(relay, "publish") as tab:
        await check_session(tab, draft)
        await tab.wait_for("published")
        async with viewer(NEW, webtransport(relay), "demo/tab", "--frames", GROUPS * FRAMES) as viewing:
            assert_complete(await viewing.wait_for("result"), GROUPS, FRAMES)
        assert tab.count("error") == 0, tab.events


@of_each_family
async def test_a_client_watches_a_tab_until_it_withdraws(draft: Draft, family: str) -> None:
    version = draft if family == "ietf" else Version.LITE_06
    async with (
        asyncio.timeout(WITHIN),
        running(versions=versions(draft)) as relay,
        await Client.connect(relay.url, versions=(version,)) as client,
        await page(relay, "publish") as tab,
    ):
        announced = client.announced()
        await announced.wait_for("demo/tab")
        received = await frames_of(await client.subscribe("demo/tab", "video"))
        assert sorted(received) == written(GROUPS, FRAMES)
        await announced.wait_for("demo/tab", active=False)
        assert [event["track"] for event in tab.find("requested")] == ["video"]
        assert tab.count("error") == 0, tab.events


@pytest.mark.parametrize("draft", OLDER, ids=lambda draft: draft.name)
async def test_a_late_viewer_gets_the_current_group_of_a_tab_from_its_first_frame(draft: Draft) -> None:
    """From the publisher, then from the cache of the relay. On 20 it writes LARGEST_OBJECT with a length: a fault."""
    async with running(versions=versions(draft)) as relay, await page(relay, "hold", groups=3) as tab:
        await tab.wait_for("published")
        for _ in range(2):
            async with viewer(
                NEW, webtransport(relay), "demo/tab", "--frames", FRAMES, "--max-age-ms", 0
            ) as late:
                result = await late.wait_for("result")
            assert result["groups"] == [[2, list(range(FRAMES))]]
        assert tab.count("error") == 0, tab.events


async def check_end(tab: Page, draft: Draft, groups: int) -> None:
    """From 18 on it misses the end of a track: PUBLISH_DONE stays unread before the end of the stream."""
    await tab.wait_for("group", nth=groups)
    if draft < Draft.DRAFT_18:
        await tab.wait_for("ended")


def assert_received(tab: Page, groups: range) -> None:
    received = {group["sequence"]: group["frames"] for group in tab.find("group")}
    assert sorted(received) == list(groups)
    for number, frames in received.items():
        assert frames == [payload(number, frame, 400).hex() for frame in range(FRAMES)]
    assert tab.count("group") == len(groups)
    assert tab.count("error") == tab.count("broken") == 0


@on_each_draft
async def test_a_tab_gets_the_current_group_of_moq_rs_from_its_first_frame(draft: Draft) -> None:
    """The relay comes as late as the tab."""
    shape = ("--groups", 3, "--frames-per-group", FRAMES, "--frame-size", 400)
    async with (
        running(versions=versions(draft)) as relay,
        publisher(NEW, webtransport(relay), "demo/tab", *shape, "--hold", "--wait-for-viewers", 0) as source,
    ):
        await source.wait_for("published")
        async with await page(relay, "watch") as tab:
            await check_session(tab, draft)
            await tab.wait_for("frame", group=2, nth=FRAMES)  # the end of the track would cut it off
            await source.send_line("finish")
            await check_end(tab, draft, 1)
            await source.send_line("unannounce")
            await tab.wait_for("withdrawn")
            assert_received(tab, range(2, 3))


@pytest.mark.parametrize(
    ("draft", "version"),
    [
        (Draft.DRAFT_20, Draft.DRAFT_20),
        (Draft.DRAFT_18, Version.LITE_06),
        (Draft.DRAFT_16, Draft.DRAFT_16),
        (Draft.DRAFT_14, Version.LITE_06),
    ],
    ids=lambda version: version.name,
)
async def test_a_tab_gets_a_thousand_objects(draft: Draft, version: AnyVersion) -> None:
    """Of groups that begin all at once. From 18 on it can subscribe only to a track without objects."""
    async with (
        asyncio.timeout(WITHIN),
        running(versions=versions(draft)) as relay,
        await Client.connect(relay.url, versions=(version,)) as client,
    ):
        publication = client.publish("demo/tab")
        track = publication.track("video", keep=MANY)
        async with await page(relay, "watch", quiet=True) as tab:
            await check_session(tab, draft)
            await tab.wait_for("subscribed")
            await track.used()
            for number in range(MANY):
                group = track.group()
                for frame in range(FRAMES):
                    group.write(payload(number, frame, 400))
                group.finish()
            await tab.wait_for("group", nth=MANY)  # the end of the track would cut them off
            track.finish()
            await check_end(tab, draft, MANY)
            publication.unannounce()
            await tab.wait_for("withdrawn")
            assert_received(tab, range(MANY))
