"""Writes frames into a file or a pipe by PyAV: fragmented MP4, Matroska, WebM or MPEG-TS.

Whatever was written can be played if the command is killed. Everything here blocks.
"""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from relay.media import mp4
from relay.media.errors import MediaError
from relay.media.library import load, reason_of
from relay.media.unpacking import Frame, Unpacker

if TYPE_CHECKING:
    from av.stream import Stream

FORMATS: Final = {
    ".mp4": "mp4",
    ".m4v": "mp4",
    ".mov": "mov",
    ".m4a": "mp4",
    ".mkv": "matroska",
    ".mka": "matroska",
    ".webm": "webm",
    ".ts": "mpegts",
}
"""FFmpeg's names, by the ending of a file."""

HELD: Final = {
    "mpegts": ("avc1", "avc3", "hvc1", "hev1", "mp4a", "opus"),
    "webm": ("vp8", "vp09", "av01", "opus"),
}
"""First parts of the codecs that a format holds, of those that do not hold all."""

PIPED: Final = "matroska"  # it holds every codec, and needs no way back

OPTIONS: Final[dict[str, dict[str, str]]] = {
    "mp4": {"movflags": "frag_keyframe+delay_moov+default_base_moof", "frag_duration": "2000000"},
    "mov": {"movflags": "frag_keyframe+delay_moov+default_base_moof", "frag_duration": "2000000"},
    "matroska": {"live": "1", "cluster_time_limit": "1000"},
    "webm": {"live": "1", "cluster_time_limit": "1000"},
}

UNIT: Final = Fraction(1, 1_000_000)

PATIENCE: Final = 5_000_000
"""Microseconds of one track after which the file begins without those that have sent nothing."""

MAX_DELAY: Final = 16
"""Frames that a decoder may hold back to put them in order (H.264 and H.265)."""


REORDERED: Final = 2
"""Frames that most encoders hold back at most, where only the catalog's jitter tells that they do."""


class Clock:
    """Times to decode at, for frames in the order of decoding that have a time of presentation alone.

    The time to decode the n-th frame is the n-th smallest time of presentation, some frames earlier.
    """

    def __init__(self, delay: int, step: int) -> None:
        """`delay` counts the frames that are reordered at most, `step` is the distance of two, in microseconds."""
        self._delay, self._step = delay, step
        self._times: list[int] = []
        self._last: int | None = None

    def next(self, time: int) -> int:
        """When to decode the frame that is presented at `time`."""
        if not self._times:
            self._times = [time - (self._delay - number) * self._step for number in range(self._delay)]
        self._times = sorted((*self._times, time))
        due = self._times.pop(0)
        if self._last is not None and due <= self._last:
            due = self._last + 1
        self._last = due
        return due


class Track:
    """One track of the file."""

    def __init__(self, unpacker: Unpacker) -> None:
        self.unpacker = unpacker
        self.early: deque[Frame] = deque()  # until the file begins
        self.stream: Stream | None = None
        self.clock = Clock(0, 0)
        self.lead = 0  # microseconds that the first frame is decoded before it is presented

    def open(self, output: Any, inputs: ExitStack) -> None:
        """Add a stream for this track to the file; it needs its first frame."""
        header = self.unpacker.header
        assert header is not None
        first = self.early[0]
        sample = mp4.fragment(1, 0, 0, first.duration, first.data, key=True)
        opened = inputs.enter_context(load().open(io.BytesIO(header + sample), "r", format="mp4"))
        template = opened.streams[0]
        self.stream = output.add_stream_from_template(template, opaque=True)
        rendition = self.unpacker.rendition
        if rendition.kind == "video" and rendition.codec.startswith(("avc", "hvc", "hev")):
            delay = min(MAX_DELAY, max(template.codec_context.reorder_depth, self._hinted()))
            step = first.duration or 1
            self.clock = Clock(delay, step)
            self.lead = delay * step

    def _hinted(self) -> int:
        """Frames that the catalog's jitter lets expect out of order."""
        rendition = self.unpacker.rendition
        return REORDERED if rendition.jitter * rendition.framerate >= REORDERED else 0


