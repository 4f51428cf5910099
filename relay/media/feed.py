"""A thread that reads an input, and what it reads as an asynchronous stream: PyAV blocks.

It opens the input again, with growing pauses, when it comes from the network and breaks off, and at its end with
`loop`. Times go on where they were, so that players see one broadcast.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import Final

from relay.media.catalog import Rendition
from relay.media.errors import MediaError
from relay.media.source import MICROSECONDS, Input, InputGone, Opener, Sample, Source

QUEUED: Final = 100
"""Samples that wait: a second or so. The thread waits when there are more."""


@dataclass(frozen=True, slots=True)
class Opened:
    """The input was opened, for the first time or again."""

    renditions: tuple[Rendition, ...]
    offset: int | None
    """microseconds to add to the times of the samples that follow; None: as many as have passed"""


@dataclass(frozen=True, slots=True)
class Trouble:
    """The input broke off, or could not be opened; it will be tried again."""

    text: str


Item = Opened | Sample | Trouble


class Feed:
    """Items of an input, in order. Iterate over it once."""

    def __init__(
        self,
        wanted: Input,
        *,
        loop: bool = False,
        pause: Callable[[], float],
        opener: Opener = Source,
    ) -> None:
        """`pause` gives the seconds to wait before the next attempt."""
        self._wanted, self._again, self._pause, self._opener = wanted, loop, pause, opener
        self._items: asyncio.Queue[Item | Exception | None] = asyncio.Queue(QUEUED)
        self._stopped = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def __aiter__(self) -> AsyncIterator[Item]:
        """Raises MediaError if the input cannot be used."""
        self._loop = asyncio.get_running_loop()
        # a read from the network may block for long: the end of the process must not wait for it
        threading.Thread(target=self._run, name="input", daemon=True).start()
        try:
            while (item := await self._items.get()) is not None:
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            self._stopped.set()
            while not self._items.empty():
                self._items.get_nowait()

    def _run(self) -> None:
        try:
            with contextlib.suppress(_Stopped):
                self._read()
                self._put(None)
        except Exception as error:  # noqa: BLE001 - it is raised where the items are read
            with contextlib.suppress(_Stopped):
                self._put(error)

    def _read(self) -> None:
        offset: int | None = 0
        while True:
            trouble = ""
            try:
                source = self._opener(self._wanted)
            except InputGone as error:
                self._wait(str(error))
                offset = None
                continue
            try:
                self._put(Opened(source.renditions, offset))
                for sample in source.samples():
                    self._put(sample)
            except InputGone as error:
                trouble = str(error)
            finally:
                source.close()
            if trouble or self._wanted.live:
                self._wait(trouble or f"{self._wanted.shown} has ended")
                offset = None
            elif not self._again:
                return
            elif not source.end:
                raise MediaError(f"{self._wanted.shown}: nothing in it to repeat")
            elif offset is not None:
                offset += source.end

    def _wait(self, trouble: str) -> None:
        pause = self._pause()
        self._put(Trouble(f"{trouble}; trying again in {pause:g} s"))
        if self._stopped.wait(pause):
            raise _Stopped

    def _put(self, item: Item | Exception | None) -> None:
        if self._stopped.is_set():
            raise _Stopped
        assert self._loop is not None
        putting = self._items.put(item)
        try:
            asyncio.run_coroutine_threadsafe(putting, self._loop).result()
        except (RuntimeError, CancelledError) as error:  # the event loop is over
            putting.close()
            raise _Stopped from error


class _Stopped(Exception):  # noqa: N818 - it says what happened
    """There is no reader any more."""


def seconds(microseconds: int) -> float:
    """As the event loop's clock counts."""
    return microseconds / MICROSECONDS
