"""The pump of one WebSocket yields to other tasks, whatever its peer sends."""

from __future__ import annotations

import asyncio
import itertools
from types import SimpleNamespace
from typing import Any, cast

import pytest

from relay.runtime import Runtime
from relay.transport.websocket.pump import BINARY, CLOSE, NORMAL_CLOSURE, READ_TIME, Pump


class Idle:
    """A session that writes down what its timer does."""

    readable = ended = False

    def __init__(self) -> None:
        self.streams = SimpleNamespace()
        self.resumed: list[float] = []
        self.ticks = 0

    def resume(self, seconds: float) -> None:
        self.resumed.append(seconds)

    def tick(self) -> float:
        self.ticks += 1
        return 5.0


async def test_a_pause_of_the_process_is_no_silence_of_the_peer() -> None:
    """What the peer sent meanwhile is read after the timer has fired."""
    clock, session = [100.0], Idle()
    pump = Pump(cast("Any", None), cast("Any", session), lambda: None, Runtime(lambda: clock[0]))
    pump._on_timer()
    clock[0] += 5.01  # a timer that is late as usual
    pump._on_timer()
    assert session.resumed == []
    clock[0] += 65.0  # asleep for a minute
    pump._on_timer()
    assert session.resumed == pytest.approx([60.0])
    assert session.ticks == 3


class Flood:
    """A library with buffered messages: `receive` never waits."""

    def __init__(self, messages: int) -> None:
        self.left = messages

    async def receive(self) -> Any:
        self.left -= 1
        kind = BINARY if self.left >= 0 else CLOSE
        return SimpleNamespace(type=kind, data=b"x" if kind == BINARY else NORMAL_CLOSURE, extra="")


class SlowSession:
    """A session that is slow for each message."""

    readable = True
    ended = False

    def __init__(self, clock: list[float], cost: float) -> None:
        self._clock, self._cost = clock, cost
        self.streams = SimpleNamespace()
        self.taken = 0

    def receive(self, data: bytes) -> None:
        self.taken += 1
        self._clock[0] += self._cost

    def end(self, code: int | None, reason: str, *, by_peer: bool) -> None:
        self.ended = True


@pytest.mark.parametrize("cost, most", [(READ_TIME / 4.5, 5), (READ_TIME * 3, 1)])
async def test_others_have_their_turn_while_messages_come_without_a_pause(cost: float, most: int) -> None:
    clock = [0.0]
    session = SlowSession(clock, cost)
    reading = asyncio.create_task(
        Pump(cast("Any", Flood(40)), cast("Any", session), lambda: None, Runtime(lambda: clock[0]))._read()
    )
    turns = [0]
    while not reading.done():
        await asyncio.sleep(0)
        turns.append(session.taken)
    assert session.taken == 40
    assert max(after - before for before, after in itertools.pairwise(turns)) == most
