"""Every message between actors, by conversation.

`session`: number of a connection actor, unique in the process. `key`: chosen by the subscriber, unique among
its requests. Paths are absolute and in normal form. Codes are those of the current stream-code registry
(moq-lite, error codes); connections translate them for their peers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

from relay.actors.rows import PeerRow
from relay.actors.runtime import Ref
from relay.model.group import Object
from relay.model.limits import Limits
from relay.model.member import MemberStatus
from relay.model.numbering import Span
from relay.model.ranges import Range
from relay.model.route import Route
from relay.model.track import SubscribeParams, TrackProperties
from relay.model.track_end import LATE_AT_LEAST
from relay.model.watchers import AnnounceInterest, Announcement, WatchChanged
from relay.moq.encoding import Encoding
from relay.moq.session import GroupFragment, GroupPart, Location
from relay.transport.session import Event, Session, SessionRequest

__all__ = ["GroupFragment", "GroupPart", "WatchChanged"]

Key: TypeAlias = tuple[str, int]  # of the subscriber, and its `key`

# --- transport to connection


class SessionEvents(NamedTuple):
    """The peer's events since the last loop turn."""

    events: tuple[Event, ...]


class CloseSession(NamedTuple):
    """End the session from our side."""

    code: int
    reason: str


class Drain(NamedTuple):
    """Gate to cluster and connections: the relay is about to end. A connection answers `Draining`."""


class Draining(NamedTuple):
    """Connection to gate."""

    session: int
    asked: bool  # the peer got GOAWAY: its version has it, and its session has begun
    cluster: bool  # a relay, which stays as long as we do


class CountSession(NamedTuple):
    """Asked of a connection. The reply is its counts so far, by name and label."""


class DescribeSession(NamedTuple):
    """Asked of a connection. The reply is a `SessionRow`."""


# --- to the gate


class Admit(NamedTuple):
    """A peer wants a session. Ask to await its answer."""

    request: SessionRequest
    versions: tuple[Any, ...] | None = None  # the listener's; None: the relay's


class OpenDialled(NamedTuple):
    """Peer to gate: start the connection actor. Answered by `DialledOpened`."""

    session: Session
    peer: Ref


class DialledOpened(NamedTuple):
    """Gate to peer: the actor, or None if it failed. It sends `PeerConnected` and `PeerDisconnected`."""

    connection: Ref | None


class EnterReader(NamedTuple):
    """HTTP asks before reading a track. The reply is `ReaderEntered`; `LeaveReader` always follows."""

    reader: object  # its identity


class ReaderEntered(NamedTuple):
    """`number` is unique among sessions; None if there is no room, or the relay is about to end."""

    number: int | None
    draining: bool


class LeaveReader(NamedTuple):
    """The reader has ended, or no longer awaits the reply."""

    reader: object


class DescribeGate(NamedTuple):
    """The reply is `GateReport`."""


class GateReport(NamedTuple):
    """Sessions and rejections."""

    draining: bool
    connections: tuple[Ref, ...]
    refused: dict[str, int]  # rejections, by limit


class MeasureGate(NamedTuple):
    """Asked by HTTP. The reply is `GateFigures`."""


class GateFigures(NamedTuple):
    """Bytes and refusals since the start, in total. Packets are included in bytes."""

    sessions: int  # now
    received: int
    sent: int
    refused: dict[str, int]  # by limit


class CloseByOperator(NamedTuple):
    """Asked of the gate: close a session. The reply is False if there is none of that number."""

    session: int


class UseCluster(NamedTuple):
    """The cluster actor, for the gate, which has started before."""

    cluster: Ref


class DrainSessions(NamedTuple):
    """Asked of the gate: have sessions leave. Replied when they have, or after `[limits] drain`."""


class CloseSessions(NamedTuple):
    """Asked of the gate: close all sessions. Replied once all connection actors know."""

    reason: str


# --- connection to origin: announcements


