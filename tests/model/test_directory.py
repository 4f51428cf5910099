"""The directory without actors: the serving publication, watchers, and leftovers."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.model import publications as publications_module
from relay.model.directory import Directory, Later, LingerOver, Notice, Notify, Resume, Settled
from relay.model.path import covers
from relay.model.route import Publication, Route
from relay.model.watchers import AnnounceInterest, Announcement, WatchChanged
from relay.model.withdrawals import SETTLE
from tests.model.support import counts, everything
from tests.sampling import repeats


class Stage:
    """A directory with its own clock, and its sessions."""

    def __init__(self, *, linger: float = 0.0, members: str = "") -> None:
        self.directory = Directory(linger=linger, members=members)
        self.sessions: dict[int, Session] = {}
        self.now = 0.0
        self.timers: list[tuple[float, LingerOver | Settled]] = []
        self.notices: Counter[tuple[int, Notice]] = Counter()
        self.resumed: list[Publication] = []
        self.ids = itertools.count(1)

    def session(self) -> Session:
        session = Session(self, len(self.sessions) + 1)
        self.sessions[session.number] = session
        return session

    def carry_out(self) -> None:
        for effect in self.directory.poll():
            match effect:
                case Notify():
                    self.notices[effect.publication.id, effect.notice] += 1
                case Later():
                    self.timers.append((self.now + effect.seconds, effect.timer))
                case Resume():
                    self.resumed.append(effect.publication)
                case WatchChanged():
                    self.sessions[effect.session].hear(effect)

    def advance(self, seconds: float) -> None:
        self.now += seconds
        due = sorted((at, number) for number, (at, _) in enumerate(self.timers) if at <= self.now)
        timers = [self.timers[number][1] for _, number in due]
        self.timers = [(at, timer) for at, timer in self.timers if at > self.now]
        for timer in timers:
            self.directory.on_timer(timer)
            self.carry_out()

    def lost(self, publication: Publication) -> int:
        """How often its viewers had to ask again."""
        return self.notices[publication.id, Notice.PUBLISHER_LOST]

    def withdrawn(self, publication: Publication) -> bool:
        return self.notices[publication.id, Notice.WITHDRAWN] > 0

    def count(self) -> tuple[int, int, int]:
        return counts(self.directory)


class Session:
    """Publisher, watcher and subscriber."""

    def __init__(self, stage: Stage, number: int) -> None:
        self.stage = stage
        self.number = number
        self.published: list[Publication] = []
        self.started: dict[int, tuple[Announcement, ...]] = {}
        self.got: list[WatchChanged] = []
        self.known: dict[int, dict[str, Announcement]] = {}

    def announce(
        self,
        path: str,
        *,
        generation: int = 1,
        route: Route | None = None,
        prefix: bool = False,
        tentative: bool = False,
        relayed: bool = False,
        onward: bool = True,
    ) -> Publication:
        publication = Publication(
            next(self.stage.ids), self.number, path, generation, route or Route((self.number,)),
            prefix, tentative, relayed, onward,
        )  # fmt: skip
        self.published.append(publication)
        self.stage.directory.announce(publication)
        self.stage.carry_out()
        return publication

    def reroute(self, path: str, route: Route, generation: int = 1) -> None:
        self.stage.directory.reroute(self.number, path, generation, route)
        self.stage.carry_out()

    def withdraw(self, path: str, generation: int = 1) -> None:
        self.stage.directory.unannounce(self.number, path, generation, said=True)
        self.stage.carry_out()

    def go(self, *, lost: bool = False) -> None:
        self.stage.directory.session_gone(self.number, lost=lost)
        self.stage.carry_out()

    def leave(self) -> None:
        self.stage.directory.session_leaving(self.number)
        self.stage.carry_out()

    def answers(self, *, alive: bool) -> None:
        self.stage.directory.session_alive(self.number, alive=alive)
        self.stage.carry_out()

    @property
    def pings(self) -> int:
        return sum(self.stage.notices[publication.id, Notice.CHECK_ALIVE] for publication in self.published)

    def watch(
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
        self.started[watch] = self.stage.directory.watchers.add(interest)
        self.known[watch] = {offer.path: offer for offer in self.started[watch]}
        assert len(self.known[watch]) == len(self.started[watch])

    def hear(self, change: WatchChanged) -> None:
        self.got.append(change)
        known = self.known[change.watch]
        if change.offer is None:
            assert change.path in known, f"the end of {change.path!r}, which was not offered"
            del known[change.path]
        else:
            assert known.get(change.path) != change.offer, "told what it knew"
            known[change.path] = change.offer

    def sees(self, watch: int = 1) -> dict[str, Announcement]:
        return self.known[watch]

    def changes(self) -> list[tuple[str, bool]]:
        return [(change.path, change.offer is not None) for change in self.got]


VIEWER = 1_000_000
"""A session that publishes nothing."""


def served_by(stage: Stage, path: str, *candidates: Publication, exclude: int = 0) -> int:
    """Index of the candidate that gets a request; -1: unroutable."""
    serving = stage.directory.serving(path, VIEWER, exclude)
    return -1 if serving is None else candidates.index(serving)


# --- watching --------------------------------------------------------------------------------------------------------


def test_an_empty_initial_set_is_announced_too() -> None:
    stage = Stage()
    watcher = stage.session()
    watcher.watch("nothing/here")
    assert watcher.started == {1: ()}


def test_prefixes_match_whole_segments() -> None:
    stage = Stage()
    publisher, watcher = stage.session(), stage.session()
    watcher.watch("foo")
    for path in ("foo", "foobar", "foo/bar", "fo", "x/foo"):
        publisher.announce(path)
    assert sorted(watcher.sees()) == ["foo", "foo/bar"]


def test_a_path_under_two_prefixes_of_one_watch_is_announced_once() -> None:
    stage = Stage()
    publisher, watcher = stage.session(), stage.session()
    watcher.watch("a", "a/b")
    publisher.announce("a/b/c")
    assert watcher.changes() == [("a/b/c", True)]


def test_a_session_is_not_offered_its_own_publications() -> None:
    stage = Stage()
    one, two = stage.session(), stage.session()
    one.announce("room/cam")
    one.watch()
    assert one.sees() == {}
    two.announce("room/cam")
    assert list(one.sees()) == ["room/cam"]
    two.go()
    assert one.sees() == {}


def test_routes_through_the_excluded_hop_are_not_offered_and_not_used() -> None:
    stage = Stage()
    one, two, watcher = stage.session(), stage.session(), stage.session()
    through = one.announce("room/cam", route=Route((5, 77)))
    watcher.watch(exclude=77)
    assert watcher.sees() == {}
    assert served_by(stage, "room/cam", through, exclude=77) == -1
    assert served_by(stage, "room/cam", through) == 0
    other = two.announce("room/cam", route=Route((6, 78)))
    assert watcher.sees()["room/cam"].route.hops == (6, 78)
    assert served_by(stage, "room/cam", through, other, exclude=77) == 1
    two.go()
    assert watcher.sees() == {}


# --- who serves ------------------------------------------------------------------------------------------------------


def test_the_newest_publication_serves_and_the_older_one_returns() -> None:
    stage = Stage()
    one, two, watcher = stage.session(), stage.session(), stage.session()
    watcher.watch()
    first = one.announce("p")
    second = two.announce("p")
    assert served_by(stage, "p", first, second) == 1
    sources = [change.offer.source for change in watcher.got if change.offer]
    assert len(set(sources)) == 2
    two.withdraw("p")
    assert served_by(stage, "p", first, second) == 0
    assert stage.withdrawn(second)
    assert not stage.withdrawn(first)
    one.withdraw("p")
    assert served_by(stage, "p", first, second) == -1
    assert watcher.sees() == {}


def test_the_end_of_a_fallback_is_not_announced() -> None:
    stage = Stage()
    one, two, watcher = stage.session(), stage.session(), stage.session()
    one.announce("p")
    two.announce("p")
    watcher.watch()
    one.go()
    assert watcher.changes() == []


def test_a_leaving_session_does_not_withdraw_its_successor() -> None:
    stage = Stage()
    one, two, watcher = stage.session(), stage.session(), stage.session()
    watcher.watch()
    one.announce("p")
    second = two.announce("p")
    one.withdraw("p")
    one.go()
    assert served_by(stage, "p", second) == 0
    assert list(watcher.sees()) == ["p"]


def test_a_late_withdrawal_does_not_hit_the_next_generation() -> None:
    stage = Stage()
    one, watcher = stage.session(), stage.session()
    watcher.watch()
    first = one.announce("p", generation=1)
    second = one.announce("p", generation=2)
    assert stage.withdrawn(first)
    one.withdraw("p", generation=1)
    one.reroute("p", Route((1, 2, 3)))
    assert served_by(stage, "p", first, second) == 1
    assert watcher.sees()["p"].route == Route((one.number,))


def test_of_one_publishers_routes_the_cheapest_serves() -> None:
    stage = Stage()
    one, two, three, watcher = (stage.session() for _ in range(4))
    watcher.watch()
    dear = one.announce("p", route=Route((50, 1), warm=9, cold=9))
    cheap = two.announce("p", route=Route((50, 2), warm=2, cold=2))
    assert served_by(stage, "p", dear, cheap) == 1
    later = three.announce("p", route=Route((50, 3), warm=5, cold=5))
    assert served_by(stage, "p", dear, cheap, later) == 1
    assert watcher.sees()["p"].route.hops == (50, 2)
    two.reroute("p", Route((50, 2), warm=7, cold=7))
    assert served_by(stage, "p", dear, cheap, later) == 2
    assert watcher.sees()["p"].route.hops == (50, 3)
    three.go()
    assert served_by(stage, "p", dear, cheap, later) == 1


def test_routes_of_unknown_publishers_are_not_taken_for_the_same() -> None:
    stage = Stage()
    one, two = stage.session(), stage.session()
    first = one.announce("p", route=Route((0, 4), warm=0, cold=0))
    second = two.announce("p", route=Route((0, 5), warm=9, cold=9))
    assert served_by(stage, "p", first, second) == 1


def test_a_better_route_is_a_change_not_an_end() -> None:
    stage = Stage()
    one, watcher = stage.session(), stage.session()
    one.announce("p")
    watcher.watch()
    one.reroute("p", Route((one.number, 8)))
    one.reroute("p", Route((one.number, 8)))
    assert watcher.changes() == [("p", True)]
    (change,) = watcher.got
    started = watcher.started[1]
    assert change.offer is not None
    assert change.offer.source == started[0].source


# --- tentative announcements -----------------------------------------------------------------------------------------


def test_a_tentative_announcement_is_promoted_when_the_incumbent_is_dead() -> None:
    stage = Stage()
    one, two, watcher = stage.session(), stage.session(), stage.session()
    real = one.announce("p")
    watcher.watch()
    returned = two.announce("p", tentative=True)
    one.answers(alive=False)
    assert served_by(stage, "p", real, returned) == 1
    assert watcher.changes() == [("p", True)]
    one.go()
    assert served_by(stage, "p", real, returned) == 1
    assert watcher.changes() == [("p", True)]


def test_a_tentative_announcement_serves_when_the_incumbent_leaves() -> None:
    stage = Stage()
    one, two = stage.session(), stage.session()
    real = one.announce("p")
    echo = two.announce("p", tentative=True)
    one.go()
    assert served_by(stage, "p", real, echo) == 1


def test_a_real_announcement_goes_before_an_earlier_and_a_later_tentative_one() -> None:
    stage = Stage()
    one, two, three = (stage.session() for _ in range(3))
    early = one.announce("p", tentative=True)
    real = two.announce("p")
    late = three.announce("p", tentative=True)
    assert served_by(stage, "p", early, real, late) == 1


def test_the_echo_of_a_dead_session_does_not_take_over_a_living_publisher() -> None:
    """A session found dead is itself the source of an echo, which must not win."""
    stage = Stage()
    living, dead, returned = (stage.session() for _ in range(3))
    real = living.announce("p")
    echo = dead.announce("p", tentative=True)
    dead.announce("q")
    returned.announce("q", tentative=True)
    dead.answers(alive=False)
    assert served_by(stage, "p", real, echo) == 0


def test_a_dead_fallback_does_not_promote_echoes_over_the_living_incumbent() -> None:
    stage = Stage()
    dead, living, viewer = (stage.session() for _ in range(3))
    old = dead.announce("p")
    real = living.announce("p")
    echo = viewer.announce("p", tentative=True)
    dead.answers(alive=False)
    living.answers(alive=True)
    assert served_by(stage, "p", old, real, echo) == 1


# --- prefix routes ---------------------------------------------------------------------------------------------------


def test_a_prefix_route_serves_every_path_below_and_the_longest_wins() -> None:
    stage = Stage()
    one, two, three = (stage.session() for _ in range(3))
    wide = one.announce("dyn", prefix=True)
    narrow = two.announce("dyn/a", prefix=True)
    exact = three.announce("dyn/a/b")
    assert served_by(stage, "dyn/x/y", wide, narrow, exact) == 0
    assert served_by(stage, "dyn/a/c", wide, narrow, exact) == 1
    assert served_by(stage, "dyn/a/b", wide, narrow, exact) == 2
    assert served_by(stage, "dyn/a/b/c", wide, narrow, exact) == 1
    assert served_by(stage, "dynamo", wide, narrow, exact) == -1
    two.go()
    assert served_by(stage, "dyn/a/c", wide, narrow, exact) == 0
    one.go()
    assert served_by(stage, "dyn/a/c", wide, narrow, exact) == -1


def test_a_watch_narrower_than_a_route_is_offered_it() -> None:
    stage = Stage()
    one, above, below = (stage.session() for _ in range(3))
    one.announce("dyn", prefix=True)
    above.watch("dyn/a/b", routes_above=True)
    below.watch("dyn/a/b")
    assert list(above.sees()) == ["dyn/a/b"]
    assert below.sees() == {}


def test_a_watch_narrower_than_a_route_is_notified_when_it_comes() -> None:
    stage = Stage()
    one, above = stage.session(), stage.session()
    above.watch("dyn/a/b", routes_above=True)
    one.announce("dyn", prefix=True)
    assert list(above.sees()) == ["dyn/a/b"]
    one.reroute("dyn", Route((one.number, 4)))
    assert above.sees()["dyn/a/b"].route.hops == (one.number, 4)


def test_a_watch_narrower_than_a_route_is_notified_of_its_end() -> None:
    stage = Stage()
    one, above = stage.session(), stage.session()
    above.watch("dyn/a/b", routes_above=True)
    one.announce("dyn", prefix=True)
    one.withdraw("dyn")  # the last prefix route
    assert above.sees() == {}


def test_a_plain_announcement_above_a_watch_is_not_offered() -> None:
    stage = Stage()
    one, above = stage.session(), stage.session()
    above.watch("dyn/a/b", routes_above=True)
    one.announce("dyn")
    assert above.sees() == {}


# --- cleanliness -----------------------------------------------------------------------------------------------------


def test_what_concerns_one_room_is_no_matter_of_how_many_others_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Anybody who may announce and open Announce streams chooses the number of prefixes and paths."""
    stage = Stage()
    compared: list[str] = []

    def compare(prefix: str, path: str) -> bool:
        compared.append(path)
        return covers(prefix, path)

    monkeypatch.setattr(publications_module, "covers", compare)
    one, two = stage.session(), stage.session()
    for number in range(50):
        one.announce(f"room/{number}/cam", prefix=True)
    for number in range(50):
        two.watch(f"room/{number}", watch=number)
        assert set(two.sees(number)) == {f"room/{number}/cam"}
    for number in range(50):
        one.announce(f"room/{number}", prefix=True)
        assert set(two.sees(number)) == {f"room/{number}/cam", f"room/{number}"}
    assert len(compared) <= 150


