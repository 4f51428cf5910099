"""QMux, drafts 00 to 02: the frames of QUIC in the messages of a WebSocket, and their transport parameters.

A message holds one frame in draft 00 and any number later. Unreadable bytes and unknown frame types raise
DecodeError; forbidden values of transport parameters ProtocolViolation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType
from typing import Any, Final, NamedTuple, TypeAlias

from relay.wire.cursor import Cursor
from relay.wire.errors import DecodeError, ProtocolViolation
from relay.wire.varint import decode_varint, encode_varint

MAX_RECORD: Final = 16_382
"""Bytes of a message without `max_record_size`, whose smallest legal value it is."""

MAX_MESSAGE_00: Final = 16_384  # bytes of a message in draft 00


class Draft(IntEnum):
    """Both peers' draft."""

    QMUX_00 = 0
    QMUX_01 = 1
    QMUX_02 = 2

    @property
    def name_on_wire(self) -> str:
        return f"qmux-{self.value:02}"

    @property
    def packs(self) -> bool:
        """Several frames fit a message; there are pings and datagrams."""
        return self >= Draft.QMUX_01


class Kind(IntEnum):
    """Frame types."""

    PADDING = 0x00
    RESET_STREAM = 0x04
    STOP_SENDING = 0x05
    STREAM = 0x08  # and the bits FIN (1), LEN (2) and OFF (4)
    MAX_DATA = 0x10
    MAX_STREAM_DATA = 0x11
    MAX_STREAMS_BIDI = 0x12
    MAX_STREAMS_UNI = 0x13
    DATA_BLOCKED = 0x14
    STREAM_DATA_BLOCKED = 0x15
    STREAMS_BLOCKED_BIDI = 0x16
    STREAMS_BLOCKED_UNI = 0x17
    CONNECTION_CLOSE = 0x1C
    APPLICATION_CLOSE = 0x1D
    RESET_STREAM_AT = 0x24
    DATAGRAM = 0x30
    DATAGRAM_LEN = 0x31
    PING = 0x348C67529EF8C7BD
    PING_RESPONSE = 0x348C67529EF8C7BE
    PARAMETERS = 0x3F5153300D0A0D0A


FIN: Final = 1
LEN: Final = 2
OFF: Final = 4
_STREAM_MASK: Final = 0x07


class StreamFrame(NamedTuple):
    """Senders of draft 00 omit `offset`, so it is ignored: messages keep the order."""

    stream_id: int
    data: bytes
    fin: bool
    offset: int = 0


class ResetStream(NamedTuple):
    """Some senders always write 0 as `final_size`."""

    stream_id: int
    code: int
    final_size: int = 0

    def encode(self) -> bytes:
        return _frame(Kind.RESET_STREAM, *self)


class StopSending(NamedTuple):
    """Wants no more data."""

    stream_id: int
    code: int

    def encode(self) -> bytes:
        return _frame(Kind.STOP_SENDING, *self)


class MaxData(NamedTuple):
    """Bytes allowed on all streams together, since the beginning."""

    limit: int

    def encode(self) -> bytes:
        return _frame(Kind.MAX_DATA, self.limit)


class MaxStreamData(NamedTuple):
    """Bytes allowed on one stream, since its beginning."""

    stream_id: int
    limit: int

    def encode(self) -> bytes:
        return _frame(Kind.MAX_STREAM_DATA, *self)


class MaxStreams(NamedTuple):
    """Streams of one kind, since the beginning."""

    unidirectional: bool
    limit: int

    def encode(self) -> bytes:
        return _frame(Kind.MAX_STREAMS_UNI if self.unidirectional else Kind.MAX_STREAMS_BIDI, self.limit)


class Blocked(NamedTuple):
    """The peer has reached one of our limits. For logs: we raise limits unasked."""

    kind: int


class Close(NamedTuple):
    """The rest of the message is ignored."""

    code: int
    reason: str
    application: bool = True  # False: the peer's transport found a fault

    def encode(self) -> bytes:
        text = self.reason.encode(errors="replace")
        kind = Kind.APPLICATION_CLOSE if self.application else Kind.CONNECTION_CLOSE
        fault = () if self.application else (0,)  # unknown frame type at fault
        return _frame(kind, self.code, *fault, len(text)) + text


