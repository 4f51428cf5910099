"""Message-based sessions without sockets: two joined end to end, with a clock of the test's own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.model.limits import Limits
from relay.transport.session import DatagramReceived, Pong, SessionClosed, StreamData, StreamStopped
from relay.transport.websocket import qmux
from relay.transport.websocket import session as framed
from relay.transport.websocket.choice import Choice, choices, choose
from relay.transport.websocket.plain import PlainFraming
from relay.transport.websocket.qmux import QmuxFraming, Window
from relay.transport.websocket.request import make_session
from relay.transport.websocket.session import (
    CONTROL_BACKLOG,
    DEAD_AFTER,
    KEEP_ALIVE,
    FramedSession,
    Opcode,
    Outgoing,
)
from relay.wire.qmux import (
    Close,
    DatagramFrame,
    Draft,
    Frame,
    MaxData,
    MaxStreamData,
    MaxStreams,
    Parameters,
    Ping,
    ResetStream,
    StopSending,
    StreamFrame,
    decode_message,
    stream_header,
)
from relay.wire.version import Version
from tests.transport.virtual import Recorder

SMALL = Limits(websocket_streams=4, websocket_window=100_000, websocket_message=50_000)
FRAMINGS: list[Draft | None] = [None, *Draft]


class Wire:
    """Two sessions; messages are delivered in turn, and kept."""

    def __init__(
        self, draft: Draft | None, limits: Limits = SMALL, version: Version | None = Version.LITE_06
    ) -> None:
        self.now = 100.0
        choice = Choice("name", draft, version if draft is not None else None)
        self.client, self.server = (
            make_session(
                choice,
                limits,
                remote="peer:1",
                is_client=is_client,
                path="/a",
                query="q",
                clock=lambda: self.now,
            )
            for is_client in (True, False)
        )
        self.at_client, self.at_server = Recorder(self.client), Recorder(self.server)
        self.sent: dict[FramedSession, list[Outgoing]] = {self.client: [], self.server: []}

    async def settle(self, rounds: int = 200) -> None:
        """Deliver until neither has anything to send."""
        for _ in range(rounds):
            moved = self.move(self.client, self.server) + self.move(self.server, self.client)
            await asyncio.sleep(0)
            if not moved:
                return
        raise AssertionError("they never stop")

    def move(self, source: FramedSession, target: FramedSession, count: int = 1_000) -> int:
        """Deliver messages in one direction."""
        for number in range(count):
            outgoing = source.next_message()
            if outgoing is None:
                return number
            self.sent[source].append(outgoing)
            match outgoing.opcode:
                case Opcode.BINARY:
                    assert len(outgoing.data) <= 16_384
                    target.receive(outgoing.data)
                case Opcode.PING:
                    target.received_ping(outgoing.data)
                case Opcode.PONG:
                    target.received_pong()
                case Opcode.CLOSE:
                    target.end(0, "", by_peer=True)
        return count

    def frames(self, source: FramedSession, draft: Draft) -> list[Frame]:
        """The frames that were sent."""
        messages = [out.data for out in self.sent[source] if out.opcode is Opcode.BINARY]
        return [frame for message in messages for frame in decode_message(message, draft)]

    def all_ticks(self) -> None:
        self.client.tick()
        self.server.tick()


@pytest.fixture(params=FRAMINGS, ids=lambda draft: "webtransport" if draft is None else draft.name_on_wire)
def draft(request: pytest.FixtureRequest) -> Draft | None:
    found: Draft | None = request.param
    return found


# -- choice of framing


def names(found: Sequence[Choice]) -> list[str]:
    return [choice.subprotocol for choice in found]


def test_the_best_first() -> None:
    listed = names(choices(tuple(Version)))
    assert listed[:4] == [
        "qmux-02.moq-lite-06",
        "qmux-01.moq-lite-06",
        "qmux-00.moq-lite-06",
        "qmux-02.moq-lite-05",
    ]
    assert listed[-7:] == [
        *("qmux-02.moql", "qmux-01.moql", "qmux-00.moql"),
        *("qmux-02", "qmux-01", "qmux-00", "webtransport"),
    ]
    assert not [name for name in listed if "moql-01" in name]


@pytest.mark.parametrize(
    "offered, expected",
    [
        ([], ("", None, None)),
        (["webtransport"], ("webtransport", None, None)),
        (["qmux-00", "webtransport"], ("qmux-00", Draft.QMUX_00, None)),
        (["webtransport", "qmux-01.moql"], ("qmux-01.moql", Draft.QMUX_01, None)),
        (
            ["qmux-02.moq-lite-05", "qmux-00.moq-lite-06"],
            ("qmux-00.moq-lite-06", Draft.QMUX_00, Version.LITE_06),
        ),
    ],
)
def test_choice(offered: list[str], expected: Choice) -> None:
    assert choose(offered, tuple(Version)) == expected


def test_nothing_in_common() -> None:
    assert choose(["qmux-03", "chat"], tuple(Version)) is None
    assert choose(["qmux-02.moq-lite-05"], (Version.LITE_06,)) is None
    # Without a version in the name only SETUP can negotiate one, between the two oldest.
    for offered in ([], ["webtransport"], ["qmux-02"], ["qmux-02.moql"]):
        assert choose(offered, (Version.LITE_03, Version.LITE_06)) is None
        assert choose(offered, (Version.LITE_01,)) is not None


# -- streams, in every framing


async def test_echo_and_forget(draft: Draft | None) -> None:
    wire = Wire(draft, Limits() if draft is None else SMALL)

    def echo(event: object) -> None:
        if isinstance(event, StreamData):
            event.stream.write([event.data], fin=event.fin)

    wire.at_server.on_event = echo
    for number in range(50):
        wire.client.open_bidi().write([b"%d" % number, b"!"], fin=True)
    await wire.settle()
    assert sorted(wire.at_client.finished) == [4 * number for number in range(50)]
    assert wire.at_client.data(4) == b"1!"
    assert wire.client.stats().streams == wire.server.stats().streams == 0


async def test_large_transfer(draft: Draft | None) -> None:
    wire = Wire(draft)
    data = bytes(range(256)) * 4_000
    stream = wire.server.open_uni()
    stream.write([data[:7], data[7:500_000], data[500_000:]], fin=True)
    assert stream.unsent == len(data)
    await wire.settle()
    assert (stream.id, stream.unsent) == (3, 0)
    assert wire.at_client.data(3) == data
    assert wire.at_client.finished == [3]


async def test_urgent_streams_first(draft: Draft | None) -> None:
    wire = Wire(draft)
    await wire.settle()
    for priority in (1, 9, 5):
        wire.client.open_uni(priority).write([b"%d" % priority], fin=True)
    wire.client.open_uni().write([b"control"], fin=True)
    await wire.settle()
    seen = [event.data for event in wire.at_server.events if isinstance(event, StreamData)]
    assert seen == [b"control", b"9", b"5", b"1"]


async def test_a_more_urgent_stream_overtakes_between_messages(draft: Draft | None) -> None:
    wire = Wire(draft)
    await wire.settle()
    slow = wire.client.open_uni(1)
    slow.write([bytes(60_000)], fin=True)
    wire.move(wire.client, wire.server, 1)
    wire.client.open_uni(2).write([b"fast"], fin=True)
    await wire.settle()
    assert wire.at_server.finished == [6, 2]


async def test_a_stream_that_waits_can_be_made_more_urgent(draft: Draft | None) -> None:
    wire = Wire(draft)
    await wire.settle()
    streams = [wire.client.open_uni(priority) for priority in (1, 2, 3)]
    for stream in streams:
        stream.write([bytes(20_000)], fin=True)
    wire.move(wire.client, wire.server, 1)
    streams[0].prioritize(9)
    streams[2].prioritize(0)
    await wire.settle()
    first, second, third = wire.at_server.finished
    assert [stream.id for stream in streams] == [first, second, third]
    streams[0].prioritize(1)  # over: nothing happens
    await wire.settle()
    assert len(wire.at_server.finished) == 3


async def test_resets_and_stops(draft: Draft | None) -> None:
    wire = Wire(draft)
    one, two = wire.client.open_bidi(), wire.client.open_bidi()
    one.write([b"x"])
    two.write([b"y"])
    await wire.settle()
    one.reset(51)
    two.stop(7)
    await wire.settle()
    assert wire.at_server.resets == [(0, 51)]
    assert wire.at_server.stops == [(4, 7)]
    # The stop is answered by a reset with the same code, without the owner.
    assert wire.at_client.resets == [(4, 7)]
    one.reset(1)
    one.write([b"late"])
    await wire.settle()
    assert wire.at_server.resets == [(0, 51)]
    assert wire.at_server.data(0) == b"x"


async def test_what_waits_for_the_socket_is_undelivered(draft: Draft | None) -> None:
    wire = Wire(draft)
    await wire.settle()
    stream = wire.client.open_uni()
    assert not stream.undelivered
    stream.write([bytes(80_000)], fin=True)
    wire.move(wire.client, wire.server, 1)
    assert stream.undelivered
    assert wire.client.undelivered
    await wire.settle()
    assert wire.at_server.finished == [stream.id]
    assert not stream.undelivered
    assert not wire.client.undelivered
    open_ = wire.client.open_uni()
    open_.write([b"x"])
    wire.client.close()
    assert not open_.undelivered
    assert not wire.client.undelivered


async def test_a_reset_drops_what_waits(draft: Draft | None) -> None:
    wire = Wire(draft)
    await wire.settle()
    stream = wire.client.open_uni()
    stream.write([bytes(80_000)])
    wire.move(wire.client, wire.server, 1)
    assert 0 < stream.unsent < 80_000
    unsent = stream.unsent
    stream.reset(5)
    assert stream.unsent == 0
    await wire.settle()
    assert wire.at_server.resets == [(2, 5)]
    assert len(wire.at_server.data(2)) == 80_000 - unsent <= 16_360
    never = wire.client.open_uni()
    never.write([b"x"])
    never.reset(5)
    await wire.settle()
    assert wire.at_server.resets == [(2, 5)]
    assert wire.server.stats().streams == 0


async def test_a_stream_without_a_number_may_be_stopped(draft: Draft | None) -> None:
    wire = Wire(draft)
    stream = wire.client.open_bidi()
    stream.stop(3)
    stream.write([b"x"])
    await wire.settle()
    assert (wire.at_server.data(0), wire.at_server.stops) == (b"x", [(0, 3)])


@pytest.mark.parametrize("by_client", [True, False])
async def test_close(draft: Draft | None, by_client: bool) -> None:
    wire = Wire(draft)
    await wire.settle()
    one, other = (wire.client, wire.server) if by_client else (wire.server, wire.client)
    stream = one.open_uni()
    stream.write([b"never sent"])
    one.close(13, "not found")
    one.close(14, "again")
    await wire.settle()
    seen = {wire.client: wire.at_client, wire.server: wire.at_server}
    assert seen[one].closed == SessionClosed(13, "not found", by_peer=False)
    assert seen[other].closed == SessionClosed(13, "not found", by_peer=True)
    assert one.finished
    assert other.finished
    assert [out.opcode for out in wire.sent[one]][-2:] == [Opcode.BINARY, Opcode.CLOSE]
    assert wire.sent[other][-1].opcode is Opcode.CLOSE


# -- keep-alive


async def test_pings_of_the_owner(draft: Draft | None) -> None:
    wire = Wire(draft)
    await wire.settle()
    wire.server.ping()
    await wire.settle()
    assert wire.at_server.events.count(Pong()) == 1
    assert wire.server.stats().rtt == 0.0


async def test_any_word_is_a_sign_of_life(draft: Draft | None) -> None:
    wire = Wire(draft)
    await wire.settle()
    wire.server.ping()
    wire.client.open_uni().write([b"x"])
    wire.move(wire.client, wire.server)
    await asyncio.sleep(0)
    assert Pong() in wire.at_server.events


async def test_no_pong_unasked_and_pings_at_their_time(draft: Draft | None) -> None:
    wire = Wire(draft)
    await wire.settle()
    for _ in range(40):
        wire.now += KEEP_ALIVE / 2
        wire.all_ticks()
        await wire.settle()
    pings = {side: [out.opcode for out in sent].count(Opcode.PING) for side, sent in wire.sent.items()}
    pongs = {side: [out.opcode for out in sent].count(Opcode.PONG) for side, sent in wire.sent.items()}
    assert pings[wire.client] == pings[wire.server] == pongs[wire.client] == pongs[wire.server] == 20
    assert wire.at_client.closed is None


async def test_a_silent_peer(draft: Draft | None) -> None:
    wire = Wire(draft)
    await wire.settle()
    waits = 0.0
    while wire.at_server.closed is None:
        wait = wire.server.tick()
        assert 0 <= wait <= KEEP_ALIVE
        wire.now += wait
        waits += wait
        while wire.server.next_message() is not None:
            pass
        await asyncio.sleep(0)
    assert wire.at_server.closed == SessionClosed(None, "idle timeout", by_peer=False)
    assert waits == DEAD_AFTER + KEEP_ALIVE  # the last tick came after the end


async def test_a_pause_of_the_process_does_not_end_a_session(draft: Draft | None) -> None:
    wire = Wire(draft)
    await wire.settle()
    wire.now += 10 * DEAD_AFTER
    wire.server.resume(10 * DEAD_AFTER)
    wire.server.tick()
    await asyncio.sleep(0)
    assert wire.at_server.closed is None


@pytest.mark.parametrize("draft", [Draft.QMUX_01, Draft.QMUX_02])
async def test_websocket_pongs_do_not_keep_a_qmux_session(draft: Draft) -> None:
    wire = Wire(draft)
    await wire.settle()
    for _ in range(8):
        wire.now += KEEP_ALIVE
        wire.server.tick()
        while wire.server.next_message() is not None:
            pass
        wire.server.received_pong()
        await asyncio.sleep(0)
    assert wire.at_server.closed == SessionClosed(None, "idle timeout", by_peer=False)


async def test_a_shorter_idle_timeout_of_the_peer_is_met_with_more_pings() -> None:
    session, seen, clock = lone(Draft.QMUX_02, Parameters(idle_timeout=3_000))
    clock[0] += 1.0
    session.tick()
    assert Ping(0) in drain(session, Draft.QMUX_02)
    clock[0] += 2.0
    session.tick()
    await asyncio.sleep(0)
    assert seen.closed == SessionClosed(None, "idle timeout", by_peer=False)


async def test_draft_00_gets_no_ping_of_qmux() -> None:
    session, _, clock = lone(Draft.QMUX_00)
    session.ping()
    for _ in range(5):
        clock[0] += KEEP_ALIVE
        session.tick()
    drain(session, Draft.QMUX_00)  # it would raise
    clock[0] += 4.0
    session.received_pong()
    clock[0] += 10 * 60.0 - DEAD_AFTER
    session.received_pong()
    session.tick()
    assert not session.ended


# -- one session against a scripted peer

GENEROUS = Parameters(
    idle_timeout=30_000,
    max_data=1 << 20,
    stream_data_bidi_local=1 << 20,
    stream_data_bidi_remote=1 << 20,
    stream_data_uni=1 << 20,
    streams_bidi=100,
    streams_uni=100,
    max_datagram=1_500,
)


def lone(
    draft: Draft,
    parameters: Parameters | None = GENEROUS,
    limits: Limits = SMALL,
    version: Version = Version.LITE_06,
) -> tuple[FramedSession, Recorder, list[float]]:
    """A server's session; the test is its peer."""
    clock = [100.0]
    choice = Choice("name", draft, version)
    session = make_session(
        choice, limits, remote="peer:1", is_client=False, path="/", query="", clock=lambda: clock[0]
    )
    assert isinstance(session.framing, QmuxFraming)
    seen = Recorder(session)
    if parameters is not None:
        session.receive(parameters.encode())
        drain(session, draft)
    return session, seen, clock


