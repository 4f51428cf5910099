"""How a session begins: version, SETUP, admission, and requests held until then."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from relay.model.limits import Limits
from relay.model.track import SubscribeParams
from relay.moq.lite import Options, State
from relay.moq.protocol import open_session
from relay.moq.session import (
    AnnounceRequested,
    Closed,
    DialectChosen,
    Established,
    Event,
    Fault,
    Incompatible,
    InfoRequested,
    Introduced,
    LimitExceeded,
    Opened,
    PeerAlive,
    PeerInfo,
    RequestCancelled,
    StrayGroup,
    SubscribeRequested,
)
from relay.moq.setup import EVENT_COST, HELD_BYTES
from relay.transport.session import DatagramReceived as TransportDatagram
from relay.transport.session import Pong, SessionClosed, StreamData, StreamReset, StreamStopped
from relay.wire.announce import AnnounceRequest
from relay.wire.control import SessionInfo
from relay.wire.frame import GroupHeader, group_header, open_request, setup_stream
from relay.wire.ietf.control import encode
from relay.wire.ietf.messages import Subscribe as IetfSubscribe
from relay.wire.ietf.profile import DRAFT_14
from relay.wire.setup import ClientSetup, ServerSetup, Setup, SetupForm
from relay.wire.subscribe import Subscribe
from relay.wire.version import Draft, Version
from tests.moq.support import End, FakeSession, FakeStream, Pair
from tests.sampling import ALL

V1, V2, V5, V6 = Version.LITE_01, Version.LITE_02, Version.LITE_05, Version.LITE_06
NEVER = float("inf")
TIMEOUT = Limits().setup_timeout

versions = pytest.mark.parametrize("version", ALL, ids=lambda version: version.name_on_wire)
ends = pytest.mark.parametrize("is_client", [False, True], ids=["server", "client"])
forms = pytest.mark.parametrize("form", list(SetupForm), ids=lambda form: form.name)


def make(
    version: Version | None = None,
    *,
    is_client: bool = False,
    versions: Iterable[Version] = ALL,
    alpn: str = "",
    transport: str = "quic",
    path: str | None = None,
    query: str = "",
    admitted: bool | None = None,
    options: Options | None = None,
) -> End:
    """A started session; the server waits for admission by default."""
    session = FakeSession(version, is_client=is_client, transport=transport, path=path, query=query)
    session.alpn = alpn or session.alpn
    known = is_client if admitted is None else admitted
    return End(session, versions, hop=11, admitted=known, options=options).started()


def kinds(events: Iterable[Event]) -> list[type]:
    return [type(event) for event in events]


def opening(end: End, version: Version, request: AnnounceRequest | Subscribe) -> FakeStream:
    """The peer opens a stream with a request."""
    stream = end.session.peer_opens(unidirectional=False)
    end.receive(StreamData(stream, open_request(version, request), False))
    return stream


def client_setup(end: End, setup: ClientSetup) -> FakeStream:
    stream = end.session.peer_opens(unidirectional=False)
    end.receive(StreamData(stream, setup.encode(), False))
    return stream


def send_setup(end: End, version: Version, setup: Setup) -> list[Event]:
    stream = end.session.peer_opens(unidirectional=True)
    return end.receive(StreamData(stream, setup_stream(version, setup), True))


# --- 01 and 02: SETUP on the first bidirectional stream --------------------------------------------------------------


@forms
@pytest.mark.parametrize(
    "offered, spoken, chosen",
    [
        ((V1,), ALL, V1),
        ((V2, V1), ALL, V2),
        ((V1, V2), ALL, V1),
        ((V2, V1), (V1, V6), V1),
    ],
)
def test_the_server_takes_the_first_version_that_it_supports(
    form: SetupForm, offered: tuple[Version, ...], spoken: tuple[Version, ...], chosen: Version
) -> None:
    end = make(versions=spoken)
    codes = (0xFF000007, *(version.setup_code for version in offered), 0xFF0DAD03)
    stream = client_setup(end, ClientSetup(form, codes))
    assert end.events == [Introduced(None)]
    assert stream.written == b""
    end.moq.setup.admit(0.0)
    assert stream.written == ServerSetup(form, chosen.setup_code).encode()
    assert kinds(end.poll()) == [Opened, Established]
    assert end.moq.version is chosen
    end.receive(StreamData(stream, SessionInfo(5).encode(chosen), False))
    assert end.moq.state is State.ESTABLISHED


@pytest.mark.parametrize(
    "alpn, offer, form, expected",
    [
        # servers of the first generation choose no subprotocol, or name themselves by ALPN
        ("", ALL, None, (SetupForm.SESSION, (V1,))),
        ("moql-01", ALL, None, (SetupForm.SESSION, (V1,))),
        ("moql", ALL, None, (SetupForm.DRAFT14, (V2, V1))),
        ("", (V2,), None, (SetupForm.DRAFT14, (V2,))),
        ("", ALL, SetupForm.DRAFT14, (SetupForm.DRAFT14, (V2, V1))),
        ("moql", ALL, SetupForm.COMPAT, (SetupForm.COMPAT, (V2, V1))),
        ("moql", ALL, SetupForm.SESSION, (SetupForm.SESSION, (V2, V1))),
        ("moql-01", ALL, SetupForm.DRAFT14, (SetupForm.DRAFT14, (V1,))),
    ],
)
@pytest.mark.parametrize("step", [1, 1000])
def test_the_client_offers_what_the_server_may_know(
    alpn: str,
    offer: tuple[Version, ...],
    form: SetupForm | None,
    expected: tuple[SetupForm, tuple[Version, ...]],
    step: int,
) -> None:
    end = make(is_client=True, versions=offer, alpn=alpn, options=Options(form=form))
    (stream,) = end.session.streams
    used, codes = expected
    assert stream.written == ClientSetup(used, tuple(version.setup_code for version in codes)).encode()
    assert (stream.unidirectional, stream.finished, end.events) == (False, False, [])
    reply = ServerSetup(used, codes[-1].setup_code).encode() + SessionInfo(7).encode(codes[-1])
    for start in range(0, len(reply), step):
        end.receive(StreamData(stream, reply[start : start + step], False))
    assert kinds(end.events)[:2] == [Opened, Established]
    assert end.moq.version is codes[-1]


@pytest.mark.parametrize("form", [SetupForm.DRAFT14, SetupForm.SESSION])
def test_path_and_authority_go_in_the_form_that_has_them(form: SetupForm) -> None:
    options = Options(form=form, target="/anon?jwt=abc", authority="relay:4443")
    client = make(is_client=True, options=options, alpn="moql")
    server = make()
    server.receive(
        StreamData(server.session.peer_opens(unidirectional=False), client.session.streams[0].written, False)
    )
    assert server.one(Introduced) == ("/anon?jwt=abc" if form is SetupForm.DRAFT14 else None,)


@pytest.mark.parametrize(
    "is_client, data, code, spoken",
    [
        (False, ClientSetup(SetupForm.DRAFT14, (0xFF00000E,)).encode(), 9, ALL),
        (False, ClientSetup(SetupForm.SESSION, (V1.setup_code,)).encode(), 9, (V2, V6)),
        (False, ClientSetup(SetupForm.SESSION, ()).encode(), 9, ALL),
        (False, b"\x01\x01\x00", 15, ALL),
        (False, b"\x00\x03\x01\xc0\x00", 5, ALL),
        (False, b"\x00\x80\x02\x00\x00", 11, ALL),
        (True, ServerSetup(SetupForm.DRAFT14, V6.setup_code).encode(), 9, ALL),
        (True, ServerSetup(SetupForm.DRAFT14, V1.setup_code).encode(), 9, (V2,)),
        (True, ServerSetup(SetupForm.SESSION, V1.setup_code).encode(), 15, ALL),
    ],
)
@pytest.mark.parametrize("step", [1, 1000])
def test_a_setup_that_leads_to_no_version_ends_the_session(
    is_client: bool, data: bytes, code: int, spoken: tuple[Version, ...], step: int
) -> None:
    end = make(is_client=is_client, versions=spoken, alpn="moql", options=Options(form=SetupForm.DRAFT14))
    stream = end.session.streams[0] if is_client else end.session.peer_opens(unidirectional=False)
    for start in range(0, len(data), step):
        end.receive(StreamData(stream, data[start : start + step], False))
    kept = [event for event in end.events if not isinstance(event, LimitExceeded | Incompatible)]
    assert kinds(kept) == [Fault, Closed]
    assert [closed for closed, _ in end.session.closed] == [code] == [end.one(Closed).code]
    assert (end.moq.state, end.moq.deadline, end.moq.name) == (State.CLOSED, NEVER, None)


def test_a_client_without_a_version_for_setup_ends_the_session() -> None:
    end = make(is_client=True, versions=(V5, V6))
    assert kinds(end.events) == [Fault, Closed]
    assert end.session.streams == []


def test_a_server_cannot_choose_what_the_first_form_did_not_offer() -> None:
    end = make(is_client=True)
    reply = ServerSetup(SetupForm.SESSION, V2.setup_code).encode()
    end.receive(StreamData(end.session.streams[0], reply, False))
    assert end.one(Closed).code == 9


@ends
@pytest.mark.parametrize("how", ["fin", "reset"])
def test_the_end_of_the_setup_stream_is_the_end_of_the_session(is_client: bool, how: str) -> None:
    end = make(is_client=is_client, admitted=True)
    if is_client:
        (stream,) = end.session.streams
        end.receive(StreamData(stream, ServerSetup(SetupForm.SESSION, V1.setup_code).encode(), False))
    else:
        stream = client_setup(end, ClientSetup(SetupForm.SESSION, (V1.setup_code,)))
    assert kinds(end.events) == [Opened, Established]
    end.receive(StreamData(stream, b"", True) if how == "fin" else StreamReset(stream, 3))
    assert end.events[-1] == Closed(0, end.session.closed[0][1], by_peer=False)
    assert end.of(Fault) == []


# --- 05 and 06: a stream of its own ----------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [V5, V6])
@ends
@pytest.mark.parametrize(
    "transport, path, query, target, told",
    [
        ("quic", None, "", None, None),
        ("quic", "/room", "jwt=a", None, "/room?jwt=a"),
        ("quic", "", "jwt=a", None, "/?jwt=a"),
        ("quic", "/room", "", "/other", "/other"),
        ("webtransport", "/room", "jwt=a", None, None),
        ("websocket", "/room", "", "/other", None),
        ("memory", "/room", "", None, None),
        ("memory", "/room", "", "/other", "/other"),
    ],
)
def test_a_client_tells_its_target_where_the_transport_does_not(
    version: Version,
    is_client: bool,
    transport: str,
    path: str | None,
    query: str,
    target: str | None,
    told: str | None,
) -> None:
    options = Options(role=2, cost=7, probe=1, target=target)
    end = make(version, is_client=is_client, transport=transport, path=path, query=query, options=options)
    (stream,) = end.session.streams
    expected = Setup(1, told if is_client else None, 2, 7, 11)
    assert stream.written == setup_stream(version, expected)
    assert (stream.unidirectional, stream.finished) == (True, True)


@pytest.mark.parametrize("version", [V5, V6])
def test_a_server_without_a_url_waits_for_the_target(version: Version) -> None:
    end = make(version)
    assert end.events == []
    send_setup(end, version, Setup(path="/room?jwt=a", role=1, cost=3, origin=9))
    assert end.events == [PeerInfo(9, 3, 1, None), Introduced("/room?jwt=a")]
    assert end.moq.peer == PeerInfo(9, 3, 1, None)
    end.moq.setup.admit(1.0)
    assert kinds(end.poll()) == [Opened, Established]


@versions
def test_a_server_with_a_url_asks_at_once(version: Version) -> None:
    end = make(version, transport="webtransport", path="/room")
    assert end.events == [Introduced(None)]
    assert end.moq.deadline == NEVER  # admission may take any time
    end.moq.setup.admit(3.0)
    end.poll()
    waits = version.needs_peer_setup
    assert kinds(end.events) == [Introduced, Opened] + ([] if waits else [Established])
    assert end.moq.deadline == (3.0 + TIMEOUT if waits else NEVER)


@ends
def test_requests_wait_for_the_hop_id_of_the_peer(is_client: bool) -> None:
    end = make(V6, is_client=is_client, transport="webtransport", path="/", admitted=True)
    assert kinds(end.events) == [Opened]
    # ours need not wait
    end.moq.requests.request_announcements("")
    first = opening(end, V6, AnnounceRequest("a"))
    opening(end, V6, Subscribe(0, "demo/cam", "video/hd"))
    end.receive(StreamStopped(first, 5))
    assert kinds(end.events) == [Opened]
    assert kinds(send_setup(end, V6, Setup(origin=9))) == [
        PeerInfo,
        Established,
        AnnounceRequested,
        SubscribeRequested,
        RequestCancelled,
    ]
    assert [event.prefix for event in end.of(AnnounceRequested)] == ["a"]


def test_an_owner_without_routes_does_not_wait() -> None:
    options = Options(waits_for_setup=False)
    end = make(V6, transport="webtransport", path="/", admitted=True, options=options)
    assert kinds(end.events) == [Opened, Established]
    assert kinds(send_setup(end, V6, Setup(origin=9))) == [PeerInfo]


@pytest.mark.parametrize("version", [V5, V6])
@ends
@pytest.mark.parametrize(
    "data, reason",
    [
        (setup_stream(V6, Setup(origin=9)), "second SETUP"),
        (setup_stream(V6, Setup()) + b"\x00", "bytes after SETUP"),
        (b"\x01\x05\x02\x09\x00\x09\x00", "repeated"),
        (b"\x01\x02\x40\x41", "at most 64"),
        (b"\x01\x04\x01\x02\x01\xff", "UTF-8"),
    ],
)
def test_a_bad_setup_ends_the_session(version: Version, is_client: bool, data: bytes, reason: str) -> None:
    end = make(version, is_client=is_client, transport="webtransport", path="/", admitted=True)
    if reason == "second SETUP":
        send_setup(end, version, Setup(origin=8))
    end.receive(StreamData(end.session.peer_opens(unidirectional=True), data, False))
    assert reason in end.one(Closed).reason
    assert end.session.closed[0][0] == 3


@pytest.mark.parametrize("version", [version for version in ALL if not version.has_setup_stream])
def test_older_versions_refuse_a_setup_stream(version: Version) -> None:
    end = make(version, transport="webtransport", path="/", admitted=True)
    assert kinds(send_setup(end, V5, Setup(origin=9))) == [Fault]
    assert end.session.streams[-1].stops
    assert end.session.closed == []


# --- admission, and what comes before it -----------------------------------------------------------------------------


def test_admission_may_come_before_the_peer_is_introduced() -> None:
    end = make()
    end.moq.setup.admit(0.0)
    assert end.poll() == []
    client_setup(end, ClientSetup(SetupForm.SESSION, (V1.setup_code,)))
    assert kinds(end.events) == [Opened, Established]
    end = make(V5)
    end.moq.setup.admit(0.0)
    assert kinds(end.poll()) == [Opened, Established]
    assert kinds(send_setup(end, V5, Setup(path="/room"))) == [PeerInfo]


@versions
def test_requests_wait_for_admission_in_their_order(version: Version) -> None:
    end = make(version, transport="webtransport", path="/")
    if version.needs_peer_setup:
        send_setup(end, version, Setup(origin=9))
    announce = end.session.peer_opens(unidirectional=False)
    data = open_request(version, AnnounceRequest("demo"))
    end.receive(StreamData(announce, data[:2], False), StreamData(announce, data[2:], False))
    left = opening(end, version, Subscribe(3, "demo/cam", "video/hd"))
    end.receive(StreamReset(left, 0), TransportDatagram(b"\x00\x00\x00x"))
    assert kinds(end.events)[-1:] in ([Introduced], [PeerInfo])
    end.moq.setup.admit(0.0)
    assert kinds(end.poll()) == [
        Opened,
        Established,
        AnnounceRequested,
        SubscribeRequested,
        RequestCancelled,
    ]
    assert end.moq.setup.held.events == []


@pytest.mark.parametrize("version", [None, *ALL])
@pytest.mark.parametrize("size", [0, 1000])
def test_what_is_held_before_admission_is_bounded(version: Version | None, size: int) -> None:
    end = make(version, transport="webtransport", path="/")
    if version is None:
        client_setup(end, ClientSetup(SetupForm.SESSION, (V1.setup_code,)))
    stream = end.session.peer_opens(unidirectional=False)
    fit = HELD_BYTES // (size + EVENT_COST)
    end.receive(*(StreamData(stream, bytes(size), False) for _ in range(fit)))
    assert end.session.closed == []
    end.receive(*(StreamData(stream, bytes(size), False) for _ in range(5)))
    assert end.one(Closed).reason == "too much before SETUP"
    assert end.moq.setup.held.events == []


def test_streams_of_a_peer_without_a_version_are_held() -> None:
    """The bytes of SETUP may come after those of other streams."""
    end = make(admitted=True, transport="webtransport", path="/")
    setup, group = end.session.peer_opens(unidirectional=False), end.session.peer_opens(unidirectional=True)
    data = ClientSetup(SetupForm.SESSION, (V1.setup_code,)).encode()
    end.receive(StreamData(setup, data[:3], False))
    end.receive(StreamData(group, group_header(V1, GroupHeader(0, 7)), False), StreamReset(group, 0))
    assert end.events == []
    end.receive(StreamData(setup, data[3:], False))
    assert kinds(end.events) == [Opened, Established, StrayGroup]


def test_a_held_stream_stays_in_order() -> None:
    end = make(transport="webtransport", path="/")
    setup, group = end.session.peer_opens(unidirectional=False), end.session.peer_opens(unidirectional=True)
    data, header = (
        ClientSetup(SetupForm.SESSION, (V1.setup_code,)).encode(),
        group_header(V1, GroupHeader(0, 7)),
    )
    end.receive(StreamData(setup, data[:3], False), StreamData(group, header[:1], False))
    end.receive(StreamData(setup, data[3:], False), StreamData(group, header[1:], False))
    end.moq.setup.admit(0.0)
    end.poll()
    assert end.of(Fault) == []
    assert end.one(StrayGroup) == (0, 7)


# --- time ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [None, V5, V6])
@ends
def test_a_peer_without_setup_is_closed_in_time(version: Version | None, is_client: bool) -> None:
    end = make(version, is_client=is_client)
    if is_client and version is V5:
        assert end.moq.deadline == NEVER  # established without the peer's SETUP
        return
    assert end.moq.deadline == TIMEOUT
    assert end.on_time(TIMEOUT - 0.1) == []
    assert kinds(end.on_time(TIMEOUT)) == [LimitExceeded, Closed]
    assert end.one(LimitExceeded).limit == "setup_timeout"
    # without a version: every peer knows the numbers of 01
    assert end.one(Closed) == (3 if version is None else 17, "no SETUP in time", False)
    assert end.moq.deadline == NEVER
    assert end.on_time(TIMEOUT * 2) == []


def test_time_to_be_admitted_is_not_the_peers() -> None:
    end = make(V6, transport="webtransport", path="/")
    assert end.on_time(10 * TIMEOUT) == []
    end.moq.setup.admit(100.0)
    end.poll()
    assert end.moq.deadline == 100.0 + TIMEOUT
    assert kinds(end.on_time(100.0 + TIMEOUT)) == [LimitExceeded, Closed]


@pytest.mark.parametrize("answers", [True, False])
def test_a_sign_of_life(answers: bool) -> None:
    end = Pair(V6).server
    end.moq.alive.begin(5.0)
    end.moq.alive.begin(5.5)  # one question at a time
    assert (end.session.pings, end.moq.deadline) == (1, 6.0)
    new = end.receive(Pong(), Pong()) if answers else end.on_time(6.0)
    assert new == [PeerAlive(alive=answers)]
    assert end.moq.deadline == NEVER
    # a stalled peer is reported once more
    assert end.receive(Pong()) == ([] if answers else [PeerAlive(alive=True)])
    assert end.receive(Pong()) == end.on_time(9.0) == []


@pytest.mark.parametrize("state", ["closed", "established"])
def test_late_admission_starts_no_clock(state: str) -> None:
    """An owner's check of a token may end after the session has."""
    end = make(V5, transport="webtransport", path="/")
    if state == "closed":
        end.receive(SessionClosed(None, "timed out", by_peer=True))
    else:
        end.moq.setup.admit(0.0)
    end.moq.setup.admit(1.0)
    end.poll()
    assert end.moq.deadline == NEVER
    assert end.on_time(100.0) == []


