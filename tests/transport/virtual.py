"""Two sessions joined without sockets, on a clock that the test advances.

`Wire` delivers datagrams at once, may lose them, and jumps to the next deadline when idle.
"""

from __future__ import annotations

import math
import random
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar, Protocol, TypeAlias, cast

from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import QuicEvent

from relay.model.pace import LogThrottle
from relay.quic.driver import Driver
from relay.quic.endpoint import quic_configuration
from relay.quic.handler import Close, Handler
from relay.quic.handshake import Handshake
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
from tests.quic.handshaking import CLIENT, PAIR, SERVER, configured, token_of

__all__ = ["CLIENT", "PAIR", "SERVER", "Pairing", "PlainEnd", "Recorder", "Wire"]

Address: TypeAlias = tuple[str, int]
Pairing: TypeAlias = tuple[str, str]

WAYS: dict[str, dict[str, Any]] = {"native": {}, "pure": {"native": False}}
"""Settings of the compiled kernel, and of Python alone."""

SOON = 0.05  # seconds within which `Wire.run` waits for a deadline: acknowledgements, pacing


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


class End(Protocol):
    """A driver, as the wire sees it."""

    gone: bool

    def receive(self, data: bytes, address: Address, now: float) -> None: ...
    def drained(self, now: float) -> None: ...
    def transmit(self, now: float) -> None: ...
    def on_timer(self, now: float) -> None: ...


class _Socket:
    unfragmented = True

    def __init__(self, wire: Wire, target: str, source: Address) -> None:
        self._wire, self._target, self._source = wire, target, source

    def send(self, data: bytes, address: object) -> None:
        self._wire.flying.append((self._target, data, self._source))

    def send_all(self, buffers: list[bytes], size: int, address: object) -> None:
        for buffer in buffers:
            for start in range(0, len(buffer), size):
                self.send(buffer[start : start + size], address)


class Side:
    """The endpoint of a driver."""

    def __init__(self, wire: Wire, settings: QuicSettings) -> None:
        self.wire = wire
        self.settings = settings
        self.refused: Counter[str] = Counter()
        self.failures = LogThrottle()
        self.packet_time = math.inf
        self.random = random.Random(1)
        self.closes: list[Driver] = []
        self.failed: list[Close] = []  # handshakes
        self.factory: Callable[[Driver, str], Handler] | None = None

    def now(self) -> float:
        return self.wire.now

    def cpu_time(self) -> float:
        return 0.0

    def call_soon(self, callback: Callable[[], None]) -> None:
        callback()

    def touch(self, driver: Driver) -> None:
        self.wire.dirty[driver] = None

    def arm(self, deadline: float, driver: Driver) -> None:
        """The wire asks the drivers itself."""

    def watch(self, driver: Driver, deadline: float) -> None:
        """As for `arm`."""

    def unwatch(self, driver: Driver) -> None:
        """As for `arm`."""

    def add_route(self, cid: bytes, driver: Driver) -> None:
        driver.cids.add(cid)

    def drop_route(self, cid: bytes, driver: Driver) -> None:
        driver.cids.discard(cid)

    def token_of(self, cid: bytes) -> bytes:
        return token_of(cid)

    def handshake_done(self, driver: Driver, alpn: str) -> Handler:
        assert self.factory is not None
        return self.factory(driver, alpn)

    def handshake_failed(self, driver: Driver, close: Close) -> None:
        self.failed.append(close)

    def on_close(self, driver: Driver) -> None:
        self.closes.append(driver)

    def count_drop(self, driver: Driver) -> None:
        self.refused["packet_time"] += 1

    def remove(self, driver: Driver) -> None:
        driver.left()


