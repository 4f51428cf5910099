"""Tokens, URLs, operations and transports, over live sessions: nothing is accessible without permission."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yarl

from relay.app import Relay
from relay.auth.authenticator import Authenticator
from relay.client import Announced, Client, SessionEnded
from relay.quic.streams import Stream
from relay.transport.client import ConnectError
from relay.transport.webtransport_client import WebTransportClientSession
from relay.wire.announce import AnnounceRequest
from relay.wire.control import Fetch, ProbeRequest, TrackRequest
from relay.wire.errors import SessionCode, session_code_for
from relay.wire.frame import GroupHeader, Request, frame_header_plain, frame_header_timed, group_header
from relay.wire.subscribe import Subscribe
from relay.wire.version import Version
from tests.client.recording import requests_of
from tests.e2e.auth_support import (
    CELLS,
    REFUSED,
    TRACK,
    WELCOME,
    WITHIN,
    WORLD,
    Answer,
    Cell,
    Record,
    address,
    all_of,
    below,
    dial,
    everything,
    garbled,
    guarded,
    http,
    leaks,
    publish,
    recorded,
    segments,
    slow,
    text,
    token,
)
from tests.e2e.harness import Peer, peer_python
from tests.sampling import covering, first

pytestmark = pytest.mark.e2e

NEW = "0.5.1"
TRANSPORTS = ("webtransport", "quic", "websocket")
PUBLIC = ["lobby"]
MARKER = "zz-marker"
IDS = itertools.count(1_000)
"""Subscribe ids that no client uses by itself."""


@pytest.fixture(autouse=True)
def record() -> Iterator[Record]:
    """No test logs a part of a token, or fails inside."""
    with recorded() as everything_logged:
        yield everything_logged


def test_the_table_and_the_rule_say_the_same() -> None:
    for cell in CELLS:
        assert cell.welcome == (cell.sees is not None), cell
        if cell.sees is not None:
            assert cell.expected(WORLD) == set(cell.sees), cell


# --- what everybody is measured by -----------------------------------------------------------------------------------


class Stage:
    """One administrator publishes the world, another one watches it."""

    def __init__(self, relay: Relay, admin: Client, watcher: Client, announced: Announced) -> None:
        self.relay = relay
        self.admin = admin
        self.watcher = watcher
        self.announced = announced
        self.markers: set[str] = set()

    async def published(self, paths: set[str]) -> None:
        """Wait until all of it, and the world, is live."""
        await appeared(self.announced, {*WORLD, *paths})

    def mark(self, cells: Sequence[Cell]) -> None:
        """Announce a mark wherever a cell may look: before it comes all that the cell sees."""
        self.markers = {text((*scope, MARKER)) for cell in cells for scope in cell.subscribes}
        for path in self.markers:
            publish(self.admin, path)

    async def nothing_was_touched(self, published: set[str]) -> None:
        """Only granted broadcasts were added to the world, once each."""
        await appeared(self.announced, self.markers)
        changes = [
            await anext(self.announced) for _ in range(len(WORLD) + len(published) + len(self.markers))
        ]
        assert all(change.active and not change.update for change in changes), changes
        assert sorted(change.path for change in changes) == sorted([*WORLD, *published, *self.markers])
        assert set(self.announced.live) == {*WORLD, *published, *self.markers}

    async def frame(self, path: str) -> bytes:
        """The administrator's content."""
        return await first_frame(self.watcher, path)


async def appeared(announced: Announced, paths: set[str]) -> None:
    try:
        async with asyncio.timeout(WITHIN):
            for path in sorted(paths):
                await announced.wait_for(path)
    except TimeoutError:
        raise AssertionError(f"missing: {sorted(paths - set(announced.live))}") from None


async def first_frame(client: Client, path: str) -> bytes:
    async with asyncio.timeout(WITHIN):
        subscription = await client.subscribe(path, TRACK, max_latency_ms=60_000)
        async for group in subscription:
            async for frame in group:
                await subscription.close()
                return frame.payload
    raise AssertionError(f"{path}: no frame")


