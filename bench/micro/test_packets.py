"""Packets: sealing and opening a burst, and its acknowledgement, by public methods of connections.

A burst is one frame of 8300 bytes: 8 packets. `native` and `pure` are the two values of `[server.quic] native`.
"""

from __future__ import annotations

from typing import Any

import pytest

from bench.micro.pair import Pair

FRAME = 8300
ROUNDS = 1000


@pytest.fixture(params=["native", "pure"])
def pair(request: pytest.FixtureRequest) -> Pair:
    return Pair(native=request.param == "native")


def test_seal_a_burst(benchmark: Any, pair: Pair) -> None:
    benchmark.group = "a burst of 8 packets"
    sealed: list[bytes] = []

    def prepare() -> None:
        if sealed:
            pair.take(pair.client, sealed)
            pair.answer()
        pair.now += 0.033
        pair.write(FRAME)

    def seal() -> None:
        sealed[:] = pair.burst(FRAME)

    benchmark.pedantic(seal, setup=prepare, rounds=ROUNDS)
    assert sum(map(len, sealed)) > FRAME


def test_open_a_burst(benchmark: Any, pair: Pair) -> None:
    benchmark.group = "a burst of 8 packets"
    received = 0

    def prepare() -> tuple[tuple[list[bytes]], dict[str, Any]]:
        pair.answer()
        pair.now += 0.033
        pair.write(FRAME)
        return (pair.burst(FRAME),), {}

    def open_(packets: list[bytes]) -> None:
        nonlocal received
        received = pair.take(pair.client, packets)

    benchmark.pedantic(open_, setup=prepare, rounds=ROUNDS)
    assert received == FRAME


def test_take_an_acknowledgement(benchmark: Any, pair: Pair) -> None:
    benchmark.group = "a burst of 8 packets"
    count = 0

    def prepare() -> tuple[tuple[list[bytes]], dict[str, Any]]:
        nonlocal count
        pair.now += 0.033
        pair.write(FRAME)
        pair.take(pair.client, pair.burst(FRAME))
        packets = pair.acknowledgements()
        count = len(packets)
        return (packets,), {}

    def take(packets: list[bytes]) -> None:
        pair.take(pair.server, packets)

    benchmark.pedantic(take, setup=prepare, rounds=ROUNDS)
    assert count > 0
