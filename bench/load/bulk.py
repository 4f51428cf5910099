"""Maximum throughput: one publisher and one viewer, with a full window of frames in flight.

In one process, the publisher knows arrivals at once.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import moq

from bench.load import clients
from bench.load.talk import SECOND, STAMP, Orders, milliseconds, now, say

GIVE_UP_S = 1.0
"""A frame missing for so long leaves the window; it is lost unless it comes later."""


class Pipe:
    def __init__(self) -> None:
        self.under_way: dict[int, int] = {}
        self.arrivals: list[tuple[int, int]] = []
        self.overdue: set[int] = set()
        self.moved = asyncio.Event()

    def came(self, payload: bytes) -> None:
        written, number = STAMP.unpack_from(payload)
        moment = now()
        if self.under_way.pop(number, None) is not None or number in self.overdue:
            self.overdue.discard(number)
            self.arrivals.append((moment, moment - written))
            self.moved.set()

    def give_up(self) -> None:
        """Take overdue frames out of the window."""
        limit = now() - int(GIVE_UP_S * SECOND)
        overdue = [number for number, written in self.under_way.items() if written < limit]
        for number in overdue:
            del self.under_way[number]
        self.overdue.update(overdue)


async def bulk(job: dict[str, Any], orders: Orders) -> None:
    """Report the frames of the window."""
    sender = await clients.enter(clients.dial(job["url"], publish=moq.OriginProducer()))
    broadcast = sender.create_broadcast(job["broadcast"])
    track = broadcast.publish_track("bulk", moq.TrackInfo(max_age_us=clients.KEEP_US))
    broadcast.announce()
    receiver = await clients.enter(clients.dial(job["url"], subscribe=moq.OriginProducer()))
    subscription = await clients.subscribe(receiver, job["broadcast"], "bulk")
    pipe = Pipe()
    watching = asyncio.create_task(_watch(subscription, pipe))
    say(event="ready")
    while (order := await orders.next())["order"] != "end":
        if order["order"] == "start":
            cpu = time.process_time()
            await _pump(track, pipe, job, order["to"])
            spent = time.process_time() - cpu
            await asyncio.sleep(GIVE_UP_S)
            arrivals = [delay for moment, delay in pipe.arrivals if order["from"] <= moment < order["to"]]
            say(
                event="counted",
                frames=len(arrivals),
                missing=len(pipe.overdue) + len(pipe.under_way),
                latency_ms=milliseconds(arrivals),
                cpu_s=spent,
            )
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    await clients.leave(receiver)
    await clients.leave(sender)


async def _pump(track: Any, pipe: Pipe, job: dict[str, Any], end: int) -> None:
    body = bytes(max(0, job["frame_size"] - STAMP.size))
    group: Any = None
    number = 0
    while (moment := now()) < end:
        if len(pipe.under_way) >= job["window"]:
            pipe.moved.clear()
            try:
                async with asyncio.timeout(0.1):
                    await pipe.moved.wait()
            except TimeoutError:
                pipe.give_up()
            continue
        if number % job["group"] == 0:
            if group is not None:
                group.finish()
            group = track.append_group()
        pipe.under_way[number] = moment
        group.write_frame(STAMP.pack(moment, number) + body, moment // 1000)
        number += 1
        await asyncio.sleep(0)
    if group is not None:
        group.finish()


async def _watch(subscription: Any, pipe: Pipe) -> None:
    async def read(group: Any) -> None:
        try:
            while (frame := await group.read_frame()) is not None:
                pipe.came(frame.payload)
        except moq.Error:
            pass  # skipped by the relay: the window finds out

    async with asyncio.TaskGroup() as reading:
        while (group := await subscription.recv_group()) is not None:
            reading.create_task(read(group))
