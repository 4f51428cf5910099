"""Slots per key up to a limit, with counts and log lines of refusals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final

from relay.logger import get_logger
from relay.model.pace import LogThrottle

logger = get_logger("relay.transport")

ROOM: Final = 0.75  # share of the limit below which slots are free again: no log line for each slot


class Slots:
    """Keys are addresses; `""` stands for all."""

    def __init__(self, name: str, limit: int, refused: Counter[str], now: Callable[[], float]) -> None:
        """`refused` counts under the limit's `name`. `now` is a clock in seconds."""
        self._now = now
        self.limit = limit
        self._name = name
        self._refused = refused
        self._taken: Counter[str] = Counter()
        self._episodes: dict[str, int] = {}  # refusals by key, since the log line about full slots
        self._throttle = LogThrottle()

    def taken(self, key: str = "") -> int:
        return self._taken[key]

    def full(self, key: str = "") -> bool:
        return self._taken[key] >= self.limit

    def enter(self, key: str = "") -> None:
        self._taken[key] += 1

    def leave(self, key: str = "") -> None:
        left = self._taken[key] - 1
        if left > 0:
            self._taken[key] = left
        else:
            del self._taken[key]
        if key in self._episodes and left < ROOM * self.limit:
            number = self._episodes.pop(key)
            logger.info("there is room again", limit=self._name, **_remote(key), refused=number)

    def refuse(self, key: str = "") -> None:
        self._refused[self._name] += 1
        if key in self._episodes:
            self._episodes[key] += 1
        # a record without a taken slot would stay for ever; addresses may be forged, in great numbers
        elif self._taken[key] and self._throttle.passes(self._now()):
            self._episodes[key] = 1
            logger.warning("limit is reached", limit=self._name, value=self.limit, **_remote(key))


def _remote(key: str) -> dict[str, str]:
    return {"remote": key} if key else {}
