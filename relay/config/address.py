"""Addresses as an operator writes them: `[::]:4443`, `0.0.0.0:4443`, `localhost:4443`, `:4443`. Nothing is resolved."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

_NAME = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9_-]{1,63}(?<!-))*\.?")
_MAX_PORT = 65_535

WANTED = 'expected host:port, e.g. "[::]:443"'


@dataclass(frozen=True, slots=True)
class Address:
    """`parse` reads the text that `str()` returns."""

    host: str  # name or numeric address, without brackets; `""` is every interface
    port: int  # 0 lets the system choose

    @classmethod
    def parse(cls, text: str) -> Address:
        """ValueError says what would be right."""
        host, colon, digits = text.strip().rpartition(":")
        if not colon:
            raise ValueError(WANTED)
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
            if not _is_ip(host, 6):
                raise ValueError(
                    f"expected an IPv6 address between the brackets, {WANTED.removeprefix('expected ')}"
                )
        elif ":" in host:
            raise ValueError('expected brackets around an IPv6 address, e.g. "[::1]:443"')
        elif host and not is_host(host):
            raise ValueError(WANTED)
        if not (digits.isascii() and digits.isdigit() and int(digits) <= _MAX_PORT):
            raise ValueError(f"expected a port from 0 to {_MAX_PORT} after the last colon")
        return cls(host, int(digits))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def hosts(self) -> tuple[str, ...]:
        """The hosts to bind: `localhost` is both loopbacks, `""` is `::` (dual stack)."""
        if self.host.lower() == "localhost":
            return ("127.0.0.1", "::1")
        return (self.host or "::",)


def is_host(text: str) -> bool:
    """A host name or an IP address (IPv6 without brackets)."""
    if _is_ip(text, 4) or _is_ip(text, 6):
        return True
    # digits and dots alone are a mistyped IPv4 address
    return _NAME.fullmatch(text) is not None and not text.replace(".", "").isdigit()


def is_authority(text: str) -> bool:
    """`host` and `host:port` as in a URL, with brackets around IPv6."""
    return bool(host_of(text))


def host_of(authority: str) -> str:
    """The host without brackets; `""` if `authority` is invalid."""
    try:
        return Address.parse(authority).host
    except ValueError:
        pass
    if authority.startswith("[") and authority.endswith("]"):
        host = authority[1:-1]
        return host if _is_ip(host, 6) else ""
    return authority if ":" not in authority and is_host(authority) else ""


def is_loopback(host: str) -> bool:
    """`host`, a name or an address without brackets, is this machine."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_ip(text: str, version: int) -> bool:
    try:
        return ipaddress.ip_address(text).version == version
    except ValueError:
        return False
