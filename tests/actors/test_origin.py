"""The origin actor: the serving publication of a path, its watchers, and leftovers."""

from __future__ import annotations

import pytest

from relay.actors import messages as m
from relay.actors import origin
from relay.actors.origin import OriginActor
from relay.actors.runtime import Ref, ask, halt, send
from relay.model.route import Route
from relay.model.track import SubscribeParams
from relay.model.watchers import AnnounceInterest, Announcement
from relay.moq.encoding import Encoding
from relay.wire.errors import StreamCode
from tests.actors.fakes import Fake, FakeSubscriber, View, announcement
from tests.actors.watching import actor_of, directory_counts, stop_all
from tests.clock import RUNTIME, TIMEOUT, advance, settle, timer_count


class Session(Fake):
    """Publisher, watcher and subscriber."""

    def __init__(self, stage: Stage, number: int) -> None:
        super().__init__()
        self.stage = stage
        self.number = number
        self.broadcasts: dict[tuple[str, int], FakeSubscriber] = {}

    async def announce(
        self,
        path: str,
        *,
        generation: int = 1,
        route: Route | None = None,
        prefix: bool = False,
        tentative: bool = False,
        relayed: bool = False,
        onward: bool = True,
    ) -> FakeSubscriber:
        broadcast = self.broadcasts[(path, generation)] = FakeSubscriber()
        message = announcement(
            path, self.number, self.ref, broadcast.ref, generation=generation,
            route=route or Route((self.number,)), prefix=prefix, tentative=tentative,
            relayed=relayed, onward=onward,
        )  # fmt: skip
        await self.stage.say(message)
        return broadcast

    async def withdraw(self, path: str, generation: int = 1) -> None:
        await self.stage.say(m.Unannounce(self.number, path, generation))

    async def go(self, *, lost: bool = False) -> None:
        halt(self.ref)
        await self.stage.say(m.SessionGone(self.number, lost))

    async def watch(
        self,
        *prefixes: str,
        watch: int = 1,
        exclude: int = 0,
        routes_above: bool = False,
        relay: bool = False,
        one_hop: bool = False,
    ) -> None:
        interest = AnnounceInterest(
            self.number, watch, prefixes or ("",), exclude, routes_above, relay, one_hop
        )
        await self.stage.say(m.Watch(self.ref, interest))

    def sees(self, watch: int = 1) -> dict[str, Announcement]:
        return View(watch).follow(self.log).known

    def changes(self) -> list[tuple[str, bool]]:
        return [(change.path, change.offer is not None) for change in self.got(m.WatchChanged)]


class Stage:
    def __init__(self, *, linger: float = 0.0, members: str = "") -> None:
        self.origin: Ref = OriginActor.start(RUNTIME, linger=linger, members=members)
        self._numbers = 0

    def session(self) -> Session:
        self._numbers += 1
        return Session(self, self._numbers)

    async def say(self, message: object) -> None:
        send(self.origin, message)
        await settle()

    async def serves(self, path: str, *, exclude: int = 0) -> list[Fake | int]:
        """Where a request for `path` went: the broadcast, or the code of the refusal."""
        viewer = FakeSubscriber()
        viewer.subscribe(self.origin, path=path, exclude=exclude)
        await settle()
        return [refused.code for refused in viewer.got(m.Refused)]

    async def count(self) -> tuple[int, int, int]:
        return await directory_counts(self.origin)


async def served_by(stage: Stage, path: str, *candidates: Fake, exclude: int = 0) -> int:
    """Index of the serving candidate; -1 if the request was refused as unroutable."""
    before = [len(c.got(m.Subscribe)) for c in candidates]
    refused = await stage.serves(path, exclude=exclude)
    after = [len(c.got(m.Subscribe)) for c in candidates]
    hits = [n for n, (one, two) in enumerate(zip(before, after, strict=True)) if two == one + 1]
    if refused:
        assert refused == [StreamCode.UNROUTABLE]
        assert not hits
        return -1
    assert len(hits) == 1
    return hits[0]


# --- watching --------------------------------------------------------------------------------------------------------


