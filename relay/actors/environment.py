"""Context of connections: of a whole relay, and of one connection's parts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from relay.actors.counters import Counts
from relay.actors.expiry import Expiries
from relay.actors.runtime import Ref
from relay.auth.permissions import Permissions
from relay.logger import Seconds, get_logger
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

    def limit_of(self, name: str) -> int:
        limit: int = getattr(self.environment.limits, name)
        return limit * RELAY_FACTOR if self.permissions.cluster and name in PER_PEER else limit

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
        if self._log_once.begins(limit, self.clock()):
            self.log.warning("over limit", limit=limit, value=self.limit_of(limit), **fields)
