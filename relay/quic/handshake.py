"""`Handshake`: aioquic's connection until the handshake is complete.

Owns the rules of ours that aioquic has none for: certificate by server name, limits on CRYPTO data and streams,
closes. It never gets 1-RTT keys, so it neither reads nor writes 1-RTT packets; `handover` passes them to our
own connection. Uses private names of aioquic, see tests/quic/test_private_names.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aioquic import tls
from aioquic.buffer import Buffer, BufferReadError  # type: ignore[attr-defined]
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import (
    END_STATES,
    NetworkAddress,
    QuicConnection,
    QuicConnectionError,
    QuicConnectionState,
    QuicReceiveContext,
)
from aioquic.quic.events import ConnectionTerminated
from aioquic.quic.logger import QuicLoggerTrace
from aioquic.quic.packet import QuicErrorCode, pull_quic_header
from cryptography import x509

from relay.quic.errors import QuicError
from relay.quic.start import MIN_ACK_DELAY, OUR_MIN_ACK_DELAY, PeerParameters, read_parameters
from relay.quic.varint import varint

TESTED_VERSIONS = ("1.7.1", "1.7.2")  # of aioquic

REASON_LIMIT = 256
"""Bytes of a close reason: three coalesced handshake packets may repeat it, or aioquic raises."""

MOST_CRYPTO = 65_536  # bytes: for a client all, for a server those buffered out of order
MOST_CRYPTO_PIECES = 64  # buffered out of order: unverified addresses can send them
MOST_EARLY = 16_384  # bytes of 1-RTT packets kept for the time after the handshake

IDLE_REASON = "Idle timeout"  # aioquic's of an idle time-out, whose code is an internal error's

NO_APPLICATION_PROTOCOL = QuicErrorCode.CRYPTO_ERROR + tls.AlertDescription.no_application_protocol

CredentialSelector = Callable[[str | None], "Credentials"]


@dataclass(slots=True, eq=False)
class Credentials:
    """A server's certificate, chain and key."""

    certificate: x509.Certificate
    chain: tuple[x509.Certificate, ...]
    key: Any


def cut_utf8(text: str, limit: int) -> str:
    """Shorten `text` to at most `limit` bytes of UTF-8, never inside a character."""
    data = text.encode("utf-8", "replace")
    return data[:limit].decode("utf-8", "ignore")


def split(datagram: bytes) -> tuple[bytes, bytes]:
    """The part with long headers, for a handshake, and the 1-RTT packet at the end. Either may be empty.

    The first keeps the datagram's size, filled up with zeros, which aioquic ignores: a server must count the
    bytes of an unverified address, and Initial packets of small datagrams are invalid (RFC 9000, 14.1).
    """
    if not datagram or not datagram[0] & LONG:
        return b"", datagram
    buffer = Buffer(data=datagram)
    try:
        while True:
            at = buffer.tell()
            if at == len(datagram) or datagram[at] & (LONG | FIXED) == 0:
                return datagram, b""  # at the end, or padding
            if not datagram[at] & LONG:
                return datagram[:at] + bytes(len(datagram) - at), datagram[at:]
            header = pull_quic_header(buffer)
            buffer.seek(at + header.packet_length)
    except ValueError:
        return datagram, b""


LONG = 0x80  # bits of a packet's first byte (RFC 9000, 17)
FIXED = 0x40


