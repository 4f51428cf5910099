"""The QUIC transport on real sockets: our client, our server, and the Rust stack on either end."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import random
import socket
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import rsa

from relay.model.limits import Limits
from relay.quic import offload
from relay.quic.certificate_store import CertificatePair, CertificateStore, generate_certificate
from relay.quic.endpoint import Endpoint
from relay.quic.settings import QuicSettings
from relay.quic.udp import UdpSocket
from relay.transport.client import ClientTls, ConnectError, connect
from relay.transport.quic_server import QuicServer
from relay.transport.quic_session import QuicSession
from relay.transport.session import Event, Pong, Session, SessionClosed, SessionRequest, StreamData
from relay.wire.version import Version
from tests.clock import RUNTIME
from tests.e2e.harness import Peer, RustPeer, free_udp_port, peer_python
from tests.e2e.quic_support import open_connections
from tests.e2e.support import NEW, OLD
from tests.pem import chain_pem
from tests.quic.test_certificates import self_signed
from tests.sampling import first, repeats
from tests.transport.virtual import Recorder

pytestmark = pytest.mark.e2e

NOW = dt.datetime.now(dt.UTC)
NAMES = ["localhost", "127.0.0.1", "::1"]
SCHEMES = ["moqt", "https"]


class Owner(Recorder):
    def __init__(self, session: Session, on_event: Callable[[Event], None] | None = None) -> None:
        self._changed = asyncio.Event()
        self.session = session
        super().__init__(session, on_event)

    def __call__(self, batch: tuple[Event, ...]) -> None:
        super().__call__(batch)
        self._changed.set()

    async def until(self, condition: Callable[[Owner], Any], within: float = 20.0) -> None:
        async with asyncio.timeout(within):
            while not condition(self):
                self._changed.clear()
                await self._changed.wait()

    async def end(self) -> SessionClosed:
        await self.until(lambda owner: owner.closed)
        assert self.closed is not None
        return self.closed


def echo(event: Event) -> None:
    if isinstance(event, StreamData) and not event.stream.unidirectional:
        event.stream.write([event.data], fin=event.fin)


class Host:
    def __init__(self, **options: Any) -> None:
        self.store: CertificateStore = options.pop("store", None) or CertificateStore([], NAMES, NOW)
        self.requests: list[SessionRequest] = []
        self.owners: list[Owner] = []
        self.reject: int | None = None
        self.on_event: Callable[[Event], None] | None = echo
        self.answering = True
        self._came = asyncio.Event()
        everything: dict[str, Any] = {
            "address": ("127.0.0.1", 0),
            "settings": QuicSettings(),
            "limits": Limits(),
            "versions": tuple(Version),
        } | options
        self.server = QuicServer(
            runtime=RUNTIME, certificates=self.store, on_request=self._on_request, **everything
        )

    def _on_request(self, request: SessionRequest) -> None:
        self.requests.append(request)
        if self.reject is not None:
            request.reject(self.reject, "rejected")
        elif self.answering:
            self.owners.append(Owner(request.accept(), self.on_event))
        self._came.set()

    @property
    def port(self) -> int:
        return self.server.addresses[0][1]

    @property
    def tls(self) -> ClientTls:
        return ClientTls(fingerprints=(self.store.fingerprint,))

    def url(self, scheme: str, host: str = "127.0.0.1") -> str:
        return f"{scheme}://{host}:{self.port}/demo/cam?jwt=secret"

    async def owner(self, number: int = 1) -> Owner:
        await self._until(lambda: len(self.owners) >= number)
        return self.owners[number - 1]

    async def request(self) -> SessionRequest:
        await self._until(lambda: bool(self.requests))
        return self.requests[0]

    async def _until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not condition():
                self._came.clear()
                await self._came.wait()


@contextlib.asynccontextmanager
async def hosting(**options: Any) -> AsyncIterator[Host]:
    host = Host(**options)
    await host.server.start()
    try:
        yield host
    finally:
        await host.server.close(0, "test over", timeout=2.0)


@pytest.fixture(autouse=True)
async def leaves_nothing() -> AsyncIterator[None]:
    """No task and no reader outlives a test."""
    yield
    loop: Any = asyncio.get_running_loop()
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    assert not [task for task in tasks if "relay" in repr(task.get_coro())]
    # the rest belongs to the loop itself and to the fixtures' runner
    mine = [key for key in loop._selector.get_map().values() if "UdpSocket" in repr(key.data)]
    assert not mine


def heard(count: int) -> Callable[[Owner], bool]:
    return lambda owner: sum(isinstance(event, Pong) for event in owner.events) >= count


async def leave(session: QuicSession) -> None:
    session.close()
    async with asyncio.timeout(60):
        await session.wait_closed()


# -- our client, our server


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("version", list(Version))
async def test_each_version(scheme: str, version: Version) -> None:
    async with hosting() as host:
        session = await connect(host.url(scheme), versions=(version,), tls=host.tls)
        owner = Owner(session)
        peer = await host.owner()
        expected = None if version <= Version.LITE_02 else version
        assert session.version is peer.session.version is expected
        assert session.path == "/demo/cam"
        assert session.query == "jwt=secret"
        assert peer.session.path == (None if scheme == "moqt" else "/demo/cam")
        stream = session.open_bidi()
        stream.write([b"hello"], fin=True)
        await owner.until(lambda owner: owner.finished)
        assert owner.data(stream.id) == b"hello"
        await leave(session)


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_many_streams_over_a_small_credit(scheme: str) -> None:
    count = repeats(5000)
    async with hosting(settings=QuicSettings(max_streams_uni=16)) as host:
        session = await connect(host.url(scheme), tls=host.tls)
        Owner(session)
        for _ in range(count):
            session.open_uni().write([b"group" * 20], fin=True)
        peer = await host.owner()
        await peer.until(lambda peer: len(peer.finished) == count, 60)
        await leave(session)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("native", [True, False])
async def test_large_transfer_both_ways(scheme: str, native: bool) -> None:
    payload = random.Random(1).randbytes(2_000_000)
    settings = QuicSettings(native=native)
    async with hosting(settings=settings) as host:
        session = await connect(host.url(scheme), tls=host.tls, settings=settings)
        owner = Owner(session)
        stream = session.open_bidi()
        stream.write([payload], fin=True)
        await owner.until(lambda owner: owner.finished, 60)
        assert owner.data(stream.id) == payload
        assert stream.unsent == 0
        await leave(session)


async def test_a_kernel_without_offload(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on macOS: one call for each datagram."""
    for name in ("can_segment", "receive_merged", "forbid_fragments"):
        monkeypatch.setattr(offload, name, lambda sock: False)
    async with hosting() as host:
        session = await connect(host.url("moqt"), tls=host.tls)
        owner = Owner(session)
        stream = session.open_bidi()
        stream.write([bytes(500_000)], fin=True)
        await owner.until(lambda owner: owner.finished)
        assert len(owner.data(stream.id)) == 500_000
        await leave(session)


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_codes_of_resets_and_stops(scheme: str) -> None:
    async with hosting() as host:
        session = await connect(host.url(scheme), tls=host.tls)
        owner, peer = Owner(session), await host.owner()
        up = session.open_bidi()
        up.write([b"x"])
        await peer.until(lambda peer: peer.events)
        up.reset(51)
        up.stop(54)
        await peer.until(lambda peer: peer.resets and peer.stops)
        assert (peer.resets, peer.stops) == ([(up.id, 51)], [(up.id, 54)])
        down = peer.session.open_uni()
        down.write([b"y"])
        await owner.until(
            lambda owner: any(isinstance(e, StreamData) and e.data == b"y" for e in owner.events)
        )
        event = next(e for e in owner.events if isinstance(e, StreamData) and e.data == b"y")
        event.stream.stop(5)
        await peer.until(lambda peer: len(peer.stops) == 2)
        assert peer.stops[-1] == (down.id, 5)
        await leave(session)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("closer", ["client", "server"])
