"""Stateless reset: tokens belong to connection ids and a secret; answers are small and look like packets."""

from __future__ import annotations

import random

import pytest
from aioquic.quic.connection import QuicConnection

from relay.quic.reset_tokens import LONGEST, SHORTEST, TOKEN, ResetTokens
from tests.quic.handshaking import CLIENT, SERVER, Line, plain_client, server
from tests.quic.lab import PEER_TOKEN, Hand


def tokens(secret: bytes = bytes(32), seed: int = 1) -> ResetTokens:
    return ResetTokens(secret, random.Random(seed))


def test_a_token_belongs_to_an_id_and_a_secret() -> None:
    first = tokens().token_of(b"12345678")
    assert len(first) == TOKEN
    assert first == tokens(seed=2).token_of(b"12345678")  # after a restart
    assert len({first, tokens().token_of(b"12345679"), tokens(b"\1" * 32).token_of(b"12345678")}) == 3


def test_the_token_in_the_transport_parameters_is_the_answer() -> None:
    """What the peer was told in the handshake ends the reset that it gets after a restart."""
    ours = tokens()
    quic = plain_client()
    end = server(quic.original_destination_connection_id)
    end._host_cids[0].stateless_reset_token = ours.token_of(end.host_cid)
    line = Line((quic, end))
    line.run()
    quic.send_ping(1)
    [(packet, _)] = quic.datagrams_to_send(line.now)
    answer = tokens(seed=9).answer(packet, 8)
    assert answer is not None
    assert answer.endswith(quic._peer_cid.stateless_reset_token)
    assert isinstance(quic, QuicConnection)
    assert (line.server.get_peer_address(), quic.get_peer_address()) == (CLIENT, SERVER)


def test_answers_shrink() -> None:
    """Two ends without state do not answer each other for ever."""
    ours = tokens()
    for size in range(1500):
        packet = bytes((0x41,)) + bytes(size)
        count = 0
        while (answer := ours.answer(packet, 8)) is not None:
            assert SHORTEST <= len(answer) <= LONGEST
            assert len(answer) < len(packet)
            assert answer[0] & 0xC0 == 0x40
            assert answer.endswith(ours.token_of(packet[1:9]))
            packet = answer
            count += 1
        assert (count > 0) == (size >= SHORTEST)


def test_no_answer_to_long_headers() -> None:
    assert tokens().answer(b"\xc0" + bytes(1200), 8) is None
    assert tokens().answer(b"", 8) is None


def test_answers_differ() -> None:
    ours = tokens()
    packet = b"\x41" + bytes(100)
    answers = {ours.answer(packet, 8) for _ in range(100)}
    assert len(answers) == 100
    first_bytes = {answer[0] for answer in answers if answer is not None}
    assert len(first_bytes) > 20


def test_recognition() -> None:
    hand = Hand(is_client=True).quiet()
    hand.deliver(b"\x41" + bytes(3) + PEER_TOKEN)  # shorter than any packet
    hand.deliver(b"\x41" + bytes(40), b"\x41" + bytes(4) + PEER_TOKEN[:-1] + b"?")
    assert hand.close is None
    hand.deliver(b"\x41" + bytes(4) + PEER_TOKEN)
    assert hand.close is not None
    assert hand.close.reset
    assert hand.flush() == hand.say(b"\1") == []


def test_short_secrets_are_refused() -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        tokens(b"short")
