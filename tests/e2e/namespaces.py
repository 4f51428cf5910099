"""Hosts in network namespaces, with real cables and addresses.

A bridge in a namespace of its own is the switch; each host hangs on it by a cable (a veth pair). Needs root with
CAP_NET_ADMIN and iproute2; tests are skipped where these are missing.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Final

SUBNET: Final = "10.213.77"


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
        """Remove everything; a namespace is removed with its interfaces once no process runs in it."""
        for space in reversed(self._spaces):
            with contextlib.suppress(OSError):
                ip("netns", "del", space)


class Host:
    def __init__(self, network: Network, number: int, space: str) -> None:
        self._network = network
        self._port = f"port{number}"
        self.space = space
        self.address = f"{SUBNET}.{number}"

    def add_address(self, address: str) -> None:
        """One more, with the length of its prefix."""
        words = ("nodad",) if ":" in address else ()
        ip("-n", self.space, "addr", "add", address, "dev", "eth0", *words)

    def cable(self, state: str) -> None:
        """`down` unplugs the cable at the switch: the host keeps its address and gets no signal."""
        ip("-n", self._network.switch, "link", "set", self._port, state)

    def command(self, *words: str | Path) -> list[str | Path]:
        return ["ip", "netns", "exec", self.space, sys.executable, *words]
