"""Asks a relay at each of its addresses, and prints one JSON object a line.

python -m tests.e2e.peers.address_probe PORT HOST...

Sockets are connected, like those of QUIC clients: an answer from another address is lost. Per address: Version
Negotiation, the refusal of a first packet, and a group from a publisher to a viewer.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys

from relay.client import Client
from relay.quic.trust import ClientTls

TRIES = 3

SIZE = 100_000


def answered(host: str, port: int, packet: bytes) -> bytes:
    """The first bytes of the answer: flags and version."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.connect((host, port))
        sock.settimeout(1)
        for _ in range(TRIES):
            sock.send(packet.ljust(1200, b"\0"))
            try:
                return sock.recv(2048)[:5]
            except (TimeoutError, ConnectionError):
                pass
    return b""


def unknown_version() -> bytes:
    return b"\xc0\x1a\x2a\x3a\x4a\x08" + os.urandom(8) + b"\x08" + os.urandom(8)


def invalid_token() -> bytes:
    token = b"retry:of somebody else"
    head = b"\xc0\x00\x00\x00\x01\x08" + os.urandom(8) + b"\x08" + os.urandom(8)
    return head + bytes((len(token),)) + token + b"\x44\x00"


async def group(host: str, port: int) -> bool:
    """A group of many packets arrives."""
    url = f"moqt://[{host}]:{port}/" if ":" in host else f"moqt://{host}:{port}/"
    tls = ClientTls(disable_verify=True)
    size = 0
    async with asyncio.timeout(60):
        publisher, viewer = await Client.connect(url, tls=tls), await Client.connect(url, tls=tls)
        outgoing = publisher.publish(host).track("video/hd").group()
        outgoing.write(bytes(SIZE))
        outgoing.finish()
        await viewer.announced(host).wait_for(host)
        async for incoming in await viewer.subscribe(host, "video/hd"):
            size = sum([len(frame.payload) async for frame in incoming])
            break
        for client in (viewer, publisher):
            await client.close()
    return size == SIZE


def main() -> None:
    port, *hosts = sys.argv[1:]
    for host in hosts:
        result = {
            "host": host,
            "negotiation": answered(host, int(port), unknown_version())[1:] == bytes(4),
            "refusal": answered(host, int(port), invalid_token())[1:] == b"\0\0\0\1",
            "group": asyncio.run(group(host, int(port))),
        }
        sys.stdout.write(json.dumps(result) + "\n")
        sys.stdout.flush()


main()
