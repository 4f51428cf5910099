"""A cluster whose relays have network namespaces of their own, so that a cable can be pulled for real.

A bridge in a namespace of its own is the switch; each relay and each pair of clocks hangs on it by a cable (a veth
pair). Needs root with CAP_NET_ADMIN and iproute2; where these are missing the test is skipped.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.e2e.cluster_support import eventually, key_in, token_in
from tests.e2e.harness import Peer

IDLE: Final = 3.0
LINGER: Final = 1.0
NEXT_GROUP: Final = 90.0
"""Seconds within which the clock begins a group, with room: one per minute. Viewers are moved where one begins."""

PORT: Final = 4443
SUBNET: Final = "10.213.77"

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


def ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, timeout=10, check=False)
    if done.returncode:
        raise OSError(f"ip {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


class Network:
    """A switch and what hangs on it. Names are unique, so that runs do not meet."""

    def __init__(self) -> None:
        self._tag = f"mq{os.getpid() % 10_000:04d}{secrets.token_hex(2)}"
        self._spaces: list[str] = []
        self.switch = self._space("sw")
        ip("-n", self.switch, "link", "add", "br0", "type", "bridge")
        ip("-n", self.switch, "link", "set", "br0", "up")

    def _space(self, name: str) -> str:
        space = f"{self._tag}{name}"
        ip("netns", "add", space)
        self._spaces.append(space)
        ip("-n", space, "link", "set", "lo", "up")
        return space

    def host(self, number: int) -> Host:
        """A host at its own cable."""
        space = self._space(f"h{number}")
        far = f"port{number}"
        ip("-n", space, "link", "add", "eth0", "type", "veth", "peer", "name", far, "netns", self.switch)
        ip("-n", self.switch, "link", "set", far, "master", "br0", "up")
        ip("-n", space, "addr", "add", f"{SUBNET}.{number}/24", "dev", "eth0")
        ip("-n", space, "link", "set", "eth0", "up")
        return Host(self, number, space)

    def close(self) -> None:
        """Remove everything; a namespace takes its interfaces with it, once nobody runs in it."""
        for space in reversed(self._spaces):
            with contextlib.suppress(OSError):
                ip("netns", "del", space)


class Host:
    def __init__(self, network: Network, number: int, space: str) -> None:
        self._network = network
        self._port = f"port{number}"
        self.space = space
        self.address = f"{SUBNET}.{number}"

    def cable(self, state: str) -> None:
        """`down` pulls the cable at the switch: the host keeps its address and hears nothing of it."""
        ip("-n", self._network.switch, "link", "set", self._port, state)

    def command(self, *words: str | Path) -> list[str | Path]:
        return ["ip", "netns", "exec", self.space, sys.executable, *words]


@pytest.fixture
def network() -> Iterator[Network]:
    if shutil.which("ip") is None:
        pytest.skip("iproute2 is not installed")
    try:
        net = Network()
    except OSError as error:
        pytest.skip(f"no network namespaces here: {error}")
    try:
        yield net
    finally:
        net.close()


class RelayProcess(Peer):
    """A relay on a host."""

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
        """What it announces under `demo`, asked from its own host, so that a pulled cable does not matter."""
        code = (
            "import sys, urllib.request as u; "
            "sys.stdout.write(u.urlopen(sys.argv[1], timeout=5).read().decode())"
        )
        url = f"http://{self.host.address}:{PORT}/announced/demo"
        process = await asyncio.create_subprocess_exec(
            *map(str, self.host.command("-c", code, url)), stdout=asyncio.subprocess.PIPE
        )
        out, _ = await process.communicate()
        assert process.returncode == 0
        return out.decode().split()


def clock(host: Host, verb: str, *options: str) -> Peer:
    """moq-clock, at the relay of its host."""
    url = f"http://{host.address}:{PORT}/demo"
    return Peer(host.command("-m", "relay.clock", verb, url, *options), f"moq-clock {verb} {host.address}")


async def ticks(watcher: Peer, more: int = 2, within: float = 30.0) -> None:
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
            await relay.wait_for("line", 15)

        async def announced(*wanted: list[str], among: list[RelayProcess] = relays) -> None:
            for relay, paths in zip(among, wanted, strict=True):
                assert await relay.announced() == paths, relay.name

        await stack.enter_async_context(clock(one, "publish"))
        await eventually(lambda: announced(["clock"], ["clock"], ["clock"]))
        watcher = await stack.enter_async_context(clock(other, "watch"))
        await ticks(watcher)

        # The publisher's relay is cut off: gone everywhere else, and still there where it is.
        one.cable("down")
        pulled = time.monotonic()
        await eventually(lambda: announced([], ["clock"], []))
        assert time.monotonic() - pulled < IDLE + LINGER + 4.0

        one.cable("up")
        await eventually(lambda: announced(["clock"], ["clock"], ["clock"]))
        await ticks(watcher, within=30.0)

        # The root is cut off: the two leaves go on between themselves.
        root.cable("down")
        await eventually(lambda: announced([], ["clock"], ["clock"]))
        await ticks(watcher, within=NEXT_GROUP)  # it may have been watching by way of the root
        root.cable("up")
        await eventually(lambda: announced(["clock"], ["clock"], ["clock"]))
        for relay in relays:
            assert relay.returncode is None
            assert not [line for line in relay.stderr if "Traceback" in line]
