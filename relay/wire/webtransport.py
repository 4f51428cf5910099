"""The bytes that WebTransport over HTTP/3 adds to streams, the close capsule and subprotocol headers."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from relay.wire.errors import MAX_CODE, DecodeError, MessageTooLarge, WireError
from relay.wire.varint import decode_varint, encode_varint

MAX_CLOSE_REASON: Final = 1024  # bytes; the WebTransport draft's limit

_BIDI: Final = encode_varint(0x41)
_UNI: Final = encode_varint(0x54)
_DATA_FRAME: Final = 0x00
_CLOSE_CAPSULE: Final = 0x2843
_CODE_SIZE: Final = 4
_MAX_TYPE_AND_LENGTH: Final = 16


def bidi_prefix(session_id: int) -> bytes:
    """The first bytes of a bidi stream of ours."""
    return _BIDI + encode_varint(session_id)


@functools.lru_cache(64)
def uni_prefix(session_id: int) -> bytes:
    """The first bytes of a unidirectional stream of ours."""
    return _UNI + encode_varint(session_id)


class WebTransportClose(NamedTuple):
    """The peer closed the session, with an unmapped code."""

    code: int
    reason: str


def encode_close_capsule(code: int, reason: str, in_data_frame: bool) -> bytes:  # noqa: FBT001 - named by callers
    """The close capsule, in an HTTP/3 DATA frame or bare; ValueError for a code beyond 32 bits.

    A reason over MAX_CLOSE_REASON bytes is cut at a character.
    """
    if not 0 <= code <= MAX_CODE:
        raise ValueError(f"a WebTransport code has 32 bits: {code}")
    text = reason.encode(errors="replace")
    if len(text) > MAX_CLOSE_REASON:
        text = text[:MAX_CLOSE_REASON].decode(errors="ignore").encode()
    payload = code.to_bytes(_CODE_SIZE, "big") + text
    capsule = encode_varint(_CLOSE_CAPSULE) + encode_varint(len(payload)) + payload
    if not in_data_frame:
        return capsule
    return encode_varint(_DATA_FRAME) + encode_varint(len(capsule)) + capsule


class _Record(NamedTuple):
    kind: int
    size: int
    chunk: bytes


class _Records:
    """Splits type-length-value records: each comes out once with an empty chunk, then in chunks as they arrive."""

    __slots__ = ("_head", "_kind", "_left", "_size")

    def __init__(self) -> None:
        self._head = b""
        self._kind = 0
        self._size = 0
        self._left = 0

    def feed(self, data: bytes) -> Iterator[_Record]:
        offset = 0
        while offset < len(data):
            if self._left:
                chunk = data[offset : offset + self._left]
                offset += len(chunk)
                self._left -= len(chunk)
                yield _Record(self._kind, self._size, chunk)
                continue
            known = len(self._head)
            head = self._head + data[offset : offset + _MAX_TYPE_AND_LENGTH]
            kind = decode_varint(head)
            length = None if kind is None else decode_varint(head, kind[1])
            if kind is None or length is None:
                self._head = head
                return
            self._head = b""
            offset += length[1] - known
            self._kind = kind[0]
            self._size = self._left = length[0]
            yield _Record(self._kind, self._size, b"")


class CloseCapsuleDecoder:
    """Looks for the close capsule in what follows the HEADERS frame on the CONNECT stream.

    It may be inside DATA frames or, from old peers, directly on the stream. Other frames and capsules are
    skipped, and so is all after a close.
    """

    __slots__ = ("_capsules", "_closed", "_error", "_frames", "_payload")

    def __init__(self) -> None:
        self._frames = _Records()
        self._capsules = _Records()
        self._payload = b""
        self._closed = False
        self._error: WireError | None = None

    @property
    def buffered(self) -> int:
        return len(self._payload)

    def feed(self, data: bytes) -> WebTransportClose | None:
        """Return the close when complete.

        MessageTooLarge or DecodeError for a capsule that is too long or too short, then at every call.
        """
        if self._error is not None:
            raise type(self._error)(*self._error.args)
        if self._closed:
            return None
        for frame in self._frames.feed(data):
            records = self._capsules.feed(frame.chunk) if frame.kind == _DATA_FRAME else (frame,)
            for record in records:
                if record.kind == _CLOSE_CAPSULE:
                    close = self._collect(record)
                    if close is not None:
                        return close
        return None

    def _collect(self, record: _Record) -> WebTransportClose | None:
        if record.size > MAX_CLOSE_REASON + _CODE_SIZE:
            self._error = MessageTooLarge(f"close capsule of {record.size} bytes")
        elif record.size < _CODE_SIZE:
            self._error = DecodeError(f"close capsule of {record.size} bytes has no code")
        if self._error is not None:
            raise self._error
        self._payload = self._payload + record.chunk if record.chunk else b""
        if len(self._payload) < record.size:
            return None
        payload, self._payload = self._payload, b""
        self._closed = True
        code = int.from_bytes(payload[:_CODE_SIZE], "big")
        return WebTransportClose(code, payload[_CODE_SIZE:].decode(errors="replace"))


_STRING: Final = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"')
_ESCAPED: Final = re.compile(r'\\(["\\])')
_PARAMETER: Final = re.compile(
    r""";\ *[a-z*][a-z0-9_\-.*]*            # key
    (?:=(?:
        -?[0-9]{1,15}(?:\.[0-9]{1,3})?      # integer or decimal
        |"(?:[\ !#-\[\]-~]|\\["\\])*"       # string
        |[A-Za-z*][A-Za-z0-9:/!#$%&'*+\-.^_`|~]*  # token
        |:[A-Za-z0-9+/=]*:                  # bytes
        |\?[01]                             # boolean
    ))?""",
    re.VERBOSE,
)
_COMMA: Final = re.compile(r"[ \t]*,[ \t]*")


def parse_protocol_list(header: str) -> list[str]:
    """Read a list of strings (RFC 8941), as in `wt-available-protocols`, or the one of `wt-protocol`; else ValueError.

    Parameters are checked for form and dropped.
    """
    text = header.strip(" ")
    names: list[str] = []
    offset = 0
    while offset < len(text):
        found = _STRING.match(text, offset)
        if found is None:
            raise ValueError(f"not a list of quoted strings, at character {offset}")
        names.append(_ESCAPED.sub(r"\1", found[1]))
        offset = found.end()
        while (parameter := _PARAMETER.match(text, offset)) is not None:
            offset = parameter.end()
        if offset == len(text):
            return names
        comma = _COMMA.match(text, offset)
        if comma is None or comma.end() == len(text):
            raise ValueError(f"not a list of quoted strings, at character {offset}")
        offset = comma.end()
    return names


def quote_protocol(name: str) -> str:
    """A string of RFC 8941; ValueError if `name` has other than printable ASCII."""
    if not (name.isascii() and name.isprintable()):
        raise ValueError(f"only printable ASCII can be quoted: {name!r}")
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
