"""Loss recovery (RFC 9002): acknowledgements of trains, loss by number and by time, probes, round trips."""

from __future__ import annotations

import itertools
import random

import pytest

from relay.quic import errors
from relay.quic.congestion import make_congestion
from relay.quic.connection import MOST_KEPT
from relay.quic.controller import Congestion
from relay.quic.errors import QuicError
from relay.quic.recovery import (
    GRANULARITY,
    INITIAL_RTT,
    MOST_BACKOFF,
    MOST_SKIPPED,
    PACKET_THRESHOLD,
    TIME_THRESHOLD,
    ControlFrame,
    Recovery,
    Sent,
)
from relay.quic.streams import SendHalf
from tests.quic.lab import Hand, ack_frame, generous, numbers

SIZE = 1200
STEP = 1000  # bytes of the stream in each packet of a train


class Half(SendHalf):
    """Notes the fate of each byte."""

    def __init__(self) -> None:
        super().__init__(None, 1 << 30)
        self.arrived: list[tuple[int, int, bool]] = []
        self.gone: list[tuple[int, int, bool]] = []

    def on_acked(self, start: int, stop: int, fin: bool) -> None:
        self.arrived.append((start, stop, fin))

    def on_lost(self, start: int, stop: int, fin: bool) -> None:
        self.gone.append((start, stop, fin))


class Sender:
    """Recovery, and what was sent."""

    def __init__(self, *, congestion: Congestion | None = None, rtt: float = 0.1) -> None:
        self.recovery = Recovery(congestion or Congestion(SIZE), max_ack_delay=0.025)
        self.recovery.rtt = self.recovery.rtt_min = self.recovery.rtt_latest = rtt
        self.recovery.rtt_variance = 0.0
        self.half = Half()
        self.now = 10.0
        self.number = 0
        self.offset = 0

    def send(self, count: int = 1, *, last_size: int = SIZE, fin: bool = False) -> Sent:
        record = Sent(self.number, self.number + count - 1, self.now, SIZE, last_size)
        record.half = self.half
        record.start = self.offset
        record.step = STEP
        self.offset += (count - 1) * STEP + last_size - (SIZE - STEP)
        record.stop = self.offset
        record.fin = fin
        self.number += count
        self.recovery.add(record)
        self.recovery.charge(self.now, record.bytes)
        return record

    def ack(self, *ranges: tuple[int, int], delay: int = 0, settle: bool = True) -> None:
        frame = ack_frame(*ranges, delay=delay)
        assert self.recovery.read_ack(frame, 1, self.number, 3) == len(frame)
        if settle:
            self.recovery.settle(self.now, True)

    @property
    def left(self) -> list[tuple[int, int]]:
        return [(record.first, record.last) for record in self.recovery.sent]


# -- acknowledgements of records and trains


def test_any_ranges_over_any_trains_as_packet_by_packet() -> None:
    for seed in range(200):
        dice = random.Random(seed)
        sender = Sender()
        where: dict[int, tuple[int, int]] = {}
        for _ in range(dice.randrange(1, 8)):
            count = dice.randrange(1, 9)
            last_size = SIZE if count == 1 and dice.random() < 0.5 else dice.randrange(300, SIZE + 1)
            first, offset = sender.number, sender.offset
            sender.send(count, last_size=last_size)
            for each in range(count):
                stop = sender.offset if each == count - 1 else offset + (each + 1) * STEP
                where[first + each] = offset + each * STEP, stop
            if dice.random() < 0.3:
                sender.number += 1  # of a packet that is not recorded
        acked: set[int] = set()
        for _ in range(6):
            top = dice.randrange(sender.number)
            chosen = {number for number in range(top + 1) if dice.random() < 0.5} | {top}
            ranges: list[tuple[int, int]] = []
            for number in sorted(chosen, reverse=True):
                if ranges and ranges[-1][0] == number + 1:
                    ranges[-1] = number, ranges[-1][1]
                else:
                    ranges.append((number, number))
            sender.ack(*ranges, settle=False)
            acked |= chosen & set(where)
            left = {number for first, last in sender.left for number in range(first, last + 1)}
            assert left == set(where) - acked
            assert sender.recovery.outstanding == len(left)
            assert sender.left == sorted(sender.left)
            bytes_left = sum(record.bytes for record in sender.recovery.sent)
            assert sender.recovery.congestion.in_flight == bytes_left
            arrived = sorted(
                offset for start, stop, _ in sender.half.arrived for offset in range(start, stop)
            )
            assert arrived == sorted(offset for number in acked for offset in range(*where[number]))
            for record in sender.recovery.sent:
                assert (record.start, record.stop) == (where[record.first][0], where[record.last][1])


