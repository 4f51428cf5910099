"""Attacks on the wire: each is refused uniformly, without details, and the relay continues to serve."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import re
import statistics
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import jwt
import pytest
import yarl
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from relay.app import Relay
from relay.auth.authenticator import Authenticator, OneKey
from relay.auth.claims import Claims
from relay.auth.key import LONGEST_TOKEN, Key
from relay.auth.permissions import UnauthorizedError
from relay.auth.throttle import Throttle
from relay.client import Client, SessionEnded
from relay.config import Auth
from relay.quic.trust import ClientTls
from relay.transport.client import ConnectError, connect, connect_websocket
from relay.transport.session import Stream
from relay.transport.webtransport_client import WebTransportClientSession
from relay.wire.announce import AnnounceRequest
from relay.wire.frame import setup_stream
from relay.wire.setup import Setup
from relay.wire.subscribe import Subscribe
from relay.wire.varint import encode_varint
from relay.wire.version import Version
from tests.e2e import auth_support
from tests.e2e.auth_support import (
    IN_ROOM,
    OTHER_SECRET,
    ROOM,
    WITHIN,
    WORLD,
    Answer,
    Record,
    address,
    dial,
    everything,
    garbled,
    guarded,
    leaks,
    publish,
    recorded,
    token,
)
from tests.e2e.http_support import SECRET, key_file
from tests.sampling import rotated

pytestmark = pytest.mark.e2e

WAYS: Final = ("http", "websocket", "webtransport", "quic")


@pytest.fixture(autouse=True)
def record() -> Iterator[Record]:
    """No attempt logs a part of a token, or fails inside."""
    with recorded() as everything_logged:
        yield everything_logged


# --- ways in, down to the byte -----------------------------------------------------------------------------------------

Outcome = tuple[bool, object]
"""Admitted with these paths; else the refusal."""

UNAUTHORIZED: Final[dict[str, Outcome]] = {
    "http": (False, (401, "unauthorized")),
    "websocket": (False, (401, "unauthorized")),
    "webtransport": (False, ("rejected", 401)),
    "quic": (False, (2, "unauthorized")),
}


WORDS: Final = (
    "bad token",
    "bad path",
    "not granted",
    "token expired",
    "token needed",
    "token not valid yet",
)


def without_word(told: str) -> str:
    """Nothing may follow the prefix."""
    refusal, colon, word = told.partition(": ")
    return refusal if colon and refusal == "unauthorized" and word in WORDS else told


async def ask(relay: Relay, target: bytes, *fields: bytes) -> tuple[int, str]:
    """One HTTP request through a plain socket; status and body of the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", yarl.URL(relay.url).port)
    try:
        head = (b"GET " + target + b" HTTP/1.1", b"host: relay", b"connection: close", *fields)
        writer.write(b"\r\n".join((*head, b"", b"")))
        # it may answer before it has read everything
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        answer = b""
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(WITHIN):
                while piece := await reader.read(65_536):
                    answer += piece
        if not answer:
            return 0, ""
        start, _, body = answer.partition(b"\r\n\r\n")
        return int(start.split()[1]), body.decode().strip()
    finally:
        writer.close()


async def over_http(relay: Relay, target: bytes, *fields: bytes) -> Outcome:
    status, body = await ask(relay, b"/announced" + target, *fields)
    return (True, set(body.split("\n"))) if status == 200 else (False, (status, without_word(body)))


UPGRADE: Final = (
    b"upgrade: websocket",
    b"connection: upgrade",
    b"sec-websocket-key: MDEyMzQ1Njc4OWFiY2RlZg==",
    b"sec-websocket-version: 13",
    b"sec-websocket-protocol: qmux-02.moq-lite-06",
)


async def over_websocket(relay: Relay, target: bytes, *fields: bytes) -> Outcome:
    reader, writer = await asyncio.open_connection("127.0.0.1", yarl.URL(relay.url).port)
    try:
        head = (b"GET " + target + b" HTTP/1.1", b"host: relay", *UPGRADE, *fields)
        writer.write(b"\r\n".join((*head, b"", b"")))
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        answer = b""
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            async with asyncio.timeout(WITHIN):
                answer = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    (
                        int(line.split()[1])
                        for line in answer.lower().split(b"\r\n")
                        if line.startswith(b"content-length")
                    ),
                    0,
                )
                answer += await reader.readexactly(length)
        if not answer:
            return False, (0, "")
        status = int(answer.split()[1])
        if status == 101:
            return True, None
        return False, (status, without_word(answer.partition(b"\r\n\r\n")[2].decode().strip()))
    finally:
        writer.close()


