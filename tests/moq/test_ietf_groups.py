"""Groups of a moq-transport peer: the streams of one become one list of objects, and its end."""

from __future__ import annotations

import pytest

from relay.model.track import SubscribeParams
from relay.moq.ietf_groups import HELD_BYTES, JOINING_BYTES
from relay.moq.ietf_requests import LATE, MOST_LATE
from relay.moq.session import GroupData, StrayGroup, SubscriptionEnded
from relay.wire.errors import StreamCode
from relay.wire.ietf.data import FetchObject, ObjectStatus, SubgroupHeader
from relay.wire.ietf.messages import PublishDone, SubscribeOk
from relay.wire.ietf.streams import FetchEncoder, fetch_header
from relay.wire.ietf.values import Location
from relay.wire.version import Draft
from tests.moq.ietf_peer import IetfPeer, Publisher, parameters

drafts = pytest.mark.parametrize("draft", Draft, ids=lambda draft: draft.name_on_wire)

SOON = LATE / 2
"""Seconds that a group waits for further streams."""


@drafts
def test_ids_may_have_gaps(draft: Draft) -> None:
    peer = Publisher(draft)
    stream = peer.begin(4, end_of_group=True, first_object=True)
    peer.write(stream, peer.object(0, b"a") + peer.object(5, b"b", 0) + peer.object(6, b"", 5), fin=True)
    assert peer.objects() == {4: [(0, 0, b"a"), (0, 5, b"b"), (0, 6, b"")]}
    peer.end.on_time(SOON)
    assert peer.ends() == {4: None}


@drafts
def test_subgroups_are_merged_by_id(draft: Draft) -> None:
    peer = Publisher(draft)
    base, detail = peer.begin(4, first_object=True), peer.begin(4, 1, first_object=True)
    peer.write(base, peer.object(0, b"a") + peer.object(2, b"c", 0))
    assert peer.objects() == {4: [(0, 0, b"a")]}  # the other one may bring number 1
    peer.write(detail, peer.object(1, b"b") + peer.object(3, b"d", 1)[:-1])
    assert peer.objects() == {4: [(0, 0, b"a"), (1, 1, b"b"), (0, 2, b"c")]}
    peer.write(base, peer.object(4, b"e", 2), fin=True)
    peer.write(detail, b"d", fin=True)
    assert peer.objects()[4][3:] == [(1, 3, b"d"), (0, 4, b"e")]
    peer.end.on_time(SOON)
    assert peer.ends() == {}
    peer.write(peer.begin(5), peer.object(0, b"next"))
    peer.end.on_time(2 * SOON)
    assert peer.ends() == {4: None}  # a newer group: nothing else comes


@drafts
def test_a_missing_id_is_not_awaited_without_another_stream(draft: Draft) -> None:
    peer = Publisher(draft)
    base, detail = peer.begin(4), peer.begin(4, 1)
    peer.write(base, peer.object(0, b"a") + peer.object(3, b"d", 0))
    peer.write(detail, peer.object(1, b"b"), fin=True)
    assert peer.objects() == {4: [(0, 0, b"a"), (1, 1, b"b"), (0, 3, b"d")]}


@drafts
@pytest.mark.parametrize("status", [ObjectStatus.END_OF_GROUP, ObjectStatus.END_OF_TRACK])
def test_an_object_ends_the_group(draft: Draft, status: ObjectStatus) -> None:
    peer = Publisher(draft)
    stream = peer.begin(4)
    peer.write(stream, peer.object(0, b"a") + peer.object(1, b"", 0, status=status), fin=True)
    assert (peer.objects(), peer.ends()) == ({4: [(0, 0, b"a")]}, {4: None})
    done = PublishDone(2, 1, request_id=1)
    peer.say(peer.stream, done, fin=peer.profile.request_streams)
    final = 5 if status is ObjectStatus.END_OF_TRACK else None
    assert [event.final for event in peer.end.of(SubscriptionEnded)] == [final]


@drafts
def test_the_end_of_the_track_is_no_group(draft: Draft) -> None:
    peer = Publisher(draft)
    peer.write(peer.begin(3), peer.object(0, b"a"), fin=True)
    peer.write(peer.begin(4), peer.object(0, b"", status=ObjectStatus.END_OF_TRACK), fin=True)
    peer.end.on_time(SOON)
    assert set(peer.objects()) == {3}
    assert peer.ends() == {3: None}


