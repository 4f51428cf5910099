"""The clock, the randomness and the timers of one relay.

Only this, `process.py` and command-line tools read a clock or draw a random number. Tests pass a runtime with
their own clock.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final


@dataclass(frozen=True, slots=True, eq=False)
class Runtime:
    """The environment of one relay."""

    now: Callable[[], float] = time.monotonic
    """Monotonic seconds. Not the event loop's clock: some loops read it once per turn, in milliseconds."""
    wall_time: Callable[[], float] = time.time  # seconds since the epoch
    cpu_time: Callable[[], float] = time.thread_time  # CPU seconds of this thread
    random: random.Random = field(default_factory=random.SystemRandom)
    """Unpredictable: fit for ids and secrets."""
    actors: dict[Any, None] = field(default_factory=dict)
    """In the order of their start."""

    def date(self) -> dt.datetime:
        return dt.datetime.fromtimestamp(self.wall_time(), dt.UTC)

    def call_later(self, delay: float, callback: Callable[..., object], *args: object) -> asyncio.TimerHandle:
        """`delay` is in seconds. A timer may fire early by less than a millisecond."""
        return asyncio.get_running_loop().call_later(max(0.0, delay), callback, *args)


SYSTEM: Final = Runtime()  # for clients, and for code outside a relay
