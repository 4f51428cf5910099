"""Limits on the CPU time of one connection's packets: expensive ones are dropped, other connections
unaffected.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import Callable
from typing import Any, cast

import pytest

from relay.model.pace import LogThrottle
from relay.quic import udp
from relay.quic.acks import ReceivedPackets
from relay.quic.connection import OPEN
from relay.quic.cost import ORDINARY
from relay.quic.driver import Driver
from relay.quic.endpoint import Endpoint
from relay.quic.settings import QuicSettings
from relay.quic.udp import Address, Sender, UdpSocket
from tests.quic.handshaking import CLIENT

pytestmark = pytest.mark.interpreted

LIMIT = 0.05

CHEAP = ORDINARY / 5
EXPENSIVE = 10 * ORDINARY


class Quic:
    """A connection that only simulates costs."""

    over = False
    state = OPEN
    received = ReceivedPackets()

    def __init__(self, side: Side) -> None:
        self._side = side
        self.reading = self.passing = 0.0
        """CPU seconds for each packet, and for delivering it."""
        self.preempted = 0.0
        """Seconds of other processes."""
        self.packets = 0
        self._new = 0
        self.closes: list[str] = []

    def receive(self, data: bytes, address: Address, now: float) -> None:
        self.packets += 1
        self._new += 1
        self._side.run(self.reading, self.preempted)

    def receive_train(self, view: memoryview, each: int, address: Address, now: float) -> int:
        count = -(-len(view) // each)
        self.packets += count
        self._new += count
        return count

    def end_of_drain(self, now: float) -> None:
        self._side.run(self._new * self.passing, 0.0)
        self._new = 0

    def wants_to_send(self, now: float) -> bool:
        return False

    def probe_at(self) -> float:
        return -1.0

    def close(self, code: int, reason: str, *, transport: bool) -> None:
        self.closes.append(reason)


class Side:
    """An endpoint with a wall clock and a CPU clock."""

    count_drop = Endpoint.count_drop

    def __init__(self, packet_time: float = LIMIT) -> None:
        self.settings = QuicSettings()
        self.packet_time = packet_time
        self.refused: Counter[str] = Counter()
        self._drops = LogThrottle()
        self.clock = 1000.0
        self.cpu = 0.0

    def now(self) -> float:
        return self.clock

    def cpu_time(self) -> float:
        return self.cpu

    def run(self, seconds: float, preempted: float) -> None:
        self.cpu += seconds
        self.clock += seconds + preempted

    def unwatch(self, driver: Driver) -> None:
        pass

    def touch(self, driver: Driver) -> None:
        pass

    def connection(self) -> tuple[Driver, Quic]:
        driver = Driver(cast("Any", self), cast("Any", None), cast("Any", None), CLIENT)
        quic = Quic(self)
        driver.connection = cast("Any", quic)
        return driver, quic

    def turn(self, driver: Driver, packets: int = 1, apart: float = 0.001) -> None:
        """Receive packets together, then none for a while."""
        for _ in range(packets):
            driver.receive(bytes(1200), CLIENT, self.clock)
        driver.drained(self.clock)
        self.clock += apart


@pytest.mark.parametrize("part", ["reading", "passing"])
@pytest.mark.parametrize("together", [1, 32])
def test_expensive_packets_get_a_share_of_the_cpu(part: str, together: int) -> None:
    side = Side()
    driver, quic = side.connection()
    setattr(quic, part, EXPENSIVE)
    began, cpu = side.clock, side.cpu
    for _ in range(4000 // together):
        side.turn(driver, together)
    seconds = side.clock - began
    free = quic.packets * ORDINARY
    turn = together * EXPENSIVE  # the delivery of one turn is measured afterwards
    assert side.cpu - cpu - free < LIMIT * (1 + seconds) + 2 * turn
    assert side.refused["packet_time"] == 4000 // together * together - quic.packets > 1000
    assert not quic.closes


def test_their_sender_is_read_again_after_a_while() -> None:
    side = Side()
    driver, quic = side.connection()
    quic.reading = EXPENSIVE
    side.turn(driver, 500)
    assert quic.packets < 500
    quic.reading = CHEAP
    side.clock += 1.0
    read = quic.packets
    for _ in range(500):
        side.turn(driver)
    assert quic.packets == read + 500
    assert not driver.cost.measured


@pytest.mark.parametrize("reading, passing", [(CHEAP, CHEAP), (0.0, ORDINARY * 0.9), (ORDINARY * 0.9, 0.0)])
def test_ordinary_packets_are_not_limited(reading: float, passing: float) -> None:
    """At any rate: a publisher may use all of the CPU."""
    side = Side()
    driver, quic = side.connection()
    quic.reading, quic.passing = reading, passing
    for _ in range(100):
        side.turn(driver, 256, apart=0.0)
        driver.receive_train(memoryview(bytes(64_000)), 1000, CLIENT, side.clock)
    assert quic.packets == 100 * (256 + 64)
    assert not side.refused


def test_what_others_have_of_the_cpu_does_not_count() -> None:
    side = Side()
    driver, quic = side.connection()
    quic.reading, quic.preempted = CHEAP, 0.004
    for _ in range(2000):
        side.turn(driver)
    assert quic.packets == 2000


@pytest.mark.parametrize("part", ["reading", "passing"])
def test_a_garbage_collection_is_not_the_peers(part: str) -> None:
    """No packet costs a second. The interpreter collects garbage or imports a module."""
    side = Side()
    driver, quic = side.connection()
    for _ in range(10):
        setattr(quic, part, 1.0)
        side.turn(driver)
        setattr(quic, part, CHEAP)
        for _ in range(300):
            side.turn(driver)
    assert quic.packets == 3010


def test_no_other_connection_is_dropped() -> None:
    side = Side()
    (attacker, expensive), (viewer, quic) = side.connection(), side.connection()
    expensive.reading, quic.reading = EXPENSIVE, CHEAP
    for _ in range(1000):
        side.turn(attacker)
        side.turn(viewer)
    assert expensive.packets < 1000
    assert quic.packets == 1000


def test_a_connection_without_a_session_is_closed() -> None:
    side = Side()
    driver, quic = side.connection()
    driver.setup_deadline = side.clock + 10
    quic.reading = EXPENSIVE
    side.turn(driver, 500)
    assert quic.closes[0] == "packets take too long to read"


def test_another_relay_has_no_limit() -> None:
    """It serves many peers, whose audio comes as ten streams in one packet."""
    side = Side()
    driver, quic = side.connection()
    driver.cost.trusted = True
    quic.reading = EXPENSIVE
    side.turn(driver, 500)
    assert quic.packets == 500


def test_it_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    side = Side()
    driver, quic = side.connection()
    quic.reading = EXPENSIVE
    for _ in range(3):
        side.turn(driver, 500)
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        f"over limit limit=packet_time value={LIMIT:g} remote=192.0.2.1:1000"
    ]


def test_peers_that_we_have_dialled_have_no_limit() -> None:
    assert Endpoint.packet_time == float("inf")


# -- the socket


class Slow:
    """Takes long for each datagram."""

    def __init__(self, wait: Callable[[], None]) -> None:
        self.turns: list[int] = [0]
        self._wait = wait

    def on_datagram(self, sock: Sender, data: bytes, address: Address) -> None:
        self.turns[-1] += 1
        self._wait()

    def on_merged(self, sock: Sender, view: memoryview, each: int, address: Address) -> None:
        raise AssertionError("nothing to merge")

    def drained(self) -> None:
        self.turns.append(0)


async def test_a_socket_is_left_for_the_others_after_a_while() -> None:
    """The rest is read in the next turns, in order, without loss."""
    clock = [0.0]

    def pass_time() -> None:
        clock[0] += udp.DRAIN_TIME / 2.5

    slow = Slow(pass_time)
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    server = UdpSocket(sock, slow, buffer=65536, now=lambda: clock[0])
    server.on_drained = slow.drained
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        for size in range(1, 13):
            client.sendto(bytes(size), sock.getsockname())
    try:
        for _ in range(200):
            await asyncio.sleep(0)
            if sum(slow.turns) == 12:
                break
    finally:
        server.close()
    assert sum(slow.turns) == 12
    assert max(slow.turns) == 3
