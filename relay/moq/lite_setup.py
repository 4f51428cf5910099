"""Version, SETUP in both generations, admission, and events held until then."""

from __future__ import annotations

from collections.abc import Iterable

from relay.moq.core import IGNORE, Handler, State
from relay.moq.lite_core import LiteCore
from relay.moq.session import (
    NEVER,
    BitrateReported,
    DialectChosen,
    Established,
    Incompatible,
    Introduced,
    LimitExceeded,
    Opened,
    PeerInfo,
)
from relay.moq.setup import Held, Options
from relay.transport.session import Event as TransportEvent
from relay.transport.session import Stream, StreamData
from relay.wire.decoder import ServerSetupDecoder, SetupDecoder
from relay.wire.errors import NoCommonVersion, ProtocolViolation, SessionCode
from relay.wire.frame import setup_stream
from relay.wire.setup import ClientSetup, ServerSetup, Setup, SetupForm
from relay.wire.version import Draft, Version, version_from_setup_code

OLDEST_ALPN = "moql-01"  # of the generation that opens with the first form of SETUP

_PATH_PARAM = 1
_AUTHORITY_PARAM = 5


class SetupExchange:
    """`versions`: those that SETUP may choose."""

    def __init__(
        self,
        core: LiteCore,
        versions: Iterable[Version],
        drafts: Iterable[Draft],
        *,
        admitted: bool,
        options: Options,
    ) -> None:
        self.chosen = core.session.version  # `None` until SETUP decides
        self.deadline = NEVER
        self.held = Held()
        self._core = core
        self._options = options
        self._versions = tuple(versions)
        self._drafts = {draft.setup_code: draft for draft in drafts if draft.has_setup_exchange}
        self._offered: tuple[Version, ...] = ()  # named by our SETUP
        self.admitted = admitted
        self._introduced = False
        self._target: str | None = None
        # the answer to SETUP (01, 02), sent after admission
        self._answer: tuple[Stream, ServerSetup] | None = None
        self._stream: Stream | None = None  # of 01 and 02
        self._successor: Draft | None = None  # chosen by SETUP, its machine is to take over
        self._left: list[TransportEvent] = []  # for that machine

    def start(self) -> None:
        """What can be sent. Raises NoCommonVersion."""
        core = self._core
        self.deadline = core.now + core.limits.setup_timeout
        if core.state is not State.NEGOTIATING:
            self._send_setup()
            self._advance()
        elif core.session.is_client:
            self._send_client_setup()

    def admit(self, now: float) -> None:
        """`Opened` follows."""
        core = self._core
        core.now = now
        if not self.admitted and core.state is not State.CLOSED:
            self.admitted = True
            self.deadline = now + core.limits.setup_timeout
            self._advance()

    def on_time(self, now: float) -> None:
        if now >= self.deadline:
            self.deadline = NEVER
            core = self._core
            core.emit(LimitExceeded("setup_timeout", {"transport": core.session.transport}))
            self._core.close(SessionCode.CONTROL_TIMEOUT, "no SETUP in time")

    def stop(self) -> None:
        self.deadline = NEVER
        self.held.take()

    def unlink(self) -> None:
        if self._stream is not None:
            self._stream.context = IGNORE

    def handler(self, stream: Stream) -> Handler | None:
        """The handler of a stream before the version is known; `None` if the stream has to wait."""
        if self._core.session.is_client or stream.unidirectional or self._stream is not None:
            return None
        self._stream = stream
        return _SetupStream(self._core, self, SetupDecoder(pauses=True))

    # --- messages

    def _own_target(self) -> str | None:
        """Path and query for SETUP: those of a client whose transport has no URL."""
        session = self._core.session
        if not session.is_client or session.transport not in ("quic", "memory"):
            return None
        if self._options.target is not None or session.transport == "memory":
            return self._options.target
        if not session.path and not session.query:
            return None
        return (session.path or "/") + (f"?{session.query}" if session.query else "")

    def _send_setup(self) -> None:
        core = self._core
        if not core.version.has_setup_stream:
            return
        options = self._options
        stream = core.session.open_uni()
        stream.context = IGNORE
        setup = Setup(options.probe, self._own_target(), options.role, options.cost, core.hop)
        stream.write((setup_stream(core.version, setup),), fin=True)

    def on_peer_setup(self, setup: Setup) -> None:
        core = self._core
        if core.peer is not None:
            raise ProtocolViolation("second SETUP")
        core.peer = PeerInfo(setup.origin, setup.cost, setup.role, setup.probe)
        self._target = setup.path
        core.emit(core.peer)
        self._advance()

    def _send_client_setup(self) -> None:
        offered = self._setup_versions()
        if not offered:
            raise NoCommonVersion("the transport left the version to SETUP, which offers only 01 and 02")
        form = self._options.form
        if form is None:
            # servers of the first generation choose no subprotocol, and know the first form alone
            first = self._core.session.alpn in ("", OLDEST_ALPN) and Version.LITE_01 in self._versions
            form = SetupForm.SESSION if first else SetupForm.DRAFT14
        if form is SetupForm.SESSION and self._options.form is None:
            offered = (Version.LITE_01,)
        params: dict[int, int | bytes] = {}
        target = self._own_target()
        if form is SetupForm.DRAFT14 and target is not None:
            params[_PATH_PARAM] = target.encode()
            if self._options.authority is not None:
                params[_AUTHORITY_PARAM] = self._options.authority.encode()
        stream = self._stream = self._core.session.open_bidi()
        self._offered = offered
        stream.context = _SetupStream(self._core, self, ServerSetupDecoder(form))
        stream.write((ClientSetup(form, tuple(v.setup_code for v in offered), params).encode(),))

    def _setup_versions(self) -> tuple[Version, ...]:
        if self._core.session.alpn == OLDEST_ALPN:
            return (Version.LITE_01,)
        return tuple(sorted((v for v in self._versions if v.has_setup_exchange), reverse=True))

    def on_client_setup(self, stream: Stream, setup: ClientSetup) -> None:
        """01 and 02, server side: choose the first of the client's versions that we support."""
        spoken = self._setup_versions()
        known = {version.setup_code: version for version in spoken} | (
            self._drafts if setup.form is SetupForm.DRAFT14 else {}
        )
        chosen = next((known[code] for code in setup.versions if code in known), None)
        if isinstance(chosen, Draft):
            self._hand_over(stream, chosen)
            return
        if chosen is None:
            self._core.emit(Incompatible(tuple(map(hex, setup.versions))))
            raise NoCommonVersion("no common version")
        self._target = setup.path
        self._answer = stream, ServerSetup(setup.form, chosen.setup_code)
        self._negotiated(chosen)

    def _hand_over(self, stream: Stream, draft: Draft) -> None:
        """Hand the session to the machine of that draft, with all that has come so far."""
        core = self._core
        opening = stream.context
        assert isinstance(opening, _SetupStream)
        self._left += (StreamData(stream, opening.received, fin=opening.finished), *self.held.take())
        for event in self._left:
            if isinstance(event, StreamData):
                event.stream.context = None
        self._stream = None
        self.stop()
        core.state = State.CLOSED
        self._successor = draft

    def on_late(self, event: TransportEvent) -> None:
        """An event behind SETUP, in the same turn."""
        if self._successor is not None:
            self._left.append(event)

    def give_away(self) -> None:
        """Emit the hand-over at the end of a turn."""
        if self._successor is not None:
            self._core.emit(DialectChosen(self._successor, tuple(self._left)))
            self._successor = None
            self._left.clear()

    def on_server_setup(self, setup: ServerSetup) -> None:
        """The server's SETUP, for a client of 01 and 02."""
        chosen = version_from_setup_code(setup.version)
        if chosen not in self._offered:
            raise NoCommonVersion(f"the server chose version {setup.version:#x}, which was not offered")
        assert chosen is not None
        self._negotiated(chosen)

    def _negotiated(self, version: Version) -> None:
        self.chosen = self._core.version = version
        self._core.state = State.INTRODUCING
        self._advance()

    def _advance(self) -> None:
        """Take every possible step."""
        core = self._core
        if core.state is State.INTRODUCING:
            if not self.admitted:
                if core.version.has_setup_stream and core.session.path is None and core.peer is None:
                    return  # raw QUIC: path and token come with the peer's SETUP
                if not self._introduced:
                    self._introduced = True
                    self.deadline = NEVER  # admission does not count against the peer's time
                    core.emit(Introduced(self._target))
                return
            if self._answer is not None:
                stream, setup = self._answer
                self._answer = None
                stream.write((setup.encode(),))
            core.state = State.OPEN
            core.emit(Opened())
        if core.state is State.OPEN:
            if self._options.waits_for_setup and core.version.needs_peer_setup and core.peer is None:
                return
            core.state = State.ESTABLISHED
            self.deadline = NEVER
            core.emit(Established())
            core.receive(self.held.take(), core.now)


class _SetupStream(Handler):
    """The setup stream of 01 and 02; its end is the end of the session."""

    def __init__(
        self, core: LiteCore, setup: SetupExchange, decoder: SetupDecoder | ServerSetupDecoder
    ) -> None:
        self.received = b""  # until SETUP has chosen a version
        self.finished = False
        self._core = core
        self._setup = setup
        self._decoder = decoder

    def on_data(self, stream: Stream, data: bytes, *, fin: bool) -> None:
        self.finished = fin
        if self._core.state is State.NEGOTIATING:
            self.received += data
        for message in self._decoder.feed(data):
            if isinstance(message, ClientSetup):
                self._setup.on_client_setup(stream, message)
                if stream.context is self:
                    self.on_data(stream, b"", fin=False)  # the rest of the slice
            elif isinstance(message, ServerSetup):
                self._setup.on_server_setup(message)
            else:
                self._core.spend()
                self._core.emit(BitrateReported(message.bitrate))
        if fin:
            self._core.close(SessionCode.NO_ERROR, "setup stream ended")

    def on_reset(self, stream: Stream, code: int) -> None:  # noqa: ARG002
        self._core.close(SessionCode.NO_ERROR, "setup stream reset")
