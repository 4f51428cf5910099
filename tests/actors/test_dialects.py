"""A publisher of any dialect and viewers of any other, with `relay.client` at both ends of a relay."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from relay.actors.connection import ConnectionActor
from relay.auth.permissions import Permissions, Reason, UnauthorizedError
from relay.client import (
    AnnounceError,
    Client,
    GroupReader,
    GroupWriter,
    SessionEnded,
    SubscribeError,
    Subscription,
    TrackWriter,
)
from relay.moq.ietf_exchange import RequestHandler
from relay.transport.memory import memory_pair
from relay.wire.ietf.messages import Message, RequestError, Subscribe, SubscribeOk
from relay.wire.ietf.parameters import Parameters
from relay.wire.ietf.values import Token
from relay.wire.version import ALL_VERSIONS, AnyVersion, Draft, Version
from tests.actors.world import EVERYTHING, QUICK, World
from tests.clock import RUNTIME, until
from tests.sampling import FULL

WITHIN = 60.0  # seconds of virtual time

LITE = tuple(Version)
DRAFTS = tuple(Draft)

ACROSS = [
    (lite, draft)
    for lite in LITE
    for draft in DRAFTS
    if FULL or lite is Version.LITE_06 or draft is Draft.DRAFT_18
]

PAIRS: list[tuple[AnyVersion, AnyVersion]] = [
    *ACROSS,
    *((draft, lite) for lite, draft in ACROSS),
    *(
        (one, other)
        for one in DRAFTS
        for other in DRAFTS
        if FULL or one is other or Draft.DRAFT_18 in (one, other)
    ),
]
"""Publisher and viewer."""

pairs = pytest.mark.parametrize(
    ("source", "sink"), PAIRS, ids=[f"{a.name_on_wire}-{b.name_on_wire}" for a, b in PAIRS]
)
drafts = pytest.mark.parametrize("draft", DRAFTS, ids=lambda draft: draft.name_on_wire)


class Relay(World):
    """With clients."""

    @contextlib.asynccontextmanager
    async def client(
        self,
        version: AnyVersion,
        permissions: Permissions | None = EVERYTHING,
        *,
        path: str | None = "/",
        **options: Any,
    ) -> AsyncIterator[Client]:
        named = None if isinstance(version, Version) and version.has_setup_exchange else version
        near, far = memory_pair(named, path=path)
        self._numbers += 1
        ConnectionActor.start(
            session=far,
            number=self._numbers,
            environment=self.environment,
            permissions=permissions,
            gate=self.gate.ref,
        )
        async with Client(near, versions=(version,), runtime=RUNTIME, **options) as client:
            yield client


@contextlib.asynccontextmanager
async def relay(**options: Any) -> AsyncIterator[Relay]:
    world = Relay(versions=ALL_VERSIONS, **options)
    async with asyncio.timeout(WITHIN):
        yield world
    await world.close()


async def watch(client: Client, track: str = "video/hd") -> Subscription:
    announced = client.announced("")
    await announced.wait_for("demo/cam")
    return await client.subscribe("demo/cam", track)


def write(track: TrackWriter, *payloads: bytes, finish: bool = True) -> GroupWriter:
    group = track.group()
    for number, payload in enumerate(payloads):
        group.write(payload, timestamp=100 * group.sequence + number)
    if finish:
        group.finish()
    return group


async def read(group: GroupReader) -> tuple[int, list[bytes]]:
    return group.sequence, [frame.payload for frame in await group.read_all()]


async def begun(group: GroupReader, count: int) -> tuple[int, list[bytes]]:
    """Its first frames: a joining FETCH does not tell if a group has ended."""
    return group.sequence, [(await anext(group)).payload for _ in range(count)]


@pairs
async def test_frames_arrive_whole_and_in_order(source: AnyVersion, sink: AnyVersion) -> None:
    """With their timestamps where both dialects have them; the end of the track follows."""
    async with relay() as world, world.client(source) as publisher, world.client(sink) as viewer:
        track = publisher.publish("demo/cam").track("video/hd", timescale=1000)
        write(track, b"key", b"", finish=False)
        subscription = await watch(viewer)
        first = await anext(subscription)
        frame = await anext(first)
        assert (first.sequence, frame.payload) == (0, b"key")
        carried = {Version.LITE_05, Version.LITE_06, *DRAFTS} - {Draft.DRAFT_14}
        if {source, sink} <= carried:
            assert frame.timestamp == 0
            assert subscription.info is not None
            assert subscription.info.timescale == 1000
        groups = [[b"x" * 5_000, b"y"], [b"", b"z" * 70_000], [b"last"]]
        track.cache.latest.finished = True  # type: ignore[union-attr]
        track.send(track.cache.latest)  # type: ignore[arg-type]
        assert [frame.payload for frame in await first.read_all()] == [b""]
        for payloads in groups:
            write(track, *payloads)
        received = [await read(await anext(subscription)) for _ in groups]  # the newest may come first
        assert dict(received) == {number + 1: payloads for number, payloads in enumerate(groups)}
        track.finish()
        await subscription.ended()
        assert subscription.code is None


@pairs
async def test_a_missing_track_or_broadcast_is_refused(source: AnyVersion, sink: AnyVersion) -> None:
    async with relay() as world, world.client(source) as publisher, world.client(sink) as viewer:
        publisher.publish("demo/cam").track("video/hd")
        await viewer.announced("").wait_for("demo/cam")
        for broadcast, name in (("demo/cam", "audio"), ("demo/none", "video/hd")):
            with pytest.raises(SubscribeError):
                await anext(await viewer.subscribe(broadcast, name))


@drafts
async def test_viewers_of_all_dialects_share_one_subscription(draft: Draft) -> None:
    async with (
        relay() as world,
        world.client(draft) as publisher,
        contextlib.AsyncExitStack() as stack,
    ):
        track = publisher.publish("demo/cam").track("video/hd")
        write(track, b"key", b"more")
        viewers = [await stack.enter_async_context(world.client(version)) for version in ALL_VERSIONS]
        subscriptions = [await watch(viewer) for viewer in viewers]
        for subscription in subscriptions:
            assert await begun(await anext(subscription), 2) == (0, [b"key", b"more"])
        assert track.subscribers == 1
        write(track, b"next")
        for subscription in subscriptions:
            assert await read(await anext(subscription)) == (1, [b"next"])


@drafts
async def test_a_late_viewer_gets_the_current_group_from_its_start(draft: Draft) -> None:
    """Also if the relay itself comes late to a publisher, whose group is half over."""
    for source in (draft, Version.LITE_06):
        async with relay() as world, world.client(source) as publisher:
            track = publisher.publish("demo/cam").track("video/hd")
            write(track, b"old")
            current = write(track, b"key", b"1", b"2", finish=False)
            async with world.client(draft) as viewer, world.client(draft) as later:
                one, two = await watch(viewer), None
                group = await anext(one)
                assert group.sequence == 1
                assert [(await anext(group)).payload for _ in range(3)] == [b"key", b"1", b"2"]
                two = await watch(later)
                again = await anext(two)
                assert [(await anext(again)).payload for _ in range(3)] == [b"key", b"1", b"2"]
                current.finish()  # while it lasts, 06 has two
                async with asyncio.timeout(WITHIN):
                    while track.subscribers != 1:  # noqa: ASYNC110 - the publisher is told nothing
                        await asyncio.sleep(0.01)


@drafts
async def test_another_publisher_takes_over(draft: Draft) -> None:
    """A viewer keeps its subscription, and group numbers go on."""
    async with relay() as world, world.client(draft) as viewer, world.client(draft) as first:
        track = first.publish("demo/cam").track("video/hd")
        write(track, b"one")
        subscription = await watch(viewer)
        assert await begun(await anext(subscription), 1) == (0, [b"one"])
        async with world.client(draft) as second:
            other = second.publish("demo/cam").track("video/hd")
            write(other, b"two")
            await first.close()
            sequence, payloads = await begun(await anext(subscription), 1)
            assert (sequence > 0, payloads) == (True, [b"two"])
            write(other, b"three")
            assert await read(await anext(subscription)) == (sequence + 1, [b"three"])


@drafts
async def test_permissions_hold(draft: Draft) -> None:
    async with (
        relay() as world,
        world.client(draft, Permissions("", (), ("",))) as reader,
        world.client(draft, Permissions("", ("",), ())) as writer,
        world.client(draft) as other,
    ):
        reader.publish("demo/forbidden").track("video/hd")
        writer.publish("demo/cam").track("video/hd")
        announced = other.announced("")
        await announced.wait_for("demo/cam")
        assert set(announced.live) == {"demo/cam"}
        with pytest.raises(SubscribeError):
            await writer.subscribe("demo/cam", "video/hd")
        assert await writer.announced("").initial() == {}


def only_with_a_token(path: str, query: str) -> Permissions:
    """At the root, or at `/room`."""
    if query != "jwt=good":
        raise UnauthorizedError("no", Reason.NEEDED)
    return Permissions(path.strip("/"), ("",), ("",))


@drafts
@pytest.mark.parametrize("path", ["/room", None], ids=["url", "setup"])
async def test_a_token_in_setup(draft: Draft, path: str | None) -> None:
    async with relay(authorize=only_with_a_token) as world:
        async with world.client(draft, None, path=path, token="good") as client:
            client.publish("cam").track("video")
            async with world.client(Version.LITE_06) as viewer:
                await viewer.announced("").wait_for("cam" if path is None else "room/cam")
        code = None
        try:
            async with world.client(draft, None, path=path) as client:
                code = (await client.closed()).code
        except SessionEnded as refused:  # before the set-up was complete
            code = refused.code
        assert code == 2


@drafts
async def test_a_fetch_does_not_wait_for_what_comes(draft: Draft) -> None:
    """The newest group is fetched as far as it is there."""
    async with (
        relay() as world,
        world.client(Version.LITE_06) as publisher,
        world.client(draft) as client,
    ):
        track = publisher.publish("demo/cam").track("video")
        group = track.group()
        group.write(b"one")
        group.write(b"two")
        subscription = await client.subscribe("demo/cam", "video")
        await anext(subscription)
        fetched = await client.fetch("demo/cam", "video", group.sequence)
        assert [frame.payload for frame in fetched] == [b"one", b"two"]
        group.write(b"three")


@drafts
async def test_an_expired_token_in_setup_and_in_a_request(draft: Draft) -> None:
    """Both have codes of their own in every draft."""

    def expired(path: str, query: str) -> Permissions:
        if query:
            raise UnauthorizedError("a while ago", Reason.EXPIRED)
        return Permissions(path.strip("/"), ("",), ("",))

    async with relay(authorize=expired) as world:
        async with world.client(draft, None) as client:
            answers = Answers()
            params = Parameters(tokens=(Token(b"old"),))
            client.moq.requests.exchanges.ask(  # type: ignore[union-attr]
                lambda number: Subscribe(number, (b"demo", b"cam"), b"video", params), answers
            )
            await until(lambda: answers.messages)
            (refused,) = answers.messages
            assert isinstance(refused, RequestError)
            assert refused.code == (0x12 if draft is Draft.DRAFT_14 else 0x5)
        try:
            async with world.client(draft, None, path=None, token="old") as client:
                code = (await client.closed()).code
        except SessionEnded as refused:  # before the set-up was complete
            code = refused.code
        assert code == 0x18


@drafts
async def test_limits_of_a_session(draft: Draft) -> None:
    limits = replace(QUICK, announces=2, subscriptions=1, announce_streams=1)
    async with relay(limits=limits) as world, world.client(draft) as publisher, world.client(draft) as viewer:
        for name in ("a", "b"):
            publisher.publish(f"demo/{name}").track("video").group().write(b"key")
        announced = viewer.announced("demo")
        await announced.wait_for("demo/a")
        await announced.wait_for("demo/b")
        with pytest.raises(AnnounceError):
            await viewer.announced("demo/a").initial()
        subscription = await viewer.subscribe("demo/a", "video")
        await anext(subscription)
        with pytest.raises(SubscribeError):
            await viewer.subscribe("demo/b", "video")
        publisher.publish("demo/c")
        assert (await publisher.closed()).code == 3


@drafts
async def test_paths_have_a_longest_length(draft: Draft) -> None:
    async with relay(limits=replace(QUICK, path=64)) as world, world.client(draft) as client:
        with pytest.raises(SubscribeError):
            await client.subscribe("demo/" + "x" * 64, "video")
        with pytest.raises(SubscribeError):
            await client.subscribe("demo/cam", "x" * 65)
        client.publish("demo/" + "x" * 64)
        assert (await client.closed()).code == 3


class Answers(RequestHandler):
    """Keeps what the relay answers."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    def on_message(self, message: Message) -> None:
        self.messages.append(message)


