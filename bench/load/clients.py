"""Sessions of the native client."""

from __future__ import annotations

import asyncio
from typing import Any

import moq

KEEP_US = 10 * 1_000_000
"""How long clients may keep groups: longer than a run, so that none of them throws away what is yet to be counted."""
OPEN_S = 30.0


def dial(url: str, *, publish: Any = None, subscribe: Any = None) -> Any:
    """Return a client with a connection of its own, over WebTransport, that gives up when it breaks."""
    return moq.Client(
        url,
        tls_verify=False,
        websocket_enabled=False,
        reconnect=False,
        bind="127.0.0.1:0",
        publish=publish,
        subscribe=subscribe,
    )


async def enter(client: Any) -> Any:
    """Connect, within a time."""
    async with asyncio.timeout(OPEN_S):
        await client.__aenter__()
    return client


async def leave(client: Any) -> None:
    """Say goodbye."""
    await client.__aexit__(None, None, None)


async def subscribe(client: Any, broadcast: str, track: str, *, keep_us: int = KEEP_US) -> Any:
    """Return a subscription to a track of a broadcast that is, or will be, announced."""
    async with asyncio.timeout(OPEN_S):
        found = await client.announced_broadcast(broadcast)
        return await found.subscribe_track(track, moq.Subscription(max_age_us=keep_us))


def bytes_received(client: Any) -> int:
    """Bytes of UDP payload that the connection has received so far."""
    return client.session.stats().bytes_received or 0
