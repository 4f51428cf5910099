"""The machine of moq-transport, and a peer that a test plays: objects, tracks that the peer offers, faults."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from relay.model.limits import Limits
from relay.model.track import SubscribeParams, TrackProperties
from relay.moq.encoding import EncodedGroup, Encoding, encoder_of
from relay.moq.feed import shared_fragments
from relay.moq.ietf_announce import MOST_UPDATES
from relay.moq.ietf_requests import LATE, PUBLISH_GRACE
from relay.moq.session import (
    Announced,
    AnnounceRequested,
    Closed,
    Fault,
    FetchRequested,
    GroupData,
    GroupFragment,
    InfoReceived,
    InfoRequested,
    Introduced,
    LimitExceeded,
    Offer,
    RequestCancelled,
    RequestRejected,
    SubscribeRequested,
    SubscriptionEnded,
    SubscriptionStarted,
    TokenOffered,
    TrackOffered,
    TracksRequested,
    Unannounced,
)
from relay.moq.session import DatagramReceived as Datagram
from relay.transport.session import DatagramReceived, StreamStopped
from relay.wire.errors import StreamCode
from relay.wire.frame import FrameHeader
from relay.wire.ietf.codes import RequestKind
from relay.wire.ietf.data import FetchGap, FetchHeader, ObjectDatagram, ObjectHeader, SubgroupHeader
from relay.wire.ietf.decoder import UniDecoder
from relay.wire.ietf.messages import (
    Fetch,
    FetchOk,
    Interest,
    Message,
    Namespace,
    NamespaceDone,
    Publish,
    PublishDone,
    PublishNamespace,
    Request,
    RequestError,
    RequestOk,
    RequestUpdate,
    Subscribe,
    SubscribeNamespace,
    SubscribeOk,
    SubscribeTracks,
    TrackStatus,
    Unsubscribe,
    UnsubscribeNamespace,
)
from relay.wire.ietf.streams import decode_datagram, encode_datagram
from relay.wire.ietf.values import (
    CURRENT_GROUP,
    AbsoluteRange,
    Filter,
    Location,
    NextObject,
    Properties,
    RelativeGroup,
    Token,
    TokenKind,
    Unfiltered,
)
from relay.wire.version import Draft
from tests.moq.ietf_peer import TIMED, IetfPeer, Publisher, parameters
from tests.moq.support import FakeStream

drafts = pytest.mark.parametrize("draft", Draft, ids=lambda draft: draft.name_on_wire)
NEW = [Draft.DRAFT_18, Draft.DRAFT_20, Draft.DRAFT_22]

NAME = (b"demo", b"cam"), b"video"

# --- from one draft to another


def decoded(draft: Draft, peer: IetfPeer, stream: Any) -> list[Any]:
    return list(UniDecoder(peer.profile, 1 << 20, lambda _: False).feed(stream.written))


@drafts
@pytest.mark.parametrize("other", Draft, ids=lambda draft: draft.name_on_wire)
def test_objects_pass_unchanged_from_draft_to_draft(draft: Draft, other: Draft) -> None:
    """Ids, gaps, subgroups and unknown properties."""
    peer = Publisher(draft)
    properties: Properties = ((0x10, 300), (0x3D, b"\x01\x02"), (0x1234, 5))
    base, detail = peer.begin(4, first_object=True), peer.begin(4, 7, first_object=True)
    peer.write(base, peer.object(0, b"a", None, properties) + peer.object(3, b"dd", 0), fin=True)
    peer.write(detail, peer.object(2, b"", None, properties[:1]), fin=True)
    peer.write(peer.begin(5), peer.object(0, b"next"))
    peer.end.on_time(LATE)
    group = EncodedGroup(4, 0.0)
    for event in peer.end.of(GroupData):
        for part in event.parts:
            if part.sequence == 4:
                group.extend(part.parts)
                group.finished |= part.fin
    assert group.finished

    viewer = Viewer(other)
    viewer.send(shared_fragments([(group, True)], viewer.end.moq.encoding))
    one, two = (decoded(other, viewer, stream) for stream in viewer.groups())
    assert (one[0].group, one[0].subgroup, two[0].subgroup) == (4, 0, 7)
    assert one[1:3] == [ObjectHeader(0, 1, properties), b"a"]
    assert one[3:5] == [ObjectHeader(3, 2), b"dd"]
    assert two[1] == ObjectHeader(2, 0, properties[:1])
    assert all(stream.finished for stream in viewer.groups())


@drafts
def test_objects_in_datagrams_pass_unchanged(draft: Draft) -> None:
    peer, viewer = Publisher(draft), Viewer(draft)
    sent = ObjectDatagram(9, 4, 3, b"tick", 77, ((0x3D, b"\x01"),), end_of_group=True)
    peer.end.receive(DatagramReceived(encode_datagram(sent, peer.profile)))
    (came,) = peer.end.of(Datagram)
    viewer.end.moq.serving.send_datagram(viewer.request, *came[1:])
    (data,) = viewer.session.datagrams
    assert decode_datagram(data, viewer.profile) == replace(sent, alias=0)


class Viewer(IetfPeer):
    """It has subscribed to a track of the machine."""

    def __init__(self, draft: Draft, info: TrackProperties | None = None, **values: Any) -> None:
        super().__init__(draft, interest=None)
        self.stream = self.ask(Subscribe(self.next_id(), *NAME, parameters(**values)))
        self.end.moq.serving.send_info(self.end.one(InfoRequested).request, info or TrackProperties())
        self.end.poll()
        self.request = self.end.one(SubscribeRequested).request
        self.end.moq.serving.accept(self.request, None)

    def send(self, fragments: tuple[GroupFragment, ...]) -> None:
        self.end.moq.serving.send_group(self.request, fragments, 0.0)
        self.end.poll()


@drafts
def test_a_track_is_answered_with_its_properties(draft: Draft) -> None:
    info = TrackProperties(pairs=((0x08, 90_000), (0x4321, b"kept")))
    viewer = Viewer(draft, info)
    (ok,) = viewer.answers(viewer.stream)
    assert isinstance(ok, SubscribeOk)
    if draft is not Draft.DRAFT_14:
        assert ok.properties == info.pairs


@drafts
def test_a_viewer_pauses(draft: Draft) -> None:
    viewer = Viewer(draft)
    stream = viewer.stream

    def forward(on: bool) -> None:
        filters = {"priority": 128} if viewer.profile.fixed_fields else {}
        existing = None if viewer.profile.request_streams else 0
        update = RequestUpdate(viewer.next_id(), parameters(forward=on, **filters), existing)
        viewer.say(stream, update)

    def group(number: int) -> tuple[GroupFragment, ...]:
        encoded = EncodedGroup(number, 0.0)
        encoded.finished = True
        return shared_fragments([(encoded, True)], viewer.end.moq.encoding)

    viewer.send(group(1))
    forward(False)
    viewer.send(group(2))
    forward(True)
    viewer.send(group(3))
    assert [decoded(draft, viewer, s)[0].group for s in viewer.groups()] == [1, 3]
    assert viewer.end.of(Closed) == []


# --- tracks that the peer offers


class Offering(IetfPeer):
    """It publishes a track by itself, with alias 3."""

    def __init__(self, draft: Draft, *, forward: bool = False, answered: bool = True, **values: Any) -> None:
        super().__init__(draft)
        properties = TIMED if self.profile.track_properties else ()
        message = Publish(self.next_id(), *NAME, 3, parameters(forward=forward, **values), properties)
        self.stream = self.ask(message)
        if answered:
            self.end.on_time(PUBLISH_GRACE)

    def updates(self) -> list[RequestUpdate]:
        return [m for m in self.answers(self.stream) if isinstance(m, RequestUpdate)]

    def agree(self, update: RequestUpdate, **values: Any) -> None:
        """Answer an update, where the draft has an answer."""
        if not self.profile.fixed_fields:
            ok = RequestOk(parameters(**values), request_id=update.request_id, to=RequestKind.UPDATE)
            self.say(self.stream, ok)
        self.end.poll()


@drafts
def test_an_offered_track_starts_on_demand(draft: Draft) -> None:
    peer = Offering(draft)
    assert [event.path for event in peer.end.of(Announced)] == ["demo/cam"]
    assert peer.updates() == []
    request = peer.end.moq.requests.subscribe("demo/cam", "video", SubscribeParams())
    (update,) = peer.updates()
    assert update.params.forward is True
    peer.agree(update)
    assert [event.request for event in peer.end.of(SubscriptionStarted)] == [request]
    stream = peer.subgroup(SubgroupHeader(3, 0, end_of_group=True, first_object=True, has_properties=True))
    peer.write(stream, peer.object(0, b"a"), fin=True)
    assert [part.fin for event in peer.end.of(GroupData) for part in event.parts] == [True]

    peer.end.moq.requests.cancel(request)
    assert [update.params.forward for update in peer.updates()] == [True, False]
    peer.agree(peer.updates()[1])
    unwanted = peer.subgroup(SubgroupHeader(3, 1, has_properties=True))
    assert unwanted.stops == [1]
    again = peer.end.moq.requests.subscribe("demo/cam", "video", SubscribeParams())
    peer.agree(peer.updates()[2])
    assert [event.request for event in peer.end.of(SubscriptionStarted)] == [request, again]

    done = PublishDone(2, 1, request_id=0)
    peer.say(peer.stream, done, fin=peer.profile.request_streams)
    assert [event.request for event in peer.end.of(SubscriptionEnded)] == [again]
    peer.end.moq.requests.cancel(again)
    peer.end.poll()
    assert [event.path for event in peer.end.of(Unannounced)] == ["demo/cam"]
    assert peer.end.of(Closed) == []


@drafts
@pytest.mark.parametrize("forward", [True, False])
def test_the_answer_to_an_offer_tells_if_a_subscriber_waits_for_it(draft: Draft, forward: bool) -> None:
    """From 20 on the answer has no FORWARD, and what the offer said holds."""
    peer = Offering(draft, forward=forward, answered=False)
    assert peer.answers(peer.stream) == []
    header = SubgroupHeader(3, 0, end_of_group=True, first_object=True, has_properties=True)
    early = peer.subgroup(header) if forward else None
    request = peer.end.moq.requests.subscribe("demo/cam", "video", SubscribeParams())
    (answer, *updates) = peer.answers(peer.stream)
    assert isinstance(answer, RequestOk)
    if peer.profile.publish_ok_parameters:
        assert answer.params.forward is True
        assert updates == []
    elif forward:
        assert updates == []
    else:
        peer.agree(*peer.updates())
    peer.end.poll()
    assert [event.request for event in peer.end.of(SubscriptionStarted)] == [request]
    stream = early or peer.subgroup(header)
    peer.write(stream, peer.object(0, b"a"), fin=True)
    assert stream.stops == []
    assert [part.fin for event in peer.end.of(GroupData) for part in event.parts][-1] is True


@drafts
@pytest.mark.parametrize("forward", [True, False])
def test_an_offer_without_a_subscriber_is_paused(draft: Draft, forward: bool) -> None:
    peer = Offering(draft, forward=forward, answered=False)
    early = peer.subgroup(SubgroupHeader(3, 0, has_properties=True))
    peer.end.on_time(peer.end.moq.deadline)
    (answer, *_) = peer.answers(peer.stream)
    assert isinstance(answer, RequestOk)
    if peer.profile.publish_ok_parameters:
        assert answer.params.forward is False
        assert peer.updates() == []
    else:
        assert [update.params.forward for update in peer.updates()] == [False] * forward
    peer.end.on_time(peer.end.moq.deadline)
    assert early.stops == [1]


@drafts
def test_an_offer_may_end_before_its_answer(draft: Draft) -> None:
    peer = Offering(draft, answered=False)
    peer.say(peer.stream, PublishDone(2, 0, request_id=0), fin=peer.profile.request_streams)
    assert isinstance(peer.answers(peer.stream)[0], RequestOk)
    assert [event.path for event in peer.end.of(Unannounced)] == ["demo/cam"]


@drafts
def test_an_offer_without_permission_is_refused(draft: Draft) -> None:
    peer = IetfPeer(draft, interest="other")
    stream = peer.ask(Publish(peer.next_id(), *NAME, 3, parameters(forward=False)))
    (refused,) = peer.answers(stream)
    assert isinstance(refused, RequestError)
    assert refused.code == 1
    assert peer.end.of(Announced) == []


@drafts
def test_a_namespace_lives_as_long_as_one_of_its_requests(draft: Draft) -> None:
    peer = Offering(draft)
    stream = peer.ask(PublishNamespace(peer.next_id(), NAME[0]))
    peer.say(peer.stream, PublishDone(2, 0, request_id=0), fin=peer.profile.request_streams)
    assert len(peer.end.of(Announced)) == 1
    assert peer.end.of(Unannounced) == []
    if peer.profile.request_streams:
        peer.reset(stream)
        assert [event.path for event in peer.end.of(Unannounced)] == ["demo/cam"]


# --- namespaces under another prefix


class NamespaceViewer(IetfPeer):
    """It has asked for the namespaces under `demo`, and got `demo/a` and `demo/b`."""

    def __init__(self, draft: Draft) -> None:
        super().__init__(draft, interest=None)
        self.stream = self.ask(SubscribeNamespace(self.next_id(), (b"demo",)))
        self.seen = 0
        self.answer("demo/a", "demo/b")
        self.new()

    def answer(self, *paths: str) -> None:
        asked = self.end.of(AnnounceRequested)[-1].request
        self.end.moq.serving.announce_initial(asked, [Offer(path) for path in paths])

    def turn(self, *prefix: bytes) -> None:
        self.say(self.stream, RequestUpdate(self.next_id(), parameters(prefix=prefix)))

    def new(self) -> list[Message]:
        """Answers since the last call."""
        found = self.answers(self.stream)[self.seen :]
        self.seen += len(found)
        return found


@pytest.mark.parametrize("draft", NEW, ids=lambda draft: draft.name_on_wire)
def test_a_viewer_turns_to_another_prefix(draft: Draft) -> None:
    """What it does not include is withdrawn below the former one; then its own are announced, unless known."""
    viewer = NamespaceViewer(draft)
    former = viewer.end.one(AnnounceRequested).request
    viewer.turn(b"demo", b"b")
    assert [event.request for event in viewer.end.of(RequestCancelled)] == [former]
    assert viewer.end.of(AnnounceRequested)[1].prefix == "demo/b"
    assert viewer.new() == []
    viewer.answer("demo/b", "demo/b/low")
    assert viewer.new() == [NamespaceDone((b"a",)), RequestOk(), Namespace((b"low",))]
    turned = viewer.end.of(AnnounceRequested)[1].request
    viewer.end.moq.serving.announce(former, "demo/b", None)
    viewer.end.moq.serving.announce(turned, "demo/b", None)
    assert viewer.new() == [NamespaceDone(())]
    viewer.turn()
    viewer.answer("demo/b/low", "other")
    assert viewer.new() == [RequestOk(), Namespace((b"other",))]
    viewer.reset(viewer.stream)
    requests = [event.request for event in viewer.end.of(AnnounceRequested)]
    assert [event.request for event in viewer.end.of(RequestCancelled)] == requests


@pytest.mark.parametrize("draft", NEW, ids=lambda draft: draft.name_on_wire)
def test_a_viewer_turns_twice(draft: Draft) -> None:
    """Updates are answered in their order, and what changes meanwhile is in the set."""
    viewer = NamespaceViewer(draft)
    viewer.turn(b"x")
    viewer.turn(b"demo")
    viewer.say(viewer.stream, RequestUpdate(viewer.next_id(), parameters()))
    asked = viewer.end.of(AnnounceRequested)[-1].request
    viewer.end.moq.serving.announce(asked, "demo/c", Offer("demo/c"))
    assert viewer.new() == []
    viewer.answer("demo/a", "demo/c")
    assert viewer.new() == [NamespaceDone((b"b",)), *[RequestOk()] * 3, Namespace((b"c",))]


@pytest.mark.parametrize("draft", NEW, ids=lambda draft: draft.name_on_wire)
def test_another_prefix_may_be_refused(draft: Draft) -> None:
    viewer = NamespaceViewer(draft)
    viewer.turn(b"x")
    for asked in viewer.end.of(AnnounceRequested)[1:]:
        viewer.end.moq.serving.reject(asked.request, StreamCode.UNROUTABLE)
    (refused,) = viewer.new()
    assert isinstance(refused, RequestError)
    assert viewer.stream.finished
    former = viewer.end.of(AnnounceRequested)[0].request
    assert [event.request for event in viewer.end.of(RequestCancelled)] == [former]
    assert viewer.end.of(Closed) == []


@pytest.mark.parametrize("draft", NEW, ids=lambda draft: draft.name_on_wire)
def test_few_updates_wait(draft: Draft) -> None:
    viewer = NamespaceViewer(draft)
    for _ in range(MOST_UPDATES + 1):
        viewer.turn(b"x")
    (refused,) = viewer.new()
    assert isinstance(refused, RequestError)
    requests = [event.request for event in viewer.end.of(AnnounceRequested)]
    assert [event.request for event in viewer.end.of(RequestCancelled)] == requests


@pytest.mark.parametrize("draft", NEW, ids=lambda draft: draft.name_on_wire)
def test_tracks_under_another_prefix_are_refused(draft: Draft) -> None:
    viewer = TracksViewer(draft)
    viewer.say(viewer.stream, RequestUpdate(viewer.next_id(), parameters(prefix=(b"x",))))
    assert isinstance(viewer.answers(viewer.stream)[-1], RequestError)
    assert [event.request for event in viewer.end.of(RequestCancelled)] == [viewer.wanted.request]


# --- other requests


@pytest.mark.parametrize("draft", NEW)
def test_a_subscription_waits_for_its_publisher(draft: Draft) -> None:
    peer = IetfPeer(draft, interest=None)
    stream = peer.ask(Subscribe(peer.next_id(), *NAME, parameters(rendezvous_timeout=3_000)))
    serving = peer.end.moq.serving
    serving.reject(peer.end.one(InfoRequested).request, StreamCode.UNROUTABLE)
    peer.end.poll()
    interest = peer.end.one(AnnounceRequested)
    assert interest.prefix == "demo/cam"
    serving.announce_initial(interest.request, [])
    assert peer.answers(stream) == []
    assert peer.end.moq.deadline == 3.0
    serving.announce(interest.request, "demo/cam", Offer("demo/cam"))
    peer.end.poll()
    assert [event.request for event in peer.end.of(RequestCancelled)] == [interest.request]
    again = peer.end.of(InfoRequested)[1]
    serving.send_info(again.request, TrackProperties())
    peer.end.poll()
    serving.accept(peer.end.one(SubscribeRequested).request, None)
    assert isinstance(peer.answers(stream)[0], SubscribeOk)


@pytest.mark.parametrize("draft", NEW)
def test_a_subscription_waits_in_vain(draft: Draft) -> None:
    peer = IetfPeer(draft, interest=None)
    stream = peer.ask(Subscribe(peer.next_id(), *NAME, parameters(rendezvous_timeout=3_000)))
    peer.end.moq.serving.reject(peer.end.one(InfoRequested).request, StreamCode.UNROUTABLE)
    peer.end.poll()
    peer.end.on_time(2.9)
    assert peer.answers(stream) == []
    peer.end.on_time(3.0)
    (refused,) = peer.answers(stream)
    assert isinstance(refused, RequestError)
    assert refused.code == 2
    assert len(peer.end.of(RequestCancelled)) == 1


@drafts
def test_the_state_of_a_track(draft: Draft) -> None:
    peer = IetfPeer(draft, interest=None)
    stream = peer.ask(TrackStatus(peer.next_id(), *NAME))
    peer.end.moq.serving.send_info(peer.end.one(InfoRequested).request, TrackProperties(), (7, 2))
    (answer,) = peer.answers(stream)
    assert isinstance(answer, RequestOk)
    assert answer.params.largest == (7, 2)
    stream = peer.ask(TrackStatus(peer.next_id(), *NAME))
    peer.end.moq.serving.reject(peer.end.of(InfoRequested)[1].request, StreamCode.NOT_FOUND)
    assert isinstance(peer.answers(stream)[-1], RequestError)


class TracksViewer(IetfPeer):
    """It wants the tracks below `demo` that others offer, and was offered one."""

    def __init__(self, draft: Draft) -> None:
        super().__init__(draft, interest=None)
        number = self.next_id()
        message: Message = SubscribeTracks(number, (b"demo",))
        if draft is Draft.DRAFT_16:
            message = SubscribeNamespace(number, (b"demo",), interest=Interest.TRACKS)
        elif draft is Draft.DRAFT_14:
            message = SubscribeNamespace(number, (b"demo",))
        self.stream = self.session.peer_opens(unidirectional=False)
        if draft is Draft.DRAFT_14:
            self.stream = self.control
        self.say(self.stream, message)
        self.wanted = self.end.one(TracksRequested)
        assert self.wanted.prefix == "demo"
        self.end.moq.serving.accept(self.wanted.request)
        self.offer("video")
        self.published = self.publishes()[0]

    def offer(self, track: str, *, offered: bool = True) -> None:
        self.end.moq.serving.offer_track(self.wanted.request, "demo/cam", track, offered=offered)
        self.end.poll()
        for asked in self.end.of(InfoRequested)[-1:] if offered else ():
            self.end.moq.serving.send_info(asked.request, TrackProperties())
            self.end.poll()

    def publishes(self) -> list[Publish]:
        streams = [s for s in self.session.streams if not s.unidirectional]
        return [m for s in streams for m in self.answers(s) if isinstance(m, Publish)]

    def agree(self, **values: Any) -> None:
        if self.profile.publish_ok_parameters:
            values = {"forward": True, "priority": 10, **values}
        if self.profile.fixed_fields:
            values = {"filter": NextObject(), **values}
        ok = RequestOk(parameters(**values), request_id=self.published.request_id, to=RequestKind.PUBLISH)
        self.say(self.asked(), ok)


@drafts
def test_tracks_that_others_offer_are_offered_on(draft: Draft) -> None:
    viewer = TracksViewer(draft)
    assert (viewer.published.namespace, viewer.published.track) == NAME
    assert viewer.end.of(SubscribeRequested) == []
    viewer.agree()
    asked = viewer.end.one(SubscribeRequested)
    assert (asked.broadcast, asked.track) == ("demo/cam", "video")
    assert asked.params.priority == (245 if viewer.profile.publish_ok_parameters else 127)
    serving = viewer.end.moq.serving
    serving.accept(asked.request, None)
    group = EncodedGroup(4, 0.0)
    group.finished = True
    serving.send_group(asked.request, shared_fragments([(group, True)], viewer.end.moq.encoding), 0.0)
    (stream,) = viewer.groups()
    assert decoded(draft, viewer, stream)[0].alias == viewer.published.alias
    viewer.session.take_all()
    serving.end_track(asked.request, 5, 1.0)
    done = viewer.answers(viewer.asked())[-1]
    assert isinstance(done, PublishDone)
    assert viewer.end.of(Closed) == []


@drafts
def test_a_track_that_nobody_offers_any_more_is_withdrawn(draft: Draft) -> None:
    viewer = TracksViewer(draft)
    viewer.offer("video", offered=False)
    assert isinstance(viewer.answers(viewer.asked())[-1], PublishDone)
    viewer.offer("video")
    assert len(viewer.publishes()) == 2


@drafts
@pytest.mark.parametrize("agreed", [True, False])
def test_tracks_that_a_viewer_does_not_take_go_with_its_interest(draft: Draft, agreed: bool) -> None:
    """Else they would pile up with each interest."""
    viewer = TracksViewer(draft)
    if agreed:
        viewer.agree()
    serving = viewer.end.moq.serving
    serving.offer_track(viewer.wanted.request, "demo/cam", "audio", offered=True)
    viewer.end.poll()
    question = viewer.end.of(InfoRequested)[-1].request
    if draft is Draft.DRAFT_14:
        viewer.say(viewer.control, UnsubscribeNamespace((b"demo",)))
    else:
        viewer.write(viewer.stream, b"", fin=True)
    cancelled = [event.request for event in viewer.end.of(RequestCancelled)]
    assert {question, viewer.wanted.request} <= set(cancelled)
    assert any(isinstance(m, PublishDone) for m in viewer.answers(viewer.asked())) is not agreed
    assert len(serving._deliveries) == agreed
    assert serving._offering == {}
    serving.send_info(question, TrackProperties())
    assert len(viewer.publishes()) == 1


@drafts
def test_a_viewer_declines_a_track(draft: Draft) -> None:
    viewer = TracksViewer(draft)
    refusal = RequestError(0x20, request_id=viewer.published.request_id, to=RequestKind.PUBLISH)
    viewer.say(viewer.asked(), refusal)
    assert viewer.end.of(SubscribeRequested) == []
    if draft is not Draft.DRAFT_14:
        viewer.write(viewer.stream, b"", fin=True)
        assert viewer.wanted.request in [event.request for event in viewer.end.of(RequestCancelled)]
    viewer.offer("audio")
    assert viewer.end.of(Closed) == []


@drafts
def test_names_of_tracks_that_are_no_text_are_refused(draft: Draft) -> None:
    peer = IetfPeer(draft)
    for request in (
        Subscribe(peer.next_id(), NAME[0], b"\xff"),
        Publish(peer.next_id(), NAME[0], b"\xff", 3),
    ):
        stream = peer.ask(request)
        assert isinstance(peer.answers(stream)[-1], RequestError)
    assert not [event for event in peer.end.events if isinstance(event, Announced | InfoRequested)]


# --- set-up


@drafts
def test_a_token_in_setup_is_part_of_the_target(draft: Draft) -> None:
    peer = IetfPeer(draft, setup=False, interest=None, admitted=False, path=None, transport="quic")
    peer.set_up(path="/room?x=1", tokens=(Token(b"a.b.c"),))
    assert peer.end.one(Introduced).target == "/room?x=1&jwt=a.b.c"
    peer.end.moq.setup.admit(0.0)
    peer.end.poll()
    assert peer.end.moq.state.value == "established"


@drafts
def test_a_token_in_setup_joins_the_query_of_the_url(draft: Draft) -> None:
    peer = IetfPeer(draft, setup=False, interest=None, admitted=False, path="/room", query="x=1")
    peer.set_up(tokens=(Token(b"a.b.c"),))
    assert peer.end.one(Introduced).target == "/room?x=1&jwt=a.b.c"
    peer = IetfPeer(draft, setup=False, interest=None, admitted=False, path="/room", query="x=1")
    peer.set_up()
    assert peer.end.one(Introduced).target is None


@drafts
@pytest.mark.parametrize("granted", [True, False])
def test_a_request_with_a_token_waits_for_the_verdict(draft: Draft, granted: bool) -> None:
    peer = IetfPeer(draft, interest=None)
    stream = peer.ask(Subscribe(peer.next_id(), *NAME, parameters(tokens=(Token(b"a.b.c"),))))
    assert peer.end.of(InfoRequested) == []
    offered = peer.end.one(TokenOffered)
    assert offered.token == "a.b.c"
    peer.end.moq.authorized(offered.request, granted=granted)
    peer.end.poll()
    assert len(peer.end.of(InfoRequested)) == granted
    if granted:
        peer.ask(Subscribe(peer.next_id(), *NAME, parameters(tokens=(Token(b"a.b.c"),))))
        assert len(peer.end.of(TokenOffered)) == 1
        assert len(peer.end.of(InfoRequested)) == 2
    else:
        (refused,) = peer.answers(stream)
        assert isinstance(refused, RequestError)
        assert refused.code == 1


@drafts
def test_a_request_goes_on_while_it_waits_for_the_verdict(draft: Draft) -> None:
    peer = IetfPeer(draft, interest=None)
    stream = peer.ask(Subscribe(peer.next_id(), *NAME, parameters(tokens=(Token(b"a.b.c"),))))
    fixed = {"filter": AbsoluteRange(Location(0, 0)), "forward": True} if peer.profile.fixed_fields else {}
    existing = None if peer.profile.request_streams else 0
    peer.say(stream, RequestUpdate(peer.next_id(), parameters(priority=7, **fixed), existing))
    peer.end.moq.authorized(peer.end.one(TokenOffered).request, granted=True)
    peer.end.poll()
    peer.end.moq.serving.send_info(peer.end.one(InfoRequested).request, TrackProperties())
    peer.end.poll()
    assert peer.end.one(SubscribeRequested).params.priority == 255 - 7
    assert peer.end.of(Fault) == []


@drafts
def test_a_track_may_end_before_our_owner_asks_for_any(draft: Draft) -> None:
    peer = IetfPeer(draft, interest=None)
    number = peer.next_id()
    stream = peer.ask(Publish(number, *NAME, 3, parameters(forward=True)))
    peer.say(stream, PublishDone(2, 0, request_id=number), fin=peer.profile.request_streams)
    peer.end.moq.requests.request_announcements("")
    peer.end.poll()
    assert peer.end.of(Fault) == []
    assert [event.offered for event in peer.end.of(TrackOffered)] in ([], [True, False])


@drafts
def test_an_expired_token_has_a_code_of_its_own(draft: Draft) -> None:
    """14 has codes for each kind of request, and that of PUBLISH_ERROR is missing."""
    peer, old = IetfPeer(draft, interest=None), draft is Draft.DRAFT_14
    params = parameters(tokens=(Token(b"a.b.c"),))
    asked: list[tuple[Request, int]] = [
        (Subscribe(peer.next_id(), *NAME, params), 0x12 if old else 0x5),
        (Fetch(peer.next_id(), *NAME, AbsoluteRange(Location(0, 0), 0), params), 0x12 if old else 0x5),
        (PublishNamespace(peer.next_id(), NAME[0], params), 0x12 if old else 0x5),
        (Publish(peer.next_id(), *NAME, 3, params), 0x1 if old else 0x5),
    ]
    for message, code in asked:
        stream = peer.ask(message)
        offered = peer.end.of(TokenOffered)[-1]
        peer.end.moq.authorized(offered.request, granted=False, expired=True)
        peer.end.poll()
        refused = peer.answers(stream)[-1]
        assert isinstance(refused, RequestError)
        assert refused.code == code, message


@drafts
def test_tokens_by_alias_close(draft: Draft) -> None:
    peer = IetfPeer(draft, interest=None)
    token = Token(kind=TokenKind.USE_ALIAS, alias=3)
    peer.ask(Subscribe(peer.next_id(), *NAME, parameters(tokens=(token,))))
    assert peer.session.closed[0][0] == 0x17


@pytest.mark.parametrize("draft", [Draft.DRAFT_14, Draft.DRAFT_16], ids=lambda draft: draft.name_on_wire)
def test_a_message_that_waits_for_admission_may_close(draft: Draft) -> None:
    """Our owner, which admits, is not at fault."""
    peer = IetfPeer(draft, interest=None, admitted=False)
    token = Token(kind=TokenKind.USE_ALIAS, alias=3)
    peer.ask(Subscribe(peer.next_id(), *NAME, parameters(tokens=(token,))))
    assert peer.session.closed == []
    peer.end.moq.setup.admit(0.0)
    peer.end.poll()
    assert peer.session.closed[0][0] == 0x17


@drafts
def test_a_closed_session_waits_for_nothing(draft: Draft) -> None:
    peer = IetfPeer(draft)
    peer.end.moq.requests.request_info("demo/cam", "video")
    peer.say(peer.asked(), accepted(peer))
    assert peer.end.moq.deadline == 2.0
    peer.end.moq.close(0, "enough")
    assert peer.end.moq.deadline == float("inf")
    before = [stream.written for stream in peer.session.streams]
    peer.end.on_time(100.0)
    assert [stream.written for stream in peer.session.streams] == before


def accepted(peer: IetfPeer) -> SubscribeOk:
    """Answer to the machine's first request."""
    fixed = {"expires": 0} if peer.profile.fixed_fields else {}
    return SubscribeOk(9, parameters(**fixed), request_id=1)


