"""Metadata, source distribution and wheel, for a package index and `pip install`."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.message import Message
from email.parser import Parser
from itertools import chain
from pathlib import Path

import pytest

from relay import compiled
from tests.sampling import FULL

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

pytestmark = pytest.mark.timeout(600)  # seconds: with all modules mypyc takes half a minute of an idle core

BUILD = "from setuptools import build_meta as b; b.build_sdist('dist'); b.build_wheel('dist')"

COMPILER = """#!/bin/sh
for word; do
    shift
    case "$word" in
        *.c) test -f "$word" || exit 1; set -- "$@" -x c /dev/null ;;
        *) set -- "$@" "$word" ;;
    esac
done
exec cc "$@"
"""
"""Makes empty objects: the names are looked at here, and `make compiled` has compiled the content."""


@pytest.fixture(scope="module")
def tracked() -> list[str]:
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a clone of the repository")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    return [name for name in listed.split("\0") if name and (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def built(tracked: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with both distributions, built from a copy without untracked files."""
    clone = tmp_path_factory.mktemp("clone")
    for name in tracked:
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, clone / name)
    (clone / "relay" / "stray.so").touch()  # left by a build
    (clone / compiled.RECORD).touch()
    if not FULL:
        with (clone / "relay" / "compiled.py").open("a") as file:
            file.write(f"\nMODULES = {compiled.MODULES[-2:]}\n")
    compiler = clone / "compiler"
    compiler.write_text(COMPILER)
    compiler.chmod(0o755)
    environ = os.environ | {compiled.PURE: "0", "CC": str(compiler)}
    subprocess.run([sys.executable, "-c", BUILD], cwd=clone, env=environ, check=True, capture_output=True)
    return clone / "dist"


@pytest.fixture(scope="module")
def metadata(built: Path) -> Message:
    [wheel] = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return Parser().parsestr(archive.read(name).decode())


def test_the_source_distribution_is_the_repository(built: Path, tracked: list[str]) -> None:
    [sdist] = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert not set(tracked) - names
    assert not [name for name in names if name.endswith((".so", ".pyc"))]


def test_the_wheel_has_the_relay_and_nothing_else(built: Path, tracked: list[str]) -> None:
    [wheel] = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    extensions = {name for name in names if name.endswith(compiled.SUFFIX)}
    kernel = compiled.KERNEL.replace(".", "/") + compiled.SUFFIX
    listed = [*(compiled.MODULES if FULL else compiled.MODULES[-2:]), f"{compiled.LIBRARY}__mypyc"]
    modules = {f"{name.replace('.', '/')}{compiled.SUFFIX}" for name in listed}
    assert extensions - {kernel} in ([modules, set()] if compiled.why_not(ROOT) else [modules])
    assert names - extensions == {
        name for name in tracked if name.startswith("relay/") and not name.endswith(".c")
    }


def test_the_page_in_an_index(metadata: Message) -> None:
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert str(metadata.get_payload()).strip() == (ROOT / "README.md").read_text().strip()
    assert metadata.get_all("Project-URL")


def test_no_python_is_too_new() -> None:
    assert re.fullmatch(r">=3\.\d+", PROJECT["requires-python"])


def test_every_dependency_has_a_lower_bound() -> None:
    """`make test-lowest` installs these; without a bound it would take releases of twenty years ago."""
    listed = list(chain(PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()))
    assert not [requirement for requirement in listed if not re.match(r"[\w.-]+(>|=)=\d", requirement)]


def test_what_builds_is_what_is_locked() -> None:
    """requirements/build.in repeats the build backend of pyproject.toml."""
    backend = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    lines = (ROOT / "requirements" / "build.in").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == backend
