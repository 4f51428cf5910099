"""Control messages: one frozen class for each meaning, the same for all drafts.

`request_id` of a request is the sender's next one. Replies and the like have it last: drafts with
`request_streams` do not write it and it reads as None, since the stream tells. `to` says what a reply answers:
needed to write it on 14, and to answer PUBLISH on 16; reading it gives None where bytes do not tell. Missing
needs are ValueErrors.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TypeAlias

from relay.wire.ietf.codes import RequestKind
from relay.wire.ietf.parameters import NO_PARAMETERS, Parameters
from relay.wire.ietf.values import Filter, Properties, Token, TrackNamespace

# --- set-up


@dataclass(frozen=True, slots=True)
class Setup:
    """CLIENT_SETUP, SERVER_SETUP, and SETUP of newer drafts. Path and authority: clients on raw QUIC alone."""

    path: str | None = None
    authority: str | None = None
    implementation: str | None = None
    max_request_id: int | None = None
    """The first id the peer may not use; absent is 0. Not with `request_streams`."""
    tokens: tuple[Token, ...] = ()
    max_token_cache: int | None = None  # bytes
    solicit: int | None = None
    """moq-net: announcements are sent when asked for, or not (1)."""
    hidden: int | None = None
    """moq-net: the parameter HIDDEN is understood."""
    other: Properties = ()
    """Unknown options, ascending."""
    versions: tuple[int, ...] = ()
    """The versions that the client offers, or the one that the server chooses, where `versions_in_setup`."""
    from_server: bool = False
    """Tells SERVER_SETUP from CLIENT_SETUP. With `request_streams` there is one SETUP, read as False."""


# --- requests


@dataclass(frozen=True, slots=True)
class Subscribe:
    """Asks for a track."""

    request_id: int
    namespace: TrackNamespace
    track: bytes
    params: Parameters = NO_PARAMETERS


@dataclass(frozen=True, slots=True)
class TrackStatus:
    """Answered as a Subscribe would be, by RequestOk."""

    request_id: int
    namespace: TrackNamespace
    track: bytes
    params: Parameters = NO_PARAMETERS


@dataclass(frozen=True, slots=True)
class Publish:
    """A publisher's offer. `alias` names the track on data streams in this direction."""

    request_id: int
    namespace: TrackNamespace
    track: bytes
    alias: int
    params: Parameters = NO_PARAMETERS
    properties: Properties = ()


@dataclass(frozen=True, slots=True)
class Fetch:
    """`range`: an AbsoluteRange with an end; with `has_fill` any filter, and None is absent. Not in `params.filter`."""

    request_id: int
    namespace: TrackNamespace
    track: bytes
    range: Filter | None
    params: Parameters = NO_PARAMETERS


@dataclass(frozen=True, slots=True)
class JoiningFetch:
    """Objects before the start of a subscription (without `has_fill`).

    `start`: if `relative`, the count of groups before the subscription's, else a group.
    """

    request_id: int
    subscribe_id: int
    start: int
    relative: bool = True
    params: Parameters = NO_PARAMETERS


@dataclass(frozen=True, slots=True)
class PublishNamespace:
    """Announces tracks below a namespace."""

    request_id: int
    namespace: TrackNamespace
    params: Parameters = NO_PARAMETERS


class Interest(IntEnum):
    """What SUBSCRIBE_NAMESPACE asks for, where `subscribe_options`; else namespaces (14: both)."""

    TRACKS = 0
    NAMESPACES = 1
    BOTH = 2


@dataclass(frozen=True, slots=True)
class SubscribeNamespace:
    """Asks for namespaces below a prefix."""

    request_id: int
    prefix: TrackNamespace
    params: Parameters = NO_PARAMETERS
    interest: Interest = Interest.NAMESPACES


@dataclass(frozen=True, slots=True)
class SubscribeTracks:
    """Asks for tracks below a prefix: each comes as a Publish."""

    request_id: int
    prefix: TrackNamespace
    params: Parameters = NO_PARAMETERS


@dataclass(frozen=True, slots=True)
class RequestUpdate:
    """Changes a request on its stream; without one, `existing_id` names it. 14: subscriptions alone."""

    request_id: int
    params: Parameters = NO_PARAMETERS
    existing_id: int | None = None


# --- replies


@dataclass(frozen=True, slots=True)
class SubscribeOk:
    """`alias` names the track on data streams."""

    alias: int
    params: Parameters = NO_PARAMETERS
    properties: Properties = ()
    request_id: int | None = None


