"""Native sessions of the soak: each publishes or watches a broadcast for some seconds."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from typing import Any

import moq

from bench.load import clients
from bench.load.talk import Orders, say

LONGEST_STAY = 15.0
TRACKS = ("audio", "video")


class Guests:
    """All sessions of this process: `own` is published, `paths` are watched."""

    def __init__(self, job: dict[str, Any]) -> None:
        self._job = job
        self._random = random.Random(job["seed"])
        self.counts: Counter[str] = Counter()

    async def keep(self, slot: int) -> None:
        """Session after session."""
        act = self._publish if slot == 0 else self._watch
        while True:
            try:
                async with asyncio.timeout(self._random.uniform(1, LONGEST_STAY)):
                    await act()
            except TimeoutError:
                pass
            except moq.Error:
                self.counts["native sessions with an error"] += 1
                await asyncio.sleep(0.5)

    async def _publish(self) -> None:
        client = await self._enter(clients.dial(self._job["url"], publish=moq.OriginProducer()))
        try:
            broadcast = client.create_broadcast(self._job["own"])
            tracks = [broadcast.publish_track(name, moq.TrackInfo(max_age_us=1_000_000)) for name in TRACKS]
            broadcast.announce()
            while True:
                for track in tracks:
                    group = track.append_group()
                    for _ in range(self._random.choice((1, 2))):
                        group.write_frame(bytes(self._random.randrange(200)), time.monotonic_ns() // 1000)
                    group.finish()
                    self.counts["native groups written"] += 1
                await asyncio.sleep(1 / self._job["rate"])
        finally:
            await clients.leave(client)

    async def _watch(self) -> None:
        client = await self._enter(clients.dial(self._job["url"], subscribe=moq.OriginProducer()))
        try:
            async with asyncio.TaskGroup() as watching:
                for _ in range(self._random.choice((1, 2))):
                    watching.create_task(self._read(client))
        except* moq.Error:
            self.counts["native sessions with an error"] += 1
        finally:
            await clients.leave(client)

    async def _read(self, client: Any) -> None:
        while True:
            path = self._random.choice(self._job["paths"])
            try:
                async with asyncio.timeout(self._random.uniform(0.2, 6)):
                    track = await clients.subscribe(client, path, self._random.choice(TRACKS), keep_us=0)
                    while (group := await track.recv_group()) is not None:
                        while await group.read_frame() is not None:
                            pass
                        self.counts["native groups read"] += 1
            except TimeoutError:
                pass
            except moq.Error:
                self.counts["native reads ended"] += 1
                await asyncio.sleep(0.2)

    async def _enter(self, client: Any) -> Any:
        await clients.enter(client)
        self.counts["native sessions"] += 1
        return client


async def guests(job: dict[str, Any], orders: Orders) -> None:
    """At the order `end`, close all and report."""
    hosts = Guests(job)
    tasks = [asyncio.create_task(hosts.keep(slot)) for slot in range(job["sessions"])]
    say(event="ready")
    ended = asyncio.create_task(orders.next())
    done, _ = await asyncio.wait([ended, *tasks], return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    if ended not in done:
        await done.pop()  # a slot ends only by a fault: raise it here
    say(event="left", counts=dict(hosts.counts))
