"""What loss recovery needs of the fast path: records of sent packets, the pacer, the window of received ones.

Owns small types that stand in for aioquic's own and are accepted by its loss recovery as they are (RFC 9002). Must
never touch a connection. The connection and its packet loops use them.
"""

from __future__ import annotations

from typing import Any

from aioquic.quic.packet import QuicPacketType
from aioquic.quic.recovery import QuicPacketPacer
from aioquic.tls import Epoch

from relay.transport.quic.fast.streams import FastSender

SEEN = 128
"""Packet numbers below the largest one that are told apart; older ones count as duplicates, as in aioquic."""

_SEEN_MASK = (1 << SEEN) - 1

PACING_GAIN = 1.25
"""Pacing rate by window and round trip (RFC 9002, 7.7)."""

SMALLEST_BURST = 16
"""Packets that may leave at once at any rate: a frame of video, or the initial window."""

LARGEST_BURST = 256
"""Packets that may leave at once at most."""

BURST_TIME = 0.004
"""Seconds of the pacing rate that may leave at once: the loop's timers are a millisecond late or two, and a rate that
only 16 packets a millisecond could carry would end at 150 Mbit/s."""


class SentPacket:
    """A sent 1-RTT packet that elicits an acknowledgement: aioquic's `QuicSentPacket`, lighter."""

    __slots__ = (
        "acks",
        "fin",
        "handlers",
        "more",
        "packet_number",
        "sender",
        "sent_bytes",
        "sent_time",
        "start",
        "stop",
    )

    epoch = Epoch.ONE_RTT
    in_flight = True
    is_ack_eliciting = True
    is_crypto_packet = False
    packet_type = QuicPacketType.ONE_RTT
    quic_logger_frames: tuple[Any, ...] = ()

    def __init__(self, packet_number: int, sent_time: float) -> None:
        self.packet_number = packet_number
        self.sent_time = sent_time
        self.sent_bytes = 0
        self.sender: FastSender | None = None
        """Whose STREAM frame comes first: its bytes from `start` to `stop`, and whether it ends there."""
        self.start = 0
        self.stop = 0
        self.fin = False
        self.more: list[tuple[FastSender, int, int, bool]] | None = None
        """Further STREAM frames."""
        self.handlers: list[tuple[Any, tuple[Any, ...]]] | None = None
        """Of control frames: called with the delivery state and the arguments."""
        self.acks = -1
        """The largest packet number that it acknowledged."""

    @property
    def delivery_handlers(self) -> list[tuple[Any, tuple[Any, ...]]]:
        """As aioquic's loss recovery wants them: rarely asked for, so made on demand."""
        handlers: list[tuple[Any, tuple[Any, ...]]] = []
        if self.sender is not None:
            handlers.append((self.sender.on_data_delivery, (self.start, self.stop, self.fin)))
        if self.more is not None:
            handlers += [(each[0].on_data_delivery, each[1:]) for each in self.more]
        if self.handlers is not None:
            handlers += self.handlers
        return handlers


class MtuProbe(SentPacket):
    """A probe of the path's MTU. Its loss says nothing of congestion (RFC 9000, 14.4)."""

    __slots__ = ()

    in_flight = False


class RunPacket:
    """One packet of a run that is told apart: nothing but bytes of one stream."""

    __slots__ = ("fin", "packet_number", "sender", "sent_bytes", "sent_time", "start", "stop")

    epoch = Epoch.ONE_RTT
    in_flight = True
    is_ack_eliciting = True
    is_crypto_packet = False
    packet_type = QuicPacketType.ONE_RTT
    quic_logger_frames: tuple[Any, ...] = ()

    def __init__(
        self,
        packet_number: int,
        sent_time: float,
        sent_bytes: int,
        sender: FastSender,
        start: int,
        stop: int,
        fin: bool,  # noqa: FBT001 - a record of fields
    ) -> None:
        self.packet_number = packet_number
        self.sent_time = sent_time
        self.sent_bytes = sent_bytes
        self.sender = sender
        self.start = start
        self.stop = stop
        self.fin = fin

    @property
    def delivery_handlers(self) -> list[tuple[Any, tuple[Any, ...]]]:
        return [(self.sender.on_data_delivery, (self.start, self.stop, self.fin))]


