"""The private names of aioquic that we lean on. A failure here says what to look at when the pinned version moves."""

from __future__ import annotations

import importlib.metadata
import inspect
from typing import Any

import pytest
from aioquic import tls
from aioquic.h3.connection import H3Connection
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection, QuicConnectionState
from aioquic.quic.packet import QuicErrorCode, QuicFrameType
from aioquic.quic.recovery import QuicPacketRecovery
from aioquic.quic.stream import QuicStream

from relay.transport.quic import compat
from tests.transport.virtual import PAIR, Recorder, Wire

pytestmark = pytest.mark.usefixtures("pairing")


def connection() -> compat.RelayQuicConnection:
    return compat.RelayQuicConnection(
        configuration=QuicConfiguration(is_client=True), max_streams_bidi=7, max_streams_uni=9
    )


def test_the_tested_version_is_installed() -> None:
    assert importlib.metadata.version("aioquic") == compat.TESTED_VERSION


@pytest.mark.parametrize(
    "name",
    [
        "_close_at",
        "_close_event",
        "_close_pending",
        "_datagrams_pending",
        "_find_network_path",
        "_handshake_confirmed",
        "_initialize",
        "_local_max_data",
        "_local_max_streams_bidi",
        "_local_max_streams_uni",
        "_local_next_stream_id_bidi",
        "_local_next_stream_id_uni",
        "_loss",
        "_max_datagram_size",
        "_on_max_stream_data_delivery",
        "_network_paths",
        "_pacing_at",
        "_peer_cid",
        "_quic_logger",
        "_remote_max_data",
        "_remote_max_data_used",
        "_remote_max_datagram_frame_size",
        "_remote_max_streams_bidi",
        "_remote_max_streams_uni",
        "_retry_source_connection_id",
        "_state",
        "_streams",
        "_write_stream_limits",
    ],
)
def test_connection_has(name: str) -> None:
    plain = QuicConnection(configuration=QuicConfiguration(is_client=True))
    assert hasattr(plain, name)


@pytest.mark.parametrize(
    "name",
    [
        *("_buffer_fin", "_buffer_start", "_buffer_stop", "_reset_error_code", "buffer_is_empty"),
        *("highest_offset", "is_finished"),
    ],
)
def test_sender_has(name: str) -> None:
    assert hasattr(QuicStream().sender, name)


@pytest.mark.parametrize("name", ["_buffer", "_ranges", "highest_offset", "starting_offset", "is_finished"])
def test_receiver_has(name: str) -> None:
    assert hasattr(QuicStream().receiver, name)


@pytest.mark.parametrize("name", ["max_stream_data_local", "max_stream_data_local_sent"])
def test_stream_has(name: str) -> None:
    assert hasattr(QuicStream(), name)


@pytest.mark.parametrize(
    "name",
    [
        *("_cc", "_pacer", "_rtt_smoothed", "_rtt_initialized", "bytes_in_flight", "congestion_window"),
        "get_probe_timeout",
    ],
)
def test_recovery_has(name: str) -> None:
    assert hasattr(connection()._loss, name)
    assert isinstance(connection()._loss, QuicPacketRecovery)


def test_tls_has() -> None:
    server = tls.Context(is_client=False)
    parameters = list(inspect.signature(server._server_handle_hello).parameters)
    assert parameters[0] == "input_buf"
    assert hasattr(server, "_peer_certificate")
    for name in ("certificate", "certificate_chain", "certificate_private_key", "alpn_negotiated"):
        assert hasattr(server, name)


def test_states() -> None:
    assert {"FIRSTFLIGHT", "CONNECTED", "CLOSING", "DRAINING", "TERMINATED"} == {
        s.name for s in QuicConnectionState
    }


def test_h3_has() -> None:
    assert hasattr(H3Connection, "_get_local_settings")
    wire = Wire("webtransport")
    wire.open()
    handler: Any = wire.server_link.handler
    assert isinstance(handler._h3._stream, dict)
    assert 0 not in handler._h3._stream  # the request's record is dropped
    control = handler._h3._stream[2]
    assert (control.blocked, control.buffer) == (False, b"")
    assert handler._h3._local_decoder_stream_id == 11
    assert handler._h3._decoder.cancel_stream(4)


