"""Tokens, URLs and operations over live sessions of moq-transport: nothing is accessible without permission.

`test_auth_matrix.py` has the same for moq-lite, and the stage.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from relay.client import Client
from relay.moq.ietf_exchange import RequestHandler
from relay.moq.ietf_names import namespace_of
from relay.wire.ietf.codes import Refusal, SessionCode
from relay.wire.ietf.data import ObjectHeader, SubgroupHeader
from relay.wire.ietf.messages import (
    Fetch,
    Interest,
    Message,
    Namespace,
    Publish,
    PublishNamespace,
    Request,
    RequestError,
    RequestOk,
    Subscribe,
    SubscribeNamespace,
    SubscribeOk,
    SubscribeTracks,
    TrackStatus,
)
from relay.wire.ietf.parameters import Parameters
from relay.wire.ietf.profile import refusal_code
from relay.wire.ietf.streams import object_header, subgroup_header
from relay.wire.ietf.values import AbsoluteRange, Location, Token
from relay.wire.version import ALL_VERSIONS, Draft
from tests.e2e.auth_support import (
    REFUSED,
    TRACK,
    WELCOME,
    WITHIN,
    WORLD,
    Cell,
    Record,
    all_of,
    below,
    dial,
    garbled,
    leaks,
    publish,
    recorded,
    text,
    token,
)
from tests.e2e.test_auth_matrix import INJECTED, appeared, first_frame, refusal, stage
from tests.sampling import FULL

pytestmark = pytest.mark.e2e

SAMPLE = [
    ("quic", Draft.DRAFT_18, "url"),
    ("webtransport", Draft.DRAFT_16, "url"),
    ("quic", Draft.DRAFT_16, "setup"),
    ("webtransport", Draft.DRAFT_18, "setup"),
    ("websocket", Draft.DRAFT_20, "url"),
    ("websocket", Draft.DRAFT_14, "setup"),
]
WAYS = (
    [
        (way, draft, place)
        for way in ("quic", "webtransport", "websocket")
        for draft in Draft
        for place in ("url", "setup")
    ]
    if FULL
    else SAMPLE
)
"""Transport, draft, and the place of the token."""

ways = pytest.mark.parametrize(
    ("transport", "draft", "place"), WAYS, ids=[f"{way}-{draft.value}-{place}" for way, draft, place in WAYS]
)
drafts = pytest.mark.parametrize("draft", Draft if FULL else (Draft.DRAFT_16, Draft.DRAFT_18))


@pytest.fixture(autouse=True)
def record() -> Iterator[Record]:
    """No test logs a part of a token, or fails inside."""
    with recorded() as everything_logged:
        yield everything_logged


def sign_in(cell: Cell, place: str) -> tuple[str | None, dict[str, Any]]:
    """The token of the URL, and the options of the client."""
    credential = cell.credential()
    in_setup = place == "setup" and credential is not None
    return (None, {"token": credential}) if in_setup else (credential, {})


class Answers(RequestHandler):
    """What the relay answers to one request."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.left: list[int] = []
        self._changed = asyncio.Event()

    def on_message(self, message: Message) -> None:
        self.messages.append(message)
        self._changed.set()

    def on_left(self, code: int) -> None:
        self.left.append(code)
        self._changed.set()

    async def first(self) -> Message | None:
        async with asyncio.timeout(WITHIN):
            while not (self.messages or self.left):
                self._changed.clear()
                await self._changed.wait()
        return self.messages[0] if self.messages else None

    async def shown(self) -> tuple[object, ...]:
        """Without the number of the request."""
        message = await self.first()
        if isinstance(message, RequestError):
            return ("refused", message.code, message.reason, message.retry_after)
        return (type(message).__name__, *self.left)


def ask(client: Client, make: Callable[[int], Request]) -> Answers:
    answers = Answers()
    client.moq.requests.exchanges.ask(make, answers)  # type: ignore[union-attr]
    return answers


def requests_for(path: str, params: Parameters = Parameters()) -> dict[str, Callable[[int], Request]]:  # noqa: B008
    """Every kind of request that consumes a track."""
    name, track = namespace_of(path), TRACK.encode()
    group = AbsoluteRange(Location(0, 0), 0, None)
    return {
        "subscribe": lambda number: Subscribe(number, name, track, params),
        "status": lambda number: TrackStatus(number, name, track, params),
        "fetch": lambda number: Fetch(number, name, track, group, params),
    }


