"""Received packet numbers, and the ACK frames about them (RFC 9000, 13.2 and 19.3)."""

from __future__ import annotations

from typing import Final

from relay.quic.ranges import Ranges
from relay.quic.varint import varint

ACK_DELAY: Final = 0.02  # seconds that an ACK may wait: below the announced 25 ms, since timers are late
ACK_EVERY: Final = 2  # ack-eliciting packets until an ACK (RFC 9000, 13.2.2)
MOST_EVERY: Final = 1_000  # if the peer asks for fewer ACKs
DELAY_EXPONENT: Final = 3  # as announced
MOST_RANGES: Final = 32  # kept, and in a frame; packets below them count as received


class ReceivedPackets:
    """Received packets of the 1-RTT number space. The newest range is apart: it grows with every packet."""

    __slots__ = (
        *("ack_at", "delay", "every", "floor", "largest_at", "older", "request", "start", "stop", "unacked"),
    )

    def __init__(self) -> None:
        self.start = 0  # the newest range; empty at first
        self.stop = 0
        self.older = Ranges()
        self.floor = 0  # everything below was received or given up
        self.largest_at = 0.0  # arrival of the largest number
        self.unacked = 0  # ack-eliciting packets since our last ACK
        self.ack_at = -1.0  # -1.0 for none
        self.every = ACK_EVERY
        self.delay = ACK_DELAY
        self.request = -1  # of the peer's last ACK_FREQUENCY

    def ask(self, number: int, every: int, delay: float) -> None:
        """ACK_FREQUENCY: one ACK for `every` packets, or after `delay` seconds."""
        if number > self.request:
            self.request = number
            self.every = max(1, min(every, MOST_EVERY))
            self.delay = min(delay, ACK_DELAY)

    def is_duplicate(self, number: int) -> bool:
        if number >= self.stop:
            return False
        return number >= self.start or number < self.floor or number in self.older

    def add(self, number: int, now: float, eliciting: bool) -> None:  # noqa: FBT001 - the hot path
        """A packet that is no duplicate."""
        if number == self.stop:
            self.stop = number + 1
            self.largest_at = now
            if eliciting:
                self.unacked += 1
                if self.unacked >= self.every:
                    self.ack_at = now
                elif self.ack_at < 0:
                    self.ack_at = now + self.delay
            return
        older = self.older
        if number > self.stop:
            if self.stop > self.start:
                older.add(self.start, self.stop)
            self.start = number
            self.stop = number + 1
            self.largest_at = now
        else:
            older.add(number, number + 1)
            if older.stops[-1] == self.start:
                self.start = older.starts.pop()
                older.stops.pop()
        if len(older) > MOST_RANGES:
            self.floor = older.shift()
        if eliciting:
            self.unacked += 1
            self.ack_at = now  # a gap: the sender should know at once

    def add_train(self, count: int, now: float) -> None:
        """`count` ack-eliciting packets that continue the newest range."""
        self.stop += count
        self.largest_at = now
        self.unacked += count
        if self.unacked >= self.every:
            self.ack_at = now
        elif self.ack_at < 0:
            self.ack_at = now + self.delay

    def frame(self, now: float) -> bytes:
        """An ACK of everything not yet forgotten."""
        self.ack_at = -1.0
        self.unacked = 0
        largest, start = self.stop - 1, self.start
        starts, stops = self.older.starts, self.older.stops
        count = len(starts)
        delay = int((now - self.largest_at) * 1_000_000) >> DELAY_EXPONENT
        start = min(start, largest)  # empty if the peer knows that all is acknowledged
        if not count:
            return b"".join((b"\x02", varint(largest), varint(delay), b"\x00", varint(largest - start)))
        parts = [b"\x02", varint(largest), varint(delay), varint(count), varint(largest - start)]
        for index in range(count - 1, -1, -1):
            parts.append(varint(start - stops[index] - 1))
            start = starts[index]
            parts.append(varint(stops[index] - start - 1))
        return b"".join(parts)

    def forget(self, highest: int) -> None:
        """The peer has our ACK up to `highest`: need not be acknowledged again (RFC 9000, 13.2.4)."""
        number = highest + 1
        if number <= self.floor:
            return
        self.floor = number
        if self.start < number:
            self.start = min(number, self.stop)
        self.older.remove_below(number)
