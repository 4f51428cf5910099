"""Sources of the configuration, in order of precedence: flags, environment variables, a TOML file."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from relay import compiled
from relay.config.foreign import ENV_PREFIX, foreign_variable
from relay.config.options import Keys, Kind, Option
from relay.config.tables import DEMO, OPTIONS
from relay.config.values import short
from relay.config.wording import SCHEMA, label, nearest, quoted, shown

Tables = dict[str, Any]

_LEVELS: Final = ("error", "warn", "info", "debug", "trace")
_BOOLS: Final = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_LONGEST_NUMBER: Final = 20
_MOST_BITS: Final = 256
_DEEPEST: Final = 16
_PUBLIC: Final[Keys] = ("auth", "public")

_OF_KUBERNETES: Final = re.compile(r"_SERVICE_(HOST|PORT\w*)$|_PORT(_\d+_(TCP|UDP)(_(PROTO|PORT|ADDR))?)?$")
"""Kubernetes sets these for each service in every container, and one may be called `moq-relay`."""


class ConfigError(Exception):
    """Each line of the text is one problem."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True)
class Given:
    """A value from the environment or a flag."""

    option: Option
    value: object
    origin: str  # for messages


# File


def read_file(file: Path) -> Tables:
    """The tables of a TOML file. Raises ConfigError."""
    text = ""
    try:
        text = file.read_bytes().decode("utf-8-sig")
        tables = tomllib.loads(text)
        _check_size(tables)
    except FileNotFoundError:
        fault = "no such file"
    except IsADirectoryError:
        fault = "is a directory, expected a TOML file"
    except OSError as error:
        fault = f"cannot be read: {error.strerror}"
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        fault = f"line {line}: not UTF-8, expected a TOML file"
    except tomllib.TOMLDecodeError as error:
        fault = _syntax(str(error), text)
    except (ValueError, RecursionError):
        # Python reads 4300 digits at most, and parses by recursion
        fault = (
            f"too large to be a configuration: expected numbers of {_MOST_BITS} bits at most, "
            f"and no more than {_DEEPEST} tables or lists inside each other"
        )
    else:
        return tables
    raise ConfigError([f"{file}: {fault}"])


def _check_size(value: object, depth: int = 0) -> None:
    """ValueError for a number or depth beyond any key and message."""
    if depth > _DEEPEST or (isinstance(value, int) and value.bit_length() > _MOST_BITS):
        raise ValueError("too large")
    if isinstance(value, (dict, list)):
        for inner in value.values() if isinstance(value, dict) else value:
            _check_size(inner, depth + 1)


def _syntax(message: str, text: str) -> str:
    """The message with the position in front: `line 3, column 8: expected "=" after a key`."""
    reason, _, place = message.rstrip(")").rpartition(" (at ")
    found = re.fullmatch(r"line (\d+), column (\d+)", place)
    if found:
        line, column = found.groups()
    else:
        line, column = str(text.count("\n") + 1), str(len(text) - text.rfind("\n"))
    return f"line {line}, column {column}: not valid TOML: {reason[:1].lower()}{reason[1:]}"


# Environment and flags


def from_environment(environ: Mapping[str, str], problems: list[str]) -> Iterator[Given]:
    """The values of our variables."""
    for option in OPTIONS:
        texts = {
            name: environ[name]
            for name in option.env
            if name in environ and _counts(option, name, environ[name])
        }
        if option.aliases:
            _agree(option, texts, "environment variables", problems)
        if texts:
            name, text = next(iter(texts.items()))
            yield Given(option, _value(option, [text]), f"environment variable {name}")


def strange_variables(environ: Mapping[str, str]) -> Iterator[str]:
    """Unknown variables, without their values: one may be a secret."""
    known = {name for option in OPTIONS for name in option.env} | {compiled.PURE}
    for name in sorted(environ):
        if not name.startswith(ENV_PREFIX) or name in known or _OF_KUBERNETES.search(name):
            continue
        foreign, near = foreign_variable(name), nearest(name, known)
        if foreign is not None:
            advice = foreign.answer_to_variable
        elif near is not None:
            advice = f"unknown, did you mean {near}?"
        else:
            advice = "unknown; docs/config.md lists those that are used"
        yield f"environment variable {short(name)} is not used: {advice}"


def _counts(option: Option, name: str, text: str) -> bool:
    if name == "RUST_LOG":
        return text.strip().lower() in _LEVELS
    return bool(text) or option.empty


def from_flags(flags: Iterable[tuple[str, str]], problems: list[str]) -> Iterator[Given]:
    """Pairs such as `("--listen", "[::]:443")`."""
    texts: dict[str, list[str]] = {}
    for flag, text in flags:
        texts.setdefault(flag, []).append(text)
    for option in OPTIONS:
        used = [flag for flag in option.flags if flag in texts]
        _agree(option, {flag: texts[flag][-1] for flag in used}, "flags", problems)
        if used:
            yield Given(option, _value(option, texts[used[0]]), used[0])


