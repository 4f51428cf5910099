"""Hostile peers: what each kind of garbage costs, that nothing grows, and that no exception leaves `receive`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.model.limits import Limits
from relay.model.track import SubscribeParams, TrackProperties
from relay.moq.lite import Options, State
from relay.moq.serving import LOOK_AT_LEAST
from relay.moq.session import (
    Announced,
    AnnouncementsEnded,
    AnnounceRequested,
    Closed,
    DatagramReceived,
    Event,
    Fault,
    FetchedData,
    FetchRequested,
    GroupData,
    GroupFragment,
    GroupPart,
    InfoReceived,
    InfoRequested,
    LimitExceeded,
    Offer,
    RequestCancelled,
    RequestFinished,
    RequestRejected,
    StrayGroup,
    SubscribeRequested,
    SubscribeUpdated,
    SubscriptionEnded,
    Unannounced,
)
from relay.transport.session import DatagramReceived as TransportDatagram
from relay.transport.session import Event as TransportEvent
from relay.transport.session import Pong, StreamData, StreamReset, StreamStopped
from relay.wire.announce import (
    AnnounceActive,
    AnnounceEnded,
    AnnounceInit,
    AnnounceOk,
    AnnounceRequest,
    AnnounceUpdate,
)
from relay.wire.control import Fetch, Goaway, Probe, ProbeRequest, SessionInfo, TrackInfo, TrackRequest
from relay.wire.cursor import framed
from relay.wire.frame import Datagram, GroupHeader, Request, group_header, open_request
from relay.wire.subscribe import Subscribe, SubscribeDrop, SubscribeEnd, SubscribeOk, SubscribeUpdate
from relay.wire.text import encode_string
from relay.wire.version import Version
from tests.moq.support import End, FakeStream, Pair, frames, lone, whole
from tests.sampling import ALL

TRACK = ("demo/cam", "video/hd")
OLD = [version for version in ALL if version.has_setup_exchange]
TIMED = [version for version in ALL if version.has_timestamps]
UPDATED = [version for version in ALL if version.has_updates]
V4, V5, V6 = Version.LITE_04, Version.LITE_05, Version.LITE_06

versions = pytest.mark.parametrize("version", ALL, ids=lambda version: version.name_on_wire)
STEPS = (1, 1 << 20)
steps = pytest.mark.parametrize("step", STEPS, ids=["bytes", "whole"])


def kinds(events: Iterable[Event]) -> list[type]:
    return [type(event) for event in events]


def tables(end: End) -> dict[str, int]:
    """State kept for requests."""
    moq = end.moq
    kept: dict[str, Any] = {
        "deliveries": moq.serving._deliveries,
        "answers": moq.serving._answers,
        "writers": moq.serving._writers,
        "ids": moq.serving._ids,
        "ending": moq.serving._ending,
        "subscriptions": moq.requests._subscriptions,
        "by id": moq.requests._by_id,
        "others": moq.requests._others,
        "fresh": moq.requests.fresh,
        "held": moq.setup.held.events,
    }
    return {name: len(table) for name, table in kept.items() if table}


# --- garbage on each kind of stream ----------------------------------------------------------------------------------


def incoming(end: End) -> FakeStream:
    return end.session.peer_opens(unidirectional=False)


def incoming_uni(end: End) -> FakeStream:
    return end.session.peer_opens(unidirectional=True)


def announcements(end: End) -> FakeStream:
    end.moq.requests.request_announcements("demo")
    return end.session.streams[-1]


def subscription(end: End) -> FakeStream:
    end.moq.requests.subscribe(*TRACK, SubscribeParams())
    return end.session.streams[-1]


def group(end: End) -> FakeStream:
    end.moq.requests.subscribe(*TRACK, SubscribeParams())
    return end.session.peer_opens(unidirectional=True)


def fetch(end: End) -> FakeStream:
    end.moq.requests.fetch(*TRACK, 0)
    return end.session.streams[-1]


def info(end: End) -> FakeStream:
    end.moq.requests.request_info(*TRACK)
    return end.session.streams[-1]


def probe(end: End) -> FakeStream:
    end.moq.requests.probe()
    return end.session.streams[-1]


def first(version: Version) -> bytes:
    """The bytes before single announcements."""
    if version.has_announce_init:
        return AnnounceInit().encode(version)
    return AnnounceOk(9, 0).encode(version) if version.has_announce_ok else b""


def active(version: Version, suffix: str = "cam") -> bytes:
    return AnnounceActive(suffix, hop_count=1).encode(version)


def header(version: Version) -> bytes:
    return group_header(version, GroupHeader(0, 7))


def ok(version: Version) -> bytes:
    return SubscribeOk(group=0).encode(version)


def subscribe(version: Version, subscribe_id: int = 0) -> bytes:
    return open_request(version, Subscribe(subscribe_id, *TRACK))


FRAME = Limits().frame
HUGE = b"\x80\x02\x00\x00"
"""Length of a message beyond all limits."""

DEEP = "/".join("x" * 40)


class Bad(NamedTuple):
    """A violation; it costs the stream (`stream`), or the session by a code of new and old versions."""

    name: str
    on: Callable[[End], FakeStream]
    data: Callable[[Version], bytes]
    versions: Sequence[Version] = ALL
    fin: bool = False
    stream: int | None = None
    session: int | None = None
    old: int | None = None
    says: tuple[type, ...] = ()
    """Further events, in order."""
    limit: str = ""


TABLE = [
    # unreadable requests cost the peer's stream alone
    Bad("unknown-type", incoming, lambda v: b"\x1f", stream=1),
    Bad("type-of-a-newer-version", incoming, lambda v: b"\x03\x00", [v for v in ALL if v < V5], stream=1),
    Bad("request-too-long", incoming, lambda v: b"\x01\x05\x00\x00\x00\x00\x00", stream=1),
    Bad("request-no-text", incoming, lambda v: b"\x01\x02\x01\xff", [v for v in ALL if v < V4], stream=1),
    Bad("request-cut", incoming, lambda v: b"\x01\x03\x01", fin=True, stream=55),
    Bad("type-cut", incoming, lambda v: b"\x40", fin=True, stream=55),
    Bad("update-cut", incoming, lambda v: subscribe(v) + b"\x05", UPDATED, fin=True, stream=55,
        says=(SubscribeRequested, RequestCancelled)),
    Bad("no-update", incoming, lambda v: subscribe(v) + b"\x01\x00", OLD, stream=1,
        says=(SubscribeRequested, RequestCancelled)),
    Bad("bad-update", incoming, lambda v: subscribe(v) + b"\x01\x00", UPDATED, stream=1,
        says=(SubscribeRequested, RequestCancelled)),
    Bad("path-too-deep", incoming,
        lambda v: b"\x01" + framed(encode_string(DEEP), b"\x00" if v in {4, 5} else b""), stream=1, limit="path"),
    Bad("frames-without-group", incoming, lambda v: b"\x02\x0a\x00\x01a\x01b\x00\x00\x00\x00\x00\x02", [V6],
        stream=1),
    Bad("bytes-after-track", incoming, lambda v: open_request(v, TrackRequest(*TRACK)) + b"\x00", TIMED, stream=1,
        says=(InfoRequested, RequestCancelled)),
    Bad("bytes-after-fetch", incoming, lambda v: open_request(v, Fetch(*TRACK, 0, 0)) + b"\x00", TIMED, stream=1,
        says=(FetchRequested, RequestCancelled)),
    Bad("request-huge", incoming, lambda v: b"\x01" + HUGE, session=3, old=11, limit="message"),
    # unidirectional streams of the peer
    Bad("unknown-uni-type", incoming_uni, lambda v: b"\x1f", stream=1),
    Bad("header-cut", incoming_uni, lambda v: b"\x00\x03\x00", fin=True, stream=55),
    Bad("header-too-long", incoming_uni, lambda v: b"\x00\x04\x00\x00\x00\x00", session=3, old=5),
    Bad("header-huge", incoming_uni, lambda v: b"\x00" + HUGE, session=3, old=11, limit="message"),
    Bad("setup-cut", incoming_uni, lambda v: b"\x01\x03\x00", TIMED, fin=True, stream=55),
    # announcements: all that the peer publishes
    Bad("active-twice", announcements, lambda v: first(v) + active(v) * 2, [v for v in ALL if v != V5],
        session=3, old=12),
    Bad("end-of-no-id", announcements, lambda v: first(v) + AnnounceEnded(announce_id=0).encode(v), [V6], session=3),
    Bad("end-twice", announcements,
        lambda v: first(v) + active(v) + AnnounceEnded(announce_id=0).encode(v) * 2, [V6], session=3),
    Bad("update-of-no-id", announcements, lambda v: first(v) + AnnounceUpdate(3).encode(v), [V6], session=3),
    Bad("announce-garbage", announcements, lambda v: first(v) + (b"\x07" if v == V6 else b"\x02\x01\x09"),
        session=3, old=5),
    Bad("announce-no-status", announcements, lambda v: first(v) + b"\x03\x05\x00\x00", [v for v in ALL if v < V6],
        session=3, old=5),
    Bad("announce-huge", announcements, lambda v: first(v) + (b"\x00" if v == V6 else b"") + HUGE,
        session=3, old=11, limit="message"),
    Bad("announce-deep", announcements, lambda v: first(v) + framed(b"\x01", encode_string(DEEP)), OLD,
        session=3, old=5, limit="path"),
    # answers to a subscription
    Bad("answer-of-no-type", subscription, lambda v: b"\x09\x01\x00", UPDATED, session=3, old=5),
    Bad("second-answer", subscription, lambda v: ok(v) * 2, OLD, session=3, old=5),
    Bad("answer-garbage", subscription, lambda v: b"\x00\x09" + bytes(9) if v > 2 else b"\x02\x00\x00",
        session=3, old=5),
    Bad("answer-cut", subscription, lambda v: (b"\x00" if v > 2 else b"") + b"\x01", fin=True, stream=55,
        says=(RequestRejected,)),
    # groups, and answers to a fetch
    Bad("frame-cut", group, lambda v: header(v) + frames(v, (0, b"abc"))[0][:-1], fin=True, stream=55,
        says=(GroupData,)),
    Bad("frame-huge", group,
        lambda v: header(v) + (b"\x00" if v.has_timestamps else b"") + (FRAME + 1 | 2 << 30).to_bytes(4, "big"),
        stream=56, says=(GroupData,), limit="frame"),
    Bad("time-before-zero", group, lambda v: header(v) + b"\x01\x00", TIMED, stream=18, says=(GroupData,)),
    Bad("fetched-cut", fetch, lambda v: b"\x00\x02a", TIMED, fin=True, stream=55, says=(RequestRejected,)),
    Bad("fetched-huge", fetch, lambda v: b"\x00" + (FRAME + 1 | 2 << 30).to_bytes(4, "big"), TIMED, stream=56,
        says=(RequestRejected,), limit="frame"),
    Bad("fetched-time", fetch, lambda v: b"\x01\x00", TIMED, stream=18, says=(RequestRejected,)),
    # other answers
    Bad("info-cut", info, lambda v: b"\x05\x00", TIMED, fin=True, stream=55, says=(RequestRejected,)),
    Bad("info-timescale-0", info, lambda v: b"\x03\x00\x00\x00" if v == V6 else b"\x04\x00\x00\x00\x00", TIMED,
        session=3),
    Bad("info-twice", info, lambda v: TrackInfo(1, False, 1, 1).encode(v) * 2, TIMED, session=3),
    Bad("estimate-cut", probe, lambda v: b"\x03\x00", UPDATED, fin=True, stream=55, says=(RequestRejected,)),
    Bad("estimate-too-long", probe, lambda v: b"\x03\x00\x00\x00", UPDATED, session=3),
]  # fmt: skip


@pytest.mark.parametrize("bad", TABLE, ids=lambda bad: bad.name)
def test_garbage(bad: Bad) -> None:
    for version in bad.versions:
        for step in STEPS:
            take_garbage(bad, version, step)


def take_garbage(bad: Bad, version: Version, step: int) -> None:
    end = lone(version)
    stream = bad.on(end)
    end.events.clear()
    data = bad.data(version)
    for start in range(0, len(data), step):
        end.receive(StreamData(stream, data[start : start + step], bad.fin and start + step >= len(data)))
    old = version.has_setup_exchange
    fault = end.one(Fault)
    assert [event.limit for event in end.of(LimitExceeded)] == ([bad.limit] if bad.limit else [])
    if bad.stream is None:
        assert fault.fatal
        assert kinds(end.events[-2:]) == [Fault, Closed]
        assert end.one(Closed).code == (bad.old if old and bad.old else bad.session)
        assert end.session.closed == [(end.one(Closed).code, end.one(Closed).reason)]
        return
    assert not fault.fatal
    code = bad.stream if not old else 0
    assert stream.stops == [code]
    assert stream.resets == ([] if stream.unidirectional else [code])
    assert end.moq.state is State.ESTABLISHED
    if step == 1 or RequestRejected in bad.says:
        found = [event for event in end.events if not isinstance(event, Fault | LimitExceeded | FetchedData)]
        assert [kind for kind in dict.fromkeys(kinds(found)) if kind is not SubscribeUpdated] == list(
            bad.says
        )
    if bad.on is group:
        parts = [part for event in end.of(GroupData) for part in event.parts]
        assert [part.code for part in parts if part.code is not None] == ([bad.stream] if parts else [])
        assert end.moq.requests._subscriptions[1].groups == {}
    elif bad.on is not subscription or RequestRejected in bad.says:
        assert tables(end) == {}
    # the session goes on
    assert kinds(
        end.receive(StreamData(incoming(end), open_request(version, AnnounceRequest("")), False))
    ) == [AnnounceRequested]


@pytest.mark.parametrize("version", [version for version in ALL if version != V6])
def test_the_end_of_an_unknown_path_is_no_fault(version: Version) -> None:
    end = lone(version)
    stream = announcements(end)
    data = first(version) + AnnounceEnded("cam").encode(version) + active(version)
    end.receive(StreamData(stream, data, False))
    assert (len(end.of(Announced)), end.of(Unannounced), end.of(Fault)) == (1, [], [])


def test_05_begins_a_live_path_anew() -> None:
    end = lone(V5)
    stream = announcements(end)
    again = AnnounceActive("cam", restart=True).encode(V5)
    end.receive(StreamData(stream, first(V5) + active(V5) + active(V5) + again, False))
    assert [(event.update, event.restart) for event in end.of(Announced)] == [
        (False, False),
        (True, False),
        (True, True),
    ]


@versions
@pytest.mark.parametrize("how", ["fin", "reset"])
def test_paths_end_with_their_stream(version: Version, how: str) -> None:
    end = lone(version)
    stream = announcements(end)
    end.receive(StreamData(stream, first(version) + active(version, "a") + active(version, "b"), False))
    end.receive(StreamData(stream, b"", True) if how == "fin" else StreamReset(stream, 70))
    assert kinds(end.events)[-3:] == [Unannounced, Unannounced, AnnouncementsEnded]
    assert {event.path for event in end.of(Unannounced)} == {"demo/a", "demo/b"}
    assert end.one(AnnouncementsEnded).code == (None if how == "fin" else 70)
    assert stream.finished


@versions
def test_paths_end_with_a_stream_that_is_cut(version: Version) -> None:
    end = lone(version)
    stream = announcements(end)
    end.receive(StreamData(stream, first(version) + active(version, "a"), False))
    end.receive(StreamData(stream, active(version, "b")[:-1], True))
    assert end.one(Fault).fatal is False
    assert [event.path for event in end.of(Unannounced)] == ["demo/a"]
    assert len(end.of(AnnouncementsEnded)) == 1


@versions
@pytest.mark.parametrize("data, fin", [(b"\x00", False), (b"\x40", True)])
def test_an_announce_stream_of_the_peer_ends_with_its_fault(version: Version, data: bytes, fin: bool) -> None:
    end = lone(version)
    stream = incoming(end)
    end.receive(StreamData(stream, open_request(version, AnnounceRequest("")), False))
    end.receive(StreamData(stream, data, fin))
    assert stream.resets
    assert kinds(end.events) == [AnnounceRequested, Fault, RequestCancelled]
    assert tables(end) == {}


@pytest.mark.parametrize("how", ["fin", "reset"])
def test_announcements_that_ended_are_forgotten(how: str) -> None:
    end = lone(V6)
    stream = announcements(end)
    end.receive(StreamData(stream, first(V6), how == "fin"))
    if how == "reset":
        end.receive(StreamReset(stream, 1))
    assert len(end.of(AnnouncementsEnded)) == 1
    assert tables(end) == {}


@versions
def test_a_subscribe_id_in_use_is_refused(version: Version) -> None:
    end = lone(version)
    one, other = incoming(end), incoming(end)
    end.receive(StreamData(one, subscribe(version, 5), False), StreamData(other, subscribe(version, 5), True))
    assert kinds(end.events) == [SubscribeRequested, Fault]
    assert (one.stops, other.stops, other.resets) == ([], [end.moq.code(1)], [end.moq.code(1)])
    # free again once the first one is over
    end.receive(StreamReset(one, 0), StreamData(incoming(end), subscribe(version, 5), False))
    assert kinds(end.events)[2:] == [RequestCancelled, SubscribeRequested]


@pytest.mark.parametrize("version", [version for version in ALL if version.has_goaway])
def test_a_second_goaway_ends_the_session(version: Version) -> None:
    end = lone(version)
    for _ in range(2):
        end.receive(StreamData(incoming(end), open_request(version, Goaway("")), True))
    assert end.one(Closed)[:2] == (3, "second GOAWAY")


@pytest.mark.parametrize("version", UPDATED)
@pytest.mark.parametrize("offered", [False, True])
def test_a_probe_is_held_or_refused(version: Version, offered: bool) -> None:
    """Some browsers end their whole session once a Probe stream is reset; 05 and 06 offer it in SETUP."""
    end = lone(version, options=Options(probe=int(offered), waits_for_setup=False))
    stream = incoming(end)
    data = open_request(version, ProbeRequest())
    end.receive(StreamData(stream, data, False))
    refused = version.has_setup_stream and not offered
    assert (bool(stream.stops), bool(stream.resets)) == (refused, refused)
    if not refused:
        end.receive(StreamData(stream, b"", True))
        assert stream.finished
    assert tables(end) == {}


@versions
@pytest.mark.parametrize("data", [b"", b"\x01", b"\x01\x05"])
def test_a_stream_that_asked_for_nothing_ends(version: Version, data: bytes) -> None:
    end = lone(version)
    one, other = incoming(end), incoming(end)
    end.receive(StreamData(one, data, False), StreamReset(one, 5), StreamData(other, b"", True))
    assert (one.resets, other.finished) == ([end.moq.code(1)], True)
    assert end.events == []
    assert end.receive(StreamStopped(incoming(end), 0)) == []


@pytest.mark.parametrize("version", UPDATED)
def test_a_held_stream_ends_as_its_peer_ends_it(version: Version) -> None:
    end = lone(version, options=Options(probe=1, waits_for_setup=False))
    stream = incoming(end)
    end.receive(StreamData(stream, open_request(version, ProbeRequest()), False), StreamReset(stream, 70))
    assert stream.resets == [70]


# --- how much, and how often -----------------------------------------------------------------------------------------

FEW = Limits(control_rate=2, control_burst=10)


def spend_streams(end: End, version: Version) -> Callable[[], TransportEvent]:
    data = open_request(version, AnnounceRequest(""))
    return lambda: StreamData(incoming(end), data, False)


def spend_unknown(end: End, version: Version) -> Callable[[], TransportEvent]:
    return lambda: StreamData(incoming(end), b"\x1f", False)


def spend_updates(end: End, version: Version) -> Callable[[], TransportEvent]:
    stream = incoming(end)
    end.receive(StreamData(stream, subscribe(version), False))
    end.moq.control._level = 0.0
    return lambda: StreamData(stream, SubscribeUpdate().encode(version), False)


def spend_announcements(end: End, version: Version) -> Callable[[], TransportEvent]:
    stream = announcements(end)
    end.receive(StreamData(stream, first(version), False))
    end.moq.control._level = 0.0
    names = iter(range(100))
    return lambda: StreamData(stream, active(version, f"cam{next(names)}"), False)


def spend_estimates(end: End, version: Version) -> Callable[[], TransportEvent]:
    stream = probe(end)
    return lambda: StreamData(stream, Probe(1, 2).encode(version), False)


def spend_ends(end: End, version: Version) -> Callable[[], TransportEvent]:
    stream = subscription(end)
    return lambda: StreamData(stream, SubscribeEnd(3).encode(version), False)


def spend_bitrates(end: End, version: Version) -> Callable[[], TransportEvent]:
    stream = end.session.streams[0]
    return lambda: StreamData(stream, SessionInfo(1).encode(version), False)


SPENDERS = [
    *((spend, version) for spend in (spend_streams, spend_unknown, spend_announcements) for version in ALL),
    *((spend, version) for spend in (spend_updates, spend_estimates) for version in UPDATED),
    *((spend_ends, version) for version in TIMED),
    *((spend_bitrates, version) for version in OLD),
]


@pytest.mark.parametrize("spend, version", SPENDERS, ids=lambda value: getattr(value, "__name__", str(value)))
def test_control_messages_have_a_rate(
    spend: Callable[[End, Version], Callable[[], TransportEvent]], version: Version
) -> None:
    if spend is spend_bitrates:
        end = Pair(version, limits=FEW).server
        end.events.clear()
    else:
        end = lone(version, limits=FEW)
    step = spend(end, version)
    for _ in range(10):
        end.receive(step())
    assert end.session.closed == []
    end.now = 1.0
    end.receive(step(), step())
    assert end.session.closed == []
    end.receive(step())
    assert end.one(Closed).code == (11 if version.has_setup_exchange else 27)
    assert end.one(LimitExceeded).limit == "control_rate"
    assert end.of(Fault)[-1].fatal


@pytest.mark.parametrize("version", OLD)
def test_one_message_with_many_paths_counts_them_all(version: Version) -> None:
    end = lone(version, limits=FEW)
    suffixes = tuple(f"cam{number}" for number in range(10))
    end.receive(StreamData(announcements(end), AnnounceInit(suffixes).encode(version), False))
    assert end.one(Closed).code == 11


def test_cluster_peers_may_have_another_rate() -> None:
    end = lone(V6, limits=FEW)
    end.moq.control.burst = 100
    end.receive(
        *(StreamData(incoming(end), open_request(V6, AnnounceRequest("")), False) for _ in range(100))
    )
    assert end.session.closed == []


@pytest.mark.parametrize("version", UPDATED)
def test_updates_for_a_peer_that_reads_none_are_bounded(version: Version) -> None:
    end = lone(version, limits=Limits(message=200))
    stream = subscription(end)
    request = 1
    for priority in range(200):
        end.moq.requests.update(request, SubscribeParams(priority))
        end.poll()
    assert [event.request for event in end.of(RequestRejected)] == [request]
    assert end.one(LimitExceeded).limit == "message"
    assert len(stream.written) < 300
    assert (stream.resets, stream.stops) == ([1], [1])
    assert tables(end) == {}


@pytest.mark.parametrize("version", UPDATED)
def test_an_update_that_changes_nothing_is_not_sent(version: Version) -> None:
    """Each costs the peer a control message; a version may lack the field."""
    end = lone(version)
    stream = subscription(end)
    opening = stream.written
    other = SubscribeParams(latency_ms=9) if version.latency_is_history else SubscribeParams(history_ms=9)
    for params in (SubscribeParams(), other, SubscribeParams(5), SubscribeParams(5)):
        end.moq.requests.update(1, params)
    assert stream.written == opening + SubscribeUpdate(5).encode(version)


# --- groups ----------------------------------------------------------------------------------------------------------


def group_data(version: Version, sequence: int, payload: bytes = b"x", subscribe_id: int = 0) -> bytes:
    return group_header(version, GroupHeader(subscribe_id, sequence)) + frames(version, (0, payload))[0]


@versions
def test_a_group_for_nobody_is_stopped(version: Version) -> None:
    end = lone(version)
    stream = incoming_uni(end)
    end.receive(StreamData(stream, group_data(version, 4, subscribe_id=6), False))
    assert end.events == [StrayGroup(6, 4)]
    assert stream.stops == [end.moq.code(1)]
    assert end.receive(StreamData(stream, b"\xff" * 30, True)) == []


@versions
@pytest.mark.parametrize("ended", [False, True], ids=["open", "ended"])
def test_a_second_stream_of_a_group_is_stopped(version: Version, ended: bool) -> None:
    end = lone(version)
    subscription(end)
    one, other = incoming_uni(end), incoming_uni(end)
    end.receive(
        StreamData(one, group_data(version, 4), ended),
        StreamData(other, group_data(version, 4, b"other"), False),
    )
    (part,) = end.one(GroupData).parts
    assert (part.parts[1:], part.fin) == ((b"x",), ended)
    assert (one.stops, other.stops) == ([], [end.moq.code(52)])
    # the first one is unharmed
    if not ended:
        end.receive(StreamData(one, frames(version, (0, b"y"))[0], True))
        assert end.of(GroupData)[-1].parts[0].parts[1:] == (b"y",)
        assert end.moq.requests._subscriptions[1].groups == {}


@versions
def test_one_call_makes_one_event_for_each_subscription(version: Version) -> None:
    end = lone(version)
    for _ in range(2):
        subscription(end)
    streams = [incoming_uni(end) for _ in range(4)]
    opened = [StreamData(s, group_data(version, n // 2, b"", n % 2), False) for n, s in enumerate(streams)]
    more = [StreamData(stream, frames(version, (0, b"yy"))[0], True) for stream in streams]
    end.receive(*opened, *more)
    assert kinds(end.events) == [GroupData, GroupData]
    for event in end.of(GroupData):
        assert [(part.sequence, part.fin, len(part.parts)) for part in event.parts] == [
            (0, True, 3),
            (1, True, 3),
        ]


@versions
@pytest.mark.parametrize("ending", ["fin", "reset", "leave"])
def test_groups_of_a_subscription_that_is_over(version: Version, ending: str) -> None:
    """The peer's FIN or reset lets groups finish; our leaving stops them."""
    end = lone(version)
    stream = subscription(end)
    request = 1
    open_group = incoming_uni(end)
    end.receive(StreamData(open_group, group_data(version, 4), False))
    end.events.clear()
    if ending == "fin":
        end.receive(StreamData(stream, ok(version), True))
        assert end.of(SubscriptionEnded) == [(request, None, True)]
        end.receive(StreamData(open_group, b"", True))
        assert end.one(GroupData).parts == (GroupPart(4, 0, (), True, None),)
        end.moq.requests.cancel(request)
    elif ending == "reset":
        end.receive(StreamReset(stream, 70))
        assert end.events == [RequestRejected(request, 0 if version.has_setup_exchange else 70, 70)]
        end.receive(StreamData(open_group, b"", True))
        assert end.one(GroupData).parts == (GroupPart(4, 0, (), True, None),)
    else:
        end.moq.requests.cancel(request)
        assert open_group.stops == [end.moq.code(1)]
        assert end.receive(StreamData(stream, ok(version), True)) == []
    assert stream.over
    assert tables(end) == {}
    assert kinds(end.receive(StreamData(incoming_uni(end), group_data(version, 5), True))) == [StrayGroup]


