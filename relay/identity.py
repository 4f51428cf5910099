"""A relay's addresses, its part of `/state`, and the start banner."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from relay.config import Config
from relay.model.address import readable_address
from relay.model.member import authority_of
from relay.version import VERSION
from relay.web.rows import CertificateRow, Identity

Addresses: TypeAlias = list[tuple[str, int]]

DEFAULT_PORTS: Final = {"http": ":80", "https": ":443"}


@dataclass(slots=True)
class Listening:
    """The listen addresses, with the real ports."""

    quic: Addresses = field(default_factory=list)
    http: Addresses = field(default_factory=list)
    https: Addresses = field(default_factory=list)
    internal: Addresses = field(default_factory=list)

    @property
    def url(self) -> str:
        """The URL for a client on this machine, which fetches the certificate by itself."""
        scheme, addresses = ("http", self.http) if self.http else ("https", self.quic)
        return f"{scheme}://localhost:{addresses[0][1]}/"

    def public_url(self, node: str | None) -> str | None:
        """The URL for browsers anywhere, HTTPS if there is. `node` is the name by which others reach this relay."""
        scheme, addresses = ("https", self.https) if self.https else ("http", self.http)
        if node is None or not addresses:
            return None
        host, _ = authority_of(node)
        return f"{scheme}://{readable_address(host, addresses[0][1]).removesuffix(DEFAULT_PORTS[scheme])}/"


def identity(
    config: Config,
    listening: Listening,
    hop: int,
    since: float,
    fingerprint: str,
    certificates: tuple[CertificateRow, ...],
    *,
    draining: bool,
) -> Identity:
    """The `relay` part of `/state`."""
    public = config.auth.public
    return Identity(
        version=VERSION,
        hop=str(hop),
        since=since,
        certificate=fingerprint,
        certificates=certificates,
        listen={
            name: tuple(_written(getattr(listening, name))) for name in ("quic", "http", "https", "internal")
        },
        versions=tuple(version.name_on_wire for version in config.server.version),
        public=None if public is None else {"publish": public.publish, "subscribe": public.subscribe},
        node=config.cluster.node,
        dashboard=listening.public_url(config.cluster.node),
        draining=draining,
    )


def banner(config: Config, listening: Listening, fingerprint: str, *, may_sign: bool) -> str:
    """`may_sign`: `[auth] key` can sign tokens, not only verify them."""
    port = listening.quic[0][1]
    urls = f"WebTransport https://localhost:{port}/, raw QUIC moqt://localhost:{port}/"
    lines = [f"moq-relay {VERSION}", f"  QUIC   {_listed(listening.quic)} UDP: {urls}"]
    for scheme, addresses in (("http", listening.http), ("https", listening.https)):
        if addresses:
            where = f"{scheme}://localhost:{addresses[0][1]}/announced/"
            lines.append(f"  {scheme.upper():6} {_listed(addresses)} TCP: {where}")
    if listening.internal:
        where = f"dashboard http://localhost:{listening.internal[0][1]}/, /state, /metrics"
        lines.append(f"  operator {_listed(listening.internal)} TCP: {where}")
    if config.server.listen.hosts[0] in ("127.0.0.1", "::1"):
        lines.append(f"  only this machine can connect, as [server] listen is {config.server.listen}")
    auth, url = config.auth, listening.url
    lines += [
        f"  speaks {', '.join(v.name_on_wire for v in sorted(config.server.version))}",
        f"  access {'; '.join(auth.rights())}",
        f"  certificate sha256 {fingerprint}",
    ]
    open_to_all = None if auth.public is None else auth.public.both
    if open_to_all is not None:
        below = url + (f"{open_to_all}/" if open_to_all else "")
        if listening.http:
            lines.append(
                f"try it: open {url} in a browser, and publish your camera or a test picture; or in terminals:"
            )
        else:
            lines.append("try it, each in a terminal of its own:")
        lines += [
            f"  moq-clock publish {below}",
            f"  moq-clock watch {below}",
        ]
        if listening.http:
            lines.append(f"  curl {url}announced/{open_to_all}")
    elif may_sign:
        lines += [
            "try it, with a token that is good for an hour:",
            f"  moq-token sign --key {auth.key} --root demo --publish '' --subscribe '' --expires 1h > demo.jwt",
            f'  moq-clock publish {url}demo --jwt "$(cat demo.jwt)"',
            f'  moq-clock watch {url}demo --jwt "$(cat demo.jwt)"',
        ]
    return "\n".join(lines)


def _written(addresses: Addresses) -> Iterable[str]:
    return (readable_address(*address) for address in addresses)


def _listed(addresses: Addresses) -> str:
    return ", ".join(_written(addresses))