def test_the_last_packet_of_a_train_ends_the_stream() -> None:
    sender = Sender()
    sender.send(3, last_size=700, fin=True)
    sender.ack((0, 1))
    assert sender.half.arrived == [(0, 2000, False)]
    sender.ack((0, 2))
    assert sender.half.arrived[1:] == [(2000, 2500, True)]
    assert sender.recovery.congestion.in_flight == 0


def test_several_streams_and_frames_of_one_packet() -> None:
    sender = Sender()
    other = Half()
    record = sender.send()
    record.more = [(other, 5, 9, True)]
    frame = ControlFrame(errors.PING, b"\x01")
    record.frames = [frame]
    record.acks = 17
    sender.ack((0, 0))
    assert other.arrived == [(5, 9, True)]
    assert sender.recovery.acked_frames == [frame]
    assert sender.recovery.acked_acks == 17


@pytest.mark.parametrize(
    "frame, code",
    [
        (numbers(2, 9, 0, 0, 0), errors.PROTOCOL_VIOLATION),  # never sent
        (numbers(2, 8, 0, 0, 9), errors.FRAME_ENCODING_ERROR),  # below packet 0
        (numbers(2, 8, 0, 1, 2, 5, 0), errors.FRAME_ENCODING_ERROR),
        (numbers(2, 8, 0, 2, 0, 0, 7, 0, 0), errors.FRAME_ENCODING_ERROR),
    ],
)
def test_acks_that_cannot_be(frame: bytes, code: int) -> None:
    sender = Sender()
    sender.send(9)
    with pytest.raises(QuicError) as caught:
        sender.recovery.read_ack(frame, 1, sender.number, 3)
    assert caught.value.code == code


@pytest.mark.parametrize("end", range(1, 9))
def test_acks_that_end_early(end: int) -> None:
    sender = Sender()
    sender.send(20)
    frame = ack_frame((15, 19), (10, 12), (1, 2))
    assert len(frame) == 9
    with pytest.raises(IndexError):
        sender.recovery.read_ack(frame[:end], 1, sender.number, 3)


def test_old_acks_take_nothing_away() -> None:
    sender = Sender()
    sender.send(10)
    sender.ack((5, 9))
    sender.ack((0, 4), settle=False)
    sender.ack((0, 9))
    assert sender.recovery.largest_acked == 9
    assert sender.left == []


# -- skipped numbers


@pytest.mark.parametrize("ranges", [[(4, 4)], [(0, 9)], [(8, 9), (3, 5)], [(9, 9), (4, 4)]])
def test_an_ack_of_a_skipped_number_is_a_lie(ranges: list[tuple[int, int]]) -> None:
    sender = Sender()
    sender.send(4)
    sender.recovery.skip(4)
    sender.number += 1
    sender.send(5)
    with pytest.raises(QuicError) as caught:
        sender.ack(*ranges)
    assert caught.value.code == errors.PROTOCOL_VIOLATION


def test_an_honest_peer_may_go_on() -> None:
    sender = Sender()
    for _ in range(50):
        sender.send(4)
        sender.recovery.skip(sender.number)
        sender.number += 1
        sender.send(2)
        top = sender.number - 1
        sender.ack((top - 1, top), (top - 6, top - 3))
        assert len(sender.recovery.skipped) <= 2
    for _ in range(50):
        sender.recovery.skip(sender.number)
        sender.number += 1
        sender.send()
    assert len(sender.recovery.skipped) <= MOST_SKIPPED


def test_an_optimistic_peer_is_found_out() -> None:
    """It acknowledges what it has not received, to be sent more."""
    hand = Hand().quiet()
    stream = hand.quic.open_stream(0, unidirectional=True)
    stream.write([bytes(1_000_000)])
    numbers_sent: set[int] = set()
    for _ in range(200):
        hand.now += 0.05
        sent = hand.flush()
        numbers_sent |= {packet.number for packet in sent}
        hand.deliver(hand.seal(ack_frame((0, hand.quic._number - 1))))
        if hand.close is not None:
            break
    assert hand.close is not None
    assert hand.close.code == errors.PROTOCOL_VIOLATION
    assert "skipped" in hand.close.reason
    assert hand.quic._number <= 400