@contextlib.asynccontextmanager
async def stage(folder: Path, **options: Any) -> AsyncIterator[Stage]:
    async with (
        guarded(folder, public=PUBLIC, **options) as relay,
        await dial(relay, "websocket", "", everything()) as admin,
        await dial(relay, "websocket", "", everything()) as watcher,
    ):
        for path in WORLD:
            publish(admin, path)
        found = Stage(relay, admin, watcher, watcher.announced())
        await found.published(set())
        yield found


# --- real clients ------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def real_sessions(cells: Callable[[], list[dict[str, Any]]]) -> AsyncIterator[Peer]:
    """Sessions of the Rust client, all in one process; `cells` is called when it is ready."""
    python = await asyncio.to_thread(peer_python, NEW)
    async with Peer([python, "-m", "tests.e2e.peers.auth_peer"], "moq-rs") as peer:
        await peer.wait_for("started", WITHIN)
        await peer.send_line(json.dumps(cells()))
        yield peer


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_real_clients_see_and_do_what_is_granted(transport: str, tmp_path: Path) -> None:
    published = {path for cell in WELCOME for path in cell.published()}
    async with stage(tmp_path) as scene:
        cells = [
            {
                "cell": cell.name,
                "url": address(scene.relay, transport, cell.url.removeprefix("/"), cell.credential()),
                "publish": cell.attempts(),
                "watch": sorted({*cell.expected(WORLD), *cell.outside(), *cell.missing()}),
            }
            for cell in WELCOME
        ]
        async with real_sessions(lambda: cells) as peer:
            for cell in WELCOME:
                await peer.wait_for("ready", WITHIN, cell=cell.name)
            await scene.published(published)
            scene.mark(WELCOME)
            for cell in WELCOME:
                others = {*WORLD, *published, *scene.markers} - cell.published()
                expected = cell.expected(others, routes=True)
                if expected:
                    await peer.wait_for("announce", WITHIN, nth=len(expected), cell=cell.name)
            await peer.send_line("look")
            for cell in WELCOME:
                await peer.wait_for("looked", WITHIN, cell=cell.name)
                others = {*WORLD, *published, *scene.markers} - cell.published()
                told = [event["path"] for event in peer.find("announce", cell=cell.name)]
                assert sorted(told) == sorted(cell.expected(others, routes=True)), cell
                frames = {event["path"]: event["payload"] for event in peer.find("frame", cell=cell.name)}
                # an empty path has no name to ask for
                assert frames == {path: text(cell.absolute(path)) for path in cell.expected(WORLD)}, cell
                failed = {
                    event["path"]: (event["code"], event["kind"], event["message"])
                    for event in peer.find("failed", cell=cell.name)
                }
                assert set(failed) == {*cell.outside(), *cell.missing()}, cell
                assert len(set(failed.values())) <= 1, (cell, failed)
            await scene.nothing_was_touched(published)
            for path in published:
                relative = await scene.frame(path)
                assert path.endswith(relative.decode())
            for path in WORLD:
                assert await scene.frame(path) == path.encode()
            assert not peer.find("closed")
            assert not peer.find("error")
            assert not peer.find("unannounce")
            assert not leaks(json.dumps(peer.events), *peer.stderr)


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_real_clients_are_refused_alike_whatever_is_wrong(transport: str, tmp_path: Path) -> None:
    async with stage(tmp_path) as scene:
        cells = [
            {
                "cell": cell.name,
                "url": address(scene.relay, transport, cell.url, cell.credential()),
                "publish": cell.attempts(),
                "watch": [],
            }
            for cell in REFUSED
        ]
        async with real_sessions(lambda: cells) as peer:
            for cell in REFUSED:
                await peer.wait_for("over", WITHIN, cell=cell.name)
            ends = [*peer.find("error"), *peer.find("closed")]
            assert len(ends) == len(REFUSED)
            assert len({(end["scope"], end["code"], end["kind"]) for end in ends}) == 1, ends
            assert all("unauthorized" in end["message"].lower() for end in ends)
            assert not peer.find("announce")
            # raw QUIC sends path and token in band: a session may exist for a moment
            assert transport == "quic" or not peer.find("connected")
            scene.mark(())
            await scene.nothing_was_touched(set())
            for path in WORLD:
                assert await scene.frame(path) == path.encode()
            assert not leaks(json.dumps(peer.events), *peer.stderr)


