"""Slow peers and the ends of tracks: the order of sending, skips, and the time of the end."""

from __future__ import annotations

import pytest

from relay.model.limits import Limits
from relay.model.route import Route
from relay.model.track import SubscribeParams
from relay.moq.lite import MAX_DATAGRAM_HEADER
from relay.moq.session import (
    AnnounceRequested,
    FetchRequested,
    GroupFragment,
    GroupSkipped,
    GroupStopped,
    LimitExceeded,
    Offer,
    RequestCancelled,
    RequestFinished,
    SubscribeRequested,
)
from relay.transport.session import CONTROL_PRIORITY, StreamData, StreamReset, StreamStopped
from relay.transport.session import Event as TransportEvent
from relay.wire.announce import AnnounceRequest
from relay.wire.control import Fetch
from relay.wire.errors import StreamCode
from relay.wire.frame import Request, open_request
from relay.wire.subscribe import Subscribe, SubscribeDrop, SubscribeEnd, SubscribeOk, SubscribeUpdate
from relay.wire.version import Version
from tests.moq.support import FakeStream, lone
from tests.sampling import ALL

V4, V5, V6 = Version.LITE_04, Version.LITE_05, Version.LITE_06
NEVER = float("inf")
UPDATED = [version for version in ALL if version.has_updates]
ORDERED = [Version.LITE_03, V4, V5]
"""Versions in which a subscriber limits lateness, and may ask for older groups first."""

QUEUED = 32_768

versions = pytest.mark.parametrize("version", ALL, ids=lambda version: version.name_on_wire)


class Network:
    """A session and its network path: bytes per time, strictly by priority."""

    def __init__(self, version: Version = V4, limits: Limits | None = None) -> None:
        self.version = version
        self.end = lone(version, limits=limits)
        self.serving = self.end.moq.serving
        self.now = 0.0

    def request(self, message: Request) -> tuple[int, FakeStream]:
        stream = self.end.session.peer_opens(unidirectional=False)
        self.end.receive(StreamData(stream, open_request(self.version, message), False))
        event = self.end.events[-1]
        assert isinstance(event, SubscribeRequested | FetchRequested | AnnounceRequested)
        return event.request, stream

    def subscribe(
        self, priority: int = 0, *, subscribe_id: int = 0, ordered: bool = False, latency: int = 0
    ) -> tuple[int, FakeStream]:
        message = Subscribe(subscribe_id, "demo/cam", "video/hd", priority, ordered, latency)
        return self.request(message)

    def send(
        self, request: int, sequence: int, size: int, *, fin: bool = True, first: bool = True
    ) -> FakeStream:
        """Send (part of) a group; returns its stream."""
        before = len(self.end.session.streams)
        fragment = GroupFragment(sequence, first, 0, (bytes(size),), fin, None)
        self.serving.send_group(request, (fragment,), self.now)
        self.end.poll()
        streams = self.end.session.streams
        return streams[-1] if len(streams) > before else streams[0]

    def order(self) -> list[FakeStream]:
        """Streams with something to send, next first."""
        return sorted(
            (stream for stream in self.end.session.streams if stream.unsent),
            key=lambda stream: -stream.priority,
        )

    def run(self, seconds: float, room: int) -> None:
        self.now += seconds
        for stream in self.order():
            while stream.queued and room:
                chunk = stream.queued.pop(0)
                if len(chunk) > room:
                    stream.queued.insert(0, chunk[room:])
                room -= min(room, len(chunk))
            stream.fin_queued &= bool(stream.queued)

    @property
    def unsent(self) -> int:
        return sum(stream.unsent for stream in self.end.session.streams)


# --- order -----------------------------------------------------------------------------------------------------------


