"""Long runs in one process: afterwards there are as many objects as before."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter

from relay.actors import runtime
from relay.actors.runtime import LoopActor
from relay.model.limits import Limits
from relay.wire.version import Version
from tests.actors.raw_peer import RawPeer
from tests.actors.watching import actor_of, actors, named
from tests.actors.world import World
from tests.clock import RUNTIME, settle, timer_count, until
from tests.sampling import repeats

LIMITS = Limits(track_idle=0.0, cache_groups=64)


def census() -> Counter[str]:
    """Living objects of the relay, by type, without cancelled timers: asyncio drops these when they are many."""
    gc.collect()
    return Counter(
        type(thing).__qualname__
        for thing in gc.get_objects()
        if str(type(thing).__module__).startswith(("relay.", "pykka", "asyncio"))
        and not (isinstance(thing, asyncio.TimerHandle) and thing.cancelled())
    )


def prune(*peers: RawPeer) -> None:
    """Forget the fakes' records of ended streams."""
    for peer in peers:
        peer.requests[:] = [stream for stream in peer.requests if not stream.over]
        peer.own[:] = [stream for stream in peer.own if not stream.over]
        peer.incoming.clear()
        peer.relay.streams.clear()
        peer.datagrams.clear()


def end_with_the_relay(peer: RawPeer) -> None:
    """End our half of every request whose other half the relay has ended."""
    for stream in peer.requests:
        if stream.fins and not getattr(stream, "answered", False):
            stream.answered = True  # type: ignore[attr-defined]
            stream.write(fin=True)


def grown(before: Counter[str], after: Counter[str]) -> dict[str, int]:
    """Types with clearly more objects."""
    return {name: after[name] - before[name] for name in after if after[name] > before[name] + 20}


GROUPS = repeats(12_000)
SUBSCRIPTIONS = repeats(4_800)
SESSIONS = repeats(1_200)
WARM = 500
"""The census after so many must be that of the end."""

WARM_SESSIONS = 100


async def test_groups_leave_no_more_than_the_cache() -> None:
    world = World(LIMITS)
    publisher = await world.publisher(Version.LITE_04, "p")
    viewers = [await world.viewer(version) for version in (Version.LITE_01, Version.LITE_03, Version.LITE_06)]
    numbers = [viewer.subscribe("p")[0] for viewer in viewers]
    await settle()
    ((_, request),) = publisher.subscriptions()
    before: Counter[str] = Counter()
    streams: list[int] = []
    received = 0
    for sequence in range(GROUPS):
        group = publisher.group(request.id, sequence, b"first", fin=False)
        group.write(publisher.frames(b"second" * 10), fin=True)
        if sequence % 50 == 49:
            await settle()
            received += sum(len(v.groups(n)) for v, n in zip(viewers, numbers, strict=True))
            prune(publisher, *viewers)
        if sequence == WARM - 1:
            before = census()
            streams = [len(peer.relay.raw.streams) for peer in world.peers]
    await settle()
    assert received == 3 * GROUPS
    assert not grown(before, census())
    assert [len(peer.relay.raw.streams) for peer in world.peers] == streams
    await world.close()


async def test_subscriptions_leave_nothing() -> None:
    world = World(LIMITS)
    publisher = await world.publisher(Version.LITE_05, "p")
    viewers = [await world.viewer(version) for version in (Version.LITE_01, Version.LITE_04, Version.LITE_06)]
    before: Counter[str] = Counter()
    streams: list[int] = []
    for cycle in range(SUBSCRIPTIONS):
        viewer = viewers[cycle % 3]
        _, stream = viewer.subscribe("p" if cycle % 10 else "missing", f"t{cycle % 7}")
        asked = None
        if cycle % 4 == 0 and viewer.version >= Version.LITE_05:
            asked = viewer.info("p", f"t{cycle % 7}")
        await settle()
        publisher.answer_tracks()
        for _, request in publisher.live_subscriptions():
            publisher.group(request.id, cycle, b"x", fin=bool(cycle % 2))
        await settle()
        if asked is not None:
            asked.write(fin=True)
        if cycle % 3 == 0:
            stream.reset(1)
            stream.stop(1)
        else:
            stream.write(fin=True)
        if cycle % 2:
            await settle()
        end_with_the_relay(publisher)
        prune(publisher, *viewers)
        if cycle == WARM - 1:
            await _rest(publisher)
            before = census()
            streams = [len(peer.relay.raw.streams) for peer in world.peers]
    await _rest(publisher)
    assert not grown(before, census())
    after = [len(peer.relay.raw.streams) for peer in world.peers]
    assert all(now <= then + 5 for then, now in zip(streams, after, strict=True)), (streams, after)
    await world.close()


async def _rest(publisher: RawPeer) -> None:
    """Idle tracks are gone, and the publisher has ended what the relay ended."""
    for _ in range(3):
        await settle()
        end_with_the_relay(publisher)
        publisher.answer_tracks()
    await until(lambda: not [name for name in actors() if name.startswith("track")])
    await settle()
    prune(publisher)


async def test_sessions_that_come_and_go_leave_nothing() -> None:
    world = World(LIMITS)
    publisher = await world.publisher(Version.LITE_05, "publisher")
    before: Counter[str] = Counter()
    peer = other = publisher
    for cycle in range(SESSIONS):
        version = Version(cycle % 6 + 1)
        peer = await world.publisher(version, f"p{cycle % 5}")
        peer.watch()
        peer.subscribe("publisher")
        other = await world.viewer(Version((cycle + 3) % 6 + 1))
        other.subscribe(f"p{cycle % 5}")
        other.watch()
        await settle()
        peer.close() if cycle % 2 else peer.session.fail()
        other.close()
        await settle()
        del world.peers[1:]
        world.gate.log.clear()
        publisher.answer_tracks()
        end_with_the_relay(publisher)
        prune(publisher)
        if cycle == WARM_SESSIONS - 1:
            await settle()
            before = census()
    await until(lambda: len([name for name in actors() if name.startswith("track")]) == 0)
    del peer, other
    await settle()
    assert not grown(before, census())
    assert await world.count() == (1, 1, 0)
    inside = actor_of(named("session 1"))
    assert inside.ingest.count() == 0
    await world.close()
    assert timer_count() <= 1  # the time-out of the whole test, if there is one


def test_an_event_loop_that_is_gone_is_forgotten() -> None:
    class Idle(LoopActor):
        pass

    async def scenario() -> None:
        ref = Idle.start(RUNTIME)
        await runtime.stop(ref, timeout=5)

    gc.collect()
    before = len(runtime._dispatchers)
    for _ in range(20):
        asyncio.run(scenario())
    gc.collect()
    assert len(runtime._dispatchers) <= before + 1
