"""Requests of the peer, the commands that answer them, and the unsent bytes of all their streams together.

Each dialect's serving side reads the requests and adds its messages.
"""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heapify, heappop, heappush
from typing import Generic, Protocol, TypeVar

from relay.model.backlog import Ranks
from relay.model.group import Object
from relay.model.ranges import Range
from relay.model.track import TrackProperties
from relay.moq.core import IGNORE, Core, PeerRequest, RequestOwner
from relay.moq.delivery import Delivery
from relay.moq.session import (
    NEVER,
    GroupFragment,
    LimitExceeded,
    Location,
    Offer,
    RequestCancelled,
    RequestFinished,
)
from relay.transport.session import Stream
from relay.wire.errors import StreamCode

LOOK_AT_LEAST = 64
"""Streams of fetches and ended requests: with more, those fully sent are forgotten."""

STREAM_COST = 2_048  # bytes of memory, besides unsent data


class Writer(Protocol):
    """Writes announcements to the peer."""

    @property
    def stream(self) -> Stream: ...

    def covers(self, path: str) -> bool: ...

    def has_offered(self, path: str) -> bool: ...

    def begin(self, offers: Iterable[Offer]) -> int:
        """Returns the size of the initial set in bytes."""

    def change(self, path: str, offer: Offer | None) -> int:
        """Announce, withdraw (`None`) or update a path, if the version can. Returns the bytes written."""

    def refuse(self, code: int) -> None:
        """Refuse the interest. `code` is of the current stream registry."""


D = TypeVar("D", bound=Delivery)
W = TypeVar("W", bound=Writer)


class LooseStreams:
    """Streams of fetches and ended requests, with unsent bytes, the oldest first."""

    __slots__ = ("_look_at", "_requests")

    def __init__(self) -> None:
        self._requests: dict[Stream, int] = {}
        self._look_at = LOOK_AT_LEAST

    def add(self, stream: Stream, request: int) -> int:
        """Returns the bytes that the stream counts, besides its data."""
        cost = 0 if stream in self._requests else STREAM_COST
        self._requests[stream] = request
        if len(self._requests) >= self._look_at:
            self.measure()
        return cost

    def __len__(self) -> int:
        return len(self._requests)

    def measure(self) -> int:
        """Forget fully sent streams. Returns the bytes that the others count."""
        self._requests = {stream: request for stream, request in self._requests.items() if stream.unsent}
        self._look_at = max(LOOK_AT_LEAST, 2 * len(self._requests))
        return sum(stream.unsent + STREAM_COST for stream in self._requests)

    def take(self, excess: int) -> list[tuple[Stream, int]]:
        """The oldest streams with their requests, until `excess` bytes are gone."""
        taken: list[tuple[Stream, int]] = []
        for stream, request in self._requests.items():
            if excess <= 0:
                break
            excess -= stream.unsent + STREAM_COST
            taken.append((stream, request))
        for stream, _ in taken:
            del self._requests[stream]
        return taken

    def unlink(self) -> None:
        for stream in self._requests:
            stream.context = IGNORE
        self._requests.clear()


