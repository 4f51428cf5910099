"""The QUIC endpoint: routes datagrams to connections and sends what they write.

Owns the sockets' traffic, routing by connection id, the connections to transmit for at the end of a turn, and
one timer heap.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import math
import random
from collections import Counter
from collections.abc import Callable

from aioquic.quic.configuration import QuicConfiguration
from mypy_extensions import mypyc_attr

from relay.logger import Seconds, get_logger
from relay.model.pace import LogThrottle
from relay.quic.driver import SHORTEST_WAIT, Driver
from relay.quic.handler import Close, Handler
from relay.quic.reset_tokens import TOKEN, ResetTokens
from relay.quic.settings import QuicSettings
from relay.quic.udp import Address, Sender, UdpSocket
from relay.runtime import Runtime

logger = get_logger(__name__)

CONNECTION_ID_LENGTH = 8  # bytes: short headers carry no length
LONG_HEADER_START = 6  # bytes before the destination connection id: flags, version, length
MAX_DATAGRAM_FRAME = 65535

STALL = 0.2  # seconds that a timer may be late before the whole process counts as paused


def quic_configuration(settings: QuicSettings, *, is_client: bool, alpns: list[str]) -> QuicConfiguration:
    """Our settings as aioquic's configuration."""
    return QuicConfiguration(
        alpn_protocols=alpns,
        connection_id_length=CONNECTION_ID_LENGTH,
        idle_timeout=settings.idle_timeout,
        is_client=is_client,
        max_data=settings.connection_window,
        max_datagram_frame_size=MAX_DATAGRAM_FRAME,
        max_datagram_size=settings.max_datagram_size,
        max_stream_data=settings.stream_window,
    )


