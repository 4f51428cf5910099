"""Group numbers as ranges, to find gaps. Bounded: the oldest gaps close."""

from __future__ import annotations

from collections.abc import Iterator

MAX_RANGES = 64  # numbers with gaps make one range per group; only the newest matter
Range = tuple[int, int]  # inclusive


class Ranges:
    """Ranges of numbers, ascending."""

    __slots__ = ("_ranges",)

    def __init__(self) -> None:
        self._ranges: list[Range] = []

    def __iter__(self) -> Iterator[Range]:
        return iter(self._ranges)

    @property
    def last(self) -> int | None:
        return self._ranges[-1][1] if self._ranges else None

    @property
    def first(self) -> int | None:
        return self._ranges[0][0] if self._ranges else None

    def add(self, start: int, end: int) -> None:
        """Add a range with both ends."""
        ranges = self._ranges
        if ranges and ranges[-1][0] <= start <= ranges[-1][1] + 1:  # nearly always
            ranges[-1] = ranges[-1][0], max(ranges[-1][1], end)
            return
        below = [known for known in ranges if known[1] + 1 < start]
        above = [known for known in ranges if known[0] > end + 1]
        for known in ranges[len(below) : len(ranges) - len(above)]:
            start, end = min(start, known[0]), max(end, known[1])
        ranges[:] = [*below, (start, end), *above]
        if len(ranges) > MAX_RANGES:
            ranges[:2] = [(ranges[0][0], ranges[1][1])]

    def gaps(self, start: int, end: int) -> list[Range]:
        found = []
        for first, last in self._ranges:
            if first > end:
                break
            if first > start:
                found.append((start, first - 1))
            start = max(start, last + 1)
        if start <= end:
            found.append((start, end))
        return found
