"""The two parsers in front of HTTP/3, and a WebTransport server with unusual clients."""

from __future__ import annotations

from typing import Any

import pytest
from aioquic.h3.connection import H3Connection
from aioquic.quic.events import HandshakeCompleted, QuicEvent
from hypothesis import given
from hypothesis import strategies as st

from relay.transport import http3
from relay.transport.session import DatagramReceived, SessionClosed, StreamData
from relay.wire.errors import to_http3
from relay.wire.varint import encode_varint
from relay.wire.webtransport import encode_close_capsule
from tests.transport.virtual import PlainEnd, Recorder, Wire

pytestmark = pytest.mark.usefixtures("pairing")


def long_form(value: int) -> bytes:
    return (value | 0xC000_0000_0000_0000).to_bytes(8, "big")


# -- parsers


@pytest.mark.parametrize("encode", [encode_varint, long_form])
@pytest.mark.parametrize("unidirectional, kind", [(True, 0x54), (False, 0x41)])
@pytest.mark.parametrize("session", [0, 4, 4000])
def test_webtransport_head_byte_by_byte(encode: Any, unidirectional: bool, kind: int, session: int) -> None:
    head = http3.StreamHead(unidirectional=unidirectional)
    prefix = encode(kind) + encode(session)
    for byte in prefix[:-1]:
        assert head.feed(bytes([byte])) is None
    assert head.feed(prefix[-1:] + b"rest") == http3.StreamKind(session, b"rest")


@pytest.mark.parametrize("first", [0, 1, 2, 3, 0x41, 0x21])
def test_http3_uni_head(first: int) -> None:
    head = http3.StreamHead(unidirectional=True)
    data = long_form(first)
    assert head.feed(data[:3]) is None
    assert head.feed(data[3:] + b"x") == http3.StreamKind(None, data + b"x")


def test_headers_byte_by_byte() -> None:
    grease = long_form(0x21) + long_form(5) + b"\x00\x01\x02\x03\x04"
    frame = long_form(1) + long_form(3) + b"abc"
    reader = http3.HeadersReader()
    data = grease + encode_varint(0x40) + b"\x00" + frame
    for byte in data[:-1]:
        assert reader.feed(bytes([byte])) is None
    assert reader.feed(data[-1:] + b"tail") == frame
    assert reader.feed(b"more") is None
    assert reader.rest() == b"tailmore"
    assert reader.feed(frame) == frame


@pytest.mark.parametrize("kind", [0, 2, 3, 4, 5, 6, 7, 8, 9, 13])
def test_forbidden_before_headers(kind: int) -> None:
    with pytest.raises(http3.Http3Error) as caught:
        http3.HeadersReader().feed(encode_varint(kind))
    assert caught.value.code == http3.H3_FRAME_UNEXPECTED


def test_headers_have_a_limit() -> None:
    with pytest.raises(http3.Http3Error) as caught:
        http3.HeadersReader().feed(b"\x01" + encode_varint(http3.HEADERS_LIMIT + 1))
    assert caught.value.code == http3.H3_EXCESSIVE_LOAD
    reader = http3.HeadersReader()
    reader.feed(b"\x01\x01x")
    with pytest.raises(http3.Http3Error):
        reader.feed(bytes(http3.HEADERS_LIMIT + 1))


@given(st.lists(st.binary(max_size=50), max_size=20))
def test_readers_take_any_bytes(chunks: list[bytes]) -> None:
    head, reader = http3.StreamHead(unidirectional=False), http3.HeadersReader()
    for chunk in chunks:
        head.feed(chunk)
    try:
        for chunk in chunks:
            reader.feed(chunk)
    except http3.Http3Error:
        pass


# -- a scripted client

CONNECT = [
    (b":method", b"CONNECT"),
    (b":protocol", b"webtransport"),
    (b":scheme", b"https"),
    (b":authority", b"relay.test"),
    (b":path", b"/a?b=c"),
]


class Script(PlainEnd):
    """A client of plain aioquic and its HTTP/3 layer."""

    def __init__(self, wire: Wire) -> None:
        super().__init__(wire, "h3")
        self.h3: H3Connection | None = None
        self.headers: dict[int, dict[bytes, bytes]] = {}

    def established(self) -> None:
        self.h3 = H3Connection(self.quic, enable_webtransport=True)

    def handle(self, event: QuicEvent) -> None:
        super().handle(event)
        if isinstance(event, HandshakeCompleted):
            self.established()
            return
        stream_id = getattr(event, "stream_id", None)
        if self.h3 is not None and (stream_id is None or stream_id % 4 in (0, 3)):
            for h3_event in self.h3.handle_event(event):
                if hasattr(h3_event, "headers"):
                    self.headers[stream_id or 0] = dict(h3_event.headers)


