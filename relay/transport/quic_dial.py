"""The client's endpoint: a socket with one connection.

Owns the handshake of an outgoing connection, until a session takes over.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable

from aioquic.quic.configuration import QuicConfiguration

from relay.quic import errors
from relay.quic.driver import Driver
from relay.quic.endpoint import Endpoint
from relay.quic.handler import Close, Handler
from relay.quic.handshake import Handshake
from relay.quic.settings import QuicSettings
from relay.quic.trust import Trust
from relay.quic.udp import Address, Sender, UdpSocket
from relay.runtime import Runtime
from relay.transport.quic_session import QuicSession, SessionLostError, lost_of


class ClientEndpoint(Endpoint):
    """Closed with its connection."""

    pauses_are = logging.DEBUG  # the process may have many of these; one report is enough

    def __init__(
        self,
        settings: QuicSettings,
        trust: Trust,
        session: Callable[[Driver, str], QuicSession],
        runtime: Runtime,
    ) -> None:
        super().__init__(settings, runtime)
        self.session: QuicSession | None = None
        self.handshake: asyncio.Future[None] = self._loop.create_future()
        self._trust = trust
        self._make_session = session

    def dial(self, sock: socket.socket, address: Address, configuration: QuicConfiguration) -> None:
        udp = UdpSocket(sock, self, buffer=self.settings.socket_buffer, now=self.now)
        udp.on_error = self._on_error
        self.add_socket(udp)
        peer = udp.connect(address)
        handshake = Handshake(
            configuration=configuration,
            max_streams_bidi=self.settings.max_streams_bidi,
            max_streams_uni=self.settings.max_streams_uni,
        )
        driver = Driver(self, udp, handshake, peer)
        self.add_connection(driver, handshake.host_cid)
        handshake.connect(peer, self.now())
        self.touch(driver)

    def give_up(self) -> None:
        if not self.handshake.done():
            self.handshake.cancel()
        for driver in tuple(self.connections):
            if not driver.over:
                driver.close(errors.NO_ERROR)
                driver.transmit(self.now())
        self.release()

    def fail(self, error: Exception) -> None:
        if not self.handshake.done():
            self.handshake.set_exception(error)

    # -- Endpoint

    def handshake_done(self, driver: Driver, alpn: str) -> Handler | None:
        assert driver.handshake is not None
        fault = self._trust.check_pin(driver.handshake.peer_certificate, self.runtime.date())
        if fault is not None:
            alert, reason = fault
            driver.close(errors.CRYPTO_ERROR + alert, reason, transport=True)
            self.fail(SessionLostError("tls", None, reason, by_peer=False))
            return None
        session = self.session = self._make_session(driver, alpn)
        session.opened = self._loop.create_future()
        # The waiter may be cancelled before this fails.
        session.opened.add_done_callback(lambda future: future.cancelled() or future.exception())
        if not self.handshake.done():
            self.handshake.set_result(None)
        return session

    def handshake_failed(self, driver: Driver, close: Close) -> None:  # noqa: ARG002 - as the base
        self.fail(lost_of(close))

    def unknown(self, sock: Sender, data: bytes, address: Address, now: float) -> None:  # noqa: ARG002 - as the base
        """A stateless reset has a random connection id."""
        for driver in self.connections:
            driver.receive(data, address, now)
            self._received[driver] = None

    def on_close(self, driver: Driver) -> None:
        connection = driver.connection
        if connection is None or (connection.close_event is not None and connection.close_event.by_peer):
            self._loop.call_soon(self.release)  # a peer's close needs no answer; ours is repeated for 3 PTO

    def remove(self, driver: Driver) -> None:
        super().remove(driver)
        if self._sockets and not self.connections:
            self._loop.call_soon(self.release)

    def release(self) -> None:
        super().release()
        self.fail(SessionLostError("transport", None, "the connection was closed", by_peer=False))

    def _on_error(self, error: OSError) -> None:
        # Once connected, QUIC ignores unauthenticated errors; before, this saves the time-out.
        if isinstance(error, ConnectionRefusedError) and not self.handshake.done():
            self.fail(error)
