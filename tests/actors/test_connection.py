"""The connection actor over an in-memory session, with raw wire messages: set-up, dispatch, the end."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relay.actors import messages as m
from relay.actors.expiry import Expiries
from relay.actors.runtime import ask, halt
from relay.auth.permissions import Permissions, UnauthorizedError
from relay.model.incompatible import IncompatiblePeers
from relay.model.limits import Limits
from relay.runtime import Runtime
from relay.transport.session import Pong
from relay.wire.announce import AnnounceRequest
from relay.wire.errors import OldCode, SessionCode
from relay.wire.frame import setup_stream
from relay.wire.setup import ClientSetup, ServerSetup, Setup, SetupForm
from relay.wire.version import Version
from tests.actors.fakes import Fake
from tests.actors.raw_peer import SilentPeer
from tests.actors.watching import Trouble, actors
from tests.actors.world import HOP, QUICK, World
from tests.clock import TIMEOUT, advance, settle, until
from tests.sampling import ALL

MODERN = [v for v in Version if v >= Version.LITE_03]
WITH_SETUP = [Version.LITE_05, Version.LITE_06]


def hexed(text: str) -> bytes:
    return bytes.fromhex(text.replace(" ", ""))


# --- set-up of 01 and 02 ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("opening", "reply", "version"),
    [
        ("00 0a 01 c0000000ff0dad01 00", "09 c0000000ff0dad01 00", Version.LITE_01),
        (
            "4040 15 02 c0000000ff0dad01 c0000000ff000007 01 00 01 03",
            "4041 09 c0000000ff0dad01 00",
            Version.LITE_01,
        ),
        (
            "20 0014 02 c0000000ff0dad02 c0000000ff0dad01 01 02 20",
            "21 0009 c0000000ff0dad02 00",
            Version.LITE_02,
        ),
    ],
    ids=["session", "compat", "draft14"],
)
@pytest.mark.parametrize("slices", ["whole", "bytewise"])
async def test_the_three_openings_get_their_reply(
    world: World, opening: str, reply: str, version: Version, slices: str
) -> None:
    peer = world.connect(version, introduce=False)
    data = hexed(opening)
    stream = peer.bidi(data if slices == "whole" else data[:1])
    for position in range(1, len(data) if slices == "bytewise" else 0):
        await settle()
        stream.write(data[position : position + 1])
    await settle()
    assert stream.data == hexed(reply)
    assert not stream.fins
    described = await ask(peer.ref, m.DescribeSession(), timeout=TIMEOUT)
    assert described.version == version.name_on_wire
    assert [s.request for s in peer.announce_streams()] == [AnnounceRequest("")]


async def test_the_first_supported_version_of_the_client_wins(world: World) -> None:
    peer = world.connect(Version.LITE_01, introduce=False)
    stream = peer.bidi(ClientSetup(SetupForm.DRAFT14, (0xFF000000, 0xFF0DAD01, 0xFF0DAD02)).encode())
    await settle()
    assert stream.data == ServerSetup(SetupForm.DRAFT14, 0xFF0DAD01).encode()


async def test_no_common_version_closes_the_session(caplog: pytest.LogCaptureFixture) -> None:
    world = World(versions=(Version.LITE_01, *MODERN))
    world.environment = replace(
        world.environment, incompatible=IncompatiblePeers(["moq-lite-01"], lambda: 0.0)
    )
    peer = world.connect(Version.LITE_02, introduce=False)
    peer.bidi(ClientSetup(SetupForm.DRAFT14, (0xFF0DAD02, 0xFF0DAD03)).encode())
    await settle()
    assert [closed.code for closed in peer.closed] == [OldCode.VERSION]
    [line] = [text for text in caplog.messages if "no common version remote=" in text]
    assert "offered=0xff0dad02,0xff0dad03 spoken=moq-lite-01" in line
    assert actors() == ["origin"]
    await world.close()


@pytest.mark.parametrize("how", ["fin", "reset"])
async def test_the_end_of_the_setup_stream_is_the_end_of_the_session(world: World, how: str) -> None:
    peer = await world.viewer(Version.LITE_02)
    stream = peer.own[0]
    if how == "fin":
        stream.write(fin=True)
    else:
        stream.reset(0)
    await settle()
    assert [closed.code for closed in peer.closed] == [0]
    assert actors() == ["origin"]


async def test_requests_before_the_setup_wait_for_it(world: World) -> None:
    peer = world.connect(Version.LITE_01, introduce=False)
    stream = peer.bidi(b"\x00")
    await settle()
    watching = peer.watch()
    await settle()
    assert not watching.stream.data
    stream.write(hexed("0a 01 c0000000ff0dad01 00"))
    await settle()
    assert watching.stream.data == hexed("01 00")


async def test_the_url_of_the_session_counts_on_01_and_02_too() -> None:
    asked: list[tuple[str, str]] = []

    def authorize(path: str, query: str) -> Permissions:
        asked.append((path, query))
        return Permissions(path.strip("/"), ("",), ("",))

    for version in (Version.LITE_01, Version.LITE_03, Version.LITE_05, Version.LITE_06):
        asked.clear()
        world = World(authorize=authorize)
        world.connect(version, permissions=None, path="/room", query="jwt=x")
        await settle()
        assert asked == [("/room", "jwt=x")], version
        await world.close()


# --- set-up of 03 to 06 ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [Version.LITE_03, Version.LITE_04])
async def test_03_and_04_have_no_setup(world: World, version: Version) -> None:
    peer = world.connect(version, kind=SilentPeer)
    await settle()
    assert not peer.incoming
    assert len(peer.announce_streams()) == 1


@pytest.mark.parametrize("version", WITH_SETUP)
async def test_05_and_06_send_their_setup_at_once_and_finish_it(world: World, version: Version) -> None:
    peer = world.connect(version, kind=SilentPeer)
    await settle()
    (stream,) = peer.incoming
    assert stream.setup == Setup(origin=HOP)
    assert stream.fins == 1
    assert len(peer.announce_streams()) == 1


async def test_06_waits_for_the_peers_setup_before_it_offers_anything(world: World) -> None:
    await world.publisher(Version.LITE_06, "room/cam", origin=5)
    peer = world.connect(Version.LITE_06, introduce=False)
    watching = peer.watch()
    await settle()
    assert not watching.stream.data
    peer.introduce(origin=77)
    await settle()
    assert watching.paths == ["room/cam"]


async def test_raw_quic_is_authorised_by_the_path_in_the_setup() -> None:
    def authorize(path: str, query: str) -> Permissions:
        if (path, query) != ("/anon/room", "jwt=abc"):
            raise UnauthorizedError("no")
        return Permissions("anon/room", ("",), ("",))

    for version in WITH_SETUP:
        world = World(authorize=authorize)
        peer = world.connect(version, permissions=None, path=None, introduce=False)
        await settle()
        assert not peer.announce_streams()
        peer.introduce(path="/anon/room?jwt=abc")
        await settle()
        assert peer.announce_streams()
        refused = world.connect(version, permissions=None, path=None, introduce=False)
        refused.introduce(path="/anon/room")
        await settle()
        assert [closed.code for closed in refused.closed] == [SessionCode.UNAUTHORIZED]
        await world.close()


async def test_raw_quic_of_02_is_authorised_by_the_path_in_the_setup() -> None:
    asked: list[tuple[str, str]] = []

    def authorize(path: str, query: str) -> Permissions:
        asked.append((path, query))
        raise UnauthorizedError("no")

    world = World(authorize=authorize)
    peer = world.connect(Version.LITE_02, permissions=None, path=None, introduce=False)
    stream = peer.bidi(ClientSetup(SetupForm.DRAFT14, (0xFF0DAD02,), {1: b"/r?jwt=x"}).encode())
    await settle()
    assert asked == [("/r", "jwt=x")]
    assert [closed.code for closed in peer.closed] == [OldCode.UNAUTHORIZED]
    assert not stream.data
    await world.close()


@pytest.mark.parametrize("version", WITH_SETUP)
async def test_a_second_setup_closes_the_session(world: World, version: Version) -> None:
    peer = await world.viewer(version)
    peer.uni(setup_stream(version, Setup()), fin=True)
    await settle()
    assert [closed.code for closed in peer.closed] == [SessionCode.PROTOCOL_VIOLATION]


@pytest.mark.parametrize("version", [Version.LITE_01, Version.LITE_06])
async def test_a_peer_that_says_nothing_is_closed(version: Version) -> None:
    world = World(Limits(setup_timeout=0.01, track_idle=0.01))
    peer = world.connect(version, kind=SilentPeer)
    await until(lambda: peer.closed)
    expected = OldCode.TIMEOUT if version <= Version.LITE_02 else SessionCode.CONTROL_TIMEOUT
    assert [closed.code for closed in peer.closed] == [expected]
    await settle()
    assert actors() == ["origin"]
    await world.close()


@pytest.mark.parametrize("version", [Version.LITE_01, Version.LITE_06])
async def test_too_much_before_the_setup_closes_the_session(world: World, version: Version) -> None:
    peer = world.connect(version, kind=SilentPeer)
    if version <= Version.LITE_02:
        peer.bidi(b"\x00")
        await settle()
    stream = peer.bidi(b"\x01")
    for _ in range(300):
        stream.write(b"x" * 1_000)
        await settle()
        if peer.closed:
            break
    assert len(peer.closed) == 1
    assert actors() == ["origin"]


async def test_many_tiny_streams_before_the_setup_close_the_session(world: World) -> None:
    peer = world.connect(Version.LITE_06, kind=SilentPeer)
    for _ in range(5_000):
        peer.bidi(b"\x01")
    await settle()
    assert len(peer.closed) == 1


async def test_a_token_that_expires_ends_the_session(world: World) -> None:
    peer = await world.viewer(Version.LITE_05, permissions=Permissions("", ("",), ("",), expires=1.0))
    await until(lambda: peer.closed)
    assert [closed.code for closed in peer.closed] == [SessionCode.UNAUTHORIZED]


@pytest.mark.parametrize("version", list(Version))
async def test_a_peer_waits_while_its_rights_are_found_out(version: Version) -> None:
    answer: asyncio.Future[Permissions] = asyncio.get_running_loop().create_future()
    world = World(authorize=lambda _path, _query: answer)
    await world.publisher(Version.LITE_05, "room/cam", "hall/cam", origin=7)
    peer = world.connect(version, permissions=None, path="/room", origin=9)
    watching = peer.watch()
    await settle()
    assert not watching.paths
    assert not peer.announce_streams()
    answer.set_result(Permissions("room", (), ("",)))
    await settle()
    assert watching.paths == ["cam"]
    assert not peer.closed
    await world.close()


async def test_a_peer_that_leaves_while_its_rights_are_found_out_leaves_nothing() -> None:
    answer: asyncio.Future[Permissions] = asyncio.get_running_loop().create_future()
    world = World(authorize=lambda _path, _query: answer)
    peer = world.connect(Version.LITE_04, permissions=None, path="/room")
    await settle()
    peer.close()
    await settle()
    assert answer.cancelled()
    await world.close()


async def test_a_peer_is_not_left_waiting_if_the_question_fails(trouble: Trouble) -> None:
    def authorize(path: str, query: str) -> Permissions:
        raise ValueError("a fault of ours")

    world = World(authorize=authorize)
    peer = world.connect(Version.LITE_04, permissions=None, path="/room")
    await settle()
    assert [closed.code for closed in peer.closed] == [SessionCode.INTERNAL]
    assert len(trouble.records) == 1
    assert "authorisation failed" in trouble.records.pop()
    await world.close()


async def test_the_time_that_we_take_is_not_held_against_the_peer() -> None:
    answer: asyncio.Future[Permissions] = asyncio.get_running_loop().create_future()
    world = World(replace(QUICK, setup_timeout=0.05), authorize=lambda _path, _query: answer)
    peer = world.connect(Version.LITE_04, permissions=None, path="/room")
    await settle()
    await asyncio.sleep(0.1)
    assert not peer.closed
    answer.set_result(Permissions("room", ("",), ("",)))
    await settle()
    assert peer.announce_streams()
    await world.close()


async def test_the_end_of_a_token_is_a_date(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A changed clock or a sleeping machine does not shift it."""
    now = [1_000.0]
    monkeypatch.setattr("relay.actors.expiry.LOOK_INTERVAL", 0.01)
    world.environment = replace(world.environment, expiries=Expiries(Runtime(wall_time=lambda: now[0])))
    peer = await world.viewer(Version.LITE_05, permissions=Permissions("", ("",), ("",), expires=5_000.0))
    assert not peer.closed
    now[0] = 5_000.0
    await until(lambda: bool(peer.closed))
    assert [closed.code for closed in peer.closed] == [SessionCode.UNAUTHORIZED]
    assert len(world.environment.expiries) == 0


