"""pykka actors on the asyncio event loop: inbox, future, timers, and the dispatcher of turns.

References, stop, failure and dead letters are pykka's. `Runtime.actors` is the registry: pykka has one per
process. Only this file uses private names of pykka (4.5), which `tests/actors/test_runtime.py` tests. A turn
handles the messages that the inbox held at its start; `on_turn_end` then sends the effects of many messages as
one.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Generator
from contextlib import suppress
from functools import partial
from queue import Empty
from types import TracebackType
from typing import Any, NamedTuple, TypeAlias

import pykka
from pykka import ActorDeadError
from pykka._envelope import Envelope
from pykka.messages import ProxyCall, ProxyGetAttr, ProxySetAttr, _ActorStop

from relay.logger import get_logger
from relay.runtime import Runtime

__all__ = ["ActorDeadError"]

logger = get_logger("relay.actors")

Ref: TypeAlias = "pykka.ActorRef[Any]"

PASS_BUDGET = 512  # turns before the loop's sockets and timers
DEPTH_WARNING = 10_000  # messages of one inbox that deserve a warning


class Overrun(NamedTuple):
    """The inbox is over its limit: handled before all else, and nothing more gets in."""

    waiting: int


_SPECIAL = (Envelope, ProxyCall, ProxyGetAttr, ProxySetAttr, _ActorStop)
"""Messages that pykka handles: questions, and its own."""


class CancelledInActorError(RuntimeError):
    """A handler raised a non-`Exception` such as `CancelledError`. This actor fails; pykka would stop all, blocking."""


class Dispatcher:
    """Turns of one event loop's actors, in order of request."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)  # a dispatcher ends with its loop
        self._thread = threading.get_ident()
        self._ready: deque[LoopActor] = deque()
        self._scheduled = False

    def wake(self, actor: LoopActor) -> None:
        if threading.get_ident() == self._thread:
            self._ready.append(actor)
            if not self._scheduled:
                self._schedule()
        else:
            loop = self._loop()
            if loop is not None:
                loop.call_soon_threadsafe(self.wake, actor)

    def _schedule(self) -> None:
        loop = self._loop()
        if loop is not None:
            self._scheduled = True
            loop.call_soon(self._run)

    def _run(self) -> None:
        ready = self._ready
        try:
            for _ in range(PASS_BUDGET):
                if not ready:
                    break
                ready.popleft()._turn()
        finally:
            self._scheduled = False
            if ready:
                self._schedule()


_dispatchers: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Dispatcher] = weakref.WeakKeyDictionary()


def _dispatcher() -> Dispatcher:
    loop = asyncio.get_running_loop()
    dispatcher = _dispatchers.get(loop)
    if dispatcher is None:
        dispatcher = _dispatchers[loop] = Dispatcher(loop)
    return dispatcher


class LoopInbox:
    """A deque that asks for a turn when it becomes non-empty. Holds pykka's envelopes, and bare messages of `send`."""

    __slots__ = ("_actor", "_alarm", "_budget", "_dispatcher", "_limit", "_queue", "ended", "waiting")

    def __init__(self) -> None:
        self._queue: deque[Any] = deque()
        self._actor: LoopActor | None = None
        self._dispatcher: Dispatcher | None = None
        self._budget = 0
        self._limit = sys.maxsize
        self._alarm = DEPTH_WARNING
        self.waiting = False  # for a turn
        self.ended = False  # read no more

    def attach(self, actor: LoopActor, dispatcher: Dispatcher) -> None:
        self._actor = actor
        self._dispatcher = dispatcher
        self.waiting = True
        dispatcher.wake(actor)

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
            if self._dispatcher is not None and self._actor is not None:
                self.waiting = True
                self._dispatcher.wake(self._actor)
        elif len(queue) >= self._alarm:
            self._on_depth(len(queue))

    def _on_depth(self, depth: int) -> None:
        if depth == DEPTH_WARNING:
            logger.warning("many messages are queued", queued=depth, actor=self._actor)
        if depth > self._limit and not self.ended:
            self.ended = True
            self._queue.appendleft(Overrun(depth))

    def allow_one(self) -> None:
        self._budget = 1

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


