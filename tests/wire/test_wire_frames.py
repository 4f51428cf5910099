"""Frames and unidirectional streams: boundaries, identity of payloads, limits."""

from __future__ import annotations

import pytest

from relay.wire.errors import (
    BadTimestamp,
    DecodeError,
    FrameTooLarge,
    MessageTooLarge,
    StreamCode,
    Truncated,
    UnknownStreamType,
)
from relay.wire.frame import (
    MAX_TIMESTAMP,
    Datagram,
    FrameHeader,
    GroupHeader,
    frame_header_plain,
    frame_header_timed,
    group_header,
    setup_stream,
)
from relay.wire.frame_decoder import FrameDecoder, UniDecoder
from relay.wire.setup import Setup
from relay.wire.varint import encode_varint
from relay.wire.version import Version

V = Version


def test_a_slice_inside_one_frame_is_passed_on_as_the_same_object() -> None:
    decoder = FrameDecoder(V.LITE_01)
    assert decoder.feed(frame_header_plain(5000)) == [FrameHeader(0, 5000)]
    piece = bytes(1200)
    (passed,) = decoder.feed(piece)
    assert passed is piece
    assert decoder.in_frame


def test_a_payload_is_not_waited_for() -> None:
    decoder = FrameDecoder(V.LITE_06)
    assert decoder.feed(frame_header_timed(7, 10) + b"abc") == [FrameHeader(7, 10), b"abc"]
    assert decoder.feed(b"defghij") == [b"defghij"]
    assert not decoder.in_frame


def test_an_empty_frame_is_a_header_alone() -> None:
    decoder = FrameDecoder(V.LITE_01)
    assert decoder.feed(b"\x00\x00\x01x\x00") == [
        FrameHeader(0, 0),
        FrameHeader(0, 0),
        FrameHeader(0, 1),
        b"x",
        FrameHeader(0, 0),
    ]
    assert decoder.frames == 4
    decoder.end()


def test_a_split_header_counts_as_an_incomplete_frame() -> None:
    decoder = FrameDecoder(V.LITE_05)
    head = frame_header_timed(1_000_000, 300)
    for value in head[:-1]:
        assert decoder.feed(bytes((value,))) == []
        assert decoder.in_frame
    assert decoder.frames == 0
    assert decoder.feed(head[-1:] + b"x" * 300) == [FrameHeader(1_000_000, 300), b"x" * 300]
    assert not decoder.in_frame


def test_feeding_nothing_yields_nothing() -> None:
    decoder = FrameDecoder(V.LITE_01)
    assert decoder.feed(b"") == []
    decoder.feed(b"\x05")
    assert decoder.feed(b"") == []


def test_time_may_run_backwards_but_not_below_zero() -> None:
    decoder = FrameDecoder(V.LITE_06)
    wire = frame_header_timed(10, 0) + frame_header_timed(-10, 0)
    assert decoder.feed(wire) == [FrameHeader(10, 0), FrameHeader(0, 0)]
    with pytest.raises(BadTimestamp):
        decoder.feed(frame_header_timed(-1, 0))


def test_a_time_that_no_first_frame_could_state_is_refused() -> None:
    decoder = FrameDecoder(V.LITE_06)
    assert decoder.feed(frame_header_timed(MAX_TIMESTAMP, 0)) == [FrameHeader(MAX_TIMESTAMP, 0)]
    with pytest.raises(BadTimestamp):
        decoder.feed(frame_header_timed(1, 0))
    beyond = b"\x00\x00" + encode_varint(MAX_TIMESTAMP + 1)
    with pytest.raises(BadTimestamp):
        Datagram.decode(beyond, V.LITE_06)


@pytest.mark.parametrize("version", Version)
def test_an_oversized_frame_is_refused_before_its_payload(version: Version) -> None:
    start = b"\x00" if version >= V.LITE_05 else b""
    assert FrameDecoder(version, max_frame=100).feed(start + frame_header_plain(100))
    decoder = FrameDecoder(version, max_frame=100)
    with pytest.raises(FrameTooLarge) as caught:
        decoder.feed(start + frame_header_plain(101))
    assert caught.value.stream_code is StreamCode.FRAME_TOO_LARGE
    for call in (lambda: decoder.feed(b"x"), lambda: decoder.feed(b""), decoder.end):
        with pytest.raises(FrameTooLarge):
            call()


