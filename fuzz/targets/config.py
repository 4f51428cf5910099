"""Input of operators and cluster members: configuration, addresses, URLs, times."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from fuzz.source import Source
from relay.auth.tool_times import moment_of
from relay.config import Address, ConfigError, load
from relay.config.tables import OPTIONS
from relay.config.url import is_url, key_server, redacted
from relay.config.wording import SCHEMA
from relay.model.member import Member, authority_of, same_host
from relay.model.path import normalize
from relay.transport.client import ConnectError, _parse
from relay.web.fetching import BadQueryError, candidates, reading_of

TABLES = tuple(SCHEMA)
VALUES = ("true", "false", "0", "1", "-1", "1e400", "nan", '""', '"a"', "[]", '[""]', '["a", "b"]', "{}", "{a = 1}",
          '"[::]:443"', '"localhost:0"', '":4443"', '"https://keys.example.com/a"', '"http://x"', "1979-05-27",
          '"/nowhere/at/all"', "0x7fffffffffffffff", "07:32:00", "''", '"\\u0000"', "3.5", "99999999999999999999")  # fmt: skip
NAMES = [option.env[0] for option in OPTIONS if option.env]
FLAGS = [option.flags[0] for option in OPTIONS if option.flags]


@functools.cache
def folder() -> Path:
    made = Path(tempfile.mkdtemp(prefix="moq-relay-fuzz-"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


def toml(source: Source) -> str:
    """A file of mostly known tables and keys."""
    lines = []
    for _ in range(source.byte() % 5):
        table = source.pick(TABLES)
        lines.append(f"[{'.'.join(table) or 'server'}]" if source.byte() % 8 else f"[{source.text(12)}]")
        for _ in range(source.byte() % 4):
            name = source.pick(SCHEMA[table]) if source.byte() % 8 else source.text(8)
            value = source.pick(VALUES) if source.byte() % 4 else source.text()
            lines.append(f"{name} = {value}")
    return "\n".join(lines)


def loading(data: bytes) -> None:
    """File, environment and flags: a configuration, or ConfigError."""
    source = Source(data)
    kind = source.byte() % 4
    environ = {source.pick(NAMES): source.text() for _ in range(source.byte() % 3)} if kind else {}
    flags = [(source.pick(FLAGS), source.text()) for _ in range(source.byte() % 3)] if kind else []
    file = folder() / "relay.toml"
    content = source.rest() if kind < 2 else toml(source).encode("utf-8", "surrogateescape")
    file.write_bytes(content)
    try:
        load(file, flags, environ)
    except ConfigError as error:
        assert error.problems
        assert all(problem.strip() for problem in error.problems)


def texts(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    with suppress(ValueError):
        address = Address.parse(text)
        assert Address.parse(str(address)) == address
    with suppress(ValueError):
        url = key_server(text)
        assert is_url(url)
        assert key_server(url) == url
    assert isinstance(redacted(text), str)
    with suppress(ValueError):
        member = Member.parse(text, 1)
        authority_of(member.name)
        assert same_host(member.name, member.name)
    with suppress(ValueError):
        moment_of(text, 1_700_000_000.0)
    with suppress(ConnectError):
        _parse(text)
    query: dict[str, Any] = dict(part.partition("=")[::2] for part in text.split("&"))
    with suppress(BadQueryError):
        reading_of([("a", "b")], query)
    for broadcast, track in candidates(text, None):
        assert broadcast
        assert track
        assert normalize(text).startswith(broadcast)


TARGETS = {"config-load": loading, "config-texts": texts}
