"""The tables of the configuration file, typed: one model for each, plus the two that other rooms own.

Owns names, types, defaults and ranges. Must never look at files, the environment or flags: `load` does. Instances
are frozen, and a value of the wrong type or range cannot get into one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeVar, get_type_hints
from urllib.parse import unquote

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, create_model, model_validator

from relay.config.address import Address, is_authority, is_host
from relay.config.duration import seconds
from relay.config.root import Root, parse_roots
from relay.config.url import is_url, key_server
from relay.model.limits import Limits
from relay.model.member import Member, same_host
from relay.model.path import PatternError, covers, granted, minimal, normalize
from relay.transport.quic.settings import QuicSettings
from relay.wire.version import Version, version_from_name

T = TypeVar("T")

Range = tuple[float, float]
"""Smallest and largest value allowed."""

_COUNT: Range = (1, 1_000_000)
_BYTES: Range = (1_024, 1 << 40)
_SECONDS: Range = (0.001, 86_400)

QUIC_RANGES: Mapping[str, Range] = {
    "idle_timeout": (0.1, 3_600),
    "keep_alive": (0, 3_600),
    "max_streams_bidi": _COUNT,
    "max_streams_uni": _COUNT,
    "stream_window": (16_384, 1 << 30),
    "connection_window": (16_384, 1 << 40),
    # RFC 9000 section 14 demands 1200; 65507 is what fits into one UDP packet over IPv4.
    "max_datagram_size": (1_200, 65_507),
    "socket_buffer": (16_384, 1 << 30),
}

LIMITS_RANGES: Mapping[str, Range] = {
    # Less might not carry a deep path with its list of hops.
    "message": (4_096, 1 << 24),
    # 0 has every client prove its address.
    "handshakes_unverified": (0, 1_000_000),
    # 0 keeps no broadcast whose publisher is gone.
    "linger": (0, 3_600),
    # 0 closes all sessions at once.
    "drain": (0, 3_600),
    "frame": _BYTES,
    "cache": _BYTES,
    "cache_track": _BYTES,
    # More than what fits into the longest message would never be met.
    "path": (64, 1 << 16),
    "backlog_bytes": _BYTES,
    "backlog_session": _BYTES,
    "websocket_window": _BYTES,
    "websocket_message": _BYTES,
}
"""Fields without an entry are counts if they are whole numbers and seconds otherwise."""


class Table(BaseModel):
    """What all tables share: unknown keys are refused, nothing is converted silently, nothing changes later."""

    # Values stay out of pydantic's own messages: one may be a secret that was put in place of a path.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)


def _parsed(parse: Callable[[str], T], wanted: str) -> BeforeValidator:
    """Read a string by `parse`; what is no string must be the finished value already."""

    def read(raw: object) -> object:
        if isinstance(raw, str):
            return parse(raw)
        if raw is None or isinstance(raw, (Address, Path)):
            return raw
        raise ValueError(f"expected {wanted}")

    return BeforeValidator(read)


def _listed(parse: Callable[[str], T], wanted: str) -> BeforeValidator:
    """Read a string or a list of strings into a tuple."""

    def read(raw: object) -> tuple[object, ...]:
        items = raw if isinstance(raw, (list, tuple)) else (raw,)
        return tuple(read_one(item) for item in items)

    def read_one(item: object) -> object:
        if isinstance(item, str):
            return parse(item)
        if isinstance(item, (Path, Version)):
            return item
        raise ValueError(f"expected {wanted} or a list of them")

    return BeforeValidator(read)


def _path(text: str) -> Path:
    if not text.strip() or "\0" in text:
        raise ValueError('expected the path of a file, e.g. "cert.pem"')
    return Path(text)


def _folder(text: str) -> Path:
    if not text.strip() or "\0" in text:
        raise ValueError('expected the path of a directory, e.g. "qlog"')
    return Path(text)


def _san(text: str) -> str:
    """Check a name that a certificate may be made out to."""
    if is_host(text.removeprefix("*.")):
        return text
    raise ValueError('expected a host name or IP address, e.g. "localhost"')


def _host(text: str) -> str:
    """Check a name that requests may call the relay by, and return it as it is compared."""
    if is_host(text):
        return text.lower().removesuffix(".")
    raise ValueError('expected a host name without scheme and port, e.g. "relay.example.com"')


def _authority(text: str) -> str:
    if is_authority(text):
        with suppress(ValueError):  # the other relays ignore it by the same rule
            return Member.parse(text, 0).name
    raise ValueError('expected host or host:port without a scheme, e.g. "relay.example.com:4443"')


def _hop(value: int | None) -> int | None:
    if value is None or 0 < value < 1 << 62:
        return value
    raise ValueError(f"expected a whole number from 1 to {(1 << 62) - 1}, another one for each relay")


def _prefix(text: str) -> str:
    path = normalize(text)
    if path:
        return path
    raise ValueError('expected a broadcast path, e.g. "internal/origins"')


def _key_dir(text: str) -> str:
    if is_url(text):
        return key_server(text)
    if not text.strip() or "\0" in text:
        raise ValueError('expected the path of a directory, e.g. "keys", or a URL that starts with https://')
    return text


def _public_path(text: str) -> str:
    """Check a path by the rule for those of URLs, so that no right is granted where no session can be."""
    try:
        text.encode()  # at first: no message can quote what is no text
        path = granted(text)
    except UnicodeEncodeError:
        raise ValueError("expected UTF-8") from None
    except PatternError as error:
        raise ValueError(f'"{text}" is {error}') from None
    names = [unquote(segment) for segment in path.split("/")]
    if any(name in (".", "..") or "/" in name or "\0" in name for name in names):
        raise ValueError(
            'expected names between the slashes, e.g. "anon/demo": "." and ".." and an encoded slash never match a URL'
        )
    return path


def _paths(raw: object) -> tuple[str, ...]:
    """Read a string or a list of them. `()` is the finished value for nowhere; an empty list is an oversight."""
    items = (raw,) if isinstance(raw, str) else raw
    if not isinstance(items, (list, tuple)) or not all(isinstance(item, str) for item in items):
        raise ValueError('expected a path such as "anon", or a list of them')
    if items == []:
        raise ValueError(_NO_PATH)
    return minimal(map(_public_path, items))


_NO_PATH = 'expected at least one path, e.g. "anon", or "" for everything; without this key nothing is public'


def _public(raw: object) -> object:
    """Read the short forms, a string or a list of them: they stand for both keys of the table."""
    if raw is None or isinstance(raw, (dict, Public)):
        return raw
    if isinstance(raw, (str, list, tuple)):
        paths = _paths(raw)
        if paths:
            return Public(subscribe=paths, publish=paths)
        raise ValueError(_NO_PATH)
    raise ValueError('expected a path such as "anon", a list of them, or the table [auth.public]')


def _versions(versions: tuple[Version, ...]) -> tuple[Version, ...]:
    """Return them once each and newest first, however they were written."""
    if versions:
        return tuple(sorted(set(versions), reverse=True))
    raise ValueError('expected at least one version, e.g. "moq-lite-06"')


def _lower(raw: object) -> object:
    return raw.lower() if isinstance(raw, str) else raw


Listen = Annotated[Address, _parsed(Address.parse, 'host:port, e.g. "[::]:443"')]
File = Annotated[Path, _parsed(_path, "the path of one file")]
Folder = Annotated[Path, _parsed(_folder, "the path of a directory")]
Files = Annotated[tuple[Path, ...], _listed(_path, "the path of a file")]
Names = Annotated[tuple[str, ...], _listed(_san, "a host name")]
Hosts = Annotated[tuple[str, ...], _listed(_host, "a host name")]
Versions = Annotated[
    tuple[Version, ...], _listed(version_from_name, "a version name"), AfterValidator(_versions)
]
Paths = Annotated[tuple[str, ...], BeforeValidator(_paths)]
Roots = Annotated[tuple[Root, ...], BeforeValidator(parse_roots)]
Authority = Annotated[str, AfterValidator(_authority)]
Level = Literal["error", "warn", "info", "debug", "trace"]


def _ranged(name: str, hint: object, ranges: Mapping[str, Range]) -> object:
    """`hint`, narrowed to the range of the field `name`."""
    if hint not in (int, float):
        return hint
    low, high = ranges.get(name, _COUNT if hint is int else _SECONDS)

    def check(value: float) -> float:
        if low <= value <= high:
            return value
        raise ValueError(f"expected a {'whole ' if hint is int else ''}number from {low:g} to {_plain(high)}")

    if hint is int:
        return Annotated[hint, AfterValidator(check)]
    # All fields that are no whole numbers are times.
    return Annotated[hint, AfterValidator(check), BeforeValidator(_seconds)]


def _seconds(raw: object) -> object:
    return seconds(raw) if isinstance(raw, str) else raw


def _plain(value: float) -> str:
    return str(int(value))


def _table_of(cls: type[Any], ranges: Mapping[str, Range]) -> BeforeValidator:
    """Read a table into `cls`, a dataclass of another room, as strictly as a `Table` of our own."""
    hints = get_type_hints(cls)
    columns: dict[str, Any] = {
        field.name: (_ranged(field.name, hints[field.name], ranges), field.default)
        for field in dataclasses.fields(cls)
    }
    table = create_model(cls.__name__, __base__=Table, **columns)

    def read(raw: object) -> object:
        # Errors of the inner model join those of the outer one, with the key they belong to.
        return raw if isinstance(raw, cls) else cls(**table.model_validate(raw).model_dump())

    return BeforeValidator(read)


class ServerTls(Table):
    """`[server.tls]`: what the QUIC endpoint proves itself with."""

    cert: Files = ()
    """PEM files, each a certificate chain; the i-th belongs to the i-th of `key`."""

    key: Files = ()
    generate: Names = ()
    """Names of one more, self-signed certificate, made at start; browsers and clients pin its fingerprint."""


class Server(Table):
    """`[server]`: the QUIC endpoint."""

    listen: Listen = Address("::", 443)
    version: Versions = tuple(sorted(Version, reverse=True))
    """Protocol versions offered and accepted, newest first."""

    qlog_dir: Folder | None = None
    """Where a qlog file of each QUIC connection is written."""

    tls: ServerTls = ServerTls()
    quic: Annotated[QuicSettings, _table_of(QuicSettings, QUIC_RANGES)] = QuicSettings()


class ClientTls(Table):
    """`[client.tls]`: whom outgoing connections trust."""

    root: Files = ()
    """PEM files of root certificates; none means those of the system."""

    disable_verify: bool = False


class Client(Table):
    """`[client]`: outgoing connections, to other relays of the cluster."""

    bind: Listen = Address("::", 0)
    tls: ClientTls = ClientTls()


class Log(Table):
    """`[log]`."""

    level: Annotated[Level, BeforeValidator(_lower)] = "info"


class Cluster(Table):
    """`[cluster]`. `connect` and `advertise` are second names of `root` and `node` in files, flags and environment."""

    root: Roots = ()
    """The relays to join; none, or none but `node`: this relay is the root."""

    node: Authority | None = None
    """The address other relays reach this one at."""

    token: File | None = None
    """File with the token presented to other relays, but for roots that have one of their own."""

    prefix: Annotated[str, AfterValidator(_prefix)] = "internal/origins"
    """Broadcast path under which the members announce themselves."""

    mesh: bool = True
    """Whether the members that a root tells of are dialled too, so that each is one hop away."""

    id: Annotated[int | None, AfterValidator(_hop)] = None
    """This relay's id in the lists of hops; drawn at each start if unset."""

    @property
    def others(self) -> tuple[Root, ...]:
        """The roots that are other relays: all members may be given the same list."""
        return tuple(root for root in self.root if self.node is None or not same_host(root.target, self.node))

    def role(self) -> str:
        """What this relay is in a cluster, in words."""
        if not self.others:
            return "none" if self.node is None else f"root of a cluster as {self.node}"
        name = "without a name: what is published here stays here" if self.node is None else f"as {self.node}"
        return f"joins {', '.join(map(str, self.others))} {name}{'' if self.mesh else '; dials no other members'}"


