"""Every message that actors exchange, by conversation. Immutable, and named for what happened or is wanted.

`session`: number of a connection actor, unique in the process. `key`: chosen by the subscriber, unique among its
requests. Paths are absolute and normalised. Codes are of the current stream-code registry (moq-lite, error codes);
connections translate them for their peers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

from relay.actors.rows import PeerRow
from relay.actors.runtime import Ref
from relay.model.limits import Limits
from relay.model.numbering import Span
from relay.model.ranges import Range
from relay.model.route import Route
from relay.model.track import SubscribeParams, TrackProperties
from relay.model.track_end import LATE_AT_LEAST
from relay.model.watchers import AnnounceInterest, Announcement, WatchChanged
from relay.moq.encoding import Encoding
from relay.moq.session import GroupFragment, GroupPart
from relay.transport.session import Event, Session, SessionRequest

__all__ = ["GroupFragment", "GroupPart", "WatchChanged"]

Key: TypeAlias = tuple[str, int]  # URN of the subscriber, and its `key`

# --- transport to connection -------------------------------------------------------------------------------------


class SessionEvents(NamedTuple):
    """Events of the peer since the last loop turn."""

    events: tuple[Event, ...]


class CloseSession(NamedTuple):
    """End the session from our side."""

    code: int
    reason: str


class Drain(NamedTuple):
    """The relay is about to end. Gate to the cluster, and to each connection, which answers `Draining`."""


class Draining(NamedTuple):
    """Connection to gate: the answer to `Drain`."""

    session: int
    asked: bool  # asked to leave: its version has GOAWAY, and its session has begun
    cluster: bool  # the peer is a relay, which stays as long as we do


class CountSession(NamedTuple):
    """Asked of a connection: its counts so far, by name and label."""


class DescribeSession(NamedTuple):
    """Asked of a connection. The reply is a `SessionRow`."""


# --- to the gate -------------------------------------------------------------------------------------------------


class Admit(NamedTuple):
    """A peer wants a session. Sent, or asked to await the peer's answer."""

    request: SessionRequest
    versions: tuple[Any, ...] | None = None  # of its listener; None: all of the relay


class OpenDialled(NamedTuple):
    """Peer to gate: start the connection actor of a dialled session. The answer is `DialledOpened`."""

    session: Session
    peer: Ref


class DialledOpened(NamedTuple):
    """Gate to peer: the connection actor, which sends `PeerConnected` and `PeerDisconnected`; None if it failed."""

    connection: Ref | None


class EnterReader(NamedTuple):
    """Asked by HTTP before it reads a track. The reply is `ReaderEntered`; `LeaveReader` follows in any case."""

    reader: object  # its identity


class ReaderEntered(NamedTuple):
    """`number` is unique among those of sessions; None if there is no room, or the relay is about to end."""

    number: int | None
    draining: bool


class LeaveReader(NamedTuple):
    """HTTP to gate: that reader has ended, or no longer waits for the reply."""

    reader: object


class DescribeGate(NamedTuple):
    """Asked by HTTP. The reply is `GateReport`."""


class GateReport(NamedTuple):
    """The sessions, and the rejections."""

    draining: bool  # the relay is about to end
    connections: tuple[Ref, ...]
    refused: dict[str, int]  # how many were rejected, by limit


class UseCluster(NamedTuple):
    """The cluster actor, which comes after the gate."""

    cluster: Ref


class DrainSessions(NamedTuple):
    """Asked of the gate: ask sessions to leave. Replied when they have, or after `[limits] drain`."""


class CloseSessions(NamedTuple):
    """Asked of the gate: close all sessions. Replied when their connection actors are notified."""

    reason: str


# --- connection to origin: announcements --------------------------------------------------------------------------


class Announce(NamedTuple):
    """`session` offers `path`; `generation` numbers its announcements of that path."""

    session: int
    connection: Ref
    path: str
    generation: int
    route: Route
    broadcast: Ref
    prefix: bool  # the route also serves every path below `path` (moq-lite-06)
    tentative: bool  # maybe our own announcement's echo: a fallback until the publisher is dead or leaves
    relayed: bool = False  # from another relay of the cluster
    onward: bool = True  # other relays may be offered it; False from a version without hop ids: loops


