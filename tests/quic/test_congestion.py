"""Reno, CUBIC with HyStart++ and the pacer, against the formulas of RFC 9002, 9438 and 9406."""

from __future__ import annotations

import pytest

from relay.quic.bbr import Bbr
from relay.quic.congestion import Congestion, Cubic, HyStart, Pacer, Reno, make_congestion

SIZE = 1200
RTT = 0.1
LOSS_BASED = pytest.mark.parametrize("name", ["reno", "cubic"])


class Path:
    """One controller, and the packets that its window allows, in rounds."""

    def __init__(self, cc: Congestion) -> None:
        self.cc = cc
        self.now = 100.0

    @property
    def packets(self) -> float:
        """The window in packets."""
        return self.cc.window / SIZE

    def round(self, *, rtt: float = RTT, in_use: bool = True, drains: int = 1) -> None:
        """Send a whole window, and have it acknowledged in some drains at once."""
        packets = self.cc.window // SIZE
        sent = self.now
        self.cc.on_sent(sent, packets * SIZE)
        self.now += rtt
        for number in range(drains):
            part = packets // drains + (number < packets % drains)
            self.cc.on_acked(sent, part * SIZE, part)
            self.cc.on_rtt(self.now, rtt)
            self.cc.on_acks_end(self.now, in_use)

    def lose(self, *, sent: float = -1.0) -> None:
        """Lose one packet, sent now or at another time."""
        sent = self.now if sent < 0 else sent
        self.cc.on_sent(sent, SIZE)
        self.cc.on_lost(sent, SIZE)
        self.cc.on_losses_end(self.now, sent)
        self.now += 0.001


def opened(name: str, packets: int = 100) -> Path:
    """A path with a window of so many packets, in slow start."""
    path = Path(make_congestion(name, SIZE))
    path.cc.window = packets * SIZE
    return path


def avoiding(packets: int = 100) -> Path:
    """CUBIC after a congestion event at a window of so many packets."""
    path = opened("cubic", packets)
    path.lose()
    return path


def w_cubic(elapsed: float, most: float, begun: float) -> float:
    """W_cubic in packets (RFC 9438, figures 1 and 2)."""
    k = ((most - begun) / 0.4) ** (1 / 3)
    return float(0.4 * (elapsed - k) ** 3 + most)


# -- all controllers


@pytest.mark.parametrize("name, kind", [("reno", Reno), ("cubic", Cubic), ("bbr", Bbr)])
def test_controllers_by_name(name: str, kind: type[Congestion]) -> None:
    cc = make_congestion(name, SIZE)
    assert type(cc) is kind
    assert (cc.size, cc.window, cc.in_flight, cc.pacing_rate, cc.rate) == (SIZE, 10 * SIZE, 0, 0.0, 0.0)


def test_an_unknown_controller_is_refused() -> None:
    with pytest.raises(ValueError, match="vegas"):
        make_congestion("vegas", SIZE)


@pytest.mark.parametrize("size, window", [(1200, 12_000), (1472, 14_720), (1500, 14_720), (9000, 18_000)])
def test_initial_window(size: int, window: int) -> None:
    """RFC 9002, 7.2."""
    assert make_congestion("cubic", size).window == window


@pytest.mark.parametrize("name", ["reno", "cubic", "bbr"])
def test_packets_leave_the_flight_once(name: str) -> None:
    cc = make_congestion(name, SIZE)
    cc.on_sent(1.0, 4 * SIZE)
    cc.on_sent(1.1, 3 * SIZE)
    assert cc.in_flight == 7 * SIZE
    cc.on_acked(1.0, 2 * SIZE, 2)
    cc.on_lost(1.0, SIZE)
    cc.on_discarded(1.0, SIZE)
    cc.on_discarded(1.1, SIZE)
    assert cc.in_flight == 2 * SIZE


