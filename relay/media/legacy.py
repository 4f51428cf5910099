"""The container `legacy` of hang: the time of presentation in microseconds as a varint, then the frame."""

from __future__ import annotations

from relay.media.errors import MediaError
from relay.wire.varint import decode_varint, encode_varint


def encode(time: int, data: bytes) -> bytes:
    """`time` is in microseconds."""
    return encode_varint(time) + data


def decode(payload: bytes) -> tuple[int, bytes]:
    """(microseconds, frame); an empty frame only tells a time. MediaError if it is cut off."""
    found = decode_varint(payload)
    if found is None:
        raise MediaError("a frame without the time of the container legacy")
    time, start = found
    return time, payload[start:]
