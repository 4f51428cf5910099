"""Tests of permissions over live sessions: broadcasts, tokens, and the expected access of each.

It computes a token's permissions anew, on tuples of segments, to share no mistake with the relay's path algebra.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeAlias

import jwt

from relay.app import Relay
from relay.client import Client, Publication
from relay.config import Auth
from relay.model.limits import Limits
from relay.moq.core import Handler
from relay.quic.trust import ClientTls
from relay.transport.session import Session, Stream
from relay.wire.errors import WireError
from relay.wire.frame import Request, open_request
from relay.wire.version import AnyVersion, Version
from tests.client.recording import RecordingClient
from tests.clock import RUNTIME
from tests.e2e.http_support import SECRET, key_file
from tests.e2e.support import config

WITHIN: Final = 60.0
"""Seconds that anything awaited may take."""

GENEROUS: Final = Limits(auth_failures=1_000_000, backlog_time=30.0, track_idle=0.01)
"""Refusals are not delayed."""

OTHER_SECRET: Final = b"another secret that signs nothing that counts"

Path_: TypeAlias = tuple[str, ...]


# --- the world -----------------------------------------------------------------------------------------------------

WORLD: Final = (
    "lobby/hall",
    "room/12/eve",
    "room/123/alice",
    "room/123/alice/screen",
    "room/123/alicex",
    "room/123/bob",
    "room/1234/dave",
    "room/124/carol",
    "roomy/zoe",
    "secret/x",
)
"""Paths of the administrator: each has neighbours that share its text, but not its segments."""

TRACK: Final = "video"


def publish(client: Client, path: str) -> Publication:
    publication = client.publish(path, announce=False)
    track = publication.track(TRACK)
    group = track.group()
    group.write(path.encode())
    group.finish()
    publication.announce()
    return publication


given: set[str] = set()
"""Tokens of a test, to search for leaks."""


def token(*, secret: Any = SECRET, algorithm: str = "HS256", headers: Any = None, **claims: Any) -> str:
    made = jwt.encode(claims, secret, algorithm=algorithm, headers=headers)
    given.add(made)
    return made


def garbled(text: str) -> str:
    """Changes a character inside the signature."""
    place = text.rindex(".") + 10
    made = text[:place] + ("A" if text[place] != "A" else "B") + text[place + 1 :]
    given.add(made)
    return made


def everything() -> str:
    return token(put="", get="")


# --- relays and sessions -------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def guarded(
    folder: Path,
    *,
    public: Any = None,
    limits: Limits = GENEROUS,
    versions: Iterable[AnyVersion] = tuple(Version),
    auth: Auth | None = None,
) -> AsyncIterator[Relay]:
    chosen = auth or Auth(key=key_file(folder), public=public)
    settings = config(limits=limits, versions=versions).model_copy(update={"auth": chosen})
    async with Relay(settings, RUNTIME) as relay:
        yield relay


SCHEMES: Final = {"webtransport": "https", "quic": "moqt", "websocket": "ws"}


def address(relay: Relay, transport: str, path: str = "", credential: str | None = None) -> str:
    port = int(relay.url.rpartition(":")[2].strip("/")) if transport == "websocket" else relay.port
    query = "" if credential is None else f"?jwt={credential}"
    return f"{SCHEMES[transport]}://127.0.0.1:{port}/{path}{query}"


def http(relay: Relay, path: str = "", credential: str | None = None) -> str:
    return f"{relay.url.replace('localhost', '127.0.0.1')}{path}" + (
        "" if credential is None else f"?jwt={credential}"
    )


async def dial(
    relay: Relay, transport: str, path: str = "", credential: str | None = None, **options: Any
) -> Client:
    url = address(relay, transport, path, credential)
    return await RecordingClient.connect(
        url, tls=ClientTls(fingerprints=(relay.fingerprint,)), timeout=WITHIN, **options
    )


@contextlib.asynccontextmanager
async def all_of(sessions: Iterable[Awaitable[Client]]) -> AsyncIterator[list[Client]]:
    clients = await asyncio.gather(*sessions)
    try:
        yield clients
    finally:
        await asyncio.gather(*(client.close() for client in clients))


class Answer(Handler):
    """The relay's exact answer to one request."""

    def __init__(self, session: Session, version: Version, request: Request) -> None:
        self.told: list[tuple[str, bytes | int]] = []
        self.data = b""
        self._changed = asyncio.Event()
        stream = session.open_bidi()
        stream.context = self
        stream.write([open_request(version, request)])

    async def over(self) -> None:
        await self.until(lambda: any(kind != "stop" for kind, _ in self.told))

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(WITHIN):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    @property
    def everything(self) -> tuple[object, ...]:
        return (self.data, *sorted(self.told))

    def on_data(self, stream: Stream, data: bytes, *, fin: bool) -> None:
        self.data += data
        if fin:
            self.told.append(("end", len(self.data)))
        self._changed.set()

    def on_reset(self, stream: Stream, code: int) -> None:
        self.told.append(("reset", code))
        self._changed.set()

    def on_stopped(self, stream: Stream, code: int) -> None:
        self.told.append(("stop", code))
        self._changed.set()

    def on_fault(self, error: WireError) -> None:
        raise AssertionError from error


