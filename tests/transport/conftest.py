"""What the tests of QUIC share."""

from __future__ import annotations

import pytest

from tests.transport.virtual import Pairing, Wire

PAIRINGS: dict[str, Pairing] = {
    "fast": ("fast", "fast"),
    "pure": ("pure", "pure"),
    "stock": ("stock", "stock"),
    "fast-stock": ("fast", "stock"),
    "stock-fast": ("stock", "fast"),
}


@pytest.fixture(params=PAIRINGS)
def pairing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Pairing:
    """Who makes the packets of each side, client and server."""
    chosen = PAIRINGS[request.param]
    monkeypatch.setattr(Wire, "pairing", chosen)
    return chosen
