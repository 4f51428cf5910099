"""The configuration: names, precedence, checks, and what it says to people."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from relay.config import (
    OPTIONS,
    Address,
    Auth,
    Config,
    ConfigError,
    Option,
    Public,
    Server,
    ServerTls,
    load,
)
from relay.config.foreign import FOREIGN
from relay.config.options import Kind
from relay.config.root import Root
from relay.config.values import LIMITS_RANGES, QUIC_RANGES
from relay.config.wording import SCHEMA, nearest
from relay.model.limits import Limits
from relay.transport.quic.settings import QuicSettings
from relay.wire.version import Version

ROOT = Path(__file__).parent.parent
BY_PATH = {option.path: option for option in OPTIONS}
NEWEST_FIRST = tuple(sorted(Version, reverse=True))

MINIMAL = {"server.tls.generate": '"localhost"', "auth.public": '"anon"'}
"""The least that can be started."""

JOINING = MINIMAL | {"cluster.token": '"a.pem"'}
"""The least for a relay that joins a cluster, but for its root."""

EVERYTHING = Public(subscribe=("",), publish=("",))


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in a folder with a few files, away from the real environment's options."""
    monkeypatch.chdir(tmp_path)
    for name in {name for option in OPTIONS for name in option.env}:
        monkeypatch.delenv(name, raising=False)
    for name in ("a.pem", "b.pem", "c.pem", "root.jwk"):
        Path(name).write_text("content\n")
    for name in ("folder", "keys"):
        Path(name).mkdir()


def written(keys: Mapping[str, str], name: str = "test.toml") -> str:
    """Write a file of dotted keys and TOML values, and return its name."""
    tables: dict[str, list[str]] = {}
    for path, value in keys.items():
        table, _, key = path.rpartition(".")
        tables.setdefault(table, []).append(f"{key} = {value}")
    text = "\n".join(tables.pop("", []))
    text += "".join(f"\n[{table}]\n" + "\n".join(rows) + "\n" for table, rows in tables.items())
    Path(name).write_text(text)
    return name


def get(config: Config, path: str) -> object:
    value: Any = config
    for key in path.split("."):
        value = None if value is None else getattr(value, key)
    return value


def problems(
    file: str | None = None, flags: Iterable[tuple[str, str]] = (), environ: Mapping[str, str] | None = None
) -> list[str]:
    """Return what `load` complains about."""
    with pytest.raises(ConfigError) as caught:
        load(file, flags, environ or {})
    return list(caught.value.problems)


# Precedence

DEFAULTS: dict[str, object] = {
    "server.listen": Address("::", 443),
    "server.version": NEWEST_FIRST,
    "server.qlog_dir": None,
    "server.tls.cert": (),
    "server.tls.key": (),
    "server.tls.generate": (),
    "client.bind": Address("::", 0),
    "client.tls.root": (),
    "client.tls.disable_verify": False,
    "log.level": "info",
    "cluster.root": (),
    "cluster.node": None,
    "cluster.token": None,
    "cluster.prefix": "internal/origins",
    "cluster.mesh": True,
    "cluster.id": None,
    "auth.key": None,
    "auth.key_dir": None,
    "auth.public": None,
    "auth.public.subscribe": None,
    "auth.public.publish": None,
    "web.http.listen": None,
    "web.https.listen": None,
    "web.https.cert": None,
    "web.https.key": None,
    "web.ws": True,
    "internal.listen": None,
    "internal.hosts": (),
}

ADDRESSES = ("127.0.0.1:1001", "[::1]:1002", ":1003")
FILES = ("a.pem", "b.pem", "c.pem")
HOSTS = ("one.example:1", "two.example", "[::1]:3")
SAMPLES: dict[str, tuple[str, str, str]] = {
    "server.listen": ADDRESSES,
    "server.version": ("moq-lite-01", "moq-lite-02", "moq-lite-03"),
    "server.qlog_dir": ("folder", "keys", "."),
    "server.tls.cert": FILES,
    "server.tls.key": FILES,
    "server.tls.generate": ("localhost", "127.0.0.1", "*.example.com"),
    "client.bind": ADDRESSES,
    "client.tls.root": FILES,
    "client.tls.disable_verify": ("true", "false", "true"),
    "log.level": ("error", "warn", "trace"),
    "cluster.root": (*HOSTS[:2], "https://[::1]:3/x"),
    "cluster.node": HOSTS,
    "cluster.token": FILES,
    "cluster.prefix": ("one", "two/three", "four"),
    "cluster.mesh": ("false", "true", "false"),
    "cluster.id": ("1", "2", str((1 << 62) - 1)),
    "auth.key": FILES,
    "auth.key_dir": ("keys", "https://keys.example", "http://localhost:8080/keys"),
    "auth.public": ("one", "two", "three/four"),
    "auth.public.subscribe": ("one", "two", "three/four"),
    "auth.public.publish": ("one", "two", ""),
    "web.http.listen": ADDRESSES,
    "web.https.listen": ADDRESSES,
    "web.https.cert": FILES,
    "web.https.key": FILES,
    "web.ws": ("false", "true", "false"),
    "internal.listen": ADDRESSES,
    "internal.hosts": ("a.example", "b.example", "c.example"),
}
"""Values for file, environment and flag, each different from the one it has to win over."""

SURROUNDINGS: dict[str, dict[str, str]] = {
    "server.tls.cert": {"server.tls.key": '"a.pem"'},
    "server.tls.key": {"server.tls.cert": '"a.pem"'},
    "web.https.listen": {"web.https.cert": '"a.pem"', "web.https.key": '"a.pem"'},
    "web.https.cert": {"web.https.listen": '"[::]:1"', "web.https.key": '"a.pem"'},
    "web.https.key": {"web.https.listen": '"[::]:1"', "web.https.cert": '"a.pem"'},
}
"""What an option cannot do without."""

WITHOUT = {
    "server.tls.generate": {
        "auth.public": '"anon"',
        "server.tls.cert": '"a.pem"',
        "server.tls.key": '"a.pem"',
    },
    "auth.public": {"server.tls.generate": '"localhost"', "auth.key": '"a.pem"'},
    "auth.public.subscribe": {"server.tls.generate": '"localhost"', "auth.key": '"a.pem"'},
    "auth.public.publish": {"server.tls.generate": '"localhost"', "auth.key": '"a.pem"'},
}
"""Files that can be started without an option of `MINIMAL`."""


def meant(option: Option, text: str) -> object:
    """Return the value that `text` stands for."""
    name = option.path.rpartition(".")[2]
    value: object = text
    if option.kind is Kind.BOOL:
        value = text == "true"
    elif option.kind is Kind.NUMBER:
        value = int(text)
    elif name in ("listen", "bind"):
        value = Address.parse(text)
    elif option.path == "cluster.root":
        value = Root(text)
    elif text in FILES or name == "qlog_dir":
        value = Path(text)
    elif name == "version":
        value = next(version for version in Version if version.name_on_wire == text)
    if option.path == "auth.public":
        return Public(subscribe=(text,), publish=(text,))
    return (value,) if option.kind is Kind.LIST else value


def test_every_option_has_samples() -> None:
    assert set(DEFAULTS) == set(SAMPLES) == set(BY_PATH)
    assert len(BY_PATH) == len(OPTIONS)
    flags = [flag for option in OPTIONS for flag in option.flags]
    names = [name for option in OPTIONS for name in option.env]
    assert len(set(flags)) == len(flags)
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.path)
def test_flag_over_environment_over_file_over_default(option: Option) -> None:
    in_file, in_environment, in_flag = SAMPLES[option.path]
    assert option.default == DEFAULTS[option.path]
    file = written(WITHOUT.get(option.path, MINIMAL))
    assert get(load(file, environ={}), option.path) == DEFAULTS[option.path]

    base = MINIMAL | SURROUNDINGS.get(option.path, {})
    if option.table == "auth.public":
        base = WITHOUT[option.path]  # not with a value where the table stands
    shown = in_file if option.kind in (Kind.BOOL, Kind.NUMBER) else f'"{in_file}"'
    for place in (*(f"{option.table}.{alias}" for alias in option.aliases), option.path):
        file = written(base | {place: shown})
        assert get(load(file, environ={}), option.path) == meant(option, in_file), place
    for name in option.env:
        environ = {name: in_environment}
        assert get(load(file, environ=environ), option.path) == meant(option, in_environment), name
        for flag in option.flags:
            config = load(file, [(flag, in_flag)], environ)
            assert get(config, option.path) == meant(option, in_flag), flag


