"""Context of connections: of a whole relay, and of one connection's parts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from relay.actors.counters import Counts
from relay.actors.events import Happened
from relay.actors.expiry import Expiries
from relay.actors.runtime import Ref, send
from relay.auth.permissions import Permissions
from relay.logger import Seconds, get_logger
from relay.model.events import Kind
from relay.model.incompatible import IncompatiblePeers
from relay.model.limits import Limits
from relay.model.pace import LogOnce
from relay.moq.protocol import ProtocolSession
from relay.moq.session import Closed
from relay.runtime import Runtime

RELAY_FACTOR = 20  # multiplier on `PER_PEER` limits for a cluster peer, which serves many peers
PER_PEER = frozenset(("announces", "subscriptions", "control_rate", "control_burst", "backlog_session"))


@dataclass(frozen=True, slots=True)
class Environment:
    """Shared by all connections of a relay."""

    runtime: Runtime
    expiries: Expiries
    origin: Ref
    hop: int  # our id in hop lists
    limits: Limits
    versions: tuple[Any, ...]
    authorize: Callable[[str, str, str], Awaitable[Permissions]]
    """Takes path, query and remote address; raises UnauthorizedError."""
    counters: Ref | None = None
    cache_budget: Ref | None = None
    cluster: Ref | None = None  # learns of incoming sessions with relays
    members: str = "internal/origins"  # path of the relays' own announcements
    incompatible: IncompatiblePeers | None = None
    events: Ref | None = None


class Context:
    """Shared by the parts of one connection."""

    def __init__(
        self, environment: Environment, number: int, ref: Ref, moq: ProtocolSession, offered: tuple[str, ...]
    ) -> None:
        self.environment = environment
        self.number = number
        self.ref = ref
        self.moq = moq
        self.clock = environment.runtime.now
        self.log = get_logger("relay.session", session=number)
        self.permissions = Permissions()
        self.counts: Counter[tuple[str, str]] = moq.counts  # by name and label
        self.offered = offered  # protocols named before the session
        self.since = self.clock()
        self.since_epoch = environment.runtime.wall_time()
        self._log_once = LogOnce()
        self._joined = False

    def limit_of(self, name: str) -> int:
        limit: int = getattr(self.environment.limits, name)
        return limit * RELAY_FACTOR if self.permissions.cluster and name in PER_PEER else limit

    @property
    def skipped(self) -> int:
        """Groups skipped for this session."""
        return sum(number for (name, _), number in self.counts.items() if name == "groups_dropped")

    def counted(self) -> Counts:
        """The counts, with the transport's bytes."""
        stats, transport = self.moq.session.stats(), self.moq.session.transport
        return {
            **self.counts,
            ("bytes_received", transport): stats.bytes_received,
            ("bytes_sent", transport): stats.bytes_sent,
        }

    def incompatible(self, *offered: str) -> None:
        """`offered`: protocols in its SETUP."""
        session, incompatible = self.moq.session, self.environment.incompatible
        if incompatible is not None:
            incompatible.met(session.remote, session.transport, [*self.offered, *offered])

    def report(self, kind: Kind, reason: str | None = None, path: str | None = None, limit: str = "") -> None:
        """Report an event of this session."""
        events = self.environment.events
        if events is not None:
            remote = self.moq.session.remote
            send(events, Happened(kind, self.number, remote, path, reason, limit=limit))

    def joined(self) -> None:
        """The session has begun. Sessions with relays have events of their own, by the cluster."""
        self._joined = not self.permissions.cluster
        if self._joined:
            self.report(Kind.JOINED, path="/" + self.permissions.root)

    def left(self, closed: Closed | None, error: BaseException | None) -> None:
        """The session has ended."""
        if self._joined:
            self.report(Kind.LEFT, reason_of(closed, error), "/" + self.permissions.root)

    def log_end(self, closed: Closed | None, error: BaseException | None) -> None:
        """Who closed the session, or `error` if its actor failed."""
        after = Seconds(self.clock() - self.since)
        if error is not None:
            self.log.error("closed", by="relay", reason="internal error", error=repr(error), after=after)
        elif closed is None:
            self.log.info("closed", by="relay", after=after)
        else:
            by = "peer" if closed.by_peer else "relay"
            self.log.info("closed", by=by, code=closed.code, reason=closed.reason, after=after)

    def over(self, limit: str, **fields: object) -> None:
        """Count an exceeded limit, and log the first of an episode."""
        self.counts["refused", limit] += 1
        path = fields.get("path", fields.get("broadcast"))
        self.report(Kind.REFUSED, f"over limit {limit}", None if path is None else str(path), limit)
        if self._log_once.begins(limit, self.clock()):
            self.log.warning("over limit", limit=limit, value=self.limit_of(limit), **fields)


def reason_of(closed: Closed | None, error: BaseException | None) -> str:
    """Why a session has ended, in words."""
    if error is not None:
        return "internal error"
    if closed is None:
        return "closed by the relay"
    if closed.code is None:
        return f"lost: {closed.reason}" if closed.reason else "lost"
    if closed.reason and not (closed.by_peer or closed.code):
        return closed.reason
    by = "peer" if closed.by_peer else "relay"
    return f"closed by the {by}, code {closed.code}" + (f": {closed.reason}" if closed.reason else "")