class Handshake(QuicConnection):
    """Drive it as aioquic's, but with `receive`.

    Once `complete`, `handover.take_over` makes the record that our own connection begins with. A server drops
    it at once; a client goes on with it until HANDSHAKE_DONE, so that it repeats its Finished. Either calls
    `release` then.

    Size: aioquic's methods that are extended, and the checks of what it has come to.
    """

    def __init__(
        self,
        *,
        configuration: QuicConfiguration,
        max_streams_bidi: int,
        max_streams_uni: int,
        token_of: Callable[[bytes], bytes] | None = None,
        original_destination_connection_id: bytes | None = None,
        retry_source_connection_id: bytes | None = None,
        credentials: CredentialSelector | None = None,
    ) -> None:
        """A server passes the client's first id, and the second one if the client has answered a Retry.

        `token_of` makes the stateless reset token of a server's connection id.
        """
        super().__init__(
            configuration=configuration,
            original_destination_connection_id=original_destination_connection_id,
            retry_source_connection_id=retry_source_connection_id,
        )
        self.is_client = configuration.is_client
        self.suite = 0
        self.send_secret = b""
        self.receive_secret = b""
        self.peer = PeerParameters()
        self.early: list[tuple[bytes, NetworkAddress]] = []  # 1-RTT packets before the end, and their senders
        self.offered: tuple[str, ...] = ()  # by a client without a common protocol
        self._early_size = 0
        self._retried = retry_source_connection_id is not None
        self._credentials = credentials
        # aioquic fixes 128 streams each way; the handshake writes the transport parameters from these.
        for limit, value in (
            (self._local_max_streams_bidi, max_streams_bidi),
            (self._local_max_streams_uni, max_streams_uni),
        ):
            limit.value = limit.sent = value
        if token_of is not None and not self.is_client:
            self._host_cids[0].stateless_reset_token = token_of(self.host_cid)

    # -- what it has come to

    @property
    def complete(self) -> bool:
        """The peer's Finished has come."""
        return bool(self._handshake_complete)

    @property
    def alpn(self) -> str:
        """The protocol, once the handshake is complete."""
        return self.tls.alpn_negotiated or ""

    @property
    def over(self) -> bool:
        """Closed by either side: nothing is sent any more."""
        return self._state in END_STATES

    @property
    def close_event(self) -> ConnectionTerminated | None:
        """The close that either side began."""
        return self._close_event

    @property
    def closed_by_peer(self) -> bool:
        return self._state is QuicConnectionState.DRAINING

    @property
    def timed_out(self) -> bool:
        """The peer was silent too long."""
        event = self._close_event
        return event is not None and event.reason_phrase == IDLE_REASON and not self.closed_by_peer

    @property
    def terminated(self) -> bool:
        """The close needs no more time."""
        return self._state is QuicConnectionState.TERMINATED

    @property
    def close_is_pending(self) -> bool:
        """Our close is not yet written."""
        return bool(self._close_pending)

    @property
    def nothing_decrypted(self) -> bool:
        """The apparent Initial was noise."""
        return self._state is QuicConnectionState.FIRSTFLIGHT

    @property
    def refused_protocols(self) -> tuple[str, ...] | None:
        """ALPN protocols of a client that we closed for the lack of a common one."""
        event = self._close_event
        if event is None or event.error_code != NO_APPLICATION_PROTOCOL or self.closed_by_peer:
            return None
        return self.offered

    @property
    def peer_certificate(self) -> x509.Certificate | None:
        """The leaf: aioquic verifies chains but cannot pin."""
        certificate: x509.Certificate | None = self.tls._peer_certificate
        return certificate

    def take_trace(self) -> QuicLoggerTrace | None:
        """The qlog trace, which ends with the connection; else `release` ends it."""
        trace, self._quic_logger = self._quic_logger, None
        return trace

    def release(self) -> None:
        """Break all reference cycles, so that it is freed at once. Nothing else may be called after this."""
        trace, logger = self.take_trace(), self.configuration.quic_logger
        if trace is not None and logger is not None:
            logger.end_trace(trace)
        for space in self._loss.spaces:
            space.sent_packets.clear()  # each refers to its space
        vars(self).clear()

    # -- packets

    def receive(self, data: bytes, address: NetworkAddress, now: float) -> None:
        """A 1-RTT packet in the datagram is kept in `early`."""
        long, short = split(data)
        if short and self._early_size + len(short) <= MOST_EARLY:
            self._early_size += len(short)
            self.early.append((short, address))
        if long:
            self.receive_datagram(long, address, now)

    def receive_datagram(self, data: bytes, addr: NetworkAddress, now: float) -> None:
        """As aioquic's, but ignores packets from our close on: each error would be answered and logged."""
        if self._close_event is None:
            super().receive_datagram(data, addr, now)

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, NetworkAddress]]:
        """As aioquic's, but a close keeps the limit of unverified addresses as well (RFC 9000, 8.1)."""
        closing = self._close_pending
        datagrams = super().datagrams_to_send(now)
        if closing:
            path = self._network_paths[0]
            if not path.is_validated and path.bytes_sent > 3 * path.bytes_received:
                return []
        return datagrams

    def close(
        self, error_code: int = QuicErrorCode.NO_ERROR, frame_type: int | None = None, reason_phrase: str = ""
    ) -> None:
        """As aioquic's, with the reason cut to fit the packets that carry it."""
        super().close(error_code, frame_type, cut_utf8(reason_phrase, REASON_LIMIT))

    def resume(self, now: float, late: float) -> None:
        """The process paused, see `Connection.resume`."""
        if self._close_at is None or self._close_event is not None:
            return
        half = self.configuration.idle_timeout / 2
        self._close_at = self._close_at + late if late < half else max(self._close_at, now + half)

    # -- rules

    def _find_network_path(self, addr: NetworkAddress) -> Any:
        """As aioquic's, which keeps the amplification limit even if a Retry has verified the address."""
        path = super()._find_network_path(addr)
        if self._retried and not self._network_paths:
            path.is_validated = True
        return path

    def _handle_crypto_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        """As aioquic's, with limits for a handshake: half a megabyte of single bytes costs minutes of CPU."""
        at = buf.tell()
        end = buf.pull_uint_var() + buf.pull_uint_var()
        buf.seek(at)
        receiver = self._crypto_streams[context.epoch].receiver
        if self.is_client:
            end -= receiver.starting_offset()
        if end > MOST_CRYPTO or len(receiver._ranges) > MOST_CRYPTO_PIECES:
            raise QuicConnectionError(
                QuicErrorCode.CRYPTO_BUFFER_EXCEEDED,
                frame_type,
                "too much CRYPTO data, or in too many pieces",
            )
        super()._handle_crypto_frame(context, frame_type, buf)

    def _serialize_transport_parameters(self) -> bytes:
        """As aioquic's, with min_ack_delay."""
        value = varint(OUR_MIN_ACK_DELAY)
        ours = b"".join((varint(MIN_ACK_DELAY), varint(len(value)), value))
        return super()._serialize_transport_parameters() + ours

    def _parse_transport_parameters(self, data: bytes, from_session_ticket: bool = False) -> None:  # noqa: FBT001, FBT002 - as the original
        super()._parse_transport_parameters(data, from_session_ticket)
        try:
            self.peer = read_parameters(data)
        except QuicError as error:
            raise QuicConnectionError(error.code, error.frame_type, error.reason) from None

    def _update_traffic_key(
        self, direction: tls.Direction, epoch: tls.Epoch, cipher_suite: tls.CipherSuite, secret: bytes
    ) -> None:
        """As aioquic's, but the secrets of 1-RTT packets are for our own connection."""
        if epoch is not tls.Epoch.ONE_RTT:
            super()._update_traffic_key(direction, epoch, cipher_suite, secret)
            return
        self.suite = int(cipher_suite)
        if direction is tls.Direction.ENCRYPT:
            self.send_secret = secret
        else:
            self.receive_secret = secret

    def _initialize(self, peer_cid: bytes) -> None:
        """Called for the first packet, and again after a Retry: only then the TLS context exists.

        The certificate must be chosen before aioquic handles the ClientHello, since its key decides the
        signature algorithm; aioquic has no callback that early.
        """
        super()._initialize(peer_cid)
        if not self.is_client:
            self.tls._server_handle_hello = self._handle_hello  # type: ignore[method-assign]

    def _handle_hello(self, input_buf: Buffer, initial_buf: Buffer, handshake_buf: Buffer) -> None:
        message = input_buf.data_slice(0, input_buf.capacity)
        context = self.tls
        if self._credentials is not None:
            hello = _read_hello(message)
            if hello is not None:
                chosen = self._credentials(hello.server_name)
                context.certificate = chosen.certificate
                context.certificate_chain = list(chosen.chain)
                context.certificate_private_key = chosen.key
        try:
            tls.Context._server_handle_hello(context, input_buf, initial_buf, handshake_buf)
        except tls.AlertNoApplicationProtocol:
            hello = _read_hello(message)
            if hello is not None:
                self.offered = tuple(hello.alpn_protocols or ())
            raise


def _read_hello(message: bytes) -> tls.ClientHello | None:
    """`None` if the real handler is going to send an alert for it."""
    try:
        return tls.pull_client_hello(Buffer(data=message))
    except (tls.Alert, BufferReadError, ValueError, AssertionError):
        return None
