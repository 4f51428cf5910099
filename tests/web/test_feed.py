"""What a reader of `/fetch` is fed with, and how that ends."""

from __future__ import annotations

import asyncio

from relay.actors import messages as m
from relay.actors.reader import Over
from relay.web.fetching import Feed
from relay.wire.errors import StreamCode

PIECE = m.GroupPiece(1, first=True, start_frame=0, chunks=(b"x" * 1000,), fin=False, code=None)
OVER = Over(StreamCode.UNAUTHORIZED)


async def test_a_cut_comes_before_everything_that_waits() -> None:
    feed, cuts = Feed(), []
    feed.on_cut = lambda: cuts.append(True)
    for _ in range(100):
        feed.put(PIECE)
    assert await feed.get() is PIECE
    feed.cut(OVER)
    feed.put(PIECE)
    assert await feed.get() is OVER
    assert cuts == [True]


async def test_a_cut_wakes_who_waits() -> None:
    feed = Feed()
    waiting = asyncio.ensure_future(feed.get())
    await asyncio.sleep(0)
    feed.cut(OVER)
    assert await waiting is OVER