@versions
def test_what_came_before_the_end_is_reported_before_it(version: Version) -> None:
    """Groups are gathered until the end of a call; ends and datagrams are not."""
    end = lone(version)
    first, second = subscription(end), subscription(end)
    groups = [
        StreamData(incoming_uni(end), group_data(version, 4, subscribe_id=number), True) for number in (0, 1)
    ]
    end.receive(
        *groups, TransportDatagram(b"\x00\x05\x00x"), StreamReset(first, 0), StreamData(second, b"", True)
    )
    datagram = [DatagramReceived] if version.has_timestamps else []
    assert [type(event) for event in end.events if getattr(event, "request", 0) == 1] == [
        GroupData,
        *datagram,
        RequestRejected,
    ]
    assert [type(event) for event in end.events if getattr(event, "request", 0) == 2] == [
        GroupData,
        SubscriptionEnded,
    ]


@pytest.mark.parametrize("version", ALL)
@pytest.mark.parametrize(
    "data", [b"", b"\x00", b"\x00\x07\x00", b"\xff" * 24, Datagram(5, 0, 0, b"x").encode(V6)]
)
def test_datagrams_that_are_not_ours_are_lost(version: Version, data: bytes) -> None:
    end = lone(version)
    subscription(end)
    new = end.receive(TransportDatagram(data))
    assert kinds(new) == ([DatagramReceived] if version.has_timestamps and data == b"\x00\x07\x00" else [])
    assert end.session.closed == []


