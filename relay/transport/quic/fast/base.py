"""State shared by both packet loops, and the bridge to aioquic's own methods.

Owns the streams, the ranges of received packets, and the choice of path (`_review`): the fast path once the
handshake is confirmed and the network path validated, aioquic before and for unusual frames. Must never parse
or build a packet.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from typing import Any

from aioquic import tls
from aioquic.quic.connection import Limit, NetworkAddress, QuicConnectionError, QuicConnectionState
from aioquic.quic.events import ConnectionIdIssued
from aioquic.quic.packet import QuicErrorCode
from aioquic.quic.packet_builder import QuicDeliveryState
from aioquic.quic.recovery import QuicPacketSpace
from aioquic.quic.stream import StreamFinishedError

from relay.transport.quic.fast.keys import FastPair
from relay.transport.quic.fast.mtu import PathMtu
from relay.transport.quic.fast.recovery import Pacer, ReceivedPackets, Train
from relay.transport.quic.fast.start import ServerStart
from relay.transport.quic.fast.streams import NO_RECEIVER, NO_SENDER, FastStream
from relay.transport.quic.fast.varint import varint

Handlers = list[tuple[Any, tuple[Any, ...]]]

ControlFrame = tuple[bytes, Any, tuple[Any, ...]]  # the frame, its delivery handler or `None`, arguments


def stream_order(stream: FastStream) -> tuple[int, int]:
    """Sort key: the most urgent stream comes last."""
    return stream.order


class FastBase(ServerStart):
    """State of a fast connection.

    Size: one connection's state is kept flat, because each hop to another object costs on the packet path.
    """

    fast = True

    native = True  # use the compiled kernel if it was built
    _streams: dict[int, FastStream]  # type: ignore[assignment]

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._fast_path = False
        self._aioquic_due = True  # aioquic may have frames to send that only it can write
        self._pair = FastPair(native=self.native)
        self._space: QuicPacketSpace
        self._active: list[FastStream] = []  # streams with data for STREAM frames, the most urgent last
        self._control_streams: dict[FastStream, None] = {}  # RESET_STREAM, STOP_SENDING, MAX_STREAM_DATA due
        self._ended: list[FastStream] = []  # streams with a half that ended since the last transmit
        self._frames: deque[ControlFrame] = deque()
        self._limits_due = False  # MAX_STREAMS may be due
        self._trains: list[Train] = []  # outstanding packets; all others are in the space's `sent_packets`
        self._range_start = 0
        self._range_stop = 0  # the newest range received; older ranges are in the space's `ack_queue`
        self._unacked = 0  # ack-eliciting packets received since our last ACK frame
        self._min_ack_delay: float | None = None  # seconds, if the peer takes ACK_FREQUENCY frames
        self._frequency_due = False
        self._asked_window = 0  # the congestion window at the last ACK_FREQUENCY
        self._idle = 0.0  # seconds of the idle time-out
        if self._bbr is None:
            self._loss._pacer = Pacer(max_datagram_size=self._max_datagram_size)
        self._mtu = PathMtu(self._max_datagram_size)

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        space = self._space = self._spaces[tls.Epoch.ONE_RTT]
        space.received_packets = ReceivedPackets()  # type: ignore[assignment]

    def release(self) -> None:
        for stream in self._streams.values():
            stream.detach()
        super().release()
        self._active.clear()
        self._control_streams.clear()
        self._ended.clear()

    def _make_pair(self) -> FastPair:
        self._pair = FastPair(native=self.native)
        return self._pair

    def discover_mtu(self) -> None:
        self._mtu.enabled = True

    def _resize(self) -> None:
        """Apply a new packet size of the path."""
        size = self._max_datagram_size = self._mtu.size
        self._loss._cc._max_datagram_size = size  # type: ignore[attr-defined]
        self._loss._pacer.size = size  # type: ignore[attr-defined]

    # -- fast path or aioquic

    def _review(self) -> None:
        """Choose the receiver and sender of packets again, after something unusual."""
        path = self._network_paths[0]
        crypto = self._crypto_streams.get(tls.Epoch.ONE_RTT)
        fast_path = (
            self._handshake_confirmed
            and path.is_validated
            and self._close_event is None
            and self._state is QuicConnectionState.CONNECTED
            and self._quic_logger is None
            and self._pair.begin()
        )
        if fast_path:
            self._forget_handshake()
            self._adopt_frames()
        self._aioquic_due = not fast_path or bool(
            path.remote_challenges
            or self._retire_connection_ids
            or self._streams_blocked_pending
            or (crypto is not None and not crypto.sender.buffer_is_empty)
            or (self._is_client and self._remote_preferred_address is not None)
            or any(
                other.remote_challenges or not (other.is_validated or other.local_challenge_sent)
                for other in self._network_paths[1:]
            )
        )
        if fast_path and not self._fast_path:
            self._idle = self._idle_timeout()
            self._load_range()
        self._fast_path = fast_path

    def _adopt_frames(self) -> None:
        """Take over the frames after every handshake: HANDSHAKE_DONE, NEW_CONNECTION_ID (RFC 9000, 19.20, 19.15)."""
        if self._handshake_done_pending:
            self._handshake_done_pending = False
            self._frames.append((b"\x1e", self._on_handshake_done_delivery, ()))
        told = self._on_new_connection_id_delivery
        if not all(each.was_sent for each in self._host_cids):
            # Skip ids retired before they were sent: a peer that acknowledges nothing could pile them up.
            frames = [each for each in self._frames if each[1] != told or each[2][0] in self._host_cids]
            self._frames = deque(frames)
        for each in self._host_cids:
            if not each.was_sent:
                each.was_sent = True
                size = bytes((len(each.cid),))
                data = (
                    b"\x18",
                    varint(each.sequence_number),
                    b"\0",
                    size,
                    each.cid,
                    each.stateless_reset_token,
                )
                self._frames.append((b"".join(data), told, (each,)))
                self._events.append(ConnectionIdIssued(connection_id=each.cid))

    def _leave_fast_path(self) -> None:
        """Let aioquic take over until the next transmit decides again."""
        self._aioquic_due = True
        if self._fast_path:
            self._fast_path = False
            self._store_range()
            self._split_trains()

    def close(self, error_code: int = 0, frame_type: int | None = None, reason_phrase: str = "") -> None:
        super().close(error_code, frame_type, reason_phrase)
        self._leave_fast_path()

    def _set_state(self, state: QuicConnectionState) -> None:
        super()._set_state(state)
        if state is not QuicConnectionState.CONNECTED:
            self._leave_fast_path()

    def _aioquic_datagrams(self, now: float) -> list[tuple[bytes, NetworkAddress]]:
        """Let aioquic write: everything before the fast path, later only frames that only it can write."""
        if not self._fast_path:
            waiting = [stream for stream in self._control_streams if not stream.sending]
            self._streams_queue = [*reversed(self._active), *waiting]  # type: ignore[list-item]
            try:
                return super().datagrams_to_send(now)
            finally:
                self._streams_queue = []
                for stream in self._active:
                    stream.sending = not stream.sender.buffer_is_empty
                self._active = [stream for stream in self._active if stream.sending]
                self._control_streams = {
                    stream: None for stream in self._control_streams if _has_control(stream)
                }
        hidden = self._streams, self._datagrams_pending, self._ping_pending
        self._streams, self._datagrams_pending, self._ping_pending = {}, deque(), []
        self._store_range()
        try:
            return super().datagrams_to_send(now)
        finally:
            self._streams, self._datagrams_pending, pings = hidden
            self._ping_pending = [*self._ping_pending, *pings]
            self._load_range()
            if self._space.ack_at is None:
                self._unacked = 0

    def _split_trains(self) -> None:
        """Move all outstanding packets to where aioquic's loss recovery expects them."""
        trains = self._trains
        if not trains:
            return
        sent: dict[int, Any] = self._space.sent_packets
        older = {}
        if sent and next(reversed(sent)) > trains[0].first:
            older = dict(sent)
            sent.clear()
        packets = {packet.packet_number: packet for train in trains for packet in train.packets()}
        trains.clear()
        if older:
            packets.update(older)
            packets = dict(sorted(packets.items()))
        sent.update(packets)

    # -- streams

    def _get_or_create_stream(self, frame_type: int, stream_id: int) -> FastStream:  # type: ignore[override]
        """As aioquic's, with our streams and without its queue of them."""
        if self._stream_is_discarded(stream_id):
            raise StreamFinishedError
        found = self._streams.get(stream_id)
        if found is not None:
            return found
        if (stream_id & 1 == 0) is self._is_client:
            raise QuicConnectionError(
                error_code=QuicErrorCode.STREAM_STATE_ERROR,
                frame_type=frame_type,
                reason_phrase="Wrong stream initiator",
            )
        uni = bool(stream_id & 2)
        limit = self._stream_limit(stream_id)
        count = stream_id // 4 + 1
        if count > limit.value:
            raise QuicConnectionError(
                error_code=QuicErrorCode.STREAM_LIMIT_ERROR,
                frame_type=frame_type,
                reason_phrase="Too many streams open",
            )
        # One stream opens all below it (RFC 9000, 2.1).
        for number in range(limit.used * 4 + stream_id % 4, stream_id + 4, 4):
            found = self._streams[number] = FastStream(
                self,
                number,
                max_stream_data_local=self._local_max_stream_data_uni
                if uni
                else self._local_max_stream_data_bidi_remote,
                max_stream_data_remote=0 if uni else self._remote_max_stream_data_bidi_local,
                writable=not uni,
            )
        limit.used = count
        assert found is not None
        return found

    def _get_or_create_stream_for_send(self, stream_id: int) -> FastStream:  # type: ignore[override]
        found = self._streams.get(stream_id)
        if found is not None and not (stream_id & 2 and (stream_id & 1 == 0) is not self._is_client):
            return found
        number = self._local_next_stream_id_uni
        if stream_id == number and number >> 2 < self._remote_max_streams_uni:
            self._local_next_stream_id_uni = number + 4
            new = self._streams[number] = FastStream(
                self,
                number,
                max_stream_data_local=0,
                max_stream_data_remote=self._remote_max_stream_data_uni,
                readable=False,
            )
            return new
        stream = super()._get_or_create_stream_for_send(stream_id)  # raises if the stream cannot be written
        self._streams_queue.clear()
        uni = bool(stream_id & 2)
        ours = self._streams[stream_id] = FastStream(
            self,
            stream_id,
            max_stream_data_local=stream.max_stream_data_local,
            max_stream_data_remote=stream.max_stream_data_remote,
            readable=not uni,
        )
        if stream.is_blocked:
            ours.is_blocked = self._aioquic_due = True
            blocked: list[Any] = self._streams_blocked_uni if uni else self._streams_blocked_bidi
            blocked[blocked.index(stream)] = ours
        return ours

    def write_stream(self, stream_id: int, chunks: list[bytes], *, fin: bool, order: tuple[int, int]) -> None:
        stream = self._streams.get(stream_id)
        if stream is None or stream.sender is NO_SENDER:
            stream = self._get_or_create_stream_for_send(stream_id)  # raises if the stream cannot be written
        if stream.order != order:
            if stream.sending:
                self._active.remove(stream)
                stream.sending = False
            stream.order = order
        stream.sender.append(chunks, fin=fin)
        if not stream.sending and not stream.sender.buffer_is_empty:
            self.stream_has_data(stream)

    def unsent(self, stream_id: int) -> int:
        stream = self._streams.get(stream_id)
        if stream is None or stream.sender._reset_error_code is not None:
            return 0
        return stream.sender._buffer_stop - stream.sender.highest_offset

    def prioritize(self, stream_id: int, order: tuple[int, int]) -> None:
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        if stream.sending:
            self._active.remove(stream)
            stream.sending = False
            stream.order = order
            self.stream_has_data(stream)
        else:
            stream.order = order

    def stream_has_data(self, stream: FastStream) -> None:
        if not stream.sending:
            stream.sending = True
            active = self._active
            if not active or active[-1].order <= stream.order:
                active.append(stream)
            else:
                insort(active, stream, key=stream_order)

    def stream_has_control(self, stream: FastStream) -> None:
        self._control_streams[stream] = None

    def stream_ended(self, stream: FastStream) -> None:
        self._ended.append(stream)

    def _discard_sent(self) -> None:
        """Forget send-only streams that are finished: no unread event can be about them."""
        left = []
        for stream in self._ended:
            if stream.receiver is NO_RECEIVER and stream.is_finished and not stream.sending:
                if self._streams.pop(stream.stream_id, None) is not None:
                    self._control_streams.pop(stream, None)
                    stream.detach()
            else:
                left.append(stream)
        self._ended = left

    def _discard_ended(self) -> None:
        """Forget finished streams, and let the peer open new ones (RFC 9000, 4.6)."""
        ended, self._ended = self._ended, []
        for stream in ended:
            if stream.is_finished and self._streams.pop(stream.stream_id, None) is not None:
                if (stream.stream_id & 1 == 0) is not self._is_client:
                    self._stream_limit(stream.stream_id).value += 1
                    self._limits_due = True
                if stream.sending:
                    stream.sending = False
                    self._active.remove(stream)
                self._control_streams.pop(stream, None)
                stream.detach()

    def _on_max_stream_data_delivery(self, delivery: QuicDeliveryState, stream: Any) -> None:
        super()._on_max_stream_data_delivery(delivery, stream)
        if stream.max_stream_data_local_sent == 0 and stream.stream_id in self._streams:
            self._control_streams[stream] = None

    def _on_connection_limit_delivery(self, delivery: QuicDeliveryState, limit: Limit) -> None:
        super()._on_connection_limit_delivery(delivery, limit)
        self._limits_due = True

    def _on_ping_delivery(self, delivery: QuicDeliveryState, uids: Any) -> None:
        super()._on_ping_delivery(delivery, uids)

    # -- lost frames that only aioquic can write

    def _on_handshake_done_delivery(self, delivery: QuicDeliveryState) -> None:
        super()._on_handshake_done_delivery(delivery)
        self._aioquic_due = True

    def _on_new_connection_id_delivery(self, delivery: QuicDeliveryState, connection_id: Any) -> None:
        super()._on_new_connection_id_delivery(delivery, connection_id)
        self._aioquic_due = True

    def _on_retire_connection_id_delivery(self, delivery: QuicDeliveryState, sequence_number: int) -> None:
        super()._on_retire_connection_id_delivery(delivery, sequence_number)
        self._aioquic_due = True

    def _on_path_challenge_delivery(self, delivery: QuicDeliveryState, network_path: Any) -> None:
        super()._on_path_challenge_delivery(delivery, network_path)
        self._aioquic_due = True

    # -- received packet numbers (RFC 9000, 13.2)

    def _store_range(self) -> None:
        """Store the newest range where aioquic expects it."""
        if self._range_stop > self._range_start:
            self._space.ack_queue.add(self._range_start, self._range_stop)
            self._range_start = self._range_stop

    def _load_range(self) -> None:
        """Take the newest range out again, to extend it without a search."""
        queue = self._space.ack_queue
        if len(queue):
            newest = queue[-1]
            self._range_start, self._range_stop = newest.start, newest.stop
            queue.subtract(newest.start, newest.stop)
        else:
            self._range_start = self._range_stop = self._space.largest_received_packet + 1

    def _on_ack_delivery(self, delivery: QuicDeliveryState, space: Any, highest_acked: int) -> None:
        super()._on_ack_delivery(delivery, space, highest_acked)
        if space is self._space and delivery.name == "ACKED":
            self._trim_range(highest_acked)

    def _trim_range(self, highest_acked: int) -> None:
        """The peer knows our ranges up to there."""
        if self._range_start <= highest_acked:
            self._range_start = min(highest_acked + 1, self._range_stop)


def _has_control(stream: FastStream) -> bool:
    return (
        stream.receiver.stop_pending
        or stream.sender.reset_pending
        or stream.max_stream_data_local_sent != stream.max_stream_data_local
    )
