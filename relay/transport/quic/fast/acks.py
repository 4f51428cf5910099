"""Acknowledgements from the peer: per packet at once, round trip and congestion once per drain.

Owns ACK frames, and the round trip, congestion and loss after them (RFC 9002, 5 to 7). Must never send.
"""

from __future__ import annotations

from typing import Any

from aioquic.quic.connection import QuicConnectionError
from aioquic.quic.packet import QuicErrorCode, QuicFrameType
from aioquic.quic.packet_builder import QuicDeliveryState

from relay.transport.quic.fast.base import FastBase
from relay.transport.quic.fast.keys import read_ack
from relay.transport.quic.fast.recovery import AckedPackets, SentPacket, TrainPacket

SMALLEST_RTT = 0.001  # seconds; as in aioquic
MOST_LOOKS = 1024  # most comparisons of trains and ACK ranges, then by packet: useless ranges must be cheap
LONG_RTT = 0.3  # seconds of round trip from which on the idle time-out may depend on it (RFC 9000, 10.1)


class AckConnection(FastBase):
    """Handles acknowledgements."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._news = False  # an ACK frame acknowledged something new since the last `_settle`
        self._acked_bytes = 0  # bytes in flight acknowledged since then
        self._growing_bytes = 0  # those sent after the last congestion event began
        self._growing_packets = 0
        self._last_sent_time = 0.0
        self._sample: tuple[float, float] | None = None
        """Round trip and delay in seconds, of the newest acknowledgement of a largest packet."""

    def _read_ack(self, plain: bytes, at: int, now: float) -> int:
        """ACK without ECN counts (RFC 9000, 19.3); returns the position after it."""
        try:
            largest, delay, lowest, more, at = read_ack(plain, at)
        except ValueError as error:
            raise QuicConnectionError(
                QuicErrorCode.FRAME_ENCODING_ERROR, QuicFrameType.ACK, str(error)
            ) from None
        if largest >= self._packet_number:
            raise QuicConnectionError(
                QuicErrorCode.PROTOCOL_VIOLATION, QuicFrameType.ACK, "ACK of a packet that was never sent"
            )
        space = self._space
        space.largest_acked_packet = max(space.largest_acked_packet, largest)
        sample = self._acknowledge(lowest, largest)
        if more is not None:
            if len(more) * len(self._trains) > MOST_LOOKS:
                self._split_trains()
            for low, high in more:
                self._acknowledge(low, high)
        if sample is not None:
            self._sample = (now - sample, (delay << self._remote_ack_delay_exponent) / 1_000_000)
        return at

    def _acknowledge(self, low: int, high: int) -> float | None:
        """Acknowledge outstanding packets. Returns when `high` was sent, if it was among them."""
        found: float | None = None
        if self._trains:
            found = self._acknowledge_trains(low, high)
        sent: dict[int, Any] = self._space.sent_packets
        if sent:
            numbers: Any = range(max(low, next(iter(sent))), high + 1)
            if len(numbers) > 2 * len(sent):
                numbers = [number for number in sent if low <= number <= high]
            if numbers:
                newest = sent.get(high)
                if newest is not None and newest.is_ack_eliciting:
                    found = newest.sent_time
                self._acknowledge_single(sent, numbers)
        return found

    def _acknowledge_trains(self, low: int, high: int) -> float | None:
        """Acknowledge the part of a range that is in trains: whole trains, mostly, or the start of one."""
        trains = self._trains
        found: float | None = None
        start = 0
        while start < len(trains) and trains[start].last < low:
            start += 1
        stop = start
        for train in trains[start:]:
            if train.first > high:
                break
            if train.first < low:
                self._split_trains()
                return None
            begin, first, last = train.start, train.first, train.last
            if last > first and train.size == self._max_datagram_size:
                self._mtu.losses = 0
            if last > high:
                count = high + 1 - first
                size = count * train.size
                train.cut(count)
                train.sender.on_acked(begin, train.start, False)
            else:
                count = last + 1 - first
                size = count * (train.size - train.step) + train.stop - begin
                train.sender.on_acked(begin, train.stop, train.fin)
                stop += 1
            self._count(train.sent_time, size, count)
            if last >= high:
                found = train.sent_time
                break
        del trains[start:stop]
        return found

    def _count(self, sent_time: float, size: int, packets: int) -> None:
        """Count acknowledged ack-eliciting packets of together `size` bytes."""
        self._news = True
        self._space.ack_eliciting_in_flight -= packets
        self._acked_bytes += size
        if self._bbr is not None:
            self._bbr.acked(sent_time, size)
        elif sent_time > self._loss._cc._congestion_recovery_start_time:  # type: ignore[attr-defined]
            self._growing_bytes += size
            self._growing_packets += packets
        self._last_sent_time = sent_time

    def _acknowledge_single(self, sent: dict[int, Any], numbers: Any) -> None:
        """Packets that have a record of their own."""
        for number in numbers:
            packet = sent.pop(number, None)
            if packet is None:
                continue
            kind = packet.__class__
            if kind is TrainPacket:
                if packet.sent_bytes == self._max_datagram_size:
                    self._mtu.losses = 0
                self._count(packet.sent_time, packet.sent_bytes, 1)
                packet.sender.on_acked(packet.start, packet.stop, packet.fin)
                continue
            if kind is SentPacket:
                self._count(packet.sent_time, packet.sent_bytes, 1)
                if packet.sender is not None:
                    packet.sender.on_acked(packet.start, packet.stop, packet.fin)
                    if packet.more is not None:
                        for other, start, stop, fin in packet.more:
                            other.on_acked(start, stop, fin)
                if packet.acks >= 0:
                    self._forget_acks(packet.acks)
                handlers = packet.handlers or ()
            else:
                # Built by aioquic, an ACK alone, or an MTU probe.
                size = packet.sent_bytes if packet.in_flight else 0
                self._count(packet.sent_time, size, int(packet.is_ack_eliciting))
                handlers = packet.delivery_handlers
            for handler, arguments in handlers:
                handler(QuicDeliveryState.ACKED, *arguments)

    def _forget_acks(self, highest: int) -> None:
        """The peer has our ACK up to `highest`: forget the ranges below (RFC 9000, 13.2.4)."""
        if self._range_start <= highest:
            self._range_start = min(highest + 1, self._range_stop)
        queue = self._space.ack_queue
        if len(queue):
            queue.subtract(0, highest + 1)

    def _settle(self, now: float) -> None:
        """Apply the acknowledgements since the last call (RFC 9002, A.7)."""
        if not self._news:
            return
        self._news = False
        loss = self._loss
        space = self._space
        if self._acked_bytes:
            self._grow(loss._cc, now)
        if self._sample is not None:
            self._measure(loss, *self._sample, now)
            self._sample = None
        newest = space.largest_acked_packet
        trains = self._trains
        if (trains and trains[0].first <= newest) or next(iter(space.sent_packets), newest + 1) <= newest:
            self._split_trains()
            self._detect_loss(now)
        else:
            space.loss_time = None
        loss._pto_count = 0

    def _detect_loss(self, now: float) -> None:
        space = self._space
        full = self._max_datagram_size
        before = [number for number, packet in space.sent_packets.items() if packet.sent_bytes == full]
        self._loss._detect_loss(now=now, space=space)
        if self._mtu.lost(sum(number not in space.sent_packets for number in before), now):
            self._resize()
        self._limit_unacknowledged(now)

    def _grow(self, cc: Any, now: float) -> None:
        """Take acknowledged bytes out of flight. Grow the window only if it was in use (RFC 9002, 7.8)."""
        used = 2 * cc.bytes_in_flight >= cc.congestion_window or bool(self._active)
        growing = self._growing_bytes
        if self._bbr is not None:
            self._bbr.on_ack(now)
        else:
            cc.bytes_in_flight -= self._acked_bytes
        cc.last_ack = self._last_sent_time
        if growing and used:
            if cc.ssthresh is None or cc.congestion_window < cc.ssthresh:
                cc.congestion_window += growing
            else:
                # Reno grows by all acknowledged bytes; CUBIC's own growth is per packet.
                cc.bytes_in_flight += growing
                cc.on_packet_acked(packet=AckedPackets(growing, self._last_sent_time), now=now)
                before = cc.congestion_window
                cc.on_packet_acked(packet=AckedPackets(0, self._last_sent_time), now=now)
                more = (cc.congestion_window - before) * (self._growing_packets - 1)
                cc.congestion_window = before + max(0, min(more, growing))
        window = cc.congestion_window
        if self._min_ack_delay is not None and not window < 2 * self._asked_window < 4 * window:
            self._frequency_due = True
        self._acked_bytes = self._growing_bytes = self._growing_packets = 0

    def _measure(self, loss: Any, latest: float, delay: float, now: float) -> None:
        """Add a round trip sample (RFC 9002, 5)."""
        rtt = max(latest, SMALLEST_RTT)
        if rtt < loss._rtt_min:
            loss._rtt_min = rtt
        else:
            delay = min(delay, loss.max_ack_delay)
            if rtt > loss._rtt_min + delay:
                rtt -= delay
        loss._rtt_latest = rtt
        if not loss._rtt_initialized:
            loss._rtt_first_sample_time = now
            loss._rtt_initialized = True
            loss._rtt_variance = rtt / 2
            loss._rtt_smoothed = rtt
        else:
            loss._rtt_variance = 0.75 * loss._rtt_variance + 0.25 * abs(loss._rtt_smoothed - rtt)
            loss._rtt_smoothed = 0.875 * loss._rtt_smoothed + 0.125 * rtt
        cc = loss._cc
        cc.on_rtt_measurement(now=now, rtt=rtt)
        loss._pacer.update_rate(cc.congestion_window, loss._rtt_smoothed)
        if loss._rtt_smoothed > LONG_RTT:
            self._idle = self._idle_timeout()
