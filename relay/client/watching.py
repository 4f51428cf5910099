"""What a client asks for: announcements, subscriptions, single groups, estimates.

Owns what arrived and was not read yet. Must never reorder groups or fill gaps: a reader sees what the peer sent.
`Client` makes one object per request.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any, Final

from relay.client.errors import (
    AnnounceError,
    ClientError,
    FetchError,
    RequestError,
    SubscribeError,
    TrackInfoError,
)
from relay.client.groups import GroupReader
from relay.client.peer import KEPT, Bell, Noted, Peer
from relay.model.route import MAX_COST
from relay.model.track import SubscribeParams, TrackProperties
from relay.moq.session import (
    Announced as AnnouncedEvent,
)
from relay.moq.session import (
    AnnouncementsComplete,
    AnnouncementsEnded,
    AnnouncementsStarted,
    DatagramReceived,
    Event,
    FetchedData,
    GroupData,
    GroupPart,
    InfoReceived,
    ProbeReceived,
    RequestFinished,
    RequestRejected,
    SubscribeRequested,
    SubscriptionDropped,
    SubscriptionEnded,
    SubscriptionStarted,
    Unannounced,
)
from relay.wire.errors import StreamCode

LATE_GROUPS: Final = 0.2
"""Seconds for which groups are still taken after the end of a subscription, at least: it can overtake the last of them."""

LATE_ROUND_TRIPS: Final = 6
"""Round trips for the same: what was lost twice has come by then."""

LATE_AT_MOST: Final = 10.0
"""Seconds for the same, at most: a peer decides how long its round trip looks."""


@dataclass(frozen=True, slots=True)
class Change:
    """A broadcast (06: a route) came, went, or is reached another way (`update`).

    `hops` are those listed by the peer, on 03 as many zeros as it counted; the peer's own id on 05 and 06 is
    `Announced.origin`. `warm` and `cold` are the costs of 06.
    """

    path: str
    active: bool
    hops: tuple[int, ...] = ()
    warm: int = 0
    cold: int = MAX_COST
    update: bool = False


class Announced:
    """The announcements under `prefix`, as changes in order (`async for`).

    A reader that leaves more than `KEPT` of them unread gets those that lead to what is live now, and no others.

    When the peer ends the stream, what was live on it is reported gone, then the iteration stops; a reset raises
    AnnounceError.
    """

    def __init__(self, peer: Peer, prefix: str) -> None:
        self.prefix = prefix
        self.origin: int | None = None
        """The peer's own hop id, told on 05 and 06 (0: withheld)."""
        self.live: dict[str, Change] = {}
        """What is announced now, by path, whether the change was read or not."""
        self.complete = False
        """Whether the initial set is here. 03 and 04 do not say, so there it is from the start."""
        self.finished = False
        self.code: int | None = None
        self._peer = peer
        self._unread: deque[Change] = deque()
        self._read: dict[str, Change] = {}
        """What was live when the last change was read."""
        self._bell = Bell(peer)
        self._request = peer.moq.requests.request_announcements(prefix)
        peer.owners[self._request] = self
        peer.flush()

    def __aiter__(self) -> AsyncIterator[Change]:
        return self

    async def __anext__(self) -> Change:
        """Return the next change."""
        await self._bell.until(lambda: self._unread or self._over())
        if not self._unread:
            raise StopAsyncIteration
        change = self._unread.popleft()
        if change.active:
            self._read[change.path] = change
        else:
            self._read.pop(change.path, None)
        return change

    async def initial(self) -> dict[str, Change]:
        """Wait for the initial set and return what is live."""
        await self._bell.until(lambda: self.complete or self._over())
        return dict(self.live)

    async def wait_for(self, path: str, *, active: bool = True) -> None:
        """Wait until `path` is announced, or is not. Reads no change."""
        await self._bell.until(lambda: (path in self.live) == active or self._over())
        if active and path not in self.live:
            raise ClientError(f"the peer ended its announcements, {path!r} is not among them")

    def close(self) -> None:
        """Watch no longer."""
        if not self.finished:
            self._peer.cancel(self._request)
            for path in list(self.live):
                self._note(Change(path, active=False))
            self.finished = True
            self._bell.ring()

    def _over(self) -> bool:
        if self.code is not None:
            raise AnnounceError(self.code)
        return self.finished

    def on_event(self, event: Event) -> None:
        match event:
            case AnnouncementsStarted():
                self.origin = event.origin
            case AnnouncedEvent():
                route = event.route
                self._note(Change(event.path, True, event.listed, route.warm, route.cold, event.update))
            case Unannounced():
                self._note(Change(event.path, active=False))
            case AnnouncementsComplete():
                self.complete = True
            case AnnouncementsEnded():
                self.code = event.code
                self.finished = True
        self._bell.ring()

    def _note(self, change: Change) -> None:
        if change.active:
            self.live[change.path] = change
        else:
            del self.live[change.path]
        self._unread.append(change)
        if len(self._unread) > KEPT + len(self.live) + len(self._read):
            self._unread = deque(self._shortest())

    def _shortest(self) -> Iterator[Change]:
        """From what was live when the reader last looked to what is live now."""
        for path in self._read.keys() - self.live.keys():
            yield Change(path, active=False)
        for path, change in self.live.items():
            if change != self._read.get(path):
                yield Change(path, True, change.hops, change.warm, change.cold, update=path in self._read)


