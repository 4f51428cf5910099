"""Decoders of groups, and of the unidirectional streams they arrive on.

The hot path: they run once per slice, copy no payload and wait for no whole frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from relay.wire.errors import (
    BadTimestamp,
    DecodeError,
    FrameTooLarge,
    MessageTooLarge,
    Truncated,
    UnknownStreamType,
    WireError,
    afresh,
)
from relay.wire.frame import MAX_TIMESTAMP, FrameHeader, GroupHeader, UniType
from relay.wire.incremental import MAX_MESSAGE
from relay.wire.setup import Setup
from relay.wire.varint import BELOW_ONE_BYTE, decode_varint
from relay.wire.version import Version

MAX_FRAME: Final = 16 * 1024 * 1024
"""Bytes: several times the largest key frame of a 4K stream."""

_MAX_HEADER: Final = 16  # bytes of two varints: the longest frame header

FrameItem = FrameHeader | bytes
UniItem = GroupHeader | Setup | FrameHeader | bytes

_new_header = tuple.__new__


class FrameDecoder:
    """Splits frames: a FrameHeader each, then its payload in the chunks in which it arrives.

    Also reads the reply to a Fetch. After an error every call raises it again.
    """

    __slots__ = ("_error", "_head", "_left", "_max_frame", "_timed", "_timestamp", "arrival", "frames")

    def __init__(self, version: Version, max_frame: int = MAX_FRAME) -> None:
        self.frames = 0  # headers seen
        self.arrival = 0.0
        """Seconds, set before `feed`: frames without timestamps get it, in microseconds."""
        self._timed = version >= Version.LITE_05
        self._max_frame = max_frame
        self._timestamp = 0
        self._left = 0
        self._head = b""
        self._error: WireError | None = None

    @property
    def in_frame(self) -> bool:
        return self._left > 0 or bool(self._head)

    def feed(self, data: bytes, start: int = 0) -> list[FrameItem]:
        """Take `data` from `start` on; raises WireError.

        A slice within one frame comes back as the same object. Payload chunks are never empty.
        """
        if self._error is not None:
            raise afresh(self._error)
        size = len(data)
        left = self._left
        if size <= left and not start:
            self._left = left - size
            return [data] if size else []
        items: list[FrameItem] = []
        try:
            offset: int | None = self._resume(data, start, items) if self._head else start
            while offset is not None and offset < size:
                left = self._left
                if left:
                    end = offset + left
                    items.append(data[offset:end])
                    self._left = max(0, end - size)
                    offset = end
                    continue
                found = self._header(data, offset, items)
                if found is None:
                    self._head = data[offset:]
                offset = found
        except WireError as error:
            self._error = afresh(error)
            self._left = 0
            self._head = b""
            raise
        return items

    def end(self) -> None:
        """Raises Truncated inside a frame."""
        if self._error is not None:
            raise afresh(self._error)
        if self.in_frame:
            self._error = Truncated("stream ended inside a frame")
            raise afresh(self._error)

    def _resume(self, data: bytes, start: int, items: list[FrameItem]) -> int | None:
        """Finish a header from an earlier slice; None while it is incomplete."""
        known = len(self._head)
        joined = self._head + data[start : start + _MAX_HEADER]
        found = self._header(joined, 0, items)
        self._head = joined if found is None else b""
        return None if found is None else start + found - known

    def _header(self, data: bytes, offset: int, items: list[FrameItem]) -> int | None:
        """Return the offset of its payload; None while it is incomplete."""
        if self._timed:
            found = decode_varint(data, offset)
            if found is None:
                return None
            delta, offset = found
            timestamp = self._timestamp + (-((delta + 1) >> 1) if delta & 1 else delta >> 1)
        else:
            timestamp = int(self.arrival * 1_000_000)
        if offset >= len(data):
            return None
        size = data[offset]
        if size < BELOW_ONE_BYTE:
            offset += 1
        else:
            found = decode_varint(data, offset)
            if found is None:
                return None
            size, offset = found
        if size > self._max_frame:
            raise FrameTooLarge(f"frame of {size} bytes, at most {self._max_frame} are allowed")
        if not 0 <= timestamp <= MAX_TIMESTAMP:
            raise BadTimestamp(f"frame at time {timestamp}, allowed are 0..{MAX_TIMESTAMP}")
        self._timestamp = timestamp
        items.append(_new_header(FrameHeader, (timestamp, size)))
        self.frames += 1
        self._left = size
        return offset


class UniDecoder:
    """A unidirectional stream of the peer: GroupHeader and frames, or (05 and 06) Setup."""

    __slots__ = (
        *("_error", "_max_frame", "_max_message", "_pending", "_setup_done", "_version", "arrival", "frames"),
    )

    def __init__(self, version: Version, max_frame: int = MAX_FRAME, max_message: int = MAX_MESSAGE) -> None:
        self.frames: FrameDecoder | None = None
        """Once the header is known, it may be fed directly."""
        self.arrival = 0.0  # for frames in the header's slice
        self._version = version
        self._max_frame = max_frame
        self._max_message = max_message
        self._pending = bytearray()
        self._setup_done = False
        self._error: WireError | None = None

    @property
    def buffered(self) -> int:
        return len(self._pending)

    def feed(self, data: bytes) -> Sequence[UniItem]:
        """Raises WireError; UnknownStreamType: refuse only this stream."""
        if self.frames is not None:
            return self.frames.feed(data)
        if self._error is not None:
            raise afresh(self._error)
        try:
            return self._open(data)
        except WireError as error:
            self._error = afresh(error)
            self._pending = bytearray()
            raise

    def end(self) -> None:
        """Raises Truncated if anything is incomplete."""
        if self.frames is not None:
            self.frames.end()
            return
        if self._error is not None:
            raise afresh(self._error)
        if self._pending:
            self._error = Truncated("stream ended inside its opening message")
            raise afresh(self._error)

    def _open(self, data: bytes) -> Sequence[UniItem]:
        if self._setup_done and data:
            raise DecodeError("bytes after SETUP")
        source: bytes | bytearray = data
        if self._pending:
            self._pending += data
            source = self._pending
        found = self._message(source)
        if found is None:
            if source is data:
                self._pending += data
            return []
        message, offset = found
        rest = len(source) - offset
        self._pending = bytearray()
        if isinstance(message, GroupHeader):
            self.frames = FrameDecoder(self._version, self._max_frame)
            self.frames.arrival = self.arrival
            return [message, *self.frames.feed(data, len(data) - rest)]
        self._setup_done = True
        if rest:
            raise DecodeError("bytes after SETUP")
        return [message]

    def _message(self, source: bytes | bytearray) -> tuple[GroupHeader | Setup, int] | None:
        """The message and the offset after it; None while incomplete."""
        kind = decode_varint(source)
        if kind is None:
            return None
        is_setup = kind[0] == UniType.SETUP and self._version >= Version.LITE_05
        if kind[0] != UniType.GROUP and not is_setup:
            raise UnknownStreamType(f"{self._version.name_on_wire} has no uni stream of type {kind[0]:#x}")
        length = decode_varint(source, kind[1])
        if length is None:
            return None
        size, start = length
        if size > self._max_message:
            raise MessageTooLarge(f"message of {size} bytes, at most {self._max_message} are allowed")
        end = start + size
        if end > len(source):
            return None
        body = bytes(source[start:end])
        if is_setup:
            return Setup.decode(body, self._version), end
        return GroupHeader.decode(body, self._version), end
