"""Frames in WebSocket messages, QMux and the older framing, against golden bytes and garbage."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from relay.wire.errors import DecodeError, ProtocolViolation
from relay.wire.qmux import (
    Blocked,
    Close,
    DatagramFrame,
    Draft,
    Frame,
    Kind,
    MaxData,
    MaxStreamData,
    MaxStreams,
    Parameters,
    Ping,
    ResetStream,
    StopSending,
    StreamFrame,
    decode_message,
    stream_header,
)
from relay.wire.varint import encode_varint
from relay.wire.websocket import decode_plain, plain_close, plain_reset, plain_stop, plain_stream_header

DOCUMENT = json.loads(Path(__file__).with_name("vectors.json").read_text())
VECTORS: dict[str, dict[str, Any]] = {
    vector["id"]: vector for vector in DOCUMENT["vectors"] if vector["version"].startswith("ws ")
}
PLAIN = [id_ for id_, vector in VECTORS.items() if vector["version"] == "ws webtransport"]
DRAFTS = {"ws qmux-00": Draft.QMUX_00, "ws qmux-01": Draft.QMUX_01}
CLIENT = Parameters(
    idle_timeout=30_000,
    max_data=1 << 20,
    stream_data_bidi_local=1 << 18,
    stream_data_bidi_remote=1 << 18,
    stream_data_uni=1 << 18,
    streams_bidi=100,
    streams_uni=100,
    max_datagram=16_382,
)

FRAMES: dict[str, list[Frame]] = {
    "qmux-tp": [CLIENT],
    "qmux-tp-00": [Parameters(30_000, 1 << 20, 1 << 18, 1 << 18, 1 << 18, 100, 100)],
    "qmux-tp-02": [Parameters(30_000, 1 << 20, 1 << 18, 1 << 18, 1 << 18, 100, 100, 16_382, 16_382, True)],
    "qmux-tp-server": [Parameters(30_000, 65_536, 20_000, 20_000, 20_000, 10, 2, 1200)],
    "qmux-stream": [StreamFrame(0, b"\1\1\0", False)],
    "qmux-annreq": [StreamFrame(0, b"\1\1\0", False)],
    "qmux-close": [Close(0, "no error")],
    "qmux-setup": [StreamFrame(2, bytes.fromhex("010b010508c01de6e12ac58d4d"), False)],
    "qmux-fin": [StreamFrame(2, b"", True, 13)],
    "qmux-setup-server": [StreamFrame(3, bytes.fromhex("01080201010105025092"), True)],
    "qmux-ping": [Ping(0)],
    "qmux-pong": [Ping(7, response=True)],
    "qmux-max-stream-data": [MaxStreamData(7, 350_182)],
    "qmux-max-streams-uni": [MaxStreams(True, 134)],
    "qmux-grant": [MaxStreamData(6, 70_000), MaxStreams(True, 20)],
    "qmux-reset": [ResetStream(9, 51, 0)],
    "qmux-stop": [StopSending(12, 0)],
    "qmux-datagram": [DatagramFrame(bytes.fromhex("000353884447"), 8)],
    "qmux-close-server": [Close(2, "unauthorized")],
}


def encoded(frame: Frame) -> bytes:
    match frame:
        case StreamFrame():
            return stream_header(frame.stream_id, frame.offset, len(frame.data), fin=frame.fin) + frame.data
        case DatagramFrame():
            return DatagramFrame.encode(frame.data)
        case Blocked():
            raise AssertionError(frame)
    return frame.encode()


def test_every_vector_is_read_here() -> None:
    assert set(VECTORS) == set(PLAIN) | set(FRAMES)


@pytest.mark.parametrize("id_", FRAMES)
def test_qmux_vector(id_: str) -> None:
    data = bytes.fromhex(VECTORS[id_]["hex"])
    draft = DRAFTS.get(VECTORS[id_]["version"], Draft.QMUX_02)
    assert decode_message(data, draft) == FRAMES[id_]
    assert b"".join(map(encoded, FRAMES[id_])) == data


@pytest.mark.parametrize("id_", PLAIN)
def test_plain_vector(id_: str) -> None:
    data, fields = bytes.fromhex(VECTORS[id_]["hex"]), VECTORS[id_]["fields"]
    match decode_plain(data):
        case StreamFrame(stream_id, payload, fin):
            assert (stream_id, fin) == (fields["stream_id"], fields["type"] == 9)
            assert payload.hex() == fields.get("data", payload.hex())
            assert plain_stream_header(stream_id, fin=fin) + payload == data
        case ResetStream(stream_id, code):
            assert (4, stream_id, code) == (fields["type"], fields["stream_id"], fields["code"])
            assert plain_reset(stream_id, code) == data
        case StopSending(stream_id, code):
            assert (5, stream_id, code) == (fields["type"], fields["stream_id"], fields["code"])
            assert plain_stop(stream_id, code) == data
        case Close(code, reason):
            assert (code, reason) == (fields["code"], fields["reason"])
            assert plain_close(code, reason) == data


def test_forms_that_only_others_write() -> None:
    read = decode_message
    assert read(b"", Draft.QMUX_00) == []
    assert read(bytes.fromhex("0000 0a04 03 616263 00"), Draft.QMUX_00) == [StreamFrame(4, b"abc", False)]
    assert read(bytes.fromhex("09 04 616263"), Draft.QMUX_02) == [StreamFrame(4, b"abc", True)]
    assert read(bytes.fromhex("30 4447"), Draft.QMUX_01) == [DatagramFrame(b"DG", 3)]
    assert read(bytes.fromhex("24 09 05 08 03"), Draft.QMUX_02) == [ResetStream(9, 5, 8)]
    assert read(bytes.fromhex("1c 43ea 00 02 6e6f"), Draft.QMUX_02) == [Close(1002, "no", application=False)]
    # with the field of a transport close, as early browser clients write it
    assert read(bytes.fromhex("1d 05 00 02 6e6f"), Draft.QMUX_00) == [Close(5, "")]
    assert read(bytes.fromhex("14 01 15 01 02 16 01 17 01"), Draft.QMUX_00) == [
        Blocked(kind) for kind in range(0x14, 0x18)
    ]
    assert decode_plain(bytes.fromhex("1c 05 6e6f")) == Close(5, "no", application=False)


@pytest.mark.parametrize("frame", [Ping(3), Ping(3, True), DatagramFrame(b"x", 3)])
def test_draft_00_has_neither_pings_nor_datagrams(frame: Frame) -> None:
    with pytest.raises(DecodeError, match="qmux-00 has no frame type"):
        decode_message(encoded(frame), Draft.QMUX_00)


@pytest.mark.parametrize("draft", Draft)
@pytest.mark.parametrize("kind", [0x01, 0x02, 0x06, 0x1E, 0x32, 1 << 40])
def test_unknown_frame_types_are_fatal(draft: Draft, kind: int) -> None:
    with pytest.raises(DecodeError, match=f"has no frame type {kind:#x}"):
        decode_message(encode_varint(kind) + b"\0\0\0", draft)
    with pytest.raises(DecodeError, match="unknown frame type"):
        decode_plain(bytes((kind & 0x3F | 0x40,)) + b"\0\0\0")


def test_reset_at_is_for_the_newest_draft() -> None:
    data = bytes.fromhex("24 09 05 08 03")
    with pytest.raises(DecodeError):
        decode_message(data, Draft.QMUX_01)
    with pytest.raises(ProtocolViolation):
        decode_message(bytes.fromhex("24 09 05 08 09"), Draft.QMUX_02)


def parameters(content: str) -> bytes:
    body = bytes.fromhex(content)
    return encode_varint(Kind.PARAMETERS) + encode_varint(len(body)) + body


@pytest.mark.parametrize("id_", ["00", "02", "03", "0a", "0c", "0f", "10"])
def test_parameters_of_quic_alone_are_refused(id_: str) -> None:
    with pytest.raises(ProtocolViolation):
        decode_message(parameters(f"{id_} 01 01"), Draft.QMUX_02)


@pytest.mark.parametrize("content", ["04 01 05 04 01 06", "1d 00 1d 00", "1d 01 00", "7f00 01 00 7f00 01 00"])
def test_parameters_twice_or_of_the_wrong_form(content: str) -> None:
    with pytest.raises(ProtocolViolation):
        decode_message(parameters(content), Draft.QMUX_02)


@pytest.mark.parametrize("content", ["04 02 05", "04 00", "04 02 05 05", "04"])
def test_parameters_that_cannot_be_read(content: str) -> None:
    with pytest.raises(DecodeError):
        decode_message(parameters(content), Draft.QMUX_02)


def test_unknown_parameters_are_skipped() -> None:
    data = parameters("4080 03 616263 04 01 05")
    assert decode_message(data, Draft.QMUX_02) == [Parameters(max_data=5)]


VECTOR_BYTES = [bytes.fromhex(vector["hex"]) for vector in VECTORS.values()]


@given(st.binary(max_size=64) | st.sampled_from(VECTOR_BYTES), st.sampled_from(Draft), st.integers(0, 70))
@example(bytes.fromhex("0a04ff"), Draft.QMUX_00, 70)
def test_garbage_and_fragments_raise_only_documented_errors(data: bytes, draft: Draft, size: int) -> None:
    for read in (decode_plain, lambda message: decode_message(message, draft)):
        with contextlib.suppress(DecodeError, ProtocolViolation):
            read(data[:size])


numbers = st.integers(0, 2**62 - 1)
frames = st.one_of(
    st.builds(StreamFrame, numbers, st.binary(max_size=20), st.booleans(), numbers),
    st.builds(ResetStream, numbers, numbers, numbers),
    st.builds(StopSending, numbers, numbers),
    st.builds(MaxData, numbers),
    st.builds(MaxStreamData, numbers, numbers),
    st.builds(MaxStreams, st.booleans(), numbers),
    st.builds(Ping, numbers, st.booleans()),
    st.builds(Parameters, numbers, numbers, numbers, numbers, numbers, numbers, numbers, numbers),
)


@given(st.lists(frames, max_size=5), st.builds(Close, numbers, st.text(max_size=9), st.booleans()))
def test_what_is_written_is_read(given_frames: list[Frame], close: Close) -> None:
    listed = [*given_frames, close]
    assert decode_message(b"".join(map(encoded, listed)), Draft.QMUX_02) == listed
