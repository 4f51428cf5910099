"""Publishers are lost, closed, come back and are refused, in any order and at any moment, while viewers come and go.

At rest every live subscription has a live session, waits for its publisher, or is about to retry. Every viewer's
numbers rise. In the end all viewers that were not refused get what is published, and nothing is left.
"""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relay.actors.egress import AskAgain, Subscription
from relay.actors.track import TrackActor
from relay.model.limits import Limits
from relay.wire.frame import GroupHeader
from relay.wire.frame_decoder import UniDecoder
from relay.wire.version import Version
from tests.actors.raw_peer import PeerStream, RawPeer
from tests.actors.watching import Trouble, actor_of, forget_actors, shuffle_turns
from tests.actors.world import CLUSTER, EVERYTHING, World
from tests.clock import RUNTIME, advance, run_virtual, settle, timer_count
from tests.model.support import everything
from tests.sampling import repeats

LINGER = 2.0
PATHS = ("p", "q")
LIMITS = Limits(track_idle=1.0, cache_groups=3)
VERSIONS = tuple(Version)
VIEWERS = 4

STEPS = (
    "nothing", "come", "come", "come", "come", "announce", "announce", "withdraw", "lose", "lose", "lose", "close",
    "watch", "group", "group", "group", "group", "open", "end", "refuse", "answer", "answer",
    "restart", "restart", "join", "subscribe", "subscribe", "subscribe", "leave", "go", "wait", "wait", "settle", "settle", "time", "check",
)  # fmt: skip

step = st.tuples(st.sampled_from(STEPS), st.integers(0, 5), st.integers(0, 5))


class Slot:
    """One publisher and its session, if any. The first two are routes to the same content."""

    def __init__(self, number: int, version: Version) -> None:
        self.version = version
        self.hops = ((7,), (7, 8), (9,))[number]
        self.relay = number == 1
        self.peer: RawPeer | None = None
        self.announced: set[str] = set()
        self.open: list[PeerStream] = []
        """unfinished groups"""

    @property
    def identity(self) -> int:
        return self.hops[0]


def ending_of(connection: Any) -> set[int]:
    """Subscriptions whose end waits for their groups."""
    return set(connection._moq.serving._ending)


class Viewing:
    def __init__(self, viewer: RawPeer, path: str, number: int, stream: PeerStream) -> None:
        self.viewer = viewer
        self.path = path
        self.number = number
        self.stream = stream
        self.left = False

    @property
    def live(self) -> bool:
        return not self.left and not self.stream.over and not self.viewer.closed

    @property
    def ending(self) -> bool:
        """The track is over; its end waits for the last groups."""
        connection = actor_of(self.viewer.ref)
        ending = ending_of(connection)
        return any(
            key in ending and connection._moq.serving._deliveries[key].id == self.number
            for key, service in connection.egress._requests.items()
        )

    def groups(self) -> dict[int, bytes]:
        """By number."""
        return {
            group.header.sequence: group.payloads[0]
            for group in self.viewer.incoming
            if group.header is not None and group.header.subscribe_id == self.number and group.payloads
        }

    def sequences(self) -> list[int]:
        """In order of their beginning."""
        found = []
        for stream in self.viewer.relay.streams:
            if stream.unidirectional and not stream.opened_by_peer and stream.calls:
                header = next(iter(UniDecoder(self.viewer.version).feed(stream.calls[0][1][0])), None)
                if isinstance(header, GroupHeader) and header.subscribe_id == self.number:
                    found.append(header.sequence)
        return found