async def test_a_session_that_ends_before_its_token_leaves_no_date_behind(world: World) -> None:
    peer = await world.viewer(Version.LITE_05, permissions=Permissions("", ("",), ("",), expires=9e9))
    assert len(world.environment.expiries) == 1
    peer.close()
    await until(lambda: len(world.environment.expiries) == 0)


async def test_one_announce_stream_per_granted_prefix(world: World) -> None:
    peer = await world.viewer(Version.LITE_05, permissions=Permissions("root", ("a", "b/c"), ()))
    assert sorted(s.request.prefix for s in peer.announce_streams()) == ["a", "b/c"]
    nobody = await world.viewer(Version.LITE_05, permissions=Permissions("root", (), ("",)))
    assert not nobody.announce_streams()


async def test_a_subscribe_only_peer_is_not_asked_for_announcements(world: World) -> None:
    peer = world.connect(Version.LITE_05, permissions=None, path=None, introduce=False)
    peer.uni(setup_stream(Version.LITE_05, Setup(role=2)), fin=True)
    await settle()
    assert not peer.announce_streams()


# --- streams ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ALL)
async def test_an_unknown_stream_type_refuses_that_stream_only(world: World, version: Version) -> None:
    peer = await world.viewer(version)
    odd = peer.bidi(b"\x3f")
    odd_uni = peer.uni(b"\x3f")
    await settle()
    code = 0 if version <= Version.LITE_02 else 1
    assert odd.resets == [code]
    assert odd.stops == [code]
    assert odd_uni.stops == [code]
    assert not peer.closed
    watching = peer.watch()
    await settle()
    assert watching.paths == []


