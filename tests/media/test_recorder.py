"""Recordings: the order of frames, and files in which something is missing."""

from __future__ import annotations

import itertools
import os
from dataclasses import replace
from pathlib import Path

import av
import pytest

from relay.media.catalog import Rendition
from relay.media.errors import MediaError
from relay.media.recorder import Clock, Recorder
from relay.media.source import Input, Source
from relay.media.unpacking import Frame, Unpacker
from tests.e2e.media_support import number_of, write_media

SOUND = Rendition("audio", "audio/data", "opus", sample_rate=48_000, channels=1)
SILENCE = bytes.fromhex("f8fffe")


def test_times_to_decode_are_those_of_presentation_in_order() -> None:
    clock = Clock(2, 40)
    # I P B b b P
    shown = [0, 160, 80, 40, 120, 200]
    assert [clock.next(time) for time in shown] == [-80, -40, 0, 40, 80, 120]


def test_times_to_decode_grow_whatever_comes() -> None:
    clock = Clock(0, 0)
    assert [clock.next(time) for time in (0, 40, 40, 20)] == [0, 40, 41, 42]


def sounds(start: int, count: int) -> list[Frame]:
    return [Frame("audio", start + 20_000 * number, SILENCE, True, 20_000) for number in range(count)]


def pictures(path: Path) -> tuple[Unpacker, list[Frame]]:
    source = Source(Input(str(path)))
    [rendition] = source.renditions
    unpacker = Unpacker(rendition)
    frames = [
        Frame(sample.kind, sample.time, sample.data, sample.key, sample.duration)
        for sample in source.samples()
    ]
    source.close()
    return unpacker, frames


def numbers(path: Path) -> list[int]:
    with av.open(str(path)) as container:
        return [number_of(frame) for frame in container.decode(video=0)]


def test_a_track_that_sends_nothing_is_left_out(tmp_path: Path) -> None:
    video, frames = pictures(write_media(tmp_path / "in.mp4", audio=None, seconds=8))
    recorder = Recorder(str(tmp_path / "out.mkv"), "matroska", [video, Unpacker(SOUND)])
    recorder.write(frames[1:])  # from the second group on
    recorder.write(sounds(0, 1))
    recorder.close()
    assert numbers(tmp_path / "out.mkv") == list(range(10, 80))
    with av.open(str(tmp_path / "out.mkv")) as container:
        assert not container.streams.audio


def test_a_recording_that_ends_at_once_is_complete(tmp_path: Path) -> None:
    video, frames = pictures(write_media(tmp_path / "in.mp4", audio=None, seconds=1))
    recorder = Recorder(str(tmp_path / "out.mp4"), "mp4", [video, Unpacker(SOUND)])
    recorder.write(frames)
    recorder.close()
    assert numbers(tmp_path / "out.mp4") == list(range(10))


def test_nothing_is_written_without_a_frame(tmp_path: Path) -> None:
    Recorder(str(tmp_path / "out.mkv"), "matroska", [Unpacker(SOUND)]).close()
    assert not (tmp_path / "out.mkv").exists()


def test_sound_alone_goes_on_after_a_new_session(tmp_path: Path) -> None:
    out = tmp_path / "out.mka"
    recorder = Recorder(str(out), "matroska", [Unpacker(SOUND)])
    recorder.write(sounds(1_000_000, 5))
    recorder.join()
    recorder.write(sounds(0, 5))  # the publisher has begun anew
    recorder.join()
    recorder.write(sounds(1_000_000, 5))  # it has gone on
    recorder.close()
    assert recorder.end == 100_000 + 1_000_000 + 100_000
    with av.open(str(out)) as container:
        times = [packet.pts for packet in container.demux() if packet.pts is not None]
    assert times[:10] == list(range(0, 200, 20))
    assert all(before < after for before, after in itertools.pairwise(times))


def test_what_a_format_does_not_hold() -> None:
    with pytest.raises(MediaError, match=r"webm does not hold mp4a\.40\.2; \.mkv does"):
        Recorder("out.webm", "webm", [Unpacker(replace(SOUND, codec="mp4a.40.2"))])


@pytest.mark.parametrize("kind", ["mp4", "matroska", "mpegts"])
def test_a_disk_that_is_full(kind: str) -> None:
    recorder = Recorder("/dev/full", kind, [Unpacker(SOUND)])
    with pytest.raises(MediaError, match="/dev/full: No space left"):
        recorder.write(sounds(0, 20_000))
    recorder.close()


def test_a_file_that_cannot_be_made() -> None:
    with pytest.raises(MediaError, match=r"^cannot write nowhere/out\.mkv: No such file"):
        Recorder("nowhere/out.mkv", "matroska", [Unpacker(SOUND)]).write(sounds(0, 1))


def test_a_pipe_that_nobody_reads() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb", buffering=0) as pipe:
        recorder = Recorder(pipe, "matroska", [Unpacker(SOUND)])
        with pytest.raises(BrokenPipeError):
            recorder.write(sounds(0, 20_000))
        recorder.close()
