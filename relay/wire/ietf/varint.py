"""Integers of drafts 17 and later: the leading 1 bits of the first byte count the bytes that follow.

As in RFC 9000 (`relay.wire.varint`) a short buffer is no fault, and longer encodings than needed are accepted.
"""

from __future__ import annotations

from typing import Final

MAX_VI64: Final = 2**64 - 1

BELOW_ONE_BYTE: Final = 1 << 7  # their own single byte

_FULL: Final = 8  # bytes after the first of the longest encoding, which has no bits of the number


def encode_vi64(value: int) -> bytes:
    """The shortest encoding; ValueError outside 0..MAX_VI64."""
    if value < BELOW_ONE_BYTE:
        if value < 0:
            raise ValueError(f"a varint cannot be negative: {value}")
        return bytes((value,))
    more = (value.bit_length() - 1) // 7
    if more >= _FULL:
        if value > MAX_VI64:
            raise ValueError(f"a varint holds at most {MAX_VI64}: {value}")
        return b"\xff" + value.to_bytes(_FULL, "big")
    lead = (0xFF00 >> more) & 0xFF
    return (value | lead << (8 * more)).to_bytes(more + 1, "big")


def decode_vi64(data: bytes | bytearray, offset: int = 0) -> tuple[int, int] | None:
    """(value, offset of the next byte), None while incomplete."""
    if offset >= len(data):
        return None
    first = data[offset]
    if first < BELOW_ONE_BYTE:
        return first, offset + 1
    more = 8 - (first ^ 0xFF).bit_length()
    end = offset + 1 + more
    if end > len(data):
        return None
    return int.from_bytes(data[offset:end], "big") & ((1 << (64 if more == _FULL else 7 * more + 7)) - 1), end
