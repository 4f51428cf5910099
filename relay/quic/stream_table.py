"""The streams of a connection: opening, flow control both ways, the send order (RFC 9000, 2 to 4)."""

from __future__ import annotations

from collections import deque
from typing import Final

from relay.quic import errors
from relay.quic.errors import QuicError
from relay.quic.handler import Handler, Waker
from relay.quic.recovery import ControlFrame
from relay.quic.settings import QuicSettings
from relay.quic.start import Start
from relay.quic.streams import LARGEST, Stream, StreamOwner
from relay.quic.varint import varint
from relay.transport.sending import SendQueue, SendState

PEER_PRIORITY: Final = 1 << 62  # of our half of a stream that the peer opened
GATHERED: Final = 65536  # bytes of one stream that are delivered together


class StreamTable(StreamOwner):
    """Streams by id, and the limits that the two ends set each other.

    Size: limits and counters exist for each direction and each kind of stream (RFC 9000, 4).
    """

    __slots__ = (
        *("awake", "ended_streams", "handler", "is_client", "queue", "refused", "send_limit", "send_used"),
        *("_bidi_opened", "_bidi_limit", "_by_id", "_chunks", "_control", "_delivered", "waker"),
        *("_gathered", "_gathering", "_local_bit", "_openings", "_peer_bidi", "_peer_bidi_limit"),
        *("_peer_bidi_sent", "_peer_uni", "_peer_uni_limit", "_peer_uni_sent", "_receive_limit"),
        *("_receive_limit_sent", "_received", "_send_bidi_local", "_send_bidi_remote", "_send_uni"),
        *("_stream_window", "_streams_due", "_uni_limit", "_uni_opened", "_window", "_blocked_at"),
    )

    def __init__(self, start: Start, settings: QuicSettings, waker: Waker) -> None:
        super().__init__()
        peer = start.peer
        self.handler = Handler()
        self.waker = waker
        self.awake = False  # `waker` knows that there is something to send
        self.is_client = start.is_client
        self._local_bit = 0 if start.is_client else 1
        self._by_id: dict[int, Stream] = {}
        self._openings = 0
        # Sending. Limits are the peer's.
        self.queue: SendQueue[Stream] = SendQueue()
        self.send_limit = peer.max_data
        self.send_used = 0
        self._blocked_at = -1  # the limit of our last DATA_BLOCKED
        self._send_bidi_local = peer.max_stream_data_bidi_local
        self._send_bidi_remote = peer.max_stream_data_bidi_remote
        self._send_uni = peer.max_stream_data_uni
        self._bidi_limit = peer.max_streams_bidi
        self._uni_limit = peer.max_streams_uni
        self._bidi_opened = 0
        self._uni_opened = 0
        # Receiving. Limits are ours; those the peer knows may be lower.
        self._window = settings.connection_window
        self._stream_window = settings.stream_window
        self._receive_limit = self._receive_limit_sent = self._window
        self._received = 0  # the highest offsets of all streams together
        self._delivered = 0  # bytes, or never to be
        self._peer_bidi_limit = self._peer_bidi_sent = settings.max_streams_bidi
        self._peer_uni_limit = self._peer_uni_sent = settings.max_streams_uni
        self._peer_bidi = 0  # streams opened by the peer
        self._peer_uni = 0
        self._streams_due = False  # MAX_STREAMS may be due
        # Since the last packet.
        self._control: dict[Stream, None] = {}  # RESET_STREAM, STOP_SENDING, MAX_STREAM_DATA may be due
        self.ended_streams: list[Stream] = []  # a half has ended
        self._gathering: Stream | None = None  # the stream of the last data in order, not yet delivered
        self._chunks: list[bytes] = []
        self._gathered = 0  # bytes in them

    def __len__(self) -> int:
        return len(self._by_id)

    @property
    def accepted(self) -> int:
        """Streams that the user of the session knows."""
        return sum([stream.accepted for stream in self._by_id.values()])

    def get(self, stream_id: int) -> Stream | None:
        return self._by_id.get(stream_id)

    # -- from streams

    def stream_ready(self, stream: Stream) -> None:
        state = stream.send_state
        if state is SendState.IDLE:
            self.queue.add(stream)
        elif state is SendState.BLOCKED and stream.out.lost:
            self.queue.remove(stream)  # lost bytes need no further credit
            self.queue.add(stream)
        if not self.awake:
            self.awake = True
            self.waker.wake()

    def stream_control(self, stream: Stream) -> None:
        if stream.id < 0:
            if stream.out.reset_pending:
                self.queue.remove(stream)  # the peer never saw it
                stream.out.stream = None
            return
        if stream.out.reset_pending:
            self.queue.remove(stream)
        self._control[stream] = None
        if not self.awake:
            self.awake = True
            self.waker.wake()

    def stream_ended(self, stream: Stream) -> None:
        self.ended_streams.append(stream)

    def stream_reordered(self, stream: Stream, order: tuple[int, int]) -> None:
        self.queue.reorder(stream, order)

    def wire_code(self, code: int) -> int:
        return self.handler.wire_code(code)

    # -- opening

    def _order(self, priority: int) -> tuple[int, int]:
        """Of two streams with the same priority, the older one goes first."""
        self._openings += 1
        return priority, -self._openings

    def open(self, priority: int, *, unidirectional: bool) -> Stream:
        """The stream has no id until its first packet is made and the peer's limit allows it."""
        return Stream(
            self,
            -1,
            self._order(priority),
            unidirectional=unidirectional,
            opened_by_peer=False,
            send_limit=self._send_uni if unidirectional else self._send_bidi_remote,
            receive_limit=0 if unidirectional else self._stream_window,
        )

    def claim(self, stream: Stream) -> bool:
        """Give a stream of ours its id. Returns False if the peer allows no more."""
        if stream.unidirectional:
            if self._uni_opened >= self._uni_limit:
                return False
            stream.id = self._uni_opened << 2 | 2 | self._local_bit
            self._uni_opened += 1
        else:
            if self._bidi_opened >= self._bidi_limit:
                return False
            stream.id = self._bidi_opened << 2 | self._local_bit
            self._bidi_opened += 1
        self._by_id[stream.id] = stream
        if stream.into.stop_pending:
            self._control[stream] = None
        return True

    def _find(self, stream_id: int, kind: int) -> Stream | None:
        """Opens a stream of the peer, and all below it (RFC 9000, 2.1).

        `None` if it has ended on both sides. Raises QuicError.
        """
        stream = self._by_id.get(stream_id)
        if stream is not None:
            return stream
        number = stream_id >> 2
        unidirectional = bool(stream_id & 2)
        if stream_id & 1 == self._local_bit:
            if number >= (self._uni_opened if unidirectional else self._bidi_opened):
                raise QuicError(errors.STREAM_STATE_ERROR, kind, "stream of ours that is not open")
            return None
        opened = self._peer_uni if unidirectional else self._peer_bidi
        if number < opened:
            return None
        if number >= (self._peer_uni_limit if unidirectional else self._peer_bidi_limit):
            raise QuicError(errors.STREAM_LIMIT_ERROR, kind, "too many streams")
        for each in range(opened, number + 1):
            stream = Stream(
                self,
                each << 2 | stream_id & 3,
                self._order(PEER_PRIORITY),
                unidirectional=unidirectional,
                opened_by_peer=True,
                send_limit=0 if unidirectional else self._send_bidi_local,
                receive_limit=self._stream_window,
            )
            self._by_id[stream.id] = stream
        if unidirectional:
            self._peer_uni = number + 1
            self._streams_due |= self._peer_uni_limit > self._peer_uni_sent
        else:
            self._peer_bidi = number + 1
            self._streams_due |= self._peer_bidi_limit > self._peer_bidi_sent
        return stream

    def _readable(self, stream_id: int, kind: int) -> Stream | None:
        if stream_id & 2 and stream_id & 1 == self._local_bit:
            raise QuicError(errors.STREAM_STATE_ERROR, kind, "the peer cannot write on this stream")
        return self._find(stream_id, kind)

    def _writable(self, stream_id: int, kind: int) -> Stream | None:
        if stream_id & 2 and stream_id & 1 != self._local_bit:
            raise QuicError(errors.STREAM_STATE_ERROR, kind, "the peer cannot read this stream")
        return self._find(stream_id, kind)

    # -- frames of the peer; all raise QuicError

    def on_stream(self, kind: int, stream_id: int, offset: int, data: bytes, fin: bool) -> None:  # noqa: FBT001
        """RFC 9000, 19.8."""
        stream = self._by_id.get(stream_id)
        stop = offset + len(data)
        if stream is None or (stream.unidirectional and not stream.opened_by_peer):
            if stop > LARGEST:
                raise QuicError(errors.FRAME_ENCODING_ERROR, kind, "offset beyond 2^62 - 1")
            stream = self._readable(stream_id, kind)
            if stream is None:
                return
        into = stream.into
        if stop > into.limit:
            raise QuicError(errors.FLOW_CONTROL_ERROR, kind, "over the stream's limit")
        if fin or into.final_size >= 0:
            into.check_size(stop, fin, kind)
        fresh = stop - into.highest
        if fresh > 0:
            self._received += fresh
            if self._received > self._receive_limit:
                raise QuicError(errors.FLOW_CONTROL_ERROR, kind, "over the connection's limit")
            into.highest = stop
        if into.done:
            return
        if offset > into.offset:
            into.insert(offset, data)
            return
        if offset < into.offset:
            if stop <= into.offset and not fin:
                return
            data = data[into.offset - offset :]
        into.offset = max(into.offset, stop)
        if self._gathering is not stream or self._gathered > GATHERED:
            if self._gathering is not None:
                self.deliver()
            self._gathering = stream
        self._chunks.append(data)
        self._gathered += len(data)
        if into.starts:
            self._deliver_fragments(stream)
        if into.offset == into.final_size:
            into.done = True
            self.ended_streams.append(stream)
            self.deliver()
        elif into.limit - into.offset < self._stream_window // 2:
            self._control[stream] = None  # MAX_STREAM_DATA

    def _deliver_fragments(self, stream: Stream) -> None:
        """A gap may be filled."""
        into = stream.into
        while into.starts and into.starts[0] < into.offset:
            # The new data overlaps what was buffered.
            start, part = into.starts.pop(0), into.parts.pop(0)
            into.buffered -= len(part)
            if start + len(part) > into.offset:
                into.insert(start, part)
        data = into.take()
        if data:
            self._chunks.append(data)
            self._gathered += len(data)

    def deliver(self) -> None:
        """Deliver what was gathered."""
        stream = self._gathering
        if stream is None:
            return
        self._gathering = None
        chunks = self._chunks
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        self._chunks = []
        self._gathered = 0
        self._delivered += len(data)
        if not stream.stopped:
            self.handler.stream_data(stream, data, stream.into.done)

    def on_reset(self, stream_id: int, code: int, final_size: int) -> None:
        """RFC 9000, 19.4."""
        stream = self._readable(stream_id, errors.RESET_STREAM)
        if stream is None:
            return
        into = stream.into
        if final_size > into.limit:
            raise QuicError(errors.FLOW_CONTROL_ERROR, errors.RESET_STREAM, "over the stream's limit")
        into.check_size(final_size, True, errors.RESET_STREAM)
        self._received += final_size - into.highest
        if self._received > self._receive_limit:
            raise QuicError(errors.FLOW_CONTROL_ERROR, errors.RESET_STREAM, "over the connection's limit")
        into.highest = final_size
        if into.done:
            return
        self.deliver()
        self._delivered += into.drop()  # never to be delivered, or the window would shrink for good
        into.done = True
        self.ended_streams.append(stream)
        self.handler.stream_reset(stream, code)

    def on_stop_sending(self, stream_id: int, code: int) -> None:
        """RFC 9000, 19.5: reset our half with the same code."""
        stream = self._writable(stream_id, errors.STOP_SENDING)
        if stream is None or stream.out.reset_code >= 0 or stream.out.done:
            return
        self.deliver()
        stream.abort(code)
        self.handler.stream_stopped(stream, code)

    def on_max_data(self, limit: int) -> None:
        if limit > self.send_limit:
            self.send_limit = limit
            self.queue.unblock()

    def on_max_stream_data(self, stream_id: int, limit: int) -> None:
        stream = self._writable(stream_id, errors.MAX_STREAM_DATA)
        if stream is not None and limit > stream.out.limit:
            stream.out.limit = limit
            if stream.send_state is SendState.BLOCKED:
                self.queue.remove(stream)
                self.queue.add(stream)

    def on_max_streams(self, limit: int, *, unidirectional: bool) -> None:
        if limit > 1 << 60:
            kind = errors.MAX_STREAMS_UNI if unidirectional else errors.MAX_STREAMS_BIDI
            raise QuicError(errors.FRAME_ENCODING_ERROR, kind, "more than 2^60 streams")
        if unidirectional:
            self._uni_limit = max(self._uni_limit, limit)
        else:
            self._bidi_limit = max(self._bidi_limit, limit)
        self.queue.admit(unidirectional=unidirectional)

    def on_blocked(self, stream_id: int) -> None:
        """STREAM_DATA_BLOCKED: our limits do not depend on it."""
        self._readable(stream_id, errors.STREAM_DATA_BLOCKED)

    # -- frames of ours

    @property
    def has_control(self) -> bool:
        """Some frame besides STREAM may be due."""
        return (
            bool(self._control)
            or self._streams_due
            or self._receive_limit != self._receive_limit_sent  # the frame was lost
            or self._receive_limit - self._delivered < self._window // 2
        )

    def control_frames(self, frames: deque[ControlFrame]) -> None:
        """Append the frames that are due."""
        if self._receive_limit - self._delivered < self._window // 2:
            self._receive_limit = self._delivered + self._window
        if self._receive_limit != self._receive_limit_sent:
            self._receive_limit_sent = self._receive_limit
            data = b"\x10" + varint(self._receive_limit)
            frames.append(ControlFrame(errors.MAX_DATA, data))
        if self._streams_due:
            self._streams_due = False
            # The peer has fewer streams left than the new grant: fewer frames.
            if self._peer_bidi_sent - self._peer_bidi < self._peer_bidi_limit - self._peer_bidi_sent:
                self._peer_bidi_sent = self._peer_bidi_limit
                data = b"\x12" + varint(self._peer_bidi_limit)
                frames.append(ControlFrame(errors.MAX_STREAMS_BIDI, data))
            if self._peer_uni_sent - self._peer_uni < self._peer_uni_limit - self._peer_uni_sent:
                self._peer_uni_sent = self._peer_uni_limit
                data = b"\x13" + varint(self._peer_uni_limit)
                frames.append(ControlFrame(errors.MAX_STREAMS_UNI, data))
        if self._control:
            control, self._control = self._control, {}
            for stream in control:
                self._stream_frames(stream, frames)

    def _stream_frames(self, stream: Stream, frames: deque[ControlFrame]) -> None:
        number = varint(stream.id)
        into, out = stream.into, stream.out
        if into.stop_pending:
            into.stop_pending = False
            if not into.done:
                data = b"\x05" + number + varint(into.stop_code)
                frames.append(ControlFrame(errors.STOP_SENDING, data, again=True, stream=stream))
        if not into.done and into.final_size < 0:
            if into.limit - into.offset < self._stream_window // 2:
                into.limit = into.offset + self._stream_window
            if into.limit_sent != into.limit:
                into.limit_sent = into.limit
                data = b"\x11" + number + varint(into.limit)
                frames.append(ControlFrame(errors.MAX_STREAM_DATA, data, stream=stream))
        if out.reset_pending:
            out.reset_pending = False
            data = b"\x04" + number + varint(out.reset_code) + varint(out.sent)
            frames.append(ControlFrame(errors.RESET_STREAM, data, again=True, stream=stream))

    def blocked_frame(self, stream: Stream) -> ControlFrame | None:
        """DATA_BLOCKED or STREAM_DATA_BLOCKED (RFC 9000, 4.1), once for each limit."""
        out = stream.out
        if out.sent >= out.limit:
            if out.blocked_at == out.limit:
                return None
            out.blocked_at = out.limit
            data = b"\x15" + varint(stream.id) + varint(out.limit)
            return ControlFrame(errors.STREAM_DATA_BLOCKED, data)
        if self._blocked_at == self.send_limit:
            return None
        self._blocked_at = self.send_limit
        return ControlFrame(errors.DATA_BLOCKED, b"\x14" + varint(self.send_limit))

    def on_frame_acked(self, frame: ControlFrame) -> None:
        stream = frame.stream
        if frame.kind == errors.RESET_STREAM and stream is not None and not stream.out.done:
            stream.out.done = True
            self.ended_streams.append(stream)

    def on_frame_lost(self, frame: ControlFrame) -> bool:
        """Returns whether the very frame is to be sent again."""
        kind, stream = frame.kind, frame.stream
        if kind == errors.MAX_DATA:
            self._receive_limit_sent = 0
        elif kind == errors.MAX_STREAMS_BIDI:
            self._peer_bidi_sent = min(self._peer_bidi_sent, self._peer_bidi)
            self._streams_due = True
        elif kind == errors.MAX_STREAMS_UNI:
            self._peer_uni_sent = min(self._peer_uni_sent, self._peer_uni)
            self._streams_due = True
        elif kind == errors.MAX_STREAM_DATA and stream is not None:
            stream.into.limit_sent = 0
            self._control[stream] = None
        elif kind == errors.STOP_SENDING and stream is not None:
            return not stream.into.done
        return frame.again

    # -- the end

    @property
    def undelivered(self) -> bool:
        """Something written may not have arrived."""
        return bool(self.queue) or any(stream.undelivered for stream in self._by_id.values())

    def kept(self) -> int:
        """Bytes sent and not acknowledged."""
        return sum(stream.out.sent - stream.out.acked for stream in self._by_id.values())

    def discard_ended(self) -> None:
        """Forget streams that have ended on both sides, and let the peer open new ones (RFC 9000, 4.6)."""
        ended, self.ended_streams = self.ended_streams, []
        for stream in ended:
            if not (stream.out.done and stream.into.done) or self._by_id.pop(stream.id, None) is None:
                continue
            self.queue.remove(stream)
            self._control.pop(stream, None)
            stream.out.stream = None  # late acknowledgements have no effect, and no cycle is left
            if stream.opened_by_peer:
                if stream.unidirectional:
                    self._peer_uni_limit += 1
                else:
                    self._peer_bidi_limit += 1
                self._streams_due = True

    def clear(self) -> None:
        """Break reference cycles."""
        self._gathering = None
        self._chunks = []
        self.handler = Handler()
        self.waker = Waker()
        for stream in (*self._by_id.values(), *self.queue.clear()):
            stream.out.stream = None
            stream.context = None
        self._by_id.clear()
        self._control.clear()
        self.ended_streams.clear()
