"""The private names of aioquic used by `compat`.

A failure shows what to check when the pinned version changes.
"""

from __future__ import annotations

from typing import Any

import pytest
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.packet import QuicErrorCode, QuicFrameType

from relay.transport.quic import compat
from tests.transport.virtual import PAIR, Recorder, Wire

pytestmark = pytest.mark.usefixtures("pairing")


def connection() -> compat.RelayQuicConnection:
    return compat.RelayQuicConnection(
        configuration=QuicConfiguration(is_client=True), max_streams_bidi=7, max_streams_uni=9
    )


def test_the_state_of_an_open_h3_connection() -> None:
    wire = Wire("webtransport")
    wire.open()
    handler: Any = wire.server_connection.handler
    assert isinstance(handler._http3.layer._stream, dict)
    assert 0 not in handler._http3.layer._stream  # the request's record is dropped
    control = handler._http3.layer._stream[2]
    assert (control.blocked, control.buffer) == (False, b"")
    assert handler._http3.layer._local_decoder_stream_id == 11
    assert handler._http3.layer._decoder.cancel_stream(4)


def test_settings_satisfy_every_generation() -> None:
    wire = Wire("webtransport")
    wire.open()
    handler: Any = wire.client_connection.handler
    settings = handler._http3.layer.received_settings
    for name in (0x08, 0x33, 0xFFD277, 0x2B603742, 0x2B603743, 0xC671706A):
        assert settings[name] == 1


def test_the_control_stream_comes_first() -> None:
    wire = Wire("webtransport")
    wire.open()
    handler: Any = wire.server_connection.handler
    assert handler._http3.layer._local_control_stream_id == 3


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
    # One that does not fit its packets makes aioquic raise instead of closing.
    for packets in range(6):
        wire = Wire()
        for _ in range(packets):
            wire.client_connection.transmit(wire.now)
            if wire.flying:
                target, data, source = wire.flying.popleft()
                connection = wire.client_connection if target == "client" else wire.server_connection
                connection.receive(data, source, wire.now)
                connection.process()
                connection.transmit(wire.now)
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
    wire.client_connection.transmit(wire.now)
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
    wire.client_connection.receive(answer, ("192.0.2.2", 443), wire.now)
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
    wire.client_connection.handler.pump()  # type: ignore[union-attr]
    assert wire.client_quic.unsent(stream.id) == 1000
    wire.client_quic.reset_stream(stream.id, 3)
    assert wire.client_quic.unsent(stream.id) == 0
    assert compat.reset_code(wire.client_quic, stream.id) == 3
