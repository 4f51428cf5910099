"""A relay without sockets: an origin, and a connection actor for each peer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from relay.actors.connection import ConnectionActor
from relay.actors.environment import Environment
from relay.actors.expiry import Expiries
from relay.actors.origin import OriginActor
from relay.actors.runtime import Ref
from relay.auth.permissions import Permissions
from relay.model.limits import Limits
from relay.transport.memory import memory_pair
from relay.wire.version import AnyVersion, Version
from tests.actors.fakes import FakeRef
from tests.actors.raw_peer import RawPeer, SilentPeer
from tests.actors.recording import RecordingSession
from tests.actors.watching import actor_of, actors, directory_counts, stop_all
from tests.clock import RUNTIME, VirtualLoop, advance, settle, until
from tests.model.support import everything
from tests.sampling import ALL

HOP = 999
EVERYTHING = Permissions("", ("",), ("",))
CLUSTER = Permissions("", ("",), ("",), cluster=True)
"""Of another relay."""

MEMBERS = "internal/origins"
QUICK = Limits(track_idle=0.01)
"""Idle tracks end at once."""

LATE = 0.02
"""Seconds to wait for late groups."""


class World:
    """`close` proves that nothing is left."""

    def __init__(
        self,
        limits: Limits = QUICK,
        *,
        versions: tuple[AnyVersion, ...] = ALL,
        authorize: Callable[[str, str], Permissions | Awaitable[Permissions]] | None = None,
        linger: float = 0.0,
        members: str = MEMBERS,
    ) -> None:
        """`authorize` returns permissions, or an awaitable of them."""

        async def decide(path: str, query: str, _remote: str) -> Permissions:
            found = EVERYTHING if authorize is None else authorize(path, query)
            return found if isinstance(found, Permissions) else await found

        self.limits = limits
        self.linger = linger
        self.origin: Ref = OriginActor.start(RUNTIME, linger=linger, members=members)
        self.environment = Environment(
            RUNTIME, Expiries(RUNTIME), self.origin, HOP, limits, versions, decide, members=members
        )
        self.peers: list[RawPeer] = []
        self.gate = FakeRef()
        self._numbers = 0

    def connect(
        self,
        version: Version,
        *,
        permissions: Permissions | None = EVERYTHING,
        path: str | None = "/",
        query: str = "",
        introduce: bool = True,
        origin: int | None = None,
        cost: int | None = None,
        limits: Limits | None = None,
        keep: bool = True,
        offers: tuple[str, ...] = (),
        kind: type[RawPeer] = RawPeer,
    ) -> RawPeer:
        """A connection actor owns the relay's side."""
        by_setup = version <= Version.LITE_02
        client, server = memory_pair(
            None if by_setup else version, path=path, query=query, client_offers=offers
        )
        recording = RecordingSession(server)
        recording.keep = keep
        self._numbers += 1
        environment = replace(self.environment, limits=limits) if limits else self.environment
        ref = ConnectionActor.start(
            session=recording,
            number=self._numbers,
            environment=environment,
            permissions=permissions,
            gate=self.gate.ref,
        )
        peer = kind(client, version, recording, ref)
        peer.keep = keep
        self.peers.append(peer)
        if introduce and kind is not SilentPeer:
            peer.introduce(origin=origin, cost=cost)
        return peer

    async def publisher(self, version: Version, *paths: str, **options: Any) -> RawPeer:
        """A connected peer that has announced `paths`."""
        peer = self.connect(version, **options)
        await settle()
        for path in paths:
            peer.publish(path)
        await settle()
        return peer

    async def viewer(self, version: Version, **options: Any) -> RawPeer:
        peer = self.connect(version, **options)
        await settle()
        return peer

    async def count(self) -> tuple[int, int, int]:
        return await directory_counts(self.origin)

    async def close(self, *, clean: bool = True) -> None:
        """With `clean`, fails unless all actors and table entries are gone."""
        for peer in self.peers:
            peer.close()
        if clean:
            loop = asyncio.get_running_loop()
            longest = max(self.limits.track_idle, self.linger)
            if isinstance(loop, VirtualLoop):
                await advance(longest + 1)
                await advance(longest + 1)
            else:
                directory = actor_of(self.origin)._directory
                with suppress(AssertionError):
                    await until(lambda: len(actors()) == 1 and not everything(directory), 2 * longest + 1)
            assert actors() == ["origin"]
            assert await self.count() == (0, 0, 0)
            for table in ("_publishers", "_watchers", "_waiting", "_awaited", "_finding"):
                assert not vars(actor_of(self.origin))[table], table
        stop_all()
        await settle()
        assert not actors()
        for peer in self.peers:
            assert not peer.relay.violations, peer.relay.violations
