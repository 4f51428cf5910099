"""Track properties, fetch, probe, goaway and session information, in all versions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

from relay.wire.cursor import Cursor, encode_byte, encode_optional, framed, lacks, require
from relay.wire.errors import DecodeError
from relay.wire.text import encode_path, encode_string
from relay.wire.varint import encode_varint
from relay.wire.version import Version

MAX_GOAWAY_URI: Final = 8192  # bytes; the draft's limit


@dataclass(frozen=True, slots=True)
class TrackRequest:
    """05 and 06."""

    broadcast: str
    track: str

    def encode(self, version: Version) -> bytes:
        require(version, Version.LITE_05, "TRACK")
        return framed(encode_path(self.broadcast), encode_string(self.track))

    @classmethod
    def decode(cls, cursor: Cursor, version: Version) -> Self:  # noqa: ARG003 - one signature for all messages
        return cls(cursor.path(), cursor.text())


@dataclass(frozen=True, slots=True)
class TrackInfo:
    """05 and 06: priority, cache age in ms, timestamp units per second; `ordered` on 05 alone."""

    priority: int
    ordered: bool
    max_latency: int
    timescale: int

    def encode(self, version: Version) -> bytes:
        require(version, Version.LITE_05, "TRACK_INFO")
        if self.timescale < 1:
            raise ValueError(f"a timescale is positive: {self.timescale}")
        ordered = encode_byte(self.ordered) if version == Version.LITE_05 else b""
        times = encode_varint(self.max_latency), encode_varint(self.timescale)
        return framed(encode_byte(self.priority), ordered, *times)

    @classmethod
    def decode(cls, cursor: Cursor, version: Version) -> Self:
        priority = cursor.byte()
        ordered = cursor.flag() if version == Version.LITE_05 else False
        info = cls(priority, ordered, cursor.varint(), cursor.varint())
        if not info.timescale:
            raise DecodeError("a timescale cannot be 0")
        return info


@dataclass(frozen=True, slots=True)
class Fetch:
    """05 and 06: one group, on 06 some of its frames; `end_frame` is inclusive, None is to the end."""

    broadcast: str
    track: str
    priority: int
    group: int
    start_frame: int = 0
    end_frame: int | None = None

    def encode(self, version: Version) -> bytes:
        require(version, Version.LITE_05, "FETCH")
        frames = b""
        if version >= Version.LITE_06:
            frames = encode_varint(self.start_frame) + encode_optional(self.end_frame)
        names = encode_path(self.broadcast), encode_string(self.track)
        return framed(*names, encode_byte(self.priority), encode_varint(self.group), frames)

    @classmethod
    def decode(cls, cursor: Cursor, version: Version) -> Self:
        broadcast, track, priority, group = cursor.path(), cursor.text(), cursor.byte(), cursor.varint()
        frames = (cursor.varint(), cursor.optional()) if version >= Version.LITE_06 else (0, None)
        return cls(broadcast, track, priority, group, *frames)


@dataclass(frozen=True, slots=True)
class ProbeRequest:
    """03 and newer: opens a Probe stream, without a message."""

    def encode(self, version: Version) -> bytes:
        require(version, Version.LITE_03, "Probe stream")
        return b""


@dataclass(frozen=True, slots=True)
class Probe:
    """03 and newer: bits per second and, from 04 on, round trip in ms; 0 is unknown."""

    bitrate: int
    rtt: int = 0

    def encode(self, version: Version) -> bytes:
        require(version, Version.LITE_03, "PROBE")
        rtt = encode_varint(self.rtt) if version >= Version.LITE_04 else b""
        return framed(encode_varint(self.bitrate), rtt)

    @classmethod
    def decode(cls, cursor: Cursor, version: Version) -> Self:
        return cls(cursor.varint(), cursor.varint() if version >= Version.LITE_04 else 0)


@dataclass(frozen=True, slots=True)
class Goaway:
    """04 and newer: leave, for `uri` if not empty."""

    uri: str = ""

    def encode(self, version: Version) -> bytes:
        require(version, Version.LITE_04, "GOAWAY")
        if len(self.uri.encode()) > MAX_GOAWAY_URI:
            raise ValueError(f"a GOAWAY URI has at most {MAX_GOAWAY_URI} bytes")
        return framed(encode_string(self.uri))

    @classmethod
    def decode(cls, cursor: Cursor, version: Version) -> Self:  # noqa: ARG003 - one signature for all messages
        uri = cursor.text()
        if len(uri.encode()) > MAX_GOAWAY_URI:
            raise DecodeError(f"a GOAWAY URI has at most {MAX_GOAWAY_URI} bytes")
        return cls(uri)


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """01 and 02, after the setup: bits per second, 0 is unknown."""

    bitrate: int

    def encode(self, version: Version) -> bytes:
        if version > Version.LITE_02:
            lacks(version, "SESSION_INFO")
        return framed(encode_varint(self.bitrate))

    @classmethod
    def decode(cls, body: bytes) -> Self:
        return cls(Cursor(body).varint())