def test_skipped_numbers_are_never_used() -> None:
    for seed in range(20):
        hand = Hand(seed=seed).quiet()
        for _ in range(300):
            hand.quic.ping()
            hand.flush()
            if hand.quic._number % 7 == 0:
                hand.quic._cids_due = True  # room for a packet, and nothing to put into it
                hand.flush()
            hand.now += 0.02
            hand.ack()
            assert hand.close is None
        used = {packet.number for packet in hand.heard}
        assert len(used) == len(hand.heard)
        assert len(set(range(max(used))) - used) >= 1


# -- loss


def test_loss_by_number() -> None:
    sender = Sender()
    sender.send(10)
    sender.ack((9, 9))
    assert sender.left == [(7, 8)]
    assert sender.half.gone == [(0, 7000, False)]
    assert sender.recovery.lost_packets == 10 - 1 - (PACKET_THRESHOLD - 1)
    assert sender.recovery.congestion.in_flight == 2 * SIZE


def test_loss_by_time() -> None:
    sender = Sender(rtt=0.1)
    sender.send(2)
    sender.now += 0.1
    sender.send()
    sender.now += 0.02
    sender.recovery.rtt = sender.recovery.rtt_latest = 0.1
    sender.ack((2, 2))
    # The sample was 20 ms; the smoothed round trip is larger.
    delay = TIME_THRESHOLD * max(sender.recovery.rtt, sender.recovery.rtt_latest)
    assert sender.half.gone == ([(0, 2000, False)] if delay <= 0.12 else [])
    sender = Sender(rtt=0.1)
    sender.send(2)
    sender.send()
    sender.now += 0.1
    sender.ack((2, 2))
    assert sender.left == [(0, 1)]
    due = sender.recovery.loss_time
    assert due == pytest.approx(10.0 + TIME_THRESHOLD * 0.1)
    assert sender.recovery.probe_at() == due
    assert not sender.recovery.on_timer(due - 0.001)
    assert sender.left == [(0, 1)]
    assert not sender.recovery.on_timer(due)  # at that very time, to the last bit
    assert sender.left == []
    assert sender.half.gone == [(0, 2000, False)]
    assert sender.recovery.loss_time < 0
    assert sender.recovery.pto_count == 0


def test_a_train_across_the_newest_acknowledged_packet() -> None:
    """What was sent later cannot be lost yet."""
    sender = Sender(rtt=0.1)
    sender.send(10)
    sender.now += 0.1
    sender.ack((4, 4))
    assert sender.left == [(2, 3), (5, 9)]
    sender.recovery.on_timer(sender.recovery.loss_time)
    assert sender.left == [(5, 9)]
    assert sender.half.gone == [(0, 2000, False), (2000, 4000, False)]
    sender.now += 0.1
    sender.ack((5, 5))
    sender.recovery.on_timer(sender.recovery.loss_time if sender.recovery.loss_time >= 0 else sender.now)
    assert sender.left == [(6, 9)]
    assert sender.recovery.loss_time < 0


def test_no_loss_timer_is_missed_or_repeated() -> None:
    """Whatever the times are, a timer that fires finds something to do."""
    for seed in range(300):
        dice = random.Random(seed)
        sender = Sender(rtt=dice.random())
        for _ in range(dice.randrange(2, 10)):
            sender.now += dice.random() * 0.01
            sender.send(dice.randrange(1, 3))
        sender.now += dice.random() * 0.2
        sender.ack((sender.number - 1, sender.number - 1))
        while sender.recovery.loss_time >= 0:
            before = sender.recovery.outstanding
            assert before
            sender.now = max(sender.now, sender.recovery.loss_time)
            sender.recovery.on_timer(sender.now)
            assert sender.recovery.outstanding < before
        assert sender.left == []
        assert sender.recovery.congestion.in_flight == 0


def test_lost_frames_of_control_come_back() -> None:
    sender = Sender()
    frame = ControlFrame(errors.MAX_DATA, b"")
    sender.send().frames = [frame]
    sender.send(3)
    sender.ack((1, 3))
    assert sender.recovery.lost_frames == [frame]