# --- what is over stays over -----------------------------------------------------------------------------------------


def delivering(version: Version) -> tuple[End, FakeStream, FakeStream, int]:
    """A session that sends a group to its peer: the Subscribe stream and that of the group."""
    end = lone(version)
    stream = incoming(end)
    end.receive(StreamData(stream, subscribe(version), False))
    request = end.one(SubscribeRequested).request
    end.moq.serving.send_group(request, (GroupFragment(0, True, 0, (b"",), False, None),), 0.0)
    return end, stream, end.session.streams[-1], request


@versions
def test_a_group_of_a_request_that_is_over_is_not_reported(version: Version) -> None:
    end, stream, sent, _ = delivering(version)
    end.receive(StreamReset(stream, 0))
    end.events.clear()
    assert sent.resets
    assert end.receive(StreamStopped(sent, 0)) == []


@pytest.mark.parametrize("version", UPDATED)
def test_an_update_of_a_request_that_is_over_is_not_reported(version: Version) -> None:
    end, stream, _, request = delivering(version)
    end.session.take_all()
    end.moq.serving.end_track(request, 1, 0.0)
    assert kinds(end.poll()) == [RequestFinished]
    assert end.receive(StreamData(stream, SubscribeUpdate().encode(version), False)) == []


def test_no_end_of_a_track_is_due_after_the_close() -> None:
    end, _, _, request = delivering(V6)
    end.moq.serving.send_group(request, (GroupFragment(0, False, 0, (bytes(100_000),), True, None),), 0.0)
    end.moq.serving.end_track(request, 1, 0.0)
    end.moq.close(0, "bye")
    end.poll()
    assert end.moq.deadline == float("inf")
    assert end.on_time(10.0) == []


