"""Whole clusters with real sessions, in virtual time: effects of a withdrawal or a lost connection.

Latencies are random: news arrives in a different order in each run.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.mesh import FIRST_HOP, MEMBERS, QUIET, Mesh, Watcher, counted, in_virtual_time
from relay.actors import messages as m
from relay.actors.runtime import halt
from relay.model.route import preferred
from relay.model.withdrawals import SETTLE
from relay.wire.version import Version
from tests.actors.fakes import FakeSubscriber
from tests.actors.watching import actor_of

SEEDS = range(5)
WITH_HOPS = [version for version in Version if version >= Version.LITE_04]
PATH = "demo/cam"


def in_mesh(scenario: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @functools.wraps(scenario)
    def run(**given: Any) -> None:
        in_virtual_time(scenario(**given))

    return run


async def quiet() -> None:
    await asyncio.sleep(QUIET)


async def over(mesh: Mesh) -> None:
    """End the relays; nothing of any withdrawal is left in them."""
    await quiet()
    await mesh.end_sessions()
    for relay in mesh:
        directory = actor_of(relay.origin)._directory
        assert not directory._withdrawals
        assert not directory._denying
        assert not directory.watchers._neighbours
    await mesh.close()


async def a_mesh(size: int, seed: int, version: Version = Version.LITE_06, *, members: bool = True) -> Mesh:
    """A full mesh. Without `members` its relays hide their names, like those of other makers."""
    mesh = Mesh(size, seed=seed)
    mesh.connect_all(version)
    if members:
        mesh.announce_members()
    await quiet()
    return mesh


def path_of(hops: tuple[int, ...]) -> list[int]:
    """Numbers of the relays on a route."""
    return [hop - FIRST_HOP for hop in hops if hop >= FIRST_HOP]


def routes(mesh: Mesh, number: int, path: str = PATH) -> list[list[int]]:
    """All known routes, as numbers of relays."""
    return sorted(
        path_of(p.route.hops) for p in actor_of(mesh[number].origin)._directory.publications.at(path)
    )


def served(mesh: Mesh, number: int, path: str = PATH) -> list[int] | None:
    """The serving route."""
    chosen = preferred(actor_of(mesh[number].origin)._directory.publications.at(path))
    return None if chosen is None else path_of(chosen.route.hops)


def news(watcher: Watcher) -> list[str]:
    """Starts and ends, without updates: a longer route may arrive first."""
    return [kind for kind, _ in watcher.changes if kind != "update"]


# --- a broadcast comes and goes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", WITH_HOPS)
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("members", [True, False])
@pytest.mark.interpreted
@in_mesh
async def test_a_withdrawal_from_a_full_mesh_is_one_end(version: Version, seed: int, members: bool) -> None:
    mesh = await a_mesh(6, seed, version, members=members)
    watchers = [relay.watch() for relay in mesh]
    mesh[0].publish(PATH)
    await quiet()
    assert all(list(watcher.live) == [PATH] for watcher in watchers)
    for watcher in watchers:
        watcher.changes.clear()
    with counted() as counts:
        mesh[0].withdraw(PATH)
        await quiet()
    assert [watcher.changes for watcher in watchers] == [[("end", PATH)]] * len(mesh)
    assert counts["start"] == 0
    assert counts["update"] == 0
    if members and version >= Version.LITE_05:
        assert counts["end"] == 5
    else:  # relays that do not know each other's connections have announced it to each other as well
        assert counts["end"] <= 5 * 5
    await over(mesh)


@pytest.mark.parametrize("size", [4, 8, 16])
@pytest.mark.interpreted
@in_mesh
async def test_in_a_full_mesh_each_relay_gets_a_broadcast_announced_once(size: int) -> None:
    mesh = await a_mesh(size, 1)
    for change, kind in ((mesh[0].publish, "start"), (mesh[0].withdraw, "end")):
        with counted() as counts:
            change(PATH)
            await quiet()
        assert counts == {kind: size - 1}
    await over(mesh)


@pytest.mark.parametrize("seed", range(20))
@in_mesh
async def test_a_withdrawal_from_any_cluster_is_one_end(seed: int) -> None:
    """Random half of a mesh's connections, unknown to the relays."""
    mesh = Mesh(8, seed=seed)
    pairs = list(itertools.combinations(range(8), 2))
    ring = [(number, number + 1) for number in range(7)]
    for one, other in {*ring, *mesh._random.sample(pairs, 10)}:
        mesh.connect(one, other)
    watchers = [relay.watch() for relay in mesh]
    mesh[0].publish(PATH)
    await quiet()
    assert all(watcher.live for watcher in watchers)
    for watcher in watchers:
        watcher.changes.clear()
    mesh[0].withdraw(PATH)
    await quiet()
    for watcher in watchers:
        assert watcher.changes[-1] == ("end", PATH)
        assert watcher.count()["end"] == 1
        assert watcher.count()["start"] == 0
    await over(mesh)


