"""Fixtures of the engine's tests."""

from __future__ import annotations

import pytest

from tests.quic.lab import PAIRINGS, Pairing


@pytest.fixture(params=PAIRINGS)
def pairing(request: pytest.FixtureRequest) -> Pairing:
    """The kinds of client and server."""
    return PAIRINGS[request.param]
