"""Two connections joined without sockets, on a clock that the test advances.

`Wire` delivers datagrams at once, may lose them, and jumps to the next deadline when idle.
"""

from __future__ import annotations

import datetime as dt
import math
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar, TypeAlias, cast

from relay.model.pace import LogThrottle
from relay.quic.certificate_store import CertificatePair, generate_certificate
from relay.quic.connection import Connection, Handler
from relay.quic.endpoint import Endpoint, connection_class, quic_configuration
from relay.quic.settings import QuicSettings
from relay.quic.udp import UdpSocket
from relay.transport.quic_session import QuicSession
from relay.transport.raw_quic import RawSession
from relay.transport.session import (
    Event,
    Session,
    SessionClosed,
    SessionRequest,
    StreamData,
    StreamReset,
    StreamStopped,
)
from relay.transport.webtransport_client import WebTransportClientSession
from relay.transport.webtransport_server import WebTransportServerSession
from relay.wire.version import Version, alpns_for

Pairing: TypeAlias = tuple[str, str]

WAYS: dict[str, dict[str, Any]] = {"fast": {}, "pure": {"native": False}, "aioquic": {"fast": False}}
"""Settings of the compiled kernel, the same in Python, and aioquic."""

CLIENT = ("192.0.2.1", 1000)
SERVER = ("192.0.2.2", 443)

PAIR: CertificatePair = generate_certificate(["relay.test"], dt.datetime.now(dt.UTC))


class Recorder:
    """A sink that keeps everything."""

    def __init__(
        self, session: Session | None = None, on_event: Callable[[Event], None] | None = None
    ) -> None:
        self.batches: list[tuple[Event, ...]] = []
        self.on_event = on_event
        if session is not None:
            session.start(self)

    def __call__(self, batch: tuple[Event, ...]) -> None:
        self.batches.append(batch)
        for event in batch:
            if self.on_event is not None:
                self.on_event(event)

    @property
    def events(self) -> list[Event]:
        return [event for batch in self.batches for event in batch]

    def data(self, stream_id: int) -> bytes:
        return b"".join(e.data for e in self.events if isinstance(e, StreamData) and e.stream.id == stream_id)

    @property
    def finished(self) -> list[int]:
        return [e.stream.id for e in self.events if isinstance(e, StreamData) and e.fin]

    @property
    def resets(self) -> list[tuple[int, int]]:
        return [(e.stream.id, e.code) for e in self.events if isinstance(e, StreamReset)]

    @property
    def stops(self) -> list[tuple[int, int]]:
        return [(e.stream.id, e.code) for e in self.events if isinstance(e, StreamStopped)]

    @property
    def closed(self) -> SessionClosed | None:
        ends = [e for e in self.events if isinstance(e, SessionClosed)]
        assert len(ends) <= 1
        assert not ends or self.events[-1] is ends[0]
        return ends[0] if ends else None


class _Socket:
    unfragmented = True

    def __init__(self, wire: Wire, target: str, source: tuple[str, int]) -> None:
        self._wire, self._target, self._source = wire, target, source

    def send(self, data: bytes, address: object) -> None:
        self._wire.flying.append((self._target, data, self._source))

    def send_all(self, buffers: list[bytes], size: int, address: object) -> None:
        for buffer in buffers:
            for start in range(0, len(buffer), size):
                self.send(buffer[start : start + size], address)


class _Side:
    """The endpoint of a connection."""

    def __init__(self, wire: Wire, settings: QuicSettings) -> None:
        self.wire = wire
        self.settings = settings
        self.refused: Counter[str] = Counter()
        self.failures = LogThrottle()
        self.packet_time = math.inf
        self.said: list[Connection] = []
        self.factory: Callable[[Connection, str], Handler] | None = None

    def now(self) -> float:
        return self.wire.now

    def cpu_time(self) -> float:
        return 0.0

    def call_soon(self, callback: Callable[[], None]) -> None:
        callback()

    def touch(self, connection: Connection) -> None:
        self.wire.dirty[connection] = None

    def arm(self, deadline: float, connection: Connection) -> None:
        """The wire asks the connections itself."""

    def watch(self, connection: Connection, deadline: float) -> None:
        """As for `arm`."""

    def unwatch(self, connection: Connection) -> None:
        """As for `arm`."""

    def add_route(self, cid: bytes, connection: Connection) -> None:
        connection.cids.add(cid)

    def drop_route(self, cid: bytes, connection: Connection) -> None:
        connection.cids.discard(cid)

    def negotiated(self, connection: Connection, alpn: str) -> Handler:
        assert self.factory is not None
        return self.factory(connection, alpn)

    def handshake_done(self, connection: Connection) -> bool:
        return True

    def on_close(self, connection: Connection) -> None:
        self.said.append(connection)

    def remove(self, connection: Connection) -> None:
        connection.left()


