"""The authenticator: the golden token, and every way in which a token can be wrong."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.auth.authenticator import Authenticator, Key, KeyFileError, UnauthorizedError, token_of

VECTORS = json.loads((Path(__file__).parents[1] / "wire" / "vectors.json").read_text())["jwt"]
SECRET = b"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
KEY = Key("HS256", SECRET)


def signed(
    claims: dict[str, Any], *, algorithm: str = "HS256", secret: bytes = SECRET, **headers: Any
) -> str:
    return jwt.encode(claims, secret, algorithm=algorithm, headers=headers or None)


def raw(header: bytes, payload: bytes, *, sign: bool = True) -> str:
    """A token of any bytes, signed correctly."""
    parts = [base64.urlsafe_b64encode(part).rstrip(b"=") for part in (header, payload)]
    algorithm = jwt.get_algorithm_by_name("HS256")
    signature = algorithm.sign(b".".join(parts), algorithm.prepare_key(SECRET)) if sign else b""
    return b".".join([*parts, base64.urlsafe_b64encode(signature).rstrip(b"=")]).decode()


HEADER = b'{"alg":"HS256","typ":"JWT"}'


def verify(token: str, path: str = "/room", *, key: Key | None = KEY, public: str | None = None) -> Any:
    return Authenticator(key=key, public=public).verify(path, f"jwt={token}")


def refused(token: str, path: str = "/room", **options: Any) -> str:
    with pytest.raises(UnauthorizedError) as caught:
        verify(token, path, **options)
    assert token == "" or token not in str(caught.value)
    return str(caught.value)


# --- the golden token ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["key_json", "key_file"])
@pytest.mark.parametrize("case", VECTORS["verify"], ids=lambda case: str(case["path"]))
def test_the_golden_token(form: str, case: dict[str, Any]) -> None:
    authenticator = Authenticator(key=Key.parse(VECTORS[form], "golden"), public=None)
    if case["path"] == "/room":  # newer than the vector: a URL above the root sees the way down
        case = {**case, "root": "room", "publish": ["123/alice"], "subscribe": ["123"]}
        del case["error"]
    if case["path"] == "/room/123/alice/cam":
        case = {**case, "publish": [""]}
    if "error" in case:
        with pytest.raises(UnauthorizedError):
            authenticator.verify(case["path"], "jwt=" + VECTORS["token"])
        return
    permissions = authenticator.verify(case["path"], "jwt=" + VECTORS["token"])
    assert permissions.root == case["root"]
    assert permissions.publish == tuple(case["publish"])
    assert permissions.subscribe == tuple(case["subscribe"])
    assert permissions.expires == VECTORS["claims"]["exp"] + 60
    assert not permissions.cluster


# --- what is accepted ------------------------------------------------------------------------------------------------


def test_public_access_needs_no_token() -> None:
    for public, path, granted in [
        ("", "/any/where", ("",)),
        ("anon", "/anon/room", ("",)),
        ("anon", "/", ("anon",)),
    ]:
        permissions = Authenticator(key=KEY, public=public).verify(path, "")
        assert permissions.publish == permissions.subscribe == granted
        assert permissions.expires is None
    with pytest.raises(UnauthorizedError):
        Authenticator(key=KEY, public="anon").verify("/room", "")
    with pytest.raises(UnauthorizedError):
        Authenticator(key=KEY, public=None).verify("/room", "")


def test_claims_may_be_a_string_or_a_list() -> None:
    assert verify(signed({"put": "a", "get": ["b", "c"]}), "/").publish == ("a",)
    assert verify(signed({"put": "a", "get": ["b", "c"]}), "/").subscribe == ("b", "c")


def test_registered_claims_of_others_do_not_matter() -> None:
    claims = {
        "get": "",
        "sub": "someone",
        "aud": "elsewhere",
        "iat": int(time.time()) + 999,
        "iss": "x",
        "pub": "y",
    }
    permissions = verify(signed(claims), "/")
    assert permissions.publish == ()
    assert permissions.subscribe == ("",)


def test_only_a_true_cluster_claim_counts() -> None:
    assert verify(signed({"get": "", "cluster": True})).cluster
    assert not verify(signed({"get": "", "cluster": "yes"})).cluster
    assert not verify(signed({"get": "", "cluster": 1})).cluster


def test_a_token_is_accepted_a_minute_late() -> None:
    now = int(time.time())
    assert verify(signed({"get": "", "exp": now - 30})).expires == now + 30


def test_the_first_token_of_the_query_counts_form_decoded() -> None:
    assert token_of("a=1&jwt=x%2By&jwt=z") == "x+y"
    assert token_of("jwt=a+b") == "a b"
    assert token_of("jwt=") == ""
    assert token_of("nothing") is None
    assert token_of("") is None


# --- what is refused -------------------------------------------------------------------------------------------------


def test_wrong_signatures_and_algorithms() -> None:
    refused(signed({"get": ""}, secret=b"another secret that is long enough!!"))
    refused(signed({"get": ""}, algorithm="HS512"))
    refused(signed({"get": ""}, algorithm="HS384"))
    refused(jwt.encode({"get": ""}, "", algorithm="none"))
    refused(raw(b'{"alg":"none"}', b'{"get":""}', sign=False))
    refused(raw(b'{"alg":"HS256"}', b'{"get":""}', sign=False))
    refused(raw(b'{"alg":["HS256"]}', b'{"get":""}'))
    refused(raw(b'{"alg":null}', b'{"get":""}'))
    refused(raw(b"{}", b'{"get":""}'))
    good = signed({"get": ""})
    refused(good[:-3] + ("aaa" if not good.endswith("aaa") else "bbb"))
    refused(good.rpartition(".")[0] + ".")


def test_expired_and_not_yet_valid() -> None:
    now = int(time.time())
    refused(signed({"get": "", "exp": now - 61}))
    refused(signed({"get": "", "exp": 0}))
    refused(signed({"get": "", "exp": -5}))


@pytest.mark.parametrize(
    "token",
    ["x", "a.b", "a.b.c", "....", "é.é.é", "\udc80", "\x00", "." * 1_000, "a" * 70_000, "e30.e30.e30"],
)
def test_what_is_no_token(token: str) -> None:
    with pytest.raises(UnauthorizedError):
        Authenticator(key=KEY, public=None).verify("/room", f"jwt={token}")


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
        b"[" * 100_000,
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
        b'{"get":"","exp":null}',
        b'{"get":"","exp":[]}',
        b'{"get":"","exp":{}}',
        b'{"get":"","exp":NaN}',
        b'{"get":"","exp":Infinity}',
        b'{"get":"","exp":1e400}',
        b'{"get":"","exp":1' + b"0" * 400 + b"}",
        b'{"get":"","exp":1' + b"0" * 5_000 + b"}",
        b'{"get":"","nbf":null}',
        b'{"get":"","nbf":Infinity}',
        b'{"get":[]}',
        b"{}",
        b'{"sub":"a","pub":"b"}',
    ],
    ids=lambda payload: payload[:24].decode("latin-1"),
)
def test_a_correctly_signed_token_with_wrong_claims_is_refused(payload: bytes) -> None:
    refused(raw(HEADER, payload))


@pytest.mark.parametrize(
    "header",
    [
        b"[" * 100_000,
        b"[]",
        b"null",
        b"\xff",
        b'{"alg":"HS256","kid":7}',
        b'{"alg":"HS256","crit":["x"]}',
        b"",
    ],
    ids=["nested", "list", "null", "bytes", "kid", "crit", "empty"],
)
def test_a_token_with_a_strange_header_is_refused(header: bytes) -> None:
    refused(raw(header, b'{"get":""}'))


def test_a_deeply_nested_header_needs_no_signature_to_be_harmless() -> None:
    header = base64.urlsafe_b64encode(b"[" * 40_000).decode().rstrip("=")
    refused(f"{header}.e30.AAAA")


def test_a_token_without_a_configured_key_is_refused() -> None:
    assert "no [auth] key" in refused(signed({"get": ""}), key=None, public="")


def test_paths_outside_the_root_and_useless_tokens_are_refused() -> None:
    refused(signed({"root": "room", "get": ""}), "/hall")
    refused(signed({"root": "room"}), "/room")
    refused(signed({"root": "room", "put": "alice"}), "/room/bob")


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60), st.text(max_size=120))
def test_nothing_but_a_refusal_comes_out(path: str, query: str) -> None:
    for candidate in (query, f"jwt={query}", f"jwt={query}.e30.x"):
        try:
            Authenticator(key=KEY, public=None).verify(path, candidate)
        except UnauthorizedError:
            continue
        raise AssertionError("accepted")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["root", "put", "get", "exp", "nbf", "iat", "cluster", "aud", "sub", "jti", "iss"]),
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


# --- key files -------------------------------------------------------------------------------------------------------


def jwk(**changes: Any) -> str:
    secret = base64.urlsafe_b64encode(SECRET).decode().rstrip("=")
    content = {"alg": "HS256", "key_ops": ["sign", "verify"], "k": secret, **changes}
    return json.dumps({name: value for name, value in content.items() if value != "absent"})


def test_key_files_in_both_forms(tmp_path: Path) -> None:
    expected = Key("HS256", SECRET)
    plain = jwk()
    coded = base64.urlsafe_b64encode(plain.encode()).decode()
    for text in (plain, coded, coded.rstrip("="), f"\n {coded}\n", jwk(key_ops="absent"), jwk(kty="oct")):
        file = tmp_path / "key.jwk"
        file.write_text(text)
        assert Key.load(file) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "not base64!",
        "é",
        "W10",
        jwk(alg="none"),
        jwk(alg="RS256"),
        jwk(alg="absent"),
        jwk(alg=["HS256"]),
        jwk(alg={"a": 1}),
        jwk(alg=None),
        jwk(kty="RSA"),
        jwk(kty=["oct"]),
        jwk(key_ops=["sign"]),
        jwk(key_ops=None),
        jwk(key_ops=5),
        jwk(k="absent"),
        jwk(k=None),
        jwk(k=7),
        jwk(k=["x"]),
        jwk(k="short"),
        jwk(k="é" * 60),
    ],
)
def test_unusable_key_files_say_so_without_their_content(text: str) -> None:
    with pytest.raises(KeyFileError) as caught:
        Key.parse(text, "the file")
    assert "the file" in str(caught.value)
    assert base64.urlsafe_b64encode(SECRET).decode()[:20] not in str(caught.value)


def test_a_key_file_that_is_no_text(tmp_path: Path) -> None:
    file = tmp_path / "key.jwk"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(KeyFileError):
        Key.load(file)
    with pytest.raises(OSError, match="missing"):
        Key.load(tmp_path / "missing.jwk")
