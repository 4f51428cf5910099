"""What a broadcast that comes and goes costs a cluster: relays in one process, each connected to every other one.

    python -m bench.mesh                      4, 8, 16 and 24 relays; prints a table for docs/cluster.md
    python -m bench.mesh --nameless           of relays that do not tell each other their names

The relays are real down to the bytes of their sessions; sessions are in memory, with a latency of their own each (1 to
100 ms), in virtual time. So every count is the same on every machine and in every run with the same seed; CPU time
is not. `tests/actors/test_mesh.py` uses the same relays.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import random
import selectors
import time
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Iterable, Iterator
from typing import Any, cast

from relay.actors import messages as m
from relay.actors.broadcast import BroadcastActor
from relay.actors.connection import ConnectionActor
from relay.actors.environment import Environment
from relay.actors.expiry import Expiries
from relay.actors.origin import OriginActor
from relay.actors.runtime import LoopActor, Ref, halt, send
from relay.auth.permissions import Permissions
from relay.compiled import PURE, reason
from relay.model.limits import Limits
from relay.model.path import join
from relay.model.route import Route
from relay.model.watchers import AnnounceInterest, Announcement
from relay.moq.lite_announce import AnnounceReader
from relay.runtime import Runtime
from relay.transport.memory import MemorySession, memory_pair
from relay.transport.session import Event, Session, Sink
from relay.wire.announce import AnnounceActive, AnnounceEnded, AnnounceUpdate
from relay.wire.version import Version

MEMBERS = "internal/origins"
CLUSTER = Permissions("", ("",), ("",), cluster=True)
RUNTIME = Runtime()

FIRST_HOP = 1_000
"""Id of the first relay in hop lists."""

PUBLISHER = 7
"""Id of the publisher in hop lists."""

QUIET = 10.0
"""Virtual seconds after which nothing is in flight."""

NAMES = {AnnounceActive: "start", AnnounceUpdate: "update", AnnounceEnded: "end"}


# --- virtual time ------------------------------------------------------------------------------------------------


class _Selector(selectors.DefaultSelector):
    """Waiting time passes at once."""

    passed = 0.0

    def select(self, timeout: float | None = None) -> Any:
        if timeout:
            self.passed += timeout
        return super().select(0)


class VirtualTime(asyncio.SelectorEventLoop):
    """An event loop on which only waiting takes time."""

    def __init__(self) -> None:
        self._clock = _Selector()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.passed


def in_virtual_time(scenario: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner(loop_factory=VirtualTime) as runner:
        return runner.run(scenario)


# --- relays ------------------------------------------------------------------------------------------------------


class LateSession:
    """Events arrive after a latency, in order."""

    def __init__(self, session: Session, latency: float) -> None:
        self._session = session
        self._latency = latency

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def start(self, sink: Sink) -> None:
        under_way: deque[tuple[Event, ...]] = deque()

        def arrive(events: tuple[Event, ...]) -> None:
            under_way.append(events)
            asyncio.get_running_loop().call_later(self._latency, lambda: sink(under_way.popleft()))

        self._session.start(arrive)


class Watcher(LoopActor):
    """Keeps every change at one relay."""

    def __init__(self, relay: Relay, session: int, prefix: str) -> None:
        super().__init__(RUNTIME)
        self._relay = relay
        self._session = session
        self._prefix = prefix
        self.live: dict[str, Announcement] = {}
        self.changes: list[tuple[str, str]] = []
        """`start`, `update` or `end`, and the path."""

    def on_start(self) -> None:
        interest = AnnounceInterest(self._session, 1, (self._prefix,))
        send(self._relay.origin, m.Watch(self.actor_ref, interest))

    def on_receive(self, message: object) -> None:
        match message:
            case m.WatchStarted():
                self.live.update((offer.path, offer) for offer in message.offers)
            case m.WatchChanged(path=path, offer=None):
                del self.live[path]
                self.changes.append(("end", path))
            case m.WatchChanged(path=path, offer=offer) if offer is not None:
                self.changes.append(("update" if path in self.live else "start", path))
                self.live[path] = offer

    def count(self) -> dict[str, int]:
        counts = Counter(kind for kind, _ in self.changes)
        return {kind: counts[kind] for kind in NAMES.values()}


class Publisher(LoopActor):
    """Answers pings."""

    def __init__(self, origin: Ref, session: int) -> None:
        super().__init__(RUNTIME)
        self._origin = origin
        self._session = session

    def on_receive(self, message: object) -> None:
        """Ignores requests for its tracks."""
        if isinstance(message, m.CheckAlive):
            send(self._origin, m.Alive(self._session, alive=True))


class Relay:
    """One relay without sockets."""

    def __init__(self, number: int, limits: Limits) -> None:
        async def everything(_path: str, _query: str, _remote: str) -> Permissions:
            return CLUSTER  # unused: each session is given its permissions

        self.number = number
        self.hop = FIRST_HOP + number
        self.origin: Ref = OriginActor.start(RUNTIME, linger=limits.linger, members=MEMBERS)
        self.environment = Environment(
            RUNTIME,
            Expiries(RUNTIME),
            self.origin,
            self.hop,
            limits,
            tuple(Version),
            everything,
            members=MEMBERS,
        )
        self.sessions = itertools.count(1)
        self.actors: list[Ref] = []
        self._published: dict[str, int] = {}
        self._session = next(self.sessions)
        self._publisher: Ref = Publisher.start(self.origin, self._session)
        self.actors.append(self._publisher)

    def publish(self, path: str, *, publisher: int = PUBLISHER, route: Route | None = None) -> None:
        generation = self._published[path] = self._published.get(path, 0) + 1
        broadcast = BroadcastActor.start(
            RUNTIME, path=path, source=self._publisher, limits=self.environment.limits
        )
        self.actors.append(broadcast)
        route = Route((publisher,), 1) if route is None else route
        send(
            self.origin,
            m.Announce(
                self._session,
                self._publisher,
                path,
                generation,
                route,
                broadcast,
                prefix=False,
                tentative=False,
            ),
        )

    def withdraw(self, path: str) -> None:
        send(self.origin, m.Unannounce(self._session, path, self._published[path]))

    def watch(self, prefix: str = "demo") -> Watcher:
        ref = Watcher.start(self, next(self.sessions), prefix)
        self.actors.append(ref)
        return cast("Watcher", cast("Any", ref.actor_inbox)._actor)  # noqa: SLF001


class Mesh(list[Relay]):
    """Relays and the sessions between them."""

    def __init__(
        self,
        size: int,
        *,
        seed: int = 1,
        latency: tuple[float, float] = (0.001, 0.1),
        limits: Limits | None = None,
    ) -> None:
        # no rate limit: announcements come all at once
        limits = limits or Limits(control_rate=1_000_000, control_burst=1_000_000, linger=0.0)
        super().__init__(Relay(number, limits) for number in range(size))
        self._random = random.Random(seed)
        self._latency = latency
        self.sessions: dict[tuple[int, int], tuple[Ref, Ref]] = {}
        """Both ends of each, by relay number."""
        self._ends: dict[tuple[int, int], tuple[MemorySession, MemorySession]] = {}

    def connect(self, one: int, other: int, version: Version = Version.LITE_06) -> None:
        latency = self._random.uniform(*self._latency)
        ends = memory_pair(version, path="/")
        first, second = (
            ConnectionActor.start(
                session=cast("Session", LateSession(end, latency)),
                number=next(self[number].sessions),
                environment=self[number].environment,
                permissions=CLUSTER,
            )
            for number, end in zip((one, other), ends, strict=True)
        )
        self.sessions[one, other] = (first, second)
        self._ends[one, other] = ends

    def connect_all(self, version: Version = Version.LITE_06) -> None:
        for one, other in itertools.combinations(range(len(self)), 2):
            self.connect(one, other, version)

    def announce_members(self) -> None:
        for relay in self:
            relay.publish(join(MEMBERS, f"relay-{relay.number}"), route=Route((), 0, 0))

    def cut(self, one: int, other: int) -> None:
        """Close the session of two relays."""
        for ref in self.sessions.pop((one, other)):
            halt(ref)

    def lose(self, one: int, other: int) -> None:
        """The session of two relays is lost without a close."""
        del self.sessions[one, other]
        for end in self._ends.pop((one, other)):
            end.fail()

    async def end_sessions(self) -> None:
        """End all sessions; relays stay."""
        for pair in list(self.sessions):
            self.cut(*pair)
        await asyncio.sleep(QUIET)

    async def close(self) -> None:
        """End everything."""
        await self.end_sessions()
        for relay in self:
            for ref in (relay.origin, *relay.actors):
                halt(ref)
        await asyncio.sleep(QUIET)


@contextlib.contextmanager
def counted() -> Iterator[Counter[str]]:
    """Count announcements between relays, by kind."""
    counts: Counter[str] = Counter()
    original = AnnounceReader._take  # noqa: SLF001 - where all of them come through

    def take(self: AnnounceReader, message: Any) -> None:
        if type(message) in NAMES:
            counts[NAMES[type(message)]] += 1
        original(self, message)

    AnnounceReader._take = take  # type: ignore[method-assign, assignment]  # noqa: SLF001
    try:
        yield counts
    finally:
        AnnounceReader._take = original  # type: ignore[method-assign]  # noqa: SLF001


# --- the measurement ---------------------------------------------------------------------------------------------


async def measure(size: int, broadcasts: int, seed: int, *, nameless: bool) -> list[str]:
    """A row of the table."""
    mesh = Mesh(size, seed=seed)
    mesh.connect_all()
    if not nameless:
        mesh.announce_members()
    watcher = mesh[-1].watch()
    await asyncio.sleep(QUIET)
    paths = [f"demo/{number}" for number in range(broadcasts)]
    row = [str(size)]
    for change in (mesh[0].publish, mesh[0].withdraw):
        watcher.changes.clear()
        with counted() as counts:
            cpu = time.process_time()
            await _for_each(change, paths)
            cpu = time.process_time() - cpu
        heard = watcher.count()
        row += [
            f"{counts.total() / broadcasts:.0f}",
            f"{cpu / broadcasts * 1_000:.1f} ms",
            ", ".join(f"{count / broadcasts:g} {kind}" for kind, count in heard.items() if count),
        ]
    await mesh.close()
    return row


async def _for_each(change: Callable[[str], None], paths: Iterable[str]) -> None:
    for path in paths:
        change(path)
    await asyncio.sleep(QUIET)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.mesh", description=(__doc__ or "").split("\n", 1)[0]
    )
    parser.add_argument("--relays", type=int, nargs="+", default=[4, 8, 16, 24])
    parser.add_argument("--broadcasts", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--nameless", action="store_true", help="relays that do not tell their names")
    options = parser.parse_args()
    if not reason:
        parser.error(f"{PURE}=1 is needed: messages are counted inside a module that is compiled")
    print(
        "| relays | published: messages | CPU | a viewer gets | withdrawn: messages | CPU | a viewer gets |"
    )
    print("|---|---|---|---|---|---|---|")
    for size in options.relays:
        row = in_virtual_time(measure(size, options.broadcasts, options.seed, nameless=options.nameless))
        print("|", " | ".join(row), "|", flush=True)


if __name__ == "__main__":
    main()
