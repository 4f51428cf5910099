"""QUIC variable-length integers (RFC 9000, section 16)."""

from __future__ import annotations

from typing import Final

MAX_VARINT: Final = 2**62 - 1

BELOW_ONE_BYTE: Final = 1 << 6  # their own single byte

_BELOW_TWO_BYTES: Final = 1 << 14
_BELOW_FOUR_BYTES: Final = 1 << 30
_ONE_BYTE: Final = tuple(bytes((value,)) for value in range(BELOW_ONE_BYTE))


def encode_varint(value: int) -> bytes:
    """The shortest encoding; ValueError outside 0..MAX_VARINT."""
    if value < BELOW_ONE_BYTE:
        if value < 0:
            raise ValueError(f"a varint cannot be negative: {value}")
        return _ONE_BYTE[value]
    if value < _BELOW_TWO_BYTES:
        return (value | 0x4000).to_bytes(2, "big")
    if value < _BELOW_FOUR_BYTES:
        return (value | 0x8000_0000).to_bytes(4, "big")
    if value > MAX_VARINT:
        raise ValueError(f"a varint holds at most {MAX_VARINT}: {value}")
    return (value | 0xC000_0000_0000_0000).to_bytes(8, "big")


def decode_varint(data: bytes | bytearray | memoryview, offset: int = 0) -> tuple[int, int] | None:
    """(value, offset of the next byte), None while incomplete; RFC 9000 allows longer encodings than needed."""
    if offset >= len(data):
        return None
    first = data[offset]
    if first < BELOW_ONE_BYTE:
        return first, offset + 1
    width = 1 << (first >> 6)
    end = offset + width
    if end > len(data):
        return None
    return int.from_bytes(data[offset:end], "big") & ((1 << (8 * width - 2)) - 1), end
