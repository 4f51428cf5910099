"""Sessions of the native client."""

from __future__ import annotations

import asyncio
from typing import Any

import moq

KEEP_US = 10 * 1_000_000
"""Longer than a run: clients must not drop groups before they are counted."""
OPEN_S = 30.0


def dial(url: str, *, publish: Any = None, subscribe: Any = None) -> Any:
    """Its own WebTransport connection, without reconnection."""
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
    """Connect within a time limit."""
    async with asyncio.timeout(OPEN_S):
        await client.__aenter__()
    return client


async def leave(client: Any) -> None:
    await client.__aexit__(None, None, None)


async def subscribe(client: Any, broadcast: str, track: str, *, keep_us: int = KEEP_US) -> Any:
    """The broadcast may be announced later."""
    async with asyncio.timeout(OPEN_S):
        found = await client.announced_broadcast(broadcast)
        return await found.subscribe_track(track, moq.Subscription(max_age_us=keep_us))


def bytes_received(client: Any) -> int:
    """UDP payload of the connection so far."""
    return client.session.stats().bytes_received or 0
