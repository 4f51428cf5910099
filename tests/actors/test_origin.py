"""The origin actor: what wins a path, who is told of it, and what is left afterwards."""

from __future__ import annotations

import itertools

import pytest

from relay.actors import messages as m
from relay.actors import origin
from relay.actors.origin import OriginActor
from relay.actors.runtime import Ref, ask, halt, send
from relay.model.path import covers
from relay.model.route import Route
from relay.model.track import SubscribeParams
from relay.moq.encoding import Encoding
from relay.wire.errors import StreamCode
from tests.actors.clock import TIMEOUT, advance, settle, timer_count, virtual
from tests.actors.fakes import Fake, FakeSubscriber, View, announcement
from tests.actors.watching import actor_of, stop_all


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
        await self.stage.say(
            m.Watch(self.number, self.ref, watch, prefixes or ("",), exclude, routes_above, relay, one_hop)
        )

    def sees(self, watch: int = 1) -> dict[str, m.Offered]:
        return View(watch).follow(self.log).known

    def changes(self) -> list[tuple[str, bool]]:
        return [(change.path, change.offer is not None) for change in self.got(m.WatchChanged)]


class Stage:
    """An origin and its sessions."""

    def __init__(self, *, linger: float = 0.0, members: str = "") -> None:
        self.origin: Ref = OriginActor.start(linger=linger, members=members)
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
    assert second.got(m.Retire) == [m.Retire(stage.origin)]
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
    assert first.got(m.Retire) == [m.Retire(stage.origin)]
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
    assert all(broadcast.got(m.Retire) == [m.Retire(stage.origin)] for broadcast in broadcasts)
    await two.go()
    assert await stage.count() == (0, 0, 0)
    actor = actor_of(stage.origin)
    assert not actor._by_session
    assert not actor._by_prefix
    assert not actor._watchers
    assert not actor._prefix_routes
    assert actor._ordered.below("") == actor._prefixes.below("") == []


