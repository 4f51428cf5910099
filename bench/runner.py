"""One run: a relay, its load, and the relay's consumption.

The runner starts the load processes, signals begin and end of the window, and reads the relay's counters then.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from bench import proc, stalled
from bench.contenders import ROOT, Contender, RunningRelay, end
from bench.scenarios import Kind, Scenario
from bench.stats import percentiles

Result = dict[str, Any]

SECOND = 1_000_000_000
HEAD_START_S = 0.4
"""From the order to start to the first frame, for every process to receive it."""
BROADCAST = "bench"
READERS = 4
"""Per process."""
BULK_WINDOW = 16
"""Frames in flight in bulk: 1.6 MB keep a relay busy without a growing queue."""
PATIENCE_S = 60.0
SETTLE_S = 1.0


class LoadFailedError(RuntimeError):
    """A load process ended or did not report."""


class Load:
    def __init__(self, process: asyncio.subprocess.Process, role: str) -> None:
        self._process = process
        self._role = role
        self._stderr = asyncio.create_task(self._read_stderr())

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def over(self) -> bool:
        """It has ended: `hear` raises LoadFailedError with its last output."""
        return self._process.returncode is not None

    async def hear(self, event: str) -> Result:
        """The next report, which must be of this kind."""
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(PATIENCE_S):
                line = await self._process.stdout.readline()
        except TimeoutError:
            raise LoadFailedError(f"{self._role}: no {event} within {PATIENCE_S:g} s") from None
        if not line:
            last = (await self._stderr).strip().splitlines()[-6:]
            raise LoadFailedError("\n    ".join([f"{self._role}: ended before it was {event}:", *last]))
        report: Result = json.loads(line)
        assert report["event"] == event, report
        return report

    def tell(self, **order: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")

    async def close(self) -> None:
        """Let it close its sessions; else end it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(5.0):
                await self._process.wait()
        except TimeoutError:
            await end(self._process)
        await self._stderr

    async def _read_stderr(self) -> str:
        assert self._process.stderr is not None
        return (await self._process.stderr.read()).decode(errors="replace")


async def start_load(python: Path, module: str, job: Result) -> Load:
    """The caller closes it."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        str(python),
        "-m",
        module,
        json.dumps(job),
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        cwd=ROOT,
        limit=1 << 26,
        start_new_session=True,
    )
    return Load(process, job.get("role", module))


class Bench:
    """Shared by all loads of one run."""

    def __init__(
        self, relay: RunningRelay, python: Path, viewer_processes: int, stack: AsyncExitStack
    ) -> None:
        self.relay = relay
        self._python = python
        self._viewer_processes = viewer_processes
        self._stack = stack

    async def load(self, role: str, **job: Any) -> Load:
        """It ends with the run."""
        whole = {"role": role, "url": self.relay.url, "broadcast": BROADCAST, **job}
        load = await start_load(self._python, "bench.load", whole)
        self._stack.push_async_callback(load.close)
        return load

    async def publisher(self, scenario: Scenario) -> Load:
        """Wait until it has announced."""
        load = await self.load("publish", **_shape(scenario))
        await load.hear("ready")
        return load

    async def viewers(self, scenario: Scenario, count: int) -> tuple[list[Load], list[Result]]:
        """Spread over processes; wait until they have subscribed."""
        shares = spread(count, self._viewer_processes)
        loads = [
            await self.load("view", viewers=share, readers=min(share, READERS), **_shape(scenario))
            for share in shares
        ]
        return loads, [await load.hear("ready") for load in loads]

    async def stalled(self, scenario: Scenario) -> None:
        """Two more viewers: one does not read, the other reads a hundredth."""
        for share in (0.0, 0.01):
            watching = stalled.watching(self.relay.port, BROADCAST, scenario, share)
            await self._stack.enter_async_context(watching)


def _shape(scenario: Scenario) -> dict[str, Any]:
    return {
        "tracks": scenario.tracks,
        "fps": scenario.fps,
        "frame_size": scenario.frame_size,
        "group": scenario.group,
    }


def spread(count: int, parts: int) -> list[int]:
    """Nearly equal parts, none of them 0."""
    parts = max(1, min(count, parts))
    return [count // parts + (i < count % parts) for i in range(parts)]


class Meter:
    """The relay's counters over a stretch of time."""

    def __init__(self, relay: RunningRelay) -> None:
        self._relay = relay
        self._spent = proc.spent(relay.pid)
        self._busy = proc.machine_busy()
        self._at = time.monotonic()

    def stop(self) -> Result:
        """Since its creation."""
        wall = time.monotonic() - self._at
        cpu = proc.spent(self._relay.pid).since(self._spent)
        return {
            "seconds": round(wall, 4),
            "cpu_s": round(cpu, 5),
            "cores": round(cpu / wall, 4),
            "machine_cores": round((proc.machine_busy() - self._busy) / wall, 2),
        }