@pytest.mark.parametrize("option", [option for option in OPTIONS if option.aliases], ids=lambda o: o.path)
def test_one_spelling_in_a_flag_overrides_the_other_below(option: Option) -> None:
    for alias, name, flag in (
        (f"{option.table}.{option.aliases[0]}", option.env[0], option.flags[1]),
        (option.path, option.env[1], option.flags[0]),
    ):
        file = written(JOINING | {alias: '"one"'})
        assert get(load(file, environ={name: "two"}), option.path) == meant(option, "two")
        assert get(load(file, [(flag, "three")], {name: "two"}), option.path) == meant(option, "three")


def test_what_is_not_given_overrides_nothing() -> None:
    file = written(MINIMAL | {"web.ws": "false", "cluster.prefix": '"x"', "client.bind": '"[::1]:5"'})
    config = load(file, [("--listen", "[::]:1")], {"MOQ_LOG_LEVEL": "warn"})
    assert (config.web.ws, config.cluster.prefix, str(config.client.bind)) == (False, "x", "[::1]:5")
    assert config.log.level == "warn"


def test_defaults_without_a_file_once_anything_is_given() -> None:
    config = load(None, [("--tls-generate", "localhost"), ("--auth-public", "")], {})
    assert config == Config(server=Server(tls=ServerTls(generate=("localhost",))), auth=Auth(public=""))


# Demonstration


def test_demo_without_any_configuration() -> None:
    config = load(environ={})
    assert config == Config.demo()
    assert str(config.server.listen) == str(config.http_listen) == "localhost:4443"
    assert config.server.listen.hosts == ("127.0.0.1", "::1")
    assert config.server.tls.generate == ("localhost",)
    assert config.auth.public == EVERYTHING
    assert config.https_listen is None


def test_log_options_leave_the_demo_alone() -> None:
    config = load(None, [("--log-level", "trace")], {"RUST_LOG": "warn"})
    assert config.log.level == "trace"
    assert config.server == Config.demo().server


def test_demo_is_dev_toml_on_loopback() -> None:
    demo, dev = Config.demo(), load(ROOT / "dev.toml", environ={})
    assert (demo.log, demo.auth, demo.server.tls) == (dev.log, dev.auth, dev.server.tls)
    assert demo.server.listen.port == dev.server.listen.port == 4443


def test_dev_toml() -> None:
    config = load(ROOT / "dev.toml", environ={})
    assert config.log.level == "debug"
    assert str(config.server.listen) == str(config.http_listen) == "[::]:4443"
    assert config.server.tls == ServerTls(generate=("localhost",))
    assert config.auth.public == EVERYTHING


def test_what_dev_toml_comments_out_is_known_and_default() -> None:
    """Uncommenting a line of the reference must not be an error, nor change a limit."""
    text = (ROOT / "dev.toml").read_text()
    plain = re.sub(r"(?m)^# (?=\[|[a-z_]+ = )", "", text)
    Path("all.toml").write_text(plain.replace('public = ""', 'public = "anon"'))
    for name in ("cert.pem", "key.pem"):
        Path(name).write_text("content\n")
    config = load("all.toml", environ={})
    assert config.limits == Limits()
    assert config.server.quic == QuicSettings()


# Values


@pytest.mark.parametrize(
    "text, host, port",
    [
        ("[::]:4443", "::", 4443),
        ("0.0.0.0:4443", "0.0.0.0", 4443),
        ("localhost:4443", "localhost", 4443),
        (":4443", "", 4443),
        ("relay-1.example.com:0", "relay-1.example.com", 0),
        ("[fe80::1%eth0]:65535", "fe80::1%eth0", 65535),
    ],
)
def test_addresses(text: str, host: str, port: int) -> None:
    address = Address.parse(text)
    assert address == Address(host, port)
    assert str(address) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "foo",
        "443",
        "::1:443",
        "[::]",
        "[foo]:1",
        "[127.0.0.1]:1",
        "a b:1",
        "-a:1",
        "1.2.3:1",
        "1.2.3.4:",
        "1.2.3.4:-1",
        "1.2.3.4:65536",
        "1.2.3.4:٣",
        "http://a:1",
    ],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match="expected "):
        Address.parse(text)


def test_hosts_to_bind() -> None:
    assert Address("", 1).hosts == ("::",)
    assert Address("Localhost", 1).hosts == ("127.0.0.1", "::1")
    assert Address("0.0.0.0", 1).hosts == ("0.0.0.0",)


def test_string_or_list() -> None:
    one = load(written(MINIMAL | {"server.tls.cert": '"a.pem"', "server.tls.key": '["b.pem"]'}), environ={})
    assert one.server.tls == ServerTls(cert=(Path("a.pem"),), key=(Path("b.pem"),), generate=("localhost",))
    two = load(written(MINIMAL | {"server.version": '["5", "moq-lite-06", "05"]'}), environ={})
    assert two.server.version == (Version.LITE_06, Version.LITE_05)


def test_lists_take_commas_and_repeated_flags() -> None:
    flags = [("--tls-generate", "a, b"), ("--auth-public", "x"), ("--tls-generate", "c")]
    assert load(None, flags, {}).server.tls.generate == ("a", "b", "c")
    environ = {"MOQ_SERVER_TLS_GENERATE": "a,b,", "MOQ_AUTH_PUBLIC": "x"}
    assert load(None, environ=environ).server.tls.generate == ("a", "b")


def test_a_repeated_scalar_flag_counts_the_last_time() -> None:
    assert load(None, [("--log-level", "warn"), ("--log-level", "error")], {}).log.level == "error"


@pytest.mark.parametrize(
    "text, value", [("true", True), ("1", True), ("YES", True), ("false", False), ("0", False), ("no", False)]
)
def test_booleans_as_text(text: str, value: bool) -> None:
    file = written(MINIMAL | {"web.ws": str(not value).lower()})
    assert load(file, environ={"MOQ_WEB_WS": text}).web.ws is value


def test_an_empty_variable_is_unset_but_for_the_public_path() -> None:
    file = written({"server.tls.generate": '"localhost"', "server.listen": '"[::]:1"'})
    config = load(file, environ={"MOQ_AUTH_PUBLIC": "", "MOQ_SERVER_LISTEN": "", "MOQ_CLUSTER_ROOT": ""})
    assert config.auth.public == EVERYTHING
    assert config.server.listen.port == 1
    assert config.cluster.root == ()


@pytest.mark.parametrize(
    "text, level", [("debug", "debug"), ("TRACE", "trace"), ("relay=debug", "warn"), ("", "warn")]
)
def test_rust_log_wins_if_it_is_a_level(text: str, level: str) -> None:
    environ = {"RUST_LOG": text, "MOQ_LOG_LEVEL": "warn"}
    assert load(written(MINIMAL | {"log.level": '"error"'}), environ=environ).log.level == level


def test_paths_are_normalised() -> None:
    config = load(written(MINIMAL | {"auth.public": '"/demo//x/"', "cluster.prefix": '"/a/"'}), environ={})
    assert (config.auth, config.cluster.prefix) == (Auth(public="demo/x"), "a")


def test_both_spellings_may_agree() -> None:
    config = load(written(JOINING | {"cluster.root": '"a:1"', "cluster.connect": '"a:1"'}), environ={})
    assert config.cluster.root == (Root("a:1"),)


@pytest.mark.parametrize(
    "keys, http, https",
    [
        ({}, "[::]:7", None),
        ({"web.http.listen": '"[::]:8"'}, "[::]:8", None),
        ({"web.https.listen": '"[::]:9"'}, None, "[::]:9"),
        ({"web.http.listen": '"[::]:8"', "web.https.listen": '"[::]:9"'}, "[::]:8", "[::]:9"),
    ],
)
def test_where_http_listens(keys: dict[str, str], http: str | None, https: str | None) -> None:
    files = {"web.https.cert": '"a.pem"', "web.https.key": '"b.pem"'} if https else {}
    config = load(written(MINIMAL | {"server.listen": '"[::]:7"'} | keys | files), environ={})
    assert config.http_listen == (Address.parse(http) if http else None)
    assert config.https_listen == (Address.parse(https) if https else None)


def test_limits_and_quic_from_the_file() -> None:
    keys = {
        "limits.sessions": "5",
        "limits.cache_age": "2",
        "limits.linger": "0",
        "limits.peers": "3",
        "server.quic.keep_alive": "0",
        "server.quic.congestion": '"bbr"',
        "server.quic.fast": "false",
    }
    config = load(written(MINIMAL | keys), environ={})
    assert config.limits == Limits(sessions=5, cache_age=2.0, linger=0.0, peers=3)
    assert config.server.quic == QuicSettings(keep_alive=0, congestion="bbr", fast=False)


def test_a_program_may_build_its_own() -> None:
    config = Config(limits=Limits(sessions=3), server=Server(quic=QuicSettings(idle_timeout=1.0)))
    assert config.limits.sessions == 3
    assert config.server.quic.idle_timeout == 1.0
    with pytest.raises(ValidationError):
        config.limits = Limits()


