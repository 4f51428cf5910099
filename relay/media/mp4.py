"""Fragmented MP4, as CMAF has it (ISO/IEC 14496-12): a header for each track, and a fragment for each frame.

Of a header that somebody else made, only the time unit and the defaults of samples are read.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from relay.media.catalog import Rendition
from relay.media.errors import MediaError

TIMESCALE: Final = 1_000_000
"""Of the headers that are made here: microseconds."""

TRACK_ID: Final = 1
SYNC: Final = 0x0200_0000
NON_SYNC: Final = 0x0101_0000
IS_NON_SYNC: Final = 0x0001_0000
MATRIX: Final = struct.pack(">9i", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x4000_0000)

CONTAINERS: Final = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"mvex", b"moof", b"traf")


# -- boxes


def box(name: bytes, *parts: bytes) -> bytes:
    """A box of `parts`."""
    body = b"".join(parts)
    return struct.pack(">I4s", 8 + len(body), name) + body


def full(name: bytes, version: int, flags: int, *parts: bytes) -> bytes:
    """A box with version and flags."""
    return box(name, struct.pack(">I", version << 24 | flags), *parts)


def boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Name and body of each box, those inside of others as well. MediaError if one is cut off."""
    at = 0
    while at < len(data):
        if at + 8 > len(data):
            raise MediaError("an MP4 box that is cut off")
        size, name = struct.unpack_from(">I4s", data, at)
        start = at + 8
        if size == 1 and start + 8 <= len(data):
            (size,) = struct.unpack_from(">Q", data, start)
            start += 8
        end = at + size if size else len(data)
        if end < start or end > len(data):
            raise MediaError("an MP4 box that is cut off")
        body = data[start:end]
        yield name, body
        if name in CONTAINERS:
            yield from boxes(body)
        at = end


# -- headers


def header(rendition: Rendition) -> bytes:
    """Ftyp and moov for a track with `description`; MediaError for a codec that MP4 does not hold."""
    video = rendition.kind == "video"
    size = struct.pack(">II", rendition.width << 16, rendition.height << 16) if video else bytes(8)
    media = (
        full(b"vmhd", 0, 1, bytes(8)) if video else full(b"smhd", 0, 0, bytes(4)),
        box(b"dinf", full(b"dref", 0, 0, struct.pack(">I", 1), full(b"url ", 0, 1))),
        box(
            b"stbl",
            full(b"stsd", 0, 0, struct.pack(">I", 1), _entry(rendition)),
            *(full(name, 0, 0, bytes(4)) for name in (b"stts", b"stsc", b"stco")),
            full(b"stsz", 0, 0, bytes(8)),
        ),
    )
    volume = 0 if video else 0x0100
    return box(b"ftyp", b"iso6", struct.pack(">I", 1), b"iso6cmfcmp41") + box(
        b"moov",
        full(
            b"mvhd",
            0,
            0,
            struct.pack(">IIIIIHHII", 0, 0, TIMESCALE, 0, 0x10000, 0x0100, 0, 0, 0),
            MATRIX,
            bytes(24),
            struct.pack(">I", TRACK_ID + 1),
        ),
        box(
            b"trak",
            full(
                b"tkhd",
                0,
                7,
                struct.pack(">IIIII", 0, 0, TRACK_ID, 0, 0),
                struct.pack(">IIHHHH", 0, 0, 0, 0, volume, 0),
                MATRIX,
                size,
            ),
            box(
                b"mdia",
                full(b"mdhd", 0, 0, struct.pack(">IIIIHH", 0, 0, TIMESCALE, 0, 0x55C4, 0)),
                full(b"hdlr", 0, 0, bytes(4), b"vide" if video else b"soun", bytes(12), b"\0"),
                box(b"minf", *media),
            ),
        ),
        box(b"mvex", full(b"trex", 0, 0, struct.pack(">IIIII", TRACK_ID, 1, 0, 0, 0))),
    )


def _entry(rendition: Rendition) -> bytes:
    """The sample entry, which names the codec and sets its decoder up."""
    codec, description = rendition.codec, rendition.description or b""
    name = codec.partition(".")[0]
    match name:
        case "avc1":
            inner = box(b"avcC", description)
        case "hvc1":
            inner = box(b"hvcC", description)
        case "vp8" | "vp09":
            name = "vp08" if name == "vp8" else name
            inner = full(b"vpcC", 1, 0, _vp_record(codec))
        case "av01":
            inner = box(b"av1C", description or _av1_record(codec))
        case "mp4a":
            inner = full(b"esds", 0, 0, _esds(description))
        case "opus":
            name, inner = "Opus", box(b"dOps", _opus_record(rendition))
        case _:
            raise MediaError(f"an MP4 file for the codec {codec} is not made here")
    start = bytes(6) + struct.pack(">H", 1)
    if rendition.kind == "video":
        shape = struct.pack(">HHII", rendition.width, rendition.height, 0x48_0000, 0x48_0000)
        start += bytes(16) + shape + bytes(4) + struct.pack(">H32sHh", 1, b"", 24, -1)
    else:
        rate = rendition.sample_rate << 16 if rendition.sample_rate < 1 << 16 else 0
        start += bytes(8) + struct.pack(">HHII", rendition.channels, 16, 0, rate)
    return box(name.encode(), start, inner)


