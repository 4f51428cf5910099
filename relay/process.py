"""The relay as a process: signals, systemd, the event loop, and the exit status.

| exit status | |
|---|---|
| 0 | a signal asked for the end |
| 1 | an essential part failed; the log says which |
| 2 | it could not start: invalid configuration, or an address that is not available |
| killed by the signal | a second signal came |
"""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Final, NoReturn

from relay import compiled, terminal
from relay.app import Relay
from relay.config import Config, ConfigError
from relay.logger import get_logger
from relay.secret_file import with_secret

logger = get_logger("relay")

COLLECT_AFTER: Final = 10_000
"""Objects between runs of the garbage collector; a viewer is some 500 of them."""

STOP_SLACK: Final = 1.0
"""Seconds beyond `[limits] close_timeout` after which a relay ends in any case."""


def run(config: Config, reread: Callable[[], Config], set_up_log: Callable[[str, str], object]) -> NoReturn:
    """Run until a signal requests the end, and exit with the status. Raises ConfigError for faults found at the start.

    SIGHUP gets a new configuration from `reread`, which may raise ConfigError; `set_up_log` gets its `[log]`.
    """
    logger.debug(
        "code",
        modules=compiled.describe(),
        kernel="compiled" if compiled.has_kernel() else "interpreted",
        python=sys.version.partition(" ")[0],
    )
    _allow_open_files()
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        status = runner.run(_serve(config, reread, set_up_log))
        # Closing the loop would wait for name resolutions, which cannot be cancelled.
        os._exit(status)


async def _serve(
    config: Config, reread: Callable[[], Config], set_up_log: Callable[[str, str], object]
) -> int:
    loop = asyncio.get_running_loop()
    asked = asyncio.Event()
    signals = (signal.SIGINT, signal.SIGTERM)

    def on_signal() -> None:
        asked.set()
        for number in signals:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)  # the second one ends the process at once

    for number in signals:
        loop.add_signal_handler(number, on_signal)
    relay = Relay(with_secret(config))
    loop.add_signal_handler(signal.SIGHUP, _reload, relay, reread, set_up_log)
    try:
        await relay.start()
    except OSError as error:
        terminal.say(f"moq-relay: {error.strerror or error}")
        return 2
    terminal.put(f"{relay.banner()}\n")  # for a person at a terminal
    _tell_systemd()
    _spare_the_collector()
    failed = loop.create_task(relay.failed.wait())
    await _unless(failed, asked.wait())
    logger.info("stopping; a second signal ends the relay at once")
    await _unless(failed, relay.drain())
    failed.cancel()
    try:
        async with asyncio.timeout(relay.limits.close_timeout + STOP_SLACK):
            await relay.close()
    except TimeoutError:
        logger.warning("some sessions did not end in time")
    return 1 if relay.failed.is_set() else 0


async def _unless(failed: asyncio.Task[Any], step: Coroutine[Any, Any, Any]) -> None:
    if failed.done():
        step.close()
        return
    task = asyncio.get_running_loop().create_task(step)
    await asyncio.wait((task, failed), return_when=asyncio.FIRST_COMPLETED)
    task.cancel()


def _reload(relay: Relay, reread: Callable[[], Config], set_up_log: Callable[[str, str], object]) -> None:
    """SIGHUP: configuration, certificates and keys, all of it or nothing."""
    try:
        config = with_secret(reread())
        relay.reload(config)
    except ConfigError as error:
        for problem in error.problems:
            logger.error("not reloaded, everything stays as it was", reason=problem)  # noqa: TRY400 - it says it all
    else:
        set_up_log(config.log.level, config.log.format)


def _tell_systemd() -> None:
    """`Type=notify`, sd_notify(3): started; from now on SIGHUP reloads."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.connect(f"\0{address[1:]}" if address.startswith("@") else address)
            sock.send(b"READY=1")
    except OSError as error:
        logger.warning("systemd did not get the notice of the start", reason=error.strerror or error)


def _spare_the_collector() -> None:
    """Sessions leave almost no reference cycles, so collect garbage less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER, 10, 10)


def _allow_open_files() -> None:
    """Each TCP connection is one, and the usual 1024 are less than `[limits] http`."""
    with suppress(OSError, ValueError):
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Uvloop, else the standard loop: uvloop is neither for Windows nor for PyPy."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
