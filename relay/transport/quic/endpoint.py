"""The QUIC endpoint: routes datagrams to connections and sends what they write.

Owns the sockets' traffic, routing by connection id, the connections to transmit for at the end of a turn, and
one timer heap. Must never know streams, or sessions beyond `Handler`. Application and client use it.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import math
from collections import Counter
from collections.abc import Callable

from aioquic.quic.configuration import SMALLEST_MAX_DATAGRAM_SIZE, QuicConfiguration
from aioquic.quic.packet import QuicErrorCode, QuicPacketType

from relay.logger import Seconds, get_logger
from relay.model.address import readable_address
from relay.model.incompatible import IncompatiblePeers
from relay.model.limits import Limits
from relay.model.pace import LogThrottle
from relay.runtime import Runtime
from relay.transport.quic import compat, negotiation
from relay.transport.quic.admission import Admission, Admitted, refusal
from relay.transport.quic.certificate_store import CertificatePair, CertificateStore
from relay.transport.quic.connection import SHORTEST_WAIT, Connection, Handler
from relay.transport.quic.fast.connection import FastConnection, PureConnection
from relay.transport.quic.qlog import QlogDirectory
from relay.transport.quic.settings import QuicSettings
from relay.transport.quic.udp import Address, UdpSocket
from relay.transport.raw_quic import RawSession
from relay.transport.session import SessionRequest
from relay.transport.slots import Slots
from relay.transport.sockets import bind_udp
from relay.transport.webtransport_server import WebTransportServerSession
from relay.wire.version import Version, alpns_for

logger = get_logger(__name__)

CONNECTION_ID_LENGTH = 8  # bytes of our connection ids: short headers carry no length
SHORTEST_FIRST_ID = 8  # least bytes of a client's first destination connection id (RFC 9000, 7.2)
LONG_HEADER_START = 6  # bytes before the destination connection id of a long header: flags, version, length
MAX_DATAGRAM_FRAME = 65535

STALL = 0.2  # seconds that a timer may be late before the whole process counts as paused
RENEWAL_INTERVAL = 60.0  # seconds between checks of the generated certificate's age


def quic_configuration(settings: QuicSettings, *, is_client: bool, alpns: list[str]) -> QuicConfiguration:
    """Our settings as aioquic's configuration."""
    return QuicConfiguration(
        alpn_protocols=alpns,
        congestion_control_algorithm=settings.congestion,
        connection_id_length=CONNECTION_ID_LENGTH,
        idle_timeout=settings.idle_timeout,
        is_client=is_client,
        max_data=settings.connection_window,
        max_datagram_frame_size=MAX_DATAGRAM_FRAME,
        max_datagram_size=settings.max_datagram_size,
        max_stream_data=settings.stream_window,
    )


def connection_class(settings: QuicSettings) -> type[compat.RelayQuicConnection]:
    """The class of connections that these settings ask for."""
    if not settings.fast:
        return compat.RelayQuicConnection
    return FastConnection if settings.native else PureConnection


