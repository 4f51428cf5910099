"""Part of the track actor: asks the directory for group numbers, and defers messages that need them."""

from __future__ import annotations

from relay.actors import messages as m
from relay.actors.runtime import Ref, send
from relay.model.numbering import RESERVE, Numbering, Span
from relay.model.translation import Translation
from relay.moq import session as moq

GROUPS = (moq.GroupData, moq.DatagramReceived, moq.FetchedData, moq.SubscriptionDropped, m.UpstreamEnded)

WITH_NUMBERS = (
    *(*GROUPS, m.UpstreamProperties, m.UpstreamStarted, m.UpstreamFailed),
    *(m.Subscribe, m.UpdateSubscription, m.Unsubscribe, m.Describe, m.Fetch),
)
"""Messages that need numbers or units, or would overtake one that does."""


class Numbers(Translation):
    """The translation of one track, as the directory grants it."""

    def __init__(self, track: Ref, directory: Ref | None, path: str, name: str, life: int) -> None:
        """Without a `directory` the publisher's numbers stay. `life` numbers the publication."""
        super().__init__()
        self._track, self._directory = track, directory
        self._path, self._name, self._life = path, name, life
        self._over = False
        self.deferred: list[object] | None = None  # until the directory, or the publisher's unit, answers
        self.deferring: tuple[type, ...] = WITH_NUMBERS  # types that wait
        self.deferred_bytes = 0

    # --- waiting ---------------------------------------------------------------------------------------------------

    @property
    def await_unit(self) -> bool:
        """True if groups wait for the publisher's unit."""
        return self.deferred is not None and self.deferring is GROUPS

    def wait(self, deferring: tuple[type, ...]) -> None:
        """Defer messages of these types."""
        self.deferred, self.deferring = self.deferred or [], deferring

    def defer(self, message: object) -> None:
        assert self.deferred is not None
        self.deferred.append(message)
        if self.deferring is GROUPS and isinstance(message, moq.GroupData):
            for part in message.parts:
                self.deferred_bytes += sum(len(chunk) for chunk in part.parts if isinstance(chunk, bytes))

    def release(self) -> list[object]:
        """The deferred messages, in order. If one is deferred again, all behind it are."""
        deferred, self.deferred = self.deferred or [], None
        self.deferred_bytes = 0
        return deferred

    # --- the directory ---------------------------------------------------------------------------------------------

    def open(self) -> None:
        if self._directory is not None:
            self.ask(None)

    @property
    def _timescale(self) -> int | None:
        return None if self.properties is None else self.properties.timescale

    def ask(self, sequence: int | None, floor: int = 0) -> None:
        """Ask the directory. Messages that need numbers wait for its answer."""
        self.wait(WITH_NUMBERS)
        track = self._track
        question = m.AskNumbers(track, self._path, self._name, self._life, sequence, floor, self._timescale)
        if self._over or self._directory is None or not send(self._directory, question):
            if self._spans and sequence is not None and not floor:  # no other track needs to know
                span: Span | None = self._spans[-1]._replace(limit=sequence + self._spans[-1].shift + RESERVE)
            else:
                span = Numbering().ask("", self._life, sequence, floor)
            send(track, m.Numbered(span, self._free, self.timescale))

    def close(self, last: int | None, *, watched: bool) -> None:
        """`last`: the track's highest number."""
        if self._directory is not None and not self._over:
            self._over = True
            following = 0 if last is None else last + 1
            over = m.NumbersOver(self._track, self._path, self._name, following, self._timescale, watched)
            send(self._directory, over)

    def part(self, part: m.GroupPart, number: int) -> m.GroupPart:
        """With the viewers' number and timestamps."""
        if self._units is None:
            return part._replace(sequence=number)
        return part._replace(sequence=number, parts=self.translated(part.parts))
