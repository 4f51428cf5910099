"""BBR: congestion control by measured bandwidth and round trip, which does not take every loss for congestion.

Follows draft-ietf-ccwg-bbr: gains and filters of BBRv1, the bound on data in flight after heavy loss and the
mild PROBE_RTT of later versions. Packets sent at one moment share one `_Burst`: nothing is stored per packet.
"""

from __future__ import annotations

import math
from typing import Final

from relay.quic.controller import Congestion

INFINITY: Final = math.inf

STARTUP_GAIN: Final = 2 / math.log(2)  # the smallest gain that doubles the rate every round trip
DRAIN_GAIN: Final = 1 / STARTUP_GAIN

WINDOW_GAIN: Final = 2.0  # bandwidth-delay products: room for late and aggregated acknowledgements
CYCLE: Final[tuple[float, ...]] = (1.25, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
"""One round trip each: probe, drain, cruise."""

GROWTH: Final = 1.25  # startup ends after `PLATEAU` rounds that grow by less
PLATEAU: Final = 3

PACING_MARGIN: Final = 0.99  # of the estimate: queues drain by themselves
BANDWIDTH_ROUNDS: Final = 10  # rounds; those limited by the application do not count
EXTRA_ROUNDS: Final = 5  # rounds in each half of the filter
RTT_LIFE: Final = 10.0  # seconds until the shortest round trip is measured again
PROBE_RTT_TIME: Final = 0.2  # seconds, at least
PROBE_RTT_GAIN: Final = (
    0.5  # bandwidth-delay products: drains our queue; BBRv1's 4 packets would interrupt tracks
)
LONG_PATH: Final = 3.0  # shortest round trips
LONG_PATH_MORE: Final = 0.01  # seconds
LONG_PATH_ROUNDS: Final = 2  # rounds above both: a new path, e.g. cellular; our queue is never that long
SHORT_LIFE: Final = 2.0  # seconds for which the shortest round trip holds nevertheless
SMALLEST_RTT: Final = 0.001  # seconds; as in loss recovery
SMALLEST_WINDOW: Final = 4  # packets: with so many in flight, acknowledgements reveal a loss
QUANTUM_TIME: Final = 0.001  # seconds of the pacing rate
LARGEST_QUANTUM: Final = 65_536.0  # bytes; the window has room for three beside the product
HEAVY_LOSS: Final = 0.15  # of a round: congestion if there is a queue as well
WORST_LOSS: Final = 0.3  # congestion without a queue: a bottleneck with almost no buffer
JUDGED: Final = 16  # packets of a round, at least
QUEUE: Final = 1.1  # round trips relative to the shortest
YIELD: Final = 0.7  # of the data in flight after heavy loss; as CUBIC

# The values of `Bbr.mode`.
STARTUP: Final = 0
DRAIN: Final = 1
PROBE_BW: Final = 2
PROBE_RTT: Final = 3


class _Burst:
    """The state when a burst was sent."""

    __slots__ = ("delivered", "delivered_at", "first_sent", "left", "limited", "sent_at")

    def __init__(
        self, sent_at: float, delivered: int, delivered_at: float, first_sent: float, *, limited: bool
    ) -> None:
        self.sent_at = sent_at
        self.delivered = delivered
        self.delivered_at = delivered_at
        self.first_sent = first_sent
        self.limited = limited  # there was less to send than the path carries
        self.left = 0  # bytes in flight


class _Round:
    """Measurements of one round trip."""

    __slots__ = ("asked", "delivered", "in_flight", "lost", "rtt")

    def __init__(self, in_flight: int) -> None:
        self.delivered = 0
        self.lost = 0
        self.rtt = INFINITY  # shortest sample
        self.in_flight = in_flight  # most bytes
        self.asked = False  # the application filled the path at least once


class _AckAggregation:
    """Bytes beyond the bandwidth, which may be in flight in addition."""

    __slots__ = ("_at", "_bytes", "_last", "_now", "_rounds")

    def __init__(self) -> None:
        self._at = 0.0
        self._bytes = 0  # acknowledged since then
        self._rounds = 0
        self._now = self._last = 0  # of the current `EXTRA_ROUNDS`, and of the previous ones

    @property
    def most(self) -> int:
        return max(self._now, self._last)

    def add(self, acked: int, bandwidth: float, now: float) -> None:
        expected = bandwidth * (now - self._at)
        if self._bytes <= expected:
            self._at = now
            self._bytes = 0
            expected = 0.0
        self._bytes += acked
        self._now = max(self._now, int(self._bytes - expected))

    def end_round(self) -> None:
        self._rounds += 1
        if self._rounds >= EXTRA_ROUNDS:
            self._rounds = 0
            self._last = self._now
            self._now = 0


class Bbr(Congestion):
    """Sizes are bytes, times are seconds, rates are bytes per second.

    Size: the state of the draft's model; each acknowledgement reads most of it.
    """

    __slots__ = (
        *("_acked", "_aggregation", "_bound_step", "_bursts", "_delivered", "_delivered_at", "_first_sent"),
        *("_first_window", "_full", "_full_bandwidth", "_full_rounds", "_limited_until", "_long_rounds"),
        *("_min_rtt_at", "_newest", "_old_until", "_phase", "_phase_at", "_phase_lost", "_probe_rtt_round"),
        *("_probe_rtt_until", "_resumed", "_round", "_round_ends", "_rounds", "_rtt_expired", "_samples"),
        *("_window_before", "bandwidth", "bound", "min_rtt", "mode"),
    )

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self._first_window = self.window
        self.mode = STARTUP
        self.bandwidth = 0.0  # 0 before the first sample
        self.min_rtt = INFINITY
        self.bound = 0  # on bytes in flight since heavy loss; 0: none
        self._bound_step = 0  # per cycle: equal for all, so that shares converge
        # Delivery rate (draft-ietf-ccwg-bbr, 4.1).
        self._bursts: dict[float, _Burst] = {}
        self._delivered = 0
        self._delivered_at = 0.0
        self._first_sent = 0.0
        self._limited_until = 0  # `_delivered` until which the application limits samples; 0 if it does not
        self._acked = 0  # bytes since the last `on_acks_end`
        self._newest: _Burst | None = None  # of these
        self._old_until = -1.0  # packets sent until then took another path
        self._round_ends = 0
        self._round = _Round(0)
        self._samples: list[tuple[int, float]] = []  # maxima: (round, rate), falling
        self._rounds = 0  # not limited by the application
        self._min_rtt_at = 0.0
        self._rtt_expired = False
        self._long_rounds = 0
        self._aggregation = _AckAggregation()
        self._full = False
        self._full_bandwidth = 0.0
        self._full_rounds = 0
        self._phase = 0
        self._phase_at = 0.0
        self._phase_lost = False
        self._probe_rtt_until = -1.0  # -1.0: too much is in flight
        self._probe_rtt_round = 0
        self._window_before = 0
        self._resumed = False  # nothing was in flight before the last packet was sent

    @property
    def rate(self) -> float:
        return self.bandwidth

    # -- from loss recovery

    def on_sent(self, now: float, size: int) -> None:
        if not self.in_flight:
            self._first_sent = self._delivered_at = now
            self._resumed = True
        burst = self._bursts.get(now)
        if burst is None:
            limited = self._limited_until > 0
            burst = _Burst(now, self._delivered, self._delivered_at, self._first_sent, limited=limited)
            self._bursts[now] = burst
        burst.left += size
        super().on_sent(now, size)
        self._round.in_flight = max(self._round.in_flight, self.in_flight)

    def on_acked(self, sent_time: float, size: int, packets: int) -> None:  # noqa: ARG002 - as the base
        burst = self._forget(sent_time, size)
        if burst is None:
            return
        self._acked += size
        newest = self._newest
        if newest is None or sent_time > newest.sent_at:
            self._newest = burst

    def on_acks_end(self, now: float, in_use: bool) -> None:  # noqa: ARG002, FBT001 - as the base
        burst = self._newest
        if burst is None:
            return
        acked = self._acked
        self._newest = None
        self._acked = 0
        self._delivered += acked
        self._delivered_at = now
        self._first_sent = burst.sent_at
        if self._limited_until and self._delivered > self._limited_until:
            self._limited_until = 0
        self._round.delivered += acked
        elapsed = max(burst.sent_at - burst.first_sent, now - burst.delivered_at)
        self._sample((self._delivered - burst.delivered) / max(elapsed, SMALLEST_RTT), limited=burst.limited)
        self._aggregation.add(acked, self.bandwidth, now)
        if burst.delivered >= self._round_ends:
            self._round_ends = self._delivered
            self._end_round(now)
        self._update_mode(now)
        self._set_rate(acked)
        self._resumed = False

    def on_lost(self, sent_time: float, size: int) -> None:
        if self._forget(sent_time, size) is not None:
            self._round.lost += size

    def on_losses_end(self, now: float, newest: float) -> None:  # noqa: ARG002 - as the base
        if newest > self._old_until:
            self._phase_lost = True

    def on_discarded(self, sent_time: float, size: int) -> None:
        self._forget(sent_time, size)

    def on_persistent_congestion(self) -> None:
        """The smallest window. Acknowledgements restore the estimate."""
        self.window = SMALLEST_WINDOW * self.size

    def restart(self) -> None:
        super().restart()
        self._old_until = self._sent_at
        self._first_window = self.window
        self.mode = STARTUP
        self.bandwidth = self.pacing_rate = 0.0
        self.min_rtt = INFINITY
        self.bound = self._limited_until = self._acked = 0
        self._newest = None
        self._round_ends = self._delivered
        self._round = _Round(self.in_flight)
        self._samples.clear()
        self._rtt_expired = False
        self._long_rounds = 0
        self._aggregation = _AckAggregation()
        self._full = False
        self._full_bandwidth = 0.0
        self._full_rounds = 0
        self._probe_rtt_until = -1.0

    def on_rtt(self, now: float, rtt: float) -> None:
        rtt = max(rtt, SMALLEST_RTT)
        self._round.rtt = min(self._round.rtt, rtt)
        self._rtt_expired = now > self._min_rtt_at + RTT_LIFE and self.min_rtt < INFINITY
        if rtt <= self.min_rtt or self._rtt_expired:
            self.min_rtt = rtt
            self._min_rtt_at = now

    def on_idle(self) -> None:
        """Further samples are limited by the application."""
        if self.in_flight + self.size <= self.window:
            self._limited_until = max(1, self._delivered + self._acked + self.in_flight)

    def _forget(self, sent_time: float, size: int) -> _Burst | None:
        """Out of flight. Returns the bytes' burst, or None if it took another path or is unknown."""
        burst = self._bursts.get(sent_time)
        if burst is None or not size:
            return None
        self.in_flight -= size
        burst.left -= size
        if burst.left <= 0:
            del self._bursts[sent_time]
        return burst if sent_time > self._old_until else None

    # -- the model

    def _sample(self, rate: float, *, limited: bool) -> None:
        """A rate limited by the application neither lowers the estimate nor ages the filter."""
        if not limited:
            self._round.asked = True
        samples = self._samples
        while samples and samples[-1][1] <= rate:
            samples.pop()
        if not samples or samples[-1][0] < self._rounds:
            samples.append((self._rounds, rate))
        while samples[0][0] < self._rounds - BANDWIDTH_ROUNDS:
            del samples[0]
        self.bandwidth = samples[0][1]

    def _end_round(self, now: float) -> None:
        if self._round.asked:
            self._rounds += 1
        self._aggregation.end_round()
        heavy = self._heavy_loss()
        if heavy:
            burst = min(self._round.in_flight, self.bound or self._round.in_flight)
            self._bound_step = SMALLEST_WINDOW * self.size
            self.bound = max(int(YIELD * burst), self._bound_step)
        if not self._full and (self._round.asked or heavy):
            if self.bandwidth >= GROWTH * self._full_bandwidth and not heavy:
                self._full_bandwidth = self.bandwidth
                self._full_rounds = 0
            else:
                self._full_rounds += 1
                self._full = heavy or self._full_rounds >= PLATEAU
        if self._probe_rtt_until >= 0:
            self._probe_rtt_round += 1
        self._check_path(now)
        self._round = _Round(self.in_flight)

    def _check_path(self, now: float) -> None:
        """Restart the shortest round trip if the path has become longer."""
        rtt = self._round.rtt
        if rtt == INFINITY:
            return
        self._long_rounds = self._long_rounds + 1 if rtt > LONG_PATH * self.min_rtt + LONG_PATH_MORE else 0
        if self._long_rounds < LONG_PATH_ROUNDS or now < self._min_rtt_at + SHORT_LIFE:
            return
        if self.mode != PROBE_RTT:
            self.min_rtt = rtt
            self._min_rtt_at = now
            self._rtt_expired = True

    def _heavy_loss(self) -> bool:
        total = self._round.lost + self._round.delivered
        if total < JUDGED * self.size:
            return False
        share = self._round.lost / total
        queue = QUEUE * self.min_rtt < self._round.rtt < INFINITY
        return share > (HEAVY_LOSS if queue else WORST_LOSS)

    # -- phases

    def _update_mode(self, now: float) -> None:
        if self.mode == STARTUP and self._full:
            self.mode = DRAIN
        if self.mode == DRAIN and self.in_flight <= self._bdp(1.0):
            self._enter_probe_bw(now)
        elif self.mode == PROBE_BW:
            self._cycle(now)
        if self._rtt_expired and self.mode != PROBE_RTT and not self._resumed:
            self.mode = PROBE_RTT
            self._window_before = self.window
            self._probe_rtt_until = -1.0
        self._rtt_expired = False
        if self.mode == PROBE_RTT:
            self._probe_rtt(now)

    def _enter_probe_bw(self, now: float) -> None:
        """Begin at a random phase other than draining, so that connections do not probe in step."""
        self.mode = PROBE_BW
        self._enter(2 + int(now * 1000) % (len(CYCLE) - 2), now)

    def _enter(self, phase: int, now: float) -> None:
        self._phase = phase % len(CYCLE)
        self._phase_at = now
        self._phase_lost = False
        if not self._phase and self.bound:
            self.bound += self._bound_step
            self._bound_step *= 2
            if self.bound >= self._target():
                self.bound = 0

    def _cycle(self, now: float) -> None:
        gain = CYCLE[self._phase]
        over = now - self._phase_at > self.min_rtt
        if gain > 1:
            if over and (self._phase_lost or self.in_flight >= self._bdp(gain)):
                self._enter(self._phase + 1, now)
        elif gain < 1:
            if over or self.in_flight <= self._bdp(1.0):
                self._enter(self._phase + 1, now)
        elif over:
            self._enter(self._phase + 1, now)

    def _probe_rtt(self, now: float) -> None:
        """Hold little in flight for a while, to measure the round trip without our queue."""
        self._limited_until = max(1, self._delivered + self.in_flight)
        if self._probe_rtt_until < 0:
            if self.in_flight <= self._probe_rtt_window():
                self._probe_rtt_until = now + PROBE_RTT_TIME
                self._probe_rtt_round = 0
        elif now > self._probe_rtt_until and self._probe_rtt_round:
            self._probe_rtt_until = -1.0
            self._min_rtt_at = now
            self.window = max(self.window, self._window_before)
            if self._full:
                self._enter_probe_bw(now)
            else:
                self.mode = STARTUP

    # -- outputs

    def _bdp(self, gain: float) -> int:
        """The bandwidth-delay product times `gain`, in bytes."""
        if not self.bandwidth or self.min_rtt == INFINITY:
            return self._first_window
        return int(gain * self.bandwidth * self.min_rtt)

    def _target(self) -> int:
        quantum = min(max(self.pacing_rate * QUANTUM_TIME, 2.0 * self.size), LARGEST_QUANTUM)
        extra = min(self._aggregation.most, self.window) if self._full else 0
        return self._bdp(WINDOW_GAIN) + 3 * int(quantum) + extra

    def _probe_rtt_window(self) -> int:
        return max(self._bdp(PROBE_RTT_GAIN), SMALLEST_WINDOW * self.size)

    def _gain(self) -> float:
        if self.mode == STARTUP:
            return STARTUP_GAIN
        if self.mode == DRAIN:
            return DRAIN_GAIN
        return CYCLE[self._phase] if self.mode == PROBE_BW else 1.0

    def _set_rate(self, acked: int) -> None:
        gain = self._gain()
        rate = gain * self.bandwidth * PACING_MARGIN
        if not self._full and self.min_rtt < INFINITY:
            rate = max(rate, self.pacing_rate)
            rate = max(rate, gain * self._first_window / self.min_rtt)
        self.pacing_rate = rate
        target = self._target()
        window = self.window
        if self._full:
            window = min(window + acked, target)
        elif window < target or self._delivered < self._first_window:
            window += acked
        if self.bound:
            window = min(window, self.bound)
        if self.mode == PROBE_RTT:
            window = min(window, self._probe_rtt_window())
        self.window = max(window, SMALLEST_WINDOW * self.size)
