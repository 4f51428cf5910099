"""FETCH of a moq-transport peer: ranges, their end, refusals, and the order of sending."""

from __future__ import annotations

from typing import Any

import pytest

from relay.model.group import Object, Subgroup
from relay.model.track import TrackProperties
from relay.moq.session import (
    FetchRequested,
    InfoRequested,
    RequestCancelled,
    SubscribeRequested,
)
from relay.wire.errors import StreamCode
from relay.wire.frame import FrameHeader
from relay.wire.ietf.data import FetchGap, FetchObject, GapKind
from relay.wire.ietf.decoder import UniDecoder
from relay.wire.ietf.messages import (
    Fetch,
    FetchOk,
    JoiningFetch,
    Message,
    RequestError,
    RequestUpdate,
    Subscribe,
)
from relay.wire.ietf.values import AbsoluteRange, GroupOrder, Location, Unfiltered
from relay.wire.version import Draft
from tests.moq.ietf_peer import IetfPeer, parameters
from tests.moq.support import FakeStream

NEW = [Draft.DRAFT_18, Draft.DRAFT_20, Draft.DRAFT_22]

NAME = (b"demo", b"cam"), b"video"

drafts = pytest.mark.parametrize("draft", Draft, ids=lambda draft: draft.name_on_wire)
filled = pytest.mark.parametrize(
    "draft", [Draft.DRAFT_20, Draft.DRAFT_22], ids=lambda draft: draft.name_on_wire
)
joined = pytest.mark.parametrize(
    "draft", [Draft.DRAFT_14, Draft.DRAFT_16, Draft.DRAFT_18], ids=lambda draft: draft.name_on_wire
)


def invalid_range(draft: Draft) -> int:
    return 0x5 if draft is Draft.DRAFT_14 else 0x11


class Fetcher(IetfPeer):
    """It fetches from the machine."""

    def __init__(self, draft: Draft) -> None:
        super().__init__(draft, interest=None)
        self.serving = self.end.moq.serving

    def fetch(self, wanted: Any, **params: Any) -> FakeStream:
        return self.ask(Fetch(self.next_id(), *NAME, wanted, parameters(**params)))

    def subscribe(self, largest: tuple[int, int] | None, **params: Any) -> FakeStream:
        stream = self.ask(Subscribe(self.next_id(), *NAME, parameters(**params)))
        self.serving.send_info(self.end.of(InfoRequested)[-1].request, TrackProperties())
        self.end.poll()
        self.serving.accept(self.end.of(SubscribeRequested)[-1].request, largest)
        self.end.poll()
        return stream

    @property
    def wanted(self) -> FetchRequested:
        return self.end.of(FetchRequested)[-1]

    def give(self, *payloads: bytes, fin: bool = True, largest: tuple[int, int] | None = None) -> None:
        parts = [part for number, p in enumerate(payloads) for part in (FrameHeader(number, len(p)), p)]
        self.serving.send_fetched(self.wanted.request, tuple(parts), fin=fin, largest=largest)
        self.end.poll()

    def answer(self, stream: FakeStream) -> Message:
        return self.answers(stream)[-1]

    def came(self) -> list[tuple[int, int]]:
        """Objects, by group and id."""
        (data,) = self.groups()
        decoder = UniDecoder(self.profile, 1 << 20, lambda _: False)
        return [(o.group, o.id) for o in decoder.feed(data.written) if isinstance(o, FetchObject)]


@drafts
def test_a_fetch_ends_with_the_newest_object(draft: Draft) -> None:
    """The answer says so, and the rest of the group is not awaited."""
    peer = Fetcher(draft)
    stream = peer.fetch(AbsoluteRange(Location(3, 0), 9, None))
    peer.give(b"a", b"b", largest=(4, 1))
    peer.give(b"c", b"d", b"e", fin=False, largest=(4, 2))
    assert peer.came() == [(3, 0), (3, 1), (4, 0), (4, 1)]
    assert peer.groups()[0].finished
    ok = peer.answer(stream)
    assert isinstance(ok, FetchOk)
    assert (ok.end_group, ok.end_object) == (4, 1)
    assert [event.request for event in peer.end.of(RequestCancelled)] == [peer.wanted.request]
    assert len(peer.end.of(FetchRequested)) == 2


