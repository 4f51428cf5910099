"""What `/history` shows: bounded rings of numbers, and their minutes."""

from __future__ import annotations

import json

from relay.web.history import DAY, NAMES, RECENT, History, Sample

NOW = 1_800_000_000.0


def sample(number: float) -> Sample:
    return Sample(sessions=number, lag=number / 1000, cpu=0.5, memory=123_456_789)


def test_a_new_relay_has_no_history() -> None:
    shown = History().shown(NOW)
    assert shown["now"] == NOW
    assert shown["recent"]["step"] == 5
    assert shown["day"]["step"] == 60
    assert shown["recent"]["values"] == {name: [] for name in NAMES} == shown["day"]["values"]


def test_values_come_oldest_first_and_the_unknown_as_null() -> None:
    history = History()
    for number in range(3):
        history.add(sample(number), NOW + 5 * number)
    recent = history.shown(NOW + 11)["recent"]
    assert recent["end"] == NOW + 10
    assert recent["values"]["sessions"] == [0, 1, 2]
    assert recent["values"]["lag"] == [0, 0.001, 0.002]
    assert recent["values"]["viewers"] == [None, None, None]
    assert recent["values"]["memory"] == [123_456_792] * 3  # four bytes a value


def test_a_minute_has_the_mean_but_the_worst_lag() -> None:
    history = History()
    for number in range(25):
        history.add(sample(number), NOW + 5 * number)
    day = history.shown(NOW + 200)["day"]
    assert day["values"]["sessions"] == [5.5, 17.5]
    assert day["values"]["lag"] == [0.011, 0.023]
    assert day["values"]["viewers"] == [None, None]
    assert day["end"] == NOW + 5 * 23


def test_what_is_new_after_a_time() -> None:
    history = History()
    for number in range(24):
        history.add(sample(number), NOW + 5 * number)
    known = history.shown(NOW + 115)
    nothing = history.shown(NOW + 115, known["recent"]["end"])
    assert nothing["recent"]["values"]["sessions"] == nothing["day"]["values"]["sessions"] == []
    for number in range(24, 37):
        history.add(sample(number), NOW + 5 * number)
    new = history.shown(NOW + 180, known["recent"]["end"])
    assert new["recent"]["values"]["sessions"] == list(range(24, 37))
    assert new["day"]["values"]["sessions"] == [29.5]
    assert history.shown(NOW, NOW + 10**9)["recent"]["values"]["sessions"] == []


def test_missed_samples_are_gaps() -> None:
    history = History()
    history.add(sample(1), NOW)
    history.add(sample(2), NOW + 20, missed=3)
    assert history.shown(NOW)["recent"]["values"]["sessions"] == [1, None, None, None, 2]


def test_a_suspended_machine_costs_a_bounded_number_of_gaps() -> None:
    history = History()
    history.add(sample(1), NOW)
    history.add(sample(2), NOW + 10**9, missed=2 * 10**8)
    values = history.shown(NOW)["recent"]["values"]["sessions"]
    assert (len(values), values[-1], set(values[:-1])) == (RECENT, 2, {None})


def test_memory_is_bounded_and_the_newest_values_stay() -> None:
    history = History()
    for number in range(DAY * 12 + 100):
        history.add(sample(number), NOW + 5 * number)
    shown = history.shown(NOW)
    newest = DAY * 12 + 99
    assert shown["recent"]["values"]["sessions"] == list(range(newest - RECENT + 1, newest + 1))
    assert len(shown["day"]["values"]["sessions"]) == DAY
    assert history.bytes < 200_000
    assert len(json.dumps(shown)) < 300_000
