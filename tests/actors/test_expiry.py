"""Dates of the wall clock, on an event loop whose own clock stands still while the machine sleeps."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import pytest

from relay.actors.expiry import LOOK_INTERVAL, Expiries
from relay.runtime import Runtime


class Handle:
    def __init__(self, due: float, callback: Callable[[], object]) -> None:
        self.due = due
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Machine:
    """A runtime with a wall clock and an event loop, which tests advance, suspend or set."""

    def __init__(self) -> None:
        self.wall = 1_000_000.0
        self.monotonic = 5.0
        self.handles: list[Handle] = []
        self.looks = 0

    def now(self) -> float:
        return self.monotonic

    def wall_time(self) -> float:
        return self.wall

    def call_later(self, delay: float, callback: Callable[[], object]) -> Handle:
        handle = Handle(self.monotonic + delay, callback)
        self.handles.append(handle)
        return handle

    @property
    def waiting(self) -> list[Handle]:
        return [handle for handle in self.handles if not handle.cancelled]

    def run(self, seconds: float) -> None:
        end = self.monotonic + seconds
        while True:
            self.handles = self.waiting
            handle = min(self.handles, key=lambda handle: handle.due, default=None)
            if handle is None or handle.due > end:
                break
            self.handles.remove(handle)
            self.wall += handle.due - self.monotonic
            self.monotonic = handle.due
            self.looks += 1
            handle.callback()
        self.wall += end - self.monotonic
        self.monotonic = end


@pytest.fixture
def machine() -> Machine:
    return Machine()


class Dates:
    """When each date was due, by the wall clock."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.expiries = Expiries(cast("Runtime", machine))
        self.came: list[tuple[str, float]] = []

    def at(self, name: str, moment: float) -> Callable[[], None]:
        return self.expiries.at(moment, lambda: self.came.append((name, self.machine.wall))).cancel


@pytest.mark.parametrize("seconds", [0.4, 1.0, 59.7, 86_400.25])
def test_a_date_comes_when_it_comes(machine: Machine, seconds: float) -> None:
    dates = Dates(machine)
    moment = machine.wall + seconds
    dates.at("end", moment)
    machine.run(seconds - 0.01)
    assert not dates.came
    machine.run(0.02)
    [(_, came)] = dates.came
    assert came == pytest.approx(moment, abs=0.002)
    assert not machine.waiting


def test_the_dates_of_many_come_in_order(machine: Machine) -> None:
    dates = Dates(machine)
    now = machine.wall
    for seconds in (9, 3, 7.5, 3, -2, 0):
        dates.at(str(seconds), now + seconds)
    machine.run(10)
    assert [name for name, _ in dates.came] == ["-2", "0", "3", "3", "7.5", "9"]
    for name, came in dates.came:
        assert came == pytest.approx(now + max(0.0, float(name)), abs=0.002)


@pytest.mark.parametrize("asleep", [600, 86_400])
def test_after_a_suspend_it_is_late_by_one_look_at_most(machine: Machine, asleep: float) -> None:
    dates = Dates(machine)
    dates.at("end", machine.wall + 300)
    machine.run(10)
    machine.wall += asleep  # the loop's clock has stood still
    woke = machine.wall
    machine.run(LOOK_INTERVAL)
    [(_, came)] = dates.came
    assert came - woke <= LOOK_INTERVAL


def test_a_clock_that_is_set_moves_the_date(machine: Machine) -> None:
    dates = Dates(machine)
    dates.at("end", machine.wall + 300)
    machine.wall -= 1_000
    machine.run(1_299)
    assert not dates.came
    machine.run(1.01)
    assert dates.came


def test_no_look_without_a_date(machine: Machine) -> None:
    dates = Dates(machine)
    cancels = [dates.at("end", machine.wall + 1_000) for _ in range(3)]
    machine.run(10)
    assert machine.looks <= 11, "one timer for all"
    for cancel in cancels:
        cancel()
        cancel()
    assert not machine.waiting
    assert len(dates.expiries) == 0


def test_a_date_that_never_comes(machine: Machine) -> None:
    dates = Dates(machine)
    dates.at("never", math.inf)
    machine.run(10)
    assert not dates.came


def test_one_that_fails_does_not_hold_up_the_others(machine: Machine) -> None:
    dates = Dates(machine)

    def fail() -> None:
        raise RuntimeError("broken")

    dates.expiries.at(machine.wall + 1, fail)
    dates.at("end", machine.wall + 1)
    with pytest.raises(RuntimeError, match="broken"):
        machine.run(2)
    machine.run(2)
    assert [name for name, _ in dates.came] == ["end"]
