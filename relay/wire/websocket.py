"""The WebSocket subprotocol `webtransport` of the 0.9.3 generation.

It has five frames, one per message, and no offsets, flow control or datagrams.
"""

from __future__ import annotations

from typing import Final, TypeAlias

from relay.wire.cursor import Cursor
from relay.wire.errors import DecodeError
from relay.wire.qmux import Close, ResetStream, StopSending, StreamFrame
from relay.wire.varint import encode_varint

_RESET: Final = 0x04
_STOP: Final = 0x05
_STREAM: Final = 0x08
_STREAM_FIN: Final = 0x09
_CLOSE: Final = 0x1D
_TRANSPORT_CLOSE: Final = 0x1C  # of newer peers, for a fault that their transport found

PlainFrame: TypeAlias = StreamFrame | ResetStream | StopSending | Close


def decode_plain(message: bytes) -> PlainFrame:
    """Raises DecodeError, also for an unknown type."""
    cursor = Cursor(message)
    kind = cursor.byte()
    number = cursor.varint()
    if kind in (_STREAM, _STREAM_FIN):
        return StreamFrame(number, cursor.rest(), kind == _STREAM_FIN)
    if kind in (_CLOSE, _TRANSPORT_CLOSE):
        return Close(number, cursor.rest().decode(errors="replace"), application=kind == _CLOSE)
    if kind == _RESET:
        return ResetStream(number, cursor.varint())
    if kind == _STOP:
        return StopSending(number, cursor.varint())
    raise DecodeError(f"unknown frame type {kind:#x}")


def plain_stream_header(stream_id: int, *, fin: bool) -> bytes:
    """Stream data fills the message."""
    return bytes((_STREAM_FIN if fin else _STREAM,)) + encode_varint(stream_id)


def plain_reset(stream_id: int, code: int) -> bytes:
    """RESET_STREAM."""
    return bytes((_RESET,)) + encode_varint(stream_id) + encode_varint(code)


def plain_stop(stream_id: int, code: int) -> bytes:
    """STOP_SENDING."""
    return bytes((_STOP,)) + encode_varint(stream_id) + encode_varint(code)


def plain_close(code: int, reason: str) -> bytes:
    """APPLICATION_CLOSE."""
    return bytes((_CLOSE,)) + encode_varint(code) + reason.encode(errors="replace")