def drain(session: FramedSession, draft: Draft) -> list[Frame]:
    found: list[Frame] = []
    while (outgoing := session.next_message()) is not None:
        if outgoing.opcode is Opcode.BINARY:
            found += decode_message(outgoing.data, draft)
    return found


def data(stream_id: int, size: int, *, fin: bool = False, offset: int = 0) -> bytes:
    return stream_header(stream_id, offset, size, fin=fin) + bytes(size)


async def closed(session: FramedSession, seen: Recorder, reason: str) -> None:
    """The session was closed for that reason, and the peer was sent a close."""
    await asyncio.sleep(0)
    assert seen.closed is not None
    assert reason in seen.closed.reason
    assert seen.closed == SessionClosed(None, seen.closed.reason, by_peer=False)
    if isinstance(session.framing, QmuxFraming):
        farewell = drain(session, session.framing.draft)
        assert farewell == [Close(framed.VIOLATION, seen.closed.reason, application=False)]
    assert session.next_message() in (None, Outgoing(Opcode.CLOSE, b""))


@pytest.mark.parametrize("draft", Draft)
async def test_parameters_first(draft: Draft) -> None:
    session, _, _ = lone(draft, None)
    session.open_bidi().write([b"x"])
    first = drain(session, draft)
    (parameters,) = first
    assert isinstance(parameters, Parameters)
    assert parameters.max_datagram == (1_280 if draft.packs else 0)
    assert parameters.reset_stream_at is (draft is Draft.QMUX_02)
    session.receive(GENEROUS.encode())
    assert drain(session, draft) == [StreamFrame(1, b"x", False)]


