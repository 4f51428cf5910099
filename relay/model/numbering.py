"""One order of group numbers for each track of a path, across its publishers.

A publisher may count anew, but a number that viewers saw must keep its group, and their numbers must rise. So
each announcement's life gets a span of numbers: the first publisher keeps its own, later ones are shifted
beyond. Routes announced side by side are one life.
"""

from __future__ import annotations

from typing import NamedTuple

MAX_SEQUENCE = (1 << 62) - 1  # of the wire
RESERVE = 1 << 16  # numbers given ahead: 20 minutes of 50 groups a second
MOST_REPEATED = 8
"""Groups that a second route may lag. One further behind counts differently, perhaps shifted."""


class Span(NamedTuple):
    """Numbers of one life. The publisher's number plus `shift` is the viewers'."""

    first: int  # the publisher's
    shift: int
    limit: int  # the viewers' numbers end before it


class Numbering:
    """The numbers of one track of one path."""

    __slots__ = ("_following", "_left", "_lives", "_spans", "_top", "timescale")

    def __init__(self) -> None:
        self._top = 0  # above all given out
        self._following = 0  # above those of ended tracks
        self._spans: dict[int, Span] = {}  # by life
        self._lives: dict[str, int] = {}  # of running tracks, by URN
        self._left: set[int] = set()  # with a span, without a track
        self.timescale: int | None = None  # units per second, for viewers

    @property
    def free(self) -> bool:
        return not self._spans

    @property
    def used(self) -> bool:
        return bool(self._lives)

    def ask(self, track: str, life: int, sequence: int | None, floor: int = 0) -> Span | None:
        """The span for the publisher's `sequence`; None: of `life`, if any. `floor`: count anew, from it or higher."""
        self._lives[track] = life
        self._left.discard(life)
        span = self._spans.get(life)
        if sequence is None:
            return span
        if span is not None and not floor:
            number = sequence + span.shift
            if sequence < span.first or number < span.limit:
                return span
            if span.limit == self._top:
                return self._give(life, span._replace(limit=number + RESERVE))
        return self._begin(life, sequence, max(floor, self._top))

    def _begin(self, life: int, sequence: int, base: int) -> Span:
        for left in self._left:
            del self._spans[left]
        self._left.clear()
        shift = max(0, base - sequence)
        return self._give(life, Span(base - shift, shift, sequence + shift + RESERVE))

    def _give(self, life: int, span: Span) -> Span:
        self._spans[life] = span
        self._top = span.limit
        return span

    def leave(self, track: str, following: int) -> None:
        """`following`: the number after its newest group, or 0. Frees numbers given ahead.

        Its span stays until the next: viewers may take another route to the same publisher.
        """
        self._following = max(self._following, following)
        life = self._lives.pop(track, None)
        if life is None or life not in self._spans or life in self._lives.values():
            return
        self._left.add(life)
        span = self._spans[life]
        if span.limit == self._top:
            self._give(life, span._replace(limit=max(self._following, span.first + span.shift)))
