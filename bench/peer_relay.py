"""The reference: the Rust core of moq-rs as a relay. Every session publishes into, and watches, the same origin.

python -m bench.peer_relay PORT

Needs only moq-rs. Python accepts the sessions; all else stays in the Rust runtime.
"""

from __future__ import annotations

import asyncio
import sys

import moq


async def serve(port: int) -> None:
    origin = moq.OriginProducer()
    sessions: set[asyncio.Task[None]] = set()

    async def keep(request: moq.Request) -> None:
        try:
            session = await request.accept()
            await session.closed()
        except moq.Error:
            pass  # end of a session

    async with moq.Server(
        f"127.0.0.1:{port}", tls_generate=["localhost"], publish=origin, subscribe=origin
    ) as server:
        print("listening", flush=True)
        async for request in server:
            task = asyncio.create_task(keep(request))
            sessions.add(task)
            task.add_done_callback(sessions.discard)


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