# --- lingering -------------------------------------------------------------------------------------------------------


def test_a_return_by_the_same_route_is_not_announced() -> None:
    stage = Stage(linger=5)
    one, two, watcher = (stage.session() for _ in range(3))
    one.announce("p", route=Route((70,)))
    watcher.watch()
    one.go(lost=True)
    two.announce("p", route=Route((70,)))
    stage.advance(10)
    assert watcher.changes() == []


@pytest.mark.parametrize("why", ["clean", "linger is 0", "member", "fallback"])
def test_what_does_not_linger(why: str) -> None:
    stage = Stage(linger=0 if why == "linger is 0" else 5, members="in/members")
    path = "in/members/a" if why == "member" else "p"
    one, two, watcher = (stage.session() for _ in range(3))
    watcher.watch(relay=True)
    spare = two.announce(path) if why == "fallback" else None
    one.announce(path)
    one.go(lost=why != "clean")
    assert watcher.changes()[-1] == (path, spare is not None)
    assert stage.directory.serving(path, VIEWER, 0) is spare
    assert stage.count() == (bool(spare), bool(spare), 1)


def test_of_two_lost_publications_the_last_one_lingers() -> None:
    stage = Stage(linger=5)
    one, two, watcher = (stage.session() for _ in range(3))
    watcher.watch()
    first = one.announce("p")
    two.announce("p")
    two.go(lost=True)
    one.go(lost=True)
    assert ("p", False) not in watcher.changes()
    assert served_by(stage, "p", first) == 0
    stage.advance(6)
    assert watcher.changes()[-1] == ("p", False)
    assert stage.count() == (0, 0, 1)


