"""The cryptographic members of a JWK: read strictly, checked, made, and written again.

Owns key types, curves and sizes (RFC 7518 section 6, RFC 8037 section 2). Must never put a secret into a message, and
never sees a token or the name of a file. Called by `key`.
"""

from __future__ import annotations

import base64
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa


@dataclass(frozen=True, slots=True)
class Kind:
    """What a key of an algorithm looks like."""

    kty: str
    size: int
    """Bytes: of a new secret, of a coordinate, of an Ed25519 half; of a new modulus."""

    crv: str | None = None
    curve: ec.EllipticCurve | None = None


KINDS: Final = {
    "HS256": Kind("oct", 32),
    "HS384": Kind("oct", 48),
    "HS512": Kind("oct", 64),
    **{f"{family}{bits}": Kind("RSA", 256) for family in ("RS", "PS") for bits in (256, 384, 512)},
    "ES256": Kind("EC", 32, "P-256", ec.SECP256R1()),
    "ES384": Kind("EC", 48, "P-384", ec.SECP384R1()),
    "EdDSA": Kind("OKP", 32, "Ed25519"),
}
"""By the name of the algorithm, RFC 7518 section 3.1 and RFC 8037 section 3.1."""

SHORTEST_SECRET: Final = 32
"""Bytes, for every HMAC: RFC 7518 section 3.2 wants as many as the hash has, but the field's tools accept these."""

MODULUS_BITS: Final = (2_048, 8_192)
"""RFC 7518 section 3.3 wants the lower bound; above the upper one a single check takes milliseconds."""

EXPONENT: Final = 65_537
LONGEST_EXPONENT: Final = 32
"""Bits. The exponent decides how long a check takes, and real ones have seventeen."""

PRIVATE_RSA: Final = ("d", "p", "q", "dp", "dq", "qi")
PRIVATE: Final = frozenset(("k", *PRIVATE_RSA))
"""Members that a public key has none of."""


class MaterialError(ValueError):
    """Members of a JWK are missing, malformed, or do not belong together. The text holds nothing of the key."""


@dataclass(frozen=True, slots=True)
class Material:
    """The checked members, and the objects that they make."""

    members: tuple[tuple[str, str], ...] = field(repr=False)
    """`kty` first. Secret if `signer` is there."""

    verifier: Any = field(repr=False, compare=False)
    """What PyJWT's algorithm object takes to check a signature."""

    signer: Any = field(repr=False, compare=False, default=None)
    """What it takes to make one; None in a public key."""

    @classmethod
    def read(cls, algorithm: str, content: Mapping[str, Any]) -> Self:
        """Take the members that `algorithm` calls for. Raises MaterialError."""
        kind = KINDS[algorithm]
        if content.get("kty", "oct") != kind.kty:
            raise MaterialError(f"kty does not fit alg, {algorithm} goes with {kind.kty}")
        if kind.crv is not None and content.get("crv") != kind.crv:
            raise MaterialError(f"crv does not fit alg, {algorithm} goes with {kind.crv}")
        return cls.of(algorithm, _READERS[kind.kty](content, kind))

    @classmethod
    def generate(cls, algorithm: str) -> Self:
        """Make new material."""
        kind = KINDS[algorithm]
        if kind.kty == "oct":
            return cls.of(algorithm, secrets.token_bytes(kind.size))
        if kind.kty == "RSA":
            return cls.of(algorithm, rsa.generate_private_key(EXPONENT, kind.size * 8))
        if kind.curve is not None:
            return cls.of(algorithm, ec.generate_private_key(kind.curve))
        return cls.of(algorithm, ed25519.Ed25519PrivateKey.generate())

    @classmethod
    def of(cls, algorithm: str, key: Any) -> Self:
        """Take a secret, or a key of `cryptography`, that fits `algorithm`."""
        kind = KINDS[algorithm]
        if isinstance(key, bytes):
            return cls((("kty", "oct"), ("k", encode(key))), key, key)
        private = hasattr(key, "public_key")
        public = key.public_key() if private else key
        members = {"kty": kind.kty}
        if kind.crv is not None:
            members["crv"] = kind.crv
        members.update(_WRITERS[kind.kty](public, key if private else None, kind.size))
        return cls(tuple(members.items()), public, key if private else None)

    def public(self) -> Self:
        """Drop the private members. Raises MaterialError where nothing would be left."""
        members = tuple((name, value) for name, value in self.members if name not in PRIVATE)
        if dict(members)["kty"] == "oct":
            raise MaterialError("a symmetric key has no public half: who verifies with it can sign with it")
        return type(self)(members, self.verifier)


