"""What a media command shows while it runs: one line on a terminal that is renewed, else a line now and then."""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Final, Self

from relay.commands.sessions import Say
from relay.media.catalog import Rendition
from relay.terminal import give_up, printable

RENEWED: Final = 1.0  # seconds between two states of the line
LOGGED: Final = 30.0  # seconds between two lines where there is no terminal

CLEAR: Final = "\r\x1b[K"


class Progress:
    """Counts frames and bytes, and shows rates. Use it as a context, in a running event loop."""

    def __init__(self, name: str, say: Say) -> None:
        self.watched: Sequence[str] | None = None
        """kinds of media that somebody watches; None where that is not shown"""

        self._name, self._say = name, say
        self._terminal = sys.stderr.isatty()
        self._frames: Counter[str] = Counter()
        self._bytes = 0
        self._time = 0  # microseconds, of the latest sample
        self._shown_frames: Counter[str] = Counter()
        self._shown_bytes = 0
        self._shown_at = 0.0
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        self._shown_at = self._loop.time()
        self._plan()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._timer is not None
        self._timer.cancel()
        if self._terminal:
            self._put(CLEAR)

    def say(self, text: str) -> None:
        """Print a line that stays."""
        if self._terminal:
            self._put(CLEAR)
        self._say(text)

    def describe(self, renditions: Iterable[Rendition]) -> None:
        """Print what the tracks are."""
        for rendition in renditions:
            facts = [f"{rendition.track}: {rendition.codec}"]
            if rendition.width:
                facts.append(f"{rendition.width}x{rendition.height}")
            if rendition.framerate:
                facts.append(f"{rendition.framerate:g} fps")
            if rendition.sample_rate:
                facts.append(f"{rendition.sample_rate} Hz, {rendition.channels} channels")
            self.say(", ".join(facts))

    def count(self, kind: str, size: int, time: int) -> None:
        """Count a frame of `size` bytes, presented at `time` in microseconds."""
        self._frames[kind] += 1
        self._bytes += size
        self._time = max(self._time, time)

    def _plan(self) -> None:
        self._timer = self._loop.call_later(RENEWED if self._terminal else LOGGED, self._show)

    def _show(self) -> None:
        now = self._loop.time()
        passed = max(now - self._shown_at, 1e-3)
        pictures = self._frames["video"] - self._shown_frames["video"]
        rate = 8e-6 * (self._bytes - self._shown_bytes) / passed
        seconds = self._time // 1_000_000
        parts = [
            f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}",
            f"{sum(self._frames.values())} frames",
            f"{pictures / passed:.0f} fps",
            f"{rate:.2f} Mbit/s",
        ]
        if self.watched is not None:
            parts.append(f"watched: {', '.join(self.watched)}" if self.watched else "nobody watches")
        self._shown_at, self._shown_bytes, self._shown_frames = now, self._bytes, self._frames.copy()
        if self._terminal:
            width = shutil.get_terminal_size().columns
            self._put(CLEAR + printable(f"{self._name}: {', '.join(parts)}")[: width - 1])
        else:
            self._say(", ".join(parts))
        self._plan()

    def _put(self, text: str) -> None:
        try:
            sys.stderr.write(text)
            sys.stderr.flush()
        except OSError:
            give_up(sys.stderr)
