"""Faults of a peer's bytes, and their codes on the wire.

    WireError
    +- DecodeError: Truncated, BadFrameRange, BadTimestamp, PathTooDeep
    +- MessageTooLarge, FrameTooLarge, TooManyMessages
    +- ProtocolViolation: DuplicateAnnounce, UnknownAnnounce, NoCommonVersion
    +- UnknownStreamType

Our own faults (a value that does not fit, a message the version lacks) are ValueError and never reach a peer.
"""
# ruff: noqa: N818 - each name says what happened; the tree says that it is an error

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar, Final

from relay.wire.version import Version


class SessionCode(IntEnum):
    """The codes of closed sessions; the numbers are not those of `StreamCode`."""

    NO_ERROR = 0
    INTERNAL = 1
    UNAUTHORIZED = 2
    PROTOCOL_VIOLATION = 3
    KEY_VALUE_FORMATTING = 6
    GOAWAY_TIMEOUT = 16
    CONTROL_TIMEOUT = 17
    VERSION_NEGOTIATION = 21
    TOO_MANY_REQUEST_UPDATES = 27


class StreamCode(IntEnum):
    """The codes of a reset or stop."""

    INTERNAL = 0
    CANCELLED = 1
    DELIVERY_TIMEOUT = 2
    SESSION_CLOSED = 3
    GOING_AWAY = 4
    TOO_FAR_BEHIND = 5
    MALFORMED_TRACK = 18
    NO_CAPACITY = 48
    CONTROL_TIMEOUT = 49
    GROUP_TOO_LARGE = 50
    NOT_FOUND = 51
    OLD = 52
    EVICTED = 53
    UNROUTABLE = 54
    WRONG_SIZE = 55
    FRAME_TOO_LARGE = 56
    TIMESTAMP_MISMATCH = 57
    UNAUTHORIZED = 58


class OldCode(IntEnum):
    """The table of the 0.9.3 generation (01, 02), for sessions and streams alike."""

    CANCEL = 0
    TIMEOUT = 3
    TRANSPORT = 4
    DECODE = 5
    UNAUTHORIZED = 6
    VERSION = 9
    UNEXPECTED_STREAM = 10
    BOUNDS_EXCEEDED = 11
    DUPLICATE = 12
    NOT_FOUND = 13
    PROTOCOL_VIOLATION = 15


FIRST_APP_CODE: Final = 64  # 64 + n are application codes, in every table

MAX_CODE: Final = 2**32 - 1
"""The largest of WebTransport; larger ones of plain QUIC cannot be passed on."""


class WireError(Exception):
    """A fault of the peer. `stream_only`: refusing the stream is enough, though its owner may be stricter.

    `limit` names the exceeded limit, "" for none.
    """

    session_code: ClassVar[SessionCode] = SessionCode.PROTOCOL_VIOLATION
    old_code: ClassVar[OldCode] = OldCode.PROTOCOL_VIOLATION
    stream_code: ClassVar[StreamCode] = StreamCode.CANCELLED
    stream_only: ClassVar[bool] = False
    limit: ClassVar[str] = ""

    def close_code(self, version: Version) -> int:
        return int(self.old_code if version <= Version.LITE_02 else self.session_code)


class DecodeError(WireError):
    """Bytes that are no message of this version."""

    old_code = OldCode.DECODE


class Truncated(DecodeError):
    """The stream ended inside a message or frame."""

    stream_code = StreamCode.WRONG_SIZE
    stream_only = True


class BadFrameRange(DecodeError):
    """An end frame without an end group: refuse only the request."""

    stream_only = True


class BadTimestamp(DecodeError):
    """A frame's time is negative, or too late for the first frame of another stream."""

    stream_code = StreamCode.MALFORMED_TRACK
    stream_only = True


class PathTooDeep(DecodeError):
    """More segments than current peers accept."""

    limit = "path"


class MessageTooLarge(WireError):
    """Known from the length prefix alone."""

    old_code = OldCode.BOUNDS_EXCEEDED
    limit = "message"


class FrameTooLarge(WireError):
    """Known before its payload."""

    old_code = OldCode.BOUNDS_EXCEEDED
    stream_code = StreamCode.FRAME_TOO_LARGE
    stream_only = True
    limit = "frame"


class TooManyMessages(WireError):
    """More than the rate allows, each of them legal."""

    session_code = SessionCode.TOO_MANY_REQUEST_UPDATES
    old_code = OldCode.BOUNDS_EXCEEDED
    limit = "control_rate"


