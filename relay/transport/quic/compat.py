"""All uses of private names of aioquic 1.7.2 outside `fast/`, each with its reason.

Must never hold policy: it answers questions about a connection and changes rules that the public interface
cannot. `tests/transport/test_compat.py` fails if a name vanishes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from aioquic import tls
from aioquic.buffer import Buffer, BufferReadError  # type: ignore[attr-defined]
from aioquic.h3.connection import H3Connection
from aioquic.quic.configuration import SMALLEST_MAX_DATAGRAM_SIZE, QuicConfiguration
from aioquic.quic.connection import (
    NetworkAddress,
    QuicConnection,
    QuicConnectionError,
    QuicConnectionState,
    QuicReceiveContext,
)
from aioquic.quic.crypto import CryptoContext, CryptoPair, KeyUnavailableError, next_key_phase
from aioquic.quic.events import ConnectionTerminated, QuicEvent, StreamDataReceived, StreamReset
from aioquic.quic.packet import (
    QuicErrorCode,
    QuicFrameType,
    QuicHeader,
    QuicPacketType,
    decode_packet_number,
    pull_quic_header,
)
from aioquic.quic.packet_builder import QuicPacketBuilder
from aioquic.quic.rangeset import RangeSet
from aioquic.quic.recovery import K_MICRO_SECOND, QuicPacketSpace
from aioquic.quic.stream import QuicStreamSender
from cryptography import x509

from relay.transport.quic.bbr import Bbr, BbrPacer
from relay.transport.quic.write_queue import WriteQueue

TESTED_VERSION = "1.7.2"

TRANSPORT_REASON_LIMIT = 256
"""Bytes of a transport close reason: three coalesced handshake packets may repeat it, or aioquic raises."""

EARLY_REASON_LIMIT = 512  # bytes of an application reason while handshake packets may share its datagram
REASON_LIMIT = 1024  # bytes of an application close reason
PIECE = 2048  # bytes of a stream's window per fragment buffered out of order: lost full packets leave fewer
FEWEST_PIECES = 256  # least limit of fragments: each costs 10 times its bytes; aioquic scans all per frame
MOST_KEPT = 256 * 1024 * 1024
"""Bytes of sent stream data kept after a gap in acknowledgements: many round trips at 1 Gbit/s. A peer that
never acknowledges one packet would make us keep everything after it."""

STREAM_COST = 2048  # bytes counted per stream: about its memory
COUNT_INTERVAL = 1.0  # seconds between checks of that
MOST_CRYPTO = 65_536  # bytes of CRYPTO data: for a client all, for a server those buffered out of order
MOST_CRYPTO_PIECES = 64  # fragments of CRYPTO data buffered out of order: unverified addresses can send them
WEBTRANSPORT_SETTINGS = {0x2B603743: 1, 0xC671706A: 1, 0xFFD277: 1}
"""WEBTRANSPORT_MAX_SESSIONS (drafts 02, 07) and H3_DATAGRAM (draft 04), which peers expect as well."""

IDLE_REASON = "Idle timeout"  # aioquic's reason of an idle time-out, whose code is an internal error's
Burst = tuple[list[bytes], int, Any]
"""Buffers of packets in order, the packet size (the last of a buffer may be shorter), and the address."""

_OVER = (QuicConnectionState.CLOSING, QuicConnectionState.DRAINING, QuicConnectionState.TERMINATED)

CredentialSelector = Callable[[str | None], "Credentials"]


@dataclass(slots=True, eq=False)
class Credentials:
    """A server's certificate, chain and key."""

    certificate: x509.Certificate
    chain: tuple[x509.Certificate, ...]
    key: Any
    ready: Any = None  # cached by the handshake


def cut_utf8(text: str, limit: int) -> str:
    """Shorten `text` to at most `limit` bytes of UTF-8, never inside a character."""
    data = text.encode("utf-8", "replace")
    return data[:limit].decode("utf-8", "ignore")


