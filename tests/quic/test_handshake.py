"""What a handshake of ours adds to aioquic's: limits, certificates, refusals, closes."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from aioquic.buffer import Buffer  # type: ignore[attr-defined]
from aioquic.quic.connection import QuicConnection
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.logger import QuicLoggerTrace
from aioquic.quic.packet import QuicErrorCode, QuicFrameType, QuicPacketType, QuicProtocolVersion
from aioquic.quic.packet_builder import QuicPacketBuilder
from cryptography import x509

from relay.quic.certificate_store import generate_certificate
from relay.quic.handshake import (
    MOST_CRYPTO,
    MOST_CRYPTO_PIECES,
    NO_APPLICATION_PROTOCOL,
    REASON_LIMIT,
    Credentials,
    Handshake,
    cut_utf8,
)
from relay.quic.varint import varint
from tests.quic.handshaking import CLIENT, PAIR, SERVER, Line, client, configured, plain_client, server

ONE = QuicProtocolVersion.VERSION_1


def test_certificates_by_server_name() -> None:
    other = generate_certificate(["other.test"], dt.datetime.now(dt.UTC))
    pairs = {"other.test": other, "relay.test": PAIR}
    asked: list[str | None] = []

    def choose(name: str | None) -> Credentials:
        asked.append(name)
        pair = pairs.get(name or "", PAIR)
        return Credentials(pair.certificate, pair.chain, pair.key)

    for name, pair in (*pairs.items(), ("unknown.test", PAIR), (None, PAIR)):
        configuration = configured(is_client=True)
        configuration.server_name = name
        ours = client(configuration)
        line = Line((ours, other_end := server(ours.original_destination_connection_id, credentials=choose)))
        line.run()
        assert asked.pop() == name
        assert not asked
        assert ours.complete
        assert other_end.complete
        assert ours.peer_certificate == pair.certificate
        assert other_end.peer_certificate is None


def test_a_client_without_a_common_protocol() -> None:
    quic = plain_client(configured(is_client=True, alpns=("moq-00", "else")))
    line = Line((quic, ours := server(quic.original_destination_connection_id)))
    assert ours.refused_protocols is None
    line.run()
    assert ours.refused_protocols == ("moq-00", "else")
    assert ours.close_event is not None
    assert ours.close_event.error_code == NO_APPLICATION_PROTOCOL
    assert quic._close_event is not None
    assert quic._close_event.error_code == NO_APPLICATION_PROTOCOL
    assert ours.over
    assert not ours.closed_by_peer
    assert not ours.complete


def test_other_refusals_say_nothing_of_protocols() -> None:
    quic = plain_client()
    line = Line((quic, ours := server(quic.original_destination_connection_id)))
    line.turn()
    ours.close(QuicErrorCode.CONNECTION_REFUSED, QuicFrameType.PADDING)
    assert ours.close_is_pending
    line.run()
    assert not ours.close_is_pending
    assert ours.refused_protocols is None
    assert quic._close_event is not None
    assert quic._close_event.error_code == QuicErrorCode.CONNECTION_REFUSED


def test_a_close_by_the_peer() -> None:
    quic = plain_client()
    line = Line((quic, ours := server(quic.original_destination_connection_id)))
    line.turn()
    quic.close(9, QuicFrameType.PADDING, "enough")
    line.turn()
    line.turn()
    assert ours.closed_by_peer
    assert ours.over
    assert ours.close_event is not None
    assert (ours.close_event.error_code, ours.close_event.reason_phrase) == (9, "enough")


def test_a_client_that_misses_its_protocol() -> None:
    """It has closed, not we."""
    quic = plain_client()
    line = Line((quic, ours := server(quic.original_destination_connection_id)))
    line.turn()
    quic.close(NO_APPLICATION_PROTOCOL, QuicFrameType.CRYPTO)
    line.run()
    assert ours.closed_by_peer
    assert ours.refused_protocols is None


@pytest.mark.parametrize("size", [0, 100, 255, 256, 400, 700, 1024, 5000])
@pytest.mark.parametrize("transport", [True, False])
def test_any_reason_can_be_sent(size: int, transport: bool) -> None:
    """One that does not fit its packets makes aioquic raise instead of closing."""
    for turns in range(6):
        ours = client()
        line = Line((ours, other := server(ours.original_destination_connection_id)))
        for _ in range(turns):
            line.turn()
        for quic in (ours, other):
            if not quic._network_paths:
                continue
            confirmed = quic._handshake_confirmed
            quic.close(5, 0 if transport else None, "é" * size)
            assert quic.close_event is not None
            assert len(quic.close_event.reason_phrase.encode()) <= REASON_LIMIT
            assert quic.datagrams_to_send(line.now) or confirmed


def test_cut_utf8() -> None:
    assert cut_utf8("aé", 2) == "a"
    assert cut_utf8("aé", 3) == "aé"
    assert cut_utf8("\ud800", 9) == "?"


def test_noise_that_looks_like_a_first_packet() -> None:
    quic = plain_client()
    quic.connect(SERVER, 0.0)
    [(first, _)] = quic.datagrams_to_send(0.0)
    damaged = bytearray(first)
    damaged[40] ^= 1
    ours = server(quic.original_destination_connection_id)
    ours.receive(bytes(damaged), CLIENT, 0.0)
    assert ours.nothing_decrypted
    ours.receive(first, CLIENT, 0.0)
    assert not ours.nothing_decrypted


def test_nothing_is_received_after_our_close() -> None:
    quic = plain_client()
    quic.connect(SERVER, 0.0)
    [(first, _)] = quic.datagrams_to_send(0.0)
    ours = server(quic.original_destination_connection_id)
    ours.receive(first, CLIENT, 0.0)
    ours.close(1, 0, "no")
    before = ours._network_paths[0].bytes_received
    ours.receive(first, CLIENT, 0.0)
    assert ours._network_paths[0].bytes_received == before


@pytest.mark.parametrize("spent", [False, True])
def test_a_close_keeps_the_limit_of_an_unverified_address(spent: bool) -> None:
    quic = plain_client()
    quic.connect(SERVER, 0.0)
    [(first, _)] = quic.datagrams_to_send(0.0)
    ours = server(quic.original_destination_connection_id)
    ours.receive(first, CLIENT, 0.0)
    ours.datagrams_to_send(0.0)
    path = ours._network_paths[0]
    if spent:
        path.bytes_sent = 3 * path.bytes_received
    ours.close(QuicErrorCode.CONNECTION_REFUSED, 0, "no")
    assert bool(ours.datagrams_to_send(0.0)) != spent
    assert ours.over


# -- CRYPTO data


def initial(cid: bytes, frames: list[tuple[int, bytes]], *, is_client: bool, number: int = 0) -> list[bytes]:
    """Initial packets with CRYPTO frames of these offsets and data."""
    crypto = CryptoPair()
    crypto.setup_initial(cid=cid, is_client=is_client, version=ONE)
    builder = QuicPacketBuilder(
        host_cid=b"whoever!", is_client=is_client, max_datagram_size=1200, peer_cid=cid, packet_number=number,
        version=ONE,
    )  # fmt: skip
    builder.start_packet(QuicPacketType.INITIAL, crypto)
    for offset, data in frames:
        buf = builder.start_frame(QuicFrameType.CRYPTO, capacity=8 + len(data))
        for part in (varint(offset), varint(len(data)), data):
            buf.push_bytes(part)
    return builder.flush()[0]


@pytest.mark.parametrize(
    "offsets", [[MOST_CRYPTO], list(range(2, 6 + 2 * MOST_CRYPTO_PIECES, 2))], ids=["far", "pieces"]
)
def test_a_first_packet_cannot_make_a_server_sort(offsets: list[int]) -> None:
    """The sender is unverified."""
    ours = server(b"original")
    for data in initial(
        b"original", [(offset, b"x") for offset in offsets[:-1]] or [(1, b"x")], is_client=True
    ):
        ours.receive(data, CLIENT, 0.0)
    assert ours.close_event is None
    for data in initial(b"original", [(offsets[-1], b"x")], is_client=True, number=9):
        ours.receive(data, CLIENT, 0.0)
    assert ours.close_event is not None
    assert ours.close_event.error_code == QuicErrorCode.CRYPTO_BUFFER_EXCEEDED
    assert len(ours._crypto_streams[first_epoch(ours)].receiver._buffer) <= MOST_CRYPTO


def first_epoch(quic: QuicConnection) -> Any:
    return min(quic._crypto_streams, key=lambda epoch: epoch.value)


def test_long_certificate_chains_of_a_server_are_read() -> None:
    """Data in order is counted for servers only."""
    ours = client()
    ours.connect(SERVER, 0.0)
    receiver: Any = ours._crypto_streams[first_epoch(ours)].receiver
    context: Any = type("Context", (), {"epoch": first_epoch(ours), "time": 0.0, "version": ONE})
    receiver._buffer_start = 10 * MOST_CRYPTO
    frame = varint(11 * MOST_CRYPTO - 1) + b"\x01x"
    ours._handle_crypto_frame(context, 6, Buffer(data=frame))


# -- the rest of the settings


def test_the_configuration_of_the_certificate_is_used_without_a_selector() -> None:
    ours = client()
    line = Line((ours, other := server(ours.original_destination_connection_id)))
    line.run()
    assert other.complete
    assert isinstance(ours.peer_certificate, x509.Certificate)
    assert ours.peer_certificate == PAIR.certificate


def test_a_trace_ends_once() -> None:
    class Logger:
        def __init__(self) -> None:
            self.ended: list[Any] = []

        def start_trace(self, **_: Any) -> Any:
            return QuicLoggerTrace(is_client=True, odcid=b"x")

        def end_trace(self, trace: Any) -> None:
            self.ended.append(trace)

    logger = Logger()
    configuration = configured(is_client=True)
    configuration.quic_logger = logger  # type: ignore[assignment]
    one: Handshake = client(configuration)
    trace = one.take_trace()
    assert trace is not None
    one.release()
    assert logger.ended == []
    two = client(configuration)
    two.release()
    assert len(logger.ended) == 1
