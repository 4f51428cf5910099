"""Actors: a message between two, and the frames of a group from the track to its viewers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from relay.actors.messages import Deliver
from relay.actors.runtime import LoopActor, Ref, halt, send
from relay.actors.track import TrackActor
from relay.model.limits import Limits
from tests.actors.fakes import Fake, FakePublisher, FakeSubscriber, part
from tests.clock import RUNTIME, settle

MESSAGES = 1000
FRAMES = 60
SIZE = 8300


class Ping(NamedTuple):
    """Remaining round trips."""

    left: int


class Meet(NamedTuple):
    """The other player, and the event to set at the end."""

    other: Ref
    done: asyncio.Event


class Player(LoopActor):
    """Returns each ping."""

    def __init__(self) -> None:
        super().__init__(RUNTIME)
        self.other: Ref | None = None
        self.done: asyncio.Event | None = None

    def on_receive(self, message: object) -> object:
        match message:
            case Ping(0) if self.done is not None:
                self.done.set()
            case Ping(left) if self.other is not None:
                send(self.other, Ping(left - 1))
            case Meet():
                self.other, self.done = message
        return None


@pytest.fixture
def loop() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


def test_1000_messages_to_and_fro(benchmark: Any, loop: asyncio.Runner) -> None:
    benchmark.group = "1000 messages"

    async def prepare() -> tuple[Ref, Ref, asyncio.Event]:
        done = asyncio.Event()
        one, two = Player.start(), Player.start()
        send(one, Meet(two, done))
        send(two, Meet(one, done))
        await settle()
        return one, two, done

    one, two, done = loop.run(prepare())

    async def play() -> None:
        done.clear()
        send(one, Ping(MESSAGES))
        await done.wait()

    async def finish() -> None:
        halt(one)
        halt(two)
        await settle()

    benchmark(lambda: loop.run(play()))
    loop.run(finish())


@pytest.mark.parametrize("viewers", [1, 10, 100])
def test_60_frames_through_a_track(benchmark: Any, loop: asyncio.Runner, viewers: int) -> None:
    """Each frame in a turn of its own, as in live video."""
    benchmark.group = "a group of 60 frames through a track"
    payload = bytes(SIZE)
    audience: list[FakeSubscriber] = []
    state: dict[str, Any] = {}
    sequence = 0

    async def prepare() -> None:
        state["others"] = [Fake(), FakePublisher()]
        track = TrackActor.start(
            RUNTIME,
            broadcast=state["others"][0].ref,
            source=state["others"][1].ref,
            path="room/cam",
            name="video",
            limits=Limits(cache_groups=2),
        )
        state["track"] = track
        for _ in range(viewers):
            viewer = FakeSubscriber()
            viewer.subscribe(track)
            audience.append(viewer)
        await settle()

    def forget() -> None:
        for fake in (*audience, *state["others"]):
            fake.log.clear()

    async def feed() -> None:
        nonlocal sequence
        source: FakePublisher = state["others"][1]
        for frame in range(FRAMES):
            last = frame == FRAMES - 1
            source.groups(state["track"], part(sequence, payload, fin=last, first_frame=frame))
            await settle()
        sequence += 1

    async def finish() -> None:
        for fake in (*audience, *state["others"]):
            halt(fake.ref)
        halt(state["track"])
        await settle()

    loop.run(prepare())
    benchmark.pedantic(lambda: loop.run(feed()), setup=forget, rounds=30, warmup_rounds=2)
    assert all(len(viewer.got(Deliver)) == FRAMES for viewer in audience)
    loop.run(finish())