def test_probes_of_the_mtu_are_no_congestion() -> None:
    sender = Sender()
    record = Sent(0, 0, sender.now, 1400, 1400)
    record.probe = 1400
    sender.number = 1
    sender.recovery.add(record)
    sender.send(4)
    sender.ack((4, 4))
    assert sender.recovery.failed_probe == 1400
    assert sender.recovery.lost_packets == 1  # packet 1 of the train
    assert sender.recovery.congestion.in_flight == 2 * SIZE


# -- probe time-outs


def test_probe_timeouts_back_off() -> None:
    sender = Sender(rtt=0.1)
    sender.recovery.rtt_variance = 0.01
    assert sender.recovery.probe_at() < 0
    sender.send()
    timeout = 0.1 + 4 * 0.01 + 0.025
    assert sender.recovery.probe_timeout() == pytest.approx(timeout)
    for count in range(MOST_BACKOFF + 3):
        at = sender.recovery.probe_at()
        assert at == pytest.approx(sender.now + timeout * 2 ** min(count, MOST_BACKOFF))
        assert not sender.recovery.on_timer(at - 0.001)
        sender.now = at
        assert sender.recovery.on_timer(at)
        sender.send()
    assert sender.left[0] == (0, 0)  # a probe declares nothing lost
    sender.ack((sender.number - 1, sender.number - 1))
    assert sender.recovery.pto_count == 0


def test_the_smallest_variance_is_the_granularity() -> None:
    sender = Sender(rtt=0.1)
    assert sender.recovery.probe_timeout() == pytest.approx(0.1 + GRANULARITY + 0.025)
    sender.recovery.restart()
    assert sender.recovery.probe_timeout() == 2 * INITIAL_RTT


def test_a_probe_is_sent_whatever_the_window_is() -> None:
    hand = Hand().quiet()
    stream = hand.quic.open_stream(0, unidirectional=True)
    stream.write([bytes(100_000)])
    hand.flush()
    congestion = hand.quic.recovery.congestion
    assert congestion.window - congestion.in_flight < SIZE
    in_flight = congestion.in_flight
    at = hand.quic.probe_at()
    assert hand.wait(at - hand.now - 0.001) == []
    sent = hand.wait(0.002)
    assert 1 <= len(sent) <= 2
    assert congestion.in_flight > in_flight
    assert hand.quic.probe_at() - hand.now > at - 101  # backed off
    hand.now += 0.05
    hand.ack()
    assert hand.quic.recovery.pto_count == 0


def test_an_unanswered_peer_is_probed_ever_more_rarely() -> None:
    hand = Hand(rtt=0.05).quiet()
    hand.quic.ping()
    hand.flush()
    times = []
    for _ in range(400):
        sent = hand.wait(0.05)
        times += [hand.now] * len(sent)
    assert 6 <= len(times) <= 10
    gaps = [second - first for first, second in itertools.pairwise(times)]
    assert gaps == sorted(gaps) or max(gaps) <= 64 * 0.2


# -- round trips


def test_round_trips() -> None:
    """RFC 9002, 5.3."""
    sender = Sender(rtt=0.0)
    sender.recovery.rtt_min = sender.recovery.rtt_latest = 0.0
    recovery = sender.recovery
    sender.send()
    sender.now += 0.1
    sender.ack((0, 0), delay=20_000)  # the first sample takes no delay into account
    assert (recovery.rtt, recovery.rtt_min, recovery.rtt_latest) == pytest.approx((0.1, 0.1, 0.1))
    assert recovery.rtt_variance == pytest.approx(0.05)
    sender.send()
    sender.now += 0.14
    sender.ack((1, 1), delay=20_000)
    assert recovery.rtt == pytest.approx(0.875 * 0.1 + 0.125 * 0.12)
    assert recovery.rtt_variance == pytest.approx(0.75 * 0.05 + 0.25 * 0.02)
    assert recovery.rtt_latest == pytest.approx(0.14)
    before = recovery.rtt
    sender.send()
    sender.now += 0.14
    sender.ack((2, 2), delay=10_000_000)  # not more than announced: 25 ms
    assert recovery.rtt == pytest.approx(0.875 * before + 0.125 * 0.115)
    before = recovery.rtt
    sender.send()
    sender.now += 0.101
    sender.ack((3, 3), delay=20_000)  # never below the minimum
    assert recovery.rtt == pytest.approx(0.875 * before + 0.125 * 0.101)
    sender.send()
    sender.now += 0.05
    sender.ack((4, 4))
    assert recovery.rtt_min == pytest.approx(0.05)


