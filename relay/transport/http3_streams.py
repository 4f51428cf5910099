"""The HTTP/3 streams of a connection with one WebTransport session: control, QPACK, requests, and those of unknown kind.

aioquic's HTTP/3 layer gets control and QPACK streams and HEADERS frames, never WebTransport streams.
"""

from __future__ import annotations

import contextlib
from typing import Protocol

from aioquic.h3.events import Headers, HeadersReceived
from aioquic.quic.events import StopSendingReceived, StreamDataReceived
from aioquic.quic.events import StreamReset as QuicStreamReset

from relay.transport import http3
from relay.transport.quic import compat
from relay.transport.quic.connection import Connection


class Owner(Protocol):
    """The session."""

    connection: Connection
    is_client: bool
    ended: bool

    def on_settings(self, settings: dict[int, int]) -> None:
        """The peer's settings have come."""

    def on_headers(self, stream_id: int, headers: Headers) -> None:
        """A request, or an answer to ours."""

    def on_stream(self, stream_id: int, session_id: int, data: bytes, *, fin: bool) -> None:
        """The peer opened a WebTransport stream."""

    def on_connect_data(self, data: bytes, *, fin: bool) -> None:
        """Data on the CONNECT stream, after its HEADERS."""


class Http3Streams:
    """All streams but those of the WebTransport session. Methods raise Http3Error."""

    def __init__(self, owner: Owner) -> None:
        self.layer: compat.RelayH3Connection | None = None
        self.heads: dict[int, http3.StreamHead] = {}
        self.requests: dict[int, http3.HeadersReader] = {}
        self.control: set[int] = set()  # the peer's control and QPACK streams, and unknown ones
        self.ignored: set[int] = set()  # streams whose remaining bytes are ignored
        self._owner = owner
        self._settled = False  # the owner has the settings

    def start(self) -> None:
        """Send our settings."""
        self.layer = compat.RelayH3Connection(self._owner.connection.quic)

    # -- requests

    def request(self, stream_id: int, headers: Headers) -> None:
        assert self.layer is not None
        self.requests[stream_id] = http3.HeadersReader()
        self.layer.send_headers(stream_id, headers)

    def answer(self, stream_id: int, headers: Headers, *, end: bool) -> None:
        assert self.layer is not None
        with contextlib.suppress(RuntimeError, ValueError):  # the peer has aborted it; the event follows
            self.layer.send_headers(stream_id, headers, end_stream=end)
        self.layer.forget(stream_id)

    def refuse(self, stream_id: int, status: int) -> None:
        """Reject a request that is not served here, and ignore the rest of it."""
        self.requests.pop(stream_id, None)
        self.ignored.add(stream_id)
        self.answer(stream_id, [(b":status", str(status).encode())], end=True)
        with contextlib.suppress(RuntimeError, ValueError):
            self._owner.connection.quic.stop_stream(stream_id, http3.H3_NO_ERROR)

    def take(self, stream_id: int) -> bytes:
        """Give a stream up after its HEADERS. Returns the bytes behind them."""
        assert self.layer is not None
        rest = self.requests.pop(stream_id).rest()
        self.layer.forget(stream_id)
        return rest

    # -- events

    def on_data(self, stream_id: int, data: bytes, *, fin: bool) -> None:
        if stream_id in self.ignored:
            if fin:
                self.ignored.discard(stream_id)
        elif stream_id in self.requests:
            self.on_request_data(stream_id, data, fin=fin)
        elif stream_id in self.control:
            self._on_control_data(stream_id, data, fin=fin)
        else:
            self._on_head(stream_id, data, fin=fin)

    def _on_head(self, stream_id: int, data: bytes, *, fin: bool) -> None:
        head = self.heads.get(stream_id)
        if head is None:
            head = self.heads[stream_id] = http3.StreamHead(unidirectional=bool(stream_id & 2))
        kind = head.feed(data)
        if kind is None:
            if fin:
                del self.heads[stream_id]  # it ended before its kind was known: our half must end too
                if not stream_id & 2:
                    self._owner.connection.quic.reset_stream(stream_id, http3.H3_REQUEST_INCOMPLETE)
            return
        del self.heads[stream_id]
        if kind.session_id is not None:
            self._owner.on_stream(stream_id, kind.session_id, kind.rest, fin=fin)
        elif stream_id & 2:
            self.control.add(stream_id)
            self._on_control_data(stream_id, kind.rest, fin=fin)
        elif self._owner.is_client:
            raise http3.Http3Error(http3.H3_STREAM_CREATION_ERROR, "a request stream from the server")
        else:
            self.requests[stream_id] = http3.HeadersReader()
            self.on_request_data(stream_id, kind.rest, fin=fin)

    def _on_control_data(self, stream_id: int, data: bytes, *, fin: bool) -> None:
        self.on_event(StreamDataReceived(data=data, end_stream=fin, stream_id=stream_id))
        if fin:
            self.control.discard(stream_id)
        elif self.layer is not None and self.layer.waiting(stream_id) > http3.CONTROL_LIMIT:
            raise http3.Http3Error(http3.H3_EXCESSIVE_LOAD, "a frame on the control stream is too long")

    def on_request_data(self, stream_id: int, data: bytes, *, fin: bool) -> None:
        """Feed bytes of a request, or of the response to ours, until its HEADERS are complete."""
        frame = self.requests[stream_id].feed(data)
        if frame is not None:
            self.on_event(StreamDataReceived(data=frame, end_stream=False, stream_id=stream_id))
        if not fin or self._owner.ended:
            return
        if self.requests.pop(stream_id, None) is not None:
            if self._owner.is_client:
                raise http3.Http3Error(http3.H3_MESSAGE_ERROR, "no answer to the CONNECT request")
            self._drop(stream_id)
        elif stream_id in self.ignored:
            self.ignored.discard(stream_id)
        else:
            self._owner.on_connect_data(b"", fin=True)

    def on_reset(self, event: QuicStreamReset) -> bool:
        """Returns False for a stream of the session."""
        stream_id = event.stream_id
        if stream_id in self.control:
            self.control.discard(stream_id)
            self.on_event(event)
        elif stream_id in self.ignored:
            self.ignored.discard(stream_id)
        elif self.requests.pop(stream_id, None) is not None or self.heads.pop(stream_id, None) is not None:
            if not stream_id & 2:
                self._drop(stream_id)
        else:
            return False
        return True

    def _drop(self, stream_id: int) -> None:
        self._owner.connection.quic.reset_stream(stream_id, http3.H3_REQUEST_INCOMPLETE)
        if self.layer is not None:
            self.layer.forget(stream_id)

    def on_event(self, event: StreamDataReceived | QuicStreamReset | StopSendingReceived) -> None:
        """Let aioquic's layer handle an event."""
        if self.layer is None:
            return
        try:
            events = self.layer.handle_event(event)
        except RuntimeError:
            # aioquic writes to its QPACK stream, which the peer has stopped; the event follows
            raise http3.Http3Error(http3.H3_CLOSED_CRITICAL_STREAM, "a QPACK stream was stopped") from None
        for h3_event in events:
            if isinstance(h3_event, HeadersReceived):
                self._owner.on_headers(h3_event.stream_id, h3_event.headers)
        settings = self.layer.received_settings
        if settings is not None and not self._settled:
            self._settled = True
            self._owner.on_settings(settings)