# --- our own client, on every version ----------------------------------------------------------------------------------

INJECTED = b"injected"

WITH_A_URL = covering(
    ["webtransport", "websocket"],
    first(*(Version(number) for number in (6, 1, 4, 3, 5, 2)), count=4),
)
IN_BAND = [
    ("quic", version)
    for version in first(Version.LITE_06, Version.LITE_02, Version.LITE_05, Version.LITE_01, count=2)
]
"""On raw QUIC, 03 and 04 have no place for a path or a token."""

WAYS = WITH_A_URL + IN_BAND
named = pytest.mark.parametrize(
    ("transport", "version"), WAYS, ids=[f"{way}-{version.value:02}" for way, version in WAYS]
)


def asking(client: Client, request: Request) -> Answer:
    assert isinstance(client.version, Version)
    return Answer(client.session, client.version, request)


def requests_for(client: Client, path: str) -> dict[str, Request]:
    """Every kind of request."""
    found: dict[str, Request] = {"subscribe": Subscribe(next(IDS), path, TRACK)}
    if client.version >= Version.LITE_05:
        found |= {"track": TrackRequest(path, TRACK), "fetch": Fetch(path, TRACK, 0, 0)}
    return found


async def asked(client: Client, paths: list[str]) -> set[tuple[str, tuple[object, ...]]]:
    """The distinct answers."""
    answers = [
        (kind, asking(client, request))
        for path in paths
        for kind, request in requests_for(client, path).items()
    ]
    for _, answer in answers:
        await answer.over()
    # the last answer follows all others
    last = asking(client, Subscribe(next(IDS), "nothing/at/all", TRACK))
    await last.over()
    return {(kind, answer.everything) for kind, answer in answers}


class Visit:
    """A cell's session, which requests everything it might get something from."""

    def __init__(self, cell: Cell, client: Client) -> None:
        self.cell = cell
        self.client = client
        self.announced = client.announced()
        for path in cell.attempts():
            publish(client, path)
        # others' broadcasts: one existing name, one unknown
        self.elsewhere = {
            prefix: asking(client, AnnounceRequest(prefix, client.hop))
            for prefix in [*self._foreign(), "nothing/here", "../secret"]
        }
        self.probe = asking(client, ProbeRequest()) if client.version >= Version.LITE_03 else None

    def _foreign(self) -> list[str]:
        """Existing prefixes without a grant."""
        found = []
        for path in self.cell.outside():
            for prefix in (path, path.rpartition("/")[0]):
                place = self.cell.absolute(prefix)
                if prefix and not any(below(place, s) or below(s, place) for s in self.cell.subscribes):
                    found.append(prefix)
        return found

    def push(self) -> None:
        """Groups without a subscription."""
        version = self.client.version
        assert isinstance(version, Version)
        for number in range(3):
            size = len(INJECTED)
            head = frame_header_plain(size) if version <= Version.LITE_04 else frame_header_timed(0, size)
            data = group_header(version, GroupHeader(number, 1_000)) + head + INJECTED
            self.client.session.open_uni().write([data], fin=True)

    async def check(self, everything_live: set[str]) -> None:
        cell, client = self.cell, self.client
        others = everything_live - cell.published()
        expected = cell.expected(others, routes=client.version >= Version.LITE_06)
        await appeared(self.announced, expected)
        refusals = await asked(client, [*cell.outside(), *cell.missing()])
        assert len(refusals) == len({kind for kind, _ in refusals}), (cell, refusals)
        for path in cell.expected(WORLD):
            assert await first_frame(client, path) == text(cell.absolute(path)).encode()
            if client.version >= Version.LITE_05:
                fetched = await client.fetch(path, TRACK, 0)
                assert [frame.payload for frame in fetched] == [text(cell.absolute(path)).encode()]
        changes = [await anext(self.announced) for _ in expected]
        assert sorted(change.path for change in changes) == sorted(expected), cell
        assert set(self.announced.live) == expected, cell
        assert not self.announced._unread
        within = any(below(cell.absolute("nothing/here"), s) for s in cell.subscribes)
        above = any(below(cell.absolute("nothing/here"), segments(path)) for path in WORLD)
        if not (within and above and client.version >= Version.LITE_06):
            assert len({answer.everything for answer in self.elsewhere.values()}) == 1, (cell, self.elsewhere)
        client.check()


