"""NAL units of H.264 and H.265, and the headers of AAC."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

START: Final = b"\0\0\1"

ADTS_HEADER: Final = 7
"""Bytes, 9 with a checksum."""


def nal_units(data: bytes) -> Iterator[bytes]:
    """The NAL units of an Annex B byte stream, without start codes."""
    at = data.find(START)
    while at >= 0:
        begin = at + len(START)
        at = data.find(START, begin)
        unit = data[begin:] if at < 0 else data[begin:at]
        # the zero of a four-byte start code, and trailing zeros, belong to no unit
        unit = unit.rstrip(b"\0")
        if unit:
            yield unit


def is_annex_b(data: bytes) -> bool:
    """The bytes begin with a start code."""
    return data.startswith((START, b"\0" + START))


def raw(unit: bytes) -> bytes:
    """The payload of a NAL unit without emulation prevention bytes."""
    return unit.replace(b"\0\0\3", b"\0\0")


def adts_frame(data: bytes) -> tuple[bytes, bytes] | None:
    """The AudioSpecificConfig that an ADTS header stands for, and the frame after it; None without a header."""
    if len(data) < ADTS_HEADER or data[0] != 0xFF or data[1] & 0xF6 != 0xF0:
        return None
    object_type = (data[2] >> 6) + 1
    frequency = data[2] >> 2 & 15
    channels = (data[2] & 1) << 2 | data[3] >> 6
    header = ADTS_HEADER if data[1] & 1 else ADTS_HEADER + 2
    config = object_type << 11 | frequency << 7 | channels << 3
    return config.to_bytes(2, "big"), data[header:]


def length_prefixed(data: bytes) -> bytes:
    """The NAL units of an Annex B byte stream, each behind its length in four bytes, as MP4 has them."""
    return b"".join(len(unit).to_bytes(4, "big") + unit for unit in nal_units(data))


def avc_record(data: bytes) -> bytes | None:
    """The avcC for the parameter sets of H.264 in an Annex B byte stream; None if one is missing."""
    units = list(nal_units(data))
    sequence = [unit for unit in units if unit[0] & 31 == 7 and len(unit) > 3][:31]
    picture = [unit for unit in units if unit[0] & 31 == 8]
    if not sequence or not picture:
        return None
    head = b"\1" + sequence[0][1:4] + bytes((0xFF, 0xE0 | len(sequence)))
    return head + _sized(sequence) + bytes((len(picture),)) + _sized(picture)


def hevc_record(data: bytes) -> bytes | None:
    """The hvcC for the parameter sets of H.265 in an Annex B byte stream; None if one is missing.

    It leaves open what a decoder reads in the sets themselves, such as the depth of colours.
    """
    kinds: dict[int, list[bytes]] = {32: [], 33: [], 34: []}
    for unit in nal_units(data):
        if (kind := unit[0] >> 1 & 63) in kinds:
            kinds[kind].append(unit)
    if not all(kinds.values()):
        return None
    profile = raw(kinds[33][0])[3:15]
    head = b"\1" + profile + b"\xf0\0\xfc\xfd\xf8\xf8\0\0\x0f" + bytes((len(kinds),))
    arrays = (
        bytes((0x80 | kind,)) + len(units).to_bytes(2, "big") + _sized(units) for kind, units in kinds.items()
    )
    return head + b"".join(arrays)


def _sized(units: list[bytes]) -> bytes:
    return b"".join(len(unit).to_bytes(2, "big") + unit for unit in units)
