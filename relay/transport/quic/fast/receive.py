"""Receiving 1-RTT packets: one pass over the common frames (RFC 9000, 12 and 19).

Owns packet unprotection, the parsing of ACK, STREAM, PADDING, PING and DATAGRAM, and the merging of one drain
of the socket: acknowledgements are applied once, adjacent stream data becomes one event. aioquic handles
resets and connection ids, and a packet's rest from any other frame on. Must never send.
"""

from __future__ import annotations

from typing import Any

from aioquic import tls
from aioquic.buffer import UINT_VAR_MAX, Buffer, BufferReadError  # type: ignore[attr-defined]
from aioquic.quic.connection import (
    NetworkAddress,
    QuicConnectionError,
    QuicConnectionState,
    QuicReceiveContext,
)
from aioquic.quic.events import DatagramFrameReceived, QuicEvent, StreamDataReceived
from aioquic.quic.packet import QuicErrorCode, QuicFrameType, QuicStreamFrame
from aioquic.quic.recovery import MAX_ACK_RANGES
from aioquic.quic.stream import FinalSizeError, StreamFinishedError

from relay.transport.quic.fast.acks import AckConnection
from relay.transport.quic.fast.recovery import SEEN
from relay.transport.quic.fast.streams import FastReceiver, FastStream
from relay.transport.quic.fast.varint import read_varint

LONG_HEADER = 0x80
RESERVED_BITS = 0x18
ACK_DELAY = 0.02  # seconds that an ACK is delayed: below the announced 25 ms, since timers are late
ACK_EVERY = 2  # ack-eliciting packets until an ACK is sent at once (RFC 9000, 13.2.2)
GATHERED = 65536  # most bytes of one stream per event
_ALONE = {
    0x04: "_handle_reset_stream_frame",
    0x05: "_handle_stop_sending_frame",
    0x18: "_handle_new_connection_id_frame",
    0x19: "_handle_retire_connection_id_frame",
}
"""Rare frames in packets with STREAM frames; unrelated to acknowledgements."""

_BITS = (1 << SEEN) - 1


