"""Attacks by connections: floods of first packets, many sessions of one address, silence. Other sessions are served.

`ATTACK_CONNECTIONS=5000 pytest -s tests/e2e/test_attacks_connections.py -k many` attacks a relay of its own with
more.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from relay.app import Relay
from relay.client import Client, Publication, Subscription
from relay.model.limits import Limits
from relay.quic.settings import QuicSettings
from relay.quic.trust import ClientTls
from relay.transport.client import ConnectError
from tests.clock import RUNTIME
from tests.e2e.harness import free_udp_port
from tests.e2e.http_support import WITHIN, certificate, install, secured
from tests.e2e.quic_support import open_connections
from tests.e2e.support import (
    PATIENT,
    assert_complete,
    paced,
    publisher,
    raw,
    running,
    viewer,
    webtransport,
)
from tests.e2e.swarm import PLAIN, Swarm, first_packet, one_rtt_packets, swarm
from tests.e2e.test_command import relay as relay_command
from tests.e2e.test_https import https_port
from tests.e2e.test_metrics import scrape, until, value

pytestmark = pytest.mark.e2e

ATTACKER = "127.0.0.2"
COUNT = int(os.environ.get("ATTACK_CONNECTIONS", "60"))

WAYS = {"native": QuicSettings(), "pure": QuicSettings(native=False)}
ways = pytest.mark.parametrize("way", WAYS)


def limited(**values: float) -> Limits:
    return replace(PATIENT, **values)  # type: ignore[arg-type]


def trusting(relay: Relay) -> ClientTls:
    return ClientTls(fingerprints=(relay.fingerprint,))


class Bystander:
    """Another peer's publisher and viewer, and the delay of a frame between them."""

    def __init__(self, publication: Publication, subscription: Subscription) -> None:
        self._publication = publication
        self._subscription = subscription
        self._numbers = itertools.count()

    async def frame(self) -> float:
        payload = f"frame {next(self._numbers)}".encode()
        begin = time.monotonic()
        group = self._publication.tracks["video"].group()
        group.write(payload)
        group.finish()
        async with asyncio.timeout(WITHIN):
            received = await anext(self._subscription)
            assert [frame.payload async for frame in received] == [payload]
        return time.monotonic() - begin


@contextlib.asynccontextmanager
async def bystander(url: str, tls: ClientTls | None = None) -> AsyncIterator[Bystander]:
    async with (
        await Client.connect(url, tls=tls, runtime=RUNTIME) as source,
        await Client.connect(url, tls=tls, runtime=RUNTIME) as sink,
    ):
        publication = source.publish("demo/cam")
        publication.track("video")
        announced = sink.announced()
        async with asyncio.timeout(WITHIN):
            await announced.wait_for("demo/cam")
            subscription = await sink.subscribe("demo/cam", "video")
            await publication.tracks["video"].used()
        yield Bystander(publication, subscription)


# -- Retry

ALWAYS = limited(handshakes_unverified=0)


@ways
@pytest.mark.parametrize("scheme", ["moqt", "https"])
async def test_our_client_comes_in_through_a_retry(scheme: str, way: str) -> None:
    async with running(limits=ALWAYS, quic=WAYS[way]) as relay:
        url = f"{scheme}://127.0.0.1:{relay.port}/"
        async with bystander(url, trusting(relay)) as other:
            await other.frame()
        values = await scrape(relay)
        assert value(values, "refused_total", limit="handshakes_unverified") == 2
        assert value(values, "refused_total", limit="invalid_token") == 0


@pytest.mark.parametrize("peer, way", [("0.5.1", "native"), ("0.5.1", "pure"), ("0.3.3", "native")])
async def test_real_clients_come_in_through_a_retry(peer: str, way: str) -> None:
    async with running(limits=ALWAYS, quic=WAYS[way]) as relay:
        for url in (webtransport(relay), raw(relay)):
            async with (
                publisher(peer, url, "demo/cam", *paced(peer, 2, 3)),
                viewer(peer, url, "demo/cam", "--frames", 6) as sink,
            ):
                assert_complete(await sink.wait_for("result"), 2, 3)
        assert value(await scrape(relay), "refused_total", limit="handshakes_unverified") >= 4


