"""Our announcements: the initial set, changes that a version can express, and others."""

from __future__ import annotations

import pytest

from relay.model.route import MAX_HOPS, Route
from relay.moq.lite_announce import INIT_SIZE
from relay.moq.session import Announced, AnnouncementsComplete, AnnounceRequested, Fault, Offer, Unannounced
from relay.transport.session import StreamData, StreamReset, StreamStopped
from relay.wire.announce import AnnounceRequest
from relay.wire.errors import StreamCode
from relay.wire.frame import open_request
from relay.wire.version import Version
from tests.moq.support import End, Pair, lone
from tests.sampling import ALL

V3, V4, V5, V6 = Version.LITE_03, Version.LITE_04, Version.LITE_05, Version.LITE_06

versions = pytest.mark.parametrize("version", ALL, ids=lambda version: version.name_on_wire)


def watched(version: Version, *offers: Offer, prefix: str = "demo") -> tuple[Pair, End, End, int]:
    """A client that watches a server: the pair, the client, the server, and the server's request."""
    pair = Pair(version)
    pair.client.moq.requests.request_announcements(prefix)
    pair.settle()
    request = pair.server.one(AnnounceRequested).request
    pair.server.moq.serving.announce_initial(request, offers)
    pair.settle()
    return pair, pair.client, pair.server, request


@versions
@pytest.mark.parametrize("count", [0, 1, 3])
def test_the_initial_set_is_complete_when_all_of_it_is_there(version: Version, count: int) -> None:
    paths = [f"demo/cam{number}" for number in range(count)]
    _, client, _, _ = watched(version, *(Offer(path) for path in paths))
    kinds = [type(event) for event in client.events if isinstance(event, Announced | AnnouncementsComplete)]
    expected = [Announced] * count + [AnnouncementsComplete]
    # 03 and 04 have no updates
    assert kinds == (expected[::-1] if version in {V3, V4} else expected)
    assert [event.path for event in client.of(Announced)] == paths


@pytest.mark.parametrize("version", [Version.LITE_01, Version.LITE_02])
def test_a_set_beyond_one_message_goes_on_in_single_announcements(version: Version) -> None:
    paths = [f"demo/{number:04}/{'x' * 90}" for number in range(1000)]
    _, client, server, _ = watched(version, *(Offer(path) for path in paths))
    assert [event.path for event in client.of(Announced)] == paths
    complete = client.events.index(AnnouncementsComplete(client.one(AnnouncementsComplete).request))
    before = sum(1 for event in client.events[:complete] if isinstance(event, Announced))
    assert INIT_SIZE // 150 < before < INIT_SIZE // 90
    assert server.moq.serving.has_offered(paths[-1])


@versions
def test_a_route_of_too_many_hops_is_not_announced(version: Version) -> None:
    """The sender adds itself in 03 and 04."""
    longest = MAX_HOPS - (version in {V3, V4})
    fits, beyond = Route(tuple(range(100, 100 + longest))), Route(tuple(range(100, 101 + longest)))
    pair, client, server, request = watched(version, Offer("demo/a", fits, 1), Offer("demo/b", beyond, 1))
    assert [event.path for event in client.of(Announced)] == ["demo/a"]
    serving = server.moq.serving
    serving.announce(request, "demo/c", Offer("demo/c", beyond, 1))
    serving.announce(request, "demo/b", None)
    pair.settle()
    assert (len(client.of(Announced)), client.of(Unannounced)) == (1, [])
    # for the peer, a path whose only route is too long has ended
    serving.announce(request, "demo/a", Offer("demo/a", beyond, 1))
    pair.settle()
    assert [event.path for event in client.of(Unannounced)] == ["demo/a"]
    assert client.of(Fault) == []


