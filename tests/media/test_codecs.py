"""Codec strings, as WebCodecs has them."""

from __future__ import annotations

import pytest

from relay.media import codecs
from relay.media.bits import adts_frame, nal_units
from relay.media.codecs import Described
from relay.media.errors import MediaError

AVCC = bytes.fromhex("0164001fffe1000467640000010003680000")
HVCC = bytes.fromhex("01016000000090000000000 05df000fcfdf8f800000f00".replace(" ", ""))
SPS_265 = bytes.fromhex("42 01 01 01 60 00 00 03 00 90 00 00 03 00 00 03 00 5d a0")


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (codecs.h264(AVCC), Described("avc1.64001f", AVCC)),
        (codecs.h264(bytes.fromhex("0000000109f0 00000001 6742c01e aa")), Described("avc3.42c01e")),
        (codecs.h265(HVCC), Described("hvc1.1.6.L93.90", HVCC)),
        (codecs.h265(b"\0\0\0\1" + SPS_265), Described("hev1.1.6.L93.90")),
        (codecs.vp9(0, 192 * 96, 8), Described("vp09.00.10.08")),
        (codecs.vp9(2, 1920 * 1080, 10), Described("vp09.02.40.10")),
        (codecs.vp9(0, 16384 * 8704, 8), Described("vp09.00.62.08")),
        (codecs.av1(bytes.fromhex("81040c00")), Described("av01.0.04M.08")),
        (codecs.av1(bytes.fromhex("8128ec00")), Described("av01.1.08H.12")),
        (codecs.av1(bytes.fromhex("81044c00")), Described("av01.0.04M.10")),
        (codecs.aac(b"\x11\x90"), Described("mp4a.40.2", b"\x11\x90")),
        (codecs.aac(b"\xf9\x40"), Described("mp4a.40.42", b"\xf9\x40")),
        (codecs.opus(b"OpusHead" + bytes(11)), Described("opus")),
        (codecs.opus(b""), Described("opus")),
        (
            codecs.opus(b"OpusHead" + bytes(10) + b"\1xx"),
            Described("opus", b"OpusHead" + bytes(10) + b"\1xx"),
        ),
    ],
)
def test_codec_strings(found: Described, expected: Described) -> None:
    assert found == expected


@pytest.mark.parametrize("codec", [codecs.h264, codecs.h265, codecs.av1, codecs.aac])
def test_a_stream_that_does_not_tell(codec: object) -> None:
    assert callable(codec)
    with pytest.raises(MediaError, match=r"the \S+ stream has no"):
        codec(b"\0\0\1\x09") if codec is not codecs.aac else codec(b"")


def test_nal_units() -> None:
    data = bytes.fromhex("00000001 67aa 0000 01 68bb00 00000001 00000001 65cc")
    assert list(nal_units(data)) == [b"\x67\xaa", b"\x68\xbb", b"\x65\xcc"]
    assert list(nal_units(b"\x67\xaa")) == []


def test_adts() -> None:
    assert adts_frame(bytes.fromhex("fff15080 013ffc aabb")) == (bytes.fromhex("1210"), b"\xaa\xbb")
    # with a checksum
    assert adts_frame(bytes.fromhex("fff05080 013ffc cccc aabb")) == (bytes.fromhex("1210"), b"\xaa\xbb")
    assert adts_frame(bytes.fromhex("21105080 013ffc aabb")) is None
    assert adts_frame(b"\xff\xf1") is None
