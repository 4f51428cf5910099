"""The origin actor: what wins a path, who is told of it, and what is left afterwards."""

from __future__ import annotations

from relay.actors import messages as m
from relay.actors.origin import OriginActor
from relay.actors.runtime import Ref, ask, halt, send
from relay.model.route import Route
from relay.wire.errors import StreamCode
from tests.actors.support import TIMEOUT, Fake, FakeSubscriber, View, actor_of, announcement, settle


class Session(Fake):
    """One session as the origin sees it: publisher, watcher and subscriber."""

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
    ) -> Fake:
        broadcast = self.broadcasts[(path, generation)] = FakeSubscriber()
        message = announcement(
            path, self.number, self.ref, broadcast.ref, generation=generation,
            route=route or Route((self.number,)), prefix=prefix, tentative=tentative,
        )  # fmt: skip
        await self.stage.say(message)
        return broadcast

    async def withdraw(self, path: str, generation: int = 1) -> None:
        await self.stage.say(m.Unannounce(self.number, path, generation))

    async def go(self) -> None:
        await self.stage.say(m.SessionGone(self.number))

    async def watch(
        self, *prefixes: str, watch: int = 1, exclude: int = 0, routes_above: bool = False
    ) -> None:
        await self.stage.say(m.Watch(self.number, self.ref, watch, prefixes or ("",), exclude, routes_above))

    def sees(self, watch: int = 1) -> dict[str, m.Offered]:
        return View(watch).follow(self.log).known

    def changes(self) -> list[tuple[str, bool]]:
        return [(change.path, change.offer is not None) for change in self.got(m.WatchChanged)]


class Stage:
    """An origin and its sessions."""

    def __init__(self) -> None:
        self.origin: Ref = OriginActor.start()
        self._numbers = 0

    def session(self) -> Session:
        self._numbers += 1
        return Session(self, self._numbers)

    async def say(self, message: object) -> None:
        send(self.origin, message)
        await settle()

    async def serves(self, path: str, *, exclude: int = 0) -> list[Fake | int]:
        """Who got a request for `path`: the broadcast it went to, or the code of the refusal."""
        viewer = FakeSubscriber()
        viewer.subscribe(self.origin, path=path, exclude=exclude)
        await settle()
        return [refused.code for refused in viewer.got(m.Refused)]

    async def count(self) -> tuple[int, int, int]:
        found = await ask(self.origin, m.Count(), timeout=TIMEOUT)
        return (found.paths, found.publications, found.watchers)


async def served_by(stage: Stage, path: str, *candidates: Fake, exclude: int = 0) -> int:
    """Which of the candidates' broadcasts a request goes to; -1 if it was refused as unroutable."""
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


async def test_an_empty_initial_set_is_told_too() -> None:
    stage = Stage()
    watcher = stage.session()
    await watcher.watch("nothing/here")
    assert [started.offers for started in watcher.got(m.WatchStarted)] == [()]
    nobody = stage.session()
    await stage.say(m.Watch(nobody.number, nobody.ref, 1, (), 0, False))
    assert [started.offers for started in nobody.got(m.WatchStarted)] == [()]


async def test_prefixes_match_whole_segments() -> None:
    stage = Stage()
    publisher, watcher = stage.session(), stage.session()
    await watcher.watch("foo")
    for path in ("foo", "foobar", "foo/bar", "fo", "x/foo"):
        await publisher.announce(path)
    assert sorted(watcher.sees()) == ["foo", "foo/bar"]


async def test_several_watches_of_one_session_are_told_apart() -> None:
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
    assert sorted(watcher.sees(1)) == ["a/x"]  # nothing was told any more
    assert watcher.sees(2) == {}


async def test_a_path_under_two_prefixes_of_one_watch_is_told_once() -> None:
    stage = Stage()
    publisher, watcher = stage.session(), stage.session()
    await watcher.watch("a", "a/b")
    await publisher.announce("a/b/c")
    assert watcher.changes() == [("a/b/c", True)]


async def test_a_session_is_not_offered_its_own_publications() -> None:
    stage = Stage()
    one, two = stage.session(), stage.session()
    await one.announce("room/cam")
    await one.watch()
    assert one.sees() == {}
    await two.announce("room/cam")
    assert list(one.sees()) == ["room/cam"]
    await two.go()
    assert one.sees() == {}