async def test_a_watcher_gets_the_initial_set_and_then_changes() -> None:
    stage = Stage()
    publisher, watcher = stage.session(), stage.session()
    await publisher.announce("room/a")
    await watcher.watch("room")
    (started,) = watcher.got(m.WatchStarted)
    assert [offer.path for offer in started.offers] == ["room/a"]
    await publisher.announce("room/b")
    await publisher.announce("hall/c")
    await publisher.withdraw("room/a")
    assert watcher.changes() == [("room/b", True), ("room/a", False)]


async def test_several_watches_of_one_session_are_distinct() -> None:
    stage = Stage()
    publisher, watcher = stage.session(), stage.session()
    await watcher.watch("a", watch=1)
    await watcher.watch("b", watch=2)
    await publisher.announce("a/x")
    await publisher.announce("b/y")
    assert sorted(watcher.sees(1)) == ["a/x"]
    assert sorted(watcher.sees(2)) == ["b/y"]
    await stage.say(m.Unwatch(watcher.number, 1))
    await publisher.withdraw("a/x")
    await publisher.withdraw("b/y")
    assert sorted(watcher.sees(1)) == ["a/x"]  # no further news
    assert watcher.sees(2) == {}


async def test_the_list_for_http_names_what_is_announced() -> None:
    stage = Stage()
    one = stage.session()
    for path in ("a/x", "a/y", "b/z"):
        await one.announce(path)
    found = await ask(stage.origin, m.ListAnnounced(("a",)), timeout=TIMEOUT)
    assert sorted(offer.path for offer in found) == ["a/x", "a/y"]


# --- who serves ------------------------------------------------------------------------------------------------------


async def test_the_newest_publication_serves_and_the_older_one_returns() -> None:
    stage = Stage()
    one, two, watcher = stage.session(), stage.session(), stage.session()
    await watcher.watch()
    first = await one.announce("p")
    second = await two.announce("p")
    assert await served_by(stage, "p", first, second) == 1
    sources = [change.offer.source for change in watcher.got(m.WatchChanged) if change.offer]
    assert len(set(sources)) == 2
    await two.withdraw("p")
    assert await served_by(stage, "p", first, second) == 0
    assert second.got(m.Withdraw) == [m.Withdraw(stage.origin, 2)]
    assert not first.got(m.Withdraw)
    await one.withdraw("p")
    assert await served_by(stage, "p", first, second) == -1
    assert watcher.sees() == {}


async def test_a_publication_whose_broadcast_has_died_is_refused() -> None:
    stage = Stage()
    one = stage.session()
    broadcast = await one.announce("p")
    halt(broadcast.ref)
    await settle()
    assert await served_by(stage, "p") == -1


# --- tentative announcements -----------------------------------------------------------------------------------------


async def test_a_tentative_announcement_waits_and_the_incumbent_is_probed() -> None:
    stage = Stage()
    one, two, watcher = stage.session(), stage.session(), stage.session()
    real = await one.announce("p")
    await watcher.watch()
    echo = await two.announce("p", tentative=True)
    assert one.got(m.CheckAlive) == [m.CheckAlive()]
    assert await served_by(stage, "p", real, echo) == 0
    await stage.say(m.Alive(one.number, alive=True))
    assert await served_by(stage, "p", real, echo) == 0
    assert watcher.changes() == []


# --- cleanliness -----------------------------------------------------------------------------------------------------


async def test_a_session_that_goes_leaves_nothing() -> None:
    stage = Stage()
    one, two = stage.session(), stage.session()
    broadcasts = [await one.announce(path, prefix=True) for path in ("a", "b/c", "d")]
    await one.watch("x", "y", watch=1)
    await one.watch(watch=2)
    await two.announce("a")
    assert await stage.count() == (3, 4, 2)
    await one.go()
    assert await stage.count() == (1, 1, 0)
    assert all(len(broadcast.got(m.Withdraw)) == 1 for broadcast in broadcasts)
    await two.go()
    assert await stage.count() == (0, 0, 0)
    actor = actor_of(stage.origin)
    assert not actor._watchers
    for number, path in enumerate(("a", "b/c", "d", "a"), start=1):
        await stage.say(m.BroadcastOver(number, path))
    assert not actor._publishers


