"""Requests of the peer, one object per stream, and the unsent bytes of all their streams together."""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heapify, heappop, heappush

from relay.model.backlog import Ranks
from relay.model.ranges import Range
from relay.model.track import TrackProperties
from relay.moq.core import Core, Handler, PeerRequest, RequestOwner
from relay.moq.delivery import Delivery, params_of
from relay.moq.lite_announce import AnnounceWriter
from relay.moq.session import (
    NEVER,
    AnnounceRequested,
    FetchRequested,
    GroupFragment,
    InfoRequested,
    LimitExceeded,
    Offer,
    PeerLeaving,
    ProbeRequested,
    RequestCancelled,
    RequestFinished,
    SubscribeRequested,
)
from relay.transport.session import Stream
from relay.wire.announce import AnnounceRequest
from relay.wire.control import Fetch, Goaway, ProbeRequest, TrackInfo, TrackRequest
from relay.wire.decoder import RequestDecoder
from relay.wire.errors import DecodeError, ProtocolViolation, StreamCode, WireError
from relay.wire.subscribe import Subscribe, SubscribeUpdate

LOOK_AT_LEAST = 64
"""Streams of fetches and ended requests: with more, those fully sent are forgotten."""

STREAM_COST = 2_048  # bytes of memory for such a stream, besides its unsent data


