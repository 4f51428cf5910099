"""Writes one CMAF track to standard output, a chunk for each frame.

    python -m tests.e2e.peers.cmaf video 10 60    # pictures a second, seconds

A second is a group of pictures.
"""

from __future__ import annotations

import io
import sys

import av

from tests.e2e.media_support import HEIGHT, HERTZ, QUICK, WIDTH, picture, sounds

FRAGMENTED = {"movflags": "cmaf+empty_moov+default_base_moof+frag_every_frame"}


def encode(kind: str, rate: int, seconds: int) -> bytes:
    out = io.BytesIO()
    with av.open(out, "w", format="mp4", options=FRAGMENTED) as container:
        if kind == "video":
            options = {**QUICK["libvpx-vp9"], "g": str(rate)}
            pictures = container.add_stream("libvpx-vp9", rate=rate, options=options)
            pictures.width, pictures.height, pictures.pix_fmt = WIDTH, HEIGHT, "yuv420p"
            for number in range(seconds * rate):
                container.mux(pictures.encode(picture(number, rate)))
            container.mux(pictures.encode(None))
        else:
            sound = container.add_stream("libopus", rate=HERTZ, layout="mono", bit_rate=24_000)
            for frame in sounds(seconds):
                container.mux(sound.encode(frame))
            container.mux(sound.encode(None))
    return out.getvalue()


if __name__ == "__main__":
    sys.stdout.buffer.write(encode(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
