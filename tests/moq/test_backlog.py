"""The order of a subscription's groups, and the skipped ones, on a bottleneck of known speed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from relay.model.backlog import Backlog, GivenUp, Ranks, Reason, send_priority
from relay.model.limits import Limits
from relay.transport.session import CONTROL_PRIORITY

BEHIND = Reason.TOO_FAR_BEHIND
LATE = Reason.DELIVERY_TIMEOUT


class FakeStream:
    """A stream of a bottleneck."""

    id = 0
    unidirectional = True
    opened_by_peer = False

    def __init__(self, bottleneck: Bottleneck, priority: int) -> None:
        self.context: Any = None
        self.bottleneck = bottleneck
        self.priority = priority
        self.unsent = 0
        self.written = 0
        self.lost = False
        """a sent part has not arrived"""
        self.done: float | None = None
        """when the last byte left"""
        bottleneck.streams.append(self)

    def write(self, chunks: Sequence[bytes], *, fin: bool = False) -> None:
        size = sum(map(len, chunks))
        self.unsent += size
        self.written += size

    @property
    def undelivered(self) -> bool:
        return self.lost or bool(self.unsent)

    def reset(self, code: object) -> None:
        self.unsent = 0

    def prioritize(self, priority: int) -> None:
        self.priority = priority

    def stop(self, code: int) -> None:
        raise NotImplementedError


class Bottleneck:
    """Bytes per time, strictly by priority."""

    def __init__(self) -> None:
        self.streams: list[FakeStream] = []
        self.now = 0.0

    def run(self, seconds: float, rate: float) -> None:
        self.now += seconds
        room = int(seconds * rate)
        for stream in sorted(self.streams, key=lambda stream: -stream.priority):
            sent = min(room, stream.unsent)
            room -= sent
            stream.unsent -= sent
            if sent and not stream.unsent:
                stream.done = self.now

    @property
    def unsent(self) -> int:
        return sum(stream.unsent for stream in self.streams)


class Viewer:
    """A subscription on a bottleneck."""

    def __init__(
        self,
        bottleneck: Bottleneck,
        limits: Limits | None = None,
        *,
        ranks: Ranks | None = None,
        priority: int = 1,
    ) -> None:
        self.bottleneck = bottleneck
        self.backlog: Backlog[FakeStream] = Backlog(limits or Limits(), ranks or Ranks(), priority)
        self.streams: dict[int, FakeStream] = {}
        self.begun: dict[int, float] = {}
        self.lost: list[tuple[int, Reason]] = []

    def want(self, priority: int = 1, *, ordered: bool = False, latency: float = 0.0) -> Viewer:
        self.backlog.prefer(priority, ordered=ordered, latency=latency)
        return self

    def deliver(self, sequence: int, size: int, *, fin: bool = False) -> None:
        """As `relay.moq.delivery` does it."""
        bottleneck, backlog = self.bottleneck, self.backlog
        self._give_up(backlog.review(backlog.waiting(), bottleneck.now, begins=sequence not in self.streams))
        if sequence not in self.streams:
            rank = backlog.rank(sequence)
            stream = self.streams[sequence] = FakeStream(bottleneck, send_priority(backlog.priority, rank))
            self.begun[sequence] = bottleneck.now
            backlog.begin(sequence, stream, rank, bottleneck.now)
        sending = backlog.get(sequence)
        if sending is None or not sending.open:
            return
        sending.stream.write((bytes(size),), fin=fin)
        backlog.wrote(sending, size, bottleneck.now)
        sending.open = not fin

    def look(self) -> None:
        self._give_up(self.backlog.review(self.backlog.waiting(), self.bottleneck.now, begins=False))

    def _give_up(self, given_up: list[GivenUp[FakeStream]]) -> None:
        for sending, unsent, code in given_up:
            assert unsent
            self.lost.append((sending.sequence, code))
            sending.stream.reset(code)

    @property
    def waiting(self) -> list[int]:
        """Queued groups, next first."""
        waits = [(stream.priority, sequence) for sequence, stream in self.streams.items() if stream.unsent]
        return [sequence for _, sequence in sorted(waits, reverse=True)]

    def waits(self, sequence: int) -> float:
        """Seconds from the beginning of a group until all of it was sent."""
        done = self.streams[sequence].done
        assert done is not None
        return done - self.begun[sequence]


def publish(viewer: Viewer, groups: int, *, rate: float, frame: int = 10_000, tick: float = 0.01) -> None:
    """Groups of ten frames, a frame each tick, on a bottleneck of `rate` bytes in a second."""
    first = len(viewer.streams)
    for sequence in range(first, first + groups):
        for number in range(10):
            viewer.deliver(sequence, frame, fin=number == 9)
            viewer.bottleneck.run(tick, rate)


# --- order -----------------------------------------------------------------------------------------------------------


def test_priorities_stay_below_control_streams_and_in_their_order() -> None:
    ranks = Ranks()
    first, second = ranks.fresh(), ranks.fresh()
    early, late = ranks.turn(), ranks.turn()
    orders = [
        CONTROL_PRIORITY,
        send_priority(255, early, promoted=True),
        send_priority(255, late, promoted=True),
        send_priority(255, second),
        send_priority(255, first),
        send_priority(254, ranks.turn(), promoted=True),
        send_priority(0, ranks.fresh()),
    ]
    assert orders == sorted(orders, reverse=True)
    assert len(set(orders)) == len(orders)
    assert orders[-1] >= 0


def test_newer_groups_go_first() -> None:
    viewer = Viewer(Bottleneck())
    for sequence in (0, 1, 2):
        viewer.deliver(sequence, 100)
    assert viewer.waiting == [2, 1, 0]


def test_a_group_that_comes_late_goes_behind_those_that_are_newer() -> None:
    viewer = Viewer(Bottleneck())
    for sequence in (0, 3, 1, 2):
        viewer.deliver(sequence, 100)
    assert viewer.waiting == [3, 2, 1, 0]


def test_older_groups_go_first_where_the_subscriber_wants_them_in_order() -> None:
    viewer = Viewer(Bottleneck()).want(ordered=True)
    for sequence in (0, 3, 1, 2):
        viewer.deliver(sequence, 100)
    assert viewer.waiting == [0, 1, 2, 3]


def test_the_order_changes_with_the_wish_of_the_subscriber() -> None:
    viewer = Viewer(Bottleneck())
    for sequence in (0, 1, 2):
        viewer.deliver(sequence, 100)
    viewer.want(ordered=True)
    assert viewer.waiting == [0, 1, 2]
    viewer.want()
    assert viewer.waiting == [2, 1, 0]


def test_what_waits_takes_the_new_priority_of_its_track() -> None:
    bottleneck, ranks = Bottleneck(), Ranks()
    one, other = Viewer(bottleneck, ranks=ranks, priority=5), Viewer(bottleneck, ranks=ranks, priority=3)
    one.deliver(0, 100)
    other.deliver(0, 100)
    assert one.streams[0].priority > other.streams[0].priority
    other.want(7)
    assert one.streams[0].priority < other.streams[0].priority


@pytest.mark.parametrize("ordered", [False, True])
def test_tracks_of_one_priority_take_turns_whatever_their_numbers(ordered: bool) -> None:
    bottleneck, ranks = Bottleneck(), Ranks()
    high, low = Viewer(bottleneck, ranks=ranks), Viewer(bottleneck, ranks=ranks).want(ordered=ordered)
    for number in range(40):
        for viewer in (high, low) if number % 2 else (low, high):
            viewer.deliver(number if viewer is low else 1_000_000 + number, 10_000, fin=True)
        bottleneck.run(0.01, 1_000_000)
    for viewer in (high, low):
        assert 10 <= sum(stream.done is not None for stream in viewer.streams.values()) <= 30


# --- a peer that keeps up --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("latency", [0.0, 0.5, 30.0])
def test_a_bottleneck_without_pauses_loses_no_end_of_a_group(latency: float) -> None:
    bottleneck = Bottleneck()
    viewer = Viewer(bottleneck).want(latency=latency)
    viewer.deliver(0, 50_000)  # from here on the bottleneck is busy, and never catches up
    viewer.deliver(1, 50_000)
    for sequence in range(2, 100):
        for number in range(10):
            viewer.deliver(sequence, 10_000, fin=number == 9)
            bottleneck.run(0.01, 1_000_000)
            assert bottleneck.unsent >= 90_000
    for sequence in (0, 1):
        viewer.deliver(sequence, 10, fin=True)
        bottleneck.run(0.01, 1_000_000)
    publish(viewer, 10, rate=1_000_000)
    assert viewer.lost == []
    assert max(viewer.waits(sequence) for sequence in range(100)) < 11.0
    assert max(viewer.waits(sequence) for sequence in range(2, 100)) < 0.6


def test_what_is_lost_of_a_group_goes_again_before_anything_new() -> None:
    viewer = Viewer(Bottleneck())
    viewer.deliver(0, 100, fin=True)
    viewer.bottleneck.run(0.01, 1_000_000)
    viewer.deliver(1, 100)
    assert viewer.streams[0].priority > viewer.streams[1].priority
    assert [sending.sequence for sending in viewer.backlog] == [1]


def test_a_short_stall_costs_nothing() -> None:
    viewer = Viewer(Bottleneck())
    publish(viewer, 10, rate=2_000_000)
    publish(viewer, 8, rate=0)
    publish(viewer, 20, rate=2_000_000)
    assert viewer.lost == []
    assert not viewer.waiting


def test_groups_of_a_slow_publisher_are_not_old_because_they_began_long_ago() -> None:
    bottleneck = Bottleneck()
    viewer = Viewer(bottleneck)
    for sequence in range(4):  # each grows slowly, last just before the next one begins
        viewer.deliver(sequence, 100)
        for _ in range(30):
            bottleneck.run(0.1, 10_000)
            for open_ in range(sequence + 1):
                viewer.deliver(open_, 50)
    assert viewer.lost == []


# --- a peer that does not ----------------------------------------------------------------------------------------------


def test_a_slow_peer_gets_the_newest_groups_in_time_and_loses_the_oldest() -> None:
    viewer = Viewer(Bottleneck())
    publish(viewer, 100, rate=500_000)
    assert len(viewer.lost) > 30
    assert {code for _, code in viewer.lost} == {BEHIND}
    assert [sequence for sequence, _ in viewer.lost] == sorted(sequence for sequence, _ in viewer.lost)
    whole = [viewer.waits(s) for s, stream in viewer.streams.items() if stream.done is not None]
    assert len(whole) > 40
    assert max(whole) < 0.6
    assert viewer.bottleneck.unsent <= 1_300_000


def test_the_beginning_of_long_groups_comes_in_time_on_a_slow_bottleneck() -> None:
    viewer = Viewer(Bottleneck())
    publish(viewer, 10, rate=25_000, tick=0.2)
    newest = max(viewer.streams)
    viewer.deliver(newest + 1, 10_000)
    viewer.bottleneck.run(0.41, 25_000)
    assert not viewer.streams[newest + 1].unsent
    assert viewer.streams[newest].unsent
    assert viewer.lost


def test_small_groups_stay_fresh_on_a_slow_bottleneck() -> None:
    bottleneck = Bottleneck()
    viewer = Viewer(bottleneck)
    for sequence in range(600):
        viewer.deliver(sequence, 1_000, fin=True)
        bottleneck.run(0.01, 50_000)
    assert viewer.lost
    done = [viewer.waits(s) for s in range(300, 600) if viewer.streams[s].done is not None]
    assert len(done) > 100
    assert max(done) < 0.05


def test_a_peer_that_stopped_reading_holds_no_more_than_the_limit() -> None:
    viewer = Viewer(Bottleneck(), Limits(backlog_bytes=400_000, backlog_time=1_000))
    publish(viewer, 50, rate=0)
    assert viewer.bottleneck.unsent <= 410_000
    assert {code for _, code in viewer.lost} == {BEHIND}


def test_no_more_groups_wait_than_the_cache_would_keep() -> None:
    viewer = Viewer(Bottleneck(), Limits(backlog_time=1_000, cache_groups=20))
    for sequence in range(100):
        viewer.deliver(sequence, 1, fin=True)
    viewer.look()
    assert sorted(viewer.waiting) == list(range(80, 100))


def test_a_single_group_beyond_the_limit_is_given_up() -> None:
    viewer = Viewer(Bottleneck(), Limits(backlog_bytes=10_000))
    viewer.deliver(0, 20_000)
    viewer.look()
    assert viewer.lost == [(0, BEHIND)]
    viewer.deliver(1, 100)
    assert viewer.waiting == [1]


def test_the_newest_groups_wait_however_slow_the_peer_is() -> None:
    viewer = Viewer(Bottleneck(), Limits(backlog_groups=3))
    for sequence in range(10):
        viewer.deliver(sequence, 100, fin=True)
        viewer.bottleneck.run(5.0, 0)
    assert sorted(viewer.waiting) == [7, 8, 9]


# --- max latency -------------------------------------------------------------------------------------------------------


def test_a_group_is_given_up_once_it_is_later_than_the_subscriber_takes() -> None:
    bottleneck = Bottleneck()
    viewer = Viewer(bottleneck).want(latency=0.3)
    viewer.deliver(0, 100)
    bottleneck.run(10.0, 0)
    viewer.look()
    assert viewer.lost == []  # nothing is newer
    viewer.deliver(1, 100)
    bottleneck.run(0.2, 0)
    viewer.look()
    assert viewer.lost == []
    bottleneck.run(0.2, 0)
    viewer.look()
    assert viewer.lost == [(0, LATE)]
    assert viewer.waiting == [1]


def test_a_subscriber_that_takes_late_groups_gets_more_time() -> None:
    lost = []
    for latency in (0.0, 5.0):
        viewer = Viewer(Bottleneck()).want(latency=latency)
        publish(viewer, 30, rate=0)
        publish(viewer, 1, rate=100_000_000)
        lost.append(len(viewer.lost))
    assert lost[0] > 10
    assert lost[1] == 0


def test_no_wish_keeps_a_group_longer_than_the_cache_would() -> None:
    viewer = Viewer(Bottleneck(), Limits(cache_age=2.0)).want(latency=3_600)
    publish(viewer, 50, rate=0)
    assert viewer.lost
    assert viewer.bottleneck.unsent <= 2_300_000


def test_groups_that_are_sent_and_not_delivered_are_remembered() -> None:
    bottleneck = Bottleneck()
    viewer = Viewer(bottleneck)
    for sequence in range(3):
        viewer.deliver(sequence, 1_000, fin=True)
    viewer.streams[1].lost = True
    bottleneck.run(1.0, 10_000)
    viewer.look()
    assert len(viewer.backlog) == 0
    assert viewer.backlog.undelivered
    viewer.streams[1].lost = False
    assert not viewer.backlog.undelivered
    # long subscriptions keep none of them
    viewer.streams[0].lost = True
    for sequence in range(3, 500):
        viewer.deliver(sequence, 10, fin=True)
        bottleneck.run(0.1, 10_000)
        if sequence == 100:
            viewer.streams[0].lost = False
    viewer.look()
    assert len(viewer.backlog._leaving) < 3
    viewer.backlog.clear()
    assert not viewer.backlog.undelivered