@mypyc_attr(allow_interpreted_subclasses=True)
class Endpoint:
    """The common part of server and client; subclasses handle unknown packets and choose sessions.

    Size: the loop's work for all connections together: sockets, routes, transmits, two timers.
    """

    pauses_are = logging.WARNING  # log level of process pauses
    packet_time = math.inf  # `Limits.packet_time`, for servers

    def __init__(self, settings: QuicSettings, runtime: Runtime, tokens: ResetTokens | None = None) -> None:
        self.settings = settings
        self.runtime = runtime
        self.now = runtime.now
        self.cpu_time = runtime.cpu_time  # CPU seconds of this thread
        self.tokens = tokens or ResetTokens(runtime.random.randbytes(TOKEN), runtime.random)
        self.connections: set[Driver] = set()
        self.refused: Counter[str] = Counter()
        self._loop = asyncio.get_running_loop()
        self._sockets: list[UdpSocket] = []
        self._routes: dict[bytes, Driver] = {}
        self._received: dict[Driver, None] = {}
        self._dirty: dict[Driver, None] = {}
        self._flushing = False
        self._delay_transmit = False  # by one loop turn: a new session is about to send several messages
        self._timers: list[tuple[float, int, Driver]] = []
        self._watched: dict[Driver, None] = {}
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

    def handshake_done(self, driver: Driver, alpn: str) -> Handler | None:
        """Return the session; `None` if the connection was closed instead."""
        raise NotImplementedError

    def handshake_failed(self, driver: Driver, close: Close) -> None:
        """The handshake of `driver` ends with `close`."""

    def on_close(self, driver: Driver) -> None:
        """A close was sent or received."""

    def unknown(self, sock: Sender, data: bytes, address: Address, now: float) -> None: ...

    def count_drop(self, driver: Driver) -> None:
        """The packets of `driver` cost too much."""
        self.refused["packet_time"] += 1
        if not driver.cost.logged and self._drops.passes(self.now()):
            driver.cost.logged = True
            value = self.packet_time
            logger.warning("over limit", limit="packet_time", value=value, remote=driver.remote)

    def token_of(self, cid: bytes) -> bytes:
        return self.tokens.token_of(cid)

    @property
    def random(self) -> random.Random:
        return self.runtime.random

    def call_soon(self, callback: Callable[[], None]) -> None:
        self._loop.call_soon(callback)

    def release(self) -> None:
        for driver in tuple(self.connections):
            self.remove(driver)
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

    def remove(self, driver: Driver) -> None:
        driver.left()
        self.unwatch(driver)
        for cid in driver.cids:
            self._routes.pop(cid, None)
        driver.cids.clear()
        self.connections.discard(driver)

    def add_connection(self, driver: Driver, *cids: bytes) -> None:
        self.connections.add(driver)
        for cid in cids:
            self.add_route(cid, driver)

    def add_socket(self, sock: UdpSocket) -> None:
        sock.on_drained = self._drained
        self._sockets.append(sock)

    # -- routing

    def add_route(self, cid: bytes, driver: Driver) -> None:
        self._routes[cid] = driver
        driver.cids.add(cid)

    def drop_route(self, cid: bytes, driver: Driver) -> None:
        self._routes.pop(cid, None)
        driver.cids.discard(cid)

    def on_datagram(self, sock: Sender, data: bytes, address: Address) -> None:
        """Route a datagram by the destination connection id of its first packet."""
        if data[0] & 0x80:
            cid = data[6 : 6 + data[5]] if len(data) > LONG_HEADER_START else b""
        else:
            cid = data[1 : 1 + CONNECTION_ID_LENGTH]
        driver = self._routes.get(cid)
        now = self.now()
        if driver is None:
            self.unknown(sock, data, address, now)
            return
        driver.sock = sock
        driver.receive(data, address, now)
        self._received[driver] = None

    def on_merged(self, sock: Sender, view: memoryview, each: int, address: Address) -> None:
        """Datagrams of `each` bytes that the kernel has merged; the last one may be shorter."""
        at = 0
        while at < len(view):
            left = view[at:]
            driver = self._routes.get(bytes(left[1 : 1 + CONNECTION_ID_LENGTH]))
            count = 0
            if driver is not None:
                now = self.now()
                count = driver.receive_train(left, each, address, now)
            if count:
                assert driver is not None
                driver.sock = sock
                self._received[driver] = None
            else:
                self.on_datagram(sock, bytes(left[:each]), address)
                if sock.closed:
                    return
                count = 1
            at += count * each

    def _drained(self) -> None:
        received, self._received = self._received, {}
        for driver in received:
            driver.drained(self.now())

    # -- transmitting, once per connection and loop turn

    def touch(self, driver: Driver) -> None:
        if driver.gone:
            return
        self._dirty[driver] = None
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
        for driver in dirty:
            if not driver.gone:
                driver.transmit(now)

    # -- timers: one heap; an entry whose deadline has moved later is checked once when it is due

    def arm(self, deadline: float, driver: Driver) -> None:
        heapq.heappush(self._timers, (deadline, next(self._order), driver))
        if self._timers[0][2] is driver and self._timers[0][0] == deadline:
            self._set_timer(deadline)

    def watch(self, driver: Driver, deadline: float) -> None:
        """Check `driver` for lost packets at `deadline`, unless `unwatch` comes first.

        Deadlines move with every packet and are rarely reached, so all connections share one timer.
        """
        self._watched[driver] = None
        if deadline < self._watch_at:
            # An overdue deadline is no pause of ours: count `_look` as due from now on.
            now = self.now()
            at = max(deadline, now + SHORTEST_WAIT)
            if at < self._watch_at:
                if self._watch_timer is not None:
                    self._watch_timer.cancel()
                self._watch_at = at
                self._watch_timer = self.runtime.call_later(at - now, self._look)

    def unwatch(self, driver: Driver) -> None:
        """Everything that `driver` sent is acknowledged, so an idle relay needs no timer."""
        if driver in self._watched:
            del self._watched[driver]
            if not self._watched:
                self._stop_watching()

    def _notice_stall(self, due: float, now: float) -> None:
        """A pause of the process (suspend, SIGSTOP, starvation) makes a timer late."""
        late = now - max(due, self._resumed_at)
        if late > STALL:
            self._resumed_at = now  # the other timer was late by the same pause
            # Packets of live peers may be waiting in the socket.
            if self._pauses.passes(now):
                text, connections = "the event loop did not run", len(self.connections)
                logger.log(self.pauses_are, text, late=Seconds(late), connections=connections)
            for driver in self.connections:
                driver.resume(now, late)

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
        for driver in watched:
            at = -1.0 if driver.connection is None else driver.connection.probe_at()
            if driver.gone or at < 0:
                continue
            if at <= now:
                driver.on_timer(now)
            else:
                self.watch(driver, at)

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
            deadline, _, driver = heapq.heappop(timers)
            if driver.armed and driver.armed[-1] == deadline:
                driver.armed.pop()
            driver.on_timer(now)
        if timers:
            self._set_timer(timers[0][0])
