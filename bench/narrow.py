"""A viewer behind a bottleneck with half of the needed rate: video and audio of one broadcast, frame by frame.

The bottleneck is a proxy in this process. `python -m bench narrow` calls it.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from bench import report
from bench.contenders import CONTENDERS, Contender, RunningRelay
from bench.runner import HEAD_START_S, SECOND, Bench, LoadFailedError, Result
from bench.stats import percentiles
from tests.e2e.udp_proxy import UdpProxy

VIDEO = {"fps": 30.0, "frame_size": 8300, "group": 30, "priority": 1}
AUDIO = {"fps": 50.0, "frame_size": 160, "group": 1, "priority": 2}
SHARE = 0.5
"""Share of the video that the bottleneck carries beside the audio."""
DELAY_S = 0.025
QUEUE_S = 0.2
"""Seconds of the bottleneck's rate that its buffer holds: a router with a small buffer."""
WIDE_S = 2.0
"""Seconds before the rate is reduced."""
PATIENCE_S = 1.0
"""Max latency of the viewer."""
SLICE_S = 0.1
"""Seconds of a slice of the plot, which shows the worst audio frame of each."""
PACKETS = 1.06
"""Bytes on the network per byte of payload; about two for audio's small packets."""


def line_rate() -> float:
    """Bytes per second of the bottleneck."""
    return SHARE * _rate(VIDEO) * PACKETS + 2 * _rate(AUDIO)


def _rate(track: dict[str, float]) -> float:
    return track["fps"] * track["frame_size"]


async def run(contender: Contender, python: Path, duration: float) -> Result:
    """Raises RelayFailedError or LoadFailedError."""
    async with RunningRelay(contender, python) as relay, AsyncExitStack() as stack:
        proxy = stack.enter_context(UdpProxy(_free_port(), relay.port))
        proxy.weather().both(delay=DELAY_S)
        bench = Bench(relay, python, 1, stack)
        shape: dict[str, Any] = {"video": VIDEO, "audio": AUDIO, "patience_us": int(PATIENCE_S * 1e6)}
        load = await bench.load("narrow", watch=f"https://127.0.0.1:{proxy.port}/", **shape)
        try:
            await load.hear("ready")
            begin = time.monotonic_ns() + int(HEAD_START_S * SECOND)
            load.tell(order="start", begin=begin, to=begin + int(duration * SECOND))
            await asyncio.sleep(max(0, begin - time.monotonic_ns()) / SECOND + WIDE_S)
            down = proxy.weather().down
            down.rate, down.queue = line_rate(), int(line_rate() * QUEUE_S)
            seen = await load.hear("watched")
        except LoadFailedError:
            relay.check()
            raise
        relay.check()
    return {
        "duration": duration,
        "written": seen["written"],
        "arrivals": {
            name: [(round((at - begin) / SECOND, 3), round(age / SECOND, 3)) for at, age in arrivals]
            for name, arrivals in seen["arrivals"].items()
        },
    }


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def ages(result: Result, track: str) -> list[float]:
    """Seconds, of frames received during the reduced rate."""
    return [age for at, age in result["arrivals"][track] if WIDE_S <= at < result["duration"]]


def worst(arrivals: Sequence[tuple[float, float]]) -> dict[float, float]:
    """The greatest age in each slice of time."""
    found: dict[float, float] = {}
    for at, age in arrivals:
        start = round(int(round(at / SLICE_S, 6)) * SLICE_S, 3)
        found[start] = max(found.get(start, 0.0), age)
    return dict(sorted(found.items()))


def table(runs: Sequence[Result]) -> str:
    rows = []
    for run_ in runs:
        cells = [CONTENDERS[run_["relay"]].title]
        if "failed" in run_:
            rows.append([*cells, run_["failed"], "", "", ""])
            continue
        for track in ("video", "audio"):
            found = percentiles(ages(run_, track))
            share = len(run_["arrivals"][track]) / run_["written"][track]
            cells.append(f"{100 * share:.3g} %")
            cells.append(
                "" if found is None else " / ".join(f"{found[key]:.2f}" for key in ("p50", "p99", "max"))
            )
        rows.append(cells)
    age = "age in s: median / p99 / max"
    return report.table(["relay", "video frames", age, "audio frames", age], rows)
