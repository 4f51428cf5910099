"""Actors on the event loop: pykka's promises hold, an actor ends in one way, and one that fails fails alone."""

from __future__ import annotations

import ast
import asyncio
import gc
import inspect
import threading
import weakref
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pykka
import pytest
from pykka import ActorDeadError, ActorRegistry
from pykka._envelope import Envelope
from pykka.messages import _ActorStop

from relay.actors import inbox, runtime
from relay.actors.runtime import (
    LoopActor,
    LoopFuture,
    LoopInbox,
    Overrun,
    Ref,
    ask,
    halt,
    send,
    stop,
)
from tests.actors.watching import Trouble
from tests.clock import RUNTIME, TIMEOUT, settle, timer_count, until


class Diary(LoopActor):
    """Records its life; calls callable messages and replies with the result."""

    def __init__(self, name: str = "diary", log: list[Any] | None = None) -> None:
        super().__init__(RUNTIME)
        self.name = name
        self.log: list[Any] = log if log is not None else []

    def __str__(self) -> str:
        return self.name

    def on_start(self) -> None:
        self.log.append("start")

    def on_receive(self, message: Any) -> Any:
        if callable(message):
            return message()
        self.log.append(message)
        return message

    def on_turn_end(self) -> None:
        self.log.append("turn")

    def on_end(self, error: BaseException | None) -> None:
        self.log.append(("end", type(error).__name__ if error else None))

    def on_dead_letter(self, message: Any) -> None:
        self.log.append(("dead letter", message))


def raising(error: BaseException) -> Callable[[], None]:
    def raise_it() -> None:
        raise error

    return raise_it


def ends(log: list[Any]) -> list[Any]:
    return [entry for entry in log if isinstance(entry, tuple) and entry[0] == "end"]


# --- what pykka promises ---------------------------------------------------------------------------------------------


async def test_an_actor_is_registered_while_it_lives() -> None:
    ref = Diary.start()
    assert ref.is_alive()
    assert ref in RUNTIME.actors
    assert not ActorRegistry.get_all()
    assert await stop(ref, timeout=TIMEOUT)
    assert not ref.is_alive()
    assert ref not in RUNTIME.actors


async def test_messages_are_handled_in_order_after_on_start() -> None:
    log: list[Any] = []
    ref = Diary.start(log=log)
    for number in range(5):
        ref.tell(number)
    await settle()
    assert log == ["start", 0, 1, 2, 3, 4, "turn"]


async def test_nothing_is_handled_inside_tell() -> None:
    log: list[Any] = []
    ref = Diary.start(log=log)
    ref.tell(1)
    assert log == []
    await settle()
    assert log


async def test_ask_returns_the_reply_or_what_was_raised() -> None:
    ref = Diary.start()
    assert await ask(ref, 7, timeout=TIMEOUT) == 7
    with pytest.raises(ZeroDivisionError):
        await ask(ref, raising(ZeroDivisionError()), timeout=TIMEOUT)
    assert ref.is_alive()
    assert await ask(ref, 8, timeout=TIMEOUT) == 8


async def test_ask_and_tell_to_a_dead_actor_raise() -> None:
    ref = Diary.start()
    assert await stop(ref, timeout=TIMEOUT)
    with pytest.raises(ActorDeadError):
        ref.tell(1)
    with pytest.raises(ActorDeadError):
        await ask(ref, 1, timeout=TIMEOUT)
    assert send(ref, 1) is False
    assert await stop(ref, timeout=TIMEOUT) is False
    halt(ref)


async def test_messages_before_the_stop_are_handled_and_later_questions_refused() -> None:
    log: list[Any] = []
    ref = Diary.start(log=log)
    ref.tell(1)
    halt(ref)
    ref.tell(2)
    late = ref.ask(3, block=False)
    with pytest.raises(ActorDeadError):
        async with asyncio.timeout(TIMEOUT):
            await late
    assert log == ["start", 1, ("end", None), ("dead letter", 2)]