class Public(Table):
    """`[auth.public]`: what anyone may do without a token. Paths are in normal form, none covers another.

    `("",)` is everything, `()` is nothing, but not for both.
    """

    subscribe: Paths = ()
    publish: Paths = ()

    @model_validator(mode="after")
    def _grants_something(self) -> Self:
        if self.subscribe or self.publish:
            return self
        raise ValueError('expected subscribe or publish in this table, or both, e.g. subscribe = "demo"')

    @property
    def both(self) -> str | None:
        """A path that anyone may publish to and watch, if there is one."""
        return next(
            (path for path in self.publish if any(covers(other, path) for other in self.subscribe)), None
        )

    @property
    def everywhere(self) -> bool:
        """Whether nothing is left for a token to grant."""
        return "" in self.subscribe and "" in self.publish


class Auth(Table):
    """`[auth]`."""

    key: File | None = None
    """File with the key (JWK) that tokens are verified with."""

    key_dir: Annotated[str, AfterValidator(_key_dir)] | None = None
    """Where the keys are if there are several, one in each `{kid}.jwk`: a directory or the URL of one."""

    public: Annotated[Public | None, BeforeValidator(_public)] = None
    """What is open to anyone without a token; None for nothing. One path or a list of them stands for both ways."""

    if TYPE_CHECKING:
        # Type checkers do not see the validator that reads the short forms of `public`.
        def __init__(
            self,
            *,
            key: Path | None = None,
            key_dir: str | None = None,
            public: Public | Sequence[str] | None = None,
        ) -> None: ...

    @property
    def key_directory(self) -> Path | None:
        """`key_dir`, if it is a directory."""
        return None if self.key_dir is None or is_url(self.key_dir) else Path(self.key_dir)

    @property
    def key_url(self) -> str | None:
        """`key_dir`, if it is a URL, without a slash at its end: `/{kid}.jwk` comes next."""
        return self.key_dir if self.key_dir is not None and is_url(self.key_dir) else None

    def rights(self) -> Iterator[str]:
        """Yield who may do what, in words."""
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

    listen: Listen | None = None


