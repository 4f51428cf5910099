"""Part of the track actor: its cached, unfinished and changed groups, by the viewers' numbers.

The track delivers `touched` groups, and stops `stopped` ones upstream.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from relay.model.cache import GroupCache
from relay.model.group import FRAME_OVERHEAD
from relay.model.limits import Limits
from relay.model.ranges import Range, Ranges
from relay.moq.encoding import EncodedGroup
from relay.moq.session import GroupPart
from relay.wire.errors import StreamCode


class Stopped(NamedTuple):
    """A group to stop at the publisher."""

    sequence: int
    code: int
    past: bool
    limit: str = ""  # the exceeded limit, if any


class TrackGroups:
    """The groups of one track."""

    __slots__ = (
        *("_limits", "cache", "dropped", "seen", "stopped", "touched", "unfinished"),
        *("received_bytes", "received_frames", "received_groups"),
    )

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.cache: GroupCache[EncodedGroup] = GroupCache(limits)
        self.unfinished: dict[int, EncodedGroup] = {}
        self.touched: dict[int, tuple[EncodedGroup, bool]] = {}
        """Changed since the last delivery; True if they began since."""
        self.stopped: list[Stopped] = []
        self.seen, self.dropped = Ranges(), Ranges()
        """Numbers that came (also as datagrams, or refused), and those that never will."""
        self.received_bytes = self.received_frames = self.received_groups = 0

    # --- arrival

    def take(self, parts: Iterable[GroupPart], now: float, *, past: bool = False) -> None:
        """`past`: by a request for older groups."""
        cache, most = self.cache, self._limits.cache_track
        for part in parts:
            sequence = part.sequence
            group = cache.groups.get(sequence)
            if group is None:
                group = self._begin(part, now, past=past)
                if group is None:
                    continue
            elif not group.open or group.past is not past:
                if not part.fin and part.code is None:
                    self.stopped.append(Stopped(sequence, StreamCode.OLD, past))
                continue
            frames, size = group.frames, group.size
            cache.extend(group, part.parts)
            frames = group.frames - frames
            self.received_frames += frames
            self.received_bytes += group.size - size - frames * FRAME_OVERHEAD
            if part.fin or part.code is not None:
                group.finished, group.code = part.fin, part.code
                self.unfinished.pop(sequence, None)
            self.touched.setdefault(sequence, (group, False))
            if cache.size > most:
                self._evict(now)
                if group.open and group.size > most:
                    self.abort(group, StreamCode.GROUP_TOO_LARGE, "cache_track")

    def _begin(self, part: GroupPart, now: float, *, past: bool) -> EncodedGroup | None:
        group = EncodedGroup(part.sequence, now, part.first_frame)
        group.past = past
        self.seen.add(part.sequence, part.sequence)
        # useless without its beginning
        if part.first_frame or not self.cache.add(group):
            self.stopped.append(Stopped(part.sequence, StreamCode.OLD, past))
            return None
        self.touched[part.sequence] = (group, True)
        self.unfinished[part.sequence] = group
        self.received_groups += 1
        self._evict(now)
        if len(self.unfinished) > self._limits.groups_in_flight:
            oldest = self.unfinished[min(self.unfinished)]
            self.abort(oldest, StreamCode.TOO_FAR_BEHIND, "groups_in_flight")
        return group

    def skip(self, number: int) -> None:
        """Numbers between the newest and `number` belong to other publishers: expect none."""
        last = self.seen.last
        if last is not None and last + 1 < number:
            self.seen.add(last + 1, number - 1)

    # --- eviction and abort

    def _evict(self, now: float) -> None:
        limit = "cache_track" if self.cache.size > self._limits.cache_track else "cache_groups"
        self._abort_open(self.cache.evict(now), limit)

    def take_stopped(self) -> list[Stopped]:
        stopped, self.stopped = self.stopped, []
        return stopped

    def evict_to(self, size: int) -> None:
        """The oldest groups, but not the newest, down to `size` bytes."""
        self._abort_open(self.cache.shrink(size), "cache")

    def _abort_open(self, dropped: Iterable[EncodedGroup], limit: str) -> None:
        for group in dropped:
            if group.open:
                self.abort(group, StreamCode.TOO_FAR_BEHIND, limit)

    def abort(self, group: EncodedGroup, code: int, limit: str = "") -> None:
        """Abort a group; for a `limit`, drop its content and stop the publisher."""
        if limit:
            self.stopped.append(Stopped(group.sequence, code, group.past, limit))
            self.cache.empty(group)
        group.code = code
        self.unfinished.pop(group.sequence, None)
        self.touched.setdefault(group.sequence, (group, False))

    def break_off(self, code: int, *, past: bool = False) -> None:
        for group in list(self.unfinished.values()):
            if group.past or not past:
                self.abort(group, code)

    # --- bounds and gaps

    def lowest(self, first: int | None) -> int | None:
        """Here or on its way; `first` if the publisher named it."""
        known = [number for number in (first, self.seen.first) if number is not None]
        return max(min(known), self.cache.floor) if known else None

    def missing(self, start: int, end: int, first: int | None) -> list[Range]:
        """Groups from `start` to `end` that may still come."""
        if first is None:
            first = self.seen.first
        if first is None:
            return []  # nothing comes before the first group
        start = max(start, first, self.cache.floor)
        return [late for gap in self.seen.gaps(start, end) for late in self.dropped.gaps(*gap)]

    def lost(self, start: int, end: int) -> tuple[Range, ...]:
        """Groups from `start` to `end` that never came, once no more can come."""
        if self.seen.first is None:
            return ()
        return tuple(self.seen.gaps(max(start, self.seen.first, self.cache.floor), end))

    @property
    def past_arrives(self) -> bool:
        return any(group.past for group in self.unfinished.values())
