"""Strings (UTF-8 after their length) and paths in normal form."""

from __future__ import annotations

from relay.paths import checked
from relay.wire.errors import DecodeError, PathTooDeep
from relay.wire.varint import encode_varint


def encode_string(value: str) -> bytes:
    """ValueError for a lone surrogate."""
    data = value.encode()
    return encode_varint(len(data)) + data


def encode_path(path: str) -> bytes:
    """ValueError beyond the segment limit."""
    return encode_string(checked(path))


def text_of(data: bytes | bytearray | memoryview) -> str:
    """DecodeError if not UTF-8."""
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError as error:
        raise DecodeError(f"text is not UTF-8: {error.reason} at byte {error.start}") from None


def path_of(text: str) -> str:
    """The path in normal form; PathTooDeep beyond the segment limit."""
    try:
        return checked(text)
    except ValueError as error:
        raise PathTooDeep(str(error)) from None
