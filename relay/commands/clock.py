"""The command `moq-clock`: publishes the time through a relay, or watches it. The smallest use of `relay.client`.

It prints neither the token nor control characters of a publisher. A group is one minute: the text `2026-11-22
07:30:`, then two digits of seconds a frame.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import re
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Final, NoReturn
from urllib.parse import quote, urlsplit, urlunsplit

from relay import terminal
from relay.client import (
    Client,
    ClientError,
    ClientTls,
    ConnectError,
    GroupAborted,
    GroupReader,
    SessionEnded,
    SubscribeError,
    TrackWriter,
)
from relay.model.path import checked
from relay.terminal import printable
from relay.wire.errors import FIRST_APP_CODE, OldCode, SessionCode
from relay.wire.ietf.codes import SessionCode as IetfCode
from relay.wire.version import ALL_VERSIONS, AnyVersion, preferred, version_from_name

DEFAULT_URL: Final = "http://localhost:4443/"
SCHEMES: Final = ("http", "https", "moqt", "moql", "ws", "wss")

FIRST_PAUSE: Final = 0.5
"""Seconds before the second attempt; each further pause is twice as long."""

LONGEST_PAUSE: Final = 5.0  # seconds: after a restart of the relay clients come back soon

STEADY: Final = 20.0
"""Seconds of an attempt that make the next pause short again. More than any time-out."""

KEPT_MINUTES: Final = 2  # groups for late viewers: this minute, and the last one at its turn

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

MINUTE: Final = "%Y-%m-%d %H:%M:"
SECOND: Final = "%S"

DESCRIPTION: Final = """\
A clock over Media-over-QUIC: publish the time through a relay, or watch it come.

`publish` sends one group per minute and one frame per second, in UTC. `watch` prints a line per second; it waits for
the broadcast to be announced, and again when it goes away. Both connect again when the relay was away.
Flags may stand before and after URL.
"""

EPILOGUE: Final = """\
URL is http:// (a development server: its certificate is fetched first), https:// (WebTransport), moqt:// (raw QUIC) or
ws:// and wss:// (WebSocket); http://localhost:4443/ if left out. A path limits what is seen, as the relay's rules say.

examples:
  moq-clock publish
  moq-clock watch
  moq-clock watch https://relay.example.com/demo --jwt "$TOKEN"
  moq-clock publish moqt://localhost:4443 --tls-disable-verify --version moq-lite-05
  moq-clock watch --version moq-transport-18 --version moq-transport-16 https://relay.example.com/demo

