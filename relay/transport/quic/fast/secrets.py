"""TLS key derivation (RFC 8446, 7.1; RFC 9001, 5), optimised: a handshake derives some thirty keys.

Owns HKDF with prebuilt labels and contexts with one direction's keys. Must never choose a cipher.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aioquic._crypto import AEAD, HeaderProtection
from aioquic.quic.crypto import (
    INITIAL_CIPHER_SUITE,
    INITIAL_SALT_VERSION_1,
    INITIAL_SALT_VERSION_2,
    CryptoContext,
    CryptoPair,
)
from aioquic.quic.packet import QuicProtocolVersion
from aioquic.tls import CipherSuite, hkdf_label


def expand_info(label: bytes, length: int, context: bytes = b"") -> bytes:
    """The input of HKDF-Expand-Label for an output of one block, as all of ours are."""
    return hkdf_label(label, context, length) + b"\x01"


_INNER = bytes(each ^ 0x36 for each in range(256))
_OUTER = bytes(each ^ 0x5C for each in range(256))


def hmac(new: Callable[..., Any], block: int, key: bytes, data: bytes) -> bytes:
    """HMAC (RFC 2104) with a key no longer than a block: `hmac.digest` looks its algorithm up each time."""
    key = key.ljust(block, b"\0")
    digest: bytes = new(key.translate(_OUTER) + new(key.translate(_INNER) + data).digest()).digest()
    return digest


@dataclass(frozen=True, slots=True)
class Suite:
    """A cipher suite, with everything independent of the connection."""

    hash: Callable[..., Any]
    block: int  # block size of its hash in bytes
    size: int
    key_size: int
    aead: bytes
    protection: bytes
    infos: tuple[tuple[bytes, bytes, bytes], tuple[bytes, bytes, bytes]]
    """Labels of key, IV and header protection key; in QUIC version 1 and in version 2 (RFC 9369, 3.3.2)."""
    derived: bytes  # salt of the handshake secret without a pre-shared key
    derived_info: bytes
    finished_info: bytes

    def expand(self, secret: bytes, info: bytes) -> bytes:
        """HKDF-Expand of one block; also HKDF-Extract, where `secret` is the salt, and plain HMAC."""
        return hmac(self.hash, self.block, secret, info)

    def derive(self, secret: bytes, label: bytes, transcript: bytes) -> bytes:
        """Derive-Secret, of a hashed transcript."""
        return hmac(self.hash, self.block, secret, expand_info(label, self.size, transcript))


def _suite(name: str, key_size: int, aead: bytes, protection: bytes) -> Suite:
    new = getattr(hashlib, name)
    size, block = new().digest_size, new().block_size
    zeros = bytes(size)
    derived_info = expand_info(b"derived", size, new(b"").digest())
    one, two = (
        tuple(
            expand_info(prefix + label, length)
            for label, length in ((b" key", key_size), (b" iv", 12), (b" hp", key_size))
        )
        for prefix in (b"quic", b"quicv2")
    )
    return Suite(
        hash=new,
        block=block,
        size=size,
        key_size=key_size,
        aead=aead,
        protection=protection,
        infos=(one, two),  # type: ignore[arg-type]
        derived=hmac(new, block, hmac(new, block, zeros, zeros), derived_info),
        derived_info=derived_info,
        finished_info=expand_info(b"finished", size),
    )


SUITES = {
    CipherSuite.AES_128_GCM_SHA256: _suite("sha256", 16, b"aes-128-gcm", b"aes-128-ecb"),
    CipherSuite.AES_256_GCM_SHA384: _suite("sha384", 32, b"aes-256-gcm", b"aes-256-ecb"),
    CipherSuite.CHACHA20_POLY1305_SHA256: _suite("sha256", 32, b"chacha20-poly1305", b"chacha20"),
}

_INITIAL = SUITES[INITIAL_CIPHER_SUITE]
_CLIENT_INITIAL = expand_info(b"client in", 32)
_SERVER_INITIAL = expand_info(b"server in", 32)


def packet_keys(suite: Suite, secret: bytes, version: int) -> tuple[bytes, bytes, bytes]:
    """Key, IV and header protection key (RFC 9001, 5.1)."""
    key, iv, protection = suite.infos[version == QuicProtocolVersion.VERSION_2]
    expand, size = suite.expand, suite.key_size
    return expand(secret, key)[:size], expand(secret, iv)[:12], expand(secret, protection)[:size]


class LeanContext(CryptoContext):
    """aioquic's keys of one direction, with the faster derivation."""

    def setup(self, *, cipher_suite: CipherSuite, secret: bytes, version: int) -> None:
        suite = SUITES[cipher_suite]
        key, iv, protection = packet_keys(suite, secret, version)
        self.aead = AEAD(suite.aead, key, iv)
        self.hp = HeaderProtection(suite.protection, protection)
        self.cipher_suite = cipher_suite
        self.secret = secret
        self.version = version


class LeanPair(CryptoPair):
    """aioquic's pair of contexts, with the faster derivation."""

    def __init__(self) -> None:
        super().__init__()
        make_lean(self)


def make_lean(pair: CryptoPair) -> None:
    """Replace the contexts of a pair by those with the faster derivation."""
    pair.recv, pair.send = LeanContext(), LeanContext()


def setup_server_initial(pair: CryptoPair, cid: bytes, version: int) -> None:
    """Set up a server's Initial keys (RFC 9001, 5.2)."""
    two = version == QuicProtocolVersion.VERSION_2
    initial = _INITIAL.expand(INITIAL_SALT_VERSION_2 if two else INITIAL_SALT_VERSION_1, cid)
    suite = INITIAL_CIPHER_SUITE
    pair.recv.setup(cipher_suite=suite, secret=_INITIAL.expand(initial, _CLIENT_INITIAL), version=version)
    pair.send.setup(cipher_suite=suite, secret=_INITIAL.expand(initial, _SERVER_INITIAL), version=version)
