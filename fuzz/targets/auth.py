"""Keys, tokens and their URLs."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import jwt

from fuzz.source import Source
from relay.auth.authenticator import Authenticator, OneKey, token_of
from relay.auth.claims import Claims, Scope
from relay.auth.key import ALGORITHMS, Key, KeyFileError, token_kid, unverified_claims
from relay.auth.material import encode
from relay.auth.permissions import UnauthorizedError, requested_path
from relay.auth.throttle import Throttle
from relay.logger import loggable

NOW = 1_700_000_000.0
MEMBERS = ("alg", "kty", "k", "kid", "key_ops", "use", "scope", "crv", "x", "y", "d", "n", "e", "p", "q", "dp", "dq",
           "qi", "oth", "keys")  # fmt: skip
CLAIMS = ("root", "put", "get", "pub", "sub", "cluster", "exp", "nbf", "iat", "aud")
WORDS = ("", "a", "a/b", "room/123", "*", "..", "sign", "verify", "oct", "EC", "sig", "/", "a//b/", "\ud800")


@functools.cache
def keys() -> tuple[Key, ...]:
    """One of each inexpensive kind."""
    scope = Scope("a", ("b",), ("",))
    return (
        *(Key.generate(name, "k1") for name in ("HS256", "ES256", "EdDSA", "RS256")),
        Key.generate("HS256", "k1", scope),
    )


def value(source: Source, depth: int = 3) -> Any:
    """Some JSON."""
    match source.byte() % 10:
        case 0:
            return None
        case 1:
            return source.flag()
        case 2:
            return source.number()
        case 3:
            return source.byte() / 7 * 10.0 ** (source.byte() - 128)
        case 4 | 5:
            return source.pick(WORDS)
        case 6:
            return source.text()
        case 7 if depth:
            return [value(source, depth - 1) for _ in range(source.byte() % 4)]
        case 8 if depth:
            names = CLAIMS if source.flag() else MEMBERS
            return {source.pick(names): value(source, depth - 1) for _ in range(source.byte() % 4)}
        case _:
            return encode(source.chunk())


def key_files(data: bytes) -> None:
    """The content of a key file, or of a key server's answer."""
    source = Source(data)
    match source.byte() % 4:
        case 0:
            text = source.rest().decode("utf-8", "replace")
        case 1:
            text = encode(source.rest())
        case _:
            key = source.pick(keys())
            content = (
                json.loads(key.text(as_json=True)) if source.flag() else {"alg": source.pick(ALGORITHMS)}
            )
            for _ in range(source.byte() % 6):
                name = source.pick(MEMBERS)
                if source.byte() % 4 == 1:
                    content.pop(name, None)
                else:
                    content[name] = value(source)
            text = json.dumps(content)
    try:
        key = Key.parse(text, "the key")
    except KeyFileError as error:
        assert str(error).startswith("the key: ")
        return
    again = Key.parse(key.text(), "the key")
    assert again == key
    with suppress(ValueError):
        assert not key.public().private


def finished(work: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that never waits."""
    try:
        work.send(None)
    except StopIteration as done:
        return done.value
    work.close()
    raise AssertionError("it waits")


def verdict(key: Key, token: str, path: str, query: str = "") -> None:
    """Permissions of a token, or UnauthorizedError."""
    for look in (token_kid, unverified_claims):
        with suppress(UnauthorizedError):
            look(token)
    authenticator = Authenticator(
        keys=OneKey(key),
        public=Claims("anon", ("",), ("",)),
        throttle=Throttle(failures=1_000_000, delay=1.0, clock=lambda: NOW),
        now=lambda: NOW,
    )
    with suppress(UnauthorizedError):
        permissions = finished(authenticator.verify(path, query or f"jwt={token}"))
        assert permissions.publish or permissions.subscribe
        assert requested_path(path) == permissions.root
    with suppress(UnauthorizedError):
        finished(authenticator.admit(path, query or f"jwt={token}", "192.0.2.1:5"))


def tokens(data: bytes) -> None:
    """Raw, and with a valid signature for any header and payload."""
    source = Source(data)
    key = source.pick(keys())
    path = source.text() if source.flag() else source.pick(WORDS)
    kind = source.byte() % 6
    if kind == 0:
        verdict(key, source.rest().decode("utf-8", "surrogateescape"), path)
        return
    if kind == 1:
        header: Any = source.chunk()
        content: Any = source.rest()
    else:
        head = {"alg": key.algorithm, "typ": "JWT"}
        for _ in range(source.byte() % 3):
            head[source.pick(("alg", "kid", "crit", "b64", "typ"))] = value(source)
        claims = {"root": "", "put": [""]} if source.flag() else {}
        for _ in range(source.byte() % 5):
            claims[source.pick(CLAIMS)] = value(source)
        header, content = json.dumps(head).encode(), json.dumps(claims).encode()
    signed = f"{encode(header)}.{encode(content)}"
    signature = jwt.get_algorithm_by_name(key.algorithm).sign(signed.encode(), key._material.signer)
    verdict(key, f"{signed}.{encode(signature)}", path)


def urls(data: bytes) -> None:
    """Paths and queries as peers send them."""
    source = Source(data)
    path, query = source.text(), source.rest().decode("utf-8", "surrogateescape")
    assert len(loggable(path)) < 4_000
    with suppress(UnauthorizedError):
        token_of(query)
    with suppress(UnauthorizedError):
        root = requested_path(path)
        assert requested_path(root) == root
    verdict(keys()[0], "", path, query)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "auth-keys": key_files,
    "auth-tokens": tokens,
    "auth-urls": urls,
}
