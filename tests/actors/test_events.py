"""Events that actors report, and the actor that keeps them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio

from relay.actors import messages as m
from relay.actors.counters import AddSkipped
from relay.actors.events import CountRefused, EventsActor, Happened, ListEvents
from relay.actors.runtime import Ref, ask, halt, send
from relay.actors.skips import INTERVAL
from relay.auth.permissions import Permissions, Reason, UnauthorizedError
from relay.model.events import Event, Kind
from relay.model.limits import Limits
from relay.wire.errors import SessionCode
from relay.wire.version import Version
from tests.actors.fakes import FakeRef
from tests.actors.raw_peer import upstream
from tests.actors.watching import actor_of
from tests.actors.world import CLUSTER, World
from tests.clock import RUNTIME, TIMEOUT, advance, settle


class Told:
    """A world whose events are kept in a list."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.events, self.counters = FakeRef(), FakeRef()
        actor_of(world.origin)._events = self.events.ref
        world.environment = replace(world.environment, events=self.events.ref, counters=self.counters.ref)

    def all(self) -> list[Happened]:
        return self.events.got(Happened)

    def of(self, kind: Kind) -> list[Happened]:
        return [event for event in self.all() if event.kind is kind]


def told(**options: Any) -> Told:
    return Told(World(**options))


async def test_a_session_is_reported_when_it_joins_and_when_it_leaves() -> None:
    found = told()
    peer = await found.world.viewer(Version.LITE_05)
    (joined,) = found.all()
    assert joined == Happened(Kind.JOINED, 1, peer.relay.remote, "/", None)
    peer.close(0)
    await settle()
    (left,) = found.of(Kind.LEFT)
    assert (left.session, left.remote, left.path) == (1, peer.relay.remote, "/")
    assert left.reason == "closed by the peer, code 0"
    await found.world.close()


async def test_the_reason_of_an_end_is_that_of_who_ended_it() -> None:
    found = told()
    peers = [await found.world.viewer(Version.LITE_05) for _ in range(4)]
    send(peers[0].ref, m.CloseSession(SessionCode.NO_ERROR, "closed by the operator"))
    send(peers[1].ref, m.CloseSession(SessionCode.PROTOCOL_VIOLATION, "more than 5 announcements"))
    peers[2].session.fail("idle timeout")
    halt(peers[3].ref)
    await settle()
    reasons = {event.session: event.reason for event in found.of(Kind.LEFT)}
    assert reasons == {
        1: "closed by the operator",
        2: "closed by the relay, code 3: more than 5 announcements",
        3: "lost: idle timeout",
        4: "closed by the relay",
    }
    await found.world.close()


async def test_sessions_with_relays_are_for_the_cluster_to_report() -> None:
    found = told()
    peer = await found.world.publisher(Version.LITE_05, "demo/cam", permissions=CLUSTER)
    peer.close()
    await settle()
    assert found.all() == []
    await found.world.close()


async def test_a_refused_session_is_reported_with_its_reason() -> None:
    def refuse(_path: str, _query: str) -> Permissions:
        raise UnauthorizedError("the token ended a while ago", Reason.EXPIRED)

    found = told(authorize=refuse)
    peer = found.world.connect(Version.LITE_05, permissions=None, path="/demo", query="jwt=secret")
    await settle()
    (refused,) = found.all()
    assert refused == Happened(Kind.REFUSED, None, peer.relay.remote, "/demo", "unauthorized: token expired")
    await found.world.close()


async def test_an_exceeded_limit_is_reported_and_counted() -> None:
    found = told(limits=Limits(track_idle=0.01, subscriptions=1))
    viewer = await found.world.viewer(Version.LITE_05)
    await found.world.publisher(Version.LITE_05, "p")
    viewer.subscribe("p", "a")
    viewer.subscribe("p", "b")
    await settle()
    (refused,) = found.of(Kind.REFUSED)
    assert (refused.session, refused.path, refused.limit) == (1, "p", "subscriptions")
    assert refused.reason == "over limit subscriptions"
    await found.world.close()


