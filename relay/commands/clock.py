"""The command `moq-clock`: publishes the time through a relay, or watches it. The smallest use of `relay.client`.

It prints neither the token nor control characters of a publisher. A group is one minute: the text `2026-11-22
07:30:`, then two digits of seconds a frame.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from relay import terminal
from relay.client import Client, GroupAborted, GroupReader, SubscribeError, TrackWriter
from relay.commands import sessions
from relay.commands.arguments import URLS, Parser, Target, broadcast_of, text_of, word_of
from relay.commands.sessions import FIRST_PAUSE, LONGEST_PAUSE, execute, put_line
from relay.terminal import printable

KEPT_MINUTES: Final = 2  # groups for late viewers: this minute, and the last one at its turn

MINUTE: Final = "%Y-%m-%d %H:%M:"
SECOND: Final = "%S"

DESCRIPTION: Final = """\
A clock over Media-over-QUIC: publish the time through a relay, or watch it come.

`publish` sends one group per minute and one frame per second, in UTC. `watch` prints a line per second; it waits for
the broadcast to be announced, and again when it goes away. Both connect again when the relay was away.
Flags may stand before and after URL.
"""

EPILOGUE: Final = f"""\
{URLS}
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
    target: Target
    broadcast: str
    track: str


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


# -- session after session


async def run(options: Options, *, sleep: Callable[[float], Awaitable[object]] = asyncio.sleep) -> None:
    """Publish or watch. Ends by cancellation, or with Refused."""

    async def work(client: Client) -> None:
        if options.command == "publish":
            await publish(client, options)
        else:
            await watch(client, options, put_line)

    await sessions.run(lambda: connect(options), work, say, sleep=sleep)


async def connect(options: Options) -> Client:
    """Dial the relay."""
    return await options.target.connect()


# -- command line


def say(text: str) -> None:
    """Print to standard error; standard output has the clock alone."""
    terminal.say(f"moq-clock: {printable(text)}")


def build_parser() -> Parser:
    """The parser of the command line, with help and defaults."""
    parser = Parser("moq-clock", "{publish,watch} [URL] [flags]", DESCRIPTION, EPILOGUE)
    parser.add_argument(
        "command", type=word_of("publish", "watch"), metavar="{publish,watch}", help="what to do"
    )
    parser.add_url()
    parser.add_argument(
        "--broadcast",
        metavar="PATH",
        default="clock",
        type=broadcast_of,
        help="name of the broadcast (clock)",
    )
    parser.add_argument(
        "--track", metavar="NAME", default="seconds", type=text_of, help="name of the track (seconds)"
    )
    parser.add_connection()
    return parser


def read_options(argv: Sequence[str] | None) -> Options:
    """Exits with status 2 if the command line is wrong, 0 after --help."""
    parser = build_parser()
    found = parser.read(argv)
    return Options(found.command, parser.target(found), found.broadcast, found.track)


def main(argv: Sequence[str] | None = None) -> int:
    """Return the exit status."""
    return execute(lambda: read_options(argv), run, say)


if __name__ == "__main__":
    sys.exit(main())