async def test_close_with_code_and_reason(scheme: str, closer: str) -> None:
    async with hosting() as host:
        session = await connect(host.url(scheme), tls=host.tls)
        owner, peer = Owner(session), await host.owner()
        (session if closer == "client" else peer.session).close(468, "app code=404")
        ends = {"client": await owner.end(), "server": await peer.end()}
        assert ends.pop(closer) == SessionClosed(468, "app code=404", by_peer=False)
        assert list(ends.values()) == [SessionClosed(468, "app code=404", by_peer=True)]
        async with asyncio.timeout(5):
            await session.wait_closed()


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_datagrams_and_pings(scheme: str) -> None:
    async with hosting() as host:
        session = await connect(host.url(scheme), tls=host.tls)
        owner, peer = Owner(session), await host.owner()
        session.send_datagram(b"up")
        peer.session.send_datagram(b"down")
        session.ping()
        await owner.until(lambda owner: len(owner.events) == 2)
        await peer.until(lambda peer: peer.events)
        await leave(session)


async def test_our_own_pause_is_not_the_peers_silence() -> None:
    """The process is stopped for longer than the idle time-out, like a suspended machine: no session is dropped."""
    settings = QuicSettings(idle_timeout=0.8, keep_alive=0.3)
    async with hosting(settings=settings) as host:
        session = await connect(host.url("moqt"), tls=host.tls, settings=settings)
        owner, peer = Owner(session), await host.owner()
        for count, pause in enumerate((0.3, 0.7, 1.2), 1):
            # unacknowledged packets have the earliest deadline
            for side in (session, peer.session):
                assert isinstance(side, QuicSession)
                side.open_uni().write([bytes(3000)], fin=True)
                side.driver.transmit(time.monotonic())
            time.sleep(pause)  # noqa: ASYNC251 - that nothing else runs is what is tested
            session.ping()
            peer.session.ping()
            await owner.until(heard(count))
            await peer.until(heard(count))
        assert not owner.closed
        assert not peer.closed
        await leave(session)


