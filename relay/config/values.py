"""The types of single values: how to read text, the range, and the words of `expected ...`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_type_hints
from urllib.parse import unquote

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, SecretStr, create_model

from relay.config.address import Address, is_authority, is_host
from relay.config.duration import seconds
from relay.config.options import Metavar
from relay.config.root import Root, parse_roots
from relay.config.url import is_url, key_server
from relay.model.limits import Limits
from relay.model.member import Member
from relay.model.path import PatternError, granted, minimal, normalize
from relay.quic.settings import QuicSettings
from relay.wire.version import AnyVersion, Draft, Version, preferred, version_from_name

Range = tuple[float, float]  # least and greatest

_COUNT: Range = (1, 1_000_000)
_BYTES: Range = (1_024, 1 << 40)
_SECONDS: Range = (0.001, 86_400)
_SHORTEST_SECRET: Final = 16  # bytes

QUIC_RANGES: Final[Mapping[str, Range]] = {
    "idle_timeout": (0.1, 3_600),
    "keep_alive": (0, 3_600),
    "max_streams_bidi": _COUNT,
    "max_streams_uni": _COUNT,
    "stream_window": (16_384, 1 << 30),
    "connection_window": (16_384, 1 << 40),
    # RFC 9000 section 14 demands 1200; one UDP packet over IPv4 holds 65507
    "max_datagram_size": (1_200, 65_507),
    "socket_buffer": (16_384, 1 << 30),
}

LIMITS_RANGES: Final[Mapping[str, Range]] = {
    # a deep path with its list of hops needs this much
    "message": (4_096, 1 << 24),
    # 0: every client proves its address
    "handshakes_unverified": (0, 1_000_000),
    # 0: a broadcast ends with its publisher
    "linger": (0, 3_600),
    # 0: all sessions close at once
    "drain": (0, 3_600),
    "frame": _BYTES,
    "cache": _BYTES,
    "cache_track": _BYTES,
    # the longest message has no room for a longer path
    "path": (64, 1 << 16),
    "backlog_bytes": _BYTES,
    "backlog_session": _BYTES,
    "websocket_window": _BYTES,
    "websocket_message": _BYTES,
}
"""Other fields are counts if they are whole numbers and seconds otherwise."""


LONGEST_SHOWN: Final = 100  # characters of a value or name in a message


def short(text: str) -> str:
    """The text, cut for a message."""
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."


class Table(BaseModel):
    """Base of all tables."""

    # pydantic's messages must not quote values: one may be a secret in place of a path
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)


def _one(parse: Callable[[str], object], wanted: str) -> BeforeValidator:
    """`parse` reads a string; the finished value passes."""

    def read(raw: object) -> object:
        if isinstance(raw, str):
            return parse(raw)
        if raw is None or isinstance(raw, (Address, Path)):
            return raw
        raise ValueError(f"expected {wanted}")

    return BeforeValidator(read)


def _many(parse: Callable[[str], object], wanted: str) -> BeforeValidator:
    """A string or a list of strings becomes a tuple; finished items pass."""

    def read(raw: object) -> tuple[object, ...]:
        items = raw if isinstance(raw, (list, tuple)) else (raw,)
        return tuple(read_one(item) for item in items)

    def read_one(item: object) -> object:
        if isinstance(item, str):
            return parse(item)
        if isinstance(item, (Path, Version, Draft)):
            return item
        raise ValueError(f"expected {wanted} or a list of them")

    return BeforeValidator(read)


def _is_path(text: str) -> bool:
    return bool(text.strip()) and "\0" not in text


def _path(text: str, *, example: str) -> Path:
    if _is_path(text):
        return Path(text)
    raise ValueError(f"expected the path of a {example}")


_file = partial(_path, example='file, e.g. "cert.pem"')
_folder = partial(_path, example='directory, e.g. "qlog"')


def _san(text: str) -> str:
    if is_host(text.removeprefix("*.")):
        return text
    raise ValueError('expected a host name or IP address, e.g. "localhost"')


def _host(text: str) -> str:
    if is_host(text):
        return text.lower().removesuffix(".")
    raise ValueError('expected a host name without scheme and port, e.g. "relay.example.com"')


def _authority(text: str) -> str:
    if is_authority(text):
        with suppress(ValueError):  # other relays ignore it, by the same rule
            return Member.parse(text, 0).name
    raise ValueError('expected host or host:port without a scheme, e.g. "relay.example.com:4443"')


def _hop(value: int | None) -> int | None:
    if value is None or 0 < value < 1 << 62:
        return value
    raise ValueError(f"expected a whole number from 1 to {(1 << 62) - 1}, another one for each relay")


def _prefix(text: str) -> str:
    path = normalize(text)
    if path:
        return path
    raise ValueError('expected a broadcast path, e.g. "internal/origins"')


def _key_dir(text: str) -> str:
    if is_url(text):
        return key_server(text)
    if _is_path(text):
        return text
    raise ValueError('expected the path of a directory, e.g. "keys", or a URL that starts with https://')


def _public_path(text: str) -> str:
    """Check a path by the rule for paths of URLs: no client could dial another path."""
    try:
        text.encode()  # first: no message can quote half a character
        path = granted(text)
    except UnicodeEncodeError:
        raise ValueError("expected UTF-8") from None
    except PatternError as error:
        raise ValueError(f'"{short(text)}" is {error}') from None
    names = [unquote(segment) for segment in path.split("/")]
    if any(name in (".", "..") or "/" in name or "\0" in name for name in names):
        raise ValueError(
            'expected names between the slashes, e.g. "anon/demo": "." and ".." and an encoded slash never match a URL'
        )
    return path


def public_paths(raw: object) -> tuple[str, ...]:
    """A string or a list of them. `()` is the finished value for nowhere; an empty list is an oversight."""
    items = (raw,) if isinstance(raw, str) else raw
    if not isinstance(items, (list, tuple)) or not all(isinstance(item, str) for item in items):
        raise ValueError('expected a path such as "anon", or a list of them')
    if items == []:
        raise ValueError(NO_PATH)
    return minimal(map(_public_path, items))


def _path_alias(text: str) -> str:
    path = _public_path(text)
    if path:
        return path
    raise ValueError('expected another path of URLs than "/", e.g. "/moq"')


NO_PATH: Final = (
    'expected at least one path, e.g. "anon", or "" for everything; without this key nothing is public'
)


def _versions(versions: tuple[AnyVersion, ...]) -> tuple[AnyVersion, ...]:
    if versions:
        return preferred(versions)
    raise ValueError('expected at least one version, e.g. "moq-lite-06"')


def _secret(raw: object) -> object:
    if raw is None or isinstance(raw, SecretStr):
        return raw
    if isinstance(raw, str) and len(raw.encode("utf-8", "surrogateescape")) >= _SHORTEST_SECRET:
        return SecretStr(raw)
    raise ValueError(f"expected a text of {_SHORTEST_SECRET} bytes or more, e.g. from: openssl rand -hex 32")


def _lower(raw: object) -> object:
    return raw.lower() if isinstance(raw, str) else raw


Listen = Annotated[Address, _one(Address.parse, 'host:port, e.g. "[::]:443"'), Metavar("ADDRESS")]
File = Annotated[Path, _one(_file, "the path of one file"), Metavar("FILE")]
Folder = Annotated[Path, _one(_folder, "the path of a directory"), Metavar("DIR")]
Secret = Annotated[SecretStr, BeforeValidator(_secret), Metavar("TEXT")]
Files = Annotated[tuple[Path, ...], _many(_file, "the path of a file"), Metavar("FILE[,...]")]
Names = Annotated[tuple[str, ...], _many(_san, "a host name"), Metavar("NAME[,...]")]
Hosts = Annotated[tuple[str, ...], _many(_host, "a host name"), Metavar("NAME[,...]")]
Versions = Annotated[
    tuple[AnyVersion, ...],
    _many(version_from_name, "a version name"),
    AfterValidator(_versions),
    Metavar("VERSION[,...]"),
]
PathAliases = Annotated[tuple[str, ...], _many(_path_alias, "a path of URLs"), Metavar("PATH[,...]")]
PublicPaths = Annotated[tuple[str, ...], BeforeValidator(public_paths), Metavar("PATH[,...]")]
Roots = Annotated[tuple[Root, ...], BeforeValidator(parse_roots), Metavar("HOST[:PORT]|URL[,...]")]
Authority = Annotated[str, AfterValidator(_authority), Metavar("HOST[:PORT]")]
Prefix = Annotated[str, AfterValidator(_prefix), Metavar("PATH")]
HopId = Annotated[int | None, AfterValidator(_hop), Metavar("NUMBER")]
KeyDir = Annotated[str, AfterValidator(_key_dir), Metavar("DIR|URL")]
Level = Annotated[
    Literal["error", "warn", "info", "debug", "trace"], BeforeValidator(_lower), Metavar("LEVEL")
]
LogFormat = Annotated[Literal["text", "json"], BeforeValidator(_lower), Metavar("FORMAT")]


def _ranged(name: str, hint: object, ranges: Mapping[str, Range]) -> object:
    if hint not in (int, float):
        return hint
    low, high = ranges.get(name, _COUNT if hint is int else _SECONDS)

    def check(value: float) -> float:
        if low <= value <= high:
            return value
        raise ValueError(f"expected a {'whole ' if hint is int else ''}number from {low:g} to {int(high)}")

    if hint is int:
        return Annotated[hint, AfterValidator(check)]
    # all other fields are times
    return Annotated[hint, AfterValidator(check), BeforeValidator(_seconds)]


def _seconds(raw: object) -> object:
    return seconds(raw) if isinstance(raw, str) else raw


def _table_of(cls: type[Any], ranges: Mapping[str, Range]) -> BeforeValidator:
    """Read a table into `cls`, a dataclass of another room, as strictly as a `Table`."""
    hints = get_type_hints(cls)
    columns: dict[str, Any] = {
        field.name: (_ranged(field.name, hints[field.name], ranges), field.default)
        for field in dataclasses.fields(cls)
    }
    table = create_model(cls.__name__, __base__=Table, **columns)

    def read(raw: object) -> object:
        # pydantic adds the inner model's errors, with their keys, to the outer one's
        return raw if isinstance(raw, cls) else cls(**table.model_validate(raw).model_dump())

    return BeforeValidator(read)


LimitsTable = Annotated[Limits, _table_of(Limits, LIMITS_RANGES)]
QuicTable = Annotated[QuicSettings, _table_of(QuicSettings, QUIC_RANGES)]
