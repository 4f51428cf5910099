"""The command `moq-watch`: records a broadcast into a file or a pipe, or a single track as it is."""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import heapq
import json
import os
import sys
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from relay import terminal
from relay.client import Client, GroupAborted, GroupReader, SubscribeError, Subscription
from relay.commands import sessions
from relay.commands.arguments import URLS, Parser, Target, broadcast_of, text_of
from relay.commands.progress import Progress
from relay.commands.sessions import FIRST_PAUSE, LONGEST_PAUSE, Refused, execute
from relay.media import catalog, library
from relay.media.catalog import Rendition
from relay.media.errors import MediaError
from relay.media.recorder import FORMATS, PIPED, Recorder
from relay.media.unpacking import Frame, Unpacker
from relay.terminal import printable

ORDERED: Final = 1.0
"""Seconds that a group is waited for when a newer one is there. After that it is left out."""

PAST: Final = 0.3  # seconds for older groups to come, at the start

LATENCY: Final = 10_000
"""Milliseconds that a group may be late: a recording prefers completeness."""

LAST_GROUPS: Final = 2.0  # seconds: a broadcast is withdrawn before its last groups are here

QUEUED: Final = 200
"""Frames that wait for the disk, or for the reader of a pipe. While there are more, nothing is read from the relay."""

DESCRIPTION: Final = """\
Record a broadcast of a Media-over-QUIC relay, its best picture and sound, as its hang catalog names them.

The ending of FILE tells the format: .mp4, .mkv, .webm or .ts. `-` is standard output, as Matroska. With TRACK the
payload of that track is written as it is. A broadcast that is not live is waited for; the command ends with it. When
the relay was away, the recording goes on. Flags may stand before and after the other words.
"""

EPILOGUE: Final = f"""\
{URLS}
examples:
  moq-watch http://localhost:4443/ demo/film --out film.mp4
  moq-watch https://relay.example.com/ cam --token-file me.jwt --out - | ffplay -
  moq-watch http://localhost:4443/ demo/film --seconds 10 --out film.mkv
  moq-watch http://localhost:4443/ demo/film catalog.json --seconds 1
  moq-watch http://localhost:4443/ demo/film video/hd --frames | head -3

exit status: 0 the broadcast or the time is over, or a signal came; 1 the relay or the recording failed for good;
2 wrong usage
"""


@dataclass(frozen=True, slots=True)
class Options:
    """The options of the command line."""

    target: Target
    broadcast: str
    track: str | None
    out: str
    frames: bool
    seconds: float | None


class _Over(Exception):  # noqa: N818 - it says what happened
    """All that was wanted is recorded."""


# -- from the relay


async def in_order(subscription: Subscription, *, past: bool = False) -> AsyncIterator[GroupReader]:
    """The groups of a subscription by number: those of short groups can overtake each other.

    With `past` the first ones are older than the one that came first, if the subscription has asked for such.
    """
    clock = asyncio.get_running_loop().time
    waiting: list[tuple[int, GroupReader]] = []
    following: int | None = None
    until: float | None = None  # when the lowest group that is there follows, whatever its number
    coming = asyncio.ensure_future(anext(subscription, None))
    try:
        while True:
            if waiting and (following == waiting[0][0] or (until is not None and clock() >= until)):
                number, group = heapq.heappop(waiting)
                if following is None and not past:
                    # late groups are welcome from here on; on moq-lite-06 this alone would ask for older ones, too
                    subscription.update(start_group=number, max_latency_ms=LATENCY)
                following, until = number + 1, None
                yield group
                continue
            if waiting and until is None:
                until = clock() + (ORDERED if following is not None else PAST if past else 0)
            await asyncio.wait((coming,), timeout=None if until is None else max(0, until - clock()))
            if not coming.done():
                continue
            found = coming.result()
            if found is None:
                while waiting:
                    yield heapq.heappop(waiting)[1]
                return
            if following is not None and found.sequence < following:
                found.stop()
            else:
                heapq.heappush(waiting, (found.sequence, found))
            coming = asyncio.ensure_future(anext(subscription, None))
    finally:
        coming.cancel()
        await asyncio.gather(coming, return_exceptions=True)


async def read_catalog(client: Client, broadcast: str) -> tuple[Rendition, ...]:
    """The renditions of a broadcast now. MediaError, SubscribeError."""
    subscription = await client.subscribe(broadcast, catalog.TRACK, priority=catalog.CATALOG_PRIORITY)
    try:
        async for group in subscription:
            async for frame in group:
                return catalog.Reader().add(frame.payload, first=True)
    except GroupAborted:
        pass
    finally:
        await subscription.close()
    raise MediaError(f"{broadcast}: its track {catalog.TRACK} has ended without a catalog")


# -- a recording