@drafts
@pytest.mark.parametrize("ok", [True, False])
def test_answered_questions_are_forgotten(draft: Draft, ok: bool) -> None:
    peer = IetfPeer(draft)
    requests = peer.end.moq.requests
    question = requests.request_info("demo/cam", "video")
    error = RequestError(4, request_id=1, to=RequestKind.SUBSCRIBE)
    peer.say(peer.asked(), accepted(peer) if ok else error)
    kind: Any = InfoReceived if ok else RequestRejected
    assert [event.request for event in peer.end.of(kind)] == [question]
    assert requests._questions == {}


@drafts
def test_a_question_waits_for_its_answer(draft: Draft) -> None:
    """However long ago the session had its last event, and however late the answer comes."""
    peer = IetfPeer(draft)
    question = peer.end.moq.requests.request_info("demo/cam", "video")
    peer.end.on_time(10.0)
    peer.say(peer.asked(), accepted(peer))
    assert peer.end.one(InfoReceived).request == question
    assert peer.end.moq.deadline == 12.0
    request = peer.end.moq.requests.subscribe("demo/cam", "video", SubscribeParams())
    peer.end.poll()
    assert peer.end.one(SubscriptionStarted).request == request


@drafts
def test_a_question_that_nobody_asks_any_more_ends_its_subscription(draft: Draft) -> None:
    peer = IetfPeer(draft)
    requests = peer.end.moq.requests
    first, second = (requests.request_info("demo/cam", "video") for _ in range(2))
    stream = peer.asked()
    requests.cancel(first)
    assert not left(peer, stream)
    requests.cancel(second)
    assert left(peer, stream)
    assert requests._questions == requests._unclaimed == {}
    peer.say(stream, accepted(peer))
    assert peer.end.of(InfoReceived) == []
    assert peer.end.of(Fault) == []


