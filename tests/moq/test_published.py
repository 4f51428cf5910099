"""A track of our own in one session."""

from __future__ import annotations

import pytest

from relay.model.track import SubscribeParams, TrackProperties
from relay.moq.published import PublishedTrack
from relay.moq.session import (
    DatagramReceived,
    FetchedData,
    FetchRequested,
    GroupData,
    InfoReceived,
    InfoRequested,
    RequestRejected,
    SubscribeRequested,
    SubscriptionEnded,
)
from relay.wire.errors import StreamCode
from relay.wire.version import Version
from tests.moq.support import Pair

INFO = TrackProperties(timescale=1000)


class Publisher:
    """A subscriber that asks the server for its only track."""

    def __init__(self, version: Version = Version.LITE_06, keep: int = 2) -> None:
        self.pair = Pair(version)
        self.end, self.requests = self.pair.client, self.pair.client.moq.requests
        self.server = self.pair.server
        self.track = PublishedTrack(self.server.moq, lambda: 2.5, self._on_change, "video/hd", INFO, keep)
        self.changes = 0

    def _on_change(self) -> None:
        self.changes += 1

    def settle(self) -> None:
        """Requests reach the track, and answers the client."""
        self.pair.settle()
        for event in self.server.events:
            self.track.on_event(event)
        self.server.events.clear()
        self.pair.settle()

    def subscribe(self, params: SubscribeParams | None = None) -> int:
        request: int = self.requests.subscribe("demo", "video/hd", params or SubscribeParams())
        self.settle()
        return request

    def group(self, *payloads: bytes) -> None:
        group = self.track.group()
        for payload in payloads:
            group.write(payload)
        group.finish()

    def got(self) -> list[int]:
        return [part.sequence for data in self.end.of(GroupData) for part in data.parts if part.fin]


def test_groups_are_numbered_after_the_latest() -> None:
    publisher = Publisher(keep=8)
    track = publisher.track
    assert [track.group().sequence, track.group(7).sequence, track.group(3).sequence] == [0, 7, 3]
    assert track.datagram(b"x") == 8
    assert track.group().sequence == track.latest == 9
    with pytest.raises(ValueError, match="group 7 exists"):
        track.group(7)
    track.latest = 20
    track.finish()
    assert track.end == 21
    with pytest.raises(ValueError, match="video/hd has ended"):
        track.group()


def test_a_subscription_gets_what_is_held_what_comes_and_the_end() -> None:
    publisher = Publisher()
    publisher.group(b"old")
    publisher.group(b"held")
    publisher.subscribe()
    assert publisher.track.subscribers == 1
    before = publisher.changes
    publisher.group(b"new", b"newer")
    assert publisher.changes == before + 4
    assert publisher.track.datagram(b"x") == 3
    publisher.track.finish()
    publisher.settle()
    assert publisher.got() == [1, 2]
    assert publisher.end.one(DatagramReceived)[1:4] == (3, 2500, b"x")
    publisher.server.on_time(5.0)
    publisher.settle()
    assert publisher.end.of(SubscriptionEnded)[-1][1:] == (4, True)
    assert publisher.track.subscribers == 0


def test_a_bounded_subscription_ends_by_itself() -> None:
    publisher = Publisher()
    publisher.subscribe(SubscribeParams(end_group=1))
    publisher.group(b"0")
    publisher.group(b"1")
    publisher.settle()
    publisher.server.on_time(5.0)
    publisher.settle()
    publisher.group(b"2")
    publisher.settle()
    assert publisher.got() == [0, 1]
    assert publisher.end.of(SubscriptionEnded)[-1][1:] == (2, True)


@pytest.mark.parametrize("group, first", [(0, 2), (0, 9), (1, 2), (5, 0), (2, 0)])
def test_a_fetch_of_what_is_not_there_is_refused(group: int, first: int) -> None:
    """Group 0 is complete, 1 still open, 2 aborted."""
    publisher = Publisher(keep=3)
    publisher.group(b"a", b"b")
    still_open = publisher.track.group()
    publisher.track.group().abort(80)
    publisher.requests.fetch("demo", "video/hd", group, start_frame=first)
    publisher.settle()
    still_open.write(b"a")
    still_open.write(b"b")
    still_open.finish()
    publisher.settle()
    assert publisher.end.one(RequestRejected).received == StreamCode.NOT_FOUND
    assert not publisher.end.of(FetchedData)
    assert not publisher.track._fetches


def test_a_fetch_gets_its_frames_as_they_are_written() -> None:
    publisher = Publisher()
    group = publisher.track.group()
    group.write(b"a")
    publisher.requests.fetch("demo", "video/hd", 0, start_frame=1, end_frame=2)
    for payload in (b"b", b"c", b"d"):
        publisher.settle()
        group.write(payload)
    publisher.settle()
    parts = [data.part for data in publisher.end.of(FetchedData)]
    assert [item for part in parts for item in part.parts if isinstance(item, bytes)] == [b"b", b"c"]
    assert parts[-1].fin


def test_an_aborted_track_refuses_everything() -> None:
    publisher = Publisher()
    group = publisher.track.group()
    publisher.subscribe()
    publisher.requests.fetch("demo", "video/hd", 0)
    publisher.settle()
    publisher.track.abort(70)
    publisher.track.abort(71)
    publisher.requests.request_info("demo", "video/hd")
    publisher.subscribe()
    assert [event.received for event in publisher.end.of(RequestRejected)] == [70] * 4
    assert not group.open
    with pytest.raises(ValueError, match="ended"):
        group.write(b"late")


def test_properties() -> None:
    publisher = Publisher()
    publisher.requests.request_info("demo", "video/hd")
    publisher.settle()
    assert publisher.end.one(InfoReceived).properties == INFO
    assert not publisher.server.of(InfoRequested)


def test_older_versions_lack_datagrams_and_partial_groups() -> None:
    publisher = Publisher(Version.LITE_04)
    publisher.subscribe()
    for impossible in (lambda: publisher.track.datagram(b"x"), lambda: publisher.track.group(frame_start=1)):
        with pytest.raises(ValueError, match="moq-lite-04 has no"):
            impossible()
    assert publisher.track.latest is None
    assert not publisher.server.of(SubscribeRequested) + publisher.server.of(FetchRequested)