class Wire:
    """Client and server, joined."""

    pairing: ClassVar[Pairing] = ("native", "native")
    """How client and server make packets; set by the fixture of that name."""

    def __init__(
        self,
        kind: str = "quic",
        *,
        versions: tuple[Version, ...] = tuple(Version),
        client_versions: tuple[Version, ...] = tuple(Version),
        client_settings: QuicSettings | None = None,
        server_settings: QuicSettings | None = None,
        alpns: list[str] | None = None,
        client_handler: Callable[[Driver, str], Handler] | None = None,
        client_end: Callable[[Wire], tuple[End, bytes]] | None = None,
        server_end: Callable[[Wire, bytes], End] | None = None,
        path: str = "/demo/cam",
        query: str = "jwt=secret",
        answer: Callable[[SessionRequest], Any] | None = None,
    ) -> None:
        """`client_end` makes a client of another kind, and says its first destination connection id.

        `server_end` makes a server of another kind for that id.
        """
        self.now = 100.0
        self.flying: deque[tuple[str, bytes, Address]] = deque()
        self.dirty: dict[End, None] = {}
        self.lose: Callable[[str, bytes], bool] = lambda target, data: False
        self.requests: list[SessionRequest] = []
        self.client_handshake: Handshake  # of ends that are ours
        self.server_handshake: Handshake
        self._client: QuicSession | None = None
        self.server: QuicSession | None = None
        self.answer: Callable[[SessionRequest], Any] = answer or (lambda request: request.accept())
        self.client_side, self.server_side = (
            Side(self, replace(settings or QuicSettings(), **WAYS[way]))
            for settings, way in zip((client_settings, server_settings), self.pairing, strict=True)
        )
        offers = alpns_for(sorted(client_versions, reverse=True))
        if alpns is None:
            alpns = offers if kind == "quic" else ["h3"]

        def client(driver: Driver, alpn: str) -> Handler:
            session: QuicSession
            if kind == "quic":
                session = RawSession(driver, alpn=alpn, is_client=True)
            else:
                session = WebTransportClientSession(
                    driver, authority="relay.test", path=path, query=query, protocols=offers
                )
            self._client = session
            return session

        def server(driver: Driver, alpn: str) -> Handler:
            if alpn == "h3":
                return WebTransportServerSession(driver, versions=versions, on_request=self._on_request)
            return RawSession(driver, alpn=alpn, is_client=False, on_request=self._on_request)

        self.client_side.factory = client_handler or client
        self.server_side.factory = server
        self._client_end, original = (client_end or self._dial(alpns))(self)
        self._server_end = (server_end or self._listen(versions))(self, original)

    def _dial(self, alpns: list[str]) -> Callable[[Wire], tuple[End, bytes]]:
        """A client of ours."""
        settings = self.client_side.settings
        configuration = quic_configuration(settings, is_client=True, alpns=alpns)
        configuration.server_name = "relay.test"
        configuration.verify_mode = 0

        def end(wire: Wire) -> tuple[End, bytes]:
            handshake = wire.client_handshake = Handshake(
                configuration=configuration,
                max_streams_bidi=settings.max_streams_bidi,
                max_streams_uni=settings.max_streams_uni,
            )
            sock = cast("UdpSocket", _Socket(wire, "server", CLIENT))
            driver = Driver(wire.client_side, sock, handshake, SERVER)
            handshake.connect(SERVER, wire.now)
            driver.wake()
            return driver, handshake.original_destination_connection_id

        return end

    def _listen(self, versions: tuple[Version, ...]) -> Callable[[Wire, bytes], End]:
        """A server of ours."""

        def end(wire: Wire, original: bytes) -> End:
            settings = wire.server_side.settings
            configuration = quic_configuration(
                settings, is_client=False, alpns=[*alpns_for(sorted(versions, reverse=True)), "h3"]
            )
            configuration.certificate = PAIR.certificate
            configuration.private_key = PAIR.key
            handshake = wire.server_handshake = Handshake(
                configuration=configuration,
                max_streams_bidi=settings.max_streams_bidi,
                max_streams_uni=settings.max_streams_uni,
                token_of=token_of,
                original_destination_connection_id=original,
            )
            sock = cast("UdpSocket", _Socket(wire, "client", SERVER))
            return Driver(wire.server_side, sock, handshake, CLIENT)

        return end

    @property
    def client(self) -> QuicSession:
        assert self._client is not None
        return self._client

    @property
    def client_driver(self) -> Driver:
        assert isinstance(self._client_end, Driver)
        return self._client_end

    @property
    def server_driver(self) -> Driver:
        assert isinstance(self._server_end, Driver)
        return self._server_end

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
            self.exchange()
            due = self._next_deadline()
            if due > self.now + SOON:
                return
            self.now = max(due, self.now) + 1e-6
            self._fire()
        raise AssertionError("the exchange does not end")

    def advance(self, seconds: float) -> None:
        """Let time pass, and serve all timers."""
        end = self.now + seconds
        while True:
            self.exchange()
            due = self._next_deadline()
            if due > end:
                break
            self.now = max(due, self.now) + 1e-6
            self._fire()
        self.now = end
        self._fire()
        self.exchange()

    def _next_deadline(self) -> float:
        return min((due_of(end) for end in self._ends if not end.gone), default=math.inf)

    @property
    def _ends(self) -> tuple[End, End]:
        return self._client_end, self._server_end

    def _fire(self) -> None:
        for end in self._ends:
            end.on_timer(self.now)

    def exchange(self) -> None:
        """Deliver what was sent, and what is sent in answer, until no more comes without a timer."""
        while self.flying or self.dirty:
            received: dict[End, None] = {}
            while self.flying:
                target, data, source = self.flying.popleft()
                if self.lose(target, data):
                    continue
                end = self._client_end if target == "client" else self._server_end
                if not end.gone:
                    end.receive(data, source, self.now)
                    received[end] = None
            for end in received:
                end.drained(self.now)
            dirty, self.dirty = self.dirty, {}
            for end in dirty:
                if not end.gone:
                    end.transmit(self.now)


class PlainEnd:
    """aioquic as it is: a client, or the server for a client's first destination connection id."""

    gone = False

    def __init__(self, wire: Wire, alpn: str, original: bytes | None = None) -> None:
        self._wire = wire
        is_client = original is None
        self._flies = ("server", CLIENT) if is_client else ("client", SERVER)
        configuration = configured(is_client=is_client, alpns=(alpn,))
        configuration.max_datagram_frame_size = 65536
        self.quic = QuicConnection(configuration=configuration, original_destination_connection_id=original)
        self.events: list[QuicEvent] = []
        if is_client:
            self.quic.connect(SERVER, wire.now)
            self.touch()

    def handle(self, event: QuicEvent) -> None:
        self.events.append(event)

    def touch(self) -> None:
        self._wire.dirty[self] = None

    def receive(self, data: bytes, address: Address, now: float) -> None:
        self.quic.receive_datagram(data, address, now)

    def drained(self, now: float) -> None:
        while (event := self.quic.next_event()) is not None:
            self.handle(event)
        self.transmit(now)

    def transmit(self, now: float) -> None:
        for data, _ in self.quic.datagrams_to_send(now):
            self._wire.flying.append((self._flies[0], data, self._flies[1]))

    def on_timer(self, now: float) -> None:
        if self.due() <= now:
            self.quic.handle_timer(now)
            self.drained(now)

    def due(self) -> float:
        due = self.quic.get_timer()
        return math.inf if due is None else due


def due_of(end: End) -> float:
    """When `end` wants its timer served."""
    if isinstance(end, PlainEnd):
        return end.due()
    assert isinstance(end, Driver)
    deadlines = [end._deadline()]
    if end.connection is not None:
        deadlines.append(end.connection.probe_at())
    return min((deadline for deadline in deadlines if deadline >= 0), default=math.inf)
