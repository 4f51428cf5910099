"""Places that are given out up to a limit, for each key: whoever asks for more is refused.

Owns the counts of one limit, of what was refused, and the two log lines of an episode: one when the first is refused,
one when there is room again. Must never decide how a refusal looks to the peer. The QUIC endpoint and the HTTP server
hold some of each kind.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import Final

from relay.model.pace import LogThrottle

logger = logging.getLogger("relay.transport")

ROOM: Final = 0.75
"""Part of the limit below which an episode is over, so that one place that comes and goes makes no log line each time."""


class Places:
    """The places of one limit. Keys are addresses; `""` stands for everybody."""

    def __init__(self, name: str, limit: int, refused: Counter[str], now: Callable[[], float]) -> None:
        """`name` is that of the limit, by which `refused` counts. `now` is a clock in seconds."""
        self._now = now
        self.limit = limit
        self._name = name
        self._refused = refused
        self._taken: Counter[str] = Counter()
        self._episodes: dict[str, int] = {}
        """Refusals in the present episode of a key, all of whose places were taken, once that was logged."""
        self._throttle = LogThrottle()

    def taken(self, key: str = "") -> int:
        """How many places are taken now."""
        return self._taken[key]

    def full(self, key: str = "") -> bool:
        """Whether there is no place left."""
        return self._taken[key] >= self.limit

    def enter(self, key: str = "") -> None:
        """Take a place."""
        self._taken[key] += 1

    def leave(self, key: str = "") -> None:
        """Give a place back."""
        left = self._taken[key] - 1
        if left > 0:
            self._taken[key] = left
        else:
            del self._taken[key]
        if key in self._episodes and left < ROOM * self.limit:
            number = self._episodes.pop(key)
            logger.info("limit=%s%s refused=%d there is room again", self._name, _shown(key), number)

    def refuse(self, key: str = "") -> None:
        """Count somebody who found no place."""
        self._refused[self._name] += 1
        if key in self._episodes:
            self._episodes[key] += 1
        # Without a place that is taken nothing would ever end the episode. Addresses may be forged, and come in waves.
        elif self._taken[key] and self._throttle.passes(self._now()):
            self._episodes[key] = 1
            logger.warning("limit=%s value=%d%s is reached", self._name, self.limit, _shown(key))


def _shown(key: str) -> str:
    return f" remote={key}" if key else ""
