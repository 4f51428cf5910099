"""The session as all parts of a client see it, and the one way in which a client waits.

Owns the state machine, the tasks that wait for something of it, and the owner of each request. Must never read a
message. `Client` makes one, feeds it and ends it.

The rule of waiting: a task waits on a `Bell`, and the end of the session wakes all bells. So nothing hangs, whatever
the peer leaves out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol, TypeVar

from relay.client.errors import SessionEnded
from relay.moq.lite import LiteSession
from relay.moq.session import Event
from relay.runtime import Runtime

T = TypeVar("T")

KEPT: Final = 4_096
"""Changes, estimates and the like that are kept unread, and records of each kind."""


class Noted(list[T]):
    """What a peer did, the newest `KEPT` of it: a session may last for months. `total` counts all."""

    total = 0

    def append(self, item: T) -> None:
        """Note one more."""
        super().append(item)
        self.total += 1
        if len(self) > KEPT:
            del self[0]


class Owner(Protocol):
    """The part of a client that a request belongs to."""

    def on_event(self, event: Event) -> None:
        """Something happened to the request."""


class Peer:
    """A session with what belongs to it."""

    def __init__(self, moq: LiteSession, flush: Callable[[], None], runtime: Runtime) -> None:
        self.runtime = runtime
        self.now = runtime.now
        self.moq = moq
        self.flush = flush
        """Handle what a command has caused. To be called after commands."""
        self.owners: dict[int, Owner] = {}
        """By request."""
        self.ended: SessionEnded | None = None
        self.sleepers: set[asyncio.Future[None]] = set()

    def cancel(self, request: int, code: int | None = None) -> None:
        """Give up a request of ours."""
        if self.owners.pop(request, None) is not None and self.ended is None:
            self.moq.requests.cancel(request, code)
            self.flush()

    def check(self) -> None:
        """Raise SessionEnded if it has."""
        if self.ended is not None:
            raise self.ended.again()

    def end(self, error: SessionEnded) -> None:
        """Take note of the end, the first account of it, and wake all tasks."""
        if self.ended is None:
            self.ended = error
        self.owners.clear()
        for sleeper in self.sleepers:
            if not sleeper.done():
                sleeper.set_result(None)


class Bell:
    """Wakes the tasks that wait for one thing to change."""

    __slots__ = ("_peer", "_sleepers")

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._sleepers: list[asyncio.Future[None]] = []

    def ring(self) -> None:
        """Let all waiting tasks look again."""
        for sleeper in self._sleepers:
            if not sleeper.done():
                sleeper.set_result(None)

    async def until(self, ready: Callable[[], object]) -> None:
        """Wait until `ready()` is true. An exception that it raises ends the wait, and so does the session's end."""
        while not ready():
            self._peer.check()
            sleeper = asyncio.get_running_loop().create_future()
            self._sleepers.append(sleeper)
            self._peer.sleepers.add(sleeper)
            try:
                await sleeper
            finally:
                self._sleepers.remove(sleeper)
                self._peer.sleepers.discard(sleeper)
