"""The catalog of hang: what we write, and what others write."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from relay.media import catalog
from relay.media.catalog import Reader, Rendition
from relay.media.errors import MediaError

VIDEO = Rendition(
    *("video", "video/hd", "avc1.64001f"),
    description=b"\1\x64\0\x1f",
    width=1280,
    height=720,
    framerate=29.97,
    bitrate=2_000_000,
    jitter=0.1,
)
SOUND = Rendition("audio", "audio/data", "opus", sample_rate=48_000, channels=2)


def read(value: Any) -> tuple[Rendition, ...]:
    return Reader().add(json.dumps(value).encode(), first=True)


def test_what_is_written_is_read() -> None:
    cmaf = replace(VIDEO, track="video/sd", container=catalog.CMAF, init=b"\0\1\2")
    assert Reader().add(catalog.encode([VIDEO, cmaf, SOUND]), first=True) == (VIDEO, cmaf, SOUND)


def test_the_json_is_that_of_hang() -> None:
    assert json.loads(catalog.encode([VIDEO, SOUND])) == {
        "video": {
            "renditions": {
                "video/hd": {
                    "codec": "avc1.64001f",
                    "container": {"kind": "legacy"},
                    "description": "0164001f",
                    "codedWidth": 1280,
                    "codedHeight": 720,
                    "framerate": 29.97,
                    "bitrate": 2_000_000,
                    "jitter": 100,
                }
            }
        },
        "audio": {
            "renditions": {
                "audio/data": {
                    "codec": "opus",
                    "container": {"kind": "legacy"},
                    "sampleRate": 48_000,
                    "numberOfChannels": 2,
                }
            }
        },
    }


def test_changes_of_a_group() -> None:
    reader = Reader()
    reader.add(catalog.encode([VIDEO, SOUND]), first=True)
    patch = {"video": {"renditions": {"video/hd": {"bitrate": 1, "jitter": None}}}, "audio": None}
    assert reader.add(json.dumps(patch).encode(), first=False) == (replace(VIDEO, bitrate=1, jitter=0),)
    assert reader.add(catalog.encode([SOUND]), first=True) == (SOUND,)


def test_what_others_write() -> None:
    old = [{"track": {"name": "video"}, "config": {"codec": "vp8"}}, {"track": 1}, 2]
    assert read({"video": old, "audio": {"renditions": {"a": {"codec": "opus", "container": "cmaf"}}}}) == (
        Rendition("video", "video", "vp8"),
        Rendition("audio", "a", "opus", container="cmaf"),
    )
    odd = {
        "codec": "vp8",
        "container": {"kind": "new"},
        "codedWidth": "wide",
        "framerate": -1,
        "bitrate": True,
    }
    assert read({"video": {"renditions": {"v": odd, "w": 1, "x": {}}}, "audio": {}, "other": 1}) == (
        Rendition("video", "v", "vp8", container="new"),
    )


@pytest.mark.parametrize(
    "frame",
    [
        b"{",
        b"[]",
        b"\xff",
        b'{"video":{"renditions":{"v":{"codec":"vp8","description":"xy"}}}}',
        b'{"video":{"renditions":{"v":{"codec":"vp8","container":{"kind":"cmaf","init":"*"}}}}}',
    ],
)
def test_what_is_no_catalog(frame: bytes) -> None:
    with pytest.raises(MediaError, match="catalog"):
        Reader().add(frame, first=True)


def test_the_best() -> None:
    small = replace(VIDEO, track="video/sd", width=640, height=360)
    unknown = replace(VIDEO, width=9999, container="new")
    assert catalog.best([small, VIDEO, unknown, SOUND], "video") == VIDEO
    assert catalog.best([small], "audio") is None


@pytest.mark.parametrize(
    ("reference", "expected"),
    [("", "a/b"), ("./c", "a/c"), ("c/d", "a/c/d"), ("../c", "c"), ("..", ""), (".", "a")],
)
def test_the_broadcast_of_a_track(reference: str, expected: str) -> None:
    assert catalog.broadcast_of("a/b", replace(VIDEO, broadcast=reference)) == expected


def test_a_broadcast_outside_of_the_root() -> None:
    with pytest.raises(MediaError, match="outside of the root"):
        catalog.broadcast_of("a/b", replace(VIDEO, broadcast="../../c"))