class Run:
    """Packets sent in one go, of new bytes of one stream each: what most packets are.

    One record for all, as long as acknowledgements come in order; see `packets` for when they do not. All packets are
    of `size` bytes with `step` bytes of the stream, but for the last.
    """

    __slots__ = ("fin", "first", "last", "sender", "sent_time", "size", "start", "step", "stop")

    def __init__(
        self,
        first: int,
        last: int,
        sent_time: float,
        sender: FastSender,
        start: int,
        stop: int,
        step: int,
        size: int,
        fin: bool,  # noqa: FBT001 - a record of fields
    ) -> None:
        self.first = first
        """Packet number, as `last`."""
        self.last = last
        self.sent_time = sent_time
        self.sender = sender
        self.start = start
        """Offset in the stream, as `stop`."""
        self.stop = stop
        self.step = step
        self.size = size
        self.fin = fin
        """Whether the stream ends with the last packet."""

    def cut(self, count: int) -> None:
        """Forget the first `count` packets, not all of them."""
        self.first += count
        self.start += count * self.step

    def packets(self) -> list[RunPacket]:
        """A record for each packet, for when they fare differently."""
        found = []
        start = self.start
        for number in range(self.first, self.last):
            stop = start + self.step
            found.append(RunPacket(number, self.sent_time, self.size, self.sender, start, stop, False))
            start = stop
        size = self.size - self.step + self.stop - start
        found.append(RunPacket(self.last, self.sent_time, size, self.sender, start, self.stop, self.fin))
        return found


class Sum:
    """Several packets in one, for the congestion controller: only these two are looked at."""

    __slots__ = ("sent_bytes", "sent_time")

    def __init__(self, sent_bytes: int, sent_time: float) -> None:
        self.sent_bytes = sent_bytes
        self.sent_time = sent_time


class Pacer(QuicPacketPacer):
    """A bucket of bytes instead of packets, which a whole flight is charged to at once."""

    def __init__(self, *, max_datagram_size: int) -> None:
        super().__init__(max_datagram_size=max_datagram_size)
        self.size = max_datagram_size
        self.rate = 0.0
        """Bytes per second; 0 before the first sample of the round trip: no pacing."""
        self.burst = float(SMALLEST_BURST * max_datagram_size)
        self.tokens = self.burst
        self.filled = 0.0

    def update_rate(self, congestion_window: int, smoothed_rtt: float) -> None:
        self.set_rate(PACING_GAIN * congestion_window / max(smoothed_rtt, 0.000001))

    def set_rate(self, rate: float) -> None:
        """Let go so many bytes per second."""
        self.rate = rate
        self.burst = min(max(SMALLEST_BURST * self.size, self.rate * BURST_TIME), LARGEST_BURST * self.size)

    def fill(self, now: float) -> float:
        """Bytes that may be sent now; none or less: wait."""
        if now > self.filled:
            self.tokens = min(self.tokens + (now - self.filled) * self.rate, self.burst)
            self.filled = now
        return self.tokens

    def next_send_time(self, now: float) -> float | None:  # type: ignore[override] # the original lies
        if not self.rate or self.fill(now) > 0:
            return None
        # Half a burst at a time: not a packet per wake-up.
        return now + (self.burst / 2 - self.tokens) / self.rate

    def update_after_send(self, now: float) -> None:  # noqa: ARG002 - as the original
        self.tokens -= self.size


class Seen:
    """The most recent packet numbers received, as bits below the largest: aioquic's `QuicPacketNumberWindow`."""

    __slots__ = ("bits", "largest")

    def __init__(self) -> None:
        self.largest = -1
        self.bits = 0

    def add(self, packet_number: int) -> None:
        ahead = packet_number - self.largest
        if ahead > 0:
            self.bits = ((self.bits << ahead) | 1) & _SEEN_MASK if ahead < SEEN else 1
            self.largest = packet_number
        elif ahead > -SEEN:
            self.bits |= 1 << -ahead

    def __contains__(self, packet_number: int) -> bool:
        behind = self.largest - packet_number
        return behind >= SEEN or (behind >= 0 and bool(self.bits >> behind & 1))
