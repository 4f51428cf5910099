"""The QUIC endpoint: datagrams to connections, connections to datagrams, and nothing that a peer does can stop it.

Owns the sockets' traffic, the routing by connection id, the set of connections to transmit for at the end of a loop
turn, and one timer heap. Must never know streams or sessions beyond their `Handler`. `QuicServer` is what the
application starts; the client builds on `Endpoint` as well.
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

from relay.logs import Seconds, get_logger
from relay.model.address import readable_address
from relay.model.limits import Limits
from relay.model.pace import LogThrottle
from relay.model.strangers import Strangers
from relay.runtime import Runtime
from relay.transport.quic import compat, negotiation
from relay.transport.quic.admission import Admission, Welcome, refusal
from relay.transport.quic.certificates import CertificatePair, CertificateStore
from relay.transport.quic.fast.connection import FastConnection, PureConnection
from relay.transport.quic.link import SHORTEST_WAIT, Handler, Link
from relay.transport.quic.qlog import QlogDirectory
from relay.transport.quic.settings import QuicSettings
from relay.transport.quic.udp import Address, UdpSocket
from relay.transport.raw import RawSession
from relay.transport.session import SessionRequest
from relay.transport.slots import Slots
from relay.transport.sockets import bind_udp
from relay.transport.webtransport_server import WebTransportServerSession
from relay.wire.version import Version, alpns_for

logger = get_logger(__name__)

CONNECTION_ID_LENGTH = 8
"""Bytes of our connection ids: short packets are routed by the bytes after the first one."""

SHORTEST_FIRST_ID = 8
"""Bytes that a client's first destination connection id has at least (RFC 9000, 7.2)."""

LONG_HEADER_START = 6
"""Bytes before the destination connection id of a long packet: flags, version, length."""

MAX_DATAGRAM_FRAME = 65535
"""What we take in one DATAGRAM frame."""

STALL = 0.2
"""Seconds that a timer may be late until it is taken for a pause of the whole process."""

RENEWAL_INTERVAL = 60.0
"""Seconds between looks at the age of a generated certificate."""


def quic_configuration(settings: QuicSettings, *, is_client: bool, alpns: list[str]) -> QuicConfiguration:
    """Our settings in aioquic's words."""
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
    """What carries packets."""
    if not settings.fast:
        return compat.RelayQuicConnection
    return FastConnection if settings.native else PureConnection


