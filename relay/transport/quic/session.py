"""Sessions and streams over a QUIC connection: the common part of raw QUIC and WebTransport.

Owns the streams and translates QUIC events into those of `relay.transport.session`. Must never touch a socket
or another session. A `Connection` drives it.
"""

from __future__ import annotations

import asyncio
import bisect
import itertools
from typing import Final

from aioquic.quic.events import (
    ConnectionTerminated,
    DatagramFrameReceived,
    PingAcknowledged,
    QuicEvent,
    StopSendingReceived,
    StreamDataReceived,
)
from aioquic.quic.events import StreamReset as QuicStreamReset
from aioquic.quic.packet import QuicErrorCode

from relay.transport.quic import compat
from relay.transport.quic.connection import Connection
from relay.transport.quic.stream import Half, QuicStream, plain_code, urgency, wire_code
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
from relay.wire.version import Version

EARLY_EVENTS = 1024  # events kept for a session before `start`
EARLY_BYTES = 1 << 20  # stream bytes kept before `start`: an unaccepted peer needs only its first requests
PENDING_DATAGRAMS = 64  # queued datagrams; late ones are worthless, so the newest is dropped


CREDIT: Final = {QuicErrorCode.STREAM_LIMIT_ERROR: "max_streams", QuicErrorCode.FLOW_CONTROL_ERROR: "window"}
"""Limits enforced by QUIC, by the error that closes the connection, as refusals are counted."""


class SessionLostError(Exception):
    """A session ended before it was established. `kind` is the layer that closed it."""

    def __init__(self, kind: str, code: int | None, reason: str, *, by_peer: bool) -> None:
        super().__init__(reason)
        self.kind = kind
        self.code = code
        self.reason = reason
        self.by_peer = by_peer


