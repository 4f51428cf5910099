"""Other QUIC implementations through what happens to connections: quinn, aioquic and Chromium on a network that moves
them, forgets their addresses and narrows; key updates and closes of either end.

Stateless resets are in test_restart.py, loss in test_loss.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import pytest
from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, QuicEvent

from relay.app import Relay
from relay.quic.connection import OPEN, Connection
from relay.quic.driver import Driver
from relay.wire.version import Version
from tests.e2e.browser import Page, chromium_path
from tests.e2e.harness import free_udp_port
from tests.e2e.peers.frames import payload
from tests.e2e.support import NEW, assert_complete, publisher, raw, running, viewer, webtransport
from tests.e2e.test_transport import Host, hosting
from tests.e2e.udp_proxy import UdpProxy, _Flow
from tests.sampling import covering

pytestmark = pytest.mark.e2e

HOSTS = {"port": ("127.0.0.1",), "address": ("127.0.0.2", "127.0.0.3")}
"""What a rebinding changes."""

SMALL = 1300  # bytes of the datagrams that a narrow network still carries
LARGE = 1400
SHAPE = ("--frames-per-group", 10, "--frame-size", 4000, "--interval", 0.002)


class Nat(UdpProxy):
    """In front of a relay, for one client: gives it other addresses, and drops datagrams that are too large."""

    def __init__(self, target: int) -> None:
        super().__init__(free_udp_port(), target)
        self.largest = 65_536
        self.too_large = 0
        self.moves = 0
        self.passing: list[tuple[str, bytes]] = []
        self._hosts: Iterable[str] = ()
        self._every = 0
        self._said = 0

    def keep_moving(self, hosts: tuple[str, ...], every: int = 10) -> None:
        """After each so many datagrams of the client."""
        self._hosts, self._every = itertools.cycle(hosts), every

    def rest(self) -> None:
        self._every = 0

    @property
    def flow(self) -> _Flow:
        [flow] = self._flows.values()
        return flow

    @property
    def address(self) -> tuple[str, int]:
        """Of the client, as the relay sees it."""
        host, port = self.flow.sock.getsockname()
        return host, port

    def move(self, host: str) -> None:
        """What arrives at the former address is lost."""
        flow = self.flow
        self._end(flow)
        flow.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        flow.sock.setblocking(False)
        flow.sock.bind((host, 0))
        flow.sock.connect(("127.0.0.1", self._target))
        self._loop.add_reader(flow.sock, self._from_relay, flow)
        self.moves += 1

    def _pass(self, flow: _Flow, data: bytes, *, up: bool) -> None:
        if len(data) > self.largest:
            self.too_large += 1
            return
        self.passing.append(("up" if up else "down", data))
        self._said += up
        if up and self._every and self._said % self._every == 0:
            self.move(next(iter(self._hosts)))
        super()._pass(flow, data, up=up)

    @property
    def said(self) -> int:
        """Datagrams of the client."""
        return self._said

    def webtransport(self) -> str:
        return f"https://127.0.0.1:{self.port}/"


async def until(condition: Callable[[], object], within: float = 30.0) -> None:
    async with asyncio.timeout(within):
        while not condition():  # noqa: ASYNC110 - state of a connection, which nobody reports
            await asyncio.sleep(0.005)


def driver_of(relay: Relay | Host, nat: Nat) -> Driver:
    """The relay's end of the connection through `nat`."""
    server = relay.server if isinstance(relay, Host) else relay._quic
    assert server is not None
    [driver] = [each for each in server.connections if each.quic.path.address[:2] == nat.address]
    return driver


def followed(relay: Relay | Host, nat: Nat) -> bool:
    """The relay sends to where the client is, and has asked whether it is there."""
    server = relay.server if isinstance(relay, Host) else relay._quic
    assert server is not None
    paths = [each.quic.path for each in server.connections]
    return any(path.address[:2] == nat.address and path.validated for path in paths)


# -- quinn


class Show:
    """moq-rs publishes and watches, one of both through a `Nat`. All of it is on one connection each."""

    def __init__(self, relay: Relay, nat: Nat, source: Any, sink: Any) -> None:
        self.relay, self.nat, self.source, self.sink = relay, nat, source, sink
        self.groups = 1
        self._said = 0

    async def more(self, groups: int) -> None:
        """Publish so many, without waiting for them."""
        await self.source.send_line(f"more {groups}")
        self.groups += groups
        self._said += 1

    async def written(self) -> None:
        """Everything is published, if not watched."""
        await self.source.wait_for("published", 60, nth=1 + self._said)

    async def end(self) -> None:
        """Check that every frame arrives."""
        await self.source.send_line("finish")
        assert_complete(await self.sink.wait_for("result", 60), self.groups, 10)
        assert self.source.count("connected") == self.sink.count("connected") == 1
        assert self.source.count("closed") == self.sink.count("closed") == 0


