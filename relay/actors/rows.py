"""Rows of the debug API: the keys of `/state`, in its order (docs/http.md)."""

from __future__ import annotations

from dataclasses import dataclass

from relay.model.member import MemberTotals


@dataclass(frozen=True, slots=True)
class SessionRow:
    """Answer to `DescribeSession`. `since` and `expires`: seconds since the epoch, `rtt`: seconds."""

    session: int
    remote: str
    transport: str
    version: str | None
    path: str
    since: float
    rtt: float | None
    bytes_received: int
    bytes_sent: int
    streams: int
    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    publishing: tuple[str, ...]
    subscriptions: int
    upstreams: int
    refused: dict[str, int]
    skipped: int  # groups, as the peer was too slow
    expires: float | None  # its token
    estimate: int | None  # bit/s that the network path can carry toward the peer
    window: int | None  # congestion window, bytes
    in_flight: int | None  # bytes sent and not acknowledged
    lost: int | None  # packets toward the peer, since the start


@dataclass(frozen=True, slots=True)
class GroupRow:
    """A cached group. `age`: seconds."""

    sequence: int
    frames: int
    bytes: int
    open: bool
    age: float


@dataclass(frozen=True, slots=True)
class TrackRow:
    """Answer to `DescribeTrack`. Counts since the track began."""

    path: str
    name: str
    viewers: int
    relays: int
    upstream: str
    groups: tuple[GroupRow, ...]
    cached_bytes: int
    received_bytes: int
    received_groups: int
    received_frames: int
    latest: int | None


@dataclass(frozen=True, slots=True)
class PeerRow:
    """Answer to `DescribePeer`. The web server fills in `since` (epoch seconds) and all from `broadcasts` on.

    `totals` and `dashboard` are what that relay says of itself; None if it says nothing.
    """

    node: str
    state: str
    dialled_by: str
    since: float | None
    session: int | None
    error: str | None
    broadcasts: int = 0
    offers: tuple[str, ...] = ()
    totals: MemberTotals | None = None
    dashboard: str | None = None
