"""Hosts in network namespaces, with cables and addresses.

A bridge is the switch, and veth pairs are the cables. Needs root with CAP_NET_ADMIN and iproute2; else tests are
skipped.
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
    """Names are unique: concurrent runs stay apart."""

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
        space = self._space(f"h{number}")
        far = f"port{number}"
        ip("-n", space, "link", "add", "eth0", "type", "veth", "peer", "name", far, "netns", self.switch)
        ip("-n", self.switch, "link", "set", far, "master", "br0", "up")
        ip("-n", space, "addr", "add", f"{SUBNET}.{number}/24", "dev", "eth0")
        ip("-n", space, "link", "set", "eth0", "up")
        return Host(self, number, space)

    def close(self) -> None:
        """A namespace takes its interfaces along once no process runs in it."""
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
        """`address` has a prefix length."""
        words = ("nodad",) if ":" in address else ()
        ip("-n", self.space, "addr", "add", address, "dev", "eth0", *words)

    def cable(self, state: str) -> None:
        """`down` unplugs the cable at the switch: the host keeps its address and sees no signal."""
        ip("-n", self._network.switch, "link", "set", self._port, state)

    def command(self, *words: str | Path) -> list[str | Path]:
        return ["ip", "netns", "exec", self.space, sys.executable, *words]
