"""What `/state` costs to gather."""

from __future__ import annotations

import asyncio

from relay.web import state
from relay.web.state import Sources
from relay.wire.version import Version
from tests.actors.clock import settle
from tests.actors.world import World


async def turns_for(broadcasts: int) -> int:
    """Turns of the event loop until so many broadcasts, with one track each, are described."""
    world = World()
    publisher = await world.publisher(Version.LITE_05, *(f"p{number}" for number in range(broadcasts)))
    viewer = await world.viewer(Version.LITE_05)
    for number in range(broadcasts):
        viewer.subscribe(f"p{number}")
    await settle()
    publisher.answer_tracks()
    await settle()
    nothing = Sources(
        origin=world.origin,
        gate=world.origin,
        relay=dict,
        ledger=world.origin,
        refused=(),
        links=lambda: 0,
    )
    loop, turns = asyncio.get_running_loop(), 0
    over = False

    def count() -> None:
        nonlocal turns
        turns += 1
        if not over:
            loop.call_soon(count)

    loop.call_soon(count)
    rows = await state.broadcasts(nothing, ("",))
    over = True
    assert len([track for row in rows for track in row["tracks"]]) == broadcasts
    found = turns
    await world.close()
    return found


async def test_broadcasts_are_asked_all_at_once() -> None:
    """A busy relay has few turns of its event loop a second: one after the other, a scrape would take its time."""
    assert await turns_for(40) <= 2 * await turns_for(1)