class Serving(RequestOwner, Generic[D, W]):
    """All requests of the peer."""

    def __init__(self, core: Core) -> None:
        self.backlog_limit = core.limits.backlog_session  # unsent bytes of the whole session
        self._core = core
        self._deliveries: dict[int, D] = {}
        self._answers: dict[int, PeerRequest] = {}
        self._writers: dict[int, W] = {}
        self._ending: set[int] = set()  # subscriptions whose end waits for their groups
        self._ranks = Ranks()
        self.offers: dict[str, Offer] = {}  # by path
        self._unsent = 0  # upper bound for all streams: measured anew when it exceeds the limit
        self._loose = LooseStreams()

    # --- requests of the peer

    def cancelled(self, request: int, code: int | None) -> None:
        delivery = self._deliveries.get(request)
        writer = self._writers.pop(request, None)
        if delivery is not None:
            self._forget(delivery)
        elif writer is not None:
            if unsent := writer.stream.unsent:
                self._keep_account(writer.stream, request, unsent)
        elif self._answers.pop(request, None) is None:
            return
        self._core.emit(RequestCancelled(request, code))

    # --- commands

    def has_offered(self, path: str) -> bool:
        """An announcement of that path to the peer is live."""
        return any(writer.has_offered(path) for writer in self._writers.values())

    def announce_initial(self, request: int, offers: Iterable[Offer] | None = None) -> None:
        """Answer an interest with `offers`, or with those of `offer` that it covers."""
        writer = self._writers.get(request)
        if writer is not None:
            if offers is None:
                offers = [offer for offer in self.offers.values() if writer.covers(offer.path)]
            self._account(writer.begin(offers))

    def announce(self, request: int, path: str, offer: Offer | None) -> None:
        """Announce, withdraw (`None`) or update a path."""
        writer = self._writers.get(request)
        if writer is not None:
            self._account(writer.change(path, offer))

    def offer(self, path: str, offer: Offer | None) -> None:
        """Announce a path to every interest that covers it, now or later."""
        if offer is None:
            self.offers.pop(path, None)
        else:
            self.offers[path] = offer
        for request, writer in list(self._writers.items()):
            if writer.covers(path):
                self.announce(request, path, offer)

    def offer_track(self, request: int, path: str, track: str, *, offered: bool) -> None:
        """Answers `TracksRequested`."""

    def accept(self, request: int, largest: Location | None = None) -> None:
        """`largest`: its newest group and the last complete frame there."""
        delivery = self._deliveries.get(request)
        if delivery is not None:
            delivery.accept(largest)

    def send_group(self, request: int, fragments: tuple[GroupFragment, ...], now: float) -> None:
        """Send parts of groups: the path of every frame."""
        delivery = self._deliveries.get(request)
        if delivery is not None:
            self._account(delivery.send(fragments, now))

    def send_datagram(
        self, request: int, sequence: int, timestamp: int, payload: bytes, start: Object | None = None
    ) -> bool:
        """False if version or session cannot carry the datagram."""
        delivery = self._deliveries.get(request)
        return delivery is not None and delivery.send_datagram(sequence, timestamp, payload, start)

    def end_track(self, request: int, final: int, now: float, missing: Iterable[Range] = ()) -> None:
        """`final`: first sequence that never comes; `missing`: earlier ones."""
        delivery = self._deliveries.get(request)
        if delivery is not None:
            delivery.drop(missing)
            before = delivery.backlog.unsent
            delivery.end(final, now)
            self._account(delivery.backlog.unsent - before)
            self._after_end(delivery)

    def send_info(self, request: int, properties: TrackProperties, largest: Location | None = None) -> None:
        raise NotImplementedError

    def send_fetched(
        self,
        request: int,
        chunks: tuple[bytes, ...],
        *,
        fin: bool,
        largest: Location | None = None,  # noqa: ARG002 - for dialects whose answer names an end
    ) -> None:
        """Answer a fetch, or continue the answer. `largest`: the track's newest object when the fetch came."""
        answer = self._answers.get(request)
        if answer is not None:
            answer.stream.write(chunks, fin=fin)
            if fin:
                del self._answers[request]
                answer.stream.context = IGNORE
            self._keep_account(answer.stream, request, sum(map(len, chunks)))

    def reject(self, request: int, code: int) -> None:
        """Refuse or abort a request, with a code of the current stream registry."""
        delivery = self._deliveries.get(request)
        if delivery is not None:
            delivery.reject(code)
            self._forget(delivery)
            return
        answer = self._answers.pop(request, None) or self._writers.pop(request, None)
        if answer is not None:
            answer.refuse(code)

    def stop(self) -> None:
        self._ending.clear()

    def unlink(self) -> None:
        for delivery in self._deliveries.values():
            delivery.unlink()
        for answer in self._answers.values():
            answer.stream.context = IGNORE
        for writer in self._writers.values():
            writer.stream.context = IGNORE
        self._loose.unlink()
        self._deliveries.clear()
        self._answers.clear()
        self._writers.clear()

    @property
    def ending(self) -> bool:
        return bool(self._ending)

    # --- time

    def deadline(self) -> float:
        if not self._ending:
            return NEVER
        return min(self._deliveries[request].check_at for request in self._ending)

    def on_time(self, now: float) -> None:
        """Send the ends of tracks whose groups have left."""
        for request in sorted(self._ending):
            delivery = self._deliveries[request]
            if delivery.check_at <= now:
                before = delivery.backlog.unsent
                delivery.check_end(now)
                self._account(delivery.backlog.unsent - before)
                self._after_end(delivery)

    def _after_end(self, delivery: D) -> None:
        if delivery.over:
            self._forget(delivery)
            self._core.emit(RequestFinished(delivery.request))
        else:
            self._ending.add(delivery.request)

    def _forget(self, delivery: D) -> None:
        delivery.over = True
        del self._deliveries[delivery.request]
        self._ending.discard(delivery.request)
        self._account(-delivery.backlog.unsent)
        streams = [sending.stream for sending in delivery.backlog]
        delivery.backlog.clear()
        for stream in streams:
            if unsent := stream.unsent:
                self._keep_account(stream, delivery.request, unsent)

    # --- how much is unsent

    def _account(self, change: int) -> None:
        self._unsent += change
        if self._unsent > self.backlog_limit and change > 0:
            self._shed()

    def _keep_account(self, stream: Stream, request: int, size: int) -> None:
        """Count unsent bytes of a fetch, or of an ended request."""
        self._account(size + self._loose.add(stream, request))

    def _shed(self) -> None:
        """The least important subscription loses its oldest group, then the next."""
        deliveries = list(self._deliveries.values())
        self._unsent = self._loose.measure() + sum(delivery.backlog.measure() for delivery in deliveries)
        self._unsent += sum(writer.stream.unsent for writer in self._writers.values())
        if self._unsent <= self.backlog_limit:
            return
        enough = self.backlog_limit * 3 // 4  # at the limit itself the next write would exceed it again
        for stream, request in self._loose.take(self._unsent - enough):  # fetches are the past
            unsent = stream.unsent
            self._unsent -= unsent + STREAM_COST
            self._core.emit(LimitExceeded("backlog_session", {"request": request, "queued_bytes": unsent}))
            self.cancelled(request, StreamCode.TOO_FAR_BEHIND)
            self._core.refuse(stream, StreamCode.TOO_FAR_BEHIND)
        order = [(d.backlog.priority, -d.backlog.unsent, number) for number, d in enumerate(deliveries)]
        heapify(order)
        while self._unsent > enough and order:
            priority, unsent, number = heappop(order)
            least = deliveries[number]
            if least.shed():
                heappush(order, (priority, -least.backlog.unsent, number))
            self._unsent += least.backlog.unsent + unsent
        # announcements last: without them a peer can ask for nothing
        for request, writer in sorted(self._writers.items(), key=lambda pair: -pair[1].stream.unsent):
            if self._unsent <= enough:
                break
            unsent = writer.stream.unsent
            self._core.emit(LimitExceeded("backlog_session", {"queued_bytes": unsent}))
            self._unsent -= unsent
            del self._writers[request]
            writer.refuse(StreamCode.TOO_FAR_BEHIND)
            self._core.emit(RequestCancelled(request, StreamCode.TOO_FAR_BEHIND))