async def test_routes_through_the_excluded_hop_are_not_offered_and_not_used() -> None:
    stage = Stage()
    one, two, watcher = stage.session(), stage.session(), stage.session()
    through = await one.announce("room/cam", route=Route((5, 77)))
    await watcher.watch(exclude=77)
    assert watcher.sees() == {}
    assert await served_by(stage, "room/cam", through, exclude=77) == -1
    assert await served_by(stage, "room/cam", through) == 0
    other = await two.announce("room/cam", route=Route((6, 78)))
    assert watcher.sees()["room/cam"].route.hops == (6, 78)
    assert await served_by(stage, "room/cam", through, other, exclude=77) == 1
    await two.go()
    assert watcher.sees() == {}


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
    assert second.got(m.Retire) == [m.Retire()]
    assert not first.got(m.Retire)
    await one.withdraw("p")
    assert await served_by(stage, "p", first, second) == -1
    assert watcher.sees() == {}


async def test_the_end_of_a_fallback_is_not_told() -> None:
    stage = Stage()
    one, two, watcher = stage.session(), stage.session(), stage.session()
    await one.announce("p")
    await two.announce("p")
    await watcher.watch()
    await one.go()
    assert watcher.changes() == []


async def test_a_leaving_session_does_not_withdraw_its_successor() -> None:
    stage = Stage()
    one, two, watcher = stage.session(), stage.session(), stage.session()
    await watcher.watch()
    await one.announce("p")
    second = await two.announce("p")
    await one.withdraw("p")
    await one.go()
    assert await served_by(stage, "p", second) == 0
    assert list(watcher.sees()) == ["p"]


async def test_a_late_withdrawal_does_not_hit_the_next_generation() -> None:
    stage = Stage()
    one, watcher = stage.session(), stage.session()
    await watcher.watch()
    first = await one.announce("p", generation=1)
    second = await one.announce("p", generation=2)
    assert first.got(m.Retire) == [m.Retire()]
    await one.withdraw("p", generation=1)
    await stage.say(m.Reroute(one.number, "p", 1, Route((1, 2, 3))))
    assert await served_by(stage, "p", first, second) == 1
    assert watcher.sees()["p"].route == Route((one.number,))


async def test_of_one_publishers_routes_the_cheapest_serves() -> None:
    stage = Stage()
    one, two, three, watcher = (stage.session() for _ in range(4))
    await watcher.watch()
    dear = await one.announce("p", route=Route((50, 1), warm=9, cold=9))
    cheap = await two.announce("p", route=Route((50, 2), warm=2, cold=2))
    assert await served_by(stage, "p", dear, cheap) == 1
    later = await three.announce("p", route=Route((50, 3), warm=5, cold=5))
    assert await served_by(stage, "p", dear, cheap, later) == 1
    assert watcher.sees()["p"].route.hops == (50, 2)
    await stage.say(m.Reroute(two.number, "p", 1, Route((50, 2), warm=7, cold=7)))
    assert await served_by(stage, "p", dear, cheap, later) == 2
    assert watcher.sees()["p"].route.hops == (50, 3)
    await three.go()
    assert await served_by(stage, "p", dear, cheap, later) == 1


async def test_routes_of_unknown_publishers_are_not_taken_for_the_same() -> None:
    stage = Stage()
    one, two = stage.session(), stage.session()
    first = await one.announce("p", route=Route((0, 4), warm=0, cold=0))
    second = await two.announce("p", route=Route((0, 5), warm=9, cold=9))
    assert await served_by(stage, "p", first, second) == 1


async def test_a_better_route_is_a_change_not_an_end() -> None:
    stage = Stage()
    one, watcher = stage.session(), stage.session()
    await one.announce("p")
    await watcher.watch()
    await stage.say(m.Reroute(one.number, "p", 1, Route((one.number, 8))))
    await stage.say(m.Reroute(one.number, "p", 1, Route((one.number, 8))))
    assert watcher.changes() == [("p", True)]
    (change,) = watcher.got(m.WatchChanged)
    (started,) = watcher.got(m.WatchStarted)
    assert change.offer is not None
    assert change.offer.source == started.offers[0].source


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


async def test_a_tentative_announcement_is_promoted_when_the_incumbent_is_dead() -> None:
    stage = Stage()
    one, two, watcher = stage.session(), stage.session(), stage.session()
    real = await one.announce("p")
    await watcher.watch()
    returned = await two.announce("p", tentative=True)
    await stage.say(m.Alive(one.number, alive=False))
    assert await served_by(stage, "p", real, returned) == 1
    assert watcher.changes() == [("p", True)]
    await one.go()
    assert await served_by(stage, "p", real, returned) == 1
    assert watcher.changes() == [("p", True)]


async def test_a_tentative_announcement_serves_when_the_incumbent_leaves() -> None:
    stage = Stage()
    one, two = stage.session(), stage.session()
    real = await one.announce("p")
    echo = await two.announce("p", tentative=True)
    await one.go()
    assert await served_by(stage, "p", real, echo) == 1


