"""Imports inside bench, and a relay that does not start."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.contenders import CONTENDERS, ROOT, RelayFailedError, RunningRelay, free_ports

BENCH = ROOT / "bench"
WITH_CLIENTS = sorted([*(BENCH / "load").glob("*.py"), BENCH / "peer_relay.py"])
OTHERS = sorted(set(BENCH.glob("*.py")) - set(WITH_CLIENTS))


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def foreign(path: Path) -> set[str]:
    return {name for name in imported(path) if name.partition(".")[0] not in sys.stdlib_module_names}


@pytest.mark.parametrize("path", WITH_CLIENTS, ids=lambda path: path.name)
def test_the_load_runs_where_there_is_no_relay(path: Path) -> None:
    assert {name for name in foreign(path) if not name.startswith("bench.load")} <= {"moq"}


@pytest.mark.parametrize("path", OTHERS, ids=lambda path: path.name)
def test_the_runner_needs_no_library_but_for_plots(path: Path) -> None:
    allowed = {
        "plots.py": {"matplotlib", "matplotlib.pyplot"},
        "peers.py": {"tests.e2e"},
        "narrow.py": {"tests.e2e.udp_proxy"},
        "page.py": {
            "relay.client",
            "tests.e2e.browser",
            "tests.e2e.dashboard_support",
            "tests.e2e.harness",
            "tests.e2e.test_command",
        },
        "stalled.py": {
            "relay.client",
            "relay.transport.client",
            "relay.quic.settings",
            "relay.wire.version",
            "tests.e2e.pressure_support",
        },
    }
    # relays of a mesh run in the runner's process
    parts = ("bench.", "relay.") if path.name == "mesh.py" else ("bench.",)
    found = {name for name in foreign(path) if not (name == "bench" or name.startswith(parts))}
    assert found <= allowed.get(path.name, set())


def test_ports_differ() -> None:
    one, two = free_ports()
    assert one != two


@pytest.mark.e2e
async def test_a_relay_that_does_not_start_says_why() -> None:
    """There is no moq-rs here."""
    with pytest.raises(RelayFailedError, match=r"(?s)`rust` ended with status 1.*No module named 'moq'"):
        async with RunningRelay(CONTENDERS["rust"], Path(sys.executable)):
            pytest.fail("it runs")


@pytest.mark.e2e
@pytest.mark.parametrize("name", ["relay", "sources"])
async def test_our_relay_starts_and_ends(name: str) -> None:
    async with RunningRelay(CONTENDERS[name], Path(sys.executable)) as relay:
        relay.check()
        assert relay.pid
        process = relay._process
    assert process is not None
    assert process.returncode is not None
