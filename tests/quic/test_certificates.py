from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from relay.quic.certificate_store import (
    CertificateError,
    CertificatePair,
    CertificateStore,
    fingerprint,
    generate_certificate,
    load_certificates,
    load_pair,
    load_pairs,
)
from tests.pem import chain_pem, key_pem

NOW = dt.datetime(2026, 3, 1, 12, 0, 0, 500, tzinfo=dt.UTC)


def write(folder: Path, name: str, pair: CertificatePair) -> tuple[Path, Path]:
    cert, key = folder / f"{name}.pem", folder / f"{name}.key"
    cert.write_bytes(chain_pem(pair))
    key.write_bytes(key_pem(pair))
    return cert, key


def self_signed(key: object, name: str = "relay.test") -> CertificatePair:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    digest = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())  # type: ignore[attr-defined]
        .serial_number(1)
        .not_valid_before(NOW)
        .not_valid_after(NOW + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, digest)  # type: ignore[arg-type]
    )
    return CertificatePair(certificate, (), key)  # type: ignore[arg-type]


def test_generated_certificate() -> None:
    pair = generate_certificate(["localhost", "127.0.0.1", "::1"], NOW)
    certificate = pair.certificate
    assert certificate.not_valid_after_utc - certificate.not_valid_before_utc == dt.timedelta(days=14)
    assert certificate.not_valid_before_utc == NOW.replace(microsecond=0) - dt.timedelta(days=1)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert names.get_values_for_type(x509.IPAddress) == [
        ipaddress.ip_address("127.0.0.1"),
        ipaddress.ip_address("::1"),
    ]
    assert isinstance(pair.key, ec.EllipticCurvePrivateKey)
    assert len(pair.fingerprint) == 64
    assert pair.fingerprint == fingerprint(certificate) == certificate.fingerprint(hashes.SHA256()).hex()


def test_generated_certificate_takes_other_scripts() -> None:
    pair = generate_certificate(["bücher.example"], NOW)
    assert pair.matches("xn--bcher-kva.example")


@pytest.mark.parametrize("names", [[], ["\udc80"]])
def test_nothing_to_generate(names: list[str]) -> None:
    with pytest.raises(CertificateError):
        generate_certificate(names, NOW)


@pytest.mark.parametrize(
    "pattern, name, fits",
    [
        ("relay.test", "relay.test", True),
        ("relay.test", "RELAY.Test.", True),
        ("relay.test", "x.relay.test", False),
        ("*.relay.test", "x.relay.test", True),
        ("*.relay.test", "x.y.relay.test", False),
        ("*.relay.test", "relay.test", False),
        ("*.relay.test", ".relay.test", False),
    ],
)
def test_names(pattern: str, name: str, fits: bool) -> None:
    assert generate_certificate([pattern], NOW).matches(name) is fits


def test_addresses_match_addresses_only() -> None:
    pair = generate_certificate(["127.0.0.1"], NOW)
    assert pair.matches("127.0.0.1")
    assert not pair.matches("127.0.0.2")


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP256R1()),
        ec.generate_private_key(ec.SECP384R1()),
        rsa.generate_private_key(65537, 2048),
        ed25519.Ed25519PrivateKey.generate(),
    ],
    ids=["p256", "p384", "rsa", "ed25519"],
)
def test_load(tmp_path: Path, key: object) -> None:
    pair = self_signed(key)
    cert, key_file = write(tmp_path, "a", pair)
    loaded = load_pairs([str(cert)], [str(key_file)])
    assert [each.certificate for each in loaded] == [pair.certificate]


def test_chain_with_text_between(tmp_path: Path) -> None:
    leaf, root = generate_certificate(["a"], NOW), generate_certificate(["b"], NOW)
    cert, key = write(tmp_path, "a", leaf)
    cert.write_bytes(b"leaf:\n" + chain_pem(leaf) + b"\nand its issuer\n" + chain_pem(root) + b"\n\n")
    pair = load_pair(cert, key)
    assert pair.chain == (root.certificate,)


def test_pairs_need_equal_numbers(tmp_path: Path) -> None:
    with pytest.raises(CertificateError, match="1 certificate files, 0 key files"):
        load_pairs([tmp_path / "a.pem"], [])


def test_errors_name_the_file(tmp_path: Path) -> None:
    pair, other = generate_certificate(["a"], NOW), generate_certificate(["b"], NOW)
    cert, key = write(tmp_path, "a", pair)
    _, wrong = write(tmp_path, "b", other)
    with pytest.raises(CertificateError, match=r"b\.key: the key does not fit the certificate in .*a\.pem"):
        load_pair(cert, wrong)
    with pytest.raises(CertificateError, match=r"gone\.pem: No such file"):
        load_pair(tmp_path / "gone.pem", key)
    with pytest.raises(CertificateError, match=r"a\.key: no certificate"):
        load_pair(key, key)
    with pytest.raises(CertificateError, match=r"a\.pem: no private key"):
        load_pair(cert, cert)
    broken = tmp_path / "broken.pem"
    broken.write_bytes(b"-----BEGIN CERTIFICATE-----\nxxxx\n-----END CERTIFICATE-----\n")
    with pytest.raises(CertificateError, match=r"broken\.pem: the certificate cannot be read"):
        load_certificates(broken)
    broken.write_bytes(b"-----BEGIN PRIVATE KEY-----\nxxxx\n-----END PRIVATE KEY-----\n")
    with pytest.raises(CertificateError, match=r"broken\.pem: the key cannot be read"):
        load_pair(cert, broken)
    broken.write_bytes(
        pair.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(CertificateError, match=r"broken\.pem: the key is encrypted"):
        load_pair(cert, broken)


@pytest.mark.parametrize(
    "generate",
    [lambda: ec.generate_private_key(ec.SECP521R1()), lambda: dsa.generate_private_key(1024)],
    ids=["p521", "dsa"],
)
def test_keys_that_cannot_sign(tmp_path: Path, generate: Callable[[], object]) -> None:
    cert, key_file = write(tmp_path, "a", self_signed(generate()))
    with pytest.raises(CertificateError, match="supported"):
        load_pair(cert, key_file)


def test_selection() -> None:
    first, second = generate_certificate(["a.test"], NOW), generate_certificate(["*.b.test"], NOW)
    store = CertificateStore([first, second], ["localhost"], NOW)
    assert len(store.pairs) == 3
    assert store.fingerprint == first.fingerprint
    assert store.select("a.test") is first
    assert store.select("x.b.test") is second
    assert store.select("localhost") is store.pairs[2]
    assert store.select("unknown.test") is first
    assert store.select(None) is first


def test_renewal() -> None:
    store = CertificateStore([], ["localhost"], NOW)
    old = store.fingerprint
    assert not store.renew_if_due(NOW + dt.timedelta(days=9))
    assert store.fingerprint == old
    assert store.renew_if_due(NOW + dt.timedelta(days=10))
    assert store.fingerprint != old
    assert not CertificateStore([generate_certificate(["a"], NOW)], [], NOW).renew_if_due(
        NOW + dt.timedelta(days=99)
    )


def test_replace() -> None:
    first, second = generate_certificate(["a"], NOW), generate_certificate(["b"], NOW)
    store = CertificateStore([first], [], NOW)
    store.replace([second])
    assert store.pairs == (second,)
    with pytest.raises(CertificateError):
        store.replace([])
    assert store.pairs == (second,)


def test_a_server_needs_a_certificate() -> None:
    with pytest.raises(CertificateError, match="no certificate"):
        CertificateStore([], [], NOW)
