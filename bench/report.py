"""Markdown tables of runs, and their insertion into a page."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench import stats
from bench.contenders import CONTENDERS, REFERENCE
from bench.scenarios import EVERYTHING, SERIES, Kind, Scenario, Series
from bench.stats import Run, Summary

OURS = "relay"


@dataclass(frozen=True)
class Measure:
    """A cost by which relays are compared: less is better."""

    path: str
    what: str
    unit: str
    scale: float = 1.0


FRAME = Measure("us_per_frame", "CPU per frame and viewer", "us")
MEASURES = {
    Kind.STREAM: (FRAME,),
    Kind.BULK: (FRAME,),
    Kind.IDLE: (
        Measure("bytes_per_viewer", "memory per viewer", "KiB", 1 / 1024),
        Measure("us_per_viewer_s", "CPU per viewer and second", "us"),
    ),
    Kind.CONNECT: (Measure("ms_per_connect", "CPU per connect", "ms"),),
    Kind.LATE: (Measure("latency_ms.p50", "time to the first frame", "ms"),),
}


class Results:
    """The runs of a file, by scenario and relay."""

    def __init__(self, runs: Iterable[Run]) -> None:
        self._runs: dict[tuple[str, str], list[Run]] = {}
        for run in runs:
            self._runs.setdefault((run["scenario"], run["relay"]), []).append(run)
        names = {name for name, _ in self._runs}
        self.scenarios = [scenario for name, scenario in EVERYTHING.items() if name in names]
        self.relays = [name for name in CONTENDERS if any(relay == name for _, relay in self._runs)]

    def of(self, scenario: str, relay: str) -> list[Run]:
        """In order."""
        return self._runs.get((scenario, relay), [])

    def median(self, scenario: Scenario, relay: str, path: str) -> Summary | None:
        """`stats.median` of them."""
        return stats.median(self.of(scenario.name, relay), path)

    def ratio(self, scenario: Scenario, relay: str, path: str) -> Summary | None:
        """`stats.ratio` of them, over the reference."""
        return stats.ratio(self.of(scenario.name, relay), self.of(scenario.name, REFERENCE), path)

    def marks(self, scenario: Scenario) -> str:
        """Relays with bad runs."""
        words = [
            (CONTENDERS[relay].title, stats.marks(self.of(scenario.name, relay))) for relay in self.relays
        ]
        return "; ".join(f"{title}: {mark}" for title, mark in words if mark)

    def in_series(self, series: Series) -> list[Scenario]:
        """The measured scenarios of a row."""
        return [scenario for scenario in self.scenarios if scenario.series == series.name]


def number(value: float) -> str:
    """With three significant digits."""
    if value == 0:
        return "0"
    if abs(value) >= 99.95:  # 99.95 is written as 100
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 9.995 else f"{value:.2f}"


def with_spread(summary: Summary | None, scale: float = 1.0) -> str:
    """A number with its least and greatest of several; `?` marks a doubtful one."""
    if summary is None:
        return ""
    doubt = " ?" if summary.doubtful else ""
    text = number(summary.value * scale)
    if summary.count == 1:
        return f"{text}{doubt}"
    return f"{text} ({number(summary.low * scale)} to {number(summary.high * scale)}){doubt}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; empty without rows."""
    rows = list(rows)
    if not rows:
        return ""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def aligned(text: str) -> str:
    """Pad the columns of tables for terminals."""
    if not text.startswith("|"):
        return text
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        fill_with = "-" if set("".join(row)) == {"-"} else " "
        cells = (cell.ljust(width, fill_with) for cell, width in zip(row, widths, strict=True))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def ratios(results: Results) -> str:
    """The cost of the reference, and the others as multiples of it, by scenario."""
    others = [relay for relay in results.relays if relay != REFERENCE]
    head = ["scenario", f"{CONTENDERS[REFERENCE].title}"]
    head += [f"{CONTENDERS[relay].title}, times that" for relay in others]
    rows = []
    for scenario in results.scenarios:
        if scenario.series is not None:
            continue
        for measure in MEASURES[scenario.kind]:
            base = results.median(scenario, REFERENCE, measure.path)
            found = [results.ratio(scenario, relay, measure.path) for relay in others]
            count = max((summary.count for summary in found if summary is not None), default=0)
            cost = "" if base is None else f"{with_spread(base, measure.scale)} {measure.unit}"
            rows.append(
                [
                    f"{scenario.title}: {measure.what}",
                    cost,
                    *(with_spread(summary) for summary in found),
                    str(count),
                    results.marks(scenario),
                ]
            )
    return table([*head, "n", "runs left out or doubtful"], rows)


