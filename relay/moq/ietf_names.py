"""A namespace, a tuple of bytes, is the path of its fields joined by slashes; docs/interop.md has the limits.

Bytes that are no UTF-8, a slash within a field and an empty field become lone surrogates, which no text of UTF-8 has: two
namespaces never are one path, and no path of moq-lite, a URL or a token is that of such a namespace.
"""

from __future__ import annotations

from typing import Final

from relay.wire.ietf.profile import DraftProfile
from relay.wire.ietf.values import MAX_NAME, MAX_NAMESPACE_FIELDS, TrackNamespace

# mypyc takes no literals of surrogates. "surrogateescape" uses U+DC80 to U+DCFF, for bytes.
EMPTY: Final = chr(0xDC00)
SLASH: Final = chr(0xDC2F)


def path_of(namespace: TrackNamespace) -> str:
    """The path of moq-lite, as far as the namespace's fields are text without slashes."""
    return "/".join([_segment(field) for field in namespace])


def _segment(field: bytes) -> str:
    return field.decode("utf-8", "surrogateescape").replace("/", SLASH) or EMPTY


def namespace_of(path: str) -> TrackNamespace:
    """The namespace of a path in normal form; the empty path has no fields."""
    return tuple([_field(segment) for segment in path.split("/")]) if path else ()


def _field(segment: str) -> bytes:
    return b"" if segment == EMPTY else segment.replace(SLASH, "/").encode("utf-8", "surrogateescape")


def fits(path: str, track: str, profile: DraftProfile) -> bool:
    """There is a namespace in the draft, and it is not too long."""
    if not path or path.count("/") >= MAX_NAMESPACE_FIELDS:
        return False
    size = sum([len(field) for field in namespace_of(path)]) + len(track.encode())
    return size <= MAX_NAME and (profile.empty_fields or EMPTY not in path)


def track_of(name: bytes) -> str | None:
    """The track's name as text; `None` if it is none."""
    try:
        return name.decode()
    except UnicodeDecodeError:
        return None
