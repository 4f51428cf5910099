"""The simulated network works as configured."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
from collections.abc import Iterator

import pytest

from tests.clock import until
from tests.e2e.harness import free_udp_port
from tests.e2e.udp_proxy import Lane, UdpProxy, _Direction


@contextlib.contextmanager
def ends(seed: int = 1) -> Iterator[tuple[UdpProxy, socket.socket, socket.socket]]:
    with contextlib.ExitStack() as stack:
        behind, peer = (
            stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(2)
        )
        behind.bind(("127.0.0.1", 0))
        proxy = stack.enter_context(UdpProxy(free_udp_port(), behind.getsockname()[1], seed=seed))
        for sock in (behind, peer):
            sock.setblocking(False)
        peer.connect(("127.0.0.1", proxy.port))
        yield proxy, peer, behind


async def received(sock: socket.socket, count: int) -> list[int]:
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(5):
        return [int.from_bytes((await loop.sock_recv(sock, 100))[:4], "big") for _ in range(count)]


def send(sock: socket.socket, count: int, size: int = 100) -> None:
    for number in range(count):
        sock.send(number.to_bytes(4, "big") + bytes(size - 4))


def fate(lane: Lane, seed: str, count: int = 1000) -> list[float | None]:
    direction = _Direction(lane, seed)
    return [direction.due(1200, number * 0.001) for number in range(count)]


@pytest.mark.parametrize("loss", [0.01, 0.05, 0.1])
def test_equal_seeds_lose_equal_datagrams(loss: float) -> None:
    lost = [at is None for at in fate(Lane(loss=loss), "a", 10_000)]
    assert lost == [at is None for at in fate(Lane(loss=loss), "a", 10_000)]
    assert lost != [at is None for at in fate(Lane(loss=loss), "b", 10_000)]
    assert loss * 0.8 < sum(lost) / len(lost) < loss * 1.2


def test_datagrams_keep_their_order_unless_they_are_to_overtake() -> None:
    steady = fate(Lane(delay=0.05), "a")
    assert steady == pytest.approx([number * 0.001 + 0.05 for number in range(1000)])
    shaken = [at for at in fate(Lane(delay=0.05, jitter=0.01), "a") if at is not None]
    assert shaken != sorted(shaken)
    assert all(0.05 <= at - number * 0.001 < 0.06 for number, at in enumerate(shaken))


def test_a_narrow_place_has_a_rate_and_a_bounded_queue() -> None:
    lane = Lane(rate=120_000, queue=12_000)  # ten datagrams wait, each takes 10 ms; one comes per ms
    due = fate(lane, "a")
    arrived = [at for at in due if at is not None]
    gaps = [after - before for before, after in itertools.pairwise(arrived)]
    assert gaps == pytest.approx([0.01] * len(gaps))
    assert max(at - number * 0.001 for number, at in enumerate(due) if at is not None) <= 0.1 + 0.01 + 1e-9
    assert None not in due[:11]  # the queue takes a burst
    assert len(arrived) == pytest.approx(100, abs=12)


async def test_each_direction_has_its_own_weather() -> None:
    with ends() as (proxy, peer, behind):
        proxy.weather().down.loss = 1.0
        send(peer, 20)
        assert await received(behind, 20) == list(range(20))
        back = ("127.0.0.1", next(iter(proxy._flows.values())).sock.getsockname()[1])
        behind.sendto(bytes(100), back)
        await until(lambda: proxy.dropped == 1)
        proxy.weather().down.loss = 0.0
        behind.sendto((7).to_bytes(4, "big"), back)
        assert await received(peer, 1) == [7]


async def test_what_is_delayed_arrives_later_and_in_order() -> None:
    with ends() as (proxy, peer, behind):
        proxy.weather().both(delay=0.05)
        loop = asyncio.get_running_loop()
        begin = loop.time()
        send(peer, 100)
        assert await received(behind, 100) == list(range(100))
        assert loop.time() - begin >= 0.05


async def test_a_cut_takes_what_is_under_way() -> None:
    with ends() as (proxy, peer, behind):
        proxy.weather().both(delay=0.02)
        send(peer, 5)
        await until(lambda: len(proxy._flying) == 5)
        proxy.weather().cut = True
        await until(lambda: proxy.dropped == 5)
        proxy.weather().cut = False
        send(peer, 1)
        assert await received(behind, 1) == [0]
        assert proxy.passed == 1
