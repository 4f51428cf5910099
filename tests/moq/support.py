"""Transports that keep what is written, and two sessions joined by them, without an event loop.

`Wire` moves bytes from one side to the other, in slices of any size, and keeps each write, reset and stop.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from relay.model.limits import Limits
from relay.moq.protocol import open_session
from relay.moq.session import Event, GroupFragment
from relay.moq.setup import Options
from relay.transport.session import (
    CONTROL_PRIORITY,
    DatagramReceived,
    Pong,
    SessionClosed,
    SessionStats,
    Sink,
    StreamData,
    StreamReset,
    StreamStopped,
)
from relay.transport.session import Event as TransportEvent
from relay.wire.frame import frame_header_plain, frame_header_timed
from relay.wire.version import AnyVersion, Version, alpns_for
from tests.sampling import ALL

T = TypeVar("T")


@dataclass(eq=False, repr=False)
class FakeStream:
    """One end of a stream."""

    wire: FakeSession
    id: int
    unidirectional: bool
    opened_by_peer: bool
    priority: int = CONTROL_PRIORITY
    context: Any = None
    twin: FakeStream | None = None
    queued: list[bytes] = field(default_factory=list)
    written: bytes = b""
    finished: bool = False
    resets: list[int] = field(default_factory=list)
    stops: list[int] = field(default_factory=list)
    fin_queued: bool = False

    @property
    def unsent(self) -> int:
        return sum(map(len, self.queued))

    @property
    def undelivered(self) -> bool:
        return bool(self.queued) or self.fin_queued

    @property
    def over(self) -> bool:
        """Nothing more can be written."""
        return self.finished or bool(self.resets)

    @property
    def gone(self) -> bool:
        """Nothing can be aborted: all is sent, or aborted."""
        return bool(self.resets) or (self.finished and not self.queued and not self.fin_queued)

    def write(self, chunks: Sequence[bytes], *, fin: bool = False) -> None:
        if self.over or (self.unidirectional and self.opened_by_peer):
            return
        self.queued += chunks
        self.written += b"".join(chunks)
        self.finished = self.fin_queued = fin

    def reset(self, code: int) -> None:
        if not self.gone:
            self.queued.clear()
            self.fin_queued = False
            self.resets.append(code)
            if self.twin is not None:
                self.wire.to_peer(StreamReset(self.twin, code))

    def prioritize(self, priority: int) -> None:
        self.priority = priority

    def stop(self, code: int) -> None:
        if not self.stops:
            self.stops.append(code)
            if self.twin is not None and not self.twin.gone:
                self.wire.to_peer(StreamStopped(self.twin, code))
                self.twin.queued.clear()
                self.twin.resets.append(code)


class FakeSession:
    """`other` is the far end, if there is one."""

    def __init__(
        self,
        version: AnyVersion | None,
        *,
        is_client: bool,
        transport: str = "webtransport",
        path: str | None = "/",
        query: str = "",
    ) -> None:
        self.transport = transport
        self.remote = "peer:1"
        self.is_client = is_client
        self.version = version
        self.alpn = alpns_for([version])[0] if version is not None else ""
        self.path = path
        self.query = query
        self.datagram_limit = 1160
        self.other: FakeSession | None = None
        self.streams: list[FakeStream] = []
        self.inbox: list[TransportEvent] = []
        self.datagrams: list[bytes] = []
        self.closed: list[tuple[int, str]] = []
        self.pings = 0

    @property
    def undelivered(self) -> bool:
        return any(stream.undelivered for stream in self.streams)

    def take_all(self) -> None:
        """Of queued bytes."""
        for stream in self.streams:
            stream.queued.clear()
            stream.fin_queued = False

    def start(self, sink: Sink) -> None:
        raise NotImplementedError

    def to_peer(self, event: TransportEvent) -> None:
        if self.other is not None:
            self.other.inbox.append(event)

    def open_bidi(self, priority: int = CONTROL_PRIORITY) -> FakeStream:
        return self._open(priority, unidirectional=False)

    def open_uni(self, priority: int = CONTROL_PRIORITY) -> FakeStream:
        return self._open(priority, unidirectional=True)

    def _open(self, priority: int, *, unidirectional: bool) -> FakeStream:
        number = sum(1 for stream in self.streams if not stream.opened_by_peer)
        stream = FakeStream(self, number, unidirectional, opened_by_peer=False, priority=priority)
        self.streams.append(stream)
        return stream

    def peer_opens(self, *, unidirectional: bool) -> FakeStream:
        """A stream of the peer, without a far end."""
        stream = FakeStream(self, len(self.streams), unidirectional, opened_by_peer=True)
        self.streams.append(stream)
        return stream

    def send_datagram(self, data: bytes) -> None:
        self.datagrams.append(data)
        self.to_peer(DatagramReceived(data))

    def ping(self) -> None:
        self.pings += 1

    def trust(self) -> None:
        """Nothing is bounded here."""

    def probe_timeout(self) -> float:
        return 0.5

    def close(self, code: int = 0, reason: str = "") -> None:
        self.closed.append((code, reason))
        self.to_peer(SessionClosed(code, reason, by_peer=True))

    def stats(self) -> SessionStats:
        return SessionStats()

    def deliver(self, size: int) -> bool:
        """Move queued bytes, in slices of `size`, into the far end's inbox. True if there were any."""
        assert self.other is not None
        moved = False
        for stream in list(self.streams):
            if not stream.queued and not stream.fin_queued:
                continue
            moved = True
            if stream.twin is None:
                stream.twin = FakeStream(self.other, stream.id, stream.unidirectional, opened_by_peer=True)
                stream.twin.twin = stream
                self.other.streams.append(stream.twin)
            data = b"".join(stream.queued)
            stream.queued.clear()
            fin, stream.fin_queued = stream.fin_queued, False
            slices = [data[start : start + size] for start in range(0, len(data), size)] or [b""]
            for number, fragment in enumerate(slices):
                last = fin and number == len(slices) - 1
                self.other.inbox.append(StreamData(stream.twin, fragment, last))
        return moved


