"""WebSocket sessions on the HTTP port, on `/` and on every path without a route."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from aiohttp import hdrs, web

from relay.model.address import address_of, readable_address
from relay.model.incompatible import IncompatiblePeers
from relay.model.limits import Limits
from relay.runtime import SYSTEM, Runtime
from relay.transport.refusal import challenge
from relay.transport.session import SessionRequest
from relay.transport.slots import Slots
from relay.transport.websocket.choice import choices, choose
from relay.transport.websocket.pump import CLOSE_TIMEOUT, WRITE_BUFFER, Pump, lose
from relay.transport.websocket.request import WebSocketRequest
from relay.web.listener import Handler

MESSAGE_SLACK: Final = 65_536  # bytes: slightly larger messages are read, to report the limit to the sender


@dataclass(frozen=True, slots=True)
class Sessions:
    """The relay, as these routes see it."""

    on_request: Callable[[SessionRequest], Awaitable[None]]  # accepts or rejects before it returns
    versions: tuple[Any, ...]  # for `choose`
    limits: Callable[[], Limits]  # of the next session
    addresses: Slots  # on all transports
    incompatible: IncompatiblePeers | None = None  # peers without a common version
    runtime: Runtime = SYSTEM


def accept_sessions(app: web.Application, sessions: Sessions) -> None:
    """Accept sessions on `/` and on every path without a route."""

    @web.middleware
    async def upgrades(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        upgraded = request.headers.get(hdrs.UPGRADE, "").strip().lower() == "websocket"
        unknown = isinstance(request.match_info.http_exception, web.HTTPNotFound)
        if upgraded and request.method == hdrs.METH_GET and (unknown or request.path == "/"):
            return await upgrade(request, sessions)
        return await handler(request)

    app.middlewares.append(upgrades)


async def upgrade(request: web.Request, sessions: Sessions) -> web.StreamResponse:
    """Answer an upgrade and run its session, if its address may have one more."""
    remote, addresses = _remote(request), sessions.addresses
    key = address_of(remote)
    if addresses.full(key):
        addresses.refuse(key)
        return web.Response(status=429, text="too many sessions of this address\n")
    addresses.enter(key)
    try:
        return await _upgrade(request, remote, sessions)
    finally:
        addresses.leave(key)


async def _upgrade(request: web.Request, remote: str, sessions: Sessions) -> web.StreamResponse:
    names = request.headers.get(hdrs.SEC_WEBSOCKET_PROTOCOL, "").split(",")
    offered = tuple(name.strip() for name in names if name.strip())
    choice = choose(offered, sessions.versions)
    if choice is None:
        if sessions.incompatible is not None:
            sessions.incompatible.met(remote, "websocket", offered)
        known = ", ".join(each.subprotocol for each in choices(sessions.versions))
        text = f"none of the offered subprotocols is supported; these are: {known}\n"
        return web.Response(status=400, text=text)
    limits = sessions.limits()
    limit = limits.websocket_message if choice.draft is None else 0
    ws = web.WebSocketResponse(
        timeout=CLOSE_TIMEOUT,
        autoping=False,  # the session answers pings, to know of every one
        compress=False,
        max_msg_size=limit + MESSAGE_SLACK,
        protocols=(choice.subprotocol,) if choice.subprotocol else (),
        writer_limit=WRITE_BUFFER // 4,
    )
    if not ws.can_prepare(request):
        return web.Response(status=400, text="not a WebSocket upgrade\n")
    asked = WebSocketRequest(
        choice,
        limits,
        remote=remote,
        path=request.rel_url.raw_path,
        query=request.rel_url.raw_query_string,
        offered=offered,
        clock=sessions.runtime.now,
    )
    await sessions.on_request(asked)
    session = asked.session
    if session is None:
        status, reason = asked.refusal or (503, "the relay is not ready")
        headers = {"www-authenticate": challenge(reason)} if status == HTTPStatus.UNAUTHORIZED else {}
        return web.Response(status=status, text=f"{reason}\n", headers=headers)
    transport = request.transport
    try:
        await ws.prepare(request)
    except ConnectionError:  # the peer left before the answer
        lose(session, "connection lost")
        return web.Response(status=400)
    except BaseException:
        lose(session, "connection lost")
        raise
    if transport is None:
        lose(session, "connection lost")
        return ws
    if isinstance(request.protocol, Handler):
        request.protocol.leave()  # sessions have a limit of their own
    if isinstance(transport, asyncio.WriteTransport):
        transport.set_write_buffer_limits(high=WRITE_BUFFER)
    await Pump(ws, session, transport.abort, sessions.runtime).run()
    return ws


def _remote(request: web.Request) -> str:
    peer = request.transport.get_extra_info("peername") if request.transport is not None else None
    if not isinstance(peer, tuple):
        return str(request.remote)
    return readable_address(*peer[:2])
