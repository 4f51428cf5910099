"""What a subscription gets of a track: groups and frames within its bounds, whenever it joins."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.model.group import Object, Subgroup
from relay.model.track import Begin, SubscribeParams, placed
from relay.moq.encoding import EncodedGroup, Encoding
from relay.moq.feed import Feed, shared_fragments
from relay.moq.session import GroupFragment
from relay.wire.errors import StreamCode
from relay.wire.frame import FrameHeader
from relay.wire.frame_decoder import FrameDecoder
from relay.wire.version import Version


class Received:
    """The subscriber's side."""

    def __init__(self) -> None:
        self.first: dict[int, int] = {}
        self.decoders: dict[int, FrameDecoder] = {}
        self.frames: dict[int, list[bytes]] = {}
        self.finished: list[int] = []
        self.codes: dict[int, int] = {}

    def take(self, fragments: Iterable[GroupFragment]) -> None:
        for fragment in fragments:
            sequence = fragment.sequence
            if fragment.code is not None:
                self.codes[sequence] = fragment.code
                continue
            assert sequence not in self.finished
            assert fragment.first == (sequence not in self.decoders)
            if fragment.first:
                self.first[sequence] = fragment.start_frame
                self.decoders[sequence] = FrameDecoder(Version.LITE_06)
                self.frames[sequence] = []
            for item in self.decoders[sequence].feed(b"".join(fragment.chunks)):
                if isinstance(item, bytes):
                    self.frames[sequence][-1] += item
                else:
                    self.frames[sequence].append(b"")
            if fragment.fin:
                self.decoders[sequence].end()
                self.finished.append(sequence)


class Track:
    """The publisher's side, and one subscription that joins at some time."""

    def __init__(self) -> None:
        self.groups: dict[int, EncodedGroup] = {}
        self.feed: Feed | None = None
        self.received = Received()

    def join(self, params: SubscribeParams, start: int) -> None:
        self.feed = Feed(Encoding.TIMED, params, start)
        for sequence in sorted(self.groups):
            group = self.groups[sequence]
            if group.code is None and self.feed.wants(group):
                self.received.take(self.feed.join(group))

    def turn(self, *changes: tuple[int, list[bytes], bool | int], first_frame: int = 0) -> None:
        """Frames of groups, and their end (`True`) or abort (a code)."""
        touched = []
        for sequence, frames, end in changes:
            new = sequence not in self.groups
            group = self.groups.setdefault(sequence, EncodedGroup(sequence, 0.0, first_frame))
            for frame in frames:
                group.extend([FrameHeader(len(group.parts), len(frame)), *([frame] if frame else [])])
            if end is True:
                group.finished = True
            elif end is not False:
                group.code = end
            touched.append((group, new))
        if self.feed is not None:
            fragments = shared_fragments(touched, Encoding.TIMED)
            if self.feed.is_narrow(min(group.sequence for group, _ in touched)):
                fragments = self.feed.narrow(touched, fragments)
            self.received.take(fragments)

    def replace(self, params: SubscribeParams, start: int) -> None:
        assert self.feed is not None
        groups = [self.groups[sequence] for sequence in sorted(self.groups)]
        self.received.take(self.feed.replace(params, start, groups))


def name(sequence: int, frame: int) -> bytes:
    return f"{sequence}.{frame}".encode()


def some(sequence: int, start: int, end: int) -> list[bytes]:
    return [name(sequence, frame) for frame in range(start, end)]


class Bounds(NamedTuple):
    start: int
    end: int | None
    start_frame: int
    end_frame: int | None


bounds = st.builds(
    lambda start, length, first, last: Bounds(
        start, None if length is None else start + length, first, None if length is None else last
    ),
    st.integers(0, 3),
    st.none() | st.integers(0, 3),
    st.sampled_from([0, 0, 1, 3]),
    st.none() | st.integers(3, 5),
)


@settings(max_examples=150, deadline=None)
@given(bounds, st.integers(0, 30), st.lists(st.integers(0, 4), min_size=8, max_size=30))
def test_a_subscription_gets_the_frames_within_its_bounds(
    bounds: Bounds, joins: int, turns: list[int]
) -> None:
    """Six-frame groups arrive interleaved: each turn adds to an unfinished one."""
    track = Track()
    params = SubscribeParams(
        start_group=bounds.start,
        end_group=bounds.end,
        start_frame=bounds.start_frame,
        end_frame=bounds.end_frame,
    )
    done = [0] * 5
    for number, sequence in enumerate(turns):
        if number == joins:
            track.join(params, bounds.start)
        if done[sequence] == 6:
            continue
        begin, done[sequence] = done[sequence], min(6, done[sequence] + 2)
        track.turn((sequence, some(sequence, begin, done[sequence]), done[sequence] == 6))
    if joins >= len(turns):
        track.join(params, bounds.start)
    received = track.received
    for sequence, known in enumerate(done):
        wanted = bounds.start <= sequence and (bounds.end is None or sequence <= bounds.end)
        if not wanted or not known:
            assert sequence not in received.first
            continue
        first = bounds.start_frame if sequence == bounds.start else 0
        last = bounds.end_frame if sequence == bounds.end else None
        limit = known if last is None else min(known, last + 1)
        assert received.first[sequence] == first
        assert received.frames[sequence] == some(sequence, first, limit)
        assert (sequence in received.finished) == (known == 6 or (last is not None and known > last))
    assert received.codes == {}


