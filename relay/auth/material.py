"""The cryptographic members of a JWK (RFC 7518 section 6, RFC 8037 section 2), with checks that PyJWT lacks."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, NamedTuple, Self

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.utils import base64url_decode, base64url_encode

from relay.runtime import SYSTEM

SHORTEST_SECRET: Final = 32
"""Bytes. RFC 7518 section 3.2 demands the length of the hash, but other tools accept these."""

MODULUS_BITS: Final = (2_048, 8_192)  # RFC 7518 section 3.3; above 8192 a check takes milliseconds

EXPONENT: Final = 65_537
LONGEST_EXPONENT: Final = 32  # bits: a check takes time in proportion; real ones have seventeen


class Form(NamedTuple):
    """Members of a type of key, and the messages for bad ones."""

    public: tuple[str, ...]
    private: tuple[str, ...]
    invalid: str  # for a bad public half, or secret
    unrelated: str = ""  # for a bad private half


FORMS: Final = {
    "oct": Form(("k",), (), "the secret is an encoded key or certificate, random bytes are needed"),
    "RSA": Form(
        ("n", "e"),
        ("d", "p", "q", "dp", "dq", "qi"),
        f"n and e are not those of an RSA key, e is {EXPONENT} as a rule",
        "the members of the RSA key do not belong together",
    ),
    "EC": Form(
        ("x", "y"),
        ("d",),
        "x and y are no point of {crv}",
        "d is no private key of {crv}, or does not belong to x and y",
    ),
    "OKP": Form(("x",), ("d",), "x is no public key of Ed25519", "d does not belong to x"),
}

PRIVATE: Final = frozenset(("k", *FORMS["RSA"].private))

_ORDER: Final = ("kty", "crv", "k", "n", "e", "x", "y", *FORMS["RSA"].private)


class Kind(NamedTuple):
    """The shape of keys of one algorithm."""

    kty: str
    generate: Callable[[], Any]
    crv: str | None = None
    size: int | None = None  # bytes of a member; None if they vary


KINDS: Final = {
    **{f"HS{bits}": Kind("oct", partial(SYSTEM.random.randbytes, bits // 8)) for bits in (256, 384, 512)},
    **{
        f"{family}{bits}": Kind("RSA", partial(rsa.generate_private_key, EXPONENT, MODULUS_BITS[0]))
        for family in ("RS", "PS")
        for bits in (256, 384, 512)
    },
    "ES256": Kind("EC", partial(ec.generate_private_key, ec.SECP256R1()), "P-256", 32),
    "ES384": Kind("EC", partial(ec.generate_private_key, ec.SECP384R1()), "P-384", 48),
    "EdDSA": Kind("OKP", ed25519.Ed25519PrivateKey.generate, "Ed25519", 32),
}
"""RFC 7518 section 3.1 and RFC 8037 section 3.1."""


class MaterialError(ValueError):
    """Missing, malformed, or not belonging together."""


@dataclass(frozen=True, slots=True)
class Material:
    """The checked members, and the keys made from them."""

    members: tuple[tuple[str, str], ...] = field(repr=False)  # `kty` first; secret if there is a `signer`
    verifier: Any = field(repr=False, compare=False)
    signer: Any = field(repr=False, compare=False, default=None)

    @classmethod
    def read(cls, algorithm: str, content: Mapping[str, Any]) -> Self:
        """Raises MaterialError."""
        kind = KINDS[algorithm]
        if content.get("kty", "oct") != kind.kty:
            raise MaterialError(f"kty does not fit alg, {algorithm} goes with {kind.kty}")
        if kind.crv is not None and content.get("crv") != kind.crv:
            raise MaterialError(f"crv does not fit alg, {algorithm} goes with {kind.crv}")
        form = FORMS[kind.kty]
        key = _made(algorithm, content, form.public, form.invalid)
        if kind.kty == "RSA" and "oth" in content:
            # RFC 7518 section 6.3.2.7; PyJWT checks it in private keys only
            raise MaterialError("there are more than two primes (oth), which is not supported")
        missing = [name for name in form.private if name not in content]
        if len(missing) < len(form.private):
            if missing:
                raise MaterialError(f"private members are incomplete, {', '.join(missing)} missing")
            key = _made(algorithm, content, form.public + form.private, form.unrelated)
        return cls.of(algorithm, key)

    @classmethod
    def generate(cls, algorithm: str) -> Self:
        return cls.of(algorithm, KINDS[algorithm].generate())

    @classmethod
    def of(cls, algorithm: str, key: Any) -> Self:
        jwk = jwt.get_algorithm_by_name(algorithm).to_jwk(key, as_dict=True)
        members = tuple((name, jwk[name]) for name in _ORDER if name in jwk)
        verifier = key.public_key() if hasattr(key, "public_key") else key
        return cls(members, verifier, None if PRIVATE.isdisjoint(jwk) else key)

    def public(self) -> Self:
        """Raises MaterialError for a symmetric key."""
        members = tuple((name, value) for name, value in self.members if name not in PRIVATE)
        if dict(members)["kty"] == "oct":
            raise MaterialError("a symmetric key has no public half: the same secret signs and verifies")
        return type(self)(members, self.verifier)


# -- base64url


def encode(data: bytes) -> str:
    """Write base64url without padding, RFC 7515 section 2."""
    return base64url_encode(data).decode()


def decode(text: str) -> bytes:
    """Raises ValueError for anything that `encode` does not write."""
    # Python's decoder skips characters outside the alphabet, or warns (3.15), and ignores bits left at the end
    if not _ALPHABET.fullmatch(text) or encode(data := base64url_decode(text)) != text:
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


# -- keys


def _made(algorithm: str, content: Mapping[str, Any], names: tuple[str, ...], wrong: str) -> Any:
    """Raises MaterialError, with `wrong` if PyJWT refuses the members."""
    kind = KINDS[algorithm]
    octets = {name: _octets(content, name, kind.size) for name in names}
    _check(octets, kind, wrong)
    jwk = {"kty": kind.kty, "crv": kind.crv, **{name: encode(data) for name, data in octets.items()}}
    try:
        made = jwt.PyJWK(jwk, algorithm)
        # `prepare_key` refuses a secret that is an encoded, perhaps public, key
        return made.Algorithm.prepare_key(made.key)
    except (ValueError, jwt.InvalidKeyError):
        raise MaterialError(wrong.format(crv=kind.crv)) from None


def _check(octets: Mapping[str, bytes], kind: Kind, wrong: str) -> None:
    """Refuse weak and broken keys that PyJWT and `cryptography` accept. Raises MaterialError."""
    match octets:
        case {"k": secret} if len(secret) < SHORTEST_SECRET:
            raise MaterialError(f"the secret has {len(secret)} bytes, at least {SHORTEST_SECRET} are needed")
        case {"n": n, "e": e}:
            modulus, exponent = int.from_bytes(n), int.from_bytes(e)
            fewest, most = MODULUS_BITS
            if not fewest <= modulus.bit_length() <= most:
                raise MaterialError(f"n has {modulus.bit_length()} bits, {fewest} to {most} are needed")
            if not modulus & 1 or exponent.bit_length() > LONGEST_EXPONENT:
                raise MaterialError(wrong)
        case {"x": x} if kind.kty == "OKP" and not _on_ed25519(x):
            raise MaterialError(wrong)


def _on_ed25519(encoded: bytes) -> bool:
    """True for a point of the curve (RFC 8032 section 5.1.3), except the eight points that anyone can sign for.

    `cryptography` accepts any 32 bytes, such as the zeros of a file that was written half.
    """
    prime = 2**255 - 19
    d = -121_665 * pow(121_666, -1, prime)
    y = int.from_bytes(encoded, "little") & (2**255 - 1)
    if y >= prime:
        return False
    squared = (y * y - 1) * pow(d * y * y + 1, -1, prime) % prime  # x squared; the divisor is never 0
    if pow(squared, (prime - 1) // 2, prime) > 1:
        return False
    # orders 1 and 2 have y = 1 and -1, order 4 has y = 0; points of order 8 have a double with y = 0
    return y * (y * y - 1) * (d * y**4 + 2 * y * y - 1) % prime != 0