def test_a_tentative_announcement_does_not_end_the_waiting() -> None:
    """It may be an echo of the lingering one. Afterwards it is the only one."""
    stage = Stage(linger=5)
    one, two, three, watcher = (stage.session() for _ in range(4))
    watcher.watch()
    lost = one.announce("p")
    one.go(lost=True)
    before = len(watcher.changes())
    echo = two.announce("p", tentative=True)
    assert served_by(stage, "p", lost, echo) == 0
    assert len(watcher.changes()) == before
    new = three.announce("p")
    assert served_by(stage, "p", new, echo) == 0
    assert stage.resumed == [lost]
    three.withdraw("p")
    assert served_by(stage, "p", new, echo) == 1


def test_a_tentative_announcement_serves_after_the_linger() -> None:
    stage = Stage(linger=5)
    one, two, watcher = (stage.session() for _ in range(3))
    watcher.watch()
    one.announce("p")
    one.go(lost=True)
    echo = two.announce("p", tentative=True)
    stage.advance(6)
    assert served_by(stage, "p", echo) == 0
    assert list(watcher.sees()) == ["p"]
    assert stage.count() == (1, 1, 1)


def test_newcomers_are_shown_what_lingers() -> None:
    stage = Stage(linger=5)
    one, watcher = stage.session(), stage.session()
    one.announce("p")
    one.go(lost=True)
    watcher.watch()
    assert list(watcher.sees()) == ["p"]
    listed = stage.directory.announcements(("",))
    assert [offer.path for offer in listed] == ["p"]
    stage.advance(6)
    assert watcher.sees() == {}
    assert stage.directory.announcements(("",)) == ()


