"""Limits on every queue, map, buffer and timer that a peer can make grow.

`[limits]` has a key for each. The room that enforces a limit counts refusals, and refuses with a clear code.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes are bytes, times are seconds."""

    sessions: int = 10_000
    """Refused before they are accepted."""

    sessions_address: int = 1_000
    """IPv6: one /64. Many share one, but it takes ten to fill a relay."""

    handshakes: int = 1_000
    """Unfinished QUIC handshakes: the cost of a flood of first packets."""

    handshakes_unverified: int = 250
    """Handshakes whose address may be forged. Beyond it a Retry proves addresses; 0: always."""

    handshakes_address: int = 500
    """Handshakes of one proven address, so that none takes all. More get no answer."""

    packet_time: float = 0.1
    """CPU seconds per second of one QUIC connection, beyond 0.1 ms a packet; then its packets are dropped."""

    setup_timeout: float = 10.0
    """Time from accept to an established moq session; on TCP to each complete request."""

    http: int = 2_000
    """TCP connections without a session. More are closed unread. The internal listener counts apart."""

    http_address: int = 500

    auth_failures: int = 20
    """Refusals per address without a delay, so that a mistyped token costs no waiting."""

    auth_delay: float = 1.0
    """Each further refusal waits that much longer; one is forgotten after as long."""

    auth_waiting: int = 256
    """Delayed refusals. More are immediate: an open connection costs more than a quick answer."""

    announces: int = 5_000
    """Live, of one session."""

    announce_streams: int = 100
    """Open, of one session."""

    subscriptions: int = 2_000
    """Live, with fetches, of one session."""

    control_rate: int = 500
    """Messages per second of one session, sustained: each costs us more than the peer."""

    control_burst: int = 10_000
    """Messages at once: all announcements and subscriptions of a session."""

    path: int = 1_024
    """Bytes of a broadcast's path, root included, and of a track's name: they are kept."""

    inbox: int = 200_000
    """Messages for one session's actor: some 50 MB, and more than all changes of a busy relay."""

    answer_timeout: float = 10.0
    """How long a publisher may take to answer a subscription, a question about a track or a fetch."""

    readers: int = 1_000
    """HTTP requests that read a track; each is a subscriber."""

    tracks: int = 2_000
    """Subscribed, of one broadcast."""

    message: int = 65_536
    """The longest legal one, a path of 32 segments and 32 hops, is far below."""

    frame: int = 64 * 1024 * 1024
    """It is forwarded as it arrives, but the newest group is cached."""

    cache_track: int = 128 * 1024 * 1024
    """Payload. The oldest groups go first; a group that alone exceeds it is ended."""

    cache: int = 1024 * 1024 * 1024
    """Cached payload of all tracks: 5 s of 1.6 Gbit/s. Those above their fair share evict first."""

    cache_groups: int = 256
    """Cached groups of one track, which bounds groups of one frame."""

    cache_age: float = 5.0
    """How long a group stays after a newer one came, unless the publisher has its own time (05, 06)."""

    groups_in_flight: int = 256
    """Unfinished, of one track."""

    track_idle: float = 1.0
    """How long a track without viewers keeps its upstream subscription: a reload costs nothing."""

    linger: float = 5.0
    """How long a broadcast waits for the return of a publisher that broke off; 0: not at all."""

    peers: int = 256
    """Relays of a cluster, dialled or dialling."""

    backlog_groups: int = 2
    """Unsent, in one slow subscription."""

    backlog_time: float = 1.0
    """A peer is slow if its queue exceeds what was written in this time; then the oldest group is skipped."""

    backlog_bytes: int = 64 * 1024 * 1024
    """Unsent, of one subscription."""

    backlog_session: int = 256 * 1024 * 1024
    """Unsent, of one session, with fetches and announcements; the least important group goes first."""

    websocket_streams: int = 1024
    """Concurrent streams of each kind of a peer: one per group, announce, subscription."""

    websocket_window: int = 16 * 1024 * 1024
    """Unread bytes of a QMux peer's streams together; 1 MiB of them on one stream."""

    websocket_message: int = 1024 * 1024
    """A message of a `webtransport` peer, which knows no other limit. Deployed ones stay at 16 KiB."""

    qlog_files: int = 100
    """Files in `qlog_dir` (the oldest is deleted first), and QUIC connections logged at the same time."""

    qlog_events: int = 10_000
    """Events of one connection, frames of its packets included: the first half of them and the newest."""

    drain: float = 5.0
    """A stopping relay serves that long, after it has asked its sessions to leave; 0: not at all."""

    close_timeout: float = 3.0
    """How long a closing relay waits for its sessions."""