# -- floods


@ways
async def test_first_packets_of_abandoned_handshakes(way: str) -> None:
    """From forged addresses; real clients still connect."""
    limits = limited(handshakes=40, handshakes_unverified=10)
    async with contextlib.AsyncExitStack() as stack:
        relay = await stack.enter_async_context(running(limits=limits, quic=WAYS[way]))
        other = await stack.enter_async_context(bystander(webtransport(relay), trusting(relay)))
        async with swarm(relay.port) as attacker:
            packets = [first_packet(attacker.target) for _ in range(100)]
            for packet in packets:
                attacker.transport.sendto(packet, attacker.target)
            # ten first packets, and Retries that only the sender's address could receive
            await until(relay, "refused_total", 90, limit="handshakes_unverified")
            assert relay._quic is not None
            assert open_connections(relay._quic) == 12
            await attacker.until(lambda: len(attacker.answers) >= 100)
            assert await other.frame() < 5
            async with await Client.connect(webtransport(relay), tls=trusting(relay)) as late:
                assert late.version
            assert value(await scrape(relay), "refused_total", limit="handshakes_unverified") == 91


async def test_handshakes_that_stop_half_way_end_in_time() -> None:
    limits = limited(setup_timeout=0.3, handshakes_unverified=10)
    async with running(limits=limits) as relay, swarm(relay.port) as attacker:
        for _ in range(5):
            attacker.transport.sendto(first_packet(attacker.target), attacker.target)
        quiet = [attacker.join("h3") for _ in range(5)]  # these never ask for a session
        await attacker.until(lambda: set(quiet) <= set(attacker.established))
        await until(relay, "refused_total", 10, limit="setup")
        await attacker.until(lambda: len(attacker.ended) == 5)
        assert relay._quic is not None
        assert open_connections(relay._quic) == 0


# -- one address


async def test_one_address_has_so_many_sessions_and_no_more() -> None:
    async with running(limits=limited(sessions_address=3)) as relay, swarm(relay.port) as attacker:
        url, web = raw(relay), relay.url.replace("http", "ws")
        mine = [await Client.connect(url, tls=trusting(relay)) for _ in range(2)]
        mine.append(await Client.connect(web))
        with pytest.raises(ConnectError, match="transport error 0x2"):
            await Client.connect(url, tls=trusting(relay))
        with pytest.raises(ConnectError) as told:
            await Client.connect(web)
        assert told.value.status == 429
        attacker.join()
        await attacker.until(lambda: len(attacker.established) == 1)
        assert value(await scrape(relay), "refused_total", limit="sessions_address") == 2
        for client in mine:
            await client.close()
        # shortly after the close
        async with asyncio.timeout(WITHIN):
            while relay._addresses.taken("127.0.0.1"):
                await scrape(relay)
        async with await Client.connect(web), await Client.connect(url, tls=trusting(relay)):
            pass


# -- TCP


@contextlib.asynccontextmanager
async def connected(
    port: int, source: str = ATTACKER
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))
    try:
        yield reader, writer
    finally:
        writer.close()


def tcp_port(relay: Relay) -> int:
    return relay._listening.http[0][1]


REQUEST = b"GET /health HTTP/1.1\r\nhost: relay\r\n\r\n"


@pytest.mark.parametrize("before", [b"", REQUEST], ids=["first", "next"])
@pytest.mark.parametrize("start, more", [(b"", b""), (b"GET /", b"a"), (b"GET / HTTP/1.1\r\n", b"a: b\r\n")])
async def test_a_request_that_never_ends(before: bytes, start: bytes, more: bytes) -> None:
    async with running(limits=limited(setup_timeout=0.4)) as relay, asyncio.timeout(WITHIN):
        port = tcp_port(relay)
        async with connected(port) as (reader, writer):
            if before:
                writer.write(before)
                await reader.readuntil(b"ok\n")
            begin = time.monotonic()
            writer.write(start)
            while not (reader.at_eof() or reader.exception()):
                with contextlib.suppress(ConnectionError):
                    writer.write(more)
                    await writer.drain()
                with contextlib.suppress(TimeoutError, ConnectionError):
                    assert await asyncio.wait_for(reader.read(1), 0.05) == b""
            assert time.monotonic() - begin > 0.3


