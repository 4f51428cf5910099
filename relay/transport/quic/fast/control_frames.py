"""Control frames of connections in use (RFC 9000, 19); aioquic writes rare ones. Must never build packets."""

from __future__ import annotations

from typing import Any

from aioquic.quic.packet import QuicFrameType
from aioquic.quic.packet_builder import QuicDeliveryState

from relay.transport.quic.fast.base import ControlFrame, FastBase
from relay.transport.quic.fast.streams import FastReceiver, FastStream
from relay.transport.quic.fast.varint import varint

ACK_RANGES = 32  # ranges in an ACK frame; earlier frames held the older ones
ACK_FREQUENCY = 0xAF  # frame type of draft-ietf-quic-ack-frequency
FEWEST_PER_ACK = 2

MOST_PER_ACK = 32  # bounds of the requested ack-eliciting packets per acknowledgement


class ControlFrameConnection(FastBase):
    """Writes control frames."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._asked_per_ack = 0  # packets per acknowledgement last requested
        self._ack_frequency_sequence = 0
        self._blocked_at = -1  # the MAX_DATA value of our last DATA_BLOCKED

    def _collect_frames(self) -> None:
        """Build the frames due besides STREAM data."""
        frames = self._frames
        window = self._receive_window
        if window.sent != window.value:
            window.sent = window.value
            frames.append(self._limit_frame(window))
        if self._limits_due:
            self._limits_due = False
            for limit in (self._local_max_streams_bidi, self._local_max_streams_uni):
                # Wait until the peer has fewer streams left than the new grant: fewer frames.
                if limit.value != limit.sent and limit.sent - limit.used < limit.value - limit.sent:
                    limit.sent = limit.value
                    frames.append(self._limit_frame(limit))
        if self._control_streams:
            for stream in self._control_streams:
                self._collect_stream_control(stream)
            self._control_streams.clear()
        if self._probe_pending or self._ping_pending:
            frames.append((b"\x01", self._on_ping_delivery, (tuple(self._ping_pending),)))
            self._ping_pending.clear()
            self._probe_pending = False
        if self._frequency_due:
            self._frequency_due = False
            self._collect_ack_frequency()

    def _limit_frame(self, limit: Any) -> ControlFrame:
        data = varint(limit.frame_type) + varint(limit.value)
        return data, self._on_connection_limit_delivery, (limit,)

    def _collect_stream_control(self, stream: FastStream) -> None:
        frames = self._frames
        number = varint(stream.stream_id)
        receiver, sender = stream.receiver, stream.sender
        if isinstance(receiver, FastReceiver):
            if receiver.stop_pending:
                stop = receiver.get_stop_frame()
                data = b"\x05" + number + varint(stop.error_code)
                frames.append((data, receiver.on_stop_sending_delivery, ()))
            limit = self._next_stream_limit(stream)
            if limit is not None:
                frames.append(
                    (b"\x11" + number + varint(limit), self._on_max_stream_data_delivery, (stream,))
                )
        if sender.reset_pending:
            reset = sender.get_reset_frame()
            data = b"\x04" + number + varint(reset.error_code) + varint(reset.final_size)
            frames.append((data, sender.on_reset_delivery, ()))

    def _collect_ack_frequency(self) -> None:
        """Request fewer ACKs, several per window for its growth, at the announced delay: the PTO stays."""
        window = self._loss.congestion_window
        wanted = min(max(window // self._max_datagram_size // 3, FEWEST_PER_ACK), MOST_PER_ACK)
        self._asked_window = window
        if wanted == self._asked_per_ack:
            return
        self._asked_per_ack = wanted
        data = b"".join(
            (
                varint(ACK_FREQUENCY),
                varint(self._ack_frequency_sequence),
                varint(wanted - 1),
                varint(int(self._loss.max_ack_delay * 1_000_000)),
                varint(1),  # out-of-order packets are acknowledged at once, as always
            )
        )
        self._frames.append((data, self._on_ack_frequency_delivery, (self._ack_frequency_sequence,)))
        self._ack_frequency_sequence += 1

    def _on_ack_frequency_delivery(self, delivery: QuicDeliveryState, sequence: int) -> None:
        if delivery.name == "LOST" and sequence == self._ack_frequency_sequence - 1:
            self._asked_per_ack = 0
            self._frequency_due = True

    def _ack_frame(self, now: float) -> bytes:
        """ACK (RFC 9000, 19.3) of the newest ranges."""
        space = self._space
        stop = self._range_stop
        start = self._range_start
        delay = (
            int((now - (space.largest_received_time or now)) * 1_000_000) >> self._local_ack_delay_exponent
        )
        queue = space.ack_queue
        count = len(queue)
        if not count:
            return b"".join((b"\x02", varint(stop - 1), varint(delay), b"\x00", varint(stop - 1 - start)))
        older = list(queue)[: -ACK_RANGES - 1 : -1]
        if stop <= start:  # the newest range was acknowledged; something older is not
            newest = older.pop(0)
            start, stop = newest.start, newest.stop
        parts = [b"\x02", varint(stop - 1), varint(delay), varint(len(older)), varint(stop - 1 - start)]
        for each in older:
            parts += (varint(start - each.stop - 1), varint(each.stop - each.start - 1))
            start = each.start
        return b"".join(parts)

    def _add_blocked_frame(self, stream: FastStream, allowed: int) -> None:
        """DATA_BLOCKED or STREAM_DATA_BLOCKED (RFC 9000, 4.1), once per limit; not repeated if lost."""
        if allowed == stream.max_stream_data_remote:
            if stream.blocked_at != allowed:
                stream.blocked_at = allowed
                self._frames.append((b"\x15" + varint(stream.stream_id) + varint(allowed), None, ()))
        elif self._blocked_at != self._remote_max_data:
            self._blocked_at = self._remote_max_data
            self._frames.append(
                (varint(QuicFrameType.DATA_BLOCKED) + varint(self._remote_max_data), None, ())
            )
