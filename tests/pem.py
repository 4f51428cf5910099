"""Certificates and keys as the files that an operator has."""

from __future__ import annotations

from cryptography.hazmat.primitives import serialization

from relay.quic.certificate_store import CertificatePair


def chain_pem(pair: CertificatePair) -> bytes:
    """Leaf and chain."""
    certificates = (pair.certificate, *pair.chain)
    return b"".join(each.public_bytes(serialization.Encoding.PEM) for each in certificates)


def key_pem(pair: CertificatePair) -> bytes:
    """The unencrypted private key."""
    return pair.key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
