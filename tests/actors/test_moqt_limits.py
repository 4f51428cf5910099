"""Limits of one moq-transport session, exceeded by a real one while others are served.

Those of moq-lite are in `test_limits.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from relay.auth.permissions import Permissions, Reason, UnauthorizedError
from relay.model.limits import Limits
from relay.moq.ietf import MOST_PARKED
from relay.moq.ietf_exchange import MOST_IDS
from relay.moq.ietf_requests import EARLY, EARLY_STREAMS
from relay.moq.ietf_setup import WAITING_BYTES
from relay.wire.control import TrackInfo
from relay.wire.decoder import TrackInfoDecoder
from relay.wire.ietf.codes import Refusal, ResetCode, SessionCode
from relay.wire.ietf.messages import (
    Fetch,
    Goaway,
    PublishDone,
    PublishNamespace,
    RequestUpdate,
    Setup,
    Subscribe,
    SubscribeNamespace,
    SubscribeOk,
    Unsubscribe,
)
from relay.wire.ietf.parameters import Parameters
from relay.wire.ietf.values import MAX_NAMESPACE_FIELDS, AbsoluteRange, Location, PropertyType, Token
from relay.wire.ietf.varint import encode_vi64
from relay.wire.varint import encode_varint
from relay.wire.version import Draft, Version
from tests.actors.moqt_peer import Asked, MoqtPeer, namespace
from tests.actors.raw_peer import PeerStream
from tests.actors.test_cache_budget import BUDGET, Kept, within
from tests.actors.test_limits import Pair, connection, over_limit
from tests.actors.watching import actor_of, actors, named
from tests.actors.world import EVERYTHING, World
from tests.clock import advance, ready_count, settle, timer_count
from tests.sampling import FULL

DRAFTS = tuple(Draft) if FULL else (Draft.DRAFT_16, Draft.DRAFT_18)
drafts = pytest.mark.parametrize("draft", DRAFTS, ids=lambda draft: draft.name_on_wire)
SINCE_16 = [draft for draft in DRAFTS if draft is not Draft.DRAFT_14]
since_16 = pytest.mark.parametrize("draft", SINCE_16, ids=lambda draft: draft.name_on_wire)

QUICK = Limits(track_idle=0.01)


async def met(world: World, draft: Draft, **options: Any) -> MoqtPeer:
    peer = MoqtPeer(world, draft, **options)
    await settle()
    return peer


def counts_of(peer: MoqtPeer) -> Any:
    return connection(peer)._context.counts  # type: ignore[arg-type]


def overload(draft: Draft) -> int:
    """Up to 16 there is no code for it."""
    return Refusal.EXCESSIVE_LOAD if draft >= Draft.DRAFT_18 else Refusal.INTERNAL


def missing(draft: Draft) -> int:
    return 4 if draft is Draft.DRAFT_14 else Refusal.DOES_NOT_EXIST


def closes(peer: MoqtPeer) -> list[int | None]:
    return [closed.code for closed in peer.closed]


# --- control messages ------------------------------------------------------------------------------------------------


def subscribe_and_leave(peer: MoqtPeer) -> None:
    asked = peer.subscribe("good", "other")
    if peer.profile.request_streams:
        asked.stream.write(fin=True)
    else:
        asked.stream.write(peer.encode(Unsubscribe(asked.number)))


def ask_for_nothing(peer: MoqtPeer) -> None:
    peer.subscribe("nobody")


def ask_for_status(peer: MoqtPeer) -> None:
    peer.status("nobody")


def announce_the_same(peer: MoqtPeer) -> None:
    peer.publish("flap")


def look_around(peer: MoqtPeer) -> None:
    asked = peer.watch("x")
    if asked.stream is not peer.control:
        asked.stream.write(fin=True)


def fetch_nothing(peer: MoqtPeer) -> None:
    peer.fetch("nobody", 0)


def update(peer: MoqtPeer) -> None:
    if not peer.by_id:
        peer.subscribe("good")
    asked = peer.by_id[0]
    asked.stream.write(
        peer.encode(RequestUpdate(peer.next_id(), Parameters(priority=7), existing_id=asked.number))
    )


STORMS: list[Callable[[MoqtPeer], None]] = [
    *(subscribe_and_leave, ask_for_nothing, ask_for_status, announce_the_same, look_around, fetch_nothing),
    update,
]


@drafts
@pytest.mark.parametrize("storm", STORMS)
@pytest.mark.drives("control_rate", "control_burst")
async def test_a_storm_of_control_messages_ends_its_session_alone(
    draft: Draft, storm: Callable[[MoqtPeer], None], caplog: pytest.LogCaptureFixture
) -> None:
    world = World(replace(QUICK, control_rate=1, control_burst=60))
    pair = await Pair.of(world)
    await pair.works()
    before = sorted(actors())
    peer = await met(world, draft)
    counts = counts_of(peer)
    for _ in range(20):
        storm(peer)
        await settle()
    assert not peer.closed
    assert ("refused", "control_rate") not in counts
    for _ in range(60):
        storm(peer)
        await settle()
    assert closes(peer) == [SessionCode.TOO_MANY_REQUEST_UPDATES]
    assert "control messages a second" in peer.closed[0].reason
    assert counts["refused", "control_rate"] == 1
    (line,) = over_limit(caplog, "control_rate")
    assert line.startswith(f"[session {world._numbers}] over limit limit=control_rate value=1 ")
    await pair.works()
    assert [name for name in actors() if name not in before and "broadcast" in name] == []
    await world.close()


@drafts
async def test_storms_one_after_the_other_leave_nothing(draft: Draft) -> None:
    world = World(replace(QUICK, control_rate=1, control_burst=20))
    pair = await Pair.of(world)
    await settle()
    before = sorted(actors()), timer_count()
    for number in range(6):
        peer = await met(world, draft)
        for _ in range(40):
            if number % 2:
                peer.publish(f"flood/{number}")
            else:
                peer.subscribe("good")
        await settle()
        assert peer.closed
    await pair.works()
    assert (sorted(actors()), timer_count()) == before
    assert not ready_count()
    await world.close()


# --- numbers of requests ---------------------------------------------------------------------------------------------


@drafts
@pytest.mark.drives("subscriptions")
async def test_subscriptions_beyond_the_limit_are_refused(
    draft: Draft, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(replace(QUICK, subscriptions=3, answer_timeout=1.0))
    pair = await Pair.of(world)
    peer = await met(world, draft)
    asked = [peer.subscribe("good", f"t{number}") for number in range(5)]
    asked += [peer.status("good", "more"), peer.fetch("good", 0, "more")]
    await settle()
    refused = [one.refused for one in asked]
    assert refused == [None] * 3 + [overload(draft)] * 4
    assert counts_of(peer)["refused", "subscriptions"] == 4
    (line,) = over_limit(caplog, "subscriptions")
    assert line == f"[session {world._numbers}] over limit limit=subscriptions value=3 path=good"
    assert not peer.closed
    await pair.works()
    await world.close()


@drafts
@pytest.mark.drives("announce_streams")
async def test_interests_beyond_the_limit_are_refused(draft: Draft, caplog: pytest.LogCaptureFixture) -> None:
    world = World(replace(QUICK, announce_streams=4))
    pair = await Pair.of(world)
    peer = await met(world, draft)
    if draft is Draft.DRAFT_14:  # each is for the tracks, too
        asked = [peer.watch(f"x{number}") for number in range(4)]
        kept = 2
    else:
        asked = [peer.watch("x"), peer.watch_tracks("x"), peer.watch("y"), peer.watch_tracks("y")]
        asked += [peer.watch("z"), peer.watch_tracks("z"), peer.watch_tracks("w")]
        kept = 4
    await settle()
    assert [one.accepted for one in asked[:kept]] == [True] * kept
    assert [one.refused for one in asked[kept:]] == [overload(draft)] * (len(asked) - kept)
    assert counts_of(peer)["refused", "announce_streams"] >= len(asked) - kept
    assert len(over_limit(caplog, "announce_streams")) == 1
    assert len(actor_of(peer.ref)._moq.serving._tracks) <= kept
    assert not peer.closed
    await pair.works()
    await world.close()


@drafts
@pytest.mark.drives("announces")
async def test_namespaces_beyond_the_limit_end_their_session(
    draft: Draft, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(replace(QUICK, announces=5))
    pair = await Pair.of(world)
    peer = await met(world, draft)
    counts = counts_of(peer)
    for number in range(5):
        peer.publish(f"flood/{number}")
    await settle()
    assert not peer.closed
    peer.offer("flood/one/more", "video", 7)
    await settle()
    assert closes(peer) == [SessionCode.PROTOCOL_VIOLATION]
    assert "more than 5 announcements" in peer.closed[0].reason
    assert counts["refused", "announces"] == 1
    assert len(over_limit(caplog, "announces")) == 1
    await pair.works()
    await world.close()


@drafts
async def test_offers_of_one_namespace_have_a_number(draft: Draft) -> None:
    world = World(replace(QUICK, announces=2))
    pair = await Pair.of(world)
    peer = await met(world, draft)
    asked = [peer.offer("p", f"t{number}", number) for number in range(6)]
    await settle()
    assert [one.refused for one in asked] == [None] * 4 + [overload(draft)] * 2
    assert counts_of(peer)["refused", "announces"] == 2
    assert not peer.closed
    await pair.works()
    await world.close()


@drafts
@pytest.mark.drives("tracks")
async def test_tracks_beyond_the_limit_are_refused(draft: Draft, caplog: pytest.LogCaptureFixture) -> None:
    world = World(replace(QUICK, tracks=1))
    publisher = await met(world, draft)
    publisher.publish("p")
    await settle()
    peer = await met(world, draft)
    asked = [peer.subscribe("p", name) for name in "abc"]
    await settle()
    assert [one.refused for one in asked] == [None, overload(draft), overload(draft)]
    assert over_limit(caplog, "tracks") == ["[session 2] [broadcast p] over limit limit=tracks value=1"]
    await world.close()


# --- names -----------------------------------------------------------------------------------------------------------

LONG = "x" * 101


@drafts
@pytest.mark.drives("path")
async def test_requests_with_long_names_are_refused(draft: Draft, caplog: pytest.LogCaptureFixture) -> None:
    world = World(replace(QUICK, path=100))
    pair = await Pair.of(world)
    peer = await met(world, draft)
    asked = [
        *(peer.subscribe(LONG), peer.subscribe("good", LONG), peer.status(LONG), peer.fetch(LONG, 0)),
        *(peer.watch(LONG), peer.offer("p", LONG, 1)),
    ]
    await settle()
    assert [one.refused for one in asked] == [missing(draft)] * len(asked)
    assert counts_of(peer)["refused", "path"] >= len(asked)
    assert len(over_limit(caplog, "path")) == 1
    assert not peer.closed
    await pair.works()
    await world.close()


@drafts
async def test_a_long_namespace_ends_its_session(draft: Draft) -> None:
    world = World(replace(QUICK, path=100))
    pair = await Pair.of(world)
    peer = await met(world, draft)
    counts = counts_of(peer)
    peer.publish(LONG)
    await settle()
    assert closes(peer) == [SessionCode.PROTOCOL_VIOLATION]
    assert peer.closed[0].reason == "a path of 101 bytes, at most 100 are allowed"
    assert counts["refused", "path"] == 1
    await pair.works()
    await world.close()


@drafts
async def test_tuples_of_many_fields_end_their_session(draft: Draft) -> None:
    """More than any draft allows, by the count alone."""
    world = World(QUICK)
    pair = await Pair.of(world)
    for count in (MAX_NAMESPACE_FIELDS + 1, 1 << 29):
        peer = await met(world, draft)
        body = b"\x00" + number_of(peer, count) + b"\x01x" * 100
        head = number_of(peer, 0x06)  # PUBLISH_NAMESPACE
        data = head + len(body).to_bytes(2, "big") + body
        if peer.profile.request_streams:
            peer.session.open_bidi().write((data,))
        else:
            peer.control.write(data)
        await settle()
        assert closes(peer) == [SessionCode.PROTOCOL_VIOLATION]
        await pair.works()
    await world.close()


def number_of(peer: MoqtPeer, value: int) -> bytes:
    return encode_varint(value) if peer.profile.quic_varints else encode_vi64(value)


# --- sizes of messages -------------------------------------------------------------------------------------------------

LARGEST = 5_000


def message_of(peer: MoqtPeer, size: int) -> Subscribe:
    """A request whose body has that many bytes."""
    number = peer.next_id()

    def made(length: int) -> Subscribe:
        return Subscribe(number, namespace("good"), b"video", Parameters(tokens=(Token(b"x" * length),)))

    head = len(number_of(peer, 0x03)) + 2
    spare = size - (len(peer.encode(made(1_000))) - head)
    return made(1_000 + spare)


@drafts
@pytest.mark.drives("message")
async def test_a_message_beyond_the_limit_ends_its_session(
    draft: Draft, caplog: pytest.LogCaptureFixture
) -> None:
    """Below what its two bytes of length can say, and by these alone."""
    world = World(replace(QUICK, message=LARGEST))
    pair = await Pair.of(world)
    peer = await met(world, draft)
    counts = counts_of(peer)
    fits = peer.ask(message_of(peer, LARGEST))
    await settle()
    assert fits.accepted
    head = number_of(peer, 0x03) + (LARGEST + 1).to_bytes(2, "big")
    (peer.session.open_bidi() if peer.profile.request_streams else peer.control.stream).write((head,))
    await settle()
    assert closes(peer) == [SessionCode.PROTOCOL_VIOLATION]
    assert peer.closed[0].reason == "message of 5001 bytes, at most 5000 are allowed"
    assert counts["refused", "message"] == 1
    assert len(over_limit(caplog, "message")) == 1
    await pair.works()
    await world.close()


@drafts
async def test_a_setup_beyond_the_limit_ends_its_session(draft: Draft) -> None:
    world = World(replace(QUICK, message=LARGEST))
    peer = await met(world, draft, setup=False)
    counts = counts_of(peer)
    peer.set_up(tokens=(Token(b"x" * LARGEST),))
    await settle()
    assert closes(peer) == [SessionCode.PROTOCOL_VIOLATION]
    assert "at most 5000 are allowed" in peer.closed[0].reason
    assert counts["refused", "message"] == 1
    await world.close()


@since_16
async def test_an_answer_beyond_the_limit_ends_its_session(draft: Draft) -> None:
    """Drafts from 16 on have room in it, for properties of the track."""
    world = World(replace(QUICK, message=LARGEST))
    pair = await Pair.of(world)
    scene = await Published(world, draft).begin(accept=False)
    peer = scene.peer
    counts = counts_of(peer)
    stream, request = peer.subscriptions()[0]
    properties = ((0x3D, b"x" * LARGEST),)
    answer = SubscribeOk(9, properties=properties, request_id=request.request_id)
    stream.write(peer.encode(answer))
    await settle()
    assert closes(peer) == [SessionCode.PROTOCOL_VIOLATION]
    assert counts["refused", "message"] == 1
    assert scene.viewer.own[-1].over
    assert not scene.viewer.closed
    await pair.works()
    await world.close()


# --- request ids, SETUP, the control stream --------------------------------------------------------------------------


@drafts
@pytest.mark.parametrize("turn", ["parity", "live", "beyond", "namespaces beyond"])
async def test_ids_that_are_not_the_peers_end_their_session(draft: Draft, turn: str) -> None:
    world = World(QUICK)
    pair = await Pair.of(world)
    peer = await met(world, draft)
    good = namespace("good")
    wanted = SessionCode.INVALID_REQUEST_ID
    match turn:
        case "parity":
            peer.ask(Subscribe(1, good, b"video"))
        case "live":
            peer.ask(Subscribe(0, good, b"video"))
            peer.ask(Subscribe(0, good, b"video"))
        case "beyond":
            peer.ask(Subscribe(MOST_IDS, good, b"video"))
            wanted = SessionCode.TOO_MANY_REQUESTS
        case _:
            peer.ask(SubscribeNamespace(MOST_IDS, good))
            wanted = SessionCode.TOO_MANY_REQUESTS
    await settle()
    if "beyond" in turn and peer.profile.request_streams:
        assert not peer.closed  # streams limit requests there
        assert all(asked.refused is None for asked in peer.by_id.values())
    else:
        assert closes(peer) == [wanted]
    await pair.works()
    await world.close()


@drafts
async def test_an_id_that_was_used_ends_the_session_of_one_control_stream(draft: Draft) -> None:
    """On request streams an id may not be told from an old one: only live ones are known."""
    world = World(QUICK)
    peer = await met(world, draft)
    peer.ask(Subscribe(2, namespace("nobody"), b"video"))
    await settle()
    again = peer.ask(Subscribe(2, namespace("nobody"), b"video"))
    await settle()
    if peer.profile.request_streams:
        assert not peer.closed
        assert again.refused == missing(draft)
    else:
        assert closes(peer) == [SessionCode.INVALID_REQUEST_ID]
    await world.close()


@drafts
@pytest.mark.parametrize("apart", [False, True], ids=["same stream", "another stream"])
async def test_a_second_setup_ends_its_session(draft: Draft, apart: bool) -> None:
    world = World(QUICK)
    pair = await Pair.of(world)
    peer = await met(world, draft)
    if apart:
        new = peer.profile.request_streams
        stream = peer.session.open_uni() if new else peer.session.open_bidi()
        versions = (peer.profile.setup_code,) if peer.profile.versions_in_setup else ()
        most = None if new else 100
        stream.write((peer.encode(Setup(max_request_id=most, versions=versions)),))
    else:
        peer.set_up()
    await settle()
    assert closes(peer) == [SessionCode.PROTOCOL_VIOLATION]
    await pair.works()
    await world.close()


@drafts
@pytest.mark.parametrize("end", ["reset", "fin"])
async def test_all_of_a_session_goes_with_its_control_stream(draft: Draft, end: str) -> None:
    world = World(QUICK)
    pair = await Pair.of(world)
    viewer = await world.viewer(Version.LITE_05)
    seen = viewer.watch("mine")
    peer = await met(world, draft)
    before = actors()
    peer.publish("mine/cam")
    peer.subscribe("good")
    await settle()
    assert seen.paths == ["cam"]
    if end == "reset":
        peer.control.reset()
    else:
        peer.control.write(fin=True)
    await settle()
    assert closes(peer) == [SessionCode.NO_ERROR]
    assert seen.read().live == {}
    assert actors() == [name for name in before if name != f"session {world._numbers}"]
    await pair.works()
    await world.close()


@drafts
@pytest.mark.parametrize("with_uri", [False, True])
async def test_goaways_that_break_the_rules_end_their_session(draft: Draft, with_uri: bool) -> None:
    world = World(QUICK)
    peer = await met(world, draft)
    uri = "https://elsewhere" if with_uri else ""
    for _ in range(1 if with_uri else 2):
        peer.control.write(peer.encode(Goaway(uri)))
    await settle()
    assert closes(peer) == [SessionCode.PROTOCOL_VIOLATION]
    await world.close()


@drafts
@pytest.mark.virtual
@pytest.mark.drives("setup_timeout")
async def test_a_session_without_setup_ends(draft: Draft, caplog: pytest.LogCaptureFixture) -> None:
    world = World(QUICK)
    pair = await Pair.of(world)
    peer = await met(world, draft, setup=False)
    counts = counts_of(peer)
    await advance(9.9)
    assert not peer.closed
    await advance(0.2)
    assert closes(peer) == [SessionCode.CONTROL_TIMEOUT]
    assert counts["refused", "setup_timeout"] == 1
    assert len(over_limit(caplog, "setup_timeout")) == 1
    await pair.works()
    await world.close()


async def for_ever(path: str, query: str) -> Permissions:
    await asyncio.get_running_loop().create_future()
    raise AssertionError


@drafts
@pytest.mark.parametrize("many", [False, True], ids=["large", "many"])
async def test_little_waits_for_admission(draft: Draft, many: bool) -> None:
    """Tokens that are not decided yet cost the relay little."""
    world = World(QUICK, authorize=for_ever)
    peer = await met(world, draft, permissions=None)
    token = Parameters(tokens=(Token(b"x" * (1 if many else 8_000)),))
    sent = 0
    while not peer.closed:
        message = Subscribe(peer.next_id(), namespace("good"), b"video", token)
        sent += len(peer.encode(message))
        assert sent < 2 * WAITING_BYTES
        peer.ask(message)
        await settle()
    assert closes(peer) == [SessionCode.PROTOCOL_VIOLATION]
    await settle()
    assert actors() == ["origin"]
    await world.close()


# --- tokens in requests ----------------------------------------------------------------------------------------------


class Verdicts:
    """Of tokens: none comes until `told`."""

    def __init__(self) -> None:
        self.told = asyncio.Event()
        self.waiting = 0

    async def __call__(self, path: str, query: str) -> Permissions:
        if query:
            self.waiting += 1
            try:
                await self.told.wait()
            finally:
                self.waiting -= 1
            raise UnauthorizedError("no", Reason.BAD)
        return EVERYTHING


def with_token(peer: MoqtPeer, number: int) -> Asked:
    params = Parameters(tokens=(Token(b"token%d" % number),))
    return peer.ask(Subscribe(peer.next_id(), namespace("good"), b"video", params))


@drafts
async def test_few_requests_wait_for_the_verdict_on_their_token(draft: Draft) -> None:
    verdicts = Verdicts()
    world = World(QUICK, authorize=verdicts)
    pair = await Pair.of(world)
    peer = await met(world, draft)
    asked = [with_token(peer, number) for number in range(MOST_PARKED + 10)]
    await settle()
    assert [one.refused for one in asked] == [None] * MOST_PARKED + [overload(draft)] * 10
    assert verdicts.waiting == MOST_PARKED
    verdicts.told.set()
    await settle()
    assert [one.refused for one in asked[:MOST_PARKED]] == [Refusal.UNAUTHORIZED] * MOST_PARKED
    assert not peer.closed
    await pair.works()
    await world.close()


@drafts
async def test_no_check_of_a_token_outlives_its_session(draft: Draft) -> None:
    verdicts = Verdicts()
    world = World(QUICK, authorize=verdicts)
    peer = await met(world, draft)
    for number in range(10):
        with_token(peer, number)
    await settle()
    assert verdicts.waiting == 10
    peer.close()
    await settle()
    assert verdicts.waiting == 0
    await world.close()


@drafts
async def test_a_request_that_ends_before_the_verdict_is_over(draft: Draft) -> None:
    """The announcement does not stay."""
    told = asyncio.Event()

    async def decide(path: str, query: str) -> Permissions:
        if query:
            await told.wait()
        return EVERYTHING

    world = World(QUICK, authorize=decide)
    viewer = await world.viewer(Version.LITE_05)
    seen = viewer.watch()
    peer = await met(world, draft)
    params = Parameters(tokens=(Token(b"good"),))
    asked = peer.ask(PublishNamespace(peer.next_id(), namespace("mine"), params))
    if peer.profile.request_streams:
        asked.stream.write(fin=True)
    await settle()
    told.set()
    await settle()
    assert seen.read().live.keys() == (set() if peer.profile.request_streams else {"mine"})
    await world.close()


# --- answers that are not read ---------------------------------------------------------------------------------------


@drafts
@pytest.mark.drives("backlog_session")
async def test_who_reads_no_answers_is_closed(draft: Draft, caplog: pytest.LogCaptureFixture) -> None:
    world = World(replace(QUICK, backlog_session=1_000))
    pair = await Pair.of(world)
    peer = await met(world, draft)
    counts = counts_of(peer)
    asked = peer.subscribe("good")
    await settle()
    peer.session.pause()
    for _ in range(2_000):
        if peer.profile.fixed_fields:  # updates have no answer
            peer.subscribe("nobody")
        else:
            message = RequestUpdate(peer.next_id(), Parameters(priority=7), existing_id=asked.number)
            asked.stream.write(peer.encode(message))
        await settle()
        assert sum(stream.unsent for stream in peer.relay.streams) < 2_000
        if peer.relay.raw.finished:
            break
    peer.session.resume()
    await settle()
    assert closes(peer) == [SessionCode.TOO_MANY_REQUESTS]
    assert counts["refused", "backlog_session"] == 1
    assert len(over_limit(caplog, "backlog_session")) == 1
    await pair.works()
    await world.close()


@drafts
@pytest.mark.drives("inbox")
async def test_a_session_for_which_too_much_waits_is_closed(
    draft: Draft, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(replace(QUICK, inbox=100))
    pair = await Pair.of(world)
    publisher = await world.publisher(Version.LITE_06)
    greedy = await met(world, draft)
    counts = counts_of(greedy)
    for _ in range(10):
        greedy.watch("flood")
    await settle()
    for number in range(50):
        publisher.publish(f"flood/{number}")
    await settle()
    assert closes(greedy) == [SessionCode.INTERNAL]
    assert counts["refused", "inbox"] == 1
    assert len(over_limit(caplog, "inbox")) == 1
    await pair.works()
    await world.close()


# --- publishers ------------------------------------------------------------------------------------------------------


class Published:
    """A moq-transport publisher of `p`, with alias 9, and a viewer of moq-lite."""

    def __init__(self, world: World, draft: Draft) -> None:
        self.world = world
        self.peer = MoqtPeer(world, draft)
        self.number = 0
        self.viewer: Any = None

    async def begin(self, *, accept: bool = True) -> Published:
        await settle()
        self.peer.publish("p")
        await settle()
        self.viewer = await self.world.viewer(Version.LITE_05)
        self.number, _ = self.viewer.subscribe("p")
        await settle()
        if accept:
            self.peer.accept(9, **({"expires": 0} if self.peer.profile.fixed_fields else {}))
            await settle()
        return self

    async def still_works(self, sequence: int) -> None:
        self.peer.group(9, sequence, b"fine")
        await settle()
        found = [group for group in self.viewer.groups(self.number) if group.header.sequence == sequence]
        assert [group.payloads for group in found] == [[b"fine"]]
        assert not self.peer.closed
        assert not self.viewer.closed


@drafts
async def test_groups_of_unknown_tracks_are_stopped(draft: Draft) -> None:
    world = World(QUICK)
    pair = await Pair.of(world)
    scene = await Published(world, draft).begin()
    peer = scene.peer
    strays = [peer.group(1_000 + number, 0, b"x", fin=False) for number in range(500)]
    await settle()
    assert all(stray.stops == [ResetCode.CANCELLED] for stray in strays)
    assert actor_of(peer.ref)._moq.requests._early == {}
    await scene.still_works(0)
    await pair.works()
    await world.close()


@drafts
@pytest.mark.virtual
async def test_few_groups_wait_for_the_answer_to_their_subscription(draft: Draft) -> None:
    world = World(QUICK)
    scene = await Published(world, draft).begin(accept=False)
    peer = scene.peer
    strays = [peer.group(1_000 + number, 0, b"x", fin=False) for number in range(EARLY_STREAMS + 20)]
    await settle()
    assert [stray.stops for stray in strays] == [[]] * EARLY_STREAMS + [[ResetCode.CANCELLED]] * 20
    await advance(EARLY + 0.1)
    assert all(stray.stops == [ResetCode.CANCELLED] for stray in strays)
    assert actor_of(peer.ref)._moq.requests._early == {}
    peer.accept(9, **({"expires": 0} if peer.profile.fixed_fields else {}))
    await settle()
    await scene.still_works(0)
    await world.close()


@drafts
@pytest.mark.drives("frame")
async def test_giant_objects_end_their_groups_and_are_counted(
    draft: Draft, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(QUICK)
    pair = await Pair.of(world)
    scene = await Published(world, draft).begin()
    peer = scene.peer
    giants = [peer.group(9, number, fin=False) for number in range(2)]
    for giant in giants:
        peer.object(giant, 0, 1 << 50)
        await settle()
    assert [len(giant.stops) for giant in giants] == [1, 1]
    assert counts_of(peer)["refused", "frame"] == 2
    assert len(over_limit(caplog, "frame")) == 1
    await scene.still_works(2)
    await pair.works()
    await world.close()


@drafts
@pytest.mark.drives("groups_in_flight")
async def test_groups_that_never_end_are_refused(draft: Draft, caplog: pytest.LogCaptureFixture) -> None:
    world = World(replace(QUICK, groups_in_flight=4))
    pair = await Pair.of(world)
    scene = await Published(world, draft).begin()
    peer = scene.peer
    groups = []
    for number in range(8):
        groups.append(peer.group(9, number, b"x", fin=False))
        await settle()
    assert [len(group.stops) for group in groups] == [1] * 4 + [0] * 4
    assert counts_of(peer)["refused", "groups_in_flight"] == 4
    assert len(over_limit(caplog, "groups_in_flight")) == 1
    await scene.still_works(8)
    await pair.works()
    await world.close()


@drafts
@pytest.mark.drives("cache_track")
async def test_a_giant_group_is_refused(draft: Draft) -> None:
    world = World(replace(QUICK, cache_track=20_000))
    pair = await Pair.of(world)
    scene = await Published(world, draft).begin()
    peer = scene.peer
    group = peer.group(9, 0, fin=False)
    for number in range(50):
        peer.object(group, number, 1_000, b"x" * 1_000)
        await settle()
    assert len(group.stops) == 1
    assert counts_of(peer)["refused", "cache_track"] == 1
    await scene.still_works(1)
    await pair.works()
    await world.close()


@drafts
@pytest.mark.virtual
@pytest.mark.drives("answer_timeout")
async def test_a_publisher_that_does_not_answer(draft: Draft) -> None:
    world = World(replace(QUICK, answer_timeout=10.0))
    peer = MoqtPeer(world, draft)
    await settle()
    peer.publish("p")
    await settle()
    viewer = await met(world, draft)
    asked = [viewer.subscribe("p"), viewer.status("p", "other")]
    await advance(9.9)
    assert [one.refused for one in asked] == [None, None]
    await advance(0.2)
    assert [one.refused for one in asked] == [Refusal.TIMEOUT] * 2
    assert counts_of(peer)["refused", "answer_timeout"] >= 1
    assert not peer.closed
    assert not viewer.closed
    await world.close()


# --- what is kept of a track ---------------------------------------------------------------------------------------------


async def described(viewer: Any) -> TrackInfo:
    """The track of `p`, to a viewer of moq-lite."""
    told = viewer.info("p")
    await settle()
    (info,) = TrackInfoDecoder(viewer.version).feed(told.data)
    return info


def held(path: str) -> list[int]:
    """Groups of its track that the relay keeps."""
    return [group.sequence for group in actor_of(named(f"track {path} video"))._groups.cache]


@drafts
@pytest.mark.drives("cache_groups")
async def test_so_many_groups_are_kept(draft: Draft, caplog: pytest.LogCaptureFixture) -> None:
    """Whole ones go first, open ones are refused."""
    world = World(replace(QUICK, cache_groups=4))
    pair = await Pair.of(world)
    scene = await Published(world, draft).begin()
    peer = scene.peer
    for number in range(6):
        peer.group(9, number, b"whole")
        await settle()
    assert held("p") == [2, 3, 4, 5]
    groups = [peer.group(9, number, b"open", fin=False) for number in range(6, 14)]
    await settle()
    assert held("p") == [10, 11, 12, 13]
    assert [len(group.stops) for group in groups] == [1] * 4 + [0] * 4
    assert counts_of(peer)["refused", "cache_groups"] == 4
    assert len(over_limit(caplog, "cache_groups")) == 1
    await scene.still_works(14)
    await pair.works()
    await world.close()


@drafts
@pytest.mark.virtual
@pytest.mark.drives("cache_age")
async def test_groups_are_kept_so_long(draft: Draft) -> None:
    world = World(replace(QUICK, cache_age=7.0))
    scene = await Published(world, draft).begin()
    peer = scene.peer
    kept = []
    for number, wait in enumerate((6.5, 0.6, 0.0)):
        peer.group(9, number, b"x")
        await settle()
        kept.append(held("p"))
        await advance(wait)
    assert kept == [[0], [0, 1], [1, 2]]
    assert (await described(scene.viewer)).max_latency == 7_000
    viewer = await met(world, draft)
    asked = [viewer.fetch("p", 1), viewer.fetch("p", 0)]
    await settle()
    assert asked[0].accepted
    (fetch,) = [message for _, message in peer.requests if isinstance(message, Fetch)]
    assert fetch.range == AbsoluteRange(Location(0, 0), 0)  # what is gone is asked of the publisher
    await world.close()


@since_16
@pytest.mark.virtual
async def test_groups_are_kept_as_long_as_the_publisher_says(draft: Draft) -> None:
    world = World(replace(QUICK, cache_age=7.0))
    scene = await Published(world, draft).begin(accept=False)
    peer = scene.peer
    stream, request = peer.subscriptions()[0]
    properties = ((PropertyType.MAX_CACHE_DURATION, 2_000),)
    answer = SubscribeOk(9, properties=properties, request_id=request.request_id)
    stream.write(peer.encode(answer))
    for number in range(2):
        peer.group(9, number, b"x")
        await settle()
        assert held("p") == [[0], [1]][number]
        await advance(2.1)
    assert (await described(scene.viewer)).max_latency == 2_000
    await world.close()


@drafts
@pytest.mark.drives("cache")
async def test_one_budget_for_the_groups_of_all_tracks(
    draft: Draft, caplog: pytest.LogCaptureFixture
) -> None:
    """Who is above its share loses even its newest group, if nothing else is left."""
    kept = Kept(BUDGET, replace(QUICK, cache_age=3_600))
    pair = await Pair.of(kept)
    await pair.works()
    gluttons: list[tuple[MoqtPeer, PeerStream]] = []
    for number in range(6):
        peer = await met(kept, draft)
        peer.publish(f"g/{number}")
        await settle()
        viewer = await kept.viewer(Version.LITE_05)
        viewer.subscribe(f"g/{number}")
        await settle()
        peer.accept(9, **({"expires": 0} if peer.profile.fixed_fields else {}))
        gluttons.append((peer, peer.group(9, 0, fin=False)))
        await settle()
    for number in range(5):
        for peer, group in gluttons:
            peer.object(group, number, 60_000, b"x" * 60_000)
            await settle()
    stopped = [peer for peer, group in gluttons if group.stops]
    assert stopped
    assert all(counts_of(peer)["refused", "cache"] == len(group.stops) for peer, group in gluttons)
    assert len(over_limit(caplog, "cache")) == len(stopped)
    sizes = [actor_of(named(f"track g/{number} video"))._groups.cache.size for number in range(6)]
    assert within(sum(sizes))
    assert not any(peer.closed for peer, _ in gluttons)
    stopped[0].group(9, 1, b"next")
    await pair.works()
    await kept.close()


@drafts
@pytest.mark.virtual
@pytest.mark.drives("track_idle")
async def test_a_track_without_viewers_is_left_in_time(draft: Draft) -> None:
    world = World(Limits(track_idle=4.0))
    scene = await Published(world, draft).begin()
    peer = scene.peer
    scene.viewer.own[-1].write(fin=True)
    await advance(3.9)
    again = await world.viewer(Version.LITE_05)
    _, stream = again.subscribe("p")
    await settle()
    assert len(peer.subscriptions()) == 1
    stream.write(fin=True)
    await advance(3.9)
    assert not left(peer)
    await advance(0.2)
    assert left(peer)
    await world.close()


def left(peer: MoqtPeer) -> bool:
    """The relay has ended its subscription."""
    stream, _ = peer.subscriptions()[0]
    if peer.profile.request_streams:
        return stream.over or bool(stream.stops)
    return any(isinstance(message, Unsubscribe) for message in stream.messages)


@drafts
@pytest.mark.virtual
@pytest.mark.parametrize("returns", [True, False])
@pytest.mark.drives("linger")
async def test_a_lost_publisher_is_waited_for(draft: Draft, returns: bool) -> None:
    world = World(QUICK, linger=5.0)
    watcher = await met(world, draft)
    lite = await world.viewer(Version.LITE_05)
    seen, watched = lite.watch(), watcher.watch("p")
    scene = await Published(world, draft).begin()
    scene.peer.group(9, 0, b"before")
    await settle()
    asked = watcher.subscribe("p")
    await settle()
    assert asked.accepted
    messages = len(watched.messages)
    scene.peer.session.fail()
    await advance(4.9)
    assert seen.paths == ["p"]
    assert len(watched.messages) == messages
    assert not any(isinstance(message, PublishDone) for message in asked.messages)
    if returns:
        back = await met(world, draft)
        back.publish("p")
        await settle()
        back.accept(9, **({"expires": 0} if back.profile.fixed_fields else {}))
        await settle()
        back.group(9, 1, b"after")
        await advance(10.0)
        assert seen.paths == ["p"]
        payloads = [group.payloads for group in scene.viewer.groups(scene.number)]
        assert payloads == [[b"before"], [b"after"]]
        assert not any(isinstance(message, PublishDone) for message in asked.messages)
    else:
        await advance(0.2)
        assert seen.paths == []
        assert any(isinstance(message, PublishDone) for message in asked.messages)
    assert not watcher.closed
    await world.close()


# --- viewers that do not read ----------------------------------------------------------------------------------------


class Slow:
    """A viewer of `p` that stops reading, and a publisher of moq-lite."""

    def __init__(self, world: World, draft: Draft) -> None:
        self.world, self.draft = world, draft

    async def begin(self, *, pause: bool = True) -> tuple[MoqtPeer, Callable[[int, int], Awaitable[None]]]:
        """The viewer, and a function that publishes a group: its number and its bytes."""
        publisher = await self.world.publisher(Version.LITE_04, "p")
        viewer = await met(self.world, self.draft)
        asked = viewer.subscribe("p")
        await settle()
        (stream, request), *_ = publisher.subscriptions()
        publisher.accept(stream)
        await settle()
        assert asked.accepted
        if pause:
            viewer.session.pause()

        async def publish(number: int, size: int) -> None:
            publisher.group(request.id, number, b"x" * size)
            await settle()

        return viewer, publish


def lost(viewer: MoqtPeer) -> int:
    """Groups that it did not get."""
    counts: dict[tuple[str, str], int] = counts_of(viewer)
    return sum(count for (name, _), count in counts.items() if name == "groups_dropped")


@drafts
@pytest.mark.virtual
@pytest.mark.drives("backlog_groups")
async def test_a_viewer_that_reads_nothing_loses_groups_alone(draft: Draft) -> None:
    world = World(replace(QUICK, backlog_groups=2))
    pair = await Pair.of(world)
    publisher = await world.publisher(Version.LITE_04, "p")
    viewer = await met(world, draft)
    asked = viewer.subscribe("p")
    await settle()
    (stream, request), *_ = publisher.subscriptions()
    publisher.accept(stream)
    await settle()
    assert asked.accepted
    viewer.session.pause()
    for number in range(20):
        publisher.group(request.id, number, b"x" * 1_000)
        await advance(1.1)
        assert sum(stream.unsent for stream in viewer.relay.streams) < 4_000
    counts = counts_of(viewer)
    assert sum(count for (name, _), count in counts.items() if name == "groups_dropped") >= 16
    viewer.session.resume()
    await settle()
    assert not viewer.closed
    await pair.works()
    await world.close()


@drafts
@pytest.mark.virtual
@pytest.mark.parametrize(("time", "dropped"), [(1.0, 6), (60.0, 0)])
@pytest.mark.drives("backlog_time")
async def test_a_viewer_that_reads_too_late_loses_old_groups(draft: Draft, time: float, dropped: int) -> None:
    world = World(replace(QUICK, backlog_time=time, backlog_groups=2))
    viewer, groups = await Slow(world, draft).begin()
    for number in range(1, 9):
        await groups(number, 1_000)
        await advance(1.1)
    assert lost(viewer) == dropped
    assert not viewer.closed
    await world.close()


@drafts
@pytest.mark.drives("backlog_bytes")
async def test_a_viewer_that_reads_nothing_has_few_bytes_waiting(draft: Draft) -> None:
    world = World(replace(QUICK, backlog_time=60.0, backlog_bytes=50_000))
    viewer, groups = await Slow(world, draft).begin()
    for number in range(1, 20):
        await groups(number, 10_000)
        assert sum(stream.unsent for stream in viewer.relay.streams) <= 61_000
    assert lost(viewer) >= 14
    viewer.session.resume()
    await settle()
    assert not viewer.closed
    await world.close()


@drafts
@pytest.mark.drives("backlog_session")
async def test_all_that_a_viewer_does_not_read_has_a_limit(
    draft: Draft, caplog: pytest.LogCaptureFixture
) -> None:
    """Of fetched groups, too."""
    world = World(replace(QUICK, backlog_session=100_000, backlog_time=60.0))
    pair = await Pair.of(world)
    viewer, groups = await Slow(world, draft).begin(pause=False)
    for number in range(1, 4):
        await groups(number, 30_000)
    viewer.session.pause()
    for number in range(12):
        viewer.fetch("p", 1 + number % 3)
        await settle()
        assert sum(stream.unsent for stream in viewer.relay.streams) <= 131_000
    assert counts_of(viewer)["refused", "backlog_session"] >= 8
    assert len(over_limit(caplog, "backlog_session")) == 1
    viewer.session.resume()
    await settle()
    assert not viewer.closed
    await pair.works()
    await world.close()
