"""WebTransport over HTTP/3: one session per connection.

Owns the CONNECT exchange, stream prefixes, the close capsule and what aioquic's HTTP/3 layer gets: control and
QPACK streams and HEADERS frames, never WebTransport streams.
"""

from __future__ import annotations

from enum import Enum

from aioquic.h3.events import H3Event, Headers, HeadersReceived
from aioquic.quic.events import StopSendingReceived, StreamDataReceived, StreamReset
from mypy_extensions import mypyc_attr

from relay.quic.driver import Driver
from relay.quic.streams import Stream
from relay.transport import http3
from relay.transport.quic_session import QuicSession
from relay.wire.errors import MAX_CODE, WireError, from_http3, to_http3
from relay.wire.varint import decode_varint, encode_varint
from relay.wire.webtransport import CloseCapsuleDecoder, bidi_prefix, encode_close_capsule, uni_prefix


class Role(Enum):
    """What HTTP/3 does with a stream, as its `context`; beside `StreamHead` and `HeadersReader`."""

    HTTP3 = "control, QPACK or unknown"
    IGNORED = "answered; the rest does not matter"


@mypyc_attr(allow_interpreted_subclasses=True)
class WebTransportSession(QuicSession):
    """The common part of client and server.

    Size: a session, and the state of the HTTP/3 connection that carries it alone.
    """

    transport = "webtransport"

    def __init__(self, driver: Driver, *, is_client: bool) -> None:
        super().__init__(driver, is_client=is_client)
        self._h3: http3.Http3 | None = None
        self._session_id: int | None = None
        self._connect: Stream | None = None  # once its HEADERS are read
        self._named_id: int | None = None  # the first stream's, if it came before the CONNECT request
        self._capsules = CloseCapsuleDecoder()
        self._requests: dict[int, Stream] = {}  # HEADERS not read

    # -- Session

    @property
    def datagram_limit(self) -> int:
        if self.ended or self._session_id is None:
            return 0
        return max(0, self.connection.datagram_limit - len(self._datagram_prefix()))

    def send_datagram(self, data: bytes) -> None:
        if len(data) <= self.datagram_limit:
            self.connection.send_datagram(self._datagram_prefix() + data)

    def close(self, code: int = 0, reason: str = "") -> None:
        if self.ended:
            return
        if not 0 <= code <= MAX_CODE:
            code = 0
        if self._session_id is not None:
            # Data written before is still sent, but may arrive after this.
            self._finish_connect(encode_close_capsule(code, reason, in_data_frame=True))
            self.end(code, reason, by_peer=False)
            self.driver.close_later(to_http3(code), reason)
        else:
            self.end(code, reason, by_peer=False)
            self.driver.close(to_http3(code), reason)

    # -- streams

    def _open(self, priority: int, *, unidirectional: bool) -> Stream:
        stream = super()._open(priority, unidirectional=unidirectional)
        session_id = self._session_id or 0
        stream.prefix = uni_prefix(session_id) if unidirectional else bidi_prefix(session_id)
        return stream

    def _accept(self, stream: Stream, data: bytes, *, fin: bool) -> None:
        try:
            self._on_http3(stream, data, fin=fin)
        except http3.Http3Error as error:
            self._violation(error)

    def _on_http3(self, stream: Stream, data: bytes, *, fin: bool) -> None:
        role = stream.context
        if stream is self._connect:
            self._on_connect_data(data, fin=fin)
        elif isinstance(role, http3.HeadersReader):
            self._on_request_data(stream, role, data, fin=fin)
        elif role is Role.HTTP3:
            self._feed_h3(stream, data, fin=fin)
        elif role is not Role.IGNORED:
            self._on_head(stream, data, fin=fin)

    def _on_head(self, stream: Stream, data: bytes, *, fin: bool) -> None:
        head = stream.context
        if not isinstance(head, http3.StreamHead):
            head = stream.context = http3.StreamHead(unidirectional=stream.unidirectional)
        kind = head.feed(data)
        if kind is None:
            if fin:  # our half must end too
                stream.abort(http3.H3_REQUEST_INCOMPLETE)
            return
        stream.context = None
        if kind.session_id is not None:
            self._check_session_id(kind.session_id)
            super()._accept(stream, kind.rest, fin=fin)
        elif stream.unidirectional:
            stream.context = Role.HTTP3
            self._feed_h3(stream, kind.rest, fin=fin)
        elif self.is_client:
            raise http3.Http3Error(http3.H3_STREAM_CREATION_ERROR, "a request stream from the server")
        else:
            reader = self._add_request(stream)
            self._on_request_data(stream, reader, kind.rest, fin=fin)

    def _add_request(self, stream: Stream) -> http3.HeadersReader:
        self._requests[stream.id] = stream
        reader = stream.context = http3.HeadersReader()
        return reader

    def _check_session_id(self, session_id: int) -> None:
        # A stream may overtake the CONNECT request; its session id counts until the request checks it.
        if self._session_id is None:
            expected = self._named_id
            if expected is None and session_id % 4 == 0:
                self._named_id = expected = session_id
        else:
            expected = self._session_id
        if session_id != expected:
            raise http3.Http3Error(http3.H3_ID_ERROR, f"a stream names session {session_id}")

    def stream_reset(self, stream: Stream, code: int) -> None:
        role = stream.context
        if stream.accepted:
            super().stream_reset(stream, code)
        elif stream is self._connect:
            self._closed_by_peer(from_http3(code), "the peer aborted the session's CONNECT stream")
        elif role is Role.HTTP3:
            self._h3_event(StreamReset(stream_id=stream.id, error_code=code))
        elif role is not Role.IGNORED:
            stream.abort(http3.H3_REQUEST_INCOMPLETE)
            if self._requests.pop(stream.id, None) is not None and self._h3 is not None:
                self._h3.forget(stream.id)

    def stream_stopped(self, stream: Stream, code: int) -> None:
        if stream.accepted:
            super().stream_stopped(stream, code)
        elif stream is self._connect:
            self._closed_by_peer(from_http3(code), "the peer aborted the session's CONNECT stream")
        elif not stream.opened_by_peer or stream.context is not None:
            self._h3_event(StopSendingReceived(stream_id=stream.id, error_code=code))

    # -- datagrams

    def _datagram_prefix(self) -> bytes:
        return encode_varint((self._session_id or 0) // 4)

    def datagram(self, data: bytes) -> None:
        prefix = decode_varint(data)
        # The draft says a quarter of the session id, one implementation sends the id; both are 0 in practice.
        if prefix is not None and self._session_id in (prefix[0], prefix[0] * 4):
            super().datagram(data[prefix[1] :])

    # -- HTTP/3

    def _feed_h3(self, stream: Stream, data: bytes, *, fin: bool) -> None:
        self._h3_event(StreamDataReceived(data=data, end_stream=fin, stream_id=stream.id))
        if not fin and self._h3 is not None and self._h3.waiting(stream.id) > http3.CONTROL_LIMIT:
            raise http3.Http3Error(http3.H3_EXCESSIVE_LOAD, "a frame on the control stream is too long")

    def _h3_event(self, event: StreamDataReceived | StreamReset | StopSendingReceived) -> None:
        if self._h3 is None or self.ended:
            return
        try:
            try:
                events = self._h3.handle_event(event)
            except RuntimeError:
                # aioquic writes to its QPACK stream, which the peer has stopped; the event follows.
                reason = "a QPACK stream was stopped"
                raise http3.Http3Error(http3.H3_CLOSED_CRITICAL_STREAM, reason) from None
            for h3_event in events:
                self._on_h3(h3_event)
        except http3.Http3Error as error:
            self._violation(error)

    def _on_h3(self, event: H3Event) -> None:
        if isinstance(event, HeadersReceived) and event.stream_id in self._requests:
            self._on_headers(self._requests[event.stream_id], event.headers)

    def _on_request_data(
        self, stream: Stream, reader: http3.HeadersReader, data: bytes, *, fin: bool
    ) -> None:
        """Read a request, or the response to ours, until its HEADERS are complete."""
        frame = reader.feed(data)
        if frame is not None:
            self._h3_event(StreamDataReceived(data=frame, end_stream=False, stream_id=stream.id))
        if not fin or self.ended:
            return
        if stream is self._connect:
            self._on_connect_data(b"", fin=True)
        elif self._requests.pop(stream.id, None) is not None:
            self._ended_without_headers(stream)

    def _ended_without_headers(self, stream: Stream) -> None:
        stream.abort(http3.H3_REQUEST_INCOMPLETE)
        assert self._h3 is not None
        self._h3.forget(stream.id)

    def _on_headers(self, stream: Stream, headers: Headers) -> None:
        raise NotImplementedError

    def _violation(self, error: http3.Http3Error) -> None:
        reason = f"HTTP/3 error {error.code:#x}: {error.reason}"
        self.end(None, reason, by_peer=False, kind="transport")
        self.driver.close(error.code, error.reason)

    # -- the CONNECT stream, after its HEADERS

    def _begin_session(self, stream: Stream) -> None:
        """From here on, the CONNECT stream carries capsules."""
        reader = stream.context
        assert isinstance(reader, http3.HeadersReader)
        del self._requests[stream.id]
        stream.context = None
        if self._named_id is not None and self._named_id != stream.id:
            raise http3.Http3Error(http3.H3_ID_ERROR, f"a stream names session {self._named_id}")
        self._session_id = stream.id
        self._connect = stream
        if self._h3 is not None:
            self._h3.forget(stream.id)
        rest = reader.rest()
        if rest:
            self._on_connect_data(rest, fin=False)

    def _on_connect_data(self, data: bytes, *, fin: bool) -> None:
        try:
            close = self._capsules.feed(data)
        except WireError as error:
            raise http3.Http3Error(http3.H3_MESSAGE_ERROR, str(error)) from error
        if close is not None:
            self._closed_by_peer(close.code, close.reason)
        elif fin:
            self._closed_by_peer(0, "")

    def _closed_by_peer(self, code: int | None, reason: str) -> None:
        if self.ended:
            return
        self._finish_connect(b"")
        self.end(code, reason, by_peer=True)
        self.driver.close_later(http3.H3_NO_ERROR)

    def _finish_connect(self, data: bytes) -> None:
        assert self._connect is not None
        self._connect.write((data,), fin=True)

    def _application_code(self, code: int) -> int | None:
        return 0 if code == http3.H3_NO_ERROR else from_http3(code)
