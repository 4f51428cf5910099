"""The hand-over: what it says of a handshake is what the other end knows, and 1-RTT packets are ours alone."""

from __future__ import annotations

import gc
import weakref
from dataclasses import asdict
from typing import Any

import pytest
from aioquic.buffer import Buffer  # type: ignore[attr-defined]
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import HandshakeCompleted, PingAcknowledged, StreamDataReceived
from aioquic.quic.packet import QuicErrorCode, QuicProtocolVersion, encode_quic_retry, pull_quic_header
from aioquic.tls import CipherSuite

from relay.quic.errors import TRANSPORT_PARAMETER_ERROR, QuicError
from relay.quic.handover import take_over
from relay.quic.handshake import MOST_EARLY, Handshake, split
from relay.quic.start import MIN_ACK_DELAY, PeerParameters, read_parameters
from relay.quic.varint import varint
from tests.quic.handshaking import (
    CLIENT,
    DELAY,
    SERVER,
    Line,
    client,
    configured,
    plain_client,
    plain_server,
    protection_of,
    server,
    token_of,
)

ONE, TWO = QuicProtocolVersion.VERSION_1, QuicProtocolVersion.VERSION_2
HANDSHAKE_DONE, PING = b"\x1e", b"\x01"
SUITES = [
    CipherSuite.AES_128_GCM_SHA256,
    CipherSuite.AES_256_GCM_SHA384,
    CipherSuite.CHACHA20_POLY1305_SHA256,
]


def with_plain_client(**options: Any) -> tuple[Line, QuicConnection, Handshake]:
    quic = plain_client(configured(is_client=True, **options))
    return Line((quic, ours := server(quic.original_destination_connection_id))), quic, ours


def with_plain_server(**options: Any) -> tuple[Line, Handshake, QuicConnection]:
    ours = client(configured(is_client=True, **options))
    return Line((ours, quic := plain_server(ours.original_destination_connection_id))), ours, quic


def events_of(quic: QuicConnection) -> list[Any]:
    found = []
    while (event := quic.next_event()) is not None:
        found.append(event)
    return found


def short_packets(datagrams: list[bytes]) -> list[bytes]:
    return [short for data in datagrams if (short := split(data)[1])]


# -- secrets: real packets of the other end


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("version", [ONE, TWO])
def test_a_server_goes_on_with_an_aioquic_client(suite: CipherSuite, version: int) -> None:
    line, quic, ours = with_plain_client(cipher_suites=[suite], supported_versions=[version])
    line.run()
    assert ours.complete
    assert ours.alpn == "x"
    start = take_over(ours)
    assert (start.version, start.suite, start.is_client) == (version, suite, False)
    assert (start.address, start.host_cid) == (CLIENT, ours.host_cid)
    assert start.peer_cid == quic.host_cid
    assert start.rtt == pytest.approx(2 * DELAY)
    assert start.rtt_min == start.rtt_latest == pytest.approx(start.rtt)
    keys = protection_of(start)
    # a packet of ours
    sealed = keys.sending.one(start.packet_number, 2, 0x41, start.peer_cid, HANDSHAKE_DONE + bytes(3))
    quic.receive_datagram(sealed, SERVER, line.now)
    assert quic._handshake_confirmed
    # a packet of theirs
    quic.send_stream_data(0, b"hello", end_stream=True)
    [(data, _)] = quic.datagrams_to_send(line.now)
    opened = keys.receiving.open(data, len(start.host_cid), 0, 0)
    assert opened is not None
    assert opened[2] is not None
    assert b"hello" in opened[2]
    assert data[1:9] == start.host_cid


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("version", [ONE, TWO])
def test_a_client_goes_on_with_an_aioquic_server(suite: CipherSuite, version: int) -> None:
    line, ours, quic = with_plain_server(cipher_suites=[suite], supported_versions=[version])
    line.run()
    assert ours.complete
    start = take_over(ours)
    assert (start.version, start.suite, start.is_client) == (version, suite, True)
    assert (start.address, start.host_cid, start.host_token) == (SERVER, ours.host_cid, b"")
    assert (start.peer_cid, start.peer_token) == (quic.host_cid, quic._host_cids[0].stateless_reset_token)
    assert start.rtt >= 2 * DELAY - 1e-6
    keys = protection_of(start)
    assert any(isinstance(event, HandshakeCompleted) for event in events_of(quic))
    # a packet of theirs, which came with the end of the handshake
    opened = [keys.receiving.open(data, 8, 0, 0) for data, _ in ours.early]
    assert any(each is not None and each[2] is not None and each[2][:1] == HANDSHAKE_DONE for each in opened)
    # packets of ours
    sealed = keys.sending.one(0, 2, 0x41, start.peer_cid, b"\x0b\x00\x05hello")
    quic.receive_datagram(sealed, CLIENT, line.now)
    [event] = events_of(quic)
    assert isinstance(event, StreamDataReceived)
    assert (event.stream_id, event.data, event.end_stream) == (0, b"hello", True)
    # an acknowledgement of ours
    quic.send_ping(7)
    for data, _ in quic.datagrams_to_send(line.now):
        number = keys.receiving.open(data, 8, 2, 0)
        assert number is not None
        ack = b"\x02" + varint(number[0]) + b"\0\0\0"
        quic.receive_datagram(keys.sending.one(1, 2, 0x41, start.peer_cid, ack), CLIENT, line.now)
    assert PingAcknowledged(uid=7) in events_of(quic)