@pytest.mark.parametrize(
    "message, reason",
    [
        (data(0, 1), "not first"),
        (Ping(0).encode(), "not first"),
        (b"\x32", "no frame type"),
        (b"\x08", "ends inside"),
    ],
)
async def test_anything_before_the_parameters(message: bytes, reason: str) -> None:
    session, seen, _ = lone(Draft.QMUX_02, None)
    drain(session, Draft.QMUX_02)
    session.receive(message)
    await closed(session, seen, reason)


@pytest.mark.parametrize(
    "message, reason",
    [
        (GENEROUS.encode(), "a second time"),
        (bytes(16_383), "at most 16382"),
        (data(0, 10) + b"\x3f", "no frame type 0x3f"),
        (data(16, 1), "stream 16 is beyond the streams"),
        (data(18, 1), "stream 18 is beyond the streams"),
        (ResetStream(1 << 40, 0, 0).encode(), "beyond the streams"),
        (data(3, 1), "goes the other way"),
        (StopSending(2, 0).encode(), "goes the other way"),
        (DatagramFrame.encode(bytes(1_280)), "datagram frame of 1283 bytes, at most 1280"),
        (Ping(0, response=True).encode(), "was not sent"),
        (Ping(5).encode() + Ping(5).encode(), "ping 5 after ping 5"),
        (ResetStream(0, 0, 100_001).encode(), "stream 0 ends beyond the limits"),
    ],
)
async def test_violations(message: bytes, reason: str) -> None:
    session, seen, _ = lone(Draft.QMUX_02)
    session.receive(message)
    await closed(session, seen, reason)
    session.receive(message)
    assert session.next_message() is None


