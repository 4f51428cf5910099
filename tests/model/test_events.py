"""The log of events: bounded, and no flood of one kind hides the others."""

from __future__ import annotations

from relay.model.events import MERGE_WITHIN, MOST, Event, EventLog, Kind

TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJyb290IjoiIn0.c2lnbmF0dXJlLW9mLXRoZS10b2tlbg"


def of(log: EventLog, kind: Kind) -> list[Event]:
    return [event for event in log.after(0) if event.kind == kind]


def test_events_have_ascending_numbers_and_are_listed_after_one() -> None:
    log = EventLog()
    assert log.after(0) == ()
    log.add(10.0, Kind.JOINED, session=1, remote="192.0.2.1:5", path="/demo")
    log.add(11.0, Kind.LEFT, session=1, remote="192.0.2.1:5", reason="closed by the peer, code 0")
    first, second = log.after(0)
    assert (first.number, first.time, first.kind, first.session) == (1, 10.0, "joined", 1)
    assert (first.remote, first.path, first.reason, first.count, first.first) == (
        *("192.0.2.1:5", "/demo", None),
        *(1, 1),
    )
    assert log.after(1) == (second,)
    assert log.after(2) == ()


def test_a_number_of_before_a_restart_gives_everything() -> None:
    log = EventLog()
    log.add(10.0, Kind.JOINED, session=1)
    assert [event.number for event in log.after(4_000)] == [1]


def test_a_flood_of_refusals_of_one_client_is_one_event_with_a_count() -> None:
    log = EventLog()
    log.add(0.0, Kind.JOINED, session=1)
    for port in range(1_000):
        log.add(port / 100, Kind.REFUSED, remote=f"192.0.2.1:{port}", reason="unauthorized: bad token")
    log.add(10.0, Kind.REFUSED, remote="192.0.2.2:1", reason="unauthorized: bad token")
    log.add(10.0, Kind.REFUSED, remote="192.0.2.1:1", reason="over limit sessions")
    one, two, three = of(log, Kind.REFUSED)
    assert (one.count, one.number, one.first, one.time) == (1_000, 1_001, 2, 9.99)
    assert (two.count, three.count) == (1, 1)
    assert log.after(1_000) == (one, two, three)


def test_refusals_a_while_apart_are_two_events() -> None:
    log = EventLog()
    for now in (0.0, MERGE_WITHIN + 1):
        log.add(now, Kind.REFUSED, remote="192.0.2.1:1", reason="unauthorized: bad token")
    (event,) = of(log, Kind.REFUSED)  # the latest stands for the same client and reason
    assert (event.count, event.first) == (1, 2)


def test_a_flood_of_any_kind_pushes_out_its_own_kind() -> None:
    log = EventLog()
    log.add(0.0, Kind.PEER_DOWN, remote="fra.example", reason="idle timeout")
    for number in range(20):
        log.add(1.0, Kind.JOINED, session=number)
    for number in range(5_000):
        log.add(2.0, Kind.REFUSED, remote=f"10.{number // 256}.{number % 256}.1:7", reason="bad token")
        log.add(2.0, Kind.ANNOUNCED, session=1, path=f"demo/{number}")
    assert len(log.after(0)) == MOST
    assert len(of(log, Kind.PEER_DOWN)) == 1
    assert len(of(log, Kind.JOINED)) == 20
    newest = of(log, Kind.ANNOUNCED)[-1]
    assert newest.path == "demo/4999"
    numbers = [event.number for event in log.after(0)]
    assert numbers == sorted(numbers)
    assert numbers[-1] == log.newest


def test_texts_of_peers_are_cut_and_lose_tokens() -> None:
    log = EventLog()
    log.add(0.0, Kind.LEFT, remote="x" * 10_000, path=f"demo/{TOKEN}", reason=f"bye {TOKEN} " + "y" * 10_000)
    (event,) = log.after(0)
    assert event.path == "demo/<token>"
    assert event.reason is not None
    assert event.reason.startswith("bye <token> yyy")
    assert len(event.reason) < 250
    assert event.remote is not None
    assert len(event.remote) == 300
