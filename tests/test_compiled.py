"""The compiled modules run where they are built from the source as it is, and the sources run everywhere else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest

from relay import compiled

ROOT = Path(__file__).parent.parent
MODULE = compiled.MODULES[0]
SOURCE = f"{MODULE.replace('.', '/')}.py"
CHANGED = "has changed since it was compiled"

SHOW = f"""
import importlib
from relay import compiled
print(importlib.import_module({MODULE!r}).__file__, compiled.describe(), sep="\\n")
"""


needs_compiler = pytest.mark.skipif(bool(compiled.why_not(ROOT)), reason="the modules are not compiled here")


def test_what_runs_is_what_is_reported() -> None:
    suffixes = {
        str(import_module(name).__file__).endswith(compiled.SUFFIX) for name in sorted(compiled.MODULES)
    }
    assert suffixes == {not compiled.reason}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the source tree as a build leaves it, with dummies where this one is not compiled."""
    shutil.copytree(ROOT / "relay", tmp_path / "relay", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy2(ROOT / "setup.py", tmp_path)
    if compiled.why_not(tmp_path):
        for file in compiled.files(tmp_path):
            file.touch()
        compiled.write_record(tmp_path, [SOURCE, "relay/wire/errors.py"])
    return tmp_path


def change(file: str) -> Callable[[Path], object]:
    return lambda tree: (tree / file).write_text((tree / file).read_text() + "\n# changed\n")


def as_installed(tree: Path) -> None:
    """A wheel has no record and is not checked."""
    (tree / "setup.py").unlink()
    (tree / compiled.RECORD).unlink()
    change(SOURCE)(tree)


def without_modules(tree: Path) -> None:
    for file in compiled.files(tree):
        file.unlink()


@pytest.mark.parametrize(
    "alter, reason",
    [
        (lambda _: None, ""),
        (as_installed, ""),
        (change(SOURCE), f"{SOURCE} {CHANGED}"),
        (change("relay/wire/errors.py"), f"relay/wire/errors.py {CHANGED}"),
        (lambda tree: (tree / SOURCE).unlink(), f"{SOURCE} {CHANGED}"),
        (lambda tree: (tree / compiled.RECORD).unlink(), "compiled by an unfinished build"),
        (lambda tree: compiled.files(tree)[-1].unlink(), "partly compiled"),
        (without_modules, "not compiled"),
    ],
)
def test_why_the_sources_run(tree: Path, alter: Callable[[Path], object], reason: str) -> None:
    alter(tree)
    assert compiled.why_not(tree) == reason


def shown(tree: Path, **environ: str) -> list[str]:
    """The file of a module and the report, as a process sees them that starts in `tree`."""
    environ = {name: text for name, text in os.environ.items() if name != compiled.PURE} | environ
    ended = subprocess.run(
        [sys.executable, "-c", SHOW], cwd=tree, env=environ, check=True, capture_output=True, text=True
    )
    return ended.stdout.splitlines()


def test_a_changed_source_runs(tree: Path) -> None:
    change(SOURCE)(tree)
    assert shown(tree) == [str(tree / SOURCE), f"interpreted ({SOURCE} {CHANGED})"]


def test_the_environment_asks_for_sources(tree: Path) -> None:
    assert shown(tree, MOQ_RELAY_PURE="1") == [str(tree / SOURCE), "interpreted (MOQ_RELAY_PURE is set)"]


@needs_compiler
def test_unchanged_modules_run_compiled(tree: Path) -> None:
    assert shown(tree, MOQ_RELAY_PURE="0") == [
        str(tree / SOURCE).removesuffix(".py") + compiled.SUFFIX,
        "compiled",
    ]


REFUSES = """#!/bin/sh
case "$*" in *__native*) exit 1;; esac
exec cc "$@"
"""
"""A compiler that does not like the group, but its modules, which only refer to it."""

FEW = ("relay.wire.errors", "relay.wire.varint")
"""Modules that mypyc translates in seconds."""


@pytest.mark.parametrize(
    "environ, why",
    [
        ({"MOQ_RELAY_PURE": "1"}, "MOQ_RELAY_PURE is set"),
        ({"MOQ_RELAY_PURE": "", "CC": "no-such-compiler"}, "there is no compiler no-such-compiler"),
        pytest.param(
            {"MOQ_RELAY_PURE": "", "CC": "./refuses"}, "the compiler refuses the source", marks=needs_compiler
        ),
    ],
)
def test_a_build_without_a_compiler_leaves_the_sources(tree: Path, environ: dict[str, str], why: str) -> None:
    """Modules of an earlier build go."""
    shutil.copy2(ROOT / "pyproject.toml", tree)
    shutil.copy2(ROOT / "README.md", tree)
    shutil.copy2(ROOT / "LICENSE", tree)
    with (tree / "relay" / "compiled.py").open("a") as file:
        file.write(f"\nMODULES = {FEW}\n")
    (tree / "refuses").write_text(REFUSES)
    (tree / "refuses").chmod(0o755)
    ended = subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--inplace"],
        cwd=tree,
        env=os.environ | environ,
        check=True,
        capture_output=True,
        text=True,
    )
    assert f"moq-relay: hot modules stay interpreted: {why}" in ended.stdout
    assert shown(tree) == [str(tree / SOURCE), "interpreted (not compiled)"]
