"""Rates of events and of their log lines."""

from __future__ import annotations

from relay.model.pace import EPISODE, LOG_BURST, LOG_RATE, LogOnce, LogThrottle, TokenBucket


def test_a_token_bucket_is_a_burst_and_a_rate() -> None:
    bucket = TokenBucket(rate=10, burst=3)
    assert [bucket.spend(0.0) for _ in range(4)] == [True, True, True, False]
    assert not bucket.spend(0.05)
    assert bucket.spend(0.1)
    assert not bucket.spend(0.15)
    assert all(bucket.spend(1.0 + number / 10) for number in range(1_000))


def test_a_token_bucket_does_not_grow_beyond_its_burst() -> None:
    bucket = TokenBucket(rate=10, burst=2)
    assert [bucket.spend(1e9) for _ in range(3)] == [True, True, False]


def test_an_episode_is_logged_once_and_ends_with_silence() -> None:
    log_once = LogOnce()
    assert log_once.begins("a", 0.0)
    assert not log_once.begins("a", 1.0)
    assert log_once.begins("b", 1.0)
    assert not log_once.begins("a", 0.9 + EPISODE)
    assert log_once.begins("a", 1.0 + 2 * EPISODE)


def test_a_log_has_a_few_lines_at_once_and_a_few_a_minute_of_a_flood() -> None:
    throttle = LogThrottle()
    passed = [second for second in range(600) for _ in range(100) if throttle.passes(float(second))]
    assert passed[:LOG_BURST] == [0] * LOG_BURST
    assert len(passed) <= LOG_BURST + 600 * LOG_RATE
    assert throttle.held_back == 60_000 - len(passed)
    assert throttle.passes(1000.0)  # suppressed events cost nothing later