async def test_a_pending_question_at_failure_gets_actor_dead(trouble: Trouble) -> None:
    ref = Diary.start()
    ref.tell(raising(ValueError("x")))
    with pytest.raises(ActorDeadError):
        await ask(ref, 1, timeout=TIMEOUT)
    trouble.records.clear()


async def test_a_second_stop_that_waits_is_answered() -> None:
    ref = Diary.start()
    assert await asyncio.gather(*(stop(ref, timeout=TIMEOUT) for _ in range(3))) == [True, True, True]


async def test_an_actor_may_stop_itself() -> None:
    log: list[Any] = []
    ref = Diary.start(log=log)
    ref.tell(lambda: halt(ref))
    await settle()
    assert not ref.is_alive()
    assert ends(log) == [("end", None)]


async def test_an_unknown_message_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    class Plain(LoopActor):
        pass

    ref = Plain.start(RUNTIME)
    ref.tell("what")
    await settle()
    assert "Unexpected message" in caplog.text
    assert ref.is_alive()


async def test_ask_that_runs_out_of_time_leaves_the_actor_unharmed() -> None:
    ref = Diary.start()
    await settle()
    inbox = ref.actor_inbox
    assert isinstance(inbox, LoopInbox)
    inbox.waiting = True  # so it is not given a turn
    with pytest.raises(TimeoutError):
        await ask(ref, 1, timeout=0.01)
    inbox.waiting = False
    assert await ask(ref, 2, timeout=TIMEOUT) == 2


async def test_a_future_never_blocks_and_is_answered_once() -> None:
    future = LoopFuture()
    with pytest.raises(RuntimeError, match="block"):
        future.get()
    future.set(3)
    assert future.get() == 3
    assert await future == 3
    with pytest.raises(RuntimeError):
        future.set(4)


async def test_two_may_await_one_future() -> None:
    future = LoopFuture()

    async def wait() -> Any:
        async with asyncio.timeout(0.2):
            return await future

    tasks = [asyncio.create_task(wait()) for _ in range(2)]
    await settle()
    future.set(5)
    assert await asyncio.gather(*tasks) == [5, 5]


# --- failing ---------------------------------------------------------------------------------------------------------


class Faulty(Diary):
    """Fails in one of its hooks."""

    def __init__(self, where: str, error: BaseException, log: list[Any]) -> None:
        super().__init__(f"faulty {where}", log)
        self.where = where
        self.error = error

    def on_start(self) -> None:
        super().on_start()
        if self.where == "on_start":
            raise self.error

    def on_turn_end(self) -> None:
        super().on_turn_end()
        if self.where == "on_turn_end":
            raise self.error

    def on_end(self, error: BaseException | None) -> None:
        super().on_end(error)
        if self.where == "on_end":
            raise self.error


@pytest.mark.parametrize("where", ["on_start", "handler", "on_turn_end", "on_end"])
@pytest.mark.parametrize(
    "error",
    [ValueError("oops"), asyncio.CancelledError("oops")],
    ids=["error", "cancelled"],
)
async def test_a_failing_hook_ends_that_actor_once_and_no_other(
    trouble: Trouble, where: str, error: BaseException
) -> None:
    log: list[Any] = []
    sibling_log: list[Any] = []
    sibling = Diary.start(log=sibling_log)
    ref = Faulty.start(where, error, log)
    if where == "handler":
        ref.tell(raising(error))
    elif where == "on_end":
        halt(ref)
    pending = ref.ask("late", block=False)
    with (
        pytest.raises((ActorDeadError, type(error), RuntimeError)) if where != "on_turn_end" else _whatever()
    ):
        async with asyncio.timeout(TIMEOUT):
            await pending
    await settle()
    assert not ref.is_alive()
    assert ref not in RUNTIME.actors
    assert len(ends(log)) == 1
    named = [record for record in trouble.records if f"faulty {where}" in record]
    assert len(named) == 1
    assert "oops" in named[0]
    assert len(trouble.records) == 1
    trouble.records.clear()
    sibling.tell("still here")
    await settle()
    assert "still here" in sibling_log


