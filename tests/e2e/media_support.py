"""Media for the tests of the commands: files with numbered pictures and a tone, made by PyAV."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

WIDTH, HEIGHT = 192, 96
BITS = 12
"""A picture is twelve blocks, black or white: the bits of its number, the highest first."""

BLACK, WHITE, GREY = 16, 235, 128
HERTZ = 48_000
PACKET = 960
"""Samples: 20 ms."""

QUICK: dict[str, dict[str, str]] = {
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0"},
    "libvpx": {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0"},
    "libx264": {"preset": "ultrafast", "bf": "2", "b-pyramid": "none", "x264-params": "scenecut=0"},
}


def picture(number: int, rate: int) -> av.VideoFrame:
    frame = av.VideoFrame(WIDTH, HEIGHT, "yuv420p")
    light, *colours = frame.planes
    shown = [WHITE if number >> BITS - 1 - bit & 1 else BLACK for bit in range(BITS)]
    line = b"".join(bytes([block]) * (WIDTH // BITS) for block in shown)
    light.update(line.ljust(light.line_size, b"\0") * HEIGHT)
    for plane in colours:
        plane.update(bytes([GREY]) * plane.buffer_size)
    frame.pts, frame.time_base = number, Fraction(1, rate)
    return frame


def number_of(frame: av.VideoFrame) -> int:
    """The number that a decoded picture shows."""
    light = frame.reformat(format="gray").planes[0]
    row = bytes(light)[light.line_size * (light.height // 2) :]
    shown = 0
    for bit in range(BITS):
        shown = 2 * shown + (row[int((bit + 0.5) * light.width / BITS)] > GREY)
    return shown


def sounds(seconds: float) -> Iterator[av.AudioFrame]:
    for number in range(int(seconds * HERTZ / PACKET)):
        frame = av.AudioFrame("s16", "mono", PACKET)
        frame.planes[0].update((b"\x00\x10" * 48 + b"\x00\xf0" * 48) * (PACKET // 96))
        frame.sample_rate = HERTZ
        frame.pts, frame.time_base = number * PACKET, Fraction(1, HERTZ)
        yield frame


def write_media(
    path: Path,
    *,
    video: str | None = "libx264",
    audio: str | None = "libopus",
    seconds: float = 4,
    rate: int = 10,
    first: int = 0,
    format: str | None = None,  # noqa: A002 - as PyAV has it
) -> Path:
    """A file whose pictures are numbered from `first`, with a group of pictures each second."""
    with av.open(str(path), "w", format=format) as container:
        streams: list[tuple[Any, Iterable[Any]]] = []
        if video is not None:
            options = {**QUICK.get(video, {}), "g": str(rate)}
            pictures = container.add_stream(video, rate=rate, options=options)
            assert isinstance(pictures, av.VideoStream)
            pictures.width, pictures.height, pictures.pix_fmt = WIDTH, HEIGHT, "yuv420p"
            numbered = []
            for number in range(int(seconds * rate)):
                frame = picture(first + number, rate)
                frame.pts = number
                numbered.append(frame)
            streams.append((pictures, numbered))
        if audio is not None:
            sound = container.add_stream(audio, rate=HERTZ, layout="mono")
            streams.append((sound, sounds(seconds)))
        for stream, frames in streams:
            for frame in frames:
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    return path