def left(peer: IetfPeer, stream: FakeStream) -> bool:
    """The machine gave up its request."""
    if peer.profile.request_streams:
        return bool(stream.resets)
    return any(isinstance(message, Unsubscribe) for message in peer.answers(stream))


@drafts
def test_text_that_is_no_token_is_not_taken(draft: Draft) -> None:
    peer = IetfPeer(draft, setup=False, interest=None, admitted=False, path=None, transport="quic")
    peer.set_up(path="/", tokens=(Token(b"a&jwt=b"), Token(b"x" * 9_000)))
    assert peer.end.one(Introduced).target == "/"


@drafts
def test_requests_before_setup_wait(draft: Draft) -> None:
    peer = IetfPeer(draft, setup=False, interest=None)
    if peer.profile.request_streams:
        peer.ask(Subscribe(peer.next_id(), *NAME))
        assert peer.end.of(InfoRequested) == []
        peer.set_up()
        assert len(peer.end.of(InfoRequested)) == 1
    else:
        peer.ask(Subscribe(peer.next_id(), *NAME))
        assert [fault.fatal for fault in peer.end.of(Fault)] == [True]  # one stream: it must begin with SETUP


@drafts
def test_request_ids_of_the_wrong_side_close(draft: Draft) -> None:
    peer = IetfPeer(draft, interest=None)
    peer.ask(Subscribe(1, *NAME))
    assert peer.session.closed[0][0] == 4
    peer = IetfPeer(draft, interest=None)
    peer.ask(Subscribe(0, *NAME))
    peer.ask(Subscribe(0, *NAME))
    assert peer.session.closed[0][0] == 4


