"""HTTP/3 and WebTransport: our parsers, and whole sessions behind a real connection."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from aioquic.buffer import encode_uint_var
from pylsqpack import Encoder

from fuzz.quic_pair import Pair
from fuzz.source import Source
from relay.transport import http3
from relay.wire.errors import WireError, from_http3, to_http3
from relay.wire.webtransport import CloseCapsuleDecoder, parse_protocol_list, quote_protocol

FRAMES = (0x1, 0x0, 0x4, 0x7, 0x21, 0x2, 0x3, 0x5, 0xD, 0xF0700)
"""HEADERS first, then DATA, SETTINGS, GOAWAY, an unknown one, and forbidden ones."""

LIMIT = http3.HEADERS_LIMIT + 16


def stream_heads(data: bytes) -> None:
    """The first varints of a stream, in slices."""
    source = Source(data)
    unidirectional, step = source.flag(), source.byte() % 8
    rest = source.rest()
    results = []
    for slices in ([rest], source.slices(rest, step)):
        head = http3.StreamHead(unidirectional=unidirectional)
        fed = b""
        found = None
        for piece in slices:
            fed += piece
            found = head.feed(piece)
            if found is not None:
                break
        results.append(None if found is None else (found.session_id, found.rest + rest[len(fed) :]))
    assert results[0] == results[1], results


def headers(data: bytes) -> None:
    """Extract HEADERS from a request stream, in slices."""
    source = Source(data)
    step = source.byte() % 8
    rest = source.rest()
    results: list[Any] = []
    for slices in ([rest], source.slices(rest, step)):
        reader = http3.HeadersReader()
        frame = None
        try:
            for piece in slices:
                found = reader.feed(piece)
                if found is not None:
                    assert frame is None
                    frame = found
                assert len(reader._data) <= LIMIT
            results.append((frame, reader.rest()))
        except http3.Http3Error as error:
            results.append(error.code)
    assert results[0] == results[1], results


def capsules(data: bytes) -> None:
    """The CONNECT stream after its HEADERS."""
    source = Source(data)
    step = source.byte() % 8
    rest = source.rest()
    results: list[Any] = []
    for slices in ([rest], source.slices(rest, step)):
        decoder = CloseCapsuleDecoder()
        found = None
        try:
            for piece in slices:
                found = decoder.feed(piece) or found
                assert decoder.buffered <= 1024 + 4
            results.append(found)
        except WireError as error:
            results.append(type(error))
    assert results[0] == results[1], results


def protocol_lists(data: bytes) -> None:
    """The header that offers subprotocols, and the mapping of codes."""
    source = Source(data)
    code = source.number()
    plain = from_http3(code)
    assert plain is None or to_http3(plain) == code
    with suppress(ValueError):
        names = parse_protocol_list(source.rest().decode("latin-1"))
        assert parse_protocol_list(", ".join(map(quote_protocol, names))) == names


# -- sessions

NAMES = (":method", ":protocol", ":scheme", ":authority", ":path", ":status", "wt-available-protocols",
         "wt-protocol", "cookie", "host", "content-length", "transfer-encoding", "te", "x", "")  # fmt: skip
VALUES = ("CONNECT", "webtransport", "https", "relay.test", "/demo?jwt=a.b.c", "200", '"moq-lite-05", "moq-lite-04"',
          '"moq-lite-06"', "GET", "103", "/\xff\xc3", "moqt", "500", "abc", "")  # fmt: skip


def fields(source: Source) -> list[tuple[bytes, bytes]]:
    """The valid header block with changes, or an arbitrary one."""
    usual = [*zip(NAMES[:5], VALUES[:5], strict=True), (NAMES[6], VALUES[6])]
    if source.flag():
        usual = [(":status", "200"), ("wt-protocol", '"moq-lite-05"')]
    for _ in range(source.byte() % 4):
        at = source.byte() % (len(usual) + 1)
        name = source.pick(NAMES)
        value = source.pick(VALUES) if source.flag() else source.chunk().decode("latin-1")
        if source.flag() and at < len(usual):
            usual[at] = usual[at][0] if source.flag() else name, value
        elif source.flag():
            usual.insert(at, (name, value))
        else:
            del usual[at : at + 1]
    return [(name.encode(), value.encode("latin-1")) for name, value in usual]


def block(source: Source, encoder: Encoder, stream_id: int) -> bytes:
    """The HTTP/3 frames of a request stream."""
    found = b""
    for _ in range(1 + source.byte() % 3):
        kind = source.pick(FRAMES)
        body = source.chunk()
        if kind == 0x1 and source.byte() % 8:
            _, body = encoder.encode(stream_id, fields(source))
        size = source.number() if source.byte() % 16 == 1 else len(body)
        found += encode_uint_var(kind) + encode_uint_var(size) + body
    return found


def content(source: Source, encoder: Encoder, stream_id: int) -> bytes:
    """The next bytes of a stream of any kind."""
    match source.byte() % 6:
        case 0:
            return source.chunk()
        case 1:
            return encode_uint_var(0x54 if stream_id & 2 else 0x41) + source.varint() + source.chunk()
        case 2 if stream_id & 2:
            settings = b"".join(source.varint() + source.varint() for _ in range(source.byte() % 8))
            return b"\x00\x04" + encode_uint_var(len(settings)) + settings + source.chunk()
        case 3 if stream_id & 2:
            return bytes((source.pick((2, 3, 1, 0x21)),)) + source.chunk()
        case 4:
            body = source.chunk()
            inner = encode_uint_var(0x2843) + encode_uint_var(len(body)) + body
            return b"\x00" + encode_uint_var(len(inner)) + inner if source.flag() else inner
        case _:
            return block(source, encoder, stream_id)


def say(pair: Pair, headers: list[tuple[str, str]]) -> None:
    """Request the session, or accept it."""
    encoded = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    _, body = Encoder().encode(0, encoded)
    pair.attacker.send_stream_data(0, b"\x01" + encode_uint_var(len(body)) + body)
    pair.exchange()


def play(source: Source, pair: Pair, *, first_bidi: int, first_uni: int) -> None:
    """Operate on the peer's streams as the input says."""
    encoder = Encoder()
    quic = pair.attacker
    while source and not pair.over:
        unidirectional = source.flag()
        base = first_uni if unidirectional else first_bidi
        stream_id = base + 4 * (source.byte() % 5)
        # both errors: the stream has ended
        with suppress(RuntimeError, ValueError, AssertionError):
            match source.byte() % 8:
                case 0:
                    quic.reset_stream(stream_id, source.number())
                case 1:
                    quic.stop_stream(stream_id, source.number())
                case 2:
                    quic.send_datagram_frame(source.chunk())
                case 3:
                    pair.act(source)
                case _:
                    data = content(source, encoder, stream_id)
                    quic.send_stream_data(stream_id, data, end_stream=source.byte() % 8 == 1)
        if source.byte() % 3:
            pair.exchange()
    pair.finish()