async def test_a_datagram_for_a_version_without_any() -> None:
    session, seen, _ = lone(Draft.QMUX_02, version=Version.LITE_04)
    session.receive(DatagramFrame.encode(b"x"))
    await closed(session, seen, "none is allowed")


async def test_too_small_a_record() -> None:
    session, seen, _ = lone(Draft.QMUX_01, None)
    drain(session, Draft.QMUX_01)
    session.receive(Parameters(max_record=1_000).encode())
    await closed(session, seen, "at least 16382")


async def test_no_parameters_in_time() -> None:
    session, seen, clock = lone(Draft.QMUX_01, None)
    drain(session, Draft.QMUX_01)
    clock[0] += session.tick()
    session.received_pong()
    while not session.ended:
        clock[0] += session.tick()
    await asyncio.sleep(0)
    assert seen.closed == SessionClosed(None, "no transport parameters in time", by_peer=False)
    assert clock[0] <= 100.0 + qmux.PARAMETERS_TIMEOUT + KEEP_ALIVE


@pytest.mark.parametrize("draft", Draft)
async def test_data_beyond_the_limits(draft: Draft, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qmux, "STREAM_WINDOW", 40_000)
    session, seen, _ = lone(draft)
    for _ in range(2):
        session.receive(data(2, 16_000))
    assert not session.ended
    # The peer was not sent the new limit: it must not exceed the old one.
    session.receive(data(2, 16_000))
    await closed(session, seen, "stream 2 exceeds its limit of 40000 bytes")


