"""The peer actor: its attempts, their outcomes, and its end."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.actors import messages as m
from relay.actors import peer
from relay.actors.peer import FIRST_DELAY, HEALTHY, LONGEST_DELAY, PATIENCE, STALE, Dialling, PeerActor
from relay.actors.rows import PeerRow
from relay.actors.runtime import LoopActor, Ref, ask, halt, send
from relay.transport.session import Session
from tests.actors.fakes import Fake, FakeRef
from tests.actors.watching import Trouble, actors, told
from tests.clock import RUNTIME, TIMEOUT, advance, run_virtual, settle, timer_count

MARGIN = 0.2
"""Seconds for a slow machine."""

TARGET = "relay.example:4443"


class FakeSession:
    """Counts its closes."""

    def __init__(self) -> None:
        self.closed: list[tuple[int, str]] = []

    def close(self, code: int = 0, reason: str = "") -> None:
        self.closed.append((code, reason))


class FakeConnection(LoopActor):
    """Reports its end to the peer actor."""

    def __init__(self, number: int, session: FakeSession, link: Ref) -> None:
        super().__init__(RUNTIME)
        self.number = number
        self.session = session
        self.link = link
        self.down = ("", False)

    def __str__(self) -> str:
        return f"session {self.number}"

    def on_receive(self, message: object) -> object:
        if isinstance(message, m.CloseSession):
            self.down = (message.reason, False)
            self.stop()
        elif isinstance(message, m.PeerDisconnected):
            self.down = (message.reason, message.lost)
            self.stop()
        return None

    def on_end(self, error: BaseException | None) -> None:
        assert error is None
        reason, lost = self.down
        self.session.close(0, reason)
        send(self.link, m.PeerDisconnected(self.number, self.actor_ref, reason, lost))


class FakeGate(FakeRef):
    """Answers within the turn. `opened` gives the connection actor."""

    def __init__(self, opened: Callable[[Session, Ref], Ref | None]) -> None:
        super().__init__()
        self._opened = opened
        self.slow = False
        """the test answers"""

    def append(self, message: object) -> None:
        super().append(message)
        if not self.slow:
            self.answer(message)

    def answer(self, message: object) -> None:
        assert isinstance(message, m.OpenDialled)
        send(message.peer, m.DialledOpened(self._opened(message.session, message.peer)))


HANG = TimeoutError("until the test says how it ends")


class FakeDialling:
    """`outcome` is an exception, `None` for a session, or `HANG`."""

    def __init__(self) -> None:
        self.outcome: Exception | None = None
        self.outcomes: dict[str, Exception | None] = {}
        """By target; `outcome` is that of all others."""
        self.dialled: list[str] = []
        self.times: list[float] = []
        self.cancelled = 0
        self.sessions: list[FakeSession] = []
        self.connections: list[Ref] = []
        self.gate = FakeGate(self.opened)
        self.refuse_to_open = False
        self.held: list[asyncio.Future[None]] = []

    def given(self) -> Dialling:
        return Dialling(dial=self.dial, gate=self.gate.ref)

    async def dial(self, target: str) -> Session:
        loop = asyncio.get_running_loop()
        self.dialled.append(target)
        self.times.append(loop.time())
        outcome = self.outcomes.get(target, self.outcome)
        if outcome is HANG:
            self.held.append(loop.create_future())
            try:
                await self.held[-1]
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        elif outcome is not None:
            raise outcome
        self.sessions.append(FakeSession())
        return cast("Session", self.sessions[-1])

    def opened(self, session: Session, link: Ref) -> Ref | None:
        if self.refuse_to_open:
            session.close(3, "internal error")
            return None
        number = len(self.sessions)
        ref: Ref = FakeConnection.start(number, session, link)
        self.connections.append(ref)
        return ref


class Bench:
    def __init__(self, *, first: bool = True) -> None:
        self.net = FakeDialling()
        self.cluster = Fake()
        self.first = first
        self.peer: Ref

    async def start(self) -> None:
        self.peer = PeerActor.start(
            RUNTIME, cluster=self.cluster.ref, target=TARGET, dialling=self.net.given(), first=self.first
        )
        await settle()

    async def state(self) -> PeerRow:
        found: PeerRow = await ask(self.peer, m.DescribePeer(), timeout=TIMEOUT)
        return found

    async def tell(self, message: object) -> None:
        send(self.peer, message)
        await advance(0)

    async def up(self, hop: int = 5) -> None:
        """The last dialled session has begun."""
        connection = self.net.connections[-1]
        await self.tell(m.PeerConnected(len(self.net.connections), connection, hop))

    async def down(self, reason: str = "gone", *, lost: bool = True) -> None:
        send(self.net.connections[-1], m.PeerDisconnected(0, self.peer, reason, lost))
        await advance(0)

    async def connected(self) -> None:
        await self.start()
        await advance(PATIENCE)
        await self.up()
        assert (await self.state()).state == "connected"

    def alive(self) -> bool:
        return self.peer.is_alive()

    async def close(self) -> None:
        """End it; nothing of it may be left."""
        halt(self.peer)
        await settle()
        assert not self.alive()
        ended = self.cluster.got(m.PeerEnded)
        assert ended == [m.PeerEnded(TARGET, self.peer)]
        halt(self.cluster.ref)
        await settle()
        assert actors() == []
        assert timer_count() == 0
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert all(session.closed for session in self.net.sessions)
        assert len(self.net.held) == self.net.cancelled + sum(
            held.done() and not held.cancelled() for held in self.net.held
        )


@pytest.fixture
def longest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every random delay is the longest."""
    monkeypatch.setattr(RUNTIME.random, "uniform", lambda _low, high: high)
    monkeypatch.setattr(RUNTIME.random, "random", lambda: 1.0)


