"""Clients of a relay that was killed: they know as soon as it runs again, by one packet and its answer."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from relay.client import Client, ClientTls, SessionEnded
from relay.quic.settings import QuicSettings
from relay.transport.client import connect
from tests.e2e.harness import RustPeer, free_udp_port
from tests.e2e.support import NEW, OLD
from tests.e2e.test_command import OPEN, Command, relay
from tests.e2e.udp_proxy import UdpProxy, _Flow
from tests.sampling import covering, first

pytestmark = pytest.mark.e2e


class Watched(UdpProxy):
    """Keeps the direction and size of each datagram that it passes on."""

    def __init__(self, port: int, target: int) -> None:
        super().__init__(port, target)
        self.passed_on: list[tuple[str, int]] = []

    def _send(self, flow: _Flow, data: bytes, up: bool) -> None:
        self.passed_on.append(("up" if up else "down", len(data)))
        super()._send(flow, data, up)

    @property
    def directions(self) -> list[str]:
        return [direction for direction, _ in self.passed_on]

    def answered(self) -> None:
        """Check that the first packet from the relay ended the connection; one of the peer may have crossed it."""
        first = self.directions.index("down")
        assert self.directions[:first].count("up") >= 1
        assert self.directions[first:].count("up") <= 1


@contextlib.asynccontextmanager
async def killed(port: int, *options: str, config: Path | None = None) -> AsyncIterator[Command]:
    """A relay that ends like a crash at the end of the block."""
    file = () if config is None else (str(config),)
    async with relay(*file, "--listen", f"localhost:{port}", *OPEN, *options) as running:
        await running.line("try it")
        yield running
        running.process.send_signal(signal.SIGKILL)
        assert await running.exit() == -signal.SIGKILL


PATIENT = QuicSettings(idle_timeout=60.0)
"""A relay may take long to start on a busy machine."""

SAME = ("--server-secret", "the same in both relays")


@pytest.mark.parametrize("scheme, options", covering(["moqt", "https"], [(), SAME]), ids=str)
async def test_our_client_knows_by_its_next_packet(
    scheme: str, options: tuple[str, ...], tmp_path: Path
) -> None:
    port, front = free_udp_port(), free_udp_port()
    config = tmp_path / "relay.toml"
    config.write_text(f"[server.quic]\nidle_timeout = {PATIENT.idle_timeout}\n")
    with Watched(front, port) as network:
        url = f"{scheme}://127.0.0.1:{front}/"
        async with contextlib.AsyncExitStack() as stack:
            async with killed(port, *options, config=config):
                session = await connect(url, tls=ClientTls(disable_verify=True), settings=PATIENT)
                client = await stack.enter_async_context(Client(session))
            network.weather().cut = True  # while nothing listens
            async with killed(port, *options, config=config):
                network.weather().cut = False
                network.passed_on.clear()
                with pytest.raises(SessionEnded, match="stateless reset"):
                    await client.subscribe("any", "track")
                network.answered()
                largest = max(size for direction, size in network.passed_on if direction == "up")
                assert all(size < largest for direction, size in network.passed_on if direction == "down")


@pytest.mark.parametrize("version", first(NEW, OLD))
async def test_a_rust_client_knows_by_its_next_packet(version: str) -> None:
    first, second, front = free_udp_port(), free_udp_port(), free_udp_port()
    hold = ("demo/cam", "--track", "video", "--hold", "--wait-for-viewers", "0")
    with Watched(front, first) as network:
        async with killed(second, *SAME), contextlib.AsyncExitStack() as stack:
            async with killed(first, *SAME):
                peer = RustPeer(version, "publish", f"https://127.0.0.1:{front}/", *hold)
                await stack.enter_async_context(peer)
                await peer.wait_for("connected")
            network.redirect(second)
            network.passed_on.clear()
            await peer.wait_for("closed")
            network.answered()


async def test_another_secret_is_not_believed() -> None:
    """Clients must not believe just anybody: this one goes on asking."""
    first, second, front = free_udp_port(), free_udp_port(), free_udp_port()
    with Watched(front, first) as network:
        async with (
            killed(second, "--server-secret", "of another relay"),
            contextlib.AsyncExitStack() as stack,
        ):
            async with killed(first, "--server-secret", "of the former relay"):
                url = f"moqt://127.0.0.1:{front}/"
                settings = QuicSettings(idle_timeout=3.0, keep_alive=1.0)
                session = await connect(url, tls=ClientTls(disable_verify=True), settings=settings)
                client = await stack.enter_async_context(Client(session))
            network.redirect(second)
            network.passed_on.clear()
            with pytest.raises(SessionEnded, match="idle"):
                await client.subscribe("any", "track")
            assert network.directions.count("up") > 3
            assert network.directions.count("down") > 1
