"""Congestion control by loss, Reno and CUBIC with HyStart++, the pacer, and the choice of a controller.

Sizes are bytes, times are seconds, rates are bytes per second.
"""

from __future__ import annotations

import math
from typing import Final

from relay.quic.bbr import Bbr
from relay.quic.controller import MINIMUM_PACKETS, Congestion

__all__ = ["Congestion", "Cubic", "HyStart", "Pacer", "Reno", "make_congestion"]

INFINITY: Final = math.inf
NEVER: Final = -1.0
UNLIMITED: Final = 1 << 60  # before the first congestion event

RENO_BETA: Final = 0.5  # the window after a congestion event, relative to the window before (RFC 9002, 7.3.2)

CUBIC_C: Final = 0.4  # packets per cubic second (RFC 9438, 5.1)
CUBIC_BETA: Final = 0.7  # as `RENO_BETA` (RFC 9438, 4.6)
CUBIC_ALPHA: Final = 3 * (1 - CUBIC_BETA) / (1 + CUBIC_BETA)  # Reno's growth beside that (RFC 9438, 4.3)
MOST_GROWTH: Final = 1.5  # windows per round trip (RFC 9438, 4.2)

MIN_RTT_THRESHOLD: Final = 0.004  # seconds (RFC 9406, 4.3, as all below)
MAX_RTT_THRESHOLD: Final = 0.016
RTT_DIVISOR: Final = 8
RTT_SAMPLES: Final = 8  # packets of a round before it is judged: one ACK covers several
CSS_GROWTH_DIVISOR: Final = 4
CSS_ROUNDS: Final = 5

PACING_GAIN: Final = 1.25  # relative to window per round trip (RFC 9002, 7.7)
SMALLEST_BURST: Final = 16  # packets at any rate: a frame of video, or the initial window
LARGEST_BURST: Final = 256  # packets
BURST_TIME: Final = (
    0.004  # seconds of the pacing rate: timers are 1 to 2 ms late, and 16 packets/ms are 150 Mbit/s
)


class LossBased(Congestion):
    """Slow start, and one reduction for each round trip with loss (RFC 9002, 7.3)."""

    __slots__ = ("_acked", "_fraction", "_recovery_at", "_rtt", "threshold")

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.threshold = UNLIMITED  # slow start ends at this window
        self._recovery_at = NEVER  # packets sent until the last congestion event neither grow nor reduce
        self._acked = 0  # bytes that may grow the window, since the last `on_acks_end`
        self._fraction = 0.0  # of a byte, not yet in the window
        self._rtt = 0.0  # smoothed

    @property
    def rate(self) -> float:
        return self.window / self._rtt if self._rtt > 0 else 0.0

    def on_acked(self, sent_time: float, size: int, packets: int) -> None:  # noqa: ARG002 - as the base
        self.in_flight -= size
        if sent_time > self._recovery_at:
            self._acked += size

    def on_acks_end(self, now: float, in_use: bool) -> None:  # noqa: FBT001 - the hot path
        acked = self._acked
        self._acked = 0
        if not in_use or not acked:
            return
        if self.window < self.threshold:
            # A drain may cover a whole window: no overshoot.
            self.window = min(self.window + acked, self.threshold)
        else:
            self._avoid_congestion(now, min(acked, self.window))

    def on_losses_end(self, now: float, newest: float) -> None:
        if newest > self._recovery_at:
            self._recovery_at = now
            self._acked = 0
            self._reduce()

    def on_rtt(self, now: float, rtt: float) -> None:  # noqa: ARG002 - as the base
        self._rtt = 0.875 * self._rtt + 0.125 * rtt if self._rtt > 0 else rtt

    def on_persistent_congestion(self) -> None:
        self.window = MINIMUM_PACKETS * self.size
        self._recovery_at = NEVER

    def restart(self) -> None:
        super().restart()
        self.threshold = UNLIMITED
        self._recovery_at = self._sent_at
        self._acked = 0
        self._rtt = 0.0

    def _avoid_congestion(self, now: float, acked: int) -> None:
        """Grow the window for `acked` bytes."""
        raise NotImplementedError

    def _reduce(self) -> None:
        raise NotImplementedError

    def _shrink(self, factor: float) -> None:
        self.window = self.threshold = max(int(self.window * factor), MINIMUM_PACKETS * self.size)

    def _grow(self, size: float) -> None:
        size += self._fraction
        whole = int(size)
        self.window += whole
        self._fraction = size - whole


