"""Transfers over networks that lose, reorder and repeat packets: every byte arrives, nothing stalls, nothing is left."""

from __future__ import annotations

import os
import random
from typing import Any

import pytest
from aioquic.quic.packet import QuicErrorCode

from tests.transport.lab import End, Lab, Network
from tests.transport.virtual import Pairing

SEEDS = range(
    int(os.environ.get("LAB_SEED", "0")),
    int(os.environ.get("LAB_SEED", "0")) + int(os.environ.get("LAB_SEEDS", "2")),
)
SIZE = int(os.environ.get("LAB_SIZE", "300000"))
"""Defaults for every run; use hundreds of seeds and 20 MB after a change of the packet loops."""

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


def give(end: End, stream_id: int, data: bytes, *, fin: bool = True) -> None:
    cut = len(data) // 3
    pieces = [data[:cut], data[cut:]]
    end.quic.write_stream(stream_id, pieces, fin=fin, order=(0, -stream_id))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("network", NETWORKS)
def test_a_transfer_both_ways(pairing: Pairing, network: str, seed: int) -> None:
    lab = Lab(pairing, seed, NETWORKS[network])
    lab.open()
    dice = random.Random(seed)
    up, down = dice.randbytes(SIZE), dice.randbytes(SIZE)
    give(lab.client, 2, up)
    give(lab.server, 3, down)
    lab.send("client")
    lab.send("server")
    lab.run(lambda: 2 in lab.server.finished and 3 in lab.client.finished, within=2000)
    assert lab.server.received[2] == up
    assert lab.client.received[3] == down
    if network == "good":  # packets sent together arrive together
        for end in (lab.client, lab.server):
            assert (end.in_trains > SIZE / 1500 / 2) == end.quic.fast
    lab.settle()
    lab.check_nothing_left()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("who", ["client", "server", "both"])
@pytest.mark.parametrize("network", ["good", "loss-1", "all", "drains"])
def test_key_updates(pairing: Pairing, network: str, who: str, seed: int) -> None:
    """A stall came from an update whose only packet was lost: the other side's old packets were unreadable."""
    lab = Lab(pairing, seed, NETWORKS[network])
    lab.open()
    payload = random.Random(seed).randbytes(SIZE)
    ends = [lab.client, lab.server] if who == "both" else [lab.ends[who]]
    giver = lab.server if who == "client" else lab.client  # the updating side only acknowledges
    taker = lab.client if giver is lab.server else lab.server
    stream_id = 3 if giver is lab.server else 2
    updates = 0
    give(giver, stream_id, payload)
    lab.send(giver.name)

    def done() -> bool:
        nonlocal updates
        if len(taker.received.get(stream_id, b"")) > (updates + 1) * SIZE // 6:
            updates += 1
            for end in ends:
                end.quic.request_key_update()
        return stream_id in taker.finished

    lab.run(done, within=600)
    assert taker.received[stream_id] == payload
    assert updates >= 3
    phases = {lab.client.quic._cryptos[epoch].recv.key_phase for epoch in lab.client.quic._cryptos}
    assert phases
    lab.settle()
    lab.check_nothing_left()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("network", ["good", "loss-5", "all", "drains", "narrow"])
def test_many_streams_with_resets(pairing: Pairing, network: str, seed: int) -> None:
    lab = Lab(pairing, seed, NETWORKS[network])
    lab.open()
    dice = random.Random(seed)
    contents: dict[int, bytes] = {}
    aborted: set[int] = set()
    for number in range(120):
        side = lab.client if number % 2 else lab.server
        stream_id = side.quic.get_next_available_stream_id(is_unidirectional=True)
        contents[stream_id] = dice.randbytes(dice.choice([0, 1, 160, 5000, 40_000]))
        give(side, stream_id, contents[stream_id])
        choice = dice.random()
        lab.send(side.name)
        lab.step(lab.now + 0.002)
        if choice < 0.15:
            side.quic.reset_stream(stream_id, 7)
            aborted.add(stream_id)
        elif choice < 0.3:
            other = lab.client if side is lab.server else lab.server
            try:
                other.quic.stop_stream(stream_id, 9)
            except ValueError:
                pass  # not arrived, or finished
            else:
                lab.send(other.name)
                aborted.add(stream_id)
        lab.send(side.name)

    def over(stream_id: int) -> bool:
        end = lab.server if stream_id & 1 == 0 else lab.client
        return stream_id in end.finished or stream_id in end.resets

    def done() -> bool:
        lab.send("client")
        lab.send("server")
        return all(over(stream_id) for stream_id in contents if stream_id not in aborted)

    lab.run(done, within=600)
    lab.settle()
    for stream_id, content in contents.items():
        end = lab.server if stream_id & 1 == 0 else lab.client
        got = bytes(end.received.get(stream_id, b""))
        if stream_id in end.finished:
            assert got == content
        else:
            assert stream_id in aborted
            assert content.startswith(got)
    lab.check_nothing_left()