async def test_an_exit_in_a_handler_ends_the_actor_too(trouble: Trouble) -> None:
    """Else it would wait for its turn for ever, and so would all who ask it."""
    log: list[Any] = []
    ref = Faulty.start("handler", SystemExit(3), log)
    ref.tell(raising(SystemExit(3)))
    await settle()
    assert not ref.is_alive()
    assert len(ends(log)) == 1
    trouble.records.clear()


class _whatever:  # noqa: N801 - reads as a context manager
    """Questions may be answered or refused."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> bool:
        return True


async def test_on_end_gets_the_error_of_a_failed_actor(trouble: Trouble) -> None:
    log: list[Any] = []
    ref = Diary.start(log=log)
    ref.tell(raising(KeyError("k")))
    await settle()
    assert ends(log) == [("end", "KeyError")]
    trouble.records.clear()


async def test_messages_behind_a_failure_are_dead_letters(trouble: Trouble) -> None:
    log: list[Any] = []
    ref = Diary.start(log=log)
    ref.tell(raising(KeyError("k")))
    ref.tell("behind")
    await settle()
    assert log == ["start", ("end", "KeyError"), ("dead letter", "behind")]
    trouble.records.clear()


async def test_a_failing_dead_letter_does_not_hide_the_next(trouble: Trouble) -> None:
    log: list[Any] = []

    class Picky(Diary):
        def on_dead_letter(self, message: Any) -> None:
            super().on_dead_letter(message)
            if message == "bad":
                raise ValueError("bad letter")

    ref = Picky.start(log=log)
    halt(ref)
    ref.tell("bad")
    ref.tell("good")
    await settle()
    assert log == ["start", ("end", None), ("dead letter", "bad"), ("dead letter", "good")]
    assert len(trouble.records) == 1
    trouble.records.clear()


async def test_an_inbox_that_overruns_lets_nothing_more_in_and_tells_its_actor_first() -> None:
    log: list[Any] = []

    class Bounded(Diary):
        def __init__(self, name: str = "bounded", log: list[Any] | None = None) -> None:
            super().__init__(name, log)
            self.inbox.bound(3)

        def on_receive(self, message: Any) -> Any:
            super().on_receive(message)
            if isinstance(message, Overrun):
                self.end_now()

    ref = Bounded.start(log=log)
    await settle()
    assert [send(ref, number) for number in range(3)] == [True] * 3
    await settle()
    assert log == ["start", "turn", 0, 1, 2, "turn"]  # never more than three at once
    log.clear()
    assert [send(ref, number) for number in range(6)] == [True] * 4 + [False] * 2
    question = ref.ask("are you there?", block=False)
    await settle()
    letters = [("dead letter", number) for number in range(4)]
    assert log == [Overrun(4), ("end", None), *letters]
    with pytest.raises(ActorDeadError):
        await question
    assert not ref.is_alive()


# --- turns -----------------------------------------------------------------------------------------------------------


async def test_a_batch_is_one_turn() -> None:
    log: list[Any] = []
    ref = Diary.start(log=log)
    await settle()
    log.clear()
    for number in range(100):
        ref.tell(number)
    await settle()
    assert log == [*range(100), "turn"]


async def test_an_actor_that_keeps_telling_itself_starves_nobody() -> None:
    log: list[Any] = []
    greedy: Ref = Diary.start("greedy")
    going = True

    def again() -> None:
        if going:
            greedy.tell(again)

    greedy.tell(again)
    other = Diary.start(log=log)
    fired = asyncio.Event()
    asyncio.get_running_loop().call_later(0.01, fired.set)
    for number in range(5):
        other.tell(number)
        assert await ask(other, number, timeout=TIMEOUT) == number
    async with asyncio.timeout(TIMEOUT):
        await fired.wait()
    going = False
    await settle()


async def test_what_an_actor_tells_itself_waits_for_the_next_turn() -> None:
    log: list[Any] = []
    ref: Ref = Diary.start(log=log)
    ref.tell(lambda: ref.tell("second"))
    ref.tell("first")
    await settle()
    assert log == ["start", "first", "turn", "second", "turn"]


async def test_actors_take_turns() -> None:
    log: list[Any] = []
    refs: list[Ref] = []

    def ping(number: int, left: int) -> None:
        log.append(number)
        if left:
            refs[number].tell(lambda: ping(number, left - 1))

    refs += [Diary.start() for _ in range(3)]
    for number, ref in enumerate(refs):
        ref.tell(lambda number=number: ping(number, 3))
    await settle()
    assert log == [0, 1, 2] * 4


# --- threads and timers ----------------------------------------------------------------------------------------------


async def test_tell_from_other_threads() -> None:
    log: list[Any] = []
    ref = Diary.start(log=log)

    def work(base: int) -> None:
        for number in range(500):
            ref.tell(base + number)

    threads = [threading.Thread(target=work, args=(base,)) for base in (0, 1_000, 2_000)]
    for thread in threads:
        thread.start()
    await until(lambda: sum(isinstance(entry, int) for entry in log) == 1_500)
    for thread in threads:
        thread.join(TIMEOUT)
    for base in (0, 1_000, 2_000):
        mine = [entry for entry in log if isinstance(entry, int) and base <= entry < base + 500]
        assert mine == list(range(base, base + 500))


async def test_a_message_from_a_thread_at_the_end_of_a_turn_is_not_forgotten() -> None:
    """After the actor's last look into its inbox, before it sleeps."""
    log: list[Any] = []
    ref = Diary.start(log=log)
    await settle()
    pending = ["from a thread"]

    class Queue(deque[Any]):
        def __bool__(self) -> bool:
            found = len(self) > 0
            if not found and pending:
                thread = threading.Thread(target=ref.tell, args=(pending.pop(),))
                thread.start()
                thread.join(TIMEOUT)
            return found

    inbox = ref.actor_inbox
    assert isinstance(inbox, LoopInbox)
    inbox._queue = Queue()
    ref.tell("from here")
    await until(lambda: "from a thread" in log, 0.5)
    assert not pending


