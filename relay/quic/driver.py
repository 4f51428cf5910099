"""One QUIC connection of an endpoint: its handshake, then our connection, between socket and session.

One transmit for each loop turn, timers, the limit on CPU time.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import Counter
from collections.abc import Callable
from typing import Final, Protocol

from relay.logger import get_logger
from relay.model.address import readable_address
from relay.model.pace import LogThrottle
from relay.quic import errors, qlog
from relay.quic.connection import CLOSED, DRAINING, OPEN, Burst, Connection
from relay.quic.cost import WATCHED, PacketCost
from relay.quic.handler import APPLICATION, Close, Handler, Waker
from relay.quic.handover import take_over
from relay.quic.handshake import Handshake, split
from relay.quic.settings import QuicSettings
from relay.quic.udp import Address, Sender

logger = get_logger(__name__)

LINGER: Final = 0.1  # seconds, at least, for data of a stream to arrive before the close
FAR: Final = 0.01  # seconds: a later deadline may be rounded up
COARSE: Final = 0.004  # seconds: far deadlines are rounded up to multiples, so that one turn serves many
DISTANT: Final = 1.0  # seconds: a later deadline is an idle connection's, keep-alive or idle time-out
COARSEST: Final = (
    0.125  # seconds: multiples for idle connections, which wake the relay at most 8 times a second
)
SHORTEST_WAIT: Final = 0.001  # seconds until a timer still due is served again: a bug must not spin the loop
LONG_HEADER: Final = 0x80


class Owner(Protocol):
    """The endpoint, as its drivers see it."""

    settings: QuicSettings
    refused: Counter[str]
    failures: LogThrottle

    def token_of(self, cid: bytes) -> bytes:
        """The stateless reset token of a connection id."""

    @property
    def packet_time(self) -> float:
        """CPU seconds per second for packets of one connection."""

    @property
    def random(self) -> random.Random: ...
    def now(self) -> float: ...
    def cpu_time(self) -> float: ...
    def call_soon(self, callback: Callable[[], None]) -> None: ...
    def touch(self, driver: Driver) -> None: ...
    def arm(self, deadline: float, driver: Driver) -> None: ...
    def watch(self, driver: Driver, deadline: float) -> None: ...
    def unwatch(self, driver: Driver) -> None: ...
    def add_route(self, cid: bytes, driver: Driver) -> None: ...
    def drop_route(self, cid: bytes, driver: Driver) -> None: ...
    def handshake_done(self, driver: Driver, alpn: str) -> Handler | None:
        """Return the session; `None` if the connection was closed instead."""

    def handshake_failed(self, driver: Driver, close: Close) -> None: ...
    def on_close(self, driver: Driver) -> None: ...
    def count_drop(self, driver: Driver) -> None: ...
    def remove(self, driver: Driver) -> None: ...


class Driver(Waker):
    """A connection of an endpoint.

    Size: it joins the parts of a connection's whole life, and holds nothing of any of them.
    """

    def __init__(self, endpoint: Owner, sock: Sender, handshake: Handshake, address: Address) -> None:
        self.endpoint = endpoint
        self.sock = sock
        self.handshake: Handshake | None = handshake  # until complete; a client's until it is confirmed
        self.connection: Connection | None = None  # once complete
        self.session: Handler | None = None
        self.remote = readable_address(str(address[0]), address[1])
        self.cids: set[bytes] = set()  # of the endpoint's routes
        self.gone = False
        self.bytes_received = 0
        self.bytes_sent = 0
        self.cost = PacketCost()
        self.armed: list[float] = []  # deadlines in the endpoint's heap, latest first
        self.setup_deadline: float | None = None  # for a session request; the session clears it
        self._close_plan: tuple[float, int, str] | None = None
        self._close_packets: list[tuple[bytes, Address]] = []  # of a handshake
        self._late = 0  # datagrams since them, and their bytes since the last repetition
        self._late_bytes = 0
        self._next_repeat = 1
        self._over = False  # the endpoint knows
        self._failures = 0
        self._waiters: list[asyncio.Future[None]] = []  # of `wait_gone`

    @property
    def quic(self) -> Connection:
        """The connection, once the handshake is complete."""
        connection = self.connection
        assert connection is not None
        return connection

    @property
    def over(self) -> bool:
        """The close was sent or received."""
        return self.gone or self._over

    @property
    def _ends(self) -> bool:
        """The connection is `over`, or its close is still to be sent."""
        if self.gone:
            return True
        if self.connection is not None:
            return self.connection.over
        return self.handshake is None or self.handshake.over

    # -- from the endpoint

    def receive(self, data: bytes, address: Address, now: float) -> None:
        """`drained` follows."""
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
        self.bytes_received += len(data)
        cost.datagrams += 1
        cost.bytes += len(data)
        try:
            connection = self.connection
            if connection is None or data[0] & LONG_HEADER:
                self._receive_handshake(data, address, now)
            else:
                connection.receive(data, address, now)
        except Exception as error:  # noqa: BLE001 - the boundary of one connection
            self.fail(error)
        if cost.measured:
            cost.add(endpoint.cpu_time() - began, len(data))
        elif endpoint.now() - now > cost.ordinary:
            cost.measured = WATCHED

    def receive_train(self, buffer: memoryview, each: int, address: Address, now: float) -> int:
        """Receive a packet train at the start of `buffer`: datagrams of `each` bytes. Returns how many."""
        cost, connection = self.cost, self.connection
        if connection is None or (cost.measured and cost.over(now, self.endpoint.packet_time)):
            return 0
        try:
            count = connection.receive_train(buffer, each, address, now)
        except Exception as error:  # noqa: BLE001 - the boundary of one connection
            self.fail(error)
            return 1
        if count:
            size = min(count * each, len(buffer))
            cost.datagrams += count
            cost.bytes += size
            self.bytes_received += size
        return count

    def drained(self, now: float) -> None:
        """Deliver, and transmit if needed."""
        cost = self.cost
        measured = cost.measured > 0
        began = self.endpoint.cpu_time() if measured else now
        connection = self.connection
        try:
            if connection is not None:
                connection.end_of_drain(now)
            if self.session is not None:
                self.session.deliver()
        except Exception as error:  # noqa: BLE001 - the boundary of one connection
            self.fail(error)
        if measured:
            cost.settle(self.endpoint.cpu_time() - began)
        else:
            if self.endpoint.now() - began > cost.ordinary * cost.datagrams:
                cost.measured = WATCHED
            cost.datagrams = cost.bytes = 0
        # Callbacks of this batch's events are queued before ours, so their writes leave in the same transmit.
        if self.gone:
            return
        if connection is None:
            self.transmit(now)  # a handshake causes no session events
        elif connection.state in (DRAINING, CLOSED):
            self._note_over()
            self.arm(now)
        elif self.handshake is not None or connection.wants_to_send(now):
            self.wake()
        elif connection.received.ack_at >= 0:
            self.arm(now)  # the ACK may wait
        elif (probe := connection.probe_at()) < 0:
            self.endpoint.unwatch(self)
        else:
            self.endpoint.watch(self, probe)  # restart a probe time-out that had backed off

    def transmit(self, now: float) -> None:
        """End a loop turn: deliver, send, set the timer."""
        try:
            if self.session is not None:
                self.session.deliver()
            if self.handshake is not None:
                self._transmit_handshake(now)
            connection = self.connection
            if connection is not None:
                for burst in connection.flush(now):
                    self._send(burst)
                self._update_routes(connection)
        except Exception as error:  # noqa: BLE001 - the boundary of one connection
            self.fail(error)
        if self._ends:
            self._note_over()
        if not self.gone:
            self.arm(now)

    def on_timer(self, now: float) -> None:
        """The deadline may have moved since."""
        if self.gone:
            return
        due = self._deadline()
        probe = -1.0 if self.connection is None else self.connection.probe_at()
        if (due < 0 or due > now) and (probe < 0 or probe > now):
            self.arm(now)
            return
        try:
            self._serve_timer(now)
        except Exception as error:  # noqa: BLE001 - the boundary of one connection
            self.fail(error)
        self.wake()

    def resume(self, now: float, late: float) -> None:
        """The process paused for `late` seconds, which is no silence of the peer."""
        if self.connection is not None:
            self.connection.resume(now, late)
        elif self.handshake is not None:
            self.handshake.resume(now, late)

    def arm(self, now: float) -> None:
        """Have `on_timer` called at the next deadline, or earlier."""
        connection = self.connection
        if connection is not None:
            probe = connection.probe_at()
            if probe >= 0:
                self.endpoint.watch(self, probe)
            if (
                self.armed
                and not connection.waits
                and self.handshake is None
                and self.setup_deadline is None
                and self._close_plan is None
                and connection.state == OPEN
            ):
                return  # only distant deadlines remain, which never move closer
        deadline = self._deadline()
        if deadline < 0:
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

    # -- from the connection and the session

    def wake(self) -> None:
        """Transmit at the end of this loop turn."""
        self.endpoint.touch(self)

    def close(self, code: int, reason: str = "", *, transport: bool = False) -> None:
        """Close now, with an application code or a transport error."""
        self._close_plan = None
        if self.connection is not None:
            self.connection.close(code, reason, transport=transport)
        elif self.handshake is not None:
            self.handshake.close(code, errors.PADDING if transport else None, reason)
        self.wake()

    def close_later(self, code: int, reason: str = "") -> None:
        """Close once data just written on a stream had time to arrive."""
        if self._close_plan is None and not self._ends:
            deadline = self.endpoint.now() + max(3 * self.quic.recovery.rtt, LINGER)
            self._close_plan = (deadline, code, reason)
            self.wake()

    async def wait_gone(self) -> None:
        if not self.gone:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter

    def left(self) -> None:
        """The endpoint has removed this connection. Breaks reference cycles."""
        self.gone = True
        if self.handshake is not None:
            self.handshake.release()
            self.handshake = None
        connection = self.connection
        if connection is not None:
            if connection.trace is not None:
                connection.trace.end()
                connection.trace = None
            connection.release()
        self.session = None
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def fail(self, error: Exception) -> None:
        """Close only this connection, after an exception in its code."""
        self._failures += 1
        if self._failures == 1:
            if self.endpoint.failures.passes(self.endpoint.now()):
                text = "the connection is closed after an internal error"
                logger.error(text, remote=self.remote, exc_info=error)
            self.close(errors.INTERNAL_ERROR, "internal error", transport=True)
        elif self.session is not None:
            self.session = None  # it cannot even handle its end
            if self.connection is not None:
                self.connection.handler = Handler()
            self.wake()
        else:
            self.endpoint.remove(self)

    # -- the handshake

    def _receive_handshake(self, data: bytes, address: Address, now: float) -> None:
        handshake, connection = self.handshake, self.connection
        if connection is not None:
            # Repeated handshake packets, perhaps with a 1-RTT packet behind them.
            long, short = split(data)
            if handshake is not None and long:
                handshake.receive(long, address, now)
            if short:
                connection.receive(short, address, now)
            return
        if handshake is None:
            return
        handshake.receive(data, address, now)
        if handshake.complete and handshake.close_event is None:
            self._establish(handshake, now)

    def _establish(self, handshake: Handshake, now: float) -> None:
        """Our connection takes over."""
        endpoint = self.endpoint
        connection = self.connection = Connection(
            take_over(handshake),
            endpoint.settings,
            endpoint.random,
            now,
            waker=self,
            token_of=endpoint.token_of,
        )
        trace = handshake.take_trace()
        if isinstance(trace, qlog.Trace):
            connection.log_to(qlog.ConnectionTrace(trace, now, connection.peer.ack_delay_exponent))
        self.armed.clear()  # its deadlines may be nearer than any before
        early = handshake.early
        session = endpoint.handshake_done(self, handshake.alpn)
        if not handshake.is_client:
            handshake.release()
            self.handshake = None
        if session is None:
            return
        self.session = connection.handler = session
        session.established()
        if endpoint.settings.mtu_discovery and self.sock.unfragmented:
            connection.mtu.enabled = True
        for data, address in early:
            connection.receive(data, address, now)
        connection.end_of_drain(now)

    def _transmit_handshake(self, now: float) -> None:
        handshake = self.handshake
        assert handshake is not None
        connection = self.connection
        if connection is not None and (connection.confirmed or connection.over):
            event = connection.close_event
            if event is not None and not (event.by_peer or event.idle or connection.confirmed):
                # A server without our Finished reads no 1-RTT packets (RFC 9000, 10.2.3).
                handshake.close(event.code, None if event.application else event.frame_type, event.reason)
                for data, address in handshake.datagrams_to_send(now):
                    self.sock.send(data, address)
            handshake.release()
            self.handshake = None
            return
        closing = handshake.close_is_pending
        datagrams = handshake.datagrams_to_send(now)
        for data, address in datagrams:
            self.bytes_sent += len(data)
            self.sock.send(data, address)
        if closing:
            self._close_packets = datagrams
        self._check_handshake()

    def _check_handshake(self) -> None:
        """Report a close, and the end."""
        handshake = self.handshake
        if handshake is None or handshake.close_event is None or self.connection is not None:
            return
        if not self._over:
            event = handshake.close_event
            frame_type = APPLICATION if event.frame_type is None else int(event.frame_type)
            by_peer = handshake.closed_by_peer
            close = Close(int(event.error_code), event.reason_phrase, frame_type=frame_type, by_peer=by_peer)
            close.idle = handshake.timed_out
            self.endpoint.handshake_failed(self, close)
            self._note_over()
        if handshake.terminated:
            self.endpoint.remove(self)

    def _repeat_close(self, size: int) -> None:
        # Our close may be lost. Repeat it ever more rarely (RFC 9000, 10.2.1), within three times the bytes
        # received: the address may be forged.
        self._late += 1
        self._late_bytes += size
        if self._late >= self._next_repeat and 3 * self._late_bytes >= sum(
            len(data) for data, _ in self._close_packets
        ):
            self._next_repeat = 2 * self._late
            self._late_bytes = 0
            for data, address in self._close_packets:
                self.sock.send(data, address)

    # -- inside

    def _send(self, burst: Burst) -> None:
        buffers, size, address = burst
        for buffer in buffers:
            self.bytes_sent += len(buffer)
        self.sock.send_all(buffers, size, address)

    def _update_routes(self, connection: Connection) -> None:
        cids = connection.host_cids
        if cids.added:
            for cid in cids.added:
                self.endpoint.add_route(cid, self)
            cids.added.clear()
        if cids.removed:
            for cid in cids.removed:
                self.endpoint.drop_route(cid, self)
            cids.removed.clear()

    def _note_over(self) -> None:
        """The close was sent or received; at its end the connection goes."""
        if self.gone:
            return
        if not self._over:
            self._over = True
            self._close_plan = None
            try:
                if self.session is not None:
                    self.session.deliver()
            except Exception as error:  # noqa: BLE001 - the boundary of one connection
                self.fail(error)
            self.endpoint.on_close(self)
        if self.connection is not None and self.connection.state == CLOSED:
            self.endpoint.remove(self)

    def _drop(self) -> None:
        """The connection is over its CPU limit. Before a session exists, close it."""
        self.endpoint.count_drop(self)
        if self.setup_deadline is not None and not self._ends:
            self.close(errors.INTERNAL_ERROR, "packets take too long to read", transport=True)

    def _deadline(self) -> float:
        """The next deadline besides lost packets; -1.0 for none."""
        deadline = -1.0
        if self.connection is not None:
            deadline = self.connection.deadline()
        if self.handshake is not None:
            timer = self.handshake.get_timer()
            if timer is not None and (deadline < 0 or timer < deadline):
                deadline = timer
        if self.setup_deadline is not None and not self._ends:
            deadline = min(deadline, self.setup_deadline)
        if self._close_plan is not None and not self._ends:
            deadline = min(deadline, self._close_plan[0])
        return deadline

    def _serve_timer(self, now: float) -> None:
        handshake, connection = self.handshake, self.connection
        if handshake is not None:
            timer = handshake.get_timer()
            if timer is not None and timer <= now:
                handshake.handle_timer(now)
            self._check_handshake()
        if connection is not None:
            connection.on_timer(now)
        if self._ends:
            return  # `transmit` follows
        if self._close_plan is not None and self._close_plan[0] <= now:
            _, code, reason = self._close_plan
            if connection is not None:
                for burst in connection.flush(now):
                    self._send(burst)  # what was written just before, after a pause of the process
            self.close(code, reason)
        elif self.setup_deadline is not None and self.setup_deadline <= now:
            self.setup_deadline = None
            self.endpoint.refused["setup"] += 1
            self.close(errors.NO_ERROR, "no session was asked for in time", transport=True)