class SilentStream(Handler):
    """Stays open without an answer: some clients end their session when it closes."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def on_data(self, stream: Stream, data: bytes, *, fin: bool) -> None:  # noqa: ARG002
        if fin:
            stream.write((), fin=True)

    def on_reset(self, stream: Stream, code: int) -> None:
        stream.reset(self._core.code(code))


class IncomingRequest(Handler):
    """A bidirectional stream of the peer: reads its request, and passes on the rest."""

    def __init__(self, core: Core, owner: Serving) -> None:
        self._core = core
        self._owner = owner
        self._decoder = RequestDecoder(core.version, core.limits.message)
        self._answer: Handler | None = None
        self._asked = False

    def on_data(self, stream: Stream, data: bytes, *, fin: bool) -> None:
        try:
            messages = self._decoder.feed(data)
            if fin:
                self._decoder.end()
        except DecodeError as error:
            # an unreadable request costs the peer this stream alone
            self._core.refuse_for(stream, error)
            self.on_fault(error)
            return
        for message in messages:
            if self._asked:
                self._core.spend()  # the stream was counted with its first message
                if isinstance(message, SubscribeUpdate) and isinstance(self._answer, Delivery):
                    self._answer.on_update(message)
            else:
                self._asked = True
                self._answer = self._owner.open(stream, message)
        if fin:
            if self._answer is not None:
                self._answer.on_data(stream, b"", fin=True)
            elif stream.context is self:
                stream.write((), fin=True)  # it ended without a request

    def on_reset(self, stream: Stream, code: int) -> None:
        if self._answer is None:
            stream.reset(self._core.code(StreamCode.CANCELLED))
        else:
            self._answer.on_reset(stream, code)

    def on_stopped(self, stream: Stream, code: int) -> None:
        if self._answer is not None:
            self._answer.on_stopped(stream, code)

    def on_fault(self, error: WireError) -> None:
        if self._answer is not None:
            self._answer.on_fault(error)


class LooseStreams:
    """Streams of fetches and ended requests that may have unsent bytes, the oldest first."""

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
        """Remove the oldest streams with their requests, until `excess` bytes are gone."""
        taken: list[tuple[Stream, int]] = []
        for stream, request in self._requests.items():
            if excess <= 0:
                break
            excess -= stream.unsent + STREAM_COST
            taken.append((stream, request))
        for stream, _ in taken:
            del self._requests[stream]
        return taken


class Serving(RequestOwner):
    """All requests of the peer."""

    def __init__(self, core: Core, *, offers_probe: bool) -> None:
        self.backlog_limit = core.limits.backlog_session  # unsent bytes of the whole session
        self._core = core
        self._offers_probe = offers_probe
        self._deliveries: dict[int, Delivery] = {}
        self._answers: dict[int, PeerRequest] = {}
        self._writers: dict[int, AnnounceWriter] = {}
        self._ids: set[int] = set()  # in use, on the wire
        self._leaving = False  # the peer has sent GOAWAY
        self._ending: set[int] = set()  # subscriptions whose end waits for their groups
        self._ranks = Ranks()
        self.offers: dict[str, Offer] = {}  # by path: of `offer`
        self._unsent = 0  # upper bound for all streams: measured anew when it exceeds the limit
        self._loose = LooseStreams()

    # --- requests of the peer

    def open(self, stream: Stream, message: object) -> Handler | None:
        """`None` if the stream was refused."""
        core = self._core
        match message:
            case Subscribe():
                return self._on_subscribe(stream, message)
            case AnnounceRequest():
                request = core.new_request()
                writer = AnnounceWriter(core, self, request, message.prefix, stream)
                self._writers[request] = writer
                core.emit(AnnounceRequested(request, message.prefix, message.exclude_hop))
                return writer
            case TrackRequest():
                answer = self._answer(stream)
                core.emit(InfoRequested(answer.request, message.broadcast, message.track))
                return answer
            case Fetch():
                answer = self._answer(stream)
                core.emit(
                    FetchRequested(
                        answer.request,
                        message.broadcast,
                        message.track,
                        message.group,
                        message.priority,
                        message.start_frame,
                        message.end_frame,
                    )
                )
                return answer
            case ProbeRequest():
                core.emit(ProbeRequested(core.new_request()))
                if core.version.has_setup_stream and not self._offers_probe:
                    core.refuse(stream, StreamCode.CANCELLED)  # our SETUP does not offer it
                    return None
            case Goaway():
                if self._leaving:
                    raise ProtocolViolation("second GOAWAY")
                self._leaving = True
                core.emit(PeerLeaving(message.uri))
        return SilentStream(core)

    def _on_subscribe(self, stream: Stream, message: Subscribe) -> Handler | None:
        core = self._core
        if message.id in self._ids:
            core.note(ProtocolViolation(f"subscribe id {message.id} is in use"))
            core.refuse(stream, StreamCode.CANCELLED)
            return None
        request = core.new_request()
        self._ids.add(message.id)
        delivery = self._deliveries[request] = Delivery(core, self, request, message, stream, self._ranks)
        params = params_of(message, core.version)
        core.emit(SubscribeRequested(request, message.broadcast, message.track, params))
        return delivery

    def _answer(self, stream: Stream) -> PeerRequest:
        request = self._core.new_request()
        answer = self._answers[request] = PeerRequest(self._core, self, request, stream)
        return answer

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
        """True while an announcement of that path to the peer is live."""
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
        """The same, for every interest that covers the path, now or later."""
        if offer is None:
            self.offers.pop(path, None)
        else:
            self.offers[path] = offer
        for request, writer in list(self._writers.items()):
            if writer.covers(path):
                self.announce(request, path, offer)

    def accept(self, request: int) -> None:
        """The track exists."""
        delivery = self._deliveries.get(request)
        if delivery is not None:
            delivery.accept()

    def send_group(self, request: int, fragments: tuple[GroupFragment, ...], now: float) -> None:
        """The path of every frame."""
        delivery = self._deliveries.get(request)
        if delivery is not None:
            self._account(delivery.send(fragments, now))

    def send_datagram(self, request: int, sequence: int, timestamp: int, payload: bytes) -> bool:
        """False if version or session cannot carry the datagram."""
        delivery = self._deliveries.get(request)
        return delivery is not None and delivery.send_datagram(sequence, timestamp, payload)

    def end_track(self, request: int, final: int, now: float, missing: Iterable[Range] = ()) -> None:
        """`final`: first sequence that never comes; `missing`: earlier ones."""
        delivery = self._deliveries.get(request)
        if delivery is not None:
            delivery.drop(missing)
            before = delivery.backlog.unsent
            delivery.end(final, now)
            self._account(delivery.backlog.unsent - before)
            self._after_end(delivery)

    def send_info(self, request: int, properties: TrackProperties) -> None:
        answer = self._answers.pop(request, None)
        if answer is not None:
            info = TrackInfo(*properties)
            answer.stream.write((info.encode(self._core.version),), fin=True)

    def send_fetched(self, request: int, chunks: tuple[bytes, ...], *, fin: bool) -> None:
        """Answer a fetch, or continue the answer."""
        answer = self._answers.get(request)
        if answer is not None:
            answer.stream.write(chunks, fin=fin)
            if fin:
                del self._answers[request]
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
            self._core.refuse(answer.stream, code)

    def stop(self) -> None:
        self._ending.clear()

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

    def _after_end(self, delivery: Delivery) -> None:
        if delivery.over:
            self._forget(delivery)
            self._core.emit(RequestFinished(delivery.request))
        else:
            self._ending.add(delivery.request)

    def _forget(self, delivery: Delivery) -> None:
        delivery.over = True
        del self._deliveries[delivery.request]
        self._ids.discard(delivery.id)
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
        for stream, request in self._loose.take(self._unsent - enough):  # first: fetches are the past
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
            self._core.refuse(writer.stream, StreamCode.TOO_FAR_BEHIND)
            self._core.emit(RequestCancelled(request, StreamCode.TOO_FAR_BEHIND))
