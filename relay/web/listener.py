"""TCP connections to the HTTP server: from the socket that accepts them until they end or become a session.

Owns the sockets, the limits on connections and on the time until a request is complete, and the answer to what cannot be
read. Must never know a route: `relay.web.server` has them. `app.py` starts one server per application.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import Counter
from collections.abc import Callable
from http import HTTPStatus
from socket import socket
from typing import Any, Final

from aiohttp import web

from relay.logs import get_logger
from relay.model.address import address_of, readable_host
from relay.model.limits import Limits
from relay.model.pace import LogThrottle
from relay.transport.slots import Slots

logger = get_logger("relay.web")

ACCEPT_PAUSE: Final = 0.25
"""Seconds until the next try after the system had nothing left to accept a connection with."""


class Handler(web.RequestHandler):
    """aiohttp's side of one TCP connection, but for its end and for requests that cannot be read.

    aiohttp answers those with a part of what it was sent, and logs it with a traceback: there may be a token in it, and
    anybody can send one.
    """

    __slots__ = ("_leave", "_unreadable")

    def __init__(
        self, manager: web.Server, leave: Callable[[], None], unreadable: Callable[[], bool], **options: Any
    ) -> None:
        """`leave` is called once the connection is gone, or a session; `unreadable` says if what is no HTTP may be logged."""
        super().__init__(manager, **options)
        self._unreadable = unreadable
        self._leave: Callable[[], None] | None = leave

    def leave(self) -> None:
        """Hold no place among the connections any more. May be called again."""
        leave, self._leave = self._leave, None
        if leave is not None:
            leave()

    def connection_lost(self, exc: BaseException | None) -> None:
        """The connection is gone."""
        self.leave()
        super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer. What went wrong on our side is logged as ever."""
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return super().handle_error(request, status, exc, message)
        if self._unreadable():
            client = readable_host(str(request.remote))
            error = type(exc).__name__
            logger.info("refused", remote=client, reason="no readable HTTP", error=error)
        if request.writer.output_size > 0:
            raise ConnectionError("an answer was begun already")
        response = web.Response(status=status, text="no readable HTTP request\n")
        response.force_close()
        return response


class WebServer:
    """One application on any number of bound sockets."""

    def __init__(
        self, app: web.Application, limits: Limits, refused: Counter[str], now: Callable[[], float]
    ) -> None:
        """`refused` counts who found no place, by the name of the limit. `now` is a clock in seconds."""
        self._now = now
        self._runner = web.AppRunner(app, handle_signals=False, shutdown_timeout=1.0)
        self._all = Slots("http", limits.http, refused, now)
        self._by_address = Slots("http_address", limits.http_address, refused, now)
        self._timeout = limits.setup_timeout
        self._unreadable = LogThrottle()
        """Port scanners send what is no HTTP, at any rate."""
        self._sockets: list[socket] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def use(self, limits: Limits) -> None:
        """Other limits hold from now on; who is connected stays."""
        self._all.limit = limits.http
        self._by_address.limit = limits.http_address
        self._timeout = limits.setup_timeout

    async def start(self) -> None:
        """Make ready; then `listen`."""
        await self._runner.setup()

    async def listen(self, sockets: list[socket], tls: ssl.SSLContext | None = None) -> None:
        """Serve on sockets that listen and do not block."""
        for sock in sockets:
            self._sockets.append(sock)
            self._spawn(self._accept(sock, tls))

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, sock: socket, tls: ssl.SSLContext | None) -> None:
        """Take connections, and close at once those that are too many: before a TLS handshake, and unread."""
        loop = asyncio.get_running_loop()
        failing = False
        while True:
            try:
                connection, address = await loop.sock_accept(sock)
            except ConnectionError:
                continue  # gone already
            except OSError as error:
                if not failing:
                    logger.warning("no TCP connection can be accepted", reason=error.strerror or error)
                failing = True
                await asyncio.sleep(ACCEPT_PAUSE)
                continue
            failing = False
            key = address_of(str(address[0]))
            full = next(
                (each for each in ((self._all, ""), (self._by_address, key)) if each[0].full(each[1])), None
            )
            if full is not None:
                full[0].refuse(full[1])
                connection.close()
                continue
            self._all.enter()
            self._by_address.enter(key)
            self._spawn(self._begin(connection, key, tls))

    async def _begin(self, connection: socket, key: str, tls: ssl.SSLContext | None) -> None:
        def leave() -> None:
            self._all.leave()
            self._by_address.leave(key)

        loop = asyncio.get_running_loop()
        assert self._runner.server is not None
        # aiohttp gives up on a connection that has sent no complete header for as long as one may be kept alive.
        handler = Handler(
            self._runner.server,
            leave,
            lambda: self._unreadable.passes(self._now()),
            loop=loop,
            access_log=None,
            keepalive_timeout=self._timeout,
        )
        begun = False
        try:
            await loop.connect_accepted_socket(
                lambda: handler, connection, ssl=tls, ssl_handshake_timeout=self._timeout if tls else None
            )
            begun = True
        except OSError as error:
            logger.debug("no TLS", remote=key, reason=error)
        finally:
            if not begun:
                handler.leave()
                connection.close()

    async def close(self) -> None:
        """Stop listening and end open requests."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        for sock in self._sockets:
            sock.close()
        self._sockets.clear()
        await self._runner.cleanup()
