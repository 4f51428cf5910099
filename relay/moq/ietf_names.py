"""A namespace, a tuple of bytes, is the path of its fields joined by slashes; docs/interop.md has the limits.

Fields that are empty, hold a slash or are no UTF-8 have no path: two namespaces never become one.
"""

from __future__ import annotations

from relay.model.path import MAX_SEGMENTS
from relay.wire.ietf.values import MAX_NAME, MAX_NAMESPACE_FIELDS, TrackNamespace


def path_of(namespace: TrackNamespace) -> str | None:
    """`None` if there is none."""
    try:
        fields = [field.decode() for field in namespace]
    except UnicodeDecodeError:
        return None
    if len(fields) > MAX_SEGMENTS or any(not field or "/" in field for field in fields):
        return None
    return "/".join(fields)


def namespace_of(path: str) -> TrackNamespace:
    """Of a path in normal form; the empty one has no fields."""
    return tuple(field.encode() for field in path.split("/")) if path else ()


def fits(path: str, track: str = "") -> bool:
    """There is a namespace, and it is not too long."""
    return bool(path) and path.count("/") < MAX_NAMESPACE_FIELDS and len((path + track).encode()) <= MAX_NAME


def track_of(name: bytes) -> str | None:
    """As text; `None` if it is none."""
    try:
        return name.decode()
    except UnicodeDecodeError:
        return None
