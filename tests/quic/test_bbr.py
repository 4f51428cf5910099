"""The BBR controller alone on networks in virtual time: throughput, queueing, fairness."""

from __future__ import annotations

import heapq
import random
from collections import deque
from dataclasses import dataclass, field

import pytest

from relay.quic.bbr import CYCLE, PROBE_BW, PROBE_RTT, SMALLEST_WINDOW, STARTUP, Bbr
from relay.quic.congestion import Congestion, Pacer, make_congestion

SIZE = 1200

RATE = 1_250_000.0
"""Bottleneck in bytes per second: 10 Mbit/s."""

DELAY = 0.05
PRODUCT = RATE * 2 * DELAY

FRAME = 7  # packets
FRAMES = 30
"""Packets per frame, and frames per second: 2 Mbit/s."""

ACK_DELAY = 0.025
"""The receiver's most, in seconds."""

BULK = -1  # frame number of packets without end


@dataclass
class Network:
    """One direction; acknowledgements come back after `delay`. Seconds, bytes per second and packets."""

    loss: float = 0.0
    delay: float = DELAY
    rate: float = 0.0
    queue: float = 0.0
    free_at: float = 0.0
    dice: random.Random = field(default_factory=lambda: random.Random(1))

    def arrival(self, now: float) -> float:
        """When a packet that is sent now arrives; -1.0 if it is lost."""
        if self.dice.random() < self.loss:
            return -1.0
        if self.rate:
            start = max(now, self.free_at)
            if (start - now) * self.rate > self.queue * SIZE:
                return -1.0
            now = self.free_at = start + SIZE / self.rate
        return now + self.delay


def path(*, loss: float = 0.0, queue: float = 1.0) -> Network:
    """10 Mbit/s and 100 ms; `queue` in bandwidth-delay products."""
    return Network(loss=loss, rate=RATE, queue=queue * PRODUCT / SIZE)


