"""A moq-lite session, 01 to 06: the state machine of either end, without I/O.

Its owner passes the transport's events to `receive`, takes the session's events with `poll` after each call, answers
with commands, and calls `on_time` at `deadline`. `now` is in seconds.

A server's owner decides on admission: `Introduced` comes once the peer's path is known, and `setup.admit` answers.
After `Opened` requests may be made, after `Established` those of the peer follow.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

from relay.model.limits import Limits
from relay.moq.core import Core, Handler, State
from relay.moq.encoding import Encoding
from relay.moq.lite_requests import Requests
from relay.moq.lite_serving import IncomingRequest, LiteServing
from relay.moq.lite_setup import Options, SetupExchange, SetupOwner
from relay.moq.session import NEVER, Closed, Features, PeerAlive
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
from relay.wire.errors import NoCommonVersion, WireError, session_code_for
from relay.wire.frame import FrameHeader, GroupHeader
from relay.wire.frame_decoder import UniDecoder
from relay.wire.setup import Setup
from relay.wire.version import Version

__all__ = ["LiteSession", "Options", "State"]

FEATURES = {
    version: Features(
        hops=version.has_hops,
        prefixes=version.has_announce_ids,
        goaway=version.has_goaway,
        descriptions=version.has_timestamps,
        history=version.latency_is_history,
        updates=version.has_updates,
    )
    for version in Version
}

ALIVE_AT_LEAST = 1.0  # seconds that a peer has, at least, to answer a ping

LATE_ROUND_TRIPS = 6  # time for a late group: packets lost twice have come by then

LATE_AT_MOST = 10.0  # seconds: a peer can make its round trip look long

MAX_DATAGRAM_HEADER = 24  # bytes of three varints


class AliveCheck:
    """Pings the peer to learn if it answers."""

    __slots__ = ("_core", "_late", "deadline")

    def __init__(self, core: Core) -> None:
        self._core = core
        self._late = False  # no answer came in time; one may still come
        self.deadline = NEVER

    def begin(self, now: float) -> None:
        """`PeerAlive` follows: after a late answer a second time."""
        core = self._core
        if self.deadline == NEVER and core.state is not State.CLOSED:
            core.session.ping()
            self.deadline = now + max(core.session.probe_timeout(), ALIVE_AT_LEAST)

    def answered(self) -> None:
        if self.deadline != NEVER or self._late:
            self.deadline = NEVER
            self._late = False
            self._core.emit(PeerAlive(alive=True))

    def on_time(self, now: float) -> None:
        if now >= self.deadline:
            self.deadline = NEVER
            self._late = True
            self._core.emit(PeerAlive(alive=False))


class LiteSession(SetupOwner):
    """One session, driven as the module says."""

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
        """`versions`: those that SETUP may choose. With `admitted` there is no `Introduced`."""
        super().__init__(session, limits, hop)
        options = options or Options()
        self.setup = SetupExchange(self, versions, admitted=admitted, options=options)
        self.requests = Requests(self)
        self.serving = LiteServing(self, offers_probe=bool(options.probe))
        self.alive = AliveCheck(self)

    # --- the owner's side ------------------------------------------------------------------------------------------

    def start(self, now: float) -> None:
        """Begin. The transport's events follow by `receive`."""
        self.now = now
        try:
            self.setup.start()
        except NoCommonVersion as error:
            self._on_wire_error(error, None)

    def receive(self, events: Iterable[TransportEvent], now: float) -> None:
        self.now = now
        for event in events:
            self._on_event(event)
        self.requests.flush()

    @property
    def deadline(self) -> float:
        """When `on_time` is due, `inf` for never."""
        return min(self.setup.deadline, self.alive.deadline, self.serving.deadline())

    @property
    def closed(self) -> bool:
        """True even before `Closed` is taken."""
        return self.state is State.CLOSED

    @property
    def name(self) -> str | None:
        chosen = self.setup.chosen
        return None if chosen is None else chosen.name_on_wire

    @property
    def features(self) -> Features:
        return FEATURES[self.version]

    @property
    def encoding(self) -> Encoding:
        return Encoding.TIMED if self.version.has_timestamps else Encoding.PLAIN

    @property
    def datagram_limit(self) -> int:
        """Payload that a datagram can carry for certain, 0 if none can."""
        limit = self.session.datagram_limit - MAX_DATAGRAM_HEADER if self.version.has_timestamps else 0
        return max(0, limit)

    def patience(self, at_least: float) -> float:
        """Seconds to wait for a late group of the peer."""
        return max(at_least, min(LATE_ROUND_TRIPS * (self.session.stats().rtt or 0.0), LATE_AT_MOST))

    def on_time(self, now: float) -> None:
        self.now = now
        self.setup.on_time(now)
        self.alive.on_time(now)
        self.serving.on_time(now)

    def close(self, code: int, reason: str) -> None:
        self._close(session_code_for(self.version, code), reason)

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
                    self.setup.held.add(event)
            elif isinstance(event, StreamStopped):
                stream = event.stream
                if stream.context is not None:
                    stream.context.on_stopped(stream, event.code)
                elif self.state is not State.ESTABLISHED:
                    self.setup.held.add(event)
            elif isinstance(event, DatagramReceived):
                if self.state is State.ESTABLISHED:
                    self.requests.on_datagram(event.data)
            elif isinstance(event, Pong):
                self.alive.answered()
            elif isinstance(event, SessionClosed):
                self._end(event)
        except WireError as error:
            self._on_wire_error(error, stream)

    def _on_wire_error(self, error: WireError, stream: Stream | None) -> None:
        """Refuse the stream if that is enough, else the session."""
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
        self.setup.stop()
        self.alive.deadline = NEVER
        self.serving.stop()
        self.emit(Closed(event.code, event.reason, event.by_peer))

    def _handler(self, event: StreamData) -> Handler | None:
        """For a stream that the peer has just opened; `None` while its events are held."""
        stream = event.stream
        held = self.setup.held
        if self.state is State.NEGOTIATING:
            handler = self.setup.handler(stream)
            if handler is not None:
                return handler
        elif stream.unidirectional and stream not in held.streams:
            return _UniStream(self)
        elif self.state is State.ESTABLISHED:
            self.spend()
            return IncomingRequest(self, self.serving)
        held.add(event)
        return None


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
            self._session.setup.on_peer_setup(header)
