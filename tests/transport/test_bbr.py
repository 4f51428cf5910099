"""The BBR controller on networks in virtual time: throughput, queueing, fairness."""

from __future__ import annotations

from typing import Any

import pytest
from relay.quic.fast.recovery import AckedPackets

from relay.quic import compat
from relay.quic.bbr import CYCLE, SMALLEST_WINDOW, Bbr, Mode
from tests.transport.lab import Lab, Network
from tests.transport.virtual import Pairing

FAST: Pairing = ("fast", "fast")
AIOQUIC: Pairing = ("aioquic", "aioquic")
BOTH = pytest.mark.parametrize("way", [FAST, AIOQUIC], ids=["fast", "aioquic"])

RATE = 1_250_000
"""Bottleneck in bytes per second: 10 Mbit/s."""

DELAY = 0.05
PRODUCT = RATE * 2 * DELAY

FRAME = 8300
FRAMES = 30
"""Bytes per frame, and frames per second: 2 Mbit/s."""


def path(*, loss: float = 0.0, queue: float = 1.0) -> Network:
    """10 Mbit/s and 100 ms; `queue` in bandwidth-delay products."""
    return Network(loss=loss, delay=DELAY, rate=RATE, queue=int(queue * PRODUCT / 1200))


def opened(way: Pairing, network: Network, *, congestion: str = "bbr", seed: int = 1) -> Lab:
    windows = {"connection_window": 1 << 26, "stream_window": 1 << 26}
    lab = Lab(way, seed, network, congestion=congestion, mtu_discovery=False, **windows)
    lab.open()
    return lab


