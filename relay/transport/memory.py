"""A transport without a network: two joined sessions in one process, for tests of actors and the soak.

Streams have QUIC's semantics (credit, resets that drop queued data, a slow reader). Calls of one loop turn
arrive in the next, as one batch per side. `pause`, `credit` and `silent` simulate faulty peers.
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
from relay.wire.version import AnyVersion, alpns_for

DATAGRAM_LIMIT = 1160  # bytes, as in a QUIC packet of 1200
PROBE_TIMEOUT = 0.05  # seconds; there is no round trip to measure


class MemoryStream(Sender):
    """One side's view. `twin` is the peer's, once the peer knows the stream."""

    __slots__ = (
        "_chunks",
        "_fin",
        "_queued",
        "_side",
        "context",
        "id",
        "opened_by_peer",
        "pending_stop",
        "receiving",
        "sending",
        "stopped",
        "twin",
    )

    def __init__(
        self, side: SendingSide, *, order: tuple[int, int], unidirectional: bool, opened_by_peer: bool
    ) -> None:
        super().__init__(order, unidirectional=unidirectional)
        self.id = -1
        self.opened_by_peer = opened_by_peer
        self.context: Any = None
        self.twin: MemoryStream | None = None
        self.pending_stop: int | None = None  # before the peer could know the stream
        readable = opened_by_peer or not unidirectional
        self.receiving = readable  # until the end or a reset arrives
        self.stopped = not readable  # by this side
        self.sending = not opened_by_peer or not unidirectional  # until the end or a reset left this side
        self._side = side
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
        if not self.sending or self._fin or self._side.session.finished:
            return
        self._chunks.extend(chunks)
        self._queued += sum(map(len, chunks))
        if fin:
            self._fin = True
        self._side.ready(self)

    def prioritize(self, priority: int) -> None:
        self._side.queue.reorder(self, (priority, self.order[1]))

    def reset(self, code: int) -> None:
        if not self.sending or self._side.session.finished:
            return
        known = self.twin
        self.end_sending()
        if known is not None:
            self._side.tell(StreamReset(known, code))

    def stop(self, code: int) -> None:
        if self.stopped or not self.receiving or self._side.session.finished:
            return
        self.stopped = True
        if self.twin is None:
            self.pending_stop = code
        elif self.twin.sending:
            self.twin.end_sending()
            self._side.tell(StreamStopped(self.twin, code))
            self._side.session.peer.side.tell(StreamReset(self, code))  # as in QUIC

    def end_sending(self) -> None:
        self.sending = False
        self._chunks.clear()
        self._queued = 0
        self._side.forget(self)

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


class SendingSide:
    """What one end sends: its streams with their order, numbers and credit, and events for the other end."""

    def __init__(self, session: MemorySession, credit_bidi: int | None, credit_uni: int | None) -> None:
        self.session = session
        self.queue: SendQueue[MemoryStream] = SendQueue()
        self.bytes = 0
        self._credit = {False: credit_bidi, True: credit_uni}
        self._open = {False: 0, True: 0}
        self._next_id = {False: 0, True: 2} if session.is_client else {False: 1, True: 3}
        self._streams = 0  # of either end, for their order
        self._events: list[Event] = []
        self._scheduled = False

    def stream(self, priority: int, *, unidirectional: bool, opened_by_peer: bool) -> MemoryStream:
        """This end's view of a new stream."""
        self._streams += 1
        order = (priority, -self._streams)
        return MemoryStream(self, order=order, unidirectional=unidirectional, opened_by_peer=opened_by_peer)

    def ready(self, stream: MemoryStream) -> None:
        self.queue.add(stream)
        self.schedule()

    def tell(self, event: Event) -> None:
        self._events.append(event)
        self.schedule()

    def forget(self, stream: MemoryStream) -> None:
        """Forget the stream once both halves are over, and return its credit."""
        self.queue.remove(stream)
        for end in (stream, stream.twin):
            if end is None or end.sending or end.receiving:
                return
        session = self.session
        if stream.twin is None or session.streams.pop(stream.id, None) is None:
            return
        session.peer.streams.pop(stream.id, None)
        opener = session.peer.side if stream.opened_by_peer else self
        opener.give_back(unidirectional=stream.unidirectional)

    def give_back(self, *, unidirectional: bool) -> None:
        self._open[unidirectional] -= 1
        self._admit(unidirectional=unidirectional)

    def allow(self, *, bidi: int | None, uni: int | None) -> None:
        self._credit = {False: bidi, True: uni}
        self._admit(unidirectional=False)
        self._admit(unidirectional=True)

    def _admit(self, *, unidirectional: bool) -> None:
        self.queue.admit(unidirectional=unidirectional)
        self.schedule()

    def schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._exchange)

    def _exchange(self) -> None:
        self._scheduled = False
        peer = self.session.peer
        # data first: a stop, reset or close of the same turn has removed its stream's data already
        if not peer.paused:
            while (stream := self.queue.top) is not None:
                twin = stream.twin or self._claim(stream)
                if twin is None:
                    self.queue.hold()
                    continue
                self.queue.done()
                event = stream.transfer(twin)
                if event is not None:
                    peer.inbox.append(event)
                    self.bytes += len(event.data)
                if stream.pending_stop is not None:
                    code, stream.pending_stop, stream.stopped = stream.pending_stop, None, False
                    stream.stop(code)
        peer.inbox += self._events
        self._events = []
        peer.deliver()
        self.session.deliver()

    def _claim(self, stream: MemoryStream) -> MemoryStream | None:
        """Show a stream to the peer; `None` without credit."""
        kind = stream.unidirectional
        credit = self._credit[kind]
        if credit is not None and self._open[kind] >= credit:
            return None
        self._open[kind] += 1
        peer = self.session.peer
        twin = peer.side.stream(CONTROL_PRIORITY, unidirectional=kind, opened_by_peer=True)
        stream.id = twin.id = self._next_id[kind]
        self._next_id[kind] += 4
        stream.twin, twin.twin = twin, stream
        self.session.streams[stream.id] = stream
        peer.streams[stream.id] = twin
        return twin


