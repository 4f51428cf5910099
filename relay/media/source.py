"""Reads a file, a device or a URL by PyAV, packet by packet. Everything here blocks: it runs in a thread.

Streams whose codec players take are passed on as they are. The form of a stream's packets follows its container, as
with other hang publishers: with a configuration record (mp4, mkv) that is the rendition's description, without one
(MPEG-TS) the parameter sets of H.264 and H.265 stand before each key frame. AAC always comes without ADTS headers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from relay.media import codecs
from relay.media.bits import adts_frame, is_annex_b, nal_units
from relay.media.catalog import CMAF, LEGACY, Rendition
from relay.media.codecs import Described
from relay.media.errors import MediaError
from relay.media.form import Mp4Form
from relay.media.library import load, reason_of, shown
from relay.media.transcoding import AudioEncoder, VideoEncoder, encoder_of

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet

TEST_SOURCE: Final = "testsrc"
TEST_GRAPH: Final = (
    "testsrc2=size=1280x720:rate=30[out0];sine=frequency=440:beep_factor=4:sample_rate=48000[out1]"
)
"""A moving picture that shows the time since the start, and a tone with a beep each second."""

MICROSECONDS: Final = 1_000_000
OPEN_TIMEOUT: Final = 15.0  # seconds, for inputs of the network
READ_TIMEOUT: Final = 15.0

PROBED_PACKETS: Final = 2_000
"""Read at most to learn the codecs of all streams: some seconds of most inputs."""

JUMP: Final = 10 * MICROSECONDS
"""A step of a live input's timestamps that is taken for a new start of its clock."""

PACED: Final = ("", "file", "http", "https", "lavfi")
"""Schemes of inputs that can be read faster than they play."""

TRACKS: Final = {"video": "video/hd", "audio": "audio/data"}
"""Names of tracks, as other publishers have them."""


@dataclass(frozen=True, slots=True)
class Input:
    """What to read."""

    place: str
    """a file, a device or a URL"""

    format: str | None = None
    """FFmpeg's name of the input format, where it cannot be guessed"""

    options: tuple[tuple[str, str], ...] = ()
    """of FFmpeg's demuxer or protocol"""

    transcode: bool = False
    container: str = LEGACY

    @property
    def shown(self) -> str:
        """Without what may be a password."""
        return shown(self.place)

    @property
    def scheme(self) -> str:
        if self.is_test or self.format == "lavfi":
            return "lavfi"
        if "://" not in self.place:
            return "device" if self.format in DEVICES else ""
        return self.place.partition("://")[0].lower()

    @property
    def is_test(self) -> bool:
        return self.place == TEST_SOURCE and self.format is None and not Path(TEST_SOURCE).exists()

    @property
    def live(self) -> bool:
        """It comes in real time by itself."""
        return self.scheme not in PACED

    @property
    def missing(self) -> bool:
        """It is a file that does not exist. Names with `:` or `%` may be protocols and patterns of FFmpeg."""
        plain = not self.scheme and not set(":%") & set(self.place) and self.place != "-"
        return plain and not Path(self.place).exists()

    @property
    def remote(self) -> bool:
        """It can go away and come back."""
        return self.scheme not in ("", "file", "lavfi")


DEVICES: Final = (
    "v4l2",
    "video4linux2",
    "alsa",
    "pulse",
    "x11grab",
    "avfoundation",
    "dshow",
    "kmsgrab",
    "fbdev",
)


@dataclass(frozen=True, slots=True)
class Sample:
    """One frame, encoded. Times count in microseconds since the start of the input."""

    kind: str
    data: bytes
    time: int
    """of presentation"""

    due: int
    """when a decoder needs it"""

    duration: int
    key: bool


