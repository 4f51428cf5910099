"""The order of streams at a bottleneck."""

from __future__ import annotations

from typing import Any

import pytest

from tests.quic.lab import Lab, Network, Pairing

NARROW = Network(delay=0.02, rate=250_000, queue=40)

pytestmark = pytest.mark.parametrize(
    "pair", [("ours", "ours"), ("aioquic", "ours"), ("aioquic", "pure")], ids="-".join
)


def narrow(pair: Pairing, **settings: int) -> Lab:
    lab = Lab(pair, 1, NARROW, **settings)
    lab.establish()
    return lab


def write(lab: Lab, size: int, priority: int) -> Any:
    stream = lab.server.give(bytes(size), priority=priority)
    lab.send("server")
    return stream


def got(lab: Lab, stream_id: int) -> int:
    return len(lab.client.log.received.get(stream_id, b""))


def test_what_is_more_urgent_overtakes(pair: Pairing) -> None:
    lab = narrow(pair)
    write(lab, 2_000_000, 1)
    lab.run(lambda: got(lab, 3) > 200_000)
    before = got(lab, 3)
    write(lab, 100_000, 2)
    lab.run(lambda: 7 in lab.client.log.finished)
    # no more than was in flight or in the path's queue when the urgent stream came
    assert got(lab, 3) - before < 120_000
    lab.run(lambda: 3 in lab.client.log.finished)
    lab.settle()
    lab.check_nothing_left()


def test_one_after_the_other(pair: Pairing) -> None:
    """The order of calls does not matter, that of urgency does."""
    lab = narrow(pair)
    streams = [lab.server.give(bytes(100_000), priority=priority) for priority in (1, 3, 2, 4)]
    lab.send("server")
    ended: list[int] = []

    def done() -> bool:
        ended.extend(sorted(lab.client.log.finished - set(ended)))
        return len(ended) == 4

    lab.run(done)
    assert ended == [streams[index].id for index in (3, 1, 2, 0)]


def test_a_stream_without_a_window_stops_no_other(pair: Pairing) -> None:
    """The peer gives the urgent one no more than it began with; less urgent ones continue."""
    lab = narrow(pair)
    quic = lab.server.open
    quic.streams._send_uni = 50_000  # as a peer with a small window
    urgent = write(lab, 200_000, 2)
    write(lab, 40_000, 1)
    lab.run(lambda: 7 in lab.client.log.finished)
    assert got(lab, urgent.id) == 50_000
    assert urgent.unsent == 150_000
    urgent.reset(9)
    lab.send("server")
    lab.run(lambda: urgent.id in lab.client.log.resets)
    assert urgent.unsent == 0


@pytest.mark.parametrize("size", [0, 1, 200_000])
def test_an_end_without_data_arrives(pair: Pairing, size: int) -> None:
    lab = narrow(pair)
    stream = lab.server.give(bytes(size), fin=False)
    lab.send("server")
    lab.run(lambda: got(lab, 3) == size)
    stream.write([], fin=True)
    lab.send("server")
    lab.run(lambda: 3 in lab.client.log.finished)
