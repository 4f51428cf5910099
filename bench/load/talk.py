"""The protocol between a load process and its runner, and their clock.

One JSON object a line: the job as the only argument, then `ready`, then orders from the runner on stdin and reports
on stdout. Times are monotonic nanoseconds, shared by all processes of a machine.
"""

from __future__ import annotations

import asyncio
import json
import struct
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

SECOND = 1_000_000_000
STAMP = struct.Struct(">QQ")
"""Header of each frame: time of writing, and number."""

now = time.monotonic_ns


def say(**fields: Any) -> None:
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


class Orders:
    """Line by line; the end of stdin is the order `end`."""

    def __init__(self) -> None:
        self._lines: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def read() -> None:
            for line in sys.stdin:
                loop.call_soon_threadsafe(self._lines.put_nowait, json.loads(line))
            loop.call_soon_threadsafe(self._lines.put_nowait, {"order": "end"})

        threading.Thread(target=read, daemon=True).start()

    async def next(self) -> dict[str, Any]:
        return await self._lines.get()


async def until(moment: int) -> None:
    await asyncio.sleep(max(0, moment - now()) / SECOND)


def milliseconds(values: Sequence[int]) -> dict[str, float] | None:
    """Median, 99th percentile and maximum of durations in ns."""
    if not values:
        return None
    ordered = sorted(values)
    last = len(ordered) - 1

    def at(share: float) -> float:
        return round(ordered[min(last, int(share * len(ordered)))] / 1e6, 3)

    return {"p50": at(0.5), "p99": at(0.99), "max": round(ordered[-1] / 1e6, 3), "count": len(ordered)}
