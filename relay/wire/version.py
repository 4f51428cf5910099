"""The protocol versions, and the names they are negotiated by.

Owns: which versions exist and how each is spelled in ALPN, in SETUP and to people. Must never: decide which
version a session uses (the transport does, from these tables). Called by: all codecs, transports, configuration.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_SETUP_BASE: Final = 0xFF0DAD00


class Version(IntEnum):
    """One moq-lite version; they compare by age."""

    LITE_01 = 1
    LITE_02 = 2
    LITE_03 = 3
    LITE_04 = 4
    LITE_05 = 5
    LITE_06 = 6

    @property
    def setup_code(self) -> int:
        """The number that names this version inside a SETUP message."""
        return _SETUP_BASE + self.value

    @property
    def name_on_wire(self) -> str:
        """The published name, such as "moq-lite-05", for people and logs."""
        return f"moq-lite-{self.value:02}"


NEWEST: Final = Version.LITE_06

ALPN_VERSIONS: Final[Mapping[str, Version | None]] = MappingProxyType(
    {
        "moq-lite-06": Version.LITE_06,
        "moq-lite-05": Version.LITE_05,
        "moq-lite-04": Version.LITE_04,
        "moq-lite-03": Version.LITE_03,
        "moql": None,
        "moql-01": None,
    }
)
"""Token (ALPN or WebTransport subprotocol) to version, newest first; None: the SETUP exchange decides, 02 or 01."""


def alpns_for(versions: Iterable[Version]) -> list[str]:
    """Return the tokens to offer or accept for `versions`, newest first."""
    wanted = set(versions)
    tokens = [token for token, version in ALPN_VERSIONS.items() if version in wanted]
    if wanted & {Version.LITE_01, Version.LITE_02}:
        tokens.append("moql")
    if Version.LITE_01 in wanted:
        tokens.append("moql-01")
    return tokens


def version_from_setup_code(code: int) -> Version | None:
    """Return the version a SETUP message names by `code`, or None if SETUP cannot choose it (03 and newer)."""
    for version in (Version.LITE_02, Version.LITE_01):
        if version.setup_code == code:
            return version
    return None


def version_from_name(name: str) -> Version:
    """Read "moq-lite-06", "06" or "6"; ValueError lists the valid names."""
    digits = name.strip().lower().removeprefix("moq-lite-")
    for version in Version:
        if digits in (f"{version.value:02}", str(version.value)):
            return version
    valid = ", ".join(version.name_on_wire for version in Version)
    raise ValueError(f"unknown version {name!r}; valid are {valid} (or just the number)")
