"""The connection actor: one session with one peer.

Owns the session's life: admission, permissions and their end, the counts, the log lines of accept and close. The
protocol is a state machine (`relay.moq`), which this actor feeds and whose events it hands on: what the peer publishes
is `ingest.py`, what it consumes is `egress.py`; both are parts of this actor, not actors.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import NamedTuple

from relay.actors import messages as m
from relay.actors.counters import AddCounts, Counts
from relay.actors.egress import Egress
from relay.actors.environment import Context, Environment
from relay.actors.expiry import Expiry
from relay.actors.ingest import Ingest
from relay.actors.rows import SessionRow
from relay.actors.runtime import LoopActor, Overrun, Ref, Timer, send
from relay.auth.permissions import Permissions, UnauthorizedError, loggable
from relay.moq import session as moq
from relay.moq.lite import LiteSession
from relay.transport.session import Event, Session
from relay.wire.errors import FIRST_APP_CODE, SessionCode, StreamCode


class MoqTimer(NamedTuple):
    """Timer: the session's deadline has come."""


class Expired(NamedTuple):
    """The token of this session has run out."""


class Authorized(NamedTuple):
    """What the peer may do is known."""

    permissions: Permissions


class NotAuthorized(NamedTuple):
    """The peer may do nothing. The reason has been logged; `reason` goes to the peer."""

    code: int
    reason: str


