"""The numbers of a track's groups and the unit of its timestamps, as its viewers see them. Part of the track actor.

A publisher counts groups and time as it likes. The directory says which numbers of the path are this track's
(`relay.model.numbering`), and in which unit viewers of a former publisher count. What comes from the publisher is
translated here before the track looks at it, and numbers that it is asked for are translated back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from relay.actors import messages as m
from relay.actors.runtime import Ref, send
from relay.model.numbering import MOST_REPEATED, RESERVE, Numbering, Span
from relay.model.track import TrackProperties
from relay.wire.frame import FrameHeader
from relay.wire.varint import MAX_VARINT

GROUPS = (*(m.UpstreamGroups, m.UpstreamDatagram, m.UpstreamFetched, m.UpstreamDropped, m.UpstreamEnded),)
"""What comes of a publisher's groups."""

WITH_NUMBERS = (
    *(*GROUPS, m.UpstreamProperties, m.UpstreamStarted, m.UpstreamFailed),
    *(m.Subscribe, m.UpdateInterest, m.Leave, m.Describe, m.Fetch),
)
"""What has to do with numbers or units, or would overtake what has."""

MOST_SPANS = 16
"""Spans that are remembered of one track. It gets another one when two publishers of a path run beside each other."""


class Numbers:
    """Translates between a publisher and the viewers of one track."""

    def __init__(self, directory: Ref | None, path: str, name: str, life: int) -> None:
        """Without a `directory` numbers stay as the publisher counts them. `life` is what the directory calls it."""
        self._directory = directory
        self._path = path
        self._name = name
        self._life = life
        self._over = False
        self.deferred: list[object] | None = None
        """Messages that wait until the directory has answered, or the publisher has said in which unit it counts."""
        self.deferring: tuple[type, ...] = WITH_NUMBERS
        self.deferred_bytes = 0
        self._spans: list[Span] = []
        """In order of the publisher's numbers, and of those that viewers see."""
        self._free = True
        self._floor = 0
        """The number that viewers who come from another route want next; 0 once there is one not far behind."""
        self.timescale: int | None = None
        """Units in a second, as viewers of the path were told; None if they were not."""
        self._units: tuple[int, int] | None = None
        """Units in a second of the publisher and of viewers, where they differ."""
        self.below = 0
        """The publisher's numbers below it need no question and, if `plain`, no translation."""
        self.plain = False

    # --- waiting ---------------------------------------------------------------------------------------------------

    @property
    def await_unit(self) -> bool:
        """Whether groups wait until the publisher has said in which unit it counts."""
        return self.deferred is not None and self.deferring is GROUPS

    def wait(self, deferring: tuple[type, ...]) -> None:
        """Messages of these types wait from now on."""
        self.deferred, self.deferring = self.deferred or [], deferring

    def defer(self, message: object) -> None:
        """Let a message wait."""
        assert self.deferred is not None
        self.deferred.append(message)
        if self.deferring is GROUPS and isinstance(message, m.UpstreamGroups):
            for part in message.parts:
                self.deferred_bytes += sum(len(piece) for piece in part.parts if isinstance(piece, bytes))

    def release(self) -> list[object]:
        """The messages that have waited. To be handled in order: one may have to wait again, and all behind it."""
        deferred, self.deferred = self.deferred or [], None
        self.deferred_bytes = 0
        return deferred

    # --- the directory ---------------------------------------------------------------------------------------------

    def start(self, track: Ref) -> None:
        """The track runs: ask for what is known already."""
        if self._directory is not None:
            self.ask(track, None)

    def ask(
        self, track: Ref, sequence: int | None, floor: int = 0, properties: TrackProperties | None = None
    ) -> None:
        """Ask the directory. Until it answers, what has to do with numbers waits."""
        self.wait(WITH_NUMBERS)
        timescale = None if properties is None else properties.timescale
        question = m.AskNumbers(track, self._path, self._name, self._life, sequence, floor, timescale)
        if self._over or self._directory is None or not send(self._directory, question):
            # nobody else is to know
            if self._spans and sequence is not None and not floor:
                span: Span | None = self._spans[-1]._replace(limit=sequence + self._spans[-1].shift + RESERVE)
            else:
                span = Numbering().ask("", self._life, sequence, floor)
            send(track, m.Numbered(span, self._free, self.timescale))

    def over(
        self, track: Ref, last: int | None, properties: TrackProperties | None, *, watched: bool
    ) -> None:
        """The track runs no more; `last` is the highest number that it had."""
        if self._directory is not None and not self._over:
            self._over = True
            following = 0 if last is None else last + 1
            timescale = None if properties is None else properties.timescale
            over = m.NumbersOver(track, self._path, self._name, following, timescale, watched)
            send(self._directory, over)

    def granted(self, answer: m.Numbered) -> int:
        """The directory has answered. If the track counts on elsewhere: the number from which it does, else 0."""
        before, elsewhere = len(self._spans), 0
        self._free = answer.free
        self.timescale = self.timescale or answer.timescale
        span = answer.span
        if span is not None:
            if self._spans and self._spans[-1][:2] == span[:2]:
                self._spans[-1] = span
            else:
                self._spans.append(span)
                del self._spans[:-MOST_SPANS]
                if before:
                    elsewhere = span.first + span.shift
            self._review()
        return elsewhere

    def expect(self, floor: int) -> None:
        """A viewer comes that has seen the numbers below `floor`."""
        self._floor = max(self._floor, floor)
        self._review()

    def _review(self) -> None:
        span = self._spans[-1] if self._spans else None
        self.below = 0 if span is None or self._floor else span.limit - span.shift
        self.plain = len(self._spans) == 1 and self._spans[0][:2] == (0, 0) and self._units is None

    # --- translation -----------------------------------------------------------------------------------------------

    def missing(self, sequences: Iterable[int]) -> tuple[int, int] | None:
        """A number of the publisher that the directory has to be asked about, and from where to count anew; or None."""
        if not self._spans:
            # where nobody remembers whose numbers they were, they are not taken for those of this publisher
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

    def shown(self, sequence: int) -> int | None:
        """The number that viewers see of a group; None if it has none: it comes too late, or beyond all numbers."""
        return next(self.all_of(sequence), None)

    def all_of(self, sequence: int) -> Iterator[int]:
        """The numbers of a group, the newest first: it has two if it was the newest when the track had to count anew."""
        if not self._spans:
            yield sequence
        for span in reversed(self._spans):
            number = sequence + span.shift
            # the end of the track needs a number of its own, after the last group's
            if sequence >= span.first and number < span.limit and (number < MAX_VARINT or not span.shift):
                yield number

    def newest_of(self, number: int) -> int | None:
        """The newest number of the group that was given `number`."""
        sequence = self.published(number)
        return None if sequence is None else self.shown(sequence)

    def end(self, final: int) -> int:
        """The number after all that viewers see."""
        span = self._spans[-1] if self._spans and final else None
        return final if span is None else min(final + span.shift, MAX_VARINT)

    def published(self, number: int) -> int | None:
        """The publisher's number of a group; None if the number is not one of this track's."""
        if not self._spans:
            return number if self._free else None
        for span in reversed(self._spans):
            sequence = number - span.shift
            if sequence >= span.first:
                return sequence if number < span.limit else None
        return None

    def properties(self, properties: TrackProperties) -> TrackProperties:
        """Those of the publisher, as viewers are told of them."""
        if self.timescale is None:
            self.timescale = properties.timescale
        if self.timescale != properties.timescale:
            self._units = properties.timescale, self.timescale
            self._review()
        return properties._replace(timescale=self.timescale)

    def timestamp(self, timestamp: int) -> int:
        """In the unit of viewers."""
        if self._units is None:
            return timestamp
        publisher, viewers = self._units
        return min(timestamp * viewers // publisher, MAX_VARINT)

    def part(self, part: m.GroupPart, number: int) -> m.GroupPart:
        """What arrived of a group, under the number that viewers see and with their timestamps."""
        if self._units is None:
            return part._replace(sequence=number)
        parts = tuple(
            one if isinstance(one, bytes) else FrameHeader(self.timestamp(one.timestamp), one.size)
            for one in part.parts
        )
        return part._replace(sequence=number, parts=parts)