# --- faults of our own -----------------------------------------------------------------------------------------------


@versions
def test_commands_for_a_request_that_is_over_do_nothing(version: Version) -> None:
    end = lone(version)
    moq, serving = end.moq, end.moq.serving
    for request in (0, 99):
        moq.requests.cancel(request)
        moq.requests.cancel(request, 70)
        moq.requests.stop_group(request, 0, 1)
        serving.accept(request)
        serving.reject(request, 54)
        serving.send_group(request, (whole(version, 0, (0, b"x")),), 0.0)
        serving.send_info(request, TrackProperties())
        serving.send_fetched(request, (b"x",), fin=True)
        serving.end_track(request, 3, 0.0)
        serving.announce_initial(request, [Offer("demo/cam")])
        serving.announce(request, "demo/cam", Offer("demo/cam"))
        assert not serving.send_datagram(request, 0, 0, b"x")
    assert end.poll() == []
    assert end.session.streams == []
    assert (tables(end), serving._unsent) == ({}, 0)


UNWRITABLE: dict[str, Callable[[End], object]] = {
    "subscribe": lambda end: end.moq.requests.subscribe(DEEP, "video/hd", SubscribeParams()),
    "fetch": lambda end: end.moq.requests.fetch(DEEP, "video/hd", 0),
    "info": lambda end: end.moq.requests.request_info(DEEP, "video/hd"),
    "announcements": lambda end: end.moq.requests.request_announcements(DEEP),
    "goaway": lambda end: end.moq.requests.goaway("x" * 10_000),
}