# --- who should see what -------------------------------------------------------------------------------------------


def segments(path: str) -> Path_:
    return tuple(part for part in path.split("/") if part)


def text(path: Path_) -> str:
    return "/".join(path)


def below(path: Path_, prefix: Path_) -> bool:
    return path[: len(prefix)] == prefix


def scopes(root: str, grants: Any, url: str) -> set[Path_]:
    """Absolute prefixes of a session at `url`: the overlap of URL and grants."""
    here, found = segments(url), set()
    for grant in [grants] if isinstance(grants, str) else grants:
        whole = segments(root) + segments(grant)
        if below(here, whole):
            found.add(here)
        elif below(whole, here):
            found.add(whole)
    return {one for one in found if not any(other != one and below(one, other) for other in found)}


@dataclass(frozen=True)
class Cell:
    name: str
    url: str
    claims: dict[str, Any] | None = None
    """None: no token."""

    sees: tuple[str, ...] | None = ()
    """Expected paths, relative to the URL, on versions whose announcements name one broadcast. None: refused."""

    spoilt: str = ""
    """Fault of the token: `expired`, `early`, `key`, `garbled`, `text`."""

    def credential(self) -> str | None:
        if self.claims is None:
            return None
        match self.spoilt:
            case "expired":
                return token(**self.claims, exp=int(time.time()) - 1)
            case "early":
                return token(**self.claims, nbf=int(time.time()) + 3_600)
            case "key":
                return token(secret=OTHER_SECRET, **self.claims)
            case "garbled":
                return garbled(token(**self.claims))
            case "text":
                given.add("this-is-not-a-token-at-all")
                return "this-is-not-a-token-at-all"
        return token(**self.claims)

    @property
    def word(self) -> str:
        """The reason of the refusal."""
        if self.claims is None:
            return "token needed"
        known = {"": "not granted", "expired": "token expired", "early": "token not valid yet"}
        return known.get(self.spoilt, "bad token")

    def _scopes(self, name: str) -> set[Path_]:
        claims: dict[str, Any] = {"put": PUBLIC, "get": PUBLIC} if self.claims is None else self.claims
        return set() if self.spoilt else scopes(claims.get("root", ""), claims.get(name, ()), self.url)

    @property
    def publishes(self) -> set[Path_]:
        """Absolute prefixes."""
        return self._scopes("put")

    @property
    def subscribes(self) -> set[Path_]:
        return self._scopes("get")

    @property
    def welcome(self) -> bool:
        return bool(self.publishes or self.subscribes)

    def relative(self, path: Path_) -> str:
        return text(path[len(segments(self.url)) :])

    def absolute(self, path: str) -> Path_:
        return segments(self.url) + segments(path)

    def expected(self, live: Iterable[str], *, routes: bool = False) -> set[str]:
        """Expected announcements, relative to its URL, if others publish `live`.

        With `routes` (06) an announcement covers everything below.
        """
        paths = {segments(path) for path in live}
        found = {path for path in paths if any(below(path, scope) for scope in self.subscribes)}
        if routes:
            found |= {scope for scope in self.subscribes if any(below(scope, path) for path in paths)}
        return {self.relative(path) for path in found}

    def attempts(self) -> list[str]:
        """Paths to try to publish: new ones, and the administrator's."""
        here = segments(self.url)
        names = {f"by-{self.name}", f"secret/by-{self.name}", f"124/by-{self.name}"}
        for scope in self.publishes:
            names.add(text((*scope[len(here) :], f"by-{self.name}")))
        for path in map(segments, WORLD):
            if below(path, here) and len(path) > len(here) and not self.may_publish(path):
                names.add(self.relative(path))
        return sorted(names)

    def may_publish(self, path: Path_) -> bool:
        return any(below(path, scope) for scope in self.publishes)

    def published(self) -> set[str]:
        """Absolute paths of the attempts that must succeed."""
        return {text(path) for path in map(self.absolute, self.attempts()) if self.may_publish(path)}

    def outside(self) -> list[str]:
        """Existing paths without permission, relative to its URL."""
        here = segments(self.url)
        return [
            self.relative(path)
            for path in map(segments, WORLD)
            if below(path, here) and not any(below(path, scope) for scope in self.subscribes)
        ]

    def grants(self, path: str) -> bool:
        return replace(self, url=path).subscribes == {segments(path)}

    def missing(self) -> list[str]:
        """Missing paths, relative to its URL, with and without permission.

        Below an existing path the publisher answers.
        """
        inside = [self.relative((*scope, "nothing")) for scope in self.subscribes]
        return [
            path
            for path in ("nothing", "../124/carol", "room/124/carol/nothing", *inside)
            if not (
                any(below(self.absolute(path), scope) for scope in self.subscribes)
                and any(below(self.absolute(path), segments(other)) for other in WORLD)
            )
        ]


