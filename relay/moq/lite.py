"""A moq-lite session, 01 to 06: the state machine of either end, without I/O.

Owns the life of the session: version and SETUP, the handler of each stream, the close. Must never read a clock (`now`,
in seconds, is a parameter) or decide for its owner, which passes the transport's events to `receive`, takes the
session's events with `poll` after each call, answers with commands, and calls `on_time` at `deadline`.

A server's owner decides on admission: `Introduced` comes once the peer's path is known, and `admit` answers. After
`Opened` requests may be made, after `Established` those of the peer follow.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import cast

from relay.model.limits import Limits
from relay.moq.core import IGNORE, Core, Handler
from relay.moq.encoding import Encoding
from relay.moq.lite_requests import Requests
from relay.moq.lite_serving import IncomingRequest, Serving
from relay.moq.session import (
    NEVER,
    BitrateReported,
    Closed,
    Established,
    Incompatible,
    Introduced,
    LimitExceeded,
    Opened,
    PeerAlive,
    PeerInfo,
)
from relay.transport.session import (
    DatagramReceived,
    Pong,
    Session,
    SessionClosed,
    Stream,
    StreamData,
    StreamReset,
    StreamStopped,
)
from relay.transport.session import Event as TransportEvent
from relay.wire.control import Goaway
from relay.wire.decoder import ServerSetupDecoder, SetupDecoder
from relay.wire.errors import NoCommonVersion, ProtocolViolation, SessionCode, WireError, session_code_for
from relay.wire.frame import FrameHeader, GroupHeader, open_request, setup_stream
from relay.wire.frame_decoder import UniDecoder
from relay.wire.setup import ClientSetup, ServerSetup, Setup, SetupForm
from relay.wire.version import Version, version_from_setup_code

ALIVE_AT_LEAST = 1.0  # seconds that a peer has, at least, to answer a ping

HELD_BYTES = 262_144  # bytes that a peer may send before it is admitted

EVENT_COST = 64
"""Bytes that an event counts, besides its data, while held until admission."""

LATE_ROUND_TRIPS = 6  # a late group is awaited this long: what was lost twice has come by then

LATE_AT_MOST = 10.0  # seconds of the same, at most: a peer can make its round trip look long

MAX_DATAGRAM_HEADER = 24  # bytes of three varints

OLDEST_ALPN = "moql-01"  # of the generation that opens with the first form of SETUP

_PATH_PARAM = 1
_AUTHORITY_PARAM = 5


class State(Enum):
    """Steps of a session's life."""

    NEGOTIATING = "negotiating"  # the version is not known: SETUP of 01 and 02 decides

    INTRODUCING = "introducing"  # awaits the peer's path, or the owner's admission

    OPEN = "open"
    """We may make requests; on 06 the requests of the peer are held until its SETUP."""

    ESTABLISHED = "established"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Options:
    """How a session introduces itself; the defaults are a relay's."""

    role: int | None = None
    cost: int | None = None
    probe: int | None = None
    target: str | None = None
    """Path and query for a transport without a URL, instead of those it was dialled with."""

    authority: str | None = None
    form: SetupForm | None = None
    """Opening of the older SETUP; `None` takes what servers of the peer's generation know."""

    waits_for_setup: bool = True
    """Hold the peer's requests until its hop id is known, where the version has routes to exclude (06)."""