@versions
def test_control_goes_first_then_priority_then_the_newest(version: Version) -> None:
    network = Network(version)
    low, low_stream = network.subscribe(1, subscribe_id=0)
    high, _ = network.subscribe(200, subscribe_id=1)
    streams = [network.send(request, sequence, 1000) for sequence in range(2) for request in (low, high)]
    groups = [stream for stream in network.order() if stream.unidirectional]
    assert groups == [streams[3], streams[1], streams[2], streams[0]]
    assert all(stream.priority < CONTROL_PRIORITY for stream in groups)
    network.serving.end_track(low, 2, 0.0)
    assert network.order()[0] in (
        low_stream,
        *(s for s in network.end.session.streams if not s.unidirectional),
    )
    # late groups are older, though they begin last
    late = network.send(high, 9, 1000), network.send(high, 8, 1000)
    assert [stream for stream in network.order() if stream in late] == list(late)


@pytest.mark.parametrize("version", ORDERED)
def test_older_groups_go_first_where_that_is_wanted(version: Version) -> None:
    network = Network(version)
    request, stream = network.subscribe(1, ordered=True)
    sent = [network.send(request, sequence, 1000) for sequence in range(3)]
    assert [each for each in network.order() if each.unidirectional] == sent
    update = SubscribeUpdate(1, ordered=False).encode(version)
    network.end.receive(StreamData(stream, update, False))
    assert [each for each in network.order() if each.unidirectional] == sent[::-1]


@pytest.mark.parametrize("version", UPDATED)
def test_an_update_of_the_priority_concerns_what_is_queued(version: Version) -> None:
    network = Network(version)
    one, stream = network.subscribe(5, subscribe_id=0)
    other, _ = network.subscribe(9, subscribe_id=1)
    first, second = network.send(one, 0, 1000), network.send(other, 0, 1000)
    assert [each for each in network.order() if each.unidirectional] == [second, first]
    network.end.receive(StreamData(stream, SubscribeUpdate(200).encode(version), False))
    assert [each for each in network.order() if each.unidirectional] == [first, second]
    assert network.send(one, 1, 10).priority > first.priority


# --- what a slow peer skips ------------------------------------------------------------------------------------------


@versions
def test_a_peer_that_is_too_slow_skips_the_oldest_groups(version: Version) -> None:
    network = Network(version)
    request, subscribe_stream = network.subscribe()
    streams = []
    for sequence in range(40):
        streams.append(network.send(request, sequence, 10_000))
        network.run(0.1, 3_000)
    lost = [number for number, stream in enumerate(streams) if stream.resets]
    assert len(lost) > 15
    assert {stream.resets[0] for stream in streams if stream.resets} == {network.end.moq.code(5)}
    # reported once until the peer catches up; counted each time
    (skipped,) = network.end.of(GroupSkipped)
    assert (skipped.request, skipped.sequence, skipped.reason) == (request, lost[0], "too_far_behind")
    assert 0 < skipped.unsent <= 10_016
    assert skipped.kept > 0
    assert network.end.moq.counts["groups_dropped", "too_far_behind"] == len(lost)
    assert network.end.moq.counts["groups_sent", ""] == 40
    assert not subscribe_stream.resets
    # more of a skipped group is dropped
    written = streams[lost[-1]].written
    network.send(request, lost[-1], 10, first=False)
    assert streams[lost[-1]].written == written
    # it catches up, and falls behind again: another report
    network.run(1.0, 1 << 20)
    network.send(request, 40, 10_000)
    network.run(1.0, 1 << 20)
    for sequence in range(41, 60):
        network.send(request, sequence, 10_000)
        network.run(0.1, 3_000)
    assert len(network.end.of(GroupSkipped)) == 2


@versions
def test_a_fast_peer_skips_nothing(version: Version) -> None:
    network = Network(version)
    request, _ = network.subscribe()
    for sequence in range(60):
        network.send(request, sequence, 10_000)
        network.run(0.1, 11_000)
    assert network.end.of(GroupSkipped) == []
    assert not any(stream.resets for stream in network.end.session.streams)


