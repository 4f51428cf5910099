"""A JWK (RFC 7517), which signs and verifies tokens (RFC 7515, RFC 7519).

PyJWT makes and checks signatures; this file reads everything around them strictly, so that all readers
understand a token alike. No message holds a secret or a part of a token.
"""

from __future__ import annotations

import errno
import json
import os
import re
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import jwt

from relay.auth.claims import ClaimError, Claims, Scope
from relay.auth.material import KINDS, Material, MaterialError, decode, encode, unpadded
from relay.auth.permissions import UnauthorizedError
from relay.runtime import SYSTEM

ALGORITHMS: Final = tuple(KINDS)

LONGEST_TOKEN: Final = 8_192  # characters; real ones have some hundred

LARGEST_FILE: Final = 65_536  # bytes; the largest RSA key has a tenth of that

SIGN: Final = "sign"
VERIFY: Final = "verify"
OPERATIONS: Final = frozenset(
    (SIGN, VERIFY, "encrypt", "decrypt", "wrapKey", "unwrapKey", "deriveKey", "deriveBits")
)
"""RFC 7517 section 4.3."""

_KID: Final = re.compile("[A-Za-z0-9_-]{1,128}")

_NOT_A_KEY: Final = "neither a JSON web key nor base64url of one; `moq-token generate` makes keys"


class KeyFileError(ValueError):
    """The message begins with the file's name."""


