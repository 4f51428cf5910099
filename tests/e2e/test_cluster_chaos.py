"""Five relays on a bad network with all kinds of failures, in sequence and at once.

A seed determines the events; after each step the cluster must soon reach the one state of this file's model.
`MOQ_CHAOS_EVENTS` and `MOQ_CHAOS_SEED` choose more events, or others.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import logging
import os
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, Final
from unittest import mock

import pykka
import pytest

from relay.actors.broadcast import BroadcastActor
from relay.actors.cluster import ClusterActor
from relay.actors.connection import ConnectionActor
from relay.actors.origin import OriginActor
from relay.actors.peer import PeerActor
from relay.actors.track import TrackActor
from relay.auth.key import Key
from tests.clock import RUNTIME
from tests.e2e.cluster_support import (
    LIMITS,
    MEMBERS,
    Camera,
    Guest,
    Guide,
    Node,
    Nodes,
    Viewer,
    cluster,
    eventually,
    member_token,
    token_in,
)
from tests.sampling import repeats

logger = logging.getLogger("tests.chaos")

EVENTS: Final = int(os.environ.get("MOQ_CHAOS_EVENTS", repeats(80)))
SEED: Final = int(os.environ.get("MOQ_CHAOS_SEED", "1"))

BOUND: Final = 12.0
"""Seconds until the cluster is at rest: time-out, linger and a few attempts."""

MOST_DEAD: Final = 2
MOST_CUTS: Final = 4
MOST_CAMERAS: Final = 8
MOST_VIEWERS: Final = 10
PATHS: Final = tuple(f"room/{number}" for number in range(6))

EVENT_WEIGHTS: Final = {
    "publish": 8,
    "unpublish": 3,
    "crash": 2,
    "move": 4,
    "watch": 8,
    "unwatch": 4,
    "kill": 3,
    "restart": 4,
    "cut": 3,
    "isolate": 1,
    "mend": 5,
    "token": 2,
}


class World:
    """The cluster and its expected state."""

    def __init__(self, nodes: Nodes, folder: Path, seed: int) -> None:
        self.nodes = nodes
        self.random = random.Random(seed)
        self.cameras: list[Camera] = []
        self.viewers: list[Viewer] = []
        self.guides: dict[Node, Guide] = {}
        self.cuts: set[frozenset[Node]] = set()
        self.happened: Counter[str] = Counter()
        self.history: list[str] = []
        self.moved = 0
        self.slowest = 0.0
        self._folder = folder
        self._hops = itertools.count(1_000_001)
        self._bad_token = False
        self._fresh: set[Node] = set()
        """New relays: they need the root until they have found the others."""

    def _index(self, node: Node) -> int:
        return self.nodes.index(node)

    # -- the model

    def linked(self, one: Node, other: Node) -> bool:
        return one.alive and other.alive and frozenset((one, other)) not in self.cuts

    def reach(self, node: Node) -> set[Node]:
        """Live relays connected with it, by any route, and itself."""
        found, new = {node}, [node]
        while new:
            at = new.pop()
            for other in self.nodes:
                if other not in found and self.linked(at, other):
                    found.add(other)
                    new.append(other)
        return found

    def publishers(self, node: Node, path: str) -> frozenset[int]:
        """The possible publishers of a path for a client at `node`."""
        reach = self.reach(node)
        return frozenset(c.client.hop for c in self.cameras if c.path == path and c.node in reach)

    def view(self) -> dict[tuple[Node, str], frozenset[int]]:
        return {
            (node, path): who
            for node in self.nodes.live
            for path in PATHS
            if (who := self.publishers(node, path))
        }

    # -- events

    def possible(self) -> dict[str, Callable[[], Awaitable[str]]]:
        dead = [node for node in self.nodes if not node.alive]
        events: list[tuple[object, Callable[[], Awaitable[str]]]] = [
            (len(self.cameras) < MOST_CAMERAS, self.publish),
            (self.cameras, self.unpublish),
            (self.cameras, self.crash),
            (self.cameras, self.move),
            (len(self.viewers) < MOST_VIEWERS and self.cameras, self.watch),
            (self.viewers, self.unwatch),
            (len(dead) < MOST_DEAD, self.kill),
            (any(map(self._may_return, dead)), self.restart),
            (len(self.cuts) < MOST_CUTS and len(self._fresh) < 3, self.cut),
            (not self.cuts and not self._fresh, self.isolate),
            (self.cuts, self.mend),
            (self.nodes.root.alive, self.token),
        ]
        return {event.__name__: event for possible, event in events if possible}

    def _may_return(self, node: Node) -> bool:
        """A starting relay knows only the root, and is known only through the root."""
        root = self.nodes.root
        leaves = [node, *(other for other in self.nodes.live if other is not root)]
        return not node.alive and (node is root or all(map(partial(self._told_by_root, root), leaves)))

    def _told_by_root(self, root: Node, leaf: Node) -> bool:
        return root.alive and frozenset((leaf, root)) not in self.cuts

    async def happen(self) -> str:
        possible = self.possible()
        names = list(possible)
        name = self.random.choices(names, [EVENT_WEIGHTS[name] for name in names])[0]
        self.happened[name] += 1
        told = f"{name} {await possible[name]()}"
        self.history.append(told)
        logger.info("%s", told)
        return name

    def _anywhere(self) -> Node:
        return self.random.choice(self.nodes.live)

    async def _open(self, node: Node, path: str, hop: int) -> Camera:
        camera = Camera(node, path, hop=hop)
        await camera.__aenter__()
        camera.go_on(0.1)
        self.cameras.append(camera)
        return camera

    async def publish(self) -> str:
        camera = await self._open(self._anywhere(), self.random.choice(PATHS), next(self._hops))
        return f"{camera.path} at {camera.node}"

    def _take(self) -> Camera:
        return self.cameras.pop(self.random.randrange(len(self.cameras)))

    async def unpublish(self) -> str:
        camera = self._take()
        await camera.end()
        return f"{camera.path} at {camera.node}"

    async def crash(self) -> str:
        camera = self._take()
        await camera.crash()
        return f"{camera.path} at {camera.node}"

    async def move(self) -> str:
        """The publisher lost at one relay returns at another at once."""
        camera = self._take()
        await camera.crash()
        there = await self._open(self._anywhere(), camera.path, camera.client.hop)
        latest = camera.track.latest
        there.track.latest = latest  # a publisher goes on counting
        return f"{camera.path} from {camera.node} to {there.node}"

    async def watch(self) -> str:
        node, path = self._anywhere(), self.random.choice(self.cameras).path
        if not self.publishers(node, path):
            return f"{path} at {node}: not possible"
        await self._view(node, path)
        return f"{path} at {node}"

    async def _view(self, node: Node, path: str) -> None:
        viewer = Viewer(node, path)
        await viewer.__aenter__()
        self.viewers.append(viewer)

    async def unwatch(self) -> str:
        viewer = self.viewers.pop(self.random.randrange(len(self.viewers)))
        await viewer.end()
        return f"{viewer.path} at {viewer.node}"

    async def kill(self) -> str:
        node = self.random.choice([n for n in self.nodes.live if not (self._fresh and n is self.nodes.root)])
        await node.kill()
        for camera in [camera for camera in self.cameras if camera.node is node]:
            self.cameras.remove(camera)
            await camera.crash()
        for viewer in [viewer for viewer in self.viewers if viewer.node is node]:
            self.viewers.remove(viewer)
            await viewer.end()
        guide = self.guides.pop(node, None)
        if guide is not None:
            await guide.end()
        return f"{node}"

    async def restart(self) -> str:
        node = self.random.choice([node for node in self.nodes if self._may_return(node)])
        await node.start()
        self._fresh.add(node)
        return f"{node}"

    async def cut(self) -> str:
        pairs = [pair for pair in itertools.combinations(self.nodes, 2) if not self._fresh.intersection(pair)]
        one, other = self.random.choice(pairs)
        self._cut(one, other)
        return f"{one} - {other}"

    def _cut(self, one: Node, other: Node) -> None:
        self.nodes.cut(one, other)
        self.cuts.add(frozenset((one, other)))

    async def isolate(self) -> str:
        node = self.random.choice(self.nodes)
        for other in self.nodes:
            if other is not node:
                self._cut(node, other)
        return f"{node}"

    async def mend(self) -> str:
        """One connection, or all."""
        cuts = sorted(self.cuts, key=lambda pair: sorted(map(self._index, pair)))
        if self.random.random() < 0.5:
            cuts = [self.random.choice(cuts)]
        for pair in cuts:
            one, other = sorted(pair, key=self._index)
            self.nodes.cut(one, other, cut=False)
            self.cuts.remove(pair)
        return ", ".join(" - ".join(str(node) for node in sorted(pair, key=self._index)) for pair in cuts)

    async def token(self) -> str:
        """A new one, and sometimes a bad one until the end of the step."""
        self._bad_token = self.random.random() < 0.5
        key = Key.generate("HS256") if self._bad_token else None
        expires = RUNTIME.wall_time() + self.random.randint(3600, 7200)
        token_in(self._folder).write_text(member_token(self._folder, key=key, expires=expires))
        return "bad" if self._bad_token else "good"

    def end_step(self) -> None:
        self._fresh.clear()
        if self._bad_token:
            self._bad_token = False
            token_in(self._folder).write_text(member_token(self._folder))

    # -- what must be true

    async def rest(self, before: dict[tuple[Node, str], frozenset[int]], *, alone: bool) -> None:
        """The cluster soon matches the model. `alone`: one event since `before`."""
        started = RUNTIME.now()
        await eventually(self._as_modelled, BOUND)
        view = self.view()
        for viewer in list(self.viewers):
            which = viewer.node, viewer.path
            if viewer.over is not None:
                steady = alone and before.get(which) and before.get(which) == view.get(which)
                assert not steady, (viewer.node, viewer.path, viewer.over)
                await viewer.end()
                self.viewers.remove(viewer)
                if view.get(which):
                    await self._view(*which)
        watched = [viewer for viewer in self.viewers if view.get((viewer.node, viewer.path))]
        for outcome in await asyncio.gather(
            *(viewer.goes_on(1, BOUND) for viewer in watched), return_exceptions=True
        ):
            if isinstance(outcome, BaseException):
                raise outcome
        for viewer in self.viewers:
            assert len(set(viewer.begun)) == len(viewer.begun), (viewer.node, viewer.path, viewer.begun)
        self.slowest = max(self.slowest, RUNTIME.now() - started)
        for node, guide in self.guides.items():
            _, ended = guide.changes()
            flapped = {
                path
                for path in ended
                if alone
                and len(view.get((node, path), ())) == 1  # of several, others may serve meanwhile
                and before.get((node, path)) == view.get((node, path))
            }
            assert not flapped, (node, flapped)
        for node in self.nodes.live:
            if node not in self.guides:
                self.guides[node] = guide = Guide(node, "")
                await guide.__aenter__()
                guide.changes()

    async def _as_modelled(self) -> None:
        rows: list[dict[str, Any]] = []
        broadcasts = 0
        for node in self.nodes.live:
            found = await self._check_node(node)
            rows += found
            broadcasts += len(found) + len(await node.members())
        guests = len(self.cameras) + len(self.viewers) + len(self.guides)
        links = sum(self.linked(a, b) for a, b in itertools.combinations(self.nodes, 2))
        live = len(self.nodes.live)
        tracks = sum(len(row["tracks"]) for row in rows)
        # a viewer stays with a displaced publisher, on every relay of the route
        spare = len(self.viewers) * live
        # each relay reads the status of each while we look at `/state`, some by a former route
        statuses = live * live
        wanted: dict[type[pykka.Actor], tuple[int, int]] = {
            OriginActor: (live, 0),
            ClusterActor: (live, 0),
            ConnectionActor: (guests + 2 * links, 0),
            BroadcastActor: (broadcasts, spare + statuses),
            TrackActor: (tracks, spare + 2 * statuses),
        }
        living = Counter(ref.actor_class for ref in RUNTIME.actors)
        for kind, (count, more) in wanted.items():
            actors = living[kind]
            assert count <= actors <= count + more, (kind.__name__, actors, count, more)
        assert living[PeerActor] <= live * (len(self.nodes) - 1)

    async def _check_node(self, node: Node) -> list[dict[str, Any]]:
        guests: list[Guest] = [*self.cameras, *self.viewers, *self.guides.values()]
        here = [guest for guest in guests if guest.node is node]
        lost = [(guest, guest.client.ended) for guest in here if guest.client.ended is not None]
        assert not lost, (node, "lost", lost)
        state = await node.state()
        rows: list[dict[str, Any]] = state["broadcasts"]
        wanted = {path for path in PATHS if self.publishers(node, path)}
        found = Counter(row["path"] for row in rows if row["serving"])
        assert set(found) == wanted, (node, "missing", wanted - set(found), "ghosts", set(found) - wanted)
        assert all(count == 1 for count in found.values()), (node, found)
        reach = self.reach(node)
        ids = {int(other.hop) for other in reach}
        routes = [(row["path"], [int(hop) for hop in row["hops"]]) for row in rows]
        members = await node.members()
        routes += [(member.path, [0, *member.route.hops]) for member in members]
        for path, hops in routes:
            assert len(set(hops)) == len(hops), (node, "circle", path, hops)
            assert int(node.hop) not in hops, (node, "circle", path, hops)
            assert set(hops[1:]) <= ids, (node, "route over the dead", path, hops)
        names = {member.path.removeprefix(f"{MEMBERS}/") for member in members}
        assert names == {other.name for other in reach}, (node, names)
        linked = {other.name for other in self.nodes if other is not node and self.linked(node, other)}
        peers = [peer for peer in state["peers"] if peer["session"] is not None]
        rows_of = "\n".join(map(str, [node, *state["peers"], *state["sessions"]]))
        assert sorted(peer["node"] for peer in peers) == sorted(linked), rows_of
        assert state["totals"]["sessions"] == len(linked) + len(here), rows_of
        return rows

    async def calm(self) -> None:
        """With all relays and no broadcast, nothing is left."""
        while self.cuts:
            await self.mend()
        for node in self.nodes:  # the root first
            if not node.alive:
                await node.start()
        for guest in (*self.cameras, *self.viewers):
            await guest.end()
        self.cameras.clear()
        self.viewers.clear()
        await self.rest({}, alone=False)

    async def end(self) -> None:
        for guest in (*self.cameras, *self.viewers, *self.guides.values()):
            await guest.end()


async def run(folder: Path, seed: int, events: int) -> World:
    """A failure tells its history."""
    limits = dataclasses.replace(LIMITS, linger=0.5)
    tasks = len(asyncio.all_tasks())
    with mock.patch("relay.actors.peer.STALE", 3600.0):
        async with cluster(folder, 4, proxies=True, seed=seed, limits=limits) as nodes:
            world = World(nodes, folder, seed)
            for one, other in itertools.combinations(nodes, 2):
                for weather in nodes.ways(one, other):
                    loss = world.random.choice((0.0, 0.0, 0.01))
                    weather.both(loss=loss, delay=world.random.choice((0.0, 0.0, 0.005)))
            try:
                await world.rest({}, alone=False)
                while sum(world.happened.values()) < events:
                    before = world.view()
                    count = world.random.choice((1, 1, 1, 2, 4))
                    for _ in range(count):
                        await world.happen()
                    world.end_step()
                    await world.rest(before, alone=count == 1)
                await world.calm()
            except AssertionError as error:
                error.add_note(f"seed {seed}, after:\n" + "\n".join(world.history[-25:]))
                raise
            finally:
                await world.end()

    async def gone() -> None:
        assert not RUNTIME.actors
        assert len(asyncio.all_tasks()) <= tasks, asyncio.all_tasks()

    await eventually(gone)
    return world


@pytest.mark.virtual
@pytest.mark.timeout(120 + 5 * EVENTS)
async def test_chaos(tmp_path: Path) -> None:
    world = await run(tmp_path, SEED, EVENTS)
    assert sum(world.happened.values()) >= EVENTS