class LiteSession(Core):
    """One session. See the module for how it is driven."""

    def __init__(
        self,
        session: Session,
        *,
        limits: Limits,
        hop: int,
        versions: Iterable[Version],
        admitted: bool = False,
        options: Options | None = None,
    ) -> None:
        """`versions` are those that SETUP may choose. With `admitted` there is no `Introduced`."""
        super().__init__(session, limits, hop)
        self.options = options or Options()
        self.state = State.NEGOTIATING if session.version is None else State.INTRODUCING
        self._has_version = session.version is not None
        self.peer: PeerInfo | None = None  # from the peer's SETUP (05 and newer)
        self.requests = Requests(self)
        self.serving = Serving(self, offers_probe=bool(self.options.probe))
        self._versions = tuple(versions)
        self._offered: tuple[Version, ...] = ()  # named by our SETUP
        self._admitted = admitted
        self._introduced = False
        self._target: str | None = None
        # Reply to SETUP (01, 02), sent once the peer is admitted.
        self._answer: tuple[Stream, ServerSetup] | None = None
        self._setup_stream: Stream | None = None
        self._held: list[TransportEvent] = []
        self._held_streams: set[Stream] = set()
        self._held_bytes = 0
        self._setup_deadline = NEVER
        self._alive_deadline = NEVER
        self._found_dead = False

    # --- the owner's side ------------------------------------------------------------------------------------------

    def start(self, now: float) -> None:
        """Begin. The transport's events follow by `receive`."""
        self.now = now
        self._setup_deadline = now + self.limits.setup_timeout
        if self.state is State.NEGOTIATING:
            if self.session.is_client:
                try:
                    self._send_client_setup()
                except NoCommonVersion as error:
                    self._on_wire_error(error, None)
            return
        self._send_setup()
        self._advance()

    def receive(self, events: Iterable[TransportEvent], now: float) -> None:
        self.now = now
        for event in events:
            self._on_event(event)
        self.requests.flush()

    @property
    def deadline(self) -> float:
        """When `on_time` is due, `inf` for never."""
        return min(self._setup_deadline, self._alive_deadline, self.serving.deadline())

    @property
    def closed(self) -> bool:
        """True once the session is over, even before `Closed` is taken."""
        return self.state is State.CLOSED

    @property
    def name(self) -> str | None:
        return self.version.name_on_wire if self._has_version else None

    @property
    def has_hops(self) -> bool:
        return self.version.has_hops

    @property
    def announces_prefixes(self) -> bool:
        """An announcement is a route with costs that also serves every path below its own."""
        return self.version.has_announce_ids

    @property
    def has_goaway(self) -> bool:
        return self.version.has_goaway

    @property
    def describes_tracks(self) -> bool:
        """True if the peer can be asked for properties and single groups of a track."""
        return self.version.has_timestamps

    @property
    def has_history(self) -> bool:
        """True if a subscription can ask for groups by their age."""
        return self.version.latency_is_history

    @property
    def has_updates(self) -> bool:
        return self.version.has_updates

    @property
    def encoding(self) -> Encoding:
        return Encoding.TIMED if self.version.has_timestamps else Encoding.PLAIN

    @property
    def datagram_limit(self) -> int:
        """Payload of the largest datagram that can be sent for certain, 0 if none can."""
        limit = self.session.datagram_limit - MAX_DATAGRAM_HEADER if self.version.has_timestamps else 0
        return max(0, limit)

    def patience(self, at_least: float) -> float:
        """Seconds to wait for a late group of the peer, `at_least` so many."""
        return max(at_least, min(LATE_ROUND_TRIPS * (self.session.stats().rtt or 0.0), LATE_AT_MOST))

    def on_time(self, now: float) -> None:
        self.now = now
        if now >= self._setup_deadline:
            self._setup_deadline = NEVER
            self.emit(LimitExceeded("setup_timeout", {"transport": self.session.transport}))
            self.close(SessionCode.CONTROL_TIMEOUT, "no SETUP in time")
        if now >= self._alive_deadline:
            self._alive_deadline = NEVER
            self._found_dead = True
            self.emit(PeerAlive(alive=False))
        self.serving.on_time(now)

    def admit(self, now: float) -> None:
        """Admit the peer: its SETUP is answered and requests may be made. `Opened` follows."""
        self.now = now
        if not self._admitted and self.state is not State.CLOSED:
            self._admitted = True
            self._setup_deadline = now + self.limits.setup_timeout
            self._advance()

    def close(self, code: int, reason: str) -> None:
        """End the session with a code of the current session registry."""
        self._close(session_code_for(self.version, code), reason)

    def check_alive(self, now: float) -> None:
        """Ping the peer. `PeerAlive` follows: after a late answer a second time."""
        if self._alive_deadline == NEVER and self.state is not State.CLOSED:
            self.session.ping()
            self._alive_deadline = now + max(self.session.probe_timeout(), ALIVE_AT_LEAST)

    def goaway(self, uri: str = "") -> bool:
        """Ask the peer to leave. Returns False if its version has no message for that."""
        if not self.version.has_goaway:
            return False
        opening = open_request(self.version, Goaway(uri))
        stream = self.session.open_bidi()
        stream.context = IGNORE
        stream.write((opening,), fin=True)
        return True

    # --- events of the transport -----------------------------------------------------------------------------------

    def _on_event(self, event: TransportEvent) -> None:  # noqa: C901, PLR0912 - one branch per kind of event
        if self.state is State.CLOSED:
            return
        stream: Stream | None = None
        try:
            if isinstance(event, StreamData):
                stream = event.stream
                handler = stream.context
                if handler is None:
                    handler = self._handler(event)
                    if handler is None:
                        return
                    stream.context = handler
                handler.on_data(stream, event.data, fin=event.fin)
            elif isinstance(event, StreamReset):
                stream = event.stream
                if stream.context is not None:
                    stream.context.on_reset(stream, event.code)
                elif self.state is not State.ESTABLISHED:
                    self._hold(event, 0)
            elif isinstance(event, StreamStopped):
                stream = event.stream
                if stream.context is not None:
                    stream.context.on_stopped(stream, event.code)
                elif self.state is not State.ESTABLISHED:
                    self._hold(event, 0)
            elif isinstance(event, DatagramReceived):
                if self.state is State.ESTABLISHED:
                    self.requests.on_datagram(event.data)
            elif isinstance(event, Pong):
                if self._alive_deadline != NEVER or self._found_dead:
                    self._alive_deadline = NEVER
                    self._found_dead = False
                    self.emit(PeerAlive(alive=True))
            elif isinstance(event, SessionClosed):
                self._end(event)
        except WireError as error:
            self._on_wire_error(error, stream)

    def _on_wire_error(self, error: WireError, stream: Stream | None) -> None:
        """The peer broke a rule: refuse the stream if that is enough, else the session."""
        if error.stream_only and stream is not None:
            handler = stream.context
            self.refuse_for(stream, error)
            if handler is not None:
                handler.on_fault(error)
            return
        self.note(error, fatal=True)
        self._close(error.close_code(self.version), str(error))

    def _close(self, code: int, reason: str) -> None:
        if self.state is not State.CLOSED:
            self.session.close(code, reason)
            self._end(SessionClosed(code, reason, by_peer=False))

    def _end(self, event: SessionClosed) -> None:
        self.requests.flush()
        self.state = State.CLOSED
        self._setup_deadline = self._alive_deadline = NEVER
        self._held.clear()
        self._held_streams.clear()
        self.serving.stop()
        self.emit(Closed(event.code, event.reason, event.by_peer))

    def _handler(self, event: StreamData) -> Handler | None:
        """The handler of a stream that the peer has just opened; `None` while its events are held."""
        stream = event.stream
        if self.state is State.NEGOTIATING:
            if not self.session.is_client and not stream.unidirectional and self._setup_stream is None:
                self._setup_stream = stream
                return _SetupStream(self, SetupDecoder())
        elif stream.unidirectional and stream not in self._held_streams:
            return _UniStream(self)
        elif self.state is State.ESTABLISHED:
            self.spend()
            return IncomingRequest(self, self.serving)
        self._hold(event, len(event.data))
        return None

    def _hold(self, event: TransportEvent, size: int) -> None:
        self._held.append(event)
        if isinstance(event, StreamData):
            self._held_streams.add(event.stream)
        self._held_bytes += size + EVENT_COST
        if self._held_bytes > HELD_BYTES:
            raise ProtocolViolation("too much before SETUP")

    # --- set-up ----------------------------------------------------------------------------------------------------

    def _own_target(self) -> str | None:
        """Path and query for SETUP: those of a client whose transport has no URL."""
        session = self.session
        if not session.is_client or session.transport not in ("quic", "memory"):
            return None
        if self.options.target is not None or session.transport == "memory":
            return self.options.target
        if not session.path and not session.query:
            return None
        return (session.path or "/") + (f"?{session.query}" if session.query else "")

    def _send_setup(self) -> None:
        if not self.version.has_setup_stream:
            return
        options = self.options
        stream = self.session.open_uni()
        stream.context = IGNORE
        setup = Setup(options.probe, self._own_target(), options.role, options.cost, self.hop)
        stream.write((setup_stream(self.version, setup),), fin=True)

    def on_peer_setup(self, setup: Setup) -> None:
        if self.peer is not None:
            raise ProtocolViolation("second SETUP")
        self.peer = PeerInfo(setup.origin, setup.cost, setup.role, setup.probe)
        self._target = setup.path
        self.emit(self.peer)
        self._advance()

    def _send_client_setup(self) -> None:
        offered = self._setup_versions()
        if not offered:
            raise NoCommonVersion("the transport left the version to SETUP, which offers only 01 and 02")
        form = self.options.form
        if form is None:
            # Servers of the first generation choose no subprotocol, and know the first form alone.
            first = self.session.alpn in ("", OLDEST_ALPN) and Version.LITE_01 in self._versions
            form = SetupForm.SESSION if first else SetupForm.DRAFT14
        if form is SetupForm.SESSION and self.options.form is None:
            offered = (Version.LITE_01,)
        params: dict[int, int | bytes] = {}
        target = self._own_target()
        if form is SetupForm.DRAFT14 and target is not None:
            params[_PATH_PARAM] = target.encode()
            if self.options.authority is not None:
                params[_AUTHORITY_PARAM] = self.options.authority.encode()
        stream = self._setup_stream = self.session.open_bidi()
        self._offered = offered
        stream.context = _SetupStream(self, ServerSetupDecoder(form))
        stream.write((ClientSetup(form, tuple(v.setup_code for v in offered), params).encode(),))

    def _setup_versions(self) -> tuple[Version, ...]:
        if self.session.alpn == OLDEST_ALPN:
            return (Version.LITE_01,)
        return tuple(sorted((v for v in self._versions if v.has_setup_exchange), reverse=True))

    def on_client_setup(self, stream: Stream, setup: ClientSetup) -> None:
        """01 and 02, server side: choose the first of the client's versions that we speak."""
        spoken = self._setup_versions()
        offered = (version_from_setup_code(code) for code in setup.versions)
        chosen = next((version for version in offered if version in spoken), None)
        if chosen is None:
            self.emit(Incompatible(tuple(map(hex, setup.versions))))
            raise NoCommonVersion("no common version")
        self._target = setup.path
        self._answer = stream, ServerSetup(setup.form, chosen.setup_code)
        self._negotiated(chosen)

    def on_server_setup(self, setup: ServerSetup) -> None:
        """01 and 02, client side: the server chose."""
        chosen = version_from_setup_code(setup.version)
        if chosen not in self._offered:
            raise NoCommonVersion(f"the server chose version {setup.version:#x}, which was not offered")
        assert chosen is not None
        self._negotiated(chosen)

    def _negotiated(self, version: Version) -> None:
        self.version = version
        self._has_version = True
        self.state = State.INTRODUCING
        self._advance()

    def _advance(self) -> None:
        """Take every step of the set-up that is possible now."""
        if self.state is State.INTRODUCING:
            if not self._admitted:
                if self.version.has_setup_stream and self.session.path is None and self.peer is None:
                    return  # raw QUIC: path and token come with the peer's SETUP
                if not self._introduced:
                    self._introduced = True
                    self._setup_deadline = NEVER  # the peer does not answer for the time that admission takes
                    self.emit(Introduced(self._target))
                return
            if self._answer is not None:
                stream, setup = self._answer
                self._answer = None
                stream.write((setup.encode(),))
            self.state = State.OPEN
            self.emit(Opened())
        if self.state is State.OPEN:
            if self.options.waits_for_setup and self.version.needs_peer_setup and self.peer is None:
                return
            self.state = State.ESTABLISHED
            self._setup_deadline = NEVER
            self.emit(Established())
            held, self._held = self._held, []
            self._held_streams.clear()
            for event in held:
                self._on_event(event)