@named
async def test_every_version_sees_and_does_what_is_granted(
    transport: str, version: Version, tmp_path: Path
) -> None:
    published = {path for cell in WELCOME for path in cell.published()}
    async with (
        stage(tmp_path) as scene,
        all_of(
            dial(scene.relay, transport, cell.url.strip("/"), cell.credential(), versions=[version])
            for cell in WELCOME
        ) as clients,
    ):
        visits = [Visit(cell, client) for cell, client in zip(WELCOME, clients, strict=True)]
        assert {client.version for client in clients} == {version}
        await scene.published(published)
        scene.mark(WELCOME)
        live = {*WORLD, *published, *scene.markers}
        async with asyncio.timeout(WITHIN):
            await asyncio.gather(*(visit.check(live) for visit in visits))
        assert len({visit.probe.everything for visit in visits if visit.probe}) <= 1
        for visit in visits:
            visit.push()
        await scene.nothing_was_touched(published)
        for path in sorted(published):
            assert path.endswith((await scene.frame(path)).decode())
        for path in WORLD:
            assert await scene.frame(path) == path.encode()
        for visit in visits:
            await asked(visit.client, ["nothing"])


async def refusal(
    relay: Relay, transport: str, path: str = "", credential: str | None = None, **options: Any
) -> tuple[object, ...]:
    try:
        client = await dial(relay, transport, path, credential, **options)
    except ConnectError as error:
        start = str(error).index("the server")
        return (error.kind, error.status, str(error)[start:])
    except SessionEnded as ended:
        return (ended.code, ended.reason, ended.by_peer)
    async with client:
        end = await asyncio.wait_for(client.closed(), WITHIN)
        assert not requests_of(client), "it was asked what it publishes"
        return (end.code, end.reason, end.by_peer)


def unauthorized(transport: str, version: Version, word: str) -> tuple[object, ...]:
    """Only the word depends on the reason."""
    if transport != "quic":
        return ("rejected", 401, f"the server answered 401, unauthorized: {word}")
    return (session_code_for(version, SessionCode.UNAUTHORIZED), f"unauthorized: {word}", True)


@named
async def test_every_version_gets_the_reason(transport: str, version: Version, tmp_path: Path) -> None:
    async with stage(tmp_path) as scene:
        found = await asyncio.gather(
            *(
                refusal(scene.relay, transport, cell.url, cell.credential(), versions=[version])
                for cell in REFUSED
            )
        )
        assert found == [unauthorized(transport, version, cell.word) for cell in REFUSED]
        assert not leaks(str(found))


