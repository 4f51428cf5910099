"""The connection actor: one session, from its first byte to its last.

Owns the session's life: version and SETUP, authorisation where the path comes in-band, dispatch of stream events,
keeping count, the log lines of accept and close. What the peer publishes is `ingest.py`, what it consumes is
`egress.py`; both are parts of this actor, not actors.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, NamedTuple, Protocol

from relay.actors import messages as m
from relay.actors.egress import Egress
from relay.actors.expiry import Expiries, Expiry
from relay.actors.ingest import Ingest
from relay.actors.ledger import Counts, Settle
from relay.actors.runtime import LoopActor, Overrun, Ref, Timer, send
from relay.auth.permissions import Permissions, UnauthorizedError, loggable
from relay.model.limits import Limits
from relay.model.pace import Allowance, Episodes
from relay.model.strangers import Strangers
from relay.transport.session import (
    DatagramReceived,
    Event,
    Pong,
    Session,
    SessionClosed,
    Stream,
    StreamData,
    StreamReset,
    StreamStopped,
)
from relay.wire.decoder import ServerSetupDecoder, SetupDecoder
from relay.wire.errors import (
    FIRST_APP_CODE,
    SessionCode,
    StreamCode,
    TooManyMessages,
    WireError,
    session_code_for,
    stream_code_for,
)
from relay.wire.frame import open_request, setup_stream
from relay.wire.messages import ClientSetup, Goaway, ServerSetup, SessionInfo, Setup, SetupForm
from relay.wire.version import Version, version_from_setup_code

ALIVE_AT_LEAST = 1.0
"""Seconds that a publisher gets, at least, to answer when another session announces its path."""

RELAY_FACTOR = 20
"""How much more than any other session one with a relay of the cluster may have of what is in `PER_PEER`."""

PER_PEER = frozenset(("announces", "subscriptions", "control_rate", "control_burst", "backlog_session"))
"""Limits of what a relay does for each of its own peers."""

HELD_BYTES = 262_144
"""What a peer may send before its SETUP has been answered."""


def code_name(code: int) -> str:
    """A stream code in words, for people and metrics."""
    try:
        return StreamCode(code).name.lower()
    except ValueError:
        return "application"


class SetupTimedOut(NamedTuple):
    """Timer: the peer has not introduced itself."""


class AliveTimedOut(NamedTuple):
    """Timer: the peer has not answered our ping."""


class Expired(NamedTuple):
    """The token of this session has run out."""


class Authorized(NamedTuple):
    """What the peer may do is known."""

    permissions: Permissions


class NotAuthorized(NamedTuple):
    """The peer may do nothing. Why has been logged; it is told `reason`."""

    code: int
    reason: str


class Handler(Protocol):
    """What is attached to a stream: receives its events. May raise WireError, about the stream or the session."""

    def on_data(self, stream: Stream, data: bytes, *, fin: bool) -> None:
        """The next bytes, in order."""

    def on_reset(self, stream: Stream, code: int) -> None:
        """The peer aborted its half."""

    def on_stopped(self, stream: Stream, code: int) -> None:
        """The peer wants no more of our half."""


class Ignore:
    """For streams of which nothing more is wanted."""

    def on_data(self, stream: Stream, data: bytes, *, fin: bool) -> None:
        """Drop it."""

    def on_reset(self, stream: Stream, code: int) -> None:
        """Nothing to undo."""

    def on_stopped(self, stream: Stream, code: int) -> None:
        """Nothing to undo."""


IGNORE = Ignore()


class SessionLogger(logging.LoggerAdapter[logging.Logger]):
    """Puts the session's number in front of every line."""

    def __init__(self, number: int) -> None:
        super().__init__(logging.getLogger("relay.session"))
        self._prefix = f"[session {number}] "

    def process(self, msg: str, kwargs: MutableMapping[str, Any]) -> tuple[str, MutableMapping[str, Any]]:
        return self._prefix + msg, kwargs


