"""A QUIC connection after its handshake: packets and frames of the 1-RTT space (RFC 9000, 9001, 9002, 9221).

A state machine without I/O. The driver passes datagrams and the time, and sends what `flush` returns.
"""

from __future__ import annotations

import hmac
import random
from collections import deque
from collections.abc import Callable
from typing import Final

from relay.quic import errors
from relay.quic.acks import ReceivedPackets
from relay.quic.cids import TOKEN, HostCids, PeerCids
from relay.quic.congestion import make_congestion
from relay.quic.errors import QuicError
from relay.quic.handler import APPLICATION, Close, Handler, Trace, Waker
from relay.quic.mtu import PathMtu
from relay.quic.packet_keys import NATIVE, RESERVED, TAG, Keys, PacketProtection
from relay.quic.paths import MOST_PATHS, MOST_RESPONSES, NEVER, TRIES, Path
from relay.quic.recovery import ControlFrame, Recovery, Sent
from relay.quic.settings import QuicSettings
from relay.quic.start import OUR_MIN_ACK_DELAY, Start
from relay.quic.stream_table import StreamTable
from relay.quic.streams import Stream
from relay.quic.varint import read_varint, varint

Burst = tuple[list[bytes], int, tuple[object, ...]]
"""Packets in order, their size (the last of a buffer may be shorter), and the address."""

OPEN: Final = 0
CLOSING: Final = 1  # the peer may not know
DRAINING: Final = 2  # the peer has closed
CLOSED: Final = 3

FIXED_BIT: Final = 0x40
SHORT_NUMBER: Final = 2
LONG_NUMBER: Final = 4
NUMBER_SPAN: Final = 1 << 14  # outstanding packets that make 2-byte numbers ambiguous: half of RFC 9000, 17.1
SMALLEST_ROOM: Final = 24  # below which another STREAM frame is not worth its header
SMALLEST_PAYLOAD: Final = 3  # bytes for the header protection sample, whatever the size of the packet number
BURST: Final = 256  # packets: other connections want their turn
MOST_SEGMENTS: Final = 64  # packets that the kernel cuts from one buffer, and its bytes
MOST_BYTES: Final = 65_000
TRAIN_END: Final = 1 << 30  # offset of 4 bytes; data beyond is sent packet by packet
TRAIN_HEAD: Final = 1 + 4  # bytes of a STREAM frame header without the stream id
PATH_PACKET: Final = 1200  # bytes (RFC 9000, 8.2.1)
SMALLEST_RESET: Final = 21  # bytes (RFC 9000, 10.3)

FIRST_SKIP: Final = (16, 256)  # packets until the first skipped number, and between two (RFC 9000, 21.4)
NEXT_SKIP: Final = (1 << 13, 1 << 15)

ACK_OF_ACK: Final = 8  # an ACK of several ranges is ack-eliciting once per so many packets, to be forgotten
FEWEST_PER_ACK: Final = 2
MOST_PER_ACK: Final = 32  # bounds of the requested ack-eliciting packets per acknowledgement
BLACK_HOLE_PROBES: Final = 3  # consecutive time-outs after which packets may be too large for the path
MOST_KEPT: Final = 256 * 1024 * 1024
"""Bytes of sent stream data kept for a peer that never acknowledges one packet: many round trips at 1 Gbit/s."""

KEPT_INTERVAL: Final = 1.0  # seconds between checks of that
MOST_DATAGRAMS: Final = 64  # late ones are worthless, so the newest is dropped
SHORTEST_KEEP_ALIVE: Final = 0.5  # seconds between pings, whatever the peer's idle time-out
REASON: Final = 1024  # bytes of a close reason
IDLE_REASON: Final = "idle timeout"


