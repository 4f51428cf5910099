"""The table [auth]."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from relay.config import (
    Auth,
    Public,
    load,
)
from tests.config.support import (
    EVERYTHING,
    MINIMAL,
    complaint,
    problems,
    public,
    written,
)


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
        f'test.toml: [auth] key_dir = "{url}": expected https://, because a key that is changed on its way can '
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
    # as one key's path, too
    assert "pa55" not in complaint({"auth.key": f'"{url}"'})


def test_a_program_does_not_print_the_password_either() -> None:
    with pytest.raises(ValidationError) as caught:
        Auth(key_dir="https://me:pa55@keys.example/")
    assert "without a user name or password" in str(caught.value)
    assert "pa55" not in str(caught.value)


def test_key_dir_is_text() -> None:
    assert complaint({"auth.key_dir": "5"}) == "test.toml: [auth] key_dir: expected a string in quotes"


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
    """Messages quote a value as given, even if a stronger source replaced another part of it."""
    flags = [("--auth-public-subscribe", "ok")]
    assert complaint({"auth.public": '".."'}, flags=flags) == f'test.toml: [auth] public = "..": {NO_NAME}'
    assert complaint({}, flags=flags, environ={"MOQ_AUTH_PUBLIC": ".."}) == (
        f'environment variable MOQ_AUTH_PUBLIC: [auth] public = [".."]: {NO_NAME}'
    )
    assert complaint({}, flags=[("--auth-public-subscribe", "..")]) == (
        f'--auth-public-subscribe: [auth.public] subscribe = [".."]: {NO_NAME}'
    )
    # an invalid form of `public` is always the file's fault
    assert complaint({"auth.public": "5"}, flags=flags).startswith("test.toml: [auth] public = 5: expected ")
    keys = {"auth.key": '"root.jwk"', "auth.public": '{subscribe = ""}'}
    assert complaint(keys, flags=[("--auth-public-publish", "")]).startswith(
        "--auth-public-publish: [auth.public]: would open everything to anyone although key is set: "
    )
