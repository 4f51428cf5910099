"""Sessions over WebSocket with real clients, our own, and peers that misbehave."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import os
import random
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from relay.app import Relay
from relay.client import Client
from relay.model.limits import Limits
from relay.runtime import SYSTEM
from relay.transport.client import ConnectError, connect_websocket
from relay.transport.session import Event, SessionClosed, SessionRequest
from relay.transport.slots import Slots
from relay.transport.websocket import choice as websocket
from relay.transport.websocket import session as framed
from relay.web.websocket import Sessions, accept_sessions
from relay.wire.announce import AnnounceEnded, AnnounceInit, AnnounceRequest
from relay.wire.frame import GroupHeader, frame_header_plain, group_header, open_request
from relay.wire.qmux import Close, ResetStream, StreamFrame
from relay.wire.setup import ClientSetup, ServerSetup, SetupForm
from relay.wire.subscribe import Subscribe, SubscribeOk
from relay.wire.version import Version
from relay.wire.websocket import PlainFrame, decode_plain
from tests.e2e.support import (
    NEW,
    OLD,
    PATIENT,
    SPOKEN,
    assert_complete,
    config,
    paced,
    publisher,
    raw,
    running,
    viewer,
    webtransport,
)
from tests.sampling import FULL, first, repeats

GROUPS, FRAMES = 100, 10
FEW = repeats(GROUPS)


def ws(relay: Relay, path: str = "") -> str:
    return relay.url.replace("http://localhost", "ws://127.0.0.1") + path


# -- real clients


@pytest.mark.parametrize(
    ("peer", "version"),
    SPOKEN if FULL else [(NEW, Version.LITE_01), (NEW, Version.LITE_06), (OLD, Version.LITE_04)],
    ids=lambda value: str(getattr(value, "name", value)),
)
async def test_thousand_frames(peer: str, version: Version) -> None:
    """1000 on the newest version, fewer on each other."""
    groups = GROUPS if version is Version.LITE_06 else FEW
    async with (
        running(versions=[version]) as relay,
        publisher(peer, ws(relay), "demo/a", *paced(peer, groups, FRAMES)) as source,
        viewer(peer, ws(relay), "demo/a", "--frames", groups * FRAMES) as sink,
    ):
        assert (await source.wait_for("negotiated"))["version"] == version.name_on_wire
        assert_complete(await sink.wait_for("result"), groups, FRAMES)


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Allow only framings of that prefix."""
    known = websocket.choices

    def restrict(prefix: str) -> None:
        monkeypatch.setattr(
            websocket,
            "choices",
            lambda versions: [c for c in known(versions) if c.subprotocol.startswith(prefix)],
        )

    return restrict


OLD_FRAMINGS = ("webtransport", "qmux-00", "qmux-01", "qmux-00.", "qmux-01.")
FRAMINGS = [
    *((NEW, framing) for framing in (*OLD_FRAMINGS, "qmux-02.")),
    *((OLD, framing) for framing in first(*OLD_FRAMINGS)),
]


@pytest.mark.parametrize(("peer", "framing"), FRAMINGS)
async def test_each_framing(peer: str, framing: str, only: Callable[[str], None]) -> None:
    only(framing)
    async with (
        running() as relay,
        publisher(peer, ws(relay), "demo/a", *paced(peer, FEW, FRAMES)) as source,
        viewer(peer, ws(relay), "demo/a", "--frames", FEW * FRAMES) as sink,
    ):
        assert_complete(await sink.wait_for("result"), FEW, FRAMES)
        if peer == NEW:
            # 0.3 on moq-lite-02 takes the end of a Subscribe stream for a fault, if it is early
            assert source.count("closed") == 0