class Wire:
    """Client and server, joined."""

    pairing: ClassVar[Pairing] = ("fast", "fast")
    """Packet implementations of client and server; set by the fixture of that name."""

    def __init__(
        self,
        kind: str = "quic",
        *,
        versions: tuple[Version, ...] = tuple(Version),
        client_versions: tuple[Version, ...] = tuple(Version),
        client_settings: QuicSettings | None = None,
        server_settings: QuicSettings | None = None,
        alpns: list[str] | None = None,
        client_handler: Callable[[Connection, str], Handler] | None = None,
        path: str = "/demo/cam",
        query: str = "jwt=secret",
        answer: Callable[[SessionRequest], Any] | None = None,
    ) -> None:
        self.now = 100.0
        self.flying: deque[tuple[str, bytes, tuple[str, int]]] = deque()
        self.dirty: dict[Connection, None] = {}
        self.lose: Callable[[str, bytes], bool] = lambda target, data: False
        self.requests: list[SessionRequest] = []
        self._client: QuicSession | None = None
        self.server: QuicSession | None = None
        self.answer: Callable[[SessionRequest], Any] = answer or (lambda request: request.accept())
        sides = [
            _Side(self, replace(settings or QuicSettings(), **WAYS[way]))
            for settings, way in zip((client_settings, server_settings), self.pairing, strict=True)
        ]
        self.client_side, self.server_side = sides
        offers = alpns_for(sorted(client_versions, reverse=True))
        if alpns is None:
            alpns = offers if kind == "quic" else ["h3"]

        def client(connection: Connection, alpn: str) -> Handler:
            session: QuicSession
            if kind == "quic":
                session = RawSession(connection, alpn=alpn, is_client=True)
            else:
                session = WebTransportClientSession(
                    connection, authority="relay.test", path=path, query=query, protocols=offers
                )
            self._client = session
            return session

        def server(connection: Connection, alpn: str) -> Handler:
            if alpn == "h3":
                return WebTransportServerSession(connection, versions=versions, on_request=self._on_request)
            return RawSession(connection, alpn=alpn, is_client=False, on_request=self._on_request)

        self.client_side.factory = client_handler or client
        self.server_side.factory = server

        configuration = quic_configuration(self.client_side.settings, is_client=True, alpns=alpns)
        configuration.server_name = "relay.test"
        configuration.verify_mode = 0
        self.client_quic = connection_class(self.client_side.settings)(
            configuration=configuration,
            max_streams_bidi=self.client_side.settings.max_streams_bidi,
            max_streams_uni=self.client_side.settings.max_streams_uni,
        )
        configuration = quic_configuration(
            self.server_side.settings,
            is_client=False,
            alpns=[*alpns_for(sorted(versions, reverse=True)), "h3"],
        )
        configuration.certificate = PAIR.certificate
        configuration.private_key = PAIR.key
        self.server_quic = connection_class(self.server_side.settings)(
            configuration=configuration,
            max_streams_bidi=self.server_side.settings.max_streams_bidi,
            max_streams_uni=self.server_side.settings.max_streams_uni,
            original_destination_connection_id=self.client_quic.original_destination_connection_id,
        )
        to_server = cast("UdpSocket", _Socket(self, "server", CLIENT))
        to_client = cast("UdpSocket", _Socket(self, "client", SERVER))
        endpoints = [cast("Endpoint", side) for side in sides]
        self.client_connection = Connection(endpoints[0], to_server, self.client_quic, SERVER, self.now)
        self.server_connection = Connection(endpoints[1], to_client, self.server_quic, CLIENT, self.now)
        self.client_quic.connect(SERVER, self.now)
        self.client_connection.touch()

    @property
    def client(self) -> QuicSession:
        assert self._client is not None
        return self._client

    def _on_request(self, request: SessionRequest) -> None:
        self.requests.append(request)
        self.server = self.answer(request)

    def open(self) -> tuple[QuicSession, QuicSession]:
        """Run until both sides have their session."""
        self.run()
        assert self.server is not None
        return self.client, self.server

    def run(self, rounds: int = 10_000) -> None:
        """Exchange packets until both are idle. Serves short timers (ACKs, pacing) on the way."""
        for _ in range(rounds):
            self._exchange()
            due = self._next_deadline()
            if due is None or due > self.now + 0.05:
                return
            self.now = max(due, self.now) + 1e-6
            self._fire()
        raise AssertionError("the exchange does not end")

    def advance(self, seconds: float) -> None:
        """Let time pass, and serve all timers."""
        end = self.now + seconds
        while True:
            self._exchange()
            due = self._next_deadline()
            if due is None or due > end:
                break
            self.now = max(due, self.now) + 1e-6
            self._fire()
        self.now = end
        self._fire()
        self._exchange()

    def _next_deadline(self) -> float | None:
        connections = [
            connection
            for connection in (self.client_connection, self.server_connection)
            if not connection.gone
        ]
        deadlines = [
            at for connection in connections for at in (connection._deadline(), connection.quic.probe_at())
        ]
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def _fire(self) -> None:
        for connection in (self.client_connection, self.server_connection):
            connection.on_timer(self.now)

    def _exchange(self) -> None:
        while self.flying or self.dirty:
            received: dict[Connection, None] = {}
            while self.flying:
                target, data, source = self.flying.popleft()
                if self.lose(target, data):
                    continue
                connection = self.client_connection if target == "client" else self.server_connection
                if not connection.gone:
                    connection.receive(data, source, self.now)
                    received[connection] = None
            for connection in received:
                connection.drained(self.now)
            dirty, self.dirty = self.dirty, {}
            for connection in dirty:
                if not connection.gone:
                    connection.transmit(self.now)
