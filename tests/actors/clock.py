"""Ways to wait without sleeping: `settle` until nothing is left to do, `until` a condition holds, `advance` a `VirtualLoop`."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any, Final, cast

from relay.runtime import Runtime

TIMEOUT = 5.0

EPOCH: Final = 1_700_000_000.0
"""What the wall clock of tests shows when the loop's clock shows 0."""


def loop_time() -> float:
    return asyncio.get_running_loop().time()


RUNTIME: Final = Runtime(now=loop_time, wall_time=lambda: EPOCH + loop_time())
"""Of all actors in tests without sockets: their clocks are the loop's, which `advance` moves."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock tests may move forward."""

    def __init__(self) -> None:
        self.skipped = 0.0
        super().__init__()

    def time(self) -> float:
        return super().time() + self.skipped


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
    loop.skipped += seconds
    for _ in range(3):
        await asyncio.sleep(0)
        await settle()


def run_virtual(scenario: Callable[[], Any]) -> None:
    """Run a coroutine function on a `VirtualLoop` of its own."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(scenario())


def virtual(scenario: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """A test that runs on a `VirtualLoop` of its own."""

    @functools.wraps(scenario)
    def run(**given: Any) -> None:
        run_virtual(lambda: scenario(**given))

    return run
