"""Every test here starts and ends without actors, and fails if an actor fails unexpectedly."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from relay.actors import ingest
from tests.actors.watching import Trouble, actors, forget_actors
from tests.actors.world import LATE, World
from tests.clock import RUNTIME, settle


@pytest.fixture
def trouble() -> Iterator[Trouble]:
    """Failures so far; a test that expects them empties it."""
    with Trouble() as found:
        yield found


@pytest_asyncio.fixture(autouse=True)
async def _alone(trouble: Trouble) -> AsyncIterator[None]:
    logging.getLogger("pykka").setLevel(logging.WARNING)
    forget_actors()
    yield
    for ref in list(RUNTIME.actors):
        with contextlib.suppress(RuntimeError):  # of a closed event loop
            ref.stop(block=False)
    await settle()
    left = actors()
    forget_actors()
    assert not left
    assert not trouble.records


@pytest.fixture(autouse=True)
def _short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "LATE_AT_LEAST", LATE)


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    """A relay without sockets; at its end nothing of it may be left."""
    made = World()
    yield made
    await made.close()