@pytest.mark.parametrize("version", first(Version.LITE_06, Version.LITE_04, Version.LITE_01))
async def test_mixed_with_other_transports(version: Version) -> None:
    """A publisher on WebSocket with viewers on all three transports, and the other way round."""
    options = (*paced(NEW, FEW, FRAMES), "--pause", "first-frame")
    frames = ("--frames", FEW * FRAMES)
    async with running(versions=[version]) as relay, contextlib.AsyncExitStack() as stack:
        urls = [ws(relay), webtransport(relay), raw(relay)]
        for source, watching in ((urls[0], urls), (urls[1], urls[:1])):
            path = f"demo/{urls.index(source)}"
            origin = await stack.enter_async_context(publisher(NEW, source, path, *options))
            sinks = [await stack.enter_async_context(viewer(NEW, url, path, *frames)) for url in watching]
            for sink in sinks:
                await sink.wait_for("first_frame")
            await origin.send_line("go")
            for sink in sinks:
                assert_complete(await sink.wait_for("result"), FEW, FRAMES)


async def test_large_frames_through_small_windows() -> None:
    """Larger than either side's window."""
    limits = Limits(websocket_window=100_000)
    options = ("--groups", 5, "--frames-per-group", 2, "--frame-size", 1_500_000, "--interval", 0.05)
    async with (
        running(limits=limits) as relay,
        publisher(NEW, ws(relay), "demo/a", *options, "--wait-for-viewers", 1),
        viewer(NEW, ws(relay), "demo/a", "--frames", 10) as sink,
    ):
        assert_complete(await sink.wait_for("result", 60), 5, 2)


async def test_more_groups_than_streams() -> None:
    limits = replace(PATIENT, websocket_streams=8)
    async with (
        running(limits=limits) as relay,
        publisher(NEW, ws(relay), "demo/a", *paced(NEW, FEW, FRAMES)) as source,
        viewer(NEW, ws(relay), "demo/a", "--frames", FEW * FRAMES) as sink,
    ):
        assert_complete(await sink.wait_for("result"), FEW, FRAMES)
        assert source.count("closed") == 0


# -- who may come in


async def test_refused_with_401_before_the_upgrade() -> None:
    async with running(public="anon") as relay, aiohttp.ClientSession() as http:
        for path in ("secret", "anonymous"):
            with pytest.raises(aiohttp.WSServerHandshakeError) as refusal:
                await http.ws_connect(ws(relay, path), protocols=("webtransport",))
            assert refusal.value.status == 401
            assert refusal.value.headers is not None
            assert refusal.value.headers["access-control-allow-origin"] == "*"
        with pytest.raises(ConnectError) as told:
            await connect_websocket(ws(relay, "secret?jwt=nonsense"))
        assert (told.value.kind, told.value.status) == ("rejected", 401)
        assert "nonsense" not in str(told.value)
        async with http.ws_connect(ws(relay, "anon/room"), protocols=("webtransport",)) as socket_:
            assert socket_.protocol == "webtransport"
        async with viewer(NEW, ws(relay, "secret"), "demo") as peer:
            assert (await peer.wait_for("error"))["stage"] == "connect"


async def test_which_subprotocol_is_answered() -> None:
    async with running() as relay, aiohttp.ClientSession() as http:
        for offered, chosen in (
            ((), None),
            (("webtransport", "qmux-00"), "qmux-00"),
            (("qmux-01.moq-lite-04", "qmux-02.moq-lite-03", "qmux-02"), "qmux-01.moq-lite-04"),
        ):
            async with http.ws_connect(ws(relay), protocols=offered) as socket_:
                assert socket_.protocol == chosen
        with pytest.raises(aiohttp.WSServerHandshakeError) as refusal:
            await http.ws_connect(ws(relay), protocols=("qmux-09", "chat"))
        assert refusal.value.status == 400
        offer = {"connection": "upgrade", "upgrade": "websocket", "sec-websocket-protocol": "chat"}
        async with http.get(relay.url, headers=offer) as answer:
            assert "these are: qmux-" in await answer.text()