CHANGES = [
    # of another route of the same publisher, 05 carries the hops, 06 also the costs
    (Route((5, 6), 1, 2), 1, Route((5, 6), 3, 4), 1, {V6: "update"}),
    (Route((5, 6)), 1, Route((5, 7)), 1, {V5: "update", V6: "update"}),
    (Route((5, 6)), 1, Route((5, 7)), 2, {V5: "update", V6: "update"}),
    (Route((5, 6)), 1, Route((5, 6)), 2, {}),
    # another publisher: an end, and a new beginning; publishers without an id are never the same
    (Route((5, 6)), 1, Route((8, 6)), 2, dict.fromkeys(ALL, "anew")),
    (Route(()), 1, Route(()), 2, dict.fromkeys(ALL, "anew")),
    (Route((0, 6)), 1, Route((0, 6)), 2, dict.fromkeys(ALL, "anew")),
    (Route((5, 6)), 1, Route((8, 6)), 1, {V5: "update", V6: "update"}),
]


@versions
@pytest.mark.parametrize("before, old, after, new, told", CHANGES)
def test_a_change_is_sent_as_far_as_the_version_can(
    version: Version, before: Route, old: int, after: Route, new: int, told: dict[Version, str]
) -> None:
    pair, client, server, request = watched(version, Offer("demo/cam", before, old))
    server.moq.serving.announce(request, "demo/cam", Offer("demo/cam", after, new))
    pair.settle()
    ends, later = client.of(Unannounced), client.of(Announced)[1:]
    match told.get(version):
        case "update":
            assert (ends, [event.update for event in later]) == ([], [True])
        case "anew":
            assert (len(ends), [event.update for event in later]) == (1, [False])
        case _:
            assert (ends, later) == ([], [])
    # the next change compares with the last state, sent or not
    server.moq.serving.announce(request, "demo/cam", Offer("demo/cam", after, new))
    server.moq.serving.announce(request, "demo/cam", None)
    pair.settle()
    assert len(client.of(Announced)) == 1 + len(later)
    assert len(client.of(Unannounced)) == len(ends) + 1
    assert client.of(Fault) == []


def test_a_route_above_the_prefix_covers_it() -> None:
    pair, client, server, request = watched(V6, Offer("demo"), prefix="demo/room/a")
    assert client.one(Announced).path == "demo/room/a"
    server.moq.serving.announce(request, "demo", None)
    pair.settle()
    assert client.one(Unannounced).path == "demo/room/a"


def test_two_routes_above_the_prefix_are_one_announcement() -> None:
    _, client, _, _ = watched(V6, Offer("demo"), Offer("demo/room"), prefix="demo/room/a")
    assert client.of(Fault) == []


@versions
@pytest.mark.parametrize("how", ["fin", "reset", "stop", "reject"])
def test_nothing_is_sent_on_a_stream_that_is_over(version: Version, how: str) -> None:
    end = lone(version)
    stream = end.session.peer_opens(unidirectional=False)
    end.receive(StreamData(stream, open_request(version, AnnounceRequest("")), False))
    request = end.one(AnnounceRequested).request
    serving = end.moq.serving
    serving.announce_initial(request, [Offer("demo/cam")])
    written = stream.written
    if how == "reject":
        serving.reject(request, StreamCode.UNROUTABLE)
    elif how == "stop":
        stream.reset(0)  # by the transport
        end.receive(StreamStopped(stream, 0))
    else:
        end.receive(StreamData(stream, b"", True) if how == "fin" else StreamReset(stream, 0))
    serving.announce(request, "demo/mic", Offer("demo/mic"))
    serving.announce_initial(request, [Offer("demo/mic")])
    assert (stream.written, stream.over) == (written, True)
    assert not serving.has_offered("demo/cam")


@versions
def test_a_change_goes_to_every_interest_that_it_is_under(version: Version) -> None:
    pair = Pair(version)
    prefixes = ("", "demo", "demo/cam", "other")
    requests = {pair.client.moq.requests.request_announcements(prefix): prefix for prefix in prefixes}
    pair.settle()
    serving = pair.server.moq.serving
    for request in pair.server.of(AnnounceRequested):
        serving.announce_initial(request.request)
    serving.offer("demo/cam", Offer("demo/cam"))
    pair.settle()
    told = {requests[event.request]: event.path for event in pair.client.of(Announced)}
    assert told == dict.fromkeys(prefixes[:3], "demo/cam")
    serving.offer("demo/cam", None)
    pair.settle()
    assert {requests[event.request] for event in pair.client.of(Unannounced)} == set(prefixes[:3])
