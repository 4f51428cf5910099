"""Sends one subscription's groups and end to the peer.

`relay.model.backlog` decides the order of groups, and what a slow peer skips.
"""

from __future__ import annotations

from collections.abc import Iterable

from relay.model.backlog import Backlog, GivenUp, Ranks, Sending
from relay.model.group import Object
from relay.model.ranges import Range
from relay.model.track import SubscribeParams
from relay.moq.core import IGNORE, Core, Handler, RequestOwner
from relay.moq.session import NEVER, GroupFragment, GroupSkipped, GroupStopped, Location
from relay.transport.session import Stream
from relay.wire.errors import StreamCode

END_POLL = 0.02
"""Seconds until the first check that all groups arrived, before a track's end; then a quarter of the time
waited.
"""

END_POLL_MAX = 5.0  # seconds

STREAM_OVERHEAD = 16  # bytes that a transport puts before a stream


class GroupStream(Handler):
    """The peer may stop it."""

    __slots__ = ("_delivery", "_sequence")

    def __init__(self, delivery: Delivery, sequence: int) -> None:
        self._delivery = delivery
        self._sequence = sequence

    def on_stopped(self, stream: Stream, code: int) -> None:  # noqa: ARG002
        self._delivery.group_stopped(self._sequence, code)


class Delivery(Handler):
    """A subscription of the peer, until `over`."""

    def __init__(
        self,
        core: Core,
        owner: RequestOwner,
        request: int,
        stream: Stream,
        params: SubscribeParams,
        ranks: Ranks,
    ) -> None:
        self.request = request
        self.stream = stream
        """The request's stream: its unsent bytes are the session's to count."""
        self.over = False
        # open or not fully sent
        self.backlog: Backlog[Stream] = Backlog(core.limits, ranks, params.priority)
        self.check_at = NEVER  # before the track's end
        self._core = core
        self._owner = owner
        self._behind = False  # reported once until the peer catches up
        self._final = 0
        self._waited = 0.0
        self._prefer(params)

    def _prefer(self, params: SubscribeParams) -> None:
        self.backlog.prefer(params.priority, ordered=params.ordered, latency=params.latency_ms / 1000)

    # --- messages of the dialect

    def accept(self, largest: Location | None) -> None:
        """`largest`: its newest group and the last complete frame there."""

    def _open(self, fragment: GroupFragment, rank: int) -> tuple[Stream, int]:
        """Returns its stream, and the bytes of its header."""
        raise NotImplementedError

    def _end(self, final: int) -> None:
        """`final`: first sequence that never comes."""
        raise NotImplementedError

    def drop(self, missing: Iterable[Range]) -> None:
        """Report groups that never come, where the version can."""

    def send_datagram(self, sequence: int, timestamp: int, payload: bytes, start: Object | None) -> bool:
        """Returns False if version or session cannot carry it."""
        raise NotImplementedError

    def refuse(self, code: int) -> None:
        """Refuse the request, or abort it."""
        raise NotImplementedError

    # --- the peer

    def unsubscribe(self, code: int | None) -> None:
        wire = self._core.code(StreamCode.CANCELLED)
        for sending in self.backlog:
            if sending.open or sending.stream.unsent:
                sending.stream.reset(wire)
        self._owner.cancelled(self.request, code)

    def group_stopped(self, sequence: int, code: int) -> None:
        if self.over:
            return
        self.backlog.drop(sequence)
        self._core.emit(GroupStopped(self.request, sequence, code))

    # --- groups

    def send(self, fragments: tuple[GroupFragment, ...], now: float) -> int:
        """New data. Returns the change of the subscription's unsent bytes."""
        backlog = self.backlog
        before = backlog.unsent
        if waiting := backlog.waiting():
            begins = any(fragment.first for fragment in fragments)
            self._skip(backlog.review(waiting, now, begins=begins))
        else:
            self._behind = False
        for fragment in fragments:
            size = overhead = 0
            if fragment.first and fragment.code is None:
                sending, size = self._begin(fragment, now)
                overhead = STREAM_OVERHEAD
            else:
                found = backlog.get(fragment.sequence)
                if found is None or not self._continue(found, fragment):
                    continue  # refused or skipped
                sending = found
            for chunk in fragment.chunks:
                size += len(chunk)
            if size:
                backlog.wrote(sending, size, now, overhead)
            if fragment.fin:
                sending.open = False
        if backlog.unsent > self._core.limits.backlog_bytes:
            self._skip(backlog.review(backlog.waiting(), now, begins=False))
        return backlog.unsent - before

    def _begin(self, fragment: GroupFragment, now: float) -> tuple[Sending[Stream], int]:
        """Returns the sending group, and the size of its header."""
        backlog = self.backlog
        rank = backlog.rank(fragment.sequence)
        stream, size = self._open(fragment, rank)
        self._core.counts["groups_sent", ""] += 1
        return backlog.begin(fragment.sequence, stream, rank, now), size

    def _continue(self, sending: Sending[Stream], fragment: GroupFragment) -> bool:
        """Write more of a group, or abort it. Returns False if it cannot grow any more."""
        stream = sending.stream
        if fragment.code is not None:
            if sending.open or stream.unsent:
                stream.reset(self._core.code(fragment.code))
            self.backlog.drop(sending.sequence)
            return False
        if sending.open and (fragment.chunks or fragment.fin):
            stream.write(fragment.chunks, fin=fragment.fin)
        return sending.open

    def shed(self) -> bool:
        """The session has too much unsent. Returns False if there is no group to skip."""
        skipped = self.backlog.shed()
        self._skip(skipped)
        return bool(skipped)

    def _skip(self, given_up: list[GivenUp[Stream]]) -> None:
        core = self._core
        for sending, unsent, reason in given_up:
            if not self._behind:
                self._behind = True
                core.emit(
                    GroupSkipped(self.request, sending.sequence, reason.value, unsent, self.backlog.unsent)
                )
            core.counts["groups_dropped", reason.value] += 1
            sending.stream.reset(core.code(StreamCode[reason.name]))

    def unlink(self) -> None:
        """Break reference cycles."""
        for sending in self.backlog:
            sending.stream.context = IGNORE
        self.backlog.clear()
        self.stream.context = IGNORE

    # --- the end

    def end(self, final: int, now: float) -> None:
        """Send the end once the peer has acknowledged all groups: some clients drop groups that it overtakes.

        A peer that reads nothing gets the end when it reads again, or never.
        """
        self._final = final
        self._waited = 0.0
        self.check_end(now)

    def check_end(self, now: float) -> None:
        """Send the end if all groups are delivered, else check again later."""
        if self.over:
            return
        backlog = self.backlog
        self._skip(backlog.review(backlog.waiting(), now, begins=False))
        if not backlog.undelivered:
            self._end(self._final)
            self.over = True
            self.check_at = NEVER
            return
        # First check in the next turn: a session without acknowledgements has sent everything by then.
        wait = min(max(END_POLL, self._waited / 4), END_POLL_MAX) if self._waited else 0.0
        self._waited += wait or END_POLL
        self.check_at = now + wait

    def reject(self, code: int) -> None:
        """Refuse the subscription, or abort it with its open groups."""
        wire = self._core.code(code)
        for sending in self.backlog:
            if sending.open:
                sending.stream.reset(wire)
        self.refuse(code)
        self.over = True
