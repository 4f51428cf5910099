"""What aioquic is not given yet, because it could not send it now and would forget which stream is more urgent.

Owns the chunks that wait, by stream and urgency. Must never touch a connection. The connection without the fast path
gives aioquic from here what the congestion window has room for.
"""

from __future__ import annotations

from bisect import insort
from collections import deque


class Held:
    """What waits of one stream."""

    __slots__ = ("_begin", "_chunks", "fin", "order", "size", "stream_id")

    def __init__(self, stream_id: int, order: tuple[int, int]) -> None:
        self.stream_id = stream_id
        self.order = order
        self.size = 0
        """Bytes."""
        self.fin = False
        """Whether the stream ends after them."""
        self._chunks: deque[bytes] = deque()
        self._begin = 0
        """Bytes of the first chunk that have been taken."""

    def take(self, size: int) -> bytes:
        """The next bytes: `size` of them, no more than wait."""
        self.size -= size
        taken = []
        while size:
            chunk = self._chunks[0]
            piece = chunk[self._begin : self._begin + size]
            taken.append(piece)
            size -= len(piece)
            self._begin += len(piece)
            if self._begin == len(chunk):
                self._chunks.popleft()
                self._begin = 0
        return taken[0] if len(taken) == 1 else b"".join(taken)

    def add(self, chunks: list[bytes], *, fin: bool) -> None:
        """More to send."""
        self._chunks.extend(filter(None, chunks))
        self.size += sum(map(len, chunks))
        self.fin = self.fin or fin


def _order(held: Held) -> tuple[int, int]:
    return held.order


class Holding:
    """The streams of one connection that wait."""

    def __init__(self) -> None:
        self._streams: dict[int, Held] = {}
        self._queue: list[Held] = []
        """The most urgent last."""

    def __bool__(self) -> bool:
        return bool(self._queue)

    def get(self, stream_id: int) -> Held | None:
        """What waits of a stream."""
        return self._streams.get(stream_id)

    def add(self, stream_id: int, chunks: list[bytes], *, fin: bool, order: tuple[int, int]) -> None:
        """Something to send; `order` is how urgent the whole stream is, the higher the more."""
        held = self._streams.get(stream_id)
        if held is None:
            held = self._streams[stream_id] = Held(stream_id, order)
            insort(self._queue, held, key=_order)
        else:
            self.prioritize(stream_id, order)
        held.add(chunks, fin=fin)

    def prioritize(self, stream_id: int, order: tuple[int, int]) -> None:
        """A stream is of another urgency now."""
        held = self._streams.get(stream_id)
        if held is not None and held.order != order:
            self._queue.remove(held)
            held.order = order
            insort(self._queue, held, key=_order)

    def drop(self, stream_id: int) -> None:
        """Nothing of a stream is to be sent any more."""
        held = self._streams.pop(stream_id, None)
        if held is not None:
            self._queue.remove(held)

    def urgent(self) -> list[Held]:
        """Everything that waits, the most urgent first."""
        return self._queue[::-1]

    def clear(self) -> None:
        """Nothing will be sent."""
        self._streams.clear()
        self._queue.clear()
