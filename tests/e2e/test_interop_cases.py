"""The nine cases of the working group's interop runner, after their descriptions, by a peer of our own.

https://github.com/englishm/moq-interop-runner, docs/tests/TEST-CASES.md. Each has to end within a time, which is virtual.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from relay.transport.client import ClientTls, connect
from relay.wire.ietf.messages import PublishDone, PublishNamespaceDone, RequestOk, RequestUpdate, SubscribeOk
from relay.wire.version import Draft
from tests.actors.moqt_peer import Asked, MoqtEnd, MoqtPeer, namespace
from tests.actors.world import World
from tests.clock import RUNTIME, loop_time
from tests.e2e.harness import WITHIN
from tests.e2e.support import running
from tests.sampling import covering

NAMESPACE, TRACK = "moq-test/interop", "test-track"
NOT_IN_TIME, TRACK_ENDED = 2, 2
ALIAS = 7

Connect = Callable[[], Awaitable[MoqtEnd]]


async def until(condition: Callable[[], object]) -> None:
    """The case has the limit of time."""
    while not condition():  # noqa: ASYNC110 - the peer tells nobody
        await asyncio.sleep(0.001)


class Parties:
    """Sessions of one case, each with its SETUP exchanged."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._all: list[MoqtEnd] = []

    async def join(self) -> MoqtEnd:
        end = await self._connect()
        self._all.append(end)
        control = end.groups if end.profile.request_streams else [end.control]
        await until(lambda: control and control[0].data)
        assert control[0].data[0] == (0xAF if end.profile.request_streams else 0x21)
        return end

    async def leave(self) -> None:
        for end in self._all:
            assert not end.closed
            end.close()
        await until(lambda: all(end.closed for end in self._all))


async def answered(asked: Asked) -> Asked:
    await until(lambda: asked.messages)
    return asked


def withdraw(end: MoqtEnd, asked: Asked) -> None:
    if end.profile.request_streams:
        asked.stream.reset(1)
        asked.stream.stop(1)
    elif end.draft is Draft.DRAFT_14:
        end.control.write(end.encode(PublishNamespaceDone(namespace=namespace(NAMESPACE))))
    else:
        end.control.write(end.encode(PublishNamespaceDone(request_id=asked.number)))


async def published(parties: Parties) -> tuple[MoqtEnd, Asked]:
    publisher = await parties.join()
    asked = await answered(publisher.publish(NAMESPACE))
    assert asked.accepted
    return publisher, asked


async def setup_only(parties: Parties) -> None:
    await parties.join()


async def announce_only(parties: Parties) -> None:
    await published(parties)


async def publish_namespace_done(parties: Parties) -> None:
    publisher, asked = await published(parties)
    withdraw(publisher, asked)
    viewer = await parties.join()
    assert (await answered(viewer.subscribe(NAMESPACE, TRACK))).refused


async def subscribe_error(parties: Parties) -> None:
    viewer = await parties.join()
    assert (await answered(viewer.subscribe(NAMESPACE, TRACK))).refused


async def rendezvous_timeout(parties: Parties) -> None:
    viewer = await parties.join()
    began = loop_time()
    asked = await answered(viewer.subscribe(NAMESPACE, TRACK, rendezvous_timeout=500))
    assert asked.refused == NOT_IN_TIME
    assert loop_time() - began >= 0.5


async def announce_subscribe(parties: Parties) -> None:
    publisher, _ = await published(parties)
    viewer = await parties.join()
    asked = viewer.subscribe(NAMESPACE, TRACK)
    await until(publisher.subscriptions)
    publisher.accept(ALIAS)
    assert isinstance((await answered(asked)).messages[0], SubscribeOk)


async def subscribe_before_announce(parties: Parties) -> None:
    """It may be refused, or wait."""
    viewer = await parties.join()
    asked = viewer.subscribe(NAMESPACE, TRACK)
    await asyncio.sleep(0.5)
    await published(parties)
    assert (await answered(asked)).refused