class LoopFuture(pykka.Future[Any]):
    """A future for `await`. `get` never blocks: it raises if there is no result."""

    def __init__(self) -> None:
        super().__init__()
        self._result: tuple[Any, BaseException | None] | None = None
        self._waiters: list[asyncio.Future[None]] = []

    def get(self, *, timeout: float | None = None) -> Any:
        if self._get_hook is not None:
            return super().get(timeout=timeout)
        if self._result is None:
            raise RuntimeError("no reply yet, and waiting here would block the event loop: await the future")
        value, error = self._result
        if error is not None:
            try:
                raise error
            finally:
                del self, error  # of its traceback: a reference cycle
        return value

    def set(self, value: Any = None) -> None:
        self._settle((value, None))

    def set_exception(self, exc_info: Any = None) -> None:
        if exc_info is None:
            exc_info = sys.exc_info()
        error = exc_info[1] if exc_info[1] is not None else exc_info[0]()
        if isinstance(error, ActorDeadError):
            error.__traceback__ = None  # pykka's frame in it holds this future: a reference cycle
        self._settle((None, error))

    def _settle(self, result: tuple[Any, BaseException | None]) -> None:
        if self._result is not None:
            raise RuntimeError("a future is answered once")
        self._result = result
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def __await__(self) -> Generator[Any, None, Any]:
        if self._get_hook is not None:
            raise RuntimeError("a derived future cannot be awaited: use runtime.ask or runtime.stop")
        if self._result is None:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            yield from waiter
        try:
            return self.get()
        finally:
            del self


