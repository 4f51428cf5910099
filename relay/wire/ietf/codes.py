"""Error codes: one name per meaning, and the number of each in a draft. Codes of a peer never decide more than these."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, IntEnum, auto
from types import MappingProxyType
from typing import Final


class RequestKind(Enum):
    """What a reply answers. Draft 14 has replies of their own for each, and numbers for some."""

    SUBSCRIBE = auto()
    PUBLISH = auto()
    FETCH = auto()
    TRACK_STATUS = auto()
    PUBLISH_NAMESPACE = auto()
    SUBSCRIBE_NAMESPACE = auto()
    SUBSCRIBE_TRACKS = auto()
    UPDATE = auto()


class Refusal(Enum):
    """Why a request is refused (REQUEST_ERROR)."""

    INTERNAL = auto()
    UNAUTHORIZED = auto()
    TIMEOUT = auto()
    NOT_SUPPORTED = auto()
    BAD_TOKEN = auto()
    EXPIRED_TOKEN = auto()
    DOES_NOT_EXIST = auto()
    INVALID_RANGE = auto()
    MALFORMED_TRACK = auto()
    DUPLICATE_SUBSCRIPTION = auto()
    UNINTERESTED = auto()
    PREFIX_OVERLAP = auto()
    BAD_JOINING_ID = auto()
    GOING_AWAY = auto()
    EXCESSIVE_LOAD = auto()
    NAMESPACE_TOO_LARGE = auto()
    UNSUPPORTED_EXTENSION = auto()
    REDIRECT = auto()
    CONFLICTING_FILTER = auto()
    INVALID_FILTER = auto()


class DoneStatus(Enum):
    """Why a publisher ends a subscription (PUBLISH_DONE)."""

    INTERNAL = auto()
    UNAUTHORIZED = auto()
    TRACK_ENDED = auto()
    SUBSCRIPTION_ENDED = auto()
    GOING_AWAY = auto()
    EXPIRED = auto()
    TOO_FAR_BEHIND = auto()
    MALFORMED_TRACK = auto()
    UPDATE_FAILED = auto()
    EXCESSIVE_LOAD = auto()


class SessionCode(IntEnum):
    """Why a session closes; the same in all drafts."""

    NO_ERROR = 0x0
    INTERNAL = 0x1
    UNAUTHORIZED = 0x2
    PROTOCOL_VIOLATION = 0x3
    INVALID_REQUEST_ID = 0x4
    DUPLICATE_TRACK_ALIAS = 0x5
    KEY_VALUE_FORMATTING = 0x6
    TOO_MANY_REQUESTS = 0x7
    INVALID_PATH = 0x8
    MALFORMED_PATH = 0x9
    GOAWAY_TIMEOUT = 0x10
    CONTROL_TIMEOUT = 0x11
    DATA_TIMEOUT = 0x12
    TOKEN_CACHE_OVERFLOW = 0x13
    DUPLICATE_TOKEN_ALIAS = 0x14
    VERSION_NEGOTIATION = 0x15
    MALFORMED_TOKEN = 0x16
    UNKNOWN_TOKEN_ALIAS = 0x17
    EXPIRED_TOKEN = 0x18
    INVALID_AUTHORITY = 0x19
    MALFORMED_AUTHORITY = 0x1A
    TOO_MANY_REQUEST_UPDATES = 0x1B


class ResetCode(IntEnum):
    """Why a stream is reset or stopped; 14 and 16 know the first four."""

    INTERNAL = 0x0
    CANCELLED = 0x1
    DELIVERY_TIMEOUT = 0x2
    SESSION_CLOSED = 0x3
    GOING_AWAY = 0x4
    TOO_FAR_BEHIND = 0x5
    UNKNOWN_OBJECT_STATUS = 0x6
    EXPIRED_TOKEN = 0x7
    EXCESSIVE_LOAD = 0x9
    MALFORMED_TRACK = 0x12


_BASE: Final = {
    Refusal.INTERNAL: 0x0,
    Refusal.UNAUTHORIZED: 0x1,
    Refusal.TIMEOUT: 0x2,
    Refusal.NOT_SUPPORTED: 0x3,
}
_OLD_DONE: Final = {
    DoneStatus.INTERNAL: 0x0,
    DoneStatus.UNAUTHORIZED: 0x1,
    DoneStatus.TRACK_ENDED: 0x2,
    DoneStatus.SUBSCRIPTION_ENDED: 0x3,
    DoneStatus.GOING_AWAY: 0x4,
    DoneStatus.EXPIRED: 0x5,
    DoneStatus.TOO_FAR_BEHIND: 0x6,
}

REFUSALS_14: Final[Mapping[Refusal, int]] = MappingProxyType(
    {
        **_BASE,
        Refusal.BAD_TOKEN: 0x10,
        Refusal.EXPIRED_TOKEN: 0x12,
        Refusal.DOES_NOT_EXIST: 0x4,
        Refusal.INVALID_RANGE: 0x5,
        Refusal.MALFORMED_TRACK: 0x9,
        Refusal.UNINTERESTED: 0x4,
        Refusal.PREFIX_OVERLAP: 0x5,
        Refusal.BAD_JOINING_ID: 0x7,
    }
)
REFUSALS_16: Final[Mapping[Refusal, int]] = MappingProxyType(
    {
        **_BASE,
        Refusal.BAD_TOKEN: 0x4,
        Refusal.EXPIRED_TOKEN: 0x5,
        Refusal.DOES_NOT_EXIST: 0x10,
        Refusal.INVALID_RANGE: 0x11,
        Refusal.MALFORMED_TRACK: 0x12,
        Refusal.DUPLICATE_SUBSCRIPTION: 0x19,
        Refusal.UNINTERESTED: 0x20,
        Refusal.PREFIX_OVERLAP: 0x30,
        Refusal.BAD_JOINING_ID: 0x32,
    }
)
REFUSALS_18: Final[Mapping[Refusal, int]] = MappingProxyType(
    {
        **REFUSALS_16,
        Refusal.GOING_AWAY: 0x6,
        Refusal.EXCESSIVE_LOAD: 0x9,
        Refusal.NAMESPACE_TOO_LARGE: 0x31,
        Refusal.UNSUPPORTED_EXTENSION: 0x33,
        Refusal.REDIRECT: 0x34,
    }
)
REFUSALS_20: Final[Mapping[Refusal, int]] = MappingProxyType(
    {
        **{
            refusal: code
            for refusal, code in REFUSALS_18.items()
            if refusal not in (Refusal.DUPLICATE_SUBSCRIPTION, Refusal.BAD_JOINING_ID)
        },
        Refusal.CONFLICTING_FILTER: 0x35,
        Refusal.INVALID_FILTER: 0x36,
    }
)

DONE_CODES_14: Final[Mapping[DoneStatus, int]] = MappingProxyType(
    {**_OLD_DONE, DoneStatus.MALFORMED_TRACK: 0x7}
)
DONE_CODES_OLD: Final[Mapping[DoneStatus, int]] = MappingProxyType(
    {**_OLD_DONE, DoneStatus.MALFORMED_TRACK: 0x12, DoneStatus.UPDATE_FAILED: 0x8}
)
DONE_CODES_NEW: Final[Mapping[DoneStatus, int]] = MappingProxyType(
    {
        **DONE_CODES_OLD,
        DoneStatus.EXPIRED: 0x6,
        DoneStatus.TOO_FAR_BEHIND: 0x5,
        DoneStatus.EXCESSIVE_LOAD: 0x9,
    }
)
