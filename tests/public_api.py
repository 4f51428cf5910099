"""The public names of the relay with their signatures, as docs/embedding.md promises them.

python -m tests.public_api > tests/public_api.txt

records an intended change. The changelog has to name it, under *Breaking* unless it only adds.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Any, is_typeddict

from pydantic import BaseModel

import relay

FILE = Path(__file__).with_suffix(".txt")

NOT_PROMISED = {
    "Relay": {"accept", "admit", "connections", "origin"},
    "Handle": {"on_event", "ring", "until"},
    "Reader": {"conclude", "put"},
    "Client": {"cancel", "flush", "hop"},
    "PublishedTrack": {"on_event", "send"},
}
"""Methods for other files of the relay, and for its tests."""

CONSTRUCTED = ("relay.Relay", "relay.config.ConfigError")
"""Classes that programs construct, beside the tables; methods return the others."""

SHARED = ("Endpoint", "Handle", "PublishedTrack", "Reader")
"""Bases of the client's classes, not promised themselves; their members are listed with each class."""

PLAIN = (bool, int, float, str, type(None), tuple)


def public_api() -> list[str]:
    """A line for each public name."""
    return [
        line for name in sorted(relay.__all__) for line in _described(f"relay.{name}", getattr(relay, name))
    ]


def _described(name: str, value: Any) -> Iterator[str]:
    if isinstance(value, ModuleType):
        for inner in sorted(value.__all__):
            yield from _described(f"{name}.{inner}", getattr(value, inner))
    elif not isinstance(value, type):
        yield _signature(name, value)
    elif issubclass(value, Enum):
        yield f"{name}: {', '.join(value.__members__)}"
    else:
        bases = ", ".join(
            base.__name__ for base in value.__bases__ if base is not object and base.__name__ not in SHARED
        )
        yield f"class {name}({bases})"
        if issubclass(value, BaseModel):
            yield from (f"{name}.{field}" for field in value.model_fields)
        elif is_typeddict(value):
            yield from (
                f"{name}.{field}: {kind.__forward_arg__}" for field, kind in value.__annotations__.items()
            )
        elif dataclasses.is_dataclass(value):
            yield from (f"{name}.{entry.name}: {entry.type}" for entry in dataclasses.fields(value))
        elif name in CONSTRUCTED:
            yield _signature(name, value)
        yield from _members(name, value)


def _members(name: str, cls: type) -> Iterator[str]:
    own = [
        base for base in cls.__mro__ if base.__module__.startswith(("relay.client.", "relay.moq.published"))
    ] or [cls]
    hidden = {member for base in own for member in NOT_PROMISED.get(base.__name__, ())}
    found = {member: value for base in reversed(own) for member, value in vars(base).items()}
    for member, value in sorted(found.items()):
        if member.startswith("_") or member in hidden:
            continue
        if isinstance(value, property):
            yield f"{name}.{member}"
        elif isinstance(value, (classmethod, staticmethod)) or inspect.isfunction(value):
            yield _signature(f"{name}.{member}", getattr(cls, member))


def _signature(name: str, function: Callable[..., Any]) -> str:
    found = inspect.signature(function)
    parameters = [
        entry if entry.default is entry.empty or type(entry.default) in PLAIN else entry.replace(default=...)
        for entry in found.parameters.values()
    ]
    text = str(found.replace(parameters=parameters)).replace("'", "").replace("Ellipsis", "...")
    prefix = "async " if inspect.iscoroutinefunction(function) else ""
    return f"{prefix}{name}{text}"


if __name__ == "__main__":
    print("\n".join(public_api()))  # noqa: T201 - a command
