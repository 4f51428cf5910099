"""`[server] path_aliases`: clients that dial fixed paths meet at `/`."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from relay.client import Client, ConnectError
from relay.transport.client import ClientTls
from relay.wire.version import AnyVersion, Draft, Version
from tests.e2e.harness import WITHIN
from tests.e2e.support import running


@pytest.mark.parametrize(
    ("scheme", "version"),
    [("https", Draft.DRAFT_18), ("moqt", Draft.DRAFT_16), ("ws", Version.LITE_04)],
    ids=lambda value: getattr(value, "name", value),
)
async def test_a_publisher_and_a_viewer_meet(scheme: str, version: AnyVersion) -> None:
    async with running(path_aliases=("/moq", "moq-relay")) as relay, asyncio.timeout(WITHIN):
        base, tls = f"{scheme}://{relay.url.partition('://')[2]}", ClientTls(disable_verify=True)
        async with (
            await Client.connect(base + "moq", versions=(version,), tls=tls) as publisher,
            await Client.connect(base + "moq-relay/", versions=(version,), tls=tls) as viewer,
            await Client.connect(relay.url, versions=(Version.LITE_06,)) as other,
        ):
            track = publisher.publish("demo/cam").track("video")
            for client in (viewer, other):
                await client.announced().wait_for("demo/cam")
            watching = await viewer.subscribe("demo/cam", "video")
            group = track.group()
            group.write(b"frame")
            group.finish()
            assert [frame.payload for frame in await (await anext(watching)).read_all()] == [b"frame"]


async def test_other_paths_stay_what_they_are() -> None:
    async with (
        running(path_aliases=("/moq",)) as relay,
        asyncio.timeout(WITHIN),
        await Client.connect(relay.url + "moq/room") as below,
        await Client.connect(relay.url + "moqs") as beside,
        await Client.connect(relay.url) as viewer,
        aiohttp.ClientSession() as http,
    ):
        below.publish("cam")
        beside.publish("cam")
        announced = viewer.announced()
        await announced.wait_for("moq/room/cam")
        await announced.wait_for("moqs/cam")
        async with http.get(relay.url + "announced/moq") as response:
            assert await response.text() == "room/cam\n"


async def test_the_rights_at_an_alias_are_those_at_the_root() -> None:
    async with running(path_aliases=("/moq",), public="moq") as relay, asyncio.timeout(WITHIN):
        async with await Client.connect(relay.url + "moq") as one, await Client.connect(relay.url) as two:
            one.publish("moq/cam")
            await two.announced().wait_for("moq/cam")
        with pytest.raises(ConnectError):
            await Client.connect(relay.url + "other")