@pytest.mark.parametrize("version", ORDERED)
def test_a_group_later_than_the_subscriber_takes_is_skipped(version: Version) -> None:
    network = Network(version)
    request, _ = network.subscribe(latency=200)
    old = network.send(request, 0, 5_000)
    network.now = 0.1
    network.send(request, 1, 10)
    network.now = 0.29
    network.send(request, 1, 10, first=False)
    assert old.resets == []
    network.now = 0.31
    network.send(request, 1, 10, first=False)
    assert old.resets == [2]
    assert network.end.one(GroupSkipped)[1:3] == (0, "delivery_timeout")


@pytest.mark.parametrize("size", [60_000, 120_000])
def test_queued_bytes_of_a_subscription_are_bounded(size: int) -> None:
    network = Network(limits=Limits(backlog_bytes=100_000))
    request, _ = network.subscribe()
    streams = [network.send(request, sequence, size, fin=False) for sequence in range(2)]
    over = size > 100_000
    assert [bool(stream.resets) for stream in streams] == [True, over]
    assert network.unsent < 100_000


def test_queued_groups_of_a_subscription_are_bounded() -> None:
    network = Network(limits=Limits(cache_groups=4))
    request, _ = network.subscribe()
    streams = [network.send(request, sequence, 10) for sequence in range(20)]
    assert sum(1 for stream in streams if not stream.over or not stream.resets) <= 5
    assert not streams[-1].resets


# --- what a slow session loses ---------------------------------------------------------------------------------------


def test_a_session_that_holds_too_much_loses_fetches_then_subscriptions_then_announcements() -> None:
    network = Network(V6, Limits(backlog_session=400_000, backlog_bytes=1 << 30, backlog_groups=100))
    interest, announce_stream = network.request(AnnounceRequest(""))
    network.serving.announce_initial(interest, [Offer("demo/cam", Route(), 1)])
    fetches = [network.request(Fetch("demo/cam", "video/hd", 0, number)) for number in range(2)]
    for request, _ in fetches:
        network.serving.send_fetched(request, (bytes(50_000),), fin=request == fetches[0][0])
    low, _ = network.subscribe(1, subscribe_id=1)
    high, _ = network.subscribe(9, subscribe_id=2)
    kept = [network.send(high, sequence, 50_000) for sequence in range(2)]
    lost = [network.send(low, sequence, 50_000) for sequence in range(3)]
    assert network.unsent < 400_000
    assert not any(stream.resets for stream in network.end.session.streams)
    events = len(network.end.events)

    # first fetches, then the oldest group of the least important subscription; down to three quarters, so that the
    # next group triggers no new search
    lost.append(network.send(low, 3, 70_000))
    assert [stream.resets for _, stream in fetches] == [[5], [5]]
    assert [stream.resets for stream in lost] == [[5], [], [], []]
    assert [stream.resets for stream in kept] == [[], []]
    assert network.unsent <= 300_000
    new = network.end.events[events:]
    assert [event.limit for event in new if isinstance(event, LimitExceeded)] == ["backlog_session"] * 2
    # one was over for us, and still queued
    assert [event for event in new if isinstance(event, RequestCancelled)] == [(fetches[1][0], 5)]

    # then all of the less important subscription, before the other one loses a group
    network.send(high, 2, 250_000)
    assert [stream.resets for stream in lost] == [[5]] * 4
    assert not announce_stream.resets
    # announcements are the last
    for number in range(30):
        path = "/".join((str(number), *"x" * 30))
        network.serving.announce(interest, path, Offer(path, Route(tuple(range(1, 30))), 1))
    assert not announce_stream.resets
    for number in range(30, 4_000):
        path = "/".join((str(number), *"x" * 30))
        network.serving.announce(interest, path, Offer(path, Route(tuple(range(1, 30))), 1))
    network.end.poll()
    assert announce_stream.resets == [5]
    assert network.end.events[-1] == (interest, 5)
    assert network.unsent <= 400_000


