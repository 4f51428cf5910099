"""The command `moq-publish`: publishes a file, a device or a stream through a relay, as a hang broadcast."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import os
import re
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Final

from relay import terminal
from relay.client import Client
from relay.commands import sessions
from relay.commands.arguments import URLS, Parser, Target, broadcast_of, word_of
from relay.commands.progress import Progress
from relay.commands.sessions import Pauses, Refused, execute
from relay.media import library
from relay.media.broadcasting import Broadcast
from relay.media.catalog import CMAF, LEGACY, Rendition
from relay.media.errors import MediaError
from relay.media.feed import Feed, Opened, Trouble
from relay.media.library import shown
from relay.media.source import MICROSECONDS, Input, Sample
from relay.terminal import printable

LATE: Final = 1.0
"""Seconds that a file may fall behind its own clock before the rest is moved: the machine was busy, or asleep."""

DESCRIPTION: Final = """\
Publish a file, a camera or a stream through a Media-over-QUIC relay, for players that read hang catalogs.

INPUT is whatever FFmpeg's libraries read: a file (mp4, mkv, webm, ts), a URL (rtsp, rtmp, srt, http, HLS), a device
with --format, or `testsrc`, a test picture with a clock and a tone. A file plays in real time. H.264, H.265, VP8, VP9,
AV1, Opus and AAC are sent as they are, other codecs need --transcode. When the relay or a stream of the network goes
away, it is tried again and again. Flags may stand before and after INPUT and URL.
"""

EPILOGUE: Final = f"""\
{URLS}
examples:
  moq-publish testsrc
  moq-publish film.mp4 http://localhost:4443/ --broadcast demo/film --loop
  moq-publish rtsp://camera.example/stream https://relay.example.com/ --broadcast cam --token-file cam.jwt
  moq-publish /dev/video0 --format v4l2 --option video_size=1280x720 --transcode

exit status: 0 the input has ended or a signal came, 1 the input or the relay failed for good, 2 wrong usage
"""


@dataclass(frozen=True, slots=True)
class Options:
    """The options of the command line."""

    input: Input
    target: Target
    broadcast: str
    loop: bool


class Publisher:
    """Plays the input into one session after another. It goes on in real time while there is no session."""

    def __init__(self, options: Options, progress: Progress) -> None:
        self._options = options
        self._progress = progress
        self._pauses = Pauses()
        self._renditions: tuple[Rendition, ...] = ()
        self._broadcast: Broadcast | None = None
        self._ready = asyncio.Event()  # the renditions are known
        self._playing: asyncio.Task[None] | None = None
        self._hop: int | None = None

    async def dial(self) -> Client:
        """Connect, each time under the same origin id: viewers stay subscribed when a session is replaced."""
        client = await self._options.target.connect(hop=self._hop)
        self._hop = client.hop
        return client

    async def serve(self, client: Client) -> None:
        """Publish through a session until the input ends; MediaError if it cannot be used."""
        if self._playing is None:
            self._playing = asyncio.ensure_future(self._play())
        ready = asyncio.ensure_future(self._ready.wait())
        try:
            await asyncio.wait((ready, self._playing), return_when=asyncio.FIRST_COMPLETED)
            if not ready.done():
                await self._playing  # raises what is wrong with the input
                return
            name = self._options.broadcast
            publication = client.publish(name, announce=False)
            self._broadcast = broadcast = Broadcast(publication, self._renditions)
            publication.announce()
            self._progress.say(f"publishing {name}, {client.version.name_on_wire}")
            try:
                await asyncio.shield(self._playing)
            finally:
                self._broadcast = None
                # also when a signal came: viewers see the end of the tracks
                with contextlib.suppress(Exception):
                    broadcast.finish()
        finally:
            ready.cancel()

    async def close(self) -> None:
        """Stop reading the input."""
        if self._playing is not None:
            self._playing.cancel()
            await asyncio.gather(self._playing, return_exceptions=True)

    async def _play(self) -> None:
        """Send each sample when its time comes."""
        clock = asyncio.get_running_loop().time
        live = self._options.input.live
        start: float | None = None  # on `clock`, of the first sample
        offset = end = 0  # microseconds
        feed = Feed(self._options.input, loop=self._options.loop, pause=lambda: self._pauses.next(0))
        async for item in feed:
            match item:
                case Trouble():
                    self._progress.say(item.text)
                    if self._broadcast is not None:
                        self._broadcast.end_groups()
                case Opened():
                    passed = 0 if start is None else int((clock() - start) * MICROSECONDS)
                    # viewers must not go back in time, should the stream have run ahead
                    offset = max(passed, end) if item.offset is None else item.offset
                    self._describe(item.renditions)
                case Sample():
                    self._pauses = Pauses()
                    due = (item.due + offset) / MICROSECONDS
                    if start is None:
                        start = clock() - due
                    wait = start + due - clock()
                    if not live and wait > 0:
                        await asyncio.sleep(wait)
                    elif not live and wait < -LATE:
                        start -= wait
                    end = max(end, item.time + item.duration + offset)
                    self._progress.count(item.kind, len(item.data), item.time + offset)
                    if self._broadcast is not None:
                        self._broadcast.write(item, offset)
                        self._progress.watched = self._broadcast.watched

    def _describe(self, renditions: tuple[Rendition, ...]) -> None:
        """Show, and tell viewers, what the tracks are."""
        if renditions != self._renditions:
            self._progress.describe(renditions)
            self._renditions = renditions
            if self._broadcast is not None:
                self._broadcast.describe(renditions)
        self._ready.set()


async def run(options: Options, *, sleep: Callable[[float], Awaitable[object]] = asyncio.sleep) -> None:
    """Publish until the input ends. Raises Refused."""
    if options.input.missing:  # before a relay is waited for
        raise Refused(f"cannot open {options.input.shown}: {os.strerror(errno.ENOENT)}")
    try:
        library.load()
        with Progress("moq-publish", say) as progress:
            publisher = Publisher(options, progress)
            try:
                await sessions.run(publisher.dial, publisher.serve, progress.say, sleep=sleep)
            finally:
                await publisher.close()
    except MediaError as error:
        raise Refused(str(error)) from error


# -- command line


def say(text: str) -> None:
    """Print to standard error."""
    terminal.say(f"moq-publish: {printable(text)}")


def option_of(text: str) -> tuple[str, str]:
    """Read NAME=VALUE."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError("want NAME=VALUE")
    return name, value


