"""Readers of /proc."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from bench import proc
from bench.proc import Spent


def test_ticks_of_a_name_with_parentheses_and_spaces() -> None:
    line = "42 (a) b (c) S 1 42 42 0 -1 4194304 100 0 0 0 70 30 5 5 20 0 1 0 100 0 0"
    assert proc.used_ticks(line) == 100
    assert proc.used_ticks("") == 0


def test_sizes_of_a_status() -> None:
    status = "Name:\tpython\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n"
    assert proc.status_bytes(status, "VmRSS") == 1024 * 1024
    assert proc.status_bytes(status, "VmHWM") == 2048 * 1024
    assert proc.status_bytes(status, "VmSwap") == 0


def test_time_of_threads_is_exact_unless_one_has_ended() -> None:
    before = Spent(10.0, {(1, "1"): 9.5})
    assert Spent(10.02, {(1, "1"): 9.511, (1, "2"): 0.002}).since(before) == pytest.approx(0.013)
    assert Spent(11.0, {(1, "1"): 9.6}).since(before) == pytest.approx(1.0)
    assert Spent(11.0, {}).since(Spent(10.5, {})) == pytest.approx(0.5)


@pytest.mark.skipif(not proc.supported(), reason="Linux only")
@pytest.mark.e2e
def test_a_child_counts_as_part_of_the_family() -> None:
    before = proc.spent(os.getpid())
    held = proc.memory(os.getpid())
    work = (
        "import sys, time\nwhile time.process_time() < 0.3: pass\nprint('done', flush=True)\nsys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", work], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert child.pid in proc.family(os.getpid())
        assert proc.spent(os.getpid()).since(before) >= 0.25
        assert proc.memory(os.getpid()) > held
        child.communicate()
