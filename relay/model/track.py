"""Parameters of subscriptions, and properties of tracks."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

from relay.model.group import Group, Properties

DEFAULT_PRIORITY = 127
DEFAULT_LATENCY_MS = 5_000
MICROSECONDS = 1_000_000


class TrackProperties(NamedTuple):
    """TRACK_INFO. The defaults stand for publishers without it (01 to 04)."""

    priority: int = DEFAULT_PRIORITY
    ordered: bool = False
    max_latency_ms: int = DEFAULT_LATENCY_MS
    timescale: int = MICROSECONDS
    pairs: Properties | None = None
    """All properties of a moq-transport publisher's track."""


class Begin(Enum):
    """A start that depends on what exists when the subscription begins (moq-transport)."""

    NEXT_OBJECT = "behind the last complete frame"
    NEXT_GROUP = "with the group after the newest"


class SubscribeParams(NamedTuple):
    """Bounds are inclusive; `None` is open."""

    priority: int = 0
    ordered: bool = False
    latency_ms: int = 0  # lateness at which the subscriber skips a group (03 and later)
    history_ms: int = 0  # at the start (06: max age); 0: the newest group only
    any_age: bool = False  # groups after the start may be older than `history_ms`, which limits them on 06
    start_group: int | None = None
    start_is_floor: bool = False  # 06: nothing older than `start_group`; alone it requests no history
    end_group: int | None = None
    start_frame: int = 0
    end_frame: int | None = None
    begin: Begin | None = None
    back: int = 0
    """Groups before the newest to begin with (moq-transport)."""


def placed(params: SubscribeParams, newest: Group | None) -> SubscribeParams:
    """The parameters with numbers for `begin` and `back`. `newest`: group of the track so far."""
    if newest is None or not (params.begin or params.back):
        return params._replace(begin=None, back=0)
    if params.back:
        return params._replace(start_group=max(0, newest.sequence - params.back), back=0)
    following = params.begin is Begin.NEXT_GROUP or newest.finished
    start, frame = (newest.sequence + 1, 0) if following else (newest.sequence, newest.following())
    return params._replace(start_group=start, start_frame=frame, start_is_floor=True, begin=None)


def together(wanted: Sequence[SubscribeParams]) -> SubscribeParams:
    """The parameters of one upstream subscription for all; `wanted` is not empty."""
    # we apply floors; an explicit start concerns the publisher if all subscribers have one
    starts = [None if params.start_is_floor else params.start_group for params in wanted]
    return SubscribeParams(
        priority=max(params.priority for params in wanted),
        ordered=all(params.ordered for params in wanted),
        latency_ms=max(params.latency_ms for params in wanted),
        history_ms=max(params.history_ms for params in wanted),
        any_age=any(params.any_age for params in wanted),
        start_group=None if None in starts else min(start for start in starts if start is not None),
    )
