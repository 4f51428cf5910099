"""Sent packets, and their fate: acknowledgements, round trips, loss, probe time-outs (RFC 9002).

Acknowledgements are recorded at once, and applied to congestion control once per drain of the socket.
"""

from __future__ import annotations

from typing import Final

from relay.quic import errors
from relay.quic.congestion import Congestion, Pacer
from relay.quic.errors import QuicError
from relay.quic.streams import SendHalf, Stream
from relay.quic.varint import read_varint

INITIAL_RTT: Final = 0.1  # seconds before the first sample: a live path beats the 333 ms of RFC 9002
SMALLEST_RTT: Final = 0.001  # seconds
GRANULARITY: Final = 0.001  # seconds
PACKET_THRESHOLD: Final = 3
TIME_THRESHOLD: Final = 1.125
PERSISTENT: Final = 3  # probe time-outs without an acknowledgement
MOST_BACKOFF: Final = 6  # doublings of the probe time-out
MOST_SKIPPED: Final = 8  # packet numbers remembered


class ControlFrame:
    """Other than STREAM, DATAGRAM and ACK."""

    __slots__ = ("again", "data", "kind", "number", "stream")

    def __init__(
        self, kind: int, data: bytes, *, again: bool = False, number: int = -1, stream: Stream | None = None
    ) -> None:
        self.kind = kind
        self.data = data
        self.again = again  # a lost one is sent again as it is
        self.number = number  # of a connection id, a ping
        self.stream = stream


class Sent:
    """An ack-eliciting packet, or a packet train: consecutive packets of new bytes of one stream.

    Each packet of a train has `size` bytes with `step` bytes of the stream; the last one may have fewer.
    """

    __slots__ = (
        *("acks", "fin", "first", "frames", "half", "last", "last_size"),
        *("more", "probe", "size", "start", "step", "stop", "time"),
    )

    def __init__(self, first: int, last: int, time: float, size: int, last_size: int) -> None:
        self.first = first  # packet numbers
        self.last = last
        self.time = time
        self.size = size
        self.last_size = last_size
        self.half: SendHalf | None = None  # of the STREAM frames: offsets `start` to `stop`
        self.start = 0
        self.stop = 0
        self.step = 0
        self.fin = False  # the last packet ends the stream
        self.more: list[tuple[SendHalf, int, int, bool]] | None = None  # further STREAM frames
        self.frames: list[ControlFrame] | None = None
        self.acks = -1  # the largest packet number that its ACK frame acknowledged
        self.probe = 0  # of an MTU probe, which is not in flight

    @property
    def bytes(self) -> int:
        return (self.last - self.first) * self.size + self.last_size

    def split(self, number: int) -> Sent:
        """Cut off and return the packets below `number`, which is neither the first nor beyond the last."""
        head = Sent(self.first, number - 1, self.time, self.size, self.size)
        head.half = self.half
        head.start = self.start
        head.step = self.step
        self.start = head.stop = self.start + (number - self.first) * self.step
        self.first = number
        return head


