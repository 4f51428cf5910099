"""The protocol versions, and their names in ALPN, SETUP, configuration and logs.

Versions of moq-lite (`Version`) and IETF moq-transport (`Draft`) have no order between them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import IntEnum
from types import MappingProxyType
from typing import Final, TypeAlias

_SETUP_BASE: Final = 0xFF0DAD00
_DRAFT_BASE: Final = 0xFF000000

LONGEST_NAME: Final = 32  # characters of an unknown version in a message


class Version(IntEnum):
    """moq-lite; they compare by age."""

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
        """Such as "moq-lite-05"."""
        return f"moq-lite-{self.value:02}"

    # --- rules of the protocol ask these and compare no versions

    @property
    def has_setup_exchange(self) -> bool:
        """SETUP on the first bidirectional stream decides the version (01, 02)."""
        return self <= Version.LITE_02

    @property
    def has_setup_stream(self) -> bool:
        """Each side sends SETUP on a unidirectional stream (05, 06)."""
        return self >= Version.LITE_05

    @property
    def needs_peer_setup(self) -> bool:
        """Announcements depend on the hop id in it (06)."""
        return self >= Version.LITE_06

    @property
    def has_announce_init(self) -> bool:
        """The initial set in one message (01, 02)."""
        return self <= Version.LITE_02

    @property
    def has_announce_ok(self) -> bool:
        """Precedes the announcements, with the publisher's hop id (05, 06)."""
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
        """The sender lists, or counts, itself among the hops (03, 04)."""
        return self in (Version.LITE_03, Version.LITE_04)

    @property
    def accepts_at_once(self) -> bool:
        """SUBSCRIBE_OK answers the request, not the first group (01 to 04)."""
        return self <= Version.LITE_04

    @property
    def has_updates(self) -> bool:
        """03 and newer."""
        return self >= Version.LITE_03

    @property
    def has_subscribe_end(self) -> bool:
        """05, 06."""
        return self >= Version.LITE_05

    @property
    def leaves_by_reset(self) -> bool:
        """01 and 02 clients of 2026 take a subscriber's FIN for a fault of the session."""
        return self <= Version.LITE_02

    @property
    def latency_is_history(self) -> bool:
        """Latency is the wanted history (06), not the lateness of groups."""
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
        """04 and newer."""
        return self >= Version.LITE_04

    @property
    def maps_codes(self) -> bool:
        """The codes of streams are those of HTTP/3 on raw QUIC, too."""
        return True

    @property
    def has_setup_token(self) -> bool:
        """Whatever the transport."""
        return False


class Draft(IntEnum):
    """moq-transport; they compare by age. 19 has the rules of 18, and 21 those of 20."""

    DRAFT_14 = 14
    DRAFT_16 = 16
    DRAFT_18 = 18
    DRAFT_20 = 20
    DRAFT_22 = 22

    @property
    def setup_code(self) -> int:
        """Draft 14 alone names it on the wire."""
        return _DRAFT_BASE + self.value

    @property
    def name_on_wire(self) -> str:
        """Such as "moq-transport-18"."""
        return f"moq-transport-{self.value:02}"

    # --- as of `Version`

    @property
    def has_setup_exchange(self) -> bool:
        """14."""
        return self is Draft.DRAFT_14

    @property
    def accepts_at_once(self) -> bool:
        return True

    @property
    def has_updates(self) -> bool:
        return True

    @property
    def has_timestamps(self) -> bool:
        """Frames carry a timestamp; tracks have properties; there are fetches and datagrams."""
        return True

    @property
    def has_partial_groups(self) -> bool:
        return True

    @property
    def maps_codes(self) -> bool:
        return False

    @property
    def has_setup_token(self) -> bool:
        return True


_SAME_AS: Final = {"moq-transport-19": Draft.DRAFT_18, "moq-transport-21": Draft.DRAFT_20}

AnyVersion: TypeAlias = Version | Draft

ALL_VERSIONS: Final[tuple[AnyVersion, ...]] = (
    *sorted(Version, reverse=True),
    *sorted(Draft, reverse=True),
)
"""All versions, in order of preference."""

ALPN_VERSIONS: Final[Mapping[str, AnyVersion | None]] = MappingProxyType(
    {
        "moq-lite-06": Version.LITE_06,
        "moq-lite-05": Version.LITE_05,
        "moq-lite-04": Version.LITE_04,
        "moq-lite-03": Version.LITE_03,
        "moql": None,
        "moql-01": None,
        "moqt-22": Draft.DRAFT_22,
        "moqt-21": Draft.DRAFT_20,
        "moqt-20": Draft.DRAFT_20,
        "moqt-18": Draft.DRAFT_18,
        "moqt-16": Draft.DRAFT_16,
        "moq-00": Draft.DRAFT_14,
    }
)
"""ALPN or WebTransport subprotocol, best first; None: the SETUP exchange decides, 02 or 01."""


def preferred(versions: Iterable[AnyVersion]) -> tuple[AnyVersion, ...]:
    """The versions without repetition, best first."""
    wanted = set(versions)
    return tuple(version for version in ALL_VERSIONS if version in wanted)


def alpns_for(versions: Iterable[AnyVersion]) -> list[str]:
    """Best first."""
    wanted = set(versions)
    exchanged = {"moql": {Version.LITE_01, Version.LITE_02}, "moql-01": {Version.LITE_01}}
    return [
        token
        for token, version in ALPN_VERSIONS.items()
        if (version in wanted if version is not None else wanted & exchanged[token])
    ]


def version_from_setup_code(code: int) -> Version | None:
    """None if SETUP cannot choose it (03 and newer)."""
    for version in (Version.LITE_02, Version.LITE_01):
        if version.setup_code == code:
            return version
    return None


def version_from_name(name: str) -> AnyVersion:
    """Read "moq-lite-06", "06", "6" or "moq-transport-18"; ValueError lists the valid names."""
    text = name.strip().lower()
    for version in ALL_VERSIONS:
        if text == version.name_on_wire:
            return version
    digits = text.removeprefix("moq-lite-")
    for lite in Version:
        if digits in (f"{lite.value:02}", str(lite.value)):
            return lite
    for alias, draft in _SAME_AS.items():
        if text == alias:
            return draft
    valid = ", ".join(version.name_on_wire for version in (*Version, *Draft))
    shown = name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}..."
    raise ValueError(f"unknown version {shown!r}; valid are {valid} (of moq-lite, also just the number)")