class Recording:
    """Frames on their way from one session after another into one file."""

    def __init__(self, options: Options, progress: Progress) -> None:
        self._options, self._progress = options, progress
        self._recorder: Recorder | None = None
        self._chosen: tuple[Rendition, ...] = ()

    async def follow(self, client: Client) -> None:
        """Record until the broadcast or the time is over. Raises MediaError."""
        path = self._options.broadcast
        announced = client.announced(path)
        if path not in announced.live:
            await wait_for_start(client, path, self._progress)
        renditions = await read_catalog(client, path)
        unpackers = self._choose(renditions)
        frames: asyncio.Queue[Frame] = asyncio.Queue(QUEUED)
        reading = [asyncio.ensure_future(self._read(client, unpacker, frames)) for unpacker in unpackers]
        writing = asyncio.ensure_future(self._write(frames))
        gone = asyncio.ensure_future(announced.wait_for(path, active=False))
        every = asyncio.gather(*reading)
        try:
            await asyncio.wait((every, writing, gone), return_when=asyncio.FIRST_COMPLETED)
            if gone.done() and not writing.done():
                await asyncio.wait((every, writing), timeout=LAST_GROUPS, return_when=asyncio.FIRST_COMPLETED)
            for task in (writing, every):
                if task.done():
                    task.result()
            await asyncio.wait(
                (asyncio.ensure_future(frames.join()), writing), return_when=asyncio.FIRST_COMPLETED
            )
            self._progress.say(f"{path} has ended")
        except _Over:
            pass
        finally:
            for task in (*reading, writing, gone):
                task.cancel()
            await asyncio.gather(*reading, writing, gone, every, return_exceptions=True)

    def close(self) -> None:
        """Complete the file."""
        if self._recorder is not None:
            self._recorder.close()

    def _choose(self, renditions: Iterable[Rendition]) -> list[Unpacker]:
        """The best picture and sound; MediaError if there is none, or not the one that the file began with."""
        found = (catalog.best(renditions, "video"), catalog.best(renditions, "audio"))
        chosen = tuple(rendition for rendition in found if rendition is not None)
        if not chosen:
            raise MediaError(
                f"{self._options.broadcast}: no video and no audio in its catalog that can be read here"
            )
        unpackers = [Unpacker(rendition) for rendition in chosen]
        if self._recorder is None:
            self._progress.describe(chosen)
            self._recorder = open_recorder(self._options.out, unpackers)
        elif chosen != self._chosen:
            raise MediaError("the broadcast came back with other codecs, which the file cannot take")
        else:
            self._recorder.join()
        self._chosen = chosen
        return unpackers

    async def _read(self, client: Client, unpacker: Unpacker, frames: asyncio.Queue[Frame]) -> None:
        """Until the track ends."""
        rendition = unpacker.rendition
        path = catalog.broadcast_of(self._options.broadcast, rendition)
        priority = catalog.PRIORITIES[rendition.kind]
        try:
            # sound also from before, as far as the current group of pictures goes back
            past = rendition.kind == "audio"
            subscription = await client.subscribe(
                path, rendition.track, priority=priority, max_latency_ms=LATENCY if past else 0
            )
            async for group in in_order(subscription, past=past):
                first = group.frame_start == 0
                with contextlib.suppress(GroupAborted):
                    async for part in group:
                        for frame in unpacker.frames(part.payload, first=first):
                            self._progress.count(frame.kind, len(frame.data), frame.time)
                            await frames.put(frame)
                        first = False
        except SubscribeError as error:
            self._progress.say(f"{rendition.track}: {error}")

    async def _write(self, frames: asyncio.Queue[Frame]) -> None:
        recorder, seconds = self._recorder, self._options.seconds
        assert recorder is not None
        while True:
            batch = [await frames.get()]
            while not frames.empty():
                batch.append(frames.get_nowait())
            # a full disk, or the reader of a pipe, may be slow
            await asyncio.to_thread(recorder.write, batch)
            for _ in batch:
                frames.task_done()
            if seconds is not None and recorder.end >= seconds * 1_000_000:
                raise _Over


def open_recorder(out: str, unpackers: Iterable[Unpacker]) -> Recorder:
    """MediaError if the file cannot be made."""
    if out == "-":
        # without a buffer: what it kept back would fail when Python ends
        stdout = open(1, "wb", buffering=0, closefd=False)  # noqa: SIM115 - it stays open
        return Recorder(stdout, PIPED, unpackers)
    return Recorder(out, FORMATS[Path(out).suffix.lower()], unpackers)


async def wait_for_start(client: Client, path: str, progress: Progress) -> None:
    """Wait until a broadcast is announced; says so if it takes a moment."""
    announced = client.announced(path)
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_PAUSE):
                await announced.wait_for(path)
                return
        progress.say(f"waiting for {path}")
        await announced.wait_for(path)
    finally:
        announced.close()


# -- a track as it is