@drafts
def test_a_reset_subgroup_breaks_the_group_off(draft: Draft) -> None:
    peer = Publisher(draft)
    stream = peer.begin(4)
    peer.write(stream, peer.object(0, b"abc")[:-1])
    peer.reset(stream, 2)
    assert peer.ends() == {4: StreamCode.DELIVERY_TIMEOUT}
    base, detail = peer.begin(5), peer.begin(5, 1)
    peer.write(base, peer.object(0, b"a"))
    peer.reset(detail)
    peer.write(base, peer.object(1, b"b", 0), fin=True)
    assert peer.objects()[5] == [(0, 0, b"a"), (0, 1, b"b")]
    assert peer.ends()[5] == StreamCode.CANCELLED  # it lacks a layer


@drafts
def test_groups_before_the_answer_wait(draft: Draft) -> None:
    peer = IetfPeer(draft)
    peer.end.moq.requests.subscribe("demo/cam", "video", SubscribeParams())
    stream = peer.subgroup(SubgroupHeader(9, 1, end_of_group=True, has_properties=True))
    peer.write(stream, peer.object(0, b"early"), fin=True)
    assert peer.end.of(GroupData) == []
    fixed = {"expires": 0} if peer.profile.fixed_fields else {}
    peer.say(peer.asked(), SubscribeOk(9, parameters(**fixed), request_id=1))
    assert [part.fin for event in peer.end.of(GroupData) for part in event.parts] == [True]
    assert peer.end.of(StrayGroup) == []


@drafts
def test_groups_of_nobody_are_stopped(draft: Draft) -> None:
    peer = IetfPeer(draft)
    stray = peer.subgroup(SubgroupHeader(9, 1))
    assert stray.stops == [1]
    peer.end.moq.requests.subscribe("demo/cam", "video", SubscribeParams())
    waiting = peer.subgroup(SubgroupHeader(9, 1))
    assert waiting.stops == []
    peer.end.on_time(3.0)
    assert waiting.stops == [1]
    assert len(peer.end.of(StrayGroup)) == 2


