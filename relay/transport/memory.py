"""A transport without a network: two joined sessions in one process, for tests of actors and the soak.

Streams have QUIC's semantics (credit, resets that drop queued data, a slow reader). The order is deterministic: calls
of one loop turn arrive in the next, as one batch per side. `pause`, `credit` and `silent` simulate faulty peers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from relay.transport.sending import Sender, SendQueue, SendState
from relay.transport.session import (
    CONTROL_PRIORITY,
    DatagramReceived,
    Event,
    Pong,
    SessionClosed,
    SessionStats,
    Sink,
    StreamData,
    StreamReset,
    StreamStopped,
)
from relay.wire.version import Version, alpns_for

DATAGRAM_LIMIT = 1160  # bytes, as in a QUIC packet of 1200
PROBE_TIMEOUT = 0.05  # seconds; there is no round trip to measure


class MemoryStream(Sender):
    """One side's view of a stream. `twin` is the peer's, once the peer knows the stream."""

    __slots__ = (
        "_chunks",
        "_fin",
        "_queued",
        "_session",
        "context",
        "id",
        "opened_by_peer",
        "pending_stop",
        "receiving",
        "sending",
        "stopped",
        "twin",
        "writable",
    )

    def __init__(
        self, session: MemorySession, *, order: tuple[int, int], unidirectional: bool, opened_by_peer: bool
    ) -> None:
        super().__init__(order, unidirectional=unidirectional)
        self.id = -1
        self.opened_by_peer = opened_by_peer
        self.context: Any = None
        self.twin: MemoryStream | None = None
        self.pending_stop: int | None = None  # a stop before the peer could know the stream
        readable = opened_by_peer or not unidirectional
        self.receiving = readable  # until the end or a reset arrives
        self.stopped = not readable  # by this side
        self.sending = not opened_by_peer or not unidirectional  # until the end or a reset left this side
        self.writable = self.sending  # until `write(fin=True)`, reset or stopped
        self._session = session
        self._chunks: list[bytes] = []
        self._queued = 0
        self._fin = False

    def __repr__(self) -> str:
        return f"<MemoryStream {self.id} {'uni' if self.unidirectional else 'bidi'}>"

    @property
    def unsent(self) -> int:
        return self._queued

    @property
    def undelivered(self) -> bool:
        return self.sending and self.send_state is not SendState.IDLE

    def write(self, chunks: Sequence[bytes], *, fin: bool = False) -> None:
        if not self.writable or self._session.finished:
            return
        self._chunks.extend(chunks)
        self._queued += sum(map(len, chunks))
        if fin:
            self._fin = True
            self.writable = False
        self._session.ready(self)

    def prioritize(self, priority: int) -> None:
        self._session.queue.reorder(self, (priority, self.order[1]))

    def reset(self, code: int) -> None:
        if not self.sending or self._session.finished:
            return
        known = self.twin
        self.end_sending()
        if known is not None:
            self._session.tell(StreamReset(known, code))

    def stop(self, code: int) -> None:
        if self.stopped or not self.receiving or self._session.finished:
            return
        self.stopped = True
        if self.twin is None:
            self.pending_stop = code
        elif self.twin.sending:
            self.twin.end_sending()
            self._session.tell(StreamStopped(self.twin, code))
            self._session.peer.tell(StreamReset(self, code))  # a reset answers the stop, as in QUIC

    def end_sending(self) -> None:
        self.sending = self.writable = False
        self._chunks.clear()
        self._queued = 0
        self._session.forget(self)

    def transfer(self, twin: MemoryStream) -> StreamData | None:
        """Move queued data to the peer's view; `None` without news."""
        data = b"".join(self._chunks)
        self._chunks.clear()
        self._queued = 0
        if self._fin:
            self.end_sending()
        if twin.stopped or not (data or self._fin):
            return None
        return StreamData(twin, data, self._fin)


