"""A relay on a host with several addresses, of both families: each of them answers."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any, Final

import pytest

from tests.e2e.harness import Peer
from tests.e2e.namespaces import SUBNET, Host, Network
from tests.sampling import covering

PORT: Final = 4443
IPV4: Final = (f"{SUBNET}.1", f"{SUBNET}.101")
IPV6: Final = ("fd00:77::1", "fd00:77::101")

LISTENING: Final = {
    "one IPv4": (IPV4[1], IPV4[1:]),
    "both": ("[::]", IPV4 + IPV6),
    "IPv4": ("0.0.0.0", IPV4),
    "one IPv6": (f"[{IPV6[1]}]", IPV6[1:]),
}
"""Listen addresses, and the addresses that answer."""

CONFIG: Final = """
[server]
listen = "{listen}:{port}"
tls.generate = ["localhost"]
[auth]
public = ""
[limits]
handshakes_unverified = {unverified}
drain = 0
"""


async def probed(host: Host, *addresses: str) -> list[dict[str, Any]]:
    words = host.command("-m", "tests.e2e.peers.address_probe", str(PORT), *addresses)
    process = await asyncio.create_subprocess_exec(*map(str, words), stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    return [json.loads(line) for line in out.splitlines()]


@pytest.mark.parametrize(("listening", "unverified"), covering(list(LISTENING), [250, 0]))
async def test_answers_come_from_the_address_that_was_asked(
    network: Network, tmp_path: Path, listening: str, unverified: int
) -> None:
    listen, addresses = LISTENING[listening]
    server, client = network.host(1), network.host(2)
    server.add_address(f"{IPV4[1]}/24")
    client.add_address("fd00:77::2/64")
    for address in IPV6:
        server.add_address(f"{address}/64")
    file = tmp_path / "relay.toml"
    file.write_text(CONFIG.format(listen=listen, port=PORT, unverified=unverified))
    async with Peer(server.command("-m", "relay.cli", file), "relay") as relay:
        await relay.wait_for("line")
        wanted = [{"host": each, "negotiation": True, "refusal": True, "group": True} for each in addresses]
        assert await probed(client, *addresses) == wanted