@contextlib.contextmanager
def asking_for(target: bytes) -> Iterator[None]:
    """Our client requests exactly these bytes as the `:path` of its WebTransport session."""
    request = WebTransportClientSession._request

    def altered(self: WebTransportClientSession, settings: dict[int, int]) -> None:
        h3: Any = self._h3

        def sending(stream_id: int, headers: Any) -> None:
            fields = [(name, target if name == b":path" else value) for name, value in headers]
            stream = self.connection.streams.get(stream_id)
            assert stream is not None
            stream.write([headers_frame(fields)])

        h3.send_headers = sending
        request(self, settings)

    WebTransportClientSession._request = altered  # type: ignore[method-assign]
    try:
        yield
    finally:
        WebTransportClientSession._request = request  # type: ignore[method-assign]


def headers_frame(fields: list[tuple[bytes, bytes]]) -> bytes:
    """Spelled out: the usual encoder takes no value over 64 KiB."""

    def prefixed(flags: int, bits: int, number: int) -> bytes:
        most = (1 << bits) - 1
        if number < most:
            return bytes([flags | number])
        digits, number = [flags | most], number - most
        while number >= 128:
            digits.append(number & 127 | 128)
            number >>= 7
        return bytes([*digits, number])

    lines = [
        prefixed(0x20, 3, len(name)) + name + prefixed(0, 7, len(value)) + value for name, value in fields
    ]
    block = b"\0\0" + b"".join(lines)
    return b"\x01" + encode_varint(len(block)) + block


async def seen(client: Client) -> set[str]:
    async with client:
        live = await client.announced().initial()
        return set(live)


async def over_webtransport(relay: Relay, target: bytes, *fields: bytes) -> Outcome:
    try:
        with asking_for(target):
            client = await dial(relay, "webtransport")
        return True, await seen(client)
    except ConnectError as error:
        return False, (error.kind, error.status)
    except SessionEnded as ended:
        return False, (ended.code, without_word(ended.reason))


class Opening:
    """A session that opens unidirectional streams through `wrap`."""

    def __init__(self, session: Any, wrap: Callable[[Stream], Any]) -> None:
        self._session = session
        self._wrap = wrap

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def open_uni(self, priority: int = 0) -> Any:
        return self._wrap(self._session.open_uni(priority))


class Introduction:
    """The stream of our SETUP, with `target` in place of tildes."""

    def __init__(self, stream: Stream, target: bytes) -> None:
        self._stream = stream
        self._target = target

    def write(self, chunks: Sequence[bytes], *, fin: bool = False) -> None:
        # the last tildes: the length before them may end in one
        head, found, tail = b"".join(chunks).rpartition(b"~" * len(self._target))
        assert found or not self._target
        self._stream.write([head + self._target + tail], fin=fin)


async def over_quic(relay: Relay, target: bytes, *fields: bytes) -> Outcome:
    """Path and query are a parameter of SETUP."""
    tls = ClientTls(fingerprints=(relay.fingerprint,))
    session: Any = await connect(address(relay, "quic"), versions=(Version.LITE_05,), tls=tls)
    client = Client(Opening(session, partial(Introduction, target=target)), target="~" * len(target))
    try:
        await client.start()
        return True, await seen(client)
    except SessionEnded as ended:
        return False, (ended.code, without_word(ended.reason))
    finally:
        await client.close()


OVER: Final[dict[str, Callable[..., Any]]] = {
    "http": over_http,
    "websocket": over_websocket,
    "webtransport": over_webtransport,
    "quic": over_quic,
}


async def outcomes(
    relay: Relay, target: bytes | str, *fields: bytes, ways: Collection[str] = WAYS
) -> dict[str, Outcome]:
    raw = target.encode() if isinstance(target, str) else target
    found = {way: await OVER[way](relay, raw, *fields) for way in ways}
    assert not leaks(str(found))
    return found


def some_ways(number: int) -> set[str]:
    """HTTP and another one in turn, for many targets which are judged by the same code whatever the transport."""
    return rotated(WAYS, "ways", number)


async def assert_refused(
    relay: Relay, target: bytes | str, *fields: bytes, ways: Collection[str] = WAYS
) -> None:
    """By these transports, like any other refusal."""
    found = await outcomes(relay, target, *fields, ways=ways)
    assert all(refused(way, outcome) for way, outcome in found.items()), (target[:100], found)