async def test_other_requests_are_answered_as_ever() -> None:
    async with running() as relay, aiohttp.ClientSession() as http:
        upgrade = {"upgrade": "websocket", "connection": "upgrade"}
        for path, headers, status in (
            ("some/where", {}, 404),
            ("", upgrade, 400),  # without a key
            ("some/where", upgrade | {"sec-websocket-key": "short", "sec-websocket-version": "13"}, 400),
            ("announced", upgrade, 200),
        ):
            async with http.get(f"{relay.url}{path}", headers=headers) as answer:
                assert answer.status == status, path
        async with http.post(f"{relay.url}some/where", headers=upgrade) as answer:
            assert answer.status == 404


async def test_a_peer_that_goes_before_it_is_answered(caplog: pytest.LogCaptureFixture) -> None:
    """It leaves no session, and no traceback."""
    arrived, ended = asyncio.Event(), asyncio.Event()
    events: list[Event] = []

    async def accept_late(asked: SessionRequest) -> None:
        def sink(batch: tuple[Event, ...]) -> None:
            events.extend(batch)
            ended.set()

        arrived.set()
        assert runner.server is not None
        # aiohttp does not report that the peer has left
        while any(each.transport is not None for each in runner.server.connections):  # noqa: ASYNC110
            await asyncio.sleep(0)
        asked.accept().start(sink)

    app = web.Application()
    accept_sessions(
        app,
        Sessions(
            accept_late,
            tuple(Version),
            lambda: PATIENT,
            Slots("sessions_address", 10, Counter(), SYSTEM.now),
        ),
    )
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        _, writer = await asyncio.open_connection(*runner.addresses[0])
        key = base64.b64encode(os.urandom(16)).decode()
        lines = ["GET / HTTP/1.1", "Host: a", "Connection: Upgrade", "Upgrade: websocket"]
        lines += [f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13", "", ""]
        writer.write("\r\n".join(lines).encode())
        async with asyncio.timeout(60):
            await arrived.wait()
            writer.transport.abort()
            await ended.wait()
    finally:
        await runner.cleanup()
    assert events == [SessionClosed(None, "connection lost", by_peer=False)]
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_switched_off() -> None:
    settings = config()
    settings = settings.model_copy(update={"web": settings.web.model_copy(update={"ws": False})})
    async with Relay(settings) as relay, aiohttp.ClientSession() as http:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refusal:
            await http.ws_connect(ws(relay, "demo"), protocols=("webtransport",))
        assert refusal.value.status == 404


async def test_a_full_relay_says_so() -> None:
    async with running(limits=Limits(sessions=1)) as relay:
        session = await connect_websocket(ws(relay))
        with pytest.raises(ConnectError) as told:
            await connect_websocket(ws(relay))
        assert told.value.status == 503
        session.close()
        await session.wait_closed()


# -- our own client


@contextlib.asynccontextmanager
async def client(relay: Relay, *, offer: list[str] | None = None, path: str = "") -> AsyncIterator[Client]:
    session = await connect_websocket(ws(relay, path), offer=offer)
    ours = Client(session)
    await ours.start()
    try:
        yield ours
    finally:
        await ours.close()


@pytest.mark.parametrize(
    "offer",
    [
        [],
        ["webtransport"],
        *(
            [f"qmux-0{draft}{pair}"]
            for draft in range(3)
            for pair in ("", ".moql", ".moq-lite-03", ".moq-lite-05", ".moq-lite-06")
        ),
    ],
    ids=lambda offer: offer[0] if offer else "nothing",
)
async def test_our_client_on_each_subprotocol(offer: list[str]) -> None:
    payload = random.Random(1).randbytes(3_000_000)
    async with running() as relay, client(relay, offer=offer) as source, client(relay, offer=offer) as sink:
        track = source.publish("demo/cam").track("video")
        group = track.group()
        group.write(payload)
        group.write(b"")
        group.finish()
        async with asyncio.timeout(60):
            await sink.announced().wait_for("demo/cam")
            subscription = await sink.subscribe("demo/cam", "video")
            found = await anext(subscription)
            frames = [frame async for frame in found]
    assert [frame.payload for frame in frames] == [payload, b""]


async def test_close_code_and_reason_both_ways() -> None:
    async with running() as relay:
        session = await connect_websocket(ws(relay))
        ours = Client(session)
        await ours.start()
        await relay.close("maintenance")
        end = await asyncio.wait_for(ours.closed(), 10)
        assert (end.code, end.reason, end.by_peer) == (0, "maintenance", True)
        await asyncio.wait_for(session.wait_closed(), 10)


# -- a peer of the 0.9.3 generation, byte by byte


class OldPeer:
    """Speaks the framing `webtransport` and moq-lite-01."""

    def __init__(self, socket_: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket_
        self.streams: dict[int, bytes] = {}
        self.ended: list[int] = []
        self.frames: list[PlainFrame] = []

    async def send(self, stream_id: int, data: bytes, *, fin: bool = False) -> None:
        await self.socket.send_bytes(bytes((9 if fin else 8, stream_id)) + data)

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(60):
            while not condition():
                await self.receive()

    async def receive(self) -> PlainFrame:
        message = await self.socket.receive()
        assert message.type is aiohttp.WSMsgType.BINARY, (
            message
        )  # above all no pong, which would end such a peer
        frame = decode_plain(message.data)
        self.frames.append(frame)
        if isinstance(frame, StreamFrame):
            self.streams[frame.stream_id] = self.streams.get(frame.stream_id, b"") + frame.data
            if frame.fin:
                self.ended.append(frame.stream_id)
        return frame

    async def set_up(self) -> None:
        await self.send(0, ClientSetup(SetupForm.SESSION, (Version.LITE_01.setup_code,)).encode())
        answer = ServerSetup(SetupForm.SESSION, Version.LITE_01.setup_code).encode()
        await self.until(lambda: 0 in self.streams)
        assert self.frames[0] == StreamFrame(0, answer, False)


@contextlib.asynccontextmanager
async def old_peer(relay: Relay, protocols: tuple[str, ...] = ("webtransport",)) -> AsyncIterator[OldPeer]:
    async with (
        aiohttp.ClientSession() as http,
        http.ws_connect(ws(relay, "room"), protocols=protocols, max_msg_size=16_384, heartbeat=0.2) as found,
    ):
        peer = OldPeer(found)
        await peer.set_up()
        yield peer


@pytest.mark.parametrize("protocols", [("webtransport",), ()])
async def test_old_peers_publish_and_watch(protocols: tuple[str, ...]) -> None:
    old = Version.LITE_01
    async with running() as relay, old_peer(relay, protocols) as source, old_peer(relay, protocols) as sink:
        await source.until(lambda: source.streams.get(1) == open_request(old, AnnounceRequest("")))
        await source.send(1, AnnounceInit(("cam",)).encode(old))
        await sink.send(4, open_request(old, AnnounceRequest("")))
        await sink.until(lambda: b"cam" in sink.streams.get(4, b""))
        await sink.send(8, open_request(old, Subscribe(7, "cam", "video", priority=1)))
        await source.until(lambda: 5 in source.streams)
        wanted = source.streams[5]
        assert b"video" in wanted
        await source.send(5, SubscribeOk(priority=1).encode(old))
        for group in range(3):
            stream_id = 2 + 4 * group
            head = group_header(old, GroupHeader(0, group))
            await source.send(stream_id, head + frame_header_plain(5) + b"frame")
            await source.send(stream_id, frame_header_plain(20_000) + bytes(16_000))
            await source.send(stream_id, bytes(4_000), fin=True)
        await sink.until(lambda: {3 + 4 * group for group in range(3)} - {1} <= set(sink.streams))
        await sink.until(lambda: len([id_ for id_ in sink.ended if id_ & 3 == 3]) == 3)
        received = sorted(data for id_, data in sink.streams.items() if id_ & 3 == 3)
        body = frame_header_plain(5) + b"frame" + frame_header_plain(20_000) + bytes(20_000)
        assert received == [group_header(old, GroupHeader(7, group)) + body for group in range(3)]
        # the viewer leaves: reset and stop, and both are answered
        await sink.socket.send_bytes(bytes((4, 8, 0)))
        await sink.socket.send_bytes(bytes((5, 8, 0)))
        await sink.until(lambda: ResetStream(8, 0) in sink.frames)
        # the publisher closes: a frame, then the WebSocket
        await source.socket.send_bytes(bytes((0x1D, 0)) + b"bye")
        closing = await source.socket.receive()
        while closing.type is aiohttp.WSMsgType.BINARY:
            closing = await source.socket.receive()
        assert closing.type is aiohttp.WSMsgType.CLOSE
        await sink.until(lambda: sink.streams[4].endswith(AnnounceEnded("room/cam").encode(old)[-3:]))


async def test_no_pong_unasked() -> None:
    """Such a peer takes an unasked pong for a fault; ours follow pings only."""
    async with (
        running() as relay,
        aiohttp.ClientSession() as http,
        http.ws_connect(ws(relay), protocols=("webtransport",), autoping=False) as found,
    ):
        await found.ping(b"one")
        pong = await asyncio.wait_for(found.receive(), 5)
        assert (pong.type, pong.data) == (aiohttp.WSMsgType.PONG, b"one")


# -- peers that misbehave


def masked(opcode: int, payload: bytes) -> bytes:
    """One WebSocket frame of a client, with a mask of zeros."""
    size = len(payload)
    length = bytes((0x80 | size,)) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
    return bytes((0x80 | opcode,)) + length + bytes(4) + payload


@contextlib.asynccontextmanager
async def bare(relay: Relay, subprotocol: str) -> AsyncIterator[socket.socket]:
    """A socket after the upgrade, without a reader."""
    loop = asyncio.get_running_loop()
    with socket.socket() as sock:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
        port = int(relay.url.rpartition(":")[2].strip("/"))
        await loop.sock_connect(sock, ("127.0.0.1", port))
        key = base64.b64encode(os.urandom(16)).decode()
        lines = (
            "GET / HTTP/1.1",
            f"host: 127.0.0.1:{port}",
            "upgrade: websocket",
            "connection: upgrade",
            f"sec-websocket-key: {key}",
            "sec-websocket-version: 13",
            f"sec-websocket-protocol: {subprotocol}",
        )
        await loop.sock_sendall(sock, "\r\n".join((*lines, "", "")).encode())
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            answer += await loop.sock_recv(sock, 1)
        assert b" 101 " in answer.splitlines()[0]
        yield sock


async def subscribe(sock: socket.socket) -> None:
    """Set up and ask for everything, over the oldest framing."""
    setup = ClientSetup(SetupForm.SESSION, (Version.LITE_01.setup_code,)).encode()
    request = open_request(Version.LITE_01, Subscribe(0, "demo/cam", "video", priority=1))
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(sock, masked(2, b"\x08\x00" + setup) + masked(2, b"\x08\x04" + request))


def resident() -> int:
    """Bytes of this process, with the relay in it."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


async def until_sessions(relay: Relay, count: int) -> None:
    """A request in between lets the relay work."""
    async with asyncio.timeout(60):
        while len(relay.connections) != count:
            async with aiohttp.ClientSession() as http, http.get(f"{relay.url}health") as answer:
                await answer.read()


async def test_a_peer_that_never_reads_costs_only_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """300 MB pass by; a viewer beside it gets every byte."""
    monkeypatch.setattr(framed, "DEAD_AFTER", 600.0)  # a busy machine takes its time
    limits = Limits(cache_age=0.05, backlog_time=0.1, backlog_bytes=8 << 20)
    payload = bytes(500_000)
    async with (
        running(limits=limits) as relay,
        client(relay) as source,
        client(relay) as sink,
        bare(relay, "webtransport") as sock,
    ):
        track = source.publish("demo/cam").track("video", latency_ms=50)
        await sink.announced().wait_for("demo/cam")
        subscription = await sink.subscribe("demo/cam", "video")
        await subscribe(sock)
        before, most, received = resident(), 0, 0
        async with asyncio.timeout(100):
            for _ in range(300):
                group = track.group()
                group.write(payload)
                group.write(payload)
                group.finish()
                got = await anext(subscription)
                received += sum([len(frame.payload) async for frame in got])
                most = max(most, resident() - before)
        assert received == 300 * 2 * len(payload)
        assert most < 100 << 20
        assert len(relay.connections) == 3


async def test_a_peer_that_never_reads_is_gone_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(framed, "KEEP_ALIVE", 0.1)
    monkeypatch.setattr(framed, "DEAD_AFTER", 1.0)
    async with running() as relay, bare(relay, "webtransport") as sock, client(relay) as other:
        await subscribe(sock)
        await until_sessions(relay, 1)
        # its neighbour answers pings, and stays
        await other.announced().initial()


async def test_unread_answers_do_not_pile_up() -> None:
    """A peer sends pings without reading: finally the relay stops reading from it."""
    async with running() as relay, bare(relay, "webtransport") as sock:
        await subscribe(sock)
        before = resident()
        burst = masked(9, bytes(100)) * 500
        loop = asyncio.get_running_loop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(60):
                for _ in range(2_000):  # 100 MB
                    async with asyncio.timeout(2):
                        await loop.sock_sendall(sock, burst)
                raise AssertionError("it was read on and on")
        assert resident() - before < 50 << 20


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (masked(1, b"text"), "a text message"),
        (masked(2, b"\x33\x00"), "unknown frame type 0x33"),
        (masked(2, b""), "ends before a byte field"),
        (masked(2, b"\x08\x80\x01\x00\x00"), "beyond the streams that may be open at once"),
    ],
)
async def test_faults_are_reported_to_their_sender(frame: bytes, reason: str) -> None:
    async with running() as relay, client(relay) as other, bare(relay, "webtransport") as sock:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(sock, frame)
        answer = b""
        async with asyncio.timeout(60):
            while piece := await loop.sock_recv(sock, 65_536):
                answer += piece
        # APPLICATION_CLOSE 1002, then the WebSocket's own close 1000
        assert b"\x1d\x43\xea" in answer
        assert reason.encode() in answer
        assert answer.endswith(b"\x88\x02\x03\xe8")
        await other.announced().initial()


@pytest.mark.parametrize("subprotocol", ["webtransport", "qmux-02"])
async def test_a_message_without_end(subprotocol: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "relay.session")
    async with running() as relay, bare(relay, subprotocol) as sock:
        loop = asyncio.get_running_loop()
        before = resident()
        # it announces 2**62 bytes and goes on sending
        await loop.sock_sendall(sock, b"\x82\xff" + (1 << 62).to_bytes(8, "big") + bytes(4))
        with contextlib.suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(5):
                for _ in range(2_000):
                    await loop.sock_sendall(sock, bytes(65_536))
        assert resident() - before < 50 << 20
        await until_sessions(relay, 0)
    assert "reason='a message is too large'" in caplog.text


async def test_garbage_for_qmux() -> None:
    async with running() as relay, aiohttp.ClientSession() as http:
        for message, reason in (
            (bytes.fromhex("0e000003010100"), "transport parameters come not first"),
            (b"\x32", "qmux-02 has no frame type 0x32"),
            (bytes(16_383), "message of 16383 bytes, at most 16382 are allowed"),
        ):
            async with http.ws_connect(ws(relay), protocols=("qmux-02",), autoping=False) as found:
                first = await found.receive()
                assert first.data.startswith(bytes.fromhex("ff5153300d0a0d0a"))
                await found.send_bytes(message)
                told = await found.receive()
                assert told.data == Close(1002, reason, application=False).encode()
                assert (await found.receive()).type is aiohttp.WSMsgType.CLOSE
