"""The tables of the configuration file: one frozen, checked model for each, with its keys' options."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Self

from pydantic import BeforeValidator, model_validator

from relay.config.address import Address
from relay.config.options import Metavar, options_of, setting
from relay.config.root import Root
from relay.config.url import is_url
from relay.config.values import (
    NO_PATH,
    Authority,
    File,
    Files,
    Folder,
    HopId,
    Hosts,
    KeyDir,
    Level,
    LimitsTable,
    Listen,
    LogFormat,
    Names,
    PathAliases,
    Prefix,
    PublicPaths,
    QuicTable,
    Roots,
    Secret,
    Table,
    Versions,
    public_paths,
)
from relay.model.limits import Limits
from relay.model.member import same_host
from relay.model.path import covers
from relay.quic.settings import QuicSettings
from relay.wire.version import ALL_VERSIONS


class ServerTls(Table):
    """`[server.tls]`: the i-th of `cert` belongs to the i-th of `key`."""

    cert: Files = setting((), "PEM certificate chains", "--tls-cert")
    key: Files = setting((), "PEM private keys, one for each certificate, in the same order", "--tls-key")
    generate: Names = setting(
        (), "make a self-signed certificate for these host names at start, for development", "--tls-generate"
    )


class Server(Table):
    """`[server]`: the QUIC endpoint."""

    listen: Listen = setting(
        Address("::", 443), "UDP address that QUIC listens on; [::] takes IPv4 too", "--listen"
    )
    version: Versions = setting(
        ALL_VERSIONS,
        "protocol versions to offer, e.g. moq-lite-06,moq-transport-18; moq-lite is preferred, and then the newest that the peer knows",
    )
    path_aliases: PathAliases = setting(
        (), "paths of URLs that stand for /, for clients that dial a fixed one, e.g. /moq,/moq-relay"
    )
    qlog_dir: Folder | None = setting(
        None,
        "directory for qlog files, which show the packets of each QUIC connection; slows them down",
        "--qlog-dir",
    )
    secret: Secret | None = setting(
        None,
        "text of 16 bytes or more by which clients of a restarted relay know at once; the same for all relays "
        "behind one address",
        unset="in a file",
        hidden=True,
    )
    tls: ServerTls = ServerTls()
    quic: QuicTable = QuicSettings()


class ClientTls(Table):
    """`[client.tls]`: how outgoing connections check certificates."""

    root: Files = setting(
        (), "PEM root certificates that outgoing connections trust", "--tls-root", unset="system roots"
    )
    disable_verify: bool = setting(
        False, "trust any certificate on outgoing connections, for development", "--tls-disable-verify"
    )


class Client(Table):
    """`[client]`: outgoing connections, to other relays of the cluster."""

    bind: Listen = setting(Address("::", 0), "local UDP address of outgoing connections")
    tls: ClientTls = ClientTls()


class Log(Table):
    """`[log]`."""

    # RUST_LOG counts only with one of the level words, not with its filter syntax
    level: Level = setting("info", "error, warn, info, debug or trace", variable="RUST_LOG")
    format: LogFormat = setting("text", "human-readable text, or json for machines: an object on each line")


class Cluster(Table):
    """`[cluster]`."""

    root: Roots = setting(
        (),
        "relays to join; without any, or with this node alone, this relay is the root of the cluster",
        aliases=("connect",),
    )
    node: Authority | None = setting(
        None, "address that other relays of the cluster reach this one at", aliases=("advertise",)
    )
    token: File | None = setting(
        None, "file with the token that this relay presents to the others", secret=True
    )
    """A root's own token is stronger."""

    prefix: Prefix = setting(
        "internal/origins", "broadcast path under which the relays of a cluster announce themselves"
    )
    mesh: bool = setting(
        True, "dial all members that the root announces; --no-cluster-mesh dials the root only"
    )
    id: HopId = setting(None, "this relay's id in the lists of hops", unset="drawn at each start")

    @property
    def others(self) -> tuple[Root, ...]:
        return tuple(root for root in self.root if self.node is None or not same_host(root.target, self.node))

    def role(self) -> str:
        if not self.others:
            return "none" if self.node is None else f"root of a cluster as {self.node}"
        name = "without a name: what is published here stays here" if self.node is None else f"as {self.node}"
        return f"joins {', '.join(map(str, self.others))} {name}{'' if self.mesh else '; dials no other members'}"


class Public(Table):
    """`[auth.public]`: permissions without a token. Paths are in normal form; none covers another.

    `("",)` is everything, `()` is nothing. One of the two keys must grant something.
    """

    subscribe: PublicPaths = setting(
        (),
        'paths that anyone may subscribe to without a token; "" is everything',
        unset="nothing is public",
        empty=True,
    )
    publish: PublicPaths = setting(
        (),
        'paths that anyone may publish under without a token; "" is everything',
        unset="nothing is public",
        empty=True,
    )

    @model_validator(mode="after")
    def _grants_something(self) -> Self:
        if self.subscribe or self.publish:
            return self
        raise ValueError('expected subscribe or publish in this table, or both, e.g. subscribe = "demo"')

    @property
    def both(self) -> str | None:
        """The first path that anyone may publish and subscribe."""
        return next(
            (path for path in self.publish if any(covers(other, path) for other in self.subscribe)), None
        )

    @property
    def everywhere(self) -> bool:
        return "" in self.subscribe and "" in self.publish


