"""The command `python -m bench`: selects scenarios, stores the results, prints them."""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import json
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench import narrow, plots, proc, report, stats
from bench.contenders import CONTENDERS, ROOT, RelayFailedError
from bench.peers import PeersMissingError, peer_python
from bench.runner import LoadFailedError, run
from bench.scenarios import EVERYTHING, SETS, Scenario, UnknownScenarioError, chosen

OUT = ROOT / "build" / "bench"
PAGE = ROOT / "docs" / "performance.md"
DELIVERY = ROOT / "docs" / "delivery.md"
IMAGES = ROOT / "docs" / "img"

DESCRIPTION = """\
Compares this relay, with its own and with aioquic's way of making packets, with the Rust core of moq-rs run as a
relay. All are put under the same load of native clients, in turn, on free ports of 127.0.0.1. Linux only.
"""

EPILOGUE = """\
examples:
  python -m bench run                              what `make bench` runs: a short set, two rounds
  python -m bench run video-25 --rounds 5 --relays rust,relay
  python -m bench run viewers --duration 10        a row: cost by number of viewers
  python -m bench run standard growth --rounds 3 --out all.json
  python -m bench show all.json                    the tables and plots of earlier runs again
  python -m bench docs                             runs everything and writes docs/performance.md anew
  python -m bench docs --from all.json             writes it from earlier runs
  python -m bench narrow --docs                    a viewer behind a narrow line, for docs/delivery.md
"""


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m bench",
        description=DESCRIPTION,
        epilog=EPILOGUE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", required=True)
    runs = commands.add_parser("run", help="run scenarios and print what they cost")
    runs.add_argument("names", nargs="*", metavar="NAME", help="scenarios or sets, by default `short`")
    _how(runs, rounds=2)
    runs.add_argument(
        "--out",
        type=Path,
        default=OUT / "latest.json",
        help="file for all runs, plots beside it [%(default)s]",
    )
    runs.add_argument("--add", action="store_true", help="keep the runs that are in the file")
    shows = commands.add_parser("show", help="print the tables of a file and draw its plots")
    shows.add_argument("file", type=Path, nargs="?", default=OUT / "latest.json")
    docs = commands.add_parser(
        "docs", help="measure for docs/performance.md and write tables and plots into it"
    )
    docs.add_argument("names", nargs="*", metavar="NAME", help="by default all: `standard growth`")
    _how(docs, rounds=3)
    docs.add_argument("--out", type=Path, default=OUT / "docs.json", help="file for all runs [%(default)s]")
    docs.add_argument("--add", action="store_true", help="keep the runs that are in the file")
    docs.add_argument("--from", dest="source", type=Path, metavar="FILE", help="run nothing, take these runs")
    narrows = commands.add_parser(
        "narrow", help="what a viewer gets whose line carries half of what he watches"
    )
    narrows.add_argument(
        "--relays", default="rust,relay,sources", help=f"some of {','.join(CONTENDERS)} [%(default)s]"
    )
    narrows.add_argument("--duration", type=float, default=20.0, help="seconds for each relay [%(default)s]")
    narrows.add_argument("--docs", action="store_true", help="write table and plot into docs/delivery.md")
    commands.add_parser("list", help="list sets and scenarios")
    return top


def _how(command: argparse.ArgumentParser, *, rounds: int) -> None:
    command.add_argument("--rounds", type=int, default=rounds, help="times that each is run [%(default)s]")
    command.add_argument(
        "--duration", type=float, help="seconds of each measurement, instead of the scenario's"
    )
    command.add_argument(
        "--relays",
        help=f"some of {','.join(CONTENDERS)}; by default all but `sources`",
    )
    command.add_argument("--processes", type=int, default=2, help="processes of viewers [%(default)s]")


class Store:
    """The file of results, written after each run: an interrupted benchmark loses nothing."""

    def __init__(self, path: Path, *, keep: bool) -> None:
        self._path = path
        self.data: dict[str, Any] = {
            "date": dt.datetime.now(dt.UTC).date().isoformat(),
            "version": _version(),
            "machine": proc.machine(),
            "machine_cores": 0.0,
            "runs": [],
        }
        if keep and path.exists():
            self.data["runs"] = json.loads(path.read_text())["runs"]
        self.rounds = 1 + max((run["round"] for run in self.data["runs"]), default=-1)

    def add(self, result: dict[str, Any]) -> None:
        runs = self.data["runs"]
        runs.append(result)
        busy = [run["machine_cores"] for run in runs if "machine_cores" in run]
        self.data["machine_cores"] = round(statistics.mean(busy), 2) if busy else 0.0
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps(self.data, indent=1) + "\n")