@drafts
def test_little_waits_for_lower_ids(draft: Draft) -> None:
    """Then the missing ones are given up."""
    peer = Publisher(draft)
    peer.write(peer.begin(4), peer.object(0, b"a"))
    detail = peer.begin(4, 1)
    large = b"x" * (HELD_BYTES // 2)
    peer.write(detail, peer.object(5, large))
    assert len(peer.objects()[4]) == 1
    peer.write(detail, peer.object(6, large, 5))
    assert [number for _, number, _ in peer.objects()[4]] == [0, 5, 6]


@pytest.mark.parametrize("draft", [Draft.DRAFT_14, Draft.DRAFT_16, Draft.DRAFT_18])
def test_little_waits_for_a_joining_fetch(draft: Draft) -> None:
    peer = Publisher(draft, largest=Location(4, 0))
    stream = peer.begin(4)
    payload = b"x" * (JOINING_BYTES // 4)
    for number in range(1, 5):
        assert stream.stops == []
        peer.write(stream, peer.object(number, payload, number - 1 if number > 1 else None))
    assert len(stream.stops) == 1
    assert peer.objects() == {}
    peer.write(peer.begin(5), peer.object(0, b"next"))
    assert peer.objects() == {5: [(0, 0, b"next")]}


# --- the end of a group


def late(peer: Publisher, group: int) -> None:
    """All of it but its second stream, and the next group begins."""
    peer.write(peer.begin(group), peer.object(0, b"a"), fin=True)
    peer.write(peer.begin(group + 1), peer.object(0, b"next"))


@drafts
def test_a_subgroup_may_come_after_the_next_group_has_begun(draft: Draft) -> None:
    peer = Publisher(draft)
    late(peer, 1)
    peer.write(peer.begin(1, 1), peer.object(2, b"c"), fin=True)
    assert peer.objects()[1] == [(0, 0, b"a"), (1, 2, b"c")]
    assert peer.ends() == {}
    assert peer.end.moq.deadline <= SOON
    peer.end.on_time(SOON)
    assert peer.ends() == {1: None}
    assert peer.end.moq.requests.late == {}


@drafts
def test_a_known_end_says_how_many_objects_come(draft: Draft) -> None:
    peer = Publisher(draft)
    peer.write(peer.begin(1, 1, end_of_group=True), peer.object(1, b"b"), fin=True)
    assert peer.ends() == {}
    late(peer, 1)
    assert peer.objects()[1] == [(1, 1, b"b"), (0, 0, b"a")]
    assert peer.ends() == {1: None}
    marked = peer.begin(3)
    mark = peer.object(2, b"", 0, status=ObjectStatus.END_OF_GROUP)
    peer.write(marked, peer.object(0, b"a") + mark, fin=True)
    assert peer.ends() == {1: None}
    peer.write(peer.begin(3, 1), peer.object(1, b"b"), fin=True)
    assert peer.ends() == {1: None, 3: None}


@drafts
def test_groups_of_one_stream_do_not_wait_for_another(draft: Draft) -> None:
    """But the first ones do: until then nobody knows."""
    peer = Publisher(draft)
    for group in range(0, 6, 2):
        late(peer, group)
    assert peer.ends() == {}
    peer.end.on_time(SOON)
    assert peer.ends() == dict.fromkeys(range(0, 6, 2))
    for group in range(6, 10, 2):
        late(peer, group)
        assert group in peer.ends()
    peer.write(peer.begin(10, end_of_group=True), peer.object(7, b"gaps"), fin=True)
    assert 10 in peer.ends()


@pytest.mark.parametrize("draft", [Draft.DRAFT_14, Draft.DRAFT_16, Draft.DRAFT_18])
def test_a_group_that_came_by_a_fetch_alone_says_nothing_of_streams(draft: Draft) -> None:
    peer = Publisher(draft, largest=Location(4, 0))
    answer = peer.session.peer_opens(unidirectional=True)
    fetched = FetchEncoder(peer.profile).header(FetchObject(4, 0, 0, 128, 1)) + b"a"
    peer.write(answer, fetch_header(3, peer.profile) + fetched, fin=True)
    peer.write(peer.begin(5), peer.object(0, b"next"), fin=True)
    peer.end.on_time(SOON)
    assert peer.ends() == {4: None}
    peer.write(peer.begin(6), peer.object(0, b"next"))
    peer.write(peer.begin(5, 1), peer.object(1, b"b"), fin=True)
    assert peer.objects()[5] == [(0, 0, b"next"), (1, 1, b"b")]


@drafts
def test_a_stream_behind_the_end_of_its_group_makes_later_ones_wait(draft: Draft) -> None:
    peer = Publisher(draft)
    late(peer, 1)
    peer.end.on_time(SOON)
    late(peer, 3)
    assert 3 in peer.ends()
    stream = peer.begin(3, 1)
    assert len(stream.stops) == 1
    late(peer, 5)
    assert 5 not in peer.ends()
    peer.write(peer.begin(5, 1), peer.object(1, b"b"), fin=True)
    peer.end.on_time(2 * SOON)
    assert 5 in peer.ends()
    late(peer, 7)
    peer.end.on_time(3 * SOON)
    late(peer, 9)  # that no second stream came for 7 changes nothing
    assert 9 not in peer.ends()


@drafts
def test_subgroups_may_come_after_the_end_of_the_track(draft: Draft) -> None:
    peer = Publisher(draft)
    late(peer, 1)
    done = PublishDone(2, 3, request_id=1)
    peer.say(peer.stream, done, fin=peer.profile.request_streams)
    peer.write(peer.begin(1, 1), peer.object(1, b"b"), fin=True)
    peer.end.on_time(SOON)
    assert peer.objects()[1] == [(0, 0, b"a"), (1, 1, b"b")]
    assert peer.ends() == {1: None}


@drafts
def test_groups_do_not_wait_for_more_when_the_session_ends(draft: Draft) -> None:
    peer = Publisher(draft)
    late(peer, 1)
    peer.end.moq.close(0, "enough")
    peer.end.poll()
    assert peer.ends() == {1: None}


@drafts
def test_groups_do_not_wait_for_more_when_the_subscription_is_aborted(draft: Draft) -> None:
    peer = Publisher(draft)
    late(peer, 1)
    peer.say(peer.stream, PublishDone(0, 2, request_id=1), fin=peer.profile.request_streams)
    assert peer.ends() == {1: None}


@drafts
def test_few_groups_wait_for_more(draft: Draft) -> None:
    peer = Publisher(draft)
    for group in range(MOST_LATE + 2):
        peer.write(peer.begin(group), peer.object(0, b"a"), fin=True)
    assert peer.ends() == dict.fromkeys(range(MOST_LATE + 1))  # as they had one stream
    assert peer.end.moq.requests.late == {}