class Announce(NamedTuple):
    """`session` offers `path`; `generation` numbers its announcements of that path."""

    session: int
    connection: Ref
    path: str
    generation: int
    route: Route
    broadcast: Ref
    prefix: bool  # the route serves every path below `path` (moq-lite-06)
    tentative: bool  # maybe an echo of our own: a fallback until the publisher is dead or leaves
    relayed: bool = False  # from another relay of the cluster
    onward: bool = True  # to other relays; not for versions without hop ids, which allow loops


class Reroute(NamedTuple):
    """The same announcement has another route now."""

    session: int
    path: str
    generation: int
    route: Route


class Unannounce(NamedTuple):
    """The publisher withdrew the path; running subscriptions go on."""

    session: int
    path: str
    generation: int
    said: bool = True  # by a message, not by the end of the announce stream


class SessionGone(NamedTuple):
    """A session ended, with its announcements and watches. `lost`: neither side closed it; it may return."""

    session: int
    lost: bool = False


class Leaving(NamedTuple):
    """Prefer other publications to the peer's."""

    session: int


class CheckAlive(NamedTuple):
    """Ping the peer. Answered by `Alive`."""


class Alive(NamedTuple):
    """`alive` if the peer answered in time."""

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
    """Existing offers. Changes follow."""

    watch: int
    offers: tuple[Announcement, ...]


class OfferTrack(NamedTuple):
    """`session` offers a track by itself (PUBLISH of moq-transport), or no longer."""

    session: int
    path: str
    track: str
    offered: bool


class WatchTracks(NamedTuple):
    """Report tracks below `prefixes` to `watcher`, existing ones first, by `TrackChanged`."""

    watcher: Ref
    session: int
    watch: int
    prefixes: tuple[str, ...]


class UnwatchTracks(NamedTuple):
    """End of interest."""

    session: int
    watch: int


class TrackChanged(NamedTuple):
    """Another session offers a track, or none does any more."""

    watch: int
    path: str
    track: str
    offered: bool


class ListAnnounced(NamedTuple):
    """Asked by HTTP: announced paths under the prefixes. The reply is a tuple of `Announcement`."""

    prefixes: tuple[str, ...]


class ListPublications(NamedTuple):
    """Asked by HTTP: publications under the prefixes. The reply is a tuple of `Published`."""

    prefixes: tuple[str, ...]


class ListWithdrawn(NamedTuple):
    """Asked by HTTP: withdrawn publications that still run. Replied as `ListPublications`."""

    prefixes: tuple[str, ...]


class CountBroadcasts(NamedTuple):
    """Asked by HTTP. The reply is the number of published paths, without the relays' names."""


class Published(NamedTuple):
    """One session's announcement of one path; `serving` if it gets the requests."""

    path: str
    session: int
    route: Route
    serving: bool
    broadcast: Ref


class NewLimits(NamedTuple):
    """New limits for gate, origin, cluster and cache budget."""

    limits: Limits


# --- subscriber to origin to broadcast to track


class Subscribe(NamedTuple):
    """`subscriber` wants groups of a track. Answered by `Accepted` or `Refused`."""

    path: str
    track: str
    subscriber: Ref
    session: int
    key: int
    encoding: Encoding
    params: SubscribeParams
    exclude: int
    floor: int = 0  # next wanted group, after those of another publisher
    life: int = 0  # set by the origin: equal lives have equal groups
    relay: bool = False  # a relay is no viewer


class Describe(NamedTuple):
    """`subscriber` wants a track's properties. Answered by `Described` or `Refused`."""

    path: str
    track: str
    subscriber: Ref
    session: int
    key: int
    exclude: int
    life: int = 0  # set by the origin


class Fetch(NamedTuple):
    """One group. Answered by `FetchData` or `Refused`."""

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
    """SUBSCRIBE_UPDATE: new parameters."""

    subscriber: Ref
    key: int
    params: SubscribeParams


class Unsubscribe(NamedTuple):
    """The end of a subscription or fetch; to the origin while no track has accepted it."""

    subscriber: Ref
    key: int