class Timer:
    """A later message to oneself; `cancel` is always safe."""

    __slots__ = ("_actor", "_handle", "message")

    def __init__(self, actor: LoopActor, delay: float, message: Any) -> None:
        self._actor: LoopActor | None = actor
        self.message = message
        self._handle: asyncio.TimerHandle | None = actor.runtime.call_later(delay, self._fire)

    def _fire(self) -> None:
        send(self._let_go().actor_ref, self.message)

    def cancel(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._let_go()

    def _let_go(self) -> LoopActor:
        """Break the reference cycle."""
        actor, self._actor, self._handle = self._actor, None, None
        assert actor is not None
        actor._timers.discard(self)
        return actor


class LoopActor(pykka.Actor):
    """Base of every actor: `on_receive` and, where needed, `on_start`, `on_turn_end` and `on_end`.

    `on_end` runs exactly once, whether the actor was stopped, failed, or could not start.
    """

    def __init__(self, runtime: Runtime) -> None:
        super().__init__()
        self.runtime = runtime
        self._timers: set[Timer] = set()
        self._started = False
        self._ended = False

    @classmethod
    def start(cls, *args: Any, **kwargs: Any) -> Ref:
        actor = cls(*args, **kwargs)
        actor.runtime.actors[actor.actor_ref] = None
        actor._start_actor_loop()
        return actor.actor_ref

    @staticmethod
    def _create_actor_inbox() -> LoopInbox:
        return LoopInbox()

    @staticmethod
    def _create_future() -> LoopFuture:
        return LoopFuture()

    def _start_actor_loop(self) -> None:
        self.inbox.attach(self, _dispatcher())

    @property
    def inbox(self) -> LoopInbox:
        inbox = self.actor_inbox
        assert isinstance(inbox, LoopInbox)
        return inbox

    def end_now(self) -> None:
        """Queued messages go to `on_dead_letter`."""
        self._stop()

    def on_turn_end(self) -> None:
        """All messages of this turn are handled."""

    def on_dead_letter(self, message: Any) -> None:
        """The actor ended before this message, whose sender believes that it arrived."""

    def on_end(self, error: BaseException | None) -> None:
        """Release children, watchers and all else. `error`: the failure, if any."""

    def call_later(self, delay: float, message: Any) -> Timer:
        """Send `message` in `delay` seconds, unless the actor ends before."""
        timer = Timer(self, delay, message)
        self._timers.add(timer)
        return timer

    def _turn(self) -> None:  # noqa: C901 - the path of every message, in one piece
        inbox = self.actor_inbox
        assert isinstance(inbox, LoopInbox)
        if not self._started:
            self._started = True
            self._actor_loop_setup()
        queue = inbox._queue
        for _ in range(len(queue)):
            if self._ended:
                break
            message = queue[0]
            if not isinstance(message, _SPECIAL):
                queue.popleft()
                try:
                    self.on_receive(message)
                except BaseException as error:  # noqa: BLE001 - the boundary of an actor
                    self._crash(error)
            else:
                inbox.allow_one()
                with suppress(Empty):
                    self._actor_loop_running()
        if not self._ended:
            try:
                self.on_turn_end()
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:  # noqa: BLE001 - the boundary of an actor
                self._crash(error)
        if self._ended:
            self._wind_up(inbox)
            return
        inbox.waiting = False  # first: a message that another thread queues now asks for a turn itself
        if queue:
            inbox.waiting = True
            _dispatcher().wake(self)

    def _wind_up(self, inbox: LoopInbox) -> None:
        self._actor_loop_teardown()
        inbox.detach()
        # Break large reference cycles, which need the garbage collector.
        self.__dict__.clear()

    def _guarded(self, hook: Callable[[], None]) -> None:
        try:
            hook()
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001 - the boundary of an actor
            self._crash(error)

    def _crash(self, error: BaseException) -> None:
        self._handle_failure(type(error), error, error.__traceback__)
        self._end(error)

    def _actor_loop_setup(self) -> None:
        self._guarded(self.on_start)

    def _actor_loop_teardown(self) -> None:
        waiting = self.inbox.waiting_messages()
        super()._actor_loop_teardown()
        for message in waiting:
            if not isinstance(message, _ActorStop):
                self._guarded(partial(self.on_dead_letter, message))

    def _handle_receive(self, message: Any) -> Any:
        try:
            return super()._handle_receive(message)
        except Exception:
            raise
        except BaseException as error:
            raise CancelledInActorError(f"{error!r} while handling {type(message).__name__}") from error

    def on_stop(self) -> None:
        self._end(None)

    def on_failure(
        self,
        exception_type: type[BaseException] | None,  # noqa: ARG002 - pykka's signature
        exception_value: BaseException | None,
        traceback: TracebackType | None,  # noqa: ARG002
    ) -> None:
        self._end(exception_value)

    def _end(self, error: BaseException | None) -> None:
        if self._ended:
            return
        self._ended = self.inbox.ended = True
        self.runtime.actors.pop(self.actor_ref, None)
        for timer in list(self._timers):
            timer.cancel()
        try:
            self.on_end(error)
        except Exception as failure:  # noqa: BLE001 - the boundary of an actor
            self._handle_failure(type(failure), failure, failure.__traceback__)


def send(ref: Ref, message: Any) -> bool:
    """False if the receiver has ended."""
    inbox: LoopInbox = ref.actor_inbox  # type: ignore[assignment]
    if inbox.ended:
        return False
    inbox.put(message)
    return True


async def ask(ref: Ref, message: Any, *, timeout: float | None) -> Any:  # noqa: ASYNC109 - a deadline is part of asking
    """Await the reply, also a later one (a future). Raises TimeoutError, ActorDeadError, or the actor's exception."""
    async with asyncio.timeout(timeout):
        reply = await ref.ask(message, block=False)
        return await reply if isinstance(reply, LoopFuture) else reply


def inbox_depths(runtime: Runtime) -> list[tuple[str, int]]:
    """The kind and queue length of each living actor; a `TrackActor` is a `track`."""
    return [
        (reference.actor_class.__name__.removesuffix("Actor").lower(), len(reference.actor_inbox))
        for reference in runtime.actors
    ]


def halt(ref: Ref) -> None:
    """Stop an actor after its queued messages, without awaiting that."""
    send(ref, _ActorStop())


async def stop(ref: Ref, *, timeout: float) -> bool:  # noqa: ASYNC109
    """Stop an actor and await its end; `False` if it had ended."""
    try:
        await ask(ref, _ActorStop(), timeout=timeout)
    except ActorDeadError:
        return False
    return True
