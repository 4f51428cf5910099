"""The environment with the native clients, made once and shared with the tests."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.e2e import harness

MOQ_RS = "0.5.1"


class PeersMissingError(RuntimeError):
    """The native clients could not be installed."""


def peer_python() -> Path:
    """Return its interpreter; the first time this installs moq-rs, from wheels, into a directory of the project."""
    try:
        return harness.peer_python(MOQ_RS)
    except (OSError, RuntimeError, subprocess.TimeoutExpired) as error:
        raise PeersMissingError(
            f"moq-rs {MOQ_RS}, the load of this benchmark, cannot be installed: {error}"
        ) from error
