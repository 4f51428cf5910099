"""The options of moq-relay 0.14 to 0.17.10, and former ones of ours: the name of each here, or that there is none.

No answer advises an option that admits more people.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from relay.config.tables import OPTIONS

ENV_PREFIX: Final = "MOQ_"


@dataclass(frozen=True, slots=True)
class Foreign:
    """A key that has another name here, or none."""

    path: str  # place in their file: `listen.tls.cert`
    here: str | None = None  # place in our file of the equivalent
    note: str = ""

    @property
    def answer(self) -> str:
        """The message for a key of the file."""
        return self._answer("")

    @property
    def answer_to_flag(self) -> str:
        """A flag of ours if there is one, else the key of the file."""
        return self._answer(
            " in FILE", next((entry.flags[0] for entry in OPTIONS if entry.path == self.here), "")
        )

    @property
    def answer_to_variable(self) -> str:
        """A variable of ours if there is one, else the key of the file."""
        return self._answer(
            " in FILE", next((entry.env[-1] for entry in OPTIONS if entry.path == self.here), "")
        )

    def _answer(self, where: str, name: str = "") -> str:
        text = "not supported"
        if self.here is not None:
            table, _, key = self.here.rpartition(".")
            text = f"here it is {name or f'[{table}] {key}{where}'}"
        return f"{text}; {self.note}" if self.note else text


Rows = dict[str, tuple[str | None, str]]  # our place and a note, by name


def _absent(note: str, names: str) -> Rows:
    return dict.fromkeys(names.split(), (None, note))


_FIGURES: Final = "/metrics and /state of [internal] listen have the figures"
_CLIENTS: Final = "clients and other relays prove themselves by tokens, not by certificates"

_QUIC: Final[Rows] = {
    "max_streams": ("server.quic.max_streams_uni", "and max_streams_bidi"),
    "gso": (None, "it is used where the kernel can"),
    "idle_timeout": ("server.quic.idle_timeout", ""),
    "keep_alive": ("server.quic.keep_alive", ""),
    "mtu_discovery": ("server.quic.mtu_discovery", ""),
    "congestion_control": ("server.quic.congestion", '"loss" is "cubic", "delay" is "bbr"'),
    "receive_window": ("server.quic.connection_window", ""),
    "stream_receive_window": ("server.quic.stream_window", ""),
    "qlog": ("server.qlog_dir", ""),
    **_absent("", "send_window preferred_v4 preferred_v6 lb_id lb_nonce"),
}
"""Below a QUIC table: one in older releases, later one per direction."""

# keys of [server.quic] with the same name here, in files only
_SAME_OF_QUIC: Final = ("idle_timeout", "keep_alive", "mtu_discovery")

_LISTEN: Final[Rows] = {
    "bind": ("server.listen", ""),
    "version": ("server.version", ""),
    "timeout": ("limits.setup_timeout", ""),
    "tls.cert": ("server.tls.cert", ""),
    "tls.key": ("server.tls.key", ""),
    "tls.generate": ("server.tls.generate", ""),
    **_absent("there is one QUIC engine", "backend"),
    **_absent(_CLIENTS, "tls.root"),
    **_absent("[web] ws takes sessions over TCP", "tcp.bind"),
    **_absent("", "unix.bind unix.allow.uid unix.allow.gid unix.allow.pid"),
    **_absent("", "preferred_v4 preferred_v6 lb_id lb_nonce load_balancer"),
}

_CONNECT: Final[Rows] = {
    "url": ("cluster.root", ""),
    "connect": ("cluster.root", ""),
    "bind": ("client.bind", ""),
    "version": ("server.version", "it holds for both directions"),
    "max_streams": ("server.quic.max_streams_uni", "and max_streams_bidi"),
    "tls.root": ("client.tls.root", ""),
    "tls.insecure": ("client.tls.disable_verify", ""),
    "tls.disable_verify": ("client.tls.disable_verify", ""),
    **_absent("there is one QUIC engine", "backend"),
    **_absent("without [client.tls] root they are what is trusted", "tls.system_roots"),
    **_absent(_CLIENTS, "tls.cert tls.key"),
    **_absent(
        "other relays are dialled for ever", "once reconnect backoff backoff.initial backoff.multiplier"
    ),
    **_absent("other relays are dialled for ever", "backoff.max backoff.timeout"),
    **_absent("other relays are dialled by QUIC", "websocket websocket.enabled websocket.delay"),
    **_absent(
        "", "timeout connect_timeout race failover_delay resolution_delay tls.fingerprint tls.host_name"
    ),
    **_absent("", "goaway goaway.handover goaway.redirect"),
}

_OTHERS: Final[Rows] = {
    "drain_timeout": ("limits.drain", ""),
    "cluster.linger": ("limits.linger", ""),
    "auth.public_subscribe": ("auth.public.subscribe", ""),
    "auth.public_publish": ("auth.public.publish", ""),
    "cache.capacity": ("limits.cache", "in bytes"),
    "cache.duration": ("limits.cache_age", ""),
    **_absent("a relay is one process", "runtime.workers"),
    **_absent(
        "a root tells of the other members",
        "cluster.connect_api cluster.lan cluster.lan.enabled cluster.lan.secret cluster.lan.app",
    ),
    **_absent(
        "tokens are checked with [auth] key or key_dir",
        "auth.url auth.auth_api auth.api auth.api_mode auth.public_api auth.public.api auth.domain auth.domains "
        "auth.tls auth.tls.root auth.tls.cert auth.tls.key auth.tls.disable_verify",
    ),
    **_absent(_CLIENTS, "web.https.root"),
    **_absent(_FIGURES, "stats.enabled stats.prefix stats.interval stats.node stats.depth stats.linger"),
    **_absent("delete the key: all packets take the one engine that there is", "server.quic.fast"),
    **_absent("", "runtime.pin runtime.io_uring cluster.max_hops cluster.tier auth.mtls_tier cache.headroom"),
    **_absent("", "iroh.enabled iroh.secret iroh.bind_v4 iroh.bind_v6 iroh.disable_relay"),
}


def _table() -> dict[str, Foreign]:
    rows = dict(_OTHERS)
    for tables, keys in (
        (("listen", "server"), _LISTEN),
        (("connect", "client"), _CONNECT),
        (("quic", "listen.quic", "connect.quic", "server.quic", "client.quic"), _QUIC),
    ):
        rows |= {f"{table}.{name}": row for table in tables for name, row in keys.items()}
    ours = {option.path for option in OPTIONS} | {f"server.quic.{name}" for name in _SAME_OF_QUIC}
    return {path: Foreign(path, *row) for path, row in rows.items() if path not in ours}


FOREIGN: Final[Mapping[str, Foreign]] = _table()  # by place in their file

_FLAGS: Final[Mapping[str, str]] = {  # that are not the path with hyphens
    "connect": "connect.url",
    "client-connect": "client.connect",
    "client-connect-timeout": "client.timeout",
    "client-max-streams": "client.quic.max_streams",
    "server-max-streams": "server.quic.max_streams",
    "listen-quic-lb-id": "listen.lb_id",
    "listen-quic-lb-nonce": "listen.lb_nonce",
    "cluster-lan": "cluster.lan.enabled",
    "backoff-initial": "connect.backoff.initial",
    "backoff-multiplier": "connect.backoff.multiplier",
    "backoff-max": "connect.backoff.max",
    "backoff-timeout": "connect.backoff.timeout",
    "websocket-enabled": "connect.websocket.enabled",
    "websocket-delay": "connect.websocket.delay",
    "goaway-handover": "connect.goaway.handover",
    "goaway-redirect": "connect.goaway.redirect",
    "tls-system-roots": "connect.tls.system_roots",
    "tls-fingerprint": "connect.tls.fingerprint",
    "client-version": "connect.version",
}


def _named() -> dict[str, Foreign]:
    """The entries by name, in lower case with hyphens, as in flags and variables."""
    found = {path.replace(".", "-").replace("_", "-"): entry for path, entry in FOREIGN.items()}
    # both relays have tables `client` and `server`, with keys of equal names in files only
    ours = {
        "client.tls": ("root", "disable_verify"),
        "server.tls": ("cert", "key", "generate"),
        "server.quic": _SAME_OF_QUIC,
    }
    for path in (f"{table}.{name}" for table, names in ours.items() for name in names):
        found[path.replace(".", "-").replace("_", "-")] = Foreign("", path)
    return found | {name: FOREIGN[path] for name, path in _FLAGS.items() if path in FOREIGN}


_NAMED: Final = _named()


def foreign_keys(keys: tuple[str, ...], value: object) -> list[tuple[tuple[str, ...], Foreign | None]]:
    """Places below `keys` with their options, None for an unknown one; empty if `keys` is unknown."""
    path = ".".join(keys)
    if not isinstance(value, dict) or not any(known.startswith(f"{path}.") for known in FOREIGN):
        return [(keys, FOREIGN[path])] if path in FOREIGN else []
    found: list[tuple[tuple[str, ...], Foreign | None]] = []
    for name, inner in value.items():
        place = (*keys, name)
        found += foreign_keys(place, inner) or [(place, None)]
    return found


def foreign_flag(flag: str) -> Foreign | None:
    """The entry of a flag such as `--listen-tls-cert`."""
    return _NAMED.get(flag.lstrip("-").removeprefix("no-"))


def foreign_variable(name: str) -> Foreign | None:
    """The entry of a variable such as `MOQ_LISTEN_TLS_CERT`."""
    if name == "MOQ_LISTEN":
        return FOREIGN["listen.bind"]
    return _NAMED.get(name.removeprefix(ENV_PREFIX).lower().replace("_", "-"))
