"""Messages of the Subscribe stream, in all versions.

`end_group` and `end_frame` are inclusive, None is unbounded. `start_group` None asks for no particular group;
06 writes that as plain 0, so there 0 reads back as None. `max_latency` is in milliseconds (06: max age). 01 and
02 know the priority alone, 06 dropped `ordered` and added the frames. A version without a field omits it and
reads its default.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

from relay.wire.cursor import Cursor, encode_byte, encode_optional, framed, lacks, require
from relay.wire.errors import BadFrameRange
from relay.wire.text import encode_path, encode_string
from relay.wire.varint import encode_varint
from relay.wire.version import Version

TYPE_OK: Final = 0
TYPE_END: Final = 1

_Range = tuple[int, bool, int, int | None, int | None, int, int | None]


def drop_type(version: Version) -> int:
    """05 put SUBSCRIBE_END before SUBSCRIBE_DROP."""
    return 2 if version >= Version.LITE_05 else 1


def _encode_long(message: Subscribe | SubscribeUpdate | SubscribeOk) -> bytes:
    return b"".join(
        (
            encode_byte(message.priority),
            encode_byte(message.ordered),
            encode_varint(message.max_latency),
            encode_optional(message.start_group),
            encode_optional(message.end_group),
        )
    )


def _encode_range(message: Subscribe | SubscribeUpdate, version: Version) -> bytes:
    if version <= Version.LITE_02:
        return encode_byte(message.priority)
    if version <= Version.LITE_05:
        return _encode_long(message)
    if message.end_frame is not None and message.end_group is None:
        raise ValueError("an end frame needs an end group")
    return b"".join(
        (
            encode_byte(message.priority),
            encode_varint(message.max_latency),
            encode_varint(message.start_group or 0),
            encode_optional(message.end_group),
            encode_varint(message.start_frame),
            encode_optional(message.end_frame),
        )
    )


def _read_long(cursor: Cursor) -> tuple[int, bool, int, int | None, int | None]:
    return cursor.byte(), cursor.flag(), cursor.varint(), cursor.optional(), cursor.optional()


def _read_range(cursor: Cursor, version: Version) -> _Range:
    """Read the common fields, in the order of the classes."""
    if version <= Version.LITE_02:
        return cursor.byte(), False, 0, None, None, 0, None
    if version <= Version.LITE_05:
        return *_read_long(cursor), 0, None
    priority, latency, start = cursor.byte(), cursor.varint(), cursor.varint()
    end_group, start_frame, end_frame = cursor.optional(), cursor.varint(), cursor.optional()
    if end_frame is not None and end_group is None:
        raise BadFrameRange("an end frame needs an end group")
    return priority, False, latency, start or None, end_group, start_frame, end_frame


@dataclass(frozen=True, slots=True)
class Subscribe:
    """`id` is the subscriber's, unique in its direction of the session."""

    id: int
    broadcast: str
    track: str
    priority: int = 0
    ordered: bool = False
    max_latency: int = 0
    start_group: int | None = None
    end_group: int | None = None
    start_frame: int = 0
    end_frame: int | None = None

    def encode(self, version: Version) -> bytes:
        names = encode_path(self.broadcast), encode_string(self.track)
        return framed(encode_varint(self.id), *names, _encode_range(self, version))

    @classmethod
    def decode(cls, cursor: Cursor, version: Version) -> Self:
        return cls(cursor.varint(), cursor.path(), cursor.text(), *_read_range(cursor, version))


@dataclass(frozen=True, slots=True)
class SubscribeUpdate:
    """03 and newer."""

    priority: int = 0
    ordered: bool = False
    max_latency: int = 0
    start_group: int | None = None
    end_group: int | None = None
    start_frame: int = 0
    end_frame: int | None = None

    def encode(self, version: Version) -> bytes:
        require(version, Version.LITE_03, "SUBSCRIBE_UPDATE")
        return framed(_encode_range(self, version))

    @classmethod
    def decode(cls, cursor: Cursor, version: Version) -> Self:
        return cls(*_read_range(cursor, version))


@dataclass(frozen=True, slots=True)
class SubscribeOk:
    """01 has the priority, 02 nothing, 03 and 04 the first five fields; 05 and 06 only `group`, the first one."""

    priority: int = 0
    ordered: bool = False
    max_latency: int = 0
    start_group: int | None = None
    end_group: int | None = None
    group: int | None = None

    def encode(self, version: Version) -> bytes:
        if version == Version.LITE_01:
            return framed(encode_byte(self.priority))
        if version == Version.LITE_02:
            return framed()
        if version <= Version.LITE_04:
            return encode_varint(TYPE_OK) + framed(_encode_long(self))
        if self.group is None:
            raise ValueError("from moq-lite-05 on a subscription starts at a known group")
        return encode_varint(TYPE_OK) + framed(encode_varint(self.group))

    @classmethod
    def decode(cls, cursor: Cursor, version: Version) -> Self:
        if version >= Version.LITE_05:
            return cls(group=cursor.varint())
        if version >= Version.LITE_03:
            return cls(*_read_long(cursor))
        return cls(cursor.byte()) if version == Version.LITE_01 else cls()


@dataclass(frozen=True, slots=True)
class SubscribeEnd:
    """05 and 06: `group` is the first sequence that never comes; 0 means there were none."""

    group: int

    def encode(self, version: Version) -> bytes:
        require(version, Version.LITE_05, "SUBSCRIBE_END")
        return encode_varint(TYPE_END) + framed(encode_varint(self.group))

    @classmethod
    def decode(cls, cursor: Cursor, version: Version) -> Self:  # noqa: ARG003 - one signature for all messages
        return cls(cursor.varint())


@dataclass(frozen=True, slots=True)
class SubscribeDrop:
    """03 and newer: groups from `start` to `end` inclusive never come."""

    start: int
    end: int
    code: int

    def encode(self, version: Version) -> bytes:
        if version <= Version.LITE_02:
            lacks(version, "SUBSCRIBE_DROP")
        body = framed(encode_varint(self.start), encode_varint(self.end), encode_varint(self.code))
        return encode_varint(drop_type(version)) + body

    @classmethod
    def decode(cls, cursor: Cursor, version: Version) -> Self:  # noqa: ARG003 - one signature for all messages
        return cls(cursor.varint(), cursor.varint(), cursor.varint())