@pytest.mark.parametrize("version", [Version.LITE_03, Version.LITE_04])
async def test_without_a_place_for_a_token_there_is_only_what_is_public(
    version: Version, tmp_path: Path
) -> None:
    """Raw QUIC before 05: neither the path nor the token of the URL reaches the relay."""
    async with stage(tmp_path) as scene:
        client = await dial(scene.relay, "quic", "room/123", everything(), versions=[version])
        async with client:
            visit = Visit(Cell("public-in-band", "", None, ("lobby/hall",)), client)
            await scene.published(visit.cell.published())
            scene.mark([visit.cell])
            await visit.check({*WORLD, *visit.cell.published(), *scene.markers})
            await scene.nothing_was_touched(visit.cell.published())
    async with guarded(tmp_path) as closed:
        found = await refusal(closed, "quic", "room/123", everything(), versions=[version])
        assert found == unauthorized("quic", version, "token needed")


# --- the end of a token ------------------------------------------------------------------------------------------------

EARLY, LATE = 0.5, 10.0
"""Seconds by which an end may miss the token's time."""


def on_time(expires: float) -> None:
    assert expires - EARLY <= time.time() <= expires + LATE


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_real_clients_are_closed_when_their_token_ends(transport: str, tmp_path: Path) -> None:
    rights: dict[str, dict[str, Any]] = {"publisher": {"put": "short"}, "viewer": {"get": ""}}
    async with stage(tmp_path) as scene:
        expires = 0.0

        def cells() -> list[dict[str, Any]]:
            nonlocal expires
            expires = time.time() + 2
            return [
                {
                    "cell": name,
                    "url": address(scene.relay, transport, "", token(**claims, exp=expires)),
                    "publish": ["short/cam"],
                    "watch": ["room/123/alice"],
                }
                for name, claims in rights.items()
            ]

        async with real_sessions(cells) as peer:
            await appeared(scene.announced, {"short/cam"})
            watching = await scene.watcher.subscribe("short/cam", TRACK)
            await peer.wait_for("announce", WITHIN, cell="viewer", path="room/123/alice")
            await peer.send_line("look")
            await peer.wait_for("frame", WITHIN, cell="viewer", path="room/123/alice")
            assert time.time() < expires - EARLY
            for name in rights:
                end = await peer.wait_for("closed", WITHIN, cell=name)
                on_time(expires)
                assert (end["scope"], end["code"], end["kind"]) == ("session", 2, "unauthorized"), end
            # viewers of such a publisher see its broadcast end
            await asyncio.wait_for(scene.announced.wait_for("short/cam", active=False), WITHIN)
            await asyncio.wait_for(watching.ended(), WITHIN)
            on_time(expires)
            assert await scene.frame("room/123/alice") == b"room/123/alice"
            assert not leaks(json.dumps(peer.events), *peer.stderr)


async def test_every_version_is_closed_when_its_token_ends(tmp_path: Path, record: Record) -> None:
    async with stage(tmp_path) as scene:
        expires = time.time() + 4
        short = token(put="short", get="room", exp=expires)
        async with all_of(
            dial(scene.relay, way, "", short, versions=[version]) for way, version in WAYS
        ) as clients:
            for client, (way, version) in zip(clients, WAYS, strict=True):
                publish(client, f"short/{way}/{version.value}")
            viewed = {f"short/{way}/{version.value}" for way, version in WAYS}
            await appeared(scene.announced, viewed)
            assert await asyncio.gather(*(first_frame(client, "room/123/bob") for client in clients)) == [
                b"room/123/bob"
            ] * len(WAYS)
            assert time.time() < expires - EARLY
            for client, (_, version) in zip(clients, WAYS, strict=True):
                end = await asyncio.wait_for(client.closed(), WITHIN)
                assert (end.code, end.reason, end.by_peer) == (
                    session_code_for(version, SessionCode.UNAUTHORIZED),
                    "token expired",
                    True,
                )
                on_time(expires)
            for path in viewed:
                await asyncio.wait_for(scene.announced.wait_for(path, active=False), WITHIN)
            # then refused at once
            begun = time.monotonic()
            for way in TRANSPORTS:
                assert await refusal(scene.relay, way, "", short) == unauthorized(
                    way, Version.LITE_06, "token expired"
                )
            assert time.monotonic() - begun < LATE
        assert len(record.lines("closed by=relay", "reason='token expired'")) == len(WAYS)