async def test_what_concerns_one_room_is_no_matter_of_how_many_others_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who may open Announce streams and announce chooses how many prefixes and paths there are."""
    stage = Stage()
    compared: list[str] = []

    def compare(prefix: str, path: str) -> bool:
        compared.append(path)
        return covers(prefix, path)

    monkeypatch.setattr(origin, "covers", compare)
    one, two = stage.session(), stage.session()
    for number in range(50):
        await one.announce(f"room/{number}/cam", prefix=True)
    for number in range(50):
        await two.watch(f"room/{number}", watch=number)
        assert set(two.sees(number)) == {f"room/{number}/cam"}
    for number in range(50):
        await one.announce(f"room/{number}", prefix=True)
        assert set(two.sees(number)) == {f"room/{number}/cam", f"room/{number}"}
    assert len(compared) <= 150


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


@virtual
async def test_a_lost_publication_lingers_and_is_withdrawn_at_last() -> None:
    stage = Stage(linger=5)
    one, watcher = stage.session(), stage.session()
    broadcast = await one.announce("p")
    await watcher.watch()
    await one.go(lost=True)
    assert broadcast.got(m.Retire)
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
    assert not actor_of(stage.origin)._by_session
    stop_all()


@virtual
async def test_whoever_comes_in_time_takes_the_place_of_the_lost_one() -> None:
    stage = Stage(linger=5)
    one, two, watcher = (stage.session() for _ in range(3))
    await one.announce("p", route=Route((70,)))
    await watcher.watch()
    (started,) = watcher.got(m.WatchStarted)
    await one.go(lost=True)
    waiting = [await ask_for(stage, kind=kind) for kind in ("subscribe", "describe")]
    new = await two.announce("p", route=Route((80,)))
    (change,) = watcher.got(m.WatchChanged)
    assert change.offer == m.Offered("p", Route((80,)), started.offers[0].source)
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
    assert not actor_of(stage.origin)._by_session
    stop_all()


@virtual
async def test_a_return_by_the_same_route_is_not_told_at_all() -> None:
    stage = Stage(linger=5)
    one, two, watcher = (stage.session() for _ in range(3))
    await one.announce("p", route=Route((70,)))
    await watcher.watch()
    await one.go(lost=True)
    await two.announce("p", route=Route((70,)))
    await advance(10)
    assert watcher.changes() == []
    stop_all()


@virtual
async def test_the_second_loss_has_its_own_time() -> None:
    """The timer of the first one does not end it."""
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


@pytest.mark.parametrize("why", ["clean", "linger is 0", "member", "fallback"])
@virtual
async def test_what_does_not_linger(why: str) -> None:
    stage = Stage(linger=0 if why == "linger is 0" else 5, members="in/members")
    path = "in/members/a" if why == "member" else "p"
    one, two, watcher = (stage.session() for _ in range(3))
    await watcher.watch(relay=True)
    spare = await two.announce(path) if why == "fallback" else None
    await one.announce(path)
    await one.go(lost=why != "clean")
    assert watcher.changes()[-1] == (path, spare is not None)
    assert refusals(await ask_for(stage, path)) == ([] if spare else [StreamCode.UNROUTABLE])
    assert await stage.count() == (bool(spare), bool(spare), 1)
    stop_all()


@virtual
async def test_of_two_lost_publications_the_last_one_lingers() -> None:
    stage = Stage(linger=5)
    one, two, watcher = (stage.session() for _ in range(3))
    await watcher.watch()
    await one.announce("p")
    await two.announce("p")
    await two.go(lost=True)
    await one.go(lost=True)
    assert ("p", False) not in watcher.changes()
    assert refusals(await ask_for(stage)) == []
    await advance(6)
    assert watcher.changes()[-1] == ("p", False)
    assert await stage.count() == (0, 0, 1)
    stop_all()


@virtual
async def test_a_tentative_announcement_does_not_end_the_waiting() -> None:
    """It may be an echo of what lingers. Once nobody came back, it is all there is."""
    stage = Stage(linger=5)
    one, two, three, watcher = (stage.session() for _ in range(4))
    await watcher.watch()
    await one.announce("p")
    await one.go(lost=True)
    before = len(watcher.changes())
    echo = await two.announce("p", tentative=True)
    viewer = await ask_for(stage)
    assert not echo.got(m.Subscribe)
    assert refusals(viewer) == []
    assert len(watcher.changes()) == before
    new = await three.announce("p")
    assert len(new.got(m.Subscribe)) == 1
    assert not echo.got(m.Subscribe)
    await three.withdraw("p")
    assert await served_by(stage, "p", new, echo) == 1
    stop_all()


@virtual
async def test_a_tentative_announcement_serves_after_the_linger() -> None:
    stage = Stage(linger=5)
    one, two, watcher = (stage.session() for _ in range(3))
    await watcher.watch()
    await one.announce("p")
    await one.go(lost=True)
    echo = await two.announce("p", tentative=True)
    await advance(6)
    assert await served_by(stage, "p", echo) == 0
    assert list(watcher.sees()) == ["p"]
    assert await stage.count() == (1, 1, 1)
    stop_all()


@virtual
async def test_waiting_requests_are_not_refused_while_a_tentative_publication_could_serve_them() -> None:
    """The publisher has come back behind a version that cannot tell it from an echo."""
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


@virtual
async def test_newcomers_are_shown_what_lingers() -> None:
    stage = Stage(linger=5)
    one, watcher = stage.session(), stage.session()
    await one.announce("p")
    await one.go(lost=True)
    await watcher.watch()
    assert list(watcher.sees()) == ["p"]
    listed = await ask(stage.origin, m.ListAnnounced(("",)), timeout=TIMEOUT)
    assert [offer.path for offer in listed] == ["p"]
    await advance(6)
    assert watcher.sees() == {}
    assert await ask(stage.origin, m.ListAnnounced(("",)), timeout=TIMEOUT) == ()
    stop_all()


@virtual
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


@virtual
async def test_who_cannot_use_the_lost_route_does_not_wait_for_it() -> None:
    stage = Stage(linger=5)
    one = stage.session()
    await one.announce("p", route=Route((7, 77)))
    await one.go(lost=True)
    assert refusals(await ask_for(stage, exclude=77)) == [StreamCode.UNROUTABLE]
    assert refusals(await ask_for(stage, exclude=78)) == []
    stop_all()


@virtual
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


@virtual
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
    assert actor_of(stage.origin)._prefix_routes == 0
    stop_all()


@virtual
async def test_a_session_that_comes_back_for_some_of_its_paths() -> None:
    stage = Stage(linger=5)
    one, two, watcher = (stage.session() for _ in range(3))
    await watcher.watch()
    for path in ("a", "b", "c"):
        await one.announce(path)
    await one.go(lost=True)
    for path in ("a", "c"):
        await two.announce(path)
    await advance(6)
    assert sorted(watcher.sees()) == ["a", "c"]
    assert await stage.count() == (2, 2, 1)
    stop_all()


@virtual
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


async def test_a_relay_is_told_only_of_what_may_go_onward() -> None:
    stage = Stage()
    own, named_, nameless = (stage.session() for _ in range(3))
    relay, one_hop, viewer = (stage.session() for _ in range(3))
    await relay.watch(relay=True)
    await one_hop.watch(relay=True, one_hop=True)
    await viewer.watch()
    await own.announce("own")
    await named_.announce("named", relayed=True)
    await nameless.announce("nameless", relayed=True, onward=False)
    assert sorted(viewer.sees()) == ["named", "nameless", "own"]
    assert sorted(relay.sees()) == ["named", "own"]
    assert sorted(one_hop.sees()) == ["own"]
    late = stage.session()
    await late.watch(relay=True, one_hop=True)
    assert sorted(late.sees()) == ["own"]


async def test_a_publisher_of_our_own_comes_before_those_of_other_relays() -> None:
    """However late they come, and in whichever order: or relays would hand two publishers to each other for ever."""
    stage = Stage()
    older, newer, near, far = (stage.session() for _ in range(4))
    viewer = stage.session()
    await viewer.watch()
    await far.announce("p", relayed=True, route=Route((far.number, 7, 8)))
    assert viewer.sees()["p"].route.hops[0] == far.number
    await near.announce("p", relayed=True, route=Route((near.number, 7)))
    assert viewer.sees()["p"].route.hops[0] == near.number
    await older.announce("p")
    assert viewer.sees()["p"].route.hops[0] == older.number
    await newer.announce("p")
    assert viewer.sees()["p"].route.hops[0] == newer.number
    await near.announce("p", generation=2, relayed=True, route=Route((near.number, 7)))
    assert viewer.sees()["p"].route.hops[0] == newer.number
    await newer.go()
    await older.go()
    assert viewer.sees()["p"].route.hops[0] == near.number


async def test_a_relay_is_told_of_the_best_route_that_may_go_onward() -> None:
    stage = Stage()
    own, nameless = stage.session(), stage.session()
    relay, viewer = stage.session(), stage.session()
    await relay.watch(relay=True)
    await viewer.watch()
    await own.announce("p", relayed=True, route=Route((own.number, 77)))
    await nameless.announce("p", relayed=True, onward=False)
    assert viewer.sees()["p"].route.hops == (nameless.number,)
    assert relay.sees()["p"].route.hops == (own.number, 77)
    await own.go()
    assert relay.sees() == {}
    assert list(viewer.sees()) == ["p"]


@virtual
async def test_a_successor_that_may_not_go_onward_is_an_end_for_relays() -> None:
    stage = Stage(linger=5)
    own, nameless, relay, viewer = (stage.session() for _ in range(4))
    await relay.watch(relay=True)
    await viewer.watch()
    await own.announce("p")
    await own.go(lost=True)
    await nameless.announce("p", relayed=True, onward=False)
    assert relay.sees() == {}
    assert list(viewer.sees()) == ["p"]
    stop_all()


async def test_members_are_shown_to_relays_only() -> None:
    stage = Stage(members="in/members")
    one, relay, viewer = (stage.session() for _ in range(3))
    await relay.watch(relay=True)
    await viewer.watch("", watch=1)
    await viewer.watch("in/members", watch=2)
    await viewer.watch("in/members/a", watch=3, routes_above=True)
    for path in ("in/members/a", "in/members", "in/membership", "in"):
        await one.announce(path)
    assert sorted(relay.sees()) == ["in", "in/members", "in/members/a", "in/membership"]
    assert sorted(viewer.sees(1)) == ["in", "in/membership"]
    assert viewer.sees(2) == viewer.sees(3) == {}
    listed = await ask(stage.origin, m.ListAnnounced(("", "in/members")), timeout=TIMEOUT)
    assert sorted(offer.path for offer in listed) == ["in", "in/membership"]
    late = stage.session()
    await late.watch()
    assert sorted(late.sees()) == ["in", "in/membership"]


async def test_without_a_members_path_nothing_is_hidden() -> None:
    stage = Stage()
    one, viewer = stage.session(), stage.session()
    await viewer.watch()
    await one.announce("internal/origins/a")
    assert list(viewer.sees()) == ["internal/origins/a"]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
async def test_between_routes_of_the_same_cost_the_smaller_hops_win(order: tuple[int, ...]) -> None:
    """Whichever came first: all relays decide alike."""
    stage = Stage()
    watcher = stage.session()
    await watcher.watch()
    hops = [(50, 3), (50, 12), (50, 4)]
    broadcasts = [await stage.session().announce("p", route=Route(hops[n], warm=1, cold=1)) for n in order]
    assert watcher.sees()["p"].route.hops == (50, 3)
    assert await served_by(stage, "p", *broadcasts) == order.index(0)
    cheap = await stage.session().announce("p", route=Route((50, 99), warm=0, cold=1))
    assert await served_by(stage, "p", *broadcasts, cheap) == 3
    short = await stage.session().announce("p", route=Route((50,), warm=0, cold=1))
    assert await served_by(stage, "p", *broadcasts, cheap, short) == 4


async def lives(stage: Stage, *broadcasts: FakeSubscriber, path: str = "p") -> list[int]:
    """The lives that the origin gives requests to each of the broadcasts."""
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


@pytest.mark.parametrize(
    ("before", "after"),
    [((50,), (60,)), ((0,), (0,)), ((50,), (50,)), ((50, 3), (50, 3))],
    ids=["another id", "no id", "the same id twice", "the same route twice"],
)
@pytest.mark.parametrize("how", ["beside", "after a withdrawal", "after a loss"])
@virtual
async def test_an_id_alone_does_not_prove_that_a_publisher_goes_on(
    before: tuple[int, ...], after: tuple[int, ...], how: str
) -> None:
    stage = Stage(linger=5)
    one, two = stage.session(), stage.session()
    first = await one.announce("p", route=Route(before))
    known = await lives(stage, first)
    if how == "after a withdrawal":
        await one.withdraw("p")
    elif how == "after a loss":
        await one.go(lost=True)
    second = await two.announce("p", route=Route(after))
    if how == "beside":
        await one.go()
    assert await lives(stage, second) != known
    stop_all()


async def test_another_route_is_another_life_once_the_publisher_was_gone() -> None:
    stage = Stage()
    one, two = stage.session(), stage.session()
    first = await one.announce("p", route=Route((50,)))
    known = await lives(stage, first)
    await one.withdraw("p")
    second = await two.announce("p", route=Route((50, 3)))
    assert await lives(stage, second) != known


@pytest.mark.parametrize(
    ("after", "same"),
    [((50, 3, 4), True), ((50, 5, 4), False), ((60, 3, 4), False)],
    ids=["by a third relay", "connected to another relay now", "another publisher"],
)
@virtual
async def test_a_publisher_goes_on_while_a_relay_is_lost_on_the_way_to_it(
    after: tuple[int, ...], same: bool
) -> None:
    stage = Stage(linger=5)
    one, two = stage.session(), stage.session()
    first = await one.announce("p", route=Route((50, 3)), relayed=True)
    known = await lives(stage, first)
    await one.go(lost=True)
    second = await two.announce("p", route=Route(after), relayed=True)
    assert (await lives(stage, second) == known) == same
    stop_all()


# --- older sessions that may be dead ---------------------------------------------------------------------------------


@pytest.mark.parametrize("hops", [(50, 3), (50,), (60,)], ids=["another route", "the same id", "another id"])
async def test_who_published_a_path_before_is_asked_for_a_sign_of_life(hops: tuple[int, ...]) -> None:
    stage = Stage()
    one, two = stage.session(), stage.session()
    old = await one.announce("p", route=Route((50,)))
    new = await two.announce("p", route=Route(hops))
    assert one.got(m.CheckAlive) == [m.CheckAlive()]
    assert not two.got(m.CheckAlive)
    await stage.say(m.Alive(one.number, alive=False))
    assert await served_by(stage, "p", old, new) == 1
    assert old.got(m.PublisherLost) == [m.PublisherLost()]
    assert not new.got(m.PublisherLost)


async def test_viewers_of_a_session_that_is_alive_stay_where_they_are() -> None:
    stage = Stage()
    one, two = stage.session(), stage.session()
    old = await one.announce("p")
    await two.announce("p")
    await stage.say(m.Alive(one.number, alive=True))
    assert not old.got(m.PublisherLost)


async def test_routes_of_other_relays_are_no_reason_to_ask_each_other() -> None:
    """A path that many relays announce would cost the square of their number."""
    stage = Stage()
    one, two, own = (stage.session() for _ in range(3))
    await one.announce("p", relayed=True)
    await two.announce("p", relayed=True)
    assert not one.got(m.CheckAlive)
    await own.announce("p")
    assert [len(some.got(m.CheckAlive)) for some in (one, two, own)] == [1, 1, 0]


async def test_echoes_are_no_reason_to_ask_each_other() -> None:
    stage = Stage()
    real, one, two = (stage.session() for _ in range(3))
    await real.announce("p")
    await one.announce("p", tentative=True)
    await two.announce("p", tentative=True)
    assert [len(some.got(m.CheckAlive)) for some in (real, one, two)] == [2, 0, 0]


async def test_who_watches_what_a_dead_session_had_withdrawn_asks_again_too() -> None:
    stage = Stage()
    one, two = stage.session(), stage.session()
    old = await one.announce("p")
    await one.withdraw("p")
    new = await two.announce("p")
    assert one.got(m.CheckAlive) == [m.CheckAlive()]
    await stage.say(m.Alive(one.number, alive=False))
    assert len(old.got(m.PublisherLost)) == 1
    assert not new.got(m.PublisherLost)


async def test_without_another_publisher_viewers_of_a_dead_session_wait_until_there_is_one() -> None:
    stage = Stage()
    one, two, three = (stage.session() for _ in range(3))
    old = await one.announce("p")
    await two.announce("p")
    await two.withdraw("p")
    await stage.say(m.Alive(one.number, alive=False))
    assert not old.got(m.PublisherLost)
    assert await served_by(stage, "p", old) == 0
    new = await three.announce("p")
    assert len(old.got(m.PublisherLost)) == 1
    assert await served_by(stage, "p", old, new) == 1


async def test_a_dead_publisher_is_not_offered_to_the_relay_that_has_the_living_one() -> None:
    """Its viewers there go on waiting as long as we offer it."""
    stage = Stage()
    own, relay = stage.session(), stage.session()
    await own.announce("p")
    await relay.watch(relay=True, exclude=77)
    assert list(relay.sees()) == ["p"]
    await relay.announce("p", relayed=True, route=Route((60, 77)))
    await stage.say(m.Alive(own.number, alive=False))
    assert relay.sees() == {}
    assert await stage.serves("p", exclude=77) == [StreamCode.UNROUTABLE]
    await stage.say(m.Alive(own.number, alive=True))
    assert list(relay.sees()) == ["p"]


@virtual
async def test_waiting_requests_are_not_refused_while_a_route_above_could_serve_them() -> None:
    """As a request would be that comes a moment later."""
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
    """Somebody who has asked for the longest announced one of the paths."""
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
async def test_who_waits_for_a_path_hears_once_when_it_is_announced(path: str, prefix: bool) -> None:
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
    await stage.say(m.Leave(seeker.ref, 7))
    await source.announce("demo/cam")
    assert answers(seeker) == []
    assert not vars(actor_of(stage.origin))["_finding"]
    stop_all()
