"""Limits on what a peer can make a connection keep or do with few bytes."""

from __future__ import annotations

import random
from typing import Any

import pytest
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.events import ConnectionIdIssued, ConnectionIdRetired
from aioquic.quic.packet import QuicErrorCode, QuicFrameType, QuicPacketType, QuicProtocolVersion
from aioquic.quic.packet_builder import QuicPacketBuilder
from aioquic.quic.rangeset import RangeSet
from aioquic.tls import Epoch
from relay.quic.compat import RelayQuicConnection
from relay.quic.fast.connection import MIN_ACK_DELAY
from relay.quic.fast.start import CONNECTION_IDS
from relay.quic.fast.streams import ReorderBuffer
from relay.quic.fast.varint import varint

from relay.quic import compat
from tests.transport.lab import Lab, Network
from tests.transport.virtual import CLIENT, Wire


@pytest.fixture(params=["fast", "pure", "aioquic"])
def lab(request: pytest.FixtureRequest) -> Lab:
    """An open connection; the server is of each kind."""
    opened = Lab(("fast", request.param), 1, Network())
    opened.open()
    opened.settle(1.0)
    return opened


def say(lab: Lab, *frames: bytes) -> Any:
    """Let the client send `frames`. Returns the server's connection."""
    quic: Any = lab.client.quic
    quic._frames.extend((frame, None, ()) for frame in frames)
    lab.send("client")
    end = lab.now + 0.3
    while lab.step(end):
        pass
    return lab.server.quic


def scattered(count: int, start: int = 2) -> list[int]:
    """Offsets of single bytes with gaps between them."""
    return list(range(start, start + 2 * count, 2))


def stream_frame(stream_id: int, offset: int, data: bytes) -> bytes:
    return b"".join((b"\x0e", varint(stream_id), varint(offset), varint(len(data)), data))


def test_a_reset_drops_the_reorder_buffer(lab: Lab) -> None:
    """The connection's window no longer counts it; our half may stay open."""
    size = lab.server.quic._stream_window
    quic: Any = lab.server.quic
    for stream_id in (0, 4, 8):
        reset = b"\x04" + varint(stream_id) + b"\x00" + varint(size)
        say(lab, stream_frame(stream_id, size - 1, b"x"), reset)
    assert not quic._close_event
    assert lab.server.resets == {0: 0, 4: 0, 8: 0}
    assert len(quic._streams) == 3
    assert not any(stream.receiver._buffer for stream in quic._streams.values())
    say(lab, stream_frame(0, 5, b"late"))
    assert not quic._close_event
    assert not quic._streams[0].receiver._buffer


def test_a_stream_in_too_many_fragments_ends_the_connection(lab: Lab) -> None:
    """Each costs memory, and a scan for every further frame."""
    most = lab.server.quic._stream_window // compat.PIECE
    say(lab, *(stream_frame(0, offset, b"x") for offset in scattered(most)))
    quic = say(lab, *(stream_frame(4, offset, b"x") for offset in scattered(most)))
    assert not quic._close_event
    assert len(quic._streams[0].receiver._ranges) == most
    say(lab, stream_frame(0, 2 + 2 * most, b"x"))
    assert quic._close_event.error_code == QuicErrorCode.INTERNAL_ERROR
    assert "pieces" in quic._close_event.reason_phrase


def test_no_loss_of_full_packets_leaves_too_many_fragments(lab: Lab) -> None:
    size = lab.server.quic._stream_window
    full = b"x" * 1150
    quic: Any = lab.server.quic
    for offset in range(len(full), size - len(full), 2 * len(full)):
        say(lab, stream_frame(0, offset, full))
    assert not quic._close_event
    assert len(quic._streams[0].receiver._ranges) > 500


def test_fragments_are_those_of_aioquic() -> None:
    dice = random.Random(1)
    for _ in range(300):
        ours, theirs = ReorderBuffer(), RangeSet()
        for _ in range(dice.randint(1, 30)):
            start = dice.randint(0, 60)
            stop = start + dice.randint(1, 9)
            ours.add(start, stop)
            theirs.add(start, stop)
            if dice.random() < 0.1:
                assert ours.shift() == theirs.shift()
            assert [ours[index] for index in range(len(ours))] == list(theirs)
    with pytest.raises(IndexError):
        ReorderBuffer()[0]


@pytest.mark.parametrize(
    "offsets", [[compat.MOST_CRYPTO], scattered(compat.MOST_CRYPTO_PIECES + 2)], ids=["far", "pieces"]
)
def test_too_much_crypto_data_ends_the_connection(lab: Lab, offsets: list[int]) -> None:
    frames = [b"".join((b"\x06", varint(offset), b"\x01x")) for offset in offsets]
    quic = say(lab, *frames[:-1])
    assert not quic._close_event
    say(lab, frames[-1])
    assert quic._close_event.error_code == QuicErrorCode.CRYPTO_BUFFER_EXCEEDED
    assert len(quic._crypto_streams[Epoch.ONE_RTT].receiver._buffer) < compat.MOST_CRYPTO