async def test_a_timer_is_a_message_to_oneself() -> None:
    log: list[Any] = []
    before = timer_count()

    class Timed(Diary):
        def on_start(self) -> None:
            self.call_later(0.0, "soon")
            self.call_later(30, "never").cancel()

    Timed.start(log=log)
    await until(lambda: "soon" in log)
    assert timer_count() == before


@pytest.mark.parametrize("how", ["stop", "failure"])
async def test_timers_die_with_their_actor(trouble: Trouble, how: str) -> None:
    before = timer_count()

    class Timed(Diary):
        def on_start(self) -> None:
            self.call_later(30, "a")
            self.call_later(40, "b")

    ref = Timed.start()
    await settle()
    assert timer_count() == before + 2
    if how == "stop":
        halt(ref)
    else:
        ref.tell(raising(ValueError("x")))
    await settle()
    assert timer_count() == before
    trouble.records.clear()


@pytest.mark.parametrize("fires", [True, False])
async def test_an_actor_that_keeps_its_timer_leaves_no_ring(fires: bool) -> None:
    """It is freed when it ends, without the garbage collector."""

    class Patient(LoopActor):
        def on_start(self) -> None:
            self.timer = self.call_later(0 if fires else 60, "tick")

        def on_receive(self, message: object) -> None:
            came.append(message)
            rang.set()

    came: list[object] = []
    rang = asyncio.Event()
    ref = Patient.start(RUNTIME)
    gone = ref._actor_weakref
    if fires:
        await rang.wait()
    gc.collect()
    gc.disable()
    try:
        await stop(ref, timeout=5)
        await settle()
        assert gone() is None
    finally:
        gc.enable()
    assert came == ["tick"] * fires


