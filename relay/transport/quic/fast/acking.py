"""Acknowledgements from the peer: what they say of each packet at once, what they say of the network once per drain.

Owns the reading of ACK frames, and the round trip, congestion and loss that follow (RFC 9002, 5 to 7). Must never send.
Part of the receiving side.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aioquic.quic.connection import QuicConnectionError
from aioquic.quic.packet import QuicErrorCode, QuicFrameType
from aioquic.quic.packet_builder import QuicDeliveryState

from relay.transport.quic.fast.base import FastBase
from relay.transport.quic.fast.recovery import RunPacket, SentPacket, Sum
from relay.transport.quic.fast.varint import read_varint

if TYPE_CHECKING:
    from relay.transport.quic.fast.streams import FastSender

SMALLEST_RTT = 0.001
"""Seconds; as in aioquic."""

LONG_RTT = 0.3
"""Seconds of round trip from which on the idle time-out may depend on it (RFC 9000, 10.1)."""


class AckingConnection(FastBase):
    """The part that hears of acknowledgements."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._news = False
        """Whether an ACK frame acknowledged something new since the last `_settle`."""
        self._acked_bytes = 0
        """In flight until they were acknowledged since then."""
        self._growing_bytes = 0
        """Those of them that were sent after the last congestion event began."""
        self._growing_packets = 0
        self._last_sent_time = 0.0
        self._sample: tuple[float, float] | None = None
        """Round trip and delay in seconds, of the newest acknowledgement of a largest packet."""

    def _read_ack(self, plain: bytes, at: int, now: float) -> int:
        """ACK without ECN counts (RFC 9000, 19.3); returns the position after it."""
        largest, at = read_varint(plain, at)
        delay, at = read_varint(plain, at)
        count, at = read_varint(plain, at)
        length, at = read_varint(plain, at)
        if largest >= self._packet_number:
            raise QuicConnectionError(
                QuicErrorCode.PROTOCOL_VIOLATION, QuicFrameType.ACK, "ACK of a packet that was never sent"
            )
        space = self._space
        space.largest_acked_packet = max(space.largest_acked_packet, largest)
        sent: dict[int, Any] = space.sent_packets
        newest = sent.get(largest)
        low = largest - length
        oldest = next(iter(sent), largest + 1)
        high = largest
        while True:
            if low < 0:
                raise QuicConnectionError(
                    QuicErrorCode.FRAME_ENCODING_ERROR,
                    QuicFrameType.ACK,
                    "ACK range contains a negative packet number",
                )
            if high >= oldest:
                self._acknowledge(sent, max(low, oldest), high)
            if not count:
                break
            count -= 1
            gap, at = read_varint(plain, at)
            length, at = read_varint(plain, at)
            high = low - gap - 2
            low = high - length
        if newest is not None and newest.is_ack_eliciting:
            self._sample = (now - newest.sent_time, (delay << self._remote_ack_delay_exponent) / 1_000_000)
        return at

    def _acknowledge(self, sent: dict[int, Any], low: int, high: int) -> None:
        """Packets from `low` to `high`, as far as they are outstanding."""
        numbers: Any = range(low, high + 1)
        if high - low > 2 * len(sent):
            numbers = [number for number in sent if low <= number <= high]
        space = self._space
        recovering: float = self._loss._cc._congestion_recovery_start_time  # type: ignore[attr-defined]
        eliciting = acked = growing = packets = 0
        found = False
        runner: FastSender | None = None  # whose bytes from `begin` to `end` are acknowledged, told once
        begin = end = 0
        pop = sent.pop
        for number in numbers:
            packet = pop(number, None)
            if packet is None:
                continue
            found = True
            if packet.__class__ is RunPacket:
                eliciting += 1
                size = packet.sent_bytes
                acked += size
                sent_time = packet.sent_time
                if sent_time > recovering:
                    growing += size
                    packets += 1
                self._last_sent_time = sent_time
                if packet.sender is runner and packet.start == end:
                    end = packet.stop
                    continue
                if runner is not None:
                    runner.on_acked(begin, end, False)
                runner = packet.sender
                begin = packet.start
                end = packet.stop
                continue
            if runner is not None:
                runner.on_acked(begin, end, False)
                runner = None
            if packet.__class__ is SentPacket:
                eliciting += 1
                size = packet.sent_bytes
                acked += size
                sent_time = packet.sent_time
                if sent_time > recovering:
                    growing += size
                    packets += 1
                self._last_sent_time = sent_time
                sender = packet.sender
                if sender is not None:
                    sender.on_acked(packet.start, packet.stop, packet.fin)
                    if packet.more is not None:
                        for other, start, stop, fin in packet.more:
                            other.on_acked(start, stop, fin)
                if packet.acks >= 0:
                    self._forget_acks(packet.acks)
                if packet.handlers is None:
                    continue
                handlers = packet.handlers
            else:
                # Built by aioquic: a handshake packet, a probe, an ACK alone.
                if packet.is_ack_eliciting:
                    eliciting += 1
                if packet.in_flight:
                    acked += packet.sent_bytes
                    if packet.sent_time > recovering:
                        growing += packet.sent_bytes
                        packets += 1
                    self._last_sent_time = packet.sent_time
                handlers = packet.delivery_handlers
            for handler, arguments in handlers:
                handler(QuicDeliveryState.ACKED, *arguments)
        if runner is not None:
            runner.on_acked(begin, end, False)
        if found:
            self._news = True
            space.ack_eliciting_in_flight -= eliciting
            self._acked_bytes += acked
            self._growing_bytes += growing
            self._growing_packets += packets

    def _forget_acks(self, highest: int) -> None:
        """The peer has our ACK up to `highest`, and needs no word of what lies below (RFC 9000, 13.2.4)."""
        if self._run_start <= highest:
            self._run_start = min(highest + 1, self._run_stop)
        queue = self._space.ack_queue
        if len(queue):
            queue.subtract(0, highest + 1)

    def _settle(self, now: float) -> None:
        """Draw the conclusions from the acknowledgements since the last call (RFC 9002, A.7)."""
        if not self._news:
            return
        self._news = False
        loss = self._loss
        space = self._space
        if self._acked_bytes:
            self._grow(now)
        if self._sample is not None:
            self._measure(*self._sample, now)
            self._sample = None
        oldest = next(iter(space.sent_packets), None)
        if oldest is not None and oldest <= space.largest_acked_packet:
            loss._detect_loss(now=now, space=space)
        else:
            space.loss_time = None
        loss._pto_count = 0

    def _grow(self, now: float) -> None:
        """Take acknowledged bytes out of flight, and raise the congestion window if it was in use.

        A window that the application does not fill says nothing about the network (RFC 9002, 7.8).
        """
        cc: Any = self._loss._cc
        used = 2 * cc.bytes_in_flight >= cc.congestion_window or bool(self._active)
        growing = self._growing_bytes
        cc.bytes_in_flight -= self._acked_bytes
        cc.last_ack = self._last_sent_time
        if growing and used:
            if cc.ssthresh is None or cc.congestion_window < cc.ssthresh:
                cc.congestion_window += growing
            else:
                # The growth of CUBIC is per acknowledged packet.
                packets = self._growing_packets
                share = Sum(growing // packets, self._last_sent_time)
                cc.bytes_in_flight += share.sent_bytes * packets
                for _ in range(packets):
                    cc.on_packet_acked(packet=share, now=now)
        window = cc.congestion_window
        if self._min_ack_delay is not None and not window < 2 * self._asked_window < 4 * window:
            self._frequency_due = True
        self._acked_bytes = self._growing_bytes = self._growing_packets = 0

    def _measure(self, latest: float, delay: float, now: float) -> None:
        """A sample of the round trip (RFC 9002, 5)."""
        loss = self._loss
        delay = min(delay, loss.max_ack_delay)
        rtt = max(latest, SMALLEST_RTT)
        loss._rtt_min = min(rtt, loss._rtt_min)
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