# --- attempts ------------------------------------------------------------------------------------------------------


@pytest.mark.virtual
async def test_it_dials_at_once_if_it_is_the_first() -> None:
    bench = Bench()
    await bench.start()
    await advance(0)
    assert bench.net.dialled == [TARGET]
    await bench.close()


@pytest.mark.virtual
async def test_it_waits_to_be_dialled_if_it_is_the_second() -> None:
    bench = Bench(first=False)
    await bench.start()
    assert await bench.state() == PeerRow(TARGET, "waiting", "us", None, None, None)
    await advance(PATIENCE - MARGIN)
    assert bench.net.dialled == []
    await advance(MARGIN)
    assert bench.net.dialled == [TARGET]
    await bench.close()


@pytest.mark.virtual
async def test_the_row_tells_what_it_is_doing() -> None:
    bench = Bench()
    bench.net.outcome = HANG
    await bench.start()
    await advance(0)
    assert told(await bench.state()) == "dialling"
    bench.net.held[0].set_result(None)
    await settle()
    assert told(await bench.state()) == "dialling"
    await bench.up()
    assert await bench.state() == PeerRow(TARGET, "connected", "us", None, 1, None)
    await bench.down("idle")
    row = await bench.state()
    assert (told(row), row.session, row.error) == ("waiting", None, "idle")
    await bench.tell(m.OtherSession(77))
    row = await bench.state()
    assert (told(row), row.session) == ("dialled by it", 77)
    await bench.close()


@pytest.mark.virtual
async def test_the_cluster_is_notified_of_its_session() -> None:
    bench = Bench()
    await bench.connected()
    connection = bench.net.connections[0]
    assert bench.cluster.got(m.PeerConnected) == [m.PeerConnected(1, connection, 5, bench.peer)]
    await bench.down("idle", lost=True)
    assert bench.cluster.got(m.PeerDisconnected) == [
        m.PeerDisconnected(1, connection, "idle", lost=True, peer=bench.peer)
    ]
    await bench.close()


@pytest.mark.virtual
async def test_sessions_of_others_are_none_of_its_business() -> None:
    bench = Bench()
    await bench.connected()
    stranger = bench.cluster.ref
    await bench.tell(m.PeerConnected(9, stranger, 6))
    await bench.tell(m.PeerDisconnected(9, stranger, "x", lost=False))
    assert (await bench.state()).session == 1
    assert len(bench.cluster.got(m.PeerConnected)) == 1
    assert bench.cluster.got(m.PeerDisconnected) == []
    await bench.close()


async def pause(bench: Bench) -> float:
    """Seconds until the next attempt, to a twentieth."""
    before = len(bench.net.dialled)
    for step in range(400):
        if len(bench.net.dialled) > before:
            return step / 20
        await advance(0.05)
    raise AssertionError("it has given up")


def test_the_pause_doubles_up_to_the_longest(longest: None) -> None:
    async def scenario() -> None:
        bench = Bench()
        bench.net.outcome = OSError("refused")
        await bench.start()
        await advance(0)
        for expected in (1, 2, 4, 8, 10, 10, 10):
            assert await pause(bench) == pytest.approx(expected, abs=MARGIN)
        await bench.close()

    run_virtual(scenario)


