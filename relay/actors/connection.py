"""The connection actor: one session with one peer, its permissions, GOAWAY and close.

It drives the protocol (`relay.moq`). `ingest.py` and `egress.py` handle events of the publishing and consuming sides.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Final, NamedTuple

from relay.actors import messages as m
from relay.actors.admission import Rejection, decide
from relay.actors.counters import AddCounts
from relay.actors.egress import Egress
from relay.actors.environment import Context, Environment
from relay.actors.expiry import Expiry
from relay.actors.ingest import Ingest
from relay.actors.rows import SessionRow
from relay.actors.runtime import LoopActor, Overrun, Ref, Timer, send
from relay.actors.skips import SkipsDue
from relay.auth.permissions import Permissions, shown
from relay.moq import session as moq
from relay.moq.protocol import ProtocolSession, open_session
from relay.transport.session import Session
from relay.wire.errors import FIRST_APP_CODE, SessionCode, StreamCode

SESSION_CODES: Final = {401: SessionCode.UNAUTHORIZED, 500: SessionCode.INTERNAL}
"""By HTTP status of a rejection; others are application codes."""


class MoqTimer(NamedTuple):
    """Timer: the session's deadline."""


class Expired(NamedTuple):
    """The session's token has expired."""


class Decided(NamedTuple):
    """The outcome of authorization."""

    outcome: Permissions | Rejection
    request: int = 0  # of `TokenOffered`; 0 is the session itself


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
        peer: Ref | None = None,
        offered: tuple[str, ...] = (),
    ) -> None:
        """`permissions`: known before the session. `offered`: protocols that the peer named before it.

        `gate` learns of the end, `peer` of the beginning and end of a session with another relay.
        """
        super().__init__(environment.runtime)
        self.session = session
        self._clock = self.runtime.now
        admitted = permissions is not None
        moq_session = open_session(
            session, environment.limits, environment.hop, environment.versions, admitted
        )
        self._use(moq_session, Context(environment, number, self.actor_ref, moq_session, offered))
        self.inbox.bound(environment.limits.inbox)
        self._gate = gate
        self._peer = peer
        self._established = False
        self._draining = False
        self._authorizing: set[asyncio.Task[None]] = set()
        self._timer: Timer | None = None
        self._due = moq.NEVER
        self._expiry: Expiry | None = None
        self._closed: moq.Closed | None = None
        if permissions is not None:
            self._permit(permissions)

    def __str__(self) -> str:
        return f"session {self._context.number}"

    def _use(self, moq_session: ProtocolSession, context: Context) -> None:
        self._moq = moq_session
        self._context = context
        self.ingest = Ingest(context)
        self.egress = Egress(context, self.call_later)

    def _change(self, chosen: moq.DialectChosen) -> None:
        """SETUP chose another dialect."""
        former = self._context
        environment, permissions = former.environment, former.permissions
        admitted = self._moq.setup.admitted
        moq_session = open_session(
            self.session,
            environment.limits,
            environment.hop,
            environment.versions,
            admitted,
            chosen=chosen.version,
        )
        self._use(
            moq_session, Context(environment, former.number, self.actor_ref, moq_session, former.offered)
        )
        if admitted:
            self._permit(permissions)
        former.moq.unlink()
        moq_session.start(self._clock())
        moq_session.receive(chosen.events, self._clock())

    # --- life

    def on_start(self) -> None:
        ref = self.actor_ref
        self.session.start(lambda events: send(ref, m.SessionEvents(events)))
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
                self._moq.alive.begin(self._clock())
            case m.CloseSession():
                self._moq.close(message.code, message.reason)
            case m.Drain():
                self._drain()
            case SkipsDue():
                self.egress.skips.due()
            case Expired():
                self._moq.expire()
            case Decided() if message.request:
                self._on_token(message)
            case Decided():
                self._on_decided(message.outcome)
            case m.OverLimit():
                self._context.over(message.limit, **message.fields)
            case Overrun():
                self._context.over("inbox", queued=message.waiting)
                self._moq.close(SessionCode.INTERNAL, "too many messages are queued for this session")
                self._handle_events()
                self.end_now()
            case m.CountSession():
                return self._context.counted()
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
        for task in self._authorizing:
            task.cancel()
        if self._expiry is not None:
            self._expiry.cancel()
        context, environment = self._context, self._context.environment
        if context.offered and self._moq.name is None and not (self.session.is_client or self.session.alpn):
            context.incompatible()
        self.ingest.end()
        self.egress.end()
        lost = self._closed is not None and self._closed.code is None
        gone = m.SessionGone(context.number, lost)
        send(environment.origin, gone)
        if environment.counters is not None:
            send(environment.counters, AddCounts(context.counted()))
        context.log_end(self._closed, error)
        context.left(self._closed, error)
        if self._peer is not None:
            reason = "failed" if error else "" if self._closed is None else self._closed.reason
            down = m.PeerDisconnected(context.number, self.actor_ref, reason or "the session ended", lost)
            send(self._peer, down)
        if self._gate is not None:
            send(self._gate, gone)
        self._moq.unlink()

    def on_dead_letter(self, message: object) -> None:
        match message:
            case m.OpenUpstream() | m.DescribeUpstream() | m.FetchUpstream():
                send(message.track, m.UpstreamFailed(StreamCode.INTERNAL, gone=True))
            case m.Accepted():
                send(message.track, m.Unsubscribe(self.actor_ref, message.key))

    # --- events of the session

    def _handle_events(self) -> None:
        """Includes events that our own commands caused."""
        while self._closed is None and self._moq.events:
            open_before = not self._moq.closed
            for event in self._moq.poll():
                if not (self.ingest.on_event(event) or self.egress.on_event(event)):
                    self._on_event(event)
                if open_before and self._moq.closed:
                    break  # we closed the session for this event: drop later ones
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
                self._verify(self._authorize(event.target))
            case moq.TokenOffered():
                self._verify(self._check(event.request, f"jwt={event.token}"))
            case moq.Opened():
                self._on_opened()
            case moq.Established():
                self._on_established()
            case moq.PeerInfo() if event.hop == context.environment.hop:
                context.log.warning("the peer is this relay itself")
                self._moq.close(SessionCode.INTERNAL, "this relay has dialled itself")
            case moq.PeerAlive():
                if not event.alive:
                    context.log.info("no sign of life: another session has announced one of its paths")
                send(context.environment.origin, m.Alive(context.number, event.alive))
            case moq.PeerLeaving():
                context.log.info("peer is going away", uri=event.uri)
                send(context.environment.origin, m.Leaving(context.number))
            case moq.LimitExceeded():
                context.over(event.limit, **event.fields)
            case moq.DialectChosen():
                self._change(event)
            case moq.Incompatible():
                context.incompatible(*event.offered)
            case moq.Fault() if event.fatal:
                context.log.warning("protocol error", reason=event.error)
            case moq.Fault():
                context.log.debug("stream refused", reason=event.error)
            case moq.Closed():
                self._closed = event

    def _on_established(self) -> None:
        self._established = True
        context = self._context
        if self._peer is None and context.permissions.cluster:
            self._peer = context.environment.cluster
            self.session.trust()
        if self._peer is not None:
            hop = 0 if self._moq.peer is None else self._moq.peer.hop or 0
            send(self._peer, m.PeerConnected(context.number, self.actor_ref, hop))
        if self._draining:
            self._moq.requests.goaway()

    def _drain(self) -> None:
        """Ask the peer to leave once the session has begun."""
        asked = self._established and self._moq.features.goaway
        if self._established and not self._draining:
            self._moq.requests.goaway()
        self._draining = True
        if self._gate is not None:
            send(self._gate, m.Draining(self._context.number, asked, self._context.permissions.cluster))

    # --- permissions

    def _verify(self, check: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(check)
        self._authorizing.add(task)
        task.add_done_callback(self._authorizing.discard)

    async def _authorize(self, target: str | None) -> None:
        context, path, query = self._context, self.session.path, self.session.query
        if path is None or target is not None:
            path, _, query = (target or "/").partition("?")
        outcome = await decide(context.environment, self.session, path, query, context.log)
        send(self.actor_ref, Decided(outcome))

    async def _check(self, request: int, query: str) -> None:
        """A token in a request: it is for the path of the session."""
        context = self._context
        path = "/" + context.permissions.root
        outcome = await decide(context.environment, self.session, path, query, context.log)
        send(self.actor_ref, Decided(outcome, request))

    def _on_token(self, decided: Decided) -> None:
        """A good token extends the rights of the session, until it expires."""
        outcome, before = decided.outcome, self._context.permissions
        if isinstance(outcome, Permissions):
            self._permit(before.extended(outcome))
            self._expire_at(outcome.expires)
            self.ingest.announcements.start(before.publish)
            self._moq.authorized(decided.request, granted=True)
        else:
            self._moq.authorized(decided.request, granted=False, expired=outcome.expired)

    def _on_decided(self, outcome: Permissions | Rejection) -> None:
        if isinstance(outcome, Permissions):
            self._permit(outcome)
            self._moq.setup.admit(self._clock())
        elif outcome.expired:
            self._moq.expire(outcome.reason)
        else:
            code = SESSION_CODES.get(outcome.status, FIRST_APP_CODE + outcome.status)
            self._moq.close(code, outcome.reason)

    def _permit(self, permissions: Permissions) -> None:
        context = self._context
        context.permissions = permissions
        self._moq.control.rate = float(context.limit_of("control_rate"))
        self._moq.control.burst = float(context.limit_of("control_burst"))
        self._moq.serving.backlog_limit = context.limit_of("backlog_session")

    def _on_opened(self) -> None:
        session, context, name = self.session, self._context, self._moq.name
        permissions = context.permissions
        context.counts["sessions", f"{session.transport}/{name}"] += 1
        rights = {"publish": shown(permissions.publish), "subscribe": shown(permissions.subscribe)}
        peer = {"transport": session.transport, "remote": session.remote, "version": name}
        context.log.info("accepted", **peer, path="/" + permissions.root, **rights)
        context.joined()
        self._expire_at(permissions.expires)
        self.ingest.announcements.start()

    def _expire_at(self, expires: float | None) -> None:
        ref = self.actor_ref
        if expires is not None:
            if self._expiry is not None:
                self._expiry.cancel()
            expires = min(expires, self._context.permissions.expires or expires)
            self._expiry = self._context.environment.expiries.at(expires, lambda: send(ref, Expired()))

    def describe(self) -> SessionRow:
        session, permissions = self.session, self._context.permissions
        stats, counts = session.stats(), self._context.counts
        return SessionRow(
            session=self._context.number,
            remote=session.remote,
            transport=session.transport,
            version=self._moq.name,
            path=permissions.root,
            since=self._context.since_epoch,
            rtt=stats.rtt,
            bytes_received=stats.bytes_received,
            bytes_sent=stats.bytes_sent,
            streams=stats.streams,
            publish=permissions.publish,
            subscribe=permissions.subscribe,
            publishing=self.ingest.announcements.paths(),
            subscriptions=self.egress.count(),
            upstreams=self.ingest.count(),
            refused={name: number for (kind, name), number in counts.items() if kind == "refused"},
            skipped=self._context.skipped,
            expires=None if self._expiry is None else self._expiry.moment,
            estimate=stats.estimate,
            window=stats.window,
            in_flight=stats.in_flight,
            lost=stats.lost,
        )