@pytest.mark.parametrize("members", [True, False])
@pytest.mark.parametrize("seed", SEEDS)
@in_mesh
async def test_a_publisher_that_comes_back_at_once_is_announced_at_once(seed: int, members: bool) -> None:
    mesh = await a_mesh(4, seed, members=members)
    watcher = mesh[3].watch()
    mesh[0].publish(PATH)
    await quiet()
    mesh[0].withdraw(PATH)
    await asyncio.sleep(0.2)  # longer than any latency, shorter than a path settles
    assert news(watcher) == ["start", "end"]
    mesh[0].publish(PATH)
    await asyncio.sleep(0.2)
    assert news(watcher) == ["start", "end", "start"]
    await over(mesh)


@pytest.mark.parametrize("members", [True, False])
@pytest.mark.parametrize("seed", SEEDS)
@in_mesh
async def test_a_publisher_that_moves_to_another_relay_is_announced_at_once(seed: int, members: bool) -> None:
    mesh = await a_mesh(4, seed, members=members)
    watcher = mesh[3].watch()
    mesh[0].publish(PATH)
    await quiet()
    mesh[0].withdraw(PATH)
    mesh[1].publish(PATH)
    await asyncio.sleep(0.2)
    assert served(mesh, 3) == [1]
    assert path_of(watcher.live[PATH].route.hops) == [1]
    await over(mesh)


@pytest.mark.parametrize("members", [True, False])
@in_mesh
async def test_a_relay_that_leaves_takes_its_broadcasts_with_it_once(members: bool) -> None:
    mesh = await a_mesh(6, 1, members=members)
    watchers = [relay.watch() for relay in mesh[1:]]
    mesh[0].publish(PATH)
    await quiet()
    for pair in [pair for pair in mesh.sessions if 0 in pair]:
        mesh.cut(*pair)
    await quiet()
    assert [news(watcher) for watcher in watchers] == [["start", "end"]] * 5
    await over(mesh)


# --- a connection of two relays is lost ------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", [True, False])
@pytest.mark.parametrize("members", [True, False])
@pytest.mark.parametrize("seed", SEEDS)
@in_mesh
async def test_a_relay_without_its_connection_reaches_a_broadcast_by_another_route(
    seed: int, members: bool, lost: bool
) -> None:
    mesh = await a_mesh(4, seed, members=members)
    watcher = mesh[3].watch()
    mesh[0].publish(PATH)
    await quiet()
    assert served(mesh, 3) == [0]
    (mesh.lose if lost else mesh.cut)(0, 3)
    await asyncio.sleep(0.15)
    viewer = FakeSubscriber()
    viewer.subscribe(mesh[3].origin, path=PATH)
    # the end and its consequences, but not `SETTLE`
    await asyncio.sleep(0.15)
    assert served(mesh, 3) in ([0, 1], [0, 2])
    assert SETTLE > 0.3
    assert not viewer.got(m.Refused)
    await quiet()
    assert news(watcher) == ["start"]
    if members:
        assert routes(mesh, 1) == [[0]]
    halt(viewer.ref)
    await over(mesh)


@pytest.mark.parametrize("lost", [True, False])
@in_mesh
async def test_a_broadcast_that_nobody_else_reaches_ends_when_that_is_clear(lost: bool) -> None:
    mesh = Mesh(3)
    mesh.connect(0, 1)
    mesh.connect(1, 2)
    mesh.announce_members()
    watchers = [relay.watch() for relay in mesh[1:]]
    mesh[0].publish(PATH)
    await quiet()
    (mesh.lose if lost else mesh.cut)(0, 1)
    await asyncio.sleep(SETTLE / 2)
    assert [news(watcher) for watcher in watchers] == [["start"]] * 2
    await asyncio.sleep(SETTLE)
    assert [news(watcher) for watcher in watchers] == [["start", "end"]] * 2
    await over(mesh)


@in_mesh
async def test_a_relay_that_closes_takes_its_broadcasts_with_it_at_once() -> None:
    mesh = await a_mesh(3, 1)
    watcher = mesh[2].watch()
    mesh[0].publish(PATH)
    await quiet()
    mesh[0].withdraw(f"{MEMBERS}/relay-0")
    await asyncio.sleep(0.2)
    for pair in [pair for pair in mesh.sessions if 0 in pair]:
        mesh.cut(*pair)
    await asyncio.sleep(0.2)
    assert news(watcher) == ["start", "end"]
    await over(mesh)


@in_mesh
async def test_requests_take_another_route_at_once_though_it_is_announced_later() -> None:
    """0 and 3 are not connected, but by 1 and by 2; the route by 2 is longer."""
    mesh = Mesh(5)
    for pair in ((0, 1), (1, 3), (0, 4), (4, 2), (2, 3)):
        mesh.connect(*pair)
    watcher = mesh[3].watch()
    mesh[0].publish(PATH)
    await quiet()
    assert served(mesh, 3) == [0, 1]
    watcher.changes.clear()
    mesh.cut(1, 3)
    await asyncio.sleep(0.01)
    assert served(mesh, 3) == [0, 4, 2]
    assert not watcher.changes
    viewer = FakeSubscriber()
    viewer.subscribe(mesh[3].origin, path=PATH)
    await asyncio.sleep(0.5)
    assert not viewer.got(m.Refused)
    await asyncio.sleep(SETTLE)
    assert watcher.changes == [("update", PATH)]
    mesh.connect(1, 3)
    await asyncio.sleep(0.5)
    assert watcher.changes == [("update", PATH)] * 2  # a better route needs no proof
    halt(viewer.ref)
    await over(mesh)