@pytest.mark.parametrize("cls, ranges", [(QuicSettings, QUIC_RANGES), (Limits, LIMITS_RANGES)])
def test_defaults_lie_within_their_ranges(cls: type[Any], ranges: Mapping[str, object]) -> None:
    names = {field.name for field in dataclasses.fields(cls)}
    assert set(ranges) <= names
    key, table = ("server", "quic") if cls is QuicSettings else (None, "limits")
    values = dataclasses.asdict(cls())
    tables = {key: {table: values}} if key else {table: values}
    Config.model_validate(tables)


# Errors


DURATION = 'expected a number of seconds, or a duration such as "10s", "500ms" or "1m30s"'


def complaint(keys: dict[str, str], **more: Any) -> str:
    """Return the only problem of a file that would be right without `keys`."""
    found = problems(written(MINIMAL | keys), **more)
    assert len(found) == 1, found
    return found[0]


TABLES = {
    "server": ("lisen", "listen"),
    "server.tls": ("certs", "cert"),
    "server.quic": ("idle_timout", "idle_timeout"),
    "client": ("bnd", "bind"),
    "client.tls": ("roots", "root"),
    "log": ("levl", "level"),
    "cluster": ("nodes", "node"),
    "auth": ("pubic", "public"),
    "auth.public": ("subscibe", "subscribe"),
    "web": ("wss", "ws"),
    "web.http": ("lisn", "listen"),
    "web.https": ("certt", "cert"),
    "limits": ("sesions", "sessions"),
}


@pytest.mark.parametrize("table", TABLES)
def test_unknown_key_names_the_nearest(table: str) -> None:
    typo, right = TABLES[table]
    message = f'test.toml: [{table}] {typo}: unknown key, did you mean "{right}"?'
    base = dict(MINIMAL)
    if table == "auth.public":
        del base[table]
    assert problems(written(base | {f"{table}.{typo}": '"foo"'})) == [message]


@pytest.mark.parametrize(
    "key, message",
    [
        ("srever.listen", "[srever]: unknown table, did you mean [server]?"),
        (
            "zzz.listen",
            "[zzz]: unknown table, known are [server], [client], [log], [cluster], [auth], [web], [internal], [limits]",
        ),
        ("limitz", 'limitz: unknown key, did you mean "limits"?'),
        ("server.generate", "[server] generate: unknown key here, it belongs in [server.tls]"),
        ("auth.cert", "[auth] cert: unknown key here, it belongs in [server.tls] or [web.https]"),
        ("log.zzz", "[log] zzz: unknown key, known are level"),
        ("auth.subscribe", "[auth] subscribe: unknown key here, it belongs in [auth.public]"),
        ("auth.keydir", '[auth] keydir: unknown key, did you mean "key_dir"?'),
    ],
)
def test_unknown_elsewhere(key: str, message: str) -> None:
    assert complaint({key: '"foo"'}) == f"test.toml: {message}"


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("server.listen", '"foo"', '[server] listen = "foo": expected host:port, e.g. "[::]:443"'),
        ("server.listen", "443", '[server] listen = 443: expected host:port, e.g. "[::]:443"'),
        (
            "server.listen",
            '"::1:443"',
            '[server] listen = "::1:443": expected brackets around an IPv6 address, e.g. "[::1]:443"',
        ),
        (
            "client.bind",
            '"[::]:70000"',
            '[client] bind = "[::]:70000": expected a port from 0 to 65535 after the last colon',
        ),
        ("server.version", "[]", '[server] version = []: expected at least one version, e.g. "moq-lite-06"'),
        ("server.version", "[6]", "[server] version = [6]: expected a version name or a list of them"),
        (
            "server.tls.generate",
            '"a b"',
            '[server.tls] generate = "a b": expected a host name or IP address, e.g. "localhost"',
        ),
        (
            "client.tls.root",
            '["a.pem", ""]',
            '[client.tls] root = ["a.pem", ""]: expected the path of a file, e.g. "cert.pem"',
        ),
        (
            "client.tls.disable_verify",
            '"true"',
            '[client.tls] disable_verify = "true": expected true or false',
        ),
        (
            "log.level",
            '"loud"',
            '[log] level = "loud": expected one of "error", "warn", "info", "debug" or "trace"',
        ),
        (
            "cluster.connect",
            "5",
            (
                '[cluster] connect = 5: expected a relay to join, e.g. "relay.example.com:4443", or a list of them'
            ),
        ),
        (
            "cluster.node",
            '"https://a:1/"',
            (
                '[cluster] node = "https://a:1/": '
                'expected host or host:port without a scheme, e.g. "relay.example.com:4443"'
            ),
        ),
        *(
            (
                "cluster.node",
                f'"{node}"',
                (
                    f'[cluster] node = "{node}": '
                    'expected host or host:port without a scheme, e.g. "relay.example.com:4443"'
                ),
            )
            for node in ("", "a b", "a:0", "a:70000", "[fe80::1%eth0]:1", "a/b", "..", "x" * 64)
        ),
        ("cluster.mesh", '"no"', '[cluster] mesh = "no": expected true or false'),
        ("cluster.id", '"7"', '[cluster] id = "7": expected a whole number'),
        ("cluster.id", "true", "[cluster] id = true: expected a whole number"),
        ("cluster.id", "1.0", "[cluster] id = 1.0: expected a whole number"),
        ("cluster.node", "5", "[cluster] node = 5: expected a string in quotes"),
        ("cluster.node", "2026-11-22", "[cluster] node = 2026-11-22: expected a string in quotes"),
        (
            "cluster.prefix",
            '"/"',
            '[cluster] prefix = "/": expected a broadcast path, e.g. "internal/origins"',
        ),
        ("web.ws", "1", "[web] ws = 1: expected true or false"),
        (
            "server.quic.congestion",
            '"vegas"',
            '[server.quic] congestion = "vegas": expected one of "cubic", "reno" or "bbr"',
        ),
        (
            "server.quic.idle_timeout",
            "0",
            "[server.quic] idle_timeout = 0: expected a number from 0.1 to 3600",
        ),
        (
            "server.quic.idle_timeout",
            "nan",
            "[server.quic] idle_timeout = nan: expected a number from 0.1 to 3600",
        ),
        ("server.quic.keep_alive", "-1", "[server.quic] keep_alive = -1: expected a number from 0 to 3600"),
        (
            "server.quic.keep_alive",
            "10",
            "[server.quic] keep_alive = 10.0: expected less than idle_timeout (10), or 0 to send none",
        ),
        (
            "server.quic.max_datagram_size",
            "1199",
            "[server.quic] max_datagram_size = 1199: expected a whole number from 1200 to 65507",
        ),
        (
            "server.quic.max_datagram_size",
            "65508",
            "[server.quic] max_datagram_size = 65508: expected a whole number from 1200 to 65507",
        ),
        ("server.quic.fast", "1", "[server.quic] fast = 1: expected true or false"),
        (
            "server.quic.max_streams_uni",
            "1.5",
            "[server.quic] max_streams_uni = 1.5: expected a whole number",
        ),
        ("limits.sessions", "0", "[limits] sessions = 0: expected a whole number from 1 to 1000000"),
        ("limits.sessions", "true", "[limits] sessions = true: expected a whole number"),
        ("limits.cache_age", "inf", "[limits] cache_age = inf: expected a number from 0.001 to 86400"),
        ("limits.linger", "-0.1", "[limits] linger = -0.1: expected a number from 0 to 3600"),
        ("limits.linger", "3601", "[limits] linger = 3601: expected a number from 0 to 3600"),
        ("limits.peers", "0", "[limits] peers = 0: expected a whole number from 1 to 1000000"),
        *(
            ("limits.cache_age", f'"{text}"', f'[limits] cache_age = "{text}": {DURATION}')
            for text in ("5", "5 s s", "s", "-5s", "5S", "5y", "5s!", "1e3s", "", "9" * 40 + "s")
        ),
        ("limits.cache_age", '"2d"', "[limits] cache_age = 172800.0: expected a number from 0.001 to 86400"),
        (
            "limits.cache_age",
            "true",
            '[limits] cache_age = true: expected a number of seconds, or a duration such as "10s"',
        ),
        ("limits.sessions", '"5s"', '[limits] sessions = "5s": expected a whole number'),
        ("limits.message", "10", "[limits] message = 10: expected a whole number from 4096 to 16777216"),
        ("web.https", '"[::]:1"', '[web] https = "[::]:1": expected a table, [web.https]'),
        ("limits", "3", "limits = 3: expected a table, [limits]"),
    ],
)
def test_a_wrong_value(key: str, value: str, message: str) -> None:
    assert complaint({key: value}) == f"test.toml: {message}"


