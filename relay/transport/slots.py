"""Slots up to a limit, for each key.

Owns the counts of one limit and of its refusals, and two log lines: at the first refusal, and when there is room again.
Must never decide how a refusal looks to the peer. Called by the QUIC endpoint and the HTTP server.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final

from relay.logs import get_logger
from relay.model.pace import LogThrottle

logger = get_logger("relay.transport")

ROOM: Final = 0.75
"""Part of the limit below which an episode is over, so that one slot that comes and goes makes no log line each time."""


class Slots:
    """The slots of one limit. Keys are addresses; `""` stands for everybody."""

    def __init__(self, name: str, limit: int, refused: Counter[str], now: Callable[[], float]) -> None:
        """`name` is that of the limit, by which `refused` counts. `now` is a clock in seconds."""
        self._now = now
        self.limit = limit
        self._name = name
        self._refused = refused
        self._taken: Counter[str] = Counter()
        self._episodes: dict[str, int] = {}
        """Refusals by key, since its slots were all taken and that was logged."""
        self._throttle = LogThrottle()

    def taken(self, key: str = "") -> int:
        """How many are taken."""
        return self._taken[key]

    def full(self, key: str = "") -> bool:
        """Whether none is left."""
        return self._taken[key] >= self.limit

    def enter(self, key: str = "") -> None:
        """Take one."""
        self._taken[key] += 1

    def leave(self, key: str = "") -> None:
        """Give one back."""
        left = self._taken[key] - 1
        if left > 0:
            self._taken[key] = left
        else:
            del self._taken[key]
        if key in self._episodes and left < ROOM * self.limit:
            number = self._episodes.pop(key)
            logger.info("there is room again", limit=self._name, **_remote(key), refused=number)

    def refuse(self, key: str = "") -> None:
        """Count a refusal."""
        self._refused[self._name] += 1
        if key in self._episodes:
            self._episodes[key] += 1
        # Without a taken slot nothing would ever end the episode. Addresses may be forged, and come in waves.
        elif self._taken[key] and self._throttle.passes(self._now()):
            self._episodes[key] = 1
            logger.warning("limit is reached", limit=self._name, value=self.limit, **_remote(key))


def _remote(key: str) -> dict[str, str]:
    return {"remote": key} if key else {}