@dataclass(frozen=True, slots=True)
class FetchOk:
    """The range ends with this object, inclusive; `end_object` None: with the whole group."""

    end_group: int
    end_object: int | None
    end_of_track: bool = False
    params: Parameters = NO_PARAMETERS
    properties: Properties = ()
    request_id: int | None = None


@dataclass(frozen=True, slots=True)
class RequestOk:
    """Accepts any other request."""

    params: Parameters = NO_PARAMETERS
    properties: Properties = ()
    request_id: int | None = None
    to: RequestKind | None = None


@dataclass(frozen=True, slots=True)
class Redirect:
    """Where to ask instead."""

    uri: str
    namespace: TrackNamespace
    track: bytes


@dataclass(frozen=True, slots=True)
class RequestError:
    """`code` is a number of the draft: see `codes`. Reasons are cut to 1024 bytes.

    `retry_after` is in ms, None is never (14 does not write it). `redirect` goes with its code alone (18 and
    later).
    """

    code: int
    reason: str = ""
    retry_after: int | None = None
    redirect: Redirect | None = None
    request_id: int | None = None
    to: RequestKind | None = None


# --- within and after a request


@dataclass(frozen=True, slots=True)
class PublishDone:
    """No more streams for a subscription. `streams` counts those opened; None is unknown."""

    status: int
    streams: int | None = None
    reason: str = ""
    request_id: int | None = None


@dataclass(frozen=True, slots=True)
class PublishStateNotify:
    """`has_fill` only."""

    params: Parameters = NO_PARAMETERS


@dataclass(frozen=True, slots=True)
class Namespace:
    """A namespace below the prefix exists; an empty suffix is the prefix itself."""

    suffix: TrackNamespace
    params: Parameters = NO_PARAMETERS
    """moq-net's routes, of peers that declared RELAY_HOPS."""


@dataclass(frozen=True, slots=True)
class NamespaceDone:
    """A namespace is gone."""

    suffix: TrackNamespace


@dataclass(frozen=True, slots=True)
class PublishBlocked:
    """A track below the prefix is not published (later PUBLISH_SKIPPED)."""

    suffix: TrackNamespace
    track: bytes


# --- without request streams


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """Ends a subscription."""

    request_id: int


@dataclass(frozen=True, slots=True)
class FetchCancel:
    """Ends a fetch."""

    request_id: int


@dataclass(frozen=True, slots=True)
class PublishNamespaceDone:
    """14 names the namespace, 16 the request."""

    namespace: TrackNamespace | None = None
    request_id: int | None = None


@dataclass(frozen=True, slots=True)
class PublishNamespaceCancel:
    """The receiver no longer wants a PublishNamespace. 14 names the namespace, 16 the request."""

    code: int
    reason: str = ""
    namespace: TrackNamespace | None = None
    request_id: int | None = None


@dataclass(frozen=True, slots=True)
class UnsubscribeNamespace:
    """14 only: later drafts end the stream."""

    prefix: TrackNamespace


@dataclass(frozen=True, slots=True)
class MaxRequestId:
    """The first id that the peer may not use."""

    request_id: int


@dataclass(frozen=True, slots=True)
class RequestsBlocked:
    """All ids below `maximum` are used."""

    maximum: int


# --- the session


@dataclass(frozen=True, slots=True)
class Goaway:
    """An empty URI is the same server. `timeout`: ms until the close, 0 is unknown (18 and later)."""

    uri: str = ""
    timeout: int = 0
    request_id: int | None = None
    """18: only this request is to move, or those from it on."""


Request: TypeAlias = (
    Subscribe
    | TrackStatus
    | Publish
    | Fetch
    | JoiningFetch
    | PublishNamespace
    | SubscribeNamespace
    | SubscribeTracks
)
Reply: TypeAlias = SubscribeOk | FetchOk | RequestOk | RequestError
Message: TypeAlias = (
    Setup
    | Request
    | RequestUpdate
    | Reply
    | PublishDone
    | PublishStateNotify
    | Namespace
    | NamespaceDone
    | PublishBlocked
    | Unsubscribe
    | FetchCancel
    | PublishNamespaceDone
    | PublishNamespaceCancel
    | UnsubscribeNamespace
    | MaxRequestId
    | RequestsBlocked
    | Goaway
)