@pytest.mark.parametrize(
    "keys, message",
    [
        (
            {"server.tls.cert": '["a.pem", "b.pem"]', "server.tls.key": '"a.pem"'},
            "[server.tls]: 2 certificates but 1 key: expected one key for each certificate, in the same order",
        ),
        (
            {"server.tls.key": '"a.pem"'},
            "[server.tls]: no certificates but 1 key: expected one key for each certificate, in the same order",
        ),
        (
            {"server.tls.cert": '"none.pem"', "server.tls.key": '"a.pem"'},
            '[server.tls] cert = "none.pem": no such file; a relative path starts at the current directory',
        ),
        (
            {"server.tls.cert": '"a.pem"', "server.tls.key": '"folder"'},
            '[server.tls] key = "folder": is a directory, expected a file',
        ),
        ({"client.tls.root": '"/none.pem"'}, '[client.tls] root = "/none.pem": no such file'),
        (
            {"web.https.listen": '"[::]:1"', "web.https.cert": '"a.pem"'},
            '[web.https]: needs listen, cert and key together: add key = "key.pem"',
        ),
        (
            {"web.https.key": '"a.pem"'},
            '[web.https]: needs listen, cert and key together: add listen = "[::]:443" and cert = "cert.pem"',
        ),
        (
            {
                "web.https.listen": '"[::]:1"',
                "web.https.cert": '"a.pem"',
                "web.https.key": '"a.pem"',
                "web.http.listen": '"[::]:1"',
            },
            '[web.http] listen = "[::]:1": the same address as [web.https] listen: expected two different ones',
        ),
        (
            {"auth.key": '"root.jwk"', "auth.public": '"/"'},
            (
                '[auth] public = "": would open everything to anyone although key is set: expected a path such as '
                '"anon", or subscribe = "" alone in [auth.public] to let anyone watch, or no key'
            ),
        ),
        (
            {"auth.key_dir": '"keys"', "auth.public": '["a", ""]'},
            (
                '[auth] public = "": would open everything to anyone although key_dir is set: expected a path such '
                'as "anon", or subscribe = "" alone in [auth.public] to let anyone watch, or no key_dir'
            ),
        ),
        (
            {"auth.key": '"root.jwk"', "auth.public": '{subscribe = "", publish = ["", "a"]}'},
            (
                "[auth.public]: would open everything to anyone although key is set: expected a path such as "
                '"anon", or subscribe = "" alone in [auth.public] to let anyone watch, or no key'
            ),
        ),
        (
            {"auth.key": '"root.jwk"', "auth.key_dir": '"keys"'},
            (
                '[auth] key_dir = "keys": key is set as well, expected one; '
                "to move, put the file into the directory as <kid>.jwk"
            ),
        ),
        (
            {"auth.key": '"root.jwk"', "auth.key_dir": '"https://keys.example"'},
            (
                '[auth] key_dir = "https://keys.example": key is set as well, expected one; '
                "to move, put the file beside those at the URL as <kid>.jwk"
            ),
        ),
        (
            {"auth.key_dir": '"none"'},
            (
                '[auth] key_dir = "none": no such directory, expected a directory with one {kid}.jwk for each key; '
                "a relative path starts at the current directory"
            ),
        ),
        (
            {"auth.key_dir": '"/none"'},
            '[auth] key_dir = "/none": no such directory, expected a directory with one {kid}.jwk for each key',
        ),
        (
            {"auth.key_dir": '"root.jwk"'},
            '[auth] key_dir = "root.jwk": is a file, expected a directory with one {kid}.jwk for each key',
        ),
        (
            {"server.qlog_dir": '"none"'},
            (
                '[server] qlog_dir = "none": no such directory, expected one that exists; '
                "a relative path starts at the current directory"
            ),
        ),
        (
            {"server.qlog_dir": '"/none"'},
            '[server] qlog_dir = "/none": no such directory, expected one that exists',
        ),
        (
            {"server.qlog_dir": '"a.pem"'},
            '[server] qlog_dir = "a.pem": is a file, expected a directory',
        ),
        (
            {"cluster.root": '"a"', "cluster.connect": '["b"]', "cluster.token": '"a.pem"'},
            '[cluster] root = "a" and connect = ["b"]: two names for the same thing, expected one',
        ),
    ],
)
def test_combinations(keys: dict[str, str], message: str) -> None:
    assert complaint(keys) == f"test.toml: {message}"


def test_nothing_to_prove_itself_with() -> None:
    assert problems(written({"auth.public": '"anon"'})) == [
        (
            'test.toml: [server.tls]: no certificate: add cert = "cert.pem" and key = "key.pem", '
            'or generate = "localhost" for a self-signed one'
        )
    ]


def test_nobody_could_connect() -> None:
    [message] = problems(written({"server.tls.generate": '"localhost"'}))
    assert message.startswith(
        "test.toml: [auth]: none of key, key_dir, public is set, so nobody could connect: add "
    )
    for part in ('key = "root.jwk"', 'key_dir = "keys"', 'public = "anon"'):
        assert part in message


def test_a_file_that_may_not_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)
    for key, name in (("key", "root.jwk"), ("key_dir", "keys")):
        message = f'[auth] {key} = "{name}": may not be read by this user; check its permissions'
        assert complaint({f"auth.{key}": f'"{name}"'}) == f"test.toml: {message}"
    message = '[server] qlog_dir = "folder": may not be written by this user; check its permissions'
    assert complaint({"server.qlog_dir": '"folder"'}) == f"test.toml: {message}"


def test_the_origin_of_a_value_is_named() -> None:
    assert complaint({}, environ={"MOQ_SERVER_LISTEN": "x"}).startswith(
        'environment variable MOQ_SERVER_LISTEN: [server] listen = "x": expected '
    )
    assert complaint({}, flags=[("--listen", "x")]).startswith('--listen: [server] listen = "x": expected ')
    assert complaint({}, environ={"MOQ_WEB_WS": "maybe"}) == (
        'environment variable MOQ_WEB_WS: [web] ws = "maybe": expected true or false'
    )
    assert complaint({}, flags=[("--auth-key", "none.jwk")]) == (
        '--auth-key: [auth] key = "none.jwk": no such file; a relative path starts at the current directory'
    )


def test_two_spellings_at_odds() -> None:
    token = {"cluster.token": '"a.pem"'}
    assert complaint(token, flags=[("--cluster-root", "a"), ("--cluster-connect", "b")]) == (
        '--cluster-root = "a" and --cluster-connect = "b": two flags for the same option, [cluster] root; expected one'
    )
    assert complaint({}, environ={"MOQ_CLUSTER_NODE": "a", "MOQ_CLUSTER_ADVERTISE": "b"}) == (
        'MOQ_CLUSTER_NODE = "a" and MOQ_CLUSTER_ADVERTISE = "b": '
        "two environment variables for the same option, [cluster] node; expected one"
    )


def test_all_problems_are_listed() -> None:
    file = written(
        {
            "server.lisen": '"a"',
            "server.listen": '"a"',
            "server.tls.cert": '"none.pem"',
            "server.quic.keep_alive": "-1",
            "limits.tracks": "0",
        }
    )
    found = "\n".join(problems(file, environ={"MOQ_CLUSTER_ROOT": "a:b"}))
    for part in (
        "lisen:",
        "listen =",
        "1 certificate but no keys",
        "none.pem",
        "keep_alive",
        "tracks",
        "[auth]",
        "CLUSTER",
    ):
        assert part in found
    assert len(found.splitlines()) == 8


def test_consequences_are_not_listed() -> None:
    """A mistyped or invalid key explains what is missing because of it."""
    typo = {"server.tls.generat": '"localhost"', "auth.pubic": '""'}
    assert problems(written(typo)) == [
        'test.toml: [server.tls] generat: unknown key, did you mean "generate"?',
        'test.toml: [auth] pubic: unknown key, did you mean "public"?',
    ]
    for auth in ({"auth.public": "5"}, {"auth.public.publish": "5"}, {"auth.public.publsh": '"a"'}):
        assert len(problems(written({"server.tls.generate": '"a b"'} | auth))) == 2


@pytest.mark.parametrize("option", [option for option in OPTIONS if option.secret], ids=lambda o: o.path)
@pytest.mark.parametrize(
    "secret",
    [
        "eyJhbGciOiJIUzI1NiIsImtleV9vcHMiOlsic2lnbiIsInZlcmlmeSJdLCJrIjoiYWJj",
        "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3I",
        "/c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3I",
        "eyJhbGciOiJIUzI1NiJ9.eyJyb290IjoiIn0.c2lnbmF0dXJl",
        "x" * 5000,
    ],
)
def test_a_secret_in_the_wrong_place_is_not_repeated(option: Option, secret: str) -> None:
    for found in (
        problems(written(MINIMAL | {option.path: f'"{secret}"'})),
        problems(written(MINIMAL | {option.path: f'["{secret}"]'})),
        problems(written(MINIMAL), environ={option.env[0]: secret}),
        problems(written(MINIMAL), flags=[(option.flags[0], secret)]),
    ):
        assert len(found) == 1
        assert f"[{option.table}] {option.keys[-1]}" in found[0]
        assert secret[:12] not in found[0]