def test_a_session_that_comes_back_for_some_of_its_paths() -> None:
    stage = Stage(linger=5)
    one, two, watcher = (stage.session() for _ in range(3))
    watcher.watch()
    for path in ("a", "b", "c"):
        one.announce(path)
    one.go(lost=True)
    for path in ("a", "c"):
        two.announce(path)
    stage.advance(6)
    assert sorted(watcher.sees()) == ["a", "c"]
    assert stage.count() == (2, 2, 1)


# --- other relays ----------------------------------------------------------------------------------------------------


def test_a_relay_is_offered_only_what_may_go_onward() -> None:
    stage = Stage()
    own, named_, nameless = (stage.session() for _ in range(3))
    relay, one_hop, viewer = (stage.session() for _ in range(3))
    relay.watch(relay=True)
    one_hop.watch(relay=True, one_hop=True)
    viewer.watch()
    own.announce("own")
    named_.announce("named", relayed=True)
    nameless.announce("nameless", relayed=True, onward=False)
    assert sorted(viewer.sees()) == ["named", "nameless", "own"]
    assert sorted(relay.sees()) == ["named", "own"]
    assert sorted(one_hop.sees()) == ["own"]
    late = stage.session()
    late.watch(relay=True, one_hop=True)
    assert sorted(late.sees()) == ["own"]


