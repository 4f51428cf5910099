"""BBR: a congestion controller that goes by what arrives, and does not take every loss for a full line.

Owns an estimate of the path, its bandwidth and its shortest round trip, and derives from it how much may be in flight and
how fast it leaves. In the shape of draft-ietf-ccwg-bbr: the gains and filters of its first version, and of the later ones
the bound on what is in flight after heavy loss and the mild look for the shortest round trip. Must never send, and reads
no clock. aioquic's loss recovery and the fast path tell it of packets; both ask for `congestion_window`, and the pacer for
`pacing_rate`.

It keeps no note on a packet: all packets that leave at one moment share one `_Flight`, found by that moment.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from enum import Enum

from aioquic.quic.congestion.base import QuicCongestionControl, register_congestion_control
from aioquic.quic.packet_builder import QuicSentPacket

from relay.transport.quic.fast.recovery import Pacer

NAME = "bbr"

STARTUP_GAIN = 2 / math.log(2)
"""The least with which the rate doubles every round trip."""

DRAIN_GAIN = 1 / STARTUP_GAIN

WINDOW_GAIN = 2.0
"""In flight at most, in products of bandwidth and round trip: acknowledgements come late and several at once."""

CYCLE = (1.25, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
"""Pacing gains of a round trip each: ask for more, drain what that queued, go on."""

GROWTH = 1.25
"""Growth per round trip below which Startup looks no further, once it was missing for `PLATEAU` rounds."""

PLATEAU = 3

PACING_MARGIN = 0.99
"""Of the estimate: queues get shorter by themselves."""

BANDWIDTH_ROUNDS = 10
"""Rounds that a sample of the bandwidth counts. Only those in which the path was asked for all it has."""

EXTRA_ROUNDS = 5
"""Half of the rounds that count for how many acknowledgements come at once."""

RTT_LIFE = 10.0
"""Seconds after which the shortest round trip is looked for anew."""

PROBE_RTT_TIME = 0.2
"""Seconds of that, at least."""

PROBE_RTT_GAIN = 0.5
"""In flight meanwhile. A quarter of what is else allowed is enough to see the path without a queue of ours, and does not
interrupt a live track as four packets would."""

LONG_WAY = 3.0
LONG_WAY_MORE = 0.01
LONG_WAY_ROUNDS = 2
"""Round trips of that many shortest ones and 10 ms are longer than a queue of ours makes them: after so many rounds the
way has changed, from Wi-Fi to a cell perhaps, and `RTT_LIFE` would be a stall."""

SHORT_LIFE = 2.0
"""Seconds that the shortest round trip is believed nevertheless."""

SMALLEST_RTT = 0.001
"""Seconds; as in loss recovery."""

SMALLEST_WINDOW = 4
"""Packets: enough that a loss is noticed by the acknowledgement of others."""

QUANTUM_TIME = 0.001
LARGEST_QUANTUM = 65_536
"""Seconds of the pacing rate that leave as one, and bytes of it at most; three such are allowed beside the product."""

HEAVY_LOSS = 0.15
"""Share of a round that was lost, beyond which it is our doing if there is a queue as well."""

WORST_LOSS = 0.3
"""The same without a queue: a place so narrow that nothing can wait there."""

JUDGED = 16
"""Packets of a round at least, for a judgement."""

QUEUE = 1.1
"""Round trips, relative to the shortest, that tell of a queue."""

YIELD = 0.7
"""What is left of the data in flight then; as CUBIC."""


class Mode(Enum):
    """What it is about."""

    STARTUP = "startup"
    DRAIN = "drain"
    PROBE_BW = "probe_bw"
    PROBE_RTT = "probe_rtt"


class _Flight:
    """What was known when packets left, all at one moment."""

    __slots__ = ("delivered", "delivered_at", "first_sent", "left", "limited", "sent_at")

    def __init__(
        self, sent_at: float, delivered: int, delivered_at: float, first_sent: float, *, limited: bool
    ) -> None:
        self.sent_at = sent_at
        self.delivered = delivered
        self.delivered_at = delivered_at
        self.first_sent = first_sent
        self.limited = limited
        """Whether there was less to send than the path takes."""
        self.left = 0
        """Bytes of which nothing has been heard."""


class _Round:
    """What a round trip has brought so far."""

    __slots__ = ("asked", "delivered", "flight", "lost", "rtt")

    def __init__(self, flight: int) -> None:
        self.delivered = 0
        self.lost = 0
        self.rtt = math.inf
        """The shortest."""
        self.flight = flight
        """The most that was in flight."""
        self.asked = False
        """Whether the path was asked for all it has."""


class _Ahead:
    """How far acknowledgements run ahead of the bandwidth: so much more must be in flight, or the line runs dry."""

    __slots__ = ("_at", "_bytes", "_last", "_now", "_rounds")

    def __init__(self) -> None:
        self._at = 0.0
        self._bytes = 0
        """Acknowledged since then."""
        self._rounds = 0
        self._now = self._last = 0
        """The most in these `EXTRA_ROUNDS`, and in those before."""

    @property
    def most(self) -> int:
        return max(self._now, self._last)

    def add(self, acked: int, bandwidth: float, now: float) -> None:
        expected = bandwidth * (now - self._at)
        if self._bytes <= expected:
            self._at, self._bytes, expected = now, 0, 0.0
        self._bytes += acked
        self._now = max(self._now, int(self._bytes - expected))

    def end_round(self) -> None:
        self._rounds += 1
        if self._rounds >= EXTRA_ROUNDS:
            self._rounds = 0
            self._now, self._last = 0, self._now


class Bbr(QuicCongestionControl):
    """The controller of one connection. Sizes are bytes, times are seconds, rates are bytes per second."""

    def __init__(self, *, max_datagram_size: int) -> None:
        super().__init__(max_datagram_size=max_datagram_size)
        self._max_datagram_size = max_datagram_size
        self._first_window = self.congestion_window
        self.mode = Mode.STARTUP
        self.bandwidth = 0.0
        """What the path delivers, as far as it was asked; 0 before the first sample."""
        self.min_rtt = math.inf
        self.pacing_rate = 0.0
        self.bound: int | None = None
        """What may be in flight at most since heavy loss."""
        self._bound_step = 0
        """What it grows by with the next cycle. The same for all who share a line, so that their shares draw near."""
        # delivery: what arrived, and when (draft-ietf-ccwg-bbr, 4.1)
        self._flights: dict[float, _Flight] = {}
        self._delivered = 0
        self._delivered_at = 0.0
        self._first_sent = 0.0
        self._limited_until = 0
        """`_delivered` from which on samples tell again what the path takes; 0 if they do now."""
        self._heard = 0
        """Bytes acknowledged that `settle` has not looked at yet, and when."""
        self._heard_at = 0.0
        self._newest: _Flight | None = None
        # rounds
        self._round_ends = 0
        self._round = _Round(0)
        # filters
        self._samples: deque[tuple[int, float]] = deque()
        """The highest bandwidth of each round that is above those after it."""
        self._rounds = 0
        """Rounds in which the path was asked for all it has."""
        self._min_rtt_at = 0.0
        self._rtt_expired = False
        self._long_rounds = 0
        self._ahead = _Ahead()
        # modes
        self._full = False
        """Whether Startup has found what the path takes."""
        self._full_bandwidth = 0.0
        self._full_rounds = 0
        self._phase = 0
        self._phase_at = 0.0
        self._phase_lost = False
        self._resting_until: float | None = None
        self._resting_round = 0
        self._window_before = 0
        self._resumed = False
        """Whether nothing was in flight before the last packet left."""

    # -- told by loss recovery

    def on_packet_sent(self, *, packet: QuicSentPacket) -> None:
        self.settle()
        now = packet.sent_time
        assert now is not None
        if not self.bytes_in_flight:
            self._first_sent = self._delivered_at = now
            self._resumed = True
        flight = self._flights.get(now)
        if flight is None:
            flight = self._flights[now] = _Flight(
                now,
                self._delivered,
                self._delivered_at,
                self._first_sent,
                limited=self._limited_until > 0,
            )
        flight.left += packet.sent_bytes
        self.bytes_in_flight += packet.sent_bytes
        self._round.flight = max(self._round.flight, self.bytes_in_flight)

    def on_packet_acked(self, *, now: float, packet: QuicSentPacket) -> None:
        assert packet.sent_time is not None
        self.acked(packet.sent_time, packet.sent_bytes)
        self.heard(now)

    def acked(self, sent_time: float, size: int) -> None:
        """So many bytes that left then have arrived. `heard` is to follow."""
        flight = self._forget(sent_time, size)
        if flight is None:
            return
        self._heard += size
        if self._newest is None or sent_time > self._newest.sent_at:
            self._newest = flight

    def heard(self, now: float) -> None:
        """When what was `acked` was heard of."""
        self._heard_at = now

    def on_packets_expired(self, *, packets: Iterable[QuicSentPacket]) -> None:
        for packet in packets:
            assert packet.sent_time is not None
            self._forget(packet.sent_time, packet.sent_bytes)

    def on_packets_lost(self, *, now: float, packets: Iterable[QuicSentPacket]) -> None:  # noqa: ARG002 - as the original
        self.settle()
        for packet in packets:
            assert packet.sent_time is not None
            self._forget(packet.sent_time, packet.sent_bytes)
            self._round.lost += packet.sent_bytes
        self._phase_lost = True

    def on_persistent_congestion(self) -> None:
        """Nothing got through for long: begin again with little. The estimate comes back with what arrives."""
        self.congestion_window = SMALLEST_WINDOW * self._max_datagram_size

    def on_rtt_measurement(self, *, now: float, rtt: float) -> None:
        rtt = max(rtt, SMALLEST_RTT)
        self._round.rtt = min(self._round.rtt, rtt)
        self._rtt_expired = now > self._min_rtt_at + RTT_LIFE and self.min_rtt < math.inf
        if rtt <= self.min_rtt or self._rtt_expired:
            self.min_rtt = rtt
            self._min_rtt_at = now

    def on_idle(self) -> None:
        """Told by the connection when everything has left: what is measured from here on says less than the path takes."""
        if self.bytes_in_flight + self._max_datagram_size <= self.congestion_window:
            self._limited_until = max(1, self._delivered + self._heard + self.bytes_in_flight)

    def _forget(self, sent_time: float, size: int) -> _Flight | None:
        """Bytes of a flight are in flight no longer. The flight, unless it was none of ours."""
        flight = self._flights.get(sent_time)
        if flight is None or not size:
            return None
        self.bytes_in_flight -= size
        flight.left -= size
        if flight.left <= 0:
            del self._flights[sent_time]
        return flight

    # -- what follows

    def settle(self) -> None:
        """Draw the conclusions from what was acknowledged since the last call."""
        flight, acked, now = self._newest, self._heard, self._heard_at
        if flight is None:
            return
        self._newest, self._heard = None, 0
        self._delivered += acked
        self._delivered_at = now
        self._first_sent = flight.sent_at
        if self._limited_until and self._delivered > self._limited_until:
            self._limited_until = 0
        self._round.delivered += acked
        elapsed = max(flight.sent_at - flight.first_sent, now - flight.delivered_at, SMALLEST_RTT)
        self._sample((self._delivered - flight.delivered) / elapsed, limited=flight.limited)
        self._ahead.add(acked, self.bandwidth, now)
        if flight.delivered >= self._round_ends:
            self._round_ends = self._delivered
            self._end_round(now)
        self._move_on(now)
        self._steer(acked)
        self._resumed = False

    def _sample(self, rate: float, *, limited: bool) -> None:
        """A delivery rate. One of less than the path takes lowers nothing: the higher ones before it do not age by it."""
        self._round.asked |= not limited
        samples = self._samples
        while samples and samples[-1][1] <= rate:
            samples.pop()
        if not samples or samples[-1][0] < self._rounds:
            samples.append((self._rounds, rate))
        while samples[0][0] < self._rounds - BANDWIDTH_ROUNDS:
            samples.popleft()
        self.bandwidth = samples[0][1]

    def _end_round(self, now: float) -> None:
        if self._round.asked:
            self._rounds += 1
        self._ahead.end_round()
        heavy = self._heavy_loss()
        if heavy:
            flight = min(self._round.flight, self.bound or self._round.flight)
            self._bound_step = SMALLEST_WINDOW * self._max_datagram_size
            self.bound = max(int(YIELD * flight), self._bound_step)
        if not self._full and (self._round.asked or heavy):
            if self.bandwidth >= GROWTH * self._full_bandwidth and not heavy:
                self._full_bandwidth = self.bandwidth
                self._full_rounds = 0
            else:
                self._full_rounds += 1
                self._full = heavy or self._full_rounds >= PLATEAU
        if self._resting_until is not None:
            self._resting_round += 1
        self._look_at_way(now)
        self._round = _Round(self.bytes_in_flight)

    def _look_at_way(self, now: float) -> None:
        """Whether the shortest round trip is that of a way that is no more."""
        rtt = self._round.rtt
        if rtt == math.inf:
            return
        self._long_rounds = self._long_rounds + 1 if rtt > LONG_WAY * self.min_rtt + LONG_WAY_MORE else 0
        if self._long_rounds < LONG_WAY_ROUNDS or now < self._min_rtt_at + SHORT_LIFE:
            return
        if self.mode is not Mode.PROBE_RTT:
            self.min_rtt, self._min_rtt_at = rtt, now
            self._rtt_expired = True

    def _heavy_loss(self) -> bool:
        """Whether this round's loss is more than chance, and of our making."""
        total = self._round.lost + self._round.delivered
        if total < JUDGED * self._max_datagram_size:
            return False
        share = self._round.lost / total
        queue = QUEUE * self.min_rtt < self._round.rtt < math.inf
        return share > (HEAVY_LOSS if queue else WORST_LOSS)

    # -- modes

    def _move_on(self, now: float) -> None:
        if self.mode is Mode.STARTUP and self._full:
            self.mode = Mode.DRAIN
        if self.mode is Mode.DRAIN and self.bytes_in_flight <= self._product(1.0):
            self._cruise(now)
        elif self.mode is Mode.PROBE_BW:
            self._cycle(now)
        if self._rtt_expired and self.mode is not Mode.PROBE_RTT and not self._resumed:
            self.mode = Mode.PROBE_RTT
            self._window_before = self.congestion_window
            self._resting_until = None
        self._rtt_expired = False
        if self.mode is Mode.PROBE_RTT:
            self._rest(now)

    def _cruise(self, now: float) -> None:
        """Into the cycle, anywhere but where it drains: connections that began together are not to ask together."""
        self.mode = Mode.PROBE_BW
        self._enter(2 + int(now * 1000) % (len(CYCLE) - 2), now)

    def _enter(self, phase: int, now: float) -> None:
        self._phase = phase % len(CYCLE)
        self._phase_at = now
        self._phase_lost = False
        if not self._phase and self.bound is not None:
            self.bound += self._bound_step
            self._bound_step *= 2
            if self.bound >= self._target():
                self.bound = None

    def _cycle(self, now: float) -> None:
        gain = CYCLE[self._phase]
        over = now - self._phase_at > self.min_rtt
        if gain > 1:
            if over and (self._phase_lost or self.bytes_in_flight >= self._product(gain)):
                self._enter(self._phase + 1, now)
        elif gain < 1:
            if over or self.bytes_in_flight <= self._product(1.0):
                self._enter(self._phase + 1, now)
        elif over:
            self._enter(self._phase + 1, now)

    def _rest(self, now: float) -> None:
        """Little in flight for a while, to see the path without a queue of ours. Its rate is not what the path takes."""
        self._limited_until = max(1, self._delivered + self.bytes_in_flight)
        if self._resting_until is None:
            if self.bytes_in_flight <= self._resting_window():
                self._resting_until = now + PROBE_RTT_TIME
                self._resting_round = 0
        elif now > self._resting_until and self._resting_round:
            self._resting_until = None
            self._min_rtt_at = now
            self.congestion_window = max(self.congestion_window, self._window_before)
            if self._full:
                self._cruise(now)
            else:
                self.mode = Mode.STARTUP

    # -- what it comes to

    def _product(self, gain: float) -> int:
        """So many bandwidths by shortest round trips."""
        if not self.bandwidth or self.min_rtt == math.inf:
            return self._first_window
        return int(gain * self.bandwidth * self.min_rtt)

    def _target(self) -> int:
        quantum = min(max(self.pacing_rate * QUANTUM_TIME, 2 * self._max_datagram_size), LARGEST_QUANTUM)
        extra = min(self._ahead.most, self.congestion_window) if self._full else 0
        return self._product(WINDOW_GAIN) + 3 * int(quantum) + extra

    def _resting_window(self) -> int:
        return max(self._product(PROBE_RTT_GAIN), SMALLEST_WINDOW * self._max_datagram_size)

    def _gain(self) -> float:
        if self.mode is Mode.STARTUP:
            return STARTUP_GAIN
        if self.mode is Mode.DRAIN:
            return DRAIN_GAIN
        return CYCLE[self._phase] if self.mode is Mode.PROBE_BW else 1.0

    def _steer(self, acked: int) -> None:
        """Set the rate and the window."""
        gain = self._gain()
        rate = gain * self.bandwidth * PACING_MARGIN
        if not self._full and self.min_rtt < math.inf:
            rate = max(rate, self.pacing_rate, gain * self._first_window / self.min_rtt)
        self.pacing_rate = rate
        target = self._target()
        window = self.congestion_window
        if self._full:
            window = min(window + acked, target)
        elif window < target or self._delivered < self._first_window:
            window += acked
        if self.bound is not None:
            window = min(window, self.bound)
        if self.mode is Mode.PROBE_RTT:
            window = min(window, self._resting_window())
        self.congestion_window = max(window, SMALLEST_WINDOW * self._max_datagram_size)


class BbrPacer(Pacer):
    """Lets go at the rate of the controller."""

    def __init__(self, cc: Bbr, *, max_datagram_size: int) -> None:
        super().__init__(max_datagram_size=max_datagram_size)
        self._cc = cc

    def update_rate(self, congestion_window: int, smoothed_rtt: float) -> None:  # noqa: ARG002 - as the original
        self._cc.settle()
        self.set_rate(self._cc.pacing_rate)


register_congestion_control(NAME, Bbr)