async def test_unwatch_and_session_gone_of_strangers_do_nothing() -> None:
    stage = Stage()
    await stage.say(m.Unwatch(42, 1))
    await stage.say(m.SessionGone(42))
    await stage.say(m.Unannounce(42, "p", 1))
    await stage.say(m.Reroute(42, "p", 1, Route()))
    await stage.say(m.Alive(42, alive=False))
    assert await stage.count() == (0, 0, 0)


# --- lingering -------------------------------------------------------------------------------------------------------


async def ask_for(
    stage: Stage, path: str = "p", *, kind: str = "subscribe", exclude: int = 0
) -> FakeSubscriber:
    viewer = FakeSubscriber()
    if kind == "describe":
        viewer.describe(stage.origin, path=path)
    elif kind == "fetch":
        send(
            stage.origin,
            m.Fetch(path, "video", viewer.ref, 7, 1, Encoding.TIMED, SubscribeParams(start_group=1), 0),
        )
    else:
        viewer.subscribe(stage.origin, path=path, exclude=exclude)
    await settle()
    return viewer


def refusals(viewer: FakeSubscriber) -> list[int]:
    return [refused.code for refused in viewer.got(m.Refused)]


@pytest.mark.virtual
async def test_a_lost_publication_lingers_and_is_withdrawn_at_last() -> None:
    stage = Stage(linger=5)
    one, watcher = stage.session(), stage.session()
    broadcast = await one.announce("p")
    await watcher.watch()
    await one.go(lost=True)
    assert broadcast.got(m.Withdraw)
    assert watcher.changes() == []
    waiting = [await ask_for(stage, kind=kind) for kind in ("subscribe", "describe")]
    assert refusals(await ask_for(stage, kind="fetch")) == [StreamCode.UNROUTABLE]
    assert not broadcast.got(m.Subscribe)
    assert await stage.count() == (1, 1, 1)
    await advance(4.5)
    assert watcher.changes() == []
    assert [refusals(viewer) for viewer in waiting] == [[], []]
    await advance(0.6)
    assert watcher.changes() == [("p", False)]
    assert [refusals(viewer) for viewer in waiting] == [[StreamCode.UNROUTABLE]] * 2
    assert refusals(await ask_for(stage)) == [StreamCode.UNROUTABLE]
    assert await stage.count() == (0, 0, 1)
    stop_all()


@pytest.mark.virtual
async def test_a_publisher_that_comes_in_time_replaces_the_lost_one() -> None:
    stage = Stage(linger=5)
    one, two, watcher = (stage.session() for _ in range(3))
    await one.announce("p", route=Route((70,)))
    await watcher.watch()
    (started,) = watcher.got(m.WatchStarted)
    await one.go(lost=True)
    waiting = [await ask_for(stage, kind=kind) for kind in ("subscribe", "describe")]
    new = await two.announce("p", route=Route((80,)))
    (change,) = watcher.got(m.WatchChanged)
    assert change.offer == Announcement("p", Route((80,)), started.offers[0].source)
    assert [asked.life for asked in new.got(m.Subscribe)] == [2]
    assert len(new.got(m.Describe)) == 1
    assert [refusals(viewer) for viewer in waiting] == [[], []]
    assert await served_by(stage, "p", new) == 0
    await advance(10)
    assert watcher.changes() == [("p", True)]
    assert await stage.count() == (1, 1, 1)
    await two.go()
    assert watcher.changes() == [("p", True), ("p", False)]
    assert await stage.count() == (0, 0, 1)
    stop_all()


@pytest.mark.virtual
async def test_the_second_loss_has_its_own_time() -> None:
    """The first loss's timer does not end it."""
    stage = Stage(linger=5)
    one, two, three, watcher = (stage.session() for _ in range(4))
    await watcher.watch()
    await one.announce("p")
    await one.go(lost=True)
    await advance(3)
    await two.announce("p")
    await advance(1)
    await two.go(lost=True)
    viewer = await ask_for(stage)
    await advance(3)
    assert ("p", False) not in watcher.changes()
    assert refusals(viewer) == []
    third = await three.announce("p")
    assert len(third.got(m.Subscribe)) == 1
    await advance(10)
    assert ("p", False) not in watcher.changes()
    sources = {change.offer.source for change in watcher.got(m.WatchChanged) if change.offer}
    assert len(sources) == 1
    stop_all()


