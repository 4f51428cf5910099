"""A bad network between relays on loopback: a UDP proxy that loses, delays or drops what passes.

Owns one socket that peers talk to, and one per peer toward the relay behind it. Must never know what a datagram
holds. What becomes of a datagram is up to the `Weather` on its way, one for each host that peers send from.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final, Self

MOST_FLOWS: Final = 64
"""Peers with a socket of their own. Beyond it the one that was silent for longest loses its."""

DRAIN: Final = 256
"""Datagrams taken from a socket at a time."""

LARGEST: Final = 65_536


@dataclass(slots=True)
class Weather:
    """What happens on one way, in both directions."""

    loss: float = 0.0
    """Probability for each datagram."""

    delay: float = 0.0
    """Seconds that each datagram takes."""

    cut: bool = False
    """Nothing gets through."""


class _Flow:
    """One peer."""

    def __init__(self, sock: socket.socket, address: tuple[str, int], weather: Weather) -> None:
        self.sock = sock
        self.address = address
        self.weather = weather


class UdpProxy:
    """Listens at `port` of 127.0.0.1 for the relay at `target`. Equal seeds lose equal datagrams of equal traffic."""

    def __init__(self, port: int, target: int, *, seed: int = 0) -> None:
        self.port = port
        self.passed = 0
        self.dropped = 0
        self._target = target
        self._random = random.Random(seed)
        self._loop = asyncio.get_running_loop()
        self._flows: OrderedDict[tuple[str, int], _Flow] = OrderedDict()
        self._weather: dict[str, Weather] = {}
        self._front = self._socket(port)
        self._loop.add_reader(self._front, self._from_peers)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def weather(self, host: str) -> Weather:
        """The weather for those who send from `host`. It may be changed at any time."""
        return self._weather.setdefault(host, Weather())

    def close(self) -> None:
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
            flow = self._flows[address] = _Flow(sock, address, self.weather(address[0]))
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
        with contextlib.suppress(OSError):  # nobody listens there: silence, as of a host that is down
            for _ in range(DRAIN):
                self._pass(flow, flow.sock.recv(LARGEST), up=False)

    def _pass(self, flow: _Flow, data: bytes, *, up: bool) -> None:
        weather = flow.weather
        if weather.cut or (weather.loss and self._random.random() < weather.loss):
            self.dropped += 1
        elif weather.delay:
            self._loop.call_later(weather.delay, self._send, flow, data, up)
        else:
            self._send(flow, data, up)

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
