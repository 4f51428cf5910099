"""Addresses of peers, for display and for limits. Nothing resolves names."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

PREFIX_V6: Final = 64  # bits of a customer's IPv6 network


def address_of(remote: str) -> str:
    """The IPv4 address of `remote` (`host` or `host:port`), the IPv6 network, or the host."""
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


def readable_host(host: str) -> str:
    """A dual-stack socket's IPv4 addresses as IPv4."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped) if mapped is not None else host


def readable_address(host: str, port: int) -> str:
    """`host:port`, with brackets around IPv6."""
    host = readable_host(host)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
