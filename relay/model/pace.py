"""Rates of events and of log lines. `now` is in seconds."""

from __future__ import annotations

EPISODE = 10.0  # seconds of silence
LOG_RATE = 0.05  # lines per second that anybody can cause
LOG_BURST = 3  # lines at once


class TokenBucket:
    """Limits a rate, in tokens a second, and a burst. Both may change."""

    __slots__ = ("_at", "_level", "burst", "rate")

    def __init__(self, rate: float, burst: float) -> None:
        self.rate, self.burst = rate, burst
        self._level = 0.0
        self._at = 0.0

    def spend(self, now: float) -> bool:
        """False if none is left."""
        self._level = max(0.0, self._level - (now - self._at) * self.rate)
        self._at = now
        if self._level > self.burst - 1:
            return False
        self._level += 1
        return True


class LogThrottle(TokenBucket):
    """A few log lines per minute; counts the others."""

    __slots__ = ("held_back",)

    def __init__(self) -> None:
        super().__init__(LOG_RATE, LOG_BURST)
        self.held_back = 0  # since the last line

    def passes(self, now: float) -> bool:
        passes = self.spend(now)
        self.held_back += not passes
        return passes


class LogOnce:
    """The first of many events of a name."""

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last: dict[str, float] = {}

    def begins(self, name: str, now: float) -> bool:
        """True if it has not happened for `EPISODE` seconds."""
        last = self._last.get(name)
        self._last[name] = now
        return last is None or now - last >= EPISODE