def refused(way: str, outcome: Outcome) -> bool:
    """Like any other; or, over HTTP, for an impossible path, which no token helps."""
    admitted, found = outcome
    impossible = way == "http" and isinstance(found, tuple) and found[0] == 400
    return outcome == UNAUTHORIZED[way] or (impossible and not admitted)


async def assert_admitted(relay: Relay, target: bytes | str, expected: set[str]) -> None:
    for way, (admitted, found) in (await outcomes(relay, target)).items():
        assert admitted, (way, target[:100], found)
        assert way == "websocket" or found == expected, (way, target[:100])


@contextlib.asynccontextmanager
async def serving(
    folder: Path, auth: Auth | None = None, credential: str | None = None
) -> AsyncIterator[Relay]:
    """It must serve to the end."""
    credential = credential or everything()
    async with (
        guarded(folder, auth=auth) as relay,
        await dial(relay, "websocket", "", credential) as admin,
        await dial(relay, "websocket", "", credential) as watcher,
    ):
        for path in WORLD:
            publish(admin, path)
        announced = watcher.announced()
        for path in WORLD:
            await announced.wait_for(path)
        yield relay
        assert set(announced.live) == set(WORLD)
        await assert_admitted(relay, f"/room/123?jwt={credential}", set(IN_ROOM))
        for client in (admin, watcher):
            client.check()


# --- tokens that are none ----------------------------------------------------------------------------------------------


def encoded(part: bytes) -> str:
    return base64.urlsafe_b64encode(part).decode().rstrip("=")


def made(header: bytes | str, payload: bytes | str, secret: bytes | None = SECRET) -> str:
    """Any bytes, with an HMAC by this secret, or unsigned."""
    parts = [encoded(part if isinstance(part, bytes) else part.encode()) for part in (header, payload)]
    hmac = jwt.get_algorithm_by_name("HS256")
    signature = "" if secret is None else encoded(hmac.sign(".".join(parts).encode(), secret))
    whole = ".".join((*parts, signature))
    auth_support.given.add(whole)
    return whole


HEADER: Final = '{"alg":"HS256","typ":"JWT"}'
ALL: Final = '{"put":"","get":""}'


def bad_tokens() -> dict[str, str]:
    good, now = everything(), int(time.time())
    head, payload, signature = good.split(".")
    last = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    twin = last[last.index(signature[-1]) ^ 1]
    found = {
        **{
            f"alg {name}": made(json.dumps({"alg": name}), ALL, None)
            for name in ("none", "None", "NONE", "nOnE", "")
        },
        "alg none, signed": made('{"alg":"none"}', ALL),
        "no alg": made("{}", ALL),
        "alg twice": made('{"alg":"HS256","alg":"none"}', ALL),
        "alg list": made('{"alg":["HS256"]}', ALL),
        "alg in lower case": made('{"alg":"hs256"}', ALL),
        "another alg of the same key": token(algorithm="HS512", secret=SECRET * 2, put="", get=""),
        "wrong key": token(secret=OTHER_SECRET, put="", get=""),
        "empty key": made(HEADER, ALL, b""),
        "expired": token(put="", get="", exp=now - 1),
        "expired long ago": token(put="", get="", exp=0),
        "not yet": token(put="", get="", nbf=now + 3_600),
        "crit": token(headers={"crit": ["exp"]}, put="", get=""),
        "b64": token(headers={"b64": False}, put="", get=""),
        "aud": token(put="", get="", aud="somebody"),
        "exp is text": made(HEADER, f'{{"get":"","exp":"{now + 60}"}}'),
        "exp is no number": made(HEADER, '{"get":"","exp":NaN}'),
        "exp is infinite": made(HEADER, '{"get":"","exp":Infinity}'),
        "exp is too large": made(HEADER, '{"get":"","exp":1e999}'),
        "exp is true": made(HEADER, '{"get":"","exp":true}'),
        "exp twice": made(HEADER, f'{{"get":"","exp":1,"exp":{now + 60}}}'),
        "get is a number": made(HEADER, '{"get":0}'),
        "get is null": made(HEADER, '{"get":null}'),
        "get holds a list": made(HEADER, '{"get":[[""]]}'),
        "get holds half a character": made(HEADER, '{"get":"\\ud800"}'),
        "root is a list": made(HEADER, '{"root":[],"get":""}'),
        "cluster is text": made(HEADER, '{"get":"","cluster":"yes"}'),
        "nothing granted": made(HEADER, '{"root":""}'),
        "two spellings": made(HEADER, '{"get":"","pub":"room"}'),
        "payload is a list": made(HEADER, "[]"),
        "payload is no JSON": made(HEADER, "get everything"),
        "payload is not UTF-8": made(HEADER, b'{"get":"\xff"}'),
        "nested": made(HEADER, "[" * 2_000 + "]" * 2_000),
        "signature cut": good[:-1],
        "signature of none": f"{head}.{payload}.",
        "no signature": f"{head}.{payload}",
        "four parts": f"{good}.x",
        "padded": f"{good}%3D",
        "spelled otherwise": good[:-1] + twin,
        "parts exchanged": f"{payload}.{head}.{signature}",
        "blank in front": f"%20{good}",
        "line end": f"{good}%0A",
        "NUL": f"{good}%00",
        "doubly encoded": good.replace(".", "%252E"),
        "not ASCII": good[:-1] + "%C3%A9",
        "not UTF-8": good[:-1] + "%FF",
        "dots": "..",
        "many dots": "." * 1_000,
        "garbled": garbled(good),
    }
    auth_support.given.update(found.values())
    return found


