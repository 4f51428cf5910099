"""The log names a peer without a common version, on every transport."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator

import pytest

from relay.app import Relay
from relay.config import Address, Auth, Config, Server, ServerTls
from relay.quic.trust import ClientTls
from relay.transport.client import ConnectError, connect, connect_websocket
from relay.wire.version import Version

WITHIN = 60.0


class Lines(logging.Handler):
    """Sets `enough` at the expected number."""

    def __init__(self, expected: int) -> None:
        super().__init__()
        self.found: list[str] = []
        self.enough = asyncio.Event()
        self._expected = expected

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage().startswith("no common version"):
            self.found.append(record.getMessage())
        if len(self.found) >= self._expected:
            self.enough.set()


@contextlib.contextmanager
def recording(expected: int) -> Iterator[Lines]:
    lines, logger = Lines(expected), logging.getLogger("relay")
    logger.addHandler(lines)
    try:
        yield lines
    finally:
        logger.removeHandler(lines)


async def knock(relay: Relay, transport: str, address: str) -> None:
    """A client of moq-lite-05 alone."""
    versions, tls, bind = (Version.LITE_05,), ClientTls(fingerprints=(relay.fingerprint,)), (address, 0)
    try:
        if transport == "websocket":
            await connect_websocket(f"ws://127.0.0.1:{relay.port}/", versions=versions, bind=bind)
        else:
            scheme = "moqt" if transport == "quic" else "https"
            session = await connect(
                f"{scheme}://127.0.0.1:{relay.port}/", versions=versions, tls=tls, bind=bind
            )
            session.close()
    except ConnectError:
        pass


@pytest.mark.parametrize("spoken", [(Version.LITE_06,), (Version.LITE_06, Version.LITE_01)])
async def test_each_address_is_named_once_with_what_it_offers(
    spoken: tuple[Version, ...],
) -> None:
    config = Config(
        server=Server(listen=Address("127.0.0.1", 0), version=spoken, tls=ServerTls(generate=("localhost",))),
        auth=Auth(public=""),
    )
    ways = {"quic": "127.0.0.2", "webtransport": "127.0.0.3", "websocket": "127.0.0.4"}
    async with Relay(config) as relay:
        with recording(len(ways)) as lines:
            for transport, address in ways.items():
                for _ in range(2):
                    await knock(relay, transport, address)
            await asyncio.wait_for(lines.enough.wait(), WITHIN)
    assert len(lines.found) == len(ways)
    names = ",".join(version.name_on_wire for version in spoken)
    for transport, address in ways.items():
        [line] = [line for line in lines.found if f"remote={address}:" in line]
        assert f"transport={transport} " in line
        assert "moq-lite-05" in line.partition("offered=")[2].partition(" ")[0]
        assert line.endswith(f"spoken={names}")
