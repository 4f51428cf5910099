"""The command `python -m bench.soak`: runs the load against a fresh relay, stores the rows, evaluates them."""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import re
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from bench import plots, proc
from bench.contenders import CONTENDERS, ROOT, RelayFailedError, RunningRelay
from bench.peers import PeersMissingError, peer_python
from bench.runner import Load, LoadFailedError, spread, start_load
from bench.soak import verdict
from bench.soak.samples import LEFTOVERS, Row, Sampler

OUT: Final = ROOT / "build" / "soak"
PUBLISHERS: Final = 0.25
"""Share of publishing sessions, two tracks each; a quarter of them on another one's path."""

QUIET_S: Final = 3.0
"""Before the load, to record the relay at rest."""

REST_S: Final = 60.0
"""After the load, until everything must be gone: longer than any default time-out of the relay."""

TELL_S: Final = 30.0
TROUBLE: Final = re.compile(r"^\S+ ERROR .*|^Traceback.*", re.MULTILINE)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m bench.soak",
        description="Lets sessions of every kind come and go for a long time, and fails if anything of them stays in"
        " the relay. Linux only.",
    )
    top.add_argument(
        "--groups", type=float, default=500_000, help="groups that the relay is to receive [%(default)s]"
    )
    top.add_argument("--hours", type=float, help="end after so long instead")
    top.add_argument("--sessions", type=int, default=50, help="at the same time [%(default)s]")
    top.add_argument("--native", type=int, default=4, help="of them of moq-rs; 0 needs none [%(default)s]")
    top.add_argument(
        "--rate", type=float, default=700, help="groups per second of all publishers [%(default)s]"
    )
    top.add_argument("--processes", type=int, default=2, help="processes of the load [%(default)s]")
    top.add_argument(
        "--unclean", type=float, default=0.25, help="share of sessions that end without a word [%(default)s]"
    )
    top.add_argument(
        "--seed", type=int, default=1, help="of every choice; what comes of it differs [%(default)s]"
    )
    top.add_argument("--relay", choices=["relay", "sources"], default="relay", help="[%(default)s]")
    top.add_argument("--out", type=Path, default=OUT, help="folder of rows, verdict and plot [%(default)s]")
    return top