@drafts
def test_the_session_ends_with_the_control_stream(draft: Draft) -> None:
    """Peers that leave end it first, so that it is no fault."""
    for aborted in (False, True):
        peer = IetfPeer(draft)
        if aborted:
            peer.reset(peer.control)
        else:
            peer.write(peer.control, b"", fin=True)
        assert peer.session.closed[0][0] == 0
        assert peer.end.of(Fault) == []


@drafts
def test_a_second_setup_closes(draft: Draft) -> None:
    peer = IetfPeer(draft)
    peer.set_up()
    assert peer.session.closed[0][0] == 3


@drafts
def test_a_viewer_that_stops_its_request_leaves(draft: Draft) -> None:
    viewer = Viewer(draft)
    if viewer.profile.request_streams:
        viewer.end.receive(StreamStopped(viewer.stream, 1))
        assert [event.request for event in viewer.end.of(RequestCancelled)] == [viewer.request]


@drafts
def test_the_peer_aborts_its_track(draft: Draft) -> None:
    peer = Publisher(draft)
    unauthorized = PublishDone(1, 0, request_id=1)
    peer.say(peer.stream, unauthorized, fin=peer.profile.request_streams)
    rejected = peer.end.one(RequestRejected)
    assert (rejected.request, rejected.code) == (peer.request, StreamCode.UNAUTHORIZED)


