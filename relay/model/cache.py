"""The cache policy of a track.

The newest unbroken group stays; others for `GroupCache.age` seconds, within `Limits.cache_groups`,
`cache_track`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise
from operator import attrgetter
from typing import Generic, TypeVar

from relay.model.group import Group, Part
from relay.model.limits import Limits
from relay.model.track import SubscribeParams

SLACK = 8  # an eighth: of a reported change, and of the budget freed at once
G = TypeVar("G", bound=Group)


class GroupCache(Generic[G]):
    """The groups of one track."""

    __slots__ = ("_limits", "age", "floor", "groups", "latest", "size")

    def __init__(self, limits: Limits) -> None:
        self.groups: dict[int, G] = {}  # by sequence; only `add` and `empty` change it
        self._limits = limits
        self.age = limits.cache_age  # seconds after a newer group came
        self.latest: G | None = None
        self.floor = 0  # lower sequences are rejected: `floor - 1` was evicted
        self.size = 0  # bytes

    def __iter__(self) -> Iterator[G]:
        return iter([self.groups[sequence] for sequence in sorted(self.groups)])

    def __len__(self) -> int:
        return len(self.groups)

    @property
    def newest(self) -> G | None:
        """The newest group that was not aborted: late viewers start with it."""
        latest = self.latest
        if latest is None or latest.code is None:
            return latest
        whole = [group for group in self.groups.values() if group.code is None]
        return max(whole, key=attrgetter("sequence"), default=None)

    @property
    def largest(self) -> tuple[int, int] | None:
        """Sequence of the newest group with a complete frame, and the id of its last one."""
        for _, group in sorted(self.groups.items(), reverse=True):
            frame = None if group.code is not None else group.largest()
            if frame is not None:
                return group.sequence, frame
        return None

    def add(self, group: G) -> bool:
        """False for a duplicate, or older than an evicted one and not requested again."""
        if group.sequence in self.groups or (group.sequence < self.floor and not group.past):
            return False
        self.groups[group.sequence] = group
        if self.latest is None or group.sequence > self.latest.sequence:
            self.latest = group
        return True

    def extend(self, group: G, parts: Iterable[Part]) -> None:
        before = group.size
        group.extend(parts)
        self.size += group.size - before

    def empty(self, group: G) -> None:
        if self.groups.get(group.sequence) is group:
            self.size -= group.size
        group.clear()

    def start_of(self, params: SubscribeParams, max_age: int) -> int:
        """First sequence of a new subscription; `max_age`: its history in the track's timescale."""
        floor = params.start_group or 0
        if params.start_group is not None and not params.start_is_floor:
            return floor
        # the first group to come is the newest
        return max(floor, self.start(max_age) or 0)

    def start(self, max_age: int) -> int | None:
        """Oldest sequence not expired for `max_age`."""
        newest = self.newest
        # below the floor groups have gaps: some still arrive
        groups = [group for group in self if group.sequence >= self.floor or group is newest]
        return oldest_fresh(groups, max_age)

    def covers(self, max_age: int) -> bool:
        """All groups before the oldest are expired for `max_age`."""
        groups = [group for group in self if group.sequence >= self.floor and group.code is None]
        newest = max((g.last_timestamp for g in groups if g.last_timestamp is not None), default=None)
        oldest = groups[0].first_timestamp if groups else None
        return newest is not None and oldest is not None and newest - oldest >= max_age

    def evict(self, now: float) -> list[G]:
        """Returns the evicted groups: open ones must be aborted."""
        dropped: list[G] = []
        newest = self.newest
        for group in self.groups.values():
            if now - group.arrived < self.age:
                break
            if group is not newest and group is not self.latest and not group.open:
                dropped.append(group)
        for group in dropped:
            self._drop(group)
        self._forgo(dropped)
        limits = self._limits
        if self.size > limits.cache_track or len(self.groups) > limits.cache_groups:
            dropped += self._down_to(limits.cache_track, limits.cache_groups)
        return dropped

    def shrink(self, size: int) -> list[G]:
        """Evict the oldest groups, never the newest, down to `size` bytes. Returns them."""
        return self._down_to(size, self._limits.cache_groups)

    def _down_to(self, size: int, groups: int) -> list[G]:
        dropped: list[G] = []
        newest = self.newest
        older = [g for _, g in sorted(self.groups.items()) if g is not newest and g is not self.latest]
        # viewers wait for the end of open groups: evict them last
        for group in sorted(older, key=attrgetter("open")):
            if self.size <= size and len(self.groups) <= groups:
                break
            self._drop(group)
            dropped.append(group)
        self._forgo(dropped)
        return dropped

    def _forgo(self, dropped: list[G]) -> None:
        if dropped:
            self.floor = max(self.floor, *(group.sequence + 1 for group in dropped))

    def _drop(self, group: G) -> None:
        del self.groups[group.sequence]
        self.size -= group.size


def oldest_fresh(groups: Iterable[Group], max_age: int) -> int | None:
    """The oldest of `groups` (in order) neither aborted nor expired.

    A group expires when its successor's first timestamp is `max_age` (track units) older than the newest (06).
    """
    groups = [group for group in groups if group.code is None]
    if not groups:
        return None
    newest = max((g.last_timestamp for g in groups if g.last_timestamp is not None), default=None)
    if max_age <= 0 or newest is None:
        return groups[-1].sequence
    for group, successor in pairwise(groups):
        if successor.first_timestamp is None or newest - successor.first_timestamp < max_age:
            return group.sequence
    return groups[-1].sequence


def fair_share(sizes: Iterable[int], budget: int) -> int:
    """The limit for each, so that all fit into `budget`: unused shares go to the others."""
    ordered = sorted(sizes)
    left = budget
    for position, size in enumerate(ordered):
        share = left // (len(ordered) - position)
        if size > share:
            return share
        left -= size
    return max(ordered, default=budget)