async def test_tcp_connections_have_a_limit_and_sessions_are_none_of_them() -> None:
    async with (
        running(limits=limited(http=4, http_address=3)) as relay,
        contextlib.AsyncExitStack() as held,
        aiohttp.ClientSession() as http,
    ):
        web = relay.url.replace("http", "ws")
        for _ in range(5):
            await held.enter_async_context(await Client.connect(web))
        for _ in range(3):
            await held.enter_async_context(connected(tcp_port(relay)))
        async with connected(tcp_port(relay)) as (reader, _), asyncio.timeout(WITHIN):
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
        # another address has one left
        async with http.get(f"{relay.url}health") as response:
            assert await response.text() == "ok\n"
        async with connected(tcp_port(relay), "127.0.0.1") as (reader, _), asyncio.timeout(WITHIN):
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
        values = await scrape(relay)  # on the internal listener, which has its own limit
        assert value(values, "refused_total", limit="http_address") == 1
        assert value(values, "refused_total", limit="http") == 1
        await held.aclose()
        for _ in range(4):
            async with http.get(f"{relay.url}health") as response:
                assert response.status == 200


async def test_a_tls_handshake_that_does_not_begin(tmp_path: Path) -> None:
    pair = certificate()
    settings = secured(tmp_path, pair).model_copy(
        update={"limits": limited(setup_timeout=0.4, http_address=2)}
    )
    async with Relay(settings, RUNTIME) as relay, asyncio.timeout(WITHIN):
        port = https_port(relay)
        async with connected(port) as (reader, _), connected(port) as (other, writer):
            writer.write(b"\x16\x03\x01")
            async with connected(port) as (third, _):
                with contextlib.suppress(ConnectionError):
                    assert await third.read() == b""
            assert relay._refused["http_address"] == 1
            for each in (reader, other):
                with contextlib.suppress(ConnectionError):
                    assert await each.read() == b""
        async with connected(port):  # there is room again
            assert relay._refused["http_address"] == 1


# -- packets that cost more than they should

RETIREMENTS = b"\x19\x01" * 570
"""RETIRE_CONNECTION_ID frames: each costs us a thousand times what it costs the peer."""

ORDINARY = 5e-6
"""CPU seconds of an ordinary packet, as the relay assumes here: compiled, it reads even these in little more."""


@pytest.mark.drives("packet_time")
@pytest.mark.parametrize(("way", "alpn"), [("native", PLAIN), ("pure", PLAIN), ("native", "moqt-18")])
async def test_packets_full_of_tiny_frames_are_read_within_a_share_of_the_cpu(way: str, alpn: str) -> None:
    """The peer has not requested a session. Viewers lose nothing meanwhile."""
    limits = limited(packet_time=0.02, setup_timeout=600.0)
    async with contextlib.AsyncExitStack() as stack:
        relay = await stack.enter_async_context(running(limits=limits, quic=WAYS[way]))
        other = await stack.enter_async_context(bystander(webtransport(relay), trusting(relay)))
        async with swarm(relay.port) as attacker:
            name = attacker.join(alpn)
            await attacker.until(lambda: name in attacker.established)
            client = attacker.established[name]
            await attacker.until(
                lambda: bool(client._peer_cid_available)
            )  # the id that is to be retired is there
            packets = iter(one_rtt_packets(client, RETIREMENTS, 6_000))
            assert relay._quic is not None
            port = attacker.transport.get_extra_info("sockname")[1]
            [driver] = (each for each in relay._quic.connections if each.remote.endswith(f":{port}"))
            driver.cost.ordinary = ORDINARY
            async with asyncio.timeout(WITHIN):
                # on a busy machine the socket drops some
                while relay._quic.refused["packet_time"] < 100:
                    assert name in attacker.established
                    for packet in itertools.islice(packets, 600):
                        attacker.transport.sendto(packet, attacker.target)
                    await other.frame()
        assert value(await scrape(relay), "refused_total", limit="packet_time") >= 100
        await other.frame()


