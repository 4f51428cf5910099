"""Writes data streams and datagrams. Payloads are not copied: they follow the headers made here."""

from __future__ import annotations

from typing import Final

from relay.wire.errors import DecodeError
from relay.wire.ietf.cursor import Reader, Writer
from relay.wire.ietf.data import (
    FetchGap,
    FetchObject,
    GapKind,
    ObjectDatagram,
    ObjectHeader,
    ObjectStatus,
    SubgroupHeader,
)
from relay.wire.ietf.profile import DraftProfile, FetchForm
from relay.wire.ietf.values import Location

FETCH: Final = 0x05
PADDING_STREAM: Final = 0x132B3E28
PADDING_DATAGRAM: Final = 0x132B3E29

SUBGROUP: Final = 0x10
"""The type of a subgroup stream, together with these bits."""
HAS_PROPERTIES: Final = 0x01
FIRST_ID: Final = 0x02  # subgroup is the first object's id
HAS_SUBGROUP: Final = 0x04
SUBGROUP_MODE: Final = FIRST_ID | HAS_SUBGROUP
END_OF_GROUP: Final = 0x08
NO_PRIORITY: Final = 0x20
FIRST_OBJECT: Final = 0x40

DATAGRAM_END_OF_GROUP: Final = 0x02
ZERO_OBJECT: Final = 0x04
DATAGRAM_NO_PRIORITY: Final = 0x08
HAS_STATUS: Final = 0x20
_DATAGRAM_BITS: Final = 0x2F
_DATAGRAM_BITS_14: Final = 0x27

SAME_SUBGROUP: Final = 0x01
NEXT_SUBGROUP: Final = 0x02
SUBGROUP_FIELD: Final = 0x03
OBJECT_FIELD: Final = 0x04
GROUP_FIELD: Final = 0x08
PRIORITY_FIELD: Final = 0x10
PROPERTIES_FIELD: Final = 0x20
DATAGRAM: Final = 0x40
"""Flags of an object in a fetch."""

_DEFAULT_PRIORITY: Final = 128


def subgroup_header(header: SubgroupHeader, profile: DraftProfile) -> bytes:
    """The type and header of a subgroup stream."""
    kind = SUBGROUP
    kind |= HAS_PROPERTIES if header.has_properties else 0
    kind |= END_OF_GROUP if header.end_of_group else 0
    kind |= FIRST_OBJECT if header.first_object and profile.marks_first_object else 0
    kind |= NO_PRIORITY if header.priority is None and profile.optional_priority else 0
    if header.subgroup != 0:
        kind |= FIRST_ID if header.subgroup is None else HAS_SUBGROUP
    writer = Writer(profile)
    writer.varint(kind)
    writer.varint(header.alias)
    writer.varint(header.group)
    if header.subgroup:
        writer.varint(header.subgroup)
    if not kind & NO_PRIORITY:
        writer.byte(_DEFAULT_PRIORITY if header.priority is None else header.priority)
    return bytes(writer)


def object_header(
    header: ObjectHeader, before: int | None, profile: DraftProfile, *, has_properties: bool
) -> bytes:
    """The header of an object in a subgroup stream whose header says `has_properties`.

    `before` is the id of the stream's object before it, None for the first.
    """
    writer = Writer(profile)
    writer.varint(header.id if before is None else header.id - before - 1)
    if has_properties:
        writer.block(header.properties)
    elif header.properties:
        raise ValueError("an object with properties on a stream without")
    writer.varint(header.size)
    if not header.size:
        writer.varint(header.status)
    return bytes(writer)


def fetch_header(request_id: int, profile: DraftProfile) -> bytes:
    """The type and header of a fetch stream."""
    writer = Writer(profile)
    writer.varint(FETCH)
    writer.varint(request_id)
    return bytes(writer)


class FetchEncoder:
    """Writes one fetch stream; each object refers to the one before."""

    __slots__ = ("_before", "_descending", "_object", "_profile")

    def __init__(self, profile: DraftProfile, *, descending: bool = False) -> None:
        """`descending`: the order of groups the fetch asked for."""
        self._profile = profile
        self._descending = descending
        self._before: Location | None = None
        self._object: FetchObject | None = None  # the last one that was not a gap

    def header(self, item: FetchObject | FetchGap) -> bytes:
        """ValueError for what does not follow the one before."""
        writer = Writer(self._profile)
        if self._profile.fetch_form is FetchForm.FULL:
            if isinstance(item, FetchGap):
                raise ValueError("fetches of this draft have no gaps")
            _write_full(writer, item)
        elif isinstance(item, FetchGap):
            if item.kind is GapKind.TIMED_OUT and not self._profile.has_fill:
                raise ValueError("no gap of a fetch of this draft is timed out")
            writer.varint(item.kind)
            writer.location(Location(item.group, item.object))  # absolute on all drafts
        else:
            self._write_flags(writer, item)
        if isinstance(item, FetchGap):
            self._before = Location(item.group, item.object)
        else:
            self._before = Location(item.group, item.id)
            self._object = item
        return bytes(writer)

    def _write_group(self, writer: Writer, group: int) -> None:
        before = self._before
        if before is None or self._profile.fetch_form is FetchForm.FLAGS:
            writer.varint(group)
        else:
            writer.varint((before.group - group if self._descending else group - before.group) - 1)

    def _write_flags(self, writer: Writer, item: FetchObject) -> None:  # noqa: C901 - a branch for each flag
        before, last = self._before, self._object
        flags = PROPERTIES_FIELD if item.properties else 0
        if before is None or item.group != before.group:
            flags |= GROUP_FIELD
        if before is None or item.id != before.object + 1:
            flags |= OBJECT_FIELD
        if last is None or item.priority != last.priority:
            flags |= PRIORITY_FIELD
        if item.datagram:
            flags |= DATAGRAM
        elif item.subgroup:
            flags |= _subgroup_mode(item, last)
        writer.varint(flags)
        if flags & GROUP_FIELD:
            self._write_group(writer, item.group)
        if flags & SUBGROUP_FIELD == SUBGROUP_FIELD:
            writer.varint(item.subgroup)
        if flags & OBJECT_FIELD:
            relative = self._profile.fetch_form is FetchForm.DELTA and not flags & GROUP_FIELD
            writer.varint(item.id - before.object if before is not None and relative else item.id)
        if flags & PRIORITY_FIELD:
            writer.byte(item.priority)
        if flags & PROPERTIES_FIELD:
            writer.block(item.properties)
        if item.status:
            raise ValueError("objects of a fetch of this draft have no status")
        writer.varint(item.size)