def offers_of(path: str, alias: int) -> dict[str, Callable[[int], Request]]:
    """Every kind of request that publishes."""
    name = namespace_of(path)
    return {
        "namespace": lambda number: PublishNamespace(number, name),
        "track": lambda number: Publish(number, name, b"extra", alias),
    }


class Visit:
    """A cell's session, which requests everything it might get something from."""

    def __init__(self, cell: Cell, client: Client, draft: Draft) -> None:
        self.cell = cell
        self.client = client
        self.draft = draft
        self.announced = client.announced()
        for path in cell.attempts():
            publish(client, path)
        self.elsewhere = {
            (prefix, kind): answers
            for prefix in (*self._foreign(), "nothing/here", "../secret")
            for kind, answers in self._look(prefix).items()
        }

    def _foreign(self) -> list[str]:
        """Existing prefixes without a grant."""
        found = []
        for path in self.cell.outside():
            for prefix in (path, path.rpartition("/")[0]):
                place = self.cell.absolute(prefix)
                if prefix and not any(below(place, s) or below(s, place) for s in self.cell.subscribes):
                    found.append(prefix)
        return found

    def _look(self, prefix: str) -> dict[str, Answers]:
        fields, draft = namespace_of(prefix), self.draft
        found = {"namespaces": ask(self.client, lambda number: SubscribeNamespace(number, fields))}
        if draft >= Draft.DRAFT_18:
            found["tracks"] = ask(self.client, lambda number: SubscribeTracks(number, fields))
        elif draft is Draft.DRAFT_16:
            tracks = Interest.TRACKS
            found["tracks"] = ask(
                self.client, lambda number: SubscribeNamespace(number, fields, interest=tracks)
            )
        return found

    async def _refusals(self) -> None:
        """A forbidden name is refused as a missing one is."""
        paths = [path for path in (*self.cell.outside(), *self.cell.missing()) if path]
        asked = [
            (kind, ask(self.client, make)) for path in paths for kind, make in requests_for(path).items()
        ]
        shown = {(kind, await answers.shown()) for kind, answers in asked}
        assert all(answer[0] == "refused" for _, answer in shown), (self.cell, shown)
        assert len(shown) == len({kind for kind, _ in shown}), (self.cell, shown)

    async def _offers(self) -> None:
        """Of tracks and namespaces where it may not publish."""
        attempts = self.cell.attempts()
        forbidden = [path for path in attempts if not self.cell.may_publish(self.cell.absolute(path))]
        asked: list[tuple[str, Answers]] = []
        for alias, path in enumerate(forbidden, 500):
            asked += [(kind, ask(self.client, make)) for kind, make in offers_of(path, alias).items()]
        shown = {(kind, await answers.shown()) for kind, answers in asked}
        assert all(answer[0] == "refused" for _, answer in shown), (self.cell, shown)
        assert len(shown) == len({kind for kind, _ in shown}), (self.cell, shown)

    def push(self) -> None:
        """Groups without a subscription.

        A publisher may send a group before it answers SUBSCRIBE: those who publish use other aliases than the client's.
        """
        profile = self.client.moq.profile  # type: ignore[union-attr]
        least = 900 if self.cell.published() else 0
        for alias in range(least, least + 3):
            header = SubgroupHeader(alias, 1_000, 0, 128, has_properties=False, first_object=True)
            item = object_header(ObjectHeader(0, len(INJECTED), ()), None, profile, has_properties=False)
            self.client.session.open_uni().write(
                [subgroup_header(header, profile) + item + INJECTED], fin=True
            )

    async def check(self, everything_live: set[str]) -> None:
        cell, client = self.cell, self.client
        expected = cell.expected(everything_live - cell.published()) - {""}  # a namespace has a field
        await appeared(self.announced, expected)
        await self._refusals()
        await self._offers()
        for path in cell.expected(WORLD) - {""}:
            assert await first_frame(client, path) == text(cell.absolute(path)).encode()
            fetched = await client.fetch(path, TRACK, 0)
            assert [frame.payload for frame in fetched] == [text(cell.absolute(path)).encode()]
        assert set(self.announced.live) == expected, cell
        kinds = {kind for _, kind in self.elsewhere}
        shown = {(kind, await answers.shown()) for (_, kind), answers in self.elsewhere.items()}
        assert len(shown) == len(kinds), (cell, shown)
        for answers in self.elsewhere.values():
            assert not [m for m in answers.messages if isinstance(m, Namespace)], cell
        client.check()