class Recovery:
    """Loss recovery of the 1-RTT packet number space.

    Size: loss detection, round trips and the counters of RFC 9002 change together with each packet.
    """

    __slots__ = (
        *("acked_acks", "acked_bytes", "acked_frames", "acked_full", "arrived_probe", "congestion"),
        *("failed_probe", "first_rtt_at", "largest_acked", "last_sent", "loss_time", "lost_frames"),
        *("lost_full", "lost_packets", "lost_traced", "max_ack_delay", "outstanding", "pacer", "pto_count"),
        *("rtt", "rtt_latest", "rtt_min", "rtt_variance", "sent", "skipped", "traced", "_ack_delay"),
        *("news", "_sample_sent", "_sampled"),
    )

    def __init__(self, congestion: Congestion, *, max_ack_delay: float) -> None:
        self.congestion = congestion
        self.pacer = Pacer(congestion.size)
        self.max_ack_delay = max_ack_delay  # the peer's, seconds
        self.sent: list[Sent] = []  # neither acknowledged nor lost, by number
        self.outstanding = 0  # packets in it
        self.largest_acked = -1
        self.last_sent = 0.0  # an ack-eliciting packet
        self.loss_time = -1.0  # when the next packet counts as lost
        self.pto_count = 0
        self.rtt = 0.0  # smoothed seconds; 0.0 before the first sample
        self.rtt_variance = 0.0
        self.rtt_min = 0.0
        self.rtt_latest = 0.0
        self.first_rtt_at = 0.0
        self.skipped: list[int] = []  # an ACK of one is a lie (RFC 9000, 21.4)
        self.acked_frames: list[ControlFrame] = []  # for the connection, since its last look
        self.lost_frames: list[ControlFrame] = []
        self.acked_acks = -1  # the peer has our ACK frames up to this number
        self.acked_full = False  # a full-size packet
        self.lost_full = 0  # full-size packets
        self.lost_packets = 0  # ever
        self.traced = False  # fill `lost_traced`: first and last numbers of lost packets
        self.lost_traced: list[tuple[int, int]] = []
        self.arrived_probe = 0  # size of the MTU probe that arrived, or was lost
        self.failed_probe = 0
        self.acked_bytes = 0  # since the last `settle`
        self.news = False  # acknowledgements since the last `settle`
        self._sample_sent = -1.0  # when the largest acknowledged packet was sent, if that is new
        self._sampled = False  # by the present frame
        self._ack_delay = 0.0

    # -- sending

    def add(self, record: Sent) -> None:
        self.sent.append(record)
        self.outstanding += record.last + 1 - record.first

    def charge(self, now: float, size: int) -> None:
        """Ack-eliciting packets leave, together `size` bytes."""
        self.last_sent = now
        self.congestion.on_sent(now, size)
        self.pacer.charge(size)

    def skip(self, number: int) -> None:
        """The packet `number` will never be sent."""
        self.skipped.append(number)
        if len(self.skipped) > MOST_SKIPPED:
            del self.skipped[0]

    # -- acknowledgements

    def read_ack(self, plain: bytes, at: int, next_number: int, delay_exponent: int) -> int:
        """Read an ACK frame after its type (RFC 9000, 19.3). Returns the position after its ranges.

        Raises QuicError, and IndexError if the frame ends early.
        """
        self._sampled = False
        largest, at = read_varint(plain, at)
        delay, at = read_varint(plain, at)
        count, at = read_varint(plain, at)
        length, at = read_varint(plain, at)
        low = largest - length
        if largest >= next_number:
            raise QuicError(errors.PROTOCOL_VIOLATION, errors.ACK, "ACK of a packet that was never sent")
        self.largest_acked = max(self.largest_acked, largest)
        sent = self.sent
        if not count:
            if low < 0:
                raise QuicError(errors.FRAME_ENCODING_ERROR, errors.ACK, "ACK range below zero")
            if self.skipped:
                self._check_skipped(low, largest)
            if sent:
                self._acknowledge(low, largest, largest, 0)
        else:
            ranges = [(low, largest)]
            oldest = sent[0].first if sent else next_number
            while count:
                gap, at = read_varint(plain, at)
                length, at = read_varint(plain, at)
                high = low - gap - 2
                low = high - length
                if high >= oldest:
                    ranges.append((low, high))
                count -= 1
            if low < 0:
                raise QuicError(errors.FRAME_ENCODING_ERROR, errors.ACK, "ACK range below zero")
            index = 0
            for low, high in reversed(ranges):
                if self.skipped:
                    self._check_skipped(low, high)
                index = self._acknowledge(low, high, largest, index)
        if self._sampled:
            self._ack_delay = (delay << delay_exponent) / 1_000_000
        return at

    def _check_skipped(self, low: int, high: int) -> None:
        for number in self.skipped:
            if low <= number <= high:
                raise QuicError(
                    errors.PROTOCOL_VIOLATION, errors.ACK, "ACK of a packet number that was skipped"
                )

    def _acknowledge(self, low: int, high: int, largest: int, index: int) -> int:
        """Remove the records of `low` to `high`, all at `index` or later. Returns the index after them."""
        sent = self.sent
        end = len(sent)
        while index < end and sent[index].last < low:
            index += 1
        stop = index
        while stop < end:
            record = sent[stop]
            if record.first > high:
                break
            if record.first < low:
                sent.insert(stop, record.split(low))
                index = stop = stop + 1
                end += 1
            if record.last > high:
                record = record.split(high + 1)
                self._on_acked(record, largest)
                break
            self._on_acked(record, largest)
            stop += 1
        if stop > index:
            del sent[index:stop]
        return index

    def _on_acked(self, record: Sent, largest: int) -> None:
        packets = record.last + 1 - record.first
        self.outstanding -= packets
        self.news = True
        if record.last == largest:
            self._sample_sent = record.time
            self._sampled = True
        if record.probe:
            self.arrived_probe = record.probe
            return
        size = (packets - 1) * record.size + record.last_size
        if record.size == self.congestion.size:
            self.acked_full = True
        self.acked_bytes += size
        self.congestion.on_acked(record.time, size, packets)
        half = record.half
        if half is not None:
            half.on_acked(record.start, record.stop, record.fin)
            if record.more is not None:
                for other, start, stop, fin in record.more:
                    other.on_acked(start, stop, fin)
        if record.frames is not None:
            self.acked_frames += record.frames
        self.acked_acks = max(self.acked_acks, record.acks)

    def settle(self, now: float, in_use: bool) -> None:  # noqa: FBT001 - the hot path
        """Apply the acknowledgements since the last call (RFC 9002, A.7). `in_use`: the window was used."""
        self.news = False
        if self._sample_sent >= 0:
            self._measure(now, now - self._sample_sent, self._ack_delay)
            self._sample_sent = -1.0
        if self.acked_bytes:
            self.acked_bytes = 0
            self.congestion.on_acks_end(now, in_use)
        sent = self.sent
        if sent and sent[0].first <= self.largest_acked:
            self.detect_loss(now)
        else:
            self.loss_time = -1.0
        self.pto_count = 0
        self._set_rate()
        skipped = self.skipped
        if skipped and skipped[0] < self.largest_acked and (not sent or skipped[0] < sent[0].first):
            del skipped[0]

    def _measure(self, now: float, latest: float, delay: float) -> None:
        """A round trip sample (RFC 9002, 5)."""
        latest = max(latest, SMALLEST_RTT)
        self.rtt_latest = latest
        self.congestion.on_rtt(now, latest)
        if not self.rtt:
            self.first_rtt_at = now
            self.rtt = self.rtt_min = latest
            self.rtt_variance = latest / 2
            return
        self.rtt_min = min(self.rtt_min, latest)
        delay = min(delay, self.max_ack_delay)
        adjusted = latest - delay if latest >= self.rtt_min + delay else latest
        self.rtt_variance = 0.75 * self.rtt_variance + 0.25 * abs(self.rtt - adjusted)
        self.rtt = 0.875 * self.rtt + 0.125 * adjusted

    def _set_rate(self) -> None:
        congestion = self.congestion
        if congestion.pacing_rate > 0:
            self.pacer.set_rate(congestion.pacing_rate)
        elif self.rtt:
            self.pacer.update(congestion.window, self.rtt)

    # -- loss

    def detect_loss(self, now: float) -> None:
        """RFC 9002, 6.1; and when the next one will be."""
        self.loss_time = -1.0
        sent = self.sent
        threshold = self.largest_acked - PACKET_THRESHOLD
        delay = max(
            TIME_THRESHOLD * max(self.rtt, self.rtt_latest) if self.rtt else 2 * INITIAL_RTT, GRANULARITY
        )
        lost: list[Sent] = []
        index = 0
        while index < len(sent):
            record = sent[index]
            if record.first > self.largest_acked:
                break
            old = record.time + delay <= now  # as `loss_time`, to the last bit
            if (old and record.last <= self.largest_acked) or record.last <= threshold:
                lost.append(record)
                index += 1
                continue
            if old or record.first <= threshold:
                # A train across the boundary.
                lost.append(record.split((self.largest_acked if old else threshold) + 1))
            if record.first <= self.largest_acked:
                self.loss_time = record.time + delay
            break
        if index:
            del sent[:index]
        if lost:
            self._on_lost(lost, now)

    def _on_lost(self, lost: list[Sent], now: float) -> None:
        congestion = self.congestion
        newest = -1.0
        began = -1.0
        following = -1
        persistent = False
        duration = PERSISTENT * self.probe_timeout()
        for record in lost:
            packets = record.last + 1 - record.first
            self.outstanding -= packets
            if self.traced:
                self.lost_traced.append((record.first, record.last))
            if record.probe:
                self.failed_probe = record.probe
                continue
            self.lost_packets += packets
            size = (packets - 1) * record.size + record.last_size
            if record.size == congestion.size:
                self.lost_full += packets
            congestion.on_lost(record.time, size)
            newest = record.time
            if record.first != following or began < self.first_rtt_at:
                began = record.time
            following = record.last + 1
            if began > self.first_rtt_at and record.time - began > duration:
                persistent = True
            half = record.half
            if half is not None:
                half.on_lost(record.start, record.stop, record.fin)
                if record.more is not None:
                    for other, start, stop, fin in record.more:
                        other.on_lost(start, stop, fin)
            if record.frames is not None:
                self.lost_frames += record.frames
        if newest >= 0:
            congestion.on_losses_end(now, newest)
            if persistent and self.rtt:
                congestion.on_persistent_congestion()
                self.rtt_min = self.rtt_latest
            self._set_rate()

    # -- timers

    def probe_timeout(self) -> float:
        """One probe time-out in seconds, without backing off."""
        if not self.rtt:
            return 2 * INITIAL_RTT
        return self.rtt + max(4 * self.rtt_variance, GRANULARITY) + self.max_ack_delay

    def probe_at(self) -> float:
        """When `on_timer` is due: a loss or a probe time-out; -1.0 for never."""
        if self.loss_time >= 0:
            return self.loss_time
        if not self.outstanding:
            return -1.0
        return self.last_sent + self.probe_timeout() * (1 << min(self.pto_count, MOST_BACKOFF))

    def on_timer(self, now: float) -> bool:
        """Returns whether a probe is due (RFC 9002, 6.2)."""
        if self.loss_time >= 0:
            if self.loss_time <= now:
                self.detect_loss(now)
            return False
        if not self.outstanding or now < self.probe_at():
            return False
        self.pto_count += 1
        return True

    def restart(self) -> None:
        """The path has changed: round trips and the window are measured anew (RFC 9000, 9.4)."""
        self.rtt = self.rtt_variance = self.rtt_min = self.rtt_latest = 0.0
        self.pto_count = 0
        self.congestion.restart()
        self.pacer.set_rate(0.0)
