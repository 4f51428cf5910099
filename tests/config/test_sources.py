"""Precedence of defaults, file, environment and flags, and faults of a file."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import SecretStr

from relay.config import (
    Address,
    Auth,
    Config,
    Limits,
    Public,
    QuicSettings,
    Root,
    Server,
    ServerTls,
    load,
)
from relay.config.options import Kind, Option
from relay.config.tables import OPTIONS
from relay.wire.version import ALL_VERSIONS
from tests.config.support import (
    EVERYTHING,
    JOINING,
    MINIMAL,
    ROOT,
    get,
    problems,
    written,
)

BY_PATH = {option.path: option for option in OPTIONS}
NEWEST_FIRST = ALL_VERSIONS

DEFAULTS: dict[str, object] = {
    "server.listen": Address("::", 443),
    "server.version": NEWEST_FIRST,
    "server.path_aliases": (),
    "server.qlog_dir": None,
    "server.secret": None,
    "server.tls.cert": (),
    "server.tls.key": (),
    "server.tls.generate": (),
    "client.bind": Address("::", 0),
    "client.tls.root": (),
    "client.tls.disable_verify": False,
    "log.level": "info",
    "log.format": "text",
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
    "server.path_aliases": ("moq", "moq-relay", "relay/live"),
    "server.qlog_dir": ("folder", "keys", "."),
    "server.secret": ("sixteen bytes it", "öööööööö", "0123456789abcdef" * 4),
    "server.tls.cert": FILES,
    "server.tls.key": FILES,
    "server.tls.generate": ("localhost", "127.0.0.1", "*.example.com"),
    "client.bind": ADDRESSES,
    "client.tls.root": FILES,
    "client.tls.disable_verify": ("true", "false", "true"),
    "log.level": ("error", "warn", "trace"),
    "log.format": ("json", "text", "json"),
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
"""Values for file, environment and flag, each different from the weaker one."""

SURROUNDINGS: dict[str, dict[str, str]] = {
    "server.tls.cert": {"server.tls.key": '"a.pem"'},
    "server.tls.key": {"server.tls.cert": '"a.pem"'},
    "web.https.listen": {"web.https.cert": '"a.pem"', "web.https.key": '"a.pem"'},
    "web.https.cert": {"web.https.listen": '"[::]:1"', "web.https.key": '"a.pem"'},
    "web.https.key": {"web.https.listen": '"[::]:1"', "web.https.cert": '"a.pem"'},
}
"""What an option requires."""

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
    """The value of `text`."""
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
    elif name == "secret":
        value = SecretStr(text)
    elif text in FILES or name == "qlog_dir":
        value = Path(text)
    elif name == "version":
        value = next(version for version in ALL_VERSIONS if version.name_on_wire == text)
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
        base = WITHOUT[option.path]  # no value in place of the table
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
        # Python's parser raises another error for these
        (b"a = " + b"[" * 2000, TOO_LARGE),
        (b"[limits]\nframe = " + b"9" * 5000, TOO_LARGE),
        # no message could show these
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
