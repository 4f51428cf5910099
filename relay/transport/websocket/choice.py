"""Negotiation of framing and version by subprotocol."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from relay.wire.qmux import Draft
from relay.wire.version import ALPN_VERSIONS, AnyVersion, alpns_for

PLAIN = "webtransport"  # also if the peer offers none
UNPAIRED = frozenset(("moql-01",))  # of raw QUIC, never used after a framing


class Choice(NamedTuple):
    """Framing and version."""

    subprotocol: str  # for the answer; `""` if the peer offered none
    draft: Draft | None  # `None` is the framing `webtransport`
    version: AnyVersion | None  # `None` leaves it to SETUP messages


def choices(versions: Sequence[AnyVersion]) -> list[Choice]:
    """Best first."""
    found = [
        Choice(f"{draft.name_on_wire}.{alpn}", draft, ALPN_VERSIONS[alpn])
        for alpn in alpns_for(versions)
        if alpn not in UNPAIRED
        for draft in sorted(Draft, reverse=True)
    ]
    if any(version.has_setup_exchange for version in versions):
        found += [Choice(draft.name_on_wire, draft, None) for draft in sorted(Draft, reverse=True)]
        found.append(Choice(PLAIN, None, None))
    return found


def choose(offered: Sequence[str], versions: Sequence[AnyVersion]) -> Choice | None:
    """The best of a peer's offer."""
    found = choices(versions)
    if not offered:
        return next((choice._replace(subprotocol="") for choice in found if choice.draft is None), None)
    return next((choice for choice in found if choice.subprotocol in offered), None)
