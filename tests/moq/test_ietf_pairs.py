"""Two machines of moq-transport joined end to end, in every draft, whole and byte by byte."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from relay.model.group import FrameQueue, Object, Part
from relay.model.track import Begin, SubscribeParams, TrackProperties
from relay.moq.encoding import EncodedGroup
from relay.moq.feed import shared_fragments
from relay.moq.session import (
    Announced,
    AnnouncementsEnded,
    AnnounceRequested,
    Closed,
    DatagramReceived,
    Established,
    Fault,
    FetchedData,
    FetchRequested,
    GroupData,
    GroupStopped,
    InfoReceived,
    InfoRequested,
    Offer,
    Opened,
    PeerLeaving,
    RequestCancelled,
    RequestRejected,
    SubscribeRequested,
    SubscribeUpdated,
    SubscriptionEnded,
    SubscriptionStarted,
    Unannounced,
)
from relay.wire.errors import StreamCode
from relay.wire.frame import FrameHeader
from relay.wire.version import Draft
from tests.moq.support import End, Pair

drafts = pytest.mark.parametrize("draft", Draft, ids=lambda draft: draft.name_on_wire)
steps = pytest.mark.parametrize("step", [1, 1 << 20], ids=["bytes", "whole"])
roles = pytest.mark.parametrize("swap", [False, True], ids=["client-subscribes", "server-subscribes"])

INFO = TrackProperties(priority=9, timescale=1000)


class Track:
    """A subscription of one end to a track of the other."""

    def __init__(self, draft: Draft, step: int = 1 << 20, *, swap: bool = False) -> None:
        self.pair = Pair(draft, step)
        self.viewer, self.publisher = self.pair.between(swap=swap)
        self.request = 0  # of the viewer
        self.asked: SubscribeRequested | None = None

    def subscribe(
        self, params: SubscribeParams | None = None, largest: tuple[int, int] | None = None
    ) -> Track:
        self.request = self.viewer.moq.requests.subscribe("demo/cam", "video/hd", params or SubscribeParams())
        self.pair.settle()
        self.publisher.moq.serving.send_info(self.publisher.of(InfoRequested)[-1].request, INFO)
        self.publisher.poll()
        self.asked = self.publisher.of(SubscribeRequested)[-1]
        self.publisher.moq.serving.accept(self.asked.request, largest)
        self.pair.settle()
        return self

    def send(self, group: EncodedGroup, *, new: bool) -> None:
        assert self.asked is not None
        fragments = shared_fragments([(group, new)], self.publisher.moq.encoding)
        self.publisher.moq.serving.send_group(self.asked.request, fragments, 0.0)
        self.pair.settle()

    def fetched(self, parts: Iterable[Part], *, fin: bool) -> None:
        request = self.publisher.of(FetchRequested)[-1].request
        self.publisher.moq.serving.send_fetched(request, tuple(parts), fin=fin)
        self.pair.settle()

    def received(self) -> dict[int, list[tuple[int, bytes]]]:
        """Whole frames that came, by group: timestamp and payload."""
        queues: dict[int, FrameQueue] = {}
        for event in self.viewer.of(GroupData):
            for part in event.parts:
                queues.setdefault(part.sequence, FrameQueue()).extend(part.parts)
        found: dict[int, list[tuple[int, bytes]]] = {}
        for sequence, queue in queues.items():
            frames = found[sequence] = []
            while queue:
                start, payload = queue.popleft()
                frames.append((start.timestamp, payload))
        return found

    def ends(self) -> dict[int, int | None]:
        """Codes of groups that came to an end, `None` for a complete one."""
        return {
            part.sequence: part.code
            for event in self.viewer.of(GroupData)
            for part in event.parts
            if part.fin or part.code is not None
        }


def group_of(sequence: int, *frames: tuple[int, bytes], finished: bool = False) -> EncodedGroup:
    group = EncodedGroup(sequence, 0.0)
    extend(group, *frames)
    group.finished = finished
    return group


def extend(group: EncodedGroup, *frames: tuple[int, bytes]) -> None:
    for timestamp, payload in frames:
        group.extend((FrameHeader(timestamp, len(payload)), *filter(None, [payload])))


def timed(draft: Draft, *frames: tuple[int, bytes]) -> list[tuple[int, bytes]]:
    """Without properties of tracks (14), the time is that of arrival."""
    return [(0 if draft is Draft.DRAFT_14 else timestamp, payload) for timestamp, payload in frames]


@drafts
@steps
def test_set_up(draft: Draft, step: int) -> None:
    pair = Pair(draft, step)
    for end in (pair.client, pair.server):
        assert [type(event) for event in end.events if isinstance(event, Opened | Established)] == [
            Opened,
            Established,
        ]
        assert end.moq.name == draft.name_on_wire
        assert not [event for event in end.events if isinstance(event, Fault | Closed)]


@drafts
@steps
def test_a_client_announces_by_itself(draft: Draft, step: int) -> None:
    pair = Pair(draft, step)
    publisher = pair.client.moq.serving
    publisher.offer("demo/cam", Offer("demo/cam"))
    pair.settle()
    assert pair.server.of(Announced) == []
    watch = pair.server.moq.requests.request_announcements("demo")
    pair.settle()
    (came,) = pair.server.of(Announced)
    assert (came.request, came.path, came.route.hops) == (watch, "demo/cam", ())
    publisher.offer("demo/mic", Offer("demo/mic"))
    publisher.offer("demo/cam", None)
    pair.settle()
    assert [event.path for event in pair.server.of(Announced)] == ["demo/cam", "demo/mic"]
    assert [(event.path, event.said) for event in pair.server.of(Unannounced)] == [("demo/cam", True)]
    publisher.offer("other", Offer("other"))
    pair.settle()
    assert len(pair.server.of(Announced)) == 2


@drafts
def test_a_namespace_that_nobody_wants_is_refused(draft: Draft) -> None:
    pair = Pair(draft)
    pair.client.moq.serving.offer("demo/cam", Offer("demo/cam"))
    pair.settle()
    pair.server.on_time(0.5)
    assert pair.server.moq.deadline == 1.0
    pair.server.on_time(1.0)
    pair.settle()
    pair.server.moq.requests.request_announcements("")
    pair.settle()
    assert pair.server.of(Announced) == []
    assert pair.client.of(Closed) == []
    for end in (pair.client, pair.server):  # the request is over on both sides
        assert end.moq.exchanges._by_id == {}
        assert all(stream.finished for stream in end.session.streams if not stream.unidirectional) or not (
            end.moq.profile.request_streams
        )


@drafts
@steps
def test_a_client_asks_for_announcements(draft: Draft, step: int) -> None:
    pair = Pair(draft, step)
    interest = pair.client.moq.requests.request_announcements("demo")
    pair.settle()
    request = pair.server.one(AnnounceRequested)
    assert (request.prefix, request.exclude) == ("demo", 0)
    serving = pair.server.moq.serving
    serving.announce_initial(request.request, [Offer("demo/cam", source=1)])
    pair.settle()
    assert [event.path for event in pair.client.of(Announced)] == ["demo/cam"]
    serving.announce(request.request, "demo/mic", Offer("demo/mic", source=2))
    serving.announce(request.request, "demo/cam", Offer("demo/cam", source=3))
    serving.announce(request.request, "demo/mic", None)
    pair.settle()
    assert [event.path for event in pair.client.of(Announced)] == ["demo/cam", "demo/mic"]
    assert [event.path for event in pair.client.of(Unannounced)] == ["demo/mic"]
    assert serving.has_offered("demo/cam")
    pair.client.moq.requests.cancel(interest)
    pair.settle()
    assert request.request in [event.request for event in pair.server.of(RequestCancelled)]
    assert pair.client.of(AnnouncementsEnded) == []


def test_a_namespace_is_withdrawn_with_the_last_interest_in_it() -> None:
    """On draft 14 each is a request of its own, which outlives the interest."""
    pair = Pair(Draft.DRAFT_14)
    client, server = pair.client.moq, pair.server.moq
    interests = [client.requests.request_announcements(prefix) for prefix in ("demo", "")]
    pair.settle()
    for request in pair.server.of(AnnounceRequested):
        server.serving.announce_initial(request.request, [Offer("demo/cam")])
    pair.settle()
    assert [event.request for event in pair.client.of(Announced)] == interests[:1]
    for interest in interests:
        assert list(client.requests.namespaces._holders) == ["demo/cam"]
        client.requests.cancel(interest)
        pair.settle()
    assert [event.request for event in pair.client.of(Announced)] == interests
    assert client.requests.namespaces._holders == {}
    assert client.exchanges._by_id == server.exchanges._by_id == {}


def test_a_prefix_and_a_namespace_of_one_name_end_each_by_itself() -> None:
    """Draft 14 ends them by name."""
    pair = Pair(Draft.DRAFT_14)
    watched = pair.server.moq.requests.request_announcements("")
    interests = [pair.client.moq.requests.request_announcements("demo") for _ in range(2)]
    pair.settle()
    pair.client.moq.serving.offer("demo", Offer("demo"))
    pair.settle()
    for number, interest in enumerate(interests, 1):
        pair.client.moq.requests.cancel(interest)
        pair.settle()
        ended = [event.request for event in pair.server.of(RequestCancelled)]
        assert sum(asked.request in ended for asked in pair.server.of(AnnounceRequested)) == number
        assert pair.server.of(Unannounced) == []
    pair.client.moq.serving.offer("demo", None)
    pair.settle()
    assert [(event.request, event.path) for event in pair.server.of(Unannounced)] == [(watched, "demo")]


@drafts
def test_a_namespace_goes_to_another_interest_that_covers_it(draft: Draft) -> None:
    pair = Pair(draft)
    requests = pair.server.moq.requests
    first, second = requests.request_announcements("demo"), requests.request_announcements("")
    pair.client.moq.serving.offer("demo/cam", Offer("demo/cam"))
    pair.settle()
    requests.cancel(first)
    pair.settle()
    assert [event.request for event in pair.server.of(Announced)] == [first, second]
    requests.cancel(second)
    third = requests.request_announcements("demo")
    pair.settle()
    assert [event.request for event in pair.server.of(Announced)] == [first, second, third]
    pair.client.moq.serving.offer("demo/cam", None)
    pair.settle()
    assert [event.request for event in pair.server.of(Unannounced)] == [third]


@drafts
def test_an_interest_is_refused(draft: Draft) -> None:
    pair = Pair(draft)
    interest = pair.client.moq.requests.request_announcements("demo")
    pair.settle()
    pair.server.moq.serving.reject(pair.server.one(AnnounceRequested).request, StreamCode.NO_CAPACITY)
    pair.settle()
    assert pair.client.one(AnnouncementsEnded).request == interest
    assert pair.client.of(Closed) == []


@drafts
@steps
@roles
def test_a_subscription(draft: Draft, step: int, swap: bool) -> None:
    track = Track(draft, step, swap=swap).subscribe(SubscribeParams(priority=200))
    started = track.viewer.one(SubscriptionStarted)
    assert (started.request, started.group) == (track.request, None)
    assert started.priority == (127 if draft is Draft.DRAFT_14 else INFO.priority)
    assert track.asked is not None
    assert (track.asked.broadcast, track.asked.track) == ("demo/cam", "video/hd")
    assert track.asked.params.priority == 200

    group = group_of(7, (10, b"key"), (20, b""))
    track.send(group, new=True)
    group.extend((FrameHeader(30, 6), b"del"))
    track.send(group, new=False)
    assert track.received() == {7: timed(draft, (10, b"key"), (20, b""))}
    group.extend((b"ta!",))
    group.finished = True
    track.send(group, new=False)
    track.send(group_of(8, (40, b"x" * 70_000), finished=True), new=True)
    frames = timed(draft, (10, b"key"), (20, b""), (30, b"delta!"))
    assert track.received() == {7: frames, 8: timed(draft, (40, b"x" * 70_000))}
    assert track.ends() == {7: None, 8: None}

    track.publisher.moq.serving.end_track(track.asked.request, 9, 0.0)
    track.pair.settle()
    track.publisher.on_time(1.0)  # the groups have arrived
    track.pair.settle()
    ended = track.viewer.one(SubscriptionEnded)
    assert (ended.request, ended.final, ended.closed) == (track.request, None, True)
    for end in (track.viewer, track.publisher):
        assert not [event for event in end.events if isinstance(event, Fault | RequestRejected | Closed)]


@drafts
@roles
def test_a_missing_track_is_refused(draft: Draft, swap: bool) -> None:
    pair = Pair(draft)
    viewer, publisher = pair.between(swap=swap)
    request = viewer.moq.requests.subscribe("demo/cam", "video", SubscribeParams())
    pair.settle()
    publisher.moq.serving.reject(publisher.one(InfoRequested).request, StreamCode.NOT_FOUND)
    pair.settle()
    rejected = viewer.one(RequestRejected)
    assert (rejected.request, rejected.code) == (request, StreamCode.NOT_FOUND)
    assert rejected.received == (4 if draft is Draft.DRAFT_14 else 0x10)
    assert publisher.of(SubscribeRequested) == []
    again = viewer.moq.requests.subscribe("demo/cam", "video", SubscribeParams())
    pair.settle()
    assert again != request
    assert len(publisher.of(InfoRequested)) == 2


@drafts
@steps
@roles
def test_the_beginning_of_the_current_group_comes_first(draft: Draft, step: int, swap: bool) -> None:
    """By a joining fetch where filters cannot ask for it; the live stream waits meanwhile."""
    track = Track(draft, step, swap=swap).subscribe(largest=(3, 1))
    assert track.asked is not None
    params = track.asked.params
    group = group_of(3, (10, b"one"), (20, b"two"), (30, b"three"))
    if params.begin is None:
        assert draft >= Draft.DRAFT_20
        track.send(group, new=True)
    else:
        assert params.begin is Begin.NEXT_OBJECT
        fetch = track.publisher.one(FetchRequested)
        assert (fetch.broadcast, fetch.track, fetch.group) == ("demo/cam", "video/hd", 3)
        live = EncodedGroup(3, 0.0, first_frame=2)
        extend(live, (30, b"three"))
        track.send(live, new=True)
        assert track.received() == {}
        track.fetched(group.parts, fin=False)
    assert track.received() == {3: timed(draft, (10, b"one"), (20, b"two"), (30, b"three"))}
    assert next(part.first_frame for event in track.viewer.of(GroupData) for part in event.parts) == 0


@pytest.mark.parametrize("draft", [Draft.DRAFT_14, Draft.DRAFT_16, Draft.DRAFT_18])
def test_without_its_beginning_a_group_is_left_out(draft: Draft) -> None:
    track = Track(draft).subscribe(largest=(3, 1))
    fetch = track.publisher.one(FetchRequested)
    track.publisher.moq.serving.reject(fetch.request, StreamCode.NOT_FOUND)
    track.pair.settle()
    live = EncodedGroup(3, 0.0, first_frame=2)
    extend(live, (30, b"three"))
    track.send(live, new=True)
    track.send(group_of(4, (40, b"four"), finished=True), new=True)
    assert track.received() == {4: timed(draft, (40, b"four"))}
    assert [event.sequence for event in track.publisher.of(GroupStopped)] == [3]


@drafts
@roles
def test_the_viewer_leaves(draft: Draft, swap: bool) -> None:
    track = Track(draft, swap=swap).subscribe()
    assert track.asked is not None
    track.send(group_of(1, (10, b"open")), new=True)
    track.viewer.moq.requests.cancel(track.request)
    track.pair.settle()
    assert [event.request for event in track.publisher.of(RequestCancelled)] == [track.asked.request]
    track.send(group_of(2, (10, b"late")), new=True)
    assert set(track.received()) == {1}
    assert not [e for e in track.viewer.events if isinstance(e, RequestRejected | SubscriptionEnded)]


@drafts
def test_a_track_is_aborted(draft: Draft) -> None:
    track = Track(draft).subscribe()
    assert track.asked is not None
    track.publisher.moq.serving.reject(track.asked.request, StreamCode.GOING_AWAY)
    track.pair.settle()
    assert track.viewer.one(RequestRejected).code == StreamCode.GOING_AWAY


@drafts
def test_a_group_is_aborted_and_another_stopped(draft: Draft) -> None:
    track = Track(draft).subscribe()
    one, two = group_of(1, (10, b"one")), group_of(2, (10, b"two"))
    track.send(one, new=True)
    track.send(two, new=True)
    one.code = StreamCode.CANCELLED
    track.send(one, new=False)
    assert track.ends() == {1: StreamCode.CANCELLED}
    track.viewer.moq.requests.stop_group(track.request, 2, StreamCode.TOO_FAR_BEHIND)
    track.pair.settle()
    assert [event.sequence for event in track.publisher.of(GroupStopped)] == [2]


@drafts
@roles
def test_an_update_of_the_priority(draft: Draft, swap: bool) -> None:
    track = Track(draft, swap=swap).subscribe(SubscribeParams(priority=1))
    track.viewer.moq.requests.update(track.request, SubscribeParams(priority=250))
    track.pair.settle()
    assert track.publisher.one(SubscribeUpdated).params.priority == 250
    assert track.viewer.of(Fault) == track.publisher.of(Fault) == []


@drafts
@roles
def test_properties_are_those_of_the_subscription_that_follows(draft: Draft, swap: bool) -> None:
    """One SUBSCRIBE for both; groups that come before the second question are kept."""
    pair = Pair(draft)
    viewer, publisher = pair.between(swap=swap)
    question = viewer.moq.requests.request_info("demo/cam", "video")
    pair.settle()
    publisher.moq.serving.send_info(publisher.one(InfoRequested).request, INFO)
    publisher.poll()
    asked = publisher.one(SubscribeRequested)
    publisher.moq.serving.accept(asked.request, None)
    fragments = shared_fragments([(group_of(1, (10, b"one")), True)], publisher.moq.encoding)
    publisher.moq.serving.send_group(asked.request, fragments, 0.0)
    pair.settle()
    info = viewer.one(InfoReceived)
    assert info.request == question
    if draft is not Draft.DRAFT_14:
        assert (info.properties.timescale, info.properties.priority) == (1000, 9)
    assert viewer.of(GroupData) == []
    request = viewer.moq.requests.subscribe("demo/cam", "video", SubscribeParams())
    pair.settle()
    assert viewer.one(SubscriptionStarted).request == viewer.one(GroupData).request == request
    assert len(publisher.of(InfoRequested)) == 1


@drafts
def test_a_question_alone_does_not_keep_a_subscription(draft: Draft) -> None:
    pair = Pair(draft)
    pair.client.moq.requests.request_info("demo/cam", "video")
    pair.settle()
    pair.server.moq.serving.send_info(pair.server.one(InfoRequested).request, INFO)
    pair.server.poll()
    asked = pair.server.one(SubscribeRequested)
    pair.server.moq.serving.accept(asked.request, None)
    pair.settle()
    assert pair.client.moq.deadline == 2.0
    pair.client.on_time(2.0)
    pair.settle()
    assert [event.request for event in pair.server.of(RequestCancelled)] == [asked.request]


@drafts
@steps
@roles
def test_a_fetch(draft: Draft, step: int, swap: bool) -> None:
    track = Track(draft, step, swap=swap)
    request = track.viewer.moq.requests.fetch("demo/cam", "video", 5, priority=3)
    track.pair.settle()
    fetch = track.publisher.one(FetchRequested)
    assert (fetch.broadcast, fetch.track, fetch.group, fetch.priority) == ("demo/cam", "video", 5, 3)
    group = group_of(5, (10, b"one"), (20, b""))
    track.fetched(group.parts, fin=False)
    track.fetched([FrameHeader(30, 3), b"end"], fin=True)
    events = track.viewer.of(FetchedData)
    assert {event.request for event in events} == {request}
    assert [event.part.fin for event in events][-1]
    queue = FrameQueue()
    for event in events:
        queue.extend(event.part.parts)
    assert [queue.popleft()[1] for _ in range(3)] == [b"one", b"", b"end"]


@drafts
def test_a_fetch_is_refused_and_another_cancelled(draft: Draft) -> None:
    track = Track(draft)
    request = track.viewer.moq.requests.fetch("demo/cam", "video", 5)
    track.pair.settle()
    track.publisher.moq.serving.reject(track.publisher.one(FetchRequested).request, StreamCode.NOT_FOUND)
    track.pair.settle()
    assert track.viewer.one(RequestRejected).request == request
    request = track.viewer.moq.requests.fetch("demo/cam", "video", 6)
    track.pair.settle()
    track.viewer.moq.requests.cancel(request)
    track.pair.settle()
    asked = track.publisher.of(FetchRequested)[-1]
    assert [event.request for event in track.publisher.of(RequestCancelled)] == [asked.request]


@drafts
def test_a_datagram(draft: Draft) -> None:
    track = Track(draft).subscribe()
    assert track.asked is not None
    assert track.publisher.moq.serving.send_datagram(track.asked.request, 4, 44, b"tick")
    track.pair.settle()
    came = track.viewer.one(DatagramReceived)
    assert came[:4] == (track.request, 4, 0 if draft is Draft.DRAFT_14 else 44, b"tick")
    assert came.start is not None
    assert (came.start.id, came.start.properties) == (0, ((0x10, 44),))
    large = b"x" * (track.publisher.session.datagram_limit + 1)
    assert not track.publisher.moq.serving.send_datagram(track.asked.request, 5, 50, large)


@drafts
def test_goaway(draft: Draft) -> None:
    pair = Pair(draft)
    assert pair.server.moq.requests.goaway("https://elsewhere")
    assert pair.client.moq.requests.goaway("ignored")
    pair.settle()
    assert pair.client.one(PeerLeaving).uri == "https://elsewhere"
    assert pair.server.one(PeerLeaving).uri == ""


def subgroups_of(end: End, track: Track) -> list[list[tuple[int, int, bytes]]]:
    """The objects of each group: subgroup, id, payload."""
    queues: dict[int, FrameQueue] = {}
    for event in end.of(GroupData):
        for part in event.parts:
            queues.setdefault(part.sequence, FrameQueue()).extend(part.parts)
    found = []
    for _, queue in sorted(queues.items()):
        objects = []
        while queue:
            start, payload = queue.popleft()
            assert isinstance(start, Object)
            objects.append((start.subgroup.number, start.id, payload))
        found.append(objects)
    return found