def test_a_long_path_of_a_key_in_an_existing_folder_is_shown(tmp_path: Path) -> None:
    assert str(tmp_path / "none.jwk") in complaint({"auth.key": f'"{tmp_path}/none.jwk"'})


# Cluster

TARGET = (
    'expected host, host:port or a URL such as "https://relay.example.com:4443" or "moqt://relay.example.com", '
    "without a user and #, and with nothing but ?jwt=TOKEN behind its path"
)
HOP = "expected a whole number from 1 to 4611686018427387903, another one for each relay"


@pytest.mark.parametrize(
    "target",
    [
        "relay",
        "relay.example.com:4443",
        "10.0.0.1",
        "[2001:db8::1]",
        "[::1]:443",
        "https://relay.example.com",
        "https://relay.example.com:4443/",
        "HTTPS://relay/a/b%20c",
        "moqt://[::1]:443",
        "moqt://relay/room",
    ],
)
def test_a_relay_to_join(target: str) -> None:
    for toml in (f'"{target}"', f'["{target}"]'):
        assert load(written(JOINING | {"cluster.root": toml}), environ={}).cluster.root == (Root(target),)


@pytest.mark.parametrize(
    "target",
    [
        "",
        " ",
        "a b",
        "a:0",
        "https://a:0/",
        "a:0x",
        "a:70000",
        "a/b",
        "a/",
        "::1",
        "http://a",
        "wss://a",
        "https://",
        "https:///x",
        "https:a",
        "https://a:x/",
        "https://a/b c",
        "https://a/\u00e9",
        "https://a/\\n",
        "https://a://b",
        "moqt//a",
    ],
)
def test_what_is_no_relay_to_join(target: str) -> None:
    found = complaint({"cluster.root": f'"{target}"'})
    assert found.startswith('test.toml: [cluster] root = "')
    assert found.endswith(f": {TARGET}")


@pytest.mark.parametrize(
    "target",
    [
        "https://me:pa55@relay/",
        "https://relay/?jwt=pa55",
        "https://relay?jwt=pa55",
        "https://relay/#pa55",
        "htps://relay/?jwt=pa55",
        "relay/?jwt=pa55",
        "relay:443?jwt=pa55",
        "me:pa55@relay",
    ],
)
def test_a_password_or_token_in_a_target_is_not_repeated(target: str) -> None:
    for found in (
        complaint({"cluster.root": f'["relay", "{target}"]'}),
        complaint({"cluster.connect": f'"{target}"'}),
        complaint({}, environ={"MOQ_CLUSTER_CONNECT": target}),
        complaint({}, flags=[("--cluster-root", target)]),
        complaint({"cluster.node": f'"{target}"'}),
        *problems(written(JOINING), flags=[("--cluster-root", target), ("--cluster-connect", "a")]),
        *problems(written(JOINING | {"cluster.root": f'"{target}"', "cluster.connect": '"a"'})),
    ):
        assert "pa55" not in found


def test_several_roots() -> None:
    expected = (Root("a:1"), Root("b"), Root("moqt://c"))
    config = load(written(JOINING | {"cluster.connect": '["a:1", "b", "moqt://c", "b"]'}), environ={})
    assert config.cluster.root == expected
    environ = {"MOQ_CLUSTER_CONNECT": "a:1, b,moqt://c,"}
    assert load(written(JOINING), environ=environ).cluster.root == expected
    flags = [("--cluster-connect", "a:1"), ("--cluster-connect", "b,moqt://c")]
    assert load(written(JOINING | {"cluster.root": '"x"'}), flags, {}).cluster.root == expected
    assert load(written(MINIMAL | {"cluster.root": "[]"}), environ={}).cluster.root == ()


@pytest.mark.parametrize("text", ["0", "-1", str(1 << 62), "9" * 40])
def test_an_id_that_no_list_of_hops_can_hold(text: str) -> None:
    assert complaint({"cluster.id": text}).endswith(f": {HOP}")
    for found in (
        complaint({}, flags=[("--cluster-id", text)]),
        complaint({}, environ={"MOQ_CLUSTER_ID": text}),
    ):
        assert "[cluster] id = " in found
        assert "expected a whole number" in found


@pytest.mark.parametrize("text", ["x", "1.5", "0x10", "1_000", "\u0663", "", " "])
def test_an_id_that_is_no_number(text: str) -> None:
    assert complaint({}, flags=[("--cluster-id", text)]) == (
        f'--cluster-id: [cluster] id = "{text}": expected a whole number'
    )


def test_the_root_may_be_told_that_it_is_the_root() -> None:
    """All relays of a cluster may have the same list, whatever way each writes its own name."""
    for root, node in (
        ("a.example", "a.example"),
        ("a.example:443", "a.example"),
        ("https://A.example/", "a.example"),
    ):
        config = load(
            written(MINIMAL | {"cluster.root": f'"{root}"', "cluster.node": f'"{node}"'}), environ={}
        )
        assert config.cluster.others == ()
        assert config.cluster.role() == "root of a cluster as a.example"
    two = {"cluster.root": '["a:1", "b:1"]', "cluster.node": '"a:1"'}
    assert load(written(JOINING | two), environ={}).cluster.others == (Root("b:1"),)


@pytest.mark.parametrize(
    "keys",
    [
        {"cluster.root": '"a"'},
        {"cluster.connect": '["moqt://a"]'},
        {"cluster.root": '"a:1"', "cluster.node": '"a:2"'},
        {"cluster.root": '["a:1", "b"]', "cluster.advertise": '"a:1"'},
    ],
)
def test_who_joins_may_have_no_token(keys: dict[str, str]) -> None:
    config = load(written(MINIMAL | keys), environ={})
    assert config.cluster.token is None
    assert config.cluster.others
    assert load(written(JOINING | keys), environ={}).cluster.token == Path("a.pem")


TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJyb290IjoiIn0.secret_-1"


@pytest.mark.parametrize(
    ("toml", "roots"),
    [
        ('[{ url = "https://a", token = "a.pem" }]', (Root("https://a", token=Path("a.pem")),)),
        ('{ url = "a:1" }', (Root("a:1"),)),
        (f'["b", {{ url = "a:1", token = "{TOKEN}" }}]', (Root("b"), Root("a:1", jwt=TOKEN))),
        (f'"https://a/x?jwt={TOKEN}"', (Root("https://a/x", jwt=TOKEN),)),
        (f'[{{ url = "moqt://a?jwt={TOKEN}" }}, "b"]', (Root("moqt://a", jwt=TOKEN), Root("b"))),
        ('"https://a/?jwt="', (Root("https://a/"),)),
        ('["a", { url = "a" }]', (Root("a"),)),
    ],
)
def test_a_relay_to_join_may_have_a_token_of_its_own(toml: str, roots: tuple[Root, ...]) -> None:
    for name in ("root", "connect"):
        config = load(written(MINIMAL | {f"cluster.{name}": toml}), environ={})
        assert config.cluster.root == roots
        assert TOKEN not in f"{config!r} {config.cluster.role()}"


@pytest.mark.parametrize(
    ("toml", "fault"),
    [
        (
            '[{ url = "a", tokn = "a.pem" }]',
            "expected url and token in the table of a relay and nothing else, ",
        ),
        ('[{ token = "a.pem" }]', "expected a table with url and perhaps token, both strings in quotes, "),
        (
            '[{ url = "a", token = 5 }]',
            "expected a table with url and perhaps token, both strings in quotes, ",
        ),
        (
            '[{ url = "a", token = "" }]',
            "expected a table with url and perhaps token, both strings in quotes, ",
        ),
        ('[{ url = ["a"] }]', "expected a table with url and perhaps token, both strings in quotes, "),
        ('[{ url = "http://a" }]', TARGET),
        (f'["a?jwt={TOKEN}"]', TARGET),
        (f'["https://a?jwt={TOKEN}&x=1"]', TARGET),
        (f'["https://a?token={TOKEN}"]', TARGET),
        (f'[{{ url = "https://a?jwt={TOKEN}", token = "a.pem" }}]', "expected one token for a relay, "),
        (f'["https://a", "https://a?jwt={TOKEN}"]', "https://a is there twice with different tokens, "),
        ("[5]", 'expected a relay to join, e.g. "relay.example.com:4443", or a list of them'),
        ('[{ url = "a", token = "none.jwt" }]', "no such file; "),
    ],
)
def test_what_is_no_relay_with_a_token(toml: str, fault: str) -> None:
    found = complaint({"cluster.root": toml})
    assert found.startswith("test.toml: [cluster] root")
    assert f": {fault}" in found
    assert TOKEN not in found
    assert "secret" not in found