@pytest.mark.virtual
async def test_waiting_requests_are_not_refused_while_a_tentative_publication_could_serve_them() -> None:
    """The publisher has returned behind a version that cannot tell it from an echo."""
    stage = Stage(linger=5)
    one, two = stage.session(), stage.session()
    await one.announce("p")
    await one.go(lost=True)
    viewer = await ask_for(stage)
    returned = await two.announce("p", tentative=True)
    await advance(6)
    assert refusals(viewer) == []
    assert len(returned.got(m.Subscribe)) == 1
    stop_all()


@pytest.mark.virtual
async def test_no_more_than_so_many_requests_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(origin, "MOST_WAITING", 2)
    stage = Stage(linger=5)
    one, two = stage.session(), stage.session()
    await one.announce("p")
    await one.go(lost=True)
    viewers = [await ask_for(stage) for _ in range(3)]
    assert [refusals(viewer) for viewer in viewers] == [[], [], [StreamCode.UNROUTABLE]]
    new = await two.announce("p")
    assert len(new.got(m.Subscribe)) == 2
    stop_all()


@pytest.mark.virtual
async def test_who_cannot_use_the_lost_route_does_not_wait_for_it() -> None:
    stage = Stage(linger=5)
    one = stage.session()
    await one.announce("p", route=Route((7, 77)))
    await one.go(lost=True)
    assert refusals(await ask_for(stage, exclude=77)) == [StreamCode.UNROUTABLE]
    assert refusals(await ask_for(stage, exclude=78)) == []
    stop_all()


@pytest.mark.virtual
async def test_who_cannot_use_the_new_route_is_refused_when_it_comes() -> None:
    stage = Stage(linger=5)
    one, two = stage.session(), stage.session()
    await one.announce("p", route=Route((7,)))
    await one.go(lost=True)
    through, beside = await ask_for(stage, exclude=77), await ask_for(stage, exclude=78)
    new = await two.announce("p", route=Route((7, 77)))
    assert refusals(through) == [StreamCode.UNROUTABLE]
    assert refusals(beside) == []
    assert len(new.got(m.Subscribe)) == 1
    stop_all()


@pytest.mark.virtual
async def test_a_lost_prefix_route_lingers_for_what_lies_below() -> None:
    stage = Stage(linger=5)
    one, two, above = (stage.session() for _ in range(3))
    await above.watch("dyn/a", routes_above=True)
    await one.announce("dyn", prefix=True)
    await one.go(lost=True)
    assert list(above.sees()) == ["dyn/a"]
    viewer = await ask_for(stage, "dyn/a/b")
    assert refusals(viewer) == []
    new = await two.announce("dyn", prefix=True)
    assert [asked.path for asked in new.got(m.Subscribe)] == ["dyn/a/b"]
    await two.go(lost=True)
    plain = await stage.session().announce("dyn")
    assert above.sees() == {}
    assert refusals(await ask_for(stage, "dyn/a/b")) == [StreamCode.UNROUTABLE]
    assert await served_by(stage, "dyn", plain) == 0
    stop_all()


@pytest.mark.virtual
async def test_an_origin_that_stops_while_something_lingers_leaves_no_timer() -> None:
    stage = Stage(linger=5)
    one = stage.session()
    await one.announce("p")
    await one.go(lost=True)
    await ask_for(stage)
    stop_all()
    await settle()
    assert timer_count() == 0


# --- other relays ----------------------------------------------------------------------------------------------------


async def lives(stage: Stage, *broadcasts: FakeSubscriber, path: str = "p") -> list[int]:
    """The lives that the origin gives to each broadcast's requests."""
    await ask_for(stage, path)
    await ask_for(stage, path, kind="describe")
    viewer = FakeSubscriber()
    send(
        stage.origin,
        m.Fetch(path, "video/hd", viewer.ref, 9, 1, Encoding.PLAIN, SubscribeParams(), 0, life=999),
    )
    await settle()
    asked = [
        request.life
        for broadcast in broadcasts
        for request in broadcast.log
        if isinstance(request, m.Subscribe | m.Describe | m.Fetch)
    ]
    assert len(asked) % 3 == 0
    return sorted(set(asked))