def test_a_publisher_of_our_own_comes_before_those_of_other_relays() -> None:
    """In any order: else relays would hand two publishers to each other for ever."""
    stage = Stage()
    older, newer, near, far = (stage.session() for _ in range(4))
    viewer = stage.session()
    viewer.watch()
    far.announce("p", relayed=True, route=Route((far.number, 7, 8)))
    assert viewer.sees()["p"].route.hops[0] == far.number
    near.announce("p", relayed=True, route=Route((near.number, 7)))
    assert viewer.sees()["p"].route.hops[0] == near.number
    older.announce("p")
    assert viewer.sees()["p"].route.hops[0] == older.number
    newer.announce("p")
    assert viewer.sees()["p"].route.hops[0] == newer.number
    near.announce("p", generation=2, relayed=True, route=Route((near.number, 7)))
    assert viewer.sees()["p"].route.hops[0] == newer.number
    newer.go()
    older.go()
    assert viewer.sees()["p"].route.hops[0] == near.number


def test_a_relay_is_offered_the_best_route_that_may_go_onward() -> None:
    stage = Stage()
    own, nameless = stage.session(), stage.session()
    relay, viewer = stage.session(), stage.session()
    relay.watch(relay=True)
    viewer.watch()
    own.announce("p", relayed=True, route=Route((own.number, 77)))
    nameless.announce("p", relayed=True, onward=False)
    assert viewer.sees()["p"].route.hops == (nameless.number,)
    assert relay.sees()["p"].route.hops == (own.number, 77)
    own.go()
    assert relay.sees() == {}
    assert list(viewer.sees()) == ["p"]