async def test_a_running_http_request_ends_with_its_token(tmp_path: Path) -> None:
    async with stage(tmp_path) as scene, aiohttp.ClientSession() as session:
        expires = time.time() + 2
        short = token(get="", put="short", exp=expires)
        publisher = await dial(scene.relay, "websocket", "", short)
        publish(publisher, "short/cam")
        await appeared(scene.announced, {"short/cam"})

        async def read(path: str, credential: str) -> bytes:
            """Read until the relay aborts: the response must not look complete."""
            body = b""
            url = f"{http(scene.relay, f'fetch/{path}/{TRACK}', credential)}&follow=1"
            complete = False
            async with session.get(url) as response:
                assert response.status == HTTPStatus.OK
                with contextlib.suppress(aiohttp.ClientError):
                    async for piece in response.content.iter_any():
                        body += piece
                    complete = True
            assert not complete
            on_time(expires)
            return body

        async with publisher:
            bodies = await asyncio.wait_for(
                # a reader's token expires, then a publisher's
                asyncio.gather(read("room/123/alice", short), read("short/cam", everything())),
                WITHIN,
            )
        assert list(bodies) == [b"room/123/alice", b"short/cam"]
        async with session.get(http(scene.relay, "announced/", short)) as response:
            assert response.status == HTTPStatus.UNAUTHORIZED


# --- HTTP --------------------------------------------------------------------------------------------------------------


async def got(session: aiohttp.ClientSession, url: str, **headers: str) -> tuple[int, Any, bytes]:
    """Status, headers without the time, body."""
    async with session.get(yarl.URL(url, encoded=True), headers=headers) as response:
        fields = tuple(sorted(pair for pair in response.raw_headers if pair[0].lower() != b"date"))
        return response.status, fields, await response.read()


def fetched(path: str) -> tuple[int, bytes]:
    """For an authorised reader."""
    return (200, path.encode()) if path in WORLD else (404, b"no such broadcast\n")


async def test_http_tells_what_is_granted_and_refuses_alike(tmp_path: Path) -> None:
    async with stage(tmp_path) as scene, aiohttp.ClientSession() as session:
        relay = scene.relay
        refusals: dict[str, set[tuple[int, Any, bytes]]] = defaultdict(set)
        bodies = []
        for cell in CELLS:
            credential, url = cell.credential(), cell.url.strip("/")
            expected = sorted(cell.expected(WORLD))
            plain = await got(session, http(relay, f"announced/{url}", credential))
            rows = await got(session, http(relay, f"announced/{url}", credential), accept="application/json")
            state = await got(session, http(relay, f"state/{url}", credential))
            bodies += [plain[2], rows[2], state[2]]
            if cell.subscribes:
                assert plain[::2] == (200, "".join(f"{path}\n" for path in expected).encode()), cell
                assert sorted(row["path"] for row in json.loads(rows[2])) == expected, cell
            else:
                refusals[cell.word] |= {plain, rows}
            if credential is None:
                assert state[0] == HTTPStatus.UNAUTHORIZED
            elif cell.subscribes:
                shown = json.loads(state[2])
                assert sorted(row["path"] for row in shown["broadcasts"]) == [
                    text(cell.absolute(path)) for path in expected
                ], cell
                for path in WORLD:
                    known = path in (text(cell.absolute(one)) for one in expected)
                    assert (f'"{path}"'.encode() in state[2]) == known, (cell, path)
            else:
                refusals[cell.word].add(state)
            for path in (*WORLD, "nothing/there", "room/123/nothing", "secret/nothing"):
                answer = await got(session, http(relay, f"fetch/{path}/{TRACK}", credential))
                bodies.append(answer[2])
                if not cell.grants(path):
                    refusals[cell.word].add(answer)
                else:
                    assert answer[::2] == fetched(path), (cell, path)
            for route, body in (("certificate.sha256", relay.fingerprint.encode()), ("health", b"ok\n")):
                assert (await got(session, http(relay, route, credential)))[::2] == (200, body)
        assert set(refusals) == {cell.word for cell in REFUSED}
        for word, alike in refusals.items():
            ((status, fields, body),) = alike  # the same to the byte for each request
            assert f'Bearer error_description="unauthorized: {word}"'.encode() in dict(fields).values()
            assert (status, body) == (401, f"unauthorized: {word}\n".encode())
        assert not leaks(*(body.decode() for body in bodies))