exit status: 0 stopped by a signal, 1 the relay refused or failed for good, 2 wrong usage
"""


@dataclass(frozen=True, slots=True)
class Options:
    """The options of the command line."""

    command: str
    url: str  # with the token in its query: never shown
    broadcast: str
    track: str
    versions: tuple[AnyVersion, ...]
    roots: tuple[Path, ...] | None
    fingerprints: tuple[str, ...]
    disable_verify: bool


# -- the clock


async def seconds(
    now: Callable[[], datetime], sleep: Callable[[float], Awaitable[object]]
) -> AsyncIterator[datetime]:
    """Yield every second once; a timer may fire early."""
    last: datetime | None = None
    while True:
        moment = now().replace(microsecond=0)
        if moment != last:
            last = moment
            yield moment
        await sleep(1 - now().microsecond / 1_000_000)


async def keep_time(track: TrackWriter, moments: AsyncIterator[datetime]) -> None:
    """Write the time to `track` until `moments` ends."""
    group = None
    minute = ""
    async for moment in moments:
        text = moment.strftime(MINUTE)
        if group is None or text != minute:
            if group is not None:
                group.finish()
            minute = text
            group = track.group()
            group.write(minute.encode())
        group.write(moment.strftime(SECOND).encode())


async def read_minute(group: GroupReader, line: Callable[[str], None]) -> None:
    """A line a second; missing seconds of an aborted group are skipped."""
    minute = ""
    with contextlib.suppress(GroupAborted):
        async for frame in group:
            text = printable(frame.payload.decode("utf-8", "replace"))
            if minute:
                line(minute + text)
            else:
                minute = text


# -- one session


async def publish(client: Client, options: Options) -> None:
    """Publish until the session ends."""
    publication = client.publish(options.broadcast)
    track = publication.track(options.track, keep=KEPT_MINUTES)
    say(f"publishing {options.broadcast}, track {options.track}, {client.version.name_on_wire}")
    await keep_time(track, seconds(lambda: datetime.now(UTC), asyncio.sleep))


async def watch(client: Client, options: Options, line: Callable[[str], None]) -> None:
    """Watch until the session ends, through every start and end of the broadcast."""
    path = options.broadcast
    announced = client.announced(path)
    say(f"waiting for {path}, {client.version.name_on_wire}")
    pause = FIRST_PAUSE
    while True:
        await announced.wait_for(path)
        try:
            subscription = await client.subscribe(path, options.track)
            latest = -1
            async for group in subscription:
                pause = FIRST_PAUSE
                if group.sequence < latest:
                    group.stop()  # a past minute
                    continue
                latest = group.sequence
                await read_minute(group, line)
            trouble = "the track has ended"
        except SubscribeError as error:
            trouble = str(error)
        # a subscription and its announcement end on two streams, in either order
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await announced.wait_for(path, active=False)
        if path in announced.live:
            say(f"{path}: {trouble}; trying again")
            pause = min(2 * pause, LONGEST_PAUSE)
        else:
            say(f"{path} went away, waiting for it")
            pause = FIRST_PAUSE


async def attend(client: Client, work: Awaitable[None]) -> None:
    """Do `work` until it fails or the session ends; raises SessionEnded then."""
    working = asyncio.ensure_future(work)
    ending = asyncio.ensure_future(client.closed())
    try:
        await asyncio.wait((working, ending), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
        client.check()
    finally:
        for task in (working, ending):
            task.cancel()
        await asyncio.gather(working, ending, return_exceptions=True)


# -- session after session


class Refused(Exception):  # noqa: N818 - it says what happened
    """The relay, or its certificate, will refuse again."""


async def run(options: Options, *, sleep: Callable[[float], Awaitable[object]] = asyncio.sleep) -> None:
    """Connect and work, again and again, with pauses between. Ends by cancellation, or with Refused."""
    pause = FIRST_PAUSE
    clock = asyncio.get_running_loop().time
    while True:
        begun = clock()
        try:
            async with await connect(options) as client:
                if options.command == "publish":
                    work = publish(client, options)
                else:
                    work = watch(client, options, put_line)
                await attend(client, work)
            trouble = "the session is over"
        except ConnectError as error:
            trouble = str(error)
            client_fault = error.status is not None and error.status < HTTPStatus.INTERNAL_SERVER_ERROR
            if error.kind in ("url", "tls", "protocol") or client_fault:
                raise Refused(trouble) from error
        except ClientError as error:
            trouble = str(error)
            if isinstance(error, SessionEnded) and error.by_peer and error.code in REFUSALS:
                raise Refused(trouble) from error
        if clock() - begun > STEADY:
            pause = FIRST_PAUSE
        say(f"{trouble}; trying again in {pause:g} s")
        await sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


async def connect(options: Options) -> Client:
    """Dial the relay."""
    tls = ClientTls(options.roots, options.fingerprints, options.disable_verify)
    return await Client.connect(options.url, versions=options.versions, tls=tls)


async def until_stopped(options: Options) -> None:
    """Run until a signal says stop."""
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await run(options)


# -- command line


def put_line(text: str) -> None:
    """Print at once, for readers of a pipe."""
    try:
        terminal.write(f"{text}\n")
    except BrokenPipeError:
        raise
    except OSError as error:
        raise Refused(f"standard output: {error.strerror}") from None


def say(text: str) -> None:
    """Print to standard error; standard output has the clock alone."""
    terminal.say(f"moq-clock: {printable(text)}")


class Parser(argparse.ArgumentParser):
    """A fault in one line, with the place of help."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"moq-clock: {printable(message)}\nTry: moq-clock --help\n")


