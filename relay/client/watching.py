"""The watching side of a client, an object for each request."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, TypedDict, Unpack

from relay.client.endpoint import KEPT, Endpoint, Reader
from relay.client.errors import AnnounceError, ClientError, FetchError, GroupAborted, SubscribeError
from relay.model.group import FrameQueue, Part
from relay.model.route import MAX_COST
from relay.model.track import SubscribeParams, TrackProperties
from relay.moq import session as moq
from relay.moq.session import DatagramReceived, GroupPart, ProbeReceived
from relay.wire.errors import StreamCode

LATE_GROUPS: Final = 0.2  # seconds, at least: the end can overtake the last groups


@dataclass(frozen=True, slots=True)
class Change:
    """A broadcast (06: a route) came, went, or has another route (`update`).

    `hops` are those listed by the peer, on 03 as many zeros as it counted; the peer's own id on 05 and 06 is
    `Announced.origin`. `warm` and `cold` are the costs of 06.
    """

    path: str
    active: bool
    hops: tuple[int, ...] = ()
    warm: int = 0
    cold: int = MAX_COST
    update: bool = False


class Announced(Reader[Change]):
    """The announcements under `prefix`, as changes in order (`async for`).

    When the peer ends them, live paths are reported gone, then the iteration stops; a reset raises
    AnnounceError. More than `KEPT` unread changes are reduced to those that lead to the live paths.
    """

    def __init__(self, endpoint: Endpoint, prefix: str) -> None:
        self.prefix = prefix
        self.origin: int | None = None  # the peer's own hop id, given on 05 and 06 (0: withheld)
        self.live: dict[str, Change] = {}  # by path, whether the change was read or not
        self.complete = False  # the initial set is here; 03 and 04 do not mark it: true from the start
        self._most = KEPT  # unread changes
        request = endpoint.moq.requests.request_announcements(prefix)
        super().__init__(endpoint, request, AnnounceError, deque())

    async def initial(self) -> dict[str, Change]:
        """Wait for the initial set and return what is live."""
        await self.until(lambda: self.complete or self._over())
        return dict(self.live)

    async def wait_for(self, path: str, *, active: bool = True) -> None:
        """Wait until `path` is announced, or is not. Reads no change."""
        await self.until(lambda: (path in self.live) == active or self._over())
        if active and path not in self.live:
            raise ClientError(f"the peer ended its announcements, {path!r} is not among them")

    def close(self) -> None:
        """End the interest. Live paths are reported gone."""
        self._endpoint.cancel(self._request)
        for path in list(self.live):
            self.put(Change(path, active=False))
        self.conclude()

    def on_event(self, event: moq.Event) -> None:
        match event:
            case moq.AnnouncementsStarted():
                self.origin = event.origin
            case moq.Announced(_, path, listed, route, update):
                self.put(Change(path, True, listed, route.warm, route.cold, update))
            case moq.Unannounced():
                self.put(Change(event.path, active=False))
            case moq.AnnouncementsComplete():
                self.complete = True
            case moq.AnnouncementsEnded():
                self.conclude(event.code)
        self.ring()

    def put(self, item: Change) -> None:
        self.live.pop(item.path, None)
        if item.active:
            self.live[item.path] = item
        self._unread.append(item)
        if len(self._unread) > self._most:
            # keep for each path what leads from its state at the last read, which the first change shows, to
            # its state now
            first = {change.path: change for change in reversed(self._unread)}
            new = {path for path, change in first.items() if change.active and not change.update}
            gone = (Change(path, active=False) for path in first.keys() - self.live.keys() - new)
            live = (replace(self.live[path], update=path not in new) for path in first if path in self.live)
            self._unread = deque((*gone, *live))
            self._most = KEPT + 2 * len(self._unread)
        self.ring()


@dataclass(frozen=True, slots=True)
class Frame:
    """`timestamp` counts in the track's timescale; None on 01..04, which carry none."""

    payload: bytes
    timestamp: int | None = None


class GroupReader(Reader[Frame]):
    """One group, read frame by frame (`async for`), all at once (`read_all`) or in pieces (`pieces`).

    Of an aborted group, complete frames are read, then GroupAborted (of a fetched one, FetchError) raised.
    """

    def __init__(
        self, endpoint: Endpoint, sequence: int, frame_start: int, stop: Callable[[int], None], fetch: int = 0
    ) -> None:
        """`stop(code)` asks the peer to send no more; `fetch` is the request of a fetched group."""
        self.sequence = sequence
        self.frame_start = frame_start  # number of the first frame that comes
        self._stop = stop
        super().__init__(endpoint, fetch, FetchError if fetch else GroupAborted, FrameQueue())

    async def read_all(self) -> list[Frame]:
        """All unread frames, once the group is complete."""
        return [frame async for frame in self]

    async def pieces(self) -> AsyncIterator[Part]:
        """The start of each frame (on 01..04 its time is the arrival), then its payload as the chunks arrive."""
        while True:
            await self.until(lambda: self._unread.parts or self._over())
            if not self._unread.parts:
                return
            yield self._unread.pop_part()

    def stop(self, code: int = StreamCode.CANCELLED) -> None:
        """Ask the peer to stop sending."""
        if not self.finished:
            self._stop(code)
            self.conclude(code)

    def put(self, item: GroupPart | moq.FetchedData) -> None:
        part = item.part if isinstance(item, moq.FetchedData) else item
        self._unread.extend(part.parts)
        if part.fin or part.code is not None:
            self.conclude(part.code)
        self.ring()

    def _take(self) -> Frame:
        start, payload = self._unread.popleft()
        return Frame(payload, start.timestamp if self._endpoint.moq.version.has_timestamps else None)


