"""One target under atheris: `python -m fuzz.guided TARGET DIRECTORY [libFuzzer options]`. The runner starts it."""

from __future__ import annotations

import os
import sys

import atheris

os.environ["MOQ_RELAY_PURE"] = "1"  # compiled modules have no lines to watch

# Before the hook of atheris: `relay` puts its own finder of sources first, and atheris sees only what is behind its own.
import relay

with atheris.instrument_imports(include=[relay.__name__]):
    from fuzz.targets import TARGETS

SEEN_BEFORE = frozenset(("relay.compiled",))
EXTENSIONS = frozenset(("relay.quic._kernel",))


def check() -> None:
    """Raise SystemExit if atheris would not see which lines run."""
    loaded = {name: module for name, module in sys.modules.items() if name.startswith("relay.")}
    blind = [
        name
        for name, module in loaded.items()
        if not type(module.__loader__).__module__.startswith("atheris.")
    ]
    if unseen := set(blind) - SEEN_BEFORE - EXTENSIONS:
        raise SystemExit(f"not instrumented: {', '.join(sorted(unseen))}")


def main() -> None:
    """Never returns."""
    check()
    name = sys.argv.pop(1)
    atheris.Setup(sys.argv, TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
