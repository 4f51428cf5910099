"""A value's place, the value without secrets, and what would be right."""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Iterable
from dataclasses import fields
from datetime import date, time
from pathlib import Path
from typing import Final, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from relay.config.options import Keys
from relay.config.tables import OPTIONS, Config
from relay.config.url import is_url, redacted
from relay.config.values import short
from relay.model.limits import Limits
from relay.quic.settings import QuicSettings

_SHORTEST_SECRET: Final = 32  # characters

_OPENING: Final = re.compile("public|disable.verify")
_NEARLY: Final = 0.85


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name nearest to a mistyped one; one that opens access or trusts more only if nearly equal."""
    found = difflib.get_close_matches(name, known, n=1)
    if found and _OPENING.search(found[0].lower()):
        found = difflib.get_close_matches(name, found, n=1, cutoff=_NEARLY)
    return found[0] if found else None


def nearest_key(name: str, known: Iterable[str]) -> str | None:
    """Like `nearest`, in any case."""
    return nearest(name.lower(), known)


def label(keys: Keys) -> str:
    """The key as messages name it, such as `[server.tls] cert`."""
    return f"[{'.'.join(map(short, keys[:-1]))}] {short(keys[-1])}" if keys[:-1] else short(keys[-1])


def shown(keys: Keys, value: object) -> str:
    """` = value` for a message, without a secret, or a possible one in place of a file name."""
    if any(option.hidden and option.keys == keys for option in OPTIONS):
        return ""
    if any(option.secret and option.keys == keys for option in OPTIONS):
        if not isinstance(value, (str, Path)):
            return ""
        text = redacted(str(value))
        if is_url(text) or text != str(value):
            return f" = {quoted(text)}"
        parent = os.path.dirname(text)  # noqa: PTH120 - Path would normalise what is shown and measured.
        known = os.path.isdir(parent)  # noqa: PTH112 - Path would raise for a name that is too long
        if len(text) >= _SHORTEST_SECRET and (parent in ("", "/") or not known):
            return f" ({len(text)} characters, not shown because they may be the secret itself)"
    return f" = {quoted(value)}"


def quoted(value: object) -> str:
    """A value as in the file, shortened, and a URL without secrets."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, (bool, int, float)):
        return str(value).lower()
    if isinstance(value, (date, time)):
        return str(value)
    if isinstance(value, (list, tuple)):
        text = f"[{', '.join(map(quoted, value))}]"
    else:
        text = json.dumps(redacted(str(value)), ensure_ascii=False)
    return short(text)


def wanted(error: ErrorDetails) -> str:
    """What the key takes instead of a refused value."""
    match error["type"]:
        case "value_error":
            return str(error["ctx"]["error"])
        case "literal_error":
            return f"expected one of {error['ctx']['expected']}".replace("'", '"')
        case "bool_type":
            return "expected true or false"
        case "int_type":
            return "expected a whole number"
        case "float_type":
            return 'expected a number of seconds, or a duration such as "10s"'
        case "string_type":
            return "expected a string in quotes"
        case _:
            return str(error["msg"])


def unknown(keys: Keys, value: object) -> str:
    """A key or table that does not exist."""
    table, name = keys[:-1], keys[-1]
    known = SCHEMA[table]
    near = nearest_key(name, known)
    if not table and isinstance(value, dict):
        advice = f"did you mean [{near}]?" if near else f"known are {', '.join(f'[{key}]' for key in known)}"
        return f"[{short(name)}]: unknown table, {advice}"
    if near:
        return f'{label(keys)}: unknown key, did you mean "{near}"?'
    elsewhere = [place for place, names in SCHEMA.items() if place and name in names]
    if elsewhere:
        places = " or ".join(f"[{'.'.join(place)}]" for place in elsewhere)
        return f"{label(keys)}: unknown key here, it belongs in {places}"
    return f"{label(keys)}: unknown key, known are {', '.join(known)}"


def _schema(model: type[BaseModel], keys: Keys = ()) -> dict[Keys, tuple[str, ...]]:
    found: dict[Keys, tuple[str, ...]] = {keys: tuple(model.model_fields)}
    for name, field in model.model_fields.items():
        # a table may be optional
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                found |= _schema(kind, (*keys, name))
            elif kind in (Limits, QuicSettings):
                found[*keys, name] = tuple(entry.name for entry in fields(kind))
    return found


SCHEMA: Final = _schema(Config)  # the known keys of each table
