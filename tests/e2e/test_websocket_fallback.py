"""Where UDP is blocked, clients fall back to WebSocket by themselves; and over TLS."""

from __future__ import annotations

from pathlib import Path

from relay.app import Relay
from relay.config import Address, Http, Web
from tests.e2e.harness import free_udp_port
from tests.e2e.http_support import certificate, secured
from tests.e2e.support import assert_complete, config, paced, publisher, viewer, webtransport

NEW = "0.5.1"
GROUPS, FRAMES = 100, 10


async def test_a_client_whose_udp_is_refused_falls_back_to_websocket() -> None:
    """It dials the HTTP address, where nothing listens on UDP."""
    base = config()
    listen = Address("localhost", free_udp_port())
    async with Relay(base.model_copy(update={"web": Web(http=Http(listen=listen))})) as relay:
        blocked = f"http://127.0.0.1:{listen.port}/"
        async with (
            publisher(NEW, blocked, "demo/a", "--fallback", *paced(NEW, GROUPS, FRAMES)) as source,
            viewer(NEW, blocked, "demo/a", "--fallback", "--frames", GROUPS * FRAMES) as sink,
            viewer(NEW, webtransport(relay), "demo/a", "--frames", GROUPS * FRAMES) as other,
        ):
            for peer in (source, sink):
                await peer.wait_for("connected")
            for peer in (sink, other):
                assert_complete(await peer.wait_for("result"), GROUPS, FRAMES)


async def test_sessions_over_tls(tmp_path: Path) -> None:
    async with Relay(secured(tmp_path, certificate())) as relay:
        port = relay.identity().listen["https"][0].rpartition(":")[2]
        url = f"wss://127.0.0.1:{port}/"
        async with (
            publisher(NEW, url, "demo/a", *paced(NEW, 20, FRAMES)) as _,
            viewer(NEW, url, "demo/a", "--frames", 20 * FRAMES) as sink,
        ):
            assert_complete(await sink.wait_for("result"), 20, FRAMES)