PUBLIC: Final = ("lobby",)

ROOM: Final = {"root": "room/123", "put": "alice", "get": ""}
IN_ROOM: Final = ("alice", "alice/screen", "alicex", "bob")
ABOVE: Final = {"root": "room/123", "put": "alice", "get": "alice"}

CELLS: Final = (
    # the token of the specification's examples
    Cell("room", "room/123", ROOM, IN_ROOM),
    Cell("slashes", "/room//123/", {**ROOM, "root": "//room/123/", "put": "/alice/"}, IN_ROOM),
    Cell("alice", "room/123/alice", ROOM, ("", "screen")),
    Cell("bob", "room/123/bob", ROOM, ("",)),
    Cell("alicex", "room/123/alicex", ROOM, ("",)),
    Cell("deeper", "room/123/alice/cam", ROOM, ()),
    Cell("deepest", "room/123/alice/screen/a/b", ROOM, ()),
    Cell("above", "room", ROOM, tuple(f"123/{name}" for name in IN_ROOM)),
    Cell("top", "", ROOM, tuple(f"room/123/{name}" for name in IN_ROOM)),
    # grants narrower than the root
    Cell("narrow", "room/123", ABOVE, ("alice", "alice/screen")),
    Cell("narrow-above", "room", ABOVE, ("123/alice", "123/alice/screen")),
    Cell("narrow-top", "", ABOVE, ("room/123/alice", "room/123/alice/screen")),
    Cell(
        "several",
        "room",
        {"root": "room", "get": ["124", "12", "123/bob"], "put": ["12"]},
        ("12/eve", "123/bob", "124/carol"),
    ),
    Cell("lost-put", "room/123/bob/cam", ROOM, ()),
    # one direction only
    Cell("viewer", "room", {"root": "room/123", "get": ""}, tuple(f"123/{name}" for name in IN_ROOM)),
    Cell("publisher", "room/123", {"root": "room/123", "put": "alice"}, ()),
    # an administrator, also of a part
    Cell("admin-room", "room/124", {"put": "", "get": ""}, ("carol",)),
    Cell("admin", "", {"put": "", "get": ""}, WORLD),
    Cell("public", "lobby", None, ("hall",)),
    Cell("public-above", "", None, ("lobby/hall",)),
    Cell("public-deeper", "lobby/hall", None, ("",)),
    # a token for a public path grants no more than it says
    Cell("lobby-viewer", "lobby", {"root": "lobby", "get": "hall"}, ("hall",)),
    # refused: beside the root, one character off, other case, nothing left
    Cell("secret", "secret", ROOM, None),
    Cell("secret-x", "secret/x", ROOM, None),
    Cell("nowhere", "nowhere", ROOM, None),
    Cell("beside-1234", "room/1234", ROOM, None),
    Cell("beside-12", "room/12", ROOM, None),
    Cell("beside-roo", "roo", ROOM, None),
    Cell("beside-roomy", "roomy", ROOM, None),
    Cell("case", "Room/123", ROOM, None),
    Cell("lobby-with-a-token", "lobby", ROOM, None),
    Cell("nothing-left", "room/123/bob", ABOVE, None),
    # refused: the token
    *(
        Cell(f"{spoilt}-{place or 'top'}".replace("/", "-"), place, ROOM, None, spoilt=spoilt)
        for spoilt in ("expired", "early", "key", "garbled", "text")
        for place in ("room/123", "nowhere")
    ),
    Cell("spoilt-in-public", "lobby", ROOM, None, spoilt="key"),
    Cell("none", "room/123", None, None),
    Cell("none-nowhere", "nowhere", None, None),
    Cell("none-beside", "lobbyist", None, None),
)

