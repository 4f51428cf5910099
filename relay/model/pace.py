"""How often something may happen, and how often it is told.

Owns the small memories that limits need; must never read a clock: `now` is a parameter, in seconds. Connection and
broadcast actors, sockets and the log keep them.
"""

from __future__ import annotations

EPISODE = 10.0
"""Seconds of peace after which what happens again is news."""

LOG_RATE = 0.05
"""Lines a second, for long, of what anybody can cause."""

LOG_BURST = 3
"""Lines of it at once."""


class Allowance:
    """A leaky bucket: so much at once, so much a second in the long run."""

    __slots__ = ("_at", "_level")

    def __init__(self) -> None:
        self._level = 0.0
        self._at = 0.0

    def spend(self, now: float, *, rate: float, burst: float) -> bool:
        """Take one. `False` if `burst` were taken and `rate` a second have not made room since."""
        self._level = max(0.0, self._level - (now - self._at) * rate) + 1
        self._at = now
        return self._level <= burst


class LogThrottle:
    """Lets a few log lines a minute pass, and counts those that it holds back."""

    __slots__ = ("_at", "_level", "held_back")

    def __init__(self) -> None:
        self._level = 0.0
        self._at = 0.0
        self.held_back = 0
        """Lines since the one that passed last."""

    def passes(self, now: float) -> bool:
        """Whether one more line may be written. One that is held back takes no room from those that follow."""
        self._level = max(0.0, self._level - (now - self._at) * LOG_RATE)
        self._at = now
        if self._level > LOG_BURST - 1:
            self.held_back += 1
            return False
        self._level += 1
        return True


class Episodes:
    """Tells the first of many from the others, so that the log has one line of them. As large as there are names."""

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last: dict[str, float] = {}

    def begins(self, name: str, now: float) -> bool:
        """Note that `name` has happened; whether it had not for a while."""
        last = self._last.get(name)
        self._last[name] = now
        return last is None or now - last >= EPISODE
