"""Keys: forms of key files, faults of keys and tokens, and the Rust tool's tokens and keys."""

from __future__ import annotations

import base64
import functools
import json
import os
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.auth.claims import Claims, Scope
from relay.auth.key import ALGORITHMS, LARGEST_FILE, LONGEST_TOKEN, Key, KeyFileError, token_kid
from relay.auth.material import Material, encode
from relay.auth.permissions import UnauthorizedError
from tests.sampling import repeats

HERE = Path(__file__).parent
VECTORS = json.loads((HERE.parent / "wire" / "vectors.json").read_text())["jwt"]
GOLDEN = {
    entry["algorithm"]: entry for entry in json.loads((HERE / "golden_tokens.json").read_text())["keys"]
}

SYMMETRIC = [name for name in ALGORITHMS if name.startswith("HS")]
ASYMMETRIC = [name for name in ALGORITHMS if not name.startswith("HS")]
SECRET = b"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
CLAIMS = Claims("room", ("alice",), ("",), expires=4_102_444_800, issued=1_700_000_000)


@pytest.fixture(autouse=True)
def no_warnings() -> Iterator[None]:
    """PyJWT warns of short secrets, on the relay's standard error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@functools.cache
def rsa_material() -> Any:
    """One modulus for all: making it takes longest."""
    return rsa.generate_private_key(65_537, 2_048)


@functools.cache
def key_of(algorithm: str) -> Key:
    made = Key.generate("HS256") if algorithm[:2] in ("RS", "PS") else Key.generate(algorithm)
    if algorithm[:2] not in ("RS", "PS"):
        return made
    return Key(algorithm, made.kid, made.operations, None, Material.of(algorithm, rsa_material()))


def members(algorithm: str = "HS256") -> dict[str, Any]:
    content = json.loads(key_of(algorithm).text(as_json=True))
    assert isinstance(content, dict)
    return content


def changed(algorithm: str = "HS256", **changes: Any) -> str:
    """The key with some members changed, or removed by `...`."""
    content = {**members(algorithm), **changes}
    return json.dumps({name: value for name, value in content.items() if value is not ...})


def refused_key(text: str) -> str:
    with pytest.raises(KeyFileError) as caught:
        Key.parse(text, "some.jwk")
    message = str(caught.value)
    assert message.startswith("some.jwk: ")
    assert "\n" not in message
    assert len(message) < 200
    # a traceback must show no text
    assert caught.value.__context__ is None or caught.value.__suppress_context__
    return message


def refused(key: Key, token: str) -> str:
    with pytest.raises(UnauthorizedError) as caught:
        key.verify(token)
    message = str(caught.value)
    assert not [part for part in token.split(".") if len(part) > 8 and part in message]
    return message


HS256 = Key.parse(json.dumps({"alg": "HS256", "k": encode(SECRET)}), "test")


def raw(header: bytes, payload: bytes) -> str:
    """A token of any bytes, signed correctly."""
    signed = f"{encode(header)}.{encode(payload)}"
    return f"{signed}.{encode(jwt.get_algorithm_by_name('HS256').sign(signed.encode(), SECRET))}"


ALL = encode(b'{"get":""}')
HEADER = b'{"typ":"JWT","alg":"HS256"}'


# --- every algorithm -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_what_a_key_signs_it_verifies(algorithm: str) -> None:
    key = key_of(algorithm)
    token = key.sign(CLAIMS)
    assert key.verify(token) == CLAIMS
    assert token_kid(token) == key.kid
    assert jwt.get_unverified_header(token) == {"typ": "JWT", "alg": algorithm, "kid": key.kid}
    # and PyJWT by itself agrees
    verifier = key._material.verifier
    payload = jwt.decode(token, verifier, algorithms=[algorithm])
    assert payload == CLAIMS.payload()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("as_json", [False, True])
def test_a_key_survives_its_text(algorithm: str, as_json: bool) -> None:
    key = key_of(algorithm)
    text = key.text(as_json=as_json)
    assert text.startswith("{") == as_json
    assert "=" not in text or as_json
    again = Key.parse(text, "again")
    assert again == key
    assert again.verify(key.sign(CLAIMS)) == CLAIMS
    assert list(json.loads(key.text(as_json=True)))[:3] == ["alg", "key_ops", "kty"]


@pytest.mark.parametrize("algorithm", ASYMMETRIC)
def test_the_public_half_verifies_and_does_not_sign(algorithm: str) -> None:
    key = key_of(algorithm)
    public = Key.parse(key.public().text(), "public")
    assert key.private
    assert not public.private
    assert public.operations == {"verify"}
    assert public.kid == key.kid
    assert not {"d", "p", "q", "dp", "dq", "qi"} & set(json.loads(public.text(as_json=True)))
    assert public.verify(key.sign(CLAIMS)) == CLAIMS
    with pytest.raises(ValueError, match="public"):
        public.sign(CLAIMS)
    assert public.public() == public


@pytest.mark.parametrize("algorithm", SYMMETRIC)
def test_a_symmetric_key_has_no_public_half(algorithm: str) -> None:
    assert key_of(algorithm).private
    with pytest.raises(ValueError, match="no public half"):
        key_of(algorithm).public()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_changed_token_is_refused(algorithm: str) -> None:
    key = key_of(algorithm)
    header, payload, signature = key.sign(CLAIMS).split(".")
    other = encode(json.dumps({**CLAIMS.payload(), "root": ""}).encode())
    assert "does not fit" in refused(key, f"{header}.{other}.{signature}")
    for short in ("", "AAAA", signature[:-4], "A" * len(signature), signature + "AAAA"):
        refused(key, f"{header}.{payload}.{short}")
    refused(key, f"{encode(json.dumps({'alg': algorithm}).encode())}.{payload}.{signature}")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_token_of_another_algorithm_or_key_is_refused(algorithm: str) -> None:
    for other in ALGORITHMS:
        if other != algorithm:
            assert f"not signed with {algorithm}" in refused(key_of(algorithm), key_of(other).sign(CLAIMS))


def test_an_elliptic_signature_of_zeros_is_refused() -> None:
    for algorithm, size in (("ES256", 64), ("ES384", 96), ("EdDSA", 64)):
        head = key_of(algorithm).sign(CLAIMS).rpartition(".")[0]
        refused(key_of(algorithm), f"{head}.{encode(bytes(size))}")


# --- attacks on the choice of the algorithm --------------------------------------------------------------------------


def unsigned(header: dict[str, Any], signature: str = "") -> str:
    return (
        f"{encode(json.dumps(header).encode())}.{encode(json.dumps(CLAIMS.payload()).encode())}.{signature}"
    )


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_token_without_a_signature_is_refused(algorithm: str) -> None:
    key = key_of(algorithm)
    names: list[Any] = ["none", "None", "NONE", "", None, ["none"], {}, 0, True]
    for name in names:
        refused(key, unsigned({"alg": name}))
        refused(key, unsigned({"alg": name}, "AAAA"))
    refused(key, unsigned({}))


@pytest.mark.parametrize("algorithm", ASYMMETRIC)
@pytest.mark.parametrize("hashed", SYMMETRIC)
def test_the_public_key_is_no_secret_to_sign_with(algorithm: str, hashed: str) -> None:
    """Readers that take the algorithm from the token check an HMAC whose secret everybody knows."""
    public = key_of(algorithm).public()
    verifier = public._material.verifier
    secrets = [
        verifier.public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo)
        for encoding in (Encoding.PEM, Encoding.DER)
    ]
    secrets += [public.text().encode(), public.text(as_json=True).encode(), b""]
    for secret in secrets:
        head = unsigned({"alg": hashed}).rpartition(".")[0]
        signature = jwt.get_algorithm_by_name(hashed).sign(head.encode(), secret)
        assert f"not signed with {algorithm}" in refused(public, f"{head}.{encode(signature)}")


def test_a_public_key_does_not_pass_for_a_secret() -> None:
    pem = key_of("ES256")._material.verifier.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    assert "random bytes" in refused_key(changed(k=encode(pem)))


def test_keys_that_come_in_the_header_do_not_matter() -> None:
    stranger = Key.generate("ES256")
    jwk = json.loads(stranger.public().text(as_json=True))
    signed = f"{encode(json.dumps({'alg': 'ES256', 'jwk': jwk}).encode())}.{ALL}"
    signature = jwt.get_algorithm_by_name("ES256").sign(signed.encode(), stranger._material.signer)
    assert "does not fit" in refused(key_of("ES256"), f"{signed}.{encode(signature)}")


# --- tokens that are wrong in other ways -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "token",
    [
        "",
        "x",
        "a.b",
        "a.b.c",
        "....",
        "é.é.é",
        "\udc80.a.a",
        "\x00",
        "." * 1_000,
        "e30.e30.e30",
        "e30.e30.",
        "..",
        "a b.c.d",
    ],
)
def test_what_is_no_token(token: str) -> None:
    refused(HS256, token)
    with pytest.raises(UnauthorizedError):
        HS256.verify(token + "\n")


def test_a_long_token_is_not_even_looked_at() -> None:
    claims = Claims("", tuple(f"path-{number:04}" for number in range(400)))
    token = HS256.sign(claims)
    assert HS256.verify(token) == claims
    assert "8192" in refused(HS256, token + "A" * LONGEST_TOKEN)
    assert "8192" in refused(HS256, "." * (LONGEST_TOKEN + 1))
    with pytest.raises(UnauthorizedError, match="8192"):
        token_kid("." * (LONGEST_TOKEN + 1))
    with pytest.raises(ValueError, match="8192"):
        HS256.sign(Claims("", tuple(f"path-{number:04}" for number in range(900))))


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
        '{"get":""}'.encode("utf-16"),
        '\ufeff{"get":""}'.encode(),
        b"[" * 5_000,
        b'{"get":' + b"[" * 4_000,
        b'{"get":7}',
        b'{"get":"","exp":1' + b"0" * 400 + b"}",
        b'{"get":"","exp":1' + b"0" * 5_000 + b"}",
        b'{"get":"","exp":NaN}',
        b'{"get":"","get":"a"}',
        b'{"get":"","x":{"a":1,"a":2}}',
        b'{"get":"\\ud800"}',
        b'{"root":"\\udc00","get":""}',
        b'{"put":["\\ud83d"],"get":""}',
        b'{"get":[]}',
        b'{"cluster":true}',
        b"{}",
    ],
    ids=lambda payload: payload[:24].decode("latin-1"),
)
def test_a_correctly_signed_token_with_a_wrong_payload_is_refused(payload: bytes) -> None:
    refused(HS256, raw(HEADER, payload))


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"[]",
        b"null",
        b"\xff",
        b"{}",
        b"[" * 5_000,
        b'{"alg":"HS256"',
        b'{"alg":"HS256","alg":"HS256"}',
        b'{"alg":"none","alg":"HS256"}',
        b'{"alg":"HS256","crit":["exp"]}',
        b'{"alg":"HS256","crit":[]}',
        b'{"alg":"HS256","b64":true}',
        b'{"alg":"HS256","b64":false,"crit":["b64"]}',
        b'{"alg":"hs256"}',
    ],
    ids=lambda header: header[:40].decode("latin-1"),
)
def test_a_token_with_a_strange_header_is_refused(header: bytes) -> None:
    refused(HS256, raw(header, b'{"get":""}'))


def test_what_of_the_header_is_not_judged_here() -> None:
    for header in (
        b'{"alg":"HS256"}',
        b'{"alg":"HS256","typ":7}',
        b'{"alg":"HS256","kid":"../x","cty":"JWT"}',
    ):
        assert HS256.verify(raw(header, b'{"get":""}')).subscribe == ("",)


def test_time_is_not_judged_here() -> None:
    for payload in (b'{"get":"","exp":1}', b'{"get":"","nbf":4102444800}', b'{"get":"","iat":4102444800}'):
        assert HS256.verify(raw(HEADER, payload)).subscribe == ("",)


def test_base64url_has_one_spelling() -> None:
    """The last character of a signature has unused bits: other readers take four spellings of it."""
    token = HS256.sign(CLAIMS)
    spellings = [
        token[:-1] + character
        for character in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    ]
    taken = []
    for spelling in spellings:
        try:
            HS256.verify(spelling)
        except UnauthorizedError:
            continue
        taken.append(spelling)
    assert taken == [token]
    for junk in (
        token + "=",
        token + " ",
        token.replace(".", ".!", 1),
        "!" + token,
        token.replace(".", "=.", 1),
    ):
        refused(HS256, junk)


@pytest.mark.parametrize(
    "kid",
    ["../../etc/passwd", "a/b", "", ".", "..", "a.jwk", "a" * 129, "é", "a\n", "a\0", None, 7, ["a"], {}],
)
def test_a_kid_that_is_unsafe_as_the_name_of_a_file_is_refused(kid: Any) -> None:
    with pytest.raises(UnauthorizedError) as caught:
        token_kid(unsigned({"alg": "HS256", "kid": kid}))
    assert "passwd" not in str(caught.value)


def test_the_kid_of_a_token() -> None:
    assert token_kid(unsigned({"kid": "a" * 128})) == "a" * 128
    assert token_kid(unsigned({"kid": "Key_1-x"})) == "Key_1-x"
    assert token_kid(unsigned({"alg": "HS256"})) is None
    for token in ("", "a.b.c", "e30", "W10.e30.x", f"{encode(b'[' * 5_000)}.e30.x"):
        with pytest.raises(UnauthorizedError):
            token_kid(token)


# --- what a key is for, and how far it reaches -----------------------------------------------------------------------


def test_operations_are_kept_to() -> None:
    signer = Key.parse(changed(key_ops=["sign"]), "signer")
    verifier = Key.parse(changed(key_ops=["verify"]), "verifier")
    assert verifier.verify(signer.sign(CLAIMS)) == CLAIMS
    assert "key_ops" in refused(signer, signer.sign(CLAIMS))
    with pytest.raises(ValueError, match="key_ops"):
        verifier.sign(CLAIMS)
    assert Key.parse(changed(key_ops=...), "default").operations == {"sign", "verify"}
    for key in (signer, verifier):
        assert Key.parse(key.text(), "again") == key
    with pytest.raises(ValueError, match="key_ops"):
        Key.parse(changed("ES256", key_ops=["sign"]), "signer").public()


def test_a_scope_is_kept_to_by_both_sides() -> None:
    scope = Scope("demo", ("live",), ())
    wide = key_of("ES256")
    narrow = Key(wide.algorithm, wide.kid, wide.operations, scope, wide._material)
    assert Key.parse(narrow.text(), "again").scope == scope
    assert narrow.public().scope == scope
    for claims in (Claims("demo", ("live/alice",)), Claims("demo/live", ("",)), Claims("", ("demo/live",))):
        assert narrow.public().verify(narrow.sign(claims)) == claims
    for claims in (
        Claims("demo", ("lively",)),
        Claims("demo", ("",)),
        Claims("", ("",)),
        Claims("demo", ("live",), ("live",)),
        Claims("demo", ("live",), cluster=True),
    ):
        with pytest.raises(ValueError, match="scope"):
            narrow.sign(claims)
        assert "scope" in refused(narrow, wide.sign(claims))


def test_what_is_not_signed() -> None:
    with pytest.raises(ValueError, match="nothing"):
        HS256.sign(Claims("room"))
    with pytest.raises(ValueError, match="nothing"):
        HS256.sign(Claims(cluster=True))
    with pytest.raises(ValueError, match="Unicode"):
        HS256.sign(Claims("\udc80", ("",)))


def test_paths_beyond_ascii() -> None:
    claims = Claims("é", ("日本",), ("😀",))
    assert HS256.verify(HS256.sign(claims)) == claims
    assert HS256.verify(raw(HEADER, json.dumps(claims.payload()).encode())) == claims


def test_without_a_kid_the_header_has_none() -> None:
    assert "kid" not in jwt.get_unverified_header(HS256.sign(CLAIMS))


# --- key files -------------------------------------------------------------------------------------------------------


def test_every_form_of_a_key_file() -> None:
    plain = changed(kid="\u006b", scope={"root": "a??>>", "put": [""]})
    data = plain.encode()
    forms = [plain, json.dumps(json.loads(plain), indent=4)]
    for blanks in range(3):  # with each length of padding
        for coder in (base64.urlsafe_b64encode, base64.b64encode):
            coded = coder(data + b" " * blanks).decode()
            forms += [coded, coded.rstrip("=")]
    for text in forms:
        assert Key.parse(text, "form") == Key.parse(f"\n {text}\r\n", "form") == Key.parse(plain, "plain")


def test_the_kind_is_symmetric_where_it_is_not_said() -> None:
    """The oldest tools write no kty."""
    assert Key.parse(changed(kty=...), "old") == key_of("HS256")
    padded = base64.urlsafe_b64encode(SECRET).decode()
    assert padded.endswith("=")
    assert Key.parse(changed(k=padded, kid=...), "padded")._material == HS256._material
    for algorithm in SYMMETRIC:
        key = Key.parse(changed(alg=algorithm, k=encode(SECRET[:32])), "short")
        assert key.verify(key.sign(CLAIMS)) == CLAIMS


def test_members_of_others_are_passed_over() -> None:
    text = changed("EdDSA", use="sig", ext=True, x5t="x", k="not ours", n=7)
    assert Key.parse(text, "more") == key_of("EdDSA")


def nested(depth: int) -> str:
    return '{"alg":' * depth


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n",
        "{",
        "{}",
        "[]",
        "null",
        "W10",
        "e30",
        "not base64!",
        "é",
        "\ufeff{}",
        "\0",
        "A" * 2_000,
        "A" * 2_000_000,
        "{" + " " * 2_000_000 + "}",
        nested(30_000)[:60_000],
        "[" * 60_000,
        base64.b64encode(nested(6_000).encode()).decode(),
        base64.b64encode(b"\xff\xfe{}").decode(),
        '{"alg":' + "1" * 10_000 + "}",
        '{"alg":"HS256"}',
        '{"keys":[]}',
        '"HS256"',
    ],
    ids=lambda text: text[:20],
)
def test_what_is_no_key(text: str) -> None:
    refused_key(text)


def test_a_key_that_ends_early_is_no_key() -> None:
    for text in (key_of("HS256").text(), changed(), key_of("ES256").text()):
        for end in range(0, len(text), 7):
            refused_key(text[:end])


WRONG: dict[str, list[Any]] = {
    "alg": ["none", "RS256", "ES256", "ES512", "EdDSA", "hs256", "", ..., None, ["HS256"], {"a": 1}, 7],
    "kty": ["RSA", "OCT", "", None, ["oct"], 7],
    "key_ops": [[], None, "sign", {}, [7], [None], ["sign", "sign"], ["sing"], [["sign"]], 5],
    "use": ["enc", "", None, 7, ["sig"]],
    "kid": ["", "a/b", "../x", "a" * 129, None, 7, "é", "a\n"],
    "scope": [None, [], "", {}, {"root": "a"}, {"put": 7}, {"put": ["\ud800"]}, {"put": "", "root": 7}],
    "k": [
        *(..., None, "", 7, ["x"], "short", "é" * 60, "=" * 80),
        *(encode(SECRET)[:-1] + "!", encode(SECRET) + "=", encode(SECRET[:31])),
        *(base64.b64encode(b"\xff\xfe\xfb" * 12).decode(), "A" * 42 + "B"),
    ],
}


@pytest.mark.parametrize(
    "changes", [{name: value} for name, values in WRONG.items() for value in values], ids=str
)
def test_a_symmetric_key_with_a_wrong_member(changes: dict[str, Any]) -> None:
    assert encode(SECRET)[:20] not in refused_key(changed(**changes))


@pytest.mark.parametrize(
    "algorithm, changes, reason",
    [
        ("RS256", {"alg": "HS256"}, "kty"),
        ("RS256", {"n": ...}, "n is missing"),
        ("RS256", {"e": "!"}, "base64url"),
        ("RS256", {"e": "AQ"}, "e is"),
        ("RS256", {"e": "AAAA"}, "e is"),
        ("RS256", {"e": "AQAA"}, "e is"),
        ("RS256", {"e": encode(b"\xff" * 9)}, "e is"),
        ("RS256", {"n": encode(b"\xff" * 128)}, "1024 bits"),
        ("RS256", {"n": encode(b"\xff" * 1_025)}, "8200 bits"),
        ("RS256", {"n": encode(b"\xff" * 255 + b"\xfe")}, "n and e"),
        ("RS256", {"n": encode(b"\xff" * 256)}, "belong together"),
        ("RS256", {"d": "AQAB"}, "belong together"),
        ("RS256", {"qi": "AQAB"}, "belong together"),
        ("RS256", {"d": ...}, "incomplete, d missing"),
        ("PS512", {"qi": ..., "dq": ...}, "incomplete, dq, qi missing"),
        ("RS256", {"p": None}, "p is missing"),
        ("RS256", {"oth": []}, "two primes"),
        ("ES256", {"crv": "P-384"}, "crv"),
        ("ES256", {"crv": ...}, "crv"),
        ("ES256", {"alg": "ES384"}, "crv"),
        ("ES256", {"kty": "OKP"}, "kty"),
        ("ES256", {"x": ...}, "x is missing"),
        ("ES256", {"x": encode(bytes(31))}, "31 bytes"),
        ("ES256", {"x": encode(bytes(32))}, "no point"),
        ("ES256", {"y": encode(b"\xff" * 32)}, "no point"),
        ("ES256", {"d": encode(bytes(32))}, "d is no"),
        ("ES256", {"d": encode(b"\xff" * 32)}, "d is no"),
        ("ES256", {"d": encode(b"\1" * 32)}, "does not belong"),
        ("ES384", {"d": encode(b"\1" * 32)}, "32 bytes"),
        ("ES384", {"d": None}, "d is missing"),
        ("EdDSA", {"crv": "Ed448"}, "crv"),
        ("EdDSA", {"x": encode(bytes(31))}, "31 bytes"),
        ("EdDSA", {"d": encode(b"\1" * 32)}, "does not belong"),
        ("EdDSA", {"d": encode(bytes(33))}, "33 bytes"),
    ],
)
def test_an_asymmetric_key_with_a_wrong_member(algorithm: str, changes: dict[str, Any], reason: str) -> None:
    assert reason in refused_key(changed(algorithm, **changes))


@pytest.mark.parametrize(
    "encoded",
    [
        "00" * 32,
        "01" + "00" * 31,
        "00" * 31 + "80",
        "ff" * 32,
        "ec" + "ff" * 30 + "7f",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "02" + "00" * 31,
    ],
)
def test_a_point_that_anyone_can_sign_for_is_no_public_key(encoded: str) -> None:
    text = changed("EdDSA", x=encode(bytes.fromhex(encoded)), d=...)
    assert "no public key" in refused_key(text)


def test_every_ed25519_key_is_on_the_curve() -> None:
    for _ in range(40):
        key = Key.generate("EdDSA")
        assert Key.parse(key.public().text(), "made") == key.public()


def test_a_member_that_is_there_twice_is_refused() -> None:
    text = changed()
    for more in ('"alg":"HS256"', '"k":"x"', '"scope":{"put":"","put":"a"}'):
        assert "twice" in refused_key(f"{text[:-1]},{more}}}")


def test_leading_zeros_of_numbers_do_not_matter() -> None:
    modulus = base64.urlsafe_b64decode(members("RS256")["n"] + "==")
    assert Key.parse(changed("RS256", n=encode(b"\0" + modulus)), "zeros") == key_of("RS256")


def test_nothing_shows_a_secret() -> None:
    for algorithm in ALGORITHMS:
        key = key_of(algorithm)
        shown = repr(key) + str(key) + repr(key._material)
        assert not [
            value
            for value in members(algorithm).values()
            if isinstance(value, str) and len(value) > 16 and value in shown
        ]


def test_keys_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        HS256.algorithm = "none"  # type: ignore[misc]


# --- making, loading and saving --------------------------------------------------------------------------------------


def test_new_keys_differ_and_have_names() -> None:
    first, second = Key.generate("HS384"), Key.generate("HS384")
    assert first != second
    assert first.kid is not None
    assert len(first.kid) == 16
    assert int(first.kid, 16) >= 0
    for algorithm, size in (("HS256", 32), ("HS384", 48), ("HS512", 64)):
        assert len(Key.generate(algorithm)._material.signer) == size
    assert Key.generate("HS256", "my-key").kid == "my-key"
    made = Key.generate("RS256")._material.verifier.public_numbers()
    assert (made.n.bit_length(), made.e) == (2_048, 65_537)


def test_a_secret_shorter_than_the_hash_signs_without_a_warning() -> None:
    short = Key("HS512", "short", frozenset(("sign", "verify")), None, Material.of("HS512", SECRET[:32]))
    assert short.verify(short.sign(CLAIMS)) == CLAIMS


@pytest.mark.parametrize("algorithm", ["none", "", "hs256", "ES512", "RS1"])
def test_an_unknown_algorithm_is_not_made(algorithm: str) -> None:
    with pytest.raises(ValueError, match="expected one of HS256, HS384"):
        Key.generate(algorithm)


@pytest.mark.parametrize("kid", ["", "a/b", "..", "a b", "a" * 129, "a\n"])
def test_a_key_is_not_given_an_unsafe_name(kid: str) -> None:
    with pytest.raises(ValueError, match="letters"):
        Key.generate("HS256", kid)


def test_a_key_is_not_made_with_a_scope_of_nothing() -> None:
    with pytest.raises(ValueError, match="scope"):
        Key.generate("HS256", scope=Scope("a"))


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077, 0o777])
def test_only_the_owner_reads_a_private_key(
    tmp_path: Path, mask: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = []
    opening = os.open

    def watched(path: Any, flags: int, mode: int = 0o777) -> int:
        number = opening(path, flags, mode)
        modes.append(stat.S_IMODE(os.fstat(number).st_mode))
        return number

    monkeypatch.setattr(os, "open", watched)
    before = os.umask(mask)
    try:
        key_of("ES256").save(tmp_path / "private")
        assert [mode & 0o077 for mode in modes] == [0]
        key_of("ES256").public().save(tmp_path / "public")
        key_of("HS256").save(tmp_path / "symmetric", as_json=True)
    finally:
        os.umask(before)
    found = {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
    assert found == {"private": 0o600, "public": 0o644, "symmetric": 0o600}


def test_files_are_not_overwritten_by_accident(tmp_path: Path) -> None:
    file = tmp_path / "key.jwk"
    file.write_text("precious")
    file.chmod(0o644)
    with pytest.raises(FileExistsError):
        HS256.save(file)
    assert file.read_text() == "precious"
    HS256.save(file, replace=True)
    assert Key.load(file) == HS256
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileExistsError):
        HS256.save(tmp_path / "dangling")
    (tmp_path / "folder").mkdir()
    for target in (tmp_path / "folder", Path(os.devnull)):
        with pytest.raises(FileExistsError):
            HS256.save(target, replace=True)
    with pytest.raises(FileNotFoundError):
        HS256.save(tmp_path / "no" / "key.jwk")
    assert sorted(found.name for found in tmp_path.iterdir()) == ["dangling", "folder", "key.jwk"]


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    file = tmp_path / "key.jwk"
    file.write_text("precious")
    with pytest.raises(OSError, match="space"):
        HS256.save(file, replace=True)
    assert [found.name for found in tmp_path.iterdir()] == ["key.jwk"]
    assert file.read_text() == "precious"


def test_a_file_system_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", unsupported)
    HS256.save(tmp_path / "key.jwk")
    assert Key.load(tmp_path / "key.jwk") == HS256
    with pytest.raises(FileExistsError):
        HS256.save(tmp_path / "key.jwk")
    assert [found.name for found in tmp_path.iterdir()] == ["key.jwk"]


def test_files_that_are_no_keys(tmp_path: Path) -> None:
    file = tmp_path / "key.jwk"
    for content in (
        b"",
        b"\xff\xfe\x00",
        b"\0" * 100,
        os.urandom(1 << 20),
        b"{" + b" " * LARGEST_FILE + b"}",
    ):
        file.write_bytes(content)
        with pytest.raises(KeyFileError, match=str(file)):
            Key.load(file)
    with pytest.raises(FileNotFoundError):
        Key.load(tmp_path / "missing.jwk")
    with pytest.raises(IsADirectoryError):
        Key.load(tmp_path)
    with pytest.raises(KeyFileError):
        Key.load(Path("a\0b"))
    with pytest.raises(KeyFileError, match="larger"):
        Key.load(Path("/dev/zero"))


# --- golden keys and tokens ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["key_json", "key_file"])
def test_the_golden_token(form: str) -> None:
    key = Key.parse(VECTORS[form], "golden")
    assert key.kid == "test-key-1"
    assert key.verify(VECTORS["token"]) == Claims.parse(VECTORS["claims"])
    assert token_kid(VECTORS["token"]) == "test-key-1"


def tampered(token: str) -> Iterator[str]:
    """One character changed, at several places, or the payload exchanged."""
    for index in range(0, len(token), 41):
        if token[index] != ".":
            yield f"{token[:index]}{'A' if token[index] != 'A' else 'B'}{token[index + 1 :]}"
    header, _, signature = token.split(".")
    yield f"{header}.{ALL}.{signature}"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_keys_and_tokens_of_the_rust_tool(algorithm: str) -> None:
    golden = GOLDEN[algorithm]
    key = Key.parse(golden["key"], "key")
    assert (key.algorithm, key.kid, key.private, key.scope) == (algorithm, f"golden-{algorithm}", True, None)
    verifiers = [key]
    if "public" in golden:
        public = Key.parse(golden["public"], "public")
        assert public == key.public()
        verifiers.append(public)
    for verifier in verifiers:
        assert verifier.verify(golden["token"]) == Claims(
            "demo", ("live/alice",), ("",), expires=4_102_444_800, issued=1_700_000_000
        )
        assert verifier.verify(golden["endless"]) == Claims("", ("",))
        for token in tampered(golden["token"]):
            refused(verifier, token)
        assert "does not fit" in refused(verifier, GOLDEN[algorithm]["scoped_token"])
    assert key.verify(key.sign(CLAIMS)) == CLAIMS


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_scoped_keys_of_the_rust_tool(algorithm: str) -> None:
    golden = GOLDEN[algorithm]
    key = Key.parse(golden["scoped_key"], "key")
    assert key.scope == Scope("demo", ("live",), ("",))
    assert key.verify(golden["scoped_token"]).publish == ("live/alice",)
    assert "scope" in refused(key, golden["beyond_scope"])


# --- anything at all -------------------------------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)
NAMES = ("alg", "kty", "crv", "key_ops", "use", "kid", "scope", "k", "n", "e", "d", "p", "q", "x", "y", "oth")
likely = st.sampled_from(
    [*ALGORITHMS, "oct", "RSA", "EC", "OKP", "P-256", "Ed25519", "A" * 43, "AQAB", ["sign"], {"put": ""}]
)


@settings(max_examples=repeats(400), deadline=None)
@given(
    st.text() | st.binary().map(lambda data: base64.b64encode(data).decode()) | json_values.map(json.dumps)
)
def test_any_text_is_a_key_or_refused(text: str) -> None:
    with pytest.raises(KeyFileError):
        Key.parse(text, "any")


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(ALGORITHMS), st.dictionaries(st.sampled_from(NAMES), json_values | likely, max_size=4))
def test_any_change_of_a_key_gives_a_key_or_a_refusal(algorithm: str, changes: dict[str, Any]) -> None:
    try:
        key = Key.parse(changed(algorithm, **changes), "any")
    except KeyFileError:
        return
    assert Key.parse(key.text(), "again") == key


@settings(max_examples=repeats(400), deadline=None)
@given(
    st.sampled_from(ALGORITHMS),
    st.text(max_size=60) | st.lists(st.binary(max_size=30).map(encode), min_size=3, max_size=3).map(".".join),
    st.booleans(),
)
def test_any_text_is_a_token_or_refused(algorithm: str, text: str, headed: bool) -> None:
    if headed:
        text = f"{encode(json.dumps({'alg': algorithm}).encode())}.{text.rpartition('.')[2]}"
    for token in (text, f"{text}.e30"):
        with pytest.raises(UnauthorizedError):
            key_of(algorithm).verify(token)
    try:
        kid = token_kid(text)
    except UnauthorizedError:
        return
    assert kid is None or kid.isascii()


@settings(max_examples=repeats(400), deadline=None)
@given(
    json_values
    | st.dictionaries(st.sampled_from(["root", "put", "get", "exp", "cluster", "pub"]), json_values)
)
def test_signed_payloads_of_any_shape_give_claims_or_a_refusal(payload: Any) -> None:
    token = raw(HEADER, json.dumps(payload).encode())
    try:
        claims = HS256.verify(token)
    except UnauthorizedError:
        return
    assert claims.publish or claims.subscribe
