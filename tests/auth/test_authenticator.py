"""The authenticator: every rule of tokens and paths, and every fault of a token."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.auth.authenticator import Authenticator, Keys, KeyServiceError, OneKey, token_of
from relay.auth.claims import CLOCK_SKEW, Claims
from relay.auth.key import LONGEST_TOKEN, Key, KeyFileError, token_kid
from relay.auth.permissions import LONGEST_PATH, Permissions, UnauthorizedError
from relay.auth.throttle import Throttle
from relay.model.path import covers
from tests.auth.support import HEADER, KEY, SECRET, Clock, authenticator, jwk, raw, signed
from tests.sampling import repeats

VECTORS = json.loads((Path(__file__).parents[1] / "wire" / "vectors.json").read_text())["jwt"]
NOW = int(Clock().now)


def run(checked: Authenticator, path: str, query: str) -> Permissions:
    """The answer, without a wait."""
    coroutine = checked.verify(path, query)
    try:
        coroutine.send(None)
    except StopIteration as done:
        found: Permissions = done.value
        return found
    raise AssertionError("verify waited")


def verify(token: str, path: str = "/room", **options: Any) -> Permissions:
    return run(authenticator(**options), path, f"jwt={token}")


def refused(token: str, path: str = "/room", **options: Any) -> str:
    with pytest.raises(UnauthorizedError) as caught:
        verify(token, path, **options)
    assert caught.value.status == 401
    assert token == "" or token not in str(caught.value)
    return str(caught.value)


# --- the golden token ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["key_json", "key_file"])
@pytest.mark.parametrize("case", VECTORS["verify"], ids=lambda case: str(case["path"]))
def test_the_golden_token(form: str, case: dict[str, Any]) -> None:
    golden = authenticator(keys=OneKey(Key.parse(VECTORS[form], "golden")))
    if case["path"] == "/room":  # newer than the vector: a URL above the root keeps the rest of the path
        case = {**case, "root": "room", "publish": ["123/alice"], "subscribe": ["123"]}
        del case["error"]
    if case["path"] == "/room/123/alice/cam":
        case = {**case, "publish": [""]}
    if "error" in case:
        with pytest.raises(UnauthorizedError):
            run(golden, case["path"], "jwt=" + VECTORS["token"])
        return
    permissions = run(golden, case["path"], "jwt=" + VECTORS["token"])
    assert permissions.root == case["root"]
    assert permissions.publish == tuple(case["publish"])
    assert permissions.subscribe == tuple(case["subscribe"])
    assert permissions.expires == VECTORS["claims"]["exp"]
    assert not permissions.cluster


# --- what the peer is told -------------------------------------------------------------------------------------------

GOOD: dict[str, Any] = {"root": "room", "get": ""}


@pytest.mark.parametrize(
    ("path", "query", "told"),
    [
        ("/room", "", "token needed"),
        ("/room", "jwt=", "token needed"),
        ("/room", "jwt=" + signed({**GOOD, "exp": NOW}), "token expired"),
        ("/elsewhere", "jwt=" + signed({**GOOD, "exp": NOW - 1}), "token expired"),
        ("/room", "jwt=" + signed({**GOOD, "nbf": NOW + 60}), "token not valid yet"),
        ("/room", "jwt=" + signed(GOOD, secret=b"x" * 32), "bad token"),
        # only holders of our tokens learn that they expired
        ("/room", "jwt=" + signed({**GOOD, "exp": NOW - 1}, secret=b"x" * 32), "bad token"),
        ("/room", "jwt=a.b.c", "bad token"),
        ("/room", "jwt=a&jwt=b", "bad token"),
        ("/room", "jwt=" + signed({"root": "room"}), "bad token"),
        ("/elsewhere", "jwt=" + signed(GOOD), "not granted"),
        ("/room/..", "jwt=" + signed(GOOD), "bad path"),
        ("/room/..", "", "token needed"),
    ],
)
def test_a_refusal_has_a_word(path: str, query: str, told: str) -> None:
    with pytest.raises(UnauthorizedError) as caught:
        run(authenticator(), path, query)
    assert caught.value.answer == f"unauthorized: {told}"


def test_a_key_server_that_fails_is_no_fault_of_the_token() -> None:
    class Failing(Keys):
        async def find(self, token: str) -> Key:
            raise KeyServiceError("no answer")

    with pytest.raises(KeyServiceError) as caught:
        run(authenticator(keys=Failing()), "/room", "jwt=" + signed(GOOD))
    assert (caught.value.status, caught.value.answer) == (502, "unauthorized: no key at the moment")


# --- what a token gives at a URL -------------------------------------------------------------------------------------

ROOM = {"root": "room/123", "put": "alice", "get": ""}


@pytest.mark.parametrize(
    ("claims", "path", "publish", "subscribe"),
    [
        # the URL is the root
        (ROOM, "/room/123", ("alice",), ("",)),
        (ROOM, "room/123/", ("alice",), ("",)),
        (ROOM, "//room///123//", ("alice",), ("",)),
        ({**ROOM, "root": "/room//123/"}, "/room/123", ("alice",), ("",)),
        ({**ROOM, "put": "//alice/"}, "/room/123", ("alice",), ("",)),
        # deeper: a grant narrows, stays whole, or is lost
        (ROOM, "/room/123/alice", ("",), ("",)),
        (ROOM, "/room/123/bob", (), ("",)),
        (ROOM, "/room/123/alice/cam", ("",), ("",)),
        (ROOM, "/room/123/alicex", (), ("",)),
        ({"root": "a", "put": ["b/c", "d"], "get": []}, "/a/b", ("c",), ()),
        # above: the rest of the root becomes a prefix
        (ROOM, "/room", ("123/alice",), ("123",)),
        (ROOM, "/", ("room/123/alice",), ("room/123",)),
        (ROOM, "", ("room/123/alice",), ("room/123",)),
        # beside
        (ROOM, "/secret", None, None),
        (ROOM, "/room/1234", None, None),
        (ROOM, "/room/12", None, None),
        (ROOM, "/roo", None, None),
        # no case folding, no decoding
        (ROOM, "/ROOM/123", None, None),
        (ROOM, "/Room/123", None, None),
        (ROOM, "/room%2f123", None, None),
        (ROOM, "/room/123%20", None, None),
        ({"root": "caf\u00e9", "get": ""}, "/cafe\u0301", None, None),
        ({"root": "caf\u00e9", "get": ""}, "/caf\u00e9/x", (), ("",)),
        ({"root": "caf\u00e9", "get": ""}, "/caf\u00e9\u00e9", None, None),
        ({"root": "a b", "get": ""}, "/a%20b", None, None),
        ({"root": "a%20b", "get": ""}, "/a%20b/c", (), ("",)),
        # one of both is enough, none is not
        ({"root": "a", "put": ""}, "/a/x", ("",), ()),
        ({"root": "a", "put": "x"}, "/a/y", None, None),
        ({"root": "a"}, "/a", None, None),
        ({"root": "a", "put": [], "get": []}, "/a", None, None),
        # no root
        ({"get": ["b", "b/c", "a"]}, "/", (), ("a", "b")),
        ({"get": ["b", "b/c", ""]}, "/x/y", (), ("",)),
        # the spelling of the documentation
        ({"root": "room", "pub": "alice", "sub": ""}, "/room", ("alice",), ("",)),
        ({"root": "room", "pub": ["a", "b"]}, "/room", ("a", "b"), ()),
        ({"root": "room", "sub": ["a"]}, "/room", (), ("a",)),
        ({"root": "room", "put": "a", "get": "", "pub": ["/a/"], "sub": [""]}, "/room", ("a",), ("",)),
        ({"root": "room", "put": "a", "pub": "a"}, "/room", ("a",), ()),
    ],
)
def test_what_a_token_gives_at_a_url(
    claims: dict[str, Any], path: str, publish: tuple[str, ...] | None, subscribe: tuple[str, ...] | None
) -> None:
    if publish is None:
        refused(signed(claims), path)
        return
    permissions = verify(signed(claims), path)
    assert (permissions.publish, permissions.subscribe) == (publish, subscribe)
    assert permissions.root == "/".join(part for part in path.split("/") if part)


@pytest.mark.parametrize(
    "claims",
    [
        {"put": "a", "pub": "b"},
        {"put": ["a"], "pub": ["a", "b"]},
        {"get": "", "pub": "x"},
        {"get": "", "pub": "x", "sub": ""},
    ],
)
def test_two_spellings_that_say_different_things_are_refused(claims: dict[str, Any]) -> None:
    assert "spelling" in refused(signed(claims), "/")


@pytest.mark.parametrize("subject", ["someone", "", "a", "anon/**", "*", 7, None, ["a", "b"], {"id": 1}])
def test_beside_put_or_get_sub_is_the_subject_whatever_it_says(subject: Any) -> None:
    for grants, publish, subscribe in (
        ({"put": "a"}, ("a",), ()),
        ({"get": "b"}, (), ("b",)),
        ({"put": "a", "get": "b"}, ("a",), ("b",)),
        ({"put": "a", "get": "b", "pub": "a"}, ("a",), ("b",)),
        ({"put": [], "get": "b"}, (), ("b",)),
    ):
        permissions = verify(raw(HEADER, json.dumps({**grants, "sub": subject}).encode()), "/")
        assert (permissions.publish, permissions.subscribe) == (publish, subscribe)
    refused(raw(HEADER, json.dumps({"put": [], "get": [], "sub": subject}).encode()), "/")


def test_alone_or_with_pub_sub_is_a_grant() -> None:
    assert verify(signed({"sub": "a"}), "/").subscribe == ("a",)
    assert verify(signed({"pub": "b", "sub": "a"}), "/").subscribe == ("a",)
    assert "claim sub" in refused(raw(HEADER, b'{"sub":7}'), "/")


# --- patterns --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("grants", "paths"),
    [
        ("**", ("",)),
        ("/**/", ("",)),
        ("anon/**", ("anon",)),
        ("/anon//demo/**", ("anon/demo",)),
        (["anon", "anon/**", "b/**"], ("anon", "b")),
    ],
)
def test_a_pattern_of_everything_below_is_its_prefix(grants: Any, paths: tuple[str, ...]) -> None:
    for publish, subscribe in (("put", "get"), ("pub", "sub")):
        permissions = verify(signed({publish: grants, subscribe: grants}), "/")
        assert permissions.publish == permissions.subscribe == paths


@pytest.mark.parametrize(
    "pattern", ["*", "*/chat", "anon/*", "**/chat", "a/**/b", "**/**", "a*", "a/b*c", "***"]
)
def test_any_other_pattern_is_refused_with_the_reason(pattern: str) -> None:
    for name in ("put", "get", "pub", "sub"):
        for grants in (pattern, ["a", pattern]):
            reason = refused(signed({name: grants}), "/")
            assert f"claim {name} holds {pattern!r}, a pattern" in reason
    assert "claim root is a pattern" in refused(signed({"root": pattern, "get": ""}), "/")
    with pytest.raises(KeyFileError, match="pattern"):
        Key.parse(jwk(scope={"get": [pattern]}), "k")


@pytest.mark.parametrize("claims", [{"publish": ["alice"]}, {"subscribe": ["*/chat"], "sub": "someone"}])
def test_a_token_of_patterns_alone_gets_its_reason(claims: dict[str, Any]) -> None:
    assert "hold patterns, which are not supported: sign put and get" in refused(signed(claims), "/")
    with pytest.raises(
        KeyFileError, match="scope cannot be read: claims publish and subscribe hold patterns"
    ):
        Key.parse(jwk(scope={name: claims[name] for name in claims if name != "sub"}), "k")


def test_a_list_of_paths_as_sub_is_no_trouble_for_the_library() -> None:
    assert verify(raw(HEADER, b'{"sub":["a","b"]}'), "/").subscribe == ("a", "b")


def test_an_audience_is_somebody_else() -> None:
    assert "aud" in refused(signed({"get": "", "aud": "relay"}))
    assert "aud" in refused(signed({"get": "", "aud": ["relay"]}))
    verify(raw(HEADER, b'{"get":"","aud":null}'))


def test_claims_that_decide_nothing() -> None:
    verify(signed({"get": "", "iat": NOW + 999, "iss": "x", "jti": "y", "name": {"a": 1}}))


def test_only_true_is_a_cluster() -> None:
    assert verify(signed({"get": "", "cluster": True})).cluster
    assert not verify(signed({"get": "", "cluster": False})).cluster
    others: list[Any] = ["yes", 1, [], None]
    for other in others:
        refused(signed({"get": "", "cluster": other}))


# --- without a token -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("public", "path", "publish", "subscribe"),
    [
        ("", "/any/where", ("",), ("",)),
        ("anon", "/anon", ("",), ("",)),
        ("anon", "/anon/room", ("",), ("",)),
        ("anon", "/", ("anon",), ("anon",)),
        ("anon", "/anonymous", None, None),
        ("anon", "/room", None, None),
        (Claims(subscribe=("",)), "/room", (), ("",)),
        (Claims(publish=("in",), subscribe=("out", "in")), "/", ("in",), ("in", "out")),
        (Claims(publish=("in",), subscribe=("out",)), "/in/cam", ("",), ()),
        (None, "/", None, None),
    ],
)
def test_what_anyone_may_do(public: Any, path: str, publish: Any, subscribe: Any) -> None:
    for query in ("", "jwt=", "x=1"):
        if publish is None:
            with pytest.raises(UnauthorizedError):
                run(authenticator(public=public), path, query)
        else:
            permissions = run(authenticator(public=public), path, query)
            assert (permissions.publish, permissions.subscribe) == (publish, subscribe)
            assert permissions.expires is None
            assert not permissions.cluster


def test_a_bad_token_is_not_saved_by_public_access() -> None:
    refused("x.y.z", "/anon", public="anon")
    refused(signed({"root": "room", "get": ""}), "/anon", public="anon")


def test_a_token_without_a_configured_key_is_refused() -> None:
    without = Authenticator(
        keys=None,
        public=Claims(subscribe=("",)),
        throttle=Throttle(failures=1, delay=1, clock=Clock()),
        now=time.time,
    )
    with pytest.raises(UnauthorizedError, match=r"no \[auth\] key"):
        run(without, "/", "jwt=" + signed({"get": ""}))


# --- time ------------------------------------------------------------------------------------------------------------


def test_a_token_ends_with_the_second_it_names() -> None:
    assert verify(signed({"get": "", "exp": NOW + 1})).expires == NOW + 1
    assert verify(signed({"get": "", "exp": NOW + 1.5})).expires == NOW + 1.5
    for late in (NOW, NOW - 1, 0, -5):
        assert "expired" in refused(signed({"get": "", "exp": late}))
    assert verify(signed({"get": "", "exp": None})).expires is None


def test_a_token_begins_when_it_says_give_or_take_a_clock() -> None:
    verify(signed({"get": "", "nbf": NOW + CLOCK_SKEW}))
    assert "not valid for another" in refused(signed({"get": "", "nbf": NOW + CLOCK_SKEW + 1}))


# --- the query -------------------------------------------------------------------------------------------------------


def test_the_token_of_a_query_is_form_decoded() -> None:
    assert token_of("a=1&jwt=x%2By") == "x+y"
    assert token_of("jwt=a+b") == "a b"
    assert token_of("jwt=") == ""
    assert token_of("nothing") is None
    assert token_of("") is None
    assert token_of("JWT=x&jwt[]=y") is None


@pytest.mark.parametrize(
    "query", ["jwt={}&jwt=x", "jwt=x&jwt={}", "jwt={0}&jwt={0}", "jwt=&jwt={}", "j%77t={}&jwt=x"]
)
def test_more_than_one_token_is_refused(query: str) -> None:
    token = signed({"get": ""})
    with pytest.raises(UnauthorizedError, match="expected once") as caught:
        run(authenticator(), "/", query.format(token))
    assert token not in str(caught.value)


def test_a_query_of_very_many_fields_is_refused() -> None:
    with pytest.raises(UnauthorizedError, match="fields"):
        token_of("&".join(f"a{number}=1" for number in range(10_000)))


# --- paths that nobody honest asks for -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/room/..",
        "/room/../secret",
        "/./room",
        "/room/%2e%2e/secret",
        "/room/%2E./secret",
        "/room%2Fsecret",
        "/room/a%2fb",
        "/room/\0",
        "/room/%00",
        "/room/\udcff",
        "/room/" + "a" * LONGEST_PATH,
        "/room" + "/a" * 32,
    ],
    ids=lambda path: path[:20].encode("unicode_escape").decode(),
)
def test_paths_that_are_refused_whatever_is_granted(path: str) -> None:
    refused(signed({"get": "", "put": ""}), path)
    with pytest.raises(UnauthorizedError):
        run(authenticator(public=""), path, "")


def test_paths_that_only_look_odd() -> None:
    for path in ("/room/...", "/room/%41", "/room/a.b", "/room/%", "/room/\u2028", "/room" + "/a" * 31):
        verify(signed({"get": ""}), path)


# --- signatures ------------------------------------------------------------------------------------------------------


def test_wrong_signatures_and_algorithms() -> None:
    refused(signed({"get": ""}, secret=b"another secret that is long enough!!"))
    refused(signed({"get": ""}, algorithm="HS512"))
    refused(signed({"get": ""}, algorithm="HS384"))
    refused(jwt.encode({"get": ""}, "", algorithm="none"))
    for name in ("none", "None", "NONE", "nOnE", ""):
        refused(raw(json.dumps({"alg": name}).encode(), b'{"get":""}', sign=False))
        refused(raw(json.dumps({"alg": name}).encode(), b'{"get":""}'))
    refused(raw(b'{"alg":"HS256"}', b'{"get":""}', sign=False))
    refused(raw(b'{"alg":"hs256"}', b'{"get":""}'))
    refused(raw(b'{"alg":["HS256"]}', b'{"get":""}'))
    refused(raw(b'{"alg":null}', b'{"get":""}'))
    refused(raw(b"{}", b'{"get":""}'))
    good = signed({"get": ""})
    refused(good[:-3] + ("aaa" if not good.endswith("aaa") else "bbb"))
    refused(good.rpartition(".")[0] + ".")
    refused(good.rpartition(".")[0])
    refused(good + ".x")
    head, payload, signature = good.split(".")
    other = signed({"get": "", "put": ""}).split(".")[1]
    refused(f"{head}.{other}.{signature}")
    refused(f"{payload}.{head}.{signature}")


@pytest.mark.parametrize("kind", ["RS256", "ES256", "EdDSA"])
def test_a_public_key_is_no_secret(kind: str) -> None:
    private: Any = {
        "RS256": lambda: rsa.generate_private_key(65537, 2048),
        "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
        "EdDSA": ed25519.Ed25519PrivateKey.generate,
    }[kind]()
    algorithm = jwt.get_algorithm_by_name(kind)
    public: dict[str, Any] = json.loads(algorithm.to_jwk(private.public_key()))
    public["alg"] = kind
    text = json.dumps(public)
    keys = OneKey(Key.parse(text, "public"))
    verify(signed({"get": ""}, algorithm=kind, secret=private), keys=keys)
    forms = [
        text.encode(),
        private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        str(public.get("n", public.get("x"))).encode(),
        b"",
    ]
    for secret in forms:
        hmac = jwt.get_algorithm_by_name("HS256")
        head, body = (base64.urlsafe_b64encode(part).rstrip(b"=") for part in (HEADER, b'{"get":""}'))
        signature = base64.urlsafe_b64encode(hmac.sign(head + b"." + body, secret)).rstrip(b"=")
        refused(b".".join((head, body, signature)).decode(), keys=keys)
        head = base64.urlsafe_b64encode(json.dumps({"alg": kind}).encode()).rstrip(b"=")
        signature = base64.urlsafe_b64encode(hmac.sign(head + b"." + body, secret)).rstrip(b"=")
        refused(b".".join((head, body, signature)).decode(), keys=keys)


def test_a_key_in_the_header_of_the_token_is_not_used() -> None:
    mine = rsa.generate_private_key(65537, 2048)
    algorithm = jwt.get_algorithm_by_name("RS256")
    public = json.loads(algorithm.to_jwk(mine.public_key()))
    refused(signed({"get": ""}, algorithm="RS256", secret=mine, jwk=public))
    refused(signed({"get": ""}, algorithm="RS256", secret=mine, jku="https://example.com/keys"))


# --- what is no token ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "token",
    ["x", "a.b", "a.b.c", "....", "\u00e9.\u00e9.\u00e9", "\udc80", "\x00", "." * 1_000, "a" * 70_000, "e30.e30.e30", "a" * 1_048_576],
    ids=lambda token: f"{token[:8]!a}-{len(token)}",
)  # fmt: skip
def test_what_is_no_token(token: str) -> None:
    refused(token)


def test_the_longest_token() -> None:
    """Longer ones are refused before decoding."""
    good = signed({"get": "a" * 5_500})
    assert LONGEST_TOKEN - 1_000 < len(good) <= LONGEST_TOKEN
    verify(good, "/")
    assert "characters" in refused(signed({"get": "a" * LONGEST_TOKEN}), "/")


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[]",
        b"null",
        b'"text"',
        b"7",
        b"{",
        b"\xff\xfe",
        b"[" * 5_000,
        b'{"get":""' + b" " * 1_000,
        b'{"get":7}',
        b'{"get":[7]}',
        b'{"get":{"a":""}}',
        b'{"get":null}',
        b'{"get":"","put":false}',
        b'{"get":"","root":null}',
        b'{"get":"","root":[""]}',
        b'{"get":"","root":7}',
        b'{"get":"","exp":"soon"}',
        b'{"get":"","exp":"5000000000"}',
        b'{"get":"","exp":true}',
        b'{"get":"","exp":[]}',
        b'{"get":"","exp":{}}',
        b'{"get":"","exp":NaN}',
        b'{"get":"","exp":Infinity}',
        b'{"get":"","exp":1e400}',
        b'{"get":"","exp":1' + b"0" * 400 + b"}",
        b'{"get":"","exp":1' + b"0" * 5_000 + b"}",
        b'{"get":"","nbf":"now"}',
        b'{"get":"","nbf":Infinity}',
        b'{"get":"","iat":"then"}',
        b'{"get":[]}',
        b"{}",
    ],
    ids=lambda payload: payload[:24].decode("latin-1"),
)
def test_a_correctly_signed_token_with_wrong_claims_is_refused(payload: bytes) -> None:
    refused(raw(HEADER, payload))


@pytest.mark.parametrize(
    "header",
    [
        b"[" * 5_000,
        b"[]",
        b"null",
        b"\xff",
        b'{"alg":"HS256","crit":["x"]}',
        b'{"alg":"HS256","crit":["b64"],"b64":false}',
        b"",
    ],
    ids=["nested", "list", "null", "bytes", "crit", "b64", "empty"],
)
def test_a_token_with_a_strange_header_is_refused(header: bytes) -> None:
    refused(raw(header, b'{"get":""}'))


@settings(max_examples=repeats(400), deadline=None)
@given(st.text(max_size=60), st.text(max_size=120))
def test_nothing_but_a_refusal_comes_out(path: str, query: str) -> None:
    for candidate in (query, f"jwt={query}", f"jwt={query}.e30.x"):
        with pytest.raises(UnauthorizedError):
            run(authenticator(), path, candidate)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=repeats(400), deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["root", "put", "get", "pub", "sub", "exp", "nbf", "iat", "cluster", "aud", "iss"]),
        json_values,
    )
)
def test_signed_claims_of_any_shape_give_permissions_or_a_refusal(claims: dict[str, Any]) -> None:
    token = raw(HEADER, json.dumps(claims).encode())
    try:
        permissions = verify(token, "/")
    except UnauthorizedError:
        return
    assert permissions.publish or permissions.subscribe
    assert isinstance(permissions.expires, float | None)


segment = st.sampled_from(["a", "b", "ab", "\u00e9", "a%20"])
some_path = st.lists(segment, max_size=4).map("/".join)


@settings(max_examples=500, deadline=None)
@given(some_path, st.lists(some_path, max_size=3), st.lists(some_path, max_size=3), some_path, some_path)
def test_no_url_gives_more_than_the_token(
    root: str, put: list[str], get: list[str], url: str, broadcast: str
) -> None:
    """For any URL: each whole path that may be used below it is under a grant, and no grant is lost."""

    def whole(base: str, path: str) -> str:
        return "/".join(part for part in (base, path) if part)

    def granted(path: str, grants: list[str]) -> bool:
        return any(
            (path + "/").startswith(whole(root, grant) + "/") or not whole(root, grant) for grant in grants
        )

    try:
        permissions = verify(signed({"root": root, "put": put, "get": get}), "/" + url)
    except UnauthorizedError:
        path = whole(url, broadcast)
        assert not granted(path, put + get)
        return
    path = whole(url, broadcast)
    assert any(covers(prefix, broadcast) for prefix in permissions.publish) == granted(path, put)
    assert permissions.may_subscribe(broadcast) == granted(path, get)


# --- keys by name ----------------------------------------------------------------------------------------------------


class Named(Keys):
    """Keys by kid; records requests."""

    def __init__(self, **keys: Key) -> None:
        self.keys = keys
        self.asked: list[str | None] = []

    async def find(self, token: str) -> Key:
        kid = token_kid(token)
        self.asked.append(kid)
        if kid not in self.keys:
            raise UnauthorizedError("no such key")
        return self.keys[kid]


def test_the_key_that_the_token_names() -> None:
    other = b"another secret, also long enough for it"
    keys = Named(a=KEY, b=Key.parse(jwk(other), "b"))
    verify(signed({"get": ""}, kid="a"), keys=keys)
    verify(signed({"get": ""}, secret=other, kid="b"), keys=keys)
    refused(signed({"get": ""}, kid="b"), keys=keys)
    refused(signed({"get": ""}, kid="c"), keys=keys)
    refused(signed({"get": ""}), keys=keys)
    assert keys.asked == ["a", "b", "b", "c", None]


def test_a_single_key_ignores_the_name() -> None:
    verify(signed({"get": ""}, kid="whatever"))
    verify(raw(b'{"alg":"HS256","kid":"../it is no file"}', b'{"get":""}'))
    verify(raw(b'{"alg":"HS256","kid":7}', b'{"get":""}'))


def test_the_scope_of_a_key_limits_every_token() -> None:
    keys = OneKey(Key.parse(jwk(scope={"root": "live", "put": ["in"], "get": [""]}), "scoped"))
    inside: list[dict[str, Any]] = [
        {"root": "live", "get": ""},
        {"root": "live/in", "put": "", "get": "x"},
        {"put": "live/in/cam", "get": "live"},
    ]
    for claims in inside:
        verify(signed(claims), "/", keys=keys)
    outside: list[dict[str, Any]] = [
        {"get": ""},
        {"root": "lively", "get": ""},
        {"root": "live", "put": "out"},
        {"root": "live", "put": ["in", "out"]},
        {"root": "live", "get": "", "cluster": True},
    ]
    for claims in outside:
        assert "scope" in refused(signed(claims), "/", keys=keys)


# --- refusals come slowly --------------------------------------------------------------------------------------------


async def test_repeated_refusals_of_one_address_are_held_back(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr("relay.auth.authenticator.asyncio.sleep", sleep)
    busy = authenticator(public="anon")
    for _ in range(6):
        with pytest.raises(UnauthorizedError):
            await busy.admit("/", "jwt=x", "192.0.2.7:4000")
    assert slept == pytest.approx([0.001, 0.002, 0.003])
    with pytest.raises(UnauthorizedError):
        await busy.admit("/", "jwt=x", "192.0.2.8:4000")
    await busy.admit("/anon", "", "192.0.2.7:4000")
    await busy.admit("/", "jwt=" + signed({"get": ""}), "192.0.2.7:4000")
    assert len(slept) == 3


async def test_only_so_many_refusals_wait() -> None:
    busy = authenticator(waiting=1)
    busy.throttle = Throttle(failures=0, delay=1_000, clock=Clock())
    first = asyncio.ensure_future(busy.admit("/", "", "a"))
    await asyncio.sleep(0)
    with pytest.raises(UnauthorizedError):
        await busy.admit("/", "", "b")
    assert not first.done()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert not busy._delayed


async def test_a_key_service_in_trouble_is_not_the_fault_of_the_peer() -> None:
    class Down(Keys):
        async def find(self, token: str) -> Key:
            raise KeyServiceError(f"no key for {token_kid(token)}")

    keys: Keys = Down()
    busy = authenticator(keys=keys)
    busy.throttle = Throttle(failures=0, delay=1_000, clock=Clock())
    with pytest.raises(KeyServiceError) as caught:
        await busy.admit("/", "jwt=" + signed({"get": ""}), "a")
    assert caught.value.status == 502


def test_a_token_survives_being_quoted() -> None:
    token = signed({"get": ""})
    run(authenticator(), "/", f"x=1&jwt={quote(token, safe='')}")
    assert SECRET not in repr(KEY).encode()