class Play:
    """Carries out steps, and knows the expected state."""

    def __init__(self, versions: list[int]) -> None:
        self.world = World(LIMITS, linger=LINGER)
        self.slots = [Slot(number, VERSIONS[versions[number]]) for number in range(3)]
        self.sent = {7: 0, 9: 40}
        self.restarts = 0
        self.viewers: list[RawPeer] = []
        self.viewings: list[Viewing] = []
        self.versions = versions

    async def run(self, steps: list[tuple[str, int, int]]) -> None:
        for kind, who, what in steps:
            if kind == "wait":
                for _ in range(what + 1):
                    await asyncio.sleep(0)
            elif kind == "settle":
                await settle()
            elif kind == "time":
                await advance(0.3 * (what + 1))
            elif kind == "check":
                await settle()
                self._check()
            else:
                getattr(self, f"_{kind}")(self.slots[who % 3], who, what)
        await self._rest()
        await self._serve_all()
        for viewing in self.viewings:
            numbers = viewing.sequences()
            assert numbers == sorted(set(numbers)), numbers
        await self.world.close()
        assert timer_count() == 0

    # --- publishers

    def _nothing(self, _: Slot, __: int, ___: int) -> None:
        """Longer plays shrink to it."""

    def _come(self, slot: Slot, who: int, what: int) -> None:
        if slot.peer is None:
            permissions = CLUSTER if slot.relay else EVERYTHING
            slot.peer = self.world.connect(slot.version, permissions=permissions)
            slot.announced, slot.open = set(), []
        else:
            self._announce(slot, who, what)

    def _announce(self, slot: Slot, _: int, what: int) -> None:
        path = PATHS[what % 2]
        if slot.peer is None or path in slot.announced or not slot.peer.announce_streams():
            return
        slot.announced.add(path)
        if slot.version == Version.LITE_04:
            slot.peer.publish(path, slot.hops)
        else:
            slot.peer.publish(path, slot.hops[:-1], origin=slot.hops[-1], hop_count=len(slot.hops))

    def _withdraw(self, slot: Slot, _: int, what: int) -> None:
        path = PATHS[what % 2]
        if slot.peer is not None and path in slot.announced:
            slot.announced.remove(path)
            slot.peer.unpublish(path)

    def _lose(self, slot: Slot, _: int, __: int) -> None:
        if slot.peer is not None:
            slot.peer.session.fail()
            slot.peer = None

    def _close(self, slot: Slot, _: int, what: int) -> None:
        if slot.peer is not None:
            slot.peer.close(what)
            slot.peer = None

    def _watch(self, slot: Slot, _: int, __: int) -> None:
        """Its next announcements may look like echoes."""
        if slot.peer is not None:
            slot.peer.watch()

    def _group(self, slot: Slot, _: int, __: int) -> None:
        """The next group of its content, on all routes."""
        self._publish(slot.identity, fin=True)

    def _open(self, slot: Slot, _: int, __: int) -> None:
        self._publish(slot.identity, fin=False)

    def _publish(self, identity: int, *, fin: bool) -> None:
        self.sent[identity] += 1
        for slot in self.slots:
            if slot.identity == identity and slot.peer is not None:
                for _, request in slot.peer.live_subscriptions():
                    said = b"%d, group %d, after %d restarts" % (identity, self.sent[identity], self.restarts)
                    begun = slot.peer.group(request.id, self.sent[identity], said, fin=fin)
                    slot.open += [] if fin else [begun]

    def _restart(self, slot: Slot, _: int, what: int) -> None:
        """Its content begins anew, under the same id."""
        if not any(other.peer is not None for other in self.slots if other.identity == slot.identity):
            self.restarts += 1
            self.sent[slot.identity] = what

    def _end(self, slot: Slot, _: int, what: int) -> None:
        if slot.peer is not None and what == 0:
            for group in slot.open:
                group.write(fin=True)  # the end of a track waits for that of its groups
            slot.open = []
            for asked, _request in slot.peer.live_subscriptions():
                slot.peer.end_track(asked, self.sent[slot.identity] + 1)
                asked.resets.append(-1)  # no longer live for us

    def _refuse(self, slot: Slot, _: int, what: int) -> None:
        if slot.peer is not None:
            for stream, _request in slot.peer.live_subscriptions():
                stream.reset(54 if what else 51)
                stream.stop(1)
                stream.resets.append(-1)

    def _answer(self, slot: Slot, _: int, __: int) -> None:
        if slot.peer is not None and slot.version >= Version.LITE_05:
            slot.peer.answer_tracks()

    # --- viewers

    def _join(self, _: Slot, __: int, what: int) -> None:
        if len(self.viewers) < VIEWERS:
            self.viewers.append(self.world.connect(VERSIONS[what]))

    def _subscribe(self, _: Slot, who: int, what: int) -> None:
        if self.viewers:
            viewer = self.viewers[who % len(self.viewers)]
            path = PATHS[what % 2]
            self.viewings.append(Viewing(viewer, path, *viewer.subscribe(path)))

    def _leave(self, _: Slot, who: int, what: int) -> None:
        live = [viewing for viewing in self.viewings if viewing.live]
        if live:
            viewing = live[who % len(live)]
            viewing.left = True
            if what % 2:
                viewing.stream.write(fin=True)
            else:
                viewing.stream.reset(1)
                viewing.stream.stop(1)

    def _go(self, _: Slot, who: int, what: int) -> None:
        if self.viewers and what < 2:
            viewer = self.viewers.pop(who % len(self.viewers))
            for viewing in self.viewings:
                viewing.left = viewing.left or viewing.viewer is viewer
            viewer.close() if what else viewer.session.fail()

    # expected state

    def _check(self) -> None:
        """At rest: what does each subscription wait for?"""
        waiting = set(actor_of(self.world.origin)._awaited)
        shown: dict[tuple[str, int], bytes] = {}
        for viewing in self.viewings:
            if viewing.live and not viewing.ending:
                for number, said in viewing.groups().items():
                    assert shown.setdefault((viewing.path, number), said) == said, "one number, two groups"
        subscribers = 0
        for viewer in self.viewers:
            assert not viewer.closed, viewer.closed
            connection = actor_of(viewer.ref)
            again = {timer.message.key for timer in connection._timers if isinstance(timer.message, AskAgain)}
            # ended tracks with undelivered groups
            ending = ending_of(connection)
            for key, service in connection.egress._requests.items():
                if key in ending_of(connection):
                    continue  # an ended track with undelivered groups
                assert isinstance(service, Subscription)
                track = service.track
                served = (
                    track is not None and track.is_alive() and actor_of(track)._upstream._source.is_alive()
                )
                served = served and key not in ending
                states = served, (viewer.ref.actor_urn, key) in waiting, key in again, key in ending
                assert sum(states) == 1, states
                subscribers += served
        tracks = [actor for ref in list(RUNTIME.actors) if isinstance(actor := actor_of(ref), TrackActor)]
        assert sum(len(track._subscribers.all) for track in tracks) == subscribers
        requests = sum(len(actor_of(viewer.ref).egress._requests) for viewer in self.viewers)
        assert requests == sum(viewing.live for viewing in self.viewings)

    async def _rest(self) -> None:
        """Until nothing lingers and nobody retries."""
        for _ in range(10):
            await settle()
            for slot in self.slots:
                self._answer(slot, 0, 0)
            await settle()
            self._check()
            await advance(0.5)
        await settle()
        self._check()
        assert not any(p.lingering for p in everything(actor_of(self.world.origin)._directory))

    async def _serve_all(self) -> None:
        """Every live subscription gets the next group."""
        before = {id(viewing): len(viewing.sequences()) for viewing in self.viewings}
        for _ in range(2):
            for identity in self.sent:
                self._publish(identity, fin=True)
                await settle()
        for viewing in self.viewings:
            if viewing.live:
                assert len(viewing.sequences()) > before[id(viewing)], "a live subscription gets nothing"


