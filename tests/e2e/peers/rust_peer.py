"""A real moq-lite peer: the Rust client of the PyPI package moq-rs, driven over stdin and stdout.

    python -m tests.e2e.peers.rust_peer publish   URL BROADCAST --track NAME [--groups G ...] [--hold]
    python -m tests.e2e.peers.rust_peer watch     URL BROADCAST --track NAME [--viewers K --frames N ...]
    python -m tests.e2e.peers.rust_peer announced URL [--prefix P] [--timeout T]

Runs under moq-rs 0.5 and 0.3 and needs nothing else. Each event is one JSON object on a line of stdout;
the library's log goes to stderr. SIGTERM or the end of stdin stops it: it reports what it has, closes its
sessions and exits with 0. The exit status is 1 when a session could not be opened.

`publish` keeps its session until it is stopped; without --hold it finishes the track once all is written.
Commands on its stdin: `go` ends the pause of --pause; with --hold `more N` (groups), `finish` (the open
group and the track), `abort CODE` (the track); `unannounce`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import moq

from tests.e2e.peers.frames import numbers, payload
from tests.e2e.peers.rust_client import NEW, Dial, MoqError, connected, describe, emit, race
from tests.e2e.peers.rust_log import Log


class Publisher:
    def __init__(self, args: argparse.Namespace, log: Log, commands: asyncio.Queue[str]) -> None:
        self._args, self._log, self._commands = args, log, commands
        self._broadcast: Any = None
        self._track: Any = None
        self._group: Any = None
        self._groups = self._frames = 0

    async def run(self) -> None:
        args = self._args
        async with connected(dial(args)) as client:
            if NEW:
                self._broadcast = client.create_broadcast(args.broadcast)
                self._track = self._broadcast.publish_track(
                    args.track, moq.TrackInfo(max_age_us=args.max_age_ms * 1000)
                )
                self._broadcast.announce()
            else:
                self._broadcast = moq.BroadcastProducer()
                self._track = self._broadcast.publish_track(args.track)
                client.publish(args.broadcast, self._broadcast)
            try:
                end = await race(client, self._publish(), args.timeout)
            except MoqError as error:
                end = "error"
                emit("error", stage="publish", **describe(error, "session"))
            emit("done", end=end)

    async def _publish(self) -> str:
        args, track = self._args, self._args.track
        if args.wait_for_viewers:
            # not TrackProducer.used(): a TRACK request alone satisfies that, for an instant
            await self._log.until(lambda: self._log.count("live", track) >= args.wait_for_viewers)
            emit("used")
        if args.pause == "start":
            await self._pause()
        await self._write(args.groups)
        if not args.hold:
            self._finish_group()
            self._track.finish()
        # the session stays: its close would drop what is in flight
        while True:
            await self._obey(await self._commands.get())

    async def _pause(self) -> None:
        emit("paused")
        while await self._commands.get() != "go":
            pass

    async def _write(self, groups: int) -> None:
        args, start, before = self._args, time.monotonic(), self._frames
        for _ in range(groups):
            self._finish_group()
            self._group = self._track.append_group()
            for frame in range(args.frames_per_group):
                due = start + (self._frames - before) * args.interval
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                data = payload(self._groups, frame, args.frame_size)
                if NEW:
                    self._group.write_frame(data, time.monotonic_ns() // 1000)
                else:
                    self._group.write_frame(data)
                self._frames += 1
                if args.pause == "first-frame" and self._frames == 1:
                    await self._pause()
                    start = time.monotonic()
            self._groups += 1
        emit("published", groups=self._groups, frames=self._frames)

    def _finish_group(self) -> None:
        if self._group is not None:
            self._group.finish()
            self._group = None

    async def _obey(self, command: str) -> None:
        match command.split():
            case ["more", count]:
                await self._write(int(count))
            case ["finish"]:
                self._finish_group()
                self._track.finish()
            case ["abort", code]:
                self._track.abort(int(code))
            case ["unannounce"]:
                self._broadcast.unannounce() if NEW else self._broadcast.finish()
            case _:
                emit("error", stage="command", message=f"unknown command {command!r}")
                return
        emit("obeyed", command=command)


class Viewer:
    def __init__(self, index: int, args: argparse.Namespace) -> None:
        self._args, self._tag = args, {"viewer": index}
        self._groups: list[tuple[int, list[int]]] = []
        self._bad: list[tuple[int, int]] = []
        self._errors: list[dict[str, Any]] = []
        self._frames = 0
        self._enough = asyncio.Event()

    async def run(self) -> None:
        end = "stopped"
        try:
            async with connected(dial(self._args), **self._tag) as client:
                end = await race(client, self._watch(client), self._args.timeout, **self._tag)
        except ConnectionError:
            end = "refused"
            raise
        finally:
            account = {"groups": self._groups, "bad": self._bad, "errors": self._errors}
            emit("result", **self._tag, end=end, frames=self._frames, **account)

    async def _watch(self, client: Any) -> str:
        stage = "announce"
        tasks: set[asyncio.Task[Any]] = set()
        try:
            broadcast = await self._announced(client)
            if broadcast is None:
                return "closed"
            stage = "subscribe"
            track = await self._subscribe(broadcast)
            receive = asyncio.create_task(self._receive(track))
            enough = asyncio.create_task(self._enough.wait())
            tasks |= {receive, enough}
            await asyncio.sleep(0)  # 0.5 sends its SUBSCRIBE with the first group's request
            emit("subscribed", **self._tag)
            stage = "track"
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            return receive.result() if receive.done() else "frames"
        except MoqError as error:
            self._fail(error, stage=stage)
            return "error"
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _announced(self, client: Any) -> Any:
        path = self._args.broadcast
        updates = client.announced("", hidden=True) if NEW else client.announced("")
        try:
            async for update in updates:
                if NEW and update.active and update.prefix == path:
                    emit("announced", **self._tag, path=path, hops=update.route.hops)
                    return await client.request_broadcast(path)
                if not NEW and update.path == path:
                    emit("announced", **self._tag, path=path, hops=update.hops)
                    return update.broadcast
        finally:
            updates.cancel()
        return None

    async def _subscribe(self, broadcast: Any) -> Any:
        args = self._args
        if not NEW:
            return broadcast.subscribe_track(args.track)
        options = moq.Subscription(priority=args.priority, max_age_us=args.max_age_ms * 1000)
        return await broadcast.subscribe_track(args.track, options)

    async def _receive(self, track: Any) -> str:
        readers: set[asyncio.Task[None]] = set()
        try:
            # recv_group skips nothing; next_group, the plain iteration, drops late groups
            while (group := await track.recv_group()) is not None:
                readers.add(asyncio.create_task(self._read(group)))
            emit("ended", **self._tag)
            await asyncio.gather(*readers)
            return "ended"
        finally:
            for reader in readers:
                reader.cancel()
            await asyncio.gather(*readers, return_exceptions=True)

    async def _read(self, group: Any) -> None:
        sequence, frames = group.sequence, list[int]()
        self._groups.append((sequence, frames))
        try:
            async for item in group:
                data = item.payload if NEW else item
                number, frame = numbers(data) or (-1, -1)
                if number != sequence:
                    self._bad.append((sequence, len(frames)))
                frames.append(frame)
                self._frames += 1
                if self._frames == 1:
                    emit("first_frame", **self._tag, group=sequence, frame=frame)
                if self._args.frames and self._frames >= self._args.frames:
                    self._enough.set()
        except MoqError as error:
            self._fail(error, stage="group", group=sequence)

    def _fail(self, error: Exception, **where: object) -> None:
        account = {**where, **describe(error, "stream")}
        self._errors.append(account)
        emit("error", **self._tag, **account)


def dial(args: argparse.Namespace) -> Dial:
    return Dial(args.url, args.tls_verify, args.explicit_origins, args.fallback)


async def publish(args: argparse.Namespace, log: Log, commands: asyncio.Queue[str]) -> None:
    await Publisher(args, log, commands).run()


async def watch(args: argparse.Namespace, log: Log, commands: asyncio.Queue[str]) -> None:
    viewers = (Viewer(index, args).run() for index in range(args.viewers))
    for failure in await asyncio.gather(*viewers, return_exceptions=True):
        if failure is not None:
            raise failure


async def announced(args: argparse.Namespace, log: Log, commands: asyncio.Queue[str]) -> None:
    async def follow(client: Any) -> str:
        options = {"hidden": True} if NEW else {}
        async for update in client.announced(args.prefix, **options):
            if NEW:
                route = {
                    "hops": update.route.hops,
                    "cost": update.route.cost,
                    "cold": update.route.cold,
                }
                emit("announce" if update.active else "unannounce", path=update.prefix, **route)
            else:
                emit("announce", path=update.path, hops=update.hops)
        return "ended"

    async with connected(dial(args)) as client:
        emit("done", end=await race(client, follow(client), args.timeout))


def listen(on_line: Callable[[str], object], on_end: Callable[[], object]) -> None:
    """In a thread: asyncio cannot poll every kind of stdin."""
    loop = asyncio.get_running_loop()

    def pump() -> None:
        with contextlib.suppress(RuntimeError):  # the loop may be over
            with open(0, "rb", buffering=0, closefd=False) as lines:
                for line in lines:
                    loop.call_soon_threadsafe(on_line, line.decode().strip())
            loop.call_soon_threadsafe(on_end)

    threading.Thread(target=pump, daemon=True).start()


async def main(args: argparse.Namespace) -> int:
    loop, stop, log = asyncio.get_running_loop(), asyncio.Event(), Log()
    commands: asyncio.Queue[str] = asyncio.Queue()

    def on_signal(*_: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop may be over
            loop.call_soon_threadsafe(stop.set)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    listen(commands.put_nowait, stop.set)
    # 0.3 reports a withdrawal only in its debug log
    with log.capture("debug" if args.run is announced and not NEW else args.log):
        work = asyncio.create_task(args.run(args, log, commands))
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait({work, stopped}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        work.cancel()
        try:
            await work
        except asyncio.CancelledError:
            return 0
        except ConnectionError:
            return 1
        return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    p = commands.add_parser("publish")
    p.set_defaults(run=publish)
    add_common(p, named=True)
    option(p, "--groups", 10)
    option(p, "--frames-per-group", 10)
    option(p, "--frame-size", 1000)
    option(p, "--interval", 0.005, "seconds between frames")
    option(p, "--wait-for-viewers", 1, "SUBSCRIBEs to wait for; a relay makes one of all its viewers'")
    option(p, "--max-age-ms", 5000, "how long the track keeps its groups (0.5 only)")
    p.add_argument("--pause", choices=["start", "first-frame"], help="emit `paused` there, await `go`")
    p.add_argument("--hold", action="store_true", help="leave the last group and the track open")

    p = commands.add_parser("watch")
    p.set_defaults(run=watch)
    add_common(p, named=True)
    option(p, "--viewers", 1)
    option(p, "--frames", 0, "stop after so many, 0: at the end of the track")
    option(p, "--max-age-ms", 30_000, "how late a group may come (0.5 only)")
    option(p, "--priority", 0, "0.5 only")

    p = commands.add_parser("announced")
    p.set_defaults(run=announced)
    add_common(p, named=False)
    p.add_argument("--prefix", default="")
    return parser.parse_args()


def add_common(parser: argparse.ArgumentParser, *, named: bool) -> None:
    parser.add_argument("url")
    if named:
        parser.add_argument("broadcast")
        parser.add_argument("--track", required=True)
    option(parser, "--timeout", 60.0, "seconds, once connected")
    origins = "separate ones to publish and to subscribe: without, 0.3 announces back what it hears"
    parser.add_argument("--explicit-origins", action="store_true", help=origins)
    parser.add_argument("--tls-verify", action="store_true", help="for http:// URLs, to pin the fingerprint")
    parser.add_argument("--fallback", action="store_true", help="try WebSocket beside QUIC (0.5 only)")
    option(parser, "--log", "info", "level of the library's log")


def option(parser: argparse.ArgumentParser, name: str, default: float | str, text: str = "") -> None:
    parser.add_argument(name, type=type(default), default=default, help=f"{text} (%(default)s)")


if __name__ == "__main__":
    sys.setswitchinterval(0.0002)  # the library's thread needs the GIL for each wake-up
    status = asyncio.run(main(parse()))
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a late one must not kill a normal end
    sys.exit(status)
