"""Samples, in virtual time, of a relay's actors."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from relay.actors import messages as m
from relay.actors.counters import AddSkipped, CountersActor, Report, TrackFigures
from relay.actors.events import EventsActor, Happened, ListEvents
from relay.actors.runtime import LoopActor, Ref, ask, halt, send
from relay.model.events import Kind
from relay.model.member import MemberStatus, MemberTotals
from relay.runtime import Runtime
from relay.web.history import STEP
from relay.web.metrics import LoopLag
from relay.web.sampler import Sampler
from relay.web.state import Sources
from tests.actors.fakes import FakeRef
from tests.clock import RUNTIME, TIMEOUT, VirtualLoop, advance, settle, timer_count
from tests.web.test_health import IDENTITY

pytestmark = pytest.mark.virtual


class Answering(LoopActor):
    """Answers for gate and directory."""

    def __init__(self, runtime: Runtime, answers: dict[type, Any]) -> None:
        super().__init__(runtime)
        self._answers = answers

    def on_receive(self, message: object) -> object:
        return self._answers[type(message)]


class Bench:
    """A sampler among actors whose figures a test sets."""

    def __init__(self) -> None:
        self.answers: dict[type, Any] = {
            m.MeasureGate: m.GateFigures(0, 0, 0, {}),
            m.CountBroadcasts: 0,
        }
        self.listeners: Counter[str] = Counter()
        self.drops: int | None = 0
        self.cpu = 0.0
        self.fake: Ref = Answering.start(RUNTIME, self.answers)
        self.counters: Ref = CountersActor.start(RUNTIME)
        self.events: Ref = EventsActor.start(RUNTIME)
        runtime = replace(RUNTIME, cpu_time=lambda: self.cpu)
        self.lag = LoopLag(runtime)
        self.cluster = FakeRef()
        sources = Sources(
            runtime=runtime,
            origin=self.fake,
            gate=self.fake,
            relay=lambda: replace(IDENTITY, dashboard="https://fra.example/"),
            counters=self.counters,
            refused=(self.listeners,),
            quic_connections=lambda: 0,
            events=self.events,
            cluster=self.cluster.ref,
            receive_drops=lambda: self.drops,
        )
        self.sampler = Sampler(sources, self.lag)

    def gate(self, *figures: Any) -> None:
        self.answers[m.MeasureGate] = m.GateFigures(*figures)

    def newest(self) -> dict[str, float | None]:
        values = self.sampler.history.shown(0.0)["recent"]["values"]
        return {name: column[-1] for name, column in values.items()}

    def count(self) -> int:
        return len(self.sampler.history.shown(0.0)["recent"]["values"]["sessions"])


@asynccontextmanager
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    made.lag.start()
    made.sampler.start()
    await settle()
    yield made
    await made.sampler.stop()
    made.lag.stop()
    for ref in (made.fake, made.counters, made.events):
        halt(ref)
    await settle()
    assert timer_count() == 0
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.fixture(autouse=True)
def _alone() -> Iterator[None]:
    yield
    assert not RUNTIME.actors


async def test_the_first_sample_is_at_the_start_and_then_every_few_seconds() -> None:
    async with bench() as made:
        assert made.count() == 1
        assert made.newest()["received"] is None  # no rate yet
        for number in range(2, 6):
            await advance(STEP)
            assert made.count() == number


async def test_sums_become_rates() -> None:
    async with bench() as made:
        made.gate(7, 1_000, 5_000, {})
        made.answers[m.CountBroadcasts] = 3
        figures = TrackFigures("urn", "demo/cam", "video", 4, 2_000, 2)
        send(made.counters, Report("track", figures, {("groups_received", ""): 10}))
        send(made.counters, AddSkipped(5))
        made.cpu = 1.0
        await advance(STEP)
        newest = made.newest()
        assert {name: newest[name] for name in ("sessions", "broadcasts", "viewers", "cached")} == {
            "sessions": 7,
            "broadcasts": 3,
            "viewers": 4,
            "cached": 2_000,
        }
        rates = {name: newest[name] for name in ("received", "sent", "groups", "skipped", "cpu")}
        expected = {"received": 200, "sent": 1_000, "groups": 2, "skipped": 1, "cpu": 0.2}
        assert rates == pytest.approx(expected, rel=0.01)
        send(made.counters, Report("track", figures._replace(viewers=1, cached_bytes=10), {}))
        send(made.counters, Report("other", figures._replace(viewers=2, cached_bytes=20), {}))
        await advance(STEP)
        assert (made.newest()["viewers"], made.newest()["cached"], made.newest()["received"]) == (3, 30, 0)
        send(made.counters, Report("track", None, {}))
        await advance(STEP)
        assert (made.newest()["viewers"], made.newest()["cached"]) == (2, 20)


async def test_refusals_of_listeners_gate_and_sessions_count_together() -> None:
    async with bench() as made:
        made.listeners.update({"http": 6, "unauthorized": 2})
        made.gate(0, 0, 0, {"sessions": 1})
        send(made.events, Happened(Kind.REFUSED, 1, "192.0.2.1:5", None, "over limit path", limit="path"))
        await advance(STEP)
        assert made.newest()["refused"] == pytest.approx(2, rel=0.01)
        last = made.sampler.window[-1]
        assert last.refused == {"http": 6, "unauthorized": 2, "sessions": 1, "path": 1}
        await advance(STEP)
        assert made.sampler.window[-1].refused == {}


async def test_refusals_of_listeners_are_one_event_for_each_reason() -> None:
    """They may come in any number, so they are no events one by one."""
    async with bench() as made:
        made.listeners.update({"http": 6_000, "unauthorized": 2, "noise": 4})
        await advance(STEP)
        made.listeners.update({"http": 1})
        await advance(STEP)
        found = await ask(made.events, ListEvents(0), timeout=TIMEOUT)
        assert [(event.reason, event.count) for event in found] == [("noise", 4), ("over limit http", 6_001)]


async def test_drops_of_the_kernel_count_since_the_last_sample() -> None:
    async with bench() as made:
        made.drops = 40
        await advance(STEP)
        made.drops = 45
        await advance(STEP)
        made.drops = None
        await advance(STEP)
        assert [moment.udp_drops for moment in made.sampler.window] == [0, 40, 5, None]


async def test_without_an_answer_a_sample_has_gaps() -> None:
    async with bench() as made:
        del made.answers[m.MeasureGate]
        halt(made.fake)
        await advance(STEP)
        newest = made.newest()
        assert (newest["sessions"], newest["received"]) == (None, None)
        assert newest["lag"] is not None


async def test_a_pause_of_the_process_leaves_gaps() -> None:
    async with bench() as made:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        loop.now += 4 * STEP  # nothing ran meanwhile
        await settle()
        await advance(0)
        values = made.sampler.history.shown(0.0)["recent"]["values"]["sessions"]
        assert values == [0, None, None, None, 0]
        lag = made.newest()["lag"]
        assert lag is not None
        assert lag > 3 * STEP


async def test_a_minute_is_kept_for_the_health() -> None:
    async with bench() as made:
        for _ in range(40):
            await advance(STEP)
        assert len(made.sampler.window) == 12


async def test_the_cluster_gets_each_sample_for_the_other_relays() -> None:
    async with bench() as made:
        made.gate(7, 1_000, 5_000, {})
        await advance(STEP)
        first, second = made.cluster.got(m.SetStatus)
        assert first.status == MemberStatus(MemberTotals(0, 0, 0, 0.0, 0.0), "https://fra.example/")
        assert second.status.totals.sessions == 7
        assert second.status.totals.sent == pytest.approx(1_000, rel=0.01)