class Datagrams:
    """The datagrams of a subscription: groups of one frame that may be lost."""

    def __init__(self, peer: Peer) -> None:
        self._unread: deque[DatagramReceived] = deque(maxlen=KEPT)
        self._bell = Bell(peer)

    def __len__(self) -> int:
        return len(self._unread)

    def __aiter__(self) -> AsyncIterator[DatagramReceived]:
        return self

    async def __anext__(self) -> DatagramReceived:
        """Return the next datagram; as they have no end, only that of the session ends the wait."""
        await self._bell.until(lambda: self._unread)
        return self._unread.popleft()

    get = __anext__

    def put(self, datagram: DatagramReceived) -> None:
        """Take one that arrived."""
        self._unread.append(datagram)
        self._bell.ring()


class Subscription:
    """A running subscription: its groups in order of arrival (`async for`), and what the peer said about it.

    The iteration stops when the track has ended and everything sent was read; it raises SubscribeError if the peer
    aborts. `end` is the first sequence that will never be sent (05 and 06), `drops` the newest ranges given up.
    """

    def __init__(
        self,
        peer: Peer,
        broadcast: str,
        track: str,
        params: SubscribeParams,
        info: TrackProperties | None = None,
    ) -> None:
        self.info = info
        self.ok: SubscriptionStarted | None = None
        self.end: int | None = None
        self.drops: list[SubscriptionDropped] = Noted()
        self.code: int | None = None
        """Why the peer refused or aborted the subscription."""
        self.finished = False
        """Whether the Subscribe stream has ended, by either side."""
        self.latest: int | None = None
        """The highest sequence that arrived."""
        self.received = 0
        """Groups that arrived, read or not, datagrams among them."""
        self.datagrams = Datagrams(peer)
        self._peer = peer
        self._lost = 0
        self._late = False
        self._timer: asyncio.TimerHandle | None = None
        self._unread: deque[GroupReader] = deque()
        self._open: dict[int, GroupReader] = {}
        self._bell = Bell(peer)
        request = peer.moq.requests.subscribe(broadcast, track, params)
        self.request = SubscribeRequested(request, broadcast, track, params)
        """As it was sent, with the updates since."""
        peer.owners[request] = self
        peer.flush()

    def __repr__(self) -> str:
        return f"<Subscription {self.request.broadcast} {self.request.track}>"

    def __aiter__(self) -> AsyncIterator[GroupReader]:
        return self

    async def __anext__(self) -> GroupReader:
        """Return the next group, as soon as it has begun."""
        await self._bell.until(lambda: self._unread or self._over())
        if not self._unread:
            raise StopAsyncIteration
        return self._unread.popleft()

    async def accepted(self) -> None:
        """Wait until the peer accepts, in words or by sending a group; raises SubscribeError if it refuses.

        05 and 06 accept with the first group, so this may take long.
        """
        await self._bell.until(
            lambda: self.ok is not None or self.received or self.end is not None or self._over()
        )

    async def ended(self) -> None:
        """Wait until the peer said that no new group will come, or aborted (no error here: see `code`)."""
        await self._bell.until(lambda: self.end is not None or self.finished)

    def update(
        self,
        *,
        priority: int | None = None,
        max_latency_ms: int | None = None,
        start_group: int | None = None,
        end_group: int | None = None,
        start_frame: int | None = None,
        end_frame: int | None = None,
    ) -> None:
        """Change what was asked for; None leaves a field. ValueError on 01 and 02, which have no updates."""
        changes: dict[str, Any] = {
            "priority": priority,
            "latency_ms": max_latency_ms,
            "history_ms": max_latency_ms,
            "start_group": start_group,
            "end_group": end_group,
            "start_frame": start_frame,
            "end_frame": end_frame,
        }
        given = {name: value for name, value in changes.items() if value is not None}
        self.update_to(self.request.params._replace(**given))

    def update_to(self, params: SubscribeParams) -> None:
        """Replace what was asked for, bounds that are taken away included."""
        self._peer.moq.requests.update(self.request.request, params)
        self.request = self.request._replace(params=params)
        self._peer.flush()

    async def close(self) -> None:
        """Unsubscribe. Groups under way are given up."""
        self._leave(None)

    def reset(self, code: int = StreamCode.CANCELLED) -> None:
        """Unsubscribe the rude way, by resetting the Subscribe stream."""
        self._leave(code)

    def _leave(self, code: int | None) -> None:
        self._forget(code)
        self.finished = True
        for group in list(self._open.values()):
            group.abort(StreamCode.CANCELLED)
        self._open.clear()
        self._bell.ring()

    def _over(self) -> bool:
        if self.code is not None:
            raise SubscribeError(self.code)
        # After the session nothing comes either.
        return self.finished and (self._late or self._all_here() or self._peer.ended is not None)

    def _all_here(self) -> bool:
        """Whether every group from the first to the last has been seen or was declared lost."""
        if self.end is None:
            return False
        if self.ok is None or self.ok.group is None:
            return self.end == 0
        return self.received + self._lost >= self.end - self.ok.group

    def _forget(self, code: int | None = None) -> None:
        """Take no more groups."""
        if self._timer is not None:
            self._timer.cancel()
        self._peer.cancel(self.request.request, code)
        self._late = True
        self._bell.ring()

    def on_event(self, event: Event) -> None:
        match event:
            case GroupData():
                for part in event.parts:
                    self._on_part(part)
            case DatagramReceived():
                self._count(event.sequence)
                self.datagrams.put(event)
            case SubscriptionStarted():
                self.ok = event
            case SubscriptionDropped():
                self.drops.append(event)
                self._lost += event.end - event.start + 1
            case SubscriptionEnded():
                self.end = event.final
                if event.closed and not self.finished:
                    self.finished = True
                    rtt = self._peer.moq.session.stats().rtt or 0.0
                    late = max(LATE_GROUPS, min(LATE_ROUND_TRIPS * rtt, LATE_AT_MOST))
                    self._timer = self._peer.runtime.call_later(late, self._forget)
            case RequestRejected():
                if not self.finished:
                    self.code = event.received
                    self.finished = True
                self._late = True
                self._forget_rejected()
        self._bell.ring()

    def _forget_rejected(self) -> None:
        """Groups under way come whole, as the peer may have left after it had sent them."""
        if self.code is not None and not self._open:
            self._forget()

    def _on_part(self, part: GroupPart) -> None:
        sequence = part.sequence
        reader = self._open.get(sequence)
        if reader is None:
            reader = GroupReader(
                self._peer, sequence, part.first_frame, lambda code: self._stop(sequence, code)
            )
            self._count(sequence)
            self._open[sequence] = reader
            self._unread.append(reader)
            if len(self._unread) > KEPT:
                self._unread.popleft().stop(StreamCode.TOO_FAR_BEHIND)
        reader.feed(part)
        if part.fin or part.code is not None:
            self._open.pop(sequence, None)
            self._forget_rejected()

    def _stop(self, sequence: int, code: int) -> None:
        self._open.pop(sequence, None)
        self._peer.moq.requests.stop_group(self.request.request, sequence, code)
        self._forget_rejected()

    def _count(self, sequence: int) -> None:
        self.received += 1
        self.latest = sequence if self.latest is None else max(self.latest, sequence)


