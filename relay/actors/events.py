"""Keeps the latest events of the relay, which other actors report, and counts what sessions were refused."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from relay.actors.runtime import LoopActor
from relay.model.events import EventLog, Kind
from relay.runtime import Runtime


class Happened(NamedTuple):
    """Report an event. `limit`: the exceeded limit of a session, which is counted."""

    kind: Kind
    session: int | None = None
    remote: str | None = None
    path: str | None = None
    reason: str | None = None
    times: int = 1
    limit: str = ""


class ListEvents(NamedTuple):
    """Asked by HTTP. The reply is a tuple of `Event` with greater numbers, oldest first."""

    after: int


class CountRefused(NamedTuple):
    """Asked by HTTP. The reply counts what sessions were refused since the start, by limit."""


class EventsActor(LoopActor):
    """One per relay."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self._log = EventLog()
        self._refused: Counter[str] = Counter()

    def __str__(self) -> str:
        return "events"

    def on_receive(self, message: object) -> object:
        match message:
            case Happened():
                self._add(message)
            case ListEvents():
                return self._log.after(message.after)
            case CountRefused():
                return dict(self._refused)
            case _:
                return super().on_receive(message)
        return None

    def _add(self, message: Happened) -> None:
        if message.limit:
            self._refused[message.limit] += message.times
        self._log.add(
            self.runtime.wall_time(),
            message.kind,
            session=message.session,
            remote=message.remote,
            path=message.path,
            reason=message.reason,
            count=message.times,
        )