class MemorySession:
    """One end of a pair, with extra methods for tests."""

    transport = "memory"
    datagram_limit = DATAGRAM_LIMIT

    def __init__(
        self,
        *,
        is_client: bool,
        version: AnyVersion | None,
        alpn: str,
        path: str | None,
        query: str,
        credit_bidi: int | None,
        credit_uni: int | None,
    ) -> None:
        self.remote = "server:0" if is_client else "client:0"
        self.is_client = is_client
        self.version = version
        self.alpn = alpn
        self.path = path
        self.query = query
        self.silent = False  # answer no pings
        self.paused = False
        self.finished = False
        self.peer: MemorySession = self
        self.side = SendingSide(self, credit_bidi, credit_uni)
        self.streams: dict[int, MemoryStream] = {}
        self.inbox: list[Event] = []  # for the owner
        self._sink: Sink | None = None
        self._bytes_received = 0

    def __repr__(self) -> str:
        return f"<MemorySession {'client' if self.is_client else 'server'}>"

    # -- Session

    @property
    def undelivered(self) -> bool:
        return bool(self.side.queue)

    def start(self, sink: Sink) -> None:
        if self._sink is not None:
            raise RuntimeError("a session is started once")
        self._sink = sink
        self.side.schedule()

    def open_bidi(self, priority: int = CONTROL_PRIORITY) -> MemoryStream:
        return self.side.stream(priority, unidirectional=False, opened_by_peer=False)

    def open_uni(self, priority: int = CONTROL_PRIORITY) -> MemoryStream:
        return self.side.stream(priority, unidirectional=True, opened_by_peer=False)

    def send_datagram(self, data: bytes) -> None:
        if not self.finished and len(data) <= self.datagram_limit:
            self.side.bytes += len(data)
            self.side.tell(DatagramReceived(data))

    def ping(self) -> None:
        if not self.finished and not self.peer.silent:
            self.peer.side.tell(Pong())

    def trust(self) -> None:
        pass

    def probe_timeout(self) -> float:
        return PROBE_TIMEOUT

    def close(self, code: int = 0, reason: str = "") -> None:
        self._finish(SessionClosed(code, reason, by_peer=False), SessionClosed(code, reason, by_peer=True))

    def stats(self) -> SessionStats:
        return SessionStats(
            bytes_received=self._bytes_received, bytes_sent=self.side.bytes, streams=len(self.streams)
        )

    # -- for tests

    def pause(self) -> None:
        """Stop reading stream data: the peer's writes stay unsent."""
        self.paused = True

    def resume(self) -> None:
        self.paused = False
        self.peer.side.schedule()

    def allow(self, *, bidi: int | None = None, uni: int | None = None) -> None:
        """Limit this side's open streams; `None` is no limit."""
        self.side.allow(bidi=bidi, uni=uni)

    def fail(self, reason: str = "idle timeout") -> None:
        """Like a network failure, on both sides."""
        failure = SessionClosed(None, reason, by_peer=False)
        self._finish(failure, failure)

    def _finish(self, ours: SessionClosed, theirs: SessionClosed) -> None:
        if self.finished:
            return
        self.side.tell(theirs)
        self.peer.side.tell(ours)
        for session in (self, self.peer):
            session.finished = True
            session.side.queue.clear()
            session.streams.clear()

    # -- delivery

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
        self.side.forget(stream)


def memory_pair(
    version: AnyVersion | None,
    *,
    path: str | None = "/",
    query: str = "",
    client_offers: tuple[str, ...] = (),
    credit_bidi: int | None = None,
    credit_uni: int | None = None,
) -> tuple[MemorySession, MemorySession]:
    """Join two sessions and return (client, server).

    Both report `version`; `None` leaves it to SETUP messages (01, 02). The first of `client_offers`, the
    client's tokens, is negotiated. The credits limit each side's open streams.
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
