"""Translates a publisher's numbers and timestamps to those of viewers.

The directory gives the spans of numbers (`relay.model.numbering`) and the viewers' unit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from relay.model.group import FrameStart, Object, Part
from relay.model.numbering import MAX_SEQUENCE, MOST_REPEATED, Span
from relay.model.track import SubscribeParams, TrackProperties

TIMESTAMP = 0x10  # property of an object, in units of its track (moq-transport)
MOST_SPANS = 16  # two publishers side by side need several


class Frame(NamedTuple):
    """The start of a frame in the viewers' unit."""

    timestamp: int
    size: int


class Translation:
    """Translates between a publisher and the viewers of one track."""

    def __init__(self) -> None:
        self._spans: list[Span] = []  # in order of both sides' numbers
        self._free = True  # no track of the path has numbers
        self._floor = 0  # next number for viewers from another route; 0 once a group is near it
        self._units: tuple[int, int] | None = None  # publisher's and viewers' per second, if different
        self.first_published: int | None = None
        self.timescale: int | None = None  # units per second for viewers
        self.properties: TrackProperties | None = None
        self.below = 0  # the publisher's numbers below are known and, if `plain`, equal the viewers'
        self.plain = False

    def add(self, span: Span | None, timescale: int | None, *, free: bool) -> int:
        """Returns the number from which the track counts on elsewhere, else 0."""
        self._free = free
        self.timescale = self.timescale or timescale
        if span is None:
            return 0
        if self._spans and self._spans[-1][:2] == span[:2]:
            self._spans[-1] = span
            elsewhere = 0
        else:
            elsewhere = span.first + span.shift if self._spans else 0
            self._spans = [*self._spans, span][-MOST_SPANS:]
        self._review()
        return elsewhere

    def expect(self, floor: int) -> None:
        """A viewer has seen the numbers below `floor`."""
        self._floor = max(self._floor, floor)
        self._review()

    def _review(self) -> None:
        span = self._spans[-1] if self._spans else None
        self.below = 0 if span is None or self._floor else span.limit - span.shift
        self.plain = len(self._spans) == 1 and self._spans[0][:2] == (0, 0) and self._units is None

    def missing(self, sequences: Iterable[int]) -> tuple[int, int] | None:
        """The publisher's number to ask about, and the floor for a new count."""
        if not self._spans:
            # forgotten numbers are not this publisher's
            return min(sequences), self._floor if self._free else 0
        span = self._spans[-1]
        beyond = min((s for s in sequences if s + span.shift >= span.limit), default=None)
        if self._floor:
            lowest = min(sequences)
            floor, self._floor = self._floor, 0
            self._review()
            if lowest + span.shift < floor - MOST_REPEATED:
                return lowest, floor
        return None if beyond is None else (beyond, 0)

    # --- numbers

    def shown(self, sequence: int) -> int | None:
        """The viewers' number; None if it comes too late, or beyond all numbers."""
        return next(self.all_of(sequence), None)

    def all_of(self, sequence: int) -> Iterator[int]:
        """Newest first: two if it was the newest at a new count."""
        if not self._spans:
            yield sequence
        for span in reversed(self._spans):
            number = sequence + span.shift
            # the track's end needs a number after the last group's
            if sequence >= span.first and number < span.limit and (number < MAX_SEQUENCE or not span.shift):
                yield number

    def end(self, final: int) -> int:
        span = self._spans[-1] if self._spans and final else None
        return final if span is None else min(final + span.shift, MAX_SEQUENCE)

    def published(self, number: int) -> int | None:
        """The publisher's number; None if it is another track's."""
        if not self._spans:
            return number if self._free else None
        for span in reversed(self._spans):
            sequence = number - span.shift
            if sequence >= span.first:
                return sequence if number < span.limit else None
        return None

    def asked(self, params: SubscribeParams) -> SubscribeParams:
        start = params.start_group
        return params if start is None else params._replace(start_group=self.published(start))

    @property
    def first(self) -> int | None:
        """The first group of the upstream subscription, if the publisher named it."""
        return None if self.first_published is None else self.shown(self.first_published)

    # --- time

    def describe(self, properties: TrackProperties) -> TrackProperties:
        if self.timescale is None:
            self.timescale = properties.timescale
        if self.timescale != properties.timescale:
            self._units = properties.timescale, self.timescale
            self._review()
        self.properties = properties._replace(timescale=self.timescale)
        return self.properties

    def timestamp(self, timestamp: int) -> int:
        if self._units is None:
            return timestamp
        publisher, viewers = self._units
        return min(timestamp * viewers // publisher, MAX_SEQUENCE)

    def translated(self, parts: Iterable[Part]) -> tuple[Part, ...]:
        return tuple(part if isinstance(part, bytes) else self._restated(part) for part in parts)

    def _restated(self, start: FrameStart) -> FrameStart:
        return (
            self.restated(start)
            if isinstance(start, Object)
            else Frame(self.timestamp(start.timestamp), start.size)
        )

    def restated(self, start: Object) -> Object:
        timestamp = self.timestamp(start.timestamp)
        if timestamp == start.timestamp:
            return start
        properties = tuple(
            (kind, timestamp if kind == TIMESTAMP else value) for kind, value in start.properties
        )
        return start._replace(timestamp=timestamp, properties=properties)

    def age(self, params: SubscribeParams) -> int:
        return params.history_ms * (self.properties or TrackProperties()).timescale // 1000