async def test_a_deadline_that_has_passed_is_no_pause(caplog: pytest.LogCaptureFixture) -> None:
    """A peer at the end of a long back-off must not excuse the silence of all others."""
    async with hosting() as host:
        session = await connect(host.url("moqt"), tls=host.tls)
        Owner(session)
        peer = await host.owner()
        assert isinstance(peer.session, QuicSession)
        driver = peer.session.driver
        endpoint = driver.endpoint
        assert isinstance(endpoint, Endpoint)
        before = time.monotonic()
        endpoint.watch(driver, before - 5)
        assert endpoint._watch_at >= before
        endpoint._look()
        assert "did not run" not in caplog.text
        await leave(session)


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_rejection(scheme: str) -> None:
    async with hosting() as host:
        host.reject = 401
        if scheme == "https":
            with pytest.raises(ConnectError, match="401") as caught:
                await connect(host.url(scheme), tls=host.tls)
            assert (caught.value.kind, caught.value.status) == ("rejected", 401)
            assert "secret" not in str(caught.value)
            assert "/demo/cam" in str(caught.value)
        else:
            session = await connect(host.url(scheme), tls=host.tls)
            assert await Owner(session).end() == SessionClosed(2, "rejected", by_peer=True)


async def test_a_rejecting_server_lets_the_connection_go() -> None:
    async with hosting() as host:
        host.reject = 404
        with pytest.raises(ConnectError):
            await connect(host.url("https"), tls=host.tls)
        assert open_connections(host.server) <= 1


# -- addresses


@pytest.mark.parametrize(
    "listen, dial",
    [
        ("127.0.0.1", "127.0.0.1"),
        ("::1", "[::1]"),
        ("::", "127.0.0.1"),
        ("::", "[::1]"),
        ("::", "localhost"),
        ("localhost", "127.0.0.1"),
        ("localhost", "[::1]"),
        ("127.0.0.1", "localhost"),  # nothing listens on the other address family
    ],
)
async def test_addresses(listen: str, dial: str) -> None:
    async with hosting(address=(listen, 0)) as host:
        session = await connect(host.url("https", dial), tls=host.tls, bind=("::", 0))
        peer = await host.owner()
        assert "ffff" not in peer.session.remote
        assert len(host.server.addresses) == (2 if listen == "localhost" else 1)
        assert len({port for _, port in host.server.addresses}) == 1
        await leave(session)


async def test_a_port_in_use_is_said_so() -> None:
    async with hosting(address=("::1", 0)) as host:
        second = Host(address=("::1", host.port))
        with pytest.raises(
            OSError, match=rf"cannot listen on UDP \[::1\]:{host.port}: Address already in use"
        ):
            await second.server.start()


