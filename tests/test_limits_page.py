"""docs/limits.md against the code: every limit with its default, and counters that exist."""

from __future__ import annotations

import ast
import dataclasses
import re
from pathlib import Path
from typing import NamedTuple

from relay.actors.environment import PER_PEER, RELAY_FACTOR
from relay.model.group import FRAME_OVERHEAD
from relay.model.limits import Limits
from relay.model.pace import EPISODE
from relay.paths import MAX_SEGMENTS
from relay.quic.settings import QuicSettings
from relay.web.metrics import COUNTERS

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "limits.md").read_text()
SOURCES = "\n".join(path.read_text() for path in (ROOT / "relay").rglob("*.py"))
TRANSPORT = ("max_streams_bidi", "max_streams_uni", "stream_window", "connection_window")


UNDRIVEN = {
    "handshakes": "First packets name no protocol.",
    "handshakes_address": "First packets name no protocol.",
    "http": "TCP connections without a session.",
    "http_address": "TCP connections without a session.",
    "qlog_files": "Files of QUIC connections, whatever these carry.",
    "qlog_events": "Files of QUIC connections, whatever these carry.",
    "readers": "HTTP requests.",
    "peers": "Relays speak moq-lite to each other.",
    "close_timeout": "Sessions are over when it begins.",
}
"""Limits that no session of moq-transport can exceed, with the reason."""


class Row(NamedTuple):
    """One line of a table."""

    name: str
    default: str
    why: str
    beyond: str
    counted: str


def rows() -> list[Row]:
    lines = [line for line in PAGE.splitlines() if line.startswith("| `")]
    return [Row(*(cell.strip() for cell in line.strip("|").split("|"))) for line in lines]


def test_every_limit_has_one_row() -> None:
    names = [row.name.strip("`") for row in rows()]
    wanted = [field.name for field in dataclasses.fields(Limits)] + list(TRANSPORT)
    assert sorted(names) == sorted(wanted)


def test_defaults_and_units_are_those_of_the_code() -> None:
    fields = {field.name: field for cls in (Limits, QuicSettings) for field in dataclasses.fields(cls)}
    for row in rows():
        default = fields[row.name.strip("`")].default
        value, _, unit = row.default.partition(" ")
        assert value == f"`{default}`", row.name
        if isinstance(default, float):
            assert unit == "s", row.name
        else:
            assert isinstance(default, int)
            assert unit == ("bytes" if default > 200_000 or row.name in ("`message`", "`path`") else ""), (
                row.name
            )


def test_every_row_says_why_and_what_happens() -> None:
    for row in rows():
        assert row.why.endswith(".")
        assert row.beyond


def test_counters_exist() -> None:
    for row in rows():
        for name in re.findall(r"`([a-z_ ]+)`", row.counted):
            if name.startswith("moq_relay_"):
                assert name.removeprefix("moq_relay_").removesuffix("_total") in COUNTERS
            else:
                assert f'"{name}"' in SOURCES or f'limit = "{name}"' in SOURCES, name


def test_the_figures_of_the_text_are_those_of_the_code() -> None:
    text = " ".join(PAGE.split())
    assert f"It may have {RELAY_FACTOR} times as much" in text
    assert f"each frame counts {FRAME_OVERHEAD} bytes" in text
    assert f"More than {MAX_SEGMENTS} segments" in text
    assert EPISODE == 10.0
    assert "The first one in ten seconds of peace" in text
    (sentence,) = re.findall(r"It may have \d+ times as much of ([^.]*)\.", text)
    assert set(re.findall(r"`(\w+)`", sentence)) == PER_PEER


def driven() -> dict[str, list[str]]:
    """By limit: tests marked with it that name it in their code, too, in a value or as an argument."""
    found: dict[str, list[str]] = {}
    for file in sorted((ROOT / "tests").rglob("test_*.py")):
        if "mark.drives" not in file.read_text():
            continue
        for test in ast.walk(ast.parse(file.read_text())):
            if not isinstance(test, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            marks = [
                argument.value
                for call in test.decorator_list
                if isinstance(call, ast.Call) and ast.unparse(call.func) == "pytest.mark.drives"
                for argument in call.args
                if isinstance(argument, ast.Constant)
            ]
            code = [ast.unparse(line) for line in (*test.body, *test.decorator_list)]
            used = set(re.findall(r"\w+", "\n".join(line for line in code if "mark.drives" not in line)))
            for limit in marks:
                assert limit in used, f"{test.name} does not set {limit!r}"
                found.setdefault(str(limit), []).append(test.name)
    return found


def test_a_session_of_moq_transport_exceeds_every_limit() -> None:
    """Or the limit has no meaning for one."""
    limits = {row.name.strip("`") for row in rows()}
    assert set(driven()) | set(UNDRIVEN) == limits
    assert not set(driven()) & set(UNDRIVEN)