class Ping(NamedTuple):
    """A ping, or its answer."""

    sequence: int
    response: bool = False

    def encode(self) -> bytes:
        return _frame(Kind.PING_RESPONSE if self.response else Kind.PING, self.sequence)


class DatagramFrame(NamedTuple):
    """`size` is that of the whole frame."""

    data: bytes
    size: int

    @staticmethod
    def encode(data: bytes) -> bytes:
        return _frame(Kind.DATAGRAM_LEN, len(data)) + data


@dataclass(frozen=True, slots=True)
class Parameters:
    """The limits that a side grants the other.

    Sizes are bytes, the time is milliseconds; 0 is nothing, or no limit of time.
    """

    idle_timeout: int = 0
    max_data: int = 0
    stream_data_bidi_local: int = 0  # opened by the sender of the parameters
    stream_data_bidi_remote: int = 0  # opened by their receiver
    stream_data_uni: int = 0
    streams_bidi: int = 0
    streams_uni: int = 0
    max_datagram: int = 0  # of a whole datagram frame
    max_record: int = MAX_RECORD
    reset_stream_at: bool = False  # the sender takes RESET_STREAM_AT

    def encode(self) -> bytes:
        body = b""
        for id_, name in _PARAMETERS.items():
            value = encode_varint(getattr(self, name))
            if value != b"\x00":
                body += encode_varint(id_) + encode_varint(len(value)) + value
        if self.reset_stream_at:
            body += encode_varint(_RESET_STREAM_AT) + b"\x00"
        return _frame(Kind.PARAMETERS, len(body)) + body

    @classmethod
    def decode(cls, body: bytes) -> Parameters:
        """Skips unknown parameters, but not those that QMux rules out."""
        cursor = Cursor(body)
        values: dict[str, Any] = {}
        seen: set[int] = set()
        while len(cursor):
            id_, value = cursor.varint(), cursor.sized()
            if id_ in seen:
                raise ProtocolViolation(f"transport parameter {id_:#x} is given twice")
            seen.add(id_)
            if id_ in _FORBIDDEN:
                raise ProtocolViolation(f"transport parameter {id_:#x} is not allowed in QMux")
            if id_ == _RESET_STREAM_AT:
                if value:
                    raise ProtocolViolation("the parameter reset_stream_at has no value")
                values["reset_stream_at"] = True
            elif id_ in _PARAMETERS:
                found = decode_varint(value)
                if found is None or found[1] != len(value):
                    raise DecodeError(f"transport parameter {id_:#x} is no number")
                values[_PARAMETERS[id_]] = found[0]
        return cls(**values)


_PARAMETERS: Final[Mapping[int, str]] = MappingProxyType(
    {
        0x01: "idle_timeout",
        0x04: "max_data",
        0x05: "stream_data_bidi_local",
        0x06: "stream_data_bidi_remote",
        0x07: "stream_data_uni",
        0x08: "streams_bidi",
        0x09: "streams_uni",
        0x20: "max_datagram",
        0x0571C59429CD0845: "max_record",
    }
)
_RESET_STREAM_AT: Final = 0x1D
# Parameters of QUIC without sense over a reliable transport.
_FORBIDDEN: Final = frozenset((0x00, 0x02, 0x03, *range(0x0A, 0x11)))

Frame: TypeAlias = (
    StreamFrame
    | ResetStream
    | StopSending
    | MaxData
    | MaxStreamData
    | MaxStreams
    | Blocked
    | Close
    | Ping
    | DatagramFrame
    | Parameters
)


def stream_header(stream_id: int, offset: int, size: int, *, fin: bool) -> bytes:
    """The header of `size` bytes of a stream."""
    return _frame(Kind.STREAM | OFF | LEN | (FIN if fin else 0), stream_id, offset, size)