@LOSS_BASED
def test_packets_that_are_discarded_change_no_window(name: str) -> None:
    path = opened(name)
    path.cc.on_sent(1.0, SIZE)
    path.cc.on_discarded(1.0, SIZE)
    path.cc.on_acks_end(1.1, True)
    assert path.packets == 100


def test_an_initial_window_follows_the_packet_size() -> None:
    cc = make_congestion("cubic", 1200)
    cc.resize(1472)
    assert (cc.size, cc.window) == (1472, 14_720)
    cc.window = 50_000
    cc.resize(1200)
    assert (cc.size, cc.window) == (1200, 50_000)
    cc.on_losses_end(1.0, 0.9)
    cc.on_persistent_congestion()
    cc.resize(1472)
    assert cc.window == 2 * 1472


@LOSS_BASED
def test_the_rate_is_a_window_per_round_trip(name: str) -> None:
    path = opened(name)
    path.round(in_use=False)
    assert path.cc.rate == pytest.approx(100 * SIZE / RTT)


@LOSS_BASED
@pytest.mark.parametrize("avoid", [False, True])
def test_a_new_path_begins_anew(name: str, avoid: bool) -> None:
    """RFC 9000, 9.4: packets sent on the old one neither grow nor reduce its window."""
    path = opened(name)
    if avoid:
        path.lose()
    path.round()
    path.round(rtt=2 * RTT)
    old = path.now
    path.cc.on_sent(old, 20 * SIZE)
    path.cc.on_acked(old, 5 * SIZE, 5)
    path.cc.restart()
    path.now += RTT
    path.cc.on_acks_end(path.now, True)
    path.cc.on_acked(old, 5 * SIZE, 5)
    path.cc.on_acks_end(path.now, True)
    path.cc.on_lost(old, 10 * SIZE)
    path.cc.on_losses_end(path.now, old)
    assert (path.packets, path.cc.in_flight, path.cc.rate) == (10, 0, 0.0)
    path.round()
    path.round()
    assert path.packets == 40
    path.lose()
    assert path.packets == pytest.approx(20 if name == "reno" else 28, abs=1 / SIZE)


# -- slow start and congestion events


@LOSS_BASED
def test_slow_start_doubles_the_window_each_round(name: str) -> None:
    path = Path(make_congestion(name, SIZE))
    windows = []
    for _ in range(5):
        path.round(drains=3)
        windows.append(path.packets)
    assert windows == [20, 40, 80, 160, 320]


@LOSS_BASED
@pytest.mark.parametrize("avoid", [False, True])
def test_a_window_not_in_use_does_not_grow(name: str, avoid: bool) -> None:
    path = opened(name)
    if avoid:
        path.lose()
    before = path.cc.window
    for _ in range(10):
        path.round(in_use=False)
    assert path.cc.window == before
    path.round()
    path.round()
    assert path.cc.window > before


@pytest.mark.parametrize("name, window", [("reno", 50), ("cubic", 70)])
def test_a_congestion_event(name: str, window: int) -> None:
    """Beta is 0.5 (RFC 9002, 7.3.2) and 0.7 (RFC 9438, 4.6)."""
    path = opened(name)
    path.lose()
    assert path.packets == window


@LOSS_BASED
def test_one_congestion_event_for_each_round_trip(name: str) -> None:
    path = opened(name)
    began = path.now
    path.lose()
    once = path.cc.window
    path.lose(sent=began - 0.01)
    path.lose(sent=began)
    assert path.cc.window == once
    path.lose()
    assert path.cc.window < once


@LOSS_BASED
def test_packets_sent_before_a_congestion_event_do_not_grow_the_window(name: str) -> None:
    path = opened(name)
    path.cc.on_sent(path.now, 50 * SIZE)
    path.now += RTT
    path.cc.on_acked(path.now - RTT, 10 * SIZE, 10)
    path.lose()
    before = path.cc.window
    path.cc.on_acks_end(path.now, True)
    path.cc.on_acked(path.now - RTT - 0.001, 40 * SIZE, 40)
    path.cc.on_acks_end(path.now, True)
    assert path.cc.window == before
    assert path.cc.in_flight == 0


