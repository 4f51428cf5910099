"""Sending 1-RTT packets: a burst in one loop, mostly trains of full packets sealed by one call.

Owns a burst's order (ACK, control frames, datagrams, streams strictly by urgency), limits (congestion window,
pacing, flow control) and records. All packets but the last are full: the kernel can segment one buffer. Must
never receive. RFC 9000, 12 to 14 and 19.
"""

from __future__ import annotations

from typing import Any

from aioquic.quic.connection import NetworkAddress
from aioquic.quic.packet_builder import QuicDeliveryState

from relay.transport.quic import offload
from relay.transport.quic.compat import Burst
from relay.transport.quic.fast.control_frames import ControlFrameConnection
from relay.transport.quic.fast.keys import PACKETS_PER_KEY, TAG, PacketKeys
from relay.transport.quic.fast.recovery import AckedPackets, MtuProbe, SentPacket, Train
from relay.transport.quic.fast.streams import FastStream
from relay.transport.quic.fast.varint import varint

FIXED_BIT = 0x40

SHORT_NUMBER = 2
LONG_NUMBER = 4
NUMBER_SPAN = 1 << 14  # outstanding packets that make 2-byte numbers ambiguous: half of RFC 9000, 17.1
SMALLEST_ROOM = 24  # room in a packet below which another STREAM frame is not worth its header
SMALLEST_PAYLOAD = 3  # least payload for the header protection sample, whatever the packet number length
FLIGHT = 256  # most packets per burst: other connections want their turn
TRAIN_END = 1 << 30  # largest offset of trains, of 4 bytes; data beyond is sent packet by packet
TRAIN_HEAD = 1 + 4  # bytes of a train's STREAM frame header without the stream id
ACK_OF_ACK = 8  # an ACK of ranges is ack-eliciting once per so many packets, so that they can be forgotten


