"""Values within messages, the same for all drafts."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple, TypeAlias

TrackNamespace: TypeAlias = tuple[bytes, ...]
"""Fields of a namespace, prefix or suffix: bytes, not text."""

Properties: TypeAlias = tuple[tuple[int, int | bytes], ...]
"""Properties in their order, unknown ones too: an even type has an int, an odd one bytes. They are
independent of drafts, so that a relay passes them on from any to any.
"""

MAX_NAMESPACE_FIELDS: Final = 32
MAX_NAME: Final = 4096
"""Bytes of a namespace and a track name together."""

MAX_REASON: Final = 1024
MAX_URI: Final = 8192


class PropertyType:
    """The types of known properties."""

    DELIVERY_TIMEOUT: Final = 0x02
    MAX_CACHE_DURATION: Final = 0x04
    SUBGROUP_DELIVERY_TIMEOUT: Final = 0x06
    TIMESCALE: Final = 0x08
    IMMUTABLE: Final = 0x0B
    DEFAULT_PRIORITY: Final = 0x0E
    TIMESTAMP: Final = 0x10
    DEFAULT_ORDER: Final = 0x22
    DYNAMIC_GROUPS: Final = 0x30
    GROUP_GAP: Final = 0x3C
    OBJECT_GAP: Final = 0x3E


class GroupOrder(IntEnum):
    """Absent: the publisher's choice."""

    ASCENDING = 1
    DESCENDING = 2


class Location(NamedTuple):
    """A place in a track."""

    group: int
    object: int


class TokenKind(IntEnum):
    """The alias type of a token."""

    DELETE = 0
    REGISTER = 1
    USE_ALIAS = 2
    USE_VALUE = 3


@dataclass(frozen=True, slots=True)
class Token:
    """An authorization token. `alias` is 0 for USE_VALUE; DELETE and USE_ALIAS have no `type` and `value`."""

    value: bytes = b""
    type: int = 0
    kind: TokenKind = TokenKind.USE_VALUE
    alias: int = 0


@dataclass(frozen=True, slots=True)
class Unfiltered:
    """Everything: an update removes a former filter."""


@dataclass(frozen=True, slots=True)
class RelativeGroup:
    """A start at a group: 0 is the next one, 1 the current one, 2 the one before. 14 to 19 know only 0."""

    back: int


@dataclass(frozen=True, slots=True)
class NextObject:
    """A start at the object after the largest one."""


@dataclass(frozen=True, slots=True)
class AbsoluteRange:
    """A range with an inclusive end. `end_group` None: no end; `end_object` None: the whole group.

    An end within a group needs `has_fill`, except in a fetch.
    """

    start: Location
    end_group: int | None = None
    end_object: int | None = None


Filter: TypeAlias = Unfiltered | RelativeGroup | NextObject | AbsoluteRange

NEXT_GROUP: Final = RelativeGroup(0)
CURRENT_GROUP: Final = RelativeGroup(1)