@ways
async def test_every_draft_sees_and_does_what_is_granted(
    transport: str, draft: Draft, place: str, tmp_path: Path
) -> None:
    published = {path for cell in WELCOME for path in cell.published()}
    async with (
        stage(tmp_path, versions=ALL_VERSIONS) as scene,
        all_of(
            dial(scene.relay, transport, cell.url.strip("/"), credential, versions=[draft], **options)
            for cell in WELCOME
            for credential, options in [sign_in(cell, place)]
        ) as clients,
    ):
        visits = [Visit(cell, client, draft) for cell, client in zip(WELCOME, clients, strict=True)]
        assert {client.version for client in clients} == {draft}
        await scene.published(published)
        scene.mark(WELCOME)
        live = {*WORLD, *published, *scene.markers}
        async with asyncio.timeout(WITHIN):
            await asyncio.gather(*(visit.check(live) for visit in visits))
        for visit in visits:
            visit.push()
        await scene.nothing_was_touched(published)
        for path in sorted(published):
            assert path.endswith((await scene.frame(path)).decode())
        for path in WORLD:
            assert await scene.frame(path) == path.encode()
        for visit in visits:
            visit.client.check()


@ways
async def test_every_draft_gets_the_reason(transport: str, draft: Draft, place: str, tmp_path: Path) -> None:
    async with stage(tmp_path, versions=ALL_VERSIONS) as scene:
        found = await asyncio.gather(
            *(
                refusal(scene.relay, transport, cell.url, credential, versions=[draft], **options)
                for cell in REFUSED
                for credential, options in [sign_in(cell, place)]
            )
        )
        for cell, refused in zip(REFUSED, found, strict=True):
            # where a token may follow in SETUP, its lack shows there
            if transport == "quic" or place == "setup" or cell.claims is None:
                expired = cell.spoilt == "expired"
                code = SessionCode.EXPIRED_TOKEN if expired else SessionCode.UNAUTHORIZED
                assert refused == (code, f"unauthorized: {cell.word}", True), cell
            else:
                assert refused == ("rejected", 401, f"the server answered 401, unauthorized: {cell.word}")
        assert len(scene.relay.connections) == 2
        scene.mark(())
        await scene.nothing_was_touched(set())
        assert not leaks(str(found))


# --- tokens in requests ------------------------------------------------------------------------------------------------


async def answered(client: Client, path: str, credential: str | None) -> dict[str, Message | None]:
    params = Parameters() if credential is None else Parameters(tokens=(Token(credential.encode()),))
    return {
        kind: await ask(client, make).first()
        for kind, make in requests_for(path, params).items()
        if kind != "fetch" or credential is not None
    }


@drafts
async def test_a_token_in_a_request_grants_what_it_says(draft: Draft, tmp_path: Path) -> None:
    async with (
        stage(tmp_path, versions=ALL_VERSIONS) as scene,
        await dial(scene.relay, "quic", "", None, versions=[draft]) as client,
    ):
        good = token(root="room/123", get="")
        other = token(secret=b"another secret that signs nothing that counts", get="")
        bad = dict.fromkeys((garbled(good), other, "this-is-not-a-token"), Refusal.UNAUTHORIZED)
        bad[token(get="", exp=1)] = Refusal.EXPIRED_TOKEN
        for credential, meaning in bad.items():
            found = await answered(client, "room/123/alice", credential)
            assert {type(message) for message in found.values()} == {RequestError}
            code = refusal_code(meaning, client.moq.profile)  # type: ignore[union-attr]
            assert {message.code for message in found.values()} == {code}  # type: ignore[union-attr]
        for path in ("room/123/alice", "room/124/carol", "secret/x"):
            found = await answered(client, path, None)
            assert {type(message) for message in found.values()} == {RequestError}, path
        found = await answered(client, "room/124/carol", good)
        assert {type(message) for message in found.values()} == {RequestError}
        subscribed = await answered(client, "room/123/alice", good)
        assert isinstance(subscribed["subscribe"], SubscribeOk)
        assert isinstance(subscribed["status"], RequestOk)
        for path in ("room/1234/dave", "room/12/eve", "secret/x"):
            found = await answered(client, path, None)
            assert {type(message) for message in found.values()} == {RequestError}, path
        assert await first_frame(client, "lobby/hall") == b"lobby/hall"
        offered = ask(client, lambda number: PublishNamespace(number, (b"room", b"123", b"mine")))
        assert isinstance(await offered.first(), RequestError)  # it may read
        scene.mark(())
        await scene.nothing_was_touched(set())
