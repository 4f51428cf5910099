"""Activity of one session of the crowd: publish, watch, announcements. `crowd` ends it, at any moment.

One random generator makes the choices. Answers of the relay are counted; other exceptions are faults.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from relay.client import (
    Client,
    FetchError,
    GroupAborted,
    Publication,
    SubscribeError,
    Subscription,
    TrackInfoError,
    TrackWriter,
)
from relay.wire.version import Version

TRACKS: Final = ("audio", "video")
HUGE: Final = 50_000
"""Bytes of an occasional frame, above every window and packet."""

BEHIND: Final = 0.5
"""Most seconds that a writer catches up after a pause of its process."""


@dataclass
class Crowd:
    """Shared by all guests of a process."""

    random: random.Random
    paths: list[str]
    rate: float
    """Groups per second of one track."""
    counts: Counter[str] = field(default_factory=Counter)

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability


async def publish(crowd: Crowd, client: Client, path: str) -> None:
    """Write requested tracks; sometimes withdraw the broadcast and announce it again."""
    publication = client.publish(path)
    async with asyncio.TaskGroup() as writing:
        for name in TRACKS:
            writing.create_task(_write(crowd, publication, name))
        while True:
            await asyncio.sleep(crowd.random.uniform(0.5, 4))
            publication.unannounce()
            await asyncio.sleep(crowd.random.choice((0, 0, 0.02, 0.5)))
            publication.announce()
            crowd.counts["announced again"] += 1


async def _write(crowd: Crowd, publication: Publication, name: str) -> None:
    loop = asyncio.get_running_loop()
    track = publication.track(name)
    due = 0.0
    while True:
        if not track.subscribers:
            await track.used()
        _write_group(crowd, track)
        if crowd.chance(0.001):
            track.finish() if crowd.chance(0.5) else track.abort()
            track = publication.track(name)
            crowd.counts["tracks ended"] += 1
        due = max(due, loop.time() - BEHIND) + 1 / crowd.rate
        await asyncio.sleep(max(0.0, due - loop.time()))


def _write_group(crowd: Crowd, track: TrackWriter) -> None:
    group = track.group()
    size = HUGE if crowd.chance(0.001) else crowd.random.randrange(200)
    for _ in range(crowd.random.choice((1, 1, 1, 2, 3))):
        group.write(bytes(size))
    if crowd.chance(0.01):
        group.start_frame(100)
        group.write_chunk(b"half of it")
        group.abort()
        crowd.counts["groups aborted"] += 1
    else:
        group.finish()
    crowd.counts["groups written"] += 1


async def watch(crowd: Crowd, client: Client) -> None:
    """One to three tracks at a time, for a while each."""
    async with asyncio.TaskGroup() as watching:
        for _ in range(crowd.random.choice((1, 2, 3))):
            watching.create_task(_watch(crowd, client))


async def _watch(crowd: Crowd, client: Client) -> None:
    choose = crowd.random
    while True:
        path, name = choose.choice(crowd.paths), choose.choice((*TRACKS, *TRACKS, *TRACKS, "none"))
        try:
            subscription = await client.subscribe(
                path, name, priority=choose.randrange(256), ordered=crowd.chance(0.5),
                max_latency_ms=choose.choice((0, 0, 100, 2000)), describe=crowd.chance(0.5),
                wait=crowd.chance(0.8),
            )  # fmt: skip
        except SubscribeError:
            crowd.counts["subscriptions refused"] += 1
            await asyncio.sleep(0.2)
            continue
        crowd.counts["subscriptions"] += 1
        try:
            async with asyncio.timeout(choose.uniform(0.1, 10)):
                await _read(crowd, client, subscription)
        except TimeoutError:
            pass
        except SubscribeError:
            crowd.counts["subscriptions ended by the relay"] += 1
            await asyncio.sleep(0.1)
        if not subscription.finished:
            if crowd.chance(0.3):
                subscription.reset()
            else:
                await subscription.close()


async def _read(crowd: Crowd, client: Client, subscription: Subscription) -> None:
    async for group in subscription:
        crowd.counts["groups begun"] += 1
        if crowd.chance(0.01):
            group.stop()
            continue
        try:
            await group.read_all()
        except GroupAborted:
            crowd.counts["groups lost"] += 1
            continue
        crowd.counts["groups read"] += 1
        if crowd.chance(0.01) and client.version >= Version.LITE_03:
            subscription.update(priority=crowd.random.randrange(256))
        if crowd.chance(0.02) and client.version >= Version.LITE_05:
            await _fetch(crowd, client, subscription, group.sequence)


async def _fetch(crowd: Crowd, client: Client, subscription: Subscription, sequence: int) -> None:
    request = subscription.request
    back = crowd.random.choice((0, 1, 10, 1000))
    try:
        await client.fetch(request.broadcast, request.track, max(0, sequence - back))
        crowd.counts["fetches"] += 1
    except FetchError:
        crowd.counts["fetches refused"] += 1


async def listen(crowd: Crowd, client: Client) -> None:
    """Watch announcements, and stop; request tracks, and bandwidth estimates."""
    choose = crowd.random
    while True:
        announced = client.announced(choose.choice(("", "soak", "soak/1", "none")))
        try:
            async with asyncio.timeout(choose.uniform(0.05, 5)):
                async for _ in announced:
                    crowd.counts["announcements"] += 1
        except TimeoutError:
            announced.close()
        if client.version >= Version.LITE_05:
            try:
                await client.track_info(choose.choice(crowd.paths), choose.choice((*TRACKS, "none")))
            except TrackInfoError:
                crowd.counts["tracks unknown"] += 1
