"""Warnings about the validity of certificates."""

from __future__ import annotations

import datetime as dt

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from relay.quic.validity import ValidityWatch, validity_warning

NOW = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
KEY = ec.generate_private_key(ec.SECP256R1())


def certificate(begins: float, ends: float) -> x509.Certificate:
    """A certificate valid from and to so many days from now."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "relay.test")])
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(KEY.public_key())
        .serial_number(1)
        .not_valid_before(NOW + dt.timedelta(days=begins))
        .not_valid_after(NOW + dt.timedelta(days=ends))
        .sign(KEY, hashes.SHA256())
    )


@pytest.mark.parametrize(
    ("begins", "ends", "told"),
    [
        (-30, 60, None),
        (-76, 14.01, None),
        (-80, 10, "expires on 2026-03-11 12:00 UTC, in 10 days"),
        (-355, 10, "expires on 2026-03-11 12:00 UTC, in 10 days"),
        (-1000, 15, None),
        # a sixth of a short life
        (-3, 3, None),
        (-5.5, 0.5, "expires on 2026-03-02 00:00 UTC, in 12 hours"),
        (-5.98, 0.02, "expires on 2026-03-01 12:28 UTC, in less than an hour"),
        (-80, 1 / 24, "expires on 2026-03-01 13:00 UTC, in 1 hour"),
        (-80, 0, "expired on 2026-03-01 12:00 UTC, so clients refuse it"),
        (-80, -1, "expired on 2026-02-28 12:00 UTC, so clients refuse it"),
        (0, 90, None),
        (7, 90, "is not valid before 2026-03-08 12:00 UTC, so clients refuse it until then"),
    ],
)
def test_warnings_for_the_operator(begins: float, ends: float, told: str | None) -> None:
    assert validity_warning(certificate(begins, ends), NOW) == told


def test_each_certificate_is_named_once_until_it_changes() -> None:
    watch, files = ValidityWatch(), {"a.pem": [certificate(-80, 10), certificate(-900, -1)], "b.pem": []}
    assert [line.partition(" on ")[0] for line in watch.new_warnings(files, NOW)] == [
        "a.pem: the certificate expires",
        "a.pem: certificate 2 of the chain expired",
    ]
    assert not list(watch.new_warnings(files, NOW))
    assert not list(watch.new_warnings(files, NOW + dt.timedelta(days=3)))
    [line] = watch.new_warnings(files, NOW + dt.timedelta(days=10))
    assert line.startswith("a.pem: the certificate expired on")
    assert not list(watch.new_warnings({"a.pem": [certificate(-1, 89)]}, NOW))
    assert len(list(watch.new_warnings(files, NOW))) == 2
