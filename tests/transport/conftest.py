"""What the tests of QUIC share."""

from __future__ import annotations

import pytest

from tests.transport.virtual import Wire

PAIRINGS = {
    "fast": (True, True),
    "stock": (False, False),
    "fast-stock": (True, False),
    "stock-fast": (False, True),
}


@pytest.fixture(params=PAIRINGS)
def pairing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[bool, bool]:
    """Which side, client and server, takes the quick way."""
    chosen = PAIRINGS[request.param]
    monkeypatch.setattr(Wire, "pairing", chosen)
    return chosen