async def test_data_beyond_the_session_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    session, seen, _ = lone(Draft.QMUX_02)
    for number in range(6):
        session.receive(data(2 + 4 * (number % 4), 16_000))
    assert not session.ended
    session.receive(data(2, 16_000))
    await closed(session, seen, "the streams exceed their limit of 100000 bytes")


async def test_limits_grow_with_what_is_passed_on() -> None:
    session, _, _ = lone(Draft.QMUX_02)
    session.receive(data(2, 16_000))
    assert drain(session, Draft.QMUX_02) == []
    session.receive(data(2, 16_000))
    session.receive(data(2, 16_000))
    assert set(drain(session, Draft.QMUX_02)) == {MaxData(148_000), MaxStreamData(2, 148_000)}
    # A reset uses up its unsent bytes, which are granted again at once.
    session.receive(ResetStream(2, 0, 60_000).encode())
    session.receive(ResetStream(0, 0, 88_000).encode())
    assert MaxData(248_000) in drain(session, Draft.QMUX_02)


async def test_streams_are_granted_as_they_end() -> None:
    session, seen, _ = lone(Draft.QMUX_01)
    granted = 4
    for index in range(1_000):
        assert index < granted
        session.receive(data(2 + 4 * index, 1, fin=True))
        for frame in drain(session, Draft.QMUX_01):
            assert isinstance(frame, MaxStreams)
            assert frame.unidirectional
            granted = frame.limit
    await asyncio.sleep(0)
    assert len(seen.finished) == 1_000
    # Skipped indexes are open, too, and only their end returns credit.
    session.receive(data(2 + 4 * (granted - 1), 1, fin=True))
    assert not session.ended
    assert session.stats().streams == 0
    session.receive(data(2 + 4 * granted, 1))
    await asyncio.sleep(0)
    assert seen.closed is not None


