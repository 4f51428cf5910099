"""Broadcast paths: `/`-separated, compared by whole segments, byte for byte.

Owns the path algebra (join, strip, cover). Paths given to these functions are normalised already; `normalize` is
re-exported for those that receive raw text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from relay.wire.text import normalize_path as normalize

__all__ = ["ancestors", "covers", "join", "minimal", "narrow", "normalize", "strip"]


def join(base: str, path: str) -> str:
    """`a` + `b` = `a/b`; an empty side yields the other."""
    if not base:
        return path
    return f"{base}/{path}" if path else base


def covers(prefix: str, path: str) -> bool:
    """Whether `path` is `prefix` or lies below it. `foo` covers `foo/bar`, never `foobar`."""
    return not prefix or path == prefix or path.startswith(prefix + "/")


def strip(path: str, prefix: str) -> str | None:
    """What of `path` lies below `prefix`: `""` if they are equal, `None` if `prefix` does not cover it."""
    if not prefix:
        return path
    if path == prefix:
        return ""
    return path[len(prefix) + 1 :] if path.startswith(prefix + "/") else None


def ancestors(path: str) -> Iterator[str]:
    """`a/b/c` gives `a/b/c`, `a/b`, `a`, `""`: every prefix that covers it, longest first."""
    yield path
    while path:
        path = path.rpartition("/")[0]
        yield path


def minimal(prefixes: Iterable[str]) -> tuple[str, ...]:
    """The same coverage without prefixes that another one covers, sorted."""
    kept: list[str] = []
    # By segments, so that what a prefix covers comes right after it ("a", "a/b", "a-b"; plain text would not).
    for prefix in sorted(set(prefixes), key=lambda path: path.split("/")):
        if not kept or not covers(kept[-1], prefix):
            kept.append(prefix)
    return tuple(sorted(kept))


def narrow(granted: Iterable[str], requested: str) -> tuple[str, ...]:
    """The part of `granted` that lies within `requested`: a wider request keeps the grants, a narrower one narrows."""
    found = []
    for grant in granted:
        if covers(grant, requested):
            found.append(requested)
        elif covers(requested, grant):
            found.append(grant)
    return minimal(found)
