"""Choices derived from bytes, from which a fuzzer builds messages, frames and orders of events.

After the last byte every choice is the first one, so that short inputs work as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from relay.wire.varint import MAX_VARINT, encode_varint

T = TypeVar("T")

EDGES = (0, 1, 2, 63, 64, 0xFF, 0x3FFF, 0x4000, 0xFFFF, 0x10000, 2**30 - 1, 2**30, 2**32, 2**61, MAX_VARINT)
"""Boundary values: a varint's length, a limit, a sign."""

_SMALL = 200


class Source:
    """A position in the input."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        """Bytes are left."""
        return self._at < len(self._data)

    def byte(self) -> int:
        """0 to 255."""
        if self._at >= len(self._data):
            return 0
        self._at += 1
        return self._data[self._at - 1]

    def flag(self) -> bool:
        return bool(self.byte() & 1)

    def pick(self, choices: Sequence[T]) -> T:
        """One of at most 256."""
        return choices[self.byte() % len(choices)]

    def number(self) -> int:
        """Any varint's value: mostly small, sometimes a boundary."""
        first = self.byte()
        if first < _SMALL:
            return first
        if first < _SMALL + len(EDGES):
            return EDGES[first - _SMALL]
        return int.from_bytes(self.take(1 << first % 4), "big") & MAX_VARINT

    def varint(self) -> bytes:
        return encode_varint(self.number())

    def take(self, size: int) -> bytes:
        """Up to `size` bytes of the input."""
        found = self._data[self._at : self._at + size]
        self._at += len(found)
        return found

    def chunk(self, most: int = 255) -> bytes:
        """Some bytes, after their count."""
        return self.take(min(self.byte(), most))

    def text(self, most: int = 255) -> str:
        """Invalid UTF-8 becomes lone surrogates, as in names from the system."""
        return self.chunk(most).decode("utf-8", "surrogateescape")

    def rest(self) -> bytes:
        return self.take(len(self._data))

    def slices(self, data: bytes, step: int) -> list[bytes]:
        """`data` in slices of `step` bytes; 0 for slices of one to seven bytes in turn."""
        found: list[bytes] = []
        at = 0
        while at < len(data):
            size = step or 1 + len(found) % 7
            found.append(data[at : at + size])
            at += size
        return found
