"""The wire: encoding and decoding of a control message, and of a group's frames."""

from __future__ import annotations

from typing import Any

import pytest

from relay.wire.decoder import RequestDecoder
from relay.wire.frame import GroupHeader, frame_header_plain, frame_header_timed, group_header, open_request
from relay.wire.frame_decoder import UniDecoder
from relay.wire.subscribe import Subscribe
from relay.wire.version import Version

VERSIONS = [Version.LITE_02, Version.LITE_04, Version.LITE_06]
MESSAGE = Subscribe(id=7, broadcast="room/123/camera", track="video/1080p", priority=3)
FRAMES = 60


@pytest.mark.parametrize("version", VERSIONS)
def test_encode_a_subscribe(benchmark: Any, version: Version) -> None:
    benchmark.group = "a control message"
    assert benchmark(open_request, version, MESSAGE)


@pytest.mark.parametrize("version", VERSIONS)
def test_decode_a_subscribe(benchmark: Any, version: Version) -> None:
    benchmark.group = "a control message"
    data = open_request(version, MESSAGE)

    def decode() -> object:
        return list(RequestDecoder(version).feed(data))

    assert benchmark(decode)


@pytest.mark.parametrize("size", [160, 8300])
@pytest.mark.parametrize("version", [Version.LITE_04, Version.LITE_06])
def test_decode_a_group_of_60_frames(benchmark: Any, version: Version, size: int) -> None:
    benchmark.group = "a group of 60 frames"
    timed = version >= Version.LITE_05
    head = frame_header_timed(33_333, size) if timed else frame_header_plain(size)
    frames = [head + bytes(size)] * FRAMES
    opening = group_header(version, GroupHeader(7, 1))

    def decode() -> int:
        decoder = UniDecoder(version)
        decoder.feed(opening)
        return sum(len(decoder.feed(frame)) for frame in frames)

    assert benchmark(decode) == 2 * FRAMES
