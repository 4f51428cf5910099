"""Sorted ranges of numbers: packets received, bytes acknowledged."""

from __future__ import annotations

from bisect import bisect_left, bisect_right


class Ranges:
    """Disjoint half-open ranges, ascending; ranges that touch are merged."""

    __slots__ = ("starts", "stops")

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.stops: list[int] = []

    def __len__(self) -> int:
        return len(self.starts)

    def __contains__(self, number: int) -> bool:
        index = bisect_right(self.starts, number)
        return index > 0 and number < self.stops[index - 1]

    def add(self, start: int, stop: int) -> None:
        starts, stops = self.starts, self.stops
        first, last = bisect_left(stops, start), bisect_right(starts, stop)
        if first < last:
            start, stop = min(start, starts[first]), max(stop, stops[last - 1])
        starts[first:last] = [start]
        stops[first:last] = [stop]

    def remove_below(self, number: int) -> None:
        starts, stops = self.starts, self.stops
        count = bisect_right(stops, number)
        if count:
            del starts[:count]
            del stops[:count]
        if starts and starts[0] < number:
            starts[0] = number

    def shift(self) -> int:
        """Remove the lowest range. Returns its stop."""
        del self.starts[0]
        return self.stops.pop(0)

    def missing(self, start: int, stop: int) -> list[tuple[int, int]]:
        """The parts of `start` to `stop` that are in no range."""
        found: list[tuple[int, int]] = []
        index = bisect_right(self.stops, start)
        while start < stop and index < len(self.starts):
            if self.starts[index] > start:
                found.append((start, min(stop, self.starts[index])))
            start = self.stops[index]
            index += 1
        if start < stop:
            found.append((start, stop))
        return found