def give(lab: Lab, size: int) -> None:
    chunks = [bytes(65_536)] * (size // 65_536)
    lab.server.quic.write_stream(3, chunks, fin=True, order=(0, -3))
    lab.send("server")


def got(lab: Lab) -> int:
    return sum(map(len, lab.client.received.values()))


def controller(lab: Lab) -> Bbr:
    bbr = lab.server.quic._bbr
    assert bbr is not None
    return bbr


def until(at: float, *labs: Lab) -> None:
    """Advance all labs in steps of a millisecond."""
    now = min(lab.now for lab in labs)
    while now < at:
        now = min(now + 0.001, at)
        for lab in labs:
            while lab.step(now):
                pass


def goodput(way: Pairing, loss: float, congestion: str) -> float:
    """Bytes per second of a transfer of 1 MB; CUBIC's are cut short."""
    lab = opened(way, path(loss=loss), congestion=congestion)
    begin = lab.now
    give(lab, 1 << 20)
    while 3 not in lab.client.finished and lab.step(begin + 8.0):
        pass
    return got(lab) / (lab.now - begin)


@BOTH
@pytest.mark.parametrize("loss, least", [(0.0, 0.65), (0.01, 0.6), (0.05, 0.55), (0.1, 0.5)])
def test_loss_is_not_taken_for_congestion(way: Pairing, loss: float, least: float) -> None:
    """Including Startup, a third of the time."""
    found = goodput(way, loss, "bbr")
    assert found > least * RATE
    if loss >= 0.05:
        assert found > 8 * goodput(way, loss, "cubic")


@BOTH
def test_it_fills_a_line_at_once_and_keeps_its_queue_short(way: Pairing) -> None:
    lab = opened(way, path(queue=4))
    give(lab, 20_000_000)
    begin = lab.now
    until(begin + 0.8, lab)
    before = got(lab)
    waits = []
    for _ in range(300):
        until(lab.now + 0.01, lab)
        waits.append(max(0.0, lab.server.line.free_at - lab.now))
    assert got(lab) - before > 0.9 * RATE * 3.0
    assert max(waits) < 1.5 * 2 * DELAY
    settled = sorted(waits[100:])
    assert settled[len(settled) // 2] < 0.3 * 2 * DELAY
    assert settled[-1] < 0.5 * 2 * DELAY
    estimate = compat.rate_estimate(lab.server.quic)
    assert estimate is not None
    assert 0.9 * RATE < estimate / 8 < 1.1 * RATE


@pytest.mark.parametrize("queue", [0.5, 2.0])
@pytest.mark.parametrize("other", ["bbr", "cubic"])
def test_no_connection_starves_beside_it(other: str, queue: float) -> None:
    network = path(queue=queue)
    ours, theirs = opened(FAST, network), opened(FAST, network, congestion=other, seed=2)
    theirs.server.line = ours.server.line
    begin = max(ours.now, theirs.now)
    until(begin, ours, theirs)
    give(theirs, 20_000_000)
    until(begin + 1.0, ours, theirs)
    give(ours, 20_000_000)
    until(begin + 4.0, ours, theirs)
    before = got(ours), got(theirs)
    until(begin + 14.0, ours, theirs)
    shares = [(got(lab) - start) / RATE / 10 for lab, start in zip((ours, theirs), before, strict=True)]
    assert sum(shares) > 0.85
    assert min(shares) > (0.3 if other == "bbr" else 0.1)


def live(lab: Lab, seconds: float, *, scale: int = 1) -> list[float]:
    """Age of each complete frame of a live track on arrival; one stream per frame."""
    quic: Any = lab.server.quic
    begin = lab.now
    written: dict[int, float] = {}
    ages: dict[int, float] = {}

    def look() -> None:
        for stream_id in (lab.client.finished & written.keys()) - ages.keys():
            ages[stream_id] = lab.now - written[stream_id]

    for number in range(int(seconds * FRAMES)):
        while lab.step(begin + number / FRAMES):
            look()
        stream_id = quic.get_next_available_stream_id(is_unidirectional=True)
        written[stream_id] = lab.now
        quic.write_stream(stream_id, [bytes(FRAME * scale)], fin=True, order=(0, -stream_id))
        lab.send("server")
    while lab.step(begin + seconds):
        look()
    return [ages[stream_id] for stream_id in sorted(ages)]


@BOTH
def test_a_live_track_keeps_up_at_heavy_loss(way: Pairing) -> None:
    """Longer than the interval of PROBE_RTT."""
    lab = opened(way, Network(loss=0.05, delay=DELAY))
    ages = sorted(live(lab, 12.0))
    assert len(ages) > 12 * FRAMES - 20
    assert ages[len(ages) // 2] < 3 * DELAY
    assert ages[int(0.99 * len(ages))] < 10 * DELAY
    assert controller(lab).bandwidth > 0.9 * FRAME * FRAMES


def test_a_live_track_that_becomes_larger_is_followed() -> None:
    lab = opened(FAST, path(loss=0.02))
    live(lab, 4.0)
    live(lab, 2.0, scale=4)
    late = live(lab, 2.0, scale=4)
    assert len(late) > 50
    assert sorted(late)[len(late) // 2] < 6 * DELAY
    assert controller(lab).bandwidth > 0.9 * 4 * FRAME * FRAMES


def test_a_wider_bottleneck_is_filled_soon() -> None:
    """A cycle probes further while the bandwidth grows."""
    narrow = Network(delay=DELAY, rate=RATE / 4, queue=50)
    lab = opened(FAST, narrow)
    give(lab, 20_000_000)
    until(lab.now + 5.0, lab)
    assert controller(lab).bandwidth < RATE / 3
    lab.network = path()
    until(lab.now + 2.5, lab)
    before = got(lab)
    until(lab.now + 1.0, lab)
    assert got(lab) - before > 0.85 * RATE


def test_a_live_track_goes_on_when_the_path_becomes_ten_times_as_long() -> None:
    """From Wi-Fi to cellular: the window of the short path would hold it up for ten seconds."""
    lab = opened(FAST, Network(loss=0.01, delay=0.005))
    live(lab, 4.0)
    lab.network = Network(loss=0.01, delay=DELAY)
    live(lab, 3.0)
    late = live(lab, 2.0)
    assert len(late) > 50
    assert sorted(late)[int(0.9 * len(late))] < 4 * DELAY
    assert 2 * DELAY <= controller(lab).min_rtt < 2.4 * DELAY


@BOTH
def test_a_lull_does_not_lower_the_estimate(way: Pairing) -> None:
    lab = opened(way, path())
    give(lab, 2_000_000)
    lab.run(lambda: 3 in lab.client.finished)
    before = controller(lab).bandwidth
    assert before > 0.9 * RATE
    for _ in range(60):
        lab.server.quic.send_datagram_frame(bytes(100))
        lab.send("server")
        until(lab.now + 0.1, lab)
    assert controller(lab).bandwidth >= before


def test_the_shortest_round_trip_is_measured_again() -> None:
    """The path became longer; until a lull, the longer round trip looks like a queue."""
    lab = opened(FAST, path(queue=2))
    give(lab, 40_000_000)
    until(lab.now + 3.0, lab)
    bbr = controller(lab)
    assert bbr.min_rtt < 2.2 * DELAY
    lab.network = Network(delay=2 * DELAY, rate=RATE, queue=200)
    modes: list[Mode] = []
    bursts = []
    for _ in range(900):
        until(lab.now + 0.01, lab)
        if bbr.mode is not (modes[-1] if modes else None):
            modes.append(bbr.mode)
        if bbr.mode is Mode.PROBE_RTT:
            bursts.append(bbr.bytes_in_flight)
    assert modes == [Mode.PROBE_BW, Mode.PROBE_RTT, Mode.PROBE_BW]
    assert min(bursts) < 0.6 * RATE * 4 * DELAY
    assert 4 * DELAY < bbr.min_rtt < 4.4 * DELAY
    before = got(lab)
    until(lab.now + 1.0, lab)
    assert got(lab) - before > 0.9 * RATE


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    "network",
    [
        Network(),
        Network(loss=0.05),
        Network(loss=0.2),
        Network(loss=0.02, duplicate=0.05, jitter=0.005),
        Network(loss=0.01, jitter=0.002, tick=0.004),
        Network(rate=1_000_000, queue=20),
    ],
    ids=["good", "loss-5", "loss-20", "all", "drains", "narrow"],
)
def test_every_byte_arrives_and_nothing_is_left(pairing: Pairing, network: Network, seed: int) -> None:
    lab = Lab(pairing, seed, network, congestion="bbr")
    lab.open()
    up, down = (lab.dice.randbytes(200_000) for _ in range(2))
    lab.client.quic.write_stream(2, [up], fin=True, order=(0, -2))
    lab.server.quic.write_stream(3, [down], fin=True, order=(0, -3))
    lab.send("client")
    lab.send("server")
    lab.run(lambda: 2 in lab.server.finished and 3 in lab.client.finished)
    assert lab.server.received[2] == up
    assert lab.client.received[3] == down
    lab.settle()
    lab.check_nothing_left()
    for end in lab.ends.values():
        assert end.quic._bbr is not None
        assert not end.quic._bbr._bursts


class Path:
    """A controller alone, on a path of 100 ms: rounds of 20 packets."""

    def __init__(self) -> None:
        self.bbr = Bbr(max_datagram_size=1200)
        self.now = 1.0
        for _ in range(6):
            self.round(0)
        assert self.bbr.mode is Mode.PROBE_BW

    def round(self, lost: int, *, rtt: float = 0.1) -> None:
        sent = [AckedPackets(1200, self.now + 0.001 * number) for number in range(20)]
        for each in sent:
            self.bbr.on_packet_sent(packet=each)  # type: ignore[arg-type]
        self.now += rtt
        for each in sent[lost:]:
            self.bbr.on_packet_acked(now=self.now, packet=each)  # type: ignore[arg-type]
        self.bbr.on_rtt_measurement(now=self.now, rtt=rtt)
        self.bbr.settle()
        self.bbr.on_packets_lost(now=self.now, packets=sent[:lost])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "lost, rtt, yields", [(2, 0.2, False), (4, 0.1, False), (4, 0.2, True), (8, 0.1, True)]
)
def test_heavy_loss_makes_it_yield(lost: int, rtt: float, yields: bool) -> None:
    """Beyond 15 % with a queue, beyond 30 % without."""
    way = Path()
    for _ in range(3):
        way.round(lost, rtt=rtt)
    assert (way.bbr.bound is not None) == yields
    if yields:
        assert way.bbr.congestion_window <= 0.7 * 20 * 1200
        for _ in range(100):
            way.round(19, rtt=rtt)
        assert way.bbr.congestion_window == SMALLEST_WINDOW * 1200
        for _ in range(100):
            way.round(0)
        assert way.bbr.bound is None


def test_a_silence_begins_again_with_little() -> None:
    way = Path()
    before = way.bbr.congestion_window
    way.bbr.on_persistent_congestion()
    assert way.bbr.congestion_window == SMALLEST_WINDOW * 1200
    for _ in range(3):
        way.round(0)
    assert way.bbr.congestion_window >= before // 2


def test_what_was_asked_for_in_a_cycle_is_drained_in_it() -> None:
    assert sum(CYCLE) == len(CYCLE)
