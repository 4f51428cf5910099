"""Sessions of moq-transport beyond their limits, on real sockets, while a publisher and its viewer miss no frame.

`tests/actors/test_moqt_limits.py` has the limits that need no transport, and `test_attacks_sessions.py` those of moq-lite.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import aiohttp
import pytest

from relay.app import Relay
from relay.client import Client
from relay.quic.settings import QuicSettings
from relay.quic.streams import Stream as QuicStream
from relay.transport.client import ClientTls, ConnectError, connect, connect_websocket
from relay.transport.quic_session import QuicSession
from relay.transport.session import Event
from relay.wire.ietf.codes import SessionCode
from relay.wire.ietf.control import MessageDecoder
from relay.wire.ietf.messages import Goaway, Message
from relay.wire.ietf.values import Token
from relay.wire.qmux import Close, Parameters, stream_header
from relay.wire.version import Draft, Version, alpns_for
from tests.actors.moqt_peer import MoqtEnd
from tests.clock import RUNTIME
from tests.e2e.auth_support import guarded, token
from tests.e2e.support import raw, running
from tests.e2e.test_attacks_sessions import LIMITS, WITHIN, connection, serving
from tests.e2e.test_metrics import scrape, until, value
from tests.e2e.test_websocket import ws
from tests.sampling import FULL

pytestmark = [pytest.mark.e2e, pytest.mark.virtual]

DRAFTS = tuple(Draft) if FULL else (Draft.DRAFT_16, Draft.DRAFT_18)
drafts = pytest.mark.parametrize("draft", DRAFTS, ids=lambda draft: draft.name_on_wire)

NOBODY_CHECKS = ClientTls(disable_verify=True)


class Attacker(MoqtEnd):
    """Sends what our own client would not."""

    def __init__(self, session: Any, draft: Draft, *, setup: bool = True) -> None:
        self._changed = asyncio.Event()
        super().__init__(session, draft, setup=setup)

    def _on_events(self, events: tuple[Event, ...]) -> None:
        super()._on_events(events)
        self._changed.set()

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(WITHIN):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def closed_with(self, code: int, reason: str) -> None:
        await self.until(lambda: self.closed)
        (closed,) = self.closed
        assert (closed.code, closed.by_peer) == (code, True)
        assert reason in closed.reason

    @property
    def quic(self) -> Any:
        """The connection's streams."""
        return cast("QuicSession", self.session).connection.streams


@contextlib.asynccontextmanager
async def attacker(
    relay: Relay, draft: Draft, *, setup: bool = True, **options: Any
) -> AsyncIterator[Attacker]:
    session = await connect(raw(relay), versions=(draft,), tls=NOBODY_CHECKS, **options, runtime=RUNTIME)
    peer = Attacker(session, draft, setup=setup)
    try:
        if setup:
            look = peer.watch("nothing/here")
            await peer.until(lambda: look.accepted)
        yield peer
    finally:
        session.close(0, "done")
        await session.wait_closed()


@contextlib.asynccontextmanager
async def publishing(relay: Relay, draft: Draft) -> AsyncIterator[Attacker]:
    """An attacker that publishes `bad`, with alias 9, for a viewer."""
    async with attacker(relay, draft) as peer, await Client.connect(relay.url, runtime=RUNTIME) as viewer:
        peer.publish("bad")
        async with asyncio.timeout(WITHIN):
            await viewer.announced("").wait_for("bad")
        subscription = await viewer.subscribe("bad", "video", describe=False)
        await peer.until(peer.subscriptions)
        peer.accept(9, **({"expires": 0} if peer.profile.fixed_fields else {}))

        async def read() -> None:
            async for _ in subscription:
                pass

        task = asyncio.create_task(read())
        try:
            yield peer
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


# --- streams and their bytes -----------------------------------------------------------------------------------------


@drafts
@pytest.mark.drives("max_streams_bidi", "max_streams_uni")
@pytest.mark.parametrize("unidirectional", [False, True], ids=["bidi", "uni"])
async def test_a_flood_of_streams(draft: Draft, unidirectional: bool) -> None:
    """Half a header on each: what keeps to the credit waits, what does not loses its connection."""
    quic = QuicSettings(max_streams_bidi=16, max_streams_uni=16)

    def flood(peer: Attacker) -> None:
        for _ in range(100):
            stream = peer.session.open_uni() if unidirectional else peer.session.open_bidi()
            stream.write((b"\x10" if unidirectional else b"\x03",))

    async with serving(quic=quic) as (relay, service):
        async with attacker(relay, draft) as peer:
            flood(peer)
            await service.goes_on()
            found = cast("QuicSession", connection(relay, cast("Any", peer)).session).connection
            assert len(found.streams) <= 16 + 3
        async with attacker(relay, draft) as peer:
            peer.quic._bidi_limit = peer.quic._uni_limit = 1_000
            flood(peer)
            await peer.until(lambda: peer.closed)
            assert (peer.closed[0].code, peer.closed[0].reason) == (None, "too many streams")
        await service.goes_on()
        await until(relay, "refused_total", 1, limit="max_streams")