class QuicSession:
    """A session over a connection; see `relay.transport.session.Session`. Subclasses add their framing.

    Size: it is the whole interface of a session, the receiver of each QUIC event, and the streams' send order at once, so
    that an event of the connection reaches the owner without another hop.
    """

    transport = "quic"

    def __init__(
        self, connection: Connection, *, is_client: bool, alpn: str = "", version: Version | None = None
    ) -> None:
        self.connection = connection
        self.remote = connection.remote
        self.is_client = is_client
        self.alpn = alpn
        self.version = version
        self.path: str | None = None
        self.query = ""
        self.ended = False  # `SessionClosed` was queued: nothing follows it
        self.may_write = True  # streams can be opened and written
        self.opened: asyncio.Future[None] | None = None  # set when the session is established, for a client
        self._sink: Sink | None = None
        self._started = False
        self.gathered: list[Event] = []  # events not yet delivered
        self._early_bytes = 0
        self._streams: dict[int, QuicStream] = {}
        self._writing: dict[QuicStream, None] = {}
        self._waiting: dict[bool, list[QuicStream]] = {}  # for credit, by `unidirectional`; most urgent last
        self._left: tuple[QuicStream, ...] = ()  # streams at the end of the session, until it is delivered
        self._openings = itertools.count()
        self._pings = itertools.count(1)
        self._local_bit = 0 if is_client else 1

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.remote}>"

    # -- Session

    @property
    def datagram_limit(self) -> int:
        return 0 if self.ended else compat.datagram_limit(self.connection.quic)

    @property
    def undelivered(self) -> bool:
        if self.ended:
            return False
        return bool(self._writing or self._waiting) or self.connection.quic.anything_undelivered()

    def start(self, sink: Sink) -> None:
        if self._started:
            raise RuntimeError("a session is started once")
        self._started = True
        self._sink = sink
        self.connection.touch()
        if self.connection.gone:
            # A removed connection is not driven any more, but its end must be delivered.
            self.connection.endpoint.call_soon(self.deliver)

    def open_bidi(self, priority: int = CONTROL_PRIORITY) -> QuicStream:
        return self._new_stream(priority, unidirectional=False)

    def open_uni(self, priority: int = CONTROL_PRIORITY) -> QuicStream:
        return self._new_stream(priority, unidirectional=True)

    def send_datagram(self, data: bytes) -> None:
        self._send_datagram(b"", data)

    def ping(self) -> None:
        if not self.ended:
            self.connection.quic.send_ping(next(self._pings))
            self.connection.touch()

    def probe_timeout(self) -> float:
        return 3 * compat.probe_timeout(self.connection.quic)

    def trust(self) -> None:
        self.connection.cost.trusted = True

    def close(self, code: int = 0, reason: str = "") -> None:
        raise NotImplementedError

    def stats(self) -> SessionStats:
        return SessionStats(
            rtt=compat.smoothed_rtt(self.connection.quic),
            estimate=compat.rate_estimate(self.connection.quic),
            bytes_received=self.connection.bytes_received,
            bytes_sent=self.connection.bytes_sent,
            streams=len(self._streams),
        )

    async def wait_closed(self) -> None:
        """Wait until the connection is removed and, on a client, its socket released."""
        await self.connection.wait_gone()

    # -- for the connection

    def established(self) -> None: ...

    def handle(self, event: QuicEvent) -> None:
        if self.ended:
            return
        kind = type(event)
        if kind is StreamDataReceived:
            self._on_data(event)  # type: ignore[arg-type]
        elif kind is PingAcknowledged:
            if event.uid:  # type: ignore[attr-defined]
                self._emit(Pong())
        elif kind is DatagramFrameReceived:
            self._on_datagram(event.data)  # type: ignore[attr-defined]
        elif kind is StopSendingReceived:
            self._on_stop(event)  # type: ignore[arg-type]
        elif kind is QuicStreamReset:
            self._on_reset(event)  # type: ignore[arg-type]

    def pump(self) -> None:
        """Hand queued data to the connection, which sends the most urgent first, and open waiting streams."""
        if not self.may_write or self.ended:
            return
        if self._waiting:
            for unidirectional, waiting in list(self._waiting.items()):
                while waiting and compat.stream_credit(self.connection.quic, unidirectional=unidirectional):
                    self._claim(waiting.pop())
                if not waiting:
                    del self._waiting[unidirectional]
        if self._writing:
            streams, self._writing = self._writing, {}
            if len(streams) == 1:
                self._offer(*streams)
                return
            for stream in sorted(streams, key=urgency, reverse=True):
                self._offer(stream)

    def deliver(self) -> None:
        sink = self._sink
        if sink is None or not self.gathered:
            return
        batch, self.gathered = tuple(self.gathered), []
        if not self.ended:
            sink(batch)
            return
        self._sink = None
        sink(batch)
        for stream in self._left:
            stream.context = None  # breaks a reference cycle with the stream
        self._left = ()

    def lost(self, event: ConnectionTerminated, *, by_peer: bool) -> None:
        """The connection is closing: report it unless the session ended before."""
        kind = compat.close_kind(event)
        if kind == "transport" and not by_peer and event.error_code in CREDIT:
            self.connection.endpoint.refused[CREDIT[QuicErrorCode(event.error_code)]] += 1
        reason = event.reason_phrase
        code: int | None = None
        if kind == "application":
            code = self._application_code(event.error_code)
        elif event.error_code == 0:
            code = 0
        if reason == compat.IDLE_REASON and not by_peer:
            reason = "idle timeout"
        elif not reason and code is None:
            reason = f"{kind} error {event.error_code:#x}"
        elif kind != "application" and not by_peer and code is None:
            reason = f"{kind} error {event.error_code:#x}: {reason}"
        self.end(code, reason, by_peer=by_peer, kind="timeout" if reason == "idle timeout" else kind)

    # -- for subclasses

    def end(self, code: int | None, reason: str, *, by_peer: bool, kind: str = "application") -> None:
        """Queue `SessionClosed`. Later calls on the session or its streams do nothing."""
        if self.ended:
            return
        self.gathered.append(SessionClosed(code, reason, by_peer))
        self.ended = True
        self._left = tuple(self._streams.values())
        self._streams.clear()
        self._writing.clear()
        self._waiting.clear()
        if self.opened is not None and not self.opened.done():
            self.opened.set_exception(SessionLostError(kind, code, reason, by_peer=by_peer))
        self.connection.touch()

    def _application_code(self, code: int) -> int | None:
        """The moq code in a received application close."""
        return code

    def _prefix(self, *, unidirectional: bool) -> bytes:  # noqa: ARG002 - for subclasses
        """Bytes before the first payload of a stream that we open."""
        return b""

    def _on_unknown(self, stream_id: int, data: bytes, *, fin: bool) -> None:
        """Handle the first bytes of a stream that the peer opened."""
        self._open_by_peer(stream_id, data, fin=fin)

    def _on_datagram(self, data: bytes) -> None:
        self._emit(DatagramReceived(data))

    def _send_datagram(self, prefix: bytes, data: bytes) -> None:
        if self.ended or len(data) > self.datagram_limit:
            return
        quic = self.connection.quic
        if compat.pending_datagrams(quic) < PENDING_DATAGRAMS:
            quic.send_datagram_frame(prefix + data if prefix else data)
            self.connection.touch()

    def _emit(self, event: Event) -> None:
        if self.ended:
            return
        self.gathered.append(event)
        if not self._started:
            if type(event) is StreamData:
                self._early_bytes += len(event.data)
            if len(self.gathered) > EARLY_EVENTS or self._early_bytes > EARLY_BYTES:
                self.connection.endpoint.refused["early"] += 1
                self.gathered.clear()
                reason = "too much was sent before the session was accepted"
                self.end(None, reason, by_peer=False)
                self.connection.close(QuicErrorCode.APPLICATION_ERROR, reason, transport=True)

    # -- receiving

    def _on_data(self, event: StreamDataReceived) -> None:
        stream = self._streams.get(event.stream_id)
        if stream is None:
            if event.stream_id & 1 != self._local_bit:
                self._on_unknown(event.stream_id, event.data, fin=event.end_stream)
            return
        self._receive(stream, event.data, fin=event.end_stream)

    def _receive(self, stream: QuicStream, data: bytes, *, fin: bool) -> None:
        if not stream.stopped and (data or fin):
            self._emit(StreamData(stream, data, fin))
        if fin:
            stream.received = True
            self._forget(stream)

    def _open_by_peer(self, stream_id: int, data: bytes, *, fin: bool) -> QuicStream:
        order, unidirectional = (CONTROL_PRIORITY, -next(self._openings)), bool(stream_id & 2)
        stream = QuicStream(self, stream_id, unidirectional=unidirectional, opened_by_peer=True, order=order)
        self._streams[stream_id] = stream
        # A peer may stop our half before its own first byte arrives.
        stopped = None if stream.unidirectional else compat.reset_code(self.connection.quic, stream_id)
        self._receive(stream, data, fin=fin)
        if stopped is not None:
            self._stopped_by_peer(stream, stopped)
        return stream

    def _on_reset(self, event: QuicStreamReset) -> None:
        stream = self._streams.get(event.stream_id)
        if stream is None:
            if event.stream_id & 1 != self._local_bit and not event.stream_id & 2:
                # The owner never saw this stream, and an open half would use up stream credit of the peer.
                self.connection.quic.reset_stream(event.stream_id, wire_code(0))
            return
        self._emit(StreamReset(stream, plain_code(event.error_code)))
        stream.received = True
        self._forget(stream)

    def _on_stop(self, event: StopSendingReceived) -> None:
        stream = self._streams.get(event.stream_id)
        if stream is not None:
            self._stopped_by_peer(stream, event.error_code)

    def _stopped_by_peer(self, stream: QuicStream, code: int) -> None:
        if stream.half is not Half.CLOSED:
            stream.close_half()
            self._writing.pop(stream, None)
            self._emit(StreamStopped(stream, plain_code(code)))
            self._forget(stream)

    # -- sending

    def _new_stream(self, priority: int, *, unidirectional: bool) -> QuicStream:
        order = (priority, -next(self._openings))
        return QuicStream(self, -1, unidirectional=unidirectional, opened_by_peer=False, order=order)

    def ready(self, stream: QuicStream) -> None:
        if stream.id < 0:
            waiting = self._waiting.setdefault(stream.unidirectional, [])
            index = bisect.bisect_left(waiting, stream.order, key=urgency)
            if index == len(waiting) or waiting[index] is not stream:
                waiting.insert(index, stream)
        else:
            self._writing[stream] = None
        connection = self.connection
        connection.endpoint.touch(connection)

    def is_writing(self, stream: QuicStream) -> bool:
        """Data of a stream waits to be handed to the connection."""
        return stream in self._writing

    def reorder(self, stream: QuicStream, order: tuple[int, int]) -> None:
        """The urgency of a stream without an id has changed."""
        waiting = self._waiting.get(stream.unidirectional, [])
        index = bisect.bisect_left(waiting, stream.order, key=urgency)
        queued = index < len(waiting) and waiting[index] is stream
        if queued:
            del waiting[index]
        stream.order = order
        if queued:
            bisect.insort(waiting, stream, key=urgency)

    def _claim(self, stream: QuicStream) -> None:
        """Give a waiting stream its id; writing its first bytes reserves it."""
        stream.id = self.connection.quic.get_next_available_stream_id(is_unidirectional=stream.unidirectional)
        self._streams[stream.id] = stream
        prefix = self._prefix(unidirectional=stream.unidirectional)
        if prefix:
            stream.chunks.insert(0, prefix)
        self._offer(stream)
        if stream.stop_code is not None:
            self.ask_to_stop(stream, stream.stop_code)

    def _offer(self, stream: QuicStream) -> None:
        if stream.half is Half.CLOSED:
            return
        fin = stream.fin
        chunks, stream.chunks = stream.chunks, []
        stream.queued = 0
        try:
            self.connection.quic.write_stream(stream.id, chunks, fin=fin, order=stream.order)
        except (RuntimeError, ValueError):
            stream.close_half()  # the peer has stopped this stream; the event follows
        if fin:
            self._forget(stream)

    def abort(self, stream: QuicStream, code: int) -> None:
        if stream.id < 0:
            waiting = self._waiting.get(stream.unidirectional, [])  # the peer never saw it
            index = bisect.bisect_left(waiting, stream.order, key=urgency)
            if index < len(waiting) and waiting[index] is stream:
                del waiting[index]
            return
        self._writing.pop(stream, None)
        self.connection.quic.reset_stream(stream.id, wire_code(code))
        self._forget(stream)
        self.connection.touch()

    def ask_to_stop(self, stream: QuicStream, code: int) -> None:
        try:
            self.connection.quic.stop_stream(stream.id, wire_code(code))
        except ValueError:
            return  # ended on the wire already; the event follows
        self.connection.touch()

    def _forget(self, stream: QuicStream) -> None:
        """Forget a stream once the peer's half has ended and ours is handed over."""
        if stream.received and (stream.half is Half.CLOSED or (stream.fin and not stream.chunks)):
            self._streams.pop(stream.id, None)