def test_both_ends_of_ours_have_the_same_secrets() -> None:
    ours = client()
    line = Line((ours, other := server(ours.original_destination_connection_id)))
    line.run()
    one, two = take_over(ours), take_over(other)
    assert (one.send_secret, one.receive_secret) == (two.receive_secret, two.send_secret)
    assert one.send_secret != one.receive_secret
    assert (one.host_cid, one.peer_cid) == (two.peer_cid, two.host_cid)
    assert one.peer_token == two.host_token == token_of(two.host_cid)
    assert two.peer_token == one.host_token == b""
    assert (one.peer.max_streams_bidi, one.peer.max_streams_uni) == (7, 9)
    assert (two.peer.max_streams_bidi, two.peer.max_streams_uni) == (5, 6)


# -- 1-RTT packets


@pytest.mark.parametrize("with_data", [False, True])
def test_aioquic_writes_no_short_packets(with_data: bool) -> None:
    """Nor does it make a number of the 1-RTT space, which begins with 0 for us."""
    ours = client()
    line = Line((ours, other := server(ours.original_destination_connection_id)))
    if with_data:
        for quic in (ours, other):
            quic.send_ping(1)
            quic.send_datagram_frame(b"too early")
    line.run()
    for end in (ours, other):
        assert end.complete
        end.send_ping(2)
        for _ in range(5):
            line.turn()
            due = end.get_timer()
            assert due is not None
            line.now = max(line.now, due - 0.001)
    assert not short_packets(line.sent["client"] + line.sent["server"])


def test_a_packet_behind_the_last_of_the_handshake_is_ours() -> None:
    """aioquic's client coalesces its Finished with its first stream data."""
    line, quic, ours = with_plain_client()
    quic.send_stream_data(0, b"hello")
    line.run()
    mixed = [data for data in line.sent["server"] if data[0] & 0x80 and split(data)[1]]
    assert mixed
    assert ours.complete
    keys = protection_of(take_over(ours))
    plain = [keys.receiving.open(data, 8, 0, 0) for data, address in ours.early if address == CLIENT]
    assert any(each is not None and each[2] is not None and b"hello" in each[2] for each in plain)


def test_packets_that_come_before_the_handshake_ends_are_kept() -> None:
    """In small numbers: anyone may send them."""
    line, quic, ours = with_plain_client()
    quic.send_stream_data(0, b"hello" * 400)
    kept: list[bytes] = []
    line.lose = lambda to, data: (
        to == "server"
        and bool(data[0] & 0x80 == 0 or split(data)[1])
        and not (
            kept.append(data)  # type: ignore[func-returns-value]
        )
    )
    line.turn()
    line.turn()
    while not kept:
        line.turn()
    line.lose = lambda _to, _data: False
    assert not ours.complete
    for data in [*[data for data in kept if not data[0] & 0x80], *kept]:
        line.deliver("server", data)
    assert ours.complete
    assert ours.early
    for _ in range(50):
        line.deliver("server", b"\x40" + bytes(1000))
    assert sum(len(data) for data, _ in ours.early) <= MOST_EARLY


def test_splitting() -> None:
    line, quic, ours = with_plain_client()
    quic.send_stream_data(0, b"hello")
    line.run()
    for data in line.sent["server"] + line.sent["client"]:
        long, short = split(data)
        assert bool(long) == bool(data[0] & 0x80)
        if long:
            assert len(long) == len(data)  # the server counts the bytes of an unverified address
            at = len(data) - len(short)
            assert long == data[:at] + bytes(len(short))
        assert data.endswith(short)
    assert ours.complete
    padded = line.sent["server"][0]
    first = padded[: pull_quic_header(Buffer(data=padded)).packet_length]
    assert split(padded) == (padded, b"")
    short = b"\x41" + bytes(30)
    assert split(first + short) == (first + bytes(31), short)
    assert split(first + bytes(31)) == (first + bytes(31), b"")  # padding
    assert split(first + b"\xc0 garbage") == (first + b"\xc0 garbage", b"")
    assert split(first[:100]) == (first[:100], b"")
    assert split(short) == (b"", short)
    assert split(b"") == (b"", b"")
    negotiation = b"\x80\0\0\0\0\x08" + bytes(8) + b"\x08" + bytes(8) + b"\0\0\0\x01"
    assert split(negotiation) == (negotiation, b"")