def test_a_successor_that_may_not_go_onward_is_an_end_for_relays() -> None:
    stage = Stage(linger=5)
    own, nameless, relay, viewer = (stage.session() for _ in range(4))
    relay.watch(relay=True)
    viewer.watch()
    own.announce("p")
    own.go(lost=True)
    nameless.announce("p", relayed=True, onward=False)
    assert relay.sees() == {}
    assert list(viewer.sees()) == ["p"]


def test_members_are_shown_to_relays_only() -> None:
    stage = Stage(members="in/members")
    one, relay, viewer = (stage.session() for _ in range(3))
    relay.watch(relay=True)
    viewer.watch("", watch=1)
    viewer.watch("in/members", watch=2)
    viewer.watch("in/members/a", watch=3, routes_above=True)
    for path in ("in/members/a", "in/members", "in/membership", "in"):
        one.announce(path)
    assert sorted(relay.sees()) == ["in", "in/members", "in/members/a", "in/membership"]
    assert sorted(viewer.sees(1)) == ["in", "in/membership"]
    assert viewer.sees(2) == viewer.sees(3) == {}
    listed = stage.directory.announcements(("", "in/members"))
    assert sorted(offer.path for offer in listed) == ["in", "in/membership"]
    late = stage.session()
    late.watch()
    assert sorted(late.sees()) == ["in", "in/membership"]


def test_without_a_members_path_nothing_is_hidden() -> None:
    stage = Stage()
    one, viewer = stage.session(), stage.session()
    viewer.watch()
    one.announce("internal/origins/a")
    assert list(viewer.sees()) == ["internal/origins/a"]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_between_routes_of_the_same_cost_the_smaller_hops_win(order: tuple[int, ...]) -> None:
    """In any order: all relays decide alike."""
    stage = Stage()
    watcher = stage.session()
    watcher.watch()
    hops = [(50, 3), (50, 12), (50, 4)]
    broadcasts = [stage.session().announce("p", route=Route(hops[n], warm=1, cold=1)) for n in order]
    assert watcher.sees()["p"].route.hops == (50, 3)
    assert served_by(stage, "p", *broadcasts) == order.index(0)
    cheap = stage.session().announce("p", route=Route((50, 99), warm=0, cold=1))
    assert served_by(stage, "p", *broadcasts, cheap) == 3
    short = stage.session().announce("p", route=Route((50,), warm=0, cold=1))
    assert served_by(stage, "p", *broadcasts, cheap, short) == 4


@pytest.mark.parametrize(
    ("before", "after"),
    [((50,), (60,)), ((0,), (0,)), ((50,), (50,)), ((50, 3), (50, 3))],
    ids=["another id", "no id", "the same id twice", "the same route twice"],
)
@pytest.mark.parametrize("how", ["beside", "after a withdrawal", "after a loss"])
def test_an_id_alone_does_not_prove_that_a_publisher_goes_on(
    before: tuple[int, ...], after: tuple[int, ...], how: str
) -> None:
    stage = Stage(linger=5)
    one, two = stage.session(), stage.session()
    first = one.announce("p", route=Route(before))
    known = first.life
    if how == "after a withdrawal":
        one.withdraw("p")
    elif how == "after a loss":
        one.go(lost=True)
    second = two.announce("p", route=Route(after))
    if how == "beside":
        one.go()
    assert second.life != known


def test_another_route_is_another_life_once_the_publisher_was_gone() -> None:
    stage = Stage()
    one, two = stage.session(), stage.session()
    first = one.announce("p", route=Route((50,)))
    known = first.life
    one.withdraw("p")
    second = two.announce("p", route=Route((50, 3)))
    assert second.life != known


@pytest.mark.parametrize(
    ("after", "same"),
    [((50, 3, 4), True), ((50, 5, 4), False), ((60, 3, 4), False)],
    ids=["by a third relay", "connected to another relay now", "another publisher"],
)
def test_a_publisher_goes_on_while_a_relay_is_lost_on_the_way_to_it(
    after: tuple[int, ...], same: bool
) -> None:
    stage = Stage(linger=5)
    one, two = stage.session(), stage.session()
    first = one.announce("p", route=Route((50, 3)), relayed=True)
    known = first.life
    one.go(lost=True)
    second = two.announce("p", route=Route(after), relayed=True)
    assert (second.life == known) == same


# --- older sessions that may be dead ---------------------------------------------------------------------------------