async def test_the_state_without_a_token_is_refused_alike_everywhere(tmp_path: Path) -> None:
    async with stage(tmp_path) as scene, aiohttp.ClientSession() as session:
        paths = ("", "lobby", "room/123", "room/123/alice", "nowhere", "secret/x")
        found = {
            await got(session, http(scene.relay, f"state/{path}{query}"))
            for path in paths
            for query in ("", "?jwt=")
        }
        assert len(found) == 1
        assert found.pop()[0] == HTTPStatus.UNAUTHORIZED


# --- what a refusal looks like on the wire -----------------------------------------------------------------------------


async def upgrade(relay: Relay, target: str) -> bytes:
    """The answer to an upgrade, without the time."""
    reader, writer = await asyncio.open_connection("127.0.0.1", yarl.URL(relay.url).port)
    lines = (
        f"GET {target} HTTP/1.1",
        "host: relay",
        "upgrade: websocket",
        "connection: upgrade, close",
        "sec-websocket-key: MDEyMzQ1Njc4OWFiY2RlZg==",
        "sec-websocket-version: 13",
        "sec-websocket-protocol: qmux-02.moq-lite-06",
    )
    writer.write("\r\n".join((*lines, "", "")).encode())
    answer = await asyncio.wait_for(reader.read(), WITHIN)
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    kept = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"date:")]
    return b"\r\n".join((*kept, b"", body))


async def test_websocket_refusals_differ_in_the_word_only(tmp_path: Path) -> None:
    async with stage(tmp_path) as scene:
        answers: dict[str, set[bytes]] = {}
        for cell in REFUSED:
            credential = cell.credential()
            query = "" if credential is None else f"?jwt={credential}"
            answers.setdefault(cell.word, set()).add(await upgrade(scene.relay, f"/{cell.url}{query}"))
        for word, [answer] in answers.items():
            assert answer.startswith(b"HTTP/1.1 401 Unauthorized\r\n")
            assert answer.endswith(b"\r\n\r\nunauthorized: %s\n" % word.encode())
        assert len(scene.relay.connections) == 2


async def test_webtransport_refusals_differ_in_the_word_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = []
    on_headers = WebTransportClientSession._on_headers

    def heard(self: WebTransportClientSession, stream: Stream, headers: Any) -> None:
        answers.append(tuple(headers))
        on_headers(self, stream, headers)

    async with stage(tmp_path) as scene:
        monkeypatch.setattr(WebTransportClientSession, "_on_headers", heard)
        for cell in REFUSED:
            found = await refusal(scene.relay, "webtransport", cell.url, cell.credential())
            assert found == unauthorized("webtransport", Version.LITE_06, cell.word)
        assert answers == [
            (
                (b":status", b"401"),
                (
                    b"www-authenticate",
                    b'Bearer error_description="unauthorized: %s"' % cell.word.encode(),
                ),
            )
            for cell in REFUSED
        ]
        assert len(scene.relay.connections) == 2


