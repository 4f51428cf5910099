"""Variable-length integers for the packet loops (RFC 9000, 16)."""

from __future__ import annotations


def varint(value: int) -> bytes:
    """Raises OverflowError beyond 62 bits."""
    if value < 0x40:
        return _ONE[value]
    if value < 0x4000:
        return (0x4000 | value).to_bytes(2, "big")
    if value < 0x40000000:
        return (0x80000000 | value).to_bytes(4, "big")
    if value >> 62:
        raise OverflowError("more than 62 bits")
    return (0xC000000000000000 | value).to_bytes(8, "big")


_ONE = [bytes((value,)) for value in range(0x40)]


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """Value and the position after it. Raises IndexError if `data` ends before."""
    first = data[at]
    size = 1 << (first >> 6)
    if size == 1:
        return first, at + 1
    end = at + size
    if end > len(data):
        raise IndexError
    return int.from_bytes(data[at:end], "big") & ((1 << (8 * size - 2)) - 1), end
