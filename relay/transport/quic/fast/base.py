"""What both packet loops share: the state of a fast connection, and the bridge to aioquic's own methods.

Owns the streams, who of them has something to say, the ranges of received packets, and the decision which way a
connection goes: the *quick* one once its handshake is confirmed and its path validated, aioquic's before, and for
every unusual frame (see `_review`). Must never parse or build a packet. `FastConnection` is put together on top of it.
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
from relay.transport.quic.fast.recovery import Pacer, Run, Seen
from relay.transport.quic.fast.start import ServerStart
from relay.transport.quic.fast.streams import NO_RECEIVER, NO_SENDER, FastStream
from relay.transport.quic.fast.varint import varint

Handlers = list[tuple[Any, tuple[Any, ...]]]

ControlFrame = tuple[bytes, Any, tuple[Any, ...]]
"""A frame, whom to tell what became of it (or `None`), and with which arguments."""


def stream_order(stream: FastStream) -> tuple[int, int]:
    """Sort key: the most urgent stream comes last."""
    return stream.order


class FastBase(ServerStart):
    """State of a fast connection."""

    fast = True

    native = True
    """Whether the compiled kernel is used, where it was built."""

    _streams: dict[int, FastStream]  # type: ignore[assignment]

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._quick = False
        """Whether 1-RTT packets take the quick way."""
        self._stock_due = True
        """Whether aioquic may have something to send that only it knows how to."""
        self._pair = FastPair(native=self.native)
        self._space: QuicPacketSpace
        self._active: list[FastStream] = []
        """Streams with something for STREAM frames, the most urgent last."""
        self._calling: dict[FastStream, None] = {}
        """Streams with RESET_STREAM, STOP_SENDING or MAX_STREAM_DATA to send."""
        self._ended: list[FastStream] = []
        """Streams of which one half ended since the last transmit."""
        self._frames: deque[ControlFrame] = deque()
        """Control frames that wait for a packet."""
        self._limits_due = False
        """Whether MAX_STREAMS may have to be sent."""
        self._runs: list[Run] = []
        """Outstanding packets that no acknowledgement has told apart; all others are in the space's `sent_packets`."""
        self._run_start = 0
        self._run_stop = 0
        """The newest unbroken run of received packets; the ranges below it are in the space's `ack_queue`."""
        self._unacked = 0
        """Packets received since our last ACK frame that elicit one."""
        self._min_ack_delay: float | None = None
        """Seconds that the peer can hold back acknowledgements at least, if it takes ACK_FREQUENCY frames."""
        self._frequency_due = False
        """Whether the peer is to be asked for another rate of acknowledgements."""
        self._asked_window = 0
        """The congestion window when it was asked last."""
        self._idle = 0.0
        """The idle time-out in seconds."""
        if self._bbr is None:
            self._loss._pacer = Pacer(max_datagram_size=self._max_datagram_size)
        self._mtu = PathMtu(self._max_datagram_size)

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        space = self._space = self._spaces[tls.Epoch.ONE_RTT]
        space.received_packets = Seen()  # type: ignore[assignment]

    def let_go(self) -> None:
        for stream in self._streams.values():
            stream.detach()
        super().let_go()
        self._active.clear()
        self._calling.clear()
        self._ended.clear()

    def _make_pair(self) -> FastPair:
        self._pair = FastPair(native=self.native)
        return self._pair

    def discover_mtu(self) -> None:
        self._mtu.enabled = True

    def _resize(self) -> None:
        """The path carries packets of another size than was known."""
        size = self._max_datagram_size = self._mtu.size
        self._loss._cc._max_datagram_size = size  # type: ignore[attr-defined]
        self._loss._pacer.size = size  # type: ignore[attr-defined]

    # -- which way

    def _review(self) -> None:
        """Decide anew, after something unusual, who receives and sends."""
        path = self._network_paths[0]
        crypto = self._crypto_streams.get(tls.Epoch.ONE_RTT)
        quick = (
            self._handshake_confirmed
            and path.is_validated
            and self._close_event is None
            and self._state is QuicConnectionState.CONNECTED
            and self._quic_logger is None
            and self._pair.begin()
        )
        if quick:
            self._forget_handshake()
            self._adopt_frames()
        self._stock_due = not quick or bool(
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
        if quick and not self._quick:
            self._idle = self._idle_timeout()
            self._load_run()
        self._quick = quick

    def _adopt_frames(self) -> None:
        """Take over what follows every handshake: HANDSHAKE_DONE and NEW_CONNECTION_ID (RFC 9000, 19.20 and 19.15)."""
        if self._handshake_done_pending:
            self._handshake_done_pending = False
            self._frames.append((b"\x1e", self._on_handshake_done_delivery, ()))
        told = self._on_new_connection_id_delivery
        if not all(each.was_sent for each in self._host_cids):
            # What was retired before it could leave is not to be told: a peer that acknowledges nothing can go on so.
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

    def _leave_quick(self) -> None:
        """Something unusual is to be handled: aioquic takes over until the next transmit decides anew."""
        self._stock_due = True
        if self._quick:
            self._quick = False
            self._store_run()
            self._tell_apart()

    def close(self, error_code: int = 0, frame_type: int | None = None, reason_phrase: str = "") -> None:
        super().close(error_code, frame_type, reason_phrase)
        self._leave_quick()

    def _set_state(self, state: QuicConnectionState) -> None:
        super()._set_state(state)
        if state is not QuicConnectionState.CONNECTED:
            self._leave_quick()

    def _stock_datagrams(self, now: float) -> list[tuple[bytes, NetworkAddress]]:
        """Let aioquic write: everything before the connection is quick, later only what nobody else can."""
        if not self._quick:
            waiting = [stream for stream in self._calling if not stream.sending]
            self._streams_queue = [*reversed(self._active), *waiting]  # type: ignore[list-item]
            try:
                return super().datagrams_to_send(now)
            finally:
                self._streams_queue = []
                for stream in self._active:
                    stream.sending = not stream.sender.buffer_is_empty
                self._active = [stream for stream in self._active if stream.sending]
                self._calling = {stream: None for stream in self._calling if _has_call(stream)}
        hidden = self._streams, self._datagrams_pending, self._ping_pending
        self._streams, self._datagrams_pending, self._ping_pending = {}, deque(), []
        self._store_run()
        try:
            return super().datagrams_to_send(now)
        finally:
            self._streams, self._datagrams_pending, pings = hidden
            self._ping_pending = [*self._ping_pending, *pings]
            self._load_run()
            if self._space.ack_at is None:
                self._unacked = 0

    def _tell_apart(self) -> None:
        """Put all outstanding packets where aioquic's loss recovery looks for them."""
        runs = self._runs
        if not runs:
            return
        sent: dict[int, Any] = self._space.sent_packets
        older = {}
        if sent and next(reversed(sent)) > runs[0].first:
            older = dict(sent)
            sent.clear()
        packets = {packet.packet_number: packet for run in runs for packet in run.packets()}
        runs.clear()
        if older:
            packets.update(older)
            packets = dict(sorted(packets.items()))
        sent.update(packets)

    # -- streams

    def _get_or_create_stream(self, frame_type: int, stream_id: int) -> FastStream:  # type: ignore[override]
        """As aioquic's, with our streams and without its queue of all of them."""
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
        stream = super()._get_or_create_stream_for_send(stream_id)  # raises for what may not be sent on
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
            ours.is_blocked = self._stock_due = True
            blocked: list[Any] = self._streams_blocked_uni if uni else self._streams_blocked_bidi
            blocked[blocked.index(stream)] = ours
        return ours

    def write_stream(self, stream_id: int, chunks: list[bytes], *, fin: bool, order: tuple[int, int]) -> None:
        stream = self._streams.get(stream_id)
        if stream is None or stream.sender is NO_SENDER:
            stream = self._get_or_create_stream_for_send(stream_id)  # raises for what may not be sent on
        if stream.order != order:
            if stream.sending:
                self._active.remove(stream)
                stream.sending = False
            stream.order = order
        stream.sender.append(chunks, fin=fin)
        if not stream.sending and not stream.sender.buffer_is_empty:
            self.stream_sends(stream)

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
            self.stream_sends(stream)
        else:
            stream.order = order

    def stream_sends(self, stream: FastStream) -> None:
        if not stream.sending:
            stream.sending = True
            active = self._active
            if not active or active[-1].order <= stream.order:
                active.append(stream)
            else:
                insort(active, stream, key=stream_order)

    def stream_calls(self, stream: FastStream) -> None:
        self._calling[stream] = None

    def stream_ended(self, stream: FastStream) -> None:
        self._ended.append(stream)

    def _discard_sent(self) -> None:
        """Forget streams that only sent: no event that waits to be read can be about them."""
        left = []
        for stream in self._ended:
            if stream.receiver is NO_RECEIVER and stream.is_finished and not stream.sending:
                if self._streams.pop(stream.stream_id, None) is not None:
                    self._calling.pop(stream, None)
                    stream.detach()
            else:
                left.append(stream)
        self._ended = left

    def _discard_ended(self) -> None:
        """Forget streams whose halves are both over, and let the peer open new ones (RFC 9000, 4.6)."""
        ended, self._ended = self._ended, []
        for stream in ended:
            if stream.is_finished and self._streams.pop(stream.stream_id, None) is not None:
                if (stream.stream_id & 1 == 0) is not self._is_client:
                    self._stream_limit(stream.stream_id).value += 1
                    self._limits_due = True
                if stream.sending:
                    stream.sending = False
                    self._active.remove(stream)
                self._calling.pop(stream, None)
                stream.detach()

    def _on_max_stream_data_delivery(self, delivery: QuicDeliveryState, stream: Any) -> None:
        super()._on_max_stream_data_delivery(delivery, stream)
        if stream.max_stream_data_local_sent == 0 and stream.stream_id in self._streams:
            self._calling[stream] = None

    def _on_connection_limit_delivery(self, delivery: QuicDeliveryState, limit: Limit) -> None:
        super()._on_connection_limit_delivery(delivery, limit)
        self._limits_due = True

    def _on_ping_delivery(self, delivery: QuicDeliveryState, uids: Any) -> None:
        super()._on_ping_delivery(delivery, uids)

    # -- lost frames that only aioquic can write

    def _on_handshake_done_delivery(self, delivery: QuicDeliveryState) -> None:
        super()._on_handshake_done_delivery(delivery)
        self._stock_due = True

    def _on_new_connection_id_delivery(self, delivery: QuicDeliveryState, connection_id: Any) -> None:
        super()._on_new_connection_id_delivery(delivery, connection_id)
        self._stock_due = True

    def _on_retire_connection_id_delivery(self, delivery: QuicDeliveryState, sequence_number: int) -> None:
        super()._on_retire_connection_id_delivery(delivery, sequence_number)
        self._stock_due = True

    def _on_path_challenge_delivery(self, delivery: QuicDeliveryState, network_path: Any) -> None:
        super()._on_path_challenge_delivery(delivery, network_path)
        self._stock_due = True

    # -- received packet numbers (RFC 9000, 13.2)

    def _store_run(self) -> None:
        """Put the newest run where aioquic looks for it."""
        if self._run_stop > self._run_start:
            self._space.ack_queue.add(self._run_start, self._run_stop)
            self._run_start = self._run_stop

    def _load_run(self) -> None:
        """Take the newest run out again: it grows without a look at the ranges below it."""
        queue = self._space.ack_queue
        if len(queue):
            newest = queue[-1]
            self._run_start, self._run_stop = newest.start, newest.stop
            queue.subtract(newest.start, newest.stop)
        else:
            self._run_start = self._run_stop = self._space.largest_received_packet + 1

    def _on_ack_delivery(self, delivery: QuicDeliveryState, space: Any, highest_acked: int) -> None:
        super()._on_ack_delivery(delivery, space, highest_acked)
        if space is self._space and delivery.name == "ACKED":
            self._trim_run(highest_acked)

    def _trim_run(self, highest_acked: int) -> None:
        """The peer knows what we have up to there."""
        if self._run_start <= highest_acked:
            self._run_start = min(highest_acked + 1, self._run_stop)


def _has_call(stream: FastStream) -> bool:
    return (
        stream.receiver.stop_pending
        or stream.sender.reset_pending
        or stream.max_stream_data_local_sent != stream.max_stream_data_local
    )
