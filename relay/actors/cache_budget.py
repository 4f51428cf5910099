"""Limits the bytes in all tracks' caches together, to within an eighth.

Tracks report their sizes. Those above their fair share evict old groups first, and the newest only if that is
not enough.
"""

from __future__ import annotations

from relay.actors import messages as m
from relay.actors.runtime import LoopActor, Ref, send
from relay.model.cache import SLACK, fair_share
from relay.runtime import Runtime


class CacheBudgetActor(LoopActor):
    """One per relay."""

    def __init__(self, runtime: Runtime, budget: int) -> None:
        super().__init__(runtime)
        self._budget = budget
        self._sizes: dict[str, tuple[Ref, int]] = {}
        self._total = 0
        self._asked: set[str] = set()  # tracks that have not answered
        self._newest = False  # evicting old groups was not enough

    def __str__(self) -> str:
        return "cache budget"

    def on_receive(self, message: object) -> object:
        match message:
            case m.CacheSize():
                if message.answer:
                    self._asked.discard(message.track.actor_urn)
                self._note(message.track, message.size)
            case m.NewLimits():
                self._budget = message.limits.cache
            case _:
                return super().on_receive(message)
        return None

    def on_turn_end(self) -> None:
        if self._asked:
            return
        if self._total <= self._budget:
            self._newest = False
            return
        goal = self._budget - self._budget // SLACK
        share = fair_share((size for _, size in self._sizes.values()), goal)
        evict = m.EvictTo(share, newest=self._newest)
        self._newest = True
        for urn, (track, size) in list(self._sizes.items()):
            if size > share:
                self._asked.add(urn)
                if not send(track, evict):
                    self._note(track, 0)

    def _note(self, track: Ref, size: int) -> None:
        urn = track.actor_urn
        self._total += size - self._sizes.get(urn, (track, 0))[1]
        if size:
            self._sizes[urn] = (track, size)
        else:
            self._sizes.pop(urn, None)
            self._asked.discard(urn)
