"""Putting a configuration together: file, environment and flags into one `Config`, or one `ConfigError`.

Owns precedence and the wording of errors. Must never print, start anything, or repeat what may be a secret. Called by
the command line.
"""

from __future__ import annotations

import difflib
import json
import logging
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import date, time
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from relay.config.check import Keys, Problem, check
from relay.config.foreign import ENV_PREFIX, Foreign, foreign_keys, foreign_variable
from relay.config.options import OPTIONS, Kind, Option
from relay.config.tables import DEMO, Config
from relay.config.url import is_url, redacted
from relay.model.limits import Limits
from relay.transport.quic.settings import QuicSettings

logger = logging.getLogger("relay.config")

Tables = dict[str, Any]

_LEVELS = ("error", "warn", "info", "debug", "trace")
_TRUE = ("true", "1", "yes")
_FALSE = ("false", "0", "no")
_LONGEST_VALUE = 100
_LONGEST_NUMBER = 20
_MOST_BITS = 256
_DEEPEST = 16
_SHORTEST_SECRET = 32
"""Characters. Neither a key file's content nor a token can be shorter."""


class ConfigError(Exception):
    """The configuration cannot be used. Each line of its text is one problem, written for the operator."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True)
class _Given:
    """A value from the environment or a flag."""

    option: Option
    value: object
    origin: str
    """Where it came from, in words."""


def load(
    file: str | os.PathLike[str] | None = None,
    flags: Iterable[tuple[str, str]] = (),
    environ: Mapping[str, str] | None = None,
    warn: Callable[[str], object] = logger.warning,
) -> Config:
    """Return the configuration of `file` under the environment under `flags`, pairs such as `("--listen", "[::]:443")`.

    With neither a file nor any option (log options aside) it is `Config.demo`. `warn` is told of what is not used.
    Raises ConfigError with every problem.
    """
    problems: list[str] = []
    environ = os.environ if environ is None else environ
    for text in _strange_variables(environ):
        warn(text)
    given = [
        *_from_environment(environ, problems),
        *_from_flags(flags, problems),
    ]
    if file is None:
        configured = any(entry.option.table != "log" for entry in given)
        tables: Tables = {} if configured else _copy(DEMO)
    else:
        tables = _read(Path(file))
    origins = _Origins("" if file is None else f"{os.fspath(file)}: ")
    _fold_aliases(tables, origins, problems)
    for entry in given:
        _overlay(tables, entry, origins)
    config, faults = _validated(tables, origins)
    problems += faults
    if problems:
        raise ConfigError(problems)
    return config


# Sources


def _read(file: Path) -> Tables:
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
        # Python reads 4300 digits at most, and parses by recursion.
        fault = (
            f"too large to be a configuration: expected numbers of {_MOST_BITS} bits at most, "
            f"and no more than {_DEEPEST} tables or lists inside each other"
        )
    else:
        return tables
    raise ConfigError([f"{file}: {fault}"])


def _check_size(value: object, depth: int = 0) -> None:
    """Raise ValueError for what neither a key takes nor a message can show."""
    if depth > _DEEPEST or (isinstance(value, int) and value.bit_length() > _MOST_BITS):
        raise ValueError("too large")
    if isinstance(value, (dict, list)):
        for inner in value.values() if isinstance(value, dict) else value:
            _check_size(inner, depth + 1)


def _syntax(message: str, text: str) -> str:
    """Put the position in front: `line 3, column 8: expected "=" after a key`."""
    reason, _, place = message.rstrip(")").rpartition(" (at ")
    found = re.fullmatch(r"line (\d+), column (\d+)", place)
    if found:
        line, column = found.groups()
    else:
        line, column = str(text.count("\n") + 1), str(len(text) - text.rfind("\n"))
    return f"line {line}, column {column}: not valid TOML: {reason[:1].lower()}{reason[1:]}"


def _from_environment(environ: Mapping[str, str], problems: list[str]) -> list[_Given]:
    found = []
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
            found.append(_Given(option, _value(option, [text]), f"environment variable {name}"))
    return found


def _strange_variables(environ: Mapping[str, str]) -> Iterator[str]:
    """Name variables that look like ours and are not, without their values: one may be a secret."""
    known = {name for option in OPTIONS for name in option.env}
    for name in sorted(environ):
        if not name.startswith(ENV_PREFIX) or name in known or _OF_KUBERNETES.search(name):
            continue
        foreign = foreign_variable(name)
        near = nearest(name, known)
        if foreign is not None:
            advice = foreign.answer_to_variable
        elif near is not None:
            advice = f"unknown, did you mean {near}?"
        else:
            advice = "unknown; docs/config.md lists those that are used"
        yield f"environment variable {name} is not used: {advice}"


_OF_KUBERNETES = re.compile(r"_SERVICE_(HOST|PORT\w*)$|_PORT(_\d+_(TCP|UDP)(_(PROTO|PORT|ADDR))?)?$")
"""Variables that every container gets for each service, one called `moq-relay` among them."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that a mistyped flag or variable is meant to be.

    One that lets more people in, or trusts more, is suggested only to those who have nearly written it.
    """
    found = difflib.get_close_matches(name, known, n=1)
    if found and _OPENING.search(found[0].lower()):
        found = difflib.get_close_matches(name, found, n=1, cutoff=_NEARLY)
    return found[0] if found else None


_OPENING = re.compile("public|disable.verify")
_NEARLY = 0.85


def _counts(option: Option, name: str, text: str) -> bool:
    if name == "RUST_LOG":
        return text.strip().lower() in _LEVELS
    return bool(text) or option.empty


def _from_flags(flags: Iterable[tuple[str, str]], problems: list[str]) -> list[_Given]:
    texts: dict[str, list[str]] = {}
    for flag, text in flags:
        texts.setdefault(flag, []).append(text)
    found = []
    for option in OPTIONS:
        used = [flag for flag in option.flags if flag in texts]
        _agree(option, {flag: texts[flag][-1] for flag in used}, "flags", problems)
        if used:
            found.append(_Given(option, _value(option, texts[used[0]]), used[0]))
    return found


def _value(option: Option, texts: Sequence[str]) -> object:
    """Read text as the kind of the option demands; what cannot be read is left for the model to refuse."""
    if option.kind is Kind.LIST:
        items = [item.strip() for text in texts for item in text.split(",") if item.strip()]
        # Only the empty text itself: a comma too many must not open everything.
        return [*items, ""] if option.empty and "" in texts else items
    text = texts[-1]
    if option.kind is Kind.BOOL:
        word = text.strip().lower()
        return True if word in _TRUE else False if word in _FALSE else text
    if option.kind is Kind.NUMBER:
        whole = text.isascii() and text.strip().isdecimal() and len(text) <= _LONGEST_NUMBER
        return int(text) if whole else text
    return text.strip() if option.path == "log.level" else text


def _agree(option: Option, texts: Mapping[str, object], noun: str, problems: list[str]) -> None:
    """Refuse two spellings of one option that say different things."""
    if len(texts) > 1 and len(set(map(repr, texts.values()))) > 1:
        both = " and ".join(f"{name} = {_quoted(value)}" for name, value in texts.items())
        problems.append(
            f"{both}: two {noun} for the same option, [{option.table}] {option.keys[-1]}; expected one"
        )


# Merging


class _Origins:
    """Where each value came from, and by which key it was spelled."""

    def __init__(self, default: str) -> None:
        self._default = default
        self.names: dict[Keys, str] = {}
        self.spelled: dict[Keys, Keys] = {}

    def of(self, keys: Keys) -> str:
        """Origin of a value, or of the first part of a table that did not come from the file."""
        parts = (name for place, name in self.names.items() if place[: len(keys)] == keys)
        return self.names.get(keys) or next(parts, self._default)

    def file(self) -> str:
        return self._default


def _fold_aliases(tables: Tables, origins: _Origins, problems: list[str]) -> None:
    """Move second spellings to the first, so that only one is left to look at."""
    for option in OPTIONS:
        table = _table(tables, option.keys[:-1])
        if table is None:
            continue
        name = option.keys[-1]
        for alias in option.aliases:
            other = alias.rpartition(".")[2]
            if other not in table:
                continue
            value = table.pop(other)
            if name not in table:
                table[name] = value
                origins.spelled[option.keys] = (*option.keys[:-1], other)
            elif table[name] != value:
                first, second = (
                    f"{key} = {_quoted(shown)}" for key, shown in ((name, table[name]), (other, value))
                )
                text = f"[{option.table}] {first} and {second}: two names for the same thing, expected one"
                problems.append(origins.file() + text)


def _overlay(tables: Tables, entry: _Given, origins: _Origins) -> None:
    keys = entry.option.keys
    table = tables
    for depth, key in enumerate(keys[:-1], start=1):
        inner = table.setdefault(key, {})
        if keys[:depth] == _PUBLIC and isinstance(inner, (str, list)):
            inner = table[key] = _spread(inner, origins)
        if not isinstance(inner, dict):
            return  # The file has a plain value where a table belongs; that is reported.
        table = inner
    table[keys[-1]] = entry.value
    origins.names[keys] = f"{entry.origin}: "
    origins.spelled.pop(keys, None)


_PUBLIC: Keys = ("auth", "public")


def _spread(short: object, origins: _Origins) -> Tables:
    """Write out the short form of `public` as the table that it stands for, so that one key of it can be replaced."""
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
    """Return the configuration and what is wrong with it; a key that is wrong is taken as not given."""
    faults: list[str] = []
    wrong: set[Keys] = set()
    mistyped: set[Keys] = set()
    while (failure := _refused(tables)) is not None:
        before = len(faults)
        for error in failure.errors(include_url=False):
            keys = tuple(key for key in error["loc"] if isinstance(key, str))
            table = _table(tables, keys[:-1])
            if table is None or keys[-1] not in table:
                continue  # One key can be wrong in two ways.
            foreign = foreign_keys(keys, error["input"]) if error["type"] == "extra_forbidden" else []
            if foreign:
                faults += [_foreign_fault(place, entry, origins) for place, entry in foreign]
                for place, entry in foreign:
                    wrong |= _explained(place, entry)
            else:
                faults.append(_fault(error, keys, origins))
            (mistyped if error["type"] == "extra_forbidden" else wrong).add(keys)
            del table[keys[-1]]
            if not table and keys[:-2]:
                # A table is not given either if nothing in it is right.
                del (_table(tables, keys[:-2]) or {})[keys[-2]]
        if len(faults) == before:
            raise failure  # A fault of ours: nothing given explains it, and asking again would not end.
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
    """Whether `absent` is missing because it was spelled `mistyped`."""
    return mistyped[:-1] == absent[:-1] and _near(mistyped[-1], (absent[-1],)) is not None


def _fault(error: ErrorDetails, keys: Keys, origins: _Origins) -> str:
    value = error["input"]
    if error["type"] == "extra_forbidden":
        return _unknown(keys, value, origins.file())
    if error["type"] == "model_type":
        name = keys[-1] if len(keys) == 1 else f"[{'.'.join(keys[:-1])}] {keys[-1]}"
        return f"{origins.file()}{name} = {_quoted(value)}: expected a table, [{'.'.join(keys)}]"
    if isinstance(value, dict) and keys in SCHEMA:
        return f"{origins.of(keys)}[{'.'.join(keys)}]: {_wanted(error)}"
    return f"{origins.of(keys)}{_label(keys, origins)}{_shown(keys, value)}: {_wanted(error)}"


def _foreign_fault(keys: Keys, entry: Foreign | None, origins: _Origins) -> str:
    *table, name = keys
    label = f"[{'.'.join(table)}] {name}" if table else name
    return f"{origins.file()}{label}: {'unknown key' if entry is None else entry.answer}"


def _explained(keys: Keys, entry: Foreign | None) -> set[Keys]:
    """Places whose absence is explained by a key of another relay."""
    here = set() if entry is None or entry.here is None else {tuple(entry.here.split("."))}
    return here | ({("auth", "key")} if keys[0] == "auth" else set())


def _wanted(error: ErrorDetails) -> str:
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


def _unknown(keys: Keys, value: object, origin: str) -> str:
    *path, name = keys
    table = tuple(path)
    known = SCHEMA[table]
    near = _near(name, known)
    if not table and isinstance(value, dict):
        advice = f"did you mean [{near}]?" if near else f"known are {', '.join(f'[{key}]' for key in known)}"
        return f"{origin}[{name}]: unknown table, {advice}"
    label = f"[{'.'.join(table)}] {name}" if table else name
    if near:
        return f'{origin}{label}: unknown key, did you mean "{near}"?'
    elsewhere = [place for place, names in SCHEMA.items() if place and name in names]
    if elsewhere:
        places = " or ".join(f"[{'.'.join(place)}]" for place in elsewhere)
        return f"{origin}{label}: unknown key here, it belongs in {places}"
    return f"{origin}{label}: unknown key, known are {', '.join(known)}"


def _near(name: str, known: Iterable[str]) -> str | None:
    return nearest(name.lower(), known)


def _described(problem: Problem, tables: Tables, origins: _Origins) -> str:
    if problem.value is None:
        return f"{origins.file()}[{'.'.join(problem.keys)}]: {problem.text}"
    if _table(tables, problem.keys) is not None:
        return f"{origins.of(problem.keys)}[{'.'.join(problem.keys)}]: {problem.text}"
    label = _label(problem.keys, origins)
    return f"{origins.of(problem.keys)}{label}{_shown(problem.keys, problem.value)}: {problem.text}"


def _label(keys: Keys, origins: _Origins) -> str:
    *table, name = origins.spelled.get(keys, keys)
    return f"[{'.'.join(table)}] {name}"


def _shown(keys: Keys, value: object) -> str:
    """Render ` = value`, or nothing recognisable of what may be a secret pasted in place of a file name."""
    if any(option.secret and option.keys == keys for option in OPTIONS):
        if not isinstance(value, (str, Path)):
            return ""
        text = redacted(str(value))
        if is_url(text) or text != str(value):
            return f" = {_quoted(text)}"
        parent = os.path.dirname(text)  # noqa: PTH120 - Path would normalise what is shown and measured.
        if len(text) >= _SHORTEST_SECRET and (parent in ("", "/") or not Path(parent).is_dir()):
            return f" ({len(text)} characters, not shown because they may be the secret itself)"
    return f" = {_quoted(value)}"


def _quoted(value: object) -> str:
    """Write a value the way it stands in the file, shortened, and of a URL no more than may be repeated."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, (bool, int, float)):
        return str(value).lower()
    if isinstance(value, (date, time)):
        return str(value)
    if isinstance(value, (list, tuple)):
        text = f"[{', '.join(map(_quoted, value))}]"
    else:
        text = json.dumps(redacted(str(value)), ensure_ascii=False)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}..."


def _schema(model: type[BaseModel], keys: Keys = ()) -> dict[Keys, tuple[str, ...]]:
    """Return the known keys of each table."""
    found: dict[Keys, tuple[str, ...]] = {keys: tuple(model.model_fields)}
    for name, field in model.model_fields.items():
        # A table may be optional.
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                found |= _schema(kind, (*keys, name))
            elif kind in (Limits, QuicSettings):
                found[*keys, name] = tuple(entry.name for entry in fields(kind))
    return found


SCHEMA = _schema(Config)
