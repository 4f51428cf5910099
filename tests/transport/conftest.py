"""Fixtures of the session tests."""

from __future__ import annotations

import pytest

from tests.transport.virtual import Pairing, Wire

PAIRINGS: dict[str, Pairing] = {"native": ("native", "native"), "pure": ("pure", "pure")}


@pytest.fixture(params=PAIRINGS)
def pairing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Pairing:
    """What seals and opens the packets of each side, client and server."""
    chosen = PAIRINGS[request.param]
    monkeypatch.setattr(Wire, "pairing", chosen)
    return chosen
