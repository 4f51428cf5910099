"""One publisher: any number of tracks, each with frames at a steady pace."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import moq

from bench.load import clients
from bench.load.talk import SECOND, STAMP, Orders, now, say, until


def track_name(number: int) -> str:
    return f"track-{number}"


async def publish(job: dict[str, Any], orders: Orders) -> None:
    """Publish from `begin` to `to`; report the count; stay until the end.

    Phases differ, so that tracks do not write at once.
    """
    client = await clients.enter(clients.dial(job["url"], publish=moq.OriginProducer()))
    broadcast = client.create_broadcast(job["broadcast"])
    tracks = [
        broadcast.publish_track(track_name(i), moq.TrackInfo(max_age_us=clients.KEEP_US))
        for i in range(job["tracks"])
    ]
    broadcast.announce()
    say(event="ready")
    while (order := await orders.next())["order"] != "end":
        if order["order"] == "start":
            cpu = time.process_time()
            paces = [pace(track, job, order, i / len(tracks)) for i, track in enumerate(tracks)]
            done = await asyncio.gather(*paces)
            say(
                event="published",
                frames=[count for count, _ in done],
                late_ms=round(max(late for _, late in done) / 1e6, 2),
                cpu_s=time.process_time() - cpu,
            )
    await clients.leave(client)


async def pace(track: Any, job: dict[str, Any], order: dict[str, Any], phase: float) -> tuple[int, int]:
    """Returns the number of frames, and the greatest delay of one."""
    interval = SECOND / job["fps"]
    begin = order["begin"] + int(phase * interval)
    body = bytes(max(0, job["frame_size"] - STAMP.size))
    group: Any = None
    number = worst = 0
    while (due := begin + int(number * interval)) < order["to"]:
        await until(due)
        moment = now()
        worst = max(worst, moment - due)
        if number % job["group"] == 0:
            if group is not None:
                group.finish()
            group = track.append_group()
        group.write_frame(STAMP.pack(moment, number) + body, moment // 1000)
        number += 1
    if group is not None:
        group.finish()
    return number, worst
