"""Sessions over a QUIC connection: the common part of raw QUIC and WebTransport."""

from __future__ import annotations

import asyncio
from typing import Final

from mypy_extensions import mypyc_attr

from relay.quic import errors
from relay.quic.driver import Driver
from relay.quic.handler import Close, Handler
from relay.quic.streams import Stream
from relay.transport.session import (
    CONTROL_PRIORITY,
    DatagramReceived,
    Event,
    Pong,
    SessionClosed,
    SessionStats,
    Sink,
    StreamData,
    StreamReset,
    StreamStopped,
)
from relay.wire.errors import MAX_CODE, from_http3, to_http3
from relay.wire.version import AnyVersion

EARLY_EVENTS: Final = 1024  # before `start`
EARLY_BYTES: Final = 1 << 20  # before `start`: an unaccepted peer needs only its first requests

CREDIT: Final = {errors.STREAM_LIMIT_ERROR: "max_streams", errors.FLOW_CONTROL_ERROR: "window"}
"""Limits enforced by QUIC, by the error that closes the connection, as refusals are counted."""


class SessionLostError(Exception):
    """A session ended before it was established. `kind` is the layer that closed it."""

    def __init__(self, kind: str, code: int | None, reason: str, *, by_peer: bool) -> None:
        super().__init__(reason)
        self.kind = kind
        self.code = code
        self.reason = reason
        self.by_peer = by_peer


def kind_of(close: Close) -> str:
    """The layer: TLS alerts are the transport errors 0x100 to 0x1ff."""
    if close.idle:
        return "timeout"
    if close.application:
        return "application"
    return "tls" if errors.CRYPTO_ERROR <= close.code < errors.CRYPTO_ERROR + 0x100 else "transport"


def lost_of(close: Close) -> SessionLostError:
    """The error of a connection that was closed during its handshake."""
    kind = kind_of(close)
    reason = "idle timeout" if close.idle else close.reason or f"{kind} error {close.code:#x}"
    return SessionLostError(kind, close.code, reason, by_peer=close.by_peer)


def wire_code(code: int) -> int:
    """The code of a reset or stop on the wire, the same on raw QUIC and WebTransport."""
    return to_http3(code if 0 <= code <= MAX_CODE else 0)


def plain_code(code: int) -> int:
    """The moq code of a received reset or stop; 0 if there is none."""
    return from_http3(code) or 0