def nothing_without_a_token(path: str, query: str) -> Permissions:
    if query not in ("", "jwt=good"):
        raise UnauthorizedError("no", Reason.BAD)
    return Permissions(path.strip("/"), *((("",), ("",)) if query else ((), ())))


@drafts
async def test_a_token_in_a_request_extends_the_rights_of_the_session(draft: Draft) -> None:
    async with (
        relay(authorize=nothing_without_a_token) as world,
        world.client(Version.LITE_06) as publisher,
        world.client(draft, None) as client,
    ):
        publisher.publish("demo/cam").track("video").group().write(b"key")
        with pytest.raises(SubscribeError):
            await client.subscribe("demo/cam", "video")

        async def ask(token: bytes) -> Message:
            answers = Answers()
            params = Parameters(tokens=(Token(token),))
            client.moq.requests.exchanges.ask(  # type: ignore[union-attr]
                lambda number: Subscribe(number, (b"demo", b"cam"), b"video", params), answers
            )
            await until(lambda: answers.messages)
            return answers.messages[0]

        assert isinstance(await ask(b"bad"), RequestError)
        with pytest.raises(SubscribeError):
            await client.subscribe("demo/cam", "video")
        assert isinstance(await ask(b"good"), SubscribeOk)
        await anext(await client.subscribe("demo/cam", "video"))
        client.publish("mine/cam").track("audio")
        await publisher.announced("").wait_for("mine/cam")
