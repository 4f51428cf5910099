"""Connection ids of both ends (RFC 9000, 5.1)."""

from __future__ import annotations

import random

import pytest

from relay.quic import errors
from relay.quic.cids import MOST_RETIRED, OURS, THEIRS, HostCids, PeerCids
from relay.quic.errors import QuicError
from tests.quic.handshaking import token_of
from tests.quic.lab import HOST_CID, PEER_CID, Hand, generous, new_cid, numbers, stream_frame

FIRST = (PEER_CID, b"t" * 16)


def host(wanted: int = 8, first: bytes = HOST_CID) -> HostCids:
    return HostCids(first, wanted, random.Random(1), token_of)


def peer() -> PeerCids:
    return PeerCids(*FIRST)


def cid(number: int) -> bytes:
    return b"peer%04d" % number


def token(number: int) -> bytes:
    return b"token%011d" % number


# -- ours


@pytest.mark.parametrize("limit, active", [(2, 2), (3, 3), (8, OURS), (100, OURS)])
def test_as_many_as_the_peer_takes(limit: int, active: int) -> None:
    cids = host(limit)
    issued = cids.issue()
    assert [number for number, _ in issued] == list(range(1, active))
    assert len(set(cids.all())) == active
    assert cids.added == cids.all()[1:]
    assert cids.issue() == []


def test_frames_carry_ids_and_tokens() -> None:
    hand = Hand()
    frames = hand.frames(errors.NEW_CONNECTION_ID, hand.flush())
    assert [frame[1] for frame in frames] == [1, 2, 3]
    assert [frame[3] for frame in frames] == hand.quic.host_cids.all()[1:]
    assert all(frame[2] == 0 and frame[4] == token_of(frame[3]) for frame in frames)
    assert all(len(frame[3]) == len(HOST_CID) for frame in frames)


def test_an_empty_id_is_the_only_one() -> None:
    cids = host(first=b"")
    assert cids.issue() == []


def test_retired_ids_are_replaced() -> None:
    hand = Hand().quiet()
    old = hand.quic.host_cids.all()[2]
    hand.quic.host_cids.added.clear()
    sent = hand.say(numbers(0x19, 2))
    (frame,) = hand.frames(errors.NEW_CONNECTION_ID, sent)
    assert frame[1] == OURS
    assert hand.quic.host_cids.removed == [old]
    assert hand.quic.host_cids.added == [frame[3]]
    assert hand.frames(errors.NEW_CONNECTION_ID, hand.say(numbers(0x19, 2))) == []  # repeated


def test_the_first_id_may_be_retired_from_another() -> None:
    hand = Hand().quiet()
    hand.cid = hand.quic.host_cids.all()[1]
    hand.say(numbers(0x19, 0))
    assert hand.close is None
    assert HOST_CID not in hand.quic.host_cids.all()


def test_the_id_of_the_very_packet_may_not() -> None:
    hand = Hand().quiet()
    hand.say(numbers(0x19, 0))
    assert hand.close is not None
    assert (hand.close.code, hand.close.frame_type) == (errors.PROTOCOL_VIOLATION, 0x19)


def test_nor_one_never_issued() -> None:
    hand = Hand().quiet()
    hand.say(numbers(0x19, OURS))
    assert hand.close is not None
    assert hand.close.code == errors.PROTOCOL_VIOLATION


def test_a_lost_id_is_sent_again_unless_it_is_retired() -> None:
    hand = Hand()
    first = hand.flush()[0].number
    for _ in range(3):
        hand.quic.ping()
        hand.flush()
    hand.deliver(hand.seal(numbers(0x19, 2)))
    hand.now += 0.1
    hand.deliver(hand.seal(numbers(2, first + 3, 0, 0, 2)))
    issued = [frame[1] for frame in hand.frames(errors.NEW_CONNECTION_ID, hand.flush())]
    assert sorted(issued) == [1, 3, 4]


def test_ids_retired_unsent_do_not_pile_up() -> None:
    """By a peer that acknowledges nothing, so that nothing more may be sent."""
    hand = Hand()
    routes = set(hand.quic.host_cids.all())
    for _ in range(1500):
        hand.now += 0.001
        number = max(each for each in range(2000) if hand.quic.host_cids.knows(each))
        if number == 0:
            hand.flush()
            continue
        hand.deliver(hand.seal(numbers(0x19, number)))
        hand.quic.flush(hand.now)
        routes |= set(hand.quic.host_cids.added)
        routes -= set(hand.quic.host_cids.removed)
        hand.quic.host_cids.added.clear()
        hand.quic.host_cids.removed.clear()
    assert hand.close is None
    assert len(hand.quic._frames) <= 2 * OURS
    assert set(hand.quic.host_cids.all()) == routes


# -- the peer's


def test_ids_are_kept_until_a_path_takes_them() -> None:
    cids = peer()
    for number in (3, 1, 2):
        cids.add(number, 0, cid(number), token(number))
    assert [cids.take() for _ in range(4)] == [(1, cid(1)), (2, cid(2)), (3, cid(3)), (-1, b"")]


def test_tokens_hold_only_for_ids_in_use() -> None:
    """RFC 9000, 10.3.1."""
    cids = peer()
    cids.add(1, 0, cid(1), token(1))
    assert cids.tokens == {FIRST[1]}
    cids.take()
    assert cids.tokens == {FIRST[1], token(1)}
    cids.retire_old([1])
    assert cids.tokens == {token(1)}
    assert cids.retired == [0]


