"""Session after session with the relay, until the work of a command is done, a signal comes, or the relay refuses."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Awaitable, Callable, Coroutine
from http import HTTPStatus
from typing import Any, Final, TypeVar

from relay import terminal
from relay.client import Client, ClientError, ConnectError, SessionEnded
from relay.wire.errors import FIRST_APP_CODE, OldCode, SessionCode
from relay.wire.ietf.codes import SessionCode as IetfCode

FIRST_PAUSE: Final = 0.5
"""Seconds before the second attempt; each further pause is twice as long."""

LONGEST_PAUSE: Final = 5.0  # seconds: after a restart of the relay clients come back soon

STEADY: Final = 20.0
"""Seconds of an attempt that make the next pause short again. More than any time-out."""

REFUSALS: Final = frozenset(
    (
        SessionCode.UNAUTHORIZED,
        SessionCode.VERSION_NEGOTIATION,
        IetfCode.EXPIRED_TOKEN,
        OldCode.UNAUTHORIZED,
        OldCode.VERSION,
        HTTPStatus.UNAUTHORIZED,
        *(
            FIRST_APP_CODE + status
            for status in range(HTTPStatus.BAD_REQUEST, HTTPStatus.INTERNAL_SERVER_ERROR)
        ),
    )
)
"""Session codes after which another attempt would end the same way.

The numbers of both generations of moq-lite and of moq-transport, the bare status of 0.9.3, and the statuses that
newer relays carry as application codes.
"""

T = TypeVar("T")

Say = Callable[[str], None]
"""Prints one line for the user to standard error."""


class Refused(Exception):  # noqa: N818 - it says what happened
    """Another attempt would fail the same way; the text says why, in one line without a token."""


class Pauses:
    """Pauses between attempts, each twice as long as the one before, up to a limit."""

    def __init__(self) -> None:
        self._next = FIRST_PAUSE

    def next(self, lasted: float) -> float:
        """Seconds to wait after an attempt that lasted `lasted` seconds."""
        if lasted > STEADY:
            self._next = FIRST_PAUSE
        pause = self._next
        self._next = min(2 * pause, LONGEST_PAUSE)
        return pause


async def attend(client: Client, work: Awaitable[None]) -> None:
    """Do `work` until it is done or fails; raises SessionEnded if the session ends before."""
    working = asyncio.ensure_future(work)
    ending = asyncio.ensure_future(client.closed())
    try:
        await asyncio.wait((working, ending), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
        else:
            client.check()
    finally:
        for task in (working, ending):
            task.cancel()
        await asyncio.gather(working, ending, return_exceptions=True)


async def run(
    dial: Callable[[], Awaitable[Client]],
    work: Callable[[Client], Awaitable[None]],
    say: Say,
    *,
    again: bool = True,
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
) -> None:
    """Connect and work, again and again with pauses between, until `work` is done. Raises Refused.

    Without `again` any failure is the last.
    """
    pauses = Pauses()
    clock = asyncio.get_running_loop().time
    while True:
        begun = clock()
        try:
            async with await dial() as client:
                await attend(client, work(client))
                return
        except ConnectError as error:
            trouble = str(error)
            client_fault = error.status is not None and error.status < HTTPStatus.INTERNAL_SERVER_ERROR
            if error.kind in ("url", "tls", "protocol") or client_fault:
                raise Refused(trouble) from error
        except ClientError as error:
            trouble = str(error)
            if isinstance(error, SessionEnded) and error.by_peer and error.code in REFUSALS:
                raise Refused(trouble) from error
        if not again:
            raise Refused(trouble)
        pause = pauses.next(clock() - begun)
        say(f"{trouble}; trying again in {pause:g} s")
        await sleep(pause)


async def until_stopped(work: Coroutine[Any, Any, None]) -> None:
    """Do `work` until it is done or a signal says stop. A second signal ends the process at once."""
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()

    def stop(number: signal.Signals) -> None:
        task.cancel()
        loop.remove_signal_handler(number)
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, number)
    with contextlib.suppress(asyncio.CancelledError):
        await task


def put_line(text: str) -> None:
    """Print to standard output at once, for readers of a pipe."""
    try:
        terminal.write(f"{text}\n")
    except BrokenPipeError:
        raise
    except OSError as error:
        raise Refused(f"standard output: {error.strerror}") from None


def execute(read: Callable[[], T], work: Callable[[T], Coroutine[Any, Any, None]], say: Say) -> int:
    """Run `work` on an event loop with the options that `read` returns. Returns the exit status of the command."""
    terminal.open_closed_streams()
    try:
        options = read()
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else 2
    # libraries keep quiet: our own lines say what matters
    logging.basicConfig(handlers=[logging.NullHandler()])
    try:
        asyncio.run(until_stopped(work(options)))
    except Refused as refused:
        say(str(refused))
        return 1
    except BrokenPipeError:
        return 0
    except Exception as error:  # noqa: BLE001 - the outermost boundary
        say(f"internal error: {error!r}")
        return 1
    return 0
