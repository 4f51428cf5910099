"""Requests of a moq-transport peer.

A SUBSCRIBE first asks for the properties of its track, which its answer carries, and then subscribes. A FETCH is a
request for one group after the other.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from relay.model.track import TrackProperties
from relay.moq.ietf_announce import NamespaceWriter, OwnNamespaces, RequestingWriter
from relay.moq.ietf_core import MISSING, IetfCore
from relay.moq.ietf_delivery import IetfDelivery, OfferedDelivery, properties_of
from relay.moq.ietf_exchange import NO_HANDLER, Exchange, Exchanges, RequestHandler
from relay.moq.ietf_fetching import FetchAnswer, Fill
from relay.moq.ietf_names import fits, namespace_of, path_of, track_of
from relay.moq.serving import Serving
from relay.moq.session import (
    AnnounceRequested,
    InfoRequested,
    Location,
    Offer,
    RequestCancelled,
    SubscribeRequested,
    TracksRequested,
)
from relay.transport.session import Stream
from relay.wire.errors import StreamCode
from relay.wire.ietf.codes import Refusal
from relay.wire.ietf.messages import (
    Fetch,
    Interest,
    JoiningFetch,
    Message,
    Publish,
    Request,
    RequestUpdate,
    Subscribe,
    SubscribeNamespace,
    SubscribeTracks,
    TrackStatus,
)
from relay.wire.ietf.parameters import NO_PARAMETERS, Parameters
from relay.wire.ietf.values import (
    AbsoluteRange,
    GroupOrder,
    NextObject,
    RelativeGroup,
    TrackNamespace,
    Unfiltered,
)
from relay.wire.ietf.values import Location as WireLocation
from relay.wire.varint import MAX_VARINT


class Rendezvous:
    """A SUBSCRIBE that waits for its broadcast to be announced: an interest of its own."""

    def __init__(self, owner: IetfServing, request: int, delivery: IetfDelivery) -> None:
        self.request = request
        self.delivery = delivery
        self._owner = owner

    @property
    def stream(self) -> Stream:
        return self.delivery.exchange.stream

    def covers(self, path: str) -> bool:
        return path == self.delivery.named[0]

    def has_offered(self, path: str) -> bool:  # noqa: ARG002 - it tells the peer nothing
        return False

    def begin(self, offers: Iterable[Offer]) -> int:
        for offer in offers:
            self.change(offer.path, offer)
        return 0

    def change(self, path: str, offer: Offer | None) -> int:
        if offer is not None and self.covers(path):
            self._owner.came(self)
        return 0

    def refuse(self, code: int) -> None:
        self._owner.gave_up(self, code)


class TrackOffer:
    """A track that we offer to the peer."""

    def __init__(self, path: str, track: str) -> None:
        self.path = path
        self.track = track
        self.delivery: IetfDelivery | None = None


class TracksInterest(RequestHandler):
    """SUBSCRIBE_TRACKS of the peer."""

    def __init__(self, owner: IetfServing, request: int, exchange: Exchange) -> None:
        self._owner = owner
        self._request = request
        self.exchange = exchange

    def on_message(self, message: Message) -> None:
        if not isinstance(message, RequestUpdate):
            super().on_message(message)
        elif message.params.prefix is None:
            self.exchange.updated(message)
        else:
            self.exchange.refuse(Refusal.NOT_SUPPORTED, "the prefix cannot change")
            self._owner.end_interest(self._request)

    def on_finished(self) -> None:
        self.exchange.leave()
        self._owner.end_interest(self._request)

    def on_left(self, code: int) -> None:  # noqa: ARG002 - it is over either way
        self._owner.end_interest(self._request)


class IetfServing(Serving[IetfDelivery, NamespaceWriter | Rendezvous]):
    """All requests of the peer.

    Size: a method for each kind of request and answer, beside those of every dialect (`Serving`).
    """

    def __init__(self, core: IetfCore, exchanges: Exchanges) -> None:
        super().__init__(core)
        self._ietf = core
        self._exchanges = exchanges
        self._asking: dict[int, IetfDelivery] = {}  # by the request for the track's properties
        self._statuses: dict[int, Exchange] = {}
        self._awaiting: dict[int, Rendezvous] = {}  # by request of the subscription
        self._tracks: dict[int, dict[tuple[str, str], TrackOffer]] = {}  # by interest
        self._unanswered: dict[int, TracksInterest] = {}
        self._offering: dict[int, TrackOffer] = {}  # by the request for their properties
        self._fetches: dict[int, FetchAnswer] = {}  # by their present request
        self._namespaces = OwnNamespaces(exchanges)
        self._offered: set[str] = set()  # paths that we announce unasked

    def open(self, exchange: Exchange, message: Request) -> RequestHandler:
        """A request that consumes. Returns our side."""
        match message:
            case Subscribe():
                self._on_subscribe(exchange, message)
            case TrackStatus():
                self._on_status(exchange, message)
            case Fetch():
                self._on_fetch(exchange, message)
            case JoiningFetch():
                self._on_joining_fetch(exchange, message)
            case SubscribeNamespace():
                self._on_interest(exchange, message)
            case SubscribeTracks():
                self._on_tracks(exchange, message.prefix)
            case _:
                exchange.refuse(Refusal.NOT_SUPPORTED, "no such request here")
        return exchange.handler

    def _named(self, exchange: Exchange, message: Subscribe | TrackStatus | Fetch) -> tuple[str, str] | None:
        """`None` if the track has no name as text: refused."""
        track = track_of(message.track)
        if track is None:
            exchange.error(StreamCode.NOT_FOUND, "no such name here")
            return None
        return path_of(message.namespace), track

    def _on_subscribe(self, exchange: Exchange, message: Subscribe) -> None:
        core = self._ietf
        named = self._named(exchange, message)
        if named is None:
            return
        request = core.new_request()
        delivery = IetfDelivery(core, self, request, message.params, exchange, self._ranks)
        delivery.named = named
        if message.params.fill is not None:
            delivery.fill = Fill(core, self, exchange, named, message.params.fill)
            delivery.fills = message.params.fill.filter
        if message.params.rendezvous_timeout:
            delivery.patient_until = core.now + message.params.rendezvous_timeout / 1000
        self._deliveries[request] = delivery
        self._ask(delivery)

    def _ask(self, delivery: IetfDelivery) -> None:
        question = self._core.new_request()
        self._asking[question] = delivery
        self._core.emit(InfoRequested(question, *delivery.named))

    def _on_status(self, exchange: Exchange, message: TrackStatus) -> None:
        core = self._ietf
        named = self._named(exchange, message)
        if named is not None:
            question = core.new_request()
            self._statuses[question] = exchange
            exchange.handler = Questioner(self, question)
            core.emit(InfoRequested(question, *named))

    def _on_fetch(self, exchange: Exchange, message: Fetch) -> None:
        named = self._named(exchange, message)
        wanted = message.range
        if named is None:
            return
        if wanted is None or isinstance(wanted, Unfiltered):
            wanted = AbsoluteRange(WireLocation(0, 0))
        if isinstance(wanted, NextObject):
            exchange.refuse(Refusal.INVALID_RANGE, "it is not there yet")
            return
        fetch = exchange.handler = FetchAnswer(self._ietf, self, exchange, named, message.params)
        if isinstance(wanted, RelativeGroup):
            fetch.begin_back(wanted.back)
            return
        if wanted.end_group is None and message.params.order is GroupOrder.DESCENDING:
            fetch.begin_back(MAX_VARINT, wanted.start)
            return
        end = (MAX_VARINT, None) if wanted.end_group is None else (wanted.end_group, wanted.end_object)
        fetch.begin(wanted.start, end)

    def _on_joining_fetch(self, exchange: Exchange, message: JoiningFetch) -> None:
        found = (d for d in self._deliveries.values() if d.exchange.id == message.subscribe_id)
        delivery = next(found, None)
        if delivery is None:
            exchange.refuse(Refusal.BAD_JOINING_ID, "no such subscription")
            return
        priority = 255 - delivery.info.priority
        fetch = FetchAnswer(self._ietf, self, exchange, delivery.named, message.params, priority)
        exchange.handler = fetch
        delivery.join(fetch, message.start, relative=message.relative)

    def _on_interest(self, exchange: Exchange, message: SubscribeNamespace) -> None:
        core = self._ietf
        prefix = path_of(message.prefix)
        if message.interest is Interest.TRACKS:
            self._on_tracks(exchange, message.prefix)
        else:
            request = core.new_request()
            if core.profile.namespace_streams:
                writer = NamespaceWriter(core, self, request, prefix, exchange)
            else:
                writer = RequestingWriter(core, self, request, prefix, exchange, self._namespaces)
            exchange.handler = writer
            self._writers[request] = writer
            core.emit(AnnounceRequested(request, prefix, 0))
            if message.interest is Interest.BOTH or not core.profile.namespace_streams:
                writer.tracks = core.new_request()
                core.emit(TracksRequested(writer.tracks, prefix))
                self._tracks[writer.tracks] = {}

    def change_prefix(self, writer: NamespaceWriter, prefix: str) -> None:
        """A new request, which `writer.begin` answers."""
        core = self._core
        self._writers.pop(writer.request, None)
        core.emit(RequestCancelled(writer.request, None))
        writer.request = core.new_request()
        self._writers[writer.request] = writer
        core.emit(AnnounceRequested(writer.request, prefix, 0))

    def _on_tracks(self, exchange: Exchange, prefix: TrackNamespace) -> None:
        request = self._core.new_request()
        self._tracks[request] = {}
        exchange.handler = self._unanswered[request] = TracksInterest(self, request, exchange)
        self._core.emit(TracksRequested(request, path_of(prefix)))

    def accept(self, request: int, largest: Location | None = None) -> None:
        interest = self._unanswered.pop(request, None)
        if interest is not None:
            interest.exchange.ok()
        else:
            super().accept(request, largest)

    # --- tracks that others offer, and we to the peer

    def offer_track(self, request: int, path: str, track: str, *, offered: bool) -> None:
        tracks = self._tracks.get(request)
        if tracks is None or not fits(path, track, self._ietf.profile):
            return
        if offered and (path, track) not in tracks:
            question = self._core.new_request()
            tracks[path, track] = self._offering[question] = TrackOffer(path, track)
            self._core.emit(InfoRequested(question, path, track))
        elif not offered and (offer := tracks.pop((path, track), None)) is not None:
            self._withdraw(offer)

    def _publish(self, offer: TrackOffer, info: TrackProperties) -> None:
        """The answer begins a subscription of the peer."""
        core = self._ietf
        request = core.new_request()
        namespace, name = namespace_of(offer.path), offer.track.encode()
        properties = properties_of(info) if core.profile.track_properties else ()
        exchange = self._exchanges.ask(
            lambda number: Publish(number, namespace, name, number, Parameters(forward=True), properties),
            NO_HANDLER,
        )
        delivery = OfferedDelivery(core, self, request, NO_PARAMETERS, exchange, self._ranks)
        delivery.named = offer.path, offer.track
        delivery.describe(info)
        offer.delivery = self._deliveries[request] = delivery

    def end_interest(self, request: int) -> None:
        """Tracks that the peer takes continue."""
        self._unanswered.pop(request, None)
        tracks = self._tracks.pop(request, None)
        if tracks is not None:
            for offer in tracks.values():
                self._withdraw(offer)
            self._core.emit(RequestCancelled(request, None))

    def _withdraw(self, offer: TrackOffer) -> None:
        """The track is not to be offered any more. A subscription that has begun goes on."""
        question = next((number for number, asked in self._offering.items() if asked is offer), None)
        if question is not None:
            del self._offering[question]
            self._core.emit(RequestCancelled(question, None))
        if offer.delivery is not None and not offer.delivery.over and not offer.delivery.begun:
            super().reject(offer.delivery.request, StreamCode.CANCELLED)

    # --- answers

    def send_info(self, request: int, properties: TrackProperties, largest: Location | None = None) -> None:
        status = self._statuses.pop(request, None)
        if status is not None:
            kept = properties_of(properties) if self._ietf.profile.track_properties else ()
            where = None if largest is None else WireLocation(*largest)
            status.ok(Parameters(largest=where, **self._fixed()), properties=kept)
            status.finish()
        offer = self._offering.pop(request, None)
        if offer is not None:
            self._publish(offer, properties)
        fetch = self._fetches.get(request)
        if fetch is not None:
            fetch.located(largest)
        delivery = self._asking.pop(request, None)
        if delivery is not None:
            delivery.describe(properties)
            self._core.emit(SubscribeRequested(delivery.request, *delivery.named, delivery.wanted))

    def _fixed(self) -> dict[str, Any]:
        """The fields of an answer about a track, where the draft has them."""
        fixed = self._ietf.profile.fixed_fields
        return {"expires": 0, "order": GroupOrder.DESCENDING} if fixed else {}

    def reject(self, request: int, code: int) -> None:
        status = self._statuses.pop(request, None)
        if status is not None:
            status.error(code)
        if self._offering.pop(request, None) is not None:
            return
        tracks = self._tracks.pop(request, None)
        if tracks is not None:
            for offer in tracks.values():
                self._withdraw(offer)
            interest = self._unanswered.pop(request, None)
            if interest is not None:
                interest.exchange.error(code)
            return
        fetch = self._fetches.get(request)
        if fetch is not None:
            fetch.missing(code)
            return
        self._end_tracks(request)
        delivery = self._asking.pop(request, None)
        if delivery is None:
            super().reject(request, code)
        elif code in MISSING and delivery.patient_until > self._core.now:
            self._await(delivery)
        else:
            super().reject(delivery.request, code)

    # --- subscriptions that wait for their publisher

    def _await(self, delivery: IetfDelivery) -> None:
        request = self._core.new_request()
        waiting = self._awaiting[delivery.request] = Rendezvous(self, request, delivery)
        self._writers[request] = waiting
        self._core.emit(AnnounceRequested(request, delivery.named[0], 0))

    def came(self, waiting: Rendezvous) -> None:
        """The broadcast is announced."""
        self._end_wait(waiting.delivery)
        self._ask(waiting.delivery)

    def gave_up(self, waiting: Rendezvous, code: int) -> None:
        self._end_wait(waiting.delivery)
        super().reject(waiting.delivery.request, code)

    def _end_wait(self, delivery: IetfDelivery) -> None:
        waiting = self._awaiting.pop(delivery.request, None)
        if waiting is not None and self._writers.pop(waiting.request, None) is not None:
            self._core.emit(RequestCancelled(waiting.request, None))

    def deadline(self) -> float:
        waiting = [waiting.delivery.patient_until for waiting in self._awaiting.values()]
        return min((super().deadline(), *waiting))

    def on_time(self, now: float) -> None:
        super().on_time(now)
        for waiting in [w for w in self._awaiting.values() if w.delivery.patient_until <= now]:
            self.gave_up(waiting, StreamCode.CONTROL_TIMEOUT)

    def cancelled(self, request: int, code: int | None) -> None:
        question = next((number for number, asked in self._asking.items() if asked.request == request), None)
        if question is not None:
            del self._asking[question]
            self._core.emit(RequestCancelled(question, code))
        if (waiting := self._awaiting.get(request)) is not None:
            self._end_wait(waiting.delivery)
        fetch = self._fetches.get(request)
        if fetch is not None:
            fetch.on_left(StreamCode.CANCELLED if code is None else code)
        if self._statuses.pop(request, None) is not None:
            self._core.emit(RequestCancelled(request, code))
        self._end_tracks(request)
        super().cancelled(request, code)

    def _end_tracks(self, request: int) -> None:
        """End the tracks of an interest in namespaces that is for tracks, too."""
        writer = self._writers.get(request)
        if isinstance(writer, NamespaceWriter) and writer.tracks:
            self.end_interest(writer.tracks)

    # --- fetches

    def track_fetch(self, request: int, fetch: FetchAnswer) -> None:
        self._fetches[request] = fetch

    def fetch_over(self, request: int) -> None:
        self._fetches.pop(request, None)

    def fetch_rank(self) -> int:
        return self._ranks.fresh()

    def wrote(self, stream: Stream, request: int, size: int) -> None:
        self._keep_account(stream, request, size)

    def send_fetched(
        self, request: int, chunks: tuple[Any, ...], *, fin: bool, largest: Location | None = None
    ) -> None:
        fetch = self._fetches.get(request)
        if fetch is not None:
            fetch.take(chunks, fin=fin, largest=largest)

    # --- our broadcasts

    def offer(self, path: str, offer: Offer | None) -> None:
        """A client announces without being asked."""
        super().offer(path, offer)
        if not self._core.session.is_client or not path:
            return
        if offer is None and path in self._offered:
            self._offered.discard(path)
            self._namespaces.release(path)
        elif offer is not None and path not in self._offered:
            self._offered.add(path)
            self._namespaces.hold(path)


class Questioner(RequestHandler):
    """TRACK_STATUS of the peer."""

    def __init__(self, owner: IetfServing, request: int) -> None:
        self._owner = owner
        self._request = request

    def on_left(self, code: int) -> None:
        self._owner.cancelled(self._request, code)
