"""The cluster actor: which relays it dials, which of two sessions stays, and untrusted names.

One runs between a fake origin and a fake network. Two run against each other over sessions, whose ends learn of
events in an order of Hypothesis' choice.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import cast

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from relay.actors import messages as m
from relay.actors.cluster import REVIVAL, ClusterActor, Membership
from relay.actors.origin import OriginActor
from relay.actors.peer import LONGEST_DELAY, PATIENCE, STALE, Dialling
from relay.actors.rows import PeerRow
from relay.actors.runtime import Ref, ask, halt, send
from relay.model.limits import Limits
from relay.model.route import Route
from relay.model.track import SubscribeParams
from relay.model.watchers import Announcement
from relay.transport.session import Session
from relay.wire.errors import StreamCode
from tests.actors.fakes import Fake
from tests.actors.test_peer import HANG, MARGIN, Broken, FakeConnection, FakeDialling, FakeGate, FakeSession
from tests.actors.watching import Trouble, actor_of, actors, directory_counts, shuffle_turns, told
from tests.actors.world import MEMBERS
from tests.clock import RUNTIME, TIMEOUT, advance, run_virtual, settle, timer_count
from tests.sampling import repeats

HOP = 100
NODE = "m.example"
ROOT = "root.example"


def offered(name: str, hop: int = 7) -> Announcement:
    return Announcement(f"{MEMBERS}/{name}", Route((hop,), 0, 0), 1)


class Bench:
    def __init__(
        self,
        *,
        node: str | None = NODE,
        roots: tuple[str, ...] = (ROOT,),
        mesh: bool = True,
        limits: Limits | None = None,
        origin: Ref | None = None,
    ) -> None:
        self.net = FakeDialling()
        self.net.outcome = HANG
        self.fake = None if origin is not None else Fake()
        self.origin = self.fake.ref if self.fake is not None else cast("Ref", origin)
        self.cluster: Ref = ClusterActor.start(
            RUNTIME,
            origin=self.origin,
            number=1,
            membership=Membership(HOP, node, roots, MEMBERS, mesh, self.net.dial),
            limits=limits or Limits(),
            gate=self.net.gate.ref,
        )

    async def start(self, *members: str) -> None:
        await self.tell(m.WatchStarted(1, tuple(map(offered, members))))

    async def tell(self, message: object) -> None:
        send(self.cluster, message)
        await advance(0)

    async def member(self, name: str, hop: int = 7) -> None:
        await self.tell(m.WatchChanged(1, f"{MEMBERS}/{name}", offered(name, hop)))

    async def leaves(self, name: str) -> None:
        await self.tell(m.WatchChanged(1, f"{MEMBERS}/{name}", None))

    async def linked(self, hop: int, session: int = 50) -> Fake:
        """Another relay has dialled this one."""
        connection = Fake()
        await self.tell(m.PeerConnected(session, connection.ref, hop))
        return connection

    async def up(self, target: str, hop: int) -> Ref:
        """The session last dialled to `target` has begun."""
        number = max(n for n, dialled in enumerate(self.net.dialled, 1) if dialled == target)
        connection = self.net.connections[-1]
        send(self.peer(target), m.PeerConnected(number, connection, hop))
        await advance(0)
        return connection

    def peer(self, target: str) -> Ref:
        peers: dict[str, Ref] = actor_of(self.cluster)._peers
        return peers[target]

    async def peers(self) -> dict[str, str]:
        """Name and state, as in `/state`."""
        return {row.node: told(row) for row in await self.rows()}

    async def rows(self) -> list[PeerRow]:
        found: m.Peers = await ask(self.cluster, m.ListPeers(), timeout=TIMEOUT)
        own = [await ask(ref, m.DescribePeer(), timeout=TIMEOUT) for ref in found.refs]
        return [*own, *found.others]

    async def close(self) -> None:
        """End it; nothing of it may be left."""
        halt(self.cluster)
        await settle()
        assert not self.cluster.is_alive()
        if self.fake is not None:
            assert self.fake.got(m.SessionGone) == [m.SessionGone(1)]
            for announce in self.fake.got(m.Announce):
                send(announce.broadcast, m.Withdraw(self.origin, 1))
        await settle()
        for ref in [ref for ref in _recorders() if ref.is_alive()]:
            halt(ref)
        halt(self.origin)
        await settle()
        assert actors() == []
        assert timer_count() == 0
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert all(session.closed for session in self.net.sessions)


def _recorders() -> list[Ref]:
    return [ref for ref in list(RUNTIME.actors) if str(actor_of(ref)).startswith("Recorder")]


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# --- its own name --------------------------------------------------------------------------------------------------


@pytest.mark.virtual
async def test_it_announces_itself_and_watches_the_others() -> None:
    bench = Bench()
    await advance(0)
    assert bench.fake is not None
    [announce] = bench.fake.got(m.Announce)
    assert (announce.path, announce.route, announce.session) == (f"{MEMBERS}/{NODE}", Route((), 0, 0), 1)
    assert not announce.tentative
    assert announce.broadcast.is_alive()
    [watch] = bench.fake.got(m.Watch)
    wanted = watch.interest
    assert (wanted.prefixes, wanted.relay, wanted.one_hop, wanted.exclude) == ((MEMBERS,), True, False, 0)
    await bench.close()


@pytest.mark.virtual
async def test_without_a_name_it_announces_nothing_and_dials_everybody_first() -> None:
    bench = Bench(node=None)
    await bench.start("a.example", "z.example")
    assert bench.fake is not None
    assert bench.fake.got(m.Announce) == []
    assert sorted(bench.net.dialled) == ["a.example", ROOT, "z.example"]
    await bench.close()


@pytest.mark.virtual
async def test_its_own_broadcast_has_no_tracks() -> None:
    bench = Bench()
    await bench.start()
    track = Fake()
    await bench.tell(m.OpenUpstream(track.ref, "x", "video", SubscribeParams(), describe=True))
    await bench.tell(m.DescribeUpstream(track.ref, "x", "video"))
    await bench.tell(m.FetchUpstream(track.ref, "x", "video", 0, 0))
    await bench.tell(m.UpdateUpstream(track.ref, SubscribeParams()))
    await bench.tell(m.StopGroup(track.ref, 0, 0))
    await bench.tell(m.CloseUpstream(track.ref))
    assert track.log == [m.UpstreamFailed(StreamCode.NOT_FOUND)] * 3
    await bench.tell(m.CheckAlive())
    assert bench.fake is not None
    assert bench.fake.got(m.Alive) == [m.Alive(1, alive=True)]
    await bench.close()


# --- whom it dials -------------------------------------------------------------------------------------------------


@pytest.mark.virtual
async def test_of_two_members_the_first_by_name_dials_and_the_other_waits() -> None:
    bench = Bench()
    await bench.start("a.example", "z.example")
    assert sorted(bench.net.dialled) == [ROOT, "z.example"]
    await advance(PATIENCE - MARGIN)
    assert "a.example" not in bench.net.dialled
    await advance(MARGIN)
    assert sorted(bench.net.dialled) == ["a.example", ROOT, "z.example"]
    await bench.close()


@pytest.mark.virtual
async def test_a_member_that_comes_later_is_dialled() -> None:
    bench = Bench()
    await bench.start()
    assert bench.net.dialled == [ROOT]
    await bench.member("z.example")
    await bench.member("z.example")
    assert bench.net.dialled == [ROOT, "z.example"]
    await bench.close()


@pytest.mark.virtual
async def test_roots_are_dialled_at_once_whatever_their_names_and_not_itself() -> None:
    bench = Bench(roots=("a.example", "M.example:443", "moqt://z.example:1/x"))
    await bench.start()
    assert sorted(bench.net.dialled) == ["a.example", "moqt://z.example:1/x"]
    await bench.close()


@pytest.mark.parametrize("roots", [(), (NODE,), (f"https://{NODE}/",)])
def test_a_root_dials_nobody_and_lists_who_has_come(roots: tuple[str, ...]) -> None:
    async def scenario() -> None:
        bench = Bench(roots=roots)
        await bench.start("a.example", "z.example")
        await bench.member("n.example", 8)
        await bench.linked(8)
        await bench.linked(9, 51)
        await bench.linked(0, 52)
        await advance(10 * LONGEST_DELAY)
        assert bench.net.dialled == []
        rows = await bench.rows()
        assert {row.node: row.session for row in rows} == {
            "n.example": 50,
            "relay 9 without a name": 51,
            "relay ? without a name": 52,
        }
        for row in rows:
            assert (told(row), row.since, row.error) == ("dialled by it", None, None)
        await bench.tell(m.PeerDisconnected(51, bench.origin, "", lost=True))
        assert len(await bench.peers()) == 2
        await bench.close()

    run_virtual(scenario)


@pytest.mark.virtual
async def test_without_a_mesh_it_stays_with_its_roots() -> None:
    bench = Bench(mesh=False)
    await bench.start(ROOT)
    await bench.member("z.example", 8)
    await bench.linked(8)
    assert bench.net.dialled == [ROOT]
    assert await bench.peers() == {ROOT: "dialling", "z.example": "dialled by it"}
    await bench.close()


@pytest.mark.parametrize("name", [ROOT, "ROOT.example", f"{ROOT}:443", f"{ROOT}."])
@pytest.mark.parametrize("root", [ROOT, f"https://{ROOT}/", f"moqt://{ROOT}:443/x", "Root.Example:443"])
def test_a_root_is_not_dialled_twice(name: str, root: str) -> None:
    async def scenario() -> None:
        bench = Bench(roots=(root,))
        await bench.start(name)
        await bench.member(name)
        await advance(LONGEST_DELAY)
        assert bench.net.dialled == [root]
        assert await bench.peers() == {root: "dialling"}
        await bench.close()

    run_virtual(scenario)


@pytest.mark.parametrize("name", [NODE, "M.Example", f"{NODE}:443", f"{NODE}."])
def test_it_does_not_dial_itself(name: str) -> None:
    async def scenario() -> None:
        bench = Bench()
        await bench.start(name)
        await bench.member(name, HOP)
        await advance(LONGEST_DELAY)
        assert bench.net.dialled == [ROOT]
        await bench.close()

    run_virtual(scenario)


def test_its_own_id_under_another_name_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        bench = Bench()
        await bench.start()
        await bench.member("n.example", HOP)
        await advance(LONGEST_DELAY)
        assert bench.net.dialled == [ROOT]
        await bench.close()

    run_virtual(scenario)
    assert warnings(caplog) == [
        "[peer n.example] member ignored reason='it is this relay itself: set [cluster] node to that name'"
    ]


@pytest.mark.parametrize(
    "name",
    [
        "a b",
        "z.example/x",
        "https://z.example",
        "moqt:/z.example",
        "user@z.example",
        "z.example:0",
        "z.example:99999",
        "z.example?jwt=x",
        "z" * 300,
        "zürich.example",
        "..",
        "z..example",
        "[:::]",
        "[::::1]:5",
        "[z",
        "-z",
        "z.example\nINFO forged",
    ],
)
def test_what_is_no_name_is_not_dialled(name: str, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        bench = Bench()
        await bench.start(name)
        await advance(LONGEST_DELAY)
        assert bench.net.dialled == [ROOT]
        await bench.leaves(name)
        await bench.member("z.example")
        assert bench.net.dialled == [ROOT, "z.example"]
        await bench.close()

    run_virtual(scenario)
    [line] = warnings(caplog)
    assert line.startswith(
        (f"[peer {name}] member ignored reason=", f"[peer {name!r}] member ignored reason=")
    )
    assert line.isprintable()


@pytest.mark.virtual
async def test_the_path_of_the_members_itself_is_no_member() -> None:
    bench = Bench()
    await bench.start()
    await bench.tell(m.WatchChanged(1, MEMBERS, Announcement(MEMBERS, Route((7,)), 1)))
    await bench.tell(m.WatchChanged(1, MEMBERS, None))
    assert bench.net.dialled == [ROOT]
    await bench.close()


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.text("[]:.-@/z%01 é", min_size=1, max_size=12), max_size=5), st.integers(0, 200))
@example(["[:::]"], 7)
@example(["[::]:1"], 7)
def test_no_name_brings_it_down(names: list[str], hop: int) -> None:
    async def scenario() -> None:
        bench = Bench(limits=Limits(peers=3))
        await bench.start()
        for name in names:
            await bench.member(name, hop)
        await bench.linked(hop)
        await bench.peers()
        for name in names:
            await bench.leaves(name)
        assert bench.cluster.is_alive()
        await bench.close()

    run_virtual(scenario)


def test_more_than_the_limit_of_peers(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        bench = Bench(limits=Limits(peers=3))
        await bench.start("p.example", "q.example", "r.example")
        await bench.member("r.example")
        await bench.member("s.example")
        assert sorted(bench.net.dialled) == ["p.example", "q.example", ROOT]
        # there is room again
        await bench.leaves("p.example")
        await bench.leaves("s.example")
        await advance(REVIVAL)
        assert sorted(bench.net.dialled) == ["p.example", "q.example", "r.example", ROOT]
        await bench.close()

    run_virtual(scenario)
    assert warnings(caplog) == [
        f"[peer {name}] over limit limit=peers value=3" for name in ("r.example", "s.example")
    ]


# --- who leaves ----------------------------------------------------------------------------------------------------


@pytest.mark.virtual
async def test_a_member_that_leaves_is_forgotten_and_dialled_when_it_returns() -> None:
    bench = Bench()
    bench.net.outcomes["z.example"] = None
    await bench.start("z.example")
    connection = await bench.up("z.example", 7)
    assert (await bench.peers())["z.example"] == "connected"
    await bench.leaves("z.example")
    assert (await bench.peers())["z.example"] == "connected", "as long as its session lives"
    send(connection, m.PeerDisconnected(0, bench.origin, "server shutdown", lost=False))
    await advance(0)
    assert "z.example" not in await bench.peers()
    await advance(10 * LONGEST_DELAY)
    assert bench.net.dialled.count("z.example") == 1
    await bench.member("z.example", 8)
    assert bench.net.dialled.count("z.example") == 2
    await bench.close()


@pytest.mark.virtual
async def test_a_member_that_was_lost_is_dialled_for_a_while() -> None:
    bench = Bench()
    bench.net.outcomes["z.example"] = None
    await bench.start("z.example")
    connection = await bench.up("z.example", 7)
    bench.net.outcomes["z.example"] = OSError("no route")
    send(connection, m.PeerDisconnected(0, bench.origin, "idle", lost=True))
    await bench.leaves("z.example")
    await advance(STALE - 1)
    assert bench.net.dialled.count("z.example") > 1
    assert (await bench.peers())["z.example"] == "waiting"
    await advance(1)
    await advance(REVIVAL)
    assert await bench.peers() == {ROOT: "dialling"}
    await bench.close()


@pytest.mark.parametrize("roots", [(ROOT,), ()])
@pytest.mark.parametrize("lost", [False, True])
def test_a_member_that_leaves_keeps_its_name_while_its_session_lasts(
    roots: tuple[str, ...], *, lost: bool
) -> None:
    async def scenario() -> None:
        bench = Bench(roots=roots)
        await bench.start("z.example")
        await bench.linked(7)
        await bench.leaves("z.example")
        assert (await bench.peers())["z.example"] == "dialled by it"
        await bench.tell(m.PeerDisconnected(50, bench.origin, "server shutdown", lost=lost))
        rows = await bench.peers()
        if lost and roots:
            assert rows["z.example"] in ("waiting", "dialling"), "out of reach, perhaps"
        else:
            assert set(rows) == set(roots)
        assert actor_of(bench.cluster)._leaving == {}
        await bench.close()

    run_virtual(scenario)


@pytest.mark.virtual
async def test_a_member_that_is_back_while_its_peer_ends_is_dialled_again() -> None:
    bench = Bench()
    bench.net.outcomes["z.example"] = OSError("refused")
    await bench.start("z.example")
    # the first message stops the peer, which never gets the second
    send(bench.cluster, m.WatchChanged(1, f"{MEMBERS}/z.example", None))
    send(bench.cluster, m.WatchChanged(1, f"{MEMBERS}/z.example", offered("z.example")))
    await advance(0)
    bench.net.outcomes["z.example"] = HANG
    await advance(REVIVAL)
    assert (await bench.peers())["z.example"] == "dialling"
    await bench.close()


@pytest.mark.parametrize("root", [ROOT, f"https://{ROOT}:443/"])
@pytest.mark.parametrize("lost", [True, False])
def test_a_root_that_leaves_is_dialled_for_ever(root: str, *, lost: bool) -> None:
    async def scenario() -> None:
        bench = Bench(roots=(root,))
        bench.net.outcome = None
        await bench.start()
        connection = await bench.up(root, 7)
        await bench.member(ROOT)
        bench.net.outcome = OSError("refused")
        send(connection, m.PeerDisconnected(0, bench.origin, "server shutdown", lost=lost))
        await bench.leaves(ROOT)
        assert await bench.peers() == {root: "waiting"}
        for _ in range(2 * int(STALE / LONGEST_DELAY)):
            await advance(LONGEST_DELAY)
        before = len(bench.net.dialled)
        assert before > 5
        bench.net.outcome = None
        await advance(LONGEST_DELAY)
        assert bench.net.dialled == [root] * (before + 1)
        await bench.up(root, 8)
        assert await bench.peers() == {root: "connected"}
        await bench.close()

    run_virtual(scenario)


# --- two sessions with one relay -----------------------------------------------------------------------------------


@pytest.mark.virtual
async def test_a_member_that_has_dialled_is_not_dialled() -> None:
    bench = Bench()
    await bench.start()
    await bench.linked(8)
    await bench.member("a.example", 8)
    await bench.member("z.example", 9)
    await bench.linked(9, 51)
    await advance(10 * LONGEST_DELAY)
    assert bench.net.dialled.count("a.example") == 0
    rows = {row.node: row for row in await bench.rows()}
    assert (told(rows["a.example"]), rows["a.example"].session) == ("dialled by it", 50)
    assert rows["z.example"].session == 51
    assert set(rows) == {ROOT, "a.example", "z.example"}
    await bench.tell(m.PeerDisconnected(50, bench.origin, "", lost=True))
    await advance(PATIENCE)
    assert bench.net.dialled.count("a.example") == 1
    await bench.close()


@pytest.mark.parametrize("name, kept", [("a.example", False), ("z.example", True)])
def test_of_two_sessions_that_of_the_first_by_name_stays(name: str, *, kept: bool) -> None:
    async def scenario() -> None:
        bench = Bench()
        bench.net.outcomes[name] = None
        await bench.start()
        await bench.member(name, 8)
        await advance(PATIENCE)
        await bench.up(name, 8)
        await bench.linked(8)
        assert (bench.net.sessions[0].closed == []) == kept
        rows = {row.node: row for row in await bench.rows()}
        assert set(rows) == {ROOT, name}
        assert told(rows[name]) == ("connected" if kept else "dialled by it")
        await bench.close()

    run_virtual(scenario)


@pytest.mark.virtual
async def test_a_root_that_has_dialled_needs_no_second_session() -> None:
    """Also if its own name is spelled differently."""
    bench = Bench(roots=("https://a.example:443/",))
    bench.net.outcome = None
    await bench.start()
    await bench.up("https://a.example:443/", 8)
    await bench.member("a.example", 8)
    await bench.linked(8)
    assert await bench.peers() == {"https://a.example:443/": "dialled by it"}
    assert len(bench.net.sessions[0].closed) == 1
    await bench.tell(m.PeerDisconnected(50, bench.origin, "", lost=False))
    assert len(bench.net.dialled) == 2
    await bench.close()


@pytest.mark.virtual
async def test_relays_without_an_id_are_not_taken_for_one() -> None:
    bench = Bench()
    bench.net.outcomes["z.example"] = None
    await bench.start()
    await bench.member("z.example", 0)
    await bench.up("z.example", 0)
    await bench.linked(0)
    assert bench.net.sessions[0].closed == []
    await bench.close()


# --- faults of ours ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [ROOT, "z.example"])
@pytest.mark.parametrize("connected", [True, False])
def test_a_peer_that_fails_is_replaced(target: str, trouble: Trouble, *, connected: bool) -> None:
    async def scenario() -> None:
        bench = Bench()
        bench.net.outcomes[target] = None
        await bench.start()
        await bench.member("z.example", 7)
        await bench.member(ROOT, 6)
        if connected:
            await bench.up(target, 6 if target == ROOT else 7)
        failing = bench.peer(target)
        send(failing, m.PeerDisconnected(0, cast("Ref", Broken()), "", lost=False))
        await advance(0)
        assert not failing.is_alive()
        assert all(session.closed for session in bench.net.sessions)
        assert target not in await bench.peers()
        before = len(bench.net.dialled)
        await advance(REVIVAL)
        assert bench.net.dialled[before:] == [target]
        await bench.up(target, 6 if target == ROOT else 7)
        assert (await bench.peers())[target] == "connected"
        assert not bench.net.sessions[-1].closed
        await bench.close()

    run_virtual(scenario)
    assert trouble.records
    trouble.records.clear()


@pytest.mark.virtual
async def test_a_peer_of_a_member_that_has_left_is_not_replaced() -> None:
    bench = Bench()
    await bench.start("z.example")
    await bench.leaves("z.example")
    await advance(REVIVAL)
    await advance(REVIVAL)
    assert bench.net.dialled.count("z.example") == 1
    await bench.close()


# --- the end -------------------------------------------------------------------------------------------------------


@pytest.mark.virtual
async def test_nothing_is_left_of_it_whatever_its_peers_are_doing() -> None:
    origin: Ref = OriginActor.start(RUNTIME, members=MEMBERS)
    bench = Bench(origin=origin)
    bench.net.outcomes |= {"p.example": None, "q.example": None, "r.example": OSError("refused")}
    await bench.start()
    for hop, name in enumerate(("a.example", "p.example", "q.example", "r.example"), 10):
        await bench.member(name, hop)
    send(bench.peer("q.example"), m.PeerConnected(2, bench.net.connections[1], 12))
    await bench.linked(10)
    await advance(0.1)
    assert sorted((await bench.peers()).values()) == [
        "connected",
        "dialled by it",
        "dialling",
        "dialling",
        "waiting",
    ]
    assert await directory_counts(origin) == (1, 1, 1)
    halt(bench.cluster)
    await settle()
    assert await directory_counts(origin) == (0, 0, 0)
    assert bench.net.cancelled == 1
    await bench.close()


# --- two of them ---------------------------------------------------------------------------------------------------


class Link:
    """A session between two relays, and what each end knows of it."""

    def __init__(self, world: Two, number: int, dialler: int) -> None:
        self.world = world
        self.number = number
        self.dialler = dialler
        self.ends: dict[int, Ref | None] = {0: None, 1: None}
        self.closed: set[int] = set()
        """Ends that are over, or will be as soon as they begin."""

    @property
    def alive(self) -> bool:
        return not self.closed

    def close_at(self, end: int) -> None:
        """The other end learns it later."""
        if end not in self.closed:
            self.closed.add(end)
            self.world.later(f"{self.number} is over at {1 - end}", lambda: self._hear(1 - end))

    def _hear(self, end: int) -> None:
        self.closed.add(end)
        ref = self.ends[end]
        if ref is not None:
            send(ref, m.PeerDisconnected(0, ref, "closed by the other", lost=False))

    def begin(self, end: int, link: Ref) -> Ref:
        """The connection actor of that end."""
        session = FakeSession()
        ref: Ref = End.start(self, end, session, link)
        self.ends[end] = ref
        if end in self.closed:
            send(ref, m.PeerDisconnected(0, ref, "closed by the other", lost=False))
        return ref

    def up(self, end: int) -> None:
        ref = self.ends[end]
        if ref is not None and end not in self.closed and ref.is_alive():
            send(actor_of(ref).link, m.PeerConnected(self.number, ref, self.world.hops[1 - end]))


class End(FakeConnection):
    def __init__(self, line: Link, end: int, session: FakeSession, link: Ref) -> None:
        super().__init__(line.number, session, link)
        self.line = line
        self.end = end

    def on_end(self, error: BaseException | None) -> None:
        self.line.close_at(self.end)
        super().on_end(error)


class Dialled:
    """A dialled session that has not begun."""

    def __init__(self, line: Link) -> None:
        self.line = line

    def close(self, code: int = 0, reason: str = "") -> None:
        self.line.close_at(self.line.dialler)


class Two:
    """Two relays that know each other, and a slow network."""

    def __init__(self, *, roots: bool) -> None:
        """`roots`: each is the other's root, so that both dial at once."""
        self.names = ("a.example", "b.example")
        self.hops = (11, 22)
        self.links: list[Link] = []
        self.pending: list[tuple[str, Callable[[], None]]] = []
        self.dials = 0
        self.origin = Fake()
        self.clusters: list[Ref] = [
            ClusterActor.start(
                RUNTIME,
                origin=self.origin.ref,
                number=1 + end,
                membership=Membership(
                    self.hops[end],
                    self.names[end],
                    (self.names[1 - end],) if roots else ("far.example",),
                    MEMBERS,
                    True,
                    (dialling := self.dialling(end)).dial,
                ),
                limits=Limits(),
                gate=dialling.gate,
            )
            for end in (0, 1)
        ]
        for end in (0, 1):
            news = m.WatchChanged(
                1, f"{MEMBERS}/{self.names[1 - end]}", offered(self.names[1 - end], self.hops[1 - end])
            )
            self.later(f"{end} hears of the other", lambda end=end, news=news: self._tell(end, news))  # type: ignore[misc]

    def _tell(self, end: int, news: object) -> None:
        send(self.clusters[end], news)

    def later(self, what: str, do: Callable[[], None]) -> None:
        self.pending.append((what, do))

    def dialling(self, end: int) -> Dialling:
        async def dial(target: str) -> Session:
            answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            if target in self.names:
                self.dials += 1
                self.later(
                    f"{end} is answered", lambda: None if answered.done() else answered.set_result(None)
                )
            await answered
            link = Link(self, 100 + len(self.links), end)
            self.links.append(link)

            def accepted() -> None:
                link.begin(1 - end, self.clusters[1 - end])
                self.later(f"{link.number} is up at {1 - end}", lambda: link.up(1 - end))

            self.later(f"{link.number} is accepted", accepted)
            return cast("Session", Dialled(link))

        def opened(session: Session, peer: Ref) -> Ref:
            link = cast("Dialled", session).line
            ref = link.begin(end, peer)
            self.later(f"{link.number} is up at {end}", lambda: link.up(end))
            return ref

        return Dialling(dial=dial, gate=FakeGate(opened).ref)

    def step(self, choice: int) -> None:
        if self.pending:
            self.pending.pop(choice % len(self.pending))[1]()

    async def rest(self) -> None:
        """Until nothing happens any more."""
        quiet = 0
        for _ in range(400):
            await advance(1)
            if self.pending:
                quiet = 0
                while self.pending:
                    self.step(0)
                    await settle()
            quiet += 1
            if quiet > 2 * LONGEST_DELAY:
                return
        raise AssertionError(f"they do not come to rest: {self.dials} attempts")

    async def assert_one_session(self) -> Link:
        """Both have the same session, and no other."""
        [link] = [link for link in self.links if link.alive]
        for end in (0, 1):
            known: m.Peers = await ask(self.clusters[end], m.ListPeers(), timeout=TIMEOUT)
            rows = [await ask(ref, m.DescribePeer(), timeout=TIMEOUT) for ref in known.refs]
            [row] = [row for row in rows if row.node == self.names[1 - end]]
            assert known.others == ()
            assert told(row) == ("connected" if link.dialler == end else "dialled by it")
            assert row.session == link.number
            assert actor_of(self.clusters[end])._sessions.keys() == {link.number}
        return link

    async def close(self) -> None:
        for cluster in self.clusters:
            halt(cluster)
        await settle()
        for link in self.links:
            for ref in link.ends.values():
                if ref is not None:
                    halt(ref)
        for announce in self.origin.got(m.Announce):
            send(announce.broadcast, m.Withdraw(self.origin.ref, 1))
        halt(self.origin.ref)
        await settle()
        assert actors() == []
        assert timer_count() == 0
        assert asyncio.all_tasks() == {asyncio.current_task()}