def forwards(asked: Asked) -> bool:
    """FORWARD of the answer to PUBLISH and of later updates; absent is 1."""
    messages = [m for m in asked.messages if isinstance(m, RequestOk | RequestUpdate)]
    return messages[-1].params.forward is not False


def end_track(end: MoqtEnd, asked: Asked, streams: int) -> None:
    done = PublishDone(TRACK_ENDED, streams, request_id=asked.number)
    asked.stream.write(end.encode(done), fin=end.profile.request_streams)


async def publish_without_subscriber(parties: Parties) -> None:
    publisher = await parties.join()
    asked = await answered(publisher.offer(NAMESPACE, TRACK, ALIAS))
    assert asked.accepted
    forward = forwards(asked)
    if forward:
        publisher.group(ALIAS, 0, b"publish-without-subscriber")
    end_track(publisher, asked, int(forward))
    if publisher.profile.request_streams:
        await until(lambda: asked.stream.over)


async def publish_to_pending_subscription(parties: Parties) -> None:
    viewer = await parties.join()
    wanted = viewer.subscribe(NAMESPACE, TRACK, rendezvous_timeout=5_000)
    publisher = await parties.join()
    asked = await answered(publisher.offer(NAMESPACE, TRACK, ALIAS))
    assert asked.accepted
    assert forwards(asked)
    assert isinstance((await answered(wanted)).messages[0], SubscribeOk)
    publisher.group(ALIAS, 0, b"publish-to-pending-subscription")
    end_track(publisher, asked, 1)
    await until(lambda: len(wanted.messages) > 1)
    done = wanted.messages[1]
    assert isinstance(done, PublishDone)
    assert (done.status, done.streams) == (TRACK_ENDED, 1)
    await until(lambda: viewer.groups[1:] and viewer.groups[1].fins)
    (group,) = viewer.groups[1:]
    assert group.data.endswith(b"publish-to-pending-subscription")


CASES: dict[str, tuple[Callable[[Parties], Awaitable[None]], float]] = {
    "setup-only": (setup_only, 2.0),
    "announce-only": (announce_only, 2.0),
    "publish-namespace-done": (publish_namespace_done, 2.0),
    "subscribe-error": (subscribe_error, 2.0),
    "rendezvous-timeout": (rendezvous_timeout, 2.0),
    "announce-subscribe": (announce_subscribe, 3.0),
    "subscribe-before-announce": (subscribe_before_announce, 3.5),
    "publish-without-subscriber": (publish_without_subscriber, 3.0),
    "publish-to-pending-subscription": (publish_to_pending_subscription, 3.0),
}
"""With their seconds."""

WAITING = {"rendezvous-timeout", "publish-to-pending-subscription"}
"""14 and 16 have no RENDEZVOUS_TIMEOUT."""


def cases_of(draft: Draft) -> list[str]:
    return [name for name in CASES if draft > Draft.DRAFT_16 or name not in WAITING]


async def run(name: str, connect: Connect, *, within: float | None = None) -> None:
    case, seconds = CASES[name]
    parties = Parties(connect)
    async with asyncio.timeout(within or seconds):
        await case(parties)
        await parties.leave()


@pytest.mark.parametrize(
    ("draft", "name"), [(draft, name) for draft in Draft for name in cases_of(draft)], ids=str
)
@pytest.mark.virtual
async def test_a_case(draft: Draft, name: str) -> None:
    world = World(linger=5.0)

    async def join() -> MoqtEnd:
        return MoqtPeer(world, draft)

    await run(name, join)
    await world.close()


@pytest.mark.parametrize(("draft", "scheme"), covering(list(Draft), ["https", "moqt"]), ids=str)
async def test_all_cases_in_turn(draft: Draft, scheme: str) -> None:
    """With one namespace: nothing lingers of a publisher that closed its session."""
    async with running() as relay:

        async def join() -> MoqtEnd:
            url = f"{scheme}://127.0.0.1:{relay.port}/"
            session = await connect(
                url, versions=(draft,), tls=ClientTls(disable_verify=True), runtime=RUNTIME
            )
            return MoqtEnd(session, draft)

        for name in cases_of(draft):
            await run(name, join, within=WITHIN)  # a busy machine has pauses
