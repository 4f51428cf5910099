"""`FastConnection`: an aioquic connection with a fast path for ordinary 1-RTT packets.

Owns timers and the peer's transport parameters, joins both sides. Never patches aioquic, its base class.
"""

from __future__ import annotations

from typing import Any

from aioquic.quic.connection import QuicConnectionError
from aioquic.quic.packet import QuicErrorCode, QuicFrameType

from relay.transport.quic.fast.receive import ReceiveConnection
from relay.transport.quic.fast.send import SendConnection
from relay.transport.quic.fast.varint import read_varint

MIN_ACK_DELAY = 0xFF04DE1B  # of draft-ietf-quic-ack-frequency, in microseconds: the peer takes ACK_FREQUENCY
MAX_UDP_PAYLOAD_SIZE = 0x03  # transport parameter: the largest datagram that the peer takes (RFC 9000, 18.2)
BLACK_HOLE_PROBES = 3  # consecutive probe time-outs after which packets may be too large for the path


class FastConnection(ReceiveConnection, SendConnection):
    """A connection with the fast path."""

    def has_reason_to_send(self, now: float) -> bool:  # noqa: ARG002 - as the original
        # Otherwise the timer stays as it is: acknowledgements only move it back.
        return bool(
            self._aioquic_due
            or self._space.ack_at is not None
            or self._active
            or self._control_streams
            or self._frames
            or self._ended
            or self._datagrams_pending
            or self._ping_pending
            or self._probe_pending
            or self._limits_due
            or self._space.loss_time is not None
            or self._receive_window.sent != self._receive_window._value
        )

    def waits(self) -> bool:
        return not self._fast_path or self._space.ack_at is not None or self._pacing_at is not None

    def deadline(self) -> float | None:
        at = self._close_at
        if not self._fast_path or at is None:
            return self.get_timer()
        ack_at, pacing_at = self._space.ack_at, self._pacing_at
        if ack_at is not None and ack_at < at:
            at = ack_at
        if pacing_at is not None and pacing_at < at:
            at = pacing_at
        return at

    def probe_at(self) -> float | None:
        if not self._fast_path:
            return None
        space = self._space
        due = space.loss_time
        if due is None and space.ack_eliciting_in_flight:
            loss = self._loss
            timeout = 2 * loss._rtt_initial
            if loss._rtt_initialized:
                timeout = loss._rtt_smoothed + max(4 * loss._rtt_variance, 0.001) + loss.max_ack_delay
            due = loss._time_of_last_sent_ack_eliciting_packet + timeout * (1 << loss._pto_count)
        self._loss_at = due
        return due

    def get_timer(self) -> float | None:
        if not self._fast_path or self._close_at is None:
            return super().get_timer()
        at, due = self.deadline(), self.probe_at()
        return due if at is None or (due is not None and due < at) else at

    def handle_timer(self, now: float) -> None:
        if self._trains and (self._loss_at is None or self._loss_at <= now):
            self._split_trains()
        super().handle_timer(now)
        if self._loss._pto_count >= BLACK_HOLE_PROBES and self._mtu.black_hole(now):
            self._resize()

    def _parse_transport_parameters(self, data: bytes, *args: Any, **options: Any) -> None:
        super()._parse_transport_parameters(data, *args, **options)
        # aioquic drops unknown parameters. The list is well-formed, or aioquic would have raised.
        at = 0
        while at < len(data):
            name, at = read_varint(data, at)
            length, at = read_varint(data, at)
            if name == MIN_ACK_DELAY:
                self._min_ack_delay = self._read_min_ack_delay(data[at : at + length])
            elif name == MAX_UDP_PAYLOAD_SIZE:
                self._mtu.limit(read_varint(data, at)[0])
            at += length

    def _read_min_ack_delay(self, data: bytes) -> float:
        """Seconds. Raises QuicConnectionError if it is not a number, or above the peer's max_ack_delay."""
        try:
            value, end = read_varint(data, 0)
        except IndexError:
            value, end = 0, -1
        if end != len(data) or value > self._loss.max_ack_delay * 1_000_000:
            raise QuicConnectionError(
                QuicErrorCode.TRANSPORT_PARAMETER_ERROR,
                QuicFrameType.CRYPTO,
                "min_ack_delay must be a number of microseconds, not above max_ack_delay",
            )
        return value / 1_000_000


class PureConnection(FastConnection):
    """The same without the compiled kernel."""

    native = False
