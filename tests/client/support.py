"""Two clients, joined back to back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

from relay.transport.memory import MemorySession, memory_pair
from relay.transport.session import Event, StreamData, StreamReset, StreamStopped
from relay.wire.version import Version
from tests.client.recording import RecordingClient

PATIENCE = 15.0
"""Seconds that anything may take."""

ALL = list(Version)
FETCHING = [Version.LITE_05, Version.LITE_06]
OLD = [Version.LITE_01, Version.LITE_02]


class Pair(NamedTuple):
    """`near` is the client's end of the session, `far` the server's."""

    near: RecordingClient
    far: RecordingClient


def sessions(version: Version, **options: Any) -> tuple[MemorySession, MemorySession]:
    """SETUP decides the version where it does on a real transport."""
    return memory_pair(version if version >= Version.LITE_03 else None, **options)


@contextlib.asynccontextmanager
async def pair(version: Version, **options: Any) -> AsyncIterator[Pair]:
    """After the set-up."""
    near, far = (RecordingClient(session, versions=[version], **options) for session in sessions(version))
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(near.start(), far.start())
        assert near.version is far.version is version
        yield Pair(near, far)
        await near.close()
        await far.closed()


class RawPeer:
    """The other end without a protocol: it keeps what it gets, and sends what a test says."""

    def __init__(self, session: MemorySession) -> None:
        self.session = session
        self.events: list[Event] = []
        self.streams: dict[int, Any] = {}
        self.received: dict[int, bytes] = {}
        self._news = asyncio.Event()
        session.start(self._take)

    def _take(self, events: tuple[Event, ...]) -> None:
        for event in events:
            self.events.append(event)
            if isinstance(event, StreamData):
                self.streams[event.stream.id] = event.stream
                self.received[event.stream.id] = self.received.get(event.stream.id, b"") + event.data
        self._news.set()

    async def until(self, ready: Any) -> Any:
        """Returns the result of `ready()` once it is true."""
        while not (found := ready()):
            self._news.clear()
            await self._news.wait()
        return found

    async def bidi(self, start: bytes) -> Any:
        """Wait for a bidirectional stream that opens with `start`."""
        return await self.until(
            lambda: next(
                (
                    self.streams[number]
                    for number, data in self.received.items()
                    if data.startswith(start) and not self.streams[number].unidirectional
                ),
                None,
            )
        )

    def codes(self) -> list[int]:
        """Of all resets and stops so far."""
        return [event.code for event in self.events if isinstance(event, StreamReset | StreamStopped)]


@contextlib.asynccontextmanager
async def facing(
    version: Version, *, server: bool = False, **options: Any
) -> AsyncIterator[tuple[RecordingClient, RawPeer]]:
    """A started client (on the server's end with `server`) and a raw peer. 03 and newer, which need no answer."""
    ends = memory_pair(version)
    mine, theirs = reversed(ends) if server else ends
    async with asyncio.timeout(PATIENCE):
        client, peer = RecordingClient(mine, hop=7, **options), RawPeer(theirs)
        await client.start()
        yield client, peer
        await client.close()
