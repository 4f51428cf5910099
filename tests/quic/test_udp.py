"""UDP sockets: answers leave from the address that received; one destination's refusal affects no other."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from relay.model.pace import LOG_BURST
from relay.quic import offload, udp
from relay.quic.udp import Address, Sender, UdpSocket
from relay.transport.sockets import bind_udp

SIZE = 1000

linux = pytest.mark.skipif(sys.platform != "linux", reason="127.0.0.2 and segmentation are Linux's")


class Echo:
    """Answers each datagram with the requested number of datagrams."""

    def __init__(self) -> None:
        self.addresses: list[Address] = []

    def on_datagram(self, sock: Sender, data: bytes, address: Address) -> None:
        self.addresses.append(address)
        sock.send_all([bytes(SIZE)] * data[0], SIZE, address)

    def on_merged(self, sock: Sender, view: memoryview, each: int, address: Address) -> None:
        for start in range(0, len(view), each):
            self.on_datagram(sock, bytes(view[start : start + each]), address)


def asked(host: str, port: int) -> socket.socket:
    """A connected client socket, which receives from one address only."""
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.setblocking(False)
    client.bind(("127.0.0.1", 0))
    client.connect((host, port))
    return client


async def answers(client: socket.socket, count: int) -> list[int]:
    """Ask for `count` datagrams. Returns their sizes."""
    loop = asyncio.get_running_loop()
    client.send(bytes((count,)))
    async with asyncio.timeout(5):
        return [len(await loop.sock_recv(client, 4096)) for _ in range(count)]


@linux
@pytest.mark.parametrize("listen", ["0.0.0.0", "::", "127.0.0.2"])
@pytest.mark.parametrize("merged", [True, False])
async def test_answers_leave_from_the_address_that_was_asked(
    listen: str, merged: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not merged:
        monkeypatch.setattr(offload, "receive_merged", lambda _: False)
    [sock] = bind_udp(listen, 0)
    server = UdpSocket(sock, Echo(), buffer=65536, now=time.monotonic, answers=True)
    hosts = ("127.0.0.2",) if listen == "127.0.0.2" else ("127.0.0.1", "127.0.0.2", "127.7.7.7")
    try:
        for host in hosts:
            with asked(host, server.address[1]) as client:
                for count in (1, 5):
                    assert await answers(client, count) == [SIZE] * count
    finally:
        server.close()


@linux
async def test_one_peer_that_asks_two_addresses_is_on_two_paths() -> None:
    """RFC 9000: both ends' addresses make a path, so validation begins anew."""
    echo = Echo()
    [sock] = bind_udp("0.0.0.0", 0)
    server = UdpSocket(sock, echo, buffer=65536, now=time.monotonic, answers=True)
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.setblocking(False)
    loop = asyncio.get_running_loop()
    try:
        for host in ("127.0.0.1", "127.0.0.2", "127.0.0.1"):
            client.sendto(b"\x01", (host, server.address[1]))
            async with asyncio.timeout(5):
                assert (await loop.sock_recvfrom(client, 4096))[1][0] == host
    finally:
        client.close()
        server.close()
    first, second, third = echo.addresses
    assert first == third != second
    assert first[:2] == second[:2]


@linux
@pytest.mark.interpreted
async def test_what_waits_for_a_full_socket_leaves_from_there_too(monkeypatch: pytest.MonkeyPatch) -> None:
    [sock] = bind_udp("0.0.0.0", 0)
    server = UdpSocket(sock, Echo(), buffer=65536, now=time.monotonic, answers=True)
    full = [True]
    send = server._send

    def take(data: bytes, address: Address) -> None:
        if full.pop() if full else False:
            raise BlockingIOError
        send(data, address)

    monkeypatch.setattr(server, "_send", take)
    with asked("127.0.0.2", server.address[1]) as client:
        assert await answers(client, 1) == [SIZE]
    assert not full
    server.close()


