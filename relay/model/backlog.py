"""The queue of one subscription: order of its groups, and the groups a slow peer skips.

Decides only: `relay.moq.delivery` writes and resets. `now` is in seconds. Reasons: docs/architecture.md.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator
from enum import Enum
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from relay.model.limits import Limits

RANK_BITS = 52  # bits: with 8 of priority and 1 for promotion, groups stay below control streams
RANK_STEP = 1 << 16  # gap between new groups, for older ones
SLICES = 32
TURN = 4
"""Promote a passed group after a quarter of the backlog's time, if that time's writes exceed its queue."""


class Stream(Protocol):
    """A group stream, as the backlog sees it."""

    @property
    def unsent(self) -> int:
        """Bytes not yet sent for the first time."""

    @property
    def undelivered(self) -> bool:
        pass

    context: Any  # free for the owner

    def prioritize(self, priority: int) -> None:
        pass


S = TypeVar("S", bound=Stream)


class Reason(Enum):
    """The reason to skip a group."""

    TOO_FAR_BEHIND = "too_far_behind"
    DELIVERY_TIMEOUT = "delivery_timeout"  # later than the subscriber's latency


def send_priority(priority: int, rank: int, *, promoted: bool = False) -> int:
    """Track priority, then promotion, then rank; higher is earlier."""
    return (priority << RANK_BITS + 1) | (promoted << RANK_BITS) | (rank & ((1 << RANK_BITS) - 1))


class Ranks:
    """Numbers the groups of one session, across tracks."""

    __slots__ = ("_next",)

    def __init__(self) -> None:
        self._next = itertools.count(1)

    def fresh(self) -> int:
        return next(self._next) * RANK_STEP

    def turn(self) -> int:
        """The rank of a promoted group: earlier promotions go first."""
        return -next(self._next)


class Sending(Generic[S]):
    """A group stream toward the peer."""

    __slots__ = ("open", "passed", "promoted", "rank", "sequence", "size", "stream")

    def __init__(self, sequence: int, stream: S, rank: int) -> None:
        self.sequence = sequence
        self.stream = stream
        self.rank = rank
        self.open = True
        self.promoted = False  # ahead of newer groups
        self.passed: float | None = None  # when a newer group began
        self.size = 0  # bytes written


Waiting = tuple[Sending[S], int]


class GivenUp(NamedTuple, Generic[S]):
    """A skipped group."""

    sending: Sending[S]
    unsent: int
    reason: Reason


class Flow:
    """Bytes written lately."""

    __slots__ = ("_slices",)

    def __init__(self) -> None:
        self._slices: deque[tuple[float, int]] = deque()

    def add(self, size: int, now: float, span: float) -> None:
        """`span`: longest time of a later `within`."""
        slices = self._slices
        if slices and now - slices[-1][0] < span / SLICES:
            start, before = slices[-1]
            slices[-1] = start, before + size
            return
        while slices and slices[0][0] <= now - span - span / SLICES:
            slices.popleft()
        slices.append((now, size))

    def within(self, now: float, span: float) -> int:
        return sum(size for start, size in self._slices if now - start < span)


class Backlog(Generic[S]):
    """Group streams that are open or not fully sent."""

    def __init__(self, limits: Limits, ranks: Ranks, priority: int) -> None:
        self._limits = limits
        self._ranks = ranks
        self._groups: dict[int, Sending[S]] = {}
        self._flow = Flow()
        self._newest = -1
        self._leaving: deque[S] = deque()  # sent, perhaps not acknowledged; oldest first
        self.priority = priority
        self._ordered = False
        self._latency = 0.0
        self._patience = limits.backlog_time
        self.unsent = 0  # bytes queued at the last `measure` or `waiting`, and all written since

    def __len__(self) -> int:
        return len(self._groups)

    def __iter__(self) -> Iterator[Sending[S]]:
        return iter(self._groups.values())

    def get(self, sequence: int) -> Sending[S] | None:
        return self._groups.get(sequence)

    def drop(self, sequence: int) -> None:
        self._groups.pop(sequence, None)

    def clear(self) -> None:
        self._groups.clear()
        self._leaving.clear()
        self.unsent = 0

    @property
    def undelivered(self) -> bool:
        """The peer may lack a part of a group that was not skipped."""
        streams = *self._leaving, *(sending.stream for sending in self._groups.values())
        return any(stream.undelivered for stream in streams)

    def measure(self) -> int:
        self.unsent = sum(sending.stream.unsent for sending in self._groups.values())
        return self.unsent

    # --- the subscriber's parameters

    def prefer(self, priority: int, *, ordered: bool, latency: float) -> None:
        """`latency`: seconds; 0 leaves it to the relay."""
        limits = self._limits
        self._latency = latency
        self._patience = max(limits.backlog_time, min(latency, limits.cache_age))
        if (priority, ordered) == (self.priority, self._ordered):
            return
        self.priority = priority
        self._ordered = ordered
        for sequence in sorted(self._groups, reverse=ordered):
            sending = self._groups[sequence]
            if not sending.promoted:
                sending.rank = self._ranks.fresh()
            self._place(sending)

    def _place(self, sending: Sending[S]) -> None:
        order = send_priority(self.priority, sending.rank, promoted=sending.promoted)
        sending.stream.prioritize(order)

    # --- groups

    def rank(self, sequence: int) -> int:
        if self._ordered:
            if not self._groups:
                return self._ranks.fresh()
            # among tracks of equal priority, the oldest group sets the rank
            oldest = self._groups[min(self._groups)]
            if sequence > oldest.sequence and not oldest.promoted:
                oldest.rank = self._ranks.fresh()
                self._place(oldest)
            older = [s.rank for s in self._groups.values() if s.sequence < sequence and not s.promoted]
            return min(older) - 1 if older else self._ranks.fresh()
        if sequence < self._newest:
            newer = [s.rank for s in self._groups.values() if s.sequence > sequence and not s.promoted]
            if newer:
                return min(newer) - 1
        return self._ranks.fresh()

    def begin(self, sequence: int, stream: S, rank: int, now: float) -> Sending[S]:
        sending = Sending(sequence, stream, rank)
        if sequence > self._newest:
            before = self._groups.get(self._newest)  # older ones were passed before
            if before is not None:
                before.passed = now
            self._newest = sequence
        else:
            sending.passed = now
        self._groups[sequence] = sending
        return sending

    def wrote(self, sending: Sending[S], size: int, now: float, overhead: int = 0) -> None:
        """`overhead`: bytes that the transport may add."""
        sending.size += size
        size += overhead
        self.unsent += size
        self._flow.add(size, now, self._patience)

    # --- order and skips

    def review(self, waiting: list[Waiting[S]], now: float, *, begins: bool) -> list[GivenUp[S]]:
        """Reorder `waiting` before a write; returns skipped groups. A slow peer skips only when a group `begins`."""
        given_up: list[GivenUp[S]] = []
        if len(waiting) > 1:
            waiting.sort(key=_by_sequence)
        if self._latency:
            for sending, unsent in waiting:
                if sending.passed is not None and now - sending.passed >= self._latency:
                    self._give_up(sending, unsent, Reason.DELIVERY_TIMEOUT, given_up)
        limits = self._limits
        left = [pair for pair in waiting if pair[0].sequence in self._groups] if given_up else waiting
        while left and (
            self.unsent > limits.backlog_bytes
            or len(left) > limits.cache_groups
            or (
                begins
                and len(left) >= limits.backlog_groups
                and self.unsent > self._flow.within(now, self._patience)
            )
        ):
            sending, unsent = left.pop(0)
            self._give_up(sending, unsent, Reason.TOO_FAR_BEHIND, given_up)
        if begins:
            self._finish(left, now)
        self._take_turns(left, now)
        return given_up

    def shed(self) -> list[GivenUp[S]]:
        """The session queues too much: skip the oldest queued group."""
        waiting = self.waiting()
        given_up: list[GivenUp[S]] = []
        if waiting:
            sending, unsent = min(waiting, key=_by_sequence)
            self._give_up(sending, unsent, Reason.TOO_FAR_BEHIND, given_up)
        return given_up

    def waiting(self) -> list[Waiting[S]]:
        """Forgets complete, sent groups."""
        waiting: list[Waiting[S]] = []
        total = 0
        for sending in tuple(self._groups.values()):
            unsent = sending.stream.unsent
            if unsent:
                waiting.append((sending, unsent))
                total += unsent
            elif not sending.open:
                self._sent(sending)
        self.unsent = total
        return waiting

    def _sent(self, sending: Sending[S]) -> None:
        del self._groups[sending.sequence]
        leaving = self._leaving
        while leaving and not leaving[0].undelivered:
            leaving.popleft()
        leaving.append(sending.stream)
        sending.stream.context = None  # a reference cycle
        if not sending.promoted:
            self._promote(sending)  # newer groups must not delay its lost packets or its end

    def _promote(self, sending: Sending[S]) -> None:
        sending.promoted = True
        sending.rank = self._ranks.turn()
        self._place(sending)

    def _finish(self, waiting: list[Waiting[S]], now: float) -> None:
        """Promote groups more than half sent and soon done: else a slow peer gets no ends."""
        soon = self._flow.within(now, self._limits.backlog_time / TURN)
        for sending, unsent in waiting:
            if not sending.open and not sending.promoted and unsent <= min(sending.size // 2, soon):
                self._promote(sending)

    def _take_turns(self, waiting: list[Waiting[S]], now: float) -> None:
        """Promote passed groups of a peer that keeps up, but never catches up."""
        turn = min(self._limits.backlog_time, self._latency or self._patience) / TURN
        late = [s for s, _ in waiting if s.passed is not None and now - s.passed >= turn and not s.promoted]
        if late and self.unsent <= self._flow.within(now, self._patience / TURN):
            for sending in late:
                self._promote(sending)

    def _give_up(self, sending: Sending[S], unsent: int, code: Reason, given_up: list[GivenUp[S]]) -> None:
        del self._groups[sending.sequence]
        self.unsent -= unsent
        given_up.append(GivenUp(sending, unsent, code))


def _by_sequence(waiting: Waiting[S]) -> int:
    return waiting[0].sequence
