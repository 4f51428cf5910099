"""Keys from a web server, `GET {url}/{kid}.jwk`, with a cache.

Untrusted peers choose the kid: the number, size and duration of requests are limited, and unknown kids cached.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from http import HTTPStatus
from typing import Final

import aiohttp
from cachetools import TTLCache

from relay.auth.authenticator import Keys, KeyServiceError
from relay.auth.key import LARGEST_FILE, Key, KeyFileError, token_kid
from relay.auth.permissions import UnauthorizedError
from relay.logger import get_logger

logger = get_logger("relay.auth")

FRESH: Final = 60.0  # seconds: the delay of a key's revocation

UNKNOWN: Final = 10.0  # seconds: the delay of a new key

STALE: Final = 3_600.0
"""Seconds that a key stays usable while the server fails, so that maintenance ends no broadcast."""

KEYS: Final = 256
UNKNOWN_KEYS: Final = 4_096  # peers can fill only this second cache

AT_ONCE: Final = 8
"""Requests; tokens that need another are refused."""

TIMEOUT: Final = 5.0  # seconds, name resolution included


class KeyServer(Keys):
    """`[auth] key_dir` with a URL."""

    def __init__(self, url: str, tls: ssl.SSLContext | None = None, *, clock: Callable[[], float]) -> None:
        """`tls` verifies the server; None: the system's roots."""
        self._url = url.rstrip("/")
        self._tls = tls
        self._fresh: TTLCache[str, Key] = TTLCache(KEYS, FRESH, clock)
        self._stale: TTLCache[str, Key] = TTLCache(KEYS, STALE, clock)
        self._unknown: TTLCache[str, str] = TTLCache(UNKNOWN_KEYS, UNKNOWN, clock)
        self._fault: str | None = None  # the server's, logged when it changes
        self._requests: dict[str, asyncio.Task[Key]] = {}
        self._session: aiohttp.ClientSession | None = None

    async def find(self, token: str) -> Key:
        kid = token_kid(token)  # letters, digits, `-` and `_`: never a path
        if kid is None:
            raise UnauthorizedError("the token names no key (kid), which a key server needs")
        key = self._fresh.get(kid)
        if key is not None:
            return key
        reason = self._unknown.get(kid)
        if reason is not None:
            raise UnauthorizedError(reason)
        request = self._requests.get(kid)
        if request is None:
            if len(self._requests) >= AT_ONCE:
                raise KeyServiceError("too many keys are asked for at the same time")
            request = self._requests[kid] = asyncio.create_task(self._ask(kid))
            request.add_done_callback(lambda task: self._answered(kid, task))
        # peers share the request: cancelling one must not fail the others
        return await asyncio.shield(request)

    def _answered(self, kid: str, request: asyncio.Task[Key]) -> None:
        del self._requests[kid]
        if not request.cancelled():
            request.exception()  # in case no peer waits

    async def drain(self) -> None:
        """Wait for running requests, then close."""
        try:
            await asyncio.gather(*self._requests.values(), return_exceptions=True)
        finally:
            await self.close()

    async def close(self) -> None:
        for request in list(self._requests.values()):
            request.cancel()
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _ask(self, kid: str) -> Key:
        try:
            status, body = await self._get(f"{self._url}/{kid}.jwk")
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            return self._kept(kid, f"no answer: {str(error) or type(error).__name__}")
        if status in (HTTPStatus.NOT_FOUND, HTTPStatus.GONE):
            return self._refuse(kid, f"there is no key {kid!r}")
        if status != HTTPStatus.OK:
            return self._kept(kid, f"status {status}")
        self._fault = None
        try:
            key = Key.parse(body.decode(), f"{kid}.jwk of the key server")
        except (KeyFileError, UnicodeDecodeError) as error:
            logger.warning("key refused", reason=error)
            return self._refuse(kid, f"the key {kid!r} is unusable")
        if key.kid not in (None, kid):
            logger.warning("key refused", reason="the key server gave another one", asked=kid, kid=key.kid)
            return self._refuse(kid, f"the key {kid!r} is unusable")
        self._fresh[kid] = self._stale[kid] = key
        return key

    async def _get(self, url: str) -> tuple[int, bytes]:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT))
        # a redirect could lead to another host, or plain http
        async with self._session.get(
            url, allow_redirects=False, ssl=True if self._tls is None else self._tls
        ) as answer:
            body = await answer.content.read(LARGEST_FILE + 1)
            while len(body) <= LARGEST_FILE and (more := await answer.content.read(LARGEST_FILE)):
                body += more
            return answer.status, body

    def _refuse(self, kid: str, reason: str) -> Key:
        self._stale.pop(kid, None)
        self._unknown[kid] = reason
        raise UnauthorizedError(reason)

    def _kept(self, kid: str, fault: str) -> Key:
        if self._fault != fault:
            logger.warning("the key server fails", reason=fault)
            self._fault = fault
        key = self._stale.get(kid)
        if key is None:
            raise KeyServiceError(f"the key server fails: {fault}")
        return key
