"""The HTTP server: the debug routes, on TCP beside the UDP of QUIC.

Routes, bodies and status codes are those of moq-relay 0.9.3 (`/certificate.sha256`, `/announced`, `/fetch`), with
failures told apart. Everything about broadcasts is asked of actors by message.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from relay.actors import messages as m
from relay.actors.reader import Chunk, NoGroup, ReaderActor
from relay.actors.runtime import ActorDeadError, Ref, ask, halt
from relay.auth.authenticator import UnauthorizedError
from relay.auth.permissions import Permissions
from relay.model.path import covers, join, normalize, strip
from relay.wire.errors import StreamCode

logger = logging.getLogger("relay.web")

ASK_TIMEOUT: Final = 5.0
"""Seconds that an actor gets to answer."""

FETCH_TIMEOUT: Final = 10.0
"""Seconds that /fetch waits for a group to begin, and then for each next piece of it."""

CORS: Final = {
    "access-control-allow-origin": "*",
    "vary": "origin, access-control-request-method, access-control-request-headers",
}

NOT_FOUND: Final = """not found

Try: /certificate.sha256  /announced/  /announced/<prefix>  /fetch/<broadcast>/<track>
"""


@dataclass(frozen=True, slots=True)
class Services:
    """What the routes need of the relay."""

    origin: Ref
    authorize: Callable[[str, str], Permissions]
    fingerprint: Callable[[], str | None]
    next_number: Callable[[], int]


SERVICES: Final = web.AppKey("services", Services)


def build(services: Services) -> web.Application:
    """The application with its routes."""
    app = web.Application(middlewares=[_cors])
    app[SERVICES] = services
    app.router.add_get("/certificate.sha256", certificate)
    app.router.add_get("/announced", announced)
    app.router.add_get("/announced/{prefix:.*}", announced)
    app.router.add_get("/fetch/{path:.*}", fetch)
    return app


@web.middleware
async def _cors(request: web.Request, handler: Callable[[web.Request], object]) -> web.StreamResponse:
    if request.method == "OPTIONS":
        return web.Response(headers={**CORS, "access-control-allow-methods": "GET"})
    try:
        response = await handler(request)  # type: ignore[misc]
        assert isinstance(response, web.StreamResponse)
    except web.HTTPNotFound:
        return _text(404, NOT_FOUND)
    except web.HTTPException as error:
        error.headers.update(CORS)
        raise
    if not response.prepared:
        response.headers.update(CORS)
    return response


def _text(status: int, text: str) -> web.Response:
    return web.Response(status=status, text=text, headers=CORS)


async def certificate(request: web.Request) -> web.Response:
    """SHA-256 of the first certificate as 64 hex digits and nothing else, for `serverCertificateHashes`."""
    fingerprint = request.app[SERVICES].fingerprint()
    return _text(404, "no certificate\n") if fingerprint is None else _text(200, fingerprint)


def _authorized(request: web.Request, path: str) -> Permissions | web.Response:
    """Permissions at `path`, or the refusal to send."""
    try:
        permissions = request.app[SERVICES].authorize(path, request.query_string)
    except UnauthorizedError as error:
        logger.info("refused remote=%s path=/%s reason=%r", request.remote, path, str(error))
        return _text(401, "unauthorized\n")
    if not permissions.subscribe:
        logger.info("refused remote=%s path=/%s reason='no right to subscribe'", request.remote, path)
        return _text(401, "unauthorized\n")
    return permissions


async def announced(request: web.Request) -> web.Response:
    """Paths of the live broadcasts below the prefix, relative to it, one a line."""
    prefix = normalize(request.match_info.get("prefix", ""))
    permissions = _authorized(request, prefix)
    if isinstance(permissions, web.Response):
        return permissions
    prefixes = tuple(join(permissions.root, granted) for granted in permissions.subscribe)
    try:
        offers = await ask(request.app[SERVICES].origin, m.ListAnnounced(prefixes), timeout=ASK_TIMEOUT)
    except (TimeoutError, ActorDeadError):
        return _text(504, "the relay is too busy to answer\n")
    return _text(200, "\n".join(sorted(strip(offer.path, prefix) or "" for offer in offers)))


async def fetch(request: web.Request) -> web.StreamResponse:
    """The newest group of a track: the payloads of its frames, as they come, until the group ends."""
    broadcast, slash, track = request.match_info["path"].rpartition("/")
    broadcast = normalize(broadcast)
    if not slash or not track or not broadcast:
        return _text(400, "expected /fetch/<broadcast>/<track>\n")
    permissions = _authorized(request, broadcast)
    if isinstance(permissions, web.Response):
        return permissions
    if not any(covers(join(permissions.root, granted), broadcast) for granted in permissions.subscribe):
        return _text(401, "unauthorized\n")
    async with _reading(request, broadcast, track) as pieces:
        return await _stream(request, pieces)


@asynccontextmanager
async def _reading(
    request: web.Request, broadcast: str, track: str
) -> AsyncIterator[asyncio.Queue[Chunk | NoGroup]]:
    services = request.app[SERVICES]
    pieces: asyncio.Queue[Chunk | NoGroup] = asyncio.Queue()
    reader = ReaderActor.start(
        origin=services.origin,
        number=services.next_number(),
        path=broadcast,
        track=track,
        sink=pieces.put_nowait,
    )
    try:
        yield pieces
    finally:
        halt(reader)


async def _stream(request: web.Request, pieces: asyncio.Queue[Chunk | NoGroup]) -> web.StreamResponse:
    try:
        async with asyncio.timeout(FETCH_TIMEOUT):
            piece = await pieces.get()
    except TimeoutError:
        return _text(504, "no group in time: the publisher sends nothing on this track\n")
    if isinstance(piece, NoGroup):
        return _refusal(piece)
    response = web.StreamResponse(headers=CORS)
    await response.prepare(request)
    while isinstance(piece, Chunk):
        await response.write(piece.data)
        if piece.last:
            await response.write_eof()
            return response
        piece = await pieces.get()
    # the group broke off: the body must not look complete
    if request.transport is not None:
        request.transport.abort()
    return response


def _refusal(outcome: NoGroup) -> web.Response:
    match outcome.code:
        case StreamCode.UNROUTABLE:
            return _text(404, "no such broadcast\n")
        case StreamCode.NOT_FOUND:
            return _text(404, "no such track\n")
        case None:
            return _text(404, "the track has ended without a group\n")
        case code:
            return _text(500, f"the track was aborted with code {code}\n")


class WebServer:
    """Listens on one or more addresses; port 0 picks one."""

    def __init__(self, services: Services) -> None:
        self._runner = web.AppRunner(
            build(services), access_log=None, handle_signals=False, shutdown_timeout=1.0
        )
        self._sites: list[web.SockSite] = []

    async def start(self) -> None:
        """Make ready; then `listen`."""
        await self._runner.setup()

    async def listen(self, sockets: list, tls: ssl.SSLContext | None = None) -> None:  # type: ignore[type-arg]
        """Serve on bound sockets."""
        for sock in sockets:
            site = web.SockSite(self._runner, sock, ssl_context=tls)
            await site.start()
            self._sites.append(site)

    async def close(self) -> None:
        """Stop listening and end open requests."""
        await self._runner.cleanup()