@LOSS_BASED
def test_the_smallest_window(name: str) -> None:
    path = opened(name, 10)
    for _ in range(20):
        path.lose()
    assert path.packets == 2


@LOSS_BASED
def test_persistent_congestion(name: str) -> None:
    """The smallest window, then slow start up to the threshold (RFC 9002, 7.6.2)."""
    path = opened(name, 40)
    path.lose()
    threshold = path.packets
    path.cc.on_persistent_congestion()
    windows = [path.packets]
    for _ in range(5):
        path.round()
        windows.append(path.packets)
    assert windows[:4] == [2, 4, 8, 16]
    assert windows[4] == min(32, threshold)
    assert threshold <= windows[5] < threshold + 2


def test_packets_before_persistent_congestion_may_reduce_again() -> None:
    """RFC 9002, B.8: recovery is over."""
    path = opened("cubic", 40)
    began = path.now
    path.lose()
    path.cc.on_persistent_congestion()
    path.round()
    path.round()
    path.lose(sent=began)
    assert path.packets == pytest.approx(0.7 * 8, abs=1 / SIZE)


def test_reno_grows_by_a_packet_each_round() -> None:
    path = opened("reno")
    path.lose()
    for number in range(1, 20):
        path.round(drains=number)
        assert path.packets == pytest.approx(50 + number, rel=0.01)


def test_reno_grows_by_fractions_of_a_byte() -> None:
    path = opened("reno", 20_000)
    path.lose()
    path.round(drains=5000)
    assert path.packets == pytest.approx(10_001, abs=0.01)


# -- CUBIC


@pytest.mark.parametrize("rtt", [0.2, 0.3])
def test_cubic_follows_its_curve(rtt: float) -> None:
    """Concave up to the window before, then convex (RFC 9438, 4.4 and 4.5)."""
    path = avoiding()
    window = 70.0
    begun = path.now + rtt
    for _ in range(int(8 / rtt)):
        path.round(rtt=rtt)
        elapsed = path.now - begun
        target = min(max(w_cubic(elapsed + rtt, 100, 70), window), 1.5 * window)
        packets = int(window * SIZE + 1e-6) // SIZE
        window += (target - window) * packets / window
        assert path.packets == pytest.approx(window, abs=0.05)
        assert path.packets == pytest.approx(w_cubic(elapsed + rtt, 100, 70), rel=0.03)
    assert window > 110


def test_cubic_reaches_the_window_before_after_k() -> None:
    path = avoiding()
    path.round()
    k = (30 / 0.4) ** (1 / 3)
    end = path.now + k
    while path.now + RTT < end:
        path.round()
    assert path.packets == pytest.approx(100, abs=0.1)


def test_cubic_grows_by_half_a_window_each_round_at_most() -> None:
    """RFC 9438, 4.2."""
    path = avoiding(10)
    for _ in range(3):
        path.round(rtt=20.0)
    before = path.cc.window
    path.round(rtt=20.0)
    assert path.cc.window <= 1.5 * before
    assert path.cc.window > 1.4 * before


def test_fast_convergence() -> None:
    """A loss below the window of the last one makes room: W_max is 0.85 windows (RFC 9438, 4.7)."""
    path = avoiding()
    path.lose()
    assert path.packets == pytest.approx(49, abs=1 / SIZE)
    begun = path.now + RTT
    for _ in range(20):
        path.round()
    elapsed = path.now - begun
    assert path.packets == pytest.approx(w_cubic(elapsed + RTT, 0.85 * 70, 49), abs=0.1)


def test_no_fast_convergence_above_the_window_of_the_last_loss() -> None:
    path = avoiding(40)
    path.cc.window = 60 * SIZE
    path.lose()
    begun = path.now + RTT
    for _ in range(20):
        path.round()
    assert path.packets == pytest.approx(w_cubic(path.now - begun + RTT, 60, 42), abs=0.1)