def test_the_peer_wants_old_ids_retired() -> None:
    cids = peer()
    for number in range(1, 5):
        cids.add(number, 0, cid(number), token(number))
    cids.add(5, 3, cid(5), token(5))
    assert cids.take() == (3, cid(3))
    cids.retire_old([3])
    assert sorted(cids.retired) == [0, 1, 2]
    cids.retired.clear()
    cids.add(2, 0, cid(2), token(2))  # late: retired at once, and told once
    cids.add(2, 0, cid(2), token(2))
    assert cids.retired == []
    cids.retiring.clear()  # acknowledged
    cids.add(2, 0, cid(2), token(2))
    assert cids.retired == [2]


def test_an_id_in_use_is_kept_until_there_is_another() -> None:
    cids = peer()
    cids.prior = 1
    cids.retire_old([0])
    assert cids.retired == []


@pytest.mark.parametrize(
    "arguments, code",
    [
        ((1, 2, b"x" * 8, token(1)), errors.FRAME_ENCODING_ERROR),
        ((1, 0, b"", token(1)), errors.FRAME_ENCODING_ERROR),
        ((1, 0, b"x" * 21, token(1)), errors.FRAME_ENCODING_ERROR),
        ((9, 0, cid(7), token(9)), errors.PROTOCOL_VIOLATION),  # an id of another number
        ((7, 0, cid(9), token(7)), errors.PROTOCOL_VIOLATION),  # a number of another id
        ((7, 0, cid(7), token(8)), errors.PROTOCOL_VIOLATION),  # with another token
        ((0, 0, cid(9), token(7)), errors.PROTOCOL_VIOLATION),
    ],
)
def test_frames_that_cannot_be(arguments: tuple[int, int, bytes, bytes], code: int) -> None:
    cids = peer()
    cids.add(7, 0, cid(7), token(7))
    cids.add(7, 0, cid(7), token(7))
    with pytest.raises(QuicError) as caught:
        cids.add(*arguments)
    assert caught.value.code == code


def test_ids_beside_an_empty_one() -> None:
    with pytest.raises(QuicError) as caught:
        PeerCids(b"", b"").add(1, 0, cid(1), token(1))
    assert caught.value.code == errors.PROTOCOL_VIOLATION


def test_too_many_ids() -> None:
    hand = Hand().quiet()
    for number in range(1, THEIRS):
        hand.say(new_cid(number))
    assert hand.close is None
    hand.say(new_cid(THEIRS + 1, 2))  # takes the place of two
    assert hand.close is None
    hand.say(new_cid(THEIRS + 2), new_cid(THEIRS + 3))
    assert hand.close is not None
    assert hand.close.code == errors.CONNECTION_ID_LIMIT_ERROR


def test_our_packets_leave_retired_ids() -> None:
    hand = Hand().quiet()
    sent = hand.say(new_cid(1, 1))
    assert sent[0].cid == b"cid00001"
    assert hand.frames(errors.RETIRE_CONNECTION_ID, sent) == [(errors.RETIRE_CONNECTION_ID, 0)]
    number = sent[0].number
    for _ in range(3):
        hand.quic.ping()
        hand.flush()
    hand.now += 0.1
    sent = hand.ack((number + 1, number + 3))
    assert hand.frames(errors.RETIRE_CONNECTION_ID, sent) == [(errors.RETIRE_CONNECTION_ID, 0)]  # it was lost


def test_a_peer_that_renews_its_ids_for_ever() -> None:
    hand = Hand().quiet()
    for number in range(1, 3000, 2):
        hand.say(new_cid(number, number))
        hand.now += 0.1
        hand.ack()
        assert hand.quic.path.cid == b"cid%05d" % number
    assert hand.close is None
    cids = hand.quic.peer_cids
    assert len(cids._known) == 1
    assert len(cids._gone) <= 1
    assert not cids.retiring
    assert len(cids.tokens) == 1


def test_a_peer_that_never_hears_of_retired_ids() -> None:
    """Each costs memory (RFC 9000, 5.1.2)."""
    hand = Hand().quiet()
    for number in range(1, 10 * MOST_RETIRED):
        hand.deliver(hand.seal(new_cid(number, number)))
        hand.quic.flush(hand.now)
        if hand.close is not None:
            break
    assert hand.close is not None
    assert hand.close.code == errors.CONNECTION_ID_LIMIT_ERROR
    assert number <= 2 * MOST_RETIRED


def test_the_peer_may_use_another_id_at_any_time() -> None:
    """Its trains are still read as such."""
    hand = Hand(peer=generous()).quiet()
    hand.cid = hand.quic.host_cids.all()[2]
    hand.deliver(hand.seal(stream_frame(2, 0, b"x" * 100)))
    train = [hand.seal(stream_frame(2, 100 * number, b"x" * 100)) for number in range(1, 5)]
    taken = hand.quic.receive_train(memoryview(b"".join(train)), len(train[0]), hand.address, hand.now)
    assert taken == 4
    hand.deliver(hand.seal(stream_frame(2, 500, b"x" * 100)))
    assert len(hand.log.received[2]) == 600
