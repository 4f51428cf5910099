"""Content of frames of the publishing peers, which receivers check."""

from __future__ import annotations

import struct

HEAD = struct.Struct(">II")
PATTERN = bytes(range(256)) * 2


def payload(group: int, frame: int, size: int) -> bytes:
    """Both numbers, then a filler that depends on them; 8 bytes at least."""
    start = (group * 31 + frame) % 256
    filler = PATTERN[start : start + 256] * (size // 256 + 1)
    return (HEAD.pack(group, frame) + filler)[: max(size, HEAD.size)]


def numbers(data: bytes) -> tuple[int, int] | None:
    """The publisher's group and frame, or None if the payload is damaged."""
    if len(data) < HEAD.size:
        return None
    group, frame = HEAD.unpack_from(data)
    return (group, frame) if data == payload(group, frame, len(data)) else None