class Reno(LossBased):
    """NewReno of RFC 9002, appendix B."""

    __slots__ = ()

    def _avoid_congestion(self, now: float, acked: int) -> None:  # noqa: ARG002 - as the base
        self._grow(self.size * acked / self.window)

    def _reduce(self) -> None:
        self._shrink(RENO_BETA)


class HyStart:
    """HyStart++: leaves the first slow start when round trips grow (RFC 9406), in two steps.

    First it grows slower, conservatively. Then slow start ends, or goes on if the round trips were short again.
    """

    __slots__ = ("_baseline", "_current", "_last", "_round_at", "_rounds", "_samples", "conservative")

    def __init__(self) -> None:
        self.conservative = False  # conservative slow start (CSS)
        self._round_at = NEVER  # packets sent since then end the round
        self._last = INFINITY  # shortest round trip of the last round, and of this one
        self._current = INFINITY
        self._samples = 0
        self._baseline = INFINITY  # `_current` when conservative slow start began
        self._rounds = 0  # since then, the one that it began in included

    def on_acks(self, now: float, newest: float, packets: int, rtt: float, in_use: bool) -> bool:  # noqa: FBT001 - the hot path
        """Handle the acknowledgements of a drain; returns whether slow start is over.

        `newest` is when the newest of these `packets` was sent, `rtt` the sample or 0.0. With a window that was
        not `in_use`, the delay is not ours: nothing changes.
        """
        if newest >= self._round_at:
            self._round_at = now
            self._last = self._current
            self._current = INFINITY
            self._samples = 0
            if self.conservative and in_use:
                self._rounds += 1
                if self._rounds >= CSS_ROUNDS:
                    return True
        if rtt > 0:
            self._current = min(self._current, rtt)
            self._samples += packets
        if not in_use or self._samples < RTT_SAMPLES:
            return False
        if self.conservative:
            if self._current < self._baseline:
                self.conservative = False
        elif self._last < INFINITY:
            more = max(MIN_RTT_THRESHOLD, min(self._last / RTT_DIVISOR, MAX_RTT_THRESHOLD))
            if self._current >= self._last + more:
                self._baseline = self._current
                self._rounds = 0
                self.conservative = True
        return False