@pytest.mark.parametrize("seed", SEEDS)
def test_small_windows(pairing: Pairing, seed: int) -> None:
    lab = Lab(pairing, seed, Network(loss=0.03), stream_window=20_000, connection_window=50_000)
    lab.open()
    dice = random.Random(seed)
    contents = {4 * number + 2: dice.randbytes(60_000) for number in range(10)}
    for stream_id, content in contents.items():
        give(lab.client, stream_id, content)
    lab.send("client")
    lab.run(lambda: lab.server.finished == set(contents), within=600)
    assert {key: bytes(value) for key, value in lab.server.received.items()} == contents
    lab.settle()
    lab.check_nothing_left()


@pytest.mark.parametrize("seed", SEEDS)
def test_datagrams_arrive_once(pairing: Pairing, seed: int) -> None:
    lab = Lab(pairing, seed, NETWORKS["all"])
    lab.open()
    sent = []
    for number in range(200):
        data = number.to_bytes(2, "big") * random.Random(seed + number).choice([1, 40, 500])
        sent.append(data)
        lab.client.quic.send_datagram_frame(data)
        lab.send("client")
        lab.step(lab.now + 0.005)
    lab.settle()
    assert len(set(lab.server.datagrams)) == len(lab.server.datagrams) > 150
    assert set(lab.server.datagrams) <= set(sent)
    lab.check_nothing_left()


def test_two_updates_in_a_row_wait_for_each_other(pairing: Pairing) -> None:
    """The peer's update and our own right after it looked like no update."""
    lab = Lab(pairing, 1, Network())
    lab.open()
    lab.settle(1.0)
    for _ in range(3):
        lab.client.quic.request_key_update()
        lab.client.quic.send_ping(1)
        lab.send("client")
        for _ in range(2):
            lab.server.quic.request_key_update()
            lab.step(lab.now + 1.0)
            lab.server.quic.request_key_update()
            lab.server.quic.send_ping(1)
            lab.send("server")
    give(lab.client, 2, bytes(50_000))
    give(lab.server, 3, bytes(50_000))
    lab.send("client")
    lab.send("server")
    lab.run(lambda: 2 in lab.server.finished and 3 in lab.client.finished)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_client_whose_address_changes(pairing: Pairing, seed: int) -> None:
    lab = Lab(pairing, seed, Network(loss=0.01))
    lab.open()
    dice = random.Random(seed)
    up, down = dice.randbytes(SIZE), dice.randbytes(SIZE)
    give(lab.client, 2, up)
    give(lab.server, 3, down)
    lab.send("client")
    lab.send("server")
    for port in (2000, 3000):
        for _ in range(40):
            lab.step(lab.now + 1)
        lab.addresses["client"] = ("192.0.2.1", port)
        lab.client.quic.send_ping(1)
        lab.send("client")
        path = lab.server.quic._network_paths[0]
        lab.run(lambda path=path: lab.server.quic._network_paths[0] is not path, within=60)
        # Until it is validated, the new address gets three times its bytes (RFC 9000, 8).
        while not (path := lab.server.quic._network_paths[0]).is_validated:
            assert path.bytes_sent <= 3 * path.bytes_received
            lab.step(lab.now + 1)
    lab.run(lambda: 2 in lab.server.finished and 3 in lab.client.finished, within=600)
    assert lab.server.received[2] == up
    assert lab.client.received[3] == down
    lab.settle()
    lab.check_nothing_left()


def test_an_ack_of_nothing_closes() -> None:
    lab = Lab(("fast", "fast"), 1, Network())
    lab.open()
    lab.settle(1.0)
    quic: Any = lab.client.quic
    quic._frames.append((b"\x02\x7f\xff\x00\x00\x00", None, ()))
    lab.send("client")
    while lab.step(lab.now + 1.0):
        pass
    assert lab.server.quic._close_event is not None
    assert lab.server.quic._close_event.error_code == QuicErrorCode.PROTOCOL_VIOLATION
    assert lab.client.quic._close_event is not None


@pytest.mark.parametrize(
    "frame, code",
    [
        (b"\x0a\x00\x7f\xff", QuicErrorCode.FRAME_ENCODING_ERROR),  # longer than its packet
        (b"\x08\x01", QuicErrorCode.STREAM_STATE_ERROR),  # never opened by the server
        (b"\x08\x03x", QuicErrorCode.STREAM_STATE_ERROR),  # only the server sends there
        (b"\x0c\x00\x80\x7f\xff\xffx", QuicErrorCode.FLOW_CONTROL_ERROR),
        (b"\x08\x80\x0f\xff\xf8x", QuicErrorCode.STREAM_LIMIT_ERROR),
        (b"\x31\x40\xffx", QuicErrorCode.FRAME_ENCODING_ERROR),
        (b"\x02\x00\x00\x00\x05", QuicErrorCode.FRAME_ENCODING_ERROR),  # below packet 0
        (b"\x40\x7f", QuicErrorCode.FRAME_ENCODING_ERROR),
    ],
)
def test_errors_close(frame: bytes, code: int) -> None:
    lab = Lab(("fast", "fast"), 1, Network())
    lab.open()
    lab.settle(1.0)
    quic: Any = lab.client.quic
    quic._frames.append((frame, None, ()))
    lab.send("client")
    while lab.step(lab.now + 1.0):
        pass
    close = lab.server.quic._close_event
    assert close is not None
    assert close.error_code == code
