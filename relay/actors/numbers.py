"""Part of the track actor: asks the directory for group numbers, and defers messages that need them."""

from __future__ import annotations

from relay.actors import messages as m
from relay.actors.runtime import Ref, send
from relay.model.numbering import RESERVE, Numbering, Span
from relay.model.translation import Translation
from relay.moq import session as moq

GROUPS: tuple[type, ...] = (
    moq.GroupData,
    moq.DatagramReceived,
    moq.FetchedData,
    moq.SubscriptionDropped,
    m.UpstreamEnded,
)

WITH_NUMBERS = (
    *(*GROUPS, m.UpstreamProperties, m.UpstreamStarted, m.UpstreamFailed),
    *(m.Subscribe, m.UpdateSubscription, m.Unsubscribe, m.Describe, m.Fetch),
)
"""Messages that need numbers or units, or would overtake one that does."""


class Deferred:
    """Messages of one track that wait for the directory, or for the publisher's unit."""

    __slots__ = ("messages", "size", "types")

    def __init__(self) -> None:
        self.messages: list[object] | None = None  # in order; `None` if nothing has to wait
        self.types: tuple[type, ...] = WITH_NUMBERS  # of the messages that wait
        self.size = 0  # bytes of groups

    @property
    def for_unit(self) -> bool:
        """True if groups wait for the publisher's unit."""
        return self.messages is not None and self.types is GROUPS

    def begin(self, types: tuple[type, ...]) -> None:
        """Defer messages of these types."""
        self.messages, self.types = self.messages or [], types

    def add(self, message: object) -> None:
        assert self.messages is not None
        self.messages.append(message)
        if self.types is GROUPS and isinstance(message, moq.GroupData):
            for part in message.parts:
                self.size += sum(len(chunk) for chunk in part.parts if isinstance(chunk, bytes))

    def take(self) -> list[object]:
        """Stop waiting. Handle the messages in order: one may be deferred again, and all behind it."""
        messages, self.messages = self.messages or [], None
        self.size = 0
        return messages


class Numbers(Translation):
    """The translation of one track, as the directory grants it."""

    def __init__(self, track: Ref, directory: Ref | None, path: str, name: str, life: int) -> None:
        """Without a `directory` the publisher's numbers stay. `life` numbers the publication."""
        super().__init__()
        self._track, self._directory = track, directory
        self._path, self._name, self._life = path, name, life
        self.deferred = Deferred()

    def open(self) -> None:
        if self._directory is not None:
            self.ask(None)

    @property
    def _timescale(self) -> int | None:
        return None if self.properties is None else self.properties.timescale

    def ask(self, sequence: int | None, floor: int = 0) -> None:
        """Messages that need numbers wait for the directory's answer."""
        self.deferred.begin(WITH_NUMBERS)
        track = self._track
        question = m.AskNumbers(track, self._path, self._name, self._life, sequence, floor, self._timescale)
        if self._directory is None or not send(self._directory, question):
            if self._spans and sequence is not None and not floor:  # no other track needs to know
                span: Span | None = self._spans[-1]._replace(limit=sequence + self._spans[-1].shift + RESERVE)
            else:
                span = Numbering().ask("", self._life, sequence, floor)
            send(track, m.Numbered(span, self._free, self.timescale))

    def close(self, last: int | None, *, watched: bool) -> None:
        """`last`: the track's highest number."""
        if self._directory is not None:
            following = 0 if last is None else last + 1
            over = m.NumbersOver(self._track, self._path, self._name, following, self._timescale, watched)
            send(self._directory, over)
            self._directory = None

    def part(self, part: m.GroupPart, number: int) -> m.GroupPart:
        """Part of a group, with the viewers' number and timestamps."""
        if self._units is None:
            return part._replace(sequence=number)
        return part._replace(sequence=number, parts=self.translated(part.parts))
