"""Network paths of a server's peer: rebinding, migration, probing, validation and its limits (RFC 9000, 8 and 9)."""

from __future__ import annotations

import random
from typing import Any

import pytest

from relay.quic import errors
from relay.quic.connection import CLOSED, OPEN
from relay.quic.paths import AMPLIFICATION, MOST_PATHS, MOST_RESPONSES, TRIES
from tests.quic.handshaking import CLIENT
from tests.quic.lab import Hand, Packet, generous, new_cid, numbers, stream_frame

PORT = (CLIENT[0], 2000)  # as after the rebinding of a NAT
NETWORK = ("198.51.100.7", 3000)
PING, PADDING = b"\x01", bytes(3)


def challenge(data: bytes = b"12345678") -> bytes:
    return b"\x1a" + data


def response(frame: Any) -> bytes:
    return b"\x1b" + bytes(frame[1])


def challenges(hand: Hand, packets: list[Packet]) -> list[tuple[Any, ...]]:
    return hand.frames(errors.PATH_CHALLENGE, packets)


def challenged(hand: Hand, packets: list[Packet]) -> list[Packet]:
    return [packet for packet in packets if challenges(hand, [packet])]


def move(hand: Hand, address: Any = PORT, *, cid: bytes = b"", size: int = 1300) -> list[Packet]:
    """A packet of the peer from another address, large enough for answers. Returns what is sent there."""
    sent = hand.say(PING + bytes(size), address=address, cid=cid)
    return [packet for packet in sent if packet.address == address]


# -- moving


@pytest.mark.parametrize("address", [PORT, NETWORK])
def test_a_moved_peer_is_followed_and_validated(address: Any) -> None:
    hand = Hand().quiet()
    sent = move(hand, address)
    assert {packet.address for packet in sent} == {address}
    (frame,) = challenges(hand, sent)
    probe = next(packet for packet in sent if frame in packet.frames)
    assert probe.size == 1200
    assert not hand.quic.path.validated
    hand.say(response(frame), address=address)
    assert hand.quic.path.validated
    assert hand.quic._other_paths == []
    hand.address = address
    hand.quic.ping()
    assert hand.flush()[0].address == address


def test_the_address_that_was_left_is_asked_once() -> None:
    """A peer that has not moved answers, and comes back (RFC 9000, 9.3.3)."""
    hand = Hand().quiet()
    sent = hand.say(PING, bytes(1300), address=PORT)
    (asked,) = [packet for packet in sent if packet.address == CLIENT]
    assert asked.size == 1200
    ((kind, data),) = asked.frames
    assert kind == errors.PATH_CHALLENGE
    hand.say(b"\x1b" + bytes(data))  # a probing packet
    assert hand.quic.path.address == PORT
    sent = hand.say(PING)
    assert hand.quic.path.address == CLIENT
    assert hand.quic.path.validated
    assert not any(packet.address == CLIENT for packet in challenged(hand, sent))


def test_a_peer_that_is_taken_for_moved_comes_back() -> None:
    """It sends more than a probing packet (RFC 9000, 9.3.3)."""
    hand = Hand().quiet()
    sent = hand.say(challenge())
    frames = [frame for packet in sent for frame in packet.frames]
    assert (errors.PATH_RESPONSE, b"12345678") in frames
    assert any(frame[0] == errors.PING for frame in frames)


def test_a_new_port_keeps_the_window_and_a_new_network_does_not() -> None:
    """RFC 9000, 9.4."""
    for address, kept in ((PORT, True), (NETWORK, False)):
        hand = Hand(rtt=0.3).quiet()
        hand.quic.recovery.congestion.window = 100_000
        rtt = hand.quic.recovery.rtt
        move(hand, address)
        assert (hand.quic.recovery.congestion.window == 100_000) == kept
        assert (hand.quic.recovery.rtt == rtt) == kept