# --- what the operator sees, and does not see --------------------------------------------------------------------------


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_the_log_says_who_may_do_what_and_why_others_may_not(
    transport: str, tmp_path: Path, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []
    admit = Relay.admit

    async def admitted(self: Relay, request: Any, versions: Any = None) -> None:
        shown.append(repr(request))
        await admit(self, request, versions)

    monkeypatch.setattr(Relay, "admit", admitted)
    async with stage(tmp_path) as scene:
        for name, rights in (
            ("room", "path=/room/123 publish=alice subscribe=*"),
            ("above", "path=/room publish=123/alice subscribe=123"),
            ("bob", "path=/room/123/bob publish=- subscribe=*"),
            ("publisher", "path=/room/123 publish=alice subscribe=-"),
            ("several", "path=/room publish=12 subscribe=12,123/bob,124"),
            ("public", "path=/lobby publish=* subscribe=*"),
        ):
            cell = next(one for one in CELLS if one.name == name)
            client = await dial(scene.relay, transport, cell.url, cell.credential())
            async with client:
                await asking(client, Subscribe(next(IDS), "nothing", TRACK)).over()
                shown += [repr(client), repr(client.session), str(scene.relay.connections)]
                assert record.lines("accepted", f"transport={transport}", rights), record.lines("accepted")
        for name, reason in (
            ("secret", "granted is /room/123, not /secret"),
            ("nothing-left", "granted at /room/123/bob"),
            ("expired-room-123", "the token expired"),
            ("early-nowhere", "the token is not valid for another"),
            ("key-top", "the signature does not fit the key"),
            ("garbled-room-123", "the signature does not fit the key"),
            ("text-nowhere", "not a token"),
            ("none", "granted at /room/123"),
        ):
            cell = next(
                (one for one in CELLS if one.name == name), Cell(name, "", {"get": ""}, None, spoilt="key")
            )
            before = len(record.lines("refused"))
            shown.append(str(await refusal(scene.relay, transport, cell.url, cell.credential())))
            lines = record.lines("refused")[before:]
            assert len(lines) == 1
            assert reason in lines[0]
            assert f"path=/{cell.url}" in lines[0]
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{scene.relay.internal_url}state") as found,
        ):
            shown.append(await found.text())
        shown += [
            repr(scene.relay),
            str(vars(scene.relay)),
            str(scene.relay.identity()),
            scene.relay.banner(),
        ]
        assert not leaks(*shown)


# --- who fails often waits ---------------------------------------------------------------------------------------------


async def refused_over(relay: Relay, way: str) -> None:
    if way == "http":
        async with aiohttp.ClientSession() as session:
            assert (await got(session, http(relay, "announced/", garbled(everything()))))[0] == 401
    else:
        found = await refusal(relay, way, "room", garbled(everything()))
        assert found == unauthorized(way, Version.LITE_06, "bad token")


@pytest.mark.parametrize(
    "ways",
    [[way] * 6 for way in ("http", *TRANSPORTS)] + [["http", *TRANSPORTS, "http", "quic"]],
    ids=["http", *TRANSPORTS, "mixed"],
)
async def test_refusals_come_later_and_later_but_a_good_token_at_once(
    ways: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free, delay = 2, 60.0
    held: list[float] = []
    told = asyncio.Event()

    async def holding(self: Authenticator, seconds: float) -> None:
        held.append(seconds)
        if seconds:
            await told.wait()

    monkeypatch.setattr(Authenticator, "_delay", holding)
    async with guarded(tmp_path, limits=slow(free, delay)) as relay:
        failing = [asyncio.create_task(refused_over(relay, way)) for way in ways]
        for way in TRANSPORTS:
            async with await dial(relay, way, "room", everything()) as client:
                await client.announced().initial()
        assert sum(task.done() for task in failing) <= free, "a good token waited for the bad ones"
        told.set()
        await asyncio.gather(*failing)
    assert len(held) == len(ways)
    assert held[:free] == [0, 0]
    for number, seconds in enumerate(held[free:], 1):
        # failures decay with time since the first one
        assert (number - 1) * delay < seconds <= number * delay