WELCOME: Final = tuple(cell for cell in CELLS if cell.sees is not None)
REFUSED: Final = tuple(cell for cell in CELLS if cell.sees is None)


# --- nothing of a token shows --------------------------------------------------------------------------------------

PART: Final = 13
"""characters: more of a token in a text are a leak"""


def leaks(*texts: str) -> list[str]:
    parts = {one[start : start + PART] for one in given for start in range(len(one) - PART + 1)}
    return [
        shown[max(0, start - 100) : start + PART]
        for shown in texts
        for start in range(len(shown) - PART + 1)
        if shown[start : start + PART] in parts
    ]


class Record(logging.Handler):
    def __init__(self) -> None:
        super().__init__(0)
        self.records: list[logging.LogRecord] = []
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)
        message = record.getMessage()
        if record.exc_info:
            message += "".join(traceback.format_exception(*record.exc_info))
        self.texts.append(message)

    def lines(self, *parts: str) -> list[str]:
        return [line for line in self.texts if all(part in line for part in parts)]

    def faults(self) -> list[str]:
        """Log records that no peer may cause."""
        return [
            line
            for record, line in zip(self.records, self.texts, strict=True)
            if record.exc_info or record.levelno >= logging.ERROR
        ]


@contextlib.contextmanager
def recorded() -> Iterator[Record]:
    """Afterwards no log record may contain a token or a failure."""
    given.clear()
    record, root = Record(), logging.getLogger()
    loggers = {logger: logger.level for logger in (root, *map(logging.getLogger, ("relay", "aiohttp")))}
    root.addHandler(record)
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
    try:
        yield record
    finally:
        root.removeHandler(record)
        for logger, level in loggers.items():
            logger.setLevel(level)
    if found := leaks(*record.texts):
        raise AssertionError(f"parts of tokens in the log: {found[:3]}")
    if faults := record.faults():
        raise AssertionError(f"logged as faults: {[line[:1_000] for line in faults[:3]]}")


def slow(failures: int, delay: float) -> Limits:
    return replace(GENEROUS, auth_failures=failures, auth_delay=delay)