@pytest.mark.usefixtures("pairing")
def test_a_first_packet_cannot_make_a_server_sort() -> None:
    """The sender is unverified."""
    wire = Wire()
    version = QuicProtocolVersion.VERSION_1
    cid = wire.client_quic.original_destination_connection_id
    crypto = CryptoPair()
    crypto.setup_initial(cid=cid, is_client=True, version=version)
    builder = QuicPacketBuilder(
        host_cid=b"whoever", is_client=True, max_datagram_size=1200, peer_cid=cid, version=version
    )
    builder.start_packet(QuicPacketType.INITIAL, crypto)
    for offset in scattered(150):
        buf = builder.start_frame(QuicFrameType.CRYPTO, capacity=8)
        for value in (offset, 1, 0):
            buf.push_uint_var(value)
    quic: Any = wire.server_quic
    for datagram in builder.flush()[0]:
        quic.receive_datagram(datagram, CLIENT, wire.now)
    assert quic._close_event.error_code == QuicErrorCode.CRYPTO_BUFFER_EXCEEDED


@pytest.mark.parametrize("value", [b"", b"\x40", b"\x01\x00", varint(25_001), varint((1 << 62) - 1)])
def test_a_min_ack_delay_that_cannot_be_is_refused(value: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Wire, "pairing", ("aioquic", "fast"))
    serialize = RelayQuicConnection._serialize_transport_parameters

    def with_it(quic: RelayQuicConnection) -> bytes:
        return serialize(quic) + varint(MIN_ACK_DELAY) + varint(len(value)) + value

    monkeypatch.setattr(RelayQuicConnection, "_serialize_transport_parameters", with_it)
    wire = Wire()
    monkeypatch.undo()
    wire.run()
    close = wire.server_quic._close_event
    assert close is not None
    assert close.error_code == QuicErrorCode.TRANSPORT_PARAMETER_ERROR
    assert "min_ack_delay" in close.reason_phrase


def test_connection_ids_retired_unsent_do_not_pile_up() -> None:
    """By a peer that acknowledges nothing, so that nothing more may be sent."""
    lab = Lab(("fast", "fast"), 1, Network())
    lab.open()
    lab.settle(1.0)
    quic: Any = lab.server.quic
    routes = {each.cid for each in quic._host_cids}
    for number in range(1, 1500):
        lab.now += 0.001
        quic._read_frames(b"\x19" + varint(number), lab.now)
        quic.bursts(lab.now)
        while (event := quic.next_event()) is not None:
            if isinstance(event, ConnectionIdIssued):
                routes.add(event.connection_id)
            elif isinstance(event, ConnectionIdRetired):
                routes.remove(event.connection_id)
    assert not quic._close_event
    assert quic._loss.bytes_in_flight + 1200 > quic._loss.congestion_window
    assert len(quic._frames) <= CONNECTION_IDS
    assert {each.cid for each in quic._host_cids} == routes
    assert len(routes) == CONNECTION_IDS


@pytest.mark.parametrize("way", ["fast", "pure", "aioquic"])
@pytest.mark.parametrize("most", [100_000, 1_000_000])
def test_data_kept_above_a_gap_is_limited(way: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One packet is never acknowledged, later ones are."""
    monkeypatch.setattr(compat, "MOST_KEPT", most)
    monkeypatch.setattr(compat, "COUNT_INTERVAL", 0.0)
    lab = Lab(("fast", way), 1, Network(delay=0.002))
    lab.open()
    lab.settle(1.0)
    keys = lab.client.quic._pair.reading  # type: ignore[attr-defined]
    read = keys.open

    def lose_the_beginning(*arguments: Any) -> Any:
        opened = read(*arguments)
        return None if opened is not None and opened[2] and b"begin" in opened[2] else opened

    keys.open, keys.take = lose_the_beginning, lambda *_: None
    quic: Any = lab.server.quic
    stream_id = quic.get_next_available_stream_id(is_unidirectional=True)
    quic.write_stream(stream_id, [b"begin" + bytes(300_000)], fin=True, order=(1, 0))
    lab.send("server")
    end = lab.now + 20
    while not quic._close_event and lab.step(end):
        pass
    if most < 300_000:
        assert quic._close_event.error_code == QuicErrorCode.INTERNAL_ERROR
        assert "acknowledged" in quic._close_event.reason_phrase
        return
    keys.open = read
    lab.run(lambda: stream_id in lab.client.finished)
    assert len(lab.client.received[stream_id]) == 300_005


def test_nothing_is_read_after_a_close(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """One drain may hold a hundred further packets, each with an error to log."""
    server: Any = lab.server.quic
    client: Any = lab.client.quic
    packets = []
    for _ in range(3):
        client._frames.append((stream_frame(0, 0, b"x"), None, ()))
        packets += [data for buffers, _, _ in client.bursts(lab.now) for data in buffers]
    server.close(0, None, "the end")
    opened = []
    monkeypatch.setattr(server._cryptos[Epoch.ONE_RTT], "decrypt_packet", lambda *_: opened.append(1))
    for packet in packets:
        server.receive_datagram(packet, lab.addresses["client"], lab.now)
    assert len(packets) == 3
    assert not opened
    assert not server._streams
