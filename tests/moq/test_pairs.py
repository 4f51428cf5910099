"""Two machines joined end to end, in every version, whole and byte by byte."""

from __future__ import annotations

import pytest

from relay.model.route import Route
from relay.model.track import SubscribeParams, TrackProperties
from relay.moq.session import (
    Announced,
    AnnouncementsComplete,
    AnnouncementsEnded,
    AnnounceRequested,
    Closed,
    DatagramReceived,
    Established,
    Fault,
    FetchedData,
    FetchRequested,
    GroupData,
    GroupFragment,
    GroupStopped,
    InfoReceived,
    InfoRequested,
    Offer,
    Opened,
    PeerLeaving,
    RequestCancelled,
    RequestRejected,
    StrayGroup,
    SubscribeRequested,
    SubscribeUpdated,
    SubscriptionEnded,
    SubscriptionStarted,
    Unannounced,
)
from relay.wire.errors import StreamCode
from relay.wire.frame import FrameHeader
from relay.wire.version import Version
from tests.moq.support import End, Pair, frames, whole
from tests.sampling import ALL

versions = pytest.mark.parametrize("version", ALL, ids=lambda version: version.name_on_wire)
steps = pytest.mark.parametrize("step", [1, 1 << 20], ids=["bytes", "whole"])
roles = pytest.mark.parametrize("swap", [False, True], ids=["client-subscribes", "server-subscribes"])
TIMED = [version for version in ALL if version.has_timestamps]


def subscribe(viewer: End, params: SubscribeParams | None = None) -> int:
    request: int = viewer.moq.requests.subscribe("demo/cam", "video/hd", params or SubscribeParams())
    return request


@versions
@steps
def test_set_up(version: Version, step: int) -> None:
    pair = Pair(version, step)
    for end in (pair.client, pair.server):
        assert [type(event) for event in end.events if isinstance(event, Opened | Established)] == [
            Opened,
            Established,
        ]
        assert end.moq.version is version
        assert end.of(Fault) == []
        peer = end.moq.peer
        assert (peer.hop if peer else None) == (
            {11: 22, 22: 11}[end.moq.hop] if version.has_setup_stream else None
        )


@versions
@steps
@roles
def test_announcements(version: Version, step: int, swap: bool) -> None:
    pair = Pair(version, step)
    watcher, publisher = pair.between(swap=swap)
    interest = watcher.moq.requests.request_announcements("demo")
    pair.settle()
    request = publisher.one(AnnounceRequested)
    assert (request.prefix, request.exclude) == ("demo", watcher.moq.hop if version in (4, 5) else 0)
    route = Route((5, 6), 3, 4)
    publisher.moq.serving.announce_initial(request.request, [Offer("demo/cam", route, 1)])
    pair.settle()
    hops = {1: (), 2: (), 3: (0, 0, 0), 4: (5, 6, publisher.moq.hop)}.get(version, (5, 6, publisher.moq.hop))
    (came,) = watcher.of(Announced)
    assert (came.request, came.path, came.route.hops) == (interest, "demo/cam", hops)
    assert came.route[1:] == ((3, 4) if version == Version.LITE_06 else Route()[1:])
    assert len(watcher.of(AnnouncementsComplete)) == 1

    publisher.moq.serving.announce(request.request, "demo/mic", Offer("demo/mic", source=2))
    publisher.moq.serving.announce(request.request, "demo/cam", Offer("demo/cam", Route((5, 7)), 3))
    pair.settle()
    update = watcher.of(Announced)[2:]
    if version >= Version.LITE_05:
        assert [(event.path, event.update) for event in update] == [("demo/cam", True)]
    else:
        # a version without updates sends nothing for another route of the same publisher
        assert update == []
    assert watcher.of(Unannounced) == []

    publisher.moq.serving.announce(request.request, "demo/cam", Offer("demo/cam", Route((8,)), 4))
    publisher.moq.serving.announce(request.request, "demo/mic", None)
    pair.settle()
    assert [event.path for event in watcher.of(Unannounced)] == ["demo/cam", "demo/mic"]
    assert watcher.of(Announced)[-1].path == "demo/cam"
    assert publisher.moq.serving.has_offered("demo/cam")
    assert not publisher.moq.serving.has_offered("demo/mic")

    watcher.moq.requests.cancel(interest)
    pair.settle()
    assert [event.request for event in publisher.of(RequestCancelled)] == [request.request]
    assert watcher.of(AnnouncementsEnded) == []
    assert watcher.of(Fault) == publisher.of(Fault) == []


