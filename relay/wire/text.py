"""Strings (UTF-8 after their length) and paths in normal form, as they travel. Called by: message codecs."""

from __future__ import annotations

from relay.paths import checked
from relay.wire.errors import DecodeError, PathTooDeep
from relay.wire.varint import encode_varint


def encode_string(value: str) -> bytes:
    """Return length and UTF-8 bytes; ValueError for a lone surrogate."""
    data = value.encode()
    return encode_varint(len(data)) + data


def encode_path(path: str) -> bytes:
    """Return `path` in normal form, encoded; ValueError beyond the segment limit."""
    return encode_string(checked(path))


def text_of(data: bytes | bytearray | memoryview) -> str:
    """Return `data` as text; DecodeError if it is not UTF-8."""
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError as error:
        raise DecodeError(f"text is not UTF-8: {error.reason} at byte {error.start}") from None


def path_of(text: str) -> str:
    """Return received `text` as a path in normal form; PathTooDeep beyond the segment limit."""
    try:
        return checked(text)
    except ValueError as error:
        raise PathTooDeep(str(error)) from None
