"""Messages of the Announce stream, in all versions.

A suffix is relative to the requested prefix, and may be empty. Hop ids name the relays that an announcement
passed, first publisher first; 0 is a hop without identity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

from relay.wire.cursor import Cursor, encode_byte, framed, lacks, require
from relay.wire.errors import DecodeError, ProtocolViolation
from relay.wire.text import encode_path
from relay.wire.varint import encode_varint
from relay.wire.version import Version

MAX_HOPS: Final = 32  # a longer list means a loop: current peers close the session

_ENDED: Final = 0
_ACTIVE: Final = 1
_RESTART: Final = 2

TYPE_START: Final = 0
TYPE_END: Final = 1
TYPE_UPDATE: Final = 2


def _hop_fault(hops: tuple[int, ...]) -> str | None:
    if len(hops) > MAX_HOPS:
        return f"an announcement has at most {MAX_HOPS} hops, not {len(hops)}"
    named = [hop for hop in hops if hop]
    if len(named) != len(set(named)):
        return f"a hop is repeated: {hops}"
    return None


def _encode_hops(hops: tuple[int, ...]) -> bytes:
    fault = _hop_fault(hops)
    if fault is not None:
        raise ValueError(fault)
    return encode_varint(len(hops)) + b"".join(map(encode_varint, hops))


def _read_hop_count(cursor: Cursor) -> int:
    count = cursor.varint()
    if count > MAX_HOPS:
        raise ProtocolViolation(f"an announcement has at most {MAX_HOPS} hops, not {count}")
    return count


def _read_hops(cursor: Cursor) -> tuple[int, ...]:
    hops = tuple(cursor.varint() for _ in range(_read_hop_count(cursor)))
    fault = _hop_fault(hops)
    if fault is not None:
        raise ProtocolViolation(fault)
    return hops


@dataclass(frozen=True, slots=True)
class AnnounceRequest:
    """Ask for announcements under `prefix`; on 04 and 05 without those that passed `exclude_hop` (0: none)."""

    prefix: str
    exclude_hop: int = 0

    def encode(self, version: Version) -> bytes:
        if version in (Version.LITE_04, Version.LITE_05):
            return framed(encode_path(self.prefix), encode_varint(self.exclude_hop))
        return framed(encode_path(self.prefix))

    @classmethod
    def decode(cls, cursor: Cursor, version: Version) -> Self:
        excludes = version in (Version.LITE_04, Version.LITE_05)
        return cls(cursor.path(), cursor.varint() if excludes else 0)


@dataclass(frozen=True, slots=True)
class AnnounceInit:
    """01 and 02: the live paths."""

    suffixes: tuple[str, ...] = ()

    def encode(self, version: Version) -> bytes:
        if version > Version.LITE_02:
            lacks(version, "ANNOUNCE_INIT")
        return framed(encode_varint(len(self.suffixes)), *map(encode_path, self.suffixes))

    @classmethod
    def decode(cls, cursor: Cursor, version: Version) -> Self:  # noqa: ARG003 - one signature for all messages
        count = cursor.varint()
        if count > len(cursor):
            raise DecodeError(f"{count} suffixes cannot fit in {len(cursor)} bytes")
        return cls(tuple(cursor.path() for _ in range(count)))


@dataclass(frozen=True, slots=True)
class AnnounceOk:
    """05 and 06: the publisher's hop id (0: withheld), and the size of the initial set."""

    origin: int
    active_count: int

    def encode(self, version: Version) -> bytes:
        require(version, Version.LITE_05, "ANNOUNCE_OK")
        return framed(encode_varint(self.origin), encode_varint(self.active_count))

    @classmethod
    def decode(cls, cursor: Cursor, version: Version) -> Self:  # noqa: ARG003 - one signature for all messages
        return cls(cursor.varint(), cursor.varint())