@versions
@steps
@roles
def test_a_subscription(version: Version, step: int, swap: bool) -> None:
    pair = Pair(version, step)
    viewer, publisher = pair.between(swap=swap)
    wanted = SubscribeParams(7, ordered=True, latency_ms=900, history_ms=300, start_group=2, end_group=9)
    mine = subscribe(viewer, wanted)
    pair.settle()
    request = publisher.one(SubscribeRequested)
    assert (request.broadcast, request.track) == ("demo/cam", "video/hd")
    expected = {
        1: SubscribeParams(7),
        2: SubscribeParams(7),
        6: wanted._replace(ordered=False, latency_ms=300, start_is_floor=True),
    }.get(version, wanted._replace(history_ms=0))
    assert request.params == expected
    publisher.moq.serving.accept(request.request)
    viewer.now = 2.5
    publisher.moq.serving.send_group(
        request.request, (whole(version, 4, (10, b"one"), (30, b"two")), whole(version, 5)), 0.0
    )
    pair.settle()
    assert viewer.one(SubscriptionStarted)[:2] == (mine, 4 if version.has_timestamps else None)
    parts = [part for event in viewer.of(GroupData) for part in event.parts]
    payload = b"".join(
        item for part in parts for item in part.parts if part.sequence == 4 and isinstance(item, bytes)
    )
    assert payload == b"onetwo"
    headers = [item for part in parts for item in part.parts if isinstance(item, FrameHeader)]
    assert headers == [(time if version.has_timestamps else 2_500_000, 3) for time in (10, 30)]
    assert {part.sequence for part in parts if part.fin} == {4, 5}
    if step > 1:
        assert len(viewer.of(GroupData)) == 1

    publisher.moq.serving.end_track(request.request, 6, 0.0)
    pair.settle()
    ends = viewer.of(SubscriptionEnded)
    assert ends[-1] == (mine, 6 if version.has_subscribe_end else None, True)
    viewer.moq.requests.cancel(mine)
    pair.settle()
    assert publisher.of(RequestCancelled) == []
    assert viewer.of(Fault) == publisher.of(Fault) == []


@versions
@roles
def test_a_group_in_pieces_and_its_abort(version: Version, swap: bool) -> None:
    pair = Pair(version)
    viewer, publisher = pair.between(swap=swap)
    subscribe(viewer)
    pair.settle()
    request = publisher.one(SubscribeRequested).request
    (frame,) = frames(version, (5, b"abcdef"))
    for number, fragment in enumerate((frame[:-4], frame[-4:-2])):
        publisher.moq.serving.send_group(
            request, (GroupFragment(0, number == 0, 0, (fragment,), False, None),), 0.0
        )
        pair.settle()
    publisher.moq.serving.send_group(request, (GroupFragment(0, False, 0, (), False, StreamCode.OLD),), 0.0)
    pair.settle()
    parts = [part for event in viewer.of(GroupData) for part in event.parts]
    assert b"".join(item for part in parts for item in part.parts if isinstance(item, bytes)) == b"abcd"
    assert parts[-1].code == (0 if version.has_setup_exchange else StreamCode.OLD)


@versions
@roles
@pytest.mark.parametrize("code", [None, 70])
def test_leaving(version: Version, swap: bool, code: int | None) -> None:
    pair = Pair(version)
    viewer, publisher = pair.between(swap=swap)
    mine = subscribe(viewer)
    pair.settle()
    request = publisher.one(SubscribeRequested).request
    publisher.moq.serving.send_group(request, (GroupFragment(0, True, 0, (), False, None),), 0.0)
    pair.settle()
    viewer.moq.requests.cancel(mine, code)
    pair.settle()
    (cancelled,) = publisher.of(RequestCancelled)
    assert cancelled.request == request
    assert (cancelled.code is None) == (code is None and version.has_updates)
    uni = [
        stream for stream in publisher.session.streams if stream.unidirectional and not stream.opened_by_peer
    ]
    assert uni[-1].over
    publisher.moq.serving.send_group(request, (whole(version, 1, (0, b"late")),), 0.0)
    pair.settle()
    assert len(viewer.of(GroupData)) == 1
    assert viewer.of(StrayGroup) == []