@dataclass(frozen=True, slots=True)
class Key:
    """Checked; `load`, `parse`, `generate` and `public` make one."""

    algorithm: str
    kid: str | None
    operations: frozenset[str]  # `key_ops`; a public key may say "sign" here, and still cannot
    scope: Scope | None
    _material: Material = field(repr=False)

    @property
    def private(self) -> bool:
        return self._material.signer is not None

    # -- files

    @classmethod
    def load(cls, file: Path) -> Self:
        """Raises KeyFileError, or OSError."""
        try:
            with file.open("rb") as stream:
                content = stream.read(LARGEST_FILE + 1)
        except ValueError:
            raise KeyFileError(f"{str(file)!r}: not the name of a file") from None
        try:
            text = content.decode()
        except UnicodeDecodeError:
            raise KeyFileError(f"{file}: not a text file, {_NOT_A_KEY}") from None
        return cls.parse(text, str(file))

    @classmethod
    def parse(cls, text: str, name: str) -> Self:
        """Read a JWK in JSON, or base64url of that, from the file `name`. Raises KeyFileError."""
        text = text.strip()
        if len(text) > LARGEST_FILE:
            raise KeyFileError(f"{name}: larger than {LARGEST_FILE} bytes, which no key is")
        try:
            if not text.startswith("{"):
                # general tools write the standard alphabet
                text = decode(unpadded(text.translate(_TO_BASE64URL))).decode()
            content = _json_object(text)
        except _TwiceError:
            raise KeyFileError(f"{name}: a member of the JSON web key is there twice") from None
        except ValueError:
            raise KeyFileError(f"{name}: {_NOT_A_KEY}") from None
        try:
            return cls._of(content)
        except ValueError as error:
            raise KeyFileError(f"{name}: {error}") from None

    @classmethod
    def _of(cls, content: dict[str, Any]) -> Self:
        if "keys" in content and "alg" not in content:
            raise MaterialError("a set of keys, put each key into a file of its own")
        algorithm = content.get("alg")
        if not isinstance(algorithm, str) or algorithm not in KINDS:
            raise MaterialError(f"alg must be one of {', '.join(ALGORITHMS)}")
        if content.get("use", "sig") != "sig":
            raise MaterialError('use must be "sig" or absent')
        kid = content.get("kid")
        if "kid" in content and not (isinstance(kid, str) and is_kid(kid)):
            raise MaterialError("kid must be 1 to 128 letters, digits, hyphens and underscores")
        try:
            scope = Scope.parse(content["scope"]) if "scope" in content else None
        except ClaimError as error:
            raise MaterialError(f"scope cannot be read: {error}") from None
        if scope is not None and not _unicode(scope):
            raise MaterialError("scope has a path that is not Unicode text")
        operations = _operations(content)
        return cls(algorithm, kid, operations, scope, Material.read(algorithm, content))

    @classmethod
    def generate(cls, algorithm: str, kid: str | None = None, scope: Scope | None = None) -> Self:
        """The default `kid` is random. Raises ValueError."""
        if algorithm not in KINDS:
            raise ValueError(f"unknown algorithm, expected one of {', '.join(ALGORITHMS)}")
        if kid is None:
            kid = random_kid()
        elif not is_kid(kid):
            raise ValueError("a key id has 1 to 128 letters, digits, hyphens and underscores")
        if scope is not None and not scope.publish and not scope.subscribe:
            raise ValueError("a scope must allow something: name what may be published or subscribed")
        return cls(algorithm, kid, frozenset((SIGN, VERIFY)), scope, Material.generate(algorithm))

    def public(self) -> Self:
        """Raises ValueError for a symmetric key, and for one that may not verify."""
        material = self._material.public()
        if VERIFY not in self.operations:
            raise ValueError('the key is not for verifying: its key_ops do not contain "verify"')
        return type(self)(self.algorithm, self.kid, frozenset((VERIFY,)), self.scope, material)

    def text(self, *, as_json: bool = False) -> str:
        """The JWK with its secrets, as base64url, which all tools read, or as JSON."""
        content: dict[str, Any] = {
            "alg": self.algorithm,
            "key_ops": sorted(self.operations),
            **dict(self._material.members),
        }
        if self.kid is not None:
            content["kid"] = self.kid
        if self.scope is not None:
            content["scope"] = self.scope.payload()
        if as_json:
            return json.dumps(content, indent=2, ensure_ascii=False)
        return encode(_compact(content))

    def save(self, file: Path, *, as_json: bool = False, replace: bool = False) -> None:
        """Write at once, with mode 0600 if private. Raises FileExistsError unless `replace`, and OSError."""
        if file.exists() and not (replace and file.is_file()):  # never replace a device such as /dev/null
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(file))
        mode = 0o600 if self.private else 0o644
        draft = file.with_name(f".moq-token-{SYSTEM.random.randbytes(8).hex()}")
        # `fchmod` adds the bits that the umask takes
        stream = os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8")
        try:
            with stream:
                os.fchmod(stream.fileno(), mode)
                stream.write(self.text(as_json=as_json) + "\n")
                stream.flush()
                os.fsync(stream.fileno())
            if replace:
                draft.replace(file)
            else:
                _claim(draft, file)
        finally:
            draft.unlink(missing_ok=True)

    # -- tokens

    def sign(self, claims: Claims) -> str:
        """Raises ValueError if the key cannot sign, or may not grant this."""
        if not self.private:
            raise ValueError("the key is a public one, tokens are signed with the private one")
        if SIGN not in self.operations:
            raise ValueError('the key is not for signing: its key_ops do not contain "sign"')
        if not claims.publish and not claims.subscribe:
            raise ValueError("the token would grant nothing: name what may be published or subscribed")
        if not _unicode(claims):
            raise ValueError("a path is not Unicode text")
        if self.scope is not None and not self.scope.allows(claims):
            raise ValueError("the token would grant more than the scope of the key allows")
        payload, header = _compact(claims.payload()), None if self.kid is None else {"kid": self.kid}
        # PyJWT warns of secrets shorter than the hash, which other tools make and accept
        with warnings.catch_warnings(action="ignore", category=jwt.InsecureKeyLengthWarning):
            token = jwt.PyJWS().encode(payload, self._material.signer, self.algorithm, header)
        if len(token) > LONGEST_TOKEN:
            raise ValueError(f"the token has {len(token)} characters, relays take {LONGEST_TOKEN} at most")
        return token

    def verify(self, token: str) -> Claims:
        """Expired or not. Raises UnauthorizedError."""
        if VERIFY not in self.operations:
            raise UnauthorizedError('the key is not for verifying: its key_ops do not contain "verify"')
        header, payload, signature = _split(token)
        if _header(header).get("alg") != self.algorithm:
            raise UnauthorizedError(f"the token is not signed with {self.algorithm}, as the key would")
        if not self._signed(f"{header}.{payload}".encode(), _decoded(signature, "signature")):
            raise UnauthorizedError("the signature does not fit the key")
        claims = Claims.parse(_part(payload, "payload"))
        if not claims.publish and not claims.subscribe:
            raise UnauthorizedError("the token grants nothing")
        if not _unicode(claims):
            raise UnauthorizedError("a path of the token is not Unicode text")
        if self.scope is not None and not self.scope.allows(claims):
            raise UnauthorizedError("the token grants more than the scope of the key allows")
        return claims

    def _signed(self, data: bytes, signature: bytes) -> bool:
        # `jwt.decode` would check the key anew for each token
        algorithm = jwt.get_algorithm_by_name(self.algorithm)
        return algorithm.verify(data, self._material.verifier, signature)


