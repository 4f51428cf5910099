"""A publisher on moq-transport at one relay of a cluster, and viewers of every dialect at another."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from relay.wire.version import ALL_VERSIONS, Draft
from tests.e2e.cluster_support import WITHIN, cluster, dial

pytestmark = pytest.mark.virtual


@pytest.mark.parametrize("draft", [Draft.DRAFT_22, Draft.DRAFT_18, Draft.DRAFT_14])
async def test_viewers_of_every_dialect_elsewhere(tmp_path: Path, draft: Draft) -> None:
    async with cluster(tmp_path, 2) as nodes, contextlib.AsyncExitStack() as stack:
        await nodes.settled()
        publisher = await stack.enter_async_context(await dial(nodes[1], versions=(draft,)))
        track = publisher.publish("demo/cam").track("video/hd")
        await nodes.announce(["demo/cam"])
        group = track.group()
        group.write(b"key")
        async with asyncio.timeout(WITHIN):
            viewers = [
                await stack.enter_async_context(await dial(nodes[2], versions=(version,)))
                for version in ALL_VERSIONS
            ]
            subscriptions = [await viewer.subscribe("demo/cam", "video/hd") for viewer in viewers]
            groups = [await anext(subscription) for subscription in subscriptions]
            assert [(await anext(group)).payload for group in groups] == [b"key"] * len(ALL_VERSIONS)
            group.write(b"more")
            group.finish()
            for received in groups:
                assert [frame.payload for frame in await received.read_all()] == [b"more"]
            assert track.subscribers == 1