@versions
@roles
def test_a_refusal(version: Version, swap: bool) -> None:
    pair = Pair(version)
    viewer, publisher = pair.between(swap=swap)
    mine = subscribe(viewer)
    pair.settle()
    publisher.moq.serving.reject(publisher.one(SubscribeRequested).request, StreamCode.UNROUTABLE)
    pair.settle()
    rejected = viewer.one(RequestRejected)
    old = version.has_setup_exchange
    assert rejected == (
        mine,
        StreamCode.NOT_FOUND if old else StreamCode.UNROUTABLE,
        13 if old else StreamCode.UNROUTABLE,
    )


@versions
@roles
def test_updates(version: Version, swap: bool) -> None:
    pair = Pair(version)
    viewer, publisher = pair.between(swap=swap)
    mine = subscribe(viewer)
    pair.settle()
    params = SubscribeParams(9, end_group=3)
    if not version.has_updates:
        with pytest.raises(ValueError, match="UPDATE"):
            viewer.moq.requests.update(mine, params)
        return
    viewer.moq.requests.update(mine, params)
    pair.settle()
    assert publisher.one(SubscribeUpdated).params[:1] == (9,)
    assert publisher.one(SubscribeUpdated).params.end_group == 3


@versions
@roles
def test_one_group_is_stopped(version: Version, swap: bool) -> None:
    pair = Pair(version)
    viewer, publisher = pair.between(swap=swap)
    mine = subscribe(viewer)
    pair.settle()
    request = publisher.one(SubscribeRequested).request
    publisher.moq.serving.send_group(request, (GroupFragment(3, True, 0, (), False, None),), 0.0)
    pair.settle()
    viewer.moq.requests.stop_group(mine, 3, StreamCode.OLD)
    pair.settle()
    stopped = publisher.one(GroupStopped)
    assert stopped == (request, 3, 0 if version.has_setup_exchange else StreamCode.OLD)


@pytest.mark.parametrize("version", TIMED)
@steps
@roles
def test_fetch_info_and_datagrams(version: Version, step: int, swap: bool) -> None:
    pair = Pair(version, step)
    viewer, publisher = pair.between(swap=swap)
    info = viewer.moq.requests.request_info("demo/cam", "video/hd")
    fetch = viewer.moq.requests.fetch("demo/cam", "video/hd", 7, priority=3)
    mine = subscribe(viewer)
    pair.settle()
    asked = publisher.one(InfoRequested)
    assert (asked.broadcast, asked.track) == ("demo/cam", "video/hd")
    properties = TrackProperties(3, ordered=False, max_latency_ms=700, timescale=90_000)
    publisher.moq.serving.send_info(asked.request, properties)
    fetched = publisher.one(FetchRequested)
    assert (fetched.group, fetched.priority, fetched.start_frame, fetched.end_frame) == (7, 3, 0, None)
    publisher.moq.serving.send_fetched(fetched.request, frames(version, (1, b"x"), (2, b"yy")), fin=True)
    assert publisher.moq.serving.send_datagram(publisher.one(SubscribeRequested).request, 4, 99, b"ping")
    pair.settle()
    assert viewer.one(InfoReceived) == (info, properties)
    parts = [event.part for event in viewer.of(FetchedData) if event.request == fetch]
    assert b"".join(item for part in parts for item in part.parts if isinstance(item, bytes)) == b"xyy"
    assert [part.fin for part in parts][-1]
    assert viewer.one(DatagramReceived) == DatagramReceived(mine, 4, 99, b"ping")
    assert viewer.of(Fault) == publisher.of(Fault) == []


@pytest.mark.parametrize("version", [version for version in ALL if version.has_goaway])
def test_goaway(version: Version) -> None:
    pair = Pair(version)
    assert pair.server.moq.requests.goaway("https://other.example/")
    pair.settle()
    assert pair.client.one(PeerLeaving) == ("https://other.example/",)
    pair.server.moq.requests.goaway()
    pair.settle()
    assert pair.client.one(Closed).reason == "second GOAWAY"


@pytest.mark.parametrize("version", [version for version in ALL if not version.has_goaway])
def test_no_goaway_before_04(version: Version) -> None:
    assert not Pair(version).server.moq.requests.goaway()


@versions
def test_a_close_is_the_last_event(version: Version) -> None:
    pair = Pair(version)
    pair.client.moq.close(70, "enough")
    pair.settle()
    for end, by_peer in ((pair.client, False), (pair.server, True)):
        assert end.events[-1] == Closed(70, "enough", by_peer)
        assert end.moq.deadline == float("inf")