@dataclass(frozen=True, slots=True)
class AnnounceActive:
    """A broadcast (06: a route) became available; on 06 it takes the stream's next announce id.

    `hop_count` is of 03 alone, `hops` of 04 and newer, `warm` and `cold` (costs) of 06, `restart` of 05. A
    version without a field omits it and reads its default.
    """

    suffix: str
    hops: tuple[int, ...] = ()
    hop_count: int = 0
    warm: int = 0
    cold: int = 0
    restart: bool = False

    def encode(self, version: Version) -> bytes:
        if self.restart and version != Version.LITE_05:
            lacks(version, "restarting announcement")
        suffix = encode_path(self.suffix)
        if version >= Version.LITE_06:
            costs = encode_varint(self.warm), encode_varint(self.cold)
            return encode_varint(TYPE_START) + framed(suffix, _encode_hops(self.hops), *costs)
        status = encode_byte(_RESTART if self.restart else _ACTIVE)
        if version >= Version.LITE_04:
            return framed(status, suffix, _encode_hops(self.hops))
        if version == Version.LITE_03:
            if self.hop_count > MAX_HOPS:
                raise ValueError(f"an announcement has at most {MAX_HOPS} hops, not {self.hop_count}")
            return framed(status, suffix, encode_varint(self.hop_count))
        return framed(status, suffix)

    @classmethod
    def decode_start(cls, cursor: Cursor, version: Version) -> Self:  # noqa: ARG003
        return cls(cursor.path(), hops=_read_hops(cursor), warm=cursor.varint(), cold=cursor.varint())


@dataclass(frozen=True, slots=True)
class AnnounceEnded:
    """A broadcast is gone: `suffix` on 01..05, `announce_id` on 06."""

    suffix: str = ""
    announce_id: int | None = None

    def encode(self, version: Version) -> bytes:
        if version >= Version.LITE_06:
            if self.announce_id is None:
                raise ValueError("from moq-lite-06 on an announcement ends by its id")
            return encode_varint(TYPE_END) + framed(encode_varint(self.announce_id))
        no_hops = b"\x00" if version >= Version.LITE_03 else b""
        return framed(encode_byte(_ENDED), encode_path(self.suffix), no_hops)

    @classmethod
    def decode_end(cls, cursor: Cursor, version: Version) -> Self:  # noqa: ARG003
        return cls(announce_id=cursor.varint())


@dataclass(frozen=True, slots=True)
class AnnounceUpdate:
    """06: another route, or other costs."""

    announce_id: int
    hops: tuple[int, ...] = ()
    warm: int = 0
    cold: int = 0

    def encode(self, version: Version) -> bytes:
        require(version, Version.LITE_06, "ANNOUNCE_UPDATE")
        costs = encode_varint(self.warm), encode_varint(self.cold)
        body = framed(encode_varint(self.announce_id), _encode_hops(self.hops), *costs)
        return encode_varint(TYPE_UPDATE) + body

    @classmethod
    def decode(cls, cursor: Cursor, version: Version) -> Self:  # noqa: ARG003 - one signature for all messages
        return cls(cursor.varint(), _read_hops(cursor), cursor.varint(), cursor.varint())


def decode_announce(cursor: Cursor, version: Version) -> AnnounceActive | AnnounceEnded:
    """Read an announcement of 01..05. Skips hops of an ended one."""
    status = cursor.byte()
    if status > (_RESTART if version == Version.LITE_05 else _ACTIVE):
        raise DecodeError(f"unknown announcement status {status}")
    suffix = cursor.path()
    hops: tuple[int, ...] = ()
    hop_count = 0
    if version == Version.LITE_03:
        hop_count = _read_hop_count(cursor)
    elif version >= Version.LITE_04 and status == _ENDED:
        for _ in range(_read_hop_count(cursor)):
            cursor.varint()
    elif version >= Version.LITE_04:
        hops = _read_hops(cursor)
    if status == _ENDED:
        return AnnounceEnded(suffix)
    return AnnounceActive(suffix, hops=hops, hop_count=hop_count, restart=status == _RESTART)