@pytest.mark.virtual
async def test_the_pause_is_up_to_a_half_shorter_by_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RUNTIME.random, "uniform", random.Random(5).uniform)
    bench = Bench()
    bench.net.outcome = OSError("refused")
    await bench.start()
    await advance(0)
    expected, shares = FIRST_DELAY, set()
    for _ in range(20):
        found = await pause(bench)
        assert expected / 2 - MARGIN <= found <= expected + MARGIN
        shares.add(round(found / expected, 1))
        expected = min(2 * expected, LONGEST_DELAY)
    assert len(shares) >= 4, "all alike"
    await bench.close()


@pytest.mark.virtual
async def test_it_goes_on_for_ever() -> None:
    bench = Bench()
    bench.net.outcome = OSError("refused")
    await bench.start()
    for _ in range(1000):
        await advance(LONGEST_DELAY)
    assert len(bench.net.dialled) > 900
    assert bench.alive()
    bench.net.outcome = None
    await advance(LONGEST_DELAY)
    await bench.up()
    assert told(await bench.state()) == "connected"
    await bench.close()


@pytest.mark.parametrize("lasted, expected", [(HEALTHY - 1, 8.0), (HEALTHY, 1.0), (3600.0, 1.0)])
def test_only_a_session_that_lasted_makes_the_next_attempt_come_soon(
    longest: None,
    lasted: float,
    expected: float,
) -> None:
    async def scenario() -> None:
        bench = Bench()
        bench.net.outcome = OSError("refused")
        await bench.start()
        await advance(0)
        for _ in range(2):
            await pause(bench)
        bench.net.outcome = None
        await pause(bench)
        await bench.up()
        await advance(lasted)
        await bench.down()
        assert await pause(bench) == pytest.approx(expected, abs=MARGIN)
        await bench.close()

    run_virtual(scenario)


@pytest.mark.virtual
async def test_a_session_that_never_begins_is_a_failed_attempt() -> None:
    """The attempt succeeded, and then the relay was silent, or refused."""
    bench = Bench()
    await bench.start()
    for reason in ("no SETUP in time", "unauthorized", "unauthorized"):
        await advance(LONGEST_DELAY)
        await bench.down(reason, lost=False)
        assert (await bench.state()).error == reason
    assert bench.cluster.got(m.PeerConnected) == []
    await bench.close()


@pytest.mark.virtual
async def test_an_attempt_that_hangs_is_the_only_one() -> None:
    bench = Bench()
    bench.net.outcome = HANG
    await bench.start()
    for _ in range(50):
        await advance(LONGEST_DELAY)
    await bench.tell(m.MemberBack())
    await bench.tell(m.OtherSession(3))
    await bench.tell(m.OtherSession(None))
    assert told(await bench.state()) == "dialling"
    await advance(LONGEST_DELAY)
    assert len(bench.net.dialled) == 1
    await bench.close()
    assert bench.net.cancelled == 1


# --- what it says --------------------------------------------------------------------------------------------------


def lines(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == level]


def test_the_same_error_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        bench = Bench()
        await bench.start()
        for reason in ("refused", "refused", "refused", "no route", "no route", "refused"):
            bench.net.outcome = OSError(reason)
            await advance(LONGEST_DELAY)
        bench.net.outcome = None
        await advance(LONGEST_DELAY)
        await bench.up()
        await bench.down("refused")
        await bench.close()

    with caplog.at_level(logging.DEBUG, "relay.cluster"):
        run_virtual(scenario)
    told = lines(caplog, logging.WARNING)
    assert [line.split("'")[1] for line in told] == ["refused", "no route", "refused", "refused"]
    assert all(line.startswith(f"[peer {TARGET}] failed reason=") for line in told)
    assert all(line.endswith("s") and "next_attempt=" in line for line in told)
    assert len(lines(caplog, logging.DEBUG)) >= 2
    assert f"[peer {TARGET}] [session 1] connected" in lines(caplog, logging.INFO)