def test_a_token_that_is_mistyped_or_not_there() -> None:
    keys = {"cluster.root": '"a"', "cluster.tokn": '"a.pem"'}
    assert complaint(keys) == 'test.toml: [cluster] tokn: unknown key, did you mean "token"?'
    assert complaint({"cluster.root": '"a"', "cluster.token": '"none.jwt"'}) == (
        'test.toml: [cluster] token = "none.jwt": no such file; a relative path starts at the current directory'
    )


# Access


@pytest.mark.parametrize(
    "url, kept",
    [
        ("https://keys.example.com/moq/", "https://keys.example.com/moq"),
        (" HTTPS://Keys.example:8443 ", "https://Keys.example:8443"),
        ("https://[2001:db8::1]:1/a/b", "https://[2001:db8::1]:1/a/b"),
        ("https://keys.example/a@b", "https://keys.example/a@b"),
        ("http://localhost/", "http://localhost"),
        ("http://LOCALHOST:80/k", "http://LOCALHOST:80/k"),
        ("http://127.8.9.10:1", "http://127.8.9.10:1"),
        ("http://[::1]/k", "http://[::1]/k"),
    ],
)
def test_the_url_of_a_key_server(url: str, kept: str) -> None:
    auth = load(written(MINIMAL | {"auth.key_dir": f'"{url}"'}), environ={}).auth
    assert (auth.key_url, auth.key_directory) == (kept, None)


@pytest.mark.parametrize("path", ["keys", "./keys/", "https", "c:/keys", "a:b"])
def test_a_directory_of_keys(path: str) -> None:
    auth = Auth(key_dir=path)
    assert (auth.key_url, auth.key_directory) == (None, Path(path))


def test_no_keys() -> None:
    assert (Auth().key_url, Auth().key_directory) == (None, None)


HTTPS_OR_DIRECTORY = 'expected a directory, e.g. "keys", or a URL that starts with https://'
EXAMPLE = 'e.g. "https://keys.example.com/moq"'


@pytest.mark.parametrize(
    "value, message",
    [
        ("", 'expected the path of a directory, e.g. "keys", or a URL that starts with https://'),
        (" ", 'expected the path of a directory, e.g. "keys", or a URL that starts with https://'),
        (r"a\u0000b", 'expected the path of a directory, e.g. "keys", or a URL that starts with https://'),
        ("ftp://a/b", HTTPS_OR_DIRECTORY),
        ("file:///keys", HTTPS_OR_DIRECTORY),
        ("file:/keys", HTTPS_OR_DIRECTORY),
        ("s3://bucket/keys", HTTPS_OR_DIRECTORY),
        ("htps://a", HTTPS_OR_DIRECTORY),
        ("https://", f"expected a host behind https://, {EXAMPLE}"),
        ("https:///keys", f"expected a host behind https://, {EXAMPLE}"),
        ("https:keys.example", f"expected a host behind https://, {EXAMPLE}"),
        ("https://:443/keys", f"expected a host behind https://, {EXAMPLE}"),
        ("https://a:x/keys", f"expected a host behind https://, {EXAMPLE}"),
        ("https://a:70000/keys", f"expected a host behind https://, {EXAMPLE}"),
        ("https://::1/keys", f"expected a host behind https://, {EXAMPLE}"),
        ("http://a b/", f"expected a URL without spaces and control characters, {EXAMPLE}"),
        (r"https://a\u0000/", f"expected a URL without spaces and control characters, {EXAMPLE}"),
        (r"https://a\t/", f"expected a URL without spaces and control characters, {EXAMPLE}"),
    ],
)
def test_what_is_no_place_for_keys(value: str, message: str) -> None:
    found = complaint({"auth.key_dir": f'"{value}"'})
    assert found == f'test.toml: [auth] key_dir = "{value}": {message}'


@pytest.mark.parametrize(
    "url",
    [
        "http://keys.example",
        "http://10.0.0.1:80/",
        "http://128.0.0.1",
        "http://localhost.example",
        "http://[::2]/",
    ],
)
def test_keys_do_not_come_over_plain_http(url: str) -> None:
    assert complaint({"auth.key_dir": f'"{url}"'}) == (
        f'test.toml: [auth] key_dir = "{url}": expected https://, because whoever can change keys on their way can '
        "admit anybody; http:// is for this machine only, e.g. localhost"
    )


@pytest.mark.parametrize(
    "url, wanted",
    [
        ("https://me:pa55@keys.example/", "without a user name or password"),
        ("http://me:pa55@localhost/", "without a user name or password"),
        (" https://pa55@keys.example/", "without a user name or password"),
        ("https:me:pa55@keys.example", "without a user name or password"),
        ("https://me:pa55/@keys.example", "a host behind https://"),
        ("https://me:pa?pa55@keys.example", "without a user name or password"),
        ("ftp://me:pa55@keys.example/", "a URL that starts with https://"),
        ("//me:pa55@keys.example/", "no such directory"),
        ("https//me:pa55@keys.example/", "no such directory"),
        ("https://keys.example/?sig=pa55", "without ? and #"),
        ("https://keys.example?sig=pa55@x", "without"),
        ("https://keys.example/#pa55", "without ? and #"),
    ],
)
def test_what_a_url_may_hide_is_not_repeated(url: str, wanted: str) -> None:
    for found in (
        complaint({"auth.key_dir": f'"{url}"'}),
        complaint({}, environ={"MOQ_AUTH_KEY_DIR": url}),
        complaint({}, flags=[("--auth-key-dir", url)]),
    ):
        assert "[auth] key_dir = " in found
        assert wanted in found
        assert "pa55" not in found
        assert "me:" not in found
    # As the path of one key, too.
    assert "pa55" not in complaint({"auth.key": f'"{url}"'})


def test_a_program_does_not_print_the_password_either() -> None:
    with pytest.raises(ValidationError) as caught:
        Auth(key_dir="https://me:pa55@keys.example/")
    assert "without a user name or password" in str(caught.value)
    assert "pa55" not in str(caught.value)


def test_key_dir_is_text() -> None:
    assert complaint({"auth.key_dir": "5"}) == "test.toml: [auth] key_dir: expected a string in quotes"


def public(toml: str | None = None, environ: Mapping[str, str] | None = None, **flags: str) -> Public | None:
    """Return what is public with `public = toml` in the file and flags such as `public_subscribe`."""
    keys = {"server.tls.generate": '"localhost"', "auth.key": '"root.jwk"'}
    file = written(keys if toml is None else keys | {"auth.public": toml})
    pairs = [(f"--auth-{name.replace('_', '-')}", text) for name, text in flags.items()]
    return load(file, pairs, environ or {}).auth.public


@pytest.mark.parametrize(
    "toml, subscribe, publish",
    [
        ('"anon"', ("anon",), ("anon",)),
        ('["demo", "anon"]', ("anon", "demo"), ("anon", "demo")),
        ('["/a/b/", "a", "a//b/c", "a-b"]', ("a", "a-b"), ("a", "a-b")),
        ('{subscribe = "demo"}', ("demo",), ()),
        ('{publish = ["in", "/in/"]}', (), ("in",)),
        ('{subscribe = "", publish = ["a", "b"]}', ("",), ("a", "b")),
        ('{subscribe = ["x", ""]}', ("",), ()),
        ('["anon/**", "/demo//b/**"]', ("anon", "demo/b"), ("anon", "demo/b")),
        ('{subscribe = "**", publish = "a/**"}', ("",), ("a",)),
        ('"...%20/%2e%2e%2e"', ("...%20/%2e%2e%2e",), ("...%20/%2e%2e%2e",)),
    ],
)
def test_forms_of_public(toml: str, subscribe: tuple[str, ...], publish: tuple[str, ...]) -> None:
    assert public(toml) == Public(subscribe=subscribe, publish=publish)


def test_the_pattern_of_everything_opens_everything() -> None:
    assert load(written(MINIMAL | {"auth.public": '"**"'}), environ={}).auth.public == EVERYTHING
    keyed = {"server.tls.generate": '"localhost"', "auth.key": '"a.pem"', "auth.public": '"**"'}
    assert "would open everything to anyone although key is set" in "".join(problems(written(keyed)))


def test_forms_of_public_in_a_program() -> None:
    assert Auth(public="").public == Auth(public=["a", ""]).public == EVERYTHING
    assert (
        Auth(public="/anon/").public
        == Auth(public=("anon",)).public
        == Public(subscribe=("anon",), publish=("anon",))
    )
    assert Auth(public=EVERYTHING).public is EVERYTHING
    assert EVERYTHING.everywhere
    assert not Public(subscribe=("",)).everywhere
    assert not Public(subscribe=("",), publish=("a",)).everywhere
    nothing: tuple[str | tuple[str, ...] | list[str], ...] = ((), [], "a/..")
    for wrong in nothing:
        with pytest.raises(ValidationError):
            Auth(public=wrong)
    with pytest.raises(ValidationError):
        Public()


