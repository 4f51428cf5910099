"""The HTTP servers of a relay: the public one, and the operator's on its own address."""

from __future__ import annotations

import ssl
from collections import Counter
from dataclasses import replace

from aiohttp import web

from relay.logger import get_logger
from relay.model.limits import Limits
from relay.transport.sockets import bind_tcp
from relay.web.listener import WebServer
from relay.web.metrics import LoopLag, Metrics
from relay.web.sampler import Sampler
from relay.web.server import Services, build, internal
from relay.web.websocket import Sessions, accept_sessions

logger = get_logger("relay")


class WebServers:
    """Each `listen_...` returns the addresses, with the real ports, and raises OSError."""

    def __init__(self, services: Services, limits: Limits, refused: Counter[str]) -> None:
        self._lag = LoopLag(services.sources.runtime)
        self._sampler = Sampler(services.sources, self._lag)
        self._services = replace(services, sampler=self._sampler)
        self._refused = refused
        self._limits = limits
        self._servers: list[WebServer] = []
        self._public: WebServer | None = None
        self._sessions: Sessions | None = None

    async def start(self, sessions: Sessions | None) -> None:
        """Prepare the public server; with `sessions`, both servers accept WebSocket sessions."""
        self._lag.start()
        self._sampler.start()
        self._sessions = sessions
        app = build(self._services)
        if sessions is not None:
            accept_sessions(app, sessions)
        self._public = await self._add(app)

    async def _add(self, app: web.Application) -> WebServer:
        server = WebServer(app, self._limits, self._refused, self._services.sources.runtime.now)
        self._servers.append(server)
        await server.start()
        return server

    async def listen_public(
        self, host: str, port: int, tls: ssl.SSLContext | None = None
    ) -> list[tuple[str, int]]:
        assert self._public is not None
        return self._public.listen(bind_tcp(host, port), tls)

    async def listen_internal(self, host: str, port: int, *, required: bool) -> list[tuple[str, int]]:
        """Bind the operator's listener. Unless `required`, an unavailable address is only logged."""
        try:
            sockets = bind_tcp(host, port)
        except OSError as error:
            if required:
                raise
            logger.warning("no internal listener", reason=error.strerror)
            return []
        metrics = Metrics(self._services.sources, self._lag)
        app = build(internal(self._services, metrics))
        if self._sessions is not None:
            # The dashboard publishes to the address it came from. A session needs the same rights as on the public
            # address; foreign pages are refused before.
            accept_sessions(app, self._sessions)
        server = await self._add(app)
        return server.listen(sockets)

    def use(self, limits: Limits) -> None:
        self._limits = limits
        for server in self._servers:
            server.use(limits)

    def end_readers(self) -> None:
        self._services.readers.end()

    async def close(self) -> None:
        self._lag.stop()
        await self._sampler.stop()
        for server in self._servers:
            await server.close()
        self._servers.clear()