class Connection:
    """The 1-RTT packet number space of one connection.

    Size: what every packet reads and changes is kept here, since each hop to another object costs; the parts
    with rules of their own (streams, recovery, keys, acknowledgements, ids, MTU) are objects.
    """

    def __init__(
        self,
        start: Start,
        settings: QuicSettings,
        source: random.Random,
        now: float,
        *,
        waker: Waker,
        token_of: Callable[[bytes], bytes],
    ) -> None:
        """`token_of`: the stateless reset token of an id of ours."""
        peer = start.peer
        self.is_client = start.is_client
        self.peer = peer
        self.state = OPEN
        self.close_event: Close | None = None
        self.confirmed = not start.is_client  # by HANDSHAKE_DONE (RFC 9001, 4.1.2)
        self.trace: Trace | None = None
        self._random = source
        self._settings = settings
        self.protection = PacketProtection(
            start.suite,
            start.version,
            start.send_secret,
            start.receive_secret,
            native=settings.native and NATIVE,
        )
        self.streams = StreamTable(start, settings, waker)
        self.received = ReceivedPackets()
        self.host_cids = HostCids(start.host_cid, peer.active_connection_id_limit, source, token_of)
        self.peer_cids = PeerCids(start.peer_cid, start.peer_token)
        self._cid_size = len(start.host_cid)
        self._used_cid = start.host_cid  # ours, in the newest packet
        self.path = Path(start.address, start.peer_cid, 0, validated=True)
        self._other_paths: list[Path] = []
        self.mtu = PathMtu(settings.max_datagram_size)
        self.mtu.limit(peer.max_udp_payload_size)
        self.packet_size = self.mtu.size
        self.recovery = Recovery(
            make_congestion(settings.congestion, self.packet_size), max_ack_delay=peer.max_ack_delay
        )
        self.recovery.rtt = start.rtt
        self.recovery.rtt_variance = start.rtt_variance
        self.recovery.rtt_min = start.rtt_min
        self.recovery.rtt_latest = start.rtt_latest
        # Sending.
        self._number = start.packet_number  # the next packet's
        self._skip_at = self._number + source.randrange(*FIRST_SKIP)
        self._frames: deque[ControlFrame] = deque()  # to be sent
        self._datagrams: deque[bytes] = deque()
        self._probe = False  # a probe time-out asks for an ack-eliciting packet
        self._pacing_at = NEVER
        self._asked_window = 0  # the congestion window at the last ACK_FREQUENCY
        self._asked_per_ack = 0  # packets per acknowledgement last requested
        self._frequency_number = 0
        self._frequency_due = False
        self._cids_due = True  # ids of ours were retired: new ones are due, not before there is room for them
        # Time.
        self.last_received = now
        self._idle_from = now  # since when nothing is heard
        self._sent_since = False  # an ack-eliciting packet, since the last one received
        self._pinged = now
        self._kept_at = now  # when sent data was counted
        self._close_at = NEVER  # when CLOSING or DRAINING is over
        self._close_packet = b""
        self._late = 0  # datagrams since our close, and their bytes since its last repetition
        self._late_bytes = 0
        self._repeat_at = 1
        self._repeat = False
        idle = settings.idle_timeout
        if peer.max_idle_timeout and (not idle or peer.max_idle_timeout < idle):
            idle = peer.max_idle_timeout
        self.idle_timeout = idle  # seconds, the smaller of both ends'
        self.keep_alive = 0.0  # seconds of silence before a ping, 0 for never
        if settings.keep_alive:
            self.keep_alive = min(settings.keep_alive, max(idle / 3, SHORTEST_KEEP_ALIVE))
        if self.confirmed:
            self._frames.append(ControlFrame(errors.HANDSHAKE_DONE, b"\x1e", again=True))

    # -- for the driver and the session

    @property
    def handler(self) -> Handler:
        return self.streams.handler

    @handler.setter
    def handler(self, handler: Handler) -> None:
        self.streams.handler = handler

    def log_to(self, trace: Trace) -> None:
        """What is sent and done stays the same."""
        self.trace = trace
        self.recovery.traced = True

    @property
    def over(self) -> bool:
        """Nothing of a session is sent any more."""
        return self.state != OPEN

    @property
    def datagram_limit(self) -> int:
        """DATAGRAM payload of one packet and the peer; 0 for none."""
        packet = self.packet_size - 1 - SHORT_NUMBER - len(self.path.cid) - TAG
        return max(0, min(packet, self.peer.max_datagram_frame_size) - 3)

    @property
    def rate_estimate(self) -> int | None:
        """Bit/s; `None` before the first round trip sample."""
        rate, rtt = self.recovery.congestion.rate, self.recovery.rtt
        if not rate and rtt:
            rate = self.recovery.congestion.window / rtt
        return int(rate * 8) or None

    @property
    def undelivered(self) -> bool:
        """Something written on a stream may not have arrived."""
        return self.streams.undelivered

    def open_stream(self, priority: int, *, unidirectional: bool) -> Stream:
        """Streams with a higher priority are sent first."""
        return self.streams.open(priority, unidirectional=unidirectional)

    def send_datagram(self, data: bytes) -> None:
        """Send or drop a datagram."""
        if len(data) <= self.datagram_limit and len(self._datagrams) < MOST_DATAGRAMS:
            self._datagrams.append(data)
            self._wake()

    def ping(self) -> None:
        """The answer calls `Handler.pong`."""
        self._frames.append(ControlFrame(errors.PING, b"\x01", again=True, number=1))
        self._wake()

    def update_keys(self) -> None:
        self.protection.update()

    def close(self, code: int, reason: str = "", *, transport: bool = False, frame_type: int = 0) -> None:
        """Close with an application code, or a transport error. A later call has no effect."""
        if self.state == OPEN:
            self._end(CLOSING, Close(code, reason, frame_type=frame_type if transport else APPLICATION))
            self._wake()

    def release(self) -> None:
        """Break reference cycles."""
        self.state = CLOSED
        self.streams.clear()
        self.recovery.sent.clear()
        self._frames.clear()
        self._other_paths.clear()

    def resume(self, now: float, late: float) -> None:
        """The process paused for `late` seconds, which is no silence of the peer.

        A short pause extends the time-out by its length, so a busy relay still detects dead peers. After a long
        one the peer has half the idle time-out.
        """
        half = self.idle_timeout / 2
        if late < half:
            self.last_received = min(now, self.last_received + late)
            self._idle_from = min(now, self._idle_from + late)
        else:
            self.last_received = max(self.last_received, now - half)
            self._idle_from = max(self._idle_from, now - half)

    def _wake(self) -> None:
        table = self.streams
        if not table.awake:
            table.awake = True
            table.waker.wake()

    def _end(self, state: int, close: Close, now: float = NEVER) -> None:
        """`now` is not known for our own close, which `_flush_close` reports."""
        self.state = state
        self.close_event = close
        if self.trace is not None and now >= 0:
            self.trace.closed(now, close)
        self.streams.deliver()
        handler, self.streams.handler = self.streams.handler, Handler()  # nothing follows
        handler.closed(close)

    # -- receiving

    def receive(self, data: bytes, address: tuple[object, ...], now: float) -> None:
        """A datagram with one 1-RTT packet. `end_of_drain` follows."""
        if self.state != OPEN:
            self._on_late(len(data))
            return
        path: Path | None = self.path
        if address != self.path.address:
            if self.is_client:
                return  # servers have one address (RFC 9000, 9)
            path = self._known_path(address)
        protection, received = self.protection, self.received
        cid_size = self._cid_size
        opened = protection.receiving.open(data, cid_size, received.stop, protection.receiving_phase)
        if opened is not None and opened[2] is None:
            phase = protection.sending_phase
            opened = protection.open_other_phase(data, cid_size, received.stop)
            if self.trace is not None and protection.sending_phase != phase:
                self.trace.key_updated(now, by_peer=True)
        if opened is None:
            self._on_noise(data, now)
            return
        number, first, plain = opened
        assert plain is not None
        if received.is_duplicate(number):
            if self.trace is not None:
                self.trace.dropped(now, len(data), "duplicate")
            return
        if path is None:
            path = self._add_path(address, data[1 : 1 + cid_size])
        if not path.validated:
            path.received += len(data)
        trace = self.trace
        if trace is not None:
            trace.received(now, number, len(data), plain)
        if first & RESERVED:
            self.close(errors.PROTOCOL_VIOLATION, "reserved bits must be zero", transport=True)
            return
        try:
            flags = self._read_frames(plain, data, path, now)
        except QuicError as error:
            self.close(error.code, error.reason, transport=True, frame_type=error.frame_type)
            return
        if self.state != OPEN:
            return
        self.last_received = self._idle_from = now
        self._sent_since = False
        received.add(number, now, flags & _ELICITING != 0)
        if number != received.stop - 1:
            return
        if path is not self.path:
            if flags & _MOVES:
                self._migrate(path, data[1 : 1 + cid_size], now)
        elif not data.startswith(self._used_cid, 1):
            self._used_cid = data[1 : 1 + cid_size]

    def receive_train(self, buffer: memoryview, each: int, address: tuple[object, ...], now: float) -> int:
        """Receive a packet train at the start of `buffer`: datagrams of `each` bytes, the last maybe fewer.

        Returns how many it holds, 0 for none: then `receive` takes the first.
        """
        received, protection = self.received, self.protection
        path = self.path
        if self.state != OPEN or self.trace is not None or not path.validated or address != path.address:
            return 0
        cid = self._used_cid
        taken = protection.receiving.take(buffer, each, cid, received.stop, protection.receiving_phase)
        if taken is None:
            return 0
        count, kind, stream_id, offset, data, fin = taken
        try:
            self.streams.on_stream(kind, stream_id, offset, data, fin)
        except QuicError as error:
            self.close(error.code, error.reason, transport=True, frame_type=error.frame_type)
            return count
        self.last_received = self._idle_from = now
        self._sent_since = False
        received.add_train(count, now)
        return count

    def end_of_drain(self, now: float) -> None:
        """Deliver stream data, apply acknowledgements."""
        streams, recovery = self.streams, self.recovery
        streams.deliver()
        if self.state != OPEN:
            return
        if recovery.news:
            congestion = recovery.congestion
            in_flight = congestion.in_flight + recovery.acked_bytes
            recovery.settle(now, 2 * in_flight >= congestion.window or bool(streams.queue.ready))
            self._apply_fates(now)
        if streams.ended_streams:
            streams.discard_ended()
        if recovery.outstanding and now - self._kept_at > KEPT_INTERVAL:
            self._kept_at = now
            if streams.kept() > MOST_KEPT:
                text = "too much is not acknowledged"
                self.close(errors.INTERNAL_ERROR, text, transport=True, frame_type=errors.ACK)

    def _apply_fates(self, now: float) -> None:
        """Handle what became of frames, MTU probes and ACK frames."""
        recovery, streams, mtu = self.recovery, self.streams, self.mtu
        if recovery.acked_frames:
            frames, recovery.acked_frames = recovery.acked_frames, []
            for frame in frames:
                if frame.kind == errors.PING:
                    if frame.number > 0:
                        streams.handler.pong()
                elif frame.kind == errors.RETIRE_CONNECTION_ID:
                    self.peer_cids.retiring.discard(frame.number)
                else:
                    streams.on_frame_acked(frame)
        if recovery.lost_frames:
            frames, recovery.lost_frames = recovery.lost_frames, []
            for frame in frames:
                if frame.kind == errors.ACK_FREQUENCY:
                    if frame.number == self._frequency_number - 1:
                        self._asked_per_ack = 0
                        self._frequency_due = True
                elif frame.kind == errors.NEW_CONNECTION_ID:
                    if self.host_cids.knows(frame.number):
                        self._frames.append(frame)
                elif streams.on_frame_lost(frame):
                    self._frames.append(frame)
        if recovery.acked_acks >= 0:
            self.received.forget(recovery.acked_acks)
            recovery.acked_acks = -1
        if recovery.acked_full:
            recovery.acked_full = False
            mtu.losses = 0
        if recovery.lost_full:
            lost, recovery.lost_full = recovery.lost_full, 0
            if mtu.lost(lost, now):
                self._resize()
        if recovery.arrived_probe:
            mtu.arrived(recovery.arrived_probe, now)
            recovery.arrived_probe = 0
            self._resize()
        if recovery.failed_probe:
            recovery.failed_probe = 0
            mtu.failed(now)
        if self.peer.min_ack_delay >= 0:
            window = recovery.congestion.window
            if not window < 2 * self._asked_window < 4 * window:
                self._frequency_due = True
        trace = self.trace
        if trace is not None:
            for first, last in recovery.lost_traced:
                trace.lost(now, first, last)
            recovery.lost_traced.clear()
            trace.metrics(now, recovery)

    def _resize(self) -> None:
        """Adopt a new packet size of the path."""
        self.packet_size = self.mtu.size
        self.recovery.congestion.resize(self.mtu.size)
        self.recovery.pacer.size = self.mtu.size

    def _on_noise(self, data: bytes, now: float) -> None:
        """Noise, or a stateless reset (RFC 9000, 10.3)."""
        if self.trace is not None:
            self.trace.dropped(now, len(data), "payload_decrypt_error")
        if len(data) >= SMALLEST_RESET and self.is_reset(data):
            self._close_at = now + 3 * self.recovery.probe_timeout()
            self._end(DRAINING, Close(0, "stateless reset", frame_type=0, by_peer=True, reset=True), now)
            return
        try:
            self.protection.failed()
        except QuicError as error:
            self.close(error.code, error.reason, transport=True, frame_type=error.frame_type)

    def is_reset(self, data: bytes) -> bool:
        """The datagram ends with a token of the peer. The check takes the same time for each."""
        found = False
        token = data[-TOKEN:]
        for known in self.peer_cids.tokens:
            found |= hmac.compare_digest(known, token)
        return found

    # -- frames

    def _read_frames(self, plain: bytes, data: bytes, path: Path, now: float) -> int:
        """Returns `_ELICITING` and `_MOVES`. Raises QuicError."""
        at = 0
        end = len(plain)
        if not end:
            raise QuicError(errors.PROTOCOL_VIOLATION, errors.PADDING, "packet without frames")
        flags = 0
        kind = 0
        try:
            while at < end and self.state == OPEN:
                kind = plain[at]
                if kind & 0xF8 == 0x08:
                    flags |= _BOTH
                    at = self._read_stream(plain, at, end)
                elif kind == errors.ACK:
                    flags |= _MOVES
                    at = self.recovery.read_ack(plain, at + 1, self._number, self.peer.ack_delay_exponent)
                elif kind == errors.PADDING:
                    at = end - len(plain[at:].lstrip(b"\0"))
                elif kind == errors.PING:
                    flags |= _BOTH
                    self.received.unacked = self.received.every  # asks for an ACK: answer at once
                    at += 1
                elif kind & 0xFE == errors.DATAGRAM:
                    flags |= _BOTH
                    at = self._read_datagram(plain, at, end)
                elif kind <= errors.STOP_SENDING:
                    at = self._read_stream_end(plain, at)
                    flags |= _BOTH if kind != errors.ACK_ECN else _MOVES
                elif errors.MAX_DATA <= kind <= errors.STREAMS_BLOCKED_UNI:
                    flags |= _BOTH
                    at = self._read_limit(plain, at)
                elif errors.NEW_CONNECTION_ID <= kind <= errors.PATH_RESPONSE:
                    flags |= _ELICITING if kind != errors.RETIRE_CONNECTION_ID else _BOTH
                    at = self._read_path_frame(plain, at, data, path)
                else:
                    flags |= _BOTH
                    at = self._read_rare(plain, at, now)
        except IndexError:
            raise QuicError(errors.FRAME_ENCODING_ERROR, kind, "the frame ends early") from None
        return flags

    def _read_stream(self, plain: bytes, at: int, end: int) -> int:
        """RFC 9000, 19.8."""
        kind = plain[at]
        stream_id, at = read_varint(plain, at + 1)
        offset = 0
        stop = end
        if kind & 4:
            offset, at = read_varint(plain, at)
        if kind & 2:
            length, at = read_varint(plain, at)
            stop = at + length
            if stop > end:
                raise IndexError
        self.streams.on_stream(kind, stream_id, offset, plain[at:stop], kind & 1 != 0)
        return stop

    def _read_datagram(self, plain: bytes, at: int, end: int) -> int:
        """RFC 9221."""
        stop = end
        if plain[at] & 1:
            length, at = read_varint(plain, at + 1)
            stop = at + length
            if stop > end:
                raise IndexError
        else:
            at += 1
        self.streams.deliver()
        self.streams.handler.datagram(plain[at:stop])
        return stop

    def _read_stream_end(self, plain: bytes, at: int) -> int:
        """ACK with ECN counts, RESET_STREAM, STOP_SENDING (RFC 9000, 19.3 to 19.5)."""
        kind = plain[at]
        at += 1
        if kind == errors.ACK_ECN:
            at = self.recovery.read_ack(plain, at, self._number, self.peer.ack_delay_exponent)
            for _ in range(3):
                _, at = read_varint(plain, at)
            return at
        stream_id, at = read_varint(plain, at)
        code, at = read_varint(plain, at)
        if kind == errors.STOP_SENDING:
            self.streams.on_stop_sending(stream_id, code)
            return at
        size, at = read_varint(plain, at)
        self.streams.on_reset(stream_id, code, size)
        return at

    def _read_limit(self, plain: bytes, at: int) -> int:
        """MAX_DATA to STREAMS_BLOCKED (RFC 9000, 19.9 to 19.14)."""
        kind = plain[at]
        value, at = read_varint(plain, at + 1)
        if kind == errors.MAX_DATA:
            self.streams.on_max_data(value)
        elif kind == errors.MAX_STREAM_DATA:
            limit, at = read_varint(plain, at)
            self.streams.on_max_stream_data(value, limit)
        elif kind <= errors.MAX_STREAMS_UNI:
            self.streams.on_max_streams(value, unidirectional=kind == errors.MAX_STREAMS_UNI)
        elif kind == errors.STREAM_DATA_BLOCKED:
            _, at = read_varint(plain, at)
            self.streams.on_blocked(value)
        elif kind >= errors.STREAMS_BLOCKED_BIDI and value > 1 << 60:
            raise QuicError(errors.FRAME_ENCODING_ERROR, kind, "more than 2^60 streams")
        return at

    def _read_path_frame(self, plain: bytes, at: int, data: bytes, path: Path) -> int:
        """Connection ids and path validation (RFC 9000, 19.15 to 19.18)."""
        kind = plain[at]
        at += 1
        if kind == errors.NEW_CONNECTION_ID:
            number, at = read_varint(plain, at)
            prior, at = read_varint(plain, at)
            size = plain[at]
            end = at + 1 + size + TOKEN
            if end > len(plain):
                raise IndexError
            self.peer_cids.add(number, prior, plain[at + 1 : end - TOKEN], plain[end - TOKEN : end])
            self._replace_cids()
            return end
        if kind == errors.RETIRE_CONNECTION_ID:
            number, at = read_varint(plain, at)
            self.host_cids.retire(number, data[1 : 1 + self._cid_size])
            self._cids_due = True
            return at
        end = at + 8
        if end > len(plain):
            raise IndexError
        if kind == errors.PATH_CHALLENGE:
            path.responses.append(plain[at:end])
            if len(path.responses) > MOST_RESPONSES:
                del path.responses[0]
            if path is self.path and not self._frames:
                # What moves the peer back, if it takes us for moved (RFC 9000, 9.3.3).
                self._frames.append(ControlFrame(errors.PING, b"\x01"))
        else:
            self._on_path_response(plain[at:end], path)
        return end

    def _read_rare(self, plain: bytes, at: int, now: float) -> int:
        """CRYPTO, NEW_TOKEN, CONNECTION_CLOSE, HANDSHAKE_DONE, ACK_FREQUENCY, IMMEDIATE_ACK."""
        kind = plain[at]
        at += 1
        if kind == errors.CRYPTO:
            # Session tickets of a server: the handshake is complete.
            _, at = read_varint(plain, at)
            length, at = read_varint(plain, at)
            if length and not self.is_client:
                raise QuicError(errors.UNEXPECTED_MESSAGE, kind, "TLS message after the handshake")
        elif kind == errors.NEW_TOKEN:
            length, at = read_varint(plain, at)
            if not self.is_client:
                raise QuicError(errors.PROTOCOL_VIOLATION, kind, "NEW_TOKEN of a client")
            if not length:
                raise QuicError(errors.FRAME_ENCODING_ERROR, kind, "NEW_TOKEN is empty")
        elif kind in (errors.TRANSPORT_CLOSE, errors.APPLICATION_CLOSE):
            code, at = read_varint(plain, at)
            frame_type = APPLICATION
            if kind == errors.TRANSPORT_CLOSE:
                frame_type, at = read_varint(plain, at)
            length, at = read_varint(plain, at)
            if at + length <= len(plain):
                reason = plain[at : at + length].decode("utf-8", "replace")
                self._close_at = now + 3 * self.recovery.probe_timeout()
                self._end(DRAINING, Close(code, reason, frame_type=frame_type, by_peer=True), now)
        elif kind == errors.HANDSHAKE_DONE:
            if not self.is_client:
                raise QuicError(errors.PROTOCOL_VIOLATION, kind, "HANDSHAKE_DONE of a client")
            self.confirmed = True
            length = 0
        elif kind == errors.IMMEDIATE_ACK:
            self.received.unacked = self.received.every
            length = 0
        else:
            kind, at = read_varint(plain, at - 1)
            if kind != errors.ACK_FREQUENCY:
                raise QuicError(errors.FRAME_ENCODING_ERROR, kind, "unknown frame type")
            number, at = read_varint(plain, at)
            threshold, at = read_varint(plain, at)
            delay, at = read_varint(plain, at)
            _, at = read_varint(plain, at)  # reordering: gaps are acknowledged at once in any case
            length = 0
            if delay < OUR_MIN_ACK_DELAY:
                raise QuicError(errors.PROTOCOL_VIOLATION, kind, "the delay is below min_ack_delay")
            self.received.ask(number, threshold + 1, delay / 1_000_000)
        if at + length > len(plain):
            raise IndexError
        return at + length

    # -- connection ids and paths

    def _issue_cids(self) -> None:
        for number, data in self.host_cids.issue():
            self._frames.append(ControlFrame(errors.NEW_CONNECTION_ID, data, again=True, number=number))

    def _replace_cids(self) -> None:
        """Leave ids that the peer wants retired."""
        cids = self.peer_cids
        for path in (self.path, *self._other_paths):
            if path.number < cids.prior:
                number, cid = cids.take()
                if number >= 0:
                    path.number, path.cid = number, cid
        cids.retire_old([path.number for path in (self.path, *self._other_paths)])
        for number in cids.retired:
            data = b"\x19" + varint(number)
            self._frames.append(ControlFrame(errors.RETIRE_CONNECTION_ID, data, again=True, number=number))
        cids.retired.clear()

    def _known_path(self, address: tuple[object, ...]) -> Path | None:
        for path in self._other_paths:
            if path.address == address:
                return path
        return None

    def _add_path(self, address: tuple[object, ...], used: bytes) -> Path:
        """The first packet of the path came to the id `used` (RFC 9000, 9.5)."""
        number, cid = self.path.number, self.path.cid
        if used != self._used_cid:
            fresh, new = self.peer_cids.take()
            if fresh >= 0:
                number, cid = fresh, new
        path = Path(address, cid, number, validated=False)
        others = self._other_paths
        if len(others) >= MOST_PATHS:
            # Keep the one to return to.
            self._drop_path(next((each for each in others if not each.validated), others[0]))
        others.append(path)
        return path

    def _drop_path(self, path: Path) -> None:
        self._other_paths.remove(path)
        self._replace_cids()

    def _migrate(self, path: Path, used: bytes, now: float) -> None:
        """RFC 9000, 9.3."""
        old = self.path
        self._other_paths.remove(path)
        self._other_paths.append(old)
        self.path = path
        self._used_cid = used
        if old.validated:
            # Once: a peer that has not moved, but whose packets another sends on, comes back (RFC 9000, 9.3.3).
            old.challenge = self._random.randbytes(8)
            old.challenge_due = True
        if not path.validated:
            self._challenge(path, now)
        if path.address[0] != old.address[0]:
            # Not a port changed by a NAT: another network (RFC 9000, 9.4).
            recovery = self.recovery
            recovery.restart()
            self.mtu.restart()
            self._resize()
        self._wake()

    def _challenge(self, path: Path, now: float) -> None:
        path.challenge = self._random.randbytes(8)
        path.challenge_due = True
        path.due = now + 3 * self.recovery.probe_timeout() * (1 << path.tries)
        path.tries += 1

    def _on_path_response(self, data: bytes, source: Path) -> None:
        """The peer answers one of our challenges. It validates the path of the challenge, not its own."""
        for path in (self.path, *self._other_paths):
            if path.challenge and hmac.compare_digest(path.challenge, data):
                path.validated = True
                path.challenge = b""
                path.challenge_due = False
                path.due = NEVER
                path.tries = 0
                if path is self.path:
                    # The other paths were left; a packet of the peer may come back to them.
                    self._other_paths = [
                        each for each in self._other_paths if each.responses or each is source
                    ]
                    self._replace_cids()

    def _serve_paths(self, now: float) -> None:
        """Repeat challenges, and give up paths that do not answer (RFC 9000, 8.2.4)."""
        for path in (self.path, *self._other_paths):
            if path.due < 0 or path.due > now:
                continue
            if path.tries < TRIES:
                self._challenge(path, now)
                continue
            path.due = NEVER
            path.challenge = b""
            if path is not self.path:
                self._drop_path(path)
                continue
            back = [each for each in self._other_paths if each.validated]
            if not back:
                # Silently: nothing can be sent (RFC 9000, 9.3.2).
                self._end(CLOSED, Close(errors.NO_ERROR, "no network path", frame_type=0, idle=True), now)
                return
            self.path = back[-1]
            self._other_paths.remove(self.path)
            self._replace_cids()

    # -- sending

    def wants_to_send(self, now: float) -> bool:
        """Otherwise only timers may have moved."""
        streams = self.streams
        return bool(
            0 <= self.received.ack_at <= now
            or streams.queue.ready
            or self._frames
            or streams.has_control
            or self._datagrams
            or self._probe
            or self._frequency_due
            or self._cids_due
            or self._repeat
            or self.state == CLOSING
            or self.path.has_frames
            or self._other_paths
        )

    def flush(self, now: float) -> list[Burst]:
        """The packets of the path in use, and those of other paths."""
        streams = self.streams
        streams.awake = False
        if self.state != OPEN:
            return self._flush_close(now)
        if streams.ended_streams:
            streams.discard_ended()
        bursts: list[Burst] = []
        path = self.path
        if path.has_frames:
            self._write_path_packets(path, now, bursts)
        for other in self._other_paths:
            if other.has_frames:
                self._write_path_packets(other, now, bursts)
        buffers = self._write(now)
        if buffers:
            size = self.packet_size
            bursts.append((buffers, size, path.address))
            if len(buffers[0]) >= size and path.validated:
                wanted = self.mtu.wanted(now)
                if wanted:
                    bursts.append(([self._write_probe(wanted, now)], wanted, path.address))
        if self._pacing_at < 0 and not streams.queue.ready:
            self.recovery.congestion.on_idle()
        return bursts

    def _write(self, now: float) -> list[bytes]:
        """Write packets into buffers; empty if nothing can be sent."""
        recovery, streams, received = self.recovery, self.streams, self.received
        congestion, pacer = recovery.congestion, recovery.pacer
        frames = self._frames
        ack = received.ack_at >= 0
        self._pacing_at = NEVER
        if ack and not frames and self._number % ACK_OF_ACK == 0 and len(received.older):
            frames.append(ControlFrame(errors.PING, b"\x01"))
        control = streams.has_control or self._probe or self._frequency_due or self._cids_due
        size = self.packet_size
        budget = 0
        if control or frames or self._datagrams or streams.queue.ready:
            budget = congestion.window - congestion.in_flight
            if self._probe:
                budget = max(budget, size)  # a probe may exceed the window (RFC 9002, 7.5)
            elif pacer.rate > 0 and budget >= size:
                tokens = pacer.fill(now)
                if tokens <= 0:
                    self._pacing_at = pacer.next_time(now)
                    budget = 0
                elif tokens + size < budget:
                    budget = int(tokens) + size
            if budget < size:
                budget = 0
        path = self.path
        if not path.validated:
            budget = min(budget, path.credit)
            if self._starved:
                return []
        if not budget and not (ack and received.ack_at <= now):
            return []
        if budget and control:
            self._control_frames()
        number = self._number
        buffers = self._write_packets(now, budget, ack)
        if not path.validated:
            path.sent += sum(map(len, buffers))
        more = bool(streams.queue.ready or frames or self._datagrams)
        if more and congestion.window - congestion.in_flight >= size:
            # Neither the window nor the lack of data ended the burst.
            self._pacing_at = now if self._number - number >= BURST else pacer.next_time(now)
        return buffers

    @property
    def _starved(self) -> bool:
        """The peer's address is not validated, and must send more before we do (RFC 9000, 8)."""
        path = self.path
        return not path.validated and path.credit < self.packet_size

    def _control_frames(self) -> None:
        frames = self._frames
        if self.streams.has_control:
            self.streams.control_frames(frames)
        if self._probe:
            self._probe = False
            frames.append(ControlFrame(errors.PING, b"\x01"))
        if self._cids_due:
            self._cids_due = False
            self._issue_cids()
        if self._frequency_due:
            self._frequency_due = False
            self._ask_frequency()

    def _ask_frequency(self) -> None:
        """Fewer ACKs, several per window for its growth, at the announced delay: the PTO stays."""
        window = self.recovery.congestion.window
        wanted = min(max(window // self.packet_size // 3, FEWEST_PER_ACK), MOST_PER_ACK)
        self._asked_window = window
        if wanted == self._asked_per_ack:
            return
        self._asked_per_ack = wanted
        number = self._frequency_number
        self._frequency_number = number + 1
        values = (errors.ACK_FREQUENCY, number, wanted - 1, int(self.peer.max_ack_delay * 1_000_000), 1)
        data = b"".join([varint(value) for value in values])  # 1: gaps are acknowledged at once, as always
        self._frames.append(ControlFrame(errors.ACK_FREQUENCY, data, number=number))

    def _write_packets(self, now: float, budget: int, ack: bool) -> list[bytes]:  # noqa: FBT001 - the hot path
        """Write in order: ACK, control frames, datagrams, streams by urgency. All but the last are full."""
        recovery, streams, protection = self.recovery, self.streams, self.protection
        queue = streams.queue
        number = self._number
        if number >= self._skip_at:
            recovery.skip(number)
            number += 1
            self._number = number  # even if no packet follows now
            self._skip_at = number + self._random.randrange(*NEXT_SKIP)
        self._before_sending(number, now)
        keys = protection.sending
        cid = self.path.cid
        number_size = LONG_NUMBER if number - recovery.largest_acked > NUMBER_SPAN else SHORT_NUMBER
        flags = FIXED_BIT | protection.sending_phase << 2 | number_size - 1
        largest = self.packet_size
        full = largest - 1 - len(cid) - number_size - TAG
        frames, datagrams = self._frames, self._datagrams
        trace = self.trace
        buffers: list[bytes] = []
        charged = 0
        acked = -1
        first = number
        end = number + BURST
        while number < end and (ack or frames or datagrams or queue.ready):
            stream = queue.top
            if stream is not None and not ack and not frames and not datagrams and budget >= largest:
                if stream.id < 0 and not streams.claim(stream):
                    queue.hold()
                    continue
                most = min(budget // largest, end - number, MOST_SEGMENTS, MOST_BYTES // largest)
                packets = self._write_train(stream, most, number, now, keys, number_size, flags, cid)
                if packets:
                    buffers.append(packets)
                    number = recovery.sent[-1].last + 1
                    charged += len(packets)
                    budget -= len(packets)
                    continue
            room = full
            parts: list[bytes] = []
            record: Sent | None = None
            if ack:
                ack = False
                acked = self.received.stop - 1
                frame_data = self.received.frame(now)
                parts.append(frame_data)
                room -= len(frame_data)
            if budget >= largest:
                while frames and len(frames[0].data) <= room:
                    frame = frames.popleft()
                    if frame.kind == errors.NEW_CONNECTION_ID and not self.host_cids.knows(frame.number):
                        continue  # retired before it was sent
                    parts.append(frame.data)
                    room -= len(frame.data)
                    if record is None:
                        record = Sent(number, number, now, 0, 0)
                    if record.frames is None:
                        record.frames = []
                    record.frames.append(frame)
                while datagrams and len(datagrams[0]) + 3 > full:
                    datagrams.popleft()  # fits only beside a shorter packet number
                while datagrams and len(datagrams[0]) + 3 <= room:
                    data = datagrams.popleft()
                    parts += (b"\x31", varint(len(data)), data)
                    room -= len(data) + (2 if len(data) < 0x40 else 3)
                    if record is None:
                        record = Sent(number, number, now, 0, 0)
                while room > SMALLEST_ROOM:
                    stream = queue.top
                    if stream is None:
                        break
                    if stream.id < 0 and not streams.claim(stream):
                        queue.hold()
                        continue
                    out = stream.out
                    start = out.lost[0][0] if out.lost else out.sent
                    prefix = varint(stream.id)
                    position = varint(start) if start else b""
                    space = room - 1 - len(prefix) - len(position)
                    data = b""
                    if out.lost:
                        start, stop, data = out.take_lost(space)
                    else:
                        allowed = start + streams.send_limit - streams.send_used
                        stop = min(start + space, out.written, out.limit, allowed)
                        if stop > start:
                            data = out.take(stop)
                            streams.send_used += stop - start
                        elif not (out.fin_pending and start == out.written):
                            blocked = streams.blocked_frame(stream)
                            if blocked is not None:
                                frames.append(blocked)
                            queue.block()
                            continue
                    fin = stop == out.fin_at
                    if fin:
                        out.fin_pending = False
                    if not (out.lost or out.sent < out.written or out.fin_pending):
                        queue.done()
                    kind = 0x08 | (4 if start else 0) | (1 if fin else 0)
                    length = stop - start
                    if length >= space - 1 or not queue.ready:
                        # The last frame needs no length: it extends to the end of the packet.
                        parts += (_BYTES[kind], prefix, position, data)
                        room = 0
                    else:
                        parts += (_BYTES[kind | 2], prefix, position, varint(length), data)
                        room = space - length - (1 if length < 0x40 else 2)
                    if record is None:
                        record = Sent(number, number, now, 0, 0)
                    if record.half is None:
                        record.half = out
                        record.start = start
                        record.stop = stop
                        record.fin = fin
                    else:
                        if record.more is None:
                            record.more = []
                        record.more.append((out, start, stop, fin))
            if not parts:
                if frames and budget >= largest:
                    continue
                break
            plain = b"".join(parts)
            if len(plain) < SMALLEST_PAYLOAD:
                # In front: a STREAM frame without length would include it.
                plain = bytes(SMALLEST_PAYLOAD - len(plain)) + plain
            packet = keys.one(number, number_size, flags, cid, plain)
            buffers.append(packet)
            size = len(packet)
            if trace is not None:
                trace.sent(now, number, size, plain)
            if record is not None:
                record.size = record.last_size = size
                record.acks = acked
                acked = -1
                recovery.add(record)
                charged += size
                budget -= size
            number += 1
        if number == first:
            return buffers
        self._number = number
        protection.sent(number - first)
        if charged:
            self._charge(now, charged)
        return buffers

    def _write_train(
        self,
        stream: Stream,
        most: int,
        number: int,
        now: float,
        keys: Keys,
        number_size: int,
        flags: int,
        cid: bytes,
    ) -> bytes:
        """New bytes of one stream, joined; empty if there are none.

        All packets are full but the one that takes the last bytes of the last stream.
        """
        streams, queue = self.streams, self.streams.queue
        out = stream.out
        start = out.sent
        final = min(out.written, out.limit, start + streams.send_limit - streams.send_used)
        if final <= start or final >= TRAIN_END or out.lost:
            return b""
        prefix = varint(stream.id)
        largest = self.packet_size
        step = largest - len(cid) - number_size - len(prefix) - (1 + TRAIN_HEAD + TAG)
        count = min((final - start) // step, most)
        stop = start + count * step
        if stop < final and count < most and final == out.written and len(queue.ready) == 1:
            stop = final
            count += 1
        if not count:
            return b""
        fin = stop == out.fin_at
        packets, out.cursor = keys.run(
            number, number_size, flags, cid, prefix, out.chunks, out.ends, out.cursor, start, stop, step, fin
        )
        out.sent = stop
        if fin:
            out.fin_pending = False
        if stop == out.written and not out.fin_pending:
            queue.done()
        streams.send_used += stop - start
        record = Sent(number, number + count - 1, now, largest, len(packets) - (count - 1) * largest)
        record.half = out
        record.start = start
        record.stop = stop
        record.step = step
        record.fin = fin
        self.recovery.add(record)
        if self.trace is not None:
            self.trace.sent_train(now, record, stream.id)
        return packets

    def _write_probe(self, size: int, now: float) -> bytes:
        """RFC 9000, 14.4."""
        packet = self._seal(b"\x01", size, self.path.cid, now)
        record = Sent(self._number - 1, self._number - 1, now, size, size)
        record.probe = size
        self.recovery.add(record)
        self.mtu.probed(now)
        return packet

    def _write_path_packets(self, path: Path, now: float, bursts: list[Burst]) -> None:
        """PATH_CHALLENGE and PATH_RESPONSE travel on their own path (RFC 9000, 8.2)."""
        size = PATH_PACKET
        if not path.validated:
            size = min(size, path.credit)
        parts = [b"\x1b" + data for data in path.responses]
        if path.challenge_due:
            parts.append(b"\x1a" + path.challenge)
        plain = b"".join(parts)
        if size < len(plain) + 1 + len(path.cid) + LONG_NUMBER + TAG:
            return  # until the peer has sent more
        path.responses.clear()
        path.challenge_due = False
        packet = self._seal(plain, size, path.cid, now)
        path.sent += len(packet)
        bursts.append(([packet], size, path.address))

    def _seal(self, plain: bytes, size: int, cid: bytes, now: float) -> bytes:
        """Beside the bursts, padded to `size` bytes; 0 for no padding."""
        number = self._number
        self._number = number + 1
        protection = self.protection
        self._before_sending(number, now)
        plain = plain.ljust(max(SMALLEST_PAYLOAD, size - 1 - len(cid) - LONG_NUMBER - TAG), b"\0")
        flags = FIXED_BIT | protection.sending_phase << 2 | LONG_NUMBER - 1
        packet = protection.sending.one(number, LONG_NUMBER, flags, cid, plain)
        protection.sent(1)
        if self.trace is not None:
            self.trace.sent(now, number, len(packet), plain)
        return packet

    def _before_sending(self, number: int, now: float) -> None:
        protection = self.protection
        phase = protection.sending_phase
        protection.before_sending(number, self.recovery.largest_acked)
        if self.trace is not None and protection.sending_phase != phase:
            self.trace.key_updated(now, by_peer=False)

    def _charge(self, now: float, size: int) -> None:
        self.recovery.charge(now, size)
        if not self._sent_since:
            self._sent_since = True
            if not self.keep_alive:
                self._idle_from = now  # RFC 9000, 10.1; with pings a live peer would have answered

    # -- close

    def _flush_close(self, now: float) -> list[Burst]:
        """First or repeated (RFC 9000, 10.2.1)."""
        if self.state != CLOSING:
            return []
        path = self.path
        if not self._close_packet:
            close = self.close_event
            assert close is not None
            reason = close.reason.encode("utf-8", "replace")[:REASON].decode("utf-8", "ignore").encode()
            if close.application:
                parts = [b"\x1d", varint(close.code)]
            else:
                parts = [b"\x1c", varint(close.code), varint(close.frame_type)]
            parts += [varint(len(reason)), reason]
            self._close_packet = self._seal(b"".join(parts), 0, path.cid, now)
            self._close_at = now + 3 * self.recovery.probe_timeout()
            if self.trace is not None:
                self.trace.closed(now, close)
        elif not self._repeat:
            return []
        self._repeat = False
        if not path.validated:
            if path.credit < len(self._close_packet):
                return []
            path.sent += len(self._close_packet)
        return [([self._close_packet], len(self._close_packet), path.address)]

    def _on_late(self, size: int) -> None:
        """Our close may be lost: repeat it, ever more rarely.

        At most three times the bytes received: the address may be forged.
        """
        if self.state != CLOSING:
            return
        self._late += 1
        self._late_bytes += size
        if self._late >= self._repeat_at and 3 * self._late_bytes >= len(self._close_packet):
            self._repeat_at = 2 * self._late
            self._late_bytes = 0
            self._repeat = True
            self._wake()

    # -- timers

    @property
    def waits(self) -> bool:
        """`deadline` may have come nearer: it is that of an acknowledgement, the pacer or a path."""
        return (
            self.received.ack_at >= 0 or self._pacing_at >= 0 or self.path.due >= 0 or bool(self._other_paths)
        )

    def deadline(self) -> float:
        """When `on_timer` is due, apart from `probe_at`; -1.0 for never."""
        if self.state != OPEN:
            return self._close_at
        at = self._idle_at()
        if self.keep_alive > 0:
            at = min(at, max(self.last_received, self._pinged) + self.keep_alive)
        ack_at = self.received.ack_at
        if 0 <= ack_at < at and (self.path.validated or not self._starved):
            at = ack_at
        if 0 <= self._pacing_at < at:
            at = self._pacing_at
        if 0 <= self.path.due < at:
            at = self.path.due
        for path in self._other_paths:
            if 0 <= path.due < at:
                at = path.due
        return at

    def probe_at(self) -> float:
        """When `on_timer` is due for lost packets; -1.0 for never. Moves with every packet."""
        if self.state != OPEN or (not self.path.validated and self._starved):
            return NEVER
        return self.recovery.probe_at()

    def _idle_at(self) -> float:
        timeout = max(self.idle_timeout, 3 * self.recovery.probe_timeout())  # RFC 9000, 10.1
        return (self.last_received if self.keep_alive > 0 else self._idle_from) + timeout

    def on_timer(self, now: float) -> None:
        """`flush` follows."""
        if self.state != OPEN:
            if 0 <= self._close_at <= now:
                self.state = CLOSED
            return
        if self._idle_at() <= now:
            self._end(CLOSED, Close(errors.NO_ERROR, IDLE_REASON, frame_type=0, idle=True), now)
            return
        interval = self.keep_alive
        if interval > 0 and max(self.last_received, self._pinged) + interval <= now:
            self._pinged = now
            self._frames.append(ControlFrame(errors.PING, b"\x01"))
        recovery = self.recovery
        if 0 <= self.probe_at() <= now:
            if recovery.on_timer(now):
                self._probe = True
                if self.received.stop:
                    self.received.ack_at = now  # our last ACKs may be lost as well
                if recovery.pto_count >= BLACK_HOLE_PROBES and self.mtu.black_hole(now):
                    self._resize()
            else:
                self._apply_fates(now)
        self._serve_paths(now)


_ELICITING: Final = 1  # the packet asks for an acknowledgement
_MOVES: Final = 2  # more than probing frames: from a new address it moves the connection (RFC 9000, 9.1)
_BOTH: Final = 3
_BYTES: Final = [bytes((value,)) for value in range(0x100)]