def _subgroup_mode(item: FetchObject, last: FetchObject | None) -> int:
    if last is not None and not last.datagram:
        if item.subgroup == last.subgroup:
            return SAME_SUBGROUP
        if item.subgroup == last.subgroup + 1:
            return NEXT_SUBGROUP
    return SUBGROUP_FIELD


def _write_full(writer: Writer, item: FetchObject) -> None:
    writer.varint(item.group)
    writer.varint(item.subgroup)
    writer.varint(item.id)
    writer.byte(item.priority)
    writer.block(item.properties)
    writer.varint(item.size)
    if not item.size:
        writer.varint(item.status)


def encode_datagram(datagram: ObjectDatagram, profile: DraftProfile) -> bytes:
    """ValueError for what the draft lacks."""
    has_status = datagram.status is not None
    if has_status and (datagram.end_of_group or datagram.payload):
        raise ValueError("a status comes instead of a payload, and is no end of a group")
    kind = HAS_PROPERTIES if datagram.properties else 0
    kind |= DATAGRAM_END_OF_GROUP if datagram.end_of_group else 0
    kind |= ZERO_OBJECT if not datagram.object and (profile.optional_priority or not has_status) else 0
    kind |= DATAGRAM_NO_PRIORITY if datagram.priority is None and profile.optional_priority else 0
    kind |= HAS_STATUS if has_status else 0
    writer = Writer(profile)
    writer.varint(kind)
    writer.varint(datagram.alias)
    writer.varint(datagram.group)
    if not kind & ZERO_OBJECT:
        writer.varint(datagram.object)
    if not kind & DATAGRAM_NO_PRIORITY:
        writer.byte(_DEFAULT_PRIORITY if datagram.priority is None else datagram.priority)
    if datagram.properties:
        writer.block(datagram.properties)
    if datagram.status is not None:
        writer.varint(datagram.status)
    writer.raw(datagram.payload)
    return bytes(writer)


def decode_datagram(data: bytes, profile: DraftProfile) -> ObjectDatagram | None:
    """None for padding. Raises WireError."""
    reader = Reader(data, profile)
    kind = reader.varint()
    if kind == PADDING_DATAGRAM and profile.marks_first_object:
        return None
    has_status = bool(kind & HAS_STATUS)
    bits = _DATAGRAM_BITS if profile.optional_priority else _DATAGRAM_BITS_14
    odd = DATAGRAM_END_OF_GROUP if profile.optional_priority else DATAGRAM_END_OF_GROUP | ZERO_OBJECT
    if kind & ~bits or (has_status and kind & odd):
        raise DecodeError(f"{profile.name} has no datagram of type {kind:#x}")
    alias, group = reader.varint(), reader.varint()
    object_ = 0 if kind & ZERO_OBJECT else reader.varint()
    priority = None if kind & DATAGRAM_NO_PRIORITY else reader.byte()
    properties = reader.block() if kind & HAS_PROPERTIES else ()
    if kind & HAS_PROPERTIES and not properties:
        raise DecodeError("a datagram with an empty block of properties")
    status = read_status(reader, has_properties=bool(properties)) if has_status else None
    if has_status:
        reader.done()
    end = bool(kind & DATAGRAM_END_OF_GROUP)
    return ObjectDatagram(alias, group, object_, reader.rest(), priority, properties, status, end)


def read_status(reader: Reader, *, has_properties: bool) -> ObjectStatus:
    """Read the status of an object without payload."""
    value = reader.varint()
    lenient = reader.profile.fixed_fields
    if value not in _STATUSES or (value == ObjectStatus.DOES_NOT_EXIST and not lenient):
        raise DecodeError(f"unknown object status {value}")
    if value and has_properties and not (lenient and value != ObjectStatus.DOES_NOT_EXIST):
        raise DecodeError("an object with a status has properties")
    return ObjectStatus(value)


_STATUSES: Final = frozenset(int(status) for status in ObjectStatus)
