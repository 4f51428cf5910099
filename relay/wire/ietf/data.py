"""Objects on streams and in datagrams, the same for all drafts."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from relay.wire.ietf.values import Properties


class ObjectStatus(IntEnum):
    """What an object without payload means."""

    NORMAL = 0
    DOES_NOT_EXIST = 1  # 14 alone
    END_OF_GROUP = 3
    END_OF_TRACK = 4


@dataclass(frozen=True, slots=True)
class SubgroupHeader:
    """Start of a subgroup stream."""

    alias: int
    group: int
    subgroup: int | None = 0
    """None: the id of the stream's first object."""
    priority: int | None = None
    """0 to 255, lower is more urgent. None: that of the track (16 and later)."""
    end_of_group: bool = False
    """The stream's last object is the group's last; unknown after a reset."""
    first_object: bool = False
    """The stream starts with the subgroup's first object; False also where the draft does not tell."""
    has_properties: bool = False


class ObjectHeader(NamedTuple):
    """`size` bytes of payload follow."""

    id: int
    size: int
    properties: Properties = ()
    status: ObjectStatus = ObjectStatus.NORMAL


class FetchHeader(NamedTuple):
    """The start of a fetch stream. For fills, `request_id` is the subscription's."""

    request_id: int


class FetchObject(NamedTuple):
    """`size` bytes of payload follow."""

    group: int
    subgroup: int
    id: int
    priority: int
    size: int
    properties: Properties = ()
    status: ObjectStatus = ObjectStatus.NORMAL
    """14 alone has others."""
    datagram: bool = False
    """Published in a datagram, without a subgroup (0)."""


class GapKind(IntEnum):
    """Why a fetch stream leaves objects out."""

    DOES_NOT_EXIST = 0x8C
    UNKNOWN = 0x10C
    TIMED_OUT = 0x20C  # with `has_fill`


class FetchGap(NamedTuple):
    """Objects from the one before up to this one are left out (16 and later)."""

    group: int
    object: int
    kind: GapKind


@dataclass(frozen=True, slots=True)
class ObjectDatagram:
    """A whole object in a datagram."""

    alias: int
    group: int
    object: int
    payload: bytes = b""
    priority: int | None = None
    properties: Properties = ()
    status: ObjectStatus | None = None
    """It takes the place of a payload."""
    end_of_group: bool = False