class Https(Table):
    """`[web.https]`: all three keys or none."""

    listen: Listen | None = None
    cert: File | None = None
    key: File | None = None


class Web(Table):
    """`[web]`."""

    http: Http = Http()
    https: Https = Https()
    ws: bool = True
    """Whether sessions over WebSocket are accepted."""


class Internal(Table):
    """`[internal]`."""

    listen: Listen | None = None
    hosts: Hosts = ()
    """Names under which the address answers, besides `localhost` and IP addresses."""


class Config(Table):
    """The whole file. Read it by attribute: `config.server.tls.generate`."""

    server: Server = Server()
    client: Client = Client()
    log: Log = Log()
    cluster: Cluster = Cluster()
    auth: Auth = Auth()
    web: Web = Web()
    internal: Internal = Internal()
    limits: Annotated[Limits, _table_of(Limits, LIMITS_RANGES)] = Limits()

    @classmethod
    def demo(cls) -> Config:
        """Return what the relay runs with when it is told nothing: dev.toml, but reachable from this machine only."""
        return cls.model_validate(DEMO)

    @property
    def http_listen(self) -> Address | None:
        """Where plain HTTP listens: on the QUIC address, over TCP, unless `[web.http]` or `[web.https]` says otherwise.

        A port of 0 on the QUIC address means: the port that the QUIC endpoint was given.
        """
        if self.web.http.listen is None and self.web.https.listen is None:
            return self.server.listen
        return self.web.http.listen

    @property
    def internal_listen(self) -> Address:
        """Where the operator's HTTP listens; on this machine only, unless `[internal] listen` says otherwise."""
        if self.internal.listen is not None:
            return self.internal.listen
        port = self.server.listen.port
        return Address(
            "localhost", port + INTERNAL_OFFSET if port and port + INTERNAL_OFFSET <= MAX_PORT else 0
        )

    @property
    def https_listen(self) -> Address | None:
        """Where HTTPS listens, if at all; `config.web.https` then holds its certificate and key."""
        return self.web.https.listen


INTERNAL_OFFSET = 1000
"""From the port of QUIC to that of the internal HTTP listener, if none is configured."""

MAX_PORT = 65_535

DEMO: Mapping[str, Any] = {
    "server": {"listen": "localhost:4443", "tls": {"generate": "localhost"}},
    "log": {"level": "debug"},
    "auth": {"public": ""},
}
"""The tables of `Config.demo`."""