@pytest.mark.parametrize("key", ["key", "key_dir"])
@pytest.mark.parametrize("toml", ['{subscribe = ""}', '{publish = ""}', '{subscribe = "", publish = "in"}'])
def test_one_way_may_be_open_everywhere_beside_a_key(key: str, toml: str) -> None:
    value = '"root.jwk"' if key == "key" else '"keys"'
    config = load(written(MINIMAL | {f"auth.{key}": value, "auth.public": toml}), environ={})
    assert config.auth.public is not None
    assert not config.auth.public.everywhere


NO_PATH = 'expected at least one path, e.g. "anon", or "" for everything; without this key nothing is public'
NO_PATTERN = (
    "a pattern with * that is not supported: expected a path, which stands for all below it as well; "
    '"/**" at its end changes nothing'
)
NO_NAME = 'expected names between the slashes, e.g. "anon/demo": "." and ".." and an encoded slash never match a URL'


@pytest.mark.parametrize(
    "toml, message",
    [
        (
            "5",
            '[auth] public = 5: expected a path such as "anon", a list of them, or the table [auth.public]',
        ),
        ('["a", 5]', '[auth] public = ["a", 5]: expected a path such as "anon", or a list of them'),
        ("[]", f"[auth] public = []: {NO_PATH}"),
        (
            "{}",
            '[auth.public]: expected subscribe or publish in this table, or both, e.g. subscribe = "demo"',
        ),
        ("{subscribe = []}", f"[auth.public] subscribe = []: {NO_PATH}"),
        ('{subscribe = "a", publish = []}', f"[auth.public] publish = []: {NO_PATH}"),
        (
            "{publish = true}",
            '[auth.public] publish = true: expected a path such as "anon", or a list of them',
        ),
        ('{subscribe = "", reed = ""}', "[auth.public] reed: unknown key, known are subscribe, publish"),
        *(
            (f'"{path}"', f'[auth] public = "{path}": {NO_NAME}')
            for path in ("..", "./a", "a/./b", "a/../b", "a/%2e%2E", "a%2fb", "a%2Fb/c", "%00")
        ),
        *(
            (f'["a", "{pattern}"]', f'[auth] public = ["a", "{pattern}"]: "{pattern}" is {NO_PATTERN}')
            for pattern in ("*", "*/chat", "a/*", "**/a", "a/**/b", "a*")
        ),
        ('["a", ".."]', f'[auth] public = ["a", ".."]: {NO_NAME}'),
        ('{publish = ["a/.."]}', f'[auth.public] publish = ["a/.."]: {NO_NAME}'),
    ],
)
def test_what_cannot_be_public(toml: str, message: str) -> None:
    assert complaint({"auth.public": toml}) == f"test.toml: {message}"


@pytest.mark.parametrize("path", ["a\udcff", "a\udcff/*"])
def test_a_public_path_that_is_no_text(path: str) -> None:
    assert "expected UTF-8" in complaint({}, environ={"MOQ_AUTH_PUBLIC": path})


@pytest.mark.parametrize(
    "toml", [None, '"x"', '["x", "y"]', '{subscribe = "x"}', '{publish = "x", subscribe = "y"}']
)
def test_public_in_short_replaces_all_of_it(toml: str | None) -> None:
    both = Public(subscribe=("a", "b"), publish=("a", "b"))
    parts = {"MOQ_AUTH_PUBLIC_SUBSCRIBE": "x", "MOQ_AUTH_PUBLIC_PUBLISH": ""}
    assert public(toml, {"MOQ_AUTH_PUBLIC": "b,a"}) == both
    assert public(toml, public="a, b,") == both
    assert public(toml, parts, public="a,b") == both


@pytest.mark.parametrize(
    "toml, publish",
    [
        (None, ()),
        ('"x"', ("x",)),
        ('["x", "y"]', ("x", "y")),
        ('{subscribe = "x"}', ()),
        ('{publish = "x", subscribe = "y"}', ("x",)),
    ],
)
def test_one_way_replaces_that_part_only(toml: str | None, publish: tuple[str, ...]) -> None:
    changed = Public(subscribe=("a", "b"), publish=publish)
    assert public(toml, {"MOQ_AUTH_PUBLIC_SUBSCRIBE": "b,a"}) == changed
    assert public(toml, {"MOQ_AUTH_PUBLIC_SUBSCRIBE": "z"}, public_subscribe="a,b") == changed
    both = public(toml, {"MOQ_AUTH_PUBLIC_SUBSCRIBE": "a,b"}, public_publish="c")
    assert both == Public(subscribe=("a", "b"), publish=("c",))


def test_of_one_source_the_part_has_the_last_word() -> None:
    expected = Public(subscribe=("x",), publish=("x", "y"))
    names = {"MOQ_AUTH_PUBLIC_SUBSCRIBE": "x", "MOQ_AUTH_PUBLIC": "x,y"}
    assert public('"z"', names) == expected
    assert public('"z"', public_subscribe="x", public="x,y") == expected
    assert public('"z"', names, public_publish="p") == Public(subscribe=("x",), publish=("p",))


def test_the_empty_text_opens_everything_and_a_comma_too_many_does_not() -> None:
    assert public(public_subscribe="") == Public(subscribe=("",))
    assert public(environ={"MOQ_AUTH_PUBLIC_PUBLISH": ""}) == Public(publish=("",))
    assert public(public="a,") == public(public=",a,,") == public('"a"')
    assert public(public_subscribe="a", public="b") == Public(subscribe=("a",), publish=("b",))
    flags = [("--tls-generate", "localhost"), ("--auth-public", "a"), ("--auth-public", "")]
    assert load(None, flags, {}).auth == Auth(public="")
    for text in (",", " ", " , "):
        assert (
            complaint({}, flags=[("--auth-public", text)]) == f"--auth-public: [auth] public = []: {NO_PATH}"
        )
        assert complaint({"auth.public": '""'}, environ={"MOQ_AUTH_PUBLIC_PUBLISH": text}) == (
            f"environment variable MOQ_AUTH_PUBLIC_PUBLISH: [auth.public] publish = []: {NO_PATH}"
        )


def test_the_origin_of_a_part_is_named() -> None:
    """A value is quoted as it was given, also after a stronger source has replaced another part of it."""
    flags = [("--auth-public-subscribe", "ok")]
    assert complaint({"auth.public": '".."'}, flags=flags) == f'test.toml: [auth] public = "..": {NO_NAME}'
    assert complaint({}, flags=flags, environ={"MOQ_AUTH_PUBLIC": ".."}) == (
        f'environment variable MOQ_AUTH_PUBLIC: [auth] public = [".."]: {NO_NAME}'
    )
    assert complaint({}, flags=[("--auth-public-subscribe", "..")]) == (
        f'--auth-public-subscribe: [auth.public] subscribe = [".."]: {NO_NAME}'
    )
    # What is no form of `public` at all stays the fault of the file.
    assert complaint({"auth.public": "5"}, flags=flags).startswith("test.toml: [auth] public = 5: expected ")
    keys = {"auth.key": '"root.jwk"', "auth.public": '{subscribe = ""}'}
    assert complaint(keys, flags=[("--auth-public-publish", "")]).startswith(
        "--auth-public-publish: [auth.public]: would open everything to anyone although key is set: "
    )


TOO_LARGE = (
    "too large to be a configuration: expected numbers of 256 bits at most, and no more than 16 tables or lists inside "
    "each other"
)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"[server]\nlisten =\n", "line 2, column 9: not valid TOML: invalid value"),
        (
            b"[server]\nlisten \n",
            "line 2, column 8: not valid TOML: expected '=' after a key in a key/value pair",
        ),
        (b'a = "\xff"\n', "line 1: not UTF-8, expected a TOML file"),
        # Python's own parser raises something else than its error for these.
        (b"a = " + b"[" * 2000, TOO_LARGE),
        (b"[limits]\nframe = " + b"9" * 5000, TOO_LARGE),
        # And these it reads, but no message could show them.
        (b"[limits]\nframe = 0x" + b"f" * 5000, TOO_LARGE),
        (b"[server.tls]\ncert = " + b"[" * 200 + b"]" * 200, TOO_LARGE),
        (b"[" + b"a." * 2000 + b"a]", TOO_LARGE),
    ],
)
def test_what_is_no_toml(content: bytes, message: str) -> None:
    Path("bad.toml").write_bytes(content)
    assert problems("bad.toml") == [f"bad.toml: {message}"]


