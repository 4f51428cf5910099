"""Broadcast paths: `/`-separated, compared by whole segments, byte for byte.

Arguments are in normal form (`relay.paths`).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator

from relay.paths import MAX_SEGMENTS, checked, is_text, normalize, size_of

__all__ = ["MAX_SEGMENTS", "checked", "is_text", "normalize", "size_of"]


class PatternError(ValueError):
    """A pattern that grants no path. The text says what would be right."""


def granted(text: str) -> str:
    """The path of a grant, which includes all below: `room`, or as others write, `room/**`, `**`. Raises PatternError."""
    path = normalize(text)
    if "*" not in path:
        return path
    front, _, last = path.rpartition("/")
    if last == "**" and "*" not in front:
        return front
    raise PatternError(
        "a pattern with * that is not supported: expected a path, which stands for all below it as well; "
        '"/**" at its end changes nothing'
    )


def join(base: str, path: str) -> str:
    """`a` + `b` = `a/b`; an empty side yields the other."""
    if not base:
        return path
    return f"{base}/{path}" if path else base


def covers(prefix: str, path: str) -> bool:
    """`foo` covers `foo` and `foo/bar`, never `foobar`."""
    return not prefix or path == prefix or path.startswith(prefix + "/")


def strip(path: str, prefix: str) -> str | None:
    """The part below `prefix`: `""` if they are equal, `None` if not covered."""
    if not prefix:
        return path
    if path == prefix:
        return ""
    return path[len(prefix) + 1 :] if path.startswith(prefix + "/") else None


def ancestors(path: str) -> Iterator[str]:
    """`a/b/c` gives `a/b/c`, `a/b`, `a`, `""`."""
    yield path
    while path:
        path = path.rpartition("/")[0]
        yield path


def minimal(prefixes: Iterable[str]) -> tuple[str, ...]:
    """The same coverage with the fewest prefixes, sorted."""
    kept: list[str] = []
    # sorted by segments, so that all that a prefix covers follows it: "a", "a/b", "a-b"
    for prefix in sorted(set(prefixes), key=lambda path: path.split("/")):
        if not kept or not covers(kept[-1], prefix):
            kept.append(prefix)
    return tuple(sorted(kept))


def narrow(granted: Iterable[str], requested: str) -> tuple[str, ...]:
    """A wider request keeps the grants, a narrower one narrows."""
    found = []
    for grant in granted:
        if covers(grant, requested):
            found.append(requested)
        elif covers(requested, grant):
            found.append(grant)
    return minimal(found)


class Ordered:
    """Paths in order, for quick lookup below a prefix."""

    __slots__ = ("_paths",)

    def __init__(self) -> None:
        self._paths: list[str] = []

    def add(self, path: str) -> None:
        insort(self._paths, path)

    def remove(self, path: str) -> None:
        del self._paths[bisect_left(self._paths, path)]

    def below(self, prefix: str) -> list[str]:
        """The paths below `prefix`, without itself."""
        paths = self._paths
        if not prefix:
            return [path for path in paths if path]
        # "0" is the character after "/"
        return paths[bisect_left(paths, f"{prefix}/") : bisect_left(paths, f"{prefix}0")]
