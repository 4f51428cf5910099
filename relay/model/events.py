"""The latest events of a relay, in bounded memory, for `/events`.

A flood of one kind pushes out events of its own kind only, and refusals that are alike become one event with a count.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, TypeAlias

from relay.logger import loggable
from relay.model.address import address_of

MOST: Final = 200  # events kept

MERGE_WITHIN: Final = 60.0  # seconds after the last event that the next one like it is counted there

LONGEST_REMOTE: Final = 300  # characters: more than the longest name of a relay


class Kind(StrEnum):
    """What happened."""

    JOINED = "joined"  # a session began
    LEFT = "left"  # it ended
    REFUSED = "refused"  # a session, a request or data
    ANNOUNCED = "announced"  # a session of this relay publishes a path
    ENDED = "ended"  # it publishes the path no more
    PEER_UP = "peer_up"  # a session with another relay began
    PEER_DOWN = "peer_down"  # it ended, or none can be made
    DRAIN = "drain"  # the relay is about to end


ALIKE: Final = frozenset((Kind.REFUSED, Kind.PEER_DOWN))
"""Kinds that a peer without rights can cause, in any number."""


@dataclass(frozen=True, slots=True)
class Event:
    """A row of `/events`. `time`: seconds since the epoch. Fields that do not apply are None."""

    number: int
    time: float
    kind: str
    session: int | None
    remote: str | None
    path: str | None
    reason: str | None
    count: int  # of events that are alike
    first: int  # the number of the first of them: this event replaces those with the same `first`


Key: TypeAlias = "tuple[str, str | None] | int"


class EventLog:
    """The newest events of each kind."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._kinds: dict[Kind, OrderedDict[Key, Event]] = {kind: OrderedDict() for kind in Kind}
        self._size = 0
        self.newest = 0  # number of the newest event

    def add(
        self,
        now: float,
        kind: Kind,
        *,
        session: int | None = None,
        remote: str | None = None,
        path: str | None = None,
        reason: str | None = None,
        count: int = 1,
    ) -> None:
        """`now` is in seconds since the epoch. Texts of peers are cut, and lose tokens."""
        number = self.newest = next(self._numbers)
        reason = None if reason is None else loggable(reason)
        event = Event(
            number=number,
            time=now,
            kind=kind,
            session=session,
            remote=None if remote is None else remote[:LONGEST_REMOTE],
            path=None if path is None else loggable(path),
            reason=reason,
            count=count,
            first=number,
        )
        found = self._kinds[kind]
        key: Key = number
        if kind in ALIKE:
            key = "" if remote is None else address_of(remote), reason
            former = found.pop(key, None)
            if former is not None:
                self._size -= 1
                if now - former.time < MERGE_WITHIN:
                    event = replace(event, count=former.count + count, first=former.first)
        found[key] = event
        self._size += 1
        if self._size > MOST:
            max(self._kinds.values(), key=len).popitem(last=False)
            self._size -= 1

    def after(self, number: int) -> tuple[Event, ...]:
        """Newer events, oldest first; all of them if there is no such number yet."""
        if number > self.newest:
            number = 0
        found = [event for kind in self._kinds.values() for event in kind.values() if event.number > number]
        return tuple(sorted(found, key=lambda event: event.number))
