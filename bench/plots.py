"""SVG plots of runs for light and dark pages: no background, mid-tone text. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import narrow
from bench.contenders import CONTENDERS, REFERENCE
from bench.report import FRAME, MEASURES, Results
from bench.scenarios import SERIES, Series

INK = "#7f8790"
GRID = "#7f879055"
COLOURS = {"rust": "#d9792b", "relay": "#2f8fd0", "sources": "#3aa17e"}
MARKERS = {"rust": "s", "relay": "o", "sources": "D"}
STYLE = {
    "svg.fonttype": "none",  # text stays text: a fourth of the size
    "svg.hashsalt": "moq-relay",  # reproducible files
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": GRID,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.transparent": True,
}
SOAK = (
    ("memory, MiB", {"rss": 2**-20, "cached bytes": 2**-20}),
    ("alive", {"sessions": 1.0, "actors: track": 1.0, "tasks": 1.0, "file descriptors": 1.0}),
    ("worst lag of 15 s, ms", {"lag worst": 1000.0}),
    ("cores", {"cores of the load": 1.0, "cores": 1.0, "cores of the machine": 1.0}),
)
"""The panels of a soak: label, and columns with their factors."""


class PlotsMissingError(RuntimeError):
    pass


def _library() -> tuple[Any, Any]:
    try:
        import matplotlib as mpl

        mpl.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise PlotsMissingError("no plots: matplotlib is not installed; the extra `bench` has it") from error
    return mpl, plt


def write(data: Any, folder: Path) -> list[Path]:
    """One for each measured row, and one of all ratios; returns the files."""
    mpl, plt = _library()
    results = Results(data["runs"])
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    with mpl.rc_context(STYLE):
        files += [
            _save(plt, _growth(plt, results, series), folder / f"growth-{series.name}.svg")
            for series in SERIES
            if len(results.in_series(series)) > 1
        ]
        if any(scenario.series is None for scenario in results.scenarios) and len(results.relays) > 1:
            files.append(_save(plt, _ratios(plt, results), folder / "ratios.svg"))
    return files


def write_narrow(runs: Sequence[Any], path: Path) -> None:
    """The age of each frame behind a bottleneck, one panel per relay."""
    mpl, plt = _library()
    runs = [run for run in runs if "failed" not in run]
    with mpl.rc_context(STYLE):
        figure, panels = plt.subplots(
            1, len(runs), figsize=(9.5, 3.2), layout="constrained", sharey=True, squeeze=False
        )
        for axes, run in zip(panels[0], runs, strict=True):
            at, age = zip(*run["arrivals"]["video"], strict=True)
            axes.plot(
                at,
                age,
                ".",
                color=COLOURS["relay"],
                markersize=4,
                markeredgewidth=0,
                label="video, each frame",
            )
            worst = narrow.worst(run["arrivals"]["audio"])
            axes.plot(
                worst.keys(), worst.values(), color=COLOURS["rust"], linewidth=1.2,
                label=f"audio, worst of {narrow.SLICE_S:g} s",
            )  # fmt: skip
            axes.axvline(narrow.WIDE_S, color=INK, linewidth=0.8, linestyle=":")
            axes.set_title(CONTENDERS[run["relay"]].title.replace("`", ""), color=INK)
            axes.set_xlabel("s")
            axes.set_xlim(0, run["duration"])
            axes.set_ylim(bottom=0)
        panels[0][0].set_ylabel("age of what arrives, s")
        figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
        path.parent.mkdir(parents=True, exist_ok=True)
        _save(plt, figure, path)


def soak(rows: Sequence[Mapping[str, float]], folder: Path) -> Path:
    """`soak.svg`: memory, sessions and actors, lag and cores over time."""
    mpl, plt = _library()
    with mpl.rc_context(STYLE):
        figure, panels = plt.subplots(4, 1, figsize=(9.5, 8.4), sharex=True, layout="constrained")
        minutes = [row["seconds"] / 60 for row in rows]
        for axes, (label, lines) in zip(panels, SOAK, strict=True):
            for (name, scale), colour in zip(lines.items(), COLOURS.values(), strict=False):
                values = [row.get(name, 0.0) * scale for row in rows]
                axes.plot(minutes, values, color=colour, linewidth=1.1, label=name)
            axes.set_ylim(0, axes.get_ylim()[1] * 1.2)  # room for the legend
            axes.set_ylabel(label)
            if len(lines) > 1:
                axes.legend(fontsize=8, ncols=4, loc="upper left")
        panels[-1].set_xlabel("minutes")
        received = max(row["groups received"] for row in rows)
        figure.suptitle(f"{received:,.0f} groups, sessions coming and going", color=INK)
        return _save(plt, figure, folder / "soak.svg")


def _save(plt: Any, figure: Any, path: Path) -> Path:
    figure.savefig(path, metadata={"Date": None, "Creator": None}, bbox_inches="tight")
    plt.close(figure)
    # version control complains of trailing blanks and a missing last newline
    path.write_text("\n".join(line.rstrip() for line in path.read_text().splitlines()) + "\n")
    return path


def _growth(plt: Any, results: Results, series: Series) -> Any:
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.6), layout="constrained")
    panels = (
        (left, FRAME.path, "CPU per frame and viewer, µs"),
        (right, "cores", "CPU of the whole relay, cores"),
    )
    for axes, path, label in panels:
        for relay in results.relays:
            _line(axes, results, series, relay, path)
        if axes is left:
            axes.set_xscale("log")
            ticks = [scenario.x for scenario in results.in_series(series)]
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.minorticks_off()
        else:
            axes.set_xlim(left=0)  # with twice as much for twice as many as a straight line
        axes.set_ylim(bottom=0)
        axes.set_xlabel(series.axis, fontsize=9)
        axes.set_ylabel(label)
    left.legend()
    figure.suptitle(series.title, color=INK)
    return figure


def _line(axes: Any, results: Results, series: Series, relay: str, path: str) -> None:
    points = [
        (scenario.x, found)
        for scenario in results.in_series(series)
        if (found := results.median(scenario, relay, path)) is not None
    ]
    if not points:
        return
    xs, summaries = [x for x, _ in points], [summary for _, summary in points]
    colour = COLOURS[relay]
    title = CONTENDERS[relay].title.replace("`", "")
    ys = [summary.value for summary in summaries]
    errors = [
        [summary.value - summary.low for summary in summaries],
        [summary.high - summary.value for summary in summaries],
    ]
    axes.errorbar(xs, ys, yerr=errors, color=colour, capsize=2, linewidth=1.6, label=title, zorder=2)
    for x, summary in points:
        face = "none" if summary.doubtful else colour
        axes.plot(x, summary.value, MARKERS[relay], color=colour, markerfacecolor=face, zorder=3)


def _ratios(plt: Any, results: Results) -> Any:
    others = [relay for relay in results.relays if relay != REFERENCE]
    rows = [
        (scenario, measure)
        for scenario in results.scenarios
        if scenario.series is None
        for measure in MEASURES[scenario.kind]
    ]
    figure, axes = plt.subplots(figsize=(9.5, 0.8 + 0.42 * len(rows)), layout="constrained")
    height = 0.8 / len(others)
    for i, relay in enumerate(others):
        for row, (scenario, measure) in enumerate(rows):
            found = results.ratio(scenario, relay, measure.path)
            if found is None:
                continue
            at = row + (i - (len(others) - 1) / 2) * height
            axes.barh(
                at, found.value - 1, height * 0.9, left=1, color=COLOURS[relay],
                alpha=0.45 if found.doubtful else 1.0, zorder=2,
                label=CONTENDERS[relay].title.replace("`", "") if row == 0 else None,
            )  # fmt: skip
            side = "left" if found.value >= 1 else "right"
            axes.text(found.value, at, f" {found.value:.2g} ", va="center", ha=side, fontsize=8)
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    ticks = [2.0**power for power in range(-4, 8) if low <= 2.0**power <= high * 1.1]
    axes.set_xlim(low * 0.85, high * 1.15)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.axvline(1, color=COLOURS[REFERENCE], linewidth=1.6, label=CONTENDERS[REFERENCE].title, zorder=3)
    axes.set_yticks(range(len(rows)), [f"{s.name}: {m.what}" for s, m in rows], fontsize=9)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("times the cost of the Rust core: less is better")
    figure.legend(loc="outside upper center", ncols=3)
    return figure
