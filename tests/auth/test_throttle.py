"""The throttle: its delays."""

from __future__ import annotations

from relay.auth.throttle import ADDRESSES, MOST_STEPS, Throttle
from tests.auth.support import Clock


def test_failures_beyond_the_first_wait_longer_and_longer_up_to_a_limit() -> None:
    throttle = Throttle(failures=2, delay=0.5, clock=Clock())
    waits = [throttle.failed("a") for _ in range(MOST_STEPS + 4)]
    assert waits == [0, 0, *(0.5 * step for step in range(1, MOST_STEPS + 1)), *[0.5 * MOST_STEPS] * 2]
    assert throttle.failed("b") == 0


def test_failures_are_forgotten_one_for_each_delay() -> None:
    clock = Clock()
    throttle = Throttle(failures=1, delay=2.0, clock=clock)
    assert [throttle.failed("a") for _ in range(3)] == [0, 2, 4]
    clock.now += 4
    assert throttle.failed("a") == 2
    clock.now += 1_000
    assert throttle.failed("a") == 0


def test_what_is_remembered_is_bounded() -> None:
    throttle = Throttle(failures=0, delay=1.0, clock=Clock())
    for number in range(2 * ADDRESSES):
        throttle.failed(f"10.0.{number >> 8 & 255}.{number & 255}:{number}")
    assert len(throttle._records) == ADDRESSES