class Endpoint:
    """What server and client share. Subclasses say what an unknown packet means and who handles a connection."""

    pauses_are = logging.WARNING
    """How loudly a pause of the process is told."""

    packet_time = math.inf
    """`Limits.packet_time`, where peers come by themselves."""

    def __init__(self, settings: QuicSettings, runtime: Runtime) -> None:
        self.settings = settings
        self.runtime = runtime
        self.now = runtime.now
        self.cpu_time = runtime.cpu_time
        """Seconds that this thread has run: what others had of the CPU meanwhile does not count."""
        self.links: set[Link] = set()
        self.refused: Counter[str] = Counter()
        """What was turned away, by reason."""
        self._loop = asyncio.get_running_loop()
        self._sockets: list[UdpSocket] = []
        self._routes: dict[bytes, Link] = {}
        self._received: dict[Link, None] = {}
        self._dirty: dict[Link, None] = {}
        self._flushing = False
        self._patient = False
        """Whether transmitting waits a loop turn more: somebody new is about to be told several things."""
        self._timers: list[tuple[float, int, Link]] = []
        self._watched: dict[Link, None] = {}
        self._watch_at = math.inf
        self._watch_timer: asyncio.TimerHandle | None = None
        self._order = itertools.count()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._resumed_at = 0.0
        self._pauses = LogThrottle()
        self.failures = LogThrottle()
        """Of connections that end by an exception in this process."""
        self._drops = LogThrottle()

    # -- for subclasses

    def negotiated(self, link: Link, alpn: str) -> Handler:
        """Return who handles a connection, now that its protocol is known."""
        raise NotImplementedError

    def handshake_done(self, link: Link) -> bool:  # noqa: ARG002 - for subclasses
        """The handshake of `link` is complete. Returns whether to go on with it."""
        return True

    def said_goodbye(self, link: Link) -> None:
        """The close of `link` went out, or came in."""

    def unknown(self, sock: UdpSocket, data: bytes, address: Address, now: float) -> None:
        """A datagram that no connection expects."""

    def count_drop(self, link: Link) -> None:
        """A datagram of `link` was not read, since its packets cost too much."""
        self.refused["packet_time"] += 1
        if not link.cost.logged and self._drops.passes(self.now()):
            link.cost.logged = True
            value = self.packet_time
            logger.warning("over limit", limit="packet_time", value=value, remote=link.remote)

    def call_soon(self, callback: Callable[[], None]) -> None:
        self._loop.call_soon(callback)

    def release(self) -> None:
        """Give the sockets back, and forget every connection."""
        for link in tuple(self.links):
            self.remove(link)
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

    def remove(self, link: Link) -> None:
        """Forget a connection. What arrives for it later is unknown."""
        link.left()
        self.unwatch(link)
        link.quic.let_go()
        for cid in link.cids:
            self._routes.pop(cid, None)
        link.cids.clear()
        self.links.discard(link)

    def add_link(self, link: Link, *cids: bytes) -> None:
        self.links.add(link)
        for cid in cids:
            self.add_route(cid, link)

    def add_socket(self, sock: UdpSocket) -> None:
        sock.on_drained = self._drained
        self._sockets.append(sock)

    # -- routing

    def add_route(self, cid: bytes, link: Link) -> None:
        self._routes[cid] = link
        link.cids.add(cid)

    def drop_route(self, cid: bytes, link: Link) -> None:
        self._routes.pop(cid, None)
        link.cids.discard(cid)

    def on_datagram(self, sock: UdpSocket, data: bytes, address: Address) -> None:
        """Route one datagram by the destination connection id of its first packet."""
        if data[0] & 0x80:
            cid = data[6 : 6 + data[5]] if len(data) > LONG_HEADER_START else b""
        else:
            cid = data[1 : 1 + CONNECTION_ID_LENGTH]
        link = self._routes.get(cid)
        now = self.now()
        if link is None:
            self.unknown(sock, data, address, now)
            return
        link.sock = sock
        link.receive(data, address, now)
        self._received[link] = None

    def on_merged(self, sock: UdpSocket, view: memoryview, each: int, address: Address) -> None:
        """Route datagrams of `each` bytes that the kernel has merged; the last one may have fewer."""
        at = 0
        while at < len(view):
            left = view[at:]
            link = self._routes.get(bytes(left[1 : 1 + CONNECTION_ID_LENGTH]))
            count = 0
            if link is not None:
                now = self.now()
                count = link.receive_run(left, each, address, now)
            if count:
                assert link is not None
                link.sock = sock
                self._received[link] = None
            else:
                self.on_datagram(sock, bytes(left[:each]), address)
                if sock.closed:
                    return
                count = 1
            at += count * each

    def _drained(self) -> None:
        received, self._received = self._received, {}
        for link in received:
            link.drained(self.now())

    # -- transmitting, once per connection and loop turn

    def touch(self, link: Link) -> None:
        if link.gone:
            return
        self._dirty[link] = None
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        if self._patient:
            self._loop.call_soon(self._transmit)  # once: newcomers in every turn must not silence all others
        else:
            self._transmit()

    def _transmit(self) -> None:
        self._flushing = self._patient = False
        dirty, self._dirty = self._dirty, {}
        now = self.now()
        for link in dirty:
            if not link.gone:
                link.transmit(now)

    # -- timers: one heap; a deadline that moved later costs one look when its old entry comes up

    def arm(self, deadline: float, link: Link) -> None:
        heapq.heappush(self._timers, (deadline, next(self._order), link))
        if self._timers[0][2] is link and self._timers[0][0] == deadline:
            self._set_timer(deadline)

    def watch(self, link: Link, deadline: float) -> None:
        """Look whether packets of `link` are lost, at `deadline`, unless `unwatch` comes first.

        These deadlines move with every packet and are hardly ever met, so all links have one timer together.
        """
        self._watched[link] = None
        if deadline < self._watch_at:
            # A deadline that has passed already is late by no pause of ours: `_look` is due from now on.
            now = self.now()
            at = max(deadline, now + SHORTEST_WAIT)
            if at < self._watch_at:
                if self._watch_timer is not None:
                    self._watch_timer.cancel()
                self._watch_at = at
                self._watch_timer = self.runtime.call_later(at - now, self._look)

    def unwatch(self, link: Link) -> None:
        """Everything that `link` sent has arrived. An idle relay is not woken to find that out."""
        if link in self._watched:
            del self._watched[link]
            if not self._watched:
                self._stop_watching()

    def _notice_stall(self, due: float, now: float) -> None:
        """A timer was due then: if it is late, perhaps the machine slept, or the process was stopped or starved."""
        late = now - max(due, self._resumed_at)
        if late > STALL:
            self._resumed_at = now  # the other timer was late as well, by the same pause
            # Live peers have had no chance to be heard.
            if self._pauses.passes(now):
                text, connections = "the event loop did not run", len(self.links)
                logger.log(self.pauses_are, text, late=Seconds(late), connections=connections)
            for link in self.links:
                link.resume(now, late)

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
        for link in watched:
            at = None if link.gone else link.quic.probe_at()
            if at is None:
                continue
            if at <= now:
                link.on_timer(now)
            else:
                self.watch(link, at)

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
            deadline, _, link = heapq.heappop(timers)
            if link.armed and link.armed[-1] == deadline:
                link.armed.pop()
            link.on_timer(now)
        if timers:
            self._set_timer(timers[0][0])