def test_an_initial_packet_before_a_short_one_counts_with_the_size_of_its_datagram() -> None:
    """Else a server would drop it as too small (RFC 9000, 14.1)."""
    quic = plain_client()
    quic.connect(SERVER, 0.0)
    [(padded, _)] = quic.datagrams_to_send(0.0)
    first = padded[: pull_quic_header(Buffer(data=padded)).packet_length]
    assert len(first) < len(padded) == 1200
    ours = server(quic.original_destination_connection_id)
    ours.receive(first, CLIENT, 0.0)
    assert ours.nothing_decrypted
    ours.receive(first + b"\x40" * (1200 - len(first)), CLIENT, 0.0)
    assert not ours.nothing_decrypted
    assert ours._network_paths[0].bytes_received == 1200
    assert [len(data) for data, _ in ours.early] == [1200 - len(first)]


# -- the end of a client's handshake


def test_a_client_repeats_its_finished_until_told_to_stop() -> None:
    line, ours, quic = with_plain_server()
    losing = True
    line.lose = lambda to, data: losing and to == "server" and ours.complete
    line.run()
    assert ours.complete
    assert not quic._handshake_complete
    start = take_over(ours)
    for _ in range(3):
        line.sent["server"].clear()
        line.expire(ours)
        line.run()
        assert line.sent["server"], "the Finished is repeated"
        assert not quic._handshake_complete
    losing = False
    line.expire(ours)
    line.run()
    assert quic._handshake_complete
    # HANDSHAKE_DONE has come with it
    keys = protection_of(start)
    opened = [keys.receiving.open(data, 8, 0, 0) for data, _ in ours.early]
    assert any(each is not None and each[2] is not None and each[2][:1] == HANDSHAKE_DONE for each in opened)
    ours.release()


def test_a_client_may_close_before_its_server_knows_that_it_is_complete() -> None:
    """In a Handshake packet: the server cannot read others yet."""
    line, ours, quic = with_plain_server()
    line.lose = lambda to, _data: to == "server" and ours.complete
    line.run()
    take_over(ours)
    line.lose = lambda _to, _data: False
    ours.close(5, 0, "no")
    line.turn()
    assert quic._close_event is not None
    assert (quic._close_event.error_code, quic._close_event.reason_phrase) == (5, "no")


def test_a_released_handshake_is_freed_at_once() -> None:
    line, _, ours = with_plain_client()
    line.run()
    start = take_over(ours)
    gone = weakref.ref(ours), weakref.ref(ours.tls)
    gc.disable()
    try:
        ours.release()
        del ours
        line.server = None
        assert [each() for each in gone] == [None, None]
    finally:
        gc.enable()
    assert start.send_secret


# -- Retry


@pytest.mark.parametrize("aioquic", [False, True])
def test_a_retry_verifies_the_address(aioquic: bool) -> None:
    quic: Any = plain_client() if aioquic else client()
    quic.connect(SERVER, 0.0)
    [(first, _)] = quic.datagrams_to_send(0.0)
    header = pull_quic_header(Buffer(data=first))
    retry = encode_quic_retry(
        version=ONE,
        source_cid=b"retried!",
        destination_cid=header.source_cid,
        original_destination_cid=header.destination_cid,
        retry_token=b"token",
    )
    receive = quic.receive_datagram if aioquic else quic.receive
    receive(retry, SERVER, 0.0)
    ours = server(header.destination_cid, retried=b"retried!")
    [(second, _)] = quic.datagrams_to_send(0.0)
    assert pull_quic_header(Buffer(data=second)).token == b"token"
    ours.receive(second, CLIENT, 0.0)
    assert ours._network_paths[0].is_validated
    for _ in range(3):
        for data, _ in ours.datagrams_to_send(0.1):
            receive(data, SERVER, 0.1)
        for data, _ in quic.datagrams_to_send(0.1):
            ours.receive(data, CLIENT, 0.1)
    assert ours.complete
    start = take_over(ours)
    assert start.peer_cid == quic.host_cid
    if not aioquic:
        assert take_over(quic).peer_cid == start.host_cid
        assert take_over(quic).receive_secret == start.send_secret


