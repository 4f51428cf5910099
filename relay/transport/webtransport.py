"""WebTransport over HTTP/3: one session per connection."""

from __future__ import annotations

import contextlib

from aioquic.h3.events import Headers
from aioquic.quic.events import QuicEvent, StopSendingReceived
from aioquic.quic.events import StreamReset as QuicStreamReset

from relay.transport import http3
from relay.transport.http3_streams import Http3Streams
from relay.transport.quic import compat
from relay.transport.quic.connection import Connection
from relay.transport.quic.session import QuicSession
from relay.wire.errors import MAX_CODE, WireError, from_http3, to_http3
from relay.wire.varint import decode_varint, encode_varint
from relay.wire.webtransport import CloseCapsuleDecoder, bidi_prefix, encode_close_capsule, uni_prefix


class WebTransportSession(QuicSession):
    """Common part of client and server."""

    transport = "webtransport"

    def __init__(self, connection: Connection, *, is_client: bool) -> None:
        super().__init__(connection, is_client=is_client)
        self.may_write = False  # streams opened before the CONNECT exchange cannot name a session yet
        self._session_id: int | None = None
        self._named_id: int | None = None  # the first stream's, if it came before the CONNECT request
        self._capsules = CloseCapsuleDecoder()
        self._http3 = Http3Streams(self)

    # -- Session

    @property
    def datagram_limit(self) -> int:
        if self.ended or self._session_id is None:
            return 0
        return max(0, compat.datagram_limit(self.connection.quic) - len(self._datagram_prefix()))

    def send_datagram(self, data: bytes) -> None:
        self._send_datagram(self._datagram_prefix(), data)

    def close(self, code: int = 0, reason: str = "") -> None:
        if self.ended:
            return
        if not 0 <= code <= MAX_CODE:
            code = 0
        self.pump()  # data written before the close still leaves, but may arrive after it
        if self._session_id is not None:
            self._finish_connect(encode_close_capsule(code, reason, in_data_frame=True))
            self.connection.close_later(to_http3(code), reason)
        else:
            self.connection.close(to_http3(code), reason)
        self.end(code, reason, by_peer=False)

    # -- streams

    def _prefix(self, *, unidirectional: bool) -> bytes:
        session_id = self._session_id or 0
        return uni_prefix(session_id) if unidirectional else bidi_prefix(session_id)

    def _on_unknown(self, stream_id: int, data: bytes, *, fin: bool) -> None:
        if stream_id == self._session_id:
            self.on_connect_data(data, fin=fin)
        else:
            self._http3.on_data(stream_id, data, fin=fin)

    def on_stream(self, stream_id: int, session_id: int, data: bytes, *, fin: bool) -> None:
        # a stream may overtake the CONNECT request, which then checks the stream's session id
        if self._session_id is None:
            expected = self._named_id
            if expected is None and session_id % 4 == 0:
                self._named_id = expected = session_id
        else:
            expected = self._session_id
        if session_id != expected:
            raise http3.Http3Error(http3.H3_ID_ERROR, f"a stream names session {session_id}")
        self._open_by_peer(stream_id, data, fin=fin)

    def _on_reset(self, event: QuicStreamReset) -> None:
        if event.stream_id == self._session_id:
            self._connect_aborted(event.error_code)
        elif not self._http3.on_reset(event):
            super()._on_reset(event)

    def _on_stop(self, event: StopSendingReceived) -> None:
        if event.stream_id == self._session_id:
            self._connect_aborted(event.error_code)
        elif event.stream_id in self._streams:
            super()._on_stop(event)
        else:
            self._http3.on_event(event)

    # -- datagrams

    def _datagram_prefix(self) -> bytes:
        return encode_varint((self._session_id or 0) // 4)

    def _on_datagram(self, data: bytes) -> None:
        prefix = decode_varint(data)
        # the draft says a quarter of the session id, one implementation sends the id; both are 0 in practice
        if prefix is not None and self._session_id in (prefix[0], prefix[0] * 4):
            super()._on_datagram(data[prefix[1] :])

    # -- HTTP/3

    def on_settings(self, settings: dict[int, int]) -> None: ...

    def on_headers(self, stream_id: int, headers: Headers) -> None:
        raise NotImplementedError

    def handle(self, event: QuicEvent) -> None:
        try:
            super().handle(event)
        except http3.Http3Error as error:
            reason = f"HTTP/3 error {error.code:#x}: {error.reason}"
            self.end(None, reason, by_peer=False, kind="transport")
            self.connection.close(error.code, error.reason)

    # -- the CONNECT stream, after its HEADERS

    def _begin_session(self, stream_id: int) -> None:
        """From here on, the CONNECT stream carries capsules."""
        if self._named_id is not None and self._named_id != stream_id:
            raise http3.Http3Error(http3.H3_ID_ERROR, f"a stream names session {self._named_id}")
        rest = self._http3.take(stream_id)
        self._session_id = stream_id
        self.may_write = self.is_client
        if rest:
            self.on_connect_data(rest, fin=False)

    def on_connect_data(self, data: bytes, *, fin: bool) -> None:
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
        self.end(code, reason, by_peer=True)
        self._finish_connect(b"")
        self.connection.close_later(http3.H3_NO_ERROR)

    def _connect_aborted(self, wire_code: int) -> None:
        code = from_http3(wire_code)
        self._closed_by_peer(code, "the peer aborted the session's CONNECT stream")

    def _finish_connect(self, data: bytes) -> None:
        assert self._session_id is not None
        with contextlib.suppress(RuntimeError, ValueError):  # the stream was stopped or has ended
            self.connection.quic.send_stream_data(self._session_id, data, end_stream=True)
        self.connection.touch()

    def _application_code(self, code: int) -> int | None:
        return 0 if code == http3.H3_NO_ERROR else from_http3(code)