def _value(option: Option, texts: Sequence[str]) -> object:
    """Read text as the option's kind; the tables refuse what stays text."""
    if option.kind is Kind.LIST:
        items = [item.strip() for text in texts for item in text.split(",") if item.strip()]
        # only the empty text itself: a comma too many must not open everything
        return [*items, ""] if option.empty and "" in texts else items
    text = texts[-1]
    if option.kind is Kind.BOOL:
        return _BOOLS.get(text.strip().lower(), text)
    if option.kind is Kind.NUMBER:
        whole = text.isascii() and text.strip().isdecimal() and len(text) <= _LONGEST_NUMBER
        return int(text) if whole else text
    return text.strip() if option.table == "log" else text


def _agree(option: Option, texts: Mapping[str, object], noun: str, problems: list[str]) -> None:
    if len(set(texts.values())) > 1:
        both = " and ".join(f"{name} = {quoted(value)}" for name, value in texts.items())
        problems.append(f"{both}: two {noun} for the same option, {label(option.keys)}; expected one")


# Precedence


def merge(
    file: str | os.PathLike[str] | None,
    environ: Mapping[str, str],
    flags: Iterable[tuple[str, str]],
    problems: list[str],
) -> tuple[Tables, Origins]:
    """A flag overrides an environment variable, which overrides the file. Raises ConfigError for an unusable file."""
    given = [*from_environment(environ, problems), *from_flags(flags, problems)]
    if file is None:
        configured = any(entry.option.table != "log" for entry in given)
        tables: Tables = {} if configured else _copy(DEMO)
    else:
        tables = read_file(Path(file))
    origins = Origins("" if file is None else f"{os.fspath(file)}: ")
    _fold_aliases(tables, origins, problems)
    for entry in given:
        _override(tables, entry, origins)
    return tables, origins


class Origins:
    """The origin of each value, and the key that spelled it."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.names: dict[Keys, str] = {}
        self.spelled: dict[Keys, Keys] = {}

    def of(self, keys: Keys) -> str:
        """The origin of a value, or of the first part of a table."""
        parts = (name for place, name in self.names.items() if place[: len(keys)] == keys)
        return self.names.get(keys) or next(parts, self.file)

    def table(self, keys: Keys) -> str:
        return f"{self.of(keys)}[{'.'.join(keys)}]"

    def value(self, keys: Keys, value: object) -> str:
        return f"{self.of(keys)}{label(self.spelled.get(keys, keys))}{shown(keys, value)}"


def _fold_aliases(tables: Tables, origins: Origins, problems: list[str]) -> None:
    for option in OPTIONS:
        table = table_at(tables, option.keys[:-1])
        name = option.keys[-1]
        for alias in option.aliases:
            if table is None or alias not in table:
                continue
            value = table.pop(alias)
            if name not in table:
                table[name] = value
                origins.spelled[option.keys] = (*option.keys[:-1], alias)
            elif table[name] != value:
                both = f"{label(option.keys)} = {quoted(table[name])} and {alias} = {quoted(value)}"
                problems.append(f"{origins.file}{both}: two names for the same thing, expected one")


def _override(tables: Tables, entry: Given, origins: Origins) -> None:
    keys = entry.option.keys
    table = tables
    for depth, key in enumerate(keys[:-1], start=1):
        inner = table.setdefault(key, {})
        if keys[:depth] == _PUBLIC and isinstance(inner, (str, list)):
            inner = table[key] = _spread(inner, origins)
        if not isinstance(inner, dict):
            return  # a plain value in place of the table is an error elsewhere
        table = inner
    table[keys[-1]] = entry.value
    origins.names[keys] = f"{entry.origin}: "
    origins.spelled.pop(keys, None)


def _spread(short: object, origins: Origins) -> Tables:
    """The short form of `public` as a table, whose keys flags can replace."""
    origin = origins.of(_PUBLIC)
    for name in SCHEMA[_PUBLIC]:
        origins.names[*_PUBLIC, name] = origin
        origins.spelled[*_PUBLIC, name] = _PUBLIC
    return dict.fromkeys(SCHEMA[_PUBLIC], short)


def table_at(tables: Tables, keys: Keys) -> Tables | None:
    """The table at `keys`, or None."""
    found: object = tables
    for key in keys:
        if not isinstance(found, dict):
            return None
        found = found.get(key)
    return found if isinstance(found, dict) else None


def _copy(table: Mapping[str, Any]) -> Tables:
    return {key: _copy(value) if isinstance(value, Mapping) else value for key, value in table.items()}
