"""The protocol versions, and their names in ALPN, SETUP, configuration and logs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import IntEnum
from types import MappingProxyType
from typing import Final

_SETUP_BASE: Final = 0xFF0DAD00


LONGEST_NAME: Final = 32  # characters of an unknown version in a message


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
        return _SETUP_BASE + self.value

    @property
    def name_on_wire(self) -> str:
        """The published name, such as "moq-lite-05"."""
        return f"moq-lite-{self.value:02}"

    # --- differences between versions: rules of the protocol ask these and compare no versions

    @property
    def has_setup_exchange(self) -> bool:
        """SETUP on the first bidirectional stream decides the version (01, 02)."""
        return self <= Version.LITE_02

    @property
    def has_setup_stream(self) -> bool:
        """Each side sends one SETUP on a unidirectional stream (05, 06)."""
        return self >= Version.LITE_05

    @property
    def needs_peer_setup(self) -> bool:
        """Announcements depend on the hop id in the peer's SETUP (06)."""
        return self >= Version.LITE_06

    @property
    def has_announce_init(self) -> bool:
        """One message holds the initial set of announcements (01, 02)."""
        return self <= Version.LITE_02

    @property
    def has_announce_ok(self) -> bool:
        """A reply with the publisher's hop id precedes the announcements (05, 06)."""
        return self >= Version.LITE_05

    @property
    def has_announce_ids(self) -> bool:
        """Announcements end and change by number, and are routes with costs that cover all below (06)."""
        return self >= Version.LITE_06

    @property
    def restarts_announcements(self) -> bool:
        """An announcement of a live path replaces it (05)."""
        return self == Version.LITE_05

    @property
    def has_hops(self) -> bool:
        """Announcements list the ids of the relays that they passed (04 and newer)."""
        return self >= Version.LITE_04

    @property
    def counts_hops(self) -> bool:
        """Announcements carry the number of relays alone (03)."""
        return self == Version.LITE_03

    @property
    def sender_is_listed(self) -> bool:
        """The sender counts, or lists, itself among the hops (03, 04)."""
        return self in (Version.LITE_03, Version.LITE_04)

    @property
    def accepts_at_once(self) -> bool:
        """SUBSCRIBE_OK answers the request, not the first group (01 to 04)."""
        return self <= Version.LITE_04

    @property
    def has_updates(self) -> bool:
        """SUBSCRIBE_UPDATE exists (03 and newer)."""
        return self >= Version.LITE_03

    @property
    def has_subscribe_end(self) -> bool:
        """SUBSCRIBE_END exists (05, 06)."""
        return self >= Version.LITE_05

    @property
    def leaves_by_reset(self) -> bool:
        """A subscriber leaves by a reset: 01 and 02 clients of 2026 take its FIN for a fault of the session."""
        return self <= Version.LITE_02

    @property
    def latency_is_history(self) -> bool:
        """A subscription's latency is the wanted history (06), not the lateness of groups."""
        return self >= Version.LITE_06

    @property
    def has_timestamps(self) -> bool:
        """Frames carry a timestamp; there are TRACK, FETCH and datagrams (05, 06)."""
        return self >= Version.LITE_05

    @property
    def has_partial_groups(self) -> bool:
        """Groups and subscriptions may begin at a later frame (06)."""
        return self >= Version.LITE_06

    @property
    def has_goaway(self) -> bool:
        """GOAWAY exists (04 and newer)."""
        return self >= Version.LITE_04


ALL_VERSIONS: Final = tuple(sorted(Version, reverse=True))  # newest first

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
    """The tokens to offer or accept for `versions`, newest first."""
    wanted = set(versions)
    tokens = [token for token, version in ALPN_VERSIONS.items() if version in wanted]
    if wanted & {Version.LITE_01, Version.LITE_02}:
        tokens.append("moql")
    if Version.LITE_01 in wanted:
        tokens.append("moql-01")
    return tokens


def version_from_setup_code(code: int) -> Version | None:
    """The version of a SETUP `code`, or None if SETUP cannot choose it (03 and newer)."""
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
    shown = name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}..."
    raise ValueError(f"unknown version {shown!r}; valid are {valid} (or just the number)")