class Reroute(NamedTuple):
    """The same announcement now has another route."""

    session: int
    path: str
    generation: int
    route: Route


class Unannounce(NamedTuple):
    """The publisher withdrew the path; running subscriptions go on."""

    session: int
    path: str
    generation: int
    said: bool = True  # the peer said so; it did not just end the announce stream


class SessionGone(NamedTuple):
    """A connection ended, and all that it announced and watched. `lost`: neither side closed it; the publisher may return."""

    session: int
    lost: bool = False


class Leaving(NamedTuple):
    """The peer is about to end: its publications serve only where there is no other."""

    session: int


class CheckAlive(NamedTuple):
    """Origin to connection: ping the peer. Answered by `Alive`."""


class Alive(NamedTuple):
    """Connection to origin: the peer answered in time, or not."""

    session: int
    alive: bool


class Watch(NamedTuple):
    """Announce to `watcher` the broadcasts of its interest, existing ones first."""

    watcher: Ref
    interest: AnnounceInterest


class Unwatch(NamedTuple):
    """End of interest."""

    session: int
    watch: int


class WatchStarted(NamedTuple):
    """Origin to watcher: existing offers. Changes follow."""

    watch: int
    offers: tuple[Announcement, ...]


class ListAnnounced(NamedTuple):
    """Asked by HTTP: the announced paths under the prefixes. The reply is a tuple of `Announcement`."""

    prefixes: tuple[str, ...]


class ListPublications(NamedTuple):
    """Asked by HTTP: every publication under the prefixes. The reply is a tuple of `Published`."""

    prefixes: tuple[str, ...]


class ListWithdrawn(NamedTuple):
    """Asked by HTTP: withdrawn publications under the prefixes that still run. Replied as `ListPublications`."""

    prefixes: tuple[str, ...]


class Published(NamedTuple):
    """One session's announcement of one path; `serving` if requests go to it."""

    path: str
    session: int
    route: Route
    serving: bool
    broadcast: Ref


class NewLimits(NamedTuple):
    """To the gate, origin, cluster and cache budget: the limits from now on."""

    limits: Limits


# --- subscriber to origin to broadcast to track -------------------------------------------------------------------


class Subscribe(NamedTuple):
    """`subscriber` wants the groups of a track. Answered by `Accepted` or `Refused`."""

    path: str
    track: str
    subscriber: Ref
    session: int
    key: int
    encoding: Encoding
    params: SubscribeParams
    exclude: int
    floor: int = 0  # the next wanted group, if others of the path were seen
    life: int = 0  # set by the origin: equal lives have the same groups
    relay: bool = False  # a relay of the cluster, which is no viewer


class Describe(NamedTuple):
    """`subscriber` wants the properties of a track. Answered by `Described` or `Refused`."""

    path: str
    track: str
    subscriber: Ref
    session: int
    key: int
    exclude: int
    life: int = 0  # set by the origin


class Fetch(NamedTuple):
    """`subscriber` wants one group once. Answered by `FetchData` or `Refused`."""

    path: str
    track: str
    subscriber: Ref
    session: int
    key: int
    encoding: Encoding
    params: SubscribeParams  # `start_group` is the group, `start_frame` and `end_frame` bound its frames
    exclude: int
    life: int = 0  # set by the origin


class UpdateSubscription(NamedTuple):
    """SUBSCRIBE_UPDATE: new parameters of a subscription."""

    subscriber: Ref
    key: int
    params: SubscribeParams


class Unsubscribe(NamedTuple):
    """End of a subscription or fetch; to the origin if no track has accepted it yet."""

    subscriber: Ref
    key: int


class Find(NamedTuple):
    """Which of `paths` is announced? Answered by `Found`; with `wait`, as soon as one is, or until `Unsubscribe`."""

    paths: tuple[str, ...]  # one path and ancestors of it, the longest first
    subscriber: Ref
    key: int
    wait: bool


class Found(NamedTuple):
    """The longest of the paths that is announced; None if none is."""

    key: int
    path: str | None


# --- track to subscriber -------------------------------------------------------------------------------------------