def test_unbounded_subscriptions_share_the_very_same_pieces() -> None:
    group = EncodedGroup(3, 0.0)
    group.extend([FrameHeader(0, 1), b"x"])
    touched = ((group, True),)
    fragments = shared_fragments(touched, Encoding.PLAIN)
    assert fragments == (GroupFragment(3, True, 0, (b"\x01x",), False, None),)
    feed = Feed(Encoding.PLAIN, SubscribeParams(end_group=9), 0)
    assert feed.is_narrow(3)
    assert feed.narrow(touched, fragments)[0] is fragments[0]
    assert not Feed(Encoding.PLAIN, SubscribeParams(), 3).is_narrow(3)
    assert Feed(Encoding.PLAIN, SubscribeParams(), 4).is_narrow(3)


def test_a_partial_group_says_where_it_begins() -> None:
    track = Track()
    track.turn((0, some(0, 2, 4), False), first_frame=2)
    track.join(SubscribeParams(), 0)
    track.turn((0, some(0, 4, 5), True))
    track.turn((1, some(1, 1, 3), True), first_frame=1)
    assert track.received.first == {0: 2, 1: 1}
    assert track.received.frames == {0: some(0, 2, 5), 1: some(1, 1, 3)}


@pytest.mark.parametrize(
    "first_frame, start_frame, served", [(2, 1, False), (2, 2, True), (0, 3, True), (0, 6, False)]
)
def test_a_group_that_cannot_be_served_from_its_frame_is_skipped(
    first_frame: int, start_frame: int, served: bool
) -> None:
    track = Track()
    track.turn((3, some(3, first_frame, 5), True), first_frame=first_frame)
    track.join(SubscribeParams(start_group=3, start_frame=start_frame), 3)
    assert track.received.frames == ({3: some(3, start_frame, 5)} if served else {})
    assert track.received.first == ({3: start_frame} if served else {})


@pytest.mark.parametrize("held", [True, False])
def test_after_a_skipped_group_the_next_one_is_whole(held: bool) -> None:
    track = Track()
    track.turn((3, some(3, 0, 2), True))
    if held:
        track.turn((4, some(4, 0, 6), True))
    track.join(SubscribeParams(start_group=3, start_frame=5), 3)
    if not held:
        track.turn((4, some(4, 0, 6), True))
    assert track.received.first == {4: 0}
    assert track.received.frames == {4: some(4, 0, 6)}


def test_the_first_frame_qualifies_its_group_alone() -> None:
    """06: the floor is older than all that is fresh."""
    track = Track()
    track.turn((7, some(7, 0, 6), True))
    track.join(SubscribeParams(start_group=3, start_is_floor=True, start_frame=5), 7)
    assert track.received.frames == {7: some(7, 0, 6)}


def test_bounds_do_not_misname_the_frames_of_a_partial_group() -> None:
    track = Track()
    track.join(SubscribeParams(end_group=3, end_frame=4), 0)
    track.turn((3, some(3, 2, 6), True), first_frame=2)
    if track.received.first:
        assert track.received.first == {3: 2}
        assert track.received.frames == {3: some(3, 2, 5)}


@pytest.mark.parametrize("end", [True, StreamCode.OLD])
def test_a_group_that_ends_under_a_bounded_subscription_is_forgotten(end: bool | int) -> None:
    track = Track()
    track.join(SubscribeParams(start_group=1, start_frame=1, end_group=1, end_frame=9), 1)
    track.turn((1, some(1, 0, 2), False))
    track.turn((1, some(1, 2, 3), end))
    assert track.received.frames == {1: some(1, 1, 3 if end is True else 2)}
    assert (track.received.finished, track.received.codes) == (([1], {}) if end is True else ([], {1: 52}))
    assert track.feed is not None
    assert track.feed._encoders == {}


# --- updates ---------------------------------------------------------------------------------------------------------


def begun(params: SubscribeParams, start: int) -> Track:
    """A subscription; groups 0 and 1 are complete, of 2 there are three frames."""
    track = Track()
    track.join(params, start)
    for sequence in range(2):
        track.turn((sequence, some(sequence, 0, 6), True))
    track.turn((2, some(2, 0, 3), False))
    return track


