"""Path MTU discovery: the search alone, and on connections over changing paths."""

from __future__ import annotations

from typing import Any

import pytest

from relay.quic import errors, mtu
from relay.quic.mtu import PathMtu
from tests.quic.lab import Hand, Lab, Network, Pairing, generous


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


# -- on a connection


def size_of(lab: Lab) -> int:
    quic: Any = lab.server.open
    assert quic.packet_size == quic.mtu.size == quic.recovery.pacer.size == quic.recovery.congestion.size
    return int(quic.packet_size)


def give(lab: Lab, size: int) -> int:
    """The server sends on a new stream. Returns the number of packets."""
    before = lab.packets["server"]
    stream = lab.server.give(bytes(size))
    lab.send("server")
    lab.run(lambda: stream.id in lab.client.log.finished, within=200)
    return lab.packets["server"] - before


@pytest.mark.parametrize(
    "mtu_of_path, found", [(1500, 1452), (1440, 1432), (1400, 1372), (1250, 1232), (1200, 1200)]
)
def test_on_a_path(mtu_of_path: int, found: int) -> None:
    lab = Lab(("aioquic", "ours"), 1, Network(mtu=mtu_of_path))
    lab.establish()
    for _ in range(20):
        give(lab, 20_000)
        lab.rest(0.5)
    assert size_of(lab) == found
    assert give(lab, 100_000) <= 100_000 / (found - 60) + 5
    lab.settle()
    lab.check_nothing_left()


def test_probes_are_no_congestion() -> None:
    lab = Lab(("ours", "ours"), 1, Network(mtu=1200), congestion="reno")
    lab.establish()
    for _ in range(20):
        give(lab, 20_000)
        lab.rest(0.5)
    quic: Any = lab.server.open
    assert quic.mtu.size == 1200
    assert quic.recovery.lost_packets == 0
    assert quic.recovery.congestion.threshold == 1 << 60


def test_who_has_little_to_say_tries_nothing() -> None:
    lab = Lab(("ours", "ours"), 1, Network())
    lab.establish()
    for _ in range(30):
        give(lab, 500)
        lab.rest(0.2)
    assert size_of(lab) == 1200


@pytest.mark.parametrize("loss", [0.0, 0.05])
def test_a_path_that_gets_narrower(loss: float) -> None:
    network = Network(loss=loss)
    lab = Lab(("ours", "ours"), 1, network)
    lab.establish()
    for _ in range(10):
        give(lab, 50_000)
        lab.rest(0.5)
    assert size_of(lab) == 1452
    network.mtu = 1300
    give(lab, 200_000)
    lab.rest(5)
    assert size_of(lab) == 1200
    lab.settle()
    lab.check_nothing_left()


def test_loss_alone_is_no_narrow_path() -> None:
    lab = Lab(("ours", "ours"), 3, Network(loss=0.05))
    lab.establish()
    for _ in range(30):
        give(lab, 50_000)
        lab.rest(0.3)
    assert size_of(lab) >= 1372


def test_another_network_is_measured_anew() -> None:
    lab = Lab(("ours", "ours"), 1, Network())
    lab.establish()
    for _ in range(5):
        give(lab, 50_000)
        lab.rest(0.3)
    assert size_of(lab) == 1452
    lab.addresses["client"] = ("198.51.100.7", 5000)
    lab.client.ping()
    lab.rest(0.05)
    assert size_of(lab) == 1200
    lab.rest(1.0)
    for _ in range(5):
        give(lab, 50_000)
        lab.rest(0.3)
    assert size_of(lab) == 1452


def test_off_by_setting(pairing: Pairing) -> None:
    lab = Lab(pairing, 1, Network(), mtu_discovery=False)
    lab.establish()
    for name in ("client", "server"):
        if pairing[name == "server"] == "aioquic":
            continue
        lab.ends[name].give(bytes(50_000))
        lab.send(name)
        lab.rest(1.0)
        assert lab.ends[name].open.packet_size == 1200


@pytest.mark.parametrize("limit, size", [(1300, 1300), (1200, 1200), (65527, 1452)])
def test_never_more_than_the_peer_takes(limit: int, size: int) -> None:
    hand = Hand(peer=generous(max_udp_payload_size=limit))
    hand.quic.mtu.enabled = True
    hand.quiet()
    stream = hand.quic.open_stream(0, unidirectional=True)
    for _ in range(10):
        stream.write([bytes(5000)])
        hand.flush()
        hand.now += 0.2
        hand.ack()
    assert max(packet.size for packet in hand.heard) == size
    assert hand.quic.packet_size == size


def test_a_probe_has_the_wanted_size_and_nothing_else() -> None:
    hand = Hand()
    hand.quic.mtu.enabled = True
    hand.quiet()
    hand.quic.open_stream(0, unidirectional=True).write([bytes(5000)])
    in_flight = sum(packet.size for packet in hand.flush() if packet.size <= 1200)
    (probe,) = [packet for packet in hand.heard if packet.size > 1200]
    assert probe.size == 1452
    assert probe.frames == [(errors.PING,)]
    assert hand.quic.recovery.congestion.in_flight == in_flight


def test_a_black_hole_of_probe_timeouts() -> None:
    """Nothing at all gets through any more."""
    hand = Hand().quiet()
    hand.quic.mtu.size = 1452
    hand.quic._resize()
    hand.quic.open_stream(0, unidirectional=True).write([bytes(5000)])
    hand.flush()
    hand.wait(5.0)
    assert hand.quic.packet_size == 1200
    assert hand.heard[-1].size <= 1200
