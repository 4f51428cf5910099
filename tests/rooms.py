"""The covered share of lines and branches for each room of the relay: `python -m tests.rooms`, after `make coverage`."""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path

from coverage import Coverage

LEAST = 95.0
"""Per cent that each room needs."""


def room_of(path: str) -> str:
    """The folder below `relay`."""
    parts = Path(path).with_suffix("").parts[1:-1]
    return parts[0] if parts else "(relay)"


def measure() -> dict[str, float]:
    """Per cent for each room."""
    cover = Coverage()
    cover.load()
    file = Path(".coverage.json")
    cover.json_report(outfile=str(file))
    files = json.loads(file.read_text())["files"]
    file.unlink()
    done: dict[str, int] = defaultdict(int)
    total: dict[str, int] = defaultdict(int)
    for path, found in files.items():
        figures = found["summary"]
        for room in (room_of(path), "all"):
            done[room] += figures["covered_lines"] + figures["covered_branches"]
            total[room] += figures["num_statements"] + figures["num_branches"]
    return {room: 100 * done[room] / total[room] for room in sorted(total) if total[room]}


def main() -> int:
    """Print the table; 1 if a room is too low."""
    found = measure()
    for room, share in found.items():
        print(f"{room:22}{share:6.1f} %")  # noqa: T201
    low = [room for room, share in found.items() if share < LEAST and room != "all"]
    if low:
        print(f"Below {LEAST:.0f} %: {', '.join(low)}", file=sys.stderr)  # noqa: T201
    return bool(low)


if __name__ == "__main__":
    sys.exit(main())