def test_a_migration_to_a_new_id_takes_a_new_id() -> None:
    """Else both addresses could be linked (RFC 9000, 9.5)."""
    hand = Hand().quiet()
    hand.say(new_cid(1), new_cid(2))
    fresh = hand.quic.host_cids.all()[1]
    sent = move(hand, NETWORK, cid=fresh)
    assert {packet.cid for packet in sent} == {b"cid00001"}
    (frame,) = challenges(hand, sent)
    sent = hand.say(response(frame), address=NETWORK, cid=fresh)
    assert hand.frames(errors.RETIRE_CONNECTION_ID, sent) == [(errors.RETIRE_CONNECTION_ID, 0)]


def test_a_rebinding_keeps_the_id() -> None:
    hand = Hand().quiet()
    hand.say(new_cid(1))
    cid = hand.quic.path.cid
    assert {packet.cid for packet in move(hand)} == {cid}


def test_a_migration_without_a_spare_id_keeps_the_old_one() -> None:
    hand = Hand().quiet()
    cid = hand.quic.path.cid
    sent = move(hand, NETWORK, cid=hand.quic.host_cids.all()[1])
    assert {packet.cid for packet in sent} == {cid}


def test_an_old_packet_does_not_move_the_connection() -> None:
    hand = Hand().quiet()
    late = hand.seal(PING)
    hand.say(PING)
    hand.deliver(late, address=PORT)
    assert hand.quic.path.address == CLIENT
    assert not challenges(hand, hand.flush())


def test_a_packet_that_does_not_authenticate_makes_no_path() -> None:
    hand = Hand().quiet()
    data = bytearray(hand.seal(PING, bytes(50)))
    data[-1] ^= 1
    hand.deliver(bytes(data), address=PORT)
    assert hand.quic._other_paths == []
    duplicate = hand.seal(PING)
    hand.deliver(duplicate)
    hand.deliver(duplicate, address=PORT)
    assert hand.quic._other_paths == []


def test_a_client_stays_with_its_servers_address() -> None:
    hand = Hand(is_client=True)
    hand.say(b"\x1e\0\0")
    hand.deliver(hand.seal(b"\x31\x01x"), address=PORT)
    assert hand.log.datagrams == []
    assert hand.quic._other_paths == []


def test_a_train_from_another_address_is_read_packet_by_packet() -> None:
    hand = Hand().quiet()
    train = [hand.seal(stream_frame(2, 100 * number, b"x" * 100)) for number in range(4)]
    buffer = memoryview(b"".join(train))
    assert hand.quic.receive_train(buffer, len(train[0]), PORT, hand.now) == 0
    hand.deliver(train[0], address=PORT)
    # Unvalidated: each byte counts.
    assert hand.quic.receive_train(buffer[len(train[0]) :], len(train[0]), PORT, hand.now) == 0


# -- probing


@pytest.mark.parametrize("frame", [challenge(), new_cid(1), b"\x1b12345678", PADDING])
def test_probing_packets_do_not_move_the_connection(frame: bytes) -> None:
    hand = Hand().quiet()
    sent = hand.say(frame, PADDING, address=PORT)
    assert hand.quic.path.address == CLIENT
    assert all(packet.address == CLIENT or packet.frames[0][0] == errors.PATH_RESPONSE for packet in sent)


@pytest.mark.parametrize(
    "frame", [PING, numbers(0x10, 5), numbers(2, 0, 0, 0, 0), b"\x31\x01x", stream_frame(0, 0, b"x")]
)
def test_all_others_do(frame: bytes) -> None:
    hand = Hand().quiet()
    hand.say(frame, address=PORT)
    assert hand.quic.path.address == PORT


def test_a_challenge_is_answered_on_its_path() -> None:
    hand = Hand().quiet()
    sent = hand.say(challenge(b"abcdefgh"), bytes(1100), address=PORT)
    (packet,) = [each for each in sent if each.address == PORT]
    assert packet.frames == [(errors.PATH_RESPONSE, b"abcdefgh")]
    assert packet.size == 1200
    sent = hand.say(challenge(b"hgfedcba"))
    assert sent[0].address == CLIENT
    assert sent[0].frames == [(errors.PATH_RESPONSE, b"hgfedcba")]


