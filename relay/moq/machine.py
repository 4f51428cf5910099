"""The life of a session, the same in every dialect.

Transport events go to the handlers of streams; a fault refuses a stream or ends the session. Its owner passes
the transport's events to `receive`, takes the session's events with `poll` after each call, answers with
commands, and calls `on_time` at `deadline`. `now` is in seconds.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from relay.moq.core import IGNORE, Core, Handler, State
from relay.moq.session import NEVER, Closed, PeerAlive
from relay.moq.setup import Held
from relay.transport.session import (
    DatagramReceived,
    Pong,
    SessionClosed,
    Stream,
    StreamData,
    StreamReset,
    StreamStopped,
)
from relay.transport.session import Event as TransportEvent
from relay.wire.errors import SessionCode, WireError

ALIVE_AT_LEAST = 1.0  # seconds for an answer to a ping

LATE_ROUND_TRIPS = 6  # packets lost twice have come by then

LATE_AT_MOST = 10.0  # seconds: a peer can make its round trip look long

EXPIRED = "token expired"  # reason of the close


class SetupPart(Protocol):
    """The set-up, as the life of the session needs it."""

    deadline: float
    held: Held

    def on_time(self, now: float) -> None: ...
    def stop(self) -> None: ...
    def unlink(self) -> None: ...


class RequestsPart(Protocol):
    """The requests of our side."""

    @property
    def deadline(self) -> float: ...
    def on_time(self, now: float) -> None: ...
    def flush(self) -> None: ...
    def on_datagram(self, data: bytes) -> None: ...
    def unlink(self) -> None: ...


class ServingPart(Protocol):
    """The serving of the peer's requests."""

    def deadline(self) -> float: ...
    def on_time(self, now: float) -> None: ...
    def stop(self) -> None: ...
    def unlink(self) -> None: ...


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


class Machine(Core):
    """The life of one session. Subclasses make its parts.

    Size: the life of a session, with a method for each thing that dialects do in their own way.
    """

    __deletable__ = ("_setup_part", "_requests_part", "_serving_part", "alive")

    # Subclasses hold them under their own types, too: a native class cannot narrow an attribute's.
    _setup_part: SetupPart
    _requests_part: RequestsPart
    _serving_part: ServingPart
    alive: AliveCheck

    # --- the owner's side

    def receive(self, events: Iterable[TransportEvent], now: float) -> None:
        self.now = now
        for event in events:
            self._on_event(event)
        self._requests_part.flush()

    @property
    def deadline(self) -> float:
        """When `on_time` is due, `inf` for never."""
        if self.state is State.CLOSED:
            return NEVER
        return min(
            self._setup_part.deadline,
            self._requests_part.deadline,
            self.alive.deadline,
            self._serving_part.deadline(),
        )

    @property
    def closed(self) -> bool:
        """True even before `Closed` is taken."""
        return self.state is State.CLOSED

    def patience(self, at_least: float) -> float:
        """Seconds to wait for a late group of the peer."""
        return max(at_least, min(LATE_ROUND_TRIPS * (self.session.stats().rtt or 0.0), LATE_AT_MOST))

    def on_time(self, now: float) -> None:
        self.now = now
        if self.closed:
            return
        self._setup_part.on_time(now)
        self._requests_part.on_time(now)
        self.alive.on_time(now)
        self._serving_part.on_time(now)

    def fail(self, error: WireError) -> None:
        """End the session for a fault of the peer that showed late."""
        self._on_wire_error(error, None)

    def unlink(self) -> None:
        """Break reference cycles. The session has ended, and nothing calls it again."""
        self._setup_part.unlink()
        self._requests_part.unlink()
        self._serving_part.unlink()
        del self._setup_part, self._requests_part, self._serving_part, self.alive

    def authorized(self, request: int, *, granted: bool, expired: bool = False) -> None:
        """Answers `TokenOffered`. `expired`: the reason of a refusal."""

    def close(self, code: int, reason: str) -> None:
        """`code` is of the current session registry."""
        raise NotImplementedError

    def expire(self, reason: str = EXPIRED) -> None:
        """End the session: the peer's token has expired."""
        self.close(SessionCode.UNAUTHORIZED, reason)

    def close_code(self, error: WireError) -> int:
        """The code on the wire for a fault of the peer."""
        raise NotImplementedError

    # --- events of the transport

    def _on_event(self, event: TransportEvent) -> None:  # noqa: C901, PLR0912 - one branch per kind of event
        if self.state is State.CLOSED:
            self._on_late(event)
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
                if event.fin and stream.unidirectional:
                    stream.context = IGNORE  # its handler may hold the stream: break the cycle
            elif isinstance(event, StreamReset):
                stream = event.stream
                if stream.context is not None:
                    stream.context.on_reset(stream, event.code)
                    if stream.unidirectional:
                        stream.context = IGNORE
                elif self.state is not State.ESTABLISHED:
                    self._setup_part.held.add(event)
            elif isinstance(event, StreamStopped):
                stream = event.stream
                if stream.context is not None:
                    stream.context.on_stopped(stream, event.code)
                elif self.state is not State.ESTABLISHED:
                    self._setup_part.held.add(event)
            elif isinstance(event, DatagramReceived):
                if self.state is State.ESTABLISHED:
                    self._requests_part.on_datagram(event.data)
            elif isinstance(event, Pong):
                self.alive.answered()
            elif isinstance(event, SessionClosed):
                self._end(event)
        except WireError as error:
            self._on_wire_error(error, stream)

    def _on_late(self, event: TransportEvent) -> None:
        """An event came after the end."""

    def _on_wire_error(self, error: WireError, stream: Stream | None) -> None:
        """Refuse the stream if that is enough, else the session."""
        if error.stream_only and stream is not None:
            handler = stream.context
            self.refuse_for(stream, error)
            if handler is not None:
                handler.on_fault(error)
            return
        self.note(error, fatal=True)
        self._close(self.close_code(error), str(error))

    def _close(self, code: int, reason: str) -> None:
        if self.state is not State.CLOSED:
            self.session.close(code, reason)
            self._end(SessionClosed(code, reason, by_peer=False))

    def _end(self, event: SessionClosed) -> None:
        self._requests_part.flush()
        self.state = State.CLOSED
        self._setup_part.stop()
        self.alive.deadline = NEVER
        self._serving_part.stop()
        self.emit(Closed(event.code, event.reason, event.by_peer))

    def _handler(self, event: StreamData) -> Handler | None:
        """The handler of a stream that the peer has just opened; `None` while its events are held."""
        raise NotImplementedError