@contextlib.asynccontextmanager
async def show(who: str, scheme: str = "https") -> AsyncIterator[Show]:
    """The first group has begun to arrive. `who` is behind the `Nat`."""
    async with running() as relay:
        with Nat(relay.port) as nat:
            direct = webtransport(relay) if scheme == "https" else raw(relay)
            behind = f"{scheme}://127.0.0.1:{nat.port}/"
            urls = {name: behind if name == who else direct for name in ("publisher", "viewer")}
            options = (*SHAPE, "--groups", 1, "--hold", "--max-age-ms", 60_000)
            async with (
                publisher(NEW, urls["publisher"], "demo/cam", *options) as source,
                viewer(NEW, urls["viewer"], "demo/cam", "--max-age-ms", 60_000) as sink,
            ):
                await sink.wait_for("first_frame", 30)
                yield Show(relay, nat, source, sink)


@pytest.mark.parametrize(("who", "change"), covering(["publisher", "viewer"], list(HOSTS)))
async def test_quinn_is_followed_wherever_it_is(who: str, change: str) -> None:
    """NATs forget it again and again, also while only it sends, or only we do."""
    async with show(who) as on:
        on.nat.keep_moving(HOSTS[change])
        await on.more(60)
        await until(lambda: on.nat.moves >= 5)
        await on.written()
        on.nat.rest()
        await until(lambda: followed(on.relay, on.nat))
        on.nat.move(HOSTS[change][0])  # and once in silence, until somebody says something
        await on.more(5)
        await on.end()
        await until(lambda: followed(on.relay, on.nat))


@pytest.mark.parametrize("scheme", ["https", "moqt"])
async def test_quinn_updates_its_keys(scheme: str) -> None:
    """Within its first 1,000 packets."""
    async with show("publisher", scheme) as on:
        protection: Any = driver_of(on.relay, on.nat).quic.protection
        first = protection._receive_secret
        before = on.nat.said
        while protection._receive_secret == first:
            assert on.nat.said < before + 1500
            await on.more(5)
            await on.written()
        assert protection.sending_phase == protection.receiving_phase == 1
        await on.more(5)
        await on.end()


@pytest.mark.parametrize("who", ["publisher", "viewer"])
async def test_quinn_takes_key_updates(who: str) -> None:
    async with show(who) as on:
        connection: Any = driver_of(on.relay, on.nat).quic
        secrets = [connection.protection._send_secret]
        for _ in range(4):
            connection.update_keys()
            connection.ping()
            await on.more(5)
            await until(lambda: connection.protection._send_secret not in secrets)
            secrets.append(connection.protection._send_secret)
            await until(lambda: connection.protection.sending_phase == connection.protection.receiving_phase)
        await on.end()


async def test_a_network_to_quinn_that_gets_narrow() -> None:
    """Our packets had grown. Those that are lost then are sent anew in smaller ones, and no larger one is tried."""
    async with show("viewer") as on:
        await on.more(20)
        connection = driver_of(on.relay, on.nat).quic
        await until(lambda: connection.packet_size > LARGE)
        on.nat.largest = SMALL
        await on.more(20)
        await until(lambda: connection.packet_size == 1200)
        assert on.nat.too_large
        await on.written()
        lost = on.nat.too_large
        await on.more(20)
        await on.written()
        await on.end()
        assert on.nat.too_large == lost


async def test_a_network_from_quinn_that_gets_narrow() -> None:
    async with show("publisher") as on:
        await on.more(20)
        await on.written()
        on.nat.largest = SMALL
        await on.more(20)
        await on.end()


@pytest.mark.parametrize("scheme", ["https", "moqt"])
async def test_quinn_closes(scheme: str) -> None:
    """Nothing is sent after its close. Of WebTransport it ends the session; then we may be the first to close."""
    async with show("viewer", scheme) as on:
        driver = driver_of(on.relay, on.nat)
        connection = driver.quic
        stop = asyncio.create_task(on.sink.finish())
        await until(lambda: connection.state != OPEN)
        sent = driver.bytes_sent
        assert await stop == 0
        await until(lambda: driver.gone)
        close = connection.close_event
        assert close is not None
        assert close.application
        if scheme == "moqt":
            assert close.by_peer
            assert driver.bytes_sent == sent


@pytest.mark.parametrize(("who", "scheme"), covering(["publisher", "viewer"], ["https", "moqt"]))
async def test_quinn_is_closed(who: str, scheme: str) -> None:
    """It hears of it by one packet. That is all that is sent from then on, and answers what had crossed it.

    Of WebTransport the session ends; then either end closes.
    """
    async with show(who, scheme) as on:
        driver = driver_of(on.relay, on.nat)
        connection = driver.quic
        assert driver.session is not None
        driver.session.close(468, "over")
        closed = await (on.source if who == "publisher" else on.sink).wait_for("closed", 10)
        assert closed["code"] == 468
        await until(lambda: driver.gone)
        if scheme == "https":
            return
        last = connection._close_packet
        at = on.nat.passing.index(("down", last))
        sent = [data for direction, data in on.nat.passing[at:] if direction == "down"]
        assert set(sent) == {last}
        assert len(sent) <= 1 + connection._late  # datagrams received after the close


# -- aioquic


