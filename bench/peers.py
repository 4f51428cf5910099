"""The environment of the native clients, created once and shared with the tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.e2e import harness

MOQ_RS = "0.5.1"


class PeersMissingError(RuntimeError):
    pass


def peer_python() -> Path:
    """Its interpreter; the first call installs moq-rs from wheels into a directory of the project."""
    if not (harness.VENVS / f"moq-rs-{MOQ_RS}").exists():
        print(f"installing moq-rs {MOQ_RS} into {harness.VENVS.name}/", file=sys.stderr, flush=True)
    try:
        return harness.peer_python(MOQ_RS)
    except (OSError, RuntimeError, subprocess.TimeoutExpired) as error:
        raise PeersMissingError(
            f"moq-rs {MOQ_RS}, the load of this benchmark, cannot be installed: {error}"
        ) from error