# -- trust


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_wrong_fingerprint(scheme: str) -> None:
    async with hosting() as host:
        with pytest.raises(ConnectError, match="fingerprint") as caught:
            await connect(host.url(scheme), tls=ClientTls(fingerprints=("0" * 64,)))
        assert caught.value.kind == "tls"
        assert not host.requests


async def test_expired_pin() -> None:
    old = generate_certificate(NAMES, NOW - dt.timedelta(days=30))
    async with hosting(store=CertificateStore([old], [], NOW)) as host:
        with pytest.raises(ConnectError, match="expired") as caught:
            await connect(host.url("moqt"), tls=host.tls)
        assert caught.value.kind == "tls"


async def test_roots(tmp_path: Path) -> None:
    store = CertificateStore([], NAMES, NOW)
    right, wrong = tmp_path / "right.pem", tmp_path / "wrong.pem"
    right.write_bytes(b"a root, and text\n" + chain_pem(store.pairs[0]) + b"\n\n")
    wrong.write_bytes(chain_pem(generate_certificate(NAMES, NOW)))
    async with hosting(store=store, address=("::", 0)) as host:
        for name in ("127.0.0.1", "localhost", "[::1]"):
            await leave(await connect(host.url("https", name), tls=ClientTls(roots=(right,))))
        for tls in (ClientTls(roots=(wrong,)), ClientTls()):
            with pytest.raises(ConnectError, match="TLS handshake failed") as caught:
                await connect(host.url("https"), tls=tls)
            assert caught.value.kind == "tls"
        await leave(await connect(host.url("https"), tls=ClientTls(disable_verify=True)))
        with pytest.raises(ConnectError, match=r"gone\.pem"):
            await connect(host.url("https"), tls=ClientTls(roots=(tmp_path / "gone.pem",)))


async def test_wrong_name(tmp_path: Path) -> None:
    store = CertificateStore([], ["relay.test"], NOW)
    root = tmp_path / "root.pem"
    root.write_bytes(chain_pem(store.pairs[0]))
    async with hosting(store=store) as host:
        with pytest.raises(ConnectError, match="TLS handshake failed"):
            await connect(host.url("moqt"), tls=ClientTls(roots=(root,)))


async def test_certificate_by_server_name(monkeypatch: pytest.MonkeyPatch) -> None:
    # an RSA and an EC certificate: the signature algorithm must follow the choice
    first = generate_certificate(["first.test"], NOW)
    today = dt.datetime.now(dt.UTC) - dt.timedelta(hours=1)
    monkeypatch.setattr("tests.quic.test_certificates.NOW", today)
    second: CertificatePair = self_signed(rsa.generate_private_key(65537, 2048), "second.test")
    store = CertificateStore([first, second], NAMES, NOW)
    loop = asyncio.get_running_loop()
    resolve = loop.getaddrinfo

    async def here(host: str, port: int, **options: Any) -> Any:
        return await resolve("127.0.0.1", port, **options)

    monkeypatch.setattr(loop, "getaddrinfo", here)
    async with hosting(store=store) as host:
        for name, pair in (
            ("first.test", first),
            ("second.test", second),
            ("localhost", store.pairs[2]),
            ("unknown.test", first),
            ("127.0.0.1", first),  # an address sends no name
        ):
            tls = ClientTls(fingerprints=(pair.fingerprint,))
            await leave(await connect(host.url("moqt", name), tls=tls))


async def test_certificates_can_be_replaced() -> None:
    store = CertificateStore([generate_certificate(NAMES, NOW)], [], NOW)
    async with hosting(store=store) as host:
        old = host.tls
        await leave(await connect(host.url("moqt"), tls=old))
        store.replace([generate_certificate(NAMES, NOW)])
        await leave(await connect(host.url("moqt"), tls=host.tls))
        with pytest.raises(ConnectError):
            await connect(host.url("moqt"), tls=old)


# -- other failures of dialling