class ConnectionActor(LoopActor):
    """One session with one peer."""

    def __init__(
        self,
        *,
        session: Session,
        number: int,
        environment: Environment,
        permissions: Permissions | None = None,
        gate: Ref | None = None,
        link: Ref | None = None,
        offered: tuple[str, ...] = (),
    ) -> None:
        """`permissions` are given where the peer's URL was known before it was accepted.

        `gate` hears of the end. `link` hears of the beginning and the end of a session with another relay. `offered` are
        the protocols that the peer named before the session.
        """
        super().__init__(environment.runtime)
        self.session = self._session = session
        self._clock = self.runtime.now
        self._moq = LiteSession(
            session,
            limits=environment.limits,
            hop=environment.hop,
            versions=environment.versions,
            admitted=permissions is not None,
        )
        context = Context(environment, number, self.actor_ref, self._moq)
        self._context = context
        self.ingest = Ingest(context)
        self.egress = Egress(context, self.call_later)
        self.inbox.bound(environment.limits.inbox)
        self._gate = gate
        self._link = link
        self._offered = offered
        self._established = False
        self._draining = False
        self._authorizing: asyncio.Task[None] | None = None
        self._timer: Timer | None = None
        self._due = moq.NEVER
        self._expiry: Expiry | None = None
        self._closed: moq.Closed | None = None
        self._since = self._clock()
        self._since_epoch = self.runtime.wall_time()
        if permissions is not None:
            self._permit(permissions)

    def __str__(self) -> str:
        return f"session {self._context.number}"

    # --- life ------------------------------------------------------------------------------------------------------

    def on_start(self) -> None:
        ref = self.actor_ref
        self._session.start(lambda events: _deliver(ref, events))
        self._moq.start(self._clock())
        self._handle_events()

    def on_receive(self, message: object) -> object:  # noqa: C901, PLR0912 - one line per message
        match message:
            case m.SessionEvents():
                self._moq.receive(message.events, self._clock())
            case m.Deliver():
                self.egress.deliver(message)
            case MoqTimer():
                self._timer = None
                self._moq.on_time(self._clock())
            case m.CheckAlive():
                self._moq.check_alive(self._clock())
            case m.CloseSession():
                self._moq.close(message.code, message.reason)
            case m.Drain():
                self._drain()
            case Expired():
                self._moq.close(SessionCode.UNAUTHORIZED, "token expired")
            case Authorized():
                self._permit(message.permissions)
                self._moq.admit(self._clock())
            case NotAuthorized():
                self._moq.close(message.code, message.reason)
            case m.OverLimit():
                self._context.over(message.limit, message.what)
            case Overrun():
                self._context.over("inbox", f"queued={message.waiting}")
                self._moq.close(SessionCode.INTERNAL, "too many messages are queued for this session")
                self._handle_events()
                self.end_now()
            case m.CountSession():
                return self._counted()
            case m.DescribeSession():
                return self.describe()
            case _:
                if not (self.ingest.on_message(message) or self.egress.on_message(message)):
                    return super().on_receive(message)
        return None

    def on_turn_end(self) -> None:
        self._handle_events()
        if self._closed is not None:
            self.stop()

    def on_end(self, error: BaseException | None) -> None:
        if self._closed is None:
            code, reason = (SessionCode.INTERNAL, "internal error") if error else (SessionCode.NO_ERROR, "")
            self._moq.close(code, reason)
        if self._authorizing is not None:
            self._authorizing.cancel()
        if self._expiry is not None:
            self._expiry.cancel()
        if self._offered and self._moq.name is None and not self.session.is_client and not self.session.alpn:
            self._incompatible(())
        self.ingest.end()
        self.egress.end()
        context, environment = self._context, self._context.environment
        lost = self._closed is not None and self._closed.code is None
        gone = m.SessionGone(context.number, lost)
        send(environment.origin, gone)
        if environment.counters is not None:
            send(environment.counters, AddCounts(self._counted()))
        self._log_end(error)
        if self._link is not None:
            reason = "failed" if error else "" if self._closed is None else self._closed.reason
            down = m.LinkDown(context.number, self.actor_ref, reason or "the session ended", lost)
            send(self._link, down)
        if self._gate is not None:
            send(self._gate, gone)

    def on_dead_letter(self, message: object) -> None:
        match message:
            case m.OpenUpstream() | m.DescribeUpstream() | m.FetchUpstream():
                send(message.track, m.UpstreamFailed(StreamCode.INTERNAL, gone=True))
            case m.Accepted():
                send(message.track, m.Unsubscribe(self.actor_ref, message.key))

    def _log_end(self, error: BaseException | None) -> None:
        log, lasted = self._context.log, f"{self._clock() - self._since:.1f}s"
        if error is not None:
            log.error("closed by=relay reason=%r after=%s", f"failed: {error!r}", lasted)
        elif self._closed is None:
            log.info("closed by=relay after=%s", lasted)
        else:
            by = "peer" if self._closed.by_peer else "relay"
            code = "-" if self._closed.code is None else self._closed.code
            log.info("closed by=%s code=%s reason=%r after=%s", by, code, self._closed.reason, lasted)

    # --- events of the session -------------------------------------------------------------------------------------

    def _handle_events(self) -> None:
        """Take what has happened in the session, also in answer to our own commands."""
        while self._closed is None and (events := self._moq.poll()):
            open_before = not self._moq.closed
            for event in events:
                if not (self.ingest.on_event(event) or self.egress.on_event(event)):
                    self._on_event(event)
                if open_before and self._moq.closed:
                    break  # we have closed the session for this event: those after it count for nothing
        due = self._moq.deadline
        if due != moq.NEVER and (self._timer is None or due < self._due):
            if self._timer is not None:
                self._timer.cancel()
            self._due = due
            self._timer = self.call_later(due - self._clock(), MoqTimer())

    def _on_event(self, event: moq.Event) -> None:  # noqa: C901, PLR0912 - one line per event
        context = self._context
        match event:
            case moq.Introduced():
                path, query = self._session.path, self._session.query
                if path is None:
                    path, _, query = (event.target or "/").partition("?")
                work = self._authorize(path, query)
                self._authorizing = asyncio.get_running_loop().create_task(work)
            case moq.Opened():
                self._log_accept()
                self.ingest.start()
            case moq.Established():
                self._on_established()
            case moq.PeerInfo() if event.hop == context.environment.hop:
                # Its announcements are ours: they would go in a loop.
                context.log.warning("the peer is this relay itself")
                self._moq.close(SessionCode.INTERNAL, "this relay has dialled itself")
            case moq.PeerAlive():
                if not event.alive:
                    context.log.info("no sign of life: another session has announced one of its paths")
                send(context.environment.origin, m.Alive(context.number, event.alive))
            case moq.PeerLeaving():
                context.log.info("peer is going away uri=%r", loggable(event.uri))
                send(context.environment.origin, m.Leaving(context.number))
            case moq.LimitExceeded():
                context.over(event.limit, event.detail)
            case moq.Incompatible():
                self._incompatible(event.offered)
            case moq.Fault() if event.fatal:
                context.log.warning("protocol error reason=%r", str(event.error))
            case moq.Fault():
                context.log.debug("stream refused reason=%r", str(event.error))
            case moq.Closed():
                self._closed = event

    def _incompatible(self, offered: tuple[str, ...]) -> None:
        """Name the peer in the log, by what it offered before the session and in SETUP."""
        strangers, session = self._context.environment.strangers, self.session
        if strangers is not None:
            strangers.met(session.remote, session.transport, [*self._offered, *offered])

    def _on_established(self) -> None:
        self._established = True
        context = self._context
        if self._link is None and context.permissions.cluster:
            self._link = context.environment.cluster
            self.session.trust()
        if self._link is not None:
            hop = 0 if self._moq.peer is None else self._moq.peer.hop or 0
            send(self._link, m.LinkUp(context.number, self.actor_ref, hop))
        if self._draining:
            self._moq.goaway()

    def _drain(self) -> None:
        """Ask the peer to leave, now or as soon as the session has begun."""
        told = self._established and self._moq.version.has_goaway
        if not self._draining:
            self._draining = True
            if self._established:
                self._moq.goaway()
        if self._gate is not None:
            send(self._gate, m.Draining(self._context.number, told, self._context.permissions.cluster))

    # --- permissions -----------------------------------------------------------------------------------------------

    async def _authorize(self, path: str, query: str) -> None:
        """Find out what the peer may do."""
        outcome: Authorized | NotAuthorized
        log, session = self._context.log, self._session
        try:
            permissions = await self._context.environment.authorize(path, query, session.remote)
            outcome = Authorized(permissions)
        except UnauthorizedError as error:
            denied = error.status == HTTPStatus.UNAUTHORIZED
            code = SessionCode.UNAUTHORIZED if denied else FIRST_APP_CODE + error.status
            outcome = NotAuthorized(code, error.answer)
            values = session.transport, session.remote, loggable(path), str(error)
            log.info("refused transport=%s remote=%s path=%s reason=%r", *values)
        except Exception:  # the boundary of a task: the peer must not be left waiting
            log.exception("authorisation failed")
            outcome = NotAuthorized(SessionCode.INTERNAL, "internal error")
        send(self.actor_ref, outcome)

    def _permit(self, permissions: Permissions) -> None:
        context = self._context
        context.permissions = permissions
        self._moq.control_rate = context.limit_of("control_rate")
        self._moq.control_burst = context.limit_of("control_burst")
        self._moq.serving.backlog_limit = context.limit_of("backlog_session")

    def _log_accept(self) -> None:
        session, permissions, name = self._session, self._context.permissions, self._moq.name
        self._context.counts["sessions", f"{session.transport}/{name}"] += 1
        values = session.transport, session.remote, name, permissions.root, permissions
        self._context.log.info("accepted transport=%s remote=%s version=%s path=/%s %s", *values)
        expires, ref = permissions.expires, self.actor_ref
        if expires is not None:
            self._expiry = self._context.environment.expiries.at(expires, lambda: send(ref, Expired()))

    # --- for metrics and the debug API -----------------------------------------------------------------------------

    def _counted(self) -> Counts:
        stats, transport = self._session.stats(), self._session.transport
        return {
            **self._context.counts,
            ("bytes_received", transport): stats.bytes_received,
            ("bytes_sent", transport): stats.bytes_sent,
        }

    def describe(self) -> SessionRow:
        """The row of this session in the debug API."""
        session, permissions = self._session, self._context.permissions
        stats, counts = session.stats(), self._context.counts
        return SessionRow(
            session=self._context.number,
            remote=session.remote,
            transport=session.transport,
            version=self._moq.name,
            path=permissions.root,
            since=self._since_epoch,
            rtt=stats.rtt,
            bytes_received=stats.bytes_received,
            bytes_sent=stats.bytes_sent,
            streams=stats.streams,
            publish=permissions.publish,
            subscribe=permissions.subscribe,
            publishing=self.ingest.paths(),
            subscriptions=self.egress.count(),
            upstreams=self.ingest.count(),
            refused={name: number for (kind, name), number in counts.items() if kind == "refused"},
        )


def _deliver(ref: Ref, events: tuple[Event, ...]) -> None:
    send(ref, m.SessionEvents(events))


__all__ = ["ConnectionActor", "Environment"]