class ScriptedClient:
    """A wire with a scripted client."""

    kind: type[Script] = Script

    def __init__(self, **options: Any) -> None:
        self.wire = Wire("webtransport", client_end=self._make, **options)
        self.wire.run()
        self.quic = self.script.quic

    def _make(self, wire: Wire) -> tuple[Script, bytes]:
        self.script = self.kind(wire)
        return self.script, self.script.quic.original_destination_connection_id

    def send(self, stream_id: int, data: bytes, *, fin: bool = False) -> None:
        self.quic.send_stream_data(stream_id, data, fin)
        self.run()

    def request(self, headers: list[tuple[bytes, bytes]], stream_id: int = 0, *, fin: bool = False) -> None:
        assert self.script.h3 is not None
        self.script.h3.send_headers(stream_id, headers, end_stream=fin)
        self.run()

    def run(self) -> None:
        self.script.touch()
        self.wire.run()

    def open(self) -> Recorder:
        self.request(CONNECT)
        assert self.wire.server is not None
        return Recorder(self.wire.server)

    def status(self, stream_id: int = 0) -> bytes:
        return self.script.headers[stream_id][b":status"]

    @property
    def closed_with(self) -> int | None:
        event = self.quic._close_event
        return None if event is None else int(event.error_code)


def test_accept_answer() -> None:
    client = ScriptedClient()
    client.request([*CONNECT, (b"wt-available-protocols", b'"moqt-17", "moq-lite-04", "moq-lite-06"')])
    assert client.script.headers[0] == {
        b":status": b"200",
        b"sec-webtransport-http3-draft": b"draft02",
        b"wt-protocol": b'"moq-lite-04"',
    }
    assert client.wire.requests[0].path == "/a"
    assert client.wire.requests[0].query == "b=c"
    assert client.wire.requests[0].offered == ("moqt-17", "moq-lite-04", "moq-lite-06")


def test_no_protocol_offered_is_setup() -> None:
    client = ScriptedClient()
    client.open()
    assert b"wt-protocol" not in client.script.headers[0]
    assert client.wire.server is not None
    assert client.wire.server.version is None


@pytest.mark.parametrize("offers", [b"moq-lite-05", b'"moq-lite-05', b'"a",,"b"', b"1"])
def test_malformed_offers(offers: bytes) -> None:
    client = ScriptedClient()
    client.request([*CONNECT, (b"wt-available-protocols", offers)])
    assert client.status() == b"400"
    assert not client.wire.requests


@pytest.mark.parametrize(
    "headers, status",
    [
        ([(b":method", b"GET"), *CONNECT[2:]], b"404"),
        ([(b":method", b"POST"), *CONNECT[2:]], b"405"),
        ([CONNECT[0], CONNECT[3]], b"405"),
        ([CONNECT[0], (b":protocol", b"websocket"), *CONNECT[2:]], b"400"),
        ([*CONNECT[:4], (b":path", b"no-slash")], b"400"),
    ],
)
def test_other_requests_get_an_answer(headers: list[tuple[bytes, bytes]], status: bytes) -> None:
    client = ScriptedClient()
    client.request(headers)
    assert client.status() == status
    assert client.closed_with is None
    # The connection stays usable: the session may come on the next stream.
    client.request(CONNECT, 4)
    assert client.status(4) == b"200"
    assert client.wire.server is not None
    session: Any = client.wire.server
    assert session._session_id == 4
    seen = Recorder(client.wire.server)
    client.send(8, encode_varint(0x41) + encode_varint(4) + b"data")
    assert seen.data(8) == b"data"
    assert not session._requests


def test_second_connect_is_refused() -> None:
    client = ScriptedClient()
    client.open()
    client.request(CONNECT, 4)
    assert client.status(4) == b"409"
    assert len(client.wire.requests) == 1
    assert client.closed_with is None


def test_request_in_single_bytes() -> None:
    client = ScriptedClient()
    assert client.script.h3 is not None
    block = client.script.h3._encode_headers(0, CONNECT)
    frame = b"\x21\x02xx\x01" + encode_varint(len(block)) + block
    for byte in frame:
        client.send(0, bytes([byte]))
    assert client.status() == b"200"


def test_streams_in_single_bytes() -> None:
    client = ScriptedClient()
    seen = client.open()
    for stream_id, kind in ((4, 0x41), (14, 0x54)):
        data = long_form(kind) + long_form(0) + b"payload"
        for byte in data:
            client.send(stream_id, bytes([byte]))
        client.send(stream_id, b"", fin=True)
        assert seen.data(stream_id) == b"payload"
    assert seen.finished == [4, 14]


