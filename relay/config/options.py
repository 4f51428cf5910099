"""Flags, environment variables and help of the file's keys."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, get_args, get_origin

from pydantic import BaseModel, Field

from relay.wire.version import ALL_VERSIONS

Keys = tuple[str, ...]  # place in the file


class Metavar(str):
    """The name of a value in the help, beside its type."""

    __slots__ = ()


class Kind(Enum):
    """How to read the text of a flag or variable."""

    TEXT = "text"
    LIST = "list"  # between commas; a repeated flag adds items

    BOOL = "bool"
    NUMBER = "number"


@dataclass(frozen=True, slots=True)
class Option:
    """One option. Its table gives the help, and spellings that differ from its place."""

    help: str
    flag: str = ""  # if it is not the place with hyphens
    aliases: tuple[str, ...] = ()
    """Second names of the key in the same table; flags and variables follow from them, too."""

    variable: str = ""  # of other programs, stronger than ours
    unset: str = "none"  # without a value, if there is no default to show
    secret: bool = False  # never repeated in messages: the value may be a secret in place of a file name
    hidden: bool = False  # never shown at all: the value is a secret
    empty: bool = False  # the empty text is a value

    keys: Keys = ()
    metavar: str = ""
    kind: Kind = Kind.TEXT
    default: object = None

    @property
    def path(self) -> str:
        """The key's place, such as `server.tls.cert`."""
        return ".".join(self.keys)

    @property
    def table(self) -> str:
        return ".".join(self.keys[:-1])

    @property
    def flags(self) -> tuple[str, ...]:
        """The flags, the preferred one first."""
        names = tuple(f"--{'-'.join(keys)}".replace("_", "-") for keys in self._spellings())
        return (self.flag or names[0], *names[1:])

    @property
    def env(self) -> tuple[str, ...]:
        """The environment variables, the strongest first."""
        names = tuple(f"MOQ_{'_'.join(keys)}".upper() for keys in self._spellings())
        return (self.variable, *names) if self.variable else names

    def _spellings(self) -> Iterator[Keys]:
        yield self.keys
        for name in self.aliases:
            yield (*self.keys[:-1], name)

    @property
    def default_text(self) -> str:
        """The default as an operator writes it, or the effect of no value."""
        value = self.default
        if value is None or value == ():
            return self.unset
        if value == ALL_VERSIONS:
            return "all"
        return str(value).lower() if isinstance(value, bool) else str(value)


def setting(default: Any, text: str, flag: str = "", **more: Any) -> Any:
    """The default of a table's key, with its `Option`."""
    field = Field(default)
    field.metadata.append(Option(text, flag, **more))
    return field


def options_of(model: type[BaseModel], value: object, keys: Keys = ()) -> Iterator[Option]:
    """The options of a table and the tables inside; `value` has the defaults."""
    for name, field in model.model_fields.items():
        place, default = (*keys, name), getattr(value, name, None)
        types = (field.annotation, *get_args(field.annotation))
        tables = [kind for kind in types if isinstance(kind, type) and issubclass(kind, BaseModel)]
        for entry in field.metadata:
            if isinstance(entry, Option):
                # a list is the short form of a table
                listed = bool(tables) or get_origin(field.annotation) is tuple
                number = Kind.NUMBER if int in types else Kind.TEXT
                kind = Kind.LIST if listed else Kind.BOOL if bool in types else number
                # an optional value's metadata is inside its type
                known = (
                    *field.metadata,
                    *(data for inner in types for data in getattr(inner, "__metadata__", ())),
                )
                metavar = next((data for data in known if isinstance(data, Metavar)), "true|false")
                yield replace(entry, keys=place, metavar=metavar, kind=kind, default=default)
        for table in tables:
            yield from options_of(table, default, place)