def build_parser() -> Parser:
    """The parser of the command line, with help and defaults."""
    parser = Parser(
        prog="moq-clock",
        usage="moq-clock {publish,watch} [URL] [flags]",
        description=DESCRIPTION,
        epilog=EPILOGUE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("command", type=command_of, metavar="{publish,watch}", help="what to do")
    parser.add_argument("url", metavar="URL", nargs="?", default=DEFAULT_URL, type=url_of, help="the relay")
    parser.add_argument(
        "--broadcast",
        metavar="PATH",
        default="clock",
        type=broadcast_of,
        help="name of the broadcast (clock)",
    )
    parser.add_argument("--track", metavar="NAME", default="seconds", help="name of the track (seconds)")
    parser.add_argument(
        "--version",
        metavar="VERSION",
        action="append",
        type=version_of,
        help="offer only this protocol version, such as moq-lite-04 or moq-transport-18; may be repeated",
    )
    parser.add_argument(
        "--jwt", metavar="TOKEN", help="token, appended to the query of the URL; never printed"
    )
    tls = parser.add_argument_group("whom to trust (default: the system's roots)")
    tls.add_argument("--tls-disable-verify", action="store_true", help="accept any certificate")
    tls.add_argument(
        "--tls-root",
        metavar="FILE",
        action="append",
        type=Path,
        help="PEM file of roots to trust instead; may be repeated",
    )
    tls.add_argument(
        "--tls-fingerprint",
        metavar="HEX",
        action="append",
        type=fingerprint_of,
        help="SHA-256 of the one certificate to trust; may be repeated",
    )
    return parser


def command_of(text: str) -> str:
    """Check the command, which is not quoted in messages: a URL in its place may hold a token."""
    if text not in ("publish", "watch"):
        raise argparse.ArgumentTypeError("want publish or watch")
    return text


def url_of(text: str) -> str:
    """Check a URL as far as one can without dialling."""
    try:
        parts = urlsplit(text)
        usable = parts.scheme in SCHEMES and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable:
        raise argparse.ArgumentTypeError(
            "want http://, https://, moqt://, moql://, ws:// or wss://, a host, and perhaps a port"
        )
    return text


def broadcast_of(text: str) -> str:
    """Bring a path into its normal form."""
    try:
        path = checked(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if not path:
        raise argparse.ArgumentTypeError("a broadcast needs a name")
    return path


def version_of(text: str) -> AnyVersion:
    """ArgumentTypeError lists the valid names."""
    try:
        return version_from_name(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def fingerprint_of(text: str) -> str:
    """Read 64 hex digits, with or without colons."""
    digits = text.replace(":", "").strip().lower()
    if not re.fullmatch("[0-9a-f]{64}", digits):
        raise argparse.ArgumentTypeError("want the 64 hex digits of a SHA-256")
    return digits


def with_token(url: str, token: str | None) -> str:
    """Put `token` into the query of `url`."""
    if token is None:
        return url
    parts = urlsplit(url)
    query = f"jwt={quote(token.strip(), safe='')}"
    return urlunsplit(parts._replace(query=f"{parts.query}&{query}" if parts.query else query))


def read_options(argv: Sequence[str] | None) -> Options:
    """Exits with status 2 if the command line is wrong, 0 after --help."""
    parser = build_parser()
    found, unknown = parser.parse_known_intermixed_args(argv)
    if unknown:
        # names only: after a misspelt --jwt comes a token
        flags = [word.partition("=")[0] for word in unknown if word.startswith("-")]
        parser.error(f"unknown flag {', '.join(flags)}" if flags else "too many arguments")
    return Options(
        command=found.command,
        url=with_token(found.url, found.jwt),
        broadcast=found.broadcast,
        track=found.track,
        versions=preferred(found.version or ALL_VERSIONS),
        roots=tuple(found.tls_root) if found.tls_root else None,
        fingerprints=tuple(found.tls_fingerprint or ()),
        disable_verify=found.tls_disable_verify,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Return the exit status."""
    terminal.open_closed_streams()
    try:
        options = read_options(argv)
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else 2
    # libraries keep quiet: our own lines say what matters
    logging.basicConfig(handlers=[logging.NullHandler()])
    try:
        asyncio.run(until_stopped(options))
    except Refused as refused:
        say(str(refused))
        return 1
    except BrokenPipeError:
        return 0
    except Exception as error:  # noqa: BLE001 - the outermost boundary
        say(f"internal error: {error!r}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
