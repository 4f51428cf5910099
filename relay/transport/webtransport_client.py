"""The client side of WebTransport: sends the CONNECT request once the server's settings allow it."""

from __future__ import annotations

from aioquic.h3.events import Headers
from aioquic.quic.events import StreamDataReceived

from relay.transport import http3
from relay.transport.quic.connection import Connection
from relay.transport.refusal import answered
from relay.transport.webtransport import WebTransportSession
from relay.wire.version import ALPN_VERSIONS
from relay.wire.webtransport import parse_protocol_list, quote_protocol

SETTINGS_H3_DATAGRAM = 0x33
SETTINGS_H3_DATAGRAM_04 = 0xFFD277
SETTINGS_ENABLE_WEBTRANSPORT = 0x2B603742
SETTINGS_MAX_SESSIONS_02 = 0x2B603743
SETTINGS_MAX_SESSIONS_07 = 0xC671706A

FIRST_FINAL_STATUS = 200
FIRST_REFUSAL = 300


class WebTransportClientSession(WebTransportSession):
    """The client's session."""

    def __init__(
        self, connection: Connection, *, authority: str, path: str, query: str, protocols: list[str]
    ) -> None:
        super().__init__(connection, is_client=True)
        self.path = path
        self.query = query
        self._authority = authority
        self._protocols = protocols
        self._request_id: int | None = None
        self.status: int | None = None

    def established(self) -> None:
        # only now: HTTP/3 sends application data, and the server's certificate is checked
        self._http3.start()
        self.connection.touch()

    def _on_data(self, event: StreamDataReceived) -> None:
        # the answer comes on a stream of ours, which is in no table of streams
        if event.stream_id in (self._request_id, self._session_id) and event.stream_id not in self._streams:
            self._on_unknown(event.stream_id, event.data, fin=event.end_stream)
        else:
            super()._on_data(event)

    def on_settings(self, settings: dict[int, int]) -> None:
        if self.ended:
            return
        if not _supports_webtransport(settings):
            self.end(None, "the server does not support WebTransport", by_peer=True, kind="transport")
            self.connection.close(http3.H3_NO_ERROR)
            return
        target = f"{self.path}?{self.query}" if self.query else str(self.path)
        headers = [
            (b":method", b"CONNECT"),
            (b":protocol", b"webtransport"),
            (b":scheme", b"https"),
            (b":authority", self._authority.encode()),
            (b":path", target.encode()),
            (b"sec-webtransport-http3-draft02", b"1"),
        ]
        if self._protocols:
            offers = ", ".join(quote_protocol(name) for name in self._protocols)
            headers.append((b"wt-available-protocols", offers.encode()))
        stream_id = self.connection.quic.get_next_available_stream_id()
        self._request_id = stream_id
        self._http3.request(stream_id, headers)
        self.connection.touch()

    def on_headers(self, stream_id: int, headers: Headers) -> None:
        fields = dict(headers)
        status = int(fields[b":status"])
        if status < FIRST_FINAL_STATUS:
            rest = self._http3.requests[stream_id].rest()  # an interim answer; the final one may be buffered
            self._http3.on_request_data(stream_id, rest, fin=False)
            return
        self.status = status
        if status >= FIRST_REFUSAL:
            field = fields.get(b"www-authenticate", b"").decode("latin-1")
            self.end(None, answered(status, field), by_peer=True, kind="http")
            self.connection.close(http3.H3_NO_ERROR)
            return
        chosen = fields.get(b"wt-protocol")
        if chosen is not None:
            try:
                names = parse_protocol_list(chosen.decode("latin-1"))
            except ValueError:
                names = []
            if len(names) != 1 or names[0] not in self._protocols:
                reason = "the server chose a protocol that was not offered"
                raise http3.Http3Error(http3.H3_GENERAL_PROTOCOL_ERROR, reason)
            self.alpn = names[0]
            self.version = ALPN_VERSIONS.get(names[0])
        self._begin_session(stream_id)
        if self.opened is not None and not self.opened.done():
            self.opened.set_result(None)


def _supports_webtransport(settings: dict[int, int]) -> bool:
    """The rule of deployed clients."""
    datagrams = settings.get(SETTINGS_H3_DATAGRAM, settings.get(SETTINGS_H3_DATAGRAM_04))
    if datagrams != 1:
        return False
    if SETTINGS_MAX_SESSIONS_07 in settings:
        return settings[SETTINGS_MAX_SESSIONS_07] > 0
    return settings.get(SETTINGS_ENABLE_WEBTRANSPORT) == 1 and settings.get(SETTINGS_MAX_SESSIONS_02, 1) > 0