class End:
    """One machine with its transport, and its events."""

    def __init__(
        self,
        session: FakeSession,
        versions: Iterable[AnyVersion] = ALL,
        *,
        hop: int,
        admitted: bool = True,
        limits: Limits | None = None,
        options: Options | None = None,
    ) -> None:
        self.session = session
        self.moq: Any = open_session(session, limits or Limits(), hop, versions, admitted, options)
        self.events: list[Event] = []
        self.now = 0.0

    def start(self) -> None:
        self.moq.start(self.now)
        self.poll()

    def started(self) -> End:
        self.start()
        return self

    def receive(self, *events: TransportEvent) -> list[Event]:
        """Returns new events."""
        self.moq.receive(events, self.now)
        return self.poll()

    def poll(self) -> list[Event]:
        new: list[Event] = self.moq.poll()
        self.events += new
        return new

    def on_time(self, now: float) -> list[Event]:
        self.now = now
        self.moq.on_time(now)
        return self.poll()

    def of(self, kind: type[T]) -> list[T]:
        return [event for event in self.events if isinstance(event, kind)]

    def one(self, kind: type[T]) -> T:
        (event,) = self.of(kind)
        return event


def lone(
    version: AnyVersion,
    *,
    is_client: bool = False,
    hop: int = 1,
    limits: Limits | None = None,
    options: Options | None = None,
) -> End:
    """An established session whose peer is a test: it writes to `peer_opens`, and to the streams we open."""
    session = FakeSession(version, is_client=is_client)
    options = options or Options(waits_for_setup=False)
    end = End(session, (version,), hop=hop, limits=limits, options=options).started()
    end.session.streams.clear()  # our SETUP
    end.events.clear()
    return end


class Pair:
    """A client and a server, joined. `step`: bytes per slice."""

    def __init__(self, version: AnyVersion, step: int = 1 << 20, **options: Any) -> None:
        named = None if isinstance(version, Version) and version.has_setup_exchange else version
        sessions = FakeSession(named, is_client=True), FakeSession(named, is_client=False)
        sessions[0].other, sessions[1].other = sessions[1], sessions[0]
        self.step = step
        self.client = End(sessions[0], (version,), hop=11, **options)
        self.server = End(sessions[1], (version,), hop=22, **options)
        self.client.start()
        self.server.start()
        self.settle()

    def settle(self) -> None:
        """Move bytes and events until nothing is left."""
        moved = True
        while moved:
            moved = False
            for end in (self.client, self.server):
                moved |= end.session.deliver(self.step)
            for end in (self.client, self.server):
                inbox, end.session.inbox = end.session.inbox, []
                moved |= bool(inbox)
                if inbox:
                    end.receive(*inbox)
                else:
                    end.poll()

    def between(self, *, swap: bool) -> tuple[End, End]:
        """Subscriber and publisher: the client and the server, or the other way round."""
        return (self.server, self.client) if swap else (self.client, self.server)


def frames(version: Version, *payloads: tuple[int, bytes]) -> tuple[bytes, ...]:
    """Frames of a group as the version writes them."""
    chunks = []
    before = 0
    for timestamp, payload in payloads:
        if version.has_timestamps:
            chunks.append(frame_header_timed(timestamp - before, len(payload)) + payload)
            before = timestamp
        else:
            chunks.append(frame_header_plain(len(payload)) + payload)
    return tuple(chunks)


def whole(version: Version, sequence: int, *payloads: tuple[int, bytes]) -> GroupFragment:
    """A complete group."""
    return GroupFragment(sequence, True, 0, frames(version, *payloads), True, None)


def pong() -> Pong:
    return Pong()
