"""Relays in this process, on loopback, each with ports of its own."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

from relay.app import Relay
from relay.config import Address, Auth, Config, Http, Internal, Server, ServerTls, Web
from relay.model.limits import Limits
from relay.quic.settings import QuicSettings
from relay.wire.version import ALL_VERSIONS, AnyVersion, Version, preferred
from tests.clock import RUNTIME
from tests.e2e.harness import RustPeer, free_udp_port
from tests.sampling import first

NEW, OLD = "0.5.1", "0.3.3"
"""Releases of moq-rs."""

SPOKEN = [
    *((NEW, version) for version in Version),
    *(
        (OLD, version)
        for version in first(Version.LITE_04, Version.LITE_03, Version.LITE_02, Version.LITE_01)
    ),
]
"""Releases and their versions. The old one reads slowly: a sample has its newest version only."""

PATIENT = Limits(backlog_time=30.0)
"""For most tests: on a busy machine healthy viewers fall behind."""


def paced(peer: str, groups: int, frames: int) -> tuple[object, ...]:
    """Options of a publisher whose own client drops nothing at this pace."""
    interval = 0.006 if peer.startswith("0.3") else 0.002
    return ("--groups", groups, "--frames-per-group", frames, "--interval", interval, "--frame-size", 400)


def config(
    *,
    versions: Iterable[AnyVersion] = ALL_VERSIONS,
    public: str = "",
    limits: Limits | None = None,
    quic: QuicSettings | None = None,
    host: str = "localhost",
    path_aliases: tuple[str, ...] = (),
) -> Config:
    """A relay on loopback, open to everyone under `public`."""
    listen = Address(host, free_udp_port())
    return Config(
        server=Server(
            listen=listen,
            version=preferred(versions),
            path_aliases=path_aliases,
            tls=ServerTls(generate=("localhost", "127.0.0.1")),
            quic=quic or QuicSettings(),
        ),
        web=Web(http=Http(listen=listen)),
        internal=Internal(listen=Address("localhost", 0)),
        auth=Auth(public=public),
        limits=limits or PATIENT,
    )


@contextlib.asynccontextmanager
async def running(**options: Any) -> AsyncIterator[Relay]:
    async with Relay(config(**options), RUNTIME) as relay:
        yield relay


def webtransport(relay: Relay, path: str = "") -> str:
    return f"https://127.0.0.1:{relay.port}/{path}"


def raw(relay: Relay, path: str = "") -> str:
    return f"moqt://127.0.0.1:{relay.port}/{path}"


def publisher(version: str, url: str, broadcast: str, *options: object, track: str = "video") -> RustPeer:
    """0.3 gets separate origins, like a publisher that is not also a viewer."""
    extra = ["--explicit-origins"] if version.startswith("0.3") else []
    return RustPeer(version, "publish", url, broadcast, "--track", track, *extra, *options)


def viewer(version: str, url: str, broadcast: str, *options: object, track: str = "video") -> RustPeer:
    extra = ["--explicit-origins"] if version.startswith("0.3") else []
    return RustPeer(version, "watch", url, broadcast, "--track", track, *extra, *options)


def assert_complete(result: Mapping[str, Any], groups: int, frames: int) -> None:
    """Every frame of every group arrived, intact and in order within its group."""
    assert result["errors"] == [], result["errors"]
    assert result["bad"] == []
    received = dict(result["groups"])
    assert sorted(received) == list(range(groups)), f"{len(received)} of {groups} groups: {sorted(received)}"
    for sequence, numbers in received.items():
        assert numbers == list(range(frames)), (sequence, numbers)
