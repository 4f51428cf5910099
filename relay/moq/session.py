"""The vocabulary of a moq session: events, in the order of its life, and values of commands.

A *request* is a number for one exchange: a subscription, a fetch, a question about a track, an interest in
announcements. Both sides' numbers come from one counter, and none returns.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

from relay.model.group import Object, Part
from relay.model.route import Route
from relay.model.track import SubscribeParams, TrackProperties
from relay.transport.session import Event as TransportEvent
from relay.wire.errors import WireError
from relay.wire.version import Draft

NEVER = float("inf")  # no deadline

Location: TypeAlias = tuple[int, int]  # of a group, and of a frame in it


# --- the session


class Introduced(NamedTuple):
    """Answer with `admit` or `close`."""

    target: str | None  # path and query from SETUP; `None`: those of the transport's URL


class Opened(NamedTuple):
    """The version is negotiated and the peer admitted: requests may be made."""


class Established(NamedTuple):
    """Set-up is complete; requests of the peer follow."""


class TokenOffered(NamedTuple):
    """A request of the peer waits: answer with `authorized`."""

    request: int
    token: str


class PeerInfo(NamedTuple):
    """SETUP (05 and newer). `None` is an absent parameter."""

    hop: int | None
    cost: int | None
    role: int | None
    probe: int | None


class PeerAlive(NamedTuple):
    """Answer to `alive.begin`."""

    alive: bool  # in time


class PeerLeaving(NamedTuple):
    """GOAWAY, to `uri` if it is not empty."""

    uri: str


class BitrateReported(NamedTuple):
    """SESSION_INFO (01 and 02): bits per second, 0 is unknown."""

    bitrate: int


class LimitExceeded(NamedTuple):
    """The peer exceeded a limit, which ended its stream or session."""

    limit: str
    fields: Mapping[str, object]  # for the log


class DialectChosen(NamedTuple):
    """SETUP chose a version of another machine: it is to receive `events`. Nothing follows."""

    version: Draft
    events: tuple[TransportEvent, ...]


class Incompatible(NamedTuple):
    """The peer's SETUP offers no version of ours; `Closed` follows."""

    offered: tuple[str, ...]


class Fault(NamedTuple):
    """The peer broke a rule, which ends the stream, or with `fatal` the session; `Closed` follows."""

    error: WireError
    fatal: bool


class Closed(NamedTuple):
    """The last event. `code` is the session code on the wire; `None`: the transport failed or timed out."""

    code: int | None
    reason: str
    by_peer: bool


# --- what the peer publishes


class AnnouncementsStarted(NamedTuple):
    """The peer accepted our interest. `origin` is its hop id (05 and newer; 0: withheld)."""

    request: int
    origin: int | None


class AnnouncementsComplete(NamedTuple):
    """03 and 04 do not mark the end of the initial set; there this comes at once."""

    request: int


class Announced(NamedTuple):
    """A path is live, has another route (`update`), or begins anew under a live announcement (`restart`)."""

    request: int
    path: str  # relative to the session's root
    listed: tuple[int, ...]  # as the peer listed hops; on 03 as many zeros as it counted
    route: Route
    """The hops from the original publisher to the peer, 0 without an id; empty if the version has none."""

    update: bool = False
    restart: bool = False


class Unannounced(NamedTuple):
    """The announcement of a path has ended."""

    request: int
    path: str
    said: bool = True  # False if the Announce stream ended without a message on this path


class TrackOffered(NamedTuple):
    """The peer offers a track by itself (PUBLISH of moq-transport), or no longer."""

    path: str
    track: str
    offered: bool


class AnnouncementsEnded(NamedTuple):
    """`Unannounced` came for each live path. `code` is a reset's."""

    request: int
    code: int | None


class SubscriptionStarted(NamedTuple):
    """`group` is the first sequence, where the peer said so (05 and newer)."""

    request: int
    group: int | None
    priority: int = 0


class SubscriptionDropped(NamedTuple):
    """Groups from `start` to `end` inclusive never come (03 and newer)."""

    request: int
    start: int
    end: int
    code: int


class GroupPart(NamedTuple):
    """Data of one group from one call of `receive`."""

    sequence: int
    first_frame: int
    parts: tuple[Part, ...]
    fin: bool
    code: int | None  # of an abort


class GroupData(NamedTuple):
    """Groups of a subscription, in order of arrival: one event per subscription and call of `receive`."""

    request: int
    parts: tuple[GroupPart, ...]


class DatagramReceived(NamedTuple):
    """A group of one frame."""

    request: int
    sequence: int
    timestamp: int
    payload: bytes
    start: Object | None = None
    """The object of a moq-transport publisher, whose groups may have several, each in a datagram."""