@pytest.mark.parametrize("version", [Version.LITE_03, Version.LITE_04])
async def test_probe_streams_of_03_and_04_are_held_open(world: World, version: Version) -> None:
    peer = await world.viewer(version)
    probe = peer.bidi(b"\x04")
    await settle()
    assert not probe.over
    assert not probe.stops
    assert not probe.data
    probe.write(fin=True)
    await settle()
    assert probe.fins == 1
    assert not peer.closed


@pytest.mark.parametrize("version", WITH_SETUP)
async def test_probe_streams_of_05_and_06_are_refused(world: World, version: Version) -> None:
    peer = await world.viewer(version)
    probe = peer.bidi(b"\x04")
    await settle()
    assert probe.resets == [1]
    assert not peer.closed


@pytest.mark.parametrize("version", [v for v in Version if v >= Version.LITE_04])
async def test_goaway_is_accepted_and_the_session_goes_on(world: World, version: Version) -> None:
    peer = await world.viewer(version)
    stream = peer.bidi(b"\x05\x01\x00")
    await settle()
    assert not peer.closed
    stream.write(fin=True)
    await settle()
    assert not peer.closed
    watching = peer.watch()
    await settle()
    assert watching.paths == []


@pytest.mark.parametrize("version", MODERN)
async def test_a_second_goaway_is_no_reason_to_hold_streams_forever(world: World, version: Version) -> None:
    if version < Version.LITE_04:
        return
    peer = await world.viewer(version)
    stream = peer.bidi(b"\x05\x01\x00", fin=True)
    await settle()
    assert stream.over


