"""QMux over WebSocket, drafts 00 to 02: QUIC's streams and flow control in messages.

Received data counts against limits that were really sent. Ours grow as data is delivered, in steps of about a third
of a window, before a peer reaches them: deployed peers stall there silently. Data to send waits in its stream for the
peer's limit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from relay.model.limits import Limits
from relay.transport.session import DatagramReceived
from relay.transport.websocket.choice import Choice
from relay.transport.websocket.session import FramedSession, Opening
from relay.transport.websocket.stream import FramedStream
from relay.transport.websocket.streams import MAX_HEADER, MAX_PAYLOAD
from relay.wire.errors import ProtocolViolation
from relay.wire.qmux import (
    MAX_MESSAGE_00,
    MAX_RECORD,
    Close,
    DatagramFrame,
    Draft,
    Frame,
    MaxData,
    MaxStreamData,
    MaxStreams,
    Parameters,
    Ping,
    ResetStream,
    StopSending,
    StreamFrame,
    decode_message,
    stream_header,
)
from relay.wire.version import Version

STREAM_WINDOW = 1 << 20  # bytes: a large key frame at once, or 80 Mbit/s at 100 ms round trip
IDLE_TIMEOUT = 30.0  # seconds without a frame; WebSocket pings do not count, QMux's do
PARAMETERS_TIMEOUT = 10.0  # seconds until the peer's transport parameters must arrive, as deployed peers wait
MAX_DATAGRAM = 1_280  # bytes of a datagram frame: a larger one fits no QUIC packet to another peer
DATAGRAM_HEADER = 3  # type and length before a datagram
PENDING_DATAGRAMS = 64  # late ones are worthless, so the newest is dropped


class Window:
    """A receive limit: total since the beginning, growing with delivered data."""

    __slots__ = ("_granted", "_released", "limit", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._granted = limit
        self._released = 0

    def take(self, amount: int) -> bool:
        """Count received data. False if it exceeds the limit."""
        self.used += amount
        return self.used <= self.limit

    def release(self, amount: int) -> bool:
        """Count delivered data. True if the limit must grow."""
        self._released += amount
        if self.used + 2 * self._released <= self._granted:
            return False
        self._granted += self._released
        self._released = 0
        return True

    def announce(self) -> int:
        self.limit = self._granted
        return self.limit


class QmuxSession(FramedSession):
    """A session in the framing of QMux."""

    strict = True

    def __init__(self, choice: Choice, limits: Limits, opening: Opening, clock: Callable[[], float]) -> None:
        super().__init__(choice, limits, opening, clock)
        assert choice.draft is not None
        draft = self.draft = choice.draft
        self.packs = draft.packs
        self.max_message = MAX_RECORD if draft.packs else MAX_MESSAGE_00
        window, max_streams = limits.websocket_window, limits.websocket_streams
        stream_window = min(STREAM_WINDOW, window)
        self._ours = Parameters(
            idle_timeout=int(IDLE_TIMEOUT * 1000),
            max_data=window,
            stream_data_bidi_local=stream_window,
            stream_data_bidi_remote=stream_window,
            stream_data_uni=stream_window,
            streams_bidi=max_streams,
            streams_uni=max_streams,
            # versions before 05 have no datagrams
            max_datagram=MAX_DATAGRAM if draft.packs and (self.version or 0) >= Version.LITE_05 else 0,
            reset_stream_at=draft >= Draft.QMUX_02,
        )
        self._theirs: Parameters | None = None
        self._window = Window(window)
        self._stream_window = stream_window
        self._stream_windows = {False: Window(max_streams), True: Window(max_streams)}
        self._send_limit = 0
        self._sent_bytes = 0
        self._streams_limit = {False: 0, True: 0}
        self._grants: dict[FramedStream, None] = {}
        self._grant_data = False
        self._grant_streams: dict[bool, None] = {}
        self._datagrams: deque[bytes] = deque()
        self._pings: dict[int, float] = {}
        self._next_ping = 0
        self._last_ping = -1
        self._began_at = self._active_at = clock()
        self._control(self._ours.encode())

    # -- Session

    @property
    def datagram_limit(self) -> int:
        if self._theirs is None or not self.packs or self.ended:
            return 0
        return max(0, min(self._theirs.max_datagram, self._room) - DATAGRAM_HEADER)

    def send_datagram(self, data: bytes) -> None:
        if len(data) <= self.datagram_limit and len(self._datagrams) < PENDING_DATAGRAMS:
            self._datagrams.append(data)
            self.wake()

    # -- time

    def tick(self) -> float:
        now = self._clock()
        idle = self._idle_timeout()
        if not self.ended and self._theirs is None and now - self._began_at >= PARAMETERS_TIMEOUT:
            self.end(None, "no transport parameters in time", by_peer=False)
        elif not self.ended and now - self._active_at >= idle:
            self.end(None, "idle timeout", by_peer=False)
        wait = super().tick()
        if self.ended:
            return wait
        if self._theirs is None:
            wait = min(wait, self._began_at + PARAMETERS_TIMEOUT - now)
        return max(0.0, min(wait, self._active_at + idle - now))

    def resume(self, seconds: float) -> None:
        super().resume(seconds)
        self._began_at += seconds
        self._active_at += seconds

    def _idle_timeout(self) -> float:
        """The smaller of both ends' values. Draft 00 has no ping to keep an idle session."""
        if self._theirs is None or not self.packs:
            return float("inf")
        return min(IDLE_TIMEOUT, self._theirs.idle_timeout / 1000 or IDLE_TIMEOUT)

    def _ping_interval(self) -> float:
        return min(super()._ping_interval(), self._idle_timeout() / 3)

    def _send_ping(self) -> None:
        super()._send_ping()
        # no ping before the parameters; draft 00 lacks the frame
        if self.packs and self._theirs is not None and not self._pings:
            self._pings[self._next_ping] = self._clock()
            self._control(Ping(self._next_ping).encode())
            self._next_ping += 1

    def _measure(self) -> None:
        if not self.packs:
            super()._measure()  # others answer QMux's ping at once, but WebSocket pings late

    # -- receiving

    def _handle(self, message: bytes) -> None:
        self._active_at = self._clock()
        for frame in decode_message(message, self.draft):
            self._on_frame(frame)
            if self.ended:
                return

    def _on_frame(self, frame: Frame) -> None:  # noqa: C901 - one case per frame
        if isinstance(frame, Parameters) is (self._theirs is not None):
            late = "a second time" if self._theirs is not None else "not first"
            raise ProtocolViolation(f"transport parameters come {late}")
        match frame:
            case StreamFrame():
                self._on_stream(frame)
            case ResetStream():
                self._on_final_size(self._on_reset(frame), frame.final_size)
            case StopSending():
                self._on_stop(frame)
            case MaxData():
                self._send_limit = max(self._send_limit, frame.limit)
                self._queue.unblock()
                self.wake()
            case MaxStreamData():
                stream = self._streams.get(frame.stream_id)
                if stream is not None and frame.limit > stream.send_limit:
                    stream.send_limit = frame.limit
                    self._queue.unblock()
                    self.wake()
            case MaxStreams():
                limit = self._streams_limit[frame.unidirectional]
                self._streams_limit[frame.unidirectional] = max(limit, frame.limit)
                self._queue.admit(unidirectional=frame.unidirectional)
                self.wake()
            case Close():
                self._on_close(frame)
            case Ping():
                self._on_ping(frame)
            case DatagramFrame():
                self._on_datagram(frame)
            case Parameters():
                self._on_parameters(frame)

    def _on_parameters(self, parameters: Parameters) -> None:
        if self.packs and parameters.max_record < MAX_RECORD:
            raise ProtocolViolation(
                f"max_record_size is {parameters.max_record}, at least {MAX_RECORD} is due"
            )
        self._theirs = parameters
        self._send_limit = parameters.max_data
        self._streams_limit = {False: parameters.streams_bidi, True: parameters.streams_uni}
        self._queue.admit(unidirectional=False)
        self._queue.admit(unidirectional=True)
        self.wake()

    def _on_ping(self, frame: Ping) -> None:
        if frame.response:
            if self.draft >= Draft.QMUX_02 and frame.sequence >= self._next_ping:
                raise ProtocolViolation(f"answer to a ping {frame.sequence} that was not sent")
            sent_at = self._pings.pop(frame.sequence, None)
            if sent_at is not None:
                self._pinged_at = sent_at
                super()._measure()
            return
        if self.draft >= Draft.QMUX_02 and frame.sequence <= self._last_ping:
            raise ProtocolViolation(f"ping {frame.sequence} after ping {self._last_ping}")
        self._last_ping = frame.sequence
        self._control(Ping(frame.sequence, response=True).encode())

    def _on_datagram(self, frame: DatagramFrame) -> None:
        if frame.size > self._ours.max_datagram:
            allowed = f"at most {self._ours.max_datagram} are" if self._ours.max_datagram else "none is"
            raise ProtocolViolation(f"datagram frame of {frame.size} bytes, {allowed} allowed")
        self._emit(DatagramReceived(frame.data))

    def _count(self, stream: FramedStream, size: int) -> None:
        if not size:
            return
        if not stream.credit.take(size):
            raise ProtocolViolation(f"stream {stream.id} exceeds its limit of {stream.credit.limit} bytes")
        if not self._window.take(size):
            raise ProtocolViolation(f"the streams exceed their limit of {self._window.limit} bytes")
        if stream.credit.release(size):
            self._grants[stream] = None
            self.wake()
        self._release_data(size)

    def _on_final_size(self, stream: FramedStream | None, final_size: int) -> None:
        """The final size of a reset stream uses up its unsent part. Some senders always write 0."""
        if stream is not None:
            gap = max(0, final_size - stream.credit.used)
            if not (stream.credit.take(gap) and self._window.take(gap)):
                raise ProtocolViolation(f"stream {stream.id} ends beyond the limits, at {final_size} bytes")
            self._release_data(gap)

    def _release_data(self, size: int) -> None:
        if self._window.release(size):
            self._grant_data = True
            self.wake()

    def _index_limit(self, *, unidirectional: bool) -> int:
        return self._stream_windows[unidirectional].limit

    def _begin(self, stream: FramedStream) -> None:
        theirs = self._theirs or Parameters()
        if stream.unidirectional:
            stream.send_limit = theirs.stream_data_uni
        elif stream.opened_by_peer:
            stream.send_limit = theirs.stream_data_bidi_local
        else:
            stream.send_limit = theirs.stream_data_bidi_remote
        stream.credit = Window(self._stream_window)
        if stream.opened_by_peer:
            window = self._stream_windows[stream.unidirectional]
            window.used = max(window.used, (stream.id >> 2) + 1)

    def _released(self, *, unidirectional: bool) -> None:
        if self._stream_windows[unidirectional].release(1):
            self._grant_streams[unidirectional] = None
            self.wake()

    # -- sending

    @property
    def _room(self) -> int:
        if not self.packs:
            return MAX_MESSAGE_00
        return min(MAX_PAYLOAD + MAX_HEADER, MAX_RECORD)

    def _next_control(self, room: int) -> bytes | None:
        frame = super()._next_control(room)
        if frame is not None or self._controls or room <= MAX_HEADER:
            return frame
        if self._grant_data:
            self._grant_data = False
            return MaxData(self._window.announce()).encode()
        while self._grant_streams:
            kind, _ = self._grant_streams.popitem()
            return MaxStreams(kind, self._stream_windows[kind].announce()).encode()
        while self._grants:
            stream, _ = self._grants.popitem()
            if not stream.received:
                return MaxStreamData(stream.id, stream.credit.announce()).encode()
        if self._datagrams and len(self._datagrams[0]) + DATAGRAM_HEADER <= room:
            return DatagramFrame.encode(self._datagrams.popleft())
        return None

    def _may_open(self, *, unidirectional: bool) -> bool:
        return self._next_id[unidirectional] >> 2 < self._streams_limit[unidirectional]

    def _send_credit(self, stream: FramedStream) -> int:
        return max(0, min(stream.send_limit - stream.sent, self._send_limit - self._sent_bytes))

    def _sent(self, stream: FramedStream, size: int) -> None:  # noqa: ARG002
        self._sent_bytes += size

    def _stream_header(self, stream: FramedStream, size: int, *, fin: bool) -> bytes:
        return stream_header(stream.id, stream.sent, size, fin=fin)

    def _reset_frame(self, stream: FramedStream, code: int) -> bytes:
        return ResetStream(stream.id, code, stream.sent).encode()

    def _stop_frame(self, stream: FramedStream, code: int) -> bytes:
        return StopSending(stream.id, code).encode()

    def _close_frame(self, code: int, reason: str, *, application: bool) -> bytes:
        return Close(code, reason, application).encode()
