"""Writes one CMAF track to standard output, a chunk for each frame. Runs with PyAV.

    python cmaf.py video 10 60    # pictures a second, seconds

A picture is twelve blocks, black or white: the bits of its number, the highest first. A second is a group of pictures.
"""

from __future__ import annotations

import io
import sys
from array import array
from fractions import Fraction

import av  # type: ignore[import-not-found, unused-ignore]

WIDTH, HEIGHT = 192, 96
BITS = 12
BLACK, WHITE, GREY = 16, 235, 128

HERTZ = 48_000
PACKET = 960
"""Samples: 20 ms."""
PERIOD = 96
"""Samples of the tone, a square wave."""

FRAGMENTED = {"movflags": "cmaf+empty_moov+default_base_moof+frag_every_frame"}


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


def sound(number: int) -> av.AudioFrame:
    frame = av.AudioFrame("s16", "mono", PACKET)
    wave = [4_000 if i % PERIOD < PERIOD // 2 else -4_000 for i in range(PACKET)]
    frame.planes[0].update(array("h", wave).tobytes())
    frame.sample_rate = HERTZ
    frame.pts, frame.time_base = number * PACKET, Fraction(1, HERTZ)
    return frame


def encode(kind: str, rate: int, seconds: int) -> bytes:
    out = io.BytesIO()
    with av.open(out, "w", format="mp4", options=FRAGMENTED) as container:
        if kind == "video":
            options = {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0", "g": str(rate)}
            stream = container.add_stream("libvpx-vp9", rate=rate, options=options)
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
            frames = (picture(number, rate) for number in range(seconds * rate))
        else:
            stream = container.add_stream("libopus", rate=HERTZ, layout="mono", bit_rate=24_000)
            frames = (sound(number) for number in range(seconds * HERTZ // PACKET))
        for frame in frames:
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return out.getvalue()


if __name__ == "__main__":
    sys.stdout.buffer.write(encode(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