class StreamReader:
    """One stream of an input: its packets as samples, and its rendition once that is known."""

    def __init__(self, stream: Any, encoder: VideoEncoder | AudioEncoder | None, container: str) -> None:
        self.kind: str = stream.type
        self._container = container
        self._form: Mp4Form | None = None  # of CMAF
        self.rendition: Rendition | None = None
        self._stream = stream
        self._encoder = encoder
        self._codec: str = encoder.codec if encoder else stream.codec_context.name
        self._codec = CODEC_NAMES.get(self._codec, self._codec)
        extradata = b"" if encoder else stream.codec_context.extradata or b""
        # a record of the container, or the parameter sets as they stand in the stream
        self._sets = extradata if is_annex_b(extradata) else b""
        self._described: Described | None = None
        if not self._sets:
            self._describe(extradata)
        self._last_due: int | None = None
        self._shift = 0
        self._step = 0

    def samples(self, packet: Packet[Any], base: int, *, live: bool) -> Iterator[Sample]:
        """The samples of a packet, `base` microseconds into the input's own time."""
        ends = packet.pts is None and packet.dts is None
        if not packet.size and not ends:
            return  # a picture that is shown for longer
        if self._encoder:
            packets: Iterator[Packet[Any]] = self._encoder.encode(packet)
        else:
            packets = iter((packet,) if packet.size else ())
        for encoded in packets:
            found = self._sample(encoded, base, live=live)
            if found is not None:
                yield found

    def _sample(self, packet: Packet[Any], base: int, *, live: bool) -> Sample | None:
        stamp = packet.pts if packet.pts is not None else packet.dts
        if stamp is None or packet.is_discard:
            return None
        unit = packet.time_base or self._stream.time_base
        time = int(stamp * unit * MICROSECONDS) - base
        if packet.dts is not None:
            due = int(packet.dts * unit * MICROSECONDS) - base
        else:  # some containers leave it open for the first frames
            due = min(time, time if self._last_due is None else self._last_due)
        duration = int((packet.duration or 0) * unit * MICROSECONDS)
        if live:
            time, due = self._steady(time, due, duration)
        self._last_due = due
        key = self.kind == "audio" or packet.is_keyframe
        data = self._formed(bytes(packet), key=key)
        if self.rendition is None or not data:
            return None
        if time < 0 and self.kind == "audio":
            return None  # the run-in of an encoder, which an edit list cuts off
        return Sample(self.kind, data, max(0, time), due, duration, key)

    def _formed(self, data: bytes, *, key: bool) -> bytes:
        """A frame in the form that the rendition has; empty if nothing tells yet how to decode it."""
        if self._codec == "aac" and (found := adts_frame(data)):
            config, data = found
            if self._described is None:
                self._describe(config)
        elif key and self._codec in ("h264", "hevc") and not self._has_record:
            data = self._with_sets(data)
        return data if self._form is None else self._packed(self._form, data, key=key)

    @property
    def _has_record(self) -> bool:
        return self._described is not None and self._described.description is not None

    def _steady(self, time: int, due: int, duration: int) -> tuple[int, int]:
        """Continue the time when the clock of a live input starts anew."""
        last = self._last_due
        if last is not None and not last - JUMP < due + self._shift < last + JUMP:
            self._shift = last + (duration or self._step) - due
        due += self._shift
        if last is not None and due > last:
            self._step = due - last
        return time + self._shift, due

    def _with_sets(self, data: bytes) -> bytes:
        """A key frame with its parameter sets before it."""
        kinds = [unit[0] & 31 if self._codec == "h264" else unit[0] >> 1 & 63 for unit in nal_units(data)]
        wanted = codecs.H264_SPS if self._codec == "h264" else codecs.H265_SPS
        if wanted not in kinds:
            if not self._sets:
                return b""  # nothing can be decoded yet
            data = self._sets + data
        if self._described is None:
            self._describe(data)
        return data

    def _packed(self, form: Mp4Form, data: bytes, *, key: bool) -> bytes:
        """A frame as CMAF has it."""
        data = form.plain(data, key=key)
        if self.rendition is None and (init := form.header) is not None:
            self.rendition = replace(form.rendition, container=CMAF, init=init)
        return data

    def _describe(self, extradata: bytes) -> None:
        """Set the rendition, if `extradata` tells enough."""
        context = self._stream.codec_context
        described = None
        match self._codec:
            case "h264" if extradata:
                described = codecs.h264(extradata)
            case "hevc" if extradata:
                described = codecs.h265(extradata)
            case "vp8":
                described = Described("vp8")
            case "vp9":
                pixel = context.format
                depth = pixel.components[0].bits if pixel and pixel.components else 8
                profile = next((digit for digit in str(context.profile) if digit.isdigit()), "0")
                described = codecs.vp9(int(profile), context.width * context.height, depth)
            case "av1":
                described = codecs.av1(extradata)
            case "aac" if extradata:
                described = codecs.aac(extradata)
            case "opus":
                described = codecs.opus(extradata)
        if described is not None:
            self._described = described
            rendition = self._rendition(described)
            if self._container == CMAF:
                self._form = Mp4Form(rendition)
            else:
                self.rendition = rendition

    def _rendition(self, described: Described) -> Rendition:
        common: dict[str, Any] = {
            "kind": self.kind,
            "track": TRACKS[self.kind],
            "codec": described.codec,
            "description": described.description,
        }
        context, encoder = self._stream.codec_context, self._encoder
        bitrate = encoder.bitrate if encoder else context.bit_rate or 0
        if self.kind == "audio":
            rate = OPUS_RATE if self._codec == "opus" else context.sample_rate
            channels = encoder.channels if isinstance(encoder, AudioEncoder) else context.channels
            return Rendition(**common, sample_rate=rate, channels=channels, bitrate=bitrate)
        if isinstance(encoder, VideoEncoder):
            framerate, width, height, depth = encoder.rate, encoder.width, encoder.height, 0
        else:
            framerate = self._stream.average_rate or Fraction(0)
            width, height, depth = context.width, context.height, context.reorder_depth
        # a frame is sent when a decoder needs it: of reordered ones some come late for their own time
        jitter = (2 * depth + 1) / framerate if framerate else 0
        return Rendition(
            **common,
            width=width,
            height=height,
            framerate=round(float(framerate), 3),
            bitrate=bitrate,
            jitter=float(jitter),
        )


