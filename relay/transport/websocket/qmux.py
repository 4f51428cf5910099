"""QMux over WebSocket, drafts 00 to 02: QUIC's streams and flow control in messages.

Received data counts against limits that were really sent. Ours grow as data is delivered, in steps of about a
third of a window, before a peer reaches them: deployed peers stall there silently.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from relay.model.limits import Limits
from relay.transport.session import DatagramReceived
from relay.transport.websocket.choice import Choice
from relay.transport.websocket.session import FramedSession, Framing
from relay.transport.websocket.stream import FramedStream
from relay.transport.websocket.streams import FlowControl
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

STREAM_WINDOW = 1 << 20  # bytes: a large key frame at once, or 80 Mbit/s at 100 ms round trip
IDLE_TIMEOUT = 30.0  # seconds without a frame; WebSocket pings do not count, QMux's do
PARAMETERS_TIMEOUT = 10.0  # seconds for the peer's transport parameters, as deployed peers wait
MAX_DATAGRAM = 1_280  # bytes of a datagram frame: a larger one fits no QUIC packet to another peer
DATAGRAM_HEADER = 3  # type and length
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
        """False if received data exceeds the limit."""
        self.used += amount
        return self.used <= self.limit

    def release(self, amount: int) -> bool:
        """True if the limit must grow."""
        self._released += amount
        if self.used + 2 * self._released <= self._granted:
            return False
        self._granted += self._released
        self._released = 0
        return True

    def announce(self) -> int:
        self.limit = self._granted
        return self.limit


class StreamFlow:
    """The limits of one stream."""

    __slots__ = ("credit", "send_limit")

    def __init__(self, send_limit: int, window: int) -> None:
        self.send_limit = send_limit  # the peer's
        self.credit = Window(window)  # ours


class QmuxFlow(FlowControl):
    """Limits of a session and its streams, and the datagrams to send."""

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits.websocket_streams)
        self.theirs: Parameters | None = None
        self.send_limit = 0
        self.streams_limit = {False: 0, True: 0}
        self.datagrams: deque[bytes] = deque()
        self.stream_window = min(STREAM_WINDOW, limits.websocket_window)
        self._window = Window(limits.websocket_window)
        self._stream_windows = {False: Window(self.max_streams), True: Window(self.max_streams)}
        self._sent_bytes = 0
        self._grants: dict[FramedStream, None] = {}
        self._grant_data = False
        self._grant_streams: dict[bool, None] = {}

    def begin(self, stream: FramedStream) -> None:
        theirs = self.theirs or Parameters()
        if stream.unidirectional:
            send_limit = theirs.stream_data_uni
        elif stream.opened_by_peer:
            send_limit = theirs.stream_data_bidi_local
        else:
            send_limit = theirs.stream_data_bidi_remote
        stream.flow = StreamFlow(send_limit, self.stream_window)
        if stream.opened_by_peer:
            window = self._stream_windows[stream.unidirectional]
            window.used = max(window.used, (stream.id >> 2) + 1)

    # -- received data

    def count(self, stream: FramedStream, size: int) -> bool:
        if not size:
            return False
        credit = stream.flow.credit
        if not credit.take(size):
            raise ProtocolViolation(f"stream {stream.id} exceeds its limit of {credit.limit} bytes")
        if not self._window.take(size):
            raise ProtocolViolation(f"the streams exceed their limit of {self._window.limit} bytes")
        raises = credit.release(size)
        if raises:
            self._grants[stream] = None
        return self._release_data(size) or raises

    def on_final_size(self, stream: FramedStream, final_size: int) -> bool:
        """A reset stream's unsent part is used up. Some senders always write 0."""
        credit = stream.flow.credit
        gap = max(0, final_size - credit.used)
        if not (credit.take(gap) and self._window.take(gap)):
            raise ProtocolViolation(f"stream {stream.id} ends beyond the limits, at {final_size} bytes")
        return self._release_data(gap)

    def _release_data(self, size: int) -> bool:
        raises = self._window.release(size)
        self._grant_data |= raises
        return raises

    def released(self, *, unidirectional: bool) -> bool:
        raises = self._stream_windows[unidirectional].release(1)
        if raises:
            self._grant_streams[unidirectional] = None
        return raises

    def index_limit(self, over: int, *, unidirectional: bool) -> int:  # noqa: ARG002
        return self._stream_windows[unidirectional].limit

    # -- data to send

    def next_frame(self, room: int) -> bytes | None:
        if self._grant_data:
            self._grant_data = False
            return MaxData(self._window.announce()).encode()
        while self._grant_streams:
            kind, _ = self._grant_streams.popitem()
            return MaxStreams(kind, self._stream_windows[kind].announce()).encode()
        while self._grants:
            stream, _ = self._grants.popitem()
            if not stream.received:
                return MaxStreamData(stream.id, stream.flow.credit.announce()).encode()
        if self.datagrams and len(self.datagrams[0]) + DATAGRAM_HEADER <= room:
            return DatagramFrame.encode(self.datagrams.popleft())
        return None

    def may_open(self, index: int, *, unidirectional: bool) -> bool:
        return index < self.streams_limit[unidirectional]

    def send_credit(self, stream: FramedStream) -> int:
        flow: StreamFlow = stream.flow
        return max(0, min(flow.send_limit - stream.buffer.sent, self.send_limit - self._sent_bytes))

    def sent(self, size: int) -> None:
        self._sent_bytes += size


