"""Transfers over bad networks between ends of all kinds: every byte arrives, nothing stalls, nothing is left.

Defaults suit every run; for hundreds of seeds and 20 MB set LAB_SEEDS and LAB_SIZE after a change of the engine.
"""

from __future__ import annotations

import os
import random
from typing import Any

import pytest
from aioquic.tls import Epoch

from tests.quic.lab import Lab, Network, Ours, Pairing
from tests.sampling import FULL, first

SEED = int(os.environ.get("LAB_SEED", "0"))
SEEDS = range(SEED, SEED + int(os.environ.get("LAB_SEEDS", "2" if FULL else "1")))
SIZE = int(os.environ.get("LAB_SIZE", "300000"))

NETWORKS = {
    "good": Network(),
    "loss-1": Network(loss=0.01),
    "loss-5": Network(loss=0.05),
    "loss-20": Network(loss=0.2),
    "reordering": Network(jitter=0.01),
    "all": Network(loss=0.02, duplicate=0.05, jitter=0.005),
    "drains": Network(loss=0.01, jitter=0.002, tick=0.004),
    "narrow": Network(rate=1_000_000, queue=20),
}
MOST_PACKETS = {"loss-20": 1.6, "loss-5": 1.25, "all": 1.25, "narrow": 1.4, "reordering": 1.8}
"""Full packets that a sender may need at most, relative to the data; 1.1 otherwise."""


def both_ways(lab: Lab, seed: int) -> tuple[bytes, bytes]:
    dice = random.Random(seed)
    up, down = dice.randbytes(SIZE), dice.randbytes(SIZE)
    lab.client.give(up)
    lab.server.give(down)
    lab.send_all()
    return up, down


def arrived(lab: Lab) -> bool:
    return 2 in lab.server.log.finished and 3 in lab.client.log.finished


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("network", NETWORKS)
def test_a_transfer_both_ways(pairing: Pairing, network: str, seed: int) -> None:
    lab = Lab(pairing, seed, NETWORKS[network])
    lab.establish()
    up, down = both_ways(lab, seed)
    lab.run(lambda: arrived(lab), within=2000)
    assert lab.server.log.received[2] == up
    assert lab.client.log.received[3] == down
    for name, end in lab.ends.items():
        if pairing[name == "server"] == "aioquic":
            continue
        # An acknowledgement for each other packet, besides the data.
        assert lab.packets[name] < 20 + SIZE / 1160 * (MOST_PACKETS.get(network, 1.1) + 0.7)
        if network == "good":  # packets sent together arrive together
            assert end.in_trains > SIZE / 1500 / 2
    lab.settle()
    lab.check_nothing_left()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("who", ["client", "server", "in turn"])
@pytest.mark.parametrize(
    "network", ["good", "loss-1", "all", "drains", *first("loss-5", "reordering", "narrow")]
)
def test_key_updates(pairing: Pairing, network: str, who: str, seed: int) -> None:
    """Also by an end that only acknowledges."""
    lab = Lab(pairing, seed, NETWORKS[network])
    lab.establish()
    ends = [lab.ends[who]] if who in lab.ends else [lab.client, lab.server]
    giver, taker, key = (lab.server, lab.client, 3) if who == "client" else (lab.client, lab.server, 2)
    payload = random.Random(seed).randbytes(SIZE)
    giver.give(payload)
    lab.send_all()
    updates = 0

    def done() -> bool:
        nonlocal updates
        if in_step(lab) and len(taker.log.received.get(key, b"")) > (updates + 1) * SIZE // 6:
            ends[updates % len(ends)].update_keys()
            updates += 1
        return key in taker.log.finished

    lab.run(done, within=600)
    assert taker.log.received[key] == payload
    assert updates >= (2 if SIZE >= 300_000 else 1)
    assert generation(lab) >= (2 if SIZE >= 300_000 else 1)
    lab.settle()
    lab.check_nothing_left()


def in_step(lab: Lab) -> bool:
    """No key update is on its way: aioquic does not wait for its peer, as RFC 9001, 6.1 asks."""
    ours, theirs = (lab.client, lab.server) if isinstance(lab.client, Ours) else (lab.server, lab.client)
    if isinstance(theirs, Ours):
        return True
    protection, pair = ours.open.protection, theirs.open._cryptos[Epoch.ONE_RTT]
    return (
        not pair._update_key_requested
        and not protection._wanted
        and protection._send_secret == pair.recv.secret
        and protection._receive_secret == pair.send.secret
    )