class Probes(Reader[ProbeReceived]):
    """The peer's estimates of the connection; RequestError if it gives none."""

    def close(self) -> None:
        self._endpoint.cancel(self._request)
        self.conclude()


class Wanted(TypedDict, total=False):
    """Parameters of a subscription. Bounds are inclusive, None removes one. What a version lacks is not sent."""

    priority: int  # 0 to 255; tracks with a higher one are sent first
    max_latency_ms: int  # after which a group is skipped; on 06, the history wanted
    start_group: int | None
    end_group: int | None
    start_frame: int  # of the first group (06)
    end_frame: int | None  # of the last group (06)


def params_of(wanted: Wanted, before: SubscribeParams) -> SubscribeParams:
    """`before` with what is `wanted`."""
    fields: dict[str, Any] = dict(wanted)
    if "max_latency_ms" in fields:
        fields["latency_ms"] = fields["history_ms"] = fields.pop("max_latency_ms")
    return before._replace(**fields)


class Subscription(Reader[GroupReader]):
    """A running subscription: its groups in order of arrival (`async for`), and the peer's replies.

    The iteration stops when the track has ended and all groups were read; SubscribeError if the peer aborts. Of
    more than `KEPT` unread groups the oldest are stopped.
    """

    def __init__(
        self, endpoint: Endpoint, request: moq.SubscribeRequested, info: TrackProperties | None
    ) -> None:
        self.info = info
        self.request = request  # as sent, with the updates since
        self.ok: moq.SubscriptionStarted | None = None
        self.end: int | None = None  # the first sequence that will never be sent (05 and 06)
        self.received = 0  # groups, read or not, datagrams among them
        self.datagrams = Reader[DatagramReceived](endpoint)
        """Groups of one frame that came as datagrams, some of them lost. Only the session's end ends them."""
        self.drops: deque[moq.SubscriptionDropped] = deque(maxlen=KEPT)  # ranges that the peer declared lost
        self._open: dict[int, GroupReader] = {}
        super().__init__(endpoint, request.request, SubscribeError)

    async def accepted(self) -> None:
        """Wait until the peer accepts; SubscribeError if it refuses. 05 and 06 accept by the first group."""
        await self.until(lambda: self.ok or self.received or self.end is not None or self._over())

    async def ended(self) -> None:
        """Wait until the peer said that no new group will come, or aborted (no error here: see `code`)."""
        await self.until(lambda: self.end is not None or self.finished)

    def update(self, **wanted: Unpack[Wanted]) -> None:
        """Change the parameters; other fields stay. ValueError on 01 and 02, which have no updates."""
        self.update_to(params_of(wanted, self.request.params))

    def update_to(self, params: SubscribeParams) -> None:
        """Replace all parameters, as `update`."""
        self._endpoint.moq.requests.update(self._request, params)
        self.request = self.request._replace(params=params)
        self._endpoint.flush()

    async def close(self) -> None:
        """Open groups are dropped."""
        self._leave(None)

    def reset(self, code: int = StreamCode.CANCELLED) -> None:
        """Unsubscribe by a reset of the Subscribe stream."""
        self._leave(code)

    def _leave(self, code: int | None) -> None:
        self._endpoint.cancel(self._request, code)
        for group in self._open.values():
            group.conclude(StreamCode.CANCELLED)
        self._open.clear()
        self.conclude()

    def on_event(self, event: moq.Event) -> None:
        match event:
            case moq.GroupData():
                for part in event.parts:
                    self._on_part(part)
            case DatagramReceived():
                self.received += 1
                self.datagrams.put(event)
            case moq.SubscriptionStarted():
                self.ok = event
            case moq.SubscriptionDropped():
                self.drops.append(event)
            case moq.SubscriptionEnded():
                self.end = event.final
                if event.closed and not self.finished:
                    self.finished = True
                    patience = self._endpoint.moq.patience(LATE_GROUPS)
                    self._endpoint.runtime.call_later(patience, self._endpoint.cancel, self._request)
            case moq.RequestRejected() if not self.finished:
                self.finished, self.code = True, event.received
        self._settle()
        self.ring()

    def _on_part(self, part: GroupPart) -> None:
        reader = self._open.get(part.sequence)
        if reader is None:
            stop = partial(self._stop, part.sequence)
            reader = GroupReader(self._endpoint, part.sequence, part.first_frame, stop)
            self.received += 1
            self._open[part.sequence] = reader
            if len(self._unread) == self._unread.maxlen:
                self._unread.popleft().stop(StreamCode.TOO_FAR_BEHIND)
            self.put(reader)
        reader.put(part)
        if reader.finished:
            self._open.pop(part.sequence, None)

    def _stop(self, sequence: int, code: int) -> None:
        self._open.pop(sequence, None)
        self._endpoint.moq.requests.stop_group(self._request, sequence, code)
        self._endpoint.flush()
        self._settle()

    def _settle(self) -> None:
        """Open groups come whole after a refusal: the peer may have left after it had sent them."""
        if self.code is not None and not self._open:
            self._endpoint.cancel(self._request)

    def _over(self) -> bool:
        return super()._over() and (self._is_complete() or self._request not in self._endpoint.handles)

    def _is_complete(self) -> bool:
        """Every group from the first to the last has arrived, or was declared lost."""
        if self.end is None or self.ok is None or self.ok.group is None:
            return self.end == 0
        lost = sum(drop.end - drop.start + 1 for drop in self.drops)
        return self.received + lost >= self.end - self.ok.group