@drafts
def test_a_fetch_of_less_ends_where_it_wants(draft: Draft) -> None:
    peer = Fetcher(draft)
    stream = peer.fetch(AbsoluteRange(Location(3, 0), 3, None))
    peer.give(b"a", b"b", largest=(4, 1))
    ok = peer.answer(stream)
    assert isinstance(ok, FetchOk)
    assert (ok.end_group, ok.end_object) == (3, None)
    assert peer.came() == [(3, 0), (3, 1)]


@drafts
def test_a_fetch_of_what_is_not_there_yet_is_out_of_range(draft: Draft) -> None:
    """The group has begun, but the object has not."""
    peer = Fetcher(draft)
    stream = peer.fetch(AbsoluteRange(Location(4, 2), 5, None))
    peer.give(b"a", b"b", b"c"[:0], fin=False, largest=(4, 1))
    refused = peer.answer(stream)
    assert isinstance(refused, RequestError)
    assert refused.code == invalid_range(draft)
    assert peer.groups() == []
    assert [event.request for event in peer.end.of(RequestCancelled)] == [peer.wanted.request]


@drafts
def test_a_range_that_ends_before_it_begins(draft: Draft) -> None:
    peer = Fetcher(draft)
    refused = peer.answer(peer.fetch(AbsoluteRange(Location(4, 2), 4, 1)))
    assert isinstance(refused, RequestError)
    assert refused.code == invalid_range(draft)


@filled
def test_everything_from_the_newest_on_backwards(draft: Draft) -> None:
    """The newest group must be known first."""
    peer = Fetcher(draft)
    stream = peer.fetch(Unfiltered(), order=GroupOrder.DESCENDING)
    peer.serving.send_info(peer.end.one(InfoRequested).request, TrackProperties(), (1, 0))
    peer.end.poll()
    for group in (1, 0):
        assert peer.wanted.group == group
        peer.give(b"a")
    ok = peer.answer(stream)
    assert isinstance(ok, FetchOk)
    assert (ok.end_group, ok.end_object) == (1, 0)


@drafts
def test_objects_of_a_group_are_fetched_in_their_order(draft: Draft) -> None:
    """They may have come in another one: from several subgroups."""
    peer = Fetcher(draft)
    peer.fetch(AbsoluteRange(Location(3, 0), 3, None))
    base, detail = (Subgroup(n, 7, starts=True, ends_group=False) for n in (0, 1))
    parts = (Object(5, 1, 1, detail), b"b", Object(5, 1, 0, base), b"a", Object(5, 0, 2, base))
    peer.serving.send_fetched(peer.wanted.request, parts[:2], fin=False)
    peer.serving.send_fetched(peer.wanted.request, parts[2:], fin=True)
    peer.end.poll()
    assert peer.came() == [(3, 1), (3, 2)]  # too late for the first
    peer = Fetcher(draft)
    peer.fetch(AbsoluteRange(Location(3, 0), 3, None))
    peer.serving.send_fetched(peer.wanted.request, parts, fin=True)
    peer.end.poll()
    assert peer.came() == [(3, 0), (3, 1), (3, 2)]


@drafts
@pytest.mark.parametrize("descending", [False, True])
def test_groups_that_are_not_here_may_exist(draft: Draft, descending: bool) -> None:
    """A gap says that objects do not exist; 14 has no words for others."""
    peer = Fetcher(draft)
    order = GroupOrder.DESCENDING if descending else GroupOrder.ASCENDING
    peer.fetch(AbsoluteRange(Location(1, 0), 5, None), order=order)
    groups = range(5, 0, -1) if descending else range(1, 6)
    for group in groups:
        assert peer.wanted.group == group
        if group in (2, 4):
            peer.give(b"a")
        else:
            peer.serving.reject(peer.wanted.request, StreamCode.NOT_FOUND)
            peer.end.poll()
    (data,) = peer.groups()
    assert data.finished
    decoder = UniDecoder(peer.profile, 1 << 20, lambda _: descending)
    found = [item for item in decoder.feed(data.written) if isinstance(item, FetchObject | FetchGap)]
    assert [item.group for item in found if isinstance(item, FetchObject)] == [g for g in groups if not g % 2]
    if draft is not Draft.DRAFT_14:
        most = peer.profile.max_varint
        gaps = {item for item in found if isinstance(item, FetchGap)}
        assert gaps == {FetchGap(group, most, GapKind.UNKNOWN) for group in (1, 3, 5)}
        assert [item.group for item in found] == list(groups)


