"""Received packet numbers, and our ACK frames about them (RFC 9000, 13.2)."""

from __future__ import annotations

import random

import pytest

from relay.quic import errors
from relay.quic.acks import ACK_DELAY, MOST_RANGES, ReceivedPackets
from tests.quic.lab import Hand, frames_of, numbers, stream_frame

PING = b"\x01"


def ranges_of(received: ReceivedPackets, now: float = 0.0) -> list[tuple[int, int]]:
    ((_, _, ranges),) = frames_of(received.frame(now))
    return list(ranges)


def numbers_of(ranges: list[tuple[int, int]]) -> set[int]:
    return {number for low, high in ranges for number in range(low, high + 1)}


def test_frames_tell_what_was_received() -> None:
    for seed in range(200):
        dice = random.Random(seed)
        received = ReceivedPackets()
        model: set[int] = set()
        number = 0
        for _ in range(40):
            number = max(0, number + dice.choice([1, 1, 1, 1, 2, 2, -1, -3, 5]))
            assert received.is_duplicate(number) == (number in model)
            if number in model:
                continue
            if number == received.stop and dice.random() < 0.3:
                received.add_train(3, 0.0)
                model |= {number, number + 1, number + 2}
                number += 2
            else:
                received.add(number, 0.0, True)
                model.add(number)
            ranges = ranges_of(received)
            assert numbers_of(ranges) == model
            assert all(low > ranges[at + 1][1] + 1 for at, (low, _) in enumerate(ranges[:-1]))


def test_the_oldest_ranges_are_given_up() -> None:
    received = ReceivedPackets()
    for number in range(0, 400, 2):
        received.add(number, 0.0, True)
    ranges = ranges_of(received)
    assert len(ranges) == MOST_RANGES + 1
    assert ranges[0] == (398, 398)
    assert received.is_duplicate(11)  # below all ranges: given up
    assert not received.is_duplicate(397)


def test_what_the_peer_knows_is_forgotten() -> None:
    for seed in range(100):
        dice = random.Random(seed)
        received = ReceivedPackets()
        model: set[int] = set()
        floor = 0
        for step in range(150):
            number = dice.randrange(step + 3)
            if received.is_duplicate(number):
                assert number in model or number < floor
                continue
            assert number not in model
            received.add(number, 0.0, True)
            model.add(number)
            if dice.random() < 0.1:
                highest = dice.randrange(max(model) + 1)
                received.forget(highest)
                floor = max(floor, highest + 1)
            told = numbers_of(ranges_of(received))
            assert told >= {number for number in model if number >= floor}
            assert told <= model | set(range(floor))
            assert max(told) == max(model)


def test_everything_forgotten_and_another_packet() -> None:
    received = ReceivedPackets()
    for number in range(5):
        received.add(number, 0.0, True)
    received.forget(4)
    assert ranges_of(received) == [(4, 4)]
    received.add(5, 0.0, True)
    assert ranges_of(received) == [(5, 5)]
    received.add(8, 0.0, True)
    assert ranges_of(received) == [(8, 8), (5, 5)]
    received.forget(8)
    assert received.is_duplicate(7)
    assert ranges_of(received) == [(8, 8)]


def test_each_other_packet_is_acknowledged_at_once() -> None:
    hand = Hand().quiet()
    hand.wait(0.1)
    start = hand.number
    assert hand.say(PING + stream_frame(0, 0, b"a")) != []  # a ping asks for an answer
    assert hand.say(stream_frame(0, 1, b"b")) == []
    (packet,) = hand.say(stream_frame(0, 2, b"c"))
    assert packet.frames == [(errors.ACK, 0, ((0, start + 2),))]
    assert hand.say(stream_frame(0, 3, b"d")) == []
    began = hand.now
    (packet,) = hand.wait(1.0)
    delay = packet.frames[0][1] << 3
    assert delay == pytest.approx(ACK_DELAY * 1e6, abs=8)
    assert began + 1.0 == pytest.approx(hand.now)