class Recorder:
    """A file that frames are written to. Call `close` at the end."""

    def __init__(self, file: str | BinaryIO, kind: str, unpackers: Iterable[Unpacker]) -> None:
        """`kind` is FFmpeg's name of the format. MediaError if it does not hold what there is."""
        self._kind = kind
        self._file = file
        self._files = ExitStack()
        self._name = file if isinstance(file, str) else "standard output"
        self._tracks = {unpacker.rendition.kind: Track(unpacker) for unpacker in unpackers}
        for track in self._tracks.values():
            codec = track.unpacker.rendition.codec
            if codec.partition(".")[0] not in HELD.get(kind, (codec.partition(".")[0],)):
                raise MediaError(f"{kind} does not hold {codec}; .mkv does")
        self._output: Any = None  # from the first frames on
        self._start: int | None = None  # of the file, in the time of the broadcast
        self._shift = 0
        self._joins = self._failed = False
        self.end = 0
        """microseconds of the file so far, of its picture if it has one"""

    def join(self) -> None:
        """What follows comes from another session: it goes on where the file ends, if its time began anew."""
        self._joins = True

    def write(self, frames: Iterable[Frame]) -> None:
        """Write frames, each track's in the order of decoding. MediaError if the format does not take them.

        BrokenPipeError if the reader of a pipe has left.
        """
        with self._failing("write"):
            for frame in frames:
                self._write(frame)

    def close(self) -> None:
        """Complete the file. Raises the errors of `write`, unless it has failed before."""
        with self._failing("complete"), self._files:
            if self._start is None and any(track.early for track in self._tracks.values()):
                self._begin()
            if self._output is not None:
                self._output.close()

    @contextmanager
    def _failing(self, what: str) -> Iterator[None]:
        try:
            yield
        except (load().FFmpegError, OSError) as error:
            told, self._failed = self._failed, True
            if told:
                return
            if isinstance(error, BrokenPipeError):
                raise
            raise MediaError(f"cannot {what} {self._name}: {reason_of(error)}") from error

    def _write(self, frame: Frame) -> None:
        track = self._tracks.get(frame.kind)
        if track is None:
            return
        if self._start is not None:
            self._mux(track, frame)
            return
        if not track.early and not frame.key:
            return
        track.early.append(frame)
        late = track.early[-1].time - track.early[0].time > PATIENCE
        if late or all(other.early for other in self._tracks.values()):
            self._begin()

    def _begin(self) -> None:
        """Write the file's header, and the frames that have waited."""
        self._tracks = {kind: track for kind, track in self._tracks.items() if track.early}
        tracks = list(self._tracks.values())
        # pictures first: sound from before the first one is of no use
        leading = self._tracks.get("video", tracks[0])
        self._start = leading.early[0].time
        # FFmpeg itself would not tell of a full disk, should it write an MP4
        file = self._file
        if isinstance(file, str):
            file = self._files.enter_context(Path(file).open("wb", buffering=0))  # noqa: SIM115
        self._output = load().open(file, "w", format=self._kind, options=OPTIONS.get(self._kind, {}))
        with ExitStack() as inputs:
            try:
                for track in tracks:
                    track.open(self._output, inputs)
                self._output.start_encoding()
            except ValueError as error:
                codecs = ", ".join(track.unpacker.rendition.codec for track in tracks)
                raise MediaError(f"{self._kind} does not hold {codecs}; .mkv does") from error
        waiting = sorted((frame.time, kind) for kind, track in self._tracks.items() for frame in track.early)
        for _, kind in waiting:
            track = self._tracks[kind]
            self._mux(track, track.early.popleft())

    def _mux(self, track: Track, frame: Frame) -> None:
        assert self._start is not None
        time = frame.time - self._start + self._shift
        if self._joins:
            self._joins = False
            if time < self.end:
                self._shift += self.end - time
                time = self.end
        if time < 0:
            return
        if track.stream is None:
            return
        lead = max(other.lead for other in self._tracks.values())
        packet = load().Packet(frame.data)
        due = track.clock.next(time)
        packet.dts, packet.pts = due + lead, max(due, time) + lead
        packet.duration = frame.duration
        packet.time_base = UNIT
        packet.stream = track.stream
        packet.is_keyframe = frame.key
        if frame.kind == "video" or "video" not in self._tracks:
            self.end = max(self.end, time + frame.duration)
        self._output.mux_one(packet)