async def run(contender: Contender, scenario: Scenario, python: Path, processes: int = 2) -> Result:
    """Raises RelayFailedError or LoadFailedError."""
    async with RunningRelay(contender, python) as relay, _bench(relay, python, processes) as bench:
        try:
            result = await SCRIPTS[scenario.kind](bench, scenario)
        except LoadFailedError:
            relay.check()
            raise
        relay.check()
        result["peak_memory"] = proc.memory(relay.pid, peak=True)
        return result


@asynccontextmanager
async def _bench(relay: RunningRelay, python: Path, processes: int) -> AsyncIterator[Bench]:
    async with AsyncExitStack() as stack:
        yield Bench(relay, python, processes, stack)


def _plan(scenario: Scenario) -> dict[str, int]:
    """Times of the first frame, and of begin and end of the window."""
    begin = time.monotonic_ns() + int(HEAD_START_S * SECOND)
    start = begin + int(scenario.warm_up * SECOND)
    return {"begin": begin, "from": start, "to": start + int(scenario.duration * SECOND)}


async def _measure(bench: Bench, plan: dict[str, int]) -> Result:
    await _until(plan["from"])
    meter = Meter(bench.relay)
    await _until(plan["to"])
    return meter.stop()


async def _until(moment: int) -> None:
    await asyncio.sleep(max(0, moment - time.monotonic_ns()) / SECOND)


async def _stream(bench: Bench, scenario: Scenario) -> Result:
    publisher = await bench.publisher(scenario)
    loads, _ = await bench.viewers(scenario, scenario.viewers)
    if scenario.stalled:
        await bench.stalled(scenario)
    plan = _plan(scenario)
    for load in (publisher, *loads):
        load.tell(order="start", **plan)
    spent = await _measure(bench, plan)
    written = await publisher.hear("published")
    windows = [await load.hear("window") for load in loads]
    for load in loads:
        load.tell(order="count", frames=written["frames"], **plan)
    counts = [await load.hear("counted") for load in loads]
    return stream_result(scenario, spent, written, windows, counts)


def stream_result(
    scenario: Scenario, spent: Result, written: Result, windows: Sequence[Result], counts: Sequence[Result]
) -> Result:
    """Combine the processes' reports."""
    due = round(scenario.fps * scenario.duration) * scenario.tracks * scenario.viewers
    missing = sum(count["missing"] for count in counts)
    checked = sum(count["checked"] for count in counts)
    frames = due * (1 - missing / max(1, checked))
    in_time = sum(window["bytes"] for window in windows)
    late = sum(count["late_bytes"] for count in counts)
    lags = [window["lag_ms"] for window in windows if window["lag_ms"] is not None]
    return {
        **spent,
        "frames": round(frames, 1),
        "missing": missing,
        "checked": checked,
        "us_per_frame": round(spent["cpu_s"] * 1e6 / max(1.0, frames), 2),
        "latency_ms": percentiles([delay / 1e6 for count in counts for delay in count["delays_ns"]]),
        "wire_bytes": in_time,
        "late_share": round(late / max(1, in_time), 4),
        "load_cores": round(
            (written["cpu_s"] / (scenario.warm_up + scenario.duration))
            + sum(window["cpu_s"] for window in windows) / scenario.duration,
            3,
        ),
        "load_lag_ms": max(lags, default=None),
        "publisher_late_ms": written["late_ms"],
    }


