"""A connection between its handshake and its end, as its endpoint and its session see it."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

import pytest
from aioquic import tls
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.packet import QuicErrorCode, QuicProtocolVersion
from aioquic.tls import Epoch

from relay.quic.cids import OURS
from relay.quic.connection import OPEN, Connection
from relay.quic.endpoint import Endpoint
from relay.quic.settings import QuicSettings
from relay.quic.streams import Stream
from relay.runtime import SYSTEM
from tests.transport.virtual import CLIENT, SERVER, PlainEnd, Recorder, Wire

VERSIONS = QuicProtocolVersion.VERSION_1, QuicProtocolVersion.VERSION_2


def still_works(wire: Wire) -> None:
    assert wire.server is not None
    seen = Recorder(wire.server)
    stream = wire.client.open_uni()
    stream.write([b"hello"], fin=True)
    wire.run()
    assert seen.data(stream.id) == b"hello"
    assert wire.server_driver.quic.state == OPEN


# -- after the handshake


def test_nothing_is_left_of_a_handshake() -> None:
    wire = Wire()
    wire.open()
    for driver in (wire.client_driver, wire.server_driver):
        assert driver.handshake is None
    gone = weakref.ref(wire.client_handshake), weakref.ref(wire.server_handshake)
    gc.disable()
    try:
        del wire.client_handshake, wire.server_handshake
        assert [each() for each in gone] == [None, None]
    finally:
        gc.enable()


def test_packets_of_the_handshake_do_no_harm_afterwards() -> None:
    wire = Wire()
    kept: dict[str, list[bytes]] = {"client": [], "server": []}

    def keep(target: str, data: bytes) -> bool:
        kept[target].append(data)
        return False

    wire.lose = keep
    wire.open()
    for driver, address, packets in (
        (wire.server_driver, CLIENT, kept["server"]),
        (wire.client_driver, SERVER, kept["client"]),
    ):
        before = driver.quic.received.stop
        for data in list(packets):
            driver.receive(data, address, wire.now)
            driver.drained(wire.now)
        wire.run()
        assert driver.quic.received.stop == before
    still_works(wire)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("late", [False, True])
def test_an_initial_of_somebody_else_does_no_harm(version: int, late: bool) -> None:
    """Anyone on the path can forge Initial packets: a close in one must not end an established connection."""
    wire = Wire()
    cid = wire.client_handshake.original_destination_connection_id
    wire.open()
    if late:
        still_works(wire)
    forged = QuicConnection(
        configuration=QuicConfiguration(is_client=True, alpn_protocols=["x"], original_version=version)
    )
    forged._peer_cid.cid = forged._original_destination_connection_id = cid
    forged.connect(SERVER, 1.0)
    (data, _), *_ = forged.datagrams_to_send(1.0)
    forged.close(error_code=1, frame_type=0)
    for each in (data, *(packet for packet, _ in forged.datagrams_to_send(1.0))):
        wire.server_driver.receive(each, CLIENT, wire.now)
        wire.server_driver.drained(wire.now)
    if not late:
        still_works(wire)
    assert wire.server_driver.quic.state == OPEN


def plain() -> tuple[Wire, PlainEnd]:
    """An open connection of a plain aioquic client."""
    clients = []

    def end(wire: Wire) -> tuple[PlainEnd, bytes]:
        clients.append(PlainEnd(wire, "moq-lite-05"))
        return clients[0], clients[0].quic.original_destination_connection_id

    wire = Wire(client_end=end)
    wire.run()
    return wire, clients[0]


@pytest.mark.parametrize("data", [b"\x18\x00\x00\x01\x00", b"\x14", bytes(4)])
def test_tls_after_the_handshake_ends_the_connection(data: bytes) -> None:
    """RFC 9001, 6 demands it for a KeyUpdate message."""
    wire, client = plain()
    client.quic._crypto_streams[Epoch.ONE_RTT].sender.write(data)
    client.touch()
    wire.run()
    close = client.quic._close_event
    assert close is not None
    assert close.error_code == QuicErrorCode.CRYPTO_ERROR + tls.AlertDescription.unexpected_message


@pytest.mark.parametrize("lost", range(1, 6))
def test_what_follows_the_handshake_is_repeated_when_lost(lost: int) -> None:
    """HANDSHAKE_DONE and NEW_CONNECTION_ID, in any packet."""
    count = 0

    def lose(target: str, data: bytes) -> bool:
        nonlocal count
        if target == "client" and not data[0] & 0x80:
            count += 1
            return count <= lost
        return False

    wire = Wire()
    wire.lose = lose
    wire.open()
    wire.advance(5.0)
    client, server = wire.client_driver, wire.server_driver
    assert client.quic.confirmed
    assert client.handshake is None
    issued = server.quic.host_cids.all()[1:]
    assert len(issued) == OURS - 1
    assert {cid for cid, _ in client.quic.peer_cids._known.values()} == {
        *issued,
        server.quic.host_cids.all()[0],
    }
    assert server.cids == set(issued)


def test_used_connection_ids_are_replaced() -> None:
    wire, client = plain()
    server = wire.server_driver
    seen = {client.quic._peer_cid.cid}
    for _ in range(10):
        client.quic.change_connection_id()
        client.touch()
        wire.run()
        seen.add(client.quic._peer_cid.cid)
        assert len(server.quic.host_cids.all()) == OURS
        assert set(server.quic.host_cids.all()) - seen <= server.cids
    assert len(seen) == 11
    assert len(server.cids) <= OURS


# -- deadlines


def test_distant_deadlines_come_together(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = Wire()
    wire.open()
    driver = wire.server_driver
    armed: list[float] = []
    monkeypatch.setattr(wire.server_side, "arm", lambda deadline, driver: armed.append(deadline))
    for step in range(40):
        driver.armed.clear()
        wire.now += 0.01
        driver.quic.last_received = wire.now
        driver.arm(wire.now)
        due = driver._deadline()
        assert due > wire.now + 1, step
        assert due <= armed[-1] < due + 0.126
    assert len(set(armed)) <= 5


def test_a_dead_peer_is_found_by_a_relay_that_pauses_all_the_time() -> None:
    """Each pause restarted half of the idle time-out."""
    wire = Wire()
    wire.open()
    driver, quic = wire.server_driver, wire.server_driver.quic
    begin = now = wire.now
    while quic._idle_at() > now:
        now += 0.5
        driver.resume(now, 0.3)
        assert now < begin + 3 * quic.idle_timeout
    assert now > begin + quic.idle_timeout  # the pauses are not counted


def test_a_live_peer_is_given_time_after_a_long_pause() -> None:
    wire = Wire()
    wire.open()
    quic = wire.server_driver.quic
    now = wire.now + 3600
    wire.server_driver.resume(now, 3600)
    assert quic._idle_at() == now + quic.idle_timeout / 2


@pytest.mark.parametrize("late", [0.3, 3600.0])
def test_a_pause_during_the_handshake_is_no_silence_either(late: float) -> None:
    wire = Wire()
    wire.lose = lambda target, _data: target == "client"
    wire.exchange()
    handshake = wire.server_driver.handshake
    assert handshake is not None
    before = handshake._close_at
    assert before is not None
    wire.now += late
    for driver in (wire.client_driver, wire.server_driver):
        driver.resume(wire.now, late)
    half = handshake.configuration.idle_timeout / 2
    assert handshake._close_at == (before + late if late < half else wire.now + half)
    wire.lose = lambda _target, _data: False
    wire.advance(3.0)
    assert wire.server is not None


@pytest.mark.interpreted
async def test_one_pause_counts_once() -> None:
    """Two timers are late by it."""
    endpoint, late = Endpoint(QuicSettings(), SYSTEM), []

    class Fake:
        def resume(self, _now: float, seconds: float) -> None:
            late.append(seconds)

    endpoint.connections = {Fake()}  # type: ignore[arg-type]
    endpoint._notice_stall(10.0, 11.0)
    endpoint._notice_stall(9.5, 11.01)
    endpoint._notice_stall(11.0, 11.5)
    assert late == [1.0, 0.5]


@pytest.mark.interpreted
async def test_newcomers_in_every_turn_do_not_silence_others() -> None:
    class Told:
        gone = False
        times = 0

        def transmit(self, now: float) -> None:
            self.times += 1

    endpoint, driver = Endpoint(QuicSettings(), SYSTEM), Told()
    for _ in range(20):
        endpoint._delay_transmit = True  # set by each session request
        endpoint.touch(driver)  # type: ignore[arg-type]
        await asyncio.sleep(0)
    assert driver.times >= 9


# -- the end


def alive(kind: type) -> int:
    return sum(type(thing) is kind for thing in gc.get_objects())


def test_a_removed_connection_leaves_no_reference_cycle() -> None:
    """It is freed at once, without the garbage collector."""
    wire = Wire()
    wire.open()
    driver: Any = wire.server_driver
    gc.collect()
    gc.disable()
    try:
        before = alive(Connection)
        driver.left()
        driver.connection = wire.server = None
        wire.requests.clear()
        assert alive(Connection) == before - 1
    finally:
        gc.enable()


def test_streams_of_a_failed_connection_leave_no_reference_cycle() -> None:
    """They are freed at once, with all unacknowledged data, without the garbage collector."""

    gc.collect()
    before = alive(Stream)
    wire = Wire()
    _, server = wire.open()
    wire.lose = lambda target, _data: target == "client"
    for _ in range(20):
        server.open_uni().write([b"never acknowledged"])
    wire.run()
    assert len(wire.server_driver.quic.streams) >= 20
    gc.disable()
    try:
        held = alive(Stream)
        wire.server_driver.left()
        assert alive(Stream) <= held - 20
    finally:
        gc.enable()
    assert before <= held


def test_a_client_may_close_before_its_server_knows_that_the_handshake_is_complete() -> None:
    """In a Handshake packet: the server cannot read others yet."""
    wire = Wire()
    wire.lose = lambda target, _data: target == "server" and wire.client_handshake.complete
    wire.run()
    assert wire.client_driver.connection is not None
    assert not wire.client_driver.quic.confirmed
    assert wire.server is None
    wire.lose = lambda _target, _data: False
    wire.client.close(5, "bye")
    wire.exchange()
    assert wire.server_driver.over
    assert [close.by_peer for close in wire.server_side.failed] == [True]
    wire.advance(3.0)
    assert wire.client_driver.gone
    assert wire.server_driver.gone