@pytest.mark.parametrize(
    "before, start, params, then, cancelled, came",
    [
        # a nearer end removes what is beyond
        ({}, 0, {"end_group": 1}, 0, [2], [0, 1, 2]),
        ({}, 0, {"end_group": 0}, 0, [1, 2], [0, 1, 2]),
        # a later start, too; group 3 is still to come
        ({}, 0, {"start_group": 2}, 2, [0, 1], [0, 1, 2, 3]),
        # wider bounds add what lies within, once
        ({"end_group": 0}, 0, {}, 0, [], [0, 1, 2, 3]),
        ({}, 2, {"start_group": 1}, 1, [], [1, 2, 3]),
        ({}, 2, {"start_group": 0, "end_group": 1}, 0, [2], [0, 1, 2]),
        ({}, 0, {}, 2, [], [0, 1, 2, 3]),
    ],
)
def test_an_update_moves_the_bounds(
    before: dict[str, int],
    start: int,
    params: dict[str, int],
    then: int,
    cancelled: list[int],
    came: list[int],
) -> None:
    track = begun(SubscribeParams(**before), start)  # type: ignore[arg-type]
    track.replace(SubscribeParams(**params), then)  # type: ignore[arg-type]
    track.turn((2, some(2, 3, 6), True))
    track.turn((3, some(3, 0, 6), True))
    assert sorted(track.received.codes) == cancelled
    assert sorted(track.received.frames) == came
    assert set(track.received.codes.values()) <= {StreamCode.CANCELLED}
    for sequence in came:
        if sequence not in cancelled:
            assert track.received.frames[sequence] == some(sequence, 0, 6)
            assert sequence in track.received.finished


@pytest.mark.parametrize("finished", [False, True])
def test_the_next_object_is_the_one_behind_the_highest_id(finished: bool) -> None:
    """Ids have gaps, and those of several subgroups may come in another order."""
    group = EncodedGroup(3, 0.0)
    one, two = (Subgroup(number, None, starts=True, ends_group=False) for number in (0, 1))
    group.extend((Object(0, 1, 0, one), b"a", Object(0, 1, 7, one), b"b", Object(0, 1, 4, two), b"c"))
    assert group.largest() == 7
    params = placed(SubscribeParams(begin=Begin.NEXT_OBJECT), group)
    assert (params.start_group, params.start_frame) == (3, 8)
    group.finished = finished
    feed = Feed(Encoding.OBJECTS_18, SubscribeParams(start_group=3, start_frame=7), 3)
    (fragment,) = feed.begin([group])
    assert b"b" in b"".join(chunk for chunk in fragment.chunks if isinstance(chunk, bytes))
    assert b"c" not in b"".join(chunk for chunk in fragment.chunks if isinstance(chunk, bytes))


def test_groups_that_went_and_come_back_are_sent_once_if_they_were_complete() -> None:
    track = begun(SubscribeParams(), 0)
    track.replace(SubscribeParams(end_group=0), 0)
    assert sorted(track.received.codes) == [1, 2]
    # group 2 was cut: it may come again, on another stream
    del track.received.decoders[2]
    track.replace(SubscribeParams(), 0)
    track.turn((2, some(2, 3, 6), True))
    assert track.received.frames[2] == some(2, 0, 6)
    assert track.received.finished == [0, 1, 2]


@pytest.mark.parametrize("end_frame", [2, 4])
def test_an_update_may_bound_the_frames_of_an_open_group(end_frame: int) -> None:
    track = begun(SubscribeParams(), 0)
    track.replace(SubscribeParams(end_group=2, end_frame=end_frame), 0)
    track.turn((2, some(2, 3, 6), True))
    assert track.received.frames[2] == some(2, 0, end_frame + 1)
    assert track.received.finished == [0, 1, 2]


def test_an_update_may_free_the_frames_of_an_open_group() -> None:
    track = begun(SubscribeParams(end_group=2, end_frame=4), 0)
    track.replace(SubscribeParams(), 0)
    track.turn((2, some(2, 3, 6), True))
    assert track.received.frames[2] == some(2, 0, 6)


def test_a_group_is_over_for_a_subscription_that_has_its_last_frame() -> None:
    track = begun(SubscribeParams(end_group=2, end_frame=2), 0)
    assert track.feed is not None
    assert [track.feed.is_over(group) for group in track.groups.values()] == [False, False, True]
    assert track.received.finished == [0, 1, 2]
    track = begun(SubscribeParams(end_group=2, end_frame=4), 0)
    assert track.feed is not None
    assert not track.feed.is_over(track.groups[2])