@versions
@ends
def test_nothing_follows_a_close(version: Version, is_client: bool) -> None:
    end = make(version, is_client=is_client, transport="webtransport", path="/", admitted=True)
    stream = end.session.peer_opens(unidirectional=False)
    end.receive(
        SessionClosed(7, "bye", by_peer=True),
        StreamData(stream, open_request(version, Subscribe(0, "demo/cam", "video/hd")), True),
        SessionClosed(None, "again", by_peer=True),
    )
    end.moq.close(5, "too late")
    assert end.events[-1] == Closed(7, "bye", by_peer=True)
    assert len(end.of(Closed)) == 1
    assert end.session.closed == []
    assert end.moq.deadline == NEVER


@versions
def test_no_common_stream_type_of_set_up_reaches_an_established_session(version: Version) -> None:
    """Stream types that open SETUP in other versions are unknown once the version is chosen."""
    pair = Pair(version)
    for kind in (b"\x00", b"\x20", b"\x40\x40"):
        stream = pair.server.session.peer_opens(unidirectional=False)
        assert kinds(pair.server.receive(StreamData(stream, kind, False))) == [Fault]
        assert (len(stream.stops), len(stream.resets)) == (1, 1)
    request = pair.client.moq.requests.subscribe("demo/cam", "video/hd", SubscribeParams())
    pair.settle()
    assert request
    assert pair.server.one(SubscribeRequested)


