"""Viewers: each with a connection of its own, watching every track of the broadcast.

Some of them, the *readers*, read frames as they come: they know how late each one is. The others, the *keepers*, let
the native client collect and look after the run at what is there: a read costs Python time, which in a load of fifty
viewers would make the load the slowest part of the measurement. That their frames came in time is seen from the bytes
their connections received.
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
"""How much of the end of a run a cache_budget checks where each frame is a group: the client keeps about 5 s."""
DRAIN_S = 4.0
"""Without a further frame for so long, what is missing is lost."""
AT_ONCE = 10
"""Viewers that connect at a time."""


class Watch:
    """One track of one viewer, and which of its frames came."""

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
        """Let a cache_budget count what it has."""
        self._look.set()

    def lost(self, written: int, fps: float) -> tuple[int, int]:
        """Return how many frames are missing, of how many that were looked at."""
        first = 0
        if self._single and not self._reads:
            first = max(0, written - int(TAIL_S * fps))
        return written - first - sum(first <= number < written for number in self.seen), written - first

    async def _watch(self) -> None:
        async with asyncio.TaskGroup() as reading:
            with contextlib.suppress(moq.Error):
                while (group := await self._inner.recv_group()) is not None:
                    # Held, so that the client's cache does not let go of it.
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
        with contextlib.suppress(moq.Error):  # a group that was given up: its frames are missing
            while (frame := await group.read_frame()) is not None:
                moment = now()
                written, number = STAMP.unpack_from(frame.payload)
                self.seen.add(number)
                if self._reads:
                    self.delays.append((written, moment - written))


class Viewer:
    """One connection."""

    def __init__(self, job: dict[str, Any], *, reads: bool) -> None:
        self._job = job
        self._reads = reads
        self.client: Any = None
        self.watches: list[Watch] = []
        self.connect_ns = 0

    async def open(self, gate: asyncio.Semaphore) -> None:
        """Connect and subscribe."""
        async with gate:
            begin = now()
            self.client = await clients.enter(clients.dial(self._job["url"], subscribe=moq.OriginProducer()))
            self.connect_ns = now() - begin
            for i in range(self._job["tracks"]):
                track = await clients.subscribe(self.client, self._job["broadcast"], track_name(i))
                self.watches.append(Watch(track, reads=self._reads, single=self._job["group"] == 1))

    async def close(self) -> None:
        """Stop watching and say goodbye."""
        for watch in self.watches:
            watch.task.cancel()
        await asyncio.gather(*(watch.task for watch in self.watches), return_exceptions=True)
        await clients.leave(self.client)


async def view(job: dict[str, Any], orders: Orders) -> None:
    """Open `viewers` viewers, `readers` of them readers, and report on a run when told `start` and `count`."""
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
    """Sleep through the window; return what came in it, and how this process fared."""
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
    """Wait for what is still to come; return what is missing and how long frames took."""
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
