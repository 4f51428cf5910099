"""What a peer can make a connection hold or do with a few bytes of its own."""

from __future__ import annotations

from typing import Any

import pytest

from relay.transport.quic.fast.varint import varint
from tests.transport.lab import Lab, Network


@pytest.fixture(params=["fast", "pure", "stock"])
def lab(request: pytest.FixtureRequest) -> Lab:
    """An open connection; the server is of each kind, the client says what it is told to."""
    opened = Lab(("fast", request.param), 1, Network())
    opened.open()
    opened.settle(1.0)
    return opened


def say(lab: Lab, *frames: bytes) -> Any:
    """Let the client send `frames`. Returns the server's connection."""
    quic: Any = lab.client.quic
    quic._frames.extend((frame, None, ()) for frame in frames)
    lab.send("client")
    end = lab.now + 0.3
    while lab.step(end):
        pass
    return lab.server.quic


def stream_frame(stream_id: int, offset: int, data: bytes) -> bytes:
    return b"".join((b"\x0e", varint(stream_id), varint(offset), varint(len(data)), data))


def test_nothing_is_kept_of_what_waited_behind_a_hole_when_its_stream_is_reset(lab: Lab) -> None:
    """The window of the connection counts it no longer, and our half may stay open."""
    size = lab.server.quic._stream_window
    for stream_id in (0, 4, 8):
        reset = b"\x04" + varint(stream_id) + b"\x00" + varint(size)
        quic = say(lab, stream_frame(stream_id, size - 1, b"x"), reset)
    assert quic._close_event is None
    assert lab.server.resets == {0: 0, 4: 0, 8: 0}
    assert len(quic._streams) == 3
    assert not any(stream.receiver._buffer for stream in quic._streams.values())
    say(lab, stream_frame(0, 5, b"late"))
    assert quic._close_event is None
    assert not quic._streams[0].receiver._buffer
