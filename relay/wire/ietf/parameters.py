"""Message parameters: typed attributes, however the draft writes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from relay.wire.ietf.values import Filter, GroupOrder, Location, Token, TrackNamespace


@dataclass(frozen=True, slots=True)
class Parameters:
    """Of one message; None is absent. Where a draft has fixed fields instead (14), these hold them.

    The codec does not check in which message a parameter may be: the draft of the peer says that. On 14 absent fields
    are written as: priority 128, order of the publisher, forward, next object.
    """

    delivery_timeout: int | None = None  # ms
    tokens: tuple[Token, ...] = ()
    max_cache_duration: int | None = None  # ms; 14 only
    rendezvous_timeout: int | None = None  # ms
    """How long a subscriber waits for a publisher."""
    subgroup_delivery_timeout: int | None = None  # ms
    expires: int | None = None  # ms; 0 is never
    largest: Location | None = None
    """The newest object; absent if there is none yet."""
    fill_timeout: int | None = None  # ms
    forward: bool | None = None
    """Objects are sent; absent is true in a request, unchanged in an update."""
    priority: int | None = None
    """The subscriber's, 0 to 255; lower is more urgent. Absent is 128 in a request."""
    filter: Filter | None = None
    order: GroupOrder | None = None
    fill: Parameters | None = None
    """Objects before the subscription's start are asked for: its `filter` says which."""
    range_filters: tuple[tuple[int, bytes], ...] = ()
    """Range filters as (type, value), to be refused."""
    new_group: int | None = None
    """The publisher is asked to start a group, greater than this one if it is not 0."""
    prefix: TrackNamespace | None = None
    """Replaces that of a namespace request."""
    include_properties: bool | None = None
    hop_path: tuple[int, ...] | None = None
    """Ids of relays, of peers that declared RELAY_HOPS."""
    route_cost: int | None = None
    hidden: int | None = None


NO_PARAMETERS: Final = Parameters()
