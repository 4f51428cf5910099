"""The thread that reads an input: repeats, interruptions, and its end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from relay.media.catalog import Rendition
from relay.media.errors import MediaError
from relay.media.feed import Feed, Item, Opened, Trouble
from relay.media.source import Input, InputGone, Sample

SOUND = Rendition("audio", "audio/data", "opus", sample_rate=48_000, channels=2)
FILE, CAMERA = Input("film.mp4"), Input("rtsp://user:secret@camera/1")


def sample(time: int) -> Sample:
    return Sample("audio", b"x", time, time, 10, key=True)


class FakeSource:
    """Gives samples, and then breaks off if it is told to."""

    def __init__(self, times: tuple[int, ...], fault: Exception | None = None) -> None:
        self.renditions = (SOUND,)
        self.times, self.fault = times, fault
        self.end = max(times, default=-10) + 10
        self.closed = False

    def samples(self) -> Iterator[Sample]:
        yield from map(sample, self.times)
        if self.fault is not None:
            raise self.fault

    def close(self) -> None:
        self.closed = True


class Inputs:
    """What each attempt to open the input gives."""

    def __init__(self, *outcomes: FakeSource | Exception) -> None:
        self.outcomes = list(outcomes)
        self.pauses = 0

    def __call__(self, _: Input) -> Any:
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def pause(self) -> float:
        self.pauses += 1
        return 0.001


async def read(wanted: Input, inputs: Inputs, *, count: int | None = None, loop: bool = False) -> list[Item]:
    found: list[Item] = []
    async for item in Feed(wanted, loop=loop, pause=inputs.pause, opener=inputs):
        found.append(item)
        if len(found) == count:
            break
    return found


async def test_a_file_is_read_once() -> None:
    source = FakeSource((0, 10))
    assert await read(FILE, Inputs(source)) == [Opened((SOUND,), 0), sample(0), sample(10)]
    assert source.closed


async def test_times_go_on_when_a_file_is_repeated() -> None:
    inputs = Inputs(*(FakeSource((0, 10)) for _ in range(3)))
    found = await read(FILE, inputs, count=7, loop=True)
    assert [item.offset for item in found if isinstance(item, Opened)] == [0, 20, 40]


async def test_an_empty_file_is_not_repeated() -> None:
    with pytest.raises(MediaError, match=r"film\.mp4: nothing in it to repeat"):
        await read(FILE, Inputs(FakeSource(())), loop=True)


async def test_a_stream_that_breaks_off_is_opened_again() -> None:
    inputs = Inputs(
        InputGone("cannot open it"),
        FakeSource((0,), InputGone("broken off")),
        FakeSource((0,)),
        FakeSource((5,)),
    )
    found = await read(CAMERA, inputs, count=9)
    assert found == [
        Trouble("cannot open it; trying again in 0.001 s"),
        Opened((SOUND,), None),
        sample(0),
        Trouble("broken off; trying again in 0.001 s"),
        Opened((SOUND,), None),
        sample(0),
        Trouble("rtsp://camera/1 has ended; trying again in 0.001 s"),
        Opened((SOUND,), None),
        sample(5),
    ]


@pytest.mark.parametrize("fault", [MediaError("no film"), KeyError("oh")])
async def test_a_fault_is_raised_where_the_items_are_read(fault: Exception) -> None:
    with pytest.raises(type(fault)):
        await read(FILE, Inputs(fault))


async def test_the_thread_ends_when_nobody_reads() -> None:
    inputs = Inputs(FakeSource(tuple(range(10_000))))
    assert len(await read(FILE, inputs, count=3)) == 3
    for thread in threading.enumerate():
        if thread.name == "input":
            await asyncio.to_thread(thread.join, 10)
            assert not thread.is_alive()


@pytest.mark.parametrize(
    ("place", "format", "live", "remote", "shown"),
    [
        ("film.mp4", None, False, False, "film.mp4"),
        ("https://u:p@h/film.mp4?t=1", None, False, True, "https://h/film.mp4"),
        ("rtsp://u:p@h:1/x?y", None, True, True, "rtsp://h:1/x"),
        ("/dev/video0", "v4l2", True, True, "/dev/video0"),
        ("testsrc", None, False, False, "testsrc"),
        ("mandelbrot", "lavfi", False, False, "mandelbrot"),
        ("srt://[bad/x", None, True, True, "srt://..."),
    ],
)
def test_kinds_of_inputs(place: str, format: str | None, live: bool, remote: bool, shown: str) -> None:  # noqa: A002
    found = Input(place, format)
    assert (found.live, found.remote, found.shown) == (live, remote, shown)
