"""A stream of a message-based session: both halves and queued data.

Owners use the members of `Stream`, sessions all.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from relay.transport.sending import Sender, StreamOwner


class OpenedStreams:
    """The peer's streams of one kind, by index. One beyond the last opens all between."""

    __slots__ = ("_count", "_unseen", "over")

    def __init__(self) -> None:
        self._count = 0
        self._unseen: set[int] = set()
        self.over = 0  # in both directions

    def has(self, index: int) -> bool:
        return index < self._count and index not in self._unseen

    def add(self, index: int) -> None:
        """The caller limits `index`."""
        if index < self._count:
            self._unseen.remove(index)
        else:
            self._unseen.update(range(self._count, index))
            self._count = index + 1


class SendBuffer:
    """The queued data of a stream."""

    __slots__ = ("chunks", "fin", "queued", "sent")

    def __init__(self) -> None:
        self.chunks: deque[bytes | memoryview] = deque()
        self.queued = 0
        self.sent = 0
        self.fin = False  # the stream ends after them

    def take(self, size: int) -> list[bytes | memoryview]:
        """They must be queued."""
        chunks = self.chunks
        taken: list[bytes | memoryview] = []
        self.queued -= size
        self.sent += size
        while size:
            chunk = chunks.popleft()
            if len(chunk) > size:
                view = memoryview(chunk)
                chunks.appendleft(view[size:])
                chunk = view[:size]
            taken.append(chunk)
            size -= len(chunk)
        return taken


class FramedStream(Sender):
    """See `relay.transport.session.Stream`."""

    __slots__ = (
        *("_session", "buffer", "closed", "context", "flow", "id", "opened_by_peer"),
        *("peer_stop", "received", "shown", "stop_code"),
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
        self.buffer = SendBuffer()
        self.flow: Any = None  # if the framing has limits
        self.closed = unidirectional and opened_by_peer  # our half
        self.received = unidirectional and not opened_by_peer  # the peer's half has ended
        self.shown = False  # the owner got an event of it
        self.stop_code: int | None = None  # by the owner
        self.peer_stop: int | None = None  # before the peer's first byte
        self._session = session

    def __repr__(self) -> str:
        return f"<FramedStream {self.id} {'uni' if self.unidirectional else 'bidi'}>"

    @property
    def unsent(self) -> int:
        return self.buffer.queued

    @property
    def undelivered(self) -> bool:
        buffer = self.buffer
        return not self.closed and (buffer.queued > 0 or buffer.fin) and not self._session.ended

    def write(self, chunks: Sequence[bytes], *, fin: bool = False) -> None:
        buffer = self.buffer
        if self.closed or buffer.fin or self._session.ended:
            return
        for chunk in chunks:
            if chunk:
                buffer.chunks.append(chunk)
                buffer.queued += len(chunk)
        buffer.fin = fin
        if buffer.queued or fin:
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
        if self.stop_code is not None or self.received or self._session.ended:
            return
        self.stop_code = code
        if self.id >= 0:
            self._session.ask_to_stop(self, code)

    def close(self) -> None:
        """Drop queued data."""
        self.closed = True
        self.buffer.chunks.clear()
        self.buffer.queued = 0