@pytest.mark.parametrize(
    "url",
    [
        "ftp://localhost/",
        "https://",
        "localhost:4443",
        "https://host:port/",
        "moqt://[::1",
        "moqt://a/\udcff",
        "http://a..b/",
        f"moqt://{'a' * 64}/",
    ],
)
async def test_bad_urls(url: str) -> None:
    with pytest.raises(ConnectError) as caught:
        await connect(url)
    assert caught.value.kind == "url"


async def test_nobody_listens() -> None:
    with pytest.raises(ConnectError, match="refused") as caught:
        await connect(f"moqt://127.0.0.1:{free_udp_port()}/a?jwt=secret")
    assert caught.value.kind == "refused"


async def test_nobody_answers() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mute:
        mute.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectError, match="timed out") as caught:
            await connect(f"https://127.0.0.1:{mute.getsockname()[1]}/a?jwt=secret", timeout=0.3)
    assert caught.value.kind == "timeout"
    assert "secret" not in str(caught.value)


async def test_a_request_that_is_never_answered() -> None:
    async with hosting() as host:
        host.answering = False
        with pytest.raises(ConnectError, match="timed out"):
            await connect(host.url("https"), tls=host.tls, timeout=0.5)


async def test_no_common_version() -> None:
    async with hosting(versions=(Version.LITE_05,)) as host:
        with pytest.raises(ConnectError) as raw:
            await connect(host.url("moqt"), versions=(Version.LITE_04,), tls=host.tls)
        assert raw.value.kind == "tls"
        with pytest.raises(ConnectError) as webtransport:
            await connect(host.url("https"), versions=(Version.LITE_04,), tls=host.tls)
        assert webtransport.value.status == 400


async def test_cancelled_dialling_leaves_nothing() -> None:
    async with hosting() as host:
        host.answering = False
        task = asyncio.create_task(connect(host.url("https"), tls=host.tls))
        await host.request()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_http_fetches_the_fingerprint() -> None:
    async with hosting(address=("127.0.0.1", free_udp_port())) as host:  # free for TCP as well
        answers: dict[str, Any] = {"text": host.store.fingerprint, "status": 200}

        async def serve(request: web.Request) -> web.Response:
            return web.Response(text=str(answers["text"]), status=int(answers["status"]))

        application = web.Application()
        application.router.add_get("/certificate.sha256", serve)
        runner = web.AppRunner(application)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", host.port).start()
            session = await connect(host.url("http"))
            assert session.transport == "webtransport"
            await leave(session)
            answers["text"] = "not a fingerprint"
            with pytest.raises(ConnectError, match="hex digits"):
                await connect(host.url("http"))
            answers["status"] = 404
            with pytest.raises(ConnectError, match="404"):
                await connect(host.url("http"))
        finally:
            await runner.cleanup()
        with pytest.raises(ConnectError) as caught:
            await connect(host.url("http"))
        assert caught.value.kind == "refused"


# -- the server under strain


async def test_session_limit() -> None:
    async with hosting(limits=Limits(sessions=3)) as host:
        sessions = [await connect(host.url("moqt"), tls=host.tls) for _ in range(3)]
        with pytest.raises(ConnectError, match="transport error 0x2") as caught:
            await connect(host.url("moqt"), tls=host.tls)
        assert caught.value.kind == "protocol"
        assert host.server.refused["sessions"] >= 1
        for session in sessions:
            Owner(session)
            await leave(session)


async def test_handshake_limit() -> None:
    """First packets of abandoned handshakes."""
    async with hosting(limits=Limits(handshakes=20)) as host:
        firsts = await first_packets(60)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for packet in firsts:
                sock.sendto(packet, ("127.0.0.1", host.port))
            await answered(host)
        assert host.server.refused["handshakes"] == 40
        assert open_connections(host.server) == 20


UNKNOWN_VERSION = b"\xc0\x1a\x2a\x3a\x4a" + b"\x08" + b"d" * 8 + b"\x08" + b"s" * 8


