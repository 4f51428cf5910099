"""The order of streams at a bottleneck, on the fast path and with aioquic."""

from __future__ import annotations

import pytest

from tests.transport.lab import Lab, Network
from tests.transport.virtual import Pairing

NARROW = Network(delay=0.02, rate=250_000, queue=40)


def narrow(pairing: Pairing, **settings: int) -> Lab:
    lab = Lab(pairing, 1, NARROW, **settings)
    lab.open()
    return lab


def write(lab: Lab, stream_id: int, size: int, priority: int) -> None:
    lab.server.quic.write_stream(stream_id, [bytes(size)], fin=True, order=(priority, -stream_id))
    lab.send("server")


def got(lab: Lab, stream_id: int) -> int:
    return len(lab.client.received.get(stream_id, b""))


def test_what_is_more_urgent_overtakes(pairing: Pairing) -> None:
    lab = narrow(pairing)
    write(lab, 3, 2_000_000, 1)
    lab.run(lambda: got(lab, 3) > 200_000)
    before = got(lab, 3)
    write(lab, 7, 100_000, 2)
    lab.run(lambda: 7 in lab.client.finished)
    # no more than was in flight or in the path's queue when the urgent stream came
    assert got(lab, 3) - before < 120_000
    lab.run(lambda: 3 in lab.client.finished)
    lab.settle()
    lab.check_nothing_left()


def test_one_after_the_other(pairing: Pairing) -> None:
    """The order of calls does not matter, that of urgency does."""
    lab = narrow(pairing)
    for stream_id, priority in ((3, 1), (7, 3), (11, 2), (15, 4)):
        lab.server.quic.write_stream(stream_id, [bytes(100_000)], fin=True, order=(priority, 0))
    lab.send("server")
    ended: list[int] = []

    def done() -> bool:
        ended.extend(sorted(lab.client.finished - set(ended)))
        return len(ended) == 4

    lab.run(done)
    assert ended == [15, 7, 11, 3]


def test_a_stream_without_a_window_stops_no_other(pairing: Pairing) -> None:
    """The peer does not read the urgent one; less urgent ones continue."""
    lab = narrow(pairing, stream_window=50_000)
    receive_more = lab.client.quic._next_stream_limit
    lab.client.quic._next_stream_limit = lambda stream: None  # type: ignore[method-assign]
    write(lab, 3, 200_000, 2)
    write(lab, 7, 40_000, 1)
    lab.run(lambda: 7 in lab.client.finished)
    assert got(lab, 3) == 50_000
    assert lab.server.quic.unsent(3) == 150_000
    lab.client.quic._next_stream_limit = receive_more  # type: ignore[method-assign]
    lab.server.quic.reset_stream(3, 9)
    lab.send("server")
    lab.run(lambda: 3 in lab.client.resets)
    assert lab.server.quic.unsent(3) == 0


@pytest.mark.parametrize("size", [0, 1, 200_000])
def test_an_end_without_data_arrives(pairing: Pairing, size: int) -> None:
    lab = narrow(pairing)
    lab.server.quic.write_stream(3, [bytes(size)] if size else [], fin=False, order=(1, 0))
    lab.send("server")
    lab.run(lambda: got(lab, 3) == size)
    lab.server.quic.write_stream(3, [], fin=True, order=(1, 0))
    lab.send("server")
    lab.run(lambda: 3 in lab.client.finished)