async def test_broadcasts_are_reported_when_announced_and_when_ended() -> None:
    found = told()
    publisher = await found.world.publisher(Version.LITE_05, "demo/cam", "demo/mic")
    assert [(e.session, e.path) for e in found.of(Kind.ANNOUNCED)] == [(1, "demo/cam"), (1, "demo/mic")]
    publisher.unpublish("demo/cam")
    await settle()
    (ended,) = found.of(Kind.ENDED)
    assert (ended.session, ended.path, ended.reason) == (1, "demo/cam", None)
    publisher.close()
    await settle()
    assert [event.path for event in found.of(Kind.ENDED)] == ["demo/cam", "demo/mic"]
    await found.world.close()


async def test_a_publisher_that_is_lost_ends_once_it_is_not_awaited_any_more() -> None:
    found = told(linger=5.0)
    publisher = await found.world.publisher(Version.LITE_05, "demo/cam")
    publisher.session.fail()
    await settle()
    assert found.of(Kind.ENDED) == []
    await advance(6)
    assert [event.path for event in found.of(Kind.ENDED)] == ["demo/cam"]
    await found.world.close()


async def test_a_publisher_that_comes_back_takes_over() -> None:
    found = told(linger=5.0)
    publisher = await found.world.publisher(Version.LITE_05, "demo/cam")
    publisher.session.fail()
    await settle()
    await found.world.publisher(Version.LITE_05, "demo/cam")
    assert [event.session for event in found.of(Kind.ANNOUNCED)] == [1, 2]
    (ended,) = found.of(Kind.ENDED)
    assert (ended.session, ended.reason) == (1, "another publisher goes on")
    await found.world.close()


# --- skipped groups ------------------------------------------------------------------------------------------------


async def test_a_session_that_skips_groups_reports_them_while_it_lasts() -> None:
    found = told(limits=Limits(track_idle=0.01, backlog_bytes=1_000))
    publisher = await found.world.publisher(Version.LITE_05, "p")
    slow = await found.world.viewer(Version.LITE_05)
    slow.subscribe("p")
    _, request = await upstream(publisher)
    slow.session.pause()
    for sequence in range(10):
        publisher.group(request.id, sequence, b"x" * 900)
        await settle()
    await advance(INTERVAL)
    row = await ask(slow.ref, m.DescribeSession(), timeout=TIMEOUT)
    reported = sum(message.groups for message in found.counters.got(AddSkipped))
    assert row.skipped == reported > 0
    for sequence in range(10, 15):
        publisher.group(request.id, sequence, b"x" * 900)
        await settle()
    slow.close()
    await settle()
    assert sum(message.groups for message in found.counters.got(AddSkipped)) > reported
    await found.world.close()


async def test_a_session_that_skips_nothing_reports_nothing() -> None:
    found = told()
    viewer = await found.world.viewer(Version.LITE_05)
    await advance(10 * INTERVAL)
    viewer.close()
    await settle()
    assert found.counters.got(AddSkipped) == []
    await found.world.close()


# --- the actor -----------------------------------------------------------------------------------------------------


@pytest_asyncio.fixture
async def events() -> AsyncIterator[Ref]:
    ref: Ref = EventsActor.start(RUNTIME)
    yield ref
    halt(ref)
    await settle()


async def listed(events: Ref, after: int = 0) -> tuple[Event, ...]:
    found: tuple[Event, ...] = await ask(events, ListEvents(after), timeout=TIMEOUT)
    return found


async def test_the_actor_keeps_events_with_the_time_of_day(events: Ref) -> None:
    send(events, Happened(Kind.JOINED, 3, "192.0.2.1:5", "/demo"))
    send(events, Happened(Kind.DRAIN, reason="1 sessions"))
    first, second = await listed(events)
    assert (first.kind, first.session, first.path) == ("joined", 3, "/demo")
    assert first.time == pytest.approx(RUNTIME.wall_time(), abs=1)
    assert await listed(events, first.number) == (second,)


async def test_the_actor_counts_refusals_of_sessions_by_limit(events: Ref) -> None:
    send(events, Happened(Kind.REFUSED, 1, "192.0.2.1:5", reason="over limit path", limit="path"))
    send(events, Happened(Kind.REFUSED, 2, "192.0.2.1:5", reason="over limit path", limit="path", times=4))
    send(events, Happened(Kind.REFUSED, None, "192.0.2.1:5", reason="unauthorized: bad token"))
    assert await ask(events, CountRefused(), timeout=TIMEOUT) == {"path": 5}
