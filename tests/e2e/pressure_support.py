"""Live tracks over a bad network, and viewers that record arrival and age of each frame.

    async with stage() as on:
        source = on.source("video", Shape(30, 8300, 6))
        watch = await (await on.viewer()).watch("video")
        on.weather.down.rate = source.shape.rate / 2
        await source.run(4.0)
        assert max(arrival.age for arrival in watch.arrivals) < 1.0

Source, relay and viewers share one event loop and so one clock. A `VirtualLoop` makes ages independent of the
machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import struct
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from relay.actors.connection import ConnectionActor
from relay.app import Relay
from relay.client import (
    Client,
    GroupAborted,
    GroupReader,
    Publication,
    SessionEnded,
    Subscription,
    TrackWriter,
)
from relay.model.limits import Limits
from relay.quic.driver import Driver
from relay.quic.settings import QuicSettings
from relay.quic.trust import ClientTls
from relay.transport.client import connect
from relay.transport.quic_session import QuicSession
from relay.wire.version import Version
from tests.clock import RUNTIME
from tests.e2e.harness import free_udp_port
from tests.e2e.support import raw, running
from tests.e2e.udp_proxy import UdpProxy, Weather

ANYONE: Final = ClientTls(disable_verify=True)
PATH: Final = "demo/cam"
STAMP: Final = struct.Struct(">dI")
"""Header of each frame: time of writing, and number in the group."""


@dataclass(frozen=True, slots=True)
class Shape:
    fps: float
    size: int
    """Bytes of a frame."""
    group: int
    """Frames of a group."""

    @property
    def rate(self) -> float:
        """Payload bytes per second."""
        return self.fps * self.size

    @property
    def span(self) -> float:
        """Seconds of a group."""
        return self.group / self.fps


VIDEO: Final = Shape(30, 8300, 6)
"""2 Mbit/s, with some twenty groups in a few seconds."""

AUDIO: Final = Shape(50, 160, 1)

SMALL_WINDOW: Final = 16_384
"""Unread bytes of a session that stalls soon."""


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def freeze(client: Client) -> None:
    """Grant no more flow control credit. The session stays healthy: packets are acknowledged."""
    _driver(client).quic.streams._window = 0


def thaw(client: Client, count: int) -> None:
    """Grant so many bytes more."""
    driver = _driver(client)
    driver.quic.streams._receive_limit += count
    driver.wake()


def _driver(client: Client) -> Driver:
    assert isinstance(client.session, QuicSession)
    return client.session.driver


async def trickle(client: Client, rate: float, every: float = 0.05) -> None:
    """Grant `rate` bytes per second."""
    while True:
        await asyncio.sleep(every)
        thaw(client, math.ceil(rate * every))


class Source:
    """Writes a track at a steady pace: the clock decides which frame is due."""

    def __init__(self, track: TrackWriter, shape: Shape) -> None:
        self.track = track
        self.shape = shape
        self.groups = 0

    async def run(self, seconds: float) -> None:
        """Whole groups."""
        loop = asyncio.get_running_loop()
        shape = self.shape
        begin = loop.time()
        filler = bytes(shape.size - STAMP.size)
        for index in range(max(1, round(seconds / shape.span))):
            group = self.track.group()
            for number in range(shape.group):
                due = begin + (index * shape.group + number) / shape.fps
                await asyncio.sleep(due - loop.time())
                group.write(STAMP.pack(loop.time(), number) + filler)
            group.finish()
            self.groups += 1


class Arrival(NamedTuple):
    at: float
    age: float
    group: int
    number: int


class Watch:
    def __init__(self, subscription: Subscription) -> None:
        self.subscription = subscription
        self.arrivals: list[Arrival] = []
        self.begun: list[int] = []
        """In order of arrival."""
        self.whole: list[int] = []
        """Complete groups, in order of their ends."""
        self.broken: dict[int, int] = {}
        """Codes of aborted groups."""
        self.ended = False
        self._changed = asyncio.Event()
        self._task = asyncio.create_task(self._watch())

    async def until(self, check: Callable[[], object], within: float = 60.0) -> None:
        async with asyncio.timeout(within):
            while not check():
                self._changed.clear()
                await self._changed.wait()

    async def leave(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    def ages(self, begin: float = 0.0, end: float = math.inf) -> list[float]:
        """Of frames received between two moments."""
        return [arrival.age for arrival in self.arrivals if begin <= arrival.at < end]

    def check_boundaries(self, per_group: int) -> None:
        """Each group is an unbroken prefix; an incomplete one was reset."""
        numbers: dict[int, list[int]] = {}
        for arrival in self.arrivals:
            numbers.setdefault(arrival.group, []).append(arrival.number)
        for sequence, found in numbers.items():
            assert found == list(range(len(found))), (sequence, found)
            assert len(found) <= per_group, (sequence, found)
        for sequence in self.whole:
            assert len(numbers[sequence]) == per_group, (sequence, numbers[sequence])
        assert sorted(self.begun) == sorted(set(self.begun)), self.begun
        assert set(self.begun) == {*self.whole, *self.broken}, (self.begun, self.whole, self.broken)

    async def _watch(self) -> None:
        with contextlib.suppress(SessionEnded):
            async with asyncio.TaskGroup() as readers:
                async for group in self.subscription:
                    self.begun.append(group.sequence)
                    readers.create_task(self._read(group))
            self.ended = True
            self._changed.set()

    async def _read(self, group: GroupReader) -> None:
        clock = asyncio.get_running_loop().time
        try:
            async for frame in group:
                now = clock()
                written, number = STAMP.unpack_from(frame.payload)
                self.arrivals.append(Arrival(now, now - written, group.sequence, number))
                self._changed.set()
            self.whole.append(group.sequence)
        except GroupAborted as error:
            self.broken[group.sequence] = error.code
        self._changed.set()


class Viewer:
    def __init__(self, client: Client) -> None:
        self.client = client
        self.watches: list[Watch] = []

    async def watch(self, track: str, **options: Any) -> Watch:
        """`options` are those of `Client.subscribe`."""
        async for change in self.client.announced():
            if change.path == PATH:
                break
        watch = Watch(await self.client.subscribe(PATH, track, **options))
        self.watches.append(watch)
        return watch

    async def close(self) -> None:
        for watch in self.watches:
            await watch.leave()
        await self.client.close()


class Stage:
    """A relay, a publisher beside it, and viewers, behind a bad network or beside the relay."""

    def __init__(self, relay: Relay, proxy: UdpProxy, publication: Publication) -> None:
        self.relay = relay
        self.proxy = proxy
        self._publication = publication
        self._viewers: list[Viewer] = []

    async def close(self) -> None:
        """On a good network."""
        self.weather.both()
        self.weather.down.rate = self.weather.up.rate = None
        await asyncio.gather(*(viewer.close() for viewer in self._viewers))

    @property
    def weather(self) -> Weather:
        """The network of all viewers; each has its own bottleneck."""
        return self.proxy.weather()

    def source(self, track: str, shape: Shape) -> Source:
        return Source(self._publication.track(track, keep=64), shape)

    async def viewer(
        self,
        *,
        behind: bool = True,
        versions: tuple[Version, ...] = tuple(Version),
        window: int | None = None,
    ) -> Viewer:
        """Behind the network, or beside the relay. `window`: unread bytes."""
        port = self.proxy.port if behind else self.relay.port
        settings = QuicSettings() if window is None else QuicSettings(connection_window=window)
        session = await connect(
            f"moqt://127.0.0.1:{port}/", versions=versions, tls=ANYONE, settings=settings, runtime=RUNTIME
        )
        viewer = Viewer(Client(session, versions=versions, runtime=RUNTIME))
        self._viewers.append(viewer)
        await viewer.client.start()
        return viewer

    def backlogs(self, sessions: Collection[int] | None = None) -> dict[int, int]:
        """Unsent bytes of sessions with a subscription, by number."""
        found: dict[int, int] = {}
        for number, ref in self.relay.connections.items():
            if sessions is not None and number not in sessions:
                continue
            actor = ref._actor_weakref()
            assert isinstance(actor, ConnectionActor)
            for delivery in actor._moq.serving._deliveries.values():
                found[number] = found.get(number, 0) + delivery.backlog.measure()
        return found

    async def viewers(self, count: int, **options: Any) -> list[Viewer]:
        return await asyncio.gather(*(self.viewer(**options) for _ in range(count)))


@contextlib.asynccontextmanager
async def stage(
    *, limits: Limits | None = None, versions: tuple[Version, ...] = tuple(Version), seed: int = 1
) -> AsyncIterator[Stage]:
    """Default limits are those of the configuration."""
    async with (
        running(limits=limits or Limits(), versions=versions) as relay,
        contextlib.AsyncExitStack() as stack,
    ):
        proxy = stack.enter_context(UdpProxy(free_udp_port(), relay.port, seed=seed))
        client = await stack.enter_async_context(
            await Client.connect(raw(relay), tls=ANYONE, runtime=RUNTIME)
        )
        on = Stage(relay, proxy, client.publish(PATH))
        stack.push_async_callback(on.close)
        yield on
