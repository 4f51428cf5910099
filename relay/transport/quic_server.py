"""The listening QUIC endpoint: raw QUIC and WebTransport on one port.

Owns first packets: admission, certificates, version negotiation, stateless resets.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from aioquic.quic.configuration import SMALLEST_MAX_DATAGRAM_SIZE
from aioquic.quic.packet import QuicErrorCode, QuicPacketType

from relay.logger import Seconds, get_logger
from relay.model.address import readable_address
from relay.model.incompatible import IncompatiblePeers
from relay.model.limits import Limits
from relay.model.pace import TokenBucket
from relay.quic import errors, negotiation, offload
from relay.quic.admission import Admission, Admitted, parse_first_packet, refusal
from relay.quic.certificate_store import CertificatePair, CertificateStore
from relay.quic.driver import Driver
from relay.quic.endpoint import CONNECTION_ID_LENGTH, Endpoint, quic_configuration
from relay.quic.handler import Close, Handler
from relay.quic.handshake import Credentials, Handshake
from relay.quic.qlog import QlogDirectory
from relay.quic.reset_tokens import ResetTokens
from relay.quic.settings import QuicSettings
from relay.quic.udp import Address, Sender, UdpSocket
from relay.runtime import Runtime
from relay.transport.raw_quic import RawSession
from relay.transport.session import SessionRequest
from relay.transport.slots import Slots
from relay.transport.sockets import bind_udp
from relay.transport.webtransport_server import WebTransportServerSession
from relay.wire.version import AnyVersion, alpns_for

logger = get_logger(__name__)

SHORTEST_FIRST_ID: Final = 8  # bytes of a client's first destination connection id (RFC 9000, 7.2)
RENEWAL_INTERVAL: Final = 60.0  # seconds between checks of the generated certificate's age
RESETS: Final = 1_000  # stateless resets per second, and ...
RESETS_BURST: Final = 10_000  # ... at once: all clients of a restarted relay


class QuicServer(Endpoint):
    """A server for raw QUIC and WebTransport on one port.

    Size: what a server adds to an endpoint: address, certificates, admission, qlog, draining.
    """

    def __init__(
        self,
        *,
        runtime: Runtime,
        address: tuple[str, int],
        certificates: CertificateStore,
        settings: QuicSettings,
        limits: Limits,
        versions: tuple[AnyVersion, ...],
        on_request: Callable[[SessionRequest], None],
        addresses: Slots | None = None,
        qlog: QlogDirectory | None = None,
        incompatible: IncompatiblePeers | None = None,
        tokens: ResetTokens | None = None,
    ) -> None:
        """`on_request` answers a request now or later. Other transports share the slots `addresses`.

        `tokens` are those of before a restart, so that clients know at once that their connections are gone.
        """
        super().__init__(settings, runtime, tokens)
        self.versions = versions
        self.on_request = on_request
        self.limits = limits
        self.packet_time = limits.packet_time
        self._address = address
        self._certificates = certificates
        alpns = [*alpns_for(versions), "h3"]
        self._configuration = quic_configuration(settings, is_client=False, alpns=alpns)
        self._qlog = qlog
        self._logged = quic_configuration(settings, is_client=False, alpns=alpns)  # of connections with qlog
        self._logged.quic_logger = qlog
        self._renewal_due = 0.0
        self._pairs: tuple[CertificatePair, ...] = ()
        self._credentials: dict[int, Credentials] = {}  # of each of `_pairs`, by its address
        self.draining = False  # new connections are refused
        self._closing: asyncio.Event | None = None
        if addresses is None:
            addresses = Slots("sessions_address", limits.sessions_address, self.refused, self.now)
        self._admission = Admission(limits, self.refused, addresses, self.now)
        self._incompatible = incompatible
        self._resets = TokenBucket(rate=RESETS, burst=RESETS_BURST)

    @property
    def addresses(self) -> list[tuple[str, int]]:
        return [sock.address for sock in self._sockets]

    @property
    def segments_refused(self) -> int:
        return sum(sock.segments_refused for sock in self._sockets)

    @property
    def receive_drops(self) -> int | None:
        """Datagrams that the kernel dropped on arrival, of all sockets; None if it does not count them."""
        counts = [offload.receive_drops(sock.sock) for sock in self._sockets]
        known = [count for count in counts if count is not None]
        return sum(known) if known else None

    def use(self, limits: Limits) -> None:
        """Apply other limits to new connections."""
        self.limits = limits
        self.packet_time = limits.packet_time
        self._admission.use(limits)

    async def start(self) -> None:
        """Raises OSError with a human-readable message."""
        for sock in bind_udp(*self._address):
            udp = UdpSocket(sock, self, buffer=self.settings.socket_buffer, answers=True, now=self.now)
            self.add_socket(udp)

    async def close(self, code: int = 0, reason: str = "", timeout: float = 3.0) -> None:  # noqa: ASYNC109
        """Close every session, wait until the closes are sent (at most `timeout` seconds)."""
        self._closing = asyncio.Event()
        for driver in tuple(self.connections):
            if driver.over:
                continue
            if driver.session is not None:
                driver.session.close(code, reason)
            else:
                driver.close(code, reason)
        self._check_closed()
        try:
            async with asyncio.timeout(timeout):
                await self._closing.wait()
        except TimeoutError:
            left = [driver for driver in self.connections if not driver.over]
            logger.warning("connections did not close in time", connections=len(left), after=Seconds(timeout))
            for driver in left:
                driver.close(code, reason)
                driver.transmit(self.now())
        self.release()
        if self._qlog is not None:
            await self._qlog.close()

    # -- Endpoint

    def handshake_done(self, driver: Driver, alpn: str) -> Handler | None:
        if not self._admission.finish(driver):
            driver.close(errors.CONNECTION_REFUSED, "too many sessions of this address", transport=True)
            return None
        if alpn == "h3":
            return WebTransportServerSession(
                driver, versions=self.versions, on_request=self._on_request, incompatible=self._incompatible
            )
        return RawSession(driver, alpn=alpn, is_client=False, on_request=self._on_request)

    def handshake_failed(self, driver: Driver, close: Close) -> None:  # noqa: ARG002 - as the base
        assert driver.handshake is not None
        offered = driver.handshake.refused_protocols
        if offered is not None and self._incompatible is not None:
            self._incompatible.met(driver.remote, "quic", offered)

    def on_close(self, driver: Driver) -> None:
        self._admission.end(driver)
        self._check_closed()

    def remove(self, driver: Driver) -> None:
        super().remove(driver)
        self._admission.forget(driver)
        self._check_closed()

    def unknown(self, sock: Sender, data: bytes, address: Address, now: float) -> None:
        if not data[0] & 0x80:
            self._reset(sock, data, address, now)
            return
        # Only a first packet makes a connection. Small ones get no answer: a spoofed sender gains nothing.
        if len(data) < SMALLEST_MAX_DATAGRAM_SIZE:
            return
        supported = self._configuration.supported_versions
        if int.from_bytes(data[1:5], "big") not in supported:
            answer = negotiation.answer(data, supported)
            if answer is not None:
                sock.send(answer, address)
            return
        header = parse_first_packet(data, connection_id_length=CONNECTION_ID_LENGTH)
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

    def _reset(self, sock: Sender, data: bytes, address: Address, now: float) -> None:
        """Answer a packet of an unknown connection: perhaps of before a restart."""
        reset = self.tokens.answer(data, CONNECTION_ID_LENGTH)
        if reset is not None and self._resets.spend(now):
            self.refused["unknown_connection"] += 1
            sock.send(reset, address)

    def _on_request(self, request: SessionRequest) -> None:
        # The answer comes in the next turn, the first messages in the one after: send both in one packet.
        self._delay_transmit = True
        self.on_request(request)

    def _accept(
        self, sock: Sender, data: bytes, address: Address, now: float, cid: bytes, admitted: Admitted
    ) -> None:
        self._use_certificates(now)
        handshake = Handshake(
            configuration=self._configuration if self._qlog is None or self._qlog.full else self._logged,
            max_streams_bidi=self.settings.max_streams_bidi,
            max_streams_uni=self.settings.max_streams_uni,
            token_of=self.token_of,
            original_destination_connection_id=admitted.original_cid,
            retry_source_connection_id=admitted.retry_cid,
            credentials=self._select if len(self._certificates.pairs) > 1 else None,
        )
        driver = Driver(self, sock, handshake, address)
        driver.setup_deadline = now + self.limits.setup_timeout
        self.add_connection(driver, cid, handshake.host_cid)
        self._admission.begin(driver, admitted)
        driver.receive(data, address, now)
        if handshake.nothing_decrypted:
            # Nothing could be decrypted: noise must not hold a slot until the idle time-out.
            self.refused["noise"] += 1
            self.remove(driver)
            return
        self._received[driver] = None

    def _use_certificates(self, now: float) -> None:
        if now >= self._renewal_due:
            self._renewal_due = now + RENEWAL_INTERVAL
            if self._certificates.renew_if_due(self.runtime.date()):
                logger.info("the generated certificate is new", certificate=self._certificates.fingerprint)
        pairs = self._certificates.pairs
        if pairs is self._pairs:
            return
        self._pairs = pairs
        self._credentials = {id(pair): Credentials(pair.certificate, pair.chain, pair.key) for pair in pairs}
        first = pairs[0]
        for configuration in (self._configuration, self._logged):
            configuration.certificate = first.certificate
            configuration.certificate_chain = list(first.chain)
            configuration.private_key = first.key

    def _select(self, server_name: str | None) -> Credentials:
        self._use_certificates(self.now())
        pair = (
            self._certificates.pairs[0] if len(self._pairs) == 1 else self._certificates.select(server_name)
        )
        return self._credentials[id(pair)]

    def _check_closed(self) -> None:
        if self._closing is not None and all(driver.over for driver in self.connections):
            self._closing.set()

    def __repr__(self) -> str:
        where = ", ".join(readable_address(*address) for address in self.addresses)
        return f"<QuicServer {where} connections={len(self.connections)}>"
