"""Reads unidirectional streams, slice by slice: the hot path, which copies no payload and waits for no whole object."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Final, TypeAlias

from relay.wire.errors import DecodeError, FrameTooLarge, Truncated, UnknownStreamType, WireError, afresh
from relay.wire.frame_decoder import MAX_FRAME
from relay.wire.ietf import streams
from relay.wire.ietf.control import SETUP, MessageDecoder
from relay.wire.ietf.cursor import Reader, Short
from relay.wire.ietf.data import (
    FetchGap,
    FetchHeader,
    FetchObject,
    GapKind,
    ObjectHeader,
    ObjectStatus,
    SubgroupHeader,
)
from relay.wire.ietf.messages import Message
from relay.wire.ietf.profile import DraftProfile, FetchForm
from relay.wire.ietf.values import Properties
from relay.wire.ietf.varint import MAX_VI64
from relay.wire.incremental import MAX_MESSAGE

UniItem: TypeAlias = Message | SubgroupHeader | ObjectHeader | FetchHeader | FetchObject | FetchGap | bytes
"""Payload comes as `bytes`, in the chunks in which it arrives, after its object's header."""

_STEP: Final = 64
"""Bytes added at a time to a header that was cut, so that little payload is copied with it."""

_GAPS: Final = frozenset(int(kind) for kind in GapKind)
_FLAGS: Final = 0x7F


class _Mode(IntEnum):
    OPENING = 0
    CONTROL = 1
    SUBGROUP = 2
    FETCH = 3
    PADDING = 4