async def _bulk(bench: Bench, scenario: Scenario) -> Result:
    load = await bench.load("bulk", window=BULK_WINDOW, **_shape(scenario))
    await load.hear("ready")
    plan = _plan(scenario)
    load.tell(order="start", **plan)
    spent = await _measure(bench, plan)
    count = await load.hear("counted")
    return {
        **spent,
        "frames": count["frames"],
        "missing": count["missing"],
        "us_per_frame": round(spent["cpu_s"] * 1e6 / max(1, count["frames"]), 2),
        "latency_ms": count["latency_ms"],
        "mbit_s": round(count["frames"] * scenario.frame_size * 8 / 1e6 / spent["seconds"], 1),
        "load_cores": round(count["cpu_s"] / (scenario.warm_up + scenario.duration), 3),
    }


async def _idle(bench: Bench, scenario: Scenario) -> Result:
    await bench.publisher(scenario)
    await bench.viewers(scenario, 1)  # the first one has extra costs
    await asyncio.sleep(SETTLE_S)
    before = proc.memory(bench.relay.pid)
    opening = Meter(bench.relay)
    await bench.viewers(scenario, scenario.viewers)
    opened = opening.stop()
    await asyncio.sleep(SETTLE_S)
    after = proc.memory(bench.relay.pid)
    meter = Meter(bench.relay)
    await asyncio.sleep(scenario.duration)
    spent = meter.stop()
    return {
        **spent,
        "memory": after,
        "bytes_per_viewer": round((after - before) / scenario.viewers),
        "open_ms_per_viewer": round(opened["cpu_s"] * 1e3 / scenario.viewers, 3),
        "us_per_viewer_s": round(spent["cpu_s"] * 1e6 / spent["seconds"] / scenario.viewers, 1),
    }


async def _connect(bench: Bench, scenario: Scenario) -> Result:
    load = await bench.load("connect", count=scenario.count, concurrent=scenario.concurrent)
    await load.hear("ready")
    meter = Meter(bench.relay)
    load.tell(order="start")
    done = await load.hear("connected")
    spent = meter.stop()
    connected = scenario.count - done["failed"]
    return {
        **spent,
        "missing": done["failed"],
        "ms_per_connect": round(spent["cpu_s"] * 1e3 / max(1, connected), 3),
        "connects_per_s": round(connected / done["seconds"], 1),
        "latency_ms": done["connect_ms"],
        "load_cores": round(done["cpu_s"] / done["seconds"], 3),
    }


async def _late(bench: Bench, scenario: Scenario) -> Result:
    publisher = await bench.publisher(scenario)
    await bench.viewers(scenario, 1)  # a running group to join
    joiner = await bench.load("join", count=scenario.count, **_shape(scenario))
    await joiner.hear("ready")
    plan = _plan(scenario)
    # written until all have joined: closing stdin ends the publisher
    forever = plan["from"] + int(PATIENCE_S * SECOND)
    publisher.tell(order="start", **{**plan, "to": forever})
    joiner.tell(order="start", **plan)
    await _until(plan["from"])
    meter = Meter(bench.relay)
    done = await joiner.hear("joined")
    return {
        **meter.stop(),
        "missing": done["failed"],
        "joins": scenario.count,
        "latency_ms": done["first_ms"],
        "caught_up_ms": done["caught_up_ms"],
        "from_start": done["from_start"],
        "current": done["current"],
    }


SCRIPTS = {
    Kind.STREAM: _stream,
    Kind.BULK: _bulk,
    Kind.IDLE: _idle,
    Kind.CONNECT: _connect,
    Kind.LATE: _late,
}
