"""The ledger actor: sums of what actors counted that have ended, so that totals never go down.

A connection or track sends its counts when it ends; whoever wants totals adds those of the living.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple, TypeAlias

from relay.actors.runtime import LoopActor

Counts: TypeAlias = dict[tuple[str, str], int]
"""By name of the count and one label (a reason, a kind; `""` if there is none)."""


class Settle(NamedTuple):
    """An actor's counts over its whole life; it has ended."""

    counts: Counts


class Totals(NamedTuple):
    """Asked by the metrics: the sums, as `Counts`."""


class LedgerActor(LoopActor):
    """One per relay."""

    def __init__(self) -> None:
        super().__init__()
        self._sums: Counter[tuple[str, str]] = Counter()

    def __str__(self) -> str:
        return "ledger"

    def on_receive(self, message: object) -> object:
        match message:
            case Settle():
                self._sums.update(message.counts)
            case Totals():
                return dict(self._sums)
            case _:
                return super().on_receive(message)
        return None
