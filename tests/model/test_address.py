"""Identity of one peer by its address, and readable addresses."""

from __future__ import annotations

import pytest

from relay.model.address import address_of, readable_address


@pytest.mark.parametrize(
    ("remote", "address"),
    [
        ("192.0.2.1:4443", "192.0.2.1"),
        ("192.0.2.1", "192.0.2.1"),
        ("[2001:db8:1:2:3:4:5:6]:443", "2001:db8:1:2::"),
        ("2001:db8:1:2::9", "2001:db8:1:2::"),
        ("[::ffff:192.0.2.1]:443", "192.0.2.1"),
        ("[fe80::1%eth0]:443", "fe80::"),
        ("[::1]:9", "::"),
        ("None", "None"),
        ("", ""),
        ("memory", "memory"),
    ],
)
def test_addresses(remote: str, address: str) -> None:
    assert address_of(remote) == address


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("192.0.2.1", "192.0.2.1:443"),
        ("::ffff:192.0.2.1", "192.0.2.1:443"),
        ("2001:db8::1", "[2001:db8::1]:443"),
        ("fe80::1%eth0", "[fe80::1%eth0]:443"),
        ("::", "[::]:443"),
        ("localhost", "localhost:443"),
    ],
)
def test_addresses_for_people(host: str, expected: str) -> None:
    assert readable_address(host, 443) == expected
