"""What stands for one peer."""

from __future__ import annotations

import pytest

from relay.model.address import address_of


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