def webtransport_server(data: bytes) -> None:
    """Its client speaks HTTP/3 arbitrarily."""
    source = Source(data)
    with Pair("h3", way=source.byte()) as pair:
        if source.byte() % 8:
            pair.attacker.send_stream_data(2, b"\x00\x04\x00")
            say(pair, [*zip(NAMES[:5], VALUES[:5], strict=True), (NAMES[6], VALUES[6])])
        play(source, pair, first_bidi=0, first_uni=2)


def webtransport_client(data: bytes) -> None:
    """Its server answers arbitrarily."""
    source = Source(data)
    with Pair("h3", way=source.byte(), hostile_server=True) as pair:
        if source.byte() % 8:
            # H3_DATAGRAM, ENABLE_WEBTRANSPORT, ENABLE_CONNECT_PROTOCOL
            settings = b"\x33\x01\xab\x60\x37\x42\x01\x08\x01"
            pair.attacker.send_stream_data(3, b"\x00\x04" + encode_uint_var(len(settings)) + settings)
            pair.exchange()
            if source.byte() % 8:
                say(pair, [(":status", "200"), ("wt-protocol", '"moq-lite-05"')])
        play(source, pair, first_bidi=source.pick((0, 0, 0, 1)), first_uni=3)


TARGETS = {
    "http3-heads": stream_heads,
    "http3-headers": headers,
    "http3-capsules": capsules,
    "http3-offers": protocol_lists,
    "webtransport-server": webtransport_server,
    "webtransport-client": webtransport_client,
}
