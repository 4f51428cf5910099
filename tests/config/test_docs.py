"""docs/config.md lists every key, option and range."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from relay.config import (
    Limits,
    QuicSettings,
)
from relay.config.tables import OPTIONS
from relay.config.values import QUIC_RANGES
from relay.wire.version import ALL_VERSIONS
from tests.config.support import (
    ROOT,
)


def sections() -> dict[str, list[list[str]]]:
    """Cells of the tables by section."""
    found: dict[str, list[list[str]]] = {}
    rows: list[list[str]] = []
    for line in (ROOT / "docs" / "config.md").read_text().splitlines():
        if line.startswith("## "):
            rows = found.setdefault(line.strip("# `[]"), [])
        elif line.startswith("| `"):
            rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return found


def test_documentation_lists_every_option() -> None:
    documented = sections()
    for option in OPTIONS:
        names = [option.keys[-1], *option.aliases]
        keys, flags, env = (
            ", ".join(f"`{name}`" for name in group) for group in (names, option.flags, option.env)
        )
        plain = option.default in (None, (), ALL_VERSIONS)
        default = option.default_text if plain else f"`{option.default_text}`"
        [row] = [row for row in documented[option.table] if row[0] == keys]
        assert row[1:4] == [flags, env, default]
        assert row[4].replace("`", "").lower() == option.help.lower()
    assert sum(
        len(rows) for table, rows in documented.items() if table not in ("limits", "server.quic")
    ) == len(OPTIONS)


def toml_text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


@pytest.mark.parametrize("table, cls", [("limits", Limits), ("server.quic", QuicSettings)])
def test_documentation_lists_every_field(table: str, cls: type[Any]) -> None:
    rows = {row[0]: row[1] for row in sections()[table]}
    assert rows == {f"`{field.name}`": f"`{toml_text(field.default)}`" for field in dataclasses.fields(cls)}


def test_documentation_gives_the_ranges_of_quic() -> None:
    rows = {row[0].strip("`"): row[2] for row in sections()["server.quic"]}
    for name, (low, high) in QUIC_RANGES.items():
        assert rows[name] == f"{low:g} to {high:.0f}"
