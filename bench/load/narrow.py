"""One broadcast of video and audio, and one viewer of both, in one process: for use behind a bottleneck."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import moq

from bench.load import clients
from bench.load.publisher import pace
from bench.load.talk import STAMP, Orders, now, say

TRACKS = ("video", "audio")
LAST_S = 1.0
"""After the window, for frames in flight."""


async def narrow(job: dict[str, Any], orders: Orders) -> None:
    """Publish to `url`, watch at `watch`, and report arrival and age of each frame, in ns."""
    publisher = await clients.enter(clients.dial(job["url"], publish=moq.OriginProducer()))
    broadcast = publisher.create_broadcast(job["broadcast"])
    tracks = {
        name: broadcast.publish_track(name, moq.TrackInfo(max_age_us=clients.KEEP_US)) for name in TRACKS
    }
    broadcast.announce()
    viewer = await clients.enter(clients.dial(job["watch"], subscribe=moq.OriginProducer()))
    found = await viewer.announced_broadcast(job["broadcast"])
    arrivals: dict[str, list[tuple[int, int]]] = {}
    watches = []
    for name in TRACKS:
        asked = moq.Subscription(priority=job[name]["priority"], max_age_us=job["patience_us"])
        arrivals[name] = []
        watches.append(asyncio.create_task(_watch(await found.subscribe_track(name, asked), arrivals[name])))
    await asyncio.sleep(0.5)  # subscriptions are sent when they are first read
    say(event="ready")
    order = await orders.next()
    written = await asyncio.gather(*(pace(tracks[name], job[name], order, 0.0) for name in TRACKS))
    await asyncio.sleep(LAST_S)
    say(
        event="watched",
        written={name: count for name, (count, _) in zip(TRACKS, written, strict=True)},
        arrivals=arrivals,
    )
    for watch in watches:
        watch.cancel()
    await asyncio.gather(*watches, return_exceptions=True)
    await clients.leave(viewer)
    await clients.leave(publisher)


async def _watch(track: Any, arrivals: list[tuple[int, int]]) -> None:
    async with asyncio.TaskGroup() as readers:
        while (group := await track.recv_group()) is not None:
            readers.create_task(_read(group, arrivals))


async def _read(group: Any, arrivals: list[tuple[int, int]]) -> None:
    with contextlib.suppress(moq.Error):  # skipped
        async for frame in group:
            moment = now()
            written, _ = STAMP.unpack_from(frame.payload)
            arrivals.append((moment, moment - written))