class ReceiveWindow:
    """Replaces aioquic's `Limit` of MAX_DATA: a window over undelivered data.

    aioquic doubles a half-used limit, read or not: a peer that leaves a gap in every stream could make it
    buffer without end. Here the limit stays `size` ahead of what left the receive buffers.
    """

    def __init__(self, size: int) -> None:
        self.frame_type = QuicFrameType.MAX_DATA
        self.name = "max_data"
        self.sent = size
        self.used = 0
        self._size = size
        self._value = size
        self._delivered = 0

    @property
    def value(self) -> int:
        return self._value

    @value.setter
    def value(self, value: int) -> None:
        """Ignore the doubling."""

    def deliver(self, count: int) -> None:
        self._delivered += count
        if self._value - self._delivered < self._size // 2:
            self._value = self._delivered + self._size


class KeyUpdatePair(CryptoPair):
    """1-RTT keys that survive reordering and loss around a key update (RFC 9001, 6).

    aioquic drops the old receive key with the update and so loses late packets. If the one packet that
    announces it is lost (an ACK is never repeated), both sides deadlock: the peer goes on with keys that we
    cannot read.
    """

    def __init__(self) -> None:
        super().__init__()
        self._previous: Any = None
        self._next: CryptoContext | None = None
        self._phase_start: int | None = -1  # first packet number received in the present phase, or `None`
        self._first_sent: int | None = -1  # first packet number sent in the present phase, or `None`
        self._update_wanted = False
        self.space: QuicPacketSpace | None = None  # holds the peer's acknowledgements

    def update_key(self) -> None:
        """As aioquic's, after an ACK of this phase (RFC 9001, 6.1): one by each side would look like none."""
        self._update_wanted = True

    @property
    def key_phase(self) -> int:
        self.consider_update()
        return super().key_phase

    def consider_update(self) -> None:
        """Begin a requested update if allowed."""
        if (
            self._update_wanted
            and self._first_sent is not None
            and self.space is not None
            and self.space.largest_acked_packet >= self._first_sent
        ):
            self._update_wanted = False
            super().update_key()

    def encrypt_packet(self, plain_header: bytes, plain_payload: bytes, packet_number: int) -> bytes:
        data = super().encrypt_packet(plain_header, plain_payload, packet_number)
        if self._first_sent is None:
            self._first_sent = packet_number
        return data

    def decrypt_packet(
        self, packet: bytes, encrypted_offset: int, expected_packet_number: int
    ) -> tuple[bytes, bytes, int]:
        recv = self.recv
        if recv.aead is None or recv.hp is None:
            raise KeyUnavailableError("Decryption key is not available")
        header, truncated = recv.hp.remove(packet, encrypted_offset)
        first = header[0]
        number = decode_packet_number(truncated, ((first & 3) + 1) * 8, expected_packet_number)
        present = (first & 4) >> 2 == recv.key_phase
        aead: Any = recv.aead
        update = False
        if not present:
            if self._previous is not None and (self._phase_start is None or number < self._phase_start):
                aead = self._previous
            else:
                if self._next is None:
                    self._next = next_key_phase(recv)
                aead = self._next.aead
                update = True
        payload = aead.decrypt(packet[len(header) :], header, number)
        if update:
            self._update_key("remote_update")
        if (present or update) and self._phase_start is None:
            self._phase_start = number
            self._phase_began()
        return header, payload, number

    def teardown(self) -> None:
        super().teardown()
        self._previous = self._next = None

    def _update_key(self, trigger: str) -> None:
        self._previous = self.recv.aead
        self._next = None
        self._phase_start = self._first_sent = None
        super()._update_key(trigger)

    def _phase_began(self) -> None:
        """Called when the peer uses the present keys."""


