"""Questions about living actors, their failures and their turns."""

from __future__ import annotations

import logging
import random
from collections import defaultdict, deque
from collections.abc import Sequence
from typing import Any, Self, cast

from relay.actors import messages as m
from relay.actors import runtime
from relay.actors.rows import PeerRow
from relay.actors.runtime import LoopInbox, Ref, ask, halt
from tests.clock import RUNTIME, TIMEOUT
from tests.model.support import counts


def shuffle_turns(seed: int) -> None:
    """From now on the actors of this loop take their turns in a random order, one per pass.

    Only the order of messages between two actors is a promise.
    """
    rng = random.Random(seed)

    class Shuffled(deque[LoopInbox]):
        def popleft(self) -> LoopInbox:
            self.rotate(-rng.randrange(len(self)))
            return super().popleft()

    dispatcher = runtime._dispatcher()
    dispatcher.budget = 1
    dispatcher._ready = Shuffled(dispatcher._ready)


class Trouble(logging.Handler):
    """Every record of level ERROR."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            text += f" {record.exc_info[1]!r}"
        self.records.append(text)

    def __enter__(self) -> Self:
        for name in ("pykka", "relay", "asyncio"):
            logging.getLogger(name).addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        for name in ("pykka", "relay", "asyncio"):
            logging.getLogger(name).removeHandler(self)


def actor_of(ref: Ref) -> Any:
    return cast("Any", ref.actor_inbox)._actor


async def directory_counts(origin: Ref) -> tuple[int, int, int]:
    """Paths, publications and watchers, once the inbox is empty."""
    await ask(origin, m.ListAnnounced(()), timeout=TIMEOUT)
    return counts(actor_of(origin)._directory)


def forget_actors() -> None:
    """Remove a failed test's actors from the registry."""
    RUNTIME.actors.clear()


def stop_all() -> None:
    for ref in list(RUNTIME.actors):
        halt(ref)


def named(name: str) -> Ref:
    found: Ref
    (found,) = [ref for ref in RUNTIME.actors if str(actor_of(ref)) == name]
    return found


def actors() -> list[str]:
    return sorted(str(actor_of(ref)) for ref in RUNTIME.actors)


def told(row: PeerRow) -> str:
    """The peer's state, and whether the other relay dialled the session."""
    return "dialled by it" if row.dialled_by == "it" and row.state == "connected" else str(row.state)


def tally(items: Sequence[Any]) -> dict[str, int]:
    """Items by class."""
    counts: dict[str, int] = defaultdict(int)
    for item in items:
        counts[type(item).__name__] += 1
    return dict(counts)
