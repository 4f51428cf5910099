"""Containers: what is written can be read, and what is broken is told."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.media import catalog, legacy, loc, mp4
from relay.media.catalog import Rendition
from relay.media.errors import MediaError
from relay.media.form import Mp4Form, opus_duration
from relay.media.unpacking import Frame, Unpacker

AVCC = bytes.fromhex("0164001fffe1000467640000010003680000")
VIDEO = Rendition("video", "video/hd", "avc1.64001f", description=AVCC, width=640, height=360, framerate=25)
SOUND = Rendition("audio", "audio/data", "opus", sample_rate=48_000, channels=2)


@given(st.integers(0, 2**60), st.binary(max_size=20))
def test_legacy(time: int, data: bytes) -> None:
    assert legacy.decode(legacy.encode(time, data)) == (time, data)


def test_a_legacy_frame_that_is_cut_off() -> None:
    with pytest.raises(MediaError, match="legacy"):
        legacy.decode(b"\xc0")


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        ("02 10 05 aabb", (5, b"\xaa\xbb")),
        ("02 06 05 aa", (5, b"\xaa")),
        ("05 08 43e8 08 05 aa", (5_000, b"\xaa")),
        ("06 09 02 ffff 07 05 aa", (5, b"\xaa")),  # a property of bytes is skipped
    ],
)
def test_loc(payload: str, expected: tuple[int, bytes]) -> None:
    assert loc.decode(bytes.fromhex(payload)) == expected


@pytest.mark.parametrize(
    "payload", ["", "05", "00 aa", "03 08 00 10", "04 08 00 08 05 aa", "03 10 05 09", "02 0905"]
)
def test_loc_that_is_broken(payload: str) -> None:
    with pytest.raises(MediaError, match="loc"):
        loc.decode(bytes.fromhex(payload))


@given(
    time=st.integers(0, 2**50),
    offset=st.integers(0, 2**30),
    duration=st.integers(0, 2**31),
    data=st.binary(min_size=1, max_size=50),
    key=st.booleans(),
)
def test_a_fragment(time: int, offset: int, duration: int, data: bytes, key: bool) -> None:
    made = mp4.fragment(7, time, offset, duration, data, key=key)
    assert mp4.samples(made, mp4.Defaults(mp4.TIMESCALE)) == [mp4.Sample(time + offset, data, key)]


def fragment(*parts: bytes) -> bytes:
    return mp4.box(b"moof", mp4.box(b"traf", *parts)) + mp4.box(b"mdat", b"aabbb")


def test_samples_take_what_they_lack_from_the_defaults() -> None:
    defaults = mp4.Defaults(1000, duration=40, size=2, flags=mp4.IS_NON_SYNC)
    head = mp4.full(b"tfhd", 0, 0x30, struct.pack(">III", 1, 3, 0))
    time = mp4.full(b"tfdt", 0, 0, struct.pack(">I", 80))
    run = mp4.full(b"trun", 0, 0x205, struct.pack(">IiIII", 2, 0, mp4.SYNC, 2, 3))
    assert mp4.samples(fragment(head, time, run), defaults) == [
        mp4.Sample(80_000, b"aa", key=True),
        mp4.Sample(120_000, b"bbb", key=True),
    ]
    plain = mp4.full(b"tfhd", 0, 0x3, bytes(4), bytes(8), bytes(4))
    run = mp4.full(b"trun", 0, 0x4, struct.pack(">II", 2, mp4.SYNC))
    assert [sample.key for sample in mp4.samples(fragment(plain, time, run), defaults)] == [True, False]


@pytest.mark.parametrize(
    "broken",
    [
        b"\0\0\0\x20moof",
        b"\0\0",
        fragment(mp4.full(b"trun", 0, 0x200, struct.pack(">III", 2, 4, 4))),
        fragment(mp4.full(b"trun", 0, 0x200, struct.pack(">I", 1 << 30))),
        fragment(mp4.box(b"tfdt", b"\1")),
    ],
)
def test_a_fragment_that_is_broken(broken: bytes) -> None:
    with pytest.raises(MediaError, match="cut off"):
        mp4.samples(broken, mp4.Defaults(1000))


def test_large_boxes_and_those_up_to_the_end() -> None:
    assert list(mp4.boxes(struct.pack(">I4sQ", 1, b"mdat", 18) + b"ab")) == [(b"mdat", b"ab")]
    assert list(mp4.boxes(b"\0\0\0\0mdatabc")) == [(b"mdat", b"abc")]


def test_the_header_of_others() -> None:
    assert mp4.defaults_of(mp4.header(VIDEO)) == mp4.Defaults(mp4.TIMESCALE)
    with pytest.raises(MediaError, match="time unit"):
        mp4.defaults_of(b"")
    with pytest.raises(MediaError, match=r"codec theora is not made"):
        mp4.header(replace(VIDEO, codec="theora"))


@pytest.mark.parametrize(
    ("packet", "microseconds"),
    [
        ("", 0),
        ("08", 20_000),
        ("18", 60_000),
        ("60", 10_000),
        ("f8", 20_000),
        ("fb83", 60_000),
        ("fb", 0),
        ("81", 5_000),
    ],
)
def test_the_duration_of_opus(packet: str, microseconds: int) -> None:
    assert opus_duration(bytes.fromhex(packet)) == microseconds


SETS = bytes.fromhex("000000016764001faa" + "0000000168ee3c80")
KEY = bytes.fromhex("00000165888080")


def test_parameter_sets_of_the_stream_become_a_record() -> None:
    unpacker = Unpacker(replace(VIDEO, codec="avc3.64001f", description=None))
    assert unpacker.header is None
    # nothing can be decoded before the sets are there
    assert list(unpacker.frames(legacy.encode(0, KEY), first=True)) == []
    [frame] = unpacker.frames(legacy.encode(40, SETS + KEY), first=True)
    assert frame == Frame("video", 40, frame.data, True, 40_000)
    assert frame.data.startswith(bytes.fromhex("00000005 6764001faa 00000004 68ee3c80 00000004 65888080"))
    assert unpacker.rendition.codec == "avc1.64001f"
    assert unpacker.rendition.description == bytes.fromhex("0164001fffe10005 6764001faa 010004 68ee3c80")
    assert unpacker.header is not None


def test_parameter_sets_of_h265_become_a_record() -> None:
    profile = bytes.fromhex("01600000030090000003000003005d")
    units = (b"\x40\x01\x0c", b"\x42\x01\x01" + profile, b"\x44\x01\xc1", b"\x26\x01\xaf")
    form = Mp4Form(replace(VIDEO, codec="hev1.1.6.L93.90", description=None))
    assert form.plain(b"".join(b"\0\0\1" + unit for unit in units), key=True)
    assert form.rendition.codec == "hvc1.1.6.L93.90"
    record = form.rendition.description
    assert record is not None
    assert record[:13] == bytes.fromhex("01 01600000009000000000005d")
    assert record[22] == 3
    assert form.plain(b"\0\0\1\x02\x01\xaa", key=False) == bytes.fromhex("00000003 0201aa")
    assert (
        Mp4Form(replace(VIDEO, codec="hev1.1", description=None)).plain(b"\0\0\1\x26\x01\xaf", key=True)
        == b""
    )


def test_adts_becomes_a_config() -> None:
    unpacker = Unpacker(replace(SOUND, codec="mp4a.40.2", description=None))
    [frame] = unpacker.frames(legacy.encode(0, bytes.fromhex("fff14c80 01 3ffc aabb")), first=True)
    assert (frame.data, frame.key, frame.duration) == (b"\xaa\xbb", True, 21_333)
    assert unpacker.rendition.description == bytes.fromhex("1190")


def test_cmaf_and_loc_are_read() -> None:
    cmaf = Unpacker(replace(VIDEO, container=catalog.CMAF, init=mp4.header(VIDEO)))
    [frame] = cmaf.frames(mp4.fragment(1, 40, 0, 0, b"abc", key=False), first=True)
    assert (frame.time, frame.data, frame.key) == (40, b"abc", False)
    assert cmaf.header == mp4.header(VIDEO)
    [sound] = Unpacker(replace(SOUND, container=catalog.LOC)).frames(b"\2\x10\5\xf8", first=False)
    assert (sound.time, sound.key, sound.duration) == (5, True, 20_000)
    # a frame without data only tells a time
    assert list(Unpacker(SOUND).frames(legacy.encode(5, b""), first=False)) == []
    with pytest.raises(MediaError, match="'new' is not known"):
        Unpacker(replace(SOUND, container="new"))


@pytest.mark.parametrize(
    ("codec", "box"),
    [
        ("vp8", b"vp08"),
        ("vp09.02.10.10", b"vp09"),
        ("av01.0.04M.08", b"av1C"),
        ("av01.1.08H.12", b"av1C"),
        ("hvc1.1.6.L93.90", b"hvcC"),
    ],
)
def test_sample_entries_of_pictures(codec: str, box: bytes) -> None:
    assert box in mp4.header(replace(VIDEO, codec=codec, description=None if codec[0] in "va" else AVCC))


def test_sample_entries_of_sound() -> None:
    assert b"dOps\0\2\0\0" in mp4.header(SOUND)
    head = b"OpusHead\1\6" + struct.pack("<HIh", 312, 48_000, 0) + bytes((1, 4, 2, 0, 1, 2, 3, 4, 5))
    assert b"dOps\0\6\1\x38" in mp4.header(replace(SOUND, description=head))
    assert b"\5\2\x11\x90" in mp4.header(replace(SOUND, codec="mp4a.40.2", description=b"\x11\x90"))
