"""Files, environments and flags for configuration tests, and their messages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from relay.config import (
    Config,
    ConfigError,
    Public,
    load,
)

ROOT = Path(__file__).parent.parent.parent

MINIMAL = {"server.tls.generate": '"localhost"', "auth.public": '"anon"'}
"""The least that can be started."""

JOINING = MINIMAL | {"cluster.token": '"a.pem"'}
"""The least for a relay that joins a cluster, without its root."""

EVERYTHING = Public(subscribe=("",), publish=("",))

DURATION = 'expected a number of seconds, or a duration such as "10s", "500ms" or "1m30s"'


def written(keys: Mapping[str, str], name: str = "test.toml") -> str:
    """A file of dotted keys and TOML values; returns its name."""
    tables: dict[str, list[str]] = {}
    for path, value in keys.items():
        table, _, key = path.rpartition(".")
        tables.setdefault(table, []).append(f"{key} = {value}")
    text = "\n".join(tables.pop("", []))
    text += "".join(f"\n[{table}]\n" + "\n".join(rows) + "\n" for table, rows in tables.items())
    Path(name).write_text(text)
    return name


def get(config: Config, path: str) -> object:
    value: Any = config
    for key in path.split("."):
        value = None if value is None else getattr(value, key)
    return value


def problems(
    file: str | None = None, flags: Iterable[tuple[str, str]] = (), environ: Mapping[str, str] | None = None
) -> list[str]:
    """The messages of `load`."""
    with pytest.raises(ConfigError) as caught:
        load(file, flags, environ or {})
    return list(caught.value.problems)


def complaint(keys: dict[str, str], **more: Any) -> str:
    """The only problem of a file that would be right without `keys`."""
    found = problems(written(MINIMAL | keys), **more)
    assert len(found) == 1, found
    return found[0]


def public(toml: str | None = None, environ: Mapping[str, str] | None = None, **flags: str) -> Public | None:
    """The result of `public = toml` in the file and flags such as `public_subscribe`."""
    keys = {"server.tls.generate": '"localhost"', "auth.key": '"root.jwk"'}
    file = written(keys if toml is None else keys | {"auth.public": toml})
    pairs = [(f"--auth-{name.replace('_', '-')}", text) for name, text in flags.items()]
    return load(file, pairs, environ or {}).auth.public
