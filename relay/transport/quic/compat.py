"""Everything that reaches into aioquic, in one place.

Owns every use of a private attribute of aioquic 1.7.2, each with its reason; `tests/transport/test_compat.py` fails
if one of the names vanishes. Must never hold policy: it answers questions about a connection and bends the few rules
that its public interface cannot. The endpoint, the sessions and the client call it.
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
from aioquic.quic.crypto import (
    CryptoContext,
    CryptoPair,
    KeyUnavailableError,
    next_key_phase,
)
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
from relay.transport.quic.holding import Holding

TESTED_VERSION = "1.7.2"

TRANSPORT_REASON_LIMIT = 256
"""Bytes of a transport close reason. During the handshake the frame is repeated in up to three coalesced packets,
and one that does not fit its datagram makes aioquic raise instead of closing."""

EARLY_REASON_LIMIT = 512
"""Bytes of an application close reason while handshake packets may share its datagram."""

REASON_LIMIT = 1024
"""Bytes of an application close reason."""

PIECE = 2048
"""Bytes of a stream's window for each piece that may wait behind a hole: no loss of full packets leaves so many."""

FEWEST_PIECES = 256
"""Pieces of a stream that may wait at least. Each costs ten times its byte, and aioquic looks at all of them for every
frame."""

MOST_KEPT = 256 * 1024 * 1024
"""Bytes of streams that were sent and are kept, since something before them was not acknowledged: many round trips of a
gigabit per second. A peer that never acknowledges one packet could have everything after it kept."""

STREAM_COST = 2048
"""What a stream counts for beside its bytes: about what it takes."""

COUNT_INTERVAL = 1.0
"""Seconds between looks at that."""

MOST_CRYPTO = 65_536
"""Bytes of CRYPTO data: of a client all that there is, of a server what waits behind a hole."""

MOST_CRYPTO_PIECES = 64
"""Pieces of CRYPTO data that may wait behind a hole: an address that is proven by nothing can send them."""

WEBTRANSPORT_SETTINGS = {0x2B603743: 1, 0xC671706A: 1, 0xFFD277: 1}
"""WEBTRANSPORT_MAX_SESSIONS (drafts 02 and 07) and H3_DATAGRAM (draft 04): what peers look for besides the three that
aioquic sends by itself."""

IDLE_REASON = "Idle timeout"
"""How aioquic calls silence; no code tells it apart from an internal error."""

Flight = tuple[list[bytes], int, Any]
"""Buffers of packets in order, the size of each packet but a last one in its buffer, and the address."""

_OVER = (QuicConnectionState.CLOSING, QuicConnectionState.DRAINING, QuicConnectionState.TERMINATED)

CredentialSelector = Callable[[str | None], "Credentials"]


@dataclass(slots=True, eq=False)
class Credentials:
    """What a server proves its name with."""

    certificate: x509.Certificate
    chain: tuple[x509.Certificate, ...]
    key: Any
    ready: Any = None
    """What a handshake makes of it, for the next one."""


def cut_utf8(text: str, limit: int) -> str:
    """Shorten `text` to at most `limit` bytes of UTF-8, never inside a character."""
    data = text.encode("utf-8", "replace")
    return data[:limit].decode("utf-8", "ignore")