@pytest.mark.parametrize("command", UNWRITABLE)
def test_a_command_that_cannot_be_written_leaves_nothing_behind(command: str) -> None:
    end = lone(V6)
    with pytest.raises(ValueError):
        UNWRITABLE[command](end)
    assert end.session.streams == []
    assert tables(end) == {}


OLDER: list[tuple[Callable[[End], object], list[Version]]] = [
    (
        lambda end: end.moq.requests.fetch(*TRACK, 0),
        [version for version in ALL if not version.has_timestamps],
    ),
    (lambda end: end.moq.requests.request_info(*TRACK), [v for v in ALL if not v.has_timestamps]),
    (lambda end: end.moq.requests.probe(), [version for version in ALL if version < Version.LITE_03]),
]


@pytest.mark.parametrize(
    "command, version", [(command, version) for command, those in OLDER for version in those]
)
def test_a_request_that_the_version_lacks_is_a_value_error(
    command: Callable[[End], object], version: Version
) -> None:
    end = lone(version)
    with pytest.raises(ValueError, match=version.name_on_wire):
        command(end)
    assert end.session.streams == []
    assert tables(end) == {}


# --- nothing grows ---------------------------------------------------------------------------------------------------


def everything(pair: Pair, version: Version, viewer: End, publisher: End, ending: str) -> None:
    """One request of each kind that the version has, until its end."""
    moq, serving = viewer.moq, publisher.moq.serving
    publisher.events.clear()
    requests = [moq.requests.request_announcements("demo"), moq.requests.subscribe(*TRACK, SubscribeParams())]
    if version.has_timestamps:
        requests += [moq.requests.request_info(*TRACK), moq.requests.fetch(*TRACK, 3)]
    if version >= Version.LITE_03 and not version.has_setup_stream:
        requests.append(moq.requests.probe())
    pair.settle()
    (interest,) = publisher.of(AnnounceRequested)
    serving.announce_initial(interest.request, [Offer("demo/cam", source=1)])
    request = publisher.one(SubscribeRequested).request
    serving.accept(request)
    serving.send_group(request, (whole(version, 0, (1, b"x")),), 0.0)
    serving.send_group(request, (GroupFragment(1, True, 0, (), False, None),), 0.0)
    pair.settle()
    asked = [event.request for event in publisher.of(InfoRequested)]
    asked += [event.request for event in publisher.of(FetchRequested)]
    if ending == "in order":
        serving.send_group(request, (GroupFragment(1, False, 0, (), True, None),), 0.0)
        serving.end_track(request, 2, 0.0)
        for event in publisher.of(InfoRequested):
            serving.send_info(event.request, TrackProperties())
        for fetched in publisher.of(FetchRequested):
            serving.send_fetched(fetched.request, frames(version, (1, b"x")), fin=True)
    elif ending == "rejected":
        for each in (interest.request, request, *asked):
            serving.reject(each, 54)
    pair.settle()
    for each in requests:
        moq.requests.cancel(each, 70 if ending == "reset" else None)
    pair.settle()