def test_an_exception_without_a_text_is_named(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        bench = Bench()
        bench.net.outcome = TimeoutError()
        await bench.start()
        await advance(0)
        assert (await bench.state()).error == "TimeoutError"
        await bench.close()

    run_virtual(scenario)
    assert "reason='TimeoutError'" in caplog.text


# --- a needless session --------------------------------------------------------------------------------------------


@pytest.mark.virtual
async def test_it_does_not_dial_who_has_dialled() -> None:
    bench = Bench(first=False)
    await bench.start()
    await bench.tell(m.OtherSession(7))
    for _ in range(10):
        await advance(LONGEST_DELAY)
    assert bench.net.dialled == []
    row = await bench.state()
    assert (told(row), row.session) == ("dialled by it", 7)
    await bench.close()


@pytest.mark.parametrize("first", [True, False])
def test_it_dials_when_the_session_of_the_other_ends(*, first: bool) -> None:
    async def scenario() -> None:
        bench = Bench(first=first)
        await bench.start()
        await bench.tell(m.OtherSession(7))
        await advance(LONGEST_DELAY)
        before = len(bench.net.dialled)
        await bench.tell(m.OtherSession(None))
        assert len(bench.net.dialled) == before + first
        await advance(PATIENCE)
        assert len(bench.net.dialled) == before + 1
        await bench.close()

    run_virtual(scenario)


@pytest.mark.virtual
async def test_an_attempt_that_has_become_needless_is_closed() -> None:
    bench = Bench()
    bench.net.outcome = HANG
    await bench.start()
    await advance(0)
    await bench.tell(m.OtherSession(7))
    bench.net.held[0].set_result(None)
    await settle()
    assert bench.net.connections == []
    assert bench.net.sessions[0].closed == [(0, "one session is enough")]
    assert told(await bench.state()) == "dialled by it"
    await bench.tell(m.OtherSession(None))
    assert len(bench.net.dialled) == 2
    await bench.close()


@pytest.mark.virtual
async def test_an_attempt_that_fails_when_it_is_needless_is_not_repeated() -> None:
    bench = Bench()
    bench.net.outcome = HANG
    await bench.start()
    await advance(0)
    await bench.tell(m.OtherSession(7))
    bench.net.held[0].set_exception(OSError("refused"))
    for _ in range(5):
        await advance(LONGEST_DELAY)
    assert len(bench.net.dialled) == 1
    assert told(await bench.state()) == "dialled by it"
    await bench.close()


@pytest.mark.virtual
async def test_a_needless_session_is_closed_once() -> None:
    bench = Bench()
    await bench.connected()
    await bench.tell(m.OtherSession(7))
    await bench.tell(m.OtherSession(7))
    assert bench.net.sessions[0].closed == [(0, "one session is enough")]
    for _ in range(5):
        await advance(LONGEST_DELAY)
    assert len(bench.net.dialled) == 1
    row = await bench.state()
    assert (told(row), row.session, row.error) == ("dialled by it", 7, None)
    await bench.close()


@pytest.mark.virtual
async def test_no_error_of_a_former_attempt_stands_beside_a_session() -> None:
    bench = Bench()
    bench.net.outcome = OSError("refused")
    await bench.start()
    await advance(0)
    assert (await bench.state()).error == "refused"
    await bench.tell(m.OtherSession(7))
    row = await bench.state()
    assert (told(row), row.error) == ("dialled by it", None)
    bench.net.outcome = HANG
    await bench.tell(m.OtherSession(None))
    row = await bench.state()
    assert (told(row), row.error, row.session) == ("dialling", None, None)
    await bench.close()


CHANGES: dict[str, Callable[[Bench], Awaitable[None]]] = {
    "the attempt succeeds": lambda bench: _attempt(bench, None),
    "the attempt fails": lambda bench: _attempt(bench, OSError("refused")),
    "our session begins": lambda bench: bench.up() if bench.net.connections else advance(0),
    "our session is lost": lambda bench: bench.down("idle") if bench.net.connections else advance(0),
    "our session is closed": lambda bench: (
        bench.down("bye", lost=False) if bench.net.connections else advance(0)
    ),
    "the other relay dials": lambda bench: bench.tell(m.OtherSession(77)),
    "its session ends": lambda bench: bench.tell(m.OtherSession(None)),
    "it was lost": lambda bench: bench.tell(m.PeerSessionLost()),
    "announced": lambda bench: bench.tell(m.MemberBack()),
    "withdrawn": lambda bench: bench.tell(m.MemberGone()),
    "time passes": lambda bench: advance(LONGEST_DELAY),
}


async def _attempt(bench: Bench, error: Exception | None) -> None:
    if bench.net.held and not bench.net.held[-1].done():
        if error is None:
            bench.net.held[-1].set_result(None)
        else:
            bench.net.held[-1].set_exception(error)
    await settle()


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(sorted(CHANGES)), max_size=15))
def test_whatever_happens_a_peer_is_in_one_state(changes: list[str]) -> None:
    async def scenario() -> None:
        bench = Bench()
        bench.net.outcome = HANG
        await bench.start()
        for change in changes:
            await CHANGES[change](bench)
            if not bench.alive():
                break
            row = await bench.state()
            connected = row.state == "connected"
            assert connected == (row.session is not None)
            assert not (connected and row.error)
            assert connected or row.dialled_by == "us"
        halt(bench.peer)
        halt(bench.cluster.ref)
        for ref in bench.net.connections:
            halt(ref)
        await settle()
        assert timer_count() == 0

    run_virtual(scenario)