def _version() -> str:
    """The measured commit, with `+` if files differ from it."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip()


def contenders_for(asked: Sequence[str] | None) -> list[str]:
    """The relays for a scenario: the requested ones, else all but the slow one."""
    return [name for name in CONTENDERS if name != "sources"] if asked is None else list(asked)


async def measure(arguments: argparse.Namespace, scenarios: Sequence[Scenario], store: Store) -> None:
    """Relay after relay, round after round; failed runs are printed, stored and not counted."""
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGHUP):  # so that they, too, end their processes
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    python = peer_python()
    asked = arguments.relays.split(",") if arguments.relays else None
    if arguments.duration:
        scenarios = [replace(scenario, duration=arguments.duration) for scenario in scenarios]
    jobs = [
        (store.rounds + i, scenario, relay)
        for i in range(arguments.rounds)
        for scenario in scenarios
        for relay in contenders_for(asked)
    ]
    begin = time.monotonic()
    for done, (round_, scenario, relay) in enumerate(jobs):
        version = store.data["version"]
        kept = {"round": round_, "scenario": scenario.name, "relay": relay, "version": version}
        try:
            result = await run(CONTENDERS[relay], scenario, python, arguments.processes)
        except (LoadFailedError, RelayFailedError) as error:
            print(f"{scenario.name} {relay}: {error}", file=sys.stderr)
            result = {"failed": str(error).partition("\n")[0].removesuffix("; its last lines:").rstrip(":")}
        store.add(kept | result)
        left = (time.monotonic() - begin) / (done + 1) * (len(jobs) - done - 1)
        print(
            f"{done + 1:3}/{len(jobs)} {scenario.name:20} {relay:6} {in_short(scenario, result)}"
            f"  [{left / 60:.0f} min left]",
            flush=True,
        )


def in_short(scenario: Scenario, result: dict[str, Any]) -> str:
    if "failed" in result:
        return f"failed: {result['failed']}"
    words = []
    for measure_ in report.MEASURES[scenario.kind]:
        value = stats.lookup(result, measure_.path)
        if value is not None:
            words.append(f"{measure_.what} {report.number(value * measure_.scale)} {measure_.unit}")
    mark = stats.marks([result])
    return ", ".join([*words, f"NOT GOOD: {mark}"] if mark else words)


def show(data: dict[str, Any], folder: Path) -> None:
    print()
    for name, text in report.blocks(data).items():
        print(f"## {name}\n\n{report.aligned(text)}\n")
    print("`?`: no run without loss or delay; such runs are left out of the medians where there are others.")
    try:
        files = plots.write(data, folder)
    except plots.PlotsMissingError as error:
        print(error)
    else:
        print("\n".join(["plots:", *(f"  {_relative(path)}" for path in files)]))


def _relative(path: Path) -> Path:
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


def write_docs(data: dict[str, Any]) -> None:
    PAGE.write_text(report.fill(PAGE.read_text(), report.blocks(data)))
    files = plots.write(data, IMAGES)
    print("\n".join(["written:", *(f"  {_relative(path)}" for path in [PAGE, *files])]))


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    try:
        return _do(arguments)
    except (UnknownScenarioError, PeersMissingError, plots.PlotsMissingError, FileNotFoundError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("bench: interrupted; what was run is kept", file=sys.stderr)
        return 130


def _do(arguments: argparse.Namespace) -> int:
    if arguments.command == "list":
        for name, scenarios in SETS.items():
            print(f"{name}: {' '.join(scenario.name for scenario in scenarios)}")
        print("\n".join(["", *(f"{scenario.name:22} {scenario.title}" for scenario in EVERYTHING.values())]))
        return 0
    if arguments.command == "show":
        show(json.loads(arguments.file.read_text()), arguments.file.parent)
        return 0
    if arguments.command == "docs" and arguments.source is not None:
        write_docs(json.loads(arguments.source.read_text()))
        return 0
    unknown = set((arguments.relays or "").split(",")) - {"", *CONTENDERS}
    if unknown:
        print(
            f"bench: no relay {', '.join(sorted(unknown))}; there are {', '.join(CONTENDERS)}",
            file=sys.stderr,
        )
        return 2
    if arguments.command == "narrow":
        return asyncio.run(_narrow(arguments))
    return _measure_and_tell(arguments)


async def _narrow(arguments: argparse.Namespace) -> int:
    python = peer_python()
    runs = []
    for relay in arguments.relays.split(","):
        try:
            result = await narrow.run(CONTENDERS[relay], python, arguments.duration)
        except (LoadFailedError, RelayFailedError) as error:
            print(f"narrow {relay}: {error}", file=sys.stderr)
            result = {"failed": str(error).partition("\n")[0]}
        runs.append({"relay": relay, **result})
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "narrow.json").write_text(json.dumps(runs) + "\n")
    text = narrow.table(runs)
    print(f"\n{report.aligned(text)}\n")
    folder = IMAGES if arguments.docs else OUT
    plots.write_narrow(runs, folder / "narrow.svg")
    if arguments.docs:
        DELIVERY.write_text(report.fill(DELIVERY.read_text(), {"narrow": text}))
    print(f"plot: {_relative(folder / 'narrow.svg')}")
    return 1 if any("failed" in run for run in runs) else 0


def _measure_and_tell(arguments: argparse.Namespace) -> int:
    if not proc.supported():
        print("bench: the relay's processor time is read from /proc: this needs Linux", file=sys.stderr)
        return 2
    usual = ["short"] if arguments.command == "run" else ["standard", "growth"]
    scenarios = chosen(arguments.names or usual)
    store = Store(arguments.out, keep=arguments.add)
    asyncio.run(measure(arguments, scenarios, store))
    if arguments.command == "docs":
        write_docs(store.data)
    else:
        show(store.data, arguments.out.parent)
    print(f"all runs: {_relative(arguments.out.resolve())}")
    return 1 if all("failed" in run for run in store.data["runs"]) else 0


if __name__ == "__main__":
    sys.exit(main())