class Copy:
    """The payload of one track."""

    def __init__(self, options: Options, out: BinaryIO, progress: Progress) -> None:
        self._options, self._out, self._progress = options, out, progress
        self._ends: float | None = None
        self._latest = -1

    async def follow(self, client: Client) -> None:
        """Copy until the track, the broadcast or the time is over."""
        path, track = self._options.broadcast, self._options.track
        assert track is not None
        announced = client.announced(path)
        if path not in announced.live:
            await wait_for_start(client, path, self._progress)
        pause = FIRST_PAUSE
        while True:
            try:
                subscription = await client.subscribe(path, track)
                await self._copy(subscription)
            except _Over:
                return
            except SubscribeError as error:
                if path in announced.live and self._latest < 0:
                    self._progress.say(f"{track}: {error}; trying again in {pause:g} s")
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, LONGEST_PAUSE)
                    continue
            self._progress.say(f"{path} {track} has ended")
            return

    async def _copy(self, subscription: Subscription) -> None:
        clock = asyncio.get_running_loop().time
        try:
            async with asyncio.timeout_at(self._ends) as limit:
                async for group in in_order(subscription):
                    if self._ends is None and self._options.seconds is not None:
                        self._ends = clock() + self._options.seconds
                        limit.reschedule(self._ends)
                    await self._group(group)
        except TimeoutError:
            raise _Over from None

    async def _group(self, group: GroupReader) -> None:
        self._latest = group.sequence
        number = group.frame_start
        with contextlib.suppress(GroupAborted):
            async for frame in group:
                if self._options.frames:
                    fields = {
                        "group": group.sequence,
                        "frame": number,
                        "timestamp": frame.timestamp,
                        "size": len(frame.payload),
                        "payload": base64.b64encode(frame.payload).decode(),
                    }
                    self._put(f"{json.dumps(fields)}\n".encode())
                else:
                    self._put(frame.payload)
                number += 1

    def _put(self, data: bytes) -> None:
        try:
            self._out.write(data)
            self._out.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            with contextlib.suppress(OSError):
                self._out.close()  # else it would fail again, with what was not written
            raise Refused(f"cannot write {self._options.out}: {error.strerror}") from error


# -- the command


async def run(options: Options) -> None:
    """Record until the broadcast or the time is over. Raises Refused."""
    try:
        with Progress("moq-watch", say) as progress, contextlib.ExitStack() as files:
            if options.track is not None:
                out = sys.stdout.buffer
                if options.out != "-":
                    out = files.enter_context(open_file(options.out))
                follow = Copy(options, out, progress).follow
            else:
                library.load()
                recording = Recording(options, progress)
                files.callback(recording.close)
                follow = recording.follow
            await sessions.run(options.target.connect, follow, progress.say)
    except MediaError as error:
        raise Refused(str(error)) from error


def open_file(name: str) -> BinaryIO:
    """Refused if it cannot be made."""
    try:
        return Path(name).open("wb")
    except OSError as error:
        raise Refused(f"cannot write {name}: {error.strerror}") from error


def say(text: str) -> None:
    """Print to standard error; standard output has the media."""
    terminal.say(f"moq-watch: {printable(text)}")


def seconds_of(text: str) -> float:
    """Read a number of seconds."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError("want a number of seconds above 0")
    return seconds


def read_options(argv: Sequence[str] | None) -> Options:
    """Exits with status 2 if the command line is wrong, 0 after --help."""
    parser = Parser("moq-watch", "URL BROADCAST [TRACK] [flags]", DESCRIPTION, EPILOGUE)
    parser.add_url(optional=False)
    parser.add_argument("broadcast", metavar="BROADCAST", type=broadcast_of, help="path of the broadcast")
    parser.add_argument(
        "track", metavar="TRACK", nargs="?", type=text_of, help="copy this track alone, as it is"
    )
    parser.add_argument("--out", metavar="FILE", default="-", help="where to write; - is standard output (-)")
    parser.add_argument("--seconds", metavar="N", type=seconds_of, help="end after N seconds")
    parser.add_argument(
        "--frames",
        action="store_true",
        help="with TRACK: a JSON object a line for each frame, payload in base64",
    )
    parser.add_connection()
    found = parser.read(argv)
    if found.frames and found.track is None:
        parser.error("--frames needs a TRACK")
    if found.track is None and found.out == "-" and os.isatty(1):
        parser.error("--out FILE, or a pipe: a terminal cannot show media")
    if found.out != "-" and not Path(found.out).absolute().parent.is_dir():
        parser.error(f"--out {found.out}: there is no such directory")
    if found.track is None and found.out != "-" and Path(found.out).suffix.lower() not in FORMATS:
        parser.error(f"--out {found.out}: want a file that ends in {', '.join(FORMATS)}, or -")
    return Options(parser.target(found), found.broadcast, found.track, found.out, found.frames, found.seconds)


def main(argv: Sequence[str] | None = None) -> int:
    """Return the exit status."""
    return execute(lambda: read_options(argv), run, say)


if __name__ == "__main__":
    sys.exit(main())