def test_a_flood_of_challenges() -> None:
    hand = Hand().quiet()
    hand.deliver(*[hand.seal(challenge(b"%08d" % number)) for number in range(200)])
    found = hand.frames(errors.PATH_RESPONSE, hand.flush())
    assert found == [(errors.PATH_RESPONSE, b"%08d" % number) for number in range(200 - MOST_RESPONSES, 200)]


def address_of(number: int) -> Any:
    return ("203.0.113.1", 1000 + number)


def test_a_flood_from_many_addresses() -> None:
    hand = Hand().quiet()
    received = 0
    for number in range(100):
        data = hand.seal(challenge(), bytes(300))
        received += len(data)
        hand.deliver(data, address=address_of(number))
        hand.flush()
        assert len(hand.quic._other_paths) <= MOST_PATHS
    assert sum(packet.size for packet in hand.heard if packet.address != CLIENT) <= AMPLIFICATION * received
    assert hand.quic.path.address == CLIENT


def test_a_peer_that_moves_all_the_time_keeps_a_way_back() -> None:
    """The validated address is not pushed out by those that are not."""
    hand = Hand().quiet()
    for number in range(3 * MOST_PATHS):
        move(hand, address_of(number))
    assert any(path.address == CLIENT and path.validated for path in hand.quic._other_paths)
    hand.wait(5.0)
    assert hand.quic.path.address == CLIENT
    assert hand.quic.state == OPEN


def test_ids_of_paths_that_were_left_are_retired() -> None:
    hand = Hand().quiet()
    for number in range(1, 30):
        hand.say(new_cid(number))
        old = hand.cid
        hand.cid = hand.quic.host_cids.all()[-1]
        hand.address = address_of(number)
        sent = move(hand, hand.address)
        assert {packet.cid for packet in sent} == {b"cid%05d" % number}
        sent = hand.say(response(challenges(hand, sent)[0]))
        assert hand.frames(errors.RETIRE_CONNECTION_ID, sent) == [(errors.RETIRE_CONNECTION_ID, number - 1)]
        hand.now += 0.1
        hand.ack()
        # And the peer retires the one that it has left.
        gone = next(each for each, cid in hand.quic.host_cids._by_number.items() if cid == old)
        assert len(hand.frames(errors.NEW_CONNECTION_ID, hand.say(numbers(0x19, gone)))) == 1
    assert hand.close is None
    assert len(hand.quic.peer_cids._known) == 1
    assert not hand.quic.peer_cids.retiring


# -- the limit for addresses not yet validated


def test_an_unvalidated_address_gets_three_times_its_bytes() -> None:
    for seed in range(30):
        dice = random.Random(seed)
        hand = Hand(seed=seed, peer=generous(max_stream_data_uni=1 << 24)).quiet()
        hand.quic.open_stream(0, unidirectional=True).write([bytes(1_000_000)])
        received = sent = 0
        for _ in range(60):
            if not received or dice.random() < 0.5:
                data = hand.seal(PING + bytes(dice.randrange(1200)))
                received += len(data)
                hand.deliver(data, address=PORT)
            sent += sum(packet.size for packet in hand.flush() if packet.address == PORT)
            sent += sum(packet.size for packet in hand.wait(dice.random() * 0.02) if packet.address == PORT)
            assert sent <= AMPLIFICATION * received
            if hand.quic.path.address == CLIENT:
                break
        assert sent


def test_timers_rest_while_nothing_may_be_sent() -> None:
    """An ACK or a probe that is due, and no credit for either, must not spin."""
    hand = Hand().quiet()
    hand.quic.open_stream(0, unidirectional=True).write([bytes(100_000)])
    hand.flush()
    hand.say(PING, PING, address=PORT)
    hand.wait(0.2)  # asserts that time passes
    assert hand.quic.path.address == PORT
    assert hand.quic.probe_at() < 0
    move(hand, PORT)
    assert hand.quic.probe_at() >= 0


