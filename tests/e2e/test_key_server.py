"""Keys from a web server, over real HTTP: requests, caching and failures."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from relay.auth.authenticator import KeyServiceError
from relay.auth.permissions import UnauthorizedError
from relay.runtime import SYSTEM
from relay.web import key_server
from relay.web.key_server import KeyServer
from tests.auth.support import SECRET, authenticator, jwk, signed
from tests.auth.support import Clock as Wall

pytestmark = pytest.mark.e2e

OTHER = b"another secret, also long enough for it"


def naming(kid: str) -> str:
    """A token whose header names that key."""
    return signed({}, kid=kid)


class Server:
    """Answers from `answers`, and keeps the requests."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.asked: list[str] = []
        self.arrived = asyncio.Semaphore(0)
        """One permit for each request."""
        self.hold = asyncio.Event()
        self.hold.set()
        self.url = ""

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(request.path)
        self.arrived.release()
        await self.hold.wait()
        found = self.answers.get(request.path.removeprefix("/keys/"), 404)
        if isinstance(found, int):
            return web.Response(status=found, headers={"location": "/keys/a.jwk"} if found == 302 else {})
        return web.Response(body=found)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    app = web.Application()
    app.router.add_get("/{path:.*}", made.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}/keys"
    yield made
    made.hold.set()
    await runner.cleanup()


@pytest.fixture
async def keys(server: Server) -> AsyncIterator[KeyServer]:
    made = KeyServer(server.url + "/", clock=SYSTEM.now)
    yield made
    await made.close()


async def admitted(keys: KeyServer, kid: str | None, secret: bytes = SECRET) -> bool:
    headers = {} if kid is None else {"kid": kid}
    try:
        await authenticator(keys=keys).verify("/", "jwt=" + signed({"get": ""}, secret=secret, **headers))
    except UnauthorizedError as error:
        return bool(error.status != 401)
    return True


class Ticking(Wall):
    """The clock of the caches."""


@pytest.fixture
def clock() -> Ticking:
    return Ticking()


async def test_a_key_is_asked_for_once_while_it_is_fresh(server: Server, clock: Ticking) -> None:
    keys = KeyServer(server.url, clock=clock)
    server.answers["a.jwk"] = jwk(kid="a")
    for _ in range(3):
        assert await admitted(keys, "a")
    assert not await admitted(keys, "a", OTHER)
    assert server.asked == ["/keys/a.jwk"]
    clock.now += key_server.FRESH + 1
    server.answers["a.jwk"] = jwk(OTHER, kid="a")
    assert await admitted(keys, "a", OTHER)
    assert not await admitted(keys, "a")
    assert len(server.asked) == 2
    await keys.close()


async def test_an_unknown_key_is_not_asked_for_again_at_once(server: Server, clock: Ticking) -> None:
    keys = KeyServer(server.url, clock=clock)
    for _ in range(3):
        assert not await admitted(keys, "new")
    assert len(server.asked) == 1
    server.answers["new.jwk"] = jwk()
    clock.now += key_server.UNKNOWN + 1
    assert await admitted(keys, "new")
    await keys.close()


async def test_a_key_taken_away_is_refused_once_it_is_no_longer_fresh(server: Server, clock: Ticking) -> None:
    keys = KeyServer(server.url, clock=clock)
    server.answers["a.jwk"] = jwk()
    assert await admitted(keys, "a")
    del server.answers["a.jwk"]
    assert await admitted(keys, "a")
    clock.now += key_server.FRESH + 1
    assert not await admitted(keys, "a")
    server.answers["a.jwk"] = 500
    clock.now += key_server.UNKNOWN + 1
    with pytest.raises(KeyServiceError):
        await keys.find(naming("a"))
    await keys.close()


async def test_a_failing_server_ends_nothing_for_a_while(server: Server, clock: Ticking) -> None:
    keys = KeyServer(server.url, clock=clock)
    server.answers["a.jwk"] = jwk()
    assert await admitted(keys, "a")
    server.answers["a.jwk"] = server.answers["b.jwk"] = 503
    clock.now += key_server.FRESH + 1
    assert await admitted(keys, "a")
    with pytest.raises(KeyServiceError, match="503") as caught:
        await keys.find(naming("b"))
    assert caught.value.status == 502
    clock.now += key_server.STALE
    with pytest.raises(KeyServiceError):
        await keys.find(naming("a"))
    await keys.close()


async def test_many_who_wait_for_one_key_are_one_request(server: Server, keys: KeyServer) -> None:
    server.answers["a.jwk"] = jwk()
    server.hold.clear()
    waiting = [asyncio.ensure_future(keys.find(naming("a"))) for _ in range(50)]
    await server.arrived.acquire()
    waiting[0].cancel()
    server.hold.set()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert len(set(map(id, results[1:]))) == 1
    assert server.asked == ["/keys/a.jwk"]


async def test_those_who_wait_get_their_answer_when_another_server_takes_over(
    server: Server, keys: KeyServer
) -> None:
    server.answers["a.jwk"] = jwk(kid="a")
    server.hold.clear()
    waiting = asyncio.create_task(admitted(keys, "a"))
    await server.arrived.acquire()
    draining = asyncio.create_task(keys.drain())
    server.hold.set()
    assert await waiting
    await draining
    assert keys._session is None


async def test_only_so_many_requests_at_once(server: Server, keys: KeyServer) -> None:
    server.hold.clear()
    waiting = [asyncio.ensure_future(keys.find(naming(f"k{number}"))) for number in range(key_server.AT_ONCE)]
    for _ in waiting:
        await server.arrived.acquire()
    with pytest.raises(KeyServiceError, match="same time"):
        await keys.find(naming("another"))
    server.hold.set()
    assert all(
        isinstance(e, UnauthorizedError) for e in await asyncio.gather(*waiting, return_exceptions=True)
    )
    assert not keys._requests


@pytest.mark.parametrize(
    "answer",
    [b"", b"{", b"\xff\xfe", b"<html>", b"a" * 1_000_000, jwk(b"short"), jwk(kid="other"), jwk(alg="none"),
     jwk(key_ops=["sign"])],
    ids=lambda answer: str(answer[:12]),
)  # fmt: skip
async def test_what_is_no_key(server: Server, keys: KeyServer, answer: bytes) -> None:
    server.answers["a.jwk"] = answer
    assert not await admitted(keys, "a")


@pytest.mark.parametrize("status", [302, 401, 500, 204])
async def test_other_answers_are_the_servers_trouble(server: Server, keys: KeyServer, status: int) -> None:
    """Redirects too: following one would let the server choose another host."""
    server.answers |= {"b.jwk": status, "a.jwk": jwk()}
    with pytest.raises(KeyServiceError, match=str(status)):
        await keys.find(naming("b"))
    assert server.asked == ["/keys/b.jwk"]


async def test_nobody_there(server: Server) -> None:
    keys = KeyServer("http://127.0.0.1:9/keys", clock=SYSTEM.now)
    with pytest.raises(KeyServiceError, match="no answer"):
        await keys.find(naming("a"))
    await keys.close()


async def test_a_token_without_a_name_asks_for_nothing(server: Server, keys: KeyServer) -> None:
    assert not await admitted(keys, None)
    assert not await admitted(keys, "../a")
    assert not server.asked
