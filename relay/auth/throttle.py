"""Delays repeated refusals of one address, to bound its work and log lines. Holders of good tokens never wait."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cachetools import LRUCache

from relay.model.address import address_of

ADDRESSES: Final = 4_096  # the oldest failure is forgotten first

MOST_STEPS: Final = 10
"""The longest wait, in delays: an open connection costs more than the answer."""


@dataclass(frozen=True, slots=True)
class _Record:
    level: float
    at: float


class Throttle:
    """A leaky bucket for each address: a failure fills it by one, `delay` seconds drain one."""

    def __init__(self, *, failures: int, delay: float, clock: Callable[[], float]) -> None:
        """`failures` are not delayed; each one more waits `delay` seconds longer. `clock` gives seconds."""
        self.failures = failures
        self.delay = delay
        self._clock = clock
        self._records: LRUCache[str, _Record] = LRUCache(ADDRESSES)

    def failed(self, remote: str) -> float:
        """Seconds to delay the refusal of `host` or `host:port`."""
        address, now = address_of(remote), self._clock()
        known = self._records.get(address)
        level = 0.0 if known is None else max(0.0, known.level - (now - known.at) / self.delay)
        level = min(level + 1, self.failures + MOST_STEPS)
        self._records[address] = _Record(level, now)
        return max(0.0, level - self.failures) * self.delay
