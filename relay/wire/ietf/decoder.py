"""Reads unidirectional streams: the hot path, which copies no payload and waits for no whole object."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from relay.wire.incremental import MAX_MESSAGE

UniItem: TypeAlias = Message | SubgroupHeader | ObjectHeader | FetchHeader | FetchObject | FetchGap | bytes
"""Payload comes as `bytes`, in the chunks in which it arrives."""

_LONGEST_OPENING: Final = 64
"""Bytes; a type, three numbers and a priority have 37."""

_STEP: Final = 64
"""Bytes added at a time to a cut header, so that little payload is copied."""

_GAPS: Final = frozenset(int(kind) for kind in GapKind)
_MAX_FLAGS: Final = 0x7F


class UniDecoder:
    """A unidirectional stream of the peer.

    The first item tells its type: Setup (then control messages follow), SubgroupHeader, FetchHeader; padding
    gives no items. After an error every call raises it again. UnknownStreamType: this draft has no such stream.
    FrameTooLarge: an object above `max_object` bytes.
    """

    __slots__ = (
        "_body",
        "_descending",
        "_error",
        "_max_message",
        "_max_object",
        "_padding",
        "_pending",
        "_profile",
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
        self._max_message = max_message
        self._descending = descending
        self._body: MessageDecoder | _ObjectDecoder | None = None
        self._padding = False
        self._pending = b""  # an incomplete opening
        self._error: WireError | None = None

    @property
    def in_object(self) -> bool:
        return isinstance(self._body, _ObjectDecoder) and self._body.in_object

    @property
    def buffered(self) -> int:
        return len(self._pending) if self._body is None else self._body.buffered

    def feed(self, data: bytes) -> Sequence[UniItem]:
        """Raises WireError."""
        if self._body is not None:
            return self._body.feed(data)
        if self._error is not None:
            raise afresh(self._error)
        if self._padding:
            return []
        source = self._pending + data[:_LONGEST_OPENING]
        reader = Reader(source, self._profile)
        try:
            body, header = self._open(reader)
        except Short:
            self._pending = source
            return []
        except WireError as error:
            self._error = afresh(error)
            self._pending = b""
            raise
        known, self._pending = len(self._pending), b""
        self._body = body
        if isinstance(body, MessageDecoder):
            return body.feed(source + data[_LONGEST_OPENING:])  # its type is the first message's
        if body is None or header is None:
            return []
        return [header, *body.feed(data, reader.offset - known)]

    def end(self) -> None:
        """Raises Truncated inside a message or an object."""
        if self._body is not None:
            self._body.end()
            return
        if self._error is None and self._pending:
            self._error = Truncated("stream ended inside its header")
        if self._error is not None:
            raise afresh(self._error)

    def _open(
        self, reader: Reader
    ) -> tuple[MessageDecoder | _ObjectDecoder | None, SubgroupHeader | FetchHeader | None]:
        """The decoder of the rest of the stream, and the header."""
        profile = self._profile
        kind = reader.varint()
        if kind == SETUP and profile.request_streams:
            return MessageDecoder(profile, self._max_message), None
        if kind == streams.PADDING_STREAM and profile.marks_first_object:
            self._padding = True
            return None, None
        if kind == streams.FETCH:
            request_id = reader.varint()
            descending = self._descending is not None and self._descending(request_id)
            return _FetchDecoder(profile, self._max_object, descending=descending), FetchHeader(request_id)
        header = _read_subgroup(reader, kind)
        return _SubgroupDecoder(profile, self._max_object, has_properties=header.has_properties), header


def _read_subgroup(reader: Reader, kind: int) -> SubgroupHeader:
    profile = reader.profile
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
    return SubgroupHeader(alias, group, subgroup, priority, end, first, bool(kind & streams.HAS_PROPERTIES))


class _ObjectDecoder:
    """The objects of a stream."""

    __slots__ = ("_error", "_left", "_max_object", "_pending", "_profile")

    def __init__(self, profile: DraftProfile, max_object: int) -> None:
        self._profile = profile
        self._max_object = max_object
        self._left = 0  # bytes of payload
        self._pending = bytearray()  # an incomplete header
        self._error: WireError | None = None

    @property
    def in_object(self) -> bool:
        return self._left > 0 or bool(self._pending)

    @property
    def buffered(self) -> int:
        return len(self._pending)

    def feed(self, data: bytes, start: int = 0) -> list[UniItem]:
        """A slice within one payload comes back as the same object."""
        if self._error is not None:
            raise afresh(self._error)
        size = len(data)
        if size <= self._left and not start:
            self._left -= size
            return [data] if size else []
        items: list[UniItem] = []
        offset = start
        try:
            while offset < size:
                if self._left:
                    end = min(offset + self._left, size)
                    items.append(data[offset:end])
                    self._left -= end - offset
                    offset = end
                else:
                    offset = self._header(data, offset, items)
        except WireError as error:
            self._error = afresh(error)
            self._left = 0
            self._pending = bytearray()
            raise
        return items

    def end(self) -> None:
        if self._error is None and self.in_object:
            self._error = Truncated("stream ended inside an object or its header")
        if self._error is not None:
            raise afresh(self._error)

    def _header(self, data: bytes, offset: int, items: list[UniItem]) -> int:
        """Returns the offset behind the header, or the end of `data` if it is incomplete."""
        pending = self._pending
        if not pending:
            reader = Reader(data, self._profile, offset)
            try:
                items.append(self._read(reader))
            except Short:
                pending += data[offset:]
                return len(data)
            return reader.offset
        while offset < len(data):
            known = len(pending)
            pending += data[offset : offset + _STEP]
            reader = Reader(pending, self._profile)
            try:
                items.append(self._read(reader))
            except Short:
                offset += _STEP
                continue
            self._pending = bytearray()
            return offset + reader.offset - known
        return len(data)

    def _read(self, reader: Reader) -> ObjectHeader | FetchObject | FetchGap:
        """Keeps nothing before the header is complete."""
        raise NotImplementedError

    def _size(self, reader: Reader, properties: Properties, *, has_status: bool) -> tuple[int, ObjectStatus]:
        size = reader.varint()
        if size > self._max_object:
            raise FrameTooLarge(f"object of {size} bytes, at most {self._max_object} are allowed")
        if size or not has_status:
            return size, ObjectStatus.NORMAL
        return 0, streams.read_status(reader, has_properties=bool(properties))


class _SubgroupDecoder(_ObjectDecoder):
    __slots__ = ("_before", "_has_properties")

    def __init__(self, profile: DraftProfile, max_object: int, *, has_properties: bool) -> None:
        super().__init__(profile, max_object)
        self._has_properties = has_properties
        self._before = -1

    def _read(self, reader: Reader) -> ObjectHeader:
        number = self._before + 1 + reader.varint()
        properties = reader.block() if self._has_properties else ()
        size, status = self._size(reader, properties, has_status=True)
        if number > self._profile.max_varint:
            raise DecodeError("an object id is too large")
        self._before = number
        self._left = size
        return ObjectHeader(number, size, properties, status)


class _FetchDecoder(_ObjectDecoder):
    __slots__ = ("_descending", "_group", "_object", "_priority", "_subgroup")

    def __init__(self, profile: DraftProfile, max_object: int, *, descending: bool) -> None:
        super().__init__(profile, max_object)
        self._descending = descending
        # The object before: it is an error to refer to what it lacks. Gaps have no subgroup and priority.
        self._group: int | None = None
        self._object: int | None = None
        self._subgroup: int | None = None
        self._priority: int | None = None

    def _read(self, reader: Reader) -> FetchObject | FetchGap:
        form = self._profile.fetch_form
        if form is FetchForm.FULL:
            return self._read_full(reader)
        flags = reader.varint()
        if flags > _MAX_FLAGS:
            return self._read_gap(reader, flags)
        group = self._read_group(reader) if flags & streams.GROUP_FIELD else _given(self._group)
        datagram = bool(flags & streams.DATAGRAM)
        subgroup = 0 if datagram else self._read_subgroup_id(reader, flags & streams.SUBGROUP_FIELD)
        if not flags & streams.OBJECT_FIELD:
            number = _given(self._object) + 1
        elif form is FetchForm.DELTA and not flags & streams.GROUP_FIELD:
            number = _given(self._object) + reader.varint()
        else:
            number = reader.varint()
        priority = reader.byte() if flags & streams.PRIORITY_FIELD else _given(self._priority)
        properties = reader.block() if flags & streams.PROPERTIES_FIELD else ()
        size, status = self._size(reader, properties, has_status=False)
        self._follow(group, number, subgroup)
        self._priority = priority
        if not datagram:
            self._subgroup = subgroup
        self._left = size
        return FetchObject(group, subgroup, number, priority, size, properties, status, datagram)

    def _read_full(self, reader: Reader) -> FetchObject:
        group, subgroup, number, priority = reader.varint(), reader.varint(), reader.varint(), reader.byte()
        properties = reader.block()
        size, status = self._size(reader, properties, has_status=True)
        self._left = size
        return FetchObject(group, subgroup, number, priority, size, properties, status)

    def _read_gap(self, reader: Reader, flags: int) -> FetchGap:
        if flags not in _GAPS or (flags == GapKind.TIMED_OUT and not self._profile.has_fill):
            raise DecodeError(f"unknown flags {flags:#x} of a fetched object")
        group, number = reader.location()  # absolute in all forms
        self._follow(group, number)
        return FetchGap(group, number, GapKind(flags))

    def _read_group(self, reader: Reader) -> int:
        group = reader.varint()
        if self._group is None or self._profile.fetch_form is FetchForm.FLAGS:
            return group
        return self._group - group - 1 if self._descending else self._group + group + 1

    def _read_subgroup_id(self, reader: Reader, mode: int) -> int:
        if mode == streams.SUBGROUP_FIELD:
            return reader.varint()
        return _given(self._subgroup) + (mode == streams.NEXT_SUBGROUP) if mode else 0

    def _follow(self, group: int, number: int, subgroup: int = 0) -> None:
        if group < 0 or max(group, number, subgroup) > self._profile.max_varint:
            raise DecodeError(f"a fetched object at {group}, {number}")
        self._group, self._object = group, number


def _given(value: int | None) -> int:
    if value is None:
        raise DecodeError("a fetched object refers to one before, and there is none")
    return value
