"""Viewers: each with its own connection, watching every track of the broadcast.

*Readers* read each frame at once and measure its latency. *Keepers* let the native client collect, and count after
the run: reading costs Python time, which would make a load of fifty viewers the bottleneck. Bytes of their
connections show that frames came in time.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import moq

from bench.load import clients
from bench.load.publisher import track_name
from bench.load.talk import SECOND, STAMP, Orders, milliseconds, now, say, until

TAIL_S = 4.0
"""Seconds at the end of a run that a keeper checks if each frame is a group: the client keeps about 5 s."""
DRAIN_S = 4.0
"""Seconds without a frame after which missing ones are lost."""
AT_ONCE = 10
"""Concurrent connects."""


class Watch:
    """One track of one viewer."""

    def __init__(self, subscription: Any, *, reads: bool, single: bool) -> None:
        self._inner = subscription._inner  # noqa: SLF001 - the wrapper makes an object per group
        self._reads = reads
        self._single = single
        self._look = asyncio.Event()
        self._held: list[Any] = []
        self.seen: set[int] = set()
        self.delays: list[tuple[int, int]] = []
        self.task = asyncio.create_task(self._watch())

    def look(self) -> None:
        """Count the frames of a keeper."""
        self._look.set()

    def lost(self, written: int, fps: float) -> tuple[int, int]:
        """Missing frames, and checked ones."""
        first = 0
        if self._single and not self._reads:
            first = max(0, written - int(TAIL_S * fps))
        return written - first - sum(first <= number < written for number in self.seen), written - first

    async def _watch(self) -> None:
        async with asyncio.TaskGroup() as reading:
            with contextlib.suppress(moq.Error):
                while (group := await self._inner.recv_group()) is not None:
                    # references keep the groups in the client's cache
                    if not self._reads and not self._single:
                        reading.create_task(self._later(group))
                        continue
                    if not self._reads:
                        await self._look.wait()
                    if self._single:
                        await self._read(group)
                    else:
                        reading.create_task(self._read(group))

    async def _later(self, group: Any) -> None:
        await self._look.wait()
        await self._read(group)

    async def _read(self, group: Any) -> None:
        with contextlib.suppress(moq.Error):  # a skipped group: its frames are missing
            while (frame := await group.read_frame()) is not None:
                moment = now()
                written, number = STAMP.unpack_from(frame.payload)
                self.seen.add(number)
                if self._reads:
                    self.delays.append((written, moment - written))


class Viewer:
    def __init__(self, job: dict[str, Any], *, reads: bool) -> None:
        self._job = job
        self._reads = reads
        self.client: Any = None
        self.watches: list[Watch] = []
        self.connect_ns = 0

    async def open(self, gate: asyncio.Semaphore) -> None:
        async with gate:
            begin = now()
            self.client = await clients.enter(clients.dial(self._job["url"], subscribe=moq.OriginProducer()))
            self.connect_ns = now() - begin
            for i in range(self._job["tracks"]):
                track = await clients.subscribe(self.client, self._job["broadcast"], track_name(i))
                self.watches.append(Watch(track, reads=self._reads, single=self._job["group"] == 1))

    async def close(self) -> None:
        for watch in self.watches:
            watch.task.cancel()
        await asyncio.gather(*(watch.task for watch in self.watches), return_exceptions=True)
        await clients.leave(self.client)


async def view(job: dict[str, Any], orders: Orders) -> None:
    """`readers` of the `viewers` are readers. Reports at the orders `start` and `count`."""
    gate = asyncio.Semaphore(AT_ONCE)
    viewers = [Viewer(job, reads=i < job["readers"]) for i in range(job["viewers"])]
    await asyncio.gather(*(viewer.open(gate) for viewer in viewers))
    say(event="ready", connect_ms=milliseconds([viewer.connect_ns for viewer in viewers]))
    while (order := await orders.next())["order"] != "end":
        if order["order"] == "start":
            say(event="window", **await _window(viewers, order))
        elif order["order"] == "count":
            say(event="counted", **await _count(viewers, job, order))
    await asyncio.gather(*(viewer.close() for viewer in viewers), return_exceptions=True)


def _received(viewers: list[Viewer]) -> int:
    return sum(clients.bytes_received(viewer.client) for viewer in viewers)


async def _window(viewers: list[Viewer], order: dict[str, Any]) -> dict[str, Any]:
    """Sleep through the window; return its frames, and the delays of this process."""
    await until(order["from"])
    before, cpu, lags = _received(viewers), time.process_time(), []
    while (due := now() + 20_000_000) < order["to"]:
        await until(due)
        lags.append(now() - due)
    await until(order["to"])
    lag = milliseconds(lags)
    return {
        "bytes": _received(viewers) - before,
        "cpu_s": time.process_time() - cpu,
        "lag_ms": lag["p99"] if lag else None,
    }


async def _count(viewers: list[Viewer], job: dict[str, Any], order: dict[str, Any]) -> dict[str, Any]:
    """Wait for late frames; return the missing ones and latencies."""
    before = _received(viewers)
    watches = [watch for viewer in viewers for watch in viewer.watches]
    for watch in watches:
        watch.look()
    pairs = [
        (watch, written)
        for viewer in viewers
        for watch, written in zip(viewer.watches, order["frames"], strict=True)
    ]
    had, patience = -1, 0
    while any(watch.lost(written, job["fps"])[0] for watch, written in pairs):
        have = sum(len(watch.seen) for watch in watches)
        if have != had:
            had, patience = have, now() + int(DRAIN_S * SECOND)
        elif now() > patience:
            break
        await asyncio.sleep(0.05)
    lost = [watch.lost(written, job["fps"]) for watch, written in pairs]
    delays = [
        delay
        for watch in watches
        for written, delay in watch.delays
        if order["from"] <= written < order["to"]
    ]
    return {
        "missing": sum(missing for missing, _ in lost),
        "checked": sum(checked for _, checked in lost),
        "late_bytes": _received(viewers) - before,
        "delays_ns": delays,
    }
