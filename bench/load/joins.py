"""Clients that connect, and late joiners."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

import moq

from bench.load import clients
from bench.load.publisher import track_name
from bench.load.talk import SECOND, STAMP, Orders, milliseconds, now, say, until

WAIT_S = 10.0


async def connect(job: dict[str, Any], orders: Orders) -> None:
    """Connect `count` times: one after the other, or all at once."""
    say(event="ready")
    opened: list[Any] = []
    while (order := await orders.next())["order"] != "end":
        if order["order"] != "start":
            continue
        times: list[int] = []
        failed = 0

        async def one(*, stays: bool, times: list[int] = times) -> bool:
            begin = now()
            client = clients.dial(job["url"], subscribe=moq.OriginProducer())
            try:
                await clients.enter(client)
            except (moq.Error, TimeoutError):
                return False
            times.append(now() - begin)
            if stays:
                opened.append(client)
            else:
                await clients.leave(client)
            return True

        begin, cpu = now(), time.process_time()
        if job["concurrent"]:
            done = await asyncio.gather(*(one(stays=True) for _ in range(job["count"])))
        else:
            done = [await one(stays=False) for _ in range(job["count"])]
        failed = done.count(False)
        say(
            event="connected",
            seconds=(now() - begin) / SECOND,
            failed=failed,
            connect_ms=milliseconds(times),
            cpu_s=time.process_time() - cpu,
        )
    for client in opened:
        await clients.leave(client)


async def join_late(job: dict[str, Any], orders: Orders) -> None:
    """Join `count` times, each at a random moment of the running group.

    The publisher writes by the clock, which gives the newest frame at the moment of joining.
    """
    say(event="ready")
    while (order := await orders.next())["order"] != "end":
        if order["order"] != "start":
            continue
        await until(order["from"])
        joins = []
        for _ in range(job["count"]):
            await asyncio.sleep(random.uniform(0.1, job["group"] / job["fps"] / 2))
            joins.append(await _join(job, order["begin"]))
        good = [join for join in joins if "first" in join]
        say(
            event="joined",
            failed=len(joins) - len(good),
            first_ms=milliseconds([join["first"] for join in good]),
            caught_up_ms=milliseconds([join["caught_up"] for join in good]),
            from_start=sum(join["from_start"] for join in good),
            current=sum(join["current"] for join in good),
        )


async def _join(job: dict[str, Any], start: int) -> dict[str, Any]:
    client = await clients.enter(clients.dial(job["url"], subscribe=moq.OriginProducer()))
    try:
        begin = now()
        newest = int((begin - start) * job["fps"] / SECOND)
        found: dict[str, Any] = {}
        async with asyncio.timeout(WAIT_S):
            track = await clients.subscribe(client, job["broadcast"], track_name(0), keep_us=0)
            while "caught_up" not in found:
                group = await track.recv_group()
                while "caught_up" not in found and (frame := await group.read_frame()) is not None:
                    number = STAMP.unpack_from(frame.payload)[1]
                    if not found:
                        found["first"] = now() - begin
                        found["from_start"] = number % job["group"] == 0
                        found["current"] = number // job["group"] >= newest // job["group"]
                    if number >= newest:
                        found["caught_up"] = now() - begin
    except (moq.Error, TimeoutError):
        return {}
    else:
        return found
    finally:
        await clients.leave(client)