@drafts
@pytest.mark.parametrize("offered", [True, False])
def test_the_groups_of_an_aborted_track_go_on_until_they_are_cancelled(draft: Draft, offered: bool) -> None:
    peer: Any
    if offered:
        peer = Offering(draft)
        request, alias, number = peer.end.moq.requests.subscribe("demo/cam", "video", SubscribeParams()), 3, 0
        peer.agree(peer.updates()[0])
    else:
        peer = Publisher(draft)
        request, alias, number = peer.request, 9, 1
    stream = peer.subgroup(SubgroupHeader(alias, 4, first_object=True, has_properties=True))
    peer.write(stream, peer.object(0, b"a"))
    peer.say(peer.stream, PublishDone(1, 0, request_id=number), fin=peer.profile.request_streams)
    assert peer.end.one(RequestRejected).request == request
    peer.write(stream, peer.object(1, b"b", 0))
    assert [event.request for event in peer.end.of(GroupData)] == [request] * 2
    peer.end.moq.requests.cancel(request)
    assert stream.stops == [1]
    peer.write(stream, peer.object(2, b"c", 1))
    assert len(peer.end.of(GroupData)) == 2
    assert peer.end.moq.requests._subscriptions == {}


def test_encodings_by_draft() -> None:
    assert [IetfPeer(draft).end.moq.encoding for draft in Draft] == [
        Encoding.OBJECTS_14,
        Encoding.OBJECTS_16,
        *[Encoding.OBJECTS_18] * 3,
    ]


