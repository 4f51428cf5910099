"""SETUP in both generations, admission, and events held until then."""

from __future__ import annotations

import re

from relay.moq.core import IGNORE, Handler, State
from relay.moq.ietf_core import IetfCore, SessionFault
from relay.moq.ietf_exchange import MOST_IDS, Exchanges
from relay.moq.session import NEVER, Established, Incompatible, Introduced, LimitExceeded, Opened, PeerLeaving
from relay.moq.setup import Held, Options
from relay.transport.session import Stream
from relay.wire.errors import NoCommonVersion, ProtocolViolation, SessionCode, WireError
from relay.wire.ietf.codes import SessionCode as IetfCode
from relay.wire.ietf.control import MessageDecoder
from relay.wire.ietf.messages import Goaway, Message, Setup
from relay.wire.ietf.values import Token, TokenKind

IMPLEMENTATION = "moq-relay"

TOKEN = re.compile(rb"[A-Za-z0-9._~+/=-]{1,8192}")
"""It becomes part of a query."""

MOST_WAITING = 1_024  # on the control stream until the peer is admitted

WAITING_BYTES = 262_144  # of these messages


class UnknownTokenAlias(SessionFault):
    """A token by an alias."""

    ietf_code = IetfCode.UNKNOWN_TOKEN_ALIAS


class SetupExchange:
    """The set-up of one session."""

    def __init__(self, core: IetfCore, exchanges: Exchanges, *, admitted: bool, options: Options) -> None:
        self.chosen = core.version
        self.deadline = NEVER
        self.held = Held()
        self._core = core
        self._exchanges = exchanges
        self._options = options
        self.admitted = admitted
        self._introduced = False
        self._peer: Setup | None = None
        self._stream: Stream | None = None  # of the older drafts
        self._waiting: list[Message] = []  # until the peer is admitted
        self._waiting_bytes = 0
        self._leaving = False  # the peer has sent GOAWAY

    def start(self) -> None:
        """Send what can be sent."""
        core = self._core
        self.deadline = core.now + core.limits.setup_timeout
        if core.profile.request_streams:
            stream = self._exchanges.control = core.session.open_uni()
            stream.context = IGNORE
            stream.write((core.encoded(self._setup()),))
        elif core.session.is_client:
            stream = self._stream = core.session.open_bidi()
            stream.context = _ControlStream(core, self)
            self._exchanges.control = stream
            stream.write((core.encoded(self._setup()),))
        self._advance()

    def admit(self, now: float) -> None:
        """`Opened` follows."""
        core = self._core
        core.now = now
        if not self.admitted and core.state is not State.CLOSED:
            self.admitted = True
            self.deadline = now + core.limits.setup_timeout
            try:
                self._advance()
            except WireError as error:
                core.fail(error)  # by a message that waited

    def on_time(self, now: float) -> None:
        if now >= self.deadline:
            self.deadline = NEVER
            core = self._core
            core.emit(LimitExceeded("setup_timeout", {"transport": core.session.transport}))
            core.close(SessionCode.CONTROL_TIMEOUT, "no SETUP in time")

    def stop(self) -> None:
        self.deadline = NEVER
        self.held.take()

    def unlink(self) -> None:
        if self._stream is not None:
            self._stream.context = IGNORE

    def handler(self) -> Handler | None:
        """The handler of a client's first bidirectional stream on the older drafts; `None` for others."""
        core = self._core
        if core.profile.request_streams or core.session.is_client or self._stream is not None:
            return None
        return _ControlStream(core, self)

    # --- messages

    def _setup(self) -> Setup:
        core, options = self._core, self._options
        session, profile = core.session, core.profile
        path = authority = None
        if session.is_client and session.transport in ("quic", "memory"):
            authority = options.authority
            path = options.target
            if path is None and (session.path or session.query):
                path = (session.path or "/") + (f"?{session.query}" if session.query else "")
        versions = (profile.setup_code,) if profile.versions_in_setup else ()
        return Setup(
            path=path,
            authority=authority,
            implementation=IMPLEMENTATION,
            tokens=() if options.token is None else (Token(options.token.encode()),),
            max_request_id=None if profile.request_streams else MOST_IDS,
            versions=versions,
            from_server=not session.is_client,
        )

    def on_stream(self, stream: Stream) -> None:
        """The peer's control stream (older drafts)."""
        self._stream = stream
        self._exchanges.control = stream

    def on_peer_setup(self, setup: Setup) -> None:
        core = self._core
        if self._peer is not None:
            raise ProtocolViolation("second SETUP")
        if core.profile.versions_in_setup and core.profile.setup_code not in setup.versions:
            core.emit(Incompatible(tuple(map(hex, setup.versions))))
            raise NoCommonVersion("no common version")
        self._peer = setup
        self._exchanges.grant(setup.max_request_id or 0)
        session = core.session
        if self.admitted and not session.is_client and "jwt=" not in session.query:
            # admitted for what is public: a token may grant more
            self.admitted = token_of(setup.tokens) is None
        self._advance()

    def _target(self) -> str | None:
        """The peer's path and query, with its token."""
        setup, session = self._peer, self._core.session
        token = None if setup is None else token_of(setup.tokens)
        if setup is None or (session.path is not None and token is None):
            return None
        path, _, query = (setup.path or "/").partition("?")
        if session.path is not None:
            path, query = session.path, session.query
        if token is not None and "jwt=" not in query:
            query += ("&" if query else "") + f"jwt={token}"
        return f"{path}?{query}" if query else path

    def _advance(self) -> None:
        """Take every possible step."""
        core = self._core
        if self._peer is None:
            return
        if core.state is State.INTRODUCING:
            if not self.admitted:
                if not self._introduced:
                    self._introduced = True
                    self.deadline = NEVER  # admission does not count against the peer's time
                    core.emit(Introduced(self._target()))
                return
            if not core.session.is_client and self._stream is not None:
                self._stream.write((core.encoded(self._setup()),))
            core.state = State.OPEN
            core.emit(Opened())
        if core.state is State.OPEN:
            core.state = State.ESTABLISHED
            self.deadline = NEVER
            core.emit(Established())
            waiting, self._waiting = self._waiting, []
            for message in waiting:
                self.on_control(message)
            core.receive(self.held.take(), core.now)

    # --- the control stream, once it is set up

    def count_waiting(self, size: int) -> None:
        """Count bytes of the control stream. Raises ProtocolViolation for too many before admission."""
        if self._core.state is not State.ESTABLISHED:
            self._waiting_bytes += size
            if self._waiting_bytes > WAITING_BYTES:
                raise ProtocolViolation("too much before the answer to SETUP")

    def on_control(self, message: Message) -> None:
        """Most messages wait until the set-up is complete. Raises WireError."""
        core = self._core
        if isinstance(message, Setup):
            self.on_peer_setup(message)
        elif self._peer is None:
            raise ProtocolViolation(f"{type(message).__name__} before SETUP")
        elif core.state is not State.ESTABLISHED:
            self._waiting.append(message)
            if len(self._waiting) > MOST_WAITING:
                raise ProtocolViolation("too much before the answer to SETUP")
        elif isinstance(message, Goaway):
            core.spend()
            if self._leaving:
                raise ProtocolViolation("second GOAWAY")
            self._leaving = True
            if message.uri and not core.session.is_client:
                raise ProtocolViolation("a client's GOAWAY with a URI")
            core.emit(PeerLeaving(message.uri))
        elif core.profile.request_streams:
            raise ProtocolViolation(f"{type(message).__name__} on the control stream")
        else:
            self._exchanges.on_control(message)

    def control_ended(self) -> None:
        """The control stream must not end before the session; many peers end it just before."""
        self._core.close(SessionCode.NO_ERROR, "the control stream has ended")


