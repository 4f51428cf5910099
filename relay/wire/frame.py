"""Groups, frames and datagrams; the first bytes of each kind of stream."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple, Self

from relay.wire.announce import AnnounceRequest
from relay.wire.control import Fetch, Goaway, ProbeRequest, TrackRequest
from relay.wire.cursor import Cursor, lacks, require
from relay.wire.errors import BadTimestamp
from relay.wire.setup import Setup
from relay.wire.subscribe import Subscribe
from relay.wire.varint import encode_varint
from relay.wire.version import Version

MAX_TIMESTAMP: Final = 2**61 - 1
"""Largest in a signed varint, as the first frame of a stream has it."""


class StreamType(IntEnum):
    """First number of a bidi stream."""

    ANNOUNCE = 0x01
    SUBSCRIBE = 0x02
    FETCH = 0x03
    PROBE = 0x04
    GOAWAY = 0x05
    TRACK = 0x06


class UniType(IntEnum):
    """First number of a unidirectional stream."""

    GROUP = 0x00
    SETUP = 0x01


FIRST_VERSION: Final = {
    StreamType.ANNOUNCE: Version.LITE_01,
    StreamType.SUBSCRIBE: Version.LITE_01,
    StreamType.FETCH: Version.LITE_05,
    StreamType.PROBE: Version.LITE_03,
    StreamType.GOAWAY: Version.LITE_04,
    StreamType.TRACK: Version.LITE_05,
}
"""First version. An 01 peer ends the session over an unknown type."""

Request = AnnounceRequest | Subscribe | Fetch | ProbeRequest | Goaway | TrackRequest

_STREAM_OF: Final[dict[type[Request], StreamType]] = {
    AnnounceRequest: StreamType.ANNOUNCE,
    Subscribe: StreamType.SUBSCRIBE,
    Fetch: StreamType.FETCH,
    ProbeRequest: StreamType.PROBE,
    Goaway: StreamType.GOAWAY,
    TrackRequest: StreamType.TRACK,
}


class FrameHeader(NamedTuple):
    """Time in units of the track (01..04: `arrival` of the decoder), and bytes of payload."""

    timestamp: int
    size: int


@dataclass(frozen=True, slots=True)
class GroupHeader:
    """`frame_start` (06): number of the first frame that follows."""

    subscribe_id: int
    sequence: int
    frame_start: int = 0

    def encode(self, version: Version) -> bytes:
        body = encode_varint(self.subscribe_id) + encode_varint(self.sequence)
        if version >= Version.LITE_06:
            body += encode_varint(self.frame_start)
        return encode_varint(len(body)) + body

    @classmethod
    def decode(cls, body: bytes, version: Version) -> Self:
        cursor = Cursor(body)
        subscribe_id, sequence = cursor.varint(), cursor.varint()
        header = cls(subscribe_id, sequence, cursor.varint() if version >= Version.LITE_06 else 0)
        cursor.done()
        return header


@dataclass(frozen=True, slots=True)
class Datagram:
    """05 and 06: a group of one frame; `timestamp` is absolute."""

    subscribe_id: int
    sequence: int
    timestamp: int
    payload: bytes

    def encode(self, version: Version) -> bytes:
        require(version, Version.LITE_05, "datagram")
        numbers = (
            encode_varint(self.subscribe_id),
            encode_varint(self.sequence),
            encode_varint(self.timestamp),
        )
        return b"".join((*numbers, self.payload))

    @classmethod
    def decode(cls, data: bytes, version: Version) -> Self:
        """Read a datagram without WebTransport's prefix."""
        require(version, Version.LITE_05, "datagram")
        cursor = Cursor(data)
        subscribe_id, sequence, timestamp = cursor.varint(), cursor.varint(), cursor.varint()
        if timestamp > MAX_TIMESTAMP:
            raise BadTimestamp(f"a time is at most {MAX_TIMESTAMP}: {timestamp}")
        return cls(subscribe_id, sequence, timestamp, cursor.take(len(cursor)))


def frame_header_plain(size: int) -> bytes:
    """01..04."""
    return encode_varint(size)


def frame_header_timed(delta: int, size: int) -> bytes:
    """05 and 06; `delta` counts from the stream's previous frame, or from 0."""
    return encode_varint(2 * delta if delta >= 0 else -2 * delta - 1) + encode_varint(size)


def group_header(version: Version, header: GroupHeader) -> bytes:
    """The type and header of a group stream."""
    return b"\x00" + header.encode(version)


def setup_stream(version: Version, setup: Setup) -> bytes:
    """The type and message of a Setup stream."""
    return encode_varint(UniType.SETUP) + setup.encode(version)


def open_request(version: Version, message: Request) -> bytes:
    """Type and request. ValueError if the version lacks it."""
    kind = _STREAM_OF[type(message)]
    if version < FIRST_VERSION[kind]:
        lacks(version, f"{kind.name} stream")
    return encode_varint(kind) + message.encode(version)