class Sender:
    """Full packets under one controller, and their receiver, which acknowledges every second one at once."""

    def __init__(self, network: Network, congestion: str = "bbr") -> None:
        self.network = network
        self.now = 100.0
        self.cc: Congestion = make_congestion(congestion, SIZE)
        self.pacer = Pacer(SIZE)
        self.pending: deque[int] = deque()  # frame numbers, one each packet
        self.bulk = False
        self.sent: dict[int, tuple[float, int]] = {}  # by packet number: time and frame
        self.received: dict[int, int] = {}  # packets of each frame
        self.complete: dict[int, float] = {}  # when each frame was
        self._events: list[tuple[float, int, int]] = []  # arrivals: (time, packet number, frame)
        self._acks: deque[tuple[float, int]] = deque()
        self._unacked: list[int] = []  # by the receiver, until `_ack_at`
        self._ack_at = self._loss_at = self._probe_at = self._pacing_at = -1.0
        self._number = 0
        self._sent_at = 0.0
        self._largest = -1  # acknowledged
        self._rtt = self._latest = 0.0

    @property
    def bbr(self) -> Bbr:
        assert isinstance(self.cc, Bbr)
        return self.cc

    @property
    def got(self) -> int:
        """Bytes that have arrived."""
        return sum(self.received.values()) * SIZE

    def give(self, packets: int, frame: int = 0) -> None:
        self.pending.extend([frame] * packets)
        self._flush()

    def give_without_end(self) -> None:
        self.bulk = True
        self._flush()

    def due(self) -> float:
        """When anything happens next."""
        due = [at for at in (self._ack_at, self._loss_at, self._probe_at, self._pacing_at) if at >= 0]
        due += [self._events[0][0]] if self._events else []
        due += [self._acks[0][0]] if self._acks else []
        return min(due, default=float("inf"))

    def advance(self, until: float) -> None:
        while (due := self.due()) <= until:
            self.step(due)
        self.now = until

    def step(self, now: float) -> None:
        self.now = now
        while self._events and self._events[0][0] <= now:
            at, number, frame = heapq.heappop(self._events)
            count = self.received[frame] = self.received.get(frame, 0) + 1
            if count == FRAME:
                self.complete[frame] = at
            self._unacked.append(number)
            if self._ack_at < 0:
                self._ack_at = at + ACK_DELAY
            if len(self._unacked) == 2:
                self._ack_at = at
        if 0 <= self._ack_at <= now:
            self._acks += [(now + self.network.delay, number) for number in self._unacked]
            self._unacked.clear()
            self._ack_at = -1.0
        if self._acks and self._acks[0][0] <= now:
            self._drain()
        if 0 <= self._loss_at <= now:
            self._detect()
        elif 0 <= self._probe_at <= now:
            self._probe()
        self._flush()

    def _drain(self) -> None:
        in_use = 2 * self.cc.in_flight >= self.cc.window or self.bulk or bool(self.pending)
        newest = -1.0
        while self._acks and self._acks[0][0] <= self.now:
            _, number = self._acks.popleft()
            if number in self.sent:
                sent, _ = self.sent.pop(number)
                self.cc.on_acked(sent, SIZE, 1)
                if number > self._largest:
                    self._largest, newest = number, sent
                elif newest < 0:
                    newest = sent
        if newest < 0:
            return
        self._latest = self.now - newest
        self._rtt = 0.875 * self._rtt + 0.125 * self._latest if self._rtt else self._latest
        self.cc.on_rtt(self.now, self._latest)
        self.cc.on_acks_end(self.now, in_use)
        self._detect()
        if self.cc.pacing_rate:
            self.pacer.set_rate(self.cc.pacing_rate)
        else:
            self.pacer.update(self.cc.window, self._rtt)

    def _detect(self) -> None:
        """Loss by packet and time threshold (RFC 9002, 6.1)."""
        newest = self._loss_at = -1.0
        delay = 1.125 * max(self._latest, self._rtt)
        for number in sorted(number for number in self.sent if number < self._largest):
            sent, _ = self.sent[number]
            if number <= self._largest - 3 or sent + delay <= self.now:
                self._again(number)
                self.cc.on_lost(sent, SIZE)
                newest = sent
            elif self._loss_at < 0:
                self._loss_at = sent + delay
        if newest >= 0:
            self.cc.on_losses_end(self.now, newest)

    def _probe(self) -> None:
        """A probe time-out: the oldest packet is sent again, whatever the window."""
        number = min(self.sent)
        sent, _ = self.sent[number]
        self._again(number)
        self.cc.on_discarded(sent, SIZE)
        self._send(1)

    def _again(self, number: int) -> None:
        _, frame = self.sent.pop(number)
        if frame != BULK:
            self.pending.appendleft(frame)

    def _send(self, count: int) -> int:
        count = max(0, count if self.bulk else min(count, len(self.pending)))
        for _ in range(count):
            frame = self.pending.popleft() if self.pending else BULK
            self.sent[self._number] = self.now, frame
            arrival = self.network.arrival(self.now)
            if arrival >= 0:
                heapq.heappush(self._events, (arrival, self._number, frame))
            self._number += 1
        if count:
            self._sent_at = self.now
            self.cc.on_sent(self.now, count * SIZE)
            self.pacer.charge(count * SIZE)
        return count

    def _flush(self) -> None:
        self._pacing_at = -1.0
        while self.bulk or self.pending:
            budget = self.cc.window - self.cc.in_flight
            if self.pacer.rate and budget >= SIZE:
                tokens = self.pacer.fill(self.now)
                if tokens <= 0:
                    self._pacing_at = self.pacer.next_time(self.now)
                    break
                budget = min(budget, int(tokens) + SIZE)
            if not self._send(budget // SIZE):
                break
        if self._pacing_at < 0:
            self.cc.on_idle()
        self._probe_at = self._sent_at + 2 * (self._rtt or 0.1) if self.sent else -1.0


def until(at: float, *senders: Sender) -> None:
    """Advance senders, which may share a bottleneck, together."""
    while (due := min(sender.due() for sender in senders)) <= at:
        for sender in senders:
            if sender.due() <= due:
                sender.step(due)
            sender.now = due
    for sender in senders:
        sender.now = at


def goodput(loss: float, congestion: str) -> float:
    """Bytes per second of a transfer of 1 MB; CUBIC's are cut short."""
    sender = Sender(path(loss=loss), congestion)
    began = sender.now
    sender.give(1_000_000 // SIZE)
    while (sender.pending or sender.sent) and sender.now < began + 8.0:
        sender.step(sender.due())
    return sender.got / (sender.now - began)


@pytest.mark.parametrize("loss, least", [(0.0, 0.65), (0.01, 0.6), (0.05, 0.55), (0.1, 0.5)])
def test_loss_is_not_taken_for_congestion(loss: float, least: float) -> None:
    """Including Startup, a third of the time."""
    found = goodput(loss, "bbr")
    assert found > least * RATE
    if loss >= 0.05:
        assert found > 4 * goodput(loss, "cubic")


def test_it_fills_a_path_at_once_and_keeps_its_queue_short() -> None:
    network = path(queue=4)
    sender = Sender(network)
    began = sender.now
    sender.give_without_end()
    sender.advance(began + 0.8)
    before = sender.got
    waits = []
    for _ in range(300):
        sender.advance(sender.now + 0.01)
        waits.append(max(0.0, network.free_at - sender.now))
    assert sender.got - before > 0.9 * RATE * 3.0
    assert max(waits) < 1.5 * 2 * DELAY
    settled = sorted(waits[100:])
    assert settled[len(settled) // 2] < 0.3 * 2 * DELAY
    assert settled[-1] < 0.5 * 2 * DELAY
    assert 0.9 * RATE < sender.cc.rate < 1.1 * RATE


@pytest.mark.parametrize(
    "other, queue, least", [("bbr", 2.0, 0.25), ("cubic", 0.5, 0.1), ("cubic", 2.0, 0.1)]
)
def test_no_connection_starves_beside_it(other: str, queue: float, least: float) -> None:
    network = path(queue=queue)
    ours, theirs = Sender(network), Sender(network, other)
    began = ours.now
    theirs.give_without_end()
    until(began + 1.0, ours, theirs)
    ours.give_without_end()
    until(began + 4.0, ours, theirs)
    before = ours.got, theirs.got
    until(began + 14.0, ours, theirs)
    shares = [(each.got - start) / RATE / 10 for each, start in zip((ours, theirs), before, strict=True)]
    assert sum(shares) > 0.85
    assert min(shares) > least


def live(sender: Sender, seconds: float, *, scale: int = 1) -> list[float]:
    """Age of each frame of a live track on arrival. `scale` frames are written together."""
    began = sender.now
    first = max(sender.received, default=-1) + 1
    written: dict[int, float] = {}
    for number in range(int(seconds * FRAMES)):
        sender.advance(began + number / FRAMES)
        for each in range(scale):
            frame = first + number * scale + each
            written[frame] = sender.now
            sender.give(FRAME, frame)
    sender.advance(began + seconds)
    return [sender.complete[frame] - at for frame, at in written.items() if frame in sender.complete]


def test_a_live_track_keeps_up_at_heavy_loss() -> None:
    """Longer than the interval of PROBE_RTT."""
    sender = Sender(Network(loss=0.05))
    ages = sorted(live(sender, 12.0))
    assert len(ages) > 12 * FRAMES - 20
    assert ages[len(ages) // 2] < 3 * DELAY
    assert ages[int(0.99 * len(ages))] < 10 * DELAY
    assert sender.bbr.bandwidth > 0.9 * FRAME * FRAMES * SIZE


def test_a_live_track_that_becomes_larger_is_followed() -> None:
    sender = Sender(path(loss=0.02))
    live(sender, 4.0)
    live(sender, 2.0, scale=4)
    late = sorted(live(sender, 2.0, scale=4))
    assert len(late) > 200
    assert late[len(late) // 2] < 6 * DELAY
    assert sender.bbr.bandwidth > 0.9 * 4 * FRAME * FRAMES * SIZE


def test_a_wider_bottleneck_is_filled_soon() -> None:
    """A cycle probes further while the bandwidth grows."""
    sender = Sender(Network(rate=RATE / 4, queue=50))
    sender.give_without_end()
    sender.advance(sender.now + 5.0)
    assert sender.bbr.bandwidth < RATE / 3
    sender.network.rate, sender.network.queue = RATE, PRODUCT / SIZE
    sender.advance(sender.now + 2.5)
    before = sender.got
    sender.advance(sender.now + 1.0)
    assert sender.got - before > 0.85 * RATE


def test_a_live_track_goes_on_when_the_path_becomes_ten_times_as_long() -> None:
    """From Wi-Fi to cellular: the window of the short path would hold it up for ten seconds."""
    sender = Sender(Network(loss=0.01, delay=0.005))
    live(sender, 4.0)
    sender.network.delay = DELAY
    live(sender, 3.0)
    late = sorted(live(sender, 2.0))
    assert len(late) > 50
    assert late[int(0.9 * len(late))] < 4 * DELAY
    assert 2 * DELAY <= sender.bbr.min_rtt + 1e-6 < 2.4 * DELAY


def test_a_lull_does_not_lower_the_estimate() -> None:
    sender = Sender(path())
    sender.give(2_000_000 // SIZE)
    while sender.pending or sender.sent:
        sender.step(sender.due())
    before = sender.bbr.bandwidth
    assert before > 0.9 * RATE
    for _ in range(60):
        sender.give(1)
        sender.advance(sender.now + 0.1)
    assert sender.bbr.bandwidth >= before


def test_the_shortest_round_trip_is_measured_again() -> None:
    """The path became longer; until a lull, the longer round trip looks like a queue."""
    sender = Sender(path(queue=2))
    sender.give_without_end()
    sender.advance(sender.now + 3.0)
    bbr = sender.bbr
    assert bbr.min_rtt < 2.2 * DELAY
    sender.network.delay, sender.network.queue = 2 * DELAY, 200
    modes: list[int] = []
    flights = []
    for _ in range(1100):
        sender.advance(sender.now + 0.01)
        if bbr.mode != (modes[-1] if modes else -1):
            modes.append(bbr.mode)
        if bbr.mode == PROBE_RTT:
            flights.append(bbr.in_flight)
    assert modes == [PROBE_BW, PROBE_RTT, PROBE_BW]
    assert min(flights) < 0.6 * RATE * 4 * DELAY
    assert 4 * DELAY <= bbr.min_rtt + 1e-6 < 4.4 * DELAY
    before = sender.got
    sender.advance(sender.now + 1.0)
    assert sender.got - before > 0.9 * RATE


@pytest.mark.parametrize("congestion", ["bbr", "cubic", "reno"])
@pytest.mark.parametrize("loss", [0.0, 0.05, 0.2])
def test_nothing_is_left_in_flight(congestion: str, loss: float) -> None:
    sender = Sender(path(loss=loss), congestion)
    sender.give(500)
    while sender.pending or sender.sent:
        sender.step(sender.due())
        assert sender.cc.in_flight == len(sender.sent) * SIZE
    assert sender.cc.in_flight == 0
    if congestion == "bbr":
        assert not sender.bbr._bursts


class Rounds:
    """A controller alone, on a path of 100 ms: rounds of 20 packets."""

    def __init__(self) -> None:
        self.bbr = Bbr(SIZE)
        self.now = 1.0
        for _ in range(6):
            self.round(0)
        assert self.bbr.mode == PROBE_BW

    def round(self, lost: int, *, rtt: float = 0.1) -> None:
        sent = [self.now + 0.001 * number for number in range(20)]
        for at in sent:
            self.bbr.on_sent(at, SIZE)
        self.now += rtt
        for at in sent[lost:]:
            self.bbr.on_acked(at, SIZE, 1)
        self.bbr.on_rtt(self.now, rtt)
        self.bbr.on_acks_end(self.now, True)
        for at in sent[:lost]:
            self.bbr.on_lost(at, SIZE)
        if lost:
            self.bbr.on_losses_end(self.now, sent[lost - 1])


@pytest.mark.parametrize(
    "lost, rtt, yields", [(2, 0.2, False), (4, 0.1, False), (4, 0.2, True), (8, 0.1, True)]
)
def test_heavy_loss_makes_it_yield(lost: int, rtt: float, yields: bool) -> None:
    """Beyond 15 % with a queue, beyond 30 % without."""
    way = Rounds()
    for _ in range(3):
        way.round(lost, rtt=rtt)
    assert bool(way.bbr.bound) == yields
    if yields:
        assert way.bbr.window <= 0.7 * 20 * SIZE
        for _ in range(100):
            way.round(19, rtt=rtt)
        assert way.bbr.window == SMALLEST_WINDOW * SIZE
        for _ in range(100):
            way.round(1)
        assert way.bbr.bound == 0


def test_a_silence_begins_again_with_little() -> None:
    way = Rounds()
    before = way.bbr.window
    way.bbr.on_persistent_congestion()
    assert way.bbr.window == SMALLEST_WINDOW * SIZE
    for _ in range(3):
        way.round(0)
    assert way.bbr.window >= before // 2


def test_a_new_path_is_measured_anew() -> None:
    """RFC 9000, 9.4: packets sent on the old one say nothing of it."""
    way = Rounds()
    for _ in range(3):
        way.round(8)
    bbr = way.bbr
    assert bbr.bound
    bbr.on_sent(way.now, 20 * SIZE)
    bbr.restart()
    assert (bbr.mode, bbr.window, bbr.bound, bbr.rate) == (STARTUP, 10 * SIZE, 0, 0.0)
    bbr.on_acked(way.now, SIZE, 1)
    bbr.on_acks_end(way.now + 0.1, True)
    bbr.on_lost(way.now, 19 * SIZE)
    bbr.on_losses_end(way.now + 0.1, way.now)
    assert (bbr.mode, bbr.window, bbr.bound, bbr.rate, bbr.in_flight) == (STARTUP, 10 * SIZE, 0, 0.0, 0)
    way.now += 0.2
    way.round(0, rtt=0.3)
    assert bbr.min_rtt == 0.3
    assert bbr.rate == pytest.approx(20 * SIZE / 0.3)
    assert bbr.window == 30 * SIZE
    for _ in range(5):
        way.round(0, rtt=0.3)
    assert bbr.mode == PROBE_BW


def test_a_cycle_drains_its_own_queue() -> None:
    assert sum(CYCLE) == len(CYCLE)