# -- base64url


def encode(data: bytes) -> str:
    """Write base64url without padding, RFC 7515 section 2."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decode(text: str) -> bytes:
    """Read base64url without padding. Raises ValueError for anything that `encode` does not write."""
    # Python's own decoder passes over what is not of the alphabet, and over bits that are left at the end.
    if not _ALPHABET.fullmatch(text) or len(text) % 4 == 1:
        raise ValueError("not base64url")
    data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if encode(data) != text:
        raise ValueError("not base64url")
    return data


def unpadded(text: str) -> str:
    """Drop correct padding. Raises ValueError for any other."""
    body = text.rstrip("=")
    if body != text and (len(text) % 4 or len(text) - len(body) > 2):  # noqa: PLR2004 - as much as there can be
        raise ValueError("wrong padding")
    return body


_ALPHABET: Final = re.compile("[A-Za-z0-9_-]*")


def _octets(content: Mapping[str, Any], name: str, size: int | None = None) -> bytes:
    value = content.get(name)
    if not isinstance(value, str) or not value:
        raise MaterialError(f"{name} is missing, it must be base64url")
    try:
        data = decode(unpadded(value))
    except ValueError:
        raise MaterialError(f"{name} is not base64url") from None
    if size is not None and len(data) != size:
        raise MaterialError(f"{name} has {len(data)} bytes, {size} are needed")
    return data


def _number(content: Mapping[str, Any], name: str) -> int:
    return int.from_bytes(_octets(content, name), "big")


def _numeral(number: int) -> str:
    """Base64urlUInt, RFC 7518 section 2: as few octets as it takes."""
    return encode(number.to_bytes((number.bit_length() + 7) // 8, "big"))


# -- symmetric keys, RFC 7518 section 6.4


def _read_secret(content: Mapping[str, Any], _kind: Kind) -> bytes:
    secret = _octets(content, "k")
    if len(secret) < SHORTEST_SECRET:
        raise MaterialError(f"the secret has {len(secret)} bytes, at least {SHORTEST_SECRET} are needed")
    try:
        # PyJWT knows what public keys look like. Whoever made a secret of one has published it.
        jwt.get_algorithm_by_name("HS256").prepare_key(secret)
    except (jwt.InvalidKeyError, ValueError, RecursionError):
        raise MaterialError("the secret is an encoded key or certificate, random bytes are needed") from None
    return secret


# -- RSA, RFC 7518 section 6.3


def _read_rsa(content: Mapping[str, Any], _kind: Kind) -> rsa.RSAPrivateKey | rsa.RSAPublicKey:
    modulus, exponent = (_number(content, name) for name in ("n", "e"))
    fewest, most = MODULUS_BITS
    if not fewest <= modulus.bit_length() <= most:
        raise MaterialError(f"n has {modulus.bit_length()} bits, {fewest} to {most} are needed")
    if not modulus & exponent & 1 or exponent == 1 or exponent.bit_length() > LONGEST_EXPONENT:
        raise MaterialError(f"n and e are not those of an RSA key, e is {EXPONENT} as a rule")
    if "oth" in content:
        # Section 6.3.2.7: who does not support more than two primes must refuse.
        raise MaterialError("there are more than two primes (oth), which is not supported")
    public = rsa.RSAPublicNumbers(exponent, modulus)
    missing = [name for name in PRIVATE_RSA if name not in content]
    if 0 < len(missing) < len(PRIVATE_RSA):
        raise MaterialError(f"private members are incomplete, {', '.join(missing)} missing")
    numbers = [] if missing else [_number(content, name) for name in PRIVATE_RSA]
    try:
        if not numbers:
            return public.public_key()
        d, p, q, dp, dq, qi = numbers
        return rsa.RSAPrivateNumbers(p, q, d, dp, dq, qi, public).private_key()
    except ValueError:
        raise MaterialError("the members of the RSA key do not belong together") from None


def _write_rsa(public: rsa.RSAPublicKey, private: rsa.RSAPrivateKey | None, _size: int) -> dict[str, str]:
    numbers = public.public_numbers()
    members = {"n": numbers.n, "e": numbers.e}
    if private is not None:
        own = private.private_numbers()
        parts = (own.d, own.p, own.q, own.dmp1, own.dmq1, own.iqmp)
        members.update(zip(PRIVATE_RSA, parts, strict=True))
    return {name: _numeral(number) for name, number in members.items()}


# -- elliptic curves, RFC 7518 section 6.2


def _read_ec(
    content: Mapping[str, Any], kind: Kind
) -> ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey:
    assert kind.curve is not None
    x, y = (int.from_bytes(_octets(content, name, kind.size), "big") for name in ("x", "y"))
    try:
        public = ec.EllipticCurvePublicNumbers(x, y, kind.curve).public_key()
    except ValueError:
        raise MaterialError(f"x and y are no point of {kind.crv}") from None
    if "d" not in content:
        return public
    secret = int.from_bytes(_octets(content, "d", kind.size), "big")
    try:
        private = ec.derive_private_key(secret, kind.curve)
    except ValueError:
        raise MaterialError(f"d is no private key of {kind.crv}") from None
    if private.public_key().public_numbers() != public.public_numbers():
        raise MaterialError("d does not belong to x and y")
    return private


def _write_ec(
    public: ec.EllipticCurvePublicKey, private: ec.EllipticCurvePrivateKey | None, size: int
) -> dict[str, str]:
    numbers = public.public_numbers()
    members = {"x": numbers.x, "y": numbers.y}
    if private is not None:
        members["d"] = private.private_numbers().private_value
    return {name: encode(number.to_bytes(size, "big")) for name, number in members.items()}


# -- Ed25519, RFC 8037 section 2


def _read_okp(content: Mapping[str, Any], kind: Kind) -> ed25519.Ed25519PrivateKey | ed25519.Ed25519PublicKey:
    x = _octets(content, "x", kind.size)
    if not _on_ed25519(x):
        raise MaterialError("x is no public key of Ed25519")
    if "d" not in content:
        return ed25519.Ed25519PublicKey.from_public_bytes(x)
    private = ed25519.Ed25519PrivateKey.from_private_bytes(_octets(content, "d", kind.size))
    if private.public_key().public_bytes_raw() != x:
        raise MaterialError("d does not belong to x")
    return private


def _on_ed25519(encoded: bytes) -> bool:
    """Whether this is a point (RFC 8032 section 5.1.3), and none of the eight that anyone can sign for.

    `cryptography` takes any 32 bytes, and zeros are what a file that was written half holds.
    """
    prime = 2**255 - 19
    d = -121_665 * pow(121_666, -1, prime)
    y = int.from_bytes(encoded, "little") & (2**255 - 1)
    if y >= prime:
        return False
    squared = (y * y - 1) * pow(d * y * y + 1, -1, prime) % prime  # that of x; the divisor is never 0
    if pow(squared, (prime - 1) // 2, prime) > 1:
        return False
    # Orders 1 and 2 have y = 1 and -1, order 4 has y = 0; of order 8 are those whose double has y = 0.
    return y * (y * y - 1) * (d * y**4 + 2 * y * y - 1) % prime != 0


def _write_okp(
    public: ed25519.Ed25519PublicKey, private: ed25519.Ed25519PrivateKey | None, _size: int
) -> dict[str, str]:
    members = {"x": encode(public.public_bytes_raw())}
    if private is not None:
        members["d"] = encode(private.private_bytes_raw())
    return members


_READERS: Final[dict[str, Callable[[Mapping[str, Any], Kind], Any]]] = {
    "oct": _read_secret,
    "RSA": _read_rsa,
    "EC": _read_ec,
    "OKP": _read_okp,
}
_WRITERS: Final[dict[str, Callable[[Any, Any, int], dict[str, str]]]] = {
    "RSA": _write_rsa,
    "EC": _write_ec,
    "OKP": _write_okp,
}