async def test_tokens_that_are_none(tmp_path: Path, record: Record) -> None:
    async with serving(tmp_path) as relay:
        for number, (name, bad) in enumerate(bad_tokens().items()):
            before = len(record.lines("refused"))
            ways = some_ways(number)
            for place in ("/room/123", "/nowhere"):
                found = await outcomes(relay, f"{place}?jwt={bad}", ways=ways)
                assert found == {way: UNAUTHORIZED[way] for way in ways}, name
            reasons = [line.partition("reason=")[2] for line in record.lines("refused")[before:]]
            said = {re.sub(r"\d+", "N", reason) for reason in reasons}
            assert len(said) == 1, (name, said)
        assert len(relay.connections) == 2


async def test_the_public_key_of_a_relay_signs_nothing(tmp_path: Path) -> None:
    private: dict[str, Any] = {
        "RS256": rsa.generate_private_key(65537, 2048),
        "ES256": ec.generate_private_key(ec.SECP256R1()),
    }
    for kind, key in private.items():
        members = json.loads(jwt.get_algorithm_by_name(kind).to_jwk(key.public_key())) | {"alg": kind}
        members.pop("key_ops", None)
        text = json.dumps(members)
        file = tmp_path / f"{kind}.jwk"
        file.write_text(text)
        shown = [
            text.encode(),
            encoded(text.encode()).encode(),
            file.read_bytes(),
            key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
            key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).strip(),
            key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
            str(members.get("n", members.get("x"))).encode(),
        ]
        credential = token(algorithm=kind, secret=key, put="", get="")
        async with serving(tmp_path, Auth(key=file), credential=credential) as relay:
            headers = (HEADER, json.dumps({"alg": kind}))
            for number, (secret, header) in enumerate(itertools.product(shown, headers)):
                bad = made(header, ALL, secret)
                await assert_refused(relay, f"/room/123?jwt={bad}", ways=some_ways(number))
            mine = rsa.generate_private_key(65537, 2048)
            own = json.loads(jwt.get_algorithm_by_name("RS256").to_jwk(mine.public_key()))
            brought = token(algorithm="RS256", secret=mine, headers={"jwk": own}, put="", get="")
            await assert_refused(relay, f"/room/123?jwt={brought}")