def jobs(arguments: argparse.Namespace, relay: RunningRelay) -> list[dict[str, Any]]:
    """Every process knows every path."""
    shares = spread(max(1, arguments.sessions - arguments.native), arguments.processes)
    publishers = [max(1, round(share * PUBLISHERS)) for share in shares]
    own = [
        [f"soak/{number}/{i}" for i in range(max(1, count * 3 // 4))]
        for number, count in enumerate(publishers)
    ]
    paths = [path for each in own for path in each] + (["soak/native"] if arguments.native else [])
    common = {"rate": arguments.rate / (2 * len(paths)), "paths": paths, "unclean": arguments.unclean}
    return [
        {
            **common, "seed": arguments.seed * 1000 + number, "number": number, "sessions": share,
            "publishers": count, "own": mine, "port": relay.port, "internal": relay.internal,
        }
        for number, (share, count, mine) in enumerate(zip(shares, publishers, own, strict=True))
    ]  # fmt: skip


@asynccontextmanager
async def load_on(arguments: argparse.Namespace, relay: RunningRelay) -> AsyncIterator[list[Load]]:
    todo = jobs(arguments, relay)
    async with AsyncExitStack() as stack:
        loads = [await start_load(Path(sys.executable), "bench.soak.crowd", job) for job in todo]
        if arguments.native:
            job = {
                **todo[0],
                "role": "guests",
                "url": relay.url,
                "own": "soak/native",
                "sessions": arguments.native,
            }
            loads.append(await start_load(peer_python(), "bench.load", job))
        for load in loads:
            stack.push_async_callback(load.close)
        for load in loads:
            await load.hear("ready")
        yield loads


async def soak(arguments: argparse.Namespace) -> tuple[list[Row], dict[str, Any]]:
    """Rows before, under and after load, and the findings.

    The relay's log is always kept.
    """
    arguments.out.mkdir(parents=True, exist_ok=True)
    async with RunningRelay(CONTENDERS[arguments.relay]) as relay:
        try:
            return await _soak(arguments, relay)
        finally:
            (arguments.out / "relay.log_setup").write_text(relay.said())


async def _soak(arguments: argparse.Namespace, relay: RunningRelay) -> tuple[list[Row], dict[str, Any]]:
    sampler = Sampler(relay)
    await sampler.row()
    await asyncio.sleep(QUIET_S)
    baseline = await sampler.row()
    async with load_on(arguments, relay) as loads:
        sampler.load = [load.pid for load in loads]
        rows = await _under_load(arguments, sampler, loads)
        for load in loads:
            load.tell(order="end")
        left = [await load.hear("left") for load in loads]
    sampler.load = []
    after = await _until_rest(sampler, baseline)
    counts: Counter[str] = Counter()
    for report in left:
        counts.update(report["counts"])
    findings = verdict.judge(rows, baseline, after[-1], counts, TROUBLE.findall(relay.said()))
    return [baseline, *rows, *after], {
        "machine": proc.machine(),
        "relay": arguments.relay,
        "seconds": round(rows[-1]["seconds"] - rows[0]["seconds"]),
        "groups received": rows[-1]["groups received"],
        "groups sent": rows[-1]["groups sent"],
        "counts": dict(sorted(counts.items())),
        "good": all(finding.good is not False for finding in findings),
        "findings": [asdict(finding) for finding in findings],
    }


async def _under_load(arguments: argparse.Namespace, sampler: Sampler, loads: Sequence[Load]) -> list[Row]:
    begin = told = time.monotonic()
    rows: list[Row] = []
    while True:
        due = begin + len(rows) + 1
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        rows.append(await sampler.row())
        for load in loads:
            if load.over:
                await load.hear("left")
        now, groups = time.monotonic(), rows[-1]["groups received"]
        if now - told >= TELL_S or len(rows) == 5:
            told = now
            print(in_short(rows[-1]), flush=True)
        over = now - begin >= arguments.hours * 3600 if arguments.hours else groups >= arguments.groups
        if over:
            print(in_short(rows[-1]), flush=True)
            return rows


async def _until_rest(sampler: Sampler, baseline: Row) -> list[Row]:
    """Sample until nothing is left, or time is over."""
    rows: list[Row] = []
    end = time.monotonic() + REST_S
    while True:
        rows.append(await sampler.row())
        names = [name for name in LEFTOVERS if rows[-1][name] > baseline[name]]
        if not names or time.monotonic() > end:
            return rows
        await asyncio.sleep(1)


def in_short(row: Row) -> str:
    return (
        f"{row['seconds']:6.0f} s {row['groups received']:9,.0f} groups in {row['groups sent']:10,.0f} out"
        f" {row['sessions']:3.0f} sessions {row['tracks']:3.0f} tracks {row['rss'] / 2**20:6.1f} MiB"
        f" {row['cores']:.2f} cores, load {row['cores of the load']:.2f}, lag {row['lag worst'] * 1000:.0f} ms"
    )


def keep(rows: Sequence[Row], found: dict[str, Any], folder: Path) -> None:
    """Write `rows.csv`, `verdict.json` and, with matplotlib, `soak.svg`, beside the relay's log."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    with (folder / "rows.csv").open("w", newline="") as file:
        writer = csv.DictWriter(
            file, ["seconds", *(name for name in names if name != "seconds")], restval=0.0
        )
        writer.writeheader()
        writer.writerows({name: f"{value:.6g}" for name, value in row.items()} for row in rows)
    (folder / "verdict.json").write_text(json.dumps(found, indent=1) + "\n")
    try:
        print(f"plot: {plots.soak(rows, folder)}")
    except plots.PlotsMissingError as error:
        print(error)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 1 if something stayed."""
    arguments = parser().parse_args(argv)
    if not proc.supported():
        print("soak: the relay's memory is read from /proc: this needs Linux", file=sys.stderr)
        return 2
    try:
        rows, found = asyncio.run(soak(arguments))
    except (PeersMissingError, RelayFailedError, LoadFailedError) as error:
        print(f"soak: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("soak: interrupted", file=sys.stderr)
        return 130
    print()
    for name, number in found["counts"].items():
        print(f"{number:12,} {name}")
    print()
    for finding in found["findings"]:
        mark = {True: "good", False: "BAD ", None: "    "}[finding["good"]]
        print(f"{mark} {finding['what']}: {finding['text']}")
    keep(rows, found, arguments.out)
    print("flat" if found["good"] else "NOT FLAT")
    return 0 if found["good"] else 1


if __name__ == "__main__":
    sys.exit(main())