def test_the_unsent_bytes_of_a_session_are_no_more_than_it_counts() -> None:
    network = Network(V6)
    request, _ = network.subscribe()
    for sequence in range(5):
        network.send(request, sequence, 1000)
    fetch, _ = network.request(Fetch("demo/cam", "video/hd", 0, 0))
    network.serving.send_fetched(fetch, (bytes(1000),), fin=True)
    assert network.serving._unsent >= network.unsent
    network.run(1.0, 1 << 20)
    network.send(request, 5, 1000)
    network.serving._shed()
    assert network.unsent <= network.serving._unsent < 1200


# --- the end of a track ----------------------------------------------------------------------------------------------


def ending(version: Version, final: int) -> bytes:
    return SubscribeEnd(final).encode(version) if version.has_subscribe_end else b""


@versions
def test_the_end_is_sent_at_once_if_all_is_delivered(version: Version) -> None:
    network = Network(version)
    request, stream = network.subscribe(3)
    network.serving.accept(request)
    group = network.send(request, 4, 1_000)
    network.run(0.0, 2_000)
    network.serving.end_track(request, 5, 0.0)
    assert stream.written == SubscribeOk(3, group=4).encode(version) + ending(version, 5)
    assert stream.finished
    assert network.end.poll() == [RequestFinished(request)]
    assert (group.resets, group.unsent) == ([], 0)
    assert network.end.moq.deadline == NEVER


@versions
def test_the_end_waits_for_groups_that_are_queued(version: Version) -> None:
    network = Network(version)
    request, stream = network.subscribe()
    group = network.send(request, 0, QUEUED)
    network.serving.end_track(request, 1, 0.0)
    assert not stream.finished
    due = network.end.moq.deadline
    assert due == 0.0  # the first check comes in the next loop turn
    assert network.end.on_time(due) == []
    assert network.end.moq.deadline > due
    network.run(0.0, QUEUED + 1_000)
    assert network.end.on_time(network.end.moq.deadline) == [RequestFinished(request)]
    assert stream.finished
    assert stream.written.endswith(ending(version, 1))
    assert not group.resets
    assert network.end.moq.deadline == NEVER


@versions
def test_a_peer_that_takes_nothing_is_looked_at_more_and_more_rarely(version: Version) -> None:
    network = Network(version)
    request, stream = network.subscribe()
    group = network.send(request, 0, QUEUED)
    network.serving.end_track(request, 1, 0.0)
    looks = 0
    while network.end.moq.deadline < 600.0:
        assert network.end.on_time(network.end.moq.deadline - 0.001) == []
        network.end.on_time(network.end.moq.deadline)
        looks += 1
    assert 100 < looks < 150
    assert (stream.finished, network.end.of(RequestFinished), group.resets) == (False, [], [])


@versions
@pytest.mark.parametrize("how", ["fin", "reset", "stop"])
def test_a_viewer_that_leaves_before_the_end_gets_nothing(version: Version, how: str) -> None:
    network = Network(version)
    request, stream = network.subscribe()
    group = network.send(request, 0, QUEUED)
    network.serving.end_track(request, 1, 0.0)
    events: dict[str, TransportEvent] = {
        "fin": StreamData(stream, b"", True),
        "reset": StreamReset(stream, 7),
        "stop": StreamStopped(stream, 7),
    }
    assert network.end.receive(events[how]) == [RequestCancelled(request, None if how == "fin" else 7)]
    assert ending(version, 1) == b"" or not stream.written.endswith(ending(version, 1))
    assert group.resets == [network.end.moq.code(1)]
    assert network.end.moq.deadline == NEVER
    assert network.end.on_time(100.0) == []


@versions
def test_a_track_without_groups_ends(version: Version) -> None:
    network = Network(version)
    request, stream = network.subscribe(2)
    network.serving.accept(request)
    network.serving.end_track(request, 0, 0.0)
    accepted = SubscribeOk(2).encode(version) if version.accepts_at_once else b""
    assert stream.written == accepted + ending(version, 0)
    assert stream.finished