def test_samples_are_of_the_largest_number_newly_acknowledged() -> None:
    sender = Sender(rtt=0.1)
    for _ in range(3):
        sender.send()
        sender.now += 0.1
    sender.ack((2, 2))
    assert sender.recovery.rtt_latest == pytest.approx(0.1)
    sender.now += 5.0
    sender.ack((2, 2), (0, 0))
    assert sender.recovery.rtt_latest == pytest.approx(0.1)


def test_the_delay_is_that_of_the_sample() -> None:
    """A second ACK of the same drain that tells nothing new must not change it."""
    sender = Sender(rtt=0.1)
    sender.recovery.rtt_variance = 0.05
    sender.send(4)
    sender.now += 0.13
    sender.ack((3, 3), delay=20_000, settle=False)
    sender.ack((2, 3), delay=0, settle=False)
    sender.recovery.settle(sender.now, True)
    assert sender.recovery.rtt == pytest.approx(0.875 * 0.1 + 0.125 * 0.11)


def test_the_peers_exponent() -> None:
    sender = Sender(rtt=0.1)
    sender.send()
    sender.now += 0.12
    sender.recovery.read_ack(numbers(2, 0, 2, 0, 0), 1, 1, 13)  # 2 << 13 microseconds
    sender.recovery.settle(sender.now, True)
    assert sender.recovery.rtt == pytest.approx(0.875 * 0.1 + 0.125 * (0.12 - 0.016384))


# -- persistent congestion


@pytest.mark.parametrize("name", ["reno", "cubic"])
@pytest.mark.parametrize("seconds, persistent", [(0.3, False), (0.5, True), (2.0, True)])
def test_persistent_congestion(name: str, seconds: float, persistent: bool) -> None:
    """Everything sent for three probe time-outs is lost (RFC 9002, 7.6)."""
    congestion = make_congestion(name, SIZE)
    congestion.window = 100 * SIZE
    sender = Sender(congestion=congestion, rtt=0.1)
    sender.send()
    sender.now += 0.1
    sender.ack((0, 0))  # the first sample
    sender.recovery.first_rtt_at = sender.now
    sender.now += 0.01
    duration = 3 * sender.recovery.probe_timeout()
    assert 0.35 < duration < 0.5
    sender.send()
    sender.now += seconds
    sender.send()
    sender.now += 0.01
    sender.send(3)
    sender.now += 0.1
    sender.ack((5, 5))
    assert congestion.window == (2 * SIZE if persistent else congestion.window)
    assert (congestion.window == 2 * SIZE) == persistent


def test_no_persistent_congestion_with_an_arrival_between() -> None:
    congestion = make_congestion("reno", SIZE)
    congestion.window = 100 * SIZE
    sender = Sender(congestion=congestion, rtt=0.1)
    sender.recovery.first_rtt_at = 9.0
    sender.send()
    sender.now += 1.0
    sender.send()
    sender.now += 1.0
    sender.send()
    sender.now += 0.1
    sender.send(3)
    sender.ack((5, 5), (1, 1))
    assert sender.recovery.lost_packets == 2
    assert congestion.window > 2 * SIZE


def test_no_persistent_congestion_before_the_first_sample() -> None:
    congestion = make_congestion("reno", SIZE)
    congestion.window = 100 * SIZE
    sender = Sender(congestion=congestion, rtt=0.1)
    sender.recovery.first_rtt_at = 20.0
    sender.send()
    sender.now += 3.0
    sender.send()
    sender.send(3)
    sender.ack((4, 4))
    assert congestion.window > 2 * SIZE


# -- limits


@pytest.mark.parametrize("kept, closes", [(MOST_KEPT, False), (MOST_KEPT + 1, True)])
def test_data_kept_above_a_gap_is_limited(kept: int, closes: bool) -> None:
    """One packet is never acknowledged, later ones are."""
    hand = Hand(peer=generous()).quiet()
    stream = hand.quic.open_stream(0, unidirectional=True)
    stream.write([bytes(100_000)])
    hand.flush()
    stream.out.sent = stream.out.written = kept  # as if it had been sent
    hand.now += 0.5
    hand.deliver(hand.seal(b"\x01"))
    assert hand.close is None  # counting is for each second
    hand.now += 1.0
    hand.deliver(hand.seal(b"\x01"))
    assert (hand.close is not None) == closes
    if hand.close is not None:
        assert hand.close.code == errors.INTERNAL_ERROR
        assert "acknowledged" in hand.close.reason
