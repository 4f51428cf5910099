"""The Low Overhead Container (draft-ietf-moq-loc): properties with the time, then the frame."""

from __future__ import annotations

from typing import Final

from relay.media.errors import MediaError
from relay.wire.varint import decode_varint

TIMESCALE: Final = 0x08  # ids of properties
TIMESTAMPS: Final = (0x10, 0x06)  # 0x06 in draft 03
MICROSECONDS: Final = 1_000_000


def decode(payload: bytes) -> tuple[int, bytes]:
    """(microseconds, frame); MediaError if it is cut off, or tells no time."""
    size, at = _number(payload, 0)
    end = at + size
    time, scale = None, MICROSECONDS
    kind = 0
    while at < end:
        step, at = _number(payload, at)
        kind += step
        value, at = _number(payload, at)
        if kind % 2:
            at += value  # a property of bytes
        elif kind in TIMESTAMPS:
            time = value
        elif kind == TIMESCALE:
            scale = value
    if time is None or not scale or at != end or end > len(payload):
        raise MediaError("a frame with broken properties of the container loc")
    return time * MICROSECONDS // scale, payload[end:]


def _number(payload: bytes, at: int) -> tuple[int, int]:
    found = decode_varint(payload, at)
    if found is None:
        raise MediaError("a frame that the container loc cuts off")
    return found