@pytest.mark.parametrize("version", ALL)
async def test_a_request_stream_that_ends_before_it_asks_is_ended(world: World, version: Version) -> None:
    peer = await world.viewer(version)
    cut = peer.bidi(b"\x01", fin=True)
    reset = peer.bidi(b"\x02\x10")
    await settle()
    reset.reset(7)
    await settle()
    assert cut.over
    assert reset.over
    assert not peer.closed
    assert len(peer.relay.raw.streams) == len(peer.session.streams)


@pytest.mark.parametrize("version", ALL)
@pytest.mark.parametrize("request_", ["01 02 09 ff", "02 03 00 01 ff", "01 05 02 ff fe 00 00", "02 01 00"])
async def test_an_unreadable_request_is_refused_and_the_session_goes_on(
    world: World, version: Version, request_: str
) -> None:
    peer = await world.viewer(version)
    stream = peer.bidi(hexed(request_))
    await settle()
    assert stream.resets == [0 if version <= Version.LITE_02 else 1]
    assert len(stream.stops) == 1
    assert not peer.closed
    watching = peer.watch()
    await settle()
    assert watching.paths == []


@pytest.mark.parametrize("version", ALL)
@pytest.mark.parametrize("where", ["long request", "group", "announcement"])
async def test_garbage_closes_the_session_and_leaves_no_actor(version: Version, where: str) -> None:
    world = World()
    peer = await world.viewer(version)
    if where == "long request":
        peer.bidi(hexed("01 bf ff ff ff"))
    elif where == "group":
        peer.uni(hexed("00 01 00"))
    else:
        peer.announce_streams()[0].write(hexed("02 ff ff 02 ff ff"))
    await settle()
    assert len(peer.closed) == 1
    allowed = (
        {OldCode.DECODE, OldCode.BOUNDS_EXCEEDED, OldCode.PROTOCOL_VIOLATION}
        if version <= Version.LITE_02
        else {SessionCode.PROTOCOL_VIOLATION}
    )
    assert peer.closed[0].code in allowed
    assert peer.closed[0].reason
    assert actors() == ["origin"]
    assert [gone.session for gone in world.gate.got(m.SessionGone)] == [1]
    await world.close()


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    version=st.sampled_from(ALL),
    streams=st.lists(
        st.tuples(st.booleans(), st.sampled_from(range(8)), st.binary(max_size=24), st.booleans()), max_size=6
    ),
)
def test_no_bytes_make_the_actor_fail(version: Version, streams: list[tuple[bool, int, bytes, bool]]) -> None:
    async def scenario() -> None:
        with Trouble() as trouble:
            world = World()
            peer = await world.viewer(version)
            for unidirectional, kind, data, fin in streams:
                content = bytes((kind,)) + data
                if unidirectional:
                    peer.uni(content, fin=fin)
                else:
                    peer.bidi(content, fin=fin)
                await settle()
            await world.close(clean=False)
            assert not trouble.records

    asyncio.run(scenario())


