"""Order of routes and the identity of their publishers."""

from __future__ import annotations

import itertools

from relay.model.route import MAX_COST, Route, same_publisher


def test_routes_are_ordered_by_unknown_hops_costs_and_length() -> None:
    best_first = [
        Route((1,), warm=0, cold=0),
        Route((1, 2), warm=0, cold=0),
        Route((1,), warm=0, cold=5),
        Route((1, 2, 3), warm=1, cold=0),
        Route((1,), warm=7, cold=0),
        Route((1,), warm=7),
        Route((1, 0), warm=0, cold=0),
        Route((0,), warm=3, cold=0),
    ]
    for one, two in itertools.pairwise(best_first):
        assert one.cost() < two.cost()


def test_costs_saturate() -> None:
    assert Route((1,), 3, 9).plus_cost(10) == Route((1,), 13, 19)
    assert Route((1,), MAX_COST - 1, MAX_COST).plus_cost(5) == Route((1,), MAX_COST, MAX_COST)
    assert Route((1,), 3, 9).plus_cost(0) == Route((1,), 3, 9)


def test_only_a_known_first_hop_identifies_a_publisher() -> None:
    assert same_publisher(Route((5, 1)), Route((5, 2)))
    assert not same_publisher(Route((5, 1)), Route((6, 1)))
    assert not same_publisher(Route((0, 1)), Route((0, 1)))
    assert not same_publisher(Route(()), Route(()))
    assert Route(()).publisher == 0