@pytest.mark.parametrize("offered", [[0xFF00000E], [0xFF000010, 0xFF00000E], [0xFF00000E, 0xFF0DAD02]])
@pytest.mark.parametrize("step", [1, 1 << 20], ids=["bytes", "whole"])
def test_the_same_opening_may_choose_draft_14(offered: list[int], step: int) -> None:
    """The machine of moq-lite gives the session away, with all that has come."""
    session = FakeSession(None, is_client=False)
    end = End(session, (*ALL, Draft.DRAFT_14), hop=1).started()
    control = session.peer_opens(unidirectional=False)
    early = session.peer_opens(unidirectional=True)
    end.receive(StreamData(early, b"early", False))
    data = ClientSetup(SetupForm.DRAFT14, tuple(offered), {2: 100}).encode()
    for start in range(0, len(data), step):
        end.receive(StreamData(control, data[start : start + step], False))
    chosen = end.one(DialectChosen)
    assert end.events[-1] is chosen
    assert end.moq.closed
    assert session.closed == []
    moq = open_session(session, Limits(), 1, (), admitted=True, chosen=chosen.version)
    moq.start(0.0)
    moq.receive(chosen.events[:1], 0.0)
    assert [type(event) for event in moq.poll()] == [Opened, Established]
    assert control.written[:1] == b"\x21"
    assert chosen.events[1:] == (StreamData(early, b"early", False),)


