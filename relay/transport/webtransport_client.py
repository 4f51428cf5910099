"""The client side of WebTransport.

Owns the CONNECT request, sent once the server's settings allow it, and its answer.
"""

from __future__ import annotations

from aioquic.h3.events import Headers
from aioquic.quic.events import StopSendingReceived, StreamDataReceived, StreamReset

from relay.quic.driver import Driver
from relay.quic.streams import Stream
from relay.transport import http3
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
        self, driver: Driver, *, authority: str, path: str, query: str, protocols: list[str]
    ) -> None:
        super().__init__(driver, is_client=True)
        self.path = path
        self.query = query
        self._authority = authority
        self._protocols = protocols
        self._requested = False
        self.status: int | None = None

    def established(self) -> None:
        self._h3 = http3.Http3(self.connection)

    def _h3_event(self, event: StreamDataReceived | StreamReset | StopSendingReceived) -> None:
        super()._h3_event(event)
        assert self._h3 is not None
        if not self._requested and self._h3.received_settings is not None and not self.ended:
            self._request(self._h3.received_settings)

    def _request(self, settings: dict[int, int]) -> None:
        if not _supports_webtransport(settings):
            self.end(None, "the server does not support WebTransport", by_peer=True, kind="transport")
            self.driver.close(http3.H3_NO_ERROR)
            return
        assert self._h3 is not None
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
        self._requested = True
        stream = self.connection.open_stream(http3.URGENT, unidirectional=False)
        if not self.connection.streams.claim(stream):
            raise http3.Http3Error(http3.H3_GENERAL_PROTOCOL_ERROR, "the server allows no request")
        self._add_request(stream)
        self._h3.send_headers(stream.id, headers)

    def _on_headers(self, stream: Stream, headers: Headers) -> None:
        fields = dict(headers)
        status = int(fields[b":status"])
        if status < FIRST_FINAL_STATUS:
            reader = stream.context
            assert isinstance(reader, http3.HeadersReader)
            # An interim answer; the final one may be buffered.
            self._on_request_data(stream, reader, reader.rest(), fin=False)
            return
        self.status = status
        if status >= FIRST_REFUSAL:
            field = fields.get(b"www-authenticate", b"").decode("latin-1")
            self.end(None, answered(status, field), by_peer=True, kind="http")
            self.driver.close(http3.H3_NO_ERROR)
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
        self._begin_session(stream)
        if self.opened is not None and not self.opened.done():
            self.opened.set_result(None)

    def _ended_without_headers(self, stream: Stream) -> None:  # noqa: ARG002 - there is only one
        raise http3.Http3Error(http3.H3_MESSAGE_ERROR, "no answer to the CONNECT request")


def _supports_webtransport(settings: dict[int, int]) -> bool:
    """The rule of deployed clients."""
    datagrams = settings.get(SETTINGS_H3_DATAGRAM, settings.get(SETTINGS_H3_DATAGRAM_04))
    if datagrams != 1:
        return False
    if SETTINGS_MAX_SESSIONS_07 in settings:
        return settings[SETTINGS_MAX_SESSIONS_07] > 0
    return settings.get(SETTINGS_ENABLE_WEBTRANSPORT) == 1 and settings.get(SETTINGS_MAX_SESSIONS_02, 1) > 0
