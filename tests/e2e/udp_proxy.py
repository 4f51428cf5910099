"""A bad network on loopback: a UDP proxy that loses, delays or reorders packets between relays and clients.

Peers share one socket; each has one of its own toward the relay. The `Weather` of a sender's host decides; each peer
has its own bottleneck and its own random numbers.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import random
import socket
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final, Self

MOST_FLOWS: Final = 64
"""Peers with a socket of their own; the longest silent one loses its first."""

DRAIN: Final = 256
"""Datagrams read from a socket at a time."""

LARGEST: Final = 65_536


@dataclass(slots=True)
class Lane:
    """One direction, changeable at any time."""

    loss: float = 0.0
    """Probability for each datagram."""

    delay: float = 0.0
    """Seconds."""

    jitter: float = 0.0
    """Extra seconds at most, evenly spread: datagrams overtake each other."""

    rate: float | None = None
    """Bottleneck for each peer, in bytes of UDP payload per second."""

    queue: int = 32_000
    """Bytes of its queue; further datagrams are lost."""


@dataclass(slots=True)
class Weather:
    up: Lane = field(default_factory=Lane)
    """Toward the relay."""

    down: Lane = field(default_factory=Lane)
    """From the relay."""

    cut: bool = False
    """Nothing gets through, not even datagrams under way."""

    def both(self, *, loss: float = 0.0, delay: float = 0.0, jitter: float = 0.0) -> None:
        for lane in (self.up, self.down):
            lane.loss, lane.delay, lane.jitter = loss, delay, jitter


class _Direction:
    __slots__ = ("dice", "free_at", "lane")

    def __init__(self, lane: Lane, seed: str) -> None:
        self.lane = lane
        self.dice = random.Random(seed)
        self.free_at = 0.0
        """When the bottleneck's queue will be empty."""

    def due(self, size: int, now: float) -> float | None:
        """Arrival of a datagram; None if it is lost."""
        lane = self.lane
        if lane.loss and self.dice.random() < lane.loss:
            return None
        at = now
        if lane.rate is not None:
            start = max(now, self.free_at)
            if (start - now) * lane.rate > lane.queue:
                return None
            at = self.free_at = start + size / lane.rate
        if lane.jitter:
            at += self.dice.random() * lane.jitter
        return at + lane.delay


class _Flow:
    __slots__ = ("address", "down", "sock", "up", "weather")

    def __init__(self, sock: socket.socket, address: tuple[str, int], weather: Weather, seed: str) -> None:
        self.sock = sock
        self.address = address
        self.weather = weather
        self.up = _Direction(weather.up, f"{seed} up")
        self.down = _Direction(weather.down, f"{seed} down")


class UdpProxy:
    """Listens at `port` of 127.0.0.1 for the relay at `target`.

    With equal seeds the n-th peer loses equal datagrams of equal traffic, whatever the others do.
    """

    def __init__(self, port: int, target: int, *, seed: int = 0) -> None:
        self.port = port
        self.passed = 0
        self.dropped = 0
        self._target = target
        self._seed = seed
        self._peers = itertools.count()
        self._count = itertools.count()
        self._loop = asyncio.get_running_loop()
        self._flows: OrderedDict[tuple[str, int], _Flow] = OrderedDict()
        self._weather: dict[str, Weather] = {}
        self._flying: list[tuple[float, int, _Flow, bytes, bool]] = []
        """A heap by time of arrival, then of departure."""
        self._timer: asyncio.TimerHandle | None = None
        self._front = self._socket(port)
        self._loop.add_reader(self._front, self._from_peers)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def weather(self, host: str = "127.0.0.1") -> Weather:
        """Of senders at `host`, changeable at any time."""
        return self._weather.setdefault(host, Weather())

    def redirect(self, target: int) -> None:
        """Have another relay in the place of the first."""
        self._target = target
        for flow in self._flows.values():
            flow.sock.connect(("127.0.0.1", target))

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._flying.clear()
        for flow in self._flows.values():
            self._end(flow)
        self._flows.clear()
        self._loop.remove_reader(self._front)
        self._front.close()

    # -- inside

    @staticmethod
    def _socket(port: int) -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 21)
        sock.bind(("127.0.0.1", port))
        return sock

    def _end(self, flow: _Flow) -> None:
        self._loop.remove_reader(flow.sock)
        flow.sock.close()

    def _flow(self, address: tuple[str, int]) -> _Flow:
        flow = self._flows.get(address)
        if flow is None:
            sock = self._socket(0)
            sock.connect(("127.0.0.1", self._target))
            seed = f"{self._seed} {next(self._peers)}"
            flow = self._flows[address] = _Flow(sock, address, self.weather(address[0]), seed)
            self._loop.add_reader(sock, self._from_relay, flow)
            if len(self._flows) > MOST_FLOWS:
                self._end(self._flows.popitem(last=False)[1])
        self._flows.move_to_end(address)
        return flow

    def _from_peers(self) -> None:
        with contextlib.suppress(BlockingIOError):
            for _ in range(DRAIN):
                data, address = self._front.recvfrom(LARGEST)
                self._pass(self._flow(address), data, up=True)

    def _from_relay(self, flow: _Flow) -> None:
        with contextlib.suppress(OSError):  # nothing listens there: silence, like a host that is down
            for _ in range(DRAIN):
                self._pass(flow, flow.sock.recv(LARGEST), up=False)

    def _pass(self, flow: _Flow, data: bytes, *, up: bool) -> None:
        if flow.weather.cut:
            self.dropped += 1
            return
        now = self._loop.time()
        at = (flow.up if up else flow.down).due(len(data), now)
        if at is None:
            self.dropped += 1
        elif at <= now:
            self._send(flow, data, up)
        else:
            heapq.heappush(self._flying, (at, next(self._count), flow, data, up))
            if self._flying[0][0] == at:
                self._wake_at(at)

    def _wake_at(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(at, self._arrive)

    def _arrive(self) -> None:
        self._timer = None
        now = self._loop.time()
        while self._flying and self._flying[0][0] <= now:
            _, _, flow, data, up = heapq.heappop(self._flying)
            self._send(flow, data, up)
        if self._flying:
            self._wake_at(self._flying[0][0])

    def _send(self, flow: _Flow, data: bytes, up: bool) -> None:
        if flow.weather.cut:
            self.dropped += 1
            return
        self.passed += 1
        with contextlib.suppress(OSError):  # full, gone or closed meanwhile: loss
            if up:
                flow.sock.send(data)
            else:
                self._front.sendto(data, flow.address)