def _numbers(codec: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", codec.partition(".")[2])]


def _vp_record(codec: str) -> bytes:
    profile, level, depth = (*_numbers(codec), 0, 10, 8)[:3] if codec != "vp8" else (0, 10, 8)
    return bytes((profile, level, depth << 4 | 2, 1, 1, 1, 0, 0))


def _av1_record(codec: str) -> bytes:
    profile, level, depth = (*_numbers(codec), 0, 0, 8)[:3]
    tier = 0x80 if re.search(r"\d+H", codec) else 0
    bits = {10: 0x40, 12: 0x60}.get(depth, 0)
    return bytes((0x81, profile << 5 | level, tier | bits | 0x0C, 0))


def _esds(config: bytes) -> bytes:
    def descriptor(tag: int, body: bytes) -> bytes:
        return bytes((tag, len(body))) + body

    decoder = descriptor(4, b"\x40\x15" + bytes(11) + descriptor(5, config))
    return descriptor(3, bytes(3) + decoder + descriptor(6, b"\2"))


def _opus_record(rendition: Rendition) -> bytes:
    head = rendition.description
    if head and head.startswith(b"OpusHead") and len(head) > 18:
        skip, rate, gain = struct.unpack_from("<HIh", head, 10)
        return struct.pack(">BBHIh", 0, head[9], skip, rate, gain) + head[18:]
    return struct.pack(">BBHIhB", 0, rendition.channels, 0, rendition.sample_rate, 0, 0)


# -- fragments


def fragment(sequence: int, time: int, offset: int, duration: int, data: bytes, *, key: bool) -> bytes:
    """Moof and mdat of one frame; decoded at `time`, presented `offset` later, in microseconds."""

    def moof(place: int) -> bytes:
        # data-offset, and of the sample duration, size, flags and composition offset
        sample = struct.pack(">IIIi", duration, len(data), SYNC if key else NON_SYNC, offset)
        return box(
            b"moof",
            full(b"mfhd", 0, 0, struct.pack(">I", sequence)),
            box(
                b"traf",
                full(b"tfhd", 0, 0x02_0000, struct.pack(">I", TRACK_ID)),
                full(b"tfdt", 1, 0, struct.pack(">Q", time)),
                full(b"trun", 1, 0x0F01, struct.pack(">Ii", 1, place), sample),
            ),
        )

    return moof(len(moof(0)) + 8) + box(b"mdat", data)


@dataclass(frozen=True, slots=True)
class Sample:
    """One frame of a fragment. Times are in microseconds."""

    time: int
    """of presentation"""

    data: bytes
    key: bool


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a header tells about the samples of its fragments."""

    timescale: int
    duration: int = 0
    size: int = 0
    flags: int = 0


def defaults_of(init: bytes) -> Defaults:
    """MediaError for a header without a time unit."""
    timescale = 0
    duration = size = flags = 0
    for name, body in boxes(init):
        if name == b"mdhd" and len(body) >= 24:
            (timescale,) = struct.unpack_from(">I", body, 20 if body[0] else 12)
        elif name == b"trex" and len(body) >= 24:
            duration, size, flags = struct.unpack_from(">III", body, 12)
    if not timescale:
        raise MediaError("an MP4 header without a time unit")
    return Defaults(timescale, duration, size, flags)


def samples(data: bytes, defaults: Defaults) -> list[Sample]:
    """The frames of a fragment. MediaError if it is broken."""
    try:
        return list(_samples(data, defaults))
    except struct.error as error:
        raise MediaError("an MP4 fragment that is cut off") from error


def _samples(data: bytes, defaults: Defaults) -> Iterator[Sample]:
    decode = 0
    runs: list[tuple[int, int, int, int]] = []  # duration, size, flags, offset
    duration, size, flags = defaults.duration, defaults.size, defaults.flags
    for name, body in boxes(data):
        if name == b"tfhd":
            duration, size, flags = _track_defaults(body, defaults)
        elif name == b"tfdt":
            (decode,) = struct.unpack_from(">Q" if body[0] else ">I", body, 4)
        elif name == b"trun":
            runs.extend(_run(body, duration, size, flags))
        elif name == b"mdat":
            at = 0
            for length, count, mark, offset in runs:
                if at + count > len(body):
                    raise MediaError("an MP4 fragment that is cut off")
                time = (decode + offset) * TIMESCALE // defaults.timescale
                yield Sample(max(0, time), body[at : at + count], not mark & IS_NON_SYNC)
                at += count
                decode += length
            runs = []


def _track_defaults(body: bytes, defaults: Defaults) -> tuple[int, int, int]:
    marks = int.from_bytes(body[1:4], "big")
    at = 8 + (8 if marks & 1 else 0) + (4 if marks & 2 else 0)
    found = [defaults.duration, defaults.size, defaults.flags]
    for place, mark in enumerate((0x8, 0x10, 0x20)):
        if marks & mark:
            (found[place],) = struct.unpack_from(">I", body, at)
            at += 4
    return found[0], found[1], found[2]


def _run(body: bytes, duration: int, size: int, flags: int) -> Iterator[tuple[int, int, int, int]]:
    marks = int.from_bytes(body[1:4], "big")
    (count,) = struct.unpack_from(">I", body, 4)
    at = 8 + (4 if marks & 1 else 0)
    first = None
    if marks & 4:
        (first,) = struct.unpack_from(">I", body, at)
        at += 4
    each = sum(4 for mark in (0x100, 0x200, 0x400, 0x800) if marks & mark)
    if count > len(body) and each:
        raise struct.error("more samples than bytes")
    for number in range(count):
        values = [duration, size, flags, 0]
        if number == 0 and first is not None:
            values[2] = first
        for place, mark in enumerate((0x100, 0x200, 0x400, 0x800)):
            if marks & mark:
                (values[place],) = struct.unpack_from(">i" if place == 3 else ">I", body, at)
                at += 4
        yield values[0], values[1], values[2], values[3]
