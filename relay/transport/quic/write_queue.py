"""Stream data not yet given to aioquic, which would send it without regard to urgency.

Owns chunks by stream and urgency. Must never touch a connection, which takes what its window allows.
"""

from __future__ import annotations

from bisect import insort
from collections import deque


class StreamWrites:
    """Queued writes of one stream."""

    __slots__ = ("_begin", "_chunks", "fin", "order", "size", "stream_id")

    def __init__(self, stream_id: int, order: tuple[int, int]) -> None:
        self.stream_id = stream_id
        self.order = order
        self.size = 0  # bytes
        self.fin = False
        self._chunks: deque[bytes] = deque()
        self._begin = 0  # bytes taken from the first chunk

    def take(self, size: int) -> bytes:
        """The next `size` bytes, which must be queued."""
        self.size -= size
        taken = []
        while size:
            chunk = self._chunks[0]
            part = chunk[self._begin : self._begin + size]
            taken.append(part)
            size -= len(part)
            self._begin += len(part)
            if self._begin == len(chunk):
                self._chunks.popleft()
                self._begin = 0
        return taken[0] if len(taken) == 1 else b"".join(taken)

    def add(self, chunks: list[bytes], *, fin: bool) -> None:
        self._chunks.extend(filter(None, chunks))
        self.size += sum(map(len, chunks))
        self.fin = self.fin or fin


def _order(writes: StreamWrites) -> tuple[int, int]:
    return writes.order


class WriteQueue:
    """Queued writes of one connection."""

    def __init__(self) -> None:
        self._streams: dict[int, StreamWrites] = {}
        self._queue: list[StreamWrites] = []  # sorted, the most urgent last

    def __bool__(self) -> bool:
        return bool(self._queue)

    def get(self, stream_id: int) -> StreamWrites | None:
        return self._streams.get(stream_id)

    def add(self, stream_id: int, chunks: list[bytes], *, fin: bool, order: tuple[int, int]) -> None:
        """Queue chunks; a higher `order` makes the whole stream more urgent."""
        writes = self._streams.get(stream_id)
        if writes is None:
            writes = self._streams[stream_id] = StreamWrites(stream_id, order)
            insort(self._queue, writes, key=_order)
        else:
            self.prioritize(stream_id, order)
        writes.add(chunks, fin=fin)

    def prioritize(self, stream_id: int, order: tuple[int, int]) -> None:
        writes = self._streams.get(stream_id)
        if writes is not None and writes.order != order:
            self._queue.remove(writes)
            writes.order = order
            insort(self._queue, writes, key=_order)

    def drop(self, stream_id: int) -> None:
        writes = self._streams.pop(stream_id, None)
        if writes is not None:
            self._queue.remove(writes)

    def urgent(self) -> list[StreamWrites]:
        """All streams with writes, the most urgent first."""
        return self._queue[::-1]

    def clear(self) -> None:
        self._streams.clear()
        self._queue.clear()