class MemorySession:
    """One end of a pair, with extra methods for tests."""

    def __init__(
        self,
        *,
        is_client: bool,
        version: Version | None,
        alpn: str,
        path: str | None,
        query: str,
        credit_bidi: int | None,
        credit_uni: int | None,
    ) -> None:
        self.transport = "memory"
        self.remote = "server:0" if is_client else "client:0"
        self.is_client = is_client
        self.version = version
        self.alpn = alpn
        self.path = path
        self.query = query
        self.datagram_limit = DATAGRAM_LIMIT
        self.silent = False  # answer no pings
        self._credit = {False: credit_bidi, True: credit_uni}
        self.finished = False
        self.peer: MemorySession = self
        self.streams: dict[int, MemoryStream] = {}
        self._sink: Sink | None = None
        self._outbox: list[Event] = []  # events for the peer, in order
        self.inbox: list[Event] = []  # events for the owner
        self.queue: SendQueue[MemoryStream] = SendQueue()
        self._opened = 0
        self._next_id = {False: 0 if is_client else 1, True: 2 if is_client else 3}
        self.open_count = {False: 0, True: 0}
        self.paused = False
        self._scheduled = False
        self._bytes_sent = 0
        self._bytes_received = 0

    def __repr__(self) -> str:
        return f"<MemorySession {'client' if self.is_client else 'server'}>"

    # -- Session

    @property
    def undelivered(self) -> bool:
        return bool(self.queue)

    def start(self, sink: Sink) -> None:
        if self._sink is not None:
            raise RuntimeError("a session is started once")
        self._sink = sink
        self.schedule()

    def open_bidi(self, priority: int = CONTROL_PRIORITY) -> MemoryStream:
        return self._new_stream(priority, unidirectional=False)

    def open_uni(self, priority: int = CONTROL_PRIORITY) -> MemoryStream:
        return self._new_stream(priority, unidirectional=True)

    def send_datagram(self, data: bytes) -> None:
        if not self.finished and len(data) <= self.datagram_limit:
            self._bytes_sent += len(data)
            self.tell(DatagramReceived(data))

    def ping(self) -> None:
        if not self.finished and not self.peer.silent:
            self.peer.tell(Pong())

    def trust(self) -> None:
        pass

    def probe_timeout(self) -> float:
        return PROBE_TIMEOUT

    def close(self, code: int = 0, reason: str = "") -> None:
        if self.finished:
            return
        self.tell(SessionClosed(code, reason, by_peer=True))
        self.peer.tell(SessionClosed(code, reason, by_peer=False))
        self._finish()

    def stats(self) -> SessionStats:
        return SessionStats(
            bytes_received=self._bytes_received, bytes_sent=self._bytes_sent, streams=len(self.streams)
        )

    # -- for tests

    def pause(self) -> None:
        """Stop reading stream data: the peer's writes stay unsent. Everything else still arrives."""
        self.paused = True

    def resume(self) -> None:
        self.paused = False
        self.peer.schedule()

    def allow(self, *, bidi: int | None = None, uni: int | None = None) -> None:
        """Limit this side's open streams; `None` is no limit."""
        self._credit = {False: bidi, True: uni}
        self.admit(unidirectional=False)
        self.admit(unidirectional=True)

    def fail(self, reason: str = "idle timeout") -> None:
        """Like a network failure, on both sides."""
        if not self.finished:
            self.tell(SessionClosed(None, reason, by_peer=False))
            self.peer.tell(SessionClosed(None, reason, by_peer=False))
            self._finish()

    # -- delivery; methods without underscore are called by streams and the other end

    def _finish(self) -> None:
        for side in (self, self.peer):
            side.finished = True
            side.queue.clear()
            side.streams.clear()

    def _new_stream(self, priority: int, *, unidirectional: bool) -> MemoryStream:
        self._opened += 1
        order = (priority, -self._opened)
        return MemoryStream(self, order=order, unidirectional=unidirectional, opened_by_peer=False)

    def opened_by_peer(self, *, unidirectional: bool) -> MemoryStream:
        """This side's view of a stream that the other side opens."""
        self._opened += 1
        order = (CONTROL_PRIORITY, -self._opened)
        return MemoryStream(self, order=order, unidirectional=unidirectional, opened_by_peer=True)

    def ready(self, stream: MemoryStream) -> None:
        self.queue.add(stream)
        self.schedule()

    def tell(self, event: Event) -> None:
        self._outbox.append(event)
        self.schedule()

    def forget(self, stream: MemoryStream) -> None:
        """Forget a stream once both halves are over, and return its credit."""
        self.queue.remove(stream)
        for side in (stream, stream.twin):
            if side is None or side.sending or side.receiving:
                return
        twin = stream.twin
        if twin is None or self.streams.pop(stream.id, None) is None:
            return
        self.peer.streams.pop(stream.id, None)
        opener = self.peer if stream.opened_by_peer else self
        opener.open_count[stream.unidirectional] -= 1
        opener.admit(unidirectional=stream.unidirectional)

    def admit(self, *, unidirectional: bool) -> None:
        self.queue.admit(unidirectional=unidirectional)
        self.schedule()

    def schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._exchange)

    def _exchange(self) -> None:
        self._scheduled = False
        batch = self.peer.inbox
        # data first: a stop, reset or close of the same turn has removed its stream's data already
        if not self.peer.paused:
            while (stream := self.queue.top) is not None:
                twin = stream.twin or self._claim(stream)
                if twin is None:
                    self.queue.hold()
                    continue
                self.queue.done()
                event = stream.transfer(twin)
                if event is not None:
                    batch.append(event)
                    self._bytes_sent += len(event.data)
                if stream.pending_stop is not None:
                    code, stream.pending_stop, stream.stopped = stream.pending_stop, None, False
                    stream.stop(code)
        batch += self._outbox
        self._outbox = []
        self.peer.deliver()
        self.deliver()

    def _claim(self, stream: MemoryStream) -> MemoryStream | None:
        kind = stream.unidirectional
        credit = self._credit[kind]
        if credit is not None and self.open_count[kind] >= credit:
            return None
        self.open_count[kind] += 1
        stream.id = self._next_id[kind]
        self._next_id[kind] += 4
        twin = self.peer.opened_by_peer(unidirectional=kind)
        twin.id = stream.id
        stream.twin, twin.twin = twin, stream
        self.streams[stream.id] = stream
        self.peer.streams[stream.id] = twin
        return twin

    def deliver(self) -> None:
        if self._sink is None or not self.inbox:
            return
        batch, self.inbox = tuple(self.inbox), []
        sink = self._sink
        for event in batch:
            if isinstance(event, StreamData):
                self._bytes_received += len(event.data)
                if event.fin:
                    self._ended(event.stream)
            elif isinstance(event, StreamReset):
                self._ended(event.stream)
        sink(batch)

    def _ended(self, stream: Any) -> None:
        stream.receiving = False
        self.forget(stream)


def memory_pair(
    version: Version | None,
    *,
    path: str | None = "/",
    query: str = "",
    client_offers: tuple[str, ...] = (),
    credit_bidi: int | None = None,
    credit_uni: int | None = None,
) -> tuple[MemorySession, MemorySession]:
    """Join two sessions and return (client, server).

    Both report `version`; `None` leaves it to SETUP messages (01, 02). The first of `client_offers`, the client's
    tokens, is negotiated. The credits limit each side's open streams.
    """
    tokens = client_offers or ("moql" if version is None else alpns_for((version,))[0],)
    client, server = (
        MemorySession(
            is_client=is_client,
            version=version,
            alpn=tokens[0],
            path=path,
            query=query,
            credit_bidi=credit_bidi,
            credit_uni=credit_uni,
        )
        for is_client in (True, False)
    )
    client.peer, server.peer = server, client
    return client, server