@dataclass(frozen=True, slots=True)
class Environment:
    """What all connections of a relay share."""

    origin: Ref
    hop: int
    """This relay's id in hop lists."""
    limits: Limits
    versions: tuple[Version, ...]
    authorize: Callable[[str, str, str], Awaitable[Permissions]]
    """Path, query and remote address to permissions; raises UnauthorizedError."""
    ledger: Ref | None = None
    """Gets the counts of what has ended."""
    keeper: Ref | None = None
    """Hears how much the tracks hold."""
    cluster: Ref | None = None
    """Hears of sessions that other relays have dialled."""
    members: str = "internal/origins"
    """Path under which the relays of a cluster announce themselves."""
    strangers: Strangers | None = None
    """Told of peers that no version is common with."""
    expiries: Expiries = field(default_factory=Expiries)
    """Tells when a token has run out."""


class ConnectionActor(LoopActor):
    """One session with one peer."""

    def __init__(
        self,
        *,
        session: Session,
        number: int,
        environment: Environment,
        permissions: Permissions | None = None,
        on_gone: Callable[[int], object] | None = None,
        link: Ref | None = None,
        offered: tuple[str, ...] = (),
    ) -> None:
        """`permissions` are given where the peer's URL was known before it was accepted.

        `link` hears of the beginning and the end of a session with another relay. `offered` are the protocols that the
        peer named before the session.
        """
        super().__init__()
        self._on_gone = on_gone
        self._link = link
        self._offered = offered
        self.session = session
        self.number = number
        self.environment = environment
        self.log = SessionLogger(number)
        self.version = session.version or Version.LITE_01
        self.counts: Counter[tuple[str, str]] = Counter()
        """For the metrics, by name and label."""
        self._episodes = Episodes()
        self._control = Allowance()
        self.inbox.bound(environment.limits.inbox)
        self.peer_setup: Setup | None = None
        self.permissions = permissions or Permissions()
        self._authorized = permissions is not None
        self._negotiated = session.version is not None
        self._established = False
        self._draining = False
        self._announced = False
        self._authorizing: asyncio.Task[None] | None = None
        self._in_band: str | None = None
        """Path and query that came with SETUP."""
        self._answer: tuple[Stream, ServerSetup] | None = None
        """What 01 and 02 hear once the peer is authorised."""
        self._setup_stream: Stream | None = None
        self._held: list[Event] = []
        self._held_bytes = 0
        self._setup_timer: Timer | None = None
        self._alive_timer: Timer | None = None
        self._expiry: Expiry | None = None
        self._found_dead = False
        self._closed: SessionClosed | None = None
        self._since = time.monotonic()
        self._since_epoch = time.time()
        self.ingest = Ingest(self)
        self.egress = Egress(self)

    def __str__(self) -> str:
        return f"session {self.number}"

    # --- life ------------------------------------------------------------------------------------------------------

    def on_start(self) -> None:
        ref = self.actor_ref
        self.session.start(lambda events: _deliver(ref, events))
        self._setup_timer = self.call_later(self.environment.limits.setup_timeout, SetupTimedOut())
        if not self._negotiated:
            if self.session.is_client:
                self._send_client_setup()
            return
        if self.version >= Version.LITE_05:
            self._send_setup()
        self._advance()

    def on_receive(self, message: object) -> object:  # noqa: C901, PLR0912 - one line per message
        match message:
            case m.SessionEvents():
                for event in message.events:
                    self._on_event(event)
            case m.Deliver():
                self.egress.deliver(message)
            case m.CheckAlive():
                self._check_alive()
            case m.CloseSession():
                self.close(message.code, message.reason)
            case m.Drain():
                return self._drain()
            case SetupTimedOut():
                self._setup_timer = None
                self.over("setup_timeout", f"transport={self.session.transport}")
                self.close(SessionCode.CONTROL_TIMEOUT, "no SETUP in time")
            case AliveTimedOut():
                self._alive_timer = None
                self._found_dead = True
                self.log.info("no sign of life: another session has announced one of its paths")
                send(self.environment.origin, m.Alive(self.number, alive=False))
            case Expired():
                self.close(SessionCode.UNAUTHORIZED, "token expired")
            case Authorized():
                self._on_authorized(message.permissions)
            case NotAuthorized():
                self.close(message.code, message.reason)
            case m.OverLimit():
                self.over(message.limit, message.what)
            case Overrun():
                self.over("inbox", f"waiting={message.waiting}")
                self.close(SessionCode.INTERNAL, "too much waits for this session")
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
        if self.ingest.fresh:
            self.ingest.flush()
        if self._closed is not None:
            self.stop()

    def on_end(self, error: BaseException | None) -> None:
        if self._closed is None:
            code, reason = (SessionCode.INTERNAL, "internal error") if error else (SessionCode.NO_ERROR, "")
            self.session.close(session_code_for(self.version, code), reason)
        if self._authorizing is not None:
            self._authorizing.cancel()
        if self._expiry is not None:
            self._expiry.cancel()
        if self._offered and not self._negotiated and not self.session.is_client and not self.session.alpn:
            self._no_common_version(())
        self.ingest.end()
        self.egress.end()
        lost = self._closed is not None and self._closed.code is None
        send(self.environment.origin, m.SessionGone(self.number, lost))
        if self.environment.ledger is not None:
            send(self.environment.ledger, Settle(self._counted()))
        self._log_end(error)
        if self._link is not None:
            reason = "failed" if error else "" if self._closed is None else self._closed.reason
            send(self._link, m.LinkDown(self.number, self.actor_ref, reason or "the session ended", lost))
        if self._on_gone is not None:
            self._on_gone(self.number)

    def on_dead_letter(self, message: object) -> None:
        match message:
            case m.OpenUpstream() | m.DescribeUpstream() | m.FetchUpstream():
                send(message.track, m.UpstreamFailed(StreamCode.INTERNAL, gone=True))
            case m.Accepted():
                send(message.track, m.Leave(self.actor_ref, message.key))

    def close(self, code: int, reason: str) -> None:
        """End the session with a code of the current session registry."""
        if self._closed is None:
            self._closed = SessionClosed(code, reason, by_peer=False)
            self.session.close(session_code_for(self.version, code), reason)
            self.stop()

    def _log_end(self, error: BaseException | None) -> None:
        lasted = f"{time.monotonic() - self._since:.1f}s"
        if error is not None:
            self.log.error("closed by=relay reason=%r after=%s", f"failed: {error!r}", lasted)
        elif self._closed is None:
            self.log.info("closed by=relay after=%s", lasted)
        else:
            by = "peer" if self._closed.by_peer else "relay"
            code = "-" if self._closed.code is None else self._closed.code
            self.log.info("closed by=%s code=%s reason=%r after=%s", by, code, self._closed.reason, lasted)

    # --- events ----------------------------------------------------------------------------------------------------

    def _on_event(self, event: Event) -> None:
        if self._closed is not None:
            return
        try:
            match event:
                case StreamData():
                    self._on_data(event)
                case StreamReset() | StreamStopped():
                    self._on_abort(event)
                case DatagramReceived():
                    if self._established:
                        self.ingest.on_datagram(event.data)
                case Pong():
                    self._on_pong()
                case SessionClosed():
                    self._closed = event
        except WireError as error:
            self._on_wire_error(error, getattr(event, "stream", None))

    def _on_data(self, event: StreamData) -> None:
        stream = event.stream
        handler = stream.context
        if handler is None:
            handler = self._admit(event)
            if handler is None:
                return
            stream.context = handler
        handler.on_data(stream, event.data, fin=event.fin)

    def _on_abort(self, event: StreamReset | StreamStopped) -> None:
        handler = event.stream.context
        if handler is None:
            if not self._established:
                self._hold(event, 0)
            return
        if isinstance(event, StreamReset):
            handler.on_reset(event.stream, event.code)
        else:
            handler.on_stopped(event.stream, event.code)

    def _admit(self, event: StreamData) -> Handler | None:
        """The handler of a stream that the peer has just opened; `None` while it has to wait."""
        if not self._negotiated and not self.session.is_client and not event.stream.unidirectional:
            if self._setup_stream is None:
                self._setup_stream = event.stream
                return ServerSide01(self)
        elif self._negotiated and event.stream.unidirectional:
            return self.ingest.uni_handler()
        elif self._established:
            self.spend()
            return self.egress.request_handler()
        self._hold(event, len(event.data))
        return None

    def _hold(self, event: Event, size: int) -> None:
        self._held.append(event)
        self._held_bytes += size + 64
        if self._held_bytes > HELD_BYTES:
            self.close(SessionCode.PROTOCOL_VIOLATION, "too much before SETUP")

    def _on_wire_error(self, error: WireError, stream: Stream | None) -> None:
        """The peer broke a rule: refuse the stream if that is enough, else the session."""
        self.over_by(error)
        if error.stream_only and stream is not None:
            self.log.debug("stream refused stream=%s reason=%r", stream.id, str(error))
            self.refuse(stream, error.stream_code)
            return
        self.log.warning("protocol error reason=%r", str(error))
        self._closed = SessionClosed(error.session_code, str(error), by_peer=False)
        self.session.close(error.close_code(self.version), str(error))
        self.stop()

    def limit_of(self, name: str) -> int:
        """That limit for this session: another relay stands for all of its own peers."""
        limit: int = getattr(self.environment.limits, name)
        return limit * RELAY_FACTOR if self.permissions.cluster and name in PER_PEER else limit

    def over(self, limit: str, what: str) -> None:
        """Something was turned away because of a limit: count it, and say so once in an episode."""
        self.counts["refused", limit] += 1
        if self._episodes.begins(limit, time.monotonic()):
            self.log.warning("over limit limit=%s value=%s %s", limit, self.limit_of(limit), what)

    def over_by(self, error: WireError) -> None:
        """The same, where it was the limit of a decoder."""
        if error.limit:
            self.over(error.limit, f"reason={str(error)!r}")

    def spend(self) -> None:
        """The peer sent a control message, or opened a stream for one. Raises TooManyMessages."""
        rate, burst = self.limit_of("control_rate"), self.limit_of("control_burst")
        if not self._control.spend(asyncio.get_running_loop().time(), rate=rate, burst=burst):
            raise TooManyMessages(f"more than {rate} control messages a second, after {burst} at once")

    def refuse(self, stream: Stream, code: int) -> None:
        """End both halves of a stream with a code of the current stream registry."""
        wire = stream_code_for(self.version, code)
        self.counts["streams_reset", code_name(code)] += 1
        stream.context = IGNORE
        if stream.opened_by_peer or not stream.unidirectional:
            stream.stop(wire)
        if not stream.opened_by_peer or not stream.unidirectional:
            stream.reset(wire)

    # --- setup -----------------------------------------------------------------------------------------------------

    def _send_setup(self) -> None:
        path = None
        if self.session.is_client and self.session.transport == "quic":
            path = (self.session.path or "/") + (f"?{self.session.query}" if self.session.query else "")
        stream = self.session.open_uni()
        stream.context = IGNORE
        setup = Setup(origin=self.environment.hop, path=path)
        stream.write((setup_stream(self.version, setup),), fin=True)

    def on_peer_setup(self, setup: Setup) -> None:
        """05 and 06: the peer introduced itself."""
        if self.peer_setup is not None:
            self.close(SessionCode.PROTOCOL_VIOLATION, "second SETUP")
            return
        self.peer_setup = setup
        if setup.origin == self.environment.hop:
            # its announcements are ours: nothing but circles would come of it
            self.log.warning("the peer is this relay itself")
            self.close(SessionCode.INTERNAL, "this relay has dialled itself")
            return
        self._in_band = setup.path
        self._advance()

    def _send_client_setup(self) -> None:
        # servers of the first generation choose no subprotocol, and know the first form alone
        first = self.session.alpn in ("", "moql-01") and Version.LITE_01 in self.environment.versions
        form = SetupForm.SESSION if first else SetupForm.DRAFT14
        offered = sorted((v for v in self.environment.versions if v <= Version.LITE_02), reverse=True)
        if form is SetupForm.SESSION:
            offered = [Version.LITE_01]
        params: dict[int, int | bytes] = {}
        if self.session.transport == "quic" and form is SetupForm.DRAFT14:
            params[1] = (
                (self.session.path or "/") + (f"?{self.session.query}" if self.session.query else "")
            ).encode()
        stream = self._setup_stream = self.session.open_bidi()
        stream.context = ClientSide01(self, form)
        stream.write((ClientSetup(form, tuple(v.setup_code for v in offered), params).encode(),))

    def on_client_setup(self, stream: Stream, setup: ClientSetup) -> None:
        """01 and 02, server side: choose the first of the client's versions that we speak."""
        spoken = [v for code in setup.versions if (v := version_from_setup_code(code)) is not None]
        chosen = next((v for v in spoken if v <= Version.LITE_02 and v in self.environment.versions), None)
        if chosen is None:
            self._no_common_version([hex(code) for code in setup.versions])
            self.close(SessionCode.VERSION_NEGOTIATION, "no common version")
            return
        self.version = chosen
        self._negotiated = True
        self._in_band = setup.path
        self._answer = stream, ServerSetup(setup.form, chosen.setup_code)
        self._advance()

    def _no_common_version(self, offered: Sequence[str]) -> None:
        """Name the peer in the log: by what it offered before the session, or else by `offered`."""
        if self.environment.strangers is not None:
            self.environment.strangers.met(
                self.session.remote, self.session.transport, [*self._offered, *offered]
            )

    def on_server_setup(self, setup: ServerSetup) -> None:
        """01 and 02, client side: the server chose."""
        chosen = version_from_setup_code(setup.version)
        if chosen is None or chosen > Version.LITE_02 or chosen not in self.environment.versions:
            self.close(SessionCode.VERSION_NEGOTIATION, "the server chose a version that was not offered")
            return
        self.version = chosen
        self._negotiated = True
        self._advance()

    async def _authorize(self) -> None:
        """Find out what the peer may do: by the session's URL; where it has none, by path and query given in SETUP."""
        path, query = self.session.path, self.session.query
        if path is None:
            path, _, query = (self._in_band or "/").partition("?")
        outcome: Authorized | NotAuthorized
        try:
            outcome = Authorized(await self.environment.authorize(path, query, self.session.remote))
        except UnauthorizedError as error:
            denied = error.status == HTTPStatus.UNAUTHORIZED
            code = SessionCode.UNAUTHORIZED if denied else FIRST_APP_CODE + error.status
            outcome = NotAuthorized(code, error.told)
            self.log.info(
                "refused transport=%s remote=%s path=%s reason=%r",
                self.session.transport,
                self.session.remote,
                loggable(path),
                str(error),
            )
        except Exception:  # the boundary of a task: the peer must not be left waiting
            self.log.exception("authorisation failed")
            outcome = NotAuthorized(SessionCode.INTERNAL, "internal error")
        send(self.actor_ref, outcome)

    def _on_authorized(self, permissions: Permissions) -> None:
        self.permissions = permissions
        self._authorized = True
        self._setup_timer = self.call_later(self.environment.limits.setup_timeout, SetupTimedOut())
        self._advance()

    def _advance(self) -> None:
        """Take every step that is due by now."""
        if self._closed is not None or not self._negotiated:
            return
        if not self._authorized:
            if self.version >= Version.LITE_05 and self.session.path is None and self.peer_setup is None:
                return  # raw QUIC: path and token come with the peer's SETUP
            if self._authorizing is None:
                self._cancel_setup_timer()  # what follows takes as long as it takes us, not the peer
                self._authorizing = asyncio.get_running_loop().create_task(self._authorize())
            return
        if self._answer is not None:
            stream, setup = self._answer
            self._answer = None
            stream.write((setup.encode(),))
        if not self._announced:
            self._announced = True
            self._log_accept()
            self.ingest.start()
        if self._established or (self.version >= Version.LITE_06 and self.peer_setup is None):
            return  # 06: what we may offer depends on the hop id in the peer's SETUP
        self._established = True
        self._report_link()
        if self._draining:
            self._send_goaway()
        self._cancel_setup_timer()
        held, self._held = self._held, []
        for event in held:
            self._on_event(event)

    def _cancel_setup_timer(self) -> None:
        if self._setup_timer is not None:
            self._setup_timer.cancel()
            self._setup_timer = None

    def _drain(self) -> m.Draining:
        """Ask the peer to leave, now or as soon as the session has begun."""
        if not self._draining:
            self._draining = True
            if self._established:
                self._send_goaway()
        told = self._established and self.version >= Version.LITE_04
        return m.Draining(told, self.permissions.cluster)

    def _send_goaway(self) -> None:
        if self.version >= Version.LITE_04:
            stream = self.session.open_bidi()
            stream.context = IGNORE
            stream.write((open_request(self.version, Goaway()),), fin=True)

    def _report_link(self) -> None:
        """A session with another relay of the cluster has begun."""
        if self._link is None and self.permissions.cluster:
            self._link = self.environment.cluster
            self.session.trust()
        if self._link is not None:
            setup = self.peer_setup
            hop = 0 if setup is None or setup.origin is None else setup.origin
            send(self._link, m.LinkUp(self.number, self.actor_ref, hop))

    def _log_accept(self) -> None:
        permissions = self.permissions
        self.counts["sessions", f"{self.session.transport}/{self.version.name_on_wire}"] += 1
        self.log.info(
            "accepted transport=%s remote=%s version=%s path=/%s %s",
            self.session.transport,
            self.session.remote,
            self.version.name_on_wire,
            permissions.root,
            permissions,
        )
        self._watch_expiry()

    def _watch_expiry(self) -> None:
        """End the session with its token."""
        expires, ref = self.permissions.expires, self.actor_ref
        if expires is not None:
            self._expiry = self.environment.expiries.at(expires, lambda: send(ref, Expired()))

    # --- sign of life ----------------------------------------------------------------------------------------------

    def _check_alive(self) -> None:
        if self._alive_timer is None:
            self.session.ping()
            wait = max(self.session.probe_timeout(), ALIVE_AT_LEAST)
            self._alive_timer = self.call_later(wait, AliveTimedOut())

    def _on_pong(self) -> None:
        if self._alive_timer is not None:
            self._alive_timer.cancel()
            self._alive_timer = None
        elif not self._found_dead:
            return
        self._found_dead = False  # it was stalled
        send(self.environment.origin, m.Alive(self.number, alive=True))

    def _counted(self) -> Counts:
        stats = self.session.stats()
        return {
            **self.counts,
            ("bytes_received", self.session.transport): stats.bytes_received,
            ("bytes_sent", self.session.transport): stats.bytes_sent,
        }

    def describe(self) -> dict[str, Any]:
        """The row of this session in the debug API. `since` is in seconds since the epoch, `rtt` in seconds."""
        stats = self.session.stats()
        return {
            "session": self.number,
            "remote": self.session.remote,
            "transport": self.session.transport,
            "version": self.version.name_on_wire if self._negotiated else None,
            "path": self.permissions.root,
            "since": self._since_epoch,
            "rtt": stats.rtt,
            "bytes_received": stats.bytes_received,
            "bytes_sent": stats.bytes_sent,
            "streams": stats.streams,
            "publish": list(self.permissions.publish),
            "subscribe": list(self.permissions.subscribe),
            "publishing": self.ingest.paths(),
            "subscriptions": self.egress.count(),
            "upstreams": self.ingest.count(),
            "refused": {name: number for (kind, name), number in self.counts.items() if kind == "refused"},
        }