class Pings:
    """The pings of both directions. `strict`: the peer's numbers must be right, as of draft 02."""

    __slots__ = ("_last", "_next", "sent")

    def __init__(self) -> None:
        self.sent: dict[int, float] = {}  # unanswered: number, and the time in seconds
        self._next = 0
        self._last = -1

    def add(self, now: float) -> int:
        """Return the number to send."""
        self.sent[self._next] = now
        self._next += 1
        return self._next - 1

    def answered(self, number: int, *, strict: bool) -> float | None:
        """Return when that ping was sent; `None` if it was answered before."""
        if strict and number >= self._next:
            raise ProtocolViolation(f"answer to a ping {number} that was not sent")
        return self.sent.pop(number, None)

    def received(self, number: int, *, strict: bool) -> None:
        if strict and number <= self._last:
            raise ProtocolViolation(f"ping {number} after ping {self._last}")
        self._last = number


class QmuxFraming(Framing):
    """QMux."""

    strict = True

    def __init__(self, choice: Choice, limits: Limits, clock: Callable[[], float]) -> None:
        super().__init__(choice, limits, clock)
        assert choice.draft is not None
        draft = self.draft = choice.draft
        self.packs = draft.packs
        self.room = min(self.room, MAX_RECORD) if draft.packs else MAX_MESSAGE_00
        self.max_message = MAX_RECORD if draft.packs else MAX_MESSAGE_00
        self.flow = self._flow = QmuxFlow(limits)
        window, max_streams = self._flow.stream_window, limits.websocket_streams
        # versions before 05 have no datagrams
        datagrams = draft.packs and choice.version is not None and choice.version.has_timestamps
        self._ours = Parameters(
            idle_timeout=int(IDLE_TIMEOUT * 1000),
            max_data=limits.websocket_window,
            stream_data_bidi_local=window,
            stream_data_bidi_remote=window,
            stream_data_uni=window,
            streams_bidi=max_streams,
            streams_uni=max_streams,
            max_datagram=MAX_DATAGRAM if datagrams else 0,
            reset_stream_at=draft >= Draft.QMUX_02,
        )
        self._pings = Pings()
        self._began_at = self._active_at = clock()

    def begin(self, session: FramedSession) -> None:
        super().begin(session)
        self._streams.control(self._ours.encode())

    # -- datagrams

    @property
    def datagram_limit(self) -> int:
        theirs = self._flow.theirs
        if theirs is None or not self.packs or self._session.ended:
            return 0
        return max(0, min(theirs.max_datagram, self.room) - DATAGRAM_HEADER)

    def send_datagram(self, data: bytes) -> None:
        datagrams = self._flow.datagrams
        if len(data) <= self.datagram_limit and len(datagrams) < PENDING_DATAGRAMS:
            datagrams.append(data)
            self._streams.wake()

    # -- time

    def deadline(self) -> tuple[float, str]:
        if self._flow.theirs is None:
            return self._began_at + PARAMETERS_TIMEOUT, "no transport parameters in time"
        return self._active_at + self._idle_timeout(), "idle timeout"

    def resume(self, seconds: float) -> None:
        self._began_at += seconds
        self._active_at += seconds

    def _idle_timeout(self) -> float:
        """The smaller of both ends' values. Draft 00 has no ping to keep an idle session."""
        theirs = self._flow.theirs
        if theirs is None or not self.packs:
            return float("inf")
        return min(IDLE_TIMEOUT, theirs.idle_timeout / 1000 or IDLE_TIMEOUT)

    @property
    def ping_interval(self) -> float:
        return min(super().ping_interval, self._idle_timeout() / 3)

    @property
    def measures_pongs(self) -> bool:
        return not self.packs  # others answer QMux's ping at once, but WebSocket pings late

    def ping(self) -> None:
        # no ping before the parameters; draft 00 lacks the frame
        if self.packs and self._flow.theirs is not None and not self._pings.sent:
            self._streams.control(Ping(self._pings.add(self.clock())).encode())

    # -- receiving

    def handle(self, message: bytes) -> None:
        self._active_at = self.clock()
        for frame in decode_message(message, self.draft):
            self._on_frame(frame)
            if self._session.ended:
                return

    def _on_frame(self, frame: Frame) -> None:  # noqa: C901, PLR0912 - one case per frame
        flow, streams = self._flow, self._streams
        if isinstance(frame, Parameters) is (flow.theirs is not None):
            late = "a second time" if flow.theirs is not None else "not first"
            raise ProtocolViolation(f"transport parameters come {late}")
        match frame:
            case StreamFrame():
                streams.on_stream(frame)
            case ResetStream():
                reset = streams.on_reset(frame)
                if reset is not None and flow.on_final_size(reset, frame.final_size):
                    streams.wake()
            case StopSending():
                streams.on_stop(frame)
            case MaxData():
                flow.send_limit = max(flow.send_limit, frame.limit)
                streams.unblock()
            case MaxStreamData():
                stream = streams.table.get(frame.stream_id)
                if stream is not None and frame.limit > stream.flow.send_limit:
                    stream.flow.send_limit = frame.limit
                    streams.unblock()
            case MaxStreams():
                limit = flow.streams_limit[frame.unidirectional]
                flow.streams_limit[frame.unidirectional] = max(limit, frame.limit)
                streams.admit(unidirectional=frame.unidirectional)
            case Close():
                self.on_close(frame)
            case Ping():
                self._on_ping(frame)
            case DatagramFrame():
                if frame.size > self._ours.max_datagram:
                    allowed = (
                        f"at most {self._ours.max_datagram} are" if self._ours.max_datagram else "none is"
                    )
                    raise ProtocolViolation(f"datagram frame of {frame.size} bytes, {allowed} allowed")
                self._session.events.add(DatagramReceived(frame.data))
            case Parameters():
                self._on_parameters(frame)

    def _on_parameters(self, parameters: Parameters) -> None:
        if self.packs and parameters.max_record < MAX_RECORD:
            raise ProtocolViolation(
                f"max_record_size is {parameters.max_record}, at least {MAX_RECORD} is due"
            )
        flow = self._flow
        flow.theirs = parameters
        flow.send_limit = parameters.max_data
        flow.streams_limit = {False: parameters.streams_bidi, True: parameters.streams_uni}
        self._streams.admit(unidirectional=False)
        self._streams.admit(unidirectional=True)

    def _on_ping(self, frame: Ping) -> None:
        strict = self.draft >= Draft.QMUX_02
        if frame.response:
            sent_at = self._pings.answered(frame.sequence, strict=strict)
            if sent_at is not None:
                self._session.alive.measure(sent_at)
        else:
            self._pings.received(frame.sequence, strict=strict)
            self._streams.control(Ping(frame.sequence, response=True).encode())

    # -- sending

    def stream_header(self, stream: FramedStream, size: int, *, fin: bool) -> bytes:
        return stream_header(stream.id, stream.buffer.sent, size, fin=fin)

    def reset_frame(self, stream: FramedStream, code: int) -> bytes:
        return ResetStream(stream.id, code, stream.buffer.sent).encode()

    def stop_frame(self, stream: FramedStream, code: int) -> bytes:
        return StopSending(stream.id, code).encode()

    def close_frame(self, code: int, reason: str, *, application: bool) -> bytes:
        return Close(code, reason, application).encode()