async def test_a_stream_that_is_over_is_not_opened_again(draft: Draft | None) -> None:
    wire = Wire(draft)
    stream = wire.client.open_uni()
    stream.write([b"x"], fin=True)
    await wire.settle()
    message = b"\x09\x02late" if draft is None else data(2, 4, fin=True)
    wire.server.receive(message)
    await wire.settle()
    assert wire.at_server.data(2) == b"x"
    assert wire.at_server.closed is None


async def test_a_lower_stream_may_come_later(draft: Draft | None) -> None:
    wire = Wire(draft)
    await wire.settle()
    for stream_id in (10, 2, 6):
        message = b"\x09" + bytes((stream_id,)) + b"x" if draft is None else data(stream_id, 1, fin=True)
        wire.server.receive(message)
    await wire.settle()
    assert wire.at_server.finished == [10, 2, 6]


async def test_what_we_send_waits_for_the_peer() -> None:
    theirs = Parameters(max_data=30_000, stream_data_uni=20_000, streams_uni=2)
    session, _, _ = lone(Draft.QMUX_02, theirs)
    streams = [session.open_uni(priority) for priority in (1, 2, 3)]
    for stream in streams:
        stream.write([bytes(25_000)], fin=True)

    def sent() -> dict[int, int]:
        found: dict[int, int] = {}
        for frame in drain(session, Draft.QMUX_02):
            assert isinstance(frame, StreamFrame)
            found[frame.stream_id] = found.get(frame.stream_id, 0) + len(frame.data)
        return found

    # The most urgent first, up to its own limit, then the next one up to that of the session; the third
    # cannot open.
    assert sent() == {3: 20_000, 7: 10_000}
    assert [stream.unsent for stream in streams] == [25_000, 15_000, 5_000]
    assert streams[0].id == -1
    session.receive(MaxData(100_000).encode())
    assert sent() == {7: 10_000}
    session.receive(MaxStreamData(3, 60_000).encode())
    assert sent() == {3: 5_000}
    session.receive(MaxStreams(True, 3).encode() + MaxData(10).encode())
    assert sent() == {11: 20_000}
    streams[1].reset(1)
    assert drain(session, Draft.QMUX_02) == [ResetStream(7, 1, 20_000)]
    session.receive(MaxStreamData(11, 30_000).encode())
    assert sent() == {11: 5_000}
    assert session.stats().streams == 0