class TrackInfoCall:
    """One question about a track."""

    def __init__(self, peer: Peer, broadcast: str, track: str) -> None:
        self._answer: InfoReceived | RequestRejected | None = None
        self._bell = Bell(peer)
        self._peer = peer
        self._request = peer.moq.requests.request_info(broadcast, track)
        peer.owners[self._request] = self
        peer.flush()

    async def answer(self) -> TrackProperties:
        """Wait for the reply; TrackInfoError if the peer refuses."""
        try:
            await self._bell.until(lambda: self._answer is not None)
        finally:
            if self._answer is None:
                self._peer.cancel(self._request)
        if isinstance(self._answer, InfoReceived):
            return self._answer.properties
        assert self._answer is not None
        raise TrackInfoError(self._answer.received)

    def on_event(self, event: Event) -> None:
        if isinstance(event, InfoReceived | RequestRejected):
            self._answer = event
            self._peer.owners.pop(self._request, None)
            self._bell.ring()


class FetchedGroup(GroupReader):
    """The group that answers a FETCH, read like any other; FetchError if the peer gives up."""

    def __init__(
        self,
        peer: Peer,
        broadcast: str,
        track: str,
        group: int,
        *,
        priority: int,
        start_frame: int,
        end_frame: int | None,
    ) -> None:
        super().__init__(peer, group, start_frame, self._give_up, FetchError)
        self._peer = peer
        self._request = peer.moq.requests.fetch(
            broadcast, track, group, priority=priority, start_frame=start_frame, end_frame=end_frame
        )
        peer.owners[self._request] = self
        peer.flush()

    def _give_up(self, code: int) -> None:
        self._peer.cancel(self._request, code)

    def on_event(self, event: Event) -> None:
        if isinstance(event, FetchedData):
            self.feed(event.part)
        elif isinstance(event, RequestRejected):
            self.abort(event.received)
        if self.finished or self.code is not None:
            self._peer.owners.pop(self._request, None)


class Probes:
    """The peer's estimates of the connection (`async for`), until it ends the stream or `close`."""

    def __init__(self, peer: Peer) -> None:
        self.finished = False
        self.code: int | None = None
        self._peer = peer
        self._unread: deque[ProbeReceived] = deque(maxlen=KEPT)
        self._bell = Bell(peer)
        self._request = peer.moq.requests.probe()
        peer.owners[self._request] = self
        peer.flush()

    def __aiter__(self) -> AsyncIterator[ProbeReceived]:
        return self

    async def __anext__(self) -> ProbeReceived:
        """Return the next estimate; RequestError if the peer gives none."""
        await self._bell.until(lambda: self._unread or self.finished)
        if self._unread:
            return self._unread.popleft()
        if self.code is not None:
            raise RequestError(self.code)
        raise StopAsyncIteration

    def close(self) -> None:
        """Ask for no more."""
        self._peer.cancel(self._request)
        self.finished = True
        self._bell.ring()

    def on_event(self, event: Event) -> None:
        match event:
            case ProbeReceived():
                self._unread.append(event)
            case RequestRejected():
                self.code = event.received
                self.finished = True
            case RequestFinished():
                self.finished = True
        self._bell.ring()