@versions
@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("ending", ["in order", "rejected", "reset", "left"])
def test_nothing_is_kept_of_requests_that_ended(version: Version, swap: bool, ending: str) -> None:
    pair = Pair(version)
    viewer, publisher = pair.between(swap=swap)
    for _ in range(3):
        everything(pair, version, viewer, publisher, ending)
        assert tables(viewer) == {}
        assert tables(publisher) == {}
    assert viewer.of(Fault) == publisher.of(Fault) == []
    assert viewer.session.closed == publisher.session.closed == []


def test_streams_of_fetches_are_forgotten_once_they_are_sent() -> None:
    end = lone(V6)
    for _ in range(5 * LOOK_AT_LEAST):
        stream = incoming(end)
        end.receive(StreamData(stream, open_request(V6, Fetch(*TRACK, 0, 0)), False))
        end.moq.serving.send_fetched(end.of(FetchRequested)[-1].request, (b"\x00\x01x",), fin=True)
        stream.queued.clear()
    assert len(end.moq.serving._loose) <= LOOK_AT_LEAST
    assert tables(end) == {}


# --- anything at all -------------------------------------------------------------------------------------------------


def corpus(version: Version) -> dict[str, list[bytes]]:
    """Valid messages of a version, by the handler of their stream."""
    requests: list[Request] = [AnnounceRequest("demo"), *(Subscribe(number, *TRACK) for number in range(4))]
    if version.has_timestamps:
        requests += [Fetch(*TRACK, 1, 3), TrackRequest(*TRACK)]
    if version >= Version.LITE_03:
        requests.append(ProbeRequest())
    replies = []
    if version.has_updates:
        replies.append(SubscribeDrop(1, 2, 0).encode(version))
    if version.has_subscribe_end:
        replies += [ok(version), SubscribeEnd(3).encode(version)]
    return {
        "bidi": [open_request(version, request) for request in requests],
        "uni": [group_data(version, sequence, b"abc", sequence % 2) for sequence in range(6)],
        "AnnounceReader": [
            active(version, "b"),
            AnnounceEnded("b", 0).encode(version),
            active(version, "c"),
            AnnounceEnded("c", 1).encode(version),
        ],
        "Subscription": replies,
        "FetchStream": list(frames(version, (5, b"payload"))),
        "IncomingGroup": list(frames(version, (5, b"payload"))),
        "InfoStream": [TrackInfo(1, False, 5, 1000).encode(version)] if version.has_timestamps else [],
        "ProbeStream": [Probe(1, 2).encode(version)] if version >= Version.LITE_03 else [],
        "IncomingRequest": [SubscribeUpdate(3).encode(version)] if version.has_updates else [],
    }