def test_a_gap_is_reported_at_once_and_so_is_its_end() -> None:
    hand = Hand().quiet()
    hand.wait(0.1)
    at = hand.number
    (packet,) = hand.say(stream_frame(0, 2, b"c"), number=at + 2)
    assert packet.frames[0][2] == ((at + 2, at + 2), (0, at - 1))
    (packet,) = hand.say(stream_frame(0, 0, b"a"), number=at)
    assert packet.frames[0][2] == ((at + 2, at + 2), (0, at))
    (packet,) = hand.say(stream_frame(0, 1, b"b"), number=at + 1)
    assert packet.frames[0][2] == ((0, at + 2),)


@pytest.mark.parametrize("frame", [b"\0\0\0", numbers(2, 0, 0, 0, 0), numbers(3, 0, 0, 0, 0, 1, 2, 3)])
def test_packets_that_ask_for_none_get_none(frame: bytes) -> None:
    hand = Hand().quiet()
    hand.wait(0.1)
    for _ in range(10):
        assert hand.say(frame) == []
    assert hand.wait(1.0) == []
    sent = hand.say(PING)
    assert sent[0].frames[0][2] == ((0, hand.number - 1),)


def test_duplicates_are_dropped_unread() -> None:
    hand = Hand().quiet()
    packet = hand.seal(b"\x31\x01x")
    hand.deliver(packet, packet)
    hand.deliver(packet)
    assert hand.log.datagrams == [b"x"]


def test_acknowledgements_of_several_ranges_are_acknowledged_in_the_end() -> None:
    """Else they would be repeated for ever. A peer that only sends would never hear of it."""
    hand = Hand().quiet()
    pings = 0
    for number in range(60):
        sent = hand.say(PING, number=hand.number + (1 if number < 20 else 0))
        pings += len(hand.frames(errors.PING, sent))
        hand.now += 0.05
        hand.deliver(hand.seal(b"".join((numbers(2, hand.quic._number - 1, 0, 0, 0),))))
    assert pings >= 3
    assert pings < 30
    assert len(hand.quic.received.older) <= 20


def test_two_ends_do_not_acknowledge_each_other_for_ever() -> None:
    ends = [Hand(seed=1).quiet(), Hand(seed=2).quiet()]
    for hand in ends:
        for _ in range(5):
            hand.say(PING, number=hand.number + 1)
            hand.now += 0.05
            hand.ack()
        assert len(hand.quic.received.older) >= 1
    sent = 0
    for _ in range(100):
        for hand in ends:
            packets = hand.flush()
            if packets:
                sent += 1
                hand.now += 0.05
                hand.ack()
    assert sent < 10


def test_an_ack_goes_with_data() -> None:
    hand = Hand().quiet()
    hand.say(stream_frame(0, 0, b"question"))
    hand.log.streams[0].write([b"answer"])
    (packet,) = hand.flush()
    assert [frame[0] for frame in packet.frames] == [errors.ACK, errors.STREAM]
    assert all(not each.frames or each.frames[0][0] != errors.ACK for each in hand.wait(0.1))


def test_a_probe_repeats_what_may_be_lost() -> None:
    """Both ends may wait for each other after a silence of the network: our probe tells a sender what it has lost."""
    hand = Hand().quiet()
    hand.say(PING, PING)
    hand.quic.ping()
    hand.flush()
    probe, *_ = hand.wait(1.0)
    assert {errors.ACK, errors.PING} <= {frame[0] for frame in probe.frames}


def test_a_peer_asks_for_fewer_acknowledgements() -> None:
    received = ReceivedPackets()
    received.ask(1, 3, 0.005)
    received.ask(0, 1, 0.001)  # an older request, which came late
    received.add(0, 1.0, True)
    assert received.ack_at == pytest.approx(1.005)
    received.add(1, 1.001, True)
    assert received.ack_at == pytest.approx(1.005)
    received.add(2, 1.002, True)
    assert received.ack_at == 1.002
    received.frame(1.002)
    received.ask(2, 1, 1.0)
    received.add(3, 2.0, True)
    assert received.ack_at == 2.0
    received.frame(2.0)
    received.ask(3, 1 << 40, 10.0)
    assert received.every == 1_000
    assert received.delay == ACK_DELAY