class SendConnection(ControlFrameConnection):
    """The sending side."""

    # -- bursts

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, NetworkAddress]]:
        return [
            (buffer[start : start + size], address)
            for buffers, size, address in self.bursts(now)
            for buffer in buffers
            for start in range(0, len(buffer), size)
        ]

    def bursts(self, now: float) -> list[Burst]:
        if self._ended:
            self._discard_ended()
        bursts: list[Burst] = []
        if self._aioquic_due:
            self._review()
            if self._aioquic_due:
                bursts = super().bursts(now)
                self._review()
        if self._fast_path:
            address = self._network_paths[0].addr
            buffers = self._write(now)
            if buffers:
                bursts.append((buffers, self._max_datagram_size, address))
                if len(buffers[0]) >= self._max_datagram_size and (size := self._mtu.wanted(now)):
                    bursts.append(([self._write_probe(size, now)], size, address))
        if self._bbr is not None:
            self._notify_idle()
        return bursts

    def _write(self, now: float) -> list[bytes]:
        """One burst as buffers of packets; empty if nothing can be sent."""
        space = self._space
        cc = self._loss._cc
        pacer: Any = self._loss._pacer
        self._pacing_at = None
        probe = self._probe_pending
        ack = space.ack_at is not None
        window = self._receive_window
        if ack and not self._frames and self._packet_number % ACK_OF_ACK == 0 and len(space.ack_queue):
            self._frames.append((b"\x01", None, ()))
        says = (
            self._control_streams
            or self._ping_pending
            or probe
            or self._limits_due
            or window.sent != window._value
            or self._frequency_due
        )
        wants = says or self._active or self._frames or self._datagrams_pending
        budget = 0
        if wants:
            size = self._max_datagram_size
            budget = cc.congestion_window - cc.bytes_in_flight
            if probe:
                budget = max(budget, size)  # a probe may exceed the window (RFC 9002, 7.5)
            elif pacer.rate and budget >= size:
                tokens = pacer.fill(now)
                if tokens <= 0:
                    self._pacing_at = pacer.next_send_time(now)
                    budget = 0
                elif tokens + size < budget:
                    budget = int(tokens) + size
            if budget < size:
                budget = 0
        if not budget and not (ack and space.ack_at <= now):  # type: ignore[operator]
            return []
        if budget and says:
            self._collect_frames()
        number = self._packet_number
        buffers = self._write_packets(now, budget, ack=ack)
        if self._active and cc.congestion_window - cc.bytes_in_flight >= self._max_datagram_size:
            # Neither window nor lack of data ended the burst: the pacer is due, unless flow control did.
            full = self._packet_number - number >= FLIGHT
            self._pacing_at = now if full else pacer.next_send_time(now)
        return buffers

    # -- packets

    def _write_packets(self, now: float, budget: int, *, ack: bool) -> list[bytes]:
        space = self._space
        sent = space.sent_packets
        keys = self._pair.sending_keys(self._packet_number)
        cid = self._peer_cid.cid
        first_number = number = self._packet_number
        size = LONG_NUMBER if number - space.largest_acked_packet > NUMBER_SPAN else SHORT_NUMBER
        flags = FIXED_BIT | keys.phase << 2 | size - 1
        overhead = 1 + len(cid) + size + TAG
        largest = self._max_datagram_size
        full = largest - overhead
        frames = self._frames
        datagrams = self._datagrams_pending
        active = self._active
        turn = len(active) - 1
        buffers: list[bytes] = []
        charged = 0
        eliciting = 0
        acked = -1
        end = number + FLIGHT
        while number < end:
            if turn >= 0 and not ack and not frames and not datagrams and budget >= largest:
                most = min(
                    budget // largest, end - number, offload.MAX_SEGMENTS, offload.MAX_BYTES // largest
                )
                packets = self._write_train(active[turn], most, number, now, keys, size, flags, cid, turn)
                if packets:
                    buffers.append(packets)
                    count = self._trains[-1].last + 1 - number
                    number += count
                    eliciting += count
                    charged += len(packets)
                    budget -= len(packets)
                    if not active[turn].sending:
                        del active[turn]
                        turn -= 1
                    continue
            room = full
            parts: list[bytes] = []
            record: SentPacket | None = None
            if ack:
                ack = False
                frame = self._ack_frame(now)
                space.ack_at = None
                self._unacked = 0
                acked = space.largest_received_packet
                parts.append(frame)
                room -= len(frame)
            if budget >= largest:
                while frames and len(frames[0][0]) <= room:
                    frame, handler, arguments = frames.popleft()
                    parts.append(frame)
                    room -= len(frame)
                    if record is None:
                        record = SentPacket(number, now)
                    if handler is not None:
                        if record.handlers is None:
                            record.handlers = []
                        record.handlers.append((handler, arguments))
                while datagrams and len(datagrams[0]) + 3 > full:
                    datagrams.popleft()  # fits only beside a shorter packet number
                while datagrams and len(datagrams[0]) + 3 <= room:
                    data = datagrams.popleft()
                    parts += (b"\x31", varint(len(data)), data)
                    room -= len(data) + (2 if len(data) < 0x40 else 3)
                    if record is None:
                        record = SentPacket(number, now)
                while turn >= 0 and room > SMALLEST_ROOM:
                    stream = active[turn]
                    sender = stream.sender
                    fresh = sender.highest_offset
                    prefix = varint(stream.stream_id)
                    offset = sender.lost[0][0] if sender.lost else fresh
                    position = varint(offset) if offset else b""
                    space_left = room - 1 - len(prefix) - len(position)
                    allowed = fresh + self._remote_max_data - self._remote_max_data_used
                    allowed = min(allowed, stream.max_stream_data_remote)
                    taken = None if stream.is_blocked else sender.take(space_left, allowed)
                    if taken is None:
                        # Blocked by flow control, or finished.
                        if sender.buffer_is_empty:
                            del active[turn]
                            stream.sending = False
                        elif not stream.is_blocked and allowed <= fresh:
                            self._add_blocked_frame(stream, allowed)
                        turn -= 1
                        continue
                    start, stop, data, fin = taken
                    self._remote_max_data_used += sender.highest_offset - fresh
                    if sender.buffer_is_empty:
                        del active[turn]
                        stream.sending = False
                        turn -= 1
                    kind = 0x08 | (4 if offset else 0) | fin
                    length = stop - start
                    if length >= space_left - 1 or turn < 0:
                        # The last frame needs no length: it extends to the end of the packet.
                        parts += (_KINDS[kind], prefix, position, data)
                        room = 0
                    else:
                        if length > space_left - 2:
                            raise AssertionError
                        parts += (_KINDS[kind | 2], prefix, position, varint(length), data)
                        room = space_left - length - (1 if length < 0x40 else 2)
                    if record is None:
                        record = SentPacket(number, now)
                    if record.sender is None:
                        record.sender = sender
                        record.start = start
                        record.stop = stop
                        record.fin = fin
                    else:
                        if record.more is None:
                            record.more = []
                        record.more.append((sender, start, stop, fin))
            if not parts:
                break
            plain = b"".join(parts)
            if len(plain) < SMALLEST_PAYLOAD:
                # In front: a STREAM frame without length would include it.
                plain = bytes(SMALLEST_PAYLOAD - len(plain)) + plain
            packet = keys.one(number, size, flags, cid, plain)
            buffers.append(packet)
            if record is not None:
                record.sent_bytes = len(packet)
                if acked >= 0:
                    record.acks = acked
                    acked = -1
                sent[number] = record  # type: ignore[assignment]
                eliciting += 1
                charged += len(packet)
                budget -= len(packet)
            number += 1
        if number == first_number:
            return []
        self._packet_number = number
        keys.used += number - first_number
        if keys.used > PACKETS_PER_KEY:
            self._pair.update_key()
            keys.used = 0
        if eliciting:
            self._charge(now, charged, eliciting)
        return buffers

    def _write_train(
        self,
        stream: FastStream,
        most: int,
        number: int,
        now: float,
        keys: PacketKeys,
        number_size: int,
        flags: int,
        cid: bytes,
        turn: int,
    ) -> bytes:
        """Seal at most so many packets of new bytes of one stream, joined. The hottest loop.

        All are full but the one that takes the last bytes of the last stream (`turn` is 0).
        """
        sender = stream.sender
        start = sender.highest_offset
        final = min(
            sender._buffer_stop,
            stream.max_stream_data_remote,
            start + self._remote_max_data - self._remote_max_data_used,
        )
        if final <= start or final >= TRAIN_END or sender.lost or stream.is_blocked:
            return b""
        prefix = varint(stream.stream_id)
        largest = self._max_datagram_size
        step = largest - len(cid) - number_size - len(prefix) - (1 + TRAIN_HEAD + TAG)
        count = min((final - start) // step, most)
        stop = start + count * step
        last = final == sender._buffer_stop
        if stop < final and count < most and last and not turn:
            stop = final
            count += 1
        if not count:
            return b""
        fin = stop == sender.fin_at
        packets, sender.cursor = keys.run(
            number,
            number_size,
            flags,
            cid,
            prefix,
            sender.chunks,
            sender.ends,
            sender.cursor,
            start,
            stop,
            step,
            fin,
        )
        if fin:
            sender.fin_pending = False
        if last and stop == final:
            stream.sending = False
        sender.highest_offset = stop
        self._remote_max_data_used += stop - start
        self._trains.append(Train(number, number + count - 1, now, sender, start, stop, step, largest, fin))
        return packets

    def _write_probe(self, size: int, now: float) -> bytes:
        """An MTU probe (RFC 9000, 14.4)."""
        number = self._packet_number
        self._packet_number = number + 1
        keys = self._pair.sending_keys(number)
        keys.used += 1
        cid = self._peer_cid.cid
        flags = FIXED_BIT | keys.phase << 2 | LONG_NUMBER - 1
        record = MtuProbe(number, now)
        record.sent_bytes = size
        record.handlers = [(self._on_probe_delivery, (size, now))]
        self._space.sent_packets[number] = record  # type: ignore[assignment]
        self._space.ack_eliciting_in_flight += 1
        self._mtu.probed(now)
        return keys.one(
            number, LONG_NUMBER, flags, cid, b"\x01".ljust(size - 1 - len(cid) - LONG_NUMBER - TAG, b"\0")
        )

    def _on_probe_delivery(self, delivery: QuicDeliveryState, size: int, now: float) -> None:
        if delivery is QuicDeliveryState.ACKED:
            self._mtu.arrived(size, now)
            self._resize()
        else:
            self._mtu.failed(now)

    def _charge(self, now: float, charged: int, eliciting: int) -> None:
        """Record a burst (RFC 9002, A.5)."""
        loss = self._loss
        self._space.ack_eliciting_in_flight += eliciting
        loss._time_of_last_sent_ack_eliciting_packet = now
        loss._cc.on_packet_sent(packet=AckedPackets(charged, now))  # type: ignore[arg-type]
        loss._pacer.tokens -= charged  # type: ignore[attr-defined]
        if not self._ack_eliciting_sent_since_receipt:
            self._close_at = now + self._idle
            self._ack_eliciting_sent_since_receipt = True


_KINDS = [bytes((kind,)) for kind in range(0x100)]
