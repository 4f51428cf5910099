"""The prefixes that a session may publish and subscribe at its URL, and the rules for paths of URLs."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from http import HTTPStatus
from typing import Final
from urllib.parse import unquote

from relay.logger import TOKEN, loggable
from relay.model.path import MAX_SEGMENTS, covers, join, minimal, normalize, strip

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")

LONGEST_PATH: Final = 2_048
"""Characters. Real ones have some dozen; every announcement of the session repeats it."""


class Reason(StrEnum):
    """The reason of a refusal, for the peer: it says if a new token would help."""

    NEEDED = "token needed"
    BAD = "bad token"
    EXPIRED = "token expired"
    NOT_YET = "token not valid yet"
    BAD_PATH = "bad path"
    NOT_GRANTED = "not granted"
    NO_KEY = "no key at the moment"


class UnauthorizedError(Exception):
    """The text is for our log, and never holds a token."""

    status: int = HTTPStatus.UNAUTHORIZED

    def __init__(self, text: str, reason: Reason = Reason.NOT_GRANTED) -> None:
        super().__init__(text)
        self.reason = reason

    @property
    def answer(self) -> str:
        return f"unauthorized: {self.reason}"


@dataclass(frozen=True, slots=True)
class Permissions:
    """Prefixes relative to `root`: `("",)` is everything, `()` is nothing."""

    root: str = ""
    publish: tuple[str, ...] = ()
    subscribe: tuple[str, ...] = ()
    cluster: bool = False
    expires: float | None = None  # end of the session, in seconds since the epoch

    def extended(self, other: Permissions) -> Permissions:
        """The permissions with the prefixes of another token for the same root; the earlier end holds."""
        ends = [end for end in (self.expires, other.expires) if end is not None]
        return replace(
            self,
            publish=minimal((*self.publish, *other.publish)),
            subscribe=minimal((*self.subscribe, *other.subscribe)),
            expires=min(ends, default=None),
        )

    def may_subscribe(self, path: str) -> bool:
        return any(covers(prefix, path) for prefix in self.subscribe)


def shown(prefixes: Iterable[str]) -> tuple[str, ...]:
    """The prefixes as logs show them: `*` is everything."""
    return tuple(prefix or "*" for prefix in prefixes)


def requested_path(path: str) -> str:
    """Normalize slashes. Raises UnauthorizedError for an ambiguous path.

    Honest clients never send `.` and `..`, a slash in percent-encoding, a fragment, or control characters.
    """
    if len(path) > LONGEST_PATH:
        raise UnauthorizedError(
            f"the path has {len(path)} characters, more than {LONGEST_PATH}", Reason.BAD_PATH
        )
    root = normalize(path)
    if root.count("/") >= MAX_SEGMENTS:
        raise UnauthorizedError(f"the path has more than {MAX_SEGMENTS} segments", Reason.BAD_PATH)
    try:
        root.encode()
    except UnicodeEncodeError:
        raise UnauthorizedError("the path is not UTF-8", Reason.BAD_PATH) from None
    if TOKEN.search(root):
        raise UnauthorizedError(
            "the path holds a token, which belongs into the query: ?jwt=", Reason.BAD_PATH
        )
    for segment in root.split("/"):
        decoded = unquote(segment)
        if decoded in (".", "..") or "/" in decoded or "#" in segment or _CONTROL.search(decoded):
            raise UnauthorizedError(
                f"the path has a segment {loggable(segment)!r}, expected names between the slashes",
                Reason.BAD_PATH,
            )
    return root


def reduce_grants(grants: Iterable[str], claim_root: str, url_path: str) -> tuple[str, ...] | None:
    """Rewrite `grants`, relative to `claim_root`, for a session at `url_path`; None if the two are unrelated.

    A URL below the root narrows the grants; above it, they get the rest of the root as a prefix.
    """
    root, path = normalize(claim_root), normalize(url_path)
    below = strip(path, root)
    if below is None:
        above = strip(root, path)
        if above is None:
            return None
        return minimal(join(above, normalize(grant)) for grant in grants)
    kept = []
    for grant in map(normalize, grants):
        rest = strip(grant, below)
        if rest is not None:
            kept.append(rest)
        elif covers(grant, below):
            kept.append("")
    return minimal(kept)
