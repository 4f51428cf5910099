"""The client's endpoint: a socket with one connection, closed with it.

Owns the handshake of an outgoing connection, until a session takes over. Must never choose the target.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable

from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, QuicEvent
from aioquic.quic.packet import QuicErrorCode

from relay.runtime import Runtime
from relay.transport.quic import compat
from relay.transport.quic.connection import Connection, Handler
from relay.transport.quic.endpoint import Endpoint, connection_class
from relay.transport.quic.session import QuicSession, SessionLostError
from relay.transport.quic.settings import QuicSettings
from relay.transport.quic.trust import Trust
from relay.transport.quic.udp import Address, UdpSocket


class ClientEndpoint(Endpoint):
    """A socket with one connection, closed with it."""

    pauses_are = logging.DEBUG  # the process may have many of these; one report is enough

    def __init__(
        self,
        settings: QuicSettings,
        trust: Trust,
        handler: Callable[[Connection, str], QuicSession],
        runtime: Runtime,
    ) -> None:
        super().__init__(settings, runtime)
        self.session: QuicSession | None = None
        self.handshake: asyncio.Future[None] = self._loop.create_future()
        self._trust = trust
        self._make_handler = handler

    def dial(self, sock: socket.socket, address: Address, configuration: QuicConfiguration) -> None:
        """Send the first packet."""
        udp = UdpSocket(sock, self, buffer=self.settings.socket_buffer, now=self.now)
        udp.on_error = self._on_error
        self.add_socket(udp)
        peer = udp.connect(address)
        quic = connection_class(self.settings)(
            configuration=configuration,
            max_streams_bidi=self.settings.max_streams_bidi,
            max_streams_uni=self.settings.max_streams_uni,
        )
        connection = Connection(self, udp, quic, peer, self.now())
        connection.handler = Opening(self)
        self.add_connection(connection, quic.host_cid)
        quic.connect(peer, self.now())
        self.touch(connection)

    def give_up(self) -> None:
        """Abandon the attempt at once."""
        if not self.handshake.done():
            self.handshake.cancel()
        for connection in tuple(self.connections):
            if not connection.over:
                connection.close(QuicErrorCode.NO_ERROR, "")
                connection.transmit(self.now())
        self.release()

    def fail(self, error: Exception) -> None:
        if not self.handshake.done():
            self.handshake.set_exception(error)

    # -- Endpoint

    def negotiated(self, connection: Connection, alpn: str) -> Handler:  # noqa: ARG002 - never reached
        raise AssertionError("a client's handler is set when the handshake is complete")

    def handshake_done(self, connection: Connection) -> bool:
        fault = self._trust.check_pin(connection.quic, self.runtime.date())
        if fault is not None:
            alert, reason = fault
            connection.close(QuicErrorCode.CRYPTO_ERROR + alert, reason, transport=True)
            return False
        session = self._make_handler(connection, connection.quic.tls.alpn_negotiated or "")
        session.opened = self._loop.create_future()
        # The waiter may be cancelled before this fails.
        session.opened.add_done_callback(lambda future: future.cancelled() or future.exception())
        self.session = connection.handler = session
        if not self.handshake.done():
            self.handshake.set_result(None)
        return True

    def on_close(self, connection: Connection) -> None:
        if compat.closed_by_peer(connection.quic):
            self._loop.call_soon(self.release)  # a peer's close needs no answer; ours is repeated for 3 PTO

    def remove(self, connection: Connection) -> None:
        super().remove(connection)
        if self._sockets and not self.connections:
            self._loop.call_soon(self.release)

    def release(self) -> None:
        super().release()
        self.fail(SessionLostError("transport", None, "the connection was closed", by_peer=False))

    def _on_error(self, error: OSError) -> None:
        # Once connected, QUIC ignores unauthenticated errors; before, this saves the time-out.
        if isinstance(error, ConnectionRefusedError) and not self.handshake.done():
            self.fail(error)


class Opening:
    """Handler of a connection until the handshake is complete."""

    gathered = ()

    def __init__(self, endpoint: ClientEndpoint) -> None:
        self._endpoint = endpoint

    def established(self) -> None: ...
    def handle(self, event: QuicEvent) -> None: ...
    def pump(self) -> None: ...
    def deliver(self) -> None: ...
    def close(self, code: int = 0, reason: str = "") -> None: ...

    def lost(self, event: ConnectionTerminated, *, by_peer: bool) -> None:
        kind = compat.close_kind(event)
        reason = event.reason_phrase or f"{kind} error {event.error_code:#x}"
        timed_out = reason == compat.IDLE_REASON and not by_peer
        layer = "timeout" if timed_out else kind
        self._endpoint.fail(SessionLostError(layer, event.error_code, reason, by_peer=by_peer))