@drafts
@pytest.mark.drives("stream_window", "connection_window")
@pytest.mark.parametrize(
    ("window", "reason"), [(50_000, "over the stream's limit"), (500_000, "over the connection's limit")]
)
async def test_more_bytes_than_were_allowed(draft: Draft, window: int, reason: str) -> None:
    """By the final size of a stream."""
    quic = QuicSettings(stream_window=window, connection_window=100_000)
    async with serving(quic=quic) as (relay, service):
        async with attacker(relay, draft) as peer:
            stream = cast("QuicStream", peer.session.open_uni())
            stream.write((b"\x10",))
            await service.goes_on()
            assert stream.out.sent == 1
            stream.out.sent = stream.out.written = 200_000
            stream.reset(0)
            await peer.until(lambda: peer.closed)
            assert (peer.closed[0].code, peer.closed[0].reason) == (None, reason)
        await service.goes_on()
        await until(relay, "refused_total", 1, limit="window")


@drafts
async def test_streams_that_end_at_once(draft: Draft) -> None:
    """Their credit returns, so that only the rate of requests limits them."""
    async with serving() as (relay, service):
        async with attacker(relay, draft) as peer:
            for number in range(300):
                if peer.profile.request_streams:
                    peer.watch(f"x/{number}").stream.write(fin=True)
                else:
                    peer.subscribe("nobody", f"t{number}")
            await peer.closed_with(SessionCode.TOO_MANY_REQUEST_UPDATES, "control messages a second")
        await service.goes_on()
        await until(relay, "refused_total", 1, limit="control_rate")


# --- requests --------------------------------------------------------------------------------------------------------


@drafts
async def test_requests_beyond_their_number(draft: Draft) -> None:
    async with serving() as (relay, service):
        async with attacker(relay, draft) as peer:
            asked = [peer.subscribe("good/cam", f"t{number}") for number in range(30)]
            await peer.until(lambda: sum(one.refused is not None for one in asked) >= 10)
            looks = [peer.watch(f"x{number}") for number in range(8)]
            await peer.until(lambda: all(look.messages for look in looks))
            assert sum(look.refused is not None for look in looks) == 8 - (
                LIMITS.announce_streams - 1
            ) // per_look(peer)
            await service.goes_on()
            assert not peer.closed
            for number in range(30):
                peer.publish(f"flood/{number}")
            await peer.closed_with(SessionCode.PROTOCOL_VIOLATION, "more than 20 announcements")
        await service.goes_on()
        for limit in ("subscriptions", "announce_streams", "announces"):
            assert value(await scrape(relay), "refused_total", limit=limit) >= 1


def per_look(peer: Attacker) -> int:
    """On 14 each SUBSCRIBE_NAMESPACE is for tracks, too."""
    return 2 if peer.draft is Draft.DRAFT_14 else 1


@drafts
async def test_messages_that_announce_too_much(draft: Draft) -> None:
    async with serving(replace(LIMITS, message=4_096)) as (relay, service):
        async with attacker(relay, draft) as peer:
            head = b"\x03" + (4_097).to_bytes(2, "big")
            (peer.session.open_bidi() if peer.profile.request_streams else peer.control.stream).write((head,))
            await peer.closed_with(SessionCode.PROTOCOL_VIOLATION, "message of 4097 bytes")
        await service.goes_on()
        await until(relay, "refused_total", 1, limit="message")


# --- groups ----------------------------------------------------------------------------------------------------------


@drafts
async def test_groups_that_are_too_many_too_large_or_endless(draft: Draft) -> None:
    async with serving() as (relay, service), publishing(relay, draft) as peer:
        giant = peer.group(9, 0, fin=False)
        peer.object(giant, 0, 1 << 50)
        await peer.until(lambda: giant.stops)
        endless = peer.group(9, 1, fin=False)
        for number in range(100):
            peer.object(endless, number, 16_384, b"x" * 16_384)
            await service.goes_on(1)
            assert value(await scrape(relay), "cached_bytes") <= 2 * LIMITS.cache_track
            if endless.stops:
                break
        await peer.until(lambda: endless.stops)
        groups = [peer.group(9, number, b"x", fin=False) for number in range(10, 60)]
        await peer.until(lambda: sum(len(group.stops) for group in groups) == 50 - LIMITS.groups_in_flight)
        assert not peer.closed
        await service.goes_on()
        for limit, count in (("frame", 1), ("cache_track", 1), ("groups_in_flight", 42)):
            await until(relay, "refused_total", count, limit=limit)