def test_a_source_names_its_interface_only_where_it_must() -> None:
    """Otherwise the routes decide, as for TCP."""
    ipv6 = (socket.IPPROTO_IPV6, offload._IPV6_INFO)

    def source(text: str) -> offload.Source:
        packed = socket.inet_pton(socket.AF_INET6, text)
        return offload.read_messages([(*ipv6, packed + struct.pack("=I", 7))])[1]

    for text, interface in (("2001:db8::1", 0), ("fe80::1", 7)):
        packed = socket.inet_pton(socket.AF_INET6, text)
        assert source(text) == ((*ipv6, packed + struct.pack("=I", interface)),)
    assert source("ff02::1") == ()
    packed = struct.pack("=i4s4s", 7, bytes((192, 0, 2, 1)), bytes((192, 0, 2, 255)))
    [(_, _, answer)] = offload.read_messages([(socket.IPPROTO_IP, offload._IPV4_INFO, packed)])[1]
    assert struct.unpack("=i4s4s", answer)[:2] == (0, bytes((192, 0, 2, 1)))


def test_a_host_with_a_network_of_addresses_keeps_few_of_them() -> None:
    for number in range(2 * offload.MOST_SOURCES):
        data = struct.pack("=QQI", 1, number, 0)
        offload.read_messages([(socket.IPPROTO_IPV6, offload._IPV6_INFO, data)])
    assert len(offload._sources) <= offload.MOST_SOURCES


# -- segmentation


class Picky(socket.socket):
    """A kernel that segments for all but one destination."""

    refused = "127.0.0.2"
    segmented: list[str]

    def sendmsg(self, buffers: Any, messages: Any = (), flags: int = 0, address: Any = None) -> int:
        if any(message[:2] == (offload.SOL_UDP, offload.UDP_SEGMENT) for message in messages):
            self.segmented.append(address[0])
            if address[0] == self.refused:
                raise OSError(errno.EINVAL, "Invalid argument")
        return super().sendmsg(buffers, messages, flags, address)


@pytest.fixture
def picky() -> Iterator[Callable[[], UdpSocket]]:
    made: list[UdpSocket] = []

    def make() -> UdpSocket:
        sock = Picky(socket.AF_INET, socket.SOCK_DGRAM)
        sock.segmented = []
        sock.bind(("127.0.0.1", 0))
        made.append(UdpSocket(sock, Echo(), buffer=65536, now=time.monotonic))
        return made[-1]

    yield make
    for each in made:
        each.close()


def segmented(server: UdpSocket) -> list[str]:
    assert isinstance(server.sock, Picky)
    return server.sock.segmented


@linux
async def test_a_destination_that_refuses_segments_gets_single_datagrams_and_others_segments(
    picky: Callable[[], UdpSocket],
) -> None:
    server = picky()
    other = ("127.0.0.1", 9)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.bind((Picky.refused, 0))
        client.setblocking(False)
        for _ in range(3):
            server.send_all([bytes(SIZE)] * 4, SIZE, client.getsockname())
            server.send_all([bytes(SIZE)] * 4, SIZE, other)
        received = [len(client.recv(4096)) for _ in range(12)]
    assert received == [SIZE] * 12
    assert segmented(server) == [Picky.refused, other[0], other[0], other[0]]
    assert server.segments_refused == 1
    assert server.failed == 0


@linux
async def test_a_destination_that_refused_segments_is_tried_again_later(
    picky: Callable[[], UdpSocket], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = picky()
    monkeypatch.setattr(udp, "REFUSAL_TIME", 0.0)
    for _ in range(3):
        server.send_all([bytes(SIZE)] * 4, SIZE, (Picky.refused, 9))
    assert segmented(server) == [Picky.refused] * 3
    assert server.segments_refused == 3


@linux
async def test_records_of_refusals_are_bounded_and_rarely_logged(
    picky: Callable[[], UdpSocket], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "relay")
    monkeypatch.setattr(udp, "MOST_REFUSING", 8)
    server = picky()
    for number in range(1, 33):
        monkeypatch.setattr(Picky, "refused", f"127.0.1.{number}")
        server.send_all([bytes(SIZE)] * 4, SIZE, (Picky.refused, 9))
    assert server.segments_refused == 32
    assert list(server._refusing) == [(f"127.0.1.{number}", 9) for number in range(25, 33)]
    assert len([line for line in caplog.messages if "does not segment" in line]) == LOG_BURST
