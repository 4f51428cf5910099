"""One order of group numbers for each track of a path, across all its publishers.

Every publisher counts as it likes, and one that restarts begins anew. A number that viewers have seen must not come to
mean another group, and their numbers must rise. So the numbers of a track are given out in spans, each to one
announcement's life: the first publisher keeps its own numbers, and those of a later one are shifted beyond what was
given out before. Routes to a publisher that were announced beside each other are one life, and share its span.

The directory keeps a `Numbering` for each track that runs; the tracks keep the spans they were given. Knows no actors.
"""

from __future__ import annotations

from typing import NamedTuple

MAX_SEQUENCE = (1 << 62) - 1
"""The highest number of a group that a message can carry."""

RESERVE = 1 << 16
"""Numbers that a track is given ahead, for itself alone while it runs: 20 minutes of a track with 50 groups a second."""

MOST_REPEATED = 8
"""Groups by which another route to the same publisher may be behind what viewers have; it is waited for until it has
caught up. If it is further behind, it counts differently: its relay may have shifted the numbers."""


class Span(NamedTuple):
    """Numbers that belong to one life. The publisher's number plus `shift` is the number that viewers see."""

    first: int
    """The first number of the publisher in the span."""
    shift: int
    limit: int
    """Numbers that viewers see are below it, or are asked for again."""


class Numbering:
    """The numbers of one track of one path."""

    __slots__ = ("_following", "_left", "_lives", "_spans", "_top", "timescale")

    def __init__(self) -> None:
        self._top = 0
        """No track was given this number or a higher one."""
        self._following = 0
        """The number after the highest of tracks that have ended."""
        self._spans: dict[int, Span] = {}
        """The newest of each life."""
        self._lives: dict[str, int] = {}
        """The life of each running track, by its URN."""
        self._left: set[int] = set()
        """Lives that have a span and no track."""
        self.timescale: int | None = None
        """Units in a second, as viewers were told; None before."""

    @property
    def free(self) -> bool:
        """No track was given numbers."""
        return not self._spans

    @property
    def used(self) -> bool:
        """A track of it runs."""
        return bool(self._lives)

    def ask(self, track: str, life: int, sequence: int | None, floor: int = 0) -> Span | None:
        """The span for the publisher's number `sequence` of a running track.

        Without a number, the span that its life has, if any. With a `floor` the track counts anew, from there at least.
        """
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
        """A track has ended. `following` is the number after its newest group's, 0 if it had none.

        Numbers given ahead are free again. Its span is kept until another one is given: its viewers may go on by
        another route to the same publisher.
        """
        self._following = max(self._following, following)
        life = self._lives.pop(track, None)
        if life is None or life not in self._spans or life in self._lives.values():
            return
        self._left.add(life)
        span = self._spans[life]
        if span.limit == self._top:
            self._give(life, span._replace(limit=max(self._following, span.first + span.shift)))
