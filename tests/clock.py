"""Event loops in virtual time, and waits without sleeping: `settle`, `until` a condition, `advance` a `VirtualLoop`."""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Callable
from typing import Any, Final, cast

from relay.runtime import Runtime

TIMEOUT = 5.0

TURN: Final = 20e-6
"""Virtual seconds of each turn, so that a busy loop ends."""

GRACE: Final = 0.0002
"""Real seconds for a datagram to cross the kernel before a `VirtualLoop` skips to its next timer."""


def loop_time() -> float:
    return asyncio.get_running_loop().time()


_BEGAN: Final = time.time() - time.monotonic()

RUNTIME: Final = Runtime(now=loop_time, wall_time=lambda: _BEGAN + loop_time())
"""For all relays and actors in this process: its clocks are those of the loop, which may be virtual."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock stands still during work, and skips to the next timer when idle.

    An hour takes no longer than its events, and pauses of the machine do not count. Sockets of this process work as
    ever; other processes have another time.
    """

    def __init__(self) -> None:
        self.now = time.monotonic()
        self._threads = 0
        super().__init__(_VirtualSelector(self))

    def time(self) -> float:
        return self.now

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ASYNC109
        await super().shutdown_default_executor()

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:  # type: ignore[override]
        """In a thread; virtual time stands still meanwhile."""
        future = super().run_in_executor(executor, func, *args)
        self._threads += 1
        future.add_done_callback(self._thread_is_done)
        return future

    def _thread_is_done(self, _: object) -> None:
        self._threads -= 1

    def wait(self, select: Callable[[float | None], list[Any]], timeout: float | None) -> list[Any]:
        """For a selector that waits in virtual time."""
        self.now += TURN
        events = select(0)
        if events or timeout == 0:
            return events
        if timeout is None or self._threads:
            return select(timeout)
        events = select(GRACE)
        if not events:
            self.now += timeout
        return events


class _VirtualSelector(selectors.DefaultSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[Any]:
        return self._loop.wait(super().select, timeout)


def ready_count() -> int:
    """Callbacks that the running loop has yet to call."""
    return len(cast("Any", asyncio.get_running_loop())._ready)


def timer_count() -> int:
    """Timers of the running loop that have neither fired nor been cancelled."""
    return sum(not handle.cancelled() for handle in cast("Any", asyncio.get_running_loop())._scheduled)


async def settle(limit: int = 100_000) -> None:
    """Return when all actors, sessions and callbacks only wait for time to pass."""
    for _ in range(limit):
        await asyncio.sleep(0)
        if not ready_count():
            return
    raise AssertionError("the actors do not come to rest")


async def until(condition: Callable[[], object], timeout: float = TIMEOUT) -> None:  # noqa: ASYNC109
    """Spin the loop until `condition` holds."""
    loop = asyncio.get_running_loop()
    end = loop.time() + timeout
    while not condition():
        if loop.time() > end:
            raise AssertionError("waited in vain")
        await asyncio.sleep(0)


async def advance(seconds: float) -> None:
    """Let `seconds` pass on a `VirtualLoop`, with all their events."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    await settle()
    loop.now += seconds
    for _ in range(3):
        await asyncio.sleep(0)
        await settle()


def run_virtual(scenario: Callable[[], Any]) -> None:
    """Run a coroutine function on a `VirtualLoop` of its own."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(scenario())