def token_of(tokens: tuple[Token, ...]) -> str | None:
    """The first, as text. Raises UnknownTokenAlias: we keep none, and say so in SETUP."""
    found = None
    for token in tokens:
        if token.kind in (TokenKind.USE_ALIAS, TokenKind.DELETE):
            raise UnknownTokenAlias(f"token alias {token.alias} was not registered")
        if found is None and TOKEN.fullmatch(token.value):
            found = token.value.decode()
    return found


class _ControlStream(Handler):
    """The control stream of the older drafts. Its messages wait until the peer is admitted."""

    def __init__(self, core: IetfCore, setup: SetupExchange) -> None:
        self._core = core
        self._setup = setup
        self._decoder = MessageDecoder(core.profile, core.limits.message)
        self._begun = False

    def on_data(self, stream: Stream, data: bytes, *, fin: bool) -> None:
        if not self._begun:
            self._begun = True
            self._setup.on_stream(stream)
        self._setup.count_waiting(len(data))
        for message in self._decoder.feed(data):
            self._setup.on_control(message)
        if fin:
            self._setup.control_ended()

    def on_reset(self, stream: Stream, code: int) -> None:  # noqa: ARG002
        self._setup.control_ended()

    def on_stopped(self, stream: Stream, code: int) -> None:  # noqa: ARG002
        self._setup.control_ended()
