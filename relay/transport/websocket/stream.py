"""A stream of a message-based session: both halves and queued data.

Owners use the members of `Stream`, sessions all.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from relay.transport.sending import Sender, StreamOwner


class OpenedStreams:
    """Streams of one kind opened by the peer, by index. One beyond the last opens all between."""

    __slots__ = ("_count", "_unseen", "over")

    def __init__(self) -> None:
        self._count = 0
        self._unseen: set[int] = set()
        self.over = 0  # in both directions

    def has(self, index: int) -> bool:
        """A frame of this stream was received."""
        return index < self._count and index not in self._unseen

    def add(self, index: int) -> None:
        """Record the first frame of a stream. The caller limits `index`."""
        if index < self._count:
            self._unseen.remove(index)
        else:
            self._unseen.update(range(self._count, index))
            self._count = index + 1


class FramedStream(Sender):
    """A stream of a message-based session; see `relay.transport.session.Stream`."""

    __slots__ = (
        *("_chunks", "_session", "closed", "context", "credit", "fin", "id", "opened_by_peer"),
        *("peer_stop", "queued", "received", "send_limit", "sent", "shown", "stop_code", "stopped"),
    )

    def __init__(
        self,
        session: StreamOwner,
        stream_id: int,
        *,
        unidirectional: bool,
        opened_by_peer: bool,
        order: tuple[int, int],
    ) -> None:
        super().__init__(order, unidirectional=unidirectional)
        self.id = stream_id
        self.opened_by_peer = opened_by_peer
        self.context: Any = None
        self.queued = 0
        self.sent = 0
        self.send_limit = 0  # the peer's, if the framing has limits
        self.fin = False
        self.closed = unidirectional and opened_by_peer  # our half: its end or a reset was sent
        self.received = unidirectional and not opened_by_peer  # the peer's half has ended
        self.stopped = self.received  # by the owner
        self.shown = False  # the owner got an event of it
        self.stop_code: int | None = None  # a stop before the stream had a number
        self.peer_stop: int | None = None  # the peer's stop, before its first byte
        self.credit: Any = None  # our limit on received data, if the framing has limits
        self._session = session
        self._chunks: deque[bytes | memoryview] = deque()

    def __repr__(self) -> str:
        return f"<FramedStream {self.id} {'uni' if self.unidirectional else 'bidi'}>"

    @property
    def unsent(self) -> int:
        return self.queued

    @property
    def undelivered(self) -> bool:
        return not self.closed and (self.queued > 0 or self.fin) and not self._session.ended

    def write(self, chunks: Sequence[bytes], *, fin: bool = False) -> None:
        if self.closed or self.fin or self._session.ended:
            return
        for chunk in chunks:
            if chunk:
                self._chunks.append(chunk)
                self.queued += len(chunk)
        self.fin = fin
        if self.queued or fin:
            self._session.ready(self)

    def prioritize(self, priority: int) -> None:
        if not self.closed and not self._session.ended:
            self._session.reorder(self, (priority, self.order[1]))

    def reset(self, code: int) -> None:
        if self.closed or self._session.ended:
            return
        self.close()
        self._session.abort(self, code)

    def stop(self, code: int) -> None:
        if self.stopped or self.received or self._session.ended:
            return
        self.stopped = True
        if self.id < 0:
            self.stop_code = code
        else:
            self._session.ask_to_stop(self, code)

    def close(self) -> None:
        """End our half and drop queued data."""
        self.closed = True
        self._chunks.clear()
        self.queued = 0

    def take(self, size: int) -> list[bytes | memoryview]:
        """The next `size` bytes, which must be queued."""
        taken: list[bytes | memoryview] = []
        self.queued -= size
        self.sent += size
        while size:
            chunk = self._chunks.popleft()
            if len(chunk) > size:
                view = memoryview(chunk)
                self._chunks.appendleft(view[size:])
                chunk = view[:size]
            taken.append(chunk)
            size -= len(chunk)
        return taken