# --- withdrawal ----------------------------------------------------------------------------------------------------


@pytest.mark.virtual
async def test_it_ends_at_once_after_a_clean_end() -> None:
    bench = Bench()
    await bench.connected()
    await bench.down("server shutdown", lost=False)
    await bench.tell(m.MemberGone())
    assert not bench.alive()
    await bench.close()


@pytest.mark.virtual
async def test_it_ends_at_once_if_the_end_comes_after_the_withdrawal() -> None:
    bench = Bench()
    await bench.connected()
    await bench.tell(m.MemberGone())
    assert bench.alive()
    await bench.down("server shutdown", lost=False)
    assert not bench.alive()
    await bench.close()


@pytest.mark.parametrize("announced_first", [True, False])
def test_it_goes_on_for_a_while_after_a_loss(*, announced_first: bool) -> None:
    async def scenario() -> None:
        bench = Bench()
        await bench.connected()
        bench.net.outcome = OSError("no route")
        if announced_first:
            await bench.down("idle", lost=True)
            await bench.tell(m.MemberGone())
        else:
            await bench.tell(m.MemberGone())
            await bench.down("idle", lost=True)
        await advance(STALE - 1)
        assert bench.alive()
        assert len(bench.net.dialled) > 1
        await advance(1)
        assert not bench.alive()
        await bench.close()

    run_virtual(scenario)


@pytest.mark.virtual
async def test_it_stays_when_it_is_announced_again() -> None:
    bench = Bench()
    await bench.connected()
    bench.net.outcome = OSError("no route")
    await bench.down("idle", lost=True)
    await bench.tell(m.MemberGone())
    await advance(STALE - 1)
    await bench.tell(m.MemberBack())
    await advance(10 * STALE)
    assert bench.alive()
    await bench.tell(m.MemberGone())
    await advance(STALE - 1)
    assert bench.alive()
    await advance(1)
    assert not bench.alive()
    await bench.close()


@pytest.mark.virtual
async def test_it_lives_while_its_session_lives() -> None:
    """Nobody announces it: only our session shows that it is back."""
    bench = Bench()
    await bench.connected()
    await bench.down("idle", lost=True)
    await bench.tell(m.MemberGone())
    await advance(2)
    await bench.up()
    await advance(10 * STALE)
    assert told(await bench.state()) == "connected"
    assert bench.net.sessions[1].closed == []
    await bench.down("idle", lost=True)
    bench.net.outcome = OSError("no route")
    await advance(STALE - 1)
    assert bench.alive()
    await advance(1)
    assert not bench.alive()
    await bench.close()


@pytest.mark.parametrize("who", ["us", "it"])
def test_a_loss_that_is_mended_is_forgotten_when_it_leaves(who: str) -> None:
    async def scenario() -> None:
        bench = Bench()
        await bench.connected()
        await bench.down("idle", lost=True)
        if who == "us":
            await advance(2)
            await bench.up()
            await bench.tell(m.MemberGone())
            await bench.down("server shutdown", lost=False)
        else:
            await bench.tell(m.OtherSession(77))
            await bench.tell(m.MemberGone())
            assert bench.alive()
            await bench.tell(m.OtherSession(None))
        assert not bench.alive()
        await bench.close()

    run_virtual(scenario)


@pytest.mark.virtual
async def test_a_loss_of_the_session_it_dialled_counts_after_a_withdrawal_too() -> None:
    bench = Bench(first=False)
    await bench.start()
    await bench.tell(m.OtherSession(77))
    await bench.tell(m.MemberGone())
    await bench.tell(m.PeerSessionLost())
    await bench.tell(m.OtherSession(None))
    bench.net.outcome = OSError("no route")
    await advance(STALE - 1)
    assert bench.alive()
    await advance(1)
    assert not bench.alive()
    await bench.close()


