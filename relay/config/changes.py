"""The difference between two configurations, and the part of it that a reload applies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Final, TypeVar

from pydantic import BaseModel

from relay.config.options import Keys
from relay.config.tables import Config
from relay.model.limits import Limits
from relay.quic.settings import QuicSettings

ModelT = TypeVar("ModelT", bound=BaseModel)

LIVE: Final[tuple[Keys, ...]] = (
    ("limits",),
    ("auth",),
    ("log",),
    ("server", "tls", "cert"),
    ("server", "tls", "key"),
    ("web", "https", "cert"),
    ("web", "https", "key"),
    ("internal", "hosts"),
)
"""All other tables and keys need a restart."""


def _differences(old: object, new: object, keys: Keys = ()) -> Iterator[Keys]:
    """A missing table counts as one key."""
    names = _names(old)
    if type(old) is type(new) and names:
        for name in names:
            yield from _differences(getattr(old, name), getattr(new, name), (*keys, name))
    elif old != new:
        yield keys


def _names(table: object) -> tuple[str, ...]:
    if isinstance(table, BaseModel):
        return tuple(type(table).model_fields)
    return tuple(field.name for field in fields(table)) if isinstance(table, (Limits, QuicSettings)) else ()


def taken_over(old: Config, new: Config) -> Config:
    """The old configuration with all of `new` that takes effect at a reload."""
    https = new.web.https
    for place in LIVE:
        # HTTPS without files continues until a restart
        if place[:2] != ("web", "https") or (https.cert is not None and https.key is not None):
            old = _with(old, new, place)
    return old


def _with(old: ModelT, new: ModelT, place: Keys) -> ModelT:
    name, *rest = place
    value = getattr(new, name)
    if rest:
        value = _with(getattr(old, name), value, tuple(rest))
    return old.model_copy(update={name: value})


def listed(old: Config, new: Config) -> str:
    """The keys whose values differ: `[server.tls] cert, [limits] sessions`."""
    return ", ".join(f"[{'.'.join(keys[:-1])}] {keys[-1]}" for keys in _differences(old, new))