def play(choices: list[int], *, roots: bool, seed: int) -> None:
    async def scenario() -> None:
        if seed:
            shuffle_turns(seed)
        world = Two(roots=roots)
        await settle()
        for choice in choices:
            world.step(choice >> 3)
            # turns of the actors before the next event
            match choice & 7:
                case 0:
                    await advance(1)
                case 1 | 2 | 3:
                    await asyncio.sleep(0)
                case _:
                    await settle()
        await world.rest()
        link = await world.assert_one_session()
        assert world.dials < 10

        for lost in (True, False):
            before = world.dials
            for end in (0, 1):
                ref = link.ends[end]
                assert ref is not None
                send(ref, m.PeerDisconnected(0, ref, "gone", lost=lost))
                link.closed.add(end)
            await settle()
            await world.rest()
            link = await world.assert_one_session()
            assert 0 < world.dials - before < 10
        await world.close()

    run_virtual(scenario)


@settings(max_examples=repeats(300), deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.integers(0, 63), max_size=30),
    st.booleans(),
    st.integers(0, 1 << 20),
)
@example([], True, 0)
@example([], False, 0)
@example([8, 8, 8, 8, 8, 8, 8, 8, 8, 8], True, 0)
def test_two_relays_that_dial_each_other_keep_one_session(choices: list[int], roots: bool, seed: int) -> None:
    play(choices, roots=roots, seed=seed)


def test_if_both_are_up_everywhere_the_first_by_name_keeps_its_own() -> None:
    async def scenario() -> None:
        world = Two(roots=True)
        await settle()
        await advance(0)
        assert [what for what, _ in world.pending[2:]] == ["0 is answered", "1 is answered"]
        await world.rest()
        link = await world.assert_one_session()
        assert len(world.links) == 2
        assert link.dialler == 0
        await world.close()

    run_virtual(scenario)