@pytest.mark.virtual
async def test_it_ends_in_the_middle_of_an_attempt() -> None:
    bench = Bench()
    bench.net.outcome = HANG
    await bench.start()
    await advance(0)
    await bench.tell(m.MemberGone())
    assert not bench.alive()
    assert bench.net.cancelled == 1
    await bench.close()


# --- the end -------------------------------------------------------------------------------------------------------


async def waiting(_: Bench) -> None:
    pass


async def dialling(bench: Bench) -> None:
    bench.net.outcome = HANG
    await advance(PATIENCE)


async def opening(_: Bench) -> None:
    await advance(PATIENCE)


async def connected(bench: Bench) -> None:
    await advance(PATIENCE)
    await bench.up()


async def failed(bench: Bench) -> None:
    bench.net.outcome = OSError("refused")
    await advance(PATIENCE)


async def lost(bench: Bench) -> None:
    await connected(bench)
    await bench.down()
    await bench.tell(m.MemberGone())


async def dialled_by_it(bench: Bench) -> None:
    await bench.tell(m.OtherSession(3))
    await advance(PATIENCE)


STATES = (waiting, dialling, opening, connected, failed, lost, dialled_by_it)


@pytest.mark.parametrize("state", STATES, ids=lambda state: str(state.__name__))
def test_nothing_is_left_whenever_it_ends(state: Callable[[Bench], Any]) -> None:
    async def scenario() -> None:
        bench = Bench(first=False)
        await bench.start()
        await state(bench)
        await bench.close()

    run_virtual(scenario)


@pytest.mark.parametrize("state", STATES, ids=lambda state: str(state.__name__))
def test_nothing_is_left_whenever_it_fails(state: Callable[[Bench], Any], trouble: Trouble) -> None:
    async def scenario() -> None:
        bench = Bench(first=False)
        await bench.start()
        await state(bench)
        send(bench.peer, m.PeerDisconnected(0, cast("Ref", Broken()), "", lost=False))
        await settle()
        assert not bench.alive()
        await bench.close()

    run_virtual(scenario)
    assert trouble.records
    trouble.records.clear()


class Broken:
    """It cannot be compared."""

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("a fault of ours")

    def __hash__(self) -> int:
        return 0


@pytest.mark.virtual
async def test_an_attempt_that_succeeds_too_late_is_closed() -> None:
    bench = Bench()
    bench.net.outcome = HANG
    await bench.start()
    await advance(0)
    halt(bench.peer)
    session = FakeSession()
    send(bench.peer, peer.Dialled(cast("Session", session)))
    await settle()
    assert len(session.closed) == 1
    await bench.close()


@pytest.mark.virtual
async def test_a_session_that_cannot_be_taken_over_is_dialled_again() -> None:
    bench = Bench()
    bench.net.refuse_to_open = True
    await bench.start()
    await advance(0)
    row = await bench.state()
    assert (row.state, row.error) == ("waiting", "internal error")
    bench.net.refuse_to_open = False
    await advance(LONGEST_DELAY)
    await bench.up()
    assert (await bench.state()).state == "connected"
    await bench.close()


@pytest.mark.virtual
async def test_without_a_gate_what_was_dialled_is_closed() -> None:
    bench = Bench()
    bench.net.gate.actor_inbox.ended = True
    await bench.start()
    await advance(0)
    assert len(bench.net.sessions[0].closed) == 1
    assert (await bench.state()).error == "internal error"
    await bench.close()


@pytest.mark.parametrize(
    ("ends", "reason"), [(False, "one session is enough"), (True, "no longer a peer")], ids=["other", "ended"]
)
def test_a_session_that_begins_too_late_is_closed(ends: bool, reason: str) -> None:
    """While the gate opened it, the other relay has dialled us, or the peer has ended."""

    async def scenario() -> None:
        bench = Bench()
        bench.net.gate.slow = True
        await bench.start()
        await advance(0)
        (wanted,) = bench.net.gate.log
        assert (await bench.state()).state == "dialling"
        if ends:
            halt(bench.peer)
        else:
            await bench.tell(m.OtherSession(7))
        bench.net.gate.answer(wanted)
        await settle()
        assert bench.net.sessions[0].closed == [(0, reason)]
        await bench.close()

    run_virtual(scenario)
