"""The messages about wrong keys, values and combinations."""

from __future__ import annotations

from pathlib import Path

import pytest

from relay.cli import summary
from relay.config import ConfigError
from relay.config.load import load
from relay.config.options import Option
from relay.config.tables import OPTIONS
from tests.config.support import (
    DURATION,
    MINIMAL,
    complaint,
    problems,
    written,
)

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
        ("log.zzz", "[log] zzz: unknown key, known are level, format"),
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
        (
            "server.path_aliases",
            '["/moq", "/"]',
            '[server] path_aliases = ["/moq", "/"]: expected another path of URLs than "/", e.g. "/moq"',
        ),
        (
            "server.path_aliases",
            "[5]",
            "[server] path_aliases = [5]: expected a path of URLs or a list of them",
        ),
        (
            "server.path_aliases",
            '"/moq/.."',
            (
                '[server] path_aliases = "/moq/..": expected names between the slashes, e.g. "anon/demo": '
                '"." and ".." and an encoded slash never match a URL'
            ),
        ),
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
        ("server.quic.native", "1", "[server.quic] native = 1: expected true or false"),
        *(
            (
                "server.quic.fast",
                value,
                (
                    "[server.quic] fast: not supported; "
                    "delete the key: all packets take the one engine that there is"
                ),
            )
            for value in ("true", "false", "1")
        ),
        *(
            (
                "server.secret",
                value,
                "[server] secret: expected a text of 16 bytes or more, e.g. from: openssl rand -hex 32",
            )
            for value in ('"fifteen bytes!!"', '""', "16", '["0123456789abcdef"]')
        ),
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


def test_a_secret_is_not_shown() -> None:
    secret = "correct horse battery staple"
    config = load(written(MINIMAL | {"server.secret": f'"{secret}"'}), environ={})
    assert config.server.secret is not None
    assert config.server.secret.get_secret_value() == secret
    for text in (str(config), repr(config.server), *summary(config)):
        assert "horse" not in text
    assert "  secret      set" in summary(config)
    assert load(written(MINIMAL), environ={"MOQ_SERVER_SECRET": secret}).server == config.server
    for found in (
        complaint({"server.secret": '"horse"'}),
        complaint({}, environ={"MOQ_SERVER_SECRET": "horse"}),
        complaint({}, flags=[("--server-secret", "horse")]),
        complaint({"server.secrt": '"horse"'}),
    ):
        assert "horse" not in found


def test_a_long_path_of_a_key_in_an_existing_folder_is_shown(tmp_path: Path) -> None:
    assert str(tmp_path / "none.jwk") in complaint({"auth.key": f'"{tmp_path}/none.jwk"'})


def faults(flags: list[tuple[str, str]], environ: dict[str, str]) -> list[str]:
    try:
        load(written(MINIMAL), flags, environ)
    except ConfigError as error:
        return str(error).splitlines()
    return []


@pytest.mark.parametrize("text", ["x" * 9_000, "a/" * 4_500, "*" * 9_000, ",".join(["y" * 4_500] * 2)])
def test_long_values_are_shortened(text: str) -> None:
    for option in OPTIONS:
        for found in (faults([(option.flags[0], text)], {}), faults([], {option.env[-1]: text})):
            assert all(len(line) < 600 for line in found), option.path


def test_long_names_are_shortened() -> None:
    name = "k" * 9_000
    for keys in ({name: "1"}, {f"server.{name}": "1"}, {f"{name}.a": "1"}):
        assert len(complaint(keys)) < 600
    warnings: list[str] = []
    load(written(MINIMAL), (), {f"MOQ_{name}": "1"}, warn=warnings.append)
    assert len(warnings) == 1
    assert len(warnings[0]) < 600
