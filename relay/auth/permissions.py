"""Permissions: what one session may publish and subscribe, and how a token's grants become that for a URL.

Owns the reduction of claims to a URL path. Called by the authenticator; the result travels with the session.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from relay.model.path import covers, join, minimal, normalize, strip


@dataclass(frozen=True, slots=True)
class Permissions:
    """Prefixes that a session may use, relative to `root`, which every path of the session is relative to.

    `("",)` is everything below the root, `()` is nothing.
    """

    root: str = ""
    publish: tuple[str, ...] = ()
    subscribe: tuple[str, ...] = ()
    cluster: bool = False
    expires: float | None = None
    """Seconds since the epoch at which the session ends."""

    def may_publish(self, path: str) -> bool:
        """Whether `path` (relative to the root) lies under a granted prefix."""
        return any(covers(prefix, path) for prefix in self.publish)

    def may_subscribe(self, path: str) -> bool:
        """Whether `path` (relative to the root) lies under a granted prefix."""
        return any(covers(prefix, path) for prefix in self.subscribe)


def reduce_grants(grants: Iterable[str], claim_root: str, url_path: str) -> tuple[str, ...] | None:
    """What of `grants`, given under `claim_root`, a session at `url_path` has; `None` if the two are unrelated.

    A URL below the root narrows: a grant that covers the rest of the URL becomes everything. A URL above the root
    sees the grants with the way down to the root in front.
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