def test_a_close_keeps_the_limit() -> None:
    hand = Hand().quiet()
    hand.say(PING, address=PORT)
    spent = hand.quic.path.sent
    hand.quic.close(0, "x" * 500)
    sent = hand.flush()
    assert spent + sum(packet.size for packet in sent) <= AMPLIFICATION * hand.quic.path.received


# -- validation


def test_a_challenge_is_repeated_and_given_up() -> None:
    hand = Hand().quiet()
    sent = move(hand) + move(hand) + move(hand)
    timeout = 3 * hand.quic.recovery.probe_timeout()
    sent += hand.wait(2.5 * timeout)
    sent += hand.wait(20 * timeout)
    found = challenges(hand, [packet for packet in sent if packet.address == PORT])
    assert len(found) == TRIES
    assert len(set(found)) == TRIES
    assert hand.quic.path.address == CLIENT  # the last validated address
    assert hand.quic.path.validated
    assert hand.quic._other_paths == []
    assert hand.quic.state == OPEN
    hand.quic.ping()
    assert hand.flush()[0].address == CLIENT


def test_without_a_way_back_the_connection_ends_silently() -> None:
    """RFC 9000, 9.3.2."""
    hand = Hand().quiet()
    sent = move(hand)
    (frame,) = challenges(hand, sent)
    hand.say(response(frame), address=PORT)
    move(hand, NETWORK)
    hand.quic._other_paths.clear()
    sent = hand.wait(29.0)
    assert hand.quic.state == CLOSED
    assert hand.close is not None
    assert hand.close.idle
    assert hand.frames(errors.TRANSPORT_CLOSE, sent) == []
    assert hand.log.close_event is hand.close


def test_a_wrong_response_validates_nothing() -> None:
    hand = Hand().quiet()
    move(hand)
    hand.say(b"\x1b\0\0\0\0\0\0\0\0", address=PORT)
    hand.say(b"\x1b" + hand.quic.path.challenge[::-1], address=PORT)
    assert not hand.quic.path.validated
    assert hand.close is None


def test_a_response_from_another_address_counts() -> None:
    """RFC 9000, 8.2.3: the path of the challenge is validated."""
    hand = Hand().quiet()
    (frame,) = challenges(hand, move(hand))
    hand.say(response(frame), address=NETWORK)
    assert hand.quic.path.address == PORT
    assert hand.quic.path.validated


def test_a_response_that_moves_again() -> None:
    """One packet validates the present path, and comes from another one."""
    hand = Hand().quiet()
    hand.say(new_cid(1), new_cid(2))
    (frame,) = challenges(hand, move(hand))
    sent = hand.say(response(frame), PING, bytes(1200), address=NETWORK, cid=hand.quic.host_cids.all()[1])
    assert hand.quic.path.address == NETWORK
    assert not hand.quic.path.validated
    assert {packet.address for packet in sent} == {NETWORK, PORT}
    assert challenges(hand, sent)
    assert hand.close is None
    assert any(path.address == PORT for path in hand.quic._other_paths)


def test_back_to_the_old_address() -> None:
    hand = Hand().quiet()
    move(hand)
    hand.say(PING)
    assert hand.quic.path.address == CLIENT
    assert hand.quic.path.validated
    hand.wait(15.0)
    assert hand.quic.path.address == CLIENT
    assert hand.quic._other_paths == []
    assert hand.quic.state == OPEN


def test_validation_survives_loss() -> None:
    """The answer to any of the challenges, in the order of the last one."""
    hand = Hand().quiet()
    move(hand)
    move(hand)
    sent = hand.wait(3.5 * hand.quic.recovery.probe_timeout())
    frames = challenges(hand, sent)
    assert len(frames) == 1
    hand.say(response(frames[-1]), address=PORT)
    assert hand.quic.path.validated
