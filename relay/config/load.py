"""Merges file, environment and flags into one `Config`, or one `ConfigError` that repeats no secret."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from relay.config.check import Problem, check
from relay.config.foreign import Foreign, foreign_keys
from relay.config.options import Keys
from relay.config.sources import (
    ConfigError,
    Given,
    Tables,
    from_environment,
    from_flags,
    read_file,
    strange_variables,
)
from relay.config.tables import DEMO, OPTIONS, Config
from relay.config.wording import SCHEMA, label, nearest_key, quoted, shown, unknown, wanted
from relay.logger import get_logger

logger = get_logger("relay.config")

_PUBLIC: Final[Keys] = ("auth", "public")


def load(
    file: str | os.PathLike[str] | None = None,
    flags: Iterable[tuple[str, str]] = (),
    environ: Mapping[str, str] | None = None,
    warn: Callable[[str], object] = logger.warning,
) -> Config:
    """Return `file` under the environment under `flags`, pairs such as `("--listen", "[::]:443")`.

    Without a file and options (`[log]` aside) it is `Config.demo`. `warn` gets a line for each unused variable that
    looks like ours. Raises ConfigError with every problem.
    """
    problems: list[str] = []
    environ = os.environ if environ is None else environ
    for text in strange_variables(environ):
        warn(text)
    given = [*from_environment(environ, problems), *from_flags(flags, problems)]
    if file is None:
        configured = any(entry.option.table != "log" for entry in given)
        tables: Tables = {} if configured else _copy(DEMO)
    else:
        tables = read_file(Path(file))
    origins = _Origins("" if file is None else f"{os.fspath(file)}: ")
    _fold_aliases(tables, origins, problems)
    for entry in given:
        _overlay(tables, entry, origins)
    config, faults = _validated(tables, origins)
    problems += faults
    if problems:
        raise ConfigError(problems)
    return config


# Merging


class _Origins:
    """The origin of each value, and the key that spelled it."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.names: dict[Keys, str] = {}
        self.spelled: dict[Keys, Keys] = {}

    def of(self, keys: Keys) -> str:
        """Or the origin of a table's first part."""
        parts = (name for place, name in self.names.items() if place[: len(keys)] == keys)
        return self.names.get(keys) or next(parts, self.file)

    def table(self, keys: Keys) -> str:
        return f"{self.of(keys)}[{'.'.join(keys)}]"

    def value(self, keys: Keys, value: object) -> str:
        return f"{self.of(keys)}{label(self.spelled.get(keys, keys))}{shown(keys, value)}"


def _fold_aliases(tables: Tables, origins: _Origins, problems: list[str]) -> None:
    for option in OPTIONS:
        table = _table(tables, option.keys[:-1])
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


def _overlay(tables: Tables, entry: Given, origins: _Origins) -> None:
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


def _spread(short: object, origins: _Origins) -> Tables:
    """The short form of `public` as a table, whose keys flags can replace."""
    origin = origins.of(_PUBLIC)
    for name in SCHEMA[_PUBLIC]:
        origins.names[*_PUBLIC, name] = origin
        origins.spelled[*_PUBLIC, name] = _PUBLIC
    return dict.fromkeys(SCHEMA[_PUBLIC], short)


def _table(tables: Tables, keys: Keys) -> Tables | None:
    found: object = tables
    for key in keys:
        if not isinstance(found, dict):
            return None
        found = found.get(key)
    return found if isinstance(found, dict) else None


def _copy(table: Mapping[str, Any]) -> Tables:
    return {key: _copy(value) if isinstance(value, Mapping) else value for key, value in table.items()}


# Checking


def _validated(tables: Tables, origins: _Origins) -> tuple[Config, list[str]]:
    """The configuration and its faults; a wrong key counts as absent."""
    faults: list[str] = []
    wrong: set[Keys] = set()
    mistyped: set[Keys] = set()
    while (failure := _refused(tables)) is not None:
        before = len(faults)
        for error in failure.errors(include_url=False):
            keys = tuple(key for key in error["loc"] if isinstance(key, str))
            table = _table(tables, keys[:-1])
            if table is None or keys[-1] not in table:
                continue  # one key can be wrong in two ways
            extra = error["type"] == "extra_forbidden"
            foreign = foreign_keys(keys, error["input"]) if extra else []
            for place, entry in foreign:
                answer = "unknown key" if entry is None else entry.answer
                faults.append(f"{origins.file}{label(place)}: {answer}")
                wrong |= _explained(place, entry)
            if not foreign:
                faults.append(_fault(error, keys, origins))
            (mistyped if extra else wrong).add(keys)
            del table[keys[-1]]
            if not table and keys[:-2]:  # a table without a valid key is absent, too
                del (_table(tables, keys[:-2]) or {})[keys[-2]]
        if len(faults) == before:
            raise failure  # a fault of ours: the loop would not end
    config = Config.model_validate(tables)
    for problem in check(config):
        consequence = wrong.intersection((problem.keys, *problem.missing, *problem.related)) or any(
            _explains(keys, absent) for keys in mistyped for absent in problem.missing
        )
        if not consequence:
            faults.append(_described(problem, tables, origins))
    return config, faults


def _refused(tables: Tables) -> ValidationError | None:
    try:
        Config.model_validate(tables)
    except ValidationError as failure:
        return failure
    return None


def _explains(mistyped: Keys, absent: Keys) -> bool:
    return mistyped[:-1] == absent[:-1] and nearest_key(mistyped[-1], (absent[-1],)) is not None


def _explained(keys: Keys, entry: Foreign | None) -> set[Keys]:
    """Places that another relay's key explains."""
    here = set() if entry is None or entry.here is None else {tuple(entry.here.split("."))}
    return here | ({("auth", "key")} if keys[0] == "auth" else set())


def _fault(error: ErrorDetails, keys: Keys, origins: _Origins) -> str:
    value = error["input"]
    if error["type"] == "extra_forbidden":
        return f"{origins.file}{unknown(keys, value)}"
    if error["type"] == "model_type":
        return f"{origins.file}{label(keys)} = {quoted(value)}: expected a table, [{'.'.join(keys)}]"
    place = origins.table(keys) if isinstance(value, dict) and keys in SCHEMA else origins.value(keys, value)
    return f"{place}: {wanted(error)}"


def _described(problem: Problem, tables: Tables, origins: _Origins) -> str:
    if problem.value is None:
        place = f"{origins.file}[{'.'.join(problem.keys)}]"
    elif _table(tables, problem.keys) is not None:
        place = origins.table(problem.keys)
    else:
        place = origins.value(problem.keys, problem.value)
    return f"{place}: {problem.text}"
