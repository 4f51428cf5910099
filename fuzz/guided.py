"""One target under atheris: `python -m fuzz.guided TARGET DIRECTORY [libFuzzer options]`. The runner starts it."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["relay"]):
    from fuzz.targets import TARGETS


def main() -> None:
    """Never returns."""
    name = sys.argv.pop(1)
    atheris.Setup(sys.argv, TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
