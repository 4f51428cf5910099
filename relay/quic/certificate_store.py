"""Server certificates: read from files, generated, chosen by server name.

The generated ones are those short-lived, self-signed ones that browsers accept by hash. Callers pass the time.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.x509.oid import NameOID

LIFETIME: Final = dt.timedelta(days=14)  # the most that WebTransport's hash pinning allows
BACKDATE: Final = dt.timedelta(days=1)  # of not_before, for clients with slow clocks; part of `LIFETIME`
RENEW_BEFORE: Final = LIFETIME / 4  # a generated certificate is replaced when less life is left
PrivateKey: TypeAlias = (
    rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey
)


class CertificateError(Exception):
    """The message names the file."""


@dataclass(frozen=True, slots=True)
class CertificatePair:
    """A leaf certificate, its chain and its key."""

    certificate: x509.Certificate
    chain: tuple[x509.Certificate, ...]
    key: PrivateKey
    file: Path | None = None  # None if generated

    @property
    def fingerprint(self) -> str:
        """Lowercase hex SHA-256 of the leaf's DER."""
        return fingerprint(self.certificate)

    @property
    def _names(self) -> x509.SubjectAlternativeName | None:
        try:
            return self.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except x509.ExtensionNotFound:
            return None

    @property
    def name(self) -> str:
        """The first one that it is valid for."""
        names = self._names
        if names is None:
            return self.certificate.subject.rfc4514_string()
        found = [*names.get_values_for_type(x509.DNSName), *names.get_values_for_type(x509.IPAddress)]
        return str(found[0]) if found else self.certificate.subject.rfc4514_string()

    def matches(self, server_name: str) -> bool:
        """Compare with the leaf's alternative names (RFC 6125: `*` is one whole left-most label)."""
        names = self._names
        if names is None:
            return False
        try:
            address = ipaddress.ip_address(server_name)
        except ValueError:
            wanted = server_name.rstrip(".").lower()
            return any(_name_covers(name, wanted) for name in names.get_values_for_type(x509.DNSName))
        return address in names.get_values_for_type(x509.IPAddress)


def fingerprint(certificate: x509.Certificate) -> str:
    """Lowercase hex SHA-256 of the DER, as `/certificate.sha256` serves it."""
    return hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest()


def _name_covers(pattern: str, wanted: str) -> bool:
    pattern = pattern.rstrip(".").lower()
    if pattern.startswith("*."):
        first, dot, rest = wanted.partition(".")
        return bool(first and dot) and rest == pattern[2:]
    return pattern == wanted


# -- files


def load_pairs(cert_files: Sequence[str | Path], key_files: Sequence[str | Path]) -> list[CertificatePair]:
    """Paired by index. Raises `CertificateError` that names the file."""
    if len(cert_files) != len(key_files):
        raise CertificateError(
            f"certificates and keys come in pairs: {len(cert_files)} certificate files, {len(key_files)} key files"
        )
    return [load_pair(Path(cert), Path(key)) for cert, key in zip(cert_files, key_files, strict=True)]


def load_pair(cert_file: Path, key_file: Path) -> CertificatePair:
    """One chain, leaf first, and the leaf's key."""
    certificates = load_certificates(cert_file)
    key = _load_key(key_file)
    leaf = certificates[0]
    public = leaf.public_key()
    spki = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    if public.public_bytes(*spki) != key.public_key().public_bytes(*spki):
        raise CertificateError(f"{key_file}: the key does not fit the certificate in {cert_file}")
    return CertificatePair(leaf, tuple(certificates[1:]), key, cert_file)


def load_certificates(path: Path) -> list[x509.Certificate]:
    """The certificates of a PEM file; text between them is allowed."""
    data = _read(path)
    if b"-----BEGIN CERTIFICATE-----" not in data:
        raise CertificateError(f"{path}: no certificate in this file (PEM expected)")
    try:
        return x509.load_pem_x509_certificates(data)
    except ValueError as error:
        raise CertificateError(f"{path}: the certificate cannot be read: {error}") from error


