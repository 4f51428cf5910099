"""What is compiled: the kernel, which is in C, and the hot modules, which are in Python.

mypyc compiles the modules in `relay/compiled.py` from the source that runs without it as well. So this step may fail:
without a compiler, with MOQ_RELAY_PURE=1, or if mypyc refuses the source, a line says why, and the sources run.
"""

from __future__ import annotations

import ast
import os
import runpy
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from shutil import which
from typing import Any

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

KERNEL = Extension(
    "relay.quic._kernel",
    ["relay/quic/_kernel.c"],
    libraries=["dl"],
    optional=True,  # Python code does the same work
)

compiled: dict[str, Any] = runpy.run_path("relay/compiled.py")

BUILDS = {"bdist_wheel", "build", "build_ext", "editable_wheel", "install"}
"""Commands that need the extensions themselves; others only ask for the metadata."""


FOLDER = Path("build/mypyc")
"""Where mypyc writes C."""

OPTIONS = """\
[mypy]
no_site_packages = True
ignore_missing_imports = True
follow_imports = silent
[mypy-relay.app]
follow_imports = skip
"""
"""Of mypy. Every build is the same, with libraries installed or without: imports from them have any type. Faults of
other files are for `make check` to find, and `relay/__init__.py` does not bring all of the relay along."""


def make() -> list[Extension]:
    """Translate the modules to C. Without a way to do so, say why and return nothing."""
    if compiled["is_pure"]():
        return _without(f"{compiled['PURE']} is set")
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "").split()
    if compiler and not which(compiler[0]):
        return _without(f"there is no compiler {compiler[0]}")
    try:
        from mypyc.build import mypycify

        FOLDER.mkdir(parents=True, exist_ok=True)
        options = FOLDER / "mypy.ini"
        options.write_text(OPTIONS)
        made = mypycify(
            [f"--config-file={options}", *map(str, compiled["files"](Path(), ".py")[:-1])],
            group_name=compiled["LIBRARY"],
            target_dir=str(FOLDER),
            opt_level="2" if "bdist_wheel" in sys.argv else "g",  # in a source tree the wait counts, too
            debug_level="0",
            multi_file=True,
        )
    except SystemExit:  # mypyc has printed the reason
        return _without("mypyc refuses the source")
    except Exception as error:  # noqa: BLE001 - mypy is missing, or fails in its own code
        return _without(f"{type(error).__name__}: {error}")
    for extension in made:
        extension.optional = True
        extension.include_dirs.append(str(FOLDER / "relay"))  # of a group with a dot in its name
        # A new compiler's new warnings are no reason.
        extension.extra_compile_args = [word for word in extension.extra_compile_args if word != "-Werror"]
        # Calls within the library, which are most, need no procedure linkage table.
        extension.extra_compile_args += ["-fvisibility=hidden", "-fno-plt"]
    return made


def _without(reason: str) -> list[Extension]:
    print(f"moq-relay: hot modules stay interpreted: {reason}", flush=True)
    return []


def sources() -> list[str]:
    """Return the compiled modules and what they import of the relay: constants and types of it are compiled in, too."""
    found: set[str] = set()
    ahead = ["relay.compiled", *compiled["MODULES"]]
    while ahead:
        name = ahead.pop()
        path = Path(*name.split("."))
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if not name.startswith("relay.") or path.as_posix() in found or not path.is_file():
            continue
        found.add(path.as_posix())
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Import):
                ahead += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                ahead += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return sorted(found)


class BuildExt(build_ext):
    """Builds the group whole or not at all, and in a source tree records what it was built from."""

    group: list[Extension]

    def run(self) -> None:
        if self.inplace:
            Path(compiled["RECORD"]).unlink(missing_ok=True)
        # Also those of modules that are on the list no more.
        folder = Path() if self.inplace else Path(self.build_lib)
        for file in (folder / "relay").rglob(f"*{compiled['SUFFIX']}"):
            source = file.relative_to(folder).with_name(file.name.removesuffix(compiled["SUFFIX"]) + ".py")
            if source.exists() or file.name.startswith("_compiled__mypyc"):
                file.unlink()
        super().run()
        if self.inplace and self.group:
            compiled["write_record"](Path(), sources())

    def build_extensions(self) -> None:
        self.parallel = self.parallel or os.cpu_count()
        names = {*compiled["MODULES"], f"{compiled['LIBRARY']}__mypyc"}
        self.group = [extension for extension in self.extensions if extension.name in names]
        made = [Path(self.get_ext_fullpath(extension.name)) for extension in self.group]
        for file in made:
            file.unlink(missing_ok=True)
        one_by_one = self.compiler.compile
        with ThreadPoolExecutor(os.cpu_count()) as pool:

            def compile_all(sources: list[str], **options: Any) -> list[str]:
                made = pool.map(lambda source: one_by_one([source], **options), sources)
                return list(chain.from_iterable(made))

            self.compiler.compile = compile_all
            super().build_extensions()
        if not all(file.exists() for file in made):
            for file in made:
                file.unlink(missing_ok=True)
            self.group = _without("the compiler refuses the source")


setup(
    ext_modules=[KERNEL, *(make() if BUILDS.intersection(sys.argv) else ())],
    cmdclass={"build_ext": BuildExt},
)