class Find(NamedTuple):
    """The longest announced path among `paths`. Answered by `Found`: at once, or with `wait` when one is."""

    paths: tuple[str, ...]  # a path and ancestors, longest first
    subscriber: Ref
    key: int
    wait: bool


class Found(NamedTuple):
    """The announced path; None if there is none."""

    key: int
    path: str | None


# --- track to subscriber


class Accepted(NamedTuple):
    """The track exists as far as we know; `track` takes `UpdateSubscription` and `Unsubscribe`."""

    key: int
    track: Ref
    largest: Location | None = None  # newest group, and its last complete frame


class Refused(NamedTuple):
    """The request is refused, at once or later."""

    key: int
    code: int


class PublisherLost(NamedTuple):
    """The track may not be: ask again for another publisher."""

    key: int
    code: int


class Described(NamedTuple):
    """The track's properties, its newest group so far, and the last complete frame there."""

    key: int
    properties: TrackProperties
    largest: Location | None = None


class Deliver(NamedTuple):
    """Groups of a subscription, in order of arrival. Subscribers of the same groups share `fragments`."""

    key: int
    fragments: tuple[GroupFragment, ...]


class DeliverDatagram(NamedTuple):
    """A group of one frame."""

    key: int
    sequence: int
    timestamp: int
    payload: bytes
    start: Object | None = None


class FetchData(NamedTuple):
    """Part of a fetched group. `largest`: the track's newest complete frame or object when the fetch came."""

    key: int
    part: GroupFragment
    largest: Location | None = None


class Ended(NamedTuple):
    """The end of the track or of the range."""

    key: int
    final: int  # first sequence that never comes
    missing: tuple[Range, ...] = ()  # earlier groups that never came


# --- track and directory: numbers of groups


class AskNumbers(NamedTuple):
    """`sequence` is a group of the track's publisher. Answered by `Numbered`."""

    track: Ref
    path: str
    name: str
    life: int
    sequence: int | None = None  # None without a group
    floor: int = 0  # if counting starts anew
    timescale: int | None = None  # units per second


class Numbered(NamedTuple):
    """Origin to track: the granted numbers."""

    span: Span | None
    free: bool  # no track uses them
    timescale: int | None  # units per second for viewers


class NumbersOver(NamedTuple):
    """The track has ended. `following`: the number after its newest group's, for viewers."""

    track: Ref
    path: str
    name: str
    following: int
    timescale: int | None
    watched: bool  # viewers will ask again


# --- broadcast and track


class Withdraw(NamedTuple):
    """The broadcast left the directory. It ends with its last track, and sends `BroadcastOver`."""

    origin: Ref
    publication: int


class BroadcastOver(NamedTuple):
    """The broadcast has ended."""

    publication: int
    path: str


class RouteChanged(NamedTuple):
    """A publication has another route or none. Tracks without a group ask again.

    In a loop of relays each waits for the next while the withdrawal travels.
    """

    lost: bool  # the session is dead and another publishes the path: all tracks ask again


class TrackIdle(NamedTuple):
    """No subscriber. `handled`: requests forwarded so far."""

    path: str
    track: str
    handled: int


class TrackEnded(NamedTuple):
    """Messages under way to the track are lost."""

    path: str
    track: str
    ref: Ref


class ListTracks(NamedTuple):
    """Asked of a broadcast. The reply is its running tracks, by path and name."""


class DescribeTrack(NamedTuple):
    """Asked of a track. The reply is a `TrackRow`."""


# --- track to publishing connection


class OpenUpstream(NamedTuple):
    """Answered by `Upstream...` messages."""

    track: Ref
    path: str
    name: str
    params: SubscribeParams
    describe: bool  # with `UpstreamProperties`


class DescribeUpstream(NamedTuple):
    """Answered by `UpstreamProperties` or `UpstreamFailed`."""

    track: Ref
    path: str
    name: str


class FetchUpstream(NamedTuple):
    """Answered by `FetchedData`."""

    track: Ref
    path: str
    name: str
    sequence: int
    priority: int