async def test_a_key_outside_of_the_directory_is_not_found(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    (keys / "deeper").mkdir(parents=True)
    key_file(keys).rename(keys / "good.jwk")
    for place in (tmp_path, keys / "deeper"):
        outside = {"alg": "HS256", "key_ops": ["verify"], "k": encoded(OTHER_SECRET)}
        (place / "outside.jwk").write_text(json.dumps(outside))
    (keys / "other.txt").write_text((tmp_path / "outside.jwk").read_text())
    kids: list[object] = [
        "../outside",
        "..%2foutside",
        "..\\outside",
        "deeper/outside",
        "./good",
        str(tmp_path / "outside"),
        (tmp_path / "outside").as_uri(),
        "good\0",
        "good.jwk",
        "GOOD",
        "other.txt",
        "other",
        "*",
        "",
        ".",
        "..",
        "a" * 129,
        "a" * 128,
        "gööd",
        "missing",
    ]
    good = token(headers={"kid": "good"}, put="", get="")
    async with serving(keys, Auth(key_dir=str(keys)), credential=good) as relay:
        for number, (secret, kid) in enumerate(itertools.product((SECRET, OTHER_SECRET), kids)):
            bad = made(json.dumps({"alg": "HS256", "kid": kid}), ALL, secret)
            await assert_refused(relay, f"/room/123?jwt={bad}", ways=some_ways(number))
        for kid in (None, 5, ["good"], {"kid": "good"}, True):
            await assert_refused(relay, f"/?jwt={made(json.dumps({'alg': 'HS256', 'kid': kid}), ALL)}")
        await assert_refused(relay, f"/?jwt={made(HEADER, ALL)}")
        await assert_refused(relay, f"/?jwt={token(headers={'kid': 'good'}, secret=OTHER_SECRET, get='')}")


# --- tokens in the wrong place -----------------------------------------------------------------------------------------


async def test_a_token_is_taken_from_one_place_only(tmp_path: Path) -> None:
    async with serving(tmp_path) as relay:
        good, bad = token(**ROOM), garbled(token(**ROOM))
        queries = (
            f"jwt={good}&jwt={good}",
            f"jwt={good}&jwt={bad}",
            f"jwt={bad}&jwt={good}",
            f"jwt=&jwt={good}",
            f"jwt={good}&jwt",
            f"jwt={good}&%6Awt={good}",
            f"JWT={good}",
            f"Jwt={good}",
            f"jwt[]={good}",
            f"jwt%00={good}",
            f"%20jwt={good}",
            f"token={good}",
            f"access_token={good}",
            f"x=1;jwt={good}",
            f"x=%26jwt={good}",
            f"jwt%3D{good}",
            good,
            "jwt=",
            "jwt",
            "",
            "&".join(f"x{number}=" for number in range(100)) + f"&jwt={good}",
        )
        for number, query in enumerate(queries):
            await assert_refused(relay, f"/room/123?{query}", ways=some_ways(number))
        authorization = (f"authorization: Bearer {good}".encode(), f"cookie: jwt={good}".encode())
        await assert_refused(relay, "/room/123", *authorization)
        for query in (f"jwt={good}", f"x=1&jwt={good}&y=2", f"%6Awt={good}", f"jwt={good}&", f"&&jwt={good}"):
            await assert_admitted(relay, f"/room/123?{query}", set(IN_ROOM))


IN_THE_PATH: Final = ("#jwt=", "#?jwt=", "/jwt=", ";jwt=", "%3Fjwt=", "&jwt=")
IN_THE_QUERY: Final = ("?#jwt=", "?x=1#jwt=", "?x=1#&jwt=")


async def test_a_token_behind_another_mark_is_not_honoured(tmp_path: Path) -> None:
    async with serving(tmp_path) as relay:
        for mark in IN_THE_PATH + IN_THE_QUERY:
            found = await outcomes(relay, f"/room/123{mark}{token(**ROOM)}")
            assert not any(admitted for admitted, _ in found.values()), (mark, found)
        auth_support.given.clear()  # the next test is about leaks


async def test_a_token_in_the_path_is_not_logged(tmp_path: Path) -> None:
    """A client may put it there by mistake: readers of the log must not be able to use it."""
    async with serving(tmp_path) as relay:
        for mark in IN_THE_PATH:
            await outcomes(relay, f"/room/123{mark}{token(**ROOM)}")


class Replaced:
    """The stream of our SETUP, with other content."""

    def __init__(self, stream: Stream, data: bytes) -> None:
        self._stream = stream
        self._data = data

    def write(self, chunks: Sequence[bytes], *, fin: bool = False) -> None:
        self._stream.write([self._data], fin=fin)


@pytest.mark.parametrize("transport", ["webtransport", "websocket"])
@pytest.mark.parametrize("version", [Version.LITE_05, Version.LITE_06])
async def test_a_path_in_band_changes_nothing_where_there_is_a_url(
    version: Version, transport: str, tmp_path: Path
) -> None:
    async with (
        guarded(tmp_path, public=["lobby"]) as relay,
        await dial(relay, "websocket", "", everything()) as admin,
    ):
        for path in WORLD:
            publish(admin, path)
        url = address(relay, transport, "lobby")
        tls = ClientTls(fingerprints=(relay.fingerprint,))
        session: Any = await (
            connect_websocket(url, versions=(version,))
            if transport == "websocket"
            else connect(url, versions=(version,), tls=tls)
        )
        claimed = setup_stream(version, Setup(path=f"/?jwt={everything()}", origin=1))
        async with Client(Opening(session, partial(Replaced, data=claimed))) as client:
            announced = client.announced()
            async with asyncio.timeout(WITHIN):
                await announced.wait_for("hall")
            publish(admin, "lobby/last")
            async with asyncio.timeout(WITHIN):
                await announced.wait_for("last")
            assert set(announced.live) == {"hall", "last"}


@pytest.mark.parametrize("version", [Version.LITE_05, Version.LITE_06])
async def test_what_is_asked_before_the_token_is_answered_after_it_or_never(
    version: Version, tmp_path: Path
) -> None:
    async with serving(tmp_path) as relay:
        client, announced, bob, secret = await hasty(relay, version, token(**ROOM))
        async with client:
            await announced.until(lambda: b"alice" in announced.data)
            await bob.until(lambda: bob.data)
            await secret.over()
            assert not secret.data
            assert b"secret" not in announced.data
        client, *answers = await hasty(relay, version, garbled(token(**ROOM)))
        async with client:
            end = await asyncio.wait_for(client.closed(), WITHIN)
            assert (end.code, end.reason, end.by_peer) == (2, "unauthorized: bad token", True)
            assert [answer.data for answer in answers] == [b"", b"", b""]


async def hasty(relay: Relay, version: Version, credential: str) -> tuple[Client, Answer, Answer, Answer]:
    """A session on raw QUIC that sends requests before its SETUP."""
    tls = ClientTls(fingerprints=(relay.fingerprint,))
    session = await connect(address(relay, "quic"), versions=(version,), tls=tls)
    requests = (AnnounceRequest("", 0), Subscribe(0, "bob", "video"), Subscribe(1, "secret/x", "video"))
    first, second, third = (Answer(session, version, request) for request in requests)
    client = Client(session, target=f"/room/123?jwt={credential}")
    await client.start()
    return client, first, second, third


# --- long ones ---------------------------------------------------------------------------------------------------------


def sized(length: int, **claims: Any) -> str:
    """A good token of that many characters."""
    for header in ({}, {"x": ""}, {"x": "1"}, {"x": "12"}):
        room = length - len(token(headers=header, **claims, pad=""))
        for filler in range(room * 3 // 4 - 4, room * 3 // 4 + 5):
            made_up = token(headers=header, **claims, pad="p" * max(0, filler))
            if len(made_up) == length:
                return made_up
    raise AssertionError(length)


async def test_a_long_token_is_as_good_as_a_short_one(tmp_path: Path) -> None:
    async with serving(tmp_path) as relay:
        for length in (1_000, 4_000, 7_000, 8_000, LONGEST_TOKEN):
            target = f"/room/123?jwt={sized(length, **ROOM)}".encode()
            for way in ("webtransport", "quic"):
                assert await OVER[way](relay, target) == (True, set(IN_ROOM)), (way, length)
        over = f"/room/123?jwt={sized(LONGEST_TOKEN + 1, **ROOM)}".encode()
        for way in ("webtransport", "quic"):
            assert await OVER[way](relay, over) == UNAUTHORIZED[way]


HTTP_TARGET: Final = 8_190
"""Bytes of a request target that the HTTP server reads, path and token."""


async def test_a_long_token_over_http_has_as_much_room_as_the_request_line(tmp_path: Path) -> None:
    async with serving(tmp_path) as relay:
        for way, front in (("http", b"/announced/room/123?jwt="), ("websocket", b"/room/123?jwt=")):
            fits = sized(HTTP_TARGET - len(front), **ROOM).encode()
            target = (front + fits).removeprefix(b"/announced" if way == "http" else b"")
            admitted, found = await OVER[way](relay, target)
            assert admitted, (way, found)


@pytest.mark.parametrize("way", WAYS)
async def test_a_token_that_is_far_too_long_is_cheap(way: str, tmp_path: Path) -> None:
    async with serving(tmp_path) as relay:
        whole = sized(4_000, **ROOM)
        for length in (8_300, 20_000, 60_000, 100_000, 1 << 20):
            target = f"/room/123?jwt={whole}{'A' * (length - len(whole))}"
            admitted, found = await OVER[way](relay, target.encode())
            assert not admitted, length
            assert not leaks(str(found)), length
            if way in ("http", "websocket"):
                # the server may close before it has read everything
                assert found[0] in (0, 400, 414), (length, found)
            elif length <= 60_000:
                assert (admitted, found) == UNAUTHORIZED[way], length


# --- paths -------------------------------------------------------------------------------------------------------------

REFUSED_PATHS: Final = (
    "/room/123/..",
    "/room/123/../124",
    "/room/123/../../secret",
    "/room/./123",
    "/room/123/.",
    "/room/123/%2e%2e/124",
    "/room/123/%2E%2e",
    "/room/123/.%2e/124",
    "/room/%2e/123",
    "/room/123/%2e",
    "/room/123/alice%2f..%2fbob",
    "/room/123%00",
    "/room/123/%00",
    "/room/%00/123",
    "/room/123/" + "a" * 2_048,
    "/room/123" + "/a" * 31,
    "/room/123" + "/a" * 1_000,
)


@pytest.mark.parametrize("way", WAYS)
async def test_paths_that_readers_understand_differently(way: str, tmp_path: Path) -> None:
    """Neither a token for everything nor one for the room is admitted."""
    async with serving(tmp_path) as relay:
        wrong = await let_in(relay, way, REFUSED_PATHS, everything(), token(**ROOM))
        assert not wrong


async def let_in(relay: Relay, way: str, paths: Sequence[str], *credentials: str) -> dict[str, Outcome]:
    """The admitted paths, and their outcomes."""
    found = {
        path: await OVER[way](relay, f"{path}?jwt={credential}".encode())
        for path in paths
        for credential in credentials
    }
    return {path: outcome for path, outcome in found.items() if not refused(way, outcome)}


OTHER_PLACES: Final = (
    "/ROOM/123",
    "/Room/123",
    "/room/12%33x",
    "/room/123%20",
    "/room/123 ".replace(" ", "%09"),
    "/room/1234",
    "/room/12",
    "/room/123.",
    "/room/123;a",
    "/room/123,",
    "/room\\123",
    "/room:123",
    "/r%C3%B6om/123",
    "/room/%EF%BC%91%EF%BC%92%EF%BC%93",
    "/*",
    "/room/*",
    "/room/+",
    "/%72oom%2f124",
)

ENCODED_SLASHES: Final = ("/room%2f123", "/room%2F123", "/%72oom%2f123", "/room/123%2f", "/room%2F%2f123")


@pytest.mark.parametrize("way", WAYS)
async def test_paths_that_resemble_the_room(way: str, tmp_path: Path) -> None:
    async with serving(tmp_path) as relay:
        wrong = await let_in(relay, way, OTHER_PLACES, token(**ROOM))
        assert not wrong


async def test_slashes_at_the_ends_and_runs_of_them_mean_nothing(tmp_path: Path) -> None:
    async with serving(tmp_path) as relay:
        credential = token(**ROOM)
        for path in ("/room/123", "/room/123/", "//room/123", "/room//123", "///room///123///"):
            await assert_admitted(relay, f"{path}?jwt={credential}", set(IN_ROOM))
        for path in ("//secret", "/room//124", "/room/123//../124", "//relay/room/123"):
            await assert_refused(relay, f"{path}?jwt={credential}")


async def test_a_letter_that_need_not_be_encoded_gives_no_more_than_without(tmp_path: Path) -> None:
    """HTTP routes decode it, as web servers do; a session keeps it, as another path."""
    async with serving(tmp_path) as relay:
        found = await outcomes(relay, f"/%72oom/123?jwt={token(**ROOM)}")
        assert found == {**UNAUTHORIZED, "http": (True, set(IN_ROOM))}


async def test_an_encoded_slash_is_a_slash_to_http_routes_and_no_path_to_sessions(tmp_path: Path) -> None:
    async with serving(tmp_path) as relay:
        for number, path in enumerate(ENCODED_SLASHES):
            ways = some_ways(number)
            found = await outcomes(relay, f"{path}?jwt={token(**ROOM)}", ways=ways)
            expected = {**UNAUTHORIZED, "http": (True, set(IN_ROOM))}
            assert found == {way: expected[way] for way in ways}, path
        for path in ("/room%2f124", "/room%2f123%2f..%2f124", "/secret%2fx", "/room%2f1234"):
            wrong = await let_in(relay, "http", [path], token(**ROOM))
            assert not wrong


@pytest.mark.parametrize("way", WAYS)
async def test_paths_that_are_no_text(way: str, tmp_path: Path) -> None:
    async with serving(tmp_path) as relay:
        for path in (b"/room\xff/123", b"/room/123/\xff", b"/\xc0\xafroom/123", b"/room/123/\xed\xa0\x80"):
            for credential in (everything(), token(**ROOM)):
                admitted, found = await OVER[way](relay, path + b"?jwt=" + credential.encode())
                assert not admitted, path
                assert not leaks(str(found)), path


@pytest.mark.parametrize("way", WAYS)
async def test_control_characters(way: str, tmp_path: Path) -> None:
    """They open neither the room nor anything else."""
    async with serving(tmp_path) as relay:
        for path in (
            b"/room/123\0",
            b"/room\0/123",
            b"/\0",
            b"/room/123\x01",
            b"/room/123\x7f",
            b"/room/123 /x",
        ):
            admitted, found = await OVER[way](relay, path + b"?jwt=" + token(**ROOM).encode())
            assert not admitted, path
            assert not leaks(str(found)), path


@pytest.mark.parametrize("way", WAYS)
async def test_very_long_paths(way: str, tmp_path: Path, record: Record) -> None:
    """The peer does not determine the size of log lines."""
    async with serving(tmp_path) as relay:
        credential = everything()
        for length in (3_000, 60_000, 200_000):
            for filler in ("a", "a/", "/"):
                path = "/room/123/" + filler * (length // len(filler))
                admitted, found = await OVER[way](relay, f"{path}?jwt={credential}".encode())
                # any number of slashes is one
                assert not admitted or filler == "/", length
                assert not leaks(str(found)), length
    assert max(map(len, record.texts)) < 10_000


# --- publishing where it is not allowed --------------------------------------------------------------------------------


@pytest.mark.parametrize("version", list(Version))
async def test_announcements_do_not_climb_out_of_what_is_granted(version: Version, tmp_path: Path) -> None:
    """Dots and slashes in an announced path are plain names, below the grants."""
    names = [
        "alice/../../124/carol",
        "alice//..//bob",
        "alice/./x",
        "alice/%2e%2e/bob",
        "alice/\0",
        "../bob",
        "/bob",
        "bob",
    ]
    async with serving(tmp_path) as relay, await dial(relay, "websocket", "", everything()) as watcher:
        announced = watcher.announced()
        for path in WORLD:
            await announced.wait_for(path)
        async with await dial(relay, "websocket", "room/123", token(**ROOM), versions=[version]) as client:
            for name in names:
                with contextlib.suppress(ValueError):  # "bob" has two names
                    publish(client, name)
            publish(client, "alice/last")
            await announced.wait_for("room/123/alice/last")
            new = set(announced.live) - set(WORLD)
            assert all(path.startswith("room/123/alice/") for path in new)
            assert len(new) == 6
        for path in new:
            await announced.wait_for(path, active=False)


# --- time --------------------------------------------------------------------------------------------------------------

CALLS: Final = 30
SLOWEST: Final = 0.005
"""Seconds of one check: a class below the jitter of a network."""

NOISE: Final = 0.001


async def test_no_refusal_takes_longer_than_another_in_a_way_that_tells(tmp_path: Path) -> None:
    key = Key.load(key_file(tmp_path))
    checking = Authenticator(
        keys=OneKey(key),
        public=Claims(subscribe=("lobby",)),
        throttle=Throttle(failures=1, delay=1, clock=time.monotonic),
        now=time.time,
    )

    async def median(path: str, query: str) -> float:
        took = []
        for _ in range(CALLS):
            begun = time.perf_counter()
            with contextlib.suppress(UnauthorizedError):
                await checking.verify(path, query)
            took.append(time.perf_counter() - begun)
        return statistics.median(took)

    kinds = {name: await median("/room/123", f"jwt={bad}") for name, bad in bad_tokens().items()}
    good = token(**ROOM)
    kinds |= {
        "1 MiB": await median("/room/123", f"jwt={'A' * (1 << 20)}"),
        "longest": await median("/room/123", f"jwt={garbled(sized(LONGEST_TOKEN, **ROOM))}"),
        "no token": await median("/room/123", ""),
        "beside": await median("/secret", f"jwt={good}"),
        "above": await median("/", f"jwt={good}"),
        "long path": await median("/" + "a/" * 100_000, f"jwt={good}"),
        "fields": await median("/", "x=&" * 10_000),
    }
    assert max(kinds.values()) < SLOWEST, sorted(kinds.items(), key=lambda kind: kind[1])[-5:]

    # the first or last wrong character of a signature; a path that differs early, or late
    head, _, signature = good.rpartition(".")
    early = f"{head}.{'A' if signature[0] != 'A' else 'B'}{signature[1:]}"
    late = f"{head}.{signature[:-4]}{'A' if signature[-4] != 'A' else 'B'}{signature[-3:]}"
    auth_support.given.update((early, late))
    deep = "/".join("abcdefghijklmnopqrstuvwxyz")
    far = token(root=deep, get="")
    pairs = [
        (("/room/123", f"jwt={early}"), ("/room/123", f"jwt={late}")),
        (("/x" + deep, f"jwt={far}"), (f"/{deep}x", f"jwt={far}")),
    ]
    for first, second in pairs:
        assert abs(await median(*first) - await median(*second)) < NOISE
