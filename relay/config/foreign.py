"""The options of moq-relay 0.17, as its users bring them: what each is called here, or that there is none.

Owns the list, taken from releases 0.14 to 0.17.10, and the words of the answers. Must never say more of an option that is
not there than what else does its work, and never advise what lets more people in. Called by `load` for files and the
environment, and by the command line for flags.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from relay.config.options import OPTIONS

ENV_PREFIX: Final = "MOQ_"


@dataclass(frozen=True, slots=True)
class Foreign:
    """One option that this relay does not have under this name."""

    path: str
    """Its place in their file: `listen.tls.cert`."""

    here: str | None = None
    """The place of the option that does its work in ours; None if there is none."""

    note: str = ""

    @property
    def answer(self) -> str:
        """For a key of the file."""
        return self._answer(None if self.here is None else _key(self.here))

    @property
    def answer_to_flag(self) -> str:
        """For a flag: a flag of ours if there is one, else the key of the file."""
        flags = next((option.flags for option in OPTIONS if option.path == self.here), ())
        return self._answer(
            flags[0] if flags else None if self.here is None else f"{_key(self.here)} in FILE"
        )

    @property
    def answer_to_variable(self) -> str:
        """For an environment variable."""
        names = next((option.env for option in OPTIONS if option.path == self.here), ())
        return self._answer(
            names[-1] if names else None if self.here is None else f"{_key(self.here)} in FILE"
        )

    def _answer(self, here: str | None) -> str:
        text = "not supported" if here is None else f"here it is {here}"
        return f"{text}; {self.note}" if self.note else text


def _key(path: str) -> str:
    table, _, name = path.rpartition(".")
    return f"[{table}] {name}"


_TOKENS: Final = "tokens are checked with [auth] key or key_dir"
_FIGURES: Final = "/metrics and /state of [internal] listen have the figures"
_CLIENTS: Final = "clients and other relays prove themselves by tokens, not by certificates"
_BOTH: Final = "it holds for both directions"

_QUIC: Final[Mapping[str, tuple[str | None, str]]] = {
    "max_streams": ("server.quic.max_streams_uni", "and max_streams_bidi"),
    "gso": (None, "it is used where the kernel can"),
    "idle_timeout": ("server.quic.idle_timeout", ""),
    "keep_alive": ("server.quic.keep_alive", ""),
    "mtu_discovery": ("server.quic.mtu_discovery", ""),
    "congestion_control": ("server.quic.congestion", '"loss" is "cubic", "delay" is "bbr"'),
    "receive_window": ("server.quic.connection_window", ""),
    "stream_receive_window": ("server.quic.stream_window", ""),
    "send_window": (None, ""),
    "qlog": ("server.qlog_dir", ""),
    "preferred_v4": (None, ""),
    "preferred_v6": (None, ""),
    "lb_id": (None, ""),
    "lb_nonce": (None, ""),
}
"""Keys below a QUIC table. The other relay has had one such table, and later one for each direction."""

_SAME_OF_QUIC: Final = ("idle_timeout", "keep_alive", "mtu_discovery")
"""Keys of [server.quic] that we have under the same name; ours are in files only."""

_LISTEN: Final[Mapping[str, tuple[str | None, str]]] = {
    "bind": ("server.listen", ""),
    "version": ("server.version", ""),
    "timeout": ("limits.setup_timeout", ""),
    "backend": (None, "there is one QUIC engine"),
    "tls.cert": ("server.tls.cert", ""),
    "tls.key": ("server.tls.key", ""),
    "tls.generate": ("server.tls.generate", ""),
    "tls.root": (None, _CLIENTS),
    "tcp.bind": (None, "[web] ws takes sessions over TCP"),
    "unix.bind": (None, ""),
    "unix.allow.uid": (None, ""),
    "unix.allow.gid": (None, ""),
    "unix.allow.pid": (None, ""),
    "preferred_v4": (None, ""),
    "preferred_v6": (None, ""),
    "lb_id": (None, ""),
    "lb_nonce": (None, ""),
    "load_balancer": (None, ""),
}

_CONNECT: Final[Mapping[str, tuple[str | None, str]]] = {
    "url": ("cluster.root", ""),
    "connect": ("cluster.root", ""),
    "bind": ("client.bind", ""),
    "backend": (None, "there is one QUIC engine"),
    "version": ("server.version", _BOTH),
    "timeout": (None, ""),
    "connect_timeout": (None, ""),
    "race": (None, ""),
    "failover_delay": (None, ""),
    "resolution_delay": (None, ""),
    "once": (None, "other relays are dialled for ever"),
    "reconnect": (None, "other relays are dialled for ever"),
    "max_streams": ("server.quic.max_streams_uni", "and max_streams_bidi"),
    "tls.root": ("client.tls.root", ""),
    "tls.insecure": ("client.tls.disable_verify", ""),
    "tls.disable_verify": ("client.tls.disable_verify", ""),
    "tls.system_roots": (None, "without [client.tls] root they are what is trusted"),
    "tls.fingerprint": (None, ""),
    "tls.cert": (None, _CLIENTS),
    "tls.key": (None, _CLIENTS),
    "tls.host_name": (None, ""),
    "backoff": (None, "other relays are dialled for ever"),
    "backoff.initial": (None, "other relays are dialled for ever"),
    "backoff.multiplier": (None, "other relays are dialled for ever"),
    "backoff.max": (None, "other relays are dialled for ever"),
    "backoff.timeout": (None, "other relays are dialled for ever"),
    "goaway": (None, ""),
    "goaway.handover": (None, ""),
    "goaway.redirect": (None, ""),
    "websocket": (None, "other relays are dialled by QUIC"),
    "websocket.enabled": (None, "other relays are dialled by QUIC"),
    "websocket.delay": (None, "other relays are dialled by QUIC"),
}

_OTHERS: Final[Mapping[str, tuple[str | None, str]]] = {
    "drain_timeout": ("limits.drain", ""),
    "runtime.workers": (None, "a relay is one process"),
    "runtime.pin": (None, ""),
    "runtime.io_uring": (None, ""),
    "cluster.max_hops": (None, ""),
    "cluster.connect_api": (None, "a root tells of the other members"),
    "cluster.lan": (None, "a root tells of the other members"),
    "cluster.lan.enabled": (None, "a root tells of the other members"),
    "cluster.lan.secret": (None, "a root tells of the other members"),
    "cluster.lan.app": (None, "a root tells of the other members"),
    "cluster.tier": (None, ""),
    "cluster.linger": ("limits.linger", ""),
    "auth.url": (None, _TOKENS),
    "auth.auth_api": (None, _TOKENS),
    "auth.api": (None, _TOKENS),
    "auth.api_mode": (None, _TOKENS),
    "auth.public_api": (None, _TOKENS),
    "auth.public.api": (None, _TOKENS),
    "auth.public_subscribe": ("auth.public.subscribe", ""),
    "auth.public_publish": ("auth.public.publish", ""),
    "auth.domain": (None, _TOKENS),
    "auth.domains": (None, _TOKENS),
    "auth.mtls_tier": (None, ""),
    "auth.tls": (None, _TOKENS),
    "auth.tls.root": (None, _TOKENS),
    "auth.tls.cert": (None, _TOKENS),
    "auth.tls.key": (None, _TOKENS),
    "auth.tls.disable_verify": (None, _TOKENS),
    "web.https.root": (None, _CLIENTS),
    "stats.enabled": (None, _FIGURES),
    "stats.prefix": (None, _FIGURES),
    "stats.interval": (None, _FIGURES),
    "stats.node": (None, _FIGURES),
    "stats.depth": (None, _FIGURES),
    "stats.linger": (None, _FIGURES),
    "cache.capacity": ("limits.cache", "in bytes"),
    "cache.headroom": (None, ""),
    "cache.duration": ("limits.cache_age", ""),
    "iroh.enabled": (None, ""),
    "iroh.secret": (None, ""),
    "iroh.bind_v4": (None, ""),
    "iroh.bind_v6": (None, ""),
    "iroh.disable_relay": (None, ""),
}


def _table() -> dict[str, Foreign]:
    rows: dict[str, tuple[str | None, str]] = dict(_OTHERS)
    for tables, keys in (
        (("listen", "server"), _LISTEN),
        (("connect", "client"), _CONNECT),
        (("quic", "listen.quic", "connect.quic", "server.quic", "client.quic"), _QUIC),
    ):
        rows |= {f"{table}.{name}": row for table in tables for name, row in keys.items()}
    ours = {option.path for option in OPTIONS} | {f"server.quic.{name}" for name in _SAME_OF_QUIC}
    return {path: Foreign(path, *row) for path, row in rows.items() if path not in ours}


FOREIGN: Final[Mapping[str, Foreign]] = _table()
"""By place in their file."""

_FLAGS: Final[Mapping[str, str]] = {
    # What is not the path with hyphens.
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
    """By name in lower case with hyphens, as flags and variables have it."""
    found = {path.replace(".", "-").replace("_", "-"): entry for path, entry in FOREIGN.items()}
    # `client` and `server` are our tables as well: their keys are under their own names in files alone.
    found |= {f"client-tls-{key}": Foreign("", f"client.tls.{key}") for key in ("root",)}
    found |= {f"server-tls-{key}": Foreign("", f"server.tls.{key}") for key in ("cert", "key", "generate")}
    found |= {
        f"server-quic-{name.replace('_', '-')}": Foreign("", f"server.quic.{name}") for name in _SAME_OF_QUIC
    }
    found |= {"client-tls-disable-verify": Foreign("", "client.tls.disable_verify")}
    return found | {name: FOREIGN[path] for name, path in _FLAGS.items() if path in FOREIGN}


_NAMED: Final = _named()


def foreign_keys(keys: tuple[str, ...], value: object) -> list[tuple[tuple[str, ...], Foreign | None]]:
    """The places in a part of a file that are theirs, each with its option; None for one that they have not either.

    Empty if the part is none of theirs.
    """
    path = ".".join(keys)
    if not isinstance(value, dict) or not any(known.startswith(f"{path}.") for known in FOREIGN):
        return [(keys, FOREIGN[path])] if path in FOREIGN else []
    found: list[tuple[tuple[str, ...], Foreign | None]] = []
    for name, inner in value.items():
        place = (*keys, name)
        found += foreign_keys(place, inner) or [(place, None)]
    return found


def foreign_flag(flag: str) -> Foreign | None:
    """Their option that has this flag, `--listen-tls-cert`."""
    return _NAMED.get(flag.lstrip("-").removeprefix("no-"))


def foreign_variable(name: str) -> Foreign | None:
    """Their option that has this variable, `MOQ_LISTEN_TLS_CERT`."""
    if name == "MOQ_LISTEN":
        return FOREIGN["listen.bind"]
    return _NAMED.get(name.removeprefix(ENV_PREFIX).lower().replace("_", "-"))
