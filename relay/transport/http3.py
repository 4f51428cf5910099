"""HTTP/3: aioquic's layer on our connection, and the parts parsed before it, so that it sees no WebTransport bytes."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from aioquic.h3.connection import H3Connection
from aioquic.quic.configuration import QuicConfiguration

from relay.quic.connection import Connection
from relay.transport.session import CONTROL_PRIORITY
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

HEADERS_LIMIT = 64 * 1024  # bytes; a token in the path is the largest part
CONTROL_LIMIT = 16 * 1024  # bytes of a buffered frame on the control stream; SETTINGS have some dozens
FORBIDDEN_FRAMES = frozenset((0x0, 0x2, 0x3, 0x4, 0x5, 0x6, 0x7, 0x8, 0x9, 0xD))
"""Frame types forbidden before HEADERS on a request stream. Unknown ones are skipped."""


WEBTRANSPORT_SETTINGS = {0x2B603743: 1, 0xC671706A: 1, 0xFFD277: 1}
"""WEBTRANSPORT_MAX_SESSIONS (drafts 02, 07) and H3_DATAGRAM (draft 04), which peers expect as well."""

URGENT = 2 * CONTROL_PRIORITY  # before all of the session


class QuicAdapter:
    """Our connection, as aioquic's HTTP/3 layer uses its own."""

    def __init__(self, connection: Connection) -> None:
        self.configuration = QuicConfiguration(is_client=connection.is_client)
        self._connection = connection
        self._quic_logger = None
        self._remote_max_datagram_frame_size = connection.peer.max_datagram_frame_size or None

    def get_next_available_stream_id(self, is_unidirectional: bool = False) -> int:  # noqa: FBT001, FBT002 - as the original
        """Raises `Http3Error` if the peer allows no stream."""
        stream = self._connection.open_stream(URGENT, unidirectional=is_unidirectional)
        if not self._connection.streams.claim(stream):
            raise Http3Error(H3_GENERAL_PROTOCOL_ERROR, "no stream is allowed for HTTP/3")
        return stream.id

    def send_stream_data(self, stream_id: int, data: bytes, end_stream: bool = False) -> None:  # noqa: FBT001, FBT002 - as the original
        """Raises RuntimeError if our half has ended or the peer has stopped it."""
        stream = self._connection.streams.get(stream_id)
        if stream is None or not stream.may_write:
            raise RuntimeError("the stream cannot be written")
        stream.prioritize(URGENT)
        stream.write((data,), fin=end_stream)

    def reset_stream(self, stream_id: int, code: int) -> None:
        stream = self._connection.streams.get(stream_id)
        if stream is not None:
            stream.abort(code)

    def close(self, error_code: int = 0, frame_type: int | None = None, reason_phrase: str = "") -> None:
        self._connection.close(
            error_code, reason_phrase, transport=frame_type is not None, frame_type=frame_type or 0
        )


class Http3(H3Connection):
    """HTTP/3 with the settings of every WebTransport draft in use."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(QuicAdapter(connection), enable_webtransport=True)  # type: ignore[arg-type]

    def _get_local_settings(self) -> dict[int, int]:
        """The only hook that adds settings: the constructor sends them."""
        return super()._get_local_settings() | WEBTRANSPORT_SETTINGS

    def forget(self, stream_id: int) -> None:
        """Drop the record of a request stream whose later bytes never come here."""
        stream = self._stream.pop(stream_id, None)
        if stream is not None and stream.blocked:
            # Its HEADERS wait for the QPACK encoder stream, which needs the record.
            cancelled = self._decoder.cancel_stream(stream_id)
            assert self._local_decoder_stream_id is not None
            with contextlib.suppress(RuntimeError):  # the peer has stopped our QPACK stream: its own fault
                self._quic.send_stream_data(self._local_decoder_stream_id, cancelled)

    def waiting(self, stream_id: int) -> int:
        """Buffered bytes of an incomplete frame."""
        stream = self._stream.get(stream_id)
        return 0 if stream is None else len(stream.buffer)


class Http3Error(Exception):
    """The peer's fault; `code` closes the connection."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


@dataclass(frozen=True, slots=True)
class StreamKind:
    """`session_id` is `None` for HTTP/3. `rest` follows the prefix, or is all so far."""

    session_id: int | None
    rest: bytes


class StreamHead:
    """The first one or two varints of a stream that the peer opened."""

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
        """Return the complete HEADERS frame with its header, else `None`. Raises `Http3Error`."""
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
        """The payload of an unknown frame, as far as it has arrived."""
        skipped = min(self._skip, len(self._data))
        self._data = self._data[skipped:]
        self._skip -= skipped
        return not self._skip

    def _frame_head(self) -> tuple[int, int, int] | None:
        """(type, length, start of the payload), if complete."""
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
