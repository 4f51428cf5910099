"""SUBSCRIBE of a moq-transport peer: what streams say of their group's end, and what PUBLISH_DONE says."""

from __future__ import annotations

from typing import Any

import pytest

from relay.model.group import Object, Part, Subgroup
from relay.model.track import TrackProperties
from relay.moq.encoding import EncodedGroup
from relay.moq.feed import Feed, shared_fragments
from relay.moq.session import GroupData, InfoRequested, SubscribeRequested
from relay.wire.frame import FrameHeader
from relay.wire.ietf.data import ObjectHeader, ObjectStatus, SubgroupHeader
from relay.wire.ietf.decoder import UniDecoder
from relay.wire.ietf.messages import PublishDone, RequestOk, RequestUpdate, Subscribe, SubscribeOk
from relay.wire.ietf.values import AbsoluteRange, Location
from relay.wire.version import Draft
from tests.moq.ietf_peer import IetfPeer, Publisher, parameters

NAME = (b"demo", b"cam"), b"video"

drafts = pytest.mark.parametrize("draft", Draft, ids=lambda draft: draft.name_on_wire)
filled = pytest.mark.parametrize(
    "draft", [Draft.DRAFT_20, Draft.DRAFT_22], ids=lambda draft: draft.name_on_wire
)


class Viewer(IetfPeer):
    """It has subscribed to a track of the machine."""

    def __init__(self, draft: Draft, info: TrackProperties | None = None, **values: Any) -> None:
        super().__init__(draft, interest=None)
        self.stream = self.ask(Subscribe(self.next_id(), *NAME, parameters(**values)))
        self.end.moq.serving.send_info(self.end.one(InfoRequested).request, info or TrackProperties())
        self.end.poll()
        asked = self.end.one(SubscribeRequested)
        self.request, self.params = asked.request, asked.params
        self.end.moq.serving.accept(self.request, None)

    def send(self, group: EncodedGroup) -> None:
        """A new group, as far as the subscription wants it."""
        fragments = Feed(self.end.moq.encoding, self.params, group.sequence).join(group)
        self.end.moq.serving.send_group(self.request, fragments, 0.0)
        self.end.poll()

    def came(self) -> list[tuple[SubgroupHeader, list[ObjectHeader]]]:
        """What each stream has."""
        found = []
        for stream in self.groups():
            assert stream.finished
            header, *items = UniDecoder(self.profile, 1 << 20, lambda _: False).feed(stream.written)
            assert isinstance(header, SubgroupHeader)
            found.append((header, [item for item in items if isinstance(item, ObjectHeader)]))
        return found

    def ends(self) -> list[int]:
        """What streams say: no object has that id, or a higher one."""
        ends = []
        for header, items in self.came():
            if items and items[-1].status is ObjectStatus.END_OF_GROUP:
                ends.append(items[-1].id)
            elif header.end_of_group:
                ends.append(items[-1].id + 1 if items else 0)
        return ends


def passed_on(peer: Publisher, sequence: int) -> EncodedGroup:
    """The group that came from it."""
    group = EncodedGroup(sequence, 0.0)
    for event in peer.end.of(GroupData):
        for part in event.parts:
            if part.sequence == sequence:
                group.extend(part.parts)
                group.finished |= part.fin
    return group


@drafts
def test_the_end_of_a_group_is_that_of_its_publisher(draft: Draft) -> None:
    """Objects of a subgroup with lower ids may come last."""
    peer, viewer = Publisher(draft), Viewer(draft)
    base, mark = peer.begin(4), peer.object(5, b"", 2, status=ObjectStatus.END_OF_GROUP)
    peer.write(base, peer.object(0, b"a") + peer.object(2, b"c", 0) + mark, fin=True)
    peer.write(peer.begin(4, 1), peer.object(1, b"b"), fin=True)
    peer.end.on_time(1.0)
    viewer.send(passed_on(peer, 4))
    assert viewer.ends() == [5]
    assert [[item.id for item in items] for _, items in viewer.came()] == [[0, 2, 5], [1]]


