"""Inputs: what streams become, and what cannot be used."""

from __future__ import annotations

import itertools
from pathlib import Path

import av
import pytest

from relay.media import source, transcoding
from relay.media.catalog import CMAF, LEGACY
from relay.media.errors import MediaError
from relay.media.source import JUMP, Input, InputGone, Source, StreamReader
from tests.e2e.media_support import write_media


def codecs(wanted: Input) -> dict[str, str]:
    opened = Source(wanted)
    try:
        assert {sample.kind for sample in opened.samples()} == {found.kind for found in opened.renditions}
        return {found.kind: found.codec for found in opened.renditions}
    finally:
        opened.close()


def test_what_players_do_not_take_is_encoded(tmp_path: Path) -> None:
    old = str(write_media(tmp_path / "old.avi", video="mpeg4", audio="pcm_s16le", seconds=1))
    with pytest.raises(MediaError, match=r"do not take mpeg4, its video; --transcode encodes it to H\.264"):
        Source(Input(old))
    found = codecs(Input(old, transcode=True))
    assert found["video"].startswith("avc3.")
    assert found["audio"] == "opus"


@pytest.mark.parametrize(
    ("encoders", "codec"), [(transcoding.VIDEO_ENCODERS[1:], "vp8"), ((("no-encoder", "h264", {}),), None)]
)
def test_without_libx264(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoders: tuple[object, ...], codec: str | None
) -> None:
    old = str(write_media(tmp_path / "old.avi", video="mpeg4", audio=None, seconds=1))
    monkeypatch.setattr(transcoding, "VIDEO_ENCODERS", encoders)
    if codec is None:
        with pytest.raises(MediaError, match="neither libx264 nor libvpx"):
            Source(Input(old, transcode=True))
    else:
        assert codecs(Input(old, transcode=True)) == {"video": codec}


def test_sound_alone(tmp_path: Path) -> None:
    assert codecs(Input(str(write_media(tmp_path / "a.ogg", video=None, seconds=1)))) == {"audio": "opus"}
    assert codecs(Input(str(write_media(tmp_path / "a.aac", video=None, audio="aac", seconds=1)))) == {
        "audio": "mp4a.40.2"
    }


@pytest.mark.parametrize("container", [LEGACY, CMAF])
def test_the_form_of_a_stream(tmp_path: Path, container: str) -> None:
    path = str(write_media(tmp_path / "film.ts", audio="aac", seconds=1))
    opened = Source(Input(path, container=container))
    video, sound = opened.renditions
    opened.close()
    assert video.container == sound.container == container
    assert video.codec.startswith("avc1" if container == CMAF else "avc3")
    assert (video.init[4:8] == b"ftyp") == (container == CMAF)
    assert sound.description is not None
    assert video.jitter > 0.1  # it has B-frames


@pytest.mark.parametrize(
    ("place", "error"),
    [
        ("missing.mp4", MediaError),
        ("http://127.0.0.1:9/film.mp4", InputGone),
        ("nothing://h/film", MediaError),
    ],
)
def test_what_cannot_be_opened(place: str, error: type[Exception]) -> None:
    with pytest.raises(error, match="cannot open"):
        Source(Input(place))


def test_a_format_that_does_not_exist() -> None:
    with pytest.raises(MediaError, match=r"^cannot open film\.mp4: no container format 'mp5'$"):
        Source(Input("film.mp4", format="mp5"))


def test_a_file_without_media(tmp_path: Path) -> None:
    text = tmp_path / "notes.srt"
    text.write_text("1\n00:00:00,000 --> 00:00:01,000\nhello\n")
    with pytest.raises(MediaError, match="no video and no audio"):
        Source(Input(str(text)))


def test_the_clock_of_a_live_input_may_start_anew(tmp_path: Path) -> None:
    path = write_media(tmp_path / "a.ogg", video=None, seconds=1)
    with av.open(str(path)) as container:
        [stream] = container.streams
        reader = StreamReader(stream, None, LEGACY)
        times = []
        for number, packet in enumerate(container.demux(stream)):
            if packet.pts is not None and number >= 10:
                packet.pts += 2 * JUMP  # ticks of 1/48000 s: more than that in microseconds
                packet.dts = packet.pts
            times += [sample.due for sample in reader.samples(packet, 0, live=True)]
    steps = {after - before for before, after in itertools.pairwise(times)}
    assert max(steps) <= 21_000


def test_a_file_with_an_input_that_breaks_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_media(tmp_path / "film.ts", audio=None, seconds=1)
    opened = Source(Input(str(path)))
    monkeypatch.setattr(source, "reason_of", lambda _: "gone")

    def broken(*_: object, **__: object) -> object:
        raise av.error.ExitError(1, "gone")

    reader = next(iter(opened._readers.values()))
    monkeypatch.setattr(reader, "samples", broken)
    with pytest.raises(InputGone, match=r"film\.ts: gone"):
        list(opened.samples())
    opened.close()