class Cubic(LossBased):
    """CUBIC (RFC 9438) with HyStart++. Names of the RFC are beside the attributes.

    Size: the variables of the RFC, which each acknowledgement reads, and sums since the last drain.
    """

    __slots__ = (
        *("_alpha", "_drained_at", "_epoch", "_hystart", "_k", "_most", "_newest", "_packets"),
        *("_prior", "_reno", "_sample"),
    )

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self._hystart = HyStart()
        self._packets = 0  # since the last `on_acks_end`; when the newest was sent
        self._newest = NEVER
        self._sample = 0.0  # round trip since then, 0.0 if none
        self._epoch = NEVER  # t_epoch, later by the time without use
        self._drained_at = 0.0  # the last `on_acks_end`
        self._most = 0.0  # W_max; 0.0 if undefined
        self._k = 0.0  # K, seconds
        self._prior = 0.0  # cwnd_prior
        self._reno = 0.0  # W_est: the window of Reno in our place
        self._alpha = CUBIC_ALPHA

    def on_sent(self, now: float, size: int) -> None:
        if not self.in_flight:
            self._skip(now)
        self.in_flight += size
        self._sent_at = now

    def on_acked(self, sent_time: float, size: int, packets: int) -> None:
        self.in_flight -= size
        if sent_time > self._recovery_at:
            self._acked += size
            self._packets += packets
            self._newest = max(self._newest, sent_time)

    def on_acks_end(self, now: float, in_use: bool) -> None:  # noqa: FBT001 - the hot path
        if self.threshold == UNLIMITED:
            self._start(now, in_use)
        else:
            if not in_use:
                self._skip(now)
            self._drained_at = now
            super().on_acks_end(now, in_use)

    def on_rtt(self, now: float, rtt: float) -> None:
        super().on_rtt(now, rtt)
        self._sample = rtt

    def on_persistent_congestion(self) -> None:
        super().on_persistent_congestion()
        self._epoch = NEVER
        self._most = 0.0

    def restart(self) -> None:
        super().restart()
        self._hystart = HyStart()
        self._packets = 0
        self._sample = 0.0
        self._epoch = NEVER
        self._most = 0.0

    def _start(self, now: float, in_use: bool) -> None:  # noqa: FBT001 - the hot path
        """First slow start."""
        acked, packets = self._acked, self._packets
        self._acked = self._packets = 0
        if in_use:
            self.window += acked // CSS_GROWTH_DIVISOR if self._hystart.conservative else acked
        if packets and self._hystart.on_acks(now, self._newest, packets, self._sample, in_use):
            self.threshold = self.window
        self._sample = 0.0

    def _skip(self, now: float) -> None:
        """Leave the time without use out of the epoch (RFC 9438, 5.8)."""
        if self._epoch >= 0 and now > self._drained_at:
            self._epoch += now - self._drained_at
            self._drained_at = now

    def _begin_epoch(self, now: float) -> None:
        """RFC 9438, 4.2; 4.8 and 4.10 without a congestion event."""
        window = float(self.window)
        if not self._most:
            self._most = self._prior = window
        self._epoch = now
        self._k = math.cbrt(max(0.0, self._most - window) / self.size / CUBIC_C)
        self._reno = window
        self._alpha = CUBIC_ALPHA

    def _cubic(self, elapsed: float) -> float:
        """W_cubic."""
        after = elapsed - self._k
        return CUBIC_C * after * after * after * self.size + self._most

    def _avoid_congestion(self, now: float, acked: int) -> None:
        if self._epoch < 0:
            self._begin_epoch(now)
        window = float(self.window)
        if self._reno >= self._prior:
            self._alpha = 1.0
        reno = self._reno
        self._reno += self._alpha * self.size * acked / window
        elapsed = now - self._epoch
        # Both as before this drain, which may be a whole window; they begin equal, but for less than a byte.
        if self._cubic(elapsed) < reno - 1.0:
            if self._reno > window:
                self._grow(self._reno - window - self._fraction)
        else:
            target = min(self._cubic(elapsed + self._rtt), MOST_GROWTH * window)
            if target > window:
                self._grow((target - window) * acked / window)

    def _reduce(self) -> None:
        window = float(self.window)
        self._prior = window
        # Fast convergence: make room for others (RFC 9438, 4.7).
        self._most = window * (1 + CUBIC_BETA) / 2 if window < self._most else window
        self._epoch = NEVER
        self._shrink(CUBIC_BETA)


class Pacer:
    """A bucket of bytes, charged once per burst (RFC 9002, 7.7)."""

    __slots__ = ("burst", "filled", "rate", "size", "tokens")

    def __init__(self, size: int) -> None:
        self.size = size  # of a full packet
        self.rate = 0.0  # 0.0 before the first round trip sample: no pacing
        self.burst = float(SMALLEST_BURST * size)  # most tokens
        self.tokens = self.burst
        self.filled = 0.0

    def update(self, window: int, smoothed_rtt: float) -> None:
        self.set_rate(PACING_GAIN * window / max(smoothed_rtt, 0.000001))

    def set_rate(self, rate: float) -> None:
        self.rate = rate
        self.burst = min(
            max(float(SMALLEST_BURST * self.size), rate * BURST_TIME), float(LARGEST_BURST * self.size)
        )

    def fill(self, now: float) -> float:
        """Bytes that may be sent now; zero or less: wait."""
        if now > self.filled:
            self.tokens = min(self.tokens + (now - self.filled) * self.rate, self.burst)
            self.filled = now
        return self.tokens

    def next_time(self, now: float) -> float:
        """-1.0: now."""
        if not self.rate or self.fill(now) > 0:
            return -1.0
        # Refill half a burst at a time: not one packet per wake-up.
        return now + (self.burst / 2 - self.tokens) / self.rate

    def charge(self, size: int) -> None:
        self.tokens -= size


def make_congestion(name: str, size: int) -> Congestion:
    """A controller for packets of `size` bytes. Raises ValueError for an unknown name."""
    if name == "cubic":
        return Cubic(size)
    if name == "bbr":
        return Bbr(size)
    if name == "reno":
        return Reno(size)
    raise ValueError(f"unknown congestion control: {name}")
