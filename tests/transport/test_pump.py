"""The pump of one WebSocket yields to other tasks, whatever its peer sends."""

from __future__ import annotations

import asyncio
import itertools
from types import SimpleNamespace
from typing import Any, cast

import pytest

from relay.runtime import Runtime
from relay.transport.websocket.pump import BINARY, CLOSE, NORMAL_CLOSURE, READ_TIME, Pump


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
