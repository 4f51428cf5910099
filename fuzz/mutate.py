"""Random mutation of inputs, for machines without atheris."""

from __future__ import annotations

import random
from collections.abc import Sequence

LONGEST = 2_048
INTERESTING = (0, 1, 2, 3, 6, 0x3F, 0x40, 0x41, 0x7F, 0x80, 0xBF, 0xC0, 0xFE, 0xFF)


def mutated(dice: random.Random, inputs: Sequence[bytes]) -> bytes:
    if not inputs or dice.random() < 0.05:
        return dice.randbytes(dice.randrange(200))
    data = bytearray(dice.choice(inputs))
    for _ in range(1 << dice.randrange(4)):
        at = dice.randrange(len(data) + 1)
        match dice.randrange(7):
            case 0:
                data[at : at + 1] = bytes((dice.randrange(256),))
            case 1:
                data[at : at + 1] = bytes((dice.choice(INTERESTING),))
            case 2:
                data[at:at] = dice.randbytes(dice.randrange(1, 9))
            case 3:
                del data[at : at + dice.randrange(1, 17)]
            case 4:
                other = dice.choice(inputs)
                begin = dice.randrange(len(other) + 1)
                data[at:at] = other[begin : begin + dice.randrange(1, 65)]
            case 5:
                data[at : at + 1] = bytes((data[at] ^ 1 << dice.randrange(8),)) if at < len(data) else b""
            case _:
                data[at:at] = data[at : at + dice.randrange(1, 33)]
    return bytes(data[:LONGEST])
