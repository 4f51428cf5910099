"""Dials a WebSocket. Logs show no query of a URL."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from contextlib import AsyncExitStack

import aiohttp

from relay.model.limits import Limits
from relay.quic.trust import ClientTls, Trust
from relay.runtime import Runtime
from relay.transport.websocket.choice import PLAIN, Choice, choices
from relay.transport.websocket.pump import CLOSE_TIMEOUT, Pump, Socket
from relay.transport.websocket.request import make_session
from relay.transport.websocket.session import FramedSession
from relay.wire.version import AnyVersion

LIMITS = Limits()  # those that a relay gives clients
MESSAGE_SLACK = 65_536  # bytes: slightly larger messages are read, to report the limit to the sender


class HandshakeError(Exception):
    """The server's answer does not match the offer."""


async def dial(
    origin: str,
    path: str,
    query: str,
    *,
    versions: Sequence[AnyVersion],
    tls: ClientTls,
    bind: tuple[str, int] | None = None,
    offer: Sequence[str] | None = None,
    runtime: Runtime,
) -> FramedSession:
    """Dial `origin`: scheme, host and port.

    Raises aiohttp's errors, HandshakeError, or CertificateError for unusable roots.
    """
    known = [choice for choice in choices(versions) if offer is None or choice.subprotocol in offer]
    async with AsyncExitStack() as stack:
        connector = aiohttp.TCPConnector(local_addr=bind, force_close=True)
        http = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
        ws = await http.ws_connect(
            f"{origin}{path}?{query}" if query else origin + path,
            protocols=[choice.subprotocol for choice in known],
            timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_TIMEOUT),
            autoping=False,
            compress=0,
            max_msg_size=LIMITS.websocket_message + MESSAGE_SLACK,
            ssl=_trust(tls),
        )
        found = Choice("", None, None)
        if ws.protocol is not None:  # aiohttp only returns an offered name
            found = next(choice for choice in known if choice.subprotocol == ws.protocol)
        elif known and not any(choice.subprotocol == PLAIN for choice in known):
            raise HandshakeError("the server chose none of the offered subprotocols")
        session = make_session(
            found,
            LIMITS,
            remote=origin.partition("://")[2],
            is_client=True,
            path=path,
            query=query,
            clock=runtime.now,
        )
        _run(ws, session, stack.pop_all(), runtime)
        return session


_running: set[asyncio.Task[None]] = set()  # keeps tasks alive


def _run(ws: Socket, session: FramedSession, stack: AsyncExitStack, runtime: Runtime) -> None:
    async def run() -> None:
        async with stack:
            await Pump(ws, session, lambda: None, runtime).run()
        session.released.set()

    task = asyncio.create_task(run())
    _running.add(task)
    task.add_done_callback(_running.discard)


def _trust(tls: ClientTls) -> ssl.SSLContext | aiohttp.Fingerprint | bool:
    trust = Trust(tls)
    if trust.pins:
        return aiohttp.Fingerprint(bytes.fromhex(trust.pins[0]))
    if not trust.verify:
        return False
    if trust.roots is not None:
        return ssl.create_default_context(cadata=trust.roots.decode())
    return True