class ProtocolViolation(WireError):
    """A readable message that breaks a rule."""


class DuplicateAnnounce(ProtocolViolation):
    """A live path is announced again, in a version where that means nothing else."""

    old_code = OldCode.DUPLICATE


class UnknownAnnounce(ProtocolViolation):
    """An announcement that is not live ends or changes."""

    old_code = OldCode.NOT_FOUND


class NoCommonVersion(ProtocolViolation):
    """We know none of the other side's versions."""

    session_code = SessionCode.VERSION_NEGOTIATION
    old_code = OldCode.VERSION


def afresh(error: WireError) -> WireError:
    """A copy without a traceback, which would refer back to the error's keeper."""
    return type(error)(*error.args)


class UnknownStreamType(WireError):
    """A type that this version lacks: refuse only that stream."""

    old_code = OldCode.UNEXPECTED_STREAM
    stream_only = True


_STREAM_CODES: Final = frozenset(int(code) for code in StreamCode)

_OLD_SESSION_CODES: Final = {
    SessionCode.NO_ERROR: OldCode.CANCEL,
    SessionCode.INTERNAL: OldCode.TRANSPORT,
    SessionCode.UNAUTHORIZED: OldCode.UNAUTHORIZED,
    SessionCode.PROTOCOL_VIOLATION: OldCode.PROTOCOL_VIOLATION,
    SessionCode.KEY_VALUE_FORMATTING: OldCode.DECODE,
    SessionCode.GOAWAY_TIMEOUT: OldCode.TIMEOUT,
    SessionCode.CONTROL_TIMEOUT: OldCode.TIMEOUT,
    SessionCode.VERSION_NEGOTIATION: OldCode.VERSION,
    SessionCode.TOO_MANY_REQUEST_UPDATES: OldCode.BOUNDS_EXCEEDED,
}


def _is_stream_code(code: int) -> bool:
    return code in _STREAM_CODES or FIRST_APP_CODE <= code <= MAX_CODE


def stream_code_for(version: Version, code: int) -> int:
    """The code for a reset or stop toward a peer of `version`.

    01 and 02 know "not found" (13) and "cancel" (0); a code outside the table becomes 0.
    """
    if version <= Version.LITE_02:
        missing = code in (StreamCode.NOT_FOUND, StreamCode.UNROUTABLE)
        return int(OldCode.NOT_FOUND if missing else OldCode.CANCEL)
    return int(code) if _is_stream_code(code) else int(StreamCode.INTERNAL)


def session_code_for(version: Version, code: int) -> int:
    """The code for a close toward a peer of `version`.

    Application codes pass unchanged; a number outside the table becomes "internal error".
    """
    if FIRST_APP_CODE <= code <= MAX_CODE:
        return int(code)
    known = SessionCode(code) if code in _OLD_SESSION_CODES else SessionCode.INTERNAL
    return int(_OLD_SESSION_CODES[known] if version <= Version.LITE_02 else known)


def relay_stream_code(received: int, version: Version) -> int:
    """The code to pass on after a peer of `version` reset a stream with `received`.

    Registered and application codes keep their number, others become 0. 01 and 02 pass only "not found" on.
    """
    if version <= Version.LITE_02:
        return int(StreamCode.NOT_FOUND if received == OldCode.NOT_FOUND else StreamCode.INTERNAL)
    return int(received) if _is_stream_code(received) else int(StreamCode.INTERNAL)


_HTTP3_FIRST: Final = 0x52E4A40FA8DB
_HTTP3_LAST: Final = 0x52E5AC983162
_HTTP3_RUN: Final = 0x1E  # between two numbers that HTTP/3 reserves (0x1f * N + 0x21)


def to_http3(code: int) -> int:
    """WebTransport's range in HTTP/3; ValueError outside 32 bits."""
    if not 0 <= code <= MAX_CODE:
        raise ValueError(f"a WebTransport code has 32 bits: {code}")
    return _HTTP3_FIRST + code + code // _HTTP3_RUN


def from_http3(code: int) -> int | None:
    """Undo `to_http3`; None outside the range or in one of its reserved gaps."""
    if not _HTTP3_FIRST <= code <= _HTTP3_LAST:
        return None
    shifted = code - _HTTP3_FIRST
    if shifted % (_HTTP3_RUN + 1) == _HTTP3_RUN:
        return None
    return shifted - shifted // (_HTTP3_RUN + 1)
