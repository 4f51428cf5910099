"""Fixtures of the QUIC tests."""

from __future__ import annotations

import pytest

from tests.transport.virtual import Pairing, Wire

PAIRINGS: dict[str, Pairing] = {
    "fast": ("fast", "fast"),
    "pure": ("pure", "pure"),
    "aioquic": ("aioquic", "aioquic"),
    "fast-aioquic": ("fast", "aioquic"),
    "aioquic-fast": ("aioquic", "fast"),
}


@pytest.fixture(params=PAIRINGS)
def pairing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Pairing:
    """The packet implementation of each side, client and server."""
    chosen = PAIRINGS[request.param]
    monkeypatch.setattr(Wire, "pairing", chosen)
    return chosen
