"""A stream of a QUIC session, as its owner sees it.

Owns both halves and data not handed over. Must never write to the connection: the session does, and only it
uses members beyond `Stream`.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Any, Protocol

from relay.transport.quic.connection import Connection
from relay.transport.sending import StreamOwner
from relay.wire.errors import MAX_CODE, from_http3, to_http3


class Half(Enum):
    """State of our half of a stream."""

    OPEN = "open"
    ENDING = "ending"  # the end is queued or sent; a reset is still possible
    CLOSED = "closed"


def wire_code(code: int) -> int:
    """Error code of a reset or stop on the wire, the same on raw QUIC and WebTransport."""
    return to_http3(code if 0 <= code <= MAX_CODE else 0)


def plain_code(code: int) -> int:
    """The moq code of a received reset or stop; 0 if it is none."""
    return from_http3(code) or 0


class Owner(StreamOwner, Protocol):
    """The session, as a stream sees it."""

    connection: Connection

    def is_writing(self, stream: QuicStream) -> bool: ...


class QuicStream:
    """A stream of a QUIC session; see `relay.transport.session.Stream`."""

    __slots__ = (
        *("_session", "chunks", "context", "fin", "half", "id", "opened_by_peer", "order"),
        *("queued", "received", "stop_code", "stopped", "unidirectional"),
    )

    def __init__(
        self,
        session: Owner,
        stream_id: int,
        *,
        unidirectional: bool,
        opened_by_peer: bool,
        order: tuple[int, int],
    ) -> None:
        self.id = stream_id
        self.unidirectional = unidirectional
        self.opened_by_peer = opened_by_peer
        self.context: Any = None
        self.order = order  # sort key, the most urgent last: (priority, minus the opening number)
        self._session = session
        self.chunks: list[bytes] = []
        self.queued = 0
        self.fin = False
        self.half = Half.CLOSED if unidirectional and opened_by_peer else Half.OPEN
        self.received = unidirectional and not opened_by_peer  # the peer's half has ended
        self.stopped = self.received  # the owner has stopped it
        self.stop_code: int | None = None  # a stop called while the stream waits for credit

    def __repr__(self) -> str:
        return f"<QuicStream {self.id} {'uni' if self.unidirectional else 'bidi'}>"

    @property
    def unsent(self) -> int:
        if self.id < 0 or self.half is Half.CLOSED:
            return self.queued
        return self.queued + self._session.connection.quic.unsent(self.id)

    @property
    def undelivered(self) -> bool:
        session = self._session
        if self.half is Half.CLOSED or session.ended:
            return False
        if self.id < 0:
            return bool(self.queued) or self.fin
        return session.is_writing(self) or session.connection.quic.undelivered(self.id)

    def write(self, chunks: Sequence[bytes], *, fin: bool = False) -> None:
        if self.half is not Half.OPEN or self._session.ended:
            return
        self.chunks.extend(chunks)
        for chunk in chunks:
            self.queued += len(chunk)
        if fin:
            self.fin = True
            self.half = Half.ENDING
        if self.queued or fin:
            self._session.ready(self)

    def prioritize(self, priority: int) -> None:
        session = self._session
        if self.half is Half.CLOSED or session.ended:
            return
        order = priority, self.order[1]
        if self.id < 0:
            session.reorder(self, order)
        else:
            self.order = order
            session.connection.quic.prioritize(self.id, order)

    def reset(self, code: int) -> None:
        if self.half is Half.CLOSED or self._session.ended:
            return
        self.close_half()
        self._session.abort(self, code)

    def stop(self, code: int) -> None:
        if self.stopped or self.received or self._session.ended:
            return
        self.stopped = True
        if self.id < 0:
            self.stop_code = code
        else:
            self._session.ask_to_stop(self, code)

    def close_half(self) -> None:
        self.half = Half.CLOSED
        self.chunks.clear()
        self.queued = 0


def urgency(stream: QuicStream) -> tuple[int, int]:
    """Sort key: the most urgent stream comes last."""
    return stream.order