class Endpoint:
    """Common part of server and client; subclasses handle unknown packets and choose handlers.

    Size: the socket's callbacks, the table of connections and the one timer of all meet here. Each datagram passes, and
    each hop to another object would cost once per packet.
    """

    pauses_are = logging.WARNING  # log level of process pauses
    packet_time = math.inf  # `Limits.packet_time`, for servers

    def __init__(self, settings: QuicSettings, runtime: Runtime) -> None:
        self.settings = settings
        self.runtime = runtime
        self.now = runtime.now
        self.cpu_time = runtime.cpu_time  # CPU seconds of this thread
        self.connections: set[Connection] = set()
        self.refused: Counter[str] = Counter()
        self._loop = asyncio.get_running_loop()
        self._sockets: list[UdpSocket] = []
        self._routes: dict[bytes, Connection] = {}
        self._received: dict[Connection, None] = {}
        self._dirty: dict[Connection, None] = {}
        self._flushing = False
        self._delay_transmit = False  # by one loop turn: a new session is about to send several messages
        self._timers: list[tuple[float, int, Connection]] = []
        self._watched: dict[Connection, None] = {}
        self._watch_at = math.inf
        self._watch_timer: asyncio.TimerHandle | None = None
        self._order = itertools.count()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._resumed_at = 0.0
        self._pauses = LogThrottle()
        self.failures = LogThrottle()  # for connections closed by an exception of ours
        self._drops = LogThrottle()

    # -- for subclasses

    def negotiated(self, connection: Connection, alpn: str) -> Handler:
        """Return the handler of a connection, now that its protocol is known."""
        raise NotImplementedError

    def handshake_done(self, connection: Connection) -> bool:  # noqa: ARG002 - for subclasses
        """The handshake of `connection` is complete. Returns whether to go on with it."""
        return True

    def on_close(self, connection: Connection) -> None:
        """`connection` has sent or received its close."""

    def unknown(self, sock: UdpSocket, data: bytes, address: Address, now: float) -> None: ...

    def count_drop(self, connection: Connection) -> None:
        """A datagram of `connection` was dropped: its packets cost too much."""
        self.refused["packet_time"] += 1
        if not connection.cost.logged and self._drops.passes(self.now()):
            connection.cost.logged = True
            value = self.packet_time
            logger.warning("over limit", limit="packet_time", value=value, remote=connection.remote)

    def call_soon(self, callback: Callable[[], None]) -> None:
        self._loop.call_soon(callback)

    def release(self) -> None:
        for connection in tuple(self.connections):
            self.remove(connection)
        for sock in self._sockets:
            sock.close()
        self._sockets.clear()
        self._dirty.clear()
        self._watched.clear()
        self._stop_watching()
        self._timers.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def remove(self, connection: Connection) -> None:
        connection.left()
        self.unwatch(connection)
        connection.quic.release()
        for cid in connection.cids:
            self._routes.pop(cid, None)
        connection.cids.clear()
        self.connections.discard(connection)

    def add_connection(self, connection: Connection, *cids: bytes) -> None:
        self.connections.add(connection)
        for cid in cids:
            self.add_route(cid, connection)

    def add_socket(self, sock: UdpSocket) -> None:
        sock.on_drained = self._drained
        self._sockets.append(sock)

    # -- routing

    def add_route(self, cid: bytes, connection: Connection) -> None:
        self._routes[cid] = connection
        connection.cids.add(cid)

    def drop_route(self, cid: bytes, connection: Connection) -> None:
        self._routes.pop(cid, None)
        connection.cids.discard(cid)

    def on_datagram(self, sock: UdpSocket, data: bytes, address: Address) -> None:
        """Route one datagram by the destination connection id of its first packet."""
        if data[0] & 0x80:
            cid = data[6 : 6 + data[5]] if len(data) > LONG_HEADER_START else b""
        else:
            cid = data[1 : 1 + CONNECTION_ID_LENGTH]
        connection = self._routes.get(cid)
        now = self.now()
        if connection is None:
            self.unknown(sock, data, address, now)
            return
        connection.sock = sock
        connection.receive(data, address, now)
        self._received[connection] = None

    def on_merged(self, sock: UdpSocket, view: memoryview, each: int, address: Address) -> None:
        """Route datagrams of `each` bytes that the kernel has merged; the last one may be shorter."""
        at = 0
        while at < len(view):
            left = view[at:]
            connection = self._routes.get(bytes(left[1 : 1 + CONNECTION_ID_LENGTH]))
            count = 0
            if connection is not None:
                now = self.now()
                count = connection.receive_train(left, each, address, now)
            if count:
                assert connection is not None
                connection.sock = sock
                self._received[connection] = None
            else:
                self.on_datagram(sock, bytes(left[:each]), address)
                if sock.closed:
                    return
                count = 1
            at += count * each

    def _drained(self) -> None:
        received, self._received = self._received, {}
        for connection in received:
            connection.drained(self.now())

    # -- transmitting, once per connection and loop turn

    def touch(self, connection: Connection) -> None:
        if connection.gone:
            return
        self._dirty[connection] = None
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        if self._delay_transmit:
            self._loop.call_soon(self._transmit)  # only once: new sessions must not delay all others for ever
        else:
            self._transmit()

    def _transmit(self) -> None:
        self._flushing = self._delay_transmit = False
        dirty, self._dirty = self._dirty, {}
        now = self.now()
        for connection in dirty:
            if not connection.gone:
                connection.transmit(now)

    # -- timers: one heap; an entry whose deadline has moved later is checked once when it is due

    def arm(self, deadline: float, connection: Connection) -> None:
        heapq.heappush(self._timers, (deadline, next(self._order), connection))
        if self._timers[0][2] is connection and self._timers[0][0] == deadline:
            self._set_timer(deadline)

    def watch(self, connection: Connection, deadline: float) -> None:
        """Check `connection` for lost packets at `deadline`, unless `unwatch` comes first.

        Deadlines move with every packet and are rarely reached, so all connections share one timer.
        """
        self._watched[connection] = None
        if deadline < self._watch_at:
            # An overdue deadline is no pause of ours: count `_look` as due from now on.
            now = self.now()
            at = max(deadline, now + SHORTEST_WAIT)
            if at < self._watch_at:
                if self._watch_timer is not None:
                    self._watch_timer.cancel()
                self._watch_at = at
                self._watch_timer = self.runtime.call_later(at - now, self._look)

    def unwatch(self, connection: Connection) -> None:
        """Everything that `connection` sent is acknowledged, so an idle relay needs no timer."""
        if connection in self._watched:
            del self._watched[connection]
            if not self._watched:
                self._stop_watching()

    def _notice_stall(self, due: float, now: float) -> None:
        """Detect a pause of the process (suspend, SIGSTOP, starvation) by a late timer."""
        late = now - max(due, self._resumed_at)
        if late > STALL:
            self._resumed_at = now  # the other timer was late by the same pause
            # Packets of live peers may be waiting in the socket.
            if self._pauses.passes(now):
                text, connections = "the event loop did not run", len(self.connections)
                logger.log(self.pauses_are, text, late=Seconds(late), connections=connections)
            for connection in self.connections:
                connection.resume(now, late)

    def _stop_watching(self) -> None:
        if self._watch_timer is not None:
            self._watch_timer.cancel()
            self._watch_timer = None
        self._watch_at = math.inf

    def _look(self) -> None:
        now = self.now()
        self._notice_stall(self._watch_at, now)
        watched, self._watched = self._watched, {}
        self._stop_watching()
        for connection in watched:
            at = None if connection.gone else connection.quic.probe_at()
            if at is None:
                continue
            if at <= now:
                connection.on_timer(now)
            else:
                self.watch(connection, at)

    def _set_timer(self, deadline: float) -> None:
        if self._timer is not None:
            if self._timer_at <= deadline:
                return
            self._timer.cancel()
        self._timer_at = deadline
        self._timer = self.runtime.call_later(deadline - self.now(), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        now = self.now()
        self._notice_stall(self._timer_at, now)
        timers = self._timers
        while timers and timers[0][0] <= now:
            deadline, _, connection = heapq.heappop(timers)
            if connection.armed and connection.armed[-1] == deadline:
                connection.armed.pop()
            connection.on_timer(now)
        if timers:
            self._set_timer(timers[0][0])


class QuicServer(Endpoint):
    """A listening endpoint: raw QUIC and WebTransport on one port.

    Size: it holds all that a new connection is given, and the steps from an unknown packet to a connection.
    """

    def __init__(
        self,
        *,
        runtime: Runtime,
        address: tuple[str, int],
        certificates: CertificateStore,
        settings: QuicSettings,
        limits: Limits,
        versions: tuple[Version, ...],
        on_request: Callable[[SessionRequest], None],
        addresses: Slots | None = None,
        qlog: QlogDirectory | None = None,
        incompatible: IncompatiblePeers | None = None,
    ) -> None:
        """`on_request` answers a request now or later. Other transports share the slots `addresses`."""
        super().__init__(settings, runtime)
        self.versions = versions
        self.on_request = on_request
        self.limits = limits
        self.packet_time = limits.packet_time
        self._address = address
        self._certificates = certificates
        alpns = [*alpns_for(sorted(versions, reverse=True)), "h3"]
        self._configuration = quic_configuration(settings, is_client=False, alpns=alpns)
        self._qlog = qlog
        self._logged = quic_configuration(settings, is_client=False, alpns=alpns)  # of connections with qlog
        self._logged.quic_logger = qlog
        self._renewal_due = 0.0
        self._pairs: tuple[CertificatePair, ...] = ()
        self._credentials: dict[int, compat.Credentials] = {}  # of each of `_pairs`, by its address
        self.draining = False  # new connections are refused; existing ones continue
        self._closing: asyncio.Event | None = None
        if addresses is None:
            addresses = Slots("sessions_address", limits.sessions_address, self.refused, self.now)
        self._admission = Admission(limits, self.refused, addresses, self.now)
        self._incompatible = incompatible

    @property
    def addresses(self) -> list[tuple[str, int]]:
        return [sock.address for sock in self._sockets]

    @property
    def segments_refused(self) -> int:
        return sum(sock.segments_refused for sock in self._sockets)

    def use(self, limits: Limits) -> None:
        """Apply other limits to new connections."""
        self.limits = limits
        self.packet_time = limits.packet_time
        self._admission.use(limits)

    async def start(self) -> None:
        """Bind and listen. Raises OSError with a human-readable message."""
        for sock in bind_udp(*self._address):
            udp = UdpSocket(sock, self, buffer=self.settings.socket_buffer, answers=True, now=self.now)
            self.add_socket(udp)

    async def close(self, code: int = 0, reason: str = "", timeout: float = 3.0) -> None:  # noqa: ASYNC109
        """Close every session, wait until the closes are sent (at most `timeout` seconds), close the sockets."""
        self._closing = asyncio.Event()
        for connection in tuple(self.connections):
            if connection.over:
                continue
            if connection.established and connection.handler is not None:
                connection.handler.close(code, reason)
            else:
                connection.close(code, reason)
        self._check_closed()
        try:
            async with asyncio.timeout(timeout):
                await self._closing.wait()
        except TimeoutError:
            left = [connection for connection in self.connections if not connection.over]
            logger.warning("connections did not close in time", connections=len(left), after=Seconds(timeout))
            for connection in left:
                connection.close(code, reason)
                connection.transmit(self.now())
        self.release()
        if self._qlog is not None:
            await self._qlog.close()

    # -- Endpoint

    def negotiated(self, connection: Connection, alpn: str) -> Handler:
        if alpn == "h3":
            return WebTransportServerSession(
                connection,
                versions=self.versions,
                on_request=self._on_request,
                incompatible=self._incompatible,
            )
        return RawSession(connection, alpn=alpn, is_client=False, on_request=self._on_request)

    def handshake_done(self, connection: Connection) -> bool:
        room = self._admission.finish(connection)
        if not room:
            connection.close(
                QuicErrorCode.CONNECTION_REFUSED, "too many sessions of this address", transport=True
            )
        return room

    def on_close(self, connection: Connection) -> None:
        self._admission.end(connection)
        self._check_closed()

    def remove(self, connection: Connection) -> None:
        super().remove(connection)
        offered = compat.refused_protocols(connection.quic) if connection.handler is None else None
        if offered is not None and self._incompatible is not None:
            self._incompatible.met(connection.remote, "quic", offered)
        self._admission.forget(connection)
        self._check_closed()

    def unknown(self, sock: UdpSocket, data: bytes, address: Address, now: float) -> None:
        # Only a first packet makes a connection. Small ones get no answer: a spoofed sender gains nothing.
        if not data[0] & 0x80 or len(data) < SMALLEST_MAX_DATAGRAM_SIZE:
            return
        supported = self._configuration.supported_versions
        if int.from_bytes(data[1:5], "big") not in supported:
            answer = negotiation.answer(data, supported)
            if answer is not None:
                sock.send(answer, address)
            return
        header = compat.parse_first_packet(data, connection_id_length=CONNECTION_ID_LENGTH)
        if (
            header is None
            or header.packet_type is not QuicPacketType.INITIAL
            or len(header.destination_cid) < SHORTEST_FIRST_ID
        ):
            return
        if self._closing is not None:
            return
        if self.draining:
            self.refused["draining"] += 1
            sock.send(refusal(header, QuicErrorCode.CONNECTION_REFUSED), address)
            return
        verdict = self._admission.check(header, address, now)
        if isinstance(verdict, Admitted):
            self._accept(sock, data, address, now, header.destination_cid, verdict)
        elif verdict is not None:
            sock.send(verdict, address)

    # -- inside

    def _on_request(self, request: SessionRequest) -> None:
        # The answer comes in the next turn, the first messages in the one after: send both in one packet.
        self._delay_transmit = True
        self.on_request(request)

    def _accept(
        self, sock: UdpSocket, data: bytes, address: Address, now: float, cid: bytes, admitted: Admitted
    ) -> None:
        self._use_certificates(now)
        quic = connection_class(self.settings)(
            configuration=self._configuration if self._qlog is None or self._qlog.full else self._logged,
            max_streams_bidi=self.settings.max_streams_bidi,
            max_streams_uni=self.settings.max_streams_uni,
            original_destination_connection_id=admitted.original_cid,
            retry_source_connection_id=admitted.retry_cid,
            credentials=self._select if self.settings.fast or len(self._certificates.pairs) > 1 else None,
        )
        connection = Connection(self, sock, quic, address, now)
        connection.setup_deadline = now + self.limits.setup_timeout
        self.add_connection(connection, cid, quic.host_cid)
        self._admission.begin(connection, admitted)
        connection.receive(data, address, now)
        if compat.nothing_decrypted(quic):
            # Nothing could be decrypted: noise must not hold a slot until the idle time-out.
            self.refused["noise"] += 1
            self.remove(connection)
            return
        self._received[connection] = None

    def _use_certificates(self, now: float) -> None:
        if now >= self._renewal_due:
            self._renewal_due = now + RENEWAL_INTERVAL
            if self._certificates.renew_if_due(self.runtime.date()):
                logger.info("the generated certificate is new", certificate=self._certificates.fingerprint)
        pairs = self._certificates.pairs
        if pairs is self._pairs:
            return
        self._pairs = pairs
        self._credentials = {
            id(pair): compat.Credentials(pair.certificate, pair.chain, pair.key) for pair in pairs
        }
        first = pairs[0]
        for configuration in (self._configuration, self._logged):
            configuration.certificate = first.certificate
            configuration.certificate_chain = list(first.chain)
            configuration.private_key = first.key

    def _select(self, server_name: str | None) -> compat.Credentials:
        self._use_certificates(self.now())
        pair = (
            self._certificates.pairs[0] if len(self._pairs) == 1 else self._certificates.select(server_name)
        )
        return self._credentials[id(pair)]

    def _check_closed(self) -> None:
        if self._closing is not None and all(connection.over for connection in self.connections):
            self._closing.set()

    def __repr__(self) -> str:
        where = ", ".join(readable_address(*address) for address in self.addresses)
        return f"<QuicServer {where} connections={len(self.connections)}>"