# --- what precedes a subscription


@pytest.mark.parametrize("draft", [Draft.DRAFT_20, Draft.DRAFT_22], ids=lambda draft: draft.name_on_wire)
def test_a_subscription_is_filled_in(draft: Draft) -> None:
    """On a fetch stream with its own id, up to its start."""
    viewer = IetfPeer(draft, interest=None)
    fill = parameters(filter=CURRENT_GROUP)
    viewer.ask(Subscribe(viewer.next_id(), *NAME, parameters(filter=NextObject(), fill=fill)))
    serving = viewer.end.moq.serving
    serving.send_info(viewer.end.one(InfoRequested).request, TrackProperties())
    viewer.end.poll()
    serving.accept(viewer.end.one(SubscribeRequested).request, (3, 1))
    viewer.end.poll()
    fetch = viewer.end.one(FetchRequested)
    assert fetch.group == 3
    parts = (FrameHeader(1, 2), b"ab", FrameHeader(2, 1), b"c", FrameHeader(3, 1), b"d")
    serving.send_fetched(fetch.request, parts, fin=False)
    viewer.end.poll()
    (stream,) = viewer.groups()
    found = decoded(draft, viewer, stream)
    assert found[0] == FetchHeader(0)
    assert [(item.group, item.id, item.size) for item in found[1::2]] == [(3, 0, 2), (3, 1, 1)]
    assert stream.finished
    assert [event.request for event in viewer.end.of(RequestCancelled)] == [fetch.request]