# -- all of it, as large as wanted


def resident(pid: int) -> int:
    """Bytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


async def test_many_connections_of_one_address(tmp_path: Path) -> None:
    """A fifth of `COUNT` connections is admitted. Other sessions notice little."""
    port, share = free_udp_port(), COUNT // 5
    pair = certificate()
    cert, key = install(tmp_path, pair)
    (tmp_path / "relay.toml").write_text(
        f"""
        [server]
        listen = "localhost:{port}"
        tls = {{ cert = "{cert}", key = "{key}" }}
        [auth]
        public = ""
        [internal]
        listen = "localhost:{port + 1}"
        [server.quic]
        idle_timeout = 60.0
        [limits]
        sessions_address = {share}
        handshakes_unverified = {max(share // 4, 1)}
        backlog_time = 30.0
        """
    )
    tls = ClientTls(fingerprints=(pair.fingerprint,))
    async with relay_command(str(tmp_path / "relay.toml")) as process:
        await process.line("access")
        pid = process.process.pid
        async with (
            bystander(f"moqt://127.0.0.1:{port}/", tls) as other,
            swarm(port) as attacker,
            aiohttp.ClientSession() as http,
        ):
            calm = [await other.frame() for _ in range(20)]
            before = resident(pid)
            begin = time.monotonic()
            attack = asyncio.create_task(_attack(attacker, COUNT))
            storm = []
            while not attack.done():
                storm.append(await other.frame())
            await attack
            seconds, during = time.monotonic() - begin, resident(pid)
            storm.append(await other.frame())
            # connections over the limit learn it right after their handshake
            await attacker.until(lambda: len(attacker.established) == share)
            assert set(attacker.ended.values()) == {0x2}
            async with http.get(f"http://localhost:{port + 1}/metrics") as response:
                lines = (await response.text()).splitlines()
            refused = {
                line.partition('limit="')[2].partition('"')[0]: float(line.rpartition(" ")[2])
                for line in lines
                if line.startswith("moq_relay_refused_total")
            }
            assert refused["sessions_address"] >= COUNT - share
            sys.stdout.write(
                f"\n{COUNT} connections in {seconds:.1f} s, {share} let in, refused {refused}\n"
                f"resident {before >> 20} MiB, {during >> 20} MiB with them\n"
                f"a bystander's frame: {_spread(calm)} before, {_spread(storm)} during\n"
            )
            attacker.leave()
            # three probe time-outs later the address may come again
            async with asyncio.timeout(60):
                while not attacker.established:
                    await _settled(attacker, attacker.join())
            sys.stdout.write(f"resident {resident(pid) >> 20} MiB after\n")
        assert during - before < COUNT * 100_000 + (50 << 20)
    assert not [line for line in process.err if "Traceback" in line]
    assert len([line for line in process.err if "is reached" in line]) <= 10


async def _attack(attacker: Swarm, count: int) -> None:
    """A hundred at a time."""
    for start in range(0, count, 100):
        batch = []
        for _ in range(min(100, count - start)):
            batch.append(attacker.join())
            await asyncio.sleep(0)
        for cid in batch:
            await _settled(attacker, cid)


async def _settled(attacker: Swarm, cid: bytes) -> None:
    await attacker.until(lambda: cid in attacker.established or cid in attacker.ended, within=60)


def _spread(seconds: list[float]) -> str:
    worst = max(seconds)
    return f"median {1000 * statistics.median(seconds):.1f} ms, worst {1000 * worst:.1f} ms of {len(seconds)}"