async def test_what_an_actor_held_goes_with_it_though_it_knows_the_actor() -> None:
    class Part:
        def __init__(self, owner: LoopActor) -> None:
            self.owner = owner

    class Whole(LoopActor):
        def on_start(self) -> None:
            self.part = Part(self)
            parts.append(weakref.ref(self.part))

        def on_dead_letter(self, message: object) -> None:
            letters.append((message, self.part.owner is self))

    parts: list[weakref.ref[Part]] = []
    letters: list[object] = []
    ref = Whole.start(RUNTIME)
    await settle()
    gc.collect()
    gc.disable()
    try:
        halt(ref)
        assert send(ref, "late")
        await settle()
        assert parts[0]() is None
    finally:
        gc.enable()
    assert letters == [("late", True)]
    assert not send(ref, "too late")


async def test_a_timer_may_be_cancelled_after_it_fired() -> None:
    log: list[Any] = []
    timers: list[runtime.Timer] = []

    class Timed(Diary):
        def on_start(self) -> None:
            timers.append(self.call_later(0.0, "soon"))

    Timed.start(log=log)
    await until(lambda: "soon" in log)
    timers[0].cancel()
    timers[0].cancel()


# --- size ------------------------------------------------------------------------------------------------------------


async def test_3_000_actors_and_100_000_messages() -> None:
    counts = [0]

    class Counter(LoopActor):
        def on_receive(self, message: object) -> object:
            counts[0] += 1
            return message

    refs = [Counter.start(RUNTIME) for _ in range(3_000)]
    for number in range(100_000):
        refs[number % 3_000].tell(number)
    await until(lambda: counts[0] == 100_000, 30.0)
    for ref in refs:
        halt(ref)
    await settle()
    assert not list(RUNTIME.actors)


# --- pykka's insides -------------------------------------------------------------------------------------------------


async def test_living_actors_are_listed_in_the_order_of_their_start() -> None:
    refs = [Diary.start() for _ in range(5)]
    assert list(RUNTIME.actors) == refs
    halt(refs[2])
    await settle()
    assert list(RUNTIME.actors) == [*refs[:2], *refs[3:]]


def test_the_private_names_of_pykka_that_the_runtime_uses_exist() -> None:
    """If one is missing, read `relay/actors/{inbox,runtime}.py` against the new pykka before moving the pin."""
    assert Envelope("message").message == "message"
    assert Envelope("message").reply_to is None
    assert _ActorStop() is not None
    hooks = {
        name
        for name in vars(LoopActor)
        if name.startswith("_") and not name.startswith("__") and name in vars(pykka.Actor)
    }
    assert hooks >= {
        "_create_actor_inbox",
        "_create_future",
        "_start_actor_loop",
        "_actor_loop_setup",
        "_actor_loop_teardown",
        "_handle_receive",
    }
    inboxes = {"_queue", "_actor", "_dispatcher", "_budget", "_limit", "_alarm", "_started", "_on_depth"}
    dispatchers = {"_loop", "_home", "_ready", "_scheduled", "_schedule", "_run"}
    own = {*vars(LoopActor), "_timers", *inboxes, *dispatchers, "_envelope"}
    used = {
        node.attr
        for source in (inspect.getsource(LoopActor), Path(inbox.__file__).with_name("inbox.py").read_text())
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__")
    }
    assert used - own <= set(dir(pykka.Actor))
    assert {"_actor_loop_running", "_handle_failure"} <= used
    assert hasattr(pykka.Future(), "_get_hook")
    assert list(inspect.signature(pykka.Actor.on_failure).parameters) == [
        "self", "exception_type", "exception_value", "traceback",
    ]  # fmt: skip