class _SetupStream(Handler):
    """The setup stream of 01 and 02; its end is the end of the session."""

    def __init__(self, session: LiteSession, decoder: SetupDecoder | ServerSetupDecoder) -> None:
        self._session = session
        self._decoder = decoder

    def on_data(self, stream: Stream, data: bytes, *, fin: bool) -> None:
        session = self._session
        for message in self._decoder.feed(data):
            if isinstance(message, ClientSetup):
                session.on_client_setup(stream, message)
            elif isinstance(message, ServerSetup):
                session.on_server_setup(message)
            else:
                session.spend()
                session.emit(BitrateReported(message.bitrate))
        if fin:
            session.close(SessionCode.NO_ERROR, "setup stream ended")

    def on_reset(self, stream: Stream, code: int) -> None:  # noqa: ARG002
        self._session.close(SessionCode.NO_ERROR, "setup stream reset")


class _UniStream(Handler):
    """A unidirectional stream of the peer until its first message: a group, or SETUP."""

    def __init__(self, session: LiteSession) -> None:
        self._session = session
        self._decoder = UniDecoder(session.version, session.limits.frame, session.limits.message)

    def on_data(self, stream: Stream, data: bytes, *, fin: bool) -> None:
        self._decoder.arrival = self._session.now
        items = list(self._decoder.feed(data))
        header = items.pop(0) if items else None
        if isinstance(header, GroupHeader):
            frames = self._decoder.frames
            assert frames is not None
            group = self._session.requests.begin_group(stream, header, frames)
            if group is not None:
                group.add(cast("list[FrameHeader | bytes]", items), fin=fin)
            return
        if fin:
            self._decoder.end()
        if isinstance(header, Setup):
            self._session.on_peer_setup(header)