def random_kid() -> str:
    """16 hexadecimal digits."""
    return SYSTEM.random.randbytes(8).hex()


def is_kid(text: str) -> bool:
    """True if the text is safe in a file name and in a URL."""
    return _KID.fullmatch(text) is not None


def token_kid(token: str) -> str | None:
    """Unverified. Raises UnauthorizedError."""
    header = _header(_split(token)[0])
    kid = header.get("kid")
    if "kid" in header and not (isinstance(kid, str) and is_kid(kid)):
        raise UnauthorizedError("the token names its key (kid) in a way that no key is named")
    return kid


def unverified_claims(token: str) -> Claims:
    """Raises UnauthorizedError."""
    return Claims.parse(_part(_split(token)[1], "payload"))


# -- tokens: JWS compact serialization, RFC 7515 section 7.1


def _split(token: str) -> list[str]:
    if len(token) > LONGEST_TOKEN:
        raise UnauthorizedError(f"the token has {len(token)} characters, {LONGEST_TOKEN} are taken at most")
    parts = token.split(".")
    if len(parts) != len(("header", "payload", "signature")) or not token.isascii():
        raise UnauthorizedError("not a token: it has three parts of ASCII characters, with dots between")
    return parts


def _header(text: str) -> dict[str, Any]:
    header = _part(text, "header")
    if "crit" in header or "b64" in header:  # RFC 7515 section 4.1.11
        raise UnauthorizedError("the token uses extensions (crit or b64), which are not supported")
    return header


def _part(text: str, name: str) -> dict[str, Any]:
    try:
        return _json_object(_decoded(text, name).decode())
    except ValueError:
        raise UnauthorizedError(f"not a token: the {name} is no JSON object") from None


def _decoded(text: str, name: str) -> bytes:
    try:
        return decode(text)
    except ValueError:
        raise UnauthorizedError(f"not a token: the {name} is not base64url") from None


# -- JSON


class _TwiceError(ValueError):
    """An object has two members of one name; readers take different ones."""


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text, object_pairs_hook=_once)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("not an object")  # noqa: TRY004 - one error for all faults
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _TwiceError
    return members


def _unicode(paths: Claims | Scope) -> bool:
    """False for half of a surrogate pair: JSON can hold one, URLs and announcements cannot."""
    try:
        "".join((paths.root, *paths.publish, *paths.subscribe)).encode()
    except UnicodeEncodeError:
        return False
    return True


def _compact(content: dict[str, Any]) -> bytes:
    return json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()


# -- files

_TO_BASE64URL: Final = str.maketrans("+/", "-_")


def _operations(content: dict[str, Any]) -> frozenset[str]:
    operations = content.get("key_ops", [SIGN, VERIFY])
    if (
        not isinstance(operations, list)
        or not operations
        or not all(isinstance(operation, str) and operation in OPERATIONS for operation in operations)
        or len(set(operations)) != len(operations)
    ):
        raise MaterialError('key_ops must be a list such as ["sign", "verify"], each once')
    return frozenset(operations)


def _claim(draft: Path, file: Path) -> None:
    """Move the draft to its place, never onto another file."""
    try:
        os.link(draft, file)
    except FileExistsError:
        raise
    except OSError:
        # without links in the file system a reader may see an empty file for a moment
        os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        draft.replace(file)