async def test_an_end_needs_no_credit() -> None:
    session, _, _ = lone(Draft.QMUX_02, Parameters(max_data=5, stream_data_uni=5, streams_uni=9))
    one, two = session.open_uni(2), session.open_uni(1)
    one.write([b"12345"])
    drain(session, Draft.QMUX_02)
    two.write([b"blocked"])
    one.write([], fin=True)
    assert drain(session, Draft.QMUX_02) == [StreamFrame(3, b"", True, 5)]


async def test_stop_before_the_first_byte(draft: Draft | None) -> None:
    wire = Wire(draft)
    await wire.settle()
    wire.server.receive(b"\x05\x00\x07" if draft is None else StopSending(0, 7).encode())
    wire.server.receive(b"\x08\x00x" if draft is None else data(0, 1))
    await asyncio.sleep(0)
    first, second = wire.at_server.events
    assert isinstance(first, StreamData)
    assert isinstance(second, StreamStopped)
    assert second.code == 7


async def test_reset_before_the_first_byte(draft: Draft | None) -> None:
    wire = Wire(draft)
    await wire.settle()
    wire.server.receive(b"\x04\x00\x07" if draft is None else ResetStream(0, 7, 0).encode())
    await asyncio.sleep(0)
    assert wire.at_server.events == []
    assert wire.server.stats().streams == 0


@pytest.mark.parametrize("draft", [Draft.QMUX_01, Draft.QMUX_02])
async def test_datagrams(draft: Draft) -> None:
    wire = Wire(draft)
    assert wire.client.datagram_limit == 0
    await wire.settle()
    assert wire.client.datagram_limit == 1_277
    wire.client.send_datagram(bytes(1_277))
    wire.client.send_datagram(bytes(1_278))
    for _ in range(100):
        wire.client.send_datagram(b"x")
    await wire.settle()
    received = [event for event in wire.at_server.events if isinstance(event, DatagramReceived)]
    assert len(received) == qmux.PENDING_DATAGRAMS
    assert len(received[0].data) == 1_277


@pytest.mark.parametrize("draft", [None, Draft.QMUX_00])
async def test_framings_without_datagrams(draft: Draft | None) -> None:
    wire = Wire(draft)
    await wire.settle()
    assert wire.client.datagram_limit == 0
    wire.client.send_datagram(b"x")
    await wire.settle()
    assert wire.at_server.events == []


async def test_small_frames_share_a_message_where_they_may(draft: Draft | None) -> None:
    wire = Wire(draft)
    await wire.settle()
    before = len(wire.sent[wire.client])
    for _ in range(4):
        wire.client.open_uni().write([b"small"], fin=True)
    await wire.settle()
    messages = [out for out in wire.sent[wire.client][before:] if b"small" in out.data]
    assert len(messages) == (1 if draft is not None and draft.packs else 4)


async def test_answers_that_pile_up_stop_the_reading() -> None:
    session, seen, _ = lone(Draft.QMUX_01)
    assert session.readable
    for sequence in range(CONTROL_BACKLOG):
        session.receive(Ping(sequence).encode())
    assert not session.readable
    assert drain(session, Draft.QMUX_01)[0] == Ping(0, response=True)
    assert session.readable
    for _ in range(CONTROL_BACKLOG):
        session.received_ping(b"")
    assert not session.readable
    await asyncio.sleep(0)
    assert seen.closed is None


