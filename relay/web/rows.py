"""Rows of `/state` and `/announced`. Fields are the keys of the objects, in order."""

from __future__ import annotations

from dataclasses import dataclass, is_dataclass
from typing import Any

from relay.actors.rows import PeerRow, SessionRow, TrackRow


def plain(row: object) -> dict[str, Any]:
    """The hook of encoders. Raises TypeError for other types."""
    if not is_dataclass(row):
        raise TypeError(f"{type(row).__name__} is no row")
    return {name: getattr(row, name) for name in type(row).__slots__}  # type: ignore[union-attr]


@dataclass(frozen=True, slots=True)
class CertificateRow:
    """Times in seconds since the epoch."""

    listener: str
    number: int
    name: str
    generated: bool
    not_before: float
    not_after: float


@dataclass(frozen=True, slots=True)
class Identity:
    """Hop ids are strings: they exceed the precision of a double."""

    version: str
    hop: str
    since: float
    certificate: str
    certificates: tuple[CertificateRow, ...]
    listen: dict[str, tuple[str, ...]]
    versions: tuple[str, ...]
    public: dict[str, tuple[str, ...]] | None
    node: str | None
    dashboard: str | None  # URL of the public HTTP address at `node`
    draining: bool
    now: float = 0.0  # seconds since the epoch
    operator: bool = False  # whether the one who asks may close sessions


@dataclass(frozen=True, slots=True)
class BroadcastRow:
    """One publication."""

    path: str
    session: int
    hops: tuple[str, ...]
    serving: bool
    tracks: tuple[TrackRow, ...]


@dataclass(frozen=True, slots=True)
class AnnouncedRow:
    """One announced path."""

    path: str
    hops: tuple[str, ...]
    session: int
    tracks: tuple[str, ...]
    viewers: int


@dataclass(frozen=True, slots=True)
class Sums:
    """Totals of everything shown."""

    sessions: int
    broadcasts: int
    tracks: int
    viewers: int
    bytes_received: int
    bytes_sent: int
    cached_bytes: int
    refused: dict[str, int]


@dataclass(frozen=True, slots=True)
class Figures:
    """By which health is judged: of the last minute, or now. None is unknown."""

    lag: float | None  # seconds: the worst of the event loop
    cpu: float | None  # share of a core
    memory: int | None  # bytes
    memory_limit: int | None
    skipped: float | None  # groups per second
    refused: dict[str, int]  # by reason
    descriptors: int | None  # open files and sockets
    descriptors_limit: int | None
    udp_drops: int | None  # datagrams
    certificate_days: float | None  # until the first certificate ends
    draining: bool
    peers_down: int


@dataclass(frozen=True, slots=True)
class Concern:
    """Why the relay is not well. `doc`: file and section that say what to do."""

    kind: str
    text: str
    doc: str


@dataclass(frozen=True, slots=True)
class Health:
    """`well` without a concern."""

    well: bool
    reasons: tuple[Concern, ...]
    figures: Figures


@dataclass(frozen=True, slots=True)
class State:
    """`/state`. `health` is null if only a part is shown."""

    relay: Identity
    health: Health | None
    totals: Sums
    sessions: tuple[SessionRow, ...]
    broadcasts: tuple[BroadcastRow, ...]
    withdrawn: tuple[BroadcastRow, ...]
    peers: tuple[PeerRow, ...]
