"""The payload of a token, read strictly, and the permissions it grants at a URL."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from relay.auth.permissions import Permissions, Reason, UnauthorizedError, reduce_grants, requested_path
from relay.logger import loggable
from relay.model.path import PatternError, covers, granted, join, minimal, normalize

CLOCK_SKEW: Final = 10.0
"""Seconds by which the signer's clock may be ahead of ours. It counts for `nbf`, not for `exp`."""


class ClaimError(UnauthorizedError):
    """A claim of the wrong type, or contradictory claims."""


@dataclass(frozen=True, slots=True)
class Claims:
    """Paths are in normal form, relative to `root`."""

    root: str = ""
    publish: tuple[str, ...] = ()
    subscribe: tuple[str, ...] = ()
    cluster: bool = False
    expires: float | None = None  # `exp`, in seconds since the epoch: its sessions end then
    not_before: float | None = None
    issued: float | None = None

    @classmethod
    def parse(cls, payload: Mapping[str, Any]) -> Self:
        """Raises ClaimError. Grants are `put` and `get`, or `pub` and `sub`.

        In a token with another spelling, `sub` is the subject of RFC 7519 section 4.1.2.
        """
        if payload.get("aud") is not None:
            # RFC 7519 section 4.1.3: a reader outside the audience must refuse, and a relay has no name
            raise ClaimError("claim aud names an audience, so the token is for another service")
        root = payload.get("root", "")
        if not isinstance(root, str):
            raise ClaimError("claim root is not a string")
        if "*" in root:
            raise ClaimError("claim root is a pattern, expected a path without *")
        patterns = any(name in payload for name in ("publish", "subscribe"))
        first = _grants(payload, "put", "get")
        subject = first is not None or (patterns and "pub" not in payload)
        second = _grants(payload, "pub", None if subject else "sub")
        if first is second is None and patterns:
            raise ClaimError(
                "claims publish and subscribe hold patterns, which are not supported: sign put and get, with paths"
            )
        if (
            first
            and second
            and any(new is not None and new != (old or ()) for old, new in zip(first, second, strict=True))
        ):
            raise ClaimError("claims put/get and pub/sub say different things: use one spelling")
        publish, subscribe = first or second or (None, None)
        return cls(
            root=normalize(root),
            publish=publish or (),
            subscribe=subscribe or (),
            cluster=_flag(payload, "cluster"),
            expires=_time(payload, "exp"),
            not_before=_time(payload, "nbf"),
            issued=_time(payload, "iat"),
        )

    def payload(self) -> dict[str, Any]:
        """The claims in the spelling that all relays read."""
        whole = {"exp": self.expires, "nbf": self.not_before, "iat": self.issued}
        return {
            "root": self.root,
            **({"put": list(self.publish)} if self.publish else {}),
            **({"get": list(self.subscribe)} if self.subscribe else {}),
            **({"cluster": True} if self.cluster else {}),
            **{name: int(value) for name, value in whole.items() if value is not None},
        }

    def check_time(self, now: float) -> None:
        """UnauthorizedError before `not_before` and from `expires` on."""
        if self.expires is not None and now >= self.expires:
            raise UnauthorizedError(f"the token expired {_span(now - self.expires)} ago", Reason.EXPIRED)
        if self.not_before is not None and now + CLOCK_SKEW < self.not_before:
            raise UnauthorizedError(
                f"the token is not valid for another {_span(self.not_before - now)}", Reason.NOT_YET
            )

    def at(self, path: str) -> Permissions:
        """The permissions at a URL with this path. Raises UnauthorizedError if there are none."""
        root = requested_path(path)
        publish, subscribe = (
            reduce_grants(grants, self.root, root) for grants in (self.publish, self.subscribe)
        )
        if publish is None or subscribe is None:
            raise UnauthorizedError(f"granted is /{self.root}, not /{loggable(root)}")
        if not publish and not subscribe:
            raise UnauthorizedError(f"nothing is granted at /{loggable(root)}")
        return Permissions(root, publish, subscribe, cluster=self.cluster, expires=self.expires)


@dataclass(frozen=True, slots=True)
class Scope:
    """The member `scope` of a JWK: a limit on the grants of the key's tokens."""

    root: str = ""
    publish: tuple[str, ...] = ()
    subscribe: tuple[str, ...] = ()

    @classmethod
    def parse(cls, raw: object) -> Self:
        """Raises ClaimError."""
        if not isinstance(raw, dict):
            raise ClaimError("scope is not an object")
        claims = Claims.parse(
            {name: raw[name] for name in ("root", "put", "get", "publish", "subscribe") if name in raw}
        )
        if not claims.publish and not claims.subscribe:
            raise ClaimError("scope allows nothing: add put or get")
        return cls(claims.root, claims.publish, claims.subscribe)

    def payload(self) -> dict[str, Any]:
        return Claims(self.root, self.publish, self.subscribe).payload()

    def allows(self, claims: Claims) -> bool:
        """No scope covers `cluster`."""
        return (
            not claims.cluster
            and self._covers(self.publish, claims.root, claims.publish)
            and self._covers(self.subscribe, claims.root, claims.subscribe)
        )

    def _covers(self, allowed: tuple[str, ...], root: str, grants: tuple[str, ...]) -> bool:
        return all(
            any(covers(join(self.root, prefix), join(root, grant)) for prefix in allowed) for grant in grants
        )


def _span(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _grants(
    payload: Mapping[str, Any], put: str, get: str | None
) -> tuple[tuple[str, ...] | None, tuple[str, ...] | None] | None:
    publish, subscribe = (
        None if name is None or name not in payload else _paths(payload[name], name) for name in (put, get)
    )
    return None if publish is subscribe is None else (publish, subscribe)


def _paths(value: object, name: str) -> tuple[str, ...]:
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise ClaimError(f"claim {name} is neither a string nor a list of strings")
    paths = []
    for item in items:
        try:
            paths.append(granted(item))
        except PatternError as error:
            raise ClaimError(f"claim {name} holds {loggable(item)!r}, {error}") from None
    return minimal(paths)


def _flag(payload: Mapping[str, Any], name: str) -> bool:
    value = payload.get(name, False)
    if not isinstance(value, bool):
        raise ClaimError(f"claim {name} is neither true nor false")
    return value


def _time(payload: Mapping[str, Any], name: str) -> float | None:
    """A NumericDate, RFC 7519 section 2; null counts as absent."""
    value = payload.get(name)
    if value is None:
        return None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            seconds = float(value)
        except OverflowError:
            seconds = math.inf
        if math.isfinite(seconds):
            return seconds
    raise ClaimError(f"claim {name} is not a time in seconds since 1970")
