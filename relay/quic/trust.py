"""Certificate verification of a client: the choice of roots, pinned fingerprints or no check, as TLS configuration."""

from __future__ import annotations

import datetime as dt
import hmac
import ssl
from dataclasses import dataclass
from pathlib import Path

from aioquic.quic.configuration import QuicConfiguration
from aioquic.tls import AlertDescription
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from relay.quic.certificate_store import fingerprint, load_certificates


@dataclass(frozen=True, slots=True)
class ClientTls:
    """The system's roots unless something else is given."""

    roots: tuple[Path, ...] | None = None  # PEM files that replace the system's roots
    fingerprints: tuple[str, ...] = ()  # hex SHA-256 of accepted leaves instead of roots; names are unchecked
    disable_verify: bool = False


class Trust:
    """`ClientTls` with its files read before dialling. Raises `CertificateError` that names the file."""

    def __init__(self, tls: ClientTls) -> None:
        self.pins = tuple(pin.replace(":", "").strip().lower() for pin in tls.fingerprints)
        self.verify = not (tls.disable_verify or self.pins)
        self.roots: bytes | None = None
        if tls.roots is not None and self.verify:
            roots = [certificate for path in tls.roots for certificate in load_certificates(path)]
            # Written anew: the TLS engine fails on text between certificates.
            self.roots = b"".join(root.public_bytes(serialization.Encoding.PEM) for root in roots)

    def apply(self, configuration: QuicConfiguration) -> None:
        if not self.verify:
            configuration.verify_mode = ssl.CERT_NONE
        elif self.roots is not None:
            configuration.cadata = self.roots
        else:
            paths = ssl.get_default_verify_paths()
            configuration.cafile = paths.cafile
            configuration.capath = None if paths.cafile else paths.capath

    def check_pin(
        self, certificate: x509.Certificate | None, now: dt.datetime
    ) -> tuple[AlertDescription, str] | None:
        """TLS alert and reason if the certificate is not pinned or not valid; the TLS engine checks the rest."""
        if not self.pins:
            return None
        if certificate is None:
            return AlertDescription.bad_certificate, "the server presented no certificate"
        found = fingerprint(certificate)
        matches = [hmac.compare_digest(found.encode(), pin.encode("utf-8", "replace")) for pin in self.pins]
        if not any(matches):
            return (
                AlertDescription.bad_certificate,
                f"the certificate's fingerprint {found} is not the expected one",
            )
        if now > certificate.not_valid_after_utc:
            return AlertDescription.certificate_expired, "the pinned certificate has expired"
        if now < certificate.not_valid_before_utc:
            return AlertDescription.certificate_expired, "the pinned certificate is not valid yet"
        return None
