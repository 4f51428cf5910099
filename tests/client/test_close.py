"""The end of a session: earlier writes arrive."""

from __future__ import annotations

import asyncio

import pytest

from relay.client import SessionEnded, endpoint
from relay.wire.version import Version
from tests.client.support import ALL, pair

pytestmark = pytest.mark.timeout(20)

versions = pytest.mark.parametrize("version", ALL, ids=lambda version: version.name_on_wire)


@versions
async def test_what_was_written_leaves_before_the_session_ends(version: Version) -> None:
    async with pair(version) as (near, far):
        track = far.publish("demo").track("video/hd")
        subscription = await near.subscribe("demo", "video/hd", wait=False)
        await track.used()
        near.session.pause()  # type: ignore[attr-defined]
        group = track.group()
        group.write(b"last words")
        group.finish()
        track.finish()
        closing = asyncio.create_task(far.close())
        await asyncio.sleep(0)
        assert far.ended is None
        near.session.resume()  # type: ignore[attr-defined]
        groups = [group async for group in subscription]
        assert [[frame.payload for frame in await group.read_all()] for group in groups] == [[b"last words"]]
        assert subscription.code is None
        await closing


@versions
async def test_a_peer_that_takes_nothing_does_not_hold_the_end_for_ever(
    version: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint, "CLOSE_TIMEOUT", 0.05)
    async with pair(version) as (near, far):
        track = far.publish("demo").track("video/hd")
        await near.subscribe("demo", "video/hd", wait=False)
        await track.used()
        near.session.pause()  # type: ignore[attr-defined]
        track.group().write(b"never read")
        await far.close()
        assert far.ended is not None


@versions
async def test_an_error_ends_the_session_at_once(version: Version) -> None:
    async with pair(version) as (near, far):
        track = far.publish("demo").track("video/hd")
        await near.subscribe("demo", "video/hd", wait=False)
        await track.used()
        near.session.pause()  # type: ignore[attr-defined]
        track.group().write(b"given up")
        closing = asyncio.create_task(far.close(3, "a fault"))
        await asyncio.sleep(0)
        assert isinstance(far.ended, SessionEnded)
        await closing


@versions
async def test_a_cancelled_close_has_closed(version: Version) -> None:
    async with pair(version) as (near, far):
        track = far.publish("demo").track("video/hd")
        await near.subscribe("demo", "video/hd", wait=False)
        await track.used()
        near.session.pause()  # type: ignore[attr-defined]
        track.group().write(b"given up")
        closing = asyncio.create_task(far.close())
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        assert far.ended is not None


@versions
async def test_a_subscription_that_has_ended_is_not_broken_by_the_end_of_the_session(
    version: Version,
) -> None:
    async with pair(version) as (near, far):
        track = far.publish("demo").track("video/hd")
        subscription = await near.subscribe("demo", "video/hd", wait=False)
        await track.used()
        group = track.group(7)
        group.write(b"x")
        group.finish()
        track.finish()
        async for read in subscription:
            assert await read.read_all()
            await subscription.ended()
            far.session.close()
        assert subscription.code is None


@versions
async def test_the_end_of_one_track_does_not_wait_for_that_of_another(
    version: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.moq.delivery.END_POLL", 60.0)
    monkeypatch.setattr("relay.moq.delivery.END_POLL_MAX", 60.0)
    async with pair(version) as (near, far):
        publication = far.publish("demo")
        stalled, other = publication.track("video/hd"), publication.track("audio/data")
        for track in (stalled, other):
            await near.subscribe("demo", track.name, wait=False)
            await track.used()
        near.session.pause()  # type: ignore[attr-defined]
        group = stalled.group()
        group.write(b"x")
        group.finish()
        stalled.finish()
        while far.moq.deadline < far.runtime.now() + 30:  # noqa: ASYNC110 - the machine has no event for it
            await asyncio.sleep(0)
        near.session.resume()  # type: ignore[attr-defined]
        group = other.group()
        group.write(b"x")
        group.finish()
        other.finish()
        await other.unused()
        assert stalled.subscribers == 1
        far.session.close()
