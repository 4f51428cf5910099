"""A real hang broadcast: H.264 and Opus, encoded and described by the Rust library of the PyPI package moq-rs 0.5.

    python -m tests.e2e.peers.rust_media URL BROADCAST [--rate 15]

The picture is red on the left and blue on the right, and changes sides every second; the sound is a tone of 440 Hz. Runs
until SIGTERM or the end of stdin.
"""

from __future__ import annotations

import argparse
import array
import asyncio
import contextlib
import itertools
import math
import sys
import time

import moq

from tests.e2e.peers.rust_client import Dial, connected, emit

WIDTH, HEIGHT = 320, 192
RED, BLUE = (81, 90, 240), (41, 240, 110)
"""Y, U and V."""

HERTZ, PIECE, TONE, LOUD = 48_000, 960, 440, 8000


def picture(second: int) -> bytes:
    left, right = (RED, BLUE) if second % 2 == 0 else (BLUE, RED)
    planes = []
    for plane, shrink in enumerate((1, 2, 2)):
        half = WIDTH // shrink // 2
        planes.append((bytes([left[plane]]) * half + bytes([right[plane]]) * half) * (HEIGHT // shrink))
    return b"".join(planes)


def sound(start: int) -> bytes:
    wave = [int(LOUD * math.sin(2 * math.pi * TONE * at / HERTZ)) for at in range(start, start + PIECE)]
    return array.array("h", wave).tobytes()


async def publish(client: moq.Client, broadcast: str, rate: int) -> None:
    published = client.create_broadcast(broadcast)
    video = published.encode_video(
        moq.VideoEncoderInput(format=moq.VideoPixelFormat.I420, width=WIDTH, height=HEIGHT, framerate=rate),
        moq.VideoEncoderOutput(
            codec=moq.VideoCodec.H264, track="video/hd", gop=rate, kind=moq.VideoEncoderKind.SOFTWARE()
        ),
    )
    audio = published.encode_audio(
        "audio/data",
        moq.AudioEncoderInput(format=moq.AudioSampleFormat.S16, sample_rate=HERTZ, channels=1),
        moq.AudioEncoderOutput(codec=moq.AudioCodec.opus()),
    )
    published.announce()
    emit("published")
    start = time.monotonic()

    async def pictures() -> None:
        both = [picture(second) for second in (0, 1)]
        for number in itertools.count():
            second = number / rate
            await asyncio.sleep(start + second - time.monotonic())
            video.write(moq.VideoFrame(timestamp_us=int(second * 1_000_000), data=both[int(second) % 2]))

    async def sounds() -> None:  # one by one: the library drops groups that others have overtaken
        for at in itertools.count(0, PIECE):
            await asyncio.sleep(start + at / HERTZ - time.monotonic())
            audio.write(moq.AudioFrame(timestamp_us=at * 1_000_000 // HERTZ, data=sound(at)))

    await asyncio.gather(pictures(), sounds())


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("broadcast")
    parser.add_argument("--rate", type=int, default=15)
    args = parser.parse_args()
    async with connected(Dial(args.url)) as client:
        publishing = asyncio.create_task(publish(client, args.broadcast, args.rate))
        await asyncio.to_thread(sys.stdin.read)
        publishing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await publishing


if __name__ == "__main__":
    asyncio.run(main())
