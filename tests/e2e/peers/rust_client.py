"""One interface to the clients of moq-rs 0.5 and 0.3, and the report format of a peer: a JSON object a line."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import json
import re
import sys
import urllib.parse
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass
from typing import Any

import moq

VERSION = importlib.metadata.version("moq-rs")
# 0.5 has structured errors, timestamps and withdrawals, and awaits its subscriptions
NEW = tuple(map(int, VERSION.split(".")[:2])) >= (0, 5)
MoqError: type[Exception] = moq.Error if NEW else moq.MoqError
CONNECT_S = 30.0
GRACE_S = 1.0  # for work to notice the end of its session, and for a close to leave


def emit(event: str, **fields: object) -> None:
    sys.stdout.write(json.dumps({"event": event, **fields}) + "\n")
    sys.stdout.flush()


def describe(error: BaseException, scope: str) -> dict[str, Any]:
    """Scope, code and text of an error. `scope` is for errors without their own."""
    if (details := getattr(error, "details", None)) is not None:
        scope, code, kind = details.scope.name.lower(), details.code, details.kind.name.lower()
        return {"scope": scope, "code": code, "kind": kind, "message": details.message}
    found = re.search(r"code=(\d+)", str(error))
    code = int(found[1]) if found else None
    return {
        "scope": scope,
        "code": code,
        "kind": type(error).__name__.lower(),
        "message": str(error) or repr(error),
    }


@dataclass(frozen=True)
class Dial:
    url: str
    tls_verify: bool = False
    explicit_origins: bool = False
    fallback: bool = False
    """Try WebSocket beside QUIC, as applications do."""


@contextlib.asynccontextmanager
async def connected(dial: Dial, **tags: object) -> AsyncIterator[Any]:
    """Emits `connected`, or `error` and raises ConnectionError."""
    url = urllib.parse.urlsplit(dial.url)
    options: dict[str, Any] = {"tls_verify": dial.tls_verify}
    if url.hostname in {"127.0.0.1", "::1"}:
        options["bind"] = "127.0.0.1:0" if url.hostname == "127.0.0.1" else "[::1]:0"
    if NEW:
        options |= {
            "websocket_enabled": dial.fallback or url.scheme in {"ws", "wss"},
            "reconnect": False,
        }
    if dial.explicit_origins:
        options |= {"publish": moq.OriginProducer(), "subscribe": moq.OriginProducer()}
    client = moq.Client(dial.url, **options)
    try:
        await asyncio.wait_for(client.__aenter__(), CONNECT_S)
    except (MoqError, TimeoutError) as error:
        emit("error", **tags, stage="connect", **describe(error, "session"))
        raise ConnectionError(dial.url) from error
    emit("connected", **tags, client=VERSION)
    session = client.session
    try:
        yield client
    finally:
        session.shutdown()  # 0.3 merely forgets a session otherwise
        await client.__aexit__(None, None, None)
        with contextlib.suppress(MoqError, TimeoutError):
            await asyncio.wait_for(session.closed(), GRACE_S)


async def race(client: Any, work: Coroutine[Any, Any, str], limit: float, **tags: object) -> str:
    """Do the work while the session lasts: its result, or `timeout`, or `closed`."""
    closed = asyncio.ensure_future(client.session.closed())
    task = asyncio.ensure_future(work)
    try:
        done, _ = await asyncio.wait({closed, task}, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        if closed in done:
            error = closed.exception()
            emit("closed", **tags, **(describe(error, "session") if error else {}))
            await asyncio.wait({task}, timeout=GRACE_S)
        if task.done():
            return task.result()
        return "closed" if closed in done else "timeout"
    finally:
        closed.cancel()
        task.cancel()
        await asyncio.gather(closed, task, return_exceptions=True)