class UniDecoder:
    """A unidirectional stream of the peer, of any type.

    The first item tells: Setup (then control messages follow), SubgroupHeader, FetchHeader; padding gives no items.
    Large payloads are not copied, and are not waited for. After an error every call raises that error again.
    UnknownStreamType: this draft has no such stream. FrameTooLarge: an object above `max_object` bytes.

    Size: the state of one header after another, in one place because it is the hot path.
    """

    __slots__ = (
        *(
            "_before",
            "_descends",
            "_descending",
            "_error",
            "_has_before",
            "_left",
            "_max_object",
            "_messages",
        ),
        *("_mode", "_object", "_pending", "_priority", "_profile", "_properties", "_subgroup"),
    )

    def __init__(
        self,
        profile: DraftProfile,
        max_object: int = MAX_FRAME,
        descending: Callable[[int], bool] | None = None,
        max_message: int = MAX_MESSAGE,
    ) -> None:
        """`descending` tells if the fetch of a request id asked for descending groups."""
        self._profile = profile
        self._max_object = max_object
        self._descends = descending
        self._descending = False
        self._messages = MessageDecoder(profile, max_message)
        self._mode = _Mode.OPENING
        self._pending = bytearray()  # an incomplete header
        self._left = 0  # bytes of payload to come
        self._error: WireError | None = None
        self._properties = False
        self._has_before = False
        self._before = 0  # group of the fetched object before
        self._object = 0  # id of the object before
        self._subgroup: int | None = None
        self._priority: int | None = None

    @property
    def in_object(self) -> bool:
        """True inside an object or its header."""
        return self._left > 0 or bool(self._pending)

    @property
    def buffered(self) -> int:
        """Bytes of an incomplete message or header."""
        return len(self._pending) + self._messages.buffered

    def feed(self, data: bytes) -> Sequence[UniItem]:
        """The items that the slice completes. Raises WireError."""
        if self._error is not None:
            raise afresh(self._error)
        size = len(data)
        if size <= self._left:
            self._left -= size
            return [data] if size else []
        items: list[UniItem] = []
        offset = 0
        try:
            while offset < size:
                if self._left:
                    end = min(offset + self._left, size)
                    items.append(data[offset:end])
                    self._left -= end - offset
                    offset = end
                elif self._mode is _Mode.CONTROL:
                    items += self._messages.feed(data[offset:])
                    break
                elif self._mode is _Mode.PADDING:
                    break
                else:
                    offset = self._header(data, offset, items)
        except WireError as error:
            self._error = afresh(error)
            self._left = 0
            self._pending = bytearray()
            raise
        return items

    def end(self) -> None:
        """The peer finished the stream; raises Truncated inside a message or an object."""
        if self._error is not None:
            raise afresh(self._error)
        if self.in_object:
            self._error = Truncated("stream ended inside an object or its header")
            raise afresh(self._error)
        self._messages.end()

    def _header(self, data: bytes, offset: int, items: list[UniItem]) -> int:
        """Read a header; returns the offset behind it, or the end of `data` if it is incomplete."""
        pending = self._pending
        if not pending:
            try:
                return self._read(data, offset, items)
            except Short:
                pending += data[offset:]
                return len(data)
        while offset < len(data):
            known = len(pending)
            pending += data[offset : offset + _STEP]
            try:
                used = self._read(pending, 0, items)
            except Short:
                offset += _STEP
                continue
            self._pending = bytearray()
            return offset + used - known
        return len(data)

    def _read(self, data: bytes | bytearray, offset: int, items: list[UniItem]) -> int:
        """Read one header: its state and item change only when it is complete."""
        reader = Reader(data, self._profile, offset)
        if self._mode is _Mode.SUBGROUP:
            items.append(self._read_object(reader))
        elif self._mode is _Mode.FETCH:
            items.append(self._read_fetched(reader))
        else:
            self._open(reader, items, offset)
        return reader.offset

    def _open(self, reader: Reader, items: list[UniItem], begin: int) -> None:
        profile = self._profile
        kind = reader.varint()
        if kind == SETUP and profile.request_streams:
            self._mode = _Mode.CONTROL
            reader.offset = begin  # the type of the stream is that of its first message
            items += self._messages.feed(reader.rest())
        elif kind == streams.PADDING_STREAM and profile.marks_first_object:
            self._mode = _Mode.PADDING
        elif kind == streams.FETCH:
            request_id = reader.varint()
            self._descending = self._descends is not None and self._descends(request_id)
            self._mode = _Mode.FETCH
            items.append(FetchHeader(request_id))
        else:
            items.append(self._read_subgroup(reader, kind))
            self._mode = _Mode.SUBGROUP

    def _read_subgroup(self, reader: Reader, kind: int) -> SubgroupHeader:
        profile = self._profile
        bits = 0x0F | (streams.NO_PRIORITY if profile.optional_priority else 0)
        bits |= streams.FIRST_OBJECT if profile.marks_first_object else 0
        mode = kind & streams.SUBGROUP_MODE
        if kind & ~bits != streams.SUBGROUP or mode == streams.SUBGROUP_MODE:
            raise UnknownStreamType(f"{profile.name} has no uni stream of type {kind:#x}")
        alias, group = reader.varint(), reader.varint()
        subgroup: int | None = None if mode == streams.FIRST_ID else 0
        if mode == streams.HAS_SUBGROUP:
            subgroup = reader.varint()
        priority = None if kind & streams.NO_PRIORITY else reader.byte()
        end, first = bool(kind & streams.END_OF_GROUP), bool(kind & streams.FIRST_OBJECT)
        self._properties = bool(kind & streams.HAS_PROPERTIES)
        return SubgroupHeader(alias, group, subgroup, priority, end, first, self._properties)

    def _read_object(self, reader: Reader) -> ObjectHeader:
        number = reader.varint()
        if self._has_before:
            number += self._object + 1
        properties = reader.block() if self._properties else ()
        size, status = self._size(reader, properties, has_status=True)
        if number > MAX_VI64:
            raise DecodeError("an object id above 2^64 - 1")
        self._has_before = True
        self._object = number
        self._left = size
        return ObjectHeader(number, size, properties, status)

    def _size(self, reader: Reader, properties: Properties, *, has_status: bool) -> tuple[int, ObjectStatus]:
        size = reader.varint()
        if size > self._max_object:
            raise FrameTooLarge(f"object of {size} bytes, at most {self._max_object} are allowed")
        if size or not has_status:
            return size, ObjectStatus.NORMAL
        return 0, streams.read_status(reader, has_properties=bool(properties))

    def _read_fetched(self, reader: Reader) -> FetchObject | FetchGap:
        form = self._profile.fetch_form
        if form is FetchForm.FULL:
            group, subgroup, number, priority = (
                reader.varint(),
                reader.varint(),
                reader.varint(),
                reader.byte(),
            )
            properties = reader.block()
            size, status = self._size(reader, properties, has_status=True)
            self._left = size
            return FetchObject(group, subgroup, number, priority, size, properties, status)
        flags = reader.varint()
        if flags > _FLAGS:
            return self._read_gap(reader, flags)
        group = self._group(reader) if flags & streams.GROUP_FIELD else self._former(self._before)
        datagram = bool(flags & streams.DATAGRAM)
        subgroup = 0 if datagram else self._read_subgroup_id(reader, flags & streams.SUBGROUP_FIELD)
        if not flags & streams.OBJECT_FIELD:
            number = self._former(self._object) + 1
        elif form is FetchForm.DELTA and not flags & streams.GROUP_FIELD:
            number = self._object + reader.varint()
        else:
            number = reader.varint()
        if flags & streams.PRIORITY_FIELD:
            priority = reader.byte()
        else:
            priority = _given(self._priority)
        properties = reader.block() if flags & streams.PROPERTIES_FIELD else ()
        size, status = self._size(reader, properties, has_status=False)
        self._follow(group, number)
        self._priority = priority
        if not datagram:
            self._subgroup = subgroup
        self._left = size
        return FetchObject(group, subgroup, number, priority, size, properties, status, datagram)

    def _read_gap(self, reader: Reader, flags: int) -> FetchGap:
        if flags not in _GAPS or (flags == GapKind.TIMED_OUT and not self._profile.has_fill):
            raise DecodeError(f"unknown flags {flags:#x} of a fetched object")
        group, number = self._group(reader), reader.varint()
        self._follow(group, number)
        return FetchGap(group, number, GapKind(flags))

    def _group(self, reader: Reader) -> int:
        group = reader.varint()
        if not self._has_before or self._profile.fetch_form is FetchForm.FLAGS:
            return group
        return self._before - group - 1 if self._descending else self._before + group + 1

    def _former(self, value: int) -> int:
        """A field of the object before."""
        return _given(value if self._has_before else None)

    def _read_subgroup_id(self, reader: Reader, mode: int) -> int:
        if mode == streams.SUBGROUP_FIELD:
            return reader.varint()
        if not mode:
            return 0
        return _given(self._subgroup) + (mode == streams.NEXT_SUBGROUP)

    def _follow(self, group: int, number: int) -> None:
        if not 0 <= group <= MAX_VI64 or number > MAX_VI64:
            raise DecodeError(f"a fetched object at {group}, {number}")
        self._before, self._object = group, number
        self._has_before = True


def _given(value: int | None) -> int:
    if value is None:
        raise DecodeError("a fetched object refers to one before, and there is none")
    return value
