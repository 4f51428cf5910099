"""Tokens of every kind, made with PyJWT: independent of the code under test."""

from __future__ import annotations

import base64
import json
from typing import Any

import jwt

from relay.auth.authenticator import Authenticator, Keys, OneKey
from relay.auth.claims import Claims
from relay.auth.key import Key
from relay.auth.throttle import Throttle

SECRET = b"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
HEADER = b'{"alg":"HS256","typ":"JWT"}'


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def jwk(secret: bytes = SECRET, **changes: Any) -> str:
    """A symmetric key as JSON; a member changed to "absent" is left out."""
    content = {"alg": "HS256", "key_ops": ["sign", "verify"], "k": base64url(secret), **changes}
    return json.dumps({name: value for name, value in content.items() if value != "absent"})


KEY = Key.parse(jwk(), "the test's key")


def signed(claims: dict[str, Any], *, algorithm: str = "HS256", secret: Any = SECRET, **headers: Any) -> str:
    return jwt.encode(claims, secret, algorithm=algorithm, headers=headers or None)


def raw(header: bytes, payload: bytes, *, sign: bool = True) -> str:
    """A token of any bytes, signed correctly with SECRET."""
    parts = [base64url(part).encode() for part in (header, payload)]
    algorithm = jwt.get_algorithm_by_name("HS256")
    signature = algorithm.sign(b".".join(parts), algorithm.prepare_key(SECRET)) if sign else b""
    return b".".join([*parts, base64url(signature).encode()]).decode()


class Clock:
    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def authenticator(
    *, keys: Keys | None = None, public: str | Claims | None = None, now: Clock | None = None, **options: Any
) -> Authenticator:
    """With KEY, unless `keys` are given; `public` is a path open to anyone."""
    clock = Clock() if now is None else now
    return Authenticator(
        keys=OneKey(KEY) if keys is None else keys,
        public=Claims(publish=(public,), subscribe=(public,)) if isinstance(public, str) else public,
        throttle=Throttle(failures=3, delay=0.001, clock=clock),
        now=clock,
        **options,
    )