def decode_message(message: bytes, draft: Draft) -> list[Frame]:
    """Raises DecodeError or ProtocolViolation."""
    cursor = Cursor(message)
    frames: list[Frame] = []
    while len(cursor):
        before = len(cursor)
        kind = cursor.varint()
        if kind == Kind.PADDING:
            continue
        if kind & ~_STREAM_MASK == Kind.STREAM:
            frames.append(_read_stream(cursor, kind))
            continue
        first, read = _READERS.get(kind, _UNKNOWN)
        if draft < first:
            raise DecodeError(f"{draft.name_on_wire} has no frame type {kind:#x}")
        frame = read(cursor)
        if isinstance(frame, DatagramFrame):
            frame = frame._replace(size=before - len(cursor))
        frames.append(frame)
        if isinstance(frame, Close):
            break  # some writers add a field
    return frames


def _frame(*numbers: int) -> bytes:
    return b"".join(map(encode_varint, numbers))


def _read_stream(cursor: Cursor, kind: int) -> StreamFrame:
    stream_id = cursor.varint()
    offset = cursor.varint() if kind & OFF else 0
    data = cursor.sized() if kind & LEN else cursor.rest()
    return StreamFrame(stream_id, data, bool(kind & FIN), offset)


def _read_reset_at(cursor: Cursor) -> ResetStream:
    """Read it as a plain reset: messages keep order, so all data before it is here."""
    frame = ResetStream(cursor.varint(), cursor.varint(), cursor.varint())
    if cursor.varint() > frame.final_size:
        raise ProtocolViolation("a reset promises more than the stream has")
    return frame


def _read_connection_close(cursor: Cursor) -> Close:
    code = cursor.varint()
    cursor.varint()  # frame type at fault
    return Close(code, cursor.sized().decode(errors="replace"), application=False)


def _read_blocked(kind: Kind) -> Callable[[Cursor], Frame]:
    def read(cursor: Cursor) -> Frame:
        if kind is Kind.STREAM_DATA_BLOCKED:
            cursor.varint()
        cursor.varint()
        return Blocked(kind)

    return read


def _refuse(cursor: Cursor) -> Frame:
    raise NotImplementedError


_Reader: TypeAlias = tuple[int, Callable[[Cursor], Frame]]  # first draft with it

_UNKNOWN: Final[_Reader] = (len(Draft), _refuse)

_READERS: Final[Mapping[int, _Reader]] = MappingProxyType(
    {
        Kind.RESET_STREAM: (0, lambda c: ResetStream(c.varint(), c.varint(), c.varint())),
        Kind.STOP_SENDING: (0, lambda c: StopSending(c.varint(), c.varint())),
        Kind.MAX_DATA: (0, lambda c: MaxData(c.varint())),
        Kind.MAX_STREAM_DATA: (0, lambda c: MaxStreamData(c.varint(), c.varint())),
        Kind.MAX_STREAMS_BIDI: (0, lambda c: MaxStreams(unidirectional=False, limit=c.varint())),
        Kind.MAX_STREAMS_UNI: (0, lambda c: MaxStreams(unidirectional=True, limit=c.varint())),
        Kind.DATA_BLOCKED: (0, _read_blocked(Kind.DATA_BLOCKED)),
        Kind.STREAM_DATA_BLOCKED: (0, _read_blocked(Kind.STREAM_DATA_BLOCKED)),
        Kind.STREAMS_BLOCKED_BIDI: (0, _read_blocked(Kind.STREAMS_BLOCKED_BIDI)),
        Kind.STREAMS_BLOCKED_UNI: (0, _read_blocked(Kind.STREAMS_BLOCKED_UNI)),
        Kind.CONNECTION_CLOSE: (0, _read_connection_close),
        Kind.APPLICATION_CLOSE: (0, lambda c: Close(c.varint(), c.sized().decode(errors="replace"))),
        Kind.RESET_STREAM_AT: (2, _read_reset_at),
        Kind.DATAGRAM: (1, lambda c: DatagramFrame(c.rest(), 0)),
        Kind.DATAGRAM_LEN: (1, lambda c: DatagramFrame(c.sized(), 0)),
        Kind.PING: (1, lambda c: Ping(c.varint())),
        Kind.PING_RESPONSE: (1, lambda c: Ping(c.varint(), response=True)),
        Kind.PARAMETERS: (0, lambda c: Parameters.decode(c.sized())),
    }
)