async def answered(host: Host) -> bytes:
    """The answer to an unknown version: it follows all earlier packets."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.setblocking(False)
        await loop.sock_sendto(sock, UNKNOWN_VERSION + bytes(1200), ("127.0.0.1", host.port))
        async with asyncio.timeout(5):
            return await loop.sock_recv(sock, 2000)


async def first_packets(count: int) -> list[bytes]:
    packets = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink:
        sink.bind(("127.0.0.1", 0))
        sink.setblocking(False)
        loop = asyncio.get_running_loop()
        for _ in range(count):
            task = asyncio.create_task(connect(f"moqt://127.0.0.1:{sink.getsockname()[1]}/"))
            packets.append(await loop.sock_recv(sink, 65536))
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            with contextlib.suppress(BlockingIOError):
                while True:
                    sink.recv(65536)
    return packets


async def test_garbage() -> None:
    """Random bytes, and damaged real packets, from a live client's address and from others."""
    dice = random.Random(5)
    async with hosting() as host:
        real = await first_packets(5)
        session = await connect(host.url("https"), tls=host.tls)
        owner = Owner(session)
        target = ("127.0.0.1", host.port)
        live = cast("UdpSocket", session.driver.sock).sock
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            for _ in range(3000):
                if dice.random() < 0.5:
                    packet = dice.randbytes(dice.choice([1, 2, 7, 20, 100, 1200, 1400]))
                else:
                    bent = bytearray(dice.choice(real))
                    for _ in range(dice.randrange(4)):
                        bent[dice.randrange(min(len(bent), dice.choice([10, 30, 1200])))] ^= (
                            1 << dice.randrange(8)
                        )
                    packet = bytes(bent[: dice.choice([1, 6, 30, 1199, 1200, 1200])])
                if dice.random() < 0.3:
                    # long headers with the server's own connection id reach the connection
                    cid = dice.choice(sorted(next(iter(host.server.connections)).cids))
                    packet = bytes([0x40 | dice.randrange(64)]) + cid + packet
                other.sendto(packet, target)
                with contextlib.suppress(BlockingIOError):
                    live.send(packet)
                if dice.random() < 0.05:
                    await asyncio.sleep(0)
        stream = session.open_bidi()
        stream.write([b"still here"], fin=True)
        await owner.until(lambda owner: owner.finished)
        assert owner.data(stream.id) == b"still here"
        await leave(session)


async def test_version_negotiation_and_its_guard() -> None:
    async with hosting() as host:
        negotiation = b"\xc0\x00\x00\x00\x00" + UNKNOWN_VERSION[5:]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("127.0.0.1", 0))
            sock.setblocking(False)
            sock.sendto(negotiation + bytes(1200), ("127.0.0.1", host.port))
            sock.sendto(UNKNOWN_VERSION, ("127.0.0.1", host.port))  # too small for an answer
            answer = await answered(host)
            assert answer[1:5] == bytes(4)
            assert answer[6:14] == b"s" * 8
            assert b"\x00\x00\x00\x01" in answer
            with pytest.raises(BlockingIOError):
                sock.recv(2000)
        assert open_connections(host.server) == 0


async def test_one_failing_session_leaves_the_others() -> None:
    async with hosting() as host:
        first = await connect(host.url("https"), tls=host.tls)
        second = await connect(host.url("moqt"), tls=host.tls)
        broken, fine = await host.owner(1), await host.owner(2)

        def fail(event: Event) -> None:
            raise RuntimeError("a bug")

        broken.on_event = fail
        one, two = Owner(first), Owner(second)
        first.open_uni().write([b"x"])
        end = await one.end()
        assert end.code is None
        stream = second.open_bidi()
        stream.write([b"x"], fin=True)
        await two.until(lambda owner: owner.finished)
        assert fine.closed is None
        await leave(second)


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_closing_the_server_closes_sessions(scheme: str) -> None:
    async with hosting() as host:
        owners = [Owner(await connect(host.url(scheme), tls=host.tls)) for _ in range(5)]
        await host.owner(5)
        await host.server.close(0, "server shutdown", timeout=5.0)
        for owner in owners:
            assert await owner.end() == SessionClosed(0, "server shutdown", by_peer=True)
        for peer in host.owners:
            assert peer.closed == SessionClosed(0, "server shutdown", by_peer=False)
        async with asyncio.timeout(5):
            for owner in owners:
                assert isinstance(owner.session, QuicSession)
                await owner.session.wait_closed()


