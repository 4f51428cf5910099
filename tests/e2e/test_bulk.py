"""A publisher limited only by its viewer: the connection is always busy, and nothing may be lost."""

from __future__ import annotations

import asyncio
import contextlib

from relay.client import Client, GroupReader
from relay.model.limits import Limits
from relay.quic.trust import ClientTls
from tests.e2e.support import running, webtransport

FRAMES = 3_000
PER_GROUP = 4
SIZE = 20_000
WINDOW = 32
"""Frames in flight."""


async def test_no_frame_is_lost_on_a_line_without_pauses() -> None:
    # the end of a group takes longer than this where newer ones go first, and the viewer does not mind
    limits = Limits(backlog_time=0.1)
    async with (
        running(limits=limits) as relay,
        contextlib.AsyncExitStack() as stack,
    ):
        clients = [
            await stack.enter_async_context(
                await Client.connect(webtransport(relay), tls=ClientTls(disable_verify=True))
            )
            for _ in range(2)
        ]
        publication = clients[0].publish("demo/cam")
        track = publication.track("video")
        async for _ in clients[1].announced():
            break
        subscription = await clients[1].subscribe("demo/cam", "video", max_latency_ms=5_000)
        received: set[int] = set()
        window = asyncio.Semaphore(WINDOW)

        async def read(group: GroupReader) -> None:
            async for frame in group:
                received.add(int.from_bytes(frame.payload[:8], "big"))
                window.release()

        async def watch() -> None:
            async with asyncio.TaskGroup() as readers:
                async for group in subscription:
                    readers.create_task(read(group))

        async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
            tasks.create_task(watch())
            await track.used()
            group = track.group()
            for number in range(FRAMES):
                await window.acquire()
                if number and number % PER_GROUP == 0:
                    group.finish()
                    group = track.group()
                group.write(number.to_bytes(8, "big") + bytes(SIZE))
            group.finish()
            track.finish()
        assert received == set(range(FRAMES))