def name_of(place: str) -> str:
    """The name of a broadcast for an input: that of the file, without its ending."""
    path = shown(place).partition("://")[2].partition("/")[2] if "://" in place else place
    name = re.sub(r"[^\w.-]+", "-", PurePath(path).stem).strip("-.")
    return name or "live"


def read_options(argv: Sequence[str] | None) -> Options:
    """Exits with status 2 if the command line is wrong, 0 after --help."""
    parser = Parser("moq-publish", "INPUT [URL] [flags]", DESCRIPTION, EPILOGUE)
    parser.add_argument("input", metavar="INPUT", help="a file, a device, a URL, or testsrc")
    parser.add_url()
    parser.add_argument(
        "--broadcast", metavar="PATH", type=broadcast_of, help="name of the broadcast (the file's name)"
    )
    parser.add_argument("--loop", action="store_true", help="start again at the end of a file")
    parser.add_argument("--transcode", action="store_true", help="encode what players do not take")
    parser.add_argument("--format", metavar="NAME", help="FFmpeg's name of the input's format, such as v4l2")
    parser.add_argument(
        "--option",
        metavar="NAME=VALUE",
        action="append",
        type=option_of,
        help="an option of FFmpeg for the input; may be repeated",
    )
    parser.add_argument(
        "--container",
        metavar="{legacy,cmaf}",
        default=LEGACY,
        type=word_of(LEGACY, CMAF),
        help="how frames are packed: legacy, which costs less, or cmaf (legacy)",
    )
    parser.add_connection()
    found = parser.read(argv)
    wanted = Input(found.input, found.format, tuple(found.option or ()), found.transcode, found.container)
    if found.loop and wanted.live:
        parser.error("--loop is for files: this input is live")
    name = found.broadcast or name_of(found.input)
    return Options(wanted, parser.target(found), name, found.loop)


def main(argv: Sequence[str] | None = None) -> int:
    """Return the exit status."""
    return execute(lambda: read_options(argv), run, say)


if __name__ == "__main__":
    sys.exit(main())
