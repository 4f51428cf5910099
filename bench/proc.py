"""CPU time and memory of a process and its children, and of the whole machine, from /proc.

Linux only: other systems count neither per thread nor in nanoseconds.
"""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
TICKS = os.sysconf("SC_CLK_TCK")


def supported() -> bool:
    return (PROC / "self" / "stat").exists() and (PROC / "self" / "task").exists()


def family(pid: int) -> list[int]:
    """A process and all its descendants."""
    members = [pid]
    for member in members:  # may grow meanwhile
        for task in _listed(PROC / str(member) / "task"):
            members += [int(child) for child in _text(task / "children").split()]
    return members


@dataclass(frozen=True)
class Spent:
    """CPU time of a process family in seconds."""

    ticks: float
    """By the kernel's process accounting, in steps of 10 ms, ended threads included."""
    threads: dict[tuple[int, str], float]
    """By the scheduler's exact clock, of live threads."""

    def since(self, before: Spent) -> float:
        """The exact difference, unless threads have ended."""
        exact = sum(spent - before.threads.get(thread, 0.0) for thread, spent in self.threads.items())
        coarse = self.ticks - before.ticks
        return coarse if not self.threads or coarse - exact > 4 / TICKS else exact


def spent(pid: int) -> Spent:
    ticks = 0
    threads = {}
    for member in family(pid):
        ticks += used_ticks(_text(PROC / str(member) / "stat"))
        for task in _listed(PROC / str(member) / "task"):
            if fields := _text(task / "schedstat").split():
                threads[member, task.name] = int(fields[0]) / 1e9
    return Spent(ticks / TICKS, threads)


def used_ticks(stat: str) -> int:
    """User and system time from a line of /proc/PID/stat; 0 for an ended process.

    The name in parentheses may contain spaces and parentheses.
    """
    fields = stat.rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12]) if len(fields) > 12 else 0


def memory(pid: int, *, peak: bool = False) -> int:
    """Resident bytes of a process and its children, current or peak."""
    field = "VmHWM" if peak else "VmRSS"
    return sum(status_bytes(_text(PROC / str(member) / "status"), field) for member in family(pid))


def status_bytes(status: str, field: str) -> int:
    """A size in /proc/PID/status is in kB."""
    for line in status.splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    return 0


def machine_busy() -> float:
    """Busy seconds of all processors since the start of the machine."""
    fields = [int(field) for field in _text(PROC / "stat").partition("\n")[0].split()[1:]]
    return (sum(fields[:8]) - fields[3] - fields[4]) / TICKS


def machine() -> dict[str, str | int | None]:
    """Properties that affect results, without identifying the machine."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in _text(PROC / "cpuinfo").splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}",
        "python": platform.python_version(),
    }


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # ended meanwhile
        return ""


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []
