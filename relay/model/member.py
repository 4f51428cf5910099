"""Cluster relays: names, `host[:port]`, and the status that each publishes of itself. Both are untrusted."""

from __future__ import annotations

import ipaddress
import json
import re
from dataclasses import asdict, dataclass
from typing import Final, NamedTuple, Self
from urllib.parse import urlsplit

DEFAULT_PORT: Final = 443
LONGEST: Final = 262  # characters: a host name of 255 and a port
LONGEST_STATUS: Final = 4_096  # bytes: ours have some 300
GREATEST: Final = 1 << 53  # of a figure: larger ones are not exact in JSON
LONGEST_URL: Final = 400  # characters: a name, a port and a scheme
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


@dataclass(frozen=True, slots=True)
class MemberTotals:
    """What a relay counts, as its own `/state` does. `received` and `sent` are bytes per second."""

    sessions: int
    broadcasts: int
    viewers: int
    received: float
    sent: float


@dataclass(frozen=True, slots=True)
class MemberStatus:
    """What a relay says of itself. `dashboard`: the URL of its public HTTP address, for browsers."""

    totals: MemberTotals
    dashboard: str | None

    def encode(self) -> bytes:
        """JSON, as `decode` reads it."""
        return json.dumps(asdict(self), separators=(",", ":")).encode()

    @classmethod
    def decode(cls, data: bytes, name: str) -> Self:
        """The status of the relay `name`. Keys that are unknown are ignored. Raises ValueError."""
        if len(data) > LONGEST_STATUS:
            raise ValueError(f"more than {LONGEST_STATUS} bytes")
        try:
            found = json.loads(data)
        except (ValueError, RecursionError):
            raise ValueError("no JSON") from None
        totals = found.get("totals") if isinstance(found, dict) else None
        if not isinstance(totals, dict):
            raise ValueError("no object with totals")  # noqa: TRY004 - untrusted data, no fault of the caller
        counts = [int(_figure(key, totals.get(key))) for key in ("sessions", "broadcasts", "viewers")]
        rates = [_figure(key, totals.get(key)) for key in ("received", "sent")]
        return cls(MemberTotals(*counts, *rates), _dashboard(found.get("dashboard"), name))


def _figure(key: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= GREATEST:
        raise ValueError(f"{key}: expected a number from 0 to {GREATEST}")
    return value


def _dashboard(url: object, name: str) -> str | None:
    """Browsers follow it, so it must lead to that relay."""
    if url is None:
        return None
    if not isinstance(url, str) or len(url) > LONGEST_URL or not url.isascii() or not url.isprintable():
        raise ValueError("dashboard: expected a URL")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or parts.username is not None or parts.password is not None:
        raise ValueError("dashboard: expected http:// or https://")
    if authority_of(url)[0] != authority_of(name)[0]:
        raise ValueError("dashboard: expected a URL of that relay")
    return url
