"""Subscriptions that outlive their publisher: looking for another one, and going on where the last one stopped.

Owns how often a track is asked for again, and what of it is new after a move. Which numbers its groups have then is the
track's business. Part of whoever subscribes: the connection actor for its peer's subscriptions, the reader actor.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from relay.actors import messages as m
from relay.actors.runtime import send

if TYPE_CHECKING:
    from relay.actors.connection import ConnectionActor

MOST_SEARCHES = 6
"""Times that a track is asked for after its publishers were lost one after the other, without a group from any."""

SEARCH_MEMORY = 10.0
"""Seconds after which a search counts as the first again: a track without a group may outlive many routes."""

SEARCH_DELAY = 0.025
"""Seconds, doubled each time: a relay may refuse before it withdraws what it announced."""


def again(request: m.Subscribe) -> m.Subscribe:
    """The request as it is said again: bounds were for the first publisher, the newest group is what is left."""
    return request._replace(
        interest=request.interest._replace(start_group=None, start_frame=0, history_ms=0), life=0
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

    def lost(self, code: int, floor: int = 0) -> bool:
        """Ask again, now or soon, for what follows the groups below `floor`; False if that was tried often enough."""
        self.code = code
        if isinstance(self._request, m.Subscribe):
            self._request = self._request._replace(floor=floor)
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


def fresh(pieces: tuple[m.GroupPiece, ...], floor: int) -> tuple[m.GroupPiece, ...]:
    """What is new of them to a subscription that has moved, and had all below `floor`."""
    return tuple(piece for piece in pieces if piece.sequence >= floor)