class RelayQuicConnection(QuicConnection):
    """A QUIC connection with the limits, certificates and receive windows of our settings.

    Size: it is one method for each place where aioquic's connection gets a limit, a check or a way in that it lacks.
    """

    fast = False  # packets take the fast path, see `relay.transport.quic.fast`

    def __init__(
        self,
        *,
        configuration: QuicConfiguration,
        max_streams_bidi: int,
        max_streams_uni: int,
        original_destination_connection_id: bytes | None = None,
        retry_source_connection_id: bytes | None = None,
        credentials: CredentialSelector | None = None,
    ) -> None:
        """A server passes the client's first id, and the second one if the client has answered a Retry."""
        self._construct(configuration, original_destination_connection_id)
        self._retry_source_connection_id = retry_source_connection_id  # for the transport parameters
        cc = self._loss._cc
        self._bbr = cc if isinstance(cc, Bbr) else None
        if self._bbr is not None:
            self._loss._pacer = BbrPacer(self._bbr, max_datagram_size=self._max_datagram_size)
        self.events = self._events
        self._write_queue = WriteQueue()
        self._given: set[int] = set()  # streams with data that aioquic may not have sent yet
        # aioquic fixes 128 streams each way; the handshake writes the transport parameters from these.
        for limit, value in (
            (self._local_max_streams_bidi, max_streams_bidi),
            (self._local_max_streams_uni, max_streams_uni),
        ):
            limit.value = limit.sent = value
        self._receive_window = ReceiveWindow(configuration.max_data)
        self._local_max_data = self._receive_window  # type: ignore[assignment]
        self._stream_window = configuration.max_stream_data
        self._count_due = 0.0  # when to check the unacknowledged data again
        self._credentials = credentials

    # -- overridden by the fast path

    def discover_mtu(self) -> None:
        """Enable MTU discovery: the socket does not fragment."""

    def _construct(self, configuration: QuicConfiguration, original_cid: bytes | None) -> None:
        """Run aioquic's constructor, or an equivalent."""
        super().__init__(configuration=configuration, original_destination_connection_id=original_cid)

    def release(self) -> None:
        """Break reference cycles once nothing drives the connection, so that it is freed at once."""
        if self._quic_logger is not None:
            # aioquic's draining time-out will not come.
            logger, trace = self._configuration.quic_logger, self._quic_logger
            self._quic_logger = None
            assert logger is not None
            logger.end_trace(trace)
        self._loss._send_probe = _nothing
        for space in self._loss.spaces:
            space.sent_packets.clear()  # unacknowledged packets refer to delivery handlers
        self._streams.clear()
        self._streams_queue.clear()
        self._write_queue.clear()

    def receive_train(self, buffer: memoryview, each: int, addr: NetworkAddress, now: float) -> int:  # noqa: ARG002
        """Receive several datagrams at once if they are of the simplest kind. Returns how many."""
        return 0

    def finish_receiving(self, now: float) -> None:
        """Called when the socket is drained, before the events are read."""
        self._limit_unacknowledged(now)

    @property
    def has_news(self) -> bool:
        """There may be events to read, or a close."""
        return bool(self._events) or self._close_event is not None

    def has_reason_to_send(self, now: float) -> bool:  # noqa: ARG002 - for a connection that knows
        """Received packets may need an answer or another timer."""
        return True

    def deadline(self) -> float | None:
        """When to call `handle_timer`, apart from `probe_at`."""
        return self.get_timer()

    def waits(self) -> bool:
        """`deadline` may have come nearer: it is that of an acknowledgement or of the pacer."""
        return True

    def probe_at(self) -> float | None:
        """Deadline of loss detection, kept apart because it moves with every packet."""
        return None

    def bursts(self, now: float) -> list[Burst]:
        if self._write_queue:
            self._give()
        bursts: list[Burst] = []
        for data, address in self._aioquic_datagrams(now):
            if bursts and bursts[-1][2] == address:
                bursts[-1][0].append(data)
            else:
                bursts.append(([data], self._max_datagram_size, address))
        self._notify_idle()
        return bursts

    def _limit_unacknowledged(self, now: float) -> None:
        """Close if a peer's gaps in acknowledgements make us keep too much."""
        if now < self._count_due:
            return
        self._count_due = now + COUNT_INTERVAL
        senders = [stream.sender for stream in self._streams.values()]
        kept = sum(sender.highest_offset - sender._buffer_start + STREAM_COST for sender in senders)
        if kept > MOST_KEPT:
            self.close(QuicErrorCode.INTERNAL_ERROR, QuicFrameType.ACK, "too much is not acknowledged")

    def _notify_idle(self) -> None:
        """Report to BBR that the application limits sending."""
        if self._bbr is not None and self._pacing_at is None:
            self._bbr.on_idle()

    def _aioquic_datagrams(self, now: float) -> list[tuple[bytes, Any]]:
        return super().datagrams_to_send(now)

    def write_stream(self, stream_id: int, chunks: list[bytes], *, fin: bool, order: tuple[int, int]) -> None:
        """Send `chunks`; streams with a higher `order` go first. Raises as `send_stream_data`."""
        self.send_stream_data(stream_id, b"")  # reserves the id; raises if the stream cannot be written
        if chunks or fin:
            self._write_queue.add(stream_id, chunks, fin=fin, order=order)

    def prioritize(self, stream_id: int, order: tuple[int, int]) -> None:
        self._write_queue.prioritize(stream_id, order)

    def reset_stream(self, stream_id: int, error_code: int) -> None:
        self._write_queue.drop(stream_id)
        super().reset_stream(stream_id, error_code)

    def unsent(self, stream_id: int) -> int:
        """Bytes written and never put into a packet."""
        writes = self._write_queue.get(stream_id)
        return self._unsent_by_aioquic(stream_id) + (0 if writes is None else writes.size)

    def undelivered(self, stream_id: int) -> bool:
        """Something written on a stream, its end included, is not acknowledged."""
        if self._write_queue.get(stream_id) is not None:
            return True
        stream = self._streams.get(stream_id)
        return stream is not None and _undelivered(stream.sender)

    def anything_undelivered(self) -> bool:
        """The same for any stream."""
        return bool(self._write_queue) or any(
            _undelivered(stream.sender) for stream in self._streams.values()
        )

    def _unsent_by_aioquic(self, stream_id: int) -> int:
        stream = self._streams.get(stream_id)
        if stream is None or stream.sender._reset_error_code is not None:
            return 0
        return int(stream.sender._buffer_stop - stream.sender.highest_offset)

    def _give(self) -> None:
        """Give aioquic what the windows allow, most urgent first: it reorders and takes nothing back."""
        given = 0
        for stream_id in tuple(self._given):
            unsent = self._unsent_by_aioquic(stream_id)
            given += unsent
            if not unsent:
                self._given.discard(stream_id)
        room = self._loss.congestion_window - self._loss.bytes_in_flight
        room = min(room, self._remote_max_data - self._remote_max_data_used) - given
        for writes in self._write_queue.urgent():
            stream_id = writes.stream_id
            stream = self._streams.get(stream_id)
            if stream is None or stream.sender._reset_error_code is not None:
                self._write_queue.drop(stream_id)  # the peer has stopped it
                continue
            size = max(0, min(writes.size, room, stream.max_stream_data_remote - stream.sender._buffer_stop))
            fin = writes.fin and size == writes.size
            if size or fin:
                self.send_stream_data(stream_id, writes.take(size) if size else b"", fin)
                self._given.add(stream_id)
                room -= size
            if not writes.size and (fin or not writes.fin):
                self._write_queue.drop(stream_id)

    # -- receiving

    def receive_datagram(self, data: bytes, addr: NetworkAddress, now: float) -> None:
        """As aioquic's, but ignores packets from our close on: each error would be answered and logged."""
        if self._close_event is None:
            super().receive_datagram(data, addr, now)

    def _find_network_path(self, addr: NetworkAddress) -> Any:
        """As aioquic's, which keeps the amplification limit even if a Retry has verified the address."""
        path = super()._find_network_path(addr)
        if self._retry_source_connection_id is not None and not self._network_paths and not self._is_client:
            path.is_validated = True
        return path

    def next_event(self) -> QuicEvent | None:
        event = super().next_event()
        if type(event) is StreamDataReceived:
            self._receive_window.deliver(len(event.data))
        elif type(event) is StreamReset:
            # Data that will never be read counts as delivered, or the window would shrink for good.
            stream = self._streams.get(event.stream_id)
            if stream is not None:
                receiver = stream.receiver
                self._receive_window.deliver(receiver.highest_offset - receiver.starting_offset())
                # Drop the reorder buffer, which the stream would keep until our half ends.
                receiver._buffer = bytearray()
                receiver._ranges = RangeSet()
        return event

    def _handle_stream_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        """As aioquic's, with a limit on buffered data per stream."""
        at = buf.tell()
        stream_id = buf.pull_uint_var()
        buf.seek(at)
        super()._handle_stream_frame(context, frame_type, buf)
        stream = self._streams.get(stream_id)
        if stream is not None:
            self._count_fragments(stream.receiver, frame_type)

    def _count_fragments(self, receiver: Any, frame_type: int) -> None:
        """Raise QuicConnectionError if too many fragments of a stream are buffered out of order."""
        if len(receiver._ranges) > max(FEWEST_PIECES, self._stream_window // PIECE):
            raise QuicConnectionError(
                QuicErrorCode.INTERNAL_ERROR, frame_type, "stream data comes in too many pieces"
            )

    def _handle_crypto_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        """As aioquic's, with limits for a handshake: half a megabyte of single bytes costs minutes of CPU."""
        at = buf.tell()
        end = buf.pull_uint_var() + buf.pull_uint_var()
        buf.seek(at)
        receiver = self._crypto_streams[context.epoch].receiver
        if self._is_client:
            end -= receiver.starting_offset()
        if end > MOST_CRYPTO or len(receiver._ranges) > MOST_CRYPTO_PIECES:
            raise QuicConnectionError(
                QuicErrorCode.CRYPTO_BUFFER_EXCEEDED,
                frame_type,
                "too much CRYPTO data, or in too many pieces",
            )
        super()._handle_crypto_frame(context, frame_type, buf)

    def _next_stream_limit(self, stream: Any) -> int | None:
        """The next MAX_STREAM_DATA if due, which counts as sent; see `ReceiveWindow`."""
        limit: int = stream.max_stream_data_local
        if not limit:
            return None  # a send-only stream
        receiver = stream.receiver
        if receiver.is_finished:
            return None  # nothing more will come
        delivered = receiver.starting_offset()
        if limit - delivered < self._stream_window // 2:
            limit = stream.max_stream_data_local = delivered + self._stream_window
        if stream.max_stream_data_local_sent == limit:
            return None
        stream.max_stream_data_local_sent = limit
        return limit

    def _write_stream_limits(self, builder: Any, space: Any, stream: Any) -> None:  # noqa: ARG002 - as the original
        sent = stream.max_stream_data_local_sent
        limit = self._next_stream_limit(stream)
        if limit is not None:
            stream.max_stream_data_local_sent = sent  # the packet may be full
            buf = builder.start_frame(
                QuicFrameType.MAX_STREAM_DATA,
                capacity=17,
                handler=self._on_max_stream_data_delivery,
                handler_args=(stream,),
            )
            buf.push_uint_var(stream.stream_id)
            buf.push_uint_var(limit)
            stream.max_stream_data_local_sent = limit

    # -- closing

    def close(self, error_code: int = 0, frame_type: int | None = None, reason_phrase: str = "") -> None:
        """As aioquic's, with the reason cut to fit the packets that carry it."""
        if frame_type is not None:
            limit = TRANSPORT_REASON_LIMIT
        elif not self._handshake_confirmed:
            limit = EARLY_REASON_LIMIT
        else:
            limit = REASON_LIMIT
        super().close(error_code, frame_type, cut_utf8(reason_phrase, limit))

    def _make_pair(self) -> KeyUpdatePair:
        """The 1-RTT keys; subclasses choose others."""
        return KeyUpdatePair()

    # -- certificates

    def _initialize(self, peer_cid: bytes) -> None:
        """Called for the first packet, and again after a Retry: only then the TLS context exists.

        The certificate must be chosen before aioquic handles the ClientHello, since its key decides the
        signature algorithm; aioquic has no callback that early.
        """
        super()._initialize(peer_cid)
        pair = self._cryptos[tls.Epoch.ONE_RTT] = self._make_pair()
        pair.space = self._spaces[tls.Epoch.ONE_RTT]
        select = self._credentials
        if select is None:
            return
        context = self.tls
        handle_hello = context._server_handle_hello

        def choose_then_handle(input_buf: Buffer, *args: Any) -> None:
            try:
                hello = tls.pull_client_hello(Buffer(data=input_buf.data_slice(0, input_buf.capacity)))
            except (tls.Alert, BufferReadError, ValueError, AssertionError):
                pass  # the real handler meets the same bytes and sends the right alert
            else:
                chosen = select(hello.server_name)
                context.certificate = chosen.certificate
                context.certificate_chain = list(chosen.chain)
                context.certificate_private_key = chosen.key
            handle_hello(input_buf, *args)

        context._server_handle_hello = choose_then_handle  # type: ignore[method-assign,assignment]


class RelayH3Connection(H3Connection):
    """HTTP/3 with the settings of every WebTransport draft in use."""

    def __init__(self, quic: QuicConnection) -> None:
        super().__init__(quic, enable_webtransport=True)

    def _get_local_settings(self) -> dict[int, int]:
        """The only hook that adds settings: the constructor sends them."""
        return super()._get_local_settings() | WEBTRANSPORT_SETTINGS

    def forget(self, stream_id: int) -> None:
        """Drop the record of a request stream whose later bytes never come here."""
        stream = self._stream.pop(stream_id, None)
        if stream is not None and stream.blocked:
            # Its HEADERS wait for the QPACK encoder stream, which needs the record.
            cancelled = self._decoder.cancel_stream(stream_id)
            assert self._local_decoder_stream_id is not None
            with contextlib.suppress(RuntimeError):  # the peer has stopped our QPACK stream: its own fault
                self._quic.send_stream_data(self._local_decoder_stream_id, cancelled)

    def waiting(self, stream_id: int) -> int:
        """Buffered bytes of an incomplete frame."""
        stream = self._stream.get(stream_id)
        return 0 if stream is None else len(stream.buffer)


def _nothing() -> None:
    """Replace aioquic's probe callback, which is not needed."""


# -- questions about a connection


def stream_credit(quic: QuicConnection, *, unidirectional: bool) -> bool:
    """The peer allows one more stream of ours: the reset of one beyond the credit kills the connection."""
    if unidirectional:
        return quic._local_next_stream_id_uni // 4 < quic._remote_max_streams_uni
    return quic._local_next_stream_id_bidi // 4 < quic._remote_max_streams_bidi


def reset_code(quic: QuicConnection, stream_id: int) -> int | None:
    """The code of our half's reset, which may precede the stream's first event."""
    stream = quic._streams.get(stream_id)
    if stream is None:
        return None
    code: int | None = stream.sender._reset_error_code
    return code


def close_seen(quic: QuicConnection) -> ConnectionTerminated | None:
    """The close that either side began. aioquic reports a peer's only after 3 PTO of draining."""
    event: ConnectionTerminated | None = quic._close_event
    return event


def refused_protocols(quic: QuicConnection) -> tuple[str, ...] | None:
    """ALPN protocols of a client without a common one, else None; empty if aioquic read the ClientHello."""
    event = quic._close_event
    if event is None or event.error_code != NO_APPLICATION_PROTOCOL or closed_by_peer(quic):
        return None
    return tuple(getattr(quic.tls, "offered", ()))


NO_APPLICATION_PROTOCOL = QuicErrorCode.CRYPTO_ERROR + tls.AlertDescription.no_application_protocol


def closed_by_peer(quic: QuicConnection) -> bool:
    """The close of `close_seen` came from the peer: the connection drains. Only until it terminates."""
    return bool(quic._state is QuicConnectionState.DRAINING)


def close_is_pending(quic: QuicConnection) -> bool:
    """Our close is not yet written."""
    return bool(quic._close_pending)


def exceeds_amplification_limit(quic: QuicConnection) -> bool:
    """Sent over three times an unverified address's bytes (RFC 9000, 8.1); aioquic's close ignores it."""
    path = quic._network_paths[0]
    return not path.is_validated and path.bytes_sent > 3 * path.bytes_received


def is_over(quic: QuicConnection) -> bool:
    """Nothing is sent any more: closed by either side, or terminated."""
    return quic._state in _OVER


def idle_timeout(quic: QuicConnection) -> float:
    """The smaller of both ends' idle time-outs in seconds."""
    return quic._idle_timeout()


def expire_by(quic: QuicConnection, deadline: float) -> None:
    """Expire no later than `deadline`.

    aioquic restarts the idle time-out with the first ping after silence (RFC 9000, 10.1), which would detect
    a dead peer one keep-alive interval late.
    """
    if quic._close_at is not None and quic._close_at > deadline and not is_over(quic):
        quic._close_at = deadline


def expire_later(quic: QuicConnection, seconds: float) -> None:
    """Postpone the idle time-out by the seconds that we could not receive."""
    if quic._close_at is not None and not is_over(quic):
        quic._close_at += seconds


def expire_not_before(quic: QuicConnection, deadline: float) -> None:
    """Expire no earlier than `deadline`, after we could not receive for a while."""
    if quic._close_at is not None and quic._close_at < deadline and not is_over(quic):
        quic._close_at = deadline


def nothing_decrypted(quic: QuicConnection) -> bool:
    """No packet could be decrypted yet: the apparent Initial was noise."""
    return bool(quic._state is QuicConnectionState.FIRSTFLIGHT)


def probe_timeout(quic: QuicConnection) -> float:
    """One PTO in seconds (0.2 before the first round trip sample)."""
    return float(quic._loss.get_probe_timeout())


def smoothed_rtt(quic: QuicConnection) -> float | None:
    """Smoothed round trip in seconds; `None` before the first sample."""
    loss = quic._loss
    # The first sample is taken as it is: 0 in a network without delay.
    return max(float(loss._rtt_smoothed), K_MICRO_SECOND) if loss._rtt_initialized else None


def rate_estimate(quic: QuicConnection) -> int | None:
    """Estimated rate in bit/s; `None` before the first round trip sample."""
    rtt = smoothed_rtt(quic)
    if rtt is None:
        return None
    cc = quic._loss._cc
    if isinstance(cc, Bbr) and cc.bandwidth:
        return int(cc.bandwidth * 8)
    return int(quic._loss.congestion_window * 8 / rtt)


def datagram_limit(quic: QuicConnection) -> int:
    """Largest DATAGRAM payload of one packet and the peer; 0 for none. More would block aioquic's queue."""
    remote: int | None = quic._remote_max_datagram_frame_size
    if remote is None:
        return 0
    packet = quic._max_datagram_size - 3 - len(quic._peer_cid.cid) - 16
    return max(0, min(packet, remote) - 3)


def pending_datagrams(quic: QuicConnection) -> int:
    """Queued DATAGRAM frames; aioquic does not limit them."""
    return len(quic._datagrams_pending)


def peer_certificate(quic: QuicConnection) -> x509.Certificate | None:
    """The server's leaf certificate; aioquic verifies chains but cannot pin."""
    certificate: x509.Certificate | None = quic.tls._peer_certificate
    return certificate


CloseKind = Literal["application", "transport", "tls"]


def close_kind(event: ConnectionTerminated) -> CloseKind:
    """The layer that closed: TLS alerts are the transport errors 0x100 to 0x1ff."""
    if event.frame_type is None:
        return "application"
    first = QuicErrorCode.CRYPTO_ERROR
    return "tls" if first <= event.error_code < first + 0x100 else "transport"


def parse_first_packet(data: bytes, *, connection_id_length: int) -> QuicHeader | None:
    """Parse the header of a datagram's first packet; `None` for garbage."""
    try:
        return pull_quic_header(Buffer(data=data), host_cid_length=connection_id_length)
    except ValueError:
        return None


def encode_refusal(code: QuicErrorCode, *, version: int, source_cid: bytes, destination_cid: bytes) -> bytes:
    """Build an Initial packet that closes with the transport error `code`, below 64, without a connection.

    `source_cid` is the client's destination connection id, from which the Initial keys derive.
    """
    crypto = CryptoPair()
    crypto.setup_initial(cid=source_cid, is_client=False, version=version)
    builder = QuicPacketBuilder(
        host_cid=source_cid,
        is_client=False,
        max_datagram_size=SMALLEST_MAX_DATAGRAM_SIZE,
        peer_cid=destination_cid,
        version=version,
    )
    builder.start_packet(QuicPacketType.INITIAL, crypto)
    buf = builder.start_frame(QuicFrameType.TRANSPORT_CLOSE, capacity=4)
    for value in (code, QuicFrameType.PADDING, 0):
        buf.push_uint_var(value)
    datagrams, _ = builder.flush()
    return datagrams[0]


def _undelivered(sender: QuicStreamSender) -> bool:
    if sender.is_finished or sender._reset_error_code is not None:
        return False
    return sender._buffer_start < sender._buffer_stop or sender._buffer_fin is not None
