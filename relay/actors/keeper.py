"""The keeper actor: what the caches of all tracks hold together, within one budget.

Owns the sum and who has to give up how much. Must never look into a track: tracks tell it their size, each time that
has changed by an eighth, and it tells those above their fair share to shrink. So the budget is kept to within an eighth.

Old groups go first. Only if that is not enough, because the newest groups alone exceed the budget, do tracks above
their fair share lose these too: a track within its share keeps its newest group, whatever the others do.
"""

from __future__ import annotations

from relay.actors import messages as m
from relay.actors.runtime import LoopActor, Ref, send
from relay.model.cache import SLACK, fair_share
from relay.runtime import Runtime


class KeeperActor(LoopActor):
    """One per relay."""

    def __init__(self, runtime: Runtime, budget: int) -> None:
        """`budget` is in bytes."""
        super().__init__(runtime)
        self._budget = budget
        self._held: dict[str, tuple[Ref, int]] = {}
        self._total = 0
        self._asked: set[str] = set()
        """Tracks that have been told to shrink and have not answered."""
        self._newest = False
        """Whether old groups have gone, and it was not enough."""

    def __str__(self) -> str:
        return "keeper"

    def on_receive(self, message: object) -> object:
        match message:
            case m.Held():
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
        share = fair_share((size for _, size in self._held.values()), goal)
        shrink = m.Shrink(share, newest=self._newest)
        self._newest = True
        for urn, (track, size) in list(self._held.items()):
            if size > share:
                self._asked.add(urn)
                if not send(track, shrink):
                    self._note(track, 0)

    def _note(self, track: Ref, size: int) -> None:
        urn = track.actor_urn
        self._total += size - self._held.get(urn, (track, 0))[1]
        if size:
            self._held[urn] = (track, size)
        else:
            self._held.pop(urn, None)
            self._asked.discard(urn)  # it has ended, or given up everything
