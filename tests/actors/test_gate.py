"""The gate: admission, rejection, and the drain."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any, cast

import pytest
import pytest_asyncio

from relay.actors import messages as m
from relay.actors.connection import ConnectionActor
from relay.actors.environment import Environment
from relay.actors.expiry import Expiries
from relay.actors.gate import GateActor
from relay.actors.runtime import ActorDeadError, Ref, ask, halt, send
from relay.auth.permissions import Permissions, UnauthorizedError
from relay.model.limits import Limits
from relay.transport.memory import MemorySession, memory_pair
from relay.transport.session import Session
from relay.wire.errors import SessionCode
from relay.wire.version import Version
from tests.actors.fakes import FakeRef
from tests.actors.raw_peer import RawPeer
from tests.actors.recording import RecordingSession
from tests.actors.watching import Trouble, actor_of, actors
from tests.actors.world import CLUSTER, EVERYTHING, HOP
from tests.clock import RUNTIME, TIMEOUT, advance, run_virtual, settle


class FakeRequest:
    """Keeps every answer."""

    transport = "memory"
    remote = "192.0.2.1:5"
    offered: tuple[str, ...] = ()
    token_may_follow = False

    def __init__(self, path: str | None = "/", query: str = "", version: Version = Version.LITE_05) -> None:
        self.path = path
        self.query = query
        self.version = version
        self.rejected: list[tuple[int, str]] = []
        self.accepted: list[RecordingSession] = []
        self.fault: Exception | None = None
        self.peer: RawPeer

    def accept(self) -> Session:
        if self.fault is not None:
            raise self.fault
        client, server = memory_pair(self.version, path=self.path or "/", query=self.query)
        self.accepted.append(RecordingSession(server))
        self.peer = RawPeer(client, self.version, self.accepted[-1], cast("Ref", FakeRef()))
        self.peer.introduce()
        return cast("Session", self.accepted[-1])

    def reject(self, status: int, reason: str) -> None:
        self.rejected.append((status, reason))

    @property
    def answers(self) -> int:
        return len(self.rejected) + len(self.accepted)


class Desk:
    """Authorises as the test says."""

    def __init__(self) -> None:
        self.outcome: Permissions | Exception = EVERYTHING
        self.slow = False
        self.waiting: list[asyncio.Future[None]] = []

    async def decide(self, _path: str, _query: str, _remote: str) -> Permissions:
        if self.slow:
            self.waiting.append(asyncio.get_running_loop().create_future())
            await self.waiting[-1]
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


class Bench:
    """A gate between a fake directory and fake listeners."""

    def __init__(self, **limits: Any) -> None:
        self.origin, self.cluster, self.desk = FakeRef(), FakeRef(), Desk()
        self.connections: dict[int, Ref] = {}
        self.failed = asyncio.Event()
        self.limits = Limits(**limits)
        environment = Environment(
            RUNTIME, Expiries(RUNTIME), self.origin.ref, HOP, self.limits, tuple(Version), self.desk.decide
        )
        self.gate: Ref = GateActor.start(
            environment=environment, dialled=CLUSTER, connections=self.connections, failed=self.failed
        )
        send(self.gate, m.UseCluster(self.cluster.ref))

    async def comes(self, **options: Any) -> FakeRequest:
        """A peer asks; wait until nothing more happens."""
        request = FakeRequest(**options)
        send(self.gate, m.Admit(cast("Any", request)))
        await settle()
        return request

    async def report(self) -> m.GateReport:
        found: m.GateReport = await ask(self.gate, m.DescribeGate(), timeout=TIMEOUT)
        return found

    def asked(self, message: object) -> asyncio.Task[Any]:
        return asyncio.create_task(ask(self.gate, message, timeout=None))

    async def close(self) -> None:
        await ask(self.gate, m.CloseSessions("the end"), timeout=TIMEOUT)
        await settle()
        halt(self.gate)
        await settle()
        assert actors() == []
        assert self.connections == {}


@pytest_asyncio.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    yield made
    if made.gate.is_alive():
        await made.close()


# --- admission -------------------------------------------------------------------------------------------------------


async def test_a_session_is_admitted_and_forgotten_at_its_end(bench: Bench) -> None:
    request = await bench.comes()
    assert (len(request.accepted), request.rejected) == (1, [])
    assert list(bench.connections) == [1]
    assert (await bench.report()).connections == tuple(bench.connections.values())
    request.peer.close()
    await settle()
    assert bench.connections == {}
    assert (await bench.report()) == m.GateReport(draining=False, connections=(), refused={})


@pytest.mark.parametrize("slow", [False, True])
async def test_the_reply_comes_when_the_peer_has_its_answer(bench: Bench, slow: bool) -> None:
    bench.desk.slow = slow
    request = FakeRequest()
    task = bench.asked(m.Admit(cast("Any", request)))
    await settle()
    assert (task.done(), request.answers) == (not slow, int(not slow))
    for waiting in bench.desk.waiting:
        waiting.set_result(None)
    await task
    assert request.answers == 1


@pytest.mark.parametrize(
    ("outcome", "answer"),
    [
        (UnauthorizedError("for the log"), (401, "unauthorized")),
        (RuntimeError("a fault of ours"), (500, "internal error")),
    ],
    ids=["unauthorized", "fault"],
)
async def test_a_peer_that_may_not_is_rejected_once(
    bench: Bench, outcome: Exception, answer: tuple[int, str], trouble: Trouble
) -> None:
    bench.desk.outcome = outcome
    request = await bench.comes()
    assert request.rejected[0][0] == answer[0]
    assert answer[1] in request.rejected[0][1]
    assert request.answers == 1
    assert bool(trouble.records) == isinstance(outcome, RuntimeError)
    trouble.records.clear()


async def test_sessions_are_limited_and_those_that_wait_count() -> None:
    bench = Bench(sessions=2)
    first = await bench.comes()
    bench.desk.slow = True
    second = await bench.comes()
    third = await bench.comes(path=None)
    assert third.rejected == [(503, "too many sessions")]
    assert (await bench.report()).refused == {"sessions": 1}
    first.peer.close()
    await settle()
    assert (await bench.comes(path=None)).accepted
    bench.desk.waiting[0].set_result(None)
    await settle()
    assert second.accepted
    await bench.close()


async def test_other_limits_count_for_who_comes_from_now_on(bench: Bench) -> None:
    await bench.comes()
    send(bench.gate, m.NewLimits(replace(bench.limits, sessions=1)))
    assert (await bench.comes()).rejected == [(503, "too many sessions")]
    send(bench.gate, m.NewLimits(replace(bench.limits, sessions=2)))
    assert (await bench.comes()).accepted


async def test_versions_of_a_listener_count_for_its_sessions(bench: Bench) -> None:
    request = FakeRequest()
    send(bench.gate, m.Admit(cast("Any", request), (Version.LITE_05,)))
    await settle()
    [connection] = bench.connections.values()
    assert actor_of(connection)._context.environment.versions == (Version.LITE_05,)


async def test_a_listener_that_fails_to_accept_harms_nobody_else(bench: Bench, trouble: Trouble) -> None:
    request = FakeRequest()
    request.fault = RuntimeError("a fault of the listener")
    send(bench.gate, m.Admit(cast("Any", request)))
    assert (await bench.comes()).accepted
    assert any("a fault of the listener" in record for record in trouble.records)
    trouble.records.clear()


async def test_a_connection_that_cannot_begin_is_closed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, trouble: Trouble
) -> None:
    def start(**_: Any) -> Ref:
        raise RuntimeError("a fault of ours")

    peer = FakeRef()
    with monkeypatch.context() as patch:
        patch.setattr(ConnectionActor, "start", start)
        request = await bench.comes()
        assert len(request.accepted[0].closes) == 1
        dialled, _ = memory_pair(Version.LITE_05)
        send(bench.gate, m.OpenDialled(cast("Session", dialled), peer.ref))
        await settle()
    assert peer.got(m.DialledOpened) == [m.DialledOpened(None)]
    assert (await bench.comes()).accepted
    assert trouble.records
    trouble.records.clear()


# --- sessions that were dialled --------------------------------------------------------------------------------------


def dialled() -> tuple[MemorySession, MemorySession]:
    return memory_pair(Version.LITE_05)


async def test_a_session_that_was_dialled_gets_the_rights_of_a_relay(bench: Bench) -> None:
    peer, (session, _) = FakeRef(), dialled()
    send(bench.gate, m.OpenDialled(cast("Session", session), peer.ref))
    await settle()
    [connection] = bench.connections.values()
    assert peer.got(m.DialledOpened) == [m.DialledOpened(connection)]
    assert actor_of(connection)._context.permissions == CLUSTER


async def test_without_its_peer_what_was_dialled_is_closed(bench: Bench) -> None:
    peer, (session, _) = FakeRef(), dialled()
    peer.actor_inbox.ended = True
    send(bench.gate, m.OpenDialled(cast("Session", session), peer.ref))
    await settle()
    assert bench.connections == {}


# --- HTTP readers ----------------------------------------------------------------------------------------------------


async def test_readers_are_limited_and_have_numbers_of_their_own() -> None:
    bench = Bench(readers=1)
    await bench.comes()

    async def enter(reader: object) -> m.ReaderEntered:
        found: m.ReaderEntered = await ask(bench.gate, m.EnterReader(reader), timeout=TIMEOUT)
        return found

    first, second = object(), object()
    entered = await enter(first)
    assert entered.number not in (None, 0, *bench.connections)
    assert await enter(second) == m.ReaderEntered(None, draining=False)
    assert (await bench.report()).refused == {"readers": 1}
    send(bench.gate, m.LeaveReader(second))  # it leaves in any case
    assert (await enter(second)).number is None
    send(bench.gate, m.LeaveReader(first))
    assert (await enter(second)).number is not None
    await bench.close()


# --- the end ---------------------------------------------------------------------------------------------------------


async def test_a_drain_with_nobody_there_is_over_at_once(bench: Bench) -> None:
    await ask(bench.gate, m.DrainSessions(), timeout=TIMEOUT)
    assert bench.cluster.got(m.Drain) == [m.Drain()]
    assert (await bench.report()).draining


async def test_a_drain_ends_with_the_last_session_and_the_last_reader(bench: Bench) -> None:
    one, two, reader = await bench.comes(), await bench.comes(), object()
    await ask(bench.gate, m.EnterReader(reader), timeout=TIMEOUT)
    drained = bench.asked(m.DrainSessions())
    leaves: list[Callable[[], object]] = [
        one.peer.close,
        lambda: send(bench.gate, m.LeaveReader(reader)),
        two.peer.close,
    ]
    for leave in leaves:
        await settle()
        assert not drained.done()
        leave()
    await asyncio.wait_for(drained, TIMEOUT)


async def test_relays_are_not_waited_for(bench: Bench) -> None:
    """Neither one that was dialled, nor one that has dialled us."""
    bench.desk.outcome = CLUSTER
    await bench.comes()
    peer, (session, _) = FakeRef(), dialled()
    send(bench.gate, m.OpenDialled(cast("Session", session), peer.ref))
    await settle()
    await ask(bench.gate, m.DrainSessions(), timeout=TIMEOUT)
    assert len(bench.connections) == 2


async def test_who_comes_during_a_drain_is_rejected_even_if_it_asked_before(bench: Bench) -> None:
    await bench.comes()
    bench.desk.slow = True
    before = await bench.comes()
    drained = bench.asked(m.DrainSessions())
    await settle()
    after = await bench.comes()
    bench.desk.waiting[0].set_result(None)
    await settle()
    assert before.rejected == after.rejected == [(503, "the relay is about to end")]
    assert (await bench.report()).refused == {"draining": 2}
    found = await ask(bench.gate, m.EnterReader(object()), timeout=TIMEOUT)
    assert found == m.ReaderEntered(None, draining=True)
    drained.cancel()


def test_a_drain_ends_at_its_limit_and_remaining_sessions_get_the_reason() -> None:
    async def scenario() -> None:
        bench = Bench(drain=5.0)
        request = await bench.comes()
        drained = bench.asked(m.DrainSessions())
        await advance(4.9)
        assert not drained.done()
        await advance(0.2)
        assert drained.done()
        await bench.close()
        assert [close.code for close in request.peer.closed] == [SessionCode.GOAWAY_TIMEOUT]

    run_virtual(scenario)


async def test_at_the_end_who_waits_for_an_answer_is_let_go(bench: Bench) -> None:
    bench.desk.slow = True
    request = FakeRequest()
    admitted = bench.asked(m.Admit(cast("Any", request)))
    await settle()
    await bench.close()
    await asyncio.wait_for(admitted, TIMEOUT)
    assert request.answers == 0, "the transport tells of the end"
    assert bench.desk.waiting[0].cancelled()


async def test_a_gate_that_fails_says_so_and_closes_all_sessions(bench: Bench, trouble: Trouble) -> None:
    request = await bench.comes()
    drained = bench.asked(m.DrainSessions())
    await settle()
    send(bench.gate, m.Admit(cast("Any", None)))
    await settle()
    assert bench.failed.is_set()
    assert request.peer.closed
    await asyncio.wait_for(drained, TIMEOUT)
    with pytest.raises(ActorDeadError):
        await ask(bench.gate, m.DescribeGate(), timeout=TIMEOUT)
    assert trouble.records
    trouble.records.clear()


async def test_a_request_under_way_to_a_gate_that_ends_is_rejected(bench: Bench) -> None:
    halt(bench.gate)
    request = await bench.comes()
    assert request.rejected == [(503, "the relay is about to end")]


async def test_the_bytes_of_sessions_that_have_ended_still_count(bench: Bench) -> None:
    first, second = await bench.comes(), await bench.comes()

    async def measured() -> m.GateFigures:
        found: m.GateFigures = await ask(bench.gate, m.MeasureGate(), timeout=TIMEOUT)
        return found

    before = await measured()
    assert before.sessions == 2
    assert before.received > 0
    assert before.sent > 0
    first.peer.close()
    await settle()
    after = await measured()
    assert after.sessions == 1
    assert after.received >= before.received
    assert after.sent >= before.sent
    second.peer.close()
    await settle()
    assert (await measured())[1:3] == after[1:3]


async def test_the_operator_closes_one_session_by_its_number(bench: Bench) -> None:
    first, second = await bench.comes(), await bench.comes()
    assert await ask(bench.gate, m.CloseByOperator(7), timeout=TIMEOUT) is False
    assert await ask(bench.gate, m.CloseByOperator(1), timeout=TIMEOUT) is True
    await settle()
    assert set(bench.connections) == {2}
    assert await ask(bench.gate, m.CloseByOperator(1), timeout=TIMEOUT) is False
    assert first.accepted[0].closes == [(SessionCode.NO_ERROR, "closed by the operator")]
    assert second.accepted[0].closes == []
