"""What is read from /proc and /sys, on machines that have it or not."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from relay.web.machine import descriptors_limit, memory_limit, usage


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.skipif(sys.platform != "linux", reason="macOS has no /proc")
def test_this_process_has_figures() -> None:
    before = usage()
    assert before.memory is not None
    assert before.memory > 1_000_000
    with Path(os.devnull).open():
        after = usage()
    assert before.descriptors is not None
    assert after.descriptors == before.descriptors + 1
    limit = memory_limit()
    assert limit is not None
    assert limit > 1_000_000


def test_a_platform_without_proc_has_none(tmp_path: Path) -> None:
    found = usage(tmp_path)
    assert (found.memory, found.descriptors) == (None, None)
    assert memory_limit(tmp_path, tmp_path) is None


def test_descriptors_have_a_limit() -> None:
    limit = descriptors_limit()
    assert limit is None or limit > 100


def test_the_lowest_limit_of_a_group_and_those_above_it_counts(tmp_path: Path) -> None:
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    write(proc / "meminfo", "MemTotal:       16000000 kB\nMemFree: 1 kB\n")
    assert memory_limit(proc, groups) == 16_000_000 * 1024
    write(proc / "self/cgroup", "1:name=systemd:/x\n0::/system.slice/relay.service\n")
    write(groups / "system.slice/relay.service/memory.max", "max\n")
    assert memory_limit(proc, groups) == 16_000_000 * 1024
    write(groups / "system.slice/memory.max", "2147483648\n")
    assert memory_limit(proc, groups) == 2_147_483_648
    write(groups / "system.slice/relay.service/memory.max", "1073741824\n")
    assert memory_limit(proc, groups) == 1_073_741_824
    write(proc / "self/cgroup", "1:name=systemd:/x\n")
    assert memory_limit(proc, groups) == 16_000_000 * 1024
    write(proc / "meminfo", "nonsense\n")
    assert memory_limit(proc, groups) is None