async def test_nothing_is_read_before_the_session_is_started() -> None:
    session = make_session(
        Choice("", None, None), SMALL, remote="", is_client=False, path="/", query="", clock=lambda: 0.0
    )
    assert not session.readable
    Recorder(session)
    assert session.readable
    with pytest.raises(RuntimeError):
        session.start(lambda _: None)


# -- the oldest framing


async def plain() -> tuple[FramedSession, Recorder]:
    wire = Wire(None)
    assert isinstance(wire.server.framing, PlainFraming)
    return wire.server, wire.at_server


@pytest.mark.parametrize(
    "message, reason",
    [
        (b"", "ends before"),
        (b"\x0a\x00", "unknown frame type 0xa"),
        (b"\x08", "ends inside a number"),
        (b"\x04\x00", "ends inside a number"),
        (b"\x08\x10x", "beyond the streams that may be open at once"),
        (bytes(50_001), "at most 50000"),
    ],
)
async def test_plain_violations(message: bytes, reason: str) -> None:
    session, seen = await plain()
    session.receive(message)
    await asyncio.sleep(0)
    assert seen.closed is not None
    assert reason in seen.closed.reason
    told = session.next_message()
    assert told is not None
    assert told.data == b"\x1d\x43\xea" + seen.closed.reason.encode()
    assert session.next_message() == Outgoing(Opcode.CLOSE, b"")


async def test_unknown_plain_frames_are_ignored() -> None:
    session, seen = await plain()
    for message in (b"\x08\x01x", b"\x08\x03x", b"\x04\x05\x00", b"\x05\x09\x00", b"\x05\x02\x00"):
        session.receive(message)
    await asyncio.sleep(0)
    assert seen.events == []


async def test_plain_streams_are_counted_as_they_end() -> None:
    session, seen = await plain()
    for index in range(100):
        session.receive(b"\x09" + (0x4002 + 4 * index).to_bytes(2, "big") + b"x")
    await asyncio.sleep(0)
    assert len(seen.finished) == 100


# -- garbage


frames = st.one_of(
    st.binary(max_size=40),
    st.builds(data, st.integers(0, 24), st.integers(0, 16_360)),
    st.builds(lambda id_, code, size: ResetStream(id_, code, size).encode(), *[st.integers(0, 40)] * 3),
    st.builds(lambda id_, code: StopSending(id_, code).encode(), *[st.integers(0, 40)] * 2),
    st.builds(lambda limit: MaxData(limit).encode(), st.integers(0, 1 << 40)),
    st.builds(lambda sequence, response: Ping(sequence, response).encode(), st.integers(0, 9), st.booleans()),
)


@given(st.sampled_from(FRAMINGS), st.lists(frames, max_size=30), st.booleans())
@settings(deadline=None)
def test_no_message_does_more_than_close_the_session(
    draft: Draft | None, messages: list[bytes], answering: bool
) -> None:
    async def run() -> None:
        choice = Choice("", draft, None)
        session = make_session(
            choice, SMALL, remote="", is_client=False, path="/", query="", clock=lambda: 0.0
        )
        seen = Recorder(session)
        if answering:
            seen.on_event = lambda event: (
                event.stream.write([event.data], fin=event.fin) if isinstance(event, StreamData) else None
            )
        if draft is not None:
            session.receive(GENEROUS.encode())
        for message in messages:
            session.receive(message)
            await asyncio.sleep(0)
            while session.next_message() is not None:
                pass
        assert session.stats().streams <= 2 * SMALL.websocket_streams
        assert session.ended == (seen.closed is not None)

    asyncio.run(run())


# -- windows


@given(st.lists(st.integers(1, 1_000), max_size=200))
def test_a_window_never_runs_dry(amounts: list[int]) -> None:
    window = Window(3_000)
    for amount in amounts:
        assert window.take(amount)
        if window.release(amount):
            assert window.announce() - window.used <= 3_000
        assert window.limit - window.used >= 1_000


def test_the_window_of_deployed_peers() -> None:
    """350182 after 88038 bytes of 262144, as seen from one."""
    window = Window(262_144)
    for amount in (16_360,) * 5 + (6_238,):
        window.take(amount)
        assert window.release(amount) is (window.used == 88_038)
    assert window.announce() == 350_182
