"""Limits on new connections: slots, address validation, and amplification."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.packet import QuicHeader, QuicPacketType

from relay.model.limits import Limits
from relay.model.pace import LOG_BURST
from relay.quic import admission
from relay.quic.admission import Admission, Admitted, parse_first_packet
from relay.quic.driver import Driver
from relay.runtime import SYSTEM
from relay.transport.slots import Slots
from tests.transport.virtual import CLIENT, PAIR, SERVER, Wire

VISITOR = ("192.0.2.1", 1000)
STRANGER = ("192.0.2.9", 1000)
NEIGHBOUR = ("192.0.2.1", 2000)


def first_packet(quic: QuicConnection, now: float = 0.0) -> bytes:
    return quic.datagrams_to_send(now)[0][0]


def newcomer() -> QuicConnection:
    quic = QuicConnection(configuration=QuicConfiguration(alpn_protocols=["x"]))
    quic.connect(SERVER, 0.0)
    return quic


@dataclass
class Door:
    """An admission with placeholder connections."""

    limits: Limits
    refused: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.addresses = Slots("sessions_address", self.limits.sessions_address, self.refused, SYSTEM.now)
        self.admission = Admission(self.limits, self.refused, self.addresses, SYSTEM.now)

    def knock(
        self, quic: QuicConnection, address: Any = VISITOR, now: float = 0.0
    ) -> Admitted | bytes | None:
        header = parse_first_packet(first_packet(quic, now), connection_id_length=8)
        assert header is not None
        return self.admission.check(header, address, now)

    def enter(self, quic: QuicConnection | None = None, address: Any = VISITOR) -> Driver:
        """Begin a connection; its first packet may be answered by a Retry."""
        quic = quic or newcomer()
        answer = self.knock(quic, address)
        if isinstance(answer, bytes):
            quic.receive_datagram(answer, SERVER, 0.0)
            answer = self.knock(quic, address)
        assert isinstance(answer, Admitted)
        driver = cast("Driver", object())
        self.admission.begin(driver, answer)
        return driver


def code_of(answer: Admitted | bytes | None, quic: QuicConnection) -> int:
    """The error code of the refusal that `quic` has received."""
    assert isinstance(answer, bytes)
    quic.receive_datagram(answer, SERVER, 0.0)
    close = quic._close_event
    assert close is not None
    return int(close.error_code)


def test_garbage_has_no_header() -> None:
    assert parse_first_packet(b"\xc0\x00\x00", connection_id_length=8) is None


# -- slots


def test_places_are_given_back() -> None:
    door = Door(Limits(sessions=2))
    connections = [door.enter(address=address) for address in (VISITOR, STRANGER)]
    quic = newcomer()
    assert code_of(door.knock(quic), quic) == 0x2
    door.admission.forget(connections[0])
    door.admission.forget(connections[0])
    assert isinstance(door.knock(newcomer()), Admitted)
    assert door.refused == {"sessions": 1}


def test_an_address_has_its_own_limit() -> None:
    door = Door(Limits(sessions_address=2))
    for _ in range(2):
        assert door.admission.finish(door.enter())
    quic = newcomer()
    assert code_of(door.knock(quic, NEIGHBOUR), quic) == 0x2
    assert isinstance(door.knock(newcomer(), STRANGER), Admitted)
    assert door.refused == {"sessions_address": 1}


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (("2001:db8::1", 5, 0, 0), ("2001:db8::ffff:1", 6, 0, 0), True),
        (("2001:db8::1", 5, 0, 0), ("2001:db8:0:1::1", 5, 0, 0), False),
        (("::ffff:192.0.2.1", 5, 0, 0), ("192.0.2.1", 6), True),
        (("::ffff:192.0.2.1", 5, 0, 0), ("::ffff:192.0.2.2", 5, 0, 0), False),
    ],
)
def test_what_counts_as_one_address(one: Any, other: Any, same: bool) -> None:
    door = Door(Limits(sessions_address=1))
    door.admission.finish(door.enter(address=one))
    assert isinstance(door.knock(newcomer(), other), Admitted) is not same


def test_forged_first_packets_take_no_place_of_an_address() -> None:
    door = Door(Limits(sessions_address=2, handshakes=10, handshakes_unverified=10))
    forged = [door.enter() for _ in range(5)]
    assert isinstance(door.knock(newcomer()), Admitted)
    assert door.addresses.taken("192.0.2.1") == 0
    # Completing the handshake proves the address; the third is beyond the limit.
    assert [door.admission.finish(connection) for connection in forged] == [True, True, False, False, False]
    for connection in forged:
        door.admission.forget(connection)
    assert door.addresses.taken("192.0.2.1") == 0


def test_one_address_does_not_take_all_handshakes() -> None:
    door = Door(Limits(handshakes=10, handshakes_unverified=0, handshakes_address=3))
    connections = [door.enter() for _ in range(3)]
    quic = newcomer()
    retry = door.knock(quic)
    assert isinstance(retry, bytes)
    quic.receive_datagram(retry, SERVER, 0.0)
    assert door.knock(quic) is None
    assert door.refused["handshakes_address"] == 1
    door.enter(address=STRANGER)
    door.admission.end(connections[0])  # closed; it needs no slot among handshakes
    door.enter()


def test_a_flood_is_not_answered() -> None:
    door = Door(Limits(handshakes=2))
    for _ in range(2):
        door.enter()
    assert door.knock(newcomer()) is None
    assert door.refused == {"handshakes": 1}


def test_an_episode_is_two_lines(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "relay.transport")
    places = Slots("some", 8, Counter(), SYSTEM.now)
    for _ in range(8):
        places.enter("a")
    for _ in range(3):
        places.refuse("a")
    for _ in range(5):  # one slot that comes and goes
        places.leave("a")
        places.enter("a")
        places.refuse("a")
    assert [record.getMessage() for record in caplog.records] == [
        "limit is reached limit=some value=8 remote=a"
    ]
    for _ in range(8):
        places.leave("a")
    assert [record.getMessage() for record in caplog.records[1:]] == [
        "there is room again limit=some remote=a refused=8"
    ]
    assert not places._taken
    assert not places._episodes


def test_waves_of_refusals_write_a_few_lines(caplog: pytest.LogCaptureFixture) -> None:
    """First packets may be forged: an attacker can fill all slots and free them, again and again."""
    caplog.set_level(logging.INFO, "relay.transport")
    refused: Counter[str] = Counter()
    places = Slots("some", 4, refused, SYSTEM.now)
    for _ in range(100):
        for _ in range(4):
            places.enter()
        places.refuse()
        for _ in range(4):
            places.leave()
    assert refused == {"some": 100}
    assert len(caplog.records) == 2 * LOG_BURST
    assert not places._episodes


def test_an_unverified_address_keeps_its_slot_beyond_the_close() -> None:
    """Otherwise invalid first packets would be answered as fast as they come, and never with a Retry."""
    door = Door(Limits(handshakes_unverified=2))
    connections = [door.enter() for _ in range(2)]
    for connection in connections:
        door.admission.end(connection)
    assert isinstance(door.knock(newcomer()), bytes)
    for connection in connections:
        door.admission.forget(connection)
    assert isinstance(door.knock(newcomer()), Admitted)


# -- Retry


def retried(door: Door) -> QuicConnection:
    """A client that has received a Retry."""
    quic = newcomer()
    retry = door.knock(quic)
    assert isinstance(retry, bytes)
    assert len(retry) < 3 * 1200
    quic.receive_datagram(retry, SERVER, 0.0)
    return quic


def header_with(token: bytes) -> QuicHeader:
    return QuicHeader(1, QuicPacketType.INITIAL, 1200, b"d" * 8, b"s" * 8, token, b"", [])


ALWAYS = Limits(handshakes_unverified=0)


def test_an_address_is_proven_once_too_many_are_not() -> None:
    door = Door(Limits(handshakes_unverified=2))
    connections = [door.enter() for _ in range(2)]
    quic = newcomer()
    first = quic.original_destination_connection_id
    retry = door.knock(quic)
    assert isinstance(retry, bytes)
    quic.receive_datagram(retry, SERVER, 0.0)
    admitted = door.knock(quic)
    assert isinstance(admitted, Admitted)
    assert admitted.original_cid == first
    assert admitted.retry_cid == quic._peer_cid.cid != first
    assert door.refused == {"handshakes_unverified": 1}
    door.admission.finish(connections[0])
    assert isinstance(door.knock(newcomer()), Admitted)


def test_a_token_of_another_address_is_invalid() -> None:
    for address in (STRANGER, NEIGHBOUR):
        door = Door(ALWAYS)
        quic = retried(door)
        assert code_of(door.knock(quic, address), quic) == 0xB
        assert door.refused["invalid_token"] == 1


def test_an_old_token_is_invalid() -> None:
    door = Door(ALWAYS)
    quic = retried(door)
    assert code_of(door.knock(quic, now=31.0), quic) == 0xB


def test_a_token_of_another_connection_id_is_invalid() -> None:
    door = Door(ALWAYS)
    quic, other = retried(door), retried(door)
    other._peer_token = quic._peer_token
    other._connect(now=0.0)
    assert code_of(door.knock(other), other) == 0xB


def test_a_token_of_the_relay_before_its_restart_is_invalid() -> None:
    quic, door = retried(Door(ALWAYS)), Door(ALWAYS)
    assert code_of(door.knock(quic), quic) == 0xB


@pytest.mark.parametrize("token", [b"x", b"\0" * 100, b"retry"])
def test_a_token_of_another_server_is_none(token: bytes) -> None:
    header = header_with(token)
    refused: Counter[str] = Counter()
    for limit, kind in ((0, bytes), (1, Admitted)):
        limits = Limits(handshakes_unverified=limit)
        judged = Admission(limits, refused, Slots("", 9, refused, SYSTEM.now), SYSTEM.now).check(
            header, VISITOR, 0.0
        )
        assert isinstance(judged, kind)
    assert refused["invalid_token"] == 0


@pytest.mark.parametrize("token", [b"", b"x" * 11, b"x" * 12, b"x" * 300])
def test_a_token_that_only_looks_like_ours_is_invalid(token: bytes) -> None:
    header = header_with(admission.MARK + token)
    refused: Counter[str] = Counter()
    judged = Admission(Limits(), refused, Slots("", 9, refused, SYSTEM.now), SYSTEM.now).check(
        header, VISITOR, 0.0
    )
    assert isinstance(judged, bytes)
    assert refused["invalid_token"] == 1


# -- amplification (RFC 9000, 8.1)


def exchanged(wire: Wire, chain: int, *, stray: int = 0) -> tuple[int, int]:
    """Bytes received from a client that sends only its first flight, and bytes sent to it.

    `chain` certificates follow the server's own. `stray` tiny datagrams come after the server has given up.
    """
    got = sent = 0

    def lose(target: str, data: bytes) -> bool:
        nonlocal got, sent
        if target == "client":
            sent += len(data)
            return True
        got += len(data)
        return False

    wire.lose = lose
    handshake, driver = wire.server_handshake, wire.server_driver
    handshake._configuration.certificate_chain = [PAIR.certificate] * chain
    cid = handshake.host_cid
    driver.setup_deadline = wire.now + 5
    wire.client_driver.transmit(wire.now)
    wire.client_driver.gone = True  # no retransmissions
    wire.exchange()
    while not driver.over:
        wire.advance(0.5)
    for _ in range(stray):
        wire.flying.append(("server", b"\x40" + cid + bytes(12), CLIENT))
        wire.exchange()
        assert sent <= 3 * got
    wire.advance(60)
    assert driver.gone
    return got, sent


def test_an_unproven_address_gets_three_times_what_it_sent() -> None:
    got, sent = exchanged(Wire(), 20)
    assert got == 1200
    assert 2400 < sent <= 3600


def test_a_proven_address_gets_everything() -> None:
    wire = Wire()
    wire.server_handshake._retried = True
    _, sent = exchanged(wire, 20)
    assert sent > 7200


@pytest.mark.parametrize("chain", [0, 2, 3, 4, 5])
def test_a_repeated_close_keeps_the_amplification_limit(chain: int) -> None:
    """Repetitions stay within the limit left when the connection was given up."""
    _, sent = exchanged(Wire(), chain, stray=100)
    assert sent > 1200
