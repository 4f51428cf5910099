"""Encodes what players do not take: pictures to H.264, or to VP8 where libx264 is missing, and sound to Opus."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final, Protocol

from relay.media.errors import MediaError
from relay.media.library import load, reason_of

if TYPE_CHECKING:
    import av
    from av.audio.codeccontext import AudioCodecContext
    from av.audio.stream import AudioStream
    from av.packet import Packet
    from av.video.codeccontext import VideoCodecContext
    from av.video.stream import VideoStream

GROUP_SECONDS: Final = 2
"""Between key frames: how long a late viewer of a paused picture waits at most, and what a group costs to keep."""

MAX_RATE: Final = 60  # pictures a second, if the input names more or none

BITS_PER_PIXEL: Final = 0.08
MIN_BITRATE: Final = 300_000  # bits a second

OPUS_RATE: Final = 48_000  # hertz
OPUS_FRAME: Final = 960  # samples: 20 ms
OPUS_BITRATE: Final = {1: 64_000, 2: 96_000}  # bits a second, by channels

VIDEO_ENCODERS: Final = (
    ("libx264", "h264", {"preset": "veryfast", "tune": "zerolatency", "bf": "0"}),
    ("libvpx", "vp8", {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0"}),
)
"""Encoder, codec, and options for little delay; the first one that this FFmpeg has."""


class Encoder(Protocol):
    """Packets of another codec for the packets of a stream."""

    codec: str
    """FFmpeg's name of what it makes."""

    def encode(self, packet: Packet[Any]) -> Iterator[Packet[Any]]:
        """The packets that are ready after this one. A packet without data flushes the encoder."""
        ...


class VideoEncoder:
    """Pictures to H.264 or VP8."""

    def __init__(self, stream: VideoStream) -> None:
        self._stream = stream
        rate = stream.average_rate or stream.guessed_rate or Fraction(30)
        self.rate = min(rate, Fraction(MAX_RATE))
        self.codec, options, name = next(
            ((codec, options, name) for name, codec, options in VIDEO_ENCODERS if has_encoder(name)),
            ("", {}, ""),
        )
        if not name:
            raise MediaError("this FFmpeg has neither libx264 nor libvpx to encode with")
        self.width, self.height = stream.width & ~1, stream.height & ~1
        bitrate = max(MIN_BITRATE, int(self.width * self.height * self.rate * Fraction(BITS_PER_PIXEL)))
        context: VideoCodecContext = load().CodecContext.create(name, "w")
        context.width, context.height = self.width, self.height
        context.pix_fmt = "yuv420p"
        context.framerate = self.rate
        context.time_base = stream.time_base or Fraction(1, 90_000)
        context.gop_size = max(1, round(GROUP_SECONDS * self.rate))
        context.bit_rate = self.bitrate = bitrate
        context.options = {**options, "maxrate": str(bitrate), "bufsize": str(2 * bitrate)}
        self._context = context

    def encode(self, packet: Packet[Any]) -> Iterator[Packet[Any]]:
        for frame in self._stream.codec_context.decode(packet if packet.size else None):
            if frame.pts is None:
                continue
            made = frame.reformat(self.width, self.height, "yuv420p")
            made.pts, made.time_base = frame.pts, frame.time_base
            made.pict_type = 0
            yield from self._context.encode(made)
        if not packet.size:
            yield from self._context.encode(None)


class AudioEncoder:
    """Sound to Opus, mono or stereo."""

    codec = "opus"
    rate = OPUS_RATE

    def __init__(self, stream: AudioStream) -> None:
        av = load()
        self._stream = stream
        if not has_encoder("libopus"):
            raise MediaError("this FFmpeg has no libopus to encode with")
        self.channels = min(2, stream.channels or 2)
        layout = "mono" if self.channels == 1 else "stereo"
        self.bitrate = OPUS_BITRATE[self.channels]
        self._resampler = av.AudioResampler("s16", layout, OPUS_RATE, OPUS_FRAME)
        context: AudioCodecContext = av.CodecContext.create("libopus", "w")
        context.layout, context.sample_rate, context.format = layout, OPUS_RATE, "s16"
        context.bit_rate = self.bitrate
        context.time_base = Fraction(1, OPUS_RATE)
        self._context = context

    def encode(self, packet: Packet[Any]) -> Iterator[Packet[Any]]:
        for frame in self._stream.codec_context.decode(packet if packet.size else None):
            yield from self._encode(frame)
        if not packet.size:
            yield from self._encode(None)
            yield from self._context.encode(None)

    def _encode(self, frame: av.AudioFrame | None) -> Iterator[Packet[Any]]:
        for part in self._resampler.resample(frame):
            yield from self._context.encode(part)


def has_encoder(name: str) -> bool:
    """This FFmpeg has the encoder `name`."""
    av = load()
    try:
        av.Codec(name, "w")
    except av.codec.codec.UnknownCodecError:
        return False
    return True


def encoder_of(stream: Any) -> VideoEncoder | AudioEncoder:
    """An encoder for a stream that players do not take; MediaError if there is none."""
    av = load()
    try:
        return VideoEncoder(stream) if stream.type == "video" else AudioEncoder(stream)
    except (av.FFmpegError, ValueError) as error:
        raise MediaError(f"cannot encode {stream.name}: {reason_of(error)}") from error