class ReceiveConnection(AckConnection):
    """The receiving side.

    Size: it continues the flat state of `FastBase`, with a handler for each kind of frame.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._gathering: FastStream | None = None  # the stream of the last in-order data
        self._chunks: list[bytes] = []
        self._gathered = 0

    # -- datagrams

    def receive_datagram(self, data: bytes, addr: NetworkAddress, now: float) -> None:
        keys = self._pair.reading
        host_cid = self.host_cid
        start = 1 + len(host_cid)
        if (
            keys is None
            or not self._fast_path
            or data[0] & LONG_HEADER
            or data[1:start] != host_cid
            or self._network_paths[0].addr != addr
        ):
            self._receive_unusual(data, addr, now)
            return
        space = self._space
        expected = space.expected_packet_number
        opened = keys.open(data, start - 1, expected, keys.phase)
        if opened is None:
            return
        number, first, plain = opened
        if plain is None:
            # A key update, or a late packet from before one: the pair tries both.
            self._receive_unusual(data, addr, now)
            return
        seen = space.received_packets
        ahead: int = number - seen.largest  # type: ignore[attr-defined]
        if ahead <= 0 and number in seen:
            return
        if first & RESERVED_BITS:
            self.close(QuicErrorCode.PROTOCOL_VIOLATION, QuicFrameType.PADDING, "Reserved bits must be zero")
            return
        if number >= expected:
            space.expected_packet_number = number + 1
        try:
            eliciting = self._read_frames(plain, now)
        except QuicConnectionError as error:
            self.close(error.error_code, error.frame_type, error.reason_phrase)
            return
        if self._close_event is not None:
            return
        self._close_at = now + self._idle
        self._ack_eliciting_sent_since_receipt = False
        if ahead == 1 and number == self._range_stop:
            seen.bits = (seen.bits << 1 | 1) & _BITS  # type: ignore[attr-defined]
            seen.largest = number  # type: ignore[attr-defined]
            self._range_stop = number + 1
            space.largest_received_packet = number
            space.largest_received_time = now
            if not eliciting:
                return
            self._unacked += 1
            if self._unacked >= ACK_EVERY:
                space.ack_at = now
            elif space.ack_at is None:
                space.ack_at = now + ACK_DELAY
        else:
            seen.add(number)
            self._record_out_of_order(number, now)
            if eliciting:
                self._unacked += 1
                space.ack_at = now

    def receive_train(self, buffer: memoryview, each: int, addr: NetworkAddress, now: float) -> int:
        """Receive one stream's train of `each` bytes, the last maybe fewer. Returns how many, 0 for none."""
        keys = self._pair.reading
        if keys is None or not self._fast_path or self._close_event is not None:
            return 0
        space = self._space
        seen = space.received_packets
        expected = space.expected_packet_number
        if (
            expected != self._range_stop
            or expected != seen.largest + 1  # type: ignore[attr-defined]
            or self._network_paths[0].addr != addr
        ):
            return 0
        taken = keys.take(buffer, each, self.host_cid, expected, keys.phase)
        if taken is None:
            return 0
        count, kind, stream_id, offset, data, fin = taken
        following = expected + count
        space.expected_packet_number = following
        try:
            self._on_stream(kind, stream_id, offset, data, fin=fin)
        except QuicConnectionError as error:
            self.close(error.error_code, error.frame_type, error.reason_phrase)
            return count
        self._close_at = now + self._idle
        self._ack_eliciting_sent_since_receipt = False
        seen.bits = ((seen.bits + 1 << count) - 1) & _BITS  # type: ignore[attr-defined]
        seen.largest = space.largest_received_packet = following - 1  # type: ignore[attr-defined]
        self._range_stop = following
        space.largest_received_time = now
        self._unacked += count
        if self._unacked >= ACK_EVERY:
            space.ack_at = now
        elif space.ack_at is None:
            space.ack_at = now + ACK_DELAY
        return count

    def _receive_unusual(self, data: bytes, addr: NetworkAddress, now: float) -> None:
        """Hand a datagram to aioquic, after everything that came before it."""
        self.finish_receiving(now)
        self._leave_fast_path()
        super().receive_datagram(data, addr, now)

    def _record_out_of_order(self, number: int, now: float) -> None:
        """Record a packet that does not follow the one before."""
        space = self._space
        queue = space.ack_queue
        self._store_range()
        if number > space.largest_received_packet:
            space.largest_received_packet = number
            space.largest_received_time = now
        queue.add(number)
        if len(queue) > MAX_ACK_RANGES:
            queue.shift()
        self._load_range()

    def finish_receiving(self, now: float) -> None:
        """The socket is drained: apply what was gathered."""
        if self._gathering is not None:
            self._pass_on()
        self._settle(now)
        if self._ended:
            self._discard_sent()

    def next_event(self) -> QuicEvent | None:
        if self._gathering is not None:
            self._pass_on()
        if not self._events:
            return None
        return super().next_event()

    # -- frames

    def _read_frames(self, plain: bytes, now: float) -> bool:
        """Handle the frames of a packet. Returns whether it is ack-eliciting. Raises QuicConnectionError."""
        at = 0
        end = len(plain)
        if not end:
            raise QuicConnectionError(
                QuicErrorCode.PROTOCOL_VIOLATION, QuicFrameType.PADDING, "Packet contains no frames"
            )
        eliciting = False
        kind = 0
        try:
            while at < end:
                kind = plain[at]
                if kind & 0xF8 == 0x08:
                    eliciting = True
                    at = self._read_stream(plain, at, end)
                elif kind == 0x02:
                    at = self._read_ack(plain, at + 1, now)
                elif kind == 0x00:
                    at = end - len(plain[at:].lstrip(b"\0"))
                elif kind == 0x01:
                    eliciting = True  # a PING asks for an ACK: answer at once instead of setting a timer
                    self._unacked = ACK_EVERY
                    at += 1
                elif kind & 0xFE == 0x30:
                    eliciting = True
                    at = self._read_datagram(plain, at, end)
                elif kind in _ALONE:
                    eliciting = True
                    at = self._read_alone(plain, at, now)
                else:
                    return self._read_rest(plain[at:], now) or eliciting
        except IndexError:
            raise QuicConnectionError(
                QuicErrorCode.FRAME_ENCODING_ERROR, kind, "Failed to parse frame"
            ) from None
        return eliciting

    def _read_alone(self, plain: bytes, at: int, now: float) -> int:
        """Let aioquic handle one frame among ours."""
        if self._gathering is not None:
            self._pass_on()
        self._aioquic_due = True
        kind = plain[at]
        buf = Buffer(data=plain[at + 1 :])
        try:
            getattr(self, _ALONE[kind])(self._context(now), kind, buf)
        except BufferReadError:
            raise IndexError from None
        except StreamFinishedError:
            pass  # nothing is left of the stream
        return at + 1 + buf.tell()

    def _context(self, now: float) -> QuicReceiveContext:
        return QuicReceiveContext(
            epoch=tls.Epoch.ONE_RTT,
            host_cid=self.host_cid,
            network_path=self._network_paths[0],
            quic_logger_frames=None,
            time=now,
            version=None,
        )

    def _read_rest(self, plain: bytes, now: float) -> bool:
        """Let aioquic handle the remaining frames; it may have something to send afterwards."""
        if self._gathering is not None:
            self._pass_on()
        self._settle(now)
        self._store_range()
        self._split_trains()
        self._aioquic_due = True
        try:
            eliciting, _ = self._payload_received(self._context(now), plain)
        finally:
            self._load_range()
        if self._state is not QuicConnectionState.CONNECTED:
            self._leave_fast_path()
        return eliciting

    def _read_stream(self, plain: bytes, at: int, end: int) -> int:
        """STREAM (RFC 9000, 19.8)."""
        kind = plain[at]
        at += 1
        stream_id = plain[at]
        if stream_id < 0x40:
            at += 1
        else:
            stream_id, at = read_varint(plain, at)
        offset = 0
        if kind & 4:
            offset, at = read_varint(plain, at)
        if kind & 2:
            length, at = read_varint(plain, at)
            stop = at + length
            if stop > end:
                raise IndexError
        else:
            stop = end
            length = end - at
        self._on_stream(kind, stream_id, offset, plain[at:stop], fin=bool(kind & 1))
        return stop

    def _on_stream(self, kind: int, stream_id: int, offset: int, data: bytes, *, fin: bool) -> None:
        """Handle stream data, in order or not. `kind` is the frame type. Raises QuicConnectionError."""
        length = len(data)
        final = offset + length
        stream = self._streams.get(stream_id)
        if stream is None or not stream.max_stream_data_local:
            if final > UINT_VAR_MAX:
                raise QuicConnectionError(
                    QuicErrorCode.FRAME_ENCODING_ERROR, kind, "offset + length cannot exceed 2^62 - 1"
                )
            self._assert_stream_can_receive(kind, stream_id)
            try:
                stream = self._get_or_create_stream(kind, stream_id)
            except StreamFinishedError:
                return
        if final > stream.max_stream_data_local:
            raise QuicConnectionError(QuicErrorCode.FLOW_CONTROL_ERROR, kind, "Over stream data limit")
        receiver = stream.receiver
        assert isinstance(receiver, FastReceiver)
        window = self._receive_window
        fresh = final - receiver.highest_offset
        if fresh > 0 and window.used + fresh > window._value:
            raise QuicConnectionError(QuicErrorCode.FLOW_CONTROL_ERROR, kind, "Over connection data limit")
        if (
            offset == receiver._buffer_start == receiver.highest_offset
            and receiver._final_size is None
            and not receiver.is_finished
        ):
            # In order, with an empty reorder buffer: pass the data on as it is.
            receiver.highest_offset = receiver._buffer_start = final
            if self._gathering is not stream or self._gathered > GATHERED:
                if self._gathering is not None:
                    self._pass_on()
                self._gathering = stream
            self._chunks.append(data)
            self._gathered += length
            if fin:
                receiver._final_size = final
                receiver.is_finished = True
                self._pass_on()
                self._ended.append(stream)
        else:
            if self._gathering is not None:
                self._pass_on()
            try:
                event = receiver.handle_frame(QuicStreamFrame(data=data, offset=offset, fin=fin))
            except FinalSizeError as error:
                raise QuicConnectionError(QuicErrorCode.FINAL_SIZE_ERROR, kind, str(error)) from error
            if event is not None:
                self._events.append(event)
            self._count_fragments(receiver, kind)
        if fresh > 0:
            window.used += fresh

    def _pass_on(self) -> None:
        """Emit one event for adjacent data of one stream."""
        stream = self._gathering
        assert stream is not None
        chunks = self._chunks
        receiver = stream.receiver
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        self._gathering = None
        self._gathered = 0
        if data or receiver.is_finished:
            self._events.append(
                StreamDataReceived(data=data, end_stream=receiver.is_finished, stream_id=stream.stream_id)
            )
            self._check_window(stream)

    def _check_window(self, stream: FastStream) -> None:
        """Request MAX_STREAM_DATA in time; its value is determined when it is written."""
        receiver = stream.receiver
        left = stream.max_stream_data_local - receiver.starting_offset()
        if left < self._stream_window // 2 and not receiver.is_finished:
            self._control_streams[stream] = None

    def _read_datagram(self, plain: bytes, at: int, end: int) -> int:
        """DATAGRAM (RFC 9221, 4)."""
        kind = plain[at]
        begin = at = at + 1
        stop = end
        if kind & 1:
            length, at = read_varint(plain, at)
            stop = at + length
            if stop > end:
                raise IndexError
        limit = self._configuration.max_datagram_frame_size
        if limit is None or stop - begin >= limit:
            raise QuicConnectionError(QuicErrorCode.PROTOCOL_VIOLATION, kind, "Unexpected DATAGRAM frame")
        if self._gathering is not None:
            self._pass_on()
        self._events.append(DatagramFrameReceived(data=plain[at:stop]))
        return stop
