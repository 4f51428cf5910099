"""Cost of gathering `/state`, and its form."""

from __future__ import annotations

import asyncio
import json

import msgpack
import pytest

from relay.actors import messages as m
from relay.actors.peer import State
from relay.actors.rows import GroupRow, PeerRow, TrackRow
from relay.web import state
from relay.web.rows import BroadcastRow, Identity, plain
from relay.web.state import Sources
from relay.wire.version import Version
from tests.actors.world import World
from tests.clock import RUNTIME, settle


def nobody() -> Identity:
    raise AssertionError


async def turns_for(broadcasts: int) -> int:
    """Turns of the event loop to describe so many broadcasts, with one track each."""
    world = World()
    publisher = await world.publisher(Version.LITE_05, *(f"p{number}" for number in range(broadcasts)))
    viewer = await world.viewer(Version.LITE_05)
    for number in range(broadcasts):
        viewer.subscribe(f"p{number}")
    await settle()
    publisher.answer_tracks()
    await settle()
    nothing = Sources(
        runtime=RUNTIME,
        origin=world.origin,
        gate=world.origin,
        relay=nobody,
        counters=world.origin,
        refused=(),
        quic_connections=lambda: 0,
    )
    loop, turns = asyncio.get_running_loop(), 0
    over = False

    def count() -> None:
        nonlocal turns
        turns += 1
        if not over:
            loop.call_soon(count)

    loop.call_soon(count)
    rows = await state.broadcasts(nothing, m.ListPublications(("",)))
    over = True
    assert len([track for row in rows for track in row.tracks]) == broadcasts
    found = turns
    await world.close()
    return found


async def test_broadcasts_are_asked_all_at_once() -> None:
    """A busy relay has few loop turns a second: queries one after the other would make a scrape slow."""
    assert await turns_for(40) <= 2 * await turns_for(1)


def test_rows_are_written_with_the_names_of_their_fields_in_order() -> None:
    track = TrackRow(
        "p", "video/hd", 1, 0, "live", (GroupRow(7, 2, 30, open=False, age=0.25),), 30, 30, 1, 2, 7
    )
    peer = PeerRow("a.example", State.DIALLING, "us", None, None, "no route")
    written = json.dumps([BroadcastRow("p", 4, ("50",), True, (track,)), peer], default=plain)
    assert written == (
        '[{"path": "p", "session": 4, "hops": ["50"], "serving": true, "tracks": [{"path": "p", "name": "video/hd", '
        '"viewers": 1, "relays": 0, "upstream": "live", "groups": [{"sequence": 7, "frames": 2, "bytes": 30, '
        '"open": false, "age": 0.25}], "cached_bytes": 30, "received_bytes": 30, "received_groups": 1, '
        '"received_frames": 2, "latest": 7}]}, {"node": "a.example", "state": "dialling", "dialled_by": "us", '
        '"since": null, "session": null, "error": "no route", "broadcasts": 0, "offers": [], "totals": null, '
        '"dashboard": null}]'
    )
    assert msgpack.unpackb(msgpack.packb(peer, default=plain)) == json.loads(json.dumps(peer, default=plain))


def test_nothing_but_a_row_is_written_as_one() -> None:
    with pytest.raises(TypeError, match="set is no row"):
        json.dumps({"refused": set()}, default=plain)
