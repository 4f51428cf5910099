"""Anything may happen in any order: sessions come and go, announce, withdraw, subscribe, leave and crash.

Every watcher's view alternates and converges to what is published, nobody waits for ever, and in the end nothing
remains: no actor, timer, table entry or logged exception.
"""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relay.model.limits import Limits
from relay.model.path import covers
from relay.wire.version import Version
from tests.actors.raw_peer import PeerStream, RawPeer, Watching
from tests.actors.watching import Trouble, forget_actors, shuffle_turns
from tests.actors.world import World
from tests.clock import advance, run_virtual, settle, timer_count
from tests.sampling import repeats

PATHS = ("a", "b", "b/x")
PREFIXES = ("", "b")
TRACKS = ("video", "audio")
VERSIONS = tuple(Version)
MOST = 5
LIMITS = Limits(track_idle=1.0, cache_groups=3, groups_in_flight=2)

STEPS = (
    "nothing", "connect", "connect", "publish", "publish", "publish", "unpublish", "watch", "watch", "unwatch",
    "subscribe", "subscribe", "subscribe", "unsubscribe", "group", "open", "fetch", "info", "answer", "answer", "answer",
    "end", "refuse",
    "close", "crash", "crash", "wait", "wait", "settle", "time",
)  # fmt: skip

step = st.tuples(st.sampled_from(STEPS), st.integers(0, 5), st.integers(0, 5), st.integers(0, 3))


class Player:
    def __init__(self, peer: RawPeer, number: int) -> None:
        self.peer = peer
        self.number = number
        self.published: set[str] = set()
        self.watches: list[tuple[str, Watching]] = []
        self.subscriptions: list[tuple[str, str, PeerStream]] = []
        self.left: set[int] = set()
        self.holding: set[tuple[str, str]] = set()
        """Tracks with an unfinished group of this publisher, which delays their end."""
        self.sent = 0