@pytest.mark.parametrize("end", [None, "fin", "reset", "close"])
def test_what_follows_in_the_same_turn_goes_to_the_chosen_draft(end: str | None) -> None:
    """A request in the same packet as SETUP, another stream, and the end."""
    session = FakeSession(None, is_client=False)
    lite = End(session, (*ALL, Draft.DRAFT_14), hop=1).started()
    control = session.peer_opens(unidirectional=False)
    data = ClientSetup(SetupForm.DRAFT14, (Draft.DRAFT_14.setup_code,), {2: 100}).encode()
    data += encode(IetfSubscribe(0, (b"demo",), b"video"), DRAFT_14)
    late = session.peer_opens(unidirectional=True)
    events: list[Any] = [StreamData(control, data, end == "fin"), StreamData(late, b"late", False)]
    if end == "reset":
        events.append(StreamReset(control, 1))
    elif end == "close":
        events.append(SessionClosed(0, "", by_peer=True))
    lite.receive(*events)
    chosen = lite.one(DialectChosen)
    assert chosen.events == tuple(events)
    assert lite.events[-1] is chosen
    lite.moq.unlink()
    moq = open_session(session, Limits(), 1, (), admitted=True, chosen=chosen.version)
    moq.start(0.0)
    moq.receive(chosen.events, 0.0)
    kinds_of = [type(event) for event in moq.poll()]
    assert kinds_of[:3] == [Opened, Established, InfoRequested]
    assert moq.closed is (end is not None)
    assert (kinds_of[-1] is Closed) is (end is not None)


def test_draft_14_is_not_chosen_where_it_is_not_spoken() -> None:
    session = FakeSession(None, is_client=False)
    end = End(session, ALL, hop=1).started()
    control = session.peer_opens(unidirectional=False)
    data = ClientSetup(SetupForm.DRAFT14, (0xFF00000E, 0xFF0DAD02), {}).encode()
    end.receive(StreamData(control, data, False))
    assert end.moq.version is V2
