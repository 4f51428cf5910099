"""The table [cluster]."""

from __future__ import annotations

from pathlib import Path

import pytest

from relay.config import (
    Root,
    load,
)
from tests.config.support import (
    JOINING,
    MINIMAL,
    complaint,
    problems,
    written,
)

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


def test_a_root_may_have_itself_as_root() -> None:
    """All relays of a cluster may have the same list, however each writes its own name."""
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