@pytest.mark.parametrize("hops", [(50, 3), (50,), (60,)], ids=["another route", "the same id", "another id"])
def test_who_published_a_path_before_is_asked_for_a_sign_of_life(hops: tuple[int, ...]) -> None:
    stage = Stage()
    one, two = stage.session(), stage.session()
    old = one.announce("p", route=Route((50,)))
    new = two.announce("p", route=Route(hops))
    assert one.pings == 1
    assert two.pings == 0
    one.answers(alive=False)
    assert served_by(stage, "p", old, new) == 1
    assert stage.lost(old) == 1
    assert stage.lost(new) == 0


def test_viewers_of_a_session_that_is_alive_stay_where_they_are() -> None:
    stage = Stage()
    one, two = stage.session(), stage.session()
    old = one.announce("p")
    two.announce("p")
    one.answers(alive=True)
    assert stage.lost(old) == 0


def test_routes_of_other_relays_are_no_reason_to_ask_each_other() -> None:
    """A path that many relays announce would cost the square of their number."""
    stage = Stage()
    one, two, own = (stage.session() for _ in range(3))
    one.announce("p", relayed=True)
    two.announce("p", relayed=True)
    assert one.pings == 0
    own.announce("p")
    assert [some.pings for some in (one, two, own)] == [1, 1, 0]


def test_echoes_are_no_reason_to_ask_each_other() -> None:
    stage = Stage()
    real, one, two = (stage.session() for _ in range(3))
    real.announce("p")
    one.announce("p", tentative=True)
    two.announce("p", tentative=True)
    assert [some.pings for some in (real, one, two)] == [2, 0, 0]


def test_without_another_publisher_viewers_of_a_dead_session_wait_until_there_is_one() -> None:
    stage = Stage()
    one, two, three = (stage.session() for _ in range(3))
    old = one.announce("p")
    two.announce("p")
    two.withdraw("p")
    one.answers(alive=False)
    assert stage.lost(old) == 0
    assert served_by(stage, "p", old) == 0
    new = three.announce("p")
    assert stage.lost(old) == 1
    assert served_by(stage, "p", old, new) == 1


def test_a_dead_publisher_is_not_offered_to_the_relay_that_has_the_living_one() -> None:
    """Its viewers there wait as long as we offer it."""
    stage = Stage()
    own, relay = stage.session(), stage.session()
    own.announce("p")
    relay.watch(relay=True, exclude=77)
    assert list(relay.sees()) == ["p"]
    relay.announce("p", relayed=True, route=Route((60, 77)))
    own.answers(alive=False)
    assert relay.sees() == {}
    assert stage.directory.serving("p", VIEWER, 77) is None
    own.answers(alive=True)
    assert list(relay.sees()) == ["p"]


# --- withdrawals by other relays -----------------------------------------------------------------------------------


def test_another_route_serves_at_once_but_is_announced_when_the_path_has_settled() -> None:
    stage = Stage()
    near, far, watcher = (stage.session() for _ in range(3))
    watcher.watch()
    near.announce("p", relayed=True, route=Route((50, 70, 80), warm=1))
    other = far.announce("p", relayed=True, route=Route((50, 70, 81), warm=2))
    near.withdraw("p")
    assert served_by(stage, "p", other) == 0
    assert watcher.sees()["p"].route.hops == (50, 70, 80)
    stage.advance(SETTLE)
    assert watcher.sees()["p"].route.hops == (50, 70, 81)


def test_the_end_of_the_last_route_is_announced_at_once() -> None:
    stage = Stage()
    near, far, watcher = (stage.session() for _ in range(3))
    watcher.watch()
    near.announce("p", relayed=True, route=Route((50, 70, 80), warm=1))
    far.announce("p", relayed=True, route=Route((50, 70, 80, 81), warm=2))
    near.withdraw("p")  # the other route leads through the relay that has withdrawn the path
    assert watcher.sees() == {}
    assert stage.directory.serving("p", VIEWER, 0) is None
    near.go()  # that relay is no longer a neighbour
    assert stage.directory.serving("p", VIEWER, 0) is not None


def test_a_publication_that_took_over_from_a_dead_one_is_no_echo_any_more() -> None:
    stage = Stage()
    one, two, three = (stage.session() for _ in range(3))
    one.announce("p")
    returned = two.announce("p", tentative=True)
    one.answers(alive=False)
    echo = three.announce("p", tentative=True)
    assert served_by(stage, "p", returned, echo) == 0


# --- anything, in any order ----------------------------------------------------------------------------------------

PATHS = ("a", "a/b", "c", "in/members/x")
STEPS = ("announce", "announce", "announce", "withdraw", "reroute", "go", "lost", "leave", "dead", "alive",
         "watch", "unwatch", "time", "time")  # fmt: skip