def test_cubic_is_as_fast_as_reno_on_short_paths() -> None:
    """Reno-friendly: alpha packets a round, then 1 (RFC 9438, 4.3)."""
    path = avoiding(20)
    alpha = 3 * 0.3 / 1.7
    window = 14.0
    path.round(rtt=0.005)
    window += alpha
    for _ in range(19):
        path.round(rtt=0.005)
        packets = int(window * SIZE) // SIZE
        window += (1.0 if window >= 20 else alpha) * packets / window
        assert path.packets == pytest.approx(window, abs=0.05)
    assert window > 20
    for _ in range(10):
        path.round(rtt=0.005)
    assert path.packets == pytest.approx(window + 10, abs=0.7)


def test_time_without_use_does_not_count() -> None:
    """RFC 9438, 5.8: neither idle time nor that limited by the application."""
    paths = [avoiding() for _ in range(3)]
    for path in paths:
        for _ in range(10):
            path.round()
    for _ in range(50):
        paths[1].round(in_use=False)
    paths[2].now += 60.0
    for path in paths:
        for _ in range(10):
            path.round()
    windows = [path.packets for path in paths]
    assert windows[1] == pytest.approx(windows[0], abs=0.01)
    assert windows[2] == pytest.approx(windows[0], abs=0.01)


def test_cubic_after_persistent_congestion_is_convex_from_its_threshold() -> None:
    """K is 0, W_max the window where slow start ends (RFC 9438, 4.8)."""
    path = avoiding(200)
    path.cc.on_persistent_congestion()
    while path.packets < 140:
        path.round()
    begun = path.now + RTT
    for _ in range(60):
        path.round()
    assert path.packets == pytest.approx(w_cubic(path.now - begun + RTT, 140, 140), abs=1)


# -- HyStart++


@pytest.mark.parametrize("rtt, more", [(0.020, 0.004), (0.080, 0.010), (0.400, 0.016)])
@pytest.mark.parametrize("over", [False, True])
def test_longer_round_trips_begin_conservative_slow_start(rtt: float, more: float, over: bool) -> None:
    """By an eighth, within 4 and 16 ms (RFC 9406, 4.2). It grows by a quarter."""
    path = Path(make_congestion("cubic", SIZE))
    path.round(rtt=rtt)
    path.round(rtt=rtt + more + (1e-6 if over else -1e-6))
    assert path.packets == 40
    path.round(rtt=rtt + more)
    assert path.packets == (50 if over else 80)


def test_congestion_avoidance_after_five_conservative_rounds() -> None:
    """At K = 0 from there, as no loss gave a W_max (RFC 9438, 4.10)."""
    path = Path(make_congestion("cubic", SIZE))
    path.round()
    path.round(rtt=2 * RTT)
    windows = [path.packets]
    for _ in range(5):
        path.round(rtt=2 * RTT)
        windows.append(path.packets)
    assert windows == pytest.approx([40 * 1.25**number for number in range(6)], rel=0.01)
    begun = path.now + 2 * RTT
    for _ in range(20):
        path.round(rtt=2 * RTT)
    cubic = w_cubic(path.now - begun + 2 * RTT, windows[5], windows[5])
    assert path.packets == pytest.approx(cubic, rel=0.03)


def test_slow_start_goes_on_if_round_trips_were_long_by_chance() -> None:
    path = Path(make_congestion("cubic", SIZE))
    path.round()
    path.round(rtt=1.3 * RTT)
    path.round(rtt=1.2 * RTT)
    assert path.packets == 50
    path.round(rtt=1.2 * RTT)
    assert path.packets == pytest.approx(100, abs=1)


def test_conservative_slow_start_begins_anew_with_all_its_rounds() -> None:
    path = Path(make_congestion("cubic", SIZE))
    for rtt in (1.0, 2.0, 2.0, 2.0, 1.5, 1.5, 3.0):
        path.round(rtt=rtt * RTT)
    before = path.packets
    for _ in range(5):
        path.round(rtt=3.0 * RTT)
    assert path.packets == pytest.approx(before * 1.25**5, rel=0.01)


