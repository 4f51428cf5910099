"""The authenticator: URL path and `?jwt=` in, permissions or a refusal out.

Owns the key and the rules of `[auth]`. The signature is checked by PyJWT with the key's own algorithm only. A refusal
says why, for our log; the peer learns no more than that it is not authorised.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl

import jwt

from relay.auth.permissions import Permissions, reduce_grants
from relay.model.path import normalize

ALGORITHMS: Final = {"HS256": 32, "HS384": 48, "HS512": 64}
"""Supported algorithms and the shortest secret that each accepts, in bytes."""

SHORTEST_SECRET: Final = 32
LEEWAY: Final = 60
"""Seconds that clocks may disagree."""


class KeyFileError(ValueError):
    """The key file is unusable; the message says why, without its content."""


class UnauthorizedError(Exception):
    """Refused. The text is for our own log."""


@dataclass(frozen=True, slots=True)
class Key:
    """A symmetric key as the field's token tools write it: a JWK, as JSON or as base64url of that JSON."""

    algorithm: str
    secret: bytes

    @classmethod
    def load(cls, file: Path) -> Key:
        """Read a key file. Raises KeyFileError, or OSError."""
        try:
            text = file.read_text(encoding="utf-8").strip()
        except UnicodeDecodeError:
            raise KeyFileError(f"{file}: not a text file") from None
        return cls.parse(text, str(file))

    @classmethod
    def parse(cls, text: str, name: str) -> Key:
        """Read the content of a key file called `name`."""
        try:
            raw = text if text.startswith("{") else _unbase64(text).decode()
            content = json.loads(raw)
        except ValueError:
            raise KeyFileError(f"{name}: neither a JSON web key nor base64url of one") from None
        if not isinstance(content, dict):
            raise KeyFileError(f"{name}: a JSON web key is an object")
        algorithm, operations = content.get("alg"), content.get("key_ops", ["verify"])
        if (
            not isinstance(algorithm, str)
            or algorithm not in ALGORITHMS
            or content.get("kty", "oct") != "oct"
        ):
            raise KeyFileError(f"{name}: alg must be one of {', '.join(ALGORITHMS)} with a symmetric key")
        if not isinstance(operations, list) or "verify" not in operations:
            raise KeyFileError(f'{name}: key_ops does not contain "verify"')
        try:
            secret = _unbase64(content["k"])
        except (KeyError, TypeError, ValueError, AttributeError):
            raise KeyFileError(f"{name}: k must be the secret in base64url") from None
        if len(secret) < SHORTEST_SECRET:
            raise KeyFileError(
                f"{name}: the secret has {len(secret)} bytes, at least {SHORTEST_SECRET} are needed"
            )
        return cls(algorithm, secret)


def _unbase64(text: str) -> bytes:
    try:
        return base64.urlsafe_b64decode(text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4))
    except binascii.Error as error:
        raise ValueError(str(error)) from None


def token_of(query: str) -> str | None:
    """The first `jwt` of a URL query, form-decoded."""
    return next((value for name, value in parse_qsl(query, keep_blank_values=True) if name == "jwt"), None)


class Authenticator:
    """Decides on every session and HTTP request."""

    def __init__(self, *, key: Key | None, public: str | None) -> None:
        self._key = key
        self._public = public

    def verify(self, path: str, query: str) -> Permissions:
        """Permissions of a peer that asked for `path?query`. Raises UnauthorizedError."""
        token = token_of(query)
        claims = self._claims(token)
        root = claims.get("root", "")
        if not isinstance(root, str):
            raise UnauthorizedError("claim root is not a string")
        publish = reduce_grants(_strings(claims, "put"), root, path)
        subscribe = reduce_grants(_strings(claims, "get"), root, path)
        if publish is None or subscribe is None:
            whose = "the token is for" if token else "anonymous access is for"
            raise UnauthorizedError(f"{whose} {root!r}, not for {path!r}")
        if not publish and not subscribe:
            raise UnauthorizedError(f"nothing is granted at {path!r}")
        expires = _seconds(claims.get("exp"))
        return Permissions(
            root=normalize(path),
            publish=publish,
            subscribe=subscribe,
            cluster=claims.get("cluster") is True,
            expires=None if expires is None else expires + LEEWAY,
        )

    def _claims(self, token: str | None) -> dict[str, Any]:
        if token:
            if self._key is None:
                raise UnauthorizedError("a token was given, but no [auth] key is configured")
            try:
                # `sub` and `aud` are the subject and audience of RFC 7519; no claim of ours depends on them
                return jwt.decode(
                    token,
                    self._key.secret,
                    algorithms=[self._key.algorithm],
                    leeway=LEEWAY,
                    options={"verify_aud": False, "verify_sub": False, "verify_iat": False},
                )
            except jwt.PyJWTError as error:
                raise UnauthorizedError(f"token refused: {error}") from None
            except (ValueError, TypeError, OverflowError, RecursionError):
                raise UnauthorizedError("token refused: not a token") from None
        if self._public is None:
            raise UnauthorizedError("a token is needed")
        return {"root": self._public, "put": [""], "get": [""]}


def _seconds(value: Any) -> float | None:
    try:
        return None if value is None else float(value)
    except (OverflowError, TypeError, ValueError):
        raise UnauthorizedError("claim exp is no time") from None


def _strings(claims: dict[str, Any], name: str) -> list[str]:
    value = claims.get(name, [])
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return value
    raise UnauthorizedError(f"claim {name} is neither a string nor a list of strings")