CORPORA = {version: corpus(version) for version in ALL}

small = st.integers(0, 7)
codes = st.sampled_from([0, 1, 13, 51, 70, 1 << 40])
common = [
    st.tuples(st.just("open"), st.booleans(), st.integers(0, 7), st.integers(1, 9)),
    st.tuples(st.just("data"), small, st.integers(0, 7), st.integers(1, 9)),
    st.tuples(st.just("ask"), st.integers(0, 5)),
    st.tuples(st.just("answer"), small, st.integers(0, 6)),
]
rare = [
    st.tuples(st.just("bytes"), small, st.binary(min_size=1, max_size=9)),
    st.tuples(st.just("fin"), small),
    st.tuples(st.just("reset"), small, codes),
    st.tuples(st.just("stop"), small, codes),
    st.tuples(st.just("datagram"), st.binary(max_size=6)),
    st.tuples(st.just("cancel"), small, st.booleans()),
    st.tuples(st.just("time"), st.sampled_from([0.01, 1.0, 20.0])),
]
actions = st.lists(st.one_of(*common, *common, *rare), min_size=25, max_size=60)


class Chaos:
    """A session between an owner and a peer that do anything a transport permits."""

    def __init__(self, version: Version, *, is_client: bool) -> None:
        self.version = version
        self.end = lone(version, is_client=is_client, limits=Limits(frame=1000, backlog_session=3000))
        self.ended: set[FakeStream] = set()
        """The peer's half is over."""
        self.stopped: set[FakeStream] = set()
        self.said: set[FakeStream] = set()
        self.mine: list[int] = []
        self.rejected: list[int] = []
        """Groups of these may still end."""
        self.theirs: dict[int, Event] = {}
        self.sequence = 0

    def feed(self, *events: TransportEvent) -> None:
        already = bool(self.end.of(Closed))
        self.take(self.end.receive(*events))
        assert not already or isinstance(self.end.events[-1], Closed)

    def take(self, events: list[Event]) -> None:
        asked = AnnounceRequested | SubscribeRequested | InfoRequested | FetchRequested
        for event in events:
            if isinstance(event, asked):
                assert event.request not in self.theirs
                self.theirs[event.request] = event
            elif isinstance(event, RequestCancelled):
                assert self.theirs.pop(event.request)
            elif isinstance(event, RequestRejected):
                assert event.request in self.mine
                self.mine.remove(event.request)
                self.rejected.append(event.request)
            elif isinstance(event, GroupData) and event.request in self.rejected:
                pass
            elif isinstance(
                event, Announced | GroupData | SubscriptionEnded | AnnouncementsEnded | DatagramReceived
            ):
                assert event.request in self.mine
            elif isinstance(event, InfoReceived):
                self.mine.remove(event.request)

    def pick(self, number: int, gone: set[FakeStream], *, writes: bool) -> FakeStream | None:
        streams = [
            stream
            for stream in self.end.session.streams
            if stream not in gone
            and (writes is False or not stream.stops)
            and (not stream.unidirectional or stream.opened_by_peer == writes)
        ]
        return streams[number % len(streams)] if streams else None

    def proper(self, stream: FakeStream, number: int) -> bytes:
        """A message that fits the stream now."""
        kind = type(stream.context).__name__
        fresh = stream not in self.said
        self.said.add(stream)
        if fresh and kind == "AnnounceReader" and (data := first(self.version)):
            return data
        if fresh and kind == "Subscription":
            return ok(self.version)
        messages = CORPORA[self.version].get(kind, [])
        return messages[number % len(messages)] if messages else b""

    def say(self, stream: FakeStream | None, data: bytes, step: int = 1 << 10) -> None:
        for start in range(0, len(data) or 1, step):
            if stream is not None and stream not in self.ended and not stream.stops:
                self.feed(StreamData(stream, data[start : start + step], False))

    def do(self, action: Any) -> None:  # noqa: C901, PLR0912 - a choice of many
        kind, *values = action
        moq, session = self.end.moq, self.end.session
        match kind:
            case "open":
                uni, number, step = values
                messages = CORPORA[self.version]["uni" if uni else "bidi"]
                self.say(session.peer_opens(unidirectional=uni), messages[number % len(messages)], step)
            case "data":
                stream = self.pick(values[0], self.ended, writes=True)
                if stream is not None:
                    self.say(stream, self.proper(stream, values[1]), values[2])
            case "bytes":
                self.say(self.pick(values[0], self.ended, writes=True), values[1])
            case "fin" | "reset":
                stream = self.pick(values[0], self.ended, writes=True)
                if stream is not None:
                    event = (
                        StreamReset(stream, values[1]) if kind == "reset" else StreamData(stream, b"", True)
                    )
                    self.ended.add(stream)
                    self.feed(event)
            case "stop":
                stream = self.pick(values[0], self.stopped, writes=False)
                if stream is not None:
                    self.stopped.add(stream)
                    stream.reset(0)
                    self.feed(StreamStopped(stream, values[1]))
            case "datagram":
                self.feed(TransportDatagram(values[0]), Pong())
            case "ask":
                self.ask(values[0])
            case "answer":
                if self.theirs and not self.end.of(Closed):
                    request = list(self.theirs)[values[0] % len(self.theirs)]
                    self.answer(request, self.theirs[request], values[1])
            case "cancel":
                if self.mine:
                    moq.requests.cancel(self.mine.pop(values[0] % len(self.mine)), 70 if values[1] else None)
            case _ if not self.end.of(Closed):
                moq.alive.begin(self.end.now)
                self.take(self.end.on_time(self.end.now + values[0]))
        self.take(self.end.poll())
        groups = (stream for stream in session.streams if stream.unidirectional and not stream.opened_by_peer)
        if not self.end.of(Closed):
            assert sum(stream.unsent for stream in groups) <= moq.serving._unsent

    def ask(self, what: int) -> None:
        moq, version = self.end.moq, self.version
        if self.end.of(Closed):
            return
        if what == 0:
            self.mine.append(moq.requests.request_announcements("demo"))
        elif what == 1 and version.has_timestamps:
            self.mine += [moq.requests.fetch(*TRACK, 1), moq.requests.request_info(*TRACK)]
        elif what == 2 and version >= Version.LITE_03:
            self.mine.append(moq.requests.probe())
        elif what == 3 and version.has_updates and self.mine:
            moq.requests.update(self.mine[0], SubscribeParams(5))
        else:
            self.mine.append(moq.requests.subscribe(*TRACK, SubscribeParams()))

    def answer(self, request: int, event: Event, how: int) -> None:
        serving, now = self.end.moq.serving, self.end.now
        if how == 0:
            serving.reject(request, 54)
            del self.theirs[request]
        elif isinstance(event, AnnounceRequested):
            serving.announce_initial(request, [Offer("demo/cam", source=1)])
            serving.announce(request, "demo/cam", None)
        elif isinstance(event, InfoRequested):
            serving.send_info(request, TrackProperties())
            del self.theirs[request]
        elif isinstance(event, FetchRequested):
            serving.send_fetched(request, (bytes(500),), fin=how == 1)
            if how == 1 and request in self.theirs:
                del self.theirs[request]
        elif how == 1:
            self.sequence += 1
            serving.end_track(request, self.sequence, now)
        else:
            self.sequence += 1
            fragment = GroupFragment(self.sequence, True, 0, (bytes(how * 100),), how > 3, None)
            serving.accept(request)
            serving.send_group(request, (fragment,), now)

    def finish(self) -> None:
        for stream in self.end.session.streams:
            incoming_half = not stream.unidirectional or stream.opened_by_peer
            if incoming_half and stream not in self.ended and not stream.stops:
                self.feed(StreamReset(stream, 0))
            elif not stream.unidirectional and stream not in self.stopped:
                # a peer that has ended its half may still wait for the answer
                stream.reset(0)
                self.feed(StreamStopped(stream, 0))
        for request in (*self.mine, *self.rejected):
            self.end.moq.requests.cancel(request)
        if not self.end.of(Closed):
            self.take(self.end.on_time(self.end.now + 100))


@pytest.mark.parametrize("is_client", [False, True], ids=["server", "client"])
@settings(max_examples=60, deadline=None)
@given(st.sampled_from(ALL), actions)
def test_no_peer_breaks_a_session(is_client: bool, version: Version, steps: list[Any]) -> None:
    chaos = Chaos(version, is_client=is_client)
    for step in steps:
        chaos.do(step)
    chaos.finish()
    closed = chaos.end.of(Closed)
    assert len(closed) <= 1
    if not closed:
        kept = tables(chaos.end)
        kept.pop("writers", None)  # see test_an_announce_stream_of_the_peer_ends_with_its_fault
        assert kept == {}
