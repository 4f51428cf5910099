"""One QUIC connection between its socket and its session.

Owns the driving of an aioquic connection: datagrams in, events out, one transmit per loop turn, timers, keep-alive,
and the end. Must never know what the streams carry: that is the session's. The endpoint creates links and calls them;
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

from relay.logs import get_logger
from relay.model.address import readable_address
from relay.model.pace import LogThrottle
from relay.transport.quic import compat
from relay.transport.quic.cost import WATCHED, PacketCost
from relay.transport.quic.settings import QuicSettings
from relay.transport.quic.udp import Address, UdpSocket

logger = get_logger(__name__)

KEEP_ALIVE_PING = 0
"""The id of our own pings, apart from those that a session asked for (1 and up)."""

SHORTEST_KEEP_ALIVE = 0.5
"""Seconds between pings at least, whatever the peer's idle time-out."""

LINGER = 0.1
"""Seconds that a goodbye inside a stream gets to arrive before the connection is closed, at least."""

FAR = 0.01
"""Seconds from which on a deadline may be served a little later."""

COARSE = 0.004
"""Seconds to multiples of which far deadlines are put off, so that those of many connections are served in one turn."""

DISTANT = 1.0
"""Seconds from which on a deadline is that of an idle connection: a keep-alive, or the idle time-out."""

COARSEST = 0.125
"""Seconds to multiples of which distant deadlines are put off: hundreds of idle connections wake the relay eight times
a second at most."""

SHORTEST_WAIT = 0.001
"""What a timer that is due already waits after it was served: a bug in a deadline must not spin the loop."""


class Handler(Protocol):
    """What a link needs of its session."""

    @property
    def gathered(self) -> Sequence[object]:
        """The events that wait for `deliver`."""

    def established(self) -> None:
        """The handshake is complete."""

    def handle(self, event: QuicEvent) -> None:
        """Something arrived on a stream, or a datagram, or an answer to a ping."""

    def pump(self) -> None:
        """Hand what may be sent now to the connection; called right before each transmit."""

    def deliver(self) -> None:
        """Pass on the events gathered so far, as one batch."""

    def lost(self, event: ConnectionTerminated, *, by_peer: bool) -> None:
        """The connection is closing, by whomever. Called once."""

    def close(self, code: int = 0, reason: str = "") -> None:
        """End the session, for a shutdown."""


class Owner(Protocol):
    """What a link needs of its endpoint."""

    settings: QuicSettings
    refused: Counter[str]
    failures: LogThrottle

    @property
    def packet_time(self) -> float:
        """CPU seconds that packets of one connection may take of each second."""

    def now(self) -> float: ...
    def cpu_time(self) -> float: ...
    def call_soon(self, callback: Callable[[], None]) -> None: ...
    def touch(self, link: Link) -> None: ...
    def arm(self, deadline: float, link: Link) -> None: ...
    def watch(self, link: Link, deadline: float) -> None: ...
    def unwatch(self, link: Link) -> None: ...
    def add_route(self, cid: bytes, link: Link) -> None: ...
    def drop_route(self, cid: bytes, link: Link) -> None: ...
    def negotiated(self, link: Link, alpn: str) -> Handler: ...
    def handshake_done(self, link: Link) -> bool: ...
    def said_goodbye(self, link: Link) -> None: ...
    def count_drop(self, link: Link) -> None: ...
    def remove(self, link: Link) -> None: ...