def test_conservative_rounds_do_not_end_slow_start_while_the_window_is_not_in_use() -> None:
    path = Path(make_congestion("cubic", SIZE))
    path.round()
    path.round(rtt=2 * RTT)
    for _ in range(10):
        path.round(rtt=2 * RTT, in_use=False)
    path.round(rtt=2 * RTT)
    path.round(rtt=2 * RTT)
    assert path.packets == pytest.approx(40 * 1.25**2, abs=1)


def test_a_loss_ends_conservative_slow_start() -> None:
    path = Path(make_congestion("cubic", SIZE))
    path.round()
    path.round(rtt=2 * RTT)
    path.lose()
    assert path.packets == 28
    path.round(rtt=2 * RTT)
    assert path.packets < 30


def test_few_packets_are_no_judgement() -> None:
    """RFC 9406, 4.2: eight samples."""
    for packets, conservative in ((7, False), (8, True)):
        hystart = HyStart()
        assert not hystart.on_acks(1.0, 0.9, 20, 0.1, True)
        assert not hystart.on_acks(1.2, 1.0, packets, 0.2, True)
        assert hystart.conservative == conservative


def test_the_shortest_round_trip_of_a_round_counts() -> None:
    hystart = HyStart()
    hystart.on_acks(1.0, 0.9, 20, 0.1, True)
    hystart.on_acks(1.2, 1.0, 7, 0.1, True)
    hystart.on_acks(1.3, 1.1, 7, 0.3, True)
    assert not hystart.conservative


def test_round_trips_grow_by_others_while_the_window_is_not_in_use() -> None:
    path = Path(make_congestion("cubic", SIZE))
    path.round(in_use=False)
    for _ in range(10):
        path.round(rtt=2 * RTT, in_use=False)
    path.round(rtt=2 * RTT)
    path.round(rtt=2 * RTT)
    assert path.packets == 40


# -- pacer


def test_there_is_no_pacing_before_the_first_round_trip() -> None:
    pacer = Pacer(SIZE)
    pacer.charge(100 * SIZE)
    assert pacer.next_time(1.0) == -1.0


@pytest.mark.parametrize(
    "window, rtt, burst",
    [(10, 0.1, 16), (1000, 0.02, 250), (100_000, 0.1, 256)],
    ids=["least", "time", "most"],
)
def test_pacing_by_window_and_round_trip(window: int, rtt: float, burst: int) -> None:
    pacer = Pacer(SIZE)
    pacer.update(window * SIZE, rtt)
    assert pacer.rate == pytest.approx(1.25 * window * SIZE / rtt)
    assert pacer.burst == pytest.approx(burst * SIZE)


def test_a_burst_is_paid_back_at_the_rate() -> None:
    pacer = Pacer(SIZE)
    pacer.set_rate(100_000.0)
    assert pacer.fill(1.0) == 16 * SIZE
    assert pacer.next_time(1.0) == -1.0
    pacer.charge(20 * SIZE)
    assert pacer.fill(1.0) == -4 * SIZE
    # Half a burst at a time: 4 packets of debt and 8 of credit.
    due = pacer.next_time(1.0)
    assert due == pytest.approx(1.0 + 12 * SIZE / 100_000)
    assert pacer.fill(due) == pytest.approx(8 * SIZE)
    assert pacer.next_time(due) == -1.0
    assert pacer.fill(due + 60.0) == 16 * SIZE


def test_time_that_goes_back_gives_nothing() -> None:
    pacer = Pacer(SIZE)
    pacer.set_rate(100_000.0)
    pacer.fill(2.0)
    pacer.charge(16 * SIZE)
    assert pacer.fill(1.0) == 0.0
    assert pacer.fill(2.0) == 0.0
