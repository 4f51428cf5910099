"""Event loops in virtual time, and ways to wait without sleeping: `settle` until nothing is left to do, `until` a condition
holds, `advance` a `VirtualLoop`.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Callable
from typing import Any, Final, cast

from relay.runtime import Runtime

TIMEOUT = 5.0

TURN: Final = 20e-6
"""Seconds that each turn of a `VirtualLoop` takes by its own clock, so that whoever spins on it comes to an end."""

GRACE: Final = 0.0002
"""Real seconds for a datagram to get through the kernel before a `VirtualLoop` skips to its next timer."""


def loop_time() -> float:
    return asyncio.get_running_loop().time()


_BEGAN: Final = time.time() - time.monotonic()

RUNTIME: Final = Runtime(now=loop_time, wall_time=lambda: _BEGAN + loop_time())
"""Of all relays and actors that tests run in this process: its clocks are those of the loop, which may be virtual."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop with a clock of its own, which stands still while anything is to be done.

    When nothing is, it skips to the next timer. So an hour takes no longer than what happens in it, and no pause of the
    machine is felt. Sockets of this process work as ever; other processes live in another time.
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
        """Run in a thread; time stands still until it is done."""
        future = super().run_in_executor(executor, func, *args)
        self._threads += 1
        future.add_done_callback(self._thread_is_done)
        return future

    def _thread_is_done(self, _: object) -> None:
        self._threads -= 1

    def wait(self, select: Callable[[float | None], list[Any]], timeout: float | None) -> list[Any]:
        """What a selector that waits in virtual time has found."""
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
    """Return when no actor, session or callback has anything left to do but wait for time to pass."""
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
    """Let `seconds` pass on a `VirtualLoop`, with everything that comes of it."""
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