@drafts
def test_an_end_that_the_publisher_did_not_tell_is_not_told(draft: Draft) -> None:
    peer, viewer = Publisher(draft), Viewer(draft)
    peer.write(peer.begin(4), peer.object(0, b"a"), fin=True)
    peer.write(peer.begin(5), peer.object(0, b"a"))
    peer.end.on_time(1.0)
    group = passed_on(peer, 4)
    assert group.finished
    viewer.send(group)
    assert viewer.ends() == []


@filled
@pytest.mark.parametrize("lite", [True, False])
def test_the_end_of_the_range_is_not_that_of_the_group(draft: Draft, lite: bool) -> None:
    viewer = Viewer(draft, filter=AbsoluteRange(Location(4, 0), 4, 1))
    subgroup = Subgroup(0, 7, starts=True, ends_group=True)
    group = EncodedGroup(4, 0.0)
    for number in range(4):
        start: Part = FrameHeader(5, 1) if lite else Object(5, 1, number, subgroup)
        group.extend((start, b"x"))
    group.finished = True
    viewer.send(group)
    ((_, items),) = viewer.came()
    assert [item.id for item in items] == [0, 1]
    assert viewer.ends() == []


@drafts
def test_the_end_of_a_range_is_not_that_of_the_track(draft: Draft) -> None:
    """Drafts since 20 have no code for it."""
    for final, status in ((6, 2 if draft >= Draft.DRAFT_20 else 3), (5, 2)):
        viewer = Viewer(draft, filter=AbsoluteRange(Location(4, 0), 5, None))
        viewer.end.moq.serving.end_track(viewer.request, final, 0.0)
        viewer.end.poll()
        done = viewer.answers(viewer.stream)[-1]
        assert isinstance(done, PublishDone)
        assert done.status == status


@drafts
def test_an_update_is_answered_behind_its_request(draft: Draft) -> None:
    peer = IetfPeer(draft, interest=None)
    stream = peer.ask(Subscribe(peer.next_id(), *NAME, parameters()))
    existing = None if peer.profile.request_streams else 0
    fixed = {"filter": AbsoluteRange(Location(0, 0)), "forward": True} if peer.profile.fixed_fields else {}
    for priority in (7, 8):
        params = parameters(priority=priority, **fixed)
        peer.say(stream, RequestUpdate(peer.next_id(), params, existing))
    assert peer.answers(stream) == []
    peer.end.moq.serving.send_info(peer.end.one(InfoRequested).request, TrackProperties())
    peer.end.poll()
    asked = peer.end.one(SubscribeRequested)
    assert asked.params.priority == 255 - 8
    peer.end.moq.serving.accept(asked.request, None)
    answers = [type(message) for message in peer.answers(stream)]
    assert answers == [SubscribeOk, *[RequestOk] * (2 if draft is not Draft.DRAFT_14 else 0)]


@drafts
@pytest.mark.parametrize(("own", "wanted", "waits"), [(400, None, 400), (400, 100, 100), (100, 400, 100)])
def test_the_shorter_timeout_of_publisher_and_subscriber_counts(
    draft: Draft, own: int, wanted: int | None, waits: int
) -> None:
    """For groups behind a newer one."""
    values = {} if wanted is None else {"delivery_timeout": wanted}
    viewer = Viewer(draft, TrackProperties(pairs=((0x02, own),)), **values)
    for sequence in (1, 2):
        group = EncodedGroup(sequence, 0.0)
        group.extend((FrameHeader(5, 1), b"x"))
        fragments = shared_fragments([(group, True)], viewer.end.moq.encoding)
        viewer.end.moq.serving.send_group(viewer.request, fragments, 0.0)
    old = viewer.groups()[0]
    for late in (waits - 1, waits):
        assert old.resets == []
        group = EncodedGroup(3 + late, 0.0)
        group.extend((FrameHeader(5, 1), b"x"))
        fragments = shared_fragments([(group, True)], viewer.end.moq.encoding)
        viewer.end.moq.serving.send_group(viewer.request, fragments, late / 1000)
    assert old.resets == [2]