# --- the end ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ALL)
async def test_a_closed_session_leaves_nothing(version: Version) -> None:
    world = World()
    peer = await world.publisher(version, "room/cam")
    peer.watch()
    await settle()
    peer.close(3)
    await settle()
    assert actors() == ["origin"]
    assert await world.count() == (0, 0, 0)
    assert [gone.session for gone in world.gate.got(m.SessionGone)] == [1]
    assert not peer.relay.closes  # the peer closed first
    await world.close()


async def test_a_failing_transport_leaves_nothing(world: World) -> None:
    peer = await world.publisher(Version.LITE_05, "room/cam")
    peer.session.fail()
    await settle()
    assert actors() == ["origin"]
    assert await world.count() == (0, 0, 0)


async def test_a_stopped_connection_closes_its_session(world: World) -> None:
    peer = await world.publisher(Version.LITE_05, "room/cam")
    halt(peer.ref)
    await settle()
    assert [(closed.code, closed.by_peer) for closed in peer.closed] == [(0, True)]
    assert actors() == ["origin"]


async def test_closing_by_message_carries_code_and_reason(world: World) -> None:
    peer = await world.viewer(Version.LITE_05)
    await ask(peer.ref, m.CloseSession(SessionCode.INTERNAL, "enough"), timeout=TIMEOUT)
    await settle()
    assert [(closed.code, closed.reason) for closed in peer.closed] == [(1, "enough")]


async def test_a_failing_connection_ends_alone(world: World, trouble: Trouble) -> None:
    class Explosive:
        """An unknown message."""

        @property
        def key(self) -> int:
            raise ZeroDivisionError

    peer = await world.publisher(Version.LITE_05, "room/cam")
    other = await world.viewer(Version.LITE_05)
    message = m.Deliver(1, ())
    peer.ref.tell(message._replace(key=Explosive()))  # type: ignore[arg-type]  # unhashable enough
    peer.ref.tell(m.SessionEvents((object(),)))  # type: ignore[arg-type]
    peer.ref.tell(m.SessionEvents(None))  # type: ignore[arg-type]
    await settle()
    assert [closed.code for closed in peer.closed] == [SessionCode.INTERNAL]
    assert not other.closed
    assert await world.count() == (0, 0, 0)
    assert [r for r in trouble.records if r.startswith("Unhandled exception in session 1")]
    trouble.records.clear()


