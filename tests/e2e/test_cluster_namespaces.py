"""A cluster of relays in network namespaces, whose cables can be pulled.

Each relay and each pair of clocks has a host.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path
from typing import Final

from tests.e2e.cluster_support import eventually, key_in, token_in
from tests.e2e.harness import Peer
from tests.e2e.namespaces import Host, Network

IDLE: Final = 2.0
LINGER: Final = 0.5
NEXT_GROUP: Final = 90.0
"""Seconds until the clock begins a group, one per minute: viewers change publishers there."""

PORT: Final = 4443

QUERY: Final = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=5) as query:
    query.sendall(b"GET /announced/demo HTTP/1.0\\r\\n\\r\\n")
    while data := query.recv(65536):
        sys.stdout.buffer.write(data)
"""
"""Asked so often that it has to start fast."""

CONFIG: Final = """
[server]
listen = "{address}:{port}"
[server.tls]
generate = ["{address}"]
[server.quic]
idle_timeout = {idle}
keep_alive = 0.5
[client.tls]
disable_verify = true
[cluster]
root = "{root}"
node = "{address}:{port}"
token = "{token}"
[auth]
key = "{key}"
public = "demo"
[limits]
linger = {linger}
[log]
level = "info"
"""


class RelayProcess(Peer):
    def __init__(self, host: Host, folder: Path, root: str) -> None:
        file = folder / f"{host.space}.toml"
        file.write_text(
            CONFIG.format(
                address=host.address,
                port=PORT,
                root=root,
                token=token_in(folder),
                key=key_in(folder),
                idle=IDLE,
                linger=LINGER,
            )
        )
        super().__init__(host.command("-m", "relay.cli", file), f"relay {host.address}")
        self.host = host

    async def announced(self) -> list[str]:
        """Its announcements under `demo`, queried from its own host."""
        query = self.host.command("-I", "-S", "-c", QUERY, self.host.address, str(PORT))
        process = await asyncio.create_subprocess_exec(*map(str, query), stdout=asyncio.subprocess.PIPE)
        out, _ = await process.communicate()
        assert process.returncode == 0
        head, _, body = out.decode().partition("\r\n\r\n")
        assert " 200 " in head
        return body.split()


def clock(host: Host, verb: str, *options: str) -> Peer:
    """At the relay of its host."""
    url = f"http://{host.address}:{PORT}/demo"
    return Peer(
        host.command("-m", "relay.commands.clock", verb, url, *options), f"moq-clock {verb} {host.address}"
    )


async def ticks(watcher: Peer, more: int = 2, within: float = 60.0) -> None:
    """Wait until the watcher has shown the time a few times more."""
    seen = watcher.count("line")
    await watcher.wait_for("line", within, nth=seen + more)


async def test_cable_is_pulled_and_put_back(network: Network, tmp_path: Path) -> None:
    hosts = [network.host(number) for number in (1, 2, 3)]
    root, one, other = hosts
    target = f"{root.address}:{PORT}"
    async with contextlib.AsyncExitStack() as stack:
        relays = [await stack.enter_async_context(RelayProcess(host, tmp_path, target)) for host in hosts]
        for relay in relays:
            await relay.wait_for("line")

        async def announced(*wanted: list[str]) -> None:
            async def check() -> None:
                for relay, paths in zip(relays, wanted, strict=True):
                    assert await relay.announced() == paths, relay.name

            await eventually(check, every=0.2)

        await stack.enter_async_context(clock(one, "publish"))
        await announced(["clock"], ["clock"], ["clock"])
        watcher = await stack.enter_async_context(clock(other, "watch"))
        await ticks(watcher)

        # without its cable the publisher's relay alone has the broadcast
        one.cable("down")
        pulled = time.monotonic()
        await announced([], ["clock"], [])
        assert time.monotonic() - pulled < IDLE + LINGER + 4.0

        one.cable("up")
        await announced(["clock"], ["clock"], ["clock"])
        await ticks(watcher, within=60.0)

        # without the root the two leaves continue
        root.cable("down")
        await announced([], ["clock"], ["clock"])
        await ticks(watcher, within=NEXT_GROUP)  # its route may have led through the root
        root.cable("up")
        await announced(["clock"], ["clock"], ["clock"])
        for relay in relays:
            assert relay.returncode is None
            assert not [line for line in relay.stderr if "Traceback" in line]