class Plain(QuicConnectionProtocol):
    """aioquic on a socket."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.ended: ConnectionTerminated | None = None

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, ConnectionTerminated):
            self.ended = event
        super().quic_event_received(event)

    async def echoed(self, data: bytes) -> bytes:
        """What the server makes of a stream."""
        reader, writer = await self.create_stream()
        writer.write(data)
        writer.write_eof()
        async with asyncio.timeout(60):
            return await reader.read()


class Talk:
    def __init__(self, host: Host, nat: Nat, client: Plain) -> None:
        self.host, self.nat, self.client = host, nat, client
        self.sent = 0

    @property
    def connection(self) -> Connection:
        [driver] = self.host.server.connections
        return driver.quic

    async def quiet(self) -> None:
        """Until everything is acknowledged."""
        loss: Any = self.client._quic._loss
        await until(lambda: not self.connection.recovery.outstanding and not loss.bytes_in_flight)

    async def say(self, size: int) -> None:
        self.sent += 1
        data = random.Random(self.sent).randbytes(size)
        assert await self.client.echoed(data) == data


@contextlib.asynccontextmanager
async def talk() -> AsyncIterator[Talk]:
    """aioquic on raw QUIC through a `Nat` to a server that echoes."""
    configuration = QuicConfiguration(
        alpn_protocols=[Version.LITE_06.name_on_wire], verify_mode=ssl.CERT_NONE, server_name="localhost"
    )
    async with hosting() as host:
        with Nat(host.port) as nat:
            async with connect(
                "127.0.0.1", nat.port, configuration=configuration, create_protocol=Plain
            ) as client:
                assert isinstance(client, Plain)
                await client.wait_connected()
                await host.owner()
                yield Talk(host, nat, client)


@pytest.mark.parametrize("change", HOSTS)
async def test_aioquic_is_followed_wherever_it_is(change: str) -> None:
    async with talk() as on:
        on.nat.keep_moving(HOSTS[change])
        await on.say(500_000)
        assert on.nat.moves >= 5
        on.nat.rest()
        on.nat.move(HOSTS[change][0])
        await on.say(1000)
        await until(lambda: followed(on.host, on.nat))


async def test_aioquic_migrates() -> None:
    """Of itself, with new ids: so do we."""
    async with talk() as on:
        ids: set[bytes] = set()
        for number in range(4):
            await on.say(50_000)
            path = on.connection.path
            assert path.cid not in ids
            ids.add(path.cid)
            assert path.address[:2] == on.nat.address
            await on.quiet()  # packets under way have the old id
            on.client.change_connection_id()
            on.nat.move(f"127.0.0.{number + 2}")


async def test_aioquic_updates_its_keys_and_takes_updates() -> None:
    async with talk() as on:
        protection: Any = on.connection.protection
        for number in range(6):
            phase = protection.receiving_phase
            if number % 2:
                on.client.request_key_update()
            else:
                on.connection.update_keys()
            await on.say(50_000)
            assert protection.sending_phase == protection.receiving_phase == 1 - phase


async def test_a_network_to_aioquic_that_gets_narrow() -> None:
    async with talk() as on:
        # Little at a time: its buffer may be small, and packets that overflow it look like too large ones.
        while on.connection.packet_size < LARGE:
            assert on.sent < 50
            await on.say(20_000)
        on.nat.largest = SMALL
        await on.say(500_000)
        assert on.nat.too_large
        assert on.connection.packet_size == 1200


async def test_aioquic_closes_and_is_closed() -> None:
    async with talk() as on:
        connection = on.connection
        [driver] = on.host.server.connections
        on.client.close(error_code=300, reason_phrase="done")
        owner = await on.host.owner()
        closed = await owner.end()
        assert (closed.code, closed.reason) == (300, "done")
        await until(lambda: driver.gone)
        assert connection.close_event is not None
        assert connection.close_event.by_peer
    async with talk() as on:
        owner = await on.host.owner()
        owner.session.close(468, "over")
        await on.client.wait_closed()
        assert on.client.ended is not None
        assert (on.client.ended.error_code, on.client.ended.reason_phrase) == (468, "over")


# -- Chromium


@pytest.mark.skipif(chromium_path() is None, reason="Chromium is not installed")
@pytest.mark.parametrize("change", HOSTS)
async def test_chromium_is_followed_wherever_it_is(change: str) -> None:
    """One group: publishers may skip those that are not the newest."""
    frames = 400
    options = ("--groups", 1, "--frames-per-group", frames, "--frame-size", 1000, "--pause", "start")
    async with running() as relay, publisher(NEW, webtransport(relay), "demo/cam", *options) as source:
        with Nat(relay.port) as nat:
            query: dict[str, Any] = {"broadcast": "demo/cam", "track": "video", "hash": relay.fingerprint}
            async with Page("webtransport.html", relay=nat.webtransport(), **query) as page:
                await source.wait_for("paused", 30)
                nat.keep_moving(HOSTS[change])
                await source.send_line("go")
                await page.wait_for("done", 60)
                assert page.count("error") == page.count("closed") == 0
                [group] = page.find("group")
                assert group["frames"] == [payload(0, frame, 1000).hex() for frame in range(frames)]
                assert nat.moves >= 5