def generation(lab: Lab) -> int:
    """How often an end of ours has changed its keys, found by their secret."""
    for end in (lab.client, lab.server):
        quic: Any = end.quic
        protection = getattr(quic, "protection", None)
        if protection is not None and end.first_secret:
            secret, count = end.first_secret, 0
            while secret != protection._send_secret:
                secret = protection._following(secret)
                count += 1
            return count
    raise AssertionError("no end of ours")


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("network", ["good", "all"])
@pytest.mark.parametrize("pair", [("ours", "ours"), ("pure", "pure")], ids=["ours", "pure"])
def test_key_updates_of_both_at_once(pair: Pairing, network: str, seed: int) -> None:
    lab = Lab(pair, seed, NETWORKS[network])
    lab.establish()
    up, down = both_ways(lab, seed)
    updates = 0

    def done() -> bool:
        nonlocal updates
        if len(lab.server.log.received.get(2, b"")) > (updates + 1) * SIZE // 8:
            updates += 1
            lab.client.update_keys()
            lab.server.update_keys()
        return arrived(lab)

    lab.run(done, within=600)
    assert lab.server.log.received[2] == up
    assert lab.client.log.received[3] == down
    assert generation(lab) >= 2
    lab.settle()
    lab.check_nothing_left()


@pytest.mark.parametrize("pair", [("ours", "ours"), ("ours", "aioquic"), ("aioquic", "ours")])
def test_two_updates_in_a_row_wait_for_each_other(pair: Pairing) -> None:
    """The peer's update and our own right after it must not look like none."""
    lab = Lab(pair, 1, Network())
    lab.establish()
    lab.settle(1.0)
    for _ in range(3):
        lab.client.update_keys()
        lab.send("client")
        for _ in range(2):
            if pair[1] == "ours":
                lab.server.open.update_keys()
                lab.rest(1.0)
                lab.server.open.update_keys()
            lab.server.ping()
            lab.send("server")
        lab.rest(1.0)
    both_ways(lab, 1)
    lab.run(lambda: arrived(lab))
    assert generation(lab) >= 3


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("network", ["good", "loss-5", "all", "drains", "narrow"])
def test_many_streams_with_resets(pairing: Pairing, network: str, seed: int) -> None:
    lab = Lab(pairing, seed, NETWORKS[network])
    lab.establish()
    dice = random.Random(seed)
    contents: dict[int, bytes] = {}
    aborted: set[int] = set()
    for number in range(120):
        name = "client" if number % 2 else "server"
        side, other = lab.ends[name], lab.server if name == "client" else lab.client
        data = dice.randbytes(dice.choice([0, 1, 160, 5000, 40_000]))
        stream = side.give(data)
        lab.send(name)
        lab.rest(0.002)
        lab.run(lambda side=side, stream=stream: side.id_of(stream) >= 0)  # there is room in the window
        stream_id = side.id_of(stream)
        contents[stream_id] = data
        choice = dice.random()
        if choice < 0.15:
            side.reset(stream, 7)
            aborted.add(stream_id)
        elif choice < 0.3 and other.stop(stream_id, 9):
            aborted.add(stream_id)
        lab.send_all()

    def over(stream_id: int) -> bool:
        log = lab.server.log if stream_id & 1 == 0 else lab.client.log
        return stream_id in log.finished or stream_id in log.resets

    lab.run(lambda: all(over(key) for key in contents if key not in aborted), within=600)
    lab.settle()
    for stream_id, content in contents.items():
        log = lab.server.log if stream_id & 1 == 0 else lab.client.log
        got = bytes(log.received.get(stream_id, b""))
        if stream_id in log.finished:
            assert got == content
        else:
            assert stream_id in aborted
            assert content.startswith(got)
    lab.check_nothing_left()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("loss", [0.0, 0.03, 0.2])
def test_small_windows(pairing: Pairing, loss: float, seed: int) -> None:
    lab = Lab(pairing, seed, Network(loss=loss), stream_window=20_000, connection_window=50_000)
    lab.establish()
    dice = random.Random(seed)
    contents = {4 * number + 2: dice.randbytes(60_000) for number in range(10)}
    for content in contents.values():
        lab.client.give(content)
    lab.send("client")
    lab.run(lambda: lab.server.log.finished == set(contents), within=600)
    assert {key: bytes(value) for key, value in lab.server.log.received.items()} == contents
    lab.settle()
    lab.check_nothing_left()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("pair", [("ours", "ours"), ("aioquic", "ours")])
def test_few_streams_at_a_time(pair: Pairing, seed: int) -> None:
    """More streams are wanted than allowed, again and again."""
    lab = Lab(pair, seed, Network(loss=0.05), max_streams_uni=5)
    lab.establish()
    contents = {4 * number + 2: random.Random(number).randbytes(3000) for number in range(60)}
    for content in contents.values():
        lab.client.give(content)
    lab.send("client")
    lab.run(lambda: lab.server.log.finished == set(contents), within=60)
    assert {key: bytes(value) for key, value in lab.server.log.received.items()} == contents
    lab.settle()
    lab.check_nothing_left()