def test_settings_satisfy_every_generation() -> None:
    wire = Wire("webtransport")
    wire.open()
    handler: Any = wire.client_link.handler
    settings = handler._h3.received_settings
    for name in (0x08, 0x33, 0xFFD277, 0x2B603742, 0x2B603743, 0xC671706A):
        assert settings[name] == 1


def test_the_control_stream_comes_first() -> None:
    wire = Wire("webtransport")
    wire.open()
    handler: Any = wire.server_link.handler
    assert handler._h3._local_control_stream_id == 3


def test_stream_limits_are_ours() -> None:
    quic = connection()
    assert quic._local_max_streams_bidi.value == quic._local_max_streams_bidi.sent == 7
    assert quic._local_max_streams_uni.value == quic._local_max_streams_uni.sent == 9
    assert not compat.stream_credit(quic, unidirectional=True)
    wire = Wire()
    wire.open()
    assert wire.client_quic._remote_max_streams_uni == 1024
    assert compat.stream_credit(wire.client_quic, unidirectional=True)


def test_doubling_of_the_window_is_ignored() -> None:
    window = compat.ReceiveWindow(100)
    window.value *= 2
    assert window.value == 100
    window.deliver(49)
    assert window.value == 100
    window.deliver(2)
    assert window.value == 151
    assert window.frame_type == QuicFrameType.MAX_DATA


def test_unsent_of_an_unknown_stream() -> None:
    assert connection().unsent(0) == 0
    assert compat.reset_code(connection(), 0) is None


@pytest.mark.parametrize("size", [0, 100, 255, 256, 400, 700, 1024, 5000])
@pytest.mark.parametrize("transport", [True, False])
def test_any_reason_can_be_sent(size: int, transport: bool) -> None:
    # One that does not fit its packets would make aioquic raise instead of closing, depending on the moment.
    for packets in range(6):
        wire = Wire()
        for _ in range(packets):
            wire.client_link.transmit(wire.now)
            if wire.flying:
                target, data, source = wire.flying.popleft()
                link = wire.client_link if target == "client" else wire.server_link
                link.receive(data, source, wire.now)
                link.process()
                link.transmit(wire.now)
        for quic in (wire.client_quic, wire.server_quic):
            if not hasattr(quic, "tls"):
                continue
            quic.close(5, 0 if transport else None, "x" * size)
            assert quic.datagrams_to_send(wire.now)


def test_cut_utf8() -> None:
    assert compat.cut_utf8("aé", 2) == "a"
    assert compat.cut_utf8("aé", 3) == "aé"
    assert compat.cut_utf8("\ud800", 9) == "?"


def test_refusal_is_understood() -> None:
    wire = Wire()
    wire.client_link.transmit(wire.now)
    _, first, _ = wire.flying.popleft()
    header = compat.parse_first_packet(first, connection_id_length=8)
    assert header is not None
    assert header.version is not None
    answer = compat.encode_refusal(
        QuicErrorCode.CONNECTION_REFUSED,
        version=header.version,
        source_cid=header.destination_cid,
        destination_cid=header.source_cid,
    )
    assert len(answer) < 1200
    wire.client_link.receive(answer, ("192.0.2.2", 443), wire.now)
    close = compat.close_seen(wire.client_quic)
    assert close is not None
    assert close.error_code == QuicErrorCode.CONNECTION_REFUSED
    assert compat.closed_by_peer(wire.client_quic)


def test_garbage_has_no_header() -> None:
    assert compat.parse_first_packet(b"\xc0\x00\x00", connection_id_length=8) is None


def test_the_clients_certificate_view() -> None:
    wire = Wire()
    wire.open()
    assert compat.peer_certificate(wire.client_quic) == PAIR.certificate
    assert compat.peer_certificate(wire.server_quic) is None


def test_a_sender_that_is_reset_has_nothing_unsent() -> None:
    wire = Wire()
    client, server = wire.open()
    Recorder(server)
    stream = client.open_uni()
    stream.write([bytes(1000)])
    wire.client_link.handler.pump()  # type: ignore[union-attr]
    assert wire.client_quic.unsent(stream.id) == 1000
    wire.client_quic.reset_stream(stream.id, 3)
    assert wire.client_quic.unsent(stream.id) == 0
    assert compat.reset_code(wire.client_quic, stream.id) == 3