class QuicServer(Endpoint):
    """A listening endpoint: raw QUIC and WebTransport on one port."""

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
        strangers: Strangers | None = None,
    ) -> None:
        """`on_request` is called for each peer that wants a session, and answers now or later.

        `addresses` are the slots of sessions by address, if other transports fill them as well. `qlog` is where
        connections are logged, if at all. `strangers` is told of peers that no version is common with.
        """
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
        self._logged = quic_configuration(settings, is_client=False, alpns=alpns)
        """The same for connections that are logged."""
        self._logged.quic_logger = qlog
        self._renewal_due = 0.0
        self._pairs: tuple[CertificatePair, ...] = ()
        self._credentials: dict[int, compat.Credentials] = {}
        """Of each of `_pairs`, by its address."""
        self.draining = False
        """Whether new connections are refused while those that there are go on."""
        self._closing: asyncio.Event | None = None
        if addresses is None:
            addresses = Slots("sessions_address", limits.sessions_address, self.refused, self.now)
        self._admission = Admission(limits, self.refused, addresses, self.now)
        self._strangers = strangers

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Where the server listens, with the real port."""
        return [sock.address for sock in self._sockets]

    @property
    def segments_refused(self) -> int:
        """How often the kernel refused to cut datagrams apart."""
        return sum(sock.segments_refused for sock in self._sockets)

    @property
    def connections(self) -> int:
        """Connections that are not closed, their handshake finished or not."""
        return sum(not link.over for link in self.links)

    def use(self, limits: Limits) -> None:
        """Other limits hold from now on, for those who come."""
        self.limits = limits
        self.packet_time = limits.packet_time
        self._admission.use(limits)

    async def start(self) -> None:
        """Bind and listen. Raises OSError with a message for people."""
        for sock in bind_udp(*self._address):
            udp = UdpSocket(sock, self, buffer=self.settings.socket_buffer, answers=True, now=self.now)
            self.add_socket(udp)

    async def close(self, code: int = 0, reason: str = "", timeout: float = 3.0) -> None:  # noqa: ASYNC109
        """Close every session, wait until the closes went out (at most `timeout` seconds), release the sockets."""
        self._closing = asyncio.Event()
        for link in tuple(self.links):
            if link.over:
                continue
            if link.established and link.handler is not None:
                link.handler.close(code, reason)
            else:
                link.close(code, reason)
        self._check_closed()
        try:
            async with asyncio.timeout(timeout):
                await self._closing.wait()
        except TimeoutError:
            left = [link for link in self.links if not link.over]
            logger.warning("connections did not close in time", connections=len(left), after=Seconds(timeout))
            for link in left:
                link.close(code, reason)
                link.transmit(self.now())
        self.release()
        if self._qlog is not None:
            await self._qlog.close()

    # -- Endpoint

    def negotiated(self, link: Link, alpn: str) -> Handler:
        if alpn == "h3":
            return WebTransportServerSession(
                link, versions=self.versions, on_request=self._on_request, strangers=self._strangers
            )
        return RawSession(link, alpn=alpn, is_client=False, on_request=self._on_request)

    def handshake_done(self, link: Link) -> bool:
        room = self._admission.finish(link)
        if not room:
            link.close(QuicErrorCode.CONNECTION_REFUSED, "too many sessions of this address", transport=True)
        return room

    def said_goodbye(self, link: Link) -> None:
        self._admission.end(link)
        self._check_closed()

    def remove(self, link: Link) -> None:
        super().remove(link)
        offered = compat.refused_protocols(link.quic) if link.handler is None else None
        if offered is not None and self._strangers is not None:
            self._strangers.met(link.remote, "quic", offered)
        self._admission.forget(link)
        self._check_closed()

    def unknown(self, sock: UdpSocket, data: bytes, address: Address, now: float) -> None:
        # Only a first packet makes a connection. Small datagrams get no answer whatever they ask for, so that a
        # spoofed sender gains nothing.
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
        verdict = self._admission.judge(header, address, now)
        if isinstance(verdict, Welcome):
            self._accept(sock, data, address, now, header.destination_cid, verdict)
        elif verdict is not None:
            sock.send(verdict, address)

    # -- inside

    def _on_request(self, request: SessionRequest) -> None:
        # The answer comes in the next turn, and what the session says first in the one after: one packet for both.
        self._patient = True
        self.on_request(request)

    def _accept(
        self, sock: UdpSocket, data: bytes, address: Address, now: float, cid: bytes, welcome: Welcome
    ) -> None:
        self._use_certificates(now)
        quic = connection_class(self.settings)(
            configuration=self._configuration if self._qlog is None or self._qlog.full else self._logged,
            max_streams_bidi=self.settings.max_streams_bidi,
            max_streams_uni=self.settings.max_streams_uni,
            original_destination_connection_id=welcome.original_cid,
            retry_source_connection_id=welcome.retry_cid,
            credentials=self._select if self.settings.fast or len(self._certificates.pairs) > 1 else None,
        )
        link = Link(self, sock, quic, address, now)
        link.setup_deadline = now + self.limits.setup_timeout
        self.add_link(link, cid, quic.host_cid)
        self._admission.begin(link, welcome)
        link.receive(data, address, now)
        if compat.is_unborn(quic):
            # Nothing in it could be decrypted: noise, which must not hold a place until the idle time-out.
            self.refused["noise"] += 1
            self.remove(link)
            return
        self._received[link] = None

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
        if self._closing is not None and all(link.over for link in self.links):
            self._closing.set()

    def __repr__(self) -> str:
        where = ", ".join(readable_address(*address) for address in self.addresses)
        return f"<QuicServer {where} connections={len(self.links)}>"
