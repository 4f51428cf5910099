"""Reads one complete message body, and helps all encoders.

Unlike a stream, a body that is too short is malformed.
"""

from __future__ import annotations

from typing import Final, NoReturn

from mypy_extensions import mypyc_attr

from relay.wire.errors import DecodeError
from relay.wire.text import path_of, text_of
from relay.wire.varint import decode_varint, encode_varint
from relay.wire.version import Version

_MAX_BYTE: Final = 0xFF


@mypyc_attr(allow_interpreted_subclasses=True)
class Cursor:
    """A position in one message body; every method raises DecodeError when the body ends too early."""

    __slots__ = ("_body", "_offset")

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._offset = 0

    def __len__(self) -> int:
        return len(self._body) - self._offset

    def varint(self) -> int:
        found = decode_varint(self._body, self._offset)
        if found is None:
            raise DecodeError("message ends inside a number")
        value, self._offset = found
        return value

    def optional(self) -> int | None:
        """Value + 1, or 0 for None."""
        value = self.varint()
        return value - 1 if value else None

    def byte(self) -> int:
        if not len(self):
            raise DecodeError("message ends before a byte field")
        self._offset += 1
        return self._body[self._offset - 1]

    def flag(self) -> bool:
        value = self.byte()
        if value > 1:
            raise DecodeError(f"a flag is 0 or 1, not {value}")
        return value == 1

    def take(self, size: int) -> bytes:
        if size > len(self):
            raise DecodeError(f"message ends inside a field of {size} bytes")
        self._offset += size
        return self._body[self._offset - size : self._offset]

    def rest(self) -> bytes:
        return self.take(len(self))

    def sized(self) -> bytes:
        return self.take(self.varint())

    def text(self) -> str:
        return text_of(self.sized())

    def path(self) -> str:
        """Read a path in normal form."""
        return path_of(self.text())

    def done(self) -> None:
        """Raise DecodeError if bytes are left."""
        if len(self):
            raise DecodeError(f"message has {len(self)} bytes too many")


def framed(*parts: bytes) -> bytes:
    """Length and content of one message."""
    body = b"".join(parts)
    return encode_varint(len(body)) + body


def encode_optional(value: int | None) -> bytes:
    """Value + 1, or 0 for None."""
    if value is None:
        return b"\x00"
    if value < 0:
        raise ValueError(f"an optional number cannot be negative: {value}")
    return encode_varint(value + 1)


def encode_byte(value: int) -> bytes:
    """ValueError outside 0..255."""
    if not 0 <= value <= _MAX_BYTE:
        raise ValueError(f"one byte holds 0..{_MAX_BYTE}: {value}")
    return bytes((value,))


def lacks(version: Version, what: str) -> NoReturn:
    """ValueError: our fault, never the peer's."""
    raise ValueError(f"{version.name_on_wire} has no {what}")


def require(version: Version, first: Version, what: str) -> None:
    """ValueError below the `first` version that has `what`."""
    if version < first:
        lacks(version, what)