async def test_routes_that_were_announced_beside_each_other_are_one_life() -> None:
    stage = Stage()
    one, two = stage.session(), stage.session()
    first = await one.announce("p", route=Route((50, 3)))
    second = await two.announce("p", route=Route((50,)))
    assert len(await lives(stage, first, second)) == 1
    await two.go()
    assert len(await lives(stage, first, second)) == 1


# --- older sessions that may be dead ---------------------------------------------------------------------------------


async def test_who_watches_what_a_dead_session_had_withdrawn_asks_again_too() -> None:
    stage = Stage()
    one, two = stage.session(), stage.session()
    old = await one.announce("p")
    await one.withdraw("p")
    new = await two.announce("p")
    assert one.got(m.CheckAlive) == [m.CheckAlive()]
    await stage.say(m.Alive(one.number, alive=False))
    assert old.got(m.RouteChanged) == [m.RouteChanged(lost=True)]
    assert not new.got(m.RouteChanged)


@pytest.mark.virtual
async def test_waiting_requests_are_not_refused_while_a_route_above_could_serve_them() -> None:
    """As for a later request."""
    stage = Stage(linger=5)
    one, two = stage.session(), stage.session()
    wide = await two.announce("dyn", prefix=True)
    await one.announce("dyn/a", prefix=True)
    await one.go(lost=True)
    viewer = await ask_for(stage, "dyn/a/b")
    await advance(6)
    assert await served_by(stage, "dyn/a/b", wide) == 0
    assert refusals(viewer) == []
    stop_all()


# --- which of several paths is announced --------------------------------------------------------------------------


async def found(stage: Stage, *paths: str, wait: bool = False) -> Fake:
    """A request for the longest announced path."""
    seeker = Fake()
    await stage.say(m.Find(paths, seeker.ref, 7, wait))
    return seeker


def answers(seeker: Fake) -> list[str | None]:
    assert all(answer.key == 7 for answer in seeker.got(m.Found))
    return [answer.path for answer in seeker.got(m.Found)]


async def test_the_longest_announced_path_is_found() -> None:
    stage = Stage()
    source = stage.session()
    await source.announce("demo")
    await source.announce("demo/cam")
    await source.announce("demo/camera")
    paths = ("demo/cam/video", "demo/cam", "demo")
    assert answers(await found(stage, *paths)) == ["demo/cam"]
    await source.withdraw("demo/cam")
    assert answers(await found(stage, *paths)) == ["demo"]
    await source.withdraw("demo")
    assert answers(await found(stage, *paths)) == [None]
    stop_all()


async def test_a_route_above_all_paths_serves_the_longest() -> None:
    stage = Stage()
    source = stage.session()
    await source.announce("demo", prefix=True)
    assert answers(await found(stage, "demo/cam/video", "demo/cam")) == ["demo/cam/video"]
    await source.announce("demo/cam", prefix=True)
    assert answers(await found(stage, "demo/cam/video", "demo/cam")) == ["demo/cam"]
    stop_all()


@pytest.mark.parametrize("path, prefix", [("demo/cam", False), ("demo", True)])
async def test_a_request_that_waits_for_a_path_is_answered_once(path: str, prefix: bool) -> None:
    stage = Stage()
    source = stage.session()
    seeker = await found(stage, "demo/cam/video", "demo/cam", wait=True)
    for other in ("demo/cam2", "demo/cam/video/hd", "other"):
        await source.announce(other, prefix=prefix)
        assert answers(seeker) == []
    await source.announce(path, prefix=prefix)
    expected = ["demo/cam/video" if prefix else "demo/cam"]
    assert answers(seeker) == expected
    await source.withdraw(path)
    await source.announce(path, generation=2, prefix=prefix)
    assert answers(seeker) == expected
    stop_all()


async def test_who_leaves_waits_no_more() -> None:
    stage = Stage()
    source = stage.session()
    seeker = await found(stage, "demo/cam", wait=True)
    await stage.say(m.Unsubscribe(seeker.ref, 7))
    await source.announce("demo/cam")
    assert answers(seeker) == []
    assert not vars(actor_of(stage.origin))["_finding"]
    stop_all()