# -- transport parameters


def parameters(**values: int | bytes) -> bytes:
    """Encoded, by number: `p4=100`."""
    parts = []
    for name, value in values.items():
        data = value if isinstance(value, bytes) else varint(value)
        parts += [varint(int(name[1:], 16)), varint(len(data)), data]
    return b"".join(parts)


def test_defaults_of_absent_parameters() -> None:
    found = read_parameters(b"")
    assert asdict(found) == asdict(PeerParameters())
    assert (found.max_idle_timeout, found.ack_delay_exponent, found.max_ack_delay) == (0.0, 3, 0.025)
    assert (found.active_connection_id_limit, found.max_udp_payload_size) == (2, 65527)
    assert (found.max_datagram_frame_size, found.min_ack_delay, found.token) == (0, -1.0, b"")


def test_all_parameters() -> None:
    data = parameters(
        p1=30_000, p2=b"t" * 16, p3=1400, p4=4, p5=5, p6=6, p7=7, p8=8, p9=9, pa=10, pb=100, pc=b"", pe=14,
        p20=1200, pff04de1b=2_000, p1f00=b"unknown",
    )  # fmt: skip
    assert asdict(read_parameters(data)) == {
        "max_data": 4,
        "max_stream_data_bidi_local": 5,
        "max_stream_data_bidi_remote": 6,
        "max_stream_data_uni": 7,
        "max_streams_bidi": 8,
        "max_streams_uni": 9,
        "max_idle_timeout": 30.0,
        "ack_delay_exponent": 10,
        "max_ack_delay": 0.1,
        "max_datagram_frame_size": 1200,
        "active_connection_id_limit": 14,
        "disable_active_migration": True,
        "min_ack_delay": 0.002,
        "max_udp_payload_size": 1400,
        "token": b"t" * 16,
    }


def test_what_aioquic_says_of_itself() -> None:
    line, quic, ours = with_plain_client(idle_timeout=12.5, max_data=123_456, max_stream_data=7_890)
    line.run()
    peer = ours.peer
    assert (peer.max_idle_timeout, peer.max_data, peer.max_datagram_frame_size) == (12.5, 123_456, 1000)
    windows = {peer.max_stream_data_bidi_local, peer.max_stream_data_bidi_remote, peer.max_stream_data_uni}
    assert windows == {7_890}
    assert (peer.max_streams_bidi, peer.max_streams_uni, peer.active_connection_id_limit) == (128, 128, 8)
    assert (quic._remote_max_streams_bidi, quic._remote_max_streams_uni) == (7, 9)
    assert quic._peer_cid.stateless_reset_token == token_of(ours.host_cid)


@pytest.mark.parametrize(
    "data",
    [
        *(parameters(pff04de1b=value) for value in (b"", b"\x40", b"\x01\x00", 25_001, (1 << 62) - 1)),
        parameters(p4=b"\x40"), parameters(p4=b"\x01\x00"), parameters(p4=b""), parameters(p2=b"short"),
        parameters(p4=1) * 2, parameters(p1f00=b"x") * 2, parameters(p4=1)[:-1], parameters(p1f00=b"xy")[:-1], b"\x04", b"\x44", b"\x04\x40",
    ],
)  # fmt: skip
def test_wrong_parameters(data: bytes) -> None:
    with pytest.raises(QuicError) as raised:
        read_parameters(data)
    assert raised.value.code == TRANSPORT_PARAMETER_ERROR


def test_a_min_ack_delay_up_to_the_max_ack_delay() -> None:
    assert read_parameters(parameters(pff04de1b=25_000)).min_ack_delay == 0.025
    assert read_parameters(parameters(pb=1, pff04de1b=1_000)).min_ack_delay == 0.001


@pytest.mark.parametrize("server_says", [False, True])
def test_a_wrong_min_ack_delay_ends_the_handshake(server_says: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    serialize = QuicConnection._serialize_transport_parameters

    def with_it(quic: QuicConnection) -> bytes:
        found = serialize(quic)
        if quic._is_client != server_says:
            found += varint(MIN_ACK_DELAY) + b"\x04" + varint(25_001)
        return found

    monkeypatch.setattr(QuicConnection, "_serialize_transport_parameters", with_it)
    ours: Handshake
    if server_says:
        line, ours, other = with_plain_server()
    else:
        line, other, ours = with_plain_client()
    line.run()
    close = ours.close_event
    assert close is not None
    assert close.error_code == QuicErrorCode.TRANSPORT_PARAMETER_ERROR
    assert "min_ack_delay" in close.reason_phrase
    assert other._close_event is not None
    assert other._close_event.error_code == close.error_code
    assert not ours.complete
