"""The named bounds of the relay: every queue, map, buffer and timer that a peer can make grow.

Owns the defaults and their reasons. `relay.config` exposes each as a key of the `[limits]` table; the room that
enforces a limit refuses the offender with a clear code and counts it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """What one relay holds at most. Sizes are bytes, times are seconds."""

    sessions: int = 10_000
    """Sessions on this relay. Beyond it new ones are refused before they are accepted."""

    sessions_address: int = 1_000
    """Sessions of one client address (IPv6: of one /64): many share one, but it takes ten of them to fill a relay."""

    handshakes: int = 1_000
    """QUIC connections that have not finished their handshake: what a flood of first packets can cost."""

    handshakes_unverified: int = 250
    """Of these, those whose address may be forged. Beyond it an address is proven first, by a Retry; 0: always."""

    handshakes_address: int = 500
    """Of these, those of one address that is proven, so that no single one takes all. Beyond it nothing is answered."""

    packet_time: float = 0.1
    """CPU seconds a second that one QUIC connection may take beyond 0.1 ms a packet, before its packets are dropped."""

    setup_timeout: float = 10.0
    """From accept to an established moq session, and on TCP to a complete request, the first and each further one."""

    http: int = 2_000
    """TCP connections that are no session. Beyond it new ones are closed unread, on the internal listener apart."""

    http_address: int = 500
    """Of these, those of one address."""

    auth_failures: int = 20
    """Refusals for bad credentials that one address gets without delay: a mistyped token annoys nobody."""

    auth_delay: float = 1.0
    """How much longer than the one before each further refusal is held back, and after which one of them is forgotten."""

    auth_waiting: int = 256
    """Refusals held back on the whole relay. Beyond it they come at once: an open connection costs more than a quick no."""

    announces: int = 5_000
    """Live broadcasts that one session may announce."""

    announce_streams: int = 100
    """Announce streams that one session may hold open toward us."""

    subscriptions: int = 2_000
    """Live subscriptions and fetches of one session."""

    control_rate: int = 500
    """Control messages a second of one session, for long: each costs us more than the peer, and none needs so many."""

    control_burst: int = 10_000
    """Control messages that one session may send ahead of that rate: all its announcements and subscriptions at once."""

    path: int = 1_024
    """Bytes of one broadcast's path, root included, and of one track's name: they are kept while they live."""

    inbox: int = 200_000
    """Messages that may wait for the actor of one session: some 50 MB, and more than all changes of a busy relay."""

    answer_timeout: float = 10.0
    """How long a publisher may take to answer a subscription, a question about a track or a fetch, before it is refused."""

    readers: int = 1_000
    """HTTP requests that read a track at the same time; each is a subscriber of its own."""

    tracks: int = 2_000
    """Tracks of one broadcast that are subscribed to at the same time."""

    message: int = 65_536
    """One control message. The longest legal one, a path of 32 segments and 32 hops, is far below."""

    frame: int = 64 * 1024 * 1024
    """One frame. Frames are forwarded as they arrive, but the newest group is held in the cache."""

    cache_track: int = 128 * 1024 * 1024
    """Payload that one track keeps. The oldest groups go first; a group that alone exceeds it is ended."""

    cache: int = 1024 * 1024 * 1024
    """Payload that all tracks together keep: 5 s of 1.6 Gbit/s. Those with more than their fair share give up first."""

    cache_groups: int = 256
    """Groups that one track keeps, so that one-frame groups stay bounded too."""

    cache_age: float = 5.0
    """How long a group stays fetchable once a newer one exists, where the publisher states no time of its own (05, 06)."""

    groups_in_flight: int = 256
    """Unfinished groups that a publisher may have open on one track."""

    track_idle: float = 1.0
    """How long a track without viewers keeps its upstream subscription, so that a reload costs nothing."""

    linger: float = 5.0
    """How long a broadcast is kept whose publisher broke off without a word, so that it may come back; 0: not at all."""

    peers: int = 256
    """Other relays of a cluster. Each is dialled, or dials."""

    backlog_groups: int = 2
    """Groups that may wait, unsent, in one subscription, however slow its peer is."""

    backlog_time: float = 1.0
    """A peer is slow once more waits for it than was written in this time; then the oldest group is given up."""

    backlog_bytes: int = 64 * 1024 * 1024
    """Unsent payload of one subscription, whatever its age."""

    backlog_session: int = 256 * 1024 * 1024
    """Unsent bytes of one session, fetches and announcements included; beyond it the least important group goes."""

    websocket_streams: int = 1024
    """Streams of each kind that a peer on WebSocket may have open at once: one per group, announce, subscription."""

    websocket_window: int = 16 * 1024 * 1024
    """Unread bytes that a QMux peer may send on all its streams together; 1 MiB of them on one stream."""

    websocket_message: int = 1024 * 1024
    """One message of a `webtransport` peer, which knows no other limit. Deployed ones stay at 16 KiB."""

    qlog_files: int = 100
    """Files in `qlog_dir`, of which the oldest goes first, and QUIC connections that are logged at the same time."""

    qlog_events: int = 10_000
    """Events of one such connection, frames of its packets included: the first half of them and the newest."""

    drain: float = 5.0
    """How long a relay that is told to stop serves on, after it has asked its sessions to leave; 0: not at all."""

    close_timeout: float = 3.0
    """How long a closing relay waits for its sessions to close."""