class Link:
    """A connection on an endpoint."""

    __slots__ = (
        "__weakref__",
        "_close_plan",
        "_closing",
        "_failures",
        "_gone_waiters",
        "_goodbye",
        "_late",
        "_late_bytes",
        "_lost",
        "_next_goodbye",
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
        "heard",
        "idle_timeout",
        "keep_alive",
        "quic",
        "remote",
        "setup_deadline",
        "sock",
    )

    def __init__(
        self,
        endpoint: Owner,
        sock: UdpSocket,
        quic: compat.RelayQuicConnection,
        address: Address,
        now: float,
    ) -> None:
        self.endpoint = endpoint
        self.sock = sock
        self.quic = quic
        self.remote = readable_address(str(address[0]), address[1])
        self.handler: Handler | None = None
        self.cids: set[bytes] = set()
        self.established = False
        self.gone = False
        self.heard = now
        """When a datagram came in last."""
        self.idle_timeout = endpoint.settings.idle_timeout
        self.keep_alive = 0.0
        """Seconds of silence until we ping; 0 until the handshake is complete, or for never."""
        self.bytes_received = 0
        self.bytes_sent = 0
        self.cost = PacketCost(fast=quic.fast)
        self.armed: list[float] = []
        """Deadlines that the endpoint's heap holds for this link, latest first."""
        self.setup_deadline: float | None = None
        """By when the peer must have asked for a session; the handler clears it."""
        self._pinged = now
        self._close_plan: tuple[float, int, str] | None = None
        self._gone_waiters: list[asyncio.Future[None]] = []
        self._goodbye: list[tuple[bytes, Address]] = []
        self._closing = False
        """Whether we have closed the connection, which the session may not know yet."""
        self._late = 0
        """Datagrams since our close, and of how many bytes since it was last repeated."""
        self._late_bytes = 0
        self._next_goodbye = 1
        self._lost = False
        self._failures = 0

    @property
    def over(self) -> bool:
        """Whether the close went out or came in, so that nothing is to be sent any more."""
        return self.gone or compat.is_over(self.quic)

    # -- from the endpoint

    def receive(self, data: bytes, address: Address, now: float) -> None:
        """Take one datagram; `process` follows when the socket is drained."""
        if self._goodbye:
            self._repeat_goodbye(len(data))
            return
        cost, endpoint = self.cost, self.endpoint
        began = 0.0
        if cost.measured:
            if cost.over(now, endpoint.packet_time):
                self._drop()
                return
            began = endpoint.cpu_time()
        self.heard = now
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

    def receive_run(self, buffer: memoryview, each: int, address: Address, now: float) -> int:
        """Take the datagrams of `each` bytes at the start of `buffer` that go together. Returns how many; 0 for none."""
        cost = self.cost
        if self._goodbye or (cost.measured and cost.over(now, self.endpoint.packet_time)):
            return 0
        try:
            count = self.quic.receive_run(buffer, each, address, now)
        except Exception as error:  # noqa: BLE001 - the boundary of one connection
            self.fail(error)
            return 1
        if count:
            self.heard = now
            cost.datagrams += count
            self.bytes_received += min(count * each, len(buffer))
        return count

    def drained(self, now: float) -> None:
        """No more datagrams for now: pass on what they brought, and transmit if that gives a reason to."""
        quic, cost = self.quic, self.cost
        measured = cost.measured > 0
        began = self.endpoint.cpu_time() if measured else now
        try:
            quic.finish_receiving(now)
        except Exception as error:  # noqa: BLE001 - the boundary of one connection
            self.fail(error)
        if quic.has_news or self._goodbye:
            self.process()
        if measured:
            cost.settle(self.endpoint.cpu_time() - began)
        else:
            if self.endpoint.now() - began > cost.ordinary * cost.datagrams:
                cost.measured = WATCHED
            cost.datagrams = 0
        # Transmission comes after what the events of this batch set off: those callbacks are queued before ours.
        if self.gone:
            return
        if quic.has_reason_to_send(now):
            if compat.is_over(quic):
                self.arm(now)
            elif self.established:
                self.touch()
            else:
                self.transmit(now)  # nothing follows from a handshake but the handshake
        elif (probe := quic.probe_at()) is None:
            self.endpoint.unwatch(self)
        else:
            self.endpoint.watch(self, probe)  # a probe time-out that had backed off starts anew

    def process(self) -> None:
        """Pass on what the connection and the session have to tell."""
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
        """Everything of this loop turn: events of local calls, then what is to be sent, then the timer."""
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
                self._transmit_close(quic.flights(now))
            else:
                for buffers, size, address in quic.flights(now):
                    self.bytes_sent += sum(map(len, buffers))
                    self.sock.send_all(buffers, size, address)
        except Exception as error:  # noqa: BLE001 - the boundary of one connection
            self.fail(error)
        # Writing issues connection ids, whose events must be known before the peer can use them.
        if quic.events:
            self.process()
        if not self.gone:
            self.arm(now)

    def _transmit_close(self, flights: list[compat.Flight]) -> None:
        if not compat.exceeds_allowance(self.quic):
            for buffers, size, address in flights:
                self.bytes_sent += sum(map(len, buffers))
                self.sock.send_all(buffers, size, address)
        self._goodbye = [(data, address) for buffers, _, address in flights for data in buffers]
        self.endpoint.said_goodbye(self)

    def on_timer(self, now: float) -> None:
        """A deadline has passed; it may have moved since."""
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
        """We did not run for `late` seconds, which is no silence of the peer's.

        A short pause is added to its time and no more: a relay that is always short of time would else keep every dead
        peer for ever. After a long one it gets half the idle time-out to be heard.
        """
        half = self.idle_timeout / 2
        if late < half:
            self.heard = min(now, self.heard + late)
            compat.expire_later(self.quic, late)
            return
        self.heard = max(self.heard, now - half)
        compat.expire_not_before(self.quic, now + half)

    def arm(self, now: float) -> None:
        """Have `on_timer` called at the next deadline, or earlier."""
        quic = self.quic
        probe = quic.probe_at()
        if probe is not None:
            self.endpoint.watch(self, probe)
        if self.armed and not quic.waits() and self.setup_deadline is None and self._close_plan is None:
            return  # all that is left are distant deadlines, which only ever move back
        deadline = self._deadline()
        if deadline is None:
            return
        left = deadline - now
        if left > FAR:
            coarse = COARSEST if left > DISTANT else COARSE
            deadline = math.ceil(deadline / coarse) * coarse
        elif deadline <= now:
            deadline = now + SHORTEST_WAIT
        # Compared as it goes into the heap: one entry out of order would never be taken off the list again.
        if self.armed and self.armed[-1] <= deadline:
            return
        self.armed.append(deadline)
        self.endpoint.arm(deadline, self)

    # -- from the session

    def touch(self) -> None:
        """Transmit at the end of this loop turn."""
        self.endpoint.touch(self)

    def close(self, code: int, reason: str = "", *, transport: bool = False) -> None:
        """Close the connection now: with an application code, or with a transport error."""
        self._close_plan = None
        self._closing = True
        self.quic.close(code, QuicFrameType.PADDING if transport else None, reason)
        self.touch()

    async def wait_gone(self) -> None:
        """Wait until the endpoint has forgotten this connection."""
        if not self.gone:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._gone_waiters.append(waiter)
            await waiter

    def left(self) -> None:
        """The endpoint has forgotten this connection."""
        self.gone = True
        self.handler = None  # it knows us: a ring that only the garbage collector would find
        waiters, self._gone_waiters = self._gone_waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def close_later(self, code: int, reason: str = "") -> None:
        """Close once what was just written on a stream had time to arrive."""
        if self._close_plan is None and not self.over:
            rtt = compat.smoothed_rtt(self.quic) or 0.0
            deadline = self.endpoint.now() + max(3 * rtt, LINGER)
            self._close_plan = (deadline, code, reason)
            self.touch()

    def fail(self, error: Exception) -> None:
        """End this connection, and only it, after an exception while working for it."""
        self._failures += 1
        if self._failures == 1:
            if self.endpoint.failures.passes(self.endpoint.now()):
                text = "the connection is closed after an internal error"
                logger.error(text, remote=self.remote, exc_info=error)
            self.close(QuicErrorCode.INTERNAL_ERROR, "internal error", transport=True)
        elif self.handler is not None:
            # The session cannot even hear of its end: say goodbye without it.
            self.handler = None
            self.touch()
        else:
            self.endpoint.remove(self)

    # -- inside

    def _drop(self) -> None:
        """A datagram comes while its connection has cost too much: it is lost. Without a session so is the connection."""
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
        """What follows from the peer's transport parameters."""
        settings = self.endpoint.settings
        self.idle_timeout = compat.idle_timeout(self.quic)
        if settings.keep_alive:
            # The peer may give up on silence earlier than we do, and the pings must come in good time for both.
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
            self.endpoint.said_goodbye(self)

    def _repeat_goodbye(self, size: int) -> None:
        # The peer still talks, so our close may be lost. Answer ever more rarely (RFC 9000, 10.2.1), and with no more
        # than three times what came: the address may be forged.
        self._late += 1
        self._late_bytes += size
        if self._late >= self._next_goodbye and 3 * self._late_bytes >= sum(
            len(each) for each, _ in self._goodbye
        ):
            self._next_goodbye = 2 * self._late
            self._late_bytes = 0
            for data, address in self._goodbye:
                self.sock.send(data, address)

    def _deadline(self) -> float | None:
        interval = self.keep_alive
        if interval:
            # Pinged in good time, a live peer would have answered.
            compat.expire_by(self.quic, self.heard + self.idle_timeout)
        deadline = self.quic.deadline()
        if deadline is None or compat.is_over(self.quic):
            return deadline
        if interval:
            deadline = min(deadline, max(self.heard, self._pinged) + interval)
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
            if interval and max(self.heard, self._pinged) + interval <= now:
                self._pinged = now
                quic.send_ping(KEEP_ALIVE_PING)


_OWN_EVENTS = frozenset(
    (ConnectionIdIssued, ConnectionIdRetired, ProtocolNegotiated, HandshakeCompleted, ConnectionTerminated)
)
