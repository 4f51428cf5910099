"""The clock, the randomness and the timers of one relay.

Passed to everything that needs one of them: nothing else in `relay/` reads a clock or draws a random number, but for
`process.py` and the command-line tools. A test passes a runtime whose clock it moves.
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
    """What a relay takes from its surroundings. Relays in one process have one each."""

    now: Callable[[], float] = time.monotonic
    """Seconds; never goes back. Not the event loop's: some loops read it once per turn and in milliseconds."""
    wall_time: Callable[[], float] = time.time
    """Seconds since the epoch."""
    cpu_time: Callable[[], float] = time.thread_time
    """Seconds that this thread has run."""
    random: random.Random = field(default_factory=random.SystemRandom)
    """Unpredictable, so good for ids and secrets."""
    actors: dict[Any, None] = field(default_factory=dict)
    """References of the living actors, in the order of their start."""

    def date(self) -> dt.datetime:
        """The wall clock in UTC."""
        return dt.datetime.fromtimestamp(self.wall_time(), dt.UTC)

    def call_later(self, delay: float, callback: Callable[..., object], *args: object) -> asyncio.TimerHandle:
        """Call `callback(*args)` in `delay` seconds. A timer may fire early by less than a millisecond."""
        return asyncio.get_running_loop().call_later(max(0.0, delay), callback, *args)


SYSTEM: Final = Runtime()
"""For clients, and for whatever is no part of a relay."""
