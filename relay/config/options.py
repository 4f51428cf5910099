"""Every option once: its place in the file, its flags, its environment variables, and what it means.

Owns the spellings. The command line builds its flags from this table, `load` reads the environment by it, and the
reference in docs/config.md is tested against it. `[limits]` and `[server.quic]` are set in files only.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from relay.config.tables import Config
from relay.wire.version import Version


class Kind(Enum):
    """How the text of a flag or environment variable is read."""

    TEXT = "text"
    LIST = "list"
    """Items between commas; a repeated flag adds to the list."""

    BOOL = "bool"
    NUMBER = "number"


@dataclass(frozen=True, slots=True)
class Option:
    """One option. The first spelling of each sort is the preferred one."""

    path: str
    """Place in the file: `server.tls.cert`."""

    flags: tuple[str, ...]
    env: tuple[str, ...]
    """Strongest first."""

    metavar: str
    help: str
    kind: Kind = Kind.TEXT
    aliases: tuple[str, ...] = ()
    """Further places in the file that mean the same."""

    unset: str = "none"
    """What happens while nothing is given, if there is no default value to show."""

    secret: bool = False
    """Whether someone might put a secret here by mistake, so that the value is not repeated in messages."""

    empty: bool = False
    """Whether the empty text is a value: otherwise such a variable counts as unset, and such an item as absent."""

    @property
    def keys(self) -> tuple[str, ...]:
        """The place in the file, by segments."""
        return tuple(self.path.split("."))

    @property
    def table(self) -> str:
        """The table of the file that holds it: `server.tls`."""
        return self.path.rpartition(".")[0]

    @property
    def default(self) -> object:
        """The value it has when nothing is given."""
        value: object = Config()
        for key in self.keys:
            value = None if value is None else getattr(value, key)
        return value

    @property
    def default_text(self) -> str:
        """The default as an operator would write it, or what happens without a value."""
        value = self.default
        if value is None or value == ():
            return self.unset
        if value == tuple(sorted(Version, reverse=True)):
            return "all"
        return str(value).lower() if isinstance(value, bool) else str(value)


OPTIONS: Final = (
    Option(
        "server.listen",
        ("--listen",),
        ("MOQ_SERVER_LISTEN",),
        "ADDRESS",
        "UDP address that QUIC listens on; [::] takes IPv4 too",
    ),
    Option(
        "server.version",
        ("--server-version",),
        ("MOQ_SERVER_VERSION",),
        "VERSION[,...]",
        "protocol versions to offer, e.g. moq-lite-06,moq-lite-05; the newest one that the peer knows is used",
        kind=Kind.LIST,
    ),
    Option(
        "server.qlog_dir",
        ("--qlog-dir",),
        ("MOQ_SERVER_QLOG_DIR",),
        "DIR",
        "directory for a qlog file of each QUIC connection, to look into its packets; slows them down",
    ),
    Option(
        "server.tls.cert",
        ("--tls-cert",),
        ("MOQ_SERVER_TLS_CERT",),
        "FILE[,...]",
        "PEM certificate chains",
        kind=Kind.LIST,
    ),
    Option(
        "server.tls.key",
        ("--tls-key",),
        ("MOQ_SERVER_TLS_KEY",),
        "FILE[,...]",
        "PEM private keys, one for each certificate, in the same order",
        kind=Kind.LIST,
    ),
    Option(
        "server.tls.generate",
        ("--tls-generate",),
        ("MOQ_SERVER_TLS_GENERATE",),
        "NAME[,...]",
        "make a self-signed certificate for these host names at start, for development",
        kind=Kind.LIST,
    ),
    Option(
        "client.bind",
        ("--client-bind",),
        ("MOQ_CLIENT_BIND",),
        "ADDRESS",
        "local UDP address of outgoing connections",
    ),
    Option(
        "client.tls.root",
        ("--tls-root",),
        ("MOQ_CLIENT_TLS_ROOT",),
        "FILE[,...]",
        "PEM root certificates that outgoing connections trust",
        kind=Kind.LIST,
        unset="system roots",
    ),
    Option(
        "client.tls.disable_verify",
        ("--tls-disable-verify",),
        ("MOQ_CLIENT_TLS_DISABLE_VERIFY",),
        "true|false",
        "trust any certificate on outgoing connections, for development",
        kind=Kind.BOOL,
    ),
    Option(
        "log.level",
        ("--log-level",),
        # RUST_LOG counts only if it is one of the level words: its filter syntax means nothing here.
        ("RUST_LOG", "MOQ_LOG_LEVEL"),
        "LEVEL",
        "error, warn, info, debug or trace",
    ),
    Option(
        "cluster.root",
        ("--cluster-root", "--cluster-connect"),
        ("MOQ_CLUSTER_ROOT", "MOQ_CLUSTER_CONNECT"),
        "HOST[:PORT]|URL[,...]",
        "relay to join, or several; without it, or if it is this node, this relay is the root of the cluster",
        kind=Kind.LIST,
        aliases=("cluster.connect",),
    ),
    Option(
        "cluster.node",
        ("--cluster-node", "--cluster-advertise"),
        ("MOQ_CLUSTER_NODE", "MOQ_CLUSTER_ADVERTISE"),
        "HOST[:PORT]",
        "address that other relays of the cluster reach this one at",
        aliases=("cluster.advertise",),
    ),
    Option(
        "cluster.token",
        ("--cluster-token",),
        ("MOQ_CLUSTER_TOKEN",),
        "FILE",
        "file with the token that this relay presents to the others",
        secret=True,
    ),
    Option(
        "cluster.prefix",
        ("--cluster-prefix",),
        ("MOQ_CLUSTER_PREFIX",),
        "PATH",
        "broadcast path under which the relays of a cluster announce themselves",
    ),
    Option(
        "cluster.mesh",
        ("--cluster-mesh",),
        ("MOQ_CLUSTER_MESH",),
        "true|false",
        "dial the other members that a root tells of; --no-cluster-mesh stays with the root",
        kind=Kind.BOOL,
    ),
    Option(
        "cluster.id",
        ("--cluster-id",),
        ("MOQ_CLUSTER_ID",),
        "NUMBER",
        "this relay's id in the lists of hops",
        kind=Kind.NUMBER,
        unset="drawn at each start",
    ),
    Option(
        "auth.key",
        ("--auth-key",),
        ("MOQ_AUTH_KEY",),
        "FILE",
        "file with the key that tokens are verified with",
        secret=True,
    ),
    Option(
        "auth.key_dir",
        ("--auth-key-dir",),
        ("MOQ_AUTH_KEY_DIR",),
        "DIR|URL",
        "directory, or https:// URL of one, with a file {kid}.jwk for each key",
        secret=True,
    ),
    Option(
        "auth.public",
        ("--auth-public",),
        ("MOQ_AUTH_PUBLIC",),
        "PATH[,...]",
        'paths open to anyone without a token, both ways; "" opens everything',
        kind=Kind.LIST,
        unset="nothing is public",
        empty=True,
    ),
    # After the option that replaces the whole table: within one source, these change what it says.
    Option(
        "auth.public.subscribe",
        ("--auth-public-subscribe",),
        ("MOQ_AUTH_PUBLIC_SUBSCRIBE",),
        "PATH[,...]",
        'paths that anyone may subscribe to without a token; "" is everything',
        kind=Kind.LIST,
        unset="nothing is public",
        empty=True,
    ),
    Option(
        "auth.public.publish",
        ("--auth-public-publish",),
        ("MOQ_AUTH_PUBLIC_PUBLISH",),
        "PATH[,...]",
        'paths that anyone may publish under without a token; "" is everything',
        kind=Kind.LIST,
        unset="nothing is public",
        empty=True,
    ),
    Option(
        "web.http.listen",
        ("--web-http-listen",),
        ("MOQ_WEB_HTTP_LISTEN",),
        "ADDRESS",
        "TCP address for HTTP",
        unset="the QUIC address, unless HTTPS is set",
    ),
    Option(
        "web.https.listen",
        ("--web-https-listen",),
        ("MOQ_WEB_HTTPS_LISTEN",),
        "ADDRESS",
        "TCP address for HTTPS",
        unset="off",
    ),
    Option(
        "web.https.cert",
        ("--web-https-cert",),
        ("MOQ_WEB_HTTPS_CERT",),
        "FILE",
        "PEM certificate chain for HTTPS",
    ),
    Option(
        "web.https.key",
        ("--web-https-key",),
        ("MOQ_WEB_HTTPS_KEY",),
        "FILE",
        "PEM private key for HTTPS",
    ),
    Option(
        "web.ws",
        ("--web-ws",),
        ("MOQ_WEB_WS",),
        "true|false",
        "accept sessions over WebSocket; --no-web-ws refuses them",
        kind=Kind.BOOL,
    ),
    Option(
        "internal.listen",
        ("--internal-listen",),
        ("MOQ_INTERNAL_LISTEN",),
        "ADDRESS",
        "TCP address for the operator: metrics and state of everything, without a token",
        unset="localhost, 1000 above the port of QUIC",
    ),
    Option(
        "internal.hosts",
        ("--internal-hosts",),
        ("MOQ_INTERNAL_HOSTS",),
        "NAME[,...]",
        "host names under which the operator's address answers, besides localhost and IP addresses",
        kind=Kind.LIST,
    ),
)