@pytest.mark.parametrize("draft", [Draft.DRAFT_16, *NEW], ids=lambda draft: draft.name_on_wire)
def test_the_rest_of_a_long_range_may_exist(draft: Draft) -> None:
    """After some missing groups we look for no others."""
    peer = Fetcher(draft)
    peer.fetch(AbsoluteRange(Location(1, 0), 1_000, 7))
    peer.give(b"a")
    while not peer.groups()[0].finished:
        peer.serving.reject(peer.wanted.request, StreamCode.NOT_FOUND)
        peer.end.poll()
    assert peer.wanted.group == 9
    decoder = UniDecoder(peer.profile, 1 << 20, lambda _: False)
    found = [item for item in decoder.feed(peer.groups()[0].written) if isinstance(item, FetchGap)]
    assert found == [FetchGap(1_000, 7, GapKind.UNKNOWN)]


@drafts
def test_a_fetch_breaks_off(draft: Draft) -> None:
    """Where requests have streams, that of the request tells it, too: the other may be reset before its header."""
    peer = Fetcher(draft)
    stream = peer.fetch(AbsoluteRange(Location(3, 0), 3, None))
    peer.give(b"a", fin=False)
    peer.serving.reject(peer.wanted.request, StreamCode.INTERNAL)
    peer.end.poll()
    assert peer.groups()[0].resets == [0]
    assert stream.resets == ([0] if peer.profile.request_streams else [])


@drafts
def test_fetches_have_the_priority_that_the_peer_gives(draft: Draft) -> None:
    peer = Fetcher(draft)
    where = AbsoluteRange(Location(3, 0), 3, None)
    peer.fetch(where, priority=200)
    peer.give(b"a", fin=False)
    stream = peer.fetch(where, priority=100)
    peer.give(b"a", fin=False)
    low, high = peer.groups()
    assert low.priority < high.priority < 1 << 61
    if peer.profile.request_streams:
        peer.say(stream, RequestUpdate(peer.next_id(), parameters(priority=250)))
        assert high.priority < low.priority


@joined
def test_a_joining_fetch_without_its_subscription(draft: Draft) -> None:
    peer = Fetcher(draft)
    refused = peer.answer(peer.ask(JoiningFetch(peer.next_id(), 40, 0)))
    assert isinstance(refused, RequestError)
    assert refused.code == (0x7 if draft is Draft.DRAFT_14 else 0x32)


@joined
def test_nothing_to_join(draft: Draft) -> None:
    """No object was published, or the fetch would begin behind the newest."""
    peer = Fetcher(draft)
    peer.subscribe(None)
    peer.subscribe((3, 1))
    for message in (
        JoiningFetch(peer.next_id(), 0, 0),
        JoiningFetch(peer.next_id(), 2, 4, relative=False),
    ):
        refused = peer.answer(peer.ask(message))
        assert isinstance(refused, RequestError)
        assert refused.code == invalid_range(draft)


def test_nothing_joins_a_paused_subscription() -> None:
    """Since 18."""
    peer = Fetcher(Draft.DRAFT_18)
    peer.subscribe((3, 1), forward=False)
    refused = peer.answer(peer.ask(JoiningFetch(peer.next_id(), 0, 0)))
    assert isinstance(refused, RequestError)
    assert refused.code == 0x11


@drafts
def test_a_missing_track_is_not_out_of_range(draft: Draft) -> None:
    peer = Fetcher(draft)
    stream = peer.fetch(AbsoluteRange(Location(4, 2), 4, None))
    peer.serving.reject(peer.wanted.request, StreamCode.UNROUTABLE)
    refused = peer.answer(stream)
    assert isinstance(refused, RequestError)
    assert refused.code == (0x4 if draft is Draft.DRAFT_14 else 0x10)
