"""Subscriptions that outlive their publisher: looking for another one, and going on where the last one stopped.

Owns how often a track is asked for again, and the numbers of groups after a move. Part of whoever subscribes: the
connection actor for its peer's subscriptions, the reader actor.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from relay.actors import messages as m
from relay.actors.runtime import send
from relay.wire.varint import MAX_VARINT

if TYPE_CHECKING:
    from relay.actors.connection import ConnectionActor

MOST_SEARCHES = 6
"""Times that a track is asked for after its publishers were lost one after the other, without a group from any."""

MOST_REPEATED = 8
"""Groups by which another way to the same publisher may be behind; it is waited for until it has caught up."""

SEARCH_MEMORY = 10.0
"""Seconds after which a search counts as the first again: a track without a group may outlive many routes."""

SEARCH_DELAY = 0.025
"""Seconds, doubled each time: a relay may refuse before it withdraws what it announced."""


def again(request: m.Subscribe) -> m.Subscribe:
    """The request as it is said again: bounds were for the first publisher, the newest group is what is left."""
    return request._replace(
        interest=request.interest._replace(start_group=None, start_frame=0, history_ms=0), publisher=0
    )


class AskAgain(NamedTuple):
    """Timer: look for another publisher."""

    key: int
    code: int


class Search:
    """Asking for a track again after its publisher was lost, more and more slowly while nothing comes of it."""

    def __init__(self, connection: ConnectionActor, request: m.Subscribe | m.Describe) -> None:
        self._connection = connection
        self._request = request
        self._fruitless = 0
        self._last = 0.0
        self.code: int | None = None
        """Why the track was lost; None if it was not."""

    def found(self) -> None:
        """Something came of it."""
        self._fruitless = 0
        self.code = None

    def lost(self, code: int) -> bool:
        """Ask again, now or soon; False if that was tried often enough."""
        self.code = code
        now = time.monotonic()
        self._fruitless = 1 if now - self._last > SEARCH_MEMORY else self._fruitless + 1
        self._last = now
        if self._fruitless > MOST_SEARCHES:
            return False
        if self._fruitless == 1:
            self.ask()
        else:
            delay = SEARCH_DELAY * (1 << self._fruitless)
            self._connection.call_later(delay, AskAgain(self._request.key, code))
        return True

    def ask(self) -> None:
        """Whoever publishes it now answers; if it is expected back, later."""
        send(self._connection.environment.origin, self._request)


def move(former: Move | None, floor: int, *, same: bool) -> Move:
    """The next move: the numbers of the same publisher stay as they were shown, another one's follow on."""
    return Move(floor, None if not same else 0 if former is None else former.shift)


class Move:
    """A subscription goes on with another publisher, from a whole group on, and its numbers go on rising."""

    def __init__(self, floor: int, shift: int | None) -> None:
        """Groups below `floor` have been sent. `shift` is added to numbers; None: as much as the first one needs."""
        self._floor = floor
        self._going = False
        self.shift = shift

    def sequence(self, sequence: int) -> int:
        """The number that the subscriber sees, `MAX_VARINT` at most."""
        if self.shift is None:
            self.shift = max(0, self._floor - sequence)
        return min(sequence + self.shift, MAX_VARINT)

    def pieces(self, pieces: tuple[m.GroupPiece, ...]) -> tuple[m.GroupPiece, ...]:
        """What is new of them, renumbered."""
        moved = []
        for piece in pieces:
            sequence = self.sequence(piece.sequence)
            if not self._going and sequence < self._floor - MOST_REPEATED:
                # not what has been sent already: a relay on the old way had numbered them anew
                self.shift = None
                sequence = self.sequence(piece.sequence)
            self._going = self._going or sequence >= self._floor
            # the end of the track needs a number of its own, after the last group's
            if self._floor <= sequence < MAX_VARINT:
                moved.append(piece._replace(sequence=sequence))
        return tuple(moved)
