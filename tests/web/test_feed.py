"""The queue of a `/fetch` response, its frames, and its end."""

from __future__ import annotations

import asyncio

from relay.actors import messages as m
from relay.actors.reader import Over
from relay.model.group import FRAME_OVERHEAD, FrameStart
from relay.web.fetching import QUEUE_BYTES, FetchQueue, Frames
from relay.wire.errors import StreamCode
from relay.wire.frame import FrameHeader

PIECE = m.GroupFragment(1, first=True, start_frame=0, chunks=(b"x" * 1000,), fin=False, code=None)
OVER = Over(StreamCode.UNAUTHORIZED)


async def test_a_cut_comes_before_everything_that_waits() -> None:
    feed, cuts = FetchQueue(), []
    feed.on_cut = lambda: cuts.append(True)
    for _ in range(100):
        feed.put(PIECE)
    assert await feed.get() is PIECE
    feed.cut(OVER)
    feed.put(PIECE)
    assert await feed.get() is OVER
    assert cuts == [True]


async def test_a_cut_wakes_who_waits() -> None:
    feed = FetchQueue()
    waiting = asyncio.ensure_future(feed.get())
    await asyncio.sleep(0)
    feed.cut(OVER)
    assert await waiting is OVER


async def test_empty_frames_count_against_the_queue_too() -> None:
    feed = FetchQueue()
    feed.put(PIECE)
    await feed.get()
    empty = PIECE._replace(chunks=(FrameHeader(0, 0),) * 1000)
    for _ in range(QUEUE_BYTES // (1000 * FRAME_OVERHEAD) + 2):
        feed.put(empty)
    assert await feed.get() == Over(StreamCode.TOO_FAR_BEHIND, ours=True)


def test_frames_are_whole_though_their_chunks_and_groups_are_mixed() -> None:
    rows: list[tuple[int, int, int, bytes]] = []

    def encode(group: int, frame: int, start: FrameStart, payload: bytes) -> bytes:
        rows.append((group, frame, start.timestamp, payload))
        return payload

    def fragment(sequence: int, *chunks: object, fin: bool = False) -> m.GroupFragment:
        return m.GroupFragment(sequence, False, 5, chunks, fin, None)

    frames = Frames(encode)
    assert list(frames.take(fragment(1, FrameHeader(10, 4), b"ab"))) == []
    assert list(frames.take(fragment(2, FrameHeader(20, 0), FrameHeader(21, 1), b"x", fin=True))) == [
        b"",
        b"x",
    ]
    assert list(frames.take(fragment(1, b"cd", FrameHeader(11, 1), b"e", FrameHeader(12, 2)))) == [
        b"abcd",
        b"e",
    ]
    assert list(frames.take(fragment(1, b"fg", fin=True))) == [b"fg"]
    assert rows == [
        (2, 5, 20, b""),
        (2, 6, 21, b"x"),
        (1, 5, 10, b"abcd"),
        (1, 6, 11, b"e"),
        (1, 7, 12, b"fg"),
    ]