@drafts
async def test_a_publisher_that_never_answers(draft: Draft) -> None:
    async with serving(replace(LIMITS, answer_timeout=2.0)) as (relay, service):
        async with attacker(relay, draft) as peer, attacker(relay, draft) as viewer:
            peer.publish("bad")
            watched = viewer.watch("bad")
            await viewer.until(lambda: len(watched.messages) > 1 or viewer.requests)
            asked = viewer.subscribe("bad")
            await viewer.until(lambda: asked.refused is not None)
            assert asked.refused == 2
            assert not viewer.closed
            assert not peer.closed
        await service.goes_on()
        await until(relay, "refused_total", 1, limit="answer_timeout")


@drafts
async def test_a_viewer_that_withholds_credit(draft: Draft) -> None:
    """Its groups wait within its limits, then are skipped; other viewers of the track get all of it."""
    limits = replace(LIMITS, backlog_bytes=20_000, backlog_session=40_000)
    tiny = QuicSettings(stream_window=16_384, connection_window=16_384)
    async with serving(limits) as (relay, service), attacker(relay, draft, settings=tiny) as peer:
        peer.quic._window = 0
        asked = [peer.subscribe("good/cam") for _ in range(3)]
        await peer.until(lambda: any(one.accepted for one in asked))
        while not value(await scrape(relay), "groups_dropped_total", reason="too_far_behind"):
            await service.goes_on(10)
        await service.goes_on(30)
        served = connection(relay, cast("Any", peer))._moq.serving
        assert served._unsent <= 60_000
        assert not peer.closed


# --- sessions --------------------------------------------------------------------------------------------------------


@drafts
@pytest.mark.drives("sessions", "sessions_address")
@pytest.mark.parametrize("limit", ["sessions", "sessions_address"])
async def test_sessions_beyond_their_number(draft: Draft, limit: str) -> None:
    """The pair has two of three."""
    async with serving(replace(LIMITS, **{limit: 3})) as (relay, service):
        url, web = raw(relay), ws(relay)
        async with attacker(relay, draft):
            with pytest.raises(ConnectError, match="transport error 0x2"):
                await connect(url, versions=(draft,), tls=NOBODY_CHECKS, runtime=RUNTIME)
            with pytest.raises(ConnectError) as refused:
                await connect_websocket(web, versions=(draft,), runtime=RUNTIME)
            assert refused.value.status == (503 if limit == "sessions" else 429)
            await service.goes_on()
        await until(relay, "refused_total", 2, limit=limit)
        async with asyncio.timeout(WITHIN):
            while len(relay.connections) > 2 or relay._addresses.taken("127.0.0.1") > 2:
                await service.goes_on(1)
        async with attacker(relay, draft) as late:
            assert not late.closed


@drafts
@pytest.mark.drives("handshakes_unverified")
async def test_a_session_that_comes_in_through_a_retry(draft: Draft) -> None:
    async with serving(replace(LIMITS, handshakes_unverified=0)) as (relay, _):
        before = value(await scrape(relay), "refused_total", limit="handshakes_unverified")
        async with attacker(relay, draft) as peer:
            assert not peer.closed
        await until(relay, "refused_total", before + 1, limit="handshakes_unverified")


@drafts
async def test_a_session_that_is_never_set_up(draft: Draft) -> None:
    async with serving(replace(LIMITS, setup_timeout=2.0)) as (relay, service):
        async with attacker(relay, draft, setup=False) as peer:
            await peer.closed_with(SessionCode.CONTROL_TIMEOUT, "no SETUP in time")
        await service.goes_on()
        await until(relay, "refused_total", 1, limit="setup_timeout")


@drafts
@pytest.mark.drives("drain")
async def test_a_session_that_does_not_leave_a_relay_that_ends(draft: Draft) -> None:
    seconds = 30.0
    async with running(limits=replace(LIMITS, drain=seconds)) as relay, attacker(relay, draft) as peer:
        clock = asyncio.get_running_loop().time
        begun = clock()
        drain = asyncio.create_task(relay.drain())
        await peer.until(lambda: goaways(peer))
        assert not drain.done()
        await drain
        assert seconds <= clock() - begun < seconds + 10
        assert not peer.closed
        await relay.close()
        await peer.closed_with(SessionCode.GOAWAY_TIMEOUT, "server shutdown")


