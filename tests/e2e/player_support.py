"""Broadcasts for the dashboard to play: encoded by PyAV, in every container and shape of catalog."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import io
import itertools
import json
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import av

from relay.client import Client, Publication

WIDTH, HEIGHT = 160, 96
RED, BLUE = (81, 90, 240), (41, 240, 110)
"""Y, U and V."""

RATE, GROUP = 10, 5
"""Pictures a second and in a group: in each group the left and the right side change their colours."""

SECONDS = 60
"""Of media, which then starts again with later timestamps."""

HERTZ, PIECE, PERIOD = 48_000, 960, 96
"""Samples: of a second, of a frame, of the tone, which is a square wave."""

QUICK: Final[dict[str, dict[str, str]]] = {
    "libx264": {"preset": "ultrafast", "tune": "zerolatency", "x264-params": "scenecut=0"},
    "libx265": {"preset": "ultrafast", "tune": "zerolatency", "x265-params": "log-level=none"},
    "libvpx": {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0"},
}

AV1: Final = Path(__file__).with_name("av1.mkv")
"""The pictures, from libsvtav1 with preset 12 and `pred-struct=1:lookahead=0:fast-decode=1`.

On a busy machine that encoder (4.1.0) now and then never ends.
"""

FRAGMENTED: Final = {"movflags": "cmaf+empty_moov+default_base_moof+frag_every_frame"}


@dataclass(frozen=True)
class Packet:
    """A frame of a track before or after its container: microseconds, and the encoded bytes."""

    timestamp: int
    key: bool
    data: bytes


@dataclass(frozen=True)
class Encoded:
    packets: list[Packet]
    extra: bytes = b""
    """Description for a decoder, or the initialization segment."""


def picture(number: int) -> av.VideoFrame:
    left, right = (RED, BLUE) if number // GROUP % 2 == 0 else (BLUE, RED)
    frame = av.VideoFrame(WIDTH, HEIGHT, "yuv420p")
    for index, plane in enumerate(frame.planes):
        half = plane.width // 2
        line = bytes([left[index]]) * half + bytes([right[index]]) * half
        plane.update(line.ljust(plane.line_size, b"\0") * plane.height)
    frame.pts, frame.time_base = number, Fraction(1, RATE)
    return frame


def pictures() -> Iterator[av.VideoFrame]:
    return (picture(number) for number in range(SECONDS * RATE))


def sounds() -> Iterator[av.AudioFrame]:
    wave = struct.pack("<h", 8000) * (PERIOD // 2) + struct.pack("<h", -8000) * (PERIOD // 2)
    for number in range(SECONDS * HERTZ // PIECE):
        frame = av.AudioFrame("s16", "mono", PIECE)
        frame.planes[0].update(wave * (PIECE // PERIOD))
        frame.sample_rate = HERTZ
        frame.pts, frame.time_base = number * PIECE, Fraction(1, HERTZ)
        yield frame


def add_stream(container: av.container.OutputContainer, codec: str) -> tuple[Any, Iterator[Any]]:
    if codec in QUICK:
        stream = container.add_stream(codec, rate=RATE, options={**QUICK[codec], "g": str(GROUP)})
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        return stream, pictures()
    return container.add_stream(codec, rate=HERTZ, layout="mono"), sounds()


def mux(codec: str, form: str, options: dict[str, str] | None = None) -> bytes:
    out = io.BytesIO()
    with av.open(out, "w", format=form, options=options or {}) as container:
        stream, frames = add_stream(container, codec)
        for frame in frames:
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return out.getvalue()


@functools.cache
def encoded(codec: str, form: str = "matroska") -> Encoded:
    """Packets with their description: in Matroska and MP4 H.264 has lengths, in MPEG-TS start codes."""
    return demuxed(mux(codec, form))


def demuxed(data: bytes) -> Encoded:
    with av.open(io.BytesIO(data), "r") as container:
        stream = container.streams[0]
        packets = [packet for packet in container.demux(stream) if packet.size]
        scale = float(stream.time_base or 0) * 1_000_000
        first = packets[0].pts or 0  # before 0 with sound, and at 1.4 s in MPEG-TS
        return Encoded(
            [
                Packet(round(((packet.pts or 0) - first) * scale), packet.is_keyframe, bytes(packet))
                for packet in packets
            ],
            stream.codec_context.extradata or b"",
        )


@functools.cache
def fragmented(codec: str) -> Encoded:
    """CMAF: a chunk for each frame."""
    with_times = encoded(codec).packets
    header, chunks = chunks_of(mux(codec, "mp4", FRAGMENTED))
    return Encoded(
        [
            Packet(packet.timestamp, packet.key, chunk)
            for packet, chunk in zip(with_times, chunks, strict=False)
        ],
        header,
    )


def chunks_of(data: bytes) -> tuple[bytes, list[bytes]]:
    """The initialization segment and the chunks of fragmented MP4."""
    header, chunks = b"", list[bytes]()
    for name, box in boxes(data):
        if name in (b"ftyp", b"moov"):
            header += box
        elif name == b"moof":
            chunks.append(box)
        elif name == b"mdat":
            chunks[-1] += box
    return header, chunks


def boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    start = 0
    while start < len(data):
        size, name = struct.unpack_from(">I4s", data, start)
        yield name, data[start : start + size]
        start += size


# -- containers


def varint(value: int) -> bytes:
    for bits, prefix in ((6, 0), (14, 1), (30, 2), (62, 3)):
        if value < 1 << bits:
            return (prefix << bits | value).to_bytes((bits + 2) // 8, "big")
    raise ValueError(value)


def legacy(packet: Packet) -> bytes:
    return varint(packet.timestamp) + packet.data


def loc(packet: Packet) -> bytes:
    """Timescale (8) and timestamp (16, written as the difference of 8): in milliseconds."""
    properties = varint(8) + varint(1000) + varint(8) + varint(packet.timestamp // 1000)
    return varint(len(properties)) + properties + packet.data


def bare(packet: Packet) -> bytes:
    return packet.data


Container = Callable[[Packet], bytes]


@dataclass(frozen=True)
class Media:
    """A track to publish."""

    name: str
    source: Encoded
    container: Container
    group: int = GROUP

    async def publish(self, publication: Any, length: float) -> None:
        """Frames as time goes on, from the start again after `length` seconds, if the container allows that."""
        track = publication.track(self.name)
        loop = asyncio.get_running_loop()
        start = loop.time()
        group: Any = None
        rounds: Any = itertools.count() if self.container is not bare else range(1)
        for turn in rounds:
            for number, packet in enumerate(self.source.packets):
                later = Packet(packet.timestamp + int(turn * length * 1_000_000), packet.key, packet.data)
                await asyncio.sleep(start + later.timestamp / 1_000_000 - loop.time())
                if number % self.group == 0:
                    if group is not None:
                        group.finish()
                    group = track.group()
                group.write(self.container(later), later.timestamp)


@contextlib.asynccontextmanager
async def live(
    url: str, path: str, catalog: dict[str, bytes], tracks: list[Media]
) -> AsyncIterator[tuple[Client, Publication]]:
    """A broadcast of our own client: `catalog` has the payload of each catalog track."""
    async with await Client.connect(url) as client:
        publication = client.publish(path)
        for name, payload in catalog.items():
            write_catalog(publication, name, payload)
        publishing = asyncio.gather(*(track.publish(publication, SECONDS) for track in tracks))
        try:
            yield client, publication
        finally:
            publishing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await publishing


def write_catalog(publication: Publication, name: str, payload: bytes) -> None:
    track = publication.tracks[name] if name in publication.tracks else publication.track(name)
    group = track.group()
    group.write(payload)
    group.finish()


def as_json(value: object) -> bytes:
    return json.dumps(value).encode()


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()