class SubscriptionEnded(NamedTuple):
    """No further group begins; open groups may continue."""

    request: int
    final: int | None  # first sequence that never comes (05 and 06)
    closed: bool  # the Subscribe stream has ended, too


class InfoReceived(NamedTuple):
    """Answer to `request_info`."""

    request: int
    properties: TrackProperties


class FetchedData(NamedTuple):
    """Part of a group."""

    request: int
    part: GroupPart


class ProbeReceived(NamedTuple):
    """Bits per second and milliseconds, 0 is unknown."""

    request: int
    bitrate: int
    rtt: int


class RequestRejected(NamedTuple):
    """The peer refused or aborted our request with `received`; `code` is that of the current registry."""

    request: int
    code: int
    received: int


class RequestFinished(NamedTuple):
    """A request ended without an error: all estimates have come, or the end of a track was sent."""

    request: int


class StrayGroup(NamedTuple):
    """We stopped a group without a subscription."""

    subscribe_id: int
    sequence: int


# --- what the peer asks for


class AnnounceRequested(NamedTuple):
    """Answer with `announce_initial`, at once where possible: some clients wait for it."""

    request: int
    prefix: str
    exclude: int  # hop id: the peer cannot use routes through it; 0: none


class TracksRequested(NamedTuple):
    """Answer with `offer_track` for each track below that others offer by themselves, until `RequestCancelled`."""

    request: int
    prefix: str


class SubscribeRequested(NamedTuple):
    """Answer with `accept` or `reject`, then `send_group` and `end_track`."""

    request: int
    broadcast: str
    track: str
    params: SubscribeParams


class SubscribeUpdated(NamedTuple):
    """SUBSCRIBE_UPDATE: new parameters."""

    request: int
    params: SubscribeParams


class InfoRequested(NamedTuple):
    """Answer with `send_info` or `reject`."""

    request: int
    broadcast: str
    track: str


class FetchRequested(NamedTuple):
    """Answer with `send_fetched` or `reject`. Bounds of frames are inclusive."""

    request: int
    broadcast: str
    track: str
    group: int
    priority: int
    start_frame: int
    end_frame: int | None


class ProbeRequested(NamedTuple):
    """An answer is optional."""

    request: int


class RequestCancelled(NamedTuple):
    """No answer is needed. `code` is of a reset or stop."""

    request: int
    code: int | None


class GroupStopped(NamedTuple):
    """The peer wants no more of a group."""

    request: int
    sequence: int
    code: int


class GroupSkipped(NamedTuple):
    """The peer is too slow."""

    request: int
    sequence: int
    reason: str
    unsent: int
    kept: int  # bytes still queued in the subscription


Event: TypeAlias = (
    Introduced
    | TokenOffered
    | Opened
    | Established
    | PeerInfo
    | PeerAlive
    | PeerLeaving
    | BitrateReported
    | LimitExceeded
    | DialectChosen
    | Incompatible
    | Fault
    | Closed
    | AnnouncementsStarted
    | AnnouncementsComplete
    | Announced
    | Unannounced
    | TrackOffered
    | AnnouncementsEnded
    | SubscriptionStarted
    | SubscriptionDropped
    | GroupData
    | DatagramReceived
    | SubscriptionEnded
    | InfoReceived
    | FetchedData
    | ProbeReceived
    | RequestRejected
    | RequestFinished
    | StrayGroup
    | AnnounceRequested
    | TracksRequested
    | SubscribeRequested
    | SubscribeUpdated
    | InfoRequested
    | FetchRequested
    | ProbeRequested
    | RequestCancelled
    | GroupStopped
    | GroupSkipped
)


# --- values of commands


class Features(NamedTuple):
    """What a session's protocol version can do."""

    hops: bool
    """Announcements list the relays that they came through."""

    prefixes: bool
    """An announcement is a route with costs, and one above an interest is announced, too."""

    below: bool
    """An announcement also serves every path below its own."""

    goaway: bool
    descriptions: bool
    """The peer can be asked for properties and single groups of a track."""

    history: bool
    """A subscription can ask for groups by their age."""

    updates: bool
    """A subscription can change its parameters."""


class Offer(NamedTuple):
    """A path to announce, relative to the session's root."""

    path: str
    route: Route = Route()
    """The hops from the original publisher to the relay before us; the session may add our id."""

    source: int = 0  # of the publication; another one means another publisher


class GroupFragment(NamedTuple):
    """Data of one group from one turn; all subscriptions with the same data share it."""

    sequence: int
    first: bool  # opens the group for the subscriber
    start_frame: int
    chunks: tuple[Any, ...]
    """`bytes` of the group stream, or parts of the group for `Encoding.FRAMES`."""
    fin: bool
    code: int | None  # of an abort