async def test_a_peer_is_reported_dead_or_alive(world: World) -> None:
    peer = await world.viewer(Version.LITE_03)
    peer.ref.tell(m.CheckAlive())
    await settle()
    assert peer.relay.pings == 1
    await settle()
    assert peer.relay.pings == 1


@pytest.mark.virtual
async def test_a_peer_that_was_found_dead_and_answers_late_is_alive_again() -> None:
    world = World()
    origin = Fake()
    world.environment = replace(world.environment, origin=origin.ref)
    peer = await world.viewer(Version.LITE_03)
    peer.session.silent = True
    for _ in range(3):
        peer.ref.tell(m.CheckAlive())
    await settle()
    assert peer.relay.pings == 1
    await advance(1.5)
    assert [found.alive for found in origin.got(m.Alive)] == [False]
    for _ in range(2):
        peer.session.side.tell(Pong())
    await settle()
    assert [found.alive for found in origin.got(m.Alive)] == [False, True]
    await world.close(clean=False)


async def test_describe_tells_what_a_session_does(world: World) -> None:
    peer = await world.publisher(Version.LITE_05, "room/cam", "room/mic")
    described = await ask(peer.ref, m.DescribeSession(), timeout=TIMEOUT)
    assert described.publishing == ("room/cam", "room/mic")
    assert described.version == "moq-lite-05"
    assert described.subscriptions == 0


# --- limits ----------------------------------------------------------------------------------------------------------


async def test_too_many_announcements_close_the_session() -> None:
    world = World(Limits(announces=3, track_idle=0.01))
    peer = await world.publisher(Version.LITE_05, "a", "b", "c")
    assert not peer.closed
    peer.publish("d")
    await settle()
    assert [closed.code for closed in peer.closed] == [SessionCode.PROTOCOL_VIOLATION]
    await world.close()


async def test_messages_behind_the_one_announcement_too_many_do_not_fail_the_actor(trouble: Trouble) -> None:
    world = World(Limits(announces=1, track_idle=0.01))
    peer = await world.publisher(Version.LITE_06)
    peer.publish("a")
    peer.publish("b")
    peer.update("b", (5,))
    await settle()
    assert [closed.code for closed in peer.closed] == [SessionCode.PROTOCOL_VIOLATION]
    assert not trouble.records
    await world.close()


async def test_announce_and_withdraw_do_not_use_the_limit_up() -> None:
    world = World(Limits(announces=2, track_idle=0.01))
    peer = await world.publisher(Version.LITE_06)
    for _ in range(10):
        peer.publish("a")
        peer.unpublish("a")
        await settle()
    assert not peer.closed
    await world.close()


async def test_too_many_announce_streams_are_refused_one_by_one() -> None:
    world = World(Limits(announce_streams=2, track_idle=0.01))
    peer = await world.viewer(Version.LITE_05)
    one, two, three = peer.watch(), peer.watch("a"), peer.watch("b")
    await settle()
    assert three.stream.resets == [48]
    assert not one.stream.over
    assert not two.stream.over
    one.stream.write(fin=True)
    await settle()
    again = peer.watch("c")
    await settle()
    assert again.paths == []
    assert not again.stream.over
    assert not peer.closed
    await world.close()


async def test_too_many_subscriptions_are_refused_one_by_one() -> None:
    world = World(Limits(subscriptions=2, track_idle=0.01))
    publisher = await world.publisher(Version.LITE_04, "p")
    peer = await world.viewer(Version.LITE_05)
    streams = [peer.subscribe("p", name)[1] for name in "abc"]
    await settle()
    assert [stream.resets for stream in streams] == [[], [], [48]]
    streams[0].write(fin=True)
    await settle()
    _, fresh = peer.subscribe("p", "d")
    await settle()
    assert not fresh.over
    assert not peer.closed
    assert len(publisher.subscriptions()) == 3
    await world.close()


async def test_a_subscribe_id_in_use_is_refused(world: World) -> None:
    await world.publisher(Version.LITE_04, "p")
    peer = await world.viewer(Version.LITE_05)
    peer.subscribe("p", "a")
    peer._next_id = 0
    _, second = peer.subscribe("p", "b")
    await settle()
    assert second.resets == [1]
    assert not peer.closed
