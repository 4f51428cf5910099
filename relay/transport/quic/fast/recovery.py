"""Records of sent packets, the pacer, and the window of received packet numbers.

Owns types that replace aioquic's in its loss recovery (RFC 9002). Must never touch a connection.
"""

from __future__ import annotations

from typing import Any

from aioquic.quic.packet import QuicPacketType
from aioquic.quic.recovery import QuicPacketPacer
from aioquic.tls import Epoch

from relay.transport.quic.fast.streams import FastSender

SEEN = 128  # packet numbers tracked below the largest; older ones count as duplicates, as in aioquic
_SEEN_MASK = (1 << SEEN) - 1

PACING_GAIN = 1.25  # pacing rate relative to window per round trip (RFC 9002, 7.7)
SMALLEST_BURST = 16  # least burst in packets at any rate: a frame of video, or the initial window
LARGEST_BURST = 256  # packets
BURST_TIME = 0.004  # seconds of the pacing rate: timers are 1 to 2 ms late, and 16 packets/ms are 150 Mbit/s


class SentPacket:
    """A sent ack-eliciting 1-RTT packet: a lighter `QuicSentPacket`."""

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
        self.sender: FastSender | None = None  # of the first STREAM frame: `start` to `stop`, `fin`
        self.start = 0
        self.stop = 0
        self.fin = False
        self.more: list[tuple[FastSender, int, int, bool]] | None = None
        self.handlers: list[tuple[Any, tuple[Any, ...]]] | None = None  # of control frames, and arguments
        self.acks = -1  # the largest packet number that its ACK frame acknowledged

    @property
    def delivery_handlers(self) -> list[tuple[Any, tuple[Any, ...]]]:
        """For aioquic's loss recovery: rarely needed, so built on demand."""
        handlers: list[tuple[Any, tuple[Any, ...]]] = []
        if self.sender is not None:
            handlers.append((self.sender.on_data_delivery, (self.start, self.stop, self.fin)))
        if self.more is not None:
            handlers += [(each[0].on_data_delivery, each[1:]) for each in self.more]
        if self.handlers is not None:
            handlers += self.handlers
        return handlers


class MtuProbe(SentPacket):
    """An MTU probe. Its loss does not indicate congestion (RFC 9000, 14.4)."""

    __slots__ = ()

    in_flight = False


class TrainPacket:
    """One packet of a train, recorded alone: bytes of one stream only."""

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


class Train:
    """Packets of one stream's new bytes, sent in one go: most packets.

    One record serves all while acknowledgements come in order; see `packets` otherwise. All packets have
    `size` bytes with `step` bytes of the stream, the last may have fewer.
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
        self.first = first  # packet number, as `last`
        self.last = last
        self.sent_time = sent_time
        self.sender = sender
        self.start = start  # offset in the stream, as `stop`
        self.stop = stop
        self.step = step
        self.size = size
        self.fin = fin  # the stream ends with the last packet

    def cut(self, count: int) -> None:
        """Remove the first `count` packets, but not all."""
        self.first += count
        self.start += count * self.step

    def packets(self) -> list[TrainPacket]:
        """A record for each packet, when their fates differ."""
        found = []
        start = self.start
        for number in range(self.first, self.last):
            stop = start + self.step
            found.append(TrainPacket(number, self.sent_time, self.size, self.sender, start, stop, False))
            start = stop
        size = self.size - self.step + self.stop - start
        found.append(TrainPacket(self.last, self.sent_time, size, self.sender, start, self.stop, self.fin))
        return found


class AckedPackets:
    """Several packets as one, for the congestion controller, which reads only these fields."""

    __slots__ = ("sent_bytes", "sent_time")

    def __init__(self, sent_bytes: int, sent_time: float) -> None:
        self.sent_bytes = sent_bytes
        self.sent_time = sent_time


class Pacer(QuicPacketPacer):
    """A bucket of bytes instead of packets, charged once per burst."""

    def __init__(self, *, max_datagram_size: int) -> None:
        super().__init__(max_datagram_size=max_datagram_size)
        self.size = max_datagram_size
        self.rate = 0.0  # bytes per second; 0 before the first round trip sample: no pacing
        self.burst = float(SMALLEST_BURST * max_datagram_size)
        self.tokens = self.burst
        self.filled = 0.0

    def update_rate(self, congestion_window: int, smoothed_rtt: float) -> None:
        self.set_rate(PACING_GAIN * congestion_window / max(smoothed_rtt, 0.000001))

    def set_rate(self, rate: float) -> None:
        self.rate = rate
        self.burst = min(max(SMALLEST_BURST * self.size, self.rate * BURST_TIME), LARGEST_BURST * self.size)

    def fill(self, now: float) -> float:
        """Bytes that may be sent now; zero or less: wait."""
        if now > self.filled:
            self.tokens = min(self.tokens + (now - self.filled) * self.rate, self.burst)
            self.filled = now
        return self.tokens

    def next_send_time(self, now: float) -> float | None:  # type: ignore[override] # the original lies
        if not self.rate or self.fill(now) > 0:
            return None
        # Refill half a burst at a time: not one packet per wake-up.
        return now + (self.burst / 2 - self.tokens) / self.rate

    def update_after_send(self, now: float) -> None:  # noqa: ARG002 - as the original
        self.tokens -= self.size


class ReceivedPackets:
    """Recently received packet numbers, as bits below the largest: `QuicPacketNumberWindow` of aioquic."""

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
