"""One event loop for all inputs of a process.

Exceptions of callbacks, which asyncio would only log, are raised to the fuzzer.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
from collections.abc import Coroutine
from typing import Any

_raised: list[BaseException] = []


def _note(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    _raised.append(context.get("exception") or AssertionError(context["message"]))


@functools.cache
def loop() -> asyncio.AbstractEventLoop:
    made = asyncio.new_event_loop()
    made.set_exception_handler(_note)
    atexit.register(made.close)
    return made


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run `work` to its end, and everything scheduled for now."""
    _raised.clear()
    loop().run_until_complete(work)
    if _raised:
        raise _raised[0]