def test_streams_before_the_request_are_kept() -> None:
    client = ScriptedClient(answer=lambda request: None)
    client.quic.send_stream_data(0, b"")
    client.send(4, encode_varint(0x41) + b"\x00early")
    client.send(14, encode_varint(0x54) + b"\x00uni", fin=True)
    client.request(CONNECT)
    client.send(4, b"!")
    seen = Recorder(client.wire.requests[0].accept())
    client.run()
    assert client.status() == b"200"
    assert seen.data(4) == b"early!"
    assert seen.data(14) == b"uni"


@pytest.mark.parametrize("session_id", [4, 1, 3, 400])
def test_wrong_session_id(session_id: int) -> None:
    client = ScriptedClient()
    seen = client.open()
    client.send(14, encode_varint(0x54) + encode_varint(session_id) + b"x")
    assert client.closed_with == http3.H3_ID_ERROR
    assert seen.closed is not None
    assert seen.closed.code is None


def test_wrong_session_id_before_the_request() -> None:
    client = ScriptedClient()
    client.send(14, encode_varint(0x54) + encode_varint(4) + b"x")
    assert client.closed_with is None
    client.request(CONNECT, 0)
    assert client.closed_with == http3.H3_ID_ERROR


@pytest.mark.parametrize("in_data_frame", [True, False])
@pytest.mark.parametrize("fin", [True, False])
def test_close_capsule(in_data_frame: bool, fin: bool) -> None:
    client = ScriptedClient()
    seen = client.open()
    unknown = encode_varint(0x2842) + b"\x03abc"
    client.send(0, unknown if not in_data_frame else b"\x00" + encode_varint(len(unknown)) + unknown)
    for byte in encode_close_capsule(51, "gone", in_data_frame):
        client.send(0, bytes([byte]))
    if fin:
        client.send(0, b"", fin=True)
    assert seen.closed == SessionClosed(51, "gone", by_peer=True)
    client.wire.advance(1.0)
    assert client.closed_with == http3.H3_NO_ERROR


def test_end_of_the_connect_stream() -> None:
    client = ScriptedClient()
    seen = client.open()
    client.send(0, b"", fin=True)
    assert seen.closed == SessionClosed(0, "", by_peer=True)


@pytest.mark.parametrize("code, expected", [(to_http3(9), 9), (0x10C, None)])
def test_reset_of_the_connect_stream(code: int, expected: int | None) -> None:
    client = ScriptedClient()
    seen = client.open()
    client.quic.reset_stream(0, code)
    client.run()
    assert seen.closed is not None
    assert (seen.closed.code, seen.closed.by_peer) == (expected, True)


@pytest.mark.parametrize("code, expected", [(to_http3(9), 9), (http3.H3_NO_ERROR, 0), (0x105, None)])
def test_quic_close_of_a_webtransport_peer(code: int, expected: int | None) -> None:
    client = ScriptedClient()
    seen = client.open()
    client.quic.close(code, None, "why")
    client.run()
    assert seen.closed == SessionClosed(expected, "why", by_peer=True)


def test_malformed_close_capsule() -> None:
    client = ScriptedClient()
    seen = client.open()
    client.send(0, encode_varint(0x2843) + b"\x02xx")
    assert client.closed_with == http3.H3_MESSAGE_ERROR
    assert seen.closed is not None


def test_connect_that_ends_at_once() -> None:
    client = ScriptedClient()
    client.request(CONNECT, fin=True)
    assert client.wire.server is not None
    assert Recorder(client.wire.server).closed is None
    client.wire.run()
    assert client.wire.server.ended


@pytest.mark.parametrize("data", [b"", b"\x01", b"\x01\x05xx", b"\x40"])
def test_request_streams_that_end_early(data: bytes) -> None:
    client = ScriptedClient()
    client.send(0, data, fin=True)
    assert client.closed_with is None
    client.request(CONNECT, 4)
    assert client.status(4) == b"200"
    session: Any = client.wire.server
    assert not session._requests
    assert session.connection.streams.get(0) is None


def test_reset_of_streams_that_said_nothing() -> None:
    client = ScriptedClient()
    seen = client.open()
    for stream_id in (4, 14):
        client.send(stream_id, b"\x40")
        client.quic.reset_stream(stream_id, 0)
        client.run()
    assert not seen.events
    session: Any = client.wire.server
    assert not {4, 14} & set(session.connection.streams._by_id)
    assert client.closed_with is None


def test_unknown_uni_streams_are_ignored() -> None:
    client = ScriptedClient()
    client.open()
    client.send(14, encode_varint(0x21) + bytes(5000))
    client.send(14, bytes(5000), fin=True)
    client.send(18, encode_varint(0x3F1))
    client.quic.reset_stream(18, 5)
    client.run()
    assert client.closed_with is None
    session: Any = client.wire.server
    for stream_id in (14, 18):
        assert stream_id not in session._h3._stream
        assert session.connection.streams.get(stream_id) is None