def test_toml_that_ends_too_early() -> None:
    Path("bad.toml").write_text("[log]\nlevel = 'x")
    [message] = problems("bad.toml")
    assert message.startswith("bad.toml: line 2, column 11: not valid TOML: ")


def test_a_byte_order_mark_does_no_harm() -> None:
    Path("bom.toml").write_bytes(b"\xef\xbb\xbf" + (ROOT / "dev.toml").read_bytes().replace(b"\n", b"\r\n"))
    assert load("bom.toml", environ={}) == load(ROOT / "dev.toml", environ={})


def test_files_that_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert problems("none.toml") == ["none.toml: no such file"]
    assert problems("folder") == ["folder: is a directory, expected a TOML file"]

    def refuse(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert problems("a.pem") == ["a.pem: cannot be read: Permission denied"]


# Documentation


def sections() -> dict[str, list[list[str]]]:
    """Return the cells of the tables of docs/config.md by section."""
    found: dict[str, list[list[str]]] = {}
    rows: list[list[str]] = []
    for line in (ROOT / "docs" / "config.md").read_text().splitlines():
        if line.startswith("## "):
            rows = found.setdefault(line.strip("# `[]"), [])
        elif line.startswith("| `"):
            rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return found


def test_documentation_lists_every_option() -> None:
    documented = sections()
    for option in OPTIONS:
        names = [option.keys[-1], *option.aliases]
        keys, flags, env = (
            ", ".join(f"`{name}`" for name in group) for group in (names, option.flags, option.env)
        )
        plain = option.default in (None, (), NEWEST_FIRST)
        default = option.default_text if plain else f"`{option.default_text}`"
        [row] = [row for row in documented[option.table] if row[0] == keys]
        assert row[1:4] == [flags, env, default]
        assert row[4].replace("`", "").lower() == option.help.lower()
    assert sum(
        len(rows) for table, rows in documented.items() if table not in ("limits", "server.quic")
    ) == len(OPTIONS)


def toml_text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


@pytest.mark.parametrize("table, cls", [("limits", Limits), ("server.quic", QuicSettings)])
def test_documentation_lists_every_field(table: str, cls: type[Any]) -> None:
    rows = {row[0]: row[1] for row in sections()[table]}
    assert rows == {f"`{field.name}`": f"`{toml_text(field.default)}`" for field in dataclasses.fields(cls)}


def test_documentation_gives_the_ranges_of_quic() -> None:
    rows = {row[0].strip("`"): row[2] for row in sections()["server.quic"]}
    for name, (low, high) in QUIC_RANGES.items():
        assert rows[name] == f"{low:g} to {high:.0f}"


# Durations


@pytest.mark.parametrize(
    "toml, wanted",
    [
        ("10", 10.0),
        ("0.25", 0.25),
        ('"10s"', 10.0),
        ('" 10 s "', 10.0),
        ('"500ms"', 0.5),
        ('"1m30s"', 90.0),
        ('"1m 30s"', 90.0),
        ('"1.5min"', 90.0),
        ('"2h"', 7_200.0),
        ('"1h 30m 1s 5ms"', 5_401.005),
        ('"2000000us"', 2.0),
    ],
)
def test_times_are_numbers_or_durations(toml: str, wanted: float) -> None:
    config = load(written(MINIMAL | {"limits.cache_age": toml}), environ={})
    assert config.limits.cache_age == wanted


def test_every_time_takes_a_duration() -> None:
    times = [
        (table, entry.name)
        for table, cls in (("limits", Limits), ("server.quic", QuicSettings))
        for entry in dataclasses.fields(cls)
        if entry.type == "float"
    ]
    assert len(times) > 5
    for table, name in times:
        config: Any = load(written(MINIMAL | {f"{table}.{name}": '"5s"'}), environ={})
        for part in (*table.split("."), name):
            config = getattr(config, part)
        assert config == 5.0
    assert load(written(MINIMAL | {"limits.linger": '"0"'}), environ={}).limits.linger == 0.0


# Whoever comes from moq-relay 0.17


@pytest.mark.parametrize(
    "key, answer",
    [
        ("drain_timeout", "drain_timeout: here it is [limits] drain"),
        ("listen.bind", "[listen] bind: here it is [server] listen"),
        ("listen.tls.cert", "[listen.tls] cert: here it is [server.tls] cert"),
        ("listen.unix.allow.uid", "[listen.unix.allow] uid: not supported"),
        ("connect.tls.insecure", "[connect.tls] insecure: here it is [client.tls] disable_verify"),
        ("connect.race", "[connect] race: not supported"),
        ("listen.nonsense", "[listen] nonsense: unknown key"),
        ("server.bind", "[server] bind: here it is [server] listen"),
        ("server.quic.qlog", "[server.quic] qlog: here it is [server] qlog_dir"),
        ("client.tls.fingerprint", "[client.tls] fingerprint: not supported"),
        ("cluster.linger", "[cluster] linger: here it is [limits] linger"),
        ("quic.receive_window", "[quic] receive_window: here it is [server.quic] connection_window"),
        ("cache.duration", "[cache] duration: here it is [limits] cache_age"),
        ("iroh.enabled", "[iroh] enabled: not supported"),
        (
            "stats.enabled",
            "[stats] enabled: not supported; /metrics and /state of [internal] listen have the figures",
        ),
        ("auth.url", "[auth] url: not supported; tokens are checked with [auth] key or key_dir"),
        ("auth.public_subscribe", "[auth] public_subscribe: here it is [auth.public] subscribe"),
    ],
)
def test_a_key_of_0_17_is_answered(key: str, answer: str) -> None:
    assert complaint({key: '"10s"'}) == f"test.toml: {answer}"


def test_every_answer_names_what_there_is() -> None:
    known = {".".join((*table, name)) for table, names in SCHEMA.items() for name in names}
    for path, entry in FOREIGN.items():
        assert entry.here is None or entry.here in known, path
        # What is there is no other relay's alone.
        assert path not in {place for place in known if tuple(place.split(".")) not in SCHEMA}, path
        for text in (entry.answer, entry.answer_to_flag, entry.answer_to_variable):
            if "public" in text:
                assert "public" in path, "a hint never opens a relay"


def test_what_a_key_of_0_17_explains_is_no_further_problem() -> None:
    file = written(
        {"listen.bind": '"[::]:4443"', "listen.tls.generate": '"localhost"', "auth.url": '"https://a/"'}
    )
    assert set(problems(file)) == {
        "test.toml: [listen] bind: here it is [server] listen",
        "test.toml: [listen.tls] generate: here it is [server.tls] generate",
        "test.toml: [auth] url: not supported; tokens are checked with [auth] key or key_dir",
    }


@pytest.mark.parametrize(
    "name, told",
    [
        ("MOQ_SERVER_LISTN", "unknown, did you mean MOQ_SERVER_LISTEN?"),
        ("MOQ_LISTEN", "here it is MOQ_SERVER_LISTEN"),
        ("MOQ_LISTEN_TLS_KEY", "here it is MOQ_SERVER_TLS_KEY"),
        ("MOQ_SERVER_QUIC_IDLE_TIMEOUT", "here it is [server.quic] idle_timeout in FILE"),
        ("MOQ_DRAIN_TIMEOUT", "here it is [limits] drain in FILE"),
        ("MOQ_IROH_SECRET", "not supported"),
        ("MOQ_AUTH_URL", "not supported; tokens are checked with [auth] key or key_dir"),
        ("MOQ_AUTH_PUBLC", "unknown, did you mean MOQ_AUTH_PUBLIC?"),
        ("MOQ_ZZZ", "unknown; docs/config.md lists those that are used"),
    ],
)
def test_an_unknown_variable_is_named_in_a_warning(name: str, told: str) -> None:
    warnings: list[str] = []
    load(written(MINIMAL), environ={name: "secret", "MOQ_LOG_LEVEL": "info"}, warn=warnings.append)
    assert warnings == [f"environment variable {name} is not used: {told}"]


@pytest.mark.parametrize(
    "name",
    [
        "MOQ_RELAY_SERVICE_HOST",
        "MOQ_RELAY_SERVICE_PORT_QUIC",
        "MOQ_RELAY_PORT",
        "MOQ_RELAY_PORT_443_UDP_ADDR",
        "MOQ",
        "X",
    ],
)
def test_variables_of_others_are_not(name: str) -> None:
    warnings: list[str] = []
    load(written(MINIMAL), environ={name: "x"}, warn=warnings.append)
    assert not warnings


@pytest.mark.parametrize("name", ["--auth-url", "--auth-publisher", "--tls-verify"])
def test_a_hint_never_opens_a_relay(name: str) -> None:
    known = [flag for option in OPTIONS for flag in option.flags]
    assert nearest(name, known) not in {
        "--auth-public",
        "--auth-public-subscribe",
        "--auth-public-publish",
        "--tls-disable-verify",
    }
