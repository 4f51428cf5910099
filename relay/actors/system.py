"""The single actors of a relay: starts them in order, passes on new limits, ends them in order."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final

from relay.actors import messages as m
from relay.actors.cache_budget import CacheBudgetActor
from relay.actors.cluster import ClusterActor, Membership
from relay.actors.counters import CountersActor
from relay.actors.environment import Environment
from relay.actors.events import EventsActor, Happened
from relay.actors.expiry import Expiries
from relay.actors.gate import GateActor
from relay.actors.origin import OriginActor
from relay.actors.runtime import ActorDeadError, Ref, ask, send, stop
from relay.auth.permissions import Permissions
from relay.logger import get_logger
from relay.model.events import Kind
from relay.model.incompatible import IncompatiblePeers
from relay.model.limits import Limits
from relay.runtime import Runtime
from relay.transport.session import SessionRequest

logger = get_logger("relay")

STOP_TIMEOUT: Final = 1.0  # seconds for an actor to end


class ActorSystem:
    """The actors of one relay, running."""

    def __init__(
        self,
        runtime: Runtime,
        *,
        limits: Limits,
        versions: tuple[Any, ...],
        spoken: Sequence[str],
        authorize: Callable[[str, str, str], Awaitable[Permissions]],
        membership: Membership,
        failed: asyncio.Event,
    ) -> None:
        """`spoken`: names of `versions`. `failed` is set if a vital actor fails."""
        self.connections: dict[int, Ref] = {}
        self.expiries = Expiries(runtime)
        self.incompatible = IncompatiblePeers(spoken, runtime.now, self._on_incompatible)
        self.events: Ref = EventsActor.start(runtime)
        self.origin: Ref = OriginActor.start(
            runtime,
            on_failure=lambda _: failed.set(),
            linger=limits.linger,
            members=membership.prefix,
            events=self.events,
        )
        self.counters: Ref = CountersActor.start(runtime)
        self.cache_budget: Ref = CacheBudgetActor.start(runtime, limits.cache)
        environment = Environment(
            runtime=runtime,
            expiries=self.expiries,
            origin=self.origin,
            hop=membership.hop,
            limits=limits,
            versions=versions,
            authorize=authorize,
            counters=self.counters,
            cache_budget=self.cache_budget,
            members=membership.prefix,
            incompatible=self.incompatible,
            events=self.events,
        )
        # Other relays cannot reach one without a name.
        offered = () if membership.node is None else ("",)
        self.gate: Ref = GateActor.start(
            environment=environment,
            dialled=Permissions("", ("",), offered, cluster=True),
            connections=self.connections,
            failed=failed,
        )
        self.cluster: Ref = ClusterActor.start(
            runtime,
            origin=self.origin,
            number=0,
            membership=membership,
            limits=limits,
            gate=self.gate,
            events=self.events,
        )
        send(self.gate, m.UseCluster(self.cluster))

    def use(self, limits: Limits) -> None:
        """Running sessions and their tracks keep their limits."""
        for actor in (self.gate, self.origin, self.cluster, self.cache_budget):
            send(actor, m.NewLimits(limits))

    def accept(self, request: SessionRequest, versions: tuple[Any, ...] | None) -> None:
        """Answer a peer once its permissions are known."""
        if not send(self.gate, m.Admit(request, versions)):
            request.reject(503, "the relay is about to end")

    async def admit(self, request: SessionRequest, versions: tuple[Any, ...] | None) -> None:
        """Like `accept`, but returns when the peer has its answer."""
        try:
            await ask(self.gate, m.Admit(request, versions), timeout=None)
        except ActorDeadError:
            request.reject(503, "the relay is about to end")

    async def drain(self) -> None:
        """Sessions and readers have left, or their time is up."""
        await self._ask_gate(m.DrainSessions())

    async def close_sessions(self, reason: str) -> None:
        """Close all sessions. Returns when all connection actors know."""
        await _stop(self.cluster)  # first, or it would dial leaving peers
        await self._ask_gate(m.CloseSessions(reason))

    async def end(self) -> None:
        await _stop(*self.connections.values())
        await _stop(self.gate, self.origin, self.counters, self.cache_budget, self.events)

    def _on_incompatible(self, remote: str, offered: str) -> None:
        send(
            self.events, Happened(Kind.REFUSED, remote=remote, reason=f"no common version, offered {offered}")
        )

    async def _ask_gate(self, message: object) -> None:
        with suppress(ActorDeadError):
            await ask(self.gate, message, timeout=None)


async def _stop(*actors: Ref) -> None:
    stopping = (stop(actor, timeout=STOP_TIMEOUT) for actor in actors)
    answers = await asyncio.gather(*stopping, return_exceptions=True)
    for actor, answer in zip(actors, answers, strict=True):
        if isinstance(answer, TimeoutError):
            logger.warning("an actor did not end in time", actor=actor)
        elif isinstance(answer, BaseException):
            raise answer