def test_closing_the_control_stream_is_an_error() -> None:
    client = ScriptedClient()
    seen = client.open()
    client.quic.reset_stream(2, 0)
    client.run()
    assert client.closed_with == http3.H3_CLOSED_CRITICAL_STREAM
    assert seen.closed is not None


def test_stopping_our_qpack_stream_is_an_error() -> None:
    client = ScriptedClient()
    client.open()
    client.quic.stop_stream(11, 0)
    client.request(CONNECT, 4)
    assert client.closed_with == http3.H3_CLOSED_CRITICAL_STREAM


def test_garbage_headers() -> None:
    client = ScriptedClient()
    client.send(0, b"\x01\x04\xff\xff\xff\xff")
    assert client.closed_with == 0x200  # QPACK_DECOMPRESSION_FAILED


def test_datagrams_of_other_sessions_are_dropped() -> None:
    client = ScriptedClient()
    seen = client.open()
    for data in (b"", b"\x40", b"\x01other", b"\x00ours"):
        client.quic.send_datagram_frame(data)
        client.run()
    assert seen.events == [DatagramReceived(b"ours")]


def test_stop_before_the_first_byte_of_a_stream() -> None:
    client = ScriptedClient()
    seen = client.open()
    client.quic.send_stream_data(4, b"")
    client.quic.stop_stream(4, to_http3(7))
    client.run()
    client.send(4, encode_varint(0x41) + b"\x00late")
    assert [e.data for e in seen.events if isinstance(e, StreamData)] == [b"late"]
    assert seen.stops == [(4, 7)]


def test_a_request_answered_after_the_peer_left() -> None:
    client = ScriptedClient(answer=lambda request: None)
    client.request(CONNECT)
    client.quic.close(to_http3(3), None, "bye")
    client.run()
    session = client.wire.requests[0].accept()
    seen = Recorder(session)
    client.wire.advance(2.0)
    assert seen.closed == SessionClosed(3, "bye", by_peer=True)
    client.wire.requests[0].reject(401, "too late")


def test_shutdown_of_an_unanswered_request() -> None:
    client = ScriptedClient(answer=lambda request: None)
    client.request(CONNECT)
    session = client.wire.server_driver.session
    assert session is not None
    session.close(0, "shutdown")
    client.wire.run()
    assert client.status() == b"503"


# -- what our own client sees


def test_settings_satisfy_every_generation() -> None:
    wire = Wire("webtransport")
    wire.open()
    session: Any = wire.client
    for name in (0x08, 0x33, 0xFFD277, 0x2B603742, 0x2B603743, 0xC671706A):
        assert session._h3.received_settings[name] == 1


def test_the_control_stream_comes_first() -> None:
    wire = Wire("webtransport")
    _, server = wire.open()
    session: Any = server
    assert session._h3._local_control_stream_id == 3
    assert 0 not in session._h3._stream  # the request's record is dropped


# -- what a client makes HTTP/3 keep


@pytest.mark.parametrize(
    "kind, code", [(0xD, http3.H3_EXCESSIVE_LOAD), (0x21, None)], ids=["read as a whole", "skipped"]
)
def test_a_frame_on_the_control_stream_has_a_limit(kind: int, code: int | None) -> None:
    client = ScriptedClient()
    client.open()
    client.send(2, bytes((kind,)) + encode_varint(1 << 40))
    for _ in range(8):
        assert client.closed_with is None
        client.send(2, bytes(http3.CONTROL_LIMIT // 8))
    client.send(2, b"x")
    assert client.closed_with == code
    if code is None:
        session: Any = client.wire.server
        assert session._h3.waiting(2) == 0


@pytest.mark.parametrize("ending", ["reset", "end"])
def test_a_request_that_goes_while_its_headers_wait_for_qpack(ending: str) -> None:
    client = ScriptedClient()
    seen = client.open()
    assert client.script.h3 is not None
    encoder = client.script.h3._encoder
    inserts = headers = b""
    for stream_id in range(4, 400, 4):
        inserts, headers = encoder.encode(stream_id, [*CONNECT, (b"x-name", b"value of some length")])
        if inserts and headers[0]:
            break
        client.send(6, inserts)
    assert headers[0]  # needs entries of the dynamic table that were not sent yet
    client.send(stream_id, b"\x01" + encode_varint(len(headers)) + headers, fin=ending == "end")
    if ending == "reset":
        client.quic.reset_stream(stream_id, 5)
        client.run()
    client.send(6, inserts)
    assert client.closed_with is None
    assert not seen.events
    session: Any = client.wire.server
    assert stream_id not in session._h3._stream