@pytest.mark.virtual
async def test_many_clients_at_once() -> None:
    async with hosting() as host:
        dials = (connect(host.url(random.choice(SCHEMES)), tls=host.tls, runtime=RUNTIME) for _ in range(60))
        sessions = await asyncio.gather(*dials)
        owners = [Owner(session) for session in sessions]
        for session in sessions:
            session.open_bidi().write([b"x" * 3000], fin=True)
        for owner in owners:
            await owner.until(lambda owner: owner.finished)
        await asyncio.gather(*(leave(session) for session in sessions))


# -- the Rust stack

BEST = {NEW: Version.LITE_06, OLD: Version.LITE_04}
RUST = pytest.mark.parametrize(
    "release, scheme",
    [*((NEW, scheme) for scheme in SCHEMES), *((OLD, scheme) for scheme in first("https", "moqt"))],
)


@RUST
async def test_rust_client(release: str, scheme: str) -> None:
    async with hosting() as host, RustPeer(release, "announced", host.url(scheme)) as peer:
        host.on_event = None
        await peer.wait_for("connected")
        owner = await host.owner()
        assert owner.session.version is BEST[release]
        # its first stream asks what is announced
        await owner.until(lambda owner: any(data.startswith(b"\x01") for data in opened(owner)))
        request = host.requests[0]
        if scheme == "https":
            assert (request.path, request.query) == ("/demo/cam", "jwt=secret")
            assert request.offered[0] == BEST[release].name_on_wire
        else:
            assert request.offered == (BEST[release].name_on_wire,)
        owner.session.close(468, "app code=404")
        closed = await peer.wait_for("closed")
        if release == NEW:
            assert (closed["code"], closed["message"]) == (468, "app code=404")


def opened(owner: Owner) -> list[bytes]:
    return [e.data for e in owner.events if isinstance(e, StreamData)]


@pytest.mark.parametrize("release", BEST)
async def test_rust_client_is_rejected(release: str) -> None:
    async with hosting() as host:
        host.reject = 401
        async with RustPeer(release, "announced", host.url("https")) as peer:
            error = await peer.wait_for("error")
            assert "unauthorized" in str(error).lower()


@pytest.mark.parametrize("version", [Version.LITE_01, Version.LITE_02])
async def test_rust_client_with_setup_versions(version: Version) -> None:
    async with hosting(versions=(version,)) as host, RustPeer("0.5.1", "announced", host.url("https")):
        owner = await host.owner()
        assert (owner.session.version, owner.session.alpn) == (None, "moql")
        await owner.until(lambda owner: any(data.startswith(b"\x20") for data in opened(owner)))


SERVER = """
import asyncio, json, sys, moq

async def main():
    async with moq.Server("127.0.0.1:0", tls_generate=["localhost"]) as server:
        fingerprints = server.cert_fingerprints()
        print(json.dumps({"event": "listening", "address": server.local_addr, "fingerprint": fingerprints[0]}), flush=True)
        sessions = []
        async for request in server:
            print(json.dumps({"event": "request", "url": request.url}), flush=True)
            if "forbidden" in (request.url or ""):
                code = 403
                await request.reject(code)
                continue
            session = await (request.accept() if hasattr(request, "accept") else request.ok())
            sessions.append(session)
            print(json.dumps({"event": "accepted"}), flush=True)

asyncio.run(main())
"""


@RUST
async def test_rust_server(release: str, scheme: str) -> None:
    python = await asyncio.to_thread(peer_python, release)
    async with Peer([python, "-c", SERVER], f"moq-rs {release} server") as peer:
        listening = await peer.wait_for("listening")
        tls = ClientTls(fingerprints=(listening["fingerprint"],))
        session = await connect(f"{scheme}://{listening['address']}/demo/cam", tls=tls)
        owner = Owner(session)
        assert session.version is BEST[release]
        if BEST[release] >= Version.LITE_05:
            # its server waits for our SETUP (an empty list of parameters)
            session.open_uni().write([b"\x01\x01\x00"], fin=True)
        announce = session.open_bidi()
        announce.write([b"\x01\x01\x00"] if BEST[release] < Version.LITE_04 else [b"\x01\x02\x00\x00"])
        await peer.wait_for("request")
        await peer.wait_for("accepted")
        await owner.until(lambda owner: owner.events)
        assert owner.closed is None
        await leave(session)
