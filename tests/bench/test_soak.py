"""The soak's arithmetic, its load's imports, and a soak of some seconds."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest

from bench.contenders import ROOT
from bench.soak import __main__ as command
from bench.soak import verdict
from bench.soak.samples import Row, row_of
from tests.bench.test_rooms import foreign

MIB = 1024 * 1024
QUIET: Row = {
    **row_of(""),
    "actors: origin": 1.0,
    "tasks": 5.0,
    "seconds": 0.0,
    "rss": 70.0 * MIB,
    "cores": 0.5,
    "cores of the load": 0.5,
    "cores of the machine": 1.0,
    "delay <= 0.01": 0.0,
    "delay <= 0.02": 0.0,
    "delay <= +Inf": 0.0,
}
COUNTS = {"sessions": 100, "sessions over quic": 50}


def run(growth: float = 0.0, slow: int = 0, **fields: float) -> list[Row]:
    """Ten minutes: `growth` bytes a second after a steep warm-up, noise, `slow` of a thousand samples above 20 ms."""
    noise = random.Random(1)
    return [
        QUIET
        | {
            "seconds": float(second),
            "rss": (80 - 10 * math.exp(-second / 30)) * MIB + growth * second + noise.gauss(0, MIB / 2),
            "delay <= 0.01": 500.0 * second,
            "delay <= 0.02": (1000.0 - slow) * second,
            "delay <= +Inf": 1000.0 * second,
            **fields,
        }
        for second in range(600)
    ]


def bad(
    rows: list[Row], rest: Row = QUIET, counts: dict[str, int] = COUNTS, faults: tuple[str, ...] = ()
) -> set[str]:
    found = verdict.judge(rows, QUIET, rest, counts, faults)
    assert all(finding.text for finding in found)
    return {finding.what for finding in found if finding.good is False}


def test_a_relay_that_is_flat_is_good() -> None:
    assert bad(run()) == set()


def test_a_leak_is_seen_through_noise() -> None:
    assert bad(run(growth=12_000)) == {"memory"}


def test_a_peak_is_no_leak() -> None:
    rows = run()
    for row in rows[450:480]:
        row["rss"] += 50 * MIB
    assert bad(rows) == set()


@pytest.mark.parametrize(
    "name", ["sessions", "quic connections", "tracks", "cached bytes", "tasks", "file descriptors"]
)
def test_what_stays_is_named(name: str) -> None:
    assert bad(run(), rest=QUIET | {name: QUIET[name] + 1}) == {name}


def test_an_actor_that_stays_is_named_by_its_kind() -> None:
    assert bad(run(), rest=QUIET | {"actors: track": 1.0}) == {"actors: track"}
    assert bad(run(), rest=QUIET | {"inbox": 3.0}) == {"messages waiting for one actor"}


def test_lag_counts_unless_others_take_the_machine() -> None:
    assert bad(run(slow=9)) == set()
    assert bad(run(slow=11)) == {"lag of the event loop"}
    assert bad(run(slow=11, **{"cores of the machine": 1.8})) == set()


def test_sessions_that_fail_and_faults_count() -> None:
    assert bad(run(), counts={}) == {"sessions"}
    assert bad(run(), counts={**COUNTS, "sessions that did not begin over quic": 2}) == {"sessions"}
    assert bad(run(), counts={**COUNTS, "sessions that did not begin on a slow line": 9}) == set()
    assert bad(run(), faults=("ERROR here",)) == {"faults"}


def test_quantiles_are_those_between_two_rows() -> None:
    before = {"delay <= 0.01": 100.0, "delay <= 0.02": 100.0, "delay <= +Inf": 100.0}
    after = {"delay <= 0.01": 150.0, "delay <= 0.02": 190.0, "delay <= +Inf": 200.0}
    assert verdict.quantile(before, after, 0.5) == pytest.approx(0.01)
    assert verdict.quantile(before, after, 0.7) == pytest.approx(0.015)
    assert verdict.quantile(before, after, 0.99) == math.inf
    assert verdict.quantile(after, after, 0.99) == 0.0


def test_rows_add_up_what_labels_tell_apart() -> None:
    row = row_of(
        "# TYPE moq_relay_sessions gauge\n"
        'moq_relay_sessions{transport="quic",version="moq-lite-04"} 2.0\n'
        'moq_relay_sessions{transport="websocket",version="moq-lite-04"} 1.0\n'
        'moq_relay_actors{kind="track"} 7.0\n'
        'moq_relay_event_loop_delay_seconds_bucket{le="+Inf"} 9.0\n'
        "process_open_fds 18.0\n"
    )
    assert (row["sessions"], row["actors: track"], row["delay <= +Inf"]) == (3, 7, 9)
    assert (row["file descriptors"], row["tracks"]) == (18, 0)


def test_paths_and_publishers_are_shared_out() -> None:
    class Anywhere:
        port = internal = 1

    arguments = command.parser().parse_args(["--sessions", "50", "--native", "4", "--processes", "2"])
    jobs = command.jobs(arguments, Anywhere())  # type: ignore[arg-type]
    assert sum(job["sessions"] for job in jobs) == 46
    assert {path for job in jobs for path in job["own"]} | {"soak/native"} == set(jobs[0]["paths"])
    assert all(1 <= len(job["own"]) < job["publishers"] < job["sessions"] for job in jobs)


SOAK = sorted((ROOT / "bench" / "soak").glob("*.py"))


@pytest.mark.parametrize("path", SOAK, ids=lambda path: path.name)
def test_the_soak_sees_the_relay_from_outside(path: Path) -> None:
    allowed = {
        "crowd.py": {"aiohttp", "relay.transport.client", "relay.quic.trust", "tests.e2e.harness"},
        "line.py": set(),
    }.get(path.name, set())
    clients = {"relay.client", "relay.wire.version", "tests.e2e.udp_proxy"}
    found = {name for name in foreign(path) if name.partition(".")[0] != "bench"}
    assert found <= allowed | clients


@pytest.mark.e2e
def test_a_soak_of_some_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is too short to judge memory."""
    monkeypatch.setattr(command, "QUIET_S", 0.0)
    words = ["--groups", "300", "--sessions", "12", "--native", "0", "--processes", "1"]
    words += ["--rate", "2000", "--unclean", "0", "--out", str(tmp_path)]
    command.main(words)
    found = json.loads((tmp_path / "verdict.json").read_text())
    judged = {finding["what"]: finding for finding in found["findings"]}
    wrong = {what for what, finding in judged.items() if finding["good"] is False}
    assert wrong <= {"memory", "lag of the event loop"}, [judged[what]["text"] for what in wrong]
    assert found["groups received"] >= 300
    assert (tmp_path / "rows.csv").read_text().count("\n") > 2
