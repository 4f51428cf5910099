"""pykka actors on the asyncio event loop: base class, future and timers. `relay.actors.inbox` has their turns.

References, stop, failure and dead letters are pykka's. `Runtime.actors` is the registry: pykka has one per
process. Only this file and `inbox.py` use private names of pykka (4.5), which `tests/actors/test_runtime.py` tests.
"""

from __future__ import annotations

import asyncio
import sys
import weakref
from collections.abc import Callable, Generator
from functools import partial
from types import TracebackType
from typing import Any, TypeAlias

import pykka
from pykka import ActorDeadError
from pykka.messages import _ActorStop

from relay.actors.inbox import Dispatcher, LoopInbox, Overrun, send
from relay.runtime import Runtime

__all__ = ["ActorDeadError", "LoopInbox", "Overrun", "send"]

Ref: TypeAlias = "pykka.ActorRef[Any]"


class CancelledInActorError(RuntimeError):
    """A handler raised a non-`Exception` such as `CancelledError`. This actor fails; pykka would stop all, blocking."""


_dispatchers: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Dispatcher] = weakref.WeakKeyDictionary()


def _dispatcher() -> Dispatcher:
    loop = asyncio.get_running_loop()
    dispatcher = _dispatchers.get(loop)
    if dispatcher is None:
        dispatcher = _dispatchers[loop] = Dispatcher(loop)
    return dispatcher


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

    def _wind_up(self) -> None:
        self._actor_loop_teardown()
        self.inbox.detach()
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
        inbox = self.inbox
        if inbox.over:
            return
        inbox.over = inbox.ended = True
        self.runtime.actors.pop(self.actor_ref, None)
        for timer in list(self._timers):
            timer.cancel()
        try:
            self.on_end(error)
        except Exception as failure:  # noqa: BLE001 - the boundary of an actor
            self._handle_failure(type(failure), failure, failure.__traceback__)


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