@in_mesh
async def test_a_route_that_was_announced_stays_when_its_relay_is_found_to_be_connected() -> None:
    """Relay 2 joins: it must keep the route by 1 until 0 itself announces the broadcast."""
    mesh = Mesh(3)
    mesh.connect(0, 1)
    mesh.connect(1, 2)
    mesh.announce_members()
    watcher = mesh[2].watch()
    mesh[0].publish(PATH)
    await quiet()
    assert routes(mesh, 2) == [[0, 1]]
    mesh.connect(0, 2)
    await quiet()
    assert routes(mesh, 2) == [[0], [0, 1]]
    assert watcher.changes == [("start", PATH), ("update", PATH)]
    mesh[0].withdraw(PATH)
    await quiet()
    assert watcher.changes[2:] == [("end", PATH)]
    await over(mesh)


@in_mesh
async def test_members_are_announced_by_every_relay_connected_to_them() -> None:
    mesh = await a_mesh(4, 1)
    assert routes(mesh, 3, f"{MEMBERS}/relay-0") == [[0], [0, 1], [0, 2]]
    mesh[0].withdraw(f"{MEMBERS}/relay-0")
    await asyncio.sleep(0.2)
    assert routes(mesh, 3, f"{MEMBERS}/relay-0") == []
    await over(mesh)


# --- anything, in any order ------------------------------------------------------------------------------------------

SIZE = 5
PAIRS = list(itertools.combinations(range(SIZE), 2))
PATHS = ("demo/a", "demo/b")
PAUSES = (0.0, 0.005, 0.05, 0.3, 1.5)

step = st.one_of(
    st.tuples(
        st.sampled_from(("connect", "connect", "connect", "cut", "lose")), st.sampled_from(PAIRS), st.just(0)
    ),
    st.tuples(
        st.sampled_from(("publish", "publish", "withdraw")),
        st.tuples(st.integers(0, SIZE - 1), st.integers(0, 1)),
        st.integers(1, 2),
    ),
    st.tuples(st.just("wait"), st.just((0, 0)), st.integers(0, len(PAUSES) - 1)),
)


def reachable(mesh: Mesh, number: int) -> set[int]:
    """Relays connected to that one, by any route."""
    found, left = {number}, [number]
    while left:
        here = left.pop()
        for pair in mesh.sessions:
            if here in pair:
                (other,) = set(pair) - {here}
                if other not in found:
                    found.add(other)
                    left.append(other)
    return found


async def play(  # noqa: C901, PLR0912 - one branch per step
    steps: list[tuple[str, tuple[int, int], int]], *, seed: int, full: bool, members: bool
) -> None:
    mesh = Mesh(SIZE, seed=seed)
    if full:
        mesh.connect_all()
    if members:
        mesh.announce_members()
    watchers = [relay.watch() for relay in mesh]
    published: set[tuple[int, str]] = set()
    await asyncio.sleep(0.5)
    for kind, (one, other), number in steps:
        path = PATHS[other % len(PATHS)]
        if kind == "wait":
            await asyncio.sleep(PAUSES[number])
        elif kind == "connect" and (one, other) not in mesh.sessions:
            mesh.connect(one, other)
        elif kind == "cut" and (one, other) in mesh.sessions:
            mesh.cut(one, other)
        elif kind == "lose" and (one, other) in mesh.sessions:
            mesh.lose(one, other)
        elif kind == "publish" and (one, path) not in published:
            published.add((one, path))
            mesh[one].publish(path, publisher=number)
        elif kind == "withdraw" and (one, path) in published:
            published.remove((one, path))
            mesh[one].withdraw(path)
    await quiet()
    for number, watcher in enumerate(watchers):
        here = reachable(mesh, number)
        wanted = {path for one, path in published if one in here}
        assert set(watcher.live) == wanted, number
        for path in wanted:
            route = served(mesh, number, path)
            assert route is not None
            assert (route[0] if route else number, path) in published, "the publisher is there"
            hops = [*route, number]
            for pair in itertools.pairwise(hops):
                assert tuple(sorted(pair)) in mesh.sessions, (
                    "and each relay on the route is connected to the next"
                )
    for number, path in published:
        mesh[number].withdraw(path)
    await quiet()
    assert not any(watcher.live for watcher in watchers)
    await over(mesh)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(step, max_size=25), st.integers(0, 1000), st.booleans(), st.booleans())
def test_whatever_happens_every_relay_knows_what_it_can_reach(
    steps: list[tuple[str, tuple[int, int], int]], seed: int, full: bool, members: bool
) -> None:
    in_virtual_time(play(steps, seed=seed, full=full, members=members))