OPUS_RATE: Final = 48_000  # hertz, whatever it was made from
CODEC_NAMES: Final = {"libdav1d": "av1", "libvpx": "vp8", "libvpx-vp9": "vp9", "libopus": "opus"}
"""Decoders of another name than their codec."""


class Source:
    """An open input."""

    def __init__(self, wanted: Input) -> None:
        """Open it, and read until its codecs are known. Raises MediaError and InputGone."""
        self._wanted = wanted
        self._container = open_container(wanted)
        try:
            self._readers = self._choose()
            self.end = 0  # microseconds, of the samples so far
            self._base: int | None = None
            self._early: deque[Sample] = deque()
            self._packets = self._demux()
            self._probe()
        except BaseException:
            self.close()
            raise

    @property
    def renditions(self) -> tuple[Rendition, ...]:
        return tuple(reader.rendition for reader in self._readers.values() if reader.rendition)

    def samples(self) -> Iterator[Sample]:
        """All samples in the order of the input; InputGone if it breaks off."""
        while self._early:
            yield self._counted(self._early.popleft())
        for sample in self._packets:
            yield self._counted(sample)

    def close(self) -> None:
        self._container.close()

    def _counted(self, sample: Sample) -> Sample:
        self.end = max(self.end, sample.time + sample.duration)
        return sample

    def _choose(self) -> dict[int, StreamReader]:
        """Readers of the best picture and the best sound, by stream index."""
        streams = self._container.streams
        chosen = [streams.best("video"), streams.best("audio")]
        readers = {}
        for stream in chosen:
            if stream is None or stream.codec_context is None:
                continue
            name = stream.codec_context.name
            fits = CODEC_NAMES.get(name, name) in codecs.VIDEO + codecs.AUDIO
            if not fits and not self._transcodes:
                raise MediaError(
                    f"{self._wanted.shown}: players do not take {name}, its {stream.type}; --transcode encodes it to "
                    f"{'H.264' if stream.type == 'video' else 'Opus'}"
                )
            readers[stream.index] = StreamReader(
                stream, None if fits else encoder_of(stream), self._wanted.container
            )
        if not readers:
            raise MediaError(f"{self._wanted.shown}: no video and no audio in it")
        return readers

    @property
    def _transcodes(self) -> bool:
        return self._wanted.transcode or self._wanted.is_test

    def _demux(self) -> Iterator[Sample]:
        av = load()
        streams = [self._container.streams[index] for index in self._readers]
        try:
            for packet in self._container.demux(*streams):
                if packet.is_corrupt:
                    continue
                if self._base is None and packet.size:
                    self._base = self._start_of(packet)
                # the empty packet at the end of each stream has the index 0
                reader = self._readers[packet.stream.index]
                yield from reader.samples(packet, self._base or 0, live=self._wanted.live)
        except av.FFmpegError as error:
            raise InputGone(f"{self._wanted.shown}: {reason_of(error)}") from error

    def _start_of(self, packet: Packet[Any]) -> int:
        """The start of the input in microseconds of its own time."""
        start: int | None = self._container.start_time
        if start is not None and not self._wanted.live:
            return start
        stamp = packet.dts if packet.dts is not None else packet.pts
        return int((stamp or 0) * packet.time_base * MICROSECONDS)

    def _probe(self) -> None:
        """Read until each stream's rendition is known."""
        for sample in self._packets:
            self._early.append(sample)
            if all(reader.rendition for reader in self._readers.values()):
                return
            if len(self._early) > PROBED_PACKETS:
                break
        if not any(reader.rendition for reader in self._readers.values()):
            raise MediaError(f"{self._wanted.shown}: no frame in it that can be decoded")


class InputGone(Exception):  # noqa: N818 - it says what happened
    """The input cannot be reached, or broke off; it may come back."""


def open_container(wanted: Input) -> InputContainer:
    """MediaError if another attempt would fail the same way, else InputGone."""
    av = load()
    options = dict(wanted.options)
    place, kind = wanted.place, wanted.format
    if wanted.is_test:
        place, kind = TEST_GRAPH, "lavfi"
    if wanted.scheme == "rtsp":
        options.setdefault("rtsp_transport", "tcp")
    timeout = (OPEN_TIMEOUT, READ_TIMEOUT) if wanted.remote else None
    try:
        opened: InputContainer = av.open(place, "r", format=kind, options=options, timeout=timeout)
    except (av.FFmpegError, ValueError) as error:
        fault = f"cannot open {wanted.shown}: {reason_of(error)}"
        if wanted.remote and not isinstance(error, (ValueError, *lasting(av))):
            raise InputGone(fault) from error
        raise MediaError(fault) from error
    return opened


def lasting(av: Any) -> tuple[type[Exception], ...]:
    """Errors of FFmpeg that another attempt does not cure."""
    return (
        av.error.LookupError,
        av.error.HTTPClientError,
        av.error.FileNotFoundError,
        av.error.PermissionError,
    )


Opener = Callable[[Input], Source]