async def test_a_real_announcement_goes_before_an_earlier_and_a_later_tentative_one() -> None:
    stage = Stage()
    one, two, three = (stage.session() for _ in range(3))
    early = await one.announce("p", tentative=True)
    real = await two.announce("p")
    late = await three.announce("p", tentative=True)
    assert await served_by(stage, "p", early, real, late) == 1


async def test_the_echo_of_a_dead_session_does_not_take_over_a_living_publisher() -> None:
    """A session found dead is itself the holder of an echo: that one must not win."""
    stage = Stage()
    living, dead, returned = (stage.session() for _ in range(3))
    real = await living.announce("p")
    echo = await dead.announce("p", tentative=True)
    await dead.announce("q")
    await returned.announce("q", tentative=True)
    await stage.say(m.Alive(dead.number, alive=False))
    assert await served_by(stage, "p", real, echo) == 0


async def test_a_dead_fallback_does_not_promote_echoes_over_the_living_incumbent() -> None:
    stage = Stage()
    dead, living, viewer = (stage.session() for _ in range(3))
    old = await dead.announce("p")
    real = await living.announce("p")
    echo = await viewer.announce("p", tentative=True)
    await stage.say(m.Alive(dead.number, alive=False))
    await stage.say(m.Alive(living.number, alive=True))
    assert await served_by(stage, "p", old, real, echo) == 1


# --- prefix routes ---------------------------------------------------------------------------------------------------


async def test_a_prefix_route_serves_every_path_below_and_the_longest_wins() -> None:
    stage = Stage()
    one, two, three = (stage.session() for _ in range(3))
    wide = await one.announce("dyn", prefix=True)
    narrow = await two.announce("dyn/a", prefix=True)
    exact = await three.announce("dyn/a/b")
    assert await served_by(stage, "dyn/x/y", wide, narrow, exact) == 0
    assert await served_by(stage, "dyn/a/c", wide, narrow, exact) == 1
    assert await served_by(stage, "dyn/a/b", wide, narrow, exact) == 2
    assert await served_by(stage, "dyn/a/b/c", wide, narrow, exact) == 1
    assert await served_by(stage, "dynamo", wide, narrow, exact) == -1
    await two.go()
    assert await served_by(stage, "dyn/a/c", wide, narrow, exact) == 0
    await one.go()
    assert await served_by(stage, "dyn/a/c", wide, narrow, exact) == -1


async def test_a_watch_narrower_than_a_route_is_offered_it() -> None:
    stage = Stage()
    one, above, below = (stage.session() for _ in range(3))
    await one.announce("dyn", prefix=True)
    await above.watch("dyn/a/b", routes_above=True)
    await below.watch("dyn/a/b")
    assert list(above.sees()) == ["dyn/a/b"]
    assert below.sees() == {}


async def test_a_watch_narrower_than_a_route_is_told_when_it_comes() -> None:
    stage = Stage()
    one, above = stage.session(), stage.session()
    await above.watch("dyn/a/b", routes_above=True)
    await one.announce("dyn", prefix=True)
    assert list(above.sees()) == ["dyn/a/b"]
    await stage.say(m.Reroute(one.number, "dyn", 1, Route((one.number, 4))))
    assert above.sees()["dyn/a/b"].route.hops == (one.number, 4)


async def test_a_watch_narrower_than_a_route_is_told_of_its_end() -> None:
    stage = Stage()
    one, above = stage.session(), stage.session()
    await above.watch("dyn/a/b", routes_above=True)
    await one.announce("dyn", prefix=True)
    await one.withdraw("dyn")  # the last prefix route there was
    assert above.sees() == {}


async def test_a_plain_announcement_above_a_watch_is_not_offered() -> None:
    stage = Stage()
    one, above = stage.session(), stage.session()
    await above.watch("dyn/a/b", routes_above=True)
    await one.announce("dyn")
    assert above.sees() == {}


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
    assert all(broadcast.got(m.Retire) == [m.Retire()] for broadcast in broadcasts)
    await two.go()
    assert await stage.count() == (0, 0, 0)
    actor = actor_of(stage.origin)
    assert not actor._by_session
    assert not actor._by_prefix
    assert not actor._prefix_routes


async def test_unwatch_and_session_gone_of_strangers_do_nothing() -> None:
    stage = Stage()
    await stage.say(m.Unwatch(42, 1))
    await stage.say(m.SessionGone(42))
    await stage.say(m.Unannounce(42, "p", 1))
    await stage.say(m.Reroute(42, "p", 1, Route()))
    await stage.say(m.Alive(42, alive=False))
    assert await stage.count() == (0, 0, 0)