@pytest.mark.parametrize("draft", [Draft.DRAFT_20, Draft.DRAFT_22], ids=lambda draft: draft.name_on_wire)
def test_nothing_fills_in_a_new_track(draft: Draft) -> None:
    fill = parameters(filter=CURRENT_GROUP)
    viewer = Viewer(draft, filter=NextObject(), fill=fill)
    (stream,) = viewer.groups()
    assert decoded(draft, viewer, stream) == [FetchHeader(0)]
    assert stream.finished


@drafts
def test_a_fetch_of_several_groups(draft: Draft) -> None:
    """One group after the other on one stream; a missing one is left out."""
    peer = IetfPeer(draft, interest=None)
    where = AbsoluteRange(Location(2, 1), 4, 0)
    stream = peer.ask(Fetch(peer.next_id(), *NAME, where))
    serving = peer.end.moq.serving
    serving.send_fetched(
        peer.end.of(FetchRequested)[-1].request, (FrameHeader(1, 1), b"a", FrameHeader(2, 1), b"b"), fin=True
    )
    peer.end.poll()
    serving.reject(peer.end.of(FetchRequested)[-1].request, StreamCode.NOT_FOUND)
    peer.end.poll()
    serving.send_fetched(
        peer.end.of(FetchRequested)[-1].request, (FrameHeader(3, 1), b"c", FrameHeader(4, 1), b"d"), fin=False
    )
    assert [event.group for event in peer.end.of(FetchRequested)] == [2, 3, 4]
    (data,) = peer.groups()
    found = [item for item in decoded(draft, peer, data) if not isinstance(item, FetchGap)]
    assert [(found[n].group, found[n].id, found[n + 1]) for n in (1, 3)] == [(2, 1, b"b"), (4, 0, b"c")]
    assert data.finished
    assert isinstance(peer.answers(stream)[0], FetchOk)


FILLED = [Draft.DRAFT_20, Draft.DRAFT_22]


@pytest.mark.parametrize("draft", FILLED, ids=lambda draft: draft.name_on_wire)
def test_a_fetch_of_the_newest_groups(draft: Draft) -> None:
    """The track tells its end first."""
    peer = IetfPeer(draft, interest=None)
    stream = peer.ask(Fetch(peer.next_id(), *NAME, RelativeGroup(2)))
    serving = peer.end.moq.serving
    serving.send_info(peer.end.one(InfoRequested).request, TrackProperties(), (7, 0))
    peer.end.poll()
    for parts in ((FrameHeader(1, 1), b"a"), (FrameHeader(2, 1), b"b", FrameHeader(3, 1), b"c")):
        serving.send_fetched(peer.end.of(FetchRequested)[-1].request, parts, fin=len(parts) == 2)
        peer.end.poll()
    assert [event.group for event in peer.end.of(FetchRequested)] == [6, 7]
    (data,) = peer.groups()
    found = decoded(draft, peer, data)
    assert [(found[n].group, found[n].id, found[n + 1]) for n in (1, 3)] == [(6, 0, b"a"), (7, 0, b"b")]
    assert data.finished
    (ok,) = peer.answers(stream)
    assert isinstance(ok, FetchOk)
    assert (ok.end_group, ok.end_object) == (7, 0)


