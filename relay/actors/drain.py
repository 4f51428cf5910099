"""Drain: what happens to sessions and HTTP readers when the relay is told to stop. A part of the gate actor.

1. New ones are rejected, the cluster actor withdraws our membership, and each connection sends GOAWAY.
2. Existing ones are served until only sessions with other relays are left, for `[limits] drain` seconds at most.
3. Sessions left are closed, with GOAWAY_TIMEOUT if their peer was asked to leave. Then `Relay.close` ends the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from relay.actors import messages as m
from relay.actors.environment import Environment
from relay.actors.events import Happened
from relay.actors.runtime import LoopFuture, Ref, send
from relay.logger import Seconds, get_logger
from relay.model.events import Kind
from relay.runtime import Runtime
from relay.wire.errors import SessionCode

logger = get_logger("relay")


class DrainOver(NamedTuple):
    """Timer: `[limits] drain` has passed."""


class Drain:
    """One per relay. Only the gate changes `connections` and `readers`."""

    def __init__(self, runtime: Runtime, connections: Mapping[int, Ref], readers: Collection[object]) -> None:
        self._runtime = runtime
        self._connections = connections
        self._readers = readers
        self.begun = False
        self.peers: set[int] = set()  # sessions with other relays; a drain does not await them
        self._asked_to_leave: set[int] = set()
        self._drained: LoopFuture | None = None  # the reply to `DrainSessions`
        self._began = 0.0

    def begin(self, environment: Environment, call_later: Callable[[float, object], object]) -> LoopFuture:
        """The reply comes when all sessions have left or time is up."""
        if self._drained is not None:
            return self._drained
        self.begun = True
        seconds, cluster = environment.limits.drain, environment.cluster
        drained = self._drained = LoopFuture()
        if cluster is not None:
            send(cluster, m.Drain())
        logger.info("draining", **self._counts(), at_most=Seconds(seconds))
        self._began = self._runtime.now()
        if environment.events is not None:
            counts = self._counts()
            reason = f"{counts['sessions']} sessions, {counts['readers']} readers, at most {seconds:g} s"
            send(environment.events, Happened(Kind.DRAIN, reason=reason))
        call_later(seconds, DrainOver())
        for connection in self._connections.values():
            send(connection, m.Drain())
        self.end_if_empty()
        return drained

    def on_draining(self, message: m.Draining) -> None:
        if message.session in self._connections:
            if message.cluster:
                self.peers.add(message.session)
            elif message.asked:
                self._asked_to_leave.add(message.session)
            self.end_if_empty()

    def on_gone(self, session: int) -> None:
        self.peers.discard(session)
        self._asked_to_leave.discard(session)
        self.end_if_empty()

    def end_if_empty(self) -> None:
        if not self._readers and len(self._connections) <= len(self.peers):
            self.end()

    def end(self) -> None:
        if self._drained is not None:
            logger.info("drained", **self._counts(), after=Seconds(self._runtime.now() - self._began))
            self.reply()

    def reply(self) -> None:
        drained, self._drained = self._drained, None
        if drained is not None:
            drained.set()

    def close(self, reason: str) -> None:
        """Close the sessions that are left."""
        self.begun = True
        self.reply()
        for number, connection in self._connections.items():
            late = number in self._asked_to_leave
            code = SessionCode.GOAWAY_TIMEOUT if late else SessionCode.NO_ERROR
            send(connection, m.CloseSession(code, reason))

    def _counts(self) -> dict[str, int]:
        return {"sessions": len(self._connections), "readers": len(self._readers)}