@pytest.mark.parametrize("seed", SEEDS)
def test_datagrams_arrive_once(pairing: Pairing, seed: int) -> None:
    lab = Lab(pairing, seed, NETWORKS["all"])
    lab.establish()
    sent = []
    for number in range(200):
        data = number.to_bytes(2, "big") * random.Random(seed + number).choice([1, 40, 500])
        sent.append(data)
        lab.client.datagram(data)
        lab.send("client")
        lab.rest(0.005)
    lab.settle()
    got = lab.server.log.datagrams
    assert len(set(got)) == len(got) > 150
    assert set(got) <= set(sent)
    lab.check_nothing_left()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("host", ["192.0.2.1", "198.51.100.7"], ids=["port", "network"])
@pytest.mark.parametrize(
    "network", ["good", "loss-1", *first("loss-5", "loss-20", "all", "drains", "narrow")]
)
def test_a_client_whose_address_changes(pairing: Pairing, network: str, host: str, seed: int) -> None:
    lab = Lab(pairing, seed, NETWORKS[network])
    lab.establish()
    up, down = both_ways(lab, seed)
    said = lab.now

    def over() -> bool:
        nonlocal said
        if lab.now > said + 1.0:
            # A client that only receives would never tell its new address if the first packets are lost.
            said = lab.now
            lab.client.ping()
            lab.send("client")
        return arrived(lab)

    for number, share in ((1, 0.2), (2, 0.6)):
        lab.run(lambda share=share: len(lab.client.log.received.get(3, b"")) > share * SIZE, within=600)
        lab.addresses["client"] = (host, 2000 + number)
        lab.client.ping()
        lab.send("client")
        if pairing[1] == "aioquic":
            continue

        def followed() -> bool:
            path = lab.server.open.path
            # Until it is validated, the new address gets three times its bytes (RFC 9000, 8).
            assert path.validated or path.sent <= 3 * path.received
            return bool(path.validated and path.address == lab.addresses["client"])

        lab.run(lambda: followed() if not over() else True, within=60)
    lab.run(over, within=600)
    assert lab.server.log.received[2] == up
    assert lab.client.log.received[3] == down
    lab.settle(5.0)
    lab.check_nothing_left()


@pytest.mark.parametrize("seed", SEEDS)
def test_an_address_that_changes_all_the_time(pairing: Pairing, seed: int) -> None:
    """With key updates between."""
    lab = Lab(pairing, seed, Network(loss=0.01, rate=200_000))
    lab.establish()
    up, down = both_ways(lab, seed)
    number = 0
    while not arrived(lab):
        number += 1
        assert number < 2000
        lab.addresses["client"] = ("192.0.2.1", 2000 + number)
        lab.client.ping()
        if number % 4 == 0:
            lab.client.update_keys()
        lab.send_all()
        lab.rest(0.1)
    assert lab.server.log.received[2] == up
    assert lab.client.log.received[3] == down
    assert number > 1
    lab.settle(5.0)
    lab.check_nothing_left()


@pytest.mark.parametrize("congestion", ["cubic", "reno", "bbr"])
@pytest.mark.parametrize("network", ["good", "loss-5", "narrow"])
def test_each_congestion_control(congestion: str, network: str) -> None:
    lab = Lab(("ours", "ours"), SEED, NETWORKS[network], congestion=congestion)
    lab.establish()
    up, down = both_ways(lab, SEED)
    lab.run(lambda: arrived(lab), within=600)
    assert lab.server.log.received[2] == up
    assert lab.client.log.received[3] == down
    lab.settle()
    lab.check_nothing_left()


@pytest.mark.parametrize("seed", range(SEED, SEED + (20 if FULL else 4)))
def test_a_handshake_with_loss_loses_no_early_data(pairing: Pairing, seed: int) -> None:
    """Data of either side that is sent before the other side is ready."""
    lab = Lab(pairing, seed, Network(loss=0.2, jitter=0.02))
    given = {"client": False, "server": False}

    def done() -> bool:
        for name, end in lab.ends.items():
            if (
                end.quic is not None
                and not given[name]
                and (end.ready or pairing[name == "server"] != "aioquic")
            ):
                given[name] = True
                end.give(name.encode() * 300)
                lab.send(name)
        return arrived(lab)

    lab.run(done, within=60)
    assert lab.server.log.received[2] == b"client" * 300
    assert lab.client.log.received[3] == b"server" * 300
    lab.run(lambda: all(end.ready for end in lab.ends.values()))
    lab.settle()
    lab.check_nothing_left()
