"""What stands for one peer among addresses: limits for each address count by it.

Owns the rule alone. Must never resolve a name. The throttle of refusals and the limits on connections call it.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

PREFIX_V6: Final = 64
"""Bits of an IPv6 address that tell one customer from another: within, anybody has as many addresses as he likes."""


def address_of(remote: str) -> str:
    """The IPv4 address of `remote` (`host` or `host:port`), or the network of its IPv6 address; else the host as it is."""
    host = remote.removeprefix("[").partition("]")[0] if remote.startswith("[") else remote
    if host.count(":") == 1:
        host = host.partition(":")[0]
    try:
        address: IPv4Address | IPv6Address = ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(IPv6Address(int(address) >> (128 - PREFIX_V6) << (128 - PREFIX_V6)))
