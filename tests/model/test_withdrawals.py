"""Other routes after a withdrawal: used, and announced."""

from __future__ import annotations

import pytest

from relay.model.route import Route
from relay.model.withdrawals import Withdrawals

P, A, B, C, D = 1, 10, 11, 12, 13
SESSION = 5


def route(*hops: int, warm: int | None = None) -> Route:
    return Route(hops, len(hops) if warm is None else warm)


def test_nothing_withdrawn_is_nothing_doubted() -> None:
    withdrawals = Withdrawals()
    assert not withdrawals
    assert withdrawals.usable(route(P, A, B))
    assert not withdrawals.doubtful(route(P, A, B))


@pytest.mark.parametrize(
    ("hops", "usable"),
    [((P, A, B), False), ((P, A, C, B), False), ((P, C, A, B), False), ((P, C, B), True), ((P, A), True)],
)
def test_a_route_through_a_peer_that_has_withdrawn_the_path_is_not_used(
    hops: tuple[int, ...], usable: bool
) -> None:
    withdrawals = Withdrawals()
    withdrawals.withdrawn(SESSION, route(P, A))
    assert withdrawals.usable(route(*hops)) == usable


def test_it_is_used_again_when_that_peer_announces_the_path_again() -> None:
    withdrawals = Withdrawals()
    withdrawals.withdrawn(SESSION, route(P, A))
    assert not withdrawals.announced(route(P, B))
    assert not withdrawals.usable(route(P, A, B))
    assert withdrawals.announced(route(P, A))
    assert withdrawals.usable(route(P, A, B))
    assert not withdrawals


def test_it_is_used_again_when_that_peer_is_no_peer_any_more() -> None:
    withdrawals = Withdrawals()
    withdrawals.withdrawn(SESSION, route(P, A))
    assert not withdrawals.session_ended(SESSION + 1)
    assert withdrawals.session_ended(SESSION)
    assert withdrawals.usable(route(P, A, B))


def test_a_peer_without_an_id_says_nothing_of_other_routes() -> None:
    withdrawals = Withdrawals()
    withdrawals.withdrawn(SESSION, route(P, 0))
    withdrawals.withdrawn(SESSION, route())
    assert withdrawals.usable(route(P, 0, B))
    assert not withdrawals


@pytest.mark.parametrize(
    ("hops", "doubtful"),
    [
        ((P, A, C), True),
        ((P, A, C, D), True),
        ((P, A, B), True),  # as long: no fresher news
        ((P, A), False),  # shorter: it cannot come from the lost one
        ((P, C, D), False),  # the publisher is connected to another relay now
        ((2, A, C), False),  # another publisher
        ((0, A, C), False),
    ],
)
def test_a_route_no_better_than_the_lost_one_is_doubtful_until_the_path_has_settled(
    hops: tuple[int, ...], doubtful: bool
) -> None:
    withdrawals = Withdrawals()
    withdrawals.lost(route(P, A, B))
    assert withdrawals.settling
    assert withdrawals.doubtful(route(*hops)) == doubtful
    withdrawals.settled()
    assert not withdrawals.doubtful(route(*hops))
    assert not withdrawals


def test_routes_of_a_broadcast_without_a_publisher_of_known_id_are_not_doubted() -> None:
    withdrawals = Withdrawals()
    withdrawals.lost(route(0, A))
    assert not withdrawals.doubtful(route(0, A, B))


def test_of_several_lost_routes_the_best_is_the_measure() -> None:
    withdrawals = Withdrawals()
    withdrawals.lost(route(P, A))
    withdrawals.lost(route(P, A, B, C))
    assert withdrawals.doubtful(route(P, A, B))
    assert withdrawals.turn == 2


@pytest.mark.parametrize(("again", "doubtful"), [((P, A, B), False), ((P, A, C, B), True)])
def test_a_peer_that_takes_its_withdrawal_back_is_believed_unless_its_route_is_longer(
    again: tuple[int, ...], doubtful: bool
) -> None:
    withdrawals = Withdrawals()
    withdrawals.withdrawn(SESSION, route(P, A, B))
    withdrawals.lost(route(P, A, B))
    assert withdrawals.announced(route(*again))
    assert withdrawals.doubtful(route(*again)) == doubtful