class Accepted(NamedTuple):
    """The track exists as far as is known; `track` takes `UpdateSubscription` and `Unsubscribe`."""

    key: int
    track: Ref


class Refused(NamedTuple):
    """The request cannot be served, or no longer can."""

    key: int
    code: int


class PublisherLost(NamedTuple):
    """The publisher is gone without an end of the track: ask again, there may be another one."""

    key: int
    code: int


class Described(NamedTuple):
    """Properties of the track."""

    key: int
    properties: TrackProperties


class Deliver(NamedTuple):
    """Groups of a subscription, in order of arrival. Subscribers of the same groups share `fragments`."""

    key: int
    fragments: tuple[GroupFragment, ...]


class DeliverDatagram(NamedTuple):
    """A one-frame group that travels as a datagram."""

    key: int
    sequence: int
    timestamp: int
    payload: bytes


class FetchData(NamedTuple):
    """Part of the result of a fetch."""

    key: int
    chunks: tuple[Any, ...]  # as those of a fragment
    fin: bool


class Ended(NamedTuple):
    """Nothing more comes: the track is over, or all that was asked for has been delivered."""

    key: int
    final: int  # the first sequence that will never be sent
    missing: tuple[Range, ...] = ()  # groups before it that never came


# --- track and directory: numbers of groups ------------------------------------------------------------------------


class AskNumbers(NamedTuple):
    """Track to origin: it runs, and `sequence` is the number of a group of its publisher. Answered by `Numbered`."""

    track: Ref
    path: str
    name: str
    life: int
    sequence: int | None = None  # None as long as there is no group
    floor: int = 0  # least number, if it has to count anew
    timescale: int | None = None  # units a second of its timestamps, if known


class Numbered(NamedTuple):
    """Origin to track: the numbers that are its own."""

    span: Span | None
    free: bool  # no track has numbers of it
    timescale: int | None  # units a second, as viewers know it; None if unknown


class NumbersOver(NamedTuple):
    """Track to origin: it has ended. `following` is the number after its newest group's, as viewers see it."""

    track: Ref
    path: str
    name: str
    following: int
    timescale: int | None
    watched: bool  # viewers will ask again, and continue


# --- broadcast and track -------------------------------------------------------------------------------------------


class Withdraw(NamedTuple):
    """Origin to broadcast: it is out of the directory. It ends with its last track, and says so by `BroadcastOver`."""

    origin: Ref
    publication: int


class BroadcastOver(NamedTuple):
    """Broadcast to origin: it has ended."""

    publication: int
    path: str


class RouteChanged(NamedTuple):
    """Origin to broadcast to tracks: a publication has another route or none. Tracks without a group ask again.

    In a loop of relays each waits for the next, as the withdrawal of a publisher reaches them one after the other.
    """

    lost: bool  # the publisher's session is dead and another publishes the path: all tracks ask again


class TrackIdle(NamedTuple):
    """Track to broadcast: it has no subscriber. `handled`: number of requests that the broadcast forwarded to it."""

    path: str
    track: str
    handled: int


class TrackEnded(NamedTuple):
    """Track to broadcast: it has ended; messages on their way to it are lost."""

    path: str
    track: str
    ref: Ref


class ListTracks(NamedTuple):
    """Asked of a broadcast: references to its running tracks, in order of path and name."""


class DescribeTrack(NamedTuple):
    """Asked of a track. The reply is a `TrackRow`."""


# --- track to publishing connection --------------------------------------------------------------------------------


class OpenUpstream(NamedTuple):
    """Subscribe to a track at the peer. Answered by the `Upstream...` messages."""

    track: Ref
    path: str
    name: str
    params: SubscribeParams
    describe: bool  # `UpstreamProperties` is wanted, too


class DescribeUpstream(NamedTuple):
    """Ask the peer for a track's properties. Answered by `UpstreamProperties` or `UpstreamFailed`."""

    track: Ref
    path: str
    name: str


class FetchUpstream(NamedTuple):
    """Fetch one group from the peer. Answered by `FetchedData`."""

    track: Ref
    path: str
    name: str
    sequence: int
    priority: int


