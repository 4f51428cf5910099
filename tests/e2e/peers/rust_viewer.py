"""Reads a hang broadcast with the Rust library of the PyPI package moq-rs 0.5: the catalog, and frames of each track.

    python -m tests.e2e.peers.rust_viewer URL BROADCAST [--frames 15]

Prints `catalog` with the renditions, then `frames` for each track with the times and sizes of its frames.
"""

from __future__ import annotations

import argparse
import asyncio

import moq

from tests.e2e.peers.rust_client import Dial, connected, emit


async def read(
    broadcast: moq.BroadcastConsumer, track: str, entry: moq.Video | moq.Audio, count: int
) -> None:
    found = []
    async for frame in await broadcast.subscribe_media(track, entry):
        found.append((frame.timestamp_us, len(frame.payload), frame.keyframe))
        if len(found) == count:
            break
    emit("frames", track=track, frames=found)


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("broadcast")
    parser.add_argument("--frames", type=int, default=15)
    args = parser.parse_args()
    async with connected(Dial(args.url)) as client:
        async for update in client.announced("", hidden=True):
            if update.active and update.prefix == args.broadcast:
                break
        broadcast = await client.request_broadcast(args.broadcast)
        catalog = await broadcast.catalog()
        tracks = {**catalog.video, **catalog.audio}
        emit(
            "catalog",
            codecs={name: entry.codec for name, entry in tracks.items()},
            descriptions={name: (entry.description or b"").hex() for name, entry in tracks.items()},
            coded={name: [entry.coded.width, entry.coded.height] for name, entry in catalog.video.items()},
            rates={name: [entry.sample_rate, entry.channel_count] for name, entry in catalog.audio.items()},
        )
        await asyncio.gather(*(read(broadcast, name, entry, args.frames) for name, entry in tracks.items()))


if __name__ == "__main__":
    asyncio.run(main())
