"""The write queue in front of aioquic: nothing is lost, the order is kept."""

from __future__ import annotations

import random

from relay.quic.write_queue import WriteQueue


def test_what_is_taken_is_what_was_added() -> None:
    dice = random.Random(1)
    for _ in range(200):
        chunks = [dice.randbytes(dice.choice([0, 1, 10, 1000])) for _ in range(dice.randint(1, 6))]
        holding = WriteQueue()
        holding.add(3, chunks[:2], fin=False, order=(1, 0))
        holding.add(3, chunks[2:], fin=True, order=(1, 0))
        held = holding.get(3)
        assert held is not None
        assert held.fin
        found = b""
        while held.size:
            found += held.take(dice.randint(1, held.size))
        assert found == b"".join(chunks)


def test_the_most_urgent_comes_first() -> None:
    holding = WriteQueue()
    for stream_id, order in ((3, (1, 0)), (7, (3, 0)), (11, (2, 0)), (15, (2, 5))):
        holding.add(stream_id, [b"x"], fin=False, order=order)
    assert [held.stream_id for held in holding.urgent()] == [7, 15, 11, 3]
    holding.prioritize(3, (9, 0))
    holding.prioritize(19, (9, 0))  # no writes left
    holding.drop(7)
    assert [held.stream_id for held in holding.urgent()] == [3, 15, 11]
    holding.clear()
    assert not holding
    assert holding.get(3) is None