def _public(raw: object) -> object:
    """A string or a list of them is the value of both keys."""
    if raw is None or isinstance(raw, (dict, Public)):
        return raw
    if isinstance(raw, (str, list, tuple)):
        paths = public_paths(raw)
        if paths:
            return Public(subscribe=paths, publish=paths)
        raise ValueError(NO_PATH)
    raise ValueError('expected a path such as "anon", a list of them, or the table [auth.public]')


class Auth(Table):
    """`[auth]`: the keys of tokens, and the permissions without one."""

    key: File | None = setting(None, "file with the key that tokens are verified with", secret=True)
    key_dir: KeyDir | None = setting(
        None, "directory, or https:// URL of one, with a file {kid}.jwk for each key", secret=True
    )
    # Its flag replaces the whole table; flags of the table's keys come later and change it.
    public: Annotated[Public | None, BeforeValidator(_public), Metavar("PATH[,...]")] = setting(
        None,
        'paths that anyone may publish and subscribe without a token; "" is everything',
        unset="nothing is public",
        empty=True,
    )

    if TYPE_CHECKING:
        # for type checkers, which do not see the validator of `public`'s short forms
        def __init__(
            self,
            *,
            key: Path | None = None,
            key_dir: str | None = None,
            public: Public | Sequence[str] | None = None,
        ) -> None: ...

    @property
    def key_directory(self) -> Path | None:
        return None if self.key_dir is None or is_url(self.key_dir) else Path(self.key_dir)

    @property
    def key_url(self) -> str | None:
        """`key_dir`, if it is a URL; append `/{kid}.jwk`."""
        return self.key_dir if self.key_dir is not None and is_url(self.key_dir) else None

    def rights(self) -> Iterator[str]:
        if self.key is not None:
            yield f"tokens of {self.key}"
        if self.key_directory is not None:
            yield f"tokens of the keys in {self.key_directory}"
        if self.key_url is not None:
            yield f"tokens of the keys at {self.key_url}"
        public = self.public
        if public is None:
            return
        if public.everywhere:
            yield "anyone, everywhere"
        elif public.subscribe == public.publish:
            yield f"anyone on {', '.join(public.subscribe)}"
        else:
            for verb, paths in (("subscribe to", public.subscribe), ("publish", public.publish)):
                if paths:
                    yield f"anyone may {verb} {', '.join(path or 'everything' for path in paths)}"


class Http(Table):
    """`[web.http]`."""

    listen: Listen | None = setting(
        None, "TCP address for HTTP", unset="the QUIC address, unless HTTPS is set"
    )


class Https(Table):
    """`[web.https]`: all three keys or none."""

    listen: Listen | None = setting(None, "TCP address for HTTPS", unset="off")
    cert: File | None = setting(None, "PEM certificate chain for HTTPS")
    key: File | None = setting(None, "PEM private key for HTTPS")


class Web(Table):
    """`[web]`: HTTP for everybody."""

    http: Http = Http()
    https: Https = Https()
    ws: bool = setting(True, "accept sessions over WebSocket; --no-web-ws refuses them")


class Internal(Table):
    """`[internal]`: HTTP for the operator."""

    listen: Listen | None = setting(
        None,
        "TCP address for the operator: metrics and state of everything, without a token",
        unset="localhost, 1000 above the port of QUIC",
    )
    hosts: Hosts = setting(
        (), "host names under which the operator's address answers, besides localhost and IP addresses"
    )


class Config(Table):
    """The whole file. Read it by attribute: `config.server.tls.generate`."""

    server: Server = Server()
    client: Client = Client()
    log: Log = Log()
    cluster: Cluster = Cluster()
    auth: Auth = Auth()
    web: Web = Web()
    internal: Internal = Internal()
    limits: LimitsTable = Limits()

    @classmethod
    def demo(cls) -> Config:
        """The configuration without file and flags: dev.toml, but for this machine only."""
        return cls.model_validate(DEMO)

    @property
    def http_listen(self) -> Address | None:
        """The address of plain HTTP: that of QUIC, over TCP, unless `[web.http]` or `[web.https]` is set.

        Port 0 there means the port that the system chose for QUIC.
        """
        if self.web.http.listen is None and self.web.https.listen is None:
            return self.server.listen
        return self.web.http.listen

    @property
    def internal_listen(self) -> Address:
        """The address of the operator's HTTP; by default one of this machine only."""
        if self.internal.listen is not None:
            return self.internal.listen
        port = self.server.listen.port
        return Address(
            "localhost", port + INTERNAL_OFFSET if port and port + INTERNAL_OFFSET <= MAX_PORT else 0
        )

    @property
    def https_listen(self) -> Address | None:
        return self.web.https.listen


INTERNAL_OFFSET: Final = 1000  # from QUIC's port

MAX_PORT: Final = 65_535

DEMO: Final[Mapping[str, Any]] = {
    "server": {"listen": "localhost:4443", "tls": {"generate": "localhost"}},
    "log": {"level": "debug"},
    "auth": {"public": ""},
}
"""The tables of `Config.demo`."""

OPTIONS: Final = tuple(options_of(Config, Config()))  # in the order of the tables
