"""One QUIC connection between its socket and its session.

Owns the driving of an aioquic connection: datagrams in, events out, one transmit per loop turn, timers,
keep-alive, close. Must never know the content of streams. The endpoint creates and drives connections;
sessions ask them to transmit (`touch`) and to close.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from aioquic.quic.events import (
    ConnectionIdIssued,
    ConnectionIdRetired,
    ConnectionTerminated,
    HandshakeCompleted,
    ProtocolNegotiated,
    QuicEvent,
)
from aioquic.quic.packet import QuicErrorCode, QuicFrameType

from relay.logger import get_logger
from relay.model.address import readable_address
from relay.model.pace import LogThrottle
from relay.transport.quic import compat
from relay.transport.quic.cost import WATCHED, PacketCost
from relay.transport.quic.settings import QuicSettings
from relay.transport.quic.udp import Address, UdpSocket

logger = get_logger(__name__)

KEEP_ALIVE_PING = 0  # id of our own pings; those of a session are 1 and up
SHORTEST_KEEP_ALIVE = 0.5  # least seconds between pings, whatever the peer's idle time-out
LINGER = 0.1  # least seconds for data of a stream to arrive before the close
FAR = 0.01  # seconds from which on a deadline may be rounded up
COARSE = 0.004  # seconds: far deadlines are rounded up to multiples, so that one turn serves many
DISTANT = 1.0  # seconds from which on a deadline is an idle connection's: keep-alive or idle time-out
COARSEST = 0.125  # seconds: multiples for idle connections, which wake the relay at most 8 times a second
SHORTEST_WAIT = 0.001  # seconds until a timer still due is served again: a bug must not spin the loop


class Handler(Protocol):
    """The session, as its connection sees it."""

    @property
    def gathered(self) -> Sequence[object]:
        """Events waiting for `deliver`."""

    def established(self) -> None: ...

    def handle(self, event: QuicEvent) -> None:
        """Handle stream data, a datagram or an answer to a ping."""

    def pump(self) -> None:
        """Hand sendable data to the connection; called before each transmit."""

    def deliver(self) -> None: ...

    def lost(self, event: ConnectionTerminated, *, by_peer: bool) -> None:
        """The connection is closing. Called once."""

    def close(self, code: int = 0, reason: str = "") -> None:
        """End the session for a shutdown."""


class Owner(Protocol):
    """The endpoint, as its connections see it."""

    settings: QuicSettings
    refused: Counter[str]
    failures: LogThrottle

    @property
    def packet_time(self) -> float:
        """CPU seconds per second that packets of one connection may take."""

    def now(self) -> float: ...
    def cpu_time(self) -> float: ...
    def call_soon(self, callback: Callable[[], None]) -> None: ...
    def touch(self, connection: Connection) -> None: ...
    def arm(self, deadline: float, connection: Connection) -> None: ...
    def watch(self, connection: Connection, deadline: float) -> None: ...
    def unwatch(self, connection: Connection) -> None: ...
    def add_route(self, cid: bytes, connection: Connection) -> None: ...
    def drop_route(self, cid: bytes, connection: Connection) -> None: ...
    def negotiated(self, connection: Connection, alpn: str) -> Handler: ...
    def handshake_done(self, connection: Connection) -> bool: ...
    def on_close(self, connection: Connection) -> None: ...
    def count_drop(self, connection: Connection) -> None: ...
    def remove(self, connection: Connection) -> None: ...


class Connection:
    """A connection of an endpoint.

    Size: one connection's timers, addresses and counters are kept flat, because each hop to another object costs on the
    packet path.
    """

    __slots__ = (
        "__weakref__",
        "_close_packets",
        "_close_plan",
        "_closing",
        "_failures",
        "_gone_waiters",
        "_late",
        "_late_bytes",
        "_lost",
        "_next_repeat",
        "_pinged",
        "armed",
        "bytes_received",
        "bytes_sent",
        "cids",
        "cost",
        "endpoint",
        "established",
        "gone",
        "handler",
        "idle_timeout",
        "keep_alive",
        "last_received",
        "quic",
        "remote",
        "setup_deadline",
        "sock",
    )

    def __init__(
        self, endpoint: Owner, sock: UdpSocket, quic: compat.RelayQuicConnection, address: Address, now: float
    ) -> None:
        self.endpoint = endpoint
        self.sock = sock
        self.quic = quic
        self.remote = readable_address(str(address[0]), address[1])
        self.handler: Handler | None = None
        self.cids: set[bytes] = set()
        self.established = False
        self.gone = False
        self.last_received = now
        self.idle_timeout = endpoint.settings.idle_timeout
        self.keep_alive = 0.0  # seconds of silence before a ping; 0 for never, and during the handshake
        self.bytes_received = 0
        self.bytes_sent = 0
        self.cost = PacketCost(fast=quic.fast)
        self.armed: list[float] = []  # deadlines of this connection in the endpoint's heap, latest first
        self.setup_deadline: float | None = None  # for a session request; the handler clears it
        self._pinged = now
        self._close_plan: tuple[float, int, str] | None = None
        self._gone_waiters: list[asyncio.Future[None]] = []
        self._close_packets: list[tuple[bytes, Address]] = []
        self._closing = False  # we have closed; the session may not know yet
        self._late = 0  # datagrams since our close, and their bytes since the last repetition
        self._late_bytes = 0
        self._next_repeat = 1
        self._lost = False
        self._failures = 0

    @property
    def over(self) -> bool:
        """The close was sent or received: nothing is sent any more."""
        return self.gone or compat.is_over(self.quic)

    # -- from the endpoint

    def receive(self, data: bytes, address: Address, now: float) -> None:
        """Receive one datagram; `process` follows when the socket is drained."""
        if self._close_packets:
            self._repeat_close(len(data))
            return
        cost, endpoint = self.cost, self.endpoint
        began = 0.0
        if cost.measured:
            if cost.over(now, endpoint.packet_time):
                self._drop()
                return
            began = endpoint.cpu_time()
        self.last_received = now
        self.bytes_received += len(data)
        cost.datagrams += 1
        try:
            self.quic.receive_datagram(data, address, now)
        except Exception as error:  # noqa: BLE001 - the boundary of one connection
            self.fail(error)
        if cost.measured:
            cost.add(endpoint.cpu_time() - began)
        elif endpoint.now() - now > cost.ordinary:
            cost.measured = WATCHED

    def receive_train(self, buffer: memoryview, each: int, address: Address, now: float) -> int:
        """Receive datagrams of `each` bytes at the start of `buffer` that form a train. Returns how many."""
        cost = self.cost
        if self._close_packets or (cost.measured and cost.over(now, self.endpoint.packet_time)):
            return 0
        try:
            count = self.quic.receive_train(buffer, each, address, now)
        except Exception as error:  # noqa: BLE001 - the boundary of one connection
            self.fail(error)
            return 1
        if count:
            self.last_received = now
            cost.datagrams += count
            self.bytes_received += min(count * each, len(buffer))
        return count

    def drained(self, now: float) -> None:
        """The socket is drained: deliver events, and transmit if needed."""
        quic, cost = self.quic, self.cost
        measured = cost.measured > 0
        began = self.endpoint.cpu_time() if measured else now
        try:
            quic.finish_receiving(now)
        except Exception as error:  # noqa: BLE001 - the boundary of one connection
            self.fail(error)
        if quic.has_news or self._close_packets:
            self.process()
        if measured:
            cost.settle(self.endpoint.cpu_time() - began)
        else:
            if self.endpoint.now() - began > cost.ordinary * cost.datagrams:
                cost.measured = WATCHED
            cost.datagrams = 0
        # Callbacks of this batch's events are queued before ours, so their writes leave in the same transmit.
        if self.gone:
            return
        if quic.has_reason_to_send(now):
            if compat.is_over(quic):
                self.arm(now)
            elif self.established:
                self.touch()
            else:
                self.transmit(now)  # a handshake causes no session events
        elif (probe := quic.probe_at()) is None:
            self.endpoint.unwatch(self)
        else:
            self.endpoint.watch(self, probe)  # restart a probe time-out that had backed off

    def process(self) -> None:
        """Deliver the events of the connection and the session."""
        if self.gone:
            return
        try:
            quic = self.quic
            handler = self.handler
            while (event := quic.next_event()) is not None:
                kind = type(event)
                if kind in _OWN_EVENTS:
                    self._handle(event)
                    handler = self.handler
                elif handler is not None:
                    handler.handle(event)
            if not self._lost and compat.close_seen(quic) is not None:
                self._report_close()
            if handler is not None:
                handler.deliver()
        except Exception as error:  # noqa: BLE001 - the boundary of one connection
            self.fail(error)

    def transmit(self, now: float) -> None:
        """End a loop turn: deliver events, send, set the timer."""
        quic = self.quic
        if quic.events or self._closing or self.handler is None:
            self.process()
            if self.gone:
                return
        try:
            handler = self.handler
            if handler is not None:
                if handler.gathered:
                    handler.deliver()
                handler.pump()
            if compat.close_is_pending(quic):
                self._transmit_close(quic.bursts(now))
            else:
                for buffers, size, address in quic.bursts(now):
                    self.bytes_sent += sum(map(len, buffers))
                    self.sock.send_all(buffers, size, address)
        except Exception as error:  # noqa: BLE001 - the boundary of one connection
            self.fail(error)
        if quic.events:  # writing issues connection ids, which must be routed before the peer uses them
            self.process()
        if not self.gone:
            self.arm(now)

    def _transmit_close(self, bursts: list[compat.Burst]) -> None:
        if not compat.exceeds_amplification_limit(self.quic):
            for buffers, size, address in bursts:
                self.bytes_sent += sum(map(len, buffers))
                self.sock.send_all(buffers, size, address)
        self._close_packets = [(data, address) for buffers, _, address in bursts for data in buffers]
        self.endpoint.on_close(self)

    def on_timer(self, now: float) -> None:
        """Handle a timer; the deadline may have moved since."""
        if self.gone:
            return
        due = self._deadline()
        probe = self.quic.probe_at()
        if (due is None or due > now) and (probe is None or probe > now):
            self.arm(now)
            return
        try:
            self._serve_timer(now)
        except Exception as error:  # noqa: BLE001 - the boundary of one connection
            self.fail(error)
        self.touch()

    def resume(self, now: float, late: float) -> None:
        """The process paused for `late` seconds, which is no silence of the peer.

        A short pause extends the time-out by its length, so a busy relay still detects dead peers. After a
        long one the peer has half the idle time-out.
        """
        half = self.idle_timeout / 2
        if late < half:
            self.last_received = min(now, self.last_received + late)
            compat.expire_later(self.quic, late)
            return
        self.last_received = max(self.last_received, now - half)
        compat.expire_not_before(self.quic, now + half)

    def arm(self, now: float) -> None:
        """Have `on_timer` called at the next deadline, or earlier."""
        quic = self.quic
        probe = quic.probe_at()
        if probe is not None:
            self.endpoint.watch(self, probe)
        if self.armed and not quic.waits() and self.setup_deadline is None and self._close_plan is None:
            return  # only distant deadlines remain, which never move closer
        deadline = self._deadline()
        if deadline is None:
            return
        left = deadline - now
        if left > FAR:
            coarse = COARSEST if left > DISTANT else COARSE
            deadline = math.ceil(deadline / coarse) * coarse
        elif deadline <= now:
            deadline = now + SHORTEST_WAIT
        # Compared as stored in the heap: an entry out of order would never leave the list.
        if self.armed and self.armed[-1] <= deadline:
            return
        self.armed.append(deadline)
        self.endpoint.arm(deadline, self)

    # -- from the session

    def touch(self) -> None:
        """Transmit at the end of this loop turn."""
        self.endpoint.touch(self)

    def close(self, code: int, reason: str = "", *, transport: bool = False) -> None:
        """Close now with an application code or a transport error."""
        self._close_plan = None
        self._closing = True
        self.quic.close(code, QuicFrameType.PADDING if transport else None, reason)
        self.touch()

    async def wait_gone(self) -> None:
        """Wait until the endpoint has removed this connection."""
        if not self.gone:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._gone_waiters.append(waiter)
            await waiter

    def left(self) -> None:
        self.gone = True
        self.handler = None  # breaks a reference cycle
        waiters, self._gone_waiters = self._gone_waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def close_later(self, code: int, reason: str = "") -> None:
        """Close once data just written on a stream had time to arrive."""
        if self._close_plan is None and not self.over:
            rtt = compat.smoothed_rtt(self.quic) or 0.0
            deadline = self.endpoint.now() + max(3 * rtt, LINGER)
            self._close_plan = (deadline, code, reason)
            self.touch()

    def fail(self, error: Exception) -> None:
        """Close only this connection, after an exception in its code."""
        self._failures += 1
        if self._failures == 1:
            if self.endpoint.failures.passes(self.endpoint.now()):
                text = "the connection is closed after an internal error"
                logger.error(text, remote=self.remote, exc_info=error)
            self.close(QuicErrorCode.INTERNAL_ERROR, "internal error", transport=True)
        elif self.handler is not None:
            self.handler = None  # the session cannot even handle its end: close without it
            self.touch()
        else:
            self.endpoint.remove(self)

    # -- inside

    def _drop(self) -> None:
        """Drop a datagram of a connection over its CPU limit. Before a session exists, close it."""
        self.endpoint.count_drop(self)
        if self.setup_deadline is not None and not self.over:
            self.close(QuicErrorCode.INTERNAL_ERROR, "packets take too long to read", transport=True)

    def _handle(self, event: Any) -> None:
        kind = type(event)
        if kind is ConnectionIdIssued:
            self.endpoint.add_route(event.connection_id, self)
        elif kind is ConnectionIdRetired:
            self.endpoint.drop_route(event.connection_id, self)
        elif kind is ProtocolNegotiated:
            if self.handler is None:
                self.handler = self.endpoint.negotiated(self, event.alpn_protocol or "")
        elif kind is HandshakeCompleted:
            self.established = True
            self._agree()
            if self.endpoint.handshake_done(self) and self.handler is not None:
                self.handler.established()
        elif kind is ConnectionTerminated:
            if not self._lost:
                self._report_close()
            if self.handler is not None:
                self.handler.deliver()
            self.endpoint.remove(self)

    def _agree(self) -> None:
        settings = self.endpoint.settings
        self.idle_timeout = compat.idle_timeout(self.quic)
        if settings.keep_alive:
            # The peer's idle time-out may be shorter; keep-alive must suit both.
            self.keep_alive = min(settings.keep_alive, max(self.idle_timeout / 3, SHORTEST_KEEP_ALIVE))
            self.armed.clear()  # this deadline may be nearer than any before
        if settings.mtu_discovery and self.sock.unfragmented:
            self.quic.discover_mtu()

    def _report_close(self) -> None:
        event = compat.close_seen(self.quic)
        assert event is not None
        self._lost = True
        self._close_plan = None
        by_peer = compat.closed_by_peer(self.quic)
        if self.handler is not None:
            self.handler.lost(event, by_peer=by_peer)
        if by_peer:
            self.endpoint.on_close(self)

    def _repeat_close(self, size: int) -> None:
        # Our close may be lost. Repeat it ever more rarely (RFC 9000, 10.2.1), within three times the bytes
        # received: the address may be forged.
        self._late += 1
        self._late_bytes += size
        if self._late >= self._next_repeat and 3 * self._late_bytes >= sum(
            len(each) for each, _ in self._close_packets
        ):
            self._next_repeat = 2 * self._late
            self._late_bytes = 0
            for data, address in self._close_packets:
                self.sock.send(data, address)

    def _deadline(self) -> float | None:
        interval = self.keep_alive
        if interval:
            # A live peer would have answered the ping.
            compat.expire_by(self.quic, self.last_received + self.idle_timeout)
        deadline = self.quic.deadline()
        if deadline is None or compat.is_over(self.quic):
            return deadline
        if interval:
            deadline = min(deadline, max(self.last_received, self._pinged) + interval)
        if self.setup_deadline is not None:
            deadline = min(deadline, self.setup_deadline)
        if self._close_plan is not None:
            deadline = min(deadline, self._close_plan[0])
        return deadline

    def _serve_timer(self, now: float) -> None:
        quic = self.quic
        timer = quic.get_timer()
        if timer is not None and timer <= now:
            quic.handle_timer(now)
        if compat.is_over(quic):
            return
        if self._close_plan is not None and self._close_plan[0] <= now:
            _, code, reason = self._close_plan
            self.close(code, reason)
        elif self.setup_deadline is not None and self.setup_deadline <= now:
            self.setup_deadline = None
            self.endpoint.refused["setup"] += 1
            self.close(QuicErrorCode.NO_ERROR, "no session was asked for in time", transport=True)
        else:
            interval = self.keep_alive
            if interval and max(self.last_received, self._pinged) + interval <= now:
                self._pinged = now
                quic.send_ping(KEEP_ALIVE_PING)


_OWN_EVENTS = frozenset(
    (ConnectionIdIssued, ConnectionIdRetired, ProtocolNegotiated, HandshakeCompleted, ConnectionTerminated)
)
