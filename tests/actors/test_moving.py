"""The numbers of groups after a subscription has moved."""

from __future__ import annotations

import pytest

from relay.actors import messages as m
from relay.actors.moving import MOST_REPEATED, Move
from relay.wire.varint import MAX_VARINT


def numbers(move: Move, *sequences: int) -> list[int]:
    pieces = tuple(m.GroupPiece(sequence, True, 0, (b"x",), True, None) for sequence in sequences)
    return [piece.sequence for piece in move.pieces(pieces)]


@pytest.mark.parametrize(
    ("floor", "shift", "arriving", "seen"),
    [
        (10, 0, (9, 10, 11), [10, 11]),  # the same numbers: what was sent is not sent again
        (10, 0, (12, 13), [12, 13]),  # what was missed stays missed
        (10, None, (0, 1, 2), [10, 11, 12]),  # a publisher that counts from nought
        (10, None, (50, 51), [50, 51]),
        (10, 5, (4, 5, 6), [10, 11]),  # a shift that is known already
        (10 + MOST_REPEATED, 0, (10, 11), []),  # behind, but not by much: it will catch up
        (11 + MOST_REPEATED, 0, (10, 11), [11 + MOST_REPEATED, 12 + MOST_REPEATED]),
        (769, 300, (30, 31), [769, 770]),  # the relay that was lost had numbered the groups anew
        (10, 0, (10, 1, 11), [10, 11]),  # once it goes on, an old one that comes late is old
        (10, None, (MAX_VARINT - 1, MAX_VARINT), [MAX_VARINT - 1]),
    ],
)
def test_numbers_go_on_rising(
    floor: int, shift: int | None, arriving: tuple[int, ...], seen: list[int]
) -> None:
    assert numbers(Move(floor, shift), *arriving) == seen
