"""Names of cluster relays, `host[:port]`, which are untrusted."""

from __future__ import annotations

import ipaddress
import re
from typing import Final, NamedTuple, Self
from urllib.parse import urlsplit

DEFAULT_PORT: Final = 443
LONGEST: Final = 262  # characters: a host name of 255 and a port
_LABEL: Final = "[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_NAME: Final = re.compile(
    rf"(?:\[(?P<ip>[0-9A-Fa-f:.]+)\]|{_LABEL}(?:\.{_LABEL})*\.?)(?::(?P<port>[0-9]{{1,5}}))?"
)


class Member(NamedTuple):
    """`hop` is its id in hop lists, 0 if unknown."""

    name: str
    hop: int

    @classmethod
    def parse(cls, name: str, hop: int) -> Self:
        """Check a name before dialling it. Raises ValueError."""
        found = _NAME.fullmatch(name) if len(name) <= LONGEST else None
        if found is None or not 0 < int(found["port"] or DEFAULT_PORT) < 1 << 16:
            raise ValueError("not host or host:port")
        if found["ip"] is not None:
            ipaddress.IPv6Address(found["ip"])
        return cls(name, hop)


def authority_of(target: str) -> tuple[str, int]:
    """Host and port of `host[:port]` or a URL, in lower case."""
    parts = urlsplit(target if "://" in target else f"https://{target}")
    try:
        port = parts.port
    except ValueError:
        port = None
    return (parts.hostname or "").lower().rstrip("."), port or DEFAULT_PORT


def same_host(one: str, other: str) -> bool:
    """True if both names are spelled like one relay's."""
    return authority_of(one) == authority_of(other)
