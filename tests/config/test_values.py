"""Single values: addresses, lists, booleans, durations, ranges."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from relay.config import (
    Address,
    Auth,
    Config,
    Limits,
    QuicSettings,
    Root,
    Server,
    ServerTls,
    Version,
    load,
)
from relay.config.values import LIMITS_RANGES, QUIC_RANGES
from tests.config.support import (
    EVERYTHING,
    JOINING,
    MINIMAL,
    written,
)


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
        "server.quic.native": "false",
    }
    config = load(written(MINIMAL | keys), environ={})
    assert config.limits == Limits(sessions=5, cache_age=2.0, linger=0.0, peers=3)
    assert config.server.quic == QuicSettings(keep_alive=0, congestion="bbr", native=False)


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