def play(steps: list[tuple[str, int, int]], versions: list[int], seed: int) -> None:
    async def scenario() -> None:
        forget_actors()
        with Trouble() as trouble:
            if seed:
                shuffle_turns(seed)
            await Play(versions).run(steps)
            assert not trouble.records, trouble.records

    run_virtual(scenario)


START = [
    ("come", 1, 0), ("join", 0, 3), ("join", 0, 5), ("join", 0, 0), ("settle", 0, 0), ("announce", 1, 0), ("settle", 0, 0),
    ("subscribe", 0, 0), ("settle", 0, 0), ("come", 0, 0), ("settle", 0, 0), ("announce", 0, 0), ("settle", 0, 0),
    ("subscribe", 1, 0), ("subscribe", 2, 0), ("settle", 0, 0), ("group", 0, 0), ("settle", 0, 0),
]  # fmt: skip
"""Two routes to the same content, and viewers of both."""

ANOTHER = [
    ("come", 2, 0), ("settle", 0, 0), ("announce", 2, 0), ("settle", 0, 0),
    ("subscribe", 0, 0), ("subscribe", 1, 0), ("settle", 0, 0), ("group", 2, 0), ("settle", 0, 0),
]  # fmt: skip
"""Another publisher takes over, with far higher numbers."""

version_numbers = st.sampled_from((0, 1, 2, 3, 3, 4, 4, 5, 5))


@settings(max_examples=repeats(400), deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(step, min_size=20, max_size=50),
    st.lists(version_numbers, min_size=3, max_size=3),
    st.integers(0, 1 << 30),
    st.booleans(),
)
def test_whatever_happens_to_publishers_each_subscription_is_served_waits_or_is_refused(
    steps: list[tuple[str, int, int]], versions: list[int], seed: int, another: bool
) -> None:
    play(START + ANOTHER * another + steps, versions, seed % 3 and seed)
