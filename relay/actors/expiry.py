"""Callbacks at wall-clock dates: expiry of tokens.

The event loop's clock stands still in a suspend, and misses changes of the wall clock: so one timer looks at
that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from relay.runtime import Runtime

LOOK_INTERVAL: Final = 1.0  # seconds: greatest delay after a suspend or a change of the clock
SOONEST: Final = 0.001  # seconds: timers of the loop fire early by less


@dataclass(frozen=True, slots=True, eq=False)
class Expiry:
    """One date. `cancel` is always safe."""

    owner: Expiries
    moment: float  # seconds since the epoch
    callback: Callable[[], object]

    def cancel(self) -> None:
        self.owner.forget(self)


class Expiries:
    """All dates of a relay."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        # An ordered set, no heap: scanning thousands takes under 1 ms, and most sessions end before their
        # tokens.
        self._dates: dict[Expiry, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._next = 0.0  # by `Runtime.now`

    def __len__(self) -> int:
        return len(self._dates)

    def at(self, moment: float, callback: Callable[[], object]) -> Expiry:
        """Call `callback` at `moment`, in seconds since the epoch; soon if it is past."""
        date = Expiry(self, moment, callback)
        self._dates[date] = None
        self._plan(moment)
        return date

    def forget(self, date: Expiry) -> None:
        self._dates.pop(date, None)
        if not self._dates:
            self._stop()

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _plan(self, moment: float) -> None:
        delay = min(max(moment - self._runtime.wall_time(), SOONEST), LOOK_INTERVAL)
        due = self._runtime.now() + delay
        if self._timer is None or due < self._next:
            self._stop()
            self._next = due
            self._timer = self._runtime.call_later(delay, self._look)

    def _look(self) -> None:
        self._timer = None
        now = self._runtime.wall_time()
        try:
            for date in [date for date in self._dates if date.moment <= now]:
                if date in self._dates:  # another callback may cancel it
                    del self._dates[date]
                    date.callback()
        finally:
            if self._dates:
                self._plan(min(date.moment for date in self._dates))
