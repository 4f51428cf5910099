"""TCP connections of the HTTP server, their limits, and answers to invalid HTTP."""

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

from relay.logger import get_logger
from relay.model.address import address_of, readable_host
from relay.model.limits import Limits
from relay.model.pace import LogThrottle
from relay.transport.slots import Slots

logger = get_logger("relay.web")

ACCEPT_PAUSE: Final = 0.25  # seconds after the system ran out of resources


class Handler(web.RequestHandler):
    """aiohttp's side of one TCP connection.

    aiohttp answers and logs invalid requests with a part of the request, which may hold a token.
    """

    __slots__ = ("_leave", "_unreadable")

    def __init__(
        self, manager: web.Server, leave: Callable[[], None], unreadable: Callable[[], bool], **options: Any
    ) -> None:
        """`leave` is called once the connection is closed or a session; `unreadable` permits a log line."""
        super().__init__(manager, **options)
        self._unreadable = unreadable
        self._leave: Callable[[], None] | None = leave

    def leave(self) -> None:
        """Free the connection's slot. Idempotent."""
        leave, self._leave = self._leave, None
        if leave is not None:
            leave()

    def connection_lost(self, exc: BaseException | None) -> None:
        self.leave()
        super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Log only faults of ours."""
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
        """`refused` counts by limit. `now` is a clock in seconds."""
        self._now = now
        self._runner = web.AppRunner(app, handle_signals=False, shutdown_timeout=1.0)
        self._all = Slots("http", limits.http, refused, now)
        self._by_address = Slots("http_address", limits.http_address, refused, now)
        self._timeout = limits.setup_timeout
        self._unreadable = LogThrottle()  # port scanners send invalid HTTP at any rate
        self._sockets: list[socket] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def use(self, limits: Limits) -> None:
        self._all.limit = limits.http
        self._by_address.limit = limits.http_address
        self._timeout = limits.setup_timeout

    async def start(self) -> None:
        await self._runner.setup()

    def listen(self, sockets: list[socket], tls: ssl.SSLContext | None = None) -> list[tuple[str, int]]:
        """`sockets` listen and do not block. Returns their addresses."""
        for sock in sockets:
            self._sockets.append(sock)
            self._spawn(self._accept(sock, tls))
        return [sock.getsockname()[:2] for sock in sockets]

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, sock: socket, tls: ssl.SSLContext | None) -> None:
        """Connections above the limit close at once: before a TLS handshake, unread."""
        loop = asyncio.get_running_loop()
        failing = False
        while True:
            try:
                connection, address = await loop.sock_accept(sock)
            except ConnectionError:
                continue
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
        # aiohttp's keep-alive time-out closes connections without complete headers
        handler = Handler(
            self._runner.server,
            leave,
            lambda: self._unreadable.passes(self._now()),
            loop=loop,
            access_log=None,
            keepalive_timeout=self._timeout,
            auto_decompress=False,  # no route reads a body, and a small one may unpack to gigabytes
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
