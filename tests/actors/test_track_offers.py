"""Tracks that publishers offer by themselves, and viewers that want to know of them."""

from __future__ import annotations

from relay.actors import messages as m
from relay.actors.track_offers import TrackOffers
from tests.actors.fakes import FakeRef
from tests.clock import settle

VIDEO = "demo/cam", "video"


def watch(offers: TrackOffers, session: int, *prefixes: str) -> FakeRef:
    viewer = FakeRef()
    offers.on_message(m.WatchTracks(viewer.ref, session, 7, prefixes))
    return viewer


async def changes(viewer: FakeRef) -> list[tuple[str, str, bool]]:
    await settle()
    return [(change.path, change.track, change.offered) for change in viewer.got(m.TrackChanged)]


async def test_offers_below_a_prefix_are_reported_once() -> None:
    offers = TrackOffers()
    early, other = watch(offers, 1, "demo"), watch(offers, 2, "room")
    offers.on_message(m.OfferTrack(3, *VIDEO, offered=True))
    offers.on_message(m.OfferTrack(4, *VIDEO, offered=True))
    late = watch(offers, 5, "")
    offers.on_message(m.OfferTrack(3, *VIDEO, offered=False))
    offers.on_message(m.OfferTrack(4, *VIDEO, offered=False))
    for viewer in (early, late):
        assert await changes(viewer) == [(*VIDEO, True), (*VIDEO, False)]
    assert await changes(other) == []


async def test_no_session_learns_of_its_own_tracks() -> None:
    offers = TrackOffers()
    viewer = watch(offers, 1, "")
    offers.on_message(m.OfferTrack(1, *VIDEO, offered=True))
    assert await changes(viewer) == []
    again = watch(offers, 1, "demo")
    offers.on_message(m.OfferTrack(2, *VIDEO, offered=True))
    offers.on_message(m.OfferTrack(1, *VIDEO, offered=False))
    assert await changes(again) == [(*VIDEO, True)]


async def test_sessions_end_with_their_offers_and_interests() -> None:
    offers = TrackOffers()
    gone, viewer, former = watch(offers, 1, ""), watch(offers, 2, ""), watch(offers, 3, "")
    offers.on_message(m.UnwatchTracks(3, 7))
    offers.on_message(m.OfferTrack(4, *VIDEO, offered=True))
    offers.gone(1)
    offers.gone(4)
    assert await changes(viewer) == [(*VIDEO, True), (*VIDEO, False)]
    assert await changes(gone) == [(*VIDEO, True)]
    assert await changes(former) == []
    assert not offers.on_message(m.Leaving(1))