step = st.tuples(st.sampled_from(STEPS), st.integers(0, 4), st.integers(0, 7), st.integers(0, 15))


def route_of(number: int, how: int) -> Route:
    """A route through the relay or publisher `number`."""
    source = (50, 51, 0, number + 60)[how % 4]
    return Route((source, *range(70, 71 + how // 8), 80 + number), warm=how % 3)


class Play:
    """Carries out steps, and knows the expected state."""

    def __init__(self) -> None:
        self.stage = Stage(linger=5, members="in/members")
        self.players = [self.stage.session() for _ in range(5)]
        self.generations = itertools.count(1)
        self.live: dict[tuple[int, str], Publication] = {}

    def step(self, kind: str, who: int, what: int, how: int) -> None:
        player, path = self.players[who], PATHS[what % len(PATHS)]
        mine = self.live.get((player.number, path))
        if kind == "announce":
            self.live[player.number, path] = player.announce(
                path, generation=next(self.generations), route=route_of(who, how), prefix=how % 2 == 0,
                relayed=who >= 2, tentative=who == 1, onward=how != 5,
            )  # fmt: skip
        elif kind == "withdraw" and mine is not None:
            player.withdraw(path, mine.generation)
            del self.live[player.number, path]
        elif kind == "reroute" and mine is not None:
            player.reroute(path, route_of(who, how), mine.generation)
        elif kind in ("go", "lost"):
            player.go(lost=kind == "lost")
            self.live = {key: p for key, p in self.live.items() if key[0] != player.number}
            self.players[who] = self.stage.session()
        elif kind == "leave":
            player.leave()
        elif kind in ("dead", "alive"):
            player.answers(alive=kind == "alive")
        elif kind == "watch":
            player.watch(("", "a", "in/members", "a/b/c")[what % 4], watch=what, exclude=(0, 81)[how % 2],
                         routes_above=how % 3 == 0, relay=who >= 2, one_hop=how == 6) if what not in player.known else None  # fmt: skip
        elif kind == "unwatch" and what in player.known:
            del player.known[what]
            self.stage.directory.watchers.remove(player.number, what)
        elif kind == "time":
            self.stage.advance((0.5, 1.0, 5.0)[how % 3])

    def check(self) -> None:
        """All live publications are in the table, and one serves: an own one before other relays'."""
        stage, table = self.stage, self.stage.directory.publications
        present = set(everything(stage.directory))
        assert set(self.live.values()) <= present
        assert all(p.lingering for p in present - set(self.live.values()))
        for path in PATHS:
            serving = stage.directory.serving(path, VIEWER, 0)
            usable = [p for p in table.at(path) if p.usable]
            assert (serving is None) <= (not usable)
            if usable:
                assert serving in usable
                assert serving.standing == max(p.standing for p in usable)
            for player in self.players:
                own = stage.directory.serving(path, player.number, 0)
                assert own is None or own.session != player.number

    def settle(self) -> None:
        """At the end each watcher has what a new one would get."""
        self.stage.advance(10)
        for player in self.players:
            for watch, known in list(player.known.items()):
                interest = next(
                    w.interest
                    for n, w in self.stage.directory.watchers._by_session[player.number].items()
                    if n == watch
                )
                fresh = self.stage.directory.watchers.add(interest._replace(watch=999))
                self.stage.directory.watchers.remove(player.number, 999)
                for offer in fresh:
                    assert known[offer.path] == offer

    def end(self) -> None:
        """When all have left, nothing remains."""
        for player in self.players:
            player.go()
        self.stage.advance(10)
        directory = self.stage.directory
        assert self.stage.count() == (0, 0, 0)
        assert all(
            self.stage.withdrawn(p) for session in self.stage.sessions.values() for p in session.published
        )
        for publication in directory.withdrawn(("",)):
            assert directory.broadcast_over(publication.id, publication.path)
        assert not directory.withdrawn(("",))
        for table in ("_effects", "_leaving", "_withdrawn", "_withdrawals", "_denying"):
            assert not vars(directory)[table], table
        for table in ("_by_session", "_by_prefix", "_neighbours"):
            assert not vars(directory.watchers)[table], table
        assert not directory.publications.prefix_routes


@settings(max_examples=repeats(1_000), deadline=None)
@given(st.lists(step, max_size=50))
def test_any_order_of_events_gives_alternating_announcements_and_leaves_nothing(
    steps: list[tuple[str, int, int, int]],
) -> None:
    play = Play()
    for one in steps:
        play.step(*one)
        play.check()
    play.settle()
    play.end()
