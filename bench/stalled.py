"""A viewer that reads nothing or little: its session is healthy, but its data is queued.

moq-rs reads everything, so this is our own client with reduced flow control credit.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from bench.scenarios import Scenario
from relay.client import Client
from relay.quic.settings import QuicSettings
from relay.transport.client import connect
from relay.wire.version import Version
from tests.e2e.pressure_support import ANYONE, SMALL_WINDOW, freeze, trickle

TRACK = "track-0"


@contextlib.asynccontextmanager
async def watching(port: int, broadcast: str, scenario: Scenario, share: float) -> AsyncIterator[None]:
    """Watch the first track, and read this share of its bytes beside a small window."""
    session = await connect(
        f"moqt://127.0.0.1:{port}/",
        versions=tuple(Version),
        tls=ANYONE,
        settings=QuicSettings(connection_window=SMALL_WINDOW),
    )
    async with Client(session) as client:
        async for change in client.announced():
            if change.path == broadcast:
                break
        freeze(client)
        await client.subscribe(broadcast, TRACK)
        reading = asyncio.create_task(trickle(client, share * scenario.fps * scenario.frame_size))
        try:
            yield
        finally:
            reading.cancel()
