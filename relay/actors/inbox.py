"""Inboxes of actors and the dispatcher of their turns, compiled: every message passes here.

A turn handles the messages that the inbox held at its start; `on_turn_end` then sends the effects of many messages
as one. Must know of actors only the methods of `LoopActor` that it calls.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import weakref
from collections import deque
from contextlib import suppress
from queue import Empty
from typing import Any, Final, NamedTuple

from pykka._envelope import Envelope
from pykka.messages import ProxyCall, ProxyGetAttr, ProxySetAttr, _ActorStop

from relay.logger import get_logger

logger = get_logger("relay.actors")

PASS_BUDGET: Final = 512  # turns before the loop's sockets and timers
DEPTH_WARNING: Final = 10_000  # messages of one inbox that deserve a warning

SPECIAL: Final = frozenset((Envelope, ProxyCall, ProxyGetAttr, ProxySetAttr, _ActorStop))
"""Types of messages that pykka handles: questions, and its own."""


class Overrun(NamedTuple):
    """The inbox is over its limit: handled before all else, and nothing more gets in."""

    waiting: int


class Dispatcher:
    """Turns of one event loop's actors, in order of request."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)  # a dispatcher ends with its loop
        self._home = threading.get_ident()
        self._ready: deque[LoopInbox] = deque()
        self._scheduled = False
        self.budget = PASS_BUDGET

    def wake(self, inbox: LoopInbox) -> None:
        if threading.get_ident() == self._home:
            self._ready.append(inbox)
            if not self._scheduled:
                self._schedule()
        else:
            loop = self._loop()
            if loop is not None:
                loop.call_soon_threadsafe(self.wake, inbox)

    def _schedule(self) -> None:
        loop = self._loop()
        if loop is not None:
            self._scheduled = True
            loop.call_soon(self._run)

    def _run(self) -> None:
        ready = self._ready
        try:
            for _ in range(self.budget):
                if not ready:
                    break
                inbox: LoopInbox = ready.popleft()
                inbox.turn()
        finally:
            self._scheduled = False
            if ready:
                self._schedule()


class LoopInbox:
    """A deque that asks for a turn when it becomes non-empty. Holds pykka's envelopes, and bare messages of `send`."""

    __slots__ = (
        "_actor",
        "_alarm",
        "_budget",
        "_dispatcher",
        "_limit",
        "_queue",
        "_started",
        "ended",
        "over",
        "waiting",
    )

    def __init__(self) -> None:
        self._queue: deque[Any] = deque()
        self._actor: Any = None  # a LoopActor
        self._dispatcher: Dispatcher | None = None
        self._budget = 0
        self._limit = sys.maxsize
        self._alarm = DEPTH_WARNING
        self._started = False
        self.waiting = False  # for a turn
        self.ended = False  # read no more
        self.over = False  # the actor's `on_end` has run

    def attach(self, actor: Any, dispatcher: Dispatcher) -> None:
        self._actor = actor
        self._dispatcher = dispatcher
        self.waiting = True
        dispatcher.wake(self)

    def bound(self, limit: int) -> None:
        """A sender of more than `limit` messages finds the actor ended, and the actor gets `Overrun`."""
        self._limit = limit
        self._alarm = min(DEPTH_WARNING, limit)

    def detach(self) -> None:
        self._actor = None
        self._dispatcher = None

    def put(self, item: Any, /) -> None:
        queue = self._queue
        queue.append(item)
        if not self.waiting:
            dispatcher = self._dispatcher
            if dispatcher is not None:
                self.waiting = True
                dispatcher.wake(self)
        elif len(queue) >= self._alarm:
            self._on_depth(len(queue))

    def _on_depth(self, depth: int) -> None:
        if depth == DEPTH_WARNING:
            logger.warning("many messages are queued", queued=depth, actor=self._actor)
        if depth > self._limit and not self.ended:
            self.ended = True
            self._queue.appendleft(Overrun(depth))

    def turn(self) -> None:  # noqa: C901 - the path of every message, in one piece
        """Let the actor handle the messages that are queued now."""
        actor = self._actor
        if actor is None:
            return
        if not self._started:
            self._started = True
            actor._actor_loop_setup()
        queue = self._queue
        for _ in range(len(queue)):
            if self.over:
                break
            message = queue[0]
            if type(message) not in SPECIAL:
                queue.popleft()
                try:
                    actor.on_receive(message)
                except BaseException as error:  # noqa: BLE001 - the boundary of an actor
                    actor._crash(error)
            else:
                self._budget = 1
                with suppress(Empty):
                    actor._actor_loop_running()
        if not self.over:
            try:
                actor.on_turn_end()
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:  # noqa: BLE001 - the boundary of an actor
                actor._crash(error)
        if self.over:
            actor._wind_up()
            return
        self.waiting = False  # first: a message that another thread queues now asks for a turn itself
        if queue:
            self.waiting = True
            assert self._dispatcher is not None
            self._dispatcher.wake(self)

    def get(self) -> Envelope[Any]:
        """The next message of this turn; `queue.Empty` ends it."""
        if self._budget <= 0:
            raise Empty
        self._budget -= 1
        item = self._queue.popleft()
        return item if isinstance(item, Envelope) else Envelope(item)

    def empty(self) -> bool:
        if not self._queue:
            return True
        self._budget = 1
        return False

    def __len__(self) -> int:
        return len(self._queue)

    def waiting_messages(self) -> list[Any]:
        """Unhandled ones, without questions."""
        return [
            item.message if isinstance(item, Envelope) else item
            for item in self._queue
            if not isinstance(item, Envelope) or item.reply_to is None
        ]


def send(ref: Any, message: Any) -> bool:
    """False if the receiver, an `ActorRef`, has ended."""
    inbox: LoopInbox = ref.actor_inbox
    if inbox.ended:
        return False
    inbox.put(message)
    return True