class UpdateUpstream(NamedTuple):
    """The new parameters of all subscribers together."""

    track: Ref
    params: SubscribeParams


class StopGroup(NamedTuple):
    """Stop the rest of that group."""

    track: Ref
    sequence: int
    code: int
    past: bool = False  # by `OpenPast`


class OpenPast(NamedTuple):
    """Groups before those of the running subscription. Answered by `Past...` with the same number."""

    track: Ref
    path: str
    name: str
    number: int
    params: SubscribeParams


class ClosePast(NamedTuple):
    """End the latest `OpenPast`."""

    track: Ref


class StopFetch(NamedTuple):
    """Cancel that fetch."""

    track: Ref
    sequence: int


class CloseUpstream(NamedTuple):
    """The track has ended: unsubscribe."""

    track: Ref


class OverLimit(NamedTuple):
    """The peer's publication exceeded a limit: count and log it for its session."""

    limit: str
    fields: Mapping[str, object]  # for the log


# --- publishing connection to track: also GroupData, DatagramReceived, SubscriptionDropped, FetchedData of
# `moq`


class UpstreamProperties(NamedTuple):
    """Defaults if the publisher's version has no such answer."""

    properties: TrackProperties
    answered: bool = True


class UpstreamStarted(NamedTuple):
    """`group`: the first one, if the peer said so."""

    group: int | None
    patience: float = LATE_AT_LEAST  # seconds for late groups, by the round trip


class PastStarted(NamedTuple):
    """The first older group that the peer will send."""

    number: int
    group: int | None


class PastGroups(NamedTuple):
    """Older groups, as they arrived."""

    number: int
    parts: tuple[GroupPart, ...]


class PastOver(NamedTuple):
    """No more older groups; the last may be late by `patience` seconds."""

    number: int
    patience: float


class UpstreamEnded(NamedTuple):
    """`final`: first sequence that never comes, if the peer said so."""

    final: int | None
    patience: float  # seconds for late groups, by the round trip


class UpstreamFailed(NamedTuple):
    """The peer refused or aborted the track, or is gone."""

    code: int
    gone: bool = False


# --- track and cache budget


class CacheSize(NamedTuple):
    """A track's cached bytes have changed, or are the `answer` to `EvictTo`."""

    track: Ref
    size: int
    answer: bool = False


class EvictTo(NamedTuple):
    """Evict groups down to `size` bytes, the newest group only with `newest`."""

    size: int
    newest: bool


# --- cluster


class PeerConnected(NamedTuple):
    """A session with another relay. `hop`: its id, or 0. `peer` dialled it; None: the other relay did."""

    session: int
    connection: Ref
    hop: int
    peer: Ref | None = None


class PeerDisconnected(NamedTuple):
    """`lost`: neither side closed it."""

    session: int
    connection: Ref
    reason: str
    lost: bool
    peer: Ref | None = None


class OtherSession(NamedTuple):
    """Cluster to peer: number of another session with the same relay, which makes yours redundant, or None."""

    session: int | None


class PeerSessionLost(NamedTuple):
    """A session that the relay dialled broke off."""


class MemberGone(NamedTuple):
    """The relay withdrew its name."""


class MemberBack(NamedTuple):
    """The relay's name is announced."""


class PeerEnded(NamedTuple):
    """Peer to cluster: the peer's actor ends."""

    target: str
    peer: Ref


class ListPeers(NamedTuple):
    """Asked of the cluster. The reply is `Peers`."""


class Peers(NamedTuple):
    """Peer actors, and rows of `/state` for relays that only dialled us."""

    refs: tuple[Ref, ...]
    others: tuple[PeerRow, ...]


class SetStatus(NamedTuple):
    """What this relay says of itself to the others, from now on."""

    status: MemberStatus


class ListStatuses(NamedTuple):
    """Asked of the cluster. The reply has the `MemberStatus` of other relays by name, as far as known."""


class DescribePeer(NamedTuple):
    """Asked of a peer. The reply is a `PeerRow`."""