@pytest.mark.parametrize("cut", [1, 3])
def test_a_stream_that_ends_inside_a_frame_is_truncated(cut: int) -> None:
    decoder = FrameDecoder(V.LITE_06)
    decoder.feed((frame_header_timed(0, 5) + b"ab")[:cut])
    with pytest.raises(Truncated):
        decoder.end()
    with pytest.raises(Truncated):
        decoder.feed(b"c")


def test_group_header_and_frames_come_in_one_list() -> None:
    header = GroupHeader(3, 9, 2)
    wire = group_header(V.LITE_06, header) + frame_header_timed(4, 2) + b"ab"
    decoder = UniDecoder(V.LITE_06)
    assert decoder.feed(wire) == [header, FrameHeader(4, 2), b"ab"]
    piece = b"\x00\x01c"
    assert decoder.feed(piece) == [FrameHeader(4, 1), b"c"]
    decoder.end()


def test_frames_behind_a_split_group_header() -> None:
    header = GroupHeader(3, 9)
    wire = group_header(V.LITE_01, header) + b"\x02ab"
    for at in range(1, len(wire)):
        decoder = UniDecoder(V.LITE_01)
        items = [*decoder.feed(wire[:at]), *decoder.feed(wire[at:])]
        assert b"".join(item for item in items if isinstance(item, bytes)) == b"ab"
        assert items[:2] == [header, FrameHeader(0, 2)]


@pytest.mark.parametrize(
    "version, kind",
    [(V.LITE_04, 1), (V.LITE_05, 2), (V.LITE_06, 0x54), (V.LITE_01, 1), (V.LITE_06, 2**40)],
)
def test_unknown_uni_type_refuses_the_stream_alone(version: Version, kind: int) -> None:
    decoder = UniDecoder(version)
    with pytest.raises(UnknownStreamType) as caught:
        decoder.feed(encode_varint(kind))
    assert caught.value.stream_only
    with pytest.raises(UnknownStreamType):
        decoder.feed(b"\x00")


def test_nothing_may_follow_setup() -> None:
    wire = setup_stream(V.LITE_05, Setup(origin=7))
    with pytest.raises(DecodeError):
        UniDecoder(V.LITE_05).feed(wire + b"\x00")
    decoder = UniDecoder(V.LITE_05)
    assert decoder.feed(wire) == [Setup(origin=7)]
    assert decoder.feed(b"") == []
    decoder.end()
    with pytest.raises(DecodeError):
        decoder.feed(b"\x09")


def test_uni_stream_that_ends_inside_its_opening_is_truncated() -> None:
    for wire in (b"\x00", b"\x00\x02\x00", b"\x40"):
        decoder = UniDecoder(V.LITE_01)
        decoder.feed(wire)
        with pytest.raises(Truncated):
            decoder.end()
    UniDecoder(V.LITE_01).end()


def test_an_oversized_opening_is_refused_from_its_length() -> None:
    decoder = UniDecoder(V.LITE_05, max_message=100)
    with pytest.raises(MessageTooLarge):
        decoder.feed(b"\x01" + encode_varint(101))
    assert not decoder.buffered


def test_group_header_with_bytes_too_many_is_no_group_header() -> None:
    with pytest.raises(DecodeError):
        UniDecoder(V.LITE_05).feed(bytes.fromhex("0003000000"))
    with pytest.raises(DecodeError):
        UniDecoder(V.LITE_06).feed(bytes.fromhex("00020000"))


def test_headers_are_the_named_tuples_they_look_like() -> None:
    (header,) = FrameDecoder(V.LITE_06).feed(frame_header_timed(3, 0))
    assert isinstance(header, FrameHeader)
    assert (header.timestamp, header.size) == (3, 0)


def test_datagrams_exist_from_05_on() -> None:
    for use in (Datagram(0, 0, 0, b"").encode, lambda version: Datagram.decode(b"\0\0\0", version)):
        with pytest.raises(ValueError, match="moq-lite-04 has no datagram"):
            use(V.LITE_04)
