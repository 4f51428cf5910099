"""Fixtures of the engine's tests."""

from __future__ import annotations

import logging

import pytest

from tests.quic.lab import PAIRINGS, Pairing


@pytest.fixture(autouse=True)
def _quiet_aioquic(monkeypatch: pytest.MonkeyPatch) -> None:
    """It logs every fault of a peer, which takes longer than the faults themselves."""
    monkeypatch.setattr(logging.getLogger("quic"), "disabled", True)


@pytest.fixture(params=PAIRINGS)
def pairing(request: pytest.FixtureRequest) -> Pairing:
    """The kinds of client and server."""
    return PAIRINGS[request.param]