class UpdateUpstream(NamedTuple):
    """The parameters of all subscribers together have changed."""

    track: Ref
    params: SubscribeParams


class StopGroup(NamedTuple):
    """The track does not want the rest of that group."""

    track: Ref
    sequence: int
    code: int
    past: bool = False  # it came by `OpenPast`


class OpenPast(NamedTuple):
    """Subscribe to groups before those of the running subscription. Answered by `Past...` with the same number."""

    track: Ref
    path: str
    name: str
    number: int
    params: SubscribeParams


class ClosePast(NamedTuple):
    """Nothing more is wanted of the latest `OpenPast`."""

    track: Ref


class StopFetch(NamedTuple):
    """That fetch is not wanted any more."""

    track: Ref
    sequence: int


class CloseUpstream(NamedTuple):
    """The track has ended: unsubscribe."""

    track: Ref


class OverLimit(NamedTuple):
    """The peer's publication exceeded a limit: to be counted and logged for its session."""

    limit: str
    fields: Mapping[str, object]  # for the log


# --- publishing connection to track: also GroupData, DatagramReceived, SubscriptionDropped, FetchedData of `moq` ---


class UpstreamProperties(NamedTuple):
    """Properties of the track; the defaults, and no answer of the publisher, where its version has none."""

    properties: TrackProperties
    answered: bool = True


class UpstreamStarted(NamedTuple):
    """The peer accepted; `group` is the first that it will send, if it named one."""

    group: int | None
    patience: float = LATE_AT_LEAST  # seconds to wait for a late group: by the round trip to the peer


class PastStarted(NamedTuple):
    """The first group that the peer will send of the past."""

    number: int
    group: int | None


class PastGroups(NamedTuple):
    """Groups of the past, as they arrived."""

    number: int
    parts: tuple[GroupPart, ...]


class PastOver(NamedTuple):
    """The peer has no more of the past, or refuses; the last groups may be late by `patience` seconds."""

    number: int
    patience: float


class UpstreamEnded(NamedTuple):
    """The peer ended the track; `final` is the first sequence that will never come, if it named one."""

    final: int | None
    patience: float  # seconds to wait for a late group: by the round trip to the peer


class UpstreamFailed(NamedTuple):
    """The peer refused or aborted the track, or is gone."""

    code: int
    gone: bool = False


# --- track and cache budget ---------------------------------------------------------------------------------------


class CacheSize(NamedTuple):
    """Track to cache budget: the bytes of its groups changed, or the `answer` to `EvictTo`."""

    track: Ref
    size: int
    answer: bool = False


class EvictTo(NamedTuple):
    """Cache budget to track: evict groups down to `size` bytes, the newest one only with `newest`."""

    size: int
    newest: bool


# --- cluster -------------------------------------------------------------------------------------------------------


class PeerConnected(NamedTuple):
    """A session with another relay has begun. `hop`: its id, or 0. `peer` dialled it; None: the other relay did."""

    session: int
    connection: Ref
    hop: int
    peer: Ref | None = None


class PeerDisconnected(NamedTuple):
    """Such a session has ended. `lost`: neither side closed it."""

    session: int
    connection: Ref
    reason: str
    lost: bool
    peer: Ref | None = None


class OtherSession(NamedTuple):
    """Cluster to peer: the number of another session with the same relay, which makes yours redundant, or None."""

    session: int | None


class PeerSessionLost(NamedTuple):
    """Cluster to peer: a session that its relay had dialled has broken off."""


class MemberGone(NamedTuple):
    """Cluster to peer: its relay is not announced any more."""


class MemberBack(NamedTuple):
    """Cluster to peer: its relay is announced, still or again."""


class PeerEnded(NamedTuple):
    """Peer to cluster: it has ended."""

    target: str
    peer: Ref


class ListPeers(NamedTuple):
    """Asked of the cluster: its peers, and relays that only dialled us. The reply is `Peers`."""


class Peers(NamedTuple):
    """References to peer actors, and rows of `/state` as they give them."""

    refs: tuple[Ref, ...]
    others: tuple[PeerRow, ...]


class DescribePeer(NamedTuple):
    """Asked of a peer. The reply is a `PeerRow`."""