def goaways(peer: Attacker) -> list[Message]:
    messages = peer.control.messages
    if peer.profile.request_streams:  # the relay's control stream is its own
        messages = MessageDecoder(peer.profile).feed(peer.groups[0].data)
    return [message for message in messages if isinstance(message, Goaway)]


@drafts
@pytest.mark.drives("auth_failures", "auth_delay", "auth_waiting")
async def test_tokens_that_are_guessed(draft: Draft, tmp_path: Path) -> None:
    """Two refusals come at once, one is held back, and what is more comes at once again."""
    clock = asyncio.get_running_loop().time
    limits = replace(LIMITS, auth_failures=2, auth_delay=4.0, auth_waiting=1)
    async with guarded(tmp_path, limits=limits, versions=(*Version, *Draft)) as relay:

        async def guess() -> float:
            """Seconds until it is refused."""
            options: dict[str, Any] = {"versions": (draft,), "tls": NOBODY_CHECKS, "runtime": RUNTIME}
            session = await connect(raw(relay), **options)
            peer = Attacker(session, draft, setup=False)
            begun = clock()
            peer.set_up(path="/", tokens=(Token(b"guess"),))
            await peer.closed_with(SessionCode.UNAUTHORIZED, "unauthorized: bad token")
            await session.wait_closed()
            return clock() - begun

        assert [await guess() < 1, await guess() < 1] == [True, True]
        waits = sorted(await asyncio.gather(guess(), guess(), guess()))
        assert waits[0] < 1
        assert waits[1] < 1
        assert waits[2] > 3.9
        options: dict[str, Any] = {"versions": (draft,), "tls": NOBODY_CHECKS, "runtime": RUNTIME}
        begun = clock()
        async with await Client.connect(raw(relay), token=token(get=""), **options):
            assert clock() - begun < 1  # good tokens do not wait
        await until(relay, "refused_total", 5, limit="unauthorized")


# --- WebSocket -------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def framed(relay: Relay, subprotocol: str) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    """After the transport parameters of both sides."""
    async with (
        aiohttp.ClientSession() as http,
        http.ws_connect(ws(relay), protocols=(subprotocol,), autoping=False) as found,
    ):
        assert found.protocol == subprotocol
        mine = Parameters(
            max_data=1 << 20, stream_data_bidi_local=1 << 20, stream_data_uni=1 << 20, streams_uni=100
        )
        await found.send_bytes(mine.encode())
        yield found


async def refused_with(found: aiohttp.ClientWebSocketResponse, reason: str) -> None:
    async with asyncio.timeout(WITHIN):
        async for message in found:
            if message.type is aiohttp.WSMsgType.BINARY and reason.encode() in message.data:
                assert Close(1002, reason, application=False).encode() in message.data
                return
    raise AssertionError("the relay does not say why")


@drafts
@pytest.mark.drives("websocket_streams", "websocket_window")
@pytest.mark.parametrize(
    ("stream", "size", "reason"),
    [
        (4 * 20, 10, "stream 80 is beyond the streams that may be open at once"),
        (2, 9_000, "stream 2 exceeds its limit of 8000 bytes"),
    ],
    ids=["streams", "window"],
)
async def test_more_than_the_limits_of_a_websocket(draft: Draft, stream: int, size: int, reason: str) -> None:
    limits = replace(LIMITS, websocket_streams=8, websocket_window=8_000)
    async with serving(limits) as (relay, service):
        async with framed(relay, f"qmux-01.{alpns_for([draft])[0]}") as found:
            await found.send_bytes(stream_header(stream, 0, size, fin=False) + b"\x10" * size)
            await refused_with(found, reason)
        await service.goes_on()


@pytest.mark.drives("websocket_message")
async def test_a_message_beyond_the_limit_of_a_plain_websocket() -> None:
    """The framing without limits of its own; of the drafts, SETUP of 14 alone can choose it."""
    async with serving(replace(LIMITS, websocket_message=5_000)) as (relay, service):
        session = await connect_websocket(ws(relay), offer=["webtransport"], runtime=RUNTIME)
        peer = Attacker(session, Draft.DRAFT_14)
        look = peer.watch("nothing/here")
        await peer.until(lambda: look.accepted)
        stream = peer.session.open_uni()
        stream.write((b"\x10" * 10_000,))
        await peer.until(lambda: peer.closed)
        assert peer.closed[0].reason == "message of 10002 bytes, at most 5000 are allowed"
        await service.goes_on()
