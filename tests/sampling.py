"""How often a rule is tested: daily with a fixed sample of the combinations, with all by `make test-full`."""

from __future__ import annotations

import itertools
import os
import zlib
from collections.abc import Iterable, Sequence
from typing import TypeVar

from relay.wire.version import Version

FULL = os.environ.get("TEST_FULL", "") not in {"", "0"}
"""`make test-full` sets the variable."""

ALL = tuple(Version)

FAMILIES = (
    (Version.LITE_01, Version.LITE_06),
    (Version.LITE_02, Version.LITE_03),
    (Version.LITE_04, Version.LITE_05),
    (Version.LITE_05, Version.LITE_06),
)
"""The oldest with the newest, and the last of each family with the first of the next.

The families: a SETUP of draft 14; no timestamps; timestamps; announcements by number.
"""

SHARE = 1 if FULL else int(os.environ.get("TEST_SHARE", "1"))
"""One test in so many is run."""

S = TypeVar("S")
T = TypeVar("T")


def pairs(
    ones: Iterable[Version] = ALL, twos: Iterable[Version] = ALL, *, full: bool = FULL
) -> list[tuple[Version, Version]]:
    """Pairs of versions for a rule that does not depend on the version: `ones` with `twos`.

    The sample has the oldest and the newest with themselves and `FAMILIES` both ways, as far as `ones` and `twos`
    have them, and each version at least once on each side.
    """
    ones, twos = sorted(ones), sorted(twos)
    every = list(itertools.product(ones, twos))
    if full:
        return every
    wanted = {(ALL[0], ALL[0]), (ALL[-1], ALL[-1]), *FAMILIES, *((two, one) for one, two in FAMILIES)}
    chosen = [pair for pair in every if pair in wanted]
    chosen += [(one, twos[-1]) for one in ones if one not in {pair[0] for pair in chosen}]
    chosen += [(ones[-1], two) for two in twos if two not in {pair[1] for pair in chosen}]
    return sorted(chosen)


def covering(ones: Sequence[S], twos: Sequence[T], *, full: bool = FULL) -> list[tuple[S, T]]:
    """All combinations, or the fewest with each value of both: in step, repeating the shorter one."""
    if full:
        return list(itertools.product(ones, twos))
    steps = range(max(len(ones), len(twos)))
    return [(ones[step % len(ones)], twos[step % len(twos)]) for step in steps]


def first(*values: T, count: int = 1) -> tuple[T, ...]:
    """The first value, or so many, or all: for tests that last for seconds."""
    return values if FULL else values[:count]


def repeats(everything: int) -> int:
    """A quarter of the random plays or repetitions, or all."""
    return everything if FULL else everything // 4


def rotated(values: Sequence[T], name: str, number: int, *, full: bool = FULL) -> set[T]:
    """Values for case `number` of the test `name`: the first, and another one in turn."""
    if full or len(values) < 3:
        return set(values)
    others = values[1:]
    return {values[0], others[(zlib.crc32(name.encode()) + number) % len(others)]}