class ServerSide01(Ignore):
    """The setup stream of 01 and 02 seen from the server; its end is the end of the session."""

    def __init__(self, connection: ConnectionActor) -> None:
        self._connection = connection
        self._decoder = SetupDecoder()

    def on_data(self, stream: Stream, data: bytes, *, fin: bool) -> None:
        for message in self._decoder.feed(data):
            if isinstance(message, ClientSetup):
                self._connection.on_client_setup(stream, message)
            else:
                self._connection.spend()
        if fin:
            self._connection.close(SessionCode.NO_ERROR, "setup stream ended")

    def on_reset(self, stream: Stream, code: int) -> None:  # noqa: ARG002
        self._connection.close(SessionCode.NO_ERROR, "setup stream reset")


class ClientSide01(ServerSide01):
    """The same stream seen from the client."""

    def __init__(self, connection: ConnectionActor, form: SetupForm) -> None:
        self._connection = connection
        self._reply = ServerSetupDecoder(form)

    def on_data(self, stream: Stream, data: bytes, *, fin: bool) -> None:  # noqa: ARG002
        for message in self._reply.feed(data):
            if isinstance(message, SessionInfo):
                self._connection.spend()
            else:
                self._connection.on_server_setup(message)
        if fin:
            self._connection.close(SessionCode.NO_ERROR, "setup stream ended")


def _deliver(ref: Ref, events: tuple[Event, ...]) -> None:
    send(ref, m.SessionEvents(events))


__all__ = ["IGNORE", "ConnectionActor", "Environment", "Handler"]
