"""Applies `[auth]` to the URL path and `?jwt=` of every session and HTTP request."""

from __future__ import annotations

import asyncio
import stat
from collections import Counter
from collections.abc import Callable, Iterable
from http import HTTPStatus
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl

from relay.auth.claims import Claims
from relay.auth.key import Key, KeyFileError
from relay.auth.permissions import Permissions, Reason, UnauthorizedError
from relay.auth.throttle import Throttle
from relay.logger import get_logger
from relay.model.limits import Limits
from relay.model.path import normalize

logger = get_logger("relay.auth")

MOST_FIELDS: Final = 32  # of a query; real ones have one


class KeyServiceError(UnauthorizedError):
    """A token's key is not available at the moment: no fault of the peer."""

    status = HTTPStatus.BAD_GATEWAY

    def __init__(self, text: str) -> None:
        super().__init__(text, Reason.NO_KEY)


class Keys:
    """A source of keys."""

    async def find(self, token: str) -> Key:
        """The key that an unverified token names. Raises UnauthorizedError."""
        raise NotImplementedError

    async def drain(self) -> None:
        """Answer pending requests, then close."""

    async def close(self) -> None:
        pass


def load_verifying(file: Path) -> Key:
    """Raises KeyFileError, or OSError."""
    key = Key.load(file)
    if "verify" not in key.operations:
        raise KeyFileError(f'{file}: key_ops does not contain "verify"')
    if key.private and file.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        logger.warning("other users may read a key, and so sign tokens: chmod 600 it", file=file)
    return key


class OneKey(Keys):
    """`[auth] key`: whatever `kid` a token names."""

    def __init__(self, key: Key) -> None:
        self.key = key

    @classmethod
    def load(cls, file: Path) -> OneKey:
        return cls(load_verifying(file))

    async def find(self, token: str) -> Key:  # noqa: ARG002 - a single key needs no name
        return self.key


def token_of(query: str) -> str | None:
    """`jwt` of a query. Raises UnauthorizedError for two: a proxy in front might read the other one."""
    try:
        # URL parsers cut off a fragment; peers on raw QUIC may send it
        fields = parse_qsl(query.partition("#")[0], keep_blank_values=True, max_num_fields=MOST_FIELDS)
    except ValueError:
        raise UnauthorizedError(f"the query has more than {MOST_FIELDS} fields", Reason.BAD) from None
    found = [value for name, value in fields if name == "jwt"]
    if len(found) > 1:
        raise UnauthorizedError(f"the query holds jwt {len(found)} times, expected once", Reason.BAD)
    return found[0] if found else None


class Authenticator:
    """Decides on every session and HTTP request."""

    def __init__(
        self,
        *,
        keys: Keys | None,
        public: Claims | None,
        throttle: Throttle,
        waiting: int = 256,
        aliases: Iterable[str] = (),
        now: Callable[[], float],
    ) -> None:
        """`public`: permissions without a token. At most `waiting` refusals are delayed at the same time.

        `aliases`: paths, in normal form, at which sessions have the names of `/`.
        """
        self.aliases = frozenset(aliases)
        self.keys = keys
        self.public = public
        self.throttle = throttle
        self.waiting = waiting
        self._delayed = 0
        self._draining: set[asyncio.Task[None]] = set()
        self._now = now
        self.refused: Counter[str] = Counter()  # by `admit`, by reason

    def use(self, keys: Keys | None, public: Claims | None, limits: Limits) -> None:
        """Use these for later peers."""
        former, self.keys = self.keys, keys
        if former is not None and former is not keys:
            task = asyncio.get_running_loop().create_task(former.drain())
            self._draining.add(task)
            task.add_done_callback(self._draining.discard)
        self.public = public
        self.waiting = limits.auth_waiting
        self.throttle.failures = limits.auth_failures
        self.throttle.delay = limits.auth_delay

    async def close(self) -> None:
        for task in self._draining:
            task.cancel()
        await asyncio.gather(*self._draining, return_exceptions=True)
        if self.keys is not None:
            await self.keys.close()

    async def admit_session(self, path: str, query: str, remote: str) -> Permissions:
        """Like `admit`; an alias stands for `/`."""
        return await self.admit("" if normalize(path) in self.aliases else path, query, remote)

    async def admit(self, path: str, query: str, remote: str) -> Permissions:
        """Like `verify`, but delays many refusals of one address."""
        try:
            return await self.verify(path, query)
        except UnauthorizedError as error:
            ours = isinstance(error, KeyServiceError)
            self.refused["key service" if ours else "unauthorized"] += 1
            if not ours:
                await self._delay(self.throttle.failed(remote))
            raise

    async def verify(self, path: str, query: str) -> Permissions:
        """Raises UnauthorizedError."""
        token = token_of(query)
        if token:
            claims = await self._claims(token)
            claims.check_time(self._now())
            return claims.at(path)
        if self.public is None:
            raise UnauthorizedError("a token is needed", Reason.NEEDED)
        try:
            return self.public.at(path)
        except UnauthorizedError as error:
            reason = Reason.NEEDED if error.reason is Reason.NOT_GRANTED else error.reason
            raise UnauthorizedError(f"no token, and for anyone {error}", reason) from None

    async def _claims(self, token: str) -> Claims:
        if self.keys is None:
            raise UnauthorizedError("a token was given, but no [auth] key is configured", Reason.BAD)
        try:
            return (await self.keys.find(token)).verify(token)
        except KeyServiceError:
            raise
        except UnauthorizedError as error:
            error.reason = Reason.BAD
            raise

    async def _delay(self, seconds: float) -> None:
        if not seconds or self._delayed >= self.waiting:
            return
        self._delayed += 1
        try:
            await asyncio.sleep(seconds)
        finally:
            self._delayed -= 1
