"""Path MTU discovery: the search alone, and on connections over changing paths."""

from __future__ import annotations

from typing import Any

import pytest
from relay.quic.fast import mtu
from relay.quic.fast.mtu import PathMtu

from tests.transport.lab import Lab, Network
from tests.transport.virtual import Pairing


def search(limit: int = 65527) -> PathMtu:
    found = PathMtu(1200)
    found.limit(limit)
    found.enabled = True
    return found


def test_nothing_is_tried_without_leave() -> None:
    assert PathMtu(1200).wanted(0.0) == 0


def test_the_largest_size_first_and_then_rest() -> None:
    path = search()
    assert path.wanted(1.0) == 1452
    path.probed(1.0)
    assert path.wanted(2.0) == 0  # one at a time
    path.arrived(1452, 2.0)
    assert path.size == 1452
    assert path.wanted(10.0) == path.wanted(1e6) == 0


def test_a_size_is_given_up_after_three_losses() -> None:
    path = search()
    tried = []
    now = 0.0
    while size := path.wanted(now):
        tried.append(size)
        path.probed(now)
        assert path.wanted(now) == 0
        now += mtu.SPACING
        if size > 1380:
            path.failed(now)
        else:
            path.arrived(size, now)
    assert tried == [1452] * 3 + [1432] * 3 + [1372]
    assert path.size == 1372
    assert path.wanted(now + mtu.RAISE_INTERVAL - 1) == 0
    assert path.wanted(now + mtu.RAISE_INTERVAL) == 1452


def test_no_size_gets_through() -> None:
    path = search()
    now = 0.0
    for _ in range(mtu.TRIES * len(mtu.SIZES)):
        assert path.wanted(now)
        path.probed(now)
        now += 1.0
        path.failed(now)
    assert path.wanted(now) == 0
    assert path.size == 1200
    assert path.wanted(now + mtu.RAISE_INTERVAL) == 1452


@pytest.mark.parametrize("limit, first", [(1472, 1452), (1452, 1452), (1440, 1440), (1300, 1300), (1200, 0)])
def test_the_peers_limit(limit: int, first: int) -> None:
    assert search(limit).wanted(0.0) == first


def test_a_black_hole() -> None:
    path = search()
    path.wanted(0.0)
    path.probed(0.0)
    path.arrived(1452, 0.0)
    assert not path.lost(mtu.BLACK_HOLE_LOSSES - 1, 1.0)
    path.losses = 0  # one arrived
    assert not path.lost(mtu.BLACK_HOLE_LOSSES - 1, 2.0)
    assert path.lost(1, 3.0)
    assert path.size == 1200
    assert path.wanted(4.0) == 0
    assert path.wanted(3.0 + mtu.BLACK_HOLE_INTERVAL) == 1452
    assert not path.lost(1000, 5.0)  # loss at the base size is only loss


def size_of(lab: Lab) -> int:
    quic: Any = lab.server.quic
    assert quic._max_datagram_size == quic._loss._pacer.size == quic._loss._cc._max_datagram_size
    return int(quic._max_datagram_size)


def rest(lab: Lab, seconds: float) -> None:
    """Let time pass on the network as it is."""
    end = lab.now + seconds
    while lab.step(end):
        pass


def give(lab: Lab, size: int) -> int:
    """The server sends on a new stream. Returns the number of packets."""
    before = lab.server.packets
    stream_id = lab.server.quic.get_next_available_stream_id(is_unidirectional=True)
    lab.server.quic.write_stream(stream_id, [bytes(size)], fin=True, order=(0, 0))
    lab.send("server")
    lab.run(lambda: stream_id in lab.client.finished, within=200)
    return lab.server.packets - before


@pytest.mark.parametrize(
    "mtu_of_path, found", [(1500, 1452), (1440, 1432), (1400, 1372), (1250, 1232), (1200, 1200)]
)
def test_on_a_path(mtu_of_path: int, found: int) -> None:
    lab = Lab(("aioquic", "fast"), 1, Network(mtu=mtu_of_path))
    lab.open()
    for _ in range(20):
        give(lab, 20_000)
        rest(lab, 0.5)
    assert size_of(lab) == found
    assert give(lab, 100_000) <= 100_000 / (found - 60) + 3
    lab.settle()
    lab.check_nothing_left()


def test_probes_are_no_congestion() -> None:
    lab = Lab(("fast", "fast"), 1, Network(mtu=1200))
    lab.open()
    for _ in range(20):
        give(lab, 20_000)
        rest(lab, 0.5)
    assert lab.server.quic._loss._cc.ssthresh is None


def test_who_has_little_to_say_tries_nothing() -> None:
    lab = Lab(("fast", "fast"), 1, Network())
    lab.open()
    for _ in range(30):
        give(lab, 500)
        rest(lab, 0.2)
    assert size_of(lab) == 1200


@pytest.mark.parametrize("loss", [0.0, 0.05])
def test_a_path_that_gets_narrower(loss: float) -> None:
    network = Network(loss=loss)
    lab = Lab(("fast", "fast"), 1, network)
    lab.open()
    for _ in range(10):
        give(lab, 50_000)
        rest(lab, 0.5)
    assert size_of(lab) == 1452
    network.mtu = 1300
    give(lab, 200_000)
    rest(lab, 5)
    assert size_of(lab) == 1200
    lab.check_nothing_left()


def test_loss_alone_is_no_narrow_path() -> None:
    lab = Lab(("fast", "fast"), 3, Network(loss=0.05))
    lab.open()
    for _ in range(30):
        give(lab, 50_000)
        rest(lab, 0.3)
    assert size_of(lab) >= 1372


def test_off_by_setting(pairing: Pairing) -> None:
    lab = Lab(pairing, 1, Network(), mtu_discovery=False)
    lab.open()
    for _ in range(5):
        give(lab, 50_000)
        rest(lab, 0.5)
    assert lab.server.quic._max_datagram_size == 1200