class Play:
    """Carries out steps, and knows the expected state."""

    def __init__(self) -> None:
        self.world = World(LIMITS)
        self.players: list[Player] = []
        self.all: list[Player] = []
        self.numbers = 0

    async def run(self, steps: list[tuple[str, int, int, int]]) -> None:
        for kind, who, what, how in steps:
            await self._step(kind, who, what, how)
        await self.check()
        for player in self.players:
            player.peer.close()
        await self.world.close()
        assert timer_count() == 0

    async def _step(self, kind: str, who: int, what: int, how: int) -> None:
        if kind == "wait":
            for _ in range(how + 1):
                await asyncio.sleep(0)
        elif kind == "settle":
            await settle()
        elif kind == "time":
            await advance(0.7)
        elif kind == "connect":
            if len(self.players) < MOST:
                self._connect(VERSIONS[what])
        elif self.players:
            player = self.players[who % len(self.players)]
            getattr(self, f"_{kind}")(player, what, how)

    def _connect(self, version: Version) -> None:
        self.numbers += 1
        peer = self.world.connect(version)
        player = Player(peer, self.numbers)
        self.players.append(player)
        self.all.append(player)

    def _nothing(self, _: Player, __: int, ___: int) -> None:
        """Longer plays shrink to it."""

    def _publish(self, player: Player, what: int, _: int) -> None:
        path = PATHS[what % len(PATHS)]
        if path not in player.published and player.peer.announce_streams():
            player.published.add(path)
            player.peer.publish(path, (player.number,) if player.peer.version == Version.LITE_04 else (),
                                origin=100 + player.number)  # fmt: skip

    def _unpublish(self, player: Player, what: int, _: int) -> None:
        if player.published:
            path = sorted(player.published)[what % len(player.published)]
            player.published.remove(path)
            player.peer.unpublish(path)

    def _watch(self, player: Player, what: int, _: int) -> None:
        if len(player.watches) < 2:
            prefix = PREFIXES[what % len(PREFIXES)]
            player.watches.append((prefix, player.peer.watch(prefix)))

    def _unwatch(self, player: Player, what: int, how: int) -> None:
        if player.watches:
            _, watching = player.watches.pop(what % len(player.watches))
            leave(watching.stream, how)

    def _subscribe(self, player: Player, what: int, how: int) -> None:
        path, track = PATHS[what % len(PATHS)], TRACKS[how % len(TRACKS)]
        bounds: dict[str, Any] = {}
        if player.peer.version >= Version.LITE_03 and what >= 4:
            bounds = {"start_group": how, "end_group": how + 2}
        _, stream = player.peer.subscribe(path, track, **bounds)
        player.subscriptions.append((path, track, stream))

    def _unsubscribe(self, player: Player, what: int, how: int) -> None:
        waiting = [s for s in player.subscriptions if id(s[2]) not in player.left]
        if waiting:
            _, _, stream = waiting[what % len(waiting)]
            player.left.add(id(stream))
            leave(stream, how)

    def _info(self, player: Player, what: int, how: int) -> None:
        if player.peer.version >= Version.LITE_05:
            path, track = PATHS[what % len(PATHS)], TRACKS[how % len(TRACKS)]
            player.subscriptions.append((path, track, player.peer.info(path, track)))

    def _fetch(self, player: Player, what: int, how: int) -> None:
        if player.peer.version >= Version.LITE_05:
            path, track = PATHS[what % len(PATHS)], TRACKS[how % len(TRACKS)]
            player.left.add(id(stream := player.peer.fetch(path, how, track)))
            player.subscriptions.append((path, track, stream))

    def _answer(self, player: Player, _: int, __: int) -> None:
        if player.peer.version >= Version.LITE_05:
            player.peer.answer_tracks()

    def _group(self, player: Player, _: int, how: int) -> None:
        for _stream, request in player.peer.live_subscriptions():
            player.peer.group(request.id, player.sent, b"x" * (how + 1))
        player.sent += 1

    def _open(self, player: Player, _: int, how: int) -> None:
        for _stream, request in player.peer.live_subscriptions():
            group = player.peer.group(request.id, player.sent, b"x", fin=False)
            if how != 1:
                player.holding.add((request.broadcast, request.track))
            if how == 1:
                group.reset(52)
            elif how == 2:
                group.write(b"\x05")
        player.sent += 1

    def _end(self, player: Player, what: int, _: int) -> None:
        live = player.peer.live_subscriptions()
        if live:
            stream, _request = live[what % len(live)]
            player.peer.end_track(stream, player.sent)
            stream.resets.append(-1)  # no longer live for us

    def _refuse(self, player: Player, what: int, _: int) -> None:
        live = player.peer.live_subscriptions()
        if live:
            stream, _request = live[what % len(live)]
            stream.reset(51)
            stream.stop(51)
            stream.resets.append(-1)

    def _close(self, player: Player, _: int, how: int) -> None:
        player.peer.close(how)
        self.players.remove(player)

    def _crash(self, player: Player, _: int, __: int) -> None:
        player.peer.session.fail()
        self.players.remove(player)

    async def check(self) -> None:
        """At rest the views are right and nobody waits in vain."""
        for _ in range(4):
            await settle()
            for player in self.players:
                if player.peer.version >= Version.LITE_05:
                    player.peer.answer_tracks()
            await advance(0.6)
        for player in self.players:
            assert not player.peer.closed, player.peer.closed
            for prefix, watching in player.watches:
                expected = sorted(
                    {
                        path[len(prefix) :].lstrip("/")
                        for other in self.players
                        if other is not player
                        for path in other.published
                        if covers(prefix, path)
                    }
                )
                assert watching.paths == expected
            for path, track, stream in player.subscriptions:
                if id(stream) in player.left or stream.over:
                    continue
                serving: list[object] = [
                    request
                    for other in self.players
                    for _, request in other.peer.live_subscriptions()
                    if (request.broadcast, request.track) == (path, track)
                ]
                serving += [other for other in self.players if (path, track) in other.holding]
                assert serving, f"{path} {track} is served by nobody and the viewer was not told"


def leave(stream: PeerStream, how: int) -> None:
    if how == 0:
        stream.write(fin=True)
    elif how == 1:
        stream.reset(1)
    else:
        stream.stop(1)
        stream.reset(1)


def play(steps: list[tuple[str, int, int, int]], seed: int = 0) -> None:
    async def scenario() -> None:
        forget_actors()
        with Trouble() as trouble:
            if seed:
                shuffle_turns(seed)
            await Play().run(steps)
            assert not trouble.records

    run_virtual(scenario)


QUIET = list(HealthCheck)
START = [("connect", 0, 0, 0), ("connect", 0, 3, 0), ("connect", 0, 5, 0), ("settle", 0, 0, 0)]


@settings(max_examples=repeats(700), deadline=None, suppress_health_check=QUIET)
@given(st.lists(step, min_size=40, max_size=60), st.permutations(range(6)))
def test_any_order_of_events_converges_and_leaves_nothing(
    steps: list[tuple[str, int, int, int]], versions: list[int]
) -> None:
    play([("connect", 0, version, 0) for version in versions[:3]] + START[3:] + steps)


@settings(max_examples=repeats(500), deadline=None, suppress_health_check=QUIET)
@given(st.lists(step, min_size=40, max_size=60), st.permutations(range(6)), st.integers(1, 1 << 30))
def test_any_order_of_turns_converges_and_leaves_nothing(
    steps: list[tuple[str, int, int, int]], versions: list[int], seed: int
) -> None:
    play([("connect", 0, version, 0) for version in versions[:3]] + START[3:] + steps, seed)