def latencies(results: Results) -> str:
    """Latency of frames, and CPU of the whole relay, by scenario."""
    head = ["scenario"]
    for relay in results.relays:
        title = CONTENDERS[relay].title
        head += [f"{title}: ms, median / p99", "cores", "peak MiB"]
    rows = []
    for scenario in results.scenarios:
        if scenario.series is not None or scenario.kind is Kind.IDLE:
            continue
        row = [scenario.title]
        for relay in results.relays:
            p50 = results.median(scenario, relay, "latency_ms.p50")
            p99 = results.median(scenario, relay, "latency_ms.p99")
            cores = results.median(scenario, relay, "cores")
            peak = results.median(scenario, relay, "peak_memory")
            if p50 is None or p99 is None:
                row.append("")
            else:
                row.append(f"{number(p50.value)} / {number(p99.value)}{' ?' if p50.doubtful else ''}")
            row.append("" if cores is None else f"{cores.value:.2f}")
            row.append("" if peak is None else f"{peak.value / 2**20:.0f}")
        rows.append(row)
    return table(head, rows)


def growth(results: Results, series: Series) -> str:
    """The cost of a frame along a row."""
    scenarios = results.in_series(series)
    relays = [relay for relay in results.relays if any(results.of(s.name, relay) for s in scenarios)]
    head = [series.axis]
    for relay in relays:
        head.append(f"{CONTENDERS[relay].title}: us per frame and viewer")
        if relay != REFERENCE and REFERENCE in relays:
            head.append("times")
        head += ["cores", "median ms"]
    rows = []
    for scenario in scenarios:
        row = [f"{scenario.x:g}"]
        for relay in relays:
            cores = results.median(scenario, relay, "cores")
            delay = results.median(scenario, relay, "latency_ms.p50")
            row.append(with_spread(results.median(scenario, relay, FRAME.path)))
            if relay != REFERENCE and REFERENCE in relays:
                row.append(with_spread(results.ratio(scenario, relay, FRAME.path)))
            row.append("" if cores is None else f"{cores.value:.2f}")
            row.append("" if delay is None else number(delay.value))
        rows.append([*row, results.marks(scenario)])
    return table([*head, "runs left out or doubtful"], rows)


def capacity(results: Results) -> str:
    """Costs as capacity per core. Omits what was not measured."""
    relays = [relay for relay in (REFERENCE, OURS) if relay in results.relays]
    rows = []
    fullest = {relay: _fullest(results, relay) for relay in relays}
    if any(fullest.values()):
        rows.append(
            [
                "viewers of one 2 Mbit/s video per core, by the cost of",
                *(
                    "" if found is None else f"{found[0] / found[1]:.0f} (measured with {found[0]:g})"
                    for found in fullest.values()
                ),
            ]
        )
    for scenario in results.scenarios:
        for path, what, turn in _PLANNING.get(scenario.kind, ()):
            if scenario.series is None and not scenario.concurrent:
                found_of = [results.median(scenario, relay, path) for relay in relays]
                rows.append([what, *("" if found is None else turn(found.value) for found in found_of)])
    return table(["", *(CONTENDERS[relay].title for relay in relays)], rows)


def _fullest(results: Results, relay: str) -> tuple[float, float] | None:
    """The largest number of viewers served well, and its cores."""
    for scenario in reversed(results.in_series(SERIES[0])):
        cores = results.median(scenario, relay, "cores")
        if cores is not None and not cores.doubtful:
            return scenario.x, cores.value
    return None


_PLANNING = {
    Kind.IDLE: (
        ("bytes_per_viewer", "memory per further viewer, KiB", lambda value: number(value / 1024)),
        (
            "us_per_viewer_s",
            "idle viewers per core, by CPU",
            lambda value: f"{1e6 / value:.0f}" if value else "",
        ),
    ),
    Kind.CONNECT: (("ms_per_connect", "connects per second and core", lambda value: number(1000 / value)),),
    Kind.BULK: (("mbit_s", "one viewer alone at most, Mbit/s", number),),
}


def setting(data: Mapping[str, Any]) -> str:
    """Place and time of the measurement."""
    machine = data["machine"]
    runs = len(data["runs"])
    versions = " and ".join(dict.fromkeys(run.get("version", data["version"]) for run in data["runs"]))
    return (
        f"Measured on {data['date']}, version {versions}: {machine['cores']} cores of {machine['processor']}, "
        f"{machine['system']}, Python {machine['python']}; {runs} runs, on average "
        f"{number(data['machine_cores'])} cores of the machine busy."
    )


def blocks(data: Mapping[str, Any]) -> dict[str, str]:
    """The parts of the report, by name."""
    results = Results(data["runs"])
    parts = {
        "setting": setting(data),
        "ratios": ratios(results),
        "latencies": latencies(results),
        "capacity": capacity(results),
        **{f"growth-{series.name}": growth(results, series) for series in SERIES},
    }
    return {name: text for name, text in parts.items() if text}


def fill(page: str, parts: Mapping[str, str]) -> str:
    """Insert the parts between their marks in a page; other marks stay."""

    def put(found: re.Match[str]) -> str:
        name = found["name"]
        return f"<!-- bench:{name} -->\n{parts[name]}\n<!-- /bench -->" if name in parts else found[0]

    return re.sub(r"<!-- bench:(?P<name>[a-z-]+) -->\n.*?<!-- /bench -->", put, page, flags=re.DOTALL)