@mypyc_attr(allow_interpreted_subclasses=True)
class QuicSession(Handler):
    """See `relay.transport.session.Session`. Subclasses add their framing.

    Size: it implements two interfaces, the session's and the connection's handler.
    """

    transport = "quic"

    def __init__(
        self, driver: Driver, *, is_client: bool, alpn: str = "", version: AnyVersion | None = None
    ) -> None:
        self.driver = driver
        self.connection = driver.quic
        self.remote = driver.remote
        self.is_client = is_client
        self.alpn = alpn
        self.version = version
        self.path: str | None = None
        self.query = ""
        self.ended = False  # `SessionClosed` was queued
        self.opened: asyncio.Future[None] | None = None  # when the session is established, for a client
        self._sink: Sink | None = None
        self._started = False
        self._gathered: list[Event] = []  # not yet delivered
        self._early_bytes = 0

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.remote}>"

    # -- Session

    @property
    def datagram_limit(self) -> int:
        return 0 if self.ended else self.connection.datagram_limit

    @property
    def undelivered(self) -> bool:
        return not self.ended and self.connection.undelivered

    def start(self, sink: Sink) -> None:
        if self._started:
            raise RuntimeError("a session is started once")
        self._started = True
        self._sink = sink
        self.driver.wake()
        if self.driver.gone:
            # A removed connection is not driven any more, but its end must be delivered.
            self.driver.endpoint.call_soon(self.deliver)

    def open_bidi(self, priority: int = CONTROL_PRIORITY) -> Stream:
        return self._open(priority, unidirectional=False)

    def open_uni(self, priority: int = CONTROL_PRIORITY) -> Stream:
        return self._open(priority, unidirectional=True)

    def _open(self, priority: int, *, unidirectional: bool) -> Stream:
        stream = self.connection.open_stream(priority, unidirectional=unidirectional)
        stream.accepted = True
        return stream

    def send_datagram(self, data: bytes) -> None:
        if not self.ended and len(data) <= self.datagram_limit:
            self.connection.send_datagram(data)

    def ping(self) -> None:
        if not self.ended:
            self.connection.ping()

    def probe_timeout(self) -> float:
        return 3 * self.connection.recovery.probe_timeout()

    def trust(self) -> None:
        self.driver.cost.trusted = True

    def stats(self) -> SessionStats:
        connection = self.connection
        recovery = connection.recovery
        return SessionStats(
            rtt=recovery.rtt or None,
            estimate=connection.rate_estimate,
            bytes_received=self.driver.bytes_received,
            bytes_sent=self.driver.bytes_sent,
            streams=connection.streams.accepted,
            window=recovery.congestion.window,
            in_flight=recovery.congestion.in_flight,
            lost=recovery.lost_packets,
        )

    async def wait_closed(self) -> None:
        """Wait until the connection is removed and, on a client, its socket released."""
        await self.driver.wait_gone()

    # -- from the driver

    def deliver(self) -> None:
        sink = self._sink
        if sink is None or not self._gathered:
            return
        batch, self._gathered = tuple(self._gathered), []
        if self.ended:
            self._sink = None
        sink(batch)

    # -- from the connection

    def wire_code(self, code: int) -> int:
        return wire_code(code)

    def plain_code(self, code: int) -> int:
        return plain_code(code)

    def stream_data(self, stream: Stream, data: bytes, fin: bool) -> None:  # noqa: FBT001 - as the base
        if stream.accepted:
            if data or fin:
                self._emit(StreamData(stream, data, fin))
        elif not self.ended:
            self._accept(stream, data, fin=fin)

    def _accept(self, stream: Stream, data: bytes, *, fin: bool) -> None:
        """Bytes of a stream that the peer opened, before its user knows it."""
        stream.accepted = True
        if data or fin:
            self._emit(StreamData(stream, data, fin))
        if stream.out.reset_code >= 0:
            # The peer stopped our half before its own first byte arrived.
            self._emit(StreamStopped(stream, self.plain_code(stream.out.reset_code)))

    def stream_reset(self, stream: Stream, code: int) -> None:
        if stream.accepted:
            self._emit(StreamReset(stream, self.plain_code(code)))
        else:
            # Its user never saw this stream, and an open half would use up stream credit of the peer.
            stream.abort(self.wire_code(0))

    def stream_stopped(self, stream: Stream, code: int) -> None:
        if stream.accepted:
            self._emit(StreamStopped(stream, self.plain_code(code)))

    def datagram(self, data: bytes) -> None:
        self._emit(DatagramReceived(data))

    def pong(self) -> None:
        self._emit(Pong())

    def closed(self, close: Close) -> None:
        """End the session, unless it ended before."""
        kind = kind_of(close)
        if kind == "transport" and not close.by_peer and close.code in CREDIT:
            self.driver.endpoint.refused[CREDIT[close.code]] += 1
        reason = close.reason
        code: int | None = None
        if close.application:
            code = self._application_code(close.code)
        elif close.code == 0 and not close.idle and not close.reset:
            code = 0
        if not close.idle and not close.reset and code is None:
            if not reason:
                reason = f"{kind} error {close.code:#x}"
            elif not close.application and not close.by_peer:
                reason = f"{kind} error {close.code:#x}: {reason}"
        self.end(code, reason, by_peer=close.by_peer, kind=kind)

    # -- for subclasses

    def end(self, code: int | None, reason: str, *, by_peer: bool, kind: str = "application") -> None:
        """Queue `SessionClosed`. Later calls on the session or its streams do nothing."""
        if self.ended:
            return
        self._gathered.append(SessionClosed(code, reason, by_peer))
        self.ended = self.connection.streams.ended = True
        if self.opened is not None and not self.opened.done():
            self.opened.set_exception(SessionLostError(kind, code, reason, by_peer=by_peer))
        self.driver.wake()

    def _application_code(self, code: int) -> int | None:
        """The moq code of a received application close."""
        return code

    def _emit(self, event: Event) -> None:
        if self.ended:
            return
        self._gathered.append(event)
        if not self._started:
            if type(event) is StreamData:
                self._early_bytes += len(event.data)
            if len(self._gathered) > EARLY_EVENTS or self._early_bytes > EARLY_BYTES:
                self.driver.endpoint.refused["early"] += 1
                self._gathered.clear()
                reason = "too much was sent before the session was accepted"
                self.end(None, reason, by_peer=False)
                self.driver.close(errors.APPLICATION_ERROR, reason, transport=True)
