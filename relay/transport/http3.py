"""Sans-IO parsers of HTTP/3 in front of aioquic, which sees no WebTransport bytes: stream kinds and HEADERS frames."""

from __future__ import annotations

from dataclasses import dataclass

from relay.wire.varint import decode_varint

WEBTRANSPORT_BIDI = 0x41
WEBTRANSPORT_UNI = 0x54

FRAME_HEADERS = 0x1

H3_NO_ERROR = 0x100
H3_GENERAL_PROTOCOL_ERROR = 0x101
H3_STREAM_CREATION_ERROR = 0x103
H3_CLOSED_CRITICAL_STREAM = 0x104
H3_FRAME_UNEXPECTED = 0x105
H3_EXCESSIVE_LOAD = 0x107
H3_ID_ERROR = 0x108
H3_REQUEST_INCOMPLETE = 0x10D
H3_MESSAGE_ERROR = 0x10E

HEADERS_LIMIT = 64 * 1024  # bytes of a HEADERS frame; most are a token in the path
CONTROL_LIMIT = 16 * 1024  # bytes of a buffered frame on the control stream; SETTINGS have some dozens
FORBIDDEN_FRAMES = frozenset((0x0, 0x2, 0x3, 0x4, 0x5, 0x6, 0x7, 0x8, 0x9, 0xD))
"""Frame types forbidden before HEADERS on a request stream. Unknown ones are skipped."""


class Http3Error(Exception):
    """The peer violated HTTP/3; `code` closes the connection."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


@dataclass(frozen=True, slots=True)
class StreamKind:
    """A stream's kind; `session_id` is `None` for HTTP/3. `rest` follows the prefix, or is all so far."""

    session_id: int | None
    rest: bytes


class StreamHead:
    """Parses the first one or two varints of a stream that the peer opened."""

    __slots__ = ("_data", "_type")

    def __init__(self, *, unidirectional: bool) -> None:
        self._type = WEBTRANSPORT_UNI if unidirectional else WEBTRANSPORT_BIDI
        self._data = b""

    def feed(self, data: bytes) -> StreamKind | None:
        """`None` until the kind is known."""
        self._data += data
        first = decode_varint(self._data)
        if first is None:
            return None
        if first[0] != self._type:
            return StreamKind(None, self._data)
        second = decode_varint(self._data, first[1])
        if second is None:
            return None
        return StreamKind(second[0], self._data[second[1] :])


class HeadersReader:
    """Extracts the HEADERS frame of a request or response stream."""

    __slots__ = ("_data", "_done", "_skip")

    def __init__(self) -> None:
        self._data = b""
        self._done = False
        self._skip = 0

    def feed(self, data: bytes) -> bytes | None:
        """The complete HEADERS frame with its header, else `None`. Raises `Http3Error`."""
        self._data += data
        if self._done:  # the frame may wait for the QPACK encoder stream, later bytes for `rest`
            if len(self._data) > HEADERS_LIMIT:
                raise Http3Error(H3_EXCESSIVE_LOAD, "too much after HEADERS that cannot be decoded yet")
            return None
        while self._skip_done() and (head := self._frame_head()) is not None:
            kind, length, start = head
            if kind != FRAME_HEADERS:
                self._data = self._data[start:]
                self._skip = length
                continue
            if length > HEADERS_LIMIT:
                raise Http3Error(H3_EXCESSIVE_LOAD, f"HEADERS of {length} bytes")
            if len(self._data) < start + length:
                return None
            frame, self._data = self._data[: start + length], self._data[start + length :]
            self._done = True
            return frame
        return None

    def _skip_done(self) -> bool:
        """Skip what has arrived of an unknown frame."""
        skipped = min(self._skip, len(self._data))
        self._data = self._data[skipped:]
        self._skip -= skipped
        return not self._skip

    def _frame_head(self) -> tuple[int, int, int] | None:
        """(type, length, start of the payload) of the next frame, if complete."""
        kind = decode_varint(self._data)
        if kind is None:
            return None
        if kind[0] in FORBIDDEN_FRAMES:
            raise Http3Error(H3_FRAME_UNEXPECTED, f"frame {kind[0]:#x} before HEADERS")
        size = decode_varint(self._data, kind[1])
        return None if size is None else (kind[0], *size)

    def rest(self) -> bytes:
        """The bytes after the last HEADERS frame; a further `feed` parses the next one."""
        data, self._data = self._data, b""
        self._done = False
        return data