class ReceiveWindow:
    """Stands in for aioquic's `Limit` of MAX_DATA: a window over what was not delivered yet.

    aioquic doubles the limit whenever half of it is used, read or not, so a peer that leaves a hole in every stream
    could make it buffer without end. Here the limit follows what left the receive buffers, `size` ahead of it.
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


class PatientPair(CryptoPair):
    """1-RTT keys that survive reordering and loss around a key update (RFC 9001, 6).

    aioquic forgets the old receive key with the update. What the peer sent before it heard of the update is lost then,
    and if the one packet that tells of the update is lost as well (an ACK, say, that nobody repeats), both sides wait
    for good: the peer goes on with the old keys, which cannot be read any more.
    """

    def __init__(self) -> None:
        super().__init__()
        self._previous: Any = None
        self._next: CryptoContext | None = None
        self._phase_start: int | None = -1
        """Number of the first packet read in the present phase; `None` until there is one."""
        self._first_sent: int | None = -1
        """Number of the first packet sent in the present phase; `None` until there is one."""
        self._update_wanted = False
        self.space: QuicPacketSpace | None = None
        """Where it says what the peer has acknowledged."""

    def update_key(self) -> None:
        """As aioquic's, but not before the peer has acknowledged a packet of the present phase (RFC 9001, 6.1).

        Without that rule two updates in a row, the first of them the peer's, cannot be told from none.
        """
        self._update_wanted = True

    @property
    def key_phase(self) -> int:
        self.consider_update()
        return super().key_phase

    def consider_update(self) -> None:
        """Begin the update that was asked for, if it may begin."""
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
        """For subclasses: the peer uses the present keys."""


class RelayQuicConnection(QuicConnection):
    """A QUIC connection with the limits, the certificates and the receive windows of our settings."""

    fast = False
    """Whether packets take the quick way, see `relay.transport.quic.fast`."""

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
        """A server has the first id; and the second one if the client has answered a Retry, so that it is who it says."""
        self._construct(configuration, original_destination_connection_id)
        # Read when the transport parameters are written.
        self._retry_source_connection_id = retry_source_connection_id
        cc = self._loss._cc
        self._bbr = cc if isinstance(cc, Bbr) else None
        if self._bbr is not None:
            self._loss._pacer = BbrPacer(self._bbr, max_datagram_size=self._max_datagram_size)
        self.events = self._events
        """What is to be read with `next_event`."""
        self._holding = Holding()
        self._given: set[int] = set()
        """Streams of which aioquic may hold something that it has not sent yet."""
        # The constructor fixes 128 streams each way and no option changes it; the transport parameters are written
        # from these when the handshake begins.
        for limit, value in (
            (self._local_max_streams_bidi, max_streams_bidi),
            (self._local_max_streams_uni, max_streams_uni),
        ):
            limit.value = limit.sent = value
        self._receive_window = ReceiveWindow(configuration.max_data)
        self._local_max_data = self._receive_window  # type: ignore[assignment]
        self._stream_window = configuration.max_stream_data
        self._count_due = 0.0
        """When to look again at how much is kept for the peer."""
        self._credentials = credentials

    # -- what a faster connection does otherwise

    def discover_mtu(self) -> None:
        """Try larger packets; the socket has promised that they are not cut apart on the way."""

    def _construct(self, configuration: QuicConfiguration, original_cid: bytes | None) -> None:
        """Run aioquic's constructor, or do as it does."""
        super().__init__(configuration=configuration, original_destination_connection_id=original_cid)

    def let_go(self) -> None:
        """Called when nobody drives the connection any more: rings of references are cut, so that it goes at once."""
        if self._quic_logger is not None:
            # aioquic's time-out after the close will not come.
            logger, trace = self._configuration.quic_logger, self._quic_logger
            self._quic_logger = None
            assert logger is not None
            logger.end_trace(trace)
        self._loss._send_probe = _nothing
        for space in self._loss.spaces:
            space.sent_packets.clear()  # what is unacknowledged knows whom to tell
        self._streams.clear()
        self._streams_queue.clear()
        self._holding.clear()

    def receive_run(self, buffer: memoryview, each: int, addr: NetworkAddress, now: float) -> int:  # noqa: ARG002
        """Take several datagrams at once, if they are of the simplest kind. Returns how many."""
        return 0

    def finish_receiving(self, now: float) -> None:
        """Called when the socket is drained, before the events are read."""
        self._limit_kept(now)

    @property
    def has_news(self) -> bool:
        """Whether there may be events to read, or a close."""
        return bool(self._events) or self._close_event is not None

    def has_reason_to_send(self, now: float) -> bool:  # noqa: ARG002 - for a connection that knows
        """Whether what was received may have to be answered now, or the timer to be set anew."""
        return True

    def deadline(self) -> float | None:
        """When `handle_timer` wants to be called, but for `probe_at`."""
        return self.get_timer()

    def waits(self) -> bool:
        """Whether `deadline` may have come nearer, since it is that of an acknowledgement or of more packets."""
        return True

    def probe_at(self) -> float | None:
        """When loss detection wants it, for a connection that keeps this apart: it moves with every packet."""
        return None

    def flights(self, now: float) -> list[Flight]:
        """Everything to be sent now, by address."""
        if self._holding:
            self._give()
        flights: list[Flight] = []
        for data, address in self._stock_datagrams(now):
            if flights and flights[-1][2] == address:
                flights[-1][0].append(data)
            else:
                flights.append(([data], self._max_datagram_size, address))
        self._tell_idle()
        return flights

    def _limit_kept(self, now: float) -> None:
        """Close if too much has to be kept for a peer that leaves holes in what it acknowledges."""
        if now < self._count_due:
            return
        self._count_due = now + COUNT_INTERVAL
        senders = [stream.sender for stream in self._streams.values()]
        kept = sum(sender.highest_offset - sender._buffer_start + STREAM_COST for sender in senders)
        if kept > MOST_KEPT:
            self.close(QuicErrorCode.INTERNAL_ERROR, QuicFrameType.ACK, "too much is not acknowledged")

    def _tell_idle(self) -> None:
        """After all was sent that may be: a controller that measures is to know when that was less than it allows."""
        if self._bbr is not None and self._pacing_at is None:
            self._bbr.on_idle()

    def _stock_datagrams(self, now: float) -> list[tuple[bytes, Any]]:
        return super().datagrams_to_send(now)

    def write_stream(self, stream_id: int, chunks: list[bytes], *, fin: bool, order: tuple[int, int]) -> None:
        """Send `chunks`; of all streams with data, the one with the highest `order` goes first.

        Raises as `send_stream_data`.
        """
        self.send_stream_data(
            stream_id, b""
        )  # claims the id, and complains about a stream that may not be written
        if chunks or fin:
            self._holding.add(stream_id, chunks, fin=fin, order=order)

    def prioritize(self, stream_id: int, order: tuple[int, int]) -> None:
        """Send what is left of a stream by another `order`."""
        self._holding.prioritize(stream_id, order)

    def reset_stream(self, stream_id: int, error_code: int) -> None:
        self._holding.drop(stream_id)
        super().reset_stream(stream_id, error_code)

    def unsent(self, stream_id: int) -> int:
        """Bytes of a stream that were written and never put into a packet."""
        held = self._holding.get(stream_id)
        return self._unsent_by_aioquic(stream_id) + (0 if held is None else held.size)

    def undelivered(self, stream_id: int) -> bool:
        """Whether something that was written on a stream, its end included, is not acknowledged."""
        if self._holding.get(stream_id) is not None:
            return True
        stream = self._streams.get(stream_id)
        return stream is not None and _undelivered(stream.sender)

    def anything_undelivered(self) -> bool:
        """Whether that holds for any stream."""
        return bool(self._holding) or any(_undelivered(stream.sender) for stream in self._streams.values())

    def _unsent_by_aioquic(self, stream_id: int) -> int:
        stream = self._streams.get(stream_id)
        if stream is None or stream.sender._reset_error_code is not None:
            return 0
        return int(stream.sender._buffer_stop - stream.sender.highest_offset)

    def _give(self) -> None:
        """Hand to aioquic what the congestion window and flow control have room for, the most urgent first.

        It sends streams in an order of its own and takes nothing back, so whatever else waits, waits here.
        """
        given = 0
        for stream_id in tuple(self._given):
            unsent = self._unsent_by_aioquic(stream_id)
            given += unsent
            if not unsent:
                self._given.discard(stream_id)
        room = self._loss.congestion_window - self._loss.bytes_in_flight
        room = min(room, self._remote_max_data - self._remote_max_data_used) - given
        for held in self._holding.urgent():
            stream_id = held.stream_id
            stream = self._streams.get(stream_id)
            if stream is None or stream.sender._reset_error_code is not None:
                self._holding.drop(stream_id)  # the peer has stopped it
                continue
            size = max(0, min(held.size, room, stream.max_stream_data_remote - stream.sender._buffer_stop))
            fin = held.fin and size == held.size
            if size or fin:
                self.send_stream_data(stream_id, held.take(size) if size else b"", fin)
                self._given.add(stream_id)
                room -= size
            if not held.size and (fin or not held.fin):
                self._holding.drop(stream_id)

    # -- receiving

    def receive_datagram(self, data: bytes, addr: NetworkAddress, now: float) -> None:
        """As aioquic's, but deaf from a close on, which aioquic is only once the close has been sent.

        Until then every further packet with an error would be decrypted, answered by another close, and logged.
        """
        if self._close_event is None:
            super().receive_datagram(data, addr, now)

    def _find_network_path(self, addr: NetworkAddress) -> Any:
        """As aioquic's, which keeps to the limit of unproven addresses even if a Retry has proven the first one."""
        path = super()._find_network_path(addr)
        if self._retry_source_connection_id is not None and not self._network_paths and not self._is_client:
            path.is_validated = True
        return path

    def next_event(self) -> QuicEvent | None:
        event = super().next_event()
        if type(event) is StreamDataReceived:
            self._receive_window.deliver(len(event.data))
        elif type(event) is StreamReset:
            # What the peer sent and will never be read counts as delivered, or the window would shrink for good.
            stream = self._streams.get(event.stream_id)
            if stream is not None:
                receiver = stream.receiver
                self._receive_window.deliver(receiver.highest_offset - receiver.starting_offset())
                # So what waits behind a hole must go, which the stream would keep until our half is over as well.
                receiver._buffer = bytearray()
                receiver._ranges = RangeSet()
        return event

    def _handle_stream_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        """As aioquic's, with a limit on what is kept for each stream."""
        at = buf.tell()
        stream_id = buf.pull_uint_var()
        buf.seek(at)
        super()._handle_stream_frame(context, frame_type, buf)
        stream = self._streams.get(stream_id)
        if stream is not None:
            self._count_pieces(stream.receiver, frame_type)

    def _count_pieces(self, receiver: Any, frame_type: int) -> None:
        """Raise QuicConnectionError if too many pieces of a stream wait behind holes."""
        if len(receiver._ranges) > max(FEWEST_PIECES, self._stream_window // PIECE):
            raise QuicConnectionError(
                QuicErrorCode.INTERNAL_ERROR, frame_type, "stream data comes in too many pieces"
            )

    def _handle_crypto_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        """As aioquic's, with limits that fit a handshake: half a megabyte of bytes that stand alone costs minutes of CPU."""
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
        """What MAX_STREAM_DATA is to say, if it is to be sent; it counts as sent then.

        Replaces aioquic's doubling, for the reason given at `ReceiveWindow`.
        """
        limit: int = stream.max_stream_data_local
        if not limit:
            return None  # a stream that only sends
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
            stream.max_stream_data_local_sent = sent  # there may be no room
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
        """As aioquic's, with the reason cut to what fits the packets that carry it."""
        if frame_type is not None:
            limit = TRANSPORT_REASON_LIMIT
        elif not self._handshake_confirmed:
            limit = EARLY_REASON_LIMIT
        else:
            limit = REASON_LIMIT
        super().close(error_code, frame_type, cut_utf8(reason_phrase, limit))

    def _make_pair(self) -> PatientPair:
        """The keys of 1-RTT packets, for subclasses to choose."""
        return PatientPair()

    # -- certificates

    def _initialize(self, peer_cid: bytes) -> None:
        """Called once the first packet is in (again after a Retry): the TLS context exists only from here on.

        The signature algorithm is negotiated for the key at hand, so the certificate has to be the right one before
        the ClientHello is handled; no callback of aioquic comes that early.
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
                pass  # the real handler meets the same bytes and answers with the right alert
            else:
                chosen = select(hello.server_name)
                context.certificate = chosen.certificate
                context.certificate_chain = list(chosen.chain)
                context.certificate_private_key = chosen.key
            handle_hello(input_buf, *args)

        context._server_handle_hello = choose_then_handle  # type: ignore[method-assign,assignment]


class RelayH3Connection(H3Connection):
    """HTTP/3 with the settings that every WebTransport generation looks for."""

    def __init__(self, quic: QuicConnection) -> None:
        super().__init__(quic, enable_webtransport=True)

    def _get_local_settings(self) -> dict[int, int]:
        """The only hook that adds settings: they are sent from the constructor."""
        return super()._get_local_settings() | WEBTRANSPORT_SETTINGS

    def forget(self, stream_id: int) -> None:
        """Drop the record of a request stream whose later bytes never come here, so it would stay for ever."""
        stream = self._stream.pop(stream_id, None)
        if stream is not None and stream.blocked:
            # Its HEADERS wait for the QPACK encoder stream, which would look for the record.
            cancelled = self._decoder.cancel_stream(stream_id)
            assert self._local_decoder_stream_id is not None
            with contextlib.suppress(RuntimeError):  # the peer has stopped our QPACK stream: its own fault
                self._quic.send_stream_data(self._local_decoder_stream_id, cancelled)

    def waiting(self, stream_id: int) -> int:
        """Bytes that are kept of a stream until there are more: of a frame that is not complete."""
        stream = self._stream.get(stream_id)
        return 0 if stream is None else len(stream.buffer)


def _nothing() -> None:
    """Nobody is there to send a probe."""


# -- questions about a connection


def stream_credit(quic: QuicConnection, *, unidirectional: bool) -> bool:
    """Whether the peer allows one more stream of ours now.

    A stream beyond the credit may be created, but a reset of it is sent all the same and kills the connection.
    """
    if unidirectional:
        return quic._local_next_stream_id_uni // 4 < quic._remote_max_streams_uni
    return quic._local_next_stream_id_bidi // 4 < quic._remote_max_streams_bidi


def reset_code(quic: QuicConnection, stream_id: int) -> int | None:
    """The code that our half of a stream was reset with, which may be before its first data was read."""
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
    """The protocols (ALPN) that a client offered, if the handshake failed because none is ours; else None.

    Empty where aioquic itself has read the ClientHello: it keeps none of it.
    """
    event = quic._close_event
    if event is None or event.error_code != NO_APPLICATION_PROTOCOL or closed_by_peer(quic):
        return None
    return tuple(getattr(quic.tls, "offered", ()))


NO_APPLICATION_PROTOCOL = QuicErrorCode.CRYPTO_ERROR + tls.AlertDescription.no_application_protocol


def closed_by_peer(quic: QuicConnection) -> bool:
    """Whether the close of `close_seen` came from the peer: the connection drains. True only until it terminates."""
    return bool(quic._state is QuicConnectionState.DRAINING)


def close_is_pending(quic: QuicConnection) -> bool:
    """Whether our close still waits to be written into a packet."""
    return bool(quic._close_pending)


def exceeds_allowance(quic: QuicConnection) -> bool:
    """Whether more was written for an unproven address than three times what came (RFC 9000, 8.1).

    aioquic heeds the limit, but not for its close.
    """
    path = quic._network_paths[0]
    return not path.is_validated and path.bytes_sent > 3 * path.bytes_received


def is_over(quic: QuicConnection) -> bool:
    """Whether nothing but silence follows: our close went out, the peer's came in, or it was given up."""
    return quic._state in _OVER


def idle_timeout(quic: QuicConnection) -> float:
    """Seconds of silence that end the connection: ours or the peer's, whichever is shorter."""
    return quic._idle_timeout()


def expire_by(quic: QuicConnection, deadline: float) -> None:
    """Let the idle time-out strike no later than `deadline`.

    aioquic starts it anew with the first ping into the silence (RFC 9000, 10.1), so that a dead peer is noticed one
    keep-alive interval late.
    """
    if quic._close_at is not None and quic._close_at > deadline and not is_over(quic):
        quic._close_at = deadline


def expire_later(quic: QuicConnection, seconds: float) -> None:
    """Let the idle time-out strike so much later, since we could not listen for so long."""
    if quic._close_at is not None and not is_over(quic):
        quic._close_at += seconds


def expire_not_before(quic: QuicConnection, deadline: float) -> None:
    """Let the idle time-out strike no earlier than `deadline`, since we could not listen for a while."""
    if quic._close_at is not None and quic._close_at < deadline and not is_over(quic):
        quic._close_at = deadline


def is_unborn(quic: QuicConnection) -> bool:
    """Whether no packet could be decrypted yet: what looked like an Initial was noise."""
    return bool(quic._state is QuicConnectionState.FIRSTFLIGHT)


def probe_timeout(quic: QuicConnection) -> float:
    """One PTO in seconds, from the loss recovery's estimate (0.2 before the first sample)."""
    return float(quic._loss.get_probe_timeout())


def smoothed_rtt(quic: QuicConnection) -> float | None:
    """Smoothed round trip in seconds; `None` before the first sample."""
    loss = quic._loss
    # The first sample is taken as it is, which may be 0 where a network has no delay.
    return max(float(loss._rtt_smoothed), K_MICRO_SECOND) if loss._rtt_initialized else None


def rate_estimate(quic: QuicConnection) -> int | None:
    """Bits per second that the path takes, as far as congestion control knows; `None` before the first sample."""
    rtt = smoothed_rtt(quic)
    if rtt is None:
        return None
    cc = quic._loss._cc
    if isinstance(cc, Bbr) and cc.bandwidth:
        return int(cc.bandwidth * 8)
    return int(quic._loss.congestion_window * 8 / rtt)


def datagram_limit(quic: QuicConnection) -> int:
    """Largest DATAGRAM payload that fits one packet and the peer's limit, 0 if the peer takes none.

    One that fits no packet would block the queue of aioquic for good.
    """
    remote: int | None = quic._remote_max_datagram_frame_size
    if remote is None:
        return 0
    packet = quic._max_datagram_size - 3 - len(quic._peer_cid.cid) - 16
    return max(0, min(packet, remote) - 3)


def pending_datagrams(quic: QuicConnection) -> int:
    """DATAGRAM frames that wait for a packet; aioquic bounds them not."""
    return len(quic._datagrams_pending)


def peer_certificate(quic: QuicConnection) -> x509.Certificate | None:
    """The leaf that the server presented; aioquic verifies chains but pins nothing."""
    certificate: x509.Certificate | None = quic.tls._peer_certificate
    return certificate


CloseKind = Literal["application", "transport", "tls"]


def close_kind(event: ConnectionTerminated) -> CloseKind:
    """Which layer closed: TLS alerts are the transport errors 0x100 to 0x1ff."""
    if event.frame_type is None:
        return "application"
    first = QuicErrorCode.CRYPTO_ERROR
    return "tls" if first <= event.error_code < first + 0x100 else "transport"


def parse_first_packet(data: bytes, *, connection_id_length: int) -> QuicHeader | None:
    """Read the header of the first packet in a datagram; `None` for garbage."""
    try:
        return pull_quic_header(Buffer(data=data), host_cid_length=connection_id_length)
    except ValueError:
        return None


def encode_refusal(code: QuicErrorCode, *, version: int, source_cid: bytes, destination_cid: bytes) -> bytes:
    """Build an Initial packet that closes with the transport error `code`, below 64, without a connection.

    `source_cid` is the destination connection id that the client chose, which its Initial keys come from.
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
