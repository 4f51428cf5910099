"""Checks the merged sources: one `Config`, or one `ConfigError` that repeats no secret."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from relay.config.check import Problem, check
from relay.config.foreign import Foreign, foreign_keys
from relay.config.options import Keys
from relay.config.sources import ConfigError, Origins, Tables, merge, strange_variables, table_at
from relay.config.tables import Config
from relay.config.wording import SCHEMA, label, nearest_key, quoted, unknown, wanted
from relay.logger import get_logger

logger = get_logger("relay.config")


def load(
    file: str | os.PathLike[str] | None = None,
    flags: Iterable[tuple[str, str]] = (),
    environ: Mapping[str, str] | None = None,
    warn: Callable[[str], object] = logger.warning,
) -> Config:
    """Return `file` under the environment under `flags`, pairs such as `("--listen", "[::]:443")`.

    Without a file and options (`[log]` aside) it is `Config.demo`. `warn` gets a line for each unused variable
    that looks like ours. Raises ConfigError with every problem.
    """
    problems: list[str] = []
    environ = os.environ if environ is None else environ
    for text in strange_variables(environ):
        warn(text)
    tables, origins = merge(file, environ, flags, problems)
    config, faults = _validated(tables, origins)
    problems += faults
    if problems:
        raise ConfigError(problems)
    return config


def _validated(tables: Tables, origins: Origins) -> tuple[Config, list[str]]:
    """The configuration and its faults; a wrong key counts as absent."""
    faults: list[str] = []
    wrong: set[Keys] = set()
    mistyped: set[Keys] = set()
    while (failure := _refused(tables)) is not None:
        before = len(faults)
        for error in failure.errors(include_url=False):
            keys = tuple(key for key in error["loc"] if isinstance(key, str))
            table = table_at(tables, keys[:-1])
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
                del (table_at(tables, keys[:-2]) or {})[keys[-2]]
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


def _fault(error: ErrorDetails, keys: Keys, origins: Origins) -> str:
    value = error["input"]
    if error["type"] == "extra_forbidden":
        return f"{origins.file}{unknown(keys, value)}"
    if error["type"] == "model_type":
        return f"{origins.file}{label(keys)} = {quoted(value)}: expected a table, [{'.'.join(keys)}]"
    place = origins.table(keys) if isinstance(value, dict) and keys in SCHEMA else origins.value(keys, value)
    return f"{place}: {wanted(error)}"


def _described(problem: Problem, tables: Tables, origins: Origins) -> str:
    if problem.value is None:
        place = f"{origins.file}[{'.'.join(problem.keys)}]"
    elif table_at(tables, problem.keys) is not None:
        place = origins.table(problem.keys)
    else:
        place = origins.value(problem.keys, problem.value)
    return f"{place}: {problem.text}"