@pytest.mark.parametrize("draft", FILLED, ids=lambda draft: draft.name_on_wire)
@pytest.mark.parametrize(
    ("wanted", "largest"), [(RelativeGroup(2), None), (RelativeGroup(0), (7, 0)), (NextObject(), None)]
)
def test_a_fetch_of_what_is_to_come_is_refused(draft: Draft, wanted: Filter, largest: Any) -> None:
    peer = IetfPeer(draft, interest=None)
    stream = peer.ask(Fetch(peer.next_id(), *NAME, wanted))
    for asked in peer.end.of(InfoRequested):
        peer.end.moq.serving.send_info(asked.request, TrackProperties(), largest)
    assert isinstance(peer.answers(stream)[0], RequestError)
    assert peer.end.of(FetchRequested) == []


@pytest.mark.parametrize("draft", FILLED, ids=lambda draft: draft.name_on_wire)
def test_a_fetch_of_the_newest_groups_ends_early(draft: Draft) -> None:
    """Its track is missing, or the peer leaves."""
    peer = IetfPeer(draft, interest=None)
    stream = peer.ask(Fetch(peer.next_id(), *NAME, RelativeGroup(1)))
    peer.end.moq.serving.reject(peer.end.one(InfoRequested).request, StreamCode.UNROUTABLE)
    assert isinstance(peer.answers(stream)[0], RequestError)
    peer.reset(peer.ask(Fetch(peer.next_id(), *NAME, RelativeGroup(1))))
    asked = peer.end.of(InfoRequested)[1].request
    assert [event.request for event in peer.end.of(RequestCancelled)] == [asked]
    peer.end.moq.serving.send_info(asked, TrackProperties(), (7, 0))
    peer.end.poll()
    assert peer.end.of(FetchRequested) == []


@pytest.mark.parametrize("draft", FILLED, ids=lambda draft: draft.name_on_wire)
def test_a_fetch_of_everything(draft: Draft) -> None:
    peer = IetfPeer(draft, interest=None)
    peer.ask(Fetch(peer.next_id(), *NAME, Unfiltered()))
    assert peer.end.one(FetchRequested).group == 0


@drafts
def test_a_fetch_gives_up_beyond_the_track(draft: Draft) -> None:
    peer = IetfPeer(draft, interest=None)
    stream = peer.ask(Fetch(peer.next_id(), *NAME, AbsoluteRange(Location(0, 0), 1_000_000, None)))
    for _ in range(8):
        request = peer.end.of(FetchRequested)[-1].request
        peer.end.moq.serving.reject(request, StreamCode.NOT_FOUND)
        peer.end.poll()
    assert len(peer.end.of(FetchRequested)) == 8
    (refused,) = peer.answers(stream)
    assert isinstance(refused, RequestError)


@drafts
@pytest.mark.parametrize("start", [0, 2])
def test_frames_are_written_as_objects_are(draft: Draft, start: int) -> None:
    """The short way of a frame gives the bytes of the codec."""
    peer = IetfPeer(draft)
    payloads = [b"a" * 70, b"", b"b" * 300, b"c"]
    for timestamp in (0, 63, 64, 127, 128, 16_383, 16_384, 1 << 30, (1 << 61) - 1):
        group = EncodedGroup(1, 0.0)
        for payload in payloads:
            group.extend((FrameHeader(timestamp, len(payload)), *filter(None, [payload])))
        encoder = encoder_of(peer.end.moq.encoding, start)
        written = b"".join(encoder.take(group.parts))
        expected = b"".join(
            peer.object(number, payload, number - 1 if number > start else None, ((0x10, timestamp),))
            for number, payload in enumerate(payloads)
            if number >= start
        )
        assert written == expected, timestamp


# --- limits


@drafts
def test_a_large_object_breaks_its_group_off(draft: Draft) -> None:
    peer = Publisher(draft, limits=replace(Limits(), frame=1_000))
    stream = peer.begin(4)
    peer.write(stream, peer.object(0, b"a"))
    peer.write(stream, peer.object(1, b"x" * 1_001, 0))
    assert stream.stops
    assert peer.ends() == {4: StreamCode.FRAME_TOO_LARGE}
    assert [event.limit for event in peer.end.of(LimitExceeded)] == ["frame"]
    assert peer.end.of(Closed) == []


@drafts
def test_control_messages_have_a_rate(draft: Draft) -> None:
    peer = IetfPeer(draft, limits=replace(Limits(), control_rate=1, control_burst=10))
    for _ in range(20):
        peer.ask(PublishNamespace(peer.next_id(), NAME[0]))
    assert [event.limit for event in peer.end.of(LimitExceeded)] == ["control_rate"]
    assert peer.session.closed[0][0] == 27


@drafts
def test_setup_has_a_time(draft: Draft) -> None:
    peer = IetfPeer(draft, setup=False, interest=None)
    peer.end.on_time(peer.end.moq.deadline)
    assert [event.limit for event in peer.end.of(LimitExceeded)] == ["setup_timeout"]
    assert peer.session.closed[0][0] == 0x11


@drafts
def test_requests_of_one_namespace_have_a_number(draft: Draft) -> None:
    peer = IetfPeer(draft, limits=replace(Limits(), announces=2))
    streams = [peer.ask(PublishNamespace(peer.next_id(), NAME[0])) for _ in range(5)]
    assert isinstance(peer.answers(streams[-1])[-1], RequestError)
    assert len(peer.end.of(Announced)) == 1
    assert [event.limit for event in peer.end.of(LimitExceeded)] == ["announces"]