def _load_key(path: Path) -> PrivateKey:
    data = _read(path)
    if b"PRIVATE KEY-----" not in data:
        raise CertificateError(f"{path}: no private key in this file (PEM expected)")
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except TypeError as error:
        raise CertificateError(f"{path}: the key is encrypted; a key without passphrase is needed") from error
    except ValueError as error:
        raise CertificateError(f"{path}: the key cannot be read: {error}") from error
    # Other kinds would fail only when the first client connects.
    if isinstance(key, ec.EllipticCurvePrivateKey):
        if isinstance(key.curve, (ec.SECP256R1, ec.SECP384R1)):
            return key
        raise CertificateError(f"{path}: curve {key.curve.name} is not supported; use P-256 or P-384")
    if isinstance(key, (rsa.RSAPrivateKey, ed25519.Ed25519PrivateKey, ed448.Ed448PrivateKey)):
        return key
    raise CertificateError(f"{path}: keys of this kind are not supported; use ECDSA, RSA or Ed25519")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CertificateError(f"{path}: {error.strerror or error}") from error


# -- generated


def generate_certificate(names: Iterable[str], now: dt.datetime) -> CertificatePair:
    """Self-signed ECDSA P-256, for DNS names and IP addresses; `now` has a time zone."""
    alternatives: list[x509.GeneralName] = []
    for name in names:
        try:
            alternatives.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            try:
                alternatives.append(
                    x509.DNSName(name.encode("idna").decode() if not name.isascii() else name)
                )
            except (ValueError, UnicodeError) as error:
                raise CertificateError(
                    f"cannot generate a certificate for {name!r}: neither a host name nor an address"
                ) from error
    if not alternatives:
        raise CertificateError("cannot generate a certificate without a name")
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "moq-relay, self-signed")])
    not_before = now.astimezone(dt.UTC).replace(microsecond=0) - BACKDATE
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before)
        .not_valid_after(not_before + LIFETIME)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .sign(key, hashes.SHA256())
    )
    return CertificatePair(certificate, (), key)


class CertificateStore:
    """The certificates of one server: the configured ones in order, then a generated one."""

    def __init__(self, pairs: Sequence[CertificatePair], generate: Sequence[str], now: dt.datetime) -> None:
        """`generate` names the generated certificate; empty for none. Raises `CertificateError`."""
        self._configured = tuple(pairs)
        self._names = tuple(generate)
        self._generated = generate_certificate(self._names, now) if self._names else None
        self._pairs = self._check()

    @property
    def pairs(self) -> tuple[CertificatePair, ...]:
        return self._pairs

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the first certificate, which clients may pin."""
        return self._pairs[0].fingerprint

    def select(self, server_name: str | None) -> CertificatePair:
        """The first certificate for this name, else the first of all."""
        if server_name is not None:
            for pair in self._pairs:
                if pair.matches(server_name):
                    return pair
        return self._pairs[0]

    def renew_if_due(self, now: dt.datetime) -> bool:
        """Renew once a quarter of the generated certificate's life is left. Returns whether it did."""
        generated = self._generated
        if generated is None or generated.certificate.not_valid_after_utc - now > RENEW_BEFORE:
            return False
        self._generated = generate_certificate(self._names, now)
        self._pairs = self._check()
        return True

    def replace(self, pairs: Sequence[CertificatePair]) -> None:
        """The configured certificates, for new connections."""
        previous, self._configured = self._configured, tuple(pairs)
        try:
            self._pairs = self._check()
        except CertificateError:
            self._configured = previous
            raise

    def _check(self) -> tuple[CertificatePair, ...]:
        pairs = self._configured if self._generated is None else (*self._configured, self._generated)
        if not pairs:
            raise CertificateError(
                "no certificate: configure a certificate and key, or names to generate one for"
            )
        return pairs
