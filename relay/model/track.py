"""Parameters of subscriptions, and properties of tracks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

DEFAULT_PRIORITY = 127
DEFAULT_LATENCY_MS = 5_000
MICROSECONDS = 1_000_000


class TrackProperties(NamedTuple):
    """TRACK_INFO. The defaults stand for publishers without it (01 to 04)."""

    priority: int = DEFAULT_PRIORITY
    ordered: bool = False
    max_latency_ms: int = DEFAULT_LATENCY_MS
    timescale: int = MICROSECONDS


class SubscribeParams(NamedTuple):
    """Parameters of one subscription. Bounds are inclusive; `None` is open."""

    priority: int = 0
    ordered: bool = False
    latency_ms: int = 0  # lateness at which the subscriber skips a group (03 and later)
    history_ms: int = 0  # history at the start (06: max age); 0: the newest group only
    start_group: int | None = None
    start_is_floor: bool = False  # 06: nothing older than `start_group`; alone it requests no history
    end_group: int | None = None
    start_frame: int = 0
    end_frame: int | None = None


def together(wanted: Sequence[SubscribeParams]) -> SubscribeParams:
    """For one upstream subscription; `wanted` is not empty."""
    # we apply floors; an explicit start concerns the publisher if all subscribers have one
    starts = [None if params.start_is_floor else params.start_group for params in wanted]
    return SubscribeParams(
        priority=max(params.priority for params in wanted),
        ordered=all(params.ordered for params in wanted),
        latency_ms=max(params.latency_ms for params in wanted),
        history_ms=max(params.history_ms for params in wanted),
        start_group=None if None in starts else min(start for start in starts if start is not None),
    )
