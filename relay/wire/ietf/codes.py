"""Error codes: one name per meaning, and the number of each in a draft. Codes of a peer never decide more."""

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


class Refusal(IntEnum):
    """The codes of REQUEST_ERROR; the numbers are those of newer drafts."""

    INTERNAL = 0x0
    UNAUTHORIZED = 0x1
    TIMEOUT = 0x2
    NOT_SUPPORTED = 0x3
    BAD_TOKEN = 0x4
    EXPIRED_TOKEN = 0x5
    GOING_AWAY = 0x6
    EXCESSIVE_LOAD = 0x9
    DOES_NOT_EXIST = 0x10
    INVALID_RANGE = 0x11
    MALFORMED_TRACK = 0x12
    DUPLICATE_SUBSCRIPTION = 0x19
    UNINTERESTED = 0x20
    PREFIX_OVERLAP = 0x30
    NAMESPACE_TOO_LARGE = 0x31
    BAD_JOINING_ID = 0x32
    UNSUPPORTED_EXTENSION = 0x33
    REDIRECT = 0x34
    CONFLICTING_FILTER = 0x35
    INVALID_FILTER = 0x36


class DoneStatus(IntEnum):
    """The codes of PUBLISH_DONE; the numbers are those of newer drafts."""

    INTERNAL = 0x0
    UNAUTHORIZED = 0x1
    TRACK_ENDED = 0x2
    SUBSCRIPTION_ENDED = 0x3
    GOING_AWAY = 0x4
    TOO_FAR_BEHIND = 0x5
    EXPIRED = 0x6
    UPDATE_FAILED = 0x8
    EXCESSIVE_LOAD = 0x9
    MALFORMED_TRACK = 0x12


class SessionCode(IntEnum):
    """The codes of a close; the same in all drafts."""

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
    """The codes of a reset or stop; 14 and 16 know the first four."""

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


_SINCE_18: Final = (
    *(Refusal.GOING_AWAY, Refusal.EXCESSIVE_LOAD, Refusal.NAMESPACE_TOO_LARGE, Refusal.UNSUPPORTED_EXTENSION),
    *(Refusal.REDIRECT, Refusal.CONFLICTING_FILTER, Refusal.INVALID_FILTER),
)
_SINCE_20: Final = (Refusal.CONFLICTING_FILTER, Refusal.INVALID_FILTER)
_UNTIL_18: Final = (Refusal.DUPLICATE_SUBSCRIPTION, Refusal.BAD_JOINING_ID)

REFUSALS_20: Final[Mapping[Refusal, int]] = MappingProxyType(
    {of: of.value for of in Refusal if of not in _UNTIL_18}
)
REFUSALS_18: Final[Mapping[Refusal, int]] = MappingProxyType(
    {of: of.value for of in Refusal if of not in _SINCE_20}
)
REFUSALS_16: Final[Mapping[Refusal, int]] = MappingProxyType(
    {of: of.value for of in Refusal if of not in _SINCE_18}
)
REFUSALS_14: Final[Mapping[Refusal, int]] = MappingProxyType(
    {
        **{of: of.value for of in Refusal if of <= Refusal.NOT_SUPPORTED},
        Refusal.DOES_NOT_EXIST: 0x4,
        Refusal.INVALID_RANGE: 0x5,
        Refusal.UNINTERESTED: 0x4,
        Refusal.PREFIX_OVERLAP: 0x5,
        Refusal.BAD_JOINING_ID: 0x7,
        Refusal.MALFORMED_TRACK: 0x9,
        Refusal.BAD_TOKEN: 0x10,
        Refusal.EXPIRED_TOKEN: 0x12,
    }
)
"""The more frequent meaning comes first where a number has two."""

DONE_CODES_NEW: Final[Mapping[DoneStatus, int]] = MappingProxyType({of: of.value for of in DoneStatus})
DONE_CODES_OLD: Final[Mapping[DoneStatus, int]] = MappingProxyType(
    {
        **{of: of.value for of in DoneStatus if of is not DoneStatus.EXCESSIVE_LOAD},
        DoneStatus.TOO_FAR_BEHIND: 0x6,
        DoneStatus.EXPIRED: 0x5,
    }
)
DONE_CODES_14: Final[Mapping[DoneStatus, int]] = MappingProxyType(
    {
        **{of: code for of, code in DONE_CODES_OLD.items() if of is not DoneStatus.UPDATE_FAILED},
        DoneStatus.MALFORMED_TRACK: 0x7,
    }
)