@versions
def test_groups_that_never_came_are_reported_before_the_end(version: Version) -> None:
    network = Network(version)
    request, stream = network.subscribe()
    network.send(request, 0, 10)
    accepted = stream.written
    network.end.session.take_all()
    network.serving.end_track(request, 9, 0.0, [(1, 3), (5, 8)])
    told = [
        SubscribeDrop(*missing, code=2).encode(version) for missing in ((1, 3), (5, 8)) if version.has_updates
    ]
    assert stream.written == accepted + b"".join(told) + ending(version, 9)


@versions
def test_a_refusal_aborts_open_groups_and_lets_complete_ones_finish(version: Version) -> None:
    network = Network(version)
    request, stream = network.subscribe()
    complete, begun = network.send(request, 0, 1000), network.send(request, 1, 1000, fin=False)
    network.serving.reject(request, StreamCode.UNROUTABLE)
    code = network.end.moq.code(StreamCode.UNROUTABLE)
    assert (begun.resets, stream.resets, stream.stops) == ([code], [code], [code])
    assert (complete.resets, complete.unsent > 0) == ([], True)
    # nothing of it has an effect any more, and queued bytes still count
    network.send(request, 1, 10, first=False)
    network.serving.end_track(request, 2, 0.0)
    network.serving.reject(request, 0)
    assert network.end.poll() == []
    assert network.serving._unsent >= complete.unsent


@versions
def test_a_group_that_the_peer_stopped_gets_no_more(version: Version) -> None:
    network = Network(version)
    request, _ = network.subscribe()
    group = network.send(request, 3, 1000, fin=False)
    group.reset(0)  # by the transport
    assert network.end.receive(StreamStopped(group, 9)) == [GroupStopped(request, 3, 9)]
    written = group.written
    network.send(request, 3, 10, first=False)
    assert group.written == written
    assert network.end.moq.counts["groups_dropped", "too_far_behind"] == 0
    assert not network.send(request, 4, 10).resets


@versions
def test_an_aborted_group_is_reset_unless_it_was_sent(version: Version) -> None:
    network = Network(version)
    request, _ = network.subscribe()
    abort = GroupFragment(0, False, 0, (), False, StreamCode.EVICTED)
    first = network.send(request, 0, 1000, fin=False)
    network.serving.send_group(request, (abort,), 0.0)
    assert first.resets == [network.end.moq.code(StreamCode.EVICTED)]
    sent = network.send(request, 1, 1000)
    network.run(0.0, 1 << 20)
    network.serving.send_group(request, (abort._replace(sequence=1),), 0.0)
    assert sent.resets == []
    # a group that was aborted before it began here is not opened
    streams = len(network.end.session.streams)
    network.serving.send_group(request, (abort._replace(sequence=2, first=True),), 0.0)
    assert len(network.end.session.streams) == streams


# --- datagrams -------------------------------------------------------------------------------------------------------


@versions
@pytest.mark.parametrize("limit", [0, 100, 1160])
def test_datagrams_have_a_limit(version: Version, limit: int) -> None:
    network = Network(version)
    network.end.session.datagram_limit = limit
    request, _ = network.subscribe()
    certain = max(0, limit - MAX_DATAGRAM_HEADER) if version.has_timestamps else 0
    assert network.end.moq.datagram_limit == certain
    big = 1 << 60
    send = network.serving.send_datagram
    assert send(request, big, big, bytes(certain)) == bool(certain)
    assert not send(request, big, big, bytes(limit))
    assert not send(request + 1, 0, 0, b"x")
    assert all(len(data) <= limit for data in network.end.session.datagrams)


def test_parameters_of_a_subscription_are_those_of_its_version() -> None:
    """06 asks for history by the number that limits lateness in 03 to 05."""
    for version, expected in (
        (V5, SubscribeParams(1, latency_ms=700)),
        (V6, SubscribeParams(1, latency_ms=700, history_ms=700, start_is_floor=True)),
    ):
        network = Network(version)
        network.subscribe(1, latency=700)
        assert network.end.one(SubscribeRequested).params == expected
