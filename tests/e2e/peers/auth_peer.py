"""Many real sessions in one process: the Rust client of the PyPI package moq-rs (0.5).

python -m tests.e2e.peers.auth_peer

It emits `started`, and then reads one line: a list of JSON objects {cell, url, publish: [path], watch: [path]}. Each
is a session with origins of its own; it announces every `publish` (a track with one frame that says its path), emits
`ready`, then `announce` and `unannounce`. After the line `look` it subscribes the track of every `watch`, and emits
`frame` or `failed` for each. A refused or closed session emits `error` (at stage `connect`) or `closed`, then `over`.
Each event carries its `cell`. The end of stdin stops it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from typing import Any

import moq
import moq_ffi  # type: ignore[import-not-found, import-untyped, unused-ignore]

from tests.e2e.peers.rust_client import Dial, MoqError, connected, describe, emit, race

TRACK = "video"
FRAME_S = 10.0
SESSION_S = 60.0
AT_ONCE = 8  # handshakes: more would only wait for each other


class Session:
    def __init__(self, wanted: dict[str, Any], look: asyncio.Event, turn: asyncio.Semaphore) -> None:
        self._cell: str = wanted["cell"]
        self._wanted = wanted
        self._look = look
        self._turn = turn
        self._held: list[Any] = []  # a broadcast ends with its last handle

    async def run(self) -> None:
        stack = contextlib.AsyncExitStack()
        async with stack:
            try:
                async with self._turn:
                    client = await stack.enter_async_context(
                        connected(Dial(self._wanted["url"], explicit_origins=True), cell=self._cell)
                    )
                await race(client, self._work(client), SESSION_S, cell=self._cell)
            except ConnectionError:
                pass
            emit("over", cell=self._cell)

    async def _work(self, client: Any) -> str:
        for path in self._wanted["publish"]:
            broadcast = client.create_broadcast(path)
            track = broadcast.publish_track(TRACK, moq.TrackInfo(max_age_us=60_000_000))
            group = track.append_group()
            group.write_frame(path.encode(), 0)
            group.finish()
            broadcast.announce()
            self._held += [broadcast, track]
        emit("ready", cell=self._cell)
        follow = asyncio.create_task(self._follow(client))
        try:
            await self._look.wait()
            await asyncio.gather(*(self._watch(client, path) for path in self._wanted["watch"]))
            emit("looked", cell=self._cell)
            await follow
        finally:
            follow.cancel()
        return "ended"

    async def _follow(self, client: Any) -> None:
        async for update in client.announced("", hidden=True):
            emit("announce" if update.active else "unannounce", cell=self._cell, path=update.prefix)

    async def _watch(self, client: Any, path: str) -> None:
        told = {"cell": self._cell, "path": path}
        try:
            async with asyncio.timeout(FRAME_S):
                broadcast = await client.request_broadcast(path)
                track = await broadcast.subscribe_track(TRACK, moq.Subscription(max_age_us=60_000_000))
                group = await track.recv_group()
                frame = await group.read_frame()
                emit("frame", **told, payload=frame.payload.decode())
                track.cancel()
        except MoqError as error:
            emit("failed", **told, **describe(error, "stream"))
        except TimeoutError:
            emit("failed", **told, scope="stream", code=None, kind="timeout", message="no frame in time")


async def main() -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=1 << 24)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    moq_ffi.moq_log_level("error")
    look, turn = asyncio.Event(), asyncio.Semaphore(AT_ONCE)
    emit("started")
    cells = json.loads(await reader.readline())
    work = [asyncio.create_task(Session(cell, look, turn).run()) for cell in cells]
    while line := await reader.readline():
        if line.strip() == b"look":
            look.set()
    for task in work:
        task.cancel()
    await asyncio.gather(*work, return_exceptions=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sys.setswitchinterval(0.0002)  # the library's thread needs the GIL for each wake-up
    asyncio.run(main())
