"""Normal form and depth limit of a broadcast path, for wire and model."""

from __future__ import annotations

from typing import Final

MAX_SEGMENTS: Final = 32
"""Peers of the current generation reject deeper paths in both directions."""


def normalize(path: str) -> str:
    """Drop leading and trailing slashes, and merge consecutive ones."""
    return "/".join(segment for segment in path.split("/") if segment)


def is_text(path: str) -> bool:
    """False for what only moq-transport can name: bytes that are no UTF-8, or a slash within a field."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def size_of(path: str) -> int:
    """The bytes of a path."""
    return len(path.encode("utf-8", "surrogatepass"))


def checked(path: str) -> str:
    """ValueError if normalized `path` has more than MAX_SEGMENTS segments."""
    path = normalize(path)
    if path.count("/") >= MAX_SEGMENTS:
        raise ValueError(f"a path has at most {MAX_SEGMENTS} segments, not {path.count('/') + 1}")
    return path
